"""Train an architecture on a place store: ``fit`` is the loop, and ``train`` prepares it.

Batches, dropout and learning rate are functions of the seed and the step, so a run that was
killed ends with the weights of an uninterrupted one, bit for bit. On several machines, start
the same call by ``torchrun``, or by ``srun`` with one task per device.
"""

from __future__ import annotations

import hashlib
import math
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import fields
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
from geonb.encoders.features import features
from geonb.encoders.image import image_backbone
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
        config: the settings; a run that is resumed keeps its own, and others are warned of.
        resume: go on from the last checkpoint of ``out``; a finished run stays as it is.
        init: a finished run, or the name of a shipped model, whose encoders are the starting point, where it has them.
        extra: further modalities, as features (places, d), NaN where a place has none.

    Raises:
        ValueError: a config that does not fit, too few places or devices, an existing or a damaged run.
        FloatingPointError: a loss that is not finite, with the step and its places.
        MemoryError: a batch that does not fit on a GPU.
    """
    store = data if isinstance(data, PlaceStore) else PlaceStore.open(data)
    out, extra = Path(out), {m: np.asarray(v, np.float32) for m, v in (extra or {}).items()}
    record: dict[str, Any] = {"architecture": architecture, "data_hash": store.data_hash}
    record["extra"] = hashes_of(extra)
    if resume and (out / "config.yaml").exists():
        stored = files.read_config(out)
        if {k: stored.get(k) for k in record} != record:
            raise ValueError(f"{out}: this run is of another architecture or other data")
        own = files.config_of(stored)
        given = resolve(architecture, store, config, extra) if config else own
        others = [f.name for f in fields(own) if getattr(given, f.name) != getattr(own, f.name)]
        others += ["init"] if init and str(init) != stored.get("init") else []
        if others and rank_zero_only.rank == 0:
            said = ", ".join(others)
            warnings.warn(f"{out}: a resumed run keeps its own config; ignored: {said}", stacklevel=2)
        if all((out / name).exists() for name in ("model.safetensors", "manifest.json")):
            files.read_manifest(out)  # raises for a run of another version
            return out
        config, init = own, stored.get("init")
    else:
        config = resolve(architecture, store, config or TrainConfig(), extra)
    _check_devices(config)
    # Before other processes start, which would wait for this one.
    if rank_zero_only.rank == 0 and (out.is_file() or (any(out.glob("*")) and not (out / "config.yaml").exists())):
        raise ValueError(f"{out}: there is something else than a run; choose another folder")
    if rank_zero_only.rank == 0 and not resume and any(out.glob("*")):
        raise ValueError(f"{out}: exists already; resume it (--resume) or delete it")
    several = config.devices * config.nodes > 1
    fabric = Fabric(
        accelerator="cuda" if torch.cuda.is_available() else "cpu",  # Apple's has no float64
        devices=config.devices,
        num_nodes=config.nodes,
        strategy=DDPStrategy(find_unused_parameters=True) if several else "auto",  # for phases
        precision=config.precision,
    )
    fabric.launch()

    start_run = files.find_run(init) if init else None
    start = files.read_manifest(start_run) if start_run else {}
    start_weights = files.read_weights(start_run) if start_run else {}
    backbones = _backbones(store, config, start, start_weights)
    with fabric.rank_zero_first():
        feats = {m: features(store, m, backbone, progress) for m, backbone in backbones.items()}
    extra = {m: v for m, v in extra.items() if m in (config.modalities or ())}
    dataset = PlaceDataset(store, feats, extra)
    rows, val_rows = _train_and_val_rows(dataset, split_of(store, config), config.seed)

    model = build(architecture, config, {m: v.shape[1] for m, v in dataset.features.items()})
    if model.phases > config.steps:
        raise ValueError(f"{model.phases} phases need as many steps, not {config.steps}")
    for m, values in dataset.features.items():
        model.encoders[m].standardise_by(values[rows[dataset.present[m][rows]]])
    if init and not (out / files.CHECKPOINT).exists():
        _start_from(model, start["modalities"], start_weights)

    record |= {"init": init and str(init)}
    _on_rank_zero(fabric, lambda: files.write_config(out, record, config))
    try:
        best, state = fit(fabric, model, dataset, rows, val_rows, config, out, progress)
    except (KeyboardInterrupt, SystemExit):
        tqdm.write(f"{out}: stopped; go on with --resume", file=sys.stderr)
        raise
    except torch.cuda.OutOfMemoryError:
        advice = "lower batch_size, or set micro_batch in the options"
        raise MemoryError(f"{out}: a batch does not fit in the memory of the GPU; {advice}") from None
    if "text" in backbones:
        best |= {f"backbone.text.{k}": v for k, v in backbones["text"].state().items()}
    described: dict[str, dict] = {m: {"name": "extra", "dim": v.shape[1]} for m, v in extra.items()}
    for m, b in backbones.items():
        described[m] = {"name": b.name, "dim": b.dim, "fingerprint": b.fingerprint}
        if m in store.imagery:
            described[m] |= {"bands": b.bands, "scale": b.scale}
    used = {"name": store.path.name, "hash": store.data_hash, "places": len(store)}
    simulated = {m: bool(store.simulated(m)) for m in ("location", *config.backbones)}
    manifest = {
        "architecture": architecture,
        "modalities": list(model.modalities),
        "backbones": described,
        "data": used | {"train_places": len(rows), "simulated": simulated},
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
    fabric: Fabric, model: Architecture, dataset: PlaceDataset, rows: Tensor, val_rows: Tensor,
    config: TrainConfig, run: Path, progress: bool = True,
) -> tuple[dict[str, Tensor], dict]:  # fmt: skip
    """Train a model in place, from the start or the last checkpoint, to the last step.

    Places ``rows`` (n,) train it, and the loss of ``val_rows`` (k,) selects its weights, which are
    returned, with what the manifest says of the training. Raises FloatingPointError for a loss that
    is not finite, and ValueError if machines do not see the same folder.
    """
    batch_size = min(config.batch_size, len(rows))
    share = math.ceil(batch_size / fabric.world_size)
    mine = slice(fabric.global_rank * share, (fabric.global_rank + 1) * share)
    val_batch = fabric.to_device(dataset.batch(val_rows))

    groups = parameter_groups(model, config.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)
    wrapped, optimizer = fabric.setup(model, optimizer)
    if fabric.world_size > 1:  # each device computes the loss over all embeddings
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
        raise ValueError(f"{run}: not the same folder on all machines")
    _on_rank_zero(fabric, lambda: files.cut_metrics(run, state["steps"]))
    started, saved = time.monotonic() - state["wall_s"], -math.inf

    steps = range(state["steps"], config.steps)
    hidden = not (progress and fabric.is_global_zero)
    bar = tqdm(steps, run.name, config.steps, initial=steps.start, disable=hidden)
    for step in bar:
        waited = state["steps"] - state["selected_step"]
        if config.patience and waited >= config.patience * config.validate_every:
            break

        # Take one optimiser step.
        chosen = batch_rows(rows, step, batch_size, config.seed)
        batch = fabric.to_device(dataset.batch(chosen[mine], share))
        seed = step_seed(config.seed, step)
        torch.manual_seed(step_seed(seed, fabric.global_rank))  # for dropout, by device
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
        line |= {"loss": loss.item()} | {f"loss/{k}": v.item() for k, v in terms.items()}
        line |= {"held_out": mean} | {f"held_out/{k}": v for k, v in held_out.items()}
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

    ``cached`` has rows (k, d) for the k places with a modality; ``extra`` has all, some of NaN.
    """

    def __init__(
        self, store: PlaceStore, cached: dict[str, np.ndarray], extra: dict[str, np.ndarray] | None = None
    ) -> None:
        self.lonlat = torch.from_numpy(store.lonlat.astype(np.float32))
        self.place_id, self.path = store.place_id, store.path
        self.features, self.present = {}, {}
        for m, values in cached.items():
            self.present[m] = torch.from_numpy(store.has(m))
            self.features[m] = torch.zeros(len(store), values.shape[1])
            self.features[m][self.present[m]] = torch.from_numpy(values)
        for m, values in (extra or {}).items():
            self.features[m] = torch.from_numpy(np.nan_to_num(values))
            self.present[m] = torch.from_numpy(~np.isnan(values).any(1))

    def batch(self, rows: Tensor, size: int | None = None) -> Batch:
        """Collect places (n,), filled up to ``size`` rows that have nothing."""
        size = len(rows) if size is None else size
        real = torch.arange(size) < len(rows)
        rows = torch.cat([rows, rows.new_zeros(size - len(rows))])
        batch = {"location": (self.lonlat[rows], real)}
        return batch | {m: (v[rows], self.present[m][rows] & real) for m, v in self.features.items()}


def batch_rows(rows: Tensor, step: int, batch_size: int, seed: int) -> Tensor:
    """Draw ``batch_size`` of ``rows`` (n,) for a step, from a permutation per epoch."""
    epoch, position = divmod(step, len(rows) // batch_size)
    order = _permutation(len(rows), step_seed(seed, epoch))
    return rows[order[position * batch_size : (position + 1) * batch_size]]


@lru_cache(maxsize=2)  # that of the current epoch
def _permutation(n: int, seed: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def step_seed(seed: int, step: int) -> int:
    """Derive the seed of one step of a run, which can be repeated on its own."""
    return (seed * 1_000_003 + step * 7919 + 17) % 2**63


def learning_rate(step: int, config: TrainConfig) -> float:
    """Compute the learning rate: a warm-up over 5 % of the steps, then the schedule."""
    warmup = max(1, config.steps // 20)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    angle = math.pi * (step - warmup) / max(1, config.steps - warmup)
    return config.lr * 0.5 * (1 + math.cos(angle))


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict]:
    """Group trainable parameters; weight decay is for matrices and filters."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]


@torch.no_grad()
def validate(model: Architecture, batch: Batch) -> dict[str, float]:
    """Compute the InfoNCE of location and each modality on held-out places (n, ...)."""
    model.eval()
    losses = {}
    for m in model.heads:
        values, has = batch[m]
        location = model.embed("location", batch["location"][0][has])
        losses[m] = info_nce(location, model.embed(m, values[has]), model.scale(m)).item()
    return losses


def hashes_of(extra: dict[str, np.ndarray] | None) -> dict[str, str]:
    """Hash features (places, d) of extra modalities: 16 hex digits by name."""
    arrays = {m: np.ascontiguousarray(v, np.float32) for m, v in (extra or {}).items()}
    return {m: hashlib.sha256(v.tobytes()).hexdigest()[:16] for m, v in arrays.items()}


def _train_and_val_rows(dataset: PlaceDataset, split: np.ndarray, seed: int) -> tuple[Tensor, Tensor]:
    usable = np.any([p.numpy() for p in dataset.present.values()], 0)
    rows = torch.from_numpy(np.flatnonzero((split == "train") & usable))
    val_rows = torch.from_numpy(np.flatnonzero((split == "val") & usable))
    for m, present in dataset.present.items():
        counts = int(present[rows].sum()), int(present[val_rows].sum())
        if min(counts) < 2:
            found = f"{counts[0]} places to train on and {counts[1]} to validate on have {m!r}"
            raise ValueError(f"{dataset.path}: {found}; it needs 2 of each, or another split")
    order = torch.randperm(len(val_rows), generator=torch.Generator().manual_seed(seed))
    drawn = val_rows[order[:VALIDATION_PLACES]]
    for present in dataset.present.values():
        if present[drawn].sum() < 2:  # add the first places that have it
            drawn = torch.cat([drawn, val_rows[present[val_rows]][:VALIDATION_PLACES]])
    return rows, drawn.unique()


def _backbones(store: PlaceStore, config: TrainConfig, start: dict, weights: dict) -> dict:
    """Load the frozen backbones. One of text is fitted to training texts alone."""
    backbones, used = {}, {m: b["name"] for m, b in start.get("backbones", {}).items()}
    for m, name in config.backbones.items():
        if name not in ("auto", used.get(m, name)):
            raise ValueError(f"init: its {m} backbone is {used[m]}, not {name}")
        if m in used:
            backbones[m] = files.load_backbone(start, weights, m)
        elif m == "text":
            rows = np.flatnonzero(store.has("text") & (split_of(store, config) == "train"))
            backbones[m] = text_backbone(name, fit_on=store.texts(rows))
        else:
            backbones[m] = image_backbone(name, store.imagery[m]["bands"], store.imagery[m]["scale"])
    return backbones


def _start_from(model: Architecture, modalities: list[str], weights: dict[str, Tensor]) -> None:
    current, shared = model.state_dict(), [m for m in modalities if m in model.modalities]
    wanted = [k for k in current if any(k.startswith(f"encoders.{m}.") for m in shared)]
    wanted += [k for k in current if k.startswith("log_scale.") and k in weights]
    for k in wanted:
        if k not in weights or weights[k].shape != current[k].shape:
            raise ValueError(f"init: cannot start from this run, {k} is another")
    model.load_state_dict({k: weights[k] for k in wanted}, strict=False)


def _check_devices(config: TrainConfig) -> None:
    """Refuse more devices than there are, which Fabric finds out late or never."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found, kind = (gpus, "GPUs") if gpus else (os.cpu_count() or 1, "cores")
    if config.devices > found:
        raise ValueError(f"devices: {config.devices} are more than the {found} {kind} of this machine")
    if config.nodes > 1 and not {"MASTER_ADDR", "SLURM_NTASKS"} & os.environ.keys():
        raise ValueError("nodes: start the command on each machine by torchrun or srun, for all to meet")


def _on_rank_zero(fabric: Fabric, action: Callable[[], object]) -> None:
    """Act on the first device while others wait, and raise its error on all."""
    error = None
    if fabric.is_global_zero:
        try:
            action()
        except Exception as problem:
            error = problem
    if error := fabric.broadcast(error):
        raise error


def _not_finite(run: Path, step: int, places: np.ndarray) -> FloatingPointError:
    problem = f"the loss of step {step} is not finite; look at its places, or lower lr"
    return FloatingPointError(f"{run}: {problem}; its places: {', '.join(places[:20])}, ...")
