"""Wikipedia's geotagged articles into a place store: what the three routes to them have in common.

- :mod:`geonb.data.sources.wikipedia_table`: a ready table in Parquet, the quickest, for a region or the planet
- :mod:`geonb.data.sources.wikipedia_dumps`: the dumps of a wiki: any language, newest texts, the whole planet
- :mod:`geonb.data.sources.wikipedia_api`: the Action API, for an area of the size of a workshop

A route makes tables of articles (:data:`ARTICLES`), a part at a time; :func:`collect` checks every row, counts what it
leaves out and why, marks near-duplicates, and writes the store. It can be stopped at any moment
(:mod:`geonb.data.work`). Texts are never all in memory: of an article stay its facts and 64 bytes of signature.

Texts are under CC BY-SA 4.0: who passes them on, or anything made from them, names the article and links to it, names
the licence, says what was changed, and uses the same licence. The store has ``attribution.parquet`` for that.
"""

from __future__ import annotations

import multiprocessing
import re
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from geonb._util import tqdm
from geonb.data.sources.wikipedia_duplicates import groups, signatures
from geonb.data.sources.wikipedia_kinds import why_no_place
from geonb.data.store import PlaceStore, write_store
from geonb.data.work import Skips, Work, WorkError, acquire
from geonb.geo import EARTH_RADIUS_KM

ARTICLES = pa.schema(
    [
        ("page_id", pa.int64()),
        ("title", pa.string()),
        ("lon", pa.float64()),
        ("lat", pa.float64()),
        ("text", pa.string()),
        ("lang", pa.string()),
        ("revision", pa.string()),
        ("url", pa.string()),
        ("qid", pa.string()),
        ("type", pa.string()),  # of the geo tag, in lower case, such as "city"
        ("dim_m", pa.float64()),  # size of the thing, as the geo tag has it
        ("country_code", pa.string()),  # ISO 3166-1 alpha-2
        ("links", pa.int64()),  # incoming, from other articles
    ]
)
LICENSE = "CC BY-SA 4.0"
LICENSE_URL = "https://creativecommons.org/licenses/by-sa/4.0/"
SEEN = "page seen before"
KNOWN = {"revision": "a revision", "qid": "a Wikidata item", "type": "a type", "country_code": "a country"}
CELL_ROWS, CELL_COLUMNS = 160, 320  # of a grid of equal areas: 51,200 cells of 9,962 km2

Step = tuple[str, Callable[[], tuple[pa.Table, Skips]]]
"""The name of a part, and the function that makes it: articles, and what was left out. It must be picklable."""

_LANG = re.compile(r"[a-z]{2,12}(-[a-z]{1,12})*")
_CONTROL = r"[\x00-\x08\x0b-\x1f\x7f-\x{9f}]"
_UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")  # categories of Unicode: control, format, surrogates, ...
_PAGE_URL = r"^https://[a-z0-9-]+(\.m)?\.wikipedia\.org/[^\s\x00-\x1f\"<>\\^`{|}]*$"


@dataclass(frozen=True)
class ArticleFilter:
    """Which articles become places. Those that do not are counted by reason.

    A position must be there, in range, and not at 0, 0, which is what is left of a template that was not filled in.

    Attributes:
        min_chars, max_chars: of a text, without the space around it.
        places_only: leave out people, events, organisations and lists, as far as
            :func:`geonb.data.sources.wikipedia_kinds.why_no_place` knows them.
    """

    min_chars: int = 50
    max_chars: int = 300_000
    places_only: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.min_chars <= self.max_chars:
            raise ValueError(f"min_chars {self.min_chars} must be at least 1 and at most max_chars {self.max_chars}")

    @property
    def too_long(self) -> str:
        """The reason under which texts that are too long are counted."""
        return f"text of more than {self.max_chars:,} characters"

    def apply(self, articles: pa.Table) -> tuple[pa.Table, Skips]:
        """Articles cleaned and checked: those that are kept, in their order, and what was left out."""
        table = _cleaned(articles)
        gone, skips = np.zeros(len(table), bool), Skips()
        lon, lat = (table[name].fill_null(np.nan).to_numpy() for name in ("lon", "lat"))
        chars = _filled(pc.utf8_length(table["text"]))
        reasons = {
            "no page id": _filled(table["page_id"]) < 1,
            "no title": _filled(pc.utf8_length(table["title"])) == 0,
            "no position": ~(np.isfinite(lon) & np.isfinite(lat)),
            "position out of range": (np.abs(lon) > 180) | (np.abs(lat) > 90),
            "position at 0, 0": (lon == 0) & (lat == 0),
            "no text": chars == 0,
            f"text of less than {self.min_chars:,} characters": chars < self.min_chars,
            self.too_long: chars > self.max_chars,
        }
        for reason, wrong in reasons.items():
            _drop(table, wrong & ~gone, reason, skips)
            gone |= wrong
        if self.places_only:
            rows = np.flatnonzero(~gone)
            names = ("title", "text", "type", "lang")
            kinds = [why_no_place(*row) for row in zip(*(table[n].take(rows).to_pylist() for n in names), strict=True)]
            for kind in sorted(set(kinds) - {""}):
                wrong = np.zeros(len(table), bool)
                wrong[rows[[k == kind for k in kinds]]] = True
                _drop(table, wrong, f"no place, but {kind}", skips)
                gone |= wrong
        return table.filter(pa.array(~gone)), skips


def collect(
    out: str | Path,
    plan: dict,
    steps: Callable[[Work], Iterable[Step]],
    *,
    source: str,
    function: str,
    filters: ArticleFilter | None = None,
    limit: int | None = None,
    workers: int = 1,
    simulated: bool = False,
    progress: bool = True,
    notes: Sequence[str] = (),
) -> PlaceStore:
    """Articles into a place store, part by part; stopped by whatever, the same call goes on.

    The store's places are called ``enwiki-12345`` after the wiki and the page, and have the facts of :data:`ARTICLES`,
    ``country`` and ``continent`` (so that :func:`geonb.data.texts.names_of` finds them), ``text_chars``, and
    ``near_duplicate``: the first place of a group of texts that differ in names and numbers only, missing where there
    is no group (:mod:`geonb.data.sources.wikipedia_duplicates`).

    Args:
        out: the store's folder. Unfinished work lies in ``<out>.work``.
        plan: what is asked for, as JSON without secrets or paths; the data card tells its "route", "lang" and
            "snapshot".
        steps: called with the work; gives the parts in order, each with the function that makes it. A part's name has
            no dot in it. Functions run in this process, or in ``workers`` others, and give :data:`ARTICLES`; columns
            that may be null may be left out. Rows are in a fixed order.
        source: what the articles are from, for people. ``function``: the route's full name, for the manifest.
        filters: which articles become places.
        limit: only the first so many.
        workers: processes; with more than one a script needs ``if __name__ == "__main__":``.
        simulated: whether the texts are; the manifest and the data card say so.
        progress: show bars.
        notes: for the data card: what was not checked, or is special about the route.

    Raises:
        ValueError: a limit below 1.
        WorkError: no article is left, or as in :class:`geonb.data.work.Work`.
    """
    filters = filters or ArticleFilter()
    if limit is not None and limit < 1:
        raise ValueError(f"limit {limit} must be at least 1")
    plan = {**plan, "filters": asdict(filters), "limit": limit, "simulated": simulated}

    def build(work: Work) -> PlaceStore:
        parts = _run(work, steps(work), filters, limit, workers, progress)
        return _write(work, parts, source, function, limit, notes, progress)

    return acquire(out, plan, build)


# --- parts --------------------------------------------------------------------------------------------


def _made(make: Callable[[], tuple[pa.Table, Skips]], filters: ArticleFilter) -> tuple[pa.Table, Skips, np.ndarray]:
    articles, skips = make()
    table, more = filters.apply(articles)
    skips.update(more)
    return table, skips, signatures(table["text"])


def _run(
    work: Work, steps: Iterable[Step], filters: ArticleFilter, limit: int | None, workers: int, progress: bool
) -> list[str]:
    """Make the parts that are missing; the names of all, in order, up to the one in which the limit is reached."""
    pages, parts = set(), []
    with tqdm(desc="articles", unit="article", disable=not progress) as bar:
        for part in _parts(work, steps, filters, workers):
            parts.append(part)
            found = work.table(part)["page_id"]
            bar.update(len(found))
            if limit is not None:
                pages.update(found.to_pylist())
                if len(pages) >= limit:
                    break
    return parts


def _parts(work: Work, steps: Iterable[Step], filters: ArticleFilter, workers: int) -> Iterator[str]:
    if workers == 1:
        for part, make in steps:
            if not work.done(part):
                _put(work, part, *_made(make, filters))
            yield part
        return
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    ahead: deque = deque()
    try:
        for part, make in steps:
            ahead.append((part, None if work.done(part) else pool.submit(partial(_made, make, filters))))
            if len(ahead) > workers:
                yield _finished(work, *ahead.popleft())
        while ahead:
            yield _finished(work, *ahead.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _finished(work: Work, part: str, future: Any) -> str:
    if future is not None:
        _put(work, part, *future.result())
    return part


def _put(work: Work, part: str, table: pa.Table, skips: Skips, signature: np.ndarray) -> None:
    work.put(f"{part}.texts", table.select(["page_id", "text"]))
    chars = pc.cast(pc.utf8_length(table["text"]), pa.int64())
    work.put(part, table.drop_columns(["text"]).append_column("text_chars", chars), skips, signature=signature)


# --- rows ---------------------------------------------------------------------------------------------


def _cleaned(articles: pa.Table) -> pa.Table:
    """Articles with all columns, of the right types, without what can only do harm."""
    unknown = set(articles.column_names) - set(ARTICLES.names)
    missing = {"page_id", "title", "lon", "lat", "text", "lang"} - set(articles.column_names)
    if unknown or missing:
        raise ValueError(f"not a table of articles: columns missing {sorted(missing)}, unknown {sorted(unknown)}")
    nulls = {field.name: pa.nulls(len(articles), field.type) for field in ARTICLES}
    table = pa.table({**nulls, **{name: articles[name] for name in articles.column_names}}).cast(ARTICLES)
    columns = {name: table[name] for name in table.column_names}
    for name in ("title", "text"):
        bare = pc.replace_substring_regex(columns[name], _CONTROL, "").fill_null("")
        columns[name] = pc.utf8_trim_whitespace(bare)
    columns["title"] = pc.replace_substring_regex(columns["title"], r"\s+", " ")
    langs = columns["lang"].unique().to_pylist()
    if wrong := [lang for lang in langs if not _LANG.fullmatch(lang or "")]:
        raise ValueError(f"{wrong[0]!r} is no language of a Wikipedia; give one such as en, de or pt")
    columns["type"] = _or_null(pc.utf8_lower(columns["type"]), r"^[a-z0-9_ -]{1,32}$")
    columns["qid"] = _or_null(columns["qid"], r"^Q[1-9]\d{0,11}$")
    columns["revision"] = _or_null(columns["revision"], r"^\d{1,19}$")
    columns["country_code"] = _or_null(pc.utf8_upper(columns["country_code"]), r"^[A-Z]{2}$")
    dim = columns["dim_m"].fill_null(np.nan).to_numpy()
    columns["dim_m"] = pa.array(dim, mask=~((dim > 0) & (dim < 1e9)))
    page = pc.cast(columns["page_id"], pa.string())
    address = pc.binary_join_element_wise("https://", columns["lang"], ".wikipedia.org/?curid=", page, "")
    good = pc.match_substring_regex(columns["url"], _PAGE_URL).fill_null(False)
    columns["url"] = pc.if_else(good, columns["url"], address)
    return pa.table(columns).cast(ARTICLES)


def _or_null(column: Any, pattern: str) -> Any:
    good = pc.match_substring_regex(column, pattern).fill_null(False)
    return pc.if_else(good, column, pa.scalar(None, pa.string()))


def _filled(column: Any) -> np.ndarray:
    return column.fill_null(0).to_numpy()


def _drop(table: pa.Table, wrong: np.ndarray, reason: str, skips: Skips) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        page, title = (table[name][row].as_py() for name in ("page_id", "title"))
        skips.add(reason, f"page {page}, {title!r}", int(wrong.sum()))


# --- the store ----------------------------------------------------------------------------------------


def _write(
    work: Work, parts: list[str], source: str, function: str, limit: int | None, notes: Sequence[str], progress: bool
) -> PlaceStore:
    skips = work.skips(parts)
    found, kept = _found(work, parts, limit, skips)
    if not len(found):
        raise WorkError(f"no article is left of what was found\n{skips}\nAsk for something else, in another folder")
    ids = _place_ids(found)
    group = groups(np.concatenate([work.array(part, "signature") for part in parts])[kept])
    twin = _first_of_group(group, found["page_id"].to_numpy(), ids)
    country, continent = _countries_of(found["country_code"])
    places = {
        "place_id": ids, "lon": found["lon"], "lat": found["lat"], "title": found["title"],
        "source": pa.repeat(source, len(found)), "license": pa.repeat(LICENSE, len(found)),
        "country_code": found["country_code"], "country": country, "continent": continent,
        **{name: found[name] for name in ("qid", "type", "dim_m", "links", "text_chars")}, "near_duplicate": twin,
    }  # fmt: skip
    with tqdm(total=len(found), desc="writing", unit="text", disable=not progress) as bar:
        return write_store(
            work.out,
            places=places,
            texts=_texts(work, parts, kept, ids, found, source, bar),
            simulated={"text": work.plan["simulated"]},
            made=work.made(function, left_out=dict(sorted(skips.counts.items()))),
            datacard=_card(work, found, continent, twin, skips, source, notes),
        )


def _found(work: Work, parts: list[str], limit: int | None, skips: Skips) -> tuple[pa.Table, np.ndarray]:
    """All that is known of the articles but their texts, and which of the parts' rows they are (bool)."""
    table = pa.concat_tables([ARTICLES.empty_table().drop_columns(["text"]), *map(work.table, parts)],
                             promote_options="default").combine_chunks()  # fmt: skip
    page = pc.dictionary_encode(_place_ids(table)).indices.to_numpy()
    kept = np.zeros(len(table), bool)
    kept[np.unique(page, return_index=True)[1]] = True
    _drop(table, ~kept, SEEN, skips)
    if limit is not None:
        kept &= np.cumsum(kept) <= limit
    return table.filter(pa.array(kept)).combine_chunks(), kept


def _place_ids(table: pa.Table) -> pa.Array:
    ids = pc.binary_join_element_wise(table["lang"], pc.cast(table["page_id"], pa.string()), "wiki-")
    return ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids


def _texts(
    work: Work, parts: list[str], kept: Any, ids: Any, found: pa.Table, source: str, bar: Any
) -> Iterator[pa.Table]:
    """The texts, a part at a time."""
    seen = row = 0
    for part in parts:
        texts = work.table(f"{part}.texts")["text"]
        mask = pa.array(kept[seen : seen + len(texts)])
        seen, texts = seen + len(texts), texts.filter(mask)
        n = len(texts)
        columns = {name: found[name].slice(row, n) for name in ("lang", "revision", "url")}
        same = {"license": pa.repeat(LICENSE, n), "source": pa.repeat(source, n)}
        yield pa.table({"place_id": ids.slice(row, n), "text": texts, **columns, **same})
        row += n
        bar.update(n)


def _first_of_group(group: np.ndarray, page: np.ndarray, ids: Any) -> pa.Array:
    """For each article the place with the smallest page id of its group; null where it has none."""
    inside = np.flatnonzero(group >= 0)
    order = inside[np.lexsort((page[inside], group[inside]))]
    first = order[np.unique(group[order], return_index=True)[1]]
    index = np.zeros(len(group), np.int64)
    index[inside] = first[group[inside]]
    return ids.take(pa.array(index, mask=group < 0))


def _countries_of(codes: Any) -> tuple[pa.Array, pa.Array]:
    """Names of the countries and continents of codes; null where a code is unknown."""
    with (files("geonb.data") / "assets" / "countries.parquet").open("rb") as stream:
        table = pq.read_table(stream)
    index = pc.index_in(codes, table["code"].combine_chunks())
    return tuple(table[name].take(index).combine_chunks() for name in ("name", "continent"))


# --- the data card ------------------------------------------------------------------------------------


def quoted(text: str, chars: int = 80) -> str:
    """A text from outside as code in Markdown: no link, no markup, no break of a table, whatever is in it."""
    bare = "".join(" " if unicodedata.category(c) in _UNSEEN else c for c in str(text))
    bare = re.sub(r"\s+", " ", bare.replace("`", "'").replace("|", "¦")).strip()
    bare = bare if len(bare) <= chars else bare[: chars - 3].rstrip() + "..."
    return f"`{bare}`" if bare else ""


def density(lonlat: np.ndarray) -> dict[str, float]:
    """How unevenly positions (n, 2), degrees, lie, in 51,200 cells of equal area (9,962 km2 each).

    Returns:
        "occupied" (share of the cells that have any), "median", "p90", "p99", "max" (positions per 10^6 km2, of the
        occupied cells), "densest" (share of the positions in the densest hundredth of all cells).
    """
    row = np.clip((np.sin(np.radians(lonlat[:, 1])) + 1) / 2 * CELL_ROWS, 0, CELL_ROWS - 1).astype(int)
    column = ((lonlat[:, 0] + 180) % 360 / 360 * CELL_COLUMNS).astype(int)
    counts = np.sort(np.bincount(row * CELL_COLUMNS + column, minlength=CELL_ROWS * CELL_COLUMNS))
    some = counts[counts > 0] / (4 * np.pi * EARTH_RADIUS_KM**2 / len(counts)) * 1e6
    median, p90, p99, most = np.quantile(some, [0.5, 0.9, 0.99, 1])
    densest = counts[-len(counts) // 100 :].sum() / len(lonlat)
    shares = {"occupied": len(some) / len(counts), "densest": densest}
    return {name: float(v) for name, v in {"median": median, "p90": p90, "p99": p99, "max": most, **shares}.items()}


def _card(
    work: Work, found: pa.Table, continent: Any, twin: Any, skips: Skips, source: str, notes: Sequence[str]
) -> str:
    n, plan = len(found), work.plan
    chars = np.quantile(found["text_chars"].to_numpy(), [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1])
    spread = density(np.stack([found["lon"].to_numpy(), found["lat"].to_numpy()], 1))
    where = [(entry["values"].as_py() or "unknown", entry["counts"].as_py()) for entry in pc.value_counts(continent)]
    where.sort(key=lambda entry: (-entry[1], entry[0]))
    left = sorted(skips.counts.items(), key=lambda entry: (-entry[1], entry[0])) or [("nothing", 0)]
    marked = n - twin.null_count
    known = [f"{n - found[name].null_count:,} have {what}" for name, what in KNOWN.items()]
    lines = [
        "# Wikipedia articles with a position", "",
        f"{n:,} articles of the Wikipedia in {quoted(plan.get('lang', ''))}, begun on {work.date}.", "",
        *(["**The texts are simulated**: practice inputs, which a program wrote.", ""] if plan["simulated"] else []),
        f"- Source: {quoted(source, 300)}.",
        f"- Snapshot: {quoted(plan.get('snapshot') or '') or 'not known'}. Route: {plan.get('route', '')}.",
        f"- Of the articles {', '.join(known)}.",
        f"- Near-duplicates: {marked:,} ({marked / n:.1%}) are in {pc.count_distinct(twin).as_py():,} groups of texts "
        "that differ in names and numbers only. They are marked (`near_duplicate`), not left out.", "",
        "## Left out", "",
        "| articles | why | for example |", "|---:|---|---|",
        *(f"| {count:,} | {reason} | {quoted(skips.examples.get(reason, ''))} |" for reason, count in left), "",
        "## Length of the texts, in characters", "",
        "| least | 5 % | 25 % | median | 75 % | 95 % | most |", "|---:|---:|---:|---:|---:|---:|---:|",
        "| " + " | ".join(f"{c:,.0f}" for c in chars) + " |", "",
        "## Where they are", "",
        f"In {spread['occupied']:.1%} of {CELL_ROWS * CELL_COLUMNS:,} cells of equal area (about 100 km by 100 km) "
        f"there is an article. In those there are, per million km²: median {spread['median']:,.0f}, 90 % below "
        f"{spread['p90']:,.0f}, 99 % below {spread['p99']:,.0f}, most {spread['max']:,.0f}. The densest hundredth of "
        f"all cells has {spread['densest']:.1%} of the articles.", "",
        "| continent | articles | share |", "|---|---:|---:|",
        *(f"| {name} | {count:,} | {count / n:.1%} |" for name, count in where), "",
        "## Licence", "",
        f"The texts are by the contributors of Wikipedia, under [{LICENSE}]({LICENSE_URL}). Who passes them on, or "
        "anything made from them, names the article and links to it (its history lists the authors), names and links "
        "the licence, says what was changed, and uses the same licence. `attribution.parquet` has title, address and "
        "revision of each article: keep it with every file that has these texts in it.", "",
        "Changes: plain text only; control characters removed.", "",
        "## Not checked", "",
        "- Whether a position is right: editors and programs enter them, and some are a degree off or mirrored.",
        "- Whether an article is about a place, beyond what the table above says.",
        *(f"- {note}" for note in notes),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
