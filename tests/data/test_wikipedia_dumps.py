"""The dumps into a store: what is left out and why, what is damaged, and every way to be stopped."""

import bz2
import gzip
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from array import array
from collections import Counter
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from faulty import serve, tree
from hypothesis import given, settings
from hypothesis import strategies as st

from geonb.data import download as net
from geonb.data.download import DownloadError, NetworkAbsent, WrongChecksum
from geonb.data.practice_dumps import GEO_TAGS, PAGE, document, page_row, pair, sql_dump, tag_row, write_dumps
from geonb.data.sources import wikipedia_dumps as module
from geonb.data.sources.sqldump import DamagedDump
from geonb.data.sources.wikipedia_dumps import from_dumps, page_url, read_cirrus, read_geo_tags, read_pages
from geonb.data.store import PlaceStore
from geonb.data.work import Skips, WorkError

ME = "tests@example.org"
NAMES = ["Robert'); DROP TABLE page;--", "x'),(1,'earth',1,0,0", "<b>Bold</b> & [[link]]", "Foo \\ \"bar\" 'baz'", "Ålesund/Ørsta 水"]
INDEX = "/other/cirrus_search_index/20260906/index_name=testwiki_content/"
SHARDS = [f"{INDEX}testwiki_content-20260906-{number:05d}.json.bz2" for number in range(3)]
TABLES = [f"/testwiki/20260901/testwiki-20260901-{table}.sql.gz" for table in ("geo_tags", "page")]


def served(root: Path) -> dict[str, bytes]:
    """What the server of the dumps answers: the files, and its listings of folders."""
    answers = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_file():
            answers[f"/{name}"] = path.read_bytes()
            continue
        links = [f"{quote(child.name)}{'/' if child.is_dir() else ''}" for child in sorted(path.iterdir())]
        lines = "\n".join(f'<a href="{link}">{link}</a>    02-Sep-2026 10:31    123' for link in ["../", *links])
        title = f"<html>\n<head><title>Index of /{name}/</title></head>\n<body>\n<h1>Index of /{name}/</h1><hr><pre>"
        answers[f"/{name}/"] = f"{title}{lines}\n</pre><hr></body>\n</html>\n".encode()
    return answers


def articles(n: int, seed: int = 0) -> list[dict]:
    rng = random.Random(seed)
    words = "river hill church mine lake bridge market forest harbour school quarry castle".split()
    return [
        {
            "page_id": 100 + 7 * i, "title": NAMES[i] if i < len(NAMES) else f"Place {i}",
            "lon": rng.uniform(-180, 180), "lat": rng.uniform(-90, 90), "dim": 1000 if i % 3 else None,
            "text": f"Place {i} is a village. " + " ".join(rng.choices(words, k=40)), "links": i,
            "opening": f"Place {i} is a village with a " + " ".join(rng.choices(words, k=8)) + ".",
            "type": ["city(334,000", "river:us-oh", "Landmark", None][i % 4], "country": "DE" if i % 2 else None,
            "qid": f"Q{i + 1}", "revision": 1_300_000_000 + i,
        }
        for i in range(n)
    ]  # fmt: skip


ARTICLES = articles(60)


@pytest.fixture(scope="module")
def dumps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dumps")
    return folder, write_dumps(folder, ARTICLES, shards=3)


@pytest.fixture
def server(dumps, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(net, "_sleep", lambda seconds: None)
    with serve(served(dumps[0])) as here:
        here.tricks = {}
        yield here


def fetched(out, server, **more):
    return from_dumps(out, wiki="testwiki", base_url=server.url, contact=ME, progress=False, **more)


@pytest.fixture(scope="module")
def undisturbed(dumps, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("no_proxy", "127.0.0.1")
        with serve(served(dumps[0])) as here:
            out = tmp_path_factory.mktemp("undisturbed") / "store"
            fetched(out, here)
    return tree(out)


def gz(path: Path, *pieces: bytes) -> Path:
    path.write_bytes(gzip.compress(b"".join(pieces)))
    return path


# --- the whole ----------------------------------------------------------------------------------------


def test_from_files_on_disk_every_article_has_its_facts_and_all_that_is_left_out_is_counted(dumps, tmp_path):
    folder, wrong = dumps
    store = from_dumps(tmp_path / "store", wiki="testwiki", folder=folder, progress=False)
    want = sorted(ARTICLES, key=lambda a: a["page_id"])
    places = store.places
    by_id = {place: row for row, place in enumerate(places["place_id"].to_pylist())}
    assert set(by_id) == {f"enwiki-{a['page_id']}" for a in want}
    texts = {name: store.text_column(name, range(len(store))) for name in ("text", "revision", "lang", "url")}
    for a in want:
        row = by_id[f"enwiki-{a['page_id']}"]
        assert places["title"][row].as_py() == a["title"]
        assert store.lonlat[row] == pytest.approx([a["lon"], a["lat"]], abs=1e-8)
        kind = {"city(334,000": "city", "river:us-oh": "river", "Landmark": "landmark", None: None}[a["type"]]
        assert [places[n][row].as_py() for n in ("type", "dim_m", "country_code", "qid", "links")] == [
            kind, a["dim"], a["country"], a["qid"], a["links"]
        ]  # fmt: skip
        assert [texts[n][row] for n in texts] == [a["text"], str(a["revision"]), "en", page_url("en", a["title"])]
    assert store.manifest["made"]["left_out"] == {
        "tag: not on Earth": wrong["not on Earth"], "tag: not the article's own position": wrong["secondary"],
        "tag: no position": wrong["no position"], "tag: position out of range": wrong["out of range"],
        "tag: another one of its page": wrong["second of its page"], "page: a redirect": wrong["redirect"],
        "page: not an article (namespace)": wrong["namespace"], "page: not in the page table": wrong["no page"],
        "text: in no shard": wrong["in no shard"],
    }  # fmt: skip
    assert min(wrong.values()) > 0
    plan = store.manifest["made"]["plan"]
    assert (plan["snapshot"], plan["tables_snapshot"]) == ("20260906", "20260901") and len(plan["shards"]) == 3
    card = (tmp_path / "store" / "datacard.md").read_text(encoding="utf-8")
    assert "texts of 20260906" in card and "| 1 | text: in no shard |" in card
    assert str(tmp_path) not in json.dumps(store.manifest)


def test_a_title_is_data_in_its_address():
    assert page_url("en", NAMES[0]) == "https://en.wikipedia.org/wiki/Robert%27);_DROP_TABLE_page;--"
    assert page_url("simple", "A?b#c&d=e <f> \"g\"") == "https://simple.wikipedia.org/wiki/A%3Fb%23c%26d%3De_%3Cf%3E_%22g%22"
    assert page_url("de", "Ålesund") == "https://de.wikipedia.org/wiki/%C3%85lesund"


def test_from_the_server_the_newest_complete_dumps_are_fetched_one_file_at_a_time_and_not_kept(server, tmp_path):
    for path in SHARDS[:2]:  # a newer index that is not finished, and newer tables that are not
        server.files[path.replace("20260906", "20260913")] = b"half"
    listing = server.files[INDEX].decode()
    server.files[INDEX.replace("20260906", "20260913")] = listing.replace("20260906", "20260913").replace("_SUCCESS", "x").encode()
    server.files["/other/cirrus_search_index/"] += b'<a href="20260913/">20260913/</a><a href="20260809/">x</a>'
    server.files["/testwiki/"] += b'<a href="20261001/">20261001/</a><a href="latest/">latest/</a>'
    server.files["/testwiki/20261001/testwiki-20261001-sha1sums.txt"] = b"0" * 40 + b"  testwiki-20261001-page.sql.gz\n"
    left = []
    server.answer = None
    watched = tmp_path / "store.work" / "downloads"
    original = module._remove_read

    def remove_read(*args):
        original(*args)
        left.append(sorted(p.name for p in watched.iterdir() if p.suffix in (".gz", ".bz2")))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_remove_read", remove_read)
        store = fetched(tmp_path / "store", server)
    assert len(store) == len(ARTICLES)
    plan = store.manifest["made"]["plan"]
    assert (plan["snapshot"], plan["tables_snapshot"]) == ("20260906", "20260901")
    assert left == [[]] * 4
    assert [r.path for r in server.seen][-5:] == [*TABLES, *SHARDS]
    assert all(ME in r.headers["User-Agent"] for r in server.seen) and server.most_at_once == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["store"]


def test_several_processes_read_shards_and_give_the_same_bytes(server, undisturbed, tmp_path):
    fetched(tmp_path / "store", server, workers=2)
    assert tree(tmp_path / "store") == undisturbed
    assert server.most_at_once == 1


def test_kept_downloads_are_a_folder_for_another_store(server, tmp_path):
    first = fetched(tmp_path / "a", server, keep_downloads=True)
    second = from_dumps(tmp_path / "b", wiki="testwiki", folder=tmp_path / "a.downloads", progress=False)
    assert first.data_hash == second.data_hash


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"bbox": (170, -90, -170, 90)}, lambda a: a["lon"] >= 170 or a["lon"] <= -170),
        ({"bbox": (-90, -45, 90, 45)}, lambda a: -90 <= a["lon"] <= 90 and -45 <= a["lat"] <= 45),
        ({"text": "opening", "min_chars": 20}, lambda a: True),
    ],
)
def test_a_box_also_across_the_antimeridian_and_openings_only(dumps, tmp_path, options, kept):
    store = from_dumps(tmp_path / "store", wiki="testwiki", folder=dumps[0], progress=False, **options)
    want = {f"enwiki-{a['page_id']}": a for a in ARTICLES if kept(a)}
    texts = dict(zip(store.places["place_id"].to_pylist(), store.texts(range(len(store))), strict=True))
    assert texts == {place: a["opening" if "text" in options else "text"] for place, a in want.items()}
    if "bbox" in options:
        assert store.manifest["made"]["left_out"]["tag: outside the box"] >= len(ARTICLES) - len(want) > 0


def test_fewer_shards_and_a_limit_are_said_to_be_so(dumps, tmp_path):
    store = from_dumps(tmp_path / "a", wiki="testwiki", folder=dumps[0], max_shards=1, progress=False)
    left = store.manifest["made"]["left_out"]
    assert len(store) + left["text: in none of the shards that were read"] == len(ARTICLES) + 1
    assert len(from_dumps(tmp_path / "b", wiki="testwiki", folder=dumps[0], limit=7, progress=False)) == 7


def test_the_old_format_in_one_file_is_read(dumps, tmp_path):
    folder = tmp_path / "old"
    folder.mkdir()
    for path in dumps[0].rglob("*.sql.gz"):
        shutil.copy(path, folder)
    lines = b"".join(
        json.dumps({"index": {"_type": "_doc", "_id": str(a["page_id"])}}).encode() + b"\n"
        + json.dumps({k: v for k, v in document(a).items() if k not in ("page_id", "page_type")}).encode() + b"\n"
        for a in ARTICLES
    )  # fmt: skip
    gz(folder / "testwiki-20251229-cirrussearch-content.json.gz", lines)
    store = from_dumps(tmp_path / "store", wiki="testwiki", folder=folder, progress=False)
    assert len(store) == len(ARTICLES) and store.manifest["made"]["plan"]["snapshot"] == "20251229"


# --- arguments and what is there ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wiki": "../etc"}, "wiki"), ({"wiki": "a.*"}, "wiki"), ({"date": "2026-09-06"}, "date"),
        ({"tables_date": "latest"}, "tables_date"), ({"text": "wikitext"}, "text"), ({"max_shards": 0}, "max_shards"),
        ({"bbox": (0, 0, 0, 1)}, "bbox"), ({"min_chars": 0}, "min_chars"), ({"wiki": "otherwiki"}, "otherwiki_content-DATE"),
        ({"tables_date": "20200101"}, "geo_tags"), ({"date": "20200101"}, "testwiki_content"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused_before_anything_is_made(dumps, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        from_dumps(tmp_path / "store", folder=dumps[0], progress=False, **{"wiki": "testwiki", **options})
    assert not list(tmp_path.iterdir())


def test_nothing_is_asked_without_a_contact(server, tmp_path, monkeypatch):
    monkeypatch.delenv("GEONB_CONTACT", raising=False)
    with pytest.raises(ValueError, match="contact"):
        from_dumps(tmp_path / "store", wiki="testwiki", base_url=server.url, progress=False)
    assert not server.seen


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"date": "20260101"}, "no complete search index of testwiki of 20260101"),
        ({"tables_date": "20260201"}, "HTTP 404"),
    ],
)
def test_dates_that_the_server_does_not_have(server, tmp_path, options, message):
    with pytest.raises(DownloadError, match=message):
        fetched(tmp_path / "store", server, **options)


def test_a_listing_cannot_lead_out_of_the_folder(server, tmp_path):
    hostile = ["../../etc/passwd", "https://evil.example/testwiki_content-20260906-00009.json.bz2", "//evil/x",
               "testwiki_content-20260906-00001.json.bz2/../../x", "otherwiki_content-20260906-00000.json.bz2",
               "testwiki_content-20260906-00001.json.bz2%00.sh", "testwiki_content-20260830-00007.json.bz2"]  # fmt: skip
    server.files[INDEX] += "".join(f'<a href="{name}">x</a>' for name in hostile).encode()
    store = fetched(tmp_path / "store", server)
    assert [shard["name"] for shard in store.manifest["made"]["plan"]["shards"]] == [p.rsplit("/", 1)[1] for p in SHARDS]
    assert {r.path for r in server.seen} >= set(SHARDS) and not [r for r in server.seen if "evil" in r.path]


# --- faults -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "tricks"),
    [
        (SHARDS[1], [{"cut": 1000}, {"cut": 500}]),
        (SHARDS[1], [{"status": 429, "headers": {"Retry-After": "3"}}]),
        (TABLES[1], [{"status": 429}, {"status": 503}, {"cut": 10}]),
        (SHARDS[0], [{"status": 500}] * 3),
        (SHARDS[2], [{"truncate": 1500}]),
        (INDEX, [{"status": 502}, {"cut": 5}]),
    ],
    ids=["cut", "429", "429-503-cut", "500", "bz2 truncated on the server", "listing"],
)
def test_faults_that_pass_are_overcome_and_leave_no_trace(server, undisturbed, tmp_path, path, tricks):
    server.tricks = {path: list(tricks)}
    fetched(tmp_path / "store", server)
    assert not server.tricks[path]
    assert tree(tmp_path / "store") == undisturbed


@pytest.mark.parametrize(
    ("path", "tricks", "error"),
    [
        (SHARDS[1], [{"status": 500}] * 5, NetworkAbsent),
        (SHARDS[2], [{"status": 404}], NetworkAbsent),
        (SHARDS[1], [{"cut": 100}] * 5, NetworkAbsent),
        (SHARDS[1], [{"truncate": 1500}] * 2, DamagedDump),
        (SHARDS[0], [{"raw": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n<html>404"}] * 2, DamagedDump),
        (TABLES[0], [{"truncate": 900}], WrongChecksum),
        (TABLES[1], [{"status": 429, "headers": {"Retry-After": "86400"}}], NetworkAbsent),
    ],
    ids=["500", "404", "cut", "truncated twice", "a page instead of a shard", "another checksum", "429 for a day"],
)
def test_faults_that_last_stop_it_with_a_word_and_the_next_call_goes_on(server, undisturbed, tmp_path, path, tricks, error):
    server.tricks = {path: list(tricks)}
    with pytest.raises(error, match=re.escape(path.rsplit("/", 1)[1])):
        fetched(tmp_path / "store", server)
    assert not (tmp_path / "store").exists()
    asked = len(server.seen)
    fetched(tmp_path / "store", server)
    assert tree(tmp_path / "store") == undisturbed
    assert not {r.path for r in server.seen[asked:]} & set(([*TABLES, *SHARDS])[: ([*TABLES, *SHARDS]).index(path)])


def test_tables_without_published_checksums_are_taken_and_a_cut_one_is_fetched_a_second_time(server, tmp_path):
    del server.files["/testwiki/20260901/testwiki-20260901-sha1sums.txt"]
    with pytest.raises(DownloadError, match="not finished"):
        fetched(tmp_path / "store", server)
    server.tricks = {TABLES[0]: [{"truncate": 900}]}
    assert len(fetched(tmp_path / "store", server, tables_date="20260901")) == len(ARTICLES)
    assert [r.path for r in server.seen].count(TABLES[0]) == 2


JOB = """
import os, signal, sys
from geonb.data.sources import wikipedia_dumps as module
out, url, shard, documents = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
whole = module.read_cirrus
def read_cirrus(path, *args, **more):
    for number, document in enumerate(whole(path, *args, **more)):
        if path.name == shard and number == documents:
            os.kill(os.getpid(), signal.SIGKILL)
        yield document
module.read_cirrus = read_cirrus
module.from_dumps(out, wiki="testwiki", base_url=url, contact="tests@example.org", progress=False)
"""


def job(out, url, shard="", documents=0):
    return [sys.executable, "-c", JOB, str(out), url, shard.rsplit("/", 1)[-1], str(documents)]


def test_a_process_killed_in_the_middle_of_a_shard_is_followed_by_one_that_reads_it_again(server, undisturbed, tmp_path):
    assert subprocess.run(job(tmp_path / "store", server.url, SHARDS[1], 5)).returncode == -signal.SIGKILL
    asked = len(server.seen)
    server.files["/other/cirrus_search_index/"] += b'<a href="20260913/">20260913/</a>'  # it must not be looked for
    fetched(tmp_path / "store", server)
    assert [r.path for r in server.seen[asked:]] == [SHARDS[2]]
    assert tree(tmp_path / "store") == undisturbed
    assert sorted(p.name for p in tmp_path.iterdir()) == ["store"]


def test_a_process_killed_in_the_middle_of_a_download_is_followed_by_one_that_goes_on_from_there(server, undisturbed, tmp_path):
    server.tricks = {SHARDS[1]: [{"slow": 0.3}]}
    process = subprocess.Popen(job(tmp_path / "store", server.url))
    partial = tmp_path / "store.work" / "downloads" / f"{SHARDS[1].rsplit('/', 1)[1]}.partial"
    deadline = time.monotonic() + 60
    while not (partial.exists() and partial.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    start = partial.stat().st_size
    assert 0 < start < len(server.files[SHARDS[1]])
    asked = len(server.seen)
    fetched(tmp_path / "store", server)
    assert [(r.path, r.headers.get("Range")) for r in server.seen[asked:]] == [(SHARDS[1], f"bytes={start}-"), (SHARDS[2], None)]
    assert tree(tmp_path / "store") == undisturbed


def test_unfinished_work_is_not_taken_for_what_is_asked_otherwise(server, tmp_path):
    server.tricks = {SHARDS[1]: [{"status": 404}]}
    with pytest.raises(NetworkAbsent):
        fetched(tmp_path / "store", server)
    with pytest.raises(WorkError, match="text: begun with 'full', now 'opening'"):
        fetched(tmp_path / "store", server, text="opening")


def test_where_no_position_is_left_nothing_more_is_fetched(server, tmp_path):
    with pytest.raises(WorkError, match="outside the box"):
        fetched(tmp_path / "store", server, bbox=(0, 89.9999, 0.0001, 90))
    assert [r.path for r in server.seen][-1] == TABLES[0]


# --- tables -------------------------------------------------------------------------------------------


def geo(tmp_path, *rows, columns=GEO_TAGS):
    return gz(tmp_path / "x-geo_tags.sql.gz", *sql_dump("geo_tags", columns, rows))


def test_tags_that_are_no_position_of_an_article_on_earth_are_counted_by_reason(tmp_path):
    big = type("Big", (), {"__str__": lambda self: "9" * 400, "__float__": lambda self: 0.0})()
    path = geo(
        tmp_path,
        tag_row(9, 5, 1.5, 2.5, kind="CITY(1,000)", country="US"), tag_row(4, 5, -3.5, 4.5, dim=0, kind="pass"),
        tag_row(1, 3, 180, -90, kind="'; DROP TABLE x;--"), tag_row(2, 7, 1, 1, globe="moon"), tag_row(3, 8, 1, 1, globe=""),
        tag_row(5, 8, 1, 1, primary=0), tag_row(6, 8, None, 1), tag_row(7, 8, 1, None), tag_row(10, 8, 180.0001, 1),
        tag_row(11, 8, 1, -91), tag_row(12, 8, 9999, 1), tag_row(13, 8, big, 1), tag_row(14, big, 1, 1),
        tag_row(15, -4, 1, 1), (*tag_row(16, 8, 1, 1)[:4], "1", b"x", *tag_row(16, 8, 1, 1)[6:]),
    )  # fmt: skip
    table, skips = read_geo_tags(path)
    assert table.to_pydict() == {
        "page_id": [3, 5], "lon": [180.0, -3.5], "lat": [-90.0, 4.5], "type": ["'; drop table x;--", "pass"],
        "dim_m": [None, 0.0], "country_code": [None, None],
    }  # fmt: skip
    assert skips.counts == {
        "tag: not on Earth": 2, "tag: not the article's own position": 1, "tag: no position": 3,
        "tag: position out of range": 4, "tag: no page id": 2, "tag: another one of its page": 1,
    }  # fmt: skip
    assert skips.examples["tag: not on Earth"] == "page 7, 'moon', lon 1, lat 1"


@given(st.lists(st.tuples(st.integers(1, 6), st.floats(-400, 400), st.floats(-200, 200), st.sampled_from(["earth", "mars"]), st.booleans()), max_size=30))
@settings(max_examples=50, deadline=None)
def test_every_tag_is_kept_or_counted(tmp_path_factory, rows):
    path = geo(tmp_path_factory.mktemp("geo"), *(tag_row(i, p, x, y, globe=g, primary=int(own)) for i, (p, x, y, g, own) in enumerate(rows, 1)))
    table, skips = read_geo_tags(path)
    good = {}
    for page, lon, lat, globe, own in rows:
        if globe == "earth" and own and abs(lon) <= 180 and abs(lat) <= 90:
            good.setdefault(page, (lon, lat))
    assert {p: (x, y) for p, x, y in zip(*(table[n].to_pylist() for n in ("page_id", "lon", "lat")), strict=True)} == good
    assert table["page_id"].to_pylist() == sorted(good)
    assert len(table) + sum(skips.counts.values()) == len(rows)


def test_columns_in_another_order_are_found_and_a_missing_one_is_named(tmp_path):
    lines = [line for line in GEO_TAGS.splitlines() if line.startswith("  `")]
    turned = ",\n".join(line.rstrip(",") for line in reversed(lines))
    table, _ = read_geo_tags(geo(tmp_path, tag_row(1, 2, 3.5, 4.5)[::-1], columns=turned))
    assert (table["page_id"][0].as_py(), table["lon"][0].as_py(), table["lat"][0].as_py()) == (2, 3.5, 4.5)
    with pytest.raises(DamagedDump, match="x-geo_tags.sql.gz: table geo_tags has no column gt_globe"):
        read_geo_tags(geo(tmp_path, columns=GEO_TAGS.replace("`gt_globe`", "`gt_world`")))


def test_of_the_page_table_only_wanted_articles_are_taken(tmp_path):
    rows = [
        page_row(1, "Unwanted"), page_row(2, NAMES[0]), page_row(3, "Talk", namespace=1), page_row(4, "Old", redirect=1),
        (*page_row(5, "x")[:2], b"\xff\xfe", *page_row(5, "x")[3:]), page_row(7, "Seven of nine", latest=77),
        page_row(10**30, "Huge"), (None, *page_row(8, "None")[1:]), (*page_row(9, "No revision")[:8], None, *page_row(9, "")[9:]),
    ]  # fmt: skip
    path = gz(tmp_path / "x-page.sql.gz", *sql_dump("page", PAGE, rows))
    table, skips = read_pages(path, np.array([2, 3, 4, 5, 6, 7, 9]))
    assert table.to_pydict() == {
        "page_id": [2, 7, 9], "title": [NAMES[0], "Seven of nine", "No revision"], "revision": ["1200000002", "77", None]
    }  # fmt: skip
    assert skips.counts == {
        "page: not an article (namespace)": 1, "page: a redirect": 1, "page: a title that is not in UTF-8": 1,
        "page: not in the page table": 1,
    }  # fmt: skip
    assert skips.examples["page: not in the page table"] == "page 6"


@pytest.mark.parametrize("keep", [0, 5, 200, -9, -1])
def test_a_table_that_is_cut_anywhere_is_damaged_and_named(tmp_path, keep):
    path = geo(tmp_path, *(tag_row(i, i, random.Random(i).random(), 1) for i in range(1, 400)))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DamagedDump, match="x-geo_tags.sql.gz"):
        read_geo_tags(path)


# --- shards -------------------------------------------------------------------------------------------


def documents(path, wanted, **more):
    skips, seen = Skips(), array("q")
    found = list(read_cirrus(path, np.array(sorted(wanted), np.int64), skips=skips, seen=seen, **more))
    return found, skips, seen.tolist()


def shard(tmp_path, *parts: bytes) -> Path:
    path = tmp_path / "x_content-20260906-00000.json.bz2"
    path.write_bytes(b"".join(map(bz2.compress, parts)))
    return path


def test_only_wanted_documents_are_parsed_and_bzip2_may_have_several_streams(tmp_path):
    good = {i: pair(str(i) if i % 2 else i, document(a)) for i, a in ((a["page_id"], a) for a in ARTICLES[:6])}
    lines = list(good.values())
    broken = b'{"index":{"_id":"1"}}\n{"page_id":1, this is not JSON\n'.replace(b"JSON\n", b"JSON}\n")
    path = shard(tmp_path, broken + lines[0] + lines[1][:30], lines[1][30:] + lines[2], lines[3] + b"\n" + lines[4], lines[5])
    found, skips, seen = documents(path, list(good)[1:])
    assert [(d.page_id, d.title, d.text, d.qid, d.links) for d in found] == [
        (a["page_id"], a["title"], a["text"], a["qid"], a["links"]) for a in ARTICLES[1:6]
    ]
    assert not skips.counts and seen == list(good)[1:]


def test_damaged_pairs_and_pages_that_are_no_articles_are_counted_by_reason(tmp_path):
    a = ARTICLES[9]
    action = b'{"index":{"_id":"%d"}}\n'
    deep = b'{"page_id":5,"text":' + b"[" * 50_000 + b"]" * 50_000 + b"}\n"
    number = b'{"page_id":6,"version":' + b"9" * 6000 + b"}\n"
    path = shard(
        tmp_path,
        b'{"a document":"without an action"}\n', action % 1, action % 2, b'{"page_id":2, "text": nope}\n',
        action % 3, b'["not", "an", "object"]}\n'.replace(b"]}", b"]").replace(b"\n", b"}\n"), action % 4, b'{"text":"\xff\xfe"}\n',
        action % 5, deep, action % 6, number, b'{"index":{"_type":"_doc"}}\n', b'{"page_id":66}\n', b'{"index":{"_id":"x\'y"}}\n{}\n',
        pair(7, document(a, page_id=8)), pair(8, document(a, page_id=8, namespace=1)), pair(9, document(a, page_id=9, page_type="redirect")),
        pair(10, document(a, page_id=10)), action % 11, b'{"odd":"no fields"}\n',
    )  # fmt: skip
    found, skips, seen = documents(path, range(1, 12))
    assert [(d.page_id, d.title, d.text) for d in found] == [(10, a["title"], a["text"]), (11, "", "")]
    assert skips.counts == {
        "text: a document without its action": 1, "text: an action without its document": 1, "text: damaged JSON": 5,
        "text: an action without a page id": 2, "text: of another page than its action says": 1,
        "text: not an article (namespace)": 1, "text: a redirect": 1,
    }  # fmt: skip
    assert seen == list(range(1, 12))


def test_values_of_odd_types_and_sizes_become_none_and_half_a_character_is_replaced(tmp_path):
    odd = [
        {"title": 5, "text": ["x"], "version": "7", "wikibase_item": {"a": 1}, "incoming_links": True},
        {"title": None, "text": None, "version": -1, "incoming_links": 10**40},
        {"title": "A\ud800", "text": "lone \udfff half", "version": 10**40, "incoming_links": 1e3, "wikibase_item": ""},
        {"version": True, "incoming_links": -1, "namespace": 0.0},
    ]
    found, skips, _ = documents(shard(tmp_path, *(pair(i, value) for i, value in enumerate(odd, 1))), [1, 2, 3, 4])
    assert [tuple(d)[3:] for d in found] == [(None, None, None)] * 4 and not skips.counts
    assert [(d.title, d.text) for d in found] == [("", ""), ("", ""), ("A" + "\ufffd" * 3, "lone " + "\ufffd" * 3 + " half"), ("", "")]


@given(st.lists(st.tuples(st.integers(1, 9), st.text(st.characters(codec="utf-8"), max_size=30), st.booleans()), max_size=12), st.data())
@settings(max_examples=60, deadline=None)
def test_texts_are_read_as_written_and_a_cut_shard_is_damaged_or_has_all_before_the_cut(tmp_path_factory, rows, data):
    tmp = tmp_path_factory.mktemp("shard")
    lines = [pair(page, {"page_id": page, "title": text, "text": text + text}) for page, text, _ in rows]
    path = shard(tmp, b"".join(lines)) if lines else shard(tmp, b"")
    found, skips, _ = documents(path, [2, 3, 5, 7])
    want = [(page, text, text + text) for page, text, _ in rows if page in (2, 3, 5, 7)]
    assert [(d.page_id, d.title, d.text) for d in found] == want and not skips.counts
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(DamagedDump, match=path.name):
        documents(path, [2, 3, 5, 7])


@pytest.mark.parametrize(
    "end",
    [b'{"index":{"_id":"1"}}\n', b'{"index":{"_id":"1"}}\n{"page_id":1,"te', b'{"index":{"_i'],
    ids=["no document", "half a document", "half an action"],
)
def test_a_shard_that_is_whole_bzip2_but_ends_in_the_middle_is_damaged(tmp_path, end):
    with pytest.raises(DamagedDump, match="middle"):
        documents(shard(tmp_path, pair(2, document(ARTICLES[0], page_id=2)), end), [2])


@pytest.mark.parametrize("damage", [lambda d, n: d + b"trailing", lambda d, n: d[: n + 5] + b"\0\0\0" + d[n + 8 :], lambda d, n: d[:n] + b"PK" + d[n + 2 :]])
def test_what_comes_after_the_first_stream_is_not_taken_for_its_end(tmp_path, damage):
    first, second = (bz2.compress(pair(i, document(ARTICLES[0], page_id=i))) for i in (2, 3))
    path = shard(tmp_path)
    path.write_bytes(damage(first + second, len(first)))
    with pytest.raises(DamagedDump, match="cut or damaged"):
        documents(path, [2, 3])


def test_a_line_without_an_end_is_refused_before_memory_is(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_LINE", 1 << 20)
    path = shard(tmp_path, b'{"index":{"_id":"1"}}\n{"text":"', *[b"x" * (1 << 20)] * 8)
    with pytest.raises(DamagedDump, match="a line of more than 1,048,576 bytes"):
        documents(path, [1])


def test_a_shard_of_which_too_much_is_wanted_is_refused(dumps, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_TEXT", 2000)
    with pytest.raises(ValueError, match="bbox"):
        from_dumps(tmp_path / "store", wiki="testwiki", folder=dumps[0], progress=False)


RSS = """
import resource, sys
from pathlib import Path
import numpy as np
from geonb.data.sources.wikipedia_dumps import read_cirrus
from geonb.data.work import Skips
for path in sys.argv[1:]:
    n = sum(1 for _ in read_cirrus(Path(path), np.arange(0, 10**6, 50), skips=Skips()))
    print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_size_of_a_shard(tmp_path):
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefgh", k=7)) for _ in range(100)]
    text = " ".join(rng.choices(words, k=4000))
    part = bz2.compress(b"".join(pair(i, document({"page_id": i, "title": "T", "text": text})) for i in range(25)))
    paths = [tmp_path / "1.json.bz2", tmp_path / "12.json.bz2"]
    for path, times in zip(paths, (1, 12), strict=True):
        path.write_bytes(part * times)
    done = subprocess.run([sys.executable, "-c", RSS, *map(str, paths)], capture_output=True, text=True, check=True)
    (few, small), (many, large) = ([int(value) for value in line.split()] for line in done.stdout.splitlines())
    assert (few, many) == (1, 12)
    assert large - small < 4_000, f"{small} and {large} kB; the larger shard has 17 MB more in it"


def test_the_generator_makes_the_same_bytes_from_the_same_seed(dumps, tmp_path):
    assert write_dumps(tmp_path, ARTICLES, shards=3) == dumps[1]
    assert tree(tmp_path) == tree(dumps[0])
    assert Counter(p.suffix for p in tmp_path.rglob("*") if p.is_file()) == {".gz": 2, ".txt": 1, "": 1, ".bz2": 3}
    assert os.path.basename(TABLES[0]) in served(tmp_path)["/testwiki/20260901/"].decode()


def test_stores_open_as_any_other(undisturbed, dumps, tmp_path):
    from_dumps(tmp_path / "store", wiki="testwiki", folder=dumps[0], progress=False)
    assert len(PlaceStore.open(tmp_path / "store")) == len(ARTICLES)
    assert "attribution.parquet" in undisturbed
