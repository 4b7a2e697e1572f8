"""Protocols: which places' labels train a probe, and which places test it.

A protocol is a list of folds. The test places of all folds are predicted in turn and scored together. Each protocol
asks another question, so their scores never share a table:

- "random": 80/20 among places that pre-training has seen without labels. Most papers report this one.
- "blocked": whole blocks of the Earth, with a buffer, that neither pre-training nor the probe has seen.
- "continents" and "bands": each continent, or each band of 60 degrees of longitude, gives no labels, with a buffer;
  pre-training has seen it without labels. This is the case of a user with labels in one part of the world.

The module knows positions and splits, and nothing about probes or embeddings.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree

from geonb.data.splits import correlation_range_km, within
from geonb.evaluation.tasks import Task
from geonb.geo import EARTH_RADIUS_KM, unit_xyz

if TYPE_CHECKING:
    from geonb.data.store import PlaceStore

BAND_DEGREES = 60.0
REGION_BUFFER_KM = 100.0
REGION_FOLD_KM = 2500.0
MIN_REGION = 50  # places that a continent needs to be a fold
MAX_BLOCK_KM = 1500.0  # larger blocks are continents, for which there is a protocol


@dataclass(frozen=True)
class Protocol:
    """Folds of places, each with labels to train on and places to test.

    Attributes:
        folds: (train, test) boolean masks (n,) of the places.
        buffer_km: no test place of a fold lies within this distance of a training place of the fold.
        fold_km: edge of the blocks by which a probe is tuned inside the training places. Larger blocks choose the
            penalty for test places that lie farther from all labels.
    """

    name: str
    folds: tuple[tuple[np.ndarray, np.ndarray], ...]
    buffer_km: float = 0.0
    fold_km: float = 500.0

    def check(self, lonlat: np.ndarray) -> None:
        """Check the folds at positions (n, 2), degrees, of all places.

        Raises:
            ValueError: a place both trains and tests in a fold, is tested twice, or lies too near to training.
        """
        tested = np.zeros(len(lonlat), int)
        for i, (train, test) in enumerate(self.folds):
            both = train & test
            if both.any():
                raise ValueError(f"{self.name}, fold {i}: place {int(both.argmax())} both trains and tests")
            near = test & within(lonlat, lonlat[train], self.buffer_km * (1 - 1e-6))
            if near.any():
                place = f"test place {int(near.argmax())} lies within {self.buffer_km:g} km of a training place"
                raise ValueError(f"{self.name}, fold {i}: {place} ({int(near.sum())} such places)")
            tested += test
        if (tested > 1).any():
            raise ValueError(f"{self.name}: place {int((tested > 1).argmax())} is tested in {tested.max()} folds")

    def nearest_label_km(self, lonlat: ArrayLike) -> float:
        """Compute the median distance from a test place to its fold's nearest training place, at positions (n, 2),
        degrees, of all places."""
        xyz = unit_xyz(lonlat)
        chords = [cKDTree(xyz[train]).query(xyz[test])[0] for train, test in self.folds if train.any() and test.any()]
        return float(np.median(2 * EARTH_RADIUS_KM * np.arcsin(np.clip(np.concatenate(chords) / 2, 0, 1))))


def random_protocol(split: np.ndarray, seed: int = 0) -> Protocol:
    """Split the places that pre-training has seen 80/20 at random; ``split`` (n,) has labels "train", "test", ..."""
    order = np.random.default_rng(seed).permutation(np.flatnonzero(split == "train"))
    places, cut = np.arange(len(split)), int(0.8 * len(order))
    return Protocol("random", ((np.isin(places, order[:cut]), np.isin(places, order[cut:])),))


def blocked_protocol(
    split: np.ndarray, buffer_km: float = 50.0, size_km: float = 500.0, name: str = "blocked"
) -> Protocol:
    """Train on the places that pre-training has seen, test on those of ``split`` (n,) that it has held out in blocks of
    ``size_km``."""
    return Protocol(name, ((split == "train", split == "test"),), buffer_km, size_km)


def continents_protocol(
    split: np.ndarray, lonlat: np.ndarray, continents: np.ndarray, buffer_km: float = REGION_BUFFER_KM
) -> Protocol:
    """Leave one continent out: every continent with 50 places or more that pre-training has seen is a fold.

    Args:
        split: (n,), of :func:`geonb.config.split_of`.
        lonlat: positions (n, 2), degrees.
        continents: names (n,), None where unknown.
        buffer_km: training places nearer than this to a test place are left out.
    """
    seen, continents = split == "train", np.asarray(continents, object)
    names, counts = np.unique(continents[seen & (continents != None)].astype(str), return_counts=True)  # noqa: E711
    folds = tuple(_region(seen, continents == name, lonlat, buffer_km) for name in names[counts >= MIN_REGION])
    return Protocol("continents", folds, buffer_km, REGION_FOLD_KM)


def bands_protocol(split: np.ndarray, lonlat: np.ndarray, buffer_km: float = REGION_BUFFER_KM) -> Protocol:
    """Leave one of six bands of longitude out; as :func:`continents_protocol`, positions (n, 2) in degrees."""
    band = np.floor((lonlat[:, 0] + 180) % 360 / BAND_DEGREES).astype(int)
    seen = split == "train"
    folds = tuple(_region(seen, band == b, lonlat, buffer_km) for b in np.unique(band[seen]))
    return Protocol("bands", folds, buffer_km, REGION_FOLD_KM)


def _region(
    seen: np.ndarray, region: np.ndarray, lonlat: np.ndarray, buffer_km: float
) -> tuple[np.ndarray, np.ndarray]:
    test = seen & region
    return seen & ~region & ~within(lonlat, lonlat[test], buffer_km), test


def protocols_of(
    store: PlaceStore, split: np.ndarray, config: dict, seed: int = 0, skipped: list[dict] | None = None
) -> list[Protocol]:
    """Make the protocols that a store allows, and check them.

    Args:
        split: of the store's places (n,).
        config: the split's, as in :class:`geonb.config.TrainConfig`; unless its kind is "blocked", the protocol of that
            name is called "held-out".
        seed: of the random protocol.
        skipped: a list to which the other protocols are added, each with the reason.
    """
    name = "blocked" if config["kind"] == "blocked" else "held-out"
    protocols = [
        random_protocol(split, seed),
        blocked_protocol(split, config.get("buffer_km", 0.0), config.get("size_km", 500.0), name),
        bands_protocol(split, store.lonlat),
    ]
    if "continent" in store.columns:
        protocols.append(continents_protocol(split, store.lonlat, store.column("continent")))
    possible = [p for p in protocols if any(train.any() and test.any() for train, test in p.folds)]
    for protocol in possible:
        protocol.check(store.lonlat)
    if skipped is not None:
        why = "the places lie too close together for a part of the Earth to be held out"
        skipped += [{"protocol": p.name, "why": why} for p in protocols if p not in possible]
    return possible


def block_km(store: PlaceStore, tasks: dict[str, Task]) -> tuple[float, dict[str, float]]:
    """Measure the correlation range of each task in km, and a block size that is no smaller than any below 1,500 km.

    The size is rounded up to 100 km, the bin width of a range. A task that is constant or known at too few places has
    no range.
    """
    ranges = {}
    for name, task in tasks.items():
        with contextlib.suppress(ValueError):
            ranges[name] = correlation_range_km(store.lonlat, task.target(store.column(task.column)))
    counted = [r for r in ranges.values() if r <= MAX_BLOCK_KM]
    return max(100.0, float(np.ceil(max(counted, default=500.0) / 100) * 100)), ranges
