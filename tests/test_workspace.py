import json
import os
import subprocess

import pytest
from scripts_of import script
from world import SMALL, make_world

from geonb import workspace
from geonb.architectures import ARCHITECTURES
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


def test_a_run_is_trained_once_and_again_only_when_something_changed(home, capsys):
    run = workspace.run("imagebind")
    assert run == home / "runs" / "mine" / "imagebind"
    first = (run / "manifest.json").stat().st_mtime_ns
    assert workspace.run("imagebind") == run and (run / "manifest.json").stat().st_mtime_ns == first

    workspace.run("imagebind", steps=6)
    assert json.loads((run / "manifest.json").read_text())["steps"] == 6
    assert "training anew" in capsys.readouterr().out

    text_bound = workspace.run("satclip-text", architecture="satclip", modalities=("location", "text"))
    assert json.loads((text_bound / "manifest.json").read_text())["modalities"] == ["location", "text"]


def test_an_interrupted_run_is_taken_up(home):
    run = workspace.run("fused")
    (run / "model.safetensors").unlink()
    workspace.run("fused")
    assert (run / "model.safetensors").exists()


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


def test_an_unknown_profile_is_refused(monkeypatch):
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
    run = workspace.run("fused")
    made = json.loads((run / "manifest.json").read_text())
    assert made["precision"] == "bf16-mixed" and made["steps"] == 3
    line = f"fused: full-size configuration, 3 steps of 32 places, bf16-mixed, {made['wall_s']:.0f} s on a GPU that is not there"
    assert capsys.readouterr().out.strip() == line


@pytest.mark.parametrize("value, live", [("1", True), ("0", False), ("", False), (None, False)])
def test_the_network_is_asked_only_by_one_who_wants_it(monkeypatch, value, live):
    monkeypatch.delenv("GEONB_LIVE", raising=False)
    if value is not None:
        monkeypatch.setenv("GEONB_LIVE", value)
    assert workspace.live() is live


@pytest.fixture
def counted(home, monkeypatch):
    """The workspace with an evaluation that writes a line and counts how often it was asked for."""
    asked = []

    def evaluate(runs, store, out):
        asked.append(sorted(run.name for run in runs))
        out.write_text(json.dumps({"schema": SCHEMA}))
        return json.loads(out.read_text())

    monkeypatch.setattr("geonb.evaluation.suite.evaluate", evaluate)
    return asked


def test_everything_of_the_book_is_made_once(counted, home, capsys):
    """The six architectures, the two spaces bound to one modality, and the results; a second time nothing is trained."""
    workspace.prepare()
    made = {path.name: (path / "manifest.json").stat().st_mtime_ns for path in (home / "runs" / "mine").iterdir() if path.is_dir()}
    assert made.keys() == {*ARCHITECTURES, "imagebind-text", "imagebind-image"}
    assert "200 places" in capsys.readouterr().out
    workspace.prepare()
    assert made == {name: (home / "runs" / "mine" / name / "manifest.json").stat().st_mtime_ns for name in made}
    assert counted == [sorted(ARCHITECTURES)]


def test_chapters_are_executed_anew_for_the_books_runs_and_not_for_their_own(counted, home):
    fingerprint, runs = script("build_book").fingerprint, workspace.prepare()
    before, own = fingerprint(runs), runs[0].with_name("of-a-chapter")
    own.mkdir()
    (own / "manifest.json").write_text("{}")
    assert fingerprint(runs) == fingerprint(workspace.prepare()) == before
    (runs[0] / "manifest.json").write_text("{}")
    assert fingerprint(runs) != before


def test_a_build_keeps_chapters_and_pages_only_while_what_they_use_is_the_same(counted, home, monkeypatch):
    build, finds, ends = script("build_book"), [], iter([0, 0, 1, 0, 0])
    chapters, pages = home / "_build" / ".jupyter_cache" / "one", home / "_build" / ".doctrees" / "one"

    def jupyter_book(command, cwd):
        finds.append((chapters.exists(), pages.exists()))
        for made in (chapters, pages):
            made.mkdir(parents=True, exist_ok=True)
        return subprocess.CompletedProcess(command, next(ends))

    monkeypatch.setattr(build, "ROOT", home)
    monkeypatch.setattr(build.subprocess, "run", jupyter_book)
    returned = [build.main() for _ in range(4)]  # the third fails: its chapters stay, its pages are read again
    manifest = workspace.prepare()[0] / "manifest.json"
    manifest.write_text(manifest.read_text() + " ")
    assert [*returned, build.main()] == [0, 0, 1, 0, 0]
    assert finds == [(False, False), (True, True), (True, True), (True, False), (False, False)]


def test_results_are_made_anew_when_a_run_or_the_schema_changed(counted, home):
    workspace.results()
    workspace.results()
    assert len(counted) == 1
    results, manifest = home / "runs" / "mine" / "results.json", home / "runs" / "mine" / "fused" / "manifest.json"
    later = results.stat().st_mtime + 10
    os.utime(manifest, (later, later))
    workspace.results()
    assert len(counted) == 2
    os.utime(results, (later + 10, later + 10))
    workspace.results()
    assert len(counted) == 2
    results.write_text(json.dumps({"schema": SCHEMA - 1}))
    os.utime(results, (later + 10, later + 10))
    assert workspace.results()["schema"] == SCHEMA and len(counted) == 3
