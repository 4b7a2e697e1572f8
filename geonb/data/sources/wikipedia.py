"""Read Wikipedia's articles with a position into a place store: from a table, or from its Action API.

Both count each article that is left out, with its reason. Texts and titles are untrusted: control
characters are removed, and addresses are made from page ids. Neither source has been tried over the
network; tests run on tables and a server in their formats.
"""

from __future__ import annotations

import math
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from geonb._util import tqdm
from geonb.data.sources.http import RETRY, session, usable
from geonb.data.sources.parts import Parts, Skips
from geonb.data.store import PlaceStore, write_store
from geonb.data.tables import swapped_hint
from geonb.data.texts import countries, duplicate_groups, text_signatures, why_no_place

HUB_TABLE, HUB_SNAPSHOT = "wikipedia-geotagged", "20260901"
HUB_FILES = "hf://datasets/yuiseki/wikipedia-geotagged/{snapshot}.{lang}/train-*.parquet"
API = "https://{lang}.wikipedia.org/w/api.php"
NEEDED = ("id", "title", "text", "lon", "lat")
ARTICLES = {  # columns of the hub's table that are read
    **dict.fromkeys(NEEDED, pa.string()),
    **dict.fromkeys(("lon", "lat"), pa.float64()),
    **dict.fromkeys(("revision", "qid", "gt_globe", "gt_type", "gt_country"), pa.string()),
    "gt_primary": pa.bool_(),  # whether the position is that of the article as a whole
}
BOX_LIMIT, FULL = 500, 450  # pages that a box gives; deleted ones are then taken out
TILE_KM, SMALLEST_KM = 17.0, 0.1  # the service accepts boxes of at most 400 km2
INTERVAL_S = 1.0  # before each request
PASSING = ("maxlag", "ratelimited", "readonly")  # errors of MediaWiki that end by themselves
KM_PER_DEGREE = 111.2
FACTS = ("place_id", "title", "lon", "lat", "country_code", "qid", "type", "text_chars")


def from_table(
    out: str | Path,
    source: str | Path,
    *,
    lang: str = "en",
    snapshot: str | None = None,
    bbox: Sequence[float] | None = None,
    min_chars: int = 50,
    places_only: bool = False,
    limit: int | None = None,
    simulated: bool = False,
) -> PlaceStore:
    """Make a place store of the articles in a Parquet table: of a country or the planet.

    Memory contains one row group; with a box, only those that may have positions in it are read.

    Args:
        out: the store's folder; parts lie in ``<out>.parts`` until it is complete.
        source: a file, a pattern, a hub path (``hf://datasets/OWNER/NAME/FILES.parquet``), or
            "wikipedia-geotagged" for https://huggingface.co/datasets/yuiseki/wikipedia-geotagged.
        lang, snapshot: of the texts, and the day of the dump (YYYYMMDD); they choose a known table.
        bbox: west, south, east, north in degrees; west > east for a box across the antimeridian.
        min_chars: shorter texts are left out.
        places_only: leave out people, events, organisations and lists, as `why_no_place` finds them.
        limit: only the first so many articles.
        simulated: whether the texts are simulated.

    Raises:
        ValueError: wrong options, missing columns, no article left, or as in :class:`Parts`.
        OSError: the table cannot be read.
    """
    name, source = Path(source).name, str(source)
    if source == HUB_TABLE:
        snapshot = snapshot or HUB_SNAPSHOT
        source = HUB_FILES.format(snapshot=snapshot, lang=lang)
    plan = _plan(
        f"Wikipedia, through the table {name}", lang, bbox, min_chars=min_chars, places_only=places_only,
        simulated=simulated, snapshot=snapshot, limit=limit,
    )  # fmt: skip
    inside = _inside(plan["bbox"]) if plan["bbox"] else None
    table, sizes, groups = _read(source, _open_table, source, inside)
    columns = [column for column in ARTICLES if column in table.schema.names]
    with Parts(out, plan | {"bytes": sizes}) as parts:
        done, rows = [], 0
        for number, group in enumerate(tqdm(groups, desc="articles", unit="row group")):
            done.append(name := f"{number:06d}")
            if name not in parts:
                articles = _read(source, group.to_table, table.schema, columns, inside)
                _save(parts, name, articles, Skips())
            rows += len(parts.table(name, ["place_id"]))
            if limit and rows >= limit:
                break
        return _write(parts, done)


def _inside(box: Sequence[float]) -> ds.Expression:
    west, south, east, north = box
    lon, lat = ds.field("lon"), ds.field("lat")
    between = (lon >= west) & (lon <= east) if west < east else (lon >= west) | (lon <= east)
    return between & (lat >= south) & (lat <= north)


def _open_table(source: str, inside: ds.Expression | None) -> tuple[ds.Dataset, list[int], list]:
    """Open a table; return also the sizes of its files, and the row groups that are needed."""
    import fsspec

    if "://" in source and not source.startswith("hf://"):
        raise ValueError("only the disk and the hub are read")
    filesystem, pattern = fsspec.url_to_fs(source)
    if not (files := sorted(filesystem.glob(pattern))):
        raise ValueError("there is no such file")
    table = ds.dataset(files, filesystem=filesystem, format="parquet")
    if missing := [column for column in NEEDED if column not in table.schema.names]:
        raise ValueError(f"no column {', '.join(missing)}; there are {', '.join(table.schema.names)}")
    if half := [column for column in ("lon", "lat") if pa.types.is_float16(table.schema.field(column).type)]:
        raise ValueError(f"{half[0]} is in half precision, which is off by kilometres")
    sizes = [file.size for file in table.filesystem.get_file_info(table.files)]
    return table, sizes, [group for file in table.get_fragments() for group in file.split_by_row_group(inside)]


def _read(source: str, function: Callable, *args: Any) -> Any:
    """Name the table that cannot be read; the libraries behind it share no class of errors."""
    try:
        return function(*args)
    except Exception as error:
        advice = "give a complete Parquet file, a pattern or a hub path, or download it elsewhere"
        raise OSError(f"{source}: cannot be read ({error}); {advice}") from error


def from_api(
    out: str | Path,
    *,
    bbox: Sequence[float],
    lang: str = "en",
    contact: str | None = None,
    text: str = "intro",
    min_chars: int = 50,
    places_only: bool = False,
    max_requests: int = 2000,
    endpoint: str | None = None,
    simulated: bool = False,
) -> PlaceStore:
    """Make a place store of the articles in a box, such as a town, from Wikipedia's Action API.

    Requests name a contact, come one after another with a pause of a second, and wait when the servers are
    behind (https://www.mediawiki.org/wiki/API:Etiquette).

    Args:
        out, bbox, min_chars, places_only, simulated: as in :func:`from_table`.
        lang: which Wikipedia.
        contact: your e-mail address or https page, sent and not stored; ``GEONB_CONTACT`` by default.
        text: "intro" (up to the first heading, 20 per request) or "full" (1 per request).
        max_requests: stop after so many; the same call with a higher number continues.
        endpoint: address of another service with the same interface.

    Raises:
        ValueError: no contact, wrong options, too many requests, an error of the service, no article
            left, or as in :class:`Parts`.
        OSError: the service refuses or is not reached.
    """
    url = endpoint or API.format(lang=lang)
    plan = _plan(
        f"Wikipedia, through {url}", lang, bbox, min_chars=min_chars, places_only=places_only,
        simulated=simulated, text=text,
    )  # fmt: skip
    if text not in ("intro", "full"):
        raise ValueError(f"text {text!r} must be intro or full")
    if not (contact := contact or os.environ.get("GEONB_CONTACT")):
        raise ValueError("Wikimedia asks for a contact, an e-mail address or https page; set GEONB_CONTACT")
    tiles = _tiles(plan["bbox"], TILE_KM)
    if len(tiles) > max_requests:
        raise ValueError(f"bbox needs {len(tiles):,} requests; max_requests is {max_requests:,}")
    service = _Service(url, contact, text, max_requests)
    with Parts(out, plan) as parts:
        done = []
        for number, tile in enumerate(tqdm(tiles, desc="search", unit="tile")):
            done += _search(service, parts, f"{number:06d}", tile, TILE_KM)
        return _write(parts, done)


def _search(service: _Service, parts: Parts, name: str, tile: tuple, km: float) -> list[str]:
    """Save the articles of a tile, or of its pieces if it is crowded; return the names of the parts."""
    if name in parts:
        return [name]
    last = km < SMALLEST_KM
    pages = service.pages(tile, everything=last)
    if len(pages) >= FULL and not last:
        pieces = enumerate(_tiles(tile, km / 2))
        return sum((_search(service, parts, f"{name}-{k}", piece, km / 2) for k, piece in pieces), [])
    skips = Skips()
    with usable(service.url):
        others = [repr(page["title"]) for page in pages if _lists_others(page)]
        articles = pa.Table.from_pylist([_article(page) for page in pages if not _lists_others(page)])
    skips.add("disambiguation page", next(iter(others), ""), len(others))
    skips.add("unknown, beyond the 500 pages that the service lists of a point", f"box {tile}", n=len(pages) >= FULL)
    _save(parts, name, articles, skips)
    return [name]


def _lists_others(page: dict) -> bool:
    return "disambiguation" in page.get("pageprops", {})


class _Service:
    """The Action API, asked one question at a time."""

    def __init__(self, url: str, contact: str, text: str, max_requests: int) -> None:
        self.url, self.client, self.left = url, session(contact), max_requests
        self.client.params = {
            "action": "query", "format": "json", "formatversion": 2, "maxlag": 5,
            "generator": "geosearch", "ggslimit": BOX_LIMIT,
            "prop": "extracts|coordinates|info|pageprops", "explaintext": 1, "exsectionformat": "plain",
            "exintro": 1 if text == "intro" else None, "exlimit": 20 if text == "intro" else 1,
            "coprop": "type|country|globe", "colimit": "max",
            "ppprop": "wikibase_item|disambiguation",
        }  # fmt: skip

    def pages(self, tile: tuple, everything: bool) -> list[dict]:
        """Ask for the pages in a tile; those of a crowded one lack texts, unless ``everything``."""
        west, south, east, north = tile
        asked = {"ggsbbox": f"{north:.6f}|{west:.6f}|{south:.6f}|{east:.6f}"}
        pages: dict[int, dict] = {}
        params: dict | None = asked
        while params is not None:
            answer = self.ask(params)
            with usable(self.url):
                for page in answer.get("query", {}).get("pages", []):
                    pages.setdefault(page["pageid"], {}).update(page)
                more = answer.get("continue") if everything or len(pages) < FULL else None
                params = None if more is None else asked | more
        return [pages[number] for number in sorted(pages)]

    def ask(self, params: dict) -> dict:
        while self.left:
            self.left -= 1
            time.sleep(INTERVAL_S)
            response = self.client.get(self.url, params=params)
            response.raise_for_status()
            with usable(self.url):
                answer = response.json()
                if not (error := answer.get("error")):
                    return answer
                code = error.get("code")
            if code not in PASSING:
                raise ValueError(f"{self.url}: the service says {error}")
            time.sleep(RETRY.get_retry_after(response.raw) or 5)
        raise ValueError("max_requests were made; the same call with more continues")


def _tiles(box: Sequence[float], km: float) -> list[tuple]:
    """Cut a box into boxes of at most ``km`` a side, none across the antimeridian."""
    west, south, east, north = box
    if west > east:
        return _tiles((west, south, 180.0, north), km) + _tiles((-180.0, south, east, north), km)
    tiles = []
    for low, high in _cut(south, north, km / KM_PER_DEGREE):
        widest = math.cos(math.radians(0 if low < 0 < high else min(abs(low), abs(high))))
        tiles += [(a, low, b, high) for a, b in _cut(west, east, km / KM_PER_DEGREE / widest)]
    return tiles


def _cut(first: float, last: float, longest: float) -> Iterator[tuple[float, float]]:
    return pairwise(np.linspace(first, last, math.ceil((last - first) / longest) + 1).tolist())


def _article(page: dict) -> dict:
    """Turn a page of the service into a row with the columns of :data:`ARTICLES`."""
    position = (page.get("coordinates") or [{}])[0]
    row = {f"gt_{name}": position.get(name) for name in ("globe", "type", "country", "primary")}
    row |= {"lon": position.get("lon"), "lat": position.get("lat")}
    row |= {"id": page["pageid"], "title": page["title"], "text": page.get("extract")}
    return row | {"revision": page.get("lastrevid"), "qid": page.get("pageprops", {}).get("wikibase_item")}


def _plan(source: str, lang: str, bbox: Sequence[float] | None, **others: Any) -> dict:
    """Check the options that both sources have, and make the plan of the parts from them."""
    if not re.fullmatch(r"[a-z]{2,12}(-[a-z]{1,12})*", lang):
        raise ValueError(f"lang {lang!r} is no language of a Wikipedia; give one such as en, de or pt")
    if bbox is not None:
        west, south, east, north = bbox = [float(value) for value in bbox]
        degrees = -180 <= west <= 180 and -180 <= east <= 180 and -90 <= south < north <= 90
        if not degrees or west == east:
            raise ValueError(f"bbox {bbox}: give west, south, east, north in degrees, south below north")
        lon, lat = np.meshgrid(np.linspace(west, east + 360 * (west > east), 5), np.linspace(south, north, 5))
        if hint := swapped_hint(np.stack([(lon.ravel() + 180) % 360 - 180, lat.ravel()], 1)):
            warnings.warn(f"bbox {bbox}: {hint}", stacklevel=3)
    return {"source": source, "lang": lang, "bbox": bbox, **others}


def _save(parts: Parts, name: str, articles: pa.Table, skips: Skips) -> None:
    """Check articles, and save those that remain as a part with their signatures."""
    lang, least = parts.plan["lang"], parts.plan["min_chars"]
    table = _clean(articles, lang, parts.plan["source"])
    lon, lat, chars = (table[column].to_numpy() for column in ("lon", "lat", "text_chars"))
    reasons = {
        "no page id": ~pc.match_substring_regex(table["id"], r"^[1-9]\d*$").to_numpy(),
        "no position, or one out of range": ~((np.abs(lon) <= 180) & (np.abs(lat) <= 90)),
        "not the article's own position": ~table["gt_primary"].fill_null(True).to_numpy(),
        "not on Earth": table["gt_globe"].fill_null("earth").to_numpy() != "earth",
        "position at 0, 0": (lon == 0) & (lat == 0),
        f"text of less than {least:,} characters": chars < max(1, least),
    }
    why = np.select(list(reasons.values()), list(reasons), "").astype(object)
    for row in np.flatnonzero(why == "") if parts.plan["places_only"] else ():
        title, text, kind = (table[column][row].as_py() for column in ("title", "text", "type"))
        kind = why_no_place(title, text, kind, lang)
        why[row] = f"not a place, but {kind}" if kind else ""
    for row in np.flatnonzero(why != ""):
        where = f"page {table['id'][row]}, {table['title'][row].as_py()!r}, at ({lon[row]:g}, {lat[row]:g})"
        skips.add(why[row], where)
    table = table.filter(pa.array(why == ""))
    parts.save(name, table, text_signatures(table["text"].to_pylist()), skips)


def _clean(articles: pa.Table, lang: str, source: str) -> pa.Table:
    """Give articles the columns of a store, without control characters and foreign addresses."""
    nulls = pa.chunked_array([pa.nulls(len(articles))])
    found = dict(zip(articles.column_names, articles.columns, strict=True))
    columns = {}
    for name, kind in ARTICLES.items():
        try:
            columns[name] = pc.cast(found.get(name, nulls), kind)
        except pa.ArrowException as error:
            raise ValueError(f"{source}: column {name}: give {kind}, not {found[name].type} ({error})") from None
    columns["type"], columns["country_code"] = columns.pop("gt_type"), columns.pop("gt_country")
    for name, allowed in (("id", ""), ("title", ""), ("text", "\t\n")):
        bare = pc.replace_substring_regex(columns[name].fill_null(""), rf"[^\P{{Cc}}{allowed}]", "")
        columns[name] = pc.utf8_trim_whitespace(bare)
    page = f"https://{lang}.wikipedia.org/?curid="
    columns["url"] = pc.binary_join_element_wise(page, columns["id"], "")
    columns["place_id"] = pc.binary_join_element_wise(f"{lang}wiki", columns["id"], "-")
    columns["lang"] = pa.repeat(lang, len(articles))
    return pa.table(columns | {"text_chars": pc.utf8_length(columns["text"])})


def _write(parts: Parts, names: list[str]) -> PlaceStore:
    """Write the store from its parts; only one part's texts are in memory at a time."""
    plan, skips = parts.plan, parts.skips()
    tables = [parts.table(name, list(FACTS)) for name in names]
    found = pa.concat_tables(tables or [pa.table({name: [] for name in FACTS})])
    first = np.unique(found["place_id"].to_numpy(), return_index=True)[1]
    chosen = np.isin(np.arange(len(found)), first)
    again = found["place_id"].to_numpy()[~chosen]
    skips.add("page listed twice", next(iter(again), ""), len(again))  # tiles share edges
    chosen &= np.cumsum(chosen) <= (plan.get("limit") or len(found))
    found = found.filter(pa.array(chosen)).combine_chunks()
    if not len(found):
        box = f"; is the order of {plan['bbox']} west, south, east, north?" if plan["bbox"] else ""
        raise ValueError(f"no article is left\n{skips}\nAsk for something else, in another folder{box}")
    skips.tell()
    if hint := swapped_hint(np.stack([found["lon"], found["lat"]], 1)):
        warnings.warn(hint, stacklevel=3)
    places = {name: found[name].combine_chunks() for name in FACTS}
    places["source"] = pa.repeat(plan["source"], len(found))
    places["license"] = pa.repeat("CC BY-SA 4.0", len(found))
    known = [countries().get(code, {}) for code in places["country_code"].to_pylist()]
    places["country"] = [country.get("name") for country in known]
    places["continent"] = [country.get("continent") for country in known]
    first = duplicate_groups(np.concatenate([parts.array(name) for name in names])[chosen])
    places["near_duplicate"] = places["place_id"].take(pa.array(first, mask=first < 0))
    masks = np.split(chosen, np.cumsum([len(table) for table in tables])[:-1])
    columns = ["place_id", "text", "lang", "revision", "url"]
    made = {"module": __name__, "begun": parts.date, "plan": plan, "left_out": dict(sorted(skips.counts.items()))}
    card = f"""# Wikipedia articles with a position

{"**The texts are simulated.**" if plan["simulated"] else ""}

- {len(found):,} articles of the Wikipedia in `{plan["lang"]}`, fetched on {parts.date} or later.
- Licence: CC BY-SA 4.0; `ATTRIBUTION.md` says how to credit the authors.
- Near-duplicates are marked. Whether positions are right was not checked.

```
{plan["source"]}, snapshot {plan.get("snapshot")}
{skips}
```
"""
    return write_store(
        parts.out, places=places, made=made, simulated={"text": plan["simulated"]}, datacard=card,
        texts=(parts.table(name, columns).filter(pa.array(mask)) for name, mask in zip(names, masks, strict=True)),
    )  # fmt: skip
