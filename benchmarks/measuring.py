"""Cases measured in a process of their own: wall time, and memory at its peak beyond what was there before."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path


def peak_mb(field: str = "VmHWM") -> float:
    """The most memory this process has held so far, or with "VmRSS" what it holds, in MB (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def timed(run, rounds: int = 5) -> dict:
    """Median, least and most seconds of ``run()`` over the rounds, and the memory its first call took, in MB."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # what was held while importing does not count
    before = peak_mb()
    run()
    memory, seconds = peak_mb() - before, []
    for _ in range(rounds):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return {"s": statistics.median(seconds), "min_s": min(seconds), "max_s": max(seconds), "peak_mb": memory}


def in_fresh_process(script: str, *arguments, threads: int = 1, timeout: int = 900) -> dict:
    """The JSON that ``script --case ...`` prints last, run alone with that many threads."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [sys.executable, script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def write(path: str | None, results: list[dict]) -> None:
    """The results and where they come from, as JSON; nothing for no path."""
    if path:
        from geonb._util import provenance  # a peer that is measured alone does not load what we need

        Path(path).write_text(json.dumps(provenance() | {"results": results}, indent=1) + "\n", encoding="utf-8")
