"""Cut a time series of Sentinel-2 from the cubes of the package nrt, as geonb/data/assets/cube_romania.npz.

Run once, with pip at hand and h5py installed: ``python scripts/make_cube.py``. The result is committed. Source and
licence: geonb/data/assets/SOURCES.md.
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
from make_landscape import ASSETS, checked, download_wheel

WHEEL, SHA256 = "nrt==0.2.1", "cd0291f99ce91268a0d993f05be1c69678d62504b01d36e7124d0ff3a51b3ee9"
BANDS = {10: ("B2", "B3", "B4", "B8"), 20: ("B8A", "B11")}  # by the metres of a pixel
TOP, LEFT, SIZE = 160, 560, 340  # metres, of the cut in the cube of 1 km: wood, a meadow, a road, clearings


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        content = checked(download_wheel(WHEEL, Path(name)), SHA256)
    package, cut = zipfile.ZipFile(io.BytesIO(content)), {}
    for metres, bands in BANDS.items():
        rows, columns = (slice(start // metres, (start + SIZE) // metres) for start in (TOP, LEFT))
        with h5py.File(io.BytesIO(package.read(f"nrt/data/sentinel2_cube_subset_romania_{metres}m.nc"))) as cube:
            cut[f"bands_{metres}m"] = np.array(bands)
            cut[f"dn_{metres}m"] = np.stack([cube[band][:, rows, columns] for band in bands], 1)
            if metres == 10:
                cut["scl"] = cube["SCL"][:, rows, columns].astype(np.uint8)
                cut["dates"] = np.datetime64("2015-08-01") + cube["time"][:].astype("m8[D]")
                west, north = cube["x"][columns][0] - metres / 2, cube["y"][rows][0] + metres / 2
                cut |= {"crs": np.array("EPSG:3035"), "transform": np.array([metres, 0, west, 0, -metres, north])}
    np.savez_compressed(ASSETS / "cube_romania.npz", **cut)
    (ASSETS / "EUPL-1.2.txt").write_bytes(package.read("nrt-0.2.1.dist-info/LICENSE"))
    print(f"{len(cut['dates'])} dates, {(ASSETS / 'cube_romania.npz').stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
