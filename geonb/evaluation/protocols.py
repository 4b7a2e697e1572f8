"""Protocols by name: which places' labels train a probe, and which test it.

A protocol is a list of folds whose test places are predicted in turn and scored together. Two protocols answer two
questions, and never share a table:

- "random": 80/20 among places that pre-training has seen without labels. What most papers report.
- "blocked": whole blocks of the Earth that neither pre-training nor the probe has seen, with a buffer.
- "continents" and "bands": each continent, or each band of 60 degrees of longitude, has no labels at all, with a
  buffer; pre-training has seen it without labels. What a user faces who has labels in one part of the world.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from geonb.data.splits import correlation_range_km, within
from geonb.evaluation.tasks import Task
from geonb.geo import EARTH_RADIUS_KM, unit_xyz

if TYPE_CHECKING:
    from geonb.data.store import PlaceStore

BAND_DEGREES = 60.0
REGION_BUFFER_KM = 100.0
REGION_FOLD_KM = 2500.0


@dataclass(frozen=True)
class Protocol:
    """Folds of places, each with labels to train on and places to test.

    Attributes:
        name: of the protocol.
        folds: (train, test) boolean masks (n,) of the places.
        buffer_km: no test place of a fold lies within this distance of a training place of the fold.
        fold_km: edge of the blocks by which a probe is tuned inside the training places: as far from their labels as
            the test places are, as nearly as blocks can be.
    """

    name: str
    folds: tuple[tuple[np.ndarray, np.ndarray], ...]
    buffer_km: float = 0.0
    fold_km: float = 500.0

    def check(self, lonlat: np.ndarray) -> None:
        """Check the folds, given the positions (n, 2) of all places in degrees.

        Raises:
            ValueError: a place is in two roles of a fold, tested twice, or nearer to training than allowed.
        """
        tested = np.zeros(len(lonlat), int)
        for i, (train, test) in enumerate(self.folds):
            both = train & test
            if both.any():
                raise ValueError(f"{self.name}, fold {i}: place {int(both.argmax())} both trains and tests")
            near = test & within(lonlat, lonlat[train], self.buffer_km * (1 - 1e-6))
            if near.any():
                raise ValueError(
                    f"{self.name}, fold {i}: test place {int(near.argmax())} lies within {self.buffer_km:g} km of a "
                    f"training place ({int(near.sum())} such places)"
                )
            tested += test
        if (tested > 1).any():
            raise ValueError(f"{self.name}: place {int((tested > 1).argmax())} is tested in {tested.max()} folds")

    def nearest_label_km(self, lonlat: ArrayLike) -> float:
        """Median great-circle distance from a test place to its fold's nearest training place; ``lonlat``: degrees."""
        from scipy.spatial import cKDTree

        xyz = unit_xyz(lonlat)
        chords = [cKDTree(xyz[train]).query(xyz[test])[0] for train, test in self.folds if train.any() and test.any()]
        return float(np.median(2 * EARTH_RADIUS_KM * np.arcsin(np.clip(np.concatenate(chords) / 2, 0, 1))))


def random_protocol(split: np.ndarray, seed: int = 0) -> Protocol:
    """80/20 at random among the places that pre-training has seen (``split`` (n,) is "train")."""
    order = np.random.default_rng(seed).permutation(np.flatnonzero(split == "train"))
    cut = int(0.8 * len(order))
    return Protocol("random", ((_mask(order[:cut], len(split)), _mask(order[cut:], len(split))),))


def blocked_protocol(
    split: np.ndarray, buffer_km: float = 50.0, size_km: float = 500.0, name: str = "blocked"
) -> Protocol:
    """Labels of pre-training's places (``split`` (n,) is "train"), tested on the places that it has held out, in blocks
    of ``size_km``."""
    return Protocol(name, ((split == "train", split == "test"),), buffer_km, size_km)


def continents_protocol(
    split: np.ndarray, lonlat: np.ndarray, continents: np.ndarray, buffer_km: float = REGION_BUFFER_KM
) -> Protocol:
    """Leave one continent out: every continent with 50 places or more that pre-training has seen is a fold.

    Args:
        split: "train" and other names (n,), see :func:`geonb.config.split_of`.
        lonlat: positions (n, 2), degrees.
        continents: names (n,), None where unknown.
        buffer_km: training places nearer than this to a test place are left out.
    """
    seen, continents = split == "train", np.asarray(continents, object)
    names, counts = np.unique(continents[seen & (continents != None)].astype(str), return_counts=True)  # noqa: E711
    folds = tuple(_region(seen, continents == name, lonlat, buffer_km) for name in names[counts >= 50])
    return Protocol("continents", folds, buffer_km, REGION_FOLD_KM)


def bands_protocol(
    split: np.ndarray, lonlat: np.ndarray, degrees: float = BAND_DEGREES, buffer_km: float = REGION_BUFFER_KM
) -> Protocol:
    """Leave one band of longitude out, 360 / ``degrees`` of them from the antimeridian eastward; ``split`` (n,) and
    ``lonlat`` (n, 2) as in :func:`continents_protocol`."""
    lonlat = np.asarray(lonlat, np.float64)
    band = np.floor((lonlat[:, 0] + 180) % 360 / degrees).astype(int)
    seen = split == "train"
    folds = tuple(_region(seen, band == b, lonlat, buffer_km) for b in np.unique(band[seen]))
    return Protocol("bands", folds, buffer_km, REGION_FOLD_KM)


def few_labels(protocol: Protocol, n: int | None, seed: int = 0) -> Protocol:
    """The same test places, and ``n`` of each fold's training labels at random (None: all); more contain fewer."""
    folds = []
    for i, (train, test) in enumerate(protocol.folds):
        order = np.random.default_rng((seed, i)).permutation(np.flatnonzero(train))
        folds.append((_mask(order[:n], len(train)), test))
    name = f"{protocol.name}, {'all' if n is None else n} labels"
    return Protocol(name, tuple(folds), protocol.buffer_km, protocol.fold_km)


def block_km(store: PlaceStore, tasks: dict[str, Task], most_km: float = 1500.0) -> tuple[float, dict[str, float]]:
    """(Block size in km, correlation range of each task in km): blocks no smaller than any measured range.

    Ranges beyond ``most_km`` do not count: blocks of that size are continents, for which there is a protocol of its
    own. The size is rounded up to 100 km, and never less, below which no range is measured.
    """
    ranges = {}
    for name, task in tasks.items():
        with contextlib.suppress(ValueError):  # constant, or known at too few places to be measured
            ranges[name] = correlation_range_km(store.lonlat, task.target(store.column(task.column)))
    counted = [r for r in ranges.values() if r <= most_km]
    return (max(100.0, float(np.ceil(max(counted) / 100) * 100)) if counted else 500.0), ranges


def _region(seen: Any, region: Any, lonlat: np.ndarray, buffer_km: float) -> tuple[np.ndarray, np.ndarray]:
    test = seen & region
    return seen & ~region & ~within(lonlat, lonlat[test], buffer_km), test


def _mask(rows: np.ndarray, n: int) -> np.ndarray:
    mask = np.zeros(n, bool)
    mask[rows] = True
    return mask
