"""Linear probes of frozen representations, and the reference rows of every table.

No probe sees labels of test places. Penalties are chosen by blocked cross-validation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from geonb.geo import EARTH_RADIUS_KM, blocks, unit_xyz

Prediction = tuple[np.ndarray, float]  # of places, and the penalty that was chosen
ALPHAS = np.logspace(-3, 5, 17)
NEIGHBOURS = (1, 3, 5, 10, 20, 50)
FOLDS = 4
FOLD_KM = 500.0
KRIGING_KM = (100.0, 200.0, 400.0, 800.0, 1600.0, 3200.0, 6400.0)
KRIGING_NOISE = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
KRIGING_NEIGHBOURS = 64
KRIGING_PLACES = 500  # at most, by which range and noise are chosen


def score(truth: np.ndarray, predictions: np.ndarray, kind: str, weights: np.ndarray | None = None) -> Any:
    """Compute R² or accuracy of places (n,); weights (m, n) give m scores."""
    weights = np.ones(len(truth)) if weights is None else np.asarray(weights, np.float64)
    total = weights.sum(-1)
    if kind == "classification":
        return weights @ (truth == predictions).astype(np.float64) / total
    centred = truth - truth.mean()  # or the next line cancels
    variation = weights @ centred**2 - (weights @ centred) ** 2 / total
    variation = np.where(variation > 0, variation, np.nan)  # constant truth has no R²
    return 1 - weights @ (truth - predictions) ** 2 / variation


class RidgeProbe:
    """Ridge regression, of one-hot targets for classes, from one set of training places.

    Args:
        x: representation (n, d), standardised.
        lonlat: positions (n, 2), degrees; they place the inner folds, and are no feature.
        fold_km: edge of the inner folds' blocks; larger ones choose a larger penalty.

    Raises:
        ValueError: a representation that is not finite.
    """

    def __init__(self, x: np.ndarray, lonlat: np.ndarray, fold_km: float = FOLD_KM) -> None:
        x = _finite(x, "representation of training places")
        self.mean, self.spread = x.mean(0), x.std(0)
        self.spread[self.spread < 1e-9] = 1.0
        self.x, self.fold = (x - self.mean) / self.spread, _folds(lonlat, fold_km)
        gram, total = self.x.T @ self.x, self.x.sum(0)
        self._whole = _ridge(gram, total, len(self.x))
        self._folds = []
        for f in np.unique(self.fold):
            out = self.x[self.fold == f]
            n = len(self.x) - len(out)
            self._folds.append((f, _ridge(gram - out.T @ out, total - out.sum(0), n)))

    def predict(self, y: np.ndarray, x: np.ndarray, kind: str) -> Prediction:
        """Predict representations x (t, d) from training labels (n,), and return the penalty.

        Numbers are clipped to the range of the labels, as linear probes extrapolate badly.
        ``kind``: "regression" or "classification".
        """
        x = _finite(x, "representation of test places")
        classes, y = _encoded(y, kind)
        cross, total = self.x.T @ y, y.sum(0)
        losses = np.zeros(len(ALPHAS))
        for f, solutions in self._folds:
            out = self.fold == f
            solve = solutions(cross - self.x[out].T @ y[out], total - y[out].sum(0), self.x[out])
            losses += [_loss(solve(alpha), y[out], kind) for alpha in ALPHAS]
        alpha = float(ALPHAS[losses.argmin()])
        predicted = self._whole(cross, total, (x - self.mean) / self.spread)(alpha)
        if classes is None:
            predicted = predicted.clip(y.min(), y.max())
        return _decoded(predicted, classes), alpha


def _ridge(gram: np.ndarray, total: np.ndarray, n: int) -> Callable:
    """Ridge solutions for every penalty, from one eigendecomposition of the Gram matrix."""
    mean = total / n
    values, vectors = np.linalg.eigh(gram - n * np.outer(mean, mean))

    def solutions(cross: np.ndarray, y_total: np.ndarray, x: np.ndarray) -> Callable:
        """Predictions for x by penalty; ``cross`` is X'Y, ``y_total`` the column sums of Y."""
        projected = vectors.T @ (cross - np.outer(mean, y_total))
        rotated = (x - mean) @ vectors
        return lambda alpha: rotated @ (projected / (np.maximum(values, 0) + alpha)[:, None]) + y_total / n

    return solutions


class ConstantProbe:
    """The mean or the most frequent class of the training labels."""

    def predict(self, y: np.ndarray, x: np.ndarray, kind: str) -> Prediction:
        """Predict the same for all of ``x`` (t, any) from labels (n,), with penalty 0."""
        classes, y = _encoded(y, kind)
        return _decoded(np.repeat(y.mean(0)[None], len(x), 0), classes), 0.0


class NeighboursProbe:
    """The k nearest training places (n, 2), degrees, weighted by 1 / distance."""

    def __init__(self, lonlat: np.ndarray, fold_km: float = FOLD_KM) -> None:
        self.xyz, self.fold = unit_xyz(lonlat), _folds(lonlat, fold_km)

    def predict(self, y: np.ndarray, lonlat: np.ndarray, kind: str) -> Prediction:
        """Predict positions (t, 2), degrees, from labels (n,). The penalty is k."""
        classes, y = _encoded(y, kind)
        losses = np.zeros(len(NEIGHBOURS))
        for f in np.unique(self.fold):
            out = self.fold == f
            near = (_weighted(self.xyz[~out], y[~out], self.xyz[out], k) for k in NEIGHBOURS)
            losses += [_loss(predicted, y[out], kind) for predicted in near]
        k = NEIGHBOURS[losses.argmin()]
        return _decoded(_weighted(self.xyz, y, unit_xyz(lonlat), k), classes), float(k)


class KrigingProbe:
    """Kriging of training places (n, 2), degrees (Rasmussen and Williams, 2006, ch. 2, 4, 5).

    A Gaussian process with a constant mean, a Matérn 3/2 covariance of the chord and noise, of the
    largest marginal likelihood on at most 500 training places.
    """

    def __init__(self, lonlat: np.ndarray) -> None:
        self.xyz = unit_xyz(lonlat)
        self.some = np.random.default_rng(0).permutation(len(self.xyz))[:KRIGING_PLACES]
        chord = np.linalg.norm(self.xyz[self.some, None] - self.xyz[None, self.some], axis=2)
        self._spectra = [(km, *np.linalg.eigh(_matern(chord, km))) for km in KRIGING_KM]

    def predict(self, y: np.ndarray, lonlat: np.ndarray, kind: str) -> Prediction:
        """Predict positions (t, 2), degrees, from labels (n,); the penalty is noise / signal."""
        classes, y = _encoded(y, kind)
        mean = y.mean(0)
        y = y - mean
        _, km, noise = max(self._fits(y[self.some]))
        predicted = []
        for query in np.array_split(unit_xyz(lonlat), 1 + len(lonlat) // 512):
            distance, near = _nearest(self.xyz, query, KRIGING_NEIGHBOURS)
            between = np.linalg.norm(self.xyz[near][:, :, None] - self.xyz[near][:, None], axis=3)
            among = _matern(between, km) + noise * np.eye(near.shape[1])
            weights = np.linalg.solve(among, _matern(distance, km)[..., None])[..., 0]
            predicted.append(np.einsum("qk,qkc->qc", weights, y[near]))
        return _decoded(np.concatenate(predicted) + mean, classes), noise

    def _fits(self, y: np.ndarray) -> Iterator[tuple[float, float, float]]:
        """Log likelihoods up to a constant, ranges in km and noises."""
        for km, values, vectors in self._spectra:
            energy = ((vectors.T @ y) ** 2).sum(1)
            for noise in KRIGING_NOISE:
                total = np.maximum(values, 0) + noise
                fit = -y.shape[1] * np.log(total).sum() - y.size * np.log((energy / total).sum() + 1e-300)
                yield fit, km, noise


def _matern(chord: np.ndarray, range_km: float) -> np.ndarray:
    scaled = np.sqrt(3) * (chord * EARTH_RADIUS_KM) / range_km
    return (1 + scaled) * np.exp(-scaled)


def untrained_encoding(lonlat: np.ndarray, degrees: int = 20) -> np.ndarray:
    """Encode positions (n, 2), degrees, by spherical harmonics (n, degrees**2)."""
    import torch

    from geonb.encoders.location import positional_encoding

    encoding = positional_encoding("spherical_harmonics", degrees=degrees)
    return encoding(torch.from_numpy(np.asarray(lonlat, np.float64))).numpy()


def _encoded(y: np.ndarray, kind: str) -> tuple[np.ndarray | None, np.ndarray]:
    """Classes and one-hot labels (n, c), or None and values (n, 1)."""
    if kind == "regression":
        return None, np.asarray(y, np.float64)[:, None]
    classes, index = np.unique(np.asarray(y, str), return_inverse=True)
    return classes, np.eye(len(classes))[index]


def _decoded(predicted: np.ndarray, classes: np.ndarray | None) -> np.ndarray:
    return predicted[:, 0] if classes is None else classes[predicted.argmax(1)]


def _folds(lonlat: np.ndarray, fold_km: float) -> np.ndarray:
    """Deal whole spatial blocks out to folds (n,); places, where all lie in one block."""
    cells, index = np.unique(blocks(lonlat, fold_km), return_inverse=True)
    if len(cells) == 1:
        cells = index = np.arange(len(index))
    deal = np.random.default_rng(0).permutation(len(cells)) % FOLDS
    return deal[index]


def _loss(predicted: np.ndarray, y: np.ndarray, kind: str) -> float:
    if kind == "classification":
        return float((predicted.argmax(1) != y.argmax(1)).sum())
    return float(((predicted - y) ** 2).sum())


def _weighted(xyz: np.ndarray, y: np.ndarray, query: np.ndarray, k: int) -> np.ndarray:
    distance, near = _nearest(xyz, query, k)
    weight = 1 / np.maximum(distance, 1e-6)
    weight /= weight.sum(1, keepdims=True)
    return sum(weight[:, [j]] * y[near[:, j]] for j in range(near.shape[1]))


def _nearest(xyz: np.ndarray, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Chords and rows (q, k) of the nearest places; fewer than k where there are fewer."""
    return cKDTree(xyz).query(query, k=range(1, min(k, len(xyz)) + 1))


def _finite(x: np.ndarray, what: str) -> np.ndarray:
    x = np.asarray(x, np.float64)
    bad = ~np.isfinite(x).all(1)
    if bad.any():
        raise ValueError(f"{what}: row {int(bad.argmax())} is not finite")
    return x
