"""The table route: what is read of a Parquet file, what is not, and files that are hostile, cut or strange."""

from __future__ import annotations

import csv
import gzip
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faulty import tree
from hypothesis import given
from hypothesis import strategies as st

from geonb.data.download import NetworkAbsent
from geonb.data.sources import wikipedia_table
from geonb.data.sources.local import real_data
from geonb.data.sources.wikipedia import ArticleFilter
from geonb.data.sources.wikipedia_table import COLUMNS, _ranges, checked_box, from_table, read_part, resolve_source
from geonb.data.work import WorkError

duckdb = pytest.importorskip("duckdb")

SCHEMA = pa.schema(
    [
        ("id", pa.string()), ("url", pa.string()), ("title", pa.string()), ("text", pa.string()), ("qid", pa.string()),
        ("lat", pa.float64()), ("lon", pa.float64()), ("gt_type", pa.string()), ("gt_globe", pa.string()),
        ("gt_dim", pa.int64()), ("gt_country", pa.string()), ("gt_region", pa.string()), ("gt_name", pa.string()),
        ("gt_primary", pa.bool_()),
        ("tags", pa.list_(pa.struct([("primary", pa.bool_()), ("lat", pa.float64()), ("lon", pa.float64())]))),
    ]
)  # fmt: skip


def rows(n: int, seed: int = 0, **columns) -> pa.Table:
    """A table in the form of yuiseki/wikipedia-geotagged."""
    rng = np.random.default_rng(seed)
    words = np.array(["river", "hill", "road", "market", "bridge", "old", "small", "wide", "near", "north"])
    ids = (np.sort(rng.choice(50 * n, n, replace=False)) + 10).tolist()
    data = {
        "id": [str(i) for i in ids],
        "url": [f"https://en.wikipedia.org/wiki/T{i}" for i in ids],
        "title": [f"T{i}" for i in ids],
        "text": [f"T{i} is the place. " + " ".join(rng.choice(words, 40)) for i in ids],
        "qid": [f"Q{i}" for i in ids],
        "lat": rng.uniform(-80, 80, n), "lon": rng.uniform(-180, 180, n),
        "gt_type": ["city"] * n, "gt_globe": ["earth"] * n, "gt_dim": [1000] * n, "gt_country": ["FR"] * n,
        "gt_region": [None] * n, "gt_name": [None] * n, "gt_primary": [True] * n, "tags": [[]] * n,
    }  # fmt: skip
    return pa.table(data | columns, SCHEMA if set(columns) <= set(SCHEMA.names) else None)


def write(table: pa.Table, file, group: int = 100) -> str:
    pq.write_table(table, file, row_group_size=group, compression="zstd")
    return str(file)


def get(out, source, **options):
    return from_table(out, source, **{"progress": False} | options)


def left_out(store) -> dict[str, int]:
    return store.manifest["made"]["left_out"]


# --- what comes out ------------------------------------------------------------------------------------


def test_a_table_becomes_a_store(tmp_path):
    table = rows(350)
    store = get(tmp_path / "s", write(table, tmp_path / "a.parquet"), snapshot="20260901", rows_per_part=100)
    assert store.place_id.tolist() == [f"enwiki-{i}" for i in table["id"].to_pylist()]
    np.testing.assert_array_equal(store.lonlat[:, 0], table["lon"].to_numpy())
    np.testing.assert_array_equal(store.lonlat[:, 1], table["lat"].to_numpy())
    assert store.texts(range(350)) == table["text"].to_pylist()
    assert store.text_column("url", range(350)) == table["url"].to_pylist()
    assert set(store.column("qid")) == set(table["qid"].to_pylist()) and set(store.column("country")) == {"France"}
    assert left_out(store) == {} and store.text_column("revision", [0]) == [None]
    card = (store.path / "datacard.md").read_text()
    assert "20260901" in card and "a.parquet" in card and "Revisions: the table has no column" in card
    assert str(tmp_path) not in "".join(f.read_text(errors="ignore") for f in store.path.rglob("*") if f.is_file())
    table = pq.read_table(store.path / "attribution.parquet").to_pylist()
    assert [row["url"] for row in table] == store.text_column("url", range(350))


def test_what_is_left_out_is_counted_by_reason(tmp_path):
    table = rows(
        12,
        gt_primary=[True, False, None] + [True] * 9,
        gt_globe=["earth", "earth", "earth", "moon", None, "EARTH"] + ["earth"] * 6,
        lat=[1.0, 1, 1, 1, 1, 1, None, 91, float("nan"), 0, 1, 1],
        lon=[1.0, 1, 1, 1, 1, 1, 1, 1, 1, 0, float("inf"), 1],
    )
    store = get(tmp_path / "s", write(table, tmp_path / "a.parquet"))
    assert left_out(store) == {
        "no position": 3, "not on Earth": 1, "not the article's own position": 2, "position at 0, 0": 1,
        "position out of range": 1,
    }  # fmt: skip
    assert len(store) == 4
    boxed = get(tmp_path / "boxed", str(tmp_path / "a.parquet"), bbox=(0.5, 0.5, 5, 5))
    assert left_out(boxed) == {
        "no position": 1, "not on Earth": 1, "not the article's own position": 2, "outside the box": 4
    }  # fmt: skip
    assert boxed.place_id.tolist() == store.place_id.tolist()


@pytest.mark.parametrize("bbox", [(-10.5, 20, 30.25, 60), (170, -40, -170, 40), (-180, -90, 180, 90), (-1, -80, 1, 80)])
def test_boxes_against_a_loop(tmp_path, bbox):
    table = rows(400)
    west, south, east, north = bbox

    def inside(lon, lat):
        return south <= lat <= north and (west <= lon <= east if west < east else lon >= west or lon <= east)

    wanted = [f"enwiki-{r['id']}" for r in table.to_pylist() if inside(r["lon"], r["lat"])]
    store = get(tmp_path / "s", write(table, tmp_path / "a.parquet"), bbox=bbox, rows_per_part=150)
    assert store.place_id.tolist() == wanted and left_out(store).get("outside the box", 0) == 400 - len(wanted)


def test_parts_processes_files_and_patterns_make_no_difference_to_what_is_there(tmp_path):
    table = rows(300)
    one = write(table, tmp_path / "one.parquet", 70)
    for i in range(3):
        write(table.slice(100 * i, 100), tmp_path / f"many-{i}.parquet", 33)
    stores = [
        get(tmp_path / f"s{i}", source, **options)
        for i, (source, options) in enumerate(
            [(one, {}), (one, {"rows_per_part": 1000}), (one, {"rows_per_part": 17}), (one, {"workers": 2}),
             (str(tmp_path / "many-*.parquet"), {})]
        )
    ]  # fmt: skip
    assert tree(stores[0].path) == tree(stores[3].path)
    assert len({(tuple(s.place_id), tuple(s.texts(range(300)))) for s in stores}) == 1


def test_pages_that_come_twice_are_taken_once(tmp_path):
    table = rows(50)
    write(table, tmp_path / "a.parquet")
    write(pa.concat_tables([table.slice(40), rows(30, seed=9, id=[str(10**6 + i) for i in range(30)])]), tmp_path / "b.parquet")
    store = get(tmp_path / "s", str(tmp_path / "[ab].parquet"))
    assert len(store) == 80 and left_out(store) == {"page seen before": 10}


def test_the_first_articles_only(tmp_path):
    file = write(rows(300), tmp_path / "a.parquet")
    whole = get(tmp_path / "whole", file)
    some = [get(tmp_path / f"s{w}", file, limit=120, rows_per_part=100, workers=w) for w in (1, 2)]
    assert some[0].place_id.tolist() == whole.place_id[:120].tolist() and tree(some[0].path) == tree(some[1].path)


def test_things_that_are_no_places(tmp_path):
    table = rows(4, gt_type=["event", "city", None, "city"])
    table = table.append_column("instance_of", pa.array(["Q1", "Q5", "Q515|Q5", None]))
    file = write(table, tmp_path / "a.parquet")
    store = get(tmp_path / "s", file, places_only=True)
    assert left_out(store) == {"no place, but a person": 1, "no place, but an event": 1} and len(store) == 2
    assert len(get(tmp_path / "all", file)) == 4
    lists = table.drop_columns(["instance_of"]).append_column("p31", pa.array([["Q1"], ["Q5"], ["Q515", "Q5"], None]))
    other = get(tmp_path / "o", write(lists, tmp_path / "b.parquet"), places_only=True, columns={"classes": "p31"})
    assert left_out(other) == left_out(store)


def test_other_names_of_columns(tmp_path):
    table = rows(20).select(["id", "title", "text", "lat", "lon"])
    renamed = table.rename_columns(['page "id"', "name; DROP TABLE x", "te'xt", "Breite", "x y"])
    file = write(renamed, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="no column id, title.*there are page \"id\", name; DROP.*columns="):
        get(tmp_path / "s", file)
    columns = {"page_id": 'page "id"', "title": "name; DROP TABLE x", "text": "te'xt", "lat": "Breite", "lon": "x y"}
    store = get(tmp_path / "s", file, columns=columns, lang="de")
    assert store.place_id[0] == f"dewiki-{table['id'][0]}" and store.texts([0]) == [table["text"][0].as_py()]
    assert store.text_column("url", [0]) == [f"https://de.wikipedia.org/?curid={table['id'][0]}"]
    assert "on Earth: the table has no column" in (store.path / "datacard.md").read_text()
    with pytest.raises(ValueError, match="no column gt_type"):
        get(tmp_path / "t", file, columns=columns | {"type": "gt_type"})
    with pytest.raises(ValueError, match="columns may name"):
        get(tmp_path / "t", file, columns={"txt": "text"})


def test_numbers_that_are_written_as_text(tmp_path):
    table = rows(6).drop_columns(["lat", "lon"])
    table = table.append_column("lat", pa.array(["1.5", "1e400", "NaN", "x", None, "-2"]))
    table = table.append_column("lon", pa.array(["2.5", "1", "1", "1", "1", " 3 "]))
    table = table.set_column(0, "id", pa.array(["7", "8", "9", "10", "11", "99999999999999999999"]))
    store = get(tmp_path / "s", write(table, tmp_path / "a.parquet"))
    assert store.place_id.tolist() == ["enwiki-7"] and store.lonlat.tolist() == [[2.5, 1.5]]
    assert left_out(store) == {"no position": 4, "no page id": 1}


# --- what is read, and what is not ---------------------------------------------------------------------


def spoil(file, column: str, group: int) -> None:
    """Overwrite the pages of a column in a row group: whoever reads them fails."""
    chunk = pq.ParquetFile(file).metadata.row_group(group)
    where = next(c for i in range(chunk.num_columns) if (c := chunk.column(i)).path_in_schema == column)
    start = where.dictionary_page_offset or where.data_page_offset
    data = bytearray(open(file, "rb").read())
    data[start : start + where.total_compressed_size] = b"\xff" * where.total_compressed_size
    open(file, "wb").write(data)


def test_columns_and_row_groups_that_are_not_needed_are_not_read(tmp_path):
    table = rows(500).sort_by("lat")
    file = write(table, tmp_path / "a.parquet", 100)
    box = (-180, float(table["lat"][110].as_py()), 180, float(table["lat"][190].as_py()))
    undisturbed = get(tmp_path / "u", file, bbox=box, rows_per_part=1000)
    assert len(undisturbed) == 81
    for column in ("gt_region", "gt_name", "tags.list.element.lat"):
        spoil(file, column, 1)
    for group in (0, 2, 3, 4):
        for column in ("text", "url", "qid"):
            spoil(file, column, group)
    store = get(tmp_path / "s", file, bbox=box, rows_per_part=1000)
    assert store.texts(range(81)) == undisturbed.texts(range(81))
    with pytest.raises(ValueError, match="cannot be read"):
        get(tmp_path / "t", file, rows_per_part=1000)


def test_a_part_reads_its_own_row_groups_alone(tmp_path):
    file = write(rows(300), tmp_path / "a.parquet", 100)
    spoil(file, "text", 0)
    spoil(file, "lat", 2)
    columns = {role: name for role, name in COLUMNS.items() if name in SCHEMA.names}
    table, skips = read_part(file, 100, 199, columns, "en", None, ArticleFilter())
    assert len(table) == 100 and not skips.counts


@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 2**30)), max_size=30), st.integers(1, 3000))
def test_parts_have_every_row_once_and_are_not_too_large(groups, rows_per_part):
    parts = list(_ranges(groups, rows_per_part))
    total = sum(count for count, _ in groups)
    assert [row for first, last in parts for row in (first, last)] == sorted(row for part in parts for row in part)
    assert sum(last - first + 1 for first, last in parts) == total
    assert all(b[0] == a[1] + 1 for a, b in zip(parts, parts[1:], strict=False))
    assert all(last - first < rows_per_part for first, last in parts)


def test_nothing_but_the_file_is_within_reach(tmp_path):
    file = write(rows(5), tmp_path / "it's [a] *.parquet")
    write(rows(7), tmp_path / "it's a x.parquet")  # which the name of the other would match as a pattern
    secret = tmp_path / "secret.txt"
    secret.write_text("x")
    with wikipedia_table._connect(file) as con:
        assert con.execute("SELECT count(*) FROM read_parquet(?)", [wikipedia_table._pattern(file)]).fetchone() == (5,)
        for query in (
            f"SELECT * FROM read_text('{secret}')", f"SELECT * FROM read_parquet('{tmp_path}/*x.parquet')", f"COPY (SELECT 1) TO '{tmp_path}/out.csv'", "INSTALL httpfs",
            f"ATTACH '{tmp_path}/x.db'", "SET enable_external_access = true", "SET memory_limit = '9GB'",
            "SELECT * FROM read_parquet('hf://datasets/a/b/c.parquet')",
        ):  # fmt: skip
            with pytest.raises(duckdb.Error):
                con.execute(query)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["it's [a] *.parquet", "it's a x.parquet", "secret.txt"]
    assert len(get(tmp_path / "s", file)) == 5


# --- hostile and broken --------------------------------------------------------------------------------


def test_hostile_texts_and_titles_do_no_harm(tmp_path):
    titles = ["'); DROP TABLE articles; --", "<img src=x onerror=alert(1)>", "[a](http://b) | c\n# d", "nul\x00nul",
              "\u202egnp.exe", "`code`", "", " \t "]  # fmt: skip
    texts = ["word " * 20] * 5 + ["x" * 10_000_000, "word " * 20, "word " * 20]
    urls = ["javascript:alert(1)", "https://en.wikipedia.org/wiki/A b", "https://evil.example/wiki/X",
            "https://en.wikipedia.org/wiki/<script>", "https://en.wikipedia.org/wiki/Ok", None, None, None]  # fmt: skip
    table = rows(8, title=titles, text=texts, url=urls, qid=["Q1; DROP"] * 8, gt_type=["City", "<b>"] * 4,
                 gt_country=["fr", "xx", "FRA", "'", None, "", "de", "de"], gt_dim=[-5, 0, 10, 2**62, None, 1, 1, 1])  # fmt: skip
    store = get(tmp_path / "s", write(table, tmp_path / "a.parquet"))
    assert left_out(store) == {"no title": 2, "text of more than 300,000 characters": 1}
    assert store.column("title").tolist() == [titles[0], titles[1], "[a](http://b) | c # d", "nulnul", titles[4]]
    made = [f"https://en.wikipedia.org/?curid={i}" for i in table["id"].to_pylist()]
    assert store.text_column("url", range(5)) == [*made[:4], urls[4]]
    assert store.column("qid").tolist() == [None] * 5 and store.column("type").tolist() == ["city", None] * 2 + ["city"]
    assert store.column("country_code").tolist() == ["FR", "XX", None, None, None]
    assert store.column("dim_m").tolist()[2:3] == [10.0] and np.isnan(store.column("dim_m")[[0, 1, 3, 4]]).all()


def test_a_small_file_with_enormous_texts_is_given_up(tmp_path, monkeypatch):
    """One text of 240,000 characters, named 600 times: 144 MB of a file of some kB."""
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 600, pa.int32()), pa.array(["word " * 48_000]))
    table = rows(600)
    file = write(table.set_column(3, "text", text), tmp_path / "a.parquet", 600)
    assert os.path.getsize(file) < 1_000_000
    monkeypatch.setattr(wikipedia_table, "MAX_ANSWER_BYTES", 60 << 20)
    monkeypatch.setattr(wikipedia_table, "ROWS_AT_ONCE", 64)
    with pytest.raises(ValueError, match="a.parquet: texts too long.*rows_per_part"):
        get(tmp_path / "s", file)
    assert len(get(tmp_path / "t", file, rows_per_part=150, limit=150)) == 150


def test_texts_that_are_no_utf8_stop_with_the_file(tmp_path):
    table = rows(3).set_column(3, "text", pa.array([b"\xff\xfe broken" * 9] * 3, pa.binary()).view(pa.string()))
    with pytest.raises(ValueError, match=r"a.parquet: cannot be read .*Invalid string encoding"):
        get(tmp_path / "s", write(table, tmp_path / "a.parquet"))


@pytest.mark.parametrize("spoiled", ["empty", "cut", "no parquet"])
def test_a_broken_file_is_named(tmp_path, spoiled):
    file = tmp_path / "a.parquet"
    data = open(write(rows(100), file), "rb").read()
    file.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "no parquet": b"PAR1" + b"x" * 100}[spoiled])
    with pytest.raises(ValueError, match="a.parquet: cannot be read.*whole Parquet file"):
        get(tmp_path / "s", str(file))
    assert not (tmp_path / "s.work").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bbox": (1, 2, 3)}, "four numbers"),
        ({"bbox": (0, 50, 10, 40)}, "south must be below north"),
        ({"bbox": (0, 0, 190, 10)}, "is the order right"),
        ({"bbox": (0, 0, float("inf"), 10)}, "west and east"),
        ({"rows_per_part": 0}, "rows_per_part"),
        ({"lang": "../x"}, "no language"),
        ({"min_chars": 10, "max_chars": 5}, "min_chars"),
    ],
)
def test_wrong_options_are_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        get(tmp_path / "s", write(rows(3), tmp_path / "a.parquet"), **options)
    assert not (tmp_path / "s").exists()


def test_sources_that_are_none(tmp_path):
    for source, message in (
        (str(tmp_path / "none.parquet"), "no such file"), (str(tmp_path), "no such file"),
        ("https://example.org/a.parquet", "hub path"), ("hf://datasets/a", "hub path"),
        ("hf://datasets/a/b/../../c.parquet'; --.parquet", "hub path"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            get(tmp_path / "s", source)


def test_the_hub_without_a_network_says_what_to_do(tmp_path, monkeypatch):
    """With no extension on the disk and no network there is no way to the hub."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
    source = resolve_source("wikipedia-geotagged", "en")
    assert source == "hf://datasets/yuiseki/wikipedia-geotagged/20260901.en/train-*.parquet"
    message = "Download the files by hand from https://huggingface.co/datasets/yuiseki/wikipedia-geotagged and pass"
    with pytest.raises(NetworkAbsent, match=message):
        get(tmp_path / "s", "wikipedia-geotagged")
    assert not (tmp_path / "s.work").exists()


def test_data_sets_by_name():
    assert resolve_source("wikipedia-geotagged", "ja", "20261001").endswith("/20261001.ja/train-*.parquet")
    for args in (("other",), ("wikipedia-geotagged", "../x"), ("wikipedia-geotagged", "en", "2026")):
        with pytest.raises(ValueError):
            resolve_source(*args)


def test_boxes_as_they_are_given():
    assert checked_box(None) is None and checked_box([170, -10, -170, 10]) == [170.0, -10.0, -170.0, 10.0]


# --- stopped, and gone on ------------------------------------------------------------------------------


def test_killed_in_the_middle_it_goes_on(tmp_path):
    file = write(rows(4000), tmp_path / "a.parquet", 200)
    undisturbed = get(tmp_path / "u", file, rows_per_part=200)
    code = "import sys, geonb.data.sources.wikipedia_table as w; w.from_table(*sys.argv[1:], rows_per_part=200, progress=False)"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "s"), file])
    parts = tmp_path / "s.work" / "parts" / "table"
    for _ in range(3000):
        if len(list(parts.glob("*.parquet"))) > 8:
            break
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = {p.name: p.stat().st_mtime_ns for p in parts.glob("0*[0-9].parquet")}
    assert 0 < len(kept) < 20 and not (tmp_path / "s").exists()
    with pytest.raises(WorkError, match="rows_per_part"):
        get(tmp_path / "s", file, rows_per_part=100)
    assert {name: (parts / name).stat().st_mtime_ns for name in kept} == kept
    get(tmp_path / "s", file, rows_per_part=200)
    assert tree(tmp_path / "s") == tree(undisturbed.path)


def test_a_file_that_has_changed_does_not_go_on(tmp_path):
    file = write(rows(300), tmp_path / "a.parquet")
    spoil(file, "text", 2)
    with pytest.raises(ValueError, match="cannot be read"):
        get(tmp_path / "s", file, rows_per_part=100)
    write(rows(300, seed=1), file)
    with pytest.raises(WorkError, match="files"):
        get(tmp_path / "s", file, rows_per_part=100)


# --- real articles -------------------------------------------------------------------------------------


def test_real_articles(tmp_path):
    try:
        found = next(path for path in real_data()["csv"] if path.name.startswith("wikipedia_places"))
    except FileNotFoundError as error:
        pytest.skip(str(error))
    with gzip.open(found, "rt", encoding="utf-8", newline="") as stream:
        real = list(csv.DictReader(stream))
    table = pa.table(
        {
            "id": [str(i + 1) for i in range(len(real))], "title": [r["article"].replace("_", " ") for r in real],
            "text": [r["text"] for r in real], "lon": [float(r["longitude"]) for r in real],
            "lat": [float(r["latitude"]) for r in real], "gt_type": [r["kind"] for r in real],
        }
    )  # fmt: skip
    store = get(tmp_path / "s", write(table, tmp_path / "real.parquet"), places_only=True)
    zero = sum(float(r["longitude"]) == float(r["latitude"]) == 0 for r in real)
    assert len(real) == 1573 and zero == 37
    assert left_out(store) == {"position at 0, 0": 37} and len(store) == 1536
    at = {r["article"].replace("_", " "): r["text"].strip() for r in real}
    assert all(at[title] == text for title, text in zip(store.column("title"), store.texts(range(1536)), strict=True))
    marked = [t for t, g in zip(store.column("title"), store.column("near_duplicate"), strict=True) if g]
    assert set(marked) <= {"Concepción Lake", "Lac de Bious-Artigues"}, marked  # J = 0.71, no other pair has more
    card = (store.path / "datacard.md").read_text()
    assert "| 37 | position at 0, 0 | `page " in card
