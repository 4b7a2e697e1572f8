"""The linked view in a real browser: what a person does, compared with NumPy, from the disk and over HTTP."""

from __future__ import annotations

import base64
import functools
import json
import re

import numpy as np
import pytest

from geonb.explore.linked import MOST_IMAGES, linked_view
from geonb.explore.maps import add_points, offline_map
from geonb.explore.views import safe_json

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
from check_book import barriers, set_theme  # noqa: E402
from explore.oracles import drawn, equal_earth, inside, pixels, settle  # noqa: E402

HOSTILE = ["<img src=x onerror=window.hacked=1>", "</script><script>window.hacked=1</script>", "<!--<script>\u2028",
           "${1}`{{7*7}}"]  # fmt: skip
N = 600
RANDOM = np.random.default_rng(7)
LONLAT = np.stack([RANDOM.uniform(-170, 170, N), RANDOM.uniform(-70, 80, N)], 1)
XY = RANDOM.normal(size=(N, 2)) * [3, 2]
KIND = np.array(["sand", "moss", "peat", "clay"])[RANDOM.choice(4, N, p=[0.4, 0.3, 0.2, 0.1])].astype(object)
KIND[:5] = None
HEIGHT = np.round(RANDOM.uniform(-50, 4000, N))
HEIGHT[10:14] = np.nan
NAMES = [f"Name {i:03d}" for i in RANDOM.permutation(N)]
PICTURED = np.arange(0, N, 20)
PICTURES = np.zeros((len(PICTURED), 64, 64, 3), np.uint8) + (PICTURED // 3).astype(np.uint8)[:, None, None, None]
PICTURES[..., 0] = 255 - PICTURES[..., 0]
ABOUT = {
    "text": [f"Text of place {i}. " + "long " * 100 if i % 3 else None for i in range(N)],
    "url": [f"https://en.wikipedia.org/wiki/Place_{i}" if i % 2 else None for i in range(N)],
    "license": ["CC BY-SA 4.0"] * N,
    "license_url": ["https://creativecommons.org/licenses/by-sa/4.0/"] * N,
    "creator": ["Wikipedia contributors"] * N,
    "changes": ["markup removed"] * N,
}


def sample_view(**changes):
    options = {"color": {"kind": KIND, "height": HEIGHT}, "units": {"height": "m"}, "hover": NAMES, "about": ABOUT,
               "images": lambda rows: PICTURES[rows // 20], "image_rows": PICTURED, "simulated": ["image"]} | changes  # fmt: skip
    return linked_view(LONLAT, XY, **options)


@functools.cache
def sample_html() -> str:
    return sample_view().to_html()


class Picture:
    """One of the two pictures of a page as NumPy sees it: the places in pixels of the screen."""

    def __init__(self, page, which, lonlat=LONLAT, xy=XY):
        page.locator(".gl-plot").nth(which).scroll_into_view_if_needed()
        self.page, self.box = page, page.locator(".gl-top").nth(which).bounding_box()
        if which:  # 16 bits on the way, then single precision
            shares = np.round((lonlat + [180, 90]) / [360, 180] * 65535) / 65535
            self.units, aspect = equal_earth(*(shares * [360, 180] - [180, 90]).T)
        else:
            span = np.ptp(xy, axis=0)
            self.units = np.round((xy - xy.min(0)) / span * 65535) / 65535 * [1, -1] + [0, 1]
            aspect = span[0] / span[1]
        self.units = self.units.astype(np.float32)
        side = min((self.box["width"] - 16) / aspect, self.box["height"] - 16)
        self.scale = np.array([side * aspect, side])
        self.middle = np.array([self.box["x"] + self.box["width"] / 2, self.box["y"] + self.box["height"] / 2])

    def screen(self, zoom=1.0, centre=(0.5, 0.5)):
        return self.middle + (self.units - np.array(centre)) * self.scale * zoom

    def at(self, x, y):
        """Whole pixels at fractions of the picture."""
        return np.round([self.box["x"] + self.box["width"] * x, self.box["y"] + self.box["height"] * y])

    def drag(self, *corners):
        """Press at the first of the points (fractions), draw through the others, release; returns them in pixels."""
        points = np.array([self.at(*corner) for corner in corners])
        self.page.mouse.move(*points[0])
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*point)
        self.page.mouse.up()
        settle(self.page)
        return points

    def boxed(self, points, **view):
        places = self.screen(**view)
        return (places >= points.min(0)).all(1) & (places <= points.max(0)).all(1)


def selected(page):
    return int(page.locator(".gl").first.get_attribute("data-selected"))


def check_selection(page, within):
    """The count, and the names of the first hundred in the list."""
    details = page.locator(".gl details").first
    if details.get_attribute("open") is None:
        details.locator("summary").click()
    settle(page)
    assert selected(page) == within.sum()
    assert details.locator("li button").all_inner_texts() == [NAMES[k] for k in np.flatnonzero(within)[:100]]


# ---- the checks


def check_box(page):
    """A box in either picture selects what NumPy finds in it, in both; with Shift a second shape adds to the first."""
    for which in (0, 1):
        picture, other = Picture(page, which), page.locator(".gl-base").nth(1 - which)
        before = drawn(other)
        within = picture.boxed(picture.drag((0.25, 0.3), (0.4, 0.5), (0.62, 0.7)))
        assert drawn(other) != before, "the other picture did not change"
        assert page.locator(".gl-status").first.inner_text() == f"{within.sum()} of {N} selected" and within.sum() > 20
        check_selection(page, within)
    picture = Picture(page, 0)
    page.keyboard.down("Shift")
    two = picture.boxed(picture.drag((0.5, 0.3), (0.7, 0.6)))
    page.keyboard.up("Shift")
    check_selection(page, within | two)
    assert (within & ~two).any() and (two & ~within).any()
    page.get_by_role("button", name="Clear").click()
    assert selected(page) == N


def check_lasso(page):
    """A closed line, crossing itself or not, selects by the even-odd rule."""
    page.get_by_label("Lasso", exact=True).check()
    star = [(0.5 + 0.36 * np.sin(a), 0.5 - 0.4 * np.cos(a)) for a in np.arange(5) * 4 * np.pi / 5]
    hook = [(0.2, 0.2), (0.7, 0.15), (0.8, 0.8), (0.6, 0.85), (0.55, 0.4), (0.35, 0.75)]
    for which, corners in ((0, star), (1, hook)):
        picture = Picture(page, which)
        within = inside(picture.drag(*corners), picture.screen())
        check_selection(page, within)
        assert within.sum() > 20
    page.locator(".gl-top").nth(1).focus()
    page.keyboard.press("Escape")
    assert selected(page) == N


def check_inspect(page):
    """The pointer reads a place; a click shows text, source, licence, credit, facts and picture; Close takes it away."""
    k, card = int(PICTURED[20]), page.locator(".gl-card")  # with a text and a picture, no address
    page.mouse.move(*Picture(page, 0).screen()[k])
    readout = page.locator(".gl-readout").inner_text()
    ns, ew = "NS"[int(LONLAT[k, 1] < 0)], "EW"[int(LONLAT[k, 0] < 0)]
    assert NAMES[k] in readout and f"kind: {KIND[k]}" in readout
    assert re.search(rf"° {ns}, [\d.]+° {ew}$", readout.strip())
    assert abs(float(re.search(r"([\d.]+)° [NS]", readout)[1]) - abs(LONLAT[k, 1])) < 0.01
    page.mouse.click(*Picture(page, 0).screen()[k])
    expect(card.locator(".gl-name")).to_have_text(NAMES[k])
    expect(card.locator(".gl-text")).to_contain_text(f"Text of place {k}. long")
    facts = dict(zip(card.locator("dt").all_inner_texts(), card.locator("dd").all_inner_texts(), strict=True))
    height = f"{HEIGHT[k]:,.0f} m" if HEIGHT[k] >= 1000 else f"{float(f'{HEIGHT[k]:.3g}'):g} m"
    assert facts == {"kind": KIND[k], "height": height}
    canvas = card.locator("canvas[role=img]")
    assert NAMES[k] in canvas.get_attribute("aria-label") and "simulated" in card.locator("figcaption").inner_text()
    settle(page)
    pixel = pixels(canvas)[20, 20]
    assert pixel[3] == 255 and np.abs(pixel[:3].astype(int) - PICTURES[20, 0, 0]).max() <= 6, pixel
    assert card.locator(".gl-source").inner_text() == "Wikipedia contributors · CC BY-SA 4.0 · markup removed"
    assert [a.get_attribute("href") for a in card.locator("a").all()] == [ABOUT["license_url"][0]]
    k = next(k for k in range(1, N, 2) if ABOUT["text"][k] and k not in PICTURED)  # with an address, no picture
    page.mouse.click(*Picture(page, 1).screen()[k])
    source = card.locator(".gl-source a").first
    assert source.get_attribute("href") == ABOUT["url"][k] and source.inner_text() == f"en.wikipedia.org/wiki/Place_{k}"
    assert source.get_attribute("rel") == "noopener noreferrer"
    assert "no image of this place" in card.inner_text() and selected(page) == N


def check_legend(page):
    """Classes are hidden, shown and shown alone; numbers get a ramp; reset brings everything back."""
    sizes = {name: int((KIND == name).sum()) for name in ("sand", "moss", "peat", "clay")}
    chips = [chip.split() for chip in page.locator(".gl-legend button").all_inner_texts()]
    by_size = sorted(sizes.items(), key=lambda s: -s[1])
    assert chips == [[name, str(size)] for name, size in by_size] + [["unknown", "5"]]
    base = page.locator(".gl-base").nth(1)
    before = drawn(base)
    page.get_by_role("button", name="moss").click()
    assert page.locator(".gl-status").first.inner_text() == f"{N - sizes['moss']} of {N} shown"
    check_selection(page, KIND != "moss")
    page.get_by_role("button", name="peat").click(modifiers=["Shift"])
    picture = Picture(page, 0)
    check_selection(page, picture.boxed(picture.drag((0.2, 0.2), (0.5, 0.8))) & (KIND == "peat"))
    page.get_by_role("button", name="Reset").click()
    settle(page)
    assert selected(page) == N and drawn(base) == before
    page.get_by_label("Colour by").select_option("height")
    settle(page)
    legend = page.locator(".gl-legend").inner_text().replace("\n", " ")
    assert f"{np.nanpercentile(HEIGHT, 99):,.0f} m" in legend and "no value 4" in legend
    assert drawn(base) != before and selected(page) == N


def check_zoom(page):
    """Ctrl and wheel zoom about the pointer, dragging moves, a box means the same when zoomed."""
    page.get_by_label("Explore", exact=True).check()
    picture, plot = Picture(page, 0), page.locator(".gl-plot").first
    at = picture.at(0.4, 0.6)
    page.mouse.move(*at)
    page.keyboard.down("Control")
    for _ in range(4):
        page.mouse.wheel(0, -120)
        page.wait_for_timeout(40)
    page.keyboard.up("Control")
    zoom = float(plot.get_attribute("data-zoom"))
    assert 4 < zoom < 8 and page.locator(".gl-plot").nth(1).get_attribute("data-zoom") == "1"
    centre = (at - picture.middle) / picture.scale * (1 - 1 / zoom) + 0.5
    start, end = picture.drag((0.5, 0.5), (0.45, 0.42))[[0, -1]]
    centre = centre - (end - start) / picture.scale / zoom
    page.get_by_label("Box", exact=True).check()
    within = picture.boxed(picture.drag((0.2, 0.2), (0.8, 0.8)), zoom=zoom, centre=centre)
    assert 3 < within.sum() < 300
    check_selection(page, within)
    page.get_by_role("button", name="All: Embedding").click()
    assert plot.get_attribute("data-zoom") == "1"


def check_keyboard(page):
    """Everything by keys alone: a box, an outline, inspecting, zoom, tools, the list."""
    top, picture, plot = page.locator(".gl-top").first, Picture(page, 0), page.locator(".gl-plot").first
    step = 0.025 * np.minimum(1, picture.scale[::-1] / picture.scale)

    def press(*keys, times=1):
        for key in keys:
            for _ in range(times):
                page.keyboard.press(key)

    top.focus()
    press("Enter")
    press("ArrowRight", "ArrowUp", times=12)
    press("Enter")
    ends = np.array([[0.5, 0.5], np.array([0.5, 0.5]) + 12 * step * [1, -1]])
    within = ((picture.units >= ends.min(0)) & (picture.units <= ends.max(0))).all(1)
    assert within.sum() > 5
    check_selection(page, within)
    press("Escape")
    assert selected(page) == N
    page.get_by_label("Lasso", exact=True).check()
    top.focus()
    press("Enter")
    press("ArrowRight", "ArrowDown", "ArrowLeft", times=8)
    press("Enter")
    square = inside(np.array([[0, 0], [8, 0], [8, 8], [0, 8]]) * step + 0.5, picture.units)
    assert abs(selected(page) - square.sum()) <= 1 and square.sum() > 5  # a place on the line itself may differ
    press("Escape")
    press("ArrowUp", times=3)
    press("Space")
    assert page.locator(".gl-card .gl-name").inner_text() in NAMES
    assert page.evaluate("document.activeElement.className") == "gl-top"
    press("+")
    assert plot.get_attribute("data-zoom") == "2"
    press("0")
    assert plot.get_attribute("data-zoom") == "1"
    page.locator(".gl-list button").first.focus()
    press("Enter", "Escape")  # the focus was taken to the card, and goes back
    assert page.evaluate("document.activeElement.textContent") == NAMES[0]


@pytest.mark.parametrize("where", ["desktop from the disk", "390 px over HTTP"])
@pytest.mark.parametrize("check", [check_box, check_lasso, check_inspect, check_legend, check_zoom, check_keyboard])
def test_it_does_what_it_says(open_page, check, where):
    check(open_page(sample_html(), width=1200 if "desktop" in where else 390, over_http="HTTP" in where))


def test_touch(open_page):
    """One finger scrolls the page while exploring and selects with Box; two fingers zoom; a tap inspects."""
    page = open_page(sample_html(), over_http=True, width=390, has_touch=True, is_mobile=True)
    session, plot = page.context.new_cdp_session(page), page.locator(".gl-plot").first

    def touch(frames):  # real touches (frames, fingers, 2): the browser decides whether they scroll the page
        page.wait_for_timeout(150)  # it learns with its next frame what a finger may do
        for i, fingers in enumerate([*frames, []]):
            points = [{"x": float(x), "y": float(y), "id": k} for k, (x, y) in enumerate(fingers)]
            kind = "touchStart" if i == 0 else "touchMove" if points else "touchEnd"
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        page.wait_for_timeout(300)

    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.evaluate("document.body.style.minHeight = '3000px'")
    picture, before = Picture(page, 0), page.evaluate("scrollY")
    touch(np.linspace([picture.at(0.5, 0.9)], [picture.at(0.5, 0.1)], 7))
    assert page.evaluate("scrollY") > before + 60, "the picture traps the page"
    assert selected(page) == N and plot.get_attribute("data-zoom") == "1"
    picture = Picture(page, 0)
    k = int(np.linalg.norm(picture.screen() - picture.middle, axis=1).argmin())
    page.touchscreen.tap(*picture.screen()[k])
    expect(page.locator(".gl-card .gl-name")).to_have_text(NAMES[k])
    middle = Picture(page, 0).at(0.5, 0.5)
    touch([middle + [[-d, 0], [d, 0]] for d in range(20, 61, 8)])
    assert abs(float(plot.get_attribute("data-zoom")) - 3) < 0.1 and page.evaluate("visualViewport.scale") == 1
    page.get_by_role("button", name="All: Embedding").tap()
    page.get_by_label("Box", exact=True).tap()
    picture, before = Picture(page, 0), page.evaluate("scrollY")
    points = np.array([picture.at(0.3, 0.7), picture.at(0.7, 0.3)])
    touch(np.linspace(points[:1], points[1:], 7))
    assert page.evaluate("scrollY") == before and selected(page) == picture.boxed(points).sum() > 20


@pytest.mark.parametrize("width", [1200, 390])
def test_nothing_bars_anyone_in_light_and_in_dark(open_page, width):
    page = open_page(sample_html() + sample_html(), width=width, reduced_motion="reduce")
    assert page.locator(".gl :is(button, input, select, summary, .gl-top)").evaluate_all(
        "(e) => e.every((c) => c.tabIndex === 0)"
    )
    page.mouse.click(*Picture(page, 0).screen()[21])
    check_selection(page, np.ones(N, bool))
    assert barriers(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))  # two views on a page keep apart
    Picture(page, 0).drag((0.2, 0.2), (0.5, 0.8))
    assert selected(page) < N and page.locator(".gl").nth(1).get_attribute("data-selected") == str(N)
    set_theme(page, "light")
    canvas = page.locator(".gl-base").nth(1)
    before = drawn(canvas)
    set_theme(page, "dark")
    assert drawn(canvas) != before


@functools.cache
def hostile_html():
    names = [HOSTILE[i % len(HOSTILE)] for i in range(N)]
    bad = ["javascript:window.hacked=1", "data:text/html,<script>hacked=1</script>", "http://example.org/", "//example.org",
           "https://u:p@example.org/", " https://example.org/<b>", 'https://example.org/"onmouseover="hacked=1'] + ["x" * 3000]  # fmt: skip
    urls = [bad[i % len(bad)] for i in range(N)]
    about = {"text": names, "url": urls, "license": names, "license_url": urls, "creator": names, "changes": names}
    return sample_view(hover=names, color={HOSTILE[0]: names, HOSTILE[1]: np.arange(float(N)), "__proto__": names,
                              "many": [f"class {i % 14}" for i in range(N)]},
                       titles=HOSTILE[:2], alt=HOSTILE[1::-1], units={HOSTILE[1]: HOSTILE[0]}, about=about).to_html()  # fmt: skip


def check_hostile(page):
    assert page.locator(".gl figcaption span").all_inner_texts() == HOSTILE[:2]
    assert HOSTILE[0] in page.locator(".gl-legend").inner_text()
    page.locator(".gl summary").click()
    seen = set()
    for k in range(0, N, 61):
        page.mouse.click(*Picture(page, 1).screen()[k])
        expect(page.locator(".gl-source")).to_be_visible()
        assert page.locator(".gl-readout b").inner_text() != ""
        for a in page.locator(".gl-card a").all():
            assert re.match(r"https://example\.org/[^\"<>]*$", a.get_attribute("href")), a.get_attribute("href")
            seen.add(a.get_attribute("href"))
    assert seen == {"https://example.org/%3Cb%3E", "https://example.org/%22onmouseover=%22hacked=1"}
    for column in (1, 2, 3, 0):
        page.get_by_label("Colour by").select_option(index=column)
        settle(page)
        assert (column == 3) == ("other" in page.locator(".gl-legend").inner_text())  # ten have a colour
    assert HOSTILE[0] in page.locator(".gl-list").inner_text()
    assert page.locator(".gl :is(img, script, b b, iframe, object, [onerror], [onmouseover])").count() == 0


def test_hostile_strings_are_text(open_page):
    assert json.loads(safe_json(HOSTILE)) == HOSTILE and "<" not in safe_json(HOSTILE)
    check_hostile(open_page(hostile_html(), over_http=True))


@pytest.mark.parametrize("lon, seen", [([0], 0), ([-179.5, 179], 179.75), ([0, 120, -120], None)])
def test_hostile_strings_in_maps_are_text_and_a_map_opens_on_its_points(open_page, lon, seen):
    world = offline_map(alt='"><img src=x onerror=parent.hacked=1>')
    for x in lon:
        add_points(world, [[x, 20]], [HOSTILE[0] + HOSTILE[3]])
    page = open_page(f"<div style='width:740px'>{world._repr_html_()}</div>")
    frame = page.frame_locator("iframe")
    page.locator("iframe").scroll_into_view_if_needed()
    frame.locator(".leaflet-container canvas").first.wait_for()
    west, east = page.frames[1].evaluate("""() => {
      const bounds = Object.values(window).find((v) => v instanceof L.Map).getBounds();
      return [bounds.getWest(), bounds.getEast()];
    }""")
    if seen is None:
        assert west <= -180 and east >= 180
    else:
        assert (west + east) / 2 == pytest.approx(seen, abs=0.5) and east - west < 90
    if seen in lon:
        frame.locator(".leaflet-container").click()
        assert frame.locator(".leaflet-popup-content").inner_text().strip() == HOSTILE[0] + HOSTILE[3]
    assert page.evaluate("window.hacked ?? document.querySelector('iframe').contentWindow.hacked ?? null") is None


def test_images_are_taken_evenly_and_a_page_is_saved_whole(tmp_path):
    n, asked = 5 * MOST_IMAGES, []

    def images(rows):
        asked.extend(rows.tolist())
        return np.zeros((len(rows), 8, 8, 3), np.uint8)

    view = linked_view(np.zeros((n, 2)), np.zeros((n, 2)), images=images, image_rows=np.arange(n))
    assert len(asked) == MOST_IMAGES and set(np.diff(asked)) <= {4, 5, 6} and (asked[0], asked[-1]) == (0, n - 1)
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(view.data["thumbs"]["rows"]), "<u4"), asked)
    path = view.save(tmp_path / "new" / "page.html", title="A <b> title")
    assert "<h1>A &lt;b&gt; title</h1>" in path.read_text()


def test_input_that_cannot_be_shown_is_refused():
    for change, message in (
        ({"xy": [[0.0, np.nan], [0.0, 0.0]]}, "xy, row 0"),
        ({"xy": [[0.0, 0.0]]}, "do not match"),
        ({"color": {"a": [1.0, np.inf]}}, "row 1"),
        ({"hover": ["one"]}, "names do not match"),
        ({"about": {"text": ["one"]}}, "names do not match"),
        ({"lonlat": np.empty((0, 2)), "xy": np.empty((0, 2))}, "there are none"),
        ({"xy": np.ma.masked_equal([[0.0, 1.0], [2.0, 3.0]], 3)}, "xy, row 1"),
    ):
        with pytest.raises(ValueError, match=message):
            linked_view(**{"lonlat": [[0.0, 1.0], [2.0, 3.0]], "xy": [[0.0, 1.0], [2.0, 3.0]]} | change)
