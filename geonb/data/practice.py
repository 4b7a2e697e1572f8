"""Practice inputs: what the sources of real data read, in their true formats, made from the sample's articles.

For the chapters on data, for workshops and for benchmarks: every step can be run and watched without a network. The
articles are those of a place store, so with the Atlas sample they are *simulated* texts about real places. Faults are
planted among them: what a source has to notice is there to be noticed.
"""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from geonb.data.practice_dumps import write_dumps
from geonb.data.sentinel2 import BANDS
from geonb.data.sources.earthengine import chip_grid
from geonb.data.sources.stac import CATALOGUES, Catalogue
from geonb.geo import great_circle_km
from geonb.sample.images import FOOTPRINT_M, simulate_sentinel2

if TYPE_CHECKING:
    from geonb.data.store import PlaceStore

NASTY = "<script>alert('a title')</script>"
PLANTED = [  # title, lon, lat, text: one of each kind that is to be left out, and one that is not
    ("Null Harbour", 0.0, 0.0, "Null Harbour is a town whose position was never filled in, as on many pages."),
    ("Battle of Reeds", 12.5, 41.9, "The Battle of Reeds was a battle fought at the mouth of a river in 1431."),
    ("Ada Example", 2.35, 48.85, "Ada Example (born 4 May 1950) is a geologist who was born here and left early on."),
    ("Stubton", 8.1, 50.2, "Stubton is a town."),
    (NASTY, 9.0, 51.0, "A village whose title somebody wrote for the fun of it. It is a place like any other."),
]


def articles(store: PlaceStore, rows: ArrayLike | None = None) -> list[dict]:
    """The articles of a store (some rows, or all), with page ids and links that were made up, and the planted ones.

    Args:
        rows: numbers (k,) of rows that have a text; by default all of these.

    Returns:
        A dict each: page_id, title, lon, lat, text, qid, revision, links, type, country (code or None).
    """
    rows = np.flatnonzero(store.has("text")) if rows is None else np.asarray(rows)
    titles = store.column("title")[rows]
    codes = store.column("country_code")[rows] if "country_code" in store.columns else [None] * len(rows)
    found = [
        (str(title), *store.lonlat[row].tolist(), text, code)
        for row, title, code, text in zip(rows, titles, codes, store.texts(rows), strict=True)
    ]
    found += [(*planted, None) for planted in PLANTED]
    return [
        {
            "page_id": 1000 + 7 * i, "title": title, "lon": round(lon, 6), "lat": round(lat, 6), "text": text,
            "qid": f"Q{5000 + i}", "revision": 1_200_000_000 + i, "links": len(text) // 40, "type": "city",
            "country": code,
        }
        for i, (title, lon, lat, text, code) in enumerate(found)
    ]  # fmt: skip


def wikipedia_table(store: PlaceStore, path: str | Path) -> Path:
    """A table in the form of ``yuiseki/wikipedia-geotagged``: a row an article, and one that is on the Moon.

    Returns:
        The path, as a str can be given to :func:`geonb.data.sources.wikipedia_table.from_table`.
    """
    rows = articles(store)
    rows.append(rows[-1] | {"page_id": 999, "title": "Mare Example", "globe": "moon"})
    table = pa.table(
        {
            "id": [str(row["page_id"]) for row in rows],
            "url": [f"https://en.wikipedia.org/?curid={row['page_id']}" for row in rows],
            "title": [row["title"] for row in rows],
            "text": [row["text"] for row in rows],
            "qid": [row["qid"] for row in rows],
            "lat": [row["lat"] for row in rows],
            "lon": [row["lon"] for row in rows],
            "gt_type": [row["type"] for row in rows],
            "gt_globe": [row.get("globe", "earth") for row in rows],
            "gt_dim": pa.nulls(len(rows), pa.int64()),
            "gt_country": [row["country"] for row in rows],
            "gt_primary": [True] * len(rows),
        }
    )
    pq.write_table(table, path, row_group_size=1000)
    return Path(path)


def wikipedia_dumps(store: PlaceStore, folder: str | Path, shards: int = 3) -> Path:
    """Dumps of a wiki "enwiki" as they lie on the server: tables in SQL and shards of texts; returns the folder."""
    write_dumps(folder, articles(store), wiki="enwiki", shards=shards)
    return Path(folder)


def crowded_box(store: PlaceStore, degrees: float = 0.1) -> tuple[float, float, float, float]:
    """West, south, east, north of a box (2 x ``degrees`` wide and high) around the article with most others near it."""
    lonlat = store.lonlat[store.has("text")]
    near = [(great_circle_km(lonlat, point) < 111 * degrees).sum() for point in lonlat]
    lon, lat = lonlat[int(np.argmax(near))]
    west, south, east, north = np.round([lon - degrees, lat - degrees, lon + degrees, lat + degrees], 3).tolist()
    return west, south, east, north


@contextmanager
def wikipedia_service(store: PlaceStore) -> Iterator[str]:
    """The Action API on this machine for as long as the ``with`` block lasts: ``geosearch``, then texts.

    Yields:
        The address, for ``endpoint`` of :func:`geonb.data.sources.wikipedia_api.from_api`.
    """
    pages = {article["page_id"]: article for article in articles(store)}
    at = np.array([[page["lon"], page["lat"]] for page in pages.values()])
    ids = np.array(list(pages))

    def answer(_: str, asked: dict) -> bytes:
        if asked.get("list") == "geosearch":
            lat, lon = map(float, asked["gscoord"].split("|"))
            metres = 1000 * great_circle_km(at, (lon, lat))
            order = np.argsort(metres, kind="stable")
            order = order[metres[order] <= float(asked["gsradius"])][: int(asked["gslimit"])]
            found = [{"pageid": int(ids[i]), "ns": 0, "title": pages[ids[i]]["title"], "primary": True} for i in order]
            return json.dumps({"batchcomplete": True, "query": {"geosearch": found}}).encode()
        wanted = [pages[int(i)] for i in asked["pageids"].split("|")]
        found = [
            {
                "pageid": page["page_id"], "ns": 0, "title": page["title"], "extract": page["text"],
                "lastrevid": page["revision"], "pageprops": {"wikibase_item": page["qid"]},
                "fullurl": f"https://en.wikipedia.org/?curid={page['page_id']}",
                "coordinates": [
                    {"lat": page["lat"], "lon": page["lon"], "primary": True, "globe": "earth", "type": page["type"]}
                ],
            }
            for page in wanted
        ]  # fmt: skip
        return json.dumps({"batchcomplete": True, "query": {"pages": found}}).encode()

    with _serving(answer) as url:
        yield f"{url}/w/api.php"


# --- scenes -------------------------------------------------------------------------------------------

DAYS = {  # of the practice scenes: processing baseline, share of the sky that is clouded
    "2021-07-10": ("03.01", 0.0),
    "2021-08-19": ("03.01", 0.3),
    "2022-06-15": ("04.00", 0.2),
    "2022-07-20": ("04.00", 0.0),
    "2022-08-04": ("04.00", 0.1),
    "2022-08-24": ("04.00", 0.5),
}
LIE = "2022-07-20"
EDGE = 192  # pixels of 10 m, a multiple of those of 60 m


@contextmanager
def sentinel2_catalogue(store: PlaceStore, places: int = 6, seed: int = 0) -> Iterator[tuple[Catalogue, np.ndarray]]:
    """A STAC catalogue on this machine with simulated Sentinel-2 scenes, for as long as the ``with`` block lasts.

    Around each of some places of the Atlas sample lie scenes of the same land on six days, with clouds that drift. From
    2022 on the numbers carry the offset of 1000, as the true ones do, and the catalogue says so, but for one scene of
    each place, of which it says that the offset was taken off: a lie as was really published.

    Yields:
        The catalogue, for :func:`geonb.data.sources.stac.from_stac`, and the positions (places, 2).
    """
    rng = np.random.default_rng(seed)
    lonlat, items = [], []
    files: dict[str, bytes] = {}
    for row in rng.permutation(np.flatnonzero(store.has("image") & (np.abs(store.lonlat[:, 1]) < 60))):
        names = ("place_id", "climate", "elevation_m", "population", "coast_km", "continent")
        facts = {name: store.column(name)[[row]] for name in names} | {"slope_m": store.column("relief_m")[[row]]}
        facts |= {"lon": store.lonlat[[row], 0], "lat": store.lonlat[[row], 1]}
        (land,), told = simulate_sentinel2(facts, EDGE, seed)
        if told["cloud_share"][0] > 0:
            continue
        lonlat.append(store.lonlat[row])
        for day, (baseline, clouded) in DAYS.items():
            clouded = 0.4 if len(lonlat) % 2 and day == min(DAYS) else clouded
            items.append(_scene(files, land, store.lonlat[row], f"{len(lonlat):02d}", day, baseline, clouded, rng))
        if len(lonlat) == places:
            break

    def answer(path: str, asked: dict) -> bytes:
        if path in files:
            return files[path]
        if path == "/v1":
            return json.dumps(_landing(url)).encode()
        west, south, east, north = asked["bbox"]
        start, end = asked["datetime"].split("/")
        found = [
            item for item in items
            if start <= item["properties"]["datetime"] <= end
            and item["bbox"][0] <= east and west <= item["bbox"][2]
            and item["bbox"][1] <= north and south <= item["bbox"][3]
        ]  # fmt: skip
        found.sort(key=lambda item: item["properties"]["eo:cloud_cover"])
        text = json.dumps({"type": "FeatureCollection", "features": found, "links": []})
        return text.replace("{here}", url).encode()

    with _serving(answer) as url:
        collection = CATALOGUES["earth-search"]
        practice = replace(
            collection, name="practice", url=f"{url}/v1", source="simulated scenes for practice", license="none",
            simulated=True,
        )  # fmt: skip
        yield practice, np.array(lonlat)


def _scene(
    files: dict,
    land: np.ndarray,
    point: np.ndarray,
    number: str,
    day: str,
    baseline: str,
    clouded: float,
    rng: np.random.Generator,
) -> dict:
    """Add the files of a scene around a position; returns its STAC item, with ``{here}`` for the server's address."""
    from scipy.ndimage import gaussian_filter

    lon, lat = point.tolist()
    grid = chip_grid(lon, lat, EDGE)
    west, north = grid.west // 60 * 60, grid.north // 60 * 60
    sky = gaussian_filter(rng.normal(size=(EDGE, EDGE)), 12, mode="wrap")
    cloud = sky > np.quantile(sky, 1 - clouded) if clouded else np.zeros((EDGE, EDGE), bool)
    image = np.where(cloud, 6500, land * rng.uniform(0.95, 1.05)).round().astype(np.uint16)
    offset = 1000 if baseline >= "04.00" else 0
    name = f"S2A_PRACTICE{number}_{day.replace('-', '')}_L2A"
    for band, metres, layer in zip([*BANDS, "SCL"], [*FOOTPRINT_M, 20], [*(image + offset), None], strict=True):
        step = int(metres) // 10
        if band == "SCL":
            layer = np.where(cloud, 9, 4)[::step, ::step].astype(np.uint8)
        else:
            layer = layer.reshape(EDGE // step, step, EDGE // step, step).mean((1, 3)).round().astype(np.uint16)
        files[f"/{name}/{band}.tif"] = _geotiff(layer, grid.epsg, west, north, int(metres))
    lie = day == LIE
    said = [{"nodata": 0, "scale": 0.0001, "offset": 0.0 if lie or not offset else -0.1}]
    corners = _degrees(grid.epsg, west, north - 10 * EDGE, west + 10 * EDGE, north)
    w, s, e, n = corners
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": name, "collection": "sentinel-2-c1-l2a", "links": [],
        "bbox": list(corners),
        "geometry": {"type": "Polygon", "coordinates": [[[w, s], [e, s], [e, n], [w, n], [w, s]]]},
        "properties": {
            "datetime": f"{day}T10:30:00Z", "platform": "sentinel-2a", "eo:cloud_cover": 100 * clouded,
            "s2:processing_baseline": baseline, "proj:epsg": grid.epsg, "earthsearch:boa_offset_applied": lie,
        },
        "assets": {
            asset: {"href": f"{{here}}/{name}/{band}.tif", **({} if band == "SCL" else {"raster:bands": said})}
            for band, asset in CATALOGUES["earth-search"].assets.items()
        },
    }  # fmt: skip


def _landing(url: str) -> dict:
    search = {"rel": "search", "href": f"{url}/v1/search", "method": "POST", "type": "application/geo+json"}
    kinds = ("core", "item-search", "item-search#sort", "item-search#query")
    return {
        "type": "Catalog", "id": "practice", "stac_version": "1.0.0", "description": "simulated practice scenes",
        "conformsTo": [f"https://api.stacspec.org/v1.0.0/{kind}" for kind in kinds],
        "links": [search, {"rel": "self", "href": f"{url}/v1"}],
    }  # fmt: skip


def _geotiff(pixels: np.ndarray, epsg: int, west: float, north: float, metres: int) -> bytes:
    from rasterio.io import MemoryFile
    from rasterio.transform import from_origin

    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff", width=pixels.shape[1], height=pixels.shape[0], count=1, dtype=pixels.dtype, nodata=0,
            crs=f"EPSG:{epsg}", transform=from_origin(west, north, metres, metres), tiled=True, blockxsize=64,
            blockysize=64, compress="deflate", predictor=2,
        ) as out:  # fmt: skip
            out.write(pixels, 1)
        return memory.read()


def _degrees(epsg: int, *bounds: float) -> tuple[float, float, float, float]:
    from rasterio.warp import transform_bounds

    return transform_bounds(f"EPSG:{epsg}", "EPSG:4326", *bounds)


# --- the server ---------------------------------------------------------------------------------------


@contextmanager
def _serving(answer: Callable[[str, dict], bytes]) -> Iterator[str]:
    """A server on the loopback interface, with ranges of bytes; yields its address.

    Args:
        answer: of a path and what was asked (the query, or the JSON that was posted).
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        disable_nagle_algorithm = True

        def log_message(self, *args):
            """Requests are not shown."""

        def do_GET(self):
            url = urlsplit(self.path)
            posted = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = answer(url.path, json.loads(posted) if posted else dict(parse_qsl(url.query)))
            status, whole = 200, len(body)
            wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if wanted:
                first, last = int(wanted[1]), min(int(wanted[2]), whole - 1)
                status, body = 206, body[first : last + 1]
            self.send_response(status)
            if wanted:
                self.send_header("Content-Range", f"bytes {first}-{last}/{whole}")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
