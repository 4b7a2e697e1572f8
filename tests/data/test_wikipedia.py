"""Articles into a store: from a table in the hub's columns, and from a server that answers as GeoData does and fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faulty import Request, Response, serve, tree
from hypothesis import given, settings
from hypothesis import strategies as st

from geonb.data.sources import wikipedia
from geonb.data.sources.wikipedia import CROWDED, _halves, _quoted, _tiles, from_api, from_table
from geonb.data.store import check_store
from geonb.geo import great_circle_km

WORDS = np.array(["a", "wide", "river", "old", "market", "of", "the", "hill", "road", "north", "bridge", "in"])
CONTACT = "tests@example.org"
SLEEP = time.sleep
BOX = (7.3, 46.8, 7.7, 47.1)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No sleeping; the pauses that would have been made."""
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("GEONB_PROGRESS", "0")
    monkeypatch.delenv("GEONB_CONTACT", raising=False)
    return pauses


def left_out(store) -> dict:
    return store.manifest["made"]["left_out"]


# --- the table ----------------------------------------------------------------------------------------


def rows(n: int = 100, seed: int = 0, **columns) -> pa.Table:
    """A table in the columns of the hub's; ``columns`` replace some."""
    rng = np.random.default_rng(seed)
    ids = [str(i) for i in range(1, n + 1)]
    table = {
        "id": ids, "url": [f"https://en.wikipedia.org/wiki/T{i}" for i in ids], "title": [f"Title {i}" for i in ids],
        "text": [f"T{i} is " + " ".join(rng.choice(WORDS, 40)) for i in ids], "qid": [f"Q{i}" for i in ids],
        "lat": rng.uniform(-80, 80, n), "lon": rng.uniform(-180, 180, n), "gt_type": ["city"] * n,
        "gt_globe": ["earth"] * n, "gt_country": ["FR"] * n, "gt_primary": [True] * n, "gt_name": ["unused"] * n,
    }  # fmt: skip
    return pa.table(table | columns)


def write(table: pa.Table, path, group: int = 1000) -> str:
    pq.write_table(table, path, row_group_size=group)
    return str(path)


def test_a_store_has_all_that_is_known_of_its_articles(tmp_path):
    table = rows(3, qid=["Q1", "Q2", None], gt_type=["City", None, "isle"], gt_country=["fr", "GB", "ZZ"],
                 url=["https://en.wikipedia.org/wiki/A", None, "https://evil.example/wiki/B"])  # fmt: skip
    store = from_table(tmp_path / "s", write(table, tmp_path / "a.parquet"), snapshot="20260901")
    assert store.place_id.tolist() == ["enwiki-1", "enwiki-2", "enwiki-3"]
    np.testing.assert_allclose(store.lonlat, np.stack([table["lon"], table["lat"]], 1))
    assert store.texts([0, 1, 2]) == table["text"].to_pylist()
    assert store.column("country").tolist() == ["France", "United Kingdom", None]
    assert store.column("qid").tolist() == ["Q1", "Q2", None]
    assert store.column("type").tolist() == ["city", None, "isle"]
    assert store.column("text_chars").tolist() == [len(text) for text in store.texts([0, 1, 2])]
    urls = ["https://en.wikipedia.org/wiki/A"] + [f"https://en.wikipedia.org/?curid={i}" for i in (2, 3)]
    assert store.text_column("url", range(3)) == urls and store.text_column("license", [0]) == ["CC BY-SA 4.0"]
    credits = pq.read_table(store.path / "attribution.parquet").to_pylist()
    assert [row["url"] for row in credits] == urls and [row["title"] for row in credits] == table["title"].to_pylist()
    card = (store.path / "datacard.md").read_text()
    for said in ("3 articles of the Wikipedia in `en`", "`20260901`", wikipedia.LICENSE_URL, "attribution.parquet"):
        assert said in card
    check_store(store.path)


def test_every_row_becomes_a_place_or_is_counted(tmp_path):
    nan, text = float("nan"), ["word " * 20] * 15
    text[10:] = [" \n ", "x" * 49, "  " + "x" * 49 + "\x00 ", "x" * 300_001, "é" * 50]
    table = rows(
        15, text=text,
        id=["1", "x", "0", *map(str, range(4, 16))], title=["T", "T", "T", "\x07", *"TTTTTTTTTTT"],
        lon=[1.0, 1, 1, 1, nan, -180.1, 0, 1, 1, 1, 1, 1, 1, 1, 1], lat=[1.0] * 6 + [0.0] + [1.0] * 8,
        gt_globe=["earth", None, "Earth", *["earth"] * 5, "moon", *["earth"] * 6], gt_primary=[True] * 9 + [False] + [None] * 5,
    )  # fmt: skip
    store = from_table(tmp_path / "s", write(table, tmp_path / "a.parquet"))
    assert store.place_id.tolist() == ["enwiki-1", "enwiki-8", "enwiki-15"]
    assert left_out(store) == {
        "no page id": 2, "no title": 1, "no position": 1, "position out of range": 1, "position at 0, 0": 1, "no text": 1,
        "not on Earth": 1, "not the article's own position": 1, "text of less than 50 characters": 2,
        "text of more than 300,000 characters": 1,
    }  # fmt: skip
    assert "| 1 | position at 0, 0 | `page 7, 'T'` |" in (store.path / "datacard.md").read_text()
    with pytest.raises(ValueError, match="(?s)no article is left.*9 left out: .*give|Ask for something else"):
        from_table(tmp_path / "t", str(tmp_path / "a.parquet"), min_chars=200, limit=1)


def test_only_places(tmp_path):
    text = ["X was a battle of the war in the north, which was lost by all who fought it."] * 2 + ["word " * 20] * 2
    file = write(rows(4, text=text, gt_type=["city", None, "event", "city"]), tmp_path / "a.parquet")
    store = from_table(tmp_path / "s", file, places_only=True)
    assert left_out(store) == {"not a place, but an event": 3} and len(store) == 1
    assert len(from_table(tmp_path / "de", file, places_only=True, lang="de")) == 3  # only the type is read
    assert len(from_table(tmp_path / "all", file)) == 4


@pytest.mark.parametrize("bbox", [(-10.5, 20, 30.25, 60), (170, -40, -170, 40), (-180, -90, 180, 90)])
def test_boxes_against_a_loop(tmp_path, bbox):
    west, south, east, north = bbox
    table = rows(400)
    wanted = [
        f"enwiki-{r['id']}" for r in table.to_pylist()
        if south <= r["lat"] <= north and (west <= r["lon"] <= east if west < east else r["lon"] >= west or r["lon"] <= east)
    ]  # fmt: skip
    store = from_table(tmp_path / "s", write(table, tmp_path / "a.parquet", 100), bbox=bbox)
    assert store.place_id.tolist() == wanted and left_out(store) == {}


def spoil(file: str, column: str, group: int) -> None:
    """Overwrite the pages of a column in a row group, so that reading them fails."""
    chunk = pq.ParquetFile(file).metadata.row_group(group)
    where = next(c for i in range(chunk.num_columns) if (c := chunk.column(i)).path_in_schema == column)
    data = bytearray(open(file, "rb").read())
    start = where.dictionary_page_offset or where.data_page_offset
    data[start : start + where.total_compressed_size] = b"\xff" * where.total_compressed_size
    open(file, "wb").write(data)


def test_columns_and_row_groups_that_are_not_needed_are_not_read(tmp_path):
    table = rows(500).sort_by("lat")
    file = write(table, tmp_path / "a.parquet", 100)
    box = (-180, table["lat"][110].as_py(), 180, table["lat"][190].as_py())
    spoil(file, "gt_name", 1)
    for group in (0, 2, 3, 4):
        spoil(file, "text", group)
    assert from_table(tmp_path / "s", file, bbox=box).place_id.tolist() == [
        f"enwiki-{i}" for i in table["id"][110:191].to_pylist()
    ]
    with pytest.raises(OSError, match="(?s)a.parquet: cannot be read.*complete Parquet file"):
        from_table(tmp_path / "t", file)


def test_several_files_duplicates_and_limits(tmp_path):
    write(rows(50), tmp_path / "a.parquet", 20)
    write(rows(30, seed=9, id=[str(i) for i in range(41, 71)]), tmp_path / "b.parquet")
    store = from_table(tmp_path / "s", str(tmp_path / "[ab].parquet"))
    assert store.place_id.tolist() == [f"enwiki-{i}" for i in range(1, 71)]
    assert left_out(store) == {"page seen before": 10}
    assert store.texts(range(50)) == rows(50)["text"].to_pylist()
    some = from_table(tmp_path / "l", str(tmp_path / "[ab].parquet"), limit=25)
    assert some.place_id.tolist() == store.place_id[:25].tolist()


def test_near_duplicates_are_marked_with_their_first_place(tmp_path):
    stub = "X{0} is a village in Y{0} District of Z. At the census of {0}, its population was {0}, in {0} families."
    text = [stub.format(1), rows(1)["text"][0].as_py(), stub.format(2), stub.format(3)]
    store = from_table(tmp_path / "s", write(rows(4, text=text), tmp_path / "a.parquet", 2))
    assert store.column("near_duplicate").tolist() == ["enwiki-1", None, "enwiki-1", "enwiki-1"]
    assert "3 texts in 1 groups" in (store.path / "datacard.md").read_text()


def test_hostile_texts_and_titles_do_no_harm(tmp_path):
    titles = ["'); DROP TABLE articles; --", "[a](http://b) | <script>\n# d", "nul\x00nul", "\u202egnp.exe"]
    urls = [
        "javascript:alert(1)",
        "https://en.wikipedia.org/A b",
        "https://en.wikipedia.org.evil/",
        "https://en.wikipedia.org/<b>",
    ]
    file = write(rows(4, title=titles, url=urls), tmp_path / "a.parquet")
    store = from_table(tmp_path / "s", file)
    assert store.column("title").tolist() == [titles[0], "[a](http://b) | <script> # d", "nulnul", titles[3]]
    assert store.text_column("url", range(4)) == [f"https://en.wikipedia.org/?curid={i}" for i in (1, 2, 3, 4)]
    write(rows(4, title=titles[1:2] * 4, text=["x", "y", *rows(2)["text"].to_pylist()]), file)
    assert (
        "`page 1, '[a](http://b) ¦ <script> # d'`"
        in (from_table(tmp_path / "t", file).path / "datacard.md").read_text()
    )


@given(st.text(max_size=200))
@settings(max_examples=25)
def test_a_quoted_title_stays_in_its_cell(text):
    out = _quoted(text)
    assert out == "" or (out[0] == out[-1] == "`" and "`" not in out[1:-1])
    assert len(out) <= 82 and not set("|\n\r\u202e\u2028\x00") & set(out) and out.isprintable()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"bbox": (0, 50, 10, 40)}, "south below north"), ({"bbox": (0, 0, 190, 10)}, "in degrees"),
        ({"bbox": (0, 0, float("nan"), 10)}, "in degrees"), ({"lang": "../x"}, "language"), ({"min_chars": 0}, "min_chars"),
        ({"source": "none.parquet"}, "no such file"), ({"source": "https://example.org/a.parquet"}, "hub path"),
    ],
)  # fmt: skip
def test_wrong_options_are_named(tmp_path, options, message):
    options = {"source": write(rows(3), tmp_path / "a.parquet")} | options
    with pytest.raises((ValueError, OSError), match=message):
        from_table(tmp_path / "s", **options)
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]


def test_a_table_without_the_columns_and_broken_files_are_named(tmp_path):
    file = write(rows(3).drop_columns(["lat", "text"]), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="no column text, lat; there are id, url"):
        from_table(tmp_path / "s", file)
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + b"x" * 100)
    with pytest.raises(OSError, match="a.parquet: cannot be read"):
        from_table(tmp_path / "s", file)


def test_the_hub_without_a_network_says_what_to_do(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def no_network(self, pattern):
        asked.append(pattern)
        raise ConnectionError("no route")

    monkeypatch.setattr(hub.HfFileSystem, "glob", no_network)
    with pytest.raises(OSError, match="download it from https://huggingface.co/datasets/yuiseki/wikipedia-geotagged"):
        from_table(tmp_path / "s", "wikipedia-geotagged")
    assert asked == ["hf://datasets/yuiseki/wikipedia-geotagged/20260901.en/train-*.parquet"]


def test_a_table_continues_after_it_was_killed(tmp_path):
    file = write(rows(3000), tmp_path / "a.parquet", 100)
    undisturbed = from_table(tmp_path / "u", file)
    code = "import sys; from geonb.data.sources.wikipedia import from_table; from_table(*sys.argv[1:])"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "s"), file])
    while len(list(tmp_path.glob("s.parts/*.parquet"))) < 5 and process.poll() is None:
        SLEEP(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    saved = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("s.parts/*.parquet")}
    assert 5 <= len(saved) < 30 and not (tmp_path / "s").exists()
    with pytest.raises(ValueError, match="min_chars"):
        from_table(tmp_path / "s", file, min_chars=10)
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("s.parts/*.parquet")} == saved
    assert tree(from_table(tmp_path / "s", file).path) == tree(undisturbed.path)


# --- the API ------------------------------------------------------------------------------------------


class Wiki:
    """Pages with positions, served as the Action API serves them (formatversion 2), within its limits."""

    def __init__(self, pages: dict[int, dict]):
        self.pages = pages

    def __call__(self, request: Request) -> Response:
        asked = request.query
        assert {
            "action": "query",
            "formatversion": "2",
            "maxlag": "5",
            "generator": "geosearch",
        }.items() <= asked.items()
        assert f"({CONTACT})" in request.headers["User-Agent"]
        north, west, south, east = map(float, asked["ggsbbox"].split("|"))
        area = 111.2**2 * (north - south) * (east - west) * np.cos(np.radians((south + north) / 2))
        assert west < east and south < north and 1e-4 <= area <= 400
        inside = [p for p in self.pages.values() if west <= p["lon"] <= east and south <= p["lat"] <= north][:500]
        first, intro = int(asked.get("excontinue", 0)), asked.get("exintro") == "1"
        assert int(asked["exlimit"]) <= (20 if intro else 1)
        last = first + int(asked["exlimit"])
        pages = [self.page(p, first == 0) | ({"extract": p["text"] + "\nMore." * (not intro)} if first <= i < last else {})
                 for i, p in enumerate(inside)]  # fmt: skip
        more = {"continue": {"excontinue": last, "continue": "||"}} if last < len(inside) else {"batchcomplete": True}
        return Response(200, {}, json.dumps(more | {"query": {"pages": pages}}).encode())

    def page(self, page: dict, first: bool) -> dict:
        id_ = page["id"]
        out = {"pageid": id_, "ns": 0, "title": page.get("title", f"T{id_}")}
        if not first:
            return out
        place = {"lat": page["lat"], "lon": page["lon"], "globe": "earth", "primary": True, "type": "city"}
        place |= {"country": "CH"}
        out |= {"lastrevid": 1000 + id_, "fullurl": f"https://en.wikipedia.org/wiki/T{id_}", "coordinates": [place]}
        return out | {"pageprops": {"wikibase_item": f"Q{id_}"}} | page.get("more", {})


def made(n: int = 60, box=BOX, seed: int = 0) -> dict[int, dict]:
    rng = np.random.default_rng(seed)
    west, south, east, north = box
    return {
        i: {"id": i, "lon": round(rng.uniform(west, east), 5), "lat": round(rng.uniform(south, north), 5),
            "text": f"T{i} is " + " ".join(rng.choice(WORDS, 40))}
        for i in range(1, n + 1)
    }  # fmt: skip


def get(out, server, **options):
    return from_api(out, **{"bbox": BOX, "contact": CONTACT, "endpoint": f"{server.url}/api.php"} | options)


def places_of(store) -> dict[str, str]:
    return dict(zip(store.place_id.tolist(), store.texts(range(len(store))), strict=True))


@given(st.floats(-180, 179), st.floats(-90, 89), st.floats(0.001, 3), st.floats(0.001, 1), st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_tiles_cover_a_box_without_overlap_and_are_small_enough(west, south, width, height, seed):
    east, north = (west + width + 180) % 360 - 180, south + height
    tiles = np.array(_tiles((west, south, east, north)))
    rng = np.random.default_rng(seed)
    lon = (west + width * rng.random(100) + 180) % 360 - 180
    lat = rng.uniform(south, north, 100)
    inside = (
        (tiles[:, 0] <= lon[:, None])
        & (lon[:, None] <= tiles[:, 2])
        & (tiles[:, 1] <= lat[:, None])
        & (lat[:, None] <= tiles[:, 3])
    )
    assert (inside.sum(1) == 1).all()
    for a, low, b, high in tiles[:20].tolist():
        sides = great_circle_km((a, low), (a, high)), max(great_circle_km((a, y), (b, y)) for y in (low, high))
        assert sides[0] * sides[1] < 400
        assert all(half[0] < half[2] and half[1] < half[3] for half in _halves((a, low, b, high)))


@pytest.mark.parametrize("text", ["intro", "full"])
def test_all_articles_of_a_box_with_all_that_is_known(tmp_path, text, quick):
    pages = made()
    with serve(answer=Wiki(pages)) as server:
        store = get(tmp_path / "s", server, text=text)
        assert server.most_at_once == 1 and len(server.seen) >= (4 if text == "intro" else 60)
        assert len([pause for pause in quick if 0.5 < pause <= 1]) == len(server.seen) - 1  # a second between requests
    more = "\nMore." if text == "full" else ""
    assert places_of(store) == {f"enwiki-{i}": page["text"] + more for i, page in pages.items()}
    row = store.place_id.tolist().index("enwiki-7")
    np.testing.assert_allclose(store.lonlat[row], [pages[7]["lon"], pages[7]["lat"]])
    assert store.column("country")[row] == "Switzerland" and store.column("qid")[row] == "Q7"
    credit = pq.read_table(store.path / "attribution.parquet").to_pylist()[row]
    assert (credit["url"], credit["revision"]) == ("https://en.wikipedia.org/wiki/T7", "1007")
    assert not any(CONTACT.encode() in f.read_bytes() for f in store.path.rglob("*") if f.is_file())


def test_a_crowded_tile_is_halved_until_nothing_is_lost_and_a_point_is_counted(tmp_path):
    pages = made(700, (7.44, 46.94, 7.45, 46.95))
    with serve(answer=Wiki(pages)) as server:
        store = get(tmp_path / "s", server, bbox=(7.4, 46.9, 7.5, 47.0))
        assert len(store) == 700 and left_out(store) == {}
        for page in pages.values():
            page.update(lon=7.44, lat=46.94)
        point = get(tmp_path / "point", server, bbox=(7.4, 46.9, 7.5, 47.0))
    assert len(point) == 500 and left_out(point)[CROWDED] == 1


def test_pages_that_are_no_article_with_a_position_on_earth_are_counted(tmp_path):
    pages = made(30)
    pages[1]["more"] = {"pageprops": {"disambiguation": ""}}
    pages[2]["more"] = {"coordinates": []}
    pages[3]["more"] = {"coordinates": [{"lat": 47, "lon": 7.5, "globe": "moon", "primary": True}]}
    pages[4]["text"] = "Short."
    pages[5].update(
        title="half \ud800 of a pair <script>",
        text="A lone surrogate \udfff in a text that is long enough for a place.",
    )
    with serve(answer=Wiki(pages)) as server:
        store = get(tmp_path / "s", server)
    assert left_out(store) == {
        "disambiguation page": 1, "no position": 1, "not on Earth": 1, "text of less than 50 characters": 1
    }  # fmt: skip
    assert len(store) == 26 and "half ? of a pair <script>" in store.column("title")


def test_a_box_across_the_antimeridian(tmp_path):
    pages = made(40, (179.9, -17.1, 180.1, -16.9))
    for page in pages.values():
        page["lon"] = round((page["lon"] + 180) % 360 - 180, 5)
    with serve(answer=Wiki(pages)) as server:
        store = get(tmp_path / "s", server, bbox=(179.9, -17.1, -179.9, -16.9))
    assert len(store) == 40 and set(np.sign(store.lonlat[:, 0])) == {-1, 1}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"contact": None}, "GEONB_CONTACT"), ({"contact": "me"}, "e-mail"), ({"bbox": (47, 7.3, 46, 7)}, "south below north"),
        ({"text": "all"}, "intro or full"), ({"bbox": (0, 0, 30, 30)}, "needs .* requests.*max_requests is 2,000"),
    ],
)  # fmt: skip
def test_nothing_is_asked_that_makes_no_sense(tmp_path, options, message):
    with serve(answer=Wiki(made(3))) as server:
        with pytest.raises(ValueError, match=message):
            get(tmp_path / "s", server, **options)
        assert not server.seen and not list(tmp_path.iterdir())


LAG = {
    "status": 200,
    "headers": {"Retry-After": "7"},
    "body": b'{"error": {"code": "maxlag", "info": "9 seconds lagged"}}',
}
REFUSED = {"status": 200, "body": b'{"error": {"code": "badvalue", "info": "Unrecognized value"}}'}


def test_passing_faults_change_nothing(tmp_path, quick):
    pages = made()
    with serve(answer=Wiki(pages)) as server:
        undisturbed = tree(get(tmp_path / "u", server).path)
        server.tricks = [LAG, {}, {"status": 429, "headers": {"Retry-After": "9"}}, {"status": 503}, {}, LAG]
        assert tree(get(tmp_path / "s", server).path) == undisturbed
    assert quick.count(7.0) == 2 and 9 in quick


@pytest.mark.parametrize(
    "trick, error, message",
    [({"status": 403}, OSError, "403"), (REFUSED, ValueError, "badvalue.*Unrecognized"), ({"cut": 40}, OSError, "IncompleteRead"),
     ({"status": 200, "body": b"<html>busy</html>"}, ValueError, "Expecting value")],
)  # fmt: skip
def test_after_a_lasting_fault_the_same_call_continues(tmp_path, trick, error, message):
    with serve(answer=Wiki(made())) as server:
        undisturbed = tree(get(tmp_path / "u", server).path)
        needed = len(server.seen)
        server.tricks = [{}] * (needed - 1) + [trick]
        with pytest.raises(error, match=message):
            get(tmp_path / "s", server)
        assert (tmp_path / "s.parts").is_dir() and not (tmp_path / "s").exists()
        before = len(server.seen)
        assert tree(get(tmp_path / "s", server).path) == undisturbed
        assert len(server.seen) - before < needed / 2
        assert not (tmp_path / "s.parts").exists()


def test_requests_are_limited_and_a_higher_limit_continues(tmp_path):
    with serve(answer=Wiki(made())) as server:
        with pytest.raises(ValueError, match="12 requests were made.*max_requests"):
            get(tmp_path / "s", server, text="full", max_requests=12)
        assert len(server.seen) == 12
        assert len(get(tmp_path / "s", server, text="full")) == 60
