"""The whole evaluation of finished runs, as one ``results.json``."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from itertools import permutations
from pathlib import Path

import numpy as np

from geonb import __version__
from geonb.data.store import PlaceStore
from geonb.evaluation.information import alignment, effective_rank, linear_cka, modality_gap, uniformity
from geonb.evaluation.probes import (
    MIN_CLASS,
    TASKS,
    Probe,
    Task,
    constant_probe,
    linear_probe,
    neighbours_probe,
    raw_coordinates,
    score,
    untrained_encoding,
)
from geonb.evaluation.retrieval import RADII_KM, retrieval
from geonb.evaluation.spatial import block_bootstrap, morans_i

SCHEMA = 1
REFERENCES = ("majority or mean", "raw coordinates", "untrained harmonics", "nearest neighbours")
BLOCK_KM = 500.0


def evaluate(runs, data, out: str | Path | None = None, seed: int = 0, progress: bool = True) -> dict:
    """Probe, retrieve and measure finished runs of one store; write ``out`` as a whole.

    Two protocols, never mixed in one table. "random": 80/20 among the places outside the held-out blocks, which
    pre-training has seen without labels. "blocked": trained on the pre-training's places, tested on held-out blocks
    that neither the encoder nor the probe has seen. Location embeddings are probed as they are; no coordinates
    are appended. Retrieval is among the held-out places that have both modalities.

    Args:
        runs: run folders; the name of the folder names the run.
        data: a place store or its folder. A run that was trained on other data is allowed, and marked.
        out: where to write the results, or None.
        seed: of the random split and the bootstrap.

    Returns:
        {"schema", "created", "versions", "data", "training", "probes", "retrieval", "information", "skipped"}; each
        table is a list of flat rows.
    """
    from tqdm.auto import tqdm

    from geonb.encoders.features import features
    from geonb.model import load
    from geonb.training import split_of

    store = data if isinstance(data, PlaceStore) else PlaceStore.open(data)
    models = {Path(r).name: load(r) for r in runs}
    if not models:
        raise ValueError("no runs to evaluate")
    splits = {json.dumps(m.config["split"], sort_keys=True) for m in models.values()}
    if len(splits) > 1:
        raise ValueError("the runs have different splits, so no held-out place is new to all; evaluate them apart")
    split = split_of(store, next(iter(models.values())).config)

    results = {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"geonb": __version__},
        "data": {
            "name": store.path.name,
            "hash": store.data_hash,
            "places": len(store),
            "simulated": {m: bool(store.simulated(m)) for m in ("location", "text", "image")},
            "held_out": int((split == "test").sum()),
        },
        "training": {name: _training(model, store) for name, model in models.items()},
        "probes": [],
        "retrieval": [],
        "information": [],
        "skipped": [],
    }
    tasks = {}
    for name, task in TASKS.items():
        if task.column in store.columns:
            tasks[name] = task
        else:
            results["skipped"].append({"task": name, "why": f"the store has no column {task.column}"})

    bar = tqdm(total=len(models) + len(REFERENCES), desc="evaluation", unit="row", disable=not progress)
    with bar:
        protocols = {"random": _random_protocol(split, seed), "blocked": (split == "train", split == "test")}
        representations = {
            "raw coordinates": raw_coordinates(store.lonlat),
            "untrained harmonics": untrained_encoding(store.lonlat),
        }
        for name in REFERENCES:
            results["probes"] += _probe_rows(name, representations.get(name), store, tasks, protocols, seed)
            bar.update()
        location = {}
        for name, model in models.items():
            location[name] = model.embed_locations(store.lonlat)
            results["probes"] += _probe_rows(name, location[name], store, tasks, protocols, seed)
            z = {"location": location[name]}
            for m in model.modalities[1:]:
                z[m] = np.full((len(store), model.dim), np.nan, np.float32)
                cached = features(store, m, model.backbone(m), progress=progress)
                z[m][store.has(m)] = model.embed_features(m, cached)
            results["retrieval"] += _retrieval_rows(name, model, z, store, split, seed)
            results["information"] += _information_rows(name, z, store, split)
            bar.update()
    for a, b in permutations(location, 2):
        cka = linear_cka(location[a][split == "test"], location[b][split == "test"])
        results["information"].append({"run": a, "measure": f"CKA with {b}", "value": cka})

    if out is not None:
        out = Path(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = out.with_name(f"{out.name}.{os.getpid()}.partial")
        partial.write_text(json.dumps(results, indent=1) + "\n")
        partial.replace(out)
    return results


def _training(model, store: PlaceStore) -> dict:
    keys = ("architecture", "modalities", "steps", "batch_size", "samples_seen", "selected_step", "parameters", "seed",
            "wall_s", "device")  # fmt: skip
    manifest = model.manifest
    return {k: manifest[k] for k in keys} | {"other_data": manifest["data"]["hash"] != store.data_hash}


def _random_protocol(split: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """80/20 at random among the places that are not held out in blocks."""
    known = np.flatnonzero((split == "train") | (split == "buffer"))
    order = np.random.default_rng(seed).permutation(known)
    train, test = np.zeros(len(split), bool), np.zeros(len(split), bool)
    cut = int(0.8 * len(order))
    train[order[:cut]], test[order[cut:]] = True, True
    return train, test


def _probe_rows(name: str, representation, store, tasks: dict[str, Task], protocols: dict, seed: int) -> list[dict]:
    """One row for each task and protocol of a representation (None for those that are no features)."""
    rows = []
    for task_name, task in tasks.items():
        y = task.target(store.column(task.column))
        known = np.array([v is not None for v in y]) if task.kind == "classification" else np.isfinite(y)
        for protocol, (train, test) in protocols.items():
            train, test = train & known, test & known
            if task.kind == "classification":
                classes, counts = np.unique(y[train].astype(str), return_counts=True)
                frequent = np.isin(np.where(known, y, "").astype(str), classes[counts >= MIN_CLASS])
                train, test = train & frequent, test & frequent
            if train.sum() < 20 or test.sum() < 5:
                continue
            probe = _probe_of(name, representation, store.lonlat, y, train, test, task.kind)
            rows.append(_probe_row(name, task_name, task, protocol, probe, y[test], store.lonlat[test], train, seed))
    return rows


def _probe_of(name: str, representation, lonlat, y, train, test, kind: str) -> Probe:
    if name == "majority or mean":
        return constant_probe(y[train], y[test], kind)
    if name == "nearest neighbours":
        return neighbours_probe(lonlat[train], y[train], lonlat[test], y[test], kind)
    return linear_probe(representation[train], y[train], representation[test], y[test], kind, lonlat[train])


def _probe_row(name, task_name, task: Task, protocol, probe: Probe, truth, lonlat, train, seed) -> dict:
    classification = task.kind == "classification"
    truth = truth.astype(str) if classification else truth.astype(np.float64)
    low, high = block_bootstrap(
        lonlat, lambda w: score(truth, probe.predictions, task.kind, w), BLOCK_KM, seed=seed
    )  # fmt: skip
    row = {
        "representation": name,
        "is_reference": name in REFERENCES,
        "task": task_name,
        "split": protocol,
        "metric": "accuracy" if classification else "R²",
        "value": probe.score,
        "low": low,
        "high": high,
        "scaling": task.scaling,
        "n_train": int(train.sum()),
        "n_test": len(truth),
        "penalty": probe.penalty,
    }
    if classification:
        recalls = [(probe.predictions[truth == c] == c).mean() for c in np.unique(truth)]
        return row | {"classes": len(recalls), "balanced_accuracy": float(np.mean(recalls))}
    residual = truth - probe.predictions
    moran = morans_i(residual, lonlat) if len(residual) > 8 and residual.std() > 0 else None
    return row | {"mean_absolute_error": float(np.abs(residual).mean()), "morans_i_of_residuals": moran}


def _retrieval_rows(name, model, z: dict, store: PlaceStore, split, seed: int) -> list[dict]:
    trained = _bound_pairs(model)
    rows = []
    for query, target in permutations(z, 2):
        chosen = (split == "test") & store.has(query) & store.has(target)
        if chosen.sum() < 10:
            continue
        lonlat = store.lonlat[chosen]
        found = retrieval(z[query][chosen], z[target][chosen], lonlat)
        hits = found["hits@10"]
        low, high = block_bootstrap(lonlat, lambda w, h=hits: float(w @ h / w.sum()), BLOCK_KM, seed=seed)
        keep = ["n", "median_km", "chance_median_km", *(f"within_{r}_km" for r in RADII_KM)]
        keep += [f"{kind}@{k}" for k in (1, 5, 10) for kind in ("recall", "chance")]
        rows.append(
            {"run": name, "query": query, "target": target, "trained": frozenset((query, target)) in trained}
            | {k: found[k] for k in keep}
            | {"recall@10_low": low, "recall@10_high": high}
        )
    return rows


def _bound_pairs(model) -> set[frozenset]:
    """Which pairs of modalities a loss of the run has compared."""
    spokes = {frozenset(("location", m)) for m in model.modalities[1:]}
    if model.manifest["architecture"] == "fused":
        return spokes | {frozenset(p) for p in permutations(model.modalities, 2)}
    return spokes


def _information_rows(name: str, z: dict, store: PlaceStore, split) -> list[dict]:
    test = split == "test"
    rows = []
    for m, vectors in z.items():
        own = vectors[test & store.has(m)]
        if len(own) > 1:
            rows.append({"run": name, "measure": f"effective rank, {m}", "value": effective_rank(own)})
            rows.append({"run": name, "measure": f"uniformity, {m}", "value": uniformity(own)})
    for m in list(z)[1:]:
        both = test & store.has(m)
        if both.sum() > 1:
            pair = z["location"][both], z[m][both]
            rows.append({"run": name, "measure": f"alignment, location and {m}", "value": alignment(*pair)})
            rows.append({"run": name, "measure": f"modality gap, location and {m}", "value": modality_gap(*pair)})
    return rows
