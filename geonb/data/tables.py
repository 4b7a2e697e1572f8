"""Read tables as people have them: CSV, Parquet, GeoParquet and GeoJSON, with positions by geometry or by name.

Where a table has several columns that could be its positions, the first of these counts:

1. its geometry: the primary column of GeoParquet, a GeoArrow column, or one of :data:`GEOMETRY` (WKB, WKT or points);
2. two columns with names of longitude and latitude, the clearest first (``geonb.geo.LON`` and ``LAT``);
3. ``x`` and ``y``, if their values are in the range of degrees; a warning says so.

Rows are counted from 0 over the whole file, without the header. Values of a CSV file are text; nothing is guessed.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely

from geonb.data.sampling import on_land
from geonb.geo import NUMBER, as_number, check_lonlat, position_columns, range_hint, single_points

GEOMETRY = ("geometry", "geom", "wkb_geometry", "the_geom", "wkt")
BATCH = 50_000  # rows in memory at a time
SEPARATORS = ",;\t|"
CRS84 = {("OGC", "CRS84"), ("OGC", "CRS84h"), ("EPSG", "4326"), ("EPSG", "4979")}  # degrees on WGS 84
MANY = 5  # positions from which the share on land is a hint


def read_table(path: str | Path) -> pa.Table:
    """Read a whole table; see :func:`read_batches`.

    Raises:
        ValueError: as there, or a table without rows.
    """
    tables = list(read_batches(path))
    if not tables:
        raise ValueError(f"{path}: no rows; give a header and at least one row")
    return pa.concat_tables(tables)


def read_batches(path: str | Path) -> Iterator[pa.Table]:
    """Read a table some rows at a time: .csv, .tsv, .txt (also .gz), .parquet, .geoparquet, .geojson or .json.

    CSV is UTF-8 with a header, separated by commas, semicolons, tabs or bars; values lose blanks around them.

    Raises:
        ValueError: no such file, another format, or one that cannot be read, with the row if known.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: {'a folder; give a file in it' if path.is_dir() else 'no such file'}")
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix in (".csv", ".tsv", ".txt"):
        return _csv_batches(path)
    if suffix in (".parquet", ".geoparquet"):
        return _parquet_batches(path)
    if suffix in (".geojson", ".json"):
        return _geojson_batches(path)
    raise ValueError(f"{path}: give a .csv (or .csv.gz), .parquet or .geojson file")


def _csv_batches(path: Path) -> Iterator[pa.Table]:
    csv.field_size_limit(1 << 30)  # of a text; by default it is 128 kB
    with _opened(path) as file:
        head = file.read(1 << 16)
        told = re.match(r"sep=(.)\s*?[\r\n]+", head)  # as Excel writes it
        header = re.split(r"[\r\n]", re.sub('"[^"]*"', "", head.lstrip("\r\n")), maxsplit=1)[0]
        separator = told[1] if told else max(SEPARATORS, key=header.count)
        file.seek(0)
        if told:
            file.readline()
        reader = csv.reader(file, delimiter=separator, skipinitialspace=True, strict=True)
        rows = _csv_rows(path, reader)
        names = [name.strip() for name in next(rows, [])]
        _check_names(path, names)
        while chunk := list(islice(rows, BATCH)):
            columns = ([value.strip() for value in column] for column in zip(*chunk, strict=True))
            yield pa.table([pa.array(column, pa.string()) for column in columns], names)


def _csv_rows(path: Path, rows: Iterator[list[str]]) -> Iterator[list[str]]:
    """Yield the header and the rows, without empty lines."""
    number, width = -1, 0
    try:
        for row in filter(None, rows):
            width = width or len(row)
            if len(row) != width:
                raise ValueError(f"{path}: row {number} has {len(row)} fields, the header {width}; is a quote missing?")
            yield row
            number += 1
    except csv.Error as error:
        where = f"row {number}" if width else "header"
        raise ValueError(f"{path}: {where}: a quote is never closed, or one inside not doubled ({error})") from None


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    """Open a text file, compressed or not; name it where it is damaged or not UTF-8."""
    with path.open("rb") as file:
        head = file.read(64)
    for start, kind in ((b"PAR1", "a Parquet file"), (b"PK", "an Excel or ZIP file")):
        if head.startswith(start):
            raise ValueError(f"{path}: this is {kind}, whatever its name; save it as “CSV UTF-8”, or rename it")
    compressed = head.startswith(b"\x1f\x8b")
    if b"\0" in head and not compressed:
        raise ValueError(_not_utf8(path, "UTF-16"))
    try:
        with (gzip.open if compressed else open)(path, "rt", encoding="utf-8-sig", newline="") as text:
            yield text
    except UnicodeDecodeError as error:
        raise ValueError(f"{_not_utf8(path, 'CP1252')} ({error})") from None
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read ({error}); is the file whole?") from None


def _not_utf8(path: Path, encoding: str) -> str:
    remedy = f"iconv -f {encoding} -t UTF-8 OLD.csv > NEW.csv"
    return f"{path}: not UTF-8; save it as “CSV UTF-8”, or convert it, if it is {encoding}: {remedy}"


def _check_names(path: Path, names: Sequence[str]) -> None:
    if not any(names):
        raise ValueError(f"{path}: no header; the first line names the columns")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{path}: two columns are named {twice[0]!r}; rename one of them")


def _parquet_batches(path: Path) -> Iterator[pa.Table]:
    try:
        file = pq.ParquetFile(path)
        _check_names(path, file.schema_arrow.names)
        geo = (file.metadata.metadata or {}).get(b"geo")  # of the file: it need not be in Arrow's schema
        about = None if geo is None else {b"geo": geo}
        for batch in file.iter_batches(BATCH):
            if batch.num_rows:
                yield pa.Table.from_batches([batch]).replace_schema_metadata(about)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: cannot be read as Parquet ({error}); is the file whole?") from None


def _geojson_batches(path: Path) -> Iterator[pa.Table]:
    shapes: list = []
    with _opened(path) as file:
        try:
            content = json.load(file, object_pairs_hook=_distinct)
            features, older = content["features"], content.get("crs") or {}  # of the format before RFC 7946
            crs = older.get("properties", {}).get("name", "OGC:CRS84")
            rows = []
            for feature in features:
                shapes.append(shapely.geometry.shape(feature["geometry"]) if feature["geometry"] else None)
                own = {"id": feature["id"]} if "id" in feature else {}
                rows.append(own | (feature.get("properties") or {}))
            names = dict.fromkeys(name for row in rows for name in row)
            table = pa.table({name: _property([row.get(name) for row in rows]) for name in names})
        except UnicodeDecodeError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, shapely.errors.ShapelyError) as error:
            at = f" from row {len(shapes)} on" if shapes else ""
            raise ValueError(f"{path}: no GeoJSON FeatureCollection{at} ({error}); convert it by ogr2ogr") from None
    about = {"primary_column": "geometry", "columns": {"geometry": {"encoding": "WKB", "crs": crs}}}
    if "geometry" in table.column_names:
        raise ValueError(f"{path}: a property is called geometry; rename it")
    if len(features):
        table = table if table.num_columns else pa.table({"row": range(len(features))})
        table = table.append_column("geometry", pa.array(shapely.to_wkb(shapes), pa.binary()))
        yield table.replace_schema_metadata({"geo": json.dumps(about)})


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"two of {', '.join(name for name, _ in pairs)} have one name")
    return found


def _property(values: list) -> pa.Array:
    """Make a column of a property; all values become text where they are of several types, or beyond 64 bits."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array([v if v is None or isinstance(v, str) else json.dumps(v) for v in values])


def is_plain(kind: pa.DataType) -> bool:
    """Tell whether a column is of numbers or text: no lists, no records, no bytes."""
    types = pa.types
    nested = types.is_nested(kind) or types.is_binary(kind) or types.is_large_binary(kind)
    return not (nested or types.is_binary_view(kind) or types.is_fixed_size_binary(kind))


# Positions


def read_positions(path: str | Path) -> np.ndarray:
    """Read the positions float64 (n, 2), degrees, of a table; see the head of this module.

    Raises:
        ValueError: what :func:`read_table` or :func:`positions` refuses.
    """
    return positions(read_table(path), str(path))


def positions(table: pa.Table, where: str, first: int = 0, keep_invalid: bool = False) -> np.ndarray:
    """Extract positions float64 (n, 2), longitude and latitude in degrees, from a table.

    Other reference systems are reprojected. It warns where ``x`` and ``y`` are taken for degrees, and where
    positions look swapped.

    Args:
        table: with the metadata of its file, where the reference system is.
        where: the file, for messages. ``first``: the number of the first row in it.
        keep_invalid: return NaN where a position is missing, is no number or is out of range, instead of raising.

    Raises:
        ValueError: no columns of positions (those that there are are listed), a reference system that cannot be
            reprojected, or a position that is missing or out of range, with its row.
    """
    found = columns_of_positions(table, where)
    if len(found) == 1:
        lonlat, problems = _points(table, found[0], where)
    else:
        if half := [name for name in found if pa.types.is_float16(table[name].type)]:
            raise ValueError(f"{where}: {half[0]} is in half precision, which is off by kilometres; give float64")
        columns = [_numbers(table[name], name, where) for name in found]
        lonlat = np.stack([values for values, _ in columns], 1)
        problems = columns[1][1] | columns[0][1]
    if problems and not keep_invalid:
        row = min(problems)
        raise ValueError(f"{where}: row {first + row}: {problems[row]}; give every row a position, or leave it out")
    outside = (np.abs(lonlat) > [180, 90]).any(1)
    if [name.lower() for name in found] == ["x", "y"]:
        if outside.any():
            row = int(np.argmax(outside))
            raise ValueError(
                f"{where}: columns x and y are no degrees, for example {tuple(lonlat[row].tolist())} in row "
                f"{first + row}; reproject them to EPSG:4326 and call them lon and lat"
            )
        warnings.warn(f"{where}: x and y are taken for longitude and latitude in degrees", stacklevel=2)
    if keep_invalid and outside.any():
        row, hint = int(np.argmax(outside)), range_hint(lonlat[~np.isnan(lonlat).any(1)])
        said = tuple(lonlat[row].tolist())
        warnings.warn(f"{where}: row {first + row}: position {said} is out of range; {hint}", stacklevel=2)
        lonlat = np.where(outside[:, None], np.nan, lonlat)
    if not keep_invalid:
        lonlat = check_lonlat(lonlat, where, first)
    if hint := swapped_hint(lonlat[~np.isnan(lonlat).any(1)]):
        warnings.warn(f"{where}: {hint}", stacklevel=2)
    return lonlat


def swapped_hint(lonlat: np.ndarray) -> str:
    """Say so if positions (n, 2), degrees, look swapped: few lie on land, and nearly all would the other way round."""
    swapped = lonlat[:, ::-1]
    if len(lonlat) < MANY or (np.abs(swapped) > [180, 90]).any():
        return ""
    # Nobody lives in Antarctica, where cities of the eastern United States fall when swapped.
    as_given, other = (on_land(lonlat) & (lonlat[:, 1] > -60)).mean(), on_land(swapped).mean()
    if as_given >= 0.6 or other < 0.9:
        return ""
    return (
        f"{1 - as_given:.0%} of the positions lie at sea, but {other:.0%} on land with longitude and latitude swapped; "
        "is their order right?"
    )


def columns_of_positions(table: pa.Table, where: str) -> tuple[str, ...]:
    """Choose the column of the geometry, or the two of longitude and latitude; see the head of this module.

    Raises ValueError with the columns that there are, if none fit.
    """
    names = table.column_names
    primary: Any = _geo(table).get("primary_column")
    if primary in names:
        return (primary,)
    for field in table.schema:
        if b"geoarrow." in (field.metadata or {}).get(b"ARROW:extension:name", b""):
            return (field.name,)
    lower = {name.lower(): name for name in names}
    if geometry := [lower[name] for name in GEOMETRY if name in lower]:
        return (geometry[0],)
    pair = position_columns(names, where)
    if pair is None:
        raise ValueError(
            f"{where}: no position columns; name them longitude and latitude (or lon and lat, in degrees), or give a "
            f"geometry. The columns are {', '.join(names)}"
        )
    return pair


def _geo(table: pa.Table) -> dict:
    try:
        geo = json.loads((table.schema.metadata or {}).get(b"geo", b"{}"))
    except ValueError:
        geo = None
    return geo if isinstance(geo, dict) else {}


def _numbers(column: pa.ChunkedArray, name: str, where: str) -> tuple[np.ndarray, dict[int, str]]:
    """Turn a column into numbers (n,), NaN where there is none; and why there is none, by row."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        values = column.to_pylist()
        numbers = np.array([as_number(value) for value in values])
        said = {row: values[row] for row in np.flatnonzero(np.isnan(numbers)).tolist()}
    elif pa.types.is_boolean(kind) or pa.types.is_temporal(kind) or not is_plain(kind):
        raise ValueError(f"{where}: {name} is of type {kind}; give numbers in degrees")
    else:
        numbers = column.cast(pa.float64(), safe=False).to_numpy().astype(np.float64)
        said = dict.fromkeys(np.flatnonzero(np.isnan(numbers)).tolist())
    return numbers, {row: _no_number(name, value) for row, value in said.items()}


def _no_number(name: str, value: str | None) -> str:
    if not value:
        return f"no {name}"
    advice = " (write a decimal point)" if NUMBER.fullmatch(value.replace(",", ".")) else ""
    return f"{name} is {value!r}, not a number{advice}"


def _points(table: pa.Table, name: str, where: str) -> tuple[np.ndarray, dict[int, str]]:
    """Read the points (n, 2) of a column of geometries in degrees, NaN where there is none; and why, by row."""
    column = table[name].combine_chunks()
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    about = (_geo(table).get("columns") or {}).get(name) or {}
    crs = about.get("crs", _geoarrow_crs(table.field(name)))
    try:
        if pa.types.is_struct(column.type):  # GeoArrow
            axes = [pc.struct_field(column, axis).cast(pa.float64()) for axis in ("x", "y")]
            lonlat = np.stack([axis.to_numpy(zero_copy_only=False) for axis in axes], 1)
            problems = dict.fromkeys(np.flatnonzero(np.isnan(lonlat).any(1)).tolist(), f"no {name}")
        else:
            shapes = _shapes(column.to_pylist())
            lonlat, problems = _coordinates(shapes, column, name)
            srid = np.unique(shapely.get_srid(shapes[shapely.get_type_id(shapes) == 0]))
            if len(srid) > 1:
                raise ValueError(f"{where}: {name} has points of several SRIDs, {srid.tolist()}; make a table of each")
            crs = f"EPSG:{srid[0]}" if srid.any() and crs in (None, "") else crs
    except (TypeError, AttributeError, pa.ArrowException, shapely.errors.ShapelyError):
        advice = "give points as WKB, WKT or GeoArrow, or rename the column to use others"
        raise ValueError(f"{where}: {name} is {column.type}; {advice}") from None
    return _to_degrees(lonlat, crs, where), problems


def _shapes(values: list) -> np.ndarray:
    """Decode WKB, hexadecimal WKB, WKT or pairs of numbers: shapes (n,) or None."""
    first = next((value for value in values if value), b"")
    if isinstance(first, list):  # interleaved GeoArrow
        shapes = np.array([shapely.Point(value[:2]) if value and len(value) > 1 else None for value in values])
    elif isinstance(first, bytes) or first.strip().startswith("0"):
        shapes = shapely.from_wkb(values, on_invalid="ignore")
    else:
        parts = [re.split(r"(?i)^SRID=(\d+);", value or "") for value in values]  # "", SRID, WKT; or WKT alone
        shapes = shapely.from_wkt([part[-1] or None for part in parts], on_invalid="ignore")
        shapes = shapely.set_srid(shapes, [int(part[1]) if len(part) > 1 else 0 for part in parts])
    return single_points(shapes)


def _coordinates(shapes: np.ndarray, column: pa.Array, name: str) -> tuple[np.ndarray, dict[int, str]]:
    """Return x and y (n, 2) of points, NaN where there is none; and why there is none, by row."""
    point = (shapely.get_type_id(shapes) == 0) & ~shapely.is_empty(shapes)
    problems = {}
    for row in np.flatnonzero(~point).tolist():
        shape = shapes[row]
        problems[row] = f"{name} is no WKB or WKT" if column[row].as_py() else f"no {name}"
        if shape is not None:
            problems[row] = f"{name} is {'an empty' if shape.is_empty else 'a'} {shape.geom_type}, not a point"
    xy = np.full((len(shapes), 2), np.nan)
    xy[point] = shapely.get_coordinates(shapes[point])
    return xy, problems


def _geoarrow_crs(field: pa.Field) -> Any:
    try:
        return json.loads((field.metadata or {}).get(b"ARROW:extension:metadata", b"{}")).get("crs")
    except (ValueError, AttributeError):
        return None


def _to_degrees(xy: np.ndarray, crs: Any, where: str) -> np.ndarray:
    """Reproject x and y (n, 2) of a reference system (PROJJSON or a name; None is degrees) to lon/lat degrees."""
    if crs is None or _authority(crs) in CRS84:
        return xy
    name = crs.get("name", "without a name") if isinstance(crs, dict) else crs
    code = ":".join(_authority(crs))
    try:
        from pyproj import CRS, Transformer
        from pyproj.exceptions import ProjError
    except ModuleNotFoundError:
        raise ValueError(
            f"{where}: positions are in {name} ({code}); pip install 'geonb[real]' to reproject them, or give EPSG:4326"
        ) from None
    try:
        system = CRS.from_user_input(crs)
        lonlat = np.stack(Transformer.from_crs(system, "OGC:CRS84", always_xy=True).transform(*xy.T), 1)
    except ProjError:  # whose words may advise to ignore that it is another planet
        raise ValueError(f"{where}: positions in {name} ({code}) cannot be reprojected; give EPSG:4326") from None
    if system.is_projected and len(xy) and (np.abs(xy) <= [180, 90]).all():
        warnings.warn(f"{where}: positions look like degrees, but their reference system is {name}", stacklevel=4)
    return lonlat


def _authority(crs: Any) -> tuple[str, str]:
    """Return authority and code, ("EPSG", "4326"), of PROJJSON, "EPSG:4326" or "urn:ogc:def:crs:OGC:1.3:CRS84"."""
    if isinstance(crs, dict):
        known = crs.get("id") or {}
        return str(known.get("authority", "")), str(known.get("code", ""))
    parts = str(crs).upper().removeprefix("URN:OGC:DEF:CRS:").split(":")
    return parts[0], parts[-1]
