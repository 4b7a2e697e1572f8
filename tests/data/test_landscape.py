"""Landscape chips: the same ground size everywhere, right at the poles and across longitude 180, cut from real mosaics."""

import hashlib
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geonb.data import landscape
from geonb.data.landscape import BANDS, MOSAICS, SOURCE_KM, cut_chips, interpolated, picture
from geonb.data.store import write_store
from geonb.geo import great_circle_km


@given(st.floats(-180, 180), st.floats(-90, 90), st.floats(60, 500))
def test_pixels_lie_at_their_distance_from_the_centre_wherever_that_is(lon, lat, km):
    x, y = landscape._ground(np.array([[lon, lat]]), 8, km)
    step = (np.arange(8) - 3.5) * km / 8
    wanted = np.hypot(*np.meshgrid(step, step))
    np.testing.assert_allclose(great_circle_km([lon, lat], np.stack([x[0], y[0]], 2)), wanted, rtol=1e-6)
    middle = y[0][:, 3:5].mean(1)
    if abs(lat) < 80:
        assert (np.diff(middle) < 0).all()  # north up


def test_a_mosaic_of_longitudes_and_latitudes_gives_them_back(monkeypatch):
    rows, columns = 180, 360
    lat = np.repeat((90 - np.arange(rows) - 0.5)[:, None] + 90, columns, 1)
    east = np.repeat(np.abs(np.arange(columns) - 180 + 0.5)[None], rows, 0)
    made = np.pad(np.stack([lat, east, east]).astype(np.uint8), ((0, 0), (0, 0), (1, 1)), "wrap")
    monkeypatch.setattr(landscape, "_pixels", lambda mosaic: made[: len(mosaic.colours)])
    chips = cut_chips([[30, 40], [180, 0], [-180, 0], [12, 90], [-77, 90]], size=2, km=60)
    assert (abs(chips[0, 0].astype(int) - 130) <= 1).all() and (abs(chips[0, 1].astype(int) - 30) <= 1).all()
    assert (chips[1:3, 1] >= 178).all() and (chips[1] == chips[2]).all()  # no seam
    assert (chips[3:, 0] >= 178).all()  # and no southern row at the north pole


def test_real_chips_show_what_is_there():
    chips = cut_chips([[25, 23], [-62, -5], [2.35, 48.86], [0, 78.9], [-45, 75]], km=120)
    assert chips.shape == (5, 19, 32, 32) and chips.dtype == np.uint8
    of = {name: chips[:, i].mean((1, 2)) for i, name in enumerate(BANDS)}
    sahara, amazon, paris, sea, ice = range(5)
    assert of["july red"][sahara] > of["july blue"][sahara] + 40
    assert of["july green"][amazon] > of["july red"][amazon] and of["night light"][paris] > 3 * of["night light"][amazon]
    assert of["january red"][ice] > 180
    assert picture(chips, "night").shape == (5, 32, 32, 3) and (picture(chips)[..., 2] == chips[:, 2]).all()


def test_places_at_sea_have_no_chip_in_a_store_and_are_counted(tmp_path):
    lonlat = np.array([[-140.0, -40.0], [5.3, 60.4], [0.0, 90.0], [-160.0, 20.0]])  # only Bergen has land within 120 km
    with pytest.warns(UserWarning, match="3 of 4 places have no landscape chip: they lie at sea"):
        given = landscape.images(lonlat)
    places = {"place_id": list("abcd"), "lon": lonlat[:, 0], "lat": lonlat[:, 1]}
    store = write_store(tmp_path / "s", places=places, images={"landscape": given})
    assert store.has("landscape").tolist() == [False, True, False, False]
    assert (store.images("landscape", [1]) == cut_chips(lonlat[[1]])).all()
    about = store.imagery["landscape"]
    assert (about["bands"], about["scale"], about["gsd_m"], about["dtype"]) == (BANDS, 255, 7500, "uint8")


def test_interpolated_values_are_told_by_the_source_pixels():
    assert len(BANDS) == len(SOURCE_KM) == 19 == sum(len(m.colours) for m in MOSAICS)
    assert interpolated(60) == [m.name for m in MOSAICS[1:]] and interpolated(240) == []


def test_the_mosaics_are_those_of_their_packages():
    digests = {m.file: hashlib.sha256((files("geonb.data") / "assets" / m.file).read_bytes()).hexdigest()[:8] for m in MOSAICS}
    assert list(digests.values())[:6] == ["10f5389b", "8945f98c", "6d355536", "1bec7310", "7e9c09a4", "5c6bdee3"]


@pytest.mark.parametrize("options", [{"km": 30}, {"km": 501}, {"size": 0}, {"km": float("nan")}])
def test_sizes_and_scales_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="give at least 1 pixel, and 60 to 500 km"):
        cut_chips([[0, 0]], **options)
    with pytest.raises(ValueError, match="no mosaic 'april'"):
        picture(np.zeros((1, 19, 2, 2), np.uint8), "april")


def test_a_damaged_mosaic_is_named(monkeypatch, tmp_path):
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "night_lights.png").write_bytes(b"no picture")
    monkeypatch.setattr(landscape, "files", lambda package: tmp_path)
    with pytest.raises(OSError, match="night_lights.png: missing or damaged .*install geonb again"):
        landscape._pixels.__wrapped__(MOSAICS[-1])
