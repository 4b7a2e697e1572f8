"""Every page of the built book in a real browser; and, marked as mutations, every check against its fault."""

import re
from pathlib import Path

import check_book
import numpy as np
import pytest
import yaml

from geonb.explore.figures import themed
from geonb.explore.linked import linked_view
from geonb.explore.maps import offline_map
from geonb.explore.views import write_page

TOC = yaml.safe_load((Path(__file__).resolve().parents[2] / "_toc.yml").read_text())
PAGES = [TOC["root"], *(chapter["file"] for part in TOC["parts"] for chapter in part["chapters"])]
FROM_DISK = ("book/intro", "book/09_comparison", "book/13_ask_the_planet")
ON_PAPER = ("book/07_fused", "book/09_comparison", "book/12_umap", "book/18_hypotheses")
COLOURS = (*ON_PAPER, "book/13_ask_the_planet", "book/api_encoders", "book/cards")  # one of each kind of page


@pytest.fixture(scope="session")
def address(built_book):
    with check_book.served(built_book) as base:
        yield base


@pytest.mark.parametrize("name", PAGES)
def test_page(browser, built_book, address, name):
    options = {"from_disk": name in FROM_DISK, "colours": name in COLOURS, "on_paper": name in ON_PAPER}
    report = check_book.check_page(browser, built_book, address, f"{name}.html", **options)
    assert {check: problems for check, problems in report.items() if problems} == {}


def test_the_book_has_its_chapters_and_opens_at_the_first(built_book, browser, address):
    assert check_book.pages_of(built_book) == sorted(f"{name}.html" for name in PAGES)
    for base in (address, built_book.as_uri()):
        page = browser.new_page()
        page.goto(f"{base}/index.html")
        page.wait_for_url(f"**/{TOC['root']}.html")
        assert page.locator("h1:visible").count() == 1
        page.close()


def test_the_book_shows_what_it_promises(built_book):
    html = {name: (built_book / f"{name}.html").read_text("utf-8") for name in PAGES}
    for view, what in (("gl", "map linked to an embedding"), ("gv", "UMAP beside PCA"), ("gp", "planet that answers")):
        assert any(f'class="{view}"' in text for text in html.values()), f"no {what}"
    for name in ("book/intro", "book/13_ask_the_planet"):
        assert '"simulated":[]' in html[name], f"{name} asks a model of simulated observations"
    chapters = [name for name in PAGES if name.removeprefix("book/")[0].isdigit()]
    for name in chapters:
        assert "geonb-figure" in html[name] or 'class="gl"' in html[name] or "<table" in html[name], name
        assert re.search(r"\b(simulated|real)\b", html[name], re.I), f"{name} does not say what its data are"


def sound_body() -> str:
    import matplotlib.pyplot as plt

    rng = np.random.default_rng(0)
    lonlat = np.stack([rng.uniform(-170, 170, 300), rng.uniform(-60, 70, 300)], 1)
    fig, ax = plt.subplots(figsize=(3, 2))
    ax.set_xlabel("distance (km)")
    slider = '<div class="cell_output"><label>n <input type="range" max="2" oninput="this.nextSibling.value=this.value"><output>1</output></label></div>'
    parts = [linked_view(lonlat, lonlat), offline_map(alt="A map"), themed(fig, "An empty plot")]
    sun = '<svg role="img" aria-labelledby="sun" width="20" height="20"><title id="sun">Light</title></svg>'  # as the theme has
    return f'<h1>Sound</h1><p id="here">Text. <a href="#here">Here</a></p>{sun}{slider}' + "".join(p._repr_html_() for p in parts)


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


@pytest.mark.mutation
def test_a_sound_page_passes(browser, sound, published):
    root = published(sound)
    with check_book.served(root) as base:
        report = check_book.check_page(browser, root, base, "book/page.html", True, True)
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
    "dead_sliders": lambda html: html.replace(" oninput=", " data-oninput="),
    "illegible_figures": lambda html: html.replace('fill="currentColor"', 'fill="#111111"'),
    "too_wide_for_a_phone": lambda html: html + '<div style="width:600px">wide</div>',
    "barriers": lambda html: html + '<p style="color:#999;background:#aaa">pale</p>',
    "troubles": lambda html: html + '<img alt="a" src="https://example.org/a.png">',
    "from_disk": lambda html: html + '<script>if (location.protocol === "file:") throw new Error("no server")</script>',
}


@pytest.mark.mutation
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


@pytest.mark.mutation
@pytest.mark.parametrize("fault", PRINT_FAULTS)
def test_what_spoils_a_printed_page_is_found(browser, published, fault):
    root = published("<h1>Sound</h1>" + PRINT_FAULTS[fault])
    with check_book.opened(browser, root.as_uri(), "book/page.html") as (page, _):
        assert any(said.startswith(fault) for said in check_book.unprintable(page))
