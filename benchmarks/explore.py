"""Pages to explore with: what they weigh, and how long a click waits for its picture.

    python benchmarks/explore.py --out benchmarks/results/explore.json

Each case runs alone in a fresh process, in headless Chromium with software rendering. "planet" is the view of
:func:`geonb.explore.planet_view` with two models of 256 dimensions, whose embeddings are waves of the sphere up to a
degree, mixed at random: made for the size of trained ones, without training.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measuring import in_fresh_process, write
from tqdm import tqdm

from geonb._util import provenance

CASES = [("planet", degrees, width, ratio) for degrees in (10, 20) for width, ratio in ((1280, 1), (1280, 2), (390, 3))]
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
CLICKS = 20


class Waves:
    """Unit vectors (n, 256): a random mixture of spherical harmonics below a degree, half as much for double degree."""

    modalities = ("location", "text")
    manifest = {"architecture": "waves"}

    def __init__(self, degrees: int, seed: int):
        from geonb.encoders.location import positional_encoding

        self.encoding = positional_encoding("spherical_harmonics", degrees=degrees, decay=1.0)
        self.mixture = np.random.default_rng(seed).normal(size=(self.encoding.dim, 256)).astype(np.float32)
        self.fingerprint = f"waves-{degrees}-{seed}"

    def embed_locations(self, lonlat):
        import torch

        z = self.encoding(torch.as_tensor(lonlat, dtype=torch.float32)).numpy() @ self.mixture
        return z / np.linalg.norm(z, axis=1, keepdims=True)

    def backbone(self, modality: str):
        return self

    def encode(self, texts):
        return np.random.default_rng(len(texts)).normal(size=(len(texts), 256)).astype(np.float32)

    def embed_features(self, modality: str, features):
        return features / np.linalg.norm(features, axis=1, keepdims=True)


def planet(degrees: int, width: int, ratio: int) -> dict:
    """Weight, fidelity, first draw, and milliseconds from an event to the frame that shows its picture."""
    from playwright.sync_api import sync_playwright

    from geonb.explore.planet import planet_view

    started = time.perf_counter()
    view = planet_view({"a": Waves(degrees, 0), "b": Waves(degrees, 1)}, show=["like", "ask"], progress=False)
    built = time.perf_counter() - started
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        path = view.save(Path(folder) / "page.html")
        browser = play.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        page = browser.new_context(viewport={"width": width, "height": 900}, device_scale_factor=ratio).new_page()
        started = time.perf_counter()
        page.goto(path.as_uri())
        page.wait_for_selector(".gp[data-ready='1']")
        first = time.perf_counter() - started
        click = page.evaluate(CLICK, CLICKS)
        page.get_by_role("tab", name="Ask the planet").click()
        words = page.evaluate(WORDS)
        browser.close()
    return {
        "build_s": built,
        "page_mb": len(view.to_html()) / 1e6,
        "model_mb": max(m["bytes"] for m in view.models) / 1e6,
        "dims": max(m["dims"] for m in view.models),
        "rank_correlation": min(m["rank_correlation"] for m in view.models),
        "max_error": max(m["max_error"] for m in view.models),
        "first_draw_s": first,
        "click_ms": statistics.median(click),
        "worst_click_ms": max(click),
        "words_ms": statistics.median(words),
    }


FRAME = """const frame = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => {
  document.querySelector(".gp-base").getContext("2d").getImageData(9, 9, 1, 1);
  done();
})));"""
CLICK = (  # both maps and their difference, from the event to the second frame
    "async (n) => {"
    + FRAME
    + """const top = document.querySelector(".gp-top"), took = [];
  for (let i = 0; i < n; i++) {
    const r = top.getBoundingClientRect(), start = performance.now();
    const clientX = r.x + r.width * (0.2 + 0.6 * i / n), clientY = r.y + r.height / 2;
    top.dispatchEvent(new MouseEvent("click", { clientX, clientY }));
    await frame();
    took.push(performance.now() - start);
    await new Promise((done) => setTimeout(done, 200)); // the lists beside the maps
  }
  return took;
}"""
)
WORDS = (
    "async () => {"
    + FRAME
    + """const took = [];
  for (const chip of document.querySelectorAll(".gp-chips button")) {
    const start = performance.now();
    chip.click();
    await frame();
    took.push(performance.now() - start);
    await new Promise((done) => setTimeout(done, 200)); // the lists beside the maps
  }
  return took;
}"""
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", help="write the figures to this JSON file")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--case", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        kind, *values = arguments.case
        print(json.dumps({"planet": planet}[kind](*map(int, values))))
        return
    results = []
    print(
        f"{'case':8}{'degree':>8}{'px':>6}{'ratio':>6}{'page MB':>9}{'model MB':>9}{'rank':>7}{'first s':>8}"
        f"{'click ms':>9}{'worst':>7}{'words':>7}"
    )
    for kind, degrees, width, ratio in tqdm(CASES, file=sys.stderr):
        own = in_fresh_process(__file__, "--case", kind, degrees, width, ratio, threads=arguments.threads)
        found = {"case": kind, "degrees": degrees, "width": width, "pixel_ratio": ratio} | own
        results.append(found)
        tqdm.write(
            f"{kind:8}{degrees:8d}{width:6d}{ratio:6d}{found['page_mb']:9.2f}{found['model_mb']:9.2f}"
            f"{found['rank_correlation']:7.4f}{found['first_draw_s']:8.2f}{found['click_ms']:9.0f}"
            f"{found['worst_click_ms']:7.0f}{found['words_ms']:7.0f}",
            file=sys.stdout,
        )
    print(json.dumps(provenance()))
    write(arguments.out, results)


if __name__ == "__main__":
    main()
