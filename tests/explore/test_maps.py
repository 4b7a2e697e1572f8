"""Web maps: made without a network, painted where they should be, safe whatever the labels contain."""

import re

import numpy as np
import pytest

import geonb
from geonb.data.sampling import on_land
from geonb.explore.maps import MOST_POINTS, NORTH, SOUTH, _painted, add_layer, layer_of, live_map, offline_map

pytestmark = pytest.mark.usefixtures("few_places_for_the_colours")
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def model(trained):
    return geonb.load(trained)


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


def points_of(world):
    ipyleaflet = pytest.importorskip("ipyleaflet")
    (layer,) = [layer for layer in world.layers if isinstance(layer, ipyleaflet.GeoJSON)]
    return layer


def test_live_points_stand_where_they_should_and_a_click_tells_their_label_as_text():
    pytest.importorskip("leafmap")
    world = live_map([[13.4, 52.5], [-70.7, -33.4]], ["Berlin", HOSTILE])
    layer = points_of(world)
    assert [f["geometry"]["coordinates"] for f in layer.data["features"]] == [[13.4, 52.5], [-70.7, -33.4]]
    assert HOSTILE not in str(layer.data)
    clicked = layer.data["features"][1]  # what the browser sends when a feature is clicked
    layer._handle_mouse_events(layer, {"event": "click", "feature": clicked, "properties": clicked["properties"]}, [])
    assert world.caption.value == f"{HOSTILE} (-70.700, -33.400)" and type(world.caption).__name__ == "Label"


def test_a_live_map_has_tiles_below_its_points_and_refuses_lengths_that_do_not_match():
    pytest.importorskip("leafmap")
    n = 3 * MOST_POINTS + 1
    world = live_map(np.zeros((n, 2)), tiles=[("https://example.org/{z}/{x}/{y}.png", "Composite", "Copernicus")])
    layer = points_of(world)
    assert len(layer.data["features"]) == -(-n // 4) and layer.name == f"{-(-n // 4):,} of {n:,} places"
    assert world.layers[-1] is layer and (world.layers[-2].name, world.layers[-2].attribution) == (
        "Composite",
        "Copernicus",
    )
    with pytest.raises(ValueError, match="1 positions"):
        live_map([[0, 0]], ["a", "b"])
    with pytest.raises(ValueError, match="0 positions"):
        live_map(np.empty((0, 2)))
