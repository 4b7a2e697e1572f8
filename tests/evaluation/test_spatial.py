"""Spatial statistics against fields whose range is known, formulas in loops, and esda."""

import numpy as np
import pytest

from geonb.data.sampling import random_points
from geonb.evaluation.spatial import _nearest, block_bootstrap, morans_i, similar_beyond, variogram, weighted_median
from geonb.geo import great_circle_km, unit_xyz


def test_the_variogram_of_a_field_with_known_covariance():
    lonlat, edges = random_points(400, 0), [0, 500, 1000, 2000, 4000, 8000, 16000]
    km = great_circle_km(lonlat[:, None], lonlat[None])
    covariance = 2.0 * np.exp(-km / 1500)
    draws = np.linalg.cholesky(covariance + 1e-9 * np.eye(400)) @ np.random.default_rng(0).normal(size=(400, 200))
    found = variogram(draws, lonlat, edges, pairs=60_000)  # 200 fields at once, summed
    upper = np.triu_indices(400, 1)
    bins = np.digitize(km[upper], edges) - 1
    expected = [2.0 - covariance[upper][bins == b].mean() for b in range(6)]
    np.testing.assert_allclose(found / 200, expected, rtol=0.1)
    assert (np.diff(found) > 0).all()
    z, similarity = unit_xyz(lonlat), (unit_xyz(lonlat) @ unit_xyz(lonlat).T)[upper]  # 1 - similarity of unit vectors
    expected = [1 - similarity[bins == b].mean() for b in range(6)]
    np.testing.assert_allclose(variogram(z, lonlat, edges, pairs=60_000), expected, atol=0.02)
    assert np.isnan(variogram(z, lonlat, [0, 1e-6, 500])[0])  # no pairs


def test_morans_i_equals_esda(monkeypatch):
    esda = pytest.importorskip("esda")
    from libpysal.weights import W

    lonlat = random_points(200, 2)
    values = lonlat[:, 1] + 20 * np.random.default_rng(2).normal(size=200)
    weights = W({i: list(row) for i, row in enumerate(_nearest(lonlat, 8))}, silence_warnings=True)
    weights.transform = "r"
    monkeypatch.setattr("geonb.evaluation.spatial.MORAN_SHUFFLES", 999)
    oracle = esda.Moran(values, weights, permutations=999)
    observed, z = morans_i(values, lonlat)
    assert observed == pytest.approx(oracle.I) and z == pytest.approx(oracle.z_sim, rel=0.15)


def test_morans_i_of_coincident_places_and_of_values_without_structure():
    coincident = np.repeat(random_points(30, 0), 12, axis=0)
    assert morans_i(coincident[:, 1], coincident)[0] == pytest.approx(1.0)
    for values in (np.ones(300), np.full(300, np.nan), np.arange(9.0)):
        with pytest.raises(ValueError, match="10 places or more, with finite values that differ"):
            morans_i(values, random_points(len(values), 0))


def test_block_intervals_are_wider_than_naive_ones_for_clustered_values():
    rng = np.random.default_rng(0)
    lonlat = np.repeat(random_points(60, 0), 20, axis=0)
    values = np.repeat(rng.normal(size=60), 20)  # 1,200 places, but 60 independent values
    low, high = block_bootstrap(lonlat, lambda w: w @ values / w.sum(1), 300.0)
    assert low < values.mean() < high and high - low > 3 * 2 * 1.96 * values.std() / 1200**0.5
    city = rng.uniform((13.3, 52.4), (13.5, 52.6), (500, 2))  # of one block there is no interval
    assert np.isnan(block_bootstrap(city, lambda w: w.sum(1))).all()


def test_a_weighted_median_is_the_median_of_repeated_values():
    rng = np.random.default_rng(0)
    values, weights = rng.normal(size=25), rng.integers(0, 4, (8, 25))
    expected = [np.sort(np.repeat(values, w))[(w.sum() - 1) // 2] for w in weights]
    np.testing.assert_array_equal(weighted_median(values, weights), expected)


def test_similar_places_are_the_most_similar_of_those_far_enough(monkeypatch):
    monkeypatch.setattr("geonb.evaluation.spatial.CHUNK", 7)
    lonlat = random_points(120, 5)
    z = np.random.default_rng(5).normal(size=(120, 6))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    found = similar_beyond(z, lonlat, 3000, k=9)
    km = great_circle_km(lonlat[:, None], lonlat[None])
    for row in range(120):
        far = np.flatnonzero(km[row] >= 3000)
        assert found[row].tolist() == far[np.argsort(-(z[far] @ z[row]))[:9]].tolist()
