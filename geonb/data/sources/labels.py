"""Label tables of the literature on location encoders: downloaded once, checked, and sampled at positions.

==========================  ====================================================================================
``air_temperature``         WorldClim 2.1, bio 1: annual mean of 1970 to 2000, degrees Celsius, 10 arc-minutes
``precipitation``           WorldClim 2.1, bio 12: annual sum of 1970 to 2000, mm, 10 arc-minutes
``elevation``               WorldClim 2.1, elevation (from SRTM), m, 10 arc-minutes
``population_density``      GHS-POP R2023A, epoch 2020, 30 arc-seconds: inhabitants of a cell over its area
``night_lights``            Li et al. (2020), harmonised DMSP and VIIRS lights of 2020, digital numbers 0 to 63
``biome``, ``ecoregion``    RESOLVE Ecoregions 2017 (Dinerstein et al., 2017), polygons
``country``                 Natural Earth, admin 0 countries 1:10 million, de facto borders, polygons
``california_housing``      Pace and Barry (1997): median house value by block group, 1990; has its own positions
==========================  ====================================================================================

None of these needs a login (GPW and the newer VIIRS composites, which some papers used, do; so numbers are close to
those papers' but not the same). A value is that of the cell or polygon in which a position lies; nothing is
interpolated. Land points near coasts may lie outside all polygons, and stay unknown.

**Not yet tried.** This was written without a network: addresses, names of files and fields come from documentation
and from public code that uses them, and tests run on generated files of the same formats. ``Table.tried`` has the
date on which a table was first loaded from its address; it is empty until then.

**Checksums.** Where a SHA-256 is published (``Table.sha256``, ``Table.sha256_source``) a file that differs is not
kept. For the others the first download is trusted: its SHA-256 is written beside the file and into
``labels.lock.json`` in the same folder, and whatever comes later must match. Commit that file to pin them.

The folder is ``GEONB_LABELS``, else ``geonb/labels`` in ``XDG_CACHE_HOME`` or ``~/.cache``.
"""

from __future__ import annotations

import gzip
import io
import json
import logging
import os
import re
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from geonb._coords import EARTH_RADIUS_KM, check_lonlat
from geonb._files import write_atomically
from geonb._progress import tqdm
from geonb.data._raster import raster_errors
from geonb.data.download import (
    CHUNK,
    DownloadError,
    NetworkAbsent,
    WrongChecksum,
    alone,
    check_disk,
    download,
    put,
)
from geonb.data.sampling import land_points

MAX_MEMBERS = 10_000  # of an archive
MAX_BLOCK_CELLS = 1 << 26  # of a grid, read at once
FEATURES_AT_ONCE = 64
LOCK = "labels.lock.json"
ELSEWHERE = "set GEONB_LABELS to another folder"
UNKNOWN = {"", "N/A", "NA", "-99", "-9999"}  # classes that say that there is none

_log = logging.getLogger(__name__)


class LabelError(ValueError):
    """A label file that is damaged, changed or too large, or a table asked for what it lacks; says what to do."""


class LabelsAbsent(LabelError):
    """A label file that is not in the folder and cannot be downloaded now; says which file goes where."""


@dataclass(frozen=True)
class Table:
    """Where labels come from and how they are read.

    Attributes:
        name: as in the literature.
        kind: "regression" or "classification". ``units``: of the values. ``scaling``: what a probe does to the
            values, as in :class:`geonb.evaluation.tasks.Task`.
        reader: "grid", "polygons" or "california".
        file: its name in the folder. ``urls``: where it is, mirrors one after another.
        source, licence, citation: for people, in this order: what it is, what one may do, whom to cite.
        member: of the archive that is read, without folders; ``""`` where the file is no archive. For polygons the
            name of the shapefile, without its ending.
        field: of the polygons.
        valid: smallest and largest value of a grid that is one; anything else is unknown.
        per_km2: values of the grid are divided by the area of their cell.
        max_bytes, max_member_bytes: larger files, and larger members of archives, are refused.
        sha256: of the file, where one is published; ``sha256_source``: where.
        tried: the date of the first load from ``urls``, ``""`` for not yet.
    """

    name: str
    kind: str
    units: str
    scaling: str
    reader: str
    file: str
    urls: tuple[str, ...]
    source: str
    licence: str
    citation: str
    member: str = ""
    field: str = ""
    valid: tuple[float, float] = (-np.inf, np.inf)
    per_km2: bool = False
    max_bytes: int = 200 << 20
    max_member_bytes: int = 1 << 30
    sha256: str = ""
    sha256_source: str = ""
    tried: str = ""


@dataclass
class Labels:
    """Labels at positions.

    Attributes:
        lonlat: positions float64 (n, 2), degrees.
        values: (n,) float64 with NaN where unknown, or objects (str) with None where unknown; not yet scaled.
        sha256: of the file that they were read from.
        name, kind, units, scaling, source, licence, citation: as in :class:`Table`.
    """

    name: str
    lonlat: np.ndarray
    values: np.ndarray
    kind: str
    units: str
    scaling: str
    source: str
    licence: str
    citation: str
    sha256: str

    @property
    def known(self) -> np.ndarray:
        """Which positions (n,) have a value."""
        if self.values.dtype == object:
            return np.array([value is not None for value in self.values], dtype=bool)
        return np.isfinite(self.values)


def _worldclim(name: str, file: str, member: str, **options: Any) -> Table:
    base = (
        "https://geodata.ucdavis.edu/climate/worldclim/2_1/base/",
        "https://biogeo.ucdavis.edu/data/worldclim/v2.1/base/",
    )
    return Table(
        name,
        "regression",
        reader="grid",
        file=file,
        urls=tuple(prefix + file for prefix in base),
        member=member,
        source="WorldClim 2.1, 10 arc-minutes (worldclim.org)",
        licence="free for academic and other non-commercial use, not to be passed on (worldclim.org); "
        "catalogues also list CC BY-SA 4.0",
        citation="Fick and Hijmans (2017), WorldClim 2: new 1-km spatial resolution climate surfaces for global land "
        "areas, International Journal of Climatology 37, 4302-4315, doi:10.1002/joc.5086",
        **options,
    )


def _resolve(name: str, field: str) -> Table:
    return Table(
        name,
        "classification",
        "",
        "none",
        "polygons",
        "Ecoregions2017.zip",
        ("https://storage.googleapis.com/teow2016/Ecoregions2017.zip",),
        "RESOLVE Ecoregions 2017 (ecoregions.appspot.com)",
        "CC BY 4.0",
        "Dinerstein et al. (2017), An ecoregion-based approach to protecting half the terrestrial realm, BioScience "
        "67, 534-545, doi:10.1093/biosci/bix014",
        member="Ecoregions2017",
        field=field,
        sha256="be36d6209e443038d02e309f0447c6e7f2a62f5fe60c605ffe90d064952f2a60",
        sha256_source="not by the publisher; as recorded in public repositories (149,248,653 bytes), e.g. "
        "github.com/Zohltar/world-drive",
    )


_BIO_SHA256 = {
    "sha256": "00513224583665ec0f2f955a4ec252730c4deb2004cce9e793492a3f26df4dcf",
    "sha256_source": "not by the publisher; as recorded in public repositories (49,869,449 bytes), e.g. "
    "github.com/zuizui0223/fcp",
}
TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        _worldclim(
            "air_temperature", "wc2.1_10m_bio.zip", "wc2.1_10m_bio_1.tif", units="degrees Celsius", scaling="none",
            valid=(-90, 60), **_BIO_SHA256,
        ),
        _worldclim(
            "precipitation", "wc2.1_10m_bio.zip", "wc2.1_10m_bio_12.tif", units="mm a year", scaling="log10(1 + x)",
            valid=(0, 20_000), **_BIO_SHA256,
        ),
        _worldclim(
            "elevation", "wc2.1_10m_elev.zip", "wc2.1_10m_elev.tif", units="m", scaling="none", valid=(-500, 9000),
        ),
        Table(
            "population_density",
            "regression",
            "inhabitants per square kilometre",
            "log10(1 + x)",
            "grid",
            "GHS_POP_E2020_GLOBE_R2023A_4326_30ss_V1_0.zip",
            (
                "https://jeodpp.jrc.ec.europa.eu/ftp/jrc-opendata/GHSL/GHS_POP_GLOBE_R2023A/"
                "GHS_POP_E2020_GLOBE_R2023A_4326_30ss/V1-0/GHS_POP_E2020_GLOBE_R2023A_4326_30ss_V1_0.zip",
            ),
            "GHS-POP R2023A, epoch 2020, 30 arc-seconds (European Commission, Joint Research Centre)",
            "CC BY 4.0",
            "Schiavina, Freire, Carioli and MacManus (2023), GHS-POP R2023A: GHS population grid multitemporal "
            "(1975-2030), doi:10.2905/2FF68A52-5B5B-4A22-8F40-C41DA8332CFE",
            member="GHS_POP_E2020_GLOBE_R2023A_4326_30ss_V1_0.tif",
            valid=(0, 1e7),
            per_km2=True,
            max_bytes=1 << 30,
            max_member_bytes=8 << 30,
            sha256="579fb7477b33d9be61e9562b170ea108a670b85ef6fe23b61a22d17200929636",
            sha256_source="not by the publisher; as recorded in public repositories (482,351,880 bytes), e.g. "
            "github.com/palewire/population-exposure",
        ),
        Table(
            "night_lights",
            "regression",
            "digital numbers",
            "log10(1 + x)",
            "grid",
            "Harmonized_DN_NTL_2020_simVIIRS.tif",
            ("https://ndownloader.figshare.com/files/57065297", "https://figshare.com/ndownloader/files/57065297"),
            "harmonised DMSP and VIIRS night-time lights, 2020, 30 arc-seconds, 75 N to 65 S (figshare 9828827)",
            "CC BY 4.0",
            "Li, Zhou, Zhao and Zhao (2020), A harmonized global nighttime light dataset 1992-2018, Scientific Data "
            "7, 168, doi:10.1038/s41597-020-0510-y",
            valid=(0, 63),
        ),
        _resolve("biome", "BIOME_NAME"),
        _resolve("ecoregion", "ECO_NAME"),
        Table(
            "country",
            "classification",
            "",
            "none",
            "polygons",
            "ne_10m_admin_0_countries.zip",
            (
                "https://naciscdn.org/naturalearth/5.1.2/10m/cultural/ne_10m_admin_0_countries.zip",
                "https://naciscdn.org/naturalearth/10m/cultural/ne_10m_admin_0_countries.zip",
                "https://naturalearth.s3.amazonaws.com/10m_cultural/ne_10m_admin_0_countries.zip",
            ),
            "Natural Earth, admin 0 countries, 1:10 million, 5.1.1 (naturalearthdata.com)",
            "public domain",
            "Made with Natural Earth, naturalearthdata.com",
            member="ne_10m_admin_0_countries",
            field="ADMIN",
            sha256="ce1ac7036499a0edd641fbc093cd209a98f96a49d2eca8480aaacad35138a7f6",
            sha256_source="not by the publisher; as recorded in many public repositories (4,930,492 bytes)",
        ),
        Table(
            "california_housing",
            "regression",
            "US dollars of 1990",
            "none",
            "california",
            "cal_housing.tgz",
            ("https://ndownloader.figshare.com/files/5976036", "https://figshare.com/ndownloader/files/5976036"),
            "California housing, 1990 census block groups (StatLib; scikit-learn's copy), cut off at 500,001",
            "no licence stated (StatLib); counts of the US census are in the public domain",
            "Pace and Barry (1997), Sparse spatial autoregressions, Statistics and Probability Letters 33, 291-297",
            member="CaliforniaHousing/cal_housing.data",
            valid=(0, 1e7),
            max_bytes=8 << 20,
            max_member_bytes=32 << 20,
            sha256="aaa5c9a6afe2225cc2aed2723682ae403280c4a3695a2ddda4ffb5d8215ea681",
            sha256_source="scikit-learn, sklearn/datasets/_california_housing.py",
        ),
    )
}  # fmt: skip


def load_labels(
    name: str | Table,
    cache: str | Path | None = None,
    points: ArrayLike | None = None,
    n: int = 10_000,
    seed: int = 0,
    progress: bool = True,
) -> Labels:
    """Labels at positions; the file is downloaded when it is not in the folder yet.

    Args:
        name: a table of :data:`TABLES`, or a :class:`Table` of your own (``dataclasses.replace`` changes one).
        cache: the folder, if not the one that `cache_folder` gives.
        points: positions (m, 2), degrees. Without them, n positions on land that are fair to area
            (:func:`geonb.data.sampling.land_points`). A table with its own positions takes none, and returns all.
        n, seed: of the points on land.
        progress: show bars.

    Raises:
        LabelsAbsent: the file is not there and could not be downloaded.
        LabelError: an unknown table; a file that is damaged, too large, or not the one of before.
        ValueError: positions that are wrong, or given to a table with its own.
        ImportError: a reader that is not installed.
    """
    table = _table(name)
    if points is not None:
        if table.reader == "california":
            raise ValueError(f"{table.name} has its own positions; leave points out")
        points = check_lonlat(points, where="points")
    path, digest = fetch(table, cache, progress)
    if table.reader == "california":
        points, values = _read_california(table, path)
    else:
        points = land_points(n, seed) if points is None else points
        values = (_read_grid if table.reader == "grid" else _read_polygons)(table, path, points, progress)
    return Labels(
        table.name, points, values, table.kind, table.units, table.scaling, table.source, table.licence,
        table.citation, digest,
    )  # fmt: skip


def _table(name: str | Table) -> Table:
    if isinstance(name, Table):
        return name
    if name not in TABLES:
        raise LabelError(f"unknown table {name!r}; choose from {', '.join(TABLES)}")
    return TABLES[name]


def cache_folder(cache: str | Path | None = None) -> Path:
    """Where label files lie: ``cache``, else ``GEONB_LABELS``, else ``geonb/labels`` in the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache or os.environ.get("GEONB_LABELS") or Path(home) / "geonb" / "labels")


# --- the file: there, or downloaded, and the right one ------------------------------------------------


def fetch(name: str | Table, cache: str | Path | None = None, progress: bool = True) -> tuple[Path, str]:
    """The file of a table and its SHA-256; downloaded when it is not in the folder yet.

    Processes that ask for the same file at once wait for each other (where the system has ``flock``).

    Raises:
        LabelsAbsent, LabelError: see :func:`load_labels`.
    """
    table = _table(name)
    folder = cache_folder(cache)
    path = folder / table.file
    expected = table.sha256 or _recorded(folder, table.file)
    digest = _download(table, path, expected, progress)
    if not expected:
        if reason := _wrong_head(path, path.suffix):
            raise LabelError(f"{path} is {reason}; remove it and try again")
    if not _agrees(folder, table.file, digest):
        try:
            _record(folder, table, path, digest)
        except (DownloadError, OSError) as error:  # a folder that can only be read, say
            if not expected:
                raise LabelError(
                    f"{error}\nNo checksum is published for {path}, so that of its first copy must be kept beside it"
                ) from error
            _log.warning("%s: its checksum is right, but was not kept beside it: %s", path, error)
    if not expected:
        _log.warning(
            "%s: no checksum is published for it, so this first copy is trusted; its SHA-256 %s is now in %s, and "
            "any later copy must match",
            path, digest, folder / LOCK,
        )  # fmt: skip
    return path, digest


def download_labels(
    names: Sequence[str] | None = None, cache: str | Path | None = None, progress: bool = True
) -> dict[str, str]:
    """The files of several tables; one that cannot be had does not keep the others from coming.

    Args:
        names: tables of :data:`TABLES`, all of them if None.
        cache: the folder, if not the one that `cache_folder` gives.
        progress: show bars, and before each table what it is, its licence, and whom to cite.

    Returns:
        Name -> ``"there"``, ``"downloaded"``, or why it is not there. Tables that share a file share the answer.

    Raises:
        LabelError: an unknown table; nothing is downloaded.
    """
    tables = [_table(name) for name in (TABLES if names is None else names)]
    files: dict[str, str] = {}
    for table in tables:
        if progress:
            tqdm.write(f"{table.name}: {table.source}\n  licence: {table.licence}\n  cite: {table.citation}")
        if table.file not in files:
            there = (cache_folder(cache) / table.file).exists()
            try:
                fetch(table, cache, progress)
                files[table.file] = "there" if there else "downloaded"
            except LabelError as error:
                files[table.file] = str(error)
    return {table.name: files[table.file] for table in tables}


def _download(table: Table, path: Path, expected: str, progress: bool) -> str:
    """See that the file is there; its SHA-256."""
    try:
        return download(
            table.urls,
            path,
            sha256=expected,
            max_bytes=table.max_bytes,
            progress=progress,
            check=lambda partial: (reason := _wrong_head(partial, path.suffix)) and f"what it sent is {reason}",
            elsewhere=ELSEWHERE,
        )
    except WrongChecksum as error:
        what = f"{error.url or path} is not the file it should be{'; nothing was kept' if error.url else ''}"
        raise LabelError("\n".join([what, _differs(table, expected, error.sha256), *error.failures])) from error
    except NetworkAbsent as error:
        got = f"{error.kept / 1e6:,.1f} MB are there; the next try goes on from them.\n" if error.kept else ""
        raise LabelsAbsent(
            f"the labels {table.name!r} are not here, and could not be downloaded:\n" + "\n".join(error.failures)
            + f"\n{got}Without a network: get {table.file} from {table.urls[0]} on another machine (licence: "
            f"{table.licence}) and put it at {path}, or set GEONB_LABELS to a folder that has it."
        ) from error
    except DownloadError as error:
        raise LabelError(str(error)) from error


def _differs(table: Table, expected: str, digest: str) -> str:
    whose = f"published: {table.sha256_source}" if table.sha256 else f"of the first copy, see {LOCK}"
    return (
        f"  SHA-256 expected: {expected} ({whose})\n  SHA-256 found:    {digest}\n"
        "Remove the file and try again. If its publisher has changed it, and you have checked that, remove its entry "
        f"in {LOCK} and its .sha256 file, or load it with "
        f"dataclasses.replace(TABLES[{table.name!r}], sha256='...')"
    )


def _recorded(folder: Path, file: str) -> str:
    """The SHA-256 that a file had when it was first used, or ``""``."""
    lock = _read_lock(folder)
    beside = folder / f"{file}.sha256"
    known = {entry for entry in (lock.get(file, {}).get("sha256", ""), _first_word(beside)) if entry}
    if len(known) > 1:
        raise LabelError(f"{beside} and {folder / LOCK} do not agree on {file}; one was changed: remove the wrong one")
    if known and not re.fullmatch("[0-9a-f]{64}", next(iter(known))):
        raise LabelError(f"{folder / LOCK} or {beside}: not a SHA-256; remove the entry and the file {beside.name}")
    return known.pop() if known else ""


def _first_word(path: Path) -> str:
    words = path.read_text(encoding="utf-8", errors="replace")[:200].split() if path.exists() else []
    return words[0].lower() if words else ""


def _read_lock(folder: Path) -> dict[str, dict]:
    path = folder / LOCK
    if not path.exists():
        return {}
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        if not all(isinstance(entry, dict) for entry in files.values()):
            raise TypeError("an entry is no object")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LabelError(f"{path} cannot be read ({error}); mend it, or remove it to trust the files anew") from error
    return files


def _agrees(folder: Path, file: str, digest: str) -> bool:
    recorded = _read_lock(folder).get(file, {}).get("sha256")
    return recorded == digest and _first_word(folder / f"{file}.sha256") == digest


def _record(folder: Path, table: Table, path: Path, digest: str) -> None:
    with alone(folder / f".{LOCK}.flock"):
        files = _read_lock(folder)
        files[table.file] = {
            "sha256": digest,
            "bytes": path.stat().st_size,
            "urls": list(table.urls),
            "first_used": time.strftime("%Y-%m-%d", time.gmtime()),
        }
        text = json.dumps({"files": dict(sorted(files.items()))}, indent=1) + "\n"
        write_atomically(folder / LOCK, text.encode())
        write_atomically(folder / f"{table.file}.sha256", f"{digest}  {table.file}\n".encode())


def _wrong_head(path: Path, suffix: str) -> str:
    """How a file is not of its kind (the page of a server that asks for a login, say), or ``""`` if it is."""
    heads = {".zip": (b"PK\3\4",), ".tgz": (b"\x1f\x8b",), ".tif": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")}
    with path.open("rb") as stream:
        head = stream.read(4)
    right = head.startswith(heads.get(suffix, b""))
    return "" if right else f"no {suffix} file (it begins with {head or b'nothing'!r})"


# --- readers ------------------------------------------------------------------------------------------


def _read_grid(table: Table, path: Path, points: np.ndarray, progress: bool) -> np.ndarray:
    """The cells of a GeoTIFF in degrees in which positions (n, 2) lie: float64 (n,), NaN where unknown."""
    try:
        import rasterio
    except ImportError as error:
        raise ImportError("grids are read with rasterio: pip install geonb[real]") from error
    with _unpacked(table, path, {table.member: "grid.tif"} if table.member else {}) as folder:
        file = folder / "grid.tif" if table.member else path
        try:
            with rasterio.open(file, driver="GTiff") as grid:
                return _sample(table, path, grid, points, progress)
        except raster_errors() as error:
            raise LabelError(f"{path}: the grid cannot be read ({error}); remove the file and try again") from error


def _sample(table: Table, path: Path, grid: Any, points: np.ndarray, progress: bool) -> np.ndarray:
    across, skew, west, tilt, down, north = grid.transform[:6]
    if (grid.crs is not None and not grid.crs.is_geographic) or skew or tilt or across <= 0 or down >= 0:
        raise LabelError(f"{path}: the grid is not in degrees with north up ({grid.crs}, {tuple(grid.transform[:6])})")
    height, width = grid.block_shapes[0]
    if height * width > MAX_BLOCK_CELLS:
        raise LabelError(f"{path}: the grid has blocks of {height} x {width} cells, too large to read at once")
    column, row = (points[:, 0] - west) / across, (points[:, 1] - north) / down
    if abs(grid.width * across - 360) < across / 2:
        column %= grid.width
    column = np.where(column == grid.width, grid.width - 1, np.floor(column))
    row = np.where(row == grid.height, grid.height - 1, np.floor(row))
    inside = (column >= 0) & (column < grid.width) & (row >= 0) & (row < grid.height)
    values = np.full(len(points), np.nan)
    column, row = np.where(inside, column, 0).astype(np.int64), np.where(inside, row, 0).astype(np.int64)
    block = (row // height) * (-(-grid.width // width)) + column // width
    order = np.flatnonzero(inside)[np.argsort(block[inside], kind="stable")]
    groups = np.split(order, np.flatnonzero(np.diff(block[order])) + 1) if len(order) else []
    for rows in tqdm(groups, desc=table.name, unit="block", disable=not progress, leave=False):
        first_row, first_column = row[rows[0]] // height * height, column[rows[0]] // width * width
        last_row, last_column = min(first_row + height, grid.height), min(first_column + width, grid.width)
        cells = grid.read(1, window=((first_row, last_row), (first_column, last_column)))
        values[rows] = cells[row[rows] - first_row, column[rows] - first_column]
    low, high = table.valid
    unknown = ~((values >= low) & (values <= high))
    if grid.nodata:  # 0 is a value in all these tables: no rain, nobody, dark
        unknown |= values == grid.nodata
    values[unknown] = np.nan
    if table.per_km2:
        values /= _cell_km2(north + row * down, north + (row + 1) * down, across)
    return values


def _cell_km2(top: ArrayLike, bottom: ArrayLike, width: float) -> np.ndarray:
    """Areas of cells between two latitudes, ``width`` degrees across, on a sphere (within 0.7 % of the ellipsoid)."""
    band = np.sin(np.radians(np.minimum(top, 90))) - np.sin(np.radians(np.maximum(bottom, -90)))
    return EARTH_RADIUS_KM**2 * np.radians(width) * band


def _read_polygons(table: Table, path: Path, points: np.ndarray, progress: bool) -> np.ndarray:
    """The field of the polygon in which positions (n, 2) lie: objects (n,), None where there is none."""
    try:
        import pyogrio
        import shapely
    except ImportError as error:
        raise ImportError("polygons are read with pyogrio and shapely: pip install geonb[real]") from error
    parts = {f"{table.member}{end}": f"polygons{end}" for end in (".shp", ".shx", ".dbf", ".prj", ".cpg")}
    values = np.full(len(points), None, dtype=object)
    with _unpacked(table, path, parts, optional=(".prj", ".cpg")) as folder:
        file = folder / "polygons.shp"
        with file.open("rb") as stream:
            if stream.read(4) != b"\x00\x00\x27\x0a":
                raise LabelError(f"{path}: {table.member}.shp is no shapefile; remove the file and try again")
        tree = shapely.STRtree(shapely.points(points))
        try:
            info = pyogrio.read_info(file)
            if table.field not in info["fields"]:
                raise LabelError(f"{path}: no field {table.field!r}; there are {', '.join(info['fields'])}")
            steps = range(0, info["features"], FEATURES_AT_ONCE)
            for first in tqdm(steps, desc=table.name, unit="step", disable=not progress, leave=False):
                _, _, shapes, (names,) = pyogrio.raw.read(
                    file, columns=[table.field], skip_features=first, max_features=FEATURES_AT_ONCE
                )
                _fill(values, tree, shapely.from_wkb(shapes), names, path)
        except (pyogrio.errors.DataSourceError, pyogrio.errors.GeometryError, shapely.errors.ShapelyError) as error:
            raise LabelError(f"{path}: the polygons cannot be read ({error}); remove the file and try again") from error
    return values


def _fill(values: np.ndarray, tree: Any, shapes: np.ndarray, names: np.ndarray, path: Path) -> None:
    """Give the points of a tree that lie in shapes their names; the first of several keeps its place."""
    import shapely

    bounds = shapely.bounds(shapes)
    if np.nanmax(np.abs(bounds), initial=0) > 180.001:
        raise LabelError(f"{path}: the polygons are not in degrees (they reach {np.nanmax(np.abs(bounds)):,.0f})")
    pieces, whose = shapely.get_parts(shapes, return_index=True)
    piece, point = tree.query(pieces, predicate="intersects")
    for which, at in sorted(zip(whose[piece].tolist(), point.tolist(), strict=True)):
        name = None if names[which] is None else str(names[which]).strip()
        if values[at] is None and name is not None and name not in UNKNOWN:
            values[at] = name


def _read_california(table: Table, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Positions (n, 2) and median house values (n,) of the block groups.

    Columns: longitude, latitude, age, rooms, bedrooms, population, households, median income, median house value.
    """
    try:
        with gzip.open(path) as stream:
            data = stream.read(table.max_member_bytes + 1)
        if len(data) > table.max_member_bytes:
            raise LabelError(f"{path}: more than {table.max_member_bytes:,} bytes when unpacked; it is not the table")
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            member = archive.getmember(table.member)
            if not member.isfile():
                raise LabelError(f"{path}: {table.member} is no plain file")
            content = archive.extractfile(member)
            assert content is not None, "a plain file has content"
            rows = np.loadtxt(io.TextIOWrapper(content, "ascii"), delimiter=",", ndmin=2)
    except KeyError as error:
        raise LabelError(f"{path}: no {table.member} in it; remove the file and try again") from error
    except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError) as error:
        if isinstance(error, LabelError):
            raise
        raise LabelError(f"{path}: cannot be read ({error}); remove the file and try again") from error
    if rows.shape[1] != 9:
        raise LabelError(f"{path}: {rows.shape[1]} columns, not 9; it is not the table")
    values = rows[:, 8].copy()
    low, high = table.valid
    values[~((values >= low) & (values <= high))] = np.nan
    return check_lonlat(rows[:, :2], where=str(path)), values


@contextmanager
def _unpacked(table: Table, path: Path, members: dict[str, str], optional: tuple[str, ...] = ()) -> Iterator[Path]:
    """Members of a zip file as files of a folder of their own, which is removed afterwards.

    It lies beside the zip file, or among the system's temporary files where nothing can be written there.

    Args:
        members: name in the archive, without folders -> name in the folder. Nothing else is unpacked, and no name
            from the archive becomes a path.
        optional: endings of members that may be missing.
    """
    beside = path.parent if os.access(path.parent, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix=".unpacked-", dir=beside) as name:
        folder = Path(name)
        try:
            if members:
                _unpack(table, path, members, optional, folder)
        except DownloadError as error:
            raise LabelError(str(error)) from error
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            raise LabelError(f"{path}: not a whole zip file ({error}); remove it and try again") from error
        yield folder


def _unpack(table: Table, path: Path, members: dict[str, str], optional: tuple[str, ...], folder: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if len(entries) > MAX_MEMBERS:
            raise LabelError(f"{path}: {len(entries):,} members; it is not the file expected")
        for member, target in members.items():
            found = [e for e in entries if not e.is_dir() and PurePosixPath(e.filename).name == member]
            if not found and member.endswith(optional or ("\0",)):
                continue
            if len(found) != 1:
                raise LabelError(f"{path}: {len(found)} members are called {member}, not one")
            limit = table.max_member_bytes
            if found[0].file_size > limit:
                raise LabelError(f"{path}: {member} has {found[0].file_size:,} bytes, at most {limit:,} are expected")
            check_disk(folder, found[0].file_size, ELSEWHERE)
            with archive.open(found[0]) as source, (folder / target).open("wb", buffering=0) as out:
                size = 0
                while chunk := source.read(CHUNK):
                    size += len(chunk)
                    if size > limit:
                        raise LabelError(f"{path}: {member} has more than the {limit:,} bytes expected")
                    put(out, chunk, folder / target, ELSEWHERE)
