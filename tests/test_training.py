import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from world import SMALL, make_world

import geonb
from geonb import training
from geonb.architectures import ARCHITECTURES
from geonb.training import TrainConfig, batch_rows, learning_rate, split_of, train


def weights(run):
    return load_file(run / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_trains_and_loads(name, world, tmp_path):
    run = train(name, world, tmp_path / name, SMALL, progress=False)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10, 15, 20]
    assert all(np.isfinite(line["held_out"]) for line in lines)
    manifest = json.loads((run / "manifest.json").read_text())
    assert (
        manifest["steps"] == 20 and manifest["samples_seen"] == 20 * 64 and manifest["selected_step"] in (5, 10, 15, 20)
    )
    assert manifest["data"]["simulated"]["image"] is True

    model = geonb.load(run)
    vectors = model.embed_locations(world.lonlat)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert model.modalities == (("location", "image") if ARCHITECTURES[name].binary else ("location", "text", "image"))
    image = model.embed_images(world.images(np.flatnonzero(world.has("image"))[:3]), harmonised=True)
    assert image.shape == (3, model.dim)


def test_training_learns_to_find_places_by_their_texts(world, tmp_path):
    run = train("imagebind", world, tmp_path / "run", replace(SMALL, steps=150), progress=False)
    model, test = geonb.load(run), np.flatnonzero((split_of(world, SMALL) == "test") & world.has("text"))
    similarity = model.embed_texts(world.texts(test)) @ model.embed_locations(world.lonlat).T
    nearest = np.abs(world.lonlat[similarity.argmax(1), 1] - world.lonlat[test, 1])
    chance = np.abs(world.lonlat[:, 1][None] - world.lonlat[test, 1][:, None])
    assert np.median(nearest) < 0.5 * np.median(chance)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(world, trained, tmp_path):
    again = train("imagebind", world, tmp_path / "again", SMALL, progress=False)
    other = train("imagebind", world, tmp_path / "other", replace(SMALL, seed=1), progress=False)
    assert same(weights(trained), weights(again))
    assert not same(weights(trained), weights(other))


@pytest.mark.parametrize("name", ["fused", "cyclic", "geoclip"])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(name, world, tmp_path, monkeypatch):
    whole = train(name, world, tmp_path / "whole", SMALL, progress=False)

    real, calls = training.learning_rate, iter(range(100))

    def interrupt(step, config):
        if next(calls) == 12:
            raise KeyboardInterrupt
        return real(step, config)

    monkeypatch.setattr(training, "learning_rate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(name, world, tmp_path / "broken", SMALL, progress=False)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="did not finish.*--resume"):
        geonb.load(tmp_path / "broken")
    with pytest.raises(ValueError, match="exists already"):
        train(name, world, tmp_path / "broken", SMALL, progress=False)

    resumed = train(name, world, tmp_path / "broken", resume=True, progress=False)
    assert same(weights(whole), weights(resumed))
    steps = [json.loads(line)["step"] for line in (resumed / "metrics.jsonl").read_text().splitlines()]
    assert steps == [5, 10, 15, 20]


def test_control_c_in_the_command_line_leaves_a_run_that_resumes(world, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "geonb.cli", "train", "imagebind", "--data", str(world.path), "--out", str(out)]
    # a shell's background job ignores Ctrl-C and so would this child: put the default back
    child = subprocess.Popen([*command, "--steps", "100000", "--batch-size", "64"], stderr=subprocess.PIPE, text=True,
                             preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # fmt: skip
    deadline = time.monotonic() + 90
    while not (out / "checkpoints/last.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 130, errors
    assert "--resume" in errors
    assert not list(out.rglob("*.partial")) and not (out / "model.safetensors").exists()


def test_cyclic_keeps_its_position_encoder_through_training(world, tmp_path):
    run = train("cyclic", world, tmp_path / "cyclic", SMALL, progress=False)
    fresh = training.build("cyclic", replace(SMALL, **_resolved(world)), {"text": 256, "image": _image_dim(world)})
    for k, v in fresh.encoders["location"].state_dict().items():
        assert torch.equal(v, weights(run)[f"encoders.location.{k}"]), k


def _resolved(world):
    config = training.resolve("cyclic", world, SMALL)
    return {"modalities": config.modalities, "network": config.network, "encoding": config.encoding}


def _image_dim(world):
    from geonb.encoders.image import image_backbone

    return image_backbone().dim


def test_a_run_can_start_from_another_and_from_its_text_backbone(world, trained, tmp_path):
    other = make_world(tmp_path / "other", n=200, seed=5)
    config = replace(SMALL, modalities=("location", "text"), steps=5)
    run = train("imagebind", other, tmp_path / "run", config, init=trained, progress=False)
    start, tuned = weights(trained), weights(run)
    assert torch.equal(start["backbone.text.idf"], tuned["backbone.text.idf"]) if "backbone.text.idf" in start else True
    moved = (start["encoders.text.network.linear.weight"] - tuned["encoders.text.network.linear.weight"]).abs().mean()
    assert 0 < moved < 0.2 * start["encoders.text.network.linear.weight"].abs().mean()
    with pytest.raises(ValueError, match="cannot start from this run"):
        train("imagebind", other, tmp_path / "no", replace(config, dim=16), init=trained, progress=False)


def test_each_epoch_sees_every_place_once():
    rows = torch.arange(100, 164)
    epoch = torch.cat([batch_rows(rows, step, 16, seed=3) for step in range(4)])
    assert sorted(epoch.tolist()) == rows.tolist()
    following = torch.cat([batch_rows(rows, step, 16, seed=3) for step in range(4, 8)])
    assert sorted(following.tolist()) == rows.tolist() and following.tolist() != epoch.tolist()


def test_learning_rate_warms_up_and_ends_near_zero():
    config = TrainConfig(steps=100, lr=1.0)
    rates = [learning_rate(s, config) for s in range(100)]
    assert rates[0] == 0.2 and max(rates) == 1.0 and rates.index(1.0) == 4 and rates[-1] < 0.001


@pytest.mark.parametrize(
    "architecture, changes, message",
    [
        ("imagebnd", {}, "unknown architecture 'imagebnd'; choose one of imagebind"),
        ("fused", {"modalities": ("location", "sound")}, "unknown modality 'sound'; choose from location, text, image"),
        ("fused", {"modalities": ("text", "image")}, "must contain location"),
        ("satclip", {"modalities": ("location", "text", "image")}, "binds location with one modality"),
        ("fused", {"steps": 0}, "steps must be at least 1"),
        ("fused", {"split": {"kind": "blocks"}}, "unknown split 'blocks'"),
        ("fused", {"encoding": {"name": "sh"}}, "unknown positional encoding"),
    ],
)
def test_senseless_requests_are_refused_before_anything_is_written(architecture, changes, message, world, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(architecture, world, tmp_path / "run", replace(SMALL, **changes), progress=False)
    assert not (tmp_path / "run").exists()


def test_a_store_without_the_modality_says_what_it_has(tmp_path):
    from geonb.data.store import write_store

    bare = write_store(tmp_path / "bare", places={"place_id": ["a", "b"], "lon": [0.0, 1.0], "lat": [0.0, 1.0]})
    with pytest.raises(ValueError, match="neither text nor image"):
        train("fused", bare, tmp_path / "run", SMALL, progress=False)
    with pytest.raises(ValueError, match="the store has no text"):
        train("fused", bare, tmp_path / "run", replace(SMALL, modalities=("location", "text")), progress=False)


def test_a_full_disk_is_noticed_before_training(world, tmp_path, monkeypatch):
    monkeypatch.setattr(training.shutil, "disk_usage", lambda _: type("usage", (), {"free": 2**20})())
    with pytest.raises(OSError, match="1 MB free"):
        train("fused", world, tmp_path / "run", SMALL, progress=False)
    assert not (tmp_path / "run").exists()


def copy_run(run, out):
    out.mkdir()
    for name in ("config.yaml", "manifest.json", "model.safetensors"):
        (out / name).write_bytes((run / name).read_bytes())
    return out


def test_broken_runs_say_what_is_wrong(trained, tmp_path):
    with pytest.raises(ValueError, match="no config.yaml"):
        geonb.load(tmp_path)
    run = copy_run(trained, tmp_path / "truncated")
    (run / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged weights"):
        geonb.load(run)
    run = copy_run(trained, tmp_path / "foreign")
    save_file({"x": torch.zeros(1)}, run / "model.safetensors")
    with pytest.raises(ValueError, match="do not fit config.yaml"):
        geonb.load(run)
    run = copy_run(trained, tmp_path / "newer")
    manifest = json.loads((run / "manifest.json").read_text()) | {"schema": 99}
    (run / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="run schema 99"):
        geonb.load(run)


def test_a_model_refuses_what_it_cannot_embed(trained, world):
    model = geonb.load(trained)
    with pytest.raises(ValueError, match="row 0"):
        model.embed_locations([[500.0, 0.0]])
    with pytest.raises(ValueError, match="swapped"):
        model.embed_locations([[48.0, 151.0]])
    with pytest.raises(ValueError, match="text 1"):
        model.embed_texts(["fine", "  "])
    good = world.images(np.flatnonzero(world.has("image"))[:2])
    for images, message in (
        (good[:, :3], "12"),
        (good / 10000.0, "10,?000"),
        ((good // 40).astype(np.uint16), "8-bit"),
        (np.random.default_rng(0).integers(150, 900, (3, 12, 32, 32)) + 1000, "offset of .1000"),
    ):
        with pytest.raises(ValueError, match=message):
            model.embed_images(images)


def test_two_devices_give_the_weights_of_one(world, tmp_path):
    """Gathered negatives: the loss of two processes is that of one, gradients included."""
    script = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from dataclasses import replace
from world import SMALL
from functools import partial
from geonb import training
from geonb.training import train
training.Head = partial(training.Head, dropout=0.0)  # dropout draws differ between one and two processes
if __name__ == "__main__":
    network = {{"name": "residual", "dropout": 0.0}}
    train(sys.argv[1], {store!r}, sys.argv[2], replace(SMALL, devices=int(sys.argv[3]), network=network, steps=10), progress=False)
"""
    path = tmp_path / "script.py"
    path.write_text(script.format(tests=str(Path(__file__).parent), store=str(world.path)))
    # one thread for both: processes side by side get one, and the fitted text backbone rounds by the number of threads
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for name in ("imagebind", "fused"):
        for devices in ("1", "2"):
            out = tmp_path / f"{name}-{devices}"
            subprocess.run(
                [sys.executable, str(path), name, str(out), devices], check=True, timeout=300, env=environment
            )
        runs = [tmp_path / f"{name}-{devices}" for devices in ("1", "2")]
        lines = [[json.loads(line) for line in (r / "metrics.jsonl").read_text().splitlines()] for r in runs]
        for a, b in zip(*lines, strict=True):  # with negatives of one process alone, losses would be log 2 apart
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-3) and a["held_out"] == pytest.approx(b["held_out"], rel=1e-3)
        one, two = map(weights, runs)
        for k in one:  # ten steps move a weight by up to 1e-2; rounding, which Adam magnifies, by much less
            assert (one[k] - two[k]).abs().double().mean() < 5e-5, k
