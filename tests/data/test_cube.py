"""The cube of real Sentinel-2: what it says of itself agrees with its pixels."""

from importlib.resources import files

import numpy as np
import pytest
from rasterio.warp import transform

from geonb.data.cube import read_cube
from geonb.data.sentinel2 import BANDS, COVERED

CUBE = read_cube()


def test_arrays_bands_and_dates_fit_together():
    n, size = len(CUBE.dates), 34
    assert CUBE.dn.shape == (n, len(CUBE.bands), size, size) and CUBE.scl.shape == (n, size, size)
    assert set(CUBE.bands) <= set(BANDS) and CUBE.dn.dtype == np.uint16 and CUBE.dn.min() > 0  # 0 would be nodata
    assert (np.diff(CUBE.dates) > np.timedelta64(0)).all() and set(np.unique(CUBE.scl)) <= set(range(12))
    assert len(CUBE.dates) == 140 and (CUBE.dn[:, 4:, ::2, ::2] == CUBE.dn[:, 4:, 1::2, 1::2]).all()


def test_it_lies_where_its_sources_say():
    x, y = CUBE.transform[2] + 170, CUBE.transform[5] - 170
    (lon,), (lat,) = transform(CUBE.crs, "EPSG:4326", [x], [y])
    assert (round(lon, 3), round(lat, 3)) == (22.155, 45.206)
    assert "22.155° E, 45.206° N" in (files("geonb.data") / "assets" / "SOURCES.md").read_text("utf-8")


def test_plants_are_bright_in_near_infrared_and_clouds_in_blue():
    blue, _, red, nir, *_ = np.moveaxis(CUBE.dn.astype(float), 1, 0)
    plants, clouds = CUBE.scl == 4, CUBE.scl == 9
    assert np.median((nir - red)[plants] / (nir + red)[plants]) > 0.7
    assert np.median(blue[clouds]) > 8 * np.median(blue[plants])


def test_the_two_resolutions_lie_on_the_same_ground():
    (day,) = CUBE.dn[CUBE.dates == np.datetime64("2019-07-06")]
    ten, twenty = day[CUBE.bands.index("B8")], day[CUBE.bands.index("B8A")]
    shifted = [np.corrcoef(ten.ravel(), np.roll(twenty, move, axis).ravel())[0, 1] for axis in (0, 1) for move in (-2, 2)]
    assert np.corrcoef(ten.ravel(), twenty.ravel())[0, 1] > max(shifted) + 0.1


@pytest.mark.parametrize("year", range(2015, 2022))
def test_no_year_carries_the_offset(year):
    of_year = CUBE.dates.astype("M8[Y]").astype(int) + 1970 == year
    pixels = np.moveaxis(CUBE.dn[of_year], 1, 0)[:, ~np.isin(CUBE.scl[of_year], COVERED)]
    assert np.percentile(pixels, 1, axis=1).min() <= 81  # 879 or more with an offset; see seen_offset
