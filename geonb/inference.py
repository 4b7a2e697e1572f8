"""Tables in, embeddings out: embed a table of positions, read embedding files."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from geonb._util import as_text, tqdm
from geonb.data.store import PlaceStore, geo_metadata, wkb_points
from geonb.data.tables import columns_of_positions, is_plain, positions, read_batches, read_table
from geonb.geo import EARTH_RADIUS_KM, unit_xyz
from geonb.model import load

MATCH_KM = 1.0  # an embedding without place_id belongs to the places that are no farther than this
OUTLYING = 100.0  # times the median length, beyond which a vector is remarked on


def embed_table(run: str | Path, points: str | Path, out: str | Path, progress: bool = True) -> int:
    """Embed the positions of a table and write GeoParquet or CSV; returns the number of rows.

    The output has the columns of the table. GeoParquet adds ``geometry`` (points, EPSG:4326) and ``embedding``, a
    fixed-size list of float32; CSV adds ``embedding_0``, ``embedding_1``, and so on. Rows are streamed, so a table of
    any length fits in memory.

    Args:
        points: see :mod:`geonb.data.tables`. Columns of a CSV file are copied as text, so 01001 stays what it is.
        out: a .parquet, .geoparquet or .csv file.

    Raises:
        ValueError: another suffix, no folder, or a table that cannot be read or lacks a position, with file and row.
    """
    out, kind = Path(out), Path(out).suffix.lower()
    if kind not in (".parquet", ".geoparquet", ".csv"):
        raise ValueError(f"{out}: give a name that ends in .parquet, .geoparquet or .csv")
    if not out.parent.is_dir():
        raise ValueError(f"{out}: there is no folder {out.parent}; make it first")
    if out.is_dir():
        raise ValueError(f"{out}: this is a folder; give a file in it")
    if out.exists() and Path(points).exists() and out.samefile(points):
        raise ValueError(f"{out}: this is the table of the points; give another name")
    model, write = load(run), _rows_as_csv if kind == ".csv" else _rows_as_parquet
    partial = out.with_name(f"{out.name}.{os.getpid()}.partial")
    writer: Any = None
    start, low, high = 0, np.full(2, np.inf), np.full(2, -np.inf)
    bar = tqdm(desc="embedding", unit="place", disable=not progress, delay=1.0)
    try:
        for table in read_batches(points):
            lonlat = positions(table, str(points), start)
            rows = write(table, lonlat, model.embed_locations(lonlat))
            if writer is None:
                writer = pyarrow.csv.CSVWriter(partial, rows.schema) if kind == ".csv" else pq.ParquetWriter(
                    partial, rows.schema.with_metadata(None), compression="zstd"
                )  # fmt: skip
            writer.write_table(rows.cast(writer.schema) if kind != ".csv" else rows)
            low, high = np.minimum(low, lonlat.min(0)), np.maximum(high, lonlat.max(0))
            start += len(lonlat)
            bar.update(len(lonlat))
        if writer is None:
            raise ValueError(f"{points}: no rows")
        if kind != ".csv":
            writer.add_key_value_metadata(geo_metadata([*low, *high]))
        writer.close()
        partial.replace(out)
    finally:
        bar.close()
        partial.unlink(missing_ok=True)
    return start


def _rows_as_parquet(table: pa.Table, lonlat: np.ndarray, vectors: np.ndarray) -> pa.Table:
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    table = table.drop_columns(_taken(table, ["geometry", "embedding"]))
    return table.append_column("geometry", wkb_points(lonlat)).append_column("embedding", embedding)


def _rows_as_csv(table: pa.Table, lonlat: np.ndarray, vectors: np.ndarray) -> pa.Table:
    names = ["lon", "lat", *(f"embedding_{i}" for i in range(vectors.shape[1]))]
    table = table.drop_columns(_taken(table, names))
    plain = [c for c in table.schema if is_plain(c.type)]
    if lost := {*table.column_names} - {c.name for c in plain} - {"geometry", "embedding"}:
        warnings.warn(f"columns that CSV cannot hold are left out: {', '.join(sorted(lost))}", stacklevel=3)
    columns: dict[str, Any] = {c.name: table[c.name] for c in plain}
    for c in plain:  # of which Arrow writes no CSV
        if isinstance(c.type, pa.BaseExtensionType) or pa.types.is_string_view(c.type) or pa.types.is_duration(c.type):
            columns[c.name] = [as_text(value) for value in table[c.name].to_pylist()]
    columns |= {"lon": lonlat[:, 0], "lat": lonlat[:, 1]}
    return pa.table(columns | {f"embedding_{i}": column for i, column in enumerate(vectors.T)})


def _taken(table: pa.Table, names: list[str]) -> list[str]:
    """List the columns of a table whose place is taken by those of the output, in any case; warn if they are others."""
    taken = [name for name in table.column_names if name.lower() in names]
    if lost := [name for name in taken if name not in columns_of_positions(table, "the table")]:
        warnings.warn(f"columns that the output has itself are replaced: {', '.join(lost)}", stacklevel=4)
    return taken


def read_embeddings(path: str | Path, store: PlaceStore, every: bool = False) -> np.ndarray:
    """Read embeddings float32 (places, d) of the places of a store; NaN, with a warning, where the file has none.

    The file has a column ``embedding`` (lists of numbers), and ``place_id`` or positions within 1 km of the places
    (:mod:`geonb.data.tables`). ``geonb embed`` and ``geonb data alphaearth`` write such files.
    With ``every``, a place without an embedding is an error.

    Raises:
        ValueError: no such columns, vectors that are missing, of unequal length or of no length, two vectors for one
            place, or no place of the store.
    """
    table = read_table(path)
    lower = [name.lower() if name.lower() in ("place_id", "embedding") else name for name in table.column_names]
    table = table.rename_columns(lower)
    vectors, rows = _vectors(table, path), np.full(len(store), -1)
    if "place_id" in table.column_names:
        row_of: dict[str, int] = {}
        places = set(store.place_id.tolist())
        for row, name in enumerate(map(str, table["place_id"].to_pylist())):
            if name in places and row_of.setdefault(name, row) != row:
                raise ValueError(f"{path}: row {row}: place_id {name!r} again, first in row {row_of[name]}; keep one")
        rows = np.array([row_of.get(place, -1) for place in store.place_id.tolist()])
    else:
        rows = _nearest_rows(positions(table, str(path)), vectors, path, store)
    if (rows < 0).all():
        known = f", such as {table['place_id'][0]}," if "place_id" in table.column_names else ""
        raise ValueError(f"{path}: none of its places{known} is in {store.path}, which has {store.place_id[0]}")
    nothing = np.isnan(vectors).all(1)  # as good as a row that is not there
    if (partly := ~np.isfinite(vectors).all(1) & ~nothing).any():
        raise ValueError(f"{path}: row {partly.argmax()}: the embedding is not finite; give all its numbers, or none")
    rows = np.where((rows >= 0) & nothing[rows], -1, rows)
    if (lacking := np.flatnonzero(rows < 0)).size:
        first = f"row {lacking[0]}, {store.place_id[lacking[0]]}"
        said = f"{path}: no embedding for {lacking.size:,} of {len(store):,} places of the store (first: {first})"
        if every:
            raise ValueError(f"{said}; give one for each, by place_id or within {MATCH_KM:g} km")
        warnings.warn(said, stacklevel=2)
    out = vectors[rows]
    out[rows < 0] = np.nan
    return out


def _vectors(table: pa.Table, path: str | Path) -> np.ndarray:
    """Extract the column of embeddings, float32 (n, d)."""
    if "embedding" in table.column_names:
        found = _listed(table["embedding"].combine_chunks(), path)
    elif "embedding_0" in table.column_names:  # CSV of `geonb embed`
        found = _numbered(table, path)
    else:
        has = ", ".join(table.column_names)
        raise ValueError(f"{path}: no column embedding (lists of numbers), such as `geonb embed` writes; it has {has}")
    warn_of_lengths(found, str(path))
    return found


def _listed(column: pa.Array, path: str | Path) -> np.ndarray:
    """Stack lists of numbers as float32 (n, d)."""
    try:
        lengths = pc.list_value_length(column).fill_null(0).to_numpy()
        if not lengths.all():
            row = int(np.argmin(lengths))
            raise ValueError(f"{path}: row {row} has no embedding; give one for every row, or leave the row out")
        if (odd := lengths != lengths[0]).any():
            found = f"row {odd.argmax()} has {lengths[odd][0]} numbers, row 0 {lengths[0]}"
            raise ValueError(f"{path}: embedding: {found}; give all of one length")
        vectors = column.cast(pa.list_(pa.float32(), int(lengths[0])))
    except (pa.ArrowException, TypeError):
        raise ValueError(f"{path}: embedding must be lists of numbers, all of one length, not {column.type}") from None
    return vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)


def _numbered(table: pa.Table, path: str | Path) -> np.ndarray:
    """Stack the columns embedding_0, embedding_1, ... (n,) as float32 (n, d)."""
    names = [f"embedding_{i}" for i in range(table.num_columns)]
    try:
        columns = [table[name].cast(pa.float32()) for name in names if name in table.column_names]
        return np.stack([column.to_numpy() for column in columns], 1)
    except pa.ArrowException as error:
        raise ValueError(f"{path}: columns embedding_0, ... must be numbers ({error})") from None


def warn_of_lengths(vectors: np.ndarray, where: str) -> None:
    """Warn of embeddings (n, d) that are all zeros, or far longer than the others."""
    length = np.linalg.norm(vectors.astype(np.float64), axis=1)
    usual = float(np.nanmedian(length)) if np.isfinite(length).any() else 0.0
    if (zero := np.flatnonzero(length == 0)).size:
        warnings.warn(
            f"{where}: row {zero[0]}: the embedding is all zeros ({len(zero):,} such rows); leave out what is missing",
            stacklevel=3,
        )
    if usual and (far := np.flatnonzero(length > OUTLYING * usual)).size:
        warnings.warn(
            f"{where}: row {far[0]}: the embedding has length {length[far[0]]:.3g}, the median is {usual:.3g} "
            f"({len(far):,} such rows); is it in other units?", stacklevel=3,
        )  # fmt: skip


def _nearest_rows(lonlat: np.ndarray, vectors: np.ndarray, path: str | Path, store: PlaceStore) -> np.ndarray:
    """Find for each place the row (places,) at its position, -1 where there is none within MATCH_KM."""
    from scipy.spatial import KDTree

    k = min(2, len(lonlat))
    chord, rows = (x.reshape(len(store), k) for x in KDTree(unit_xyz(lonlat)).query(unit_xyz(store.lonlat), k=k))
    km = chord * EARTH_RADIUS_KM
    if k == 2:
        tied = np.isclose(km[:, 0], km[:, 1], atol=1e-6) & (km[:, 1] <= MATCH_KM)
        tied &= (vectors[rows[:, 0]] != vectors[rows[:, 1]]).any(1)
        if tied.any():
            a, b = sorted(rows[tied.argmax()].tolist())
            raise ValueError(f"{path}: rows {a} and {b} are two embeddings at one position; keep one, or give place_id")
    return np.where(km[:, 0] <= MATCH_KM, rows[:, 0], -1)
