"""Wikipedia's articles with a position into a place store, from a table or from Wikipedia itself.

- :func:`from_table` reads a Parquet table, on the disk or on the Hugging Face hub: for a country or the planet. The
  known table is https://huggingface.co/datasets/yuiseki/wikipedia-geotagged, made from Wikipedia's dumps.
- :func:`from_api` asks Wikipedia's Action API (extensions GeoData and TextExtracts): for an area of a workshop's size.

Both make tables of :data:`ARTICLES`, a part at a time. Each part is checked, and each article that is left out is
counted with its reason. Parts are kept until the store is complete, so the same call continues a stopped one.

Texts and titles are untrusted: control characters are removed, addresses that are not Wikipedia's are replaced, and the
data card quotes titles as code. Texts are under CC BY-SA 4.0; title, address and revision stay with each of them.

Neither source has been tried over the network; tests run on tables and a loopback server in their formats.
"""

from __future__ import annotations

import glob
import math
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files as package_files
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from geonb._util import tqdm
from geonb.data.sources.http import find_contact, session
from geonb.data.sources.parts import Parts, Skips
from geonb.data.store import PlaceStore, write_store
from geonb.data.texts import duplicate_groups, text_signatures, why_no_place

ARTICLES = pa.schema(
    [
        ("page_id", pa.int64()),
        ("title", pa.string()),
        ("text", pa.string()),
        ("lon", pa.float64()),
        ("lat", pa.float64()),
        ("globe", pa.string()),  # of the position; missing means Earth
        ("primary", pa.bool_()),  # whether the position is that of the article as a whole; missing means yes
        ("url", pa.string()),
        ("revision", pa.string()),
        ("qid", pa.string()),  # of Wikidata
        ("type", pa.string()),  # of the position, such as "city"
        ("country_code", pa.string()),  # ISO 3166-1 alpha-2
    ]
)
HUB_TABLES = {"wikipedia-geotagged": ("yuiseki/wikipedia-geotagged", "20260901")}  # name -> repository, snapshot
HUB_COLUMNS = {
    "page_id": "id",
    "globe": "gt_globe",
    "primary": "gt_primary",
    "type": "gt_type",
    "country_code": "gt_country",
}
LICENSE = "CC BY-SA 4.0"
LICENSE_URL = "https://creativecommons.org/licenses/by-sa/4.0/"
MAX_CHARS = 300_000
MAX_GROUP_BYTES = 2 << 30  # of a row group, which is read at once

BOX_LIMIT, FULL = 500, 450  # a box gives at most 500 pages, from which deleted ones are then taken out
TILE_KM = 17.0  # the service accepts boxes of at most 400 km2
SMALLEST_KM = 0.1
INTERVAL_S = 1.0  # between the starts of two requests
PASSING = ("maxlag", "ratelimited", "readonly")  # errors of MediaWiki that end by themselves
CROWDED = "the service lists no more than 500 pages of a box of 100 m (a box, not an article)"
KM_PER_DEGREE = 111.2


# --- the table ----------------------------------------------------------------------------------------


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
    """Make a place store of the articles in a Parquet table.

    Of the table only the columns of :data:`ARTICLES` are read, and with a box only the row groups that may have
    positions in it; memory holds one row group at a time.

    Args:
        out: the store's folder. Parts lie in ``<out>.parts`` until it is complete.
        source: a file, a pattern of files, a hub path (``hf://datasets/OWNER/NAME/FILES.parquet``), or a name in
            `HUB_TABLES`.
        lang: of the texts; for a name in `HUB_TABLES` also which table ("en" or "ja").
        snapshot: day of the dump (YYYYMMDD) for the data card; for a name in `HUB_TABLES` also which table.
        bbox: west, south, east, north in degrees; west > east for a box across the antimeridian.
        min_chars: shorter texts are left out.
        places_only: leave out people, events, organisations and lists (:func:`geonb.data.texts.why_no_place`).
        limit: only the first so many articles.
        simulated: whether the texts are, as those of :mod:`geonb.practice`; the store says so.

    Raises:
        ValueError: wrong options, a table without the needed columns, no article left, or as in :class:`Parts`.
        OSError: the table cannot be read or the hub is not reached; finished parts are kept.
    """
    plan = _plan("table", lang, bbox, min_chars, places_only, simulated)
    shown = Path(source).name
    if source in HUB_TABLES:
        shown, (repository, newest) = str(source), HUB_TABLES[str(source)]
        snapshot = snapshot or newest
        source = f"hf://datasets/{repository}/{snapshot}.{lang}/train-*.parquet"
    inside = None if plan["bbox"] is None else _inside(plan["bbox"])
    with _readable(source):
        table = _open_table(str(source))
        files = table.filesystem.get_file_info(table.files)
        groups = [group for file in table.get_fragments() for group in file.split_by_row_group(inside, table.schema)]
    names = {role: HUB_COLUMNS.get(role, role) for role in ARTICLES.names}
    columns = {role: ds.field(name) for role, name in names.items() if name in table.schema.names}
    if missing := [names[role] for role in ("page_id", "title", "text", "lon", "lat") if role not in columns]:
        raise ValueError(f"{source}: no column {', '.join(missing)}; there are {', '.join(table.schema.names)}")
    plan |= {"snapshot": snapshot, "limit": limit, "files": [[Path(file.path).name, file.size] for file in files]}
    with Parts(out, plan) as parts:
        done, rows = [], 0
        for number, group in enumerate(tqdm(groups, desc="articles", unit="row group")):
            part = f"{number:06d}"
            if part not in parts:
                if (size := group.row_groups[0].total_byte_size) > MAX_GROUP_BYTES:
                    raise ValueError(f"{group.path}: a row group of {size / 1e9:.1f} GB; write smaller ones")
                with _readable(source):
                    articles = group.to_table(table.schema, columns, inside)
                _save(parts, part, articles)
            done.append(part)
            rows += len(parts.table(part, ["page_id"]))
            if limit and rows >= limit:
                break
        notes = [] if "revision" in columns else ["Revisions: the texts are those of the table's snapshot."]
        return _write(parts, done, f"Wikipedia, through the table {shown}", "from_table", notes)


def _open_table(source: str) -> ds.Dataset:
    if source.startswith("hf://"):
        from huggingface_hub import HfFileSystem

        hub: Any = HfFileSystem()
        files = sorted(hub.glob(source))
    elif "://" in source:
        raise ValueError("give a file, a pattern of files, or a hub path (hf://datasets/...)")
    else:
        hub = None
        files = [source] if Path(source).is_file() else sorted(glob.glob(source, recursive=True))
    if not files:
        raise ValueError("there is no such file")
    return ds.dataset(files, filesystem=hub, format="parquet")


@contextmanager
def _readable(source: str | Path) -> Iterator[None]:
    """Say which table cannot be read and what to do; the libraries behind it have no common error."""
    try:
        yield
    except Exception as error:
        todo = "is it a complete Parquet file?"
        if str(source).startswith("hf://"):
            page = "/".join(str(source).split("/")[2:5])
            todo = f"without a network, download it from https://huggingface.co/{page} elsewhere and give its path"
        raise OSError(f"{source}: cannot be read ({error}); {todo}") from error


def _inside(box: Sequence[float]) -> ds.Expression:
    west, south, east, north = box
    lon, lat = ds.field("lon"), ds.field("lat")
    across = (lon >= west) & (lon <= east) if west < east else (lon >= west) | (lon <= east)
    return across & (lat >= south) & (lat <= north)


# --- the API ------------------------------------------------------------------------------------------


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
    """Make a place store of the articles in a box, from Wikipedia itself.

    The box is cut into tiles that the service accepts, and a tile with more articles than it lists is halved. As
    Wikipedia's rules ask (https://www.mediawiki.org/wiki/API:Etiquette), requests name a contact, follow one another a
    second apart, and pause when its servers are behind (``maxlag``).

    Args:
        out, bbox, min_chars, places_only, simulated: as in :func:`from_table`.
        lang: which Wikipedia.
        contact: an e-mail address or https page of the person who runs this, else ``GEONB_CONTACT``. It is sent, and
            not stored.
        text: "intro" (up to the first heading, 20 a request) or "full" (1 a request).
        max_requests: stop after so many; a call with a higher number continues.
        endpoint: address of another service with the same interface, for practice.

    Raises:
        ValueError: no contact, wrong options, an area that needs too many requests, an error of the service, no
            article left, or as in :class:`Parts`.
        OSError: the service refuses or is not reached; finished parts are kept.
    """
    plan = _plan("api", lang, bbox, min_chars, places_only, simulated)
    if text not in ("intro", "full"):
        raise ValueError(f"text {text!r} must be intro or full")
    client = session(find_contact(contact))
    tiles = _tiles(plan["bbox"])
    if len(tiles) > max_requests:
        raise ValueError(
            f"bbox {plan['bbox']} needs {len(tiles):,} requests or more, about {len(tiles) / 60:,.0f} minutes, but "
            f"max_requests is {max_requests:,}; give a smaller box, allow more, or take the table"
        )
    service = _Service(client, endpoint or f"https://{lang}.wikipedia.org/w/api.php", max_requests)
    with Parts(out, plan | {"text": text, "endpoint": service.url}) as parts:
        done = []
        todo = [(f"{number:06d}", tile) for number, tile in enumerate(tiles)][::-1]
        with tqdm(total=len(todo), desc="search", unit="tile") as bar:
            while todo:
                part, tile = todo.pop()
                if part not in parts:
                    pages = service.pages(tile, text)
                    if len(pages) >= FULL and (halves := _halves(tile)):
                        todo += [(f"{part}-{half}", halves[half]) for half in (1, 0)]
                        bar.total += 1
                        continue
                    skips = Skips()
                    skips.add(CROWDED, f"at {tile}", int(len(pages) >= FULL))
                    rows = [row for _, page in sorted(pages.items()) if (row := _article(page, skips))]
                    _save(parts, part, pa.Table.from_pylist(rows, ARTICLES), skips)
                done.append(part)
                bar.update()
        notes = ["Revisions: they are those of the day; the service may have prepared a text a little earlier."]
        return _write(parts, done, f"Wikipedia, through {service.url}", "from_api", notes)


class _Service:
    """The Action API, asked one question at a time; counts the requests."""

    def __init__(self, client: Any, url: str, max_requests: int) -> None:
        self.client, self.url, self.max_requests = client, url, max_requests
        self.asked, self.next = 0, 0.0

    def pages(self, tile: tuple, text: str) -> dict[int, dict]:
        """Ask for the pages in a tile, by page id; for those of a crowded tile without all of their texts."""
        west, south, east, north = tile
        params = {
            "generator": "geosearch", "ggsbbox": f"{north:.6f}|{west:.6f}|{south:.6f}|{east:.6f}",
            "ggslimit": str(BOX_LIMIT), "prop": "extracts|coordinates|info|pageprops",
            "explaintext": "1", "exsectionformat": "plain", "exlimit": "20" if text == "intro" else "1",
            "coprop": "type|country|globe", "colimit": "max", "inprop": "url",
            "ppprop": "wikibase_item|disambiguation", **({"exintro": "1"} if text == "intro" else {}),
        }  # fmt: skip
        pages: dict[int, dict] = {}
        more: dict = {}
        while True:
            answer = self.ask(params | more)
            for page in answer.get("query", {}).get("pages", []):
                pages.setdefault(page["pageid"], {}).update(page)
            more = answer.get("continue", {})
            if not more or (len(pages) >= FULL and _halves(tile)):
                return pages

    def ask(self, params: dict) -> dict:
        while True:
            if self.asked >= self.max_requests:
                raise ValueError(
                    f"{self.asked:,} requests were made, as many as max_requests allows; finished parts are kept, and "
                    "the same call with a higher max_requests continues"
                )
            time.sleep(max(0.0, self.next - time.monotonic()))
            self.next, self.asked = time.monotonic() + INTERVAL_S, self.asked + 1
            common = {"action": "query", "format": "json", "formatversion": "2", "maxlag": "5"}
            response = self.client.get(self.url, params=common | params)
            response.raise_for_status()
            answer = response.json()
            if not (error := answer.get("error")):
                return answer
            if error.get("code") not in PASSING:
                raise ValueError(f"{self.url}: the service says {error.get('code')!r}: {error.get('info')!r}")
            time.sleep(float(response.headers.get("Retry-After", 5)))


def _tiles(box: Sequence[float]) -> list[tuple]:
    """Cut a box into boxes (west, south, east, north) of at most `TILE_KM` a side, none across the antimeridian."""
    west, south, east, north = box
    ranges = [(west, east)] if west < east else [(west, 180.0), (-180.0, east)]
    tiles = []
    rows = math.ceil((north - south) * KM_PER_DEGREE / TILE_KM)
    for low, high in pairwise(np.linspace(south, north, rows + 1).tolist()):
        widest = math.cos(math.radians(0 if low < 0 < high else min(abs(low), abs(high))))
        for left, right in ranges:
            columns = math.ceil((right - left) * KM_PER_DEGREE * widest / TILE_KM)
            edges = np.linspace(left, right, columns + 1).tolist()
            tiles += [(a, low, b, high) for a, b in pairwise(edges)]
    return tiles


def _halves(tile: tuple) -> list[tuple]:
    """Halve a tile across its longer side; an empty list if that is below `SMALLEST_KM`."""
    west, south, east, north = tile
    lon, lat = (west + east) / 2, (south + north) / 2
    height, width = north - south, (east - west) * math.cos(math.radians(lat))
    if max(height, width) * KM_PER_DEGREE < SMALLEST_KM:
        return []
    if width > height:
        return [(west, south, lon, north), (lon, south, east, north)]
    return [(west, south, east, lat), (west, lat, east, north)]


def _article(page: dict, skips: Skips) -> dict | None:
    """Turn a page of the service into a row of :data:`ARTICLES`; None for a disambiguation page."""
    known, position = page.get("pageprops", {}), (page.get("coordinates") or [{}])[0]
    revision = page.get("lastrevid")
    title, text = (page.get(key, "").encode("utf-8", "replace").decode() for key in ("title", "extract"))
    if "disambiguation" in known:
        skips.add("disambiguation page", f"page {page['pageid']}, {title!r}")
        return None
    return {
        "page_id": page["pageid"], "title": title, "text": text, "lon": position.get("lon"), "lat": position.get("lat"),
        "globe": position.get("globe"), "primary": position.get("primary"), "url": page.get("fullurl"),
        "revision": revision and str(revision), "qid": known.get("wikibase_item"), "type": position.get("type"),
        "country_code": position.get("country"),
    }  # fmt: skip


# --- checks -------------------------------------------------------------------------------------------


def _plan(
    route: str, lang: str, bbox: Sequence[float] | None, min_chars: int, places_only: bool, simulated: bool
) -> dict:
    """Check the options that both sources have, and make of them the plan of the parts."""
    if not re.fullmatch(r"[a-z]{2,12}(-[a-z]{1,12})*", lang):
        raise ValueError(f"lang {lang!r} is no language of a Wikipedia; give one such as en, de or pt")
    if not 1 <= min_chars <= MAX_CHARS:
        raise ValueError(f"min_chars {min_chars} must lie in 1 to {MAX_CHARS:,}")
    box = None
    if bbox is not None:
        west, south, east, north = box = [float(value) for value in bbox]
        if not (-180 <= west <= 180 and -180 <= east <= 180 and west != east and -90 <= south < north <= 90):
            raise ValueError(f"bbox {box} must be west, south, east, north in degrees, with south below north")
        if west == 180:
            box[0] = -180.0
    options = {"bbox": box, "min_chars": min_chars, "places_only": places_only, "simulated": simulated}
    return {"route": route, "lang": lang, **options}


_CONTROL = r"[\x00-\x08\x0b-\x1f\x7f-\x{9f}]"
_URL = r"^https://[a-z-]+(\.m)?\.wikipedia\.org/[^\s\x00-\x1f\"<>\\^`{|}]*$"


def _save(parts: Parts, name: str, articles: pa.Table, skips: Skips | None = None) -> None:
    """Check articles and save those that remain as a part, with their signatures."""
    table, skips = _clean(articles, parts.plan["lang"]), skips or Skips()
    lon, lat = (table[name].fill_null(np.nan).to_numpy() for name in ("lon", "lat"))
    chars = pc.utf8_length(table["text"]).to_numpy()
    reasons = {
        "no page id": table["page_id"].fill_null(0).to_numpy() < 1,
        "no title": pc.utf8_length(table["title"]).to_numpy() == 0,
        "no position": ~(np.isfinite(lon) & np.isfinite(lat)),
        "not the article's own position": ~table["primary"].fill_null(True).to_numpy(),
        "not on Earth": pc.utf8_lower(table["globe"].fill_null("earth")).to_numpy() != "earth",
        "position out of range": (np.abs(lon) > 180) | (np.abs(lat) > 90),
        "position at 0, 0": (lon == 0) & (lat == 0),
        "no text": chars == 0,
        f"text of less than {parts.plan['min_chars']:,} characters": chars < parts.plan["min_chars"],
        f"text of more than {MAX_CHARS:,} characters": chars > MAX_CHARS,
    }
    why = np.select(list(reasons.values()), list(reasons), "").astype(object)
    if parts.plan["places_only"]:
        for row in np.flatnonzero(why == ""):
            title, text, kind = (table[name][row].as_py() for name in ("title", "text", "type"))
            kind = why_no_place(title, text, kind, parts.plan["lang"])
            why[row] = f"not a place, but {kind}" if kind else ""
    for row in np.flatnonzero(why != ""):
        skips.add(why[row], f"page {table['page_id'][row]}, {table['title'][row].as_py()!r}")
    table = table.append_column("text_chars", pa.array(chars)).filter(pa.array(why == ""))
    parts.save(name, table, text_signatures(table["text"].to_pylist()), skips)


def _clean(articles: pa.Table, lang: str) -> pa.Table:
    """Give articles all columns with their types, without control characters and values of another form."""
    columns = {field.name: pa.nulls(len(articles), field.type) for field in ARTICLES}
    columns |= {name: articles[name] for name in articles.column_names}
    columns["page_id"] = _matching(pc.cast(columns["page_id"], pa.string()), r"^\d{1,18}$")
    columns = {field.name: pc.cast(columns[field.name], field.type) for field in ARTICLES}
    for name in ("title", "text"):
        bare = pc.replace_substring_regex(columns[name].fill_null(""), _CONTROL, "")
        columns[name] = pc.utf8_trim_whitespace(bare)
    columns["title"] = pc.replace_substring_regex(columns["title"], r"\s+", " ")
    columns["type"], columns["country_code"] = pc.utf8_lower(columns["type"]), pc.utf8_upper(columns["country_code"])
    page = pc.cast(columns["page_id"], pa.string()).fill_null("")
    address = pc.binary_join_element_wise(f"https://{lang}.wikipedia.org/?curid=", page, "")
    columns["url"] = pc.coalesce(_matching(columns["url"], _URL), address)
    return pa.table(columns).cast(ARTICLES)


def _matching(column: Any, pattern: str) -> Any:
    """Replace what does not match by null."""
    good = pc.match_substring_regex(column, pattern).fill_null(False)
    return pc.if_else(good, column, pa.scalar(None, column.type))


# --- the store ----------------------------------------------------------------------------------------


def _write(parts: Parts, names: list[str], source: str, function: str, notes: Sequence[str]) -> PlaceStore:
    """Write the store from its parts; only one part's texts are in memory at a time."""
    facts = ["title", "lon", "lat", "country_code", "qid", "type", "text_chars"]
    found = pa.concat_tables(parts.table(name, ["page_id", *facts]) for name in names)
    skips, lang, limit = parts.skips(), parts.plan["lang"], parts.plan.get("limit")
    kept = np.zeros(len(found), bool)
    kept[np.unique(found["page_id"].to_numpy(), return_index=True)[1]] = True
    if parts.plan["route"] == "table":  # tiles of the API share their edges, so there a page may come twice
        skips.add("page seen before", n=int((~kept).sum()))
    kept &= np.cumsum(kept) <= (limit or len(kept))
    found = found.filter(pa.array(kept)).combine_chunks()
    if not len(found):
        raise ValueError(f"no article is left of what was found\n{skips}\nAsk for something else, in another folder")
    ids = pc.binary_join_element_wise(f"{lang}wiki", pc.cast(found["page_id"], pa.string()), "-").combine_chunks()
    group = duplicate_groups(np.concatenate([parts.array(name) for name in names])[kept])
    _, first, inverse = np.unique(group, return_index=True, return_inverse=True)
    country, continent = _countries_of(found["country_code"])
    places = {"place_id": ids} | {name: found[name] for name in facts}
    places |= {"source": pa.repeat(source, len(found)), "license": pa.repeat(LICENSE, len(found))}
    places |= {"country": country, "continent": continent}
    places["near_duplicate"] = ids.take(pa.array(first[inverse], mask=group < 0))
    made = {"function": f"{__name__}.{function}", "begun": parts.date, "plan": parts.plan}
    return write_store(
        parts.out, places=places, texts=_texts(parts, names, kept, ids, source),
        simulated={"text": parts.plan["simulated"]}, made=made | {"left_out": dict(sorted(skips.counts.items()))},
        datacard=_card(parts, places, skips, source, notes),
    )  # fmt: skip


def _texts(parts: Parts, names: list[str], kept: np.ndarray, ids: pa.Array, source: str) -> Iterator[pa.Table]:
    """Yield the texts of a part at a time, each with its language, revision, address and licence."""
    seen = row = 0
    for name in tqdm(names, desc="writing", unit="part"):
        table = parts.table(name, ["text", "revision", "url"])
        seen, table = seen + len(table), table.filter(pa.array(kept[seen : seen + len(table)]))
        same = {"lang": parts.plan["lang"], "license": LICENSE, "source": source}
        columns = {name: table[name] for name in table.column_names}
        columns |= {name: pa.repeat(value, len(table)) for name, value in same.items()}
        yield pa.table({"place_id": ids.slice(row, len(table)), **columns})
        row += len(table)


def _countries_of(codes: Any) -> list[pa.Array]:
    """Look up the names of countries and continents; null where a code is unknown."""
    with (package_files("geonb.data") / "assets" / "countries.parquet").open("rb") as stream:
        table = pq.read_table(stream)
    index = pc.index_in(codes, table["code"].combine_chunks())
    return [table[name].take(index).combine_chunks() for name in ("name", "continent")]


def _quoted(text: str, chars: int = 80) -> str:
    """Quote a text from outside as code in Markdown, on one line: no link, no markup, no break of a table."""
    bare = "".join(c if c.isprintable() else " " for c in text.replace("`", "'").replace("|", "¦"))
    bare = " ".join(bare.split())
    bare = bare if len(bare) <= chars else f"{bare[: chars - 3]}..."
    return f"`{bare}`" if bare else ""


def _card(parts: Parts, places: dict, skips: Skips, source: str, notes: Sequence[str]) -> str:
    n, plan, twin = len(places["place_id"]), parts.plan, places["near_duplicate"]
    least, median, most = np.quantile(places["text_chars"], [0, 0.5, 1])
    left = sorted(skips.counts.items(), key=lambda entry: (-entry[1], entry[0])) or [("nothing", 0)]
    lines = [
        "# Wikipedia articles with a position", "",
        *(["**The texts are simulated**: practice inputs, which a program wrote.", ""] if plan["simulated"] else []),
        f"- {n:,} articles of the Wikipedia in `{plan['lang']}`, fetched on {parts.date} or later.",
        f"- Source: {_quoted(source)}. Snapshot: {_quoted(plan.get('snapshot') or 'not known')}.",
        f"- Texts have {least:,.0f} to {most:,.0f} characters, the median is {median:,.0f}.",
        f"- Near-duplicates: {n - twin.null_count:,} texts in {pc.count_distinct(twin).as_py():,} groups differ in "
        "names and numbers only. They are marked (`near_duplicate`), not left out.", "",
        "## Left out", "", "| articles | why | for example |", "|---:|---|---|",
        *(f"| {count:,} | {why} | {_quoted(skips.examples.get(why, ''))} |" for why, count in left), "",
        "## Licence", "",
        f"The texts are by the contributors of Wikipedia, under [{LICENSE}]({LICENSE_URL}). If you pass them on, or "
        "anything made from them, name each article and link to it (its history lists the authors), name and link the "
        "licence, say what was changed, and use the same licence. `attribution.parquet` has title, address and "
        "revision of each article: keep it with every file that includes these texts.", "",
        "Changes: plain text only; control characters removed.", "",
        "## Not checked", "",
        "- Whether a position is right: editors and programs enter them, and some are a degree off or mirrored.",
        "- Whether an article is about a place, beyond what the table above says.", *(f"- {note}" for note in notes),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
