import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from world import make_world

import geonb
from geonb import inference
from geonb.cli import main
from geonb.encoders import text


def run(*args):
    return main([str(a) for a in args])


def test_ask_lists_places_best_first(trained, world, capsys):
    assert run("ask", trained, "tropical forest", "--data", world.path, "--top", "5") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    scores = [float(line.split()[0]) for line in lines[1:]]
    assert scores == sorted(scores, reverse=True)


def test_train_evaluate_and_check_from_the_command_line(world, tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["train", "fused", "--data", world.path, "--out", out, "--epochs", "1", "--batch-size", "64"]
    assert run(*arguments, "--modalities", "location,image", "--seed", "3") == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["modalities"] == ["location", "image"] and manifest["seed"] == 3
    assert run(*arguments) == 2
    assert "exists already" in capsys.readouterr().err
    assert run(*arguments, "--resume") == 0

    assert run("evaluate", out, "--data", world.path, "--out", tmp_path / "results.json") == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["training"]["run"]["steps"] == manifest["steps"]
    assert {(r["query"], r["target"]) for r in results["retrieval"]} == {("location", "image"), ("image", "location")}
    assert len(results["skipped"]) >= 5  # the world has none of the tasks' columns, and says so
    assert "From location to image" in (tmp_path / "results.html").read_text()
    points = tmp_path / "points.csv"
    points.write_text("lon,lat\n" + "\n".join(f"{lon!r},{lat!r}" for lon, lat in world.lonlat.tolist()))
    assert run("embed", out, "--points", points, "--out", tmp_path / "theirs.parquet") == 0
    both = ["evaluate", out, tmp_path / "theirs.parquet", "--data", world.path, "--out", tmp_path / "both.json"]
    assert run(*both) == 0
    cka = json.loads((tmp_path / "both.json").read_text())["information"]
    assert [r["value"] for r in cka if r["measure"] == "CKA with theirs"] == [pytest.approx(1.0)]
    assert run("data", "check", world.path) == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train", "imagebnd", "--data", "{world}", "--out", "{tmp}/x"], "unknown architecture 'imagebnd'"),
        (["train", "fused", "--data", "{tmp}/none", "--out", "{tmp}/x"], "none"),
        (
            ["train", "fused", "--data", "{world}", "--out", "{tmp}/x", "--modalities", "location,smell"],
            "unknown modality",
        ),
        (
            ["train", "fused", "--data", "{world}", "--out", "{tmp}/x", "--config", "{tmp}/bad.yaml"],
            "learning_rate is not a field",
        ),
        (["ask", "{tmp}", "rice", "--data", "{world}"], "no config.yaml"),
        (
            ["train", "fused", "--data", "{world}", "--out", "{tmp}/x", "--config", "{tmp}/word.yaml"],
            "word.yaml: steps: Input should be a valid integer",
        ),
        (["train", "fused", "--data", "{trained}", "--out", "{tmp}/x"], "this is a trained run, not a place store"),
        (["ask", "{trained}", "xyzzy qwrtp", "--data", "{world}"], "no word of 'xyzzy qwrtp' occurs in the training texts"),
        (
            ["data", "sentinel2", "stac", "--land", "0", "--period", "2024-05-01", "2024-09-01", "--out", "{tmp}/x"],
            "--land 0: give a number of points",
        ),
        (["ask", "{trained}", "  ", "--data", "{world}"], "the text is empty; write what to look for"),
        (["ask", "{trained}", "ice", "--data", "{world}", "--top", "-3"], "top must be at least 1, not -3"),
        (["evaluate", "{trained}", "--data", "{world}", "--out", "{tmp}/page.html"], "ends in .json"),
        (["embed", "{trained}", "--points", "{tmp}/no.csv", "--out", "{tmp}/e.parquet"], "no such file"),
        (["data", "check", "{tmp}"], "manifest.json"),
    ],
)
def test_bad_requests_end_with_one_line_and_status_2(arguments, message, world, trained, tmp_path, capsys):
    (tmp_path / "bad.yaml").write_text("learning_rate: 0.1\n")
    (tmp_path / "word.yaml").write_text("steps: five\n")
    filled = [a.format(world=world.path, tmp=tmp_path, trained=trained) for a in arguments]
    assert run(*filled) == 2
    error = capsys.readouterr().err
    assert error.startswith("geonb: ") and message in error and error.count("\n") == 1


def test_a_damaged_store_is_noticed(tmp_path, capsys):
    store = make_world(tmp_path / "store", n=60)
    target = store.path / "texts.parquet"
    target.write_bytes(target.read_bytes()[:-50])
    assert run("train", "fused", "--data", store.path, "--out", tmp_path / "run") == 2
    assert "texts.parquet" in capsys.readouterr().err
    target.unlink()
    assert run("data", "check", store.path) == 2
    assert "texts.parquet" in capsys.readouterr().err


def test_local_files_become_a_store_and_doubtful_rows_are_dropped_or_kept(tmp_path, capsys):
    rows = ["title,longitude,latitude,text", "Zero,0,0,A text about nowhere.", "Bern,7.45,46.95,The capital of Switzerland."]
    (tmp_path / "mine.csv").write_text("\n".join(rows) + "\n")
    assert run("data", "local", "--csv", tmp_path / "mine.csv", "--out", tmp_path / "dropped") == 0
    assert run("data", "local", "--csv", tmp_path / "mine.csv", "--out", tmp_path / "kept", "--keep-suspicious") == 0
    out, told = capsys.readouterr()
    assert "dropped: 1 places" in out and "kept: 2 places" in out
    assert "mine.csv: 1 of 2 rows kept\n  1 dropped: " in told and "1 kept, but flagged: " in told
    (tmp_path / "mine.csv").write_text("\n".join([*rows, "Lost,,,Nobody knows where."]) + "\n")
    assert run("data", "local", "--csv", tmp_path / "mine.csv", "--out", tmp_path / "no") == 2
    assert "mine.csv" in capsys.readouterr().err and not (tmp_path / "no").exists()
    assert run("data", "local", "--csv", tmp_path / "mine.csv", "--out", tmp_path / "some", "--drop-invalid") == 0
    assert "1 dropped: no valid position (2)" in capsys.readouterr().err


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(verb in text for verb in ("data", "train", "evaluate", "embed", "ask", "explore"))


def test_a_missing_module_is_named_with_the_extra_that_has_it(trained, world, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    assert run("explore", trained, "--data", world.path, "--out", tmp_path / "page.html") == 2
    assert capsys.readouterr().err.splitlines()[-1] == "geonb: umap is not installed; pip install 'geonb[explore]'"
    assert not list(tmp_path.iterdir())


def test_ctrl_c_ends_with_one_line_and_status_130(world, capsys, monkeypatch):
    def pressed(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("geonb.data.store.check_store", pressed)
    assert run("data", "check", world.path) == 130
    assert capsys.readouterr().err == "geonb: stopped\n"


def test_explore_writes_one_page_with_the_places_in_it(trained, world, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert run("explore", trained, "--data", world.path, "--out", page) == 0
    assert capsys.readouterr().out.strip() == str(page)
    text = page.read_text()
    assert text.startswith("<!doctype html>") and world.column("title")[0] in text and list(tmp_path.iterdir()) == [page]


def test_a_run_is_trained_with_embeddings_from_a_file_as_one_more_modality(world, tmp_path, capsys):
    rng = np.random.default_rng(0)
    half = len(world) // 2
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=half * 8).astype(np.float32)), 8)
    file = tmp_path / "aef.parquet"
    pq.write_table(pa.table({"place_id": world.place_id[:half][::-1].tolist(), "embedding": vectors}), file)
    (tmp_path / "c.yaml").write_text("backbones: {text: lsa, image: random_conv}\ndim: 16\nvalidate_every: 2\n")
    options = ["--config", tmp_path / "c.yaml", "--steps", 2, "--batch-size", 32, "--modalities", "location,text,aef"]
    made = run("train", "imagebind", "--data", world.path, "--out", tmp_path / "r", "--extra", f"aef={file}", *options)
    assert made == 0, capsys.readouterr().err
    assert "aef" in geonb.load(tmp_path / "r").modalities
    found = inference.read_embeddings(file, world)
    assert np.isnan(found[half:]).all() and np.allclose(found[half - 1], vectors[0].as_py())


def test_damaged_weights_of_a_text_backbone_end_with_one_line(world, tmp_path, capsys, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"not the weights")
    monkeypatch.setattr(text, "_minilm_folder", lambda download=False: tmp_path)
    (tmp_path / "c.yaml").write_text("backbones: {text: minilm}\n")
    arguments = ["train", "fused", "--data", world.path, "--out", tmp_path / "r", "--config", tmp_path / "c.yaml"]
    assert run(*arguments) == 2
    assert "delete them and install the model again" in capsys.readouterr().err and not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    "option, message", [("aef", "give a name and a file"), ("aef=nowhere.parquet", "nowhere.parquet: no such file")]
)
def test_a_file_of_embeddings_that_is_none_is_told(world, tmp_path, capsys, option, message):
    assert run("train", "imagebind", "--data", world.path, "--out", tmp_path / "r", "--extra", option) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("option, bands", [([], 3), (["--like", "13.4", "52.5"], 1), (["--text", "northern ice"], 1)])
def test_a_space_is_exported_for_qgis(trained, tmp_path, capsys, option, bands):
    rasterio = pytest.importorskip("rasterio")
    assert run("export", trained, "--out", tmp_path / "e.tif", "--degrees", 10, *option) == 0, capsys.readouterr().err
    with rasterio.open(tmp_path / "e.tif") as image:
        assert (image.count, image.width, image.height) == (bands, 36, 18) and image.crs.to_epsg() == 4326
