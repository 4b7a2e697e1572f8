"""Dimensions against scikit-dimension and known manifolds; other measures against closed forms."""

import numpy as np
import pytest

from geonb.evaluation import information
from geonb.evaluation.information import effective_rank, levina_bickel, linear_cka, local_dimension, two_nn


def turned(x, wide=24, seed=0):
    """Rows laid into a space of more dimensions, turned at random."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(wide, wide)))
    return x @ q[: x.shape[1]]


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_dimensions_equal_scikit_dimension():
    skdim = pytest.importorskip("skdim")
    x = turned(np.random.default_rng(1).normal(size=(800, 6)))
    assert two_nn(x) == pytest.approx(skdim.id.TwoNN(discard_fraction=0.1).fit(x).dimension_, rel=0.01)
    oracle = skdim.id.MLE(unbiased=True).fit_transform_pw(x, n_neighbors=20)
    np.testing.assert_allclose(local_dimension(x, 20), oracle, rtol=1e-6)
    oracle = skdim.id.MLE().fit(x, n_neighbors=20).dimension_  # combined as in MacKay and Ghahramani
    assert levina_bickel(x, 20) == pytest.approx(oracle, rel=1e-6)


def test_rows_that_coincide_do_no_harm():
    x = np.random.default_rng(3).uniform(size=(1000, 2))
    assert two_nn(np.concatenate([x, x])) == pytest.approx(two_nn(x))
    assert levina_bickel(np.concatenate([x, x])) == pytest.approx(levina_bickel(x))
    assert np.isfinite(local_dimension(np.ones((60, 4)), 20)).all()
    with pytest.raises(ValueError, match="only 1 different rows"):
        two_nn(np.ones((50, 2)))


def test_effective_rank_runs_from_one_to_the_dimension():
    assert effective_rank(np.outer(np.arange(1.0, 9), np.ones(5))) == pytest.approx(1.0)
    assert effective_rank(np.eye(6)) == pytest.approx(6.0)
    z = np.random.default_rng(0).normal(size=(200, 8))
    share = np.linalg.svd(z, compute_uv=False) / np.linalg.svd(z, compute_uv=False).sum()
    assert effective_rank(z) == pytest.approx(np.exp(-(share * np.log(share)).sum()))
    assert effective_rank(turned(z)) == pytest.approx(effective_rank(z)) == pytest.approx(effective_rank(z.T))


def test_alignment_uniformity_and_gap_at_their_ends():
    alignment, uniformity, modality_gap = information.alignment, information.uniformity, information.modality_gap
    z = unit(np.random.default_rng(0).normal(size=(1500, 3)))
    assert alignment(z, z) == 0 and alignment(z, -z) == pytest.approx(4.0)
    assert uniformity(np.tile(z[:1], (20, 1))) == pytest.approx(0.0)
    # on the sphere in 3-d, x.y is uniform in [-1, 1]: E exp(-4 + 4 x.y) = (1 - exp(-8)) / 8
    assert uniformity(z) == pytest.approx(np.log((1 - np.exp(-8)) / 8), abs=0.03)
    assert modality_gap(z, z) == 0 and modality_gap(np.tile([[1.0, 0]], (3, 1)), np.tile([[-1.0, 0]], (3, 1))) == 2


def test_cka_in_closed_form():
    a, b = np.random.default_rng(8).normal(size=(2, 200, 5))
    centre = np.eye(200) - 1 / 200

    def hsic(x, y):
        return np.trace(x @ x.T @ centre @ y @ y.T @ centre)

    assert linear_cka(a, b) == pytest.approx(hsic(a, b) / np.sqrt(hsic(a, a) * hsic(b, b)))
    assert linear_cka(a, 3 * turned(a) + 1) == pytest.approx(1.0)
    assert np.isnan(linear_cka(a, np.ones((200, 3))))
