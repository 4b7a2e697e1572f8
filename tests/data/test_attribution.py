"""Who is to be credited: for each text whose licence asks for it, in the store and beside what is made of it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from geonb.data.attribution import COLUMNS, attribution
from geonb.data.store import check_store, write_store

PLACES = {
    "place_id": [f"p{i}" for i in range(8)],
    "lon": np.arange(8.0),
    "lat": np.arange(8.0),
    "title": ["Zürich", "Lomé", None, "Zion", "Bath", "Nara", "Petra", "Fez"],
    "source": ["a table"] * 8,
    "license": [None] * 7 + ["CC BY 4.0"],
}
TEXTS = {
    "place_id": ["p5", "p0", "p1", "p2", "p3", "p4", "p7"],
    "text": ["one", "two", "three", "four", "five", "six", "seven"],
    "license": [
        "CC BY-SA 3.0 IGO", "CC BY-SA 4.0", "CC0 1.0", "CC BY-NC 4.0", "CC BY-SA 3.0 (Wikipedia contributors)", None, None,
    ],
    "url": [
        None, "https://de.wikipedia.org/wiki/Z%C3%BCrich", "https://en.wikipedia.org/wiki/Lom%C3%A9", "https://wikipedia.org.evil.example/",
        "https://en.wikipedia.org/wiki/Zion", None, None,
    ],
    "revision": [None, "17", "18", None, "19", None, None],
    "source": ["World Heritage List", "Wikipedia", "Wikipedia", "A book | <b>by</b> me\n\n# Big", "Wikipedia", "x", None],
}  # fmt: skip
SA = "https://creativecommons.org/licenses/by-sa/"
WIKI = ("Wikipedia contributors", "plain text extracted; markup removed")
EXPECTED = {
    "p5": ("Nara", None, None, "CC BY-SA 3.0 IGO", SA + "3.0/igo/", "World Heritage List", None),
    "p0": ("Zürich", TEXTS["url"][1], "17", "CC BY-SA 4.0", SA + "4.0/", *WIKI),
    "p2": (None, TEXTS["url"][3], None, "CC BY-NC 4.0", None, TEXTS["source"][3], None),
    "p3": ("Zion", TEXTS["url"][4], "19", TEXTS["license"][4], SA + "3.0/", *WIKI),
    "p7": ("Fez", None, None, "CC BY 4.0", "https://creativecommons.org/licenses/by/4.0/", "a table", None),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("attribution") / "s", places=PLACES, texts=TEXTS)


def rows_of(table: pa.Table) -> list[tuple]:
    return [tuple(row[name] for name in COLUMNS) for row in table.to_pylist()]


def expected(names: str) -> list[tuple]:
    return [(name, *EXPECTED[name]) for name in names.split()]


def test_a_store_says_whom_to_credit_for_which_text(store):
    table = pq.read_table(store.path / "attribution.parquet")
    assert tuple(table.column_names) == COLUMNS and rows_of(table) == expected("p5 p0 p2 p3 p7")
    check_store(store.path)
    assert rows_of(attribution(store)) == expected("p0 p2 p3 p5 p7")
    assert rows_of(attribution(store, [7, 6, 0, 1])) == expected("p7 p0")
    assert rows_of(attribution(store, store.has("text") & (store.lonlat[:, 0] > 2))) == expected("p3 p5 p7")
    assert rows_of(attribution(store, [])) == rows_of(attribution(store, [1])) == []


def test_the_words_name_creators_and_licences_and_nothing_from_outside_is_markup(store):
    words = (store.path / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert "for each of 5 texts" in words
    table = [line for line in words.splitlines() if line.startswith("|")]
    assert table[2:] == [
        "| CC BY 4.0 | a table | 1 |",
        r"| CC BY-NC 4.0 | A book \| \<b\>by\</b\> me \# Big | 1 |",
        r"| CC BY-SA 3.0 \(Wikipedia contributors\) | Wikipedia contributors | 1 |",
        "| CC BY-SA 3.0 IGO | World Heritage List | 1 |",
        "| CC BY-SA 4.0 | Wikipedia contributors | 1 |",
    ]


def test_many_creators_are_counted_not_listed(tmp_path):
    n = 50
    names = [f"p{i}" for i in range(n)]
    texts = {"place_id": names, "text": names, "license": ["cc-by-4.0"] * n, "source": [f"c{i:02d}" for i in range(n)]}
    texts["source"][40:] = ["the most"] * 10
    places = {"place_id": names, "lon": np.zeros(n), "lat": np.zeros(n)}
    store = write_store(tmp_path / "s", places=places, texts=texts)
    words = (store.path / "ATTRIBUTION.md").read_text()
    assert words.index("the most | 10") < words.index("c00 | 1") and "c18" in words and "c19" not in words
    assert "21 more creators, of 21 texts" in words and attribution(store)["creator"].to_pylist() == texts["source"]
    assert attribution(store)["license_url"].to_pylist() == ["https://creativecommons.org/licenses/by/4.0/"] * n


def test_no_files_where_no_licence_asks(tmp_path):
    texts = TEXTS | {"license": ["CC0 1.0"] * 7}
    store = write_store(tmp_path / "s", places=PLACES | {"license": ["ODbL 1.0"] * 8}, texts=texts)
    assert set(store.manifest["files"]) == {"places.parquet", "texts.parquet", "datacard.md"}
    assert len(attribution(store)) == 0
