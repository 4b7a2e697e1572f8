"""Maps for a notebook with a kernel: leafmap, with tiles of your choice, Earth Engine's too once you are signed in."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from geonb.explore.views import PALETTE
from geonb.geo import check_lonlat

if TYPE_CHECKING:
    import ipyleaflet
    import leafmap

    from geonb.explore.layers import LayerImage

MOST_POINTS = 20_000  # drawn by the browser one by one


def live_map(
    lonlat: ArrayLike,
    labels: Sequence | None = None,
    *,
    color: str | Sequence[str] = PALETTE[0],
    tiles: Sequence[tuple[str, str, str]] = (),
    height: str = "480px",
) -> leafmap.Map:
    """A leafmap map with places as points and the label of the place that was clicked below it.

    Args:
        lonlat: positions (n, 2), degrees; of more than 20,000, every k-th is drawn.
        labels: n strings, shown as text, whatever they hold.
        color: of the points, as in CSS, one for all or n; of errors, those of
            :func:`geonb.explore.layers.error_colours`.
        tiles: layers below the points, each (address with {x}, {y} and {z}, name, whom to credit); of an Earth Engine
            image ``image.getMapId(style)["tile_fetcher"].url_format`` is the address.
        height: of the map, as in CSS.

    Returns:
        A ``leafmap.Map`` (an ipywidget): it needs a kernel, and its tiles a network. The label is its ``caption``.

    Raises:
        ValueError: no positions, or not as many labels or colours. ModuleNotFoundError: without leafmap.
    """
    import ipyleaflet
    import ipywidgets
    import leafmap

    lonlat = check_lonlat(lonlat)
    if not len(lonlat):
        raise ValueError("no positions to draw")
    if labels is not None and len(labels) != len(lonlat):
        raise ValueError(f"{len(lonlat)} positions and {len(labels)} labels do not match")
    colours = None if isinstance(color, str) else [str(c) for c in color]
    if colours is not None and len(colours) != len(lonlat):
        raise ValueError(f"{len(lonlat)} positions and {len(colours)} colours do not match")
    world = leafmap.Map(center=np.median(lonlat, 0)[::-1].tolist(), zoom=2)
    world.layout.height = height
    for address, name, credit in tiles:
        world.add_tile_layer(address, name=name, attribution=credit)
    rows = range(0, len(lonlat), -(-len(lonlat) // MOST_POINTS))
    points = ipyleaflet.GeoJSON(
        data={
            "type": "FeatureCollection",
            "features": [
                {
                    "type": "Feature",
                    "geometry": {"type": "Point", "coordinates": lonlat[row].tolist()},
                    "properties": {"row": row}
                    | ({} if colours is None else {"style": {"color": colours[row], "fillColor": colours[row]}}),
                }
                for row in rows
            ],
        },
        point_style={"radius": 3, "fillOpacity": 0.8, "weight": 0}
        | ({"color": color, "fillColor": color} if colours is None else {}),
        name=f"{len(rows):,} of {len(lonlat):,} places",
    )
    world.caption = ipywidgets.Label(value="Click a point.")  # a Label shows text, never markup

    def show(feature, **_):
        row = int(feature["properties"]["row"])
        lon, lat = lonlat[row]
        world.caption.value = f"{labels[row] if labels is not None else f'row {row}'} ({lon:.3f}, {lat:.3f})"

    points.on_click(show)
    world.add(points)
    world.add(ipyleaflet.WidgetControl(widget=world.caption, position="bottomleft"))
    return world


def add_live_layer(world: leafmap.Map, image: LayerImage, opacity: float = 0.8) -> ipyleaflet.ImageOverlay:
    """Lay a picture of a layer (:meth:`geonb.explore.layers.LandGrid.image`) over a leafmap map; returns the overlay.

    Give the overlay another ``url`` and ``name`` to repaint it.
    """
    import ipyleaflet

    shown = {"url": image.data_uri(), "bounds": image.bounds, "name": escape(image.title), "opacity": opacity}
    overlay = ipyleaflet.ImageOverlay(**shown)
    points = [layer for layer in world.layers if isinstance(layer, ipyleaflet.GeoJSON)]
    below = [layer for layer in world.layers if layer not in points]
    world.layers = (*below, overlay, *points)  # points stay on top and can be clicked
    return overlay
