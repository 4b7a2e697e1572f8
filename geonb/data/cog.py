"""Windows of GeoTIFFs on the network: the header is fetched, then only the tiles that a window touches.

A cloud-optimised GeoTIFF has its tables of tiles at the front, so one or two small requests tell where each tile lies
(HTTP ranges; RFC 9110, 14). What was fetched is handed to GDAL as a file with holes, in memory. GDAL itself never opens
an address: whatever an index or a catalogue says, nothing but the bytes of one GeoTIFF reaches it, and of its drivers
only that one. Errors keep their HTTP status, so that a signature that expired is not taken for a file that is gone.

Formats: TIFF 6.0 (Adobe, 1992), BigTIFF, and GDAL's documentation of cloud-optimised GeoTIFF and ``/vsisparse``.
Tests run against a server on the loopback interface; no address on the internet was tried.
"""

from __future__ import annotations

import ipaddress
import json as _json
import re
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

import numpy as np

from geonb.data._raster import raster_errors
from geonb.data.download import (
    AGENT,
    MAX_BACKOFF_S,
    MAX_WAIT_S,
    RETRY,
    DownloadError,
    NetworkAbsent,
    plain,
    retry_after,
)

ATTEMPTS = 6
TIMEOUT_S = 30  # of a silence
MAX_ANSWER_S = 300  # of a whole answer
HEAD = 1 << 16  # fetched at first, and at least, of a header
MAX_HEADER = 32 << 20
JOIN = 1 << 16  # tiles that lie closer are fetched in one request
MAX_REQUEST = 32 << 20
PARALLEL = 8  # requests for one window at a time
MAX_WINDOW = 1 << 30  # fetched for one window
MAX_BLOCK = 256 << 20  # an unpacked tile
MAX_EDGE = 1_000_000  # pixels
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
WHOLE_NUMBERS = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}

_sleep = time.sleep

Sign = Callable[[str, bool], str]
"""An address, and whether its last signature was refused -> the address with a signature."""


class Unreadable(Exception):
    """A file that another try will not mend: not there, refused, damaged, or of another kind."""


def allowed(url: Any) -> bool:
    """Whether an address from outside may be asked: https, or http on this machine, and nothing hidden in it."""
    if not isinstance(url, str) or len(url) > 4000 or re.search(r"[\x00-\x20\x7f-\x9f\\]", url):
        return False
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    if not host or "@" in parts.netloc:
        return False
    if parts.scheme == "https":
        return True
    try:
        return parts.scheme == "http" and (host == "localhost" or ipaddress.ip_address(host).is_loopback)
    except ValueError:
        return False


# --- requests -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes


class Http:
    """Requests over connections that are kept, asked again where that may help. Threads may share one.

    Tried again are 408, 425, 429 and 5xx, time-outs, and bodies that are cut or not what they should be, after as long
    as ``Retry-After`` says, else after 1, 2, 4, ... seconds.

    Attributes:
        requests: how many were sent. ``bytes``: of all bodies that came.
    """

    def __init__(self, user_agent: str = AGENT, attempts: int = ATTEMPTS) -> None:
        import requests
        from requests.adapters import HTTPAdapter

        self.attempts, self.requests, self.bytes = attempts, 0, 0
        self._lock, self._errors = threading.Lock(), requests.exceptions
        self._session = requests.Session()
        self._session.headers["User-Agent"] = user_agent
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=32, max_retries=0))

    def ask(
        self,
        method: str,
        url: str,
        *,
        headers: dict[str, str] | None = None,
        json: Any = None,
        params: dict | None = None,
        max_bytes: int = MAX_REQUEST,
        judge: Callable[[Answer], str] = lambda answer: "",
    ) -> Answer:
        """An answer, of whatever status other than those that are tried again.

        Args:
            judge: says what is wrong with an answer of status 200 to 299 and may pass, ``""`` if nothing.

        Raises:
            NetworkAbsent: there is no connection. DownloadError: it stays wrong, or is too large.
        """
        reason, wait, lost = "", 0.0, False
        for attempt in range(self.attempts):
            if attempt:
                _sleep(wait or min(2.0 ** (attempt - 1), MAX_BACKOFF_S))
            wait, lost = 0.0, False
            try:
                answer = self._once(method, url, headers, json, params, max_bytes)
            except (self._errors.RequestException, OSError) as error:
                reason, lost = type(error).__name__, True
                if "NewConnectionError" in repr(error) or "NameResolutionError" in repr(error):
                    raise NetworkAbsent(f"{host_of(url)}: no connection; the same command goes on later") from None
                continue
            if answer.status in RETRY:
                reason = f"HTTP {answer.status}"
                wait = retry_after(answer.headers.get("retry-after", ""))
                if wait > MAX_WAIT_S:
                    raise DownloadError(f"{host_of(url)}: {reason}; it asks to come back in {wait:,.0f} s")
                continue
            reason = judge(answer) if 200 <= answer.status < 300 else ""
            if not reason:
                return answer
        kind = NetworkAbsent if lost else DownloadError
        raise kind(f"{host_of(url)}: {reason} (after {self.attempts} attempts); the same command goes on later")

    def _once(
        self, method: str, url: str, headers: dict[str, str] | None, json: Any, params: dict | None, max_bytes: int
    ) -> Answer:
        for _ in range(5):
            with self._lock:
                self.requests += 1
            options = {"headers": headers, "json": json, "params": params, "timeout": TIMEOUT_S}
            started = time.monotonic()
            with self._session.request(method, url, stream=True, allow_redirects=False, **options) as answer:
                body = bytearray()
                for piece in answer.iter_content(1 << 18):
                    body += piece
                    if len(body) > max_bytes:
                        raise DownloadError(f"{host_of(url)}: an answer of more than {max_bytes:,} bytes")
                    if time.monotonic() - started > MAX_ANSWER_S:
                        raise TimeoutError("an answer that takes too long")
                with self._lock:
                    self.bytes += len(body)
                found = {name.lower(): value for name, value in answer.headers.items()}
                if answer.status_code not in (301, 302, 303, 307, 308):
                    return Answer(answer.status_code, found, bytes(body))
            target = urljoin(url, found.get("location", ""))
            if not allowed(target) or (url.startswith("https:") and not target.startswith("https:")):
                raise DownloadError(f"{host_of(url)} sends on to {plain(target)}; only https is followed")
            url, params = target, None
        raise DownloadError(f"{host_of(url)}: too many redirects")

    def part(self, url: str, first: int, length: int, sign: Sign | None = None) -> tuple[bytes, int, str]:
        """Bytes of a file from ``first`` on (fewer at its end), the length of the whole file, and its ETag.

        Args:
            sign: signs the address, and does so anew when the signature is refused (401, 403 or 409).

        Raises:
            Unreadable: the file is not there, refused, or shorter.
            DownloadError: a new signature was refused too; else as for :meth:`ask`.
        """
        last = first + length - 1

        def judge(answer: Answer) -> str:
            found = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", answer.headers.get("content-range", ""))
            if answer.status != 206 or not found or int(found[1]) != first:
                return f"HTTP {answer.status} where a part of a file was asked for"
            if int(found[2]) != min(last, int(found[3]) - 1) or len(answer.body) != int(found[2]) - first + 1:
                return "a part that is cut"
            return ""

        for renew in (False, True):
            signed = sign(url, renew) if sign else url
            headers = {"Range": f"bytes={first}-{last}", "Accept-Encoding": "identity"}
            answer = self.ask("GET", signed, headers=headers, max_bytes=length + HEAD, judge=judge)
            if answer.status not in (401, 403, 409) or not sign:
                break
        else:
            raise DownloadError(f"{host_of(url)}: HTTP {answer.status}, also with a new signature; try again later")
        if answer.status == 416:
            raise Unreadable("the file is shorter than it says")
        if answer.status != 206:
            raise Unreadable(f"HTTP {answer.status}")
        return answer.body, int(answer.headers["content-range"].rpartition("/")[2]), answer.headers.get("etag", "")


def host_of(url: str) -> str:
    """The host of an address, for a message: what follows may be a signature."""
    return plain(urlsplit(url).netloc)


def parsed_json(answer: Answer) -> Any:
    """The JSON of an answer, or None."""
    try:
        return _json.loads(answer.body.decode("utf-8"), parse_int=lambda n: int(n) if len(n) < 20 else float(n))
    except (ValueError, RecursionError):
        return None


# --- files --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Directory:
    """An image of a TIFF file: where its directory lies, where it names the next one, and tag -> (type, count, at)."""

    at: int
    next_at: int
    tags: dict[int, tuple[int, int, int]]


class RemoteTiff:
    """A GeoTIFF on the network.

    Attributes:
        crs, transform, width, height, count, dtype, nodata: as rasterio gives them.
        levels: edge of a pixel in pixels of the full resolution, for each resolution: ``[1.0, 2.0, 4.0, ...]``.

    Raises:
        Unreadable: it is not there, no GeoTIFF, damaged, or asks for more memory than a tile should.
        DownloadError: it could not be fetched; another try may help.
    """

    def __init__(self, http: Http, url: str, sign: Sign | None = None) -> None:
        if not allowed(url):
            raise Unreadable("an address that is not https")
        self._http, self._url, self._sign = http, url, sign
        self._parts: list[tuple[int, bytes]] = []
        self._total, self._tag = 0, ""
        self._parse()
        with self._opened([], 0) as source:
            self.crs, self.transform, self.nodata = source.crs, source.transform, source.nodata
            self.width, self.height = source.width, source.height
            self.count, self.dtype = source.count, source.dtypes[0]
        if (self.width, self.height) != self.shape(0):
            raise Unreadable("a damaged header")
        self.levels = [self.width / self.shape(level)[0] for level in range(len(self._images))]

    def read(self, col: int, row: int, width: int, height: int, level: int = 0) -> np.ndarray:
        """A window (count, height, width), in pixels of a level and in the order of the file; it must lie inside.

        Raises:
            ValueError: a window that is empty or does not lie inside.
            Unreadable: the file is damaged, or not there any more.
            DownloadError: the file changed while it was read; else as for :meth:`Http.part`.
        """
        from rasterio.windows import Window

        full_w, full_h = self.shape(level)
        if not (0 <= col < col + width <= full_w and 0 <= row < row + height <= full_h):
            raise ValueError(f"window {(col, row, width, height)} of an image of {full_w} x {full_h} pixels")
        with self._opened(self._fetched(self._tiles(level, col, row, width, height)), level) as source:
            return source.read(window=Window(col, row, width, height))

    def pixels(self, crs: str, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Columns and rows (n,) of positions, counted from the first pixel's corner; infinite where there are none.

        Args:
            crs: of the positions, as "EPSG:4326".
            x, y: coordinates (n,) in it, x eastward.

        Raises:
            Unreadable: the file does not say where it lies, or not so that it can be used.
        """
        from rasterio.warp import transform

        if self.crs is None or self.transform.is_degenerate:
            raise Unreadable("it does not say where it lies (no reference system, or pixels without an area)")
        try:
            if f"EPSG:{self.crs.to_epsg()}" != crs:
                x, y = map(np.array, transform(crs, self.crs, x.tolist(), y.tolist()))
            a, b, c, d, e, f = (~self.transform)[:6]
        except raster_errors(ArithmeticError, ValueError) as error:
            raise Unreadable(f"it does not say where it lies ({plain(error)})") from error
        return a * x + b * y + c, d * x + e * y + f

    # what is where

    def _parse(self) -> None:
        head = self._need(0, 16)
        self._order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
        magic = struct.unpack(self._order + "H", head[2:4])[0] if self._order else 0
        if magic not in (42, 43):
            raise Unreadable("no TIFF file")
        self._big = magic == 43
        self._first_at = 8 if self._big else 4
        at = self._number(self._first_at)
        self._directories: list[_Directory] = []
        while at and len(self._directories) < 64 and at not in [d.at for d in self._directories]:
            self._directories.append(self._directory(at))
            at = self._number(self._directories[-1].next_at)
        if not self._directories:
            raise Unreadable("a TIFF file without an image")
        kind = [int(self._values(d, 254, [0])[0]) for d in self._directories]  # 1: of lower resolution; 4: a mask
        smaller = [d for d, k in zip(self._directories[1:], kind[1:], strict=True) if k == 1]
        self._images = [self._directories[0], *smaller]
        for image in self._images:
            for kind, count, at in image.tags.values():
                self._need(at, SIZES.get(kind, 1) * count)
        for level in range(len(self._images)):
            self._check(level)

    def _number(self, at: int) -> int:
        size, code = (8, "Q") if self._big else (4, "I")
        return struct.unpack(self._order + code, self._need(at, size))[0]

    def _directory(self, at: int) -> _Directory:
        counter, entry, inline, code = (8, 20, 8, "HHQ") if self._big else (2, 12, 4, "HHI")
        count = struct.unpack(self._order + ("Q" if self._big else "H"), self._need(at, counter))[0]
        if not 0 < count <= 4096:
            raise Unreadable("a damaged header")
        table, tags = self._need(at + counter, count * entry), {}
        for i in range(count):
            tag, kind, n = struct.unpack_from(self._order + code, table, i * entry)
            where = at + counter + i * entry + entry - inline
            tags[tag] = kind, n, where if SIZES.get(kind, 1) * n <= inline else self._number(where)
        return _Directory(at, at + counter + count * entry, tags)

    def _values(self, directory: _Directory, tag: int, default: list[int]) -> np.ndarray:
        if tag not in directory.tags:
            return np.array(default, np.uint64)
        kind, count, at = directory.tags[tag]
        if kind not in WHOLE_NUMBERS or not count:
            raise Unreadable("a damaged header")
        data = self._need(at, SIZES[kind] * count)
        return np.frombuffer(data, self._order + WHOLE_NUMBERS[kind]).astype(np.uint64)

    def _one(self, level: int, tag: int, default: int = 0) -> int:
        return int(self._values(self._images[level], tag, [default])[0])

    def shape(self, level: int) -> tuple[int, int]:
        """Width and height of a level."""
        return self._one(level, 256), self._one(level, 257)

    def block(self, level: int) -> tuple[int, int]:
        """Width and height of a tile; strips are tiles as wide as the image."""
        width, height = self.shape(level)
        if 322 in self._images[level].tags:
            return self._one(level, 322), self._one(level, 323)
        return width, min(self._one(level, 278, height), height)

    def _check(self, level: int) -> None:
        (width, height), block = self.shape(level), self.block(level)
        samples, bits = self._one(level, 277, 1), int(self._values(self._images[level], 258, [1]).max())
        inside = samples if self._one(level, 284, 1) == 1 else 1
        sizes = (width, height, *block, samples, bits)
        if not all(0 < size <= MAX_EDGE for size in sizes) or block[0] * block[1] * inside * bits > 8 * MAX_BLOCK:
            raise Unreadable(f"{width} x {height} pixels in tiles of {block[0]} x {block[1]} and {samples} bands")

    def _tiles(self, level: int, col: int, row: int, width: int, height: int) -> list[tuple[int, int]]:
        """(first, length) of the packed tiles under a window; tiles without content left out."""
        image, (block_w, block_h) = self._images[level], self.block(level)
        full_w, full_h = self.shape(level)
        across, down = -(-full_w // block_w), -(-full_h // block_h)
        planes = self._one(level, 277, 1) if self._one(level, 284, 1) == 2 else 1
        offsets, counts = (
            self._values(image, a if a in image.tags else b, []) for a, b in ((324, 273), (325, 279))
        )
        if len(offsets) != across * down * planes or len(counts) != len(offsets):
            raise Unreadable("a damaged header")
        cols = np.arange(col // block_w, (col + width - 1) // block_w + 1)
        rows = np.arange(row // block_h, (row + height - 1) // block_h + 1)
        index = np.arange(planes)[:, None, None] * across * down + rows[:, None] * across + cols
        index = index.ravel()[counts[index.ravel()] > 0]
        tiles = [(int(offsets[i]), int(counts[i])) for i in index]
        if any(first + length > self._total for first, length in tiles):
            raise Unreadable("the file is shorter than it says")
        if sum(length for _, length in tiles) > MAX_WINDOW:
            raise Unreadable(f"a window of more than {MAX_WINDOW:,} bytes")
        return tiles

    # what was fetched

    def _need(self, first: int, length: int) -> bytes:
        """Bytes of the header; fetched where they are not here."""
        for start, data in self._parts:
            if start <= first and first + length <= start + len(data):
                return data[first - start : first - start + length]
        if self._parts and first + length > self._total:
            raise Unreadable("the file is shorter than it says")
        if length > MAX_HEADER or sum(len(data) for _, data in self._parts) > MAX_HEADER:
            raise Unreadable("a header that is too large")
        data = self._get(first, max(length, HEAD))
        if len(data) < length:
            raise Unreadable("the file is shorter than it says")
        self._parts.append((first, data))
        return data[:length]

    def _get(self, first: int, length: int) -> bytes:
        data, total, tag = self._http.part(self._url, first, length, self._sign)
        if self._parts and (total, tag) != (self._total, self._tag):
            raise DownloadError(f"{host_of(self._url)}: a file changed while it was read; try again")
        self._total, self._tag = total, tag
        return data

    def _fetched(self, tiles: list[tuple[int, int]]) -> list[tuple[int, bytes]]:
        """Tiles with the few bytes around them in which GDAL's own tiles have their length."""
        ranges: list[list[int]] = []
        for first, length in sorted(tiles):
            start, end = max(0, first - 8), min(self._total, first + length + 8)
            if ranges and start - ranges[-1][1] <= JOIN and end - ranges[-1][0] <= MAX_REQUEST:
                ranges[-1][1] = max(ranges[-1][1], end)
            else:
                ranges.append([start, end])
        wanted = [
            (at, min(MAX_REQUEST, end - at)) for start, end in ranges for at in range(start, end, MAX_REQUEST)
        ]
        if len(wanted) < 2:
            return [(at, self._get(at, length)) for at, length in wanted]
        with ThreadPoolExecutor(min(PARALLEL, len(wanted))) as pool:
            return list(zip([at for at, _ in wanted], pool.map(lambda one: self._get(*one), wanted), strict=True))

    @contextmanager
    def _opened(self, tiles: list[tuple[int, bytes]], level: int) -> Iterator[Any]:
        """The image and one level of it, as a file with holes in which there are only those tiles."""
        import rasterio
        from rasterio.io import MemoryFile

        code = self._order + ("Q" if self._big else "I")
        chain = [self._images[0], *([self._images[level]] if level else [])]
        links = {self._first_at: chain[0].at, chain[-1].next_at: 0}
        if level:
            links[chain[0].next_at] = chain[1].at
        # the header first: GDAL takes the first part that has a byte
        parts = [(start, _patched(start, data, links, code)) for start, data in self._parts] + tiles
        regions, at = [], 0
        with ExitStack() as stack:
            content = stack.enter_context(MemoryFile(b"".join(data for _, data in parts)))
            for start, data in parts:
                regions.append(
                    f'<SubfileRegion><Filename relative="0">{content.name}</Filename><DestinationOffset>{start}'
                    f"</DestinationOffset><SourceOffset>{at}</SourceOffset><RegionLength>{len(data)}</RegionLength>"
                    "</SubfileRegion>"
                )
                at += len(data)
            xml = f"<VSISparseFile><Length>{self._total}</Length>{''.join(regions)}</VSISparseFile>"
            holes = stack.enter_context(MemoryFile(xml.encode()))
            stack.enter_context(rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR", GDAL_PAM_ENABLED="NO"))
            options = {"overview_level": 0} if level else {}
            try:
                path = f"/vsisparse/{holes.name}"
                yield stack.enter_context(rasterio.open(path, driver="GTiff", sharing=False, **options))
            except raster_errors() as error:
                raise Unreadable(f"a damaged GeoTIFF ({plain(str(error.__cause__ or error))})") from error


def _patched(start: int, data: bytes, links: dict[int, int], code: str) -> bytes:
    """A part of the header whose chain of images is the one wanted, so that nothing is looked for in the holes."""
    patched = bytearray(data)
    for at, target in links.items():
        if start <= at and at + struct.calcsize(code) <= start + len(data):
            struct.pack_into(code, patched, at - start, target)
    return bytes(patched)
