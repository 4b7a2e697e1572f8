"""Sentinel-2 through STAC, from a catalogue on the loopback interface with generated scenes of known reflectance."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from faulty import Response, serve, tree

from geonb.data import cog
from geonb.data.download import DownloadError, NetworkAbsent
from geonb.data.sources import stac
from geonb.data.sources.earthengine import chip_grid
from geonb.data.sources.local import real_data
from geonb.data.sources.stac import Catalogue, declared_offset, from_stac, seen_offset, stac_chips, to_reflectance_dn
from geonb.data.store import BANDS, check_store, write_store
from geonb.data.work import WorkError

rasterio = pytest.importorskip("rasterio")
pytest.importorskip("pystac_client")
from rasterio.io import MemoryFile  # noqa: E402
from rasterio.transform import from_origin  # noqa: E402
from rasterio.warp import transform  # noqa: E402

PLANTS = np.array([300, 350, 600, 400, 900, 2200, 2600, 2800, 2900, 2900, 1600, 800])  # reflectance x 10,000
BAND_M = {"B1": 60, "B9": 60, "SCL": 20} | dict.fromkeys(("B5", "B6", "B7", "B8A", "B11", "B12"), 20)
YEAR = ("2024-01-01", "2025-01-01")
HERE = (5.5, 47.0)  # in zone 31
EDGE = 2400  # of a scene, in metres


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("GEONB_CONTACT", raising=False)
    monkeypatch.setattr(cog, "_sleep", lambda seconds: None)


def tiff(pixels, epsg, west, north, metres):
    h, w = pixels.shape
    grid = {"crs": f"EPSG:{epsg}", "transform": from_origin(west, north, metres, metres)}
    layout = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate", "predictor": 2}
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", width=w, height=h, count=1, dtype=pixels.dtype, nodata=0, **grid, **layout) as out:
            out.write(pixels, 1)
        return memory.read()


class Sky:
    """Scenes, the files of which a server has, and the STAC API that finds them."""

    def __init__(self, page=2, conforms=("core", "item-search", "item-search#sort", "item-search#query")):
        self.files, self.items, self.truth, self.page, self.searches = {}, [], {}, page, []
        self.conforms = [f"https://api.stacspec.org/v1.0.0/{name}" for name in conforms]
        self.url = ""

    def scene(
        self, name, at=HERE, day="2024-07-01", *, epsg=None, offset=1000, cloud=5.0, seed=0, scl=4, spectrum=PLANTS,
        shift=(0, 0), edge=EDGE, platform="sentinel-2a", properties=None, raster=(0.0001, -0.1), add=True,
    ):  # fmt: skip
        """A scene around a position. ``offset``: in its numbers; what it says of it: ``properties`` and ``raster``."""
        epsg = epsg or chip_grid(*at, 16).epsg
        x, y = (v[0] for v in transform("EPSG:4326", f"EPSG:{epsg}", [at[0]], [at[1]]))
        west, north = (round((v + s) / 60) * 60 for v, s in ((x - edge / 2, shift[0]), (y + edge / 2, shift[1])))
        rng = np.random.default_rng(seed)
        self.truth[name] = {}
        for band in [*BANDS, "SCL"]:
            metres = BAND_M.get(band, 10)
            n = edge // metres
            if band == "SCL":
                pixels = (np.full((n, n), scl) if np.isscalar(scl) else scl).astype(np.uint8)
            else:
                pixels = (spectrum[BANDS.index(band)] + rng.integers(0, 100, (n, n))).astype(np.uint16)
                self.truth[name][band] = pixels, (west, north, metres)
                pixels = pixels + np.uint16(offset)
            self.files[f"/{name}/{band}.tif"] = tiff(pixels, epsg, west, north, metres)
        corners = [(west, north), (west + edge, north), (west + edge, north - edge), (west, north - edge)]
        lon, lat = transform(f"EPSG:{epsg}", "EPSG:4326", *map(list, zip(*corners, strict=True)))
        crosses = max(lon) - min(lon) > 180
        box = [min(v for v in lon if v > 0) if crosses else min(lon), min(lat),
               max(v for v in lon if v < 0) if crosses else max(lon), max(lat)]  # fmt: skip
        bands = [] if raster is None else [{"nodata": 0, "scale": raster[0], "offset": raster[1]}]
        item = {
            "type": "Feature", "stac_version": "1.0.0", "id": name, "collection": "sentinel-2-c1-l2a", "bbox": box,
            "geometry": {"type": "Polygon", "coordinates": [[*zip(lon, lat, strict=True), (lon[0], lat[0])]]}, "links": [],
            "properties": {
                "datetime": f"{day}T10:30:00.123000Z", "platform": platform, "eo:cloud_cover": cloud,
                "s2:processing_baseline": "05.10", "proj:epsg": epsg, **(properties or {}),
            },
            "assets": {
                asset: {"href": f"{self.url}/{name}/{band}.tif", **({"raster:bands": bands} if band != "SCL" else {})}
                for band, asset in stac._COLOURS.items()
            },
        }  # fmt: skip
        if add:
            self.items.append(item)
        return item

    def answer(self, request):
        if request.path == "/v1":
            return self.json({
                "type": "Catalog", "id": "sky", "stac_version": "1.0.0", "description": "-", "conformsTo": self.conforms,
                "links": [{"rel": "search", "href": f"{self.url}/v1/search", "method": "POST",
                           "type": "application/geo+json"}, {"rel": "self", "href": f"{self.url}/v1"}],
            })  # fmt: skip
        if request.path != "/v1/search":
            return Response(404)
        asked = json.loads(request.body) if request.body else dict(request.query)
        self.searches.append(asked)
        assert asked["collections"] == ["sentinel-2-c1-l2a"]
        start, end = (datetime.fromisoformat(day.replace("Z", "+00:00")) for day in asked["datetime"].split("/"))
        found = [
            item for item in self.items
            if touches(item["bbox"], asked["bbox"])
            and start <= datetime.fromisoformat(item["properties"]["datetime"].replace("Z", "+00:00")) <= end
        ]  # fmt: skip
        if "query" in asked:
            most = asked["query"]["eo:cloud_cover"]["lte"]
            found = [item for item in found if (item["properties"]["eo:cloud_cover"] or 0) <= most]
        if "sortby" in asked:
            assert asked["sortby"] == [{"field": "properties.eo:cloud_cover", "direction": "asc"}]
            found.sort(key=lambda item: item["properties"]["eo:cloud_cover"] or 0)
        first = int(asked.get("token", 0))
        links = []
        if first + self.page < len(found):
            links = [{"rel": "next", "href": f"{self.url}/v1/search", "method": "POST", "merge": True,
                      "body": {"token": str(first + self.page)}}]  # fmt: skip
        return self.json({"type": "FeatureCollection", "features": found[first : first + self.page], "links": links})

    def json(self, content):
        return Response(200, {"Content-Type": "application/geo+json"}, json.dumps(content).encode())

    @property
    def catalogue(self):
        return Catalogue("sky", f"{self.url}/v1", "sentinel-2-c1-l2a", stac._COLOURS, "the sky of the tests")


def touches(box, other):
    """Both as (west, south, east, north); the first may cross the antimeridian, and then its west is its larger."""
    parts = [(box[0], box[2])] if box[0] <= box[2] else [(box[0], 180), (-180, box[2])]
    return box[1] <= other[3] and other[1] <= box[3] and any(w <= other[2] and other[0] <= e for w, e in parts)


@pytest.fixture
def sky():
    world = Sky()
    with serve(world.files, world.answer) as server:
        server.files, world.server, world.url = world.files, server, server.url
        yield world


def fetch(sky, points=(HERE,), **options):
    return stac_chips(sky.catalogue, **{"period": YEAR, "size": 32, **options})(np.array(points))


def cut(sky, name, band, grid):
    """What the 10 m band of a scene of the same zone holds under a chip, by plain slicing."""
    pixels, (west, north, metres) = sky.truth[name][band]
    col, row = (grid.west - west) // metres, (north - grid.north) // metres
    return pixels[row : row + grid.size, col : col + grid.size]


# --- pixels -------------------------------------------------------------------------------------------


def test_a_chip_has_the_pixels_that_lie_under_it_without_the_offset(sky):
    sky.scene("S2A_T31UFT_20240701T103000_L2A")
    [chip] = fetch(sky)
    grid = chip_grid(*HERE, 32)
    for band in ("B2", "B3", "B4", "B8"):
        assert (chip.image[BANDS.index(band)] == cut(sky, "S2A_T31UFT_20240701T103000_L2A", band, grid)).all()
    assert chip.date == "2024-07-01" and chip.image.dtype == np.uint16 and chip.image.shape == (12, 32, 32)
    assert chip.columns == {
        "item": "S2A_T31UFT_20240701T103000_L2A", "platform": "sentinel-2a", "processing_baseline": "05.10",
        "cloud_share": 0.0, "offset_removed": 1000.0, "offset_rule": "raster:bands", "clipped_share": 0.0, "scenes": 1,
        "epsg": 32631, "refused": 0,
    }  # fmt: skip


@pytest.mark.parametrize("at", [HERE, (5.5003, -33.9997), (18.2, 69.6)])
def test_odc_stac_and_gdal_read_the_same_pixels(sky, at):
    import pystac
    from affine import Affine
    from odc.geo.geobox import GeoBox
    from odc.stac import load

    item = sky.scene("one", at)
    [chip] = fetch(sky, [at])
    grid = chip_grid(*at, 32)
    box = GeoBox((32, 32), Affine(10, 0, grid.west, 0, -10, grid.north), f"EPSG:{grid.epsg}")
    smooth = {asset: "bilinear" if band in stac.COARSE else "nearest" for band, asset in stac._COLOURS.items()}
    names = [stac._COLOURS[band] for band in BANDS]
    theirs = load([pystac.Item.from_dict(item)], names, geobox=box, resampling=smooth)
    assert (theirs["blue"].values[0] > 1000).all()  # it does not apply the offset
    for band, name, ours in zip(BANDS, names, chip.image, strict=True):
        off = abs(theirs[name].values[0].astype(int) - 1000 - ours)
        assert off.max() <= (0 if band not in stac.COARSE else 1), band  # where it rounds a half


def test_the_grid_is_that_of_pyproj_and_centred_on_the_position(sky):
    from pyproj import Transformer

    for at in (HERE, (-70.123, -33.456), (15.6, 78.2)):
        grid = chip_grid(*at, 32)
        x, y = Transformer.from_crs(4326, grid.epsg, always_xy=True).transform(*at)
        assert abs(grid.west + 160 - x) <= 5.001 and abs(grid.north - 160 - y) <= 5.001
        assert grid.west % 10 == grid.north % 10 == 0


def test_a_scene_of_the_next_zone_is_brought_to_the_grid_of_the_chip(sky):
    at = (5.9995, 47.0)  # in zone 31, 40 m from zone 32
    sky.scene("far_S2A_T32", at, epsg=32632)
    [chip] = fetch(sky, [at])
    grid = chip_grid(*at, 32)
    assert grid.epsg == 32631 and chip.columns["epsg"] == 32631
    pixels, (west, north, _) = sky.truth["far_S2A_T32"]["B4"]
    steps = (np.arange(32) + 0.5) * 10
    x, y = np.meshgrid(grid.west + steps, grid.north - steps)
    from pyproj import Transformer

    there_x, there_y = Transformer.from_crs(32631, 32632, always_xy=True).transform(x, y)
    rows, cols = ((north - there_y) // 10).astype(int), ((there_x - west) // 10).astype(int)
    assert len(set((rows - np.arange(32)[:, None]).ravel())) > 1  # the grids are turned against each other
    assert (chip.image[3] == pixels[rows, cols]).all()


def test_tiles_of_one_pass_fill_each_others_gaps_those_of_the_zone_first(sky):
    at = (5.9995, 47.0)
    sky.scene("a", at, epsg=32632, seed=1, spectrum=PLANTS + 200)
    sky.scene("b", at, epsg=32631, seed=2, shift=(EDGE / 2, 0))  # the eastern half only
    [chip] = fetch(sky, [at])
    assert chip.columns["item"] == "b;a" and chip.columns["scenes"] == 2
    assert chip.columns["cloud_share"] == 0
    grid = chip_grid(*at, 32)
    first = (sky.truth["b"]["B2"][1][0] - grid.west) // 10  # the column at which b begins
    assert 4 < first < 28
    assert (chip.image[1, :, first:] < 450).all() and (chip.image[1, :, :first] >= 550).all()


def test_both_sides_of_the_antimeridian(sky):
    for at in ((179.999, -16.8), (-179.999, -16.8), (179.9995, 65.0)):
        sky.items.clear()
        sky.searches.clear()
        zone = chip_grid(*at, 32).epsg
        west, east = (32760, 32701) if at[1] < 0 else (32660, 32601)
        assert zone == (west if at[0] > 0 else east)
        for n, epsg in enumerate((west, east)):
            sky.scene(f"side-{epsg}", at, epsg=epsg, seed=n)
        [chip] = fetch(sky, [at], size=48)
        assert [[search["bbox"][0], search["bbox"][2]] for search in sky.searches if "token" not in search] == [
            [pytest.approx(179.99, abs=0.02), 180.0], [-180.0, pytest.approx(-179.99, abs=0.02)],
        ]  # fmt: skip
        assert chip.columns["item"] == f"side-{zone}" and (chip.image > 0).all()
        assert (chip.image[1] == cut(sky, f"side-{zone}", "B2", chip_grid(*at, 48))).all()
        sky.items = [item for item in sky.items if item["id"] != f"side-{zone}"]
        [other] = fetch(sky, [at], size=48)  # only the scene of the other side, projected across
        assert other.columns["item"] == f"side-{west if zone == east else east}" and (other.image > 0).all()


def test_beyond_utm_and_where_nothing_was_seen_there_is_a_reason_instead(sky):
    sky.scene("one")
    assert fetch(sky, [(10, 86), (10, -86), (100, 20)]) == [stac.OUTSIDE, stac.OUTSIDE, stac.NO_SCENE]
    assert fetch(sky, period=("2023-01-01", "2024-01-01")) == [stac.NO_SCENE]
    sky.items[0]["properties"]["datetime"] = "2024-01-01T00:00:00Z"
    assert isinstance(fetch(sky, period=("2024-01-01", "2024-01-02"))[0], stac.Chip)
    assert fetch(sky, period=("2023-01-01", "2024-01-01")) == [stac.NO_SCENE]  # the last day is excluded


# --- the offset ---------------------------------------------------------------------------------------

APPLIED, NOT_APPLIED = {"earthsearch:boa_offset_applied": True}, {"earthsearch:boa_offset_applied": False}
OLD = {"s2:processing_baseline": "02.14"}


@pytest.mark.parametrize(
    "there, properties, raster, rule",
    [
        (1000, {}, (0.0001, -0.1), "raster:bands"),
        (0, {}, (0.0001, 0), "raster:bands"),
        (0, APPLIED, (0.0001, -0.1), "boa_offset_applied"),  # both: taking it off would be once too often
        (1000, NOT_APPLIED, None, "processing_baseline"),
        (0, NOT_APPLIED | OLD, None, "processing_baseline"),
        (1000, {"s2:processing_baseline": None}, None, "date"),
        (0, {"s2:processing_baseline": None, "datetime": "2022-01-24T10:00:00Z"}, None, "date"),
        (0, NOT_APPLIED, (0.0001, -0.1), "pixels against raster:bands"),  # as some items of 2022 and 2025 are
        (1000, APPLIED, (0.0001, -0.1), "pixels against boa_offset_applied"),
        (1000, OLD, None, "pixels against processing_baseline"),
    ],
)
def test_the_offset_is_taken_off_once_whatever_the_metadata_say(sky, there, properties, raster, rule):
    sky.scene("one", offset=there, properties=properties, raster=raster)
    [chip] = fetch(sky, period=("2017-01-01", "2025-01-01"))
    assert (chip.image[1] == cut(sky, "one", "B2", chip_grid(*HERE, 32))).all()
    assert chip.columns["offset_rule"] == rule and chip.columns["offset_removed"] == there


def test_stac_1_1_writes_the_offset_elsewhere(sky):
    item = sky.scene("one", raster=None)
    for asset in item["assets"].values():
        asset["bands"] = [{"name": "x", "raster:scale": 0.0001, "raster:offset": -0.1}]
    assert declared_offset(item, sky.catalogue) == (1000, "raster:bands")
    for asset in item["assets"].values():
        asset |= {"bands": [{"name": "x"}], "raster:scale": 0.0001, "raster:offset": 0}
    assert declared_offset(item, sky.catalogue) == (0, "raster:bands")


@pytest.mark.parametrize("raster", [(0.0001, -0.2), (0.0002, -0.1), (0, -0.1), ("1", "x"), (float("nan"), -0.1),
                                    (0.0001, -1e308), (0.0001, -(10**400))])  # fmt: skip
def test_an_offset_or_scale_of_another_kind_is_not_guessed_at(sky, raster):
    item = sky.scene("one", raster=raster)
    with pytest.raises(stac.UnclearOffset):
        declared_offset(item, sky.catalogue)
    assert fetch(sky) == [stac.UNCLEAR]


def test_a_bright_scene_whose_pixels_only_cast_doubt_is_passed_over_for_the_next(sky):
    sand = np.array([1200, 1500, 2300, 3200, 3500, 3700, 3800, 3900, 4000, 4000, 5000, 4500])
    sky.scene("doubt", spectrum=sand, scl=5, properties=APPLIED, cloud=0)
    assert fetch(sky) == [stac.UNCLEAR]
    sky.scene("sure", day="2024-08-01", spectrum=sand, scl=5, cloud=1)
    [chip] = fetch(sky)
    assert chip.columns["item"] == "sure" and chip.columns["offset_removed"] == 1000
    assert (chip.image[3] == cut(sky, "sure", "B4", chip_grid(*HERE, 32))).all()


def test_what_lies_below_the_offset_becomes_0_and_is_counted_and_no_data_stays_0(sky):
    item = sky.scene("one")
    dn = np.full((12, 20, 20), 2000, np.uint16)
    dn[0, :2] = 990
    dn[:, 5, 5] = 0
    made = to_reflectance_dn(dn, item, sky.catalogue)
    assert made.offset == 1000 and (made.image[0, :2] == 0).all() and (made.image[:, 5, 5] == 0).all()
    assert made.image[1, 0, 0] == 1000 and made.clipped == pytest.approx(40 / (12 * 399))


def test_real_chips_show_their_offset_or_nothing_and_never_the_other(sky):
    from geonb.data.sentinel2 import radiometric_offset

    try:
        files = real_data()["chips"]
    except FileNotFoundError as absent:
        pytest.skip(str(absent))
    carry, item = 0, sky.scene("one", add=False)
    none = sky.scene("two", raster=(0.0001, 0), add=False)
    for file in files:
        with rasterio.open(file) as source:
            dn = source.read()
        truth = int(radiometric_offset(dn))
        carry += truth > 0
        tiles = [dn[:, r : r + 64, c : c + 64] for r in range(0, 256, 64) for c in range(0, 256, 64)]
        assert {seen_offset(tile) for tile in tiles} <= {truth, None}, file.name
        if not truth:
            assert seen_offset(dn) == 0
            wrong = to_reflectance_dn(dn, item, sky.catalogue)  # the metadata say that it is there
            assert wrong.rule == "pixels against raster:bands" and (wrong.image == dn).all()
        else:
            right = to_reflectance_dn(dn, item, sky.catalogue)
            assert right.offset == 1000 and right.rule == "raster:bands" and right.clipped < 0.3
            try:
                assert to_reflectance_dn(dn, none, sky.catalogue).offset == 1000
            except stac.UnclearOffset:
                assert seen_offset(dn) is None
        low = np.percentile(to_reflectance_dn(dn, item, sky.catalogue).image, 1, axis=(1, 2)).min() / 10_000
        assert -0.05 <= low
    assert carry == 6


# --- clouds -------------------------------------------------------------------------------------------


def clouds(share, n=EDGE // 20, kind=9):
    """Classes of a scene whose western part is cloud; the chip is in its middle."""
    classes = np.full((n, n), 4)
    half = 32 * 10 / 20 / 2
    classes[:, : round(n / 2 - half + 2 * half * share)] = kind
    return classes


def test_the_first_scene_that_is_clear_over_the_chip_is_taken_not_the_one_with_the_fewest_clouds(sky):
    sky.scene("hidden", day="2024-05-01", cloud=1, scl=clouds(0.5), seed=1)
    sky.scene("clear", day="2024-06-01", cloud=40, seed=2)
    sky.scene("cloudless", day="2024-07-01", cloud=60, seed=3)
    sky.scene("overcast", day="2024-08-01", cloud=95, seed=4)
    [chip] = fetch(sky)
    assert chip.columns["item"] == "clear" and chip.date == "2024-06-01"
    [chip] = fetch(sky, max_cloud=0.7)
    assert chip.columns["item"] == "hidden" and chip.columns["cloud_share"] == pytest.approx(0.5, abs=0.07)
    assert fetch(sky, max_scene_cloud=30) == [stac.CLOUDY]
    assert len(sky.searches) == 2 + 2 + 1 and {"token": "2"}.items() <= sky.searches[1].items()  # pages


@pytest.mark.parametrize("kind", [1, 3, 8, 9, 10])
def test_shadow_and_cirrus_cover_as_clouds_do(sky, kind):
    sky.scene("one", scl=kind)
    assert fetch(sky) == [stac.CLOUDY]


def test_a_scene_that_ends_in_the_chip_is_passed_over(sky):
    sky.scene("half", shift=(EDGE / 2, 0), cloud=0)
    assert fetch(sky) == [stac.PARTIAL]
    sky.scene("whole", day="2024-08-01", cloud=9)
    assert fetch(sky)[0].columns["item"] == "whole"


def test_the_median_is_that_of_the_clear_views(sky):
    masks = [4, clouds(0.5), 4, clouds(0.25, kind=3), 4, 9]
    for n, mask in enumerate(masks):
        sky.scene(f"v{n}", day=f"2024-0{n + 1}-01", cloud=n, scl=mask, seed=n, spectrum=PLANTS + 40 * n)
    [chip] = fetch(sky, method="median", min_views=4)
    grid = chip_grid(*HERE, 32)
    views = []
    for n, mask in enumerate(masks[:5]):
        view = cut(sky, f"v{n}", "B4", grid).astype(float)
        if not np.isscalar(mask):
            west, north, _ = sky.truth[f"v{n}"]["B4"][1]
            classes = np.kron(mask, np.ones((2, 2), int))
            col, row = (grid.west - west) // 10, (north - grid.north) // 10
            view[classes[row : row + 32, col : col + 32] != 4] = np.nan
        views.append(view)
    count = (~np.isnan(views)).sum(0)
    assert sorted(set(count.ravel())) == [3, 4, 5]
    assert chip == stac.CLOUDY  # a quarter has three views only
    [chip] = fetch(sky, method="median", min_views=3)
    assert (chip.image[3] == np.rint(np.nanmedian(views, axis=0))).all()
    assert chip.date == "" and chip.columns["scenes"] == 5 and chip.columns["item"] == "v0;v1;v2;v3;v4"
    [chip] = fetch(sky, method="median", min_views=4, max_cloud=0.4)
    assert ((chip.image == 0).all(0) == (count < 4)).all()
    assert chip.columns["cloud_share"] == pytest.approx((count < 4).mean())
    [chip] = fetch(sky, method="median", views=3, min_views=3, max_cloud=0.6)
    assert chip.columns["scenes"] == 3


def test_two_processings_of_one_tile_are_one_view_by_the_newest(sky):
    sky.scene("a_old", properties={"s2:processing_baseline": "05.00"}, seed=1)
    sky.scene("b_new", properties={"s2:processing_baseline": "05.11"}, seed=2)
    [chip] = fetch(sky)
    assert chip.columns["item"] == "b_new"
    assert fetch(sky, method="median", min_views=2) == [stac.CLOUDY]


def test_a_catalogue_that_can_neither_sort_nor_filter_gives_the_same(sky):
    for n in range(5):
        sky.scene(f"v{n}", day=f"2024-0{n + 1}-01", cloud=[50, 90, None, 3, float("nan")][n], seed=n)
    [chip] = fetch(sky)
    sky.conforms = sky.conforms[:2]
    sky.searches.clear()
    [again] = fetch(sky)
    assert "sortby" not in sky.searches[0] and "query" not in sky.searches[0] and len(sky.searches) == 3
    assert chip.columns["item"] == again.columns["item"] == "v3" and (chip.image == again.image).all()


# --- stores -------------------------------------------------------------------------------------------

POINTS = np.array([[5.5, 47.0], [5.502, 47.001], [100.0, 20.0], [5.498, 46.999], [10.0, 88.0], [5.5005, 47.0]])


def make(sky, out, where=POINTS, **options):
    options = {"catalogue": sky.catalogue, "period": YEAR, "size": 32, "progress": False} | options
    return from_stac(out, where, **options)


def test_a_store_of_chips_says_where_they_are_from_and_what_was_left_out(sky, tmp_path, capsys):
    sky.scene("one")
    store = make(sky, tmp_path / "store", progress=True, contact="someone@example.org")
    assert "6 chips: about" in capsys.readouterr().out
    assert np.allclose(store.lonlat, POINTS[[0, 1, 3, 5]])
    assert store.column("item").tolist() == ["one"] * 4 and (store.column("offset_removed") == 1000).all()
    assert store.manifest["made"]["left_out"] == {stac.NO_SCENE: 1, stac.OUTSIDE: 1}
    assert store.manifest["made"]["plan"]["collection"] == "sentinel-2-c1-l2a"
    assert "someone" not in json.dumps(store.manifest)
    assert all("someone@example.org" in request.headers["User-Agent"] for request in sky.server.seen)
    check_store(store.path)


def test_chips_are_added_to_places_that_are_there(sky, tmp_path):
    world = write_store(
        tmp_path / "world", places={"place_id": ["a", "b"], "lon": [5.5, 100.0], "lat": [47.0, 20.0]},
        texts={"place_id": ["b"], "text": ["a text"]},
    )  # fmt: skip
    sky.scene("one")
    store = make(sky, tmp_path / "store", world)
    assert store.place_id.tolist() == world.place_id.tolist() and store.has("image").sum() == 1
    assert (store.has("text") == world.has("text")).all()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"period": "2024"}, "must be two days"),
        ({"period": ("2024-01-01", "2024-01-01")}, "is empty"),
        ({"method": "best"}, "unknown method 'best'"),
        ({"catalogue": "nasa"}, "unknown catalogue 'nasa'; choose from earth-search"),
        ({"size": 8}, "from 16 to 1024"),
        ({"max_cloud": 1.5}, "a share of the chip below 1"),
        ({"method": "median", "views": 2}, "min_views is 3 and views 2"),
        ({"workers": 99}, "from 1 to 16 are polite"),
        ({"contact": "me"}, "no contact"),
    ],
)
def test_an_option_that_is_wrong_is_told_before_anything_is_asked(sky, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        make(sky, tmp_path / "store", **options)
    assert not sky.server.seen and not (tmp_path / "store.work").exists()


def test_the_catalogues_are_as_they_are_published():
    assert stac.CATALOGUES["earth-search"].assets["B8A"] == "nir08"
    assert stac.CATALOGUES["planetary-computer"].assets["B8A"] == "B8A"
    assert stac.CATALOGUES["planetary-computer"].assets["B1"] == "B01" and stac.CATALOGUES["planetary-computer"].signed
    assert all(list(one.assets) == [*BANDS, "SCL"] for one in stac.CATALOGUES.values())
    assert "100 chips: about" in str(stac.estimate(100)) and stac.estimate(10, method="median").requests > 1000


# --- faults -------------------------------------------------------------------------------------------

SEARCH, BLUE = "/v1/search", "/one/B2.tif"


@pytest.mark.parametrize(
    "path, tricks",
    [
        (BLUE, [{"status": 429, "headers": {"Retry-After": "3"}}]),
        (BLUE, [{"status": 429}, {"status": 503}, {"status": 500}]),
        (BLUE, [{"cut": 100}]),
        (BLUE, [{"truncate": 100}]),
        (BLUE, [{"status": 200, "body": b"<html>we are back soon</html>"}]),
        (BLUE, [{"raw": b""}]),
        (BLUE, [{"redirect": "/moved.tif"}]),
        (SEARCH, [{"status": 429, "headers": {"Retry-After": "1"}}]),
        (SEARCH, [{"status": 502}, {"status": 504}]),
        (SEARCH, [{"status": 200, "body": b'{"message": "Internal server error"}'}]),
        (SEARCH, [{"status": 200, "body": b"{} trailing"}]),
        (SEARCH, [{"cut": 30}]),
        ("/v1", [{"status": 503}, {"cut": 10}]),
    ],
)
def test_after_a_fault_that_passes_the_store_is_the_same(sky, tmp_path, monkeypatch, path, tricks):
    sky.scene("one")
    undisturbed = make(sky, tmp_path / "a" / "store", POINTS[:1])
    sky.files["/moved.tif"] = sky.files[BLUE]
    waits = []
    monkeypatch.setattr(cog, "_sleep", waits.append)
    sky.server.tricks = {path: [*tricks]}
    assert tree(make(sky, tmp_path / "b" / "store", POINTS[:1]).path) == tree(undisturbed.path)
    assert not sky.server.tricks[path]
    if "redirect" not in tricks[0]:
        assert waits[: len(tricks)] == [float(t.get("headers", {}).get("Retry-After", 2**n)) for n, t in enumerate(tricks)]


def test_a_slow_server_is_given_up_and_asked_again(sky, tmp_path, monkeypatch):
    monkeypatch.setattr(cog, "TIMEOUT_S", 0.3)
    sky.scene("one")
    sky.server.tricks = {BLUE: [{"delay": 1}], SEARCH: [{"delay": 1}]}
    assert len(make(sky, tmp_path / "store", POINTS[:1])) == 1


def test_a_fault_that_stays_stops_and_the_same_call_goes_on(sky, tmp_path):
    sky.scene("one")
    points = np.concatenate([POINTS[[0, 1, 3, 5]], POINTS + [0, 0.0005]])
    undisturbed = make(sky, tmp_path / "a" / "store", points, workers=1)
    sky.server.tricks = {BLUE: [{}] * 14 + [{"status": 500}] * 6}
    with pytest.raises(WorkError, match=r"HTTP 500 \(after 6 attempts\).*\n8 of 10 places are done and kept"):
        make(sky, tmp_path / "b" / "store", points, workers=1)
    asked = len(sky.server.seen)
    assert tree(make(sky, tmp_path / "b" / "store", points, workers=1).path) == tree(undisturbed.path)
    assert len(sky.server.seen) - asked < asked - 100  # the eight are not made again


def test_too_long_a_wait_and_no_connection_are_told(sky):
    sky.scene("one")
    sky.server.tricks = {SEARCH: [{"status": 429, "headers": {"Retry-After": "9000"}}]}
    with pytest.raises(DownloadError, match="asks to come back in 9,000 s"):
        fetch(sky)
    gone = Catalogue("gone", "http://127.0.0.1:9/v1", "x", stac._COLOURS, "nowhere")
    with pytest.raises(NetworkAbsent, match="no connection"):
        stac_chips(gone, period=YEAR)(np.array([HERE]))
    sky.server.tricks = {SEARCH: [{"status": 400, "body": b'{"description": "bad <b>bbox</b>"}'}]}
    with pytest.raises(DownloadError, match="HTTP 400: .*bad <b>bbox"):
        fetch(sky)


def test_a_scene_whose_files_are_gone_or_damaged_is_passed_over_and_counted(sky):
    sky.scene("one", cloud=0)
    sky.scene("two", day="2024-08-01", cloud=1)
    del sky.files[BLUE]
    [chip] = fetch(sky)
    assert chip.columns["item"] == "two" and chip.columns["refused"] == 1
    sky.files["/two/SCL.tif"] = sky.files["/two/SCL.tif"][:500]
    assert fetch(sky) == [stac.BROKEN]


def test_signatures_are_made_when_a_file_is_read_and_anew_when_refused(sky, monkeypatch):
    """The client's own signing, against a token service here: the first token is taken for expired half-way."""
    planetary_computer = pytest.importorskip("planetary_computer")
    from planetary_computer import sas
    from planetary_computer.settings import Settings

    sky.scene("one")
    host = sky.url.removeprefix("http://")
    monkeypatch.setattr(sas, "BLOB_STORAGE_DOMAIN", host)
    monkeypatch.setattr(sas, "TOKEN_CACHE", {})
    monkeypatch.setattr(Settings.get(), "sas_url", f"{sky.url}/token")
    assert planetary_computer.sign_inplace
    files, valid, issued, refused = dict(sky.files), [1], [0], [0]
    sky.files.clear()
    ordinary = sky.answer

    def answer(request):
        if request.path.startswith("/token/"):
            issued[0] += 1
            end = "2099-01-01T00:00:00Z"
            return sky.json({"msft:expiry": end, "token": f"st=a&se={end}&sp=r&sig={issued[0]}"})
        if request.path not in files:
            return ordinary(request)
        if request.query.get("sig") != str(valid[0]):
            refused[0] += 1
            return Response(409 if not request.query else 403, body=b"<Error>")
        if request.path.endswith("B4.tif"):
            valid[0] = 2  # from now on
        first, last = map(int, request.headers["Range"].removeprefix("bytes=").split("-"))
        part = files[request.path][first : last + 1]
        size = len(files[request.path])
        return Response(206, {"Content-Range": f"bytes {first}-{first + len(part) - 1}/{size}"}, part)

    sky.server.answer = answer
    catalogue = Catalogue(**{**vars(sky.catalogue), "signed": True})
    [chip] = stac_chips(catalogue, period=YEAR, size=32)(np.array([HERE]))
    assert (chip.image[1] == cut(sky, "one", "B2", chip_grid(*HERE, 32))).all()
    assert issued[0] == 2 and refused[0] == 1
    assert fetch(sky) == [stac.BROKEN]  # unsigned: nothing is read
    valid[0] = 3
    monkeypatch.setattr(sas, "get_token", lambda *_: sas.SASToken(**{"msft:expiry": "2099-01-01T00:00:00Z", "token": "sig=9"}))
    with pytest.raises(DownloadError, match="also with a new signature") as told:
        stac_chips(catalogue, period=YEAR, size=32)(np.array([HERE]))
    assert "sig=" not in str(told.value)


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(sky, tmp_path):
    sky.scene("one")
    points = np.stack([np.linspace(5.497, 5.503, 24), np.linspace(46.999, 47.001, 24)], 1)
    undisturbed = make(sky, tmp_path / "a" / "store", points)
    script = (
        "import sys, numpy as np\n"
        "from geonb.data.sources import stac\n"
        "sky = stac.Catalogue('sky', sys.argv[1], 'sentinel-2-c1-l2a', stac._COLOURS, 'the sky of the tests')\n"
        "stac.from_stac(sys.argv[2], np.load(sys.argv[3]), catalogue=sky, period=('2024-01-01', '2025-01-01'), size=32,"
        " workers=1, progress=False)\n"
    )
    np.save(tmp_path / "points.npy", points)
    out = tmp_path / "b" / "store"
    out.parent.mkdir()
    command = [sys.executable, "-c", script, sky.catalogue.url, str(out), str(tmp_path / "points.npy")]
    process = subprocess.Popen(command, env={**os.environ, "no_proxy": "127.0.0.1"}, cwd=Path(__file__).parents[2])
    parts, deadline = tmp_path / "b" / "store.work" / "parts" / "chips", time.monotonic() + 60
    while not list(parts.glob("*.parquet")) and time.monotonic() < deadline:
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists() and 1 <= len(list(parts.glob("*.parquet"))) < 3
    asked = len(sky.server.seen)
    assert tree(make(sky, out, points).path) == tree(undisturbed.path)
    assert len(sky.server.seen) - asked < asked - 200  # a batch of eight is not made again


# --- hostile ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "href",
    [
        "file:///etc/passwd", "/etc/passwd", "/vsizip//vsicurl/https://example.org/a.zip", "/vsicurl/http://127.0.0.1/x",
        "http://example.org/B02.tif", "ftp://127.0.0.1/x.tif", "s3://bucket/x.tif", "https://user:secret@example.org/x",
        "https://exa mple.org/x", "https:///x", "", None, 7, "https://example.org/\nHost: x", "C:\\x.tif", "data:,x",
        "vrt://https://example.org/x.tif", "https://[::1", "x" * 5000,
    ],
)  # fmt: skip
def test_an_address_that_is_not_https_is_refused_and_counted(sky, href):
    item = sky.scene("one", cloud=0)
    item["assets"]["blue"]["href"] = href
    assert fetch(sky) == [stac.REFUSED]
    sky.scene("two", day="2024-08-01", cloud=1)
    [chip] = fetch(sky)
    assert chip.columns["item"] == "two" and chip.columns["refused"] == 1


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "../../etc/passwd", "a/b", "a\x00b", "", None, 3, "x" * 999])
def test_a_name_that_is_none_is_refused(sky, name):
    sky.scene("one")["id"] = name
    assert fetch(sky) == [stac.REFUSED]


def test_items_of_any_shape_do_no_harm(sky):
    good = sky.scene("good")
    good["properties"] |= {"proj:shape": [10**12, 10**12], "proj:transform": ["x"], "proj:epsg": {"a": 1}}
    good["bbox"] = [5.0, 46.0, 6.0, 48.0]
    for n, damage in enumerate(
        [{"properties": None}, {"assets": []}, {"properties": {"datetime": "never"}}, {"properties": {"datetime": None}},
         {"properties": good["properties"] | {"datetime": "0001-01-01T00:00:00+14:00"}}, {"assets": {"scl": {"href": 1}}}, {"geometry": {"coordinates": [[[float("nan")]]]}, "assets": {}}]
    ):  # fmt: skip
        bad = json.loads(json.dumps(good)) | {"id": f"bad{n}"} | damage
        sky.items.append(bad)
    ordinary, features = sky.answer, [*sky.items, None, [], "x"]
    sky.server.answer = lambda request: (
        sky.json({"type": "FeatureCollection", "features": features, "links": []})
        if request.path == SEARCH
        else ordinary(request)
    )
    [chip] = fetch(sky)
    assert chip.columns["item"] == "good" and chip.columns["refused"] == 10


def test_a_cloud_cover_beyond_all_numbers_is_taken_as_not_told(sky):
    item = sky.scene("one")
    item["properties"]["eo:cloud_cover"] = 10**400
    assert stac._scene(item, sky.catalogue).cloud == 100


def test_a_position_that_is_none_is_refused_before_anything_is_asked(sky):
    with pytest.raises(ValueError, match="not finite"):
        fetch(sky, [(np.nan, 47.0)])
    assert not sky.server.seen


@pytest.mark.parametrize("link", ["file:///etc/passwd", "/etc/passwd", "https://example.org/v1/search", 7, None])
def test_the_catalogue_cannot_send_the_search_elsewhere(sky, link):
    sky.scene("one")
    sky.scene("two", day="2024-08-01")
    ordinary = sky.answer
    page = {"type": "FeatureCollection", "features": sky.items, "links": [{"rel": "next", "href": link}]}
    sky.server.answer = lambda request: sky.json(page) if request.path == SEARCH else ordinary(request)
    with pytest.raises(DownloadError, match="refused|does not answer as a STAC API"):
        fetch(sky)


def test_an_endless_chain_of_pages_ends(sky, monkeypatch):
    monkeypatch.setattr(stac, "MAX_ITEMS", 20)
    sky.scene("one")
    ordinary = sky.answer
    link = {"rel": "next", "href": f"{sky.url}{SEARCH}", "method": "POST", "body": {"token": "1"}, "merge": True}
    page = {"type": "FeatureCollection", "features": sky.items, "links": [link]}
    sky.server.answer = lambda request: sky.json(page) if request.path == SEARCH else ordinary(request)
    assert fetch(sky)[0].columns["item"] == "one"
    assert sum(request.path == SEARCH for request in sky.server.seen) <= 21


@pytest.mark.parametrize(
    "content",
    [
        b"<VRTDataset rasterXSize='1' rasterYSize='1'><VRTRasterBand><SourceFilename>/etc/passwd</SourceFilename>",
        b"II*\x00" + b"\xff" * 4000, b"II*\x00\x08\x00\x00\x00" + b"\xff" * 100_000, b"II*\x00" + b"\x00" * 4000, b"MM",
        b"II+\x00\x08\x00\x00\x00\x10" + b"\x00" * 7 + b"\x10" * 5000,
    ],
)  # fmt: skip
def test_what_is_no_geotiff_reaches_no_other_reader(sky, content):
    sky.scene("one")
    sky.files[BLUE] = content
    assert fetch(sky) == [stac.BROKEN]


def test_a_tile_that_would_fill_the_memory_is_not_unpacked(sky):
    import struct

    sky.scene("one")
    tags = [(256, 4, 1, 900_000), (257, 4, 1, 900_000), (258, 3, 1, 16), (259, 3, 1, 8), (277, 3, 1, 1),
            (322, 4, 1, 900_000), (323, 4, 1, 900_000), (324, 4, 1, 200), (325, 4, 1, 100)]  # fmt: skip
    body = b"II*\x00" + struct.pack("<I", 8) + struct.pack("<H", len(tags))
    body += b"".join(struct.pack("<HHII", *tag) for tag in tags) + struct.pack("<I", 0)
    sky.files[BLUE] = body.ljust(4000, b"\0")
    assert fetch(sky) == [stac.BROKEN]


@pytest.mark.parametrize("wrong", [{"metres": 30}, {"epsg": 4326}, {"kind": np.int16}, {"epsg": 2263}])
def test_pixels_of_another_kind_are_not_taken_for_sentinel_2(sky, wrong):
    sky.scene("one")
    _, (west, north, metres) = sky.truth["one"]["B2"]
    pixels = np.full((240, 240), 1500, wrong.get("kind", np.uint16))
    sky.files[BLUE] = tiff(pixels, wrong.get("epsg", 32631), west, north, wrong.get("metres", metres))
    assert fetch(sky) == [stac.BROKEN]
