"""``geonb doctor`` with one thing wrong at a time, and what is kept beside measured figures."""

import json
import os
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import ee
import pytest
import torch
from faulty import Response, serve
from world import make_world

from geonb import _util, cli, doctor, practice
from geonb.data.sources import alphaearth, earthengine, http, stac, wikipedia


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


# --- live sources, by stand-ins -----------------------------------------------------------------------

PATHS = {"/w/api.php": "Wikimedia API", "/v1": "Earth Search (STAC)", "/aef_index.parquet": "AlphaEarth"}


def answer(request):
    """What the three services behind HTTP say in short."""
    if request.path == "/w/api.php":
        return Response(body=b'{"query": {"pages": [{"pageid": 1, "title": "Bern"}]}}')
    if request.path == "/aef_index.parquet":
        return Response(body=b"x" * 2_000_000)
    asset = {"href": "https://example.org/x.tif"}
    scene = {
        "type": "Feature", "stac_version": "1.0.0", "id": "one", "collection": stac.COLLECTION, "links": [],
        "geometry": None, "properties": {"datetime": "2024-07-01T10:00:00Z"}, "assets": dict.fromkeys(stac.ASSETS.values(), asset),
    }  # fmt: skip
    found = {"type": "FeatureCollection", "features": [scene], "links": []}
    url = f"http://{request.headers['Host']}"
    return Response(body=json.dumps(practice._landing_page(url) if request.path == "/v1" else found).encode())


@pytest.fixture
def sources(home, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("GEONB_CONTACT", "somebody@example.org")
    monkeypatch.setattr(wikipedia, "HUB_FILES", str(home / "train-*.parquet"))
    practice.wikipedia_table(make_world(home / "world", n=60), home / "train-00000-of-00001.parquet")
    number = SimpleNamespace(add=lambda n: SimpleNamespace(getInfo=lambda: 1 + n))
    monkeypatch.setattr(earthengine, "connect", lambda: SimpleNamespace(Number=lambda n: number))
    with serve(answer=answer) as server:
        monkeypatch.setattr(wikipedia, "API", f"{server.url}/w/api.php")
        monkeypatch.setattr(stac, "EARTH_SEARCH", f"{server.url}/v1")
        monkeypatch.setattr(alphaearth, "BASE", server.url)
        yield server


def asked(timeout_s=20):
    return {row["source"]: (row["state"], row["answer"]) for row in doctor.ask_sources(timeout_s)}


def test_each_live_source_is_asked_once_and_its_answer_stands_in_a_table(sources, capsys):
    retries = http.RETRY
    assert cli.main(["doctor", "--live", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["answer"] for row in rows if row["source"] in PATHS.values()] == ["1 article", "1 scenes with all bands", "2 MB of index"]
    assert {row["state"] for row in rows} == {"ok"} and [row["source"] for row in rows] == list(doctor.LIVE)
    assert sorted(request.path for request in sources.seen) == ["/aef_index.parquet", "/v1", "/v1/search", "/w/api.php"]
    assert http.RETRY is retries
    assert cli.main(["doctor", "--live"]) == 0
    table = capsys.readouterr().out.splitlines()[2:]
    assert len(table) == 2 + len(doctor.LIVE) and {line.count("|") for line in table} == {6}


def test_an_error_silence_and_an_answer_of_another_kind_are_told_apart(sources, capsys):
    sources.tricks = {path: [{"status": 503}] * 2 for path in PATHS}
    found = asked()
    assert {found[source] for source in PATHS.values()} == {("broken", "HTTP 503")} and len(sources.seen) == 3
    sources.tricks = {path: [{"status": 200, "body": b"<html>"}] for path in PATHS}
    found = asked()
    assert [found[source][0] for source in PATHS.values()] == ["broken"] * 3
    sources.tricks = {path: [{"delay": 30}] for path in PATHS}
    found = asked(timeout_s=1.3)
    assert {found[source] for source in PATHS.values()} == {("no answer", "none within 1.3 s")}
    assert found["Earth Engine"][0] == "ok"
    sources.tricks = {"/v1": [{"status": 503}]}
    assert cli.main(["doctor", "--live"]) == 1


def test_without_a_network_each_source_says_so(sources):
    sources.shutdown()
    sources.server_close()
    found = asked()
    assert all(found[source][0] == "no answer" and "Connection refused" in found[source][1] for source in PATHS.values())


def test_what_is_missing_is_no_fault_and_comes_with_its_remedy(sources, home, monkeypatch, capsys):
    def refuse():
        try:
            raise ee.EEException("Please authorize access")
        except ee.EEException as error:
            raise ValueError(f"Earth Engine could not be initialised: {error}") from None

    monkeypatch.delenv("GEONB_CONTACT")
    monkeypatch.setattr(earthengine, "connect", refuse)
    monkeypatch.setitem(sys.modules, "pystac_client", None)
    monkeypatch.setattr(wikipedia, "HUB_FILES", str(home / "none-*.parquet"))
    found = asked()
    assert found["Wikimedia API"] == ("missing", "Wikimedia asks for a contact; set GEONB_CONTACT")
    assert found["Earth Engine"] == ("missing", "Earth Engine could not be initialised: Please authorize access")
    assert found["Earth Search (STAC)"][0] == "missing" and "'geonb[acquire]'" in found["Earth Search (STAC)"][1]
    assert found["Wikipedia table on the hub"] == ("broken", "there is no such file")
    practice.wikipedia_table(make_world(home / "more", n=60), home / "none-00000.parquet")
    assert cli.main(["doctor", "--live"]) == 0


def test_no_secret_and_nothing_hostile_of_an_answer_is_shown(sources, monkeypatch, capsys):
    monkeypatch.setenv("GEONB_EE_PROJECT", "mine-4711")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")

    def refuse():
        raise ValueError(
            "no permission for project other-42 or Project 'projects/99'\nof mine-4711, hf_secret, robot@iam.example "
            "\x1b[31m<b>|</b>" + 300 * "x"
        )

    monkeypatch.setattr(earthengine, "connect", refuse)
    assert cli.main(["doctor", "--live"]) == 0
    shown = capsys.readouterr().out
    assert not any(word in shown for word in ("other-42", "99", "4711", "hf_secret", "robot", "somebody", "\x1b", "<b>"))
    assert "&lt;b&gt;\\|&lt;/b&gt;x" in shown and 200 * "x" not in shown
