import math
import os
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
from world import SMALL

from geonb.config import TrainConfig, build, config_from_file, resolve, split_of


@pytest.mark.parametrize(
    "given, message",
    [
        ({"steps": 0}, "steps: .*greater than or equal to 1; got 0"),
        ({"betas": [0.9]}, "betas.1: "),
        ({"split": "blocked"}, "split: .*dictionary; got 'blocked'"),
        ({"encoding": "grid"}, r"encoding: give a mapping with a name, such as \{name: residual\}; got 'grid'"),
        ({"learning_rate": 0.1}, "learning_rate is not a field of the config"),
        ({"stpes": 3}, "stpes is not a field of the config; did you mean steps?"),
        ({"lr": math.inf}, "lr: .*finite number; got inf"),
        ({"options": {"soft_km": math.nan}}, "options: soft_km is nan, not a finite number"),
    ],
)
def test_a_faulty_field_is_named_in_one_line(given, message):
    with pytest.raises(ValueError, match=f"^{message}") as raised:
        TrainConfig(**given)
    assert "\n" not in str(raised.value)


def test_numbers_in_a_file_may_have_an_exponent_at_any_depth(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "lr: 1e-4\noptions: {exclude_km: 1e1, queue: 1000}\nsplit: {kind: blocked, size_km: 1.5e3}\nbetas: [0.9, 1e-1]\n"
    )
    config = config_from_file(tmp_path / "c.yaml")
    assert (config.lr, config.betas, config.split["size_km"]) == (1e-4, (0.9, 0.1), 1500.0)
    assert config.options == {"exclude_km": 10.0, "queue": 1000} and TrainConfig(**asdict(config)) == config


def test_a_faulty_file_is_named(tmp_path):
    for text, message in (
        ("steps: 2.5\n", "steps: .*2.5"),
        ("", "write fields of the config"),
        ("options: !!python/object/apply:os.system [echo]\n", "not YAML"),
    ):
        (tmp_path / "c.yaml").write_text(text)
        with pytest.raises(ValueError, match=f"c.yaml: {message}"):
            config_from_file(tmp_path / "c.yaml")


@pytest.mark.parametrize("encoding, remedy", [("utf-16", "iconv -f UTF-16"), ("cp1252", "iconv -f CP1252")])
def test_a_file_in_another_encoding_is_named_with_the_remedy(encoding, remedy, tmp_path):
    (tmp_path / "c.yaml").write_text("# für später\nsteps: 7\n", encoding=encoding)
    with pytest.raises(ValueError, match=f"c.yaml: not UTF-8 .*{remedy} -t UTF-8"):
        config_from_file(tmp_path / "c.yaml")


def test_a_file_in_utf_8_is_read_under_any_locale(tmp_path):
    (tmp_path / "c.yaml").write_text("# für später\nsteps: 7\n", encoding="utf-8-sig")
    code = f"from geonb.config import config_from_file; print(config_from_file({str(tmp_path / 'c.yaml')!r}).steps)"
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | locale, capture_output=True, text=True)
    assert done.stdout.strip() == "7", done.stderr


@pytest.mark.parametrize(
    "architecture, changes, message",
    [
        ("imagebnd", {}, "unknown architecture 'imagebnd'; choose one of imagebind"),
        ("fused", {"modalities": ("location", "sound")}, "no modality 'sound'; .* has location, text, sentinel2"),
        ("fused", {"modalities": ("text", "sentinel2")}, "bind location and at least one other, each once"),
        ("cyclic", {"patience": 2}, "in the middle of a phase"),
        ("fused", {"backbones": {"images": "random_conv"}}, "backbones: 'images' is none of text, sentinel2"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(architecture, changes, message, world):
    with pytest.raises(ValueError, match=message):
        resolve(architecture, world, replace(SMALL, **changes))


@pytest.mark.parametrize(
    "architecture, changes",
    [
        ("geoclip", {"options": {"queue": -1}}), ("imagebind", {"options": {"micro_batch": 2.5}}),
        ("imagebind", {"network": {"name": "siren", "hidden": 0}}), ("fused", {"head": {"name": "residual", "hidden": -1}}),
    ],
)  # fmt: skip
def test_an_option_of_no_use_is_named_by_its_field_when_the_model_is_made(architecture, changes, world):
    config = resolve(architecture, world, replace(SMALL, **changes))
    with pytest.raises(ValueError, match=f"^{min(changes)}: "):
        build(architecture, config, {"text": 4, "sentinel2": 4})


def test_open_fields_are_filled_and_given_ones_stay(world):
    config = resolve("satclip", world, SMALL)
    assert config.modalities == ("location", "sentinel2") and config.network == {"name": "siren", "hidden": 256}
    assert config.encoding == SMALL.encoding and config.backbones == {"sentinel2": "random_conv"}
    assert resolve("satclip", world, config) == config
    assert resolve("fused", world, SMALL).modalities == ("location", "text", "sentinel2")


def test_an_extra_modality_is_checked(world):
    features = np.zeros((len(world), 2))
    assert resolve("fused", world, SMALL, {"climate": features}).modalities[-1] == "climate"
    infinite = features.copy()
    infinite[3, 1] = np.inf
    for extra, message in (({"climate": features[:5]}, "a row per place of the store"), ({"text": features}, "a new name"),
                           ({"climate": infinite}, "place p3 is infinite")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            resolve("fused", world, SMALL, extra)


def test_a_faulty_split_is_refused(world):
    for split, message in (
        ({"kind": "blocks"}, "its kind is blocked or random, not 'blocks'"),
        ({"kind": "blocked", "size": 30}, "split: .*'size'.*misspelt option"),
    ):
        with pytest.raises(ValueError, match=message):
            split_of(world, {"split": split})
