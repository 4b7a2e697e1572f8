"""A small version of the experiments on real articles and chips (skips loudly when the data are not there)."""

import json
from pathlib import Path

import pytest
from real_data import main, real_data
from world import SMALL, make_world

from geonb import workspace
from geonb.config import TrainConfig
from geonb.training import train

try:
    real_data()
    WHY_NOT = ""
except FileNotFoundError as error:
    WHY_NOT = str(error)

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(bool(WHY_NOT), reason=f"REAL DATA ABSENT, real texts and images were not tested: {WHY_NOT}")
def test_real_articles_bind_to_positions_and_real_water_falls_apart_from_land(tmp_path):
    small = TrainConfig(steps=20, batch_size=64, split=SMALL.split, backbones=SMALL.backbones)
    atlas = train("imagebind", make_world(tmp_path / "world"), tmp_path / "atlas", small, progress=False)
    arguments = ["--seeds", "1", "--steps", "80", "--text-backbone", "lsa", "--splits", "random", "--work", str(tmp_path / "work")]
    result = main([*arguments, "--atlas-run", str(atlas), "--out", str(tmp_path / "real.json")])
    assert json.loads((tmp_path / "real.json").read_text()) == result

    def recall(trained_on):
        (row,) = [r for r in result["text"] if r["trained_on"] == trained_on and r["queries"] == "held-out articles"
                  and r["names"] == "kept"]  # fmt: skip
        return row["recall@10"], row["chance@10"], row["median_km"], row["chance_median_km"]

    found, chance, km, chance_km = recall("articles only")
    assert found > 4 * chance and km < 0.5 * chance_km  # measured: about 12 times chance and a quarter of the distance
    water = [r for r in result["image"]["nearest"] if r["kind"] == "water" and r["offset"] == "offset removed"]
    assert water[0]["tiles"] == 32 and water[0]["same_kind"] > 2 * water[0]["chance"]
    assert result["provenance"]["articles"] > 1400 and result["provenance"]["tiles"] == 192


@pytest.mark.parametrize("name, key", [("real", "text"), ("grid", "probes"), ("alike", "rows")])
def test_committed_results_carry_their_provenance(name, key):
    result = workspace.committed(name)
    made = result["provenance"]
    assert result[key] and (ROOT / "research" / Path(made["made_by"]).name).exists()  # some were in scripts/ when they ran
    assert {"date", "device", "versions", "steps", "seeds"} <= made.keys()
