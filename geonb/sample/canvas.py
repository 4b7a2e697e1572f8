"""Paint a simulated Sentinel-2 chip: spectra, noise, masks, parcels, cells and lines.

The order of all random draws is part of a chip. There are no matrix products, because
BLAS adds in an order that depends on the number of threads.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

import numpy as np

from geonb.data.sentinel2 import BANDS

PARCELS = 1024  # numbers of parcels and cells; larger ones start again at 0
Fields = tuple[np.ndarray, np.ndarray]
_TILT = np.linspace(-1, 1, len(BANDS)).astype(np.float32)


_CSV = (files("geonb.sample") / "assets" / "endmembers.csv").read_text(encoding="utf-8")
_, *_ROWS = (row.split(",") for row in _CSV.splitlines() if not row.startswith("#"))
#: Surface reflectance of materials, float32 (12,) in the order of the bands.
ENDMEMBERS = {name: np.array(percent, np.float32) / 100 for name, *percent in _ROWS}


@lru_cache(maxsize=64)
def _spline(size: int, wavelength: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the first knot of each pixel and its B-spline weights."""
    position = (np.arange(size) + 0.5) / wavelength
    first = np.floor(position).astype(int)
    t = position - first
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3])
    weights /= np.sqrt((weights**2).sum(0))  # keeps the variance of the knots
    return first, weights[..., None].astype(np.float32)


def _smooth_noise(size: int, wavelength: float, rng: np.random.Generator) -> np.ndarray:
    """Draw noise (size, size) of unit variance, its knots `wavelength` pixels apart."""
    if wavelength <= 1:
        return rng.standard_normal((size, size), dtype=np.float32)
    first, weights = _spline(size, wavelength)
    field = rng.standard_normal((first[-1] + 4, first[-1] + 4), dtype=np.float32)
    for _ in range(2):
        total = weights[0] * field[first]
        for tap in (1, 2, 3):
            total += weights[tap] * field[first + tap]
        field = np.ascontiguousarray(total.T)
    return field


def blur(image: np.ndarray, share: float) -> np.ndarray:
    """Give each pixel a share of its neighbours in rows and columns."""
    for _ in range(2):
        out = np.float32(1 - 2 * share) * image
        out[..., 1:] += np.float32(share) * image[..., :-1]
        out[..., :-1] += np.float32(share) * image[..., 1:]
        out[..., [0, -1]] += np.float32(share) * image[..., [0, -1]]
        image = out.swapaxes(-1, -2)
    return image


def coarsen(image: np.ndarray, footprint: int) -> np.ndarray:
    """Average over squares of `footprint` pixels; interpolate linearly back."""
    size = image.shape[-1]
    starts = np.arange(0, size, footprint)
    counts = np.diff(np.append(starts, size)).astype(np.float32)
    position = np.clip((np.arange(size) + 0.5) / footprint - 0.5, 0, len(starts) - 1)
    low = np.minimum(position.astype(int), len(starts) - 2)
    share = (position - low).astype(np.float32)
    for _ in range(2):
        mean = np.add.reduceat(image, starts, axis=-1) / counts
        image = (mean[..., low] * (1 - share) + mean[..., low + 1] * share).swapaxes(-1, -2)
    return image


def smoothstep(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """Rise smoothly from 0 at ``low`` to 1 at ``high``."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def within(distance: np.ndarray, reach: float | np.ndarray) -> np.ndarray:
    """Fall from 1 to 0 as a distance in pixels grows to ``reach``."""
    return np.clip(reach - distance, 0, 1)


class Canvas:
    """A reflectance image (12, size, size) and the tools to paint it.

    Fields are (size, size), masks and shares in 0..1, lengths in pixels.
    """

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size, self.rng, self.pattern = size, rng, "none"  # how fields lie
        axis = np.arange(size, dtype=np.float32) - (size - 1) / 2
        self.x, self.y = np.meshgrid(axis, axis)  # east and south of the centre
        self.image = np.zeros((len(BANDS), size, size), np.float32)
        self.water, self.sea, self.built = (np.zeros((size, size), np.float32) for _ in range(3))
        self.canopy: np.ndarray = np.zeros((size, size), np.float32)  # hides snow

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Draw a number between two."""
        return float(self.rng.uniform(low, high))

    def chance(self, probability: float) -> bool:
        """Draw yes or no."""
        return self.rng.random() < probability

    def angle(self) -> float:
        """Draw the direction of a line in radians."""
        return self.uniform(0, np.pi)

    def spectrum(self, name: str) -> np.ndarray:
        """Vary the brightness and the colour of an endmember (12,)."""
        brightness, tilt = self.rng.normal(0, (0.08, 0.05))
        return ENDMEMBERS[name] * np.float32(1 + brightness) * (1 + np.float32(tilt) * _TILT)

    def between(self, first: str, second: str, share: float) -> np.ndarray:
        """Mix two endmembers to one spectrum (12,) with a share of the second."""
        a, b = self.spectrum(first), self.spectrum(second)
        return (a + (b - a) * np.float32(np.clip(share, 0, 1))).astype(np.float32)

    def noise(self, wavelength: float, octaves: int = 1, gain: float = 0.5, margin: int = 0) -> np.ndarray:
        """Draw fractal noise of mean 0 and variance about 1, wider by `margin`.

        The coarsest octave has knots `wavelength` apart; each further one is half as
        wide and `gain` times as strong.
        """
        size = self.size + 2 * margin
        total, power = np.zeros((size, size), np.float32), 0.0
        for octave in range(octaves):
            step, amplitude = wavelength / 2**octave, gain**octave
            total += np.float32(amplitude) * _smooth_noise(size, step, self.rng)
            power += amplitude**2
        return total / np.float32(np.sqrt(power))

    def share(self, field: np.ndarray, share: float, softness: float = 0.1) -> np.ndarray:
        """Mask about a share of the canvas, where a field is highest."""
        if share <= 0:
            return np.zeros_like(field)
        threshold = float(np.quantile(field, 1 - min(share, 1)))
        return smoothstep(field, threshold - softness, threshold + softness)

    def rotated(self, angle: float, warp: float = 0.0, wavelength: float = 32) -> Fields:
        """Turn the coordinates by radians and bend them by about `warp`."""
        u = np.cos(angle) * self.x + np.sin(angle) * self.y
        v = -np.sin(angle) * self.x + np.cos(angle) * self.y
        if warp:
            u, v = u + warp * self.noise(wavelength, 2), v + warp * self.noise(wavelength, 2)
        return u, v

    def fill(self, first: str, second: str, mix: np.ndarray | float) -> None:
        """Cover everything with two endmembers by the share of the second."""
        a, b = self.spectrum(first)[:, None, None], self.spectrum(second)[:, None, None]
        self.image = (a + (b - a) * np.clip(mix, 0, 1)).astype(np.float32) + np.zeros_like(self.image)

    def paint(self, mask: np.ndarray, colour: str | np.ndarray) -> None:
        """Cover by a mask with an endmember or a spectrum, (12,) or of each pixel."""
        spectrum = self.spectrum(colour) if isinstance(colour, str) else colour
        if spectrum.ndim == 1:
            spectrum = spectrum[:, None, None]
        self.image += mask * (spectrum - self.image)

    def flood(self, mask: np.ndarray, colour: str | np.ndarray) -> None:
        """Paint water by a mask."""
        self.paint(mask, colour)
        self.water = np.maximum(self.water, mask)

    def shade(self, field: np.ndarray, strength: float) -> None:
        """Multiply by 1 + strength x field, limited to 0.35..1.8."""
        self.image *= np.clip(1 + np.float32(strength) * field, 0.35, 1.8)

    def shade_parcels(self, number: np.ndarray, sd: float, mask: np.ndarray | float = 1) -> None:
        """Make each numbered parcel a little brighter or darker."""
        self.shade(self.rng.normal(0, sd, PARCELS).astype(np.float32)[number] * mask, 1)

    def parcels(self, width: float, length: float, angle: float, warp: float = 0.0) -> Fields:
        """Lay out parcels in strips: numbers, and distances to the edge."""
        u, v = self.rotated(angle, warp)
        reach = self.size + 4 * warp
        widths = width * self.rng.uniform(0.6, 1.4, int(2 * reach / (0.6 * width)) + 2)
        cuts = np.cumsum(widths) - reach
        strip = np.searchsorted(cuts, u)
        lengths = length * self.rng.uniform(0.6, 1.5, len(cuts) + 1).astype(np.float32)
        offsets = self.rng.uniform(0, 100, len(cuts) + 1).astype(np.float32)
        along = v / lengths[strip] + offsets[strip]
        cell = np.floor(along)
        inside = along - cell
        right, left = cuts[np.minimum(strip, len(cuts) - 1)] - u, u - cuts[np.maximum(strip - 1, 0)]
        across = np.minimum(np.abs(right), np.abs(left))
        edge = np.minimum(np.minimum(inside, 1 - inside) * lengths[strip], across)
        return (strip * 37 + cell.astype(int)) % PARCELS, edge

    def parcel_field(
        self, number: np.ndarray, names: list[str], weights: list[float], contrast: float = 0.1
    ) -> np.ndarray:
        """Draw an endmember for each parcel: an image (12, size, size)."""
        weights = np.maximum(np.asarray(weights, float), 0)
        kind = self.rng.choice(len(names), PARCELS, p=weights / weights.sum())
        table = np.stack([self.spectrum(name) for name in names])[kind]
        table *= self.rng.normal(1, contrast, (PARCELS, 1)).clip(0.6, 1.5).astype(np.float32)
        return np.ascontiguousarray(table.T[:, number])

    def cells(self, spacing: float) -> Fields:
        """Lay out irregular cells: numbers, and distances to the edge."""
        x, y = (self.x + self.size / 2) / spacing, (self.y + self.size / 2) / spacing
        knots = int(self.size / spacing) + 4
        centres = self.rng.random((knots, knots, 2), dtype=np.float32)
        i, j = np.floor(y).astype(int) + 1, np.floor(x).astype(int) + 1
        nearest, second = np.full_like(x, 9.0), np.full_like(x, 9.0)
        number = np.zeros(x.shape, int)
        for di in (-1, 0, 1):
            for dj in (-1, 0, 1):
                centre = centres[i + di, j + dj]
                distance = np.hypot(y - (i + di - 1) - centre[..., 0], x - (j + dj - 1) - centre[..., 1])
                second = np.minimum(second, np.maximum(nearest, distance))
                number = np.where(distance < nearest, (i + di) * knots + j + dj, number)
                nearest = np.minimum(nearest, distance)
        return number % PARCELS, (second - nearest) * spacing / 2

    def line(self, width: float, bend: float, angle: float | None = None) -> np.ndarray:
        """Mask a winding line across the canvas, bent by about `bend`."""
        angle = self.angle() if angle is None else angle
        offset = self.uniform(-0.3, 0.3) * self.size
        u, _ = self.rotated(angle)
        distance = np.abs(u - offset + bend * self.noise(24, 2, 0.4))
        return within(distance, width / 2 + 0.5)
