"""Cross-modal retrieval: given one modality of a place, find another."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from geonb.geo import EARTH_RADIUS_KM, great_circle_km, unit_xyz

TIE = 1e-6  # cosines of float32 vectors that differ by less are equal up to rounding
RANKS = (1, 5, 10)
RADII_KM = (1, 25, 200, 750, 2500)  # street to continent (Hays and Efros, 2008)


def retrieval(queries: ArrayLike, gallery: ArrayLike, lonlat: ArrayLike, chunk: int = 2048) -> dict:
    """Measure how well query i finds gallery item i among all n items, by cosine similarity.

    Args:
        queries, gallery: unit vectors (n, d); row i of both belongs to place i.
        lonlat: positions (n, 2) of the places, degrees. ``chunk``: bounds the memory.

    Returns:
        ``n``; ``recall@k`` and ``chance@k`` for k = 1, 5, 10; ``median_km`` to the best match
        and ``chance_median_km`` to a random one; ``within_R_km`` for :data:`RADII_KM`; by query
        ``hits@k`` (n,) and ``error_km`` (n,). Ties count as if drawn in random order.

    Raises:
        ValueError: shapes that do not match, or a row that is not a unit vector.

    Example:
        >>> lonlat = [(2.35, 48.86), (13.40, 52.52), (37.62, 55.76), (139.69, 35.69)]
        >>> found = retrieval(np.eye(4), np.eye(4)[[1, 0, 2, 3]], lonlat)  # two are confused
        >>> found["recall@1"], found["chance@1"], found["within_750_km"]
        (0.5, 0.25, 0.5)
    """
    queries, gallery = np.asarray(queries, np.float32), np.asarray(gallery, np.float32)
    lonlat, n = np.asarray(lonlat, np.float64), len(queries)
    if queries.shape != gallery.shape or len(lonlat) != n:
        raise ValueError(f"{queries.shape}, {gallery.shape} and {lonlat.shape} do not match")
    for role, vectors in (("query", queries), ("gallery", gallery)):
        off = ~(np.abs(np.linalg.norm(vectors, axis=1) - 1) < 1e-3)  # NaN is off too
        if off.any():
            raise ValueError(f"{role} row {int(off.argmax())} is not a unit vector")
    better, ties, best = (np.empty(n, np.int64) for _ in range(3))
    rng = np.random.default_rng(0)
    for start in range(0, n, chunk):
        rows = np.arange(start, min(start + chunk, n))
        similarity = queries[rows] @ gallery.T
        match = similarity[np.arange(len(rows)), rows][:, None]
        better[rows] = (similarity > match + TIE).sum(1)
        ties[rows] = (np.abs(similarity - match) <= TIE).sum(1)  # itself included
        row, column = np.nonzero(similarity >= similarity.max(1, keepdims=True) - TIE)
        first = np.searchsorted(row, np.arange(len(rows) + 1))
        drawn = (rng.random(len(rows)) * np.diff(first)).astype(np.int64)
        best[rows] = column[first[:-1] + drawn]
    error_km = great_circle_km(lonlat, lonlat[best])

    found: dict = {"n": n}
    for k in RANKS:
        hits = np.clip((k - better) / ties, 0.0, 1.0)
        found |= {f"recall@{k}": float(hits.mean()), f"chance@{k}": min(1.0, k / n)}
        found[f"hits@{k}"] = hits
    found["median_km"] = float(np.median(error_km))
    found["chance_median_km"] = _random_median_km(lonlat)
    found |= {f"within_{r}_km": float((error_km <= r).mean()) for r in RADII_KM}
    return found | {"error_km": error_km}


def _random_median_km(lonlat: np.ndarray, limit: int = 2000) -> float:
    """Median distance of two random places, from all pairs of at most ``limit`` places."""
    chosen = lonlat
    if len(lonlat) > limit:
        chosen = lonlat[np.random.default_rng(0).choice(len(lonlat), limit, replace=False)]
    xyz = unit_xyz(chosen)
    angle = np.arccos(np.clip(xyz @ xyz.T, -1, 1))
    return float(np.median(angle) * EARTH_RADIUS_KM)
