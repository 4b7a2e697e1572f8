"""The page's arithmetic again, in NumPy, and how to read its pixels."""

import base64
import io

import numpy as np
from matplotlib.path import Path

from geonb.explore.figures import equal_earth_xy


def equal_earth(lon, lat):
    """Coordinates in [0, 1], y down, and the ratio of the sides."""
    (x, y), top = equal_earth_xy(np.stack([lon, lat], -1)).T, equal_earth_xy([0, 90])[1]
    return np.stack([(x + 1) / 2, (1 - y / top) / 2], -1), 1 / top


def inside(polygon, points):
    """Even-odd rule, by Matplotlib."""
    return Path(polygon).contains_points(points)


def drawn(canvas) -> str:
    """What is on a canvas, to see whether it changed."""
    return canvas.evaluate("(c) => c.toDataURL()")


def pixels(canvas) -> np.ndarray:
    """The pixels of a canvas (h, w, 4)."""
    from PIL import Image

    return np.array(Image.open(io.BytesIO(base64.b64decode(drawn(canvas).split(",")[1]))).convert("RGBA"))


def settle(page):
    page.evaluate("() => new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)))")
