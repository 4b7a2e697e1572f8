"""A small grid from end to end: stopped and resumed, with faults; and what is concluded from grids whose truth is known."""

import json

import numpy as np
import pytest

from geonb.data.sampling import random_points
from geonb.data.store import write_store
from geonb.evaluation import grid as grid_module
from geonb.evaluation.grid import Cell, Grid, read_rows, run_grid, through_positions
from geonb.evaluation.hypotheses import MASKED, bound_to, hypotheses, outcome
from geonb.evaluation.summary import Scores, facts_kept, group_of, summarise
from geonb.evaluation.tables import grid_retrieval_table, grid_table, hypothesis_table, label_of
from geonb.evaluation.tasks import TASKS

BOTH, TEXT = ("text", "image"), ("text",)
CELLS = [Cell("imagebind", BOTH, "degree 10", s) for s in (0, 1)] + [Cell("raw coordinates", seed=s) for s in (0, 1)]


@pytest.fixture(scope="module")
def earth(tmp_path_factory):
    """A store of 500 made-up places with some of the columns that tasks are about."""
    n, rng = 500, np.random.default_rng(0)
    lonlat = random_points(n, 0)
    cold = np.abs(lonlat[:, 1]) > 40
    names = [f"p{i}" for i in range(n)]
    images = rng.normal(np.where(cold, 6000, 1500)[:, None, None, None], 200, (n, 12, 16, 16)).clip(1, 12000)
    return write_store(
        tmp_path_factory.mktemp("earth") / "store",
        places={
            "place_id": names, "lon": lonlat[:, 0], "lat": lonlat[:, 1], "title": names,
            "climate": np.where(cold, "ET", "Af").tolist(), "elevation_m": 3000 - 30 * np.abs(lonlat[:, 1]),
            "continent": np.where(lonlat[:, 0] < 0, "West", "East").tolist(),
        },
        texts={"place_id": names, "text": [f"A {'cold' if c else 'warm'} place in the {'west' if w else 'east'}, number {i}."
                                           for i, (c, w) in enumerate(zip(cold, lonlat[:, 0] < 0, strict=True))]},
        images=iter([images.astype(np.uint16)]), image_rows=np.arange(n),
        facts={
            "climate": {"kind": "classification", "units": None, "modalities": ["text", "image"], "source": "made up"},
            "elevation_m": {"kind": "regression", "units": "m", "modalities": ["image"], "source": "made up"},
            "continent": {"kind": "classification", "units": None, "modalities": ["text"], "source": "made up"},
        },
        simulated={"location": True, "text": True, "image": True},
    )  # fmt: skip


@pytest.fixture(scope="module")
def grid(earth, tmp_path_factory):
    return Grid(
        str(earth.path), str(tmp_path_factory.mktemp("grid")), size_km=1500.0, buffer_km=50.0, steps=6, batch_size=64,
        backbones={"text": "lsa", "image": "random_conv"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def done(grid):
    run_grid(CELLS, grid, workers=2, progress=False)
    return grid


def test_every_cell_has_its_line_and_its_predictions(done):
    rows = {r["name"]: r for r in read_rows(done.out)}
    assert set(rows) == {c.name for c in CELLS}
    run = rows["imagebind-text+image-degree_10-seed_0"]
    assert {r["protocol"] for r in run["probes"]} == {"random", "blocked", "bands", "continents"}
    assert len(run["retrieval"]) == 8  # six directions, and two through positions
    assert {r["view"] for r in run["facts"]} == {"location", "text", "image"}
    assert {r["task"] for r in run["zero_shot"]} == {"continent"}
    assert not list(done_path(done).glob("runs/*/checkpoints"))
    assert "retrieval" not in rows["raw_coordinates-seed_0"]


def done_path(grid):
    from pathlib import Path

    return Path(grid.out)


def test_a_grid_goes_on_where_it_was_stopped(done, monkeypatch):
    lines = done_path(done) / "rows.jsonl"
    whole = lines.read_text()
    first, *_, last = whole.splitlines()
    kept = "\n".join(whole.splitlines()[:-1]) + "\n"
    lines.write_text(kept + last[: len(last) // 2])  # killed while it wrote
    changed = {p: p.stat().st_mtime_ns for p in done_path(done).glob("runs/*/model.safetensors")}
    run_grid(CELLS, done, workers=1, progress=False)
    assert {p: p.stat().st_mtime_ns for p in changed} == changed  # nothing was trained again
    again = {r["name"]: r for r in read_rows(done.out)}
    expected = {r["name"]: r for r in map(json.loads, whole.splitlines())}
    for row in (*again.values(), *expected.values()):
        row.pop("evaluation_s")
    assert again == expected
    monkeypatch.setattr(grid_module, "ProcessPoolExecutor", None)  # cannot be called
    assert run_grid(CELLS, done, progress=False) == lines  # nothing is left to do


def test_a_failed_cell_does_not_stop_the_others(done):
    bad = Cell("imagebind", TEXT, "degree 10", 0, "broken", {"steps": -1})
    with pytest.raises(RuntimeError, match="1 of 5 cells failed; the first, imagebind-text-degree_10-broken-seed_0"):
        run_grid([*CELLS, bad], done, workers=1, progress=False)
    assert len(read_rows(done.out)) == 4


def test_what_cannot_be_told_apart_or_is_of_another_grid_is_refused(done, grid):
    with pytest.raises(ValueError, match="two cells are called"):
        run_grid([CELLS[0], CELLS[0]], done, progress=False)
    other = Grid(grid.data, grid.out, size_km=900.0, backbones=grid.backbones)
    with pytest.raises(ValueError, match="other settings"):
        run_grid(CELLS, other, progress=False)


def test_the_summary_is_paired_and_can_be_shown(done):
    scores = Scores(done, draws=60)
    run, raw = bound_to(BOTH, "degree 10"), ("raw coordinates", (), "", "")
    assert set(scores.groups) == {run, raw} and scores.seeds == [0, 1]
    for group in (run, raw):
        for (seed, task, protocol), case in scores.cases.items():
            line = next(r for r in scores.rows[group, seed]["probes"] if (r["task"], r["protocol"]) == (task, protocol))
            place = scores.seeds.index(seed)
            assert scores.probe(group, task, protocol)[place, 0] == pytest.approx(line["value"], abs=1e-5)
            assert line["n_test"] == case.test.sum()
    values = scores.probe(run, "climate", "random")
    assert values.shape == (2, 61) and scores.interval(values - values) == {"value": 0.0, "low": 0.0, "high": 0.0}
    interval = scores.interval(values)
    assert interval["low"] <= interval["value"] <= interval["high"]
    recall = scores.recall(run, "text", "location")
    line = next(r for r in scores.rows[run, 0]["retrieval"] if (r["query"], r["target"]) == ("text", "location"))
    assert recall[0, 0] == pytest.approx(line["recall@10"])

    made = {"seeds": 2, "block_km": 1500.0, "steps": 6, "batch_size": 64, "date": "2026-01-01", "made_by": "a test",
            "device": "cpu", "data": {"places": 500}}  # fmt: skip
    content = json.loads(json.dumps({"provenance": made} | summarise(scores), allow_nan=False))
    for row in content["probes"]:
        assert row["behind_best"]["value"] >= 0 and len(row["seeds"]) == 2
    table = grid_table(content, "random", "degree 10")
    assert list(table.frame.index) == ["imagebind, text + image", "raw coordinates"]
    assert all(sum("★" in v for v in table.frame[c]) == 1 for c in table.frame)
    found = grid_retrieval_table(content, "text", "image", "degree 10").frame
    assert "imagebind, text + image, through positions" in found.index and "chance" in found.index
    with pytest.raises(ValueError, match="these results have the protocols"):
        grid_table(content, "regions")
    labels = [r["labels"] for r in content["few_labels"] if r["protocol"] == "random" and r["task"] == "climate"]
    assert sorted(set(labels))[:3] == [10, 30, 100] and max(labels) > 200


def test_a_column_without_a_star_is_explained():
    made = {"seeds": 2, "block_km": 500.0, "steps": 6, "batch_size": 64, "date": "2026-01-01", "made_by": "a test",
            "device": "cpu", "data": {"places": 500}}  # fmt: skip
    best, other = ({"value": v, "low": v, "high": v} for v in (0.0, 0.1))
    row = {"protocol": "random", "architecture": "imagebind", "bound": ["text"], "variant": "", "task": "climate",
           "metric": "accuracy", "value": 0.5, "low": 0.4, "high": 0.6}  # fmt: skip
    rows = [row | {"encoder": "degree 10", "behind_best": best}, row | {"encoder": "degree 20", "behind_best": other}]
    grid = {"probes": rows, "provenance": made}
    assert "★" in grid_table(grid, "random", "degree 10").frame.iloc[0, 0]
    table = grid_table(grid, "random", "degree 20")
    assert list(table.frame["climate (accuracy)"]) == ["0.50 [0.40, 0.60]"]
    assert "★ the best of the whole grid, all encoders" in table.caption
    assert "no ★ in a column whose best has another encoder" in table.caption


class Known:
    """Scores whose truth is known: every group has a level, every seed and draw some noise."""

    def __init__(self, level, noise=0.01, dimension=None):
        self.level, self.noise, self.dimension = level, noise, dimension or (lambda group: 2.0)
        self.shared = {}

    def has(self, task, protocol):
        return protocol != "continents" or task in ("climate", "elevation")

    def _values(self, level, key):
        if key not in self.shared:
            self.shared[key] = np.random.default_rng(len(self.shared)).normal(0, self.noise, (5, 101))
        return level + self.shared[key]

    def probe(self, group, task, protocol):
        return self._values(self.level(group, task, protocol), (task, protocol))  # alike for all groups: paired

    def recall(self, group, query, target):
        return self._values(0.2 if MASKED in group[1] else 0.4, "recall")

    def information(self, group, measure):
        return np.full((5, 101), self.dimension(group)) + np.random.default_rng(len(group[1])).normal(0, 0.001, (5, 1))

    interval = Scores.interval


def test_hypotheses_are_decided_by_what_was_planted():
    def level(group, task, protocol):
        _, bound, encoder, variant = group
        more = {"degree 10": 0.0, "degree 20": 0.05, "degree 40": 0.1}[encoder]
        theme = TASKS[task].theme
        base = 0.5 + 0.2 * (bound == ("text",)) * (theme == "social") + 0.2 * (bound == ("image",)) * (theme == "physical")
        if bound in (("text", "image"), (MASKED, "image")):
            base = 0.7 + more * (protocol != "random")
        return base + 0.1 * (bool(variant) and bound == ("text",))

    found = {h["name"]: h for h in hypotheses(Known(level, dimension=lambda g: float(len(g[1]))), ["degree 10", "degree 40"])}
    assert {name: h["outcome"] for name, h in found.items()} == dict.fromkeys(["H1", "H2", "H3", "H4", "H5", "H6"], "supported")
    assert found["H1"]["parts"][0]["value"] == pytest.approx(0.05, abs=0.005)
    assert found["H2"]["parts"][0]["value"] == pytest.approx(0.1 * 6 / 7, abs=0.02)  # the continent has no theme

    def flat(group, task, protocol):
        return 0.5

    nothing = {h["name"]: h["outcome"] for h in hypotheses(Known(flat), ["degree 10", "degree 40"])}
    assert "supported" not in [nothing[n] for n in ("H1", "H2", "H3", "H4")]

    def opposite(group, task, protocol):
        return 0.3 if group[1] == ("text", "image") and protocol == "continents" else 0.5

    assert hypotheses(Known(opposite), ["degree 10", "degree 40"])[0]["outcome"] == "refuted"


def test_outcomes_follow_the_intervals():
    def part(low, high, wanted, within=0.0):
        return {"low": low, "high": high, "wanted": wanted, "within": within}

    assert outcome([part(0.1, 0.2, "above"), part(-0.2, -0.1, "below")]) == "supported"
    assert outcome([part(0.1, 0.2, "above"), part(-0.1, 0.1, "below")]) == "undecided"
    assert outcome([part(0.1, 0.2, "above"), part(0.1, 0.2, "below")]) == "refuted"
    assert outcome([part(-0.005, 0.009, "equal", 0.01)]) == "supported"
    assert outcome([part(-0.005, 0.02, "equal", 0.01)]) == "undecided"
    assert outcome([part(0.02, 0.03, "equal", 0.01)]) == "refuted"
    grid = {"provenance": {"data": {"places": 5}, "steps": 1, "batch_size": 2, "date": "", "made_by": "", "device": ""}}
    parts = [part(-0.1, 0.2, "above") | {"what": "a gain", "value": 0.05}]
    shown = hypothesis_table(grid | {"hypotheses": [{"name": "H1", "parts": parts, "outcome": "undecided"}]}).frame
    assert shown.loc["H1", "value"] == "+0.050 [-0.100, +0.200]" and shown.loc["H1", "outcome"] == "undecided"


def test_kept_facts_are_shares_of_what_the_backbones_know():
    def row(name, task, view, value, known_by, bound=()):
        return {"architecture": name, "bound": list(bound), "encoder": "", "variant": "", "view": view, "task": task,
                "known_by": known_by, "value": value, "floor": 0.2}  # fmt: skip

    rows = [
        row("text features", "name", "text features", 0.8, ["text"]), row("image features", "name", "x", 0.99, ["text"]),
        row("text features", "noise", "text features", 0.22, ["text"]),
        row("image features", "green", "image features", 0.7, ["text", "image"]),
        row("imagebind", "name", "text", 0.5, ["text"], BOTH), row("imagebind", "noise", "text", 0.9, ["text"], BOTH),
        row("imagebind", "green", "text", 0.1, ["text", "image"], BOTH),
    ]  # fmt: skip
    kept = {r["told_by"]: r for r in facts_kept(rows) if r["architecture"] == "imagebind"}
    assert kept["text only"]["kept"] == pytest.approx(0.5) and kept["text only"]["facts"] == 1  # images do not count
    assert kept["both"]["kept"] == 0.0


def test_the_route_through_positions_finds_the_position_that_fits():
    positions = np.eye(6, dtype=np.float32)
    queries = positions[[4, 1]] * 0.9 + 0.1
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    found = through_positions(queries, positions, scale=50.0)
    assert (found.argmax(1) == [4, 1]).all() and np.allclose(np.linalg.norm(found, axis=1), 1)
    assert np.ptp(through_positions(queries, positions, scale=0.0), axis=1).max() < 1e-6  # no preference, no answer


def test_names_of_cells_and_rows_in_words():
    cell = Cell("imagebind", (MASKED, "image"), "degree 20", 3)
    assert cell.name == "imagebind-masked_text+image-degree_20-seed_3"
    row = {"architecture": "csp", "bound": ["image"], "encoder": "own", "variant": "", "seed": 1}
    assert label_of(row) == "csp, image, own encoder" and group_of(row) == ("csp", ("image",), "own", "")
