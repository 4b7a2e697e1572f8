"""The grid behind the chapter of the six hypotheses: writes geonb/results/grid.json.

    python research/grid.py [--seeds 5] [--workers 2] [--out runs/grid]

Finished cells stay, so the script can be stopped and started again. Where the wheel of geoclip
1.3.0 is installed or named by GEONB_GEOCLIP, its location encoder is one of the reference rows.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
from cells import LOCATION_ENCODERS, MASKED, Cell, Settings, run_cells
from hypotheses import hypotheses
from leaks import leak_rate
from scores import GridScores, summarise

from geonb import workspace
from geonb._util import provenance
from geonb.data.texts import mask_names, names_of
from geonb.encoders.features import features
from geonb.encoders.image import image_backbone
from geonb.encoders.text import text_backbone
from geonb.evaluation.folds import PUBLISHED, REFERENCES, published_embeddings
from geonb.evaluation.protocols import block_km
from geonb.evaluation.tasks import TASKS

ROOT = Path(__file__).resolve().parent.parent
CEILINGS = ("text features", "sentinel2 features")
ENCODERS = [e for e in LOCATION_ENCODERS if e != "own"]
APART = {km: {"options": {"exclude_km": km}} for km in (100.0, 1000.0)}


def cells(seeds: int, published: bool) -> list[Cell]:
    """List every run of every seed, one seed after another, so that a grid that is stopped has whole seeds."""
    both, found = ("text", "sentinel2"), []
    references = [*REFERENCES, *CEILINGS, *([PUBLISHED] if published else [])]
    for seed in range(seeds):
        found += [Cell(name, seed=seed) for name in references]
        for encoder in ENCODERS:
            found += [Cell(a, both, encoder, seed) for a in ("imagebind", "cyclic", "fused")]
            found += [Cell("imagebind", (m,), encoder, seed) for m in both]
            found += [Cell(a, ("sentinel2",), encoder, seed) for a in ("satclip", "geoclip", "csp")]
        found += [Cell(a, ("sentinel2",), "own", seed) for a in ("satclip", "geoclip", "csp")]
        for km, changes in APART.items():
            variant = f"no negatives within {km:,.0f} km"
            found += [Cell("imagebind", (m,), "degree 20", seed, variant, changes) for m in both]
        found.append(Cell("imagebind", (MASKED, "sentinel2"), "degree 20", seed))
        found.append(Cell("cyclic", both, "degree 20", seed, "position learns", {"options": {"location_learns": True}}))
    return found


def write_features(store, path: Path) -> dict:
    """Write features of masked texts, of the backbones and of the published encoder.

    Returns how well names were masked, and whether the published encoder is there.
    """
    backbone = text_backbone("auto", fit_on=[])
    rows = np.flatnonzero(store.has("text"))
    names, shared = names_of(store, rows)
    texts = store.texts(rows)
    masked = mask_names(texts, names, shared)

    def spread(has, values):
        full = np.full((len(store), values.shape[1]), np.nan, np.float32)
        full[has] = values
        return full

    arrays = {
        MASKED: spread(rows, backbone.encode(masked, progress=True)),
        "text features": spread(rows, features(store, "text", backbone)),
        "sentinel2 features": spread(store.has("sentinel2"), features(store, "sentinel2", image_backbone())),
    } | published_embeddings(store.lonlat)
    np.savez(path, **arrays)
    return {
        "texts with own names": leak_rate(texts, names),
        "after masking": leak_rate(masked, names),
        "published encoder": PUBLISHED in arrays,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "grid")
    args = parser.parse_args()
    os.environ["GEONB_HOME"] = str(ROOT)
    store = workspace.data()
    args.out.mkdir(parents=True, exist_ok=True)
    extra, note = args.out / "extra.npz", args.out / "extra.json"
    if not note.exists():
        note.write_text(json.dumps(write_features(store, extra)), encoding="utf-8")
    masking = json.loads(note.read_text(encoding="utf-8"))
    size_km, ranges = block_km(store, TASKS)
    settings = Settings(str(store.path), str(args.out), size_km, extra=str(extra))
    grid = cells(args.seeds, masking["published encoder"])
    run_cells(grid, settings, args.workers)

    scores = GridScores(settings, grid)
    runs = [row for row in scores.rows.values() if "training" in row]
    made = provenance() | {
        "made_by": "research/grid.py",
        "data": {"name": store.path.name, "hash": store.data_hash, "places": len(store)},
        "simulated": {m: bool(store.simulated(m)) for m in ("text", "sentinel2")},
        "seeds": len(scores.seeds),
        "runs": len(runs),
        "cells": len(scores.rows),
        "steps": settings.steps,
        "batch_size": settings.batch_size,
        "block_km": size_km,
        "buffer_km": settings.buffer_km,
        "correlation_range_km": ranges,
        "masking": masking,
        "training_cpu_s": round(sum(row["training"]["wall_s"] for row in runs)),
        "evaluation_cpu_s": round(sum(row["evaluation_s"] for row in scores.rows.values())),
    }
    content = {"provenance": made} | summarise(scores) | {"hypotheses": hypotheses(scores, ENCODERS)}
    out = ROOT / "geonb" / "results" / "grid.json"
    rounded = json.loads(json.dumps(content), parse_float=lambda number: round(float(number), 5))  # tables show 2 or 3
    out.write_text(json.dumps(rounded, indent=0, allow_nan=False) + "\n", encoding="utf-8")
    print(out)


if __name__ == "__main__":
    main()
