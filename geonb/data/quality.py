"""Measure what a place store holds and lacks: coverage, density, texts, clouds, seasons, gaps."""

from __future__ import annotations

from typing import Any

import numpy as np

from geonb.data.sampling import land_cells
from geonb.data.store import PlaceStore
from geonb.geo import blocks

TEXTS_AT_ONCE = 8192


class Quality(dict):
    """Numbers by name, in order; ``str()`` of it has one line for each."""

    def __str__(self) -> str:
        width = max(map(len, self))
        return "\n".join(f"{name:{width}}  {_shown(name, value)}" for name, value in self.items())


def _shown(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.1%}" if "share" in name else f"{value:,.0f}"


def quality(store: PlaceStore, size_km: float = 100.0) -> Quality:
    """Measure a place store; what a modality lacks is left out.

    Args:
        store: a place store.
        size_km: edge of the equal-area cells in which places are counted. Land cells are those
            that are at least half land, about 15,000 of 100 km.

    Returns:
        counts, and shares from 0 to 1. "Evenly filled cells" is exp of the Shannon entropy of the
        places over cells: so many equally full cells would be as even (Hill, 1973, Ecology 54).
    """
    n, text = len(store), store.has("text")
    found = Quality({"places": n} | {f"with {m}": int(store.has(m).sum()) for m in store.modalities[1:]})
    found["with all of these"] = int(np.all([store.has(m) for m in store.modalities], 0).sum())
    found["at the position of another"] = n - len(np.unique(store.lonlat + 0.0, axis=0))
    _cover(found, store.lonlat, size_km)
    if text.any():
        _read_texts(found, store, np.flatnonzero(text))
    for name in store.imagery:
        image = store.has(name)
        _read_dates(found, name, store.image_dates(name, image), store.lonlat[image, 1] >= 0)
    if "sentinel2" in store.imagery and "cloud_share" in store.columns:
        clouds = store.column("cloud_share")[store.has("sentinel2")]
        if np.isfinite(clouds).any():
            found["share of clouds, median"] = float(np.nanmedian(clouds))
            found["share of clouds, largest"] = float(np.nanmax(clouds))
    for name in store.columns:
        if missing := store.places[name].null_count:
            found[f"share without {name}"] = missing / n
    return found


def _cover(found: Quality, lonlat: np.ndarray, size_km: float) -> None:
    """Add how much of the land holds a place, and how unevenly."""
    cells, counts = np.unique(blocks(lonlat, size_km), return_counts=True)
    land, share = land_cells(size_km), counts / len(lonlat)
    fullest = np.sort(share)[::-1][: max(1, round(0.01 * len(land)))]
    found[f"share of land cells of {size_km:g} km with a place"] = float(np.isin(land, cells).mean())
    found["share of places in the fullest cells (1 % of land cells)"] = float(fullest.sum())
    found["evenly filled cells"] = float(np.exp(-(share * np.log(share)).sum()))
    found["places in the fullest cell"] = int(counts.max())
    found["places in cells that are mostly sea"] = int(counts[~np.isin(cells, land)].sum())


def _read_texts(found: Quality, store: PlaceStore, rows: np.ndarray) -> None:
    lengths: list[int] = []
    hashes: set[int] = set()
    for start in range(0, len(rows), TEXTS_AT_ONCE):
        texts = store.texts(rows[start : start + TEXTS_AT_ONCE])
        lengths += map(len, texts)
        hashes.update(map(hash, texts))
    for name, percent in (("shortest", 0), ("median", 50), ("longest", 100)):
        found[f"characters of a text, {name}"] = float(np.percentile(lengths, percent))
    found["texts equal to another"] = len(rows) - len(hashes)
    if "near_duplicate" in store.columns:
        marked = [value is not None for value in store.column("near_duplicate")[rows]]
        found["share of near-duplicate texts"] = float(np.mean(marked))


def _read_dates(found: Quality, modality: str, dates: list[str], north: np.ndarray) -> None:
    month = np.array([int(date[5:7]) if date else 0 for date in dates])
    if month.any():
        for name, side in (("north", north), ("south", ~north)):
            counts = np.bincount(month[side], minlength=13)[1:]
            found[f"{modality} by month, {name}"] = "/".join(f"{count:,}" for count in counts)
    found[f"{modality} without a date"] = int((month == 0).sum())
