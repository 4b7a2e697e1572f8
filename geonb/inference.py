"""Use a trained run: embed a table of positions, ask for the places that fit a text."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

    from geonb.data.store import PlaceStore
    from geonb.model import Model

LON, LAT = ("lon", "longitude", "x"), ("lat", "latitude", "y")
BATCH = 50_000  # rows held in memory at a time
NUMBERS = {  # how they are written in a CSV column of that type: without leading zeros, and so short that they fit
    "int64": r"^(0|-?[1-9]\d{0,17})$",
    "float64": r"^-?((0|[1-9]\d{0,14})(\.\d*)?|\.\d+)([eE][-+]?\d{1,3})?$",
}


def embed_table(run: str | Path, points: str | Path, out: str | Path, progress: bool = True) -> int:
    """Embed the positions of a CSV or Parquet file and write GeoParquet; returns the number of rows.

    The output has the input's columns, ``geometry`` (points, EPSG:4326) and ``embedding``, a fixed-size list of
    float32. Rows are streamed, so a table of any length fits. Positions come from the columns ``lon``/``lat``
    (or ``longitude``/``latitude``, ``x``/``y``), or else from a ``geometry`` column of WKB points.

    A CSV file is read twice: a column is one of numbers if each of its fields, in the whole file, is a number without
    leading zeros or stands for a missing one (empty, NA, NaN, ...). Any other column, such as one of codes like 01001,
    of dates or of words, is text as it stands in the file.

    Raises:
        ValueError: a file that cannot be read, no position columns, or a position that is missing or out of range, with
            file and row.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from geonb._util import tqdm
    from geonb.data.store import geo_metadata, wkb_points
    from geonb.geo import check_lonlat
    from geonb.model import load

    model, points, out = load(run), Path(points), Path(out)
    partial = out.with_name(f"{out.name}.{os.getpid()}.partial")
    writer, start, west_south_east_north = None, 0, [np.inf, np.inf, -np.inf, -np.inf]
    bar = tqdm(desc="embedding", unit="place", disable=not progress, delay=1.0)
    try:
        for table in _batches(points):
            lonlat = check_lonlat(positions(table, points), f"{points} (rows from {start})")
            vectors = model.embed_locations(lonlat)
            keep = table.drop_columns([c for c in ("geometry", "embedding") if c in table.column_names])
            embedding = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), model.dim)
            result = keep.append_column("geometry", wkb_points(lonlat)).append_column("embedding", embedding)
            if writer is None:
                writer = pq.ParquetWriter(partial, result.schema.with_metadata(None), compression="zstd")
            writer.write_table(result.cast(writer.schema))
            low, high = lonlat.min(0), lonlat.max(0)
            bounds = west_south_east_north
            west_south_east_north = [min(bounds[0], low[0]), min(bounds[1], low[1]),
                                     max(bounds[2], high[0]), max(bounds[3], high[1])]  # fmt: skip
            start += len(lonlat)
            bar.update(len(lonlat))
        if writer is None:
            raise ValueError(f"{points}: no rows")
        writer.add_key_value_metadata(geo_metadata(west_south_east_north))
        writer.close()
        partial.replace(out)
    finally:
        bar.close()
        partial.unlink(missing_ok=True)
    return start


def ask(run: str | Path, text: str, data: str | Path, top: int = 20) -> list[dict]:
    """The places of a store whose position is most similar to a text.

    Returns:
        ``top`` dicts with ``similarity`` (cosine), ``lon``, ``lat`` (degrees), ``place_id`` and ``title``, best first.

    Raises:
        ValueError: ``top`` below 1, or what :func:`embed_question` refuses.
    """
    if top < 1:
        raise ValueError(f"top must be at least 1, not {top}")
    from geonb.data.store import PlaceStore
    from geonb.model import load

    model, store = load(run), PlaceStore.open(data)
    similarity = model.embed_locations(store.lonlat) @ embed_question(model, text)
    titles = store.column("title")
    return [
        {
            "similarity": float(similarity[i]),
            "lon": float(store.lonlat[i, 0]),
            "lat": float(store.lonlat[i, 1]),
            "place_id": str(store.place_id[i]),
            "title": titles[i] or "(no name)",
        }
        for i in np.argsort(-similarity, kind="stable")[:top]
    ]


def embed_question(model: Model, text: str) -> np.ndarray:
    """A text that places are to be found for as a vector float32 (dim,) of unit length.

    Raises:
        ValueError: an empty text, a run without text, or a text of which its backbone knows no word.
    """
    if not text.strip():
        raise ValueError("the text is empty; write what to look for")
    words = model.backbone("text").encode([text])
    if not words.any():  # of lsa alone; the encoder would make the same vector of all such texts
        raise ValueError(f"no word of {text!r} occurs in the training texts of this run; ask in other words")
    return model.embed_features("text", words)[0]


def _batches(path: Path) -> Iterator[pa.Table]:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    from geonb._util import not_utf8

    if not path.exists():
        raise ValueError(f"{path}: no such file")
    if path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{path}: give a .csv or .parquet file")
    try:
        if path.suffix == ".csv":
            batches = _open_csv(path, _column_types(path))
        else:
            batches = pq.ParquetFile(path).iter_batches(BATCH)
        for batch in batches:
            if batch.num_rows:
                yield pa.Table.from_batches([batch])
    except (pa.ArrowException, UnicodeDecodeError) as error:  # the latter for the names of columns
        if isinstance(error, UnicodeDecodeError) or "invalid UTF8" in str(error):
            raise not_utf8(path, error) from None
        raise ValueError(f"{path}: cannot be read ({error}); a table must be whole, and a CSV in UTF-8") from None


def _open_csv(path: Path, types: dict[str, pa.DataType] | None = None) -> pa.RecordBatchReader:
    import pyarrow as pa
    import pyarrow.csv

    options = pa.csv.ConvertOptions(column_types=types)
    return pa.csv.open_csv(path, read_options=pa.csv.ReadOptions(block_size=1 << 22), convert_options=options)


def _column_types(path: Path) -> dict[str, pa.DataType]:
    """The type of each column of a CSV file, from all its rows, see :func:`embed_table`."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv

    names = _open_csv(path).schema.names
    fits = {name: list(NUMBERS) for name in names}  # what all fields so far are
    missing = pa.array(pa.csv.ConvertOptions().null_values)
    for batch in _open_csv(path, dict.fromkeys(names, pa.string())):
        for name, column in zip(names, batch.columns, strict=True):
            fields = column.filter(pc.invert(pc.is_in(column, value_set=missing)))
            fits[name] = [
                kind for kind in fits[name]
                if pc.all(pc.match_substring_regex(fields, NUMBERS[kind]), min_count=0).as_py()
            ]  # fmt: skip
    return {name: pa.type_for_alias([*kinds, "string"][0]) for name, kinds in fits.items()}


def positions(table: pa.Table, path: Path) -> np.ndarray:
    """Positions (n, 2), degrees, of an Arrow table, from the columns that :func:`embed_table` reads.

    Raises:
        ValueError: no such columns or two of a name, or not all numbers or WKB points; ``path`` is named as their file.
    """
    import pyarrow as pa

    from geonb.data.store import points_from_wkb

    lower = [c.lower() for c in table.column_names]
    lon, lat = (next((c for c in wanted if c in lower), None) for wanted in (LON, LAT))
    used = (lon, lat) if lon and lat else ("geometry",)
    if twice := [c for c in used if lower.count(c) > 1]:
        raise ValueError(f"{path}: {lower.count(twice[0])} columns are named {twice[0]}; keep one")
    if lon and lat:
        try:
            return np.stack([table[lower.index(c)].cast("float64").to_numpy() for c in (lon, lat)], 1)
        except (ValueError, pa.ArrowException) as error:
            raise ValueError(f"{path}: columns {lon}, {lat} are not all numbers ({error})") from None
    if "geometry" in lower:
        try:
            return points_from_wkb(table[lower.index("geometry")])
        except (ValueError, pa.ArrowException) as error:
            raise ValueError(f"{path}: geometry is not all WKB points ({error})") from None
    raise ValueError(f"{path}: no position columns; name them lon and lat (degrees), or give WKB points as geometry")


def read_positions(path: str | Path) -> np.ndarray:
    """Positions (n, 2), degrees, of a CSV or Parquet file, as :func:`embed_table` finds them.

    Raises:
        ValueError: no rows, no position columns, or a position that is missing or out of range, with its row.
    """
    from geonb.geo import check_lonlat

    path = Path(path)
    found = [positions(table, path) for table in _batches(path)]
    if not found:
        raise ValueError(f"{path}: no rows")
    return check_lonlat(np.concatenate(found), str(path))


def read_embedding_table(path: str | Path, columns: Sequence[str] | None = None) -> tuple[pa.Table, np.ndarray]:
    """A Parquet file with a column ``embedding``, as ``geonb embed`` and others write it: the table, and the column.

    Args:
        path: the file.
        columns: those to read beside it, where the file has them. Default: all.

    Returns:
        The table, and its embeddings, float32 (n, d).

    Raises:
        ValueError: no such file, no such column, or vectors that are none, missing or of unequal length.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    try:
        names = pq.read_schema(path).names
        wanted = [name for name in names if columns is None or name in {*columns, "embedding"}]
        table = pq.read_table(path, columns=wanted)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path}: cannot be read as Parquet ({error})") from None
    if "embedding" not in names:
        has = ", ".join(names)
        raise ValueError(f"{path}: no column embedding (lists of numbers), as `geonb embed` makes one; it has {has}")
    column = table["embedding"].combine_chunks()
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    numbers = (pa.types.is_floating, pa.types.is_integer)
    if not (any(of(column.type) for of in lists) and any(of(column.type.value_type) for of in numbers)):
        raise ValueError(f"{path}: the column embedding must hold lists of numbers, not {column.type}")
    if column.null_count or len(pc.unique(pc.list_value_length(column))) != 1:
        raise ValueError(f"{path}: embeddings are missing or not all of one length; give every row one")
    values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    return table, values.reshape(len(column), -1)


def rows_of_places(table: pa.Table, path: str | Path, store: PlaceStore) -> np.ndarray:
    """For each place of a store the row (places,) of a table with its ``place_id``; -1 where there is none.

    Raises:
        ValueError: two rows for a place of the store; ``path`` is named as their file.
    """
    places = {place: i for i, place in enumerate(store.place_id.tolist())}
    out = np.full(len(store), -1)
    for row, name in enumerate(map(str, table["place_id"].to_pylist())):
        place = places.get(name, -1)
        if place >= 0 and out[place] >= 0:
            raise ValueError(f"{path}: row {row}: place_id {name!r} again, first in row {out[place]}; keep one")
        if place >= 0:
            out[place] = row
    return out


def read_embeddings(path: str | Path, store: PlaceStore) -> np.ndarray:
    """Embeddings float32 (places, d) of a Parquet file, by ``place_id``, in the order of a store; NaN where none.

    Args:
        path: a file with the columns ``place_id`` and ``embedding`` (lists of d numbers), such as
            :func:`geonb.data.sources.alphaearth.add_alphaearth` writes.
        store: a :class:`geonb.data.store.PlaceStore`.

    Raises:
        ValueError: no ``place_id``, two rows for a place, no place of the store, or what
            :func:`read_embedding_table` refuses.
    """
    table, vectors = read_embedding_table(path, ["place_id"])
    if "place_id" not in table.column_names:
        raise ValueError(f"{path}: no column place_id; it says which place of {store.path} each embedding belongs to")
    rows = rows_of_places(table, path, store)
    if (rows < 0).all():
        raise ValueError(f"{path}: none of its places is in {store.path}")
    out = vectors[rows]
    out[rows < 0] = np.nan
    return out
