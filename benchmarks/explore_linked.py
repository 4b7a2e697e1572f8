"""Weight, first draw and slowest frame of the linked view in headless Chromium with software rendering, against Plotly.

    python benchmarks/explore_linked.py [--out FILE.json] [--quick] [--rounds N]

Each page is opened from the disk without a network. First draw: from the start of loading to the end of the first frame
with the places. Frames: while a box, then a lasso is drawn over the embedding in 24 movements, and while the map is
zoomed in eight steps. Seconds of the page's main thread are counted too: they say what a movement costs when other
programs run on the machine, as frames do not. A round is a fresh page; figures are medians of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from measuring import in_fresh_process, write

from geonb.explore.linked import MOST_IMAGES, linked_view
from geonb.explore.views import PALETTE, write_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]  # fmt: skip
CASES = {
    "ours": "geonb",
    "ours_texts": "geonb, with names, texts and images",
    "plotly": "Plotly, WebGL, boxes linked by script",
}
SHOWN = ("first_draw_ms", "box_worst_ms", "lasso_worst_ms", "zoom_worst_ms", "box_cpu_ms")
MOVES = 24
FIRST = """new MutationObserver((_, observer) => {
  if (!document.querySelector('.gl[data-ready], .js-plotly-plot[data-ready]')) return;
  observer.disconnect();
  requestAnimationFrame(() => setTimeout(() => { window.drawn = performance.now(); }, 0));
}).observe(document, { subtree: true, attributes: true, childList: true });"""
FRAMES = "window.frames_ = []; (function next(t) { frames_.push(t); requestAnimationFrame(next); })(performance.now());"
LINK = """<script>
const plot = document.querySelector('.js-plotly-plot'), link = (e) => {
  const points = e ? e.points.filter((p) => p.curveNumber === 0).map((p) => p.pointIndex) : null;
  plot.dataset.selected = points ? points.length : '';
  Plotly.restyle(plot, { selectedpoints: [points] }, [1]);
};
plot.on('plotly_selecting', link); plot.on('plotly_selected', link);
requestAnimationFrame(() => { plot.dataset.ready = 1; });
</script>"""


def places(n: int):
    """Positions uniform over the sphere, thirty clusters in the plane, a class, a number of three decimals."""
    rng = np.random.default_rng(0)
    lonlat = np.stack([rng.uniform(-180, 180, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))], 1)
    cluster = rng.integers(0, 30, n)
    xy = rng.normal(size=(30, 2))[cluster] * 4 + rng.normal(size=(n, 2))
    return lonlat, xy, cluster, np.round(rng.normal(size=n), 3)


def ours(n: int, path: Path, texts: bool) -> dict:
    lonlat, xy, cluster, number = places(n)
    more = {}
    if texts:
        rng = np.random.default_rng(1)
        words = np.array(["".join(rng.choice(list("abcdefghiklmnoprstuvw"), rng.integers(2, 9))) for _ in range(5000)])
        text = [" ".join(words[(rng.pareto(1.1, 60) * 20).astype(int) % 5000]) for _ in range(n)]
        url = [f"https://en.wikipedia.org/?curid={i}" for i in range(n)]
        about = {"text": text, "url": url, "license": ["CC BY-SA 4.0"] * n}
        images = rng.integers(0, 256, (MOST_IMAGES, 8, 8, 3), np.uint8).repeat(8, 1).repeat(8, 2)
        more = {"hover": [" ".join(t.split()[:2]) for t in text], "about": about, "images": images,
                "image_rows": np.linspace(0, n - 1, MOST_IMAGES).astype(int)}  # fmt: skip
    view = linked_view(lonlat, xy, {"class": [f"class {c}" for c in cluster], "number": number}, **more)
    view.save(path)
    return {f"{name}_bytes": size for name, size in view.weights.items() if name != "page"}


def plotly(n: int, path: Path) -> dict:
    from plotly.subplots import make_subplots

    lonlat, xy, cluster, _ = places(n)
    figure = make_subplots(1, 2, subplot_titles=("Embedding", "Map"))
    for column, points in ((1, xy), (2, lonlat)):
        x, y = points.astype(np.float32).T
        marker = {"color": cluster % 10, "colorscale": PALETTE, "size": 3}
        figure.add_scattergl(x=x, y=y, mode="markers", marker=marker, row=1, col=column)
    figure.update_layout(dragmode="select", showlegend=False, width=1180, height=460)
    write_page(path, "Plotly", figure.to_html(full_html=False, include_plotlyjs=True) + LINK)
    return {}


def case(name: str, n: int, rounds: int) -> dict:
    """Medians of the rounds, in this process."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        path = Path(folder) / "page.html"
        row = plotly(n, path) if name == "plotly" else ours(n, path, texts=name == "ours_texts")
        browser = play.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        results = [one_round(browser, path, name) for _ in range(rounds)]
        version = browser.version
        browser.close()
        row["page_bytes"] = path.stat().st_size
    for key in results[0]:
        values = [r[key] for r in results]
        row[key] = statistics.median(values)
        if key.endswith("worst_ms") or key == "first_draw_ms":
            row[key.replace("_ms", "_min_ms")], row[key.replace("_ms", "_max_ms")] = min(values), max(values)
    return row | {"rounds": rounds, "browser": version, "load": os.getloadavg()[0]}


def one_round(browser, path: Path, name: str) -> dict:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(120_000)
    page.add_init_script(FIRST)
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(path.as_uri())
    page.wait_for_function("window.drawn")
    result = {"first_draw_ms": page.evaluate("window.drawn"), "first_draw_cpu_ms": 1000 * busy(session)}
    page.wait_for_timeout(300)
    page.evaluate(FRAMES)
    target = page.locator(".nsewdrag").first if name == "plotly" else page.locator(".gl-top").first
    box = target.bounding_box()

    def draw(tool, path_):
        if name != "plotly":
            page.get_by_label(tool, exact=True).check()
        points = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in path_]
        page.mouse.move(*points[0])
        page.mouse.down()
        result.update(measured(page, session, tool.lower(), lambda: [page.mouse.move(*p) for p in points[1:]]))
        page.mouse.up()

    t = np.linspace(0, 1, MOVES + 1)
    draw("Box", [(0.2 + 0.5 * f, 0.2 + 0.5 * f) for f in t])
    result["selected"] = int(page.locator(".gl, .js-plotly-plot").first.get_attribute("data-selected"))
    if name != "plotly":
        draw("Lasso", [(0.5 + 0.3 * np.sin(6 * f), 0.5 - 0.35 * np.cos(6 * f)) for f in t])
        zoom = page.get_by_role("button", name="Zoom in: Map")
        result.update(measured(page, session, "zoom", lambda: [zoom.click() for _ in range(8)]))
    result["heap_mb"] = page.evaluate("performance.memory.usedJSHeapSize") / 1e6
    page.context.close()
    return result


def busy(session) -> float:
    """Seconds that the page's main thread has worked."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return next(m["value"] for m in metrics if m["name"] == "TaskDuration")


def measured(page, session, name: str, act) -> dict:
    page.evaluate("frames_.length = 0")
    before = busy(session)
    done = act()
    page.evaluate("() => new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)))")
    cost, gaps = busy(session) - before, np.diff(page.evaluate("frames_"))
    return {
        f"{name}_worst_ms": float(gaps.max()),
        f"{name}_median_ms": float(np.median(gaps)),
        f"{name}_cpu_ms": 1000 * cost / len(done),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", metavar="FILE.json")
    parser.add_argument("--quick", action="store_true", help="5,000 places only")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--n", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(case(options.case, options.n, options.rounds)))
        return

    results = []
    print(f"{'':40}{'places':>9}{'MB':>7}" + "".join(f"{key.replace('_', ' '):>16}" for key in SHOWN))
    for n in (5_000,) if options.quick else (5_000, 50_000, 250_000):
        for name, label in CASES.items():
            if name == "plotly" and n > 50_000:
                continue  # minutes
            row = in_fresh_process(__file__, "--case", name, "--n", n, "--rounds", options.rounds)
            results.append({"case": name, "places": n} | row)
            figures = "".join(f"{row[key]:16.1f}" if key in row else " " * 16 for key in SHOWN)
            print(f"{label:40}{n:9,}{row['page_bytes'] / 1e6:7.2f}{figures}", flush=True)
    write(options.out, results)


if __name__ == "__main__":
    sys.exit(main())
