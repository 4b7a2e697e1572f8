"""The planet view in a real browser: what it reads, colours and lists, compared with NumPy."""

from __future__ import annotations

import base64
import functools
import re
import zlib

import numpy as np
import pytest

import geonb
from geonb.explore import planet
from geonb.explore.maps import land_centres
from geonb.explore.planet import answer_view, planet_view, vocabulary
from geonb.geo import great_circle_km, unit_xyz
from geonb.questions import Answer

sync_api = pytest.importorskip("playwright.sync_api")
from check_book import barriers  # noqa: E402
from explore.oracles import drawn, equal_earth, settle  # noqa: E402

HOSTILE = ["<img src=x onerror=window.hacked=1>", "</script><script>window.hacked=1</script>", "<!--<script>\u2028"]
QUERIES = ["southern ice", "northern ice", "ice and lakes", "tropical forest", "Forest roads", "déserts"]
KM = 300.0  # wide cells: about 1,600 of them
CENTRES = land_centres(KM)[1]


class Waves:
    """A model whose embedding is known: waves on the sphere, mixed; its texts are directions."""

    manifest = {"architecture": "waves", "data": {"simulated": {"text": True}}}

    def __init__(self, dim=48, seed=0, modalities=("location", "text")):
        rng = np.random.default_rng(seed)
        self.turn, self.phase = rng.normal(size=(3, dim)) * 2, rng.uniform(0, 6, dim)
        self.dim, self.modalities = dim, modalities

    def embed_locations(self, lonlat):
        z = np.cos(unit_xyz(lonlat) @ self.turn + self.phase).astype(np.float32)
        return z / np.linalg.norm(z, axis=1, keepdims=True)

    def embed_texts(self, texts):
        z = np.stack([np.random.default_rng(sum(map(ord, t))).normal(size=self.dim) for t in texts])
        return (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)


MODELS = {"one": Waves(), "two": Waves(seed=1)}


@functools.cache
def two_models():
    return planet_view(MODELS, queries=QUERIES, cells_km=KM)


# ---- what the page holds, read back in Python


def inflate(text, k):
    steps = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.int8).reshape(k, -1)
    return np.cumsum(steps, axis=1, dtype=np.int64).astype(np.int8).T


def in_page(view, i=0):
    """Embeddings of the cells as the page has them, and of the queries."""
    m = view.data["models"][i]
    words = inflate(m["words"], m["k"]) * m["wordStep"] if m["words"] else None
    return inflate(m["vectors"], m["k"]) * m["step"], words


def on_map(page, lon, lat, which=0):
    """Where a position lies on a map's canvas, in CSS pixels, and the canvas's box, scrolled into view."""
    top = page.locator(".gp-top").nth(which)
    top.scroll_into_view_if_needed()
    box, (unit, aspect) = top.bounding_box(), equal_earth(lon, lat)
    side = min((box["width"] - 12) / aspect, box["height"] - 12)
    return (unit - 0.5) * [side * aspect, side] + [box["width"] / 2, box["height"] / 2], box


def spot(page, lon, lat, which=0):
    (x, y), box = on_map(page, lon, lat, which)
    return box["x"] + x, box["y"] + y


def click(page, lon, lat, which=0):
    page.mouse.click(*spot(page, lon, lat, which))
    settle(page)


def values(page):
    """The numbers in the read-out, after the names of the maps."""
    text = page.locator(".gp-readout").first.inner_text().replace("\u2212", "-")
    return {name.strip(): float(v) for name, v in re.findall(r"·\s([^·:]+): ([+-]?\d+\.\d+)", text)}


def colour(page, lon, lat):
    (x, y), _ = on_map(page, lon, lat)
    return page.locator(".gp-base").first.evaluate(
        "(c, [x, y]) => [...c.getContext('2d').getImageData(Math.round(x), Math.round(y), 1, 1).data]", [x, y])  # fmt: skip


def place_of(page):
    return int(page.locator(".gp").first.get_attribute("data-place"))


def cell(lon, lat):
    return int((unit_xyz(CENTRES) @ unit_xyz([[lon, lat]])[0]).argmax())


@pytest.mark.parametrize("width, over_http", [(1200, False), (390, True)])
def test_click_and_pointer_say_what_numpy_says(open_page, width, over_http):
    page = open_page(two_models().to_html(), width=width, over_http=over_http)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    here, there = (24.0, 3.0), (-100.0, 45.0)
    before = [drawn(c) for c in page.locator(".gp-base").all()]
    click(page, *here)
    assert place_of(page) == cell(*here)
    assert all(drawn(c) != b for c, b in zip(page.locator(".gp-base").all(), before, strict=True))
    page.mouse.move(*spot(page, *there, which=1))  # on the right map; the others follow
    found, lonlat = values(page), CENTRES[[cell(*here), cell(*there)]]
    for i, (name, model) in enumerate(MODELS.items()):
        z, _ = in_page(two_models(), i)
        a, b = model.embed_locations(lonlat)
        assert found[name] == pytest.approx(z[cell(*here)] @ z[cell(*there)], abs=6e-4)
        assert found[name] == pytest.approx(a @ b, abs=planet.CLOSE + 1e-3)
    assert found["one - two"] == pytest.approx(found["one"] - found["two"], abs=2e-3)
    away = re.search(r"([\d,]+) km from the chosen", page.locator(".gp-readout").inner_text())
    assert float(away[1].replace(",", "")) == pytest.approx(great_circle_km(lonlat[0], there), rel=0.02)


def test_colours_relative_values_and_the_choice_of_models(open_page):
    page = open_page(two_models().to_html())
    click(page, 20, 10)
    z, _ = in_page(two_models())
    similarity = z @ z[cell(20, 10)]
    places = sorted([(20, 10), (35, 20), (60, 50), (-100, 45), (25, -20)], key=lambda p: similarity[cell(*p)])
    light = [sum(colour(page, *p)[:3]) for p in places]
    assert light == sorted(light) and len(set(light)) > 3  # the more similar, the brighter
    assert colour(page, -140, 0)[:3] == [11, 18, 32]  # sea
    page.get_by_label("Values").select_option("relative")
    page.mouse.move(*spot(page, 100, 30))
    expected = (similarity - similarity.mean()) / similarity.std()
    assert values(page)["one"] == pytest.approx(expected[cell(100, 30)], abs=2e-3)
    assert "σ" in page.locator(".gp-legend").first.inner_text()
    page.get_by_label("Right").select_option(label="one")
    assert page.locator(".gp-map:visible").count() == 1  # one model, no difference


def test_dragging_keys_and_towns_move_the_place(open_page):
    page = open_page(two_models().to_html())
    click(page, 20, 10)
    page.mouse.down()
    page.mouse.move(*spot(page, 40, 50), steps=3)
    page.mouse.up()
    settle(page)
    assert place_of(page) == cell(40, 50)
    page.mouse.move(3, 3)
    page.locator(".gp-top").first.focus()
    for key in ("Shift+ArrowLeft", "ArrowUp", "Enter"):
        page.keyboard.press(key)
    settle(page)
    assert place_of(page) != cell(40, 50)
    box = page.get_by_label("Go to")
    box.fill("reykjav")  # typed without the accent
    box.press("Enter")
    settle(page)
    assert "Iceland" in box.input_value()
    assert np.hypot(*(CENTRES[place_of(page)] - [-21.9, 64.1])) < 6


def test_ask_by_typing_and_the_words_nearest_to_a_place(open_page):
    models = {"one": MODELS["one"], "sentinel2": Waves(seed=2, modalities=("location", "sentinel2"))}
    view = planet_view(models, queries=QUERIES, query="ice and lakes", cells_km=KM)
    page = open_page(view.to_html())
    page.get_by_role("tab", name="Ask the planet").click()
    assert page.locator(".gp-map:visible").count() == 1  # the other model has no text
    ask = page.get_by_label("Ask", exact=True)
    assert ask.input_value() == "ice and lakes"
    ask.fill("NORTHERN")
    ask.press("Enter")
    settle(page)
    assert ask.input_value() == "northern ice"
    page.get_by_label("Values").select_option("cosine")
    click(page, 25, -20)
    z, words = in_page(view)
    assert values(page)["one"] == pytest.approx(words[1] @ z[cell(25, -20)], abs=6e-4)
    nearest = page.get_by_role("list", name="one: words nearest to the place").get_by_role("button")
    page.get_by_label("Values").select_option("relative")
    similarity = words @ z.T
    relative = (similarity[:, cell(25, -20)] - similarity.mean(1)) / similarity.std(1)
    sync_api.expect(nearest).to_have_text([QUERIES[i] for i in np.argsort(-relative)])
    ask.fill("desert")  # without the accent
    ask.press("Enter")
    assert ask.input_value() == "déserts"


def test_hostile_names_queries_and_towns_are_text(open_page, monkeypatch):
    names = planet._names
    hostile = {"labels": [HOSTILE[0] + label for label in names(CENTRES, KM)["labels"]]}
    monkeypatch.setattr(planet, "_names", lambda *a: names(*a) | hostile)
    hostile = planet_view(dict(zip(HOSTILE, MODELS.values(), strict=False)), queries=HOSTILE, cells_km=KM)
    page = open_page(hostile.to_html(), over_http=True)
    click(page, 10, 50)
    assert HOSTILE[0] in page.locator(".gp-readout").inner_text()
    assert HOSTILE[0] in page.locator("figcaption").first.inner_text()
    page.get_by_label("Go to").fill("onerror")
    page.get_by_label("Go to").press("Enter")
    page.get_by_role("tab", name="Ask the planet").click()
    page.locator("summary").click()
    assert HOSTILE[0] in page.locator(".gp-notes").inner_text()
    assert page.locator(".gp :is(img, script)").count() == 0


@pytest.mark.parametrize("width", [1200, 390])
def test_nothing_bars_anyone_two_views_keep_apart_and_a_tap_chooses_or_reads(open_page, width):
    options = {"width": width, "reduced_motion": "reduce", "has_touch": True, "is_mobile": width == 390}
    page = open_page(two_models().to_html() + two_models().to_html(), **options)
    assert barriers(page) == []
    page.get_by_role("tab", name="Ask the planet").first.click()
    page.get_by_role("tab", name="Ask the planet").first.press("ArrowLeft")
    assert page.evaluate("document.activeElement.textContent") == "Like this place"
    page.keyboard.press("ArrowRight")
    assert barriers(page) == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))
    page.touchscreen.tap(*spot(page, 20, 10))
    settle(page)
    page.get_by_role("button", name="Read only").first.tap()
    page.touchscreen.tap(*spot(page, 100, 35))
    settle(page)
    assert place_of(page) == cell(20, 10) and set(values(page)) == {"one", "two", "one - two"}
    assert len(set(page.locator(".gp").evaluate_all("(v) => v.map((e) => e.dataset.place)"))) == 2
    sync_api.expect(page.locator(".gp-top").first).to_have_css("touch-action", re.compile("manipulation|pinch-zoom"))


@pytest.mark.parametrize("dim", [3, 256])
def test_what_is_packed_is_close_to_what_was_given_and_the_budget_is_kept(dim, monkeypatch):
    rng = np.random.default_rng(0)
    z, words = rng.normal(size=(900, dim)) * np.geomspace(1, 0.05, dim), rng.normal(size=(60, dim))
    z, words = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (z, words))
    sent = planet._compress(z.astype(np.float32), words.astype(np.float32))
    small = inflate(sent["vectors"], sent["k"]) * sent["step"]
    asked = inflate(sent["words"], sent["k"]) * sent["wordStep"]
    assert np.abs(small @ small.T - z @ z.T).max() <= planet.CLOSE + 0.01
    assert np.abs(asked @ small.T - words @ z.T).max() <= planet.CLOSE + 0.01
    assert sent["rank"] > 0.99 and sent["error"] <= planet.CLOSE and sent["k"] <= dim
    if dim > 16:
        monkeypatch.setattr(planet, "BUDGET", 60_000)
        sent = planet._compress(rng.normal(size=(2000, 64)) / 8, None)
        assert len(sent["vectors"]) <= 60_000 and sent["k"] < 64 and sent["rank"] < 0.99


def test_any_sentence_is_asked_of_a_run_whose_simulation_is_named(trained):
    model = geonb.load(trained)
    asked = planet_view({"run": model}, show=["ask"], queries=["a <b>bold</b> harbour", "ice"], cells_km=900).data
    assert (asked["show"], asked["query"], asked["simulated"]) == (["ask"], None, ["texts", "Sentinel-2 images", "positions"])
    one = planet_view({"run": model}, show=["like"], cells_km=900).data
    assert one["queries"] == [] and one["models"][0]["words"] is None


class Asked(Waves):
    """One that answers: its score is what NumPy says."""

    unrelated = np.random.default_rng(3).normal(size=(50, 48)) / 7

    def embed_question(self, text):
        return self.embed_texts([text])[0]


@pytest.mark.parametrize("width", [1200, 390])
def test_an_answer_is_a_map_of_its_score_with_its_places(open_page, width):
    model = Asked()
    places = [{"score": 6.04, "lon": 25.0, "lat": -20.0, "title": HOSTILE[0], "country": ""},
              {"score": 5.0, "lon": -100.0, "lat": 45.0, "title": "Second", "country": "Land"}]  # fmt: skip
    view = answer_view(model, Answer(HOSTILE[1], places, best=6.04, threshold=4.2), cells_km=KM)
    page = open_page(view.to_html(), width=width, color_scheme="dark")
    assert barriers(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    items = page.get_by_role("list", name="Places that fit, by score").get_by_role("listitem")
    sync_api.expect(items).to_have_text([HOSTILE[0] + "6.0", "Second, Land5.0"])
    items.get_by_role("button").last.focus()
    page.keyboard.press("Enter")
    z, words = model.embed_locations(CENTRES), model.embed_texts([HOSTILE[1]])[0]
    similarity = model.unrelated @ z.T
    score = (z @ words - similarity.mean(0)) / similarity.std(0)
    assert values(page)[f"“{HOSTILE[1]}”"] == pytest.approx(score[cell(-100, 45)], abs=1e-3)
    assert "stays below 4.2" in page.locator(".gp-lead").inner_text()
    low, high = (float(n) for n in re.findall(r"[\d.]+", page.locator(".gp-legend").first.inner_text()))
    assert low == 0 and high >= 4.2  # a map of nonsense stays dark
    nothing = answer_view(model, Answer("asdf", [], best=3.0, threshold=4.2), cells_km=KM)
    assert "No clear place." in open_page(nothing.to_html()).locator(".gp-info").inner_text()


def test_vocabulary_is_large_and_has_no_repeats():
    assert len(vocabulary()) >= 1000 and len({q.lower() for q in vocabulary()}) == len(vocabulary())
    assert set(planet.SUGGESTED) <= set(vocabulary())


@pytest.mark.parametrize("change, message", [
    ({"models": {}}, "at least one model"),
    ({"models": {"a": Waves(modalities=("location",))}, "show": ["ask"]}, "was trained with text"),
    ({"queries": ["a"], "query": "b"}, "'b' is not among"),
])  # fmt: skip
def test_what_cannot_be_shown_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        planet_view(**{"models": {"a": Waves()}, "queries": ["a"], "cells_km": 900.0} | change)
