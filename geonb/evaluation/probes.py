"""Linear probes of frozen representations, and the reference rows that every table shows beside them.

A probe sees a representation and labels, never coordinates. Classes are probed by a ridge classifier, which regresses
one-hot targets and predicts the largest: like ridge regression it has a closed form, so one eigendecomposition serves
every penalty and every target, there is nothing to converge, and a probe is deterministic. What that costs: on the
Atlas sample's climate classes, multinomial logistic regression scored 1 to 8 points more accuracy on each of three
representations, at about 50 times the time; do not compare these accuracies with those of a logistic probe.

The penalty is chosen by spatially blocked cross-validation inside the training places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from geonb.data.splits import blocks
from geonb.geo import EARTH_RADIUS_KM, unit_xyz

ALPHAS = np.logspace(-3, 5, 17)
NEIGHBOURS = (1, 3, 5, 10, 20, 50)
FOLDS = 4
FOLD_KM = 500.0
KRIGING_KM = (100.0, 200.0, 400.0, 800.0, 1600.0, 3200.0, 6400.0)
KRIGING_NOISE = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
KRIGING_NEIGHBOURS = 64


MIN_CLASS = 5  # classes with fewer training places are left out, in training and in testing


@dataclass(frozen=True)
class Probe:
    """What a probe predicted for the test places.

    Attributes:
        predictions: (n_test,) numbers or class names.
        score: R^2 (regression) or accuracy (classification) on the test places.
        penalty: the ridge penalty, or the number of neighbours, that inner cross-validation chose.
    """

    predictions: np.ndarray
    score: float
    penalty: float


def score(truth: np.ndarray, predictions: np.ndarray, kind: str, weights: np.ndarray | None = None) -> Any:
    """R^2 or accuracy, with optional weights (n,) of the test places; weights (m, n) give m scores."""
    weights = np.ones(len(truth)) if weights is None else np.asarray(weights, np.float64)
    total = weights.sum(-1)
    if kind == "classification":
        return weights @ (truth == predictions).astype(np.float64) / total
    centred = truth - truth.mean()  # so that the next line does not cancel
    variation = weights @ centred**2 - (weights @ centred) ** 2 / total
    variation = np.where(variation > 0, variation, np.nan)  # constant truth has no R^2
    return 1 - weights @ (truth - predictions) ** 2 / variation


def balanced_accuracy(truth: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None) -> Any:
    """Mean over classes of the share of each that is predicted right, truth and predictions (n,); weights as in
    :func:`score`.

    A class without weight keeps its share among all places: if it were left out, draws would favour the large
    classes, which are easier, and an interval could lie above its value.
    """
    weights = np.ones(len(truth)) if weights is None else np.asarray(weights, np.float64)
    classes, index = np.unique(truth, return_inverse=True)
    member = np.eye(len(classes))[index]
    right = member * (truth == predictions)[:, None]
    count = weights @ member
    return np.where(count > 0, weights @ right / np.maximum(count, 1e-12), right.sum(0) / member.sum(0)).mean(-1)


class RidgeProbe:
    """Ridge regression or classification from one set of training places, for any number of targets.

    Features are standardised by the training places. What does not depend on the target is computed once.

    Args:
        train_x: representation (n, d) of the training places.
        train_lonlat: their positions (n, 2); they place the inner folds, and are not a feature.
        fold_km: edge of the blocks that make the inner folds; the penalty should be chosen by a question as hard as
            the one that is asked.

    Raises:
        ValueError: shapes that do not match, or a representation that is not finite, with the row.
    """

    def __init__(self, train_x: np.ndarray, train_lonlat: np.ndarray, fold_km: float = FOLD_KM) -> None:
        train_x = _finite(train_x, "the representation of training places")
        if len(train_x) != len(train_lonlat):
            raise ValueError(f"{len(train_x)} training places have {len(train_lonlat)} positions")
        self.mean, self.spread = train_x.mean(0), train_x.std(0)
        self.spread[self.spread < 1e-9] = 1.0
        self.x, self.fold = (train_x - self.mean) / self.spread, _folds(train_lonlat, fold_km)
        gram, total = self.x.T @ self.x, self.x.sum(0)
        self._whole = _Path(gram, total, len(self.x))
        self._folds = []
        for f in np.unique(self.fold):
            out = self.x[self.fold == f]
            if len(out) < len(self.x):
                self._folds.append((f, _Path(gram - out.T @ out, total - out.sum(0), len(self.x) - len(out))))

    def probe(self, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray, kind: str) -> Probe:
        """Fit to ``train_y`` (n,), predict and score the test places. Predicted numbers stay within those of training,
        beyond which a linear probe knows nothing and says much.

        Args:
            train_y: labels (n,) of the training places.
            test_x, test_y: representation (t, d) and labels (t,) of the test places.
            kind: "regression" or "classification".

        Raises:
            ValueError: an unknown kind, shapes that do not match, or a representation that is not finite.
        """
        test_x = _finite(test_x, "the representation of test places")
        if test_x.shape[1] != len(self.mean):
            raise ValueError(f"fitted to {len(self.mean)} features, tested with {test_x.shape[1]}")
        if len(train_y) != len(self.x):
            raise ValueError(f"{len(self.x)} training places have {len(train_y)} labels")
        classes, y = _encoded(train_y, kind)
        cross, total = self.x.T @ y, y.sum(0)
        losses = np.zeros(len(ALPHAS))
        for f, path in self._folds:
            out = self.fold == f
            solve = path.solutions(cross - self.x[out].T @ y[out], total - y[out].sum(0), self.x[out])
            losses += [_loss(solve(alpha), y[out], kind) for alpha in ALPHAS]
        alpha = float(ALPHAS[losses.argmin()])
        predicted = self._whole.solutions(cross, total, (test_x - self.mean) / self.spread)(alpha)
        if kind == "regression":
            predicted = predicted.clip(y.min(), y.max())
        return _probe(predicted, test_y, classes, kind, alpha)


class _Path:
    """Ridge solutions for every penalty, from one eigendecomposition of the centred Gram matrix."""

    def __init__(self, gram: np.ndarray, total: np.ndarray, n: int) -> None:
        self.mean, self.n = total / n, n
        self.values, self.vectors = np.linalg.eigh(gram - n * np.outer(self.mean, self.mean))

    def solutions(self, cross: np.ndarray, y_total: np.ndarray, x: np.ndarray) -> Callable[[float], np.ndarray]:
        """A function from the penalty to predictions for x; ``cross`` is X'Y, ``y_total`` the column sums of Y."""
        projected = self.vectors.T @ (cross - np.outer(self.mean, y_total))
        x = (x - self.mean) @ self.vectors
        return lambda alpha: x @ (projected / (np.maximum(self.values, 0) + alpha)[:, None]) + y_total / self.n


def linear_probe(
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    kind: str,
    train_lonlat: np.ndarray,
) -> Probe:
    """Ridge regression, or ridge classification on one-hot targets, from a representation (n, d).

    See :class:`RidgeProbe`; ``train_lonlat`` (n, 2), in degrees, places the inner folds, it is not a feature.

    Raises:
        ValueError: as :class:`RidgeProbe` and its method ``probe``.

    Example:
        A target that is linear in the representation but for noise of a hundredth of its variance:

        >>> import numpy as np
        >>> from geonb.evaluation.probes import linear_probe
        >>> rng = np.random.default_rng(0)
        >>> lonlat, x = rng.uniform((-180, -60), (180, 60), (500, 2)), rng.standard_normal((500, 4))
        >>> y = x @ [5, 5, 5, 5] + rng.standard_normal(500)
        >>> found = linear_probe(x[:400], y[:400], x[400:], y[400:], "regression", lonlat[:400])
        >>> found.predictions.shape, round(found.score, 1)
        ((100,), 1.0)
    """
    return RidgeProbe(train_x, train_lonlat).probe(train_y, test_x, test_y, kind)


def neighbours_probe(
    train_lonlat: np.ndarray,
    train_y: np.ndarray,
    test_lonlat: np.ndarray,
    test_y: np.ndarray,
    kind: str,
    fold_km: float = FOLD_KM,
) -> Probe:
    """k nearest training places on the sphere, weighted by 1 / distance; the reference that only looks around.

    Positions are (n, 2) and (t, 2) degrees, labels (n,) and (t,); k is chosen as the penalty of :class:`RidgeProbe`.
    """
    classes, y = _encoded(train_y, kind)
    xyz, fold = unit_xyz(train_lonlat), _folds(train_lonlat, fold_km)
    losses = np.zeros(len(NEIGHBOURS))
    for f in np.unique(fold):
        out = fold == f
        if out.all():
            continue
        for i, k in enumerate(NEIGHBOURS):
            losses[i] += _loss(_look_around(xyz[~out], y[~out], xyz[out], k), y[out], kind)
    k = NEIGHBOURS[losses.argmin()]
    return _probe(_look_around(xyz, y, unit_xyz(test_lonlat), k), test_y, classes, kind, k)


def kriging_probe(
    train_lonlat: np.ndarray, train_y: np.ndarray, test_lonlat: np.ndarray, test_y: np.ndarray, kind: str
) -> Probe:
    """Kriging on position: the reference that knows nothing but how alike near places are.

    A Gaussian process with a constant mean, a Matérn 3/2 covariance of the chord between two places and independent
    noise (Rasmussen and Williams, 2006, ch. 2, 4, 5). Range and noise have the largest marginal likelihood on at most
    500 training places, among :data:`KRIGING_KM` and :data:`KRIGING_NOISE`; each test place is predicted from its 64
    nearest training places. Classes are kriged as one-hot numbers with one covariance, and the largest wins.
    ``penalty`` is the noise variance over the signal's. Positions are (n, 2) and (t, 2) degrees, labels (n,) and (t,).
    """
    classes, y = _encoded(train_y, kind)
    xyz, query = unit_xyz(train_lonlat), unit_xyz(test_lonlat)
    mean = y.mean(0)
    y = y - mean
    some = np.random.default_rng(0).permutation(len(xyz))[:500]
    chord = np.linalg.norm(xyz[some, None] - xyz[None, some], axis=2)
    best = (-np.inf, 0.0, 0.0)
    for km in KRIGING_KM:
        values, vectors = np.linalg.eigh(_matern(chord * EARTH_RADIUS_KM, km))
        energy = ((vectors.T @ y[some]) ** 2).sum(1)
        for noise in KRIGING_NOISE:
            total = np.maximum(values, 0) + noise
            likelihood = -y.shape[1] * np.log(total).sum() - y[some].size * np.log((energy / total).sum() + 1e-300)
            best = max(best, (likelihood, km, noise))
    _, km, noise = best
    k = min(KRIGING_NEIGHBOURS, len(xyz))
    predicted = np.empty((len(query), y.shape[1]))
    for rows in np.array_split(np.arange(len(query)), 1 + len(query) // 512):
        distance, near = (v.reshape(len(rows), k) for v in cKDTree(xyz).query(query[rows], k=k))
        between = np.linalg.norm(xyz[near][:, :, None] - xyz[near][:, None], axis=3)
        covariance = _matern(between * EARTH_RADIUS_KM, km) + noise * np.eye(k)
        weights = np.linalg.solve(covariance, _matern(distance * EARTH_RADIUS_KM, km)[..., None])[..., 0]
        predicted[rows] = np.einsum("qk,qkc->qc", weights, y[near])
    return _probe(predicted + mean, test_y, classes, kind, noise)


def _matern(km: np.ndarray, range_km: float) -> np.ndarray:
    scaled = np.sqrt(3) * km / range_km
    return (1 + scaled) * np.exp(-scaled)


def embedding_neighbours_probe(
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    kind: str,
    train_lonlat: np.ndarray,
) -> Probe:
    """k nearest training places by cosine similarity of the representation (n, d), with equal votes; inner folds as in
    :func:`linear_probe`."""
    classes, y = _encoded(train_y, kind)
    train_x, test_x = (_unit(_finite(x, "the representation")) for x in (train_x, test_x))
    fold, losses = _folds(train_lonlat), np.zeros(len(NEIGHBOURS))
    for f in np.unique(fold):
        out = fold == f
        if out.all():
            continue
        for i, predicted in enumerate(_votes(train_x[~out], y[~out], train_x[out], NEIGHBOURS)):
            losses[i] += _loss(predicted, y[out], kind)
    k = NEIGHBOURS[losses.argmin()]
    return _probe(_votes(train_x, y, test_x, (k,))[0], test_y, classes, kind, k)


def logistic_probe(
    train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray, train_lonlat: np.ndarray
) -> Probe:
    """Multinomial logistic regression by L-BFGS from a representation (n, d); its penalty chosen as that of
    :class:`RidgeProbe`, from fewer; inner folds as in :func:`linear_probe`."""
    from sklearn.linear_model import LogisticRegression

    return _tuned(
        lambda c: LogisticRegression(C=1 / c, max_iter=300), (1e-2, 1e-1, 1.0, 10.0, 100.0),
        train_x, train_y, test_x, test_y, "classification", train_lonlat,
    )  # fmt: skip


def mlp_probe(
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    kind: str,
    train_lonlat: np.ndarray,
    seed: int = 0,
) -> Probe:
    """A perceptron with two hidden layers of 64 on standardised features (n, d), and a penalty chosen on inner
    folds as in :func:`linear_probe`."""
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    kinds = {"classification": MLPClassifier, "regression": MLPRegressor}
    return _tuned(
        lambda a: kinds[kind](hidden_layer_sizes=(64, 64), alpha=a, max_iter=100, random_state=seed), (1e-4, 1e-2, 1.0),
        train_x, train_y, test_x, test_y, kind, train_lonlat,
    )  # fmt: skip


def _tuned(
    make: Callable,
    penalties: Sequence,
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    kind: str,
    train_lonlat: np.ndarray,
) -> Probe:
    """A scikit-learn estimator with the penalty that inner spatial cross-validation chooses."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning

    train_x, test_x = (_finite(x, "the representation") for x in (train_x, test_x))
    mean, spread = train_x.mean(0), np.maximum(train_x.std(0), 1e-9)
    x, query = (train_x - mean) / spread, (test_x - mean) / spread
    y = np.asarray(train_y, str if kind == "classification" else np.float64)
    centre, unit = (0.0, 1.0) if kind == "classification" else (y.mean(), y.std() or 1.0)
    scaled = y if kind == "classification" else (y - centre) / unit
    fold, losses = _folds(train_lonlat), np.zeros(len(penalties))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # stopping early is a penalty too, alike for all
        for f in np.unique(fold):
            out = fold == f
            if out.all() or (kind == "classification" and len(np.unique(y[~out])) < 2):
                continue
            for i, penalty in enumerate(penalties):
                predicted = make(penalty).fit(x[~out], scaled[~out]).predict(x[out])
                wrong = predicted != y[out] if kind == "classification" else (predicted - scaled[out]) ** 2
                losses[i] += wrong.sum()
        penalty = penalties[int(losses.argmin())]
        predicted = make(penalty).fit(x, scaled).predict(query)
    predictions = predicted if kind == "classification" else predicted * unit + centre
    test_y = np.asarray(test_y, y.dtype if kind == "regression" else str)
    return Probe(predictions, float(score(test_y, predictions, kind)), float(penalty))


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def _votes(x: np.ndarray, y: np.ndarray, query: np.ndarray, ks: Sequence) -> list[np.ndarray]:
    """Mean targets of the k most similar rows, for each k."""
    most = min(max(ks), len(x))
    means = [np.empty((len(query), y.shape[1])) for _ in ks]
    for rows in np.array_split(np.arange(len(query)), 1 + len(query) // 1024):
        similarity = query[rows] @ x.T
        top = np.argpartition(-similarity, most - 1, axis=1)[:, :most]
        order = np.take_along_axis(similarity, top, 1).argsort(1)[:, ::-1]
        near = np.take_along_axis(top, order, 1)
        for mean, k in zip(means, ks, strict=True):
            mean[rows] = y[near[:, : min(k, most)]].mean(1)
    return means


def constant_probe(train_y: np.ndarray, test_y: np.ndarray, kind: str) -> Probe:
    """The training places' mean, or their most frequent class, from labels (n,) alone; scored on labels (t,)."""
    classes, y = _encoded(train_y, kind)
    return _probe(np.repeat(y.mean(0)[None], len(test_y), 0), test_y, classes, kind, 0.0)


def raw_coordinates(lonlat: np.ndarray) -> np.ndarray:
    """Longitude and latitude in degrees as they are, the representation (n, 2) of the reference row of that name."""
    return np.asarray(lonlat, np.float64)


def untrained_encoding(lonlat: np.ndarray, degrees: int = 20) -> np.ndarray:
    """Spherical harmonics (n, degrees**2) without a network, and without anything learned."""
    import torch

    from geonb.encoders.location import positional_encoding

    encoding = positional_encoding("spherical_harmonics", degrees=degrees)
    return encoding(torch.from_numpy(np.asarray(lonlat, np.float64))).numpy()


def _encoded(y: np.ndarray, kind: str) -> tuple[np.ndarray | None, np.ndarray]:
    """(classes, one-hot (n, c)) or (None, values (n, 1))."""
    if kind == "classification":
        classes, index = np.unique(np.asarray(y, str), return_inverse=True)
        return classes, np.eye(len(classes))[index]
    if kind == "regression":
        return None, np.asarray(y, np.float64)[:, None]
    raise ValueError(f"unknown kind {kind!r}; a probe does classification or regression")


def _folds(lonlat: np.ndarray, fold_km: float = FOLD_KM) -> np.ndarray:
    """Fold number (n,): whole spatial blocks, dealt out at random; of a single block, its places."""
    cells, index = np.unique(blocks(lonlat, fold_km), return_inverse=True)
    if len(cells) == 1:
        cells = index = np.arange(len(index))
    deal = np.random.default_rng(0).permutation(len(cells)) % FOLDS
    return deal[index]


def _loss(predicted: np.ndarray, y: np.ndarray, kind: str) -> float:
    if kind == "classification":
        return float((predicted.argmax(1) != y.argmax(1)).sum())
    return float(((predicted - y) ** 2).sum())


def _look_around(xyz: np.ndarray, y: np.ndarray, query: np.ndarray, k: int) -> np.ndarray:
    k = min(k, len(xyz))
    distance, index = (v.reshape(len(query), k) for v in cKDTree(xyz).query(query, k=k))
    weight = 1 / np.maximum(distance, 1e-6)
    weight /= weight.sum(1, keepdims=True)
    return sum(weight[:, [j]] * y[index[:, j]] for j in range(k))


def _probe(predicted: np.ndarray, test_y: np.ndarray, classes: np.ndarray | None, kind: str, penalty: float) -> Probe:
    if classes is not None:
        test_y = np.asarray(test_y, str)
        predictions = classes[predicted.argmax(1)]
    else:
        test_y, predictions = np.asarray(test_y, np.float64), predicted[:, 0]
    return Probe(predictions, float(score(test_y, predictions, kind)), float(penalty))


def _finite(x: np.ndarray, what: str) -> np.ndarray:
    x = np.asarray(x, np.float64)
    if x.ndim != 2:
        raise ValueError(f"{what} must be (n, d), not {x.shape}")
    bad = ~np.isfinite(x).all(1)
    if bad.any():
        raise ValueError(f"{what}: row {int(bad.argmax())} is not finite ({int(bad.sum())} such rows)")
    return x
