"""World maps of similarity to a place or to words. Plain HTML, no kernel and no network."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from geonb.explore.maps import land_centres, opened
from geonb.explore.projection import principal_axes
from geonb.explore.views import PLURALS, View, asset, land, pack
from geonb.geo import EARTH_RADIUS_KM, cell_grid, unit_xyz

if TYPE_CHECKING:
    from geonb.model import Model

CELLS_KM = 110.0  # 12,165 cells that are at least half land
BUDGET = 1_500_000  # bytes of one model in the page, base64 included
CLOSE = 0.05  # the largest error of a similarity, where the budget allows
RANKS = 0.99  # the least rank correlation with exact similarities, where the budget allows
PARTS = ("like", "ask")
SUGGESTED = ("rice terraces", "a harbour town", "permafrost", "savanna with scattered acacias", "a hot desert",
             "Spanish is the main language")  # fmt: skip
PLACE = (36.8, -1.3)  # lon, lat of the place chosen at first: Nairobi
NEAR_KM = 300  # a town farther away than this does not name a cell

_FEATURES: dict[tuple, np.ndarray] = {}  # of the last list of queries, so that models with one backbone share it


class PlanetView(View):
    """World maps of similarity; made by :func:`planet_view` and :func:`ask_map`.

    Attributes:
        models: for each model a dict with ``name``, ``dims`` in the page, ``of`` how many, ``bytes`` in the page, and
            over the places and queries tried the least ``rank_correlation`` (Spearman's) and the ``max_error`` of
            similarities in the page with exact ones.
    """

    name, css = "planet", "gp"
    title = "World maps of similarity"

    def __init__(self, data: dict, models: list[dict]) -> None:
        super().__init__(data)
        self.models = models


def vocabulary() -> dict[str, list[str]]:
    """Return the queries of :func:`planet_view`, 1,000 and more, by subject."""
    groups: dict[str, list[str]] = {}
    for line in asset("vocabulary.txt").splitlines():
        if line.startswith("#"):
            phrases = groups[line[1:].strip()] = []
        elif line:
            phrases.append(line)
    return groups


def planet_view(
    models: Mapping,
    *,
    show: Sequence[str] = PARTS,
    queries: Sequence[str] | None = None,
    query: str | None = None,
    cells_km: float = CELLS_KM,
) -> PlanetView:
    """Draw world maps of the similarity to a place or to words, computed in the page.

    Every cell of an equal-area grid (:func:`geonb.geo.blocks`) that is at least half land is embedded at its centre.
    Embeddings travel as int8 on their first principal directions (not centred, so that dot products stay the same): as
    many as keep each similarity within 0.05, at most 1.5 MB for each model.

    Args:
        models: name -> a finished run (its folder) or a loaded model. The first two are shown side by side at first.
        show: "like" (click a place, see where it is similar), "ask" (choose words, see where they fit; models with
            text only), or both; the first is open.
        queries: what can be asked; by default :func:`vocabulary`.
        query: the query that is asked at first.
        cells_km: width of the cells; 110 gives 12,165. Smaller cells show more and make a larger page.

    Raises:
        ValueError: no models, "ask" alone without a model that has text, an empty query, or a ``query`` that is not
            among the queries.
    """
    if not models:
        raise ValueError("give at least one model")
    loaded = {str(name): opened(model) for name, model in models.items()}
    texts = {name for name, model in loaded.items() if "text" in model.modalities} if "ask" in show else set()
    show = [part for part in show if part == "like" or texts]
    if not show:
        raise ValueError("none of the models was trained with text, so none can be asked; give one that was")
    if queries is None:
        queries = [phrase for phrases in vocabulary().values() for phrase in phrases]
    asked = list(dict.fromkeys(queries)) if texts else []
    if not all(q.strip() for q in asked):
        raise ValueError("a query is empty; say what to look for")
    if query is not None and query not in asked:
        raise ValueError(f"the query {query!r} is not among the {len(asked)} queries; add it to them")
    cells, lonlat = land_centres(cells_km)
    sent, found = [], []
    for name, model in loaded.items():
        words = embed_queries(model, asked) if name in texts else None
        packed, measured = _compress(model.embed_locations(lonlat), words)
        sent.append({"name": name} | packed)
        found.append({"name": name} | measured)
    data = {
        "show": show,
        "grid": pack(cell_grid(cells_km)[0], "<u2"),
        "cells": pack(np.diff(cells, prepend=0), "<u2"),
        "km": cells_km,
        "place": PLACE,
        "land": land(),
        **_names(lonlat, cells_km),
        "models": sent,
        "queries": asked,
        "query": None if query is None else asked.index(query),
        "suggest": [asked.index(q) for q in SUGGESTED if q in asked] or list(range(min(6, len(asked)))),
        "simulated": _simulated(loaded.values()),
    }
    return PlanetView(data, found)


def ask_map(
    model: Model | str | Path | Mapping[str, Model | str | Path], sentence: str | Sequence[str], **options: Any
) -> PlanetView:
    """Draw where on land a sentence, or each of a few, fits: the maps of :func:`planet_view` for words of your own.

    Args:
        model: a run or a model with text, or several by name.
        sentence: any text, or a list of texts to choose from; the first is shown.
        options: more for :func:`planet_view`, which says what it raises.
    """
    sentences = [sentence] if isinstance(sentence, str) else sentence
    if not isinstance(model, Mapping):
        model = opened(model)
        model = {model.manifest["architecture"]: model}
    return planet_view(model, show=("ask",), queries=sentences, query=sentences[0], **options)


def embed_queries(model: Model, queries: Sequence[str]) -> np.ndarray:
    """Embed queries as unit vectors (n, d); the backbone's features are kept for the next model that asks the same."""
    backbone = model.backbone("text")
    key = (backbone.fingerprint, tuple(queries))
    if key not in _FEATURES:
        _FEATURES.clear()  # one list at a time bounds the memory
        _FEATURES[key] = backbone.encode(list(queries))
    return model.embed_features("text", _FEATURES[key])


def zonal_kernel(degrees: int, angles: ArrayLike, decay: float = 0.0) -> np.ndarray:
    """Compute the cosine similarity of two positions under untrained spherical harmonics from their distance.

    By the addition theorem it depends on the angle alone: the sum of w_l² (2l + 1) P_l(cos angle) over the degrees
    below ``degrees``, divided by its value at 0, with w_l = (1 + l)**-decay.

    Args:
        degrees: number of degrees. More make the kernel narrower.
        angles: angles (n,) between the two positions, radians.
        decay: weight of fine degrees; a larger value makes the kernel wider.
    """
    from scipy.special import eval_legendre

    l = np.arange(degrees)
    weight = (1.0 + l) ** (-2 * decay) * (2 * l + 1)
    return np.asarray(weight @ eval_legendre(l[:, None], np.cos(np.atleast_1d(angles))[None])) / weight.sum()


def _names(lonlat: np.ndarray, size_km: float) -> dict:
    """Name each cell by its country and its largest town; where it has no town, by the nearest, if one is near."""
    from scipy.spatial import cKDTree

    from geonb.sample import load_facts

    facts, _ = load_facts()
    where, xyz = unit_xyz(np.stack([facts["lon"], facts["lat"]], 1)), unit_xyz(lonlat)
    country = facts["country"][cKDTree(where).query(xyz)[1]]
    towns = np.flatnonzero([name is not None for name in facts["name"]])
    tree, people = cKDTree(where[towns]), np.nan_to_num(facts["population"][towns])
    nearest = tree.query(xyz)[1]
    for i, around in enumerate(tree.query_ball_point(xyz, 0.6 * size_km / EARTH_RADIUS_KM)):
        if around:
            nearest[i] = around[int(people[around].argmax())]
    chord = np.linalg.norm(where[towns[nearest]] - xyz, axis=1)
    km = np.rint(2 * EARTH_RADIUS_KM * np.arcsin(chord / 2)).astype(int)
    name = np.where(km <= max(NEAR_KM, 0.6 * size_km), facts["name"][towns[nearest]], "")
    names, town_of = np.unique(name.astype(str), return_inverse=True)
    countries, country_of = np.unique(country.astype(str), return_inverse=True)
    return {"towns": names.tolist(), "town": pack(town_of, "<u2"), "townKm": pack(np.minimum(km, 65535), "<u2"),
            "countries": countries.tolist(), "country": pack(country_of, "<u2")}  # fmt: skip


def _simulated(models: Iterable[Model]) -> list[str]:
    found = [m for model in models for m, s in model.manifest.get("data", {}).get("simulated", {}).items() if s]
    order = sorted(dict.fromkeys(found), key=lambda m: (m == "location", m != "text"))
    return [PLURALS.get(m, m) for m in order]


def _compress(z: np.ndarray, words: np.ndarray | None) -> tuple[dict, dict]:
    """Compress embeddings of cells (n, d) and of queries (q, d) for the page, and measure how true they are."""
    (n, d), rng = z.shape, np.random.default_rng(0)
    z = z.astype(np.float64)
    basis = principal_axes(z, d, centred=False)
    cells, step = _int8(z @ basis)
    tried = rng.choice(n, min(200, n), replace=False)
    queries = np.empty((0, d)) if words is None else words.astype(np.float64)
    asked, word_step = _int8(queries @ basis)
    some = rng.choice(len(asked), min(200, len(asked)), replace=False) if len(asked) else np.empty(0, int)
    exact = np.concatenate([z[tried], queries[some]]) @ z.T

    def accuracy(k: int) -> tuple[float, float]:
        """Return the least rank correlation and the largest error of similarities on k directions."""
        small = cells[:, :k] * step
        near = np.concatenate([small[tried], asked[some, :k] * word_step]) @ small.T
        return float(_spearman(exact, near).min()), float(np.abs(near - exact).max())

    for k in [*range(16, d, 16), d]:
        rank, error = accuracy(k)
        if error <= CLOSE and rank > RANKS:
            break
    while len(vectors := _deflate(cells[:, :k])) + 4 * len(asked) * k / 3 > BUDGET and k > 16:
        k = 16 * ((k - 1) // 16)
        rank, error = accuracy(k)
    sent: dict[str, Any] = {"vectors": vectors, "words": None}
    if words is not None:
        every = (asked[:, :k] * word_step) @ (cells[:, :k] * step).T
        sent |= {"words": _deflate(asked[:, :k]), "wordStep": word_step, "wordMean": pack(every.mean(1), "<f4"),
                 "wordSd": pack(every.std(1), "<f4")}  # fmt: skip
    if rank < RANKS:
        warnings.warn(f"ranks of similarities in the page agree with exact ones to {rank:.3f} only", stacklevel=3)
    size = len(vectors) + len(sent["words"] or "")
    found = {"dims": k, "of": d, "bytes": size, "rank_correlation": rank, "max_error": error}
    return sent | {"k": k, "of": d, "step": step, "rank": round(rank, 4), "error": round(error, 3)}, found


def _int8(y: np.ndarray) -> tuple[np.ndarray, float]:
    step = float(np.abs(y).max(initial=0) / 127) or 1.0
    return np.rint(y / step).astype(np.int8), step


def _deflate(q: np.ndarray) -> str:
    """Encode int8 (n, k) column by column as differences of rows, zlib, base64. Nearby cells are similar."""
    steps = np.diff(q.astype(np.int16), axis=0, prepend=0).astype(np.int8)  # wraps around, as its sum does
    return pack(np.frombuffer(zlib.compress(steps.T.tobytes(), 6), np.uint8), "u1")


def _spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the rank correlation of each row (m, n) with the same row of the other."""
    from scipy.stats import rankdata

    a, b = (rankdata(x, axis=1) - (x.shape[1] + 1) / 2 for x in (a, b))
    return (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))
