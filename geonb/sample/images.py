"""Simulate Sentinel-2 L2A chips: 12 bands at 10 m, painted from facts of a place.

These are simulations, not observations. The facts choose a landscape, which is painted
from spectra; water, roads, houses, snow, sunlight, haze, clouds and the noise of the
sensor follow. Random numbers come from the seed and the place's id, so a chip is the
same in any batch, order and process.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields
from importlib.resources import files

import numpy as np
import yaml

from geonb.data.sentinel2 import GSD_M, SCALE
from geonb.sample.canvas import ENDMEMBERS, PARCELS, Canvas, blur, coarsen, smoothstep, within
from geonb.sample.painters import PAINTERS, SNOW_LINE, Place, landscape_weights
from geonb.sample.texts import by_class

FOOTPRINT_M = np.array([60, 10, 10, 10, 20, 20, 20, 10, 20, 60, 20, 20])  # of each band
LAPSE = 0.0065  # K / m
ASSETS = files("geonb.sample") / "assets"
CLIMATES = yaml.safe_load((ASSETS / "climates.yaml").read_text(encoding="utf-8"))
COLUMNS = [field.name for field in fields(Place)]


def simulate_sentinel2(
    facts: dict[str, np.ndarray], size: int = 64, seed: int = 0
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Simulate the chips of k places, with the facts that only their images can tell.

    Args:
        facts: columns of length k, as :class:`geonb.sample.painters.Place` has them.
        size: pixels of 10 m along each side, at least 16.
        seed: decides everything random in a chip, together with its place_id.

    Returns:
        The images, uint16 (k, 12, size, size), reflectance x 10,000 and never 0; and
        columns of length k, which ``assets/facts.yaml`` defines.
    """
    chips, rows = [], []
    for known in zip(*(facts[name].tolist() for name in COLUMNS), strict=True):
        p = Place(*known)
        key = hashlib.blake2b(f"{seed}:{p.place_id}".encode(), digest_size=16).digest()
        rng = np.random.Generator(np.random.Philox(key=np.frombuffer(key, dtype="<u8")))
        chip, row = _chip(p, size, rng)
        chips.append(chip)
        rows.append(row)
    return np.stack(chips), {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _chip(p: Place, size: int, rng: np.random.Generator) -> tuple[np.ndarray, dict]:
    """Paint the chip of a place, uint16 (12, size, size), and measure its facts."""
    c = Canvas(size, rng)
    day = _acquisition_day(p.lat, rng)
    sine, azimuth = _sun(p.lat, day)
    season = _season(p.lat, day)
    mean, more_in_summer = by_class(CLIMATES["greenness"], p.climate)
    green = np.clip(mean + more_in_summer * season, 0.02, 1)
    green = float(np.clip(green + rng.normal(0, 0.08), 0, 1))

    weights = landscape_weights(p)
    odds = np.array(list(weights.values()), float)
    landscape = list(weights)[rng.choice(len(weights), p=odds / odds.sum())]
    PAINTERS[landscape](c, p, green)
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

    if c.sea.mean() > 0.25:
        landscape = "coast"
    elif c.built.mean() > 0.6:
        landscape = "city"
    return _sense(c), {
        "ndvi_mean": float(ndvi.mean()),
        "water_share": float((c.water * (1 - snow) > 0.5).mean()),
        "snow_share": 1.0 if landscape == "ice" else float((snow > 0.5).mean()),
        "built_share": float((c.built > 0.5).mean()),
        "cloud_share": float((cloud > 0.5).mean()),
        "season_day": float(day),
        "scene": landscape,
        "field_pattern": c.pattern,
    }


def _sense(c: Canvas) -> np.ndarray:
    """Average and digitise the canvas as the sensor does."""
    image = blur(c.image, 0.12)  # leaves half the contrast at the Nyquist frequency
    for footprint in (2, 6):
        bands = FOOTPRINT_M == footprint * GSD_M
        image[bands] = coarsen(image[bands], footprint)
    noise = c.rng.standard_normal(image.shape, dtype=np.float32)
    image = image * (1 + 0.006 * noise) + 0.0006 * noise[::-1]
    return np.clip(np.rint(image * SCALE), 1, 16_000).astype(np.uint16)


# The day


def _sun(lat: float, day: float) -> tuple[float, float]:
    """Return the sine of the sun's elevation and its azimuth at 10:30."""
    declination = np.radians(-23.44 * np.cos(2 * np.pi * (day + 10) / 365))
    phi, hour = np.radians(lat), np.radians(-22.5)
    sine = np.sin(phi) * np.sin(declination) + np.cos(phi) * np.cos(declination) * np.cos(hour)
    east = -np.cos(declination) * np.sin(hour)
    north = np.cos(phi) * np.sin(declination) - np.sin(phi) * np.cos(declination) * np.cos(hour)
    return float(sine), float(np.arctan2(east, north))


def _acquisition_day(lat: float, rng: np.random.Generator) -> int:
    """Draw a day; where the sun is too low, draw one around midsummer."""
    day = int(rng.integers(1, 366))
    if _sun(lat, day)[0] < np.sin(np.radians(15)):
        midsummer = 172 if lat > 0 else 355
        day = (midsummer + round(float(np.clip(rng.normal(0, 25), -45, 45))) - 1) % 365 + 1
    return day


def _season(lat: float, day: float, lag: float = 30) -> float:
    """Return 1 in high summer, -1 in midwinter, `lag` days after the solstices."""
    return float(np.tanh(lat / 8) * np.cos(2 * np.pi * (day - 172 - lag) / 365))


# Water, roads and settlements on the land


def _inland_water(c: Canvas, p: Place) -> None:
    """Paint a river or a lake on some chips."""
    wet = CLIMATES["river"][p.zone]
    if c.chance(wet):
        water = c.line(c.uniform(1.5, 9) * (1 if p.relief < 300 else 0.4), c.uniform(3, 9))
    elif c.chance(0.5 * wet) and p.relief < 400:
        water = c.share(c.noise(40, 3, 0.4), c.uniform(0.03, 0.3), 0.06)
    else:
        return
    c.flood(water, "turbid_water" if p.zone in "AB" or c.chance(0.4) else "clear_water")
    c.canopy = c.canopy * (1 - water)


def _sea(c: Canvas, p: Place) -> None:
    """Paint sea with a beach, mostly beside the centre of the chip."""
    if p.coast_km > 3 or not c.chance(0.9 if p.coast_km < 1 else 0.35):
        return
    u, _ = c.rotated(c.uniform(0, 2 * np.pi))
    shore = c.uniform(-0.15, 0.85) * (c.size / 2)
    depth = u - shore + c.uniform(2, 6) * c.noise(28, 4, 0.5)  # pixels from the shore, positive at sea
    tropical = p.zone == "A" or (abs(p.lat) < 30 and p.zone == "B")
    sandy = np.clip(0.7 + 0.7 * c.noise(24, 2) - 0.8 * (p.relief > 400), 0, 1)
    beach = within(np.abs(depth + 1.2) / c.uniform(1.2, 3), 1) * sandy
    c.paint(beach * 0.8, "gravel" if abs(p.lat) > 50 else "bright_sand")
    near = "shallow_water" if tropical or c.chance(0.3) else "turbid_water"
    a, b = c.spectrum(near)[:, None, None], c.spectrum("clear_water")[:, None, None]
    fade = smoothstep(depth + 2 * c.noise(16, 3), 0, c.uniform(8, 40))
    c.sea = smoothstep(depth, -0.6, 0.6)
    c.flood(c.sea, (a + (b - a) * fade).astype(np.float32))


def _roads(c: Canvas, p: Place) -> np.ndarray:
    """Paint roads; return the distance to the nearest in pixels."""
    nearest = np.full_like(c.water, c.size)
    for _ in range(c.rng.integers(1, 4) if p.settled else int(c.chance(0.12 * (p.climate != "EF")))):
        bend = c.uniform(0.3, 2) + min(p.relief / 200, 4)
        u, _ = c.rotated(c.angle())
        distance = np.abs(u - c.uniform(-0.12, 0.12) * c.size + bend * c.noise(24, 2, 0.4))
        mask = within(distance, c.uniform(0.3, 0.6) + 0.5)
        c.paint(mask * 0.65 * (1 - c.water), "asphalt" if p.settled and c.chance(0.6) else "gravel")
        nearest = np.minimum(nearest, distance)
    return nearest


def _settlement(c: Canvas, p: Place, green: float, road: np.ndarray) -> None:
    """Paint streets, roofs, gardens and parks, larger with more inhabitants.

    The centre may lie off that of the chip, so that many chips show land too.
    """
    if not p.settled:
        return
    people, arid = np.log10(max(p.population, 10)), p.zone == "B"
    radius = 1000 / GSD_M * np.sqrt(p.population / 5000 / np.pi)  # 5,000 people / km2
    farthest = float(np.interp(radius, [29, 30, 100, 600], [0.4, 1.2, 1.2, 0.9]))
    shift, bearing = radius * c.uniform(0.1, farthest), c.uniform(0, 2 * np.pi)
    from_centre = np.hypot(c.x - shift * np.cos(bearing), c.y - shift * np.sin(bearing))
    village = float(np.clip((4 - people) / 1.5, 0, 1))  # small places line their roads
    outline = (1 - 0.55 * village) * from_centre + 1.1 * village * np.minimum(road, 12)
    outline += (2 + 0.2 * min(radius, 40)) * c.noise(24, 4)
    inside = smoothstep(radius - outline, -2, 2) * (1 - c.water)
    if inside.max() < 0.05:
        return
    at_centre = 0.35 + 0.11 * people + c.uniform(-0.08, 0.08)
    density = np.clip(at_centre - 0.4 * from_centre / (radius + 5), 0.3, 0.95).astype(np.float32)
    angle = c.uniform(-0.3, 0.3) if p.regular_streets else c.angle()
    warp = 0.2 if p.regular_streets else c.uniform(1.5, 5)
    block = c.uniform(6, 10) + (2 if people > 5 else 0)
    organic = not p.regular_streets and c.chance(0.5)
    number, street = c.cells(1.2 * block) if organic else c.parcels(block, 1.3 * block, angle, warp)
    lane = within(street, 1.15) * (0.75 - 0.5 * village)

    land = c.image
    _houses(c, p, green, density, angle, warp)
    _blocks(c, p, number, street)
    c.image = blur(c.image, 0.12)  # a pixel holds parts of several roofs and gardens
    c.paint(lane, "asphalt" if people > 3 and not arid else "gravel")
    if people > 4.3:
        _, avenue = c.parcels(3.2 * block, 4 * block, angle, warp)
        c.paint(within(avenue, 1.5) * 0.9, "asphalt")
    town, c.image = c.image, land
    c.paint(inside, town)
    c.built = inside
    bare = 0.5 + 0.35 * lane + 0.2 * c.noise(1.5)  # cleared streets, warm roofs, trees
    c.canopy = c.canopy * (1 - inside) + inside * np.clip(bare, 0, 0.95)


def _houses(c: Canvas, p: Place, green: float, density: np.ndarray, angle: float, warp: float) -> None:
    """Cover the canvas with gardens, and most lots with a roof."""
    trees, dry = "broadleaf" if p.zone in "ACD" else "shrub", 0.35 * (1 - green)
    c.fill(CLIMATES["garden"][p.zone], trees, 0.4 + 0.35 * c.noise(3, 2))
    c.paint(np.full(c.water.shape, dry), "dry_grass" if p.zone != "B" else "brown_soil")
    roofs = _roofs(p)
    lot, gap = c.parcels(c.uniform(1.6, 2.2), c.uniform(1.8, 2.6), angle, warp)
    odds = np.array(list(roofs.values())) / sum(roofs.values())
    table = np.stack([c.spectrum(name) for name in roofs])[c.rng.choice(4, PARCELS, p=odds)]
    table *= c.rng.normal(1, 0.18, (PARCELS, 1)).clip(0.5, 1.6).astype(np.float32)
    covered = np.clip(0.35 + 0.55 * density - 0.15 * (gap < 0.3), 0, 1)
    c.paint((c.rng.random(PARCELS)[lot] < density) * covered, table.T[:, lot])


def _roofs(p: Place) -> dict[str, float]:
    return CLIMATES["roofs"]["D" if p.zone == "C" and p.regular_streets else p.zone]


def _blocks(c: Canvas, p: Place, number: np.ndarray, street: np.ndarray) -> None:
    """Turn some blocks into halls, towers and yards, or parks."""
    people = np.log10(max(p.population, 10))
    if people > 4:
        big = c.rng.random(PARCELS) < 0.05 * (people - 3)
        halls = big[number] * (street > 1.3) * (c.noise(5) > -0.4)
        tint = c.rng.choice(4, PARCELS, p=[0.3, 0.4, 0.05, 0.25])
        spectra = np.stack([c.spectrum(name) for name in _roofs(p)])
        c.paint(halls.astype(np.float32), spectra.T[:, tint[number]])
        shadow = c.noise(1.5) > 1.3 - 0.2 * (people - 4)
        c.shade(-shadow.astype(np.float32), 0.25)
    park = (c.rng.random(PARCELS) < 0.07)[number].astype(np.float32)
    c.paint(park * 0.9, "green_grass" if p.zone != "B" else "shrub")
    c.paint(park * (c.noise(2.5) > 0), "broadleaf")
    c.shade_parcels(number, 0.08)


# Relief, snow, light and clouds


def _terrain(c: Canvas, p: Place) -> np.ndarray:
    """Draw heights in m, as steep as the local relief."""
    if p.relief > 500:  # ridges
        height = 0.5 * c.noise(64, 2) - np.abs(c.noise(40, 5, 0.5))
    else:
        height = 0.5 * c.noise(64, 2) + c.noise(48, 5, 0.45)
    slope_y, slope_x = np.gradient(height, GSD_M)
    steepness = min(p.relief / 3500, 0.5)
    return (height - height.mean()) * np.float32(steepness / np.sqrt((slope_x**2 + slope_y**2).mean()))


def _snow(c: Canvas, p: Place, landscape: str, height: np.ndarray, season: float, late_season: float) -> np.ndarray:
    """Paint snow where it is cold or high; return its share of pixels."""
    if landscape == "ice":
        return np.ones_like(c.water)
    patchy = c.noise(16, 4)
    mean, half_range = by_class(CLIMATES["temperature"], p.climate)
    cold = mean + half_range * late_season - LAPSE * height * 1.5 + 1.2 * patchy
    likely = 0.3 if p.zone in "AB" else 1.0
    seasonal = smoothstep(-cold, 0, 3) * (c.rng.random() < likely)
    line = np.interp(abs(p.lat), *SNOW_LINE) + 500 * season
    permanent = smoothstep(p.elevation + height + 60 * patchy, line - 30, line + 120)
    share = np.maximum(seasonal * (1 - c.canopy), permanent)  # lakes and rivers freeze with the land
    share = np.clip(share, 0, 1) * (1 - c.sea)
    c.paint(share * 0.97, "fresh_snow" if season < 0.3 else "old_snow")
    return share


def _illuminate(c: Canvas, height: np.ndarray, sine: float, azimuth: float) -> None:
    """Brighten slopes that face the sun and darken the others."""
    slope_y, slope_x = np.gradient(height, GSD_M)
    cosine = np.sqrt(1 - sine**2)
    toward = (np.sin(azimuth) * -slope_x + -np.cos(azimuth) * -slope_y) * cosine + sine
    cos_incidence = np.maximum(toward / np.sqrt(1 + slope_x**2 + slope_y**2), 0)
    light = np.clip(0.25 + 0.75 * cos_incidence / max(sine, 0.3), 0.3, 1.3)
    c.image *= (1 + (light - 1) * (1 - c.water)).astype(np.float32)


def _clouds(c: Canvas, p: Place, sine: float, azimuth: float) -> np.ndarray:
    """Paint haze and some clouds with shadows; return their opacity."""
    haze = abs(c.rng.normal(0, 0.007)) * (ENDMEMBERS["clear_water"] / ENDMEMBERS["clear_water"].max())
    c.image += haze.astype(np.float32)[:, None, None]
    if not c.chance(CLIMATES["clouds"][p.zone]):
        return np.zeros_like(c.water)
    margin = 28
    field = c.noise(c.uniform(14, 40), 5, 0.55, margin)
    threshold = float(np.quantile(field, 1 - c.uniform(0.03, 0.45)))
    thickness = c.uniform(0.4, 1.2)
    everywhere = smoothstep(field, threshold - 0.15, threshold + thickness)
    length = c.uniform(60, 140) / GSD_M / max(sine / np.sqrt(1 - sine**2), 0.5)  # low clouds
    south, east = margin - round(np.cos(azimuth) * length), margin + round(np.sin(azimuth) * length)
    opacity = everywhere[margin : margin + c.size, margin : margin + c.size]
    shadow = everywhere[south : south + c.size, east : east + c.size]
    c.image *= 1 - 0.62 * shadow * (1 - opacity)
    c.paint(opacity * (0.9 + 0.06 * c.noise(6, 2)).clip(0, 1), "cloud")
    return opacity
