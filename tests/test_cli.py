"""The command line: every verb on inputs of this machine, and how it ends when something is wrong."""

import io
import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import geonb
from geonb import practice
from geonb.cli import main, parser
from geonb.data.store import PlaceStore
from geonb.encoders import text

PERIOD = ("--period", "2024-05-01", "2024-09-01")


def run(*args):
    return main([str(a) for a in args])


@pytest.fixture
def files(world, trained, tmp_path):
    """Fill the names of files into the words of a command."""
    (tmp_path / "points.csv").write_text("name,lon,lat\na,10,50\nb,20,40\n")
    (tmp_path / "swapped.csv").write_text("lon,lat\n10,20\n48.1,151.2\n")
    (tmp_path / "word.yaml").write_text("steps: five\n")
    (tmp_path / "twice.yaml").write_text("steps: 5\nsteps: 6\n")
    pq.write_table(pa.table({"place_id": ["p1"], "embedding": [[1.0]]}), tmp_path / "e.parquet")
    return lambda words: [word.format(world=world.path, run=trained, tmp=tmp_path) for word in words.split("|")]


def test_the_command_starts_without_heavy_imports():
    code = "import sys, geonb.cli; geonb.cli.parser(); print([m for m in ('torch', 'numpy', 'pyarrow') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_a_sample_has_as_many_places_as_asked_for_and_is_called_simulated(tmp_path, capsys):
    assert run("data", "sample", "--out", tmp_path / "a", "--places", 20, "--seed", 1) == 0
    shown = capsys.readouterr().out
    assert "20 places, " in shown and " texts (simulated), " in shown and shown.endswith(" landscape images\n")


def test_wikipedia_from_a_table_is_a_store_that_passes_the_check(world, tmp_path, capsys):
    table = practice.wikipedia_table(world, tmp_path / "articles.parquet")
    options = ("--min-chars", 20, "--places-only", "--limit", 200, "--snapshot", "20260901", "--lang", "en")
    assert run("data", "wikipedia", "table", table, "--out", tmp_path / "a", "--bbox", -180, 0, 180, 90, *options) == 0
    assert "places, " in capsys.readouterr().out
    assert (PlaceStore.open(tmp_path / "a").lonlat[:, 1] >= 0).all()
    assert run("data", "check", tmp_path / "a") == 0
    shown = capsys.readouterr().out
    assert "all hashes agree" in shown and "with a place" in shown  # files, then coverage


def test_local_files_become_a_store_and_doubtful_rows_are_dropped_or_kept(tmp_path, capsys):
    rows = ["title,longitude,latitude,text", "Zero,0,0,A text about nowhere.", "Bern,7.45,46.95,The capital of Switzerland."]
    (tmp_path / "mine.csv").write_text("\n".join(rows) + "\n")
    assert run("data", "local", "--csv", tmp_path / "mine.csv", "--out", tmp_path / "dropped") == 0
    assert run("data", "local", "--csv", tmp_path / "mine.csv", "--out", tmp_path / "kept", "--keep-suspicious") == 0
    shown = capsys.readouterr().out
    assert "dropped: 1 places" in shown and "kept: 2 places" in shown
    (tmp_path / "mine.csv").write_text("\n".join([*rows, "Lost,,,Nobody knows where."]) + "\n")
    assert run("data", "local", "--csv", tmp_path / "mine.csv", "--out", tmp_path / "no") == 2
    assert "mine.csv" in capsys.readouterr().err and not (tmp_path / "no").exists()
    assert run("data", "local", "--csv", tmp_path / "mine.csv", "--out", tmp_path / "some", "--drop-invalid") == 0


@pytest.mark.parametrize("where, requests", [("--land|50", 50), ("--points|{tmp}/points.csv", 2), ("--store|{world}", 300)])
def test_the_cost_of_chips_is_estimated_before_anything_is_asked(files, tmp_path, capsys, where, requests):
    assert run("data", "sentinel2", "ee", *files(where), *PERIOD, "--out", tmp_path / "s", "--estimate") == 0
    assert f"{requests} requests" in capsys.readouterr().out and not (tmp_path / "s").exists()


def test_earth_engine_without_credentials_names_the_command_that_gets_them(world, tmp_path, capsys, monkeypatch):
    ee = pytest.importorskip("ee")

    def refuse(*arguments, **options):
        raise ee.EEException("Please authorize access to your Earth Engine account")

    monkeypatch.setattr(ee, "Initialize", refuse)
    assert run("data", "sentinel2", "ee", "--store", world.path, *PERIOD, "--out", tmp_path / "s") == 2
    assert "earthengine authenticate" in capsys.readouterr().err and not (tmp_path / "s").exists()


def test_train_resume_evaluate_and_embed(world, tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["train", "fused", "--data", world.path, "--out", out, "--epochs", "1", "--batch-size", "64"]
    assert run(*arguments, "--modalities", "location,sentinel2", "--seed", "3") == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["modalities"] == ["location", "sentinel2"] and manifest["seed"] == 3
    assert run(*arguments) == 2
    assert "exists already" in capsys.readouterr().err
    assert run(*arguments, "--resume") == 0 and "note" not in capsys.readouterr().err
    assert run(*arguments, "--resume", "--seed", "4") == 0
    assert capsys.readouterr().err == f"geonb: note: {out}: a resumed run keeps its own config; ignored: seed\n"

    assert run("evaluate", out, "--data", world.path, "--out", tmp_path / "results.json") == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["training"]["run"]["steps"] == manifest["steps"]
    assert {(r["query"], r["target"]) for r in results["retrieval"]} == {("location", "sentinel2"), ("sentinel2", "location")}
    assert len(results["skipped"]) >= 5  # the world has none of the columns of the tasks
    assert "From location to sentinel2" in (tmp_path / "results.html").read_text()
    points = tmp_path / "points.csv"
    points.write_text("lon,lat\n" + "\n".join(f"{lon!r},{lat!r}" for lon, lat in world.lonlat.tolist()))
    assert run("embed", out, "--points", points, "--out", tmp_path / "theirs.parquet") == 0
    assert f"{len(world)} embeddings" in capsys.readouterr().out
    both = ["evaluate", out, tmp_path / "theirs.parquet", "--data", world.path, "--out", tmp_path / "both.json"]
    assert run(*both) == 0
    cka = json.loads((tmp_path / "both.json").read_text())["information"]
    assert [r["value"] for r in cka if r["measure"] == "CKA with theirs"] == [pytest.approx(1.0)]


def test_embeddings_of_a_file_are_trained_as_a_further_modality(world, tmp_path):
    half = len(world) // 2
    vectors = np.random.default_rng(0).normal(size=(half, 8)).astype(np.float32)
    table = pa.table({"place_id": world.place_id[:half][::-1].tolist(), "embedding": vectors.tolist()})
    pq.write_table(table, tmp_path / "aef.parquet")
    (tmp_path / "c.yaml").write_text("backbones: {text: lsa, sentinel2: random_conv}\ndim: 16\nvalidate_every: 2\n")
    options = ["--config", tmp_path / "c.yaml", "--steps", 2, "--batch-size", 32, "--modalities", "location,text,aef"]
    extra = ["--extra", f"aef={tmp_path}/aef.parquet"]
    assert run("train", "imagebind", "--data", world.path, "--out", tmp_path / "r", *extra, *options) == 0
    assert "aef" in geonb.load(tmp_path / "r").modalities


def test_ask_lists_places_best_first_and_writes_a_map_without_any_extra(trained, world, tmp_path, capsys, monkeypatch):
    for module in ("matplotlib", "folium", "umap", "PIL", "pandas", "rasterio"):
        monkeypatch.setitem(sys.modules, module, None)
    command = "ask", trained, "tropical forest", "--top", "3"
    assert run(*command, "--map", tmp_path / "map.html") == 0
    *lines, page = capsys.readouterr().out.splitlines()
    scores = [float(line.split()[0]) for line in lines[1:-2]]
    assert scores and scores == sorted(scores, reverse=True) and "Scores count standard deviations" in lines[-2]
    assert page == str(tmp_path / "map.html") and "<h1>tropical forest</h1>" in (tmp_path / "map.html").read_text()
    assert run(*command, "--data", world.path) == 0
    assert all(re.search(r" Place \d+$", line) for line in capsys.readouterr().out.splitlines()[1:-2])


@pytest.mark.parametrize("option, bands", [("", 3), ("--like|13.4|52.5", 1), ("--text|northern ice", 1)])
def test_a_space_is_exported_for_qgis(trained, tmp_path, option, bands):
    rasterio = pytest.importorskip("rasterio")
    words = option.split("|") if option else []
    assert run("export", trained, "--out", tmp_path / "e.tif", "--degrees", 10, *words) == 0
    with rasterio.open(tmp_path / "e.tif") as image:
        assert (image.count, image.width, image.height) == (bands, 36, 18) and image.crs.to_epsg() == 4326


@pytest.mark.parametrize(
    "command, message",
    [
        ("train|imagebnd|--data|{world}|--out|{tmp}/x", "unknown architecture 'imagebnd'"),
        ("train|fused|--data|{tmp}/none|--out|{tmp}/x", "none: no such place store"),
        ("train|fused|--data|{run}|--out|{tmp}/x", "this is a trained run, not a place store"),
        ("train|fused|--data|{world}|--out|{tmp}/x|--modalities|location,smell", "no modality 'smell'"),
        ("train|fused|--data|{world}|--out|{tmp}/x|--config|{tmp}/word.yaml", "word.yaml: steps"),
        ("train|fused|--data|{world}|--out|{tmp}/x|--extra|aef", "give a name and a file"),
        ("train|fused|--data|{world}|--out|{world}|--resume", "there is something else than a run; choose another"),
        ("train|fused|--data|{world}|--out|{tmp}/x|--extra|a={tmp}/e.parquet|--extra|a={tmp}/f.parquet", "--extra a is given twice"),
        ("train|fused|--data|{world}|--out|{tmp}/x|--config|{tmp}/twice.yaml", "twice.yaml: not YAML (steps is there twice)"),
        ("ask|{tmp}|rice|--data|{world}", "no config.yaml"),
        ("ask|{run}|xyzzy qwrtp|--data|{world}", "no word of 'xyzzy qwrtp' occurs in the training texts"),
        ("ask|{run}|caf\udce9|--data|{world}", "not UTF-8"),
        ("ask|{run}|ice|--data|{world}|--data|{world}", "--data is given twice"),
        ("ask|{run}|ice|--dat|{world}", "unrecognized arguments: --dat"),
        ("doctor|--json|--json", "--json is given twice"),
        ("data|sentinel2|ee|--land|5|--size|64|--size|32|--estimate", "--size is given twice"),
        ("evaluate|{run}|--data|{world}|--out|{tmp}/page.html", "ends in .json"),
        ("embed|{run}|--points|{tmp}/no.csv|--out|{tmp}/e.parquet", "no such file"),
        ("embed|{run}|--points|{tmp}/points.csv|--out|{tmp}/none/e.parquet", "there is no folder"),
        ("data|check|{tmp}", "manifest.json"),
        ("data|wikipedia|api|--bbox|7.4|46.9|7.5|47|--out|{tmp}/x", "GEONB_CONTACT"),
        ("data|alphaearth|{world}|--year|2001|--out|{tmp}/a.parquet", "2001"),
        ("data|sentinel2|stac|--points|{tmp}/swapped.csv|--period|2024-05-01|2024-09-01|--out|{tmp}/x", "look swapped"),
    ],
)
def test_bad_requests_end_with_one_line_and_status_2(command, message, files, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("GEONB_CONTACT", raising=False)
    before = sorted(tmp_path.iterdir())
    assert run(*files(command)) == 2
    error = capsys.readouterr().err
    assert error.startswith("geonb: ") and message in error and error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_damaged_weights_of_a_text_backbone_end_with_one_line(world, tmp_path, capsys, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"not the weights")
    monkeypatch.setattr(text, "_minilm_folder", lambda: tmp_path)
    (tmp_path / "c.yaml").write_text("backbones: {text: minilm}\n")
    assert run("train", "fused", "--data", world.path, "--out", tmp_path / "r", "--config", tmp_path / "c.yaml") == 2
    assert "delete them and install the model again" in capsys.readouterr().err and not (tmp_path / "r").exists()


def test_a_missing_module_is_named_with_the_extra_that_has_it(trained, world, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    assert run("explore", trained, "--data", world.path, "--out", tmp_path / "page.html") == 2
    assert capsys.readouterr().err.splitlines()[-1] == "geonb: umap is not installed; pip install 'geonb[explore]'"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command, options",
    [
        ("train", "epochs=0 steps=0 batch-size=1 seed=-1 seed=99999999999999999999 devices=0 devices=-1 nodes=0 steps=1_0"),
        ("ask", "top=0 top=-3 top=２"), ("export", "degrees=0 degrees=-1 degrees=nan degrees=1e-9 like=many"),
        ("data sample", "places=0 seed=-1"), ("data wikipedia table", "limit=0 min-chars=-1 bbox=1_0"),
        ("data wikipedia api", "max-requests=0"), ("data sentinel2 stac", "land=0 land=2.5 size=0 workers=0"),
        ("data sentinel2 ee", "max-requests=-1 workers=-1 size=9999"), ("data alphaearth", "year=1e3"),
    ],
)  # fmt: skip
def test_a_number_out_of_range_is_refused_by_the_name_of_its_option(command, options, capsys):
    for option in options.split():
        name, value = option.split("=")
        words = ["--like", "5", value] if name == "like" else ["--bbox", *[value] * 4] if name == "bbox" else [f"--{name}", value]
        assert run(*command.split(), *words) == 2
        assert f"geonb: argument --{name}: {value!r} is not a" in capsys.readouterr().err


def test_negative_numbers_are_values_in_every_notation():
    for numbers in ("-70. -33", "-1e-5 -.5", "-7E1 -0"):
        given = parser().parse_args(["export", "run", "--out", "e.tif", "--like", *numbers.split()])
        assert given.place == [float(number) for number in numbers.split()]


def test_output_goes_to_any_encoding_and_to_a_pipe_that_closes(trained, world, capsys, monkeypatch):
    monkeypatch.setattr("geonb.model.Model.ask", lambda *arguments, **options: "São Tomé \udce9\n" * 9999)
    command = "ask", trained, "ice", "--data", world.path
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", narrow)
        assert run(*command) == 0
    assert rb"S\xe3o Tom\xe9 \udce9" in narrow.buffer.getvalue()

    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", closed)
        assert run(*command) == 141
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "command, moment",
    [
        ("embed|{run}|--points|{tmp}/points.csv|--out|{tmp}/o/e.parquet", "pyarrow.parquet.ParquetWriter.write_table"),
        ("export|{run}|--degrees|10|--out|{tmp}/o/e.tif", "os.fsync"),
        ("evaluate|{run}|--data|{world}|--out|{tmp}/o/e.json", "os.fsync"),
        ("train|fused|--data|{world}|--out|{tmp}/o/run|--steps|2", "os.fsync"),
        ("data|sample|--out|{tmp}/o/store|--places|20", "pyarrow.parquet.write_table"),
    ],
)
def test_a_command_that_a_scheduler_ends_leaves_no_partial_file(command, moment, files, world, tmp_path, monkeypatch):
    def ended(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)

    (tmp_path / "o").mkdir()
    monkeypatch.setattr(moment, ended)
    with pytest.raises(SystemExit) as end:
        run(*files(command))
    assert end.value.code == 143 and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert not [path for path in (tmp_path / "o").rglob("*") if path.is_file() or "partial" in path.name]
    assert not list(world.path.rglob("*.partial"))


def test_ctrl_c_ends_with_one_line_and_status_130(world, capsys, monkeypatch):
    def pressed(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("geonb.data.store.check_store", pressed)
    assert run("data", "check", world.path) == 130
    assert capsys.readouterr().err == "geonb: stopped\n"
