"""``geonb doctor`` with one thing wrong at a time, and what is kept beside measured figures."""

import json
import os
import tomllib
from pathlib import Path

import pytest
import torch
from world import make_world

from geonb import _util, cli, doctor


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    for name in [n for n in os.environ if n.startswith("GEONB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GEONB_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def line(what):
    (found,) = [each for each in doctor.examine() if each["what"] == what]
    return found


@pytest.mark.parametrize(
    "name, value, what, remedy",
    [
        ("find_spec", lambda name: None if name == "umap" else "found", "extra explore", "pip install 'geonb[explore]'"),
        ("memory_gb", lambda: 2.0, "memory", "export GEONB_PROFILE=workshop"),
        ("gpu", lambda: None, "GPU", ""),
        ("cores", lambda: 2, "GEONB_EE_PROJECT", "export GEONB_EE_PROJECT=ID"),
        ("DISK_GB", 1e9, "folder", "export GEONB_HOME=FOLDER"),
    ],
)
def test_what_is_missing_has_a_remedy(monkeypatch, name, value, what, remedy):
    monkeypatch.setattr(doctor, name, value)
    assert line(what)["state"] == "missing" and remedy in line(what)["remedy"]


def test_a_folder_a_profile_or_a_store_that_cannot_be_used_is_broken(home, monkeypatch, capsys):
    monkeypatch.setenv("GEONB_PROFILE", "workshop")
    assert line("data")["state"] == "missing" and line("data")["remedy"].endswith(" --places 2000")
    store = make_world(home / "mine", n=60)
    monkeypatch.setenv("GEONB_DATA", str(store.path))
    assert line("data")["state"] == "ok" and "60 places" in line("data")["found"]
    assert cli.main(["doctor", "--json"]) == 0 and json.loads(capsys.readouterr().out) == doctor.examine()
    (store.path / "manifest.json").write_text("{")
    assert cli.main(["doctor"]) == 1 and " broken  data" in capsys.readouterr().out
    monkeypatch.setenv("GEONB_PROFILE", "tiny")
    assert "choose one of book" in line("data")["found"]
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    assert line("folder")["state"] == "broken"


def test_no_secret_is_printed(home, monkeypatch):
    folder = home / ".config" / "earthengine"
    folder.mkdir(parents=True)
    (folder / "credentials").write_text("refresh-token-of-somebody")
    monkeypatch.setenv("GEONB_CONTACT", "somebody@example.org")
    monkeypatch.setenv("GEONB_EE_PROJECT", "project-of-somebody")
    assert "somebody" not in doctor.report(doctor.examine())
    assert {line(what)["state"] for what in (*doctor.SECRETS, "Earth Engine")} == {"ok"}


def test_a_gpu_is_named_here_and_beside_measured_figures(monkeypatch):
    monkeypatch.setattr(_util, "gpu", lambda: None)
    made = _util.provenance()
    assert made["device"].startswith(f"cpu, {made['cores']} cores") and made["versions"]["torch"] == torch.__version__
    monkeypatch.setattr(_util, "gpu", lambda: "A GPU")
    monkeypatch.setattr(doctor, "gpu", lambda: "A GPU")
    assert _util.provenance()["device"] == "A GPU" and line("GPU")["state"] == "ok" and "A GPU" in line("GPU")["found"]


def test_its_extras_are_those_of_the_package():
    project = tomllib.loads((Path(__file__).resolve().parent.parent / "pyproject.toml").read_text())["project"]
    assert set(doctor.EXTRAS) == set(project["optional-dependencies"]) - {"facts", "book", "test"}
