"""The page's arithmetic again, in NumPy, and how to read its pixels."""

import base64
import io

import numpy as np


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
    """Even-odd rule by counting the edges that a ray to the right crosses."""
    odd = np.zeros(len(points), bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, 0), strict=True):
        spans = (points[:, 1] >= min(y0, y1)) & (points[:, 1] < max(y0, y1))
        if y0 != y1:
            odd ^= spans & (points[:, 0] < x0 + (points[:, 1] - y0) / (y1 - y0) * (x1 - x0))
    return odd


def drawn(canvas) -> str:
    """What is on a canvas, to see whether it changed."""
    return canvas.evaluate("(c) => c.toDataURL()")


def pixels(canvas) -> np.ndarray:
    """The pixels of a canvas (h, w, 4)."""
    from PIL import Image

    return np.array(Image.open(io.BytesIO(base64.b64decode(drawn(canvas).split(",")[1]))).convert("RGBA"))


def settle(page):
    page.evaluate("() => new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)))")
