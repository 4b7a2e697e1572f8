import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from world import SMALL, make_world

import geonb
from geonb import training
from geonb.architectures import ARCHITECTURES, Architecture
from geonb.config import TrainConfig, config_from_file, split_of
from geonb.encoders.text import text_backbone
from geonb.run import METRICS, read_lines, read_manifest
from geonb.training import batch_rows, learning_rate, train


def weights(run):
    return load_file(run / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def metrics(run):
    return [{k: v for k, v in line.items() if k != "wall_s"} for line in read_lines(run / METRICS)]


@pytest.fixture
def every_checkpoint(monkeypatch):
    """A checkpoint at every validation, also where less than CHECKPOINT_S has passed."""
    monkeypatch.setattr(training, "CHECKPOINT_S", 0.0)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_trains_and_loads(name, world, tmp_path):
    run = train(name, world, tmp_path / name, SMALL, progress=False)
    phases = [3, 8, 13, 18] if name == "cyclic" else []  # where a phase ends between two validations
    steps = [line["step"] for line in metrics(run)]
    assert steps == sorted([5, 10, 15, 20, *phases])
    assert all(np.isfinite(line["held_out"]) for line in metrics(run))
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["steps"] == 20 and manifest["samples_seen"] == 20 * 64 and manifest["selected_step"] in steps
    assert manifest["data"]["simulated"]["sentinel2"] is True
    assert sum("phase" in line for line in metrics(run)) == (8 if name == "cyclic" else 1)

    model = geonb.load(run)
    vectors = model.embed_locations(world.lonlat)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert model.modalities == (("location", "sentinel2") if ARCHITECTURES[name].binary else ("location", "text", "sentinel2"))


def test_training_learns_to_find_places_by_their_texts(world, tmp_path):
    run = train("imagebind", world, tmp_path / "run", replace(SMALL, steps=150), progress=False)
    model, test = geonb.load(run), np.flatnonzero((split_of(world, SMALL) == "test") & world.has("text"))
    similarity = model.embed_store(world, "text", test) @ model.embed_locations(world.lonlat).T
    off = np.abs(world.lonlat[:, 1] - world.lonlat[test, 1:])
    assert np.median(off[np.arange(len(test)), similarity.argmax(1)]) < 0.5 * np.median(off)


# ---- what stops a run


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from dataclasses import replace
from pathlib import Path
from world import SMALL
from geonb import run, training

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def die_at(where, out):
    if where == "step":  # with lines of metrics after the last checkpoint, the last one half written
        real = training.learning_rate
        def learning_rate(step, config):
            if step == 12:
                with (out / run.METRICS).open("a") as file:
                    file.write('{{"step": 15, "los')
                die()
            return real(step, config)
        training.learning_rate = learning_rate
    elif where != "never":  # when half of the file is written
        real_write, count = run.write_atomically, []
        def write(path, data):
            if path.name == where:
                count.append(1)
                if len(count) == (2 if where == "last.safetensors" else 1):
                    path.with_name(path.name + ".partial").write_bytes(data[: len(data) // 2])
                    die()
            real_write(path, data)
        run.write_atomically = write

for where in sys.argv[2:]:  # each in a process of its own, which starts with everything imported
    child = os.fork()
    if not child:
        out = Path(sys.argv[1]) / where
        die_at(where, out)
        training.train({name!r}, {store!r}, out, replace(SMALL, ema=0.9), progress=False)
        os._exit(0)
    print(where, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def run_python(*arguments):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], check=True, timeout=300, capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.parametrize(
    "name, moments", [("geoclip", ["step", "last.safetensors", "manifest.json"]), ("cyclic", ["step"])]
)
def test_a_run_killed_at_any_moment_resumes_to_the_same_weights_bit_for_bit(name, moments, world, tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED.format(tests=str(Path(__file__).parent), name=name, store=str(world.path)))
    ended = run_python(script, tmp_path, "never", *moments)
    killed = [f"{where} {-signal.SIGKILL}" for where in moments]
    assert ended.stdout.splitlines() == ["never 0", *killed], ended.stderr
    whole = tmp_path / "never"
    for where in moments:
        with pytest.raises(ValueError, match="did not finish"):
            geonb.load(tmp_path / where)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in the killed process, because rounding depends on it
        resumed = train(name, world, tmp_path / where, resume=True, progress=False)
        torch.set_num_threads(threads)
        assert same(weights(whole), weights(resumed)), where
        assert metrics(whole) == metrics(resumed), where
        assert not list(resumed.rglob("*.partial")), where


def test_a_run_stopped_by_control_c_says_how_to_go_on(world, tmp_path, monkeypatch, capsys):
    def interrupt(model, batch):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "validate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train("imagebind", world, tmp_path / "run", SMALL, progress=False)
    assert "--resume" in capsys.readouterr().err
    with pytest.raises(ValueError, match="exists already; resume it"):
        train("imagebind", world, tmp_path / "run", SMALL, progress=False)


def resumed_is_whole(world, tmp_path):
    whole = train("imagebind", world, tmp_path / "whole", SMALL, progress=False)
    return same(weights(whole), weights(train("imagebind", world, tmp_path / "run", resume=True, progress=False)))


def test_a_disk_that_fills_up_keeps_the_last_good_checkpoint(world, tmp_path, monkeypatch, every_checkpoint):
    real, calls = os.fsync, iter(range(1000))

    def fsync(descriptor):
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        if name.endswith("last.safetensors.partial") and next(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="last.safetensors could not be written .No space.*is kept; free some space"):
        train("imagebind", world, tmp_path / "run", SMALL, progress=False)
    monkeypatch.undo()
    assert not list((tmp_path / "run").rglob("*.partial"))
    assert resumed_is_whole(world, tmp_path)


@pytest.mark.parametrize("ruined, noticed", [(12, 13), (15, 15)], ids=["by the next loss", "by the validation"])
def test_a_loss_that_is_not_finite_names_the_step_and_its_places(ruined, noticed, world, tmp_path, monkeypatch, every_checkpoint):
    real, steps = Architecture.clamp_scales, iter(range(1, 100))

    def clamp_scales(model):
        real(model)
        if next(steps) == ruined:
            with torch.no_grad():
                model.encoders["location"].network.linear.weight.fill_(float("nan"))

    monkeypatch.setattr(Architecture, "clamp_scales", clamp_scales)
    with pytest.raises(FloatingPointError, match=f"step {noticed} is not finite; .*; its places: p") as caught:
        train("imagebind", world, tmp_path / "run", SMALL, progress=False)
    rows = np.flatnonzero((split_of(world, SMALL) == "train") & (world.has("text") | world.has("sentinel2")))
    first = batch_rows(torch.from_numpy(rows), noticed - 1, 64, SMALL.seed)[0]
    assert f"places: {world.place_id[first]}," in str(caught.value)
    monkeypatch.undo()
    assert resumed_is_whole(world, tmp_path)


@pytest.mark.parametrize("options, message", [({"devices": 9999}, "devices: 9999 are more than"), ({"nodes": 2}, "by torchrun or srun")])
def test_devices_that_are_not_there_are_refused_before_anything_starts(options, message, world, tmp_path):
    with pytest.raises(ValueError, match=message):
        train("fused", world, tmp_path / "run", replace(SMALL, **options))
    assert not (tmp_path / "run").exists()


def test_a_batch_too_large_for_a_gpu_names_what_to_lower(world, tmp_path, monkeypatch):
    def full(model, batch):
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(training, "validate", full)
    with pytest.raises(MemoryError, match="lower batch_size"):
        train("imagebind", world, tmp_path / "run", SMALL, progress=False)


def test_a_resumed_run_names_the_settings_that_do_not_count(trained, world, recwarn):
    train("imagebind", world, trained, SMALL, resume=True)
    assert not recwarn.list
    with pytest.warns(UserWarning, match="keeps its own config; ignored: dim, init$"):
        train("imagebind", world, trained, replace(SMALL, dim=8), resume=True, init=trained)


def test_a_run_that_cannot_go_on_says_why(trained, world, tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    config, checkpoint = run / "config.yaml", run / "checkpoints" / "last.safetensors"
    as_it_was = (trained / "config.yaml").read_text()
    config.write_text(as_it_was.replace("init: null", "init: runs/gone"))
    with pytest.raises(ValueError, match="runs/gone: neither the folder of a run nor a shipped model"):
        train("imagebind", world, run, resume=True, progress=False)
    config.write_text(as_it_was)
    with pytest.raises(ValueError, match="of another architecture or other data"):
        train("fused", world, run, resume=True, progress=False)
    checkpoint.write_bytes((trained / "checkpoints" / "last.safetensors").read_bytes()[:500])
    with pytest.raises(ValueError, match="last.safetensors: damaged .*delete it"):
        train("imagebind", world, run, resume=True, progress=False)
    checkpoint.unlink()
    assert same(weights(trained), weights(train("imagebind", world, run, resume=True, progress=False)))


# ---- several devices


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
        run_python(script, devices, out)
        results.append(torch.load(out, weights_only=True))
    one, two = results
    nonzero = {k for k, v in two.items() if v.abs().max() > 0}  # a modality that waits has none, or zeros
    assert nonzero == {k for k, v in one.items() if v.abs().max() > 0}
    assert {k.split(".")[1] for k in nonzero} == set(ARCHITECTURES)
    for k in nonzero:
        torch.testing.assert_close(two[k], one[k], rtol=1e-5, atol=1e-8, msg=k)


def test_torchrun_starts_the_command_line_on_two_processes(world, tmp_path):
    out, small = tmp_path / "run", tmp_path / "small.yaml"
    small.write_text(
        "dim: 16\nsteps: 6\nvalidate_every: 3\nbatch_size: 31\nlr: 1e-3\nbackbones: {text: lsa}\n"
        "network: {name: residual, dropout: 0.0}\nhead: {name: linear}\noptions: {cycles: 3}\n"
        "encoding: {name: spherical_harmonics, degrees: 5}\nsplit: {kind: blocked, size_km: 1500.0, buffer_km: 0.0, seed: 0}\n"
    )
    done = run_python(
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "geonb.cli", "train", "cyclic",
        "--data", world.path, "--out", out, "--devices", "2", "--config", small,
    )  # fmt: skip
    assert done.stdout.count(": done") == 1
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["devices"] == 2 and manifest["samples_seen"] == 6 * 31
    train("cyclic", world, tmp_path / "alone", config_from_file(small), progress=False)
    for line, other in zip(metrics(out), metrics(tmp_path / "alone"), strict=True):
        compared = "step", "held_out", "loss"  # each device took its own rows of the same batches
        assert [line[k] for k in compared] == pytest.approx([other[k] for k in compared], rel=1e-3)


# ---- batches, schedule, selection


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
    assert learning_rate(99, replace(config, schedule="constant")) == 1.0


def test_the_moving_average_is_what_is_kept(world, tmp_path, monkeypatch):
    by_hand, real = {}, torch.optim.swa_utils.AveragedModel.update_parameters

    def update(average, model):
        for k, v in model.named_parameters():
            by_hand[k] = v.detach().clone() if k not in by_hand else 0.8 * by_hand[k] + 0.2 * v.detach()
        real(average, model)

    monkeypatch.setattr(torch.optim.swa_utils.AveragedModel, "update_parameters", update)
    config = replace(SMALL, ema=0.8, steps=5, validate_every=5)
    run = train("imagebind", world, tmp_path / "run", config, progress=False)
    assert by_hand
    for k, v in by_hand.items():
        torch.testing.assert_close(weights(run)[k], v)


def test_training_stops_when_held_out_places_no_longer_gain(world, tmp_path):
    config = replace(SMALL, steps=400, lr=0.03, schedule="constant", patience=3)
    run = train("imagebind", world, tmp_path / "run", config, progress=False)
    manifest, lines = json.loads((run / "manifest.json").read_text()), metrics(run)
    assert manifest["steps"] == lines[-1]["step"] < 400
    assert manifest["steps"] - manifest["selected_step"] == 3 * SMALL.validate_every
    assert min(lines, key=lambda line: line["held_out"])["step"] == manifest["selected_step"]


def test_mixed_precision_is_near_and_double_precision_goes_with_everything(world, tmp_path):
    config = replace(SMALL, steps=10)
    losses = []
    for precision in ("32-true", "bf16-mixed"):
        run = train("imagebind", world, tmp_path / precision, replace(config, precision=precision), progress=False)
        losses.append([line["loss"] for line in metrics(run)])
    assert losses[1] == pytest.approx(losses[0], rel=0.02) and losses[0] != losses[1]
    options = {"exclude_km": 300.0, "micro_batch": 16, "chunk": 16}
    config = replace(SMALL, precision="64-true", ema=0.9, options=options, steps=6)
    run = train("geoclip", world, tmp_path / "double", config, progress=False)
    assert weights(run)["log_scale.sentinel2"].dtype == torch.float64


# ---- modalities and starting points


def test_senseless_requests_are_refused_before_anything_is_written(world, tmp_path):
    for architecture, changes, message in (
        ("satclip", {"modalities": ("location", "text", "sentinel2")}, "binds location with one modality"),
        ("fused", {"encoding": {"name": "grid", "scale": 3}}, "encoding: .*'scale'.*misspelt option"),
        ("cyclic", {"steps": 8, "options": {"cycles": 8}}, "16 phases need as many steps, not 8"),
    ):
        with pytest.raises(ValueError, match=message):
            train(architecture, world, tmp_path / "run", replace(SMALL, **changes), progress=False)
        assert not (tmp_path / "run").exists()


def rare(world, train_places, val_places):
    extra, split = np.full((len(world), 3), np.nan), split_of(world, SMALL)
    for part, count in (("train", train_places), ("val", val_places)):
        extra[np.flatnonzero(split == part)[:count]] = np.random.default_rng(0).normal(size=(count, 3))
    return {"rare": extra}


def test_a_modality_that_is_too_scarce_to_judge_is_refused(world, tmp_path):
    with pytest.raises(ValueError, match="5 places to train on and 0 to validate on have 'rare'; it needs 2 of each"):
        train("imagebind", world, tmp_path / "run", SMALL, extra=rare(world, 5, 0), progress=False)
    assert not (tmp_path / "run").exists()


def test_a_scarce_modality_is_validated_though_few_places_are_drawn(world, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "VALIDATION_PLACES", 4)
    config = replace(SMALL, steps=1)
    run = train("imagebind", world, tmp_path / "run", config, extra=rare(world, 3, 3), progress=False)
    assert metrics(run)[0]["held_out/rare"] > 0  # among one place or none it would be 0


@pytest.mark.parametrize("name", ["fused", "satclip"])
def test_a_further_modality_is_an_array(name, world, tmp_path):
    climate = np.radians(world.lonlat)
    climate[::7] = np.nan  # not known everywhere
    binary = {"modalities": ("location", "climate")} if name == "satclip" else {}
    run = train(name, world, tmp_path / "run", replace(SMALL, **binary), extra={"climate": climate}, progress=False)
    model = geonb.load(run)
    assert model.modalities == binary.get("modalities", ("location", "text", "sentinel2", "climate"))
    assert model.embed_features("climate", climate[1:5]).shape == (4, model.dim)
    with pytest.raises(ValueError, match="give its features to embed_features"):
        model.backbone("climate")
    with pytest.raises(ValueError, match="of another architecture or other data"):
        train(name, world, run, resume=True, extra={"climate": climate + 1}, progress=False)


def test_a_text_backbone_is_fitted_to_training_texts_alone(world, trained):
    rows = np.flatnonzero(world.has("text") & (split_of(world, SMALL) == "train"))
    fitted = text_backbone("lsa", fit_on=world.texts(rows)).fingerprint
    assert read_manifest(trained)["backbones"]["text"]["fingerprint"] == fitted


def test_a_run_can_start_from_another_and_from_its_text_backbone(world, trained, tmp_path):
    other = make_world(tmp_path / "other", n=200, seed=5)
    config = replace(SMALL, modalities=("location", "text"), backbones={"text": "auto"}, steps=5)
    run = train("imagebind", other, tmp_path / "run", config, init=trained, progress=False)
    start, tuned = weights(trained), weights(run)
    fitted = [k for k in start if k.startswith("backbone.text.")]
    assert fitted and all(torch.equal(start[k], tuned[k]) for k in fitted)
    moved = (start["encoders.text.network.linear.weight"] - tuned["encoders.text.network.linear.weight"]).abs().mean()
    assert 0 < moved < 0.2 * start["encoders.text.network.linear.weight"].abs().mean()
    with pytest.raises(ValueError, match="cannot start from this run"):
        train("imagebind", other, tmp_path / "no", replace(config, dim=16), init=trained, progress=False)
    with pytest.raises(ValueError, match="its text backbone is lsa, not minilm"):
        minilm = replace(config, backbones={"text": "minilm"})
        train("imagebind", other, tmp_path / "no", minilm, init=trained, progress=False)


def test_rows_that_fill_a_batch_up_have_nothing(world):
    everywhere = np.ones((len(world), 3), np.float32)  # also at the first place, whose values fill the batch up
    dataset = training.PlaceDataset(world, {}, {"mine": everywhere})
    for values, present in dataset.batch(torch.arange(5), size=8).values():
        assert len(values) == 8 and present.tolist() == [True] * 5 + [False] * 3
