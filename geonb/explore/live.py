"""Maps for a notebook with a kernel: leafmap, with layers of tiles and, once you are signed in, of Earth Engine."""

from __future__ import annotations

import numpy as np

from geonb._coords import check_lonlat
from geonb.explore.linked import PALETTE

MOST_POINTS = 20_000  # drawn by the browser one by one


def live_map(lonlat, labels=None, *, color: str = PALETTE[0], layers=(), height: str = "480px"):
    """A leafmap map with places as points and the label of the place that was clicked below it.

    Args:
        lonlat: positions (n, 2), degrees; of more than 20,000, every k-th is drawn.
        labels: n strings, shown as text, whatever they hold.
        color: of the points, as in CSS.
        layers: Earth Engine layers below the points, each (object, visualisation parameters, name), for those who have
            called :func:`geonb.data.sources.earthengine.connect`.
        height: of the map, as in CSS.

    Returns:
        A ``leafmap.Map`` (an ipywidget): it needs a kernel, and its tiles a network. The label is its ``caption``.

    Raises:
        ValueError: no positions, or not as many labels. ModuleNotFoundError: without leafmap.
    """
    import ipyleaflet
    import ipywidgets
    import leafmap

    lonlat = check_lonlat(lonlat)
    if not len(lonlat):
        raise ValueError("no positions to draw")
    if labels is not None and len(labels) != len(lonlat):
        raise ValueError(f"{len(lonlat)} positions and {len(labels)} labels do not match")
    world = leafmap.Map(center=np.median(lonlat, 0)[::-1].tolist(), zoom=2)
    world.layout.height = height
    for layer, style, name in layers:
        world.add_ee_layer(layer, style, name=name)
    rows = range(0, len(lonlat), -(-len(lonlat) // MOST_POINTS))
    points = ipyleaflet.GeoJSON(
        data={
            "type": "FeatureCollection",
            "features": [
                {
                    "type": "Feature",
                    "geometry": {"type": "Point", "coordinates": lonlat[row].tolist()},
                    "properties": {"row": row},
                }
                for row in rows
            ],
        },
        point_style={"radius": 3, "color": color, "fillColor": color, "fillOpacity": 0.8, "weight": 0},
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
