"""Probes against scikit-learn, and what must not leak into them."""

import inspect

import numpy as np
import pandas as pd
import pytest

from geonb.data.sampling import random_points
from geonb.evaluation import probes
from geonb.evaluation.probes import ConstantProbe, KrigingProbe, NeighboursProbe, RidgeProbe, score
from geonb.evaluation.tasks import TASKS, Task
from geonb.geo import EARTH_RADIUS_KM, unit_xyz

sklearn_linear = pytest.importorskip("sklearn.linear_model")


def field(n=600, d=12, seed=0):
    """Positions, features that vary smoothly in space, a linear target, and a class."""
    rng = np.random.default_rng(seed)
    lonlat = random_points(n, seed)
    x = np.cos(np.radians(lonlat) @ rng.normal(size=(2, d)) * 2) + 0.3 * rng.normal(size=(n, d))
    y = x @ rng.normal(size=d) + 0.5 * rng.normal(size=n)
    return lonlat, x, y, np.where(y > 0, "wet", "dry")


def linear(x, y, lonlat, kind="regression", labels=None):
    """Predictions and score of the last places by a probe of the first 400, and its penalty."""
    predicted, penalty = RidgeProbe(x[:400], lonlat[:400]).predict(y[:400] if labels is None else labels, x[400:], kind)
    return predicted, score(y[400:], predicted, kind), penalty


def test_ridge_equals_scikit_learn_at_the_chosen_penalty():
    metrics = pytest.importorskip("sklearn.metrics")
    lonlat, x, y, label = field()
    predicted, found, penalty = linear(x, y, lonlat)
    scaled = (x - x[:400].mean(0)) / x[:400].std(0)
    reference = sklearn_linear.Ridge(alpha=penalty).fit(scaled[:400], y[:400]).predict(scaled[400:])
    np.testing.assert_allclose(predicted, reference, rtol=1e-8)
    assert found == pytest.approx(metrics.r2_score(y[400:], predicted))
    predicted, _, penalty = linear(x, label, lonlat, "classification")
    reference = sklearn_linear.RidgeClassifier(alpha=penalty).fit(scaled[:400], label[:400])
    assert (predicted == reference.predict(scaled[400:])).all()


def test_the_penalty_is_the_one_that_blocked_cross_validation_prefers():
    lonlat, x, y, _ = field(300)
    x = (x - x.mean(0)) / x.std(0)
    fold = probes._folds(lonlat, probes.FOLD_KM)
    losses = []
    for alpha in probes.ALPHAS:
        fits = [(sklearn_linear.Ridge(alpha=alpha).fit(x[fold != f], y[fold != f]), fold == f) for f in np.unique(fold)]
        losses.append(sum(((model.predict(x[out]) - y[out]) ** 2).sum() for model, out in fits))
    assert RidgeProbe(x, lonlat).predict(y, x, "regression")[1] == probes.ALPHAS[np.argmin(losses)]


def test_no_probe_receives_the_labels_of_test_places():
    assert ConstantProbe().predict([1.0, 2.0, 6.0], [0, 1], "regression")[0].tolist() == [3.0, 3.0]
    assert ConstantProbe().predict(["a", "b", "b"], [0, 1], "classification")[0].tolist() == ["b", "b"]
    for kind in (RidgeProbe, NeighboursProbe, KrigingProbe, ConstantProbe):
        assert len(inspect.signature(kind.predict).parameters) == 4  # self, training labels, test places, kind
    lonlat, x, y, _ = field()
    shuffled = np.random.default_rng(2).permutation(y[:400])
    assert linear(x, y, lonlat, labels=shuffled)[1] < 0.1 < 0.8 < linear(x, y, lonlat)[1]


def test_inner_folds_are_whole_blocks_and_places_where_there_is_one_block():
    lonlat = random_points(2000, 3)
    fold, cell = probes._folds(lonlat, 500.0), probes.blocks(lonlat, 500.0)
    assert set(fold) == set(range(probes.FOLDS))
    assert all(len(set(fold[cell == c])) == 1 for c in np.unique(cell))
    city = np.random.default_rng(0).uniform((13.3, 52.4), (13.5, 52.6), (200, 2))
    assert set(probes._folds(city, 500.0)) == set(range(probes.FOLDS))


def test_neighbours_find_a_smooth_field_and_the_label_across_the_antimeridian():
    lonlat = random_points(3000, 0)
    smooth, noise = np.sin(np.radians(lonlat[:, 1]) * 3), np.random.default_rng(0).normal(size=3000)
    probe = NeighboursProbe(lonlat[:2000])
    for y, low, high in ((smooth, 0.97, 1), (noise, -1, 0.05)):
        assert low < score(y[2000:], probe.predict(y[:2000], lonlat[2000:], "regression")[0], "regression") < high
    train = np.array([[179.9, 0.0], [0.0, 0.0], [-90.0, 40.0], [90.0, 40.0]] * 6)
    found, _ = NeighboursProbe(train).predict(["far", "zero", "west", "east"] * 6, [[-179.9, 0.1], [0.3, 0.2]], "classification")
    assert found.tolist() == ["far", "zero"]


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_scores_of_many_draws_at_once_are_scores_of_repeated_places(kind):
    rng = np.random.default_rng(0)
    truth, predicted = rng.normal(size=40) + 100, rng.normal(size=40) + 100
    if kind == "classification":
        truth, predicted = rng.choice(["a", "b", "c"], 40), rng.choice(["a", "b", "d"], 40)
    weights = rng.integers(0, 3, (6, 40))
    repeated = [(np.repeat(truth, w), np.repeat(predicted, w)) for w in weights]
    np.testing.assert_allclose(score(truth, predicted, kind, weights), [score(*r, kind) for r in repeated])


def test_a_representation_that_is_not_finite_is_refused_by_row():
    lonlat, x, y, _ = field(50)
    x[7, 3] = np.nan
    with pytest.raises(ValueError, match="training places: row 7 is not finite"):
        RidgeProbe(x, lonlat)


def test_targets_are_scaled_as_the_table_says():
    assert TASKS["log-population"].target(np.array([0.0, 99.0, np.nan]))[:2].tolist() == [0.0, 2.0]
    assert TASKS["country"].target(np.array(["France", None, ""], object)).tolist() == ["France", None, None]
    classes = Task("x", "classification")
    assert classes.target(np.array([False, True, 0, np.nan, pd.NA], object)).tolist() == ["False", "True", "0", None, None]


def wave(n=400, seed=0):
    lonlat = random_points(n, seed)
    return lonlat, np.sin(np.radians(2 * lonlat[:, 0])) * np.cos(np.radians(lonlat[:, 1])) + 0.02 * lonlat[:, 1]


def test_kriging_is_a_gaussian_process_of_the_largest_likelihood():
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Matern, WhiteKernel

    lonlat, y = wave(64)
    query = random_points(50, 9)
    found, noise = KrigingProbe(lonlat).predict(y, query, "regression")
    likelihoods, agree = [], []
    for km in probes.KRIGING_KM:
        kernel = Matern(km / EARTH_RADIUS_KM, nu=1.5) + WhiteKernel(noise)
        gp = GaussianProcessRegressor(kernel, alpha=0.0, optimizer=None).fit(unit_xyz(lonlat), y - y.mean())
        agree.append(np.allclose(gp.predict(unit_xyz(query)) + y.mean(), found, atol=1e-8))
        covariance = kernel(unit_xyz(lonlat))
        scale = (y - y.mean()) @ np.linalg.solve(covariance, y - y.mean()) / len(y)  # the best signal variance
        likelihoods.append(-np.linalg.slogdet(covariance)[1] - len(y) * np.log(scale))
    assert sum(agree) == 1 and agree.index(True) == int(np.argmax(likelihoods))


def test_kriging_of_classes_and_of_few_places():
    (lonlat, y), (query, truth) = wave(), wave(200, 1)
    side, _ = KrigingProbe(lonlat).predict(np.where(y > 0, "up", "down"), query, "classification")
    assert score(np.where(truth > 0, "up", "down"), side, "classification") > 0.9
    assert np.isfinite(KrigingProbe(lonlat[:30]).predict(y[:30], query, "regression")[0]).all()  # fewer than neighbours
