"""Samples are fair to area, and repeatable."""

from __future__ import annotations

import numpy as np
import pytest

from geonb.data.sampling import (
    density_points,
    density_weights,
    fibonacci_points,
    land_points,
    land_share,
    on_land,
    points_around,
    random_points,
    weighted_sample,
)
from geonb.geo import EARTH_RADIUS_KM, blocks, cell_bounds, cell_grid, great_circle_km, unit_xyz


@pytest.mark.parametrize("points", [random_points(20_000, 3), fibonacci_points(20_000)])
def test_points_are_even_by_area(points):
    xyz = unit_xyz(points)
    assert np.abs(xyz.mean(0)).max() < 0.02
    np.testing.assert_allclose(xyz.T @ xyz / len(xyz), np.eye(3) / 3, atol=0.01)
    assert (np.abs(points[:, 0]) <= 180).all() and (np.abs(points[:, 1]) <= 90).all()


def test_the_land_mask_knows_land_and_sea():
    land = [[2.35, 48.85], [-100, 40], [25, -29], [134, -24], [0, -85], [180, 68], [-180, 68], [-42, 72]]
    sea = [[-30, 40], [-140, 0], [80, -30], [0, 90], [180, 0], [-180, 0], [3, 56]]
    assert on_land(land).all() and not on_land(sea).any()
    assert on_land(random_points(100_000)).mean() == pytest.approx(0.29, abs=0.01)  # 149 of 510 million km2


@pytest.mark.parametrize("method", ["random", "fibonacci"])
@pytest.mark.parametrize("n", [1, 50, 2000])
def test_land_points_are_on_land_and_as_many_as_asked(method, n):
    points = land_points(n, seed=2, method=method)
    assert points.shape == (n, 2) and on_land(points).all()
    np.testing.assert_array_equal(points, land_points(n, seed=2, method=method))
    if n > 1:
        assert (points != land_points(n, seed=3, method=method)).any()
        assert len(np.unique(points, axis=0)) == n


def test_weights_give_each_cell_the_same_total():
    crowd = random_points(500) * [0.02, 0.02] + [10, 45]
    lonlat = np.concatenate([random_points(500, 1), crowd])
    weights, cell = density_weights(lonlat, 800), blocks(lonlat, 800)
    totals = np.array([weights[cell == c].sum() for c in np.unique(cell)])
    np.testing.assert_allclose(totals, totals[0])
    assert weights.mean() == pytest.approx(1) and weights[500:].mean() < weights[:500].mean() / 3


def test_weighted_sample_draws_by_weight_without_repeats():
    weights = np.array([0.0, 1, 2, 4, 0, 3])
    first = np.concatenate([weighted_sample(weights, 1, seed) for seed in range(4000)])
    share = np.bincount(first, minlength=6) / 4000
    np.testing.assert_allclose(share, weights / weights.sum(), atol=0.03)
    np.testing.assert_array_equal(weighted_sample(weights, 4), [1, 2, 3, 5])
    with pytest.raises(ValueError, match="cannot draw 5 rows of 4"):
        weighted_sample(weights, 5)
    with pytest.raises(ValueError, match="not negative"):
        weighted_sample([-1, 2], 1)


def chi_square(counts, expected):
    """Pearson's statistic over its degrees of freedom: near 1 where counts follow the expectation."""
    return float(((counts - expected) ** 2 / expected).sum() / (len(counts) - 1))


@pytest.mark.parametrize("size_km", [80, 500, 3000])
def test_cells_are_where_blocks_has_them_and_equal_in_area(size_km):
    cells = np.arange(cell_grid(size_km)[0].sum())
    west, south, east, north = cell_bounds(cells, size_km).T
    middle = np.stack([(west + east) / 2, np.degrees(np.arcsin((np.sin(np.radians(south)) + np.sin(np.radians(north))) / 2))], 1)
    np.testing.assert_array_equal(blocks(middle, size_km), cells)
    area = (east - west) * (np.sin(np.radians(north)) - np.sin(np.radians(south)))
    np.testing.assert_allclose(area, area[0], rtol=1e-9)
    assert area.sum() == pytest.approx(720) and west.min() == -180 and east.max() == pytest.approx(180)
    assert 0.8 < np.sqrt(4 * np.pi * EARTH_RADIUS_KM**2 / len(cells)) / size_km < 1.25
    assert np.diff(blocks([[179.9, 10.0], [-179.9, 10.0]], size_km)) != 0  # no cell crosses the antimeridian


def test_the_share_of_land_of_cells_adds_up_to_that_of_the_earth():
    share = land_share(np.arange(cell_grid(400)[0].sum()), 400)
    assert share.mean() == pytest.approx(on_land(fibonacci_points(400_000)).mean(), abs=0.003)
    ocean, sahara = blocks([[-140.0, 0.0], [10.0, 25.0]], 400)
    assert land_share([ocean, sahara], 400).tolist() == [0, 1]


def test_points_on_land_are_even_by_area_cell_by_cell():
    cells, counts = np.unique(blocks(land_points(40_000, 1), 1000), return_counts=True)
    share = land_share(cells, 1000, 2_000)
    inland = share > 0.99
    assert inland.sum() > 50 and 0.7 < chi_square(counts[inland], counts[inland].mean()) < 1.4


def test_points_follow_the_density_of_articles():
    centres = np.array([[10.0, 25.0], [100.0, 60.0], [-60.0, -10.0], [25.0, -29.0]])  # far from any coast
    cells, articles = blocks(centres, 100), np.repeat(centres, [1, 10, 100, 400], axis=0)
    points = density_points(articles, 20_000, 5)
    counts = np.array([(blocks(points, 100) == cell).sum() for cell in cells])
    assert counts.sum() == 20_000 and chi_square(counts, 20_000 * np.array([1.0, 10, 100, 400]) / 511) < 4
    west, south, east, north = cell_bounds(cells[-1:], 100)[0]
    inside = points[blocks(points, 100) == cells[-1]]
    low, high = np.sin(np.radians([south, north]))
    for position in ((inside[:, 0] - west) / (east - west), (np.sin(np.radians(inside[:, 1])) - low) / (high - low)):
        tenths = np.bincount((10 * position).astype(int), minlength=10)
        assert chi_square(tenths, len(inside) / 10) < 3


def test_density_points_are_on_land_and_the_same_for_the_same_seed():
    articles = np.concatenate([points_around([[12.5, 41.9], [-70.0, -33.0], [179.9, -16.8]], 200, 300, 1), [[-140.0, 0.0]]])
    points = density_points(articles, 3000, 3)
    assert on_land(points).all() and len(points) == 3000
    np.testing.assert_array_equal(points, density_points(articles, 3000, 3))
    assert (points != density_points(articles, 3000, 4)).any()
    assert np.isin(blocks(points, 100.0), blocks(articles, 100.0)).all()
    assert density_points(articles, 0).shape == (0, 2)
    with pytest.raises(ValueError, match="no position lies in a cell with land"):
        density_points([[-140.0, 0.0]], 5)


@pytest.mark.parametrize("place", [[10.0, 50.0], [180.0, 10.0], [77.0, -90.0], [30.0, 89.99]])
@pytest.mark.parametrize("max_km", [0.05, 2000.0])
def test_points_around_a_place_are_a_round_even_disc_wherever_it_is(place, max_km):
    n = 20_000
    points = points_around([place], n, max_km, 2)
    away = great_circle_km(place, points)
    assert (np.abs(points) <= [180, 90]).all() and away.max() <= max_km and away.max() > 0.999 * max_km
    ring = (np.sin(away / 6371.0088 / 2) / np.sin(max_km / 6371.0088 / 2)) ** 2  # the share of the area inside
    assert chi_square(np.bincount((20 * ring.clip(0, 1 - 1e-9)).astype(int), minlength=20), n / 20) < 2.5
    # On the plane that touches the sphere there, the mean is the place and no direction is favoured.
    lon, lat = np.radians(place)
    axes = np.array([[-np.sin(lon), np.cos(lon), 0],
                     [-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)]])  # fmt: skip
    plane = (unit_xyz(points) @ axes.T) * 6371.0088
    assert np.abs(plane.mean(0)).max() < 4 * max_km / 2 / np.sqrt(n)
    direction = np.arctan2(plane[:, 1], plane[:, 0])
    assert chi_square(np.bincount((16 * (direction / (2 * np.pi) % 1)).astype(int) % 16, minlength=16), n / 16) < 2.5


def test_points_around_keep_to_their_place_and_repeat():
    places = np.array([[0.0, 0.0], [179.99, 66.0], [5.0, 52.0]])
    points = points_around(places, 4, 30, 9)
    assert points.shape == (12, 2) and (great_circle_km(np.repeat(places, 4, 0), points) <= 30).all()
    np.testing.assert_array_equal(points, points_around(places, 4, 30, 9))
    assert points_around(places[:0], 4, 30).shape == (0, 2)
    for wrong in (0, -1, 20_016, float("nan")):
        with pytest.raises(ValueError, match="max_km"):
            points_around(places, 1, wrong)
