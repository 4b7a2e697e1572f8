"""Interactive maps that draw without a network: Leaflet and the land come with the page."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from geonb.explore.views import PALETTE, asset, safe_json
from geonb.geo import check_lonlat

if TYPE_CHECKING:
    import folium

POINTS = """
{% macro script(this, kwargs) %}
{{ this.points }}.forEach(([lat, lon, label, color]) => {
  const circle = L.circleMarker([lat, lon], {radius: {{ this.radius }}, color: "#fff", weight: 1,
    fillColor: color, fillOpacity: 0.9});
  if (label !== null) {
    const text = document.createElement("div");
    text.textContent = label;
    circle.bindPopup(text, {maxWidth: 280});
  }
  circle.addTo({{ this._parent.get_name() }});
});
{% endmacro %}
"""
SEA, LAND, SHORE = "#edf2f6", "#d3dae0", "#9aa6b1"


def offline_map(
    center: tuple[float, float] = (0.0, 20.0),
    zoom: float = 1.5,
    height: int = 420,
    alt: str = "Interactive map",
    tiles: bool = True,
) -> folium.Map:
    """A folium map over Natural Earth land that needs no network.

    Args:
        center: (lon, lat) in degrees, longitude first, as everywhere in this package.
        zoom: Leaflet zoom level in steps of a half, 0 (the world in 256 pixels, twice that at 1) and up; by default the
            world is 724 pixels wide. The land is drawn at 1:110 million.
        height: of the map in pixels.
        alt: title of the frame the map stands in, for those who do not see it.
        tiles: offer OpenStreetMap tiles in the layer control; nothing is fetched unless a reader chooses them.

    Returns:
        A ``folium.Map``; add to it with :func:`add_points` or with folium.
    """
    import folium

    ((lon, lat),) = check_lonlat([center]).tolist()
    figure = folium.Figure()
    world = _map_class()(
        location=(lat, lon), zoom_start=zoom, zoom_snap=0.5, tiles=None, height=height, prefer_canvas=True
    )
    world.alt, world.pixels = alt, height
    figure.add_child(world)
    land = folium.FeatureGroup("Land (Natural Earth)", overlay=False)
    style = {"color": SHORE, "weight": 0.6, "fillColor": LAND, "fillOpacity": 1}
    folium.map.CustomPane("land", z_index=250).add_to(world)  # above tiles, below pictures of layers
    folium.GeoJson(_land(), style_function=lambda _: style, control=False, interactive=False, pane="land").add_to(land)
    land.add_to(world)
    if tiles:
        name = "OpenStreetMap (needs a network)"
        folium.TileLayer("OpenStreetMap", name=name, show=False, overlay=False).add_to(world)
        folium.LayerControl(collapsed=True).add_to(world)
    folium.Element(f"<style>div.leaflet-container{{background:{SEA};font-family:system-ui,sans-serif}}</style>").add_to(
        figure.header
    )
    return world


def add_points(
    world: folium.Map,
    lonlat: ArrayLike,
    labels: Sequence | None = None,
    color: str | Sequence[str] | None = None,
    radius: float = 5,
) -> folium.Map:
    """Add places to a map as circles; returns the map.

    Args:
        world: a map of :func:`offline_map`.
        lonlat: positions (n, 2), degrees.
        labels: n strings shown when a circle is pressed; shown as text, whatever they hold.
        color: n CSS colours, or one for all.
        radius: in pixels.

    Raises:
        ValueError: lengths that do not match.
    """
    lonlat = check_lonlat(lonlat)
    n = len(lonlat)
    labels = [None] * n if labels is None else [None if label is None else str(label) for label in labels]
    colors = [color or PALETTE[0]] * n if color is None or isinstance(color, str) else [str(c) for c in color]
    if not n == len(labels) == len(colors):
        raise ValueError(f"{n} positions, {len(labels)} labels and {len(colors)} colours do not match")
    points = [[lat, lon, label, c] for (lon, lat), label, c in zip(lonlat.tolist(), labels, colors, strict=True)]
    text = (
        safe_json(points).replace("{", "\\u007b").replace("}", "\\u007d")
    )  # folium renders scripts as templates twice
    _points_class()(text, float(radius)).add_to(world)
    return world


@cache
def _points_class():
    from folium.elements import MacroElement
    from folium.template import Template

    class Points(MacroElement):
        """Circles whose popups are built as text nodes; folium's own popups would need jQuery."""

        _template = Template(POINTS)

        def __init__(self, points: str, radius: float) -> None:
            super().__init__()
            self.points, self.radius = points, radius

    return Points


@cache
def _map_class():
    import folium

    class OfflineMap(folium.Map):
        """A folium map whose scripts and styles are in the page."""

        alt, pixels = "", 420
        default_js = [("leaflet", _data_uri("leaflet.js", "text/javascript"))]
        default_css = [("leaflet_css", _data_uri("leaflet.css", "text/css"))]

        def render(self, **kwargs):
            """A layer control lists what stands before it, so it goes last, whatever was added after it."""
            for name, child in list(self._children.items()):
                if isinstance(child, folium.LayerControl):
                    self._children.move_to_end(name)
            super().render(**kwargs)

        def _repr_html_(self, **kwargs: Any) -> str:
            page = escape(self.get_root().render(**kwargs))
            return (
                f'<iframe title="{escape(self.alt)}" loading="lazy" srcdoc="{page}" width="100%" '
                f'height="{self.pixels}" style="border:0;border-radius:7px"></iframe>'
            )

    return OfflineMap


def _data_uri(name: str, mime: str) -> str:
    data = (files("geonb.explore") / "assets" / name).read_bytes()
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


@cache
def _land() -> dict:
    rings = json.loads(asset("land.json"))
    polygons = []
    for ring in rings:
        points = np.array(ring).reshape(-1, 2).tolist()
        polygons.append([[*points, points[0]]])
    return {"type": "Feature", "properties": {}, "geometry": {"type": "MultiPolygon", "coordinates": polygons}}
