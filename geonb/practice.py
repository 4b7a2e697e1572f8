"""Make up inputs in the formats of the real sources, for chapters 15 to 17 without a network.

Articles and scenes are those of a place store, served on this machine only (127.0.0.1). Each of the
articles in `PLANTED` has a fault that a source should notice, or a title that should do no harm.
"""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from geonb._util import as_text

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

    from geonb.data.store import PlaceStore

HOSTILE_TITLE = "<script>alert('a title')</script>"
PLANTED = [  # title, text, lon, lat, globe
    ("Null Harbour", "Null Harbour is a made-up town whose position was never filled in.", 0.0, 0.0, "earth"),
    ("Battle of Reeds", "The Battle of Reeds was a made-up battle at a river mouth in 1431.", 12.5, 41.9, "earth"),
    ("Ada Example", "Ada Example (born 4 May 1950) is a geologist, made up for practice.", 2.3, 48.8, "earth"),
    ("Stubton", "Stubton is a town.", 8.1, 50.2, "earth"),
    ("Mare Example", "Mare Example is a made-up plain of basalt, which lies on the Moon.", 9.0, 51.0, "moon"),
    (HOSTILE_TITLE, "A made-up village whose title is a script. It is a place like any other.", 9.0, 51.0, "earth"),
]


def _articles(store: PlaceStore) -> list[dict]:
    """List the texts of a store and the planted ones as rows of the hub's table."""
    rows = np.flatnonzero(store.has("text"))
    titles, texts = map(as_text, store.column("title")[rows]), store.texts(rows)
    lon, lat = store.lonlat[rows].round(6).T.tolist()
    found = [*zip(titles, texts, lon, lat, ["earth"] * len(rows), strict=True), *PLANTED]
    names = ("title", "text", "lon", "lat", "gt_globe")
    articles = [dict(zip(names, article, strict=True)) for article in found]
    codes = store.column("country_code")[rows].tolist() if "country_code" in store.columns else []
    for i, article in enumerate(articles):
        article |= {"id": str(1000 + 7 * i), "qid": f"Q{5000 + i}", "gt_type": "city", "gt_primary": True}
        article["gt_country"] = codes[i] if i < len(codes) else None
    return articles


def wikipedia_table(store: PlaceStore, path: str | Path) -> Path:
    """Write a table in the form of ``yuiseki/wikipedia-geotagged``."""
    pq.write_table(pa.Table.from_pylist(_articles(store)), path, row_group_size=200)
    return Path(path)


@contextmanager
def wikipedia_service(store: PlaceStore) -> Iterator[str]:
    """Serve the Action API as far as `from_api` uses it; yield its address."""
    articles = _articles(store)

    def answer(_: str, asked: dict) -> bytes:
        north, west, south, east = map(float, asked["ggsbbox"].split("|"))
        inside = [a for a in articles if west <= a["lon"] <= east and south <= a["lat"] <= north]
        first = int(asked.get("excontinue", 0))
        last = first + int(asked["exlimit"])
        pages = [_page(article, first <= i < last) for i, article in enumerate(inside)]
        more = {"continue": {"excontinue": last}} if last < len(inside) else {}
        return json.dumps(more | {"query": {"pages": pages}}).encode()

    with _serve(answer) as url:
        yield f"{url}/w/api.php"


def _page(article: dict, with_text: bool) -> dict:
    position = {name: article[f"gt_{name}"] for name in ("globe", "primary", "type", "country")}
    position |= {name: article[name] for name in ("lat", "lon")}
    number = int(article["id"])
    return ({"extract": article["text"]} if with_text else {}) | {
        "pageid": number, "title": article["title"], "lastrevid": 1_200_000_000 + number,
        "coordinates": [position], "pageprops": {"wikibase_item": article["qid"]},
    }  # fmt: skip


DAYS = {  # of the scenes: processing baseline, and the share of the sky that is clouded
    "2021-07-10": ("03.01", 0.0), "2021-08-19": ("03.01", 0.3), "2022-06-15": ("04.00", 0.2),
    "2022-07-20": ("04.00", 0.0), "2022-08-04": ("04.00", 0.1), "2022-08-24": ("04.00", 0.5),
}  # fmt: skip
WRONG_DAY = "2022-07-20"  # the catalogue says that its offset was taken off, which it was not


@contextmanager
def sentinel2_catalogue(store: PlaceStore, places: int = 6) -> Iterator[tuple[str, np.ndarray]]:
    """Serve a STAC catalogue of scenes; yield its address and positions (places, 2) in degrees.

    A scene is the cloudless chip of the store, mirrored at its edges, on one of `DAYS`, with clouds.
    From 2022 on its numbers include the offset of 1000; the catalogue says so, except on `WRONG_DAY`.
    To open its files with rasterio here, set GDAL_DISABLE_READDIR_ON_OPEN=EMPTY_DIR.
    """
    from shapely.geometry import shape

    rng = np.random.default_rng(0)
    usable = store.has("sentinel2") & (np.abs(store.lonlat[:, 1]) < 60) & (store.column("cloud_share") == 0)
    rows = rng.permutation(np.flatnonzero(usable))[:places]
    files: dict[str, bytes] = {}
    items = []
    for number, (row, chip) in enumerate(zip(rows, store.images("sentinel2", rows), strict=True)):
        land = np.pad(chip, ((0, 0), *[(chip.shape[-1],) * 2] * 2), "symmetric")
        for day, (baseline, clouded) in DAYS.items():
            clouded = 0.4 if number % 2 and day == min(DAYS) else clouded
            items.append(_scene(files, land, store.lonlat[row], number, day, baseline, clouded, rng))

    def answer(path: str, asked: dict) -> bytes | None:
        if path == "/v1":
            return json.dumps(_landing_page(url)).encode()
        if path != "/v1/search":
            return files.get(path)
        start, end = asked["datetime"].split("/")
        found = [
            item for item in items
            if start <= item["properties"]["datetime"] <= end
            and shape(item["geometry"]).intersects(shape(asked["intersects"]))
        ]  # fmt: skip
        found.sort(key=lambda item: item["properties"]["eo:cloud_cover"])
        text = json.dumps({"type": "FeatureCollection", "features": found, "links": []})
        return text.replace("{here}", url).encode()

    with _serve(answer) as url:
        yield f"{url}/v1", store.lonlat[rows]


def _scene(
    files: dict, land: np.ndarray, point: np.ndarray, number: int, day: str, baseline: str,
    clouded: float, rng: np.random.Generator,
) -> dict:  # fmt: skip
    """Add the files of a scene; return its STAC item, with ``{here}`` for the server's address."""
    from scipy.ndimage import gaussian_filter

    from geonb.data.sentinel2 import BANDS, chip_grid
    from geonb.data.sources.stac import ASSETS, COLLECTION

    edge = land.shape[-1] // 6 * 6  # pixels of 10 m, a multiple of those of 60 m
    grid = chip_grid(point[0], point[1], edge)
    epsg = int(str(grid.crs).removeprefix("EPSG:"))
    sky = gaussian_filter(rng.normal(size=(edge, edge)), edge / 16, mode="wrap")
    cloud = sky > np.quantile(sky, 1 - clouded)
    image = np.where(cloud, 6500, land[:, :edge, :edge] * rng.uniform(0.95, 1.05)).round()
    offset, wrong = 1000 if baseline >= "04.00" else 0, day == WRONG_DAY
    name = f"S2A_PRACTICE{number:02d}_{day.replace('-', '')}_L2A"
    scl = np.where(cloud, 9, 4)[::2, ::2].astype(np.uint8)
    files[f"/{name}/SCL.tif"] = _geotiff(scl, grid.zoom_out(2))
    for band, layer in zip(BANDS, image + offset, strict=True):
        step = 6 if band in ("B1", "B9") else 1 if band in ("B2", "B3", "B4", "B8") else 2
        coarse = layer.reshape(edge // step, step, edge // step, step).mean((1, 3)).round()
        files[f"/{name}/{band}.tif"] = _geotiff(coarse.astype(np.uint16), grid.zoom_out(step))
    declared = [{"nodata": 0, "scale": 0.0001, "offset": 0.0 if wrong or not offset else -0.1}]
    outline = grid.extent.to_crs("EPSG:4326")
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": name, "collection": COLLECTION, "links": [],
        "geometry": outline.json, "bbox": list(outline.boundingbox),
        "properties": {
            "datetime": f"{day}T10:30:00Z", "platform": "sentinel-2a", "eo:cloud_cover": 100 * clouded,
            "s2:processing_baseline": baseline, "proj:epsg": epsg,
            "earthsearch:boa_offset_applied": wrong,
        },
        "assets": {
            asset: {"href": f"{{here}}/{name}/{band}.tif", "type": "image/tiff", "roles": ["data"]}
            | ({} if band == "SCL" else {"raster:bands": declared})
            for band, asset in ASSETS.items()
        },
    }  # fmt: skip


def _geotiff(pixels: np.ndarray, grid: GeoBox) -> bytes:
    from rasterio.io import MemoryFile

    height, width = pixels.shape
    profile = {"crs": str(grid.crs), "transform": grid.transform, "dtype": pixels.dtype, "nodata": 0}
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", height=height, width=width, count=1, **profile) as out:
            out.write(pixels, 1)
        return memory.read()


def _landing_page(url: str) -> dict:
    search = {"rel": "search", "href": f"{url}/v1/search", "method": "POST", "type": "application/geo+json"}
    kinds = ("core", "item-search", "item-search#sort", "item-search#query")
    return {
        "type": "Catalog", "id": "practice", "stac_version": "1.0.0", "description": "simulated scenes",
        "conformsTo": [f"https://api.stacspec.org/v1.0.0/{kind}" for kind in kinds],
        "links": [search, {"rel": "self", "href": f"{url}/v1"}],
    }  # fmt: skip


@contextmanager
def _serve(answer: Callable[[str, dict], bytes | None]) -> Iterator[str]:
    """Serve what ``answer`` returns for a path and a query or posted JSON; None is a 404."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else each small answer takes 40 ms

        def log_message(self, *args: object) -> None:
            """Show nothing."""

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            posted = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = answer(url.path, json.loads(posted) if posted else dict(parse_qsl(url.query)))
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            self.send_response(404 if body is None else 206 if wanted else 200)
            body = body or b""
            if wanted:
                first, last = int(wanted[1]), min(int(wanted[2] or len(body)), len(body) - 1)
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(body)}")
                body = body[first : last + 1]
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_POST = do_HEAD = do_GET

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
