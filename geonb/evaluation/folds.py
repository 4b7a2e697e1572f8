"""A task under a protocol, and the predictions of one representation or reference for it.

The module fits probes to folds. It does not know where a representation comes from.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from geonb.evaluation.probes import ConstantProbe, KrigingProbe, NeighboursProbe, RidgeProbe, score, untrained_encoding
from geonb.evaluation.protocols import Protocol
from geonb.evaluation.tasks import Task

MIN_TRAIN, MIN_TEST = 20, 5  # labelled places in each fold, without which it is skipped
MIN_CLASS = 5  # classes with fewer training places are left out, in training and in testing
PUBLISHED = "GeoCLIP, published"
REFERENCES = ("majority or mean", "raw coordinates", "untrained harmonics", "nearest neighbours", "kriging")


def published_embeddings(lonlat: ArrayLike) -> dict[str, np.ndarray]:
    """Embed positions (n, 2), degrees, by the published GeoCLIP location encoder: vectors (n, 512) by its name.

    Empty unless its wheel is installed or named by ``GEONB_GEOCLIP``; see
    :func:`geonb.encoders.published.geoclip_location`.
    """
    import torch

    from geonb.encoders.published import geoclip_location

    try:
        encoder = geoclip_location(os.environ.get("GEONB_GEOCLIP"))
    except FileNotFoundError:
        return {}
    with torch.inference_mode():
        parts = torch.from_numpy(np.asarray(lonlat, np.float32)).split(1024)
        return {PUBLISHED: torch.cat([encoder(part) for part in parts]).numpy()}


@dataclass(frozen=True)
class TaskFold:
    """One task under one protocol: which places train and test a probe, whatever the representation.

    Attributes:
        y: scaled targets (n,) of all places, see :meth:`geonb.evaluation.tasks.Task.target`.
        folds: (train, test) masks (n,), places without a usable label removed.
        fold_km: as the protocol's.
        left_out: test places with a label whose class has too few training places.
    """

    name: str
    task: Task
    protocol: str
    y: np.ndarray
    folds: tuple[tuple[np.ndarray, np.ndarray], ...]
    fold_km: float
    left_out: int

    @property
    def test(self) -> np.ndarray:
        """Mask (n,) of the places that are tested in any fold."""
        return np.any([test for _, test in self.folds], 0)

    def truth(self) -> np.ndarray:
        """Targets (t,) of the tested places, str or float64."""
        return self.y[self.test].astype(str if self.task.kind == "classification" else np.float64)

    def score(self, predictions: np.ndarray, weights: np.ndarray | None = None) -> Any:
        """Score predictions (t,) for the tested places, see :func:`geonb.evaluation.probes.score`."""
        return score(self.truth(), predictions, self.task.kind, weights)


def task_folds(
    columns: Callable[[str], np.ndarray],
    tasks: dict[str, Task],
    protocols: list[Protocol],
    skipped: list[dict] | None = None,
    few: bool = False,
) -> list[TaskFold]:
    """Combine every task with every protocol under which it has enough labelled places.

    Args:
        columns: a function from a column's name to its values (n,), such as ``store.column``.
        skipped: a list to which the other combinations are added, each with the reason.
        few: training labels are few on purpose: two are enough, and places whose class has none are tested as well.
    """
    least, found = 2 if few else MIN_TRAIN, []
    for name, task in tasks.items():
        y = task.target(columns(task.column))
        known = np.array([v is not None for v in y]) if task.kind == "classification" else np.isfinite(y)
        for protocol in protocols:
            folds, labelled, tested = [], 0, 0
            for train, test in protocol.folds:
                train, test = train & known, test & known
                labelled += int(test.sum())
                if task.kind == "classification" and not few:
                    classes, counts = np.unique(y[train].astype(str), return_counts=True)
                    frequent = np.isin(np.where(known, y, "").astype(str), classes[counts >= MIN_CLASS])
                    train, test = train & frequent, test & frequent
                if train.sum() >= least and test.sum() >= MIN_TEST:
                    folds.append((train, test))
                    tested += int(test.sum())
            why = None
            if not folds:
                why = f"no fold has {least} training and {MIN_TEST} test places with a usable label"
            elif tested < labelled / 2:
                why = f"{labelled - tested:,} of {labelled:,} test places are of classes without training places"
            elif task.kind == "regression" and np.ptp(y[np.any([t for _, t in folds], 0)]) == 0:
                why = "the labels of the test places are all the same, and R² is not defined"
            if why is None:
                fold = TaskFold(name, task, protocol.name, y, tuple(folds), protocol.fold_km, labelled - tested)
                found.append(fold)
            elif skipped is not None:
                skipped.append({"task": name, "split": protocol.name, "why": why})
    return found


class ProbeRunner:
    """Predicts task folds from one representation, or by one of the reference rows.

    Args:
        name: shown in results; without a representation, one of :data:`REFERENCES`.
        lonlat: positions (n, 2), degrees, of the inner folds of cross-validation; a feature of the references alone.
        representation: (n, d), or None for a reference.

    Raises:
        ValueError: neither a representation nor the name of a reference.
    """

    def __init__(self, name: str, lonlat: np.ndarray, representation: np.ndarray | None = None) -> None:
        if representation is None and name not in REFERENCES:
            raise ValueError(f"{name!r} has no representation and is no reference; those are {', '.join(REFERENCES)}")
        self.name, self.lonlat = name, lonlat
        self.is_reference = representation is None or name == PUBLISHED
        self._reference = name if representation is None else ""
        if representation is None:
            representation = untrained_encoding(lonlat) if name == "untrained harmonics" else lonlat
        self.x = representation
        self._fitted: dict[tuple[bytes, float], Any] = {}

    def predict(self, fold: TaskFold) -> tuple[np.ndarray, float]:
        """Fit each fold; return predictions (t,) for the tested places in their order, and the mean penalty."""
        kind = fold.task.kind
        predicted = np.empty(len(fold.y), object if kind == "classification" else np.float64)
        penalties = []
        for train, test in fold.folds:
            predicted[test], penalty = self._probe(train, fold.fold_km).predict(fold.y[train], self.x[test], kind)
            penalties.append(penalty)
        predicted = predicted[fold.test]
        return (predicted.astype(str) if kind == "classification" else predicted), float(np.mean(penalties))

    def _probe(self, train: np.ndarray, fold_km: float) -> Any:
        """The probe of these training places; tasks that share them share its decomposition."""
        key, lonlat = (train.tobytes(), fold_km), self.lonlat[train]
        if key not in self._fitted:
            if self._reference == "majority or mean":
                self._fitted[key] = ConstantProbe()
            elif self._reference == "nearest neighbours":
                self._fitted[key] = NeighboursProbe(lonlat, fold_km)
            elif self._reference == "kriging":
                self._fitted[key] = KrigingProbe(lonlat)
            else:
                self._fitted[key] = RidgeProbe(self.x[train], lonlat, fold_km)
        return self._fitted[key]
