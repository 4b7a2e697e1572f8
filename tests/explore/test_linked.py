"""The linked view and the other pieces of HTML in a real browser, from the disk, with every request refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from geonb.explore.frames import frame_slider
from geonb.explore.linked import PALETTE, _asset, linked_view, safe_json, write_page
from geonb.explore.maps import add_points, offline_map

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]  # fmt: skip
HOSTILE = [
    "<img src=x onerror=window.hacked=1>",
    "</script><script>window.hacked=1</script>",
    "<!--<script>\u2028",
    "${1}`{{7*7}}",
]


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium here: scripts/install_chromium.sh says how to get one")
    with sync_api.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser, tmp_path):
    """Open HTML from the disk; the test fails on errors, on the console's complaints and on requests."""
    contexts, complaints = [], []

    def open_(html, width=1200, **options):
        path = write_page(tmp_path / f"page{len(contexts)}.html", "Test", html)
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)

        def gate(route):
            if route.request.url.split(":")[0] in ("file", "data"):
                route.continue_()
            else:
                complaints.append("request " + route.request.url)
                route.abort()

        context.route("**/*", gate)
        page = context.new_page()
        page.on("pageerror", lambda e: complaints.append(f"error {e}"))
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.goto(path.as_uri())
        return page

    yield open_
    for context in contexts:
        context.close()
    assert complaints == []


def grid_view(**options):
    """A 20 x 20 grid: the same order on the map (20 W to 20 E, 20 S to 20 N) and in the plane."""
    x, y = (a.ravel() for a in np.meshgrid(np.arange(20), np.arange(20)))
    lonlat = np.stack([x * 2.0 - 19, y * 2.0 - 19], 1)
    options = {"color": {"half": np.where(x < 10, "west", "east"), "height": x * 10.0}, "units": {"height": "m"},
               "hover": [f"Place {a}, {b}" for a, b in zip(x, y, strict=True)]} | options  # fmt: skip
    return linked_view(lonlat, np.stack([x, y], 1) * 1.0, **options)


def pixels(page, which):
    return page.evaluate(f"document.querySelector('{which} .gl-base').toDataURL()")


def drag(page, which, x0, y0, x1, y1):
    """Drag over fractions of a picture; returns how many places are then selected."""
    page.locator(which).first.scroll_into_view_if_needed()
    box = page.locator(f"{which} .gl-top").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] * x0, box["y"] + box["height"] * y0)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * x1, box["y"] + box["height"] * y1, steps=4)
    page.mouse.up()
    page.wait_for_timeout(60)
    return selected(page)


def selected(page):
    return int(page.locator(".gl").first.get_attribute("data-selected"))


def test_brushing_one_picture_selects_in_the_other(open_page):
    page = open_page(grid_view().to_html())
    page.wait_for_selector(".gl[data-ready='1']")
    assert selected(page) == 400
    before = pixels(page, ".gl-map")
    assert drag(page, ".gl-embedding", 0.01, 0.01, 0.5, 0.99) == 200  # the western half
    assert pixels(page, ".gl-map") != before
    assert page.locator(".gl-status").inner_text() == "200 of 400 selected"
    page.locator("summary").click()
    sync_api.expect(page.locator("tbody tr")).to_have_count(50)  # filled when the browser has opened it
    assert all("W" in text for text in page.locator("tbody td:last-child").all_inner_texts())
    page.get_by_role("button", name="Clear").click()
    page.wait_for_timeout(60)
    assert selected(page) == 400 and pixels(page, ".gl-map") == before

    before = pixels(page, ".gl-embedding")
    assert drag(page, ".gl-map", 0.05, 0.05, 0.95, 0.5) == 200  # the north, drawn above
    assert pixels(page, ".gl-embedding") != before
    assert all("N" in text for text in page.locator("tbody td:nth-last-child(2)").all_inner_texts())
    page.keyboard.press("Escape")  # the map took the focus when it was pressed
    assert selected(page) == 400


def test_colours_and_legend(open_page):
    page = open_page(grid_view().to_html())
    west = page.get_by_role("button", name="west 200")
    west.click()
    assert west.get_attribute("aria-pressed") == "false" and selected(page) == 200
    page.select_option("select", label="height")
    assert selected(page) == 400 and page.locator(".gl-legend button").count() == 0
    assert "190 m" in page.locator(".gl-legend").inner_text() and "0" in page.locator(".gl-legend").inner_text()
    before = pixels(page, ".gl-map")
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.wait_for_timeout(100)
    assert pixels(page, ".gl-map") != before


def test_hover_reads_out_the_nearest_place(open_page):
    page = open_page(grid_view().to_html())
    box = page.locator(".gl-embedding .gl-top").bounding_box()
    side = min(box["width"], box["height"]) - 16  # the square of the embedding, in the middle of the picture
    left, bottom = box["x"] + (box["width"] - side) / 2, box["y"] + (box["height"] + side) / 2
    page.mouse.move(left + side * 7 / 19, bottom - side * 4 / 19)
    text = page.locator(".gl-readout").inner_text()
    assert "Place 7, 4" in text and "half: west" in text and "11.00° S, 5.00° W" in text
    page.mouse.move(5, 5)
    assert page.locator(".gl-readout").inner_text() == ""


def test_keyboard_selects_reads_and_clears(open_page):
    page = open_page(grid_view().to_html())
    page.locator(".gl-map .gl-top").focus()
    page.keyboard.press("Enter")
    for key in ("ArrowRight", "ArrowUp"):
        for _ in range(12):
            page.keyboard.press(key)
    page.keyboard.press("Enter")
    chosen = selected(page)
    assert 0 < chosen <= 100
    page.keyboard.press("ArrowDown")
    assert selected(page) == chosen  # the box is finished
    page.keyboard.press("Escape")
    assert selected(page) == 400
    page.locator(".gl-embedding .gl-top").focus()
    for _ in range(8):
        page.keyboard.press("Shift+ArrowLeft")
    for _ in range(8):
        page.keyboard.press("Shift+ArrowDown")
    assert selected(page) == 16  # 8 steps of 1/40 from the middle of 0..19: columns and rows 6 to 9
    assert "Place" in page.locator(".gl-readout").inner_text()


def test_hostile_strings_are_text(open_page):
    names = [HOSTILE[i % len(HOSTILE)] for i in range(400)]
    view = grid_view(hover=names, color={HOSTILE[0]: names, HOSTILE[1]: np.arange(400.0)}, titles=(HOSTILE[0], HOSTILE[1]),
                     alt=(HOSTILE[1], HOSTILE[0]), units={HOSTILE[1]: HOSTILE[0]})  # fmt: skip
    assert json.loads(safe_json(HOSTILE)) == HOSTILE and "<" not in safe_json(HOSTILE)
    slider = frame_slider([HOSTILE[3], "two"], HOSTILE[:2], HOSTILE[:2], name=HOSTILE[0])
    world = add_points(
        offline_map(center=(0, 0), alt='"><img src=x onerror=parent.hacked=1>'), [[0, 0]], [HOSTILE[0] + HOSTILE[3]]
    )
    page = open_page(view.to_html() + slider._repr_html_() + world._repr_html_())
    box = page.locator(".gl-map .gl-top").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert page.locator(".gl-readout b").inner_text().replace("\u2028", "") in [
        n.replace("\u2028", "") for n in HOSTILE
    ]
    assert HOSTILE[0] in page.locator(".gl-legend").inner_text()
    page.locator("summary").click()
    page.select_option("select", index=1)
    sync_api.expect(page.locator("tbody")).to_contain_text(HOSTILE[0], use_inner_text=True)
    frame = page.frame_locator("iframe")
    page.locator("iframe").scroll_into_view_if_needed()
    frame.locator(".leaflet-container canvas").first.wait_for()
    frame.locator(".leaflet-container").click()
    assert frame.locator(".leaflet-popup-content").inner_text().strip() == HOSTILE[0] + HOSTILE[3]
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.querySelector('iframe').contentWindow.hacked") is None


def test_two_views_and_a_slider_on_a_page_keep_apart(open_page):
    slider = frame_slider(["<p>one</p>", "<p>two</p>"], ["first", "second"], ["a one", "a two"], name="Step")
    page = open_page(grid_view().to_html() + grid_view().to_html() + slider._repr_html_())
    assert drag(page, ".gl-embedding", 0.01, 0.01, 0.5, 0.99) == 200
    assert page.locator(".gl").nth(1).get_attribute("data-selected") == "400"
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))
    page.get_by_label("Step").focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_text("two", exact=True).is_visible() and not page.get_by_text("one", exact=True).is_visible()
    assert page.locator(".geonb-frames output").inner_text() == "second"


def test_narrow_touch_screen(open_page):
    page = open_page(grid_view().to_html(), width=390, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    touch_action = "getComputedStyle(document.querySelector('.gl-top')).touchAction"
    assert page.evaluate(touch_action) in ("manipulation", "pan-x pan-y pinch-zoom")  # the page scrolls
    box = page.locator(".gl-embedding .gl-top").bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert "Place" in page.locator(".gl-readout").inner_text() and selected(page) == 400
    page.get_by_role("button", name="Brush").tap()
    assert page.evaluate(touch_action) == "none"


def test_fifty_thousand_places(open_page):
    rng = np.random.default_rng(0)
    lonlat = np.stack([rng.uniform(-180, 180, 50_000), rng.uniform(-90, 90, 50_000)], 1)
    view = linked_view(lonlat, rng.normal(size=(50_000, 2)), {"value": rng.normal(size=50_000)})
    assert len(view.to_html()) < 1_000_000
    page = open_page(view.to_html())
    assert 1000 < drag(page, ".gl-embedding", 0.4, 0.4, 0.6, 0.6) < 30_000


def test_missing_values_and_labels(open_page):
    n = 30
    labels = [f"class {i % 14}" for i in range(n - 2)] + [None, float("nan")]
    view = linked_view(np.zeros((n, 2)), np.arange(2.0 * n).reshape(n, 2),
                       {"label": labels, "number": [None, *range(n - 1)], "none": np.full(n, np.nan)})  # fmt: skip
    page = open_page(view.to_html())
    names = page.locator(".gl-legend button").all_inner_texts()
    assert len(names) == len(PALETTE) + 2 and names[-1].split() == ["unknown", "2"] and "other" in names[-2]
    page.select_option("select", label="number")
    assert page.locator(".gl-missing").inner_text().split() == ["no", "value", "1"]
    page.select_option("select", label="none")
    assert page.locator(".gl-legend").inner_text().split() == ["no", "value", "30"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"lonlat": [[0.0, 95.0], [0.0, 0.0]]}, "row 0"),
        ({"xy": [[0.0, np.nan], [0.0, 0.0]]}, "xy, row 0"),
        ({"xy": [[0.0, 0.0]]}, "do not match"),
        ({"color": {"a": [1.0]}}, "'a'"),
        ({"color": {"a": [1.0, np.inf]}}, "row 1"),
        ({"hover": ["one"]}, "1 strings for 2"),
        ({"lonlat": np.empty((0, 2)), "xy": np.empty((0, 2))}, "do not match"),
    ],
)
def test_input_that_cannot_be_shown_is_refused(change, message):
    options = {"lonlat": [[0.0, 1.0], [2.0, 3.0]], "xy": [[0.0, 1.0], [2.0, 3.0]]} | change
    with pytest.raises(ValueError, match=message):
        linked_view(**options)


def test_html_repeats_and_is_saved_whole(tmp_path, monkeypatch):
    assert grid_view().to_html() == grid_view().to_html() == grid_view()._repr_html_()
    path = grid_view().save(tmp_path / "new" / "page.html", title="A <b> title")
    assert "<h1>A &lt;b&gt; title</h1>" in path.read_text() and [p.name for p in path.parent.iterdir()] == ["page.html"]
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            grid_view().save(path, title="other")
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ["page.html"]


def test_frames_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="2 frames, 1 labels"):
        frame_slider(["a", "b"], ["one"], ["x", "y"])
    pictures = frame_slider([np.zeros((2, 2, 3), np.uint8)], ["one"], ["black"])._repr_html_()
    assert 'alt="black" src="data:image/png;base64,' in pictures


def test_points_that_do_not_match_a_map_are_refused():
    with pytest.raises(ValueError, match="do not match"):
        add_points(offline_map(), [[0, 0]], ["a", "b"])
    with pytest.raises(ValueError):
        offline_map(center=(0, 100))


def test_land_is_where_it_is():
    from matplotlib.path import Path

    rings = [np.array(r).reshape(-1, 2) for r in json.loads(_asset("land.json"))]
    assert all(np.abs(r).max(0)[0] <= 180 and np.abs(r).max(0)[1] <= 90 for r in rings)
    land = [Path(np.vstack([r, r[:1]])) for r in rings]
    places = {"Paris": (2.3, 48.8), "Chukotka": (-175, 66.8), "Fiji": (178, -17.8), "Pole": (10, -89)}
    water = {"Caspian": (51, 40), "Pacific": (-150, 0), "Atlantic": (-30, 30), "Bering Sea": (179, 57)}
    for name, place in (places | water).items():
        assert sum(p.contains_point(place) for p in land) == (name in places), name
