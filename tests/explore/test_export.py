"""Files for other programs, read back by those programs' libraries."""

import numpy as np
import pytest

import geonb
from geonb.data.sampling import on_land
from geonb.explore.export import to_geotiff
from geonb.explore.maps import layer_of

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.usefixtures("few_places_for_the_colours")


@pytest.fixture(scope="module")
def colours(model, tmp_path_factory):
    return to_geotiff(model, tmp_path_factory.mktemp("tif") / "colours.tif", degrees=0.5)


def test_colours_are_a_cloud_optimised_geotiff_that_gdal_and_qgis_know(colours, model):
    with rasterio.open(colours) as file:
        assert file.driver == "GTiff" and file.crs.to_epsg() == 4326 and file.dtypes == ("uint8",) * 3
        assert (file.width, file.height, file.count, file.nodata) == (720, 360, 3, 0)
        assert tuple(file.bounds) == (-180, -90, 180, 90) and file.overviews(1) == [2]
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert [c.name for c in file.colorinterp] == ["red", "green", "blue"]
        assert all(d.startswith("principal component") for d in file.descriptions)
        tags = file.tags()
        assert tags["ARCHITECTURE"] == "imagebind" and tags["AREA_OR_POINT"] == "Area"
        assert tags["TIFFTAG_SOFTWARE"] == f"geonb {geonb.__version__}" and len(tags["DATA_HASH"]) == 64
        assert tags["SIMULATED_MODALITIES"] == "location, text, sentinel2" and file.units[0].startswith("stretched")
        pixels = file.read()
        rows, columns = np.divmod(np.random.default_rng(0).choice(360 * 720, 400, replace=False), 720)
        lonlat = np.stack(file.xy(rows, columns), 1)
    land = on_land(lonlat)
    assert ((pixels[:, rows, columns] > 0).all(0) == land).all() and 100 < land.sum() < 200
    expected = layer_of(model).of(model.embed_locations(lonlat[land]))
    np.testing.assert_allclose(pixels[:, rows, columns].T[land], 1 + 254 * expected, atol=1.01)
    assert not list(colours.parent.glob(".*"))


def test_numbers_are_those_of_the_model_whatever_the_rows_written_at_a_time(model, tmp_path, monkeypatch):
    options = {"degrees": 6, "place": (10, 45)}
    path, same = (to_geotiff(model, tmp_path / name, **options) for name in ("a.tif", "same.tif"))
    assert path.read_bytes() == same.read_bytes()
    monkeypatch.setattr("geonb.explore.export.PIXELS", 130)
    other = to_geotiff(model, tmp_path / "b.tif", **options)
    with rasterio.open(path) as a, rasterio.open(other) as b:
        assert a.shape == (30, 60) and np.isnan(a.nodata) and a.units == ("cosine",)
        assert a.descriptions == ("similarity",) and "10.000, 45.000" in a.tags()["LAYER"]
        values = a.read(1)
        np.testing.assert_allclose(values, b.read(1), atol=1e-6)
        lonlat = np.stack(a.xy(*np.divmod(np.arange(1800), 60)), 1)
    known = ~np.isnan(values.ravel())
    np.testing.assert_array_equal(known, on_land(lonlat))
    here = model.embed_locations([(10, 45)])[0]
    np.testing.assert_allclose(values.ravel()[known], model.embed_locations(lonlat[known]) @ here, atol=1e-5)
    with rasterio.open(to_geotiff(model, tmp_path / "w.tif", 30, text="tropical forest")) as file:
        values, lonlat = file.read(1).ravel(), np.stack(file.xy(*np.divmod(np.arange(72), 12)), 1)
    expected = model.embed_locations(lonlat) @ model.embed_texts(["tropical forest"])[0]
    np.testing.assert_allclose(values[~np.isnan(values)], expected[~np.isnan(values)], atol=1e-5)


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(model, tmp_path, monkeypatch):
    for wrong, message in (
        ({"degrees": 0.7}, "no whole number of pixels"),
        ({"degrees": 1e-9}, "360,000,000,000 by 180,000,000,000 pixels"),
        ({"place": (1, 2), "text": "sea"}, "not both"),
        ({"text": " "}, "empty"),
    ):
        with pytest.raises(ValueError, match=message):
            to_geotiff(model, tmp_path / "x.tif", **({"degrees": 10} | wrong))
    monkeypatch.setattr("geonb.explore.export._tags", lambda *_: 1 / 0)  # in the middle
    with pytest.raises(ZeroDivisionError):
        to_geotiff(model, tmp_path / "x.tif", 10)
    assert list(tmp_path.iterdir()) == []
