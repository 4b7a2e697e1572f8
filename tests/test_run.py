import json
import pickle

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import geonb
from geonb import run


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
    for name, content in (("manifest.json", '{"schema": 3'), ("config.yaml", "architecture: !!python/object/apply:os.system [echo]\n"),
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
    (copy / "manifest.json").write_text(json.dumps(manifest | {"schema": 2}))
    with pytest.raises(ValueError, match="run schema 2, not 3, .*delete the folder and train again"):
        geonb.load(copy)
    config = yaml.safe_load((copy / "config.yaml").read_text())
    (copy / "config.yaml").write_text(yaml.safe_dump(config | {"compile": False, "loggers": []}))
    with pytest.raises(ValueError, match="unknown field compile, .*train again"):
        geonb.load(copy)
