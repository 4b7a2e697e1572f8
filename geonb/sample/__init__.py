"""The Atlas sample: real places with real facts, and simulated observations of them; it needs no network.

Places and facts come from a table that ships with the package (``geonb/data/assets``, made by
``scripts/make_facts.py``; its climate is the map of Rubel et al., 2017, doi:10.1127/metz/2016/0816). Texts are
composed from the facts (:mod:`geonb.sample.texts`) and images are simulated from them (:mod:`geonb.sample.images`).
So the sample is a controlled experiment: for each fact it is known whether texts, images, both or neither can tell it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from geonb._util import tqdm
from geonb.data.sampling import density_weights, weighted_sample
from geonb.data.store import PlaceStore, StoreError, write_store
from geonb.data.texts import countries as load_countries
from geonb.sample.images import COLUMNS, simulate_sentinel2
from geonb.sample.texts import WORDINGS, by_least, compose

IMAGES_PER_CHUNK = 64  # simulated by one process at a time
CELL_KM = 300  # of the density-aware choice of places
LARGE, LARGE_WEIGHT = 300_000, 3.0  # places with so many inhabitants are so much likelier to be chosen
# Chances that a place has a text and an image. Land points have no text.
TOWN_TEXT, TOWN_IMAGE, LAND_IMAGE = 0.92, 0.80, 0.75
ASSETS = files("geonb.sample") / "assets"
#: The facts of the sample: kind, units, the modalities that can tell them, source.
FACTS: dict[str, dict] = yaml.safe_load((ASSETS / "facts.yaml").read_text(encoding="utf-8"))


def make_atlas(out: str | Path, places: int = 8000, seed: int = 0, progress: bool = True) -> PlaceStore:
    """Make the Atlas sample: a place store of real places and facts, composed texts and simulated images.

    About a fifth of the places are land points far from any town, which have no text. The towns are thinned where the
    gazetteer is dense. The same arguments give the same store, to the hash, on one process or several.

    Args:
        out: the folder to make; it must not exist, or be empty.
        places: number of places, at most the length of the table of facts.
        seed: of the choice of places, of missing modalities, of the wording and of the images.
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
    chosen = _choose(table, places, seed)
    facts = {name: values[chosen] for name, values in table.items()}
    has_text, has_image = _modalities(facts, seed)
    home = [countries[code] for code in facts["country_code"]]
    facts["language"] = _objects(c["languages"][0] if c["languages"] else None for c in home)
    facts["currency"] = _objects(c["currency"] for c in home)
    rows = np.flatnonzero(has_image)
    columns = {name: values for name, values in facts.items() if name not in ("name", "geonameid")}
    return write_store(
        out,
        places=columns | {"title": facts["name"]},
        texts=_texts(facts, home, np.flatnonzero(has_text), seed),
        images=_images(facts, rows, seed, progress),
        image_rows=rows,
        facts=FACTS,
        simulated={"location": False, "text": True, "image": True},
        made={"function": "geonb.sample.make_atlas", "options": {"places": places, "seed": seed}},
        datacard=lambda finished: _datacard(finished, has_text, has_image, seed),
    )


@cache
def load_facts() -> tuple[dict[str, np.ndarray], dict[str, dict]]:
    """Load the table of facts as columns (n,), which are not to be changed, and the countries by ISO 3166 code.

    Numbers are float64 with NaN, names are str with None. ``place_id``, ``size_class``, ``source`` and ``license``
    are added.
    """
    with (files("geonb.data") / "assets" / "facts.parquet").open("rb") as facts:
        table = pq.read_table(facts)
    columns: dict[str, np.ndarray] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
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
    town, sizes = _is_town(columns), WORDINGS["sizes"]
    columns["size_class"] = _objects(by_least(sizes, p)[0] if p == p else None for p in columns["population"])
    geonames = FACTS["country"]["source"]
    columns["source"] = np.where(town, geonames, "random point on land (global-land-mask 1.0.0)").astype(object)
    columns["license"] = np.full(len(town), "CC BY 4.0", dtype=object)
    return columns, load_countries()


def _choose(table: dict[str, np.ndarray], places: int, seed: int) -> np.ndarray:
    """Draw rows of the table of facts, sorted: towns thinned by density, land points evenly by area."""
    town = _is_town(table)
    lonlat = np.stack([table["lon"], table["lat"]], 1)[town]
    land_count = round(places * float((~town).mean()))
    weights = np.zeros(len(town))
    larger = np.where(table["population"][town] >= LARGE, LARGE_WEIGHT, 1.0)
    weights[town] = np.sqrt(density_weights(lonlat, CELL_KM)) * larger
    towns = weighted_sample(weights, places - land_count, seed)
    return np.sort(np.concatenate([towns, weighted_sample((~town).astype(float), land_count, seed + 1)]))


def _is_town(table: dict[str, np.ndarray]) -> np.ndarray:
    return np.array([name is not None for name in table["name"]])


def _modalities(facts: dict[str, np.ndarray], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw which places have a text, and which an image."""
    town = _is_town(facts)
    u, v = np.random.default_rng([seed, len(town)]).random((2, len(town)))
    return town & (u < TOWN_TEXT), v < np.where(town, TOWN_IMAGE, LAND_IMAGE)


def _texts(facts: dict, home: list[dict], rows: np.ndarray, seed: int) -> dict[str, list]:
    places = [{k: None if v[row] != v[row] else v[row] for k, v in facts.items()} for row in rows]
    composed = [compose(place, home[row], seed) for place, row in zip(places, rows, strict=True)]
    texts, mentioned = zip(*composed, strict=True)
    same = {"lang": "en", "license": "CC BY 4.0", "source": "written from facts by geonb.sample.texts"}
    columns = {"place_id": list(facts["place_id"][rows]), "text": list(texts), "facts": list(mentioned)}
    return columns | {name: [value] * len(rows) for name, value in same.items()}


def _images(facts: dict, rows: np.ndarray, seed: int, progress: bool) -> Iterator[tuple[np.ndarray, dict]]:
    """Simulate chunks of images with their facts, in order, in as many processes as there are cores."""
    parts = [rows[start : start + IMAGES_PER_CHUNK] for start in range(0, len(rows), IMAGES_PER_CHUNK)]
    tasks = [({name: facts[name][part] for name in COLUMNS}, seed) for part in parts]
    workers = min(len(tasks), os.cpu_count() or 1)
    with ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=len(rows), desc="simulated images", unit="image", disable=not progress))
        results = map(_simulate, tasks)
        if workers > 1 and sys.platform.startswith("linux"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # workers only use NumPy; no lock is taken over
                fork = multiprocessing.get_context("fork")
                pool = stack.enter_context(fork.Pool(workers, signal.signal, (signal.SIGINT, signal.SIG_IGN)))
            results = pool.imap(_simulate, tasks)
        for images, image_facts in results:
            yield images, image_facts
            bar.update(len(images))


def _simulate(task: tuple[dict, int]) -> tuple[np.ndarray, dict]:
    facts, seed = task
    return simulate_sentinel2(facts, seed=seed)


def _objects(values: Iterable) -> np.ndarray:
    """An object array (n,) of str and None, without NumPy guessing a type."""
    return np.array([*values, None], dtype=object)[:-1]


def _datacard(places: pa.Table, has_text: np.ndarray, has_image: np.ndarray, seed: int) -> str:
    continent = np.array(places["continent"].to_pylist(), dtype=object)
    lines = []
    kinds = (has_text & has_image, has_text & ~has_image, has_image & ~has_text, ~has_image & ~has_text)
    for name in [*sorted(set(continent)), "all"]:
        here = (continent == name) | (name == "all")
        cells = " | ".join(f"{(here & kind).sum():,}" for kind in kinds)
        lines.append(f"| {name} | {here.sum():,} | {cells} |")
    by = {"Only texts": ["text"], "Only images": ["image"], "Both": ["text", "image"]}
    tellers = {who: [n for n, f in FACTS.items() if f["modalities"] == kinds] for who, kinds in by.items()}
    return (ASSETS / "datacard.md").read_text(encoding="utf-8").format(
        count=len(places),
        seed=seed,
        counts="\n".join(lines),
        tellers="\n".join(f"- {who} can tell: {', '.join(names)}." for who, names in tellers.items()),
        missing=", ".join(f"{n} ({places[n].null_count:,})" for n in FACTS if places[n].null_count),
    )  # fmt: skip
