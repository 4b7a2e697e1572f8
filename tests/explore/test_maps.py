"""Web maps: made without a network, painted where they should be."""

import re

import numpy as np
import pytest

import geonb
from geonb.data.sampling import on_land
from geonb.explore.frames import projection_view
from geonb.explore.linked import linked_view
from geonb.explore.maps import NORTH, SOUTH, _painted, add_layer, add_points, layer_of, offline_map

pytestmark = pytest.mark.usefixtures("few_places_for_the_colours")


@pytest.fixture(scope="module")
def model(trained):
    return geonb.load(trained)


def test_a_missing_name_is_no_name_in_maps_and_views():
    pd = pytest.importorskip("pandas")
    z = np.random.default_rng(0).normal(size=(60, 4))
    lonlat = np.zeros((60, 2)) + np.arange(60)[:, None]
    series = pd.Series(["a", None] * 30, index=range(60, 0, -1))
    for names in (series, pd.array(["a", pd.NA] * 30, "string"), ["a", np.nan] * 30):
        assert linked_view(lonlat, z[:, :2], hover=names).data["hover"] == ["a", ""] * 30
        page = add_points(offline_map(), lonlat, names).get_root().render()
        assert (page.count(',""]'), page.count(',"a"]')) == (30, 30)
    view = projection_view(z, lonlat, hover=series, neighbors=[5], min_dist=[0.1], seeds=[0], epochs=5)
    assert view.data["hover"] == ["a", ""] * 30


def test_a_painted_layer_lies_where_its_pixels_are_above_the_land_of_a_map(model):
    layer = layer_of(model)
    rgba = _painted(model, layer, 90)
    height, width = rgba.shape[:2]
    rows, columns = np.divmod(np.arange(height * width), width)
    north, south = (np.arcsinh(np.tan(np.radians(lat))) for lat in (NORTH, SOUTH))
    lat = np.degrees(np.arctan(np.sinh(north - (rows + 0.5) / height * (north - south))))
    lonlat = np.stack([(columns + 0.5) / width * 360 - 180, lat], 1)
    land = on_land(lonlat)
    np.testing.assert_array_equal(rgba[..., 3].ravel() > 0, land)
    painted = rgba.reshape(-1, 4)[land, :3]
    np.testing.assert_allclose(painted, layer.of(model.embed_locations(lonlat[land])) * 255, atol=0.51)
    html = add_layer(offline_map(), model, width=60).get_root().render()
    assert html.index("L.control.layers(") > html.rindex("L.imageOverlay(")  # which it lists
    assert re.search(r'createPane\(\s*"land"', html) and '"pane": "land"' in html  # below the pictures
    assert "http" not in html.split("L.imageOverlay(")[1][:200]
