"""The place store: a folder of places and what was observed there, readable without GeoNB.

==========================  =========================================================================================
``places.parquet``          GeoParquet 1.1: ``place_id``, ``geometry`` (WKB points, lon/lat), ``title``, ``source``,
                            ``license``, then facts and labels as columns
``texts.parquet``           ``place_id``, ``text``, ``lang``, ``license``, ``revision``, ``url``, ``source``, ``facts``
                            (names of the facts that the text mentions); at most one text per place
``images/NAME.npy``         one array of integers (n, band, y, x) for each image modality, mapped into memory; bands,
                            ``gsd_m``, ``scale``, dtype and shape are in the manifest; at most one image per place
``images/NAME.parquet``     ``place_id`` and ``date`` of each image
``attribution.parquet``     who is to be credited for each text whose licence asks for it, with ``ATTRIBUTION.md`` in
                            words; both are absent where no licence asks (:mod:`geonb.data.attribution`)
``datacard.md``             what the data are, for people
``manifest.json``           schema version, counts, size and SHA-256 of every file, how the store was made, which
                            modalities are simulated, and which modalities can tell each fact
``features/``               a cache of backbone features; no part of the data
==========================  =========================================================================================

A store is written beside its target and renamed when it is complete. Texts and images are streamed both ways: memory
holds the places and their identifiers. This module does not know where observations come from.
GeoParquet: https://geoparquet.org/releases/v1.1.0/
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from geonb._util import is_missing, row_numbers
from geonb.data.attribution import write_credits
from geonb.data.sentinel2 import BANDS, SCALE
from geonb.geo import check_lonlat

SCHEMA_VERSION = 2
MODALITIES = ("location", "text", "image")
ARRAY = "sentinel2"  # the array of images/ behind the modality "image"
TEXTS_PER_GROUP = 256  # rows of texts.parquet that are decoded to read one of them
MAX_REFLECTANCE = 2.0  # mean over an image; fresh snow and thick cloud stay below

PLACE_COLUMNS = ("place_id", "geometry", "title", "source", "license")
TEXT_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("place_id", "text", "lang", "license", "revision", "url", "source")]
    + [("facts", pa.list_(pa.string()))]
)
WKB_HEAD = b"\x01\x01\0\0\0"  # little-endian, a point of x and y


class StoreError(ValueError):
    """A place store that is damaged or was asked for what it lacks; names file, row and remedy."""


# Positions in GeoParquet


def wkb_points(lonlat: ArrayLike) -> pa.Array:
    """Encode positions (n, 2), degrees, as an Arrow column of WKB points (21 bytes each, little-endian)."""
    return pa.array([WKB_HEAD + point.tobytes() for point in np.asarray(lonlat, dtype="<f8")], pa.binary())


def points_from_wkb(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Decode a column of WKB points into positions float64 (n, 2).

    Raises:
        ValueError: a missing value, or a geometry that is no little-endian two-dimensional point, with its row.
    """
    points = column.to_pylist()
    for row, point in enumerate(points):
        if point is None or len(point) != 21 or not point.startswith(WKB_HEAD):
            raise ValueError(f"row {row}: the geometry is not a WKB point (little-endian, x and y)")
    return np.frombuffer(b"".join(point[5:] for point in points), "<f8").reshape(-1, 2).copy()


def geo_metadata(bounds: Sequence[float]) -> dict[str, str]:
    """Make the ``geo`` entry of a GeoParquet 1.1 file of points; ``bounds`` is (west, south, east, north) in degrees.

    The coordinate reference system is the default of the format, OGC:CRS84: longitude, latitude on WGS 84.
    """
    column = {"encoding": "WKB", "geometry_types": ["Point"], "bbox": [float(b) for b in bounds]}
    return {"geo": json.dumps({"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}})}


# Reading


class PlaceStore:
    """A place store opened for reading; see :meth:`open`.

    Rows are given as numbers, or as a mask. A row that lacks what is asked for raises :class:`StoreError`.

    Attributes:
        path: the folder.
        manifest: the content of ``manifest.json``.
        places: ``places.parquet`` as a :class:`pyarrow.Table`, in row order.
        lonlat: positions float64 (n, 2), degrees.
        place_id: identifiers, an array of str (n,).
        bands, gsd_m: band names and ground sampling distance in metres; ``None`` without images.
        facts: for each fact its ``kind`` ("classification" or "regression"), ``units``, ``modalities`` (those
            that can tell it) and ``source``.
        data_hash: SHA-256 of the content, independent of files and compression.
    """

    def __init__(self, path: Path, manifest: dict) -> None:
        self.path, self.manifest = path, manifest
        self.facts: dict[str, dict] = manifest["facts"]
        self.data_hash: str = manifest["data_hash"]
        described = manifest["images"].get(ARRAY, {})
        self.bands, self.gsd_m = described.get("bands"), described.get("gsd_m")
        self._images, self._dates = np.empty((0, len(BANDS), 0, 0), np.uint16), np.empty(0, object)
        try:
            self.places = pq.read_table(path / "places.parquet")
            self.lonlat = points_from_wkb(self.places["geometry"])
            self.place_id = np.array(self.places["place_id"].to_pylist(), dtype=str)
            self._rows = {modality: np.full(len(self), -1) for modality in ("text", "image")}
            if manifest["counts"]["texts"]:
                meta = self._texts = pq.read_metadata(path / "texts.parquet")
                self._starts = np.cumsum([0, *(meta.row_group(i).num_rows for i in range(meta.num_row_groups))])
                self._locate("text", pq.read_table(path / "texts.parquet", columns=["place_id"]))
            if described:
                array = np.load(path / "images" / f"{ARRAY}.npy", mmap_mode="r", allow_pickle=False)
                self._images = np.asarray(array)  # without the subclass, which every batch would be of too
                table = pq.read_table(path / "images" / f"{ARRAY}.parquet")
                self._dates = np.array(table["date"].to_pylist(), dtype=object)
                self._locate("image", table)
        except (OSError, KeyError, ValueError, pa.ArrowException) as error:
            raise StoreError(f"{path}: cannot be read ({error}); {_remedy(path)}") from error

    @classmethod
    def open(cls, path: str | Path, verify: bool | str = True) -> PlaceStore:
        """Open a place store.

        Args:
            path: the folder.
            verify: ``True`` checks that all files exist with their sizes, and the hashes of all except the image
                arrays. ``"full"`` also hashes the images. ``False`` only reads.

        Raises:
            StoreError: what is wrong, in which file, and what to do.
        """
        path = Path(path)
        manifest = _read_manifest(path)
        if verify:
            _check_files(path, manifest, full=verify == "full")
        return cls(path, manifest)

    def __reduce__(self) -> tuple:
        return PlaceStore.open, (self.path, False)  # else a memory map would be pickled with all its pixels

    def __len__(self) -> int:
        return len(self.places)

    def __repr__(self) -> str:
        counts = self.manifest["counts"]
        return f"PlaceStore({str(self.path)!r}: {len(self)} places, {counts['texts']} texts, {counts['images']} images)"

    @property
    def columns(self) -> list[str]:
        """Names of the columns of the places, without the geometry."""
        return [name for name in self.places.column_names if name != "geometry"]

    def column(self, name: str) -> np.ndarray:
        """Read a column of the places (n,): float64 with NaN, or objects (str) with None, where a value is missing.

        Raises:
            StoreError: no such column; the message names those that exist.
        """
        if name not in self.columns:
            raise StoreError(f"{self.path / 'places.parquet'}: no column {name!r}; there are {', '.join(self.columns)}")
        column = self.places[name]
        if pa.types.is_string(column.type):
            return np.array(column.to_pylist(), dtype=object)
        return column.cast(pa.float64()).to_numpy().astype(np.float64)

    def has(self, modality: str) -> np.ndarray:
        """Tell which places (n,) have a modality: "location" (all have), "text" or "image".

        Raises:
            StoreError: an unknown modality.
        """
        if modality not in MODALITIES:
            raise StoreError(f"unknown modality {modality!r}; choose from {', '.join(MODALITIES)}")
        return np.ones(len(self), dtype=bool) if modality == "location" else self._rows[modality] >= 0

    def simulated(self, modality: str) -> bool:
        """Tell whether the observations of a modality are simulated (``False`` for one that the store lacks)."""
        return self.manifest["simulated"].get(modality, False)

    def texts(self, rows: ArrayLike) -> list[str]:
        """Read the texts of places, one for each row of the store."""
        return self.text_column("text", rows)

    def text_column(self, name: str, rows: ArrayLike) -> list:
        """Read a column of ``texts.parquet`` (``lang``, ``facts``, ...), one value for each row of the store."""
        rows = self._taken("text", rows)
        if not len(rows):
            return []
        # Nothing stays open, so threads and forked processes may share a store. With pre_buffer, all that was read
        # would stay in memory until the file is closed.
        file = pq.ParquetFile(self.path / "texts.parquet", metadata=self._texts, memory_map=True, pre_buffer=False)
        values, group = np.empty(len(rows), dtype=object), np.searchsorted(self._starts, rows, "right") - 1
        order = np.argsort(group, kind="stable")
        for at in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
            number = int(group[at[0]])
            column = file.read_row_group(number, [name], use_threads=False).column(0)
            for i, value in zip(at, column.take(rows[at] - self._starts[number]).to_pylist(), strict=True):
                values[i] = value
        return values.tolist()

    def images(self, rows: ArrayLike) -> np.ndarray:
        """Read the images (k, band, H, W) of places; Sentinel-2: uint16, reflectance x 10,000."""
        return self._images[self._taken("image", rows)]

    def image_dates(self, rows: ArrayLike) -> list[str]:
        """Read the acquisition dates (ISO 8601, or ``""`` where not known) of images, one for each row of the store."""
        return self._dates[self._taken("image", rows)].tolist()

    def to_xarray(self) -> Any:
        """Describe the images as an :class:`xarray.Dataset`, whose pixels are read when they are used.

        Its variable is the image array with dimensions (place, band, y, x); ``place``, ``lon``, ``lat``, ``date`` and
        ``band`` are coordinates. From there ``.chunk()`` gives Dask, ``.to_zarr()`` and ``.to_netcdf()`` write files.

        Raises:
            StoreError: the store has no images.
        """
        import xarray

        if not len(self._images):
            raise StoreError(f"{self.path}: has no images")
        rows = np.argsort(self._rows["image"])[-len(self._images) :]
        # netCDF has no booleans.
        attributes = {"gsd_m": self.gsd_m, "scale": SCALE, "simulated": int(self.simulated("image"))}
        of_place = {"lon": self.lonlat[rows, 0], "lat": self.lonlat[rows, 1], "date": self._dates.astype(str)}
        coordinates = {"place": self.place_id[rows], "band": self.bands}
        coordinates |= {name: ("place", values) for name, values in of_place.items()}
        return xarray.Dataset({ARRAY: (("place", "band", "y", "x"), self._images, attributes)}, coordinates)

    def _locate(self, modality: str, table: pa.Table) -> None:
        """Note for each place the row of its text or image."""
        places = pc.index_in(table["place_id"], self.places["place_id"].combine_chunks())
        self._rows[modality][places.to_numpy()] = np.arange(len(table))

    def _taken(self, modality: str, rows: ArrayLike) -> np.ndarray:
        """Return the rows of texts or images that belong to rows of places."""
        rows = row_numbers(rows)
        taken = self._rows[modality][rows]
        if (taken < 0).any():
            row = int(rows[np.argmax(taken < 0)])
            raise StoreError(
                f"{self.path}: row {row} ({self.place_id[row]}) has no {modality}; ask store.has({modality!r}) first"
            )
        return taken


def check_store(path: str | Path) -> str:
    """Check every byte of a store against its hash, and describe it in three lines.

    Raises:
        StoreError: the first fault found: file and remedy.
    """
    store = PlaceStore.open(path, verify="full")
    files, counts = store.manifest["files"], store.manifest["counts"]
    found = {"location": len(store), "text": counts["texts"], "image": counts["images"]}
    kinds = [f"{n:,} {m} {'simulated' if store.simulated(m) else 'as observed'}" for m, n in found.items() if n]
    size = sum(entry["bytes"] for entry in files.values()) / 1e6
    return (
        f"{path}: a complete place store, schema {SCHEMA_VERSION}, data hash {store.data_hash[:16]}\n"
        f"{', '.join(kinds)}\n{len(files)} files, {size:,.1f} MB, all hashes agree"
    )


def _remedy(path: Path) -> str:
    return f"remove {path} and make the store again, or restore the file from a copy"


def _read_manifest(path: Path) -> dict:
    file = path / "manifest.json"
    if (path / "config.yaml").is_file():
        raise StoreError(f"{path}: this is a trained run, not a place store; give the folder of the data")
    if not path.is_dir():
        raise StoreError(f"{path}: no such place store; check the path, or make one: see geonb data --help")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        version = manifest["schema_version"]
    except FileNotFoundError:
        raise StoreError(f"{file}: missing, so {path} is not a complete place store; {_remedy(path)}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{file}: not a manifest ({error}); {_remedy(path)}") from None
    if version != SCHEMA_VERSION:
        made = json.dumps(manifest.get("made") or "with write_store", ensure_ascii=False)
        raise StoreError(
            f"{file}: schema version {version}, but this GeoNB reads {SCHEMA_VERSION}; remove {path} and make the "
            f"store again with this version. It was made so: {made[:500]}"
        )
    return manifest


def _check_files(path: Path, manifest: dict, full: bool) -> None:
    for name, entry in manifest["files"].items():
        file = path / name
        size = file.stat().st_size if file.is_file() else None
        if size != entry["bytes"]:
            found = "missing" if size is None else f"{size} of {entry['bytes']} bytes, so it was cut or changed"
            raise StoreError(f"{file}: {found}; {_remedy(path)}")
        if (full or file.suffix != ".npy") and _file_hash(file) != entry["sha256"]:
            raise StoreError(f"{file}: changed since it was written (its SHA-256 differs); {_remedy(path)}")


def _file_hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# Writing


def write_store(
    path: str | Path,
    *,
    places: Mapping[str, Sequence | np.ndarray],
    texts: Mapping[str, Sequence] | pa.Table | Iterable[Mapping[str, Sequence] | pa.Table] | None = None,
    images: Iterable | None = None,
    image_rows: Sequence[int] | np.ndarray | None = None,
    dates: Sequence[str] | None = None,
    gsd_m: float = 10.0,
    facts: dict[str, dict] | None = None,
    simulated: dict[str, bool] | None = None,
    made: dict | None = None,
    datacard: str | Callable[[pa.Table], str] = "",
) -> PlaceStore:
    """Write a place store: beside its target first, renamed when complete, removed when anything fails.

    Args:
        path: the folder to make; it must not exist, or be empty.
        places: columns of n values: ``place_id`` (unique str), ``lon``, ``lat`` (degrees), and optionally ``title``,
            ``source``, ``license`` and any facts (numbers or str; NaN or None where missing).
        texts: columns ``place_id`` and ``text``, optionally the others of ``texts.parquet``; or an iterable of such
            tables, which are written one by one.
        images: an iterable of chunks uint16 (k, 12, H, W), reflectance x 10,000; or of tuples (chunk, columns) with
            further columns of the places, (k,) each, that came with the images.
        image_rows: for each image the row of its place.
        dates: for each image its acquisition date (ISO 8601), or ``""``.
        gsd_m: ground sampling distance of the images in metres.
        facts: see :class:`PlaceStore`; each is a column of the places.
        simulated: which modalities are simulated.
        made: how the store was made (a function and its arguments), kept in the manifest.
        datacard: Markdown, or a function that makes it of the finished places (a table).

    Raises:
        StoreError: what is wrong with which row, or with the disk; nothing is left behind.
    """
    path = Path(path)
    if path.is_dir() and not any(path.iterdir()):
        path.rmdir()
    if path.exists():
        raise StoreError(f"{path}: exists already; remove it or choose another folder")
    place_id, lonlat, columns = _take_places(places)
    rows = _take_image_rows(image_rows, len(place_id)) if images is not None else np.empty(0, np.int64)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        partial.mkdir()
        content, described = hashlib.sha256(), {}
        count = _write_texts(partial / "texts.parquet", texts, place_id) if texts is not None else 0
        if images is not None and len(rows):
            described[ARRAY], more = _write_images(partial, images, rows, place_id, dates, gsd_m, content)
            columns |= more
        table = pa.table({"place_id": place_id, "geometry": wkb_points(lonlat)} | columns)
        table = table.replace_schema_metadata(geo_metadata((*lonlat.min(0), *lonlat.max(0))))
        pq.write_table(table, partial / "places.parquet", compression="zstd")
        for name in sorted(table.column_names):
            _hash_column(content, table.schema.field(name), len(table), table[name].chunks)
        if count:
            written = pq.ParquetFile(partial / "texts.parquet", memory_map=True, pre_buffer=False)
            for name in sorted(TEXT_SCHEMA.names):
                batches = written.iter_batches(4096, columns=[name], use_threads=False)
                _hash_column(content, TEXT_SCHEMA.field(name), count, (batch.column(0) for batch in batches))
            write_credits(partial, table)
        card = datacard(table) if callable(datacard) else datacard
        (partial / "datacard.md").write_text(card or "# Place store\n", encoding="utf-8")
        if unknown := (facts or {}).keys() - set(table.column_names):
            raise StoreError(f"fact {min(unknown)!r} is no column of the places; there are {table.column_names}")
        manifest: dict[str, Any] = {
            "format": "GeoNB place store",
            "schema_version": SCHEMA_VERSION,
            "counts": {"places": len(table), "texts": count, "images": len(rows)},
            "simulated": {m: bool((simulated or {}).get(m, False)) for m in MODALITIES},
            "images": described,
            "facts": facts or {},
            "made": made or {},
            "data_hash": content.hexdigest(),
            "files": {
                file.relative_to(partial).as_posix(): {"bytes": file.stat().st_size, "sha256": _file_hash(file)}
                for file in sorted(partial.rglob("*.*"))
            },
        }
        text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
        (partial / "manifest.json").write_text(text, encoding="utf-8")
        partial.rename(path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StoreError(f"{path}: the disk is full; free some space or choose another folder") from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return PlaceStore.open(path, verify=False)


def _take_places(places: Mapping[str, Any]) -> tuple[pa.Array, np.ndarray, dict[str, pa.Array]]:
    """Check identifiers and positions; return them and the other columns."""
    for name in ("place_id", "lon", "lat"):
        if name not in places:
            raise StoreError(f"places: no column {name!r}; every place needs place_id, lon and lat")
    if "geometry" in places:
        raise StoreError("places: a column cannot be called geometry; it is made from lon and lat")
    if wrong := [name for name, values in places.items() if len(values) != len(places["place_id"])]:
        raise StoreError(f"places: column {wrong[0]!r} has more or fewer values than place_id; give one per place")
    place_id = _column("places", "place_id", places["place_id"])
    if not len(place_id):
        raise StoreError("places: no rows; a store needs at least one place")
    if not pa.types.is_string(place_id.type):
        raise StoreError(f"places: place_id is {place_id.type}; give each place a unique str")
    seen: dict[str, int] = {}
    for row, name in enumerate(place_id.to_pylist()):
        if not (name or "").strip():
            raise StoreError(f"places: row {row}: place_id {name!r} is not a name; give each place a unique str")
        if seen.setdefault(name, row) != row:
            raise StoreError(f"places: row {row}: place_id {name!r} again, first in row {seen[name]}; make it unique")
    try:
        lonlat = check_lonlat(np.stack([np.asarray(places[c], dtype=np.float64) for c in ("lon", "lat")], 1), "places")
    except (TypeError, ValueError) as error:
        raise StoreError(str(error)) from None
    columns = dict.fromkeys(PLACE_COLUMNS[2:], pa.nulls(len(place_id), pa.string()))
    for name, values in places.items():
        if name not in ("place_id", "lon", "lat"):
            columns[name] = _column("places", name, values, pa.string() if name in PLACE_COLUMNS else None)
    return place_id, lonlat, columns


def _column(where: str, name: str, values: Any, kind: pa.DataType | None = None) -> pa.Array:
    """Make a column of numbers or str; None, NaN and pandas' NA become missing."""
    try:
        if isinstance(values, pa.ChunkedArray):
            values = values.combine_chunks()
        elif not isinstance(values, pa.Array):
            try:
                values = pa.array(values, from_pandas=True)
            except (pa.ArrowInvalid, pa.ArrowTypeError):  # numbers and words: all become words
                values = pa.array([None if is_missing(value) else str(value) for value in values])
        if pa.types.is_floating(values.type):
            values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
            kind = kind or values.type
        if pa.types.is_integer(values.type) or pa.types.is_boolean(values.type):
            kind = kind or values.type
        return values.cast(kind or pa.string())
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise StoreError(f"{where}: column {name!r}: give numbers or str, one per row ({error})") from None


def _write_texts(file: Path, texts: Any, place_id: pa.Array) -> int:
    """Stream texts into a file; return how many there are."""
    first, count = dict.fromkeys(place_id.to_pylist(), -1), 0
    repeated = ["lang", "license", "source"]
    with pq.ParquetWriter(file, TEXT_SCHEMA, compression="zstd", use_dictionary=repeated) as writer:
        for part in [texts] if isinstance(texts, (Mapping, pa.Table)) else texts:
            table = _text_table(part)
            for name, text in zip(table["place_id"].to_pylist(), table["text"].to_pylist(), strict=True):
                if not (text or "").strip():
                    raise StoreError(f"texts: row {count}: empty text; leave the row out, a place need not have a text")
                if name not in first:
                    raise StoreError(f"texts: row {count}: place_id {name!r} is not among the places; add it there")
                if first[name] >= 0:
                    raise StoreError(f"texts: row {count}: place_id {name!r} again, first in row {first[name]}")
                first[name] = count
                count += 1
            writer.write_table(table, row_group_size=TEXTS_PER_GROUP)
    if not count:
        file.unlink()
    return count


def _text_table(part: Mapping[str, Sequence] | pa.Table) -> pa.Table:
    names = part.column_names if isinstance(part, pa.Table) else list(part)
    if not {"place_id", "text"} <= set(names) <= set(TEXT_SCHEMA.names):
        others = ", ".join(TEXT_SCHEMA.names[2:])
        raise StoreError(f"texts: columns {', '.join(names)}; needed are place_id and text, allowed are also {others}")
    columns = dict.fromkeys(TEXT_SCHEMA.names, pa.nulls(len(part["text"])))
    columns |= {name: _column("texts", name, part[name], TEXT_SCHEMA.field(name).type) for name in names}
    return pa.table(columns).cast(TEXT_SCHEMA)


def _write_images(
    folder: Path, images: Iterable, rows: np.ndarray, place_id: pa.Array, dates: Any, gsd_m: float, content: Any
) -> tuple[dict, dict[str, pa.Array]]:
    """Stream an array and its table; return its entry in the manifest and the columns (n,) that came with it."""
    names = place_id.take(rows).to_pylist()
    dates = [""] * len(rows) if dates is None else [str(date or "") for date in dates]
    if len(dates) != len(rows):
        raise StoreError(f"images: {len(rows)} images, but {len(dates)} dates")
    (folder / "images").mkdir()
    extra: dict[str, list[np.ndarray]] = {}
    seen, shape = 0, ()
    with (folder / "images" / f"{ARRAY}.npy").open("wb") as stream:
        for chunk in images:
            chunk, columns = chunk if isinstance(chunk, tuple) else (chunk, {})
            if not len(chunk):
                continue
            _check_chunk(chunk, shape, seen)
            if not shape:
                shape = chunk.shape[1:]
                header = {"descr": "<u2", "fortran_order": False, "shape": (len(rows), *shape)}
                np.lib.format.write_array_header_1_0(stream, header)
                content.update(json.dumps([names, dates, float(gsd_m)], ensure_ascii=False).encode())
            for name, values in columns.items():
                extra.setdefault(name, []).append(np.asarray(values))
            pixels = np.ascontiguousarray(chunk, "<u2")
            stream.write(pixels.data)
            content.update(pixels)
            seen += len(chunk)
    if seen != len(rows):
        raise StoreError(f"images: {seen} images, but {len(rows)} rows in image_rows")
    table = pa.table({"place_id": names, "date": dates})
    pq.write_table(table, folder / "images" / f"{ARRAY}.parquet", compression="zstd")
    described = {"bands": BANDS, "gsd_m": float(gsd_m), "scale": SCALE, "dtype": "uint16", "shape": [len(rows), *shape]}
    at = np.full(len(place_id), -1)
    at[rows] = np.arange(len(rows))
    of_place = pa.array(at, mask=at < 0)
    return described, {
        name: _column("images", name, np.concatenate(values)).take(of_place) for name, values in extra.items()
    }


def _take_image_rows(image_rows: Any, places: int) -> np.ndarray:
    if image_rows is None:
        raise StoreError("images: image_rows is missing; give for each image its row among the places")
    rows = np.asarray(image_rows, dtype=np.int64)
    outside = (rows < 0) | (rows >= places)
    if outside.any():
        raise StoreError(f"images: image_rows[{int(np.argmax(outside))}] is not one of {places} places")
    if len(np.unique(rows)) != len(rows):
        raise StoreError("images: a place has two images; give one per place")
    return rows


def _check_chunk(chunk: np.ndarray, shape: tuple, seen: int) -> None:
    where = f"images: from image {seen} on: {chunk.dtype} {chunk.shape}"
    if chunk.dtype != np.uint16 or chunk.ndim != 4 or chunk.shape[1] != len(BANDS):
        bands = f"bands {', '.join(BANDS)}"
        raise StoreError(f"{where}; give uint16 (k, {len(BANDS)}, H, W), reflectance x {SCALE}, {bands}")
    if shape and chunk.shape[1:] != shape:
        raise StoreError(f"{where}, those before {shape}; cut all to one size")
    check_scaling("images", chunk, seen)


def check_scaling(where: str, images: np.ndarray, first: int) -> None:
    """Refuse images (n, bands, H, W) that cannot be surface reflectance x 10,000.

    Args:
        where: what the images come from; it opens the error message.
        images: integers, at least one image. ``first``: the number of the first, for the message.

    Raises:
        StoreError: an image that is all zero, or whose values are too low or too high; names it, and what to do.
    """
    flat = images.reshape(len(images), -1)
    top, mean = flat.max(1), flat.mean(1, dtype=np.float64)
    for wrong, what in (
        (top == 0, "is all zero (no data); leave the image out"),
        (top <= 255, "holds nothing above 255, as an 8-bit picture or reflectance in 0..1; use reflectance x 10000"),
        (mean > MAX_REFLECTANCE * SCALE, f"has a mean above {MAX_REFLECTANCE * SCALE:.0f}; use reflectance x 10000"),
    ):
        if wrong.any():
            raise StoreError(f"{where}: image {first + int(np.argmax(wrong))} {what}")


def _hash_column(content: Any, field: pa.Field, length: int, chunks: Iterable[pa.Array]) -> None:
    """Add a column to the hash: numbers as float64, geometries as they are, all else as one JSON list."""
    content.update(f"{field.name}:{length}:".encode())
    opening = b"["
    for chunk in chunks:
        if pa.types.is_floating(field.type):
            content.update(chunk.cast(pa.float64()).to_numpy(zero_copy_only=False).astype("<f8"))
        elif pa.types.is_binary(field.type):
            content.update(b"".join(chunk.to_pylist()))
        else:
            content.update(opening + json.dumps(chunk.to_pylist(), ensure_ascii=False)[1:-1].encode())
            opening = b", "
    if opening == b", ":
        content.update(b"]")
