"""The folder of a run: what training writes and everything else reads. Nothing is pickled.

``config.yaml`` (the settings), ``metrics.jsonl`` (a line per validation),
``checkpoints/last.safetensors`` (where a stopped run goes on), and at the end ``model.safetensors``
(the selected weights) and ``manifest.json``. Files are replaced as a whole, except the metrics.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from geonb._util import write_atomically
from geonb.config import TrainConfig
from geonb.encoders.features import BACKBONES

RUN_SCHEMA = 3
METRICS = "metrics.jsonl"
CHECKPOINT = Path("checkpoints") / "last.safetensors"
#: Fields of ``config.yaml`` besides those of TrainConfig: also the run that it started from, and hashes of the data.
RECORDED = ("architecture", "data_hash", "init", "extra")


def write_config(run: Path, record: dict, config: TrainConfig) -> None:
    """Make the folder of a run, with its ``config.yaml``: the config and :data:`RECORDED`."""
    (run / CHECKPOINT).parent.mkdir(parents=True, exist_ok=True)
    content = json.loads(json.dumps(record | asdict(config)))  # tuples as lists, which YAML has
    write_atomically(run / "config.yaml", yaml.safe_dump(content, sort_keys=False).encode())


def read_config(run: Path) -> dict:
    """Read the config and :data:`RECORDED`; ValueError without a run, or of another version."""
    path = run / "config.yaml"
    if not path.exists():
        raise ValueError(f"{run}: no config.yaml, so this is not a run; train one with `geonb train`")
    try:
        config = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: damaged ({' '.join(str(error).split())}); train again") from None
    if unknown := config.keys() - {*RECORDED, *(f.name for f in fields(TrainConfig))}:
        raise _other_version(run, f"config.yaml has an unknown field {min(unknown)}")
    return config | {"modalities": tuple(config["modalities"])}


def config_of(stored: dict) -> TrainConfig:
    """Make the config of a run from what :func:`read_config` returns."""
    return TrainConfig(**{name: value for name, value in stored.items() if name not in RECORDED})


def append_metrics(run: Path, line: dict) -> None:
    """Append the metrics of a validation to ``metrics.jsonl``."""
    with (run / METRICS).open("a") as file:
        file.write(json.dumps(line) + "\n")


def cut_metrics(run: Path, step: int) -> None:
    """Delete the metrics after a step, which a run that goes on from there writes again."""
    lines = [json.dumps(line) + "\n" for line in read_lines(run / METRICS) if line["step"] <= step]
    write_atomically(run / METRICS, "".join(lines).encode())


def read_lines(path: Path) -> list[dict]:
    """Read a file of JSON lines, without one that was cut short by a kill; [] without a file."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines


def save_checkpoint(
    run: Path, modules: dict[str, torch.nn.Module], optimizer: torch.optim.Optimizer, best: dict, state: dict
) -> None:
    """Save what a run needs to go on: modules, optimiser, best weights and plain values."""
    with (run / METRICS).open("ab") as file:  # a power cut must not keep the checkpoint and lose its metrics
        os.fsync(file.fileno())
    tensors = {f"{name}.{k}": v for name, module in modules.items() for k, v in module.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in best.items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in moments.items()}
    _save_tensors(run / CHECKPOINT, tensors, {"state": json.dumps(state)})


def load_checkpoint(
    run: Path, modules: dict[str, torch.nn.Module], optimizer: torch.optim.Optimizer
) -> tuple[dict, dict]:
    """Load the last checkpoint; return best weights and plain values. ValueError: a damaged file."""
    path = run / CHECKPOINT
    try:
        with safe_open(path, "pt") as file:
            state = json.loads(file.metadata()["state"])
            tensors = {k: file.get_tensor(k) for k in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged ({error}); delete it, and --resume starts the run again") from None

    def part(name: str) -> dict[str, Tensor]:
        return {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}

    for name, module in modules.items():
        module.load_state_dict(part(name))
    moments: dict[int, dict] = {}
    for key, value in part("optimizer").items():
        index, name = key.split(".")
        moments.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return part("best"), state


def write_result(run: Path, weights: dict[str, Tensor], manifest: dict) -> None:
    """Write the weights (tensors of any shape) and then the manifest, which marks a finished run."""
    _save_tensors(run / "model.safetensors", weights)
    content = json.dumps({"schema": RUN_SCHEMA} | manifest, indent=2) + "\n"
    write_atomically(run / "manifest.json", content.encode())


def read_manifest(run: Path) -> dict:
    """Read ``manifest.json``; ValueError if a run is unfinished, or of another version."""
    for name in ("model.safetensors", "manifest.json"):
        if not (run / name).exists():
            raise ValueError(f"{run}: no {name}, so no run, or one that did not finish; go on with --resume")
    manifest = json.loads((run / "manifest.json").read_text())
    if manifest["schema"] != RUN_SCHEMA:
        raise _other_version(run, f"run schema {manifest['schema']}, this version reads {RUN_SCHEMA}")
    return manifest


def read_weights(run: Path) -> dict[str, Tensor]:
    """Read the weights of a finished run, tensors of any shape. ValueError: a damaged file."""
    try:
        return load_file(run / "model.safetensors")
    except SafetensorError as error:
        raise ValueError(f"{run / 'model.safetensors'}: damaged weights ({error}); train again") from None


def load_backbone(manifest: dict, weights: dict[str, Tensor], modality: str) -> Any:
    """Load the frozen backbone of a run with these weights, tensors of any shape.

    Raises:
        ValueError: the run has none for this modality, or the installed one is another.
    """
    described = manifest["backbones"].get(modality, {})
    if "fingerprint" not in described:
        raise ValueError(f"no frozen backbone for {modality!r}; give its features to embed_features")
    prefix = f"backbone.{modality}."
    state = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    backbone = BACKBONES[modality](described["name"], **({"state": state} if state else {}))
    if backbone.fingerprint != described["fingerprint"]:
        found, wanted = backbone.fingerprint, described["fingerprint"]
        raise ValueError(
            f"the installed {modality} backbone ({found}) is not the one of the run ({wanted}); "
            "install the same version or train again"
        )
    return backbone


def _save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    write_atomically(path, save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, metadata))


def _other_version(run: Path, what: str) -> ValueError:
    return ValueError(f"{run}: {what}; made by another version of geonb: delete the folder and train again")
