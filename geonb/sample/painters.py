"""Landscapes of simulated chips: how likely each is at a place, and how it is painted.

A painter covers the whole canvas, for a place and the greenness of plants in 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geonb.sample.canvas import PARCELS, Canvas, smoothstep, within

# Height of the permanent snow line (m) by absolute latitude, rounded.
SNOW_LINE = ([0, 20, 30, 40, 50, 60, 70, 80, 90], [4900, 5700, 5300, 4000, 2800, 1600, 800, 100, 0])


@dataclass
class Place:
    """The facts of a place that decide its chip; NaN is 0, and far from the coast."""

    place_id: str
    lon: float
    lat: float
    climate: str
    elevation_m: float
    relief_m: float
    population: float
    coast_km: float
    continent: str

    def __post_init__(self) -> None:
        numbers = self.elevation_m, self.relief_m, self.population
        self.elevation, self.relief, self.population = np.nan_to_num(numbers).tolist()
        self.coast_km = float(np.nan_to_num(self.coast_km, nan=1e4))
        self.zone, self.settled = self.climate[0], self.population > 0
        self.regular_streets = self.continent in ("North America", "South America", "Oceania")
        self.asia = 65 < self.lon < 150 and -11 < self.lat < 46


def landscape_weights(p: Place) -> dict[str, float]:
    """Weigh the landscapes of a place: flat land near people is farmed."""
    k = p.climate
    flat = float(np.exp(-p.relief / 250))
    farm = flat * (2.0 if p.settled else 0.35)
    snow_line = np.interp(abs(p.lat), *SNOW_LINE)
    high = p.relief > 300 and p.elevation + p.relief > snow_line - 400
    weights: dict[str, float]
    if k == "EF":
        return {"ice": 1}
    if k == "ET":
        return {"alpine": 1} if high or abs(p.lat) < 55 else {"tundra": 1}
    if k[:2] == "BW":
        sand = 1.2 * flat if k == "BWh" else 0.4 * flat
        weights = {"sand desert": sand, "stony desert": 1, "irrigated": 0.8 * farm}
    elif k[:2] == "BS":
        grass = "savanna" if k == "BSh" else "steppe"
        weights = {grass: 1, "cropland": 0.6 * farm, "irrigated": 0.3 * farm}
    elif k in ("Af", "Am"):
        weights = {"rainforest": 1, "forest clearings": 0.5 * farm, "plantation": 0.3 * farm}
        weights["paddies"] = 0.8 * farm * p.asia
    elif k[0] == "A":
        weights = {"savanna": 1, "cropland": 0.6 * farm, "paddies": 1.2 * (farm + 0.2) * p.asia}
    elif k[:2] == "Cs":
        weights = {"mediterranean": 1, "cropland": 0.4 * farm}
    elif k[0] == "C":
        monsoon, mild = p.asia and k in ("Cfa", "Cwa"), k in ("Cfb", "Cfc", "Cwb")
        weights = {"broadleaf forest": 0.8, "cropland": (0.5 if monsoon else 1.2) * farm}
        weights["paddies"] = 1.5 * (farm + 0.15) * monsoon
        weights["pasture"] = (0.8 if mild else 0.1) * (farm + 0.2)
    elif k[-1] in "ab":
        weights = {"broadleaf forest": 0.7, "boreal forest": 0.2}
        weights |= {"cropland": 1.2 * farm, "pasture": 0.2 * farm}
    else:
        weights = {"boreal forest": 1, "bog": 0.25 * flat, "cropland": 0.1 * farm}
    if high:
        weights["alpine"] = 1.5
    return weights


def ice(c: Canvas, p: Place, green: float) -> None:
    """Snow with drifts, blue ice and crevasses."""
    angle = c.angle()
    u, _ = c.rotated(angle, 2)
    c.fill("fresh_snow", "old_snow", 0.35 + 0.3 * c.noise(48, 4))
    c.shade(np.sin(u * 2 * np.pi / c.uniform(5, 11) + 2 * c.noise(20, 2)), 0.03)  # sastrugi
    if c.chance(0.4):
        c.paint(c.share(c.noise(40, 4), c.uniform(0.1, 0.5), 0.6) * 0.85, "blue_ice")
    if c.chance(0.35):  # crevasses
        crack = np.abs(np.sin(u * 2 * np.pi / c.uniform(6, 12) + 1.5 * c.noise(16, 3)))
        c.shade(-within(crack / 0.25, 1), 0.35)


def tundra(c: Canvas, p: Place, green: float) -> None:
    """Low plants and lichen with ice-wedge polygons, wet and dry, and ponds or rock."""
    c.fill("tundra", "lichen", 0.45 - 0.4 * green + 0.25 * c.noise(32, 5, 0.6))
    c.paint(c.share(c.noise(24, 4), 0.25, 0.4) * (0.3 + 0.4 * green), "bog")
    number, edge = c.cells(c.uniform(3.5, 5.5))
    basin = c.share(c.noise(32, 3), c.uniform(0.2, 0.7), 0.5)
    c.shade(-within(edge / 0.7, 1) * basin, 0.3)
    c.shade_parcels(number, 0.07, basin)
    if p.relief < 250:
        c.flood(c.share(c.noise(9, 2, 0.3) + 0.7 * c.noise(40), c.uniform(0.05, 0.32), 0.12), "humic_water")
    else:
        c.paint(c.share(c.noise(32, 5, 0.65), c.uniform(0.2, 0.6), 0.3), "grey_rock")


def alpine(c: Canvas, p: Place, green: float) -> None:
    """Rock, scree and meadows above the trees."""
    c.fill("grey_rock", "dark_rock", 0.4 + 0.35 * c.noise(24, 5, 0.75))
    meadow = c.share(c.noise(40, 5, 0.7), c.uniform(0.1, 0.6), 0.4)
    c.paint(0.85 * meadow, c.between("dry_grass", "green_grass", green))
    c.paint(c.share(c.noise(20, 4, 0.7), 0.2, 0.3) * 0.8, "gravel")
    c.shade(c.noise(2, 2, 0.7), 0.09)
    if c.chance(0.25):
        c.flood(c.share(c.noise(28, 2), 0.05, 0.05), "clear_water")


def sand_desert(c: Canvas, p: Place, green: float) -> None:
    """Dunes with ripples, hard floor between them."""
    c.fill("bright_sand", "red_sand", c.uniform() + 0.12 * c.noise(48, 3))
    angle, wavelength = c.angle(), c.uniform(11, 30)
    u, v = c.rotated(angle, wavelength * 0.22, 1.6 * wavelength)
    phase = (u / wavelength) % 1
    ridge = np.where(phase < 0.7, phase / 0.7, (1 - phase) / 0.3)  # gentle windward, steep slip face
    c.paint(within(ridge, 0.55) * c.uniform(0.1, 0.8), "gravel")
    lee = np.where(phase < 0.7, 0.35, -1.0) * (0.6 + 0.25 * c.noise(24, 2))
    c.shade(lee, c.uniform(0.1, 0.22))
    c.shade(np.sin(2 * np.pi * (u * 0.5 + v * 0.3) / c.uniform(3.5, 6) + 1.5 * c.noise(16, 2)), 0.02)


def stony_desert(c: Canvas, p: Place, green: float) -> None:
    """Gravel and rock with pale, braided wadis, now and then a salt flat."""
    pairs = [("gravel", "grey_rock"), ("gravel", "bright_sand"), ("red_soil", "gravel")]
    c.fill(*pairs[c.rng.integers(3)], 0.4 + 0.3 * c.noise(48, 6, 0.6))
    c.paint(c.share(c.noise(32, 5, 0.6), c.uniform(0.05, 0.4), 0.4) * 0.8, "dark_rock")
    channels = within(np.abs(c.noise(c.uniform(28, 50), 5, 0.45)) / c.uniform(0.06, 0.15), 1)
    bed = np.maximum(c.line(c.uniform(1, 4), 5), 0.8 * channels) * np.clip(0.6 + 0.3 * c.noise(3, 2), 0, 1)
    c.paint(bed * 0.8, "bright_sand")
    c.paint(bed * (c.noise(1.6) > 1) * 0.6, "shrub")
    c.shade(c.noise(3, 3, 0.8), 0.08)
    if c.chance(0.1) and p.relief < 150:
        c.paint(c.share(c.noise(56, 4), c.uniform(0.3, 0.8), 0.3), "salt")


def irrigated(c: Canvas, p: Place, green: float) -> None:
    """Fields on dry land: centre pivots, or parcels along water."""
    (steppe if p.climate[1] == "S" else stony_desert)(c, p, green)
    crops, weights = ["green_crop", "green_grass", "ripe_crop", "brown_soil", "stubble"], [4, 1, 1, 1.2, 0.8]
    soil = c.image
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
        c.image = c.parcel_field(number + 64 * halves, crops, weights)
        c.shade(np.sin(distance * 2 * np.pi / c.uniform(3, 5)), 0.03)  # wheel tracks
        watered = np.clip(radius - distance + 0.5, 0, 1)
    else:
        c.pattern = "parcels"
        number, edge = c.parcels(c.uniform(4, 8), c.uniform(6, 14), c.angle(), 0.5)
        c.image = c.parcel_field(number, crops, weights)
        c.shade(c.noise(2), 0.05)
        c.paint(within(edge, 1) * 0.4, "brown_soil")
        watered = c.share(c.noise(60, 2), c.uniform(0.4, 0.95), 0.1)
    fields, c.image = c.image, soil
    c.paint(watered, fields)


def steppe(c: Canvas, p: Place, green: float) -> None:
    """Grass with bare soil, shrubs and gullies."""
    c.fill("dry_grass", "green_grass", green * 0.9 + 0.12 * c.noise(48, 5, 0.6))
    c.paint(c.share(c.noise(40, 5, 0.6), c.uniform(0.15, 0.5), 0.6) * 0.7, "brown_soil")
    c.paint(c.share(c.noise(12, 3), c.uniform(0.05, 0.25), 0.5) * 0.5, "shrub")
    gullies = within(np.abs(c.noise(c.uniform(24, 56), 5, 0.45)) / 0.09, 1)
    c.paint(gullies * c.uniform(0.2, 0.7), ("gravel", "green_grass")[c.rng.integers(2)])
    c.shade(c.noise(4, 3, 0.8), 0.1)


def savanna(c: Canvas, p: Place, green: float) -> None:
    """Grass with single crowns, a gallery forest, and burnt land in the dry season."""
    c.fill("dry_grass", "green_grass", green + 0.15 * c.noise(40, 4))
    c.paint(c.share(c.noise(40, 4), c.uniform(0.1, 0.4), 0.5) * 0.7, "red_soil")
    trees = c.share(c.noise(1) + 0.7 * c.noise(24, 3), c.uniform(0.12, 0.4), 0.4)
    c.paint(trees * 0.85, c.between("leafless_wood", "broadleaf", 0.35 + 0.6 * green))
    c.canopy = 0.4 * trees
    c.paint(c.line(c.uniform(3, 6), 6) * 0.8, "broadleaf")
    if c.chance(0.25 * (1 - green)):
        c.paint(c.share(c.noise(40, 4), c.uniform(0.1, 0.4), 0.1) * 0.85, "burnt")


def rainforest(c: Canvas, p: Place, green: float) -> None:
    """Closed crowns, and a meandering river with sand banks."""
    c.fill("rainforest", "broadleaf", 0.25 + 0.2 * c.noise(40, 4))
    c.shade(0.7 * c.noise(1.6) + 0.5 * c.noise(3.2), 0.13)
    c.shade(c.noise(24, 3), 0.05)
    c.canopy[:] = 0.8
    if p.relief < 400 and c.chance(0.45):
        angle, bend, offset = c.angle(), c.uniform(5, 12), c.uniform(-0.3, 0.3) * c.size
        meander = c.rotated(angle)[0] - offset + bend * c.noise(24, 2, 0.4)
        width = c.uniform(2, 14)
        bank = smoothstep(-np.abs(meander - width / 2 - 0.5), -1.6, 0) * (c.noise(16) > 0.2)
        c.paint(0.8 * bank, "bright_sand")
        c.flood(within(np.abs(meander), width / 2 + 0.5), ("turbid_water", "humic_water")[c.rng.integers(2)])


def forest_clearings(c: Canvas, p: Place, green: float) -> None:
    """Rainforest cut along roads: ranches and plots with straight edges."""
    c.pattern = "clearings"
    rainforest(c, p, green)
    forest, angle = c.image, c.angle()
    number, _ = c.parcels(c.uniform(8, 15), c.uniform(12, 26), angle, 0.4)
    names = ["green_grass", "dry_grass", "red_soil", "burnt", "shrub"]
    c.image = c.parcel_field(number, names, [4, 1.5, 1.5, 0.6, 1.5])
    c.shade(c.noise(8, 4, 0.7), 0.08)
    cleared, c.image = c.image, forest
    cut = c.rng.random(PARCELS) < c.uniform(0.35, 0.75)
    c.paint((cut[number] & (c.water < 0.2)).astype(np.float32), cleared)
    c.paint(c.line(1.2, 0.6, angle) * 0.8 * (1 - c.water), "red_soil")


def plantation(c: Canvas, p: Place, green: float) -> None:
    """Palms, rubber or tea: even blocks of one crown, with a grid of tracks."""
    c.pattern = "groves"
    angle = c.angle()
    number, edge = c.parcels(c.uniform(14, 24), c.uniform(20, 40), angle, 0.3)
    c.image = c.parcel_field(number, ["rainforest", "broadleaf", "shrub", "red_soil"], [4, 3, 1, 0.5], 0.12)
    u, v = c.rotated(angle)
    c.shade(np.sin(u * 2 * np.pi / 2.7) * np.sin(v * 2 * np.pi / 2.7), 0.06)
    c.shade(c.noise(1), 0.05)
    c.paint(within(edge, 1) * 0.7, "red_soil")


def paddies(c: Canvas, p: Place, green: float) -> None:
    """Small rice fields with bunds; terraced in hills, with canals in plains."""
    c.pattern = "paddies"
    angle, terraced = c.angle(), p.relief > 250
    warp = 6 if terraced else 0.5
    number, edge = c.parcels(c.uniform(1.8, 3.2), c.uniform(4, 9), angle, warp)
    flooded = c.uniform(0, 1) * (0.4 + 0.6 * green)
    weights = [4 * flooded, 4 * green, 1.5 * (1 - green), 0.4, 0.7 * (1 - green)]
    names = ["paddy_flooded", "paddy_green", "ripe_crop", "green_grass", "stubble"]
    c.image = c.parcel_field(number, names, weights, 0.12)
    c.paint(within(edge, 0.7) * 0.5, "green_grass")
    block, wide = c.parcels(c.uniform(14, 20), c.uniform(18, 30), angle, warp)
    c.shade_parcels(block, 0.1)
    if not terraced:
        c.paint(within(wide, 0.9) * 0.8, "turbid_water")
    c.shade(c.noise(2), 0.04)
    c.paint(c.share(c.noise(18, 3), c.uniform(0, 0.12), 0.1), "broadleaf")


def cropland(c: Canvas, p: Place, green: float) -> None:
    """Parcels or strips of crops with rows, hedges and woods."""
    strips = c.chance(0.35)
    c.pattern = "strips" if strips else "parcels"
    width, length = (c.uniform(2, 4), c.uniform(25, 60)) if strips else (c.uniform(8, 20), c.uniform(10, 28))
    if not p.settled:
        width, length = 1.4 * width, 1.4 * length
    angle, zone, dry = c.angle(), p.zone, 1 - green
    number, edge = c.parcels(width, length, angle, 0.3 + min(p.relief / 200, 3))
    soil = {"D": "dark_soil", "A": "red_soil"}.get(zone, "brown_soil")
    names = ["green_crop", "green_grass", "ripe_crop", "stubble", soil, "rapeseed"]
    spring = zone in "CD" and 0.5 < green < 0.85
    weights = [3 * green, green, 1.2 * dry + 0.4, dry, 0.6 + dry, 0.5 * spring]
    c.image = c.parcel_field(number, names, weights, 0.12)
    u, _ = c.rotated(angle)
    c.shade(np.sin(u * 2 * np.pi / 2.4), 0.015)
    c.shade(c.noise(12, 3), 0.05)
    woods = (c.rng.random(PARCELS) < c.uniform(0, 0.18))[number] * 0.95
    trees = np.maximum(within(edge, 1.1) * c.uniform(0.1, 0.6), woods)
    c.paint(trees, c.between("leafless_wood", "broadleaf", green))
    c.canopy = 0.6 * trees


def pasture(c: Canvas, p: Place, green: float) -> None:
    """Meadows with hedges and woods."""
    c.pattern = "pastures"
    number, edge = c.parcels(c.uniform(7, 14), c.uniform(9, 20), c.angle(), 2.5)
    names = ["green_grass", "dry_grass", "green_crop", "bog"]
    c.image = c.parcel_field(number, names, [3 + 3 * green, 1.6 - green, 1, 0.6])
    c.shade(c.noise(16, 4), 0.06)
    hedge = within(edge, 1.2) * (c.noise(6) > -0.5)
    c.paint(hedge * 0.75, c.between("leafless_wood", "broadleaf", green))
    c.paint(c.share(c.noise(28, 4), c.uniform(0, 0.25), 0.15) * 0.9, "broadleaf")


def mediterranean(c: Canvas, p: Place, green: float) -> None:
    """Scrub and rock; in lower land groves of olives in rows."""
    c.fill("dry_grass", "green_grass", green * 0.8 + 0.12 * c.noise(40, 4))
    c.paint(c.share(c.noise(28, 5, 0.65), c.uniform(0.25, 0.65), 0.4) * 0.85, "shrub")
    c.paint(c.share(c.noise(20, 5, 0.7), c.uniform(0.05, 0.2), 0.3) * 0.8, "grey_rock")
    c.shade(c.noise(1.5), 0.07)
    if p.relief < 700 and c.chance(0.75):
        c.pattern = "groves"
        scrub, angle = c.image, c.angle()
        number, edge = c.parcels(c.uniform(7, 13), c.uniform(9, 18), angle, 1.5)
        names = ["brown_soil", "red_soil", "dry_grass", "stubble"]
        c.image = c.parcel_field(number, names, [2, 2, 1.5 - green, 1])
        u, v = c.rotated(angle)
        period = c.uniform(2.0, 2.6)
        olives = np.clip(np.sin(u * 2 * np.pi / period) * np.sin(v * 2 * np.pi / period) + 0.2, 0, 1)
        planted = c.rng.random(PARCELS) < 0.75
        c.paint(olives * planted[number] * 0.75, "shrub")
        c.paint(within(edge, 1) * 0.4, "shrub")
        fields, c.image = c.image, scrub
        tilled = c.rng.random(PARCELS) < c.uniform(0.4, 0.9)
        c.paint(tilled[number].astype(np.float32), fields)


def broadleaf_forest(c: Canvas, p: Place, green: float) -> None:
    """Deciduous trees with some conifers and glades."""
    c.image = c.between("leafless_wood", "broadleaf", green)[:, None, None] + np.zeros_like(c.image)
    c.shade(c.noise(32, 4), 0.08)
    conifers = c.uniform(0, 0.35) if p.zone in "CD" else 0
    c.paint(c.share(c.noise(24, 4), conifers, 0.3) * 0.9, "conifer")
    c.shade(0.6 * c.noise(1.5) + 0.4 * c.noise(3), 0.11)
    glade = c.share(c.noise(20, 3), c.uniform(0, 0.15), 0.1)
    c.canopy = (0.45 + 0.1 * c.noise(2)) * (1 - glade)
    c.paint(glade, c.between("dry_grass", "green_grass", green))


def boreal_forest(c: Canvas, p: Place, green: float) -> None:
    """Conifers with muskeg, lakes, and clear cuts of different age."""
    c.fill("conifer", "broadleaf" if green > 0.4 else "leafless_wood", 0.12 + 0.15 * c.noise(40, 4))
    c.shade(0.7 * c.noise(1.4) + 0.4 * c.noise(3), 0.14)
    muskeg = c.share(c.noise(28, 5), c.uniform(0.05, 0.35), 0.25)
    c.paint(muskeg * 0.9, "bog")
    c.canopy = (0.82 + 0.08 * c.noise(1.4)).clip(0, 0.98) * (1 - 0.8 * muskeg)
    if c.chance(0.5):
        c.pattern = "clearings"
        number, _ = c.parcels(c.uniform(9, 16), c.uniform(10, 22), c.angle(), 1)
        cut = c.rng.random(PARCELS) < c.uniform(0.1, 0.35)
        colours = ["green_grass", "dry_grass", "shrub", "brown_soil"]
        c.paint(cut[number] * 0.85, colours[c.rng.integers(4)])
        track = c.line(1, 2) * 0.6
        c.paint(track, "gravel")
        c.canopy *= (1 - 0.9 * cut[number]) * (1 - track)
    if p.relief < 400 and c.chance(0.65):
        lakes = c.share(c.noise(36, 4, 0.45), c.uniform(0.04, 0.35), 0.08)
        c.flood(lakes, "humic_water")
        c.canopy *= 1 - lakes


def bog(c: Canvas, p: Place, green: float) -> None:
    """Strings of peat with pools between them, and stunted conifers."""
    c.fill("bog", "tundra", 0.5 + 0.3 * c.noise(32, 4))
    u, _ = c.rotated(c.angle(), 4)
    strings = np.sin(u * 2 * np.pi / c.uniform(4, 8) + 2 * c.noise(16, 3))
    c.flood(smoothstep(strings, 0.55, 0.9) * c.share(c.noise(24, 3), 0.5, 0.3), "humic_water")
    c.canopy = c.share(c.noise(24, 4), c.uniform(0.1, 0.4), 0.15) * 0.8
    c.paint(c.canopy, "conifer")


_ALL = [
    ice, tundra, alpine, sand_desert, stony_desert, irrigated, steppe, savanna, rainforest, forest_clearings,
    plantation, paddies, cropland, pasture, mediterranean, broadleaf_forest, boreal_forest, bog,
]  # fmt: skip
PAINTERS = {painter.__name__.replace("_", " "): painter for painter in _ALL}
