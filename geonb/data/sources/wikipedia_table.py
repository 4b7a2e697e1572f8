"""Wikipedia's geotagged articles from a ready table in Parquet: a file, several, or a data set on the Hugging Face hub.

DuckDB reads it, and of it only what is needed: of the columns those in `COLUMNS`, and where a box is asked for, only
the row groups that may have rows in it. The table is read in parts of consecutive rows, each of which is kept once it
is read. Values go into queries as parameters, never as text. DuckDB gets no access to anything but the files that are
read, and installs nothing, unless the table is on the hub (extension ``httpfs``).

The columns are those of https://huggingface.co/datasets/yuiseki/wikipedia-geotagged (of 2026-09; CC BY-SA 4.0;
English: 1,374,056 articles, 4.3 billion characters), as its card and the code that made it describe them: ``id``
(str), ``url``, ``title``, ``text``, ``qid``, ``lat``, ``lon``, ``gt_type``, ``gt_globe``, ``gt_dim``, ``gt_country``,
``gt_primary`` (bool). It has no revisions: texts are those of the dump in its name. **Reading from the hub was not
tried**, for lack of a network; tests run on generated files of this form.
"""

from __future__ import annotations

import glob
import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from geonb.data.download import AGENT, NetworkAbsent, plain
from geonb.data.sources.wikipedia import ArticleFilter, Step, collect
from geonb.data.sources.wikipedia_kinds import class_is_no_place
from geonb.data.store import PlaceStore
from geonb.data.work import Skips, Work

DATASETS = {"wikipedia-geotagged": "yuiseki/wikipedia-geotagged"}
SNAPSHOT = "20260901"  # the newest that is known here
COLUMNS = {
    "page_id": "id",
    "title": "title",
    "lon": "lon",
    "lat": "lat",
    "text": "text",
    "revision": "revision",
    "url": "url",
    "qid": "qid",
    "type": "gt_type",
    "dim_m": "gt_dim",
    "country_code": "gt_country",
    "links": "links",
    "globe": "gt_globe",
    "primary": "gt_primary",
    "classes": "instance_of",
}
NEEDED = ("page_id", "title", "lon", "lat", "text")
MAX_PART_BYTES = 256 << 20  # of text, by what the file says of itself
MAX_ANSWER_BYTES, ROWS_AT_ONCE = 1 << 30, 2048  # of a part, when it is read
MEMORY_LIMIT, THREADS = "1GB", 2  # of DuckDB, a process

_HUB = re.compile(r"hf://datasets/[\w.-]+/[\w.-]+(@[\w.~-]+)?/[\w./*?\[\]~-]+\.parquet")


def resolve_source(name: str, lang: str = "en", snapshot: str | None = None) -> str:
    """The hub path of a known data set, such as "wikipedia-geotagged"; not tried live.

    Args:
        name: see `DATASETS`. ``lang``: "en" or "ja" in the snapshot known here. ``snapshot``: of the dump, "YYYYMMDD".

    Raises:
        ValueError: an unknown name, or a language or snapshot that is none.
    """
    if name not in DATASETS:
        raise ValueError(f"no data set {plain(name)!r} is known; there are {', '.join(DATASETS)}, or give a path")
    snapshot = snapshot or SNAPSHOT
    if not re.fullmatch(r"\d{8}", snapshot) or not re.fullmatch(r"[a-z-]{2,24}", lang):
        raise ValueError(f"snapshot {plain(snapshot)!r} must be YYYYMMDD, and language {plain(lang)!r} such as en")
    return f"hf://datasets/{DATASETS[name]}/{snapshot}.{lang}/train-*.parquet"


def from_table(
    out: str | Path,
    source: str,
    *,
    lang: str = "en",
    snapshot: str | None = None,
    bbox: tuple[float, float, float, float] | None = None,
    columns: Mapping[str, str] | None = None,
    min_chars: int = ArticleFilter.min_chars,
    max_chars: int = ArticleFilter.max_chars,
    places_only: bool = False,
    limit: int | None = None,
    rows_per_part: int = 20_000,
    workers: int = 1,
    simulated: bool = False,
    progress: bool = True,
) -> PlaceStore:
    """A place store of the articles in a table.

    Args:
        out: the store's folder. Unfinished work lies in ``<out>.work``; the same call goes on from it.
        source: a path or pattern of Parquet files, a hub path (``hf://datasets/...``), or a name in `DATASETS`.
        lang: of the texts. ``snapshot``: the day of the dump, for the data card; for a name in `DATASETS` also which.
        bbox: west, south, east, north in degrees; west > east for a box across the antimeridian.
        columns: what the columns are called, where it is otherwise than in `COLUMNS`.
        min_chars, max_chars, places_only: see :class:`geonb.data.sources.wikipedia.ArticleFilter`. With ``places_only``
            a column "classes" (QIDs of P31) is used where there is one.
        limit: only the first so many articles.
        rows_per_part: of the table, read at once; fewer where texts are long.
        workers: processes that read parts at once.
        simulated: whether the texts are, as those of :mod:`geonb.data.practice`; the store and its card say so.

    Raises:
        ValueError: a table that cannot be read or lacks columns, a box that is none.
        NetworkAbsent: the hub is not reached; says what to do.
        WorkError: no article is left, or as in :class:`geonb.data.work.Work`.
    """
    if rows_per_part < 1:
        raise ValueError(f"rows_per_part {rows_per_part} must be at least 1")
    if unknown := set(columns or {}) - set(COLUMNS):
        raise ValueError(f"columns may name {', '.join(COLUMNS)}, not {', '.join(sorted(unknown))}")
    box = checked_box(bbox)
    name = source
    if source in DATASETS:
        snapshot = snapshot or SNAPSHOT
        source = resolve_source(source, lang, snapshot)
    files = _files(str(source))
    tables = [_described(file, columns or {}) for file in files]
    filters = ArticleFilter(min_chars, max_chars, places_only)
    plan = {
        "route": "table", "lang": lang, "snapshot": snapshot, "bbox": box, "columns": dict(columns or {}),
        "rows_per_part": rows_per_part,
        "files": [{key: table[key] for key in ("name", "rows", "footer")} for table in tables],
    }  # fmt: skip

    def steps(_: Work) -> Iterator[Step]:
        for number, (file, table) in enumerate(zip(files, tables, strict=True)):
            for first, last in _ranges(table["groups"], rows_per_part):
                make = partial(read_part, file, first, last, table["columns"], lang, box, filters)
                yield f"table/{number:05d}-{first:010d}", make

    listed = name if name in DATASETS else f"of {len(files)} files" if len(files) > 1 else tables[0]["name"]
    return collect(
        out, plan, steps,
        source=f"Wikipedia, through the table {listed}", function="geonb.data.sources.wikipedia_table.from_table",
        filters=filters, limit=limit, workers=workers, simulated=simulated,
        progress=progress,
        notes=[note for role, note in _NOTES.items() if role not in tables[0]["columns"]],
    )  # fmt: skip


def read_part(
    file: str,
    first: int,
    last: int,
    columns: Mapping[str, str],
    lang: str,
    box: Sequence[float] | None,
    filters: ArticleFilter,
) -> tuple[pa.Table, Skips]:
    """Articles in the rows ``first`` to ``last`` (inclusive) of a file, and what was left out.

    Args:
        columns: role -> name of the column, for those that the file has.
        box: as in :func:`from_table`.
        filters: of it the longest text, which is not read into memory if it is longer, and whether classes matter.

    Raises:
        ValueError: the file cannot be read, its texts are too long for memory, or it changed while it was read.
    """
    used = {role: name for role, name in columns.items() if role != "classes" or filters.places_only}
    names = {role: '"' + name.replace('"', '""') + '"' for role, name in used.items()}
    at = {role: _TYPES.get(role, "CAST({} AS VARCHAR)").format(name) for role, name in names.items()}
    wanted, skips = _wanted(at, box), Skips()
    rows = "FROM read_parquet(?, file_row_number = true) WHERE file_row_number BETWEEN ? AND ?"
    given, in_rows = [value for *_, values in wanted for value in values], [_pattern(file), first, last]
    cases = " ".join(f"WHEN NOT {test} THEN '{reason}'" for reason, test, _ in wanted)
    title = f"arg_min(coalesce({at['title']}, ''), file_row_number)"
    count = f"SELECT CASE WHEN false THEN '' {cases} ELSE '' END AS why, count(*), min(file_row_number), {title} {rows}"
    fields = [f"{at[role]} AS {role}" for role in at if role not in ("text", "globe", "primary")]
    long = f"coalesce(length({at['text']}) > ?, false)"
    fields += [f"CASE WHEN {long} THEN NULL ELSE {at['text']} END AS text", f"{long} AS long", "file_row_number AS row"]
    select = " AND ".join([f"SELECT {', '.join(fields)} {rows}", *(test for _, test, _ in wanted)])
    with _connect(file) as con:
        left = _ask(con, file, f"{count} GROUP BY why ORDER BY why", [*given, *in_rows])
        table = _ask(con, file, select, [filters.max_chars] * 2 + in_rows + given, table=True)
    for reason, number, row, example in left:
        skips.add(reason, f"row {row}, {example!r}", number if reason else 0)
    if len(table) != sum(number for reason, number, *_ in left if not reason):
        raise ValueError(f"{Path(file).name}: changed while it was read; give the same command again")
    table = table.sort_by("row")  # versions of DuckDB differ in what they promise
    why_not = [filters.too_long if long else "" for long in table["long"].to_pylist()]
    if "classes" in used:
        kinds = map(class_is_no_place, table["classes"].to_pylist())
        why_not = [why or (kind and f"no place, but {kind}") for why, kind in zip(why_not, kinds, strict=True)]
    for why, page, title in zip(why_not, table["page_id"].to_pylist(), table["title"].to_pylist(), strict=True):
        if why:
            skips.add(why, f"page {page}, {title!r}")
    table = table.filter(pa.array([not why for why in why_not], pa.bool_()))
    table = table.drop_columns([name for name in ("classes", "long", "row") if name in table.column_names])
    return table.append_column("lang", pa.repeat(lang, len(table))), skips


_TYPES = {
    **dict.fromkeys(("page_id", "links"), "TRY_CAST({} AS BIGINT)"),
    **dict.fromkeys(("lon", "lat", "dim_m"), "TRY_CAST({} AS DOUBLE)"),
    "primary": "coalesce(TRY_CAST({} AS BOOLEAN), false)",
    "globe": "coalesce(lower(CAST({} AS VARCHAR)), 'earth')",
}
_NOTES = {
    "revision": "Revisions: the table has no column for them; the texts are those of its snapshot.",
    "globe": "That positions are on Earth: the table has no column for it.",
    "primary": "That positions are the articles' own: the table has no column for it.",
}


def _wanted(at: Mapping[str, str], box: Sequence[float] | None) -> list[tuple[str, str, list[float]]]:
    """What rows must be: the reason why one that is not so is left out, the test in SQL, and its parameters."""
    out: list[tuple[str, str, list[float]]] = []
    if "primary" in at:
        out.append(("not the article's own position", at["primary"], []))
    if "globe" in at:
        out.append(("not on Earth", f"({at['globe']} = 'earth')", []))
    if box:
        west, south, east, north = box
        joined = "AND" if west < east else "OR"
        inside = f"({at['lat']} BETWEEN ? AND ? AND ({at['lon']} >= ? {joined} {at['lon']} <= ?))"
        out.append(("no position", f"({at['lat']} IS NOT NULL AND {at['lon']} IS NOT NULL)", []))
        out.append(("outside the box", inside, [south, north, west, east]))
    return [(reason.replace("'", "''"), test, values) for reason, test, values in out]


# --- files --------------------------------------------------------------------------------------------


def checked_box(bbox: Sequence[float] | None) -> list[float] | None:
    """A box as west, south, east, north in degrees; west > east where it crosses the antimeridian; None stays None.

    Raises:
        ValueError: not four finite numbers, out of range, or empty.
    """
    if bbox is None:
        return None
    if len(bbox) != 4:
        raise ValueError(f"bbox {bbox} must have four numbers: west, south, east, north, in degrees")
    west, south, east, north = box = [float(value) for value in bbox]
    if not (all(map(math.isfinite, box)) and -180 <= min(west, east) and max(west, east) <= 180):
        raise ValueError(f"bbox {box}: west and east must lie in -180 to 180 degrees; is the order right?")
    if not -90 <= south < north <= 90 or west == east:
        raise ValueError(f"bbox {box}: south must be below north, both in -90 to 90 degrees, and west not east")
    return box


def _files(source: str) -> list[str]:
    if source.startswith("hf://"):
        if not _HUB.fullmatch(source):
            raise ValueError(f"{plain(source)!r} is no hub path of Parquet files: hf://datasets/OWNER/NAME/FILE.parquet")
        if not re.search(r"[*?\[]", source):
            return [source]
        with _connect(source) as con:
            found = [row[0] for row in _ask(con, source, "SELECT file FROM glob(?) ORDER BY file", [source])]
    elif "://" in source:
        raise ValueError(f"{plain(source)!r}: give a file, a pattern of files, or a hub path (hf://datasets/...)")
    else:
        found = [source] if Path(source).is_file() else sorted(glob.glob(source, recursive=True))
        found = [str(Path(file).resolve()) for file in found if Path(file).is_file()]
    if not found:
        raise ValueError(f"{plain(source)!r}: no such file; give Parquet files, such as 'folder/*.parquet'")
    return found


def _described(file: str, columns: Mapping[str, str]) -> dict:
    """What a file says of itself: name, rows, a hash of its footer, which columns have which role, row groups."""
    shown = Path(file).name
    with _connect(file) as con:
        there = [name for name, *_ in _ask(con, file, "DESCRIBE SELECT * FROM read_parquet(?)", [_pattern(file)])]
        meta = _ask(
            con, file,
            "SELECT row_group_id, row_group_num_rows, path_in_schema, total_uncompressed_size, total_compressed_size, "
            "data_page_offset FROM parquet_metadata(?) ORDER BY row_group_id, column_id", [_pattern(file)],
        )  # fmt: skip
    roles = {role: columns.get(role, usual) for role, usual in COLUMNS.items()}
    lacking = [roles[role] for role in roles if roles[role] not in there and (role in NEEDED or role in columns)]
    if lacking:
        raise ValueError(
            f"{shown}: no column {', '.join(map(plain, lacking))}; there are {', '.join(map(plain, there))}. "
            f"Say with columns= which is which of {', '.join(COLUMNS)}"
        )
    sizes = {group: rows for group, rows, *_ in meta}
    text = {group: 0 for group in sizes}
    for group, _, path, size, *_ in meta:
        text[group] += size if path == roles["text"] else 0
    return {
        "name": shown, "rows": sum(sizes.values()), "footer": hashlib.sha256(repr(meta).encode()).hexdigest(),
        "columns": {role: name for role, name in roles.items() if name in there},
        "groups": [(sizes[group], text[group]) for group in sorted(sizes)],
    }  # fmt: skip


def _ranges(groups: Sequence[tuple[int, int]], rows_per_part: int) -> Iterator[tuple[int, int]]:
    """First and last row of the parts of a file: whole row groups where those are small, pieces of them otherwise."""
    start, rows, size = 0, 0, 0
    for count, text in groups:
        if rows and (rows + count > rows_per_part or size + text > MAX_PART_BYTES):
            yield start, start + rows - 1
            start, rows, size = start + rows, 0, 0
        rows, size = rows + count, size + text
        pieces = math.ceil(max(rows / rows_per_part, size / MAX_PART_BYTES))
        if pieces > 1:
            step = math.ceil(rows / pieces)
            for first in range(start, start + rows, step):
                yield first, min(first + step, start + rows) - 1
            start, rows, size = start + rows, 0, 0
    if rows:
        yield start, start + rows - 1


@contextmanager
def _connect(file: str) -> Iterator:
    """DuckDB that can read this file and nothing else; from the hub, whatever it needs for that."""
    import duckdb

    hub = file.startswith("hf://")
    con = duckdb.connect(":memory:", config={
        "memory_limit": MEMORY_LIMIT, "threads": THREADS, "temp_directory": "", "custom_user_agent": AGENT,
        "autoinstall_known_extensions": hub, "autoload_known_extensions": hub, "allow_community_extensions": False,
    })  # fmt: skip
    try:
        if hub:
            _ask(con, file, "INSTALL httpfs")
            _ask(con, file, "LOAD httpfs")
        else:
            con.execute("SET allowed_paths = ?", [[file, _pattern(file)]])
            con.execute("SET enable_external_access = false")
        con.execute("SET lock_configuration = true")
        yield con
    finally:
        con.close()


class _TooMuch(Exception):
    pass


def _fetched(answer: Any) -> pa.Table:
    """An answer as a table, given up where it gets too large: a small file may hold one long text a million times."""
    reader = answer.to_arrow_reader if hasattr(answer, "to_arrow_reader") else answer.fetch_arrow_reader
    batches, size = [], 0
    with reader(ROWS_AT_ONCE) as stream:
        for batch in stream:
            size += batch.nbytes
            if size > MAX_ANSWER_BYTES:
                raise _TooMuch
            batches.append(batch)
        return pa.Table.from_batches(batches, stream.schema)


def _pattern(file: str) -> str:
    """What DuckDB, which takes every name for a pattern, reads as this name."""
    return file if file.startswith("hf://") else glob.escape(file)


def _ask(con: Any, file: str, query: str, given: Sequence = (), table: bool = False) -> Any:
    """The answer to a query, as rows or as an Arrow table; an error says which file it was and what to do."""
    import duckdb

    try:
        return _fetched(con.sql(query, params=list(given))) if table else con.execute(query, given).fetchall()
    except (duckdb.OutOfMemoryException, _TooMuch) as error:
        raise ValueError(f"{file}: texts too long to read so many at once; give fewer rows_per_part") from error
    except (duckdb.Error, pa.ArrowException, OSError) as error:  # damage may show only while batches come in
        said = plain(str(error))
        if file.startswith("hf://"):
            raise NetworkAbsent(
                f"no access to {file}: {said}\nDownload the files by hand from "
                f"https://huggingface.co/{'/'.join(file.split('/')[2:5])} and pass their path as the source"
            ) from error
        raise ValueError(f"{file}: cannot be read ({said}); is it a whole Parquet file?") from error
