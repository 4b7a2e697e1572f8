"""Web maps: made without a network, painted where they should be."""

import re

import numpy as np
import pytest

from geonb.data.sampling import on_land
from geonb.explore.maps import NORTH, SOUTH, _painted, add_layer, layer_of, offline_map

pytestmark = pytest.mark.usefixtures("few_places_for_the_colours")


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
