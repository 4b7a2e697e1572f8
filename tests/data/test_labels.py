"""Label tables: right values at known points, and files that are cut, changed, hostile or absent.

Servers are on the loopback interface, files are made here in the formats of the true ones.
"""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
import zipfile
from dataclasses import replace
from email.utils import formatdate
from types import SimpleNamespace

import numpy as np
import pytest

from geonb.data import download
from geonb.data.download import DownloadError
from geonb.data.sources import labels
from geonb.data.sources.labels import (
    LOCK,
    TABLES,
    LabelError,
    LabelsAbsent,
    cache_folder,
    download_labels,
    fetch,
    load_labels,
)
from geonb.evaluation.tasks import SCALINGS

rasterio = pytest.importorskip("rasterio")
pyogrio = pytest.importorskip("pyogrio")
shapely = pytest.importorskip("shapely")


# --- files in the true formats ------------------------------------------------------------------------


def tif(values, west=-180.0, north=90.0, step=10.0, nodata=None, crs="EPSG:4326", **options):
    """A GeoTIFF of values (rows, columns)."""
    values = np.asarray(values)
    with rasterio.MemoryFile() as memory:
        with memory.open(
            driver="GTiff", height=values.shape[0], width=values.shape[1], count=1, dtype=values.dtype, crs=crs,
            transform=rasterio.transform.from_origin(west, north, step, step), nodata=nodata, **options,
        ) as grid:  # fmt: skip
            grid.write(values, 1)
        return memory.read()


def zipped(members, **options):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)  # without the time of day
    return out.getvalue()


def shapefile(tmp_path, name, fields, shapes, crs="EPSG:4326", inside=""):
    """A zipped shapefile, as Natural Earth and RESOLVE publish them."""
    folder = tmp_path / f"shp-{name}"
    folder.mkdir()
    pyogrio.raw.write(
        folder / f"{name}.shp",
        geometry=shapely.to_wkb(shapes),
        field_data=[np.array(values, dtype=object) for values in fields.values()],
        fields=list(fields),
        geometry_type="MultiPolygon",
        crs=crs,
        promote_to_multi=True,
        encoding="UTF-8",
    )
    return zipped({inside + file.name: file.read_bytes() for file in sorted(folder.iterdir())})


HOUSES = "-122.230000,37.880000,41,880,129,322,126,8.3252,452600\n-118.3,34.1,20,500,100,900,90,2.5,500001\n"


def houses(text=HOUSES, name="CaliforniaHousing/cal_housing.data"):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for member, data in (("CaliforniaHousing/cal_housing.domain", b"longitude: continuous."), (name, text.encode())):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


# --- a server that misbehaves as told -----------------------------------------------------------------


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True


@pytest.fixture
def server():
    """Serves ``server.files``; ``server.plan`` has one trick for each of the next requests; ``server.seen`` the rest."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            here = self.server
            here.seen.append(dict(self.headers))
            trick = here.plan.pop(0) if here.plan else {}
            data = here.files.get(self.path)
            if "status" in trick or data is None:
                self.send_response(trick.get("status", 404))
                for name, value in trick.get("headers", {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            tag = trick.get("etag", f'"{hashlib.md5(data).hexdigest()}"')
            start = 0
            found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if found and self.headers.get("If-Range") == tag:
                start = int(found[1])
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            else:
                self.send_response(200)
            self.send_header("ETag", tag)
            if trick.get("length", True):
                self.send_header("Content-Length", str(trick.get("declare", len(data) - start)))
            self.end_headers()
            self.wfile.write(data[start : trick.get("cut", len(data))])

    here = Server(("127.0.0.1", 0), Handler)
    here.files, here.plan, here.seen = {}, [], []
    thread = threading.Thread(target=here.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield here
    here.shutdown()
    here.server_close()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    waits = []
    monkeypatch.setattr(download, "_sleep", waits.append)
    for name in ("no_proxy", "NO_PROXY"):  # the loopback interface is asked itself
        monkeypatch.setenv(name, "127.0.0.1")
    return waits


def served(server, name, data, **changes):
    """A table whose file a server has."""
    table = TABLES[name]
    server.files[f"/{table.file}"] = data
    url = f"http://127.0.0.1:{server.server_port}/{table.file}"
    return replace(table, **{"urls": (url,), "sha256": "", **changes})


def load(table, tmp_path, **options):
    return load_labels(table, cache=tmp_path / "cache", progress=False, **options)


WORLD = np.arange(18 * 36, dtype=np.float32).reshape(18, 36) / 100
POINTS = [[-175, 85], [-180, 90], [180, -90], [0.1, 0.1], [-0.1, -0.1]]


def elevations(values=WORLD, **options):
    return zipped({"wc2.1_10m_elev.tif": tif(values, **options)})


# --- the tables ---------------------------------------------------------------------------------------


def test_every_table_says_where_it_is_from_and_is_scaled_as_tasks_are():
    assert set(TABLES) == {
        "air_temperature", "precipitation", "elevation", "population_density", "biome", "ecoregion", "country",
        "california_housing", "night_lights",
    }  # fmt: skip
    for name, table in TABLES.items():
        assert table.name == name and table.licence and table.citation and table.source
        assert all(url.startswith("https://") for url in table.urls)
        assert table.kind in ("regression", "classification") and bool(table.units) == (table.kind == "regression")
        assert bool(table.sha256) == bool(table.sha256_source)
        assert re.fullmatch("([0-9a-f]{64})?", table.sha256) and "/" not in table.file
        assert table.scaling in SCALINGS and (table.scaling == "none" or table.kind == "regression")


# --- right values -------------------------------------------------------------------------------------


def test_a_grid_gives_the_value_of_the_cell_and_nothing_where_it_has_none(server, tmp_path):
    values = WORLD.copy()
    values[3, 4], values[3, 5], values[3, 6] = -32768, 12_000, 0
    found = load(
        served(server, "elevation", elevations(values, nodata=-32768)), tmp_path,
        points=[*POINTS, [-135, 55], [-125, 55], [-115, 55]],
    )  # fmt: skip
    expected = [WORLD[0, 0], WORLD[0, 0], WORLD[17, 0], WORLD[8, 18], WORLD[9, 17], np.nan, np.nan, 0.0]
    assert found.values == pytest.approx(expected, nan_ok=True)
    assert found.known.tolist() == [True] * 5 + [False, False, True]
    assert (found.name, found.units, found.scaling, found.kind) == ("elevation", "m", "none", "regression")
    assert found.sha256 == hashlib.sha256(server.files["/wc2.1_10m_elev.zip"]).hexdigest()
    assert "WorldClim" in found.source and "Fick" in found.citation and found.licence


def test_temperature_and_rain_share_one_file(server, tmp_path):
    both = zipped({
        "wc2.1_10m_bio_1.tif": tif(WORLD, nodata=-3.4e38), "wc2.1_10m_bio_12.tif": tif(WORLD * 100),
    })  # fmt: skip
    points = [[5, 5]]
    temperature = load(served(server, "air_temperature", both), tmp_path, points=points)
    rain = load(served(server, "precipitation", both), tmp_path, points=points)
    assert rain.values == pytest.approx(temperature.values * 100) and len(server.seen) == 1


@pytest.mark.parametrize("options", [{}, {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"}])
def test_blocks_of_any_shape_and_grids_of_a_part_of_the_world_are_read(server, tmp_path, options):
    rng = np.random.default_rng(0)
    grid = rng.integers(0, 64, (140, 360), dtype=np.uint8)  # 75 N to 65 S, as the night lights
    lights = served(server, "night_lights", tif(grid, north=75, step=1, nodata=0, **options))
    points = np.stack([rng.uniform(-180, 180, 500), rng.uniform(-90, 90, 500)], 1)
    found = load(lights, tmp_path, points=points).values
    inside = (points[:, 1] <= 75) & (points[:, 1] > -65)
    assert np.isnan(found[~inside]).all() and 50 < (~inside).sum() < 450
    row, column = np.floor(75 - points[inside, 1]).astype(int), np.floor(points[inside, 0] + 180).astype(int)
    assert (found[inside] == grid[row, column]).all()  # dark (0) is a value, though the file calls it no data


def test_inhabitants_are_divided_by_the_area_of_their_cell(server, tmp_path):
    data = zipped({TABLES["population_density"].member: tif(np.full((18, 36), 1000.0), nodata=-200)})
    found = load(served(server, "population_density", data), tmp_path, points=[[5, 5], [5, 65], [5, -65]]).values
    equator = 1000 / ((10 * 111.195) ** 2 * np.cos(np.radians(5)))  # a cell of 10 degrees
    assert found[0] == pytest.approx(equator, rel=2e-3)
    assert found[1] == pytest.approx(found[2]) and found[1] / found[0] == pytest.approx(
        np.cos(np.radians(5)) / np.cos(np.radians(65)), rel=1e-9
    )


def test_polygons_give_their_field_and_none_outside(server, tmp_path):
    box = shapely.box
    two = shapely.MultiPolygon([box(20, 0, 30, 10), box(40, 0, 50, 10)])
    ring = shapely.Polygon(box(-30, -30, -10, -10).exterior.coords, [box(-25, -25, -15, -15).exterior.coords])
    fields = {"ECO_NAME": ["Côte", "Twin", "Ring", "Rock and Ice"], "BIOME_NAME": ["Forest", "Tundra", "Desert", "N/A"]}
    data = shapefile(tmp_path, "Ecoregions2017", fields, [box(0, 0, 10, 10), two, ring, box(60, 60, 70, 70)], inside="a/")
    points = [[5, 5], [25, 5], [45, 5], [35, 5], [-12, -12], [-20, -20], [65, 65]]
    ecoregion = load(served(server, "ecoregion", data), tmp_path, points=points)
    biome = load(served(server, "biome", data), tmp_path, points=points)
    assert ecoregion.values.tolist() == ["Côte", "Twin", "Twin", None, "Ring", None, "Rock and Ice"]
    assert biome.values.tolist() == ["Forest", "Tundra", "Tundra", None, "Desert", None, None]
    assert biome.known.tolist() == [True, True, True, False, True, False, False] and biome.kind == "classification"


def test_more_polygons_than_are_read_at_once(server, tmp_path, monkeypatch):
    monkeypatch.setattr(labels, "FEATURES_AT_ONCE", 7)
    west = np.arange(-180, 180, 10)
    shapes = [shapely.box(w, -60, w + 10, 60) for w in west]
    data = shapefile(tmp_path, "ne_10m_admin_0_countries", {"ADMIN": [f"Land {w}" for w in west]}, shapes)
    country = load(served(server, "country", data), tmp_path, points=np.stack([west + 5, np.zeros(36)], 1))
    assert country.values.tolist() == [f"Land {w}" for w in west]


def test_houses_have_their_own_positions(server, tmp_path):
    table = served(server, "california_housing", houses())
    found = load(table, tmp_path)
    assert found.lonlat.tolist() == [[-122.23, 37.88], [-118.3, 34.1]] and found.values.tolist() == [452600, 500001]
    with pytest.raises(ValueError, match="has its own positions; leave points out"):
        load(table, tmp_path, points=[[0, 0]])


def test_points_on_land_are_taken_without_points(server, tmp_path):
    table = served(server, "elevation", elevations())
    found, again = load(table, tmp_path, n=50, seed=3), load(table, tmp_path, n=50, seed=3)
    assert found.lonlat.shape == (50, 2) and (found.lonlat == again.lonlat).all() and found.known.all()
    with pytest.raises(ValueError, match="points: row 0: .* out of range"):
        load(table, tmp_path, points=[[0, 91]])


# --- files that are not what they should be -----------------------------------------------------------


BAD = {
    "is not in degrees": ("elevation", lambda _: elevations(crs="EPSG:3857")),
    "0 members are called wc2.1_10m_elev.tif": ("elevation", lambda _: zipped({"other.tif": b"x"})),
    "2 members are called": ("elevation", lambda _: zipped({f"{a}/wc2.1_10m_elev.tif": b"x" for a in "ab"})),
    "the grid cannot be read": ("elevation", lambda _: zipped({"wc2.1_10m_elev.tif": b"<VRTDataset/>"})),
    "not a whole zip file": ("elevation", lambda _: elevations()[:-40]),
    "is no shapefile": ("country", lambda _: zipped({f"{TABLES['country'].member}{e}": b"x" for e in (".shp", ".shx", ".dbf")})),
    "no field 'ADMIN'; there are NAME": (
        "country", lambda t: shapefile(t, TABLES["country"].member, {"NAME": ["a"]}, [shapely.box(0, 0, 1, 1)]),
    ),
    "the polygons are not in degrees": (
        "country", lambda t: shapefile(t, TABLES["country"].member, {"ADMIN": ["a"]}, [shapely.box(0, 0, 5000, 1)]),
    ),
    "no CaliforniaHousing/cal_housing.data in it": ("california_housing", lambda _: houses(name="../cal_housing.data")),
    "8 columns, not 9": ("california_housing", lambda _: houses("1,2,3,4,5,6,7,8\n")),
    "cannot be read": ("california_housing", lambda _: houses()[:-30]),
    "columns look swapped": ("california_housing", lambda _: houses("37,-122,1,1,1,1,1,1,1\n")),
    "begins with b'<htm'": ("night_lights", lambda _: b"<html>Please sign in</html>"),
}  # fmt: skip


@pytest.mark.parametrize("message", BAD)
def test_a_file_that_is_something_else_is_refused_with_its_name(server, tmp_path, message):
    name, make = BAD[message]
    table = served(server, name, make(tmp_path))
    options = {} if name == "california_housing" else {"points": [[5.0, 0.5]]}
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load(table, tmp_path, **options)
    assert table.file in str(caught.value)
    assert not [p for p in (tmp_path / "cache").iterdir() if p.name.startswith(".unpacked")]


def test_member_names_that_climb_out_of_the_folder_are_harmless(server, tmp_path):
    names = ["../../evil.txt", f"{tmp_path}/evil.txt", "..\\..\\evil.txt", "C:/evil.txt"]
    data = zipped({**{name: b"evil" for name in names}, "../../deep/wc2.1_10m_elev.tif": tif(WORLD)})
    assert load(served(server, "elevation", data), tmp_path, points=[[5, 5]]).known.all()
    found = {p.name for p in tmp_path.rglob("*") if p.is_file()} | set(os.listdir(tmp_path.parent))
    assert not [name for name in found if "evil" in name or "deep" in name]


def test_what_is_too_large_is_refused_when_it_is_declared_and_when_it_is_not(server, tmp_path):
    table = served(server, "elevation", elevations())
    server.plan = [{"declare": 10**15}]
    with pytest.raises(LabelError, match="1,000,000,000,000,000 bytes or more, but at most"):
        load(table, tmp_path)
    server.plan = [{"length": False}]
    with pytest.raises(LabelError, match="bytes or more, but at most 100 are"):
        load(replace(table, max_bytes=100, sha256="0" * 64), tmp_path)
    assert [p.name for p in (tmp_path / "cache").iterdir() if not p.name.endswith(".flock")] == []
    with pytest.raises(LabelError, match="wc2.1_10m_elev.tif has 2,9.. bytes, at most 1,000 are expected"):
        load(replace(table, max_member_bytes=1000), tmp_path)
    bomb = served(server, "california_housing", houses("0" * 10_000_000), max_member_bytes=1_000_000)
    with pytest.raises(LabelError, match="more than 1,000,000 bytes when unpacked"):
        load(bomb, tmp_path)


def test_a_member_that_is_longer_than_it_declares_is_refused(server, tmp_path):
    data = bytearray(elevations(np.random.default_rng(0).random((180, 360))))
    for signature, at in ((b"PK\3\4", 22), (b"PK\1\2", 24)):  # uncompressed size, in both headers
        here = data.index(signature) + at
        data[here : here + 4] = (50).to_bytes(4, "little")
    with pytest.raises(LabelError, match="not a whole zip file|cannot be read"):
        load(served(server, "elevation", bytes(data)), tmp_path)


# --- download -----------------------------------------------------------------------------------------


def test_a_cut_connection_is_resumed_where_it_was_cut(server, tmp_path, no_waiting):
    data = elevations(np.random.default_rng(0).random((180, 360)))
    table = served(server, "elevation", data)
    server.plan = [{"cut": 1000}, {"cut": 5000}]
    path, digest = fetch(table, tmp_path / "cache", progress=False)
    assert path.read_bytes() == data and digest == hashlib.sha256(data).hexdigest()
    assert [seen.get("Range") for seen in server.seen] == [None, "bytes=1000-", "bytes=5000-"]
    assert no_waiting == [1.0, 2.0] and not list((tmp_path / "cache").glob("*.partial*"))


def test_a_file_that_changed_between_two_tries_is_taken_from_its_beginning(server, tmp_path):
    table = served(server, "elevation", elevations())
    server.plan = [{"cut": 100, "etag": '"old"'}]
    path, _ = fetch(table, tmp_path / "cache", progress=False)
    assert server.seen[1]["If-Range"] == '"old"' and path.read_bytes() == elevations()


def test_a_weak_name_is_not_gone_on_from(server, tmp_path):
    table = served(server, "elevation", elevations())
    server.plan = [{"cut": 100, "etag": 'W/"weak"'}]
    path, _ = fetch(table, tmp_path / "cache", progress=False)
    assert "Range" not in server.seen[1] and path.read_bytes() == elevations()


def test_a_later_run_goes_on_from_what_an_earlier_one_left(server, tmp_path):
    table = served(server, "elevation", elevations())
    server.plan = [{"cut": 200}] + [{"status": 500}] * 4
    with pytest.raises(LabelsAbsent, match="HTTP 500 .*\n0.0 MB are there; the next try goes on") as caught:
        fetch(table, tmp_path / "cache", progress=False)
    assert "after 5 attempts" in str(caught.value)
    path, _ = fetch(table, tmp_path / "cache", progress=False)
    assert server.seen[-1]["Range"] == "bytes=200-" and path.read_bytes() == elevations()


@pytest.mark.parametrize("header, low, high", [("7", 7, 7), (formatdate(10, usegmt=True), 0, 1), ("soon", 1, 1)])
def test_a_busy_server_is_asked_again_when_it_says(server, tmp_path, no_waiting, header, low, high):
    table = served(server, "elevation", elevations())
    server.plan = [{"status": 503, "headers": {"Retry-After": header}}]
    fetch(table, tmp_path / "cache", progress=False)
    assert len(no_waiting) == 1 and low <= no_waiting[0] <= high


def test_a_server_that_wants_to_be_left_alone_for_long_is(server, tmp_path, no_waiting):
    server.plan = [{"status": 429, "headers": {"Retry-After": "86400"}}]
    with pytest.raises(LabelsAbsent, match="HTTP 429 .*it asks to come back in 86,400 s"):
        fetch(served(server, "elevation", elevations()), tmp_path / "cache", progress=False)
    assert no_waiting == [] and len(server.seen) == 1


def test_the_next_mirror_is_tried(server, tmp_path):
    table = served(server, "elevation", elevations())
    here = f"http://127.0.0.1:{server.server_port}"
    server.files["/login"] = b"<html>Please sign in</html>"
    table = replace(table, urls=("file:///etc/passwd", f"{here}/none", "http://127.0.0.1:9/x", f"{here}/login", *table.urls))
    assert fetch(table, tmp_path / "cache", progress=False)[0].read_bytes() == elevations()


def test_without_a_network_the_message_says_which_file_goes_where(tmp_path, monkeypatch):
    monkeypatch.setenv("GEONB_LABELS", str(tmp_path / "mine"))
    table = replace(TABLES["elevation"], urls=("http://127.0.0.1:9/wc2.1_10m_elev.zip",))
    with pytest.raises(LabelsAbsent) as caught:
        load_labels(table, progress=False)
    message = str(caught.value)
    assert "'elevation' are not here" in message and "Connection refused" in message
    assert str(tmp_path / "mine" / "wc2.1_10m_elev.zip") in message and table.urls[0] in message
    assert "GEONB_LABELS" in message and table.licence in message
    (tmp_path / "mine" / table.file).write_bytes(elevations())  # by hand
    assert load_labels(table, points=[[5, 5]], progress=False).known.all()


def test_a_length_that_nobody_tells_is_only_taken_with_a_checksum(server, tmp_path):
    table = served(server, "elevation", elevations())
    server.plan = [{"length": False}]
    with pytest.raises(LabelsAbsent, match="does not say how long the file is"):
        fetch(table, tmp_path / "cache", progress=False)
    server.plan = [{"length": False}]
    known = replace(table, sha256=hashlib.sha256(elevations()).hexdigest())
    assert fetch(known, tmp_path / "cache", progress=False)[1] == known.sha256


def test_a_redirect_to_an_address_without_encryption_is_not_followed():
    request = download.Request("https://example.org/a")
    with pytest.raises(download.Failed, match="without encryption"):
        download._SameOrSafer().redirect_request(request, None, 302, "", {}, "http://example.org/a")


# --- checksums ----------------------------------------------------------------------------------------


def test_a_wrong_checksum_is_refused_and_nothing_is_kept(server, tmp_path):
    table = served(server, "elevation", elevations(), sha256="0" * 64, sha256_source="a paper")
    with pytest.raises(LabelError, match="nothing was kept(.|\n)*published: a paper"):
        load(table, tmp_path)
    assert [p.name for p in (tmp_path / "cache").iterdir() if not p.name.endswith(".flock")] == []
    (tmp_path / "cache" / table.file).write_bytes(b"by hand")
    with pytest.raises(LabelError, match="is not the file it should be(.|\n)*0000"):
        load(table, tmp_path)


def test_the_first_copy_is_trusted_and_a_changed_one_refused(server, tmp_path, caplog):
    cache = tmp_path / "cache"
    table = served(server, "elevation", elevations())
    path, digest = fetch(table, cache, progress=False)
    assert "no checksum is published" in caplog.text and digest in caplog.text and LOCK in caplog.text
    assert (cache / f"{table.file}.sha256").read_text() == f"{digest}  {table.file}\n"
    entry = json.loads((cache / LOCK).read_text())["files"][table.file]
    assert entry["sha256"] == digest and entry["bytes"] == path.stat().st_size and entry["urls"] == list(table.urls)
    caplog.clear()
    fetch(table, cache, progress=False)
    assert not caplog.text and len(server.seen) == 1

    path.write_bytes(elevations(WORLD + 1))  # changed on the disk
    with pytest.raises(LabelError, match=f"SHA-256 expected: {digest} .*first copy, see {LOCK}"):
        load(table, tmp_path)
    path.unlink()
    server.files[f"/{table.file}"] = elevations(WORLD + 1)  # changed by its publisher
    with pytest.raises(LabelError, match="nothing was kept"):
        load(table, tmp_path)
    assert not path.exists()
    (cache / f"{table.file}.sha256").unlink()  # the lock alone holds
    with pytest.raises(LabelError, match="nothing was kept"):
        load(table, tmp_path)
    (cache / LOCK).unlink()  # trusted anew
    assert load(table, tmp_path, points=[[5, 5]]).known.all()


def test_a_folder_that_can_only_be_read_serves_files_with_a_known_checksum(server, tmp_path, monkeypatch, caplog):
    cache = tmp_path / "cache"
    cache.mkdir()
    data = elevations()
    table = served(server, "elevation", data, sha256=hashlib.sha256(data).hexdigest())
    (cache / table.file).write_bytes(data)

    def refused(path, *_):
        raise DownloadError(f"{path} cannot be written (Read-only file system); choose another folder")

    def elsewhere(**options):
        assert options["dir"] is None
        return temporary(**options)

    temporary = labels.tempfile.TemporaryDirectory
    monkeypatch.setattr(labels, "alone", refused)
    monkeypatch.setattr(labels.os, "access", lambda path, mode: False)
    monkeypatch.setattr(labels.tempfile, "TemporaryDirectory", elsewhere)
    assert load(table, tmp_path, points=[[5, 5]]).known.all()
    assert "its checksum is right, but was not kept" in caplog.text and list(cache.iterdir()) == [cache / table.file]
    unknown = replace(table, sha256="")
    with pytest.raises(LabelError, match="Read-only file system(.|\n)*No checksum is published"):
        load(unknown, tmp_path, points=[[5, 5]])
    monkeypatch.setattr(labels, "TABLES", {"elevation": unknown})
    assert "Read-only" in download_labels(cache=cache, progress=False)["elevation"]


def test_records_that_do_not_agree_or_cannot_be_read_are_refused(server, tmp_path):
    cache = tmp_path / "cache"
    table = served(server, "elevation", elevations())
    path, _ = fetch(table, cache, progress=False)
    (cache / f"{table.file}.sha256").write_text("1" * 64)
    with pytest.raises(LabelError, match="do not agree"):
        fetch(table, cache, progress=False)
    (cache / f"{table.file}.sha256").unlink()
    for broken in ("{", "[]", '{"files": {"a": 1}}'):
        (cache / LOCK).write_text(broken)
        with pytest.raises(LabelError, match=f"{LOCK} cannot be read"):
            fetch(table, cache, progress=False)


def test_two_processes_download_once_and_agree(server, tmp_path):
    data = elevations(np.random.default_rng(0).random((180, 360)))
    table = served(server, "elevation", data)
    code = (
        "import sys, dataclasses\nfrom geonb.data.sources.labels import TABLES, fetch\n"
        "table = dataclasses.replace(TABLES['elevation'], urls=(sys.argv[1],))\n"
        "print(fetch(table, sys.argv[2], progress=False)[1])"
    )
    arguments = [sys.executable, "-c", code, table.urls[0], str(tmp_path / "cache")]
    running = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    digests = [process.communicate(timeout=60)[0].strip() for process in running]
    assert digests == [hashlib.sha256(data).hexdigest()] * 2 and len(server.seen) == 1


def test_several_tables_are_downloaded_and_one_that_is_absent_keeps_none_from_coming(
    server, tmp_path, monkeypatch, capsys
):
    bio = served(server, "air_temperature", zipped({"wc2.1_10m_bio_1.tif": tif(WORLD)}))
    tables = {
        "elevation": served(server, "elevation", elevations()),
        "night_lights": replace(TABLES["night_lights"], urls=("http://127.0.0.1:9/lights.tif",)),
        "biome": served(server, "biome", b"not this", sha256="0" * 64, sha256_source="a paper"),
        "air_temperature": bio,
        "precipitation": replace(TABLES["precipitation"], urls=bio.urls, sha256=""),
        "california_housing": served(server, "california_housing", houses()),
    }
    monkeypatch.setattr(labels, "TABLES", tables)
    cache = tmp_path / "cache"
    fetch("elevation", cache, progress=False)
    found = download_labels(cache=cache)
    assert list(found) == list(tables)
    assert found["elevation"] == "there" and found["california_housing"] == "downloaded"
    assert found["air_temperature"] == found["precipitation"] == "downloaded"  # one file, asked for once
    assert len(server.seen) == 4
    assert "Connection refused" in found["night_lights"] and "put it at" in found["night_lights"]
    assert "is not the file it should be" in found["biome"] and "a paper" in found["biome"]
    shown = capsys.readouterr().out
    for name, table in tables.items():
        assert f"{name}: {table.source}\n  licence: {table.licence}\n  cite: {table.citation}\n" in shown
    again = download_labels(["california_housing", "elevation"], cache, progress=False)
    assert again == {"california_housing": "there", "elevation": "there"} and not capsys.readouterr().out
    with pytest.raises(LabelError, match="unknown table 'rain'"):
        download_labels(["elevation", "rain"], tmp_path / "other")
    assert not (tmp_path / "other").exists() and len(server.seen) == 4


def test_a_full_disk_is_said_in_the_words_of_labels(server, tmp_path, monkeypatch):
    table = served(server, "elevation", elevations())
    with monkeypatch.context() as patch:
        patch.setattr(download.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
        with pytest.raises(LabelError, match="0 MB free, but 67 MB are needed; free some space or set GEONB_LABELS to"):
            fetch(table, tmp_path / "cache", progress=False)
        assert not (tmp_path / "cache" / table.file).exists()
    fetch(table, tmp_path / "cache", progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(download.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
        with pytest.raises(LabelError, match="0 MB free, but 67 MB are needed; free some space or set GEONB_LABELS to"):
            load(table, tmp_path, points=[[5, 5]])  # no room to unpack it


def test_the_folder_is_the_users_unless_told_otherwise(tmp_path, monkeypatch):
    monkeypatch.delenv("GEONB_LABELS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "geonb" / "labels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder().parts[-3:] == (".cache", "geonb", "labels")
    assert cache_folder(tmp_path / "x") == tmp_path / "x"
    with pytest.raises(LabelError, match="unknown table 'rain'; choose from air_temperature"):
        load_labels("rain")
