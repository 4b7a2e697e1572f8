"""Splits keep whole blocks apart, wherever on Earth they lie; the correlation range is that of the field."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from geonb.data.sampling import random_points
from geonb.data.splits import blocked_split, correlation_range_km, correlogram, random_split, within
from geonb.geo import EARTH_RADIUS_KM, blocks, great_circle_km, unit_xyz

POINTS = random_points(2000, seed=5)


@st.composite
def positions(draw):
    """Random points, some of them moved to the antimeridian, the poles, and onto one another."""
    n = draw(st.integers(30, 150))
    lonlat = random_points(n, draw(st.integers(0, 2**32 - 1)))
    lonlat[: n // 10, 0] = draw(st.sampled_from([180.0, -180.0, 179.999, 0.0]))
    lonlat[n // 10 : n // 5, 1] = draw(st.sampled_from([90.0, -90.0, 0.0]))
    lonlat[-2:] = lonlat[0]
    return lonlat


@settings(max_examples=25, deadline=None)
@given(positions(), st.floats(50, 4000))
def test_a_turn_of_360_degrees_changes_no_block(lonlat, size):
    turned = lonlat.copy()
    edge = np.abs(lonlat[:, 0]) == 180
    turned[edge, 0] *= -1
    np.testing.assert_array_equal(blocks(turned, size), blocks(lonlat, size))
    np.testing.assert_array_equal(blocked_split(turned, 800), blocked_split(lonlat, 800))


@settings(max_examples=25, deadline=None)
@given(positions(), st.floats(300, 3000), st.floats(0, 800), st.integers(0, 10))
def test_blocked_split_keeps_its_promises(lonlat, size, buffer, seed):
    label = blocked_split(lonlat, size, buffer_km=buffer, seed=seed)
    assert len(label) == len(lonlat) and set(label) <= {"train", "val", "test", "buffer"}
    np.testing.assert_array_equal(label, blocked_split(lonlat, size, buffer_km=buffer, seed=seed))
    distance = great_circle_km(lonlat[:, None], lonlat[None])
    train, val, test = (label == name for name in ("train", "val", "test"))
    if buffer > 0:
        for a, b in ((train, val), (train, test), (val, test)):
            if a.any() and b.any():
                assert distance[np.ix_(a, b)].min() > buffer * (1 - 1e-9)
    block = blocks(lonlat, size)
    kept = label != "buffer"
    for one in np.unique(block):
        assert len(set(label[kept & (block == one)])) <= 1
    held = val | test  # nothing is dropped without a reason
    for row in np.flatnonzero(label == "buffer"):
        assert buffer > 0 and held.any() and distance[row, held].min() <= buffer * (1 + 1e-6)


def test_fractions_are_met_before_the_buffer():
    label = blocked_split(POINTS, 500, (0.6, 0.15, 0.25), buffer_km=0)
    for name, share in (("train", 0.6), ("val", 0.15), ("test", 0.25)):
        assert abs((label == name).mean() - share) < 0.01
    assert (label != blocked_split(POINTS, 500, (0.6, 0.15, 0.25), buffer_km=0, seed=1)).any()
    assert not (blocked_split(POINTS, 500, (0.8, 0, 0.2)) == "val").any()


@pytest.mark.parametrize(("n", "seed"), [(0, 0), (7, 1), (501, 2)])
def test_random_split_has_exact_shares(n, seed):
    label = random_split(n, (0.7, 0.1, 0.2), seed)
    assert len(label) == n and abs((label == "train").sum() - 0.7 * n) <= 0.5 + 1e-9
    assert abs((label == "test").sum() - 0.2 * n) <= 1
    np.testing.assert_array_equal(label, random_split(n, (0.7, 0.1, 0.2), seed))
    for fractions in ((0.7, 0.1), (0.7, 0.1, 0.3), (-0.1, 0.1, 1.0)):
        with pytest.raises(ValueError, match="fractions"):
            random_split(n, fractions)


@settings(max_examples=25, deadline=None)
@given(positions(), st.floats(1, 20_000))
def test_within_agrees_with_all_distances(lonlat, km):
    others = lonlat[::3]
    nearest = great_circle_km(lonlat[:, None], others[None]).min(1)
    assume((np.abs(nearest - km) > 1e-6).all())
    np.testing.assert_array_equal(within(lonlat, others, km), nearest <= km)


def test_a_label_without_a_place_is_refused():
    city = np.random.default_rng(0).uniform((13.0, 52.0), (13.9, 52.9), (500, 2))
    lonlat = np.concatenate([city, [(60, 0), (-120, 0), (-100, 20), (140, -30)]])
    advice = "holds 500 of 504 places; choose smaller blocks or a random split"
    with pytest.raises(ValueError, match="no place is left for val and test: of 1 blocks of 500 km"):
        blocked_split(np.full((10, 2), 5.0))
    with pytest.raises(ValueError, match=f"no place is left for val.*: of 5 blocks of 500 km one {advice}"):
        blocked_split(lonlat)
    assert {"train", "val", "test"} <= set(blocked_split(lonlat, 30, buffer_km=3))  # as is advised


def field(lonlat, length_km, seed=0, waves=600):
    """A Gaussian field with correlation exp(-h^2 / (2 length^2)) for distances far below the Earth's radius."""
    rng = np.random.default_rng(seed)
    waves = rng.standard_normal((waves, 3)) * EARTH_RADIUS_KM / length_km
    phase = rng.uniform(0, 2 * np.pi, len(waves))
    return np.cos(unit_xyz(lonlat) @ waves.T + phase).sum(1) * np.sqrt(2 / len(waves))


@pytest.mark.parametrize("length", [300, 600])
def test_the_range_of_a_field_of_known_correlation_is_found(length):
    values = field(POINTS, length)
    expected = length * np.sqrt(2)  # where exp(-h^2 / (2 length^2)) is 1/e
    assert correlation_range_km(POINTS, values) == pytest.approx(expected, rel=0.2)
    noisy = values + np.random.default_rng(1).standard_normal(len(values))
    assert correlation_range_km(POINTS, noisy) == pytest.approx(expected, rel=0.3)
    centre, rho, pairs = correlogram(POINTS, values)
    near = centre < 2 * length
    np.testing.assert_allclose(rho[near], np.exp(-(centre[near] ** 2) / (2 * length**2)), atol=0.15)
    distance = great_circle_km(POINTS[:, None], POINTS[None])[np.triu_indices(len(POINTS), 1)]
    np.testing.assert_array_equal(pairs, np.histogram(distance, np.arange(0, 5001, 100))[0])


def test_classes_have_a_range_and_noise_has_none():
    values = field(POINTS, 600)
    names = np.array(["low", "high"], dtype=object)[(values > 0).astype(int)]
    names[::50] = None
    assert 300 < correlation_range_km(POINTS, names) < 1200
    assert correlation_range_km(POINTS, np.random.default_rng(0).standard_normal(len(POINTS))) == 0
    assert correlation_range_km(POINTS, unit_xyz(POINTS)[:, 2]) == 5000  # its correlation is the cosine of the distance
    with pytest.raises(ValueError, match="all values are equal"):
        correlation_range_km(POINTS, np.ones(len(POINTS)))
