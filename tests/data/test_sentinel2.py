"""The checks of chips, the pictures, and the grid."""

import os
from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from world import simulate

from geonb.data.sentinel2 import (
    BANDS,
    check_images,
    chip_grid,
    false_color,
    radiometric_offset,
    seen_offset,
    true_color,
    utm_epsg,
)

REAL = Path(os.environ.get("GEONB_REAL_DATA", Path(__file__).parents[2] / "../shared/data")) / "sentinel2"


@pytest.fixture(scope="module")
def chips():
    return simulate(8, "Cfb", 48, population=2000)[0]


def test_good_chips_pass(chips):
    checked = check_images(chips.astype(np.int32))
    assert checked.dtype == np.uint16 and (checked == chips).all()
    assert len(check_images(chips[:0])) == 0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: x.transpose(0, 2, 3, 1), r"transpose\(0, 3, 1, 2\)"),
        (lambda x: np.concatenate([x, x[:, :1]], 1), "Level-1C"),
        (lambda x: x / 10_000, "multiply reflectance from 0 to 1 by 10_000"),
        (lambda x: (x / 40).clip(0, 255).astype(np.uint8), "8-bit"),
        (lambda x: x.astype(np.int32) - 2000, r"values from -.*clip"),
        (lambda x: x * (np.arange(8) != 5)[:, None, None, None].astype(np.uint16), "image 5: 100%"),
        (lambda x: np.where(np.arange(64) < 20, 65535, x).astype(np.uint16), "fill value"),
        (lambda x: x + np.uint16(1000), "04.00.*harmonised=True"),
    ],
)
def test_bad_chips_are_explained(chips, spoil, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        check_images(spoil(chips))


def test_offset_of_simulated_chips():
    tables = [("BWh", 24), ("Cfb", 48), ("Af", 0), ("Dfc", 60), ("BSk", 45), ("EF", 75)]
    images = np.concatenate([simulate(10, climate, lat)[0] for climate, lat in tables])
    assert (radiometric_offset(images) > 0).mean() < 0.05
    assert (radiometric_offset(images + np.uint16(1000)) == 1000).mean() > 0.9
    with pytest.raises(ValueError, match="offset"):
        check_images(images + np.uint16(1000))
    check_images(images + np.uint16(1000), harmonised=True)
    one = radiometric_offset(images[0] + np.uint16(1000))
    assert one.shape == () and int(one) == 1000
    assert radiometric_offset(np.zeros((1, 12, 16, 16), np.uint16)) == 0


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real Sentinel-2 chips (GEONB_REAL_DATA)")
def test_offset_of_real_chips():
    """Tiles of one acquisition must agree with the whole chip; water and shadow leave no doubt in most."""
    found = {}
    for path in sorted(REAL.glob("*.tif")):
        with rasterio.open(path) as source:
            chip = source.read()
        tiles = chip.reshape(12, 4, 64, 4, 64).transpose(1, 3, 0, 2, 4).reshape(16, 12, 64, 64)
        found[path.stem] = int(radiometric_offset(chip))
        assert (radiometric_offset(tiles) == found[path.stem]).mean() > 0.9, path.name
        assert {seen_offset(tile) for tile in tiles} <= {found[path.stem], None}, path.name
    without = {"patch_275979", "patch_322265", "patch_511198", "patch_566084", "patch_58000", "patch_752389"}
    assert {name for name, offset in found.items() if offset == 0} == without


# --- pictures ------------------------------------------------------------------------------------------


def test_pictures(chips):
    rgb, infrared = true_color(chips), false_color(chips)
    assert rgb.shape == infrared.shape == (8, 64, 64, 3) and rgb.dtype == infrared.dtype == np.uint8
    assert (rgb[..., 0] == infrared[..., 1]).all() and (rgb[..., 1] == infrared[..., 2]).all()
    even = np.zeros((1, 12, 16, 16), np.uint16)
    even[:, BANDS.index("B4")], even[:, BANDS.index("B3")] = 10_000, 2176
    even[:, BANDS.index("B2")] = 65_535
    assert (true_color(even)[0, 0, 0] == [255, 127, 255]).all()


# --- the grid -----------------------------------------------------------------------------------------


@given(st.tuples(st.floats(-180, 180), st.floats(-80, 84)), st.integers(1, 300))
@settings(max_examples=25, deadline=None)
@example((180.0, 65.0), 64)
@example((-180.0, -80.0), 64)
@example((3.0, 56.0), 16)
def test_a_chip_is_centred_on_its_position_to_half_a_pixel_in_a_zone_that_is_meant_for_it(point, size):
    grid = chip_grid(*point, size)
    west, south, east, north = grid.boundingbox
    assert grid.shape == (size, size) and west % 10 == north % 10 == 0 and east - west == north - south == 10 * size
    there = pyproj.Transformer.from_crs(4326, grid.crs.epsg, always_xy=True).transform(*point)
    assert np.abs(np.array([(west + east) / 2, (south + north) / 2]) - there).max() <= 5 + 1e-6
    area = pyproj.CRS(grid.crs.epsg).area_of_use
    slack = 6 if 0 <= point[0] < 42 and (72 <= point[1] <= 84 or 56 <= point[1] < 64) else 1e-9  # Norway and Svalbard
    assert area.west - slack <= point[0] <= area.east + slack and area.south - 1e-9 <= point[1] <= area.north + 1e-9


@pytest.mark.parametrize(
    "lon, lat, epsg",
    [
        (5.32, 60.39, 32632), (2.99, 60.0, 32631), (5.32, 55.99, 32631), (5.32, 64.0, 32631),  # Bergen is in a wide zone
        (15.63, 78.22, 32633), (8.99, 78, 32631), (9, 78, 32633), (21, 78, 32635), (33, 78, 32637), (42, 78, 32638),
        (15.63, 71.99, 32633), (-0.01, 51.5, 32630), (0, 51.5, 32631), (18.42, -33.92, 32734), (-78.5, -1e-9, 32717),
        (-78.5, 0, 32617), (180, 65, 32660), (-180, 65, 32601), (0, 84.01, 0), (0, -80.01, 0), (45, 90, 0),
    ],
)  # fmt: skip
def test_zones_of_known_places(lon, lat, epsg):
    assert utm_epsg([[lon, lat]]).tolist() == [epsg]
    if not epsg:
        with pytest.raises(ValueError, match="outside UTM"):
            chip_grid(lon, lat)
