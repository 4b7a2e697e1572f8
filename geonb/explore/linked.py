"""A map and an embedding side by side: brush one, see the other. Plain HTML, no kernel and no network."""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from geonb._util import is_unknown
from geonb.explore.views import PALETTE, View, land, pack, safe_json
from geonb.geo import check_lonlat

ABOUT = ("text", "url", "license", "license_url", "creator", "changes")
MODALITIES = ("location", "text", "image")
TEXT_CHARACTERS = 400  # of a text in a page
URL_CHARACTERS = 2000
THUMBNAIL = 48  # pixels of a picture in a page; a multiple of 16, so that neighbours in a JPEG do not mix
MOST_IMAGES = 400

MISSING_CODE = 65535
LOG_RATIO = 100  # positive values spread over more than this ratio get a logarithmic colour scale


class LinkedView(View):
    """A map and an embedding side by side; made by :func:`linked_view`."""

    name, css = "linked", "gl"
    label = title = "Linked map and embedding"

    @property
    def weights(self) -> dict[str, int]:
        """Bytes of HTML: of everything ("page"), and of it names, texts and images."""
        parts = {"names": "hover", "texts": "about", "images": "thumbs"}
        weights = {name: len(safe_json(self.data[key])) if self.data[key] else 0 for name, key in parts.items()}
        return {"page": len(self.to_html().encode()), **weights}


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
    images: np.ndarray | Callable[[np.ndarray], np.ndarray] | None = None,
    image_rows: ArrayLike | None = None,
    simulated: Iterable[str] = (),
) -> LinkedView:
    """Places on an Equal Earth map and in a plane, selected together by a box, a lasso or the keyboard.

    Made for up to 250,000 places: where more than 60,000 are in a picture it draws their density, else each place.
    A place takes 8 bytes and what its columns take (1 to 4 bytes each), a third more as HTML; names, texts and images
    come on top, see :attr:`LinkedView.weights`. Positions in the page are rounded to about 300 m.

    Args:
        lonlat: positions (n, 2), degrees.
        xy: coordinates of the embedding (n, 2), finite; both axes keep one scale.
        color: columns to colour by, name -> n numbers (NaN or None: no value, grey) or n labels (None, NaN or
            "": "unknown"; the ten most frequent get a colour, the rest are "other"). All are shown when a place is
            inspected, and are in the CSV of the selection.
        hover: names of the n places, shown for the place under the pointer.
        titles: above the embedding and above the map.
        alt: what each of the two shows, for those who do not see it; by default the titles.
        units: name of a column -> its units.
        about: shown when a place is inspected: any of :data:`ABOUT` (the text; where it is from, linked if it is
            an https address; its licence and the licence's address; who wrote it; what was changed), each n strings
            or None. Texts are cut to :data:`TEXT_CHARACTERS` characters.
        images: pictures uint8 (k, h, w, 3) of some places, made into one sprite of :data:`THUMBNAIL` pixels each; of
            more than :data:`MOST_IMAGES`, as many are taken evenly. Or a function that makes them from the rows that
            are taken. Needs Pillow.
        image_rows: rows of the places that have a picture, one a picture.
        simulated: which of "location", "text" and "image" are simulated, so that the view can say so.

    Raises:
        ValueError: shapes that do not match, positions or coordinates that are not finite, infinite numbers, names
            that are not known.
    """
    lonlat, xy = check_lonlat(lonlat), np.asarray(xy, np.float64)
    n = len(lonlat)
    if n == 0 or xy.shape != (n, 2):
        raise ValueError(f"lonlat of shape {lonlat.shape} and xy of shape {xy.shape} do not match; both must be (n, 2)")
    if not np.isfinite(xy).all():
        raise ValueError(f"xy, row {np.flatnonzero(~np.isfinite(xy).all(1))[0]}: not finite")
    if hover is not None and len(hover) != n:
        raise ValueError(f"hover has {len(hover)} strings for {n} places")
    if unknown := set(simulated) - set(MODALITIES):
        raise ValueError(f"simulated: unknown {sorted(unknown)}; choose from {', '.join(MODALITIES)}")
    units = units or {}
    low, span = xy.min(0), np.maximum(np.ptp(xy, axis=0), 1e-9)
    data = {
        "n": n,
        "titles": [str(t) for t in titles],
        "alt": [str(t) for t in alt],
        "lon": pack(np.round((lonlat[:, 0] + 180) / 360 * 65535), "<u2"),
        "lat": pack(np.round((lonlat[:, 1] + 90) / 180 * 65535), "<u2"),
        "u": pack(np.round((xy[:, 0] - low[0]) / span[0] * 65535), "<u2"),
        "v": pack(np.round((xy[:, 1] - low[1]) / span[1] * 65535), "<u2"),
        "aspect": float(np.clip(span[0] / span[1], 0.25, 4)),
        "land": land(),
        "color": PALETTE[0],
        "columns": [_column(str(k), v, n, _units(units.get(k))) for k, v in (color or {}).items()],
        "hover": None if hover is None else ["" if h is None else str(h) for h in hover],
        "about": None if about is None else _about(about, n),
        "thumbs": None if images is None else _sprite(images, image_rows, n),
        "simulated": [str(s) for s in simulated],
    }
    return LinkedView(data)


def _units(units: Any) -> str:
    return "" if units in (None, "1") else str(units)  # "1" is a number without units


def _column(name: str, values: np.ndarray, n: int, units: str) -> dict:
    values = values if isinstance(values, np.ndarray) else np.array(list(values), object)
    if values.shape != (n,):
        raise ValueError(f"color {name!r} has shape {values.shape} for {n} places")
    numbers = values.dtype.kind in "iuf" or (
        values.dtype.kind == "O" and all(v is None or _is_number(v) for v in values) and any(map(_is_number, values))
    )
    return _numbers(name, values, units) if numbers else _categories(name, values, units)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _numbers(name: str, values: Sequence | np.ndarray, units: str) -> dict:
    values = np.array([np.nan if v is None else v for v in values], np.float64)
    if np.isinf(values).any():
        raise ValueError(f"color {name!r}, row {np.flatnonzero(np.isinf(values))[0]}: infinite")
    known = values[~np.isnan(values)]
    column = {"name": name, "units": units, "kind": "numbers", "low": None, "high": None} | _pack_numbers(values, known)
    if len(known):
        low, high = (float(q) for q in np.percentile(known, [1, 99]))
        log = bool(known.min() > 0 and high / low > LOG_RATIO)
        column.update(low=low, high=high, log=log, below=bool(known.min() < low), above=bool(known.max() > high))
    return column


def _pack_numbers(values: np.ndarray, known: np.ndarray) -> dict:
    """In two bytes each where that keeps them exactly (whole numbers, or of a few decimals), else as float32."""
    for scale in (1, 10, 100, 1000):
        codes = np.round(known * scale)
        small = len(known) and np.abs(codes).max() < 2**53 and np.ptp(codes) < MISSING_CODE
        if small and (codes / scale == known).all():
            packed = np.full(len(values), MISSING_CODE)
            packed[~np.isnan(values)] = codes - codes.min()
            return {"type": "u2", "scale": scale, "offset": int(codes.min()), "data": pack(packed, "<u2")}
    return {"type": "f4", "data": pack(values, "<f4")}


def _categories(name: str, values: np.ndarray, units: str) -> dict:
    labels = ["unknown" if is_unknown(v) else str(v) for v in values.tolist()]
    names, codes, counts = np.unique(np.array(labels, object), return_inverse=True, return_counts=True)
    known = [i for i in np.argsort(-counts, kind="stable") if names[i] != "unknown"]
    if len(known) >= MISSING_CODE:
        raise ValueError(f"color {name!r} has {len(known)} different labels; at most {MISSING_CODE - 1} can be shown")
    kind, missing = ("u1", 255) if len(known) < 255 else ("u2", MISSING_CODE)
    rank = np.full(len(names), missing)
    rank[known] = np.arange(len(known))
    return {"name": name, "units": units, "kind": "categories", "type": kind, "labels": [names[i] for i in known],
            "colors": PALETTE[: len(known)], "data": pack(rank[codes], f"<{kind}")}  # fmt: skip


def _about(about: dict, n: int) -> str:
    """Columns of strings as deflated JSON in base64, inflated by the page when the first place is inspected."""
    columns = {}
    for name, values in about.items():
        if name not in ABOUT:
            raise ValueError(f"about: unknown {name!r}; choose from {', '.join(ABOUT)}")
        if len(values) != n:
            raise ValueError(f"about: {name!r} has {len(values)} strings for {n} places")
        most = URL_CHARACTERS if "url" in name else TEXT_CHARACTERS
        columns[name] = [shorten(str(v), most) if v else None for v in values]
    return base64.b64encode(zlib.compress(json.dumps(columns, separators=(",", ":")).encode(), 9)).decode()


def shorten(text: str, characters: int) -> str:
    """The text, cut to so many characters and then ending in an ellipsis."""
    return text if len(text) <= characters else text[: characters - 1].rstrip() + "…"


def _sprite(images: Any, rows: ArrayLike | None, n: int) -> dict:
    rows = np.asarray([] if rows is None else rows, np.int64)
    if rows.ndim != 1 or len(rows) == 0 or rows.min() < 0 or rows.max() >= n or len(np.unique(rows)) < len(rows):
        raise ValueError(f"image_rows must be different numbers from 0 to {n - 1}, one a picture and at least one")
    taken = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_IMAGES)).astype(int))
    if not callable(images) and len(images) != len(rows):
        raise ValueError(f"{len(images)} images and {len(rows)} image_rows do not match")
    images = np.asarray(images(rows[taken]) if callable(images) else np.asarray(images)[taken])
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or len(images) != len(taken):
        raise ValueError(f"images are {images.dtype} {images.shape}; give uint8 ({len(taken)}, h, w, 3)")
    from PIL import Image

    across = int(np.ceil(np.sqrt(len(taken))))
    sheet = Image.new("RGB", (across * THUMBNAIL, -(-len(taken) // across) * THUMBNAIL))
    for tile, image in enumerate(images):
        small = Image.fromarray(image).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        sheet.paste(small, (tile % across * THUMBNAIL, tile // across * THUMBNAIL))
    stream = io.BytesIO()
    sheet.save(stream, "JPEG", quality=80)
    return {"data": base64.b64encode(stream.getvalue()).decode(), "rows": pack(rows[taken], "<u4"), "tile": THUMBNAIL,
            "across": across, "count": len(taken), "total": len(rows)}  # fmt: skip
