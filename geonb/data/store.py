"""The place store: a folder of places and what was observed there, readable without GeoNB.

- ``places.parquet``: GeoParquet 1.1 of points (lon, lat): ``place_id``, ``title``, ``source``,
  ``license``, facts and labels.
- ``texts.parquet``: at most one text per place, see :data:`TEXT_SCHEMA`; ``facts`` names what it mentions.
- ``images/NAME.npy`` of each image modality: uint8 or uint16 (n, band, y, x), at most one image per place,
  mapped into memory; ``images/NAME.parquet`` has their ``place_id`` and ``date``.
- ``attribution.parquet``, ``ATTRIBUTION.md``: see :mod:`geonb.data.attribution`.
- ``datacard.md``, ``manifest.json``: for people, and for programs: schema version, counts, SHA-256 of
  the files, how they were made, and what is simulated.
- ``features/``: a cache of backbone features; no part of the data.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from geonb._util import as_text, is_missing, row_numbers
from geonb.data.attribution import write_credits
from geonb.data.sentinel2 import BANDS, SCALE, check_shape
from geonb.geo import check_lonlat

SCHEMA_VERSION = 3
TEXTS_PER_GROUP = 256  # rows of texts.parquet that are decoded to read one of them
REMEDY = "remove the store and make it again, or restore the file from a copy"
SAID_FROM = 1e8  # bytes of an array whose size is printed before it is written
MAX_REFLECTANCE = 2.0  # mean over an image; fresh snow and thick cloud stay below

TEXT_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("place_id", "text", "lang", "license", "revision", "url", "source")]
    + [("facts", pa.list_(pa.string()))]
)
WKB_HEAD = b"\x01\x01\0\0\0"  # little-endian, a point of x and y


class StoreError(ValueError):
    """A place store that is damaged, or lacks what was asked for."""


@dataclass
class Images:
    """The images of one modality, for :func:`write_store`; the defaults are those of Sentinel-2.

    Attributes:
        chunks: an iterable of integers (k, band, H, W), uint8 or uint16, or of tuples (images, columns (k,)
            of their places), which is streamed. The bands of an xarray of Sentinel-2 are found by name;
            other arrays have none, and must be in the order of ``bands``.
        rows: of each image the row of its place.
        dates: of each image, ISO 8601, or "" where not known; None for no dates at all.
        bands: their names. ``scale``: the number that stands for 1; larger values are brighter.
        gsd_m: size of a pixel in metres.
    """

    chunks: Iterable
    rows: Sequence[int] | np.ndarray
    dates: Sequence[str] | None = None
    bands: Sequence[str] = tuple(BANDS)
    scale: int = SCALE
    gsd_m: float = 10.0


def wkb_points(lonlat: ArrayLike) -> pa.Array:
    """Encode positions (n, 2), degrees, as a column of WKB points: little-endian, 21 bytes each."""
    return pa.array([WKB_HEAD + point.tobytes() for point in np.asarray(lonlat, dtype="<f8")], pa.binary())


def points_from_wkb(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Decode a column of WKB points, else ValueError, into positions float64 (n, 2), degrees."""
    points = column.to_pylist()
    for row, point in enumerate(points):
        if point is None or len(point) != 21 or not point.startswith(WKB_HEAD):
            raise ValueError(f"row {row}: the geometry is not a WKB point (little-endian, x and y)")
    return np.frombuffer(b"".join(point[5:] for point in points), "<f8").reshape(-1, 2).copy()


def geo_metadata(bounds: Sequence[float]) -> dict[str, str]:
    """Make the ``geo`` entry of GeoParquet 1.1 for points within (west, south, east, north), degrees."""
    column = {"encoding": "WKB", "geometry_types": ["Point"], "bbox": [float(b) for b in bounds]}
    entry = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    return {"geo": json.dumps(entry)}


class PlaceStore:
    """A place store opened for reading; see :meth:`open`.

    Rows are numbers, or a mask. What a store or a row lacks raises :class:`StoreError`.

    Attributes:
        path, manifest: the folder, and its ``manifest.json``.
        places: ``places.parquet`` as a :class:`pyarrow.Table`.
        lonlat: positions float64 (n, 2), degrees.
        place_id: identifiers, str (n,).
        imagery: of each image modality its ``bands``, ``scale``, ``gsd_m``, ``dtype`` and ``shape``; see
            :class:`Images`.
        facts: for each its ``kind`` ("classification" or "regression"), ``units``, ``modalities``
            (those that can tell it) and ``source``.
        data_hash: SHA-256 of the content, whatever the compression.
    """

    def __init__(self, path: Path, manifest: dict) -> None:
        self.path, self.manifest = path, manifest
        self.facts: dict[str, dict] = manifest["facts"]
        self._simulated: dict[str, bool] = manifest["simulated"]
        self.data_hash: str = manifest["data_hash"]
        self.imagery: dict[str, dict] = manifest["images"]
        self.places = pq.read_table(path / "places.parquet")
        self.lonlat = points_from_wkb(self.places["geometry"])
        self.place_id = np.array(self.places["place_id"].to_pylist(), dtype=str)
        self._rows = {modality: np.full(len(self), -1) for modality in ("text", *self.imagery)}
        self._images: dict[str, np.ndarray] = {}
        self._dates: dict[str, np.ndarray] = {}
        if manifest["counts"]["texts"]:
            meta = self._texts = pq.read_metadata(path / "texts.parquet")
            rows = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
            self._starts = np.cumsum([0, *rows])
            self._locate("text", pq.read_table(path / "texts.parquet", columns=["place_id"]))
        for name in self.imagery:
            file = path / "images" / f"{name}.npy"
            array = np.load(file, mmap_mode="r", allow_pickle=False)
            self._images[name] = np.asarray(array)  # an ndarray, so that batches are too
            table = pq.read_table(file.with_suffix(".parquet"))
            self._dates[name] = np.array(table["date"].to_pylist(), dtype=object)
            self._locate(name, table)

    @classmethod
    def open(cls, path: str | Path, verify: bool | str = True) -> PlaceStore:
        """Open a place store; StoreError if it is damaged or of another version.

        Args:
            path: the folder.
            verify: True checks sizes, and the hashes of all but the image arrays; "full" hashes these too,
                and the files for people (.md); False checks nothing.
        """
        path = Path(path)
        manifest = _read_manifest(path)
        try:
            if verify:
                _check_files(path, manifest, full=verify == "full")
            return cls(path, manifest)
        except StoreError:
            raise
        except (OSError, LookupError, ValueError, TypeError, AttributeError, pa.ArrowException) as error:
            raise StoreError(f"{path}: cannot be read ({error}); {REMEDY}") from error

    def __reduce__(self) -> tuple:
        return PlaceStore.open, (self.path, False)  # else a memory map would be pickled with all its pixels

    def __len__(self) -> int:
        return len(self.places)

    def __repr__(self) -> str:
        counts = self.manifest["counts"]
        return f"PlaceStore({str(self.path)!r}: {len(self)} places, {counts['texts']} texts, {counts['images']} images)"

    @property
    def columns(self) -> list[str]:
        """List the columns of the places, without the geometry."""
        return [name for name in self.places.column_names if name != "geometry"]

    def column(self, name: str) -> np.ndarray:
        """Read a column (n,) of the places: float64 with NaN, or str with None; else StoreError.

        Whole numbers beyond 2**53, which float64 would round, are str.
        """
        if name not in self.columns:
            names = ", ".join(self.columns)
            raise StoreError(f"{self.path / 'places.parquet'}: no column {name!r}; there are {names}")
        column = self.places[name]
        try:
            if not pa.types.is_string(column.type):
                return column.cast(pa.float64()).to_numpy().astype(np.float64)
        except pa.ArrowInvalid:  # beyond 2**53
            column = column.cast(pa.string())
        return np.array(column.to_pylist(), dtype=object)

    @property
    def modalities(self) -> list[str]:
        """List what its places have: "location", "text" if there is one, and the image modalities."""
        return ["location", *(["text"] if self.has("text").any() else []), *self.imagery]

    def has(self, modality: str) -> np.ndarray:
        """Tell which places (n,) have a modality of the store, or "text"; others are a StoreError."""
        if modality == "location":
            return np.ones(len(self), dtype=bool)
        self._check(modality)
        return self._rows[modality] >= 0

    def simulated(self, modality: str) -> bool:
        """Tell whether a modality is simulated; False for one that the store lacks."""
        return self._simulated.get(modality, False)

    def texts(self, rows: ArrayLike) -> list[str]:
        """Read the texts of places."""
        return self.text_column("text", rows)

    def text_column(self, name: str, rows: ArrayLike) -> list:
        """Read a column of ``texts.parquet`` (``lang``, ``facts``, ...) of places."""
        rows = self._taken("text", rows)
        if not len(rows):
            return []
        # Nothing stays open, so threads and forked processes may share a store. With pre_buffer, all
        # that was read would stay in memory until the file is closed.
        path = self.path / "texts.parquet"
        file = pq.ParquetFile(path, metadata=self._texts, memory_map=True, pre_buffer=False)
        values: list = [None] * len(rows)
        group = np.searchsorted(self._starts, rows, "right") - 1
        order = np.argsort(group, kind="stable")
        for at in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
            number = int(group[at[0]])
            column = file.read_row_group(number, [name], use_threads=False).column(0)
            found = column.take(rows[at] - self._starts[number])
            for i, value in zip(at, found.to_pylist(), strict=True):
                values[i] = value
        return values

    def images(self, modality: str, rows: ArrayLike) -> np.ndarray:
        """Read the images (k, band, H, W) of places in an image modality; see :class:`Images`."""
        rows = self._taken(modality, rows)
        return self._images[modality][rows]

    def image_dates(self, modality: str, rows: ArrayLike) -> list[str]:
        """Read the dates of places' images in an image modality: ISO 8601, or "" where not known."""
        rows = self._taken(modality, rows)
        return self._dates[modality][rows].tolist()

    def to_xarray(self, modality: str = "sentinel2") -> Any:
        """Describe images (place, band, y, x) as a lazy :class:`xarray.Dataset`; StoreError if none."""
        import xarray

        self._check(modality)
        described, images = self.imagery[modality], self._images[modality]
        rows = np.argsort(self._rows[modality])[-len(images) :]
        coordinates = {
            "place": self.place_id[rows],
            "band": described["bands"],
            "lon": ("place", self.lonlat[rows, 0]),
            "lat": ("place", self.lonlat[rows, 1]),
            "date": ("place", self._dates[modality].astype(str)),
        }
        # netCDF has no booleans.
        attributes = {name: described[name] for name in ("gsd_m", "scale")}
        attributes["simulated"] = int(self.simulated(modality))
        return xarray.Dataset({modality: (("place", "band", "y", "x"), images, attributes)}, coordinates)

    def _check(self, modality: str) -> None:
        if modality not in self._rows:
            there = ", ".join(self.modalities)
            raise StoreError(f"{self.path}: no modality {modality!r}; there are {there}")

    def _locate(self, modality: str, table: pa.Table) -> None:
        """Find for each place the row of its text or image."""
        places = pc.index_in(table["place_id"], self.places["place_id"].combine_chunks())
        self._rows[modality][places.to_numpy()] = np.arange(len(table))

    def _taken(self, modality: str, rows: ArrayLike) -> np.ndarray:
        """Return the rows of texts or images that belong to rows of places."""
        self._check(modality)
        rows = row_numbers(rows, len(self))
        taken = self._rows[modality][rows]
        if (taken < 0).any():
            row = int(rows[np.argmax(taken < 0)])
            where = f"{self.path}: row {row} ({self.place_id[row]})"
            raise StoreError(f"{where} has no {modality}; take rows of has({modality!r})")
        return taken


def check_store(path: str | Path) -> str:
    """Check every byte of a store against its hash, and describe it in three lines."""
    store = PlaceStore.open(path, verify="full")
    files, kinds = store.manifest["files"], []
    for modality in store.modalities:
        how = "simulated" if store.simulated(modality) else "as observed"
        kinds.append(f"{store.has(modality).sum():,} {modality} {how}")
    size = sum(entry["bytes"] for entry in files.values()) / 1e6
    return (
        f"{path}: a complete place store, schema {SCHEMA_VERSION}, data hash {store.data_hash[:16]}\n"
        f"{', '.join(kinds)}\n{len(files)} files, {size:,.1f} MB, all hashes agree"
    )


def _read_manifest(path: Path) -> dict:
    file = path / "manifest.json"
    if (path / "config.yaml").is_file() and (path / "metrics.jsonl").is_file():
        raise StoreError(f"{path}: this is a trained run, not a place store; give the data")
    if not path.is_dir():
        raise StoreError(f"{path}: no such place store; to make one, see geonb data --help")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8-sig"))
        version = manifest["schema_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{file}: missing or not a manifest ({error}); {REMEDY}") from None
    if version != SCHEMA_VERSION:
        made = json.dumps(manifest.get("made") or "with write_store", ensure_ascii=False)
        raise StoreError(
            f"{file}: schema version {version}, but this GeoNB reads {SCHEMA_VERSION}; remove {path} "
            f"and make the store again. It was made so: {made[:500]}"
        )
    return manifest


def _check_files(path: Path, manifest: dict, full: bool) -> None:
    for name, entry in manifest["files"].items():
        file = path / name
        if file.suffix == ".md" and not full:  # for people, who may edit it
            continue
        size = file.stat().st_size if file.is_file() else None
        if size != entry["bytes"]:
            found = "missing" if size is None else f"{size} of {entry['bytes']} bytes"
            raise StoreError(f"{file}: {found}; {REMEDY}")
        if (full or file.suffix != ".npy") and _file_hash(file) != entry["sha256"]:
            raise StoreError(f"{file}: changed, its SHA-256 differs; {REMEDY}")


def _file_hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_store(
    path: str | Path,
    *,
    places: Mapping[str, Sequence | np.ndarray],
    texts: Mapping[str, Sequence] | pa.Table | Iterable[Mapping[str, Sequence] | pa.Table] | None = None,
    images: Mapping[str, Images] | None = None,
    facts: dict[str, dict] | None = None,
    simulated: dict[str, bool] | None = None,
    made: dict | None = None,
    datacard: str | Callable[[pa.Table], str] = "",
) -> PlaceStore:
    """Write a place store beside ``path`` and rename it; if anything fails, nothing is left behind.

    Args:
        path: the folder to make; it must not exist, or be empty.
        places: columns (n,): ``place_id`` (unique str), ``lon``, ``lat`` (degrees), and if known
            ``title``, ``source``, ``license`` and facts (numbers or str; NaN or None if missing).
        texts: columns of :data:`TEXT_SCHEMA`, or an iterable of such tables, which is streamed.
        images: :class:`Images` by modality; those called "sentinel2" must be reflectance x 10,000.
        facts: see :class:`PlaceStore`; each is a column of the places.
        simulated: modalities that are simulated.
        made: how the store was made, for the manifest.
        datacard: Markdown, or a function that makes it of the finished places.

    Raises:
        StoreError: values that do not fit, a full disk, or a path that exists.
        ValueError: positions out of range.
    """
    path = Path(path)
    if path.is_dir() and not any(path.iterdir()):
        path.rmdir()
    if path.exists():
        raise StoreError(f"{path}: exists already; remove it or choose another folder")
    place_id, lonlat, columns = _take_places(places)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        partial.mkdir()
        content, described = hashlib.sha256(), {}
        count = _write_texts(partial / "texts.parquet", texts, place_id) if texts is not None else 0
        for name, given in (images or {}).items():
            if not len(given.rows):
                continue
            described[name], more = _write_images(partial, name, given, place_id, content)
            if clash := more.keys() & columns.keys():
                raise StoreError(f"{name}: images bring a column {min(clash)!r}, which there is already")
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
                chunks = (batch.column(0) for batch in batches)
                _hash_column(content, TEXT_SCHEMA.field(name), count, chunks)
            write_credits(partial, table)
        card = datacard(table) if callable(datacard) else datacard
        (partial / "datacard.md").write_text(card or "# Place store\n", encoding="utf-8")
        if unknown := (facts or {}).keys() - set(table.column_names):
            names = ", ".join(table.column_names)
            raise StoreError(f"fact {min(unknown)!r} is no column of the places; there are {names}")
        manifest: dict[str, Any] = {
            "format": "GeoNB place store",
            "schema_version": SCHEMA_VERSION,
            "counts": {"places": len(table), "texts": count, "images": sum(d["shape"][0] for d in described.values())},
            "simulated": {m: bool((simulated or {}).get(m, False)) for m in ("location", "text", *described)},
            "images": described,
            "facts": facts or {},
            "made": made or {},
            "data_hash": content.hexdigest(),
            "files": {},
        }
        for file in sorted(partial.rglob("*.*")):
            entry = {"bytes": file.stat().st_size, "sha256": _file_hash(file)}
            manifest["files"][file.relative_to(partial).as_posix()] = entry
        text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
        (partial / "manifest.json").write_text(text, encoding="utf-8")
        partial.rename(path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StoreError(f"{path}: the disk is full; free some space") from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return PlaceStore.open(path, verify=False)


def _take_places(places: Mapping[str, Any]) -> tuple[pa.Array, np.ndarray, dict[str, pa.Array]]:
    """Check identifiers and positions; return them and the other columns."""
    for name in ("place_id", "lon", "lat"):
        if name not in places:
            raise StoreError(f"places: no column {name!r}; every place needs place_id, lon and lat")
    place_id = _column("places", "place_id", places["place_id"], pa.string())
    if not len(place_id):
        raise StoreError("places: no rows; a store needs at least one place")
    first: dict[str, int] = {}
    for row, name in enumerate(place_id.to_pylist()):
        if not (name or "").strip() or first.setdefault(name, row) != row:
            raise StoreError(f"places: row {row}: place_id {name!r} is empty or not unique")
    columns = dict.fromkeys(("title", "source", "license"), pa.nulls(len(place_id), pa.string()))
    for name, values in places.items():
        if np.ndim(values) > 1:
            raise StoreError(f"places: column {name!r} has shape {np.shape(values)}; give one value per place")
        if len(values) != len(place_id):
            raise StoreError(f"places: column {name!r} has {len(values)} values, place_id {len(place_id)}")
        if name not in ("place_id", "lon", "lat", "geometry"):
            columns[name] = _column("places", name, values, columns[name].type if name in columns else None)
    lonlat = np.stack([_degrees(name, places[name]) for name in ("lon", "lat")], 1)
    return place_id, check_lonlat(lonlat, "places"), columns


def _degrees(name: str, values: Any) -> np.ndarray:
    column = _column("places", name, values)
    if pa.types.is_float16(column.type):
        raise StoreError(f"places: {name} is in half precision, which is off by kilometres; give float64")
    return column.to_numpy(zero_copy_only=False)


def _column(where: str, name: str, values: Any, kind: pa.DataType | None = None) -> pa.Array:
    """Make a column of numbers or str; what :func:`is_missing` finds is missing, dates and identifiers are str."""
    values = values.numpy() if hasattr(values, "detach") else values  # a tensor
    found = values
    try:
        if not isinstance(values, (pa.Array, pa.ChunkedArray)):
            try:
                values = pa.array(values, from_pandas=True)
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):  # numbers and words, or beyond 64 bits
                values = _words(found)
        if isinstance(values, pa.ChunkedArray):
            values = values.combine_chunks()
        if isinstance(values, pa.ExtensionArray) or pa.types.is_duration(values.type):  # months, UUIDs, spans of time
            values = _words(values.to_pylist() if isinstance(found, (pa.Array, pa.ChunkedArray)) else found)
        if pa.types.is_floating(values.type):
            values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
            kind = kind or values.type
        if pa.types.is_integer(values.type) or pa.types.is_boolean(values.type):
            kind = kind or values.type
        return values.cast(kind or pa.string())
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise StoreError(f"{where}: column {name!r}: give numbers or str ({error})") from None


def _words(values: Iterable) -> pa.Array:
    return pa.array([None if is_missing(value) else str(value) for value in values], pa.string())


def _write_texts(file: Path, texts: Any, place_id: pa.Array) -> int:
    """Stream texts into a file; return how many there are."""
    without, count = set(place_id.to_pylist()), 0
    repeated = ["lang", "license", "source"]
    with pq.ParquetWriter(file, TEXT_SCHEMA, compression="zstd", use_dictionary=repeated) as writer:
        for part in [texts] if isinstance(texts, (Mapping, pa.Table)) else texts:
            names = part.column_names if isinstance(part, pa.Table) else list(part)
            if not {"place_id", "text"} <= set(names) <= set(TEXT_SCHEMA.names):
                known = ", ".join(TEXT_SCHEMA.names)
                raise StoreError(f"texts: columns {names}; needed are place_id and text, of {known}")
            if len({len(part[name]) for name in names}) > 1:
                raise StoreError(f"texts: columns of {', '.join(str(len(part[name])) for name in names)} values")
            columns = dict.fromkeys(TEXT_SCHEMA.names, pa.nulls(len(part["text"])))
            for name in names:
                columns[name] = _column("texts", name, part[name], TEXT_SCHEMA.field(name).type)
            table = pa.table(columns).cast(TEXT_SCHEMA)
            for name, text in zip(table["place_id"].to_pylist(), table["text"].to_pylist(), strict=True):
                if not (text or "").strip():
                    raise StoreError(f"texts: row {count}: empty text; leave the row out")
                if name not in without:
                    raise StoreError(f"texts: row {count}: {name!r} is no place, or has two texts")
                without.remove(name)
                count += 1
            writer.write_table(table, row_group_size=TEXTS_PER_GROUP)
    if not count:
        file.unlink()
    return count


def _write_images(
    folder: Path, name: str, given: Images, place_id: pa.Array, content: Any
) -> tuple[dict, dict[str, pa.Array]]:  # fmt: skip
    """Stream an array and its table; return its entry in the manifest and the columns beside it."""
    if not name.isidentifier() or name in ("location", "text"):
        raise StoreError(f"images: {name!r} cannot name a modality; take letters, such as sentinel2")
    rows = _take_image_rows(name, given.rows, len(place_id))
    names = place_id.take(rows).to_pylist()
    dates = [""] * len(rows) if given.dates is None else [as_text(date) for date in given.dates]
    if len(dates) != len(rows):
        raise StoreError(f"{name}: {len(rows)} images, but {len(dates)} dates")
    (folder / "images").mkdir(exist_ok=True)
    extra: dict[str, list[np.ndarray]] = {}
    seen, shape, dtype = 0, (), np.dtype(np.uint8)
    with (folder / "images" / f"{name}.npy").open("wb") as stream:
        for chunk in [given.chunks] if hasattr(given.chunks, "ndim") else given.chunks:
            chunk, columns = chunk if isinstance(chunk, tuple) else (chunk, {})
            if not len(chunk):
                continue
            chunk = _checked(name, chunk, given, seen)
            if shape and (chunk.shape[1:] != shape or chunk.dtype != dtype):
                found, before = f"{chunk.dtype} {chunk.shape[1:]}", f"{dtype} {shape}"
                raise StoreError(f"{name}: from image {seen} on {found}, those before {before}; make all alike")
            if not shape:
                shape, dtype = chunk.shape[1:], chunk.dtype.newbyteorder("<")
                _check_room(folder, name, len(rows) * math.prod(shape) * dtype.itemsize)
                header = {"descr": dtype.str, "fortran_order": False, "shape": (len(rows), *shape)}
                np.lib.format.write_array_header_1_0(stream, header)
                about = [name, names, dates, float(given.gsd_m), given.scale, list(given.bands)]
                content.update(json.dumps(about, ensure_ascii=False).encode())
            for column, values in columns.items():
                extra.setdefault(column, []).append(np.asarray(values))
            pixels = np.ascontiguousarray(chunk, dtype)
            stream.write(pixels.data)
            content.update(pixels)
            seen += len(chunk)
    if seen != len(rows) or not seen:
        raise StoreError(f"{name}: {seen} images, but {len(rows)} rows of places for them")
    table = pa.table({"place_id": names, "date": dates})
    pq.write_table(table, folder / "images" / f"{name}.parquet", compression="zstd")
    at = np.full(len(place_id), -1)
    at[rows] = np.arange(len(rows))
    of_place, more = pa.array(at, mask=at < 0), {}
    for column, values in extra.items():
        more[column] = _column(name, column, np.concatenate(values)).take(of_place)
    described = {"bands": list(given.bands), "scale": given.scale, "gsd_m": float(given.gsd_m), "dtype": dtype.name}
    return described | {"shape": [len(rows), *shape]}, more


def _take_image_rows(name: str, rows: Any, places: int) -> np.ndarray:
    rows = np.asarray(rows, dtype=np.int64)
    taken, counts = np.unique(rows, return_counts=True)
    if (wrong := (taken < 0) | (taken >= places) | (counts > 1)).any():
        row = taken[np.argmax(wrong)]
        raise StoreError(f"{name}: rows has {row}: no row of {places} places, or two images of one")
    return rows


def _checked(name: str, chunk: Any, given: Images, first: int) -> np.ndarray:
    """Check images (k, band, H, W), and the values of Sentinel-2; ``first`` is the number of the first."""
    if name == "sentinel2":
        try:
            chunk = check_shape(chunk, least=1)
        except ValueError as error:
            raise StoreError(f"{name}: from image {first} on: {error}") from None
        if chunk.dtype != np.uint16:
            raise StoreError(f"{name}: from image {first} on: {chunk.dtype}; give uint16, reflectance x 10,000")
        check_scaling(name, chunk, first)
    chunk = np.asarray(chunk)
    if chunk.ndim != 4 or chunk.shape[1] != len(given.bands) or chunk.dtype not in (np.uint8, np.uint16):
        wanted = f"uint8 or uint16 (n, {len(given.bands)}, H, W)"
        raise StoreError(f"{name}: from image {first} on: {chunk.dtype} {chunk.shape}; give {wanted}")
    return chunk


def _check_room(folder: Path, name: str, size: int) -> None:
    """Say what an array of ``size`` bytes will take, and refuse it where the disk has no room for it."""
    free = shutil.disk_usage(folder).free
    if size > free:
        need = f"the images of {name} need {size / 1e6:,.1f} MB and {free / 1e6:,.1f} MB are free"
        raise StoreError(f"{folder.parent}: {need}; free some space, or choose another folder")
    if size > SAID_FROM:
        print(f"{name}: the images take {size / 1e6:,.1f} MB", file=sys.stderr)


def check_scaling(where: str, images: np.ndarray, first: int) -> None:
    """Refuse images (n, band, H, W) that are no reflectance x 10,000, by a StoreError from ``first`` on."""
    flat = images.reshape(len(images), -1)
    top, mean = flat.max(1), flat.mean(1, dtype=np.float64)
    brightest = MAX_REFLECTANCE * SCALE
    for wrong, what in (
        (top == 0, "is all zero (no data); leave it out"),
        (top <= 255, "has nothing above 255; use reflectance x 10000"),
        (mean > brightest, f"has a mean above {brightest:.0f}; use reflectance x 10000"),
    ):
        if wrong.any():
            raise StoreError(f"{where}: image {first + int(np.argmax(wrong))} {what}")


def _hash_column(content: Any, field: pa.Field, length: int, chunks: Iterable[pa.Array]) -> None:
    """Add a column to the hash: floats as float64, geometries as they are, others as a JSON list."""
    content.update(f"{field.name}:{length}:".encode())
    opening = b"["
    for chunk in chunks:
        if pa.types.is_floating(field.type):
            values = chunk.cast(pa.float64()).to_numpy(zero_copy_only=False)
            content.update(values.astype("<f8"))
        elif pa.types.is_binary(field.type):
            content.update(b"".join(chunk.to_pylist()))
        else:
            content.update(opening + json.dumps(chunk.to_pylist(), ensure_ascii=False)[1:-1].encode())
            opening = b", "
    if opening == b", ":
        content.update(b"]")
