"""A map and an embedding side by side: select in one, see the other. Plain HTML, no kernel and no network."""

from __future__ import annotations

import base64
import io
import json
import warnings
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from geonb._util import as_text, filled
from geonb.explore.views import PALETTE, View, as_numbers, land, listed, pack
from geonb.geo import check_lonlat

ABOUT = ("text", "url", "license", "license_url", "creator", "changes")
MODALITIES = ("location", "text", "image")
MOST_PLACES = 50_000
TEXT_CHARACTERS = 400  # of a text in a page
URL_CHARACTERS = 2000
THUMBNAIL = 48  # pixels of a picture in a page; a multiple of 16, so that neighbours in a JPEG do not mix
MOST_IMAGES = 400


def linked_view(
    lonlat: ArrayLike,
    xy: ArrayLike,
    color: dict | None = None,
    hover: Sequence | None = None,
    titles: tuple[str, str] = ("Embedding", "Map"),
    alt: tuple[str, str] = ("", ""),
    units: dict | None = None,
    *,
    about: dict | None = None,
    images: Callable[[np.ndarray], np.ndarray] | None = None,
    image_rows: Sequence[int] | np.ndarray = (),
    simulated: Iterable[str] = (),
) -> View:
    """Show places on an Equal Earth map and in a plane, selected together by a box, a lasso or the keyboard.

    It is made for up to 50,000 places; for more use
    `embedding-atlas <https://apple.github.io/embedding-atlas/>`_. Positions are rounded to 300 m.

    Args:
        lonlat: positions (n, 2), degrees.
        xy: coordinates of the embedding (n, 2); both axes keep one scale.
        color: columns to colour by, name -> n numbers or n labels; missing values are grey, and the
            ten most frequent labels get a colour. An inspected place shows all of them.
        hover: names of the n places, shown for the place under the pointer; missing ones are left out.
        titles, alt: of the embedding and of the map; ``alt`` for those who do not see them.
        units: name of a column -> its units.
        about: shown of an inspected place: any of :data:`ABOUT`, each n strings or None. Texts are cut
            to :data:`TEXT_CHARACTERS` characters; addresses are linked if they are https.
        images: makes pictures uint8 (k, h, w, 3) of rows (k,), shown at :data:`THUMBNAIL` pixels.
        image_rows: rows that have a picture; at most :data:`MOST_IMAGES` are taken, evenly.
        simulated: which of "location", "text" and "image" the view marks as simulated.

    Raises:
        ValueError: shapes that do not match, or values that are not finite.
    """
    lonlat, xy = check_lonlat(lonlat), filled(xy).astype(np.float64)
    n = len(lonlat)
    lengths = [len(values) for values in (hover, *(about or {}).values()) if values is not None]
    if not n or xy.shape != (n, 2) or {n, *lengths} != {n}:
        raise ValueError(f"lonlat {lonlat.shape}, xy {xy.shape} and the names do not match, or there are none")
    if not np.isfinite(xy).all():
        raise ValueError(f"xy, row {np.argmin(np.isfinite(xy).all(1))}: not finite")
    if n > MOST_PLACES:
        warnings.warn(f"{n:,} places make a slow page; beyond {MOST_PLACES:,} use embedding-atlas", stacklevel=2)
    units, low, span = units or {}, xy.min(0), np.maximum(np.ptp(xy, axis=0), 1e-9)
    data = {
        "n": n,
        "titles": titles,
        "alt": alt,
        "lonlat": pack(np.rint((lonlat + [180, 90]) / [360, 180] * 65535), "<u2"),
        "xy": pack(np.rint((xy - low) / span * 65535), "<u2"),
        "aspect": float(np.clip(span[0] / span[1], 0.25, 4)),
        "land": land(),
        "color": PALETTE[0],
        "columns": [colour_column(str(k), v, n, units.get(k)) for k, v in (color or {}).items()],
        "hover": None if hover is None else [as_text(h) for h in listed(hover)],
        "about": None if about is None else _about(about),
        "thumbs": _sprite(images, np.asarray(image_rows)) if images and len(image_rows) else None,
        "simulated": list(simulated),
    }
    return View(data, "linked", "gl", "Linked map and embedding")


def colour_column(
    name: str, values: Sequence | np.ndarray, n: int, units: Any = "", rows: np.ndarray | slice = slice(None)
) -> dict:
    """Encode ``rows`` of a column of numbers or labels (n,) for a page; ValueError for another shape."""
    if np.shape(values) != (n,):
        raise ValueError(f"color {name!r} has shape {np.shape(values)} for {n} places")
    values, units = listed(values), as_text(units)
    head = {"name": name, "units": "" if units == "1" else units}  # "1" is a number without units
    numbers = as_numbers(values)
    if numbers is None:
        return head | _categories(values, rows)
    if np.isinf(numbers).any():
        raise ValueError(f"color {name!r}, row {np.argmax(np.isinf(numbers))}: infinite")
    return head | _numbers(numbers[rows])


def _numbers(values: np.ndarray) -> dict:
    column: dict[str, Any] = {"kind": "numbers", "low": None, "high": None, "data": pack(values, "<f4")}
    if len(known := values[~np.isnan(values)]):
        low, high = column["low"], column["high"] = np.percentile(known, [1, 99]).tolist()
        column["log"] = bool(known.min() > 0 and high / low > 100)
        column["below"], column["above"] = bool(known.min() < low), bool(known.max() > high)
    return column


def _categories(values: list, rows: np.ndarray | slice) -> dict:
    labels = [as_text(v) or "unknown" for v in values]
    names, codes, counts = np.unique(np.array(labels, object), return_inverse=True, return_counts=True)
    known = [i for i in np.argsort(-counts, kind="stable") if names[i] != "unknown"]
    rank = np.full(len(names), 65535)  # of "unknown"
    rank[known] = np.arange(len(known))
    return {"kind": "categories", "labels": [names[i] for i in known], "colors": PALETTE[: len(known)],
            "data": pack(rank[codes[rows]], "<u2")}  # fmt: skip


def _about(about: dict) -> str:
    """Encode columns of strings as deflated JSON in base64, inflated when the first place is inspected."""
    columns = {}
    for name, values in about.items():
        most = URL_CHARACTERS if "url" in name else TEXT_CHARACTERS
        columns[name] = [shorten(as_text(v), most) or None for v in listed(values)]
    return base64.b64encode(zlib.compress(json.dumps(columns, separators=(",", ":")).encode(), 9)).decode()


def shorten(text: str, characters: int) -> str:
    """Cut a text to so many characters, the last an ellipsis."""
    return text if len(text) <= characters else text[: characters - 1].rstrip() + "…"


def _sprite(images: Callable[[np.ndarray], np.ndarray], rows: np.ndarray) -> dict:
    from PIL import Image

    taken = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_IMAGES)).astype(int))]
    across = int(np.ceil(np.sqrt(len(taken))))
    sheet = Image.new("RGB", (across * THUMBNAIL, -(-len(taken) // across) * THUMBNAIL))
    for tile, image in enumerate(images(taken)):
        small = Image.fromarray(image).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        sheet.paste(small, (tile % across * THUMBNAIL, tile // across * THUMBNAIL))
    stream = io.BytesIO()
    sheet.save(stream, "JPEG", quality=80)
    picture = base64.b64encode(stream.getvalue()).decode()
    return {"data": picture, "rows": pack(taken, "<u4"), "tile": THUMBNAIL, "across": across}
