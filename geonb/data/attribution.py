"""Who is to be credited for texts under a licence that asks for it, text by text and in words.

Licences of the Creative Commons family with BY in their name ask for the creator, a link to the work and to the
licence, and a word on what was changed (https://creativecommons.org/licenses/by-sa/4.0/, section 3a). Whatever is made
of such texts needs the same: :func:`write_attribution` makes the table for the places that were used.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from geonb._util import write_atomically

if TYPE_CHECKING:
    from geonb.data.store import PlaceStore

COLUMNS = ("place_id", "title", "url", "revision", "license", "license_url", "creator", "changes")
SCHEMA = pa.schema([(name, pa.string()) for name in COLUMNS])
LICENSE_URLS = {
    "CC BY-SA 3.0 IGO": "https://creativecommons.org/licenses/by-sa/3.0/igo/",
    "CC BY-SA 4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "CC BY-SA 3.0": "https://creativecommons.org/licenses/by-sa/3.0/",
    "CC BY 4.0": "https://creativecommons.org/licenses/by/4.0/",
}
ROWS = 4096  # handled at a time
LISTED = 20  # creators named in ATTRIBUTION.md
_ASKS = r"(?i)\bCC[ -]BY\b|\bCreative Commons Attribution\b"
_WIKIPEDIA = r"(?i)^https?://([a-z0-9-]+\.)+wikipedia\.org/"
_WORDS = """# Attribution

Texts of this place store are under licences that ask you to credit who wrote them, or what they were made from.
`attribution.parquet` says for each of {count:,} texts what to credit: its title, link (`url`) and revision, its licence
and the licence's link, its creator, and what was changed (empty where that is not recorded; then see `datacard.md`).

| licence | creator | texts |
|---|---|---|
{table}
{more}
Whoever passes on these texts, or what is made of them so that they can be recognised in it, gives the table along, or
its rows for the places that were used: `geonb.data.attribution.write_attribution(store, path, rows)` writes them. Where
there is little room, name the creators and the licence, and link to the table. Texts under a licence with "SA"
(share-alike) may be passed on, changed or not, only under the same licence.
"""


def attribution(store: PlaceStore, rows: ArrayLike | None = None) -> pa.Table:
    """Who is to be credited for the texts of places.

    Args:
        store: a :class:`geonb.data.store.PlaceStore`.
        rows: of the store (numbers, or a mask); all places by default. Those without a text, or with one whose
            licence asks for nothing, give no row.

    Returns:
        :data:`COLUMNS`, all str, in the order of the rows; null where something is not known.
    """
    return pa.concat_tables([SCHEMA.empty_table(), *_of_store(store, rows)])


def write_attribution(store: PlaceStore, path: str | Path, rows: ArrayLike | None = None) -> int:
    """Write :func:`attribution` as a Parquet file, to go with what was made of the texts; returns how many rows it has.

    ``rows`` are those of the store, as for :func:`attribution`.

    Raises:
        OSError: the file cannot be written; none is left in half.
    """
    count = 0

    def write(stream: BinaryIO) -> None:
        nonlocal count
        with pq.ParquetWriter(stream, SCHEMA, compression="zstd") as writer:
            for table in _of_store(store, rows):
                writer.write_table(table)
                count += len(table)

    write_atomically(Path(path), write)
    return count


def _of_store(store: PlaceStore, rows: ArrayLike | None) -> Iterator[pa.Table]:
    rows = np.arange(len(store)) if rows is None else np.asarray(rows)
    rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
    rows = rows[store.has("text")[rows]]
    for start in range(0, len(rows), ROWS):
        part = rows[start : start + ROWS]
        texts = {name: store.text_column(name, part) for name in ("license", "revision", "url", "source")}
        table = pa.table({name: pa.array(values, pa.string()) for name, values in texts.items()})
        yield credits(table.append_column("place_id", pa.array(store.place_id[part].tolist())), store.places, part)


def credits(texts: pa.Table, places: pa.Table | dict[str, pa.Array], rows: np.ndarray) -> pa.Table:
    """The rows of :data:`SCHEMA` for texts (with ``place_id``, ``license``, ``revision``, ``url``, ``source``).

    A text without licence or source has those of its place: ``rows`` (n,), one for each text, of the columns of
    ``places``.
    """
    names = places.column_names if isinstance(places, pa.Table) else places
    index, nothing = pa.array(rows), pa.nulls(len(rows), pa.string())
    title, source, license = (
        places[name].take(index) if name in names else nothing for name in ("title", "source", "license")
    )
    license = pc.coalesce(texts["license"], license)
    wikipedia = pc.fill_null(pc.match_substring_regex(texts["url"], _WIKIPEDIA), False)
    known = pc.unique(license)
    urls = pa.array([_license_url(name) for name in known.to_pylist()], pa.string())
    columns = {
        "place_id": texts["place_id"],
        "title": title,
        "url": texts["url"],
        "revision": texts["revision"],
        "license": license,
        "license_url": urls.take(pc.index_in(license, known)),
        "creator": pc.if_else(wikipedia, "Wikipedia contributors", pc.coalesce(texts["source"], source)),
        "changes": pc.if_else(wikipedia, "plain text extracted; markup removed", nothing),
    }
    return pa.table(columns, schema=SCHEMA).filter(pc.fill_null(pc.match_substring_regex(license, _ASKS), False))


def _license_url(name: str | None) -> str | None:
    name = (name or "").upper().replace("-", " ")  # CC-BY-SA-4.0 is meant too
    return next((url for known, url in LICENSE_URLS.items() if known.replace("-", " ") in name), None)


class AttributionWriter:
    """``attribution.parquet`` and ``ATTRIBUTION.md`` in a folder, a few rows at a time; no file where none are due.

    Use it in a ``with`` statement.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counts: Counter = Counter()
        self._writer: pq.ParquetWriter | None = None
        self._pending: list[pa.Table] = []

    def add(self, table: pa.Table) -> None:
        """More rows of :data:`SCHEMA`."""
        self.counts.update(zip(table["license"].to_pylist(), table["creator"].to_pylist(), strict=True))
        self._pending.append(table)
        if sum(map(len, self._pending)) >= ROWS:
            self._flush()

    def _flush(self) -> None:
        table = pa.concat_tables([SCHEMA.empty_table(), *self._pending]).combine_chunks()
        self._pending = []
        if not len(table):
            return
        if self._writer is None:
            self._writer = pq.ParquetWriter(self.folder / "attribution.parquet", SCHEMA, compression="zstd")
        self._writer.write_table(table)

    def __enter__(self) -> AttributionWriter:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        if failed is None:
            self._flush()
        if self._writer is not None:
            self._writer.close()
            if failed is None:
                (self.folder / "ATTRIBUTION.md").write_text(_in_words(self.counts), encoding="utf-8")


def _in_words(counts: Counter) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], [name or "" for name in item[0]]))
    rows = [f"| {_plain(license)} | {_plain(creator)} | {n:,} |" for (license, creator), n in ordered[:LISTED]]
    rest = sum(n for _, n in ordered[LISTED:])
    more = f"\n{len(ordered) - LISTED:,} more creators, of {rest:,} texts, are in the table.\n" if rest else ""
    return _WORDS.format(count=counts.total(), table="\n".join(rows), more=more)


def _plain(value: str | None) -> str:
    """Words from outside, in a cell of a Markdown table: no markup, one line, not endless."""
    value = re.sub(r"[\s\x00-\x1f]+", " ", value or "not known").strip()
    value = value if len(value) <= 200 else value[:199] + "…"
    return re.sub(r"([\\`*_{}\[\]<>()#|!&~])", r"\\\1", value)
