"""Real Sentinel-2 pixels over five years: 340 m of a wooded hillside in Romania that come with the package.

Source, licence (EUPL-1.2) and what the pixels are not: ``assets/SOURCES.md``.
"""

from __future__ import annotations

from importlib.resources import files
from typing import NamedTuple

import numpy as np


class Cube(NamedTuple):
    """A time series of Sentinel-2 L2A over one square.

    Attributes:
        dates: (n,) days of acquisition, from 2015-08-01 to 2021-01-01; some passes are missing.
        bands: of ``dn``, as in :data:`geonb.data.sentinel2.BANDS`.
        dn: (n, 6, 34, 34) uint16, reflectance x 10,000 without an offset, 10 m a pixel; B8A and B11 were observed at
            20 m, and each of their values fills 2 x 2 pixels.
        scl: (n, 34, 34) uint8, scene classes.
        crs, transform: where the pixels lie: x = transform[2] + 10 column, y = transform[5] - 10 row, in metres.
    """

    dates: np.ndarray
    bands: list[str]
    dn: np.ndarray
    scl: np.ndarray
    crs: str
    transform: np.ndarray


def read_cube() -> Cube:
    """Read the cube that comes with the package."""
    with (
        (files("geonb.data") / "assets" / "cube_romania.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as saved,
    ):
        dn = np.concatenate([saved["dn_10m"], saved["dn_20m"].repeat(2, 2).repeat(2, 3)], 1)
        bands = [*saved["bands_10m"].tolist(), *saved["bands_20m"].tolist()]
        return Cube(saved["dates"], bands, dn, saved["scl"], str(saved["crs"]), saved["transform"])
