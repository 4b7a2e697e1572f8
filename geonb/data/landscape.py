"""Real image chips of any place on Earth, cut from seven global mosaics that come with the package.

The pixels are 8-bit display values of cloudless composites (NASA's Blue Marble of 2004 in five months, and the night
lights of 2012), not reflectance. The sea is painted, and chips of neighbouring places share pixels. Credits and
licences: ``assets/SOURCES.md``.

A chip has a constant size on the ground wherever it lies: it is cut in azimuthal equidistant projection around its
centre, north up, so it is right at the poles and across longitude 180 too.
"""

from __future__ import annotations

import warnings
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from geonb.data.sampling import on_land
from geonb.data.store import Images
from geonb.geo import EARTH_RADIUS_KM, check_lonlat

KM = (60.0, 500.0)  # least and largest edge of a chip
MIN_SOURCE_PIXELS = 4  # across a chip; with fewer it shows interpolated values
CHUNK = 256  # chips cut at a time


class Mosaic(NamedTuple):
    """A picture of the Earth in degrees, from 180 W and 90 N on.

    Attributes:
        name: of its bands. ``file``: among the assets. ``colours``: names of its channels.
        km: edge of its pixels at the equator.
    """

    name: str
    file: str
    km: float
    colours: tuple[str, ...] = ("red", "green", "blue")


MOSAICS = (
    Mosaic("july", "blue_marble_july_5400.jpg", 7.4),
    Mosaic("january", "blue_marble_january.jpg", 19.6),
    Mosaic("march", "blue_marble_march.jpg", 19.6),
    Mosaic("may", "blue_marble_may.jpg", 19.6),
    Mosaic("july, coarse", "blue_marble_july.jpg", 19.6),
    Mosaic("august", "blue_marble_august.jpg", 19.6),
    Mosaic("night", "night_lights.png", 19.6, ("light",)),
)
BANDS = [f"{mosaic.name} {colour}" for mosaic in MOSAICS for colour in mosaic.colours]
#: Edge in km at the equator of the source pixels of each band.
SOURCE_KM = [mosaic.km for mosaic in MOSAICS for _ in mosaic.colours]


def cut_chips(lonlat: ArrayLike, size: int = 32, km: float = 240.0) -> np.ndarray:
    """Cut the chips of positions (n, 2), degrees: uint8 (n, 19, size, size), bands as in :data:`BANDS`, north up.

    Values are interpolated linearly between the pixels of the mosaics.

    Args:
        size: pixels along each side.
        km: length of each side on the ground, 60 to 500. A larger one shows more and shares more with its neighbours.

    Raises:
        ValueError: a position that is impossible, or a size or scale out of range.
        OSError: a mosaic that is missing or damaged.
    """
    lonlat = check_lonlat(lonlat, "positions")
    if size < 1 or not KM[0] <= km <= KM[1]:
        raise ValueError(f"chips of {size} pixels and {km:g} km; give at least 1 pixel, and {KM[0]:g} to {KM[1]:g} km")
    out = np.empty((len(lonlat), len(BANDS), size, size), np.uint8)
    for start in range(0, len(lonlat), CHUNK):
        part = slice(start, start + CHUNK)
        lon, lat = _ground(lonlat[part], size, km)
        band = 0
        for mosaic in MOSAICS:
            out[part, band : band + len(mosaic.colours)] = _sampled(_pixels(mosaic), lon, lat)
            band += len(mosaic.colours)
    return out


def images(lonlat: ArrayLike, size: int = 32, km: float = 240.0) -> Images:
    """Cut the chips of places (n, 2), degrees, for a store; see :func:`cut_chips`.

    A chip without land has painted sea alone: it is left out, and how many there are is said.

    Raises:
        ValueError, OSError: as in :func:`cut_chips`.
    """
    lonlat = check_lonlat(lonlat, "positions")
    rows = np.flatnonzero(_shows_land(lonlat, km))
    if sea := len(lonlat) - len(rows):
        warnings.warn(f"{sea:,} of {len(lonlat):,} places have no landscape chip: they lie at sea", stacklevel=2)
    chunks = (cut_chips(lonlat[rows[i : i + CHUNK]], size, km) for i in range(0, len(rows), CHUNK))
    return Images(chunks, rows, bands=BANDS, scale=255, gsd_m=1000 * km / size)


def _shows_land(lonlat: np.ndarray, km: float) -> np.ndarray:
    """Tell which chips (n,) have land at one of 7 x 7 points."""
    ground = np.stack(_ground(lonlat, 7, km), -1)
    return np.max(on_land(ground.reshape(-1, 2)).reshape(len(lonlat), -1), axis=1)


def interpolated(km: float) -> list[str]:
    """List the mosaics of which a chip of ``km`` has fewer than four pixels across, so that captions can say so."""
    return [mosaic.name for mosaic in MOSAICS if km < MIN_SOURCE_PIXELS * mosaic.km]


def picture(chips: np.ndarray, mosaic: str = "july") -> np.ndarray:
    """Show one mosaic of chips (n, 19, H, W) in its own colours: uint8 (n, H, W, 3).

    Raises:
        ValueError: an unknown mosaic.
    """
    bands = [i for i, name in enumerate(BANDS) if name.rpartition(" ")[0] == mosaic]
    if not bands:
        raise ValueError(f"no mosaic {mosaic!r}; choose from {', '.join(m.name for m in MOSAICS)}")
    return np.moveaxis(np.broadcast_to(chips[:, bands], (len(chips), 3, *chips.shape[2:])), 1, 3)


def _ground(lonlat: np.ndarray, size: int, km: float) -> tuple[np.ndarray, np.ndarray]:
    """Compute longitude and latitude, each (n, size, size) in degrees, of the pixels of chips around positions."""
    step = (np.arange(size) + 0.5 - size / 2) * (km / size / EARTH_RADIUS_KM)  # angles from the centre
    x, y = np.meshgrid(step, -step)
    angle = np.hypot(x, y)
    lon, lat = np.radians(lonlat).T[:, :, None, None]
    # The unit vector to a pixel is cos(angle) up + sinc(angle) (x east + y north).
    sinc = np.sinc(angle / np.pi)
    up = np.cos(angle) * np.cos(lat) - y * sinc * np.sin(lat)
    height = np.cos(angle) * np.sin(lat) + y * sinc * np.cos(lat)
    turn = np.arctan2(x * sinc, up)
    return (np.degrees(lon + turn) + 180) % 360 - 180, np.degrees(np.arcsin(np.clip(height, -1, 1)))


def _sampled(pixels: np.ndarray, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """Interpolate a mosaic (bands, rows, columns), a column wider on either side, at lon, lat (n, H, W) in degrees."""
    from scipy.ndimage import map_coordinates

    rows, columns = pixels.shape[1], pixels.shape[2] - 2
    at = np.stack([(90 - lat) / 180 * rows - 0.5, (lon + 180) / 360 * columns + 0.5])
    found = [map_coordinates(band, at, np.uint8, order=1, mode="nearest") for band in pixels]
    return np.stack(found, 1)


@cache
def _pixels(mosaic: Mosaic) -> np.ndarray:
    """Read a mosaic, uint8 (bands, rows, columns + 2), with its last column before its first, and the reverse."""
    from PIL import Image, UnidentifiedImageError

    file = files("geonb.data") / "assets" / mosaic.file
    try:
        with file.open("rb") as stream, Image.open(stream) as image:
            pixels = np.atleast_3d(np.asarray(image.convert("L" if len(mosaic.colours) == 1 else "RGB")))
    except (OSError, UnidentifiedImageError) as error:
        raise OSError(f"{file}: missing or damaged ({error}); install geonb again") from None
    return np.ascontiguousarray(np.pad(pixels, ((0, 0), (1, 1), (0, 0)), "wrap").transpose(2, 0, 1))
