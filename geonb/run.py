"""The folder of a run: what training writes and everything else reads. Nothing is pickled.

``config.yaml``, ``metrics.jsonl`` (a line per validation), ``checkpoints/last.safetensors``
(to go on from), and at the end ``model.safetensors`` (selected weights) and ``manifest.json``.
Files but the metrics are replaced as a whole. A shipped model is such a folder in ``pretrained``,
without metrics and checkpoints; its weights may be of half precision.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.optim import Optimizer

from geonb._util import write_atomically
from geonb.config import TrainConfig
from geonb.encoders.image import image_backbone
from geonb.encoders.text import text_backbone

PRETRAINED = Path(__file__).parent / "pretrained"
RUN_SCHEMA = 4
OTHER_VERSION = "of another version of geonb; delete the folder and train again"
METRICS = "metrics.jsonl"
CHECKPOINT = Path("checkpoints") / "last.safetensors"
#: Fields of ``config.yaml`` besides those of TrainConfig; ``init`` is the run that it started from.
RECORDED = ("architecture", "data_hash", "init", "extra")


def find_run(run: str | Path) -> Path:
    """Return the folder of a run, given by its path or else by the name of a shipped model; ValueError if neither."""
    path, shipped = Path(run), sorted(config.parent.name for config in PRETRAINED.glob("*/config.yaml"))
    if str(run) in shipped and not (path / "config.yaml").exists():  # a folder of that name may be something else
        return PRETRAINED / run
    if path.exists():
        return path
    close = get_close_matches(str(run), shipped, n=1)
    guess = f"; did you mean {close[0]}?" if close else ""
    raise ValueError(f"{run}: neither the folder of a run nor a shipped model ({', '.join(shipped) or 'none'}){guess}")


def write_config(run: Path, record: dict, config: TrainConfig) -> None:
    """Make the folder of a run, with its ``config.yaml``: config and record."""
    (run / CHECKPOINT).parent.mkdir(parents=True, exist_ok=True)
    content = json.loads(json.dumps(record | asdict(config)))  # tuples as lists, which YAML has
    write_atomically(run / "config.yaml", yaml.safe_dump(content, sort_keys=False).encode())


def read_config(run: Path) -> dict:
    """Read the config; raises ValueError if there is none, or of another version."""
    path = run / "config.yaml"
    if not path.exists():
        raise ValueError(f"{run}: no config.yaml, so this is not a run")
    config = _parse(path, yaml.safe_load)
    if lacking := {"architecture", "data_hash", "modalities"} - {name for name, value in config.items() if value}:
        raise ValueError(f"{path}: no {min(lacking)}, so this is not a run of geonb, or a damaged one")
    if unknown := config.keys() - {*RECORDED, *(f.name for f in fields(TrainConfig))}:
        raise ValueError(f"{run}: config.yaml has an unknown field {min(unknown)}, {OTHER_VERSION}")
    return config | {"modalities": tuple(config["modalities"])}


def config_of(stored: dict) -> TrainConfig:
    """Make the config of a run from what :func:`read_config` returns."""
    return TrainConfig(**{name: value for name, value in stored.items() if name not in RECORDED})


def append_metrics(run: Path, line: dict) -> None:
    """Append the metrics of a validation to ``metrics.jsonl``."""
    with (run / METRICS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def cut_metrics(run: Path, step: int) -> None:
    """Delete the metrics after a step, which are written again from there."""
    lines = [json.dumps(line) + "\n" for line in read_lines(run / METRICS) if line["step"] <= step]
    write_atomically(run / METRICS, "".join(lines).encode())


def read_lines(path: Path) -> list[dict]:
    """Read JSON lines, without one that was cut short by a kill; [] without a file."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        with suppress(json.JSONDecodeError):
            lines.append(json.loads(line))
    return [line for line in lines if isinstance(line, dict)]


def save_checkpoint(
    run: Path, modules: dict[str, nn.Module], optimizer: Optimizer, best: dict, state: dict
) -> None:  # fmt: skip
    """Save modules, optimiser, best weights and plain values, to go on from."""
    with (run / METRICS).open("ab") as file:  # a power cut must not lose its metrics
        os.fsync(file.fileno())
    tensors = {f"best.{k}": v for k, v in best.items()}
    for name, module in modules.items():
        tensors |= {f"{name}.{k}": v for k, v in module.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in moments.items()}
    _save_tensors(run / CHECKPOINT, tensors, {"state": json.dumps(state)})


def load_checkpoint(
    run: Path, modules: dict[str, nn.Module], optimizer: Optimizer
) -> tuple[dict, dict]:  # fmt: skip
    """Load a checkpoint, return best weights and state; raises ValueError if damaged."""
    path = run / CHECKPOINT
    try:
        with safe_open(path, "pt") as file:
            state = json.loads(file.metadata()["state"])
            tensors = {k: file.get_tensor(k) for k in file.keys()}
    except (SafetensorError, TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: damaged ({error}); delete it, and resume") from None

    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, rest = key.partition(".")
        parts.setdefault(name, {})[rest] = value
    for name, module in modules.items():
        module.load_state_dict(parts[name])
    moments: dict[int, dict] = {}
    for key, value in parts.get("optimizer", {}).items():
        index, name = key.split(".")
        moments.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
    return parts.get("best", {}), state


def write_result(run: Path, weights: dict[str, Tensor], manifest: dict) -> None:
    """Write weights (of any shape), then the manifest, which marks a finished run."""
    _save_tensors(run / "model.safetensors", weights)
    content = json.dumps({"schema": RUN_SCHEMA} | manifest, indent=2) + "\n"
    write_atomically(run / "manifest.json", content.encode())


def read_manifest(run: Path) -> dict:
    """Read the manifest; raises ValueError if unfinished, or of another version."""
    for name in ("model.safetensors", "manifest.json"):
        if not (run / name).exists():
            raise ValueError(f"{run}: no {name}: no run, or one that did not finish; use --resume")
    manifest = _parse(run / "manifest.json", json.loads)
    if (schema := manifest.get("schema")) != RUN_SCHEMA:
        raise ValueError(f"{run}: run schema {schema}, not {RUN_SCHEMA}, {OTHER_VERSION}")
    if not isinstance(manifest.get("backbones"), dict):
        raise ValueError(f"{run}/manifest.json: damaged (no backbones); train again")
    return manifest


def read_weights(run: Path) -> dict[str, Tensor]:
    """Read the weights, tensors of any shape; raises ValueError if damaged."""
    try:
        weights = load_file(run / "model.safetensors")
    except SafetensorError as error:
        raise ValueError(f"{run}/model.safetensors: damaged weights ({error}); train again") from None
    if odd := [name for name, values in weights.items() if not values.isfinite().all()]:
        raise ValueError(f"{run}/model.safetensors: {odd[0]} is not finite; train again")
    return weights


def load_backbone(manifest: dict, weights: dict[str, Tensor], modality: str) -> Any:
    """Load the backbone of a run with these weights, of any shape; ValueError if it is another."""
    described = manifest["backbones"].get(modality, {})
    if "fingerprint" not in described:
        raise ValueError(f"no frozen backbone for {modality!r}; give its features to embed_features")
    prefix = f"backbone.{modality}."
    state = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    if "bands" in described:
        backbone: Any = image_backbone(described["name"], described["bands"], described["scale"])
    else:
        backbone = text_backbone(described["name"], state=state or None)
    if backbone.fingerprint != described["fingerprint"]:
        pair = f"{backbone.fingerprint}) is not the one of the run ({described['fingerprint']})"
        raise ValueError(f"the installed {modality} backbone ({pair}; install that, or train again")
    return backbone


def _parse(path: Path, parse: Callable[[str], Any]) -> dict:
    try:
        content = parse(path.read_text(encoding="utf-8-sig"))
        if not isinstance(content, dict):
            raise ValueError("no fields")
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path}: damaged ({' '.join(str(error).split())}); train again") from None
    return content


def _save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict | None = None) -> None:
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    write_atomically(path, save(tensors, metadata))
