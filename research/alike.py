"""Which distant places an embedding finds similar, by binding: writes geonb/results/alike.json.

    python research/alike.py [--seeds 5] [--out runs/alike]

Finished runs stay, so the script can be stopped and started again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

import geonb
from geonb import workspace
from geonb._util import provenance
from geonb.config import TrainConfig
from geonb.evaluation.spatial import similar_beyond
from geonb.geo import great_circle_km
from geonb.training import train

ROOT = Path(__file__).resolve().parent.parent
BOUND = {
    "text": ("imagebind", ("location", "text")),
    "sentinel2": ("imagebind", ("location", "sentinel2")),
    "text and sentinel2": ("imagebind", ("location", "text", "sentinel2")),
    "fused": ("fused", ("location", "text", "sentinel2")),
    "satclip": ("satclip", ("location", "sentinel2")),
}
KM, K = (250.0, 500.0, 1000.0, 2000.0, 3500.0, 5000.0), 50
LABELS = ("language", "climate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "alike")
    options = parser.parse_args()
    store = workspace.data()
    labels = {name: np.array([v or "" for v in store.column(name)], str) for name in LABELS}
    rows = []

    def add(bound: str, seed: int, km: float, z: np.ndarray) -> None:
        near = similar_beyond(z, store.lonlat, km, K)
        distances = great_circle_km(np.repeat(store.lonlat, K, 0), store.lonlat[near.ravel()])
        row = {"bound": bound, "seed": seed, "beyond_km": km, "median_km": float(np.median(distances))}
        for name, values in labels.items():
            row[name] = float((values[near] == values[:, None]).mean(1)[values != ""].mean())
        rows.append(row)

    for seed in range(options.seeds):
        rng = np.random.default_rng(seed)
        for bound, (architecture, modalities) in BOUND.items():
            out = options.out / f"{bound.replace(' ', '-')}-{seed}"
            changes = {"seed": seed, "modalities": modalities}
            train(architecture, store, out, TrainConfig(**changes), resume=(out / "config.yaml").exists())
            model = geonb.load(out)
            z = model.embed_locations(store.lonlat)
            for km in KM:
                add(bound, seed, km, z)
        for km in KM:  # chance: any places that are far enough
            add("chance", seed, km, rng.normal(size=(len(store), 64)).astype(np.float32))
    made = provenance() | {
        "made_by": "research/alike.py",
        "device": model.manifest["device"],
        "data": {"name": store.path.name, "hash": store.data_hash, "places": len(store)},
        "seeds": options.seeds,
        "steps": TrainConfig().steps,
        "k": K,
        "simulated": {m: store.simulated(m) for m in ("text", "sentinel2")},
    }
    path = ROOT / "geonb" / "results" / "alike.json"
    path.write_text(json.dumps({"provenance": made, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    print(f"{path}: {len(rows)} rows")


if __name__ == "__main__":
    main()
