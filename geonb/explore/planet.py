"""The planet answers: where is it like here, where do these words fit, how far does a place reach. Plain HTML."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from geonb.explore.views import PALETTE, View, asset, land, pack
from geonb.geo import EARTH_RADIUS_KM, check_lonlat, unit_xyz

if TYPE_CHECKING:
    from geonb.model import Model

CELLS_KM = 110.0  # 12,165 cells that are at least half land
BUDGET = 1_500_000  # bytes of one model in the page, base64 included
CLOSE = 0.05  # no similarity between cells may be off by more, where the budget allows
PARTS = ("like", "ask", "scale")
EDGES_KM = np.geomspace(10, 20_000, 34)
SIZES_KM = np.array([200, 300, 400, 600, 800, 1200, 1800, 2700, 4000, 6000, 9000])
UNTRAINED = (10, 20, 30)  # degrees of the encodings whose checkerboards stand beside those of the models
SUGGESTED = ("rice terraces", "a harbour town", "permafrost", "savanna with scattered acacias", "a hot desert",
             "Spanish is the main language")  # fmt: skip
NEAR_KM = 300  # a town farther away than this does not name a cell

_FEATURES: dict[tuple, np.ndarray] = {}  # what text backbones made of lists of queries, so that models share it


class PlanetView(View):
    """World maps of similarity; made by :func:`planet_view` and :func:`ask_map`.

    Attributes:
        data: what the page gets, as JSON.
        models: for each model a dict with ``name``, ``dims`` kept, ``of`` how many, ``bytes`` in the page,
            ``rank_correlation`` (Spearman's, of similarities in the page with those in floating point: the least, over
            places and queries tried) and ``max_error`` (the largest difference of two similarities).
    """

    name, css = "planet", "gp"
    label, title = "World maps of similarity", "Ask the planet"

    def __init__(self, data: dict, models: list[dict]) -> None:
        super().__init__(data)
        self.models = models


def vocabulary() -> dict[str, list[str]]:
    """The queries of :func:`planet_view`, 1,000 and more, by subject."""
    groups: dict[str, list[str]] = {}
    for line in asset("vocabulary.txt").splitlines():
        if line.startswith("#"):
            groups[line[1:].strip()] = own = []
        elif line:
            own.append(line)
    return groups


def planet_view(
    models: Mapping,
    *,
    show: Sequence[str] = PARTS,
    queries: Mapping[str, Sequence[str]] | Sequence[str] | None = None,
    query: str | None = None,
    place: tuple[float, float] = (36.8, -1.3),
    cells_km: float = CELLS_KM,
    seed: int = 0,
    progress: bool = True,
) -> PlanetView:
    """World maps that answer: places like a place, places that fit words, and how far a similarity reaches.

    Every cell of an equal-area grid (:func:`geonb.data.splits.blocks`) that is at least half land is embedded at its
    centre; the sea is left blank, because the models were trained on land. Embeddings travel as int8 on their first
    principal directions (not centred, so that dot products stay what they are): as many as keep each similarity
    within 0.05, at most 1.5 MB a model. The page computes everything else.

    Args:
        models: name -> a finished run (its folder) or a loaded model. The first two are shown side by side at first.
        show: of "like" (click a place, see where it is alike), "ask" (choose words, see where they fit; models with
            text only) and "scale" (how similarity falls with distance); the first is open.
        queries: what can be asked: strings, or subject -> strings; by default :func:`vocabulary`.
        query: the one that is asked at first.
        place: (lon, lat) of the place chosen at first; the nearest cell is taken.
        cells_km: width of the cells; 110 gives 12,165.
        seed: of the places at which the fidelity and the curves of "scale" are measured.

    Raises:
        ValueError: no models, an unknown part, "ask" alone without a model that has text, an empty query, or a query to
            start with that is not among the queries.
    """
    from geonb._util import tqdm

    show = list(dict.fromkeys(show))
    unknown = [part for part in show if part not in PARTS]
    if not models or unknown or not show:
        raise ValueError(f"give at least one model, and show some of {', '.join(PARTS)}, not {show}")
    loaded = {str(name): _loaded(model) for name, model in models.items()}
    texts = {name for name, model in loaded.items() if "text" in model.modalities} if "ask" in show else set()
    if not texts and "ask" in show:
        show.remove("ask")
        if not show:
            raise ValueError("none of the models was trained with text, so none can be asked; give one that was")
    groups = _groups(queries) if texts else {}
    asked = [q for own in groups.values() for q in own]
    if query is not None and query not in asked:
        raise ValueError(f"the query {query!r} is not among the {len(asked)} queries; add it to them")
    cells, lonlat = _cells(cells_km)
    encoded = []
    for name, model in tqdm(loaded.items(), desc="embedding the planet", disable=not progress):
        words = embed_queries(model, asked) if name in texts else None
        packed, found = _compress(model.embed_locations(lonlat), words, seed)
        scale = _scales(model, lonlat, seed) if "scale" in show else {}
        encoded.append(({"name": name} | packed | scale, {"name": name} | found))
    starts = np.cumsum([0, *map(len, groups.values())]).tolist()
    data = {
        "show": show,
        "grid": pack(_columns(cells_km), "<u2"),
        "cells": pack(np.diff(cells, prepend=0), "<u2"),
        "km": cells_km,
        "place": check_lonlat([place])[0].tolist(),
        "land": land(),
        **_names(lonlat, cells_km),
        "models": [own for own, _ in encoded],
        "queries": asked,
        "groups": [[title, start] for title, start in zip(groups, starts, strict=False)],
        "query": asked.index(query) if query is not None else None,
        "suggest": [asked.index(q) for q in SUGGESTED if q in asked] or list(range(min(6, len(asked)))),
        "simulated": _simulated(loaded.values()),
    }
    if "scale" in show:
        data |= {
            "edges": [round(float(e), 2) for e in EDGES_KM],
            "sizes": SIZES_KM.tolist(),
            "untrained": [[d, _untrained(d, seed)] for d in UNTRAINED],
            "colors": PALETTE,
        }
    return PlanetView(data, [found for _, found in encoded])


def ask_map(
    model: Model | str | Path | Mapping[str, Model | str | Path],
    sentence: str | Sequence[str],
    *,
    progress: bool = False,
    **options: Any,
) -> PlanetView:
    """Where on land one sentence, or each of a few, fits: the maps of :func:`planet_view` for words of your own.

    Args:
        model: a run or a model with text, or several by name.
        sentence: any text, or a list of texts to choose from; the first is shown.
        options: more for :func:`planet_view`.

    Raises:
        ValueError: an empty sentence, or a model without text.
    """
    sentences = [sentence] if isinstance(sentence, str) else list(dict.fromkeys(sentence))
    if not isinstance(model, Mapping):
        model = _loaded(model)
        model = {model.manifest["architecture"]: model}
    asked: dict[str, Any] = {
        "show": ("ask",),
        "queries": sentences,
        "query": sentences[0],
        "progress": progress,
    } | options
    return planet_view(model, **asked)


def zonal_kernel(degrees: int, angles: ArrayLike, decay: float = 0.0) -> np.ndarray:
    """Cosine similarity of two positions ``angles`` (radians) apart under untrained spherical harmonics.

    By the addition theorem it depends on the angle alone: the sum of w_l² (2l + 1) P_l(cos angle) over the degrees
    below ``degrees``, divided by its value at 0, with w_l = (1 + l)**-decay. The page computes the same.
    """
    from scipy.special import eval_legendre

    l = np.arange(degrees)
    weight = (1.0 + l) ** (-2 * decay) * (2 * l + 1)
    return np.asarray(weight @ eval_legendre(l[:, None], np.cos(np.atleast_1d(angles))[None])) / weight.sum()


def _loaded(model):
    if isinstance(model, str | Path):
        import geonb

        return geonb.load(model)
    if not hasattr(model, "embed_locations"):
        raise ValueError(f"give the folder of a run or a loaded model, not {type(model).__name__}")
    return model


def _groups(queries: Any) -> dict[str, list[str]]:
    if queries is None:
        return vocabulary()
    groups = queries if isinstance(queries, Mapping) else {"": queries}
    groups = {str(title): [str(q) for q in own] for title, own in groups.items()}
    every = [q for own in groups.values() for q in own]
    if not every or not all(q.strip() for q in every):
        raise ValueError("give at least one query, and none that is empty")
    twice = next((q for i, q in enumerate(every) if q in every[:i]), None) if len(set(every)) < len(every) else None
    if twice is not None:
        raise ValueError(f"the query {twice!r} stands there twice")
    return groups


def _columns(size_km: float) -> np.ndarray:
    from geonb.geo import cell_grid

    return cell_grid(size_km)[0]


def _cells(size_km: float) -> tuple[np.ndarray, np.ndarray]:
    """Numbers (n,) and centres (n, 2) of the cells that are at least half land."""
    from geonb.data.sampling import cell_bounds, land_cells

    cells = land_cells(float(size_km))
    west, south, east, north = cell_bounds(cells, size_km).T
    middle = np.degrees(np.arcsin((np.sin(np.radians(south)) + np.sin(np.radians(north))) / 2))
    return cells, np.stack([(west + east) / 2, middle], 1)


def _names(lonlat: ArrayLike, size_km: float) -> dict:
    """What each cell is called: its country, and its largest town; where it has none, the nearest, if one is near."""
    from scipy.spatial import cKDTree

    from geonb.sample import load_facts

    facts, _ = load_facts()
    where, xyz = unit_xyz(np.stack([facts["lon"], facts["lat"]], 1)), unit_xyz(lonlat)
    country = facts["country"][cKDTree(where).query(xyz)[1]]
    towns = np.flatnonzero([name is not None for name in facts["name"]])
    tree, people = cKDTree(where[towns]), np.nan_to_num(facts["population"][towns])
    own = tree.query(xyz)[1]
    for i, around in enumerate(tree.query_ball_point(xyz, 0.6 * size_km / EARTH_RADIUS_KM)):
        if around:
            own[i] = around[int(people[around].argmax())]
    chord = np.linalg.norm(where[towns[own]] - xyz, axis=1)
    km = np.rint(2 * EARTH_RADIUS_KM * np.arcsin(chord / 2)).astype(int)
    name = np.where(km <= max(NEAR_KM, 0.6 * size_km), facts["name"][towns[own]], "")
    names, town_of = np.unique(name.astype(str), return_inverse=True)
    countries, country_of = np.unique(country.astype(str), return_inverse=True)
    return {"towns": names.tolist(), "town": pack(town_of, "<u2"), "townKm": pack(np.minimum(km, 65535), "<u2"),
            "countries": countries.tolist(), "country": pack(country_of, "<u2")}  # fmt: skip


def _simulated(models: Iterable[Model]) -> list[str]:
    found: dict[str, bool] = {}
    for model in models:
        found |= {m: True for m, s in model.manifest.get("data", {}).get("simulated", {}).items() if s}
    names = {"location": "positions", "text": "texts", "image": "images"}
    return [names.get(m, m) for m in ("text", "image", "location") if m in found]


def embed_queries(model: Model, queries: Sequence[str]) -> np.ndarray:
    """Unit vectors (n, d) of queries; what the text backbone makes of them is kept for the next model that asks."""
    queries = list(queries)
    backbone = model.backbone("text")
    key = (backbone.fingerprint, tuple(queries))
    if key not in _FEATURES:
        _FEATURES.clear()  # one list at a time is enough, and bounds the memory
        _FEATURES[key] = backbone.encode(queries)
    return model.embed_features("text", _FEATURES[key])


def _compress(z: np.ndarray, words: np.ndarray | None, seed: int) -> tuple[dict, dict]:
    """Embeddings of cells (n, d) and of queries (q, d) for the page, and how true they are."""
    z = z.astype(np.float64)
    n, d = z.shape
    basis = np.linalg.eigh(z.T @ z)[1][:, ::-1]  # principal directions, not centred
    basis *= np.where(basis[np.abs(basis).argmax(0), np.arange(d)] < 0, -1, 1)
    tried = np.random.default_rng(seed).choice(n, min(200, n), replace=False)
    exact, y = z[tried] @ z.T, z @ basis
    step, sizes = np.abs(y).max() / 127, [*range(16, d, 16), d]
    q = np.rint(y / step).astype(np.int8)
    if words is not None:
        u = words.astype(np.float64) @ basis
        word_step = np.abs(u).max() / 127
        v = np.rint(u / word_step).astype(np.int8)
    some: Any = [] if words is None else np.random.default_rng(seed).choice(len(v), min(200, len(v)), replace=False)
    truth: Any = [] if words is None else words[some].astype(np.float64) @ z.T

    def fidelity(k: int) -> tuple[float, float]:
        """Least rank correlation and largest error of similarities of cells, and of queries, with cells."""
        small = q[:, :k] * step
        pairs = [(exact, small[tried] @ small.T)]
        if words is not None:
            pairs.append((truth, (v[some, :k] * word_step) @ small.T))
        error = max(float(np.abs(b - a).max()) for a, b in pairs)
        if error > CLOSE and k < d:  # ranks take longer, and are not asked for yet
            return 0.0, error
        return min(float(_spearman(a, b).min()) for a, b in pairs), error

    at = next((i for i, k in enumerate(sizes) if fidelity(k)[0] > 0.99), len(sizes) - 1)
    while True:
        k = sizes[at]
        sent: dict[str, Any] = {"vectors": _deflate(q[:, :k]), "words": None if words is None else _deflate(v[:, :k])}
        size = len(sent["vectors"]) + len(sent["words"] or "")
        if size <= BUDGET or at == 0:
            break
        at -= 1
    small = q[:, :k] * step
    rank, error = [_spearman(exact, small[tried] @ small.T)], np.abs(small[tried] @ small.T - exact).max()
    if words is not None:
        similarity = (v[:, :k] * word_step) @ small.T
        rank.append(_spearman(truth, similarity[some]))
        error = max(error, np.abs(similarity[some] - truth).max())
        sent |= {"wordStep": float(word_step), "wordMean": pack(similarity.mean(1), "<f4"),
                 "wordSd": pack(similarity.std(1), "<f4")}  # fmt: skip
    rank, error = float(np.concatenate(rank).min()), float(error)
    if rank < 0.99:
        warnings.warn(f"ranks of similarities in the page agree with exact ones to {rank:.3f} only", stacklevel=3)
    found = {"dims": k, "of": d, "bytes": size, "rank_correlation": rank, "max_error": error}
    return sent | {"k": k, "of": d, "step": float(step), "rank": round(rank, 4), "error": round(error, 3)}, found


def _deflate(q: np.ndarray) -> str:
    """int8 (n, k) as base64: column by column, differences of rows, compressed with zlib. Near cells are alike."""
    steps = np.diff(q.astype(np.int16), axis=0, prepend=0).astype(np.int8)  # wraps around, as its sum does
    return pack(np.frombuffer(zlib.compress(steps.T.tobytes(), 6), np.uint8), "u1")


def _spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rank correlation of each row; a row that is all the same counts as 1, for it has no order to lose."""
    from scipy.stats import rankdata

    a, b = (rankdata(x, axis=1) for x in (a, b))
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    norm = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return np.where(norm > 0, (a * b).sum(1) / np.where(norm > 0, norm, 1), 1.0)


@cache
def _untrained(degrees: int, seed: int) -> list[float | None]:
    import torch

    from geonb.encoders.location import positional_encoding

    encoding = positional_encoding("spherical_harmonics", degrees=degrees)
    return _rounded(
        _checkerboard(lambda lonlat: encoding(torch.as_tensor(lonlat, dtype=torch.float32)).numpy(), seed)
    )


def _checkerboard(embed: Callable[[np.ndarray], np.ndarray], seed: int) -> np.ndarray:
    from geonb.evaluation.spatial import checkerboard_accuracy

    return checkerboard_accuracy(embed, SIZES_KM, seed=seed)


def _scales(model: Model, lonlat: ArrayLike, seed: int) -> dict:
    """How a model's similarity falls with distance, and which checkerboards a probe of it can tell."""
    from geonb.data.sampling import land_points, on_land, points_around
    from geonb.evaluation.spatial import resolution_km, variogram

    centres = land_points(400, seed)
    around = [points_around(centres, 4, km, seed + i) for i, km in enumerate((20.0, 60.0, 200.0, 600.0))]
    points = np.concatenate([centres, *around])
    points = points[on_land(points)]
    curve = 1 - variogram(model.embed_locations(points), points, EDGES_KM, pairs=400_000, seed=seed)[0]
    accuracy = _checkerboard(model.embed_locations, seed)
    middles = np.sqrt(EDGES_KM[1:] * EDGES_KM[:-1])
    far = float(np.square(model.embed_locations(lonlat).mean(0, dtype=np.float64)).sum())
    half, resolved = half_width_km(middles, curve, (1 + far) / 2), resolution_km(SIZES_KM, accuracy)
    return {"curve": _rounded(curve), "half": None if np.isnan(half) else round(half),
            "checker": _rounded(accuracy), "resolution": None if np.isnan(resolved) else round(resolved)}  # fmt: skip


def half_width_km(km: ArrayLike, similarity: ArrayLike, level: float) -> float:
    """The distance at which a curve first falls below ``level``, interpolated on a logarithmic axis; NaN if never.

    Args:
        km: distances (n,) above 0, in rising order.
        similarity: the curve there, (n,); NaN is left out.
    """
    known = ~np.isnan(similarity)
    x, y = np.log(np.asarray(km)[known]), np.asarray(similarity)[known]
    below = np.flatnonzero(y < level)
    if not len(below) or below[0] == 0:
        return float("nan") if not len(below) else float(np.exp(x[0]))
    i = below[0]
    return float(np.exp(x[i - 1] + (y[i - 1] - level) / (y[i - 1] - y[i]) * (x[i] - x[i - 1])))


def _rounded(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(v) else round(float(v), 4) for v in values]
