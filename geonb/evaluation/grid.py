"""Many runs, evaluated alike: architectures x location encoders x seeds, with the reference rows beside them.

``run_grid`` trains and evaluates every cell in worker processes of one thread each, keeps what is finished, and can be
stopped and started again at any moment. A cell's results are one line of ``rows.jsonl``, appended when the cell is
done; its predictions, which paired comparisons need, are in ``predictions/``.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from geonb.data.sampling import land_points
from geonb.data.store import PlaceStore
from geonb.encoders.features import BACKBONES, features
from geonb.evaluation.cases import REFERENCES, Case, Predictor, make_cases
from geonb.evaluation.information import (
    alignment,
    effective_rank,
    info_nce_bound,
    levina_bickel,
    modality_gap,
    two_nn,
    uniformity,
)
from geonb.evaluation.protocols import (
    Protocol,
    bands_protocol,
    blocked_protocol,
    continents_protocol,
    few_labels,
    random_protocol,
)
from geonb.evaluation.retrieval import retrieval
from geonb.evaluation.tasks import TASKS, Task, fact_tasks

if TYPE_CHECKING:
    from geonb.model import Model

BUFFER_KM = 100.0
MASKED = "masked_text"  # the modality of texts without place names, where a grid has one
FEW, FEW_TASKS = (10, 30, 100, 300, 1000, None), ("country", "climate", "elevation")
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
        architecture: a key of :data:`geonb.architectures.ARCHITECTURES`, or a name in :data:`REFERENCES`.
        bound: the modalities that position is bound to; () for a reference.
        encoder: a key of :data:`LOCATION_ENCODERS`; "own" is the architecture's default. "" for a reference.
        seed: of weights, batches and the split.
        variant: a name for ``changes``, fields of :class:`geonb.config.TrainConfig`.
    """

    architecture: str
    bound: tuple[str, ...] = ()
    encoder: str = ""
    seed: int = 0
    variant: str = ""
    changes: dict = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """What tells the cell from all others, and is the name of its run folder."""
        parts = [self.architecture, "+".join(self.bound), self.encoder, self.variant, f"seed {self.seed}"]
        return "-".join(p for p in parts if p).replace(" ", "_")


@dataclass(frozen=True)
class Grid:
    """What all cells share.

    Attributes:
        data: folder of the place store.
        out: where runs, rows and predictions go.
        size_km: edge of the held-out blocks; no smaller than the targets' correlation ranges.
        steps, batch_size: of every run.
        extra: a .npz with features of further modalities by name (places, d), or None.
    """

    data: str
    out: str
    size_km: float
    buffer_km: float = BUFFER_KM
    steps: int = 400
    batch_size: int = 512
    extra: str | None = None
    backbones: dict = field(default_factory=lambda: {"text": "auto", "image": "random_conv"})

    def split(self, seed: int) -> dict:
        """The split of a seed's runs, as :class:`geonb.config.TrainConfig` takes it."""
        return {"kind": "blocked", "size_km": self.size_km, "buffer_km": self.buffer_km, "seed": seed}


def train_cell(cell: Cell, grid: Grid, store: PlaceStore, extra: dict) -> Path:
    """The run of a cell, trained if it is not there; its checkpoints, which nothing needs any more, are deleted."""
    from geonb.config import TrainConfig
    from geonb.training import train

    config = TrainConfig(
        modalities=("location", *cell.bound), seed=cell.seed, split=grid.split(cell.seed), steps=grid.steps,
        batch_size=grid.batch_size, backbones=grid.backbones, **LOCATION_ENCODERS[cell.encoder],
    )  # fmt: skip
    used = {m: v for m, v in extra.items() if m in cell.bound}
    config = replace(config, **cell.changes)
    run = Path(grid.out) / "runs" / cell.name
    train(cell.architecture, store, run, config, resume=True, extra=used, progress=False)
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    return run


def evaluate_cell(cell: Cell, grid: Grid, store: PlaceStore, extra: dict) -> tuple[dict, dict]:
    """(One line of results, the predictions behind it) of a cell; a run is trained first if it is not there."""
    from geonb.config import split_of

    split = split_of(store, {"split": grid.split(cell.seed)})
    model: Model | None = None
    representation: np.ndarray | None = None
    z: dict[str, np.ndarray] = {}
    if cell.architecture in extra:
        representation = extra[cell.architecture]
    elif cell.architecture not in REFERENCES:
        from geonb.model import load

        model = load(train_cell(cell, grid, store, extra))
        representation = model.embed_locations(store.lonlat)
        z = {"location": representation} | _embedded(model, store, extra)
    line = {**asdict(cell), "name": cell.name, "data_hash": store.data_hash}
    line |= {"probes": [], "few_labels": [], "facts": [], "skipped": []}
    predictions = {}

    protocols = [random_protocol(split, cell.seed), blocked_protocol(split, grid.buffer_km, grid.size_km)]
    regions = [bands_protocol(split, store.lonlat)]
    if "continent" in store.columns:
        regions.insert(0, continents_protocol(split, store.lonlat, store.column("continent")))
    for protocol in protocols + regions:
        protocol.check(store.lonlat)
    if representation is None or np.isfinite(representation).all():
        predictor = Predictor(cell.architecture, store.lonlat, representation)
        for case in make_cases(store.column, _there(TASKS, store), protocols + regions, line["skipped"]):
            predicted, _ = predictor.predict(case)
            line["probes"].append(_row(case, predicted))
            predictions[f"{case.name}|{case.protocol}"] = _compact(case, predicted)
        limited = [few_labels(p, n, cell.seed) for p in protocols for n in FEW]
        chosen = {name: task for name, task in _there(TASKS, store).items() if name in FEW_TASKS}
        for case in make_cases(store.column, chosen, limited, [], few=True):
            line["few_labels"].append(_row(case, predictor.predict(case)[0]))
    facts = fact_tasks(store)
    both = store.has("text") & store.has("image")
    told = [Protocol("random", tuple((a & both, b & both) for a, b in protocols[0].folds))]
    views = z or ({cell.architecture: representation} if representation is not None else {})
    for view, vectors in views.items():
        predictor = Predictor(view, store.lonlat, np.where(both[:, None], vectors, 0.0))
        chance = Predictor("majority or mean", store.lonlat)
        for case in make_cases(store.column, facts, told, []):
            predicted, _ = predictor.predict(case)
            floor = max(0.0, float(case.score(chance.predict(case)[0])))
            told_by = {"view": view, "known_by": case.task.known_by, "floor": floor}
            line["facts"].append(told_by | _row(case, predicted))
    if model is not None:
        line["training"] = {k: model.manifest[k] for k in ("selected_step", "validation_loss", "parameters", "wall_s")}
        found, arrays = _retrieved(z, model, store, split == "test", extra)
        line["retrieval"], line["zero_shot"] = found, _zero_shot(model, z["location"], store, split == "test")
        line["information"] = _information(z, model, store, split == "test")
        predictions |= arrays
    return line, predictions


def _row(case: Case, predicted: np.ndarray) -> dict:
    kind = "accuracy" if case.task.kind == "classification" else "R²"
    return {
        "task": case.name, "protocol": case.protocol, "metric": kind, "value": float(case.score(predicted)),
        "n_train": int(np.mean([train.sum() for train, _ in case.folds])), "n_test": int(case.test.sum()),
        "left_out": case.left_out,
    }  # fmt: skip


def _compact(case: Case, predicted: np.ndarray) -> np.ndarray:
    """Predictions as numbers; a class is its place among the sorted classes of all places."""
    if case.task.kind == "regression":
        return predicted.astype(np.float32)
    return np.searchsorted(classes_of(case.y), predicted).astype(np.int16)


def classes_of(y: Sequence | np.ndarray) -> np.ndarray:
    """The sorted classes among targets (n,) with None where unknown."""
    return np.unique([v for v in y if v is not None])


def _there(tasks: dict[str, Task], store: PlaceStore) -> dict[str, Task]:
    return {name: task for name, task in tasks.items() if task.column in store.columns}


def _embedded(model: Model, store: PlaceStore, extra: dict) -> dict[str, np.ndarray]:
    """Unit vectors (n, d) of every modality, zero where a place has none."""
    z = {}
    for m in model.modalities[1:]:
        if m in extra:
            has, values = np.isfinite(extra[m]).all(1), extra[m]
            values = values[has]
        else:
            has, values = store.has(m), features(store, m, model.backbone(m), progress=False)
        z[m] = np.zeros((len(store), model.dim), np.float32)
        z[m][has] = model.embed_features(m, values)
    return z


def _retrieved(z: dict, model: Model, store: PlaceStore, test: ArrayLike, extra: dict) -> tuple[list[dict], dict]:
    """Retrieval among held-out places in all directions; where text and image meet through positions too."""
    rows, arrays = [], {}
    names = {m: "text" if m == MASKED else m for m in z}
    views = {(names[m], ""): v for m, v in z.items()}
    if "text" in z and MASKED in extra:  # the same run asked with texts that lack place names
        has = np.isfinite(extra[MASKED]).all(1)
        views["text", "names masked"] = np.zeros_like(z["text"])
        views["text", "names masked"][has] = model.embed_features("text", extra[MASKED][has])
    routes = [(q, t, "") for q in views for t in views if q[0] != t[0]]
    if len(z) > 2:
        routes += [(q, t, "through positions") for q, t, _ in routes if "location" not in (q[0], t[0])]
    grid_points = model.embed_locations(land_points(4000, method="fibonacci"))
    for (query, masked), (target, target_masked), route in routes:
        has = {m: store.has(m) for m in ("text", "image")} | {"location": np.ones(len(store), bool)}
        rows_used = test & has[query] & has[target]
        if rows_used.sum() < 10:
            continue
        asked, gallery = views[query, masked][rows_used], views[target, target_masked][rows_used]
        if route:
            scale = model.architecture.scale(next(m for m in z if names[m] == query)).item()
            asked = through_positions(asked, grid_points, scale)
        found = retrieval(asked, gallery, store.lonlat[rows_used])
        key = {"query": query, "target": target, "masked": masked or target_masked, "route": route}
        rows.append(key | {k: v for k, v in found.items() if not isinstance(v, np.ndarray)})
        tag = "|".join(["retrieval", *key.values()])
        arrays[tag] = np.stack([np.flatnonzero(rows_used), found["hits@10"], found["error_km"]])
    return rows, arrays


def through_positions(queries: ArrayLike, positions: np.ndarray, scale: float) -> np.ndarray:
    """Queries (q, d) translated into positions: the mean of location embeddings (p, d), weighted by the softmax of
    ``scale`` times the cosine similarity, as unit vectors (q, d)."""
    logits = scale * (queries @ positions.T)
    weights = np.exp(logits - logits.max(1, keepdims=True))
    mean = (weights / weights.sum(1, keepdims=True)) @ positions
    return (mean / np.linalg.norm(mean, axis=1, keepdims=True)).astype(np.float32)


def _zero_shot(model: Model, location: np.ndarray, store: PlaceStore, test: ArrayLike) -> list[dict]:
    """Accuracy of the most similar prompt, without any label; classes are those of the tested places."""
    if "text" not in model.modalities:
        return []
    rows = []
    for column, prompt in ZERO_SHOT.items():
        if column not in store.columns:
            continue
        values = store.column(column)
        chosen = test & np.array([v is not None for v in values])
        classes, truth = np.unique(values[chosen].astype(str), return_inverse=True)
        if len(classes) > 1:
            said = model.embed_texts([prompt.format(c) for c in classes])
            value = float(((location[chosen] @ said.T).argmax(1) == truth).mean())
            row = {"task": column, "prompt": prompt, "value": value, "classes": len(classes)}
            rows.append(row | {"majority": float(np.bincount(truth).max() / len(truth)), "n_test": len(truth)})
    return rows


def _information(z: dict, model: Model, store: PlaceStore, test: ArrayLike) -> dict[str, float]:
    """Measures of the space: of location embeddings at fixed land points, of the others at held-out places."""
    clouds = {m: v[test & (np.abs(v).sum(1) > 0)] for m, v in z.items()}
    clouds["location"] = model.embed_locations(land_points(4000, seed=0))
    found: dict[str, float] = {}
    for m, own in clouds.items():
        found |= {f"effective rank, {m}": effective_rank(own), f"uniformity, {m}": uniformity(own)}
        with contextlib.suppress(ValueError):  # too few different vectors to have a dimension
            found |= {f"TwoNN dimension, {m}": two_nn(own), f"ML dimension, {m}": levina_bickel(own)}
    for a, b in combinations(z, 2):
        both = test & (np.abs(z[a]).sum(1) > 0) & (np.abs(z[b]).sum(1) > 0)
        pair = z[a][both], z[b][both]
        found |= {f"alignment, {a} and {b}": alignment(*pair), f"modality gap, {a} and {b}": modality_gap(*pair)}
        found[f"InfoNCE bound, {a} and {b}"] = info_nce_bound(*pair)
    return {k: float(v) for k, v in found.items()}


def run_grid(cells: list[Cell], grid: Grid, workers: int | None = None, progress: bool = True) -> Path:
    """Train and evaluate every cell that is not done yet; returns ``rows.jsonl``.

    Args:
        workers: processes of one thread each; by default one a core.

    Raises:
        ValueError: two cells of one name, or ``out`` holds a grid of other settings.
        RuntimeError: some cells failed; the others are done, and the next call tries those again.
    """
    from geonb._util import tqdm

    names = [cell.name for cell in cells]
    twice = {n for n in names if names.count(n) > 1}
    if twice:
        raise ValueError(f"two cells are called {sorted(twice)[0]}; give one a variant")
    out = Path(grid.out)
    (out / "predictions").mkdir(parents=True, exist_ok=True)
    store, settings = PlaceStore.open(grid.data), out / "grid.json"
    wanted = {k: v for k, v in asdict(grid).items() if k not in ("data", "out", "extra")} | {"data": store.data_hash}
    if settings.exists() and json.loads(settings.read_text()) != wanted:
        raise ValueError(f"{out}: holds a grid of other settings or data (see grid.json); choose another folder")
    settings.write_text(json.dumps(wanted, indent=1) + "\n")
    for m in {m for cell in cells for m in cell.bound} & set(BACKBONES):
        if grid.backbones[m] != "lsa":  # fitted to each split's own texts
            features(store, m, BACKBONES[m](grid.backbones[m]), progress)  # once, before the workers ask for them

    done = {row["name"] for row in read_rows(out)}
    lines = out / "rows.jsonl"
    if lines.exists() and not lines.read_bytes().endswith(b"\n"):
        with lines.open("a") as file:
            file.write("\n")  # ends the line that a crash has cut
    todo = [cell for cell in cells if cell.name not in done]
    if not todo:
        return lines
    failed = {}
    bar = tqdm(total=len(cells), initial=len(cells) - len(todo), desc=out.name, unit="cell", disable=not progress)
    context = multiprocessing.get_context("spawn")  # a fork would inherit the threads of torch, and hang
    pool = ProcessPoolExecutor(workers or os.cpu_count(), context, initializer=_one_thread)
    with bar, pool:
        waiting = {pool.submit(_do, cell, grid): cell for cell in todo}
        try:
            for job in as_completed(waiting):
                cell = waiting[job]
                if job.exception() is not None:
                    failed[cell.name] = job.exception()
                else:
                    with lines.open("a") as file:
                        file.write(json.dumps(job.result()) + "\n")
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failed:
        name, error = next(iter(failed.items()))
        raise RuntimeError(f"{len(failed)} of {len(cells)} cells failed; the first, {name}: {error}") from error
    return lines


def read_rows(out: str | Path) -> list[dict]:
    """The finished cells of a grid, one dict each; a line that was cut by a crash is left out."""
    rows = {}
    path = Path(out) / "rows.jsonl"
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        rows[row["name"]] = row
    return list(rows.values())


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _do(cell: Cell, grid: Grid) -> dict:
    store = PlaceStore.open(grid.data)
    extra = {}
    if grid.extra is not None:
        with np.load(grid.extra) as arrays:
            extra = {k: arrays[k] for k in arrays.files}
    if cell.bound:
        train_cell(cell, grid, store, extra)
    started = time.monotonic()
    line, predictions = evaluate_cell(cell, grid, store, extra)
    line["evaluation_s"] = round(time.monotonic() - started, 2)
    path = Path(grid.out) / "predictions" / f"{cell.name}.npz"
    partial = path.with_name(f"{path.stem}.{os.getpid()}.partial.npz")
    np.savez_compressed(partial, **predictions)
    partial.replace(path)
    return line
