"""Whom to credit for texts under a licence that asks for it, text by text and in words.

Creative Commons licences with BY ask for the creator, links to the work and the licence, and a note
on changes (https://creativecommons.org/licenses/by-sa/4.0/legalcode, section 3a).
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from geonb._util import row_numbers

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
LISTED = 20  # creators named in ATTRIBUTION.md
_ASKS = r"(?i)\bCC[ -]BY\b|\bCreative Commons Attribution\b"
_WIKIPEDIA = r"(?i)^https?://([a-z0-9-]+\.)+wikipedia\.org/"
_WORDS = """# Attribution

Texts of this place store are under licences that ask you to credit their authors, or what they were made from.
`attribution.parquet` lists what to credit for each of {count:,} texts. What was changed is empty where that is not
recorded; then see `datacard.md`.

| licence | creator | texts |
|---|---|---|
{table}
{more}
If you pass on these texts, or something made of them in which they can be recognised, pass on the table too, or its
rows for the places that you used: `geonb.data.attribution.attribution(store, rows)` returns them. Where there is little
room, name the creators and the licence, and link to the table. Texts under a licence with "SA" (share-alike) may be
passed on, changed or not, only under the same licence.
"""


def attribution(store: PlaceStore, rows: ArrayLike | None = None) -> pa.Table:
    """Look up whom to credit for the texts of places.

    Args:
        store: a :class:`geonb.data.store.PlaceStore`.
        rows: numbers, or a mask; all places by default.

    Returns:
        :data:`COLUMNS`, str or null, in the order of the rows; no row where no licence asks for one.
    """
    file = store.path / "attribution.parquet"
    table = pq.read_table(file) if file.exists() else SCHEMA.empty_table()
    names = store.place_id if rows is None else store.place_id[row_numbers(rows, len(store))]
    return table.take(pc.index_in(pa.array(names.tolist(), pa.string()), table["place_id"]).drop_null())


def write_credits(folder: Path, places: pa.Table) -> None:
    """Write the credits of a folder's texts, if any are due; licence or source may be the place's."""
    columns = ["place_id", "license", "revision", "url", "source"]
    texts = pq.read_table(folder / "texts.parquet", columns=columns)
    of_place = places.take(pc.index_in(texts["place_id"], places["place_id"].combine_chunks()))
    license = pc.coalesce(texts["license"], of_place["license"])
    wikipedia = pc.fill_null(pc.match_substring_regex(texts["url"], _WIKIPEDIA), False)
    urls = {name: _license_url(name) for name in pc.unique(license).to_pylist()}
    unknown = pa.scalar(None, pa.string())
    creator = pc.coalesce(texts["source"], of_place["source"])
    values = {
        "place_id": texts["place_id"],
        "title": of_place["title"],
        "url": texts["url"],
        "revision": texts["revision"],
        "license": license,
        "license_url": [urls[name] for name in license.to_pylist()],
        "creator": pc.if_else(wikipedia, "Wikipedia contributors", creator),
        "changes": pc.if_else(wikipedia, "plain text extracted; markup removed", unknown),
    }
    asks = pc.fill_null(pc.match_substring_regex(license, _ASKS), False)
    table = pa.table(values, schema=SCHEMA).filter(asks)
    if len(table):
        pq.write_table(table, folder / "attribution.parquet", compression="zstd")
        (folder / "ATTRIBUTION.md").write_text(_in_words(table), encoding="utf-8")


def _license_url(name: str | None) -> str | None:
    name = (name or "").upper().replace("-", " ")  # CC-BY-SA-4.0 is meant too
    found = [url for known, url in LICENSE_URLS.items() if known.replace("-", " ") in name]
    return found[0] if found else None


def _in_words(credits: pa.Table) -> str:
    counts = Counter(zip(credits["license"].to_pylist(), credits["creator"].to_pylist(), strict=True))
    ordered = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
    rows = [f"| {_cell(name)} | {_cell(creator)} | {n:,} |" for (name, creator), n in ordered[:LISTED]]
    rest = sum(n for _, n in ordered[LISTED:])
    more = f"\n{len(ordered) - LISTED:,} more creators, of {rest:,} texts, are in the table.\n" if rest else ""
    return _WORDS.format(count=len(credits), table="\n".join(rows), more=more)


def _cell(value: str | None) -> str:
    """Escape a name for a cell of a Markdown table: no markup, one line, at most 200 characters."""
    value = re.sub(r"[\s\x00-\x1f]+", " ", value or "not known").strip()
    value = value if len(value) <= 200 else value[:199] + "…"
    return re.sub(r"([\\`*_{}\[\]<>()#|!&~])", r"\\\1", value)
