"""Sentinel-2 through STAC, from a catalogue on the loopback interface with generated scenes of known reflectance."""

import json
from datetime import datetime

import numpy as np
import pystac
import pytest
import rasterio
from faulty import Response, serve, tree
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.transform import from_origin
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform
from shapely.geometry import shape

from geonb import practice
from geonb.cli import main
from geonb.data.sentinel2 import BANDS, chip_grid, utm_epsg
from geonb.data.sources import http, stac
from geonb.data.sources.parts import Chip
from geonb.data.sources.stac import ASSETS, _read_chip, declared_offset, from_stac
from geonb.data.store import PlaceStore, check_store
from geonb.sample import make_atlas

PLANTS = np.array([300, 350, 600, 400, 900, 2200, 2600, 2800, 2900, 2900, 1600, 800])  # reflectance x 10,000
SAND = np.array([1200, 1500, 2300, 3200, 3500, 3700, 3800, 3900, 4000, 4000, 5000, 4500])
BAND_M = {"B1": 60, "B9": 60, "SCL": 20} | dict.fromkeys(("B5", "B6", "B7", "B8A", "B11", "B12"), 20)
YEAR = ("2024-01-01", "2025-01-01")
HERE = (5.5, 47.0)  # in zone 31
EDGE = 960  # of a scene, in metres


class Sky:
    """Scenes, the files of which a server has, and the STAC API that finds them."""

    def __init__(self):
        self.files, self.items, self.truth, self.searches, self.url = {}, [], {}, [], ""

    def scene(
        self, name, at=HERE, day="2024-07-01", *, epsg=None, offset=1000, cloud=5.0, seed=0, scl=4, spectrum=PLANTS,
        shift=(0, 0), properties=None, raster=(0.0001, -0.1),
    ):  # fmt: skip
        """A scene around a position. ``offset``: in its numbers; what it declares: ``properties`` and ``raster``."""
        epsg = epsg or int(utm_epsg([at])[0])
        x, y = (v[0] for v in transform("EPSG:4326", f"EPSG:{epsg}", [at[0]], [at[1]]))
        west, north = (round((v + s) / 60) * 60 for v, s in ((x - EDGE / 2, shift[0]), (y + EDGE / 2, shift[1])))
        rng = np.random.default_rng(seed)
        self.truth[name] = {}
        for band in ASSETS:
            metres = BAND_M.get(band, 10)
            n = EDGE // metres
            if band == "SCL":
                pixels = (np.full((n, n), scl) if np.isscalar(scl) else scl).astype(np.uint8)
            else:
                pixels = (spectrum[BANDS.index(band)] + rng.integers(0, 100, (n, n))).astype(np.uint16) + np.uint16(offset)
            self.truth[name][band] = pixels, west, north
            self.files[f"/{name}/{band}.tif"] = practice._geotiff(pixels, GeoBox((n, n), from_origin(west, north, metres, metres), epsg))
        whole = GeoBox((1, 1), from_origin(west, north, EDGE, EDGE), epsg)
        outline = whole.extent.to_crs("EPSG:4326", wrapdateline=True)
        bands = [] if raster is None else [{"nodata": 0, "scale": raster[0], "offset": raster[1]}]
        item = {
            "type": "Feature", "stac_version": "1.0.0", "id": name, "collection": stac.COLLECTION, "links": [],
            "stac_extensions": [], "geometry": outline.json, "bbox": list(outline.boundingbox),
            "properties": {
                "datetime": f"{day}T10:30:00.123000Z", "platform": "sentinel-2a", "eo:cloud_cover": cloud,
                "s2:processing_baseline": "05.10", "proj:epsg": epsg, **(properties or {}),
            },
            "assets": {
                asset: {"href": f"{self.url}/{name}/{band}.tif", "type": "image/tiff", "roles": ["data"],
                        **({"raster:bands": bands} if band != "SCL" else {})}
                for band, asset in ASSETS.items()
            },
        }  # fmt: skip
        self.items.append(item)
        return item

    def answer(self, request):
        if request.path == "/v1":
            return answered(practice._landing_page(self.url))
        if request.path != "/v1/search":
            return Response(404)
        asked = json.loads(request.body)
        self.searches.append(asked)
        start, end = (datetime.fromisoformat(day) for day in asked["datetime"].split("/"))
        found = [
            item for item in self.items
            if shape(item["geometry"]).intersects(shape(asked["intersects"]))
            and start <= datetime.fromisoformat(item["properties"]["datetime"]) <= end
            and item["properties"]["eo:cloud_cover"] <= asked["query"]["eo:cloud_cover"]["lte"]
        ]  # fmt: skip
        found.sort(key=lambda item: item["properties"]["eo:cloud_cover"])
        first = int(asked.get("token", 0))
        more = {"rel": "next", "href": f"{self.url}/v1/search", "method": "POST", "merge": True, "body": {"token": str(first + 2)}}
        return answered({"type": "FeatureCollection", "features": found[first : first + 2],
                         "links": [more] if first + 2 < len(found) else []})  # fmt: skip


def answered(content):
    return Response(200, {"Content-Type": "application/geo+json"}, json.dumps(content).encode())


@pytest.fixture
def sky(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(http, "RETRY", http.RETRY.new(backoff_factor=0))
    monkeypatch.setattr(stac, "REMOTE", stac.REMOTE | {"GDAL_HTTP_RETRY_DELAY": "0.01"})
    world = Sky()
    with serve(world.files, world.answer) as server:
        server.files, world.server, world.url = world.files, server, server.url
        yield world


def chip(sky, at=HERE, **options):
    return _read_chip(*at, **{"period": YEAR, "size": 32, "method": "least_cloudy", "url": f"{sky.url}/v1"} | options)


def cut(sky, name, band, grid):
    """What the 10 m band of a scene of the same zone holds under a chip, by slicing."""
    pixels, west, north = sky.truth[name][band]
    col, row = (int(grid.transform.c) - west) // 10, (north - int(grid.transform.f)) // 10
    return pixels[row : row + grid.shape[0], col : col + grid.shape[1]]


@pytest.mark.parametrize("at, epsg", [(HERE, None), ((5.5003, -33.9997), None), ((5.9995, 47.0), 32632)])
def test_a_chip_has_the_pixels_that_gdal_reads_on_its_grid_without_the_offset(sky, at, epsg):
    """The last place lies in zone 31, its scene in zone 32."""
    item = sky.scene("one", at, epsg=epsg)
    grid = chip_grid(*at, 32)
    made = chip(sky, at)
    for band, ours in zip(BANDS, made.image, strict=True):
        how = Resampling.bilinear if band in stac.COARSE else Resampling.nearest
        target = {"crs": f"EPSG:{grid.crs.epsg}", "transform": grid.transform, "width": 32, "height": 32}
        with rasterio.Env(**stac.REMOTE), rasterio.open(item["assets"][ASSETS[band]]["href"]) as source:
            with WarpedVRT(source, **target, resampling=how) as vrt:
                off = vrt.read(1).astype(int) - 1000 - ours
        assert abs(off).max() <= (1 if band in stac.COARSE else 0), band  # where it rounds a half
    if epsg is None:
        assert (made.image[1] == cut(sky, "one", "B2", grid) - 1000).all()
    assert made.date == "2024-07-01" and made.image.dtype == np.uint16
    assert made.columns == {
        "item": "one", "processing_baseline": "05.10", "cloud_share": 0.0, "offset_removed": 1000.0,
        "offset_rule": "raster:bands", "epsg": grid.crs.epsg,
    }  # fmt: skip


def test_tiles_of_one_pass_fill_each_others_gaps_those_of_the_zone_and_the_newest_first(sky):
    at = (5.9995, 47.0)
    sky.scene("c", at, epsg=32631, seed=3, shift=(EDGE / 2, 0), properties={"s2:processing_baseline": "05.00"})
    sky.scene("a", at, epsg=32632, seed=1, spectrum=PLANTS + 200)
    sky.scene("b", at, epsg=32631, seed=2, shift=(EDGE / 2, 0))  # the eastern half only
    made = chip(sky, at)
    assert made.columns["item"] == "b;c;a" and made.columns["cloud_share"] == 0
    first = (sky.truth["b"]["B2"][1] - int(chip_grid(*at, 32).transform.c)) // 10  # the column at which b begins
    assert 4 < first < 28
    assert (made.image[1, :, first:] < 450).all() and (made.image[1, :, :first] >= 550).all()


@pytest.mark.parametrize("at", [(179.9995, 65.0), (-179.999, -16.8)])
def test_both_sides_of_the_antimeridian(sky, at):
    grid = chip_grid(*at, 48)
    for n, epsg in enumerate((32760, 32701) if at[1] < 0 else (32660, 32601)):
        sky.scene(f"side-{epsg}", at, epsg=epsg, seed=n)
    made = chip(sky, at, size=48)
    assert made.columns["item"].startswith(f"side-{grid.crs.epsg}") and (made.image > 0).all()
    assert (made.image[1] == cut(sky, f"side-{grid.crs.epsg}", "B2", grid) - 1000).all()
    sky.items = [item for item in sky.items if item["id"] != f"side-{grid.crs.epsg}"]
    assert (chip(sky, at, size=48).image > 0).all()  # only the scene of the other side, projected across


def test_beyond_utm_and_where_nothing_was_seen_there_is_a_reason_instead(sky):
    item = sky.scene("one")
    assert chip(sky, (10, 86)) == chip(sky, (10, -86)) == stac.OUTSIDE
    assert chip(sky, (100, 20)) == stac.NO_SCENE
    item["properties"]["datetime"] = "2024-01-01T00:00:00Z"
    assert isinstance(chip(sky, period=("2024-01-01", "2024-01-02")), Chip)
    assert chip(sky, period=("2023-01-01", "2024-01-01")) == stac.NO_SCENE  # the last day is excluded


# --- the offset ---------------------------------------------------------------------------------------

APPLIED, OLD = {"earthsearch:boa_offset_applied": True}, {"s2:processing_baseline": "02.14"}


@pytest.mark.parametrize(
    "carried, properties, raster, rule",
    [
        (0, {}, (0.0001, 0), "raster:bands"),
        (0, APPLIED, (0.0001, -0.1), "boa_offset_applied"),  # both: taking it off would be once too often
        (0, OLD, None, "processing_baseline"),
        (0, {}, (0.0001, -0.1), "pixels against raster:bands"),  # as some items of 2022 and 2025 are
        (1000, APPLIED, (0.0001, -0.1), "pixels against boa_offset_applied"),
        (1000, OLD, None, "pixels against processing_baseline"),
    ],
)
def test_the_offset_is_taken_off_once_whatever_the_metadata_say(sky, carried, properties, raster, rule):
    sky.scene("one", offset=carried, properties=properties, raster=raster)
    made = chip(sky, period=("2017-01-01", "2025-01-01"))
    assert (made.image[1] == cut(sky, "one", "B2", chip_grid(*HERE, 32)) - carried).all()
    assert made.columns["offset_rule"] == rule and made.columns["offset_removed"] == carried


@pytest.mark.parametrize("day, baseline, carried", [("2021-06-01", "05.10", 1000), ("2024-06-01", 3.01, 0)])
def test_the_baseline_counts_and_not_the_date_where_bright_pixels_leave_a_doubt(sky, day, baseline, carried):
    properties = {"s2:processing_baseline": baseline}
    sky.scene("one", day=day, offset=carried, spectrum=SAND, scl=5, properties=properties, raster=None)
    made = chip(sky, period=("2017-01-01", "2025-01-01"))
    assert made.columns["offset_removed"] == carried and made.columns["offset_rule"] == "processing_baseline"


def test_stac_1_1_writes_the_offset_elsewhere_and_one_of_another_kind_is_not_guessed_at(sky):
    item = sky.scene("one", raster=None)
    for asset in item["assets"].values():
        asset["bands"] = [{"name": "x", "raster:scale": 0.0001, "raster:offset": -0.1}]
    assert declared_offset(pystac.Item.from_dict(item)) == (1000, "raster:bands")
    for asset in item["assets"].values():
        asset |= {"bands": [{"name": "x"}], "raster:scale": 0.0001, "raster:offset": 0}
    assert declared_offset(pystac.Item.from_dict(item)) == (0, "raster:bands")
    for scale, offset in ((0.0001, -0.2), (0.0002, -0.1), (0, -0.1), ("1", "x"), (0.0001, -1e308)):
        item["assets"]["blue"] |= {"raster:scale": scale, "raster:offset": offset}
        with pytest.raises(ValueError):
            declared_offset(pystac.Item.from_dict(item))
    assert chip(sky) == stac.UNCLEAR
    sky.scene("none", properties={"s2:processing_baseline": None}, raster=None)
    with pytest.raises(ValueError):
        declared_offset(pystac.Item.from_dict(sky.items[-1]))


def test_a_bright_scene_whose_pixels_only_cast_doubt_is_passed_over_for_the_next(sky):
    sky.scene("doubt", spectrum=SAND, scl=5, properties=APPLIED, cloud=0)
    assert chip(sky) == stac.UNCLEAR
    sky.scene("sure", day="2024-08-01", spectrum=SAND, scl=5, cloud=1)
    made = chip(sky)
    assert made.columns["item"] == "sure" and made.columns["offset_removed"] == 1000


def clouds(share, kind=9):
    """Classes of a scene whose western part is cloud; the chip of 320 m is in its middle."""
    n, half = EDGE // 20, 8
    classes = np.full((n, n), 4)
    classes[:, : round(n / 2 - half + 2 * half * share)] = kind
    return classes


def test_the_scene_that_is_clearest_over_the_chip_is_taken_not_the_one_with_the_fewest_clouds(sky):
    sky.scene("hidden", day="2024-05-01", cloud=1, scl=clouds(0.5), seed=1)
    for kind in (3, 10):
        sky.scene(f"kind{kind}", day=f"2024-05-{kind:02d}", cloud=0, scl=kind)  # shadow and cirrus
    sky.scene("half", shift=(EDGE / 2, 0), cloud=0)  # ends in the chip
    assert chip(sky) == stac.CLOUDY
    sky.scene("clear", day="2024-06-01", cloud=40, seed=2)
    sky.scene("cloudless", day="2024-07-02", cloud=60, seed=3)
    sky.scene("overcast", day="2024-08-01", cloud=95, seed=4)
    made = chip(sky)
    assert made.columns["item"] == "clear" and made.date == "2024-06-01"
    assert sky.searches[-1]["token"] == "4"  # the third page


def test_the_median_is_that_of_the_clear_views(sky, monkeypatch):
    masks = [4, clouds(0.5), 4, clouds(0.25, kind=3), 4, 9]
    for n, mask in enumerate(masks):
        sky.scene(f"v{n}", day=f"2024-0{n + 1}-01", cloud=n, scl=mask, seed=n, spectrum=PLANTS + 40 * n)
    grid, views = chip_grid(*HERE, 32), []
    for n, mask in enumerate(masks[:5]):
        view = cut(sky, f"v{n}", "B4", grid) - 1000.0
        if not np.isscalar(mask):
            _, west, north = sky.truth[f"v{n}"]["B4"]
            col, row = (int(grid.transform.c) - west) // 10, (north - int(grid.transform.f)) // 10
            view[np.kron(mask, np.ones((2, 2)))[row : row + 32, col : col + 32] != 4] = np.nan
        views.append(view)
    assert sorted(set((~np.isnan(views)).sum(0).ravel())) == [3, 4, 5]
    made = chip(sky, method="median")
    assert (made.image[3] == np.rint(np.nanmedian(views, axis=0))).all()
    assert made.date == "" and made.columns["item"].count(";") == 4 and made.columns["cloud_share"] == 0
    monkeypatch.setattr(stac, "MIN_VIEWS", 4)
    assert chip(sky, method="median") == stac.CLOUDY  # a quarter has three views only


POINTS = np.array([[5.5, 47.0], [5.502, 47.001], [100.0, 20.0], [5.498, 46.999], [10.0, 88.0], [5.5005, 47.0]])
SEARCH, BLUE = "/v1/search", "/one/B2.tif"


def make(sky, out, where=POINTS, **options):
    return from_stac(out, where, **{"url": f"{sky.url}/v1", "period": YEAR, "size": 32, "workers": 1} | options)


def test_a_store_of_chips_says_where_they_are_from_and_what_was_left_out(sky, tmp_path):
    sky.scene("one")
    store = make(sky, tmp_path / "store")
    assert np.allclose(store.lonlat, POINTS[[0, 1, 3, 5]]) and check_store(store.path)
    assert store.column("item").tolist() == ["one"] * 4 and (store.column("offset_removed") == 1000).all()
    assert store.manifest["made"]["left_out"] == {stac.NO_SCENE: 1, stac.OUTSIDE: 1}
    assert "modified Copernicus Sentinel data" in store.column("license")[0]
    assert all("geonb/" in request.headers["User-Agent"] for request in sky.server.seen if request.path == SEARCH)


def test_one_command_puts_real_chips_in_the_place_of_the_simulated_ones_of_the_sample(sky, tmp_path, monkeypatch):
    base = make_atlas(tmp_path / "sample", places=20, progress=False)
    row = int(np.flatnonzero(abs(base.lonlat[:, 1]) < 60)[0])
    sky.scene("one", tuple(base.lonlat[row]))
    monkeypatch.setitem(from_stac.__kwdefaults__, "url", f"{sky.url}/v1")
    out = tmp_path / "real"
    assert main(["data", "sentinel2", "stac", "--store", str(base.path), "--period", *YEAR, "--size", "32", "--out", str(out)]) == 0
    store = PlaceStore.open(out)
    assert check_store(out) and np.flatnonzero(store.has("sentinel2")).tolist() == [row]
    assert not store.simulated("sentinel2") and store.simulated("text") and not store.simulated("landscape")
    grid = chip_grid(*base.lonlat[row], 32)
    assert (store.images("sentinel2", [row])[0, 1] == cut(sky, "one", "B2", grid) - 1000).all()
    rows = np.arange(len(base))
    assert (store.images("landscape", rows) == base.images("landscape", rows)).all() and (store.lonlat == base.lonlat).all()
    texts = np.flatnonzero(base.has("text"))
    assert store.texts(texts) == base.texts(texts)
    gone = {"ndvi_mean", "water_share", "snow_share", "built_share", "season_day", "scene", "field_pattern"}
    assert set(base.columns) - set(store.columns) == gone and not gone & set(store.facts)
    assert store.column("cloud_share")[row] == 0 and np.isnan(store.column("cloud_share")).sum() == len(base) - 1
    assert "They replace the simulated Sentinel-2" in (out / "datacard.md").read_text("utf-8")


def test_a_wrong_option_is_refused_before_anything_is_asked(sky, tmp_path):
    for options in ({"period": ("2024-01-01", "2024-01-01")}, {"method": "best"}, {"size": 8}):
        with pytest.raises(ValueError):
            make(sky, tmp_path / "store", **options)
    assert not sky.server.seen and not list(tmp_path.iterdir())


def test_after_a_fault_that_passes_the_store_is_the_same(sky, tmp_path):
    sky.scene("one")
    undisturbed = make(sky, tmp_path / "a" / "store", POINTS[:1])
    refusals = [{"status": 502}, {"status": 429, "headers": {"Retry-After": "0"}}]
    sky.server.tricks = {BLUE: [{"status": 429}, {"status": 503}], SEARCH: refusals}
    assert tree(make(sky, tmp_path / "b" / "store", POINTS[:1]).path) == tree(undisturbed.path)
    assert not sky.server.tricks[BLUE] and not sky.server.tricks[SEARCH]


@pytest.mark.parametrize("body", [b"[]", b"<html>", b'{"features": 3}', b'{"features": [{}]}', b'{"features": [1]}'])
def test_an_answer_of_another_shape_names_the_catalogue(sky, tmp_path, body):
    sky.server.tricks = {SEARCH: [{"status": 200, "body": body}]}
    with pytest.raises(ValueError, match="/v1: the answer cannot be used"):
        make(sky, tmp_path / "store")


def test_a_scene_with_metadata_of_another_shape_is_passed_over(sky):
    item = sky.scene("one")
    for odd in (3, [3], [[]], [{"offset": [1]}], {"a": 1}):
        for asset in item["assets"].values():
            asset["raster:bands"] = odd
        assert chip(sky) in (stac.UNCLEAR, stac.BROKEN), odd


@pytest.mark.parametrize("damage", [lambda data: None, lambda data: data[:500]])
def test_a_scene_whose_files_are_gone_or_damaged_is_passed_over(sky, damage):
    sky.scene("one", cloud=0)
    data = damage(sky.files.pop(BLUE))
    if data is not None:
        sky.files[BLUE] = data
    assert chip(sky) == stac.BROKEN
    sky.scene("two", day="2024-08-01", cloud=1)
    assert chip(sky).columns["item"] == "two"


def test_an_address_that_is_not_https_is_never_opened(sky):
    for href in (
        "file:///etc/passwd", "/etc/passwd", "/vsizip//vsicurl/https://example.org/a.zip", "http://example.org/B02.tif",
        "s3://bucket/x.tif", "https:///x", "data:,x", "vrt://https://example.org/x.tif", "https://[::1", None,
    ):  # fmt: skip
        assert not stac.allowed(href)
    assert stac.allowed("https://example.org/x.tif")
    sky.scene("one", cloud=0)["assets"]["blue"]["href"] = "file:///etc/passwd"
    assert chip(sky) == stac.NO_SCENE
