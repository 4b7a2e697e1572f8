"""UMAP beside PCA and the map: projections made beforehand, chosen by sliders in a static page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from numpy.typing import ArrayLike

from geonb._util import tqdm
from geonb.explore.linked import colour_column
from geonb.explore.projection import Scores, align, fit_projection, projection_scores, stability, subsample
from geonb.explore.views import PALETTE, View, land, pack
from geonb.geo import check_lonlat

K = 15  # nearest neighbours that the scores compare


class ProjectionView(View):
    """UMAP beside PCA and the map; made by :func:`projection_view`.

    Attributes:
        frames: for each setting of the sliders a dict: "n_neighbors", "min_dist", "seed", "scores"
            (:class:`geonb.explore.projection.Scores`) and the coordinates "xy" (n, 2).
        pca: the scores of the PCA.
        rows: which rows are shown.
    """

    name, css = "projection", "gv"
    title = "UMAP beside PCA"

    def __init__(self, data: dict, frames: list[dict], pca: Scores, rows: np.ndarray) -> None:
        super().__init__(data)
        self.frames, self.pca, self.rows = frames, pca, rows


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
    rows: int = 2000,
    epochs: int = 200,
    alt: str = "",
) -> ProjectionView:
    """Show UMAP beside PCA and the map: UMAP's parameters on sliders, the scores of each setting on the plot.

    All settings are computed now, so the page needs no kernel. Each UMAP is turned and mirrored to
    lie on the first, because the direction of its axes is arbitrary. A lens over one picture shows
    the same places in the other two.

    Args:
        embeddings: (n, d).
        lonlat: positions (n, 2), degrees.
        color: name -> n numbers or n labels; the ten most frequent labels get a colour.
        hover: n strings, the names of places under the lens.
        units: name of a column -> its units.
        neighbors, min_dist, seeds: of UMAP; every combination is a frame. At first the values nearest
            to UMAP's defaults (15 and 0.1) and the first seed are shown.
        rows: at most this many are drawn at random.
        epochs: of each UMAP. More are slower and more settled.
        alt: what is shown, for those who do not see it.

    Raises:
        ValueError: shapes that do not match.
    """
    z, lonlat = np.asarray(embeddings, np.float32), check_lonlat(lonlat)
    n, units = len(lonlat), units or {}
    for name, values in {"embeddings": z, "hover": hover, **(color or {})}.items():
        if values is not None and len(values) != n:
            raise ValueError(f"{name!r} has {len(values)} rows for {n} positions")
    chosen = subsample(n, rows)
    z, lonlat = z[chosen], lonlat[chosen]
    sliders = [("n_neighbors", neighbors, 15), ("min_dist", min_dist, 0.1), ("seed", seeds, seeds[0])]
    flat = fit_projection(z, "pca")
    frames: list[dict] = []
    planes: dict[tuple, list[np.ndarray]] = defaultdict(list)
    for count, spread, seed in tqdm(list(product(neighbors, min_dist, seeds)), desc="projecting"):
        xy = fit_projection(z, "umap", seed, count, spread, epochs=epochs).xy
        xy = align(xy, frames[0]["xy"] if frames else flat.xy)
        planes[count, spread].append(xy)
        scores = projection_scores(z, xy, K)
        frames.append({"n_neighbors": count, "min_dist": spread, "seed": seed, "xy": xy, "scores": scores})
    stable = {setting: "" for setting in planes}
    for setting in planes if len(seeds) > 1 else ():
        found = stability(planes[setting], K)
        stay = f"{found.overlap:.0%} of neighbours stay, Procrustes {found.disparity:.2f}"
        stable[setting] = f"{len(seeds)} seeds: {stay}"
    pca = projection_scores(z, flat.xy, K)
    shown = f"{len(z):,} places" if len(z) == n else f"{len(z):,} of {n:,} places, drawn at random"
    data = {
        "n": len(z),
        "titles": ["UMAP", "PCA", "Map (Equal Earth)"],
        "alt": alt or shown,
        "note": f"{shown}. UMAP by the cosine, {epochs} epochs, started from the principal components; axes, the sizes "
        f"of groups and the gaps between them mean nothing. Scores: neighbours kept are the {K} nearest in the space "
        f"that are among the {K} nearest in the picture.",
        "hint": "Move over a picture, tap it, or use the arrow keys: the same places are shown in all three.",
        "sliders": [
            {"name": name, "values": [f"{v:g}" for v in values], "at": int(np.abs(np.subtract(values, usual)).argmin())}
            for name, values, usual in sliders
        ],
        "frames": [
            {"xy": _plane(f["xy"]), "scores": _in_words(f["scores"]), "stable": stable[f["n_neighbors"], f["min_dist"]]}
            for f in frames
        ],
        "pca": {"xy": _plane(flat.xy), "scores": _in_words(pca)},
        "lonlat": pack(np.rint((lonlat + [180, 90]) / [360, 180] * 65535), "<u2"),
        "land": land(),
        "color": PALETTE[0],
        "columns": [colour_column(str(k), v, n, units.get(k), chosen) for k, v in (color or {}).items()],
        "hover": None if hover is None else [str(hover[i] or "") for i in chosen],
    }
    return ProjectionView(data, frames, pca, chosen)


def _in_words(scores: Scores) -> str:
    return (
        f"trustworthiness {scores.trustworthiness:.3f}\nneighbours kept {scores.kept:.0%}\n"
        f"distances (rank corr.) {scores.distances:.2f}"
    )


def _plane(xy: np.ndarray) -> str:
    """Encode coordinates as 16-bit pairs, centred, with one scale on both axes; y points down."""
    xy = np.asarray(xy, np.float64) * [1, -1]
    low, high = xy.min(0), xy.max(0)
    share = (xy - (low + high) / 2) / max((high - low).max(), 1e-12) + 0.5
    return pack(np.rint(share * 65535), "<u2")
