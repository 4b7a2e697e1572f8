"""Every benchmark still runs; what it measures is not tested."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


def run(script, *arguments):
    done = subprocess.run(
        [sys.executable, FOLDER / script, *arguments], capture_output=True, text=True, timeout=200,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", ["write", "ours", "recurrence", "encoder", "encoder_recurrence"])
def test_location(case):
    row = run("location.py", "--case", case, "--points", "500")
    assert 0 < row["min_s"] <= row["s"] <= row["max_s"]


def test_data(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    spec = importlib.util.spec_from_file_location("benchmark_of_data", FOLDER / "data.py")
    data = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(data)
    monkeypatch.setattr(data, "READ", {32: (16, 4)})

    def make_chips(folder, n, side):
        np.random.default_rng(0).integers(300, 6000, (n, 12, side, side)).astype(np.uint16).tofile(folder / "chips.bin")
        return "simulated"

    monkeypatch.setattr(data, "make_chips", make_chips)
    results = data.measure(64, 32, tmp_path, lambda case, folder, n, side: data.CASES[case](Path(folder), n, side))
    assert {r["case"] for r in results} == data.CASES.keys() and list(tmp_path.iterdir()) == []
    for row in results[:-1]:  # what chapter 17 reads
        assert row["per_s"] == pytest.approx(row["n"] / row["s"]) and row["peak_mb"] > 0
        assert ("disk_mb" in row) == row["case"].startswith("write")
        assert ("random_per_s" in row) == row["case"].startswith("read")
    ways = {"store", "zarr-python", "GeoTIFF, as SatCLIP's"}
    assert all(results[-1][name].keys() == ways for name in ("cached", "cold", "disk_mb_of"))
    assert len(data.ratios(results)) == 7


def test_training():
    row = run("training.py", "--case", "cyclic", "--steps", "2")
    assert row["places_per_s"] > 0 and row["over_bare_pytorch"] > -1 and row["peak_mb"] > 0


def test_embed(trained):
    row = run("embed.py", str(trained), "--points", "500")
    assert row["points"] == 500 and row["per_s"] == pytest.approx(500 / row["s"]) and row["peak_mb"] > 0 < row["disk_mb"]
