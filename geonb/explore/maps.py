"""Web maps: Leaflet and land that come with the page, places, and layers painted from an embedding space."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from geonb.explore.views import PALETTE, land_rings, safe_json
from geonb.geo import check_lonlat

if TYPE_CHECKING:
    import folium
    import leafmap

    from geonb.model import Model

SEA, LAND, SHORE = "#edf2f6", "#d3dae0", "#9aa6b1"
POINTS = """
{% macro script(this, kwargs) %}
{{ this.points }}.forEach(([lat, lon, label]) => {
  const circle = L.circleMarker([lat, lon], {radius: 5, color: "#fff", weight: 1,
    fillColor: "#0072B2", fillOpacity: 0.9});
  const text = document.createElement("div");
  text.textContent = label;
  circle.bindPopup(text, {maxWidth: 280}).addTo({{ this._parent.get_name() }});
});
{% endmacro %}
"""
FITTED = 20_000  # places on land, even by area, that principal components are taken from
SOUTH, NORTH = -60.0, 84.0  # of painted layers; Web Mercator swells beyond
MOST_POINTS = 20_000  # that a live map draws one by one


def offline_map(height: int = 420, alt: str = "Interactive map") -> folium.Map:
    """Make a folium map over Natural Earth land (1:110 million) that needs no network.

    OpenStreetMap tiles are offered in its layer control; nothing is fetched unless a reader chooses them.

    Args:
        height: of the map in pixels.
        alt: title of the frame the map stands in, for those who do not see it.

    Returns:
        A ``folium.Map``; add to it with :func:`add_points`, :func:`add_layer` or folium.
    """
    import folium

    # in steps of a half, so that the whole world fits in 724 pixels
    world = _map_class()((20, 0), zoom_start=1.5, zoom_snap=0.5, tiles=None, height=height, prefer_canvas=True)
    world.alt, world.pixels = alt, height
    figure = folium.Figure()
    figure.add_child(world)
    look = f"<style>div.leaflet-container{{background:{SEA};font-family:system-ui,sans-serif}}</style>"
    folium.Element(look).add_to(figure.header)
    land = folium.FeatureGroup("Land (Natural Earth)", overlay=False)
    style = {"color": SHORE, "weight": 0.6, "fillColor": LAND, "fillOpacity": 1}
    folium.map.CustomPane("land", z_index=250).add_to(world)  # above tiles, below pictures of layers
    polygons = [[[*ring, ring[0]]] for ring in (ring.tolist() for ring in land_rings())]
    shape = {"type": "MultiPolygon", "coordinates": polygons}
    folium.GeoJson(shape, style_function=lambda _: style, control=False, interactive=False, pane="land").add_to(land)
    land.add_to(world)
    name = "OpenStreetMap (needs a network)"
    folium.TileLayer("OpenStreetMap", name=name, show=False, overlay=False).add_to(world)
    folium.LayerControl(collapsed=True).add_to(world)
    return world


def add_points(world: folium.Map, lonlat: ArrayLike, labels: Sequence[str]) -> folium.Map:
    """Add places to a map as circles; return the map.

    Args:
        world: a map of :func:`offline_map`.
        lonlat: positions (n, 2), degrees.
        labels: n strings shown when a circle is pressed; shown as text, whatever they contain.

    Raises:
        ValueError: not as many labels as positions.
    """
    points = [[lat, lon, str(label)] for (lon, lat), label in zip(check_lonlat(lonlat).tolist(), labels, strict=True)]
    # folium renders scripts as templates twice
    text = safe_json(points).replace("{", "\\u007b").replace("}", "\\u007d")
    _points_class()(text).add_to(world)
    return world


@dataclass(frozen=True)
class Layer:
    """What is painted of an embedding space.

    Attributes:
        of: the function, embeddings (n, d) -> (n, bands).
        bands: names of the bands: one of numbers, or red, green and blue in [0, 1].
    """

    of: Callable[[np.ndarray], np.ndarray]
    title: str
    units: str
    bands: tuple[str, ...]


def layer_of(model: Model, *, place: Sequence[float] | None = None, text: str | None = None) -> Layer:
    """Make a layer of a model: its main components as colours, or the similarity to a place or to words.

    Args:
        place: (lon, lat) in degrees.
        text: a question in words. Without both, the layer is the first three principal components over land as colours.

    Raises:
        ValueError: both a place and a text, or a text that :func:`geonb.inference.embed_question` refuses.
    """
    if place is not None and text is not None:
        raise ValueError("give a place, (lon, lat) in degrees, or a text, not both")
    if place is None and text is None:
        from geonb.data.sampling import land_points
        from geonb.explore.projection import Colours

        paint = Colours(model.embed_locations(land_points(FITTED, method="fibonacci")))
        names = tuple(f"principal component {i} ({c})" for i, c in enumerate(("red", "green", "blue"), 1))
        return Layer(paint, "first three principal components", "stretched, 2nd to 98th percentile", names)
    if text is not None:
        from geonb.inference import embed_question

        target, title = embed_question(model, text), f"similarity to the words “{text}”"
    else:
        ((lon, lat),) = check_lonlat(np.asarray([place]))
        target, title = model.embed_locations([(lon, lat)])[0], f"similarity to the place at {lon:.3f}, {lat:.3f}"
    return Layer(lambda z: (z @ target)[:, None], title, "cosine", ("similarity",))


def add_layer(world: folium.Map, model: Model, width: int = 480, show: bool = True) -> folium.Map:
    """Paint the main components of a model over land and lay them on a map; return the map.

    Args:
        world, model: a map of :func:`offline_map`, a model of :func:`geonb.load`.
        width: pixels around the equator, of 83 km at 480; about ``width`` squared / 4 positions are embedded.
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


def live_map(
    lonlat: ArrayLike, labels: Sequence | None = None, *, tiles: Sequence[tuple[str, str, str]] = ()
) -> leafmap.Map:
    """Make a leafmap map with places as points; the label of the place that is clicked stands below it.

    Args:
        lonlat: positions (n, 2), degrees; of more than 20,000, every k-th is drawn.
        labels: n strings, shown as text, whatever they contain.
        tiles: layers below the points, each (address with {x}, {y} and {z}, name, whom to credit). The address of an
            Earth Engine image is ``image.getMapId(style)["tile_fetcher"].url_format``.

    Returns:
        A ``leafmap.Map`` (an ipywidget): it needs a kernel, and its tiles a network.

    Raises:
        ValueError: no positions, or not as many labels.
    """
    import ipyleaflet
    import ipywidgets
    import leafmap

    lonlat = check_lonlat(lonlat)
    if not len(lonlat) or (labels is not None and len(labels) != len(lonlat)):
        raise ValueError(f"{len(lonlat)} positions; give at least one, and a label for each")
    world = leafmap.Map(center=np.median(lonlat, 0)[::-1].tolist(), zoom=2)
    world.layout.height = "480px"
    for address, name, credit in tiles:
        world.add_tile_layer(address, name=name, attribution=credit)
    rows = range(0, len(lonlat), -(-len(lonlat) // MOST_POINTS))
    places = [{"type": "Feature", "properties": {"row": row},
               "geometry": {"type": "Point", "coordinates": lonlat[row].tolist()}} for row in rows]  # fmt: skip
    points = ipyleaflet.GeoJSON(
        data={"type": "FeatureCollection", "features": places},
        point_style={"radius": 3, "fillOpacity": 0.8, "weight": 0, "fillColor": PALETTE[0]},
        name=f"{len(rows):,} of {len(lonlat):,} places",
    )
    world.caption = ipywidgets.Label(value="Click a point.")  # a Label shows text, never markup

    def show(feature: dict, **_: Any) -> None:
        row = int(feature["properties"]["row"])
        lon, lat = lonlat[row]
        world.caption.value = f"{labels[row] if labels is not None else f'row {row}'} ({lon:.3f}, {lat:.3f})"

    points.on_click(show)
    world.add(points)
    world.add(ipyleaflet.WidgetControl(widget=world.caption, position="bottomleft"))
    return world


def opened(model: Model | str | Path) -> Model:
    """Load a model from the folder of its run, or return a loaded one as it is."""
    import geonb

    return geonb.load(model) if isinstance(model, str | Path) else model


def land_centres(size_km: float) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers (n,) and centres (n, 2) of the equal-area cells that are at least half land."""
    from geonb.data.sampling import land_cells
    from geonb.geo import cell_bounds

    cells = land_cells(float(size_km))
    west, south, east, north = cell_bounds(cells, size_km).T
    middle = np.degrees(np.arcsin((np.sin(np.radians(south)) + np.sin(np.radians(north))) / 2))
    return cells, np.stack([(west + east) / 2, middle], 1)


@cache
def _points_class() -> type:
    from folium.elements import MacroElement
    from folium.template import Template

    class Points(MacroElement):
        """Circles whose popups are built as text nodes; folium's own popups would need jQuery."""

        _template = Template(POINTS)

        def __init__(self, points: str) -> None:
            super().__init__()
            self.points = points

    return Points


@cache
def _map_class() -> type:
    import folium

    class OfflineMap(folium.Map):
        """A folium map whose scripts and styles are in the page."""

        alt, pixels = "", 420
        default_js = [("leaflet", _data_uri("leaflet.js", "text/javascript"))]
        default_css = [("leaflet_css", _data_uri("leaflet.css", "text/css"))]

        def render(self, **kwargs: Any) -> Any:
            """Put the layer control last: it lists what stands before it, whatever was added after it."""
            for name, child in list(self._children.items()):
                if isinstance(child, folium.LayerControl):
                    self._children.move_to_end(name)
            return super().render(**kwargs)

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
