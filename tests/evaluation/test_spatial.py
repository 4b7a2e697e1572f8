"""Spatial statistics against fields whose range is known, and against esda."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geonb.data.sampling import random_points
from geonb.evaluation.probes import untrained_encoding
from geonb.evaluation.spatial import (
    _moran_terms,
    alike_beyond,
    block_bootstrap,
    by_group,
    checkerboard,
    checkerboard_accuracy,
    density,
    interval_or_none,
    morans_i,
    quantile_groups,
    resolution_km,
    share_alike,
    similarity_by_distance,
    variogram,
)
from geonb.geo import EARTH_RADIUS_KM, great_circle_km, unit_xyz


def test_the_variogram_of_a_field_with_known_covariance():
    lonlat, edges = random_points(500, 0), [0, 500, 1000, 2000, 4000, 8000, 16000]
    km = great_circle_km(lonlat[:, None], lonlat[None])
    covariance = 2.0 * np.exp(-km / 1500)
    draws = np.linalg.cholesky(covariance + 1e-9 * np.eye(500)) @ np.random.default_rng(0).normal(size=(500, 400))
    found, pairs = variogram(draws, lonlat, edges)  # 400 fields at once, summed
    upper = np.triu_indices(500, 1)
    bins = np.digitize(km[upper], edges) - 1
    expected = [2.0 - covariance[upper][bins == b].mean() for b in range(6)]
    np.testing.assert_allclose(found / 400, expected, rtol=0.08)
    assert (pairs > 100).all() and (np.diff(found) > 0).all()


def test_the_variogram_of_unit_vectors_is_one_minus_their_similarity():
    lonlat = random_points(300, 1)
    z = np.random.default_rng(1).normal(size=(300, 8))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    edges = [0, 1000, 5000, 21000]
    np.testing.assert_allclose(variogram(z, lonlat, edges)[0], 1 - similarity_by_distance(z, lonlat, edges), atol=1e-12)
    with pytest.raises(ValueError, match="must increase"):
        variogram(z, lonlat, [0, 5, 5])


def test_morans_i_equals_esda():
    esda = pytest.importorskip("esda")
    from libpysal.weights import W

    lonlat = random_points(200, 2)
    values = lonlat[:, 1] + 20 * np.random.default_rng(2).normal(size=200)
    _, neighbours = _moran_terms(values, lonlat, 8)
    weights = W({i: list(row) for i, row in enumerate(neighbours)}, silence_warnings=True)
    weights.transform = "r"
    assert morans_i(values, lonlat) == pytest.approx(esda.Moran(values, weights, permutations=0).I)


@settings(max_examples=20, deadline=None)
@given(size=st.floats(100, 10_000), seed=st.integers(0, 99))
def test_a_checkerboard_alternates_and_has_no_seam(size, seed):
    lonlat = random_points(400, seed)
    colour = checkerboard(lonlat, size)
    rows = round(np.pi * EARTH_RADIUS_KM / size)
    row = np.minimum(((lonlat[:, 1] + 90) / 180 * rows).astype(int), rows - 1)
    middle = np.radians(-90 + (row + 0.5) * 180 / rows)
    width = 180 / np.maximum(1, np.round(np.pi * EARTH_RADIUS_KM * np.cos(middle) / size))
    east = lonlat.copy()
    east[:, 0] = (lonlat[:, 0] + 180 + width) % 360 - 180  # one square to the east, across the antimeridian too
    edge = np.abs((lonlat[:, 0] + 180) / width % 1 - 0.5) > 0.499
    assert (checkerboard(east, size) != colour)[~edge].all()
    twin = np.array([[180.0, 10.0], [-180.0, 10.0]])
    assert len(set(checkerboard(twin, size))) == 1
    assert set(colour) <= {0, 1}


def test_harmonics_resolve_squares_down_to_their_wavelength():
    sizes = [10_000, 5000, 2500, 1250, 700]
    found = {}
    for degrees in (5, 12):
        accuracy = checkerboard_accuracy(lambda p, d=degrees: untrained_encoding(p, d), sizes, n=3000)
        found[degrees] = resolution_km(sizes, accuracy)
        assert accuracy[0] > 0.85 and accuracy[-1] < 0.7
    assert found[12] < found[5] * 0.75
    assert 0.3 < found[12] / (np.pi * EARTH_RADIUS_KM / 12) < 3
    noise = checkerboard_accuracy(lambda p: np.random.default_rng(0).normal(size=(len(p), 6)), sizes, n=1500)
    assert np.abs(noise - 0.5).max() < 0.1 and np.isnan(resolution_km(sizes, noise))
    with pytest.raises(ValueError, match="at most 10,007 km"):
        checkerboard(random_points(3), 12_000)


def test_the_resolution_is_where_the_level_is_crossed():
    assert resolution_km([100, 1000, 10_000], [0.5, 0.9, 1.0]) == pytest.approx(1000 * 0.1 ** (0.15 / 0.4))
    assert resolution_km([100, 1000], [0.8, 0.9]) == pytest.approx(100)
    assert resolution_km([100, 1000, 10_000], [0.9, 0.6, 1.0]) > 1000  # a lucky small size does not count


def test_density_counts_places_in_reach():
    lonlat = random_points(800, 3)
    has = np.arange(800) % 3 == 0
    expected = (great_circle_km(lonlat[:, None], lonlat[has][None]) <= 1000).sum(1)
    assert (density(lonlat, has, 1000) == expected).all()
    assert (density(lonlat, np.zeros(800, bool)) == 0).all()
    assert density(lonlat, has, 1e9).min() == has.sum()
    xyz = unit_xyz(lonlat)
    assert xyz.shape == (800, 3)


def test_groups_are_of_like_size_and_the_worst_is_no_accident():
    values = np.arange(400) % 100
    groups = quantile_groups(values)
    assert sorted(np.unique(groups)) == ["1: 0 to 24", "2: 25 to 49", "3: 50 to 74", "4: 75 to 99"]
    assert len(set(quantile_groups(np.ones(50)))) == 1
    lonlat, rng = random_points(500, 4), np.random.default_rng(4)
    regions = np.where(lonlat[:, 0] < 0, "west", "east").astype(object)
    regions[:5], regions[5:9] = "tiny", None
    errors = rng.normal(size=500) + 3 * (regions == "east") - 100 * (regions == "tiny")
    rows = by_group(errors, regions, lonlat)
    assert [r["group"] for r in rows] == ["west", "east", "tiny"] and not rows[-1]["enough"]
    assert all(r["low"] <= r["mean"] <= r["high"] for r in rows[:2]) and sum(r["n"] for r in rows) == 496


def test_places_of_too_few_blocks_have_no_interval_and_are_no_worst_region():
    rng = np.random.default_rng(0)
    city, values = rng.uniform((13.3, 52.4), (13.5, 52.6), (500, 2)), rng.random(500)
    assert np.isnan(block_bootstrap(city, lambda w: w @ values / w.sum(1))).all()
    assert interval_or_none(city, lambda w: w @ values / w.sum(1), 500.0) == [None, None]
    world = np.concatenate([city, random_points(300, 4)])
    rows = by_group([*values - 10, *np.ones(300)], ["city"] * 500 + ["world"] * 300, world)
    assert [(r["group"], r["enough"], np.isnan(r["low"])) for r in rows] == [("world", True, False), ("city", False, True)]


@pytest.mark.parametrize("chunk", [7, 1024])
def test_the_alike_are_the_most_similar_of_those_far_enough(chunk):
    lonlat = random_points(120, 5)
    z = np.random.default_rng(5).normal(size=(120, 6))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    found = alike_beyond(z, lonlat, 3000, k=9, chunk=chunk)
    km = great_circle_km(lonlat[:, None], lonlat[None])
    for row in range(120):
        far = np.flatnonzero(km[row] >= 3000)
        assert found[row].tolist() == far[np.argsort(-(z[far] @ z[row]))[:9]].tolist()


def test_of_a_smooth_embedding_the_alike_lie_on_the_rim():
    lonlat = random_points(2000, 6)
    found = alike_beyond(unit_xyz(lonlat), lonlat, 2000, k=5)  # similarity falls with distance, and knows nothing else
    km = great_circle_km(np.repeat(lonlat, 5, 0), lonlat[found.ravel()])
    assert km.min() >= 2000 and np.median(km) < 2200


def test_the_alike_with_the_same_label_are_counted():
    labels = ["fr", "de", "", "fr"]
    shares = share_alike([[3, 1], [2, 3], [0, 1], [0, 2]], labels)
    np.testing.assert_array_equal(shares, [0.5, 0, np.nan, 0.5])
    with pytest.raises(ValueError, match="2 rows of alike places and 4 labels"):
        share_alike([[0, 1], [1, 0]], labels)


def test_too_few_places_far_enough_are_said():
    lonlat = random_points(50, 7)
    with pytest.raises(ValueError, match="has only 0 others 20,100 km away"):
        alike_beyond(unit_xyz(lonlat), lonlat, 20_100, k=3)
    with pytest.raises(ValueError, match="do not match"):
        alike_beyond(np.ones((3, 2)), lonlat, 100)
