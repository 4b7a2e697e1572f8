"""Sentinel-2 L2A chips as numbers: their bands, checks of what is in them, and pictures of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from geonb.geo import check_lonlat

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

#: The bands of Sentinel-2 L2A, in the order of all chips.
BANDS = ["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12"]
SCALE = 10_000  # digital numbers of a reflectance of 1
MIN_SIZE = 16
GSD_M = 10  # of a pixel of a chip
OFFSET = 1000  # added to L2A digital numbers since processing baseline 04.00
OFFSET_FROM = "2022-01-25"  # its first day


def check_shape(images: np.ndarray) -> np.ndarray:
    """Chips, reflectance x 10,000, as integers (n, 12, H, W), H and W at least 16, whose values were not looked at.

    Raises:
        ValueError: another shape, number of bands, size or type; the message says what to do.
    """
    images = np.asarray(images)
    if images.ndim != 4:
        raise ValueError(
            f"images have shape {images.shape}; needed is (n, 12, H, W): one chip is images[None]"
        )
    if images.shape[1] != len(BANDS):
        hint = ""
        if images.shape[-1] == len(BANDS):
            hint = "; the bands are last: use images.transpose(0, 3, 1, 2)"
        elif 13 in (images.shape[1], images.shape[-1]):
            hint = "; 13 bands are Level-1C: take Level-2A, which has no B10"
        raise ValueError(
            f"images have {images.shape[1]} bands (shape {images.shape}), not the 12 of {BANDS}{hint}"
        )
    if min(images.shape[2:]) < MIN_SIZE:
        raise ValueError(
            f"images are {images.shape[2]} x {images.shape[3]} pixels; at least 16 x 16 are needed"
        )
    if images.dtype.kind not in "ui":
        raise ValueError(_about_floats(images))
    return images


def _about_floats(images: np.ndarray) -> str:
    if images.dtype.kind != "f":
        return f"images are {images.dtype}; needed is uint16, reflectance x 10,000"
    broken = ~np.isfinite(images).all((1, 2, 3))
    if broken.any():
        return f"image {int(np.argmax(broken))} has NaN or infinite values; mask or leave out such chips"
    if images.size and np.abs(images).max() < 3:
        return (
            "images look like reflectance in 0..1, not reflectance x 10,000: use "
            "np.rint(images * 10_000).clip(0, 65_535).astype(np.uint16)"
        )
    return (
        f"images are {images.dtype}; needed is uint16, reflectance x 10,000: "
        "use np.rint(images).clip(0, 65_535).astype(np.uint16)"
    )


def check_images(
    images: np.ndarray, bands: Sequence[str] | None = None, *, harmonised: bool = False
) -> np.ndarray:
    """Return chips as uint16 (n, 12, H, W), or say what is wrong with them and what to do.

    Args:
        images: integers (n, 12, H, W): reflectance x 10,000, bands in the order of `BANDS`, H, W >= 16.
        bands: the names of the bands, where they are known; "B01" and "B1" are the same.
        harmonised: set it when you know that no radiometric offset is left in the numbers; then
            `radiometric_offset`, which can err on chips without anything dark, is not asked.

    Raises:
        ValueError: wrong bands or order; NaN; reflectance in 0..1; 8-bit values; values that no reflectance
            has; chips of which more than a tenth has no data; an offset of 1000 in more than half of them.
    """
    if bands is not None:
        _check_bands(bands)
    images = check_shape(images)
    if not len(images):
        return images.astype(np.uint16)
    if images.dtype == np.uint8 or images.max() <= 255:
        raise ValueError(
            f"images look like 8-bit pictures (highest value {images.max()}), not reflectance x 10,000: "
            "read the L2A bands themselves, not a rendered (TCI) image"
        )
    if images.min() < 0:
        raise ValueError(f"images have negative values (lowest {images.min()}); use images.clip(0)")
    if images.max() > 65_535:
        raise ValueError(
            f"images have values above 65,535 (highest {images.max()}), which uint16 does not hold; use "
            "images.clip(0, 65_535)"
        )
    empty = (images == 0).all(1).mean((1, 2))
    filled = (images >= 65_000).any(1).mean((1, 2))
    for share, what in ((empty, "0"), (filled, "65,000 or more (a fill value)")):
        if (share > 0.1).any():
            row = int(np.argmax(share > 0.1))
            raise ValueError(f"image {row}: {share[row]:.0%} of its pixels are {what}; leave such chips out")
    if not harmonised:
        shifted = radiometric_offset(images) > 0
        if shifted.mean() > 0.5:
            raise ValueError(
                f"{shifted.sum()} of {len(images)} images (first: {int(np.argmax(shifted))}) seem to carry "
                "the offset of +1000 of processing baseline 04.00 and later: use "
                "images.clip(1000) - 1000, or say harmonised=True if you know that it is gone"
            )
    return images.astype(np.uint16)


def _check_bands(bands: Sequence[str]) -> None:
    names = [str(band).strip().upper() for band in bands]
    names = ["B" + name[1:].lstrip("0") if name.startswith("B") else name for name in names]
    if names == BANDS:
        return
    missing = [band for band in BANDS if band not in names]
    if missing:
        raise ValueError(
            f"the bands {missing} are missing from {list(bands)}; needed are {BANDS}, in this order"
        )
    order = [names.index(band) for band in BANDS]
    raise ValueError(f"the bands must be {BANDS}, in this order, not {list(bands)}: use images[:, {order}]")


def radiometric_offset(images: np.ndarray) -> np.ndarray:
    """An estimate of the offset in the digital numbers of each chip: 0 or 1000, int (n,).

    Sentinel-2 L2A of processing baseline 04.00 and later holds 10,000 x reflectance + 1000 unless it was
    harmonised; the product's metadata (BOA_ADD_OFFSET) say so for certain, and a chip often does:

    - the darkest per cent of some band lies near 0 where there is water, shadow, plants (visible) or snow
      (short-wave infrared): below 800 there is no offset;
    - bright soil and sand have no dark pixel, but B1 is about .38 x B4 (the sands and soils of
      `simulated.ENDMEMBERS` keep within .05 of it), and an offset lifts B1 by .06 above that line.

    Both are asked of the darker half of the pixels, which are seldom cloud. Chips that are bright all over
    (cloud, snow) show an offset only if snow is bright in B12; else the answer is 0.

    Accepts (n, 12, H, W), or one chip (12, H, W), for which it returns an array of shape ().
    """
    images = np.asarray(images)
    if images.ndim == 3:
        return radiometric_offset(images[None])[0]
    return np.array([_offset_of(chip.reshape(len(BANDS), -1)) for chip in images], dtype=np.int64)


def _offset_of(pixels: np.ndarray) -> int:
    pixels = pixels[:, (pixels > 0).all(0)]
    if pixels.shape[1] == 0:
        return 0
    darkest = np.percentile(pixels, 1, axis=1).min()
    if darkest < 800:
        return 0
    brightness = pixels.sum(0, dtype=np.int64)
    dark = pixels[:, brightness <= np.median(brightness)]
    b1, b3, b4, b12 = (np.median(dark[BANDS.index(b)]) for b in ("B1", "B3", "B4", "B12"))
    if b1 > 3500:
        return OFFSET if darkest > 1300 and b12 < 0.35 * b3 else 0
    return OFFSET if b1 - 0.38 * b4 > 300 else 0


GAMMA = 2.2  # of common screens: equal steps of reflectance are shown as equal steps of light


def true_color(images: np.ndarray) -> np.ndarray:
    """Red, green, blue = B4, B3, B2, as uint8 (n, H, W, 3).

    The stretch is fixed, so chips can be compared: value = 255 x reflectance^(1 / 2.2), white at 100 %.

    Raises:
        ValueError: images that are not integers (n, 12, H, W), H and W at least 16.

    Example:
        >>> chips = np.full((1, 12, 16, 16), 2000, np.uint16)  # reflectance 0.2 in every band
        >>> chips[:, BANDS.index("B4")] = 5000  # and 0.5 in red
        >>> picture = true_color(chips)
        >>> picture.shape, picture[0, 0, 0].tolist()
        ((1, 16, 16, 3), [186, 123, 123])
    """
    return _picture(images, ("B4", "B3", "B2"))


def false_color(images: np.ndarray) -> np.ndarray:
    """Colour infrared: red, green, blue = B8, B4, B3 (plants red, water black), stretched as `true_color`.

    Chips (n, 12, H, W) of reflectance x 10,000 become pictures uint8 (n, H, W, 3).
    """
    return _picture(images, ("B8", "B4", "B3"))


def _picture(images: np.ndarray, bands: tuple[str, str, str]) -> np.ndarray:
    chosen = check_shape(images)[:, [BANDS.index(band) for band in bands]]
    value = (chosen.astype(np.float32) / SCALE).clip(0, 1) ** (1 / GAMMA)
    return np.rint(255 * value).astype(np.uint8).transpose(0, 2, 3, 1)


# --- the grid of a chip -------------------------------------------------------------------------------


def utm_epsg(lonlat: ArrayLike) -> np.ndarray:
    """Return EPSG codes (n,) of the UTM zones of positions (n, 2): 326xx north, 327xx south, 0 outside UTM.

    Zones are 6 degrees wide except in Norway's south-west (zone 32 reaches to 3 E) and Svalbard (only 31, 33, 35 and
    37), as the tiles of Sentinel-2 are. UTM ends at 80 S and 84 N.
    """
    lon, lat = check_lonlat(lonlat, "positions").T
    zone = np.minimum((lon + 180) // 6 + 1, 60).astype(int)
    zone = np.where((lat >= 56) & (lat < 64) & (lon >= 3) & (lon < 12), 32, zone)
    svalbard = (lat >= 72) & (lon >= 0) & (lon < 42)
    zone = np.where(svalbard, 31 + 2 * np.searchsorted([9, 21, 33], lon, side="right"), zone)
    return np.where((lat >= -80) & (lat <= 84), np.where(lat < 0, 32700, 32600) + zone, 0)


def chip_grid(lon: float, lat: float, size: int = 64) -> GeoBox:
    """Lay the grid of a chip around a position: pixels of 10 m in its UTM zone, the corner on whole 10 m.

    Args:
        lon, lat: degrees; the centre of the chip lies within 5 m of them, east and north.
        size: edge in pixels.

    Returns:
        The grid as odc-geo's GeoBox, which has ``crs``, ``transform``, ``shape`` and ``boundingbox``.

    Raises:
        ValueError: a position outside UTM.
    """
    from odc.geo.geobox import GeoBox
    from rasterio.transform import from_origin
    from rasterio.warp import transform

    epsg = int(utm_epsg([[lon, lat]])[0])
    if not epsg:
        raise ValueError(f"({lon}, {lat}) is outside UTM, which ends at 80 S and 84 N; leave it out")
    (x,), (y,) = transform("EPSG:4326", f"EPSG:{epsg}", [lon], [lat])
    west, north = (round(edge / GSD_M) * GSD_M for edge in (x - size * GSD_M / 2, y + size * GSD_M / 2))
    return GeoBox((size, size), from_origin(west, north, GSD_M, GSD_M), f"EPSG:{epsg}")
