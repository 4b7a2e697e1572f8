"""Figures that read well in light and in dark, and say in words what they show."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Callable, Sequence
from functools import cache
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from geonb._util import is_unknown
from geonb.explore.views import MISSING, PALETTE, asset
from geonb.geo import check_lonlat

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MatplotlibFigure

WIDE = 460  # points; on a phone a wider figure scrolls, for its letters would be too small


class Figure:
    """Inline HTML with a text alternative; shows itself in notebooks and in the book."""

    def __init__(self, html: str, alt: str) -> None:
        self.html, self.alt = html, alt

    def _repr_html_(self) -> str:
        return self.html


def themed(fig: MatplotlibFigure, alt: str) -> Figure:
    """Turn a Matplotlib figure into inline SVG whose black ink takes the colour of the page's text.

    Args:
        fig: closed after it is drawn.
        alt: what the figure says, for those who do not see it; required.

    Raises:
        ValueError: an empty ``alt``.
    """
    import matplotlib.pyplot as plt

    if not alt.strip():
        raise ValueError("a figure needs alt text that says what it shows")
    buffer = io.StringIO()
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "geonb"}):
        fig.savefig(buffer, format="svg", transparent=True, bbox_inches="tight", dpi=200, metadata={"Date": None})
    plt.close(fig)
    svg = re.sub(r"^.*?(?=<svg)", "", buffer.getvalue(), flags=re.S)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    name = f"f{hashlib.sha256(svg.encode()).hexdigest()[:8]}-"  # ids differ between the figures of a page

    def restyle(tag: re.Match) -> str:
        return re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{name}", tag[0].replace("#000000", "currentColor"))

    svg = re.sub(r"<[^>]+>", restyle, svg)
    # What has no colour of its own is black in SVG; it takes the text's colour from the root.
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" fill="currentColor" ', 1)
    points = float(re.search(r'width="([\d.]+)pt"', svg)[1])  # type: ignore[index]
    scrolls = f' geonb-wide" role="region" tabindex="0" aria-label="{escape(alt[:80])}' if points > WIDE else ""
    return Figure(f'<div class="geonb-figure{scrolls}">{svg}</div>', alt)


@cache
def land_rings() -> list[np.ndarray]:
    """Return outlines of land, each (k, 2) lon/lat degrees (Natural Earth 1:110m, public domain)."""
    rings = json.loads(asset("land.json"))
    return [np.array(ring, np.float64).reshape(-1, 2) for ring in rings]


def equal_earth_xy(lonlat: ArrayLike) -> np.ndarray:
    """Project positions (n, 2) in degrees to Equal Earth, x in [-1, 1]; areas are in proportion to those on Earth."""
    import torch

    from geonb.encoders.positional import equal_earth

    return equal_earth(torch.from_numpy(np.asarray(lonlat, np.float64))).numpy()


def draw_land(ax: Axes, xy: Callable[[np.ndarray], np.ndarray] | None = None) -> None:
    """Draw land in pale grey under what Matplotlib axes show.

    Args:
        ax: the axes; their limits stay as they are.
        xy: from lon/lat degrees (k, 2) to the axes' coordinates, as :func:`equal_earth_xy`; by default degrees.
    """
    from matplotlib.collections import PolyCollection

    land = PolyCollection(list(map(xy, land_rings())) if xy else land_rings(), facecolor="#8a929c40", edgecolor="none")
    ax.add_collection(land, autolim=False)


def world_axes(figsize: tuple[float, float] = (5.4, 2.9)) -> tuple[MatplotlibFigure, Axes]:
    """Make a Matplotlib figure and axes with land in Equal Earth; plot :func:`equal_earth_xy` on it."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=figsize)
    draw_land(ax, equal_earth_xy)
    latitudes = np.linspace(-90, 90, 91)
    for lon in range(-180, 181, 60):
        edge = equal_earth_xy(np.stack([np.full_like(latitudes, lon), latitudes], 1))
        ax.plot(*edge.T, color="#8a929c", lw=0.8 if abs(lon) == 180 else 0.3, zorder=0)
    for lat in range(-90, 91, 30):
        edge = equal_earth_xy([[-180.0, lat], [180.0, lat]])
        ax.plot(*edge.T, color="#8a929c", lw=0.8 if abs(lat) == 90 else 0.3, zorder=0)
    ax.set(xlim=(-1.01, 1.01), ylim=(-0.5, 0.5), aspect="equal")
    ax.axis("off")
    return fig, ax


def scatter_map(
    lonlat: ArrayLike,
    values: ArrayLike,
    title: str,
    units: str,
    alt: str,
    size: float = 2.0,
    limits: tuple[float, float] | None = None,
    signed: bool = False,
) -> Figure:
    """Draw places on an equal-area world map, coloured by numbers, by classes, or by colours given as (n, 3).

    Args:
        lonlat: positions (n, 2), degrees.
        values: (n,) numbers (NaN is grey), (n,) class names or booleans (the nine most frequent get a colour; None, NaN
            and "" are grey), or (n, 3) in [0, 1].
        title, units: shown above the map and beside the colour bar.
        alt: what the map shows.
        size: area of a dot in points squared.
        limits: (low, high) of the colour bar; by default the 1st and 99th percentile.
        signed: numbers whose sign matters, as errors and differences: blue below 0, red above, grey at 0, and by
            default limits as far below 0 as above.

    Raises:
        ValueError: positions out of range, not as many values as positions, or an empty ``alt``.
    """
    lonlat, values = check_lonlat(lonlat), np.asarray(values)
    if len(values) != len(lonlat):
        raise ValueError(f"{len(lonlat)} positions and {len(values)} values do not match")
    fig, ax = world_axes()
    x, y = equal_earth_xy(lonlat).T
    dots: dict[str, Any] = {"s": size, "lw": 0, "rasterized": True}
    if values.ndim == 2:
        ax.scatter(x, y, c=values, **dots)
    elif values.dtype.kind in "fiu":
        known = np.isfinite(values)
        ax.scatter(x[~known], y[~known], c=MISSING, **dots)
        if known.any():
            low, high = limits or np.percentile(values[known], [1, 99])
            if signed and not limits:
                low, high = -max(-low, high), max(-low, high)
            colours = {"cmap": "coolwarm" if signed else "viridis", "vmin": low, "vmax": high}
            drawn = ax.scatter(x[known], y[known], c=values[known], **colours, **dots)
            _colour_bar(ax, drawn, units, extend="both")
    else:
        known = np.array([not is_unknown(v) for v in values], bool)
        classes = values.astype(str)
        names, counts = np.unique(classes[known], return_counts=True)
        shown = names[np.argsort(-counts, kind="stable")][: len(PALETTE) - 1]
        for colour, name in zip(PALETTE, shown, strict=False):
            own = known & (classes == name)
            ax.scatter(x[own], y[own], c=colour, label=str(name), **dots)
        for grey, name in ((known & ~np.isin(classes, shown), "other"), (~known, "unknown")):
            if grey.any():
                ax.scatter(x[grey], y[grey], c=MISSING, label=name, **dots)
        compact = {"fontsize": 7, "markerscale": 4, "handletextpad": 0.1, "columnspacing": 0.8, "frameon": False}
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=5, **compact)
    ax.set_title(title, fontsize=10)
    return themed(fig, alt)


def coverage_map(
    lonlat: ArrayLike, size_km: float = 200.0, title: str = "", units: str = "places in a cell", alt: str = ""
) -> Figure:
    """Map where places are: equal-area cells coloured by the number of places in them, land without any in grey.

    Args:
        lonlat: positions (n, 2), degrees.
        size_km: edge of the cells; a cell is land if at least half of it is.
        title, units: shown above the map and beside the colour bar, which is logarithmic.
        alt: what the map shows; by default how many land cells have a place, and how many the fullest has.
    """
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import FuncFormatter, NullFormatter

    from geonb.data.sampling import land_cells
    from geonb.geo import blocks

    lonlat, land = check_lonlat(lonlat), land_cells(size_km)
    cells, counts = np.unique(blocks(lonlat, size_km), return_counts=True)
    empty = np.setdiff1d(land, cells)
    held, top = len(land) - len(empty), int(counts.max(initial=0))
    alt = alt or (
        f"World map of {len(lonlat):,} places in cells of {size_km:g} km: {held:,} of {len(land):,} land cells "
        f"({held / len(land):.0%}) hold at least one, the fullest cell holds {top:,}."
    )
    fig, ax = world_axes()
    thin = {"rasterized": True, "linewidth": 0.2}  # a line of the cell's own colour closes the seams
    grey = {"facecolor": MISSING, "edgecolor": MISSING, "alpha": 0.6}
    ax.add_collection(PolyCollection(_outlines(empty, size_km), **grey, **thin))
    norm = LogNorm(1, max(top, 2))
    full = PolyCollection(_outlines(cells, size_km), array=counts, cmap="viridis", norm=norm, edgecolor="face", **thin)
    ax.add_collection(full)
    bar = _colour_bar(ax, full, f"{units}; grey: land without")
    bar.ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    bar.ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_title(title, fontsize=10)
    return themed(fig, alt)


def _colour_bar(ax: Axes, drawn: Any, label: str, **options: Any) -> Any:
    shape = {"orientation": "horizontal", "shrink": 0.45, "pad": 0.02, "aspect": 30}
    bar = ax.figure.colorbar(drawn, ax=ax, **shape, **options)
    bar.set_label(label)
    bar.outline.set_visible(False)
    return bar


def _outlines(cells: ArrayLike, size_km: float) -> np.ndarray:
    """Outlines (n, 18, 2) of equal-area cells on the map of :func:`equal_earth_xy`."""
    from geonb.geo import cell_bounds

    west, south, east, north = cell_bounds(cells, size_km).T[:, :, None]
    lat = south + np.linspace(0, 1, 9) * (north - south)  # parallels are straight on this map, meridians are not
    sides = [np.stack([np.broadcast_to(lon, lat.shape), side], 2) for lon, side in ((west, lat), (east, lat[:, ::-1]))]
    ring = np.concatenate(sides, 1)
    return equal_earth_xy(ring.reshape(-1, 2)).reshape(ring.shape)


def image_grid(
    images: Sequence[np.ndarray] | np.ndarray, captions: Sequence[str], alt: str, columns: int = 6, pixels: int = 128
) -> Figure:
    """Show RGB chips in a grid with a caption below each.

    Args:
        images: uint8 (n, H, W, 3).
        captions: n strings; each is also the alt text of its chip.
        alt: what the grid shows as a whole.
        columns: at most this many side by side.
        pixels: shown width of a chip.

    Raises:
        ValueError: not as many captions as images.
    """
    from PIL import Image

    if len(images) != len(captions):
        raise ValueError(f"{len(images)} images and {len(captions)} captions do not match")
    cells = []
    for image, caption in zip(images, captions, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        data = base64.b64encode(buffer.getvalue()).decode()
        cells.append(
            f'<figure><img src="data:image/png;base64,{data}" alt="{escape(caption)}" width="{pixels}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )
    width = f"max-width:{columns * (pixels + 12)}px"
    style = f"display:grid;gap:8px;grid-template-columns:repeat(auto-fill,minmax(min({pixels}px,45%),1fr));{width}"
    group = f'<div class="geonb-grid" role="group" aria-label="{escape(alt)}" style="{style}">'
    return Figure(group + "".join(cells) + "</div>", alt)
