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
    LandGrid,
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
    grid = LandGrid(model, width=90)
    image = grid.image(layer_of(model, "similarity", place=(20, 0)))
    height, width = image.rgba.shape[:2]
    south, west, north, east = SOUTH, -180, NORTH, 180
    mercator = lambda lat: np.arcsinh(np.tan(np.radians(lat)))  # noqa: E731
    row = ((mercator(north) - mercator(grid.lonlat[:, 1])) / (mercator(north) - mercator(south)) * height).astype(int)
    column = ((grid.lonlat[:, 0] - west) / (east - west) * width).astype(int)
    assert (image.rgba[row, column, 3] == 255).all() and (image.rgba[..., 3] > 0).sum() == len(grid.lonlat)
    assert on_land(grid.lonlat).all()
    values = grid.z @ model.embed_locations([(20, 0)])[0]
    best, worst = values.argmax(), values.argmin()
    bright = image.rgba[..., :3].astype(int).sum(2)
    assert bright[row[best], column[best]] > bright[row[worst], column[worst]] + 200  # viridis: bright is alike
    assert "cosine" in image.title and "20.000, 0.000" in image.title
    with pytest.raises(ValueError, match="cannot be painted"):
        grid.image(layer_of(model, "embedding"))
    unknown = grid.image(layer_of(model, lambda z: np.where(np.arange(len(z)) == 0, np.nan, 1.0)))
    assert (unknown.rgba[..., 3] > 0).sum() == len(grid.lonlat) - 1


def test_layers_on_a_folium_map_are_pictures_whose_names_are_text(model):
    grid = LandGrid(model, width=60)
    image = grid.image(layer_of(model, "similarity", text="rivers <img src=x onerror=alert(1)>{{7*7}}"))
    html = add_layer(add_layer(offline_map(), grid.image(layer_of(model))), image).get_root().render()
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
