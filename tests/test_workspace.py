import json

import pytest
from world import SMALL, make_world

from geonb import workspace


@pytest.fixture
def home(tmp_path, monkeypatch):
    store = make_world(tmp_path / "elsewhere" / "mine", n=200)
    monkeypatch.setenv("GEONB_HOME", str(tmp_path))
    monkeypatch.setenv("GEONB_DATA", str(store.path))
    monkeypatch.setenv("GEONB_SMOKE", "1")
    monkeypatch.setattr(workspace, "SMOKE", {"steps": 4, "batch_size": 32, "validate_every": 2, "split": SMALL.split,
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
