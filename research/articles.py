"""Read the real articles of the folder that ``GEONB_REAL_DATA`` names, clean them and write a place store.

What is cleaned: markup, empty texts, positions without a number or on a zero meridian by mistake, positions
that have lost a sign, and near-duplicates. How many of each is in the store's manifest.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.spatial import KDTree

from geonb.data.store import PlaceStore, write_store
from geonb.data.texts import countries, duplicate_groups, text_signatures
from geonb.geo import EARTH_RADIUS_KM, unit_xyz
from geonb.sample import load_facts

FEWEST_CHARS = 40
NEAR_KM = 300.0  # of the gazetteer's places whose country and region a text may name
WIKIPEDIA = "CC BY-SA 3.0 (Wikipedia contributors)"
FILES = {
    "wikipedia_places.csv.gz": ("Wikipedia introductions, through YAGO 3 (2020)", WIKIPEDIA),
    "wikipedia_towns.csv.gz": ("Wikipedia, through WikToR (2016)", WIKIPEDIA),
    "wikivoyage.parquet": ("Wikivoyage (2015)", "CC BY-SA 3.0 (Wikivoyage contributors)"),
    "world_heritage.csv": ("UNESCO World Heritage List (2019)", "CC BY-SA 3.0 IGO (UNESCO World Heritage Centre)"),
}
HERITAGE = FILES["world_heritage.csv"][0]
_MARKUP = [
    (re.compile(r"<[^>]*>|\{\{[^}]*\}\}|\{\{.*$|'{2,}|={2,}|https?://\S+"), " "),
    (re.compile(r"\[\[(?:[^|\]]*\|)?([^\]]*)\]\]"), r"\1"),
    (re.compile(r"[\[\]*]"), " "),
]
# Headings of Wikivoyage, which stand in the text without a space after them.
_HEADING = (
    r"(?:Understand|Get in|Get around|Get out|See|Do|Buy|Eat|Drink|Sleep|Stay safe|Contact|Connect|By bus|By car"
    r"|By train|By plane|By boat|Cities|Other destinations|Districts|Talk|Regions|Learn|Work|Cope|Respect|History)"
)
_HEADINGS = re.compile(rf"(?:(?<=[.!?a-z)])|(?<=\s)|^){_HEADING}(?=[A-Z]|$|{_HEADING})")


def real_data() -> Path:
    """Return the folder that ``GEONB_REAL_DATA`` names; SystemExit if it has no articles."""
    folder = Path(os.environ.get("GEONB_REAL_DATA", "GEONB_REAL_DATA is not set"))
    if lacking := [name for name in FILES if not (folder / "places_text" / name).exists()]:
        raise SystemExit(f"{folder}: no places_text/{lacking[0]}; set GEONB_REAL_DATA to the folder of the real data")
    return folder


def articles(out: Path) -> PlaceStore:
    """Write the cleaned articles to the place store ``out``, or open it if it is there."""
    if out.exists():
        return PlaceStore.open(out)
    tables = [_read(real_data() / "places_text" / name, *of) for name, of in FILES.items()]
    table, counts = clean(pd.concat(tables, ignore_index=True))
    place_id = [f"article-{i}" for i in range(len(table))]
    columns = {name: table[name].tolist() for name in ("title", "source", "license", "lon", "lat")}
    texts = {"place_id": place_id, "lang": ["en"] * len(table)}
    return write_store(
        out,
        places={"place_id": place_id} | columns,
        texts=texts | {name: table[name].tolist() for name in ("text", "source", "license")},
        simulated={"location": False, "text": False},
        made={"function": "research/articles.py", "options": counts},
        datacard=f"# Real articles\n\nRead, and left out for the reason that is named: {counts}\n",
    )


def _read(path: Path, source: str, license: str) -> pd.DataFrame:
    table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    if "lang" in table:
        table = table[table["lang"] == "en"]
    title = next(name for name in ("title", "name", "name_en") if name in table)
    renamed = table.rename(columns={title: "title", "longitude": "lon", "latitude": "lat"})
    return renamed[["title", "lon", "lat", "text"]].assign(source=source, license=license)


def clean(table: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """Clean articles with columns title, lon, lat, text; return them with counts of what was done."""
    table = table.assign(text=table["text"].map(without_markup), title=table["title"].fillna("").astype(str))
    counts = {"read": len(table)}
    short = table["text"].str.len() < FEWEST_CHARS
    # A number is never exactly 0 but by mistake: Sydney stands at (0, 0).
    possible = table["lon"].between(-180, 180) & table["lat"].between(-90, 90)
    nowhere = ~possible | (table["lon"] == 0) | (table["lat"] == 0)
    table = table[~short & ~nowhere].reset_index(drop=True)
    counts |= {"too short": int(short.sum()), "without a position": int((nowhere & ~short).sum())}

    lonlat, fixed, doubtful = with_signs(table[["lon", "lat"]].to_numpy(), table["title"] + " " + table["text"])
    table = table.assign(lon=lonlat[:, 0], lat=lonlat[:, 1])[~doubtful].reset_index(drop=True)
    counts |= {"signs restored": int(fixed.sum()), "far from land, and no text says where": int(doubtful.sum())}

    group = duplicate_groups(text_signatures(table["text"]))
    again = (group >= 0) & (group != np.arange(len(table)))
    counts |= {"near-duplicates": int(again.sum()), "kept": int((~again).sum())}
    return table[~again].reset_index(drop=True), counts


def without_markup(text: object) -> str:
    """Remove the leftovers of markup and headings from a text; "" for what is none.

    Example:
        >>> without_markup("'''Vasto''' is in [[Abruzzo|the Abruzzi]].Get inGet aroundBy train")
        'Vasto is in the Abruzzi .'
    """
    if not isinstance(text, str):
        return ""
    for pattern, instead in _MARKUP:
        text = pattern.sub(instead, text)
    return re.sub(r"\s+", " ", _HEADINGS.sub(" ", text)).strip()


def with_signs(lonlat: np.ndarray, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Restore signs that positions (n, 2), degrees, have lost, by the countries and regions that texts name.

    A position is mirrored if its text names no country or region within 300 km of it, and one within 300 km
    of exactly one mirror image.

    Returns:
        positions (n, 2); which were mirrored (n,); which are far from every gazetteer place, and their text
        names no country or region near any image (n,).
    """
    facts, by_code = load_facts()[0], countries()
    tree = KDTree(unit_xyz(np.stack([facts["lon"], facts["lat"]], 1)))
    region = [{str(name)} - {"None", "nan", ""} for name in facts["admin1_name"]]
    country = [{by_code[code]["name"]} if code in by_code else set() for code in facts["country_code"]]

    images, named = [lonlat * signs for signs in ((1, 1), (-1, 1), (1, -1), (-1, -1))], []
    for image in images:
        chord, rows = tree.query(unit_xyz(image), k=8)
        near = chord * EARTH_RADIUS_KM <= NEAR_KM
        names = [set().union(*(country[r] | region[r] for r in row[ok])) for row, ok in zip(rows, near, strict=True)]
        named.append([any(name in text for name in some) for some, text in zip(names, texts, strict=True)])
    named, far = np.array(named), tree.query(unit_xyz(lonlat))[0] * EARTH_RADIUS_KM > NEAR_KM
    mirrored = ~named[0] & (named[1:].sum(0) == 1)
    which = np.where(mirrored, named[1:].argmax(0) + 1, 0)
    return np.stack(images)[which, np.arange(len(lonlat))], mirrored, far & ~named.any(0)
