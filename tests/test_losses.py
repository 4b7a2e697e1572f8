import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from geonb.losses import fused_nt_xent, info_nce, symmetric_info_nce


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)), dim=-1)


def plain_info_nce(a, t, scale, ignore=None):
    """The formula, in loops."""
    total = 0.0
    for i in range(len(a)):
        others = [j for j in range(len(t)) if j == i or ignore is None or not ignore[i, j]]
        total -= torch.log(torch.exp(scale * a[i] @ t[i]) / sum(torch.exp(scale * a[i] @ t[j]) for j in others))
    return total / len(a)


def plain_fused(z, present, scale, ignore=None):
    """The formula, in loops over modalities and places."""
    items = [(m, i) for m in range(z.shape[0]) for i in range(z.shape[1]) if present[m, i]]
    total, anchors = 0.0, 0
    for m, i in items:
        positives = [(k, j) for k, j in items if j == i and k != m]
        if not positives:
            continue
        others = [(k, j) for k, j in items if (k, j) != (m, i) and (j == i or ignore is None or not ignore[i, j])]
        denominator = sum(torch.exp(scale * z[m, i] @ z[k, j]) for k, j in others)
        total -= sum(torch.log(torch.exp(scale * z[m, i] @ z[k, i]) / denominator) for k, _ in positives) / len(
            positives
        )
        anchors += 1
    return total / anchors


def value_and_gradient(loss, *inputs):
    inputs = [x.clone().requires_grad_() for x in inputs]
    value = loss(*inputs)
    value.backward()
    return value.detach(), [x.grad for x in inputs]


def assert_same(ours, reference, *inputs):
    (v, g), (w, h) = value_and_gradient(ours, *inputs), value_and_gradient(reference, *inputs)
    torch.testing.assert_close(v, w, rtol=1e-12, atol=1e-12)
    for x, y in zip(g, h, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-12)


def near(n, seed=3):
    mask = torch.rand(n, n, generator=torch.Generator().manual_seed(seed)) < 0.2
    return mask | mask.T


def test_info_nce_is_its_formula_in_value_and_gradient():
    assert_same(
        lambda a, t: info_nce(a, t, 7.0), lambda a, t: plain_info_nce(a, t, 7.0), unit(6, 5), unit(6, 5, seed=1)
    )
    ignore = near(6)
    assert_same(
        lambda a, t: info_nce(a, t, 7.0, ignore),
        lambda a, t: plain_info_nce(a, t, 7.0, ignore),
        unit(6, 5),
        unit(6, 5, seed=1),
    )


def test_a_queue_adds_negatives_only():
    a, t, queue = unit(4, 6), unit(4, 6, seed=1), unit(3, 6, seed=2)
    logits = 5 * torch.cat([a @ t.T, a @ queue.T], 1)
    torch.testing.assert_close(info_nce(a, t, 5.0, extra=queue), F.cross_entropy(logits, torch.arange(4)))
    torch.testing.assert_close(info_nce(a, t, 5.0, extra=queue[:0]), info_nce(a, t, 5.0))
    assert info_nce(a, t, 5.0, extra=queue) > info_nce(a, t, 5.0)


def test_coincident_places_push_nobody_apart_when_excluded():
    t = unit(4, 6, seed=1)
    t[1] = t[0]
    a = unit(4, 6)
    a[1] = a[0]
    ignore = torch.zeros(4, 4, dtype=torch.bool)
    ignore[0, 1] = ignore[1, 0] = True
    _, (ga, gt) = value_and_gradient(lambda x, y: symmetric_info_nce(x, y, 5.0, ignore), a, t)
    torch.testing.assert_close(ga[0], ga[1])
    torch.testing.assert_close(gt[0], gt[1])


def test_fused_is_its_formula_with_missing_modalities_and_excluded_pairs():
    z = unit(3, 7, 5)
    present = torch.rand(3, 7, generator=torch.Generator().manual_seed(1)) < 0.7
    present[0] = True
    ignore = near(7) & ~torch.eye(7, dtype=torch.bool)
    assert_same(lambda x: fused_nt_xent(x, present, 4.0), lambda x: plain_fused(x, present, 4.0), z)
    assert_same(lambda x: fused_nt_xent(x, present, 4.0, ignore), lambda x: plain_fused(x, present, 4.0, ignore), z)


def test_fused_with_two_modalities_is_nt_xent():
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    reference = losses.SelfSupervisedLoss(losses.NTXentLoss(temperature=0.1))
    everywhere = torch.ones(2, 16, dtype=torch.bool)

    def ours(a, b):
        return fused_nt_xent(F.normalize(torch.stack([a, b]), dim=-1), everywhere, 10.0)

    assert_same(ours, reference, unit(16, 8), unit(16, 8, seed=1))  # the reference normalises inside, gradients too


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(2, 6))
def test_absent_rows_change_nothing_whatever_they_hold(seed, m, n):
    generator = torch.Generator().manual_seed(seed)
    z = unit(m, n, 4, seed=seed)
    present = torch.rand(m, n, generator=generator) < 0.6
    garbage = torch.where(present[..., None], z, torch.tensor(1e6, dtype=z.dtype))
    value, (gradient,) = value_and_gradient(lambda x: fused_nt_xent(x, present, 3.0), garbage)
    expected, _ = value_and_gradient(lambda x: fused_nt_xent(x, present, 3.0), z)
    torch.testing.assert_close(value, expected)
    assert gradient.isfinite().all() and (gradient[~present] == 0).all()


def test_fused_does_not_depend_on_the_order_of_modalities_or_places():
    z, present = unit(3, 6, 5), torch.ones(3, 6, dtype=torch.bool)
    present[1, 2] = present[2, 4] = False
    expected = fused_nt_xent(z, present, 3.0)
    order, places = torch.tensor([2, 0, 1]), torch.randperm(6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fused_nt_xent(z[order][:, places], present[order][:, places], 3.0), expected)


def test_nothing_present_is_exactly_zero_with_zero_gradient():
    value, (g,) = value_and_gradient(
        lambda x: fused_nt_xent(x, torch.zeros(2, 3, dtype=torch.bool), 3.0), unit(2, 3, 4)
    )
    assert value == 0 and (g == 0).all()
    empty = unit(1, 4)[:0]
    value, _ = value_and_gradient(lambda a, b: symmetric_info_nce(a, b, 3.0), empty, empty)
    assert value == 0


def test_perfect_alignment_at_low_temperature_costs_nothing_and_chance_costs_log_n():
    z = torch.eye(8, dtype=torch.float64)
    assert symmetric_info_nce(z, z, 100.0) < 1e-6
    constant = torch.ones(8, 3, dtype=torch.float64) / 3**0.5
    assert info_nce(constant, constant, 10.0).item() == pytest.approx(torch.tensor(8.0).log().item(), abs=1e-6)
