"""Planes of embeddings: repeatable, honest about what they keep, and open to new points."""

import os
import subprocess
import sys

import numpy as np
import pytest

from geonb.explore import projection
from geonb.explore.projection import (
    Colours,
    align,
    as_colours,
    fit_projection,
    nearest_by_cosine,
    project,
    projection_scores,
    stability,
)

pytest.importorskip("umap")


def clusters(n=300, groups=6, d=16, seed=0, noise=0.25):
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.normal(size=(d, groups)))[0].T
    z = centres[np.arange(n) % groups] + rng.normal(size=(n, d)) * noise
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def test_scores_equal_scikit_learn():
    manifold = pytest.importorskip("sklearn.manifold")
    from sklearn.neighbors import NearestNeighbors

    z, rng = clusters(240), np.random.default_rng(1)
    for xy in (project(z, "pca"), rng.normal(size=(240, 2))):
        for k in (1, 7, 40):
            scores = projection_scores(z, xy, k=k)
            expected = manifold.trustworthiness(z, xy, n_neighbors=k, metric="cosine")
            assert scores.trustworthiness == pytest.approx(expected, abs=1e-6)
            near = [NearestNeighbors(n_neighbors=k, metric=m).fit(a).kneighbors(return_distance=False)
                    for a, m in ((z, "cosine"), (xy, "euclidean"))]  # fmt: skip
            kept = np.mean([len(set(a) & set(b)) / k for a, b in zip(*near, strict=True)])
            assert scores.kept == pytest.approx(kept, abs=1e-9) and scores.error == 0
            assert scores.by_chance == k / 239


def test_scores_tell_a_good_plane_from_a_shuffled_one_and_a_squeezed_one():
    z = clusters()
    xy = project(z, "pca")
    good, shuffled = projection_scores(z, xy), projection_scores(z, np.random.default_rng(0).permutation(xy))
    assert good.trustworthiness > 0.8 and good.distances > 0.5
    assert abs(shuffled.trustworthiness - 0.5) < 0.08 and abs(shuffled.kept - shuffled.by_chance) < 0.02
    assert abs(shuffled.distances) < 0.05
    assert projection_scores(z, xy * [1, 0]).kept < good.kept
    circle = np.sort(np.random.default_rng(0).uniform(0, np.pi, 200))  # a plane holds a half circle whole
    flat = np.stack([np.cos(circle), np.sin(circle)], 1)
    assert projection_scores(flat, flat, k=5).trustworthiness == pytest.approx(1, abs=1e-4)


def test_sampled_scores_are_near_those_of_all_rows():
    z = clusters(1500)
    xy = project(z, "pca")
    full, some = projection_scores(z, xy, rows=2000), projection_scores(z, xy, rows=300)
    assert (full.rows, some.rows, some.of) == (1500, 300, 1500) and "300 of 1,500" in str(some)
    assert abs(full.kept - some.kept) < 4 * some.error and 0 < some.error < 0.02
    assert some.trustworthiness == pytest.approx(full.trustworthiness, abs=0.02)


def test_the_same_in_another_process_whatever_its_threads():
    script = (
        "import sys; sys.path.insert(0, 'tests/explore'); from test_projection import clusters;"
        "from geonb.explore.projection import project; import hashlib;"
        "print(hashlib.sha256(project(clusters(), seed=5, epochs=60).tobytes()).hexdigest())"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    import hashlib

    here = project(clusters(), seed=5, epochs=60)
    assert said.stdout.strip() == hashlib.sha256(here.tobytes()).hexdigest()
    assert not np.array_equal(here, project(clusters(), seed=6, epochs=60))


def test_a_picture_leaves_the_threads_of_torch_as_they_were():
    script = (
        "import sys; sys.path.insert(0, 'tests/explore'); from test_projection import clusters; import torch;"
        "from geonb.explore.projection import fit_projection; z = clusters(); torch.set_num_threads(1);"
        "fitted = fit_projection(z, epochs=20); said = [torch.get_num_threads()]; fitted.transform(z[:9] + .1);"
        "print(said + [torch.get_num_threads()])"
    )
    environment = os.environ | {"NUMBA_NUM_THREADS": "2"}
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert said.stdout.strip() == "[1, 1]"


def test_only_directions_count():
    z = clusters()
    lengths = np.random.default_rng(0).uniform(0.5, 3, (300, 1))
    a, b = project(z, epochs=60), project(z * lengths, epochs=60)
    assert projection_scores(z, b).kept == pytest.approx(projection_scores(z, a).kept, abs=0.05)
    np.testing.assert_allclose(project(z, "pca"), project(z * lengths, "pca"), atol=1e-5)


@pytest.mark.parametrize("method", ["umap", "pca"])
def test_new_points_land_among_their_like_and_move_nothing(method):
    z, new = clusters(600), clusters(60, seed=0, noise=0.25)[::-1]
    fitted = fit_projection(z, method, epochs=100)
    before = fitted.xy.copy()
    xy = fitted.transform(new)
    np.testing.assert_array_equal(xy, fitted.transform(new))
    np.testing.assert_array_equal(fitted.xy, before)
    nearest = np.linalg.norm(xy[:, None] - fitted.xy[None], axis=2).argmin(1)
    assert (nearest % 6 == np.arange(60)[::-1] % 6).mean() > (0.95 if method == "umap" else 0.5)
    with pytest.raises(ValueError, match="3 dimensions"):
        fitted.transform(np.ones((2, 3)))


def test_neighbours_of_many_rows_are_found_and_what_is_missed_is_measured(monkeypatch):
    z = clusters(1200, groups=20, d=40).astype(np.float32)
    exact, distance = nearest_by_cosine(z, 10)
    monkeypatch.setattr(projection, "EXACT", 500)
    found, far = nearest_by_cosine(z, 10)
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, found, strict=True)]) >= projection.RECALL - 0.01
    np.testing.assert_array_equal(found[:, 0], np.arange(1200))
    np.testing.assert_allclose(np.sort(far[:, 1:]), far[:, 1:], atol=0)
    assert (far[:, 1:] >= distance[:, 1:] - 1e-6).all()
    assert 0.97 < fit_projection(z, epochs=2, neighbors=10).recall <= 1
    noise = np.random.default_rng(0).normal(size=(800, 40))  # no clusters at all: more and more are looked at
    found, _ = nearest_by_cosine(noise, 10)
    monkeypatch.setattr(projection, "EXACT", 2000)
    exact, _ = nearest_by_cosine(noise, 10)
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, found, strict=True)]) > 0.95


def test_doubles_by_the_hundred_do_not_break_the_search(monkeypatch):
    monkeypatch.setattr(projection, "EXACT", 100)
    z = np.repeat(clusters(10), 60, axis=0)
    found, far = nearest_by_cosine(z, 8)
    np.testing.assert_allclose(far, 0, atol=1e-5)
    assert all(len(set(row)) == 8 for row in found) and np.isfinite(project(z, epochs=20)).all()


def test_stability_equals_scipy_and_sees_what_moves():
    procrustes = pytest.importorskip("scipy.spatial").procrustes
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(200, 2)), rng.normal(size=(200, 2))
    assert stability([a, b]).disparity == pytest.approx(procrustes(a, b)[2])
    turned = a @ [[0.6, 0.8], [0.8, -0.6]] * 3 + 7  # turned, mirrored, larger, elsewhere: the same picture
    same = stability([a, turned])
    assert same.disparity == pytest.approx(0, abs=1e-9) and same.overlap == 1 and same.spread.max() < 1e-6
    np.testing.assert_allclose(align(turned, a) / 3, a - a.mean(0), atol=1e-9)
    moved = a.copy()
    moved[7] += 4
    report = stability([a, moved], k=5)
    assert report.spread.argmax() == 7 and 0.9 < report.overlap < 1 and "between 2 seeds" in str(report)
    assert stability([a, b]).overlap == pytest.approx(15 / 199, abs=0.03)


def test_a_start_from_principal_components_is_what_makes_the_arrangement_stable():
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, 300)
    z = np.concatenate([np.stack([np.cos(angle), np.sin(angle)], 1), rng.normal(size=(300, 6)) * 0.1], 1)  # a ring
    planes = {init: [project(z, seed=s, init=init, epochs=80) for s in (0, 1, 2)] for init in ("pca", "random")}
    pca, chance = (stability(planes[init]) for init in ("pca", "random"))
    assert pca.disparity < 0.1 < chance.disparity - 0.1 and abs(pca.overlap - chance.overlap) < 0.2


def test_colours_fitted_once_are_the_same_for_every_part():
    z = clusters()
    paint = Colours(z)
    np.testing.assert_array_equal(np.concatenate([paint(z[:100]), paint(z[100:])]), as_colours(z))


def test_what_cannot_be_projected_is_refused_in_words():
    z = clusters(20)
    for wrong, message in (
        ({"method": "tsne"}, "choose umap or pca"),
        ({"init": "spectral"}, "choose pca or random"),
        ({"neighbors": 1}, "at least 2"),
        ({"min_dist": 2}, r"in \[0, 1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            project(z, **wrong)
    with pytest.raises(ValueError, match="row 3: all zeros"):
        project(np.where(np.arange(20)[:, None] == 3, 0, z))
    with pytest.raises(ValueError, match="below half of the 20"):
        projection_scores(z, z[:, :2], k=10)
    with pytest.raises(ValueError, match="finite"):
        projection_scores(z, z[:, :2] * np.nan)
    with pytest.raises(ValueError, match="at least two planes"):
        stability([z[:, :2]])
    with pytest.raises(ValueError, match="coincide"):
        stability([np.ones((20, 2)), z[:, :2]], k=3)
