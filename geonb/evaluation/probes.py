"""Linear probes of frozen representations, and the reference rows that every table shows beside them.

A probe sees a representation and labels, never coordinates. Ridge solutions are closed form, so a probe is
deterministic and quick; its penalty is chosen by spatially blocked cross-validation inside the training places.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from geonb._coords import unit_xyz
from geonb.data.splits import blocks

ALPHAS = np.logspace(-1, 5, 13)
NEIGHBOURS = (1, 3, 5, 10, 20, 50)
FOLDS = 4
FOLD_KM = 500.0


@dataclass(frozen=True)
class Task:
    """What is predicted from an embedding.

    Attributes:
        column: of the place store. ``kind``: "classification" or "regression".
        units: of the column. ``scaling``: what is done to the column before the probe sees it, a part of the task.
    """

    column: str
    kind: str
    units: str = ""
    scaling: str = "none"

    def target(self, values: np.ndarray) -> np.ndarray:
        """The column as the probe sees it: numbers (NaN where unknown), or str (None where unknown)."""
        if self.kind == "classification":
            return np.array([v if v else None for v in values], object)
        values = np.asarray(values, np.float64)
        return np.log10(1 + values) if self.scaling == "log10(1 + x)" else values


TASKS = {
    "country": Task("country", "classification"),
    "climate": Task("climate", "classification"),
    "elevation": Task("elevation_m", "regression", "m"),
    "log-population": Task("population", "regression", "inhabitants", "log10(1 + x)"),
    "coast distance": Task("coast_km", "regression", "km", "log10(1 + x)"),
}
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


def score(truth, predictions, kind: str, weights=None) -> float:
    """R^2 or accuracy, with optional weights (n,) of the test places."""
    weights = np.ones(len(truth)) if weights is None else np.asarray(weights, np.float64)
    if kind == "classification":
        return float(weights @ (truth == predictions) / weights.sum())
    mean = weights @ truth / weights.sum()
    return float(1 - weights @ (truth - predictions) ** 2 / (weights @ (truth - mean) ** 2))


def linear_probe(train_x, train_y, test_x, test_y, kind: str, train_lonlat) -> Probe:
    """Ridge regression, or ridge classification on one-hot targets, from a representation (n, d).

    Features are standardised by the training places. ``train_lonlat`` (n, 2) places the inner folds; it is
    not a feature.
    """
    train_x, test_x = np.asarray(train_x, np.float64), np.asarray(test_x, np.float64)
    mean, spread = train_x.mean(0), train_x.std(0)
    spread[spread < 1e-9] = 1.0
    x, x_test = (train_x - mean) / spread, (test_x - mean) / spread
    classes, y = _encoded(train_y, kind)
    fold = _folds(train_lonlat)

    gram, cross, offset = x.T @ x, x.T @ (y - y.mean(0)), y.mean(0)
    losses = np.zeros(len(ALPHAS))
    for f in range(FOLDS):
        out = fold == f
        solve = _ridge_path(gram - x[out].T @ x[out], cross - x[out].T @ (y[out] - offset))
        for i, alpha in enumerate(ALPHAS):
            losses[i] += _loss(x[out] @ solve(alpha) + offset, y[out], kind)
    alpha = float(ALPHAS[losses.argmin()])
    return _probe(x_test @ _ridge_path(gram, cross)(alpha) + offset, test_y, classes, kind, alpha)


def neighbours_probe(train_lonlat, train_y, test_lonlat, test_y, kind: str) -> Probe:
    """k nearest training places on the sphere, weighted by 1 / distance; the reference that only looks around."""
    classes, y = _encoded(train_y, kind)
    xyz, fold = unit_xyz(train_lonlat), _folds(train_lonlat)
    losses = np.zeros(len(NEIGHBOURS))
    for f in range(FOLDS):
        out = fold == f
        for i, k in enumerate(NEIGHBOURS):
            losses[i] += _loss(_look_around(xyz[~out], y[~out], xyz[out], k), y[out], kind)
    k = NEIGHBOURS[losses.argmin()]
    return _probe(_look_around(xyz, y, unit_xyz(test_lonlat), k), test_y, classes, kind, k)


def constant_probe(train_y, test_y, kind: str) -> Probe:
    """The training places' mean, or their most frequent class."""
    classes, y = _encoded(train_y, kind)
    return _probe(np.repeat(y.mean(0)[None], len(test_y), 0), test_y, classes, kind, 0.0)


def raw_coordinates(lonlat) -> np.ndarray:
    """Longitude and latitude as they are, the representation (n, 2) of the reference row of that name."""
    return np.asarray(lonlat, np.float64)


def untrained_encoding(lonlat, degrees: int = 20) -> np.ndarray:
    """Spherical harmonics (n, degrees**2) without a network, and without anything learned."""
    import torch

    from geonb.encoders.location import positional_encoding

    encoding = positional_encoding("spherical_harmonics", degrees=degrees)
    return encoding(torch.from_numpy(np.asarray(lonlat, np.float64))).numpy()


def _encoded(y, kind: str):
    """(classes, one-hot (n, c)) or (None, values (n, 1))."""
    if kind == "classification":
        classes, index = np.unique(np.asarray(y, str), return_inverse=True)
        return classes, np.eye(len(classes))[index]
    if kind == "regression":
        return None, np.asarray(y, np.float64)[:, None]
    raise ValueError(f"unknown kind {kind!r}; a probe does classification or regression")


def _folds(lonlat) -> np.ndarray:
    """Fold number (n,): whole spatial blocks, dealt out at random."""
    cells, index = np.unique(blocks(lonlat, FOLD_KM), return_inverse=True)
    deal = np.random.default_rng(0).permutation(len(cells)) % FOLDS
    return deal[index]


def _ridge_path(gram, cross):
    """Solutions of (gram + alpha I) w = cross for any alpha, from one eigendecomposition."""
    values, vectors = np.linalg.eigh(gram)
    projected = vectors.T @ cross
    return lambda alpha: vectors @ (projected / (np.maximum(values, 0) + alpha)[:, None])


def _loss(predicted, y, kind: str) -> float:
    if kind == "classification":
        return float((predicted.argmax(1) != y.argmax(1)).sum())
    return float(((predicted - y) ** 2).sum())


def _look_around(xyz, y, query, k: int) -> np.ndarray:
    k = min(k, len(xyz))
    distance, index = cKDTree(xyz).query(query, k=k)
    weight = 1 / np.maximum(distance.reshape(len(query), k), 1e-6)
    return np.einsum("qk,qkc->qc", weight / weight.sum(1, keepdims=True), y[index.reshape(len(query), k)])


def _probe(predicted, test_y, classes, kind: str, penalty: float) -> Probe:
    if kind == "classification":
        test_y = np.asarray(test_y, str)
        predictions = classes[predicted.argmax(1)]
    else:
        test_y, predictions = np.asarray(test_y, np.float64), predicted[:, 0]
    return Probe(predictions, score(test_y, predictions, kind), float(penalty))
