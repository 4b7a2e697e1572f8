"""Articles into a store: from a table in the hub's columns, and from a server that answers as GeoData does and fails."""

from __future__ import annotations

import json
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faulty import Request, Response, serve, tree
from hypothesis import given
from hypothesis import strategies as st

from geonb.data.sources.wikipedia import TILE_KM, _tiles, from_api, from_table
from geonb.data.store import check_store
from geonb.geo import great_circle_km

WORDS = np.array(["a", "wide", "river", "old", "market", "of", "the", "hill", "road", "north", "bridge", "in"])
CONTACT = "tests@example.org"
BOX = (7.3, 46.8, 7.7, 47.1)


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """No sleeping; the pauses that would have been made."""
    made: list[float] = []
    monkeypatch.setattr(time, "sleep", made.append)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("GEONB_PROGRESS", "0")
    monkeypatch.delenv("GEONB_CONTACT", raising=False)
    return made


def left_out(store) -> dict:
    return store.manifest["made"]["left_out"]


def write(path, n: int = 100, group: int = 1000, seed: int = 0, **columns) -> tuple[str, pa.Table]:
    """Write a table in the columns of the hub's; ``columns`` replace some."""
    rng = np.random.default_rng(seed)
    ids = [str(i) for i in range(1, n + 1)]
    table = {
        "id": ids, "title": [f"Title {i}" for i in ids], "qid": [f"Q{i}" for i in ids],
        "text": [f"T{i} is " + " ".join(rng.choice(WORDS, 40)) for i in ids],
        "lat": rng.uniform(-80, 80, n), "lon": rng.uniform(-180, 180, n), "gt_type": ["city"] * n,
        "gt_globe": ["earth"] * n, "gt_country": ["FR"] * n, "gt_primary": [True] * n, "gt_name": ["unused"] * n,
    }  # fmt: skip
    table = pa.table(table | columns)
    pq.write_table(table, path, row_group_size=group)
    return str(path), table


def test_a_store_has_all_that_is_known_of_its_articles(tmp_path):
    file, table = write(tmp_path / "a.parquet", 3, gt_type=["city", None, "isle"], gt_country=["FR", "GB", "ZZ"])
    store = from_table(tmp_path / "s", file, snapshot="20260901")
    assert store.place_id.tolist() == ["enwiki-1", "enwiki-2", "enwiki-3"]
    np.testing.assert_allclose(store.lonlat, np.stack([table["lon"], table["lat"]], 1))
    assert store.texts([0, 1, 2]) == table["text"].to_pylist()
    for name, values in {
        "country": ["France", "United Kingdom", None], "qid": ["Q1", "Q2", "Q3"], "type": ["city", None, "isle"],
        "text_chars": [len(text) for text in store.texts([0, 1, 2])],
    }.items():  # fmt: skip
        assert store.column(name).tolist() == values
    credits = pq.read_table(store.path / "attribution.parquet").select(["title", "url", "license"]).to_pylist()
    url = "https://en.wikipedia.org/?curid="
    assert [tuple(row.values()) for row in credits] == [(f"Title {i}", f"{url}{i}", "CC BY-SA 4.0") for i in (1, 2, 3)]
    check_store(store.path)


def test_every_row_becomes_a_place_or_is_counted(tmp_path):
    battle = "X was a battle of the war in the north, which was lost by all who fought it."
    text = ["word " * 20] * 10 + [" \n ", "x" * 49, "  " + "x" * 49 + "\x00 ", battle, battle, "é" * 50]
    file, _ = write(
        tmp_path / "a.parquet", 16, text=text, id=["1", "x", "0", *map(str, range(4, 17))],
        lon=[1.0, 1, 1, None, float("nan"), -180.1, 0, *[1] * 9], lat=[1.0] * 6 + [0.0] + [1.0] * 9,
        gt_globe=["earth", None, "moon", *["earth"] * 5, "moon", *["earth"] * 7], gt_primary=[True] * 9 + [False] + [None] * 6,
        gt_type=["city"] * 14 + ["event", "city"],
    )  # fmt: skip
    store = from_table(tmp_path / "s", file, places_only=True)
    assert store.place_id.tolist() == ["enwiki-1", "enwiki-8", "enwiki-16"]
    assert left_out(store) == {
        "no page id": 2, "no position, or one out of range": 3, "position at 0, 0": 1, "not on Earth": 1,
        "not the article's own position": 1, "text of less than 50 characters": 3, "not a place, but an event": 2,
    }  # fmt: skip
    assert (
        "1 left out: position at 0, 0 (e.g. page 7, 'Title 7', at (0, 0))" in (store.path / "datacard.md").read_text()
    )
    assert len(from_table(tmp_path / "de", file, places_only=True, lang="de")) == 4  # only the type is read
    assert len(from_table(tmp_path / "all", file)) == 5
    with pytest.raises(ValueError, match="(?s)no article is left.*8 left out: .*Ask for something else"):
        from_table(tmp_path / "t", file, min_chars=200, limit=1)


def test_rows_that_are_lost_are_told_with_the_first_and_swapped_columns_are_remarked_on(tmp_path, capsys):
    file, _ = write(tmp_path / "a.parquet", 4, lon=[7.0, 190.0, 8.0, 350.0], lat=[50.0] * 4)
    assert len(from_table(tmp_path / "s", file)) == 2
    said = "2 left out: no position, or one out of range (e.g. page 2, 'Title 2', at (190, 50))"
    assert capsys.readouterr().err.strip() == said
    file, _ = write(tmp_path / "b.parquet", 6, lon=np.linspace(50, 53, 6), lat=np.linspace(7, 13, 6))
    with pytest.warns(UserWarning, match="sea, but 100% on land with longitude and latitude swapped"):
        from_table(tmp_path / "t", file)
    with pytest.warns(UserWarning, match="bbox .*swapped"):
        from_table(tmp_path / "u", file, bbox=(48, 9, 54, 14))
    with pytest.raises(ValueError, match="is the order of .46.9, 7.4, 47.0, 7.5. west, south, east, north"):
        from_table(tmp_path / "v", file, bbox=(46.9, 7.4, 47, 7.5))


@pytest.mark.parametrize(
    "column, message",
    [({"lon": [{"a": 1}] * 3}, "a.parquet: column lon: give double"), ({"lat": ["7,4"] * 3}, "a.parquet: column lat: give double"),
     ({"lon": np.ones(3, np.float16)}, "lon is in half precision")],
)  # fmt: skip
def test_columns_of_another_type_are_named(tmp_path, column, message):
    with pytest.raises((ValueError, OSError), match=message):
        from_table(tmp_path / "s", write(tmp_path / "a.parquet", 3, **column)[0])


@pytest.mark.parametrize("bbox", [(-10.5, 20, 30.25, 60), (170, -40, -170, 40), (-180, -90, 180, 90)])
def test_boxes_against_a_loop(tmp_path, bbox):
    west, south, east, north = bbox
    file, table = write(tmp_path / "a.parquet", 400, 100)
    wanted = []
    for row in table.to_pylist():
        between = west <= row["lon"] <= east if west < east else row["lon"] >= west or row["lon"] <= east
        if between and south <= row["lat"] <= north:
            wanted.append(f"enwiki-{row['id']}")
    store = from_table(tmp_path / "s", file, bbox=bbox)
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
    file, table = write(tmp_path / "a.parquet", 500, 100, lat=np.linspace(-80, 80, 500))
    box = (-180, table["lat"][110].as_py(), 180, table["lat"][190].as_py())
    spoil(file, "gt_name", 1)
    for group in (0, 2, 3, 4):
        spoil(file, "text", group)
    assert from_table(tmp_path / "s", file, bbox=box).place_id.tolist() == [f"enwiki-{i}" for i in range(111, 192)]


def test_several_files_duplicates_and_limits(tmp_path):
    stub = "X{0} is a village in Y{0} District of Z. At the census of {0}, its population was {0}, in {0} families."
    _, a = write(tmp_path / "a.parquet", 50, 20)
    _, b = write(
        tmp_path / "b.parquet", 30, id=[str(i) for i in range(41, 71)], text=[stub.format(i) for i in range(30)]
    )
    store = from_table(tmp_path / "s", str(tmp_path / "[ab].parquet"))
    assert store.place_id.tolist() == [f"enwiki-{i}" for i in range(1, 71)]
    assert left_out(store) == {"page listed twice": 10}
    assert store.texts(range(70)) == a["text"].to_pylist() + b["text"].to_pylist()[10:]
    assert store.column("near_duplicate").tolist() == [None] * 50 + ["enwiki-51"] * 20
    some = from_table(tmp_path / "l", str(tmp_path / "[ab].parquet"), limit=25)
    assert some.place_id.tolist() == store.place_id[:25].tolist()


def test_hostile_titles_do_no_harm(tmp_path):
    titles = ["'); DROP TABLE articles; --", "[a](http://b)\n```\n<script>\n# d", "nul\x00nul", "\u202egnp.exe"]
    file, _ = write(tmp_path / "a.parquet", 4, title=titles)
    store = from_table(tmp_path / "s", file)
    assert store.column("title").tolist() == [titles[0], "[a](http://b)```<script># d", "nulnul", titles[3]]
    write(tmp_path / "a.parquet", 4, title=titles[1:2] * 4, text=["x", *["word " * 20] * 3])
    card = (from_table(tmp_path / "t", file).path / "datacard.md").read_text().splitlines()
    first, last = (i for i, line in enumerate(card) if line.startswith("```"))
    assert [first < i < last for i, line in enumerate(card) if "<script>" in line] == [True]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"bbox": (0, 50, 10, 40)}, "south below north"), ({"bbox": (float("nan"), 0, 10, 10)}, "in degrees"),
        ({"lang": "../x"}, "language"), ({"source": "none.parquet"}, "no such file"),
        ({"source": "https://example.org/a.parquet"}, "hub path"),
    ],
)  # fmt: skip
def test_wrong_options_are_named(tmp_path, options, message):
    options = {"source": write(tmp_path / "a.parquet", 3)[0]} | options
    with pytest.raises((ValueError, OSError), match=message):
        from_table(tmp_path / "s", **options)
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]


def test_a_table_without_the_columns_and_a_missing_network_are_named(tmp_path, monkeypatch):
    file = tmp_path / "a.parquet"
    pq.write_table(write(file, 3)[1].drop_columns(["lat", "text"]), file)
    with pytest.raises(OSError, match="no column text, lat; there are id, title"):
        from_table(tmp_path / "s", file)

    def no_network(self, pattern):
        raise ConnectionError(f"no route to {pattern}")

    monkeypatch.setattr(pytest.importorskip("huggingface_hub").HfFileSystem, "glob", no_network)
    with pytest.raises(OSError, match="no route to .*/yuiseki/wikipedia-geotagged/20260901.en/train-.*download it"):
        from_table(tmp_path / "s", "wikipedia-geotagged")


def test_a_table_continues_after_a_fault(tmp_path):
    file, _ = write(tmp_path / "a.parquet", 300, 50)
    whole, undisturbed = open(file, "rb").read(), tree(from_table(tmp_path / "u", file).path)
    spoil(file, "text", 4)
    with pytest.raises(OSError, match="(?s)a.parquet: cannot be read.*complete Parquet file"):
        from_table(tmp_path / "s", file)
    open(file, "wb").write(whole)
    for group in range(4):  # their parts are finished
        spoil(file, "text", group)
    assert tree(from_table(tmp_path / "s", file).path) == undisturbed


def wiki(pages: dict[int, dict]):
    """Serve pages with positions as the Action API serves them (formatversion 2), within its limits."""

    def answer(request: Request) -> Response:
        asked = request.query
        wanted = {"action": "query", "formatversion": "2", "maxlag": "5", "generator": "geosearch"}
        assert wanted.items() <= asked.items() and f"({CONTACT})" in request.headers["User-Agent"]
        north, west, south, east = map(float, asked["ggsbbox"].split("|"))
        area = 111.2**2 * (north - south) * (east - west) * np.cos(np.radians((south + north) / 2))
        assert west < east and south < north and 1e-4 <= area <= 400
        found = [p for p in pages.values() if west <= p["at"][0] <= east and south <= p["at"][1] <= north][:500]
        first, limit, intro = int(asked.get("excontinue", 0)), int(asked["exlimit"]), asked.get("exintro") == "1"
        assert limit <= (20 if intro else 1)
        last, answers = first + limit, [page["page"] for page in found]
        for i in range(first, min(last, len(found))):
            answers[i] = answers[i] | {"extract": found[i]["text"] + "\nMore." * (not intro)}
        more = {"continue": {"excontinue": last, "continue": "||"}} if last < len(found) else {"batchcomplete": True}
        return Response(200, {}, json.dumps(more | {"query": {"pages": answers}}).encode())

    return answer


def made(n: int = 60, box=BOX, seed: int = 0) -> dict[int, dict]:
    rng, pages = np.random.default_rng(seed), {}
    for i in range(1, n + 1):
        lon, lat = rng.uniform(box[:2], box[2:]).round(5).tolist()
        lon = round((lon + 180) % 360 - 180, 5)
        position = {"lat": lat, "lon": lon, "globe": "earth", "primary": True, "type": "city", "country": "CH"}
        page = {"pageid": i, "ns": 0, "title": f"T{i}", "lastrevid": 1000 + i, "coordinates": [position]}
        page["pageprops"] = {"wikibase_item": f"Q{i}"}
        pages[i] = {"at": (lon, lat), "page": page, "text": f"T{i} is " + " ".join(rng.choice(WORDS, 40))}
    return pages


def get(out, server, **options):
    return from_api(out, **{"bbox": BOX, "contact": CONTACT, "endpoint": f"{server.url}/api.php"} | options)


@given(st.floats(-180, 179), st.floats(-90, 89), st.floats(0.001, 3), st.floats(0.001, 1), st.integers(0, 2**32 - 1))
def test_tiles_cover_a_box_without_overlap_and_are_small_enough(west, south, width, height, seed):
    east, north = (west + width + 180) % 360 - 180, south + height
    tiles = np.array(_tiles((west, south, east, north), TILE_KM))
    rng = np.random.default_rng(seed)
    lon, lat = (west + width * rng.random(100) + 180) % 360 - 180, rng.uniform(south, north, 100)
    at_lon = (tiles[:, 0] <= lon[:, None]) & (lon[:, None] <= tiles[:, 2])
    at_lat = (tiles[:, 1] <= lat[:, None]) & (lat[:, None] <= tiles[:, 3])
    assert ((at_lon & at_lat).sum(1) == 1).all()
    for a, low, b, high in tiles[:20].tolist():
        sides = great_circle_km((a, low), (a, high)), max(great_circle_km((a, y), (b, y)) for y in (low, high))
        assert sides[0] * sides[1] < 400


@pytest.mark.parametrize("text", ["intro", "full"])
def test_all_articles_of_a_box_with_all_that_is_known(tmp_path, text, pauses):
    pages = made()
    with serve(answer=wiki(pages)) as server:
        store = get(tmp_path / "s", server, text=text)
        assert len(server.seen) >= (4 if text == "intro" else 60)
        assert pauses == [1] * len(server.seen)
    more = "\nMore." if text == "full" else ""
    texts = dict(zip(store.place_id.tolist(), store.texts(range(len(store))), strict=True))
    assert texts == {f"enwiki-{i}": page["text"] + more for i, page in pages.items()}
    row = store.place_id.tolist().index("enwiki-7")
    np.testing.assert_allclose(store.lonlat[row], pages[7]["at"])
    assert (store.column("country")[row], store.column("qid")[row]) == ("Switzerland", "Q7")
    assert pq.read_table(store.path / "attribution.parquet")["revision"][row].as_py() == "1007"
    assert not any(CONTACT.encode() in f.read_bytes() for f in store.path.rglob("*") if f.is_file())


def test_a_crowded_tile_is_cut_until_nothing_is_lost_and_a_point_is_counted(tmp_path):
    pages = made(700, (7.44, 46.94, 7.45, 46.95))
    with serve(answer=wiki(pages)) as server:
        store = get(tmp_path / "s", server, bbox=(7.4, 46.9, 7.5, 47.0))
        assert len(store) == 700 and left_out(store).keys() <= {"page listed twice"}
        for page in pages.values():
            page["at"] = (7.44, 46.94)
        point = get(tmp_path / "point", server, bbox=(7.4, 46.9, 7.5, 47.0))
    assert len(point) == 500
    assert left_out(point)["unknown, beyond the 500 pages that the service lists of a point"] == 1


def test_a_box_across_the_antimeridian_and_pages_that_are_no_article_on_earth(tmp_path):
    pages = made(40, (179.9, -17.1, 180.1, -16.9))
    pages[1]["page"]["pageprops"] = {"disambiguation": ""}
    pages[2]["page"]["coordinates"] = []
    pages[3]["page"]["coordinates"][0]["globe"] = "moon"
    pages[4]["text"] = "Short."
    with serve(answer=wiki(pages)) as server:
        store = get(tmp_path / "s", server, bbox=(179.9, -17.1, -179.9, -16.9))
    assert len(store) == 36 and set(np.sign(store.lonlat[:, 0])) == {-1, 1}
    assert left_out(store) == {
        "disambiguation page": 1, "no position, or one out of range": 1, "not on Earth": 1, "text of less than 50 characters": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    "options, message",
    [
        ({"contact": None}, "GEONB_CONTACT"), ({"contact": "me"}, "e-mail"),
        ({"text": "all"}, "intro or full"), ({"bbox": (0, 0, 30, 30)}, "needs .* requests.*max_requests is 2,000"),
    ],
)  # fmt: skip
def test_nothing_is_asked_that_makes_no_sense(tmp_path, options, message):
    with serve(answer=wiki(made(3))) as server:
        with pytest.raises(ValueError, match=message):
            get(tmp_path / "s", server, **options)
        assert not server.seen and not list(tmp_path.iterdir())


LAG = {"status": 200, "headers": {"Retry-After": "7"}, "body": b'{"error": {"code": "maxlag"}}'}
REFUSED = {"status": 200, "body": b'{"error": {"code": "badvalue", "info": "Unrecognized value"}}'}


def test_passing_faults_change_nothing(tmp_path, pauses):
    with serve(answer=wiki(made())) as server:
        undisturbed = tree(get(tmp_path / "u", server).path)
        server.tricks = [LAG, {}, {"status": 429, "headers": {"Retry-After": "9"}}, {"status": 503}, {}, LAG]
        assert tree(get(tmp_path / "s", server).path) == undisturbed
    assert pauses.count(7) == 2 and 9 in pauses


@pytest.mark.parametrize(
    "trick, error, message",
    [({"status": 403}, OSError, "403"), (REFUSED, ValueError, "badvalue.*Unrecognized"),
     ({"cut": 40}, OSError, "IncompleteRead")],
)  # fmt: skip
def test_after_a_lasting_fault_the_same_call_continues(tmp_path, trick, error, message):
    with serve(answer=wiki(made())) as server:
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


ODD = ["", "[]", "<html>", '{"query": []}', '{"query": {"pages": [{}]}}', '{"error": "x"}', '{"continue": 3}',
       '{"query": {"pages": [{"pageid": 1, "title": "a", "coordinates": [1]}]}}']  # fmt: skip


@pytest.mark.parametrize("body", ODD)
def test_an_answer_of_another_shape_names_the_service(tmp_path, body):
    with serve(answer=lambda request: Response(200, {}, body.encode())) as server:
        with pytest.raises(ValueError, match="http://127.*/api.php: the answer cannot be used"):
            get(tmp_path / "s", server)


def test_requests_are_limited_and_a_higher_limit_continues(tmp_path):
    with serve(answer=wiki(made())) as server:
        with pytest.raises(ValueError, match="max_requests"):
            get(tmp_path / "s", server, text="full", max_requests=12)
        assert len(server.seen) == 12
        assert len(get(tmp_path / "s", server, text="full")) == 60
