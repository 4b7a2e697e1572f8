"""What the views share: HTML that needs no kernel and no network, and a page to save it in."""

from __future__ import annotations

import base64
import json
from decimal import Decimal
from functools import cache
from html import escape
from importlib.resources import files
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from geonb._util import is_unknown, write_atomically

PALETTE = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7F63B8", "#8A8A00", "#C43B4E", "#3AA6A0"]
"""Colours of classes, after Okabe and Ito (2008), continued; they read on white and on near-black."""
MISSING = "#9aa0a6"  # of missing values, and of classes beyond the palette
_PLURALS = {"location": "positions", "text": "texts", "sentinel2": "Sentinel-2 images"}


def plural(modality: str) -> str:
    """Name what places have of a modality in words, such as "Sentinel-2 images"."""
    return _PLURALS.get(modality, f"{modality} images")


class View:
    """A view as HTML that shows itself in notebooks; the page gets ``data`` as JSON.

    The style and the script of a view are the assets ``name``; they look for the class ``css``.
    """

    def __init__(self, data: dict, name: str, css: str, title: str) -> None:
        self.data, self.name, self.css, self.title = data, name, css, title

    def to_html(self) -> str:
        """Return style, data and script in one piece; a page can have several."""
        return (
            f"<style>{asset(f'{self.name}.css')}</style>"
            f'<div class="{self.css}" role="group" aria-label="{self.title}">'
            f'<script type="application/json">{safe_json(self.data)}</script>'
            f"<noscript>This picture needs JavaScript.</noscript></div>"
            f'<script>(() => {{ "use strict";\n{asset("common.js")}{asset(f"{self.name}.js")}}})();</script>'
        )

    _repr_html_ = to_html

    def save(self, path: str | Path, title: str | None = None) -> Path:
        """Write a page that needs no network; return its path."""
        title = title or self.title
        return write_page(path, title, f"<h1>{escape(title)}</h1>{self.to_html()}")


def listed(values: Any) -> list:
    """List values (n,) of Python, NumPy, pandas or Arrow; what is missing stays missing, numbers stay numbers."""
    if isinstance(values, np.ndarray) and values.dtype.kind == "M":
        values = values.astype("M8[us]")  # nanoseconds would become integers
    convert = getattr(values, "to_pylist", getattr(values, "tolist", None))
    return convert() if convert else list(values)


def as_numbers(values: list) -> np.ndarray | None:
    """Turn numbers into float64 (n,), NaN where one is missing; None if there are none, or something else."""
    real = [isinstance(v, Real | Decimal) and not isinstance(v, bool) for v in values]
    if not any(real) or not all(r or is_unknown(v) for r, v in zip(real, values, strict=True)):
        return None
    return np.array([np.nan if is_unknown(v) else v for v in values], np.float64)


def safe_json(data: Any) -> str:
    """Encode as ASCII JSON without a character that could end a ``script`` element."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def write_page(path: str | Path, title: str, body: str) -> Path:
    """Write a whole page, or leave the previous one in place; ``body`` is trusted HTML."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{asset("page.css")}</style></head>'
        f"<body><main>{body}</main></body></html>\n"
    )
    write_atomically(path, text.encode())
    return path


def pack(values: ArrayLike, dtype: str) -> str:
    """Encode numbers as base64 of their bytes, little-endian for a ``dtype`` such as "<u2"."""
    return base64.b64encode(np.asarray(values).astype(dtype).tobytes()).decode()


@cache
def asset(name: str) -> str:
    """Return the text of a file that comes with the package."""
    return (files("geonb.explore") / "assets" / name).read_text(encoding="utf-8")


@cache
def land_rings() -> list[np.ndarray]:
    """Return outlines of land (k, 2), lon/lat in degrees (Natural Earth 1:110m, public domain)."""
    return [np.array(ring, np.float64).reshape(-1, 2) for ring in json.loads(asset("land.json"))]


@cache
def land() -> str:
    """Return outlines of land as base64 of int16 tenths of degrees, rings separated by 32767."""
    flat = [np.append(np.rint(ring * 10), 32767) for ring in land_rings()]
    return pack(np.concatenate(flat)[:-1], "<i2")
