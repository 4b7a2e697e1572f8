import math
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from geonb.geo import great_circle_km
from geonb.losses import (
    Space,
    clamped_scale,
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


def exchanged(space):
    """Anchors and candidates exchanged."""
    if space is None or space.candidates is None:
        return space
    return Space(space.candidates, space.anchors, space.exclude_km, space.soft_km)


def plain_info_nce(a, b, s, space=None, symmetric=True):
    there = one_softmax((lambda i, j: s * (a[i] @ b[j]), len(a), len(b)), space)
    if not symmetric:
        return there
    back = one_softmax((lambda i, j: s * (b[i] @ a[j]), len(b), len(a)), exchanged(space))
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


def plain_sup_con(z, labels, s, space=None):
    km, n, terms = None if space is None else distances(space), len(z), []
    for i in range(n):
        others = [j for j in range(n) if j != i]
        if labels[i] not in labels[others]:
            continue
        alike = [labels[j] == labels[i] for j in range(n)]
        inside = [j for j in others if alike[j] or space is None or not 0 < space.exclude_km >= km[i, j]]
        everything = sum(torch.exp(s * (z[i] @ z[j])) for j in inside)
        soft = space.soft_km if space is not None else 0
        q = {j: 1.0 if alike[j] else wendland(km[i, j], soft) if soft else 0.0 for j in others}
        logs = sum(q[j] * torch.log(torch.exp(s * (z[i] @ z[j])) / everything) for j in others)
        terms.append(-logs / sum(q.values()))
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
        lambda z, km: plain_sup_con(z, LABELS, 6.0, places(N, **km)),
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
    lambda z, km, chunk: nt_xent_fused(
        z, PRESENT, PAIR_SCALES.to(z.dtype if z.dtype.itemsize > 2 else torch.float32), places(N, **km), chunk=chunk
    ),
    lambda z, km: plain_fused(z, PRESENT, PAIR_SCALES, places(N, **km)),
    (unit(3, N, 5),),
)
every_loss = pytest.mark.parametrize("name", LOSSES)
steady_loss = pytest.mark.parametrize("name", [name for name in LOSSES if name != "symile, shuffled"])
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


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@every_loss
def test_no_step_of_the_backward_pass_is_nan_where_a_block_leaves_a_whole_column_out(name):
    loss, _, inputs = LOSSES[name]
    with torch.autograd.set_detect_anomaly(True):
        value_and_gradient(lambda *x: loss(*x, km={"exclude_km": 30000.0}, chunk=1), *inputs)


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


# Golden numbers: closed forms, and the formulas computed once with 40 digits (mpmath).


def test_closed_forms():
    two = torch.eye(2, dtype=torch.float64)
    assert info_nce(two, two, 1.0).item() == pytest.approx(math.log(1 + math.exp(-1)), abs=1e-15)
    assert info_nce(two, two.flip(0), 2.0).item() == pytest.approx(math.log(1 + math.exp(2)), abs=1e-15)
    constant = torch.ones(8, 4, dtype=torch.float64) / 2
    assert info_nce(constant, constant, 10.0).item() == pytest.approx(math.log(8), abs=1e-14)
    assert geoclip(constant, constant, constant[:5], 10.0).item() == pytest.approx(math.log(13), abs=1e-14)
    everywhere = torch.ones(3, 8, dtype=torch.bool)
    fused = nt_xent_fused(constant.expand(3, 8, 4), everywhere, 10.0)
    assert fused.item() == pytest.approx(math.log(23), abs=1e-13)
    inside = nt_xent_fused(constant.expand(3, 8, 4), everywhere, 10.0, form="logsumexp", anchors="location")
    assert inside.item() == pytest.approx(math.log(8), abs=1e-13)
    assert sup_con(constant, torch.arange(8) // 2, 3.0).item() == pytest.approx(math.log(7), abs=1e-14)
    assert sigmoid(two, two, 10.0, -10.0).item() == pytest.approx(math.log(2) + math.log(1 + math.exp(-10)), abs=1e-14)
    assert symile(constant, constant, constant, 3.0).item() == pytest.approx(math.log(64), abs=1e-13)
    right = torch.eye(3, dtype=torch.float64)  # the volume of right angles is 1, the area between three tips √3 / 2
    tips = [right[[i]].expand(4, 3) for i in range(3)]
    assert gram(torch.stack(tips), 5.0).item() == pytest.approx(math.log(4), abs=1e-14)
    assert triangle(*tips, 5.0).item() == pytest.approx(math.log(4), abs=1e-14)
    assert sum(csp(two, two, two, two.flip(0)[:1], (1.0, 2.0, 3.0)).values()).item() == pytest.approx(
        math.log(1 + math.exp(-1)) + (math.log(1 + math.exp(-2)) + math.log(2)) / 2 + math.log(1 + math.exp(-3)),
        abs=1e-14,
    )


def golden_inputs(m, n=6, d=4):
    """Unit vectors out of sines, the same on every machine."""
    grid = torch.arange(1, m * n * d + 1, dtype=torch.float64).reshape(m, n, d)
    return F.normalize(torch.sin(grid * grid), dim=-1)


GOLDEN_PLACES = torch.tensor([[0, 0], [0, 5], [8, 5], [179, -3], [-178, 0], [-60, 80]], dtype=torch.float64)
GOLDEN = {
    "info_nce, plain": 4.0739007801507178,
    "info_nce, excluded": 3.8078304051304476,
    "info_nce, soft": 4.0960591083166981,
    "sigmoid": 5.1104875953229259,
    "fused, mean, all": 5.2763392904139303,
    "fused, mean, location": 4.7765159409795549,
    "fused, logsumexp, all": 4.0674298132834092,
    "fused, logsumexp, location": 3.8806258746551512,
    "symile": 4.2431635709707478,
    "gram": 2.8934696792545381,
    "triangle": 2.9033572367417079,
}


def test_golden_numbers():
    z, present = golden_inputs(3), torch.ones(3, 6, dtype=torch.bool)
    values = {
        "info_nce, plain": info_nce(z[0], z[1], 5.0),
        "info_nce, excluded": info_nce(z[0], z[1], 5.0, Space(GOLDEN_PLACES, exclude_km=1000.0)),
        "info_nce, soft": info_nce(z[0], z[1], 5.0, Space(GOLDEN_PLACES, soft_km=3000.0)),
        "sigmoid": sigmoid(z[0], z[1], 5.0, -3.0),
        "symile": symile(*z, 5.0),
        "gram": gram(z, 5.0),
        "triangle": triangle(*z, 5.0),
    }
    for form, anchors in product(("mean", "logsumexp"), ("all", "location")):
        values[f"fused, {form}, {anchors}"] = nt_xent_fused(z, present, 5.0, None, form, anchors)
    assert {name: value.item() for name, value in values.items()} == pytest.approx(GOLDEN, rel=1e-13)


# Oracles: other people's code, value and gradients.


def test_nt_xent_info_nce_and_sup_con_are_those_of_pytorch_metric_learning():
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    a, b = unit(24, 8), unit(24, 8, seed=1)
    two_ways = losses.SelfSupervisedLoss(losses.NTXentLoss(temperature=0.1))
    one_way = losses.SelfSupervisedLoss(losses.NTXentLoss(temperature=0.1), symmetric=False)
    supervised = losses.SupConLoss(temperature=0.1)
    present, labels = torch.ones(2, 24, dtype=torch.bool), torch.arange(24) % 5

    def normal(x):  # the reference normalises inside, gradients too
        return F.normalize(x, dim=-1)

    for chunk in (0, 7):
        fused = lambda x, y, c=chunk: nt_xent_fused(normal(torch.stack([x, y])), present, 10.0, chunk=c)  # noqa: E731
        assert_same(fused, two_ways, a, b)
        assert_same(lambda x, y, c=chunk: info_nce(normal(x), normal(y), 10.0, None, False, c), one_way, a, b)
        assert_same(lambda x, c=chunk: sup_con(normal(x), labels, 10.0, chunk=c), lambda x: supervised(x, labels), a)


def test_nt_xent_is_that_of_lightly():
    ntx = pytest.importorskip("lightly.loss", exc_type=ImportError).NTXentLoss(temperature=0.1)
    present = torch.ones(2, 24, dtype=torch.bool)
    ours = lambda a, b: nt_xent_fused(F.normalize(torch.stack([a, b]), dim=-1), present, 10.0)  # noqa: E731
    assert_same(ours, ntx, unit(24, 8), unit(24, 8, seed=1))


def test_symmetric_info_nce_and_sigmoid_are_those_of_open_clip():
    theirs = pytest.importorskip("open_clip.loss", exc_type=ImportError)
    inputs = unit(24, 8), unit(24, 8, seed=1)
    assert_same(lambda a, b: info_nce(a, b, 10.0), lambda a, b: theirs.ClipLoss()(a, b, 10.0), *inputs)
    reference = theirs.SigLipLoss()
    assert_same(lambda a, b: sigmoid(a, b, 10.0, -10.0), lambda a, b: reference(a, b, 10.0, -10.0), *inputs)


def test_symile_is_that_of_its_authors():
    reference = pytest.importorskip("symile").Symile(negative_sampling="n_squared")
    inputs = unit(9, 8), unit(9, 8, seed=1), unit(9, 8, seed=2)
    assert_same(lambda x, y, z: symile(x, y, z, 6.0), lambda x, y, z: reference([x, y, z], 6.0), *inputs)

    reference = pytest.importorskip("symile").Symile()  # shuffles y and z for x, x and z for y, x and y for z

    def ours(x, y, z):
        return symile(x, y, z, 6.0, negatives="shuffled", generator=torch.Generator().manual_seed(3))

    def theirs(x, y, z):
        torch.manual_seed(3)
        return reference([x, y, z], 6.0)

    assert_same(ours, theirs, *inputs)


# Reductions of one loss to another.


def test_with_one_other_modality_the_fused_loss_is_info_nce():
    z, everywhere = unit(2, 9, 5), torch.ones(2, 9, dtype=torch.bool)
    for form, km in product(("mean", "logsumexp"), SPACES.values()):
        if form == "logsumexp" and "soft_km" in km:
            continue  # MIL-NCE sums soft positives inside the logarithm, InfoNCE outside
        space = Space(somewhere(9), **km)
        assert_same(
            lambda x, f=form, s=space: nt_xent_fused(x, everywhere, 5.0, s, f, "location"),
            lambda x, s=space: info_nce(x[0], x[1], 5.0, s, symmetric=False),
            z,
        )


def test_both_forms_agree_on_a_single_positive_and_logsumexp_lets_the_easy_modality_stand_for_all():
    z, present = unit(3, 9, 5), torch.ones(3, 9, dtype=torch.bool)
    assert nt_xent_fused(z, present, 5.0, form="logsumexp") < nt_xent_fused(z, present, 5.0, form="mean")
    z[1] = z[0]  # one modality is aligned, the other is noise: the logsumexp form no longer cares for it
    mean, inside = (
        value_and_gradient(lambda x, f=f: nt_xent_fused(x, present, 20.0, None, f, "location"), z)[1][0][2].norm()
        for f in ("mean", "logsumexp")
    )
    assert inside < 0.3 * mean


def test_the_fused_loss_is_sup_con_with_places_as_labels():
    z, present = unit(3, 8, 5), torch.ones(3, 8, dtype=torch.bool)
    labels = torch.arange(8).repeat(3)
    assert_same(lambda x: nt_xent_fused(x, present, 5.0), lambda x: sup_con(x.flatten(0, 1), labels, 5.0), z)


def test_a_queue_adds_negatives_only():
    a, b, queue = unit(4, 6), unit(4, 6, seed=1), unit(3, 6, seed=2)
    torch.testing.assert_close(geoclip(a, b, queue[:0], 5.0), info_nce(a, b, 5.0, symmetric=False))
    assert geoclip(a, b, queue, 5.0) > geoclip(a, b, queue[:1], 5.0) > info_nce(a, b, 5.0, symmetric=False)
    assert sigmoid(a, torch.cat([b, queue]), 5.0, 0.0) > sigmoid(a, b, 5.0, 0.0)


def test_each_images_own_random_places_are_shared_ones_if_all_draw_the_same():
    location, image, again, r = unit(4, 6), unit(4, 6, seed=1), unit(4, 6, seed=2), unit(3, 6, seed=3)
    shared = csp(location, image, again, r, (2.0, 3.0, 4.0))
    for chunk in (0, 3):
        own = csp(location, image, again, r.expand(4, 3, 6), (2.0, 3.0, 4.0), chunk=chunk)
        for term in ("batch", "random", "dropout"):
            torch.testing.assert_close(own[term], shared[term])


# What must not matter.


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10_000), st.integers(2, 4), st.integers(2, 7), st.sampled_from(list(SPACES)),
    st.sampled_from(["mean", "logsumexp"]), st.sampled_from(["all", "location"]), st.integers(0, 4),
)  # fmt: skip
def test_absent_rows_change_nothing_whatever_they_hold(seed, m, n, space, form, anchors, chunk):
    generator = torch.Generator().manual_seed(seed)
    z, lonlat = unit(m, n, 4, seed=seed), somewhere(n, seed)
    present = torch.rand(m, n, generator=generator) < 0.6
    garbage = torch.where(present[..., None], z, torch.nan)

    def loss(x, has, where, c=0):
        return nt_xent_fused(x, has, 3.0, Space(where, **SPACES[space]), form, anchors, c)

    expected, (clean,) = value_and_gradient(lambda x: loss(x, present, lonlat), z)
    value, (gradient,) = value_and_gradient(lambda x: loss(x, present, lonlat, chunk), garbage)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradient, clean, rtol=1e-10, atol=1e-12)
    assert (gradient[~present] == 0).all()

    order, some = torch.randperm(n, generator=generator), present.any(0)
    torch.testing.assert_close(loss(z[:, order], present[:, order], lonlat[order]), expected)
    torch.testing.assert_close(loss(z[:, some], present[:, some], lonlat[some]), expected)
    if anchors == "all":
        kinds = torch.randperm(m, generator=generator)
        torch.testing.assert_close(loss(z[kinds], present[kinds], lonlat), expected)


@every_space
@steady_loss
def test_the_order_of_places_does_not_matter(name, space):
    loss, km = LOSSES[name][0], SPACES[space]
    order = torch.randperm(N, generator=torch.Generator().manual_seed(5))
    lonlat, inputs = somewhere(N), LOSSES[name][2]
    axis = [next(i for i, size in enumerate(x.shape) if size == N) if N in x.shape else None for x in inputs]
    moved = [x if i is None else x.index_select(i, order) for x, i in zip(inputs, axis, strict=True)]
    with pytest.MonkeyPatch.context() as patch:
        further = {"geoclip": 3, "csp": 4}.get(name, 0)
        rest = somewhere(N + further)
        rest[:N] = lonlat
        patch.setitem(globals(), "somewhere", lambda n: rest[:n])
        expected = loss(*inputs, km=km, chunk=0)
        shuffled = torch.cat([rest[:N][order], rest[N:]])
        patch.setitem(globals(), "somewhere", lambda n: shuffled[:n])
        patch.setitem(globals(), "PRESENT", PRESENT[:, order])
        patch.setitem(globals(), "DRAWN", DRAWN[order])
        patch.setitem(globals(), "LABELS", LABELS[order])
        torch.testing.assert_close(loss(*moved, km=km, chunk=0), expected)
        torch.testing.assert_close(loss(*moved, km=km, chunk=2), expected)


def test_nothing_present_is_exactly_zero_with_zero_gradient():
    empty, scale = unit(1, 4)[:0], torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    nowhere = Space(torch.zeros(0, 2), exclude_km=10.0)
    for loss in (
        lambda x: info_nce(x, x, scale, nowhere),
        lambda x: geoclip(x, x, unit(3, 4), scale),
        lambda x: sum(csp(x, x, x, unit(3, 4), [scale] * 3).values()),
        lambda x: sigmoid(x, x, scale, scale),
        lambda x: sup_con(x, torch.zeros(0, dtype=torch.long), scale),
        lambda x: symile(x, x, x, scale),
        lambda x: gram(torch.stack([x, x]), scale),
        lambda x: triangle(x, x, x, scale),
    ):
        value, (gradient,) = value_and_gradient(loss, empty)
        assert value == 0 and gradient.shape == (0, 4)
    absent, z = torch.zeros(3, 5, dtype=torch.bool), unit(3, 5, 4)
    alone = absent.clone()
    alone[1] = True
    nobody = torch.full((5,), -1)
    for loss in (
        lambda x: nt_xent_fused(x, absent, scale, chunk=2),
        lambda x: nt_xent_fused(x, alone, scale, Space(somewhere(5), exclude_km=500.0)),
        lambda x: nt_xent_fused(x, alone, scale * PAIR_SCALES, anchors="location"),
        lambda x: melt(x[0], x[1:], nobody, scale),
        lambda x: sup_con(x[0], torch.arange(5), scale),
    ):
        value, (gradient,) = value_and_gradient(loss, z)
        assert value == 0 and (gradient == 0).all()
    assert scale.grad == 0


# What distance means.


def test_distances_are_great_circles_right_for_near_points():
    east = 10 + 1e-8  # by 0.7 mm
    lonlat = [[10.0, 50.0], [east, 50.0], [10.0, 50.0], [179.9, 10.0], [-179.9, 10.0], [0.0, 90.0], [77.0, 90.0]]
    lonlat = torch.tensor(lonlat, dtype=torch.float64)
    km = great_circle_km(lonlat[:, None].numpy(), lonlat[None].numpy())
    apart = [d * factor for d in np.unique(km[km > 1]) for factor in (1 - 1e-9, 1 + 1e-9)]
    for radius in (1e-7, 1e-6, *apart, 30000.0):
        near = Space(lonlat, exclude_km=radius).near(slice(0, 7)).numpy()
        assert (near == (km <= radius)).all()
    kernel = Space(lonlat, soft_km=6000.0).kernel(slice(2, 5)).numpy()
    expected = [[wendland(d, 6000.0) for d in row] for row in km[2:5]]
    assert abs(kernel - expected).max() < 1e-12
    assert not Space(lonlat, exclude_km=5.0).excluded(slice(0, 7)).diagonal().any()


def test_parts_of_a_space():
    lonlat, other = somewhere(6), somewhere(9, seed=1)
    space, rows = Space(lonlat, other, soft_km=3000.0), slice(0, None)
    kernel = space.kernel(rows)
    torch.testing.assert_close(exchanged(space).kernel(rows), kernel.T)
    has, columns = torch.arange(6) % 2 == 0, torch.tensor([4, 0, 8])
    torch.testing.assert_close(space.keep(has, columns).kernel(rows), kernel[has][:, columns])
    own = Space(lonlat, soft_km=3000.0)
    assert own.keep(has).candidates is None
    torch.testing.assert_close(own.keep(has).kernel(rows), own.kernel(rows)[has][:, has])


def test_coincident_places_are_not_pushed_apart():
    """Places 0 and 1 coincide. Anchor 0 pushes the target of 1 away, unless excluded; or draws it as its own."""
    a, b = unit(1, 6), unit(5, 6, seed=1)
    b[1] = b[0]
    lonlat = somewhere(5)

    def pull(**km):
        space = Space(lonlat[:1], lonlat, **km)
        return value_and_gradient(lambda x: info_nce(a, x, 5.0, space, symmetric=False), b)[1][0]

    plain, excluded, soft = pull(), pull(exclude_km=1e-3), pull(soft_km=1e-3)
    assert plain[0] @ a[0] < 0 < plain[1] @ a[0]
    assert (excluded[1] == 0).all() and excluded[0] @ a[0] < 0
    torch.testing.assert_close(soft[0], soft[1], rtol=1e-12, atol=1e-15)


def test_under_soft_targets_coincident_places_may_exchange_what_they_have():
    other = [1, 0, *range(2, N)]
    for name in ("info_nce", "info_nce, one way", "geoclip", "sigmoid", "symile"):
        loss, _, (a, b, *rest) = LOSSES[name]
        for km, equal in ((SOFT, True), (EXCLUDED, False), ({}, False)):
            same, exchanged = loss(a, b, *rest, km=km, chunk=0), loss(a, b[other], *rest, km=km, chunk=0)
            assert equal == torch.isclose(same, exchanged, rtol=1e-12), (name, km)
    z, everywhere, space = unit(3, N, 5), torch.ones(3, N, dtype=torch.bool), Space(somewhere(N), **SOFT)
    exchanged = torch.stack([z[0], z[1][other], z[2]])
    for form, anchors in product(("mean", "logsumexp"), ("all", "location")):
        same, again = (nt_xent_fused(x, everywhere, 5.0, space, form, anchors) for x in (z, exchanged))
        torch.testing.assert_close(same, again, rtol=1e-12, atol=0)


@pytest.mark.parametrize("km", [EXCLUDED, SOFT], ids=["excluded", "soft"])
@steady_loss
def test_coincident_places_with_equal_embeddings_get_equal_gradients(name, km):
    loss, _, inputs = LOSSES[name]
    equal = []
    for x in inputs:
        x = x.clone()
        if N in x.shape:
            x.movedim(x.shape.index(N), 0)[1] = x.movedim(x.shape.index(N), 0)[0]
        equal.append(x)
    with pytest.MonkeyPatch.context() as patch:
        for known in ("PRESENT", "LABELS", "DRAWN"):
            values = globals()[known].clone()
            values[..., 1] = values[..., 0]
            patch.setitem(globals(), known, values)
        _, gradients = value_and_gradient(lambda *x: loss(*x, km=km, chunk=0), *equal)
    for g in gradients:
        if N in g.shape:
            g = g.movedim(g.shape.index(N), 0)
            torch.testing.assert_close(g[1], g[0], rtol=1e-10, atol=1e-14)


def test_everything_within_reach_leaves_no_negatives():
    z, space = unit(5, 4), Space(somewhere(5), exclude_km=30000.0)
    assert info_nce(z, unit(5, 4, seed=1), 7.0, space).abs() < 1e-14
    for form in ("mean", "logsumexp"):
        fused = nt_xent_fused(torch.stack([z, z]), torch.ones(2, 5, dtype=torch.bool), 7.0, space, form, "location")
        assert fused.abs() < 1e-14


# Temperature, precision, memory, errors.


def test_the_clamped_scale_comes_back_from_its_bound():
    log_scale = torch.tensor([0.0, math.log(100.0), 5.0, 5.0], dtype=torch.float64, requires_grad=True)
    scale = clamped_scale(log_scale)
    torch.testing.assert_close(scale, torch.tensor([1.0, 100, 100, 100], dtype=torch.float64))
    (scale * torch.tensor([1.0, 1, 1, -1])).sum().backward()
    torch.testing.assert_close(log_scale.grad, torch.tensor([1.0, 100, 100, 0], dtype=torch.float64))
    assert clamped_scale(torch.tensor(3.0), maximum=10.0) == pytest.approx(10.0)


@every_loss
def test_single_precision_stays_near_double_at_the_highest_scale(name):
    loss, _, inputs = LOSSES[name]
    single = [x.float() for x in inputs]
    expected = loss(*(x.double() for x in single), km=SOFT, chunk=0)
    value = loss(*single, km=SOFT, chunk=3)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-5)


def test_a_learned_scale_gets_the_same_gradient_in_chunks():
    a, b, s = unit(9, 5), unit(9, 5, seed=1), torch.tensor(4.0, dtype=torch.float64)
    bias, z = torch.tensor(-2.0, dtype=torch.float64), unit(3, N, 5)
    space = Space(somewhere(9), exclude_km=900.0)
    assert_same(lambda *x: info_nce(*x, space), lambda *x: info_nce(*x, space, chunk=4), a, b, s)
    assert_same(lambda *x: sigmoid(*x, space), lambda *x: sigmoid(*x, space, chunk=4), a, b, s, bias)
    assert_same(lambda *x: gram(*x), lambda *x: gram(*x, chunk=4), z, s)
    assert_same(
        lambda x, p: nt_xent_fused(x, PRESENT, p), lambda x, p: nt_xent_fused(x, PRESENT, p, chunk=4), z, PAIR_SCALES
    )


@pytest.mark.parametrize("km", SPACES.values(), ids=SPACES)
def test_no_square_matrix_is_kept_in_chunks(km):
    """What autograd keeps between forward and backward grows with n, not with its square."""

    def kept(n, chunk):
        total = 0

        def count(x):
            nonlocal total
            total += x.numel()
            return x

        z, space = unit(2, n, 8).requires_grad_(), Space(somewhere(n), **km)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            info_nce(z[0], z[1], 5.0, space, chunk=chunk)
            nt_xent_fused(z, torch.ones(2, n, dtype=torch.bool), 5.0, space, chunk=chunk)
        return total

    assert kept(256, 0) > 256**2
    assert kept(256, 64) < 60 * 256 and kept(512, 128) < 2.2 * kept(256, 64)


def test_wrong_inputs_are_refused():
    a, b = unit(3, 4), unit(5, 4)
    here, two, has = somewhere(3), torch.stack([a, a]), torch.ones(2, 3, dtype=torch.bool)
    for call, message in (
        (lambda: Space(here, exclude_km=-1.0), "at least 0 km"),
        (lambda: Space(here, soft_km=float("nan")), "at least 0 km"),
        (lambda: Space(here, exclude_km=1.0, soft_km=1.0), "set one of"),
        (lambda: info_nce(a, b, 1.0), "one direction only"),
        (lambda: info_nce(b, a, 1.0, symmetric=False), "row i must belong"),
        (lambda: sigmoid(b, a, 1.0, 0.0), "row i must belong"),
        (lambda: info_nce(a, b, 1.0, Space(here, exclude_km=5.0), symmetric=False), "positions of 3 and 3"),
        (lambda: geoclip(a, a, b, 1.0, Space(here, soft_km=5.0)), "queue"),
        (lambda: nt_xent_fused(two, has, 1.0, Space(somewhere(5), soft_km=5.0)), "positions of 5"),
        (lambda: info_nce(a, a, 1.0, chunk=-1), "number of rows"),
        (lambda: nt_xent_fused(two, has, 1.0, form="max"), "form is"),
        (lambda: nt_xent_fused(two, has, 1.0, anchors="text"), "anchors is"),
        (lambda: symile(a, a, a, 1.0, negatives="hard"), "negatives are"),
        (lambda: gram(a[None], 1.0), "at least two"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


# Where the losses of three and more are blind.


def test_gram_of_two_takes_opposite_for_aligned():
    z = torch.eye(4, 6, dtype=torch.float64)
    torch.testing.assert_close(gram(torch.stack([z, -z]), 20.0), gram(torch.stack([z, z]), 20.0))
    assert info_nce(z, -z, 20.0) > info_nce(z, z, 20.0) + 10


def test_gram_and_triangle_do_not_see_the_third_where_two_agree():
    x, elsewhere = unit(6, 8), unit(6, 8, seed=1)
    for loss in (lambda *tuple: gram(torch.stack(tuple), 100.0), lambda *tuple: triangle(*tuple, 100.0)):
        assert loss(x, x, elsewhere) < 1e-6 > loss(x, x, elsewhere.roll(1, 0))  # the optimum, whatever the third is
        _, (gradient,) = value_and_gradient(lambda third, f=loss: f(x, x, third), elsewhere)
        assert gradient.abs().max() < 1e-6  # and nothing draws it near
        for anchor in (x, elsewhere):  # where the two others agree, every place looks like a match
            assert loss(anchor, x, x).item() == pytest.approx(math.log(6), abs=1e-4)
    assert info_nce(x, elsewhere, 100.0) > 10


def test_symile_sees_what_only_three_together_tell():
    """z = x XOR y, in signs: any two are independent, the three determine each other."""
    bits = torch.tensor(list(product([1.0, -1.0], repeat=2)), dtype=torch.float64).repeat(2, 1)
    x, y = bits.unbind(1)
    z = x * y
    x, y, z = (F.normalize(torch.stack([v, v], 1), dim=1) for v in (x, y, z))
    for a, b in ((x, y), (x, z), (y, z)):
        shuffled = b[torch.randperm(8, generator=torch.Generator().manual_seed(0))]
        torch.testing.assert_close(info_nce(a, b, 1.0), info_nce(a, shuffled, 1.0), rtol=0.3, atol=0)
        # not better than chance, at any scale
        assert info_nce(a, b, 4.0) > math.log(8)
    assert symile(x, y, z, 4.0) < math.log(64) - 0.5
    torch.testing.assert_close(symile(-x, -y, z, 4.0), symile(x, y, z, 4.0))  # and its own blind spot: paired signs


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_volumes_have_finite_gradients_where_they_vanish(dtype):
    x = unit(4, 6, dtype=dtype)
    for inputs in ([x, x], [x, -x], [x, x, x], [x, x, -x], [x, x, x, unit(4, 6, seed=1, dtype=dtype)]):
        z = torch.stack(inputs)
        for chunk in (0, 3):
            _, (gradient,) = value_and_gradient(lambda v, c=chunk: gram(v, 100.0, chunk=c), z)
            assert gradient.isfinite().all() and gradient.abs().max() < 1e3
        if len(inputs) == 3:
            _, (gradient,) = value_and_gradient(lambda v: triangle(*v, 100.0), z)
            assert gradient.isfinite().all() and gradient.abs().max() < 1e3
