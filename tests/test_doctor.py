"""``geonb doctor`` with one thing wrong at a time."""

import json
import os
from datetime import date

import pytest
import torch
from world import make_world

from geonb import cli, doctor, workspace


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in [n for n in os.environ if n.startswith("GEONB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GEONB_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def finding(what):
    (found,) = [f for f in doctor.examine() if f.what == what]
    return found


def test_it_prints_a_line_each_and_ends_well(home, capsys):
    assert cli.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(doctor.examine()) and torch.__version__ in lines[0]


def test_json_has_the_same_findings(home, capsys):
    assert cli.main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == doctor.as_dicts(doctor.examine())


def test_an_extra_that_is_missing_is_named_with_its_command(home, monkeypatch):
    there = doctor.find_spec
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "umap" else there(name))
    found = finding("extra explore")
    assert (found.state, found.remedy) == ("missing", "pip install 'geonb[explore]'") and "no umap" in found.found
    assert finding("extra evaluate").state == "ok"


def test_a_store_that_cannot_be_read_is_broken(home, monkeypatch, capsys):
    store = make_world(home / "mine", n=60)
    monkeypatch.setenv("GEONB_DATA", str(store.path))
    assert finding("data").state == "ok" and "60 places" in finding("data").found
    (store.path / "manifest.json").write_text("{")
    assert finding("data").state == "broken"
    assert cli.main(["doctor"]) == 1 and " broken  data" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_to_is_broken(home, monkeypatch):
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    found = finding("folder")
    assert (found.state, found.remedy) == ("broken", "export GEONB_HOME=FOLDER")


def test_an_unknown_profile_is_broken(home, monkeypatch):
    monkeypatch.setenv("GEONB_PROFILE", "tiny")
    assert finding("data").state == "broken" and "choose one of book" in finding("data").found


def test_without_a_gpu_it_says_so_and_with_one_its_memory(home, monkeypatch):
    monkeypatch.setattr(workspace, "gpu", lambda: None)
    assert finding("GPU").state == "missing"
    monkeypatch.setattr(workspace, "gpu", lambda: "A GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: type("P", (), {"total_memory": 80e9}))
    assert finding("GPU").state == "ok" and "A GPU, 80 GB" in finding("GPU").found


@pytest.mark.parametrize("profile, places", [("book", 8000), ("workshop", 2000)])
def test_a_store_that_is_missing_is_made_as_large_as_the_profile_wants_it(home, monkeypatch, profile, places):
    monkeypatch.setenv("GEONB_PROFILE", profile)
    found = finding("data")
    assert found.state == "missing" and found.remedy.endswith(f" --places {places}")


def test_a_project_for_earth_engine_is_looked_for_beside_its_credentials(home, monkeypatch):
    found = finding("Earth Engine project")
    assert found.state == "missing" and found.remedy.startswith("export GEONB_EE_PROJECT=")
    monkeypatch.setenv("GEONB_EE_PROJECT", "mine")
    assert finding("Earth Engine project").state == "ok"


def test_little_memory_is_told(home, monkeypatch):
    monkeypatch.setattr(doctor, "memory_gb", lambda: 2.0)
    assert finding("memory").remedy.endswith("export GEONB_PROFILE=workshop")


def test_where_a_figure_comes_from_names_the_device_that_runs_are_trained_on(home, monkeypatch):
    monkeypatch.setattr(workspace, "gpu", lambda: None)
    made = doctor.provenance()
    assert made["device"].startswith(f"cpu, {made['cores']} cores") and made["gpu"] is None
    assert date.fromisoformat(made["date"]) <= date.today()
    assert made["versions"]["torch"] == torch.__version__ and made["versions"].keys() == {"python", "torch", "geonb"}
    monkeypatch.setattr(workspace, "gpu", lambda: "A GPU")
    assert doctor.provenance()["device"] == doctor.provenance()["gpu"] == "A GPU"


def test_no_secret_is_printed(home, monkeypatch):
    folder = home / ".config" / "earthengine"
    folder.mkdir(parents=True)
    (folder / "credentials").write_text("refresh-token-of-somebody")
    monkeypatch.setenv("GEONB_CONTACT", "somebody@example.org")
    monkeypatch.setenv("GEONB_EE_PROJECT", "project-of-somebody")
    text = doctor.report(doctor.examine())
    assert "somebody" not in text and finding("contact").state == finding("Earth Engine").state == "ok"


def test_its_extras_are_those_of_the_package():
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).resolve().parent.parent / "pyproject.toml").read_text())["project"]
    assert set(doctor.EXTRAS) == set(project["optional-dependencies"]) - {"facts", "book", "test"}
