import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from world import SMALL

import geonb
from geonb import run
from geonb.cli import main
from geonb.training import train

LONLAT = [[13.4, 52.5], [-70.7, -33.4], [180.0, 0.0]]


@pytest.fixture
def copy(trained, tmp_path):
    """A finished run that a test may damage."""
    out = tmp_path / "run"
    (out / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "manifest.json", "model.safetensors", "metrics.jsonl", run.CHECKPOINT):
        (out / name).write_bytes((trained / name).read_bytes())
    return out


class Bomb:
    def __reduce__(self):
        return (pytest.exit, ("unpickled",))


def test_damaged_and_hostile_files_are_refused(copy):
    weights = copy / "model.safetensors"
    whole = weights.read_bytes()
    huge_header = (2**62).to_bytes(8, "little") + whole[8:]
    outside = json.dumps({"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 10**9]}}).encode()
    for content in (whole[:1000], pickle.dumps(Bomb()), huge_header, len(outside).to_bytes(8, "little") + outside):
        weights.write_bytes(content)
        with pytest.raises(ValueError, match="model.safetensors: damaged weights .*train again"):
            geonb.load(copy)
    weights.write_bytes(whole)
    known = load_file(weights)
    save_file(known | {min(known): torch.full_like(known[min(known)], torch.nan)}, weights)
    with pytest.raises(ValueError, match="model.safetensors: .* is not finite; train again"):
        geonb.load(copy)
    save_file({"x": torch.zeros(1)}, weights)
    with pytest.raises(ValueError, match="do not fit config.yaml"):
        geonb.load(copy)
    for name, content in (("manifest.json", '{"schema": 4'), ("config.yaml", "architecture: !!python/object/apply:os.system [echo]\n"),
                          ("config.yaml", ""), ("config.yaml", "dim: 8\n".encode("utf-16"))):  # fmt: skip
        (copy / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ValueError, match=f"{name}: damaged .*train again"):
            geonb.load(copy)


def test_a_folder_that_is_no_run_and_a_run_that_is_not_finished_are_refused(copy, tmp_path):
    with pytest.raises(ValueError, match="no config.yaml, so this is not a run"):
        geonb.load(tmp_path)
    whole = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(whole | {"backbones": None}))
    with pytest.raises(ValueError, match="manifest.json: damaged .no backbones.; train again"):
        geonb.load(copy)
    (tmp_path / "config.yaml").write_text("model: {name: another}\n")
    with pytest.raises(ValueError, match="config.yaml: no architecture, so this is not a run of geonb"):
        geonb.load(tmp_path)
    (copy / "manifest.json").unlink()
    with pytest.raises(ValueError, match="did not finish; use --resume"):
        geonb.load(copy)


def test_a_run_of_another_version_is_refused_with_the_way_to_make_it_again(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"schema": 3}))
    with pytest.raises(ValueError, match="run schema 3, not 4, .*delete the folder and train again"):
        geonb.load(copy)
    config = yaml.safe_load((copy / "config.yaml").read_text())
    (copy / "config.yaml").write_text(yaml.safe_dump(config | {"compile": False, "loggers": []}))
    with pytest.raises(ValueError, match="unknown field compile, .*train again"):
        geonb.load(copy)


@pytest.fixture
def shipped(trained, tmp_path, monkeypatch):
    """A model as one is shipped: `earth`, in half precision, without metrics and checkpoints."""
    folder = tmp_path / "pretrained" / "earth"
    folder.mkdir(parents=True)
    for name in ("config.yaml", "manifest.json"):
        (folder / name).write_bytes((trained / name).read_bytes())
    weights = load_file(trained / "model.safetensors")
    small = {k: v if k.startswith("backbone.") else v.half() for k, v in weights.items()}
    save_file(small, folder / "model.safetensors")
    monkeypatch.setattr(run, "PRETRAINED", folder.parent)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return folder


def test_a_shipped_model_is_a_run_by_its_name_in_every_command(shipped, trained, world):
    Path("earth").mkdir()  # another folder of that name, such as one with pictures
    model, exact = geonb.load("earth"), geonb.load(trained)
    assert {values.dtype for values in model.architecture.parameters()} == {torch.float32}
    np.testing.assert_allclose(model.embed_locations(LONLAT), exact.embed_locations(LONLAT), atol=0.02)
    np.testing.assert_allclose(model.embed_texts(["tropical forest"]), exact.embed_texts(["tropical forest"]), atol=0.02)

    pa.csv.write_csv(pa.table({"lon": [13.4], "lat": [52.5]}), "points.csv")
    for command in (
        "embed earth --points points.csv --out e.parquet", f"ask earth ice --data {world.path}",
        f"evaluate earth --data {world.path} --out e.json", f"explore earth --data {world.path} --out e.html",
        "export earth --degrees 10 --out e.tif",
    ):  # fmt: skip
        assert main(command.split()) == 0, command
    assert "earth" in json.loads(Path("e.json").read_text())["training"]
    config = replace(SMALL, steps=1, lr=1e-9, validate_every=1)
    start = geonb.load(train("imagebind", world, "run", config, init="earth", progress=False))
    assert start.config["init"] == "earth"
    np.testing.assert_allclose(start.embed_locations(LONLAT), model.embed_locations(LONLAT), atol=1e-3)


def test_a_path_wins_over_a_name_and_a_name_that_is_unknown_is_told_those_that_are(shipped, trained, tmp_path):
    with pytest.raises(ValueError, match=r"^erth: neither the folder of a run nor a shipped model \(earth\); did you mean earth\?$"):
        geonb.load("erth")
    with pytest.raises(ValueError, match=r"runs/none: neither .* nor a shipped model \(earth\)$"):
        geonb.load("runs/none")
    Path("earth").symlink_to(trained)
    assert run.find_run("earth") == Path("earth") and run.find_run(trained) == trained
    shutil.rmtree(shipped)
    Path("earth").unlink()
    with pytest.raises(ValueError, match=r"shipped model \(none\)$"):
        geonb.load("earth")
