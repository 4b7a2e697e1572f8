"""Web maps that need no network: Leaflet and land come with the page; layers are painted from an embedding space."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from geonb._util import as_text
from geonb.explore.views import asset, land_rings, listed, safe_json
from geonb.geo import check_lonlat

if TYPE_CHECKING:
    import folium

    from geonb.model import Model

POINTS = """
{% macro script(this, kwargs) %}
PLACES.forEach(([lat, lon, label]) => {
  const circle = L.circleMarker([lat, lon], {radius: 5, color: "#fff", weight: 1,
    fillColor: "#0072B2", fillOpacity: 0.9});
  const text = document.createElement("div");
  text.textContent = label;
  if (label) circle.bindPopup(text, {maxWidth: 280});
  circle.addTo({{ this._parent.get_name() }});
});
{% endmacro %}
"""
STYLE = "<style>div.leaflet-container{background:#edf2f6;font-family:system-ui,sans-serif}</style>"
FITTED = 20_000  # places on land, even by area, that principal components are taken from
SOUTH, NORTH = -60.0, 84.0  # of painted layers; Web Mercator swells beyond
CLOSEST = 5  # zoom at which a map of few points opens; the outlines of land are coarser than a larger one shows


def offline_map(height: int = 420, alt: str = "Interactive map", tiles: bool = True) -> folium.Map:
    """Make a folium map over land that needs no network.

    Its layer control offers OpenStreetMap ``tiles``; none is fetched unless a reader chooses them.

    Args:
        height: of the map in pixels.
        alt: title of the frame the map stands in, for those who do not see it.
    """
    import folium

    # in steps of a half, so that the whole world fits in 724 pixels
    world = _map_class()((20, 0), zoom_start=1.5, zoom_snap=0.5, tiles=None, height=height, prefer_canvas=True)
    world.alt, world.pixels = alt, height
    world.get_root().header.add_child(folium.Element(STYLE))
    folium.map.CustomPane("land", z_index=250).add_to(world)  # above tiles, below pictures of layers
    world.land = folium.FeatureGroup("Land (Natural Earth)", overlay=False).add_to(world)
    _draw_land(world)
    if tiles:
        name = "OpenStreetMap (needs a network)"
        folium.TileLayer("OpenStreetMap", name=name, show=False, overlay=False).add_to(world)
    world.control = folium.LayerControl().add_to(world)
    return world


def _draw_land(world: Any, east: float = 0.0) -> None:
    """Draw the land on a map, or a copy so many degrees farther east."""
    import folium

    style = {"color": "#9aa6b1", "weight": 0.6, "fillColor": "#d3dae0", "fillOpacity": 1}
    polygons = [[(np.vstack([ring, ring[:1]]) + [east, 0]).tolist()] for ring in land_rings()]
    shape = {"type": "MultiPolygon", "coordinates": polygons}
    land = folium.GeoJson(shape, style_function=lambda _: style, control=False, interactive=False, pane="land")
    land.add_to(world.land)


def add_points(world: Any, lonlat: ArrayLike, labels: Sequence[str]) -> folium.Map:
    """Add places to a map as circles; return the map.

    A map whose places lie within half the globe opens on them, across longitude 180 too; others show the world.

    Args:
        world: a map of :func:`offline_map`.
        lonlat: positions (n, 2), degrees.
        labels: n strings, shown as text when a circle is pressed; nothing is where one is missing.

    Raises:
        ValueError: no place, or another number of labels.
    """
    from folium.elements import MacroElement
    from folium.map import FitBounds
    from folium.template import Template

    names, lonlat = [as_text(label) for label in listed(labels)], check_lonlat(lonlat)
    if len(names) != len(lonlat) or not names:
        raise ValueError(f"{len(lonlat)} places and {len(names)} labels; give at least one place, and each a label")
    world.places = [*world.places, *zip(lonlat.tolist(), names, strict=True)]
    lonlat = np.array([place for place, _ in world.places])
    west, east = _arc(lonlat[:, 0])
    world._children.pop("fit", None)
    if east - west < 180:
        lonlat[lonlat[:, 0] < west, 0] += 360
        corners = [lonlat.min(0)[::-1].tolist(), lonlat.max(0)[::-1].tolist()]
        world.add_child(FitBounds(corners, padding=(20, 20), max_zoom=CLOSEST), name="fit")
        if east > 180 and len(world.land._children) == 1:
            _draw_land(world, 360)
    points = [[lat, lon, name] for (lon, lat), (_, name) in zip(lonlat.tolist(), world.places, strict=True)]
    # what folium renders are templates, so no label may hold a brace
    text = safe_json(points).replace("{", "\\u007b").replace("}", "\\u007d")
    circles = MacroElement()  # folium's own popups would need jQuery, and take HTML
    circles._template = Template(POINTS.replace("PLACES", text))
    world.add_child(circles, name="points")
    return world


def _arc(lon: np.ndarray) -> tuple[float, float]:
    """Find west and east of the shortest arc with all longitudes (n,); east is above 180 across the date line."""
    lon = np.unique(lon)
    gaps = np.diff(lon, append=lon[0] + 360)
    west = lon[(gaps.argmax() + 1) % len(lon)]
    return float(west), float(west + 360 - gaps.max())


@dataclass(frozen=True)
class Layer:
    """What is painted of an embedding space."""

    of: Callable[[np.ndarray], np.ndarray]  # embeddings (n, d) -> (n, bands)
    title: str
    units: str
    bands: tuple[str, ...]  # one of numbers, or red, green and blue in [0, 1]


def layer_of(model: Model, *, place: Sequence[float] | None = None, text: str | None = None) -> Layer:
    """Make a layer of a model: its main components as colours, or the similarity to a place or to words.

    Args:
        place: (lon, lat) in degrees.
        text: words; both are a ValueError. Without either, the first three principal components.
    """
    if place is not None and text is not None:
        raise ValueError("give a place, (lon, lat) in degrees, or a text, not both")
    if text is not None:
        target, title = model.embed_question(text), f"similarity to the words “{text}”"
    elif place is not None:
        lon, lat = place
        target, title = model.embed_locations([place])[0], f"similarity to the place at {lon:.3f}, {lat:.3f}"
    else:
        from geonb.data.sampling import land_points
        from geonb.explore.projection import Colours

        paint = Colours(model.embed_locations(land_points(FITTED, method="fibonacci")))
        names = tuple(f"principal component {i} ({c})" for i, c in enumerate(("red", "green", "blue"), 1))
        return Layer(paint, "first three principal components", "stretched, 2nd to 98th percentile", names)
    return Layer(lambda z: (z @ target)[:, None], title, "cosine", ("similarity",))


def add_layer(world: folium.Map, model: Model, width: int = 480, show: bool = True) -> folium.Map:
    """Paint the main components of a model over land and lay them on a map; return the map.

    Args:
        world: a map of :func:`offline_map`.
        width: pixels around the equator, of 83 km at 480; a larger value takes longer.
        show: show the layer at first; the control of the map shows and hides it.
    """
    from folium.raster_layers import ImageOverlay

    layer, bounds = layer_of(model), [[SOUTH, -180.0], [NORTH, 180.0]]
    rgba = _painted(model, layer, width)
    ImageOverlay(rgba, bounds, opacity=0.8, name=layer.title, show=show, alt=layer.title).add_to(world)
    return world


def _painted(model: Model, layer: Layer, width: int) -> np.ndarray:
    """Paint a layer of colours in Web Mercator, uint8 (rows, width, 4), transparent at sea."""
    from geonb.data.sampling import on_land

    top, bottom = (np.arcsinh(np.tan(np.radians(lat))) for lat in (NORTH, SOUTH))
    height = max(1, round((top - bottom) / (2 * np.pi) * width))
    y = top - (np.arange(height) + 0.5) / height * (top - bottom)
    lon = (np.arange(width) + 0.5) / width * 360 - 180
    grid = np.stack(np.meshgrid(lon, np.degrees(np.arctan(np.sinh(y)))), 2)
    land = on_land(grid.reshape(-1, 2)).reshape(height, width)
    rgba = np.zeros((height, width, 4), np.uint8)
    rgba[land, :3], rgba[land, 3] = np.rint(layer.of(model.embed_locations(grid[land])) * 255), 255
    return rgba


def land_centres(size_km: float) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers (n,) and centres (n, 2) of the equal-area cells that are at least half land."""
    from geonb.data.sampling import land_cells
    from geonb.geo import cell_bounds

    cells = land_cells(float(size_km))
    west, south, east, north = cell_bounds(cells, size_km).T
    middle = np.degrees(np.arcsin((np.sin(np.radians(south)) + np.sin(np.radians(north))) / 2))
    return cells, np.stack([(west + east) / 2, middle], 1)


@cache
def _map_class() -> type:
    import folium

    class OfflineMap(folium.Map):
        """A folium map whose scripts and styles are in the page."""

        alt, pixels = "", 420
        control: Any = None
        land: Any = None
        places: Any = ()
        default_js = [("leaflet", _asset_uri("leaflet.js", "text/javascript"))]
        default_css = [("leaflet_css", _asset_uri("leaflet.css", "text/css"))]

        def render(self, **kwargs: Any) -> str:
            """Put the layer control last: it lists the layers that stand before it."""
            self._children.move_to_end(self.control.get_name())
            return super().render(**kwargs)

        def _repr_html_(self, **kwargs: Any) -> str:
            page = escape(self.get_root().render(**kwargs))
            return (
                f'<iframe title="{escape(self.alt)}" loading="lazy" srcdoc="{page}" width="100%" '
                f'height="{self.pixels}" style="border:0;border-radius:7px"></iframe>'
            )

    return OfflineMap


def _asset_uri(name: str, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(asset(name).encode()).decode()}"
