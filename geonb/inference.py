"""Tables in, embeddings out: embed a table of positions, find the places that match a text, read embedding files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from geonb._util import not_utf8, tqdm
from geonb.data.store import PlaceStore, geo_metadata, points_from_wkb, wkb_points
from geonb.geo import check_lonlat
from geonb.model import Model, load

LON, LAT = ("lon", "longitude", "x"), ("lat", "latitude", "y")
BATCH = 50_000  # rows held in memory at a time


def embed_table(run: str | Path, points: str | Path, out: str | Path, progress: bool = True) -> int:
    """Embed the positions of a CSV or Parquet file and write GeoParquet; returns the number of rows.

    Positions come from the columns ``lon`` and ``lat`` (or ``longitude`` and ``latitude``, ``x`` and ``y``), else from
    ``geometry``, WKB points. The output has the columns of the input, ``geometry`` (points, EPSG:4326) and
    ``embedding``, a fixed-size list of float32. Rows are streamed, so a table of any length fits in memory. Other
    columns of a CSV file are copied as text, so that codes such as 01001 stay what they are.

    Raises:
        ValueError: a file that cannot be read, no position columns, or a position that is missing or out of range, with
            file and row.
    """
    model, points, out = load(run), Path(points), Path(out)
    partial = out.with_name(f"{out.name}.{os.getpid()}.partial")
    writer, start, low, high = None, 0, np.full(2, np.inf), np.full(2, -np.inf)
    bar = tqdm(desc="embedding", unit="place", disable=not progress, delay=1.0)
    try:
        for table in _batches(points):
            lonlat = check_lonlat(positions(table, points), f"{points} (rows from {start})")
            embedding = pa.FixedSizeListArray.from_arrays(pa.array(model.embed_locations(lonlat).ravel()), model.dim)
            table = table.drop_columns([c for c in ("geometry", "embedding") if c in table.column_names])
            table = table.append_column("geometry", wkb_points(lonlat)).append_column("embedding", embedding)
            if writer is None:
                writer = pq.ParquetWriter(partial, table.schema.with_metadata(None), compression="zstd")
            writer.write_table(table.cast(writer.schema))
            low, high = np.minimum(low, lonlat.min(0)), np.maximum(high, lonlat.max(0))
            start += len(lonlat)
            bar.update(len(lonlat))
        if writer is None:
            raise ValueError(f"{points}: no rows")
        writer.add_key_value_metadata(geo_metadata([*low, *high]))
        writer.close()
        partial.replace(out)
    finally:
        bar.close()
        partial.unlink(missing_ok=True)
    return start


def ask(run: str | Path, text: str, data: str | Path, top: int = 20) -> list[dict]:
    """Find the places of a store whose position is most similar to a text.

    Returns:
        ``top`` dicts with ``similarity`` (cosine), ``lon``, ``lat`` (degrees), ``place_id`` and ``title``, best first.

    Raises:
        ValueError: ``top`` below 1, an empty text, or a run without text; see :func:`embed_question`.
    """
    if top < 1:
        raise ValueError(f"top must be at least 1, not {top}")
    model, store = load(run), PlaceStore.open(data)
    similarity = model.embed_locations(store.lonlat) @ embed_question(model, text)
    titles, lonlat = store.column("title"), store.lonlat.tolist()
    return [
        {"similarity": float(similarity[i]), "lon": lonlat[i][0], "lat": lonlat[i][1],
         "place_id": str(store.place_id[i]), "title": titles[i] or "(no name)"}
        for i in np.argsort(-similarity, kind="stable")[:top]
    ]  # fmt: skip


def embed_question(model: Model, text: str) -> np.ndarray:
    """Embed one text as a unit vector float32 (dim,) with which places are searched.

    Raises:
        ValueError: an empty text, a run without text, or a text without a word that its backbone has seen.
    """
    if not text.strip():
        raise ValueError("the text is empty; write what to look for")
    encoded = model.backbone("text").encode([text])
    if not encoded.any():  # of lsa only; the head would give all such texts one vector
        raise ValueError(f"no word of {text!r} occurs in the training texts of this run; use other words")
    return model.embed_features("text", encoded)[0]


def positions(table: pa.Table, path: Path) -> np.ndarray:
    """Extract positions (n, 2), degrees, from the columns that :func:`embed_table` reads.

    Raises:
        ValueError: no such columns, two of one name, or values that are not all numbers or WKB points.
    """
    lower = [c.lower() for c in table.column_names]
    used = _position_columns(lower)
    if not used:
        raise ValueError(f"{path}: no position columns; name them lon and lat (degrees), or give geometry as WKB")
    if twice := [c for c in used if lower.count(c) > 1]:
        raise ValueError(f"{path}: {lower.count(twice[0])} columns are named {twice[0]}; keep one")
    columns = [table[lower.index(c)] for c in used]
    try:
        if len(columns) == 1:
            return points_from_wkb(columns[0])
        return np.stack([column.cast("float64").to_numpy() for column in columns], 1)
    except (ValueError, pa.ArrowException) as error:
        expected = "numbers" if len(columns) == 2 else "WKB points"
        raise ValueError(f"{path}: {', '.join(used)} must be {expected} in every row ({error})") from None


def read_positions(path: str | Path) -> np.ndarray:
    """Read positions (n, 2), degrees, of a CSV or Parquet file, from the columns that :func:`embed_table` reads.

    Raises:
        ValueError: no rows, no position columns, or a position that is missing or out of range, with its row.
    """
    path = Path(path)
    found = [positions(table, path) for table in _batches(path)]
    if not found:
        raise ValueError(f"{path}: no rows")
    return check_lonlat(np.concatenate(found), str(path))


def _position_columns(names: Sequence[str]) -> list[str]:
    """Choose, among the lower-case names of columns, the two of positions, else "geometry", else none."""
    lon, lat = (next((c for c in wanted if c in names), None) for wanted in (LON, LAT))
    return [lon, lat] if lon and lat else [c for c in names if c == "geometry"][:1]


def _batches(path: Path) -> Iterator[pa.Table]:
    """Read a CSV or Parquet file in parts."""
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    if path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{path}: give a .csv or .parquet file")
    try:
        batches = _open_csv(path) if path.suffix == ".csv" else pq.ParquetFile(path).iter_batches(BATCH)
        for batch in batches:
            if batch.num_rows:
                yield pa.Table.from_batches([batch])
    except (pa.ArrowException, UnicodeDecodeError) as error:  # the latter for the names of columns
        if isinstance(error, UnicodeDecodeError) or "invalid UTF8" in str(error):
            raise not_utf8(path, error) from None
        raise ValueError(f"{path}: cannot be read ({error}); it must be whole, and positions numbers") from None


def _open_csv(path: Path) -> pa.RecordBatchReader:
    """Open a CSV file with numbers in the two columns of positions and text in all others."""
    names = pa.csv.open_csv(path).schema.names
    numbers = [c for c in _position_columns([c.lower() for c in names]) if c != "geometry"]
    types = {c: pa.float64() if c.lower() in numbers else pa.string() for c in names}
    options = pa.csv.ConvertOptions(column_types=types)
    return pa.csv.open_csv(path, read_options=pa.csv.ReadOptions(block_size=1 << 22), convert_options=options)


def read_embedding_table(path: str | Path) -> tuple[pa.Table, np.ndarray]:
    """Read a Parquet file with a column ``embedding``, such as ``geonb embed`` writes: the table, and (n, d) float32.

    Raises:
        ValueError: no such file or column, or values that are not vectors, missing or of unequal length.
    """
    if not Path(path).exists():
        raise ValueError(f"{path}: no such file")
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path}: cannot be read as Parquet ({error})") from None
    if "embedding" not in table.column_names:
        has = ", ".join(table.column_names)
        raise ValueError(f"{path}: no column embedding (lists of numbers), such as `geonb embed` writes; it has {has}")
    column = table["embedding"].combine_chunks()
    try:
        vectors = column.cast(pa.list_(pa.float32(), len(column[0])))
    except (pa.ArrowException, TypeError, IndexError):
        raise ValueError(f"{path}: embedding must be lists of numbers, all of one length, not {column.type}") from None
    if vectors.null_count:
        row = vectors.is_null().to_pylist().index(True)
        raise ValueError(f"{path}: row {row} has no embedding; give one for every row")
    return table, vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)


def rows_of_places(table: pa.Table, path: str | Path, store: PlaceStore) -> np.ndarray:
    """Find the row of a table (places,) that has the ``place_id`` of each place of a store; -1 where there is none.

    Raises:
        ValueError: two rows for one place of the store.
    """
    places = store.place_id.tolist()
    rows: dict[str, int] = dict.fromkeys(places, -1)
    for row, name in enumerate(map(str, table["place_id"].to_pylist())):
        if rows.get(name, -1) >= 0:
            raise ValueError(f"{path}: row {row}: place_id {name!r} again, first in row {rows[name]}; keep one")
        if name in rows:
            rows[name] = row
    return np.array([rows[place] for place in places])


def read_embeddings(path: str | Path, store: PlaceStore) -> np.ndarray:
    """Read embeddings float32 (places, d) of the places of a store; NaN where the file has none.

    It has the columns ``place_id`` and ``embedding``, as :func:`geonb.data.sources.alphaearth.add_alphaearth` writes.

    Raises:
        ValueError: no ``place_id``, two rows for one place, no place of the store, or a file that
            :func:`read_embedding_table` refuses.
    """
    table, vectors = read_embedding_table(path)
    if "place_id" not in table.column_names:
        raise ValueError(f"{path}: no column place_id, which assigns each embedding to a place of {store.path}")
    rows = rows_of_places(table, path, store)
    if (rows < 0).all():
        raise ValueError(f"{path}: none of its places is in {store.path}")
    out = vectors[rows]
    out[rows < 0] = np.nan
    return out
