"""Dimensions against scikit-dimension and known manifolds; bounds and overlaps against what is known in closed form."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geonb.evaluation.information import (
    effective_rank,
    info_nce_bound,
    levina_bickel,
    linear_cka,
    local_dimension,
    neighbour_overlap,
    two_nn,
)


def turned(x, wide=24, seed=0):
    """Rows laid into a space of more dimensions, turned at random."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(wide, wide)))
    return x @ q[: x.shape[1]]


@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_dimensions_of_known_manifolds(d):
    x = turned(np.random.default_rng(d).uniform(size=(3000, d)))
    assert two_nn(x) == pytest.approx(d, rel=0.1)
    assert levina_bickel(x) == pytest.approx(d, rel=0.12)  # edges make it a little smaller


def test_a_sphere_has_one_dimension_less_than_its_space():
    x = np.random.default_rng(0).normal(size=(4000, 4))
    x = turned(x / np.linalg.norm(x, axis=1, keepdims=True))
    assert two_nn(x) == pytest.approx(3, rel=0.08) and levina_bickel(x) == pytest.approx(3, rel=0.08)


def test_dimensions_equal_scikit_dimension():
    skdim = pytest.importorskip("skdim")
    x = turned(np.random.default_rng(1).normal(size=(800, 6)))
    assert two_nn(x) == pytest.approx(skdim.id.TwoNN(discard_fraction=0.1).fit(x).dimension_, rel=0.01)
    oracle = skdim.id.MLE(unbiased=True).fit_transform_pw(x, n_neighbors=20)
    np.testing.assert_allclose(local_dimension(x, 20), oracle, rtol=1e-6)
    oracle = skdim.id.MLE().fit(x, n_neighbors=20).dimension_  # combined as MacKay and Ghahramani say
    assert levina_bickel(x, 20) == pytest.approx(oracle, rel=1e-6)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999), scale=st.floats(1e-3, 1e3))
def test_dimensions_know_neither_scale_nor_direction(seed, scale):
    x = np.random.default_rng(seed).normal(size=(200, 3))
    y = scale * turned(x, 8, seed) + 5.0
    assert two_nn(y) == pytest.approx(two_nn(x), rel=1e-4)
    assert levina_bickel(y) == pytest.approx(levina_bickel(x), rel=1e-4)


def test_the_local_dimension_tells_a_line_from_a_plane():
    rng = np.random.default_rng(2)
    line, plane = np.zeros((500, 3)), np.zeros((500, 3))
    line[:, 0], plane[:, 1:] = rng.uniform(size=500) + 5, rng.uniform(size=(500, 2))
    found = local_dimension(np.concatenate([line, plane]), 30)
    assert np.median(found[:500]) == pytest.approx(1, rel=0.15) and np.median(found[500:]) == pytest.approx(2, rel=0.15)


def test_rows_that_coincide_do_no_harm():
    x = np.random.default_rng(3).uniform(size=(1000, 2))
    assert two_nn(np.concatenate([x, x])) == pytest.approx(two_nn(x))
    assert levina_bickel(np.concatenate([x, x])) == pytest.approx(levina_bickel(x))
    assert np.isfinite(local_dimension(np.ones((60, 4)), 20)).all()
    with pytest.raises(ValueError, match="only 1 different rows"):
        two_nn(np.ones((50, 2)))
    with pytest.raises(ValueError, match="3 neighbours or more"):
        local_dimension(x, 2)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("r", [0.0, 0.5, 0.9, 0.999])
def test_the_bound_lies_below_the_known_information_and_its_cap(r):
    rng = np.random.default_rng(4)
    a = rng.normal(size=(4000, 8))
    b = r * a + np.sqrt(1 - r * r) * rng.normal(size=a.shape)
    truth = -8 / 2 * np.log(1 - r * r)
    found = info_nce_bound(unit(a), unit(b))
    assert found <= min(truth, np.log(256)) + 0.05
    assert found >= 0.6 * min(truth, np.log(256)) - 0.1
    if r == 0.999:
        assert found == pytest.approx(np.log(256), abs=0.1)


def test_the_bound_of_unrelated_vectors_does_not_depend_on_the_pairs_it_was_fitted_to():
    rng = np.random.default_rng(5)
    a, b = unit(rng.normal(size=(40, 64))), unit(rng.normal(size=(40, 64)))
    assert info_nce_bound(a, b) < 0.05
    with pytest.raises(ValueError, match="at least 4 pairs"):
        info_nce_bound(a[:3], b[:3])


def test_neighbours_in_common():
    rng = np.random.default_rng(6)
    x = rng.normal(size=(1500, 6))
    assert neighbour_overlap(x, turned(3 * x)) == 1.0
    assert neighbour_overlap(x, rng.normal(size=(1500, 6))) == pytest.approx(10 / 1499, abs=0.004)
    from sklearn.neighbors import NearestNeighbors

    y = x + 0.5 * rng.normal(size=x.shape)
    near = [NearestNeighbors(n_neighbors=10).fit(z).kneighbors(return_distance=False) for z in (x, y)]
    expected = np.mean([len(set(p) & set(q)) / 10 for p, q in zip(*near, strict=True)])
    assert neighbour_overlap(x, y) == pytest.approx(expected)


def test_rank_and_alignment_in_closed_form():
    q, _ = np.linalg.qr(np.random.default_rng(7).normal(size=(300, 12)))
    assert effective_rank(turned(q)) == pytest.approx(12)
    a, b = np.random.default_rng(8).normal(size=(2, 200, 5))
    centre = np.eye(200) - 1 / 200

    def hsic(x, y):
        return np.trace(x @ x.T @ centre @ y @ y.T @ centre)

    assert linear_cka(a, b) == pytest.approx(hsic(a, b) / np.sqrt(hsic(a, a) * hsic(b, b)))
