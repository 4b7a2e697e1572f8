"""Planes of embeddings: repeatable, honest about what they keep, and open to new points."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from geonb.explore.projection import K, align, as_colours, fit_projection, project, projection_scores, stability

pytest.importorskip("umap")


def clusters(n=300, groups=6, d=16, seed=0, noise=0.25):
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.normal(size=(d, groups)))[0].T
    z = centres[np.arange(n) % groups] + rng.normal(size=(n, d)) * noise
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def nearest(distance, k):
    return np.argsort(distance + np.diag(np.full(len(distance), np.inf)), axis=1, kind="stable")[:, :k]


def test_scores_are_their_definitions(monkeypatch):
    z, rng = clusters(240), np.random.default_rng(1)
    xy = project(z, "pca")
    pairs = zip(nearest(1 - z @ z.T, K), nearest(np.linalg.norm(xy[:, None] - xy, axis=2), K), strict=True)
    kept = np.mean([len(set(a) & set(b)) / K for a, b in pairs])
    assert projection_scores(z, xy).kept == pytest.approx(kept, abs=1e-9)
    good, shuffled = projection_scores(z, project(z, "pca")), projection_scores(z, rng.permutation(project(z, "pca")))
    assert good.trustworthiness > 0.8 and good.distances > 0.5
    assert abs(shuffled.trustworthiness - 0.5) < 0.08 and abs(shuffled.kept - K / 239) < 0.02
    assert abs(shuffled.distances) < 0.05
    monkeypatch.setattr("geonb.explore.projection.SCORED", 100)
    some = projection_scores(z, project(z, "pca"))
    assert some.rows == 100 and f"chance {K / 99:.1%}" in str(some)


def test_the_same_in_another_process_whatever_its_threads():
    script = (
        "import sys; sys.path.insert(0, 'tests/explore'); from test_projection import clusters; import torch, hashlib;"
        "from geonb.explore.projection import fit_projection; torch.set_num_threads(1);"
        "fitted = fit_projection(clusters(), seed=5, epochs=60); fitted.transform(clusters()[:9]);"
        "print(hashlib.sha256(fitted.xy.tobytes()).hexdigest(), torch.get_num_threads())"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2"}
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    here = project(clusters(), seed=5, epochs=60)
    # and a picture leaves the threads of torch as they were
    assert said.stdout.split() == [hashlib.sha256(here.tobytes()).hexdigest(), "1"]
    assert not np.array_equal(here, project(clusters(), seed=6, epochs=60))
    assert torch.get_num_threads() >= 1


@pytest.mark.parametrize("method", ["umap", "pca"])
def test_new_points_land_among_their_like_and_move_nothing(method):
    z, new = clusters(600), clusters(60)[::-1]
    fitted = fit_projection(z, method, epochs=100)
    before = fitted.xy.copy()
    xy = fitted.transform(new * 3)  # only directions count
    assert before.dtype == xy.dtype == np.float32
    np.testing.assert_array_equal(xy, fitted.transform(new * 3))
    np.testing.assert_array_equal(fitted.xy, before)
    nearest_row = np.linalg.norm(xy[:, None] - fitted.xy[None], axis=2).argmin(1)
    assert (nearest_row % 6 == np.arange(60)[::-1] % 6).mean() > (0.9 if method == "umap" else 0.5)


def test_of_many_rows_a_sample_is_fitted_and_the_rest_put_in(monkeypatch):
    z = clusters(600)
    full = projection_scores(z, project(z, epochs=100))
    monkeypatch.setattr("geonb.explore.projection.FITTED", 300)
    scores = projection_scores(z, project(z, epochs=100))
    assert scores.trustworthiness > full.trustworthiness - 0.05 and scores.kept > 0.7 * full.kept


def test_stability_ignores_turning_and_sees_what_moves():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(200, 2)), rng.normal(size=(200, 2))
    turned = a @ [[0.6, 0.8], [0.8, -0.6]] * 3 + 7  # turned, mirrored, larger, shifted: the same picture
    same = stability([a, turned])
    assert same.disparity == pytest.approx(0, abs=1e-9) and same.overlap == 1 and same.spread.max() < 1e-6
    np.testing.assert_allclose(align(turned, a) / 3, a - a.mean(0), atol=1e-9)
    moved = a.copy()
    moved[7] += 4
    assert stability([a, moved]).spread.argmax() == 7
    assert stability([a, b]).overlap == pytest.approx(K / 199, abs=0.03)


def test_what_cannot_be_projected_is_refused_in_words():
    z = clusters(20)
    for wrong in ({"method": "tsne"}, {"init": "spectral"}):
        with pytest.raises(ValueError, match="choose umap or pca"):
            project(z, **wrong)
    for wrong in ({"neighbors": 1}, {"neighbors": 2.5}, {"min_dist": np.nan}):
        with pytest.raises(ValueError, match="give a whole number from 2, and 0 to 1"):
            project(z, **wrong)
    with pytest.raises(ValueError, match="give rows of .* dimensions, not 2"):
        fit_projection(z, "pca").transform(z[:, :2])
    with pytest.raises(ValueError, match="row 4: not finite"):
        project(np.ma.masked_array(z, np.arange(20)[:, None] + 0 * z == 4), "pca")
    for value, message in ((0, "row 3: all zeros"), (np.nan, "row 3: not finite")):
        wrong = np.where(np.arange(20)[:, None] == 3, value, z)
        with pytest.raises(ValueError, match=message):
            project(wrong)
    with pytest.raises(ValueError, match="row 3"):
        as_colours(wrong)
    for few in (lambda: project(z[:3]), lambda: projection_scores(z, z[:, :2]), lambda: stability([z[:9, :2]] * 2)):
        with pytest.raises(ValueError, match="give at least"):
            few()


@pytest.mark.parametrize("rounding", [0, 1e-6])
@pytest.mark.parametrize("method", ["umap", "pca"])
def test_equal_rows_are_called_equal_and_lie_on_one_point(method, rounding):
    z = np.ones((60, 8)) + rounding * np.random.default_rng(0).normal(size=(60, 8))
    with pytest.warns(UserWarning, match="60 rows are all equal"):
        xy = project(z, method)
    assert xy.shape == (60, 2) and not np.ptp(xy, axis=0).any()
    for compared in (lambda: projection_scores(z, clusters(60)[:, :2]), lambda: stability([xy, xy])):
        with pytest.raises(ValueError, match="are all equal"):
            compared()
    with pytest.warns(UserWarning, match="all equal"):
        assert not np.ptp(as_colours(np.ones((9, 8))), axis=0).any()


def test_some_equal_rows_share_a_point_and_few_rows_are_remarked_on():
    z = np.repeat(clusters(40), [40] + [1] * 39, axis=0)
    xy = project(z, epochs=20)
    assert not np.ptp(xy[:40], axis=0).any() and len(np.unique(xy, axis=0)) == 40
    with pytest.warns(UserWarning, match="only 10 different rows"):
        assert np.isfinite(project(np.repeat(clusters(10), 6, axis=0), epochs=20)).all()


def test_lengths_do_not_count_and_planes_and_colours_have_their_shape():
    z, rng = clusters(50), np.random.default_rng(0)
    for scaled in (z.astype(np.float32) * np.float32(2.0**-100), z * 2.0**100, z * 2.0**1000):
        np.testing.assert_array_equal(project(scaled, epochs=5), project(z, epochs=5))
    for method in ("umap", "pca"):
        assert project(rng.normal(size=(9, 1)), method).shape == (9, 2)
    assert as_colours(np.zeros((0, 8))).shape == (0, 3) and as_colours(rng.normal(size=(9, 2))).shape == (9, 3)
