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
from geonb.data.sources.local import read_places_csv
from geonb.encoders import text
from geonb.evaluation import suite
from geonb.training import config_from_file


@pytest.fixture
def points(tmp_path):
    lon, lat = np.array([13.4, -70.7, 180.0]), np.array([52.5, -33.4, 0.0])
    table = pa.table({"name": ["Berlin, Mitte", "<b>Santiago</b>", "Dateline"], "lon": lon, "lat": lat})
    pa.csv.write_csv(table, tmp_path / "points.csv")
    return tmp_path / "points.csv"


def run(*args):
    return main([str(a) for a in args])


def test_embed_writes_geoparquet_with_the_input_columns(trained, points, tmp_path, capsys):
    assert run("embed", trained, "--points", points, "--out", tmp_path / "e.parquet") == 0
    assert "3 embeddings" in capsys.readouterr().out
    table = pq.read_table(tmp_path / "e.parquet")
    assert table.column_names == ["name", "lon", "lat", "geometry", "embedding"]
    assert table["embedding"].type == pa.list_(pa.float32(), 32)
    vectors = np.array(table["embedding"].to_pylist(), np.float32)
    expected = geonb.load(trained).embed_locations([[13.4, 52.5], [-70.7, -33.4], [180.0, 0.0]])
    np.testing.assert_allclose(vectors, expected, atol=1e-6)

    geopandas = pytest.importorskip("geopandas")
    frame = geopandas.read_parquet(tmp_path / "e.parquet")
    assert frame.crs.equals("EPSG:4326") or frame.crs.to_authority() == ("OGC", "CRS84")
    assert frame.geometry.x.tolist() == [13.4, -70.7, 180.0]
    assert frame.total_bounds.tolist() == [-70.7, -33.4, 180.0, 52.5]


def test_embed_reads_back_its_own_output_in_several_batches(trained, points, tmp_path, monkeypatch):
    run("embed", trained, "--points", points, "--out", tmp_path / "a.parquet")
    pq.write_table(pq.read_table(tmp_path / "a.parquet").drop_columns(["lon", "lat"]), tmp_path / "b.parquet")
    monkeypatch.setattr(inference, "BATCH", 2)
    assert run("embed", trained, "--points", tmp_path / "b.parquet", "--out", tmp_path / "c.parquet") == 0
    a, c = pq.read_table(tmp_path / "a.parquet"), pq.read_table(tmp_path / "c.parquet")
    assert a["geometry"] == c["geometry"]
    np.testing.assert_allclose(np.array(a["embedding"].to_pylist()), np.array(c["embedding"].to_pylist()), atol=1e-6)


@pytest.mark.parametrize(
    "content, message",
    [
        (
            "name,lon,lat\na,10,20\nb,48.1,151.2\n",
            "row 1: position (48.1, 151.2) is out of range; the columns look swapped",
        ),
        ("name,lon,lat\na,10,\n", "row 0: position (10.0, nan) is not finite"),
        ("name,lon,lat\na,ten,20\n", "not all numbers"),
        ("name,place\na,b\n", "no position columns; name them lon and lat"),
        ("lon,lat,lon\n1,2,3\n", "2 columns are named lon; keep one"),
        ("Lon,lat,lon\n1,2,3\n", "2 columns are named lon; keep one"),
        ("lon,lat\n2020-01-01,2020-01-02\n", "not all numbers"),
        ("geometry\nPOINT (1 2)\n", "geometry is not all WKB points"),
        ("lon,lat\n1,2\n3\n", "cannot be read"),
        ("", "cannot be read"),
        ("lon,lat\n", "no rows"),
    ],
)
def test_embed_refuses_bad_tables_and_leaves_nothing(content, message, trained, tmp_path, capsys):
    (tmp_path / "bad.csv").write_text(content)
    assert run("embed", trained, "--points", tmp_path / "bad.csv", "--out", tmp_path / "out.parquet") == 2
    error = capsys.readouterr().err
    assert message in error and "bad.csv" in error and error.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["bad.csv"]


@pytest.mark.parametrize("content", ["name,lon,lat,text\nPlzeň,13,49,x\n", "název,lon,lat,text\nPlzen,13,49,x\n"])
def test_a_csv_in_another_encoding_is_refused_alike_by_embed_and_data_local(content, tmp_path):
    (tmp_path / "old.csv").write_bytes(content.encode("cp1250"))
    for read in (inference.read_positions, read_places_csv):
        with pytest.raises(ValueError, match="old.csv: not UTF-8 .*iconv -f CP1252 -t UTF-8 OLD.csv > NEW.csv$"):
            read(tmp_path / "old.csv")


def test_the_columns_of_a_csv_come_out_as_they_went_in(trained, tmp_path):
    filler = "x" * 200_000  # 30 rows of it are more than is read at a time
    rows = [f"0{n:04d},{n},{n}.5,{10**20 + n},{filler},10,20," for n in range(29)]
    (tmp_path / "p.csv").write_text("\n".join(["fips,count,half,id,text,lon,lat,note", *rows, f"56045,,NA,7,{filler},10,20,seen"]))
    assert run("embed", trained, "--points", tmp_path / "p.csv", "--out", tmp_path / "e.parquet") == 0
    table = pq.read_table(tmp_path / "e.parquet")
    assert table["fips"].to_pylist() == [*(f"0{n:04d}" for n in range(29)), "56045"]
    assert table["note"].to_pylist() == [""] * 29 + ["seen"]
    assert table["count"].to_pylist() == [*range(29), None]
    assert table["half"].to_pylist() == [*(n + 0.5 for n in range(29)), None]
    assert table["id"].to_pylist() == [*(str(10**20 + n) for n in range(29)), "7"]


def test_numbers_in_a_config_may_be_written_with_an_exponent_at_any_depth(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "lr: 1e-4\noptions: {exclude_km: 1e1, queue: 1e3}\nsplit: {kind: blocked, size_km: 1.5e3}\nbetas: [0.9, 1e-1]\n"
    )
    config = config_from_file(tmp_path / "c.yaml")
    assert (config.lr, config.betas, config.split["size_km"]) == (1e-4, (0.9, 0.1), 1500)
    assert config.options == {"exclude_km": 10, "queue": 1000} and isinstance(config.options["queue"], int)


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
            "word.yaml: steps must be a number, not 'five'",
        ),
        (
            ["train", "fused", "--data", "{world}", "--out", "{tmp}/x", "--config", "{tmp}/half.yaml"],
            "half.yaml: steps must be a whole number, not 2.5",
        ),
        (
            ["train", "fused", "--data", "{world}", "--out", "{tmp}/x", "--config", "{tmp}/split.yaml"],
            "a blocked split has no size; choose from buffer_km, fractions, seed, size_km",
        ),
        (["train", "fused", "--data", "{trained}", "--out", "{tmp}/x"], "this is a trained run, not a place store"),
        (
            ["train", "fused", "--data", "{world}", "--out", "{tmp}/x", "--epochs", "1", "--config", "{tmp}/text.yaml"],
            "text.yaml: split must be a mapping such as {kind: blocked, size_km: 500}, not 'blocked'",
        ),
        (["train", "fused", "--data", "{world}", "--out", "{tmp}/x", "--config", "{tmp}/tab.yaml"], "tab.yaml: not YAML"),
        (
            ["train", "fused", "--data", "{world}", "--out", "{tmp}/x", "--config", "{tmp}/nan.yaml"],
            "nan.yaml: lr must be a finite number",
        ),
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
    (tmp_path / "half.yaml").write_text("steps: 2.5\n")
    (tmp_path / "split.yaml").write_text("split: {kind: blocked, size: 30}\n")
    (tmp_path / "text.yaml").write_text("split: blocked\n")
    (tmp_path / "tab.yaml").write_text("options:\n\texclude_km: 3\n")
    (tmp_path / "nan.yaml").write_text("lr: nan\n")
    filled = [a.format(world=world.path, tmp=tmp_path, trained=trained) for a in arguments]
    assert run(*filled) == 2
    error = capsys.readouterr().err
    assert error.startswith("geonb: ") and message in error


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


@pytest.mark.parametrize(
    "column, message",
    [
        ([1.0, 2.0], "the column embedding must hold lists of numbers, not double"),
        ([["a"], ["b"]], "lists of numbers, not list<.*string>"),
        ([[1.0], None], "embeddings are missing"),
        ([[1.0], [1.0, 2.0]], "not all of one length"),
        (None, "no column embedding"),
    ],
)
def test_a_column_embedding_that_is_none_is_told(tmp_path, column, message):
    columns = {"place_id": ["p0", "p1"]} | ({} if column is None else {"embedding": column})
    pq.write_table(pa.table(columns), tmp_path / "e.parquet")
    with pytest.raises(ValueError, match=f"e.parquet: .*{message}"):
        inference.read_embedding_table(tmp_path / "e.parquet")


def test_embeddings_of_any_kind_of_list_are_read(tmp_path):
    for kind in (pa.list_(pa.float64()), pa.large_list(pa.int32()), pa.list_(pa.float32(), 2), pa.list_(pa.float16())):
        column = pa.array(np.array([[1, 2], [3, 4], [5, 6]], np.float16).tolist(), pa.list_(pa.float64())).cast(kind)
        pq.write_table(pa.table({"embedding": column}), tmp_path / "e.parquet", row_group_size=2)
        vectors = inference.read_embedding_table(tmp_path / "e.parquet")[1]
        assert vectors.dtype == np.float32 and vectors.tolist() == [[1, 2], [3, 4], [5, 6]]


def test_of_a_file_only_the_columns_that_are_wanted_are_read(tmp_path):
    pq.write_table(pa.table({"place_id": ["a"], "embedding": [[1.0]], "text": ["much"]}), tmp_path / "e.parquet")
    for wanted, found in ((None, ["place_id", "embedding", "text"]), (["place_id", "none"], ["place_id", "embedding"])):
        assert inference.read_embedding_table(tmp_path / "e.parquet", wanted)[0].column_names == found


def test_two_embeddings_of_one_place_are_refused_and_two_of_no_place_of_the_store_are_not(world, tmp_path):
    vectors = [[1.0], [2.0], [3.0], [4.0], [5.0]]
    pq.write_table(pa.table({"place_id": ["p1", "x", "x", "p0", None], "embedding": vectors}), tmp_path / "e.parquet")
    assert inference.read_embeddings(tmp_path / "e.parquet", world)[:2].tolist() == [[4], [1]]
    pq.write_table(pa.table({"place_id": ["p1", "x", "p0", "p2", "p1"], "embedding": vectors}), tmp_path / "e.parquet")
    for read in (inference.read_embeddings, suite._read_embeddings):
        with pytest.raises(ValueError, match="e.parquet: row 4: place_id 'p1' again, first in row 0; keep one"):
            read(tmp_path / "e.parquet", world)


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
