"""Published encoders in our modules against the published code.

`golden_published.json` holds 64 positions, exact in float32, and six outputs of each layout for the made-up weights
below, computed with the published code: geoclip 1.3.0, SatCLIP as shipped in rshf 0.2.2 (float64), and a transcription
of CSP's classes at 7cb1674. Where GEONB_GEOCLIP names the wheel of geoclip, its trained weights are compared too.
"""

import importlib.util
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from geonb.encoders.published import GEOCLIP_WEIGHTS, csp_location, geoclip_location, satclip_location

GOLDEN = Path(__file__).with_name("golden_published.json")


def made_up(shapes, seed):
    rng, state = np.random.RandomState(seed), {}
    for name, shape in shapes.items():
        bound = (6 / shape[-1]) ** 0.5 if len(shape) == 2 else 0.17
        state[name] = torch.tensor(rng.uniform(-bound, bound, shape), dtype=torch.float32)
    return state


def geoclip_state():
    shapes = {f"LocEnc{i}.capsule.0.b": (256, 2) for i in range(3)}
    layers = {"capsule.1": (1024, 512), "capsule.3": (1024, 1024), "capsule.5": (1024, 1024), "head.0": (512, 1024)}
    for i in range(3):
        for layer, dims in layers.items():
            shapes |= {f"LocEnc{i}.{layer}.weight": dims, f"LocEnc{i}.{layer}.bias": dims[:1]}
    state = made_up(dict(sorted(shapes.items(), key=lambda item: item[0][:7])), 1)
    for i, scale in enumerate((1, 4, 16)):
        state[f"LocEnc{i}.capsule.0.b"] *= scale
        state[f"LocEnc{i}.head.0.weight"] /= 32  # outputs of the trained encoder's size
    return state


def satclip_state(degrees=10, hidden=32, dim=16):
    sizes = {"layers.0": (hidden, degrees**2), "layers.1": (hidden, hidden), "last_layer": (dim, hidden)}
    state = made_up({f"{n}.{k}": d for n, dims in sizes.items() for k, d in (("weight", dims), ("bias", dims[:1]))}, 2)
    state["layers.0.weight"] /= 16
    state["last_layer.weight"] /= 4
    return {name: value.double() for name, value in state.items()}


def satclip_checkpoint(**sizes):
    """As Lightning saves it: the location encoder under two names, the image tower, the temperature."""
    state = satclip_state(**sizes)
    full = {"model.logit_scale": torch.tensor(2.66), "model.visual.conv1.weight": torch.zeros(4, 13, 7, 7)}
    full |= {f"model.{where}.{name}": value for where in ("nnet", "location.nnet") for name, value in state.items()}
    settings = {"le_type": "sphericalharmonics", "pe_type": "siren", "harmonics_calculation": "analytic"}
    return {"epoch": 3, "state_dict": full, "hyper_parameters": settings, "optimizer_states": [{"state": {}}]}


def csp_state(scales=32, hidden=48, dim=24):
    shapes = {"0.linear.weight": (hidden, 4 * scales), "0.linear.bias": (hidden,), "0.layernorm.weight": (hidden,),
              "0.layernorm.bias": (hidden,), "1.linear.weight": (dim, hidden), "1.linear.bias": (dim,)}  # fmt: skip
    ffn = made_up({f"spa_enc.ffn.layers.{name}": shape for name, shape in shapes.items()}, 3)
    return ffn | {"class_emb.weight": torch.zeros(7, dim), "user_emb.weight": torch.zeros(1, dim)}


def csp_checkpoint(activation="leakyrelu"):
    """As CSP saves a model pre-trained with images."""
    state = csp_state()
    full = state | {f"loc_enc.{name}": value for name, value in state.items()}
    full |= {"img_dec.weight": torch.zeros(24, 5), "img_dec.bias": torch.zeros(24)}
    params = {
        "spa_enc_type": "gridcell", "freq_init": "geometric", "spa_f_act": activation, "frequency_num": 32,
        "min_radius": 0.1, "max_radius": 360.0, "dropout": 0.5, "skip_connection": True, "num_classes": np.int64(7),
        "map_range": [-180, 180, -90, 90], "rbf_anchor_pt_ids": None,
    }  # fmt: skip
    return {"epoch": 1, "state_dict": full, "optimizer": {"state": {}}, "params": params}


def saved(content, path):
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of each layout, by name."""
    contents = {"geoclip": geoclip_state(), "satclip": satclip_checkpoint(), "csp leakyrelu": csp_checkpoint()}
    contents["csp gelu"] = csp_checkpoint("gelu")
    folder = tmp_path_factory.mktemp("published")
    return {name: saved(content, folder / name) for name, content in contents.items()}


def assert_golden(encoder, name, *dtypes):
    golden = {key: torch.tensor(v, dtype=torch.float64) for key, v in json.loads(GOLDEN.read_text()).items()}
    for dtype in dtypes:
        with torch.no_grad():
            found = encoder(golden["lonlat"].to(dtype))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found[:, :6].double(), golden[name], rtol=0, atol=1e-5)


def test_encoders_give_the_published_numbers(files):
    with pytest.warns(UserWarning, match="not the weights of geoclip 1.3.0"):
        assert_golden(geoclip_location(files["geoclip"]), "geoclip", torch.float32)
    assert_golden(satclip_location(files["satclip"]), "satclip", torch.float32, torch.float64)
    for name in ("csp leakyrelu", "csp gelu"):
        assert_golden(csp_location(files[name]), name, torch.float64)


@pytest.mark.skipif("GEONB_GEOCLIP" not in os.environ, reason="the wheel of geoclip 1.3.0 is not named by GEONB_GEOCLIP")
def test_trained_geoclip_gives_the_published_numbers_and_has_the_published_hash(recwarn):
    assert_golden(geoclip_location(os.environ["GEONB_GEOCLIP"]), "geoclip trained", torch.float32)
    assert not [w for w in recwarn if "SHA-256" in str(w.message)]


def test_encoders_come_in_float32_ready_to_train_and_draw_no_random_numbers(files):
    before = torch.get_rng_state()
    encoders = [geoclip_location(files["geoclip"]), satclip_location(files["satclip"]), csp_location(files["csp gelu"])]
    assert torch.equal(torch.get_rng_state(), before)
    for encoder in encoders:
        assert not any(module.training for module in encoder.modules())
        assert {p.dtype for p in encoder.parameters()} == {torch.float32}
        encoder(torch.tensor([[10.0, 20.0], [180.0, -90.0]])).square().sum().backward()
        assert all(p.requires_grad and p.grad is not None for p in encoder.parameters())


def test_an_encoder_is_loaded_from_every_form_of_its_checkpoint(tmp_path):
    checkpoint = satclip_checkpoint(degrees=4, hidden=20, dim=6)
    model = {name.removeprefix("model."): value for name, value in checkpoint["state_dict"].items()}
    encoder = {name.removeprefix("location."): value for name, value in model.items() if name.startswith("location.")}
    csp = csp_checkpoint()
    bare = csp | {"state_dict": csp_state()}  # without the part for images
    other = csp | {"params": csp["params"] | {"min_radius": 0.2}}
    lonlat = torch.tensor([[10.0, 20.0], [-180.0, 90.0]], dtype=torch.float64)
    first, *others = [satclip_location(saved(c, tmp_path / "s"))(lonlat) for c in (checkpoint, model, encoder)]
    assert first.shape == (2, 6) and all(torch.equal(first, other) for other in others)
    full, bare, other = (csp_location(saved(c, tmp_path / "c"))(lonlat) for c in (csp, bare, other))
    assert torch.equal(bare, full) and not torch.allclose(other, full)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_a_checkpoint_of_a_wrapped_or_compiled_model_is_read(prefix, files, tmp_path):
    lonlat = torch.tensor([[10.0, 20.0], [-180.0, 90.0]])
    for name, file in (("geoclip", "geoclip"), ("satclip", "satclip"), ("csp", "csp leakyrelu")):
        loader, make, state_of, _ = LAYOUTS[name]
        content = make()
        state = state_of(content)
        for key in list(state):
            parent, _, rest = key.partition(".")
            state[f"{prefix}{parent}.{prefix}{rest}"] = state.pop(key)
        wrapped = loader(saved(content, tmp_path / "w.pth"))
        assert torch.equal(wrapped(lonlat), loader(files[file])(lonlat))


def test_geoclip_is_found_installed_and_in_a_wheel_without_importing_it(tmp_path, files, monkeypatch):
    weights, wheel_path = tmp_path / GEOCLIP_WEIGHTS, tmp_path / "geoclip-0-py3-none-any.whl"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(files["geoclip"].read_bytes())
    (tmp_path / "geoclip" / "__init__.py").write_text("raise AssertionError('imported')")
    with zipfile.ZipFile(wheel_path, "w") as wheel:
        wheel.write(weights, GEOCLIP_WEIGHTS)
    monkeypatch.syspath_prepend(tmp_path)
    lonlat = torch.tensor([[10.0, 20.0]])
    expected = geoclip_location(files["geoclip"])(lonlat)
    assert torch.equal(geoclip_location()(lonlat), expected)
    assert torch.equal(geoclip_location(wheel_path)(lonlat), expected)


LAYOUTS = {  # loader, content, the state in it, the name of a weight
    "geoclip": (geoclip_location, geoclip_state, lambda c: c, "LocEnc1.capsule.3.bias"),
    "satclip": (satclip_location, satclip_checkpoint, lambda c: c["state_dict"], "model.location.nnet.layers.1.bias"),
    "csp": (csp_location, csp_checkpoint, lambda c: c["state_dict"], "loc_enc.spa_enc.ffn.layers.0.layernorm.bias"),
}
pytestmark = pytest.mark.filterwarnings("ignore:.*not the weights of geoclip 1.3.0")


def test_geoclip_absent_or_in_another_wheel_is_an_error_with_advice(tmp_path, monkeypatch):
    path = tmp_path / "other.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("other/__init__.py", "")
    with pytest.raises(ValueError, match="other.whl: not the published layout"):
        geoclip_location(path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="not installed; pip install geoclip==1.3.0 --no-deps"):
        geoclip_location()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_missing_unknown_and_misshapen_weights_are_named(layout, tmp_path):
    loader, make, state_of, key = LAYOUTS[layout]
    content = make()
    state, good = state_of(content), state_of(content)[key]

    def refused(message):
        with pytest.raises(ValueError, match=message):
            loader(saved(content, tmp_path / "weights.pth"))

    del state[key]
    refused("(?s)not the published layout .*Missing key.*bias")
    state[key] = torch.zeros(len(good) + 1)
    refused("(?s)not the published layout .*size mismatch for .*bias")
    state[key] = [0.0]
    refused("not the published layout")
    state[key], state[key.replace("bias", "extra")] = good, good
    refused("(?s)not the published layout .*Unexpected key.*extra")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_that_are_no_checkpoint_are_refused(layout, tmp_path):
    loader, make, *_ = LAYOUTS[layout]
    path = saved(make(), tmp_path / "weights.pth")
    for damaged in (path.read_bytes()[:5000], b"", b"<html>404</html>", b"\x80\x02]q\x00."):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="weights.pth: not the published layout"):
            loader(path)
    others = [LAYOUTS[name][1]() for name in LAYOUTS.keys() - {layout}]
    for other in ([torch.zeros(2)], {1: torch.zeros(2)}, {}, *others):
        with pytest.raises(ValueError, match="weights.pth: not the published layout"):
            loader(saved(other, path))
    with pytest.raises(FileNotFoundError, match="nothing.pth"):
        loader(tmp_path / "nothing.pth")


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_malicious_pickle_is_refused_and_nothing_runs(layout, tmp_path):
    loader, make, state_of, key = LAYOUTS[layout]
    marker, path = tmp_path / "ran", tmp_path / "weights.pth"
    content = make()
    state_of(content)[key] = Payload(marker)
    for write in (
        lambda: torch.save(content, path),
        lambda: torch.save(content, path, _use_new_zipfile_serialization=False),
        lambda: path.write_bytes(pickle.dumps({"state_dict": Payload(marker)}, protocol=2)),
    ):
        write()
        with pytest.raises(ValueError, match="could run code, which are refused") as refused:
            loader(path)
        assert "weights_only" not in str(refused.value) and "\x1b" not in str(refused.value)
    assert not marker.exists()
    pickle.loads(path.read_bytes())
    assert marker.exists()  # the payload was live


@pytest.mark.parametrize(
    "loader, make, part, change, message",
    [
        (satclip_location, satclip_checkpoint, "hyper_parameters", {"le_type": "grid"}, "le_type is 'grid'; only"),
        (satclip_location, satclip_checkpoint, "state_dict", {"model.location.nnet.layers.0.weight": torch.zeros(32, 99)}, "99"),
        (csp_location, csp_checkpoint, "params", {"spa_f_act": "relu"}, "spa_f_act is 'relu'; only 'leakyrelu'"),
        (csp_location, csp_checkpoint, "params", {"frequency_num": 16}, "16"),
    ],
)
def test_settings_that_mean_another_encoder_are_refused(tmp_path, loader, make, part, change, message):
    checkpoint = make()
    checkpoint[part] |= change
    with pytest.raises(ValueError, match=f"other.ckpt: not the published layout.*{message}"):
        loader(saved(checkpoint, tmp_path / "other.ckpt"))
