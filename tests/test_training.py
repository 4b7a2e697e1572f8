import errno
import json
import os
import shutil
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
from geonb._util import write_atomically
from geonb.architectures import ARCHITECTURES
from geonb.data.splits import blocks
from geonb.training import TrainConfig, backward_transfer, batch_rows, learning_rate, published, split_of, train


def weights(run):
    return load_file(run / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_trains_and_loads(name, world, tmp_path):
    run = train(name, world, tmp_path / name, SMALL, progress=False)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    phases = [3, 8, 13, 18] if name == "cyclic" else []  # where a phase ends between two validations
    assert [line["step"] for line in lines] == sorted([5, 10, 15, 20, *phases])
    assert all(np.isfinite(line["held_out"]) for line in lines)
    manifest = json.loads((run / "manifest.json").read_text())
    assert (
        manifest["steps"] == 20
        and manifest["samples_seen"] == 20 * 64
        and manifest["selected_step"] in [line["step"] for line in lines]
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
    steps = [[json.loads(line)["step"] for line in (r / "metrics.jsonl").open()] for r in (whole, resumed)]
    assert steps[0] == steps[1]


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
    return {
        "modalities": config.modalities,
        "network": config.network,
        "encoding": config.encoding,
        "head": config.head,
    }


def _image_dim(world):
    from geonb.encoders.image import image_backbone

    return image_backbone().dim


def test_a_run_can_start_from_another_and_from_its_text_backbone(world, trained, tmp_path):
    other = make_world(tmp_path / "other", n=200, seed=5)
    config = replace(SMALL, modalities=("location", "text"), steps=5)
    run = train("imagebind", other, tmp_path / "run", config, init=trained, progress=False)
    start, tuned = weights(trained), weights(run)
    assert torch.equal(start["backbone.text.lsa.idf"], tuned["backbone.text.lsa.idf"])
    moved = (start["encoders.text.network.linear.weight"] - tuned["encoders.text.network.linear.weight"]).abs().mean()
    assert 0 < moved < 0.2 * start["encoders.text.network.linear.weight"].abs().mean()
    with pytest.raises(ValueError, match="cannot start from this run"):
        train("imagebind", other, tmp_path / "no", replace(config, dim=16), init=trained, progress=False)
    with pytest.raises(ValueError, match="its text backbone is lsa, not minilm; write backbones: {text: lsa}"):
        minilm = replace(config, backbones={"text": "minilm"})
        train("imagebind", other, tmp_path / "no", minilm, init=trained, progress=False)
    auto = replace(config, backbones={"text": "auto"}, steps=1)
    again = train("imagebind", other, tmp_path / "auto", auto, init=trained, progress=False)
    assert torch.equal(start["backbone.text.lsa.idf"], weights(again)["backbone.text.lsa.idf"])


def test_a_run_that_cannot_go_on_says_why(trained, world, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    (run / "manifest.json").unlink()
    config, checkpoint = run / "config.yaml", run / "checkpoints" / "last.safetensors"
    as_it_was = config.read_text()
    config.write_text(as_it_was.replace("init: null", "init: runs/gone"))
    with pytest.raises(ValueError, match="was started from runs/gone, which is not there; put it back"):
        train("imagebind", world, run, resume=True, progress=False)
    config.write_text(as_it_was)
    checkpoint.write_bytes(checkpoint.read_bytes()[:500])
    with pytest.raises(ValueError, match="last.safetensors: damaged .*delete it"):
        train("imagebind", world, run, resume=True, progress=False)
    checkpoint.unlink()
    assert same(weights(trained), weights(train("imagebind", world, run, resume=True, progress=False)))


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
        ("fused", {"steps": 0}, "steps, validate_every and dim must be at least 1"),
        ("fused", {"split": {"kind": "blocks"}}, "unknown split 'blocks'"),
        ("fused", {"encoding": {"name": "sh"}}, "unknown positional encoding"),
        ("fused", {"backbones": {"text": "resnet18"}}, "a backbone for images"),
        ("cyclic", {"patience": 3}, "in the middle of a phase"),
        ("fused", {"schedule": "linear"}, "unknown schedule"),
        ("fused", {"loggers": ("wandb",)}, "unknown loggers"),
        ("geoclip", {"options": {"queue": -1}}, "queue cannot be negative"),
        ("fused", {"validate_every": 0}, "validate_every and dim must be at least 1"),
        ("fused", {"dim": 0}, "validate_every and dim must be at least 1"),
        ("fused", {"backbones": {"images": "resnet18"}}, "has 'images', which is none of text, image"),
        ("fused", {"split": {"size_km": 1500.0}}, "its kind is blocked or random"),
        ("fused", {"split": {"kind": "blocked", "size_km": "far"}}, "split: .*wrong type"),
        ("fused", {"encoding": {"degrees": 3}}, r"encoding needs a name, as in \{name: grid\}"),
        ("fused", {"encoding": "grid"}, r"encoding must be a mapping such as \{name: grid\}, not 'grid'"),
        ("fused", {"encoding": {"name": "grid", "scale": 3}}, "encoding: .*'scale'.*misspelt option"),
        ("fused", {"network": {"name": "residual", "neurons": 3}}, "network: .*'neurons'.*misspelt option"),
        ("fused", {"head": {"name": "residual", "neurons": 3}}, "head: .*'neurons'.*misspelt option"),
        ("fused", {"options": {"excude_km": 3}}, "options: .*'excude_km'.*misspelt option"),
        ("fused", {"loggers": "csv"}, r"loggers must be a list such as \[csv\], not 'csv'"),
        ("fused", {"options": None}, "options must be a mapping"),
        ("cyclic", {"steps": 8, "options": {"cycles": 8}}, "8 steps for 16 phases never come to 'image'; take 16 steps"),
    ],
)
def test_senseless_requests_are_refused_before_anything_is_written(architecture, changes, message, world, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(architecture, world, tmp_path / "run", replace(SMALL, **changes), progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("train_places", "val_places"), [(0, 5), (1, 5), (5, 0), (5, 1)])
def test_a_modality_that_is_too_scarce_to_learn_or_to_judge_is_refused(train_places, val_places, world, tmp_path):
    extra, split = np.full((len(world), 3), np.nan), split_of(world, SMALL)
    for part, count in (("train", train_places), ("val", val_places)):
        extra[np.flatnonzero(split == part)[:count]] = np.random.default_rng(0).normal(size=(count, 3))
    said = f"{train_places} places to train on and {val_places} to validate on have 'rare', which needs 2 of each"
    with pytest.raises(ValueError, match=said):
        train("imagebind", world, tmp_path / "run", SMALL, extra={"rare": extra}, progress=False)
    assert not (tmp_path / "run").exists()


def test_a_scarce_modality_is_judged_though_few_places_are_drawn_to_validate_on(world, tmp_path, monkeypatch):
    extra, split = np.full((len(world), 3), np.nan), split_of(world, SMALL)
    for part in ("train", "val"):
        extra[np.flatnonzero(split == part)[:3]] = np.random.default_rng(0).normal(size=(3, 3))
    monkeypatch.setattr(training, "VALIDATION_PLACES", 4)
    config = replace(SMALL, steps=1)
    run = train("imagebind", world, tmp_path / "run", config, extra={"rare": extra}, progress=False)
    line = json.loads((run / "metrics.jsonl").read_text())
    assert line["held_out/rare"] > 0  # among one place or none it would be 0


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
    with pytest.raises(ValueError, match=r"a list of texts: \['snow'\]"):
        model.embed_texts("snow")
    width = model.backbone("text").dim
    for modality, features, message in (
        ("text", np.ones(width), rf"shape \(n, {width}\), a row each, not \({width},\)"),
        ("text", np.ones((5, 1)), r"not \(5, 1\)"),
        ("text", np.ones((5, width + 1)), rf"not \(5, {width + 1}\)"),
        ("txt", np.ones((5, width)), "features of text, image alone, not of 'txt'"),
        ("location", np.ones((5, 2)), "see embed_locations"),
    ):
        with pytest.raises(ValueError, match=message):
            model.embed_features(modality, features)
    good = world.images(np.flatnonzero(world.has("image"))[:2])
    for images, message in (
        (good[:, :3], "12"),
        (good / 10000.0, "10,?000"),
        ((good // 40).astype(np.uint16), "8-bit"),
        (np.random.default_rng(0).integers(150, 900, (3, 12, 32, 32)) + 1000, "offset of .1000"),
    ):
        with pytest.raises(ValueError, match=message):
            model.embed_images(images)


SPREAD = '''
import sys, torch
sys.path.insert(0, {tests!r})
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from test_architectures import ARCHITECTURES, make, make_batch

def share(batch, rank, world, size):
    """A device's rows, filled up where they are too few."""
    part = -(-size // world)
    out = {{}}
    for m, (v, p) in batch.items():
        v, p = v[rank * part : (rank + 1) * part], p[rank * part : (rank + 1) * part]
        lacking = part - len(v)
        out[m] = (torch.cat([v, v.new_zeros(lacking, v.shape[1])]), torch.cat([p, p.new_zeros(lacking)]))
    return out

if __name__ == "__main__":
    devices = int(sys.argv[1])
    strategy = DDPStrategy(find_unused_parameters=True) if devices > 1 else "auto"
    fabric = Fabric(accelerator="cpu", devices=devices, strategy=strategy)
    fabric.launch()
    results = {{}}
    cases = [(name, {{}}) for name in ARCHITECTURES]
    cases += [("imagebind", {{"exclude_km": 500.0, "micro_batch": 4}}), ("fused", {{"form": "logsumexp", "soft_km": 900.0}}),
              ("fused", {{"form": "melt"}}), ("cyclic", {{"location_learns": True}}), ("geoclip", {{"exclude_km": 900.0}})]
    for number, (name, options) in enumerate(cases):
        model, batch = make(name, **options).double(), make_batch(23)  # an odd number of places
        batch = {{m: (v.double(), p) for m, (v, p) in batch.items()}}
        if devices > 1:
            model.gather = lambda t: fabric.all_gather(t, sync_grads=t.requires_grad).flatten(0, 1)
        wrapped = fabric.setup(model)
        for step in range(2):  # the second sees GeoCLIP's queue
            model.begin_step(0.6 * step, 10 + step)
            model.zero_grad()
            terms = wrapped(share(batch, fabric.global_rank, devices, 23))
            loss = sum(terms.values())
            fabric.backward(loss)
        results[f"{{number}}.{{name}}.loss"] = loss.detach()
        results |= {{f"{{number}}.{{name}}.{{k}}": p.grad for k, p in model.named_parameters() if p.grad is not None}}
    if fabric.is_global_zero:
        torch.save(results, sys.argv[2])
'''


def test_two_processes_have_the_loss_and_the_gradients_of_one(tmp_path):
    """The same batch, 23 places with modalities missing, whole on one device and shared by two."""
    script = tmp_path / "spread.py"
    script.write_text(SPREAD.format(tests=str(Path(__file__).parent)))
    results = []
    for devices in (1, 2):
        out = tmp_path / f"{devices}.pt"
        run_script(script, devices, out)
        results.append(torch.load(out, weights_only=True))
    one, two = results
    nonzero = {k for k, v in two.items() if v.abs().max() > 0}  # a modality that waits has none, or zeros
    assert nonzero == {k for k, v in one.items() if v.abs().max() > 0}
    assert {k.split(".")[1] for k in nonzero} == set(ARCHITECTURES)
    for k in nonzero:
        torch.testing.assert_close(two[k], one[k], rtol=1e-5, atol=1e-8, msg=k)


def run_script(script, *arguments, check=True, **environment):
    return subprocess.run(
        [sys.executable, str(script), *map(str, arguments)], check=check, timeout=300, capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )  # fmt: skip


ALONE = """
import sys
from geonb.training import config_from_file, train
train("cyclic", {store!r}, sys.argv[1], config_from_file({small!r}), progress=False)
"""


def test_torchrun_starts_the_command_line_on_two_processes(world, tmp_path):
    out = tmp_path / "run"
    (tmp_path / "small.yaml").write_text(
        "dim: 16\nsteps: 6\nvalidate_every: 3\nbatch_size: 31\nlr: 1e-3\nbackbones: {text: lsa}\n"
        "network: {name: residual, dropout: 0.0}\nhead: {name: linear}\n"
        "encoding: {name: spherical_harmonics, degrees: 5}\nsplit: {kind: blocked, size_km: 1500.0, buffer_km: 0.0, seed: 0}\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "geonb.cli", "train",
               "cyclic", "--data", str(world.path), "--out", str(out), "--devices", "2", "--config", str(tmp_path / "small.yaml")]  # fmt: skip
    done = subprocess.run(
        command, timeout=300, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count(": done") == 1
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["devices"] == 2 and manifest["samples_seen"] == 6 * 31
    lines = [json.loads(line) for line in (out / "metrics.jsonl").open()]
    alone = tmp_path / "alone"
    script = tmp_path / "alone.py"
    script.write_text(
        ALONE.format(tests=str(Path(__file__).parent), store=str(world.path), small=str(tmp_path / "small.yaml"))
    )
    run_script(script, alone)
    expected = [json.loads(line) for line in (alone / "metrics.jsonl").open()]
    assert [line["step"] for line in lines] == [line["step"] for line in expected]
    for line, other in zip(lines, expected, strict=True):  # each device took its own rows of the same batches
        assert line["held_out"] == pytest.approx(other["held_out"], rel=1e-3)
        assert line["loss"] == pytest.approx(other["loss"], rel=1e-3)
    geonb.load(out).embed_locations([[0.0, 0.0]])


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from dataclasses import replace
from pathlib import Path
from world import SMALL
from geonb import _checkpoint, training

count = 0

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def die_at(where):
    if where == "step":  # in the middle of a step between two checkpoints
        real = training.take_step
        def take_step(*arguments):
            global count
            count += 1
            result = real(*arguments)
            if count == 12:
                die()
            return result
        training.take_step = take_step
    elif where in ("checkpoint", "model", "manifest", "config"):  # when half of a file is written
        names = {{"checkpoint": "last.safetensors", "model": "model.safetensors", "manifest": "manifest.json", "config": "config.yaml"}}
        real_write = _checkpoint.write_atomically
        def write(path, data):
            global count
            if path.name == names[where]:
                count += 1
                if count == (3 if where == "checkpoint" else 1):
                    path.with_name(path.name + ".partial").write_bytes(data[: len(data) // 2])
                    die()
            real_write(path, data)
        _checkpoint.write_atomically = training.write_atomically = write
    elif where == "metrics":  # when half a line is written, before its checkpoint
        real_save = training.save_checkpoint
        def save(path, *arguments):
            global count
            count += 1
            if count == 3:
                metrics = path.parent.parent / "metrics.jsonl"
                metrics.write_bytes(metrics.read_bytes()[:-20])
                die()
            real_save(path, *arguments)
        training.save_checkpoint = save

for where in sys.argv[2:]:  # each in a process of its own, which starts with everything imported
    child = os.fork()
    if not child:
        die_at(where)
        training.train({name!r}, {store!r}, os.path.join(sys.argv[1], where), replace(SMALL, ema=0.9), progress=False)
        os._exit(0)
    print(where, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize("name", ["geoclip", "cyclic"])
def test_a_run_killed_at_any_moment_resumes_to_the_same_weights_bit_for_bit(name, world, tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED.format(tests=str(Path(__file__).parent), name=name, store=str(world.path)))
    config = replace(SMALL, ema=0.9)
    moments = ("config", "step", "checkpoint", "metrics", "model", "manifest") if name == "geoclip" else ("step",)
    ended = run_script(script, tmp_path, "never", *moments)
    killed = [f"{where} {-signal.SIGKILL}" for where in moments]
    assert ended.stdout.splitlines() == ["never 0", *killed], ended.stderr
    whole = tmp_path / "never"
    for where in moments:
        out = tmp_path / where
        with pytest.raises(ValueError, match="not a run|did not finish"):
            geonb.load(out)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in the killed process: rounding depends on it
        try:
            resumed = train(name, world, out, config, resume=True, progress=False)
        finally:
            torch.set_num_threads(threads)
        assert same(weights(whole), weights(resumed)), where
        lines = [[{k: v for k, v in json.loads(line).items() if k not in ("wall_s", "places_per_s")} for line in (run / "metrics.jsonl").open()]
                 for run in (whole, resumed)]  # fmt: skip
        assert lines[0] == lines[1], where
        assert not list(out.rglob("*.partial")), where


def test_a_disk_that_fills_up_keeps_the_last_good_checkpoint(world, tmp_path, monkeypatch):
    real, calls = os.fsync, iter(range(1000))
    out = tmp_path / "run"

    def fsync(descriptor):
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        if name.endswith("last.safetensors.partial") and next(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="last.safetensors could not be written .No space.*before it is kept; free some space"):
        train("imagebind", world, out, SMALL, progress=False)
    monkeypatch.undo()
    assert not list(out.rglob("*.partial"))
    whole = train("imagebind", world, tmp_path / "whole", SMALL, progress=False)
    assert same(weights(whole), weights(train("imagebind", world, out, resume=True, progress=False)))


def test_a_file_that_cannot_be_written_for_want_of_a_folder_is_not_blamed_on_the_disk(tmp_path):
    with pytest.raises(OSError, match="could not be written .No such file.*nothing was kept$"):
        write_atomically(tmp_path / "nowhere" / "x", b"1")


def test_a_loss_that_is_not_finite_names_the_step_and_the_places_and_keeps_what_was_good(world, tmp_path, monkeypatch):
    real, out = training.take_step, tmp_path / "run"

    def poisoned(fabric, wrapped, model, optimizer, batch, step, config):
        if step == 12:
            with torch.no_grad():
                model.log_scale["text"].fill_(float("nan"))
        return real(fabric, wrapped, model, optimizer, batch, step, config)

    monkeypatch.setattr(training, "take_step", poisoned)
    with pytest.raises(
        FloatingPointError, match="step 13 is not finite.*places: p.*checkpoint of step 10 is kept"
    ) as caught:
        train("imagebind", world, out, SMALL, progress=False)
    rows = torch.from_numpy(
        np.flatnonzero((split_of(world, SMALL) == "train") & (world.has("text") | world.has("image")))
    )
    assert f"places: {world.place_id[batch_rows(rows, 12, 64, SMALL.seed)[0]]}," in str(caught.value)
    monkeypatch.undo()
    whole = train("imagebind", world, tmp_path / "whole", SMALL, progress=False)
    assert same(weights(whole), weights(train("imagebind", world, out, resume=True, progress=False)))


def test_weights_that_are_ruined_by_a_validated_step_do_not_replace_the_good_ones(world, tmp_path, monkeypatch):
    real, out = training.take_step, tmp_path / "run"

    def poisoned(fabric, wrapped, model, optimizer, batch, step, config):
        result = real(fabric, wrapped, model, optimizer, batch, step, config)
        if step == 14:  # the loss was fine, the step was not, and the next thing is a validation
            with torch.no_grad():
                model.encoders["location"].network.linear.weight.fill_(float("nan"))
        return result

    monkeypatch.setattr(training, "take_step", poisoned)
    with pytest.raises(FloatingPointError, match="step 15 is not finite.*checkpoint of step 10 is kept"):
        train("imagebind", world, out, SMALL, progress=False)
    monkeypatch.undo()
    whole = train("imagebind", world, tmp_path / "whole", SMALL, progress=False)
    assert same(weights(whole), weights(train("imagebind", world, out, resume=True, progress=False)))


def test_double_precision_goes_with_everything(world, tmp_path):
    options = {"exclude_km": 300.0, "micro_batch": 16, "chunk": 16}
    run = train(
        "geoclip",
        world,
        tmp_path / "run",
        replace(SMALL, precision="64-true", ema=0.9, options=options, steps=6),
        progress=False,
    )
    assert weights(run)["log_scale.image"].dtype == torch.float64


def test_the_moving_average_is_what_is_kept(world, tmp_path, monkeypatch):
    config = replace(SMALL, ema=0.8, steps=5, validate_every=5)
    run = train("imagebind", world, tmp_path / "run", config, progress=False)
    plain = train("imagebind", world, tmp_path / "plain", replace(config, ema=0.0), progress=False)
    assert not same(weights(run), weights(plain))

    by_hand, real = {}, training.take_step

    def watched(fabric, wrapped, model, *arguments):
        result = real(fabric, wrapped, model, *arguments)
        for k, v in model.named_parameters():
            by_hand[k] = v.detach().clone() if k not in by_hand else 0.8 * by_hand[k] + 0.2 * v.detach()
        return result

    monkeypatch.setattr(training, "take_step", watched)
    train("imagebind", world, tmp_path / "again", config, progress=False)
    for k, v in by_hand.items():
        torch.testing.assert_close(weights(run)[k], v)


def test_training_stops_when_held_out_places_no_longer_gain(world, tmp_path):
    config = replace(SMALL, steps=400, lr=0.03, schedule="constant", patience=3)
    run = train("imagebind", world, tmp_path / "run", config, progress=False)
    manifest = json.loads((run / "manifest.json").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    assert manifest["steps"] == lines[-1]["step"] < 400
    assert manifest["steps"] - manifest["selected_step"] == 3 * SMALL.validate_every
    assert min(lines, key=lambda line: line["held_out"])["step"] == manifest["selected_step"]


def test_stratified_batches_hold_one_place_of_a_cell(world):
    rows = torch.arange(len(world))
    cells = blocks(world.lonlat, 2000.0)
    seen = set()
    for step in range(40):
        chosen = batch_rows(rows, step, 48, 0, cells)
        assert len(chosen) == 48 and len(set(cells[chosen.numpy()])) == 48
        seen |= set(chosen.tolist())
    assert len(seen) > 0.9 * len(rows)
    assert torch.equal(batch_rows(rows, 3, 48, 0, cells), batch_rows(rows, 3, 48, 0, cells))
    assert len(batch_rows(rows, 0, 10_000, 0, cells)) == len(set(cells))


def test_backward_transfer_counts_what_later_phases_did():
    model = type("model", (), {"order": ("text", "image")})
    ends = [(0, 4.0, 5.0), (1, 4.5, 3.0), (2, 2.0, 3.5), (3, 2.25, 1.0)]
    lines = [{"step": 10 * k, "phase": k, "held_out/text": text, "held_out/image": image} for k, text, image in ends]
    lines.insert(1, {"step": 5, "held_out/text": 9.0, "held_out/image": 9.0})
    transfer = backward_transfer(lines, model)
    assert transfer == {"text": pytest.approx((-0.5 - 0.25) / 2), "image": pytest.approx(-0.5)}
    assert backward_transfer(lines, object()) is None


def test_cyclic_runs_report_their_backward_transfer(world, tmp_path):
    config = replace(SMALL, options={"cycles": 2, "location_learns": True}, validate_every=7)
    run = train("cyclic", world, tmp_path / "run", config, progress=False)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    assert [line["phase"] for line in lines if "phase" in line] == [0, 1, 2, 3]
    assert set(json.loads((run / "manifest.json").read_text())["backward_transfer"]) == {"text", "image"}


def test_a_fourth_modality_is_an_array(world, tmp_path):
    climate = np.stack([np.cos(np.radians(world.lonlat[:, 1])), np.sin(np.radians(world.lonlat[:, 1]))], 1)
    climate[::7] = np.nan  # not known everywhere
    run = train("fused", world, tmp_path / "run", SMALL, extra={"climate": climate}, progress=False)
    model = geonb.load(run)
    assert model.modalities == ("location", "text", "image", "climate")
    assert model.embed_features("climate", climate[1:5]).shape == (4, model.dim)
    with pytest.raises(ValueError, match="give its features to embed_features"):
        model.backbone("climate")
    with pytest.raises(ValueError, match="of another architecture or other data"):
        train("fused", world, tmp_path / "run", resume=True, extra={"climate": climate + 1}, progress=False)
    with pytest.raises(ValueError, match="a row per place of the store"):
        train("fused", world, tmp_path / "no", SMALL, extra={"climate": climate[:5]}, progress=False)
    climate[3, 1] = np.inf
    with pytest.raises(ValueError, match="row 3 .p3. is infinite"):
        train("fused", world, tmp_path / "no", SMALL, extra={"climate": climate}, progress=False)
    with pytest.raises(ValueError, match="a new name"):
        train("fused", world, tmp_path / "no", SMALL, extra={"text": climate}, progress=False)
    climate[3, 1] = 0.0
    binary = train(
        "satclip",
        world,
        tmp_path / "binary",
        replace(SMALL, modalities=("location", "climate")),
        extra={"climate": climate},
        progress=False,
    )
    assert geonb.load(binary).modalities == ("location", "climate")


def test_a_run_pretrained_on_images_lends_its_location_encoder(world, tmp_path):
    ours = replace(SMALL, network={"name": "residual"}, head={"name": "residual", "hidden": 256}, steps=5)
    first = train("satclip", world, tmp_path / "first", ours, progress=False)
    then = replace(ours, modalities=("location", "text"))
    run = train("cyclic", world, tmp_path / "then", then, init=first, progress=False)
    a, b = weights(first), weights(run)
    shared = [k for k in a if k.startswith("encoders.location.")]
    assert shared and all(torch.equal(a[k], b[k]) for k in shared)  # frozen, as cyclic leaves it


@pytest.mark.parametrize("name", ["resnet18", "vit_small"])
def test_an_image_encoder_trains_end_to_end(name, tmp_path):
    world = make_world(tmp_path / "world", n=120, side=32)
    config = replace(
        SMALL,
        steps=2,
        validate_every=1,
        batch_size=8,
        backbones={"text": "lsa", "image": name},
        options={"micro_batch": 4},
    )
    run = train("imagebind", world, tmp_path / "run", config, progress=False)
    model, rows = geonb.load(run), np.flatnonzero(world.has("image"))[:3]
    z = model.embed_images(world.images(rows), harmonised=True)
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, atol=1e-5)
    assert np.abs(z[0] - z[1]).max() > 1e-4
    fresh = training.build(
        "imagebind",
        {k: v for k, v in model.config.items() if k not in ("architecture", "data_hash", "init", "extra")},
        {"text": model.backbone("text").dim},
    )
    moved = [
        not torch.equal(p, q)
        for p, q in zip(
            fresh.encoders["image"].parameters(), model.architecture.encoders["image"].parameters(), strict=True
        )
    ]
    assert sum(moved) > 0.9 * len(moved)
    with pytest.raises(ValueError, match="images go in as they are"):
        model.backbone("image")


def test_mixed_precision_and_loggers(world, tmp_path):
    config = replace(SMALL, precision="bf16-mixed", loggers=("csv",), steps=10)
    run = train("imagebind", world, tmp_path / "run", config, progress=False)
    plain = train(
        "imagebind", world, tmp_path / "plain", replace(config, precision="32-true", loggers=()), progress=False
    )
    losses = [[json.loads(line)["loss"] for line in (r / "metrics.jsonl").open()] for r in (run, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02) and losses[0] != losses[1]
    written = next((run / "csv").rglob("metrics.csv")).read_text().splitlines()
    assert "held_out" in written[0] and len(written) >= 2
    with pytest.raises(ValueError, match="positions need 32 bits"):
        train("imagebind", world, tmp_path / "no", replace(SMALL, precision="bf16-true"), progress=False)


@pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("c++") is None, reason="torch.compile needs a C++ compiler: none here"
)
def test_compiled_networks_train_alike(world, tmp_path, monkeypatch):
    config = replace(SMALL, steps=5, network={"name": "siren", "dropout": 0.0})  # a compiled dropout draws otherwise
    plain = train("satclip", world, tmp_path / "plain", config, progress=False)
    compiled, real = [], torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: (compiled.append(type(self).__name__), real(self)))
    run = train("satclip", world, tmp_path / "run", replace(config, compile=True), progress=False)
    assert compiled == ["Siren", "Linear"]
    losses = [[json.loads(line)["held_out"] for line in (r / "metrics.jsonl").open()] for r in (run, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert weights(run).keys() == weights(plain).keys()


def test_the_published_settings_are_those_of_the_baselines():
    assert published("satclip").encoding["degrees"] == 40 and published("satclip", steps=10).steps == 10
    for name in ("satclip", "geoclip", "csp"):
        config = replace(published(name), modalities=("location", "image"), backbones={"image": "random_conv"})
        model = training.build(name, config, {"image": 8})
        assert sum(p.numel() for p in model.encoders["location"].parameters()) > 100_000
    geoclip = training.build(
        "geoclip",
        replace(published("geoclip"), modalities=("location", "image"), backbones={"image": "random_conv"}),
        {"image": 768},
    )
    parameters = sum(p.numel() for p in geoclip.encoders["location"].parameters())
    assert parameters + 3 * 512 == pytest.approx(9.45e6, rel=0.01)  # the released encoder counts its frequencies
    with pytest.raises(ValueError, match="choose one of satclip"):
        published("imagebind")
