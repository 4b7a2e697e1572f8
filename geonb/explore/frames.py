"""Sliders over pictures or projections made beforehand; they work in a static page."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from geonb._util import is_unknown
from geonb.explore.projection import Scores, Stability
from geonb.explore.views import PALETTE, View, pack, safe_json
from geonb.geo import check_lonlat

MISSING = "#9aa0a6"

SCRIPT = """
document.querySelectorAll(".geonb-frames:not([data-frame])").forEach((root) => {
  const input = root.querySelector("input"), output = root.querySelector("output");
  const frames = root.querySelectorAll(".geonb-frame"), labels = JSON.parse(root.querySelector("script").textContent);
  function show() {
    frames.forEach((frame, k) => { frame.hidden = k !== Number(input.value); });
    output.textContent = labels[input.value];
    input.setAttribute("aria-valuetext", labels[input.value]);
    root.dataset.frame = input.value;
  }
  input.oninput = show;
  show();
});
"""
STYLE = (
    ".geonb-frames{margin:1rem 0}"
    ".geonb-frames-bar,.geonb-frames label{display:flex;flex-wrap:wrap;gap:4px 14px;align-items:center}"
    ".geonb-frames-bar{margin-bottom:8px}.geonb-frames output{font-weight:600}"
    ".geonb-frames input{width:min(320px,60vw);height:28px;margin:0;accent-color:#2f81c7;cursor:pointer}"
    ".geonb-frame[hidden]{display:none}.geonb-frame img,.geonb-frame svg{max-width:100%;height:auto}"
    "@media print{.geonb-frame[hidden]{display:block}}"
)


class FrameSlider:
    """The slider as HTML; shows itself in notebooks and in the book. Made by :func:`frame_slider`."""

    def __init__(self, html: str) -> None:
        self.html = html

    def _repr_html_(self) -> str:
        return self.html


def frame_slider(frames: Sequence, labels: Sequence, alts: Sequence[str], name: str = "Frame") -> FrameSlider:
    """Show one of several pictures by a slider: pointer, touch and arrow keys, no kernel and no network.

    Args:
        frames: each an object with ``_repr_html_`` (a figure of :mod:`geonb.explore.figures`), a string of trusted
            HTML, PNG bytes, or an array uint8 (H, W, 3).
        labels: shown beside the slider, one for each frame.
        alts: what each frame shows, for those who do not see it.
        name: of the slider.

    Raises:
        ValueError: no frames, or not as many labels and alts as frames.
    """
    frames, labels, alts = list(frames), [str(t) for t in labels], [str(t) for t in alts]
    if not frames or not len(frames) == len(labels) == len(alts):
        raise ValueError(
            f"{len(frames)} frames, {len(labels)} labels and {len(alts)} alts do not match; at least 1 of each"
        )
    shown = "".join(
        f'<div class="geonb-frame" role="group" aria-label="{escape(alt)}"{" hidden" if k else ""}>'
        f"{_picture(frame, alt)}</div>"
        for k, (frame, alt) in enumerate(zip(frames, alts, strict=True))
    )
    return FrameSlider(
        f'<style>{STYLE}</style><div class="geonb-frames"><div class="geonb-frames-bar">'
        f"<label><span>{escape(name)}</span>"
        f'<input type="range" min="0" max="{len(frames) - 1}" value="0" step="1" autocomplete="off"></label>'
        f'<output aria-live="polite">{escape(labels[0])}</output></div>'
        f'<script type="application/json">{safe_json(labels)}</script>{shown}</div><script>{SCRIPT}</script>'
    )


def _picture(frame: Any, alt: str) -> str:
    if hasattr(frame, "_repr_html_"):
        return frame._repr_html_()
    if isinstance(frame, str):
        return frame
    if not isinstance(frame, bytes):
        import io

        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "PNG")
        frame = buffer.getvalue()
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(frame).decode()}">'


class ProjectionView(View):
    """UMAP beside PCA and the map; made by :func:`projection_view`.

    Attributes:
        frames: for each setting of the sliders a dict: "n_neighbors", "min_dist", "seed" and ``scores``
            (:class:`geonb.explore.projection.Scores`).
        pca: the scores of the PCA.
        stability: (n_neighbors, min_dist) -> :class:`geonb.explore.projection.Stability` over the seeds; empty for one.
        rows: which rows are shown.
        data: what the page gets, as JSON.
    """

    name, css = "projection", "gv"
    label = title = "UMAP beside PCA"

    def __init__(self, data: dict, frames: list[dict], pca: Scores, stability: dict, rows: np.ndarray) -> None:
        super().__init__(data)
        self.frames, self.pca, self.stability, self.rows = frames, pca, stability, rows


def projection_view(
    embeddings: ArrayLike,
    lonlat: ArrayLike,
    color: Mapping | None = None,
    *,
    hover: Sequence | None = None,
    units: Mapping | None = None,
    neighbors: Sequence[int] = (5, 15, 50),
    min_dist: Sequence[float] = (0.0, 0.1, 0.5),
    seeds: Sequence[int] = (0, 1, 2),
    init: str = "pca",
    k: int = 15,
    rows: int = 2000,
    epochs: int = 200,
    alt: str = "",
    note: str = "",
    progress: bool = True,
) -> ProjectionView:
    """UMAP beside PCA and the map: UMAP's parameters on sliders, the scores of each setting on the plot.

    All settings are computed now and travel as 4 bytes a point, so the page needs no kernel. Each UMAP is turned, and
    mirrored if need be, to lie on the first, so that what moves is not the arbitrary direction of its axes. A lens over
    one picture shows the same places in the other two.

    Args:
        embeddings: (n, d). lonlat: positions (n, 2), degrees.
        color: name -> n numbers or n labels; the nine most frequent labels get a colour.
        hover: n strings, the names of places under the lens. units: name -> its units.
        neighbors, min_dist, seeds: of UMAP; every combination is a frame. At first the values nearest to UMAP's
            defaults (15 and .1) and the first seed are shown.
        init: see :func:`geonb.explore.projection.fit_projection`; "random" shows how much the start decides.
        k: of the scores. rows: of more, so many are drawn at random. epochs: of each UMAP.
        alt: what is shown, for those who do not see it. note: below the pictures, added to what is said anyway.

    Raises:
        ValueError: shapes that do not match, or no values for a slider.
    """
    from itertools import product

    from geonb._util import tqdm
    from geonb.explore.figures import equal_earth_xy, land_rings
    from geonb.explore.projection import align, fit_projection, nearest_by_cosine, projection_scores, stability

    z, lonlat = np.asarray(embeddings, np.float32), check_lonlat(lonlat)
    n = len(lonlat)
    lists = {"embeddings": z, **({} if hover is None else {"hover": hover}), **(color or {})}
    for name, values in lists.items():
        if len(values) != n:
            raise ValueError(f"{name!r} has {len(values)} rows for {n} positions")
    neighbors, min_dist, seeds = list(neighbors), list(min_dist), list(seeds)
    if not (neighbors and min_dist and seeds):
        raise ValueError("each slider needs at least one value: neighbors, min_dist and seeds")
    chosen = np.arange(n) if n <= rows else np.sort(np.random.default_rng(0).choice(n, rows, replace=False))
    z = z[chosen]
    near = nearest_by_cosine(z, min(max(neighbors), len(z) - 1))
    flat = fit_projection(z, "pca")
    lie_on = flat.xy
    frames: list[dict] = []
    planes: dict[tuple[int, float], list[np.ndarray]] = {}
    settings = list(product(neighbors, min_dist, seeds))
    for count, spread, seed in tqdm(settings, desc="projecting", disable=not progress):
        xy = fit_projection(z, "umap", seed, count, spread, init, epochs, near).xy
        planes.setdefault((count, spread), []).append(xy)
        xy = align(xy, lie_on)
        lie_on = lie_on if frames else xy
        scores = projection_scores(z, xy, k, rows=len(z))
        frames.append({"n_neighbors": count, "min_dist": spread, "seed": seed, "scores": scores, "xy": xy})
    stable = {at: stability(own, seeds, k) for at, own in planes.items()} if len(seeds) > 1 else {}
    pca = flat.scores(k, rows=len(z))
    land = np.concatenate(
        [np.append(np.rint(equal_earth_xy(ring) * 32000), [[32767, 0]], 0).ravel()[:-1] for ring in land_rings()]
    )
    shown = f"{len(z):,} places" if len(z) == n else f"{len(z):,} of {n:,} places, drawn at random"
    start = "the principal components" if init == "pca" else "random coordinates"
    data = {
        "n": len(z),
        "titles": ["UMAP", "PCA", "Map (Equal Earth)"],
        "alt": alt or shown,
        "note": f"{shown}. UMAP by the cosine, {epochs} epochs, started from {start}; axes, the sizes of groups and "
        f"the gaps between them mean nothing. Scores: neighbours kept are the {k} nearest in the space that are among "
        f"the {k} nearest in the picture. {note}".strip(),
        "hint": "Move over a picture, tap it, or use the arrow keys: the same places are shown in all three.",
        "sliders": [
            {"name": name, "values": [f"{v:g}" for v in values], "at": int(np.abs(np.subtract(values, usual)).argmin())}
            for name, values, usual in (
                ("n_neighbors", neighbors, 15),
                ("min_dist", min_dist, 0.1),
                ("seed", seeds, seeds[0]),
            )
        ],
        "frames": [
            {
                "xy": _plane(f["xy"]),
                "scores": _scores_text(f["scores"]),
                "stable": _stable_text(stable.get((f["n_neighbors"], f["min_dist"]))),
            }
            for f in frames
        ],
        "pca": {"xy": _plane(flat.xy), "scores": _scores_text(pca)},
        "map": _plane(equal_earth_xy(lonlat[chosen]), centre=False),
        "land": pack(land, "<i2"),
        "color": PALETTE[0],
        "columns": [_colour_column(name, v, chosen, (units or {}).get(name)) for name, v in (color or {}).items()],
        "hover": None if hover is None else ["" if hover[i] is None else str(hover[i]) for i in chosen.tolist()],
    }
    for f in frames:
        del f["xy"]
    return ProjectionView(data, frames, pca, stable, chosen)


def _scores_text(scores: Scores) -> str:
    return (
        f"trustworthiness {scores.trustworthiness:.3f}\nneighbours kept {scores.kept:.0%}\n"
        f"distances (rank corr.) {scores.distances:.2f}"
    )


def _stable_text(found: Stability | None) -> str:
    if found is None:
        return ""
    return f"{len(found.seeds)} seeds: {found.overlap:.0%} of neighbours stay, Procrustes {found.disparity:.2f}"


def _plane(xy: np.ndarray, centre: bool = True) -> str:
    """Coordinates as uint16 pairs; a plane of its own is centred and filled, one of the map is in [-1, 1] already."""
    xy = np.asarray(xy, np.float64)
    if centre:
        low, high = xy.min(0), xy.max(0)
        xy = (xy - (low + high) / 2) / max((high - low).max() / 2, 1e-12)
    return pack(np.rint((np.clip(xy, -1, 1) + 1) * 32767.5), "<u2")


def _colour_column(name: str, values: np.ndarray, rows: np.ndarray, units: str | None) -> dict:
    """A byte a place: a step of viridis, or one of nine labels, others, or unknown; the last colour is for no value.

    The nine are the most frequent of all values, so that a view of some rows has the colours of a view of all.
    """
    values = values if isinstance(values, np.ndarray) else np.array(list(values), object)
    kinds = {type(v) for v in values.tolist() if v is not None}
    if kinds and kinds <= {int, float}:
        from matplotlib import colormaps
        from matplotlib.colors import to_hex

        numbers = np.array([np.nan if v is None else v for v in values[rows].tolist()], np.float64)
        known = np.isfinite(numbers)
        low, high = np.percentile(numbers[known], [1, 99]) if known.any() else (0.0, 1.0)
        step = np.clip((np.where(known, numbers, low) - low) / max(high - low, 1e-12), 0, 1) * 254
        code = np.where(known, np.rint(step), 255)
        colours = [to_hex(c) for c in colormaps["viridis"](np.linspace(0, 1, 255))] + [MISSING]
        tail = "" if units in (None, "1") else f" {units}"
        ends = {"low": f"{low:,.4g}{tail}", "high": f"{high:,.4g}{tail}"}
        return {"name": str(name), "ramp": True, "colors": colours, "data": pack(code, "u1"), **ends}
    labels = np.array(["unknown" if is_unknown(v) else str(v) for v in values.tolist()], object)
    names, code, counts = np.unique(labels, return_inverse=True, return_counts=True)
    top = [i for i in np.argsort(-counts, kind="stable") if names[i] != "unknown"]
    shown, rank = top[: len(PALETTE) - 1], np.full(len(names), len(PALETTE))
    rank[shown] = np.arange(len(shown))
    rest = "other or unknown" if len(top) > len(shown) else "unknown"
    listed = [names[i] for i in shown]
    code = np.minimum(rank[code[rows]], len(shown))
    if (code == len(shown)).any():
        listed.append(rest)
    return {"name": str(name), "ramp": False, "labels": listed, "data": pack(code, "u1"),
            "colors": [*PALETTE[: len(shown)], MISSING]}  # fmt: skip
