"""What users rely on by name: commands with their options, files of a store and of a run, fields of the results.

A change here is a change for users: it goes into CHANGELOG with the version that makes it.
"""

import json

import pyarrow.parquet as pq
import pytest
import yaml

from geonb.cli import main
from geonb.evaluation.suite import evaluate

WIKIPEDIA = "--out --lang --min-chars --places-only --bbox"
CHIPS = "--store --points --land --seed --period --size --workers --out --method"
COMMANDS = {
    "data sample": "--out --places --seed",
    "data wikipedia table": f"SOURCE {WIKIPEDIA} --snapshot --limit",
    "data wikipedia api": f"{WIKIPEDIA} --contact --text --max-requests",
    "data sentinel2 stac": CHIPS,
    "data sentinel2 ee": f"{CHIPS} --project --max-requests --estimate",
    "data alphaearth": "STORE --year --out",
    "data local": "--csv --chips --out --drop-invalid --keep-suspicious",
    "data check": "DIR",
    "train": "ARCH --data --out --modalities --epochs --steps --batch-size --seed --devices --nodes --config --precision"
    " --extra --init --resume",
    "evaluate": "--data --out",
    "embed": "--points --out",
    "ask": "--data --top --map",
    "export": "--out --degrees --like --text",
    "explore": "--data --out",
    "doctor": "--json",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_keep_their_options(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([*command.split(), "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert [option for option in COMMANDS[command].split() if option.lower() not in shown.lower()] == []


def test_a_store_keeps_its_files_and_columns(world):
    assert {"places.parquet", "texts.parquet", "datacard.md", "manifest.json"} <= {p.name for p in world.path.iterdir()}
    places, texts = (pq.read_schema(world.path / f"{name}.parquet") for name in ("places", "texts"))
    assert {"place_id", "geometry"} <= set(places.names) and b"geo" in places.metadata
    assert {"place_id", "text"} <= set(texts.names)
    manifest = json.loads((world.path / "manifest.json").read_text())
    assert manifest["counts"]["places"] == len(world) and manifest["simulated"]["text"] is True


def test_a_run_keeps_its_files(trained):
    assert {"config.yaml", "metrics.jsonl", "model.safetensors", "manifest.json", "checkpoints"} <= {
        p.name for p in trained.iterdir()
    }
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert {"architecture", "data_hash", "modalities", "dim", "encoding", "network", "head", "steps", "lr", "split"} <= (
        config.keys()
    )
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert {"step", "loss", "held_out", "held_out/text", "held_out/sentinel2", "scale/text"} <= lines[-1].keys()
    manifest = json.loads((trained / "manifest.json").read_text())
    wanted = {"schema", "architecture", "modalities", "data", "parameters", "steps", "batch_size", "selected_step"}
    assert wanted | {"validation_loss", "seed", "precision", "device", "versions", "wall_s"} <= manifest.keys()
    assert {"name", "hash", "places", "train_places", "simulated"} <= manifest["data"].keys()


def test_results_keep_their_schema(world, trained, tmp_path):
    results = evaluate({"ours": trained}, world, out=tmp_path / "results.json")
    assert json.loads((tmp_path / "results.json").read_text()) == results
    wanted = {"schema", "created", "versions", "data", "training", "protocols", "probes", "retrieval", "information"}
    assert wanted | {"skipped"} <= results.keys()
    assert {"architecture", "modalities", "steps", "selected_step", "seed"} <= results["training"]["ours"].keys()
    row = results["retrieval"][0]
    assert {"run", "query", "target", "split", "n", "median_km", "chance_median_km"} <= row.keys()
    assert {"recall@1", "recall@10", "recall@10_low", "recall@10_high", "chance@10"} <= row.keys()
    assert {"run", "measure", "value"} <= results["information"][0].keys()
