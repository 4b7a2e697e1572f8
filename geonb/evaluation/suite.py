"""The evaluation of finished runs, and of embeddings from other sources, as one ``results.json``.

:func:`evaluate` is for users. :func:`evaluate_model` measures one run under given protocols; the grid of ``research/``
uses it too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from geonb import __version__
from geonb._util import tqdm, write_atomically
from geonb.config import split_of
from geonb.data.store import PlaceStore
from geonb.evaluation.folds import PUBLISHED, REFERENCES, ProbeRunner, TaskFold, published_embeddings, task_folds
from geonb.evaluation.information import alignment, effective_rank, linear_cka, modality_gap, uniformity
from geonb.evaluation.probes import score
from geonb.evaluation.protocols import block_km, protocols_of
from geonb.evaluation.retrieval import RANKS, retrieval
from geonb.evaluation.spatial import block_bootstrap, morans_i, weighted_median
from geonb.evaluation.tasks import TASKS
from geonb.geo import EARTH_RADIUS_KM, check_lonlat, unit_xyz
from geonb.inference import positions, read_embedding_table, rows_of_places
from geonb.model import Model, load

SCHEMA = 3
MATCH_KM = 1.0  # an embedding from another source belongs to a place that is no farther than this
MIN_QUERIES = 10  # places with both modalities, without which retrieval is not measured


def evaluate(
    subjects: Sequence[str | Path] | Mapping[str, Any],
    data: PlaceStore | str | Path,
    out: str | Path | None = None,
    progress: bool = True,
) -> dict:
    """Probe, retrieve and measure embeddings of the places of one store; write ``out`` as a whole.

    One line evaluates a competitor: ``evaluate({"theirs": their_function}, "data/atlas")``, where the function takes
    positions (n, 2), lon/lat degrees, and returns vectors (n, d).

    The protocols are those of :mod:`geonb.evaluation.protocols`. "blocked" is called "held-out" for runs whose own
    split is not blocked, and where the places fill too few blocks to hold any out; then it is no test of
    extrapolation. Location embeddings are probed as they are; no coordinates are appended. Retrieval is among the
    held-out places that have both modalities.

    Args:
        subjects: run folders and .parquet files of embeddings, named by their file names; or a dict from names to any
            of these, to functions of positions, or to arrays (places, d). A .parquet file has a column ``embedding``
            (lists of numbers) and a place_id, or positions (lon and lat, or WKB points as geometry) within 1 km of
            every place of the store; ``geonb embed`` writes such a file.
        data: a place store or its folder. A run that was trained on other data is marked: it may have seen places
            near the held-out ones. Tasks and modalities that the store lacks are listed as skipped.
        out: where to write the results, or None.

    Returns:
        {"schema", "created", "versions", "data", "training", "protocols", "probes", "retrieval", "information",
        "skipped"}; each table is a list of flat rows. A number that is not defined is None, such as an interval of
        places that fill too few blocks (:func:`geonb.evaluation.spatial.block_bootstrap`).

    Raises:
        ValueError: nothing to evaluate, two of one name, a run that did not finish, runs with different splits, or
            an embedding that is not finite, lacks a place or has one twice.
    """
    import torch

    store = data if isinstance(data, PlaceStore) else PlaceStore.open(data)
    models, others = _load_all(subjects, store)
    tasks = {name: task for name, task in TASKS.items() if task.column in store.columns}
    size_km, ranges = block_km(store, tasks)
    config, split, skipped = _split(store, models, size_km)
    for name, task in TASKS.items():
        if name not in tasks:
            skipped.append({"task": name, "why": f"the store has no column {task.column}"})
    for modality in ("text", "image"):
        if not store.has(modality).any():
            skipped.append({"modality": modality, "why": "the store has none"})
    protocols = protocols_of(store, split, config, skipped=skipped)
    folds = task_folds(store.column, tasks, protocols, skipped)
    results: dict[str, Any] = {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"geonb": __version__, "numpy": np.__version__, "torch": torch.__version__},
        "data": {
            "name": store.path.name,
            "hash": store.data_hash,
            "places": len(store),
            "simulated": {m: bool(store.simulated(m)) for m in ("location", "text", "image")},
            "held_out": int((split == "test").sum()),
            "split": config,
            "correlation_range_km": ranges,
        },
        "training": {name: _training(model, store) for name, model in models.items()},
        "protocols": [
            {"split": p.name, "nearest_label_km": p.nearest_label_km(store.lonlat), "folds": len(p.folds)}
            for p in protocols
        ],
        "probes": [],
        "retrieval": [],
        "information": [],
        "skipped": skipped,
    }
    test, location = split == "test", dict(others)
    unmodelled = dict.fromkeys(REFERENCES) | published_embeddings(store.lonlat) | others
    for name, vectors in tqdm(unmodelled.items(), "references", unit="row", disable=not progress):
        results["probes"] += probe_rows(ProbeRunner(name, store.lonlat, vectors), folds)[0]
    for name, model in tqdm(models.items(), "runs", unit="run", disable=not progress):
        z = embed_all(model, store, progress=progress)
        location[name] = z["location"]
        for table, rows in evaluate_model(name, model, store, z, folds)[0].items():
            results[table] += rows
    information = results["information"]
    for name, vectors in others.items():
        rank = effective_rank(vectors[test])
        information.append({"run": name, "measure": "effective rank, location", "value": rank})
    for a, b in permutations(location, 2):
        cka = _finite_or_none(linear_cka(location[a][test], location[b][test]))
        information.append({"run": a, "measure": f"CKA with {b}", "value": cka})

    if out is not None:
        content = json.dumps(results, indent=1, allow_nan=False) + "\n"
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(out), content.encode())
    return results


def embed_all(
    model: Model, store: PlaceStore, extra: Mapping[str, np.ndarray] | None = None, progress: bool = False
) -> dict[str, np.ndarray]:
    """Embed every place of a store in each modality of a run that the store or ``extra`` has.

    Args:
        extra: features (places, d_m) of further modalities of the run by name, NaN where a place has none.

    Returns:
        Unit vectors float32 (places, d) by modality, "location" first; NaN where a place has none.
    """
    extra, z = extra or {}, {"location": model.embed_locations(store.lonlat)}
    for m in model.modalities[1:]:
        if m in extra:
            has = np.isfinite(extra[m]).all(1)
            vectors = model.embed_features(m, extra[m][has])
        elif m in ("text", "image") and store.has(m).any():
            has = store.has(m)
            vectors = model.embed_store(store, m, np.flatnonzero(has), progress)
        else:
            continue
        z[m] = np.full((len(store), model.dim), np.nan, np.float32)
        z[m][has] = vectors
    return z


def evaluate_model(
    name: str, model: Model, store: PlaceStore, z: Mapping[str, np.ndarray], folds: list[TaskFold], seed: int = 0
) -> tuple[dict[str, list[dict]], dict[str, np.ndarray]]:
    """Probe the location embeddings of a run; measure retrieval and the space on the places that it has held out.

    Args:
        name: of the run, in the rows.
        z: of :func:`embed_all`, (places, d) by modality.
        folds: of :func:`geonb.evaluation.folds.task_folds`.
        seed: of the bootstrap.

    Returns:
        Rows of "probes", "retrieval" and "information"; and the predictions behind them: "task|protocol" (t,) for the
        tested places in their order, and "retrieval|query|target" (3, q): row of the store, hit among the first 10,
        and error in km of each query.
    """
    test = split_of(store, model.config) == "test"
    held_out = "blocked" if model.config["split"]["kind"] == "blocked" else "held-out"
    probes, predictions = probe_rows(ProbeRunner(name, store.lonlat, z["location"]), folds, seed)
    found = []
    for query, target in permutations(z, 2):
        chosen = test & _present(z[query]) & _present(z[target])
        if chosen.sum() >= MIN_QUERIES:
            row = {"run": name, "query": query, "target": target, "split": held_out}
            trained = {"trained": frozenset((query, target)) in model.architecture.pairs}
            measured, arrays = retrieval_row(z[query], z[target], store.lonlat, chosen, seed)
            found.append(row | trained | measured)
            predictions[f"retrieval|{query}|{target}"] = arrays
    return {"probes": probes, "retrieval": found, "information": _information_rows(name, z, test)}, predictions


def probe_rows(
    runner: ProbeRunner, folds: Iterable[TaskFold], seed: int = 0
) -> tuple[list[dict], dict[str, np.ndarray]]:
    """Predict every task fold; return rows with value and 95 % interval, and predictions (t,) by "task|protocol"."""
    rows, predictions = [], {}
    for fold in folds:
        predicted, penalty = runner.predict(fold)
        rows.append(_probe_row(runner, fold, predicted, penalty, seed))
        predictions[f"{fold.name}|{fold.protocol}"] = predicted
    return rows, predictions


def _probe_row(runner: ProbeRunner, fold: TaskFold, predictions: np.ndarray, penalty: float, seed: int) -> dict:
    truth, lonlat = fold.truth(), runner.lonlat[fold.test]
    row = {
        "representation": runner.name,
        "is_reference": runner.is_reference,
        "task": fold.name,
        "split": fold.protocol,
        "metric": fold.task.metric,
        "value": float(fold.score(predictions)),
        **_interval("", lonlat, lambda w: score(truth, predictions, fold.task.kind, w), seed),
        "scaling": fold.task.scaling,
        "n_train": int(np.mean([train.sum() for train, _ in fold.folds])),
        "n_test": len(truth),
        "penalty": penalty,
    }
    if fold.task.kind == "classification":
        return row | {"n_test_left_out": fold.left_out}
    residual = truth - predictions
    measurable = len(residual) > 9 and np.ptp(residual) > 0  # of 9, each has all others as its 8 neighbours
    moran, z = morans_i(residual, lonlat, seed=seed) if measurable else (None, None)
    return row | {"morans_i_of_residuals": moran, "morans_i_z": z}


def retrieval_row(
    queries: np.ndarray, gallery: np.ndarray, lonlat: np.ndarray, chosen: np.ndarray, seed: int = 0
) -> tuple[dict, np.ndarray]:
    """Measure retrieval among some places, with 95 % intervals by blocks.

    Args:
        queries, gallery: unit vectors (n, d) of all places. ``lonlat``: their positions (n, 2), degrees.
        chosen: mask (n,) of the places that are queries and gallery.

    Returns:
        A row of the measures of :func:`geonb.evaluation.retrieval.retrieval`; and (3, q): row, hit among the first 10
        and error in km of each query.
    """
    places = lonlat[chosen]
    found = retrieval(queries[chosen], gallery[chosen], places)
    row = {k: v for k, v in found.items() if not isinstance(v, np.ndarray)}
    for k in RANKS:
        row |= _interval(f"recall@{k}_", places, lambda w, hits=found[f"hits@{k}"]: w @ hits / w.sum(1), seed)
    row |= _interval("median_km_", places, lambda w: weighted_median(found["error_km"], w), seed)
    return row, np.stack([np.flatnonzero(chosen), found["hits@10"], found["error_km"]])


def _information_rows(name: str, z: Mapping[str, np.ndarray], test: np.ndarray) -> list[dict]:
    measures: dict[str, float] = {}
    for m, vectors in z.items():
        cloud = vectors[test & _present(vectors)]
        if len(cloud) > 1:
            measures |= {f"effective rank, {m}": effective_rank(cloud), f"uniformity, {m}": uniformity(cloud)}
    for a, b in combinations(z, 2):
        both = test & _present(z[a]) & _present(z[b])
        if both.sum() > 1:
            pair = z[a][both], z[b][both]
            measures |= {f"alignment, {a} and {b}": alignment(*pair), f"modality gap, {a} and {b}": modality_gap(*pair)}
    return [{"run": name, "measure": measure, "value": value} for measure, value in measures.items()]


def _present(vectors: np.ndarray) -> np.ndarray:
    return np.isfinite(vectors[:, 0])


def _interval(prefix: str, lonlat: np.ndarray, statistic: Callable[..., np.ndarray], seed: int) -> dict:
    low, high = block_bootstrap(lonlat, statistic, seed=seed)
    return {f"{prefix}low": _finite_or_none(low), f"{prefix}high": _finite_or_none(high)}


def _finite_or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _split(store: PlaceStore, models: Mapping[str, Model], size_km: float) -> tuple[dict, np.ndarray, list[dict]]:
    """Config of the runs' split, or of one for embeddings without a run; the split (places,); what is skipped."""
    configs = {json.dumps(m.config["split"], sort_keys=True) for m in models.values()}
    if len(configs) > 1:
        raise ValueError("the runs have different splits, so no held-out place is new to all; evaluate them one by one")
    if configs:
        config = json.loads(configs.pop())
        return config, split_of(store, {"split": config}), []
    config, skipped = {"kind": "blocked", "size_km": size_km, "buffer_km": 50.0, "seed": 0}, []
    try:
        split = split_of(store, {"split": config})
    except ValueError:
        why = f"too few blocks of {size_km:g} km hold places; drawn at random"
        config, skipped = {"kind": "random", "seed": 0}, [{"protocol": "blocked", "why": why}]
        split = split_of(store, {"split": config})
    return config, split, skipped


def _training(model: Model, store: PlaceStore) -> dict:
    keys = (
        "architecture", "modalities", "steps", "batch_size", "samples_seen", "selected_step", "parameters", "seed",
        "wall_s", "device",
    )  # fmt: skip
    manifest = model.manifest
    return {k: manifest[k] for k in keys} | {
        "init": model.config.get("init"),
        "data_name": manifest["data"]["name"],
        "other_data": manifest["data"]["hash"] != store.data_hash,
    }


def _load_all(
    subjects: Sequence[str | Path] | Mapping[str, Any], store: PlaceStore
) -> tuple[dict[str, Model], dict[str, np.ndarray]]:
    """Models of runs, and embeddings (places, d) from other sources, by name."""
    if not isinstance(subjects, Mapping):
        named: dict[str, str | Path] = {}
        for subject in subjects:
            name = Path(subject).resolve().name.removesuffix(".parquet")
            if name in named:
                raise ValueError(f"{named[name]} and {subject} are both called {name!r}; rename one")
            named[name] = subject
        subjects = named
    if not subjects:
        raise ValueError("no runs to evaluate, and no embeddings")
    models, others = {}, {}
    for name, subject in subjects.items():
        if name in (*REFERENCES, PUBLISHED):
            raise ValueError(f"{name!r} is the name of a reference row; rename the run or embedding")
        if isinstance(subject, str | Path) and Path(subject).suffix != ".parquet":
            models[name] = load(subject)
        elif isinstance(subject, str | Path):
            others[name] = _checked(name, _read_embeddings(Path(subject), store), store)
        else:
            vectors = subject(store.lonlat.copy()) if callable(subject) else subject
            others[name] = _checked(name, vectors, store)
    return models, others


def _checked(name: str, vectors: ArrayLike, store: PlaceStore) -> np.ndarray:
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or len(vectors) != len(store):
        raise ValueError(f"{name}: embeddings {vectors.shape}; give ({len(store)}, d), a row for each place")
    bad = ~np.isfinite(vectors.astype(np.float64)).all(1)
    if bad.any():
        first, count = int(bad.argmax()), int(bad.sum())
        place = store.place_id[first]
        raise ValueError(f"{name}: the embedding of place {place} (row {first}) is not finite ({count} such rows)")
    return vectors.astype(np.float32)


def _read_embeddings(path: Path, store: PlaceStore) -> np.ndarray:
    from scipy.spatial import cKDTree

    table, vectors = read_embedding_table(path)
    if "place_id" in table.column_names:
        found = rows_of_places(table, path, store)
    else:
        lonlat = check_lonlat(positions(table, path), str(path))
        chord, found = cKDTree(unit_xyz(lonlat)).query(unit_xyz(store.lonlat))
        found = np.where(chord * EARTH_RADIUS_KM <= MATCH_KM, found, -1)
    if missing := int((found < 0).sum()):
        raise ValueError(
            f"{path}: no embedding for {missing:,} of {len(store):,} places, {store.place_id[found.argmin()]} among "
            f"them; give one for each place of the store (by place_id, or within {MATCH_KM:g} km)"
        )
    return vectors[found]
