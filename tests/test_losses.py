from itertools import product

import pytest
import torch
import torch.nn.functional as F

from geonb._coords import great_circle_km
from geonb.losses import (
    Space,
    csp,
    geoclip,
    gram,
    info_nce,
    melt,
    nt_xent_fused,
    sigmoid,
    sup_con,
    symile,
    triangle,
)

SPACES = {"plain": {}, "excluded": {"exclude_km": 900.0}, "soft": {"soft_km": 2500.0}}
EXCLUDED, SOFT = SPACES["excluded"], SPACES["soft"]


def unit(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, dtype=torch.float64, generator=generator), dim=-1).to(dtype)


def somewhere(n, seed=0):
    """Positions of which some are near each other, two coincide (0 and 1), and one pair spans the antimeridian."""
    generator = torch.Generator().manual_seed(seed)
    lonlat = torch.rand(n, 2, dtype=torch.float64, generator=generator) * 30
    lonlat[1] = lonlat[0]
    if n > 3:
        lonlat[2:4] = torch.tensor([[179.9, 10.0], [-179.9, 10.0]], dtype=torch.float64)
    return lonlat


def value_and_gradient(loss, *inputs):
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    value = loss(*inputs)
    value.backward()
    return value.detach(), [x.grad for x in inputs]


def assert_same(ours, reference, *inputs, rtol=1e-10, atol=1e-12):
    (v, g), (w, h) = value_and_gradient(ours, *inputs), value_and_gradient(reference, *inputs)
    torch.testing.assert_close(v, w, rtol=rtol, atol=atol)
    for x, y in zip(g, h, strict=True):
        torch.testing.assert_close(x, y, rtol=rtol, atol=atol)


# The formulas, in loops over single numbers and with distances by the haversine formula.


def wendland(km, soft_km):
    r = min(km / soft_km, 1.0)
    return (1 - r) ** 4 * (4 * r + 1)


def distances(space):
    a = space.anchors.numpy()
    b = a if space.candidates is None else space.candidates.numpy()
    return great_circle_km(a[:, None], b[None])


def one_softmax(logits, space=None, own=lambda i: i):
    """Mean of the cross-entropies of rows, given a function of (i, k) and how many there are of each."""
    score, n, k = logits
    km = None if space is None else distances(space)
    total = 0.0
    for i in range(n):
        inside = [j for j in range(k) if j == own(i) or km is None or not 0 < space.exclude_km >= km[i, j]]
        total_exp = sum(torch.exp(score(i, j)) for j in inside)
        if space is not None and space.soft_km:
            q = [wendland(km[i, j], space.soft_km) for j in range(k)]
        else:
            q = [float(j == own(i)) for j in range(k)]
        total -= sum(q[j] / sum(q) * torch.log(torch.exp(score(i, j)) / total_exp) for j in range(k) if q[j])
    return total / n


def plain_info_nce(a, b, s, space=None, symmetric=True):
    there = one_softmax((lambda i, j: s * (a[i] @ b[j]), len(a), len(b)), space)
    if not symmetric:
        return there
    back = one_softmax((lambda i, j: s * (b[i] @ a[j]), len(b), len(a)), space and space.transposed)
    return (there + back) / 2


def plain_fused(z, present, scale, space=None, form="mean", anchors="all"):
    items = [(m, i) for m in range(z.shape[0]) for i in range(z.shape[1]) if present[m, i]]
    km = None if space is None else distances(space)
    terms = []
    for m, i in items:
        if anchors == "location" and m != 0:
            continue
        candidates = [c for c in items if c != (m, i) and (anchors == "all" or c[0] != 0)]
        if not any(j == i for _, j in candidates):
            continue

        def s(k, j, m=m, i=i):
            return (scale if isinstance(scale, float) else scale[m, k]) * (z[m, i] @ z[k, j])

        def w(j, i=i):
            return wendland(km[i, j], space.soft_km) if space and space.soft_km else float(j == i)

        inside = [(k, j) for k, j in candidates if j == i or not space or not 0 < space.exclude_km >= km[i, j]]
        all_of_them = sum(torch.exp(s(k, j)) for k, j in inside)
        if form == "mean":
            weights = sum(w(j) for _, j in candidates)
            terms.append(-sum(w(j) * torch.log(torch.exp(s(k, j)) / all_of_them) for k, j in candidates) / weights)
        else:
            terms.append(-torch.log(sum(w(j) * torch.exp(s(k, j)) for k, j in candidates) / all_of_them))
    return sum(terms) / len(terms)


def plain_sigmoid(a, b, s, t, space=None):
    km = None if space is None else distances(space)
    total = 0.0
    for i, j in product(range(len(a)), range(len(b))):
        if i != j and space is not None and 0 < space.exclude_km >= km[i, j]:
            continue
        y = wendland(km[i, j], space.soft_km) if space is not None and space.soft_km else float(i == j)
        x = s * (a[i] @ b[j]) + t
        total -= y * torch.log(torch.sigmoid(x)) + (1 - y) * torch.log(torch.sigmoid(-x))
    return total / len(a)


def plain_symile(x, y, z, s, space=None):
    n, total = len(x), 0.0
    km = None if space is None else distances(space)
    for a, b, c in ((x, y, z), (y, x, z), (z, x, y)):
        for i in range(n):
            logit = {(j, k): s * (a[i] * b[j] * c[k]).sum() for j, k in product(range(n), repeat=2)}
            far = [
                (j, k) for j, k in logit
                if j == k == i or space is None or not (0 < space.exclude_km >= max(km[i, j], km[i, k]))
            ]  # fmt: skip
            q = {(i, i): 1.0}
            if space is not None and space.soft_km:
                q = {(j, k): wendland(km[i, j], space.soft_km) * wendland(km[i, k], space.soft_km) for j, k in logit}
            everything = sum(torch.exp(logit[p]) for p in far)
            total -= sum(q[p] * torch.log(torch.exp(logit[p]) / everything) for p in q) / sum(q.values())
    return total / (3 * n)


def plain_volumes(measure, anchor, others, s, space=None):
    def score(i, j):
        return -s * measure(anchor[i], *(other[j] for other in others))

    n = len(anchor)
    back = one_softmax((lambda i, j: score(j, i), n, n), space)
    return (one_softmax((score, n, n), space) + back) / 2


def volume(*vectors):
    matrix = torch.stack(vectors)
    return torch.linalg.det(matrix @ matrix.T).sqrt()


def area(x, y, z):
    u, v = x - y, x - z
    return 0.5 * ((u @ u) * (v @ v) - (u @ v) ** 2).sqrt()


N = 7
PRESENT = torch.tensor([[1, 1, 1, 1, 0, 1, 1], [1, 0, 1, 1, 1, 0, 1], [0, 1, 1, 1, 0, 0, 1]], dtype=torch.bool)
DRAWN = torch.tensor([0, 1, 1, 0, -1, 1, 0])
LABELS = torch.tensor([7, -2, 7, 7, 3, -2, 0])
PAIR_SCALES = torch.linspace(2, 6, 9, dtype=torch.float64).reshape(3, 3)


def places(n, further=0, **km):
    lonlat = somewhere(n + further)
    return Space(lonlat[:n], lonlat if further else None, **km) if km else None


def random_term(v, own, elsewhere, s, space):
    """CSP's contrast with random places: column 0 is the own place."""
    km = None if space is None else distances(space)
    n, r = len(v), len(elsewhere)
    score = lambda i, j: s * (v[i] @ (own[i] if j == 0 else elsewhere[j - 1]))  # noqa: E731
    total = 0.0
    for i in range(n):
        out = [j for j in range(1, r + 1) if space is not None and 0 < space.exclude_km >= km[i, n + j - 1]]
        q = [1.0] + [0.0] * r
        if space is not None and space.soft_km:
            q = [1.0] + [wendland(km[i, n + j], space.soft_km) for j in range(r)]
        everything = sum(torch.exp(score(i, j)) for j in range(r + 1) if j not in out)
        total -= sum(q[j] * torch.log(torch.exp(score(i, j)) / everything) for j in range(r + 1)) / sum(q)
    return total / n


def plain_csp(location, image, again, elsewhere, scales, space):
    near = None if space is None else Space(space.anchors, None, space.exclude_km, space.soft_km)
    return (
        plain_info_nce(location, image, scales[0], near, symmetric=False)
        + random_term(image, location, elsewhere, scales[1], space)
        + plain_info_nce(location, again, scales[2], near, symmetric=False)
    )


# name: (loss of inputs, space's options and chunk; the same in loops; inputs)
LOSSES = {
    "info_nce": (
        lambda a, b, km, chunk: info_nce(a, b, 7.0, places(N, **km), chunk=chunk),
        lambda a, b, km: plain_info_nce(a, b, 7.0, places(N, **km)),
        (unit(N, 5), unit(N, 5, seed=1)),
    ),
    "info_nce, one way": (
        lambda a, b, km, chunk: info_nce(a, b, 7.0, places(N, **km), symmetric=False, chunk=chunk),
        lambda a, b, km: plain_info_nce(a, b, 7.0, places(N, **km), symmetric=False),
        (unit(N, 5), unit(N, 5, seed=1)),
    ),
    "geoclip": (
        lambda a, b, q, km, chunk: geoclip(a, b, q, 5.0, places(N, 3, **km), chunk=chunk),
        lambda a, b, q, km: plain_info_nce(a, torch.cat([b, q]), 5.0, places(N, 3, **km), symmetric=False),
        (unit(N, 5), unit(N, 5, seed=1), unit(3, 5, seed=2)),
    ),
    "melt": (
        lambda p, x, km, chunk: melt(p, x, DRAWN, 5.0, places(N, **km), chunk=chunk),
        lambda p, x, km: plain_info_nce(
            p[DRAWN >= 0], torch.stack([x[m, i] for i, m in enumerate(DRAWN.tolist()) if m >= 0]), 5.0,
            Space(somewhere(N)[DRAWN >= 0], **km), symmetric=False,
        ),
        (unit(N, 5), unit(2, N, 5, seed=1)),
    ),
    "csp": (
        lambda *x, km, chunk: sum(csp(*x, (4.0, 3.0, 2.0), places(N, 4, **km), chunk=chunk).values()),
        lambda *x, km: plain_csp(*x, (4.0, 3.0, 2.0), places(N, 4, **km)),
        (unit(N, 5), unit(N, 5, seed=1), unit(N, 5, seed=2), unit(4, 5, seed=3)),
    ),
    "sigmoid": (
        lambda a, b, km, chunk: sigmoid(a, b, 4.0, -3.0, places(N, **km), chunk=chunk),
        lambda a, b, km: plain_sigmoid(a, b, 4.0, -3.0, places(N, **km)),
        (unit(N, 5), unit(N, 5, seed=1)),
    ),
    "sup_con": (
        lambda z, km, chunk: sup_con(z, LABELS, 6.0, places(N, **km), chunk=chunk),
        None,
        (unit(N, 5),),
    ),
    "symile": (
        lambda x, y, z, km, chunk: symile(x, y, z, 6.0, places(N, **km), chunk=chunk),
        lambda x, y, z, km: plain_symile(x, y, z, 6.0, places(N, **km)),
        (unit(N, 5), unit(N, 5, seed=1), unit(N, 5, seed=2)),
    ),
    "symile, shuffled": (
        lambda *x, km, chunk: symile(
            *x, 6.0, places(N, **km), "shuffled", torch.Generator().manual_seed(0), chunk=chunk
        ),
        None,
        (unit(N, 5), unit(N, 5, seed=1), unit(N, 5, seed=2)),
    ),
    "triangle": (
        lambda x, y, z, km, chunk: triangle(x, y, z, 6.0, places(N, **km), chunk=chunk),
        lambda x, y, z, km: plain_volumes(area, x, (y, z), 6.0, places(N, **km)),
        (unit(N, 5), unit(N, 5, seed=1), unit(N, 5, seed=2)),
    ),
}  # fmt: skip
for m in (2, 3, 4):
    LOSSES[f"gram of {m}"] = (
        lambda x, km, chunk: gram(x, 6.0, places(N, **km), chunk=chunk),
        lambda x, km: plain_volumes(volume, x[0], x[1:], 6.0, places(N, **km)),
        (unit(m, N, 6),),
    )
for form, anchors in product(("mean", "logsumexp"), ("all", "location")):
    LOSSES[f"fused, {form}, {anchors}"] = (
        lambda z, km, chunk, form=form, anchors=anchors: nt_xent_fused(
            z, PRESENT, 4.0, places(N, **km), form, anchors, chunk
        ),
        lambda z, km, form=form, anchors=anchors: plain_fused(z, PRESENT, 4.0, places(N, **km), form, anchors),
        (unit(3, N, 5),),
    )
LOSSES["fused, pair scales"] = (
    lambda z, km, chunk: nt_xent_fused(z, PRESENT, PAIR_SCALES.to(z.dtype if z.dtype.itemsize > 2 else torch.float32), places(N, **km), chunk=chunk),
    lambda z, km: plain_fused(z, PRESENT, PAIR_SCALES, places(N, **km)),
    (unit(3, N, 5),),
)
every_loss = pytest.mark.parametrize("name", LOSSES)
every_space = pytest.mark.parametrize("space", SPACES)


@every_space
@pytest.mark.parametrize("name", [name for name, (_, formula, _) in LOSSES.items() if formula])
def test_each_loss_is_its_formula_in_value_and_gradient(name, space):
    loss, formula, inputs = LOSSES[name]
    km = SPACES[space]
    assert_same(lambda *x: loss(*x, km=km, chunk=0), lambda *x: formula(*x, km=km), *inputs)


@every_space
@every_loss
def test_in_chunks_value_and_gradients_are_the_same(name, space):
    loss, _, inputs = LOSSES[name]
    km = SPACES[space]
    for chunk in (1, 3, N, 100):
        assert_same(lambda *x: loss(*x, km=km, chunk=0), lambda *x, c=chunk: loss(*x, km=km, chunk=c), *inputs)


@every_space
@every_loss
def test_gradients_agree_with_differences(name, space):
    loss, _, inputs = LOSSES[name]
    inputs = [x.clone().requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(lambda *x: loss(*x, km=SPACES[space], chunk=4), inputs, fast_mode=True)


@every_loss
def test_radius_zero_is_the_plain_loss(name):
    loss, _, inputs = LOSSES[name]
    zero = {"exclude_km": 0.0, "soft_km": 0.0}
    assert_same(lambda *x: loss(*x, km={}, chunk=0), lambda *x: loss(*x, km=zero, chunk=0), *inputs, rtol=0, atol=0)


@every_loss
def test_distances_matter_where_asked_for(name):
    loss, _, inputs = LOSSES[name]
    values = [loss(*inputs, km=km, chunk=0).item() for km in SPACES.values()]
    assert len(set(values)) == 3


@every_loss
def test_half_precision_is_computed_in_float32_whatever_autocast_says(name):
    loss, _, inputs = LOSSES[name]
    rounded = [x.bfloat16() for x in inputs]
    expected = loss(*(x.double() for x in rounded), km=EXCLUDED, chunk=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for chunk in (0, 3):
            value = loss(*rounded, km=EXCLUDED, chunk=chunk)
            assert value.dtype == torch.float32
            torch.testing.assert_close(value.double(), expected, rtol=2e-4, atol=1e-5)
