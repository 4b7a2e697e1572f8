"""Protocols: which places' labels train a probe, and which places test it.

Pre-training has seen, without labels, what all but "blocked" test.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from geonb.data.splits import correlation_range_km, within
from geonb.data.store import PlaceStore
from geonb.evaluation.tasks import Task
from geonb.geo import EARTH_RADIUS_KM, unit_xyz

BAND_DEGREES = 60.0
REGION_BUFFER_KM = 100.0
REGION_FOLD_KM = 2500.0
MIN_REGION = 50  # places that a continent needs to be a fold
MAX_BLOCK_KM = 1500.0  # larger blocks are continents, for which there is a protocol


@dataclass(frozen=True)
class Protocol:
    """Folds of places: masks (n,) of those to train on and of those to test.

    Attributes:
        buffer_km: least distance of a test place from the training places of its fold.
        fold_km: edge of blocks by which a probe is tuned; larger for tests far from labels.
    """

    name: str
    folds: tuple[tuple[np.ndarray, np.ndarray], ...]
    buffer_km: float = 0.0
    fold_km: float = 500.0

    def check(self, lonlat: np.ndarray) -> None:
        """Check the folds at positions (n, 2), degrees.

        Raises:
            ValueError: a place trains and tests, is tested twice, or lies too near to training.
        """
        tested = np.zeros(len(lonlat), bool)
        for i, (train, test) in enumerate(self.folds):
            near = within(lonlat, lonlat[train], self.buffer_km * (1 - 1e-6))
            faults = {
                "both trains and tests": train,
                f"lies within {self.buffer_km:g} km of a training place": near,
                "is tested in two folds": tested,
            }
            for why, places in faults.items():
                if (test & places).any():
                    place = int((test & places).argmax())
                    raise ValueError(f"{self.name}, fold {i}: place {place} {why}")
            tested = tested | test

    def nearest_label_km(self, lonlat: np.ndarray) -> float:
        """Compute the median distance from test to training places, (n, 2) degrees."""
        xyz = unit_xyz(lonlat)
        usable = [(train, test) for train, test in self.folds if train.any() and test.any()]
        chords = [cKDTree(xyz[train]).query(xyz[test])[0] for train, test in usable]
        angles = 2 * np.arcsin(np.clip(np.concatenate(chords) / 2, 0, 1))
        return float(np.median(EARTH_RADIUS_KM * angles))


def random_protocol(split: np.ndarray, seed: int = 0) -> Protocol:
    """Split the "train" places of ``split`` (n,) 80/20 at random."""
    order = np.random.default_rng(seed).permutation(np.flatnonzero(split == "train"))
    places, cut = np.arange(len(split)), int(0.8 * len(order))
    return Protocol("random", ((np.isin(places, order[:cut]), np.isin(places, order[cut:])),))


def blocked_protocol(
    split: np.ndarray, buffer_km: float = 50.0, size_km: float = 500.0, name: str = "blocked"
) -> Protocol:
    """Train on the "train" places of ``split`` (n,), and test on its "test" places."""
    return Protocol(name, ((split == "train", split == "test"),), buffer_km, size_km)


def continents_protocol(split: np.ndarray, lonlat: np.ndarray, continents: np.ndarray) -> Protocol:
    """Leave each continent out that has 50 places in "train" of ``split`` (n,).

    At positions (n, 2), degrees; names of continents (n,) are None where unknown.
    """
    seen, known = split == "train", np.array([c is not None for c in continents])
    names, counts = np.unique(continents[seen & known].astype(str), return_counts=True)
    regions = [continents == name for name in names[counts >= MIN_REGION]]
    return _regions("continents", seen, regions, lonlat)


def bands_protocol(split: np.ndarray, lonlat: np.ndarray) -> Protocol:
    """Leave out each of six bands of longitude, of ``split`` (n,) at (n, 2), degrees."""
    band = np.floor((lonlat[:, 0] + 180) % 360 / BAND_DEGREES).astype(int)
    seen = split == "train"
    return _regions("bands", seen, [band == b for b in np.unique(band[seen])], lonlat)


def _regions(name: str, seen: np.ndarray, regions: list[np.ndarray], lonlat: np.ndarray) -> Protocol:
    folds = []
    for region in regions:
        test = seen & region
        near = within(lonlat, lonlat[test], REGION_BUFFER_KM)
        folds.append((seen & ~region & ~near, test))
    return Protocol(name, tuple(folds), REGION_BUFFER_KM, REGION_FOLD_KM)


def protocols_of(
    store: PlaceStore, split: np.ndarray, config: dict, seed: int = 0, skipped: list[dict] | None = None
) -> list[Protocol]:
    """Make the protocols that a store allows, and check them.

    Args:
        split: labels (n,). ``config``: of the split; "blocked" is called "held-out" where its
            kind is another. ``seed``: of the random protocol.
        skipped: gets the other protocols, each with the reason.
    """
    name = "blocked" if config["kind"] == "blocked" else "held-out"
    protocols = [
        random_protocol(split, seed),
        blocked_protocol(split, config.get("buffer_km", 0.0), config.get("size_km", 500.0), name),
        bands_protocol(split, store.lonlat),
    ]
    if "continent" in store.columns:
        protocols.append(continents_protocol(split, store.lonlat, store.column("continent")))
    possible = []
    for protocol in protocols:
        if any(train.any() and test.any() for train, test in protocol.folds):
            protocol.check(store.lonlat)
            possible.append(protocol)
        elif skipped is not None:
            why = "the places lie too close together for a part of the Earth to be held out"
            skipped.append({"protocol": protocol.name, "why": why})
    return possible


def block_km(store: PlaceStore, tasks: dict[str, Task]) -> tuple[float, dict[str, float]]:
    """Measure correlation ranges in km by task, and a block size that none below 1,500 exceeds."""
    ranges = {}
    for name, task in tasks.items():
        with contextlib.suppress(ValueError):
            values = task.target(store.column(task.column))
            ranges[name] = correlation_range_km(store.lonlat, values)
    largest = max((r for r in ranges.values() if r <= MAX_BLOCK_KM), default=500.0)
    return max(100.0, float(np.ceil(largest / 100) * 100)), ranges
