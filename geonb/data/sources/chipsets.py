"""Published sets of Sentinel-2 chips, read as they lie on the disk, into a place store.

==================  =================================================================================================
S2-100K             ``index.csv`` (fn, lon, lat) and GeoTIFFs ``patch_N.tif``, loose or in plain tar files
                    (https://huggingface.co/datasets/torchgeo/s2-100k; Klemmer et al., 2025, SatCLIP, AAAI 39, 4347)
SSL4EO-S12 1.0      ``s2a/0000000/20200403T101021_..._T33UUP/B1.tif`` ...: four seasons a location, a file a band
                    (https://github.com/zhu-xlab/SSL4EO-S12; Wang et al., 2023, IEEE GRSM 11, 98)
SSL4EO-S12 1.1      ``S2L2A/*.zarr.zip`` of 64 locations each, or tar files of one ``.zarr.zip`` a location
                    (https://github.com/DLR-MF-DAS/SSL4EO-S12-v1.1; Blumenstiel et al., 2025, arXiv:2503.00168)
Major TOM           Core-S2L2A: ``metadata.parquet`` and ``images/part_N.parquet`` with a GeoTIFF a band and row
                    (https://huggingface.co/datasets/Major-TOM/Core-S2L2A; Francis & Czerkawski, 2024, IGARSS)
==================  =================================================================================================

The files are not trusted: nothing is unpacked to the disk, no name in a file leads anywhere, sizes are looked at before
anything is read, and only plain numbers are decoded. What cannot be used is left out and counted by reason.

A set is read twice. The first reading keeps, part by part, a row a chip (:mod:`geonb.data.work`), so it can be stopped
and goes on; the second, when all rows are known, brings the images into the store. Memory holds a few dozen chips.
The sets were read from files made after their documentation, and S2-100K from twelve of its own; none of the full
downloads was at hand.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import lzma
import math
import os
import re
import stat
import tarfile
import threading
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from geonb._coords import great_circle_km
from geonb._progress import tqdm
from geonb.data._raster import raster_errors
from geonb.data.radiometry import BANDS, OFFSET, OFFSET_FROM, SCALE, radiometric_offset
from geonb.data.store import MAX_REFLECTANCE, PlaceStore, write_store
from geonb.data.work import Skips, Work, WorkError, acquire

MAX_BYTES = 64 << 20  # of one file, member or cell; the largest there are have some 20 MB
MAX_EDGE = 4096  # pixels, of an image or of a block in it
MAX_CHUNK = 256 << 20  # bytes of one unpacked Zarr chunk; 64 locations of SSL4EO-S12 1.1 have 107 MB
FAR_KM = 5.0
PART = 256  # chips read before their rows are kept
AHEAD = 16  # chips read ahead
BATCH = 32  # chips handed to the store at a time

_TIF = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}\.tif")
_SCENE = re.compile(r"(\d{4})(\d{2})(\d{2})T\d{6}")
_LOCATION = re.compile(r"\d{7}")
_BASELINE = re.compile(r"_N(\d{2})(\d{2})_")
_CELL = re.compile(r"\d{1,4}[UD]_\d{1,4}[LR]")
_LONG_NAMES = [f"B{int(band[1:]):02d}" if band[1:].isdigit() else band for band in BANDS]


class _Unfit(Exception):
    """One chip that cannot be used: the reason, which is counted, and what to look at."""

    def __init__(self, reason: str, example: str = "") -> None:
        super().__init__(reason)
        self.reason, self.example = reason, example


@dataclass
class _Found:
    """A chip as its set has it: uint16 (12, H, W), the position of its centre in degrees, ISO date, and facts."""

    image: np.ndarray
    lon: float
    lat: float
    date: str
    columns: dict[str, float | str | None]


_Part = Callable[[Skips], Iterable[tuple[str, Callable[[], _Found]] | None]]
"""Some chips of a set: the name of each, and the function that reads it or raises :class:`_Unfit`.

Functions are called from several threads, a few later than they were given; None calls those that are waiting first.
"""


# --- the three sets -------------------------------------------------------------------------------------


def from_s2_100k(
    out: str | Path,
    folder: str | Path,
    *,
    size: int | None = None,
    limit: int | None = None,
    harmonise: bool = True,
    progress: bool = True,
) -> PlaceStore:
    """A place store of S2-100K: 100,000 chips over land, 256 x 256 pixels of 10 m, 2021 to 2023.

    Dates are not part of the set. A chip stands where the index says; where the file's own georeference says otherwise
    by more than 5 km, it stands where the file says, with a ``position_flag``. ``index_km`` is that distance.

    Args:
        out: the store's folder. Unfinished work lies in ``<out>.work``; the same call goes on from it.
        folder: holds ``index.csv`` and, at any depth, GeoTIFFs, plain tar files of GeoTIFFs, or both.
        size: edge of the square in the middle that is kept, in pixels; by default all 256.
        limit: stop after so many chips, in the order of the files' names.
        harmonise: take off the offset of +1000 that newer processing brought, where the pixels show it
            (:func:`geonb.data.radiometry.radiometric_offset`); what was taken off is in ``offset_removed``.
        progress: show a bar.

    Raises:
        ValueError: no index, one that cannot be read, or no image file. ImportError without rasterio.
        WorkError: no chip could be used, or see :class:`geonb.data.work.Work`.
    """
    _need_rasterio()
    folder, size, skips = _folder(folder), _size(size, 256), Skips()
    index = _read_index(folder / "index.csv", skips)
    entries, files = [], [folder / "index.csv"]
    for path in _walk(folder, skips):
        if path.name.endswith(".tif"):
            files.append(path)
            entries.append(_Entry(path.name, path, 0, path.stat().st_size))
        elif path.name.endswith(".tar"):
            files.append(path)
            entries += _tar_entries(path, _TIF, skips)
        elif path.name.endswith((".tar.gz", ".tgz", ".tar.zst")):
            skips.add("a compressed tar file; unpack it to a plain .tar first", _shown(path.name))
    if not entries and not skips.counts:
        raise ValueError(f"{folder}: neither GeoTIFFs nor tar files of them; give the folder that has the images")
    known = []
    for entry in entries:
        if entry.name in index:
            known.append(entry)
        else:
            skips.add("a file that is not in the index", entry.where)
    skips.add("in the index, but its file is not here", n=len(index.keys() - {entry.name for entry in known}))

    def part(group: Sequence[_Entry]) -> _Part:
        return lambda _: ((entry.name, partial(take, entry)) for entry in group)

    def take(entry: _Entry) -> _Found:
        image, lon, lat, epsg, gsd = _one_tif(_entry_bytes(entry), size)
        if not math.isclose(gsd, 10, rel_tol=1e-3):
            raise _Unfit("its pixels are not 10 m wide", entry.where)
        image, columns = _harmonise(image, None, harmonise)
        away = float(great_circle_km(index[entry.name], (lon, lat)))
        columns |= {"item": entry.name, "index_km": away, "epsg": epsg, "position_flag": None}
        if away <= FAR_KM:
            lon, lat = index[entry.name]
        else:
            columns["position_flag"] = "the index says otherwise"
        return _Found(image, lon, lat, "", columns)

    return _make(
        out, [part(group) for group in _groups(known, PART)], skips, size, limit, progress, len(known),
        plan={"set": "s2-100k", "size": size, "limit": limit, "harmonise": harmonise, "files": _digest(folder, files)},
        prefix="s2-100k", ending=".tif", title="S2-100K",
        source="S2-100K (Klemmer et al., 2025), from Sentinel-2 L2A of the Planetary Computer, 2021 to May 2023",
        license="MIT (set); contains modified Copernicus Sentinel data 2021-2023",
    )  # fmt: skip


def from_ssl4eo(
    out: str | Path,
    folder: str | Path,
    *,
    season: int | str = "clearest",
    size: int | None = None,
    limit: int | None = None,
    harmonise: bool = True,
    progress: bool = True,
) -> PlaceStore:
    """A place store of SSL4EO-S12 L2A, version 1.0 or 1.1: one of the four seasons of each location.

    Bands of 20 and 60 m are repeated to 10 m. Version 1.0 says the processing baseline in each scene's
    ``metadata.json``, and Earth Engine's collection had no offset before 2022-01-25. The published means of version 1.1
    differ by exactly 1000 in all bands between its two forms: files of 64 locations carry the offset, tar files of one
    location each do not. A chip whose pixels contradict that keeps its values (``offset_declared`` 1000,
    ``offset_removed`` 0).

    Args:
        out: the store's folder. Unfinished work lies in ``<out>.work``; the same call goes on from it.
        folder: of version 1.0 the one with ``s2a`` or that folder itself; of version 1.1 the one with ``.zarr.zip``
            or tar files, at any depth. Of folders named after a modality only ``S2L2A`` is read.
        season: 0 to 3 in the order of dates, or "clearest": the fewest clouds, which in version 1.0 are those of the
            whole scene (CLOUDY_PIXEL_PERCENTAGE), in 1.1 those of the chip (classes 3 and 4 of its cloud mask, taken
            for thin and thick cloud; no document at hand confirms it). ``cloud_share`` has the share either way.
        size: edge of the square in the middle that is kept, in pixels; by default all 264.
        limit, harmonise, progress: as in :func:`from_s2_100k`.

    Raises:
        ValueError: an unknown season, or a folder in none of the layouts. ImportError without rasterio (version 1.0).
        WorkError: no chip could be used, or see :class:`geonb.data.work.Work`.
    """
    if season != "clearest" and season not in (0, 1, 2, 3):
        raise ValueError(f"unknown season {season!r}; choose 0, 1, 2, 3 (in the order of dates) or clearest")
    folder, size, skips = _folder(folder), _size(size, 264), Skips()
    options = {"season": season, "size": size, "harmonise": harmonise}
    top = next((d for d in (folder / "s2a", folder / "s2_l2a", folder) if _locations(d)), None)
    if top is not None:
        _need_rasterio()
        places = _locations(top)
        files, total, version = places, len(places), "1.0"
        parts = [_seasons_part(group, options) for group in _groups(places, PART)]
    else:
        version, files, entries, parts = "1.1", [], [], []
        for path in _walk(folder, skips):
            if path.parent.name in ("S1GRD", "S2L1C", "S2RGB", "NDVI", "DEM", "LULC", "captions"):
                continue
            if path.name.endswith(".zarr.zip"):
                files.append(path)
                parts.append(_zarr_part(path, options))
            elif path.name.endswith(".tar"):
                files.append(path)
                entries += _tar_entries(path, re.compile(r"[A-Za-z0-9_-]{1,80}\.zarr\.zip"), skips)
        parts += [_members_part(group, options) for group in _groups(entries, PART)]
        total = None
        if not parts:
            raise ValueError(
                f"{folder}: no SSL4EO-S12 L2A here; version 1.0 has s2a/0000000/..., version 1.1 .zarr.zip or tar files"
            )
    return _make(
        out, parts, skips, size, limit, progress, total,
        plan={"set": f"ssl4eo-s12 {version}", "limit": limit, "files": _digest(folder, files), **options},
        prefix="ssl4eo", ending=".zarr.zip", title=f"SSL4EO-S12 {version}",
        source=f"SSL4EO-S12 {version}, Sentinel-2 L2A (Wang et al., 2023; Blumenstiel et al., 2025)",
        license="CC BY 4.0 (set); contains modified Copernicus Sentinel data",
    )  # fmt: skip


def from_major_tom(
    out: str | Path,
    folder: str | Path,
    *,
    size: int | None = None,
    max_cloud_share: float = 0.2,
    max_nodata_share: float = 0.0,
    limit: int | None = None,
    harmonise: bool = True,
    progress: bool = True,
) -> PlaceStore:
    """A place store of Major TOM Core-S2L2A: the middle of each grid cell of which a file is on the disk.

    Of several acquisitions of a cell the clearest is taken. Bands of 20 and 60 m are repeated to 10 m. The offset is
    told from the processing baseline in the product's name (04.00 and later carry it), and where that says nothing
    (N9999), from the pixels; a chip whose pixels contradict the name keeps its values.

    Args:
        out: the store's folder. Unfinished work lies in ``<out>.work``; the same call goes on from it.
        folder: holds ``metadata.parquet`` and, at any depth, some of the files ``part_N.parquet``.
        size: edge of the square in the middle that is kept, in pixels of 10 m; by default 256 of the 1068.
        max_cloud_share, max_nodata_share: of the whole cell, 0 to 1, as the metadata have them; cells with more are
            left out.
        limit, harmonise, progress: as in :func:`from_s2_100k`.

    Raises:
        ValueError: no metadata, or metadata without the columns of the set. ImportError without rasterio.
        WorkError: no chip could be used, or see :class:`geonb.data.work.Work`.
    """
    _need_rasterio()
    folder, size, skips = _folder(folder), _size(size, 256), Skips()
    files = {p.name: p for p in _walk(folder, skips) if p.suffix == ".parquet" and p.name != "metadata.parquet"}
    rows = _read_cells(folder / "metadata.parquet", files, max_cloud_share, max_nodata_share, skips)
    parts = []
    for name in sorted(rows):
        parts += [_cells_part(files[name], group, size, harmonise) for group in _groups(rows[name], PART)]
    used = [folder / "metadata.parquet", *(files[name] for name in sorted(rows))]
    plan = {
        "set": "major-tom core-s2l2a", "size": size, "max_cloud_share": max_cloud_share,
        "max_nodata_share": max_nodata_share, "limit": limit, "harmonise": harmonise, "files": _digest(folder, used),
    }  # fmt: skip
    return _make(
        out, parts, skips, size, limit, progress, sum(map(len, rows.values())), plan=plan,
        prefix="majortom", ending="", title="Major TOM Core-S2L2A",
        source="Major TOM Core-S2L2A (Francis & Czerkawski, 2024; ESA Phi-lab), Sentinel-2 L2A",
        license="CC BY-SA 4.0 (set); contains modified Copernicus Sentinel data",
    )  # fmt: skip


# --- two readings, one store ----------------------------------------------------------------------------


def _make(
    out: str | Path,
    parts: list[_Part],
    listing: Skips,
    size: int,
    limit: int | None,
    progress: bool,
    total: int | None,
    *,
    plan: dict,
    prefix: str,
    ending: str,
    title: str,
    source: str,
    license: str,
) -> PlaceStore:
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 chip, not {limit}")

    def build(work: Work) -> PlaceStore:
        names = _survey(work, parts, size, limit, progress, total)
        skips = Skips(listing.counts, listing.examples)
        skips.update(work.skips(names))
        tables = [work.table(name) for name in names]
        found = pa.concat_tables(tables, promote_options="default") if tables else pa.table({"key": []})
        n = len(found)
        if not n:
            raise WorkError(f"{title}: no chip could be used\n{skips}")
        own = [name for name in found.column_names if name not in ("key", "lon", "lat", "date", "crc")]
        columns = {name: found[name].to_numpy() for name in own}
        columns = {name: values for name, values in columns.items() if found[name].null_count < n}
        key = [f"{prefix}-{name.removesuffix(ending)}" for name in found["key"].to_pylist()]
        return write_store(
            work.out,
            places={
                "place_id": key, "lon": found["lon"].to_numpy(), "lat": found["lat"].to_numpy(),
                "source": [source] * n, "license": [license] * n, **columns,
            },
            images=_images(work, names, parts, size, progress, n),
            image_rows=np.arange(n),
            dates=found["date"].to_pylist(),
            simulated={"location": False, "image": False},
            made=work.made(
                f"geonb.data.sources.chipsets ({title})", left_out=dict(sorted(skips.counts.items())),
                images={"source": source, "license": license},
            ),
            datacard=_card(title, found, skips, size, source, license),
        )  # fmt: skip

    return acquire(out, plan, build)


def _survey(
    work: Work, parts: list[_Part], size: int, limit: int | None, progress: bool, total: int | None
) -> list[str]:
    """The first reading: a part of rows for each part of the set, until the limit; returns their names."""
    seen: set[str] = set()
    names = []
    with tqdm(total=total, desc="looking at chips", unit="chip", disable=not progress) as bar:
        for number, part in enumerate(parts):
            if limit is not None and len(seen) >= limit:
                break
            name = f"chips/{number:06d}"
            if not work.done(name):
                skips, rows = Skips(), []
                left = None if limit is None else limit - len(seen)
                for key, found in islice(_read(part, lambda key: key not in seen, skips, size), left):
                    seen.add(key)
                    rows.append({
                        "key": key, "lon": found.lon, "lat": found.lat, "date": found.date,
                        "crc": zlib.crc32(found.image.data), **found.columns,
                    })  # fmt: skip
                    bar.update()
                work.put(name, _rows_table(rows), skips)
            else:
                seen.update(work.table(name)["key"].to_pylist())
                bar.update(len(seen) - bar.n)
            names.append(name)
    return names


def _rows_table(rows: list[dict]) -> pa.Table:
    columns = {}
    for name in rows[0] if rows else ():
        values = [row[name] for row in rows]
        text = name in ("key", "date") or any(isinstance(value, str) for value in values)
        columns[name] = pa.array(values, pa.string() if text else pa.int64() if name == "crc" else pa.float64())
        if not text and columns[name].null_count == len(rows):
            columns[name] = pa.nulls(len(rows))
    return pa.table(columns or {"key": pa.array([], pa.string())})


def _images(work: Work, names: list[str], parts: list[_Part], size: int, progress: bool, total: int) -> Iterator:
    """The second reading: the images of the rows that were kept, uint16 (k, 12, size, size) at a time."""

    def one_by_one() -> Iterator[np.ndarray]:
        for name, part in zip(names, parts, strict=False):
            table = work.table(name)
            expected = dict(zip(table["key"].to_pylist(), table["crc"].to_pylist(), strict=True)) if len(table) else {}
            left = len(expected)
            for key, found in islice(_read(part, expected.__contains__, Skips(), size), left):
                if zlib.crc32(found.image.data) != expected.pop(key):
                    break
                left -= 1
                yield found.image
            if left:
                raise WorkError(
                    f"the files of the set changed while they were read; remove {work.folder} and begin anew"
                )

    with tqdm(total=total, desc="chips", unit="chip", disable=not progress) as bar:
        for group in _groups(one_by_one(), BATCH):
            yield np.stack(group)
            bar.update(len(group))


def _read(part: _Part, wanted: Callable[[str], bool], skips: Skips, size: int) -> Iterator[tuple[str, _Found]]:
    """The chips of a part that are wanted and fit, in its order; some are read ahead, by several threads."""

    def one(take: Callable[[], _Found]) -> _Found | _Unfit:
        try:
            found = take()
            _check_chip(found, size)
        except _Unfit as unfit:
            return unfit
        found.columns["nodata_share"] = float((found.image == 0).all(0).mean())
        return found

    waiting: deque = deque()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            for item in chain(part(skips), [None]):
                if item is not None:
                    key, take = item
                    waiting.append((key, pool.submit(one, take) if wanted(key) else None))
                while waiting and (item is None or len(waiting) >= AHEAD):
                    key, reading = waiting.popleft()
                    if reading is None or not wanted(key):  # the first copy may have come while this one was read
                        skips.add("a second copy", _shown(key))
                        continue
                    found = reading.result()
                    if isinstance(found, _Unfit):
                        skips.add(found.reason, found.example or _shown(key))
                    else:
                        yield key, found
        finally:
            for _, reading in waiting:
                if reading is not None:
                    reading.cancel()


def _check_chip(found: _Found, size: int) -> None:
    image = found.image
    if image.shape != (len(BANDS), size, size) or image.dtype != np.uint16:
        raise _Unfit(f"{image.dtype} {image.shape}, not uint16 {(len(BANDS), size, size)}")
    if not image.any():
        raise _Unfit("no data in the whole chip")
    if image.max() <= 255:
        raise _Unfit("nothing above 255, so it is no reflectance x 10,000")
    if image.mean(dtype=np.float64) > MAX_REFLECTANCE * SCALE:
        raise _Unfit(f"brighter than {MAX_REFLECTANCE:g} on average, so it is no reflectance x 10,000")
    if not (math.isfinite(found.lon) and math.isfinite(found.lat) and abs(found.lon) <= 180 and abs(found.lat) <= 90):
        raise _Unfit("its position is not on Earth")


def _card(title: str, found: pa.Table, skips: Skips, size: int, source: str, license: str) -> str:
    dates = sorted(date for date in found["date"].to_pylist() if date)
    removed = found["offset_removed"].to_numpy()
    lines = [
        f"# {title}", "",
        f"{len(found):,} chips, {size} x {size} pixels of 10 m, 12 bands, surface reflectance x {SCALE}, "
        + (f"acquired from {dates[0]} to {dates[-1]}." if dates else "of unknown dates."), "",
        f"- Source: {source}.", f"- Licence: {license}.",
        f"- The offset of +{OFFSET} was taken off {np.count_nonzero(removed):,} chips.",
    ]  # fmt: skip
    if "offset_declared" in found.column_names:
        declared = found["offset_declared"].cast(pa.float64()).to_numpy()
        contradicted = np.count_nonzero((declared > 0) & (removed == 0))
        if contradicted:
            lines.append(f"- {contradicted:,} chips were said to carry it and do not, or it was left on them.")
    if "position_flag" in found.column_names:
        flagged = len(found) - found["position_flag"].null_count
        lines.append(f"- {flagged:,} chips lie more than {FAR_KM:g} km from where the list has them (`position_flag`).")
    return "\n".join([*lines, "", "## What was left out", "", "```", str(skips), "```"]) + "\n"


# --- files ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    """Bytes in a file: a whole file, or a member of a tar file; ``name`` is its base name."""

    name: str
    path: Path
    offset: int
    size: int

    @property
    def where(self) -> str:
        return _shown(self.name if self.path.name == self.name else f"{self.path.name}: {self.name}")


def _need_rasterio() -> None:
    try:
        import rasterio  # noqa: F401
    except ImportError as error:
        raise ImportError("reading GeoTIFFs needs rasterio: pip install 'geonb[acquire]'") from error


def _folder(folder: str | Path) -> Path:
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; download the set first")
    return folder


def _groups(items: Iterable, n: int) -> Iterator[list]:
    items = iter(items)
    while group := list(islice(items, n)):
        yield group


def _size(size: int | None, whole: int) -> int:
    if size is not None and not 1 <= size <= MAX_EDGE:
        raise ValueError(f"size must be from 1 to {MAX_EDGE} pixels, not {size}")
    return size or whole


def _walk(folder: Path, skips: Skips) -> Iterator[Path]:
    """The plain files in a folder, at any depth, in the order of their names."""
    for top, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(top) / name
            try:
                plain = stat.S_ISREG(path.stat().st_mode)
            except OSError:
                plain = False
            if plain:
                yield path
            else:
                skips.add("not a plain file", _shown(name))


def _digest(folder: Path, paths: Sequence[Path]) -> str:
    """Which files make the set: their names below the folder, and their sizes."""
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size if path.is_file() else 0
        digest.update(f"{path.relative_to(folder).as_posix()}\0{size}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _shown(name: str) -> str:
    """A name from outside, harmless in a text."""
    return "".join(c if c.isprintable() and c != "`" else "?" for c in name[:120])


def _file_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            about = os.fstat(stream.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise _Unfit("not a plain file", _shown(path.name))
            if about.st_size > MAX_BYTES:
                raise _Unfit(f"a file of more than {MAX_BYTES >> 20} MB", _shown(path.name))
            return stream.read()
    except FileNotFoundError:
        raise _Unfit("a file is missing", _shown(f"{path.parent.name}/{path.name}")) from None


def _entry_bytes(entry: _Entry) -> bytes:
    if entry.size > MAX_BYTES:
        raise _Unfit(f"a file of more than {MAX_BYTES >> 20} MB", entry.where)
    with entry.path.open("rb") as stream:
        stream.seek(entry.offset)
        data = stream.read(entry.size)
    if len(data) < entry.size:
        raise _Unfit("cut off: the file ends before it does", entry.where)
    return data


class _Headers(io.FileIO):
    """A tar file from which headers are read, and nothing large."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= 1 << 20:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size)


def _tar_entries(path: Path, pattern: re.Pattern, skips: Skips) -> list[_Entry]:
    """The members of a tar file whose base name fits; where each lies in it. Nothing is unpacked."""
    entries, length = [], path.stat().st_size
    try:
        with _Headers(path) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would keep all of them
                name = PurePosixPath(member.name)
                where = _shown(f"{path.name}: {member.name}")
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    skips.add("in a tar file: a link, a device or the like", where)
                elif name.is_absolute() or ".." in name.parts:
                    skips.add("in a tar file: a name that leaves its folder", where)
                elif member.size > MAX_BYTES:
                    skips.add(f"in a tar file: more than {MAX_BYTES >> 20} MB", where)
                elif member.offset_data + member.size > length:
                    skips.add("cut off: the file ends before it does", where)
                elif not pattern.fullmatch(name.name):
                    skips.add("in a tar file: not named as an image of the set", where)
                else:
                    entries.append(_Entry(name.name, path, member.offset_data, member.size))
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        skips.add("a tar file that is damaged from some point on", _shown(f"{path.name}: {error}"))
    return entries


# --- GeoTIFFs -------------------------------------------------------------------------------------------


@contextmanager
def _open_tif(data: bytes, bands: int) -> Iterator[Any]:
    """A GeoTIFF in memory, whose header makes no claims that reading could not bear."""
    from rasterio.io import MemoryFile

    if not data:
        raise _Unfit("an empty file")
    try:
        # By name of the driver: other formats may refer to files and addresses elsewhere.
        with MemoryFile(data) as memory, memory.open(driver="GTiff") as source:
            blocks = [edge for block in source.block_shapes for edge in block]
            if max(source.width, source.height, *blocks) > MAX_EDGE:
                raise _Unfit(f"claims more than {MAX_EDGE} pixels in a row")
            if source.count != bands:
                raise _Unfit(f"{source.count} bands, not {bands}")
            if set(source.dtypes) - {"uint16", "int16"}:
                raise _Unfit(f"pixels are {source.dtypes[0]}, not uint16")
            if source.crs is None:
                raise _Unfit("no reference system, so it has no position")
            a, b, _, d, e, _ = source.transform[:6]
            if source.transform.is_identity:
                raise _Unfit("not georeferenced, so it has no position")
            if b or d or not (a > 0 > e):
                raise _Unfit("not north up")
            yield source
    except raster_errors(MemoryError) as error:
        raise _Unfit("cannot be read as a GeoTIFF; it may be damaged") from error


def _one_tif(data: bytes, size: int) -> tuple[np.ndarray, float, float, float, float]:
    """The middle of a GeoTIFF of 12 bands: image, longitude and latitude of its centre, EPSG code, pixel size."""
    from rasterio.windows import Window

    with _open_tif(data, len(BANDS)) as source:
        if min(source.width, source.height) < size:
            raise _Unfit(f"{source.width} x {source.height} pixels, smaller than {size}")
        left, top = (source.width - size) // 2, (source.height - size) // 2
        image = source.read(window=Window(left, top, size, size))
        lon, lat = _lonlat(source.crs, _point(source, left + size / 2, top + size / 2))
        return _unsigned(image), lon, lat, _epsg(source.crs), abs(source.transform.a)


def _band_stack(read: Callable[[int], bytes], size: int) -> tuple[np.ndarray, float, float, float]:
    """The middle of 12 GeoTIFFs of a band each, at 10 m; coarser bands are repeated. ``read`` gives a band's bytes."""
    from rasterio.windows import Window

    image = np.empty((len(BANDS), size, size), np.uint16)
    second = BANDS.index("B2")
    full = 0
    for band in (second, *(band for band in range(len(BANDS)) if band != second)):
        with _open_tif(read(band), 1) as source:
            middle = _point(source, source.width / 2, source.height / 2)
            if not full:
                full, crs, pixel, centre = source.width, source.crs, abs(source.transform.a), middle
                if full < size or source.height != full:
                    raise _Unfit(f"{source.width} x {source.height} pixels, smaller than {size} or not square")
                start = (full - size) // 2
                lon, lat = _lonlat(crs, _point(source, start + size / 2, start + size / 2))
            coarse = full // source.width
            if source.height != source.width or coarse * source.width != full or coarse > 6:
                raise _Unfit(f"{BANDS[band]} has {source.width} x {source.height} pixels, which do not fit {full}")
            if source.crs != crs or max(abs(middle[0] - centre[0]), abs(middle[1] - centre[1])) > 6 * pixel:
                raise _Unfit("its bands are not of one place")
            first, last = start // coarse, -(-(start + size) // coarse)
            part = source.read(1, window=Window(first, first, last - first, last - first))
            part = _unsigned(part).repeat(coarse, 0).repeat(coarse, 1)
            edge = start - first * coarse
            image[band] = part[edge : edge + size, edge : edge + size]
    return image, lon, lat, _epsg(crs)


def _unsigned(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.dtype == np.uint16 else pixels.clip(0).astype(np.uint16)


def _point(source: Any, column: float, row: float) -> tuple[float, float]:
    """Coordinates of a point given in pixels, of an image that is north up."""
    a, _, c, _, e, f = source.transform[:6]
    return a * column + c, e * row + f


def _epsg(crs: Any) -> float:
    return float(crs.to_epsg() or math.nan)


def _lonlat(crs: Any, point: tuple[float, float]) -> tuple[float, float]:
    from rasterio.warp import transform

    if crs.is_geographic:
        return float(point[0]), float(point[1])
    try:
        (lon,), (lat,) = transform(crs, "EPSG:4326", [point[0]], [point[1]])
    except raster_errors() as error:
        raise _Unfit("its position is not on Earth") from error
    return lon, lat


def _harmonise(image: np.ndarray, declared: int | None, harmonise: bool) -> tuple[np.ndarray, dict]:
    """The image without its offset, and the facts about that; ``declared`` is the offset that the set says, if it does.

    An offset that is declared is not taken off where more than 1 % of a band would be darker than -.05.
    """

    facts = {"offset_declared": None if declared is None else float(declared), "offset_removed": 0.0}
    if not harmonise:
        return image, facts
    offset = int(radiometric_offset(image)) if declared is None else declared
    there = (image > 0).any(0)
    if declared and there.any() and np.percentile(image[:, there], 1, axis=1).min() < declared - 500:
        offset = 0
    if offset:
        image = np.where(there, np.maximum(image.astype(np.int32) - offset, 1), 0).astype(np.uint16)
    return image, facts | {"offset_removed": float(offset)}


# --- S2-100K --------------------------------------------------------------------------------------------


def _read_index(path: Path, skips: Skips) -> dict[str, tuple[float, float]]:
    """Positions (lon, lat) by base name of the file."""
    if not path.is_file():
        raise ValueError(f"{path}: missing; S2-100K has an index.csv with the columns fn, lon, lat beside its images")
    index: dict[str, tuple[float, float]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream)
            missing = {"fn", "lon", "lat"} - set(rows.fieldnames or ())
            if missing:
                raise ValueError(f"no column {min(missing)!r}; the index of S2-100K has fn, lon, lat")
            for number, row in enumerate(rows):
                name = PurePosixPath(row["fn"] or "").name
                where = _shown(f"row {number}: {row['fn']}, {row['lon']}, {row['lat']}")
                try:
                    lon, lat = float(row["lon"] or "nan"), float(row["lat"] or "nan")
                except ValueError:
                    lon = lat = math.nan
                if not _TIF.fullmatch(name):
                    skips.add("in the index: not the name of an image", where)
                elif not (math.isfinite(lon) and math.isfinite(lat)):
                    skips.add("in the index: no position", where)
                elif abs(lon) > 180 or abs(lat) > 90:
                    swapped = abs(lon) <= 90 and abs(lat) <= 180
                    reason = "out of range; longitude and latitude look swapped" if swapped else "out of range"
                    skips.add(f"in the index: a position {reason}", where)
                elif name in index:
                    skips.add("in the index: a name again", where)
                else:
                    index[name] = lon, lat
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: {error}") from error
    return index


# --- SSL4EO-S12 -----------------------------------------------------------------------------------------


def _locations(folder: Path) -> list[Path]:
    """The folders of locations of version 1.0, named by seven digits."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return [folder / name for name in sorted(e.name for e in entries if _LOCATION.fullmatch(e.name) and e.is_dir())]


def _iso(scene: str) -> str:
    """The date of a scene from its name; ``""`` if it has none."""
    parts = _SCENE.match(scene)
    return "-".join(parts.groups()) if parts else ""


def _pick(season: Any, clouds: Sequence[float]) -> int:
    """Which of the acquisitions, in the order of dates, whose cloud shares are given (NaN where unknown)."""
    if season == "clearest":
        return int(np.argmin(np.nan_to_num(np.asarray(clouds, float), nan=np.inf)))
    if season >= len(clouds):
        raise _Unfit("that season is missing")
    return season


def _seasons_part(places: Sequence[Path], options: dict) -> _Part:
    """Locations of version 1.0."""

    def take(place: Path) -> _Found:
        with os.scandir(place) as entries:
            scenes = sorted(entry.name for entry in entries if _iso(entry.name) and entry.is_dir())
        if not scenes:
            raise _Unfit("no season in the folder of a location")
        about = [_scene_facts(place / scene / "metadata.json") for scene in scenes]
        chosen = _pick(options["season"], [cloud for cloud, _ in about])
        scene, (cloud, baseline) = place / scenes[chosen], about[chosen]
        image, lon, lat, epsg = _band_stack(lambda band: _file_bytes(scene / f"{BANDS[band]}.tif"), options["size"])
        date = _iso(scene.name)
        old = date < OFFSET_FROM or (baseline is not None and baseline < 4)
        declared = 0 if old else None if baseline is None else OFFSET
        image, columns = _harmonise(image, declared, options["harmonise"])
        columns |= {"item": _shown(scene.name), "cloud_share": cloud, "epsg": epsg}
        return _Found(image, lon, lat, date, columns)

    return lambda _: ((place.name, partial(take, place)) for place in places)


def _scene_facts(path: Path) -> tuple[float, float | None]:
    """Share of clouds in a scene (NaN where unknown) and its processing baseline, from Earth Engine's properties."""
    try:
        facts = json.loads(_file_bytes(path))
        cloud = float(facts.get("CLOUDY_PIXEL_PERCENTAGE", math.nan)) / 100
        baseline = facts.get("PROCESSING_BASELINE")
        return cloud, None if baseline is None else float(baseline)
    except (_Unfit, ValueError, TypeError, AttributeError, RecursionError):
        return math.nan, None


class _Zarr:
    """A zipped Zarr version 2 group: plain numbers and fixed-length texts, unpacked by Blosc or stored as they are."""

    def __init__(self, stream: Any) -> None:
        self._zip = zipfile.ZipFile(stream)
        self._names = set(self._zip.namelist())
        self._last: dict[str, tuple[str, np.ndarray]] = {}  # one chunk of each array

    def about(self, name: str) -> dict:
        """Shape, chunks, dtype and how to decode an array; raises for what is not read here."""
        meta = json.loads(self._bytes(f"{name}/.zarray", 1 << 16))
        dtype = np.dtype(meta["dtype"])
        shape, chunks = [int(n) for n in meta["shape"]], [int(n) for n in meta["chunks"]]
        compressor = meta.get("compressor")
        if dtype.kind not in "iufMU" or meta.get("filters") or meta.get("order", "C") != "C":
            raise _Unfit("a Zarr array that is not of plain numbers", name)
        if compressor is not None and compressor.get("id") != "blosc":
            raise _Unfit("a Zarr array that is not compressed by Blosc", name)
        size = math.prod(chunks) * dtype.itemsize
        if len(shape) != len(chunks) or min(chunks, default=1) < 1 or size > MAX_CHUNK or math.prod(shape) > 1 << 40:
            raise _Unfit("a Zarr array that claims more than can be", name)
        fill = meta.get("fill_value") or ("" if dtype.kind == "U" else 0)
        about = {"shape": shape, "chunks": chunks, "dtype": dtype, "size": size, "fill": fill}
        return about | {"blosc": compressor is not None}

    def at(self, name: str, index: tuple[int, ...]) -> np.ndarray:
        """The part of an array at an index of its first dimensions."""
        about = self.about(name)
        out = np.empty(about["shape"][len(index) :], about["dtype"])
        rest, edges = out.shape, about["chunks"][len(index) :]
        if out.nbytes > MAX_CHUNK or any(i >= n for i, n in zip(index, about["shape"], strict=False)):
            raise _Unfit("a Zarr array that claims more than can be", name)
        first = [i // c for i, c in zip(index, about["chunks"], strict=False)]
        inner = tuple(i % c for i, c in zip(index, about["chunks"], strict=False))
        for grid in np.ndindex(*(-(-n // c) for n, c in zip(rest, edges, strict=True))):
            block = np.asarray(self._chunk(name, about, [*first, *grid])[inner])
            where = tuple(slice(g * c, min((g + 1) * c, n)) for g, c, n in zip(grid, edges, rest, strict=True))
            out[where] = block[tuple(slice(0, s.stop - s.start) for s in where)]
        return out

    def _chunk(self, name: str, about: dict, grid: list[int]) -> np.ndarray:
        key = f"{name}/{'.'.join(map(str, grid or [0]))}"
        if self._last.get(name, ("",))[0] != key:
            from numcodecs.blosc import Blosc

            if key not in self._names:  # nothing but the fill value is not stored
                return np.full(about["chunks"], about["fill"], about["dtype"])
            data = self._bytes(key, MAX_CHUNK)
            if about["blosc"]:
                sizes = [int.from_bytes(data[at : at + 4], "little") for at in (4, 12)]  # unpacked, and packed
                if len(data) < 16 or sizes != [about["size"], len(data)]:
                    raise _Unfit("a Zarr chunk of another size than it should have", key)
                data = Blosc().decode(data)
            if len(data) != about["size"]:
                raise _Unfit("a Zarr chunk of another size than it should have", key)
            self._last[name] = key, np.frombuffer(data, about["dtype"]).reshape(about["chunks"])
        return self._last[name][1]

    def _bytes(self, name: str, limit: int) -> bytes:
        if self._zip.getinfo(name).file_size > limit:
            raise _Unfit("a Zarr array that claims more than can be", name)
        return self._zip.read(name)


_BROKEN = (
    OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError,
    zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip


@contextmanager
def _zarr_faults(where: str) -> Iterator[None]:
    try:
        yield
    except _Unfit as unfit:
        raise _Unfit(unfit.reason, _shown(f"{where}: {unfit.example}")) from unfit
    except _BROKEN as error:
        raise _Unfit("a .zarr.zip that is damaged or of another layout", _shown(f"{where}: {error}")) from error


def _zarr_part(path: Path, options: dict) -> _Part:
    """A file of version 1.1 with many locations: ``bands`` (sample, time, band, y, x), with the offset."""

    lock = threading.Lock()  # the locations share a file, and a chunk of it

    def part(skips: Skips) -> Iterator:
        try:
            with _zarr_faults(path.name), path.open("rb") as stream:
                zarr = _Zarr(stream)
                times = _check_bands(zarr, "bands", 5)
                # As fixed-length texts; a sample without one cannot be named.
                names = [_shown(str(name)) for name in zarr.at("sample", ())]
                picked = [_season_of(zarr, options["season"], (row,), times) for row in range(len(names))]
                for time in range(times):  # a chunk holds one time of many locations
                    for row, (chosen, cloud) in enumerate(picked):
                        if chosen == time:
                            yield names[row], lambda row=row, cloud=cloud, time=time: take(zarr, (row,), time, cloud)
                yield None  # while the file is open
        except _Unfit as unfit:
            skips.add(unfit.reason, unfit.example)

    def take(zarr: _Zarr, row: tuple, time: int, cloud: float) -> _Found:
        with lock, _zarr_faults(path.name):
            return _from_zarr(zarr, row, time, cloud, OFFSET, options)

    return part


def _members_part(entries: Sequence[_Entry], options: dict) -> _Part:
    """Members of a tar file of version 1.1, one location each: ``bands`` (time, band, y, x), without the offset."""

    def take(entry: _Entry) -> _Found:
        with _zarr_faults(entry.where):
            zarr = _Zarr(io.BytesIO(_entry_bytes(entry)))
            times = _check_bands(zarr, "bands", 4)
            time, cloud = _season_of(zarr, options["season"], (), times)
            return _from_zarr(zarr, (), time, cloud, 0, options)

    return lambda _: ((entry.name, partial(take, entry)) for entry in entries)


def _check_bands(zarr: _Zarr, name: str, dimensions: int) -> int:
    """The number of times of the array of images, once its shape is right."""
    shape, dtype = zarr.about(name)["shape"], zarr.about(name)["dtype"]
    if len(shape) != dimensions or shape[-3] != len(BANDS) or dtype not in (np.int16, np.uint16):
        raise _Unfit(f"bands are {dtype} {tuple(shape)}, not L2A as the set has it", name)
    if [str(band) for band in zarr.at("band", ())] != _LONG_NAMES:
        raise _Unfit("its bands are not those of L2A", name)
    return shape[-4]


def _season_of(zarr: _Zarr, season: int | str, row: tuple, times: int) -> tuple[int, float]:
    """Which time of a location, and its share of clouds by the mask: thin (3) or thick (4)."""
    shares = [float(np.isin(zarr.at("cloud_mask", (*row, time)), (3, 4)).mean()) for time in range(times)]
    if season == "clearest":
        return _pick(season, shares), min(shares)
    order = np.argsort([_zarr_date(zarr, row, time) for time in range(times)], kind="stable")
    chosen = int(order[_pick(season, shares)])
    return chosen, shares[chosen]


def _zarr_date(zarr: _Zarr, row: tuple, time: int) -> str:
    return _iso(str(zarr.at("file_id", (*row, time))))


def _from_zarr(zarr: _Zarr, row: tuple, time: int, cloud: float, declared: int, options: dict) -> _Found:
    pixels = zarr.at("bands", (*row, time)).astype(np.int32)
    size = options["size"]
    if min(pixels.shape[1:]) < size:
        raise _Unfit(f"{pixels.shape[2]} x {pixels.shape[1]} pixels, smaller than {size}")
    top, left = ((edge - size) // 2 for edge in pixels.shape[1:])
    pixels = pixels[:, top : top + size, left : left + size]
    nothing = (pixels == declared - OFFSET).all(0) | (pixels == 0).all(0)
    image = np.where(nothing, 0, pixels.clip(1)).astype(np.uint16)  # below 0 where an offset was taken off
    image, columns = _harmonise(image, declared, options["harmonise"])
    item = str(zarr.at("file_id", (*row, time)))
    columns |= {"item": _shown(item), "cloud_share": cloud, "epsg": float(zarr.at("crs", row))}
    return _Found(image, float(zarr.at("center_lon", row)), float(zarr.at("center_lat", row)), _iso(item), columns)


# --- Major TOM ------------------------------------------------------------------------------------------

_CELL_COLUMNS = (
    "grid_cell", "product_id", "timestamp", "cloud_cover", "nodata", "centre_lat", "centre_lon",
    "parquet_url", "parquet_row",
)  # fmt: skip


def _read_cells(path: Path, files: dict, max_cloud: float, max_nodata: float, skips: Skips) -> dict[str, list[dict]]:
    """Rows of the metadata that can be used, the clearest of each cell, by the name of their file and in its order."""
    if not path.is_file():
        raise ValueError(f"{path}: missing; Major TOM has a metadata.parquet beside its folder images")
    best: dict[str, dict] = {}
    here = pa.array(sorted(files), pa.string())
    try:
        metadata = pq.ParquetFile(path)
        missing = set(_CELL_COLUMNS) - set(metadata.schema_arrow.names)
        if missing:
            raise ValueError(f"no column {min(missing)!r}, which Major TOM's metadata have")
        for batch in metadata.iter_batches(1 << 16, columns=list(_CELL_COLUMNS)):
            batch = batch.append_column("file", pc.replace_substring_regex(batch["parquet_url"], "^.*/", ""))
            have = pc.fill_null(pc.is_in(batch["file"], here), False)
            skips.add("in the metadata, but its file is not here", n=len(batch) - have.true_count)
            for row in batch.filter(have).to_pylist():
                reason = _cell_fault(row, max_cloud, max_nodata)
                where = _shown(f"{row['grid_cell']} {row['product_id']}")
                known = best.get(row["grid_cell"])
                if reason:
                    skips.add(reason, where)
                    continue
                if known is not None:
                    skips.add("another acquisition of the same cell", where)
                    if known["cloud_cover"] <= row["cloud_cover"]:
                        continue
                best[row["grid_cell"]] = row
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ValueError(f"{path}: {error}") from error
    rows: dict[str, list[dict]] = {}
    for row in sorted(best.values(), key=lambda row: (row["file"], row["parquet_row"])):
        rows.setdefault(row["file"], []).append(row)
    return rows


def _cell_fault(row: dict, max_cloud: float, max_nodata: float) -> str:
    if not _CELL.fullmatch(row["grid_cell"] or "") or not isinstance(row["parquet_row"], int):
        return "in the metadata: not a cell of the grid"
    numbers = [row[name] for name in ("cloud_cover", "nodata", "centre_lon", "centre_lat")]
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in numbers):
        return "in the metadata: a number is missing"
    if row["nodata"] > max_nodata:
        return f"more than {max_nodata:.0%} of the cell without data"
    if row["cloud_cover"] > 100 * max_cloud:
        return f"more than {max_cloud:.0%} of the cell under clouds"
    return ""


def _cells_part(path: Path, rows: Sequence[dict], size: int, harmonise: bool) -> _Part:
    lock = threading.Lock()  # the rows share a file

    def part(skips: Skips) -> Iterator:
        try:
            file = pq.ParquetFile(path)
            missing = {*_LONG_NAMES, "grid_cell", "product_id"} - set(file.schema_arrow.names)
        except (OSError, pa.ArrowException) as error:
            skips.add("in a file that cannot be read as Parquet", _shown(f"{path.name}: {error}"), len(rows))
            return
        if missing:
            skips.add(f"in a file without the column {min(missing)}", _shown(path.name), len(rows))
            return
        ends = np.cumsum([file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)])
        with file:
            for row in rows:
                yield row["grid_cell"], lambda row=row: take(file, ends, row)
            yield None  # while the file is open

    def take(file: pq.ParquetFile, ends: np.ndarray, row: dict) -> _Found:
        with lock:
            cells = _cell_bytes(file, ends, row, path.name)
        image, lon, lat, epsg = _band_stack(lambda band: cells[_LONG_NAMES[band]], size)
        product = row["product_id"] or ""
        image, columns = _harmonise(image, _declared(product), harmonise)
        away = float(great_circle_km((row["centre_lon"], row["centre_lat"]), (lon, lat)))
        columns |= {
            "item": _shown(product), "cloud_share": row["cloud_cover"] / 100, "epsg": epsg, "index_km": away,
            "position_flag": "the metadata say otherwise" if away > FAR_KM else None,
        }  # fmt: skip
        date = re.sub("[^0-9T]", "", str(row["timestamp"]).replace(" ", "T"))
        return _Found(image, lon, lat, _iso(date), columns)

    return part


def _cell_bytes(file: pq.ParquetFile, ends: np.ndarray, row: dict, name: str) -> dict[str, bytes]:
    """The bytes of the bands of one row. The set has a row group a row; others are read just as well."""
    where = _shown(f"{name}, row {row['parquet_row']}")
    number = row["parquet_row"]
    if not 0 <= number < (ends[-1] if len(ends) else 0):
        raise _Unfit("a row that its file does not have", where)
    group = int(np.searchsorted(ends, number, side="right"))
    about = file.metadata.row_group(group)
    if any(about.column(i).total_uncompressed_size > MAX_BYTES for i in range(about.num_columns)):
        raise _Unfit(f"in a row group of more than {MAX_BYTES >> 20} MB", where)
    try:
        table = file.read_row_group(group, columns=["grid_cell", "product_id", *_LONG_NAMES])
    except (OSError, pa.ArrowException) as error:
        raise _Unfit("in a part of a file that is damaged", where) from error
    (cell,) = table.slice(number - (ends[group - 1] if group else 0), 1).to_pylist()
    if cell["grid_cell"] != row["grid_cell"] or cell["product_id"] != row["product_id"]:
        raise _Unfit("the row is of another cell than the metadata say", where)
    if not all(isinstance(cell[band], bytes) for band in _LONG_NAMES):
        raise _Unfit("a band is missing", where)
    return cell


def _declared(product: str) -> int | None:
    """The offset by the processing baseline in a product's name; None where that does not tell (N9999)."""
    baseline = _BASELINE.search(product)
    if not baseline or int(baseline[1]) > 90:
        return None
    return OFFSET if int(baseline[1]) >= 4 else 0
