"""Web maps: made without a network, painted where they should be, safe whatever the labels contain."""

import re

import numpy as np
import pytest

import geonb
from geonb.data.sampling import on_land
from geonb.explore.maps import (
    MOST_POINTS,
    NORTH,
    SOUTH,
    _painted,
    add_layer,
    add_points,
    layer_of,
    live_map,
    offline_map,
)

pytestmark = pytest.mark.usefixtures("few_places_for_the_colours")
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def model(trained):
    return geonb.load(trained)


def test_a_painted_layer_lies_where_its_pixels_are(model):
    rgba, title = _painted(model, layer_of(model, place=(20, 0)), 90)
    height, width = rgba.shape[:2]
    rows, columns = np.nonzero(rgba[..., 3])
    north, south = (np.arcsinh(np.tan(np.radians(lat))) for lat in (NORTH, SOUTH))
    lat = np.degrees(np.arctan(np.sinh(north - (rows + 0.5) / height * (north - south))))
    lonlat = np.stack([(columns + 0.5) / width * 360 - 180, lat], 1)
    assert on_land(lonlat).all() and len(lonlat) == on_land(np.stack(np.meshgrid(
        (np.arange(width) + 0.5) / width * 360 - 180,
        np.degrees(np.arctan(np.sinh(north - (np.arange(height) + 0.5) / height * (north - south))))), 2).reshape(-1, 2)).sum()  # fmt: skip
    values = model.embed_locations(lonlat) @ model.embed_locations([(20, 0)])[0]
    bright = rgba[..., :3].astype(int).sum(2)[rows, columns]
    assert bright[values.argmax()] > bright[values.argmin()] + 200  # viridis: bright is similar
    assert "cosine" in title and "20.000, 0.000" in title


def test_layers_on_a_folium_map_are_pictures_whose_names_are_text(model):
    world = add_layer(offline_map(), model, width=60)
    add_layer(world, model, text="rivers <img src=x onerror=alert(1)>{{7*7}}", width=60)
    html = world.get_root().render()
    assert html.index("L.control.layers(") > html.rindex("L.imageOverlay(")  # which it lists
    assert re.search(r'createPane\(\s*"land"', html) and '"pane": "land"' in html  # below the pictures
    assert html.count("L.imageOverlay(") == 2 and "data:image/png;base64," in html
    assert "<img src=x" not in html and "49" not in html.split("similarity to the words")[1][:80]
    assert "http" not in html.split("L.imageOverlay(")[1][:200]


def test_points_that_do_not_match_a_map_are_refused():
    with pytest.raises(ValueError, match="do not match"):
        add_points(offline_map(), [[0, 0]], ["a", "b"])
    with pytest.raises(ValueError, match="row 0"):
        offline_map(center=(0, 100))


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
    assert world.layers[-1] is layer and (world.layers[-2].name, world.layers[-2].attribution) == ("Composite", "Copernicus")
    with pytest.raises(ValueError, match="1 positions and 2 labels"):
        live_map([[0, 0]], ["a", "b"])
    with pytest.raises(ValueError, match="0 positions"):
        live_map(np.empty((0, 2)))
