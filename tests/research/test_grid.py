"""A small grid that is killed and resumed, with a fault; and conclusions from grids whose truth is known."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cells import MASKED, Cell, Settings, few_labels, info_nce_bound, read_rows, run_cells, through_positions
from hypotheses import bound_to, hypotheses
from scores import GridScores, summarise

from geonb import workspace
from geonb.data.sampling import random_points
from geonb.data.store import Images, write_store
from geonb.evaluation.protocols import random_protocol
from geonb.evaluation.tables import grid_table
from geonb.evaluation.tasks import TASKS

RESEARCH = Path(__file__).resolve().parents[2] / "research"
BOTH = ("text", "sentinel2")
CELLS = [Cell("imagebind", BOTH, "degree 10"), Cell("raw coordinates")]
MADE = {"seeds": 1, "block_km": 1500.0, "steps": 6, "batch_size": 64, "date": "2026-01-01", "device": "cpu",
        "data": {"places": 500}}  # fmt: skip


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Settings on a store of 500 made-up places with some of the columns that tasks are about."""
    n, rng = 500, np.random.default_rng(0)
    lonlat = random_points(n, 0)
    cold, west = np.abs(lonlat[:, 1]) > 40, lonlat[:, 0] < 0
    names = [f"p{i}" for i in range(n)]
    images = rng.normal(np.where(cold, 6000, 1500)[:, None, None, None], 200, (n, 12, 16, 16)).clip(1, 12000)
    texts = [f"A {'cold' if cold[i] else 'warm'} place in the {'west' if west[i] else 'east'}, number {i}." for i in range(n)]
    store = write_store(
        tmp_path_factory.mktemp("earth") / "store",
        places={
            "place_id": names, "lon": lonlat[:, 0], "lat": lonlat[:, 1], "title": names,
            "climate": np.where(cold, "ET", "Af").tolist(), "elevation_m": 3000 - 30 * np.abs(lonlat[:, 1]),
            "continent": np.where(west, "West", "East").tolist(),
        },
        texts={"place_id": names, "text": texts},
        images={"sentinel2": Images(iter([images.astype(np.uint16)]), np.arange(n))},
        facts={
            "climate": {"kind": "classification", "units": None, "modalities": ["text", "sentinel2"], "source": "made up"},
            "elevation_m": {"kind": "regression", "units": "m", "modalities": ["sentinel2"], "source": "made up"},
        },
        simulated={"location": True, "text": True, "sentinel2": True},
    )  # fmt: skip
    return Settings(
        str(store.path), str(tmp_path_factory.mktemp("grid")), size_km=1500.0, buffer_km=50.0, steps=6, batch_size=64,
        backbones={"text": "lsa", "sentinel2": "random_conv"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def done(settings):
    """The grid, killed once while it ran, then finished."""
    code = (
        "from cells import *\n"
        f"if __name__ == '__main__': run_cells({CELLS!r}, {settings!r}, workers=1, progress=False)"
    )
    script = Path(settings.out) / "killed.py"
    script.write_text(code)
    paths = os.pathsep.join([str(RESEARCH), str(RESEARCH.parent)])
    run = subprocess.Popen([sys.executable, str(script)], env=os.environ | {"PYTHONPATH": paths}, start_new_session=True)
    first = Path(settings.out) / "runs" / CELLS[0].name / "manifest.json"  # written last
    until = time.monotonic() + 120
    while not first.exists() and run.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    trained = first.stat().st_mtime_ns
    run_cells(CELLS, settings, workers=1, progress=False)
    assert first.stat().st_mtime_ns == trained  # the finished run was not trained again
    return settings


def test_a_killed_grid_goes_on_and_has_every_cell(done):
    rows = {r["name"]: r for r in read_rows(CELLS, done.out)}
    assert list(rows) == [c.name for c in CELLS] == ["imagebind-text+sentinel2-degree_10-seed_0", "raw_coordinates-seed_0"]
    run, raw = rows.values()
    assert {r["split"] for r in run["probes"]} == {"random", "blocked", "bands", "continents"}
    assert len(run["retrieval"]) == 8  # six directions, and two through positions
    assert {r["view"] for r in run["facts"]} == {"location", "text", "sentinel2"}
    assert {r["task"] for r in run["zero_shot"]} == {"continent"} and "retrieval" not in raw
    assert not list(Path(done.out).glob("runs/*/checkpoints")) and not list(Path(done.out).rglob("*.partial"))


def test_a_failed_cell_does_not_stop_the_others_and_another_grid_is_refused(done):
    bad = Cell("imagebind", ("text",), "degree 10", 0, "broken", {"steps": -1})
    with pytest.raises(RuntimeError, match="1 of 3 cells failed; the first, imagebind-text-degree_10-broken-seed_0"):
        run_cells([*CELLS, bad], done, workers=1, progress=False)
    assert len(read_rows([*CELLS, bad], done.out)) == 2
    with pytest.raises(ValueError, match="other settings"):
        run_cells(CELLS, Settings(done.data, done.out, size_km=900.0, backbones=done.backbones), progress=False)


def test_the_summary_is_paired_and_can_be_shown(done):
    scores = GridScores(done, CELLS, draws=60)
    run, raw = bound_to(BOTH, "degree 10"), ("raw coordinates", (), "", "")
    assert scores.groups == [run, raw] and scores.seeds == [0]
    for group in (run, raw):
        for row in scores.rows[group, 0]["probes"]:
            assert scores.probe(group, row["task"], row["split"])[0, 0] == pytest.approx(row["value"], abs=1e-5)
    values = scores.probe(run, "climate", "random")
    assert values.shape == (1, 61) and scores.interval(values - values) == {"value": 0.0, "low": 0.0, "high": 0.0}
    line = next(r for r in scores.rows[run, 0]["retrieval"] if (r["query"], r["target"]) == ("text", "location"))
    assert scores.recall(run, "text", "location")[0, 0] == pytest.approx(line["recall@10"])

    content = json.loads(json.dumps({"provenance": MADE} | summarise(scores), allow_nan=False))
    assert {"probes", "retrieval", "information", "facts", "zero_shot", "few_labels"} < set(content)
    assert all(row["behind_best"]["value"] >= 0 and len(row["seeds"]) == 1 for row in content["probes"])
    table = grid_table(content, "random", "degree 10")
    assert list(table.frame.index) == ["imagebind, text + sentinel2", "raw coordinates"]
    assert all(sum("★" in v for v in table.frame[c]) == 1 for c in table.frame)
    with pytest.raises(ValueError, match="there are: bands; blocked"):
        grid_table(content, "regions")
    labels = {r["labels"] for r in content["few_labels"] if r["protocol"] == "random" and r["task"] == "climate"}
    assert sorted(labels)[:3] == [10, 30, 100] and max(labels) > 200


def test_few_labels_are_nested_and_test_the_same_places():
    protocol = random_protocol(np.full(600, "train"))
    small, large = few_labels(protocol, 10, seed=4), few_labels(protocol, 100, seed=4)
    assert small.folds[0][0].sum() == 10 and large.folds[0][0].sum() == 100
    assert not (small.folds[0][0] & ~large.folds[0][0]).any() and (small.folds[0][1] == protocol.folds[0][1]).all()
    small.check(random_points(600, 3))


def test_the_route_through_positions_finds_the_position_that_fits():
    positions = np.eye(6, dtype=np.float32)
    queries = positions[[4, 1]] * 0.9 + 0.1
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    found = through_positions(queries, positions, scale=50.0)
    assert (found.argmax(1) == [4, 1]).all() and np.allclose(np.linalg.norm(found, axis=1), 1)
    assert np.ptp(through_positions(queries, positions, scale=0.0), axis=1).max() < 1e-6  # no preference


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("r", [0.0, 0.9])
def test_the_bound_lies_below_the_known_information_and_its_cap(r):
    rng = np.random.default_rng(4)
    a = rng.normal(size=(3000, 8))
    b = r * a + np.sqrt(1 - r * r) * rng.normal(size=a.shape)
    most = min(-8 / 2 * np.log(1 - r * r), np.log(256))
    assert 0.6 * most - 0.1 <= info_nce_bound(unit(a), unit(b)) <= most + 0.05


def test_the_bound_is_not_measured_on_the_pairs_that_choose_its_scale():
    rng = np.random.default_rng(5)
    a, b = unit(rng.normal(size=(40, 64))), unit(rng.normal(size=(40, 64)))
    assert info_nce_bound(a, b) < 0.05


class Known:
    """Scores whose truth is known: every group has a level, every seed and draw some noise."""

    def __init__(self, level, dimension=lambda group: 2.0):
        self.level, self.dimension, self.shared = level, dimension, {}

    def has(self, task, protocol):
        return protocol != "continents" or task in ("climate", "elevation")

    def _values(self, level, key):
        if key not in self.shared:
            self.shared[key] = np.random.default_rng(len(self.shared)).normal(0, 0.01, (5, 101))
        return level + self.shared[key]

    def probe(self, group, task, protocol):
        return self._values(self.level(group, task, protocol), (task, protocol))  # the same for all groups: paired

    def recall(self, group, query, target):
        return self._values(0.2 if MASKED in group[1] else 0.4, "recall")

    def information(self, group, measure):
        return np.full((5, 101), self.dimension(group)) + np.random.default_rng(len(group[1])).normal(0, 0.001, (5, 1))

    interval = GridScores.interval


def test_committed_measures_name_the_modalities_of_their_run():
    for row in workspace.committed("grid")["information"]:
        measured = set(row["measure"].partition(", ")[2].split(" and "))
        assert measured <= {"location", *row["bound"]} and set(row["bound"]) <= {*BOTH, MASKED}, row


def test_hypotheses_are_decided_by_what_was_planted():
    def level(group, task, protocol):
        _, bound, encoder, variant = group
        more = {"degree 10": 0.0, "degree 20": 0.05, "degree 40": 0.1}[encoder]
        theme = TASKS[task].theme
        base = 0.5 + 0.2 * (bound == ("text",)) * (theme == "social") + 0.2 * (bound == ("sentinel2",)) * (theme == "physical")
        if bound in (BOTH, (MASKED, "sentinel2")):
            base = 0.7 + more * (protocol != "random")
        return base + 0.1 * (bool(variant) and bound == ("text",))

    found = {h["name"]: h for h in hypotheses(Known(level, lambda g: float(len(g[1]))), ["degree 10", "degree 40"])}
    assert {name: h["outcome"] for name, h in found.items()} == dict.fromkeys(["H1", "H2", "H3", "H4", "H5", "H6"], "supported")
    assert found["H1"]["parts"][0]["value"] == pytest.approx(0.05, abs=0.005)
    nothing = {h["name"]: h["outcome"] for h in hypotheses(Known(lambda *_: 0.5), ["degree 10", "degree 40"])}
    assert "supported" not in [nothing[n] for n in ("H1", "H2", "H3", "H4")]
    opposite = Known(lambda group, _, protocol: 0.3 if group[1] == BOTH and protocol == "continents" else 0.5)
    assert hypotheses(opposite, ["degree 10", "degree 40"])[0]["outcome"] == "refuted"
