"""Maps of a live notebook: made without a network, safe whatever the labels hold."""

import numpy as np
import pytest

from geonb.explore.live import MOST_POINTS, live_map

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
    with pytest.raises(ValueError, match="no positions"):
        live_map(np.empty((0, 2)))


def test_tiles_lie_below_the_points_with_their_credit():
    import ipyleaflet

    world = live_map([[0, 0]], tiles=[("https://example.org/{z}/{x}/{y}.png", "Composite", "Copernicus")])
    kinds = [type(layer) for layer in world.layers]
    assert kinds == [ipyleaflet.TileLayer, ipyleaflet.TileLayer, ipyleaflet.GeoJSON]
    assert (world.layers[1].name, world.layers[1].attribution) == ("Composite", "Copernicus")
