import numpy as np
import pytest
from scipy.spatial import cKDTree

from geonb.data.sampling import random_points
from geonb.evaluation.information import alignment, effective_rank, linear_cka, modality_gap, uniformity
from geonb.evaluation.spatial import (
    block_bootstrap,
    morans_i,
    morans_i_test,
    similarity_by_distance,
    weighted_median,
)
from geonb.geo import unit_xyz


def test_morans_i_is_its_formula_and_knows_smooth_from_noise():
    lonlat = random_points(300, 0)
    values = np.sin(np.radians(lonlat[:, 1]) * 2) + 0.5 * np.random.default_rng(0).normal(size=300)
    xyz = unit_xyz(lonlat)
    weights = np.zeros((300, 300))
    for i, near in enumerate(cKDTree(xyz).query(xyz, k=9)[1]):
        weights[i, [j for j in near if j != i]] = 1
    z = values - values.mean()
    expected = 300 / weights.sum() * (weights * np.outer(z, z)).sum() / (z @ z)
    assert morans_i(values, lonlat) == pytest.approx(expected)
    noise = [morans_i(np.random.default_rng(s).normal(size=300), lonlat) for s in range(50)]
    assert np.mean(noise) == pytest.approx(-1 / 299, abs=0.012)
    assert morans_i(lonlat[:, 1], lonlat) > 0.85


def test_morans_i_survives_coincident_places_and_refuses_too_few():
    lonlat = np.repeat(random_points(30, 0), 12, axis=0)
    assert morans_i(lonlat[:, 1], lonlat) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="more than 8 places"):
        morans_i(np.arange(8.0), random_points(8))


def test_the_moran_test_tells_structure_from_noise_and_refuses_constants():
    lonlat = random_points(300, 0)
    observed, z = morans_i_test(lonlat[:, 1], lonlat)
    assert observed == morans_i(lonlat[:, 1], lonlat) and z > 10
    noise = [morans_i_test(np.random.default_rng(s).normal(size=300), lonlat, seed=s)[1] for s in range(40)]
    assert abs(np.mean(noise)) < 0.6 and 0.6 < np.std(noise) < 1.5
    with pytest.raises(ValueError, match="all the same"):
        morans_i_test(np.ones(300), lonlat)
    with pytest.raises(ValueError, match="value 0 is not finite"):
        morans_i(np.full(300, np.nan), lonlat)


def test_the_bootstrap_does_not_depend_on_how_many_draws_are_held(monkeypatch):
    lonlat, values = random_points(400, 0), np.random.default_rng(0).normal(size=400)
    interval = block_bootstrap(lonlat, lambda w: w @ values / w.sum(1))
    monkeypatch.setattr("geonb.evaluation.spatial.DRAWN_AT_ONCE", 1000)
    assert block_bootstrap(lonlat, lambda w: w @ values / w.sum(1)) == pytest.approx(interval)


def test_a_weighted_median_is_the_median_of_repeated_values():
    rng = np.random.default_rng(0)
    values, weights = rng.normal(size=25), rng.integers(0, 4, (8, 25))
    expected = [np.sort(np.repeat(values, w))[(w.sum() - 1) // 2] for w in weights]
    np.testing.assert_array_equal(weighted_median(values, weights), expected)


def test_block_intervals_are_wider_than_naive_ones_for_clustered_values():
    rng = np.random.default_rng(0)
    centres = random_points(60, 0)
    lonlat = np.repeat(centres, 20, axis=0)
    values = np.repeat(rng.normal(size=60), 20)  # 1,200 places, but 60 independent values
    low, high = block_bootstrap(lonlat, lambda w: w @ values / w.sum(1), 300.0)
    assert low < values.mean() < high
    naive = 2 * 1.96 * values.std() / 1200**0.5
    assert high - low > 3 * naive
    assert block_bootstrap(lonlat, lambda w: w @ values / w.sum(1), 300.0) == (low, high)


def test_similarity_falls_with_distance_for_unit_vectors_of_positions():
    lonlat = random_points(2000, 0)
    edges = np.array([0.0, 500.0, 2000.0, 10000.0, 20016.0])
    means = similarity_by_distance(unit_xyz(lonlat), lonlat, edges)
    assert (np.diff(means) < 0).all() and means[0] > 0.99 and means[-1] < 0


def test_effective_rank_runs_from_one_to_the_dimension():
    assert effective_rank(np.outer(np.arange(1.0, 9), np.ones(5))) == pytest.approx(1.0)
    assert effective_rank(np.eye(6)) == pytest.approx(6.0)
    z = np.random.default_rng(0).normal(size=(200, 8))
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0]
    assert effective_rank(z @ rotation) == pytest.approx(effective_rank(z))
    share = np.linalg.svd(z, compute_uv=False) / np.linalg.svd(z, compute_uv=False).sum()
    assert effective_rank(z) == pytest.approx(np.exp(-(share * np.log(share)).sum()))
    assert effective_rank(z.T) == pytest.approx(effective_rank(z))


def test_alignment_uniformity_and_gap_at_their_ends():
    z = np.random.default_rng(0).normal(size=(1500, 3))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    assert alignment(z, z) == 0 and alignment(z, -z) == pytest.approx(4.0)
    assert uniformity(np.tile(z[:1], (20, 1))) == pytest.approx(0.0)
    # on the sphere in 3-d, x.y is uniform in [-1, 1]: E exp(-4 + 4 x.y) = (1 - exp(-8)) / 8
    assert uniformity(z) == pytest.approx(np.log((1 - np.exp(-8)) / 8), abs=0.03)
    assert modality_gap(z, z) == 0 and modality_gap(np.tile([[1.0, 0]], (3, 1)), np.tile([[-1.0, 0]], (3, 1))) == 2


def test_cka_is_blind_to_rotation_and_scale_and_sees_the_unrelated():
    rng = np.random.default_rng(0)
    z, other = rng.normal(size=(800, 6)), rng.normal(size=(800, 4))
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    assert linear_cka(z, 3 * z @ rotation + 1) == pytest.approx(1.0)
    assert linear_cka(z, other) < 0.02
