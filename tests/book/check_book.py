"""Open the pages of a built book in headless Chromium and say what is wrong with them.

    python tests/book/check_book.py _build/html [--pages book/02_data.html ...] [--shots FOLDER]

Each check is one function that returns a list of problems, empty when all is well. Requests that leave the
book are refused and reported. The exit status is 1 if anything was found.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import io
import re
import shutil
import sys
import threading
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from playwright.sync_api import Browser, Page, TimeoutError, sync_playwright
from pypdf import PdfReader

AXE = Path(__file__).parent / "assets" / "axe.min.js"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync",
             "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]  # fmt: skip
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
PAPER = {"width": 718, "height": 1047}  # A4 less margins, at 96 dots an inch
THEME_OWNS = {  # rule of axe -> parts of selectors that the theme writes, not the book
    "label-content-name-mismatch": ("search-button", "navbar", "sidebar", "header"),
    "aria-required-children": (".citation-list",),
}


# ---- the files themselves


def pages_of(root: Path) -> list[str]:
    """Pages that the book's authors wrote, as paths below ``root``."""
    return sorted(str(p.relative_to(root)) for p in root.glob("book/**/*.html"))


class Anchors(HTMLParser):
    """Collects where a page points (``links``) and where others may point to (``ids``)."""

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.ids.update(v for v in (values.get("id"), tag == "a" and values.get("name")) if v)
        self.links += [values[key] for key in ("href", "src") if values.get(key)]


@functools.cache
def anchors(path: Path) -> Anchors:
    return Anchors(path.read_text("utf-8"))


def broken_links(root: Path, name: str) -> list[str]:
    """Links within the book to files or anchors that are not there."""
    found, here = [], root / name
    for url in anchors(here).links:
        parts = urlsplit(url)
        if parts.scheme or parts.netloc:
            continue
        target = (here.parent / unquote(parts.path)).resolve() if parts.path else here
        if not target.is_file():
            found.append(f"no file {url}")
        elif parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in anchors(target).ids:
            found.append(f"no anchor {url}")
    return found


# ---- opening a page


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128  # Chromium opens many connections at once
    daemon_threads = True


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Say nothing."""


@contextmanager
def served(root: Path):
    """The folder over HTTP; yields the address."""
    server = Server(("127.0.0.1", 0), functools.partial(Handler, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@contextmanager
def chromium():
    """A headless browser."""
    if CHROMIUM is None:
        raise FileNotFoundError("no Chromium here: scripts/install_chromium.sh says how to get one")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, base: str, name: str):
    """The page, loaded and scrolled through once, and a list that collects what goes wrong while it is open."""
    context = browser.new_context(viewport=DESKTOP, reduced_motion="reduce")
    page, troubles = context.new_page(), []

    def ask(request):
        if not request.url.startswith((base, "data:", "blob:", "about:")):
            troubles.append(f"asks the outside: {request.url}")

    def complain(message):
        if message.type == "error":
            troubles.append(f"console: {message.text}")

    page.on("request", ask)
    page.on("console", complain)
    page.on("pageerror", lambda error: troubles.append(f"script error: {error}"))
    page.on("response", lambda r: troubles.append(f"status {r.status}: {r.url}") if r.status >= 400 else None)
    page.on("requestfailed", lambda r: troubles.append(f"not loaded: {r.url}") if r.url.startswith(base) else None)
    page.goto(f"{base}/{name}", wait_until="load")
    page.add_style_tag(content="*, *::before, *::after { transition: none !important }")  # themes change at once
    page.evaluate(SCROLL)
    page.wait_for_function(READY, timeout=20_000)
    yield page, troubles
    context.close()


SCROLL = """async () => { // frames that load lazily must come into view once
  for (let y = 0; y < document.body.scrollHeight; y += 700) {
    scrollTo(0, y);
    await new Promise(requestAnimationFrame);
  }
  scrollTo(0, 0);
}"""
READY = """async () => {
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  if (document.querySelector(":is(div.gp, div.gv):not([data-ready='1'])")) return false;
  const frames = [...document.querySelectorAll("iframe")].map((f) => f.contentDocument);
  return frames.every((d) => d && d.readyState === "complete" && d.body.childElementCount);
}"""


def set_theme(page: Page, theme: str) -> None:
    page.evaluate("(t) => { document.documentElement.dataset.theme = document.documentElement.dataset.mode = t }", theme)
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


# ---- checks of an open page


def failed_cells(page: Page) -> list[str]:
    """Tracebacks and warnings among the outputs."""
    texts = page.locator("main .output.traceback, main .output.stderr").all_inner_texts()
    return [text.strip()[:200] for text in texts]


def bad_outline(page: Page) -> list[str]:
    """Anything but one main heading, headings that skip a level, and a page that does not name its language."""
    levels = page.evaluate("""() => [...document.querySelectorAll("main :is(h1, h2, h3, h4, h5, h6)")]
      .filter((e) => e.checkVisibility()).map((e) => Number(e.tagName[1]))""")
    found = [f"{levels.count(1)} main headings"] if levels.count(1) != 1 else []
    found += [f"h{a} is followed by h{b}" for a, b in zip(levels, levels[1:], strict=False) if b > a + 1]
    if not page.evaluate("() => document.documentElement.lang"):
        found.append("no language")
    return found


def unnamed_pictures(page: Page) -> list[str]:
    """Images, canvases, drawings and frames that a screen reader could not announce."""
    return page.evaluate("""() => {
      const seen = (e) => { const r = e.getBoundingClientRect(); return r.width > 1 && r.height > 1; };
      const label = (e) => ["alt", "aria-label", "aria-labelledby", "title"].map((n) => e.getAttribute(n)).find((v) => v !== null);
      const own = (e) => !e.closest("[aria-hidden=true], mjx-container, .headerlink, .sd-icon, .btn, button, .admonition-title, a");
      return [...(document.querySelector("main") || document.body).querySelectorAll("img, canvas, iframe, svg")].filter((e) => {
        if (!seen(e) || !own(e)) return false;
        const name = label(e);
        const path = /\\.(png|jpe?g|svg|gif)$/i.test(name || ""); // myst-nb writes the file's path where no text was given
        return name === undefined || path || (e.tagName !== "IMG" && !name.trim());
      }).map((e) => e.outerHTML.slice(0, 120));
    }""")


def raw_maths(page: Page) -> list[str]:
    """Formulas that MathJax did not set."""
    return page.evaluate("""() => [...document.querySelectorAll("main .math, main mjx-merror")]
      .filter((e) => e.matches("mjx-merror") || !e.querySelector("mjx-container")).map((e) => e.textContent.slice(0, 80))""")


def raw_tables(page: Page) -> list[str]:
    """Tables of Markdown that stand there as they were written."""
    texts = page.locator("main p").all_inner_texts()
    return [text.strip()[:80] for text in texts if re.search(r"\|\s*:?-{3,}:?\s*\|", text)]


def blank_maps(page: Page) -> list[str]:
    """Web maps and views to explore with on which nothing is drawn."""
    return page.evaluate("""() => {
      const inked = (c) => c.width && c.getContext("2d").getImageData(0, 0, c.width, c.height).data.some((v, i) => i % 4 === 3 && v);
      const blank = [];
      for (const view of document.querySelectorAll(".gl")) {
        const drawn = [...view.querySelectorAll(".gl-base")];
        if (drawn.length !== 2 || !drawn.every(inked)) blank.push("linked view " + view.textContent.trim().slice(0, 60));
      }
      for (const [kind, pictures, least] of [["div.gp", ".gp-base", 1], ["div.gv", "canvas", 3]]) {
        for (const view of document.querySelectorAll(kind)) {
          const drawn = [...view.querySelectorAll(pictures)].filter((c) => c.checkVisibility());
          if (drawn.length < least || !drawn.every(inked)) blank.push(view.getAttribute("aria-label"));
        }
      }
      for (const frame of document.querySelectorAll("iframe")) {
        const map = frame.contentDocument && frame.contentDocument.querySelector(".folium-map");
        if (!map) continue;
        const drawn = [...map.querySelectorAll(".leaflet-map-pane canvas")].some(inked) || map.querySelector(".leaflet-map-pane path");
        if (!drawn) blank.push("map " + frame.title);
      }
      return blank;
    }""")


def dead_brushes(page: Page) -> list[str]:
    """Linked views in which a box drawn in one picture changes nothing in the other, or Escape does not undo it."""
    found, views = [], page.locator(".gl")
    for i in range(views.count()):
        view = views.nth(i)
        for here, there in ((0, 1), (1, 0)):
            plot, other = view.locator(".gl-top").nth(here), view.locator(".gl-base").nth(there)
            if view.locator(".gl-base").count() != 2:
                found.append(f"linked view {i} has no two pictures")
                break
            plot.scroll_into_view_if_needed()
            every, before = view.get_attribute("data-selected"), other.evaluate("(c) => c.toDataURL()")
            box = plot.bounding_box()
            at = lambda f, box=box: (box["x"] + f * box["width"], box["y"] + f * box["height"])  # noqa: E731
            page.mouse.move(*at(0.3))
            page.mouse.down()
            page.mouse.move(*at(0.6), steps=5)
            page.mouse.up()
            page.wait_for_timeout(150)
            chosen, after = view.get_attribute("data-selected"), other.evaluate("(c) => c.toDataURL()")
            if chosen == every or before == after:
                found.append(f"linked view {i}: brushing picture {here} does nothing ({chosen} of {every} selected)")
            page.keyboard.press("Escape")
            page.wait_for_timeout(80)
            if view.get_attribute("data-selected") != every:
                found.append(f"linked view {i}: Escape does not undo the brush of picture {here}")
    return found


def dead_sliders(page: Page) -> list[str]:
    """Sliders whose arrow keys change nothing but the slider."""
    found, sliders = [], page.locator("main input[type=range]")
    state = """(e) => [...(e.closest(".geonb-frames, .cell_output") || document.body).querySelectorAll("img, svg, p, output, .geonb-frame")]
      .filter((x) => x !== e && x.checkVisibility()).map((x) => x.outerHTML.length + x.textContent.slice(0, 200) + (x.src || "").slice(-200)).join()"""
    for i in range(sliders.count()):
        slider = sliders.nth(i)
        before = slider.evaluate(state)
        slider.focus()
        page.keyboard.press("ArrowRight")
        if slider.evaluate(state) == before:
            found.append(f"slider {i} ({slider.evaluate('(e) => e.labels[0] ? e.labels[0].innerText : e.ariaLabel')})")
    return found


def illegible_figures(page: Page) -> list[str]:
    """Words in drawings with less contrast to what lies below them than 3:1, in light or in dark."""
    found = []
    for theme in ("light", "dark"):
        set_theme(page, theme)
        found += [f"{theme}: {words}" for words in page.evaluate(CONTRAST)]
    set_theme(page, "light")
    return found


CONTRAST = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (color) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); return canvas.getImageData(0, 0, 1, 1).data; };
  const light = (c) => [0.2126, 0.7152, 0.0722].reduce((sum, w, i) => {
    const v = c[i] / 255;
    return sum + w * (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  }, 0);
  const paint = (e) => e instanceof SVGElement && e.tagName !== "svg" ? getComputedStyle(e).fill : getComputedStyle(e).backgroundColor;
  const covers = (e) => rgba(paint(e))[3] * getComputedStyle(e).fillOpacity * getComputedStyle(e).opacity > 200;
  const bad = [];
  for (const text of document.querySelectorAll(".geonb-figure svg text")) {
    if (!text.checkVisibility()) continue;
    text.scrollIntoView({ block: "center", behavior: "instant" });
    const r = text.getBoundingClientRect();
    const below = document.elementsFromPoint(r.left + r.width / 2, r.top + r.height / 2);
    const ground = below.find((e) => e !== text && !text.contains(e) && e.tagName !== "text" && (e.tagName === "image" || covers(e)));
    if (!ground || ground.tagName === "image") continue;
    const [a, b] = [light(rgba(getComputedStyle(text).fill)), light(rgba(paint(ground)))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 3) bad.push(`"${text.textContent.trim().slice(0, 40)}" ${ratio.toFixed(1)}:1`);
  }
  scrollTo(0, 0);
  return bad;
}"""


def too_wide_for_a_phone(page: Page) -> list[str]:
    """Sideways scrolling at 390 px, with the widest culprits."""
    page.set_viewport_size(PHONE)
    try:
        page.wait_for_function(f"() => !({TOO_WIDE})()", timeout=2000)  # views are drawn anew
        return []
    except TimeoutError:
        return [page.evaluate(TOO_WIDE)]
    finally:
        page.set_viewport_size(DESKTOP)


TOO_WIDE = """() => {
  const width = document.documentElement.clientWidth, excess = document.documentElement.scrollWidth - width;
  const wide = [...document.querySelectorAll("main *")].filter((e) => e.getBoundingClientRect().right > width + 1)
    .map((e) => e.tagName.toLowerCase() + "." + String(e.className.baseVal ?? e.className));
  return excess > 1 && excess + " px too wide: " + wide.slice(0, 3).join(", ");
}"""


def barriers(page: Page, colours: bool = True) -> list[str]:
    """Serious and critical violations that axe-core finds; ``colours``: contrast, too, in light and in dark."""
    page.evaluate(AXE.read_text())
    found = []
    for theme, rules in (("light", NO_COLOUR), ("light", COLOUR), ("dark", COLOUR))[: 3 if colours else 1]:
        set_theme(page, theme)
        for rule, target, html in page.evaluate(VIOLATIONS, rules):
            if not any(part in target + html for part in THEME_OWNS.get(rule, ())):
                found.append(f"{theme}: {rule} at {target}: {html}")
    set_theme(page, "light")
    return found


COLOUR = {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}
NO_COLOUR = {"rules": {rule: {"enabled": False} for rule in COLOUR["runOnly"]["values"]}}
VIOLATIONS = """async (rules) => {
  // what is in a picture with a name is for the eye, and illegible_figures looks at it: without, axe takes half as long
  const pictures = [...document.querySelectorAll("svg[role=img][aria-label]")].map((svg) => [svg, [...svg.childNodes]]);
  pictures.forEach(([svg]) => svg.replaceChildren());
  const seen = {}; // colours of code, of cells of tables and of what the API lists follow from classes: three of each are asked
  const often = rules.runOnly ? document.querySelectorAll(".highlight span, .geonb-table :is(td, th), dl.py") : [];
  const exclude = [...often].filter((e) => (seen[e.tagName + "." + e.className] = (seen[e.tagName + "." + e.className] || 0) + 1) > 3);
  const context = exclude.length ? { include: [document], exclude } : document;
  const { violations } = await axe.run(context, { ...rules, resultTypes: ["violations"], iframes: false, preload: false });
  pictures.forEach(([svg, nodes]) => svg.replaceChildren(...nodes));
  return violations.filter((v) => v.impact === "serious" || v.impact === "critical")
    .flatMap((v) => v.nodes.map((n) => [v.id, n.target.join(" "), n.html.slice(0, 120)]));
}"""


def unprintable(page: Page) -> list[str]:
    """What paper would lack or show too much of, printed from a dark page; and views that are blank on it."""
    set_theme(page, "dark")
    page.set_viewport_size(PAPER)
    page.emulate_media(media="print")
    page.evaluate("() => dispatchEvent(new Event('beforeprint'))")
    page.wait_for_timeout(300)
    found = page.evaluate("""() => {
      const all = (selector) => [...document.querySelectorAll(selector)], shown = (e) => e.checkVisibility();
      const name = (e) => e.tagName.toLowerCase() + "." + e.className;
      const ground = getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g).map(Number);
      return [
        ...(ground[3] !== 0 && Math.min(...ground.slice(0, 3)) < 200 ? ["dark paper"] : []),
        ...(all("h1").filter(shown).length === 1 ? [] : ["not one title"]),
        ...all(".bd-sidebar-primary, .bd-sidebar-secondary, .bd-header-article, .bd-footer").filter(shown).map((e) => "beside the text: " + name(e)),
        ...all("main details > :not(summary)").filter((e) => !shown(e) && !e.closest(".gl, .gp, .gv"))
          .map((e) => "folded: " + e.textContent.trim().slice(0, 60)),
        ...all("main pre, main table").filter((e) => shown(e) && e.getBoundingClientRect().right > innerWidth + 1)
          .map((e) => "cut off: " + e.textContent.trim().slice(0, 60)),
        ...all("main pre").filter((e) => shown(e) && e.scrollWidth > e.clientWidth + 1).map((e) => "cut off: " + e.textContent.trim().slice(0, 60)),
      ];
    }""")
    found += blank_maps(page)
    page.evaluate("() => dispatchEvent(new Event('afterprint'))")
    if page.evaluate("() => document.documentElement.dataset.theme") != "dark":
        found.append("what the reader chose is not there again after printing")
    page.emulate_media(media="null")
    page.set_viewport_size(DESKTOP)
    set_theme(page, "light")
    return found


def missing_on_paper(page: Page) -> list[str]:
    """The first lines of folded cells that are not on the A4 pages that it prints on."""
    sheets = PdfReader(io.BytesIO(page.pdf(format="A4"))).pages
    paper = "".join(re.sub(r"\s", "", sheet.extract_text()) for sheet in sheets)
    found = page.locator("main details.hide .cell_input pre").all_text_contents()
    first = [re.sub(r"\s", "", text.strip().splitlines()[0]) for text in found]
    return [f"not on paper: {line}" for line in first if line not in paper]


CHECKS = [
    failed_cells, bad_outline, unnamed_pictures, raw_maths, raw_tables, blank_maps, dead_brushes, dead_sliders,
    illegible_figures, too_wide_for_a_phone,
]  # fmt: skip


def check_page(
    browser: Browser, root: Path, base: str, name: str, from_disk: bool = True, colours: bool = True, on_paper: bool = False
) -> dict[str, list[str]]:
    """Run every check on one page, also from the disk, with colours in both themes, and on paper; return the problems."""
    report = {"broken_links": broken_links(root, name)}
    with opened(browser, base, name) as (page, troubles):
        for check in CHECKS:
            report[check.__name__] = check(page)
        report["barriers"] = barriers(page, colours)
        if on_paper:
            report["unprintable"] = unprintable(page) + missing_on_paper(page)
        report["troubles"] = troubles
    if from_disk:
        with opened(browser, root.as_uri(), name) as (page, troubles):
            report["from_disk"] = troubles + blank_maps(page) + raw_maths(page)
    return report


def screenshots(browser: Browser, base: str, name: str, out: Path) -> None:
    """The whole page in light and dark, and in light on a phone."""
    out.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"\W", "_", name.removesuffix(".html"))
    with opened(browser, base, name) as (page, _):
        for theme in ("light", "dark"):
            set_theme(page, theme)
            page.screenshot(path=out / f"{stem}_{theme}.png", full_page=True)
        set_theme(page, "light")
        page.set_viewport_size(PHONE)
        page.wait_for_timeout(400)
        page.screenshot(path=out / f"{stem}_phone.png", full_page=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("html", type=Path, help="folder of the built book")
    parser.add_argument("--pages", nargs="*", help="only these, as paths below the folder")
    parser.add_argument("--shots", type=Path, help="write screenshots of every page to this folder")
    options = parser.parse_args()
    root, bad = options.html.resolve(), False
    with chromium() as browser, served(root) as base:
        for name in options.pages or pages_of(root):
            report = check_page(browser, root, base, name)
            lines = [f"       {check}: {problem}" for check, problems in report.items() for problem in problems]
            print("\n".join([f"{'FAIL' if lines else 'ok  '} {name}", *lines]), flush=True)
            bad = bad or bool(lines)
            if options.shots:
                screenshots(browser, base, name, options.shots)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
