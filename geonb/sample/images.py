"""Simulated Sentinel-2 L2A chips: 12 bands at 10 m, painted from reflectance spectra and facts of a place.

These are simulations, not observations. A chip is built as a picture of the land would be:

1. The Köppen-Geiger class, relief, population and position choose a *landscape* (sand desert, paddies, ...).
2. The landscape is painted from the spectra of `ENDMEMBERS`, with structure at several scales: fractal
   noise, field parcels, centre pivots, dunes, ponds, canopies, clearings.
3. Rivers, lakes, sea, villages and streets, snow, terrain illumination, haze, clouds and their shadows.
4. The sensor: 20 m and 60 m bands are averaged over their footprints and interpolated to 10 m, then noise.

The acquisition day decides the sun, the greenness of plants and the snow. Everything random about a place
comes from one counter-based generator keyed by the seed and the place's id, so a chip is the same in any
batch, order and process.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from geonb.data.sentinel2 import BANDS, SCALE

PIXEL_M = 10.0
FOOTPRINT_M = np.array([60, 10, 10, 10, 20, 20, 20, 10, 20, 60, 20, 20])

# Surface reflectance in percent, in the order of BANDS. Typical values, rounded by hand to agree with the
# ranges of the USGS Spectral Library v7 (Kokaly et al., 2017, USGS Data Series 1035) and the ECOSTRESS
# Spectral Library (Meerdink et al., 2019, Remote Sensing of Environment 230) at the bands' centres, for
# canopies and surfaces as a 10 m pixel sees them. They are not measurements.
_ENDMEMBERS_PERCENT = """
rainforest        1.8  2.3  4.6  2.5  7.0 25.0 32.0 35.0 37.0 37.5 16.0  6.5
broadleaf         2.0  2.8  5.5  3.2  9.0 28.0 36.0 39.0 41.0 41.5 20.0  9.0
conifer           1.5  2.0  3.3  2.4  5.2 13.0 16.5 18.0 19.5 20.0  9.5  4.5
leafless_wood     4.0  5.5  7.3  8.8 11.5 14.5 16.0 17.5 19.5 20.0 22.0 16.0
shrub             3.0  4.0  6.5  6.2 10.0 17.0 20.0 22.5 24.5 25.0 21.0 12.5
green_grass       3.0  4.0  8.2  5.0 12.0 27.0 33.0 36.0 38.0 38.0 24.0 13.0
dry_grass         5.5  7.5 11.5 15.5 19.5 22.5 25.0 27.5 29.5 30.0 37.0 27.0
green_crop        2.5  3.2  7.2  3.5 10.0 33.0 43.0 47.0 49.0 49.0 21.0 10.0
ripe_crop         4.8  6.8 11.0 14.0 19.0 24.0 27.0 30.0 33.0 33.0 35.0 24.0
stubble           7.0  9.5 13.5 18.0 21.5 24.0 26.0 28.0 30.0 30.0 40.0 33.0
rapeseed          3.5  4.5 14.0 11.0 17.0 33.0 41.0 44.0 46.0 46.0 24.0 13.0
paddy_flooded     4.5  5.5  7.5  7.0  7.5  8.3  8.8  9.2  9.3  9.3  5.0  3.0
paddy_green       2.5  3.3  6.5  3.4  8.5 27.0 34.0 37.0 38.5 38.5 14.0  5.5
bog               2.8  3.8  6.0  6.8 10.0 15.0 17.0 19.0 20.5 21.0 19.0 10.5
tundra            3.0  3.6  5.6  5.4  9.0 15.0 17.5 19.0 20.5 21.0 19.5 11.5
lichen            7.0  9.0 11.5 13.0 16.0 20.0 22.0 24.0 25.5 26.0 29.0 20.0
brown_soil        6.0  8.0 11.0 14.5 17.0 19.0 20.5 22.0 23.5 24.0 31.0 28.0
dark_soil         3.5  4.5  6.0  7.5  9.0 10.5 12.0 13.0 14.5 15.0 20.0 18.0
red_soil          4.0  5.0  8.5 17.0 20.0 22.0 23.5 25.0 26.5 27.0 36.0 33.0
bright_sand      16.0 21.0 31.0 42.0 47.0 49.0 51.0 52.0 52.5 53.0 64.0 61.0
red_sand          8.0 10.5 18.0 31.0 36.0 39.0 41.0 43.0 44.0 45.0 55.0 52.0
gravel           10.5 13.0 17.5 23.0 25.5 26.5 27.5 28.5 29.0 29.5 36.0 34.0
grey_rock         9.5 11.5 13.8 16.0 17.0 18.0 18.5 19.0 20.0 20.0 24.0 22.5
dark_rock         5.0  6.0  7.2  8.2  8.8  9.2  9.5 10.0 10.3 10.5 12.5 12.0
salt             32.0 38.0 44.0 48.0 50.0 51.0 51.0 51.0 51.0 50.0 38.0 30.0
burnt             3.0  3.5  4.2  5.0  6.0  7.2  8.0  9.0 10.0 10.5 16.0 15.0
fresh_snow       90.0 92.0 93.0 93.0 92.0 91.0 89.5 88.0 85.0 78.0 12.0 10.0
old_snow         70.0 72.0 70.0 66.0 63.0 60.0 57.0 55.0 51.0 46.0  6.0  5.0
blue_ice         55.0 58.0 52.0 38.0 32.0 26.0 22.0 20.0 16.0 13.0  2.5  2.0
clear_water       3.0  2.6  1.9  1.1  0.9  0.7  0.6  0.6  0.5  0.5  0.3  0.2
shallow_water     8.0 10.0 10.5  4.5  2.2  1.3  1.1  1.0  0.9  0.9  0.4  0.3
turbid_water      6.0  7.5 10.5 10.0  8.5  5.2  4.8  4.2  3.5  3.0  1.2  0.8
humic_water       1.5  1.5  1.6  1.5  1.4  1.1  1.0  0.9  0.9  0.8  0.5  0.4
asphalt           6.0  7.0  8.0  8.6  9.2  9.7 10.0 10.5 11.0 11.0 13.0 12.5
concrete         13.5 16.0 18.5 20.5 21.5 22.0 22.5 23.0 23.5 23.5 27.0 26.0
tile_roof         6.0  7.0  9.0 15.5 19.0 21.0 22.5 24.0 25.5 26.0 31.0 28.0
dark_roof         5.5  6.0  6.6  7.0  7.5  8.0  8.2  8.5  9.0  9.0 11.0 10.5
metal_roof       28.0 32.0 35.0 37.0 38.0 38.5 39.0 39.5 39.5 39.5 42.0 38.0
mud_roof          9.0 12.0 17.0 22.5 25.0 26.5 27.5 28.5 29.5 30.0 37.0 35.0
cloud            62.0 65.0 66.0 68.0 69.0 70.0 70.5 72.0 71.0 58.0 46.0 33.0
"""
ENDMEMBERS = {
    row.split()[0]: np.array(row.split()[1:], dtype=np.float32) / 100
    for row in _ENDMEMBERS_PERCENT.strip().splitlines()
}

# Mean temperature and half its yearly range (deg C), by the longest matching prefix of the climate class:
# rough centres of the classes' definitions (Beck et al., 2018, Scientific Data 5, 180214, table 2).
_TEMPERATURE = {
    "A": (26, 2), "BWh": (23, 8), "BWk": (9, 14), "BSh": (22, 7), "BSk": (10, 12), "Cs": (15, 7),
    "Cfa": (16, 9), "Cfb": (10, 6), "Cfc": (5, 5), "Cw": (18, 6), "Da": (9, 15), "Db": (6, 14),
    "Dc": (-3, 17), "Dd": (-11, 24), "ET": (-6, 11), "EF": (-25, 12),
}  # fmt: skip
# Height of the permanent snow line (m) by absolute latitude, rounded; highest in the dry subtropics.
_SNOW_LINE = ([0, 20, 30, 40, 50, 60, 70, 80, 90], [4900, 5700, 5300, 4000, 2800, 1600, 800, 100, 0])
_LAPSE = 0.0065  # K / m

SIMULATED_FACTS: dict[str, dict[str, Any]] = {
    "ndvi_mean": {
        "kind": "regression", "units": "1",
        "definition": "mean NDVI, (B8 - B4) / (B8 + B4), of the surface without clouds and noise",
    },
    "water_share": {
        "kind": "regression", "units": "share of the chip",
        "definition": "pixels that are mostly sea, lake, river or pond, flooded fields not counted",
    },
    "snow_share": {
        "kind": "regression", "units": "share of the chip",
        "definition": "pixels mostly covered by snow or ice on the day of acquisition",
    },
    "built_share": {
        "kind": "regression", "units": "share of the chip",
        "definition": "pixels inside settlements, their streets and gardens included",
    },
    "cloud_share": {
        "kind": "regression", "units": "share of the chip",
        "definition": "pixels mostly hidden by cloud (shadows not counted)",
    },
    "season_day": {
        "kind": "regression", "units": "day of the year, 1..365",
        "definition": "simulated day of acquisition",
    },
    "landscape": {
        "kind": "classification", "units": None,
        "definition": "what was painted; 'coast' or 'city' where more than 25 % is sea or 60 % is built",
    },
    "field_pattern": {
        "kind": "classification", "units": None,
        "definition": "how fields lie: none, parcels, strips, pivots, paddies, groves, pastures or clearings",
    },
}  # fmt: skip
for _fact in SIMULATED_FACTS.values():
    _fact.update(modalities=["image"], source="simulated with the chip; no text mentions it")

_COLUMNS = (
    "place_id", "lon", "lat", "climate", "elevation_m", "slope_m", "population", "coast_km", "continent",
)  # fmt: skip
_REGULAR_STREETS = ("North America", "NA", "South America", "SA", "Oceania", "OC")


def simulate_sentinel2(
    facts: dict[str, np.ndarray], size: int = 64, seed: int = 0
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Simulated chips of k places, and what only their images tell.

    Args:
        facts: columns of length k: place_id (str), lon, lat (degrees), climate (Köppen-Geiger, as "BWh"),
            elevation_m, slope_m (local relief in m, over kilometres), population, coast_km, continent.
            NaN counts as 0 for elevation, relief and population, and as far from the coast for coast_km.
        size: pixels of 10 m along each side, at least 16.
        seed: with the place_id it alone decides everything random in a chip.

    Returns:
        images: uint16 (k, 12, size, size), reflectance x 10,000 in the order of `BANDS`, never 0.
        facts: the columns of `SIMULATED_FACTS`, each of length k.

    Raises:
        ValueError: a missing column, columns of unequal length, or an unknown climate (naming the row).
    """
    missing = [name for name in _COLUMNS if name not in facts]
    if missing:
        raise ValueError(f"facts lack the columns {missing}; needed are {list(_COLUMNS)}")
    columns = {name: np.asarray(facts[name]) for name in _COLUMNS}
    k = len(columns["place_id"])
    wrong = {name: len(column) for name, column in columns.items() if len(column) != k}
    if wrong:
        raise ValueError(f"place_id has {k} rows, but other columns have {wrong}")
    if size < 16:
        raise ValueError(f"size must be at least 16 pixels, not {size}")
    images = np.empty((k, len(BANDS), size, size), np.uint16)
    told = []
    for row in range(k):
        place = _place({name: column[row] for name, column in columns.items()}, row)
        key = hashlib.blake2b(f"{seed}:{columns['place_id'][row]}".encode(), digest_size=16).digest()
        rng = np.random.Generator(np.random.Philox(key=np.frombuffer(key, dtype="<u8")))
        images[row], chip_facts = _chip(place, size, rng)
        told.append(chip_facts)
    return images, {name: np.array([t[name] for t in told]) for name in SIMULATED_FACTS}


@dataclass
class _Place:
    lat: float
    climate: str
    elevation: float
    relief: float
    population: float
    coast_km: float
    regular_streets: bool
    asia: bool

    @property
    def settled(self) -> bool:
        return self.population > 0


def _place(row: dict, number: int) -> _Place:
    climate = str(row["climate"])
    if not _temperature_class(climate):
        raise ValueError(f"row {number}: {climate!r} is no Köppen-Geiger class such as 'BWh' or 'Cfb'")
    lon, lat = float(row["lon"]), float(row["lat"])
    return _Place(
        lat=lat,
        climate=climate,
        elevation=float(np.nan_to_num(row["elevation_m"])),
        relief=max(0.0, float(np.nan_to_num(row["slope_m"]))),
        population=max(0.0, float(np.nan_to_num(row["population"]))),
        coast_km=float(np.nan_to_num(row["coast_km"], nan=1e4)),
        regular_streets=str(row["continent"]) in _REGULAR_STREETS,
        asia=65 < lon < 150 and -11 < lat < 46,
    )


# --- the day -------------------------------------------------------------------------------------------


def _sun(lat: float, day: float) -> tuple[float, float]:
    """Sine of the sun's elevation and its azimuth (radians from north) at 10:30 local solar time."""
    declination = np.radians(-23.44 * np.cos(2 * np.pi * (day + 10) / 365))
    phi, hour = np.radians(lat), np.radians(-22.5)
    sine = np.sin(phi) * np.sin(declination) + np.cos(phi) * np.cos(declination) * np.cos(hour)
    east = -np.cos(declination) * np.sin(hour)
    north = np.cos(phi) * np.sin(declination) - np.sin(phi) * np.cos(declination) * np.cos(hour)
    return float(sine), float(np.arctan2(east, north))


def _acquisition_day(lat: float, rng: np.random.Generator) -> int:
    """A day with the sun at least 15 degrees up at 10:30: any such day, else one around midsummer."""
    day = int(rng.integers(1, 366))
    if _sun(lat, day)[0] < np.sin(np.radians(15)):
        midsummer = 172 if lat > 0 else 355
        day = (midsummer + round(float(np.clip(rng.normal(0, 25), -45, 45))) - 1) % 365 + 1
    return day


def _season(lat: float, day: float, lag: float = 30) -> float:
    """1 in high summer, -1 in midwinter, `lag` days after the solstices; weaker near the equator."""
    hemisphere = np.tanh(lat / 8)
    return float(hemisphere * np.cos(2 * np.pi * (day - 172 - lag) / 365))


def _greenness(climate: str, season: float) -> float:
    """Greenness of grass, crops and deciduous leaves in 0..1."""
    if climate in ("Af", "Am"):
        return 0.95
    if climate[0] == "A" or climate[:2] == "Cw":
        return 0.55 + 0.4 * season
    if climate[:2] == "BW":
        return 0.08
    if climate[:2] == "BS":
        return 0.28 + 0.2 * season
    if climate[:2] == "Cs":
        return 0.5 - 0.4 * season
    if climate[0] == "C":
        return 0.72 + 0.27 * season
    return float(np.clip(0.35 + 0.75 * season, 0.02, 1))


def _temperature_class(climate: str) -> str:
    """The key of a climate class in `_TEMPERATURE`; "" where there is none."""
    if climate[:1] == "D":
        return "D" + climate[-1] if climate[-1] in "abcd" else "Db"
    return next((climate[:n] for n in (3, 2, 1) if climate[:n] in _TEMPERATURE), "")


def _temperature(climate: str, season: float) -> float:
    mean, half_range = _TEMPERATURE[_temperature_class(climate)]
    return mean + half_range * season


# --- the canvas ----------------------------------------------------------------------------------------


# No matrix products here: BLAS may add in another order with another number of threads, and a chip must not
# depend on that.


@lru_cache(maxsize=64)
def _spline(size: int, wavelength: float) -> tuple[np.ndarray, np.ndarray]:
    """For each of `size` pixels its first knot and four cubic B-spline weights (4, size, 1).

    Knots lie `wavelength` pixels apart; the squared weights of a pixel add up to 1, so knots of unit variance
    give a field of unit variance.
    """
    position = (np.arange(size) + 0.5) / wavelength
    first = np.floor(position).astype(int)
    t = position - first
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3])
    weights /= np.sqrt((weights**2).sum(0))
    return first, weights[..., None].astype(np.float32)


def _smooth_noise(size: int, wavelength: float, rng: np.random.Generator) -> np.ndarray:
    """Noise (size, size) of unit variance that varies over `wavelength` pixels."""
    first, weights = _spline(size, wavelength)
    field = rng.standard_normal((first[-1] + 4, first[-1] + 4), dtype=np.float32)
    for _ in range(2):
        total = weights[0] * field[first]
        for tap in (1, 2, 3):
            total += weights[tap] * field[first + tap]
        field = np.ascontiguousarray(total.T)
    return field


def _blur(image: np.ndarray, share: float) -> np.ndarray:
    """Each pixel takes `share` of its value from either neighbour, along rows and along columns."""
    for _ in range(2):
        out = np.float32(1 - 2 * share) * image
        out[..., 1:] += np.float32(share) * image[..., :-1]
        out[..., :-1] += np.float32(share) * image[..., 1:]
        out[..., [0, -1]] += np.float32(share) * image[..., [0, -1]]
        image = out.swapaxes(-1, -2)
    return image


def _coarsen(image: np.ndarray, footprint: int) -> np.ndarray:
    """Averages over footprints of `footprint` x `footprint` pixels, interpolated linearly back."""
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


def _smoothstep(value, low, high):
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


class _Canvas:
    """A reflectance image (12, size, size) and the tools to paint it."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size, self.rng = size, rng
        axis = np.arange(size, dtype=np.float32) - (size - 1) / 2
        self.x, self.y = np.meshgrid(axis, axis)  # x to the east, y to the south, pixels from the centre
        self.image = np.zeros((len(BANDS), size, size), np.float32)
        self.water = np.zeros((size, size), np.float32)
        self.sea = np.zeros((size, size), np.float32)
        self.built = np.zeros((size, size), np.float32)
        self.canopy: np.ndarray = np.zeros((size, size), np.float32)  # share of snow that trees hide
        self.pattern = "none"

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return float(self.rng.uniform(low, high))

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def spectrum(self, name: str) -> np.ndarray:
        """An endmember as it is at this place: a little brighter or darker, redder or bluer."""
        brightness, tilt = self.rng.normal(0, (0.08, 0.05))
        return ENDMEMBERS[name] * np.float32(1 + brightness) * (1 + np.float32(tilt) * _TILT)

    def noise(self, wavelength: float, octaves: int = 1, gain: float = 0.5, margin: int = 0) -> np.ndarray:
        """Fractal noise of mean 0 and variance about 1; the coarsest knots are `wavelength` pixels apart.

        `margin` adds so many pixels on every side.
        """
        size = self.size + 2 * margin
        total, power = np.zeros((size, size), np.float32), 0.0
        for octave in range(octaves):
            step, amplitude = wavelength / 2**octave, gain**octave
            if step <= 1:
                layer = self.rng.standard_normal((size, size), dtype=np.float32)
            else:
                layer = _smooth_noise(size, step, self.rng)
            total += np.float32(amplitude) * layer
            power += amplitude**2
        return total / np.float32(np.sqrt(power))

    def share(self, field: np.ndarray, share: float, softness: float = 0.1) -> np.ndarray:
        """A mask in 0..1 that covers about `share` of the canvas where `field` is highest."""
        if share <= 0:
            return np.zeros_like(field)
        threshold = float(np.quantile(field, 1 - min(share, 1)))
        return _smoothstep(field, threshold - softness, threshold + softness)

    def rotated(self, angle: float, warp: float = 0.0, wavelength: float = 32) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates (u, v) in pixels, turned by `angle` and bent by up to about 2 x `warp` pixels."""
        u = np.cos(angle) * self.x + np.sin(angle) * self.y
        v = -np.sin(angle) * self.x + np.cos(angle) * self.y
        if warp:
            u, v = u + warp * self.noise(wavelength, 2), v + warp * self.noise(wavelength, 2)
        return u, v

    def fill(self, first: str, second: str, mix: np.ndarray | float) -> None:
        """Cover everything with two endmembers; `mix` in 0..1 is the share of the second."""
        a, b = self.spectrum(first)[:, None, None], self.spectrum(second)[:, None, None]
        self.image = (a + (b - a) * np.clip(mix, 0, 1)).astype(np.float32) + np.zeros_like(self.image)

    def paint(self, mask: np.ndarray, colour: str | np.ndarray) -> None:
        """Cover with an endmember or a spectrum, (12,) or (12, size, size), by `mask` in 0..1."""
        spectrum = self.spectrum(colour) if isinstance(colour, str) else colour
        if spectrum.ndim == 1:
            spectrum = spectrum[:, None, None]
        self.image += mask * (spectrum - self.image)

    def shade(self, field: np.ndarray, strength: float) -> None:
        """Multiply by 1 + strength x field, limited to 0.35..1.8: texture without a change of material."""
        self.image *= np.clip(1 + np.float32(strength) * field, 0.35, 1.8)

    def parcels(self, width: float, length: float, angle: float, warp: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Rectangular parcels in strips: (number in 0..PARCELS-1, distance in pixels to the nearest edge)."""
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
        edge = np.minimum(np.minimum(inside, 1 - inside) * lengths[strip], _distance_to_cuts(u, cuts, strip))
        return (strip * 37 + cell.astype(int)) % PARCELS, edge

    def parcel_field(self, number: np.ndarray, names: list[str], weights: list[float], contrast: float = 0.1) -> None:
        """Cover each parcel with one endmember drawn by weight, each a little different in brightness."""
        weights = np.maximum(np.asarray(weights, float), 0)
        kind = self.rng.choice(len(names), PARCELS, p=weights / weights.sum())
        table = np.stack([self.spectrum(name) for name in names])[kind]
        table *= self.rng.normal(1, contrast, (PARCELS, 1)).clip(0.6, 1.5).astype(np.float32)
        self.image = np.ascontiguousarray(table.T[:, number])

    def cells(self, spacing: float) -> tuple[np.ndarray, np.ndarray]:
        """Irregular cells about `spacing` pixels wide: (number in 0..PARCELS-1, distance to the edge)."""
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

    def line(
        self, width: float, bend: float = 3.0, angle: float | None = None, offset: float | None = None
    ) -> np.ndarray:
        """A mask in 0..1 of a winding line across the canvas, `width` pixels wide."""
        angle = self.uniform(0, np.pi) if angle is None else angle
        offset = self.uniform(-0.3, 0.3) * self.size if offset is None else offset
        u, _ = self.rotated(angle, 0)
        distance = np.abs(u - offset + bend * self.noise(24, 2, 0.4))
        return np.clip(width / 2 + 0.5 - distance, 0, 1)


PARCELS = 1024
_TILT = np.linspace(-1, 1, len(BANDS)).astype(np.float32)


def _distance_to_cuts(u: np.ndarray, cuts: np.ndarray, strip: np.ndarray) -> np.ndarray:
    right = cuts[np.minimum(strip, len(cuts) - 1)] - u
    left = u - cuts[np.maximum(strip - 1, 0)]
    return np.minimum(np.abs(right), np.abs(left))


# --- landscapes: each paints the whole canvas ----------------------------------------------------------


def _ice(c: _Canvas, p: _Place, green: float) -> None:
    angle = c.uniform(0, np.pi)
    u, _ = c.rotated(angle, 2)
    c.fill("fresh_snow", "old_snow", 0.35 + 0.3 * c.noise(48, 4))
    drift = np.sin(u * 2 * np.pi / c.uniform(5, 11) + 2 * c.noise(20, 2))  # sastrugi
    c.shade(drift, 0.03)
    if c.chance(0.4):
        c.paint(c.share(c.noise(40, 4), c.uniform(0.1, 0.5), 0.6) * 0.85, "blue_ice")
    if c.chance(0.35):  # crevasses
        crack = np.abs(np.sin(u * 2 * np.pi / c.uniform(6, 12) + 1.5 * c.noise(16, 3)))
        c.shade(-np.clip(1 - crack / 0.25, 0, 1), 0.35)


def _tundra(c: _Canvas, p: _Place, green: float) -> None:
    c.fill("tundra", "lichen", 0.45 - 0.4 * green + 0.25 * c.noise(32, 5, 0.6))
    c.paint(c.share(c.noise(24, 4), 0.25, 0.4) * (0.3 + 0.4 * green), "bog")
    number, edge = c.cells(c.uniform(3.5, 5.5))  # ice-wedge polygons: wet and dark troughs
    basin = c.share(c.noise(32, 3), c.uniform(0.2, 0.7), 0.5)
    c.shade(-np.clip(1 - edge / 0.7, 0, 1) * basin, 0.3)
    c.shade(c.rng.normal(0, 0.07, PARCELS).astype(np.float32)[number] * basin, 1)
    if p.relief < 250:
        ponds = c.share(c.noise(9, 2, 0.3) + 0.7 * c.noise(40), c.uniform(0.05, 0.32), 0.12)
        c.paint(ponds, "humic_water")
        c.water = np.maximum(c.water, ponds)
    else:
        c.paint(c.share(c.noise(32, 5, 0.65), c.uniform(0.2, 0.6), 0.3), "grey_rock")


def _alpine(c: _Canvas, p: _Place, green: float) -> None:
    c.fill("grey_rock", "dark_rock", 0.4 + 0.35 * c.noise(24, 5, 0.75))
    meadow = c.share(c.noise(40, 5, 0.7), c.uniform(0.1, 0.6), 0.4)
    c.paint(0.85 * meadow, _between(c, "dry_grass", "green_grass", green))
    c.paint(c.share(c.noise(20, 4, 0.7), 0.2, 0.3) * 0.8, "gravel")  # scree
    c.shade(c.noise(2, 2, 0.7), 0.09)
    if c.chance(0.25):
        tarn = c.share(c.noise(28, 2), 0.05, 0.05)
        c.paint(tarn, "clear_water")
        c.water = np.maximum(c.water, tarn)


def _sand_desert(c: _Canvas, p: _Place, green: float) -> None:
    c.fill("bright_sand", "red_sand", c.uniform() + 0.12 * c.noise(48, 3))
    angle, wavelength = c.uniform(0, np.pi), c.uniform(11, 30)
    u, v = c.rotated(angle, wavelength * 0.22, 1.6 * wavelength)
    phase = (u / wavelength) % 1
    ridge = np.where(phase < 0.7, phase / 0.7, (1 - phase) / 0.3)  # gentle windward, steep slip face
    c.paint(np.clip(0.55 - ridge, 0, 1) * c.uniform(0.1, 0.8), "gravel")  # hard floor between the dunes
    lee = np.where(phase < 0.7, 0.35, -1.0) * (0.6 + 0.25 * c.noise(24, 2))
    c.shade(lee, c.uniform(0.1, 0.22))
    ripple = np.sin(2 * np.pi * (u * 0.5 + v * 0.3) / c.uniform(3.5, 6) + 1.5 * c.noise(16, 2))
    c.shade(ripple, 0.02)


def _stony_desert(c: _Canvas, p: _Place, green: float) -> None:
    pairs = [("gravel", "grey_rock"), ("gravel", "bright_sand"), ("red_soil", "gravel")]
    c.fill(*pairs[c.rng.integers(3)], 0.4 + 0.3 * c.noise(48, 6, 0.6))
    c.paint(c.share(c.noise(32, 5, 0.6), c.uniform(0.05, 0.4), 0.4) * 0.8, "dark_rock")
    channels = np.clip(1 - np.abs(c.noise(c.uniform(28, 50), 5, 0.45)) / c.uniform(0.06, 0.15), 0, 1)
    bed = np.maximum(c.line(c.uniform(1, 4), 5), 0.8 * channels) * np.clip(0.6 + 0.3 * c.noise(3, 2), 0, 1)
    c.paint(bed * 0.8, "bright_sand")  # wadis: pale, braided
    c.paint(bed * (c.noise(1.6) > 1) * 0.6, "shrub")
    c.shade(c.noise(3, 3, 0.8), 0.08)
    if c.chance(0.1) and p.relief < 150:
        c.paint(c.share(c.noise(56, 4), c.uniform(0.3, 0.8), 0.3), "salt")


def _irrigated(c: _Canvas, p: _Place, green: float) -> None:
    (_steppe if p.climate[1] == "S" else _stony_desert)(c, p, green)
    crops, weights = ["green_crop", "green_grass", "ripe_crop", "brown_soil", "stubble"], [4, 1, 1, 1.2, 0.8]
    if c.chance(0.6):
        c.pattern = "pivots"
        radius = c.uniform(11, 26)
        pitch = 2 * radius + c.uniform(0.5, 3)
        shift_x, shift_y = c.rng.uniform(0, pitch, 2)
        i, j = np.floor((c.x + shift_x) / pitch), np.floor((c.y + shift_y) / pitch)
        dx, dy = c.x + shift_x - (i + 0.5) * pitch, c.y + shift_y - (j + 0.5) * pitch
        distance, bearing = np.hypot(dx, dy), np.arctan2(dy, dx)
        number = (i * 31 + j * 7).astype(int) % 64
        halves = (np.sin(bearing + number) > 0) & (number % 3 == 0)  # some circles carry two crops
        soil = c.image
        c.parcel_field(number + 64 * halves, crops, weights)
        c.shade(np.sin(distance * 2 * np.pi / c.uniform(3, 5)), 0.03)  # wheel tracks
        fields, c.image = c.image, soil
        c.paint(np.clip(radius - distance + 0.5, 0, 1), fields)
    else:
        c.pattern = "parcels"
        soil = c.image
        number, edge = c.parcels(c.uniform(4, 8), c.uniform(6, 14), c.uniform(0, np.pi), 0.5)
        c.parcel_field(number, crops, weights)
        c.shade(c.noise(2), 0.05)
        c.paint(np.clip(1 - edge, 0, 1) * 0.4, "brown_soil")
        fields, c.image = c.image, soil
        c.paint(c.share(c.noise(60, 2), c.uniform(0.4, 0.95), 0.1), fields)


def _steppe(c: _Canvas, p: _Place, green: float) -> None:
    c.fill("dry_grass", "green_grass", green * 0.9 + 0.12 * c.noise(48, 5, 0.6))
    c.paint(c.share(c.noise(40, 5, 0.6), c.uniform(0.15, 0.5), 0.6) * 0.7, "brown_soil")
    c.paint(c.share(c.noise(12, 3), c.uniform(0.05, 0.25), 0.5) * 0.5, "shrub")
    gullies = np.clip(1 - np.abs(c.noise(c.uniform(24, 56), 5, 0.45)) / 0.09, 0, 1)
    c.paint(gullies * c.uniform(0.2, 0.7), ("gravel", "green_grass")[c.rng.integers(2)])
    c.shade(c.noise(4, 3, 0.8), 0.1)


def _savanna(c: _Canvas, p: _Place, green: float) -> None:
    c.fill("dry_grass", "green_grass", green + 0.15 * c.noise(40, 4))
    c.paint(c.share(c.noise(40, 4), c.uniform(0.1, 0.4), 0.5) * 0.7, "red_soil")
    trees = c.share(c.noise(1) + 0.7 * c.noise(24, 3), c.uniform(0.12, 0.4), 0.4)  # single crowns
    c.paint(trees * 0.85, _between(c, "leafless_wood", "broadleaf", 0.35 + 0.6 * green))
    c.canopy = 0.4 * trees
    gallery = c.line(c.uniform(3, 6), 6)
    c.paint(gallery * 0.8, "broadleaf")
    if c.chance(0.25 * (1 - green)):
        c.paint(c.share(c.noise(40, 4), c.uniform(0.1, 0.4), 0.1) * 0.85, "burnt")


def _rainforest(c: _Canvas, p: _Place, green: float) -> None:
    c.fill("rainforest", "broadleaf", 0.25 + 0.2 * c.noise(40, 4))
    crowns = 0.7 * c.noise(1.6) + 0.5 * c.noise(3.2)
    c.shade(crowns, 0.13)
    c.shade(c.noise(24, 3), 0.05)
    c.canopy[:] = 0.8
    if p.relief < 400 and c.chance(0.45):
        angle, bend, offset = c.uniform(0, np.pi), c.uniform(5, 12), c.uniform(-0.3, 0.3) * c.size
        meander = c.rotated(angle)[0] - offset + bend * c.noise(24, 2, 0.4)
        width = c.uniform(2, 14)
        bank = _smoothstep(-np.abs(meander - width / 2 - 0.5), -1.6, 0) * (c.noise(16) > 0.2)
        c.paint(0.8 * bank, "bright_sand")
        river = np.clip(width / 2 + 0.5 - np.abs(meander), 0, 1)
        c.paint(river, ("turbid_water", "humic_water")[c.rng.integers(2)])
        c.water = np.maximum(c.water, river)


def _clearings(c: _Canvas, p: _Place, green: float) -> None:
    """Rainforest cut along roads: ranches and plots with straight edges, some forest left."""
    c.pattern = "clearings"
    _rainforest(c, p, green)
    forest = c.image
    angle = c.uniform(0, np.pi)
    number, edge = c.parcels(c.uniform(8, 15), c.uniform(12, 26), angle, 0.4)
    names = ["green_grass", "dry_grass", "red_soil", "burnt", "shrub"]
    c.parcel_field(number, names, [4, 1.5, 1.5, 0.6, 1.5])
    c.shade(c.noise(8, 4, 0.7), 0.08)
    cleared, c.image = c.image, forest
    stands = c.rng.random(PARCELS) < c.uniform(0.35, 0.75)
    c.paint((stands[number] & (c.water < 0.2)).astype(np.float32), cleared)
    c.paint(c.line(1.2, 0.6, angle) * 0.8 * (1 - c.water), "red_soil")


def _plantation(c: _Canvas, p: _Place, green: float) -> None:
    """Palms, rubber or tea: even blocks of one crown, with a grid of tracks."""
    c.pattern = "groves"
    angle = c.uniform(0, np.pi)
    number, edge = c.parcels(c.uniform(14, 24), c.uniform(20, 40), angle, 0.3)
    c.parcel_field(number, ["rainforest", "broadleaf", "shrub", "red_soil"], [4, 3, 1, 0.5], 0.12)
    u, v = c.rotated(angle)
    c.shade(np.sin(u * 2 * np.pi / 2.7) * np.sin(v * 2 * np.pi / 2.7), 0.06)
    c.shade(c.noise(1), 0.05)
    c.paint(np.clip(1 - edge, 0, 1) * 0.7, "red_soil")


def _paddies(c: _Canvas, p: _Place, green: float) -> None:
    c.pattern = "paddies"
    angle, terraced = c.uniform(0, np.pi), p.relief > 250
    warp = 6 if terraced else 0.5
    number, edge = c.parcels(c.uniform(1.8, 3.2), c.uniform(4, 9), angle, warp)
    flooded = c.uniform(0, 1) * (0.4 + 0.6 * green)  # from transplanting to harvest
    weights = [4 * flooded, 4 * green, 1.5 * (1 - green), 0.4, 0.7 * (1 - green)]
    names = ["paddy_flooded", "paddy_green", "ripe_crop", "green_grass", "stubble"]
    c.parcel_field(number, names, weights, 0.12)
    c.paint(np.clip(0.7 - edge, 0, 1) * 0.5, "green_grass")  # bunds
    block, wide = c.parcels(c.uniform(14, 20), c.uniform(18, 30), angle, warp)
    c.shade(c.rng.normal(0, 0.1, PARCELS).astype(np.float32)[block], 1)
    if not terraced:
        c.paint(np.clip(0.9 - wide, 0, 1) * 0.8, "turbid_water")  # canals
    c.shade(c.noise(2), 0.04)
    c.paint(c.share(c.noise(18, 3), c.uniform(0, 0.12), 0.1), "broadleaf")


def _cropland(c: _Canvas, p: _Place, green: float) -> None:
    strips = c.chance(0.35)
    c.pattern = "strips" if strips else "parcels"
    width, length = (c.uniform(2, 4), c.uniform(25, 60)) if strips else (c.uniform(8, 20), c.uniform(10, 28))
    if not p.settled:
        width, length = 1.4 * width, 1.4 * length
    angle = c.uniform(0, np.pi)
    number, edge = c.parcels(width, length, angle, 0.3 + min(p.relief / 200, 3))
    soil = "dark_soil" if p.climate[0] == "D" else ("red_soil" if p.climate[0] == "A" else "brown_soil")
    names = ["green_crop", "green_grass", "ripe_crop", "stubble", soil, "rapeseed"]
    dry = 1 - green
    spring = p.climate[0] in "CD" and 0.5 < green < 0.85
    c.parcel_field(number, names, [3 * green, green, 1.2 * dry + 0.4, dry, 0.6 + dry, 0.5 * spring], 0.12)
    u, _ = c.rotated(angle)
    c.shade(np.sin(u * 2 * np.pi / 2.4), 0.015)  # rows
    c.shade(c.noise(12, 3), 0.05)
    woods = (c.rng.random(PARCELS) < c.uniform(0, 0.18))[number] * 0.95
    trees = np.maximum(np.clip(1.1 - edge, 0, 1) * c.uniform(0.1, 0.6), woods)  # hedges and woods
    c.paint(trees, _between(c, "leafless_wood", "broadleaf", green))
    c.canopy = 0.6 * trees


def _pasture(c: _Canvas, p: _Place, green: float) -> None:
    c.pattern = "pastures"
    number, edge = c.parcels(c.uniform(7, 14), c.uniform(9, 20), c.uniform(0, np.pi), 2.5)
    names = ["green_grass", "dry_grass", "green_crop", "bog"]
    c.parcel_field(number, names, [3 + 3 * green, 1.6 - green, 1, 0.6])
    c.shade(c.noise(16, 4), 0.06)
    hedge = np.clip(1.2 - edge, 0, 1) * (c.noise(6) > -0.5)
    c.paint(hedge * 0.75, _between(c, "leafless_wood", "broadleaf", green))
    c.paint(c.share(c.noise(28, 4), c.uniform(0, 0.25), 0.15) * 0.9, "broadleaf")


def _mediterranean(c: _Canvas, p: _Place, green: float) -> None:
    c.fill("dry_grass", "green_grass", green * 0.8 + 0.12 * c.noise(40, 4))
    c.paint(c.share(c.noise(28, 5, 0.65), c.uniform(0.25, 0.65), 0.4) * 0.85, "shrub")
    c.paint(c.share(c.noise(20, 5, 0.7), c.uniform(0.05, 0.2), 0.3) * 0.8, "grey_rock")
    c.shade(c.noise(1.5), 0.07)
    if p.relief < 700 and c.chance(0.75):
        c.pattern = "groves"
        scrub = c.image
        angle = c.uniform(0, np.pi)
        number, edge = c.parcels(c.uniform(7, 13), c.uniform(9, 18), angle, 1.5)
        c.parcel_field(number, ["brown_soil", "red_soil", "dry_grass", "stubble"], [2, 2, 1.5 - green, 1])
        u, v = c.rotated(angle)
        period = c.uniform(2.0, 2.6)
        olives = np.clip(np.sin(u * 2 * np.pi / period) * np.sin(v * 2 * np.pi / period) + 0.2, 0, 1)
        planted = c.rng.random(PARCELS) < 0.75
        c.paint(olives * planted[number] * 0.75, "shrub")
        c.paint(np.clip(1 - edge, 0, 1) * 0.4, "shrub")
        fields, c.image = c.image, scrub
        tilled = c.rng.random(PARCELS) < c.uniform(0.4, 0.9)
        c.paint(tilled[number].astype(np.float32), fields)


def _broadleaf_forest(c: _Canvas, p: _Place, green: float) -> None:
    first = _between(c, "leafless_wood", "broadleaf", green)
    c.image = first[:, None, None] + np.zeros_like(c.image)
    c.shade(c.noise(32, 4), 0.08)
    conifers = c.uniform(0, 0.35) if p.climate[0] in "CD" else 0
    c.paint(c.share(c.noise(24, 4), conifers, 0.3) * 0.9, "conifer")
    c.shade(0.6 * c.noise(1.5) + 0.4 * c.noise(3), 0.11)
    glade = c.share(c.noise(20, 3), c.uniform(0, 0.15), 0.1)
    c.canopy = (0.45 + 0.1 * c.noise(2)) * (1 - glade)
    c.paint(glade, _between(c, "dry_grass", "green_grass", green))


def _boreal_forest(c: _Canvas, p: _Place, green: float) -> None:
    c.fill("conifer", "broadleaf" if green > 0.4 else "leafless_wood", 0.12 + 0.15 * c.noise(40, 4))
    c.shade(0.7 * c.noise(1.4) + 0.4 * c.noise(3), 0.14)
    muskeg = c.share(c.noise(28, 5), c.uniform(0.05, 0.35), 0.25)
    c.paint(muskeg * 0.9, "bog")
    c.canopy = (0.82 + 0.08 * c.noise(1.4)).clip(0, 0.98) * (1 - 0.8 * muskeg)
    if c.chance(0.5):  # clear cuts of different age
        c.pattern = "clearings"
        number, _ = c.parcels(c.uniform(9, 16), c.uniform(10, 22), c.uniform(0, np.pi), 1)
        cut = c.rng.random(PARCELS) < c.uniform(0.1, 0.35)
        colours = ["green_grass", "dry_grass", "shrub", "brown_soil"]
        c.paint(cut[number] * 0.85, colours[c.rng.integers(4)])
        track = c.line(1, 2) * 0.6
        c.paint(track, "gravel")
        c.canopy *= (1 - 0.9 * cut[number]) * (1 - track)
    if p.relief < 400 and c.chance(0.65):
        lakes = c.share(c.noise(36, 4, 0.45), c.uniform(0.04, 0.35), 0.08)
        c.paint(lakes, "humic_water")
        c.canopy *= 1 - lakes
        c.water = np.maximum(c.water, lakes)


def _bog(c: _Canvas, p: _Place, green: float) -> None:
    c.fill("bog", "tundra", 0.5 + 0.3 * c.noise(32, 4))
    u, _ = c.rotated(c.uniform(0, np.pi), 4)
    strings = np.sin(u * 2 * np.pi / c.uniform(4, 8) + 2 * c.noise(16, 3))
    pools = _smoothstep(strings, 0.55, 0.9) * c.share(c.noise(24, 3), 0.5, 0.3)
    c.paint(pools, "humic_water")
    c.water = np.maximum(c.water, pools)
    c.canopy = c.share(c.noise(24, 4), c.uniform(0.1, 0.4), 0.15) * 0.8
    c.paint(c.canopy, "conifer")


def _between(c: _Canvas, first: str, second: str, share: float) -> np.ndarray:
    a, b = c.spectrum(first), c.spectrum(second)
    return (a + (b - a) * np.float32(np.clip(share, 0, 1))).astype(np.float32)


_PAINTERS = {
    "ice": _ice, "tundra": _tundra, "alpine": _alpine, "sand desert": _sand_desert,
    "stony desert": _stony_desert, "irrigated": _irrigated, "steppe": _steppe, "savanna": _savanna,
    "rainforest": _rainforest, "forest clearings": _clearings, "plantation": _plantation,
    "paddies": _paddies, "cropland": _cropland, "pasture": _pasture, "mediterranean": _mediterranean,
    "broadleaf forest": _broadleaf_forest, "boreal forest": _boreal_forest, "bog": _bog,
}  # fmt: skip


def _landscape_weights(p: _Place) -> dict[str, float]:
    """How likely each landscape is: flat land near people is farmed, the rest is as the climate makes it."""
    k = p.climate
    flat = float(np.exp(-p.relief / 250))
    farm = flat * (2.0 if p.settled else 0.35)
    high = p.elevation + p.relief > np.interp(abs(p.lat), *_SNOW_LINE) - 400 and p.relief > 300
    weights: dict[str, float]
    if k == "EF":
        return {"ice": 1}
    if k == "ET":
        return {"alpine": 1} if high or abs(p.lat) < 55 else {"tundra": 1}
    if k[:2] == "BW":
        sand = 1.2 * flat if k == "BWh" else 0.4 * flat
        weights = {"sand desert": sand, "stony desert": 1, "irrigated": 0.8 * farm}
    elif k[:2] == "BS":
        weights = {"savanna" if k == "BSh" else "steppe": 1, "cropland": 0.6 * farm, "irrigated": 0.3 * farm}
    elif k in ("Af", "Am"):
        weights = {"rainforest": 1, "forest clearings": 0.5 * farm, "plantation": 0.3 * farm}
        weights["paddies"] = 0.8 * farm * p.asia
    elif k[0] == "A":
        weights = {"savanna": 1, "cropland": 0.6 * farm, "paddies": 1.2 * (farm + 0.2) * p.asia}
    elif k[:2] == "Cs":
        weights = {"mediterranean": 1, "cropland": 0.4 * farm}
    elif k[0] == "C":
        monsoon = p.asia and k in ("Cfa", "Cwa")
        weights = {"broadleaf forest": 0.8, "cropland": (0.5 if monsoon else 1.2) * farm}
        weights["paddies"] = 1.5 * (farm + 0.15) * monsoon
        weights["pasture"] = (0.8 if k in ("Cfb", "Cfc", "Cwb") else 0.1) * (farm + 0.2)
    elif k[-1] in "ab":
        weights = {"broadleaf forest": 0.7, "boreal forest": 0.2, "cropland": 1.2 * farm}
        weights["pasture"] = 0.2 * farm
    else:
        weights = {"boreal forest": 1, "bog": 0.25 * flat, "cropland": 0.1 * farm}
    if high:
        weights["alpine"] = 1.5
    return weights


# --- what lies on the land -----------------------------------------------------------------------------


def _sea(c: _Canvas, p: _Place) -> None:
    """Sea with a beach, the centre of the chip mostly on land."""
    if p.coast_km > 3 or not c.chance(0.9 if p.coast_km < 1 else 0.35):
        return
    reach = c.size / 2
    u, _ = c.rotated(c.uniform(0, 2 * np.pi))
    shore = c.uniform(-0.15, 0.85) * reach
    depth = u - shore + c.uniform(2, 6) * c.noise(28, 4, 0.5)  # pixels from the shore, positive at sea
    tropical = p.climate[0] == "A" or (abs(p.lat) < 30 and p.climate[0] == "B")
    sandy = np.clip(0.7 + 0.7 * c.noise(24, 2) - 0.8 * (p.relief > 400), 0, 1)
    beach = np.clip(1 - np.abs(depth + 1.2) / c.uniform(1.2, 3), 0, 1) * sandy
    c.paint(beach * 0.8, "gravel" if abs(p.lat) > 50 else "bright_sand")
    near = "shallow_water" if tropical or c.chance(0.3) else "turbid_water"
    a, b = c.spectrum(near)[:, None, None], c.spectrum("clear_water")[:, None, None]
    fade = _smoothstep(depth + 2 * c.noise(16, 3), 0, c.uniform(8, 40))
    mask = _smoothstep(depth, -0.6, 0.6)
    c.paint(mask, (a + (b - a) * fade).astype(np.float32))
    c.sea = mask
    c.water = np.maximum(c.water, mask)


def _inland_water(c: _Canvas, p: _Place) -> None:
    wet = {"A": 0.2, "B": 0.05, "C": 0.15, "D": 0.2, "E": 0.1}[p.climate[0]]
    if c.chance(wet):
        river = c.line(c.uniform(1.5, 9) * (1 if p.relief < 300 else 0.4), c.uniform(3, 9))
    elif c.chance(0.5 * wet) and p.relief < 400:
        river = c.share(c.noise(40, 3, 0.4), c.uniform(0.03, 0.3), 0.06)
    else:
        return
    c.paint(river, "turbid_water" if p.climate[0] in "AB" or c.chance(0.4) else "clear_water")
    c.water = np.maximum(c.water, river)
    c.canopy = c.canopy * (1 - river)


def _roads(c: _Canvas, p: _Place) -> np.ndarray:
    """Roads across the chip, near the centre; returns the distance to the nearest, in pixels."""
    nearest = np.full_like(c.water, c.size)
    for _ in range(c.rng.integers(1, 4) if p.settled else int(c.chance(0.12 * (p.climate != "EF")))):
        bend = c.uniform(0.3, 2) + min(p.relief / 200, 4)
        u, _ = c.rotated(c.uniform(0, np.pi))
        distance = np.abs(u - c.uniform(-0.12, 0.12) * c.size + bend * c.noise(24, 2, 0.4))
        mask = np.clip(c.uniform(0.3, 0.6) + 0.5 - distance, 0, 1)
        c.paint(mask * 0.65 * (1 - c.water), "asphalt" if p.settled and c.chance(0.6) else "gravel")
        nearest = np.minimum(nearest, distance)
    return nearest


def _settlement(c: _Canvas, p: _Place, green: float, road: np.ndarray) -> None:
    """Streets, roofs, gardens and parks: larger, denser and greyer the more people live there.

    The gazetteer's point is rarely where the densest streets are, and a town of 5,000 would fill every chip:
    the settlement's centre lies up to about one radius from that of the chip, so that many towns show their
    edge and the land around. Density falls from centre to edge.
    """
    if not p.settled:
        return
    people = np.log10(max(p.population, 10))
    radius = 1000 / PIXEL_M * np.sqrt(p.population / 5000 / np.pi)  # 5,000 people / km2
    farthest = float(np.interp(radius, [29, 30, 100, 600], [0.4, 1.2, 1.2, 0.9]))
    away, bearing = radius * c.uniform(0.1, farthest), c.uniform(0, 2 * np.pi)
    from_centre = np.hypot(c.x - away * np.cos(bearing), c.y - away * np.sin(bearing))
    village = float(np.clip((4 - people) / 1.5, 0, 1))  # small places line their roads
    outline = (1 - 0.55 * village) * from_centre + 1.1 * village * np.minimum(road, 12)
    outline += (2 + 0.2 * min(radius, 40)) * c.noise(24, 4)
    inside = _smoothstep(radius - outline, -2, 2) * (1 - c.water)
    if inside.max() < 0.05:
        return
    arid = p.climate[0] == "B"
    at_centre = 0.35 + 0.11 * people + c.uniform(-0.08, 0.08)
    density = np.clip(at_centre - 0.4 * from_centre / (radius + 5), 0.3, 0.95).astype(np.float32)
    angle = c.uniform(-0.3, 0.3) if p.regular_streets else c.uniform(0, np.pi)
    warp = 0.2 if p.regular_streets else c.uniform(1.5, 5)
    block = c.uniform(6, 10) + (2 if people > 5 else 0)
    organic = not p.regular_streets and c.chance(0.5)
    number, street = c.cells(1.2 * block) if organic else c.parcels(block, 1.3 * block, angle, warp)
    land = c.image

    garden = {"A": "shrub", "B": "brown_soil", "C": "green_grass", "D": "green_grass", "E": "gravel"}
    c.fill(
        garden[p.climate[0]], "broadleaf" if p.climate[0] in "ACD" else "shrub", 0.4 + 0.35 * c.noise(3, 2)
    )
    c.paint(np.full_like(inside, 0.35 * (1 - green)), "dry_grass" if not arid else "brown_soil")
    if arid:
        roofs, weights = ["mud_roof", "concrete", "metal_roof", "dark_roof"], [4, 3, 0.5, 0.5]
    elif p.climate[0] == "C" and not p.regular_streets:
        roofs, weights = ["tile_roof", "dark_roof", "concrete", "metal_roof"], [4, 2, 1.5, 0.5]
    elif p.climate[0] == "A":
        roofs, weights = ["metal_roof", "tile_roof", "concrete", "dark_roof"], [1.5, 2, 3, 2]
    else:
        roofs, weights = ["dark_roof", "concrete", "tile_roof", "metal_roof"], [4, 2, 1, 0.7]
    weights = np.array(weights) / np.sum(weights)
    lot, gap = c.parcels(c.uniform(1.6, 2.2), c.uniform(1.8, 2.6), angle, warp)
    table = np.stack([c.spectrum(name) for name in roofs])[c.rng.choice(4, PARCELS, p=weights)]
    table *= c.rng.normal(1, 0.18, (PARCELS, 1)).clip(0.5, 1.6).astype(np.float32)
    houses = (c.rng.random(PARCELS)[lot] < density) * np.clip(
        0.35 + 0.55 * density - 0.15 * (gap < 0.3), 0, 1
    )
    c.paint(houses, table.T[:, lot])
    if people > 4:  # halls, towers and yards that take a whole block
        big = c.rng.random(PARCELS) < 0.05 * (people - 3)
        halls = big[number] * (street > 1.3) * (c.noise(5) > -0.4)
        tint = c.rng.choice(4, PARCELS, p=[0.3, 0.4, 0.05, 0.25])
        c.paint(halls.astype(np.float32), np.stack([c.spectrum(n) for n in roofs]).T[:, tint[number]])
        c.shade(-(c.noise(1.5) > 1.3 - 0.2 * (people - 4)).astype(np.float32), 0.25)  # shadows of buildings
    park = (c.rng.random(PARCELS) < 0.07)[number].astype(np.float32)
    c.paint(park * 0.9, "green_grass" if not arid else "shrub")
    c.paint(park * (c.noise(2.5) > 0), "broadleaf")
    c.shade(c.rng.normal(0, 0.08, PARCELS).astype(np.float32)[number], 1)
    c.image = _blur(c.image, 0.12)  # a pixel holds parts of several roofs and gardens
    lane = np.clip(1.15 - street, 0, 1) * (0.75 - 0.5 * village)
    c.paint(lane, "asphalt" if people > 3 and not arid else "gravel")
    if people > 4.3:
        _, avenue = c.parcels(3.2 * block, 4 * block, angle, warp)
        c.paint(np.clip(1.5 - avenue, 0, 1) * 0.9, "asphalt")
    town, c.image = c.image, land
    c.paint(inside, town)
    c.built = inside
    bare = 0.5 + 0.35 * lane + 0.2 * c.noise(1.5)  # cleared streets, warm roofs, trees
    c.canopy = c.canopy * (1 - inside) + inside * np.clip(bare, 0, 0.95)


def _terrain(c: _Canvas, p: _Place) -> np.ndarray:
    """Height in m about the chip's mean, its steepness set by the local relief."""
    if p.relief > 500:  # ridges
        height = 0.5 * c.noise(64, 2) - np.abs(c.noise(40, 5, 0.5))
    else:
        height = 0.5 * c.noise(64, 2) + c.noise(48, 5, 0.45)
    slope_y, slope_x = np.gradient(height, PIXEL_M)
    steepness = min(p.relief / 3500, 0.5)
    return (height - height.mean()) * np.float32(steepness / np.sqrt((slope_x**2 + slope_y**2).mean()))


def _snow(c: _Canvas, p: _Place, landscape: str, height: np.ndarray, season: float, late_season: float) -> np.ndarray:
    """Paints snow where it is cold enough or high enough; returns its share of each pixel."""
    if landscape == "ice":
        return np.ones_like(c.water)
    patchy = c.noise(16, 4)
    cold = _temperature(p.climate, late_season) - _LAPSE * height * 1.5 + 1.2 * patchy
    likely = 0.3 if p.climate[0] in "AB" else 1.0
    seasonal = _smoothstep(-cold, 0, 3) * (c.rng.random() < likely)
    line = np.interp(abs(p.lat), *_SNOW_LINE) + 500 * season
    permanent = _smoothstep(p.elevation + height + 60 * patchy, line - 30, line + 120)
    share = np.maximum(seasonal * (1 - c.canopy), permanent)  # lakes and rivers freeze with the land
    share = np.clip(share, 0, 1) * (1 - c.sea)
    c.paint(share * 0.97, "fresh_snow" if season < 0.3 else "old_snow")
    return share


def _illuminate(c: _Canvas, height: np.ndarray, sine: float, azimuth: float) -> None:
    slope_y, slope_x = np.gradient(height, PIXEL_M)
    cosine = np.sqrt(1 - sine**2)
    toward = (np.sin(azimuth) * -slope_x + -np.cos(azimuth) * -slope_y) * cosine + sine
    cos_incidence = np.maximum(toward / np.sqrt(1 + slope_x**2 + slope_y**2), 0)
    light = np.clip(0.25 + 0.75 * cos_incidence / max(sine, 0.3), 0.3, 1.3)
    c.image *= (1 + (light - 1) * (1 - c.water)).astype(np.float32)


def _clouds(c: _Canvas, p: _Place, sine: float, azimuth: float) -> np.ndarray:
    """Haze on every chip, clouds and their shadows on some; returns the clouds' opacity."""
    haze = abs(c.rng.normal(0, 0.007)) * (ENDMEMBERS["clear_water"] / ENDMEMBERS["clear_water"].max())
    c.image += haze.astype(np.float32)[:, None, None]
    likely = {"A": 0.25, "B": 0.05, "C": 0.18, "D": 0.15, "E": 0.12}[p.climate[0]]
    if not c.chance(likely):
        return np.zeros_like(c.water)
    margin = 28
    field = c.noise(c.uniform(14, 40), 5, 0.55, margin)
    threshold = float(np.quantile(field, 1 - c.uniform(0.03, 0.45)))
    thickness = c.uniform(0.4, 1.2)
    everywhere = _smoothstep(field, threshold - 0.15, threshold + thickness)
    length = c.uniform(60, 140) / PIXEL_M / max(sine / np.sqrt(1 - sine**2), 0.5)  # low clouds
    south, east = margin - round(np.cos(azimuth) * length), margin + round(np.sin(azimuth) * length)
    opacity = everywhere[margin : margin + c.size, margin : margin + c.size]
    shadow = everywhere[south : south + c.size, east : east + c.size]
    c.image *= 1 - 0.62 * shadow * (1 - opacity)
    c.paint(opacity * (0.9 + 0.06 * c.noise(6, 2)).clip(0, 1), "cloud")
    return opacity


def _chip(p: _Place, size: int, rng: np.random.Generator) -> tuple[np.ndarray, dict]:
    c = _Canvas(size, rng)
    day = _acquisition_day(p.lat, rng)
    sine, azimuth = _sun(p.lat, day)
    season = _season(p.lat, day)
    green = float(np.clip(_greenness(p.climate, season) + rng.normal(0, 0.08), 0, 1))

    weights = _landscape_weights(p)
    names = list(weights)
    odds = np.array([weights[name] for name in names], float)
    landscape = names[rng.choice(len(names), p=odds / odds.sum())]
    _PAINTERS[landscape](c, p, green)
    if landscape != "ice":
        _inland_water(c, p)
    _sea(c, p)
    c.shade(c.noise(2.5, 2, 0.9) * (1 - c.water), 0.025)
    road = _roads(c, p)
    _settlement(c, p, green, road)
    height = _terrain(c, p)
    snow = _snow(c, p, landscape, height, season, _season(p.lat, day, lag=50))
    _illuminate(c, height, sine, azimuth)
    surface = np.clip(c.image, 0.0005, 1.2)
    ndvi = (surface[7] - surface[3]) / (surface[7] + surface[3])
    cloud = _clouds(c, p, sine, azimuth)

    image = _blur(c.image, 0.12)  # leaves half the contrast at the Nyquist frequency
    for footprint in (2, 6):
        bands = FOOTPRINT_M == footprint * PIXEL_M
        image[bands] = _coarsen(image[bands], footprint)
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    image = image * (1 + 0.006 * noise) + 0.0006 * noise[::-1]
    image = np.clip(np.rint(image * SCALE), 1, 16_000).astype(np.uint16)

    if c.sea.mean() > 0.25:
        landscape = "coast"
    elif c.built.mean() > 0.6:
        landscape = "city"
    return image, {
        "ndvi_mean": float(ndvi.mean()),
        "water_share": float((c.water * (1 - snow) > 0.5).mean()),
        "snow_share": 1.0 if landscape == "ice" else float((snow > 0.5).mean()),
        "built_share": float((c.built > 0.5).mean()),
        "cloud_share": float((cloud > 0.5).mean()),
        "season_day": float(day),
        "landscape": landscape,
        "field_pattern": c.pattern,
    }
