"""Real observations from your files: tables of texts with positions, and Sentinel-2 GeoTIFFs.

Real tables contain errors. A position that is certainly wrong stops the reading with file and row. One
that is very probably wrong is dropped and counted. One that may be right, such as that of an overseas
territory, gets a flag. GeoTIFFs are cut into tiles, those of S2-100K without any preparation
(https://huggingface.co/datasets/torchgeo/s2-100k; Klemmer et al., 2025).
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from geonb._util import as_text, is_missing, tqdm
from geonb.data.sentinel2 import (
    BANDS,
    FILL,
    OFFSET,
    SCALE,
    band_order,
    baseline_offset,
    radiometric_offset,
    seen_offset,
)
from geonb.data.sources._raster import raster_errors
from geonb.data.sources.parts import Skips
from geonb.data.store import Images, PlaceStore, check_scaling, write_store
from geonb.data.tables import columns_of_positions, is_plain, positions, read_table
from geonb.geo import great_circle_km, unit_xyz

COLUMN_NAMES = {
    "text": ("text",),
    "title": ("title", "article", "name_en", "name"),
    "country": ("country", "states_name_en"),
    "continent": ("continent",),
}
RESERVED = {"place_id", "geometry", "file"}  # columns that a store adds
TEXT_COLUMNS = RESERVED | {  # even if all their values look like numbers
    "title", "text", "country", "continent", "position_flag", "source", "license", "lang", "revision", "url"
}  # fmt: skip

TYPED = (".parquet", ".geoparquet", ".geojson", ".json")  # in which text is meant as text, even "1"

AXIS_FAR_KM, COUNTRY_FAR_KM, MIRROR_HOME_KM = 500, 2000, 500
AXIS_FAR_RATIO, COUNTRY_FAR_RATIO = 2, 4
COUNTRY_MIN_OTHERS = 5
AXIS_FAR, FAR = "on an axis, far from its country", "far from its country"

TILE = 64  # pixels, the edge of a tile

# Numbers that a float64 holds exactly as they are written: no leading zeros, no more than 15 digits.
_EXACT = re.compile(r"-?(?=(\D*\d){1,15}$)(0|[1-9]\d*)(\.\d+)?", re.ASCII)
_FLOAT = re.compile(r"-?\d+\.\d+(e[+-]\d+)?|-?\d+e[+-]\d+", re.ASCII)  # exact too, as programs write it
_MARKUP = re.compile(r"</?[A-Za-z][A-Za-z0-9]{0,9}\s*/?>")


def read_texts(
    path: str | Path, *, drop_invalid: bool = False, keep_suspicious: bool = False
) -> tuple[dict[str, np.ndarray], Skips]:
    """Read a table of texts with positions (:mod:`geonb.data.tables`); other columns are those of `COLUMN_NAMES`.

    Rows with an empty text, with the text of an earlier row, and with a suspicious position are dropped. A position
    that is only "far from its country" is flagged and never dropped: a lone overseas territory looks just like an
    error there.

    Args:
        path: the file.
        drop_invalid: drop rows without a valid position instead of raising.
        keep_suspicious: keep rows whose position is suspicious, and only flag them.

    Returns:
        ``(places, skips)``. ``places`` has "lon", "lat" (degrees), "title", "text" (without tags such as <em>), "row"
        (counted from 0 below the header), "position_flag" (why a row was flagged, or None), "country" and "continent"
        if the table has them, and every other column of the table as text or None. A column whose name is taken, also
        by the store (`RESERVED`), gets the prefix ``file_``. ``skips`` counts what was dropped.

    Raises:
        ValueError: a table that cannot be used; names the file, and the row where a row is wrong.
    """
    path = Path(path)
    table = read_table(path)
    lonlat = positions(table, str(path), keep_invalid=drop_invalid)
    places_at = columns_of_positions(table, str(path))
    lower = {name.lower(): name for name in reversed(table.column_names)}
    role = {name: next((lower[c] for c in known if c in lower), None) for name, known in COLUMN_NAMES.items()}
    if role["text"] is None:
        raise ValueError(f"{path}: no column text; the columns are {', '.join(table.column_names)}")
    columns = {name: _words(table, column) for name, column in role.items()}
    if nested := [column for column in role.values() if column and not is_plain(table.schema.field(column).type)]:
        raise ValueError(f"{path}: column {nested[0]} is {table.schema.field(nested[0]).type}; give text")
    texts = _objects([_clean(text) for text in columns["text"]])
    titles = _objects([_clean(title.replace("_", " ")) for title in columns["title"]])

    invalid = np.isnan(lonlat).any(1)
    empty = ~invalid & (texts == "")
    repeated = _repeated(texts, ~invalid & ~empty)
    dropped = {"no valid position": invalid, "empty text": empty, "same text as a row before": repeated}
    gone = invalid | empty | repeated
    suspicious = suspicious_positions(lonlat, columns["country"], columns["continent"], ~gone)
    flagged = suspicious if keep_suspicious else {FAR: suspicious.pop(FAR)}
    flag, skips = np.full(len(gone), None), Skips()
    for reason, mask in flagged.items():
        flag[mask] = reason
    for reason, mask in (dropped if keep_suspicious else dropped | suspicious).items():
        row = int(np.argmax(mask))
        said = f"({lonlat[row, 0]:g}, {lonlat[row, 1]:g})"
        if reason == "no valid position" and len(places_at) == 2:
            said = "(" + ", ".join(as_text(table[name][row].as_py()) or "nothing" for name in places_at) + ")"
        at = f"{titles[row]!r} at {said}, {columns['country'][row]}".rstrip(", ")
        skips.add(reason, f"{path.name}: row {row}: {at}", n=int(mask.sum()))
        gone = gone | mask

    kept = np.flatnonzero(~gone)
    if not len(kept):
        raise ValueError(f"{path}: no row is left to use\n{skips}")
    places = {"lon": lonlat[kept, 0], "lat": lonlat[kept, 1], "title": titles[kept], "text": texts[kept], "row": kept}
    places["position_flag"] = flag[kept]
    used = {*role.values(), *places_at}
    named = {name: role[name] for name in ("country", "continent") if role[name]}
    if lost := [c.name for c in table.schema if not is_plain(c.type) and c.name not in used]:
        warnings.warn(f"{path}: columns without text or numbers are left out: {', '.join(lost)}", stacklevel=2)
    for name in table.column_names:
        if name and name not in {*used, *lost}:
            named[f"file_{name}" if name in RESERVED | places.keys() else name] = name
    others = {name: table[column].take(pa.array(kept)).to_pylist() for name, column in named.items()}
    return places | {name: _objects([None if v == "" else v for v in values]) for name, values in others.items()}, skips


def suspicious_positions(
    lonlat: np.ndarray, country: ArrayLike, continent: ArrayLike, usable: ArrayLike = True
) -> dict[str, np.ndarray]:
    """Find positions (n, 2), degrees, that are probably wrong: a mask (n,) for each reason.

    Distances are from the median of the other rows of the country.

    - "at 0, 0".
    - "on an axis, far from its country": longitude or latitude is 0, and the distance is above 500 km and
      twice the greatest of the others. The continent counts where the country has no other row.
    - "far from its country": above 2,000 km and four times the greatest of at least five others.
    - "mirrored": such a position that is at home when longitude or latitude changes its sign.

    Only ``usable`` rows (n,) are judged and used; an empty country or continent is unknown.
    """
    on_axis, at_zero = (lonlat == 0).any(1), (lonlat == 0).all(1)
    found = {reason: np.zeros(len(lonlat), bool) for reason in (AXIS_FAR, "mirrored", FAR)}
    country, continent = np.asarray(country, dtype=object), np.asarray(continent, dtype=object)
    witness = usable & ~on_axis
    for row in np.flatnonzero(usable & on_axis & ~at_zero):
        groups = [witness & (names == names[row]) for names in (country, continent) if names[row]]
        if others := [lonlat[group] for group in groups if group.any()]:
            distance, spread = _distance_and_spread(lonlat[row], others[0])
            found[AXIS_FAR][row] = distance > max(AXIS_FAR_KM, AXIS_FAR_RATIO * spread)
    for name in set(country[witness]) - {"", None}:
        members = np.flatnonzero(witness & (country == name))
        for row in members if len(members) > COUNTRY_MIN_OTHERS else ():
            others = lonlat[members[members != row]]
            distance, spread = _distance_and_spread(lonlat[row], others)
            if distance > max(COUNTRY_FAR_KM, COUNTRY_FAR_RATIO * spread):
                flips = lonlat[row] * [[-1, 1], [1, -1], [-1, -1]]
                nearest = min(_distance_and_spread(flip, others)[0] for flip in flips)
                found["mirrored" if nearest <= max(MIRROR_HOME_KM, spread) else FAR][row] = True
    return {"at 0, 0": usable & at_zero} | found


def _distance_and_spread(point: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """Measure in km how far a point is from the median of others, and the farthest of those from it."""
    x, y, z = np.median(unit_xyz(others), 0)
    middle = np.degrees([np.arctan2(y, x), np.arctan2(z, np.hypot(x, y))])
    return float(great_circle_km(point, middle)), float(great_circle_km(others, middle).max())


def _words(table: pa.Table, name: str | None) -> list[str]:
    return [as_text(value) for value in table[name].to_pylist()] if name else [""] * len(table)


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


def read_tiles(path: str | Path, *, harmonise: bool = True) -> tuple[np.ndarray, dict[str, np.ndarray], Skips]:
    """Cut a Sentinel-2 L2A GeoTIFF into tiles of 64 x 64 pixels, each with the position of its centre.

    Tiles with a pixel without data (the file's own value, or 0 in all bands) are dropped.

    Args:
        path: a file with the 12 `BANDS`, uint16 reflectance x 10,000, a projected reference system, square pixels,
            north up. Bands are found by name, in any order; without names they must be in the order of `BANDS`.
        harmonise: take off the offset of +1000 of processing baselines from 04.00. The pixels decide, and where they
            leave a doubt what the file states (its scale and offset, or its tag PROCESSING_BASELINE), if it does.

    Returns:
        ``(images, places, skips)``: uint16 (k, 12, 64, 64); columns (k,) "lon", "lat" (degrees), "file",
        "tile_row", "tile_col", "gsd_m", "radiometric_offset" (taken off, in DN); what was dropped.

    Raises:
        ValueError: a file that cannot be used.
    """
    import rasterio
    from rasterio.warp import transform

    path = Path(path)
    with _readable(path), rasterio.open(path, driver="GTiff") as source:  # other formats may refer to other files
        order = _check_file(path, source)
        pixels, grid, crs, nodata = source.read(order), source.transform, source.crs, source.nodata
        masked = source.dataset_mask() == 0  # where all bands are without data, or a mask of the file says so
        stated = _stated_offset(path, source, order)

    rows, cols = pixels.shape[1] // TILE, pixels.shape[2] // TILE
    tiles, hidden = (
        bands[:, : rows * TILE, : cols * TILE].reshape(-1, rows, TILE, cols, TILE).transpose(1, 3, 0, 2, 4)
        for bands in (pixels, masked[None])
    )
    tiles, hidden = tiles.reshape(-1, len(BANDS), TILE, TILE), hidden.reshape(-1, TILE, TILE)
    empty = (tiles == 0).all(1) | (tiles >= FILL).all(1) | hidden
    if nodata is not None:
        empty |= (tiles == nodata).any(1)
    whole = np.flatnonzero(~empty.any((1, 2)))
    row, col = np.divmod(whole, cols)
    skips = Skips()
    skips.add("tiles with pixels without data", path.name, n=len(tiles) - len(whole))
    offset = _offset(pixels, stated) if harmonise else 0
    x, y = grid * ((col + 0.5) * TILE, (row + 0.5) * TILE)
    with _readable(path):
        lon, lat = transform(crs, "EPSG:4326", x.tolist(), y.tolist()) if len(whole) else ([], [])
        metres = _pixel_m(grid, pixels.shape, crs)
    places = {"lon": np.array(lon), "lat": np.array(lat), "tile_row": row, "tile_col": col}
    places |= {"file": _objects([path.name] * len(whole))}
    places["gsd_m"] = np.full(len(whole), metres)
    if len(whole):
        check_scaling(str(path), tiles[whole], 0)
    places["radiometric_offset"] = np.full(len(whole), offset)
    return tiles[whole] - np.minimum(tiles[whole], np.uint16(offset)), places, skips


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except raster_errors() as error:
        raise ValueError(f"{path}: cannot be read as a GeoTIFF ({error})") from error


def _check_file(path: Path, source: Any) -> list[int]:
    """Refuse an open GeoTIFF that `read_tiles` cannot use; return its bands, from 1, in the order of `BANDS`."""
    names = [name or "" for name in source.descriptions]
    named = len(set(names)) > 1  # S2-100K has one name for all
    a, b, _, d, e, _ = source.transform[:6]
    square = not b and not d and a > 0 > e and np.isclose(a, -e) and np.isfinite(source.bounds).all()
    size = f"{source.width} x {source.height} pixels"
    for good, wrong in (
        (named or source.count == 12, f"{source.count} bands without names, not the 12 of {', '.join(BANDS)}"),
        (set(source.dtypes) == {"uint16"}, f"{source.dtypes[0]}; give reflectance x 10,000 as uint16"),
        (source.crs, "no coordinate reference system; export it with one"),
        (source.crs and source.crs.is_projected, f"{source.crs} is in degrees, or no projection; reproject it to UTM"),
        (square, "pixels are not square and north up; resample it with gdalwarp"),
        (min(source.shape) >= TILE, f"{size}, smaller than a tile of {TILE}"),
    ):
        if not good:
            raise ValueError(f"{path}: {wrong}")
    if not named:  # a constant text, so that it is shown once
        warnings.warn(f"bands without names are taken to be {', '.join(BANDS)}, in this order", stacklevel=3)
        names = BANDS
    try:
        return [1 + i for i in band_order(names)]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _stated_offset(path: Path, source: Any, order: list[int]) -> int | None:
    """Read the offset in the numbers of bands of a GeoTIFF from their scale and offset, or from its baseline."""
    scales = {(source.scales[i - 1], source.offsets[i - 1]) for i in order}
    if scales == {(1.0, 0.0)}:
        return baseline_offset(source.tags().get("PROCESSING_BASELINE"))
    for offset in (0, OFFSET):
        if np.allclose(list(scales), (1 / SCALE, -offset / SCALE), rtol=1e-6, atol=0):
            return offset
    raise ValueError(f"{path}: scale and offset are {min(scales)}; give reflectance x 10,000")


def _offset(pixels: np.ndarray, stated: int | None) -> int:
    seen = seen_offset(pixels)
    if seen is None:
        seen = int(radiometric_offset(pixels)) if stated is None else stated
    return seen


def _pixel_m(grid: Any, shape: tuple, crs: Any) -> float:
    """Measure the edge in metres of the pixel in the middle of a grid, in any unit and any projection.

    That of its reference system counts where the ground agrees to 1 %, as in UTM.
    """
    from rasterio.warp import transform

    row, column = shape[1] // 2, shape[2] // 2
    x, y = zip(*(grid * (column + step, row) for step in (0, 1)), strict=True)
    a, b = np.stack(transform(crs, "EPSG:4326", x, y), 1)
    ground, stated = 1000 * float(great_circle_km(a, b)), grid.a * crs.linear_units_factor[1]
    return stated if abs(ground / stated - 1) < 0.01 else round(ground, 3)


def from_files(
    out: str | Path,
    tables: Sequence[str | Path] = (),
    chips: Sequence[str | Path] = (),
    *,
    harmonise: bool = True,
    drop_invalid: bool = False,
    keep_suspicious: bool = False,
    source: str | None = None,
    license: str = "unknown",
) -> PlaceStore:
    """Make a place store of real texts and real image tiles; no place has both.

    What was dropped is told on stderr and in the data card.

    Args:
        out: folder to write; it must not exist.
        tables: CSV files, as `read_texts` takes them. Columns "source", "license", "lang" (else "en"),
            "revision" and "url" describe the texts row by row.
        chips: GeoTIFFs of one pixel size, as `read_tiles` takes them; each is read twice.
        harmonise, drop_invalid, keep_suspicious: as for these.
        source, license: of rows that do not name theirs; by default the name of the file, and "unknown".

    Raises:
        ValueError: a file that cannot be used, or none given. Nothing is written then.
    """
    if not tables and not chips:
        raise ValueError("no file given; give CSV tables, GeoTIFF chips, or both")
    stems = _stems([*tables, *chips])
    parts, texts, words, skips = [], [], set(TEXT_COLUMNS), Skips()
    for path in map(Path, tables):
        places, dropped = read_texts(path, drop_invalid=drop_invalid, keep_suspicious=keep_suspicious)
        skips.update(dropped)
        if path.suffix.lower() in TYPED:
            words |= {name for name, values in places.items() if any(isinstance(value, str) for value in values)}
        n = len(places["lon"])
        places["place_id"] = _objects([f"{stems[path]}-{row}" for row in places["row"]])
        for name, value in (("source", source or path.name), ("license", license), ("lang", "en")):
            places[name] = _objects([given or value for given in places.get(name, [None] * n)])
        columns = [name for name in ("text", "lang", "revision", "url") if name in places]
        ids = {name: places[name] for name in ("place_id", "source", "license")}
        texts.append(ids | {name: places.pop(name) for name in columns})
        parts.append(places)
    first, sizes = sum(len(part["lon"]) for part in parts), []
    for path in tqdm(list(map(Path, chips)), desc="chips", unit="file"):
        _, places, dropped = read_tiles(path, harmonise=harmonise)
        skips.update(dropped)
        named = zip(places["tile_row"], places["tile_col"], strict=True)
        places["place_id"] = _objects([f"{stems[path]}-{row}-{col}" for row, col in named])
        for name, value in (("source", source or path.name), ("license", license)):
            places[name] = _objects([value] * len(places["lon"]))
        sizes += places.pop("gsd_m").tolist()
        if not np.allclose(sizes, sizes[:1], rtol=0.05):
            problem = f"pixels of {sizes[-1]:g} m, not {sizes[0]:g} m"
            raise ValueError(f"{path}: {problem}; make a store of each, or reproject all to UTM")
        parts.append(places)
    places = _stacked(parts, words)
    if not len(places["lon"]):
        raise ValueError(f"no tile is left to use\n{skips}")
    skips.tell()
    options = {"harmonise": harmonise, "drop_invalid": drop_invalid, "keep_suspicious": keep_suspicious}
    inputs = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in map(Path, (*tables, *chips))}
    made = {"function": "geonb.data.sources.files.from_files", "options": options, "inputs": inputs}
    images = (read_tiles(path, harmonise=harmonise)[0] for path in chips)
    return write_store(
        out, places=places, texts=_stacked(texts, words) if texts else None,
        images={"sentinel2": Images(images, range(first, len(places["lon"])), gsd_m=sizes[0])} if sizes else None,
        made=made | {"left_out": skips.counts}, datacard=_datacard(places, first, skips),
    )  # fmt: skip


def _datacard(places: dict[str, np.ndarray], texts: int, skips: Skips) -> str:
    rights = dict.fromkeys(zip(places["source"], places["license"], strict=True))
    credits = "\n".join(f"- {source}. Licence: {license}." for source, license in rights)
    return f"""# Real places

{texts:,} places with a text and {len(places["lon"]) - texts:,} with an image; nothing is simulated.
Rows with a `position_flag` may be in the wrong place. Clouds were not masked. Tiles of one file are
neighbours: keep them on one side of a split.

{credits}

```
{skips}
```
"""


def _stacked(tables: list[dict[str, np.ndarray]], words: set[str]) -> dict[str, np.ndarray]:
    """Stack tables; where a table lacks a column there is None. Text that is a number in all rows becomes float64,
    except in the columns ``words``.
    """
    out = {}
    for name in dict.fromkeys(name for table in tables for name in table):
        parts = [table.get(name, np.full(len(table["place_id"]), None)) for table in tables]
        out[name] = np.concatenate(parts)
        if out[name].dtype == object and not {name, name.removeprefix("file_")} & words:
            values = out[name].tolist()
            if all(map(_is_number, values)) and any(isinstance(value, str) for value in values):
                out[name] = np.array([np.nan if is_missing(v) else float(v) for v in values])
    return out


def _is_number(value: Any) -> bool:
    """Tell whether a value is missing, a number, or one as it is written exactly."""
    if isinstance(value, str):
        return bool(_EXACT.fullmatch(value) or (_FLOAT.fullmatch(value) and repr(float(value)) == value))
    return is_missing(value) or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _stems(paths: Sequence[str | Path]) -> dict[Path, str]:
    """Return what places of each file are called after: "places" for "places.csv.gz"."""
    stems: dict[str, Path] = {}
    for path in map(Path, paths):
        if not path.name.isprintable():
            raise ValueError(f"{str(path)!r}: places are called after the file, and its name is not UTF-8; rename it")
        stem = re.sub(r"(?i)(\.gz)?$", "", path.name).rpartition(".")[0] or path.name
        if stem in stems:
            raise ValueError(f"{stems[stem]} and {path} are both called {stem!r}, as their places would be; rename one")
        stems[stem] = path
    return {path: stem for stem, path in stems.items()}
