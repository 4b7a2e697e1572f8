"""The whole evaluation of finished runs, and of embeddings from elsewhere, as one ``results.json``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import combinations, permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from geonb import __version__
from geonb.data.store import PlaceStore
from geonb.evaluation.cases import PUBLISHED, REFERENCES, Case, Predictor, make_cases, published_embeddings
from geonb.evaluation.information import alignment, effective_rank, linear_cka, modality_gap, uniformity
from geonb.evaluation.probes import balanced_accuracy, score
from geonb.evaluation.protocols import bands_protocol, block_km, blocked_protocol, continents_protocol, random_protocol
from geonb.evaluation.retrieval import RADII_KM, retrieval
from geonb.evaluation.spatial import finite_or_none, interval_or_none, morans_i_test, weighted_median
from geonb.evaluation.tasks import TASKS
from geonb.geo import EARTH_RADIUS_KM, check_lonlat, unit_xyz

if TYPE_CHECKING:
    from geonb.model import Model

SCHEMA = 3
BLOCK_KM = 500.0
MATCH_KM = 1.0  # an embedding from elsewhere belongs to a place that is no farther away


def evaluate(
    subjects: Sequence[str | Path] | Mapping[str, Any],
    data: PlaceStore | str | Path,
    out: str | Path | None = None,
    seed: int = 0,
    progress: bool = True,
) -> dict:
    """Probe, retrieve and measure embeddings of the places of one store; write ``out`` as a whole.

    One line evaluates a competitor: ``evaluate({"theirs": their_function}, "data/atlas")``, where the function takes
    positions (n, 2), lon/lat degrees, and returns vectors (n, d).

    The protocols of :mod:`geonb.evaluation.protocols`: random, blocked, continents and bands, never mixed in one table.
    "blocked" is called "held-out" for runs whose own split is not blocked, and for embeddings of places that fill too
    few blocks, where it is no test of extrapolation.
    Location embeddings are probed as they are; no coordinates are appended. Retrieval is among the held-out places
    that have both modalities.

    Args:
        subjects: run folders and .parquet files of embeddings, named by their file names; or a dict from names to any
            of these, to functions of positions, or to arrays (places, d). A .parquet file has a column ``embedding``
            (lists of numbers) and a place_id, or positions (lon and lat, or WKB points as geometry) within 1 km of
            every place of the store; ``geonb embed`` writes such a file.
        data: a place store or its folder. A run that was trained on other data is allowed, and marked: it may have
            seen places near the held-out ones, as may every embedding from elsewhere. Tasks and modalities that the
            store lacks are listed as skipped.
        out: where to write the results, or None.
        seed: of the random split and the bootstrap.

    Returns:
        {"schema", "created", "versions", "data", "training", "probes", "retrieval", "information", "skipped"}; each
        table is a list of flat rows. A number that is not defined is None: an interval of places that fill too few
        blocks (:func:`geonb.evaluation.spatial.block_bootstrap`), or the CKA with a constant embedding.

    Raises:
        ValueError: nothing to evaluate, two of one name, a run that did not finish, runs with different splits, or
            an embedding that is not finite, lacks a place or has one twice.
    """
    import torch

    from geonb._util import tqdm
    from geonb.config import split_of

    store = data if isinstance(data, PlaceStore) else PlaceStore.open(data)
    models, others = _load_all(subjects, store)
    splits = {json.dumps(m.config["split"], sort_keys=True) for m in models.values()}
    if len(splits) > 1:
        raise ValueError("the runs have different splits, so no held-out place is new to all; evaluate them apart")
    tasks = {name: task for name, task in TASKS.items() if task.column in store.columns}
    size_km, ranges = block_km(store, tasks)
    config: dict[str, Any] = {"kind": "blocked", "size_km": size_km, "buffer_km": 50.0, "seed": seed}
    config = json.loads(splits.pop()) if splits else config
    skipped: list[dict[str, str]] = []
    try:
        split = split_of(store, {"split": config})
    except ValueError:
        if models:
            raise
        skipped.append({"protocol": "blocked", "why": f"too few blocks of {size_km:g} km hold places; drawn at random"})
        config = {"kind": "random", "seed": seed}
        split = split_of(store, {"split": config})

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
        "protocols": [],
        "probes": [],
        "retrieval": [],
        "information": [],
        "skipped": skipped,
    }
    for name, task in TASKS.items():
        if name not in tasks:
            results["skipped"].append({"task": name, "why": f"the store has no column {task.column}"})
    present = [m for m in ("text", "image") if store.has(m).any()]
    results["skipped"] += [{"modality": m, "why": "the store has none"} for m in ("text", "image") if m not in present]

    held_out = "blocked" if config["kind"] == "blocked" else "held-out"
    apart = config.get("buffer_km", 0.0), config.get("size_km", BLOCK_KM)
    protocols = [random_protocol(split, seed), blocked_protocol(split, *apart, held_out)]
    protocols.append(bands_protocol(split, store.lonlat))
    if "continent" in store.columns:
        protocols.append(continents_protocol(split, store.lonlat, store.column("continent")))
    holds_out = {p.name: any(train.any() and test.any() for train, test in p.folds) for p in protocols}
    why = "the places lie too close together for a part of the Earth to be held out"
    results["skipped"] += [{"protocol": name, "why": why} for name, does in holds_out.items() if not does]
    protocols = [p for p in protocols if holds_out[p.name]]
    for protocol in protocols:
        protocol.check(store.lonlat)
        nearest = protocol.nearest_label_km(store.lonlat)
        results["protocols"].append({"split": protocol.name, "nearest_label_km": nearest, "folds": len(protocol.folds)})
    cases = make_cases(store.column, tasks, protocols, results["skipped"])

    bar = tqdm(total=len(models) + len(others) + len(REFERENCES), desc="evaluation", unit="row", disable=not progress)
    location: dict[str, np.ndarray] = {}
    cache: dict[tuple[str, str], np.ndarray] = {}
    with bar:
        for name in REFERENCES:
            results["probes"] += _probe_rows(Predictor(name, store.lonlat), cases, seed)
            bar.update()
        for name, vectors in published_embeddings(store.lonlat).items():
            results["probes"] += _probe_rows(Predictor(name, store.lonlat, vectors), cases, seed)
        for name, vectors in others.items():
            results["probes"] += _probe_rows(Predictor(name, store.lonlat, vectors), cases, seed)
            location[name] = vectors
            bar.update()
        for name, model in models.items():
            location[name] = model.embed_locations(store.lonlat)
            results["probes"] += _probe_rows(Predictor(name, store.lonlat, location[name]), cases, seed)
            z = {"location": location[name]}
            for m in model.modalities[1:]:
                if m in present:
                    z[m] = np.full((len(store), model.dim), np.nan, np.float32)
                    z[m][store.has(m)] = _embeddings(store, m, model, cache, progress)
            results["retrieval"] += _retrieval_rows(name, model, z, store, split, held_out, seed)
            results["information"] += _information_rows(name, z, store, split)
            bar.update()
    for name, vectors in others.items():
        rank = effective_rank(vectors[split == "test"])
        results["information"].append({"run": name, "measure": "effective rank, location", "value": rank})
    for a, b in permutations(location, 2):
        cka = finite_or_none(linear_cka(location[a][split == "test"], location[b][split == "test"]))
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


def _load_all(
    subjects: Sequence[str | Path] | Mapping[str, Any], store: PlaceStore
) -> tuple[dict, dict[str, np.ndarray]]:
    """(Models of runs, embeddings (places, d) from elsewhere), by name."""
    from geonb.model import load

    if not isinstance(subjects, dict):
        named = [(Path(s).resolve().name.removesuffix(".parquet"), s) for s in subjects]
        for name in dict(named):
            same = [str(s) for n, s in named if n == name]
            if len(same) > 1:
                raise ValueError(f"{' and '.join(same)} are both called {name!r}; rename one, results go by name")
        subjects = dict(named)
    if not subjects:
        raise ValueError("no runs to evaluate, and no embeddings")
    models, others = {}, {}
    for name, subject in subjects.items():
        if name in (*REFERENCES, PUBLISHED):
            raise ValueError(f"{name!r} is the name of a reference row; rename what you give")
        if isinstance(subject, str | Path) and Path(subject).suffix != ".parquet":
            models[name] = load(subject)
            continue
        if isinstance(subject, str | Path):
            vectors = _read_embeddings(Path(subject), store)
        else:
            vectors = np.asarray(subject(store.lonlat.copy()) if callable(subject) else subject)
        if vectors.ndim != 2 or len(vectors) != len(store):
            raise ValueError(f"{name}: embeddings {vectors.shape}; give ({len(store)}, d), a row for each place")
        bad = ~np.isfinite(vectors.astype(np.float64)).all(1)
        if bad.any():
            first = int(bad.argmax())
            raise ValueError(
                f"{name}: the embedding of place {store.place_id[first]} (row {first}) is not finite "
                f"({int(bad.sum())} such rows)"
            )
        others[name] = vectors.astype(np.float32)
    return models, others


def _read_embeddings(path: Path, store: PlaceStore) -> np.ndarray:
    """The column ``embedding`` of a .parquet file, for each place of the store."""
    from scipy.spatial import cKDTree

    from geonb.inference import positions, read_embedding_table, rows_of_places

    table, vectors = read_embedding_table(path)
    if "place_id" in table.column_names:
        found = rows_of_places(table, path, store)
    else:
        lonlat = check_lonlat(positions(table, path), str(path))
        chord, found = cKDTree(unit_xyz(lonlat)).query(unit_xyz(store.lonlat))
        found = np.where(chord * EARTH_RADIUS_KM <= MATCH_KM, found, -1)
    if (found < 0).any():
        raise ValueError(
            f"{path}: no embedding for {int((found < 0).sum()):,} of {len(store):,} places, "
            f"{store.place_id[found.argmin()]} among them; give one for each place of the store (by place_id, or "
            f"within {MATCH_KM:g} km)"
        )
    return vectors[found]


def _embeddings(store: PlaceStore, modality: str, model: Model, cache: dict, progress: bool) -> np.ndarray:
    """Embeddings of the places that have the modality. Runs that share a backbone share its features, and the time to
    load it."""
    from geonb.encoders.features import features

    key = modality, model.manifest["backbones"][modality]["fingerprint"]
    if key not in cache:
        cache[key] = features(store, modality, model.backbone(modality), progress=progress)
    return model.embed_features(modality, cache[key])


def _training(model: Model, store: PlaceStore) -> dict:
    keys = ("architecture", "modalities", "steps", "batch_size", "samples_seen", "selected_step", "parameters", "seed",
            "wall_s", "device")  # fmt: skip
    manifest = model.manifest
    return {k: manifest[k] for k in keys} | {
        "init": model.config.get("init"),
        "data_name": manifest["data"]["name"],
        "other_data": manifest["data"]["hash"] != store.data_hash,
    }


def _probe_rows(predictor: Predictor, cases: list[Case], seed: int) -> list[dict]:
    return [_probe_row(predictor, case, *predictor.predict(case), seed) for case in cases]


def _probe_row(predictor: Predictor, case: Case, predictions: np.ndarray, penalty: float, seed: int) -> dict:
    kind, classification = case.task.kind, case.task.kind == "classification"
    truth, lonlat = case.truth(), predictor.lonlat[case.test]

    def interval(statistic):
        return interval_or_none(lonlat, statistic, BLOCK_KM, seed)

    low, high = interval(lambda w: score(truth, predictions, kind, w))
    row = {
        "representation": predictor.name,
        "is_reference": predictor.is_reference,
        "task": case.name,
        "split": case.protocol,
        "metric": "accuracy" if classification else "R²",
        "value": float(case.score(predictions)),
        "low": low,
        "high": high,
        "units": "share" if classification else "share of variance",
        "scaling": case.task.scaling,
        "n_train": int(np.mean([train.sum() for train, _ in case.folds])),
        "n_test": len(truth),
        "folds": len(case.folds),
        "penalty": penalty,
    }
    if classification:
        low, high = interval(lambda w: balanced_accuracy(truth, predictions, w))
        return row | {
            "classes": len(np.unique(truth)),
            "n_test_left_out": case.left_out,
            "balanced_accuracy": float(balanced_accuracy(truth, predictions)),
            "balanced_accuracy_low": low,
            "balanced_accuracy_high": high,
        }
    residual = truth - predictions
    size = np.abs(residual)
    low, high = interval(lambda w: w @ size / w.sum(1))
    measurable = len(residual) > 9 and np.ptp(residual) > 0  # of 9, each has all others as its 8 neighbours
    moran, z = morans_i_test(residual, lonlat, seed=seed) if measurable else (None, None)
    return row | {
        "target_units": case.task.target_units,
        "mean_absolute_error": float(size.mean()),
        "mean_absolute_error_low": low,
        "mean_absolute_error_high": high,
        "morans_i_of_residuals": moran,
        "morans_i_z": z,
    }


def _retrieval_rows(
    name: str, model: Model, z: dict, store: PlaceStore, split: ArrayLike, held_out: str, seed: int
) -> list[dict]:
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
        row |= {"trained": frozenset((query, target)) in model.architecture.pairs} | {k: found[k] for k in keep}
        for metric, statistic in statistics.items():
            row[f"{metric}_low"], row[f"{metric}_high"] = interval_or_none(lonlat, statistic, BLOCK_KM, seed)
        rows.append(row)
    return rows


def _information_rows(name: str, z: dict, store: PlaceStore, split: ArrayLike) -> list[dict]:
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
