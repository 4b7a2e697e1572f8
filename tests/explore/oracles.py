"""The page's arithmetic again, in NumPy, and how to read its pixels."""

import base64
import io

import numpy as np
from matplotlib.path import Path


def equal_earth(lon, lat):
    """Coordinates in [0, 1], y down, and the ratio of the sides (Šavrič, Patterson and Jenny, 2018, eq. 8)."""

    def plane(lon, lat):
        t = np.arcsin(np.sqrt(3) / 2 * np.sin(np.radians(lat)))
        slope = 9 * 0.003796 * t**8 + 7 * 0.000893 * t**6 - 3 * 0.081106 * t**2 + 1.340264
        x = 2 * np.sqrt(3) * np.radians(lon) * np.cos(t) / (3 * slope)
        return x, 0.003796 * t**9 + 0.000893 * t**7 - 0.081106 * t**3 + 1.340264 * t

    (x, y), (x_max, _), (_, y_max) = plane(lon, lat), plane(180.0, 0.0), plane(0.0, 90.0)
    return np.stack([(x / x_max + 1) / 2, (1 - y / y_max) / 2], -1), x_max / y_max


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
