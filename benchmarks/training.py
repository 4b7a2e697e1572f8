"""Speed of training from cached features: places per second, and the cost over bare PyTorch.

    python benchmarks/training.py [--out FILE.json] [--steps N]

Each architecture's default trains on generated features. A step of ``fit`` is compared with the
same step in bare PyTorch. Every case runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import torch
from lightning_fabric import Fabric
from measuring import in_fresh_process, peak_mb, write

from geonb import training
from geonb.architectures import ARCHITECTURES
from geonb.config import ENCODERS, TrainConfig, build
from geonb.data.sampling import random_points
from geonb.training import PlaceDataset, batch_rows, fit, parameter_groups, step_seed

PLACES, WIDTHS = 8000, {"text": 384, "sentinel2": 512}
WARM_UP = 3  # steps that are not counted


def generated(places: int, modalities: tuple[str, ...]) -> PlaceDataset:
    """Random positions and features: nothing to learn, the same work."""
    rng = np.random.default_rng(0)
    names = np.arange(places).astype(str)
    store = SimpleNamespace(lonlat=random_points(places), place_id=names, path=Path("generated"))
    features = {m: rng.normal(size=(places, WIDTHS[m])).astype(np.float32) for m in modalities}
    return PlaceDataset(store, {}, features)


def case(name: str, steps: int) -> dict:
    bound = tuple(WIDTHS)[-1:] if ARCHITECTURES[name].binary else tuple(WIDTHS)
    steps += WARM_UP
    config = TrainConfig(modalities=("location", *bound), steps=steps, validate_every=steps, **ENCODERS[name])
    dataset, rows = generated(PLACES, bound), torch.arange(PLACES)
    ours, bare = [], []

    fabric = Fabric(accelerator="cuda" if torch.cuda.is_available() else "cpu", devices=1)
    with tempfile.TemporaryDirectory() as folder, patch.object(training, "learning_rate", ticking(ours, config)):
        (Path(folder) / "checkpoints").mkdir()
        fit(fabric, build(name, config, WIDTHS), dataset, rows, rows[:256], config, Path(folder), progress=False)

    model = build(name, config, WIDTHS).to(fabric.device)
    optimizer = torch.optim.AdamW(parameter_groups(model, config.weight_decay), lr=config.lr, betas=config.betas)
    for step in range(steps):
        wait()
        bare.append(time.perf_counter())
        batch = fabric.to_device(dataset.batch(batch_rows(rows, step, config.batch_size, config.seed)))
        model.begin_step(step / steps, step_seed(config.seed, step))
        loss = sum(model(batch).values())
        optimizer.zero_grad()
        if loss.requires_grad:
            loss.backward()
            optimizer.step()
            model.clamp_scales()
    seconds, least = (statistics.median(np.diff(times[WARM_UP:])) for times in (ours, bare))
    return {"batch_size": config.batch_size, "s_per_step": seconds, "places_per_s": config.batch_size / seconds,
            "over_bare_pytorch": seconds / least - 1, "peak_mb": peak_mb()}  # fmt: skip


def ticking(times: list[float], config: TrainConfig):
    """A constant learning rate, which ``fit`` asks for once per step, that writes down when."""

    def learning_rate(step: int, _: TrainConfig) -> float:
        wait()
        if len(times) == step:  # once more where the step is validated
            times.append(time.perf_counter())
        return config.lr

    return learning_rate


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", metavar="FILE.json")
    parser.add_argument("--steps", type=int, default=40, metavar="N", help="per case")
    parser.add_argument("--case", choices=ARCHITECTURES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(case(options.case, options.steps)))
        return
    results, threads = [], len(os.sched_getaffinity(0))
    for name in ARCHITECTURES:
        row = in_fresh_process(__file__, "--case", name, "--steps", options.steps, threads=threads)
        results.append({"case": name, "threads": threads} | row)
        print(json.dumps(results[-1]), flush=True)
    write(options.out, results)


if __name__ == "__main__":
    main()
