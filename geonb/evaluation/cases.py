"""A task under a protocol, and what a representation predicts there: shared by the suite and the grid."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from geonb.evaluation.probes import (
    MIN_CLASS,
    RidgeProbe,
    constant_probe,
    kriging_probe,
    neighbours_probe,
    raw_coordinates,
    score,
    untrained_encoding,
)
from geonb.evaluation.protocols import Protocol
from geonb.evaluation.tasks import Task

MIN_TRAIN, MIN_TEST = 20, 5  # labelled places in each fold, without which it is skipped
PUBLISHED = "GeoCLIP, published"
REFERENCES = ("majority or mean", "raw coordinates", "untrained harmonics", "nearest neighbours", "kriging")


def published_embeddings(lonlat: ArrayLike) -> dict[str, np.ndarray]:
    """Embeddings (n, 512) of positions (n, 2), degrees, by the published GeoCLIP location encoder under its name, a
    reference row where its wheel is installed or named by ``GEONB_GEOCLIP``; {} where it is not
    (:func:`geonb.encoders.published.geoclip_location`)."""
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
class Case:
    """One task under one protocol: which places train and test a probe, whatever the representation.

    Attributes:
        name: of the task. ``protocol``: its name.
        y: scaled targets (n,) of all places, see :meth:`Task.target`.
        folds: (train, test) masks (n,), places without a usable label removed.
        fold_km: as the protocol's.
        left_out: test places with a label whose class is too rare among the training places to be learned.
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
        """Places (n,) tested in any fold."""
        return np.any([test for _, test in self.folds], 0)

    def truth(self) -> np.ndarray:
        """Targets (t,) of the tested places, str or float64."""
        return self.y[self.test].astype(str if self.task.kind == "classification" else np.float64)

    def score(self, predictions: np.ndarray, weights: np.ndarray | None = None) -> Any:
        """R² or accuracy of predictions (t,) for the tested places, pooled over folds; weights as in
        :func:`geonb.evaluation.probes.score`."""
        return score(self.truth(), predictions, self.task.kind, weights)


def make_cases(
    columns: Callable[[str], np.ndarray],
    tasks: dict[str, Task],
    protocols: list[Protocol],
    skipped: list[dict],
    few: bool = False,
) -> list[Case]:
    """Every task under every protocol that has enough labelled places; why others are not, is added to ``skipped``.

    Args:
        columns: a function from a column's name to its values (n,).
        few: training labels are few on purpose: no number of them is too small, and places whose class none of them
            has are tested all the same.
    """
    least = 2 if few else MIN_TRAIN
    cases = []
    for name, task in tasks.items():
        y = task.target(columns(task.column))
        known = np.array([v is not None for v in y]) if task.kind == "classification" else np.isfinite(y)
        for protocol in protocols:
            folds, labelled, kept = [], 0, 0
            for train, test in protocol.folds:
                train, test = train & known, test & known
                labelled += int(test.sum())
                if task.kind == "classification" and not few:
                    classes, counts = np.unique(y[train].astype(str), return_counts=True)
                    frequent = np.isin(np.where(known, y, "").astype(str), classes[counts >= MIN_CLASS])
                    train, test = train & frequent, test & frequent
                if train.sum() >= least and test.sum() >= MIN_TEST:
                    folds.append((train, test))
                    kept += int(test.sum())
            why = None
            if not folds:
                why = f"no fold has {least} training and {MIN_TEST} test places with a usable label"
            elif kept < labelled / 2:
                why = f"{labelled - kept:,} of {labelled:,} test places are of classes unknown where labels are"
            elif task.kind == "regression" and np.ptp(y[np.any([t for _, t in folds], 0)]) == 0:
                why = "the labels of the test places are all the same, and R² is not defined"
            if why:
                skipped.append({"task": name, "split": protocol.name, "why": why})
                continue
            cases.append(Case(name, task, protocol.name, y, tuple(folds), protocol.fold_km, labelled - kept))
    return cases


class Predictor:
    """Predicts cases from one representation, or as one of the references that are no representation.

    Args:
        name: shown in results; one of :data:`REFERENCES` stands for that reference.
        lonlat: positions (n, 2). They place the inner folds of cross-validation, and are a feature of the references
            that say so, and of nothing else.
        representation: (n, d), or None for a reference.

    Raises:
        ValueError: neither a representation nor a reference's name, or not a row for each place.
    """

    def __init__(self, name: str, lonlat: np.ndarray, representation: np.ndarray | None = None) -> None:
        if representation is None and name not in REFERENCES:
            raise ValueError(f"{name!r} has no representation, and is no reference: {', '.join(REFERENCES)}")
        if representation is None:
            made = {"raw coordinates": raw_coordinates, "untrained harmonics": untrained_encoding}
            representation = made[name](lonlat) if name in made else None
        elif len(representation) != len(lonlat):
            raise ValueError(f"{name}: {len(representation)} rows for {len(lonlat)} places")
        self.name, self.lonlat, self.x = name, lonlat, representation
        self.is_reference = name in (*REFERENCES, PUBLISHED)
        self._fitted: dict[tuple[bytes, float], RidgeProbe] = {}

    def predict(self, case: Case) -> tuple[np.ndarray, float]:
        """(Predictions (t,) for the tested places in their order, the mean penalty that was chosen)."""
        y, kind = case.y, case.task.kind
        predicted = np.empty(len(y), object if kind == "classification" else np.float64)
        penalties = []
        for train, test in case.folds:
            if self.name == "majority or mean" and self.x is None:
                probe = constant_probe(y[train], y[test], kind)
            elif self.x is None:
                known = self.lonlat[train], y[train], self.lonlat[test], y[test], kind
                probe = kriging_probe(*known) if self.name == "kriging" else neighbours_probe(*known, case.fold_km)
            else:
                same = np.packbits(train).tobytes(), case.fold_km  # such targets share a decomposition
                if same not in self._fitted:
                    self._fitted[same] = RidgeProbe(self.x[train], self.lonlat[train], case.fold_km)
                probe = self._fitted[same].probe(y[train], self.x[test], y[test], kind)
            predicted[test] = probe.predictions
            penalties.append(probe.penalty)
        predicted = predicted[case.test]
        return (predicted.astype(str) if kind == "classification" else predicted), float(np.mean(penalties))
