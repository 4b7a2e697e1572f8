"""Real observations from files at hand: tables of texts with positions, and Sentinel-2 GeoTIFF chips.

Real tables are dirty. What is wrong for certain (no number, NaN, out of range) stops the reading with the
file and the row, or is dropped and reported when you ask for that. What is very probably wrong (a
position at 0, 0; one on the equator or the zero meridian far from everything else in its country; one that
only a changed sign brings home) is dropped and reported by default, and kept when you ask for that. What
may be wrong or an overseas territory is kept and flagged.
"""

from __future__ import annotations

import csv
import fnmatch
import gzip
import hashlib
import os
import re
import sys
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from geonb._util import not_utf8
from geonb.data.sentinel2 import BANDS, radiometric_offset
from geonb.data.sources._raster import raster_errors
from geonb.data.store import PlaceStore, write_store
from geonb.geo import check_lonlat, great_circle_km, unit_xyz

COLUMN_NAMES = {
    "lon": ("longitude", "lon", "lng"),
    "lat": ("latitude", "lat"),
    "title": ("title", "article", "name_en", "name"),
    "country": ("country", "states_name_en"),
    "continent": ("continent",),
}

# Grids on which people round coordinates, in degrees: whole and half degrees, tenths, minutes, seconds, ...
ROUNDING_GRIDS = (1, 1 / 2, 1 / 10, 1 / 60, 1 / 100, 1 / 1000, 1 / 3600, 1e-4, 1e-5)
KM_PER_DEGREE = 111.195  # of latitude, on a sphere of 6371.0088 km

AXIS_FAR_KM = 500
COUNTRY_FAR_KM = 2000
COUNTRY_FAR_RATIO = 4
COUNTRY_MIN_OTHERS = 5
MIRROR_HOME_KM = 500
FAR = "far from its country"

# Files known to the project: pattern of the name, source, licence.
PROVENANCE = (
    (
        "wikipedia_places.csv*",
        "Wikipedia introductions through YAGO 3 (github.com/boberle/random-items, commit 2b82ced, 2020)",
        "CC BY-SA 3.0 (Wikipedia contributors)",
    ),
    (
        "world_heritage.csv*",
        "UNESCO World Heritage List, 2019 edition (UNESCO World Heritage Centre)",
        "CC BY-SA 3.0 IGO",
    ),
    (
        "patch_*.tif",
        "Copernicus Sentinel-2 L2A, example chips of github.com/microsoft/satclip, commit 1ead106",
        "MIT (repository); contains modified Copernicus Sentinel data",
    ),
)

# Columns that are names even where they look like numbers.
NAMES = {"place_id", "source", "license", "lang", "revision", "url"}

# Columns of a table that would clash with those that a store has beside them.
RESERVED = {"place_id", "geometry", "file"}

_MARKUP = re.compile(r"</?[A-Za-z][A-Za-z0-9]{0,9}\s*/?>")


@dataclass
class Report:
    """What became of the rows (of a table) or tiles (of an image) of a file.

    ``dropped`` and ``flagged`` map a reason to row numbers, counted from 0 below the header; flagged rows
    were kept. ``examples`` has one line for a reason.
    """

    file: str
    unit: str
    read: int
    kept: int = 0
    dropped: dict[str, list] = field(default_factory=dict)
    flagged: dict[str, list] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.file}: {self.kept:,} of {self.read:,} {self.unit} kept"]
        for verb, group in (("dropped", self.dropped), ("kept, but flagged", self.flagged)):
            for reason, rows in group.items():
                example = f"; e.g. {self.examples[reason]}" if reason in self.examples else ""
                lines.append(f"  {len(rows):,} {verb}: {reason} ({_first(rows)}){example}")
        return "\n".join(lines)


def _first(rows: list, n: int = 5) -> str:
    return ", ".join(map(str, rows[:n])) + (", ..." if len(rows) > n else "")


# --- tables -------------------------------------------------------------------------------------------


def read_places_csv(
    path: str | Path,
    *,
    text_column: str = "text",
    columns: Mapping[str, str] | None = None,
    drop_invalid: bool = False,
    keep_suspicious: bool = False,
) -> tuple[dict[str, np.ndarray], Report]:
    """Read a CSV or CSV.GZ table (UTF-8, with a header) of texts with positions.

    Args:
        path: the file.
        text_column: the column with the text.
        columns: which column is "lon", "lat", "title", "country", "continent", where its name is none of
            `COLUMN_NAMES`. Longitude and latitude are needed, the rest is not.
        drop_invalid: drop rows without a valid position instead of raising.
        keep_suspicious: keep rows whose position is suspicious, and only flag them.

    Rows always dropped: an empty text; a text that another row before has word for word.
    Suspicious positions, the reasons in the report:

    - "at 0, 0": no land within 500 km.
    - "on an axis, far from its country": longitude or latitude is exactly 0, and the position is more than
      500 km, and more than twice as far as any of them, from the median of the other rows of its country
      (of its continent where the country has no other row).
    - "mirrored": far from its country (next line), and at home (within 500 km, or no farther than the others)
      when longitude or latitude changes its sign.

    Flagged, and always kept: "far from its country", more than 2,000 km, and more than four times as far as
    any of them, from the median of at least five other rows of the country. A lone overseas territory looks
    just like a mistake there, and dropping those would thin out islands: look at the report. Two mistakes in
    a small country hide each other.

    Returns:
        ``(places, report)``. ``places`` has "lon", "lat" (degrees), "title", "text", "row" (in the file,
        counted from 0 below the header), "coordinate_precision_km" (step of the coarsest usual grid, whole
        degrees to 1e-5 degrees, on which both coordinates lie, along a meridian), "position_flag" (why a row
        was flagged, or None), "country" and "continent" where known, and every other column under its own
        name (float64 where all its values are numbers; missing values are NaN or None); one that has the
        name of a column above, or of one that a store adds (`RESERVED`), gets ``file_`` before it. Tags such as
        <em> are taken out of titles and texts.

    Raises:
        ValueError: naming the file, and the row where it is a row's fault.
    """
    path = Path(path)
    header, rows = _read_table(path)
    role = _roles(path, header, text_column, columns or {})
    index = {name: i for i, name in enumerate(header)}
    report = Report(file=path.name, unit="rows", read=len(rows))

    def column(name: str) -> list[str]:
        return [row[index[role[name]]].strip() for row in rows]

    lonlat = np.stack([_numbers(path, role[a], column(a), drop_invalid) for a in ("lon", "lat")], 1)
    texts = [_clean(text) for text in column("text")]
    titles = [_clean(t.replace("_", " ")) for t in column("title")] if "title" in role else [""] * len(rows)
    country = _objects(column("country") if "country" in role else [""] * len(rows))
    continent = _objects(column("continent") if "continent" in role else [""] * len(rows))

    invalid = ~np.isfinite(lonlat).all(1) | (np.abs(lonlat) > [180, 90]).any(1)
    if not drop_invalid:
        check_lonlat(lonlat, where=str(path))
    reasons: dict[str, np.ndarray] = {"no valid position": invalid}
    reasons["empty text"] = ~invalid & np.array([not text for text in texts], dtype=bool)
    gone = invalid | reasons["empty text"]
    reasons["same text as a row before"] = _repeated(texts, gone)
    gone |= reasons["same text as a row before"]
    suspicious = suspicious_positions(lonlat, country, continent, skip=gone)

    def example(row: int) -> str:
        place = f"{titles[row]!r} " if titles[row] else ""
        of = f", {country[row]}" if country[row] else ""
        return f"row {row}: {place}at ({lonlat[row, 0]:g}, {lonlat[row, 1]:g}){of}"

    flag = _objects([None] * len(rows))
    for reason, mask in (reasons | suspicious).items():
        if not mask.any():
            continue
        keep = reason == FAR or (keep_suspicious and reason in suspicious)
        group = report.flagged if keep else report.dropped
        group[reason] = np.flatnonzero(mask).tolist()
        report.examples[reason] = example(group[reason][0])
        if keep:
            flag[mask] = reason
        else:
            gone = gone | mask

    kept = np.flatnonzero(~gone)
    report.kept = len(kept)
    if not len(kept):
        raise ValueError(f"no row is left to use\n{report}")
    places: dict[str, np.ndarray] = {
        "lon": lonlat[kept, 0],
        "lat": lonlat[kept, 1],
        "title": _objects(titles)[kept],
        "text": _objects(texts)[kept],
        "row": kept,
        "coordinate_precision_km": coordinate_precision_km(lonlat[kept]),
        "position_flag": flag[kept],
    }
    for name, values in (("country", country), ("continent", continent)):
        if name in role:
            places[name] = _objects([value or None for value in values])[kept]
    for name in header:
        if name and name not in role.values():
            values = [rows[row][index[name]].strip() for row in kept]
            own = name
            while own in RESERVED or own in places or (own != name and own in header):
                own = f"file_{own}"
            places[own] = _objects([v or None for v in values]) if name in NAMES else _typed(values)
    return places, report


def suspicious_positions(
    lonlat: np.ndarray, country: ArrayLike, continent: ArrayLike, skip: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Positions (n, 2), degrees, that are probably wrong: reason -> bool (n,), a row under one reason at most.

    The rules are those of `read_places_csv`. Rows in ``skip`` are neither judged nor used as evidence; an
    empty country or continent is unknown.
    """
    n = len(lonlat)
    usable = np.ones(n, bool) if skip is None else ~skip
    zero = usable & (lonlat == 0).all(1)
    axis = usable & (lonlat == 0).any(1) & ~zero
    axis_far, mirrored, country_far = np.zeros(n, bool), np.zeros(n, bool), np.zeros(n, bool)
    country, continent = np.asarray(country, dtype=object), np.asarray(continent, dtype=object)
    witness = usable & ~zero & ~axis

    for row in np.flatnonzero(axis):
        for group in (country, continent):
            others = lonlat[witness & (group == group[row])] if group[row] else lonlat[:0]
            if len(others):
                away, spread = _distance_and_spread(lonlat[row], others)
                axis_far[row] = away > max(AXIS_FAR_KM, 2 * spread)
                break
    for name in set(country[witness]) - {"", None}:
        members = np.flatnonzero(witness & (country == name))
        if len(members) <= COUNTRY_MIN_OTHERS:
            continue
        for i, row in enumerate(members):
            others = np.delete(lonlat[members], i, 0)
            away, spread = _distance_and_spread(lonlat[row], others)
            if away > max(COUNTRY_FAR_KM, COUNTRY_FAR_RATIO * spread):
                flips = lonlat[row] * [[-1, 1], [1, -1], [-1, -1]]
                nearest = min(_distance_and_spread(flip, others)[0] for flip in flips)
                (mirrored if nearest <= max(MIRROR_HOME_KM, spread) else country_far)[row] = True
    return {
        "at 0, 0": zero,
        "on an axis, far from its country": axis_far,
        "mirrored": mirrored,
        FAR: country_far,
    }


def _distance_and_spread(point: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """Distance in km of a point from the median of others, and of the farthest of those from it."""
    x, y, z = np.median(unit_xyz(others), 0)
    middle = np.degrees([np.arctan2(y, x), np.arctan2(z, np.hypot(x, y))])
    return float(great_circle_km(point, middle)), float(great_circle_km(others, middle).max())


def coordinate_precision_km(lonlat: np.ndarray) -> np.ndarray:
    """How coarsely positions (n, 2) were written: step in km of the coarsest of `ROUNDING_GRIDS` they lie on.

    A position lies on a grid when both coordinates do, to 2e-6 degrees. It is an estimate: one in a hundred
    positions given in minutes stands on a coarser grid by chance. Finer than 1e-5 degrees counts as 1e-6.
    """
    step = np.full(len(lonlat), 1e-6)
    for grid in sorted(ROUNDING_GRIDS):
        off = np.abs(lonlat - np.round(lonlat / grid) * grid).max(1)
        step[off <= min(2e-6, grid / 20)] = grid
    return step * KM_PER_DEGREE


def _read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    opened = gzip.open if path.suffix == ".gz" else open
    limit = csv.field_size_limit(2**24)
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            header, *rows = [row for row in csv.reader(file) if row] or [[]]
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read ({error}); is the file whole?") from error
    except UnicodeDecodeError as error:
        raise not_utf8(path, error) from error
    except csv.Error as error:
        raise ValueError(f"{path}: not a CSV table ({error})") from error
    finally:
        csv.field_size_limit(limit)
    header = [name.strip() for name in header]
    if twice := [name for name in header if name and header.count(name) > 1]:
        raise ValueError(f"{path}: two columns are named {twice[0]!r}; rename one of them")
    if not rows:
        raise ValueError(f"{path}: the table has no rows; it needs a header and at least one row")
    for number, row in enumerate(rows):
        if len(row) != len(header):
            raise ValueError(
                f"{path}: row {number} has {len(row)} fields, the header {len(header)}; is a quote missing?"
            )
    return header, rows


def _roles(path: Path, header: list[str], text_column: str, columns: Mapping[str, str]) -> dict[str, str]:
    """Which column of the file plays which role."""
    unknown = set(columns) - set(COLUMN_NAMES)
    if unknown:
        raise ValueError(f"columns may name {', '.join(COLUMN_NAMES)}, not {', '.join(sorted(unknown))}")
    role = {"text": text_column}
    for name, candidates in COLUMN_NAMES.items():
        found = columns.get(name) or next((c for c in candidates if c in header), None)
        if found:
            role[name] = found
    for name in ("lon", "lat", *columns, "text"):
        if role.get(name) not in header:
            wanted = role.get(name) or " or ".join(COLUMN_NAMES[name])
            raise ValueError(f"{path}: no column {wanted} for {name}; the columns are {', '.join(header)}")
    return role


def _numbers(path: Path, name: str, values: list[str], drop_invalid: bool) -> np.ndarray:
    out = np.full(len(values), np.nan)
    for row, value in enumerate(values):
        try:
            out[row] = float(value) if value else np.nan
        except ValueError:
            if not drop_invalid:
                raise ValueError(
                    f"{path}: row {row}: {name} is {value!r}, not a number; give decimal degrees "
                    "with a point, or drop such rows (drop_invalid=True)"
                ) from None
    return out


def _objects(values: list) -> np.ndarray:
    return np.array(values, dtype=object)


def _typed(values: list[str]) -> np.ndarray:
    """float64 with NaN where every value that is there is a number, else object with None."""
    try:
        return np.array([float(value) if value else np.nan for value in values])
    except ValueError:
        return _objects([value or None for value in values])


def _clean(text: str) -> str:
    return _MARKUP.sub("", text).strip()


def _repeated(texts: list[str], skip: np.ndarray) -> np.ndarray:
    seen: set[str] = set()
    repeated = np.zeros(len(texts), bool)
    for row, text in enumerate(texts):
        if skip[row]:
            continue
        words = " ".join(text.casefold().split())
        repeated[row] = words in seen
        seen.add(words)
    return repeated


# --- images -------------------------------------------------------------------------------------------


def read_geotiff_chips(
    paths: Iterable, tile: int = 64, *, harmonise: bool = False, progress: bool = False
) -> tuple[np.ndarray, dict[str, np.ndarray], list[Report]]:
    """Cut Sentinel-2 L2A GeoTIFFs into square tiles, each with the position of its centre.

    Files have 12 bands (`BANDS`, in that order), uint16 reflectance x 10,000, a projected reference system
    in metres (UTM), square pixels, north up, and one pixel size among them. Tiles are cut from the upper left corner;
    what is left over at the right and the bottom, and tiles with a pixel without data (the file's own
    value, or 0 in all bands), are dropped and reported.

    Args:
        paths: files.
        tile: edge of a tile in pixels.
        harmonise: take off the offset of +1000 that processing baseline 04.00 (2022-01-25) brought, from
            files that carry it, as `geonb.data.sentinel2.radiometric_offset` tells from the pixels.
        progress: show a bar.

    Returns:
        ``(images, places, reports)``: uint16 (k, 12, tile, tile); columns of k values "lon", "lat" (degrees,
        EPSG:4326), "file", "tile_row", "tile_col", "gsd_m", "radiometric_offset" (taken off, in DN); and a
        `Report` for each file.

    Raises:
        ValueError: naming the file, what is wrong and what to do. ImportError without rasterio.
    """
    paths = [Path(path) for path in paths]
    if tile < 1:
        raise ValueError(f"tile must be at least 1 pixel, not {tile}")
    if progress:
        from geonb._util import tqdm

    chips, reports, gsd_m = [], [], None
    for path in tqdm(paths, desc="chips", unit="file") if progress else paths:
        images, places, report, size = _read_chip(path, tile, harmonise)
        gsd_m = gsd_m or size
        if not np.isclose(size, gsd_m):
            raise ValueError(
                f"{path}: pixels of {size:g} m, those of {paths[0]} have {gsd_m:g} m; "
                "resample to one size, or make a store of each"
            )
        chips.append((images, places))
        reports.append(report)
    if not chips:
        raise ValueError("no GeoTIFF given")
    places = {name: np.concatenate([one[name] for _, one in chips]) for name in chips[0][1]}
    images = np.concatenate([images for images, _ in chips])
    if not len(images):
        raise ValueError("no tile is left to use\n" + "\n".join(map(str, reports)))
    return images, places, reports


def _read_chip(
    path: Path, tile: int, harmonise: bool
) -> tuple[np.ndarray, dict[str, np.ndarray], Report, float]:
    """Tiles, their columns, the report, and the size of a pixel in metres."""
    import rasterio

    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        # By name of the driver: other formats may refer to files and addresses elsewhere.
        with rasterio.open(path, driver="GTiff") as source:
            _check_chip(path, source, tile)
            pixels = source.read()
            transform, crs, nodata = source.transform, source.crs, source.nodata
    except raster_errors() as error:
        raise ValueError(f"{path}: cannot be read as a GeoTIFF ({error}); is the file whole?") from error

    rows, cols = pixels.shape[1] // tile, pixels.shape[2] // tile
    tiles = pixels[:, : rows * tile, : cols * tile].reshape(len(BANDS), rows, tile, cols, tile)
    tiles = tiles.transpose(1, 3, 0, 2, 4).reshape(rows * cols, len(BANDS), tile, tile)
    empty = (tiles == 0).all(1)
    if nodata is not None and nodata != 0:
        empty |= (tiles == nodata).any(1)
    whole = ~empty.any((1, 2))
    row, col = np.divmod(np.arange(rows * cols), cols)
    report = Report(file=path.name, unit="tiles", read=rows * cols, kept=int(whole.sum()))
    if not whole.all():
        lost = zip(row[~whole], col[~whole], strict=True)
        report.dropped["pixels without data"] = [f"{r}/{c}" for r, c in lost]

    offset = 0
    if harmonise:

        offset = int(radiometric_offset(pixels))
        tiles = np.clip(tiles.astype(np.int32) - offset, 0, None).astype(np.uint16)
    lonlat = _centres(transform, crs, row[whole], col[whole], tile)
    check_lonlat(lonlat, where=str(path))
    k = int(whole.sum())
    places = {
        "lon": lonlat[:, 0],
        "lat": lonlat[:, 1],
        "file": _objects([path.name] * k),
        "tile_row": row[whole],
        "tile_col": col[whole],
        "gsd_m": np.full(k, abs(transform.a)),
        "radiometric_offset": np.full(k, offset),
    }
    return tiles[whole], places, report, abs(transform.a)


def _check_chip(path: Path, source: Any, tile: int) -> None:
    named = [re.sub(r"^B0+", "B", (name or "").strip().upper()) for name in source.descriptions]
    a, b, _, d, e, _ = source.transform[:6]
    wrong = None
    if source.count != len(BANDS):
        wrong = f"{source.count} bands, not {len(BANDS)}; export {' '.join(BANDS)} in this order"
    elif set(source.dtypes) != {"uint16"}:
        wrong = f"pixels are {source.dtypes[0]}, not uint16; give reflectance x 10,000 as uint16"
    elif source.crs is None:
        wrong = "no coordinate reference system, so its tiles have no position; export it with one"
    elif not source.crs.is_projected:
        wrong = f"{source.crs} is in degrees; reproject it to UTM"
    elif b or d or not a > 0 > e or not np.isclose(a, -e):
        wrong = "pixels are not square and north up; resample it with gdalwarp"
    elif min(source.height, source.width) < tile:
        wrong = f"{source.width} x {source.height} pixels, smaller than a tile of {tile}"
    elif set(named) & set(BANDS) and named != BANDS:
        wrong = f"its bands are named {' '.join(named)}; export them as {' '.join(BANDS)}"
    if wrong:
        raise ValueError(f"{path}: {wrong}")


def _centres(transform: Any, crs: Any, row: np.ndarray, col: np.ndarray, tile: int) -> np.ndarray:
    """Positions (k, 2) in degrees of the centres of tiles, by the file's own reference system."""
    from rasterio.warp import transform as reproject

    if not len(row):
        return np.zeros((0, 2))
    x = transform.c + (col + 0.5) * tile * transform.a  # north up: _check_chip saw to that
    y = transform.f + (row + 0.5) * tile * transform.e
    return np.stack(reproject(crs, "EPSG:4326", x.tolist(), y.tolist())[:2], 1)


# --- one store ----------------------------------------------------------------------------------------


def make_real_store(
    out: str | Path,
    csv_paths: Sequence = (),
    chip_paths: Sequence = (),
    *,
    tile: int = 64,
    harmonise: bool = True,
    drop_invalid: bool = False,
    keep_suspicious: bool = False,
    lang: str = "en",
    provenance: Sequence[tuple[str, str, str]] = PROVENANCE,
    progress: bool = True,
) -> PlaceStore:
    """A place store of real texts (places without an image) and real image tiles (places without a text).

    Args:
        out: folder to write; it must not exist.
        csv_paths: tables, as `read_places_csv` takes them. Their own columns "source", "license", "lang",
            "revision" and "url" are used row by row where there are any.
        chip_paths: GeoTIFFs, as `read_geotiff_chips` takes them.
        tile, harmonise: of the chips.
        drop_invalid, keep_suspicious: of the tables.
        lang: BCP 47 language of texts whose table does not say.
        provenance: (pattern of the file name, source, licence); the first that fits counts. A file that none
            fits has its name as source and the licence "unknown".
        progress: show bars, and tell on stderr what was dropped or flagged.

    Returns:
        The store. ``manifest["simulated"]`` is false for all modalities; the data card holds the reports of
        what was dropped and why.

    Raises:
        ValueError: as the two readers do, or if no file is given. Nothing is written then.
    """
    if not csv_paths and not chip_paths:
        raise ValueError("no file given; give CSV tables, GeoTIFF chips, or both")
    tables, texts, reports = [], [], []
    for path in map(Path, csv_paths):
        places, report = read_places_csv(path, drop_invalid=drop_invalid, keep_suspicious=keep_suspicious)
        n = len(places["lon"])
        places["place_id"] = _objects([f"{_stem(path)}-{row}" for row in places["row"]])
        source, license = _provenance(path, provenance)
        places.setdefault("source", _objects([source] * n))
        places.setdefault("license", _objects([license] * n))
        text = {name: places[name] for name in ("place_id", "source", "license")}
        text["text"] = places.pop("text")
        for name, default in (("lang", lang), ("revision", None), ("url", None)):
            text[name] = places.pop(name, _objects([default] * n))
        texts.append(text)
        tables.append(places)
        reports.append(report)

    images, image_rows, gsd_m = None, None, 10.0
    if chip_paths:
        tiles, places, of_chips = read_geotiff_chips(chip_paths, tile, harmonise=harmonise, progress=progress)
        named = zip(places["file"], places["tile_row"], places["tile_col"], strict=True)
        places["place_id"] = _objects([f"{_stem(Path(file))}-{row}-{col}" for file, row, col in named])
        told = [_provenance(Path(file), provenance) for file in places["file"]]
        places["source"], places["license"] = (_objects(list(values)) for values in zip(*told, strict=True))
        gsd_m = float(places.pop("gsd_m")[0])
        first = sum(len(table["lon"]) for table in tables)
        images, image_rows = [tiles], np.arange(first, first + len(tiles))
        tables.append(places)
        reports += of_chips

    for report in reports:
        if progress and (report.dropped or report.flagged):
            print(report, file=sys.stderr)

    inputs = [Path(path) for path in (*csv_paths, *chip_paths)]
    return write_store(
        out,
        places=_columns(tables),
        texts=_columns(texts) if texts else None,
        images=images,
        image_rows=image_rows,
        gsd_m=gsd_m,
        simulated={"location": False, "text": False, "image": False},
        made={
            "function": "geonb.data.sources.local.make_real_store",
            "options": {
                "tile": tile,
                "harmonise": harmonise,
                "drop_invalid": drop_invalid,
                "keep_suspicious": keep_suspicious,
                "lang": lang,
            },
            "inputs": {path.name: _sha256(path) for path in inputs},
        },
        datacard=_datacard(tables, reports, len(images[0]) if images else 0, gsd_m),
    )


def _datacard(tables: list[dict[str, np.ndarray]], reports: list[Report], tiles: int, gsd_m: float) -> str:
    rights = dict.fromkeys(pair for t in tables for pair in zip(t["source"], t["license"], strict=True))
    count = sum(len(table["lon"]) for table in tables)
    lines = ["# Real places", ""]
    lines += [f"{count - tiles:,} places with a text and {tiles:,} with an image; nothing is simulated.", ""]
    lines += ["## Sources and licences", ""]
    lines += [f"- {source}. Licence: {license}." for source, license in rights]
    lines += ["", "## What was read, dropped and flagged", ""]
    lines += ["Rows are counted from 0 below the header.", ""]
    lines += ["```", *map(str, reports), "```", ""]
    lines += ["## Limits", "", "- No place has both a text and an image."]
    if tiles < count:
        lines += [
            "- Positions of texts are as coarse as `coordinate_precision_km` says or coarser: a country or a "
            "long river has one point.",
            "- Rows with a `position_flag` may stand in the wrong place.",
        ]
    if tiles:
        lines += [
            f"- Tiles (pixels of {gsd_m:g} m) cut from one file are neighbours: keep them on one side of a "
            "split.",
            "- Clouds were not masked. `radiometric_offset` is what was taken off the digital numbers.",
        ]
    return "\n".join(lines) + "\n"


def _sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _columns(tables: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Tables below each other; a table without a column has NaN (numbers) or None (anything else) there."""
    names = dict.fromkeys(name for table in tables for name in table)
    out = {}
    for name in names:
        numeric = all(table[name].dtype.kind in "iuf" for table in tables if name in table)
        missing = np.nan if numeric else None
        out[name] = np.concatenate([table.get(name, np.full(len(table["place_id"]), missing)) for table in tables])
    return out


def _stem(path: Path) -> str:
    """"wikipedia_places" of "wikipedia_places.csv.gz"."""
    return path.name.split(".")[0]


def _provenance(path: Path, provenance: Sequence[tuple[str, str, str]]) -> tuple[str, str]:
    """Source and licence of a file by its name."""
    for pattern, source, license in provenance:
        if fnmatch.fnmatch(path.name, pattern):
            return source, license
    return path.name, "unknown"


# --- the project's own test data ----------------------------------------------------------------------


def real_data() -> dict[str, list[Path]]:
    """The real data set that tests and the book use: {"csv": [...], "chips": [...]}.

    It lies in the folder `GEONB_REAL_DATA`, or else in ``../shared/data`` beside the repository.

    Raises:
        FileNotFoundError: it is not there; the message says where it was looked for.
    """
    beside = Path(__file__).resolve().parents[4] / "shared" / "data"
    folder = Path(os.environ.get("GEONB_REAL_DATA") or beside)
    found = {
        "csv": sorted(folder.glob("places_text/*.csv*")),
        "chips": sorted(folder.glob("sentinel2/*.tif")),
    }
    if not found["csv"] or not found["chips"]:
        raise FileNotFoundError(
            f"no real data in {folder}: it needs places_text/*.csv and sentinel2/*.tif; "
            "set GEONB_REAL_DATA to the folder that has them"
        )
    return found
