"""Every benchmark still runs; what it measures is not tested."""

import json
import os
import subprocess
import sys
from pathlib import Path

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


@pytest.mark.parametrize(
    "case", ["write texts", "write texts, pandas", "read texts", "read texts, pandas", "check texts", "collect articles"]
)
def test_data_texts(case):
    row = run("data.py", "--case", case, "--n", "300")
    assert row["per_s"] == pytest.approx(300 / row["s"]) and row["per_s"] > 0 and row["peak_mb"] > 0


@pytest.mark.parametrize("case", ["write chips", "check chips"])
def test_data_chips(case):
    row = run("data.py", "--case", case, "--n", "40", "--side", "16")
    assert row["per_s"] == pytest.approx(40 / row["s"]) and row["per_s"] > 0


def test_data_read_chips():
    row = run("data.py", "--case", "read chips", "--n", "12", "--side", "32")
    times = row["one thread"]["times_as_fast_cpu_s"]["store"]
    assert min(times.values()) > 0 and "GeoTIFF, uncompressed" in times
    assert {"one thread", "cold"} < row.keys()


def test_training():
    row = run("training.py", "--case", "cyclic", "--steps", "2")
    assert row["places_per_s"] > 0 and row["over_bare_pytorch"] > -1 and row["peak_mb"] > 0
