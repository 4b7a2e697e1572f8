"""Time, memory and disk of ``geonb embed`` for a table of many points.

    python benchmarks/embed.py RUN [--points N] [--out FILE.json]

The table is a CSV file of random points with a name each. It is embedded into GeoParquet, then into CSV, each in
a process of its own; ``peak_mb`` is the most that process held. N is 1,000,000 by default, which takes up to 4 GB
of disk at 256 dimensions.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from measuring import in_fresh_process, peak_mb, write

from geonb._util import cores
from geonb.data.sampling import random_points
from geonb.inference import embed_table


def make_table(path: Path, n: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write("name,lon,lat\n")
        file.writelines(f"place {i},{lon:.6f},{lat:.6f}\n" for i, (lon, lat) in enumerate(random_points(n).tolist()))


def embed(run: str, table: str, out: str) -> dict:
    """Embed a table in this process."""
    started = time.perf_counter()
    n = embed_table(run, table, out, progress=False)
    seconds = time.perf_counter() - started
    return {"s": seconds, "per_s": n / seconds, "peak_mb": peak_mb(), "disk_mb": Path(out).stat().st_size / 2**20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--points", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--out", metavar="FILE.json")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(embed(options.run, *options.case)))
        return
    results = []
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "points.csv"
        make_table(table, options.points)
        for suffix in (".parquet", ".csv"):
            out = Path(folder) / f"out{suffix}"
            case = (__file__, options.run, "--case", table, out)
            row = in_fresh_process(*case, threads=cores(), timeout=7200)
            results.append({"case": f"embed to {suffix}", "points": options.points, "threads": cores()} | row)
            out.unlink()
            print(json.dumps(results[-1]), flush=True)
    write(options.out, results)


if __name__ == "__main__":
    main()
