"""Measure what a place store holds and lacks: coverage, density, texts, clouds, seasons, duplicates, gaps."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from geonb.data.sampling import land_cells
from geonb.data.store import PlaceStore
from geonb.geo import blocks, cell_bounds, unit_xyz

TEXTS_AT_ONCE = 8192


class Quality(dict):
    """Numbers by name, in order; ``str()`` of it has one line for each."""

    def __str__(self) -> str:
        width = max(map(len, self))
        return "\n".join(f"{name:{width}}  {_shown(name, value)}" for name, value in self.items())


def _shown(name: str, value: Any) -> str:
    return str(value) if isinstance(value, str) else f"{value:.1%}" if "share" in name else f"{value:,.0f}"


def quality(store: PlaceStore, size_km: float = 100.0) -> Quality:
    """Measure a place store; texts are read some thousands at a time.

    Args:
        store: a place store.
        size_km: edge of the equal-area cells in which places are counted; 100 km makes some 15,000 land cells.

    Returns:
        counts, and shares from 0 to 1. "Land" are the cells that are at least half land; "evenly filled cells" is
        exp of the Shannon entropy of the places over the cells (Hill, 1973, Ecology 54, 427-432): so many equally full
        cells would be as even. Numbers of texts and images are left out where there are none.
    """
    n, text, image = len(store), store.has("text"), store.has("image")
    found = Quality({"places": n, "with a text": int(text.sum()), "with an image": int(image.sum())})
    found["with both"] = int((text & image).sum())
    found["at the position of another"] = n - len(np.unique(store.lonlat + 0.0, axis=0))
    _cover(found, store.lonlat, size_km)
    if text.any():
        _read_texts(found, store, np.flatnonzero(text))
    if image.any():
        _read_dates(found, store.image_dates(image), store.lonlat[image, 1] >= 0)
        if "cloud_share" in store.columns:
            clouds = store.column("cloud_share")[image]
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
    land = land_cells(size_km)
    held = np.isin(land, cells)
    west, south, east, north = cell_bounds(land, size_km).T
    middle = np.stack([(west + east) / 2, (south + north) / 2], 1)
    found[f"share of land cells of {size_km:g} km with a place"] = float(held.mean())
    continent = continents(middle)
    for name in np.unique(continent):
        found[f"share of {name}"] = float(held[continent == name].mean())
    for low in range(-90, 90, 30):
        band = (middle[:, 1] >= low) & (middle[:, 1] < low + 30)
        found[f"share of latitude {low} to {low + 30}"] = float(held[band].mean()) if band.any() else 0.0
    share = counts / len(lonlat)
    fullest = np.sort(share)[::-1][: max(1, round(0.01 * len(land)))]
    found["share of places in the fullest cells (1 % of land cells)"] = float(fullest.sum())
    found["evenly filled cells"] = float(np.exp(-(share * np.log(share)).sum()))
    found["places in the fullest cell"] = int(counts.max())
    found["places in cells that are mostly sea"] = int(counts[~np.isin(cells, land)].sum())


def _read_texts(found: Quality, store: PlaceStore, rows: np.ndarray) -> None:
    lengths, hashes = np.empty(len(rows)), np.empty(len(rows), np.int64)
    for start in range(0, len(rows), TEXTS_AT_ONCE):
        texts = store.texts(rows[start : start + TEXTS_AT_ONCE])
        lengths[start : start + len(texts)] = [len(text) for text in texts]
        hashes[start : start + len(texts)] = [hash(text) for text in texts]
    for name, percent in (("shortest", 0), ("median", 50), ("longest", 100)):
        found[f"characters of a text, {name}"] = float(np.percentile(lengths, percent))
    found["texts equal to another"] = len(hashes) - len(np.unique(hashes))
    if "near_duplicate" in store.columns:
        marked = [value is not None for value in store.column("near_duplicate")[rows]]
        found["share of near-duplicate texts"] = float(np.mean(marked))


def _read_dates(found: Quality, dates: list[str], north: np.ndarray) -> None:
    month = np.array([int(date[5:7]) if date else 0 for date in dates])
    for name, side in (("north", north), ("south", ~north)):
        found[f"images by month, {name}"] = "/".join(f"{n:,}" for n in np.bincount(month[side], minlength=13)[1:])
    found["images without a date"] = int((month == 0).sum())


def continents(lonlat: ArrayLike) -> np.ndarray:
    """Find the continent (n,) of positions on land (n, 2), degrees: that of the nearest place in the table of facts."""
    tree, names = _places_of_continents()
    return names[tree.query(unit_xyz(lonlat))[1]]


@cache
def _places_of_continents() -> tuple[Any, np.ndarray]:
    from scipy.spatial import KDTree

    with (files("geonb.data") / "assets" / "facts.parquet").open("rb") as stream:
        table = pq.read_table(stream, columns=["lon", "lat", "continent"])
    lonlat = np.stack([table["lon"].to_numpy(), table["lat"].to_numpy()], 1)
    return KDTree(unit_xyz(lonlat)), np.array(table["continent"].to_pylist())
