"""Real observations from your files: tables of texts with positions, and Sentinel-2 GeoTIFFs.

Real tables contain errors. A position that is certainly wrong (no number, out of range) stops the reading with file and
row, or is dropped and reported if you ask for that. A position that is very probably wrong is dropped and reported, or
kept if you ask for that; see :func:`suspicious_positions`. One that may be right, such as that of an overseas
territory, is kept with a flag.

GeoTIFFs are cut into tiles. Those of S2-100K (https://huggingface.co/datasets/torchgeo/s2-100k; Klemmer et al., 2025)
are read as they are: unpack its tar files, and give ``patch_*.tif``. Positions are those of the files themselves.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike
from pyarrow import csv

from geonb._util import not_utf8, tqdm
from geonb.data.sentinel2 import BANDS, radiometric_offset
from geonb.data.sources._raster import raster_errors
from geonb.data.sources.parts import Skips
from geonb.data.store import PlaceStore, write_store
from geonb.geo import check_lonlat, great_circle_km, unit_xyz

COLUMN_NAMES = {
    "lon": ("longitude", "lon", "lng"),
    "lat": ("latitude", "lat"),
    "text": ("text",),
    "title": ("title", "article", "name_en", "name"),
    "country": ("country", "states_name_en"),
    "continent": ("continent",),
}
RESERVED = {"place_id", "geometry", "file"}  # columns that a store adds
# Columns that are text even if all their values look like numbers.
TEXT_COLUMNS = RESERVED | {
    "title", "text", "country", "continent", "position_flag", "source", "license", "lang", "revision", "url"
}  # fmt: skip

# Grids on which people round coordinates, in degrees: whole and half degrees, tenths, minutes, seconds, ...
ROUNDING_GRIDS = (1, 1 / 2, 1 / 10, 1 / 60, 1 / 100, 1 / 1000, 1 / 3600, 1e-4, 1e-5)
KM_PER_DEGREE = 111.195  # of latitude, on a sphere of 6371.0088 km

AXIS_FAR_KM = 500
COUNTRY_FAR_KM = 2000
COUNTRY_FAR_RATIO = 4
COUNTRY_MIN_OTHERS = 5
MIRROR_HOME_KM = 500
AXIS_FAR, FAR = "on an axis, far from its country", "far from its country"

TILE = 64  # pixels, the edge of a tile

_MARKUP = re.compile(r"</?[A-Za-z][A-Za-z0-9]{0,9}\s*/?>")


# --- tables -------------------------------------------------------------------------------------------


def read_texts(
    path: str | Path, *, drop_invalid: bool = False, keep_suspicious: bool = False
) -> tuple[dict[str, np.ndarray], Skips]:
    """Read a CSV or CSV.GZ table (UTF-8, with a header) of texts with positions; columns are those of `COLUMN_NAMES`.

    Rows with an empty text, with the text of an earlier row, and with a suspicious position are dropped. A position
    that is only "far from its country" is flagged and never dropped: a lone overseas territory looks just like an
    error there.

    Args:
        path: the file.
        drop_invalid: drop rows without a valid position instead of raising.
        keep_suspicious: keep rows whose position is suspicious, and only flag them.

    Returns:
        ``(places, skips)``. ``places`` has "lon", "lat" (degrees), "title", "text" (without tags such as <em>), "row"
        (counted from 0 below the header), "coordinate_precision_km", "position_flag" (why a row was flagged, or None),
        "country" and "continent" if the table has them, and every other column of the table as text or None. A column
        whose name is taken, also by the store (`RESERVED`), gets the prefix ``file_``. ``skips`` counts what was
        dropped, with the first row of each reason.

    Raises:
        ValueError: a table that cannot be used; names the file, and the row where a row is wrong.
    """
    path = Path(path)
    table = _read_table(path)
    role = {name: next((c for c in known if c in table), None) for name, known in COLUMN_NAMES.items()}
    if missing := [name for name in ("lon", "lat", "text") if role[name] is None]:
        wanted = " or ".join(COLUMN_NAMES[missing[0]])
        raise ValueError(f"{path}: no column {wanted} for {missing[0]}; the columns are {', '.join(table)}")
    unknown = _objects([""] * len(next(iter(table.values()))))
    columns = {name: table[column] if column else unknown for name, column in role.items()}
    lonlat = np.stack([[_number(value) for value in columns[name]] for name in ("lon", "lat")], 1)
    texts = _objects([_clean(text) for text in columns["text"]])
    titles = _objects([_clean(title.replace("_", " ")) for title in columns["title"]])

    if not drop_invalid:
        check_lonlat(lonlat, where=str(path))
    invalid = ~np.isfinite(lonlat).all(1) | (np.abs(lonlat) > [180, 90]).any(1)
    empty = ~invalid & (texts == "")
    repeated = _repeated(texts, ~invalid & ~empty)
    dropped = {"no valid position": invalid, "empty text": empty, "same text as a row before": repeated}
    gone = invalid | empty | repeated
    suspicious = suspicious_positions(lonlat, columns["country"], columns["continent"], skip=gone)
    flagged = suspicious if keep_suspicious else {FAR: suspicious.pop(FAR)}
    flag, skips = np.full(len(gone), None), Skips()
    for reason, mask in flagged.items():
        flag[mask] = reason
    for reason, mask in (dropped if keep_suspicious else dropped | suspicious).items():
        row = int(np.argmax(mask))
        at = f"{titles[row]!r} at ({lonlat[row, 0]:g}, {lonlat[row, 1]:g}), {columns['country'][row]}"
        skips.add(reason, f"{path.name}: row {row}: {at}", n=int(mask.sum()))
        gone = gone | mask

    kept = np.flatnonzero(~gone)
    if not len(kept):
        raise ValueError(f"{path}: no row is left to use\n{skips}")
    places = {"lon": lonlat[kept, 0], "lat": lonlat[kept, 1], "title": titles[kept], "text": texts[kept], "row": kept}
    places |= {"coordinate_precision_km": coordinate_precision_km(lonlat[kept]), "position_flag": flag[kept]}
    others = {name: values for name, values in table.items() if name and name not in role.values()}
    named = {name: columns[name] for name in ("country", "continent") if role[name]}
    named |= {f"file_{name}" if name in RESERVED | places.keys() else name: others[name] for name in others}
    return places | {name: _objects([v or None for v in values[kept]]) for name, values in named.items()}, skips


def suspicious_positions(
    lonlat: np.ndarray, country: ArrayLike, continent: ArrayLike, skip: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Find positions (n, 2), degrees, that are probably wrong: reason -> bool (n,), a row under one reason at most.

    - "at 0, 0": no land within 500 km.
    - "on an axis, far from its country": longitude or latitude is exactly 0, and the position is more than
      500 km, and more than twice as far as any of them, from the median of the other rows of its country
      (of its continent where the country has no other row).
    - "mirrored": far from its country (next line), and at home (within 500 km, or no farther than the others)
      when longitude or latitude changes its sign.
    - "far from its country": more than 2,000 km, and more than four times as far as any of them, from the median of at
      least five other rows of the country. Two errors in a small country hide each other.

    Rows in ``skip`` are neither judged nor used as evidence; an empty country or continent is unknown.
    """
    n = len(lonlat)
    usable = np.ones(n, bool) if skip is None else ~skip
    zero = usable & (lonlat == 0).all(1)
    axis = usable & (lonlat == 0).any(1) & ~zero
    found = {"at 0, 0": zero} | {reason: np.zeros(n, bool) for reason in (AXIS_FAR, "mirrored", FAR)}
    country, continent = np.asarray(country, dtype=object), np.asarray(continent, dtype=object)
    witness = usable & ~zero & ~axis

    for row in np.flatnonzero(axis):
        for group in (country, continent):
            others = lonlat[witness & (group == group[row])] if group[row] else lonlat[:0]
            if len(others):
                distance, spread = _distance_and_spread(lonlat[row], others)
                found[AXIS_FAR][row] = distance > max(AXIS_FAR_KM, 2 * spread)
                break
    for name in set(country[witness]) - {"", None}:
        members = np.flatnonzero(witness & (country == name))
        if len(members) <= COUNTRY_MIN_OTHERS:
            continue
        for i, row in enumerate(members):
            others = np.delete(lonlat[members], i, 0)
            distance, spread = _distance_and_spread(lonlat[row], others)
            if distance > max(COUNTRY_FAR_KM, COUNTRY_FAR_RATIO * spread):
                flips = lonlat[row] * [[-1, 1], [1, -1], [-1, -1]]
                nearest = min(_distance_and_spread(flip, others)[0] for flip in flips)
                found["mirrored" if nearest <= max(MIRROR_HOME_KM, spread) else FAR][row] = True
    return found


def _distance_and_spread(point: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """Measure in km how far a point is from the median of others, and the farthest of those from it."""
    x, y, z = np.median(unit_xyz(others), 0)
    middle = np.degrees([np.arctan2(y, x), np.arctan2(z, np.hypot(x, y))])
    return float(great_circle_km(point, middle)), float(great_circle_km(others, middle).max())


def coordinate_precision_km(lonlat: np.ndarray) -> np.ndarray:
    """Estimate how coarsely positions (n, 2) were written: step in km of the coarsest of `ROUNDING_GRIDS` they lie on.

    A position lies on a grid when both coordinates do, to 2e-6 degrees. One in a hundred positions given in minutes
    lies on a coarser grid by chance. Finer than 1e-5 degrees counts as 1e-6.
    """
    step = np.full(len(lonlat), 1e-6)
    for grid in sorted(ROUNDING_GRIDS):
        off = np.abs(lonlat - np.round(lonlat / grid) * grid).max(1)
        step[off <= min(2e-6, grid / 20)] = grid
    return step * KM_PER_DEGREE


def _read_table(path: Path) -> dict[str, np.ndarray]:
    """Read the columns of a table as stripped text, without any guess about types."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    reading = {
        "read_options": csv.ReadOptions(block_size=1 << 24),  # a row must fit in
        "parse_options": csv.ParseOptions(newlines_in_values=True),
    }
    try:
        with csv.open_csv(path, **reading) as file:
            names = file.schema.names
        text = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
        table = csv.read_csv(path, convert_options=text, **reading)
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        if isinstance(error, UnicodeDecodeError) or "UTF8" in str(error):
            raise not_utf8(path, error) from error
        raise ValueError(f"{path}: cannot be read ({error}); is the file whole, and no quote missing?") from error
    if not len(table):
        raise ValueError(f"{path}: the table has no rows; it needs a header and at least one row")
    names = [name.strip() for name in names]
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise ValueError(f"{path}: two columns are named {twice[0]!r}; rename one of them")
    columns = (_objects([value.strip() for value in column.to_pylist()]) for column in table.columns)
    return dict(zip(names, columns, strict=True))


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return np.nan


def _objects(values: list) -> np.ndarray:
    return np.array(values, dtype=object)


def _clean(text: str) -> str:
    return _MARKUP.sub("", text).strip()


def _repeated(texts: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Find the usable rows whose text an earlier usable row has, apart from case and spaces."""
    rows = np.flatnonzero(usable)
    words = _objects([" ".join(text.casefold().split()) for text in texts[rows]])
    repeated = usable.copy()
    repeated[rows[np.unique(words, return_index=True)[1]]] = False
    return repeated


# --- images -------------------------------------------------------------------------------------------


def read_tiles(
    path: str | Path, tile: int = TILE, *, harmonise: bool = True
) -> tuple[np.ndarray, dict[str, np.ndarray], Skips]:
    """Cut a Sentinel-2 L2A GeoTIFF into square tiles, each with the position of its centre.

    The file has the 12 `BANDS` in that order, uint16 reflectance x 10,000, a projected reference system in metres
    (UTM), square pixels, north up. Tiles are cut from the upper left corner; the rest at the right and the bottom is
    dropped, and so are tiles with a pixel without data (the file's own value, or 0 in all bands).

    Args:
        path: the file.
        tile: edge of a tile in pixels.
        harmonise: take off the offset of +1000 that processing baseline 04.00 (2022-01-25) brought, if the pixels show
            it (:func:`geonb.data.sentinel2.radiometric_offset`).

    Returns:
        ``(images, places, skips)``: uint16 (k, 12, tile, tile); columns of k values "lon", "lat" (degrees),
        "file", "tile_row", "tile_col", "gsd_m", "radiometric_offset" (taken off, in DN); and what was dropped.

    Raises:
        ValueError: a file that cannot be used; says what is wrong and what to do.
    """
    import rasterio
    from rasterio.warp import transform

    path = Path(path)
    try:
        # By name of the driver: other formats may refer to other files and addresses.
        with rasterio.open(path, driver="GTiff") as source:
            _check_file(path, source, tile)
            pixels, grid, crs, nodata = source.read(), source.transform, source.crs, source.nodata
    except raster_errors() as error:
        raise ValueError(f"{path}: cannot be read as a GeoTIFF ({error}); is the file whole?") from error

    rows, cols = pixels.shape[1] // tile, pixels.shape[2] // tile
    tiles = pixels[:, : rows * tile, : cols * tile].reshape(len(BANDS), rows, tile, cols, tile)
    tiles = tiles.transpose(1, 3, 0, 2, 4).reshape(rows * cols, len(BANDS), tile, tile)
    empty = (tiles == 0).all(1)
    if nodata:
        empty |= (tiles == nodata).any(1)
    whole = np.flatnonzero(~empty.any((1, 2)))
    row, col = np.divmod(whole, cols)
    skips = Skips()
    skips.add("tiles with pixels without data", path.name, n=len(tiles) - len(whole))
    offset = int(radiometric_offset(pixels)) if harmonise else 0
    x, y = grid * ((col + 0.5) * tile, (row + 0.5) * tile)
    lon, lat = transform(crs, "EPSG:4326", x.tolist(), y.tolist()) if len(whole) else ([], [])
    places = {
        "lon": np.array(lon),
        "lat": np.array(lat),
        "file": _objects([path.name] * len(whole)),
        "tile_row": row,
        "tile_col": col,
        "gsd_m": np.full(len(whole), grid.a),
        "radiometric_offset": np.full(len(whole), offset),
    }
    return tiles[whole] - np.minimum(tiles[whole], np.uint16(offset)), places, skips


def _check_file(path: Path, source: Any, tile: int) -> None:
    """Refuse an open GeoTIFF that is not as `read_tiles` needs it, and say what to do."""
    named = [re.sub(r"^B0+", "B", (name or "").strip().upper()) for name in source.descriptions]
    a, b, _, d, e, _ = source.transform[:6]
    square = not b and not d and a > 0 > e and np.isclose(a, -e)
    size, bands = f"{source.width} x {source.height} pixels", " ".join(BANDS)
    for good, wrong in (
        (source.count == len(BANDS), f"{source.count} bands, not {len(BANDS)}; export {bands} in this order"),
        (set(source.dtypes) == {"uint16"}, f"pixels are {source.dtypes[0]}; give reflectance x 10,000 as uint16"),
        (source.crs, "no coordinate reference system, so its tiles have no position; export it with one"),
        (source.crs and source.crs.is_projected, f"{source.crs} is in degrees; reproject it to UTM"),
        (square, "pixels are not square and north up; resample it with gdalwarp"),
        (min(source.shape) >= tile, f"{size}, smaller than a tile of {tile}"),
        (named == BANDS or not set(named) & set(BANDS), f"its bands are named {' '.join(named)}; export {bands}"),
    ):
        if not good:
            raise ValueError(f"{path}: {wrong}")


# --- one store ----------------------------------------------------------------------------------------


def from_files(
    out: str | Path,
    tables: Sequence[str | Path] = (),
    chips: Sequence[str | Path] = (),
    *,
    tile: int = TILE,
    harmonise: bool = True,
    drop_invalid: bool = False,
    keep_suspicious: bool = False,
    provenance: Sequence[tuple[str, str, str]] = (),
) -> PlaceStore:
    """Make a place store of real texts (places without an image) and real image tiles (places without a text).

    What was dropped is printed on stderr and written to the data card. The pixels of one GeoTIFF at a time are in
    memory; each is read twice.

    Args:
        out: folder to write; it must not exist.
        tables: CSV files, as `read_texts` takes them. Their columns "source", "license", "lang", "revision" and "url"
            describe the texts row by row; without "lang" a text counts as English.
        chips: GeoTIFFs of one pixel size, as `read_tiles` takes them.
        tile, harmonise: as for `read_tiles`; edge in pixels.
        drop_invalid, keep_suspicious: as for `read_texts`.
        provenance: (pattern of the file name, source, licence); the first that fits counts. A file that none fits has
            its name as source and the licence "unknown".

    Raises:
        ValueError: a file that cannot be used, or none given. Nothing is written then.
    """
    if not tables and not chips:
        raise ValueError("no file given; give CSV tables, GeoTIFF chips, or both")
    parts, texts, skips = [], [], Skips()
    for path in map(Path, tables):
        places, dropped = read_texts(path, drop_invalid=drop_invalid, keep_suspicious=keep_suspicious)
        skips.update(dropped)
        n = len(places["lon"])
        places["place_id"] = _objects([f"{_stem(path)}-{row}" for row in places["row"]])
        places |= _credit(path, n, provenance) | places
        text = {name: places[name] for name in ("place_id", "source", "license")}
        text["text"] = places.pop("text")
        for name, default in (("lang", "en"), ("revision", None), ("url", None)):
            text[name] = places.pop(name, _objects([default] * n))
        texts.append(text)
        parts.append(places)
    first, sizes = sum(len(part["lon"]) for part in parts), []
    for path in tqdm(list(map(Path, chips)), desc="chips", unit="file"):
        _, places, dropped = read_tiles(path, tile, harmonise=harmonise)
        skips.update(dropped)
        named = zip(places["tile_row"], places["tile_col"], strict=True)
        places["place_id"] = _objects([f"{_stem(path)}-{row}-{col}" for row, col in named])
        places |= _credit(path, len(places["lon"]), provenance)
        sizes += places.pop("gsd_m").tolist()
        if not np.allclose(sizes, sizes[:1]):
            raise ValueError(f"{path}: pixels of {sizes[-1]:g} m, others have {sizes[0]:g} m; make a store of each")
        parts.append(places)
    places = _stacked(parts)
    if not len(places["lon"]):
        raise ValueError(f"no tile is left to use\n{skips}")
    if skips.counts:
        print(skips, file=sys.stderr)
    return write_store(
        out,
        places=places,
        texts=_stacked(texts) if texts else None,
        images=(read_tiles(path, tile, harmonise=harmonise)[0] for path in chips) if sizes else None,
        image_rows=np.arange(first, len(places["lon"])),
        gsd_m=sizes[0] if sizes else 10.0,
        simulated={"location": False, "text": False, "image": False},
        made={
            "function": "geonb.data.sources.files.from_files",
            "options": {
                "tile": tile, "harmonise": harmonise, "drop_invalid": drop_invalid, "keep_suspicious": keep_suspicious
            },
            "inputs": {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in map(Path, (*tables, *chips))},
            "left_out": skips.counts,
        },
        datacard=_datacard(places, first, skips),
    )  # fmt: skip


def _datacard(places: dict[str, np.ndarray], texts: int, skips: Skips) -> str:
    rights = dict.fromkeys(zip(places["source"], places["license"], strict=True))
    credits = "\n".join(f"- {source}. Licence: {license}." for source, license in rights)
    return f"""# Real places

{texts:,} places with a text and {len(places["lon"]) - texts:,} with an image; nothing is simulated.

## Sources and licences

{credits}

## What was left out (rows are counted from 0 below the header)

```
{skips}
```

## Limits

- No place has both a text and an image.
- Positions of texts are as coarse as `coordinate_precision_km` says or coarser: a country or a long river has one
  point. Rows with a `position_flag` may stand in the wrong place.
- Tiles cut from one file are neighbours: keep them on one side of a split. Clouds were not masked.
  `radiometric_offset` is what was taken off the digital numbers.
"""


def _stacked(tables: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Stack tables; where a table lacks a column there is NaN. Text that is a number in all rows becomes float64."""
    out = {}
    for name in dict.fromkeys(name for table in tables for name in table):
        parts = [table.get(name, np.full(len(table["place_id"]), np.nan)) for table in tables]
        out[name] = np.concatenate(parts)
        if out[name].dtype == object and name.removeprefix("file_") not in TEXT_COLUMNS:
            with suppress(ValueError):
                out[name] = np.array([np.nan if value is None else float(value) for value in out[name]])
    return out


def _stem(path: Path) -> str:
    """Return "wikipedia_places" of "wikipedia_places.csv.gz"."""
    return path.name.split(".")[0]


def _credit(path: Path, n: int, provenance: Sequence[tuple[str, str, str]]) -> dict[str, np.ndarray]:
    """Make the columns of source and licence (n,) of a file, found by its name."""
    fits = ((source, license) for pattern, source, license in provenance if fnmatch.fnmatch(path.name, pattern))
    source, license = next(fits, (path.name, "unknown"))
    return {"source": _objects([source] * n), "license": _objects([license] * n)}
