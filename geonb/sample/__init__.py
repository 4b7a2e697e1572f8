"""Make the Atlas sample: real places and facts with simulated observations, offline.

The table of facts in ``geonb/data/assets`` is made by ``scripts/make_facts.py`` (climate:
Rubel et al., 2017, doi:10.1127/metz/2016/0816). Texts are composed and images simulated
from the facts, so it is known which modalities can tell each of them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache, partial
from importlib.resources import files
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from geonb._util import is_missing, tqdm
from geonb.data import landscape
from geonb.data.sampling import density_weights, weighted_sample
from geonb.data.store import Images, PlaceStore, StoreError, write_store
from geonb.data.texts import countries as load_countries
from geonb.sample.images import COLUMNS, simulate_sentinel2
from geonb.sample.texts import WORDINGS, by_least, compose

IMAGES_PER_CHUNK = 64  # simulated by one process at a time
CELL_KM = 300  # of the density-aware choice of places
LARGE, LARGE_WEIGHT = 300_000, 3.0  # inhabitants; larger places are so much likelier
# Chances that a place has a text and an image. Land points have no text.
TOWN_TEXT, TOWN_IMAGE, LAND_IMAGE = 0.92, 0.80, 0.75
LAND_SOURCE = "random point on land (global-land-mask 1.0.0)"
TEXT_SOURCE = "written from facts by geonb.sample.texts"
ASSETS = files("geonb.sample") / "assets"
#: The facts of the sample: kind, units, the modalities that can tell them, source.
FACTS: dict[str, dict] = yaml.safe_load((ASSETS / "facts.yaml").read_text(encoding="utf-8"))


def make_atlas(out: str | Path, places: int = 8000, seed: int = 0, progress: bool = True) -> PlaceStore:
    """Make a place store of real facts, composed texts, simulated Sentinel-2 and real landscape chips.

    About a fifth of the places are land points far from any town, without a text.
    The same arguments give the same store, to the hash.

    Args:
        out: the folder to make; it must not exist, or be empty.
        places: number of places, from 10 to the length of the table of facts.
        seed: of the choice of places, missing modalities, wordings and images.
        progress: show a progress bar.

    Raises:
        StoreError: too few or too many places, an existing folder, or too little disk.
    """
    table, countries = load_facts()
    total = len(table["lon"])
    if not 10 <= places <= total:
        raise StoreError(f"places must lie between 10 and {total:,}, not {places}")
    chosen = _choose(table, places, seed)
    facts = {name: values[chosen] for name, values in table.items()}
    home = [countries[code] for code in facts["country_code"]]
    facts["language"] = np.array([(c["languages"] or [None])[0] for c in home], object)
    facts["currency"] = np.array([c["currency"] for c in home], object)
    town = facts["geonameid"] > 0
    u, v = np.random.default_rng([seed, len(town)]).random((2, len(town)))
    has_text, has_image = town & (u < TOWN_TEXT), v < np.where(town, TOWN_IMAGE, LAND_IMAGE)
    rows = np.flatnonzero(has_image)
    columns = {name: values for name, values in facts.items() if name not in ("name", "geonameid")}
    return write_store(
        out,
        places=columns | {"title": facts["name"]},
        texts=_texts(facts, home, np.flatnonzero(has_text), seed),
        images={
            "sentinel2": Images(_images(facts, rows, seed, progress), rows),
            "landscape": landscape.images(np.stack([facts["lon"], facts["lat"]], 1)),
        },
        facts=FACTS,
        simulated={"text": True, "sentinel2": True},
        made={"function": "geonb.sample.make_atlas", "options": {"places": places, "seed": seed}},
        datacard=lambda finished: _datacard(finished, has_text, has_image, seed),
    )


@cache
def load_facts() -> tuple[dict[str, np.ndarray], dict[str, dict]]:
    """Load the columns (n,) of the table of facts, and the countries by ISO 3166 code.

    Do not change the arrays. Numbers are float64 with NaN, names are str with None.
    """
    with (files("geonb.data") / "assets" / "facts.parquet").open("rb") as facts:
        table = pq.read_table(facts)
    columns = {name: table[name].to_numpy() for name in table.column_names}
    for name, values in columns.items():
        if values.dtype.kind in "iuf":
            columns[name] = values.astype(float).round(4)
    number, lon, lat = (columns[name] for name in ("geonameid", "lon", "lat"))
    columns["place_id"] = np.array([
        f"geonames-{int(n)}" if n > 0 else f"land{y:+.4f}{x:+.4f}"
        for n, x, y in zip(number, lon, lat, strict=True)
    ], object)  # fmt: skip
    sizes, people = WORDINGS["sizes"], columns["population"]
    classes = [by_least(sizes, n)[0] if n > 0 else None for n in people]
    columns["size_class"] = np.array(classes, object)
    sources = np.where(number > 0, FACTS["country"]["source"], LAND_SOURCE)
    columns["source"] = sources.astype(object)
    columns["license"] = np.full(len(number), "CC BY 4.0", object)
    return columns, load_countries()


def _choose(table: dict[str, np.ndarray], places: int, seed: int) -> np.ndarray:
    """Draw sorted rows: towns thinned by density, land points evenly by area."""
    town = table["geonameid"] > 0
    lonlat = np.stack([table["lon"], table["lat"]], 1)[town]
    land_count = round(places * float((~town).mean()))
    weights = np.zeros(len(town))
    larger = np.where(table["population"][town] >= LARGE, LARGE_WEIGHT, 1.0)
    weights[town] = np.sqrt(density_weights(lonlat, CELL_KM)) * larger
    towns = weighted_sample(weights, places - land_count, seed)
    land = weighted_sample((~town).astype(float), land_count, seed + 1)
    return np.sort(np.concatenate([towns, land]))


def _texts(facts: dict, home: list[dict], rows: np.ndarray, seed: int) -> dict[str, list]:
    texts, mentioned = [], []
    for row in rows:
        place = {name: None if is_missing(v[row]) else v[row] for name, v in facts.items()}
        text, names = compose(place, home[row], seed)
        texts.append(text)
        mentioned.append(names)
    columns = {"place_id": list(facts["place_id"][rows]), "text": texts, "facts": mentioned}
    same = {"lang": "en", "license": "CC BY 4.0", "source": TEXT_SOURCE}
    return columns | {name: [value] * len(rows) for name, value in same.items()}


def _images(facts: dict, rows: np.ndarray, seed: int, progress: bool) -> Iterator[tuple[np.ndarray, dict]]:
    """Simulate chunks of images with their facts, in order, on all cores."""
    parts = [rows[i : i + IMAGES_PER_CHUNK] for i in range(0, len(rows), IMAGES_PER_CHUNK)]
    tasks = [{name: facts[name][part] for name in COLUMNS} for part in parts]
    simulate = partial(simulate_sentinel2, seed=seed)
    workers = min(len(tasks), os.cpu_count() or 1)
    bar = tqdm(total=len(rows), desc="simulated images", unit="image", disable=not progress)
    with bar, ExitStack() as stack:
        results = map(simulate, tasks)
        if workers > 1 and sys.platform.startswith("linux"):
            with warnings.catch_warnings():
                # workers only use NumPy; no lock is taken over
                warnings.simplefilter("ignore", DeprecationWarning)
                fork = multiprocessing.get_context("fork")
                pool = stack.enter_context(fork.Pool(workers, _start_worker))
            results = pool.imap(simulate, tasks)
        for images, image_facts in results:
            yield images, image_facts
            bar.update(len(images))


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and end at its SIGTERM, by which a pool ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The handler of the command line would run only when Python goes on, and a worker may wait in C for ever.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _datacard(places: pa.Table, has_text: np.ndarray, has_image: np.ndarray, seed: int) -> str:
    continent, nothing = np.array(places["continent"]), ~(has_text | has_image)
    kinds = has_text & has_image, has_text & ~has_image, has_image & ~has_text, nothing
    counts = []
    for name in [*sorted(set(continent)), "all"]:
        here = (continent == name) | (name == "all")
        numbers = [here.sum(), *((here & kind).sum() for kind in kinds)]
        counts.append(" | ".join([f"| {name}", *(f"{n:,}" for n in numbers)]) + " |")
    missing = [f"{n} ({places[n].null_count:,})" for n in FACTS if places[n].null_count]
    card = (ASSETS / "datacard.md").read_text(encoding="utf-8")
    return card.format(count=len(places), seed=seed, counts="\n".join(counts), missing=", ".join(missing))
