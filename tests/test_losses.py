"""Losses against their formulas in loops, pytorch-metric-learning, and what must not matter."""

import math
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from geonb.geo import great_circle_km
from geonb.losses import Space, csp, geoclip, info_nce, melt, nt_xent_fused, symile

SPACES = {"plain": {}, "excluded": {"exclude_km": 900.0}, "soft": {"soft_km": 2500.0}}


def unit(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, dtype=torch.float64, generator=generator), dim=-1).to(dtype)


def positions(n, seed=0):
    """Positions of which some are near each other, two coincide (0 and 1), and one pair spans the antimeridian."""
    lonlat = torch.rand(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 30
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


def distances(n, further=0):
    lonlat = positions(n + further).numpy()
    return great_circle_km(lonlat[:n, None], lonlat[None])


def cross_entropy(logit, positives, candidates, km, distance, inside=False):
    """Of one anchor; ``logit`` and ``distance`` are functions of a candidate."""
    weight = {c: float(c in positives) for c in candidates}
    if km.get("soft_km"):
        weight = {c: 1.0 if c in positives else wendland(distance(c), km["soft_km"]) for c in candidates}
    kept = [c for c in candidates if c in positives or not 0 < km.get("exclude_km", 0) >= distance(c)]
    everything = sum(torch.exp(logit(c)) for c in kept)
    if inside:
        return -torch.log(sum(weight[c] * torch.exp(logit(c)) for c in candidates) / everything)
    logs = sum(weight[c] * torch.log(torch.exp(logit(c)) / everything) for c in candidates)
    return -logs / sum(weight.values())


def one_way(a, b, s, km, where):
    """``where(i, j)`` is a distance in km."""
    terms = [
        cross_entropy(lambda j, i=i: s * (a[i] @ b[j]), [i], range(len(b)), km, lambda j, i=i: where(i, j))
        for i in range(len(a))
    ]
    return sum(terms) / len(terms)


def plain_info_nce(a, b, s, km, symmetric=True):
    where = distances(len(a), len(b) - len(a))
    there = one_way(a, b, s, km, lambda i, j: where[i, j])
    return (there + one_way(b, a, s, km, lambda i, j: where[j, i])) / 2 if symmetric else there


def plain_csp(location, image, second, random, s, km):
    n, r = len(location), len(random)
    where, terms = distances(n, r), []
    for i in range(n):
        candidates = [location[i], *random]
        logit = lambda c, i=i, z=candidates: 0.75 * s * (image[i] @ z[c])  # noqa: E731
        terms.append(cross_entropy(logit, [0], range(r + 1), km, lambda c, i=i: where[i, n + c - 1]))
    batch, dropout = (plain_info_nce(location, x, t, km, symmetric=False) for x, t in ((image, s), (second, 0.5 * s)))
    return batch + sum(terms) / n + dropout


def plain_melt(location, others, s, km):
    rows, where = [i for i, m in enumerate(DRAWN) if m >= 0], distances(N)
    x = torch.stack([others[DRAWN[i], i] for i in rows])
    return one_way(location[rows], x, s, km, lambda i, j: where[rows[i], rows[j]])


def plain_fused(z, s, km, form, anchors, present):
    items = [(m, i) for m in range(z.shape[0]) for i in range(z.shape[1]) if present[m, i]]
    where, terms = distances(z.shape[1]), []
    for m, i in items:
        if anchors == "location" and m != 0:
            continue
        candidates = [c for c in items if c != (m, i) and (anchors == "all" or c[0] != 0)]
        positives = [c for c in candidates if c[1] == i]
        if positives:
            logit = lambda c, a=z[m, i]: s * (a @ z[c])  # noqa: E731
            far = lambda c, i=i: where[i, c[1]]  # noqa: E731
            terms.append(cross_entropy(logit, positives, candidates, km, far, form == "logsumexp"))
    return sum(terms) / len(terms)


def plain_symile(x, y, z, s, km):
    n, where, terms = len(x), distances(len(x)), []
    for a, b, c in ((x, y, z), (y, x, z), (z, x, y)):
        for i in range(n):
            pairs = list(product(range(n), repeat=2))
            logit = {(j, k): s * (a[i] * b[j] * c[k]).sum() for j, k in pairs}
            near = [p for p in pairs if p == (i, i) or not 0 < km.get("exclude_km", 0) >= max(where[i, j] for j in p)]
            q = {p: float(p == (i, i)) for p in pairs}
            if km.get("soft_km"):
                q = {p: math.prod(wendland(where[i, j], km["soft_km"]) for j in p) for p in pairs}
            everything = sum(torch.exp(logit[p]) for p in near)
            terms.append(-sum(q[p] * torch.log(torch.exp(logit[p]) / everything) for p in q) / sum(q.values()))
    return sum(terms) / len(terms)


N = 7
PRESENT = torch.tensor([[1, 1, 1, 1, 0, 1, 1], [1, 0, 1, 1, 1, 0, 1], [0, 1, 1, 1, 0, 0, 1]], dtype=torch.bool)
DRAWN = [0, 1, 1, 0, -1, 1, 0]
SCALE = torch.tensor(5.0, dtype=torch.float64)
A, B, C = (unit(N, 5, seed=seed) for seed in range(3))


def places(km, further=0, first=0):
    """The space of N anchors and of as many candidates and some further ones, from the number ``first`` on."""
    lonlat = positions(N + further)
    return Space(lonlat[:N], lonlat[first:], **km) if km else None


# name: (loss of inputs, the distances that matter and chunk; the same in loops; inputs, the scale last)
LOSSES = {
    "info_nce": (
        lambda a, b, s, km, chunk=0: info_nce(a, b, s, places(km), chunk=chunk),
        lambda a, b, s, km: plain_info_nce(a, b, s, km),
        (A, B, SCALE),
    ),
    "geoclip": (
        lambda a, b, q, s, km, chunk=0: geoclip(a, b, q, s, places(km, 3), chunk=chunk),
        lambda a, b, q, s, km: plain_info_nce(a, torch.cat([b, q]), s, km, symmetric=False),
        (A, B, C[:3], SCALE),
    ),
    "csp": (
        lambda *x, km, chunk=0: sum(csp(*x[:4], (x[4], 0.75 * x[4], 0.5 * x[4]), places(km, 4, N), chunk=chunk).values()),
        lambda *x, km: plain_csp(*x, km),
        (A, B, C, unit(4, 5, seed=3), SCALE),
    ),
    "melt": (
        lambda p, x, s, km, chunk=0: melt(p, x, torch.tensor(DRAWN), s, places(km), chunk=chunk),
        lambda p, x, s, km: plain_melt(p, x, s, km),
        (A, unit(2, N, 5, seed=1), SCALE),
    ),
    "symile": (
        lambda x, y, z, s, km, chunk=0: symile(x, y, z, s, places(km), chunk=chunk),
        lambda x, y, z, s, km: plain_symile(x, y, z, s, km),
        (A, B, C, SCALE),
    ),
}
for form, anchors in product(("mean", "logsumexp"), ("all", "location")):
    LOSSES[f"fused {form} {anchors}"] = (
        lambda z, s, km, chunk=0, form=form, anchors=anchors: nt_xent_fused(
            z, PRESENT, s, places(km), form, anchors, chunk
        ),
        lambda z, s, km, form=form, anchors=anchors: plain_fused(z, s, km, form, anchors, PRESENT),
        (unit(3, N, 5), SCALE),
    )
every_loss = pytest.mark.parametrize("name", LOSSES)
every_space = pytest.mark.parametrize("km", SPACES.values(), ids=SPACES)


@every_space
@every_loss
def test_each_loss_is_its_formula_in_value_and_gradient(name, km):
    loss, formula, inputs = LOSSES[name]
    assert_same(lambda *x: loss(*x, km=km), lambda *x: formula(*x, km=km), *inputs)


@every_space
@every_loss
def test_chunks_change_neither_value_nor_gradient(name, km):
    loss, _, inputs = LOSSES[name]
    for chunk in (1, 3, N, 100):
        assert_same(lambda *x: loss(*x, km=km), lambda *x, c=chunk: loss(*x, km=km, chunk=c), *inputs)


def test_both_directions_know_the_places_of_either_side():
    a, b = unit(6, 8), unit(6, 8, seed=1)
    space = Space(positions(6), positions(6, seed=1), exclude_km=900.0)
    torch.testing.assert_close(info_nce(a, b, 5.0, space, chunk=2), info_nce(a, b, 5.0, space))


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@every_loss
def test_gradients_are_finite_where_every_negative_is_excluded(name):
    loss, _, inputs = LOSSES[name]
    with torch.autograd.set_detect_anomaly(True):
        value_and_gradient(lambda *x: loss(*x, km={"exclude_km": 30000.0}, chunk=1), *inputs)


@every_loss
def test_half_precision_is_computed_in_float32_also_under_autocast(name):
    loss, _, (*inputs, _) = LOSSES[name]
    for dtype, scale, rtol in ((torch.bfloat16, 5.0, 2e-4), (torch.float32, 100.0, 1e-4)):
        rounded = [x.to(dtype) for x in inputs]
        expected = loss(*(x.double() for x in rounded), scale, km=SPACES["soft"])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            for chunk in (0, 3):
                value = loss(*rounded, scale, km=SPACES["soft"], chunk=chunk)
                assert value.dtype == torch.float32
                torch.testing.assert_close(value.double(), expected, rtol=rtol, atol=1e-5)


def test_nt_xent_info_nce_and_sup_con_are_those_of_pytorch_metric_learning():
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    a, b, c = (unit(24, 8, seed=seed) for seed in range(3))
    two_ways = losses.SelfSupervisedLoss(losses.NTXentLoss(temperature=0.1))
    one_way = losses.SelfSupervisedLoss(losses.NTXentLoss(temperature=0.1), symmetric=False)
    supervised, labels = losses.SupConLoss(temperature=0.1), torch.arange(24).repeat(3)
    everywhere = torch.ones(3, 24, dtype=torch.bool)

    def fused(*x, chunk):  # the reference normalises inside, gradients too
        return nt_xent_fused(F.normalize(torch.stack(x), dim=-1), everywhere[: len(x)], 10.0, chunk=chunk)

    for chunk in (0, 7):
        normal = [lambda x, y, c=chunk: info_nce(F.normalize(x), F.normalize(y), 10.0, symmetric=False, chunk=c)]
        assert_same(lambda x, y, k=chunk: fused(x, y, chunk=k), two_ways, a, b)
        assert_same(normal[0], one_way, a, b)
        assert_same(lambda *x, k=chunk: fused(*x, chunk=k), lambda *x: supervised(torch.cat(x), labels), a, b, c)


def test_symile_shuffled_has_the_negatives_of_all_pairs_that_were_drawn():
    """Every anchor is compared with the same n pairs, its own one in place of the pair of its number."""
    order = [torch.randperm(N, generator=g) for g in [torch.Generator().manual_seed(3)] for _ in range(6)]
    expected = 0.0
    for (a, b, c), p, q in zip(((A, B, C), (B, A, C), (C, A, B)), order[::2], order[1::2], strict=True):
        logits = (6.0 * a @ (b[p] * c[q]).T).diagonal_scatter(6.0 * (a * b * c).sum(1))
        expected = expected + F.cross_entropy(logits, torch.arange(N)) / 3
    for chunk in (0, 3):
        generator = torch.Generator().manual_seed(3)
        ours = symile(A, B, C, 6.0, negatives="shuffled", generator=generator, chunk=chunk)
        torch.testing.assert_close(ours, expected)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000), st.integers(2, 4), st.integers(2, 7), st.sampled_from(list(SPACES)),
    st.sampled_from(["mean", "logsumexp"]), st.sampled_from(["all", "location"]), st.integers(0, 4),
)  # fmt: skip
def test_absent_rows_and_the_order_of_places_change_nothing(seed, m, n, space, form, anchors, chunk):
    generator = torch.Generator().manual_seed(seed)
    z, lonlat = unit(m, n, 4, seed=seed), positions(n, seed)
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


def test_a_loss_over_nothing_is_exactly_zero_with_zero_gradient():
    empty, scale = unit(1, 4)[:0], torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    nowhere, queue = Space(torch.zeros(0, 2), exclude_km=10.0), unit(3, 4).requires_grad_()
    for loss in (
        lambda x: info_nce(x, x, scale, nowhere, chunk=2),
        lambda x: geoclip(x, x, queue, scale),
        lambda x: sum(csp(x, x, x, queue, [scale] * 3).values()),
        lambda x: symile(x, x, x, scale),
        lambda x: symile(x, x, x, scale, nowhere, negatives="shuffled"),
    ):
        value, (gradient,) = value_and_gradient(loss, empty)
        assert value == 0 and gradient.shape == (0, 4)
    absent, z = torch.zeros(3, 5, dtype=torch.bool), unit(3, 5, 4)
    only_text = absent.clone()
    only_text[1] = True
    for loss in (
        lambda x: nt_xent_fused(x, absent, scale, chunk=2),
        lambda x: nt_xent_fused(x, only_text, scale, Space(positions(5), exclude_km=500.0)),
        lambda x: nt_xent_fused(x, only_text, scale, Space(positions(5), soft_km=500.0), anchors="location"),
        lambda x: melt(x[0], x[1:], torch.full((5,), -1), scale),
    ):
        value, (gradient,) = value_and_gradient(loss, z)
        assert value == 0 and (gradient == 0).all()
    assert scale.grad == 0 and (queue.grad == 0).all()


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


@pytest.mark.parametrize("km", SPACES.values(), ids=SPACES)
def test_no_square_matrix_is_kept_in_chunks(km):
    """What autograd keeps between forward and backward grows with n, not with its square."""

    def kept(n, chunk):
        total = 0

        def count(x):
            nonlocal total
            total += x.numel()
            return x

        z, space = unit(2, n, 8).requires_grad_(), Space(positions(n), **km)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            info_nce(z[0], z[1], 5.0, space, chunk=chunk)
            nt_xent_fused(z, torch.ones(2, n, dtype=torch.bool), 5.0, space, chunk=chunk)
        return total

    assert kept(256, 0) > 256**2
    assert kept(256, 64) < 60 * 256 and kept(512, 128) < 2.2 * kept(256, 64)


def test_wrong_inputs_are_refused():
    a, b = unit(3, 4), unit(5, 4)
    here = positions(3)
    for call, message in (
        (lambda: Space(here, exclude_km=-1.0), "at least 0"),
        (lambda: info_nce(a, b, 1.0), "one direction"),
        (lambda: geoclip(a, a, b, 1.0, Space(here, soft_km=5.0)), "3 candidates, but .* 3 and 8, a queue included"),
        (lambda: info_nce(a, a, 1.0, chunk=-1), "number of rows"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
