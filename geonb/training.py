"""One training loop for every architecture, on Lightning Fabric.

A run is a folder: ``config.yaml``, ``metrics.jsonl``, ``checkpoints/last.safetensors`` while it trains, and at
the end ``model.safetensors`` and ``manifest.json``. Whatever stops a run, the last checkpoint is whole, and a
resumed run takes the steps that an uninterrupted one would have taken.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import yaml
from lightning_fabric import Fabric
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from geonb.architectures import ARCHITECTURES, Architecture, Batch
from geonb.data.splits import blocked_split, random_split
from geonb.data.store import PlaceStore
from geonb.encoders.features import BACKBONES, features
from geonb.encoders.head import Head
from geonb.encoders.location import LocationEncoder, network, positional_encoding
from geonb.encoders.text import text_backbone
from geonb.losses import symmetric_info_nce

RUN_SCHEMA = 1
VALIDATION_PLACES = 2048

_HARMONICS = {"name": "spherical_harmonics", "degrees": 20, "decay": 1.0}
_OURS = {"encoding": _HARMONICS, "network": {"name": "residual"}}
LOCATION_ENCODERS = {
    "imagebind": _OURS,
    "cyclic": _OURS,
    "fused": _OURS,
    "satclip": {"encoding": {"name": "spherical_harmonics", "degrees": 20}, "network": {"name": "siren"}},
    "geoclip": {
        "encoding": {"name": "random_fourier"},
        "network": {"name": "capsules", "hidden": 256, "layers": 2},  # published: 1,024 and 3
    },
    "csp": {"encoding": {"name": "grid"}, "network": {"name": "feed_forward"}},
}


@dataclass(frozen=True)
class TrainConfig:
    """What to train and how. Fields left at None are filled by the architecture's own choice.

    Attributes:
        modalities: beginning with "location"; None takes all that the store has (baselines: the image).
        dim: dimensions of the shared space.
        encoding, network: location encoder, each {"name": ..., **options}.
        options: of the architecture: ``exclude_km``; ``cycles``, ``location_learns`` (cyclic); ``queue`` (geoclip).
        backbones: per modality, by name.
        steps: optimiser steps. ``batch_size``: places per step, over all devices.
        lr, weight_decay: of AdamW; warm-up over the first 5 % of steps, then a cosine to zero.
        validate_every: steps between validations on spatially held-out places, each with a checkpoint. The
            weights with the lowest validation loss are the run's weights.
        split: ``kind`` "blocked" or "random", with the options of that function in :mod:`geonb.data.splits`.
        precision, devices: as Lightning Fabric takes them.
    """

    modalities: tuple[str, ...] | None = None
    dim: int = 256
    encoding: dict | None = None
    network: dict | None = None
    options: dict = field(default_factory=dict)
    backbones: dict = field(default_factory=lambda: {"text": "auto", "image": "random_conv"})
    steps: int = 400
    batch_size: int = 512
    lr: float = 1e-3
    weight_decay: float = 0.05
    validate_every: int = 25
    seed: int = 0
    split: dict = field(default_factory=lambda: {"kind": "blocked", "size_km": 500.0, "buffer_km": 50.0, "seed": 0})
    precision: str = "32-true"
    devices: int = 1


def resolve(architecture: str, store: PlaceStore, config: TrainConfig) -> TrainConfig:
    """The config with every choice made and checked against the architecture and the store.

    Raises:
        ValueError: unknown architecture or modality, a modality the store lacks, or too few places.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {architecture!r}; choose one of {', '.join(ARCHITECTURES)}")
    available = [m for m in BACKBONES if store.has(m).any()]
    modalities = config.modalities
    if modalities is None:
        chosen = available if not ARCHITECTURES[architecture].binary else available[-1:]
        modalities = ("location", *chosen)
    unknown = [m for m in modalities if m != "location" and m not in BACKBONES]
    if unknown:
        raise ValueError(f"unknown modality {unknown[0]!r}; choose from location, {', '.join(BACKBONES)}")
    if "location" not in modalities or len(set(modalities)) != len(modalities):
        raise ValueError(f"modalities must contain location, each once, not {modalities}")
    missing = [m for m in modalities if m != "location" and m not in available]
    if missing or len(modalities) < 2:
        what = f"no {missing[0]}" if missing else "neither text nor image"
        raise ValueError(f"{store.path}: the store has {what}, but location, {', '.join(available)}")
    if config.steps < 1 or config.batch_size < 2:
        raise ValueError("steps must be at least 1 and batch_size at least 2")
    ours = LOCATION_ENCODERS[architecture]
    return replace(
        config,
        modalities=("location", *(m for m in modalities if m != "location")),
        encoding=config.encoding or ours["encoding"],
        network=config.network or ours["network"],
        backbones={m: config.backbones[m] for m in modalities if m != "location"},
    )


def split_of(store: PlaceStore, config: TrainConfig | dict) -> np.ndarray:
    """"train", "val", "test" or "buffer" for each place: the split that the config asks for.

    Pre-training sees "train", its early stopping "val"; "test" is for evaluation alone.
    """
    options = dict(config["split"] if isinstance(config, dict) else config.split)
    kind = options.pop("kind")
    if kind == "blocked":
        return blocked_split(store.lonlat, **options)
    if kind == "random":
        return random_split(len(store), **options)
    raise ValueError(f"unknown split {kind!r}; choose blocked or random")


def build(architecture: str, config: TrainConfig | dict, feature_dims: dict[str, int]) -> Architecture:
    """A freshly initialised architecture from a resolved config; ``feature_dims`` tells each backbone's width."""
    config = TrainConfig(**config) if isinstance(config, dict) else config
    torch.manual_seed(config.seed)
    encoding, net = dict(config.encoding), dict(config.network)
    encoding = positional_encoding(encoding.pop("name"), **encoding)
    location = LocationEncoder(encoding, network(net.pop("name"), encoding.dim, config.dim, **net))
    heads = {m: Head(feature_dims[m], config.dim) for m in config.modalities[1:]}
    return ARCHITECTURES[architecture](location, heads, **config.options)


def train(
    architecture: str,
    data: PlaceStore | str | Path,
    out: str | Path,
    config: TrainConfig | None = None,
    resume: bool = False,
    init: str | Path | None = None,
    progress: bool = True,
) -> Path:
    """Train an architecture on a place store and write the run folder ``out``.

    Args:
        architecture: a key of :data:`geonb.architectures.ARCHITECTURES`.
        data: a place store or its folder.
        config: see :class:`TrainConfig`; when resuming, the run's own config is used.
        resume: go on from the last checkpoint of ``out``. A finished run is returned as it is.
        init: a finished run whose encoders are the starting point, as in pre-training on one store and
            fine-tuning on another. Its modalities must include those trained here.

    Returns:
        The run folder.

    Raises:
        ValueError: see :func:`resolve`; or ``out`` already holds a run and ``resume`` is False.
        KeyboardInterrupt: passed on; the run can be resumed.
    """
    store = data if isinstance(data, PlaceStore) else PlaceStore.open(data)
    out = Path(out)
    if resume and (out / "config.yaml").exists():
        stored = read_config(out)
        if stored.pop("architecture") != architecture or stored.pop("data_hash") != store.data_hash:
            raise ValueError(f"{out}: this run is of another architecture or other data; resume with the same")
        init = stored.pop("init")
        config = TrainConfig(**stored)
        if (out / "model.safetensors").exists():
            return out
    else:
        config = resolve(architecture, store, config or TrainConfig())

    fabric = Fabric(accelerator="auto", devices=config.devices, precision=config.precision)
    fabric.launch()
    if fabric.is_global_zero:
        if not resume and out.exists() and any(out.iterdir()):
            raise ValueError(f"{out}: exists already; resume it (--resume), delete it, or choose another folder")
        _check_disk(out)

    backbones = _backbones(store, config, init)
    with fabric.rank_zero_first():
        feats = {m: features(store, m, backbone, progress) for m, backbone in backbones.items()}
    lonlat, values, present = _tensors(store, feats)
    split = split_of(store, config)
    usable = np.any([p.numpy() for p in present.values()], 0)
    rows = torch.from_numpy(np.flatnonzero((split == "train") & usable))
    val_rows = torch.from_numpy(np.flatnonzero((split == "val") & usable))
    if len(rows) < 2 or len(val_rows) < 2:
        raise ValueError(
            f"{store.path}: {len(rows)} places to train on and {len(val_rows)} to validate on are too few; "
            "add places, or choose a smaller block size or another split"
        )
    generator = torch.Generator().manual_seed(config.seed)
    val_rows = val_rows[torch.randperm(len(val_rows), generator=generator)[:VALIDATION_PLACES]].sort().values

    model = build(architecture, config, {m: b.dim for m, b in backbones.items()})
    for m in model.heads:
        model.encoders[m].standardise_by(values[m][rows[present[m][rows]]])
    if init is not None:
        _initialise(model, Path(init))

    if fabric.is_global_zero:
        (out / "checkpoints").mkdir(parents=True, exist_ok=True)
        record = {"architecture": architecture, "data_hash": store.data_hash, "init": init and str(init)}
        record = json.loads(json.dumps(record | asdict(config)))  # plain lists and dicts
        (out / "config.yaml").write_text(yaml.safe_dump(record, sort_keys=False))
    fabric.barrier()

    def batch_of(chosen: Tensor) -> Batch:
        batch = {"location": (lonlat[chosen], torch.ones(len(chosen), dtype=torch.bool))}
        return batch | {m: (values[m][chosen], present[m][chosen]) for m in model.heads}

    state = _fit(fabric, model, config, out, rows, batch_of, batch_of(val_rows), progress)
    if not fabric.is_global_zero:
        return out

    weights = {k: v.contiguous() for k, v in state["best"].items()}
    for m, backbone in backbones.items():
        if m == "text":
            weights |= {f"backbone.{m}.{k}": v.contiguous() for k, v in backbone.state().items()}
    _save_atomically(weights, out / "model.safetensors")
    manifest = {
        "schema": RUN_SCHEMA,
        "architecture": architecture,
        "modalities": list(config.modalities),
        "backbones": {m: {"name": b.name, "dim": b.dim, "fingerprint": b.fingerprint} for m, b in backbones.items()},
        "data": {
            "name": store.path.name,
            "hash": store.data_hash,
            "places": len(store),
            "train_places": len(rows),
            "simulated": {m: bool(store.simulated(m)) for m in config.modalities},
        },
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": config.steps,
        "batch_size": min(config.batch_size, len(rows)),
        "samples_seen": config.steps * min(config.batch_size, len(rows)),
        "selected_step": state["best_step"],
        "validation_loss": state["best_loss"],
        "seed": config.seed,
        "precision": config.precision,
        "devices": config.devices,
        "device": state["device"],
        "versions": {"geonb": _version(), "torch": torch.__version__},
        "wall_s": round(state["wall_s"], 2),
    }
    partial = out / "manifest.json.partial"
    partial.write_text(json.dumps(manifest, indent=2) + "\n")
    partial.replace(out / "manifest.json")
    return out


def _fit(
    fabric: Fabric, model: Architecture, config: TrainConfig, out: Path, rows: Tensor, batch_of, val_batch: Batch,
    progress: bool,
) -> dict:  # fmt: skip
    """The loop: from the last checkpoint, or from the start, to the last step."""
    from tqdm.auto import tqdm

    decay = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decay, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98))
    state = {"step": 0, "best": None, "best_step": 0, "best_loss": math.inf, "wall_s": 0.0}
    checkpoint = out / "checkpoints" / "last.safetensors"
    if checkpoint.exists():
        state |= _load_checkpoint(checkpoint, model, optimizer)
    wrapped, optimizer = fabric.setup(model, optimizer)
    if fabric.world_size > 1:
        model.gather = lambda t: fabric.all_gather(t, sync_grads=t.requires_grad).flatten(0, 1)
    val_batch = fabric.to_device(val_batch)
    state["device"] = str(fabric.device)

    batch_size = min(config.batch_size, len(rows))
    if batch_size % fabric.world_size:
        raise ValueError(f"a batch of {batch_size} places cannot be shared evenly by {fabric.world_size} devices")
    if fabric.is_global_zero:
        _forget_after(state["step"], out / "metrics.jsonl")
    started = time.monotonic() - state["wall_s"]
    bar = tqdm(total=config.steps, initial=state["step"], desc=out.name, unit="step", disable=not progress)
    with bar:
        try:
            for step in range(state["step"], config.steps):
                torch.manual_seed(mixed(config.seed, step))  # dropout, alike after a resume
                model.train()
                model.begin_step(step / config.steps)
                lr = learning_rate(step, config)
                for group in optimizer.param_groups:
                    group["lr"] = lr
                mine = batch_rows(rows, step, batch_size, config.seed).chunk(fabric.world_size)[fabric.global_rank]
                terms = wrapped(fabric.to_device(batch_of(mine)))
                loss = sum(terms.values())
                optimizer.zero_grad()
                if loss.requires_grad:
                    fabric.backward(loss)
                    optimizer.step()
                bar.update()

                done = step + 1
                if done % config.validate_every == 0 or done == config.steps:
                    held_out = validate(model, val_batch)
                    mean = sum(held_out.values()) / len(held_out)
                    if not math.isfinite(mean):
                        raise FloatingPointError(f"{out}: the loss is not finite at step {done}; lower lr")
                    if mean < state["best_loss"]:
                        best = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
                        state |= {"best": best, "best_step": done, "best_loss": mean}
                    state |= {"step": done, "wall_s": time.monotonic() - started}
                    bar.set_postfix(loss=f"{loss.item():.3f}", held_out=f"{mean:.3f}", best=state["best_step"])
                    if fabric.is_global_zero:
                        line = {"step": done, "loss": loss.item(), "lr": lr, "wall_s": round(state["wall_s"], 3)}
                        line |= {f"loss/{k}": v.item() for k, v in terms.items()}
                        line |= {f"held_out/{k}": v for k, v in held_out.items()} | {"held_out": mean}
                        line |= {f"scale/{m}": model.scale(m).item() for m in model.heads}
                        with (out / "metrics.jsonl").open("a") as metrics:
                            metrics.write(json.dumps(line) + "\n")
                        _save_checkpoint(checkpoint, model, optimizer, state)
        except KeyboardInterrupt:
            bar.write(f"{out}: stopped after step {state['step']}; go on with --resume", file=sys.stderr)
            raise
    return state


def batch_rows(rows: Tensor, step: int, batch_size: int, seed: int) -> Tensor:
    """The rows of one step: each epoch is a permutation that depends on the seed and the epoch alone."""
    per_epoch = len(rows) // batch_size
    epoch, position = divmod(step, per_epoch)
    generator = torch.Generator().manual_seed(mixed(seed, epoch))
    return rows[torch.randperm(len(rows), generator=generator)[position * batch_size : (position + 1) * batch_size]]


def mixed(seed: int, count: int) -> int:
    """A seed for the count-th draw of a run, so that every draw can be repeated alone."""
    return (seed * 1_000_003 + count * 7919 + 17) % 2**63


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up over the first 5 % of steps, then half a cosine down to zero."""
    warmup = max(1, config.steps // 20)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, config.steps - warmup)))


@torch.no_grad()
def validate(model: Architecture, batch: Batch) -> dict[str, float]:
    """Location-modality InfoNCE on held-out places, the same yardstick for every architecture (nats)."""
    model.eval()
    losses = {}
    for m in model.heads:
        values, has = batch[m]
        location = model.embed("location", batch["location"][0][has])
        losses[m] = symmetric_info_nce(location, model.embed(m, values[has]), model.scale(m)).item()
    return losses


def read_config(run: Path) -> dict:
    """The ``config.yaml`` of a run, as a dict; see :class:`TrainConfig`."""
    path = run / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{run}: no config.yaml, so this is not a run; train one with `geonb train`") from None
    config["modalities"] = tuple(config["modalities"])
    return config


def _backbones(store: PlaceStore, config: TrainConfig, init) -> dict:
    """The frozen backbone of each modality; a text backbone that must be fitted sees training texts alone."""
    if init is not None:
        from geonb.model import load

        start = load(init)
        return {m: start.backbone(m) for m in config.modalities[1:]}
    backbones = {}
    for m, name in config.backbones.items():
        if m == "text":
            rows = np.flatnonzero(store.has("text") & (split_of(store, config) == "train"))
            backbones[m] = text_backbone(name, fit_on=store.texts(rows))
        else:
            backbones[m] = BACKBONES[m](name)
    return backbones


def _tensors(store: PlaceStore, feats: dict[str, np.ndarray]):
    lonlat = torch.from_numpy(store.lonlat.astype(np.float32))
    values, present = {}, {}
    for m, array in feats.items():
        present[m] = torch.from_numpy(store.has(m))
        values[m] = torch.zeros(len(store), array.shape[1])
        values[m][present[m]] = torch.from_numpy(array)
    return lonlat, values, present


def _initialise(model: Architecture, run: Path) -> None:
    from geonb.model import load

    start = load(run).architecture.state_dict()
    own = model.state_dict()
    wanted = [k for k in own if not k.startswith("queue")]
    faulty = [k for k in wanted if k not in start or start[k].shape != own[k].shape]
    if faulty:
        raise ValueError(f"{run}: cannot start from this run, {faulty[0]} is missing or of another shape")
    model.load_state_dict({k: start[k] for k in wanted}, strict=False)


def _save_checkpoint(path: Path, model: Architecture, optimizer, state: dict) -> None:
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in (state["best"] or {}).items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in slots.items()}
    meta = {k: state[k] for k in ("step", "best_step", "best_loss", "wall_s")}
    _save_atomically({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, path, {"state": json.dumps(meta)})


def _load_checkpoint(path: Path, model: Architecture, optimizer) -> dict:
    with safe_open(path, "pt") as file:
        state = json.loads(file.metadata()["state"])
        tensors = {k: file.get_tensor(k) for k in file.keys()}
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    slots: dict[int, dict] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            slots.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    best = {k.removeprefix("best."): v for k, v in tensors.items() if k.startswith("best.")}
    return state | {"best": best or None}


def _forget_after(step: int, path: Path) -> None:
    """Drop the metrics of steps that a resumed run takes again."""
    lines = path.read_text().splitlines() if path.exists() else []
    path.write_text("".join(line + "\n" for line in lines if json.loads(line)["step"] <= step))


def _save_atomically(tensors: dict[str, Tensor], path: Path, metadata: dict | None = None) -> None:
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, partial, metadata)
    partial.replace(path)


def _check_disk(out: Path, needed_mb: int = 200) -> None:
    folder = next(p for p in [out.absolute(), *out.absolute().parents] if p.exists())
    free_mb = shutil.disk_usage(folder).free / 2**20
    if free_mb < needed_mb:
        raise OSError(f"{out}: {free_mb:.0f} MB free, a run needs {needed_mb} MB; free some space or change folder")


def _version() -> str:
    from geonb import __version__

    return __version__
