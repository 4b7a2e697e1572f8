import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import SMALL, make_world

from geonb.evaluation import suite
from geonb.evaluation.probes import Task
from geonb.evaluation.suite import REFERENCES, evaluate
from geonb.evaluation.tables import information_table, probe_table, retrieval_table
from geonb.training import split_of, train

WORLD_TASKS = {"zone": Task("zone", "classification"), "warmth": Task("warmth", "regression", "degrees C")}


@pytest.fixture(scope="module")
def results(world, trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    satclip = train("satclip", world, folder / "satclip", SMALL, progress=False)
    original, suite.TASKS = suite.TASKS, WORLD_TASKS | {"country": original_country()}
    yield evaluate([trained, satclip], world, out=folder / "results.json", progress=False) | {
        "path": folder / "results.json"
    }
    suite.TASKS = original


def original_country():
    return Task("country", "classification")


def test_every_row_stands_beside_its_references(results, world):
    rows = results["probes"]
    for task in WORLD_TASKS:
        for split in ("random", "blocked"):
            names = {r["representation"] for r in rows if (r["task"], r["split"]) == (task, split)}
            assert names == {*REFERENCES, "imagebind", "satclip"}
    assert all(r["low"] <= r["high"] and r["n_train"] > 0 and r["n_test"] > 0 for r in rows)
    assert results["skipped"] == [{"task": "country", "why": "the store has no column country"}]
    assert json.loads(results["path"].read_text())["probes"] == rows


def test_held_out_blocks_stay_out_of_the_probe(results, world):
    split = split_of(world, SMALL)
    blocked = [r for r in results["probes"] if r["split"] == "blocked" and r["task"] == "warmth"]
    assert {r["n_train"] for r in blocked} == {int((split == "train").sum())}
    assert {r["n_test"] for r in blocked} == {int((split == "test").sum())}


def test_probes_see_the_embedding_and_no_coordinate(world, trained, monkeypatch):
    widths = []
    real = suite.linear_probe

    def spy(train_x, *rest):
        widths.append(train_x.shape[1])
        return real(train_x, *rest)

    monkeypatch.setattr(suite, "linear_probe", spy)
    monkeypatch.setattr(suite, "TASKS", {"warmth": WORLD_TASKS["warmth"]})
    evaluate([trained], world, progress=False)
    assert sorted(set(widths)) == [2, 32, 400]  # raw coordinates, the embedding as it is, untrained harmonics


def test_retrieval_has_all_six_directions_and_says_which_were_never_trained(results):
    rows = {(r["query"], r["target"]): r for r in results["retrieval"] if r["run"] == "imagebind"}
    assert len(rows) == 6
    assert {pair for pair, r in rows.items() if not r["trained"]} == {("text", "image"), ("image", "text")}
    assert {(r["query"], r["target"]) for r in results["retrieval"] if r["run"] == "satclip"} == {
        ("location", "image"), ("image", "location"),
    }  # fmt: skip
    assert all(r["chance@10"] == pytest.approx(min(1, 10 / r["n"])) for r in results["retrieval"])


def test_tables_say_how_much_was_trained_on_what_and_escape_names(results):
    for split in ("random", "blocked"):
        table = probe_table(results, split)
        assert "simulated" in table.caption.lower() and table.frame.loc["imagebind", "samples seen"] == "1,280"
        assert table.frame.loc["imagebind", "steps"].startswith("20 (kept ")
        assert table.frame.loc["raw coordinates", "steps"] == "–"
    table = retrieval_table(results, "text", "image")
    assert table.frame.loc["imagebind", "trained pair"] == "never" and "chance" in table.frame.index
    assert information_table(results).frame.shape[0] == 2
    hostile = json.loads(
        json.dumps({k: v for k, v in results.items() if k != "path"}).replace("imagebind", "<script>x")
    )
    html = probe_table(hostile, "random")._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;x" in html
    with pytest.raises(ValueError, match="choose random or blocked"):
        probe_table(results, "region")


def test_the_results_can_be_repeated(world, trained, results, monkeypatch):
    again = evaluate([trained], world, progress=False)
    first = [r for r in results["probes"] if r["representation"] == "imagebind"]
    assert [r for r in again["probes"] if r["representation"] == "imagebind"] == first


def test_runs_with_other_splits_or_other_data_are_noticed(world, trained, tmp_path):
    other = train("satclip", world, tmp_path / "other", replace(SMALL, split=SMALL.split | {"seed": 9}), progress=False)
    with pytest.raises(ValueError, match="different splits"):
        evaluate([trained, other], world, progress=False)
    elsewhere = make_world(tmp_path / "elsewhere", n=200, seed=4)
    assert evaluate([trained], elsewhere, progress=False)["training"]["imagebind"]["other_data"] is True
    with pytest.raises(ValueError, match="no runs"):
        evaluate([], world, progress=False)


def test_rare_classes_are_left_out_and_counted(world, trained, monkeypatch):
    monkeypatch.setattr(suite, "TASKS", {"title": Task("title", "classification"), "zone": WORLD_TASKS["zone"]})
    rows = evaluate([trained], world, progress=False)["probes"]
    assert {r["task"] for r in rows} == {"zone"}  # each title occurs once
    assert all(r["classes"] <= 5 for r in rows) and np.isfinite([r["balanced_accuracy"] for r in rows]).all()
