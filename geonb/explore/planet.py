"""World maps of similarity to a place or to words. Plain HTML, no kernel and no network."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from geonb.explore.maps import land_centres
from geonb.explore.projection import principal_axes
from geonb.explore.views import View, asset, land, pack, plural
from geonb.geo import EARTH_RADIUS_KM, cell_grid, unit_xyz
from geonb.questions import calibrate

if TYPE_CHECKING:
    from geonb.model import Model
    from geonb.questions import Answer

BUDGET = 1_500_000  # bytes of one model in the page, base64 included
CLOSE = 0.05  # the largest error of a similarity, where the budget allows
RANKS = 0.99  # the least rank correlation with exact similarities, where the budget allows
SUGGESTED = ("rice terraces", "a harbour town", "permafrost", "savanna with scattered acacias", "a hot desert",
             "Spanish is the main language")  # fmt: skip
NEAR_KM = 300  # a town farther away than this does not name a cell


def vocabulary() -> list[str]:
    """Return the default queries of :func:`planet_view`, 1,000 and more."""
    return [line for line in asset("vocabulary.txt").splitlines() if line and not line.startswith("#")]


def planet_view(
    models: Mapping[str, Model],
    *,
    show: Sequence[str] = ("like", "ask"),
    queries: Sequence[str] | None = None,
    query: str | None = None,
    cells_km: float = 110.0,
) -> View:
    """Draw world maps of the similarity to a place or to words, computed in the page.

    Equal-area cells (:func:`geonb.geo.blocks`) that are at least half land are embedded at their
    centres. Embeddings are sent as int8 on as many principal directions as keep each similarity
    within 0.05, at most 1.5 MB for each model.

    Args:
        models: by name; the first two are shown at first.
        show: "like" (click a place, see where it is similar), "ask" (choose words, see where they
            fit; models with text only), or both; the first is open.
        queries: what can be asked; by default :func:`vocabulary`.
        query: the query that is asked at first.
        cells_km: width of the cells; 110 gives 12,165. Smaller cells make a larger page.

    Raises:
        ValueError: no model for what is to be shown, or a ``query`` that is not among the queries.
    """
    texts = {name for name, model in models.items() if "text" in model.modalities} if "ask" in show else set()
    show = [part for part in show if part == "like" or texts]
    if not models or not show:
        raise ValueError("give at least one model, and to ask, one that was trained with text")
    asked = list(dict.fromkeys(vocabulary() if queries is None else queries)) if texts else []
    if query is not None and query not in asked:
        raise ValueError(f"the query {query!r} is not among the {len(asked)} queries; add it to them")
    cells, lonlat = land_centres(cells_km)
    sent = []
    for name, model in models.items():
        words = model.embed_texts(asked) if name in texts else None
        sent.append({"name": name} | _compress(model.embed_locations(lonlat), words))
    data = _grid(cells, lonlat, cells_km) | {
        "show": show,
        "place": (36.8, -1.3),  # lon, lat of the place chosen at first: Nairobi
        "models": sent,
        "queries": asked,
        "query": None if query is None else asked.index(query),
        "suggest": [asked.index(q) for q in SUGGESTED if q in asked] or list(range(min(6, len(asked)))),
        "simulated": _simulated(models.values()),
    }
    return View(data, "planet", "gp", "World maps of similarity")


def answer_view(model: Model, answer: Answer, cells_km: float = 110.0) -> View:
    """Draw a world map of the score of a question (:meth:`geonb.model.Model.ask`), with the places that fit it.

    Args:
        cells_km: width of the cells, as of :func:`planet_view`.
    """
    cells, lonlat = land_centres(cells_km)
    z = model.embed_locations(lonlat)
    mean, sd, _ = calibrate(z, model.unrelated)
    score = (z @ model.embed_question(answer.text) - mean) / sd
    data = _grid(cells, lonlat, cells_km) | {
        "show": ["answer"],
        "place": lonlat[score.argmax()].tolist(),
        "models": [{"name": f"“{answer.text}”", "field": pack(score, "<f4")}],
        "queries": [answer.text],
        "query": 0,
        "suggest": [],
        "answer": {"places": answer.places, "threshold": answer.threshold, "explanation": answer.explanation},
        "simulated": _simulated([model]),
    }
    return View(data, "planet", "gp", "World map of an answer")


def _grid(cells: np.ndarray, lonlat: np.ndarray, cells_km: float) -> dict:
    """Describe cells for the page: numbers (n,), and centres (n, 2), degrees."""
    return {
        "grid": pack(cell_grid(cells_km)[0], "<u2"),
        "cells": pack(np.diff(cells, prepend=0), "<u2"),
        "km": cells_km,
        "land": land(),
        **_names(lonlat, cells_km),
    }


def _names(lonlat: np.ndarray, size_km: float) -> dict:
    """Name each cell by its country and its largest town, or the nearest town, if one is near."""
    from scipy.spatial import cKDTree

    from geonb.sample import load_facts

    facts, _ = load_facts()
    where, xyz = unit_xyz(np.stack([facts["lon"], facts["lat"]], 1)), unit_xyz(lonlat)
    country = facts["country"][cKDTree(where).query(xyz)[1]]
    towns = np.flatnonzero([name is not None for name in facts["name"]])
    tree, people = cKDTree(where[towns]), np.nan_to_num(facts["population"][towns])
    chosen = tree.query(xyz)[1]
    for i, around in enumerate(tree.query_ball_point(xyz, 0.6 * size_km / EARTH_RADIUS_KM)):
        if around:
            chosen[i] = around[int(people[around].argmax())]
    chord = np.linalg.norm(where[towns[chosen]] - xyz, axis=1)
    km = np.rint(2 * EARTH_RADIUS_KM * np.arcsin(chord / 2)).astype(int)
    near = km <= max(NEAR_KM, 0.6 * size_km)
    label = np.where(near, facts["name"][towns[chosen]] + ", " + country, country)
    labels, code = np.unique(label.astype(str), return_inverse=True)
    km = np.where(near, km, 65535)  # no town
    return {"labels": labels.tolist(), "label": pack(code, "<u2"), "townKm": pack(km, "<u2")}


def _simulated(models: Iterable[Model]) -> list[str]:
    found = [m for model in models for m, s in model.manifest.get("data", {}).get("simulated", {}).items() if s]
    order = sorted(dict.fromkeys(found), key=lambda m: (m == "location", m != "text"))
    return [plural(m) for m in order]


def _compress(z: np.ndarray, words: np.ndarray | None) -> dict:
    """Compress embeddings of cells (n, d) and of queries (q, d) for the page.

    ``k`` ``of`` the d directions are sent. ``rank`` and ``error`` compare similarities in the page with
    exact ones, over the places and queries tried: the least rank correlation, the largest error.
    """
    n, d = z.shape
    z, queries = z.astype(np.float64), np.empty((0, d)) if words is None else words.astype(np.float64)
    basis = principal_axes(z, d, centred=False)  # not centred, so that dot products stay the same
    (cells, step), (asked, word_step) = _int8(z @ basis), _int8(queries @ basis)
    rng = np.random.default_rng(0)
    tried = rng.choice(n, min(200, n), replace=False)
    some = rng.choice(len(asked), min(200, len(asked)), replace=False)
    exact = np.concatenate([z[tried], queries[some]]) @ z.T
    ranks = _ranks(exact)

    def similarities(k: int) -> np.ndarray:
        small = cells[:, :k] * step
        return np.concatenate([small[tried], asked[some, :k] * word_step]) @ small.T

    for k in [*range(16, d, 16), d]:
        near = similarities(k)
        if np.abs(near - exact).max() <= CLOSE and (ranks * _ranks(near)).sum(1).min() > RANKS:
            break
    while len(vectors := _deflate(cells[:, :k])) + 4 * len(asked) * k / 3 > BUDGET and k > 16:
        k = 16 * ((k - 1) // 16)
    near = similarities(k)
    rank, error = float((ranks * _ranks(near)).sum(1).min()), float(np.abs(near - exact).max())
    sent = {"vectors": vectors, "words": None, "k": k, "of": d, "step": step, "rank": rank, "error": error}
    if words is not None:
        every = (asked[:, :k] * word_step) @ (cells[:, :k] * step).T
        sent |= {"words": _deflate(asked[:, :k]), "wordStep": word_step, "wordMean": pack(every.mean(1), "<f4"),
                 "wordSd": pack(every.std(1), "<f4")}  # fmt: skip
    return sent


def _int8(y: np.ndarray) -> tuple[np.ndarray, float]:
    step = float(np.abs(y).max(initial=0) / 127) or 1.0
    return np.rint(y / step).astype(np.int8), step


def _deflate(q: np.ndarray) -> str:
    """Encode int8 (n, k) column by column as differences of rows, zlib, base64. Nearby cells are similar."""
    steps = np.diff(q.astype(np.int16), axis=0, prepend=0).astype(np.int8)  # wraps around, as its sum does
    return pack(np.frombuffer(zlib.compress(steps.T.tobytes(), 6), np.uint8), "u1")


def _ranks(x: np.ndarray) -> np.ndarray:
    """Return centred ranks in each row (m, n), of length 1. Their dot products are rank correlations."""
    from scipy.stats import rankdata

    ranks = rankdata(x, axis=1) - (x.shape[1] + 1) / 2
    return ranks / np.linalg.norm(ranks, axis=1, keepdims=True)
