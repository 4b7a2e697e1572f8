"""Speed of training: places per second, where the time goes, and what the loop costs over bare PyTorch.

    python benchmarks/training.py [--out FILE.json] [--steps N]

The loop's cost is that of its steps; validations and checkpoints, every 25 steps by default, come on top. Cached
features: the default configuration on generated features of the usual widths. End to end: an image encoder
trained from the pixels of generated chips, read from a place store. On a GPU the end-to-end cases take batches of
4,096, and the share of the device's arithmetic in use is measured against a matrix product in bfloat16. Every case
runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from measuring import in_fresh_process, peak_mb, write

from geonb import training
from geonb.data.store import write_store
from geonb.training import Observations, TrainConfig, build, parameter_groups, resolve, take_step

PLACES, WIDTHS = 8000, {"text": 384, "image": 512}
FROM_FEATURES = ("imagebind", "cyclic", "fused", "satclip", "geoclip", "csp")
CASES = {f"{name}, cached features": (name, "random_conv") for name in FROM_FEATURES} | {
    "imagebind, ResNet-18 from pixels": ("imagebind", "resnet18"),
    "imagebind, ViT-S/16 from pixels": ("imagebind", "vit_small"),
}
PARTS = ("data", "forward", "loss", "backward", "optimiser and rest")


def generated_store(path: Path, places: int, side: int) -> training.PlaceStore:
    """Random positions, one text for all, random chips: nothing to learn, the same work."""
    rng = np.random.default_rng(0)
    lonlat = np.stack([rng.uniform(-180, 180, places), np.degrees(np.arcsin(rng.uniform(-1, 1, places)))], 1)
    names = [f"p{i}" for i in range(places)]
    chips = (rng.integers(1, 10_000, (min(256, places - i), 12, side, side), np.uint16) for i in range(0, places, 256))
    return write_store(
        path, places={"place_id": names, "lon": lonlat[:, 0], "lat": lonlat[:, 1], "title": names},
        texts={"place_id": names, "text": ["A place."] * places}, images=chips, image_rows=np.arange(places),
        simulated={"location": True, "text": True, "image": True},
    )  # fmt: skip


class Clock:
    """Seconds spent in named parts; on a GPU each part waits for the device."""

    def __init__(self):
        self.seconds: dict[str, float] = defaultdict(float)

    def timed(self, name: str, function):
        def run(*arguments, **options):
            wait()
            started = time.perf_counter()
            result = function(*arguments, **options)
            wait()
            self.seconds[name] += time.perf_counter() - started
            return result

        return run


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def case(name: str, steps: int) -> dict:
    architecture, image = CASES[name]
    gpu, pixels = torch.cuda.is_available(), image != "random_conv"
    places, side, batch_size = (PLACES, 2, 512) if not pixels else (4096, 64, 4096) if gpu else (256, 64, 32)
    with tempfile.TemporaryDirectory() as folder:
        store = generated_store(Path(folder) / "store", places, side)
        config = TrainConfig(batch_size=batch_size, steps=10**6, backbones={"text": "lsa", "image": image})
        if pixels and gpu:
            config = replace(config, precision="bf16-mixed", options={"micro_batch": 1024})
        config = resolve(architecture, store, config)
        rng = np.random.default_rng(1)
        feats = {m: rng.normal(size=(places, WIDTHS[m])).astype(np.float32)
                 for m in config.modalities[1:] if m == "text" or not pixels}  # fmt: skip
        observed, rows = Observations(store, feats, {}, list(config.modalities[1:])), torch.arange(places)
        model = build(architecture, config, WIDTHS)
        plain = build(architecture, config, WIDTHS).to("cuda" if gpu else "cpu")
        plain_optimizer = torch.optim.AdamW(parameter_groups(plain, config.weight_decay), lr=1e-3, betas=(0.9, 0.98))
        fabric = Fabric(accelerator="cuda" if gpu else "cpu", devices=1, precision=config.precision)
        optimizer = torch.optim.AdamW(parameter_groups(model, config.weight_decay), lr=config.lr, betas=(0.9, 0.98))
        wrapped, optimizer = fabric.setup(model, optimizer)

        def load(step):
            return fabric.to_device(observed.batch(training.batch_rows(rows, step, batch_size, 0)))

        def ours(step):
            loss, _ = take_step(fabric, wrapped, model, optimizer, load(step), step, config)
            assert torch.isfinite(loss)

        def bare(step):
            torch.manual_seed(training.mixed(0, step))
            plain.begin_step(0.0, step)
            batch = observed.batch(training.batch_rows(rows, step, batch_size, 0))
            batch = {m: (v.to(fabric.device), p.to(fabric.device)) for m, (v, p) in batch.items()}
            plain_optimizer.zero_grad()
            with torch.autocast(fabric.device.type, torch.bfloat16, enabled="bf16" in config.precision):
                loss = sum(plain(batch).values())
            loss.backward()
            plain_optimizer.step()
            loss.item()

        for step in range(3):
            ours(step), bare(step)
        times = {ours: [], bare: []}
        for step in range(steps):  # in turn, so that a busy machine slows both
            for run in (ours, bare) if step % 2 else (bare, ours):
                wait()
                started = time.perf_counter()
                run(step)
                wait()
                times[run].append(time.perf_counter() - started)
        result = {"batch_size": batch_size, "s_per_step": statistics.median(times[ours])}
        result["places_per_s"] = batch_size / result["s_per_step"]
        ratios = [a / b for a, b in zip(times[ours], times[bare], strict=True)]
        result["over_bare_pytorch"] = statistics.median(ratios) - 1

        clock = Clock()
        load = clock.timed("data", load)
        model.embed_rows = clock.timed("forward", model.embed_rows)
        model.loss = clock.timed("loss", model.loss)
        fabric.backward = clock.timed("backward", fabric.backward)
        started = time.perf_counter()
        for step in range(steps):
            ours(step)
        wait()
        total = time.perf_counter() - started
        result["shares"] = {part: s / total for part, s in clock.seconds.items()}
        result["shares"]["optimiser and rest"] = 1 - sum(result["shares"].values())
        result["peak_mb"] = torch.cuda.max_memory_allocated() / 2**20 if gpu else peak_mb()
        if pixels and gpu:
            del model.embed_rows, model.loss, fabric.backward
            model.micro_batch = 0  # what is computed twice to save memory counts once
            batch_size = 256
            result |= utilisation(lambda: ours(0), result["s_per_step"] * batch_size / result["batch_size"])
    return result


def utilisation(step, seconds: float) -> dict:
    """Arithmetic per second of a step against that of a large matrix product in bfloat16."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step()
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    for _ in range(3):
        a @ a
    wait()
    started = time.perf_counter()
    for _ in range(20):
        a @ a
    wait()
    ceiling = 20 * 2 * 8192**3 / (time.perf_counter() - started)
    flops = counter.get_total_flops() / seconds
    return {"tflop_per_s": flops / 1e12, "matmul_tflop_per_s": ceiling / 1e12, "utilisation": flops / ceiling}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", metavar="FILE.json")
    parser.add_argument("--steps", type=int, default=40, metavar="N", help="per case; a quarter of them from pixels")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(case(options.case, options.steps)))
        return
    results, threads = [], len(os.sched_getaffinity(0))
    print(f"{'':36}{'batch':>6}{'places/s':>10}{'over bare':>11}  data forward  loss backward  rest {'peak MB':>9}")
    for name, (_, image) in CASES.items():
        steps = options.steps if image == "random_conv" else max(2, options.steps // 4)
        row = in_fresh_process(__file__, "--case", name, "--steps", steps, threads=threads)
        results.append({"case": name, "threads": threads} | row)
        shares = [row["shares"].get(part, 0.0) for part in PARTS]
        print(f"{name:36}{row['batch_size']:6}{row['places_per_s']:10,.0f}{row['over_bare_pytorch']:+11.1%}  "
              + "  ".join(f"{share:6.1%}" for share in shares) + f" {row['peak_mb']:9,.0f}", flush=True)  # fmt: skip
        if "utilisation" in row:
            achieved, ceiling = row["tflop_per_s"], row["matmul_tflop_per_s"]
            print(f"{'':36}{achieved:.0f} TFLOP/s, {row['utilisation']:.0%} of a matrix product's {ceiling:.0f}")
    write(options.out, results)


if __name__ == "__main__":
    main()
