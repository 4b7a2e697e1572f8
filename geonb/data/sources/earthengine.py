"""Sentinel-2 chips from Google Earth Engine: one small request a chip, in parallel, within the free quotas.

Surface reflectance is ``COPERNICUS/S2_SR_HARMONIZED``, in which all years have one scale, without the offset of 2022.
What is cloud, haze or shadow says Cloud Score+ (``GOOGLE/CLOUD_SCORE_PLUS/V1/S2_HARMONIZED``, band ``cs_cdf``: 0 is
covered, 1 is clear; 0.50 to 0.65 is advised as the limit; a scene without a score counts as covered). Earth Engine
computes the chip on the 10 m grid of its UTM zone, and ``ee.data.computePixels`` brings it as a NumPy array. Bands of
20 and 60 m are repeated, not smoothed.

Two ways to make a chip of a period (:func:`composite`):

``"clearest"``  the one scene that is the clearest over the chip. All pixels are of one moment, so spectra and shadows
                are as the sensor saw them, which is what pretrained image encoders know; the chip has a date, so
                seasons can be told apart; and of all other scenes one band is read instead of 13. The default. Where
                no scene of the period is clear, there is no chip.
``"median"``    for each pixel and band the median of all clear views. It finds land below clouds that never open over
                a whole chip, as in the humid tropics, and it has little noise. But it mixes seasons, its spectra belong
                to no moment, and for a year it reads about ten times as much.

You need a Google Cloud project that is registered for Earth Engine, and credentials; :func:`connect` says how. Nothing
here logs in, asks a question or keeps a secret. The graph is tested against the signatures of the client
(earthengine-api 1.7.50) and the requests against a server on the loopback; it was not tried on the live service.

Sources: https://developers.google.com/earth-engine/guides/usage (quotas), .../guides/noncommercial_tiers,
.../guides/monitoring_usage, .../apidocs/ee-data-computepixels,
.../datasets/catalog/GOOGLE_CLOUD_SCORE_PLUS_V1_S2_HARMONIZED; Pasquarella et al. (2023), Comprehensive quality
assessment of optical satellite imagery using weakly supervised video learning (Cloud Score+); Karney (2011), Transverse
Mercator with an accuracy of a few nanometers, doi:10.1007/s00190-011-0445-3 (the series of UTM).
"""

from __future__ import annotations

import io
import os
import re
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from geonb._util import lasting
from geonb.data.sentinel2 import BANDS, SCALE
from geonb.data.sources.chips import Chip, Fetch, chip_store
from geonb.data.store import MAX_REFLECTANCE, PlaceStore
from geonb.geo import check_lonlat

IMAGES = "COPERNICUS/S2_SR_HARMONIZED"
CLOUDS = "GOOGLE/CLOUD_SCORE_PLUS/V1/S2_HARMONIZED"
EXTRA = ["views", "score", "day", "scenes"]  # what comes with the bands of a chip; see composite()
METHODS = ("clearest", "median")
FIRST_DAY = "2017-03-28"  # of the collection
SOURCE = f"Copernicus Sentinel-2 L2A through Google Earth Engine ({IMAGES}), clouds by Cloud Score+ ({CLOUDS})"
LICENSE = "free and open (Copernicus Sentinel data terms); contains modified Copernicus Sentinel data"

GSD_M = 10
MAX_PAYLOAD = 50_331_648  # bytes of one answer
MAX_CONCURRENT = 40  # requests of a project at one time
STARTS_PER_S = 20  # the limit of a project is 100
TIERS = {"Community": 150, "Contributor": 1_000, "Partner": 100_000}  # EECU-hours a month since 27 April 2026
REVISIT_DAYS = 5
LATENCY_S = 3.0  # of one request; an assumption for estimate()
WORKLOAD_TAG = "geonb-chips"

STANDARD = "https://earthengine.googleapis.com"
HIGH_VOLUME = "https://earthengine-highvolume.googleapis.com"
TIMEOUT_S = 300
ATTEMPTS = 3  # each with the retries of the client (five)
WAIT_S = 15.0
MAX_WAIT_S = 300.0

STEPS = """Earth Engine is set up once, in three steps:
  1. register a Google Cloud project for Earth Engine (free of charge for noncommercial use):
     https://code.earthengine.google.com/register
  2. put credentials on this machine: earthengine authenticate
     (in a notebook: import ee; ee.Authenticate(). On a server: a service account and its key file)
  3. say which project: --project ID, or set GEONB_EE_PROJECT=ID"""

_sleep = time.sleep


class EarthEngineError(ValueError):
    """Earth Engine cannot be used or did not answer as it should; says what to do. Never has a credential in it."""


# --- where a chip lies --------------------------------------------------------------------------------


def utm_epsg(lonlat: ArrayLike) -> np.ndarray:
    """EPSG codes (n,) of the UTM zones of positions (n, 2): 326xx north, 327xx south of the equator, 0 outside UTM.

    Zones are 6 degrees wide but for Norway's south-west (zone 32 reaches to 3 E) and Svalbard (only 31, 33, 35 and 37).
    UTM ends at 80 S and 84 N.
    """
    lon, lat = check_lonlat(lonlat, "positions").T
    zone = np.minimum((lon + 180) // 6 + 1, 60).astype(int)
    zone = np.where((lat >= 56) & (lat < 64) & (lon >= 3) & (lon < 12), 32, zone)
    svalbard = (lat >= 72) & (lon >= 0) & (lon < 42)
    zone = np.where(svalbard, 31 + 2 * np.searchsorted([9, 21, 33], lon, side="right"), zone)
    return np.where((lat >= -80) & (lat <= 84), np.where(lat < 0, 32700, 32600) + zone, 0)


def _utm_metres(lon: float, lat: float, epsg: int) -> tuple[float, float]:
    """Easting and northing in metres on WGS 84; Krueger's series to the fourth order, better than 1 mm in a zone."""
    a, f, k0 = 6378137.0, 1 / 298.257223563, 0.9996
    n = f / (2 - f)
    radius = a / (1 + n) * (1 + n**2 / 4 + n**4 / 64)
    alpha = (
        n / 2 - 2 / 3 * n**2 + 5 / 16 * n**3 + 41 / 180 * n**4,
        13 / 48 * n**2 - 3 / 5 * n**3 + 557 / 1440 * n**4,
        61 / 240 * n**3 - 103 / 140 * n**4,
        49561 / 161280 * n**4,
    )
    e = 2 * np.sqrt(n) / (1 + n)
    away = np.radians((lon - (epsg % 100 * 6 - 183) + 180) % 360 - 180)
    sine = np.sin(np.radians(lat))
    t = np.sinh(np.arctanh(sine) - e * np.arctanh(e * sine))
    xi, eta = np.arctan2(t, np.cos(away)), np.arctanh(np.sin(away) / np.hypot(1, t))
    north = xi + sum(c * np.sin(2 * j * xi) * np.cosh(2 * j * eta) for j, c in enumerate(alpha, 1))
    east = eta + sum(c * np.cos(2 * j * xi) * np.sinh(2 * j * eta) for j, c in enumerate(alpha, 1))
    return 500_000 + k0 * radius * east, (10_000_000 if epsg > 32700 else 0) + k0 * radius * north


@dataclass(frozen=True)
class Grid:
    """The pixels of a chip: ``size`` x ``size`` of 10 m from the corner (``west``, ``north``), metres in ``epsg``."""

    epsg: int
    west: int
    north: int
    size: int

    def request(self) -> dict:
        """The ``grid`` of a request to ``computePixels``."""
        return {
            "dimensions": {"width": self.size, "height": self.size},
            "affineTransform": {
                "scaleX": GSD_M, "shearX": 0, "translateX": self.west,
                "shearY": 0, "scaleY": -GSD_M, "translateY": self.north,
            },
            "crsCode": f"EPSG:{self.epsg}",
        }  # fmt: skip

    def region(self, ee: Any) -> Any:
        """The chip as an ``ee.Geometry``, in its own projection, so that the antimeridian is no edge."""
        edge = self.size * GSD_M
        corners = [self.west, self.north - edge, self.west + edge, self.north]
        return ee.Geometry.Rectangle(corners, proj=f"EPSG:{self.epsg}", geodesic=False)


def chip_grid(lon: float, lat: float, size: int) -> Grid:
    """The grid of a chip of ``size`` pixels around a position in degrees (to 5 m, as its corner lies on whole 10 m).

    Raises:
        ValueError: a position outside UTM (80 S to 84 N), or a size that is too large for one request.
    """
    _check_size(size)
    epsg = int(utm_epsg([[lon, lat]])[0])
    if not epsg:
        raise ValueError(f"({lon}, {lat}) is outside UTM, which ends at 80 S and 84 N; leave it out")
    x, y = _utm_metres(lon, lat, epsg)
    half = size * GSD_M / 2
    return Grid(epsg, round((x - half) / GSD_M) * GSD_M, round((y + half) / GSD_M) * GSD_M, size)


def _check_size(size: int) -> None:
    most = int((MAX_PAYLOAD / (2 * len(BANDS + EXTRA))) ** 0.5)
    if not 1 <= size <= most:
        raise ValueError(
            f"a chip of {size} x {size} pixels is not possible: an answer has at most {MAX_PAYLOAD / 2**20:.0f} MiB, "
            f"which is {most} x {most} pixels"
        )


# --- what Earth Engine computes -----------------------------------------------------------------------


def composite(
    ee: Any,
    grid: Grid,
    period: tuple[str, str],
    *,
    method: str = "clearest",
    max_cloud: float = 0.8,
    clear_threshold: float = 0.6,
) -> Any:
    """The image of a period over a chip, as an ``ee.Image`` that is not computed yet.

    Args:
        ee: the module, initialised; see :func:`connect`.
        grid: the chip. Only scenes that touch it are looked at, which keeps the search and the cost small.
        period: first day, and the day after the last (ISO 8601).
        method: "clearest" or "median"; see the head of this module.
        max_cloud: scenes with a larger share of clouds (0 to 1, over their 110 km) are not looked at. It saves reading
            them, but half-clouded scenes are clear over many a chip; keep it high where it is often cloudy.
        clear_threshold: from which Cloud Score+ (0 to 1) a pixel counts as seen clearly.

    Returns:
        uint16 bands: the 12 of :data:`geonb.data.sentinel2.BANDS`, reflectance x 10000, 0 where nothing was seen; then
        "views", how many clear views a pixel has (0 or 1 with "clearest"); "score", Cloud Score+ x 10000; "day", of
        acquisition, counted from 1970-01-01, 0 where nothing was seen; "scenes", how many touch the chip. With "median"
        score and day are medians too. Two tiles of one acquisition count as two scenes.

    Raises:
        ValueError: a wrong period, method or share.
    """
    start, end = _check_period(period)
    _check_choice(method, max_cloud=max_cloud, clear_threshold=clear_threshold)
    region = grid.region(ee)
    scenes = (
        ee.ImageCollection(IMAGES)
        .filterBounds(region)
        .filterDate(start, end)
        .filter(ee.Filter.lte("CLOUDY_PIXEL_PERCENTAGE", 100 * max_cloud))
        .linkCollection(ee.ImageCollection(CLOUDS), ["cs_cdf"])
    )
    names = [*BANDS, "score", "day"]

    def tidy(image):
        """The bands with the score and the day; a pixel that lacks a band lacks all."""
        day = image.metadata("system:time_start").divide(86_400_000).floor()
        whole = image.select(BANDS).mask().reduce(ee.Reducer.min())
        score = image.select("cs_cdf").unmask(0, False).multiply(SCALE)
        return image.select(BANDS).addBands([score, day]).rename(names).updateMask(whole).toUint16()

    clear = round(clear_threshold * SCALE)
    nothing = ee.Image.constant([0] * len(names)).rename(names).toUint16().updateMask(0)  # where there are no scenes
    if method == "median":
        seen = scenes.map(lambda image: _masked(tidy(image), clear)).merge(ee.ImageCollection([nothing]))
        image, views = seen.median(), seen.select("score").count()
    else:

        def judged(image):
            score = image.select("cs_cdf").unmask(0, False)
            mean = score.reduceRegion(ee.Reducer.mean(), region, GSD_M, f"EPSG:{grid.epsg}")
            return tidy(image).set("clear", mean.get("cs_cdf"))

        candidates = scenes.map(judged).merge(ee.ImageCollection([nothing.set("clear", -1)]))
        image = ee.Image(candidates.sort("clear", False).first())
        views = image.select("score").gte(clear)
    return (
        image.addBands([views.rename("views"), ee.Image.constant(scenes.size()).rename("scenes")])
        .unmask(0, False)
        .round()
        .toUint16()
        .select([*BANDS, *EXTRA])
    )


def _masked(image: Any, clear: int) -> Any:
    return image.updateMask(image.select("score").gte(clear))


def _check_period(period: Sequence[str]) -> tuple[str, str]:
    try:
        start, end = (date.fromisoformat(day).isoformat() for day in period)
    except (TypeError, ValueError):
        raise ValueError(f"the period {period!r} must be two days, such as ('2024-01-01', '2025-01-01')") from None
    if not FIRST_DAY <= start < end:
        raise ValueError(
            f"the period {start} to {end} (the last day excluded) must begin on {FIRST_DAY} or later, and not be empty"
        )
    return start, end


def _check_choice(method: str, **shares: float) -> None:
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is {share!r}, but must be a share from 0 to 1")


# --- what it will cost --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """What a request for chips amounts to, before it is made; print it.

    Attributes:
        requests: one a chip. ``download_bytes``: of all answers. ``store_bytes``: of the chips on the disk, before
            compression. ``scenes``: that touch a chip, at one view in 5 days. ``pixels_read``: by Earth Engine, of
            10 m, over all scenes and bands. ``minutes``: at ``latency_s`` a request, which is assumed, not known.
    """

    requests: int
    download_bytes: int
    store_bytes: int
    scenes: int
    pixels_read: int
    minutes: float
    workers: int
    latency_s: float

    def __str__(self) -> str:
        tiers = ", ".join(f"{name} {hours:,}" for name, hours in TIERS.items())
        per_chip = TIERS["Community"] * 3600 / max(self.requests, 1)
        return (
            f"{self.requests:,} requests, one a chip; {self.download_bytes / 1e6:,.1f} MB to fetch, "
            f"{self.store_bytes / 1e6:,.1f} MB of chips before compression\n"
            f"{lasting(self.minutes)} with {self.workers} requests at a time, if one takes {self.latency_s:g} s "
            "(an assumption: measure it with 20 chips)\n"
            f"Earth Engine reads about {self.pixels_read / 1e6:,.0f} million pixels: {self.scenes} scenes a chip, "
            f"one every {REVISIT_DAYS} days (fewer without those too cloudy, more where orbits overlap)\n"
            f"Free noncommercial quota, EECU-hours a month: {tiers}; past it requests are slowed, not billed\n"
            "What a chip costs cannot be known beforehand: fetch 20, wait some minutes, and look in the Cloud Console, "
            f"Monitoring, Metrics Explorer, for Completed EECU-seconds with workload_tag = {WORKLOAD_TAG}. "
            f"The Community tier is enough if one costs less than {per_chip:,.0f} EECU-seconds"
        )


def estimate(
    n: int,
    size: int,
    period: tuple[str, str],
    *,
    method: str = "clearest",
    workers: int = 16,
    latency_s: float = LATENCY_S,
) -> Estimate:
    """What n chips of size x size pixels will ask of the network, the disk and Earth Engine.

    Args:
        period, method: as for :func:`composite`.
        workers: requests at a time.
        latency_s: seconds that one request takes, as measured in a pilot.
    """
    start, end = _check_period(period)
    _check_choice(method)
    _check_size(size)
    _check_workers(workers)
    days = (date.fromisoformat(end) - date.fromisoformat(start)).days
    scenes = -(-days // REVISIT_DAYS)
    bands = (len(BANDS) + 1) * scenes if method == "median" else scenes + len(BANDS)
    return Estimate(
        requests=n,
        download_bytes=n * size**2 * 2 * len(BANDS + EXTRA),
        store_bytes=n * size**2 * 2 * len(BANDS),
        scenes=scenes,
        pixels_read=n * size**2 * bands,
        minutes=n * max(latency_s / workers, 1 / STARTS_PER_S) / 60,
        workers=workers,
        latency_s=latency_s,
    )


def _check_workers(workers: int) -> None:
    if not 1 <= workers <= MAX_CONCURRENT:
        raise ValueError(f"{workers} workers: Earth Engine takes from 1 to {MAX_CONCURRENT} requests at a time")


# --- the connection -----------------------------------------------------------------------------------


def connect(
    project: str | None = None,
    *,
    service_account: str | None = None,
    key_file: str | Path | None = None,
    high_volume: bool = True,
) -> Any:
    """Initialise Earth Engine with credentials that are on this machine already, and return the module ``ee``.

    Args:
        project: id of a Cloud project registered for Earth Engine; else GEONB_EE_PROJECT, else that of the credentials.
        service_account: e-mail of a service account. ``key_file``: its key, of which nothing is shown or kept.
        high_volume: use the end point for many small requests, which caches less.

    Raises:
        EarthEngineError: no credentials, no project, no permission, or no connection, with the steps to set it up.
    """
    import ee
    from google.auth.exceptions import GoogleAuthError
    from googleapiclient.errors import Error

    if service_account and not key_file:
        raise EarthEngineError(f"the service account {service_account} needs its key: give key_file, too")
    credentials = _of_key_file(ee, service_account, key_file) if key_file else "persistent"
    try:
        ee.Initialize(
            credentials,
            url=HIGH_VOLUME if high_volume else STANDARD,
            project=project or os.environ.get("GEONB_EE_PROJECT") or None,
            http_transport=_Transport(),
        )
    except (ee.EEException, GoogleAuthError, Error, OSError, ValueError) as error:  # some have credentials in them
        ee.Reset()
        raise EarthEngineError(_explained(error)) from None
    return ee


def _of_key_file(ee: Any, service_account: str | None, key_file: str | Path) -> Any:
    try:
        return ee.ServiceAccountCredentials(service_account, str(key_file))
    except OSError as error:
        raise EarthEngineError(f"the key file {key_file} cannot be read ({error.strerror})\n{STEPS}") from None
    except Exception:  # whatever is wrong with its content, which must not be shown
        raise EarthEngineError(
            f"the file {key_file} is not the JSON key of a service account; make a new key in the Cloud Console, "
            f"IAM, Service accounts\n{STEPS}"
        ) from None


class _Transport:
    """HTTP as the client wants it, with a connection for each thread and a time limit; its own has neither."""

    def __init__(self) -> None:
        import requests
        from requests.adapters import HTTPAdapter

        self._session = requests.Session()
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=MAX_CONCURRENT))

    def request(
        self,
        uri: str,
        method: str = "GET",
        body: Any = None,
        headers: Any = None,
        redirections: Any = None,
        connection_type: Any = None,
    ) -> tuple[Any, bytes]:
        """Send a request; redirections are not followed, so that credentials go nowhere else.

        Raises:
            ConnectionError, TimeoutError: which the client tries again.
        """
        import httplib2
        import requests

        options = {"timeout": TIMEOUT_S, "stream": True, "allow_redirects": False}
        try:
            with self._session.request(method, uri, data=body, headers=headers, **options) as answer:
                content = bytearray()
                for piece in answer.iter_content(1 << 16):
                    content += piece
                    if len(content) > MAX_PAYLOAD + (1 << 20):
                        raise ConnectionError(f"an answer has more than {MAX_PAYLOAD:,} bytes")
        except requests.Timeout as error:
            raise TimeoutError(str(error)) from error
        except requests.RequestException as error:
            raise ConnectionError(str(error)) from error
        return httplib2.Response({**answer.headers, "status": answer.status_code}), bytes(content)


_SECRETS = re.compile(
    r"-----BEGIN.*?(-----END[^-]*-----|$)"
    r"|\bya29\.[\w.-]+|\b1//[\w-]+|\beyJ[\w-]+\.[\w.-]+|\bAIza[\w-]+|\bGOCSPX-[\w-]+|\bBearer\s+\S+"
    r"|(?:\b\w*(?:token|secret|private_key|assertion|api_?key)\w*[\"']?\s*[:=]\s*[\"']?)(?!/)[^\s\"',&}]+",
    re.IGNORECASE | re.DOTALL,
)

# What a text of Earth Engine or of Google's sign-in means; the first that fits.
_MEANINGS = (
    (
        r"authorize access|default credentials|not initialized|reauthentication|invalid_grant|could not refresh"
        r"|RefreshError|unauthorized|UNAUTHENTICATED|invalid authentication",
        "there are no credentials on this machine, or they have expired (step 2)",
    ),
    (r"no project found|project is required", "no project is given (step 3)"),
    (
        r"not registered|not signed up|has not been used in project|is disabled|SERVICE_DISABLED|not found or deleted",
        "the project is not registered for Earth Engine, or its Earth Engine API is off (step 1)",
    ),
    (r"daily_eecu_usage_time", "the project has used up the daily limit of compute that was set for it; try tomorrow"),
    (
        r"permission.*project|project.*permission|USER_PROJECT_DENIED|PERMISSION_DENIED|permission.*denied",
        "the account may not use this project: check the project's id (step 3), or let its owner give the account the "
        "roles Earth Engine Resource Viewer and Service Usage Consumer",
    ),
    (
        r"quota|rate.?limit|too many|resource.?exhausted|restricted mode",
        "the quota is used up or requests came too fast; wait, or use fewer workers, and give the same command again",
    ),
)


def _clean(text: str) -> str:
    """A message on one line, without anything that looks like a credential."""
    return " ".join(_SECRETS.sub("[removed]", text).split())[:400]


def _explained(error: Exception) -> str:
    """What went wrong in connecting, and the three steps where one of them is missing."""
    said = _clean(f"{type(error).__name__}: {error}")
    for pattern, meaning in _MEANINGS:
        if re.search(pattern, said, re.IGNORECASE):
            return f"Earth Engine: {meaning}\n{STEPS}\nThe message was: {said}"
    if isinstance(error, OSError) or "TransportError" in said or "ServerNotFound" in said:
        return f"no connection to Earth Engine; check the network and try again\nThe message was: {said}"
    return f"Earth Engine could not be initialised\n{STEPS}\nThe message was: {said}"


# --- chips --------------------------------------------------------------------------------------------


def earthengine_chips(
    *,
    period: tuple[str, str],
    size: int = 64,
    method: str = "clearest",
    max_cloud: float = 0.8,
    clear_threshold: float = 0.6,
    min_clear: float = 0.9,
    workers: int = 16,
) -> Fetch:
    """A function from positions to Sentinel-2 chips, ``workers`` requests at a time; see :func:`connect` first.

    Args:
        period, method, max_cloud, clear_threshold: as for :func:`composite`.
        size: edge of a chip in pixels of 10 m.
        min_clear: share of the chip (0 to 1) that must be seen clearly; else there is no chip.
        workers: requests at a time, at most 40.

    A chip has the columns ``scenes`` (that touch it), ``clear_share``, ``cloud_score`` (mean Cloud Score+, 1 is clear),
    ``epsg`` and ``period``; with "median" also ``clear_views`` (a pixel, mean) and ``middle_date``. Where nothing was
    seen, all bands are 0; a pixel that was seen has at least 1 in each band.

    Raises:
        ValueError: a wrong option.
        EarthEngineError: raised by the function: Earth Engine refused or could not be reached, after several attempts.
    """
    start, end = _check_period(period)
    _check_choice(method, max_cloud=max_cloud, clear_threshold=clear_threshold, min_clear=min_clear)
    _check_size(size)
    _check_workers(workers)
    pace = _Pace()

    def one(point: list[float]) -> Chip | str:
        import ee

        if not utm_epsg([point])[0]:
            return "outside UTM (80 S to 84 N)"
        lon, lat = point
        grid = chip_grid(lon, lat, size)
        image = composite(
            ee, grid, (start, end), method=method, max_cloud=max_cloud, clear_threshold=clear_threshold
        )
        pixels = _computed(ee, image, grid, pace)
        return pixels if isinstance(pixels, str) else _chip(pixels, grid, (start, end), method, min_clear)

    def fetch(points: np.ndarray) -> list[Chip | str]:
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(one, np.asarray(points).tolist()))

    return fetch


def from_earthengine(
    out: str | Path,
    where: ArrayLike | PlaceStore,
    *,
    period: tuple[str, str],
    size: int = 64,
    project: str | None = None,
    method: str = "clearest",
    max_cloud: float = 0.8,
    clear_threshold: float = 0.6,
    min_clear: float = 0.9,
    workers: int = 16,
    max_requests: int = 1000,
    progress: bool = True,
) -> PlaceStore:
    """A place store with a Sentinel-2 chip at each position where there is a clear one; it can be stopped and goes on.

    Args:
        out, where: as for :func:`geonb.data.sources.chips.chip_store`: positions (n, 2), or a store without images.
        period, size, method, max_cloud, clear_threshold, min_clear, workers: as for :func:`earthengine_chips`.
        project: as for :func:`connect`, which is called unless Earth Engine is initialised and no project is given.
        max_requests: more positions than this are refused; a chip costs compute of a monthly quota (:func:`estimate`).
        progress: print the estimate before it starts, and show a bar.

    Raises:
        EarthEngineError: no access, with the steps to set it up.
        ValueError: a wrong option, or more than ``max_requests``.
        WorkError: as ``chip_store`` does; what is finished is kept.
    """
    options: dict[str, Any] = {
        "method": method, "max_cloud": max_cloud, "clear_threshold": clear_threshold, "min_clear": min_clear,
    }  # fmt: skip
    fetch = earthengine_chips(period=period, size=size, workers=workers, **options)
    lonlat = where.lonlat if isinstance(where, PlaceStore) else check_lonlat(where, "positions")
    expected = estimate(int((utm_epsg(lonlat) > 0).sum()), size, period, method=method, workers=workers)
    if progress:
        print(expected)
    if expected.requests > max_requests:
        raise ValueError(
            f"{expected.requests:,} requests, but at most {max_requests:,} are allowed; give fewer positions, or allow "
            f"more (max_requests)\n{expected}"
        )
    import ee

    if project or not ee.data.is_initialized():
        connect(project)
    return chip_store(
        out,
        where,
        fetch,
        plan={"source": "earthengine", "collections": [IMAGES, CLOUDS], "period": list(period), **options},
        source=SOURCE,
        license=LICENSE,
        size=size,
        gsd_m=GSD_M,
        batch=64,
        progress=progress,
    )


class _Pace:
    """When the next request may start, for all threads: not more than so many a second, and none after a refusal."""

    def __init__(self) -> None:
        self._lock, self._next = threading.Lock(), 0.0

    def wait(self) -> None:
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + 1 / STARTS_PER_S
        if start > now:
            _sleep(start - now)

    def hold(self, seconds: float) -> None:
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


def _computed(ee: Any, image: Any, grid: Grid, pace: _Pace) -> np.ndarray | str:
    """The pixels of an image on a grid, a structured array (size, size); or why Earth Engine cannot compute them."""
    from google.auth.exceptions import GoogleAuthError, TransportError

    request = {
        "expression": image, "fileFormat": "NPY", "grid": grid.request(), "bandIds": BANDS + EXTRA,
        "workloadTag": WORKLOAD_TAG,
    }  # fmt: skip
    for attempt in range(1, ATTEMPTS + 1):
        pace.wait()
        try:
            return _read_pixels(ee.data.computePixels(request), grid.size)
        except (ee.EEException, GoogleAuthError, OSError, _Malformed) as error:  # some have credentials in them
            said = _clean(f"{type(error).__name__}: {error}")
            if re.search("memory limit exceeded|computation timed out", said, re.IGNORECASE):
                return "Earth Engine ran out of memory or time (a shorter period or a smaller size may help)"
            answer = getattr(error.__context__, "resp", {})  # ee makes a text of an HttpError
            status = getattr(answer, "status", 0)
            again = isinstance(error, (OSError, TransportError, _Malformed)) or status in (408, 429) or status >= 500
            if not again or attempt == ATTEMPTS:
                raise EarthEngineError(_failed(said, attempt)) from None
            asked = str(answer.get("retry-after", ""))
            wait = min(max(WAIT_S * 2 ** (attempt - 1), float(asked) if asked.isdecimal() else 0), MAX_WAIT_S)
            if status == 429:
                pace.hold(wait)
            else:
                _sleep(wait)
    raise AssertionError("not reached")


def _failed(said: str, attempts: int) -> str:
    tries = f" after {attempts} attempts" if attempts > 1 else ""
    for pattern, meaning in _MEANINGS:
        if re.search(pattern, said, re.IGNORECASE):
            steps = f"\n{STEPS}" if "(step" in meaning else ""
            return f"Earth Engine gave no chip{tries}: {meaning}{steps}\nThe message was: {said}"
    return f"Earth Engine gave no chip{tries}: {said}"


class _Malformed(Exception):
    """An answer that is not the array that was asked for."""


def _read_pixels(data: bytes, size: int) -> np.ndarray:
    """The structured array (size, size) of a ``.npy`` file; the header is checked first, and nothing is unpickled."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_column, dtype = read(stream)
    except Exception as error:  # a header is a Python literal, and can be wrong in every way that one can
        raise _Malformed(f"not a .npy file ({_clean(str(error))[:120]})") from None
    wanted = np.dtype([(name, "<u2") for name in BANDS + EXTRA])
    if dtype != wanted:
        raise _Malformed(f"not the bands that were asked for, as uint16, but {_clean(str(dtype))[:200]}")
    if shape != (size, size) or by_column or len(data) - stream.tell() != size**2 * wanted.itemsize:
        raise _Malformed(f"not {size} x {size} pixels, but {shape} in {len(data):,} bytes")
    return np.frombuffer(data, wanted, offset=stream.tell()).reshape(size, size)


def _chip(pixels: np.ndarray, grid: Grid, period: tuple[str, str], method: str, min_clear: float) -> Chip | str:
    scenes = int(pixels["scenes"].max())
    if not scenes:
        return "no scene in the period, or all too cloudy"
    clear_share = float((pixels["views"] > 0).mean())
    if not clear_share or clear_share < min_clear:
        return f"less than {min_clear:.0%} of the chip seen clearly"
    seen = pixels["day"] > 0
    image = np.stack([pixels[name] for name in BANDS])
    image[:, seen] = np.maximum(image[:, seen], 1)
    if image.max() <= 255 or image.mean() > MAX_REFLECTANCE * SCALE:
        return "too dark or too bright for surface reflectance"
    columns: dict[str, float | str] = {
        "scenes": scenes,
        "clear_share": round(clear_share, 4),
        "cloud_score": round(float(pixels["score"][seen].mean()) / SCALE, 4),
        "epsg": grid.epsg,
        "period": "/".join(period),
    }
    day = (date(1970, 1, 1) + timedelta(days=int(np.median(pixels["day"][seen])))).isoformat()
    if not period[0] <= day < period[1]:
        raise EarthEngineError(f"a chip of {day} came for the period {period[0]} to {period[1]}")
    if method == "clearest":
        return Chip(image, day, columns)
    views = round(float(pixels["views"].mean()), 2)
    return Chip(image, "", columns | {"clear_views": views, "middle_date": day})
