"""The cells of a grid: one trained run or reference row each, evaluated by geonb.evaluation."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geonb._util import tqdm, write_atomically
from geonb.config import TrainConfig, split_of
from geonb.data.sampling import land_points
from geonb.data.store import PlaceStore
from geonb.encoders.features import features
from geonb.encoders.image import image_backbone
from geonb.encoders.text import text_backbone
from geonb.evaluation.folds import ProbeRunner, TaskFold, task_folds
from geonb.evaluation.information import effective_rank, levina_bickel, two_nn, uniformity
from geonb.evaluation.protocols import Protocol, protocols_of
from geonb.evaluation.suite import embed_all, evaluate_model, probe_rows, retrieval_row
from geonb.evaluation.tasks import TASKS, Task
from geonb.model import Model, load
from geonb.training import train

MASKED = "masked_text"  # the modality of texts without place names, where a grid has one
FEW, FEW_TASKS = (10, 30, 100, 300, 1000, None), ("country", "climate", "elevation")
BATCH, DRAWS = 256, 20  # of the InfoNCE bound
ZERO_SHOT = {"country": "A place in {}.", "continent": "A place in {}."}
LOCATION_ENCODERS: dict[str, dict[str, Any]] = {
    f"degree {degrees}": {
        "encoding": {"name": "spherical_harmonics", "degrees": degrees, "decay": 1.0},
        "network": {"name": "residual"},
    }
    for degrees in (10, 20, 40)
} | {"own": {}}


@dataclass(frozen=True)
class Cell:
    """One run of the grid, or one reference row.

    Attributes:
        architecture: of the run, the name of a reference row, or of an array of ``Settings.extra``.
        bound: the modalities that position is bound to. ``encoder``: of LOCATION_ENCODERS.
        variant: a name for ``changes``, fields of geonb.config.TrainConfig.
    """

    architecture: str
    bound: tuple[str, ...] = ()
    encoder: str = ""
    seed: int = 0
    variant: str = ""
    changes: dict = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """A name that no other cell has; of its run folder and its files too."""
        parts = [self.architecture, "+".join(self.bound), self.encoder, self.variant, f"seed {self.seed}"]
        return "-".join(p for p in parts if p).replace(" ", "_")


@dataclass(frozen=True)
class Settings:
    """What all cells of a grid share.

    Attributes:
        size_km: edge of the held-out blocks; no smaller than the targets' correlation ranges.
        extra: a .npz with features of further modalities by name (places, d), or None.
    """

    data: str
    out: str
    size_km: float
    buffer_km: float = 100.0
    steps: int = 400
    batch_size: int = 512
    extra: str | None = None
    backbones: dict = field(default_factory=lambda: {"text": "auto", "sentinel2": "random_conv"})

    def split(self, seed: int) -> dict:
        """The split of a seed's runs, as TrainConfig takes it."""
        return {"kind": "blocked", "size_km": self.size_km, "buffer_km": self.buffer_km, "seed": seed}


def run_cells(cells: list[Cell], settings: Settings, workers: int | None = None, progress: bool = True) -> None:
    """Train and evaluate every cell that is not done yet; a killed grid goes on where it stopped.

    Raises:
        ValueError: ``out`` has a grid of other settings.
        RuntimeError: some cells failed; the others are done, and the next call tries those again.
    """
    out, store = Path(settings.out), PlaceStore.open(settings.data)
    for folder in ("rows", "predictions"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    wanted = {k: v for k, v in asdict(settings).items() if k not in ("out", "extra")} | {"data": store.data_hash}
    kept = out / "settings.json"
    if kept.exists() and json.loads(kept.read_text(encoding="utf-8")) != wanted:
        raise ValueError(f"{out}: holds a grid of other settings or data (see settings.json); choose another folder")
    write_atomically(kept, json.dumps(wanted, indent=1).encode())
    for m in {m for cell in cells for m in cell.bound} & set(store.modalities):
        if m in store.imagery:
            backbone = image_backbone(settings.backbones[m], store.imagery[m]["bands"], store.imagery[m]["scale"])
            features(store, m, backbone, progress)  # once, before the workers ask for them
        elif settings.backbones[m] != "lsa":  # fitted to each split's texts
            features(store, m, text_backbone(settings.backbones[m]), progress)

    todo, failed = [cell for cell in cells if not _row_file(out, cell).exists()], {}
    context = multiprocessing.get_context("spawn")  # a fork would inherit the threads of torch, and hang
    bar = tqdm(total=len(cells), initial=len(cells) - len(todo), desc=out.name, unit="cell", disable=not progress)
    with bar, ProcessPoolExecutor(workers or os.cpu_count(), context, torch.set_num_threads, (1,)) as pool:
        waiting = {pool.submit(run_cell, cell, settings): cell for cell in todo}
        try:
            for job in as_completed(waiting):
                if job.exception() is not None:
                    failed[waiting[job].name] = job.exception()
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failed:
        name, error = next(iter(failed.items()))
        raise RuntimeError(f"{len(failed)} of {len(cells)} cells failed; the first, {name}: {error}") from error


def _row_file(out: str | Path, cell: Cell) -> Path:
    return Path(out) / "rows" / f"{cell.name}.json"


def read_rows(cells: list[Cell], out: str | Path) -> list[dict]:
    """The results of the cells that are done, in the order of the cells."""
    files = (_row_file(out, cell) for cell in cells)
    return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]


def run_cell(cell: Cell, settings: Settings) -> None:
    """Train and evaluate one cell; its row is written last, and says that the cell is done."""
    store, extra = PlaceStore.open(settings.data), {}
    if settings.extra is not None:
        with np.load(settings.extra, allow_pickle=False) as arrays:
            extra = {k: arrays[k] for k in arrays.files}
    run = train_cell(cell, settings, store, extra) if cell.bound else None
    started = time.monotonic()
    line, predictions = evaluate_cell(cell, settings, store, extra, run)
    line["evaluation_s"] = round(time.monotonic() - started, 2)
    path = Path(settings.out) / "predictions" / f"{cell.name}.npz"
    write_atomically(path, lambda file: np.savez_compressed(file, **predictions))
    write_atomically(_row_file(settings.out, cell), json.dumps(line).encode())


def train_cell(cell: Cell, settings: Settings, store: PlaceStore, extra: dict) -> Path:
    """Train the run of a cell, if it is missing; then delete its checkpoints."""
    config = TrainConfig(
        modalities=("location", *cell.bound), seed=cell.seed, split=settings.split(cell.seed), steps=settings.steps,
        batch_size=settings.batch_size, backbones=settings.backbones, **LOCATION_ENCODERS[cell.encoder],
    )  # fmt: skip
    used = {m: v for m, v in extra.items() if m in cell.bound}
    run = Path(settings.out) / "runs" / cell.name
    train(cell.architecture, store, run, replace(config, **cell.changes), resume=True, extra=used, progress=False)
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    return run


def evaluate_cell(
    cell: Cell, settings: Settings, store: PlaceStore, extra: dict, run: Path | None
) -> tuple[dict, dict[str, np.ndarray]]:
    """(The row of a cell, the predictions behind it)."""
    config = settings.split(cell.seed)
    split, skipped = split_of(store, {"split": config}), []
    protocols = protocols_of(store, split, config, cell.seed)
    tasks = {name: task for name, task in TASKS.items() if task.column in store.columns}
    folds = task_folds(store.column, tasks, protocols, skipped)
    line = {**asdict(cell), "name": cell.name, "data_hash": store.data_hash, "skipped": skipped}
    if run is not None:
        model = load(run)
        views = embed_all(model, store, extra)
        vectors, test = views["location"], split == "test"
        rows, predictions = evaluate_model(cell.name, model, store, views, folds, config, cell.seed)
        line["probes"] = rows["probes"]
        line["training"] = {k: model.manifest[k] for k in ("selected_step", "validation_loss", "parameters", "wall_s")}
        line["information"] = {r["measure"]: r["value"] for r in rows["information"]}
        line["information"] |= _information(views, model, test)
        line["retrieval"], arrays = _retrieved(rows["retrieval"], predictions, views, model, store, test, extra)
        predictions |= arrays
        line["zero_shot"] = _zero_shot(model, vectors, store, test)
    else:
        vectors = extra.get(cell.architecture)
        views = {} if vectors is None else {cell.architecture: vectors}
    runner = ProbeRunner(cell.architecture, store.lonlat, vectors)
    usable = vectors is None or np.isfinite(vectors).all()  # texts and images are not at all places
    if run is None:
        line["probes"], predictions = probe_rows(runner, folds if usable else [], cell.seed)
    limited = [few_labels(p, n, cell.seed) for p in protocols if p.name in ("random", "blocked") for n in FEW]
    chosen = {name: task for name, task in tasks.items() if name in FEW_TASKS and usable}
    few = task_folds(store.column, chosen, limited, few=True)
    line["few_labels"] = [_row(fold, runner.predict(fold)[0]) for fold in few]
    line["facts"] = _facts(views, protocols[0], store)
    of_task = {f"{fold.name}|{fold.protocol}": fold for fold in folds}
    return line, {k: _compact(of_task[k], v) if k in of_task else v for k, v in predictions.items()}


def _row(fold: TaskFold, predicted: np.ndarray) -> dict:
    return {
        "task": fold.name, "protocol": fold.protocol, "metric": fold.task.metric, "value": float(fold.score(predicted)),
        "n_train": int(np.mean([train.sum() for train, _ in fold.folds])), "n_test": int(fold.test.sum()),
    }  # fmt: skip


def _compact(fold: TaskFold, predicted: np.ndarray) -> np.ndarray:
    """Predictions as numbers; a class is its place among the sorted classes of all places."""
    if fold.task.kind == "regression":
        return predicted.astype(np.float32)
    return np.searchsorted(classes_of(fold.y), predicted).astype(np.int16)


def classes_of(y: np.ndarray) -> np.ndarray:
    """The sorted classes among targets (n,) with None where unknown."""
    return np.unique([v for v in y if v is not None])


def few_labels(protocol: Protocol, n: int | None, seed: int = 0) -> Protocol:
    """The same test places, and ``n`` of each fold's training labels at random (None: all); more contain fewer."""
    folds = []
    for i, (labelled, test) in enumerate(protocol.folds):
        order = np.random.default_rng((seed, i)).permutation(np.flatnonzero(labelled))
        folds.append((np.isin(np.arange(len(test)), order[:n]), test))
    name = f"{protocol.name}, {'all' if n is None else n} labels"
    return Protocol(name, tuple(folds), protocol.buffer_km, protocol.fold_km)


def _facts(views: dict[str, np.ndarray], protocol: Protocol, store: PlaceStore) -> list[dict]:
    """Probes of every recorded fact in each view, at places with text and image; "floor": without representation."""
    both = store.has("text") & store.has("sentinel2")
    pair = Protocol("random", tuple((train & both, test & both) for train, test in protocol.folds))
    known = {task.column: task for task in TASKS.values()}
    tasks = {
        column: known.get(column, Task(column, fact["kind"], fact["units"] or ""))
        for column, fact in store.facts.items()
        if column in store.columns
    }
    folds, chance = task_folds(store.column, tasks, [pair]), ProbeRunner("majority or mean", store.lonlat)
    rows = []
    for view, vectors in views.items():
        runner = ProbeRunner(view, store.lonlat, np.where(both[:, None], vectors, 0.0))
        for fold in folds:
            floor = max(0.0, float(fold.score(chance.predict(fold)[0])))
            row = {"view": view, "known_by": store.facts[fold.name]["modalities"], "floor": floor}
            rows.append(row | _row(fold, runner.predict(fold)[0]))
    return rows


def _retrieved(
    direct: list[dict], predictions: dict, z: dict, model: Model, store: PlaceStore, test: np.ndarray, extra: dict
) -> tuple[list[dict], dict[str, np.ndarray]]:
    """Retrieval rows and arrays: direct, with masked names, and where text and image meet through positions."""
    rows, arrays = [], {}
    called = {MASKED: "text"}

    def add(query: str, target: str, masked: str, route: str, row: dict, of_queries: np.ndarray) -> None:
        key = {"query": called.get(query, query), "target": called.get(target, target)}
        key |= {"masked": masked, "route": route}
        unused = ("run", "query", "target", "split", "trained")
        rows.append(key | {k: v for k, v in row.items() if k not in unused and not k.endswith(("_low", "_high"))})
        arrays["|".join(["retrieval", *key.values()])] = of_queries

    for row in direct:
        q, t = row["query"], row["target"]
        add(q, t, "", "", row, predictions.pop(f"retrieval|{q}|{t}"))
    views = {(m, ""): vectors for m, vectors in z.items()}
    if "text" in z and MASKED in extra:  # the same run queried with texts that lack place names
        has = np.isfinite(extra[MASKED]).all(1)
        masked = np.full_like(z["text"], np.nan)
        masked[has] = model.embed_features("text", extra[MASKED][has])
        views["text", "names masked"] = masked
    points = model.embed_locations(land_points(4000, method="fibonacci"))
    for (query, q_masked), (target, t_masked) in ((q, t) for q in views for t in views if q[0] != t[0]):
        asked, gallery, names = views[query, q_masked], views[target, t_masked], q_masked or t_masked
        chosen = test & np.isfinite(asked[:, 0]) & np.isfinite(gallery[:, 0])
        if chosen.sum() < 10:
            continue
        if names:
            add(query, target, names, "", *retrieval_row(asked, gallery, store.lonlat, chosen))
        if "location" not in (query, target):
            through, scale = asked.copy(), model.architecture.scale(query).item()
            through[chosen] = through_positions(asked[chosen], points, scale)
            add(query, target, names, "through positions", *retrieval_row(through, gallery, store.lonlat, chosen))
    return rows, arrays


def through_positions(queries: np.ndarray, positions: np.ndarray, scale: float) -> np.ndarray:
    """Translate queries (q, d) into positions: the mean of location embeddings (p, d), weighted by softmax."""
    logits = scale * (queries @ positions.T)
    weights = np.exp(logits - logits.max(1, keepdims=True))
    mean = (weights / weights.sum(1, keepdims=True)) @ positions
    return (mean / np.linalg.norm(mean, axis=1, keepdims=True)).astype(np.float32)


def _zero_shot(model: Model, location: np.ndarray, store: PlaceStore, test: np.ndarray) -> list[dict]:
    """Accuracy of the most similar prompt, without any label; classes are those of the tested places."""
    rows = []
    for column, prompt in ZERO_SHOT.items() if "text" in model.modalities else ():
        if column not in store.columns:
            continue
        values = store.column(column)
        chosen = test & np.array([v is not None for v in values])
        classes, truth = np.unique(values[chosen].astype(str), return_inverse=True)
        if len(classes) > 1:
            prompts = model.embed_texts([prompt.format(c) for c in classes])
            value = float(((location[chosen] @ prompts.T).argmax(1) == truth).mean())
            row = {"task": column, "prompt": prompt, "value": value, "classes": len(classes)}
            rows.append(row | {"majority": float(np.bincount(truth).max() / len(truth)), "n_test": len(truth)})
    return rows


def _information(z: dict[str, np.ndarray], model: Model, test: np.ndarray) -> dict[str, float]:
    """Further measures; those of location embeddings are taken at fixed land points, which all runs share."""
    clouds = {m: v[test & np.isfinite(v[:, 0])] for m, v in z.items()}
    clouds["location"] = model.embed_locations(land_points(4000, seed=0))
    found = {
        "effective rank, location": effective_rank(clouds["location"]),
        "uniformity, location": uniformity(clouds["location"]),
    }
    for m, cloud in clouds.items():
        with contextlib.suppress(ValueError):  # too few different vectors to have a dimension
            found |= {f"TwoNN dimension, {m}": two_nn(cloud), f"ML dimension, {m}": levina_bickel(cloud)}
    for a, b in combinations(z, 2):
        both = test & np.isfinite(z[a][:, 0]) & np.isfinite(z[b][:, 0])
        found[f"InfoNCE bound, {a} and {b}"] = info_nce_bound(z[a][both], z[b][both])
    return found


def info_nce_bound(a: np.ndarray, b: np.ndarray) -> float:
    """Measure a lower bound in nats on the mutual information of unit vectors (n, d): log N - InfoNCE.

    After van den Oord et al. (2018), eq. 10, with N = 256. One half of the pairs chooses the scale
    of the cosines; the bound is the mean over 20 batches of the other half.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if len(a) < 4:
        raise ValueError(f"{len(a)} vectors; give at least 4 pairs")
    order = np.random.default_rng(0).permutation(len(a))
    half = len(a) // 2
    batch = min(BATCH, half)

    def bound(rows: np.ndarray, scale: float, draw: np.random.Generator) -> float:
        values = []
        for _ in range(DRAWS):
            chosen = draw.choice(rows, batch, replace=False)
            logits = scale * (a[chosen] @ b[chosen].T)
            pairs = np.diag(logits)
            losses = [np.logaddexp.reduce(logits, axis) - pairs for axis in (0, 1)]
            values.append(np.log(batch) - np.mean(losses))
        return float(np.mean(values))

    scales = np.geomspace(1, 200, 16)
    fitted = [bound(order[:half], s, np.random.default_rng(1)) for s in scales]
    return bound(order[half:], scales[int(np.argmax(fitted))], np.random.default_rng(2))
