"""What can be painted of an embedding space: its main components as colours, similarity, or anything computed of it."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from geonb.geo import check_lonlat
from geonb.inference import embed_question

if TYPE_CHECKING:
    import folium

    from geonb.model import Model

LAYERS = ("pca", "similarity", "embedding")
FITTED = 20_000  # places on land, even by area, that principal components and colour scales are taken from
SOUTH, NORTH = -60.0, 84.0  # of the maps; Web Mercator swells beyond


@dataclass(frozen=True)
class Layer:
    """Embeddings (n, d) to be painted as ``bands`` values each.

    Attributes:
        of: the function, (n, d) -> (n, bands).
        title, units: what it is. bands: the name of each band.
        colours: whether the bands are red, green and blue in [0, 1].
    """

    of: Callable[[np.ndarray], np.ndarray]
    title: str
    units: str
    bands: tuple[str, ...]
    colours: bool = False

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        values = np.asarray(self.of(embeddings))
        return values[:, None] if values.ndim == 1 else values


def layer_of(
    model: Model,
    layer: str | Callable[[np.ndarray], np.ndarray] = "pca",
    *,
    place: Sequence[float] | None = None,
    text: str | None = None,
) -> Layer:
    """A layer by its name, for a model.

    Args:
        model: of :func:`geonb.load`.
        layer: "pca" (the first three principal components over land as colours), "similarity" (to ``place``, (lon, lat)
            in degrees, or to ``text``; cosine), "embedding" (all dimensions), or a function of embeddings (n, d) that
            gives (n,) or (n, bands) numbers, such as ``probe.predict``.

    Raises:
        ValueError: an unknown layer, "similarity" to nothing or to two things, or a text that
            :func:`geonb.inference.embed_question` refuses.
    """
    if callable(layer):
        values = np.asarray(layer(model.embed_locations(np.zeros((2, 2)))))
        if len(values) != 2 or values.ndim not in (1, 2):
            raise ValueError(f"the function gave {values.shape} for two embeddings; (2,) or (2, bands) was expected")
        name = getattr(layer, "__name__", type(layer).__name__)
        count = 1 if values.ndim == 1 else values.shape[1]
        return Layer(layer, name, "", (name,) if count == 1 else tuple(f"{name} {i + 1}" for i in range(count)))
    if layer not in LAYERS:
        raise ValueError(f"unknown layer {layer!r}; choose {', '.join(LAYERS)}, or give a function of embeddings")
    if layer != "similarity" and not (place is None and text is None):
        raise ValueError(f"a place or a text is for layer 'similarity', not {layer!r}")
    if layer == "pca":
        from geonb.data.sampling import land_points
        from geonb.explore.projection import Colours

        paint = Colours(model.embed_locations(land_points(FITTED, method="fibonacci")))
        names = tuple(f"principal component {i} ({c})" for i, c in enumerate(("red", "green", "blue"), 1))
        return Layer(paint, "first three principal components", "stretched, 2nd to 98th percentile", names, True)
    if layer == "embedding":
        return Layer(lambda z: z, "embedding", "unit vector", tuple(f"dimension {i}" for i in range(model.dim)))
    if (place is None) == (text is None):
        raise ValueError("similarity needs either a place, (lon, lat) in degrees, or a text")
    if text is not None:
        target, title = embed_question(model, text), f"similarity to the words “{text}”"
    else:
        ((lon, lat),) = check_lonlat(np.asarray([place]))
        target, title = model.embed_locations([(lon, lat)])[0], f"similarity to the place at {lon:.3f}, {lat:.3f}"
    return Layer(lambda z: z @ target, title, "cosine", ("similarity",))


@dataclass(frozen=True)
class LayerImage:
    """A layer as a picture for web maps, in Web Mercator.

    Attributes:
        rgba: uint8 (rows, columns, 4), transparent where nothing is known.
        bounds: ((south, west), (north, east)) in degrees, as Leaflet has it.
        title: what it shows; ``low`` and ``high`` of the colour scale stand in it.
        values: (n, bands) at the positions ``lonlat`` (n, 2) of the pixels that are not transparent.
    """

    rgba: np.ndarray
    bounds: tuple
    title: str
    lonlat: np.ndarray
    values: np.ndarray

    def data_uri(self) -> str:
        """The picture as a PNG in a data URI."""
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(self.rgba).save(buffer, "PNG")
        return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


class LandGrid:
    """The land embedded once, pixel by pixel of a web map, so that layer after layer can be painted at once.

    Attributes:
        model: its model. lonlat: positions (n, 2) of pixels on land. z: their embeddings float32 (n, d).
    """

    def __init__(self, model: Model, width: int = 480, progress: bool = False) -> None:
        """Embed about ``width`` squared / 4 positions; 480 is a pixel of 83 km at the equator."""
        from geonb.data.sampling import on_land

        top, bottom = (np.arcsinh(np.tan(np.radians(lat))) for lat in (NORTH, SOUTH))
        height = max(1, round((top - bottom) / (2 * np.pi) * width))
        y = top - (np.arange(height) + 0.5) / height * (top - bottom)
        lon = (np.arange(width) + 0.5) / width * 360 - 180
        grid = np.stack(np.meshgrid(lon, np.degrees(np.arctan(np.sinh(y)))), 2)
        self.model, self.land = model, on_land(grid.reshape(-1, 2)).reshape(height, width)
        self.lonlat = grid[self.land]
        self.z = model.embed_locations(self.lonlat, progress=progress)

    def image(self, layer: Layer, limits: tuple[float, float] | None = None) -> LayerImage:
        """Paint a layer; numbers in viridis from the 2nd to the 98th percentile, or between ``limits``.

        Raises:
            ValueError: a layer of two bands, or of more than three.
        """
        values, title = layer(self.z), layer.title
        if layer.colours:
            shown = values
        elif values.shape[1] == 1:
            from matplotlib import colormaps

            known = values[np.isfinite(values)]
            low, high = limits or (np.percentile(known, [2, 98]) if len(known) else (0.0, 1.0))
            shown = colormaps["viridis"](np.clip((values[:, 0] - low) / max(high - low, 1e-12), 0, 1))[:, :3]
            title = f"{title} ({layer.units + ', ' if layer.units else ''}{low:.2f} dark to {high:.2f} bright)"
        else:
            raise ValueError(f"{values.shape[1]} bands cannot be painted; give one band, or layer 'pca'")
        rgba = np.zeros((*self.land.shape, 4), np.uint8)
        rgba[self.land, :3] = np.rint(np.nan_to_num(shown) * 255)
        rgba[self.land, 3] = np.where(np.isfinite(values).all(1), 255, 0)
        return LayerImage(rgba, ((SOUTH, -180.0), (NORTH, 180.0)), title, self.lonlat, values)


def add_layer(world: folium.Map, image: LayerImage, opacity: float = 0.8, show: bool = True) -> folium.Map:
    """Lay a picture of a layer over a folium map (:func:`geonb.explore.maps.offline_map`); returns the map."""
    from folium.raster_layers import ImageOverlay

    bounds = [list(corner) for corner in image.bounds]
    # Leaflet's layer control reads names as HTML, and folium reads braces as templates.
    name = escape(image.title).replace("{", "&#123;").replace("}", "&#125;")
    ImageOverlay(image.data_uri(), bounds, opacity=opacity, name=name, show=show, alt=name).add_to(world)
    return world


def error_colours(values: ArrayLike, limit: float | None = None) -> list[str]:
    """Errors, predicted less true, as CSS colours: blue too low, red too high, grey none; for ``add_points``.

    Args:
        values: (n,); NaN is a lighter grey.
        limit: the error that gets the full colour; by default the 98th percentile of their size.
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    values = np.asarray(values, np.float64)
    known = np.isfinite(values)
    limit = limit or (float(np.percentile(np.abs(values[known]), 98)) if known.any() else 1.0)
    shown = colormaps["coolwarm"](np.clip(np.where(known, values, 0) / max(limit, 1e-12), -1, 1) / 2 + 0.5)
    return [to_hex(c) if k else "#c9ced3" for c, k in zip(shown, known, strict=True)]
