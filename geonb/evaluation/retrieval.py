"""Cross-modal retrieval: given one modality of a place, find another modality of the same place.

The module compares vectors row by row. It does not know which modality they come from.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from geonb.geo import EARTH_RADIUS_KM, great_circle_km, unit_xyz

TIE = 1e-6  # cosines of float32 vectors that differ by less are equal up to rounding
RANKS = (1, 5, 10)
RADII_KM = (1, 25, 200, 750, 2500)  # street, city, region, country, continent (Hays and Efros, 2008)


def retrieval(queries: ArrayLike, gallery: ArrayLike, lonlat: ArrayLike, chunk: int = 2048) -> dict:
    """Measure how well query i finds gallery item i among all n items, by cosine similarity.

    Args:
        queries, gallery: unit vectors (n, d); row i of both belongs to place i.
        lonlat: positions (n, 2) of the places, degrees.
        chunk: queries compared at a time; bounds the memory.

    Returns:
        A dict: ``n``; ``recall@k`` and ``chance@k`` = k / n for k = 1, 5, 10; ``median_km``, the median great-circle
        distance from a query's place to its best match, and ``chance_median_km``, that of a random match;
        ``within_R_km`` for each radius of :data:`RADII_KM`; ``hits@k`` (n,) and ``error_km`` (n,), per query.
        A query whose own item ties with others counts as the share of tie orders that would find it, and its best
        match is drawn at random from those that tie, so a constant embedding scores chance.

    Raises:
        ValueError: shapes that do not match, fewer than 2 places, or a row that is not a unit vector.

    Example:
        Paris and Berlin are taken for each other, Moscow and Tokyo are found:

        >>> lonlat = [(2.35, 48.86), (13.40, 52.52), (37.62, 55.76), (139.69, 35.69)]
        >>> found = retrieval(np.eye(4), np.eye(4)[[1, 0, 2, 3]], lonlat)
        >>> found["recall@1"], found["chance@1"], found["within_750_km"], found["within_2500_km"]
        (0.5, 0.25, 0.5, 1.0)
    """
    queries, gallery = np.asarray(queries, np.float32), np.asarray(gallery, np.float32)
    lonlat = np.asarray(lonlat, np.float64)
    n = len(queries)
    if queries.ndim != 2 or queries.shape != gallery.shape or len(lonlat) != n:
        raise ValueError(f"queries {queries.shape}, gallery {gallery.shape} and {len(lonlat)} positions do not match")
    if n < 2:
        raise ValueError(f"retrieval among {n} places is not defined; give at least 2")
    for role, vectors in (("query", queries), ("gallery", gallery)):
        off = ~(np.abs(np.linalg.norm(vectors, axis=1) - 1) < 1e-3)  # NaN is off too
        if off.any():
            raise ValueError(f"{role} row {int(off.argmax())} is not a unit vector ({int(off.sum())} such rows)")
    better, ties, best = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
    rng = np.random.default_rng(0)
    for start in range(0, n, chunk):
        rows = np.arange(start, min(start + chunk, n))
        similarity = queries[rows] @ gallery.T
        match = similarity[np.arange(len(rows)), rows][:, None]
        better[rows] = (similarity > match + TIE).sum(1)
        ties[rows] = (np.abs(similarity - match) <= TIE).sum(1)  # itself included
        row, column = np.nonzero(similarity >= similarity.max(1, keepdims=True) - TIE)
        first = np.searchsorted(row, np.arange(len(rows) + 1))
        best[rows] = column[first[:-1] + (rng.random(len(rows)) * np.diff(first)).astype(np.int64)]
    error_km = great_circle_km(lonlat, lonlat[best])

    result: dict = {"n": n}
    for k in RANKS:
        hits = np.clip((k - better) / ties, 0.0, 1.0)
        result |= {f"recall@{k}": float(hits.mean()), f"chance@{k}": min(1.0, k / n), f"hits@{k}": hits}
    result |= {"median_km": float(np.median(error_km)), "chance_median_km": _random_median_km(lonlat)}
    result |= {f"within_{r}_km": float((error_km <= r).mean()) for r in RADII_KM}
    return result | {"error_km": error_km}


def _random_median_km(lonlat: np.ndarray, limit: int = 2000) -> float:
    """Median distance between two places drawn at random, from all pairs of at most ``limit`` places."""
    rng = np.random.default_rng(0)
    chosen = lonlat if len(lonlat) <= limit else lonlat[rng.choice(len(lonlat), limit, replace=False)]
    xyz = unit_xyz(chosen)
    angle = np.arccos(np.clip(xyz @ xyz.T, -1, 1))
    return float(np.median(angle) * EARTH_RADIUS_KM)
