"""The whole evaluation of finished runs, as one ``results.json``."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations, permutations
from pathlib import Path

import numpy as np

from geonb import __version__
from geonb.data.store import PlaceStore
from geonb.evaluation.information import alignment, effective_rank, linear_cka, modality_gap, uniformity
from geonb.evaluation.probes import (
    MIN_CLASS,
    TASKS,
    Probe,
    RidgeProbe,
    Task,
    balanced_accuracy,
    constant_probe,
    neighbours_probe,
    raw_coordinates,
    score,
    untrained_encoding,
)
from geonb.evaluation.retrieval import RADII_KM, retrieval
from geonb.evaluation.spatial import block_bootstrap, morans_i_test, weighted_median

SCHEMA = 2
REFERENCES = ("majority or mean", "raw coordinates", "untrained harmonics", "nearest neighbours")
BLOCK_KM = 500.0
MIN_TRAIN, MIN_TEST = 20, 5  # labelled places, without which a task is skipped


def evaluate(runs, data, out: str | Path | None = None, seed: int = 0, progress: bool = True) -> dict:
    """Probe, retrieve and measure finished runs of one store; write ``out`` as a whole.

    Two protocols, never mixed in one table. "random": 80/20 among the places outside the held-out blocks, which
    pre-training has seen without labels. "blocked": trained on the pre-training's places, tested on held-out blocks
    that neither the encoder nor the probe has seen (called "held-out" for runs whose own split is not blocked, where
    it is no test of extrapolation). Location embeddings are probed as they are; no coordinates
    are appended. Retrieval is among the held-out places that have both modalities.

    Args:
        runs: run folders; the name of the folder names the run.
        data: a place store or its folder. A run that was trained on other data is allowed, and marked: it may have
            seen places near the held-out ones. Tasks and modalities that the store lacks are listed as skipped.
        out: where to write the results, or None.
        seed: of the random split and the bootstrap.

    Returns:
        {"schema", "created", "versions", "data", "training", "probes", "retrieval", "information", "skipped"}; each
        table is a list of flat rows.

    Raises:
        ValueError: no runs, two of one name, one that did not finish, or runs with different splits.
    """
    import torch
    from tqdm.auto import tqdm

    from geonb.training import split_of

    store = data if isinstance(data, PlaceStore) else PlaceStore.open(data)
    models = _load_all(runs)
    splits = {json.dumps(m.config["split"], sort_keys=True) for m in models.values()}
    if len(splits) > 1:
        raise ValueError("the runs have different splits, so no held-out place is new to all; evaluate them apart")
    config = next(iter(models.values())).config
    split = split_of(store, config)
    held_out = "blocked" if config["split"]["kind"] == "blocked" else "held-out"

    results = {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"geonb": __version__, "numpy": np.__version__, "torch": torch.__version__},
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
    present = [m for m in ("text", "image") if store.has(m).any()]
    results["skipped"] += [{"modality": m, "why": "the store has none"} for m in ("text", "image") if m not in present]

    bar = tqdm(total=len(models) + len(REFERENCES), desc="evaluation", unit="row", disable=not progress)
    with bar:
        protocols = {"random": _random_protocol(split, seed), held_out: (split == "train", split == "test")}
        representations = {
            "raw coordinates": raw_coordinates(store.lonlat),
            "untrained harmonics": untrained_encoding(store.lonlat),
        }
        cases = _cases(store, tasks, protocols, results["skipped"])
        for name in REFERENCES:
            results["probes"] += _probe_rows(name, representations.get(name), store, cases, seed)
            bar.update()
        location, cache = {}, {}
        for name, model in models.items():
            location[name] = model.embed_locations(store.lonlat)
            results["probes"] += _probe_rows(name, location[name], store, cases, seed)
            z = {"location": location[name]}
            for m in model.modalities[1:]:
                if m in present:
                    z[m] = np.full((len(store), model.dim), np.nan, np.float32)
                    z[m][store.has(m)] = _embeddings(store, m, model, cache, progress)
            results["retrieval"] += _retrieval_rows(name, model, z, store, split, held_out, seed)
            results["information"] += _information_rows(name, z, store, split)
            bar.update()
    for a, b in permutations(location, 2):
        cka = linear_cka(location[a][split == "test"], location[b][split == "test"])
        results["information"].append({"run": a, "measure": f"CKA with {b}", "value": cka})

    if out is not None:
        _write(Path(out), results)
    return results


def _write(out: Path, results: dict) -> None:
    """The whole file or none of it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.name}.{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def _load_all(runs) -> dict:
    from geonb.model import load

    models, paths = {}, {}
    for run in map(Path, runs):
        name = run.resolve().name
        if name in paths:
            raise ValueError(f"{paths[name]} and {run} are both called {name!r}; rename one, results go by name")
        if name in REFERENCES:
            raise ValueError(f"{run}: {name!r} is the name of a reference row; rename the run")
        models[name], paths[name] = load(run), run
    if not models:
        raise ValueError("no runs to evaluate")
    return models


def _embeddings(store: PlaceStore, modality: str, model, cache: dict, progress: bool) -> np.ndarray:
    """Embeddings of the places that have the modality. Runs that share a backbone share its features, and the time to
    load it; images that a run embeds from their pixels are read in parts."""
    from geonb.encoders.features import features

    if model.end_to_end(modality):
        parts = np.array_split(np.flatnonzero(store.has(modality)), 1 + len(store) // 1024)
        return np.concatenate([model.embed_images(store.images(rows), harmonised=True) for rows in parts])
    key = modality, model.manifest["backbones"][modality]["fingerprint"]
    if key not in cache:
        cache[key] = features(store, modality, model.backbone(modality), progress=progress)
    return model.embed_features(modality, cache[key])


def _training(model, store: PlaceStore) -> dict:
    keys = ("architecture", "modalities", "steps", "batch_size", "samples_seen", "selected_step", "parameters", "seed",
            "wall_s", "device")  # fmt: skip
    manifest = model.manifest
    return {k: manifest[k] for k in keys} | {
        "init": model.config.get("init"),
        "data_name": manifest["data"]["name"],
        "other_data": manifest["data"]["hash"] != store.data_hash,
    }


def _random_protocol(split: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """80/20 at random among the places that are not held out in blocks."""
    known = np.flatnonzero((split == "train") | (split == "buffer"))
    order = np.random.default_rng(seed).permutation(known)
    train, test = np.zeros(len(split), bool), np.zeros(len(split), bool)
    cut = int(0.8 * len(order))
    train[order[:cut]], test[order[cut:]] = True, True
    return train, test


@dataclass(frozen=True)
class _Case:
    """One task under one protocol: which places train and test the probe, whatever the representation."""

    name: str
    task: Task
    protocol: str
    y: np.ndarray
    train: np.ndarray
    test: np.ndarray
    left_out: int  # test places whose class is too rare among the training places


def _cases(store: PlaceStore, tasks: dict[str, Task], protocols: dict, skipped: list[dict]) -> list[_Case]:
    """Every task under every protocol that has enough labelled places; the others are added to ``skipped``."""
    cases = []
    for name, task in tasks.items():
        y = task.target(store.column(task.column))
        known = np.array([v is not None for v in y]) if task.kind == "classification" else np.isfinite(y)
        for protocol, (train, test) in protocols.items():
            train, test = train & known, test & known
            labelled = int(test.sum())
            if task.kind == "classification":
                classes, counts = np.unique(y[train].astype(str), return_counts=True)
                frequent = np.isin(np.where(known, y, "").astype(str), classes[counts >= MIN_CLASS])
                train, test = train & frequent, test & frequent
            n = int(train.sum()), int(test.sum())
            if n[0] < MIN_TRAIN or n[1] < MIN_TEST:
                why = f"{n[0]} training and {n[1]} test places with a usable label; {MIN_TRAIN} and {MIN_TEST} needed"
                skipped.append({"task": name, "split": protocol, "why": why})
                continue
            if task.kind == "regression" and np.ptp(y[test]) == 0:
                why = "the labels of the test places are all the same, and R² is not defined"
                skipped.append({"task": name, "split": protocol, "why": why})
                continue
            cases.append(_Case(name, task, protocol, y, train, test, labelled - n[1]))
    return cases


def _probe_rows(name: str, representation, store: PlaceStore, cases: list[_Case], seed: int) -> list[dict]:
    """One row for each case of a representation (None for the references that are no features)."""
    rows, fitted = [], {}
    for case in cases:
        y, train, test, kind, lonlat = case.y, case.train, case.test, case.task.kind, store.lonlat
        if name == "majority or mean":
            probe = constant_probe(y[train], y[test], kind)
        elif name == "nearest neighbours":
            probe = neighbours_probe(lonlat[train], y[train], lonlat[test], y[test], kind)
        else:
            places = train.tobytes()  # targets with the same training places share one decomposition
            if places not in fitted:
                fitted[places] = RidgeProbe(representation[train], lonlat[train])
            probe = fitted[places].probe(y[train], representation[test], y[test], kind)
        rows.append(_probe_row(name, case, probe, lonlat[test], seed))
    return rows


def _probe_row(name: str, case: _Case, probe: Probe, lonlat, seed: int) -> dict:
    kind, classification = case.task.kind, case.task.kind == "classification"
    truth = case.y[case.test].astype(str if classification else np.float64)

    def interval(statistic):
        return block_bootstrap(lonlat, statistic, BLOCK_KM, seed=seed)

    low, high = interval(lambda w: score(truth, probe.predictions, kind, w))
    row = {
        "representation": name,
        "is_reference": name in REFERENCES,
        "task": case.name,
        "split": case.protocol,
        "metric": "accuracy" if classification else "R²",
        "value": probe.score,
        "low": low,
        "high": high,
        "units": "share" if classification else "share of variance",
        "scaling": case.task.scaling,
        "n_train": int(case.train.sum()),
        "n_test": len(truth),
        "penalty": probe.penalty,
    }
    if classification:
        low, high = interval(lambda w: balanced_accuracy(truth, probe.predictions, w))
        return row | {
            "classes": len(np.unique(truth)),
            "n_test_left_out": case.left_out,
            "balanced_accuracy": float(balanced_accuracy(truth, probe.predictions)),
            "balanced_accuracy_low": low,
            "balanced_accuracy_high": high,
        }
    residual = truth - probe.predictions
    size = np.abs(residual)
    low, high = interval(lambda w: w @ size / w.sum(1))
    measurable = len(residual) > 8 and np.ptp(residual) > 0
    moran, z = morans_i_test(residual, lonlat, seed=seed) if measurable else (None, None)
    return row | {
        "target_units": case.task.target_units,
        "mean_absolute_error": float(size.mean()),
        "mean_absolute_error_low": low,
        "mean_absolute_error_high": high,
        "morans_i_of_residuals": moran,
        "morans_i_z": z,
    }


def _retrieval_rows(name, model, z: dict, store: PlaceStore, split, held_out: str, seed: int) -> list[dict]:
    trained = _bound_pairs(model)
    rows = []
    for query, target in permutations(z, 2):
        chosen = (split == "test") & store.has(query) & store.has(target)
        if chosen.sum() < 10:
            continue
        lonlat = store.lonlat[chosen]
        found = retrieval(z[query][chosen], z[target][chosen], lonlat)
        keep = ["n", "median_km", "chance_median_km", *(f"within_{r}_km" for r in RADII_KM)]
        keep += [f"{kind}@{k}" for k in (1, 5, 10) for kind in ("recall", "chance")]
        statistics = {
            f"recall@{k}": lambda w, hits=found[f"hits@{k}"]: w @ hits / w.sum(1) for k in (1, 5, 10)
        } | {"median_km": lambda w, error=found["error_km"]: weighted_median(error, w)}  # fmt: skip
        row = {"run": name, "query": query, "target": target, "split": held_out}
        row |= {"trained": frozenset((query, target)) in trained} | {k: found[k] for k in keep}
        for metric, statistic in statistics.items():
            row[f"{metric}_low"], row[f"{metric}_high"] = block_bootstrap(lonlat, statistic, BLOCK_KM, seed=seed)
        rows.append(row)
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
    for a, b in combinations(z, 2):
        both = test & store.has(a) & store.has(b)
        if both.sum() > 1:
            pair = z[a][both], z[b][both]
            rows.append({"run": name, "measure": f"alignment, {a} and {b}", "value": alignment(*pair)})
            rows.append({"run": name, "measure": f"modality gap, {a} and {b}", "value": modality_gap(*pair)})
    return rows
