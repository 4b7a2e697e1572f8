"""Sentinel-2 L2A chips as numbers: bands, checks of their values, the +1000 offset, pictures and the grid of a chip.

The module knows nothing of files, catalogues or stores.
"""

from __future__ import annotations

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
COVERED = (0, 1, 3, 8, 9, 10)  # classes of SCL: no data, defective, cloud shadow, cloud (twice), thin cirrus
DARK = (2, 4, 6)  # topographic shadow, vegetation, water
GAMMA = 2.2  # of common screens: equal steps of reflectance are shown as equal steps of light


def check_shape(images: np.ndarray) -> np.ndarray:
    """Refuse chips that are not integers (n, 12, H, W) with H and W at least 16; values are not checked.

    Raises:
        ValueError: another shape, number of bands, size or type; the message says what to do.
    """
    images = np.asarray(images)
    if images.ndim != 4:
        raise ValueError(f"images have shape {images.shape}; needed is (n, 12, H, W): one chip is images[None]")
    if images.shape[1] != len(BANDS):
        hint = ""
        if images.shape[-1] == len(BANDS):
            hint = "; the bands are last: use images.transpose(0, 3, 1, 2)"
        elif 13 in (images.shape[1], images.shape[-1]):
            hint = "; 13 bands are Level-1C: take Level-2A, which has no B10"
        raise ValueError(f"images have {images.shape[1]} bands (shape {images.shape}), not the 12 of {BANDS}{hint}")
    if min(images.shape[2:]) < MIN_SIZE:
        raise ValueError(f"images are {images.shape[2]} x {images.shape[3]} pixels; at least 16 x 16 are needed")
    if images.dtype.kind not in "ui":
        raise ValueError(
            f"images are {images.dtype}; needed is uint16: use np.rint(images).clip(0, 65_535).astype(np.uint16), "
            "and before that multiply reflectance from 0 to 1 by 10_000"
        )
    return images


def check_images(images: np.ndarray, *, harmonised: bool = False) -> np.ndarray:
    """Return chips as uint16 (n, 12, H, W), or say what is wrong with them and what to do.

    Args:
        images: integers (n, 12, H, W): reflectance x 10,000, bands in the order of :data:`BANDS`, H, W >= 16.
        harmonised: the numbers are known to have no offset, so :func:`radiometric_offset`, which can err on chips
            without dark pixels, is not used.

    Raises:
        ValueError: what :func:`check_shape` refuses; 8-bit values; values that no reflectance has; chips of which more
            than a tenth has no data; an offset of 1000 in more than half of them.
    """
    images = check_shape(images)
    if not len(images):
        return images.astype(np.uint16)
    low, high = images.min(), images.max()
    if high <= 255:
        raise ValueError(
            f"images look like 8-bit pictures (highest value {high}), not reflectance x 10,000: "
            "read the L2A bands themselves, not a rendered (TCI) image"
        )
    if low < 0 or high > 65_535:
        raise ValueError(f"images have values from {low} to {high}, outside uint16; use images.clip(0, 65_535)")
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


def radiometric_offset(images: np.ndarray) -> np.ndarray:
    """Estimate the offset in the digital numbers of chips: 0 or 1000, int (n,) for (n, 12, H, W), () for one chip.

    Sentinel-2 L2A of processing baseline 04.00 and later holds 10,000 x reflectance + 1000 unless it was harmonised.
    Where the pixels of a chip leave no doubt (:func:`seen_offset`), they decide. Otherwise the darker half of the
    pixels, which is seldom cloud, is compared with bright soil and sand: their B1 is about .38 x B4 (within .05 for the
    spectra of the simulated images), and an offset lifts B1 by .06 above that line. Chips that are bright all over
    (cloud, snow) show an offset only if snow is bright in B12.
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

    The darkest band of water, plants and shadow has a reflectance near 0. These pixels are found by SCL, and by
    differences of bands, in which an offset cancels: much more near infrared than red and more green than red (plants);
    more green than infrared and no short-wave infrared (water).

    - No offset: a hundredth of the chip is below 500 in some band, a twentieth below 700, or half of the dark pixels
      below 800. With an offset their reflectance would be below -0.05, -0.03 or -0.02.
    - Offset: at least a hundredth of the chip is dark, and the 1st percentile of its darkest band is 850 or more.

    On twelve real chips the 1st percentile of the darkest band is 182 to 410 without an offset, 879 or more with it.

    Args:
        dn: (12, H, W), bands as in :data:`BANDS`; 0 is nodata.
        scl: classes of Level-2A's scene classification (H, W), if known. Pixels under clouds are left out.
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


def true_color(images: np.ndarray) -> np.ndarray:
    """Show chips in true colour: red, green, blue = B4, B3, B2, as uint8 (n, H, W, 3).

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
    """Show chips in colour infrared, uint8 (n, H, W, 3): red, green, blue = B8, B4, B3; plants are red, water black."""
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
