"""One training loop for every architecture, on Lightning Fabric.

A run is a folder: ``config.yaml``, ``metrics.jsonl``, ``checkpoints/last.safetensors``, and at the end
``model.safetensors`` and ``manifest.json``. Whatever stops a run, the last checkpoint is whole, and a resumed run
takes the steps that an uninterrupted one would have taken.

The same call trains on a laptop and on many GPUs: ``geonb train imagebind ... --devices 8`` on one machine, or on two
``torchrun --nnodes 2 --nproc-per-node 8 -m geonb.cli train imagebind ... --devices 8 --nodes 2`` (``srun`` in place of
``torchrun`` under SLURM, one task a device), where all machines see the same data and run folders. ``batch_size``
counts the places of all devices; every place is a negative of every other, wherever it is embedded. Embedding is
shared by the devices; the loss over the whole batch, which is cheap beside it, is computed on each.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache, partial
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from lightning_fabric.utilities.rank_zero import rank_zero_only
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from geonb._checkpoint import load_checkpoint, read_lines, save_checkpoint, save_tensors
from geonb._util import write_atomically
from geonb.architectures import ARCHITECTURES, Architecture, Batch, Cyclic
from geonb.data.splits import blocked_split, blocks, random_split
from geonb.data.store import PlaceStore
from geonb.encoders.features import BACKBONES, features
from geonb.encoders.head import Head
from geonb.encoders.location import LocationEncoder, network, positional_encoding
from geonb.encoders.text import text_backbone
from geonb.encoders.vision import VISION
from geonb.losses import info_nce

RUN_SCHEMA = 2
VALIDATION_PLACES = 2048
VALIDATION_IMAGES = 256  # where images are embedded from their pixels

_HARMONICS = {"name": "spherical_harmonics", "degrees": 20, "decay": 1.0}
_OURS: dict[str, dict] = {
    "encoding": _HARMONICS,
    "network": {"name": "residual"},
    "head": {"name": "residual", "hidden": 256},
}
ENCODERS: dict[str, dict[str, dict]] = {
    "imagebind": _OURS,
    "cyclic": _OURS,
    "fused": _OURS,
    "satclip": {
        "encoding": {"name": "spherical_harmonics", "degrees": 20},
        "network": {"name": "siren", "hidden": 256},
        "head": {"name": "linear"},
    },
    "geoclip": {
        "encoding": {"name": "random_fourier"},
        "network": {"name": "capsules", "hidden": 256, "layers": 2},
        "head": {"name": "mlp"},
    },
    "csp": {"encoding": {"name": "grid"}, "network": {"name": "feed_forward"}, "head": {"name": "linear"}},
}


@dataclass(frozen=True)
class TrainConfig:
    """What to train and how. Fields left at None are filled by the architecture's own choice.

    Attributes:
        modalities: beginning with "location"; None takes all that there are (baselines: the last).
        dim: dimensions of the shared space.
        encoding, network: location encoder, each ``{"name": ..., **options}``.
        head: network on the features of every other modality, ``{"name": ..., **options}``.
        options: of the architecture, see its class in :mod:`geonb.architectures`.
        backbones: of "text" and "image", by name; "resnet18" and "vit_small" train an image encoder end to end.
        steps: optimiser steps. ``batch_size``: places per step, over all devices.
        stratify_km: at most one place of each equal-area cell of this size in a batch, cells drawn alike whatever their
            density; 0 takes places in random order, each at most once an epoch.
        lr, betas, weight_decay: of AdamW; no decay on temperatures, norms and biases.
        schedule: "cosine" to zero or "constant", after a warm-up over the first 5 % of steps.
        ema: decay of an exponential moving average of the weights, which is then what is validated and kept; 0 for
            none.
        validate_every: steps between validations on spatially held-out places, each with a checkpoint. The
            weights with the lowest validation loss are the run's weights.
        patience: training stops when the best validation is that many validations ago; None goes on to the last step.
            Not with phases, which would end in the middle.
        split: ``kind`` "blocked" or "random", with the options of that function in :mod:`geonb.data.splits`.
        compile: run the networks through ``torch.compile``.
        loggers: any of "csv" and "tensorboard" (needs the package of that name); ``metrics.jsonl`` is always there, and
            alone has the steps before a resume.
        precision: "32-true", "bf16-mixed" or "64-true".
        devices, nodes: GPUs on each machine, or processes where there are none, and the number of machines.
    """

    modalities: tuple[str, ...] | None = None
    dim: int = 256
    encoding: dict | None = None
    network: dict | None = None
    head: dict | None = None
    options: dict = field(default_factory=dict)
    backbones: dict = field(default_factory=lambda: {"text": "auto", "image": "random_conv"})
    steps: int = 400
    batch_size: int = 512
    stratify_km: float = 0.0
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.05
    schedule: str = "cosine"
    ema: float = 0.0
    validate_every: int = 25
    patience: int | None = None
    seed: int = 0
    split: dict = field(default_factory=lambda: {"kind": "blocked", "size_km": 500.0, "buffer_km": 50.0, "seed": 0})
    compile: bool = False
    loggers: tuple[str, ...] = ()
    precision: str = "32-true"
    devices: int = 1
    nodes: int = 1


def published(architecture: str, **changes: Any) -> TrainConfig:
    """The settings of a baseline's paper and code, where they are known; ``changes`` replace some of them.

    SatCLIP: 8,192 places a step, which its code accumulates from 16 batches of 512 that do not see each other. GeoCLIP:
    optimiser and batch are not in its code and are those reported for it, with AdamW for Adam and a cosine for its
    steps down. CSP: its run on iNaturalist, with AdamW without decay, which is Adam.

    Raises:
        ValueError: not one of these three baselines.
    """
    configs = {
        "satclip": TrainConfig(
            encoding={"name": "spherical_harmonics", "degrees": 40}, network={"name": "siren", "hidden": 512},
            head={"name": "linear"}, batch_size=8192, lr=1e-4, betas=(0.9, 0.999), weight_decay=0.01,
            schedule="constant",
        ),
        "geoclip": TrainConfig(
            dim=512, encoding={"name": "random_fourier"}, network={"name": "capsules"}, head={"name": "mlp"},
            options={"queue": 4096, "jitter_km": 0.15}, batch_size=512, lr=3e-5, betas=(0.9, 0.999),
            weight_decay=1e-6,
        ),
        "csp": TrainConfig(
            encoding={"name": "grid"}, network={"name": "feed_forward"}, head={"name": "linear"},
            options={"temperatures": [20.0, 1.0, 1.0]}, batch_size=1024, lr=5e-4, betas=(0.9, 0.999), weight_decay=0.0,
            schedule="constant",
        ),
    }  # fmt: skip
    if architecture not in configs:
        raise ValueError(f"{architecture!r} is not a published baseline; choose one of {', '.join(configs)}")
    return replace(configs[architecture], **changes)


LISTS = {"modalities": "[location, text]", "betas": "[0.9, 0.98]", "loggers": "[csv]"}
MAPPINGS = {
    "encoding": "{name: grid}",
    "network": "{name: residual}",
    "head": "{name: linear}",
    "options": "{exclude_km: 10}",
    "backbones": "{text: lsa}",
    "split": "{kind: blocked, size_km: 500}",
}


def check_kinds(config: TrainConfig) -> None:
    """See that what should be a list, a mapping, or a mapping with a name is one.

    Raises:
        ValueError: a field that is not; the message shows one that is.
    """
    for name, example in (LISTS | MAPPINGS).items():
        value = getattr(config, name)
        if value is None and name in ("modalities", "encoding", "network", "head"):
            continue
        if not isinstance(value, (list, tuple) if name in LISTS else dict):
            what = "list" if name in LISTS else "mapping"
            raise ValueError(f"{name} must be a {what} such as {example}, not {value!r}")
        if "name:" in example and value and "name" not in value:
            raise ValueError(f"{name} needs a name, as in {example}; it is {value!r}")


def resolve(
    architecture: str, store: PlaceStore, config: TrainConfig, extra: dict[str, np.ndarray] | None = None
) -> TrainConfig:
    """The config with every choice made and checked against the architecture, the store and further modalities
    (``extra``: features (places, d) by name).

    Raises:
        ValueError: unknown architecture or modality, a modality that is not there, or senseless numbers.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {architecture!r}; choose one of {', '.join(ARCHITECTURES)}")
    check_kinds(config)
    extra = extra or {}
    for name, values in extra.items():
        if name in BACKBONES or not name.isidentifier() or np.ndim(values) != 2 or len(values) != len(store):
            raise ValueError(
                f"extra modality {name!r}: give a new name and an array ({len(store)}, d), a row per place of the "
                f"store, NaN where a place has none; not one of shape {np.shape(values)}"
            )
        if np.isinf(values).any():
            row = int(np.isinf(values).any(1).argmax())
            raise ValueError(f"extra modality {name!r}: row {row} ({store.place_id[row]}) is infinite; NaN means none")
    available = [*(m for m in BACKBONES if store.has(m).any()), *extra]
    modalities = config.modalities
    if modalities is None:
        chosen = available if not ARCHITECTURES[architecture].binary else available[-1:]
        modalities = ("location", *chosen)
    unknown = [m for m in modalities if m not in ("location", *BACKBONES, *extra)]
    if unknown:
        known = ", ".join(("location", *BACKBONES, *extra))
        raise ValueError(f"unknown modality {unknown[0]!r}; choose from {known}, or give its features as extra")
    if "location" not in modalities or len(set(modalities)) != len(modalities):
        raise ValueError(f"modalities must contain location, each once, not {modalities}")
    missing = [m for m in modalities if m != "location" and m not in available]
    if missing or len(modalities) < 2:
        what = f"no {missing[0]}" if missing else "neither text nor image"
        raise ValueError(f"{store.path}: the store has {what}, but location, {', '.join(available)}")
    if min(config.steps, config.validate_every, config.dim) < 1 or config.batch_size < 2:
        raise ValueError("steps, validate_every and dim must be at least 1, and batch_size at least 2")
    if config.schedule not in ("cosine", "constant"):
        raise ValueError(f"unknown schedule {config.schedule!r}; choose cosine or constant")
    if not 0 <= config.ema < 1 or config.stratify_km < 0 or (config.patience is not None and config.patience < 1):
        raise ValueError("need 0 <= ema < 1, stratify_km >= 0 and patience >= 1 or None")
    if config.precision not in ("32-true", "bf16-mixed", "64-true"):
        raise ValueError(
            f"precision {config.precision!r}: choose 32-true, bf16-mixed or 64-true; positions need 32 bits, and runs "
            "resume exactly without a gradient scaler"
        )
    if config.patience and issubclass(ARCHITECTURES[architecture], Cyclic):
        raise ValueError("patience would stop cyclic training in the middle of a phase; leave it at None")
    if strange := set(config.backbones) - set(BACKBONES):
        raise ValueError(f"backbones has {min(strange)!r}, which is none of {', '.join(BACKBONES)}")
    backbones = TrainConfig().backbones | config.backbones
    if backbones["text"] in VISION:
        raise ValueError(f"{backbones['text']!r} is a backbone for images, not for text")
    if set(config.loggers) - {"csv", "tensorboard"}:
        raise ValueError(f"unknown loggers {config.loggers}; choose from csv, tensorboard")
    ours = ENCODERS[architecture]
    return replace(
        config,
        modalities=("location", *(m for m in modalities if m != "location")),
        encoding=config.encoding or ours["encoding"],
        network=config.network or ours["network"],
        head=config.head or ours["head"],
        backbones={m: backbones[m] for m in modalities if m != "location" and m not in extra},
    )


def split_of(store: PlaceStore, config: TrainConfig | dict) -> np.ndarray:
    """An array (places,) of "train", "val", "test" or "buffer": the split that the config asks for.

    Pre-training sees "train", its early stopping "val"; "test" is for evaluation alone.

    Raises:
        ValueError: a kind of split that there is not, or an option that its kind does not have, or of a wrong type.
    """
    options = dict(config["split"] if isinstance(config, dict) else config.split)
    kind = options.pop("kind", None)
    if kind not in ("blocked", "random"):
        raise ValueError(f"unknown split {kind!r}; its kind is blocked or random")
    make: Callable[..., np.ndarray] = blocked_split if kind == "blocked" else random_split
    known = sorted(list(signature(make).parameters)[1:])  # the first is what is split
    if strange := options.keys() - set(known):
        raise ValueError(f"a {kind} split has no {min(strange)}; choose from {', '.join(known)}")
    with _part("split"):
        return make(store.lonlat if kind == "blocked" else len(store), **options)


def build(architecture: str, config: TrainConfig | dict, feature_dims: dict[str, int]) -> Architecture:
    """A freshly initialised architecture from a resolved config; ``feature_dims`` tells each backbone's width.

    Raises:
        ValueError: an encoding, network or option that there is not, or one of a wrong type.
    """
    config = TrainConfig(**config) if isinstance(config, dict) else config
    torch.manual_seed(config.seed)

    def named(settings: dict) -> tuple[str, dict]:
        return settings["name"], {k: v for k, v in settings.items() if k != "name"}

    assert config.encoding and config.network and config.head and config.modalities, "a resolved config"
    name, options = named(config.encoding)
    with _part("encoding"):
        encoding = positional_encoding(name, **options)
    name, options = named(config.network)
    with _part("network"):
        location = LocationEncoder(encoding, network(name, encoding.dim, config.dim, **options))
    name, options = named(config.head)
    heads = {}
    for m in config.modalities[1:]:
        if config.backbones.get(m) in VISION:
            heads[m] = VISION[config.backbones[m]](config.dim)
        else:
            with _part("head"):
                heads[m] = Head(feature_dims[m], config.dim, name, **options)
    with _part("options"):
        return ARCHITECTURES[architecture](location, heads, **config.options)


@contextmanager
def _part(field: str) -> Iterator[None]:
    """Names the field of the config that a constructor could not take."""
    try:
        yield
    except TypeError as error:
        raise ValueError(f"{field}: {error}; look for a misspelt option, or one of a wrong type") from error


def train(
    architecture: str,
    data: PlaceStore | str | Path,
    out: str | Path,
    config: TrainConfig | None = None,
    resume: bool = False,
    init: str | Path | None = None,
    extra: dict[str, np.ndarray] | None = None,
    progress: bool = True,
) -> Path:
    """Train an architecture on a place store and write the run folder ``out``.

    Args:
        architecture: a key of :data:`geonb.architectures.ARCHITECTURES`.
        data: a place store or its folder.
        config: see :class:`TrainConfig`; when resuming, the run's own config is used.
        resume: go on from the last checkpoint of ``out``. A finished run is returned as it is.
        init: a finished run whose encoders are the starting point, as in pre-training on one store and
            fine-tuning on another, or on images first. Modalities that it lacks start afresh.
        extra: further modalities by name, each as features (places, d), NaN where a place has none.

    Returns:
        The run folder.

    Raises:
        ValueError: see :func:`resolve` and :func:`build`; ``out`` already holds a run and ``resume`` is False; a
            modality at fewer than two places to train or to validate on, or one whose turn never comes; or a run to go
            on from or to start from that is damaged, elsewhere, or of another text backbone.
        FloatingPointError: a loss that is not finite; the message names the step and the places of its batch.
        KeyboardInterrupt: passed on; the run can be resumed.
    """
    store = data if isinstance(data, PlaceStore) else PlaceStore.open(data)
    out, extra = Path(out), {m: np.asarray(v, np.float32) for m, v in (extra or {}).items()}
    hashes = hashes_of(extra)
    if resume and (out / "config.yaml").exists():
        stored = read_config(out)
        expected = {"architecture": architecture, "data_hash": store.data_hash, "extra": hashes}
        if {k: stored.pop(k, None) for k in expected} != expected:
            raise ValueError(f"{out}: this run is of another architecture or other data; resume with the same")
        init = stored.pop("init")
        config = TrainConfig(**stored)
        if (out / "manifest.json").exists() and (out / "model.safetensors").exists():
            return out
        if init and not Path(init).exists():
            raise ValueError(
                f"{out}: this run was started from {init}, which is not there; put it back, resume from the folder in "
                "which the run was started, or train anew"
            )
    else:
        config = resolve(architecture, store, config or TrainConfig(), extra)
    assert config.modalities is not None, "a resolved config"

    if rank_zero_only.rank == 0:  # before other processes start, which would wait for this one
        if not resume and out.exists() and any(out.iterdir()):
            raise ValueError(f"{out}: exists already; resume it (--resume), delete it, or choose another folder")
        _check_disk(out)
    fabric = _fabric(config, out)
    fabric.launch()

    backbones = _backbones(store, config, init)
    with fabric.rank_zero_first():
        feats = {m: features(store, m, backbone, progress) for m, backbone in backbones.items()}
    observed = Observations(store, feats, extra, [m for m in config.modalities if m != "location"])
    split = split_of(store, config)
    usable = np.any([p.numpy() for p in observed.present.values()], 0)
    rows = torch.from_numpy(np.flatnonzero((split == "train") & usable))
    val_rows = torch.from_numpy(np.flatnonzero((split == "val") & usable))
    if len(rows) < 2 or len(val_rows) < 2:
        raise ValueError(
            f"{store.path}: {len(rows)} places to train on and {len(val_rows)} to validate on are too few; "
            "add places, or choose a smaller block size or another split"
        )
    for m, present in observed.present.items():
        counts = int(present[rows].sum()), int(present[val_rows].sum())
        if min(counts) < 2:
            raise ValueError(
                f"{store.path}: {counts[0]} places to train on and {counts[1]} to validate on have {m!r}, which needs "
                "2 of each; add places that have it, choose another split, or leave it out of modalities"
            )
    generator = torch.Generator().manual_seed(config.seed)
    kept = VALIDATION_IMAGES if observed.pixels else VALIDATION_PLACES
    drawn = val_rows[torch.randperm(len(val_rows), generator=generator)[:kept]]
    scarce = [p for p in observed.present.values() if p[drawn].sum() < 2]  # judged on their first places of all
    val_rows = torch.cat([drawn, *(val_rows[p[val_rows]][:kept] for p in scarce)]).unique()

    model = build(architecture, config, {m: v.shape[1] for m, v in observed.values.items()})
    if isinstance(model, Cyclic):
        idle = set(model.heads) - {model.turn(step / config.steps) for step in range(config.steps)}
        if idle:
            raise ValueError(
                f"{config.steps} steps for {model.phases} phases never come to {min(idle)!r}; "
                f"take {model.phases} steps or more, or fewer cycles"
            )
    for m, values in observed.values.items():
        model.encoders[m].standardise_by(values[rows[observed.present[m][rows]]])
    if init is not None and not (out / "checkpoints" / "last.safetensors").exists():
        _initialise(model, Path(init))
    if config.compile:
        for encoder in model.encoders.values():
            getattr(encoder, "network", encoder).compile()

    def begin() -> None:
        (out / "checkpoints").mkdir(parents=True, exist_ok=True)
        record = {"architecture": architecture, "data_hash": store.data_hash, "init": init and str(init)}
        record = json.loads(json.dumps(record | {"extra": hashes} | asdict(config)))  # plain lists and dicts
        write_atomically(out / "config.yaml", yaml.safe_dump(record, sort_keys=False).encode())

    on_first(fabric, begin)
    state = _fit(fabric, model, config, out, rows, val_rows, observed, progress)
    described = {m: {"name": b.name, "dim": b.dim, "fingerprint": b.fingerprint} for m, b in backbones.items()}
    described |= {m: {"name": name} for m, name in config.backbones.items() if name in VISION}
    described |= {m: {"name": "extra", "dim": v.shape[1]} for m, v in extra.items() if m in config.modalities}
    on_first(fabric, lambda: _finish(out, architecture, config, store, model, rows, backbones, described, state))
    return out


def on_first(fabric: Fabric, action: Callable) -> None:
    """Do something on the first device alone, while the others wait; what goes wrong there is raised on all."""
    error = None
    if fabric.is_global_zero:
        try:
            action()
        except Exception as problem:
            error = problem
    error = fabric.broadcast(error)
    if error is not None:
        raise error


def _finish(
    out: Path,
    architecture: str,
    config: TrainConfig,
    store: PlaceStore,
    model: Architecture,
    rows: Tensor,
    backbones: dict,
    described: dict,
    state: dict,
) -> None:
    """Write the weights, and last of all the manifest, which says that the run is whole."""
    weights = dict(state["best"])
    for m, backbone in backbones.items():
        if m == "text":
            weights |= {f"backbone.{m}.{k}": v for k, v in backbone.state().items()}
    save_tensors(out / "model.safetensors", weights)
    manifest = {
        "schema": RUN_SCHEMA,
        "architecture": architecture,
        "modalities": list(config.modalities or ()),
        "backbones": described,
        "data": {
            "name": store.path.name,
            "hash": store.data_hash,
            "places": len(store),
            "train_places": len(rows),
            "simulated": {m: bool(store.simulated(m)) for m in ("location", *config.backbones)},
        },
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": state["step"],
        "batch_size": state["batch_size"],
        "samples_seen": state["step"] * state["batch_size"],
        "selected_step": state["best_step"],
        "validation_loss": state["best_loss"],
        "backward_transfer": backward_transfer(read_lines(out / "metrics.jsonl", config.steps), model),
        "seed": config.seed,
        "precision": config.precision,
        "devices": config.devices * config.nodes,
        "device": state["device"],
        "versions": {"geonb": _version(), "torch": torch.__version__},
        "wall_s": round(state["wall_s"], 2),
    }
    write_atomically(out / "manifest.json", (json.dumps(manifest, indent=2) + "\n").encode())


class Observations:
    """What the batches are made of: positions, features in memory, and images read from the store when needed."""

    def __init__(self, store: PlaceStore, feats: dict, extra: dict, modalities: list[str]) -> None:
        self.store, self.lonlat = store, torch.from_numpy(store.lonlat.astype(np.float32))
        self.values, self.present, self.modalities = {}, {}, modalities
        for m in modalities:
            if m in extra:
                has = ~np.isnan(extra[m]).any(1)
                full = np.nan_to_num(extra[m])
            else:
                has = store.has(m)
                if m in feats:
                    full = np.zeros((len(store), feats[m].shape[1]), np.float32)
                    full[has] = feats[m]
            self.present[m] = torch.from_numpy(has)
            if m in extra or m in feats:
                self.values[m] = torch.from_numpy(full)
        self.pixels = [m for m in modalities if m not in self.values]

    def batch(self, rows: Tensor, size: int | None = None) -> Batch:
        """The batch of some rows (n,) of the store; with a ``size``, filled up by rows where nothing is present.

        Returns:
            A tuple (values, present) by modality. Values are positions (size, 2), features (size, d) or images
            (size, 12, H, W), uint16 viewed as int16; present is bool (size,).
        """
        size = len(rows) if size is None else size
        real = torch.arange(size) < len(rows)
        rows = torch.cat([rows, rows.new_zeros(size - len(rows))])
        batch = {"location": (self.lonlat[rows], real)}
        for m in self.modalities:
            present = self.present[m][rows] & real
            batch[m] = (self.values[m][rows] if m in self.values else self._images(rows, present), present)
        return batch

    def _images(self, rows: Tensor, present: Tensor) -> Tensor:
        images = self.store.images(rows.numpy(), present.numpy())
        # Few operations take unsigned numbers; the encoder reads these as such.
        return torch.from_numpy(images.view(np.int16))


def _fabric(config: TrainConfig, out: Path) -> Fabric:
    loggers = []
    if "csv" in config.loggers:
        from lightning_fabric.loggers import CSVLogger

        loggers.append(CSVLogger(out, "csv", version="", flush_logs_every_n_steps=1))
    if "tensorboard" in config.loggers:
        from lightning_fabric.loggers import TensorBoardLogger

        loggers.append(TensorBoardLogger(out, "tensorboard", version=""))
    several = config.devices * config.nodes > 1
    strategy = DDPStrategy(find_unused_parameters=True) if several else "auto"  # modalities that wait for their turn
    accelerator = "cuda" if torch.cuda.is_available() else "cpu"  # Apple's lacks the double precision of distances
    return Fabric(
        accelerator=accelerator, devices=config.devices, num_nodes=config.nodes, strategy=strategy,
        precision=config.precision, loggers=loggers,
    )  # fmt: skip


def _fit(
    fabric: Fabric, model: Architecture, config: TrainConfig, out: Path, rows: Tensor, val_rows: Tensor,
    observed: Observations, progress: bool,
) -> dict:  # fmt: skip
    """The loop: from the last checkpoint, or from the start, to the last step."""
    from geonb._util import tqdm

    groups = parameter_groups(model, config.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=tuple(config.betas))
    wrapped, optimizer = fabric.setup(model, optimizer)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema)) if config.ema else None
    modules = {"model": model} | ({"ema": average} if average else {})
    state: dict[str, Any] = {"step": 0, "best_step": 0, "best_loss": math.inf, "wall_s": 0.0}
    best = None
    checkpoint, metrics = out / "checkpoints" / "last.safetensors", out / "metrics.jsonl"
    if checkpoint.exists():
        best, state = load_checkpoint(checkpoint, modules, optimizer)
    if fabric.broadcast(state["step"]) != state["step"]:
        raise ValueError(f"{out}: not the same folder on all machines; put it where all of them see it")
    world, rank = fabric.world_size, fabric.global_rank
    if world > 1:
        model.gather = lambda t: fabric.all_gather(t, sync_grads=t.requires_grad).flatten(0, 1)

    batch_size = min(config.batch_size, len(rows))
    cells = blocks(observed.lonlat[rows].double().numpy(), config.stratify_km) if config.stratify_km else None
    batch_size = batch_size if cells is None else min(batch_size, len(np.unique(cells)))
    share = math.ceil(batch_size / world)

    def load(step: int) -> tuple[Tensor, Batch]:
        chosen = batch_rows(rows, step, batch_size, config.seed, cells)
        return chosen, fabric.to_device(observed.batch(chosen[rank * share : (rank + 1) * share], share))

    val_batch = fabric.to_device(observed.batch(val_rows))
    kept = "".join(json.dumps(line) + "\n" for line in read_lines(metrics, state["step"]))
    on_first(fabric, lambda: write_atomically(metrics, kept.encode()))
    started, last_time, last_step = time.monotonic() - state["wall_s"], time.monotonic(), state["step"]
    bar = tqdm(
        total=config.steps, initial=state["step"], desc=out.name, unit="step", disable=not (progress and rank == 0)
    )
    with bar:
        try:
            for step, (chosen, batch) in ahead(load, state["step"], config.steps, bool(observed.pixels)):
                if config.patience and state["step"] - state["best_step"] >= config.patience * config.validate_every:
                    break
                loss, terms = take_step(fabric, wrapped, model, optimizer, batch, step, config)
                done = step + 1
                if not torch.isfinite(loss):
                    raise _not_finite(out, done, state["step"], observed.store.place_id[chosen.numpy()])
                if average:
                    average.update_parameters(model)
                bar.update()

                phase_ends = model.phase(done / config.steps) != model.phase(step / config.steps)
                if done % config.validate_every and done != config.steps and not phase_ends:
                    continue
                judged = average.module if average else model
                held_out = fabric.broadcast(validate(judged, val_batch) if rank == 0 else None)
                mean = sum(held_out.values()) / len(held_out)
                if not math.isfinite(mean):
                    raise _not_finite(out, done, state["step"], observed.store.place_id[chosen.numpy()])
                if mean < state["best_loss"]:
                    best = {k: v.detach().cpu().clone() for k, v in judged.state_dict().items()}
                    state |= {"best_step": done, "best_loss": mean}
                now = time.monotonic()
                speed, last_time, last_step = (done - last_step) * batch_size / (now - last_time), now, done
                state |= {"step": done, "wall_s": now - started}
                bar.set_postfix(
                    loss=f"{loss.item():.3f}", held_out=f"{mean:.3f}", best=state["best_step"], places_s=f"{speed:.0f}"
                )
                line = {"step": done, "loss": loss.item(), "lr": learning_rate(step, config)}
                line |= {"wall_s": round(state["wall_s"], 3), "places_per_s": round(speed, 1)}
                line |= {f"loss/{k}": v.item() for k, v in terms.items()} | {"held_out": mean}
                line |= {f"held_out/{k}": v for k, v in held_out.items()}
                line |= {f"scale/{m}": model.scale(m).item() for m in model.heads}
                if phase_ends or done == config.steps:
                    line["phase"] = model.phase(step / config.steps)
                fabric.log_dict(line, step=done)
                on_first(fabric, partial(_keep, out, line, modules, optimizer, best, state))
        except KeyboardInterrupt:
            bar.write(f"{out}: stopped after step {state['step']}; go on with --resume", file=sys.stderr)
            raise
    return state | {"best": best, "batch_size": batch_size, "device": str(fabric.device)}


def _keep(
    out: Path, line: dict, modules: dict, optimizer: torch.optim.Optimizer, best: dict | None, state: dict
) -> None:
    """A line of metrics, and the checkpoint to go on from."""
    with (out / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    save_checkpoint(out / "checkpoints" / "last.safetensors", modules, optimizer, best, state)


def take_step(
    fabric: Fabric,
    wrapped: Any,
    model: Architecture,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    step: int,
    config: TrainConfig,
) -> tuple[Tensor, dict[str, Tensor]]:
    """One optimiser step on a device's share of a batch; returns the loss of the whole batch and its terms, each of
    shape ()."""
    seed = mixed(config.seed, step)
    torch.manual_seed(mixed(seed, fabric.global_rank))  # dropout, alike after a resume, and different on each device
    model.train()
    model.begin_step(step / config.steps, seed)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, config)
    terms = wrapped(batch)
    loss = sum(terms.values())
    optimizer.zero_grad()
    if loss.requires_grad:
        fabric.backward(loss)
        optimizer.step()
        model.clamp_scales()
    return loss.detach(), terms


def ahead(load: Callable, start: int, stop: int, threaded: bool) -> Iterator:
    """(step, load(step)) for each step; ``threaded`` reads two batches ahead while the model is busy."""
    if not threaded:
        yield from ((step, load(step)) for step in range(start, stop))
        return
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(load, step) for step in range(start, min(start + 2, stop))]
        for step in range(start, stop):
            loaded = waiting.pop(0).result()
            if step + 2 < stop:
                waiting.append(pool.submit(load, step + 2))
            yield step, loaded


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict]:
    """Weight decay on matrices and filters; none on temperatures, norms and biases."""
    learned = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in learned if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in learned if p.ndim < 2], "weight_decay": 0.0},
    ]


def batch_rows(rows: Tensor, step: int, batch_size: int, seed: int, cells: np.ndarray | None = None) -> Tensor:
    """The rows of one step, (b,) out of (n,) with b = ``batch_size``. Each epoch is a permutation that depends on the
    seed and the epoch alone, cut into batches without its remainder; with ``cells`` (n,), the cell of each row, every
    step draws cells, and a place in each."""
    if cells is not None:
        rng = np.random.default_rng((seed, step))
        order = rng.permutation(len(rows))
        _, first = np.unique(cells[order], return_index=True)
        return rows[torch.from_numpy(rng.permutation(order[first])[:batch_size])]
    epoch, position = divmod(step, len(rows) // batch_size)
    return rows[permutation(len(rows), mixed(seed, epoch))[position * batch_size : (position + 1) * batch_size]]


@lru_cache(maxsize=2)
def permutation(n: int, seed: int) -> Tensor:
    """The numbers below n in random order, int64 (n,); that of the running epoch is kept."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def mixed(seed: int, count: int) -> int:
    """A seed for the count-th draw of a run, so that every draw can be repeated alone."""
    return (seed * 1_000_003 + count * 7919 + 17) % 2**63


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up over the first 5 % of steps, then half a cosine down to zero, or constant."""
    warmup = max(1, config.steps // 20)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, config.steps - warmup)))


@torch.no_grad()
def validate(model: Architecture, batch: Batch) -> dict[str, float]:
    """Location-modality InfoNCE on held-out places: a yardstick that every architecture has, whatever it minimises
    (nats). The temperature is the one that the model learns; where the loss has fixed ones (``temperatures`` of
    :class:`geonb.architectures.CSP`), that is the one of the start, 0.07."""
    model.eval()
    losses = {}
    for m in model.heads:
        values, has = batch[m]
        parts = has.nonzero()[:, 0].split(256)
        location = model.embed("location", batch["location"][0][has])
        other = torch.cat([model.embed(m, values[part]) for part in parts])
        losses[m] = info_nce(location, other, model.scale(m)).item()
    return losses


def backward_transfer(lines: list[dict], model: Architecture) -> dict[str, float] | None:
    """What the phases of other modalities did to a modality, in nats on held-out places; below zero is forgetting.

    For each modality, the mean over its phases but the last of all of (loss at the end of its phase) - (loss just
    before its next phase, or at the end of training): backward transfer (Lopez-Paz and Ranzato, 2017, eq. 3) with a
    loss in place of an accuracy, hence the sign. None for architectures without phases.
    """
    order = getattr(model, "order", None)
    ends = [line for line in lines if "phase" in line]
    if order is None or len(ends) < 2:
        return None
    transfer: dict[str, list[float]] = {}
    for own, line in enumerate(ends[:-1]):
        m = order[line["phase"] % len(order)]
        later = min(own + len(order) - 1, len(ends) - 1)
        if later > own:
            transfer.setdefault(m, []).append(line[f"held_out/{m}"] - ends[later][f"held_out/{m}"])
    return {m: sum(values) / len(values) for m, values in transfer.items()}


def read_config(run: Path) -> dict:
    """The ``config.yaml`` of a run, as a dict; see :class:`TrainConfig`.

    Raises:
        ValueError: the folder has none, so it is not a run.
    """
    path = run / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{run}: no config.yaml, so this is not a run; train one with `geonb train`") from None
    config["modalities"] = tuple(config["modalities"])
    return config


def config_from_file(path: str | Path) -> TrainConfig:
    """A config from a YAML file that holds some fields of :class:`TrainConfig`.

    Raises:
        ValueError: not YAML, not a mapping, a field that there is not, or one of a wrong kind.
    """
    try:
        given = _numbers(yaml.safe_load(Path(path).read_text()))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML ({' '.join(str(error).split())}); look there") from None
    known = [f.name for f in fields(TrainConfig)]
    unknown = set(given) - set(known) if isinstance(given, dict) else {"no fields at all"}
    if unknown:
        raise ValueError(f"{path}: {sorted(unknown)[0]} is not a field of the config; choose from {', '.join(known)}")
    plain = TrainConfig()
    for k, v in given.items():
        wanted = type(getattr(plain, k))
        if wanted in (int, float):
            try:
                number = float(v)
            except (TypeError, ValueError):
                raise ValueError(f"{path}: {k} must be a number, not {v!r}") from None
            if not math.isfinite(number):
                raise ValueError(f"{path}: {k} must be a finite number, not {v!r}")
            if wanted is int and not number.is_integer():
                raise ValueError(f"{path}: {k} must be a whole number, not {v!r}")
            given[k] = wanted(number)
        elif isinstance(v, list):
            given[k] = tuple(v)
    config = TrainConfig(**given)
    try:
        check_kinds(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return config


def _numbers(value: Any) -> Any:
    """What YAML says, with numbers such as 1e-4, which it takes for texts, as numbers."""
    if isinstance(value, dict):
        return {k: _numbers(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_numbers(v) for v in value]
    if isinstance(value, str) and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+", value):
        number = float(value)
        return int(number) if number.is_integer() else number
    return value


def hashes_of(extra: dict[str, np.ndarray] | None) -> dict[str, str]:
    """What a run remembers of its extra modalities (places, d), to know them again: 16 hex digits each."""
    arrays = {m: np.ascontiguousarray(v, np.float32) for m, v in (extra or {}).items()}
    return {m: hashlib.sha256(v.tobytes()).hexdigest()[:16] for m, v in arrays.items()}


def _not_finite(out: Path, step: int, kept: int, places: np.ndarray) -> FloatingPointError:
    named = ", ".join(map(str, places[:20])) + (f" and {len(places) - 20} more" if len(places) > 20 else "")
    return FloatingPointError(
        f"{out}: the loss of step {step} is not finite; its places: {named}. Look at their values, or lower lr; "
        f"the checkpoint of step {kept} is kept"
    )


def _backbones(store: PlaceStore, config: TrainConfig, init: Any) -> dict:
    """The frozen backbone of each modality; a text backbone that must be fitted sees training texts alone."""
    backbones = {}
    if init is not None:
        from geonb.model import load

        start = load(init)
        shared = [m for m in config.backbones if m in start.modalities and config.backbones[m] not in VISION]
        backbones = {m: start.backbone(m) for m in shared}
        for m, backbone in backbones.items():
            if config.backbones[m] not in ("auto", backbone.name):
                raise ValueError(
                    f"{init}: its {m} backbone is {backbone.name}, not {config.backbones[m]}; "
                    f"write backbones: {{{m}: {backbone.name}}}, or start without this run"
                )
    for m, name in config.backbones.items():
        if m in backbones or name in VISION:
            continue
        if m == "text":
            rows = np.flatnonzero(store.has("text") & (split_of(store, config) == "train"))
            backbones[m] = text_backbone(name, fit_on=store.texts(rows))
        else:
            backbones[m] = BACKBONES[m](name)
    return {m: backbones[m] for m in config.backbones if m in backbones}


def _initialise(model: Architecture, run: Path) -> None:
    from geonb.model import load

    started = load(run)
    start, own = started.architecture.state_dict(), model.state_dict()
    wanted = [k for k in own if any(k.startswith(f"encoders.{m}.") for m in started.modalities)]
    wanted += [k for k in own if k.startswith("log_scale.") and k in start]
    faulty = [k for k in wanted if k not in start or start[k].shape != own[k].shape]
    if faulty:
        raise ValueError(f"{run}: cannot start from this run, {faulty[0]} is missing or of another shape")
    model.load_state_dict({k: start[k] for k in wanted}, strict=False)


def _check_disk(out: Path, needed_mb: int = 200) -> None:
    folder = next(p for p in [out.absolute(), *out.absolute().parents] if p.exists())
    free_mb = shutil.disk_usage(folder).free / 2**20
    if free_mb < needed_mb:
        raise OSError(f"{out}: {free_mb:.0f} MB free, a run needs {needed_mb} MB; free some space or change folder")


def _version() -> str:
    from geonb import __version__

    return __version__
