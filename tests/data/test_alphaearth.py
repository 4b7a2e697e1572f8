"""AlphaEarth embeddings from generated files of the published format, on the loopback interface."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faulty import serve
from geoparquet import check_geoparquet
from rasterio.io import MemoryFile
from rasterio.transform import Affine
from rasterio.warp import transform, transform_bounds

from geonb.data.sources import alphaearth as module
from geonb.data.sources import http
from geonb.data.sources.alphaearth import _read_tile, add_alphaearth
from geonb.data.store import write_store
from geonb.inference import read_embeddings

SIDE = 128  # of a tile; the real ones have 8192


class Bucket:
    """Tiles, their index and the truth about them."""

    def __init__(self):
        self.files, self.rows, self.truth, self.url = {}, [], {}, ""

    def tile(self, epsg, west, north, year=2024, *, south_up=False, seed=0, empty=None, bands=64):
        """A tile of 1.28 km, band by band in blocks of 64 pixels."""
        vectors = np.random.default_rng(seed).normal(size=(64, SIDE, SIDE))
        vectors /= np.linalg.norm(vectors, axis=0)
        numbers = np.rint(np.sign(vectors) * np.sqrt(abs(vectors)) * 127.5).clip(-127, 127).astype(np.int8)
        if empty is not None:
            numbers[:, empty] = module.NO_DATA
        path = f"{year}/{epsg % 100}{'N' if epsg < 32700 else 'S'}/x{seed}-0000000000.tiff"
        step = Affine(10, 0, west, 0, 10, north - 10 * SIDE) if south_up else Affine(10, 0, west, 0, -10, north)
        layout = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "zstd", "interleave": "band"}
        with MemoryFile() as memory:
            kind = {"driver": "GTiff", "dtype": "int8", "nodata": module.NO_DATA, "crs": f"EPSG:{epsg}", "transform": step}
            with memory.open(count=bands, width=SIDE, height=SIDE, **kind, **layout) as file:
                file.write((numbers[:, ::-1] if south_up else numbers)[:bands])
            self.files[f"/annual/{path}"] = memory.read()
        bounds = transform_bounds(f"EPSG:{epsg}", "EPSG:4326", west, north - 10 * SIDE, west + 10 * SIDE, north)
        self.rows.append(dict(zip(module.COLUMNS, (f"gs://alphaearth/annual/{path}", year, *bounds), strict=True)))
        self.files["/annual/aef_index.parquet"] = parquet(self.rows)
        self.truth[path] = epsg, west, north, numbers
        return f"{self.url}/annual/{path}"

    def vector(self, path, lon, lat):
        epsg, west, north, numbers = self.truth[path.split("/annual/")[1]]
        x, y = (v[0] for v in transform("EPSG:4326", f"EPSG:{epsg}", [lon], [lat]))
        q = numbers[:, int((north - y) // 10), int((x - west) // 10)].astype(float)
        v = np.sign(q) * (q / 127.5) ** 2
        return v / np.linalg.norm(v)


def parquet(rows):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


@pytest.fixture
def bucket(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(http, "RETRY", http.RETRY.new(backoff_factor=0))
    monkeypatch.setattr(module, "REMOTE", module.REMOTE | {"GDAL_HTTP_RETRY_DELAY": "0.01"})
    made = Bucket()
    with serve(made.files) as server:
        server.files, made.server, made.url = made.files, server, server.url
        monkeypatch.setattr(module, "BASE", f"{server.url}/annual")
        yield made


def points(epsg, west, north, seed=0, n=6):
    """Positions in a tile, away from its edges."""
    xy = np.random.default_rng(seed).uniform(50, 10 * SIDE - 50, (n, 2))
    return np.stack(transform(f"EPSG:{epsg}", "EPSG:4326", (west + xy[:, 0]).tolist(), (north - xy[:, 1]).tolist()), 1)


def places(folder, lonlat):
    ids = [f"p{i}" for i in range(len(lonlat))]
    return write_store(folder, places={"place_id": ids, "lon": lonlat[:, 0], "lat": lonlat[:, 1]})


@pytest.mark.parametrize(
    "epsg, west, north, south_up", [(32633, 391000, 5820000, False), (32756, 334000, 6252000, True)]
)
def test_vectors_are_those_of_the_pixels_under_the_places(bucket, epsg, west, north, south_up):
    url = bucket.tile(epsg, west, north, south_up=south_up)
    lonlat = points(epsg, west, north)
    vectors = _read_tile(url, lonlat)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert np.allclose(vectors, [bucket.vector(url, *place) for place in lonlat], atol=1e-6)
    assert np.isnan(_read_tile(url, lonlat + [0.1, 0])).all()  # outside


def test_a_file_of_embeddings_has_places_credits_and_what_was_left_out(bucket, tmp_path, capsys):
    """Two tiles overlap: where the first has no data, the second one counts."""
    half = np.zeros((SIDE, SIDE), bool)
    half[:, :64] = True
    first = bucket.tile(32633, 391000, 5820000, seed=1, empty=half)
    second = bucket.tile(32633, 390640, 5820000, seed=2)
    bucket.tile(32633, 391000, 5820000, year=2023, seed=3)
    lonlat = np.concatenate([points(32633, 391000, 5820000), [[0.0, 0.0], [179.0, -85.0]]])
    store = places(tmp_path / "store", lonlat)
    counts = add_alphaearth(store, tmp_path / "aef.parquet", 2024)
    lost = counts[module.NO_TILE]
    assert f"{lost} left out: {module.NO_TILE} (e.g. row " in capsys.readouterr().err
    table = pq.read_table(tmp_path / "aef.parquet")
    check_geoparquet(tmp_path / "aef.parquet", lonlat[[name in table["place_id"].to_pylist() for name in store.place_id]])
    vectors = read_embeddings(tmp_path / "aef.parquet", store)
    x = np.array(transform("EPSG:4326", "EPSG:32633", *lonlat[:6].T.tolist())[0]) - 391000
    reached = (x >= 640) | (x < 920)
    for row in range(6):
        path = first if x[row] >= 640 else second
        if reached[row]:
            assert np.allclose(vectors[row], bucket.vector(path, *lonlat[row]), atol=1e-6)
    assert (x < 640).any() and (x >= 640).any() and np.isnan(vectors[6:]).all()
    assert counts == {"embedded": int(reached.sum()), module.NO_TILE: 8 - int(reached.sum())}
    assert table.schema.metadata[b"attribution"].decode() == module.ATTRIBUTION
    assert table.schema.metadata[b"license"] == b"CC BY 4.0" and b"geo" in table.schema.metadata
    assert json.loads(table.schema.metadata[b"made"])["year"] == 2024


def test_a_tile_across_the_antimeridian_is_found(bucket, tmp_path):
    bucket.tile(32660, 725000, 1870000)
    bucket.rows[0] |= {"wgs84_west": 179.9, "wgs84_east": -179.9}
    (tmp_path / "index.parquet").write_bytes(parquet(bucket.rows))
    lat = (bucket.rows[0]["wgs84_south"] + bucket.rows[0]["wgs84_north"]) / 2
    for lon, tiles in ((179.95, 1), (-179.95, 1), (0.0, 0)):
        assert len(module._tiles(tmp_path / "index.parquet", 2024, np.array([[lon, lat]]))) == tiles


def test_it_continues_after_the_network_failed_and_asks_for_no_file_twice(bucket, tmp_path):
    tiles = [bucket.tile(32633, 391000 + 20000 * k, 5820000, seed=k) for k in range(3)]
    lonlat = np.concatenate([points(32633, 391000 + 20000 * k, 5820000, n=2) for k in range(3)])
    store = places(tmp_path / "store", lonlat)
    last = tiles[2].removeprefix(bucket.url)
    bucket.server.tricks = {last: [{"status": 503}] * 20}
    with pytest.raises(OSError, match="the same command continues"):
        add_alphaearth(store, tmp_path / "aef.parquet", 2024)
    bucket.server.tricks = {}
    bucket.server.seen.clear()
    assert add_alphaearth(store, tmp_path / "aef.parquet", 2024) == {"embedded": 6, module.NO_TILE: 0}
    assert {request.path for request in bucket.server.seen} == {last}
    assert [file.name for file in tmp_path.glob("aef*")] == ["aef.parquet"]


def test_a_damaged_file_is_left_out_and_one_of_another_kind_stops(bucket):
    url = bucket.tile(32633, 391000, 5820000)
    lonlat = points(32633, 391000, 5820000)
    bucket.files[url.removeprefix(bucket.url)] = b"<VRTDataset>"
    with pytest.warns(UserWarning, match="left out, it cannot be read"):
        assert np.isnan(_read_tile(url, lonlat)).all()
    other = bucket.tile(32633, 391000, 5820000, bands=3, seed=5)
    with pytest.raises(ValueError, match="not 64 bands of int8"):
        _read_tile(other, lonlat)


def test_wrong_indexes_are_refused(bucket, tmp_path):
    bucket.tile(32633, 391000, 5820000)
    store = places(tmp_path / "store", points(32633, 391000, 5820000))
    bucket.rows[0]["path"] = "2024/33N/../../../etc/passwd.tiff"
    for rows, message in ((bucket.rows, "no usable file"), ([{"path": "x", "year": 2024}], "is no index of AlphaEarth")):
        bucket.files["/annual/aef_index.parquet"] = parquet(rows)
        with pytest.raises(ValueError, match=message):
            add_alphaearth(store, tmp_path / f"{len(rows[0])}.parquet", 2024)
