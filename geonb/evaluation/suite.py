"""The evaluation of finished runs, and of other embeddings, as one ``results.json``."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import combinations, pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np

from geonb import __version__
from geonb._util import filled, tqdm, write_atomically
from geonb.config import split_of
from geonb.data.store import PlaceStore
from geonb.evaluation.folds import PUBLISHED, REFERENCES, ProbeRunner, TaskFold, published_embeddings, task_folds
from geonb.evaluation.information import alignment, effective_rank, linear_cka, modality_gap, uniformity
from geonb.evaluation.protocols import block_km, protocols_of
from geonb.evaluation.retrieval import RANKS, retrieval
from geonb.evaluation.spatial import block_bootstrap, morans_i, weighted_median
from geonb.evaluation.tasks import TASKS
from geonb.inference import read_embeddings, warn_of_lengths
from geonb.model import Model, load

SCHEMA = 3
MIN_QUERIES = 10  # places with both modalities; retrieval needs as many
Views = Mapping[str, np.ndarray]  # vectors (places, d) by modality


def evaluate(
    subjects: Sequence[str | Path] | Mapping[str, Any],
    data: PlaceStore | str | Path,
    out: str | Path | None = None,
    progress: bool = True,
) -> dict:
    """Probe, retrieve and measure embeddings of the places of a store.

    Args:
        subjects: run folders, names of shipped models and .parquet files of embeddings (as of
            ``geonb embed``), named by their file names; or a dict from names to these, to functions
            of positions (n, 2), lon/lat degrees, or to arrays (places, d). Where a store is too small for the split of
            the runs, it gets one of its own, with a warning.
        data: a place store or its folder. ``out``: the file to write, as a whole, or None.

    Returns:
        Tables as lists of flat rows: "probes", "retrieval", "information"; "data", "training",
        "protocols", "skipped". What is not defined, as an interval of few blocks, is None.

    Raises:
        ValueError: nothing to evaluate, two of one name in any case, runs of different splits, or
            an embedding that is not finite, lacks a place or has one twice.
    """
    import torch

    store = data if isinstance(data, PlaceStore) else PlaceStore.open(data)
    models, others = _load_all(subjects, store)
    tasks = {name: task for name, task in TASKS.items() if task.column in store.columns}
    size_km, ranges = block_km(store, tasks)
    configs = [model.config["split"] for model in models.values()]
    config, split, skipped = _split(store, configs, size_km)
    for name, task in TASKS.items():
        if name not in tasks:
            skipped.append({"task": name, "why": f"the store has no column {task.column}"})
    for modality, there in (("text", "text" in store.modalities), ("image", bool(store.imagery))):
        if not there:
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
            "simulated": {m: store.simulated(m) for m in store.modalities},
            "held_out": int((split == "test").sum()),
            "split": config,
            "correlation_range_km": ranges,
        },
        "training": {name: _training(model, store) for name, model in models.items()},
        "protocols": [
            {"split": p.name, "nearest_label_km": p.nearest_label_km(store.lonlat), "folds": len(p.folds)}
            for p in protocols
        ],
        **{table: [] for table in ("probes", "retrieval", "information")},
        "skipped": skipped,
    }
    test, location = split == "test", dict(others)
    alone = dict.fromkeys(REFERENCES) | published_embeddings(store.lonlat) | others
    for name, vectors in tqdm(alone.items(), "references", unit="row", disable=not progress):
        results["probes"] += probe_rows(ProbeRunner(name, store.lonlat, vectors), folds)[0]
    for name, model in tqdm(models.items(), "runs", unit="run", disable=not progress):
        z = embed_all(model, store, progress=progress)
        location[name] = z["location"]
        for table, rows in evaluate_model(name, model, store, z, folds, config)[0].items():
            results[table] += rows
    for name, vectors in others.items():
        rank = effective_rank(vectors[test])
        results["information"] += _measured(name, {"effective rank, location": rank})
    for a, b in permutations(location, 2):
        cka = linear_cka(location[a][test], location[b][test])
        cka = None if np.isnan(cka) else cka
        results["information"] += _measured(a, {f"CKA with {b}": cka})

    if out is not None:
        content = json.dumps(results, indent=1, allow_nan=False) + "\n"
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(out), content.encode())
    return results


def embed_all(
    model: Model, store: PlaceStore, extra: Views | None = None, progress: bool = False
) -> dict[str, np.ndarray]:
    """Embed all places in each modality of a run: (places, d), NaN where a place has none.

    Args:
        extra: features (places, d_m) of further modalities, NaN where a place has none.
    """
    extra, z = extra or {}, {"location": model.embed_locations(store.lonlat)}
    for m in model.modalities[1:]:
        if m in extra:
            has = np.isfinite(extra[m]).all(1)
            vectors = model.embed_features(m, extra[m][has])
        elif m in store.modalities:
            has = store.has(m)
            vectors = model.embed_store(store, m, np.flatnonzero(has), progress)
        else:
            continue
        z[m] = np.full((len(store), model.dim), np.nan, np.float32)
        z[m][has] = vectors
    return z


def evaluate_model(
    name: str, model: Model, store: PlaceStore, z: Views, folds: list[TaskFold], config: dict, seed: int = 0
) -> tuple[dict[str, list[dict]], dict[str, np.ndarray]]:
    """Probe a run's locations; measure retrieval and the space on held-out places.

    From ``z`` (places, d) of :func:`embed_all`; ``config`` is of the split, ``seed`` of the bootstrap.
    Returns rows by table, and the arrays of :func:`probe_rows` and :func:`retrieval_row`.
    """
    test = split_of(store, {"split": config}) == "test"
    present = {m: test & np.isfinite(vectors[:, 0]) for m, vectors in z.items()}
    held_out = "blocked" if config["kind"] == "blocked" else "held-out"
    probes, predictions = probe_rows(ProbeRunner(name, store.lonlat, z["location"]), folds, seed)
    found = []
    for query, target in permutations(z, 2):
        chosen = present[query] & present[target]
        if chosen.sum() >= MIN_QUERIES:
            measured, arrays = retrieval_row(z[query], z[target], store.lonlat, chosen, seed)
            trained = frozenset((query, target)) in model.architecture.pairs
            row = {"run": name, "query": query, "target": target, "split": held_out, "trained": trained}
            found.append(row | measured)
            predictions[f"retrieval|{query}|{target}"] = arrays
    information = _measured(name, _measures(z, present))
    return {"probes": probes, "retrieval": found, "information": information}, predictions


def probe_rows(
    runner: ProbeRunner, folds: Iterable[TaskFold], seed: int = 0
) -> tuple[list[dict], dict[str, np.ndarray]]:
    """Predict every task fold; return rows, and predictions (t,) by "task|protocol"."""
    rows, predictions = [], {}
    for fold in folds:
        predicted, penalty = runner.predict(fold)
        predictions[f"{fold.name}|{fold.protocol}"] = predicted
        lonlat, truth = runner.lonlat[fold.test], fold.truth()
        row = {
            "representation": runner.name,
            "is_reference": runner.is_reference,
            "task": fold.name,
            "split": fold.protocol,
            "metric": fold.task.metric,
            "value": float(fold.score(predicted)),
            **_interval("", lonlat, partial(fold.score, predicted), seed),
            "scaling": fold.task.scaling,
            "n_train": int(np.mean([train.sum() for train, _ in fold.folds])),
            "n_test": len(truth),
            "penalty": penalty,
        }
        if fold.task.kind == "classification":
            row["n_test_left_out"] = fold.left_out
        else:
            moran = None, None
            with contextlib.suppress(ValueError):  # too few places, or the same residuals
                moran = morans_i(truth - predicted, lonlat, seed)
            row["morans_i_of_residuals"], row["morans_i_z"] = moran
        rows.append(row)
    return rows, predictions


def retrieval_row(
    queries: np.ndarray, gallery: np.ndarray, lonlat: np.ndarray, chosen: np.ndarray, seed: int = 0
) -> tuple[dict, np.ndarray]:
    """Measure retrieval among ``chosen`` places (n,), with 95 % intervals by blocks.

    Queries and gallery are unit vectors (n, d) at positions (n, 2), degrees. The second result
    is the row of the store, the hit among 10 and the error in km of each query, (3, q).
    """
    places = lonlat[chosen]
    found = retrieval(queries[chosen], gallery[chosen], places)
    row = {k: v for k, v in found.items() if not isinstance(v, np.ndarray)}
    for k in RANKS:
        hits = found[f"hits@{k}"]
        row |= _interval(f"recall@{k}_", places, lambda w, hits=hits: w @ hits / w.sum(1), seed)
    row |= _interval("median_km_", places, lambda w: weighted_median(found["error_km"], w), seed)
    return row, np.stack([np.flatnonzero(chosen), found["hits@10"], found["error_km"]])


def _measures(z: Views, present: Views) -> dict[str, float]:
    measures = {}
    for m, vectors in z.items():
        cloud = vectors[present[m]]
        if len(cloud) > 1:
            measures[f"effective rank, {m}"] = effective_rank(cloud)
            measures[f"uniformity, {m}"] = uniformity(cloud)
    for a, b in combinations(z, 2):
        both = present[a] & present[b]
        if both.sum() > 1:
            measures[f"alignment, {a} and {b}"] = alignment(z[a][both], z[b][both])
            measures[f"modality gap, {a} and {b}"] = modality_gap(z[a][both], z[b][both])
    return measures


def _measured(name: str, measures: Mapping[str, float | None]) -> list[dict]:
    return [{"run": name, "measure": measure, "value": value} for measure, value in measures.items()]


def _interval(prefix: str, lonlat: np.ndarray, statistic: Callable[..., np.ndarray], seed: int) -> dict:
    ends = zip(("low", "high"), block_bootstrap(lonlat, statistic, seed=seed), strict=True)
    return {f"{prefix}{end}": None if np.isnan(value) else value for end, value in ends}


def _split(store: PlaceStore, configs: list[dict], size_km: float) -> tuple[dict, np.ndarray, list[dict]]:
    """Config and labels (places,) of the runs' split, else of the first that the store is large enough for."""
    if any(config != configs[0] for config in configs):
        raise ValueError("the runs have different splits; evaluate them one by one")
    blocked = {"kind": "blocked", "size_km": size_km, "buffer_km": 50.0, "seed": 0}
    choices = [*configs[:1], blocked, {"kind": "random", "seed": 0}]
    skipped: list[dict] = []
    for config, instead in pairwise(choices):
        try:
            return config, split_of(store, {"split": config}), skipped
        except ValueError:  # too few blocks
            how = "drawn at random" if instead["kind"] == "random" else f"split by blocks of {size_km:g} km"
            why = f"too few blocks of {config.get('size_km', 500):g} km hold places; {how}"
            warnings.warn(f"{store.path}: {why}", stacklevel=3)
            skipped.append({"protocol": "blocked", "why": why})
    return choices[-1], split_of(store, {"split": choices[-1]}), skipped


def _training(model: Model, store: PlaceStore) -> dict:
    keys = ("architecture", "modalities", "steps", "batch_size", "samples_seen", "selected_step", "parameters", "seed",
            "wall_s", "device")  # fmt: skip
    data, init = model.manifest["data"], model.config.get("init")
    other = {"init": init, "data_name": data["name"], "other_data": data["hash"] != store.data_hash}
    return {k: model.manifest[k] for k in keys} | other


def _load_all(
    subjects: Sequence[str | Path] | Mapping[str, Any], store: PlaceStore
) -> tuple[dict[str, Model], dict[str, np.ndarray]]:
    """Models of runs, and embeddings (places, d) from other sources, by name."""
    if not isinstance(subjects, Mapping):
        paths = [Path(subject) for subject in subjects]
        names = [path.stem if _is_table(path) else path.resolve().name for path in paths]
    else:
        paths, names = list(subjects.values()), list(subjects)
    if not names:
        raise ValueError("no runs to evaluate, and no embeddings")
    if len({name.lower() for name in names}) < len(names):
        raise ValueError(f"two subjects share a name: {', '.join(names)}; rename one")
    models, others = {}, {}
    for name, subject in zip(names, paths, strict=True):
        if name in (*REFERENCES, PUBLISHED):
            raise ValueError(f"{name!r} is the name of a reference row; rename it")
        if not isinstance(subject, str | Path):
            vectors = subject(store.lonlat.copy()) if callable(subject) else subject
            others[name] = _checked_embeddings(name, vectors, store)
            warn_of_lengths(others[name], name)
        elif _is_table(Path(subject)):
            others[name] = _checked_embeddings(name, read_embeddings(subject, store, every=True), store)
        else:
            models[name] = load(subject)
    return models, others


def _is_table(path: Path) -> bool:
    return bool(path.suffix) and not path.is_dir()


def _checked_embeddings(name: str, vectors: Any, store: PlaceStore) -> np.ndarray:
    try:
        with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite, which is refused
            vectors = filled(np.asanyarray(vectors)).astype(np.float32)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged rows, text, tensors with a gradient or on a GPU
        raise ValueError(f"{name}: no array of numbers ({error})") from None
    if vectors.ndim != 2 or len(vectors) != len(store) or not vectors.size:
        raise ValueError(f"{name}: {vectors.shape} is not ({len(store)}, d), a row for each place")
    bad = np.flatnonzero(~np.isfinite(vectors).all(1))
    if len(bad):
        place = f"place {store.place_id[bad[0]]} (row {bad[0]})"
        raise ValueError(f"{name}: the embedding of {place} is not finite")
    return vectors
