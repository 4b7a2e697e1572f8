import numpy as np
import pandas as pd
import pytest

from geonb.data.sampling import random_points
from geonb.evaluation import probes
from geonb.evaluation.probes import (
    RidgeProbe,
    balanced_accuracy,
    constant_probe,
    linear_probe,
    neighbours_probe,
    score,
)
from geonb.evaluation.tasks import TASKS, Task
from geonb.geo import EARTH_RADIUS_KM, unit_xyz


def field(n=600, d=12, seed=0):
    """Positions, features that vary smoothly in space, a linear target, and a class."""
    rng = np.random.default_rng(seed)
    lonlat = random_points(n, seed)
    x = np.cos(np.radians(lonlat) @ rng.normal(size=(2, d)) * 2) + 0.3 * rng.normal(size=(n, d))
    y = x @ rng.normal(size=d) + 0.5 * rng.normal(size=n)
    return lonlat, x, y, np.where(y > 0, "wet", "dry")


def test_ridge_equals_scikit_learn_at_the_chosen_penalty():
    linear_model = pytest.importorskip("sklearn.linear_model")
    lonlat, x, y, label = field()
    probe = linear_probe(x[:400], y[:400], x[400:], y[400:], "regression", lonlat[:400])
    mean, spread = x[:400].mean(0), x[:400].std(0)
    reference = linear_model.Ridge(alpha=probe.penalty).fit((x[:400] - mean) / spread, y[:400])
    np.testing.assert_allclose(probe.predictions, reference.predict((x[400:] - mean) / spread), rtol=1e-8)
    metrics = pytest.importorskip("sklearn.metrics")
    assert probe.score == pytest.approx(metrics.r2_score(y[400:], probe.predictions))

    probe = linear_probe(x[:400], label[:400], x[400:], label[400:], "classification", lonlat[:400])
    reference = linear_model.RidgeClassifier(alpha=probe.penalty).fit((x[:400] - mean) / spread, label[:400])
    assert (probe.predictions == reference.predict((x[400:] - mean) / spread)).all()


def test_a_rotation_of_the_representation_changes_little_and_a_label_shuffle_all():
    lonlat, x, y, _ = field()
    x = (x - x.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T  # whitened: standardising commutes
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(12, 12)))[0]
    plain = linear_probe(x[:400], y[:400], x[400:], y[400:], "regression", lonlat[:400]).score
    turned = linear_probe(x[:400] @ rotation, y[:400], x[400:] @ rotation, y[400:], "regression", lonlat[:400]).score
    assert turned == pytest.approx(plain, abs=0.01) and plain > 0.8
    shuffled = np.random.default_rng(2).permutation(y[:400])
    assert linear_probe(x[:400], shuffled, x[400:], y[400:], "regression", lonlat[:400]).score < 0.1


def test_the_test_places_cannot_leak_into_the_probe():
    lonlat, x, y, _ = field()
    one = linear_probe(x[:400], y[:400], x[400:], y[400:], "regression", lonlat[:400])
    other = linear_probe(x[:400], y[:400], x[400:], -100 * y[400:], "regression", lonlat[:400])
    np.testing.assert_array_equal(one.predictions, other.predictions)


def test_inner_folds_are_whole_blocks():
    lonlat = random_points(2000, 3)
    fold, cell = probes._folds(lonlat), probes.blocks(lonlat, probes.FOLD_KM)
    assert set(fold) == set(range(probes.FOLDS))
    assert all(len(set(fold[cell == c])) == 1 for c in np.unique(cell))


def test_neighbours_find_a_smooth_field_and_nothing_in_noise():
    lonlat = random_points(3000, 0)
    smooth = np.sin(np.radians(lonlat[:, 1]) * 3)
    assert neighbours_probe(lonlat[:2000], smooth[:2000], lonlat[2000:], smooth[2000:], "regression").score > 0.97
    noise = np.random.default_rng(0).normal(size=3000)
    assert neighbours_probe(lonlat[:2000], noise[:2000], lonlat[2000:], noise[2000:], "regression").score < 0.05


def test_training_places_of_one_block_are_dealt_out_one_by_one():
    rng = np.random.default_rng(0)
    city = rng.uniform((13.3, 52.4), (13.5, 52.6), (200, 2))
    assert len(np.unique(probes.blocks(city, probes.FOLD_KM))) == 1
    noise, x = rng.normal(size=200), rng.normal(size=(200, 5))
    known = noise[:150], noise[150:], "regression"
    around = neighbours_probe(city[:150], known[0], city[150:], *known[1:])
    alike = probes.embedding_neighbours_probe(x[:150], known[0], x[150:], *known[1:], city[:150])
    assert around.penalty == alike.penalty == max(probes.NEIGHBOURS)  # of noise, the mean of many is the best guess
    assert neighbours_probe(city[:1], [2.0], city[1:3], [2.0, 3.0], "regression").predictions.tolist() == [2.0, 2.0]
    assert probes.embedding_neighbours_probe(x[:1], ["a"], x[1:3], ["a", "b"], "classification", city[:1]).score == 0.5


def test_one_neighbour_is_the_label_next_door_even_across_the_antimeridian():
    train, labels = (
        np.array([[179.9, 0.0], [0.0, 0.0], [-90.0, 40.0], [90.0, 40.0]] * 6),
        ["far east", "zero", "west", "east"] * 6,
    )
    probe = neighbours_probe(train, labels, [[-179.9, 0.1], [0.3, 0.2]], ["far east", "zero"], "classification")
    assert probe.score == 1.0


def test_constants_are_the_mean_and_the_majority():
    assert constant_probe([1.0, 2.0, 6.0], [0.0, 6.0], "regression").predictions.tolist() == [3.0, 3.0]
    assert constant_probe(["a", "b", "b"], ["a", "b"], "classification").score == 0.5


def test_weights_of_the_score_are_repetitions():
    truth, predicted, weights = np.array([1.0, 2.0, 4.0]), np.array([1.5, 2.0, 3.0]), np.array([2, 0, 1])
    repeated = np.repeat(truth, weights), np.repeat(predicted, weights)
    assert score(truth, predicted, "regression", weights) == pytest.approx(score(*repeated, "regression"))


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_scores_of_many_draws_at_once_are_scores_of_repeated_places(kind):
    rng = np.random.default_rng(0)
    truth, predicted = rng.normal(size=40) + 100, rng.normal(size=40) + 100
    if kind == "classification":
        truth, predicted = rng.choice(["a", "b", "c"], 40), rng.choice(["a", "b", "d"], 40)
    weights = rng.integers(0, 3, (6, 40))
    repeated = [(np.repeat(truth, w), np.repeat(predicted, w)) for w in weights]
    np.testing.assert_allclose(score(truth, predicted, kind, weights), [score(*r, kind) for r in repeated])
    if kind == "classification":
        metrics = pytest.importorskip("sklearn.metrics")
        expected = [metrics.balanced_accuracy_score(*r) for r in repeated]
        np.testing.assert_allclose(balanced_accuracy(truth, predicted, weights), expected)
        absent = (truth != "a").astype(float)  # "a" keeps the share it has among all places
        shares = [(predicted[truth == c] == c).mean() for c in "abc"]
        assert balanced_accuracy(truth, predicted, absent) == pytest.approx(np.mean(shares))


def test_the_penalty_is_the_one_that_blocked_cross_validation_prefers():
    linear_model = pytest.importorskip("sklearn.linear_model")
    lonlat, x, y, _ = field(300)
    x = (x - x.mean(0)) / x.std(0)
    fold = probes._folds(lonlat)
    losses = []
    for alpha in probes.ALPHAS:
        fits = [(linear_model.Ridge(alpha=alpha).fit(x[fold != f], y[fold != f]), fold == f) for f in np.unique(fold)]
        losses.append(sum(((model.predict(x[out]) - y[out]) ** 2).sum() for model, out in fits))
    assert RidgeProbe(x, lonlat).probe(y, x, y, "regression").penalty == probes.ALPHAS[np.argmin(losses)]


def test_one_set_of_training_places_serves_many_targets_as_each_alone():
    lonlat, x, y, label = field()
    shared = RidgeProbe(x[:400], lonlat[:400])
    for target, kind in ((y, "regression"), (label, "classification"), (y**2, "regression")):
        alone = linear_probe(x[:400], target[:400], x[400:], target[400:], kind, lonlat[:400])
        together = shared.probe(target[:400], x[400:], target[400:], kind)
        assert (alone.predictions == together.predictions).all() and alone.penalty == together.penalty


def test_a_representation_that_cannot_be_probed_is_refused_by_row():
    lonlat, x, y, _ = field(50)
    x[7, 3] = np.nan
    with pytest.raises(ValueError, match="training places: row 7 is not finite"):
        RidgeProbe(x, lonlat)
    probe = RidgeProbe(np.nan_to_num(x), lonlat)
    with pytest.raises(ValueError, match="test places: row 7"):
        probe.probe(y, x, y, "regression")
    with pytest.raises(ValueError, match="fitted to 12 features, tested with 2"):
        probe.probe(y, lonlat, y, "regression")
    with pytest.raises(ValueError, match="50 training places have 49"):
        RidgeProbe(np.nan_to_num(x), lonlat[:49])


def test_targets_are_scaled_as_the_table_says():
    assert TASKS["log-population"].target(np.array([0.0, 99.0, np.nan]))[:2].tolist() == [0.0, 2.0]
    assert TASKS["country"].target(np.array(["France", None, ""], object)).tolist() == ["France", None, None]
    classes = Task("x", "classification")
    assert classes.target(np.array([0, 1])).tolist() == ["0", "1"]
    assert classes.target(np.array([False, True, np.nan, pd.NA], object)).tolist() == ["False", "True", None, None]
    with pytest.raises(ValueError, match="classification or regression"):
        constant_probe([1.0], [1.0], "ranking")
    assert TASKS["log-population"].target_units == "log10(1 + inhabitants)" and TASKS["elevation"].target_units == "m"
    assert Task("x", "regression").target([1, 2]).tolist() == [1.0, 2.0]


@pytest.mark.parametrize("changes", [{"kind": "ordinal"}, {"kind": "regression", "scaling": "log10(x + 1)"}])
def test_an_unknown_kind_or_scaling_is_refused(changes):
    with pytest.raises(ValueError, match=r"task 'x': unknown .* choose from"):
        Task("x", **changes)


def wave(n=400, seed=0):
    lonlat = random_points(n, seed)
    return lonlat, np.sin(np.radians(2 * lonlat[:, 0])) * np.cos(np.radians(lonlat[:, 1])) + 0.02 * lonlat[:, 1]


def test_kriging_is_a_gaussian_process():
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Matern, WhiteKernel

    lonlat, y = wave(64)
    query = random_points(50, 9)
    found = probes.kriging_probe(lonlat, y, query, np.zeros(50), "regression")
    agree = []
    for km in probes.KRIGING_KM:
        kernel = Matern(km / EARTH_RADIUS_KM, nu=1.5) + WhiteKernel(found.penalty)
        gp = GaussianProcessRegressor(kernel, alpha=0.0, optimizer=None).fit(unit_xyz(lonlat), y - y.mean())
        agree.append(np.allclose(gp.predict(unit_xyz(query)) + y.mean(), found.predictions, atol=1e-8))
    assert sum(agree) == 1


def test_kriging_chooses_the_range_and_noise_of_the_field():
    lonlat, y = wave()
    query, truth = wave(200, 1)
    smooth = probes.kriging_probe(lonlat, y, query, truth, "regression")
    assert smooth.score > 0.98 and smooth.penalty <= 0.03
    rough = probes.kriging_probe(lonlat, np.random.default_rng(0).normal(size=400), query, truth, "regression")
    assert rough.score < 0.1 and rough.penalty >= 1
    side = np.where(y > 0, "up", "down")
    assert probes.kriging_probe(lonlat, side, query, np.where(truth > 0, "up", "down"), "classification").score > 0.9
    far = probes.kriging_probe(lonlat[:30], y[:30], query, truth, "regression")  # fewer places than neighbours
    assert np.isfinite(far.predictions).all()


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_neighbours_in_the_space_equal_scikit_learn(kind):
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

    rng = np.random.default_rng(2)
    x, query, lonlat = rng.normal(size=(300, 8)), rng.normal(size=(80, 8)), random_points(300, 2)
    y = x[:, 0] if kind == "regression" else np.where(x[:, 0] > 0, "a", "b")
    truth = query[:, 0] if kind == "regression" else np.where(query[:, 0] > 0, "a", "b")
    found = probes.embedding_neighbours_probe(x, y, query, truth, kind, lonlat)
    oracle = {"regression": KNeighborsRegressor, "classification": KNeighborsClassifier}[kind]
    expected = oracle(int(found.penalty), metric="cosine").fit(x, y).predict(query)
    if kind == "regression":
        np.testing.assert_allclose(found.predictions, expected)
    else:  # votes may tie
        assert (found.predictions == expected).mean() > 0.97
    assert found.score > 0.3


def test_logistic_and_perceptron_learn_what_they_should():
    rng = np.random.default_rng(3)
    x, lonlat = rng.normal(size=(600, 4)), random_points(600, 3)
    linear = np.where(x[:, 0] + 0.2 * x[:, 1] > 0, "a", "b")
    crossed = np.where(x[:, 0] * x[:, 1] > 0, "a", "b")
    known, new = slice(0, 450), slice(450, 600)

    def logistic(y):
        return probes.logistic_probe(x[known], y[known], x[new], y[new], lonlat[known]).score

    def perceptron(y, kind="classification"):
        return probes.mlp_probe(x[known], y[known], x[new], y[new], kind, lonlat[known]).score

    assert logistic(linear) > 0.95 and logistic(crossed) < 0.7
    assert perceptron(linear) > 0.9 and perceptron(crossed) > 0.85
    assert perceptron(1000 + 50 * x[:, 0] * x[:, 1], "regression") > 0.8
    again = perceptron(crossed)
    assert again == perceptron(crossed)
