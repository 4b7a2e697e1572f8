import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geonb.data.sampling import random_points
from geonb.evaluation.retrieval import retrieval


def unit(n, d, seed):
    z = np.random.default_rng(seed).normal(size=(n, d))
    return (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)


@settings(max_examples=15)
@given(st.integers(0, 1000), st.integers(2, 40))
def test_recall_equals_ranking_in_loops_and_ignores_chunks_and_order(seed, n):
    a, b, lonlat = unit(n, 5, seed), unit(n, 5, seed + 1), random_points(n, seed)
    found = retrieval(a, b, lonlat)
    ranks = [sum(float(a[i] @ other) > float(a[i] @ b[i]) for other in b) for i in range(n)]
    for k in (1, 5, 10):
        assert found[f"recall@{k}"] == pytest.approx(np.mean([rank < k for rank in ranks]))
    assert retrieval(a, b, lonlat, chunk=3)["recall@5"] == pytest.approx(found["recall@5"])
    order = np.random.default_rng(seed).permutation(n)
    assert retrieval(a[order], b[order], lonlat[order])["median_km"] == pytest.approx(found["median_km"])


def test_a_random_space_is_at_chance():
    n = 3000
    found = retrieval(unit(n, 16, 0), unit(n, 16, 1), random_points(n, 0))
    for k in (1, 5, 10):
        spread = (k / n / n) ** 0.5
        assert abs(found[f"recall@{k}"] - found[f"chance@{k}"]) < 5 * spread
    assert found["median_km"] == pytest.approx(found["chance_median_km"], rel=0.05)
    assert found["chance_median_km"] == pytest.approx(np.pi / 2 * 6371, rel=0.03)  # uniform on a sphere: a quarter turn


def test_a_constant_space_is_at_chance_too():
    n = 500
    for constant in (np.full((n, 4), 0.5, np.float32), np.repeat(unit(1, 255, 0), n, 0)):  # sums exact, and rounded
        found = retrieval(constant, constant, random_points(n, 0), chunk=97)
        assert found["recall@1"] == pytest.approx(1 / n) and found["recall@10"] == pytest.approx(10 / n)
        assert found["median_km"] == pytest.approx(found["chance_median_km"], rel=0.1)


def test_vectors_without_unit_length_are_refused():
    bad = unit(5, 4, 0)
    bad[3] = np.nan
    with pytest.raises(ValueError, match="gallery row 3 is not a unit vector"):
        retrieval(unit(5, 4, 0), bad, random_points(5))
