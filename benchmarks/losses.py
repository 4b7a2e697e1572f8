"""Compare InfoNCE at once and in chunks, and NT-Xent with pytorch-metric-learning.

    python benchmarks/losses.py --out benchmarks/results/losses.json

Each case runs in a process of its own: a forward and a backward pass, float32. Memory is the peak
beyond that of the process with its inputs (on a GPU: of allocations).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time

import torch
import torch.nn.functional as F
from measuring import in_fresh_process, peak_mb, write

from geonb.data.sampling import random_points
from geonb.losses import Space, info_nce, nt_xent_fused

DIM = 256
CASES = [  # places, rows at a time, km of exclusion
    (4096, 0, 0.0),
    (4096, 512, 0.0),
    (4096, 512, 100.0),
    (16384, 0, 0.0),
    (16384, 512, 0.0),
    (65536, 256, 0.0),
]
SMALL = (64, 128, 256)


def unit(n: int, device: str) -> torch.Tensor:
    return F.normalize(torch.randn(n, DIM, device=device), dim=1).requires_grad_()


def positions(n: int, device: str) -> torch.Tensor:
    return torch.tensor(random_points(n), device=device)


def step(n: int, chunk: int, km: float, device: str) -> dict:
    """Measure seconds and MB of one forward and backward pass."""
    torch.manual_seed(0)
    small = unit(64, device)
    info_nce(small, small, 10.0, chunk=16).backward()  # threads and kernels are there before the clock starts
    a, b, log_scale = unit(n, device), unit(n, device), torch.tensor(math.log(14.0), device=device, requires_grad=True)
    space = Space(positions(n, device), exclude_km=km)
    cuda = device == "cuda"
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() / 2**20 if cuda else peak_mb("VmRSS")
    started = time.perf_counter()
    loss = info_nce(a, b, log_scale.exp(), space, chunk=chunk)
    loss.backward()
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else peak_mb()
    return {"s": seconds, "peak_mb": peak - before, "loss": loss.item()}


def against(n: int, rounds: int = 20) -> dict:
    """Measure the median seconds of NT-Xent, ours and pytorch-metric-learning's, in turns in this process."""
    from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss

    torch.manual_seed(0)
    a, b = unit(n, "cpu"), unit(n, "cpu")
    present, theirs = torch.ones(2, n, dtype=torch.bool), SelfSupervisedLoss(NTXentLoss(temperature=0.1))
    runs = {"ours": lambda: nt_xent_fused(torch.stack([a, b]), present, 10.0), "theirs": lambda: theirs(a, b)}
    seconds = {name: [] for name in runs}
    values = {}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            value = run()
            value.backward()
            if turn:  # the first is a warm-up
                seconds[name].append(time.perf_counter() - started)
            values[name] = value.item()
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "ours_s": medians["ours"],
        "theirs_s": medians["theirs"],
        "ratio": medians["theirs"] / medians["ours"],
        "difference": abs(values["ours"] - values["theirs"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", help="write the figures to this JSON file")
    parser.add_argument("--largest", type=int, default=65536, help="leave out larger batches")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--case", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        kind, *values = arguments.case
        n = int(values[0])
        print(json.dumps(against(n) if kind == "against" else step(n, int(values[1]), float(values[2]), values[3])))
        return

    def measure(*case) -> dict:
        return in_fresh_process(__file__, "--case", *case, threads=arguments.threads, timeout=3600)

    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    cases = [(d, *case) for d in devices for case in CASES if case[0] <= arguments.largest]
    results = []
    for device, n, chunk, km in cases:
        found = {"device": device, "places": n, "chunk": chunk, "exclude_km": km}
        results.append(found | measure("step", n, chunk, km, device))
        print(json.dumps(results[-1]), flush=True)
    for n in SMALL:
        results.append({"places": n} | measure("against", n))
        print(json.dumps(results[-1]), flush=True)
    write(arguments.out, results)


if __name__ == "__main__":
    main()
