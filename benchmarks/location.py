"""Speed and memory of the location encoders, against plain implementations in the same run.

    python benchmarks/location.py [--out FILE.json] [--quick]

``GEONB_SATCLIP`` may name a checkout of SatCLIP; its own table of harmonics is then timed too, evaluated as it
is there: feature by feature in float64, stacked, and the network in float64. Every case runs in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import torch
from measuring import in_fresh_process, timed, write

from geonb.encoders.harmonics import SphericalHarmonics, empty
from geonb.encoders.location import LocationEncoder, network, positional_encoding

DEGREES, HIDDEN, DIM = 40, 512, 256  # of SatCLIP's larger published encoder
HARMONICS = {
    "write": "one write of the output",
    "ours": "geonb",
    "ours_out": "geonb, into memory given",
    "ours_f64": "geonb, float64",
    "recurrence": "recurrence, degree by degree",
    "satclip": "SatCLIP's table, float64",
}
ENCODERS = {
    "encoder": "geonb, harmonics and SIREN",
    "encoder_bf16": "geonb, the network in bfloat16",
    "encoder_recurrence": "recurrence, then SIREN, at once",
    "encoder_satclip": "SatCLIP's table, then SIREN, float64",
}


def points(n: int, dtype=torch.float32) -> torch.Tensor:
    """Uniform over the sphere."""
    rng = np.random.default_rng(0)
    lonlat = np.stack([rng.uniform(-180, 180, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))], 1)
    return torch.tensor(lonlat, dtype=dtype)


def recurrence(lonlat: torch.Tensor, degrees: int) -> torch.Tensor:
    """The usual way: the three-term recurrence over all points, a tensor a degree, joined at the end."""
    lon, lat = torch.deg2rad(lonlat).unbind(1)
    x, s = lat.sin(), lat.cos()
    orders = torch.arange(degrees, dtype=lonlat.dtype)[:, None]
    cos, sin = (orders * lon).cos(), (orders * lon).sin()
    rows, before, last = [], None, torch.full_like(x, math.sqrt(1 / (4 * math.pi)))[None]
    for l in range(degrees):
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


def satclip_table():
    """The function of SatCLIP's checkout that evaluates one harmonic."""
    files = sorted(Path(os.environ["GEONB_SATCLIP"]).rglob("spherical_harmonics_ylm.py"))
    if not files:
        raise SystemExit("GEONB_SATCLIP names a folder without spherical_harmonics_ylm.py; give a checkout of SatCLIP")
    spec = importlib.util.spec_from_file_location("satclip_ylm", files[0])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SH


def satclip_harmonics(lonlat: torch.Tensor, degrees: int, table) -> torch.Tensor:
    phi, theta = torch.deg2rad(lonlat[:, 0] + 180), torch.deg2rad(lonlat[:, 1] + 90)
    features = [table(m, l, phi, theta) for l in range(degrees) for m in range(-l, l + 1)]
    return torch.stack([y if torch.is_tensor(y) else torch.full_like(phi, y) for y in features], -1)


def case(name: str, n: int) -> dict:
    """Measure one case in this process."""
    double = name == "ours_f64" or "satclip" in name
    lonlat = points(n, torch.float64 if double else torch.float32)
    table = satclip_table() if "satclip" in name else None
    rounds = 2 if "satclip" in name else 7
    if name in HARMONICS:
        encoding = SphericalHarmonics(DEGREES)
        out = empty(encoding.dim, n, lonlat).fill_(0.0) if name == "ours_out" else None
        run = {
            "write": lambda: torch.empty(n, encoding.dim).fill_(1.0),
            "ours": lambda: encoding(lonlat),
            "ours_out": lambda: encoding.encode(lonlat, out=out),
            "ours_f64": lambda: encoding(lonlat),
            "recurrence": lambda: recurrence(lonlat, DEGREES),
            "satclip": lambda: satclip_harmonics(lonlat, DEGREES, table),
        }[name]
        output_mb = n * encoding.dim * lonlat.dtype.itemsize / 2**20
    else:
        encoding = positional_encoding("spherical_harmonics", degrees=DEGREES)
        net = network("siren", encoding.dim, DIM, hidden=HIDDEN).eval()
        net = net.double() if double else net.bfloat16() if "bf16" in name else net
        run = {
            "encoder": lambda: LocationEncoder(encoding, net)(lonlat),
            "encoder_bf16": lambda: LocationEncoder(encoding, net)(lonlat),
            "encoder_recurrence": lambda: net(recurrence(lonlat, DEGREES)),
            "encoder_satclip": lambda: net(satclip_harmonics(lonlat, DEGREES, table)),
        }[name]
        output_mb = n * DIM * next(net.parameters()).dtype.itemsize / 2**20
    with torch.inference_mode():
        result = timed(run, rounds)
    return result | {"beyond_output_mb": result["peak_mb"] - (0 if name == "ours_out" else output_mb)}


def accuracy() -> list[dict]:
    """The largest difference from SciPy over 2,000 points and the poles."""
    from scipy.special import sph_harm_y

    lonlat = torch.cat([points(2000, torch.float64), torch.tensor([[0.0, 90.0], [50.0, -90.0], [180.0, 0.0]])])
    phi, theta = np.radians(lonlat[:, 0].numpy()), np.radians(90 - lonlat[:, 1].numpy())
    rows = []
    for degrees in (10, 40, 100):
        expected = np.empty((len(lonlat), degrees**2))
        for l in range(degrees):
            for m in range(-l, l + 1):
                y = sph_harm_y(l, abs(m), theta, phi)
                expected[:, l * l + l + m] = (
                    y.real if m == 0 else math.sqrt(2) * (-1) ** m * (y.real if m > 0 else y.imag)
                )
        row = {"case": "accuracy", "degrees": degrees}
        for name, dtype in (("float64", torch.float64), ("float32", torch.float32)):
            ours, plain = (
                f(lonlat.to(dtype)).double().numpy()
                for f in (SphericalHarmonics(degrees), lambda x, d=degrees: recurrence(x, d))
            )
            row |= {f"ours_{name}": np.abs(ours - expected).max(), f"recurrence_{name}": np.abs(plain - expected).max()}
        rows.append(row)
    return rows


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

    results = accuracy()
    for row in results:
        print("largest error at {degrees} degrees: float64 {ours_float64:.1e} (recurrence {recurrence_float64:.1e}), "
              "float32 {ours_float32:.1e} ({recurrence_float32:.1e})".format(**row))  # fmt: skip
    for threads in (1,) if options.quick else (1, 2):
        for n in (10_000,) if options.quick else (10_000, 100_000):
            for group in (HARMONICS, ENCODERS):
                print(f"\n{n:,} points, {DEGREES} degrees, {threads} thread(s)")
                print(f"{'':42}{'median s':>9} {'(min-max)':>15} {'beyond output MB':>17}")
                rows = {}
                for name, label in group.items():
                    if "satclip" in name and "GEONB_SATCLIP" not in os.environ:
                        continue
                    row = in_fresh_process(__file__, "--case", name, "--points", n, threads=threads)
                    rows[name] = row
                    results.append({"case": name, "points": n, "threads": threads} | row)
                    spread = f"({row['min_s']:.3f}-{row['max_s']:.3f})"
                    print(f"{label:42}{row['s']:9.3f} {spread:>15} {row['beyond_output_mb']:17.0f}", flush=True)
                first = next(name for name in rows if name != "write")
                ratios = [
                    f"{label} {rows[name]['s'] / rows[first]['s']:.2f}"
                    for name, label in group.items()
                    if name in rows and name != first
                ]
                print("times of geonb: " + ", ".join(ratios))
    write(options.out, results)


if __name__ == "__main__":
    sys.exit(main())
