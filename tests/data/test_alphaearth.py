"""AlphaEarth embeddings from generated files of the published format, on the loopback interface."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faulty import serve
from hypothesis import given, settings
from hypothesis import strategies as st
from world import SMALL

from geonb.data import cog
from geonb.data import download as downloads
from geonb.data.download import DownloadError
from geonb.data.sources import alphaearth as aef
from geonb.data.sources.alphaearth import AlphaEarthError, add_alphaearth, alphaearth, dequantised
from geonb.data.store import write_store
from geonb.data.work import WorkError
from geonb.inference import read_embeddings

rasterio = pytest.importorskip("rasterio")
from rasterio.io import MemoryFile  # noqa: E402
from rasterio.transform import Affine  # noqa: E402
from rasterio.warp import transform, transform_bounds  # noqa: E402

SIDE = 256  # of a tile; the real ones have 8192


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cog, "_sleep", lambda seconds: None)
    monkeypatch.setattr(downloads, "_sleep", lambda seconds: None)


def quantised(vectors):
    return np.rint(np.sign(vectors) * np.sqrt(abs(vectors)) * 127.5).clip(-127, 127).astype(np.int8)


class Bucket:
    """Tiles, their index and the truth about them."""

    def __init__(self):
        self.files, self.rows, self.truth, self.url = {}, [], {}, ""

    def tile(self, epsg, west, north, year=2024, *, south_up=False, seed=0, mask=None, name=None, bands=64, **row):
        """A tile of 2.56 km with its overviews, band by band in blocks of 64 pixels."""
        rng = np.random.default_rng(seed)
        coarse = rng.normal(size=(64, 8, 8))
        vectors = np.kron(coarse, np.ones((32, 32))) + 0.3 * rng.normal(size=(64, SIDE, SIDE))
        numbers = quantised(vectors / np.linalg.norm(vectors, axis=0))
        if mask is not None:
            numbers[:, mask] = aef.NO_DATA
        zone = f"{epsg % 100}{'N' if epsg < 32700 else 'S'}"
        path = f"{year}/{zone}/{name or f'x{seed}g76fvpifuz9f08km-0000000000-0000000000'}.tiff"
        step = Affine(10, 0, west, 0, 10, north - 10 * SIDE) if south_up else Affine(10, 0, west, 0, -10, north)
        stored = numbers[:, ::-1] if south_up else numbers
        layout = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "zstd", "interleave": "band"}
        with MemoryFile() as memory:
            with memory.open(
                driver="GTiff", width=SIDE, height=SIDE, count=bands, dtype="int8", nodata=-128, crs=f"EPSG:{epsg}",
                transform=step, **layout,
            ) as out:  # fmt: skip
                out.write(stored[:bands])
            with rasterio.open(memory.name, "r+") as out:
                out.build_overviews([2, 4, 8, 16], rasterio.enums.Resampling.nearest)
            memory.seek(0)
            self.files[f"/annual/{path}"] = memory.read()
        box = transform_bounds(f"EPSG:{epsg}", "EPSG:4326", west, north - 10 * SIDE, west + 10 * SIDE, north)
        self.rows.append({
            "fid": len(self.rows), "path": f"gs://alphaearth_foundations/satellite_embedding/v1/annual/{path}",
            "year": year, "utm_zone": zone, "crs": f"EPSG:{epsg}", "wgs84_west": box[0], "wgs84_south": box[1],
            "wgs84_east": box[2], "wgs84_north": box[3], **row,
        })  # fmt: skip
        self.truth[path] = numbers, epsg, west, north
        return path

    def publish(self, drop=()):
        table = pa.table({name: [row[name] for row in self.rows] for name in self.rows[0] if name not in drop})
        out = pa.BufferOutputStream()
        pq.write_table(table, out, row_group_size=2)
        self.files["/annual/aef_index.parquet"] = out.getvalue().to_pybytes()

    def at(self, path, lonlat, footprint=0):
        """What the tile holds there, by plain indexing and averaging at full resolution."""
        numbers, epsg, west, north = self.truth[path]
        out = []
        x, y = transform("EPSG:4326", f"EPSG:{epsg}", *map(list, zip(*lonlat, strict=True)))
        for east, up in zip(x, y, strict=True):
            col, row, half = (east - west) / 10, (north - up) / 10, footprint / 20
            if half:
                cols = [c for c in range(SIDE) if abs(c + 0.5 - col) <= half]
                rows = [r for r in range(SIDE) if abs(r + 0.5 - row) <= half]
            else:
                cols, rows = [int(col)], [int(row)]
            pixels = numbers[:, rows][:, :, cols].reshape(64, -1).astype(float)
            pixels = pixels[:, pixels[0] != aef.NO_DATA]
            mean = (np.sign(pixels) * (pixels / 127.5) ** 2).mean(1)
            out.append(mean / np.linalg.norm(mean))
        return np.array(out, np.float32)


@pytest.fixture
def bucket():
    made = Bucket()
    with serve() as server:
        server.files, made.server, made.url = made.files, server, f"{server.url}/annual"
        yield made


def positions(epsg, west, north, n=12, seed=0):
    rng = np.random.default_rng(seed)
    x, y = west + rng.uniform(30, 2530, n), north - rng.uniform(30, 2530, n)
    return np.stack(transform(f"EPSG:{epsg}", "EPSG:4326", x.tolist(), y.tolist()), 1)


def read(bucket, lonlat, year=2024, **options):
    return alphaearth(np.array(lonlat), year, base_url=bucket.url, progress=False, **options)


# --- numbers ------------------------------------------------------------------------------------------


def test_numbers_mean_what_the_publisher_says():
    q = np.array([0, 127, -127, 64, -1, -128], np.int8)
    expected = [0, (127 / 127.5) ** 2, -((127 / 127.5) ** 2), (64 / 127.5) ** 2, -((1 / 127.5) ** 2), np.nan]
    assert np.allclose(dequantised(q), expected, equal_nan=True) and dequantised(q).dtype == np.float32


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_unit_vectors_survive_the_quantisation(seed):
    vector = np.random.default_rng(seed).normal(size=64)
    vector /= np.linalg.norm(vector)
    back = dequantised(quantised(vector))
    assert abs(np.linalg.norm(back) - 1) < 0.02 and back @ vector / np.linalg.norm(back) > 0.999


# --- positions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("south_up", [False, True])
def test_each_position_gets_the_pixel_under_it_however_the_file_is_stored(bucket, south_up):
    path = bucket.tile(32631, 500_000, 5_000_000, south_up=south_up)
    bucket.publish()
    lonlat = positions(32631, 500_000, 5_000_000)
    found = read(bucket, lonlat)
    assert found.shape == (12, 64) and found.dtype == np.float32
    assert np.allclose(found, bucket.at(path, lonlat), atol=1e-6)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    with MemoryFile(bucket.files[f"/annual/{path}"]) as memory, memory.open() as source:  # rasterio's own sampling
        assert (source.transform.e > 0) == south_up
        xy = transform("EPSG:4326", "EPSG:32631", *lonlat.T.tolist())
        sampled = np.array(list(source.sample(zip(*xy, strict=True))))
    assert np.allclose(found, dequantised(sampled) / np.linalg.norm(dequantised(sampled), axis=1)[:, None], atol=1e-6)


def test_places_of_one_block_are_read_together(bucket):
    bucket.tile(32631, 500_000, 5_000_000)
    bucket.publish()
    lonlat = positions(32631, 500_000, 5_000_000, n=200)
    read(bucket, lonlat[:1])
    one = len(bucket.server.seen)
    read(bucket, lonlat)
    assert len(bucket.server.seen) - one <= 16 * (one + 1)  # sixteen blocks, not 200 positions


@pytest.mark.parametrize("south_up", [False, True])
@pytest.mark.parametrize("footprint", [30, 95])
def test_the_mean_over_a_footprint_at_full_resolution(bucket, south_up, footprint, monkeypatch):
    monkeypatch.setattr(aef, "PIXELS_ACROSS", 10**6)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[100:130, 40:90] = True
    path = bucket.tile(32631, 500_000, 5_000_000, south_up=south_up, mask=mask)
    bucket.publish()
    lonlat = positions(32631, 500_000, 5_000_000, n=40)
    x, y = transform("EPSG:4326", "EPSG:32631", *lonlat.T.tolist())
    lonlat = lonlat[~mask[((5_000_000 - np.array(y)) // 10).astype(int), ((np.array(x) - 500_000) // 10).astype(int)]]
    assert np.allclose(read(bucket, lonlat, footprint_m=footprint), bucket.at(path, lonlat, footprint), atol=1e-5)


@pytest.mark.parametrize("south_up", [False, True])
def test_a_large_footprint_is_read_from_the_overviews(bucket, south_up):
    """These overviews were made by taking each second pixel, so the truth is known exactly."""
    path = bucket.tile(32631, 500_000, 5_000_000, south_up=south_up)
    bucket.publish()
    lonlat = positions(32631, 500_000, 5_000_000, n=30)
    x, y = transform("EPSG:4326", "EPSG:32631", *lonlat.T.tolist())
    inside = (np.array(x) > 500_330) & (np.array(x) < 502_230) & (np.array(y) < 4_999_670) & (np.array(y) > 4_997_770)
    lonlat = lonlat[inside]
    found = read(bucket, lonlat, footprint_m=640)
    with MemoryFile(bucket.files[f"/annual/{path}"]) as memory, memory.open(overview_level=3) as source:
        assert source.shape == (16, 16)  # 160 m
        pixels, step = dequantised(source.read()), source.transform
    for vector, east, up in zip(found, np.array(x)[inside], np.array(y)[inside], strict=True):
        centres_x = step.c + (np.arange(16) + 0.5) * step.a
        centres_y = step.f + (np.arange(16) + 0.5) * step.e
        part = pixels[:, abs(centres_y - up) <= 320][:, :, abs(centres_x - east) <= 320].reshape(64, -1)
        assert 9 <= part.shape[1] <= 25
        mean = part.mean(1)
        assert np.allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)
    sent = sum(len(part) for part in bucket.files.values())
    assert bucket.server.seen and sent > 3 * sum(
        int(r.headers["Range"].split("-")[1]) - int(r.headers["Range"][6:].split("-")[0]) for r in bucket.server.seen
        if "Range" in r.headers and "bytes=0-" not in r.headers["Range"]
    )  # fmt: skip


def test_masked_pixels_and_places_without_a_tile_have_no_embedding(bucket, caplog):
    mask = np.zeros((SIDE, SIDE), bool)
    mask[:, 128:] = True
    bucket.tile(32631, 500_000, 5_000_000, mask=mask)
    bucket.tile(32631, 500_000, 5_000_000, year=2023, seed=1)
    bucket.publish()
    x, y = [500_635.0, 501_905.0], [4_999_005.0, 4_999_005.0]
    lonlat = np.stack(transform("EPSG:32631", "EPSG:4326", x, y), 1)
    found = read(bucket, [*lonlat, (100.0, 10.0), (0.0, 90.0)])
    assert (~np.isnan(found).any(1)).tolist() == [True, False, False, False]
    assert "1 of 4 positions have no embedding: no data in the tile" in caplog.text
    assert "2 of 4 positions have no embedding: no tile of that year" in caplog.text
    other = read(bucket, lonlat, year=2023)
    assert not np.isnan(other).any() and not np.allclose(other[0], found[0])


def test_where_tiles_overlap_that_of_the_zone_is_asked_first_then_the_other(bucket):
    """At 6 degrees east, between zones 31 and 32; the tile of 31 is masked in part."""
    mask = np.zeros((SIDE, SIDE), bool)
    mask[:128] = True
    x, y = (round(v[0] / 10) * 10 for v in transform("EPSG:4326", "EPSG:32631", [5.99], [45.0]))
    mine = bucket.tile(32631, x - 1280, y + 1280, seed=1, mask=mask)
    x, y = (round(v[0] / 10) * 10 for v in transform("EPSG:4326", "EPSG:32632", [5.99], [45.0]))
    other = bucket.tile(32632, x - 1280, y + 1280, seed=2)
    bucket.publish()
    south, north = (5.99, 44.995), (5.99, 45.005)
    found = read(bucket, [south, north])
    assert np.allclose(found, [bucket.at(mine, [south])[0], bucket.at(other, [north])[0]], atol=1e-6)


@pytest.mark.parametrize("bounds", [(179.98, -179.97), (-180.0, 180.0)])
def test_a_tile_at_the_antimeridian_serves_both_sides(bucket, bounds):
    x, y = (round(v[0] / 10) * 10 for v in transform("EPSG:4326", "EPSG:32760", [180.0], [-17.0]))
    path = bucket.tile(32760, x - 1280, y + 1280, wgs84_west=bounds[0], wgs84_east=bounds[1])
    bucket.publish()
    sides = [(179.995, -17.0), (-179.995, -17.0), (180.0, -17.0), (-180.0, -17.0)]
    assert np.allclose(read(bucket, sides), bucket.at(path, sides), atol=1e-6)


# --- files --------------------------------------------------------------------------------------------


@pytest.fixture
def places(bucket, tmp_path):
    """A store over three tiles, with one place at sea."""
    lonlat = []
    for n, (epsg, west, north) in enumerate([(32631, 500_000, 5_000_000), (32733, 400_000, 7_000_000),
                                             (32619, 300_000, 4_500_000)]):  # fmt: skip
        bucket.tile(epsg, west, north, seed=n, south_up=n == 1)
        lonlat.append(positions(epsg, west, north, n=5, seed=n))
    bucket.publish()
    lonlat = np.concatenate([*lonlat, [(-30.0, 0.0)]])
    names = [f"p{i}" for i in range(len(lonlat))]
    return write_store(tmp_path / "places", places={"place_id": names, "lon": lonlat[:, 0], "lat": lonlat[:, 1]})


def add(bucket, store, out, **options):
    return add_alphaearth(store, out, 2024, base_url=bucket.url, progress=False, **options)


def test_the_file_is_geoparquet_with_its_attribution_and_reads_back_in_the_order_of_the_store(bucket, places, tmp_path):
    out = tmp_path / "aef.parquet"
    assert add(bucket, places, out, footprint_m=40) == {"embedded": 15, "no tile of that year": 1}
    assert not (tmp_path / "aef.parquet.work").exists()
    table = pq.read_table(out)
    assert table.column_names == ["place_id", "geometry", "embedding"] and len(table) == 15
    assert table["embedding"].type == pa.list_(pa.float32(), 64)
    meta = table.schema.metadata
    assert meta[b"attribution"].decode() == aef.ATTRIBUTION and meta[b"license"] == b"CC BY 4.0"
    assert json.loads(meta[b"made"])["left_out"] == {"no tile of that year": 1}
    assert json.loads(meta[b"made"])["year"] == 2024
    import geopandas

    assert np.allclose(geopandas.read_parquet(out).geometry.x, places.lonlat[:15, 0])
    vectors = read_embeddings(out, places)
    direct = read(bucket, places.lonlat, footprint_m=40)
    assert np.array_equal(vectors, direct, equal_nan=True) and np.isnan(vectors[15]).all()
    with pytest.raises(WorkError, match="exists already"):
        add(bucket, places, out)
    with pytest.raises(ValueError, match="a .parquet file"):
        add(bucket, places, tmp_path / "aef.csv")


def test_it_is_an_image_tower_in_training_and_a_competitor_in_the_evaluation(tmp_path, world):
    """Generated vectors in a file of that format, for a store of which some places have none."""
    from dataclasses import replace

    from geonb.evaluation.suite import _load_all
    from geonb.training import train

    store = world
    rng = np.random.default_rng(0)
    vectors = np.tanh(np.sin(np.radians(store.lonlat)) @ rng.normal(size=(2, 64))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    aef._write(tmp_path / "all.parquet", store, vectors, np.arange(len(store)), {"year": 2024})
    aef._write(tmp_path / "some.parquet", store, vectors, np.arange(0, len(store), 2), {"year": 2024})
    extra = {"alphaearth": read_embeddings(tmp_path / "some.parquet", store)}
    assert np.isnan(extra["alphaearth"][1]).all() and np.array_equal(extra["alphaearth"][0], vectors[0])
    config = replace(SMALL, modalities=("location", "alphaearth"))
    train("imagebind", store, tmp_path / "run", config, extra=extra, progress=False)
    models, others = _load_all({"run": tmp_path / "run", "AlphaEarth": tmp_path / "all.parquet"}, store)
    assert models["run"].config["modalities"] == ("location", "alphaearth")
    assert np.array_equal(others["AlphaEarth"], vectors)
    with pytest.raises(ValueError, match=f"no embedding for {len(store) // 2} of {len(store)} places"):
        _load_all([tmp_path / "some.parquet"], store)


# --- faults -------------------------------------------------------------------------------------------


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.mark.parametrize("trick", [{"status": 503}, {"cut": 500}, {"status": 200, "body": b"<html>"}, {"truncate": 9}])
def test_a_fault_that_passes_leaves_no_trace(bucket, places, tmp_path, trick):
    add(bucket, places, tmp_path / "a.parquet")
    file = next(iter(bucket.truth))
    bucket.server.tricks = {f"/annual/{file}": [{}, trick, {}, trick]}
    add(bucket, places, tmp_path / "b.parquet")
    assert not bucket.server.tricks[f"/annual/{file}"]
    assert digest(tmp_path / "a.parquet") == digest(tmp_path / "b.parquet")


def test_a_fault_that_stays_keeps_what_is_finished(bucket, places, tmp_path):
    add(bucket, places, tmp_path / "a.parquet")
    file = sorted(bucket.truth)[-1]
    bucket.server.tricks = {f"/annual/{file}": [{"status": 500}] * 6}
    with pytest.raises(WorkError, match=r"HTTP 500 .*\nWhat is finished is kept"):
        add(bucket, places, tmp_path / "b.parquet", workers=1)
    assert not (tmp_path / "b.parquet").exists()
    kept = len(list((tmp_path / "b.parquet.work").rglob("*.parquet")))
    assert kept == 2
    bucket.server.seen.clear()
    add(bucket, places, tmp_path / "b.parquet")
    assert {request.path for request in bucket.server.seen} == {f"/annual/{file}"}
    assert digest(tmp_path / "a.parquet") == digest(tmp_path / "b.parquet")
    bucket.server.tricks = {f"/annual/{file}": [{"status": 500}] * 6}
    with pytest.raises(DownloadError, match="HTTP 500"):
        read(bucket, places.lonlat)


def test_what_is_finished_under_another_index_is_not_taken(bucket, places, tmp_path):
    paths = sorted(bucket.truth)
    bucket.server.tricks = {f"/annual/{paths[-1]}": [{"status": 500}] * 6}
    first, second = tmp_path / "first.parquet", tmp_path / "second.parquet"
    first.write_bytes(bucket.files["/annual/aef_index.parquet"])
    with pytest.raises(WorkError, match="HTTP 500"):
        add(bucket, places, tmp_path / "a.parquet", index=first, workers=1)
    pq.write_table(pq.read_table(first).slice(1), second)
    with pytest.raises(WorkError, match="index_sha256: begun with"):
        add(bucket, places, tmp_path / "a.parquet", index=second)
    assert add(bucket, places, tmp_path / "a.parquet", index=first)["embedded"] == 15
    with pytest.raises(AlphaEarthError, match="absent.parquet: the index cannot be read"):
        add(bucket, places, tmp_path / "b.parquet", index=tmp_path / "absent.parquet")


def test_killed_it_goes_on_to_the_same_bytes(bucket, places, tmp_path):
    add(bucket, places, tmp_path / "a.parquet")
    last = list(bucket.truth)[-1]
    bucket.server.tricks = {f"/annual/{last}": [{"delay": 30}]}
    script = (
        "import sys\nfrom geonb.data.sources.alphaearth import add_alphaearth\n"
        "add_alphaearth(sys.argv[1], sys.argv[2], 2024, base_url=sys.argv[3], workers=1, progress=False)\n"
    )
    command = [sys.executable, "-c", script, str(places.path), str(tmp_path / "b.parquet"), bucket.url]
    process = subprocess.Popen(command, env={**os.environ, "no_proxy": "127.0.0.1"}, cwd=Path(__file__).parents[2])
    work, deadline = tmp_path / "b.parquet.work", time.monotonic() + 60
    while len(list(work.rglob("*.parquet"))) < 2 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "b.parquet").exists() and work.exists()
    add(bucket, places, tmp_path / "b.parquet")
    assert digest(tmp_path / "a.parquet") == digest(tmp_path / "b.parquet")


def test_a_tile_that_is_gone_or_damaged_is_counted(bucket, places, tmp_path, caplog):
    gone, cut, _ = sorted(bucket.truth)
    del bucket.files[f"/annual/{gone}"]
    bucket.files[f"/annual/{cut}"] = bucket.files[f"/annual/{cut}"][:100_000]
    assert add(bucket, places, tmp_path / "a.parquet") == {
        "embedded": 5, "no tile of that year": 1, "the tile cannot be read": 10,
    }  # fmt: skip
    assert "HTTP 404" in caplog.text and "shorter than it says" in caplog.text


@pytest.mark.parametrize("column", aef.COLUMNS)
def test_an_index_without_a_column_says_which(bucket, column):
    bucket.tile(32631, 500_000, 5_000_000)
    bucket.publish(drop=[column])
    with pytest.raises(AlphaEarthError, match=f"no column '{column}'; it has fid"):
        read(bucket, [(3.0, 45.0)])


def test_an_index_that_is_none_or_lacks_the_year_says_so(bucket, tmp_path):
    bucket.tile(32631, 500_000, 5_000_000)
    bucket.publish()
    with pytest.raises(AlphaEarthError, match="no usable tile of 2019 among 0 rows"):
        read(bucket, [(3.0, 45.0)], year=2019)
    (tmp_path / "index.parquet").write_bytes(b"<html>not here</html>")
    with pytest.raises(AlphaEarthError, match="cannot be read as Parquet"):
        read(bucket, [(3.0, 45.0)], index=tmp_path / "index.parquet")


@pytest.mark.parametrize(
    "path",
    ["file:///etc/passwd", "../../etc/passwd", "s3://bucket/2024/31N/../../../x.tiff", "/vsizip/2024/31N/a.zip/b.tiff ",
     "2024/31N/a.vrt", "gs://b/2024/31N/<img>.tiff", "", None],
)  # fmt: skip
def test_a_path_of_another_kind_leads_nowhere(bucket, path, caplog):
    bucket.tile(32631, 500_000, 5_000_000, path=path)
    bucket.tile(32631, 600_000, 5_000_000, seed=1, path="s3://us-west-2.opendata.source.coop/tge-labs/aef/v1/annual/"
                "2024/31N/x1g76fvpifuz9f08km-0000000000-0000000000.tiff")  # fmt: skip
    bucket.publish()
    found = read(bucket, [*positions(32631, 500_000, 5_000_000, n=1), *positions(32631, 600_000, 5_000_000, n=1)])
    assert np.isnan(found[0]).all() and not np.isnan(found[1]).any()  # the same file of the copy
    assert "1 of 2 tiles of the index have no usable path or bounds" in caplog.text
    assert all(request.path.startswith("/annual/2024/31N/x1") or "aef_index" in request.path
               for request in bucket.server.seen)  # fmt: skip


@pytest.mark.parametrize("bounds", [{"wgs84_north": float("nan")}, {"wgs84_south": -90.0}, {"wgs84_north": 1e300},
                                    {"wgs84_west": None}, {"wgs84_east": float("inf")}])  # fmt: skip
def test_bounds_of_another_kind_are_left_out(bucket, bounds, caplog):
    path = bucket.tile(32631, 600_000, 5_000_000, seed=1)
    bucket.tile(32631, 500_000, 5_000_000, **bounds)
    bucket.publish()
    lonlat = positions(32631, 600_000, 5_000_000, n=1)
    assert np.allclose(read(bucket, lonlat), bucket.at(path, lonlat), atol=1e-6)
    assert "no usable path or bounds" in caplog.text


def test_a_file_of_another_kind_is_not_taken_for_embeddings(bucket):
    bucket.tile(32631, 500_000, 5_000_000, bands=3)
    bucket.publish()
    with pytest.raises(AlphaEarthError, match="3 bands of int8 .*not the 64 bands"):
        read(bucket, positions(32631, 500_000, 5_000_000, n=1))


@pytest.mark.parametrize(
    "options, message",
    [({"year": 2016}, "there are 2017 to 2025"), ({"footprint_m": -1}, "footprint_m"), ({"workers": 0}, "1 to 16"),
     ({"footprint_m": float("nan")}, "footprint_m")],
)  # fmt: skip
def test_an_option_that_is_wrong_is_told_at_once(bucket, options, message):
    with pytest.raises(ValueError, match=message):
        read(bucket, [(3.0, 45.0)], **options)
    with pytest.raises(ValueError, match="base_url must begin with https"):
        alphaearth([(3.0, 45.0)], 2024, base_url="/vsicurl/https://example.org")
    assert not bucket.server.seen
