"""Samples are fair to area, and repeatable."""

from __future__ import annotations

import numpy as np
import pytest

from geonb.data.sampling import (
    density_weights,
    fibonacci_points,
    land_points,
    land_share,
    on_land,
    random_points,
    weighted_sample,
)
from geonb.geo import EARTH_RADIUS_KM, blocks, cell_bounds, cell_grid, unit_xyz


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


@pytest.mark.parametrize(("method", "n"), [("random", 1), ("random", 2000), ("fibonacci", 1), ("fibonacci", 2000)])
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


@pytest.mark.parametrize("size_km", [80, 500, 3000])
def test_cells_are_where_blocks_has_them_and_equal_in_area(size_km):
    cells = np.arange(cell_grid(size_km)[0].sum())
    west, south, east, north = cell_bounds(cells, size_km).T
    low, high = np.sin(np.radians([south, north]))
    middle = np.stack([(west + east) / 2, np.degrees(np.arcsin((low + high) / 2))], 1)
    np.testing.assert_array_equal(blocks(middle, size_km), cells)
    area = (east - west) * (high - low)
    np.testing.assert_allclose(area, area[0], rtol=1e-9)
    assert area.sum() == pytest.approx(720) and west.min() == -180 and east.max() == pytest.approx(180)
    assert 0.8 < np.sqrt(4 * np.pi * EARTH_RADIUS_KM**2 / len(cells)) / size_km < 1.25
    assert np.diff(blocks([[179.9, 10.0], [-179.9, 10.0]], size_km)) != 0  # no cell crosses the antimeridian


def test_the_share_of_land_of_cells_adds_up_to_that_of_the_earth():
    share = land_share(np.arange(cell_grid(400)[0].sum()), 400)
    assert share.mean() == pytest.approx(on_land(fibonacci_points(400_000)).mean(), abs=0.003)
    ocean, sahara = blocks([[-140.0, 0.0], [10.0, 25.0]], 400)
    assert land_share([ocean, sahara], 400).tolist() == [0, 1]
