"""Windows of GeoTIFFs over HTTP against rasterio on the same bytes, in every layout that GDAL writes."""

import threading

import numpy as np
import pytest
from faulty import serve

from geonb.data import cog
from geonb.data.cog import Http, RemoteTiff, Unreadable, allowed
from geonb.data.download import DownloadError

rasterio = pytest.importorskip("rasterio")
from rasterio.io import MemoryFile  # noqa: E402
from rasterio.transform import Affine  # noqa: E402
from rasterio.windows import Window  # noqa: E402

LAYOUTS = {
    "cog": {"driver": "COG", "compress": "deflate", "blocksize": 128},
    "cog with zstd and predictor": {"driver": "COG", "compress": "zstd", "blocksize": 256, "predictor": "YES"},
    "cog of several bands": {"driver": "COG", "count": 5, "dtype": "int8", "nodata": -128, "blocksize": 128},
    "tiles": {"driver": "GTiff", "tiled": True, "blockxsize": 64, "blockysize": 128, "compress": "deflate"},
    "strips": {"driver": "GTiff", "compress": "lzw"},
    "one strip without compression": {"driver": "GTiff", "blockysize": 400},
    "bigtiff": {"driver": "GTiff", "BIGTIFF": "YES", "tiled": True, "compress": "deflate"},
    "big-endian": {"driver": "GTiff", "ENDIANNESS": "BIG"},
    "band by band": {"driver": "GTiff", "count": 7, "tiled": True, "interleave": "band", "compress": "zstd"},
    "south-up": {"driver": "GTiff", "tiled": True, "transform": Affine(10, 0, 5e5, 0, 10, 4e6)},
    "holes": {"driver": "GTiff", "tiled": True, "blockxsize": 64, "blockysize": 64, "SPARSE_OK": "TRUE"},
}


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(cog, "_sleep", lambda seconds: None)


def write(layout, h=400, w=330, seed=0):
    profile = {"count": 1, "dtype": "uint16", "nodata": 0, "transform": Affine(10, 0, 5e5, 0, -10, 4e6)} | layout
    pixels = np.random.default_rng(seed).integers(1, 100, (profile["count"], h, w)).astype(profile["dtype"])
    if "SPARSE_OK" in layout:
        pixels[:, 64:256, :192] = 0
    with MemoryFile() as memory:
        with memory.open(width=w, height=h, crs="EPSG:32631", **profile) as out:
            out.write(pixels)
        memory.seek(0)
        return memory.read(), pixels


@pytest.mark.parametrize("name", LAYOUTS)
def test_windows_of_any_layout_and_level_are_what_rasterio_reads(name):
    content, pixels = write(LAYOUTS[name])
    rng = np.random.default_rng(1)
    with serve({"/a.tif": content}) as server, MemoryFile(content) as memory:
        tiff = RemoteTiff(Http(), f"{server.url}/a.tif")
        with memory.open() as source:
            assert (tiff.transform, tiff.crs, tiff.nodata) == (source.transform, source.crs, source.nodata)
            assert (tiff.width, tiff.height, tiff.count, tiff.dtype) == (330, 400, source.count, source.dtypes[0])
            overviews = source.overviews(1)
        assert len(tiff.levels) == 1 + len(overviews) and (len(overviews) > 0) == (LAYOUTS[name]["driver"] == "COG")
        for _ in range(8):
            col, row, w, h = *rng.integers(0, 250, 2).tolist(), *rng.integers(1, 80, 2).tolist()
            assert (tiff.read(col, row, w, h) == pixels[:, row : row + h, col : col + w]).all()
        assert (tiff.read(0, 0, 330, 400) == pixels).all()
        for level in range(1, len(tiff.levels)):
            with memory.open(overview_level=level - 1) as source:
                assert tiff.shape(level) == (source.width, source.height)
                assert (tiff.read(3, 5, 20, 30, level) == source.read(window=Window(3, 5, 20, 30))).all()
        with pytest.raises(ValueError, match="of an image of 330 x 400 pixels"):
            tiff.read(300, 0, 31, 1)


def test_a_window_of_a_large_file_costs_the_header_and_its_tiles():
    content, pixels = write({"driver": "COG", "compress": "deflate", "blocksize": 256}, 2000, 2000)
    with serve({"/a.tif": content}) as server:
        http = Http()
        assert (RemoteTiff(http, f"{server.url}/a.tif").read(700, 900, 64, 64) == pixels[:, 900:964, 700:764]).all()
        assert http.requests == len(server.seen) <= 3
        assert http.bytes < len(content) / 8


def test_threads_share_the_connections():
    files = {f"/{i}.tif": write(layout, seed=i) for i, layout in enumerate(LAYOUTS.values())}
    wrong = []
    with serve({name: content for name, (content, _) in files.items()}) as server:
        http = Http()

        def work(k):
            rng = np.random.default_rng(k)
            for _ in range(8):
                name = list(files)[rng.integers(len(files))]
                col, row = rng.integers(0, 250, 2).tolist()
                found = RemoteTiff(http, server.url + name).read(col, row, 64, 64)
                if not (found == files[name][1][:, row : row + 64, col : col + 64]).all():
                    wrong.append(name)

        threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert http.requests == len(server.seen)
    assert not wrong


def test_a_file_cut_anywhere_is_unreadable_and_never_read_wrong():
    content, pixels = write(LAYOUTS["tiles"])
    with serve() as server:
        server.files["/a.tif"] = content
        for size in [0, 1, 8, 15, 40, 200, 1000, len(content) // 2, len(content) - 1]:
            server.files["/a.tif"] = content[:size]
            try:
                found = RemoteTiff(Http(), f"{server.url}/a.tif").read(0, 0, 330, 400)
            except Unreadable:
                continue
            assert (found == pixels).all()  # what lacks is padding


def test_noise_in_a_file_never_does_more_than_make_it_unreadable():
    """Bytes of the header turned at random: refused, or read; nothing hangs and nothing else is raised."""
    content, _ = write(LAYOUTS["tiles"])
    rng = np.random.default_rng(3)
    refused = 0
    with serve() as server:
        for _ in range(60):
            damaged = bytearray(content)
            for at in rng.integers(0, 500, 4):
                damaged[at] = rng.integers(256)
            server.files["/a.tif"] = bytes(damaged)
            try:
                tiff = RemoteTiff(Http(), f"{server.url}/a.tif")
                tiff.read(0, 0, min(50, tiff.width), min(50, tiff.height))
            except Unreadable:
                refused += 1
    assert refused > 10


@pytest.mark.parametrize("wrong", [{"crs": None}, {"transform": Affine(0, 0, 5e5, 0, -10, 4e6)}])
def test_a_file_that_does_not_say_where_it_lies_is_unreadable(wrong):
    content, _ = write(LAYOUTS["tiles"])
    with serve({"/a.tif": content}) as server:
        tiff = RemoteTiff(Http(), f"{server.url}/a.tif")
        for name, value in wrong.items():
            setattr(tiff, name, value)
        with pytest.raises(Unreadable, match="does not say where it lies"):
            tiff.pixels("EPSG:4326", np.array([9.0]), np.array([50.0]))


def test_a_file_that_changes_while_it_is_read_is_not_put_together_from_both():
    old, _ = write(LAYOUTS["tiles"])
    new, _ = write(LAYOUTS["tiles"], seed=9)
    with serve({"/a.tif": old}) as server:
        tiff = RemoteTiff(Http(), f"{server.url}/a.tif")
        server.files["/a.tif"] = new
        with pytest.raises(DownloadError, match="changed while it was read"):
            tiff.read(0, 0, 330, 400)


@pytest.mark.parametrize(
    "target, message",
    [("http://example.org/a.tif", "only https is followed"), ("file:///etc/passwd", "only https"), ("/b.tif", "too many")],
)
def test_a_redirect_leads_only_where_an_address_may(target, message):
    with serve({"/a.tif": b""}) as server:
        server.tricks = {"/a.tif": [{"redirect": target}], "/b.tif": [{"redirect": "/b.tif"}] * 9}
        with pytest.raises(DownloadError, match=message):
            RemoteTiff(Http(), f"{server.url}/a.tif")


def test_an_answer_that_does_not_end_is_left():
    with serve({"/a.tif": b"x" * 1000}) as server:
        server.tricks = [{"endless": 1}]
        with pytest.raises(DownloadError, match="an answer of more than"):
            RemoteTiff(Http(), f"{server.url}/a.tif")


def test_addresses():
    for good in ("https://example.org/a.tif?sig=a%2Fb", "http://127.0.0.1:8000/a", "http://[::1]/a", "http://localhost/a"):
        assert allowed(good)
    for bad in ("http://example.org/a", "http://127.0.0.1.example.org/a", "https://a@b/c", "https://", "https://a:x/", None):
        assert not allowed(bad)
