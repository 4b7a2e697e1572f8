import json
import os
from unittest.mock import MagicMock

import build_book
import nbformat
import pytest
from world import SMALL, make_world

from geonb import workspace
from geonb.evaluation.suite import SCHEMA


@pytest.fixture
def home(tmp_path, monkeypatch):
    store = make_world(tmp_path / "elsewhere" / "mine", n=200)
    monkeypatch.setenv("GEONB_HOME", str(tmp_path))
    monkeypatch.setenv("GEONB_DATA", str(store.path))
    monkeypatch.setenv("GEONB_SMOKE", "1")
    monkeypatch.setattr(workspace, "SMOKE", {"steps": 8, "batch_size": 32, "validate_every": 2, "split": SMALL.split,
                                             "backbones": SMALL.backbones, "dim": 16})  # fmt: skip
    return tmp_path


def manifest(run):
    return json.loads((run / "manifest.json").read_text())


def test_a_run_is_trained_once_and_again_only_when_something_changed(home, capsys):
    run = workspace.run("imagebind")
    assert run == home / "runs" / "mine" / "imagebind"
    first = (run / "manifest.json").stat().st_mtime_ns
    assert workspace.run("imagebind") == run and (run / "manifest.json").stat().st_mtime_ns == first
    workspace.run("imagebind", steps=6)
    assert manifest(run)["steps"] == 6 and "training again" in capsys.readouterr().out
    (run / "model.safetensors").unlink()
    workspace.run("imagebind", steps=6)
    assert (run / "model.safetensors").exists(), "an interrupted run is taken up"


def test_a_run_of_the_table_has_the_settings_of_the_table(home):
    run = workspace.run("satclip-text")
    assert manifest(run)["architecture"] == "satclip" and manifest(run)["modalities"] == ["location", "text"]
    other = workspace.run("mine", architecture="csp", modalities=("location", "text"))
    assert manifest(other)["architecture"] == "csp" and manifest(other)["modalities"] == ["location", "text"]


def test_the_folder_of_the_book_is_home(tmp_path, monkeypatch):
    monkeypatch.delenv("GEONB_HOME", raising=False)
    (tmp_path / "book").mkdir()
    (tmp_path / "_config.yml").write_text("")
    monkeypatch.chdir(tmp_path / "book")
    assert workspace.root() == tmp_path


@pytest.mark.parametrize(
    "environment, name, places", [({}, "book", 8000), ({"GEONB_PROFILE": "workshop", "GEONB_SMOKE": "1"}, "workshop", 2000),
                                  ({"GEONB_SMOKE": "1"}, "smoke", 700), ({"GEONB_SMOKE": "0"}, "book", 8000)],
)  # fmt: skip
def test_a_profile_is_chosen_by_the_environment(tmp_path, monkeypatch, environment, name, places):
    for variable in ("GEONB_PROFILE", "GEONB_SMOKE", "GEONB_DATA"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in (environment | {"GEONB_HOME": str(tmp_path)}).items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(workspace, "gpu", lambda: None)
    monkeypatch.setattr("geonb.sample.make_atlas", lambda path, places: (path.name, places))
    assert workspace.profile() == workspace.configuration("fused")[0] == name
    assert workspace.data() == ("atlas" if name == "book" else name, places)
    monkeypatch.setenv("GEONB_PROFILE", "tiny")
    with pytest.raises(ValueError, match="GEONB_PROFILE=tiny: choose one of book, workshop, smoke"):
        workspace.configuration("fused")


def test_on_a_gpu_the_full_size_is_trained_and_a_line_says_so(home, monkeypatch, capsys):
    monkeypatch.setattr(workspace, "gpu", lambda: "a GPU that is not there")
    assert workspace.configuration("fused")[0] == "smoke"  # a check stays a check
    monkeypatch.delenv("GEONB_SMOKE")
    size, config = workspace.configuration("fused")
    assert size == "full-size" and config.precision == "bf16-mixed" and config.encoding["degrees"] == 40
    assert workspace.configuration("satclip")[1].encoding is None  # a baseline keeps its own
    monkeypatch.setattr(workspace, "FULL", {"precision": "bf16-mixed", "steps": 3, "batch_size": 32, "validate_every": 3,
                                            "split": SMALL.split, "backbones": SMALL.backbones})  # fmt: skip
    made = manifest(workspace.run("fused"))
    assert made["precision"] == "bf16-mixed" and made["steps"] == 3
    assert capsys.readouterr().out.strip() == "fused: full-size configuration"


def test_results_are_made_again_when_a_run_or_the_schema_changed(home, monkeypatch):
    asked = []

    def evaluate(runs, store, out):
        asked.append(sorted(run.name for run in runs))
        out.write_text(json.dumps({"schema": SCHEMA}))
        return json.loads(out.read_text())

    monkeypatch.setattr("geonb.evaluation.suite.evaluate", evaluate)
    workspace.results()
    workspace.results()
    assert len(asked) == 1
    results, trained = home / "runs" / "mine" / "results.json", home / "runs" / "mine" / "fused" / "manifest.json"
    later = results.stat().st_mtime + 10
    os.utime(trained, (later, later))
    workspace.results()
    assert len(asked) == 2
    results.write_text(json.dumps({"schema": SCHEMA - 1}))
    os.utime(results, (later + 10, later + 10))
    assert workspace.results()["schema"] == SCHEMA and len(asked) == 3


@pytest.fixture
def book(home, monkeypatch):
    """A book of two chapters, the runs that it needs replaced by empty ones; and what was done in each build."""
    chapter = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (home / "book").mkdir()
    (home / "_config.yml").write_text("")
    (home / "_toc.yml").write_text("root: book/one\nparts:\n- chapters:\n  - file: book/two\n")
    for name in ("one", "two"):
        cell = {"cell_type": "code", "id": name, "metadata": {}, "outputs": [], "execution_count": None, "source": name}
        (home / "book" / f"{name}.ipynb").write_text(json.dumps(chapter | {"cells": [cell]}))
    for name in workspace.RUNS:
        (home / "runs" / "mine" / name).mkdir(parents=True)
        (home / "runs" / "mine" / name / "manifest.json").write_text("{}")
    executed, pages = [], [True]

    def run_chapter(path):
        executed.append(path.stem)
        notebook = nbformat.read(path, 4)
        notebook.cells[0].execution_count = 1
        return notebook, {"s": 1.0, "peak_mb": 1}

    workers = MagicMock()
    workers.return_value.__enter__.return_value.submit.return_value.result.return_value = None
    monkeypatch.setattr(build_book, "ProcessPoolExecutor", workers)
    monkeypatch.setattr(build_book, "build_pages", lambda root, progress: pages[-1])

    def build():
        executed.clear()
        return build_book.build(home, run_chapter), sorted(executed)

    return home, build, pages


def test_a_build_executes_what_has_changed_and_nothing_else(book, capsys):
    home, build, _ = book
    assert build() == (0, ["one", "two"])
    capsys.readouterr()
    assert build() == (0, []) and "nothing has changed" in capsys.readouterr().out
    path = home / "book" / "two.ipynb"
    path.write_text(path.read_text().replace('"source": "two"', '"source": "2"'))
    assert build() == (0, ["two"])
    (home / "runs" / "mine" / "of-a-chapter").mkdir()
    (home / "runs" / "mine" / "of-a-chapter" / "manifest.json").write_text("{}")
    assert build() == (0, [])
    (home / "runs" / "mine" / "fused" / "manifest.json").write_text('{"steps": 1}')
    assert build() == (0, ["one", "two"])


def test_a_build_that_failed_is_repeated_and_keeps_its_chapters(book):
    home, build, pages = book
    pages.append(False)
    assert build() == (1, ["one", "two"]) and not build_book.is_current(home)
    pages.append(True)
    assert build() == (0, []) and build_book.is_current(home)
