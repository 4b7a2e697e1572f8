"""Wikipedia's geotagged articles of an area, from the Action API: for a workshop, not for a continent.

An area is covered by circles of at most 10 km, as ``list=geosearch`` takes them. It gives the nearest 500 pages and
does not say whether there are more, so a circle with nearly as many is asked for again in four smaller ones. Texts come
with ``prop=extracts``: introductions 20 a request, whole texts one a request.

Rules of the service (https://www.mediawiki.org/wiki/API:Etiquette): a User-Agent with a contact, without which nothing
is asked; one request at a time, at least a second apart; ``maxlag=5``. Answers are kept until the store is whole, so
nothing is asked twice. For more than a few thousand articles take the table or the dumps.

Parameters and limits are those of the extensions GeoData and TextExtracts (their source code as of 2026).
**Not tried live**: tests run against a server on the loopback interface that answers as they do.
"""

from __future__ import annotations

import hashlib
import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from geonb._util import tqdm
from geonb.data.download import Api, DownloadError, contact_from, plain, user_agent
from geonb.data.sources.wikipedia import ARTICLES, ArticleFilter, Step, collect
from geonb.data.sources.wikipedia_table import checked_box
from geonb.data.store import PlaceStore
from geonb.data.work import Skips, Work
from geonb.geo import EARTH_RADIUS_KM, check_lonlat, great_circle_km

MAX_RADIUS_KM, MIN_RADIUS_M = 10.0, 10
CIRCLE_LIMIT = 500  # pages that a circle gives at most
FULL = 450  # pages that were deleted are taken out of the 500 after those are counted
PER_REQUEST = {"intro": 20, "full": 1}
PER_PART = {"intro": 100, "full": 25}
SECONDS = 1.5  # a request, about
CROWDED = "a circle of 10 m with more pages than the service gives (a circle, not an article)"
KM_PER_DEGREE = EARTH_RADIUS_KM * math.pi / 180

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cell:
    """A piece of an area between two meridians and two parallels, degrees; ``east`` may be above 180."""

    west: float
    south: float
    east: float
    north: float

    @property
    def centre(self) -> tuple[float, float]:
        """Longitude in [-180, 180) and latitude, degrees."""
        return ((self.west + self.east) / 2 + 180) % 360 - 180, (self.south + self.north) / 2

    @property
    def radius_km(self) -> float:
        """From the centre to the farthest corner."""
        corners = [(lon, lat) for lon in (self.west, self.east) for lat in (self.south, self.north)]
        return max(float(great_circle_km(self.centre, corner)) for corner in corners)

    def quarters(self) -> list[Cell]:
        """The four cells, south before north and west before east, halved in degrees."""
        lon, lat = (self.west + self.east) / 2, (self.south + self.north) / 2
        return [
            Cell(west, south, east, north)
            for south, north in ((self.south, lat), (lat, self.north))
            for west, east in ((self.west, lon), (lon, self.east))
        ]


def cells(box: Sequence[float], radius_km: float = MAX_RADIUS_KM) -> list[Cell]:
    """A box cut into cells, each within a circle of ``radius_km`` around its centre; none overlap.

    Args:
        box: west, south, east, north in degrees; west > east across the antimeridian.
    """
    west, south, east, north = box
    east += 360 if east < west else 0
    side = radius_km * math.sqrt(2) * 0.99
    out = []
    lats = np.linspace(south, north, math.ceil((north - south) * KM_PER_DEGREE / side) + 1)
    for low, high in zip(lats[:-1].tolist(), lats[1:].tolist(), strict=True):
        widest = math.cos(math.radians(0 if low < 0 < high else min(abs(low), abs(high))))
        lons = np.linspace(west, east, math.ceil(max((east - west) * KM_PER_DEGREE * widest / side, 1)) + 1)
        out += [Cell(left, low, right, high) for left, right in zip(lons[:-1].tolist(), lons[1:].tolist(), strict=True)]
    return out


def from_api(
    out: str | Path,
    *,
    bbox: Sequence[float] | None = None,
    points: Sequence | None = None,
    radius_km: float = MAX_RADIUS_KM,
    lang: str = "en",
    contact: str | None = None,
    text: str = "intro",
    min_chars: int = ArticleFilter.min_chars,
    max_chars: int = ArticleFilter.max_chars,
    places_only: bool = False,
    limit: int | None = None,
    max_requests: int = 2000,
    endpoint: str | None = None,
    simulated: bool = False,
    progress: bool = True,
) -> PlaceStore:
    """A place store of the articles in a box, or around points.

    Args:
        out: the store's folder. Unfinished work lies in ``<out>.work``; the same call goes on from it.
        bbox: west, south, east, north in degrees; west > east for a box across the antimeridian.
        points: positions (n, 2) in degrees, instead of a box. ``radius_km``: around each of them.
        lang: which Wikipedia.
        contact: an e-mail address or https page of whoever runs this, else ``GEONB_CONTACT``. It is sent, not kept.
        text: "intro" (up to the first heading) or "full" (20 times as many requests).
        min_chars, max_chars, places_only: see :class:`geonb.data.sources.wikipedia.ArticleFilter`.
        limit: only the first so many articles, by page id.
        max_requests: of the search and the texts together (answers that come in pieces count once): what needs more
            is refused. A higher number goes on.
        endpoint: of the service, else that of the language.
        simulated: whether the texts are, as those of :mod:`geonb.data.practice`; the store and its card say so.

    Raises:
        ValueError: no contact, no area or two, or an area that needs too many requests; says how many.
        DownloadError, NetworkAbsent: the service refuses or is not reached; what is done is kept.
        WorkError: no article is left, or as in :class:`geonb.data.work.Work`.
    """
    agent = user_agent(contact_from(contact))
    if text not in PER_REQUEST:
        raise ValueError(f"text {text!r} must be one of {', '.join(PER_REQUEST)}")
    area = _Area(bbox, points, radius_km)
    pieces = area.cells()
    endpoint = endpoint or f"https://{lang}.wikipedia.org/w/api.php"
    _estimate(f"{len(pieces):,} circles to search", len(pieces), max_requests, progress)
    plan = {"route": "api", "lang": lang, "snapshot": None, "endpoint": endpoint, "text": text, **area.plan()}

    def steps(work: Work) -> Iterator[Step]:
        api = Api(endpoint, agent, cache=work.path("api"))
        if not work.done("search"):
            listed, skips, asked = search(api, pieces, max_requests, progress)
            table = pa.table({"page_id": pa.array(sorted(listed), pa.int64())})
            work.put("search", table.replace_schema_metadata({"requests": str(asked)}), skips)
        found, crowded = work.table("search"), work.skips(["search"])
        pages, spent = found["page_id"].to_pylist(), int(found.schema.metadata.get(b"requests", 0))
        needed = math.ceil(min(len(pages), limit or len(pages)) / PER_REQUEST[text])
        _estimate(f"{len(pages):,} articles found", needed, max_requests, progress, spent)
        for start in range(0, len(pages), PER_PART[text]):
            ids = pages[start : start + PER_PART[text]]
            yield f"pages/{start:08d}", partial(fetch, api, ids, lang, text, area, None if start else crowded)

    return collect(
        out, plan, steps,
        source=f"Wikipedia, through the Action API of {plain(endpoint)}",
        function="geonb.data.sources.wikipedia_api.from_api",
        filters=ArticleFilter(min_chars, max_chars, places_only), limit=limit,
        simulated=simulated, progress=progress,
        notes=["The revision is that of the page when it was asked for; the service may have made the text a little "
               "earlier.", "Texts are " + ("introductions." if text == "intro" else "whole articles, without tables.")],
    )  # fmt: skip


class _Area:
    """A box, or circles around points."""

    def __init__(self, bbox: Sequence[float] | None, points: Sequence | None, radius_km: float) -> None:
        if (bbox is None) == (points is None):
            raise ValueError("give a box (bbox) or points, one of the two")
        self.box: Any = checked_box(bbox)
        self.radius_km = float(radius_km)
        if not 0.01 <= self.radius_km <= 500:
            raise ValueError(f"radius_km {radius_km} must lie in 0.01 to 500")
        self.points = None if points is None else check_lonlat(points, "points")
        if self.points is not None and not len(self.points):
            raise ValueError("no points; give at least one")

    def plan(self) -> dict:
        if self.points is None:
            return {"bbox": self.box}
        digest = hashlib.sha256(np.ascontiguousarray(self.points, "<f8").data).hexdigest()
        return {"points": {"n": len(self.points), "sha256": digest}, "radius_km": self.radius_km}

    def cells(self) -> list[Cell]:
        if self.points is None:
            return cells(self.box, MAX_RADIUS_KM)
        out = []
        for lon, lat in self.points.tolist():
            high = self.radius_km / KM_PER_DEGREE * 1.001
            south, north = max(lat - high, -90), min(lat + high, 90)
            near_pole = math.cos(math.radians(max(abs(south), abs(north))))
            wide = min(high / near_pole, 180) if near_pole > high / 180 else 180
            around = cells((lon - wide, south, lon + wide, north), MAX_RADIUS_KM)
            out += [c for c in around if great_circle_km(c.centre, (lon, lat)) <= self.radius_km + c.radius_km]
        return out

    def has(self, lon: float, lat: float) -> bool:
        if self.points is not None:
            return bool((great_circle_km(self.points, (lon, lat)) <= self.radius_km).any())
        west, south, east, north = self.box
        inside = west <= lon <= east if west < east else lon >= west or lon <= east
        return inside and south <= lat <= north


def _estimate(what: str, requests: int, max_requests: int, progress: bool, spent: int = 0) -> None:
    said = f"{what}: {requests:,} requests or more, about {math.ceil(requests * SECONDS / 60):,} minutes"
    if spent + requests > max_requests:
        searched = f", with the {spent:,} of the search," if spent else ""
        raise ValueError(
            f"{said}; that is{searched} more than {max_requests:,} (max_requests). Take a smaller area or "
            "introductions, allow more, or take the table or the dumps, which have the whole planet"
        )
    if progress:
        tqdm.write(said, file=sys.stderr)


# --- the service --------------------------------------------------------------------------------------


def search(api: Api, pieces: Sequence[Cell], max_requests: int, progress: bool = True) -> tuple[set[int], Skips, int]:
    """Ids of the pages in cells and around them (circles are larger), the circles that are too full to list, and how
    many circles were asked for.

    Raises:
        ValueError: crowded cells need more requests than are allowed.
    """
    pages: set[int] = set()
    skips = Skips()
    todo = list(reversed(pieces))
    asked = 0
    with tqdm(total=len(todo), desc="search", unit="circle", disable=not progress) as bar:
        while todo:
            if asked + len(todo) > max_requests:
                raise ValueError(
                    f"the area is crowded: {asked:,} circles were searched, and {len(todo):,} or more are to do, but "
                    f"at most {max_requests:,} requests are allowed (max_requests); allow more, or take a smaller area"
                )
            cell = todo.pop()
            lon, lat = cell.centre
            radius = min(max(math.ceil(cell.radius_km * 1001) + 1, MIN_RADIUS_M), int(MAX_RADIUS_KM * 1000))
            found = _geosearch(api, lon, lat, radius)
            asked += 1
            pages.update(found)
            if len(found) >= FULL and radius > MIN_RADIUS_M:
                todo += reversed(cell.quarters())
                bar.total += 4
            elif len(found) >= FULL:
                skips.add(CROWDED, f"around {lon:.5f}, {lat:.5f}")
            bar.update()
    return pages, skips, asked


def _geosearch(api: Api, lon: float, lat: float, radius_m: int) -> list[int]:
    answer = api.get(
        {
            **_COMMON, "list": "geosearch", "gscoord": f"{lat:.7f}|{lon:.7f}", "gsradius": str(radius_m),
            "gslimit": str(CIRCLE_LIMIT), "gsnamespace": "0", "gsprimary": "primary",
        }
    )  # fmt: skip
    if warned := _dict(answer, "warnings").get("geosearch"):  # such as a radius that was cut down
        raise DownloadError(f"{api.url}: the service changed the search: {plain(str(warned))}")
    found = _dict(answer, "query").get("geosearch")
    if not isinstance(found, list):
        raise DownloadError(f"{api.url}: an answer without a list of pages: {plain(str(answer))}")
    return [id_ for page in found if isinstance(page, dict) and (id_ := _page_id(page.get("pageid")))]


def fetch(
    api: Api, ids: Sequence[int], lang: str, text: str, area: _Area, before: Skips | None = None
) -> tuple[pa.Table, Skips]:
    """The articles of some pages, by page id, and what was left out, with what was so ``before``."""
    rows, skips = [], Skips()
    skips.update(before or Skips())
    for start in range(0, len(ids), PER_REQUEST[text]):
        asked = ids[start : start + PER_REQUEST[text]]
        pages = _pages(api, asked, text)
        for id_ in asked:
            page = pages.get(id_, {"missing": True})
            row = _article(page, id_, lang)
            why = row if isinstance(row, str) else "" if area.has(row["lon"], row["lat"]) else "outside the area"
            if why:
                skips.add(why, f"page {id_}, {_str(page.get('title'))!r}")
            else:
                rows.append(row)
    return pa.Table.from_pylist(rows, ARTICLES.remove(ARTICLES.get_field_index("links"))), skips


def _pages(api: Api, ids: Sequence[int], text: str) -> dict[int, dict]:
    """What the service says of pages, put together from as many answers as it takes (``continue``)."""
    params = {
        **_COMMON, "pageids": "|".join(map(str, ids)), "prop": "extracts|coordinates|info|pageprops",
        "explaintext": "1", "exsectionformat": "plain", "exlimit": str(PER_REQUEST[text]),
        "coprop": "type|dim|country|globe", "coprimary": "primary", "colimit": "max",
        "inprop": "url", "ppprop": "wikibase_item|disambiguation",
        **({"exintro": "1"} if text == "intro" else {}),
    }  # fmt: skip
    pages: dict[int, dict] = {}
    more: dict[str, str] = {}
    seen = set()
    while True:
        answer = api.get(params | more)
        listed = _dict(answer, "query").get("pages")
        for page in listed if isinstance(listed, list) else []:
            id_ = _page_id(page.get("pageid")) if isinstance(page, dict) else 0
            known = pages.setdefault(id_, {})
            known.update({key: value for key, value in page.items() if value not in (None, "", [])} if id_ else {})
        more = {str(key): str(value) for key, value in _dict(answer, "continue").items()}
        if not more:
            return pages
        if (mark := tuple(sorted(more.items()))) in seen:
            raise DownloadError(f"{api.url}: the service goes round in circles: {plain(str(more))}")
        seen.add(mark)


def _article(page: Mapping, id_: int, lang: str) -> dict | str:
    """A row of :data:`ARTICLES`, or why there is none."""
    if page.get("missing"):
        return "page is gone"
    if page.get("ns") != 0:
        return "no article (another namespace)"
    if page.get("redirect"):
        return "redirect"
    if "disambiguation" in _dict(page, "pageprops"):
        return "disambiguation page"
    places = page.get("coordinates")
    places = [p for p in places if isinstance(p, dict) and p.get("primary")] if isinstance(places, list) else []
    if not places:
        return "no position of its own"
    if (_str(places[0].get("globe")) or "earth").lower() != "earth":
        return "not on Earth"
    lon, lat = _float(places[0].get("lon")), _float(places[0].get("lat"))
    if not (abs(lon) <= 180 and abs(lat) <= 90):
        return "position out of range"
    return {
        "page_id": id_, "title": _str(page.get("title")), "lon": lon, "lat": lat,
        "text": _str(page.get("extract")), "lang": lang,
        "revision": str(_page_id(page.get("lastrevid")) or "") or None, "url": _str(page.get("fullurl")),
        "qid": _str(_dict(page, "pageprops").get("wikibase_item")) or None, "type": _str(places[0].get("type")) or None,
        "dim_m": _float(places[0].get("dim")), "country_code": _str(places[0].get("country")) or None,
    }  # fmt: skip


_COMMON = {"action": "query", "format": "json", "formatversion": "2", "maxlag": "5"}


def _dict(of: Mapping, key: str) -> dict:
    value = of.get(key)
    return value if isinstance(value, dict) else {}


def _str(value: Any) -> str:
    """A str that can be written as UTF-8; JSON may hold half of a surrogate pair."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def _float(value: Any) -> float:
    try:
        return float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        return math.nan


def _page_id(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 63 else 0
