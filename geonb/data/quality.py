"""What a place store holds and lacks, in numbers: coverage, density, texts, clouds, seasons, duplicates, gaps."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.resources import files

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from geonb.data.sampling import land_cells
from geonb.data.store import PlaceStore
from geonb.geo import blocks, cell_bounds, unit_xyz

QUANTILES = (0, 5, 25, 50, 75, 95, 100)  # per cent
TEXTS_AT_ONCE = 8192
LATITUDES = {f"{south} to {south + 30}": (south, south + 30) for south in range(-90, 90, 30)}
_MONTH = re.compile(r"\d{4}-(0[1-9]|1[0-2])")


@dataclass
class Coverage:
    """How much of some land holds a place.

    Attributes:
        cells: equal-area cells that are at least half land.
        held: those of them with a place.
    """

    cells: int
    held: int

    @property
    def share(self) -> float:
        """The share of the cells that hold a place, 0 where there are no cells."""
        return self.held / self.cells if self.cells else 0.0


@dataclass
class Quality:
    """The numbers of a data card's quality page; ``str()`` of it reads as text, :meth:`as_dict` is JSON.

    Quantiles are a mapping from "0", "5", "25", "50", "75", "95", "100" (per cent) to values; empty if unknown.

    Attributes:
        places, texts, images, text_and_image: counts.
        size_km: edge of the equal-area cells of coverage and density.
        land: coverage of all land; ``latitudes``: by bands of 30 degrees, keys like "30 to 60"; ``continents``: by the
            continent of the nearest place in the table of facts.
        off_land: places in cells that are less than half land.
        cells: cells with a place, land or not. ``per_cell``: quantiles of places in those.
        densest_share: share of the places that lie in the fullest cells, which are 1 % as many as there are land cells.
        effective_cells: how many equally full cells would be as even: exp of the Shannon entropy of the places over the
            cells (Hill, 1973, Ecology 54, 427-432).
        text_chars: quantiles of the length of texts in characters.
        near_duplicates: texts that the column ``near_duplicate`` puts in a group; None without that column.
        same_texts, same_positions: texts, and places, that have another before with exactly the same.
        clouds: quantiles of the column ``cloud_share`` (0 to 1), where there is one.
        months_north, months_south: images by month, January first, north and south of the equator.
        undated: images without a date.
        missing: columns with missing values, and how many.
    """

    places: int
    texts: int
    images: int
    text_and_image: int
    size_km: float
    land: Coverage
    latitudes: dict[str, Coverage]
    continents: dict[str, Coverage]
    off_land: int
    cells: int
    per_cell: dict[str, float]
    densest_share: float
    effective_cells: float
    text_chars: dict[str, float]
    near_duplicates: int | None
    same_texts: int
    same_positions: int
    clouds: dict[str, float]
    months_north: list[int]
    months_south: list[int]
    undated: int
    missing: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict:
        """All numbers as JSON-able values, the shares of :class:`Coverage` included."""
        out = asdict(self)
        for group in (out, out["latitudes"], out["continents"]):
            for name, value in group.items():
                if isinstance(value, dict) and value.keys() == {"cells", "held"}:
                    group[name] = value | {"share": Coverage(**value).share}
        return json.loads(json.dumps(out))

    def __str__(self) -> str:
        lines = [
            f"{self.places:,} places: {self.texts:,} with a text, {self.images:,} with an image, "
            f"{self.text_and_image:,} with both",
            f"Coverage: {self.land.share:.1%} of {self.land.cells:,} land cells of {self.size_km:g} km hold a place"
            + (f"; {self.off_land:,} places lie in cells that are mostly sea" if self.off_land else ""),
            "  by continent: " + _listed(self.continents),
            "  by latitude: " + _listed(self.latitudes),
            f"Density: {self.cells:,} cells hold places, as uneven as {self.effective_cells:,.0f} equally full ones; "
            f"the fullest (1 % of the number of land cells) hold {self.densest_share:.1%} of the places",
            f"  places a cell: {_quantiles(self.per_cell)}",
        ]
        if self.texts:
            lines.append(f"Texts: {_quantiles(self.text_chars)} characters; {self.same_texts:,} say what another says")
            if self.near_duplicates is not None:
                lines.append(f"  {self.near_duplicates / self.texts:.1%} are close to another (near-duplicates)")
        if self.images:
            if self.clouds:
                lines.append(f"Clouds: share of an image {_quantiles(self.clouds, '.2f')}")
            lines.append(f"Seasons: months of images in the north {_months(self.months_north)}, "
                         f"in the south {_months(self.months_south)}, {self.undated:,} without a date")  # fmt: skip
        lines.append(f"Positions: {self.same_positions:,} places stand exactly where another does")
        if self.missing:
            lines.append("Missing: " + ", ".join(f"{name} {n / self.places:.1%}" for name, n in self.missing.items()))
        return "\n".join(lines)


def quality(store: PlaceStore, size_km: float = 100.0) -> Quality:
    """Measure a place store; texts are read some thousands at a time.

    Args:
        size_km: edge of the equal-area cells in which places are counted; 100 km makes some 15,000 land cells.
    """
    n, text, image = len(store), store.has("text"), store.has("image")
    cells, counts = np.unique(blocks(store.lonlat, size_km), return_counts=True)
    land = land_cells(size_km)
    held = np.isin(land, cells)
    latitude = cell_bounds(land, size_km)[:, [1, 3]].mean(1)
    bands = {name: (latitude >= low) & (latitude < high) for name, (low, high) in LATITUDES.items()}
    continent = continents(_middles(land, size_km))
    share = counts / n
    fullest = np.sort(counts)[::-1][: max(1, round(0.01 * len(land)))]
    lengths, same_texts = _read_texts(store, np.flatnonzero(text))
    north = store.lonlat[image, 1] >= 0
    dates = store.image_dates(image)
    month = np.array([int(date[5:7]) if _MONTH.match(date) else 0 for date in dates], dtype=np.int64)
    by_month = [np.bincount(month[side], minlength=13).tolist() for side in (north, ~north)]
    marked = "near_duplicate" in store.columns
    return Quality(
        places=n,
        texts=int(text.sum()),
        images=int(image.sum()),
        text_and_image=int((text & image).sum()),
        size_km=float(size_km),
        land=Coverage(len(land), int(held.sum())),
        latitudes={name: Coverage(int(own.sum()), int((own & held).sum())) for name, own in bands.items()},
        continents={
            str(name): Coverage(int((continent == name).sum()), int(held[continent == name].sum()))
            for name in sorted(set(continent))
        },
        off_land=int(counts[~np.isin(cells, land)].sum()),
        cells=len(cells),
        per_cell=_of(counts),
        densest_share=float(fullest.sum() / n),
        effective_cells=float(np.exp(-(share * np.log(share)).sum())),
        text_chars=_of(lengths),
        near_duplicates=int((text & _there(store, "near_duplicate")).sum()) if marked else None,
        same_texts=same_texts,
        same_positions=n - len(np.unique(store.lonlat + 0.0, axis=0)),
        clouds=_of(store.column("cloud_share")[image]) if "cloud_share" in store.columns else {},
        months_north=by_month[0][1:],
        months_south=by_month[1][1:],
        undated=int((month == 0).sum()),
        missing={c: store.places[c].null_count for c in store.columns if store.places[c].null_count},
    )


def continents(lonlat: ArrayLike) -> np.ndarray:
    """The continent (n,) of positions (n, 2), degrees, on land: that of the nearest place in the table of facts
    (assets/SOURCES.md)."""
    tree, names = _places_of_continents()
    return names[tree.query(unit_xyz(lonlat))[1]]


@cache
def _places_of_continents():
    from scipy.spatial import KDTree

    with (files("geonb.data") / "assets" / "facts.parquet").open("rb") as stream:
        table = pq.read_table(stream, columns=["lon", "lat", "continent"])
    lonlat = np.stack([table["lon"].to_numpy(), table["lat"].to_numpy()], 1)
    return KDTree(unit_xyz(lonlat)), np.array(table["continent"].to_pylist())


def _middles(cells: np.ndarray, size_km: float) -> np.ndarray:
    west, south, east, north = cell_bounds(cells, size_km).T
    return np.stack([(west + east) / 2, (south + north) / 2], 1)


def _there(store: PlaceStore, name: str) -> np.ndarray:
    return store.places[name].is_valid().to_numpy()


def _read_texts(store: PlaceStore, rows: np.ndarray) -> tuple[np.ndarray, int]:
    """Lengths of the texts (k,) in characters, and how many repeat one before them."""
    lengths, hashes = np.empty(len(rows), np.int64), np.empty(len(rows), np.uint64)
    for start in range(0, len(rows), TEXTS_AT_ONCE):
        for i, text in enumerate(store.texts(rows[start : start + TEXTS_AT_ONCE]), start):
            lengths[i] = len(text)
            digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            hashes[i] = int.from_bytes(digest, "little")
    return lengths, len(hashes) - len(np.unique(hashes))


def _of(values: np.ndarray) -> dict[str, float]:
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return {}
    return {str(q): float(v) for q, v in zip(QUANTILES, np.percentile(values, QUANTILES), strict=True)}


def _quantiles(of: dict[str, float], form: str = ",.0f") -> str:
    if not of:
        return "unknown"
    return f"median {of['50']:{form}}, half between {of['25']:{form}} and {of['75']:{form}}, at most {of['100']:{form}}"


def _listed(groups: dict[str, Coverage]) -> str:
    return ", ".join(f"{name} {group.share:.1%}" for name, group in groups.items() if group.cells)


def _months(counts: Sequence[int]) -> str:
    return "/".join(f"{n:,}" for n in counts) if any(counts) else "none"
