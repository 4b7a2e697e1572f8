"""Articles into a store, whatever the route: checks and counts, near-duplicates, the data card, faults, masking."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faulty import tree
from hypothesis import given
from hypothesis import strategies as st

from geonb.data.sources.wikipedia import ARTICLES, ArticleFilter, collect, density, quoted
from geonb.data.store import check_store
from geonb.data.texts import leak_rate, mask_names, names_of
from geonb.data.work import Skips, Work, WorkError

WORDS = np.array(["a", "wide", "river", "old", "market", "of", "the", "hill", "road", "north", "bridge", "in"])


def table(n: int = 40, first: int = 1, seed: int = 0, **columns) -> pa.Table:
    rng = np.random.default_rng(seed + first)
    ids = list(range(first, first + n))
    data = {
        "page_id": ids, "title": [f"Title {i}" for i in ids], "lang": ["en"] * n,
        "lon": rng.uniform(-180, 180, n), "lat": rng.uniform(-85, 85, n),
        "text": [f"Title {i} is {' '.join(rng.choice(WORDS, 40))}." for i in ids],
    }  # fmt: skip
    return pa.table(data | columns)


def make(n: int, first: int, log: str = "", slow: float = 0) -> tuple[pa.Table, Skips]:
    if log:
        with open(log, "a") as stream:
            stream.write(f"{first}\n")
    time.sleep(slow)
    skips = Skips()
    skips.add("not on Earth", f"page {first}", 2)
    return table(n, first), skips


def fail(what: str) -> tuple[pa.Table, Skips]:
    raise ValueError(what)


def steps_of(n: int = 40, parts: int = 5, log: str = "", slow: float = 0):
    return lambda work: ((f"p/{i:03d}", partial(make, n, 1 + i * n, log, slow)) for i in range(parts))


def get(out, steps, plan=None, **options):
    options = {"source": "made up", "function": "tests.make", "progress": False} | options
    return collect(out, {"route": "test", "lang": "en", "snapshot": "20260901"} | (plan or {}), steps, **options)


def one(articles: pa.Table):
    return lambda work: [("p/0", partial(tuple, (articles, Skips())))]


# --- the filter ----------------------------------------------------------------------------------------


def test_every_row_is_kept_or_counted():
    articles = table(
        12,
        page_id=[1, None, 0, -5, 5, 6, 7, 8, 9, 10, 11, 12],
        title=["T", "T", "T", "T", None, " \n", *"TTTTTT"],
        lon=[0.0, 1, 1, 1, 1, 1, None, float("nan"), float("-inf"), -180.1, 0, 1],
        lat=[1.0, 1, 1, 1, 1, 1, 1, 1, 1, 1, -0.0, 90.1],
    )
    kept, skips = ArticleFilter().apply(articles)
    assert kept["page_id"].to_pylist() == [1] and kept.schema.equals(ARTICLES)
    assert skips.counts == {
        "no page id": 3, "no title": 2, "no position": 3, "position out of range": 2, "position at 0, 0": 1
    }  # fmt: skip
    assert skips.examples["no page id"] == "page None, 'T'"


def test_texts_that_are_too_short_or_too_long():
    text = [None, "", " \n ", "x" * 49, "é" * 50, "x" * 100, "x" * 101, "  " + "x" * 49 + "\x00\x00 "]
    kept, skips = ArticleFilter(min_chars=50, max_chars=100).apply(table(8, text=pa.array(text)))
    assert kept["page_id"].to_pylist() == [5, 6]
    assert skips.counts == {
        "no text": 3, "text of less than 50 characters": 2, "text of more than 100 characters": 1
    }  # fmt: skip
    for wrong in ((0, 5), (6, 5)):
        with pytest.raises(ValueError, match="min_chars"):
            ArticleFilter(*wrong)


def test_places_only():
    text = ["X was a battle of the war in the north, which was lost by all who fought it."] * 4
    articles = table(4, text=text, type=[None, "EVENT", "city", None], lang=["en", "de", "de", "de"])
    kept, skips = ArticleFilter(places_only=True).apply(articles)
    assert kept["page_id"].to_pylist() == [3, 4] and skips.counts == {"no place, but an event": 2}
    assert len(ArticleFilter().apply(articles)[0]) == 4


@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.integers(-3, 2**63 - 1)), st.one_of(st.none(), st.text(max_size=30)),
            st.one_of(st.none(), st.floats()), st.one_of(st.none(), st.floats()),
            st.one_of(st.none(), st.text(max_size=120)), st.one_of(st.none(), st.text(max_size=9)),
        ),
        max_size=20,
    )
)  # fmt: skip
def test_the_filter_takes_anything_that_arrow_can_hold(rows):
    names = ["page_id", "title", "lon", "lat", "text"]
    types = [pa.int64(), pa.string(), pa.float64(), pa.float64(), pa.string()]
    columns = {n: pa.array([r[i] for r in rows], t) for i, (n, t) in enumerate(zip(names, types, strict=True))}
    extra = {name: pa.array([r[5] for r in rows], pa.string()) for name in ("url", "qid", "type", "revision", "country_code")}
    columns |= extra | {"dim_m": columns["lon"], "lang": pa.repeat("en", len(rows))}
    kept, skips = ArticleFilter(min_chars=3, places_only=True).apply(pa.table(columns))
    assert len(kept) + sum(skips.counts.values()) == len(rows) and kept.schema.equals(ARTICLES)
    assert all(url.startswith("https://") and ".wikipedia.org/" in url for url in kept["url"].to_pylist())
    assert not any(c in text for text in kept["text"].to_pylist() for c in "\x00\x07\x1b\x7f\x85")


def test_tables_that_are_none():
    with pytest.raises(ValueError, match=r"missing \['lang'\], unknown \['txt'\]"):
        ArticleFilter().apply(table(2).rename_columns(["page_id", "title", "txt", "lon", "lat", "text"]))
    for lang in ("EN", "../x", "", "e"):
        with pytest.raises(ValueError, match="no language"):
            ArticleFilter().apply(table(2, lang=["en", lang]))


# --- the store -----------------------------------------------------------------------------------------


def test_a_store_with_all_that_is_known(tmp_path):
    articles = table(
        3, revision=["12", None, "x"], qid=["Q1", "q2", None], type=["City", None, "isle"], dim_m=[10.0, -1, None],
        url=["https://en.wikipedia.org/wiki/A", None, "http://en.wikipedia.org/wiki/B"], links=[5, None, 7],
        country_code=["fr", "GB", "ZZ"],
    )  # fmt: skip
    store = get(tmp_path / "s", one(articles))
    assert store.place_id.tolist() == ["enwiki-1", "enwiki-2", "enwiki-3"]
    rows = store.places.drop_columns(["geometry"]).to_pylist()
    assert rows[0] == {
        "place_id": "enwiki-1", "title": "Title 1", "source": "made up", "license": "CC BY-SA 4.0", "country_code": "FR",
        "country": "France", "continent": "Europe", "qid": "Q1", "type": "city", "dim_m": 10.0, "links": 5,
        "text_chars": len(store.texts([0])[0]), "near_duplicate": None,
    }  # fmt: skip
    assert store.column("country").tolist() == ["France", "United Kingdom", None]
    assert store.column("qid").tolist() == ["Q1", None, None]
    urls = ["https://en.wikipedia.org/wiki/A"] + [f"https://en.wikipedia.org/?curid={i}" for i in (2, 3)]
    assert store.text_column("url", range(3)) == urls and store.text_column("revision", range(3)) == ["12", None, None]
    assert store.text_column("lang", [0]) == ["en"] and store.text_column("license", [0]) == ["CC BY-SA 4.0"]
    credit = pq.read_table(store.path / "attribution.parquet").to_pylist()
    assert [(r["place_id"], r["url"], r["revision"]) for r in credit] == [
        ("enwiki-1", urls[0], "12"), ("enwiki-2", urls[1], None), ("enwiki-3", urls[2], None)
    ]  # fmt: skip
    assert {r["license_url"] for r in credit} == {"https://creativecommons.org/licenses/by-sa/4.0/"}
    assert not (tmp_path / "s.work").exists()
    check_store(store.path)


def test_parts_workers_and_limits(tmp_path):
    stores = [get(tmp_path / f"w{w}", steps_of(), workers=w) for w in (1, 2)]
    assert tree(stores[0].path) == tree(stores[1].path) and len(stores[0]) == 200
    assert stores[0].manifest["made"]["left_out"] == {"not on Earth": 10}
    limited = [get(tmp_path / f"l{w}", steps_of(), workers=w, limit=50) for w in (1, 2)]
    assert tree(limited[0].path) == tree(limited[1].path)
    assert limited[0].place_id.tolist() == stores[0].place_id[:50].tolist()
    assert limited[0].manifest["made"]["left_out"] == {"not on Earth": 4}  # of the two parts that were needed


def test_a_page_of_two_parts_is_taken_once_and_other_languages_are_other_pages(tmp_path):
    def steps(work):
        yield "a", partial(tuple, (table(20, 1), Skips()))
        yield "b", partial(tuple, (table(20, 11), Skips()))
        yield "c", partial(tuple, (table(5, 1, lang=["de"] * 5), Skips()))

    store = get(tmp_path / "s", steps)
    assert store.place_id.tolist() == [f"enwiki-{i}" for i in range(1, 31)] + [f"dewiki-{i}" for i in range(1, 6)]
    assert store.manifest["made"]["left_out"] == {"page seen before": 10}
    texts = table(20, 1)["text"].to_pylist() + table(20, 11)["text"].to_pylist()[10:]
    assert store.texts(range(30)) == texts
    assert len(get(tmp_path / "l", steps, limit=25)) == 25


def test_near_duplicates_are_marked_with_their_first_place_across_parts(tmp_path):
    stub = "X{0} is a village in Y{0} District of Z. At the census of {0}, its population was {0}, in {0} families."

    def steps(work):
        for part, ids in (("a", [50, 7, 60]), ("b", [300, 9, 11])):
            texts = [stub.format(i) if i != 60 else table(1)["text"][0].as_py() for i in ids]
            yield part, partial(tuple, (table(3, page_id=ids, text=texts), Skips()))

    store = get(tmp_path / "s", steps)
    assert store.column("near_duplicate").tolist() == ["enwiki-7", "enwiki-7", None] + ["enwiki-7"] * 3
    assert "5 (83.3%) are in 1 groups" in (store.path / "datacard.md").read_text()


def test_nothing_left_is_said_with_the_reasons(tmp_path):
    with pytest.raises(WorkError, match="(?s)no article is left.*3 left out: position at 0, 0"):
        get(tmp_path / "s", one(table(3, lon=[0.0] * 3, lat=[0.0] * 3)))
    with pytest.raises(WorkError, match="no article is left"):
        get(tmp_path / "t", lambda work: [])
    assert not (tmp_path / "s").exists()


# --- the data card -------------------------------------------------------------------------------------


def test_the_data_card_says_what_there_is(tmp_path):
    store = get(tmp_path / "s", steps_of(), notes=["Whether the sun shines."])
    card = (store.path / "datacard.md").read_text()
    chars = store.column("text_chars")
    for said in (
        "200 articles of the Wikipedia in `en`", "Snapshot: `20260901`. Route: test.", "| 10 | not on Earth | `page 1` |",
        f"| {chars.min():,.0f} | ", f" | {chars.max():,.0f} |", "attribution.parquet", "Whether the sun shines.",
        "https://creativecommons.org/licenses/by-sa/4.0/", "| unknown | 200 | 100.0% |",
    ):  # fmt: skip
        assert said in card, said


@given(st.text(max_size=200))
def test_what_is_quoted_stays_within_its_cell(text):
    out = quoted(text)
    assert out == "" or (out[0] == out[-1] == "`" and "`" not in out[1:-1])
    assert len(out) <= 82 and not set("|\n\r\u202e\u2028\x00") & set(out) and out.isprintable()


def test_hostile_titles_in_the_data_card(tmp_path):
    title = "[x](http://evil) <script>alert(1)</script> | `a` \u202e\n\n# Heading " + "y" * 300
    store = get(tmp_path / "s", one(table(2, title=[title, "ok"], lon=[0.0, 1], lat=[0.0, 1])), source="<b>|`")
    card = (store.path / "datacard.md").read_text()
    row = next(line for line in card.splitlines() if "at 0, 0" in line)
    assert row.count("|") == 4 and row.count("`") == 2 and "<b>" not in card.replace("`<b>¦'`", "")
    assert "# Heading" not in [line.strip() for line in card.splitlines()] and "\u202e" not in card


def test_density_against_a_loop():
    rng = np.random.default_rng(0)
    z = rng.uniform(-1, 1, 20_000)
    even = np.stack([rng.uniform(-180, 180, 20_000), np.degrees(np.arcsin(z))], 1)
    lonlat = np.concatenate([even, np.tile([[2.3, 48.9]], (20_000, 1))])
    found = density(lonlat)
    bins, edges = (160, 320), [[-1, 1], [-180, 180]]
    counts = np.sort(np.histogram2d(np.sin(np.radians(lonlat[:, 1])), lonlat[:, 0], bins, edges)[0].ravel())
    assert found["densest"] == pytest.approx(counts[-512:].sum() / 40_000) and counts[-1] >= 20_000
    assert found["max"] == pytest.approx(counts[-1] * 1e6 / 9962, rel=1e-3) and found["median"] == pytest.approx(100.4, abs=0.1)
    assert found["occupied"] == pytest.approx((counts > 0).mean())
    assert found["occupied"] == pytest.approx(1 - np.exp(-20_000 / 51_200), abs=0.01)
    for edge in ([[180.0, 90.0]], [[-180.0, -90.0]], [[179.999999999, 0.0]]):
        assert density(np.array(edge))["occupied"] == pytest.approx(1 / 51_200)


# --- names ---------------------------------------------------------------------------------------------


def test_names_of_places_can_be_masked(tmp_path):
    texts = [
        "Lake Annecy is a lake in Haute-Savoie in France. Annecy lies on it, and Italy and Paris are not far away.",
        "Brienz is a village on the northern shore of Lake Brienz, in Switzerland. From Annecy one comes by rail to Brienz.",
    ]
    articles = table(2, title=["Lake Annecy", "Brienz"], text=texts, country_code=["FR", "CH"])
    store = get(tmp_path / "s", one(articles))
    names, shared = names_of(store, gazetteer=["Haute-Savoie"])
    assert {"Lake Annecy", "Annecy", "France", "Paris", "Italy"} <= set(names[0]) and "Switzerland" in names[1]
    masked = mask_names(store.texts([0, 1]), names, shared)
    assert leak_rate(masked, names) == 0
    assert masked[0] == "[place] is a lake in [place] in [place]. [place] lies on it, and [place] and [place] are not far away."
    assert masked[1].startswith("[place] is a village on the northern shore of") and "Brienz" not in masked[1]


# --- faults --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_a_step_that_fails_leaves_what_is_done(tmp_path, workers):
    def broken(work):
        yield from list(steps_of()(work))[:3]
        yield "p/003", partial(fail, "the source is gone")

    with pytest.raises(ValueError, match="the source is gone"):
        get(tmp_path / "s", broken, workers=workers)
    with Work(tmp_path / "s", get_plan()) as work:
        assert all(work.done(f"p/{i:03d}") for i in range(3)) and not work.done("p/003")
    log = str(tmp_path / "log")
    store = get(tmp_path / "s", steps_of(log=log))
    assert sorted(map(int, Path(log).read_text().split())) == [121, 161]
    assert tree(store.path) == tree(get(tmp_path / "u", steps_of()).path)


def get_plan(**more) -> dict:
    filters = {"min_chars": 50, "max_chars": 300_000, "places_only": False}
    return {"route": "test", "lang": "en", "snapshot": "20260901", "filters": filters, "limit": None, "simulated": False} | more


def test_other_filters_do_not_go_on_from_these(tmp_path):
    with pytest.raises(ValueError, match="gone"):
        get(tmp_path / "s", lambda work: [("a", partial(make, 10, 1)), ("b", partial(fail, "gone"))])
    with pytest.raises(WorkError, match="filters"):
        get(tmp_path / "s", steps_of(), filters=ArticleFilter(min_chars=10))
    with pytest.raises(WorkError, match="limit"):
        get(tmp_path / "s", steps_of(), limit=10)


@pytest.mark.parametrize("done", [1, 4])
def test_killed_in_the_middle_it_goes_on(tmp_path, done):
    code = "import sys; sys.path[:0] = sys.argv[2:]; import test_wikipedia as t; t.get(sys.argv[1], t.steps_of(slow=0.4))"
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "s"), *folders])
    part = tmp_path / "s.work" / "parts" / "p" / f"{done - 1:03d}.parquet"
    for _ in range(3000):
        if part.exists():
            break
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert part.exists() and not (tmp_path / "s").exists()
    store = get(tmp_path / "s", steps_of())
    assert tree(store.path) == tree(get(tmp_path / "u", steps_of()).path)
