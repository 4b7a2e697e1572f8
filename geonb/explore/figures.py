"""Figures that read well in light and in dark, and say in words what they show."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from geonb._util import as_text
from geonb.explore.views import MISSING, PALETTE, as_numbers, land_rings, listed
from geonb.geo import check_lonlat

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MatplotlibFigure

WIDE = 460  # points; on a phone a wider figure scrolls, for its letters would be too small
CHIP = 128  # pixels, the shown width of a chip


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
        alt: what the figure says, for those who do not see it; ValueError where it is empty.
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


def equal_earth_xy(lonlat: ArrayLike) -> np.ndarray:
    """Project positions (n, 2) in degrees to Equal Earth, x in [-1, 1]; areas are in proportion."""
    import torch

    from geonb.encoders.positional import equal_earth

    return equal_earth(torch.from_numpy(np.asarray(lonlat, np.float64))).numpy()


def draw_land(ax: Axes, xy: Callable[[np.ndarray], np.ndarray] | None = None) -> None:
    """Draw land in pale grey on axes in degrees, or in the coordinates that ``xy`` makes of degrees (k, 2)."""
    from matplotlib.collections import PolyCollection

    rings = [xy(ring) if xy else ring for ring in land_rings()]
    land = PolyCollection(rings, facecolor="#8a929c40", edgecolor="none")
    ax.add_collection(land, autolim=False)


def world_axes(figsize: tuple[float, float] = (5.4, 2.9)) -> tuple[MatplotlibFigure, Axes]:
    """Make a Matplotlib figure and axes with land in Equal Earth; plot :func:`equal_earth_xy` on it."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=figsize)
    draw_land(ax, equal_earth_xy)
    t = np.linspace(-1, 1, 91)
    meridians = [np.stack([0 * t + lon, 90 * t], 1) for lon in range(-180, 181, 60)]
    parallels = [np.stack([180 * t, 0 * t + lat], 1) for lat in range(-90, 91, 30)]
    for line in meridians + parallels:
        ax.plot(*equal_earth_xy(line).T, color="#8a929c", lw=0.4, zorder=0)
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
        values: (n,) numbers, (n,) class names or booleans (the nine most frequent get a colour),
            or colours (n, 3) in [0, 1]; missing values are grey.
        title, units: shown above the map and beside the colour bar.
        alt: what the map shows.
        size: area of a dot in points squared.
        limits: (low, high) of the colour bar; by default the 1st and 99th percentile.
        signed: the sign of the numbers matters: blue below 0, red above, grey at 0, and by default
            limits as far below 0 as above.

    Raises:
        ValueError: another number of values than of places.
    """
    lonlat, colours = check_lonlat(lonlat), np.ndim(values) == 2
    column = listed(values)
    if len(column) != len(lonlat):
        raise ValueError(f"{len(column)} values for {len(lonlat)} places; give one for each")
    numbers = None if colours else as_numbers(column)
    fig, ax = world_axes()
    x, y = equal_earth_xy(lonlat).T

    def dots(rows: np.ndarray | slice, colour: Any, **options: Any) -> Any:
        return ax.scatter(x[rows], y[rows], c=colour, s=size, lw=0, rasterized=True, **options)

    if colours:
        dots(slice(None), np.asarray(values))
    elif numbers is not None:
        known = np.isfinite(numbers)
        dots(~known, MISSING)
        if known.any():
            low, high = limits or np.percentile(numbers[known], [1, 99])
            if signed and not limits:
                low, high = -max(-low, high), max(-low, high)
            drawn = dots(known, numbers[known], cmap="coolwarm" if signed else "viridis", vmin=low, vmax=high)
            shape = {"orientation": "horizontal", "shrink": 0.45, "pad": 0.02, "aspect": 30}
            bar = fig.colorbar(drawn, ax=ax, extend="both", label=units, **shape)
            bar.outline.set_visible(False)
    else:
        classes = np.array([as_text(v) for v in column], object)
        known = classes != ""
        names, counts = np.unique(classes[known], return_counts=True)
        shown = names[np.argsort(-counts, kind="stable")][: len(PALETTE) - 1]
        for colour, name in zip(PALETTE, shown, strict=False):
            dots(known & (classes == name), colour, label=name)
        for grey, name in ((known & ~np.isin(classes, shown), "other"), (~known, "unknown")):
            if grey.any():
                dots(grey, MISSING, label=name)
        compact = {"fontsize": 7, "markerscale": 4, "handletextpad": 0.1, "columnspacing": 0.8, "frameon": False}
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=5, **compact)
    ax.set_title(title, fontsize=10)
    return themed(fig, alt)


def image_grid(images: ArrayLike, captions: Sequence[str], alt: str, columns: int = 6) -> Figure:
    """Show RGB chips in a grid with a caption below each.

    Args:
        images: uint8 (n, H, W, 3).
        captions: n strings, or nothing where one is missing; each is also the alt text of its chip.
        alt: what the grid shows as a whole.
        columns: at most this many side by side.
    """
    from PIL import Image

    cells = []
    for image, caption in zip(np.asarray(images), map(as_text, listed(captions)), strict=True):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        data = base64.b64encode(buffer.getvalue()).decode()
        cells.append(
            f'<figure><img src="data:image/png;base64,{data}" alt="{escape(caption)}" width="{CHIP}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )
    grid = f"repeat(auto-fill,minmax(min({CHIP}px,45%),1fr));max-width:{columns * (CHIP + 12)}px"
    style = f"display:grid;gap:8px;grid-template-columns:{grid}"
    group = f'<div class="geonb-grid" role="group" aria-label="{escape(alt)}" style="{style}">'
    return Figure(group + "".join(cells) + "</div>", alt)
