"""The Action API route against a server that answers as GeoData and TextExtracts do, and misbehaves as told."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from urllib.request import OpenerDirector

import numpy as np
import pyarrow.parquet as pq
import pytest
from faulty import Request, Response, serve, tree
from hypothesis import given, settings
from hypothesis import strategies as st

from geonb.data import download
from geonb.data.download import Api, DownloadError, NetworkAbsent
from geonb.data.sources.wikipedia_api import CIRCLE_LIMIT, CROWDED, MAX_RADIUS_KM, cells, from_api, search
from geonb.data.work import WorkError
from geonb.geo import great_circle_km

CONTACT = "tests@example.org"
BOX = (7.3, 46.8, 7.7, 47.1)


class Wiki:
    """Pages with positions, served as the Action API serves them (formatversion 2)."""

    def __init__(self, pages: dict[int, dict], per_answer: int = 1000, limit: int = 500):
        self.pages, self.per_answer, self.limit = pages, per_answer, limit
        self.id = np.array(sorted(pages))
        self.at = np.array([[pages[i]["lon"], pages[i]["lat"]] for i in self.id]).reshape(-1, 2)
        self.deleted: set[int] = set()

    def __call__(self, request: Request) -> Response:
        if "geonb" not in request.headers.get("User-Agent", ""):
            return Response(403, body=b"Please set a user-agent and respect our robot policy")
        asked = request.query
        assert asked["action"] == "query" and asked["format"] == "json" and asked["formatversion"] == "2"
        assert asked["maxlag"] == "5"
        answer = self.geosearch(asked) if asked.get("list") == "geosearch" else self.props(asked)
        body = gzip.compress(json.dumps(answer).encode(), mtime=0)
        return Response(200, {"Content-Type": "application/json", "Content-Encoding": "gzip"}, body)

    def geosearch(self, asked: dict[str, str]) -> dict:
        lat, lon = map(float, asked["gscoord"].split("|"))
        radius, limit = int(asked["gsradius"]), min(int(asked["gslimit"]), self.limit)
        assert 10 <= radius <= 10_000 and abs(lat) <= 90 and abs(lon) <= 180
        far = great_circle_km(self.at, (lon, lat)) * 1000
        near = np.argsort(far, kind="stable")
        near = near[far[near] <= radius][:limit]
        listed = [
            {"pageid": int(self.id[i]), "ns": 0, "title": f"T{self.id[i]}", "lat": float(self.at[i, 1]),
             "lon": float(self.at[i, 0]), "dist": round(float(far[i]), 1), "primary": True}
            for i in near if int(self.id[i]) not in self.deleted
        ]  # fmt: skip
        return {"batchcomplete": True, "query": {"geosearch": listed}}

    def props(self, asked: dict[str, str]) -> dict:
        ids = [int(i) for i in asked["pageids"].split("|")]
        intro = asked.get("exintro") == "1"
        assert len(ids) <= (20 if intro else 1) and asked["explaintext"] == "1"
        assert asked["coprimary"] == "primary" and asked["colimit"] == "max"
        start = int(asked.get("excontinue", 0))
        stop = min(start + min(int(asked["exlimit"]), self.per_answer), len(ids))
        pages = []
        for i, id_ in enumerate(ids):
            if id_ not in self.pages or id_ in self.deleted:
                pages.append({"pageid": id_, "missing": True})
                continue
            page = self.pages[id_]
            out = {"pageid": id_, "ns": page.get("ns", 0), "title": page["title"]}
            if start <= i < stop:
                out["extract"] = page["text"] if intro else page["text"] + "\n\nHistory\nMore."
            if "excontinue" not in asked:  # the other modules are done with the first answer
                out |= {"lastrevid": 1000 + id_, "fullurl": f"https://en.wikipedia.org/wiki/T{id_}"}
                out |= {"redirect": True} if page.get("redirect") else {}
                out["pageprops"] = {"wikibase_item": f"Q{id_}", **page.get("props", {})}
                place = {"lat": page["lat"], "lon": page["lon"], "primary": True, "globe": page.get("globe", "earth")}
                place |= {"type": "city", "dim": "1000", "country": "CH"}
                out["coordinates"] = page.get("coordinates", [place])
            pages.append(out)
        answer = {"query": {"pages": pages}}
        if stop < len(ids):
            return {"continue": {"excontinue": stop, "continue": "||info|pageprops|coordinates"}} | answer
        return {"batchcomplete": True} | answer


def made(n: int = 90, box=BOX, seed: int = 0) -> dict[int, dict]:
    rng = np.random.default_rng(seed)
    west, south, east, north = box
    ids = rng.choice(np.arange(100, 100 + 20 * n), n, replace=False).tolist()
    return {
        id_: {
            "title": f"T{id_}",
            "lon": float(rng.uniform(west, east)),
            "lat": float(rng.uniform(south, north)),
            "text": f"T{id_} is a place. " + " ".join(rng.choice(list("abcdefgh"), 60)),
        }
        for id_ in ids
    }


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No waiting, and the waits that would have been."""
    waits: list[float] = []
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("GEONB_CONTACT", raising=False)
    monkeypatch.setattr(download, "_sleep", waits.append)
    return waits


def get(out, server, **options):
    options = {"bbox": BOX, "contact": CONTACT, "progress": False} | options
    return from_api(out, endpoint=f"{server.url}/w/api.php", **options)


# --- an area cut into circles --------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.floats(-180, 179), st.floats(-90, 89.9), st.floats(0.001, 3), st.floats(0.001, 1.5), st.integers(0, 2**32 - 1)
)
def test_cells_cover_a_box_and_lie_in_their_circles(west, south, width, height, seed):
    north = min(south + height, 90.0)
    east = (west + width + 180) % 360 - 180
    found = cells((west, south, east, north))
    assert all(cell.radius_km <= MAX_RADIUS_KM for cell in found)
    rng = np.random.default_rng(seed)
    points = np.stack([west + (((east - west) % 360) * rng.random(200)), rng.uniform(south, north, 200)], 1)
    points[:4] = [(west, south), (west, north), (west + (east - west) % 360, south), (west + width / 2, north)]
    centres = np.array([cell.centre for cell in found])
    radii = np.array([cell.radius_km for cell in found])
    inside = great_circle_km(points[:, None], centres) <= radii + 1e-6
    assert inside.any(1).all()
    area = sum((c.east - c.west) * (np.sin(np.radians(c.north)) - np.sin(np.radians(c.south))) for c in found)
    whole = ((east - west) % 360) * (np.sin(np.radians(north)) - np.sin(np.radians(south)))
    assert area == pytest.approx(whole, rel=1e-6)


def test_a_box_around_a_pole_and_one_of_a_whole_parallel():
    for box in ((-180, 89.7, 180, 90), (-180, -90, 180, -89.9), (-180, -0.1, 180, 0.1)):
        found = cells(box)
        points = np.stack([np.linspace(-180, 180, 400), np.linspace(box[1], box[3], 400)], 1)
        centres, radii = np.array([c.centre for c in found]), np.array([c.radius_km for c in found])
        assert radii.max() <= MAX_RADIUS_KM
        assert (great_circle_km(points[:, None], centres) <= radii + 1e-6).any(1).all()


def test_quarters_of_a_cell_cover_it():
    cell = cells((179.9, 10, -179.9, 10.1))[0]
    quarters = cell.quarters()
    assert {(q.west, q.south) for q in quarters} >= {(cell.west, cell.south)} and len(quarters) == 4
    assert max(q.east for q in quarters) == cell.east and max(q.north for q in quarters) == cell.north
    assert all(q.radius_km < 0.51 * cell.radius_km for q in quarters)


def test_a_crowded_circle_is_split_until_nothing_is_lost(tmp_path):
    pages = made(3000, (7.44, 46.94, 7.45, 46.95))
    wiki = Wiki(pages)
    with serve(answer=wiki) as server:
        api = Api(server.url, download.user_agent(CONTACT), cache=None)
        found, skips, asked = search(api, cells(BOX), 500, progress=False)
        assert asked == len(server.seen)
        assert found == set(pages) and not skips.counts
        wiki.deleted = set(sorted(pages)[::15])  # an answer is then shorter than its limit, and not whole
        assert search(api, cells(BOX), 500, progress=False)[0] == set(pages) - wiki.deleted
        with pytest.raises(ValueError, match="crowded.*max_requests"):
            search(api, cells(BOX), 30, progress=False)


def test_more_pages_at_one_point_than_can_be_listed_are_counted(tmp_path):
    pages = made(700)
    for page in pages.values():
        page.update(lon=7.44, lat=46.94)
    with serve(answer=Wiki(pages)) as server:
        store = get(tmp_path / "s", server)
    assert len(store) == CIRCLE_LIMIT
    assert store.manifest["made"]["left_out"][CROWDED] >= 1
    assert CROWDED in (store.path / "datacard.md").read_text()


# --- articles ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["intro", "full"])
def test_articles_of_a_box_with_all_that_is_known(tmp_path, text, quick):
    pages = made(90)
    outside = {7: {"title": "Out", "lon": 7.29, "lat": 46.85, "text": "Out of the box, but in a circle. " * 3}}
    with serve(answer=Wiki(pages | outside, per_answer=7)) as server:
        store = get(tmp_path / "s", server, text=text)
        assert server.most_at_once == 1
        agents = {r.headers["User-Agent"] for r in server.seen}
    assert agents == {download.user_agent(CONTACT)} and CONTACT in agents.pop()
    ids = sorted(pages)
    assert store.place_id.tolist() == [f"enwiki-{id_}" for id_ in ids]
    np.testing.assert_allclose(store.lonlat, [[pages[i]["lon"], pages[i]["lat"]] for i in ids])
    assert [t.split("\n")[0] for t in store.texts(range(len(store)))] == [pages[i]["text"] for i in ids]
    assert all(("History" in t) == (text == "full") for t in store.texts(range(len(store))))
    assert store.text_column("revision", [0]) == [str(1000 + ids[0])]
    assert set(store.column("country")) == {"Switzerland"} and set(store.column("type")) == {"city"}
    assert set(store.column("dim_m")) == {1000.0} and store.column("qid")[0] == f"Q{ids[0]}"
    assert store.manifest["made"]["left_out"] == {"outside the area": 1}
    table = pq.read_table(store.path / "attribution.parquet").to_pylist()
    assert [row["url"] for row in table] == [f"https://en.wikipedia.org/wiki/T{id_}" for id_ in ids]
    assert [row["revision"] for row in table] == [str(1000 + id_) for id_ in ids]
    assert {row["license"] for row in table} == {"CC BY-SA 4.0"}
    assert not any(CONTACT.encode() in f.read_bytes() for f in store.path.rglob("*") if f.is_file())
    assert len(quick) > 3 and max(quick) <= 1.0  # a second between two requests


def test_what_is_no_article_with_a_position_on_earth_is_counted(tmp_path):
    pages = made(30)
    a, b, c, d, e, f, g, h = sorted(pages)[:8]
    pages[a]["ns"] = 14
    pages[b]["redirect"] = True
    pages[c]["props"] = {"disambiguation": ""}
    pages[d]["coordinates"] = []
    pages[e]["globe"] = "moon"
    pages[f]["text"] = "Short."
    pages[g]["coordinates"] = [{"lat": 0, "lon": 0, "primary": False}, "no object"]
    pages[h]["coordinates"] = [{"lat": "abc", "lon": 1e300, "primary": True}]
    with serve(answer=Wiki(pages)) as server:
        store = get(tmp_path / "s", server)
    assert store.manifest["made"]["left_out"] == {
        "no article (another namespace)": 1, "redirect": 1, "disambiguation page": 1, "no position of its own": 2,
        "not on Earth": 1, "position out of range": 1, "text of less than 50 characters": 1,
    }  # fmt: skip
    assert len(store) + sum(store.manifest["made"]["left_out"].values()) == 30


def test_a_page_that_is_deleted_between_search_and_reading_is_counted(tmp_path):
    wiki = Wiki(made(30))
    gone = sorted(wiki.pages)[3]

    def answer(request):
        if "prop" in request.query:
            wiki.deleted = {gone}
        return wiki(request)

    with serve(answer=answer) as server:
        store = get(tmp_path / "s", server)
    assert len(store) == 29 and store.manifest["made"]["left_out"] == {"page is gone": 1}


def test_articles_around_points_and_across_the_antimeridian(tmp_path):
    pages = made(60, (179.8, -17.2, 180.2, -16.8))
    for page in pages.values():
        page["lon"] = (page["lon"] + 180) % 360 - 180
    at = np.array([[p["lon"], p["lat"]] for _, p in sorted(pages.items())])
    with serve(answer=Wiki(pages)) as server:
        box = get(tmp_path / "box", server, bbox=(179.8, -17.2, -179.8, -16.8))
        centre = (-179.95, -17.0)
        around = get(tmp_path / "around", server, bbox=None, points=[centre], radius_km=12)
    assert len(box) == 60 and len(set(np.sign(box.lonlat[:, 0]))) == 2
    near = great_circle_km(at, centre) <= 12
    assert 5 < near.sum() < 55
    np.testing.assert_allclose(around.lonlat, at[near])


def test_the_first_articles_only(tmp_path):
    pages = made(300)
    ids = sorted(pages)
    pages[ids[3]]["text"] = ""
    with serve(answer=Wiki(pages)) as server:
        store = get(tmp_path / "s", server, limit=25)
        asked = [r for r in server.seen if "prop" in r.query]
    assert store.place_id.tolist() == [f"enwiki-{i}" for i in [*ids[:3], *ids[4:26]]] and len(asked) == 5


def test_hostile_answers_do_no_harm(tmp_path):
    pages = made(8)
    a, b, c = sorted(pages)[:3]
    pages[a]["title"] = "[x](javascript:alert(1)) | <script>`'; DROP TABLE places;--`"
    pages[b]["title"] = "Zero\x00 and \ud800 half \u202etxt.exe"
    pages[b]["text"] = "A lone surrogate \udfff and a NUL \x00 and so on, in a text that is long enough for a place."
    pages[c]["title"], pages[c]["text"] = "Long [y](http://z) |", "x" * 400_000
    with serve(answer=Wiki(pages)) as server:
        store = get(tmp_path / "s", server)
    assert len(store) == 7
    assert store.column("title")[0] == pages[a]["title"]
    assert "\x00" not in store.column("title")[1] + store.texts([1])[0] and "?" in store.texts([1])[0]
    card = (store.path / "datacard.md").read_text()
    line = next(line for line in card.splitlines() if "300,000" in line)
    assert line.count("|") == 4 and "`page" in line and "¦" in line


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"query": {"geosearch": 5}}, "without a list"),
        ({"batchcomplete": True}, "without a list"),
        ({"error": {"code": "badvalue", "info": "Unrecognized value"}}, "badvalue: Unrecognized value"),
        ({"warnings": {"geosearch": {"warnings": "gsradius may not be over 1000"}}}, "changed the search"),
    ],
)
def test_an_answer_of_another_form_stops_with_a_word(tmp_path, answer, message):
    with serve(answer=lambda r: Response(200, {}, json.dumps(answer).encode())) as server:
        with pytest.raises(DownloadError, match=message):
            get(tmp_path / "s", server)
    assert not (tmp_path / "s").exists()


def test_a_service_that_never_ends_is_left(tmp_path):
    wiki = Wiki(made(30))

    def answer(request):
        if "prop" not in request.query:
            return wiki(request)
        found = {"continue": {"excontinue": 1, "continue": "||"}, "query": {"pages": [{"pageid": "x"}, 3]}}
        return Response(200, {}, json.dumps(found).encode())

    with serve(answer=answer) as server, pytest.raises(DownloadError, match="in circles"):
        get(tmp_path / "s", server)


# --- before anything is asked --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"contact": None}, "GEONB_CONTACT"),
        ({"contact": "me"}, "no contact"),
        ({"bbox": None}, "one of the two"),
        ({"points": [(7, 47)]}, "one of the two"),
        ({"bbox": None, "points": [(7, 97)]}, "row 0.*out of range"),
        ({"bbox": None, "points": np.empty((0, 2))}, "at least one"),
        ({"bbox": None, "points": [(7, 47)], "radius_km": 0}, "radius_km"),
        ({"bbox": (47, 7.3, 46, 7)}, "south must be below north"),
        ({"bbox": (0, 0, float("nan"), 1)}, "west and east"),
        ({"text": "all"}, "intro, full"),
        ({"bbox": (0, 0, 30, 30)}, r"54,\d+ circles.*minutes; that is more than 2,000.*dumps"),
        ({"limit": 0}, "at least 1"),
        ({"min_chars": 0}, "min_chars"),
    ],
)
def test_nothing_is_asked_that_makes_no_sense(tmp_path, options, message):
    with serve(answer=Wiki(made(3))) as server:
        with pytest.raises(ValueError, match=message):
            get(tmp_path / "s", server, **options)
        assert not server.seen
    assert not (tmp_path / "s").exists() and not (tmp_path / "s.work").exists()


def test_the_estimate_comes_first_and_one_limit_holds_for_the_search_and_the_texts(tmp_path, capsys):
    with serve(answer=Wiki(made(120))) as server:
        with pytest.raises(ValueError, match="120 articles found: 120 requests or more, about 3 minutes"):
            get(tmp_path / "s", server, text="full", max_requests=60, progress=True)
        searched = len(server.seen)
        with pytest.raises(ValueError, match=f"120 requests.*with the {searched} of the search, more than {searched + 119} "):
            get(tmp_path / "s", server, text="full", max_requests=searched + 119)
        store = get(tmp_path / "s", server, text="full", max_requests=searched + 120)
        assert len(server.seen) == searched + 120 and len(store) == 120
    assert "circles to search" in capsys.readouterr().err


# --- faults: the next run finishes, and the store is the same, byte for byte --------------------------


@pytest.fixture(scope="module")
def wiki():
    """A server for all faults (its address is in the store), and the store of a run without any."""
    with serve(answer=Wiki(made(420), per_answer=9)) as server:
        yield server


@pytest.fixture
def undisturbed(wiki, tmp_path):
    wiki.tricks = []
    if not hasattr(wiki, "tree"):
        get(tmp_path / "undisturbed", wiki)
        wiki.tree = tree(tmp_path / "undisturbed")
    return wiki.tree


LAG = {"status": 200, "headers": {"Retry-After": "5", "X-Database-Lag": "9"},
       "body": b'{"error": {"code": "maxlag", "info": "Waiting for db: 9 seconds lagged."}}'}  # fmt: skip
FAULTS = {
    "lagging": ([LAG, LAG], [5.0, 5.0]),
    "429 with Retry-After": ([{"status": 429, "headers": {"Retry-After": "7"}}], [7.0]),
    "429 without": ([{"status": 429}] * 3, []),
    "503": ([{"status": 503, "body": b"overloaded"}], []),
    "500": ([{"status": 500}] * 2, []),
    "body cut": ([{"cut": 40}], []),
    "gzip truncated": ([{"truncate": 40}], []),
    "no JSON": ([{"status": 200, "body": b"<html>busy</html>"}], []),
    "closed": ([{"raw": b""}], []),
}


@pytest.mark.parametrize("where", [0, 7, 20])
@pytest.mark.parametrize("fault", FAULTS)
def test_after_a_fault_the_store_is_the_same(wiki, undisturbed, tmp_path, quick, fault, where):
    tricks, waits = FAULTS[fault]
    wiki.tricks = [{}] * where + [dict(trick) for trick in tricks]
    quick.clear()
    get(tmp_path / "s", wiki)
    assert wiki.tricks == [] and tree(tmp_path / "s") == undisturbed
    for wait in waits:
        assert any(wait - 1.5 < waited <= wait for waited in quick)


def test_refused_without_mercy_it_stops_and_later_goes_on_without_asking_twice(wiki, undisturbed, tmp_path):
    wiki.tricks = [{}] * 12 + [{"status": 429}] * 8
    before = len(wiki.seen)
    with pytest.raises(DownloadError, match="the same command goes on"):
        get(tmp_path / "s", wiki)
    assert not (tmp_path / "s").exists()
    get(tmp_path / "s", wiki)
    questions = [tuple(sorted(r.query.items())) for r in wiki.seen[before:]]
    assert len(questions) == len(set(questions)) + 8
    assert tree(tmp_path / "s") == undisturbed and not (tmp_path / "s.work").exists()


def test_a_client_that_is_forbidden_is_told_so_at_once(wiki, tmp_path):
    wiki.tricks = [{"status": 403, "body": b"Please respect our robot policy"}]
    before = len(wiki.seen)
    with pytest.raises(DownloadError, match="403.*robot policy"):
        get(tmp_path / "s", wiki)
    assert len(wiki.seen) == before + 1


def test_no_connection(tmp_path):
    with serve() as server:
        pass
    with pytest.raises(NetworkAbsent):
        get(tmp_path / "s", server)


def test_other_questions_do_not_go_on_from_these(wiki, tmp_path):
    wiki.tricks = [{}] * 12 + [{"status": 404}]
    with pytest.raises(DownloadError):
        get(tmp_path / "s", wiki)
    wiki.tricks = []
    with pytest.raises(WorkError, match="bbox"):
        get(tmp_path / "s", wiki, bbox=(7.3, 46.8, 7.7, 47.0))


SCRIPT = """
import sys
from geonb.data import download
download._sleep = lambda seconds: None
from geonb.data.sources.wikipedia_api import from_api
from_api(sys.argv[1], bbox=%r, contact=%r, endpoint=sys.argv[2], progress=False)
"""


@pytest.mark.parametrize("stop_at", [6, 20])
def test_killed_in_the_middle_it_goes_on(wiki, undisturbed, tmp_path, stop_at):
    """Once while it searches, and once while it reads."""
    wiki.tricks = [{}] * stop_at + [{"delay": 60}]
    before = len(wiki.seen)
    script = SCRIPT % (BOX, CONTACT)
    command = [sys.executable, "-c", script, str(tmp_path / "s"), f"{wiki.url}/w/api.php"]
    process = subprocess.Popen(command, env=os.environ | {"no_proxy": "127.0.0.1"})
    for _ in range(600):
        if len(wiki.seen) - before > stop_at:
            break
        time.sleep(0.05)
    assert len(wiki.seen) - before == stop_at + 1
    with pytest.raises(WorkError, match="another process"):
        get(tmp_path / "s", wiki)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert (tmp_path / "s.work").is_dir() and not (tmp_path / "s").exists()
    wiki.tricks = []
    get(tmp_path / "s", wiki)
    assert tree(tmp_path / "s") == undisturbed
    questions = [tuple(sorted(r.query.items())) for r in wiki.seen[before:]]
    assert len(questions) == len(set(questions)) + 1  # only the one that was under way


def test_requests_start_a_second_apart_for_real(monkeypatch, tmp_path):
    """By the last look at the clock before each: a busy machine may take one request late and the next in time."""
    opened, looks, starts = OpenerDirector.open, [0.0], []

    def look():
        looks[0] = time.monotonic()
        return looks[0]

    def noted(*args, **kwargs):
        starts.append(looks[0])
        return opened(*args, **kwargs)

    monkeypatch.setattr(download, "_clock", look)
    monkeypatch.setattr(OpenerDirector, "open", noted)
    monkeypatch.setattr(download, "_sleep", time.sleep)
    with serve(answer=Wiki(made(20))) as server:
        get(tmp_path / "s", server, bbox=(7.3, 46.8, 7.7, 46.9))
    assert len(starts) == len(server.seen) >= 2 and min(b - a for a, b in pairwise(starts)) > 0.999
