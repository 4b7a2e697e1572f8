"""Files of a run, written so that whatever stops the writing leaves the last good ones: safetensors, JSON, YAML."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from geonb._util import write_atomically


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    write_atomically(path, save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, metadata))


def save_checkpoint(
    path: Path, modules: dict[str, torch.nn.Module], optimizer: torch.optim.Optimizer, best: dict | None, state: dict
) -> None:
    """Everything a run needs to go on: modules by name, the optimiser, the best weights so far, and plain values."""
    tensors = {f"{name}.{k}": v for name, module in modules.items() for k, v in module.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in (best or {}).items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in slots.items()}
    save_tensors(path, tensors, {"state": json.dumps(state)})


def load_checkpoint(
    path: Path, modules: dict[str, torch.nn.Module], optimizer: torch.optim.Optimizer
) -> tuple[dict | None, dict]:
    """Put a checkpoint back in place; returns the best weights and the plain values.

    Raises:
        ValueError: a damaged file.
    """
    try:
        with safe_open(path, "pt") as file:
            state = json.loads(file.metadata()["state"])
            tensors = {k: file.get_tensor(k) for k in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged ({error}); delete it, and --resume takes the run from its start") from None

    def part(name: str) -> dict:
        return {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}

    for name, module in modules.items():
        module.load_state_dict(part(name))
    slots: dict[int, dict] = {}
    for key, value in part("optimizer").items():
        index, name = key.split(".")
        slots.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    return part("best") or None, state


def read_lines(path: Path, last_step: int) -> list[dict]:
    """The lines of a metrics file up to a step; one that was cut short when the run stopped is dropped."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record["step"] <= last_step:
            lines.append(record)
    return lines
