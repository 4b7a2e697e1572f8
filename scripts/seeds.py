"""Several seeds of every architecture on the Atlas sample: writes geonb/results/seeds.json, with its provenance.

    python scripts/seeds.py [--seeds 3]

Finished runs are kept in runs/seeds, so the script can be stopped and started again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from datetime import date
from pathlib import Path

import torch

from geonb import __version__, workspace
from geonb.evaluation.suite import evaluate
from geonb.training import TrainConfig, train

ROOT = Path(__file__).resolve().parent.parent
VARIANTS = {
    "imagebind": ("imagebind", {}),
    "cyclic": ("cyclic", {}),
    "cyclic, position learns": ("cyclic", {"options": {"location_learns": True}}),
    "fused": ("fused", {}),
    "satclip": ("satclip", {}),
    "satclip, text": ("satclip", {"modalities": ("location", "text")}),
    "geoclip": ("geoclip", {}),
    "csp": ("csp", {}),
}
KEEP = ("task", "split", "metric", "value")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args().seeds)
    os.environ["GEONB_HOME"] = str(ROOT)
    store = workspace.data()
    probes, retrieval, references = [], [], []
    for seed in seeds:
        runs = {}
        for name, (architecture, changes) in VARIANTS.items():
            path = ROOT / "runs" / "seeds" / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
            runs[path.name] = name
            train(architecture, store, path, TrainConfig(seed=seed, **changes), resume=True)
        results = evaluate([ROOT / "runs" / "seeds" / r for r in runs], store)
        for row in results["probes"]:
            if row["is_reference"]:
                references += [{"name": row["representation"]} | {k: row[k] for k in KEEP}] if seed == 0 else []
            else:
                probes.append({"name": runs[row["representation"]], "seed": seed} | {k: row[k] for k in KEEP})
        for row in results["retrieval"]:
            own = {k: row[k] for k in ("query", "target", "trained", "n", "recall@10", "chance@10", "median_km")}
            retrieval.append({"name": runs[row["run"]], "seed": seed} | own)

    out = ROOT / "geonb" / "results" / "seeds.json"
    out.parent.mkdir(exist_ok=True)
    provenance = {
        "made_by": "scripts/seeds.py",
        "date": date.today().isoformat(),
        "data": {"name": store.path.name, "hash": store.data_hash, "places": len(store)},
        "simulated": {m: bool(store.simulated(m)) for m in ("text", "image")},
        "seeds": len(seeds),
        "steps": TrainConfig().steps,
        "batch_size": TrainConfig().batch_size,
        "device": f"cpu, {os.cpu_count()} cores, {platform.machine()}",
        "versions": {"geonb": __version__, "torch": torch.__version__},
    }
    content = {"provenance": provenance, "probes": probes, "references": references, "retrieval": retrieval}
    out.write_text(json.dumps(content, indent=1) + "\n")
    print(out)


if __name__ == "__main__":
    main()
