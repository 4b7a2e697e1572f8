"""The linked view and the other pieces of HTML in a real browser, with every request to the outside refused.

What a check does, a person could do: drag, draw, click, tap, type. What changed is read back and compared with NumPy.
Each check runs on a desktop from the disk and at 390 px over HTTP; a fault planted in the page turns it red.
"""

from __future__ import annotations

import base64
import csv
import functools
import io
import json
import re
import zlib

import numpy as np
import pytest

from geonb.explore.frames import frame_slider
from geonb.explore.linked import MOST_IMAGES, TEXT_CHARACTERS, linked_view
from geonb.explore.maps import add_points, offline_map
from geonb.explore.views import PALETTE, asset, safe_json, write_page

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
from book.check_book import barriers, served, set_theme  # noqa: E402

HOSTILE = [
    "<img src=x onerror=window.hacked=1>",
    "</script><script>window.hacked=1</script>",
    "<!--<script>\u2028",
    "${1}`{{7*7}}",
]

# ---- the places that most checks show

N = 600
RANDOM = np.random.default_rng(7)
LONLAT = np.stack([RANDOM.uniform(-170, 170, N), RANDOM.uniform(-70, 80, N)], 1)
XY = RANDOM.normal(size=(N, 2)) * [3, 2]
KIND = np.array(["sand", "moss", "peat", "clay"])[RANDOM.choice(4, N, p=[0.4, 0.3, 0.2, 0.1])].astype(object)
KIND[:5] = None
HEIGHT = np.round(RANDOM.uniform(-50, 4000, N))
HEIGHT[10:14] = np.nan
SHARE = RANDOM.random(N).astype(np.float32)
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
    options = {"color": {"kind": KIND, "height": HEIGHT, "share": SHARE}, "units": {"height": "m", "share": "1"}, "hover": NAMES, "about": ABOUT,
               "images": PICTURES, "image_rows": PICTURED, "simulated": ["image"]} | changes  # fmt: skip
    return linked_view(LONLAT, XY, **options)


@functools.cache
def sample_html() -> str:
    return sample_view().to_html()


def unit_positions(which: int, lonlat=LONLAT, xy=XY):
    """Coordinates in [0, 1], y down, as the page has them: 16 bits on the way, then single precision."""
    if which == 0:
        low, span = xy.min(0), np.ptp(xy, axis=0)
        u, v = (np.round((xy - low) / span * 65535) / 65535).T
        return np.stack([u, 1 - v], 1).astype(np.float32), span[0] / span[1]
    lon = np.round((lonlat[:, 0] + 180) / 360 * 65535) / 65535 * 360 - 180
    lat = np.round((lonlat[:, 1] + 90) / 180 * 65535) / 65535 * 180 - 90
    x, y = equal_earth(lon, lat)
    (x_max, _), (_, y_max) = equal_earth(180.0, 0.0), equal_earth(0.0, 90.0)
    return np.stack([(x / x_max + 1) / 2, (1 - y / y_max) / 2], 1).astype(np.float32), x_max / y_max


def equal_earth(lon, lat):
    t = np.arcsin(np.sqrt(3) / 2 * np.sin(np.radians(lat)))
    slope = 9 * 0.003796 * t**8 + 7 * 0.000893 * t**6 - 3 * 0.081106 * t**2 + 1.340264
    x = 2 * np.sqrt(3) * np.radians(lon) * np.cos(t) / (3 * slope)
    return x, 0.003796 * t**9 + 0.000893 * t**7 - 0.081106 * t**3 + 1.340264 * t


def inside(polygon: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Even-odd rule by counting the edges that a ray to the right crosses."""
    odd = np.zeros(len(points), bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, 0), strict=True):
        spans = (points[:, 1] >= min(y0, y1)) & (points[:, 1] < max(y0, y1))
        if y0 != y1:
            odd ^= spans & (points[:, 0] < x0 + (points[:, 1] - y0) / (y1 - y0) * (x1 - x0))
    return odd


# ---- a page and what is done with it


@pytest.fixture
def open_page(browser, tmp_path):
    """Open HTML; the test fails on errors, on the console's complaints and on requests to elsewhere."""
    contexts, complaints = [], []
    with served(tmp_path) as address:

        def open_(html, width=1200, over_http=False, **options):
            path = write_page(tmp_path / f"page{len(contexts)}.html", "Test", "<h1>Test</h1>" + html)
            context = browser.new_context(viewport={"width": width, "height": 900}, **options)
            contexts.append(context)

            def gate(route):
                if route.request.url.startswith(("file:", "data:", "blob:", address)):
                    route.continue_()
                else:
                    complaints.append("request " + route.request.url)
                    route.abort()

            context.route("**/*", gate)
            page = context.new_page()
            page.on("pageerror", lambda e: complaints.append(f"error {e}"))
            page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
            page.goto(f"{address}/{path.name}" if over_http else path.as_uri())
            page.wait_for_selector(".gl[data-ready='1']")
            return page

        yield open_
        for context in contexts:
            context.close()
    assert complaints == []


class Picture:
    """One of the two pictures of a page as NumPy sees it: the places in pixels of the screen."""

    def __init__(self, page, which, **places):
        page.locator(".gl-plot").nth(which).scroll_into_view_if_needed()
        self.page, self.which = page, which
        self.box = page.locator(".gl-top").nth(which).bounding_box()
        self.units, aspect = unit_positions(which, **places)
        side = min((self.box["width"] - 16) / aspect, self.box["height"] - 16)
        self.scale = np.array([side * aspect, side])
        self.middle = np.array([self.box["x"] + self.box["width"] / 2, self.box["y"] + self.box["height"] / 2])

    def screen(self, units=None, zoom=1.0, centre=(0.5, 0.5)):
        return self.middle + ((self.units if units is None else units) - np.array(centre)) * self.scale * zoom

    def at(self, x, y):
        """Whole pixels at fractions of the picture."""
        return np.round([self.box["x"] + self.box["width"] * x, self.box["y"] + self.box["height"] * y])

    def drag(self, *corners, keys=""):
        """Press at the first of the points (fractions), draw through the others, release; returns them in pixels."""
        points = np.array([self.at(*corner) for corner in corners])
        if keys:
            self.page.keyboard.down(keys)
        self.page.mouse.move(*points[0])
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*point)
        self.page.mouse.up()
        if keys:
            self.page.keyboard.up(keys)
        self.page.wait_for_timeout(60)
        return points

    def boxed(self, points, **view):
        places, (low, high) = self.screen(**view), (points.min(0), points.max(0))
        return (places >= low).all(1) & (places <= high).all(1)


def use(page, tool):
    page.get_by_label(tool, exact=True).check()


def selected(page):
    return int(page.locator(".gl").first.get_attribute("data-selected"))


def ink(page, which):
    return page.evaluate("(i) => document.querySelectorAll('.gl-base')[i].toDataURL()", which)


def picture_of(canvas) -> np.ndarray:
    """The pixels of a canvas (h, w, 4)."""
    from PIL import Image

    data = canvas.evaluate("(c) => c.toDataURL()").split(",")[1]
    return np.array(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA"))


def table_of(page):
    details = page.locator(".gl details")
    if details.get_attribute("open") is None:
        details.locator("summary").click()
    page.wait_for_timeout(150)
    return page.locator(".gl-table")


def rows_of(page) -> list[dict]:
    """The selection, from the CSV file that the page writes."""
    table_of(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    assert download.value.suggested_filename == "selection.csv"
    text = open(download.value.path(), encoding="utf-8-sig", newline="").read()
    return list(csv.DictReader(io.StringIO(text)))


def numbers_of(rows) -> set[int]:
    return {int(row["row"]) for row in rows}


# ---- the checks


def check_box(page):
    """A box in either picture selects what NumPy finds in it, in both pictures, and the CSV has it with its facts."""
    for which in (0, 1):
        picture, before = Picture(page, which), ink(page, 1 - which)
        within = picture.boxed(picture.drag((0.25, 0.3), (0.4, 0.5), (0.62, 0.7)))
        assert ink(page, 1 - which) != before, "the other picture did not change"
        rows = rows_of(page)
        assert selected(page) == len(rows) == within.sum() > 20
        assert numbers_of(rows) == set(np.flatnonzero(within))
        assert page.locator(".gl-status").first.inner_text() == f"{within.sum()} of {N} selected"
    for row in rows:
        k = int(row["row"])
        assert row["place"] == NAMES[k] and row["kind"] == (KIND[k] or "")
        assert np.abs([float(row["longitude"]), float(row["latitude"])] - LONLAT[k]).max() < 0.004
        assert row["height (m)"] == ("" if np.isnan(HEIGHT[k]) else f"{HEIGHT[k]:.0f}")
        assert np.isclose(float(row["share"]), SHARE[k], rtol=1e-6)
    page.get_by_role("button", name="Clear").click()
    assert selected(page) == N


def check_lasso(page):
    """A closed line, crossing itself or not, selects by the even-odd rule."""
    use(page, "Lasso")
    star = [(0.5 + 0.36 * np.sin(a), 0.5 - 0.4 * np.cos(a)) for a in np.arange(5) * 4 * np.pi / 5]
    hook = [(0.2, 0.2), (0.7, 0.15), (0.8, 0.8), (0.6, 0.85), (0.55, 0.4), (0.35, 0.75)]
    for which, corners in ((0, star), (1, hook)):
        picture = Picture(page, which)
        within = inside(picture.drag(*corners), picture.screen())
        assert numbers_of(rows_of(page)) == set(np.flatnonzero(within)) and within.sum() > 20
    page.locator(".gl-top").nth(1).focus()
    page.keyboard.press("Escape")
    assert selected(page) == N


def check_adding(page):
    """With Shift a second shape, in the other picture too, adds to the first; without, it takes its place."""
    left, right = Picture(page, 0), Picture(page, 1)
    one = left.boxed(left.drag((0.3, 0.3), (0.5, 0.6)))
    right = Picture(page, 1)
    two = right.boxed(right.drag((0.5, 0.3), (0.7, 0.6), keys="Shift"))
    assert numbers_of(rows_of(page)) == set(np.flatnonzero(one | two)) and (one & ~two).any() and (two & ~one).any()
    left = Picture(page, 0)
    three = left.boxed(left.drag((0.1, 0.1), (0.4, 0.4)))
    assert selected(page) == three.sum()


def check_hover(page):
    """The place under the pointer is read out with the column that colours it and its position."""
    picture = Picture(page, 0)
    places = picture.screen()
    alone = [k for k in range(N) if np.sort(np.linalg.norm(places - places[k], axis=1))[1] > 8 and KIND[k]][:3]
    for k in alone:
        page.mouse.move(*(places[k] + [3, 0]))
        text = page.locator(".gl-readout").inner_text()
        (lon, lat), half = LONLAT[k], 0.004
        number = float(re.search(r"([\d.]+)° [NS]", text)[1])
        assert NAMES[k] in text and f"kind: {KIND[k]}" in text and abs(number - abs(lat)) < half + 0.005
        assert f"° {'N' if lat > 0 else 'S'}, " in text and text.strip().endswith("E" if lon > 0 else "W")
    page.mouse.move(2, 2)
    assert page.locator(".gl-readout").inner_text() == ""


def click_place(page, k, which=0):
    """Click a place; the nearest one is what must come."""
    picture = Picture(page, which)
    page.mouse.click(*picture.screen()[k])
    return NAMES[int(np.linalg.norm(picture.screen() - picture.screen()[k], axis=1).argmin())]


def check_inspect(page):
    """A click shows text, source, licence, credit, facts with units and the picture of the place; Close takes it away."""
    k = int(PICTURED[20])  # with a text, no address
    name, card = click_place(page, k), page.locator(".gl-card")
    expect(card.locator(".gl-name")).to_have_text(name)
    expect(card.locator(".gl-text")).to_contain_text(f"Text of place {k}. long", timeout=2000)
    assert card.locator(".gl-text").inner_text().endswith("…")
    facts = dict(zip(card.locator("dt").all_inner_texts(), card.locator("dd").all_inner_texts(), strict=True))
    height = f"{HEIGHT[k]:,.0f} m" if HEIGHT[k] >= 1000 else f"{float(f'{HEIGHT[k]:.3g}'):g} m"
    assert facts == {"kind": KIND[k], "height": height, "share": f"{float(f'{SHARE[k]:.3g}'):g}"}
    canvas = card.locator("canvas[role=img]")
    assert name in canvas.get_attribute("aria-label") and "simulated" in card.locator("figcaption").inner_text()
    page.wait_for_timeout(100)
    pixel = picture_of(canvas)[20, 20]
    assert pixel[3] == 255 and np.abs(pixel[:3].astype(int) - PICTURES[20, 0, 0]).max() <= 6, pixel
    links = card.locator("a")
    assert [a.get_attribute("href") for a in links.all()] == [ABOUT["license_url"][0]]
    assert "Wikipedia contributors · CC BY-SA 4.0 · markup removed" in card.locator(".gl-source").inner_text()

    k = next(k for k in range(1, N, 2) if ABOUT["text"][k] and k not in PICTURED)  # with an address, no picture
    page.locator(".gl-card").get_by_role("button", name="Close").click()
    expect(card).to_be_hidden()
    click_place(page, k)
    source = card.locator(".gl-source a").first
    assert source.get_attribute("href") == ABOUT["url"][k] and source.inner_text() == f"en.wikipedia.org/wiki/Place_{k}"
    assert all({"noopener", "noreferrer"} <= set(a.get_attribute("rel").split()) for a in links.all())
    assert "no image of this place" in card.inner_text() and selected(page) == N


def check_images(page):
    """The images of the selection: those of its places and no others; each opens its place."""
    picture = Picture(page, 1)
    within = picture.boxed(picture.drag((0.1, 0.1), (0.5, 0.9)))
    page.wait_for_timeout(200)
    expected = [NAMES[k] for k in PICTURED if within[k]]
    shown = [b.get_attribute("title") for b in page.locator(".gl-strip button").all()]
    assert 3 < len(expected) and shown == (expected if len(expected) <= 16 else [expected[j * len(expected) // 16] for j in range(16)])
    assert page.locator(".gl-strip p").inner_text().startswith("Simulated images in the selection: ")
    page.locator(".gl-strip button").nth(2).click()
    assert page.locator(".gl-card .gl-name").inner_text() == shown[2]
    page.keyboard.press("Escape")  # the focus was taken to the card, and goes back
    expect(page.locator(".gl-card")).to_be_hidden()
    assert selected(page) == within.sum()
    assert page.evaluate("document.activeElement.title") == shown[2]


def check_legend(page):
    """Classes are hidden, shown and shown alone; numbers get a ramp; reset brings everything back."""
    sizes = {name: int((KIND == name).sum()) for name in ("sand", "moss", "peat", "clay")}
    chips = [chip.split() for chip in page.locator(".gl-legend button").all_inner_texts()]
    assert chips == [[name, str(size)] for name, size in sorted(sizes.items(), key=lambda s: -s[1])] + [["unknown", "5"]]
    moss, before = page.get_by_role("button", name="moss"), ink(page, 1)
    moss.click()
    page.wait_for_timeout(60)
    assert moss.get_attribute("aria-pressed") == "false" and selected(page) == N - sizes["moss"]
    assert ink(page, 1) != before and "shown" in page.locator(".gl-status").first.inner_text()
    assert numbers_of(rows_of(page)) == set(np.flatnonzero(KIND != "moss"))
    page.get_by_role("button", name="peat").click(modifiers=["Shift"])
    assert numbers_of(rows_of(page)) == set(np.flatnonzero(KIND == "peat"))
    picture = Picture(page, 0)
    within = picture.boxed(picture.drag((0.2, 0.2), (0.5, 0.8)))
    assert selected(page) == (within & (KIND == "peat")).sum()
    page.get_by_role("button", name="Reset").click()
    page.wait_for_timeout(60)
    assert selected(page) == N and ink(page, 1) == before
    page.get_by_label("Colour by").select_option("height")
    page.wait_for_timeout(60)
    legend = page.locator(".gl-legend").inner_text()
    low, high = np.nanpercentile(HEIGHT, [1, 99])
    assert f"{high:,.0f} m" in legend and "no value 4" in legend.replace("\n", " ") and low < 0
    assert ink(page, 1) != before and selected(page) == N


def check_zoom(page):
    """Ctrl and wheel zoom about the pointer, dragging moves, a box means the same when zoomed; a bare wheel scrolls."""
    use(page, "Explore")
    picture = Picture(page, 0)
    x, y = picture.at(0.4, 0.6)
    page.mouse.move(x, y)
    under = (np.array([x, y]) - picture.middle) / picture.scale + 0.5
    page.keyboard.down("Control")
    for _ in range(4):
        page.mouse.wheel(0, -120)
        page.wait_for_timeout(40)
    page.keyboard.up("Control")
    plot = page.locator(".gl-plot").first
    zoom = float(plot.get_attribute("data-zoom"))
    assert 4 < zoom < 8 and page.locator(".gl-plot").nth(1).get_attribute("data-zoom") == "1"
    centre = under - (np.array([x, y]) - picture.middle) / picture.scale / zoom
    start, end = picture.drag((0.5, 0.5), (0.45, 0.42))[[0, -1]]
    centre = centre - (end - start) / picture.scale / zoom
    assert selected(page) == N
    use(page, "Box")
    within = picture.boxed(picture.drag((0.2, 0.2), (0.8, 0.8)), zoom=zoom, centre=centre)
    assert numbers_of(rows_of(page)) == set(np.flatnonzero(within)) and 3 < within.sum() < 300
    page.get_by_role("button", name="Zoom to it").click()
    page.wait_for_timeout(60)
    assert float(page.locator(".gl-plot").nth(0).get_attribute("data-zoom")) > 1.5
    page.get_by_role("button", name="All: Embedding").click()
    assert plot.get_attribute("data-zoom") == "1"
    page.get_by_role("button", name="Zoom in: Map").click()
    assert page.locator(".gl-plot").nth(1).get_attribute("data-zoom") == "2"
    page.get_by_role("button", name="Reset").click()
    assert page.locator(".gl-plot").nth(1).get_attribute("data-zoom") == "1"
    page.evaluate("document.body.style.minHeight = '4000px'")
    page.mouse.move(*Picture(page, 0).at(0.5, 0.5))
    before = page.evaluate("scrollY")
    page.mouse.wheel(0, 200)
    page.wait_for_function(f"scrollY > {before} + 50", timeout=1500)
    assert plot.get_attribute("data-zoom") == "1"


def check_keyboard(page):
    """Everything by keys alone: a box, an outline, inspecting, zoom, tools, the table."""
    top, picture = page.locator(".gl-top").first, Picture(page, 0)
    top.focus()
    page.keyboard.press("Enter")
    for key in ("ArrowRight", "ArrowUp"):
        for _ in range(12):
            page.keyboard.press(key)
    page.keyboard.press("Enter")
    step = np.array([0.025 * min(1, picture.scale[1] / picture.scale[0]), 0.025 * min(1, picture.scale[0] / picture.scale[1])])
    corner = np.array([0.5, 0.5]) + 12 * step * [1, -1]
    low, high = np.minimum(corner, 0.5), np.maximum(corner, 0.5)
    within = ((picture.units >= low) & (picture.units <= high)).all(1)
    assert numbers_of(rows_of(page)) == set(np.flatnonzero(within)) and within.sum() > 5
    top.focus()
    page.keyboard.press("ArrowDown")
    assert selected(page) == within.sum(), "a finished box must stay"
    page.keyboard.press("Escape")
    assert selected(page) == N
    for _ in range(8):
        page.keyboard.press("Shift+ArrowLeft")
    assert 0 <= selected(page) < 60
    page.keyboard.press("Escape")

    page.get_by_label("Box", exact=True).focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_label("Lasso", exact=True).is_checked()
    top.focus()
    for key, times in (("Enter", 1), ("ArrowRight", 8), ("ArrowDown", 8), ("ArrowLeft", 8), ("Enter", 1)):
        for _ in range(times):
            page.keyboard.press(key)
    square = np.array([[0, 0], [8, 0], [8, 8], [0, 8]]) * step + 0.5
    within = inside(square, picture.units)
    assert abs(selected(page) - within.sum()) <= 1 and within.sum() > 5  # a place on the line itself may differ
    page.keyboard.press("Escape")

    for _ in range(3):
        page.keyboard.press("ArrowUp")
    page.keyboard.press("Space")
    assert page.locator(".gl-card").is_visible()
    name = page.locator(".gl-card .gl-name").inner_text()
    assert name in NAMES and page.evaluate("document.activeElement.className") == "gl-top"
    page.keyboard.press("+")
    assert page.locator(".gl-plot").first.get_attribute("data-zoom") == "2"
    page.keyboard.press("0")
    assert page.locator(".gl-plot").first.get_attribute("data-zoom") == "1"
    table = table_of(page)
    table.locator("thead button").first.focus()
    page.keyboard.press("Enter")
    expect(table.locator("tbody button").first).to_have_text("Name 599")
    assert page.evaluate("document.activeElement.textContent").startswith("Place")
    table.locator("tbody button").first.focus()
    page.keyboard.press("Enter")
    assert page.locator(".gl-card .gl-name").inner_text() == "Name 599"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.textContent") == "Name 599"


def check_table(page):
    """Sorted as NumPy sorts, the first hundred with the count of all, and sorted anew by a press."""
    page.get_by_label("Colour by").select_option("height")
    table = table_of(page)
    assert table.locator("caption").inner_text() == f"First 100 of {N} places, sorted by Place; the CSV has all"
    assert table.locator("tbody button").all_inner_texts() == [f"Name {i:03d}" for i in range(100)]
    table.get_by_role("button", name="height").click()
    order = np.argsort(np.where(np.isnan(HEIGHT), np.inf, HEIGHT), kind="stable")
    assert table.locator("tbody button").all_inner_texts() == [NAMES[k] for k in order[:100]]
    table.get_by_role("button", name="height").click()
    assert table.locator("th[aria-sort=descending]").inner_text().startswith("height")
    known = np.flatnonzero(~np.isnan(HEIGHT))
    down = table.locator("tbody button").all_inner_texts()[4:]  # places without a value come first or last, never between
    assert down == [NAMES[k] for k in known[np.argsort(-HEIGHT[known], kind="stable")]][:96]
    table.get_by_role("button", name="Longitude").click()
    assert table.locator("tbody button").first.inner_text() == NAMES[int(LONLAT[:, 0].argmin())]
    picture = Picture(page, 0)
    within = picture.boxed(picture.drag((0.4, 0.4), (0.5, 0.5)))
    assert 1 < within.sum() < 100
    expect(table.locator("caption")).to_have_text(f"{within.sum()} places, sorted by Longitude")
    assert set(table.locator("tbody button").all_inner_texts()) == {NAMES[k] for k in np.flatnonzero(within)}


CHECKS = {check.__name__.removeprefix("check_"): check for check in (
    check_box, check_lasso, check_adding, check_hover, check_inspect, check_images, check_legend, check_zoom, check_keyboard, check_table)}  # fmt: skip


@pytest.mark.parametrize("where", ["desktop from the disk", "390 px over HTTP"])
@pytest.mark.parametrize("name", CHECKS)
def test_it_does_what_it_says(open_page, name, where):
    CHECKS[name](open_page(sample_html(), width=1200 if "desktop" in where else 390, over_http="HTTP" in where))


FAULTS = [  # a check, and a change of the page that it must find
    ("box", "view.x[k] <= x1 &&", "view.x[k] <= x0 &&"),
    ("box", "if (mark[k] !== layer) continue;", "if (!mark[k] || layer === 1) continue;"),
    ("box", "(packed[k] + c.offset) / c.scale", "packed[k] / c.scale"),
    ("box", "raw: (k) => code[k] === none ? \"\" : text(k)", "raw: (k) => c.labels[0]"),
    ("lasso", "cross(view, a, o); ", ""),
    ("lasso", "inside[k] ^= 1;", "inside[k] = 1;"),
    ("adding", "base[k] |= inside[k]", "base[k] = 0"),
    ("hover", "dx * dx + dy * dy;", "dx * dx;"),
    ("hover", "signs[v < 0 ? 1 : 0]", "signs[0]"),
    ("inspect", "about[name][k]", "about[name][k + 1]"),
    ("inspect", '(tiles[k] % across) * tile', '0'),
    ("inspect", 'rel: "noopener noreferrer"', 'rel: "author"'),
    ("inspect", "number(value[k]) + unit", "number(value[k])"),
    ("images", "mark[k] === 2 && tiles[k] >= 0", "tiles[k] >= 0"),
    ("legend", "mark[k] = 0; continue;", "mark[k] = 1;"),
    ("legend", "hidden.clear();\n      pressed();\n      close();", "close();"),
    ("zoom", "zoomAt(view, view.k, drag.place, here)", "void 0"),
    ("zoom", "if (!e.ctrlKey && !e.metaKey) return;", ""),
    ("zoom", "look(view, k, ux - (x - view.w / 2)", "look(view, k, ux + (x - view.w / 2)"),
    ("keyboard", 'e.shiftKey && !tracing', 'false'),
    ("keyboard", '} else if (e.key === " " ||', '} else if ('),
    ("table", "compare(k, kept[mid]) < 0", "compare(k, kept[mid]) > 0"),
    ("table", "down: c === by && !sort.down }", "down: false }"),
]  # fmt: skip


@pytest.mark.parametrize("name, old, new", FAULTS)
def test_a_planted_fault_is_found(open_page, name, old, new):
    assert sample_html().count(old) == 1, old
    page = open_page(sample_html().replace(old, new))
    page.set_default_timeout(4000)
    with pytest.raises((AssertionError, sync_api.Error)):
        CHECKS[name](page)


# ---- touch


class Fingers:
    """Real touches: the browser decides whether they scroll the page."""

    def __init__(self, page):
        self.page, self.session = page, page.context.new_cdp_session(page)

    def send(self, kind, *points):
        touches = [{"x": float(x), "y": float(y), "id": i} for i, (x, y) in enumerate(points)]
        self.session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})

    def draw(self, *points):
        self.page.wait_for_timeout(150)  # the browser learns with its next frame what a finger may do
        self.send("touchStart", points[0])
        for a, b in zip(points, points[1:], strict=False):
            for f in np.linspace(0, 1, 6)[1:]:
                self.send("touchMove", np.array(a) + (np.array(b) - a) * f)
        self.send("touchEnd")
        self.page.wait_for_timeout(300)

    def pinch(self, middle, a, b):
        middle = np.array(middle)
        self.send("touchStart", middle - [a, 0])
        self.send("touchStart", middle - [a, 0], middle + [a, 0])
        for d in np.linspace(a, b, 6)[1:]:
            self.send("touchMove", middle - [d, 0], middle + [d, 0])
        self.send("touchEnd")
        self.page.wait_for_timeout(100)


def check_touch(page):
    """One finger scrolls the page while exploring and selects with Box; two fingers zoom; a tap inspects."""
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    fingers, picture = Fingers(page), Picture(page, 0)
    page.evaluate("document.body.style.minHeight = '3000px'")
    before = page.evaluate("scrollY")
    fingers.draw(picture.at(0.5, 0.9), picture.at(0.5, 0.1))
    assert page.evaluate("scrollY") > before + 60, "the picture traps the page"
    assert selected(page) == N and page.locator(".gl-plot").first.get_attribute("data-zoom") == "1"

    picture = Picture(page, 0)
    k = int(np.linalg.norm(picture.screen() - picture.middle, axis=1).argmin())
    page.touchscreen.tap(*picture.screen()[k])
    expect(page.locator(".gl-card .gl-name")).to_have_text(NAMES[k])
    assert NAMES[k] in page.locator(".gl-readout").inner_text()

    picture = Picture(page, 0)
    fingers.pinch(picture.at(0.5, 0.5), 20, 60)
    assert abs(float(page.locator(".gl-plot").first.get_attribute("data-zoom")) - 3) < 0.1
    assert page.evaluate("visualViewport.scale") == 1
    page.get_by_role("button", name="All: Embedding").tap()

    page.get_by_label("Box", exact=True).tap()
    picture = Picture(page, 0)
    before, points = page.evaluate("scrollY"), np.array([picture.at(0.3, 0.7), picture.at(0.7, 0.3)])
    fingers.draw(*points)
    within = picture.boxed(points)
    assert page.evaluate("scrollY") == before and selected(page) == within.sum() > 20
    page.get_by_label("Lasso", exact=True).tap()
    assert page.get_by_label("Lasso", exact=True).is_checked(), "a swift stroke swallows the next tap"
    picture = Picture(page, 1)
    points = np.array([picture.at(*p) for p in ((0.2, 0.3), (0.8, 0.3), (0.75, 0.8))])
    fingers.draw(*points)
    assert abs(selected(page) - inside(points, picture.screen()).sum()) <= 3  # corners between are decided by the finger
    page.get_by_label("Explore", exact=True).tap()
    picture = Picture(page, 0)
    page.evaluate("scrollTo(0, 0)")
    fingers.draw(Picture(page, 0).at(0.5, 0.9), Picture(page, 0).at(0.5, 0.2))
    assert page.evaluate("scrollY") > 60


PHONE = {"width": 390, "has_touch": True, "is_mobile": True}


def test_touch(open_page):
    check_touch(open_page(sample_html(), over_http=True, **PHONE))


@pytest.mark.parametrize("old, new", [
    ("touch-action: pan-x pan-y;", "touch-action: none;"),
    ("pinch.k * d / pinch.d", "pinch.k"),
    ('if (e.pointerType === "touch") point(k);', ""),
    ('if (root.classList.contains("gl-brushing")) e.preventDefault();', ""),
])  # fmt: skip
def test_a_planted_fault_of_touch_is_found(open_page, old, new):
    assert sample_html().count(old) == 1
    page = open_page(sample_html().replace(old, new), **PHONE)
    page.set_default_timeout(4000)
    with pytest.raises((AssertionError, sync_api.Error)):
        check_touch(page)


# ---- safe


def hostile_view():
    names = [HOSTILE[i % len(HOSTILE)] for i in range(N)]
    bad = ["javascript:window.hacked=1", "data:text/html,<script>hacked=1</script>", "http://example.org/", "https://u:p@example.org/",
           " https://example.org/<b>", "//example.org", 'https://example.org/"onmouseover="hacked=1', "x" * 3000]  # fmt: skip
    urls = [bad[i % len(bad)] for i in range(N)]
    about = {"text": names, "url": urls, "license": names, "license_url": urls, "creator": names, "changes": names}
    return sample_view(hover=names, color={HOSTILE[0]: names, HOSTILE[1]: np.arange(float(N)), "__proto__": ["=1+1", "@SUM(1)", "-2", '"a",\n"b"'] * (N // 4)},
                       titles=(HOSTILE[0], HOSTILE[1]), alt=(HOSTILE[1], HOSTILE[0]), units={HOSTILE[1]: HOSTILE[0]}, about=about), urls  # fmt: skip


def check_hostile(page, urls):
    built = "() => [...document.querySelectorAll('.gl :is(img, script, b b, iframe, object, [onerror], [onmouseover])')].length"
    assert page.locator(".gl figcaption span").all_inner_texts() == HOSTILE[:2]
    assert HOSTILE[0] in page.locator(".gl-legend").inner_text()
    places = Picture(page, 1).screen()
    page.mouse.move(*places[3])
    assert page.locator(".gl-readout b").inner_text() in HOSTILE + [h.replace("\u2028", "") for h in HOSTILE]
    seen = set()
    for k in range(0, N, 61):
        page.evaluate("document.querySelectorAll('.gl-strip button')[0].scrollIntoView()")
        picture = Picture(page, 1)
        page.mouse.click(*picture.screen()[k])
        expect(page.locator(".gl-source")).to_be_visible()
        for a in page.locator(".gl-card a").all():
            href = a.get_attribute("href")
            assert re.match(r"https://example\.org/", href) and not re.search(r'["<>]', href), href
            seen.add(href)
        assert page.locator(".gl-text").inner_text().removesuffix("simulated").strip() != ""
    assert seen == {"https://example.org/%3Cb%3E", "https://example.org/%22onmouseover=%22hacked=1"}
    table = table_of(page)
    for column in range(3):
        page.get_by_label("Colour by").select_option(index=column)
        page.wait_for_timeout(120)
    assert any(h in table.inner_text() for h in ("=1+1", "@SUM(1)", "-2"))
    rows = rows_of(page)
    assert {row["__proto__"] for row in rows} == {"'=1+1", "'@SUM(1)", "'-2", '"a",\n"b"'}
    assert {row["place"] for row in rows} == set(HOSTILE)
    assert page.evaluate(built) == 0 and page.evaluate("window.hacked") is None


def test_hostile_strings_are_text(open_page):
    view, urls = hostile_view()
    assert json.loads(safe_json(HOSTILE)) == HOSTILE and "<" not in safe_json(HOSTILE)
    check_hostile(open_page(view.to_html(), over_http=True), urls)


@pytest.mark.parametrize("old, new", [
    ('url.protocol !== "https:"', "false"),
    ("url.username || url.password", "false"),
    ('element("b", {}, nameOf(near))', '(() => { const b = element("b"); b.innerHTML = nameOf(near); return b; })()'),
    ("node.append(...children);", 'children.forEach((c) => typeof c === "string" ? node.insertAdjacentHTML("beforeend", c) : node.append(c));'),
    ("/^[=+\\-@\\t\\r]/.test(value)", "false"),
])  # fmt: skip
def test_a_planted_hole_is_found(browser, tmp_path, old, new):
    view, urls = hostile_view()
    assert view.to_html().count(old) == 1
    path = write_page(tmp_path / "page.html", "Test", view.to_html().replace(old, new))
    context = browser.new_context(viewport={"width": 1200, "height": 900}, offline=True)
    page = context.new_page()
    page.set_default_timeout(4000)
    with pytest.raises((AssertionError, sync_api.Error)):
        page.goto(path.as_uri())
        page.wait_for_selector(".gl[data-ready='1']")
        check_hostile(page, urls)
    context.close()


def test_hostile_strings_in_sliders_and_maps_are_text(open_page):
    slider = frame_slider([HOSTILE[3], "two"], HOSTILE[:2], HOSTILE[:2], name=HOSTILE[0])
    world = offline_map(center=(0, 0), alt='"><img src=x onerror=parent.hacked=1>')
    add_points(world, [[0, 0]], [HOSTILE[0] + HOSTILE[3]])
    page = open_page(sample_html() + slider._repr_html_() + world._repr_html_())
    frame = page.frame_locator("iframe")
    page.locator("iframe").scroll_into_view_if_needed()
    frame.locator(".leaflet-container canvas").first.wait_for()
    frame.locator(".leaflet-container").click()
    assert frame.locator(".leaflet-popup-content").inner_text().strip() == HOSTILE[0] + HOSTILE[3]
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.querySelector('iframe').contentWindow.hacked") is None


def test_the_first_view_of_a_map_is_the_whole_world(open_page):
    page = open_page(sample_html() + f"<div style='width:740px'>{offline_map()._repr_html_()}</div>")
    page.locator("iframe").scroll_into_view_if_needed()
    page.frame_locator("iframe").locator(".leaflet-container canvas").first.wait_for()
    west, east = page.frames[1].evaluate("""() => {
      const bounds = Object.values(window).find((v) => v instanceof L.Map).getBounds();
      return [bounds.getWest(), bounds.getEast()];
    }""")
    assert -190 < west < -178 and 178 < east < 190


# ---- accessible


@pytest.mark.parametrize("width", [1200, 390])
def test_nothing_stands_in_the_way(open_page, width):
    page = open_page(sample_html(), width=width, reduced_motion="reduce")
    table_of(page)
    page.locator(".gl-strip button").first.click()
    page.get_by_role("button", name="moss").click()
    picture = Picture(page, 0)
    picture.drag((0.3, 0.3), (0.6, 0.6))
    assert barriers(page) == []
    unnamed = page.evaluate("""() => [...document.querySelectorAll('.gl :is(button, select, input, canvas[tabindex], summary)')]
      .filter((e) => !(e.ariaLabel || e.textContent.trim() || (e.labels && e.labels[0].textContent.trim()))).map((e) => e.outerHTML)""")
    assert unnamed == []
    moving = "() => [...document.querySelectorAll('.gl *')].filter((e) => parseFloat(getComputedStyle(e).transitionDuration) > 0 || getComputedStyle(e).animationName !== 'none').length"
    assert page.evaluate(moving) == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    set_theme(page, "dark")
    dark = page.evaluate("getComputedStyle(document.querySelector('.gl')).backgroundColor")
    assert dark == "rgb(21, 26, 32)"


def test_every_control_is_reached_by_tab(open_page):
    page = open_page(sample_html())
    table_of(page)
    seen = []
    page.get_by_label("Colour by").focus()
    for _ in range(40):
        seen.append(page.evaluate("document.activeElement.ariaLabel || (document.activeElement.labels ? document.activeElement.labels[0]?.innerText : '') || document.activeElement.innerText.trim()"))
        page.keyboard.press("Tab")
    wanted = ["Box", "Clear", "Zoom to it", "Reset", "Zoom in: Embedding", "All: Map", "Embedding", "Map", "Selection as a table", "Download CSV", "Copy CSV", "Table of the selection"]
    assert [w for w in wanted if w not in seen] == [] and any("sand" in s for s in seen), seen


def test_colours_of_classes_can_be_told_apart_by_everyone():
    """The six first colours, as Machado et al. (2009) simulate three kinds of colour blindness, in CIE Lab."""
    simulated = {
        "normal": np.eye(3),
        "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    }
    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in PALETTE])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    for kind, matrix in simulated.items():
        t = (linear @ np.array(matrix).T).clip(0, 1) @ to_xyz.T / [0.9505, 1, 1.089]
        f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
        lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)
        apart = np.linalg.norm(lab[:, None] - lab, axis=2)[:6, :6][np.triu_indices(6, 1)]
        assert apart.min() > 10, (kind, apart.min())


# ---- copying, several views, themes


@pytest.mark.parametrize("allowed", [True, False])
def test_the_selection_is_copied(open_page, allowed):
    page = open_page(sample_html(), over_http=True, permissions=["clipboard-read", "clipboard-write"])
    if not allowed:
        page.evaluate("() => Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    picture = Picture(page, 0)
    within = picture.boxed(picture.drag((0.3, 0.3), (0.5, 0.6)))
    table_of(page)
    page.get_by_role("button", name="Copy CSV").click()
    expect(page.locator(".gl details .gl-status")).to_have_text(f"{within.sum()} rows copied")
    if allowed:
        text = page.evaluate("navigator.clipboard.readText()")
        assert numbers_of(csv.DictReader(io.StringIO(text.replace("\r\n", "\n")))) == set(np.flatnonzero(within))


def test_two_views_and_a_slider_on_a_page_keep_apart(open_page):
    slider = frame_slider(["<p>one</p>", "<p>two</p>"], ["first", "second"], ["a one", "a two"], name="Step")
    page = open_page(sample_html() + sample_html() + slider._repr_html_())
    Picture(page, 0).drag((0.2, 0.2), (0.5, 0.8))
    assert selected(page) < N and page.locator(".gl").nth(1).get_attribute("data-selected") == str(N)
    page.locator(".gl").nth(1).get_by_label("Lasso", exact=True).check()
    assert page.locator(".gl").first.get_by_label("Box", exact=True).is_checked()
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))
    page.get_by_label("Step").focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_text("two", exact=True).is_visible() and not page.get_by_text("one", exact=True).is_visible()
    assert page.locator(".geonb-frames output").inner_text() == "second"


def test_dark_pages_draw_other_colours(open_page):
    page = open_page(sample_html())
    page.get_by_label("Colour by").select_option("height")
    page.wait_for_timeout(60)
    before = ink(page, 0), page.evaluate("document.querySelector('.gl-ground').parentElement && document.querySelectorAll('.gl-ground')[1].toDataURL()")
    set_theme(page, "dark")
    after = ink(page, 0), page.evaluate("document.querySelectorAll('.gl-ground')[1].toDataURL()")
    assert before[0] != after[0] and before[1] != after[1]


def test_a_browser_that_cannot_inflate_says_so(open_page):
    page = open_page(sample_html().replace("<script>(function", "<script>delete window.DecompressionStream;</script><script>(function").replace(
        "<script>// Linked", "<script>delete window.DecompressionStream;</script><script>// Linked"))  # fmt: skip
    click_place(page, 1)
    expect(page.locator(".gl-about")).to_have_text("This browser cannot read the texts of this page.")
    assert page.locator(".gl-card dd").count() == 3


# ---- many places


CROWD = 100_000


@functools.cache
def many(n):
    rng = np.random.default_rng(0)
    lonlat = np.stack([rng.uniform(-180, 180, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))], 1)
    xy = rng.normal(size=(n, 2))
    kind = np.where(rng.random(n) < 0.7, np.where(xy[:, 0] < 0, "west", "east"), "rare")
    return lonlat, xy, kind, rng.normal(size=n)


def test_fifty_thousand_places(open_page):
    lonlat, xy, kind, value = many(50_000)
    view = linked_view(lonlat, xy, {"kind": kind, "value": value})
    assert len(view.to_html()) < 1_000_000 and view.weights["page"] == len(view.to_html().encode())
    page = open_page(view.to_html())
    assert page.locator(".gl-plot").first.get_attribute("data-detail") == "places"
    use(page, "Lasso")
    picture = Picture(page, 1, lonlat=lonlat, xy=xy)
    within = inside(picture.drag((0.3, 0.3), (0.6, 0.2), (0.5, 0.8), (0.4, 0.5)), picture.screen())
    assert abs(selected(page) - within.sum()) <= 2 and within.sum() > 3000  # places on the line, in single precision


def check_density(page):
    lonlat, xy, kind, _ = many(CROWD)
    plot, picture = page.locator(".gl-plot").first, Picture(page, 0, lonlat=lonlat, xy=xy)
    assert plot.get_attribute("data-detail") == "density" and f"Density of {CROWD:,} places" in plot.inner_text()
    drawn = picture_of(page.locator(".gl-base").first)[::2, ::2]
    cells = np.floor((picture.screen() - [picture.box["x"], picture.box["y"]]) / 2).astype(int)
    names = ["west", "east", "rare"] if (kind == "west").sum() >= (kind == "east").sum() else ["east", "west", "rare"]
    votes = np.zeros((*drawn.shape[:2], 3), int)
    np.add.at(votes, (cells[:, 1], cells[:, 0], [names.index(k) for k in kind]), 1)
    clear = np.sort(votes, 2)[..., 2] - np.sort(votes, 2)[..., 1] > 4  # a place on an edge may fall on either side
    colors = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in PALETTE[:3]])
    assert clear.sum() > 500
    assert (np.abs(drawn[clear][:, :3].astype(int) - colors[votes[clear].argmax(1)]).max(1) < 4).mean() > 0.999
    assert (drawn[votes.sum(2) > 3][:, 3] > 0).all() and drawn[votes.sum(2) > 20][:, 3].min() > drawn[votes.sum(2) == 1][:, 3].mean()
    within = picture.boxed(picture.drag((0.4, 0.4), (0.6, 0.6)))
    assert abs(selected(page) - within.sum()) <= 3 and within.sum() > 5000
    for _ in range(3):
        page.get_by_role("button", name="Zoom in: Embedding").click()
    page.wait_for_timeout(100)
    assert plot.get_attribute("data-detail") == "places" and "×8" in plot.inner_text()
    assert page.locator(".gl-plot").nth(1).get_attribute("data-detail") == "density"


@functools.cache
def crowd_html():
    lonlat, xy, kind, _ = many(CROWD)
    return linked_view(lonlat, xy, {"kind": kind}).to_html()


def test_a_crowd_is_a_density_until_one_zooms_in(open_page):
    check_density(open_page(crowd_html()))


@pytest.mark.parametrize("old, new", [
    ("votes[at * kinds + c] > votes[at * kinds + b]", "votes[at * kinds + c] && false"),
    ("0.35 + 0.65 * Math.log1p(chosenIn[at]) * scale", "0.5"),
    ("const dense = seen > CROWD;", "const dense = true;"),
])  # fmt: skip
def test_a_planted_fault_of_the_density_is_found(open_page, old, new):
    assert crowd_html().count(old) == 1
    with pytest.raises((AssertionError, sync_api.Error)):
        check_density(open_page(crowd_html().replace(old, new)))


# ---- what is in the page


def test_missing_values_and_labels(open_page):
    n = 30
    labels = [f"class {i % 14}" for i in range(n - 3)] + [None, float("nan"), ""]
    view = linked_view(np.zeros((n, 2)), np.arange(2.0 * n).reshape(n, 2),
                       {"label": labels, "number": [None, *range(n - 1)], "none": np.full(n, np.nan)})  # fmt: skip
    page = open_page(view.to_html())
    names = page.locator(".gl-legend button").all_inner_texts()
    assert len(names) == len(PALETTE) + 2 and names[-1].split() == ["unknown", "3"] and "other" in names[-2]
    page.get_by_label("Colour by").select_option("number")
    assert page.locator(".gl-missing").inner_text().split() == ["no", "value", "1"]
    page.get_by_label("Colour by").select_option("none")
    assert page.locator(".gl-legend").inner_text().split() == ["no", "value", "30"]


def test_a_view_of_nothing_but_positions(open_page):
    page = open_page(linked_view([[0, 0], [10, 10]], [[0, 0], [1, 1]]).to_html())
    assert page.locator("select").count() == 0
    assert [r["place"] for r in rows_of(page)] == ["Place 1", "Place 2"]
    page.locator("tbody button").first.click()
    assert page.locator(".gl-card .gl-name").inner_text() == "Place 1"


@pytest.mark.parametrize("values, kind", [
    ([0, 10, 65534], "u2"), ([-20.5, 30.25, np.nan], "u2"), ([1e-9, 1, 2], "f4"), ([0, 1, 65535], "f4"), ([np.nan] * 3, "f4"), ([1e300, 1e300, 0], "f4"),
])  # fmt: skip
def test_numbers_are_packed_without_loss(values, kind):
    (column,) = linked_view(np.zeros((3, 2)), np.eye(3)[:, :2], {"a": np.array(values, float)}).data["columns"] if np.max(values) < 1e39 else [None]
    if column is None:
        return
    assert column["type"] == kind
    raw = np.frombuffer(base64.b64decode(column["data"]), "<u2" if kind == "u2" else "<f4").astype(float)
    if kind == "u2":
        raw = np.where(raw == 65535, np.nan, (raw + column["offset"]) / column["scale"])
    np.testing.assert_allclose(raw, values, rtol=0 if kind == "u2" else 1e-7)


def test_texts_are_cut_and_packed(open_page):
    view = linked_view(np.zeros((2, 2)), np.eye(2), about={"text": ["a" * 5000, None], "url": ["https://example.org/" + "b" * 5000, ""]})
    about = json.loads(zlib.decompress(base64.b64decode(view.data["about"])))
    assert len(about["text"][0]) == TEXT_CHARACTERS and about["text"][0].endswith("…") and about["text"][1] is None
    assert len(about["url"][0]) == 2000 and about["url"][1] is None
    assert view.weights["texts"] == len(view.data["about"]) + 2 and view.weights["images"] == view.weights["names"] == 0


def test_more_images_than_fit_are_taken_evenly():
    asked = []

    def images(rows):
        asked.extend(rows.tolist())
        return np.zeros((len(rows), 8, 8, 3), np.uint8)

    n = 5 * MOST_IMAGES
    view = linked_view(np.zeros((n, 2)), np.zeros((n, 2)), images=images, image_rows=np.arange(n))
    thumbs = view.data["thumbs"]
    assert (thumbs["count"], thumbs["total"]) == (MOST_IMAGES, n) and asked[0] == 0 and asked[-1] == n - 1
    assert set(np.diff(asked)) <= {4, 5, 6}
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(thumbs["rows"]), "<u4"), asked)


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
        ({"about": {"text": ["one"]}}, "1 strings for 2"),
        ({"about": {"title": ["one", "two"]}}, "unknown 'title'"),
        ({"simulated": ["texts"]}, "unknown"),
        ({"images": np.zeros((1, 4, 4, 3), np.uint8)}, "image_rows"),
        ({"images": np.zeros((1, 4, 4, 3), np.uint8), "image_rows": [2]}, "image_rows"),
        ({"images": np.zeros((2, 4, 4, 3), np.uint8), "image_rows": [1, 1]}, "image_rows"),
        ({"images": np.zeros((2, 4, 4, 3), np.uint8), "image_rows": [1]}, "do not match"),
        ({"images": np.zeros((1, 4, 4, 3)), "image_rows": [1]}, "float64"),
    ],
)
def test_input_that_cannot_be_shown_is_refused(change, message):
    options = {"lonlat": [[0.0, 1.0], [2.0, 3.0]], "xy": [[0.0, 1.0], [2.0, 3.0]]} | change
    with pytest.raises(ValueError, match=message):
        linked_view(**options)


def test_html_repeats_and_is_saved_whole(tmp_path, monkeypatch):
    assert sample_view().to_html() == sample_view().to_html() == sample_view()._repr_html_()
    path = sample_view().save(tmp_path / "new" / "page.html", title="A <b> title")
    assert "<h1>A &lt;b&gt; title</h1>" in path.read_text() and [p.name for p in path.parent.iterdir()] == ["page.html"]
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            sample_view().save(path, title="other")
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

    rings = [np.array(r).reshape(-1, 2) for r in json.loads(asset("land.json"))]
    assert all(np.abs(r).max(0)[0] <= 180 and np.abs(r).max(0)[1] <= 90 for r in rings)
    land = [Path(np.vstack([r, r[:1]])) for r in rings]
    places = {"Paris": (2.3, 48.8), "Chukotka": (-175, 66.8), "Fiji": (178, -17.8), "Pole": (10, -89)}
    water = {"Caspian": (51, 40), "Pacific": (-150, 0), "Atlantic": (-30, 30), "Bering Sea": (179, 57)}
    for name, place in (places | water).items():
        assert sum(p.contains_point(place) for p in land) == (name in places), name
