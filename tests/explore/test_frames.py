"""UMAP beside PCA in a real browser, from the disk and over HTTP, with every request to the outside refused."""

from __future__ import annotations

import base64
import functools
import http.server
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from geonb.explore.frames import _colour_column, projection_view
from geonb.explore.projection import projection_scores, stability

pytest.importorskip("umap")
pytest.importorskip("playwright.sync_api")
AXE = Path(__file__).parent.parent / "book" / "assets" / "axe.min.js"
HINT = "willReadFrequently"  # Chromium's word on pixels that are read back often, as these tests do
HOSTILE = "</script><img src=x onerror=window.hacked=1>"


def made(**options):
    """Six groups on the six continents' places, as it were: 120 points, 8 frames."""
    rng = np.random.default_rng(0)
    group = np.arange(120) % 6
    z = np.eye(8)[group] + rng.normal(size=(120, 8)) * 0.2
    lonlat = np.stack([group * 50.0 - 125, (group % 3) * 40.0 - 40], 1) + rng.uniform(-8, 8, (120, 2))
    options = {"color": {"group": np.array(list("abcdef"))[group], "height": np.where(group == 2, np.nan, group * 10.0)},
               "hover": [f"Place {i}" for i in range(120)], "units": {"height": "m"}, "neighbors": (5, 15),
               "min_dist": (0.1, 0.8), "seeds": (0, 1), "epochs": 40, "progress": False} | options  # fmt: skip
    return z, lonlat, projection_view(z, lonlat, **options)


@pytest.fixture(scope="module")
def view():
    return made()


@pytest.fixture
def opened(browser, tmp_path):
    contexts, complaints = [], []

    def open_(view, base=None, width=1100, **options):
        path = view.save(tmp_path / f"page{len(contexts)}.html")
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)

        def gate(route):
            inside = route.request.url.startswith(("file:", "data:", base or "file:"))
            if not inside:
                complaints.append("request " + route.request.url)
            route.continue_() if inside else route.abort()

        context.route("**/*", gate)
        page = context.new_page()
        page.on("pageerror", lambda e: complaints.append(f"error {e}"))
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") and HINT not in m.text else None)
        page.goto(f"{base}/{path.name}" if base else path.as_uri())
        page.wait_for_selector(".gv[data-ready='1']")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert complaints == []


def test_labels_that_are_not_known_are_told_as_such():
    values = np.array(["moss", None, np.nan, pd.NA, ""], object)
    column = _colour_column("ground", values, np.arange(5), None)
    assert column["labels"] == ["moss", "unknown"]
    assert list(base64.b64decode(column["data"])) == [0, 1, 1, 1, 1]


def test_a_view_of_some_rows_has_the_colours_of_a_view_of_all():
    values = np.array(["moss"] * 9 + ["sand"] * 5 + ["snow"] * 2, object)
    all_rows, few = (_colour_column("ground", values, rows, None) for rows in (np.arange(16), np.arange(8, 16)))
    assert few["labels"] == all_rows["labels"] == ["moss", "sand", "snow"] and few["colors"] == all_rows["colors"]
    assert list(base64.b64decode(few["data"])) == [0] + [1] * 5 + [2] * 2


def positions(text):
    return np.frombuffer(base64.b64decode(text), "<u2").reshape(-1, 2) / 32767.5 - 1


def pixels(page, panel):
    return page.evaluate(f"document.querySelector('.gv-{panel} canvas').toDataURL()")


def slide(page, name, value):
    page.get_by_role("slider", name=name).evaluate(
        "(e, v) => { e.value = v; e.dispatchEvent(new Event('input', {bubbles: true})); }", str(value)
    )


def settle(page, frame):
    page.wait_for_selector(f".gv[data-frame='{frame}']", timeout=5000)


def test_every_setting_is_a_frame_with_its_own_scores(view):
    z, _, shown = view
    assert [(f["n_neighbors"], f["min_dist"], f["seed"]) for f in shown.frames[:3]] == [(5, 0.1, 0), (5, 0.1, 1), (5, 0.8, 0)]
    assert len(shown.frames) == 8 == len({f["xy"] for f in shown.data["frames"]})
    for frame, sent in zip(shown.frames, shown.data["frames"], strict=True):
        again = projection_scores(z, positions(sent["xy"]))  # what is drawn has the scores that are printed
        assert again.trustworthiness == pytest.approx(frame["scores"].trustworthiness, abs=2e-3)
        assert f"trustworthiness {frame['scores'].trustworthiness:.3f}" in sent["scores"]
    two = [positions(f["xy"]) for f in shown.data["frames"][:2]]
    assert stability(two).disparity == pytest.approx(shown.stability[5, 0.1].disparity, abs=2e-3)
    assert shown.data["pca"]["scores"].startswith(f"trustworthiness {shown.pca.trustworthiness:.3f}")
    assert made()[2].to_html() == shown.to_html()
    assert len(shown.to_html()) < 100_000


def test_of_many_rows_some_are_drawn_and_the_page_says_so():
    _, lonlat, shown = made(rows=50, neighbors=[5], min_dist=[0.1], seeds=[0])
    assert shown.data["n"] == 50 == len(shown.rows) and "50 of 120 places" in shown.data["note"]
    assert shown.data["hover"] == [f"Place {i}" for i in shown.rows] and shown.stability == {}
    assert shown.data["frames"][0]["stable"] == ""
    with pytest.raises(ValueError, match="119 rows for 120"):
        projection_view(np.ones((120, 3)), lonlat, hover=["x"] * 119)
    with pytest.raises(ValueError, match="at least one value"):
        projection_view(np.ones((120, 3)), lonlat, seeds=())


def test_sliders_move_the_umap_alone_by_pointer_and_by_keys(opened, view):
    page, shown = opened(view[2], reduced_motion="reduce"), view[2]
    settle(page, 4)  # 15 neighbours, 0.1, seed 0: the usual
    assert page.get_by_role("slider").count() == 3
    before = {p: pixels(page, p) for p in ("umap", "pca", "map")}
    slider = page.get_by_role("slider", name="n_neighbors")
    box = slider.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 8, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 4, box["y"] + box["height"] / 2, steps=6)
    page.mouse.up()
    settle(page, 0)
    after = {p: pixels(page, p) for p in ("umap", "pca", "map")}
    assert after["umap"] != before["umap"] and after["pca"] == before["pca"] and after["map"] == before["map"]
    score = page.locator(".gv-umap .gv-score").inner_text()
    assert f"trustworthiness {shown.frames[0]['scores'].trustworthiness:.3f}" in score
    assert f"Procrustes {shown.stability[5, 0.1].disparity:.2f}" in score and "2 seeds" in score
    assert f"trustworthiness {shown.frames[0]['scores'].trustworthiness:.3f}" in page.locator(
        ".gv-umap canvas").get_attribute("aria-label")  # fmt: skip
    page.get_by_role("slider", name="seed").focus()
    page.keyboard.press("ArrowRight")
    settle(page, 1)
    assert pixels(page, "umap") != after["umap"]
    assert page.get_by_role("slider", name="seed").get_attribute("aria-valuetext") == "1"
    page.keyboard.press("ArrowLeft")
    settle(page, 0)
    assert pixels(page, "umap") == after["umap"]


def test_points_are_drawn_where_the_frame_has_them(opened, view):
    page = opened(view[2], reduced_motion="reduce")
    for frame, at in ((4, (1, 0, 0)), (3, (0, 1, 1))):
        for name, value in zip(("n_neighbors", "min_dist", "seed"), at, strict=True):
            slide(page, name, value)
        settle(page, frame)
        inked = page.evaluate("""() => { const c = document.querySelector('.gv-umap canvas');
          const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data, out = [];
          for (let i = 0; i < d.length; i += 4) if (d[i + 3] > 200) out.push((i / 4) % c.width, Math.floor(i / 4 / c.width));
          return [c.width, c.height, out]; }""")
        width, height, flat = inked
        ink = np.reshape(flat, (-1, 2))
        half = min(width, height) / 2 - 8
        xy = positions(view[2].data["frames"][frame]["xy"]) * [1, -1] * half + [width / 2, height / 2]
        distance = np.linalg.norm(ink[:, None] + 0.5 - xy[None], axis=2)
        assert distance.min(0).max() < 2 and distance.min(1).max() < 4  # ink at every point, and nowhere else


def test_animation_ends_at_the_frame_and_can_be_turned_off(opened, view):
    moving, still = opened(view[2]), opened(view[2], reduced_motion="reduce")
    for page in (moving, still):
        slide(page, "n_neighbors", 0)
        settle(page, 0)
    assert pixels(moving, "umap") == pixels(still, "umap")


def test_a_lens_shows_the_same_places_in_all_three(opened, view):
    page = opened(view[2], reduced_motion="reduce")
    before = {p: pixels(page, p) for p in ("umap", "pca", "map")}
    box = page.locator(".gv-map canvas").bounding_box()
    half = min(box["width"] / 2, box["height"] * 1.0275) - 6
    x, y = positions(view[2].data["map"])[0]
    page.locator(".gv-map canvas").scroll_into_view_if_needed()
    box = page.locator(".gv-map canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2 + x * half, box["y"] + box["height"] / 2 - y * half)
    page.wait_for_timeout(100)
    chosen = int(page.locator(".gv").get_attribute("data-chosen"))
    assert 5 < chosen <= 20  # of the twenty of one group, none of another
    assert f"{chosen} of 120 places" in page.locator(".gv-readout").inner_text()
    assert all(pixels(page, p) != before[p] for p in before)
    page.mouse.move(2, 2)
    page.wait_for_timeout(100)
    assert {p: pixels(page, p) for p in before} == before
    page.locator(".gv-umap canvas").focus()
    page.keyboard.press("ArrowLeft")  # from the place nearest to the middle
    page.wait_for_timeout(100)
    assert pixels(page, "map") != before["map"]
    page.keyboard.press("Escape")
    page.wait_for_timeout(100)
    assert pixels(page, "map") == before["map"]


def test_colours_have_a_legend_with_units(opened, view):
    page = opened(view[2], reduced_motion="reduce")
    assert page.locator(".gv-legend").inner_text().split() == list("abcdef")
    before = pixels(page, "umap")
    page.select_option(".gv select", label="height")
    page.wait_for_timeout(100)
    assert pixels(page, "umap") != before and "50 m" in page.locator(".gv-legend").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1100, 390])
def test_readable_on_a_desk_and_in_a_hand(opened, view, scheme, width):
    page = opened(view[2], width=width, color_scheme=scheme, reduced_motion="reduce")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.add_script_tag(content=AXE.read_text("utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']}).then((r) => r.violations)")
    assert [(v["id"], v["impact"]) for v in found if v["impact"] in ("serious", "critical")] == []
    if width == 390:
        assert page.locator(".gv-pca canvas").bounding_box()["y"] > page.locator(".gv-umap canvas").bounding_box()["y"] + 200


def test_a_tap_pins_the_lens_and_the_page_still_scrolls(opened, view):
    page = opened(view[2], width=390, has_touch=True, reduced_motion="reduce")
    page.locator(".gv-pca canvas").tap()
    page.wait_for_timeout(100)
    assert "of 120 places" in page.locator(".gv-readout").inner_text() or "Nothing" in page.locator(".gv-readout").inner_text()
    assert page.locator(".gv-pca canvas").evaluate("(e) => getComputedStyle(e).touchAction") == "manipulation"


def test_hostile_names_are_text_over_http_too(opened, tmp_path):
    _, _, shown = made(color={HOSTILE: [HOSTILE] * 60 + ["x"] * 60}, hover=[HOSTILE] * 120, alt=HOSTILE, note=HOSTILE,
                       neighbors=[5], min_dist=[0.1], seeds=[0], epochs=5)  # fmt: skip
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    handler.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        page = opened(shown, f"http://127.0.0.1:{server.server_port}")
        page.locator(".gv-map canvas").hover()
        page.locator(".gv-umap canvas").click()
        assert page.evaluate("window.hacked") is None
        assert HOSTILE in page.locator(".gv-legend").inner_text() and HOSTILE in page.locator(".gv-note").inner_text()
    finally:
        server.shutdown()
        server.server_close()


def test_a_planted_fault_is_seen(opened, view):
    """Sliders whose frames are all the same draw the same: it is the frames that the tests above see change."""
    stuck = made()[2]
    stuck.data = view[2].data | {"frames": [view[2].data["frames"][0]] * 8}
    page = opened(stuck, reduced_motion="reduce")
    before = pixels(page, "umap")
    slide(page, "n_neighbors", 0)
    settle(page, 0)
    assert pixels(page, "umap") == before
