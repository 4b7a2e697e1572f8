"""Sentinel-2 chips without a login: scenes are found through STAC, and only blocks around a position are read.

The catalogue is Earth Search of Element 84 (AWS Open Data). ``pystac-client`` searches it, and ``odc-stac`` reads
scenes onto the grid of a chip with Dask. What a catalogue states about the offset of 1000 is at times wrong
(Element84/earth-search issues 9, 24, 66, 71), so the pixels decide where they leave no doubt; where they only cast
doubt, the scene is passed over. The live catalogue was not tried.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from geonb.data.sentinel2 import (
    BANDS,
    COMMON_NAMES,
    COVERED,
    OFFSET,
    SCALE,
    baseline_offset,
    chip_grid,
    radiometric_offset,
    seen_offset,
    utm_epsg,
)
from geonb.data.sources._raster import REMOTE, may_pass, raster_errors
from geonb.data.sources.http import allowed, session, usable
from geonb.data.sources.parts import Chip, chip_store
from geonb.data.store import PlaceStore

if TYPE_CHECKING:
    import xarray as xr
    from odc.geo.geobox import GeoBox
    from pystac import Item

EARTH_SEARCH = "https://earth-search.aws.element84.com/v1"
COLLECTION = "sentinel-2-c1-l2a"
#: The asset of each band, and of the scene classification (SCL).
ASSETS = {band: name for name, band in COMMON_NAMES.items()} | {"SCL": "scl"}
SOURCE = "Copernicus Sentinel-2 Collection 1 L2A through Earth Search (Element 84, AWS Open Data)"
LICENSE = "free and open (Copernicus Sentinel data terms); contains modified Copernicus Sentinel data"
COARSE = ("B1", "B5", "B6", "B7", "B8A", "B9", "B11", "B12")  # 20 and 60 m
MAX_SCENE_CLOUD = 80  # per cent of a scene; cloudier ones are not searched for
MAX_CLOUD = 0.05  # share of a chip that may be covered or lack data
MAX_PASSES = 12  # read the scene classification of at most this many for one chip
VIEWS, MIN_VIEWS = 8, 3  # of a median: passes at most, and clear views of a pixel at least

ODD = (ValueError, TypeError, LookupError, AttributeError, AssertionError)  # of metadata of any shape

OUTSIDE = "outside UTM (beyond 80 S or 84 N)"
NO_SCENE = "no scene in the period"
CLOUDY = "no scene is clear over the chip"
BROKEN = "only scenes that cannot be read"
UNCLEAR = "the pixels cast doubt on the declared offset"


def _search(grid: GeoBox, period: tuple[str, str], url: str) -> list[Item]:
    """Search a catalogue for the scenes that touch a chip, with the fewest clouds first."""
    from pystac_client.exceptions import APIError

    start, last = period[0], date.fromisoformat(period[1]) - timedelta(days=1)
    area = grid.extent.to_crs("EPSG:4326", wrapdateline=True)
    with usable(url):
        try:
            found = _client(url).search(
                collections=[COLLECTION], intersects=area, datetime=f"{start}T00:00:00Z/{last}T23:59:59Z",
                query={"eo:cloud_cover": {"lte": MAX_SCENE_CLOUD}},
                sortby=[{"field": "properties.eo:cloud_cover", "direction": "asc"}], max_items=200,
            )  # fmt: skip
            return [item for item in found.items() if _has_all(item)]
        except APIError as error:
            raise OSError(f"{url}: the catalogue failed ({error}); try again later") from error


@lru_cache(maxsize=4)
def _client(url: str) -> Any:
    from pystac_client import Client
    from pystac_client.stac_api_io import StacApiIO

    stac_io = StacApiIO(max_retries=None)
    stac_io.session = session()  # ours, with one policy of retries, and https only
    return Client.open(url, stac_io=stac_io)


def _has_all(item: Item) -> bool:
    """Tell whether an item has a time and all bands, at https addresses."""
    assets = [item.assets.get(name) for name in ASSETS.values()]
    return item.datetime is not None and all(asset is not None and allowed(asset.href) for asset in assets)


def _passes(items: list[Item], grid: GeoBox) -> list[list[Item]]:
    """Join the tiles of a pass: those in the UTM zone of the chip first, then the newest processing."""
    passes = defaultdict(list)
    for item in items:
        passes[item.properties.get("platform"), f"{item.datetime:%Y-%m-%d %H}"].append(item)

    def order(item: Item) -> tuple:
        zone = str(item.properties.get("proj:code") or item.properties.get("proj:epsg"))  # 32631, or EPSG:32631
        return zone not in str(grid.crs), -float(_baseline(item) or 0), item.id

    return [sorted(tiles, key=order) for tiles in passes.values()]


def _open(items: list[Item], grid: GeoBox, bands: list[str]) -> xr.Dataset | None:
    """Open bands of a pass on the grid of a chip, lazily: digital numbers (1, y, x); 0 is nodata.

    Where several scenes have data, the first one counts. None if their metadata cannot be used.
    """
    import odc.stac
    import rasterio

    kinds = {"*": {"data_type": "uint16", "nodata": 0}, ASSETS["SCL"]: {"data_type": "uint8", "nodata": 0}}
    try:
        with rasterio.Env(**REMOTE):  # odc-stac hands these settings on to its workers
            return odc.stac.load(
                items, [ASSETS[band] for band in bands], geobox=grid, chunks={}, groupby=lambda *_: 0,
                preserve_original_order=True, stac_cfg={COLLECTION: {"assets": kinds}},
                resampling={"*": "nearest"} | {ASSETS[band]: "bilinear" for band in COARSE},
            )  # fmt: skip
    except ODD:
        return None


def _read(lazy: list[xr.Dataset | None]) -> list[xr.Dataset | None]:
    """Read datasets, all at once; None in place of one whose files are gone or damaged."""
    import dask

    # odc-geo asserts that a file has a reference system
    unreadable: tuple[type[Exception], ...] = (*raster_errors(), AssertionError)
    try:
        return list(dask.compute(*lazy))
    except unreadable as error:
        if may_pass(error):
            raise OSError(f"a scene could not be read ({error}); try again later") from error
        return [None] if len(lazy) == 1 else [_read([dataset])[0] for dataset in lazy]


def declared_offset(item: Item) -> tuple[int, str]:
    """Return the offset in the numbers of an item, 0 or 1000, and the metadata that say so.

    In this order: ``earthsearch:boa_offset_applied``, where true (``raster:bands`` is then out of
    date); the offset in ``raster:bands`` or ``bands``; the processing baseline, from 04.00. The date
    never counts: old scenes are processed again.

    Raises:
        ValueError: another offset or scale than 0 or 1000 and 1/10000, several, or none.
    """
    if item.properties.get("earthsearch:boa_offset_applied") is True:
        return 0, "boa_offset_applied"
    pairs = [_scale_and_offset(item.assets[ASSETS[band]].to_dict()) for band in BANDS]
    stated = {pair for pair in pairs if pair}
    for offset in (0, OFFSET) if stated else ():
        if np.allclose(list(stated), (1 / SCALE, -offset / SCALE), rtol=1e-6, atol=0):
            return offset, "raster:bands"
    offset = baseline_offset(_baseline(item))
    if stated or offset is None:
        raise ValueError(f"{item.id}: scales and offsets of {stated or 'no known kind'}")
    return offset, "processing_baseline"


def _scale_and_offset(asset: dict) -> tuple[float, float] | None:
    """Find scale and offset where STAC 1.0 and 1.1 have them; None where none is stated."""
    places = (asset.get("raster:bands"), ""), (asset.get("bands"), "raster:"), ([asset], "raster:")
    for bands, prefix in places:
        if bands and (offset := bands[0].get(f"{prefix}offset")) is not None:
            return float(bands[0].get(f"{prefix}scale", 1 / SCALE)), float(offset)
    return None


def _baseline(item: Item) -> str:
    """Return the processing baseline, such as "05.10"; ``""`` where it is not stated."""
    stated = item.properties.get("s2:processing_baseline") or item.properties.get("processing:version")
    return str(stated) if baseline_offset(stated) is not None else ""


def _reflectance(items: list[Item], grid: GeoBox, scl: np.ndarray) -> tuple[np.ndarray, int, str] | str:
    """Read a pass as reflectance x 10,000 (12, H, W), the offset that was taken off, and its rule."""
    [data] = _read([_open(items, grid, BANDS)])
    if data is None:
        return BROKEN
    dn = np.stack([data[ASSETS[band]].values[0] for band in BANDS])
    dn[:, ~(dn > 0).all(0)] = 0  # a pixel that lacks a band lacks all
    try:
        declared = [declared_offset(item) for item in items]
    except ODD:
        return UNCLEAR
    offset, rule = declared[0]
    seen = seen_offset(dn, scl)
    doubt = seen is None and not offset and radiometric_offset(dn)
    if doubt or len({stated for stated, _ in declared}) > 1:
        return UNCLEAR
    if seen is not None and seen != offset:
        offset, rule = seen, f"pixels against {rule}"
    return dn - np.minimum(dn, np.uint16(offset)), offset, rule


def _read_chip(lon: float, lat: float, period: tuple[str, str], size: int, method: str, url: str) -> Chip | str:
    """Make a chip, or return the reason why there is none; the arguments are those of `from_stac`."""
    epsg = int(utm_epsg([[lon, lat]])[0])
    if not epsg:
        return OUTSIDE
    grid = chip_grid(lon, lat, size)
    passes = _passes(_search(grid, period, url), grid)[:MAX_PASSES]
    classes = _read([_open(items, grid, ["SCL"]) for items in passes])
    views = [(items, one["scl"].values[0]) for items, one in zip(passes, classes, strict=True) if one is not None]
    reason = CLOUDY if views else BROKEN if passes else NO_SCENE
    most, enough = (VIEWS, 0.1) if method == "median" else (1, 1 - MAX_CLOUD)
    used: list[tuple] = []  # items, clear pixels, reflectance, offset, rule
    for items, scl in sorted(views, key=lambda view: np.isin(view[1], COVERED).mean()):
        clear = ~np.isin(scl, COVERED)
        if len(used) == most or clear.mean() < enough:
            break
        found = _reflectance(items, grid, scl)
        if isinstance(found, str):
            reason = found
            continue
        clear &= (found[0] > 0).any(0)
        if clear.mean() >= enough:
            used.append((items, clear, *found))
    return _compose(used, method, epsg) if used else reason


def _compose(used: list[tuple], method: str, epsg: int) -> Chip | str:
    """Make a chip of the first view, or of the median of all."""
    tiles, masks, images, offsets, rules = zip(*used, strict=True)
    scenes = [item for items in tiles for item in items]
    day, image, clear = f"{scenes[0].datetime:%Y-%m-%d}", images[0], masks[0]
    if method == "median":
        values = np.where(np.stack(masks)[:, None], np.stack(images), np.nan)
        clear = np.sum(masks, axis=0) >= MIN_VIEWS
        day, image = "", np.zeros_like(image)
        image[:, clear] = np.rint(np.nanmedian(values[:, :, clear], axis=0))
    if clear.mean() < 1 - MAX_CLOUD:
        return CLOUDY
    columns: dict[str, float | str] = {
        "item": _joined(item.id for item in scenes),
        "processing_baseline": _joined(map(_baseline, scenes)),
        "cloud_share": round(1 - float(clear.mean()), 6),
        "offset_removed": float(np.mean(offsets)),
        "offset_rule": _joined(rules),
        "epsg": epsg,
    }
    return Chip(image, day, columns)


def _joined(values: Iterable[str]) -> str:
    return ";".join(dict.fromkeys(filter(None, values)))


def from_stac(
    out: str | Path,
    where: ArrayLike | PlaceStore,
    *,
    period: tuple[str, str],
    size: int = 64,
    method: str = "least_cloudy",
    url: str = EARTH_SEARCH,
    simulated: bool = False,
    workers: int = 4,
) -> PlaceStore:
    """Make a place store with a Sentinel-2 chip at each position that has one.

    Args:
        out: the store's folder.
        where: positions (n, 2) in degrees, or a :class:`PlaceStore` to which chips are added, as for
            :func:`geonb.data.sources.parts.chip_store`.
        period: first day, and the day after the last (ISO 8601). A longer one finds more and takes longer.
        size: edge of a chip in pixels of 10 m, 16 to 1024.
        method: "least_cloudy": the pass with the fewest covered pixels by its scene classification, all of one moment.
            "median": of the clear views of each pixel. At most :data:`MAX_CLOUD` of a chip may be covered or lack data.
        url: of a STAC API with the collection and the assets of Earth Search.
        simulated: whether its scenes are, as those of :mod:`geonb.practice`; the store says so.
        workers: places at a time. Pixels are read on Dask's threads, or on the cluster of an open client.

    Raises:
        ValueError: a wrong option or position, no chip at all, or the catalogue failed (what is finished is kept).
    """
    start, end = (date.fromisoformat(day) for day in period)
    if start >= end:
        raise ValueError(f"the period {start} to {end} (the last day excluded) is empty")
    if method not in ("least_cloudy", "median") or not 16 <= size <= 1024:
        raise ValueError(f"method {method!r}, size {size}: give least_cloudy or median, and 16 to 1024 pixels")
    options: dict[str, Any] = {"period": tuple(period), "method": method, "url": url}
    return chip_store(
        out, where, lambda lon, lat: _read_chip(lon, lat, size=size, **options),
        plan={"source": "stac", "collection": COLLECTION, **options},
        source="simulated practice scenes" if simulated else SOURCE, license="none" if simulated else LICENSE,
        size=size, workers=workers, simulated=simulated,
    )  # fmt: skip
