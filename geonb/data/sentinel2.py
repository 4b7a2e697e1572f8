"""Sentinel-2 L2A chips: bands, checks of values, the +1000 offset, pictures and grids.

The module knows nothing of files, catalogues or stores.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from geonb.geo import check_lonlat

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

#: The bands of Sentinel-2 L2A, in the order of all chips.
BANDS = ["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12"]
#: The bands by the common names of STAC (https://github.com/stac-extensions/eo).
COMMON_NAMES = {
    "coastal": "B1", "blue": "B2", "green": "B3", "red": "B4", "rededge1": "B5", "rededge2": "B6", "rededge3": "B7",
    "nir": "B8", "nir08": "B8A", "nir09": "B9", "swir16": "B11", "swir22": "B12",
}  # fmt: skip
ALIASES = {
    "aerosol": "B1", "re1": "B5", "re2": "B6", "re3": "B7", "nir2": "B8A", "narrownir": "B8A", "wvp": "B9",
    "watervapour": "B9", "swir1": "B11", "swir2": "B12",
}  # fmt: skip
SCALE = 10_000  # digital numbers of a reflectance of 1
MIN_SIZE = 16
FILL = 65_000  # values from here on are no reflectance
GSD_M = 10  # of a pixel of a chip
OFFSET = 1000  # added to L2A digital numbers since processing baseline 04.00
COVERED = (0, 1, 3, 8, 9, 10)  # classes of SCL: no data, defective, cloud shadow, clouds, cirrus
DARK = (2, 4, 6)  # topographic shadow, vegetation, water
GAMMA = 2.2  # of common screens: equal steps of reflectance are shown as equal steps of light


def band_order(names: Sequence[str]) -> list[int]:
    """Find where each of :data:`BANDS` is among bands by their names; see :func:`band_of`.

    Raises:
        ValueError: a band that is missing or there twice, or B10, which only Level-1C has.
    """
    found: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        found.setdefault(band_of(name), []).append(i)
    if "B10" in found:
        raise ValueError("B10 is among the bands, so they are Level-1C; take Level-2A")
    if wrong := [band for band in BANDS if len(found.get(band, [])) != 1]:
        times = len(found.get(wrong[0], []))
        raise ValueError(
            f"{wrong[0]} is there {times} times among the bands {', '.join(map(repr, names))}; give each band once, "
            f"called {', '.join(BANDS)} or {', '.join(COMMON_NAMES)}"
        )
    return [found[band][0] for band in BANDS]


def band_of(name: str) -> str:
    """Return the band of a name such as "B02", "Band 2", "S2_B2_10m" or "s2_blue"; "" for another name."""
    code = re.search(r"(?:^|[^A-Z0-9])B(?:AND[ _-]?)?0?(\d{1,2}A?)(?:$|[^A-Z0-9])", name.upper())
    if code:
        return f"B{code[1]}"
    lower, known = name.lower().strip(), COMMON_NAMES | ALIASES
    words = [re.sub(r"[^a-z0-9]", "", lower), *re.split(r"[^a-z0-9]+", lower)]
    return next((known[word] for word in words if word in known), "")


def check_shape(images: Any, least: int = MIN_SIZE) -> np.ndarray:
    """Refuse chips that are not integers (n, 12, H, W), H and W at ``least`` so large, by a ValueError.

    The axes and bands of an xarray are put into order by their names. Of other arrays the order of the
    bands cannot be known: it must be that of :data:`BANDS`.
    """
    if np.ma.is_masked(images):
        raise ValueError("images have masked pixels; fill them, with 0 where there is no data")
    images = _by_name(images)
    if images.ndim != 4:
        raise ValueError(f"images have shape {images.shape}, not (n, 12, H, W): one chip is images[None]")
    if images.shape[1] != len(BANDS):
        hint = ""
        if images.shape[-1] == len(BANDS):
            hint = "; the bands are last: use images.transpose(0, 3, 1, 2)"
        elif 13 in (images.shape[1], images.shape[-1]):
            hint = "; 13 bands are Level-1C: take Level-2A, which has no B10"
        raise ValueError(f"images have {images.shape[1]} bands (shape {images.shape}), not 12{hint}")
    if min(images.shape[2:]) < least:
        raise ValueError(f"images are {images.shape[2]} x {images.shape[3]} pixels, not at least {least} x {least}")
    if images.dtype.kind not in "ui":
        raise ValueError(
            f"images are {images.dtype}; needed is uint16: multiply reflectance from 0 to 1 by 10_000 "
            "and use np.rint(images).clip(0, 65_535).astype(np.uint16)"
        )
    return images


def _by_name(images: Any) -> np.ndarray:
    if not hasattr(images, "dims"):
        return np.asarray(images)
    if hasattr(images, "data_vars"):
        raise ValueError("images are an xarray Dataset; give one array, as of to_array(dim='band')")
    axis = next((name for name in images.dims if str(name) in ("band", "bands", "channel")), None)
    names = images[axis].values.tolist() if axis in images.coords else None
    if not (names and isinstance(names[0], str)):  # bands by number; rioxarray has their names elsewhere
        names = images.attrs.get("long_name")
    if not isinstance(names, (list, tuple)):
        raise ValueError("images are an xarray without names of bands; give a coordinate band of B1, B2, ...")
    rest = [name for name in images.dims if name != axis]
    edges = ["y", "x"] if {"y", "x"} <= set(rest) else rest[-2:]
    images = images.transpose(*(name for name in rest if name not in edges), axis, *edges)
    return np.asarray(images.isel({axis: band_order(names)}))


def check_images(images: np.ndarray, *, harmonised: bool = False) -> np.ndarray:
    """Return chips as uint16 (n, 12, H, W), or refuse them.

    Args:
        images: integers (n, 12, H, W): reflectance x 10,000, bands as in :data:`BANDS`, H, W >= 16.
        harmonised: the numbers are known to have no offset; it is not looked for.

    Raises:
        ValueError: another shape or type, 8-bit values, values that no reflectance has, more than a
            tenth of a chip without data, or an offset of 1000 in more than half of the chips.
    """
    images = check_shape(images)
    if not len(images):
        return images.astype(np.uint16)
    low, high = images.min(), images.max()
    if high <= 255:
        raise ValueError(
            f"images look like 8-bit pictures (highest value {high}), not reflectance x 10,000: "
            "read the L2A bands, not a rendered (TCI) image"
        )
    if low < 0 or high > 65_535:
        raise ValueError(f"images have values from {low} to {high}, outside uint16; clip them")
    empty = (images == 0).all(1).mean((1, 2))
    filled = (images >= FILL).any(1).mean((1, 2))
    for share, what in ((empty, "0"), (filled, f"{FILL:,} or more (a fill value)")):
        if (share > 0.1).any():
            row = int(np.argmax(share > 0.1))
            raise ValueError(f"image {row}: {share[row]:.0%} of its pixels are {what}; leave it out")
    if not harmonised:
        shifted = radiometric_offset(images) > 0
        if shifted.mean() > 0.5:
            raise ValueError(
                f"{shifted.sum()} of {len(images)} images (first: {int(np.argmax(shifted))}) seem to carry "
                "the offset of +1000 of processing baseline 04.00 and later: use "
                "images.clip(1000) - 1000, or harmonised=True if you know that it is gone"
            )
    return images.astype(np.uint16)


def baseline_offset(baseline: object) -> int | None:
    """Return the offset of a processing baseline such as "05.10" or "N0510": 0 or 1000, or None for what is none."""
    stated = re.fullmatch(r"(\d{1,2})\.\d{1,2}|N(\d\d)\d\d", str(baseline))
    return (OFFSET if int(stated[1] or stated[2]) >= 4 else 0) if stated else None


def radiometric_offset(images: np.ndarray) -> np.ndarray:
    """Estimate the offset in the digital numbers of chips (..., 12, H, W): 0 or 1000, int (...,).

    Where :func:`seen_offset` leaves a doubt, the darker pixels are compared with soil and sand: their
    B1 is about .38 x B4, and an offset lifts it by .06. Snow is bright in B12 only with an offset.
    """
    images = np.asarray(images)
    chips = images.reshape(-1, *images.shape[-3:])
    return np.array([_offset_of(chip) for chip in chips], dtype=np.int64).reshape(images.shape[:-3])


def _offset_of(chip: np.ndarray) -> int:
    seen = seen_offset(chip)
    pixels = chip.reshape(len(BANDS), -1)
    pixels = pixels[:, (pixels > 0).all(0)]
    if seen is not None or pixels.shape[1] == 0:
        return seen or 0
    darkest = np.percentile(pixels, 1, axis=1).min()
    if darkest < 800:
        return 0
    brightness = pixels.sum(0, dtype=np.int64)
    dark = pixels[:, brightness <= np.median(brightness)]
    b1, b3, b4, b12 = (np.median(dark[BANDS.index(b)]) for b in ("B1", "B3", "B4", "B12"))
    if b1 > 3500:
        return OFFSET if darkest > 1300 and b12 < 0.35 * b3 else 0
    return OFFSET if b1 - 0.38 * b4 > 300 else 0


def seen_offset(dn: np.ndarray, scl: np.ndarray | None = None) -> int | None:
    """Return the offset that the pixels of a chip show: 0, 1000, or None where they leave a doubt.

    Water, plants and shadow have a reflectance near 0 in their darkest band. They are found by SCL and
    by differences of bands, in which an offset cancels. On twelve real chips the 1st percentile of
    that band is 182 to 410 without an offset, and 879 or more with it.

    Args:
        dn: (12, H, W), bands as in :data:`BANDS`; 0 is nodata.
        scl: scene classification (H, W), if known; pixels under clouds are left out.
    """
    usable = (dn > 0).all(0)
    if scl is not None:
        usable &= ~np.isin(scl, COVERED)
    if usable.sum() < 16:
        return None
    b = {band: dn[i].astype(np.int32) for i, band in enumerate(BANDS)}
    plants = (b["B8"] - b["B4"] > 1800) & (b["B3"] > b["B4"])
    water = (b["B3"] - b["B8"] > 100) & (b["B8"] - b["B12"] < 300) & (abs(b["B11"] - b["B12"]) < 150)
    dark = usable & (plants | water | (scl is not None and np.isin(scl, DARK)))
    enough = dark.sum() >= max(16, usable.sum() / 100)
    hundredth, twentieth = np.percentile(dn[:, usable], [1, 5], axis=1).min(1)
    # With an offset these would be reflectances below -0.05, -0.03 and -0.02.
    if hundredth < 500 or twentieth < 700 or (enough and np.median(dn[:, dark], axis=1).min() < 800):
        return 0
    return OFFSET if enough and np.percentile(dn[:, dark], 1, axis=1).min() >= 850 else None


def true_color(images: np.ndarray) -> np.ndarray:
    """Show chips in true colour (B4, B3, B2) as uint8 (n, H, W, 3): 255 x reflectance^(1 / 2.2).

    Example:
        >>> chips = np.full((1, 12, 16, 16), 2000, np.uint16)  # reflectance 0.2 in every band
        >>> true_color(chips)[0, 0, 0].tolist()
        [123, 123, 123]
    """
    return _picture(images, ("B4", "B3", "B2"))


def false_color(images: np.ndarray) -> np.ndarray:
    """Show chips in colour infrared (B8, B4, B3) as uint8 (n, H, W, 3): plants red, water black."""
    return _picture(images, ("B8", "B4", "B3"))


def _picture(images: np.ndarray, bands: tuple[str, str, str]) -> np.ndarray:
    chosen = check_shape(images)[:, [BANDS.index(band) for band in bands]]
    value = (chosen.astype(np.float32) / SCALE).clip(0, 1) ** (1 / GAMMA)
    return np.rint(255 * value).astype(np.uint8).transpose(0, 2, 3, 1)


# The grid of a chip


def utm_epsg(lonlat: ArrayLike) -> np.ndarray:
    """Return EPSG codes (n,) of the UTM zones of positions (n, 2): 326xx north, 327xx south, 0 outside."""
    lon, lat = check_lonlat(lonlat, "positions").T
    zone = np.minimum((lon + 180) // 6 + 1, 60).astype(int)
    # Zone 32 is wider in Norway's south-west; Svalbard has only 31, 33, 35 and 37.
    zone = np.where((lat >= 56) & (lat < 64) & (lon >= 3) & (lon < 12), 32, zone)
    svalbard = (lat >= 72) & (lon >= 0) & (lon < 42)
    zone = np.where(svalbard, 31 + 2 * np.searchsorted([9, 21, 33], lon, side="right"), zone)
    return np.where((lat >= -80) & (lat <= 84), np.where(lat < 0, 32700, 32600) + zone, 0)


def chip_grid(lon: float, lat: float, size: int = 64) -> GeoBox:
    """Lay the grid of a chip around a position: ``size`` pixels of 10 m in its UTM zone, on whole 10 m.

    Raises:
        ValueError: a position outside UTM.
    """
    from odc.geo.geobox import GeoBox
    from rasterio.transform import from_origin
    from rasterio.warp import transform

    epsg = int(utm_epsg([[lon, lat]])[0])
    if not epsg:
        raise ValueError(f"({lon}, {lat}) is outside UTM (80 S to 84 N); leave it out")
    (x,), (y,) = transform("EPSG:4326", f"EPSG:{epsg}", [lon], [lat])
    half = size * GSD_M / 2
    west, north = (round(edge / GSD_M) * GSD_M for edge in (x - half, y + half))
    return GeoBox((size, size), from_origin(west, north, GSD_M, GSD_M), f"EPSG:{epsg}")
