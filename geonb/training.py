"""Train an architecture on a place store: ``fit`` is the loop, and ``train`` prepares it.

Batches, dropout and learning rate are functions of the seed and the step, so a run that was killed
ends with the weights of an uninterrupted one, bit for bit. :mod:`geonb.run` writes the files.

Lightning Fabric runs the same call on many GPUs: ``geonb train ... --devices 8`` on one machine; on
each of two, which see the same folders, ``torchrun --nnodes 2 --nproc-per-node 8 -m geonb.cli train
... --devices 8 --nodes 2`` (under SLURM ``srun``, one task per device).
"""

from __future__ import annotations

import hashlib
import math
import sys
import time
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from lightning_fabric.utilities.rank_zero import rank_zero_only
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from geonb import __version__
from geonb import run as files
from geonb._util import tqdm
from geonb.architectures import Architecture, Batch
from geonb.config import TrainConfig, build, resolve, split_of
from geonb.data.store import PlaceStore
from geonb.encoders.features import BACKBONES, features
from geonb.encoders.text import text_backbone
from geonb.losses import info_nce

VALIDATION_PLACES = 2048
CHECKPOINT_S = 10.0  # least seconds between two checkpoints


def train(
    architecture: str, data: PlaceStore | str | Path, out: str | Path, config: TrainConfig | None = None,
    resume: bool = False, init: str | Path | None = None, extra: dict[str, np.ndarray] | None = None,
    progress: bool = True,
) -> Path:  # fmt: skip
    """Train an architecture on a place store, write the run folder ``out`` and return it.

    Args:
        architecture: a key of :data:`geonb.architectures.ARCHITECTURES`.
        config: the settings; a run that is resumed keeps its own.
        resume: go on from the last checkpoint of ``out``. A finished run is returned unchanged.
        init: a finished run whose encoders are the starting point, where it has them.
        extra: further modalities by name, as features (places, d), NaN where a place has none.

    Raises:
        ValueError: a config that does not fit the data, a modality with too few places, an existing
            run without ``resume``, or a run that cannot be resumed or started from.
        FloatingPointError: a loss that is not finite, with the step and the places of its batch.
    """
    store = data if isinstance(data, PlaceStore) else PlaceStore.open(data)
    out, extra = Path(out), {m: np.asarray(v, np.float32) for m, v in (extra or {}).items()}
    record = {"architecture": architecture, "data_hash": store.data_hash, "extra": hashes_of(extra)}
    if resume and (out / "config.yaml").exists():
        stored = files.read_config(out)
        if {k: stored.get(k) for k in record} != record:
            raise ValueError(f"{out}: this run is of another architecture or other data; resume with the same")
        if all((out / name).exists() for name in ("model.safetensors", "manifest.json")):
            files.read_manifest(out)  # raises for a run of another version
            return out
        config, init = files.config_of(stored), stored.get("init")
    else:
        config = resolve(architecture, store, config or TrainConfig(), extra)
    # Before other processes start, which would wait for this one.
    if rank_zero_only.rank == 0 and not resume and any(out.glob("*")):
        raise ValueError(f"{out}: exists already; resume it (--resume), delete it, or choose another folder")
    several = config.devices * config.nodes > 1
    fabric = Fabric(
        accelerator="cuda" if torch.cuda.is_available() else "cpu",  # Apple's lacks double precision
        devices=config.devices,
        num_nodes=config.nodes,
        strategy=DDPStrategy(find_unused_parameters=True) if several else "auto",  # for phases
        precision=config.precision,
    )
    fabric.launch()

    start = files.read_manifest(Path(init)) if init else {}
    start_weights = files.read_weights(Path(init)) if init else {}
    backbones = _backbones(store, config, start, start_weights)
    with fabric.rank_zero_first():
        feats = {m: features(store, m, backbone, progress) for m, backbone in backbones.items()}
    dataset = PlaceDataset(store, feats, {m: v for m, v in extra.items() if m in (config.modalities or ())})
    rows, val_rows = _train_and_val_rows(dataset, split_of(store, config), config.seed)

    model = build(architecture, config, {m: v.shape[1] for m, v in dataset.features.items()})
    if model.phases > config.steps:
        raise ValueError(f"{model.phases} phases need at least that many steps, not {config.steps}")
    for m, values in dataset.features.items():
        model.encoders[m].standardise_by(values[rows[dataset.present[m][rows]]])
    if init and not (out / files.CHECKPOINT).exists():
        _start_from(model, start["modalities"], start_weights)

    _on_rank_zero(fabric, lambda: files.write_config(out, record | {"init": init and str(init)}, config))
    try:
        best, state = fit(fabric, model, dataset, rows, val_rows, config, out, progress)
    except KeyboardInterrupt:
        tqdm.write(f"{out}: stopped; go on from its last checkpoint with --resume", file=sys.stderr)
        raise
    if "text" in backbones:
        best |= {f"backbone.text.{k}": v for k, v in backbones["text"].state().items()}
    described = {m: {"name": b.name, "dim": b.dim, "fingerprint": b.fingerprint} for m, b in backbones.items()}
    described |= {m: {"name": "extra", "dim": v.shape[1]} for m, v in dataset.features.items() if m in extra}
    simulated = {m: bool(store.simulated(m)) for m in ("location", *config.backbones)}
    used = {"name": store.path.name, "hash": store.data_hash, "places": len(store), "train_places": len(rows)}
    manifest = {
        "architecture": architecture,
        "modalities": list(model.modalities),
        "backbones": described,
        "data": used | {"simulated": simulated},
        "parameters": sum(p.numel() for p in model.parameters()),
        "samples_seen": state["steps"] * state["batch_size"],
        "seed": config.seed,
        "precision": config.precision,
        "devices": fabric.world_size,
        "device": str(fabric.device),
        "versions": {"geonb": __version__, "torch": torch.__version__},
    }
    _on_rank_zero(fabric, lambda: files.write_result(out, best, manifest | state))
    return out


def fit(
    fabric: Fabric, model: Architecture, dataset: PlaceDataset, rows: Tensor, val_rows: Tensor, config: TrainConfig,
    run: Path, progress: bool = True,
) -> tuple[dict[str, Tensor], dict]:  # fmt: skip
    """Train a model in place, from the last checkpoint of a run, or from the start, to the last step.

    Args:
        rows, val_rows: places (n,) to train on, and (k,) by whose loss weights are selected.
        run: the folder for metrics and checkpoints.

    Returns:
        The weights with the lowest validation loss, and what the manifest says of the training.

    Raises:
        FloatingPointError: a loss that is not finite.
        ValueError: several machines that do not see the same folder.
    """
    batch_size = min(config.batch_size, len(rows))
    share = math.ceil(batch_size / fabric.world_size)
    mine = slice(fabric.global_rank * share, (fabric.global_rank + 1) * share)
    val_batch = fabric.to_device(dataset.batch(val_rows))

    optimizer = torch.optim.AdamW(parameter_groups(model, config.weight_decay), lr=config.lr, betas=config.betas)
    wrapped, optimizer = fabric.setup(model, optimizer)
    if fabric.world_size > 1:  # each device computes the loss over the embeddings of all devices
        model.gather = lambda t: fabric.all_gather(t, sync_grads=t.requires_grad).flatten(0, 1)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema)) if config.ema else None

    modules = {"model": model} | ({"ema": average} if average else {})
    save = partial(files.save_checkpoint, run, modules, optimizer)
    best: dict[str, Tensor] = {}
    state: dict[str, Any] = {"steps": 0, "batch_size": batch_size, "selected_step": 0}
    state |= {"validation_loss": math.inf, "wall_s": 0.0}
    if (run / files.CHECKPOINT).exists():
        best, state = files.load_checkpoint(run, modules, optimizer)
    if fabric.broadcast(state["steps"]) != state["steps"]:
        raise ValueError(f"{run}: not the same folder on all machines; use one that all of them see")
    _on_rank_zero(fabric, lambda: files.cut_metrics(run, state["steps"]))
    started, saved = time.monotonic() - state["wall_s"], -math.inf

    steps = range(state["steps"], config.steps)
    bar = tqdm(steps, run.name, config.steps, initial=steps.start, disable=not (progress and fabric.is_global_zero))
    for step in bar:
        waited = state["steps"] - state["selected_step"]
        if config.patience and waited >= config.patience * config.validate_every:
            break

        # Take one optimiser step.
        chosen = batch_rows(rows, step, batch_size, config.seed)
        batch = fabric.to_device(dataset.batch(chosen[mine], share))
        seed = step_seed(config.seed, step)
        torch.manual_seed(step_seed(seed, fabric.global_rank))  # of dropout, different on each device
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        model.train()
        model.begin_step(step / config.steps, seed)
        terms = wrapped(batch)
        loss = sum(terms.values())
        optimizer.zero_grad()
        if loss.requires_grad:  # none where no place of the batch has what is bound
            fabric.backward(loss)
            optimizer.step()
            model.clamp_scales()
        if average:
            average.update_parameters(model)
        done = step + 1
        if not torch.isfinite(loss):
            raise _not_finite(run, done, dataset.place_id[chosen.numpy()])

        # Now and then, and where a phase ends: validate, keep the best weights, write metrics.
        phase_ends = model.phase(done / config.steps) != model.phase(step / config.steps)
        if done % config.validate_every and done != config.steps and not phase_ends:
            continue
        candidate = average.module if average else model
        held_out = fabric.broadcast(validate(candidate, val_batch) if fabric.is_global_zero else None)
        mean = sum(held_out.values()) / len(held_out)
        if not math.isfinite(mean):
            raise _not_finite(run, done, dataset.place_id[chosen.numpy()])
        if mean < state["validation_loss"]:
            best = {k: v.detach().cpu().clone() for k, v in candidate.state_dict().items()}
            state |= {"selected_step": done, "validation_loss": mean}
        now = time.monotonic()
        state |= {"steps": done, "wall_s": round(now - started, 3)}
        line = {"step": done, "wall_s": state["wall_s"], "lr": learning_rate(step, config)}
        line |= {"loss": loss.item()} | {f"loss/{k}": v.item() for k, v in terms.items()} | {"held_out": mean}
        line |= {f"held_out/{k}": v for k, v in held_out.items()}
        line |= {f"scale/{m}": model.scale(m).item() for m in model.heads}
        if phase_ends or done == config.steps:
            line["phase"] = model.phase(step / config.steps)
        bar.set_postfix(loss=f"{loss:.3f}", held_out=f"{mean:.3f}", best=state["selected_step"])
        _on_rank_zero(fabric, partial(files.append_metrics, run, line))

        # A checkpoint at the first validation, then not too often, and one at the end.
        if fabric.broadcast(now - saved >= CHECKPOINT_S):
            _on_rank_zero(fabric, partial(save, best, state))
            saved = now
    _on_rank_zero(fabric, partial(save, best, state))
    return best, state


class PlaceDataset:
    """Positions float32 (places, 2), degrees, and features (places, d) of a store, in memory.

    Args:
        cached: by modality, features (k, d) of the k places of the store that have it, in their order.
        extra: by modality, features (places, d), NaN where a place has none.
    """

    def __init__(
        self, store: PlaceStore, cached: dict[str, np.ndarray], extra: dict[str, np.ndarray] | None = None
    ) -> None:
        self.lonlat = torch.from_numpy(store.lonlat.astype(np.float32))
        self.place_id, self.path = store.place_id, store.path
        self.features, self.present = {}, {}
        for m, values in cached.items():
            present = store.has(m)
            full = np.zeros((len(store), values.shape[1]), np.float32)
            full[present] = values
            self.features[m], self.present[m] = torch.from_numpy(full), torch.from_numpy(present)
        for m, values in (extra or {}).items():
            self.features[m] = torch.from_numpy(np.nan_to_num(values))
            self.present[m] = torch.from_numpy(~np.isnan(values).any(1))

    def batch(self, rows: Tensor, size: int | None = None) -> Batch:
        """Collect places (n,), filled up to ``size`` absent rows: by modality (size, d) and bool (size,)."""
        size = len(rows) if size is None else size
        real = torch.arange(size) < len(rows)
        rows = torch.cat([rows, rows.new_zeros(size - len(rows))])
        batch = {"location": (self.lonlat[rows], real)}
        return batch | {m: (values[rows], self.present[m][rows] & real) for m, values in self.features.items()}


def batch_rows(rows: Tensor, step: int, batch_size: int, seed: int) -> Tensor:
    """Draw the places of one step, ``batch_size`` of ``rows`` (n,), from a permutation per epoch."""
    epoch, position = divmod(step, len(rows) // batch_size)
    order = _permutation(len(rows), step_seed(seed, epoch))
    return rows[order[position * batch_size : (position + 1) * batch_size]]


@lru_cache(maxsize=2)  # that of the current epoch
def _permutation(n: int, seed: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def step_seed(seed: int, step: int) -> int:
    """Derive the seed of one step of a run, which can be repeated without the steps before."""
    return (seed * 1_000_003 + step * 7919 + 17) % 2**63


def learning_rate(step: int, config: TrainConfig) -> float:
    """Compute the learning rate: a linear warm-up over 5 % of the steps, then the schedule."""
    warmup = max(1, config.steps // 20)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, config.steps - warmup)))


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict]:
    """Group trainable parameters: no weight decay on temperatures, norms and biases."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]


@torch.no_grad()
def validate(model: Architecture, batch: Batch) -> dict[str, float]:
    """Compute the InfoNCE of location with each modality on held-out places (n, ...), in nats."""
    model.eval()
    losses = {}
    for m in model.heads:
        values, has = batch[m]
        location = model.embed("location", batch["location"][0][has])
        losses[m] = info_nce(location, model.embed(m, values[has]), model.scale(m)).item()
    return losses


def hashes_of(extra: dict[str, np.ndarray] | None) -> dict[str, str]:
    """Hash the features (places, d) of extra modalities: 16 hex digits, to recognise them."""
    arrays = {m: np.ascontiguousarray(v, np.float32) for m, v in (extra or {}).items()}
    return {m: hashlib.sha256(v.tobytes()).hexdigest()[:16] for m, v in arrays.items()}


def _train_and_val_rows(dataset: PlaceDataset, split: np.ndarray, seed: int) -> tuple[Tensor, Tensor]:
    """Find the places to train on, and draw those to validate on: two of every modality, at least."""
    usable = np.any([p.numpy() for p in dataset.present.values()], 0)
    rows, val_rows = (torch.from_numpy(np.flatnonzero((split == part) & usable)) for part in ("train", "val"))
    for m, present in dataset.present.items():
        counts = int(present[rows].sum()), int(present[val_rows].sum())
        if min(counts) < 2:
            found = f"{counts[0]} places to train on and {counts[1]} to validate on have {m!r}"
            raise ValueError(f"{dataset.path}: {found}, which needs 2 of each; choose another split, or leave it out")
    order = torch.randperm(len(val_rows), generator=torch.Generator().manual_seed(seed))
    drawn = val_rows[order[:VALIDATION_PLACES]]
    scarce = [p for p in dataset.present.values() if p[drawn].sum() < 2]  # add the first that have it
    return rows, torch.cat([drawn, *(val_rows[p[val_rows]][:VALIDATION_PLACES] for p in scarce)]).unique()


def _backbones(store: PlaceStore, config: TrainConfig, start: dict, weights: dict[str, Tensor]) -> dict:
    """Load the frozen backbone of each modality. A text backbone is fitted to training texts alone."""
    backbones, used = {}, {m: described["name"] for m, described in start.get("backbones", {}).items()}
    for m, name in config.backbones.items():
        if name not in ("auto", used.get(m, name)):
            raise ValueError(f"init: its {m} backbone is {used[m]}, not {name}; write backbones: {{{m}: {used[m]}}}")
        if m in used:
            backbones[m] = files.load_backbone(start, weights, m)
        elif m == "text":
            rows = np.flatnonzero(store.has("text") & (split_of(store, config) == "train"))
            backbones[m] = text_backbone(name, fit_on=store.texts(rows))
        else:
            backbones[m] = BACKBONES[m](name)
    return backbones


def _start_from(model: Architecture, modalities: list[str], weights: dict[str, Tensor]) -> None:
    """Copy the encoders and temperatures that another run has."""
    current, shared = model.state_dict(), [m for m in modalities if m in model.modalities]
    wanted = [k for k in current if any(k.startswith(f"encoders.{m}.") for m in shared)]
    wanted += [k for k in current if k.startswith("log_scale.") and k in weights]
    for k in wanted:
        if k not in weights or weights[k].shape != current[k].shape:
            raise ValueError(f"init: cannot start from this run, {k} is missing or of another shape")
    model.load_state_dict({k: weights[k] for k in wanted}, strict=False)


def _on_rank_zero(fabric: Fabric, action: Callable[[], object]) -> None:
    """Act on the first device while the others wait, and raise its error on all of them."""
    error = None
    if fabric.is_global_zero:
        try:
            action()
        except Exception as problem:
            error = problem
    if error := fabric.broadcast(error):
        raise error


def _not_finite(run: Path, step: int, places: np.ndarray) -> FloatingPointError:
    named = f"the loss of step {step} is not finite; its places: {', '.join(places[:20])}, ..."
    return FloatingPointError(f"{run}: {named}; look at their values, or lower lr")
