"""Time, memory and fidelity of projections, beside umap-learn as it comes.

    python benchmarks/explore_projection.py [--run RUN] [--rows 100000] [--out FILE.json] [--quick]

Each case runs in a process of its own, compilation and imports included. ``cpu_s`` is the processor time of all
threads: on a machine that does other work as well, wall time says more about that work. ``alone_s`` is an estimate of
the wall time on two idle cores: the layout runs on one thread, the search for neighbours on two.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings

import numpy as np
from measuring import in_fresh_process, peak_mb, write

CASES = ("geonb", "umap-learn")


def embeddings(run: str | None, rows: int) -> np.ndarray:
    """Of places on land under a trained run; without one, harmonics of degree 10 through a random smooth network."""
    from geonb.data.sampling import land_points

    lonlat = land_points(rows)
    if run:
        import geonb

        return geonb.load(run).embed_locations(lonlat)
    import torch

    from geonb.encoders.location import positional_encoding

    z = positional_encoding("spherical_harmonics", degrees=10)(torch.as_tensor(lonlat, dtype=torch.float32)).numpy()
    mix = np.random.default_rng(0).normal(size=(z.shape[1], 256)) / np.sqrt(z.shape[1])
    return np.tanh(z @ mix).astype(np.float32)


def case(name: str, run: str | None, rows: int) -> dict:
    z = embeddings(run, rows)
    before, wall, cpu = peak_mb(), time.perf_counter(), time.process_time()
    marks = {}

    def mark(what: str) -> None:
        marks[what] = (time.perf_counter() - wall, time.process_time() - cpu)

    if name == "geonb":
        from geonb.explore.projection import fit_projection, nearest_by_cosine

        near = nearest_by_cosine(z, 15)
        mark("near")
        fitted = fit_projection(z, near=near)
        xy, recall = fitted.xy, fitted.recall
    else:
        from umap import UMAP

        warnings.filterwarnings("ignore", module="umap")
        xy, recall = UMAP(metric="cosine", random_state=0).fit_transform(z), None
        mark("near")
    mark("all")
    near_cpu = marks["near"][1] if name == "geonb" else 0
    from geonb.explore.projection import projection_scores

    return {"case": name, "rows": rows, "wall_s": round(marks["all"][0], 1), "cpu_s": round(marks["all"][1], 1),
            "near_cpu_s": round(near_cpu, 1), "alone_s": round(marks["all"][1] - near_cpu / 2, 1), "recall": recall,
            "peak_mb": round(peak_mb() - before), **projection_scores(z, xy).to_dict()}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="a trained run; without one a smooth made-up space is projected")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--out", metavar="FILE.json")
    parser.add_argument("--quick", action="store_true", help="3,000 rows")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    rows = 3000 if args.quick else args.rows
    if args.case:
        print(json.dumps(case(args.case, args.run, rows)))
        return
    results = []
    print(f"{'':12}{'wall s':>8}{'cpu s':>8}{'alone s':>9}{'MB':>7}  trust.  kept  distances")
    for name in CASES:
        options = ["--case", name, "--rows", rows, *(["--run", args.run] if args.run else [])]
        r = in_fresh_process(__file__, *options, threads=2, timeout=3600)
        results.append(r)
        print(f"{name:12}{r['wall_s']:8.1f}{r['cpu_s']:8.1f}{r['alone_s']:9.1f}{r['peak_mb']:7}"
              f"  {r['trustworthiness']:.3f}  {r['kept']:.2f}  {r['distances']:.2f}", flush=True)  # fmt: skip
    write(args.out, results)


if __name__ == "__main__":
    sys.exit(main())
