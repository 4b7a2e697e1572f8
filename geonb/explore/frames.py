"""UMAP beside PCA and the map: projections made beforehand, chosen by sliders in a static page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from numpy.typing import ArrayLike

from geonb._util import as_text, tqdm
from geonb.explore.linked import colour_column
from geonb.explore.projection import Scores, align, project, projection_scores, stability, subsample
from geonb.explore.views import PALETTE, View, land, listed, pack
from geonb.geo import check_lonlat


class ProjectionView(View):
    """UMAP beside PCA and the map; made by :func:`projection_view`.

    Attributes:
        frames: for each setting of the sliders a dict of its values, "scores" and "xy" (n, 2).
        pca: the scores of the PCA.
        rows: which rows are shown.
    """

    def __init__(self, data: dict, frames: list[dict], pca: Scores, rows: np.ndarray) -> None:
        super().__init__(data, "projection", "gv", "UMAP beside PCA")
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
    lie on the PCA, because the direction of its axes is arbitrary.

    Args:
        embeddings, lonlat: (n, d), and positions (n, 2) in degrees; other lengths are a ValueError.
        color: name -> n numbers or n labels; the ten most frequent labels get a colour.
        hover: the n names of places under the lens; missing ones are left out.
        units: name of a column -> its units.
        neighbors, min_dist, seeds, epochs: of UMAP (:func:`~geonb.explore.projection.fit_projection`);
            every combination is a frame. The values nearest to 15 and 0.1 are shown first.
        rows: at most this many are drawn at random.
        alt: what is shown, for those who do not see it.
    """
    z, lonlat = np.asarray(embeddings, np.float32), check_lonlat(lonlat)
    n, units = len(lonlat), units or {}
    if len(z) != n or (hover is not None and len(hover) != n):
        raise ValueError(f"{len(z)} embeddings, {n} positions and the names do not match")
    chosen = subsample(n, rows)
    names = None if hover is None else [as_text(name) for name in listed(hover)]
    z, lonlat = z[chosen], lonlat[chosen]
    flat = project(z, "pca")
    pca, frames = projection_scores(z, flat), list[dict]()
    for count, spread in tqdm(list(product(neighbors, min_dist)), desc="projecting"):
        options = {"neighbors": count, "min_dist": spread, "epochs": epochs}
        planes = [align(project(z, seed=seed, **options), flat) for seed in seeds]
        stable = f"{len(seeds)} seeds: {stability(planes)}" if len(seeds) > 1 else ""
        for seed, xy in zip(seeds, planes, strict=True):
            frame = {"n_neighbors": count, "min_dist": spread, "seed": seed, "xy": xy, "stable": stable}
            frames.append(frame | {"scores": projection_scores(z, xy)})
    shown = f"{len(z):,} places" if len(z) == n else f"{len(z):,} of {n:,} places, drawn at random"
    data = {
        "n": len(z),
        "alt": alt or shown,
        "note": f"{shown}. UMAP by the cosine, {epochs} epochs, started from the principal components; "
        "axes, the sizes of groups and the gaps between them mean nothing.",
        "sliders": [
            {"name": name, "values": [f"{v:g}" for v in values], "at": int(np.abs(np.subtract(values, usual)).argmin())}
            for name, values, usual in [("n_neighbors", neighbors, 15), ("min_dist", min_dist, 0.1), ("seed", seeds, 0)]
        ],
        "frames": [{"xy": _plane(f["xy"]), "scores": str(f["scores"]), "stable": f["stable"]} for f in frames],
        "pca": {"xy": _plane(flat), "scores": str(pca)},
        "lonlat": pack(np.rint((lonlat + [180, 90]) / [360, 180] * 65535), "<u2"),
        "land": land(),
        "color": PALETTE[0],
        "columns": [colour_column(str(k), v, n, units.get(k), chosen) for k, v in (color or {}).items()],
        "hover": None if names is None else [names[i] for i in chosen],
    }
    return ProjectionView(data, frames, pca, chosen)


def _plane(xy: np.ndarray) -> str:
    """Encode coordinates as 16-bit pairs, centred, with one scale on both axes; y points down."""
    xy = np.asarray(xy, np.float64) * [1, -1]
    low, high = xy.min(0), xy.max(0)
    share = (xy - (low + high) / 2) / max((high - low).max(), 1e-12) + 0.5
    return pack(np.rint(share * 65535), "<u2")
