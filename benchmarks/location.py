"""Speed and memory of the location encoders, against other implementations in the same run.

    python benchmarks/location.py [--out FILE.json] [--quick]

Cases: one write of the output ("write"), our harmonics, the recurrence degree by degree, and each before SIREN.
``GEONB_SATCLIP`` may name a checkout of SatCLIP, whose own table is then timed too, in float64 as
it is evaluated there. Every case runs in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
from pathlib import Path

import torch
from measuring import in_fresh_process, timed, write

from geonb.data.sampling import random_points
from geonb.encoders.harmonics import SphericalHarmonics
from geonb.encoders.location import LocationEncoder, network

DEGREES, HIDDEN, DIM = 40, 512, 256  # of SatCLIP's larger published encoder
CASES = ("write", "ours", "recurrence", "satclip", "encoder", "encoder_recurrence", "encoder_satclip")


def recurrence(lonlat: torch.Tensor) -> torch.Tensor:
    """Evaluate the usual three-term recurrence over all points, a tensor per degree, joined at the end."""
    lon, lat = torch.deg2rad(lonlat).unbind(1)
    x, s = lat.sin(), lat.cos()
    orders = torch.arange(DEGREES, dtype=lonlat.dtype)[:, None]
    cos, sin = (orders * lon).cos(), (orders * lon).sin()
    rows, before, last = [], None, torch.full_like(x, math.sqrt(1 / (4 * math.pi)))[None]
    for l in range(DEGREES):
        if l:
            row = math.sqrt(2 * l + 1) * x * last[-1:]
            if l >= 2:
                m = orders[: l - 1]
                a = ((4 * l * l - 1) / (l * l - m * m)).sqrt()
                b = (((l - 1) ** 2 - m * m) / (4 * (l - 1) ** 2 - 1)).sqrt()
                row = torch.cat([a * (x * last[:-1] - b * before), row])
            before, last = last, torch.cat([row, math.sqrt((2 * l + 1) / (2 * l)) * s * last[-1:]])
        positive = math.sqrt(2) * last[1:]
        rows.append(torch.cat([(positive * sin[1 : l + 1]).flip(0), last[:1], positive * cos[1 : l + 1]]))
    return torch.cat(rows).T


def satclip(lonlat: torch.Tensor) -> torch.Tensor:
    """Evaluate the table of SatCLIP's checkout, harmonic by harmonic."""
    files = sorted(Path(os.environ["GEONB_SATCLIP"]).rglob("spherical_harmonics_ylm.py"))
    if not files:
        raise SystemExit("GEONB_SATCLIP names a folder without spherical_harmonics_ylm.py; give a checkout of SatCLIP")
    spec = importlib.util.spec_from_file_location("satclip_ylm", files[0])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    phi, theta = torch.deg2rad(lonlat[:, 0] + 180), torch.deg2rad(lonlat[:, 1] + 90)
    features = [module.SH(m, l, phi, theta) for l in range(DEGREES) for m in range(-l, l + 1)]
    return torch.stack([y if torch.is_tensor(y) else torch.full_like(phi, y) for y in features], -1)


def case(name: str, n: int) -> dict:
    """Measure one case in this process."""
    dtype = torch.float64 if "satclip" in name else torch.float32
    lonlat, encoding = torch.tensor(random_points(n), dtype=dtype), SphericalHarmonics(DEGREES)
    net = network("siren", encoding.dim, DIM, hidden=HIDDEN).eval().to(dtype)
    encoder = LocationEncoder(encoding, net)
    run = {
        "write": lambda: torch.empty(n, encoding.dim).fill_(1.0),
        "ours": lambda: encoding(lonlat),
        "recurrence": lambda: recurrence(lonlat),
        "satclip": lambda: satclip(lonlat),
        "encoder": lambda: encoder(lonlat),
        "encoder_recurrence": lambda: net(recurrence(lonlat)),
        "encoder_satclip": lambda: net(satclip(lonlat)),
    }[name]
    with torch.inference_mode():
        result = timed(run, 2 if "satclip" in name else 7)
    width = DIM if "encoder" in name else encoding.dim
    return result | {"beyond_output_mb": result["peak_mb"] - n * width * lonlat.dtype.itemsize / 2**20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", metavar="FILE.json")
    parser.add_argument("--quick", action="store_true", help="10,000 points on one thread only")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--points", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        print(json.dumps(case(options.case, options.points)))
        return
    results = []
    for threads, n in ((1, 10_000),) if options.quick else ((1, 10_000), (1, 100_000), (2, 100_000)):
        for name in CASES:
            if "satclip" in name and "GEONB_SATCLIP" not in os.environ:
                continue
            row = in_fresh_process(__file__, "--case", name, "--points", n, threads=threads)
            results.append({"case": name, "points": n, "threads": threads} | row)
            print(json.dumps(results[-1]), flush=True)
    write(options.out, results)


if __name__ == "__main__":
    main()
