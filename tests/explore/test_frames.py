"""UMAP beside PCA in a real browser: what the sliders, the lens and the legend show is what Python sent."""

from __future__ import annotations

import base64
import functools
import re

import numpy as np
import pandas as pd
import pytest

from geonb.explore.frames import projection_view
from geonb.explore.projection import projection_scores, stability

pytest.importorskip("umap")
pytest.importorskip("playwright.sync_api")
from check_book import barriers, set_theme  # noqa: E402
from explore.oracles import drawn, equal_earth, pixels, settle  # noqa: E402

HOSTILE = "</script><img src=x onerror=window.hacked=1>"
GROUP = np.arange(120) % 6
LONLAT = np.stack([GROUP * 50.0 - 125, (GROUP % 3) * 40.0 - 40], 1) + np.random.default_rng(1).uniform(-8, 8, (120, 2))
Z = np.eye(8)[GROUP] + np.random.default_rng(0).normal(size=(120, 8)) * 0.2


def made(**options):
    """Six groups on the six continents' places, as it were: 120 points, 4 frames."""
    options = {"color": {HOSTILE: np.array([HOSTILE, *"abcde"])[GROUP], "height": np.where(GROUP == 2, np.nan, GROUP * 10.0)},
               "hover": pd.Series([HOSTILE, None] * 60, index=range(120, 0, -1)), "alt": HOSTILE, "units": {"height": "m"}, "neighbors": (5, 15),
               "min_dist": [0.1], "seeds": (0, 1), "epochs": 40} | options  # fmt: skip
    return projection_view(Z, LONLAT, **options)


@functools.cache
def sample():
    return made()


def positions(text):
    return np.frombuffer(base64.b64decode(text), "<u2").reshape(-1, 2) / 65535


def canvases(page):
    return {kind: drawn(page.locator(f".gv-{kind} canvas")) for kind in ("umap", "pca", "map")}


def at_frame(page, frame):
    page.wait_for_selector(f".gv[data-frame='{frame}']")


def test_every_setting_is_a_frame_with_its_own_scores():
    view = sample()
    assert view.data["hover"] == [HOSTILE, ""] * 60
    settings = [(f["n_neighbors"], f["seed"]) for f in view.frames]
    assert settings == [(5, 0), (5, 1), (15, 0), (15, 1)]
    for frame, sent in zip(view.frames, view.data["frames"], strict=True):
        drawn_scores = projection_scores(Z, positions(sent["xy"]))  # what is drawn has the scores that are printed
        assert drawn_scores.trustworthiness == pytest.approx(frame["scores"].trustworthiness, abs=2e-3)
        assert f"trustworthiness {frame['scores'].trustworthiness:.3f}" in sent["scores"]
    two = [positions(f["xy"]) for f in view.data["frames"][:2]]
    disparity = float(view.data["frames"][0]["stable"].split()[-1])
    assert stability(two).disparity == pytest.approx(disparity, abs=6e-3) and len(view.to_html()) < 80_000
    few = made(rows=50, neighbors=[5], seeds=[0])
    assert few.data["n"] == 50 == len(few.rows) and "50 of 120 places" in few.data["note"]
    assert few.data["frames"][0]["stable"] == ""
    with pytest.raises(ValueError, match="do not match"):
        made(hover=["x"] * 119)


def test_sliders_move_the_umap_alone_by_pointer_and_by_keys(open_page):
    page, view = open_page(sample().to_html()), sample()
    at_frame(page, 2)  # 15 neighbours, 0.1, seed 0: the usual
    before = canvases(page)
    page.get_by_role("slider", name="n_neighbors").click(position={"x": 4, "y": 8})
    at_frame(page, 0)
    after, score = canvases(page), page.locator(".gv-umap .gv-score").inner_text()
    assert [kind for kind in before if after[kind] != before[kind]] == ["umap"]
    assert f"trustworthiness {view.frames[0]['scores'].trustworthiness:.3f}" in score and "2 seeds" in score
    assert score.split("\n")[0] in page.locator(".gv-umap canvas").get_attribute("aria-label")
    page.get_by_role("slider", name="seed").focus()
    page.keyboard.press("ArrowRight")
    at_frame(page, 1)
    assert page.get_by_role("slider", name="seed").get_attribute("aria-valuetext") == "1"


@pytest.mark.parametrize("kind", ["umap", "map"])
def test_points_are_drawn_where_they_are(open_page, kind):
    page = open_page(sample().to_html())
    at_frame(page, 2)
    ink = pixels(page.locator(f".gv-{kind} canvas"))
    units, aspect = (positions(sample().data["frames"][2]["xy"]), 1) if kind == "umap" else equal_earth(*LONLAT.T)
    height, width = ink.shape[:2]
    side = min((width - 16) / aspect, height - 16)
    xy = (units - 0.5) * [side * aspect, side] + [width / 2, height / 2]
    grey = np.ptp(ink[..., :3].astype(int), axis=2) < 40  # land
    inked = np.argwhere((ink[..., 3] > 200) & ~grey)[:, ::-1] + 0.5
    distance = np.linalg.norm(inked[:, None] - xy[None], axis=2)
    assert distance.min(0).max() < 2.5 and distance.min(1).max() < 4  # ink at every point, and nowhere else


def test_a_lens_shows_the_same_places_in_all_three(open_page):
    page = open_page(sample().to_html())
    before, canvas = canvases(page), page.locator(".gv-map canvas")
    canvas.scroll_into_view_if_needed()
    box, (unit, aspect) = canvas.bounding_box(), equal_earth(*LONLAT[0])
    side = min((box["width"] - 16) / aspect, box["height"] - 16)
    x, y = (unit - 0.5) * [side * aspect, side] + [box["width"] / 2, box["height"] / 2]
    page.mouse.move(box["x"] + x, box["y"] + y)
    settle(page)
    chosen = int(page.locator(".gv").get_attribute("data-chosen"))
    assert 5 < chosen <= 20  # of the twenty of one group, none of another
    assert re.match(f"{chosen} of 120 places.*{re.escape(HOSTILE)}", page.locator(".gv-readout").inner_text())
    assert all(now != before[kind] for kind, now in canvases(page).items())
    page.mouse.move(2, 2)
    settle(page)
    assert canvases(page) == before
    page.locator(".gv-umap canvas").focus()
    page.keyboard.press("ArrowLeft")  # from the place nearest to the middle
    settle(page)
    assert canvases(page)["map"] != before["map"]
    page.keyboard.press("Escape")
    settle(page)
    assert canvases(page)["map"] == before["map"]


@pytest.mark.parametrize("width", [1100, 390])
def test_nothing_bars_anyone_and_a_tap_pins_the_lens(open_page, width):
    page = open_page(sample().to_html(), width=width, has_touch=True, over_http=width == 390)
    assert barriers(page) == [] and page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    set_theme(page, "light")
    before = drawn(page.locator(".gv-map canvas"))
    assert "".join(page.locator(".gv-legend").inner_text().split()) == HOSTILE.replace(" ", "") + "abcde"
    page.locator(".gv-pca canvas").tap()
    settle(page)
    words = page.locator(".gv-readout").inner_text()
    assert "of 120 places" in words or "Nothing" in words
    assert page.locator(".gv-pca canvas").evaluate("(e) => getComputedStyle(e).touchAction") == "manipulation"
    page.get_by_label("Colour").select_option("height")
    set_theme(page, "dark")
    assert "50 m" in page.locator(".gv-legend").inner_text() and drawn(page.locator(".gv-map canvas")) != before
