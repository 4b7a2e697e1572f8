"""Wikipedia's geotagged articles from the dumps: positions and page table in SQL, texts from the search index.

===================================================================  ========================================
``<wiki>/<date>/<wiki>-<date>-geo_tags.sql.gz``                       positions, by page id (English: 53 MB)
``<wiki>/<date>/<wiki>-<date>-page.sql.gz``                           which pages are articles (English: 2.4 GB)
``other/cirrus_search_index/<date>/index_name=<wiki>_content/``       texts, in shards of about 600 MB (English:
``<wiki>_content-<date>-<number>.json.bz2``                           39 GB), made every week, kept four weeks
===================================================================  ========================================

The three are joined by page id. The tables are of the first of a month, the texts of a Sunday: a page that was made or
moved in between may be missing, or have a title that is newer than its position. A shard is pairs of lines, an action
with the page's id and a document; documents of pages that are not wanted are not parsed. Everything is streamed: what
is held of three million tags is some 250 MB, of the page table nothing but the pages that are wanted, and of a shard
the texts that are wanted.

Files are fetched one at a time, with a contact, and removed once they are read. Formats are those of autumn 2026, as
people who read them then describe them. **No address at Wikimedia was tried**, for lack of a network; tests run on
generated files in these formats and a server on the loopback interface.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import logging
import math
import re
import tempfile
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar
from urllib.parse import quote

import numpy as np
import pyarrow as pa

from geonb._files import write_atomically
from geonb._progress import tqdm
from geonb.data.download import DownloadError, NetworkAbsent, alone, contact_from, download, plain, user_agent
from geonb.data.sources.sqldump import CHUNK, DamagedDump, sql_blocks, sql_value
from geonb.data.sources.wikipedia import ARTICLES, ArticleFilter, Step, collect
from geonb.data.sources.wikipedia_table import checked_box
from geonb.data.store import PlaceStore
from geonb.data.work import Skips, Work, WorkError

BASE_URL = "https://dumps.wikimedia.org"
MAX_LINE = 64 << 20  # of a shard; the longest articles have some megabytes
MAX_TEXT = 1 << 29  # characters that are wanted of one shard; an English one has about 70 million
MAX_LISTING = 16 << 20
TEXTS = {"full": "text", "opening": "opening_text"}
GEO_COLUMNS = (
    "gt_id", "gt_page_id", "gt_globe", "gt_primary", "gt_lat", "gt_lon", "gt_dim", "gt_type", "gt_country",
)  # fmt: skip
PAGE_COLUMNS = ("page_id", "page_namespace", "page_title", "page_is_redirect", "page_latest")

_WIKI = re.compile(r"[a-z][a-z0-9_]{1,40}")
_DATE = re.compile(r"20\d{6}")
_ACTION = re.compile(rb'\s*\{\s*"(?:index|create)"\s*:\s*\{([^{}]*)\}\s*\}\s*')
_ID = re.compile(rb'"_id"\s*:\s*"?(\d{1,18})"?\s*(?:,|$)')
_EARTH = b"'earth'"
_BATCH = 2000  # documents that become Arrow arrays at once

_log = logging.getLogger(__name__)
T = TypeVar("T")


def from_dumps(
    out: str | Path,
    *,
    lang: str = "en",
    wiki: str | None = None,
    date: str | None = None,
    tables_date: str | None = None,
    contact: str | None = None,
    base_url: str = BASE_URL,
    folder: str | Path | None = None,
    text: str = "full",
    bbox: tuple[float, float, float, float] | None = None,
    max_shards: int | None = None,
    keep_downloads: bool = False,
    min_chars: int = ArticleFilter.min_chars,
    max_chars: int = ArticleFilter.max_chars,
    places_only: bool = False,
    limit: int | None = None,
    workers: int = 1,
    simulated: bool = False,
    progress: bool = True,
) -> PlaceStore:
    """A place store of the articles in a wiki's dumps.

    Args:
        out: the store's folder. Unfinished work lies in ``<out>.work``; the same call goes on from it, with the dumps
            with which it was begun.
        lang: of the texts; also the subdomain of their addresses.
        wiki: the wiki's name in the dumps, such as "enwiki"; else made from ``lang``.
        date: of the texts, "YYYYMMDD"; else the newest that are complete.
        tables_date: of the SQL tables; else the newest that are complete.
        contact: an e-mail or https address of whoever runs this, sent with every request; else ``GEONB_CONTACT``. Not
            needed with ``folder``.
        base_url: a mirror, if it has both kinds of dumps.
        folder: where the files lie already, in it or in folders of it. Texts may also be in one file of the old
            format, ``<wiki>-<date>-cirrussearch-content.json.gz``.
        text: "full", or "opening" for what comes before the first heading.
        bbox: west, south, east, north in degrees; west > east for a box across the antimeridian.
        max_shards: only the first so many; articles are spread over all of them.
        keep_downloads: leave the files in ``<out>.downloads``, which may be another store's ``folder``.
        min_chars, max_chars, places_only: see :class:`geonb.data.sources.wikipedia.ArticleFilter`.
        limit: only the first so many articles.
        workers: processes that read shards at once; one file at a time is fetched, however many there are.
        simulated: whether the texts are, as those of :mod:`geonb.data.practice`; the store and its card say so.

    Raises:
        ValueError: a wrong argument, no contact, or files that are not in the folder.
        DamagedDump: a file is cut or of another format, also when it was fetched a second time.
        DownloadError: the server has no complete dump, or a file is not the one that was published.
        WorkError: no article is left, or as in :class:`geonb.data.work.Work`.
    """
    wiki = wiki or f"{lang.replace('-', '_')}wiki"
    for name, value, form in (("wiki", wiki, _WIKI), ("date", date, _DATE), ("tables_date", tables_date, _DATE)):
        if value is not None and not form.fullmatch(value):
            raise ValueError(f"{name} {plain(value)!r}: a wiki is such as enwiki, a date YYYYMMDD")
    if text not in TEXTS:
        raise ValueError(f"text {plain(text)!r} must be one of {', '.join(TEXTS)}")
    if max_shards is not None and max_shards < 1:
        raise ValueError(f"max_shards {max_shards} must be at least 1")
    out, box = Path(out), checked_box(bbox)
    filters = ArticleFilter(min_chars, max_chars, places_only)
    agent = "" if folder else user_agent(contact_from(contact))
    asked = {"route": "dumps", "lang": lang, "wiki": wiki, "text": text, "bbox": box, "max_shards": max_shards}
    dumps = _begun(out, asked, date, tables_date)
    if dumps:
        date, tables_date = dumps["snapshot"], dumps["tables_snapshot"]
    if folder:
        dumps = _in_folder(Path(folder), wiki, date, tables_date)
    dumps = dumps or _on_server(base_url, wiki, date, tables_date, agent)
    dumps |= {"shards": dumps["shards"][:max_shards]}
    there = {path.name: path for path in _files_under(Path(folder))} if folder else {}
    downloads = out.with_name(f"{out.name}.downloads") if keep_downloads else None

    def steps(work: Work) -> Iterator[Step]:
        def place(name: str, directory: str, sha1: str = "") -> File:
            if folder:
                return File(there[name])
            path = downloads / name if downloads else work.path(f"downloads/{name}")
            url = f"{base_url.rstrip('/')}/{directory}/{name}"
            return File(path, url, sha1, agent, work.path("downloads/turn"), progress)

        geo_tags, page = tables = [
            place(table["name"], f"{wiki}/{dumps['tables_snapshot']}", table.get("sha1", ""))
            for table in dumps["tables"]
        ]
        shards = [
            place(shard["name"], f"other/cirrus_search_index/{dumps['snapshot']}/index_name={wiki}_content")
            for shard in dumps["shards"]
        ]
        tidy = partial(_remove_read, work, not (folder or keep_downloads))
        wanted = _wanted(work, geo_tags, page, box, progress)
        tidy({"pages": tables})
        yield "dumps/tables", partial(_nothing_but, work.skips(["geo", "pages"]))
        parts = {f"dumps/{number:05d}": shard for number, shard in enumerate(shards)}
        seen = [work.path(f"found/{number:05d}.npy") for number in range(len(shards))]
        for (part, shard), ids in zip(parts.items(), seen, strict=True):
            yield part, partial(make_shard, shard, wanted, ids, lang, text)
            tidy({part: [shard] for part, shard in parts.items()})
        if workers > 1:  # `collect` runs as many parts ahead: after these all shards are read
            for number in range(workers):
                yield f"dumps/wait-{number}", partial(_nothing_but, Skips())
        yield "dumps/missing", partial(_nothing_but, _missing(wanted, seen, max_shards))

    days = f"{dumps['tables_snapshot']}, texts of {dumps['snapshot']}"
    return collect(
        out, asked | dumps, steps,
        source=f"Wikipedia, dumps of {wiki}: positions of {days}",
        function="geonb.data.sources.wikipedia_dumps.from_dumps",
        filters=filters, limit=limit, workers=workers, simulated=simulated,
        progress=progress,
        notes=[f"That nothing changed between the tables and the texts: positions are of {days}."],
    )  # fmt: skip


# --- which files --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class File:
    """A file of a dump, there or to be fetched. ``turn``: a lock, held while it is fetched; one at a time."""

    path: Path
    url: str = ""
    sha1: str = ""
    agent: str = ""
    turn: Path | None = None
    progress: bool = False

    def read(self, reader: Callable[[Path], T]) -> T:
        """What a reader makes of it; fetched first if need be, and a second time if it turns out to be damaged."""
        if not self.url:
            return reader(self.path)
        self.fetch()
        try:
            return reader(self.path)
        except DamagedDump as error:
            _log.warning("%s; it is fetched a second time", error)
            self.path.unlink()
        self.fetch()
        try:
            return reader(self.path)
        except DamagedDump:
            self.path.unlink()
            raise

    def fetch(self) -> None:
        """Download the file; needs ``url`` and ``turn``.

        Raises:
            DownloadError: no address gave it, or the file is not the one that ``sha1`` stands for.
        """
        assert self.turn is not None, "a file with an address has one"
        with alone(self.turn):
            download([self.url], self.path, user_agent=self.agent, sha1=self.sha1, progress=self.progress)


def _begun(out: Path, asked: dict, date: str | None, tables_date: str | None) -> dict | None:
    """The dumps with which unfinished work was begun, if as much was asked for; they may no longer be the newest."""
    try:
        plan = json.loads((out.with_name(f"{out.name}.work") / "plan.json").read_text(encoding="utf-8"))["plan"]
        dumps = {name: plan[name] for name in ("snapshot", "tables_snapshot", "tables", "shards")}
        same = all(plan[name] == value for name, value in asked.items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    days = (date, dumps["snapshot"]), (tables_date, dumps["tables_snapshot"])
    return dumps if same and all(day in (None, begun) for day, begun in days) else None


def _files_under(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _in_folder(folder: Path, wiki: str, date: str | None, tables_date: str | None) -> dict:
    """Names and sizes of the files of a dump in a folder: of the newest dates, if none are given."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give the one in which the files of the dump lie")
    shard = re.compile(rf"{wiki}_content-({date or '20[0-9]{6}'})-[0-9]{{5}}\.json\.bz2")
    old = re.compile(rf"{wiki}-({date or '20[0-9]{6}'})-cirrussearch-content\.json\.(?:gz|bz2)")
    table = re.compile(rf"{wiki}-({tables_date or '20[0-9]{6}'})-(?:geo_tags|page)\.sql\.gz")
    files = _files_under(folder)
    names = [path.name for path in files]
    if twice := sorted({name for name in names if names.count(name) > 1 and wiki in name}):
        raise ValueError(f"{folder}: {plain(twice[0])} is there more than once; keep one of them")
    sizes = {path.name: path.stat().st_size for path in files}
    texts = {name: found[1] for name in names if (found := shard.fullmatch(name) or old.fullmatch(name))}
    tables = {name: found[1] for name in names if (found := table.fullmatch(name))}
    whole = [day for day in tables.values() if list(tables.values()).count(day) == 2]
    if not texts or not whole:
        lacking = f"{wiki}-DATE-geo_tags.sql.gz and {wiki}-DATE-page.sql.gz of one date"
        lacking = lacking if texts else f"{wiki}_content-DATE-00000.json.bz2 or more of them"
        raise ValueError(f"{folder}: {lacking} are not there; get them from {BASE_URL}")
    day, tables_day = max(texts.values()), max(whole)
    chosen = [name for name in sorted(texts) if texts[name] == day]
    if any(map(shard.fullmatch, chosen)):
        chosen = [name for name in chosen if shard.fullmatch(name)]
    return {
        "snapshot": day, "tables_snapshot": tables_day,
        "tables": [{"name": name, "bytes": sizes[name]} for name in sorted(tables) if tables[name] == tables_day],
        "shards": [{"name": name, "bytes": sizes[name]} for name in chosen],
    }  # fmt: skip


def _on_server(base_url: str, wiki: str, date: str | None, tables_date: str | None, agent: str) -> dict:
    """Names of the files of the newest complete dumps on a server, or of those of given dates."""
    base_url = base_url.rstrip("/")
    shard = re.compile(rf"{wiki}_content-([0-9]{{8}})-[0-9]{{5}}\.json\.bz2")
    index, shards, day = f"{base_url}/other/cirrus_search_index", [], date
    for day in [date] if date else _dates(index, agent):
        names = _names(_page(f"{index}/{day}/index_name={wiki}_content/", agent) or "")
        shards = sorted(name for name in names if (found := shard.fullmatch(name)) and found[1] == day)
        if shards and "_SUCCESS" in names:
            break
    else:
        raise DownloadError(
            f"{index}: no complete search index of {wiki}{f' of {date}' if date else ''}; is the wiki's name right? "
            "A date is there for about four weeks"
        )
    wanted, tables, tables_day = [f"{wiki}-{{}}-{table}.sql.gz" for table in ("geo_tags", "page")], [], tables_date
    for tables_day in [tables_date] if tables_date else _dates(f"{base_url}/{wiki}", agent):
        sums = _page(f"{base_url}/{wiki}/{tables_day}/{wiki}-{tables_day}-sha1sums.txt", agent)
        known = {name: sha1 for sha1, name in re.findall(r"^([0-9a-f]{40})\s+(\S+)$", sums or "", re.MULTILINE)}
        tables = [{"name": name.format(tables_day)} for name in wanted]
        if all(table["name"] in known for table in tables):
            tables = [table | {"sha1": known[table["name"]]} for table in tables]
            break
        if sums is None and tables_date:  # no sums are published: it is taken at its word
            break
    else:
        raise DownloadError(
            f"{base_url}/{wiki}: geo_tags and page are not finished{f' of {tables_date}' if tables_date else ''}; "
            "dumps are begun on the first of a month and take some days. Give another tables_date, or wait"
        )
    return {
        "snapshot": day, "tables_snapshot": tables_day, "tables": tables,
        "shards": [{"name": name} for name in shards],
    }  # fmt: skip


def _dates(url: str, agent: str) -> list[str]:
    """The dates of a listing, newest first."""
    dates = {name.rstrip("/") for name in _names(_page(f"{url}/", agent) or "")}
    return sorted(filter(_DATE.fullmatch, dates), reverse=True)


def _names(listing: str) -> set[str]:
    """Names in a listing of a folder, as the server's HTML has them; what is no plain name matches no pattern."""
    return set(re.findall(r'<a href="([A-Za-z0-9_.=%-]{1,200}/?)"', listing))


def _page(url: str, agent: str) -> str | None:
    """A small text from the server, None if it has none of that name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page"
        try:
            download([url], path, user_agent=agent, max_bytes=MAX_LISTING, progress=False)
        except NetworkAbsent as error:
            if "HTTP 404" in "".join(error.failures):
                return None
            raise NetworkAbsent("\n".join(["the server of the dumps gives no answer", *error.failures])) from error
        return path.read_text(encoding="utf-8", errors="replace")


# --- steps --------------------------------------------------------------------------------------------


def _wanted(work: Work, geo_tags: File, page: File, box: Sequence[float] | None, progress: bool) -> Path:
    """Parts "geo" and "pages"; a file, mapped by whoever reads it, of what is known of the wanted pages, by page id."""
    if not work.done("geo"):
        work.put("geo", *geo_tags.read(partial(read_geo_tags, bbox=box, progress=progress)))
    if not len(work.table("geo")):
        raise WorkError(f"no position is left of what was found\n{work.skips(['geo'])}")
    if not work.done("pages"):
        geo = work.table("geo")
        ids = geo["page_id"].to_numpy()
        pages, skips = page.read(partial(read_pages, wanted=ids, progress=progress))
        table = geo.take(np.searchsorted(ids, pages["page_id"].to_numpy()))
        for name in ("title", "revision"):
            table = table.append_column(name, pages[name])
        work.put("pages", table, skips)
    path = work.path("wanted.arrow")
    if not path.exists():
        write_atomically(path, partial(_write_arrow, work.table("pages").combine_chunks()))
    return path


def _write_arrow(table: pa.Table, stream: BinaryIO) -> None:
    with pa.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table)


def _mapped(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _nothing_but(skips: Skips) -> tuple[pa.Table, Skips]:
    """A step without articles, which tells what was left out elsewhere."""
    return ARTICLES.empty_table(), skips


def _remove_read(work: Work, really: bool, parts: dict[str, list[File]]) -> None:
    """Remove the files of the parts that are there."""
    for part, files in parts.items():
        if really and work.done(part):
            for file in files:
                file.path.unlink(missing_ok=True)


def _missing(wanted: Path, found: Sequence[Path], max_shards: int | None) -> Skips:
    """Wanted pages that are in no shard."""
    table, skips = _mapped(wanted), Skips()
    ids = [np.load(path, allow_pickle=False) for path in found if path.exists()]
    missing = ~np.isin(table["page_id"].to_numpy(), np.concatenate([np.zeros(0, np.int64), *ids]))
    if missing.any():
        row = table.slice(int(np.argmax(missing)), 1)
        reason = "text: in none of the shards that were read" if max_shards else "text: in no shard"
        skips.add(reason, f"page {row['page_id'][0]}, {row['title'][0].as_py()!r}", int(missing.sum()))
    return skips


def make_shard(shard: File, wanted: Path, found: Path, lang: str, text: str) -> tuple[pa.Table, Skips]:
    """Articles of a shard, by page id, and what was left out.

    Args:
        shard: to be read. ``wanted``: the file of wanted pages.
        found: where the ids of those are written that are in the shard, with or without a text.
    """
    table = _mapped(wanted)
    articles, ids, skips = shard.read(partial(_read_shard, pages=table, lang=lang, text=text))
    write_atomically(found, partial(np.save, arr=ids, allow_pickle=False))
    return articles, skips


def _read_shard(path: Path, pages: pa.Table, lang: str, text: str) -> tuple[pa.Table, np.ndarray, Skips]:
    ids, skips, seen, size = pages["page_id"].to_numpy(), Skips(), array("q"), 0
    documents: list[Document] = []
    for document in read_cirrus(path, ids, text=text, skips=skips, seen=seen):
        documents.append(document)
        size += len(document.text)
        if size > MAX_TEXT:
            raise ValueError(f"{path.name}: more than {MAX_TEXT:,} characters are wanted of one file; give a bbox")
    documents.sort(key=lambda document: document.page_id)
    tables = [ARTICLES.empty_table()]
    while documents:
        tables.append(_articles(documents[:_BATCH], pages, ids, lang))
        del documents[:_BATCH]
    return pa.concat_tables(tables), np.unique(np.array(seen, np.int64)), skips


def _articles(documents: list[Document], pages: pa.Table, ids: np.ndarray, lang: str) -> pa.Table:
    found = pages.take(np.searchsorted(ids, np.array([d.page_id for d in documents], np.int64)))
    titles = [d.title or title for d, title in zip(documents, found["title"].to_pylist(), strict=True)]
    revisions = [d.revision or rev for d, rev in zip(documents, found["revision"].to_pylist(), strict=True)]
    columns = {
        "title": titles, "text": [d.text for d in documents], "revision": revisions,
        "qid": [d.qid for d in documents], "links": [d.links for d in documents],
        "lang": [lang] * len(documents), "url": [page_url(lang, title) for title in titles],
    }  # fmt: skip
    return pa.table([columns[f.name] if f.name in columns else found[f.name] for f in ARTICLES], schema=ARTICLES)


def page_url(lang: str, title: str) -> str:
    """The address of an article, by its title."""
    return f"https://{lang}.wikipedia.org/wiki/{quote(title.replace(' ', '_'), safe='/:;@$!*(),~')}"


# --- tables -------------------------------------------------------------------------------------------


def read_geo_tags(
    path: Path, bbox: Sequence[float] | None = None, progress: bool = False
) -> tuple[pa.Table, Skips]:
    """Positions of pages from a dump of ``geo_tags``: on Earth, the page's own, possible, and one for each page.

    Args:
        path: the dump, packed with gzip. ``bbox``: as in :func:`from_dumps`.

    Returns:
        A table with "page_id" (ascending), "lon", "lat" (degrees), "type", "dim_m", "country_code" (may be null); of
        several tags of a page the one with the smallest id. And the tags that were left out, by reason.

    Raises:
        DamagedDump: see :func:`geonb.data.sources.sqldump.sql_rows`.
    """
    skips, kinds, countries = Skips(), [], []
    tags, pages, lons, lats, dims = array("q"), array("q"), array("d"), array("d"), array("d")
    with _unpacked(path, progress) as stream:
        for block in sql_blocks(stream, "geo_tags", GEO_COLUMNS, path.name):
            for tag, page, globe, primary, lat, lon, dim, kind, country in block:
                reason = ""
                if globe != _EARTH and sql_value(globe) != b"earth":
                    reason = "tag: not on Earth"
                elif primary != b"1":
                    reason = "tag: not the article's own position"
                else:
                    x, y = _number(lon), _number(lat)
                    if math.isnan(x) or math.isnan(y):
                        reason = "tag: no position"
                    elif not (-180 <= x <= 180 and -90 <= y <= 90):
                        reason = "tag: position out of range"
                    elif not (_is_id(tag) and _is_id(page)):
                        reason = "tag: no page id"
                if reason:
                    skips.add(reason, "" if reason in skips.examples else _tag_named(page, globe, lon, lat))
                    continue
                tags.append(int(tag))
                pages.append(int(page))
                lons.append(x)
                lats.append(y)
                dims.append(_number(dim))
                kinds.append(_kind(kind[:64]))
                countries.append(_word(country[:64]))
    ids = np.array(pages, np.int64)
    order = np.lexsort((np.array(tags, np.int64), ids))
    first = np.ones(len(order), bool)
    first[1:] = np.diff(ids[order]) > 0
    if not first.all():
        skips.add("tag: another one of its page", f"page {ids[order][~first][0]}", int((~first).sum()))
    rows = order[first]
    lon, lat = np.array(lons, np.float64), np.array(lats, np.float64)
    if bbox:
        west, south, east, north = bbox
        x, y = lon[rows], lat[rows]
        inside = (y >= south) & (y <= north)
        inside &= (x >= west) & (x <= east) if west < east else (x >= west) | (x <= east)
        if not inside.all():
            skips.add("tag: outside the box", f"page {ids[rows][~inside][0]}", int((~inside).sum()))
        rows = rows[inside]
    dim = np.array(dims, np.float64)[rows]
    table = pa.table(
        {
            "page_id": ids[rows], "lon": lon[rows], "lat": lat[rows],
            "type": pa.array(kinds, pa.string()).take(rows), "dim_m": pa.array(dim, mask=np.isnan(dim)),
            "country_code": pa.array(countries, pa.string()).take(rows),
        }
    )  # fmt: skip
    return table, skips


def read_pages(path: Path, wanted: np.ndarray, progress: bool = False) -> tuple[pa.Table, Skips]:
    """Articles among the wanted pages, from a dump of ``page``: in namespace 0, and no redirects.

    Args:
        path: the dump, packed with gzip. ``wanted``: page ids (n,), ascending.

    Returns:
        A table with "page_id" (ascending), "title" (with spaces), "revision" (the newest, digits). And the wanted pages
        that were left out, by reason.

    Raises:
        DamagedDump: see :func:`geonb.data.sources.sqldump.sql_rows`.
    """
    skips, ids, titles, revisions = Skips(), array("q"), [], []
    seen = np.zeros(len(wanted), bool)
    with _unpacked(path, progress) as stream:
        for block in sql_blocks(stream, "page", PAGE_COLUMNS, path.name) if len(wanted) else ():
            page_ids = _ids([row[0] for row in block])
            at = np.minimum(np.searchsorted(wanted, page_ids), len(wanted) - 1)
            for row in np.flatnonzero(wanted[at] == page_ids):
                page, namespace, title, redirect, latest = block[row]
                name: Any = sql_value(title)
                reason = ""
                if namespace != b"0":
                    reason = "page: not an article (namespace)"
                elif redirect != b"0":
                    reason = "page: a redirect"
                elif seen[at[row]]:
                    reason = "page: there twice"
                else:
                    try:
                        name = name.decode("utf-8")
                    except (UnicodeDecodeError, AttributeError):
                        reason = "page: a title that is not in UTF-8"
                seen[at[row]] = True
                if reason:
                    shown = name.decode("utf-8", "replace") if isinstance(name, bytes) else name
                    skips.add(reason, f"page {page.decode()}, {shown!r}")
                    continue
                ids.append(int(page))
                titles.append(name.replace("_", " "))
                revisions.append(latest.decode() if _is_id(latest) else None)
    if not seen.all():
        skips.add("page: not in the page table", f"page {wanted[np.argmin(seen)]}", int((~seen).sum()))
    order = np.argsort(np.array(ids, np.int64), kind="stable")
    types = (pa.int64(), pa.string(), pa.string())
    columns = zip(("page_id", "title", "revision"), (ids, titles, revisions), types, strict=True)
    return pa.table({name: pa.array(values, kind).take(order) for name, values, kind in columns}), skips


def _ids(tokens: list[bytes]) -> np.ndarray:
    try:
        return np.fromiter(map(int, tokens), np.int64, len(tokens))
    except (ValueError, OverflowError):
        return np.array([int(token) if _is_id(token) else -1 for token in tokens], np.int64)


def _is_id(token: bytes) -> bool:
    return token.isdigit() and len(token) < 19


def _number(token: bytes) -> float:
    try:
        return float(token)
    except ValueError:  # NULL, or a string
        return math.nan


@lru_cache(4096)
def _kind(token: bytes) -> str | None:
    """The type of a tag; "city(334,000" and "river:us-oh" have more than a type."""
    return re.split(r"[(:]", _word(token) or "")[0].strip().lower() or None


@lru_cache(4096)
def _word(token: bytes) -> str | None:
    value = sql_value(token)
    return value.decode("ascii", "replace") if isinstance(value, bytes) else None


def _tag_named(page: bytes, globe: bytes, lon: bytes, lat: bytes) -> str:
    page, globe, lon, lat = (plain(token[:40].decode("utf-8", "replace")) for token in (page, globe, lon, lat))
    return f"page {page}, {globe}, lon {lon}, lat {lat}"


# --- shards -------------------------------------------------------------------------------------------


class Document(NamedTuple):
    """What is used of a document of the search index. ``title``: "" where it has none; the rest may be None."""

    page_id: int
    title: str
    text: str
    revision: str | None
    qid: str | None
    links: int | None


def read_cirrus(
    path: Path, wanted: np.ndarray, *, text: str = "full", skips: Skips, seen: array | None = None
) -> Iterator[Document]:
    """Documents of wanted pages in a shard, in its order. Others are not parsed.

    Args:
        path: the shard, packed with bzip2 (also of several streams) or gzip. ``wanted``: page ids (n,), ascending.
        text: "full" or "opening". ``skips``: counts what is left out.
        seen: gets the id of every wanted page that has an action line, whatever its document is like.

    Raises:
        DamagedDump: it is cut or damaged, or has a line of more than :data:`MAX_LINE` bytes.
    """
    page, wanted_page = None, False
    with _unpacked(path) as stream:
        for line in _lines(stream, path.name):
            if len(line) < 4096 and (action := _ACTION.fullmatch(line)):
                if page is not None:
                    skips.add("text: an action without its document", f"page {page}")
                found = _ID.search(action[1])
                page = int(found[1]) if found else -1
                if not found:
                    skips.add("text: an action without a page id", plain(line[:100].decode("utf-8", "replace")))
                at = wanted.searchsorted(page)
                wanted_page = at < len(wanted) and wanted[at] == page
                if wanted_page and seen is not None:
                    seen.append(page)
                continue
            if page is None:
                skips.add("text: a document without its action", plain(line[:100].decode("utf-8", "replace")))
            elif wanted_page and (document := _document(line, page, TEXTS[text], skips)):
                yield document
            page = None
        if page is not None:
            raise DamagedDump(f"{path.name}: it ends in the middle of a pair of lines; get it anew")


def _lines(stream: BinaryIO, label: str) -> Iterator[bytes]:
    while line := stream.readline(MAX_LINE + 1):
        if len(line) > MAX_LINE:
            raise DamagedDump(f"{label}: a line of more than {MAX_LINE:,} bytes; it is no shard of a search index")
        if line.endswith(b"\n") or line.endswith(b"}"):
            if not line.isspace():
                yield line
        else:
            raise DamagedDump(f"{label}: it ends in the middle of a line; get it anew")


def _document(line: bytes, page: int, field: str, skips: Skips) -> Document | None:
    try:
        document = json.loads(line)
        if not isinstance(document, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        skips.add("text: damaged JSON", f"page {page}: {plain(str(error))}")
        return None
    reason = ""
    if type(document.get("page_id")) is int and document["page_id"] != page:
        reason = "text: of another page than its action says"
    elif document.get("namespace", 0) != 0:
        reason = "text: not an article (namespace)"
    elif document.get("page_type") == "redirect":
        reason = "text: a redirect"
    if reason:
        skips.add(reason, f"page {page}, {_string(document.get('title'))!r}")
        return None
    links, revision = document.get("incoming_links"), document.get("version")
    return Document(
        page, _string(document.get("title")), _string(document.get(field)),
        str(revision) if type(revision) is int and 0 < revision < 1 << 62 else None,
        _string(document.get("wikibase_item")) or None,
        links if type(links) is int and 0 <= links < 1 << 53 else None,
    )  # fmt: skip


def _string(value: Any) -> str:
    """A string that can be written as UTF-8: half a surrogate pair, which JSON allows, cannot."""
    return value.encode("utf-8", "surrogatepass").decode("utf-8", "replace") if isinstance(value, str) else ""


# --- files --------------------------------------------------------------------------------------------


@contextmanager
def _unpacked(path: Path, progress: bool = False) -> Iterator[BinaryIO]:
    """What is in a file packed with gzip or bzip2, as a stream; DamagedDump where it is cut or damaged."""
    with path.open("rb") as raw:
        bar = tqdm.wrapattr(raw, "read", total=path.stat().st_size, desc=path.name, disable=not progress, leave=False)
        with bar as packed:
            try:
                if path.suffix == ".bz2":
                    yield io.BufferedReader(_Bz2(packed), CHUNK)
                else:
                    yield gzip.GzipFile(fileobj=packed)  # type: ignore[misc]
            except (EOFError, OSError, zlib.error) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                raise DamagedDump(f"{path.name}: cut or damaged ({error}); get it anew") from error


class _Bz2(io.RawIOBase):
    """Streams of bzip2, one after the other. :class:`bz2.BZ2File` ends without a word where a later one is damaged."""

    def __init__(self, raw: BinaryIO) -> None:
        self.raw, self.decoder = raw, bz2.BZ2Decompressor()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = b""
        while not data:
            chunk = b""
            if self.decoder.eof:
                chunk = self.decoder.unused_data or self.raw.read(CHUNK)
                if not chunk:
                    return 0
                self.decoder = bz2.BZ2Decompressor()
            elif self.decoder.needs_input and not (chunk := self.raw.read(CHUNK)):
                raise EOFError("it ends before its end is marked")
            data = self.decoder.decompress(chunk, len(buffer))
        buffer[: len(data)] = data
        return len(data)
