"""Sentinel-2 chips without a login: scenes found through STAC, of which only the tiles around a position are fetched.

Two open catalogues (:data:`CATALOGUES`): Earth Search of Element 84 on AWS, and Microsoft's Planetary Computer, whose
files want an anonymous signature that lasts about 45 minutes; it is made when a file is read, and again when refused.

**Offset.** Since processing baseline 04.00 (25 January 2022) the digital numbers of L2A products are 10,000 x
reflectance + 1000. Some catalogues take the 1000 off and some do not, and what they say about it is at times wrong
(Element84/earth-search issues 9, 24, 66 and 71; microsoft/PlanetaryComputer issue 134). So what an item says
(:func:`declared_offset`) is checked against its pixels (:func:`seen_offset`). Where the pixels leave no doubt, they
decide, and the column ``offset_rule`` says so; where they only cast doubt, the scene is passed over.

Two ways to make a chip of a period:

- ``"least_cloudy"``: the acquisition with the fewest clouds whose chip is clear by its scene classification (SCL). The
  cloud cover of the whole scene only decides the order. All pixels are of one moment.
- ``"median"``: for each pixel and band the median of its clear views, of at least ``min_views``.

An acquisition may lie in several files: tiles of Sentinel-2 overlap, and those of the next UTM zone are brought to the
grid of the chip. It is the grid of the zone of the position, with whole 10 m, the same that
:mod:`geonb.data.sources.earthengine` uses. Bands of 10 m and SCL are taken at the nearest pixel, bands of 20 and 60 m
between the four nearest (bilinear), at the exact centres of the pixels of the chip.

Scenes are searched with pystac-client. Pixels are read by :mod:`geonb.data.cog` and not by odc-stac, which gives the
same pixels (there is a test): addresses and sizes in an item are then never given to GDAL, a signature that expired
can be told from a file that is gone, and chips at the antimeridian lose nothing (odc-stac issues 165 and 172).

Two runs give the same store as long as the catalogue answers alike; new or reprocessed scenes change it.

Tests run against a catalogue on the loopback interface with generated scenes in the true format. Neither live
catalogue was tried, nor was the time that a real scene takes measured.
"""

from __future__ import annotations

import math
import re
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from geonb._util import lasting
from geonb.data.cog import Answer, Http, RemoteTiff, Sign, Unreadable, allowed, host_of, parsed_json
from geonb.data.download import AGENT, DownloadError, contact_from, plain, user_agent
from geonb.data.sentinel2 import BANDS, MIN_SIZE, OFFSET, OFFSET_FROM, SCALE, radiometric_offset
from geonb.data.sources.chips import Chip, Fetch, chip_store
from geonb.data.sources.earthengine import GSD_M, Grid, chip_grid, utm_epsg
from geonb.data.store import PlaceStore
from geonb.geo import check_lonlat

METHODS = ("least_cloudy", "median")
LICENSE = "free and open (Copernicus Sentinel data terms); contains modified Copernicus Sentinel data"

COVERED = (1, 3, 8, 9, 10)  # classes of SCL: defective, cloud shadow, cloud (medium, high probability), thin cirrus
DARK = (2, 4, 6)  # topographic shadow, vegetation, water
COARSE = ("B1", "B5", "B6", "B7", "B8A", "B9", "B11", "B12")  # 20 and 60 m

MAX_SIZE = 1024
MAX_JSON = 64 << 20
MAX_ITEMS = 500  # looked at for one chip
MAX_TRIED = 12  # acquisitions whose SCL is read for one chip
MAX_TILES = 8  # files of one acquisition that touch one chip
SAME_PASS = timedelta(minutes=10)
MAX_WORKERS = 16
BATCH = 8
TILE_BYTES = 1.5e6  # of a packed tile of 1024 x 1024 pixels; an assumption for estimate()
REQUEST_S = 0.2

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,199}")

OUTSIDE = "outside UTM (beyond 80 S or 84 N)"
NO_SCENE = "no scene in the period"
REFUSED = "only items that are refused (an address that is not https, or an asset that is missing)"
BROKEN = "only scenes that cannot be read"
PARTIAL = "no scene covers the chip"
CLOUDY = "no scene is clear over the chip"
UNCLEAR = "the pixels cast doubt on what is said of the offset"


@dataclass(frozen=True)
class Catalogue:
    """A STAC API and its collection of Sentinel-2 L2A.

    Attributes:
        url: of its landing page. ``assets``: for each of the 12 bands, and "SCL", the name of its asset.
        signed: whether files want a signature of the Planetary Computer.
        simulated: whether its scenes are, as those of :mod:`geonb.data.practice`.
    """

    name: str
    url: str
    collection: str
    assets: Mapping[str, str]
    source: str
    license: str = LICENSE
    signed: bool = False
    simulated: bool = False


_COLOURS = dict(
    zip(
        [*BANDS, "SCL"],
        ("coastal", "blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08", "nir09", "swir16",
         "swir22", "scl"),
        strict=True,
    )
)  # fmt: skip
_NUMBERS = {band: f"B0{band[1:]}" if len(band) == 2 else band for band in BANDS} | {"SCL": "SCL"}
_EARTH_SEARCH = "https://earth-search.aws.element84.com/v1"

CATALOGUES = {
    one.name: one
    for one in (
        Catalogue(
            "earth-search", _EARTH_SEARCH, "sentinel-2-c1-l2a", _COLOURS,
            "Copernicus Sentinel-2 Collection 1 L2A through Earth Search (Element 84, AWS Open Data)",
        ),
        Catalogue(
            "earth-search-l2a", _EARTH_SEARCH, "sentinel-2-l2a", _COLOURS,
            "Copernicus Sentinel-2 L2A through Earth Search (Element 84, AWS Open Data)",
        ),
        Catalogue(
            "planetary-computer", "https://planetarycomputer.microsoft.com/api/stac/v1", "sentinel-2-l2a", _NUMBERS,
            "Copernicus Sentinel-2 L2A through the Microsoft Planetary Computer", signed=True,
        ),
    )
}  # fmt: skip
"""By name. Collection 1 (``earth-search``) is processed anew by one baseline; of 2022 and before it has gaps, for which
there is ``earth-search-l2a``."""


# --- the offset ---------------------------------------------------------------------------------------


class UnclearOffset(ValueError):
    """It cannot be said whether an offset is in the numbers of a scene."""


@dataclass(frozen=True)
class Reflectance:
    """Digital numbers turned into reflectance x 10000.

    Attributes:
        image: uint16, as the digital numbers. ``offset``: that was taken off. ``rule``: which said so.
        clipped: share of the values that there are which lay below the offset and became 0.
    """

    image: np.ndarray
    offset: int
    rule: str
    clipped: float


def declared_offset(item: Mapping, catalogue: Catalogue) -> tuple[int, str]:
    """The offset that is in the numbers of an item, as its metadata say: (0 or 1000, the rule that tells).

    In this order: ``earthsearch:boa_offset_applied``, where true (the offset in ``raster:bands`` of such items is left
    over from before, as Element 84 says in issue 9); the offset in ``raster:bands`` or ``bands``;
    ``s2:processing_baseline``, 04.00 or higher; the day of acquisition, 2022-01-25 or later.

    Raises:
        UnclearOffset: another offset or scale than 0 or 1000 and 1/10000, or not one for all bands.
    """
    properties = item["properties"]
    if properties.get("earthsearch:boa_offset_applied") is True:
        return 0, "boa_offset_applied"
    found = set()
    for band in BANDS:
        scale, offset = _scale_and_offset(item["assets"][catalogue.assets[band]])
        if offset is not None:
            if not (_number(scale) and _number(offset)) or abs(scale * SCALE - 1) > 1e-6:
                raise UnclearOffset(f"a scale of {plain(scale)} and an offset of {plain(offset)}")
            found.add(round(-offset / scale))
    if found:
        if len(found) > 1 or not found <= {0, OFFSET}:
            raise UnclearOffset(f"offsets of {sorted(found)}")
        return found.pop(), "raster:bands"
    baseline = _baseline(properties)
    if baseline:
        return (OFFSET if float(baseline) >= 4 else 0), "processing_baseline"
    return (OFFSET if str(properties.get("datetime"))[:10] >= OFFSET_FROM else 0), "date"


def _scale_and_offset(asset: Mapping) -> tuple:
    for bands, prefix in (("raster:bands", ""), ("bands", "raster:")):
        first = asset.get(bands)
        first = first[0] if isinstance(first, list) and first else None
        for holder in (first, asset if prefix else None):
            if isinstance(holder, Mapping) and holder.get(f"{prefix}offset") is not None:
                return holder.get(f"{prefix}scale", 1 / SCALE), holder[f"{prefix}offset"]
    return None, None


def _baseline(properties: Mapping) -> str:
    """The processing baseline, such as "05.10"; ``""`` where it is not told."""
    for name in ("s2:processing_baseline", "processing:version"):
        value = str(properties.get(name, ""))
        if re.fullmatch(r"[0-9]{1,2}\.[0-9]{1,2}", value):
            return value
    return ""


def _number(value: Any) -> bool:
    """Whether it is a number, finite and not beyond all reason: arithmetic with it does not overflow."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e100


def seen_offset(dn: np.ndarray, scl: np.ndarray | None = None) -> int | None:
    """The offset that the pixels of a chip show: 0, 1000, or None where they leave a doubt.

    The darkest band of water, plants and shadow has a reflectance near 0. Which pixels these are says SCL, and what
    differences of bands say, in which an offset cancels: much more near infrared than red and more green than red
    (plants); more green than infrared and no short-wave infrared (water).

    - A hundredth of the chip below 500 in some band, a twentieth below 700, or half of what is dark below 800: there is
      no offset, else their reflectance were below -0.05, -0.03 or -0.02.
    - At least a hundredth of the chip is dark, and the 1st percentile of its darkest band is 850 or more: the offset is
      there.

    On twelve real chips the 1st percentile of the darkest band is 182 to 410 without an offset, 879 or more with it.

    Args:
        dn: (12, H, W), bands as in :data:`geonb.data.sentinel2.BANDS`; 0 is no data.
        scl: classes (H, W), where they are known. What is covered by clouds is not looked at.
    """
    usable = (dn > 0).all(0)
    if scl is not None:
        usable &= ~np.isin(scl, COVERED)
    if usable.sum() < 16:
        return None
    b = {band: dn[i].astype(np.int32) for i, band in enumerate(BANDS)}
    plants = (b["B8"] - b["B4"] > 1800) & (b["B3"] > b["B4"])
    water = (b["B3"] - b["B8"] > 100) & (b["B8"] - b["B12"] < 300) & (abs(b["B11"] - b["B12"]) < 150)
    dark = usable & (plants | water | (np.isin(scl, DARK) if scl is not None else False))
    enough = dark.sum() >= max(16, usable.sum() / 100)
    hundredth, twentieth = np.percentile(dn[:, usable], [1, 5], axis=1).min(1)
    if hundredth < 500 or twentieth < 700 or (enough and np.median(dn[:, dark], axis=1).min() < 800):
        return 0
    return OFFSET if enough and np.percentile(dn[:, dark], 1, axis=1).min() >= 850 else None


def to_reflectance_dn(
    dn: np.ndarray, item: Mapping, catalogue: Catalogue, scl: np.ndarray | None = None
) -> Reflectance:
    """Digital numbers of an item as reflectance x 10000, without any offset; checked against the pixels.

    No data (0) stays 0, and so becomes what lies below the offset.

    Args:
        dn: uint16 (12, H, W). ``scl``: classes (H, W), if known.
        item: the STAC item, as JSON.

    Raises:
        UnclearOffset: the metadata are of no use, or the pixels cast doubt on them without being sure.
    """
    offset, rule = declared_offset(item, catalogue)
    seen = seen_offset(dn, scl)
    if seen is None and not offset and radiometric_offset(dn):
        raise UnclearOffset(f"no offset by {rule}, but nothing is dark")
    if seen is not None and seen != offset:
        offset, rule = seen, f"pixels against {rule}"
    there = dn > 0
    image = np.where(there, np.clip(dn.astype(np.int32) - offset, 0, None), 0).astype(np.uint16)
    return Reflectance(image, offset, rule, float((there & (dn < offset)).sum() / max(there.sum(), 1)))


# --- scenes -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scene:
    id: str
    time: datetime
    platform: str
    baseline: str
    cloud: float  # per cent of the scene; 100 where it is not told
    item: dict = field(repr=False)

    def href(self, catalogue: Catalogue, band: str) -> str:
        return self.item["assets"][catalogue.assets[band]]["href"]


def _scene(item: Any, catalogue: Catalogue) -> _Scene | None:
    """An item that is fit to be read, or None: no usable name or time, a band is missing, or an address is refused."""
    try:
        properties, assets, name = item["properties"], item["assets"], item["id"]
        hrefs = [assets[asset]["href"] for asset in catalogue.assets.values()]
        time = datetime.fromisoformat(properties["datetime"].replace("Z", "+00:00"))
        utc = time.astimezone(UTC)
        cloud = properties.get("eo:cloud_cover")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None
    if not (isinstance(name, str) and _ID.fullmatch(name) and time.tzinfo and all(map(allowed, hrefs))):
        return None
    cloud = float(cloud) if _number(cloud) and 0 <= cloud <= 100 else 100.0
    platform = re.sub(r"[^A-Za-z0-9-]", "", str(properties.get("platform", "")))[:40]
    return _Scene(name, utc, platform, _baseline(properties), cloud, item)


def _acquisitions(scenes: Sequence[_Scene]) -> list[list[_Scene]]:
    """Scenes of one pass together, the newest processing first; the passes with the fewest clouds first."""
    passes: list[list[_Scene]] = []
    for scene in sorted(scenes, key=lambda s: (s.platform, s.time, s.id)):
        last = passes[-1][-1] if passes else None
        if last and last.platform == scene.platform and scene.time - last.time < SAME_PASS:
            passes[-1].append(scene)
        else:
            passes.append([scene])
    passes = [sorted(one, key=lambda s: (_negated(s.baseline), s.id))[:MAX_TILES] for one in passes]
    return sorted(passes, key=lambda one: (min(s.cloud for s in one), min(s.time for s in one), one[0].id))


def _negated(baseline: str) -> float:
    return -float(baseline or 0)


def _boxes(grid: Grid) -> list[list[float]]:
    """(west, south, east, north) of a chip in degrees; two where it lies on both sides of the antimeridian."""
    from rasterio.warp import transform

    steps = np.linspace(0, grid.size * GSD_M, 9)
    x, y = (grid.west + np.tile(steps, 9)).tolist(), (grid.north - np.repeat(steps, 9)).tolist()
    lon, lat = map(np.array, transform(f"EPSG:{grid.epsg}", "EPSG:4326", x, y))
    middle = lon[40]
    away = (lon - middle + 180) % 360 - 180
    west, east, south, north = middle + away.min(), middle + away.max(), lat.min(), lat.max()
    if west < -180:
        spans = [(west + 360, 180.0), (-180.0, east)]
    elif east > 180:
        spans = [(west, 180.0), (-180.0, east - 360)]
    else:
        spans = [(west, east)]
    return [[round(float(v), 7) for v in (a, south, b, north)] for a, b in spans]


class _Search:
    """Searches of one catalogue; the connection is opened at the first. Threads may share it."""

    def __init__(self, http: Http, catalogue: Catalogue, period: tuple[str, str], max_scene_cloud: float) -> None:
        self._http, self._catalogue, self._cloud = http, catalogue, max_scene_cloud
        self._start, self._end = (datetime.fromisoformat(day).replace(tzinfo=UTC) for day in period)
        self._lock, self._client = threading.Lock(), None

    def scenes(self, grid: Grid) -> tuple[list[_Scene], int]:
        """The scenes of the period that touch a chip and are not too cloudy, and how many items were refused."""
        found: dict[str, _Scene] = {}
        refused: set[str] = set()
        for box in _boxes(grid):
            for item in self._items(box):
                scene = _scene(item, self._catalogue)
                if scene is None:
                    refused.add(repr(item.get("id") if isinstance(item, dict) else item)[:300])
                elif self._start <= scene.time < self._end and scene.cloud <= self._cloud:
                    found.setdefault(scene.id, scene)
        return list(found.values()), len(refused)

    def _items(self, box: list[float]) -> list:
        from pystac_client import ConformanceClasses
        from pystac_client.exceptions import APIError

        last = self._end - timedelta(seconds=1)
        try:
            client = self._opened()
            options: dict[str, Any] = {}
            if client.conforms_to(ConformanceClasses.SORT):
                options["sortby"] = [{"field": "properties.eo:cloud_cover", "direction": "asc"}]
            if client.conforms_to(ConformanceClasses.QUERY):
                options["query"] = {"eo:cloud_cover": {"lte": self._cloud}}
            search = client.search(
                collections=[self._catalogue.collection], bbox=box, limit=100, max_items=MAX_ITEMS,
                datetime=f"{self._start:%Y-%m-%dT%H:%M:%SZ}/{last:%Y-%m-%dT%H:%M:%SZ}", **options,
            )  # fmt: skip
            return list(islice(search.items_as_dicts(), MAX_ITEMS))
        except DownloadError:
            raise
        except (APIError, NotImplementedError, LookupError, TypeError, AttributeError, ValueError) as error:
            raise DownloadError(
                f"{host_of(self._catalogue.url)}: the catalogue does not answer as a STAC API does "
                f"({type(error).__name__}: {plain(error)}); try another one, or later"
            ) from error

    def _opened(self):
        from pystac_client import Client

        with self._lock:
            if self._client is None:
                self._client = Client.open(self._catalogue.url, stac_io=_io(self._http, self._catalogue.url))
            return self._client


def _io(http: Http, url: str) -> Any:
    """What pystac-client asks through: our requests, of one host, and never a file."""
    from pystac import Link
    from pystac_client.stac_api_io import StacApiIO

    class Io(StacApiIO):
        def request(self, href, method=None, headers=None, parameters=None):
            if not allowed(href) or host_of(href) != host_of(url):
                raise DownloadError(f"{host_of(url)}: the catalogue sends on to {plain(href)}, which is refused")
            method = (method or "GET").upper()
            body = {"json": parameters} if method == "POST" else {"params": parameters}
            answer = http.ask(method, href, headers=headers, max_bytes=MAX_JSON, judge=_no_stac, **body)
            if answer.status != 200:
                said = plain(answer.body[:300].decode("utf-8", "replace"))
                raise DownloadError(f"{host_of(url)}: HTTP {answer.status}: {said}")
            return answer.body.decode("utf-8")

        def read_text(self, source, *args, **kwargs):
            if isinstance(source, Link):
                return super().read_text(source, *args, **kwargs)
            return self.request(str(source), *args, **kwargs)

    return Io(max_retries=None)


def _no_stac(answer: Answer) -> str:
    """Services say that something is wrong with HTTP 200, too."""
    found = parsed_json(answer)
    if isinstance(found, dict) and isinstance(found.get("type"), str):
        if found["type"] != "FeatureCollection" or isinstance(found.get("features"), list):
            return ""
    return f"an answer that is no STAC: {plain(answer.body[:80].decode('utf-8', 'replace'))}"


def _signature(url: str, renew: bool) -> str:
    """An address with an anonymous signature of the Planetary Computer; signatures are kept until they end."""
    from planetary_computer import sas

    if renew:
        sas.TOKEN_CACHE.clear()
    return sas.sign_url(url)


# --- pixels -------------------------------------------------------------------------------------------


def _checked(tiff: RemoteTiff, band: str) -> RemoteTiff:
    a, b, _, d, e, _ = tiff.transform[:6]
    kind = "uint8" if band == "SCL" else "uint16"
    if tiff.count != 1 or tiff.dtype != kind or tiff.crs is None or not tiff.crs.is_projected:
        raise Unreadable(f"{band} has {tiff.count} bands of {tiff.dtype} in {tiff.crs}")
    unit, metres_each = tiff.crs.linear_units_factor
    if metres_each != 1:
        raise Unreadable(f"{band} is in {plain(unit)}, not in metres")
    if b or d or not any(np.allclose([abs(a), abs(e)], metres, rtol=0.01) for metres in (10, 20, 60)):
        raise Unreadable(f"{band} has pixels of {a:g} x {e:g} m")
    return tiff


def on_grid(tiff: RemoteTiff, grid: Grid, *, smooth: bool) -> np.ndarray:
    """The first band at the centres of the pixels of a chip, (size, size); 0 where there is no data.

    Args:
        smooth: between the four nearest pixels that have data (bilinear), where the nearest one has; else the nearest.
    """
    steps = (np.arange(grid.size) + 0.5) * GSD_M
    x, y = np.tile(grid.west + steps, grid.size), np.repeat(grid.north - steps, grid.size)
    cols, rows = tiff.pixels(f"EPSG:{grid.epsg}", x, y)
    out = np.zeros(grid.size**2, tiff.dtype)
    if not (np.isfinite(cols).all() and np.isfinite(rows).all()):
        return out.reshape(grid.size, grid.size)
    left, right = max(0, math.floor(cols.min()) - 1), min(tiff.width, math.floor(cols.max()) + 2)
    top, bottom = max(0, math.floor(rows.min()) - 1), min(tiff.height, math.floor(rows.max()) + 2)
    if left >= right or top >= bottom:
        return out.reshape(grid.size, grid.size)
    pixels = tiff.read(left, top, right - left, bottom - top)[0]
    cols, rows = cols - left, rows - top

    def at(col, row):
        inside = (col >= 0) & (row >= 0) & (col < pixels.shape[1]) & (row < pixels.shape[0])
        return np.where(inside, pixels[np.where(inside, row, 0), np.where(inside, col, 0)], 0)

    nearest = at(np.floor(cols).astype(np.int64), np.floor(rows).astype(np.int64))
    if not smooth:
        return nearest.reshape(grid.size, grid.size)
    col, row = np.floor(cols - 0.5).astype(np.int64), np.floor(rows - 0.5).astype(np.int64)
    across, down = cols - 0.5 - col, rows - 0.5 - row
    total, weights = np.zeros(len(out)), np.zeros(len(out))
    for dc, dr in ((0, 0), (1, 0), (0, 1), (1, 1)):
        value = at(col + dc, row + dr)
        weight = (across if dc else 1 - across) * (down if dr else 1 - down) * (value > 0)
        total, weights = total + weight * value, weights + weight
    there = (nearest > 0) & (weights > 0)
    out[there] = np.floor(total[there] / weights[there] + 0.5)
    return out.reshape(grid.size, grid.size)


@dataclass
class _View:
    """An acquisition over a chip: its classes, which of its scenes each pixel is from (-1: none), and those scenes."""

    scl: np.ndarray
    owner: np.ndarray
    scenes: list[_Scene]

    @property
    def clear(self) -> np.ndarray:
        return (self.owner >= 0) & ~np.isin(self.scl, COVERED)


@dataclass
class _Image:
    """The bands of a view, 0 where nothing was seen, and what is to be told of them."""

    pixels: np.ndarray
    scenes: list[_Scene]
    made: list[Reflectance]


class _Chips:
    """A source of chips for :func:`geonb.data.sources.chips.chip_store`."""

    def __init__(self, catalogue: Catalogue, http: Http, search: _Search, options: dict) -> None:
        self.catalogue, self.http, self.search, self.options = catalogue, http, search, options
        self.sign: Sign | None = _signature if catalogue.signed else None

    def __call__(self, lonlat: np.ndarray) -> list[Chip | str]:
        return [self.chip(lon, lat) for lon, lat in check_lonlat(lonlat).tolist()]

    def chip(self, lon: float, lat: float) -> Chip | str:
        if not utm_epsg([[lon, lat]])[0]:
            return OUTSIDE
        grid = chip_grid(lon, lat, self.options["size"])
        scenes, refused = self.search.scenes(grid)
        if not scenes:
            return REFUSED if refused else NO_SCENE
        make = self._median if self.options["method"] == "median" else self._least_cloudy
        failed: Counter[str] = Counter()
        chip = make(grid, _acquisitions(scenes), failed)
        if chip is None:
            return next((why for why in (UNCLEAR, CLOUDY, PARTIAL, BROKEN) if failed[why]), CLOUDY)
        chip.columns |= {"epsg": grid.epsg, "refused": refused + failed[BROKEN]}
        return chip

    def _least_cloudy(self, grid: Grid, passes: list[list[_Scene]], failed: Counter) -> Chip | None:
        for one in passes[:MAX_TRIED]:
            view = self._view(one, grid, failed)
            if view is None or not self._good(view, failed):
                continue
            image = self._image(view, grid, failed)
            if image is None:
                continue
            empty = (image.pixels == 0).all(0)
            covered = 1 - float((view.clear & ~empty).mean())
            if covered > self.options["max_cloud"]:
                failed[PARTIAL] += 1
                continue
            return Chip(image.pixels, f"{image.scenes[0].time:%Y-%m-%d}", _told([image], covered))
        return None

    def _median(self, grid: Grid, passes: list[list[_Scene]], failed: Counter) -> Chip | None:
        images, stack = [], []
        for one in passes[:MAX_TRIED]:
            view = self._view(one, grid, failed)
            if view is None or view.clear.mean() < 0.1:
                failed[CLOUDY] += view is not None
                continue
            image = self._image(view, grid, failed)
            if image is None:
                continue
            seen = view.clear & (image.pixels > 0).any(0)
            images.append(image)
            stack.append(np.where(seen, image.pixels, np.nan).astype(np.float32))
            if len(images) == self.options["views"]:
                break
        if len(images) < self.options["min_views"]:
            failed[CLOUDY] += 1
            return None
        values = np.stack(stack)
        enough = (~np.isnan(values[:, 0])).sum(0) >= self.options["min_views"]
        if 1 - enough.mean() > self.options["max_cloud"]:
            failed[CLOUDY] += 1
            return None
        pixels = np.zeros(values.shape[1:], np.uint16)
        pixels[:, enough] = np.rint(np.nanmedian(values[:, :, enough], axis=0))
        return Chip(pixels, "", _told(images, 1 - float(enough.mean())))

    def _good(self, view: _View, failed: Counter) -> bool:
        """Whether enough of the chip is there and clear."""
        if (view.owner < 0).mean() > self.options["max_cloud"]:
            failed[PARTIAL] += 1
        elif 1 - view.clear.mean() > self.options["max_cloud"]:
            failed[CLOUDY] += 1
        else:
            return True
        return False

    def _open(self, scene: _Scene, band: str) -> RemoteTiff:
        return _checked(RemoteTiff(self.http, scene.href(self.catalogue, band), self.sign), band)

    def _view(self, scenes: list[_Scene], grid: Grid, failed: Counter) -> _View | None:
        """The classes of an acquisition; scenes in the zone of the chip come first, others fill what they leave."""
        layers = []
        for scene in scenes:
            try:
                tiff = self._open(scene, "SCL")
                layers.append((tiff.crs.to_epsg() != grid.epsg, scene, on_grid(tiff, grid, smooth=False)))
            except Unreadable:
                failed[BROKEN] += 1
        layers.sort(key=lambda layer: layer[0])
        view = _View(np.zeros((grid.size, grid.size), np.uint8), np.full((grid.size, grid.size), -1), [])
        for _, scene, classes in layers:
            new = (view.owner < 0) & (classes > 0)
            if new.any():
                view.scl[new], view.owner[new] = classes[new], len(view.scenes)
                view.scenes.append(scene)
        if layers and not view.scenes:
            failed[PARTIAL] += 1
        return view if view.scenes else None

    def _image(self, view: _View, grid: Grid, failed: Counter) -> _Image | None:
        image = _Image(np.zeros((len(BANDS), grid.size, grid.size), np.uint16), [], [])
        for i, scene in enumerate(view.scenes):
            mine = view.owner == i
            try:
                dn = np.stack(
                    [on_grid(self._open(scene, band), grid, smooth=band in COARSE).astype(np.uint16) for band in BANDS]
                )
                dn[:, ~(dn > 0).all(0)] = 0  # a pixel that lacks a band lacks all
                made = to_reflectance_dn(np.where(mine, dn, 0), scene.item, self.catalogue, view.scl)
            except Unreadable:
                failed[BROKEN] += 1
                return None
            except UnclearOffset:
                failed[UNCLEAR] += 1
                return None
            image.pixels[:, mine] = made.image[:, mine]
            image.scenes.append(scene)
            image.made.append(made)
        return image


def _told(images: list[_Image], covered: float) -> dict[str, float | str]:
    scenes, made = [s for one in images for s in one.scenes], [m for one in images for m in one.made]

    def joined(values: Iterable[str]) -> str:
        return ";".join(dict.fromkeys(value for value in values if value))

    return {
        "item": joined(s.id for s in scenes), "platform": joined(s.platform for s in scenes),
        "processing_baseline": joined(s.baseline for s in scenes), "cloud_share": round(covered, 6),
        "offset_removed": float(np.mean([m.offset for m in made])), "offset_rule": joined(m.rule for m in made),
        "clipped_share": round(float(np.mean([m.clipped for m in made])), 6), "scenes": len(scenes),
    }  # fmt: skip


# --- use ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """What a request for chips amounts to, before it is made; print it. All but the number of chips is assumed."""

    chips: int
    requests: int
    download_bytes: int
    store_bytes: int
    minutes: float

    def __str__(self) -> str:
        return (
            f"{self.chips:,} chips: about {self.requests:,} requests and {self.download_bytes / 1e9:,.1f} GB to fetch "
            f"(whole tiles of 1024 x 1024 pixels), {self.store_bytes / 1e6:,.0f} MB of chips before compression, "
            f"{lasting(self.minutes)} at {REQUEST_S:g} s a request; assumptions, so try 20 first"
        )


def estimate(n: int, size: int = 64, *, method: str = "least_cloudy", views: int = 8, workers: int = 4) -> Estimate:
    """What n chips of ``size`` pixels will ask of the network and the disk, if every third acquisition is clear."""
    seen, read = (views + 2, views) if method == "median" else (3, 1)
    tiles = (1 + size / 1024) ** 2
    assets = seen + read * len(BANDS)
    requests = n * (1 + 2 * assets)
    return Estimate(
        chips=n,
        requests=requests,
        download_bytes=round(n * (seen * TILE_BYTES / 8 + read * len(BANDS) * TILE_BYTES) * tiles),
        store_bytes=n * size**2 * 2 * len(BANDS),
        minutes=requests * REQUEST_S / workers / 60,
    )


def stac_chips(
    catalogue: str | Catalogue = "earth-search",
    *,
    period: tuple[str, str],
    size: int = 64,
    max_cloud: float = 0.05,
    max_scene_cloud: float = 80.0,
    method: str = "least_cloudy",
    views: int = 8,
    min_views: int = 3,
    contact: str | None = None,
) -> Fetch:
    """A source of chips, to be called with positions (k, 2); several threads may call it.

    Args:
        catalogue: a name of :data:`CATALOGUES`, or another one.
        period: first day, and the day after the last (ISO 8601).
        size: edge of a chip in pixels of 10 m.
        max_cloud: largest share of the chip (0 to 1) that may be covered by clouds or their shadows, or be missing.
            With "median": that may have fewer than ``min_views`` clear views.
        max_scene_cloud: scenes with more clouds (per cent, over their 110 km) are not looked at.
        method: "least_cloudy" or "median"; see the head of this module.
        views: for "median": at most so many acquisitions are used. ``min_views``: a pixel needs so many clear ones.
        contact: an e-mail or https address, sent with each request; else GEONB_CONTACT; else none.

    Returns:
        The source. Its chips have the columns "item" (STAC ids, joined by ";"), "platform", "processing_baseline",
        "cloud_share", "offset_removed" (digital numbers), "offset_rule", "clipped_share" (of values below the offset,
        which became 0), "scenes", "epsg" and "refused" (items that were refused or could not be read). It raises
        :class:`geonb.data.download.DownloadError` where another try may help.

    Raises:
        ValueError: an option that is wrong.
    """
    import os

    catalogue = _catalogue(catalogue)
    options = _options(period, size, max_cloud, max_scene_cloud, method, views, min_views)
    agent = user_agent(contact_from(contact)) if contact or os.environ.get("GEONB_CONTACT") else AGENT
    http = Http(agent)
    return _Chips(catalogue, http, _Search(http, catalogue, options["period"], max_scene_cloud), options)


def _catalogue(catalogue: str | Catalogue) -> Catalogue:
    if isinstance(catalogue, Catalogue):
        return catalogue
    if catalogue not in CATALOGUES:
        raise ValueError(f"unknown catalogue {catalogue!r}; choose from {', '.join(CATALOGUES)}")
    return CATALOGUES[catalogue]


def _options(
    period: tuple[str, str],
    size: int,
    max_cloud: float,
    max_scene_cloud: float,
    method: str,
    views: int,
    min_views: int,
) -> dict:
    try:
        start, end = (date.fromisoformat(day).isoformat() for day in period)
    except (TypeError, ValueError):
        raise ValueError(f"the period {period!r} must be two days, such as ('2024-01-01', '2025-01-01')") from None
    if start >= end:
        raise ValueError(f"the period {start} to {end} (the last day excluded) is empty")
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise ValueError(f"size is {size}, but must be from {MIN_SIZE} to {MAX_SIZE} pixels")
    if not 0 <= max_cloud < 1 or not 0 <= max_scene_cloud <= 100:
        raise ValueError(
            f"max_cloud is {max_cloud} and max_scene_cloud {max_scene_cloud}, but must be a share of the chip below 1 "
            "and per cent of the scene"
        )
    if not 1 <= min_views <= views <= MAX_TRIED:
        raise ValueError(f"min_views is {min_views} and views {views}, but 1 <= min_views <= views <= {MAX_TRIED}")
    return {
        "period": (start, end), "size": size, "max_cloud": max_cloud, "max_scene_cloud": max_scene_cloud,
        "method": method, **({"views": views, "min_views": min_views} if method == "median" else {}),
    }  # fmt: skip


def from_stac(
    out: str | Path,
    where: ArrayLike | PlaceStore,
    *,
    catalogue: str | Catalogue = "earth-search",
    period: tuple[str, str],
    size: int = 64,
    max_cloud: float = 0.05,
    max_scene_cloud: float = 80.0,
    method: str = "least_cloudy",
    views: int = 8,
    min_views: int = 3,
    contact: str | None = None,
    workers: int = 4,
    progress: bool = True,
) -> PlaceStore:
    """A place store with a Sentinel-2 chip at each position where there is one; it can be stopped and goes on.

    Args:
        out: the store's folder.
        where: positions (n, 2) in degrees, or a :class:`PlaceStore` without images, to which chips are added.
        workers: batches of 8 places that are made at a time, at most 16.
        progress: print an estimate first, and show a bar.
        others: as for :func:`stac_chips`.

    Raises:
        ValueError: an option or a position that is wrong.
        WorkError: the catalogue failed (what is finished is kept), or no chip was found.
    """
    catalogue = _catalogue(catalogue)
    options = _options(period, size, max_cloud, max_scene_cloud, method, views, min_views)
    if not 1 <= workers <= MAX_WORKERS:
        raise ValueError(f"{workers} workers: from 1 to {MAX_WORKERS} are polite")
    fetch = stac_chips(
        catalogue, period=period, size=size, max_cloud=max_cloud, max_scene_cloud=max_scene_cloud, method=method,
        views=views, min_views=min_views, contact=contact,
    )  # fmt: skip
    if progress:
        count = len(where if isinstance(where, PlaceStore) else np.asarray(where))
        print(estimate(count, size, method=method, views=views, workers=workers))
    plan = {"source": "stac", "catalogue": catalogue.name, "url": catalogue.url, "collection": catalogue.collection}
    return chip_store(
        out, where, fetch, plan=plan | options, source=f"{catalogue.source} ({catalogue.collection})",
        license=catalogue.license, size=size, gsd_m=GSD_M, batch=BATCH, workers=workers,
        simulated=catalogue.simulated, progress=progress,
    )  # fmt: skip
