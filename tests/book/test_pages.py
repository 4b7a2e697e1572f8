"""Every page of the built book in a real browser, over HTTP and from the disk; and every check against its fault."""

import re
from pathlib import Path

import check_book
import numpy as np
import pytest
import yaml

from geonb.explore.figures import themed
from geonb.explore.frames import frame_slider
from geonb.explore.linked import linked_view
from geonb.explore.maps import offline_map
from geonb.explore.views import write_page

TOC = yaml.safe_load((Path(__file__).resolve().parents[2] / "_toc.yml").read_text())
PAGES = [TOC["root"], *(chapter["file"] for part in TOC["parts"] for chapter in part["chapters"])]


@pytest.fixture(scope="module")
def browser():
    with check_book.chromium() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def address(built_book):
    with check_book.served(built_book) as base:
        yield base


@pytest.fixture(scope="module")
def reports(built_book):
    return check_book.check_pages(built_book, [f"{name}.html" for name in PAGES])


@pytest.mark.parametrize("name", PAGES)
def test_page(reports, name):
    report = reports[f"{name}.html"]
    assert {check: problems for check, problems in report.items() if problems} == {}


def test_the_book_holds_its_chapters_and_opens_at_the_first(built_book, browser, address):
    assert check_book.pages_of(built_book) == sorted(f"{name}.html" for name in PAGES)
    for base in (address, built_book.as_uri()):
        page = browser.new_page()
        page.goto(f"{base}/index.html")
        page.wait_for_url(f"**/{TOC['root']}.html")
        assert page.locator("h1:visible").count() == 1
        page.close()


@pytest.mark.parametrize("name", [name for name in PAGES if re.match(r"book/\d", name)])
def test_a_chapter_can_be_printed(browser, address, name):
    with check_book.opened(browser, address, f"{name}.html") as (page, _):
        assert check_book.unprintable(page) == []
        folded, sheets = check_book.folded_code(page), check_book.printed(page)
        assert len(folded) > 1 and len(sheets) > 3
        assert [line for line in folded if line not in "".join(sheets)] == [], "folded cells are blank on paper"


def test_the_book_shows_what_it_promises(built_book):
    html = {name: (built_book / f"{name}.html").read_text("utf-8") for name in PAGES}
    for view, what in (("gl", "map linked to an embedding"), ("gv", "UMAP beside PCA"), ("gp", "planet that answers")):
        assert any(f'class="{view}"' in text for text in html.values()), f"no {what}"
    chapters = [name for name in PAGES if name.removeprefix("book/")[0].isdigit()]
    assert len(chapters) >= 7
    for name in chapters:
        assert "geonb-figure" in html[name] or 'class="gl"' in html[name] or "<table" in html[name], name
        assert re.search(r"\b(simulated|real)\b", html[name], re.I), f"{name} does not say what its data are"


# ---- the checks themselves: quiet on a sound page, and each finds its own fault


def sound_body() -> str:
    import matplotlib.pyplot as plt

    rng = np.random.default_rng(0)
    lonlat = np.stack([rng.uniform(-170, 170, 300), rng.uniform(-60, 70, 300)], 1)
    fig, ax = plt.subplots(figsize=(3, 2))
    ax.set_xlabel("distance (km)")
    parts = [linked_view(lonlat, lonlat), frame_slider(["<p>one</p>", "<p>two</p>"], ["1", "2"], ["a", "b"]),
             offline_map(alt="A map"), themed(fig, "An empty plot")]  # fmt: skip
    sun = '<svg role="img" aria-labelledby="sun" width="20" height="20"><title id="sun">Light</title></svg>'  # as the theme has
    return f'<h1>Sound</h1><p id="here">Text. <a href="#here">Here</a></p>{sun}' + "".join(p._repr_html_() for p in parts)


@pytest.fixture(scope="module")
def sound():
    return sound_body()


@pytest.fixture
def published(tmp_path):
    """Puts a page into a folder; returns the folder."""

    def publish(html):
        write_page(tmp_path / "book" / "page.html", "A page", html)
        return tmp_path

    return publish


def test_a_sound_page_passes(browser, sound, published):
    root = published(sound)
    with check_book.served(root) as base:
        report = check_book.check_page(browser, root, base, "book/page.html")
    assert set(report) == set(FAULTS) and not any(report.values()), report


FAULTS = {
    "broken_links": lambda html: html + '<p><a href="other.html">Away</a></p>',
    "failed_cells": lambda html: html + '<div class="output stderr">UserWarning: old</div>',
    "bad_outline": lambda html: html + "<h1>Another</h1>",
    "unnamed_pictures": lambda html: html + '<svg width="40" height="40"><rect width="40" height="40"/></svg>',
    "raw_maths": lambda html: html + '<span class="math">\\(x^2\\)</span>',
    "raw_tables": lambda html: html + "<p>| what it is | a page |\n|---|---|</p>",
    "blank_maps": lambda html: html.replace("L.geoJson(", "(() => ({addTo() {}, addData() {}}))("),
    "dead_brushes": lambda html: html.replace("top.onpointermove =", "top.onsomething ="),
    "dead_sliders": lambda html: html.replace("input.oninput = show", "input.onsomething = show"),
    "illegible_figures": lambda html: html.replace('fill="currentColor"', 'fill="#111111"'),
    "too_wide_for_a_phone": lambda html: html + '<div style="width:600px">wide</div>',
    "barriers": lambda html: html + '<p style="color:#999;background:#aaa">pale</p>',
    "troubles": lambda html: html + '<img alt="a" src="https://example.org/a.png">',
    "from_disk": lambda html: html + '<script>if (location.protocol === "file:") throw new Error("no server")</script>',
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(browser, sound, published, name):
    faulty = FAULTS[name](sound)
    assert faulty != sound
    root = published(faulty)
    check = getattr(check_book, name, None)
    if name == "broken_links":
        assert check(root, "book/page.html") == ["no file other.html"]
    elif name == "troubles":
        with check_book.served(root) as base, check_book.opened(browser, base, "book/page.html") as (_, troubles):
            assert "asks the outside: https://example.org/a.png" in troubles
    elif name == "from_disk":
        with check_book.opened(browser, root.as_uri(), "book/page.html") as (_, troubles):
            assert troubles == ["script error: no server"]
    else:
        with check_book.opened(browser, root.as_uri(), "book/page.html") as (page, _):
            assert len(check(page)) >= 1


PRINT_FAULTS = {
    "dark paper": "<style>html[data-theme=dark] body { background: #111 }</style>",
    "beside the text: nav.bd-sidebar-primary": '<nav class="bd-sidebar-primary">Contents</nav>',
    "folded: Because": "<main><details><summary>Solution</summary><p>Because</p></details></main>",
    "cut off: aaa": f'<main><pre style="width: 20rem; overflow: auto">{"a" * 400}</pre></main>',
    "not one title": "<h1>Another</h1>",
}


@pytest.mark.parametrize("fault", PRINT_FAULTS)
def test_what_spoils_a_printed_page_is_found(browser, published, fault):
    root = published("<h1>Sound</h1>" + PRINT_FAULTS[fault])
    with check_book.opened(browser, root.as_uri(), "book/page.html") as (page, _):
        assert any(said.startswith(fault) for said in check_book.unprintable(page))
