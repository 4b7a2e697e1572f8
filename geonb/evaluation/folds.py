"""A task under a protocol, and what a representation or reference predicts for it."""

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

MIN_TRAIN, MIN_TEST = 20, 5  # labelled places that a fold needs
MIN_CLASS = 5  # training places; rarer classes neither train nor test
PUBLISHED = "GeoCLIP, published"
REFERENCES = ("majority or mean", "raw coordinates", "untrained harmonics", "nearest neighbours", "kriging")


def published_embeddings(lonlat: ArrayLike) -> dict[str, np.ndarray]:
    """Embed positions (n, 2), degrees, by published GeoCLIP (n, 512) if it is installed."""
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
    """A task under a protocol: its scaled targets y (n,), and masks (n,) of usable labels.

    ``left_out`` counts labelled test places of classes too rare to train on.
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
        """Return the targets (t,) of the tested places, str or float64."""
        return self.y[self.test].astype(str if self.task.kind == "classification" else np.float64)

    def score(self, predictions: np.ndarray, weights: np.ndarray | None = None) -> Any:
        """Score predictions (t,) as :func:`geonb.evaluation.probes.score`."""
        return score(self.truth(), predictions, self.task.kind, weights)


def task_folds(
    columns: Callable[[str], np.ndarray],
    tasks: dict[str, Task],
    protocols: list[Protocol],
    skipped: list[dict] | None = None,
    few: bool = False,
) -> list[TaskFold]:
    """Combine tasks with the protocols under which they have enough labelled places.

    Args:
        columns: a function from a column's name to its values (n,), as ``store.column``.
        skipped: gets the other combinations, each with the reason.
        few: labels are few on purpose: 2 are enough, and unseen classes are tested too.
    """
    least, found = 2 if few else MIN_TRAIN, []
    for name, task in tasks.items():
        y, classes = task.target(columns(task.column)), task.kind == "classification"
        known = np.array([v is not None for v in y]) if classes else np.isfinite(y)
        for protocol in protocols:
            folds, labelled, tested = [], 0, 0
            for train, test in protocol.folds:
                train, test = train & known, test & known
                labelled += int(test.sum())
                if classes and not few:
                    names, counts = np.unique(y[train].astype(str), return_counts=True)
                    frequent = known & np.isin(y.astype(str), names[counts >= MIN_CLASS])
                    train, test = train & frequent, test & frequent
                if train.sum() >= least and test.sum() >= MIN_TEST:
                    folds.append((train, test))
                    tested += int(test.sum())
            left_out, why = labelled - tested, None
            fold = TaskFold(name, task, protocol.name, y, tuple(folds), protocol.fold_km, left_out)
            if not folds:
                why = f"no fold has {least} training and {MIN_TEST} test places with a usable label"
            elif tested < labelled / 2:
                why = f"{left_out:,} of {labelled:,} test places are of classes not trained on"
            elif not classes and np.ptp(y[fold.test]) == 0:
                why = "R² is not defined: the labels of the test places are all the same"
            if why is None:
                found.append(fold)
            elif skipped is not None:
                skipped.append({"task": name, "split": protocol.name, "why": why})
    return found


class ProbeRunner:
    """Predicts task folds from a representation (n, d), or as a row of :data:`REFERENCES`.

    Raises:
        ValueError: neither a representation nor the name of a reference.
    """

    def __init__(self, name: str, lonlat: np.ndarray, representation: np.ndarray | None = None) -> None:
        if representation is None and name not in REFERENCES:
            raise ValueError(f"{name!r} has no representation and is none of {REFERENCES}")
        self.name, self.lonlat = name, lonlat
        self.is_reference = representation is None or name == PUBLISHED
        self._reference = name if representation is None else ""
        self.x = lonlat if representation is None else representation
        if self._reference == "untrained harmonics":
            self.x = untrained_encoding(lonlat)
        self._fitted: dict[tuple[bytes, float], Any] = {}

    def predict(self, fold: TaskFold) -> tuple[np.ndarray, float]:
        """Predict the tested places (t,), each by its fold; return the mean penalty too."""
        kind, predicted, penalties = fold.task.kind, np.empty(len(fold.y), object), []
        for train, test in fold.folds:
            probe = self._probe(train, fold.fold_km)
            predicted[test], penalty = probe.predict(fold.y[train], self.x[test], kind)
            penalties.append(penalty)
        found = predicted[fold.test].astype(str if kind == "classification" else np.float64)
        return found, float(np.mean(penalties))

    def _probe(self, train: np.ndarray, fold_km: float) -> Any:
        """The probe of these training places; tasks share it."""
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
