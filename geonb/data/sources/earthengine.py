"""Sentinel-2 chips from Google Earth Engine: one small request per chip, in parallel, within the free quotas.

Surface reflectance is ``COPERNICUS/S2_SR_HARMONIZED``, in which all years have one scale, without the offset of 2022.
Clouds, haze and shadows come from Cloud Score+ (band ``cs_cdf``: 0 is covered, 1 is clear). Earth Engine computes the
chip on the 10 m grid of its UTM zone; bands of 20 and 60 m are repeated, not smoothed. Two methods (:func:`composite`):

``"clearest"``  the scene that is the clearest over the chip. All pixels are of one moment, as pretrained image
                encoders expect, and the chip has a date. Of all other scenes one band is read instead of 13.
``"median"``    for each pixel and band the median of all clear views. It finds land below clouds that never open over
                a whole chip, as in the humid tropics, and has little noise. But it mixes seasons, its spectra belong to
                no moment, and for a year it reads about ten times as much.

You need a Google Cloud project that is registered for Earth Engine, and credentials; :func:`connect` says how. The
graph is tested against the signatures of the client (earthengine-api 1.7.50) and evaluated on made scenes; it was not
tried on the live service.

Sources: https://developers.google.com/earth-engine/guides/usage (quotas), .../guides/noncommercial_tiers,
.../guides/monitoring_usage, .../apidocs/ee-data-computepixels; Pasquarella et al. (2023), Comprehensive quality
assessment of optical satellite imagery using weakly supervised video learning (Cloud Score+).
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
from geonb.geo import check_lonlat

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

IMAGES = "COPERNICUS/S2_SR_HARMONIZED"
CLOUDS = "GOOGLE/CLOUD_SCORE_PLUS/V1/S2_HARMONIZED"
EXTRA = ["views", "score", "day", "scenes"]  # bands beside those of Sentinel-2; see composite()
METHODS = ("clearest", "median")
SOURCE = f"Copernicus Sentinel-2 L2A through Google Earth Engine ({IMAGES}), clouds by Cloud Score+ ({CLOUDS})"
LICENSE = "free and open (Copernicus Sentinel data terms); contains modified Copernicus Sentinel data"

MAX_SCENE_CLOUD = 80  # per cent of a scene of 110 km; many half-clouded scenes are clear over a chip
CLEAR = 0.6  # Cloud Score+ from which a pixel counts as seen clearly; 0.50 to 0.65 is advised
MIN_CLEAR = 0.9  # share of a chip that must be seen clearly

HIGH_VOLUME = "https://earthengine-highvolume.googleapis.com"  # the end point for many small requests
DEADLINE_S, MAX_RETRIES = 300, 5  # of one request; the client waits longer after each refusal
TIERS = "Community 150, Contributor 1,000, Partner 100,000"  # EECU-hours a month since 27 April 2026
REVISIT_DAYS = 5
LATENCY_S = 3  # of one request; an assumption
WORKLOAD_TAG = "geonb-chips"

STEPS = """Earth Engine is set up once, in three steps:
  1. register a Google Cloud project for Earth Engine (free of charge for noncommercial use):
     https://code.earthengine.google.com/register
  2. put credentials on this machine: earthengine authenticate
     (in a notebook: import ee; ee.Authenticate(). On a server: ee.Initialize with a service account)
  3. say which project: --project ID, or set GEONB_EE_PROJECT=ID"""


def connect(project: str | None = None) -> Any:
    """Initialise Earth Engine with the credentials of this machine, and return the module ``ee``.

    Args:
        project: id of a Cloud project registered for Earth Engine; else GEONB_EE_PROJECT, else that of the credentials.

    Raises:
        ValueError: no credentials, no project, or no permission, with the steps to set it up.
    """
    import ee
    from google.auth.exceptions import GoogleAuthError

    try:
        ee.Initialize(project=project or os.environ.get("GEONB_EE_PROJECT") or None, url=HIGH_VOLUME)
    except (ee.EEException, GoogleAuthError) as error:
        raise ValueError(f"Earth Engine could not be initialised: {error}\n{STEPS}") from None
    ee.data.setDeadline(1000 * DEADLINE_S)
    ee.data.setMaxRetries(MAX_RETRIES)
    return ee


def composite(ee: Any, grid: GeoBox, period: tuple[str, str], method: str = "clearest") -> Any:
    """Compose the image of a period over a chip, as an ``ee.Image`` that is not computed yet.

    Args:
        ee: the module, initialised; see :func:`connect`.
        grid: of the chip. Only scenes that touch it are looked at, which keeps the search and the cost small.
        period: first day, and the day after the last (ISO 8601).
        method: "clearest" or "median"; see the head of this module.

    Returns:
        uint16 bands: the 12 of :data:`geonb.data.sentinel2.BANDS`, reflectance x 10000, 0 where nothing was seen; then
        "views", how many clear views a pixel has (0 or 1 with "clearest"); "score", Cloud Score+ x 10000, 0 without a
        score; "day", of acquisition, counted from 1970-01-01, 0 where nothing was seen; "scenes", how many touch the
        chip. With "median" score and day are medians too. Two tiles of one acquisition count as two scenes.
    """
    start, end = period
    crs = str(grid.crs)
    region = ee.Geometry.Rectangle(list(grid.boundingbox), proj=crs, geodesic=False)  # the antimeridian is no edge
    scenes = (
        ee.ImageCollection(IMAGES)
        .filterBounds(region)
        .filterDate(start, end)
        .filter(ee.Filter.lte("CLOUDY_PIXEL_PERCENTAGE", MAX_SCENE_CLOUD))
        .linkCollection(ee.ImageCollection(CLOUDS), ["cs_cdf"])
    )
    names = [*BANDS, "score", "day"]

    def tidy(image):
        """Add the score and the day to the bands; a pixel that lacks a band lacks all."""
        day = image.metadata("system:time_start").divide(86_400_000).floor()
        whole = image.select(BANDS).mask().reduce(ee.Reducer.min())
        score = image.select("cs_cdf").unmask(0, False).multiply(SCALE)
        return image.select(BANDS).addBands([score, day]).rename(names).updateMask(whole).toUint16()

    clear = round(CLEAR * SCALE)
    nothing = ee.Image.constant([0] * len(names)).rename(names).toUint16().updateMask(0)  # where there are no scenes
    if method == "median":

        def masked(image):
            image = tidy(image)
            return image.updateMask(image.select("score").gte(clear))

        seen = scenes.map(masked).merge(ee.ImageCollection([nothing]))
        image, views = seen.median(), seen.select("score").count()
    else:

        def judged(image):
            score = image.select("cs_cdf").unmask(0, False)
            mean = score.reduceRegion(ee.Reducer.mean(), region, GSD_M, crs)
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


def estimate(n: int, size: int, period: tuple[str, str], *, method: str = "clearest", workers: int = 16) -> str:
    """Describe what n chips of size x size pixels will ask of the network and of Earth Engine, before they are made.

    Args:
        period, method, workers: as for :func:`from_earthengine`.
    """
    days = date.fromisoformat(period[1]) - date.fromisoformat(period[0])
    scenes = -(-days.days // REVISIT_DAYS)
    bands = (len(BANDS) + 1) * scenes if method == "median" else scenes + len(BANDS)
    return (
        f"{n:,} requests, one per chip; {n * size**2 * 2 * len(BANDS + EXTRA) / 1e6:,.1f} MB to fetch\n"
        f"{n * LATENCY_S / workers / 60:,.1f} minutes with {workers} requests at a time, if one takes {LATENCY_S} s "
        "(an assumption: measure it with 20 chips)\n"
        f"Earth Engine reads about {n * size**2 * bands / 1e6:,.0f} million pixels: {scenes} scenes per chip, one "
        f"every {REVISIT_DAYS} days (fewer without those too cloudy, more where orbits overlap)\n"
        f"Free noncommercial quota, EECU-hours a month: {TIERS}; past it requests are slowed, not billed\n"
        "The cost of a chip is not known beforehand: fetch 20, wait some minutes, and look in the Cloud Console, "
        f"Monitoring, Metrics Explorer, for Completed EECU-seconds with workload_tag = {WORKLOAD_TAG}. "
        f"The Community tier is enough if one costs less than {150 * 3600 / max(n, 1):,.0f} EECU-seconds"
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
    """Make a place store with a Sentinel-2 chip at each position that has a clear one; the same call continues.

    A chip has the columns ``scenes`` (that touch it), ``clear_share``, ``clear_views`` (of a pixel, mean),
    ``cloud_score`` (mean Cloud Score+, 1 is clear) and ``epsg``; one of "clearest" has a date. Where nothing was seen,
    all bands are 0; a pixel that was seen has at least 1 in each band.

    Args:
        out, where: as for :func:`geonb.data.sources.parts.chip_store`: positions (n, 2), or a store without images.
        period, method: as for :func:`composite`.
        size: edge of a chip in pixels of 10 m, at most 1254 (an answer has at most 48 MiB).
        project: as for :func:`connect`, which is called unless Earth Engine is initialised and no project is given.
        workers: requests at a time; Earth Engine takes at most 40 of a project.
        max_requests: more positions than this are refused; a chip costs compute of a monthly quota (:func:`estimate`).

    Raises:
        ValueError: a wrong option, more than ``max_requests``, no access (with the steps to set it up), or Earth Engine
            refused; what is finished is kept.
    """
    start, end = (date.fromisoformat(day).isoformat() for day in period)
    if start >= end or method not in METHODS:
        raise ValueError(f"the period {start} to {end} is empty, or the method {method!r} is not one of {METHODS}")
    requests = len(where.lonlat if isinstance(where, PlaceStore) else check_lonlat(where, "positions"))
    if requests > max_requests:
        raise ValueError(
            f"{requests:,} requests, but at most {max_requests:,} are allowed; give fewer positions, or allow more "
            f"(max_requests)\n{estimate(requests, size, (start, end), method=method, workers=workers)}"
        )
    import ee

    if project or not ee.data.is_initialized():
        connect(project)
    return chip_store(
        out, where, lambda lon, lat: _read_chip(ee, lon, lat, size, (start, end), method),
        plan={"source": "earthengine", "collections": [IMAGES, CLOUDS], "period": [start, end], "method": method},
        source=SOURCE, license=LICENSE, size=size, workers=workers,
    )  # fmt: skip


def _read_chip(ee: Any, lon: float, lat: float, size: int, period: tuple[str, str], method: str) -> Chip | str:
    """Compute the chip of a position in one request, or return the reason why there is none."""
    epsg = int(utm_epsg([[lon, lat]])[0])
    if not epsg:
        return "outside UTM (beyond 80 S or 84 N)"
    grid = chip_grid(lon, lat, size)
    a, b, c, d, e, f = grid.transform[:6]
    move = {"scaleX": a, "shearX": b, "translateX": c, "shearY": d, "scaleY": e, "translateY": f}
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
            return "Earth Engine ran out of memory or time (a shorter period or a smaller size may help)"
        raise ValueError(f"Earth Engine gave no chip: {error}") from error
    if not pixels["scenes"].any():
        return "no scene in the period, or all too cloudy"
    clear_share = float((pixels["views"] > 0).mean())
    if clear_share < MIN_CLEAR:
        return f"less than {MIN_CLEAR:.0%} of the chip seen clearly"
    seen = pixels["day"] > 0
    image = np.stack([pixels[name] for name in BANDS])
    image[:, seen] = np.maximum(image[:, seen], 1)
    columns: dict[str, float | str] = {
        "scenes": int(pixels["scenes"].max()),
        "clear_share": round(clear_share, 4),
        "clear_views": round(float(pixels["views"].mean()), 2),
        "cloud_score": round(float(pixels["score"][seen].mean()) / SCALE, 4),
        "epsg": epsg,
    }
    day = date(1970, 1, 1) + timedelta(days=int(np.median(pixels["day"][seen])))
    return Chip(image, day.isoformat() if method == "clearest" else "", columns)
