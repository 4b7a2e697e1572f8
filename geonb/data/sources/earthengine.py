"""Sentinel-2 chips from Google Earth Engine: one small request per chip, within the free quotas.

Reflectance is ``COPERNICUS/S2_SR_HARMONIZED`` (one scale for all years), clouds are Cloud Score+ (``cs_cdf``, 1 is
clear). "clearest" takes the scene that is the clearest over the chip, of one moment and with a date. "median" takes
the median of the clear views of each pixel: it finds land below frequent clouds, but mixes seasons and reads about ten
times as much. The graph is tested on made scenes with the client's signatures, not on the live service.

Sources: https://developers.google.com/earth-engine/guides/usage, .../noncommercial_tiers; Pasquarella et al. (2023),
Comprehensive quality assessment of optical satellite imagery using weakly supervised video learning (Cloud Score+).
"""

from __future__ import annotations

import os
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from geonb.data.sentinel2 import BANDS, GSD_M, SCALE, chip_grid, utm_epsg
from geonb.data.sources.parts import Chip, chip_store
from geonb.data.store import PlaceStore

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

IMAGES = "COPERNICUS/S2_SR_HARMONIZED"
CLOUDS = "GOOGLE/CLOUD_SCORE_PLUS/V1/S2_HARMONIZED"
EXTRA = ["views", "score", "day", "scenes"]  # bands beside those of Sentinel-2; see composite()
METHODS = ("clearest", "median")
SOURCE = f"Copernicus Sentinel-2 L2A through Google Earth Engine ({IMAGES}), clouds by Cloud Score+ ({CLOUDS})"
LICENSE = "free and open (Copernicus Sentinel data terms); contains modified Copernicus Sentinel data"

MAX_SCENE_CLOUD = 80  # per cent of a scene; many half-clouded ones are clear over a chip
CLEAR = 0.6  # Cloud Score+ from which a pixel is clear; 0.50 to 0.65 is advised
MIN_CLEAR = 0.9  # share of a chip that must be seen clearly
HIGH_VOLUME = "https://earthengine-highvolume.googleapis.com"  # for many small requests
TIERS = "Community 150, Contributor 1,000, Partner 100,000"  # since 27 April 2026
REVISIT_DAYS, LATENCY_S = 5, 3  # the time of one request is an assumption
WORKLOAD_TAG = "geonb-chips"

STEPS = """Set up Earth Engine once:
  1. register a Cloud project: https://code.earthengine.google.com/register
  2. get credentials: earthengine authenticate (on a server: a service account)
  3. name the project: --project ID, or GEONB_EE_PROJECT=ID"""


def connect(project: str | None = None) -> Any:
    """Initialise Earth Engine with the credentials of this machine, and return the module ``ee``.

    Args:
        project: id of a registered Cloud project; else GEONB_EE_PROJECT, else that of the credentials.

    Raises:
        ValueError: no credentials, project or permission, with the steps to set them up.
    """
    import ee
    from google.auth.exceptions import GoogleAuthError

    project = project or os.environ.get("GEONB_EE_PROJECT") or None
    try:
        ee.Initialize(project=project, url=HIGH_VOLUME)
    except Exception as error:  # of a damaged file of credentials, whatever the client stumbles over
        known = isinstance(error, (ee.EEException, GoogleAuthError, OSError))
        why = error if known else f"the file of credentials is damaged ({error}); do step 2 again"
        raise ValueError(f"Earth Engine could not be initialised: {why}\n{STEPS}") from None
    ee.data.setDeadline(300_000)  # ms, of one request
    ee.data.setMaxRetries(5)
    return ee


def composite(ee: Any, grid: GeoBox, period: tuple[str, str], method: str = "clearest") -> Any:
    """Compose the image of a period over a chip, as an ``ee.Image`` that is not computed yet.

    Args:
        ee: the module, initialised; see :func:`connect`.
        grid: of the chip; only scenes that touch it are searched.
        period: first day, and the day after the last (ISO 8601).
        method: "clearest" or "median"; see the head of this module.

    Returns:
        uint16 bands, 0 where nothing was seen: reflectance x 10,000; "views", how many are clear; "score", Cloud Score+
        x 10,000; "day", since 1970-01-01; "scenes", how many touch the chip. Of a "median", score and day are medians.
    """
    crs = str(grid.crs)
    region = ee.Geometry.Rectangle(list(grid.boundingbox), proj=crs, geodesic=False)  # the antimeridian is no edge
    scenes = (
        ee.ImageCollection(IMAGES)
        .filterBounds(region)
        .filterDate(*period)
        .filter(ee.Filter.lte("CLOUDY_PIXEL_PERCENTAGE", MAX_SCENE_CLOUD))
        .linkCollection(ee.ImageCollection(CLOUDS), ["cs_cdf"])
    )
    names, clear = [*BANDS, "score", "day"], round(CLEAR * SCALE)

    def tidy(image):
        day = image.metadata("system:time_start").divide(86_400_000).floor()
        whole = image.select(BANDS).mask().reduce(ee.Reducer.min())  # what lacks a band lacks all
        score = image.select("cs_cdf").unmask(0, False).multiply(SCALE)
        image = image.select(BANDS).addBands([score, day]).rename(names)
        return image.updateMask(whole).toUint16()

    def judged(image):
        score = image.select("cs_cdf").unmask(0, False)
        mean = score.reduceRegion(ee.Reducer.mean(), region, GSD_M, crs)
        return tidy(image).set("clear", mean.get("cs_cdf"))

    zeros = ee.Image.constant([0] * len(names)).rename(names).toUint16()
    nothing = ee.ImageCollection([zeros.updateMask(0).set("clear", -1)])  # if there are no scenes
    if method == "median":
        seen = scenes.map(tidy).map(lambda one: one.updateMask(one.select("score").gte(clear)))
        seen = seen.merge(nothing)
        image, views = seen.median(), seen.select("score").count()
    else:
        ranked = scenes.map(judged).merge(nothing).sort("clear", False)
        image = ee.Image(ranked.first())
        views = image.select("score").gte(clear)
    counts = [views.rename("views"), ee.Image.constant(scenes.size()).rename("scenes")]
    return image.addBands(counts).unmask(0, False).round().toUint16().select([*BANDS, *EXTRA])


def estimate(n: int, size: int, period: tuple[str, str], *, method: str = "clearest", workers: int = 16) -> str:
    """Describe what n chips ask of the network and of Earth Engine."""
    days = date.fromisoformat(period[1]) - date.fromisoformat(period[0])
    scenes = -(-days.days // REVISIT_DAYS)
    bands = (len(BANDS) + 1) * scenes if method == "median" else scenes + len(BANDS)
    return (
        f"{n:,} requests, one per chip; {n * size**2 * 2 * len(BANDS + EXTRA) / 1e6:,.1f} MB to fetch\n"
        f"{n * LATENCY_S / workers / 60:,.1f} minutes, if each of {workers} at a time takes {LATENCY_S} s\n"
        f"{n * size**2 * bands / 1e6:,.0f} million pixels to read, of {scenes} scenes per chip\n"
        f"Free noncommercial quota, EECU-hours a month: {TIERS}. To learn the cost, fetch 20 chips, and look in\n"
        f"Metrics Explorer (Cloud Console) for Completed EECU-seconds with workload_tag = {WORKLOAD_TAG}"
    )


def from_earthengine(
    out: str | Path,
    where: ArrayLike | PlaceStore,
    *,
    period: tuple[str, str],
    size: int = 64,
    project: str | None = None,
    method: str = "clearest",
    workers: int = 16,
    max_requests: int = 1000,
) -> PlaceStore:
    """Make a place store with a Sentinel-2 chip at each position that has a clear one.

    The same call continues a stopped one. Columns of the places describe each chip.

    Args:
        out, where: as for :func:`geonb.data.sources.parts.chip_store`.
        period, method: as for :func:`composite`.
        size: edge of a chip in pixels of 10 m, at most 1254 (an answer has at most 48 MiB).
        project: as for :func:`connect`.
        workers: requests at a time; Earth Engine takes at most 40 of a project.
        max_requests: more positions than this are refused, because of the quota.

    Raises:
        ValueError: a wrong option, too many requests, no access, or Earth Engine refused.
    """
    start, end = (date.fromisoformat(day).isoformat() for day in period)
    if start >= end or method not in METHODS:
        raise ValueError(f"period {start} to {end}, method {method!r}; the methods are {METHODS}")
    requests = len(where if isinstance(where, PlaceStore) else np.asarray(where))
    if requests > max_requests:
        raise ValueError(
            f"{requests:,} requests; give fewer positions, or allow more than {max_requests:,} "
            f"(max_requests)\n{estimate(requests, size, period, method=method, workers=workers)}"
        )
    import ee

    if project or not ee.data.is_initialized():
        connect(project)
    options: dict[str, Any] = {"period": (start, end), "method": method}
    return chip_store(
        out, where, lambda lon, lat: _read_chip(ee, lon, lat, size, **options),
        plan={"source": "earthengine", "collections": [IMAGES, CLOUDS], **options},
        source=SOURCE, license=LICENSE, size=size, workers=workers,
    )  # fmt: skip


def _read_chip(ee: Any, lon: float, lat: float, size: int, period: tuple[str, str], method: str) -> Chip | str:
    """Compute a chip in one request, or return the reason why there is none."""
    epsg = int(utm_epsg([[lon, lat]])[0])
    if not epsg:
        return "outside UTM (beyond 80 S or 84 N)"
    grid = chip_grid(lon, lat, size)
    keys = "scaleX", "shearX", "translateX", "shearY", "scaleY", "translateY"
    move = dict(zip(keys, grid.transform[:6], strict=True))
    request = {
        "expression": composite(ee, grid, period, method),
        "fileFormat": "NUMPY_NDARRAY",
        "bandIds": BANDS + EXTRA,
        "grid": {"dimensions": {"width": size, "height": size}, "affineTransform": move, "crsCode": str(grid.crs)},
        "workloadTag": WORKLOAD_TAG,
    }
    try:
        pixels = ee.data.computePixels(request)
    except ee.EEException as error:
        if "memory limit" in str(error) or "timed out" in str(error):
            return "Earth Engine ran out of memory or time (try a shorter period or smaller chips)"
        raise ValueError(f"Earth Engine gave no chip: {error}") from error
    if not pixels["scenes"].any():
        return "no scene in the period, or all too cloudy"
    clear_share = float((pixels["views"] > 0).mean())
    if clear_share < MIN_CLEAR:
        return f"less than {MIN_CLEAR:.0%} of the chip seen clearly"
    seen = pixels["day"] > 0
    image = np.stack([pixels[name] for name in BANDS])
    image[:, seen] = np.maximum(image[:, seen], 1)  # 0 is nodata
    columns: dict[str, float | str] = {
        "scenes": int(pixels["scenes"].max()),
        "clear_share": round(clear_share, 4),
        "clear_views": round(float(pixels["views"].mean()), 2),
        "cloud_score": round(float(pixels["score"][seen].mean()) / SCALE, 4),
        "epsg": epsg,
    }
    day = date(1970, 1, 1) + timedelta(days=int(np.median(pixels["day"][seen])))
    return Chip(image, day.isoformat() if method == "clearest" else "", columns)
