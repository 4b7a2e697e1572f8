"""Maps of a live notebook: made without a network, safe whatever the labels hold."""

import numpy as np
import pytest

from geonb.explore.layers import LayerImage, error_colours
from geonb.explore.live import MOST_POINTS, add_live_layer, live_map

pytest.importorskip("leafmap")
HOSTILE = "<img src=x onerror=alert(1)>"


def points_of(world):
    import ipyleaflet

    (layer,) = [layer for layer in world.layers if isinstance(layer, ipyleaflet.GeoJSON)]
    return layer


def test_points_stand_where_they_should_and_a_click_tells_their_label_as_text():
    world = live_map([[13.4, 52.5], [-70.7, -33.4]], ["Berlin", HOSTILE])
    layer = points_of(world)
    assert [f["geometry"]["coordinates"] for f in layer.data["features"]] == [[13.4, 52.5], [-70.7, -33.4]]
    assert HOSTILE not in str(layer.data)
    clicked = layer.data["features"][1]  # what the browser sends when a feature is clicked
    layer._handle_mouse_events(layer, {"event": "click", "feature": clicked, "properties": clicked["properties"]}, [])
    assert world.caption.value == f"{HOSTILE} (-70.700, -33.400)" and type(world.caption).__name__ == "Label"


def test_of_too_many_points_some_are_drawn_and_the_layer_says_so():
    n = 3 * MOST_POINTS + 1
    layer = points_of(live_map(np.zeros((n, 2))))
    assert len(layer.data["features"]) == -(-n // 4) and layer.name == f"{-(-n // 4):,} of {n:,} places"


def test_lengths_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="1 positions and 2 labels"):
        live_map([[0, 0]], ["a", "b"])
    with pytest.raises(ValueError, match="2 colours do not match"):
        live_map([[0, 0]], color=["red", "blue"])
    with pytest.raises(ValueError, match="no positions"):
        live_map(np.empty((0, 2)))


def test_tiles_lie_below_the_points_with_their_credit():
    import ipyleaflet

    world = live_map([[0, 0]], tiles=[("https://example.org/{z}/{x}/{y}.png", "Composite", "Copernicus")])
    kinds = [type(layer) for layer in world.layers]
    assert kinds == [ipyleaflet.TileLayer, ipyleaflet.TileLayer, ipyleaflet.GeoJSON]
    assert (world.layers[1].name, world.layers[1].attribution) == ("Composite", "Copernicus")


def test_errors_colour_the_points_one_by_one():
    layer = points_of(live_map([[0, 0], [1, 1]], color=error_colours([-1.0, 1.0])))
    low, high = (f["properties"]["style"]["fillColor"] for f in layer.data["features"])
    assert int(low[5:], 16) > int(low[1:3], 16) and int(high[1:3], 16) > int(high[5:], 16)


def test_a_painted_layer_lies_below_the_points_under_a_name_that_is_text():
    import ipyleaflet

    picture = np.zeros((4, 8, 4), np.uint8)
    image = LayerImage(picture, ((-60.0, -180.0), (84.0, 180.0)), HOSTILE, np.empty((0, 2)), np.empty((0, 1)))
    world = live_map([[0, 0]])
    overlay = add_live_layer(world, image, opacity=0.5)
    assert [type(layer) for layer in world.layers] == [ipyleaflet.TileLayer, ipyleaflet.ImageOverlay, ipyleaflet.GeoJSON]
    assert overlay.url.startswith("data:image/png;base64,") and overlay.opacity == 0.5
    assert tuple(map(tuple, overlay.bounds)) == image.bounds and "<" not in overlay.name
