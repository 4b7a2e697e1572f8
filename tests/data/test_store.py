"""The place store: everything written is read back, by other libraries too; every fault is refused by name."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from geoparquet import check_geoparquet
from hypothesis import given, settings
from hypothesis import strategies as st

from geonb.data import store as module
from geonb.data.store import (
    BANDS,
    Images,
    PlaceStore,
    StoreError,
    check_store,
    points_from_wkb,
    wkb_points,
    write_store,
)

N = 70
FILES = ["places.parquet", "texts.parquet", "datacard.md", "images/sentinel2.parquet", "images/sentinel2.npy"]


def content(seed: int = 0) -> dict:
    """Arguments of write_store for N places, some with a text, 66 with an image."""
    rng = np.random.default_rng(seed)
    images = rng.integers(300, 6000, (66, 12, 16, 16)).astype(np.uint16)
    return {
        "places": {
            "place_id": [f"p{i}" for i in range(N)],
            "lon": rng.uniform(-180, 180, N),
            "lat": rng.uniform(-90, 90, N),
            "title": [f"Élan {i}" if i % 7 else None for i in range(N)],
            "height": np.where(np.arange(N) % 5, rng.normal(size=N), np.nan),
            "kind": ["wet" if i % 2 else None for i in range(N)],
            "count": np.arange(N),
            "flag": np.arange(N) % 3 == 0,
        },
        "texts": {
            "place_id": ["p3", "p0", "p69"],
            "text": ["three", "nought", "last"],
            "lang": ["en", "en", None],
            "facts": [["kind"], [], None],
        },
        "images": {
            "sentinel2": Images([images[:40], images[40:]], np.arange(4, N)[::-1], ["2024-07-01"] + [""] * 65),
            "night": Images([rng.integers(0, 9, (2, 1, 4, 5)).astype(np.uint8)], [9, 8], None, ["light"], 255, 250),
        },
        "facts": {"height": {"kind": "regression", "units": "m", "modalities": ["text"], "source": "none"}},
        "simulated": {"sentinel2": True},
    }


def with_images(**changes) -> dict:
    """The contents with other images of Sentinel-2."""
    images = content()["images"]
    return content() | {"images": images | {"sentinel2": replace(images["sentinel2"], **changes)}}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "s", **content())


@pytest.fixture
def copy(written, tmp_path):
    shutil.copytree(written.path, tmp_path / "s")
    return tmp_path / "s"


def test_everything_written_is_read_back(written):
    given_ = content()
    store = PlaceStore.open(written.path, verify="full")
    assert len(store) == N and store.place_id.tolist() == given_["places"]["place_id"]
    np.testing.assert_array_equal(store.lonlat[:, 0], given_["places"]["lon"])
    np.testing.assert_array_equal(store.lonlat[:, 1], given_["places"]["lat"])
    np.testing.assert_array_equal(store.column("height"), given_["places"]["height"])
    assert store.column("kind").tolist() == given_["places"]["kind"]
    assert store.column("count").dtype == np.float64 and store.column("flag").tolist() == [1.0, 0, 0] * 23 + [1]
    assert store.texts([69, 3]) == ["last", "three"] and store.text_column("facts", [3, 0, 69]) == [["kind"], [], None]
    assert store.text_column("lang", [69, 0]) == [None, "en"]
    assert store.has("text").sum() == 3 and store.has("sentinel2").sum() == 66 and store.has("location").all()
    assert store.simulated("sentinel2") and not store.simulated("text") and store.facts == given_["facts"]
    assert store.modalities == ["location", "text", "sentinel2", "night"] and not store.simulated("night")
    described = {"bands": BANDS, "scale": 10_000, "gsd_m": 10, "dtype": "uint16", "shape": [66, 12, 16, 16]}
    assert store.imagery["sentinel2"] == described and store.image_dates("night", [9]) == [""]
    night = content()["images"]["night"]
    assert (store.images("night", [8, 9]) == night.chunks[0][::-1]).all() and store.imagery["night"]["gsd_m"] == 250
    assert store.image_dates("sentinel2", [69, 68]) == ["2024-07-01", ""]
    for ask, name in ((store.column, "mood"), (store.has, "sound")):
        with pytest.raises(StoreError, match=name):
            ask(name)


def test_images_come_in_the_order_of_the_rows(written):
    images = np.concatenate(content()["images"]["sentinel2"].chunks)
    rows = np.array([69, 4, 30, 30, 5])
    np.testing.assert_array_equal(written.images("sentinel2", rows), images[N - 1 - rows])
    assert written.images("sentinel2", []).shape[0] == 0 and written.images(
        "sentinel2", written.has("sentinel2")
    ).shape == (66, 12, 16, 16)
    with pytest.raises(StoreError, match=r"row 2 \(p2\) has no sentinel2"):
        written.images("sentinel2", [5, 2])
    with pytest.raises(StoreError, match=r"row 1 \(p1\) has no text"):
        written.texts([0, 1])
    for rows in (written.has("text")[:9], [0.5]):
        with pytest.raises(ValueError, match="a mask of 9 rows, but there are 70|give whole numbers"):
            written.texts(rows)


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.integers(0, 599), max_size=40))
def test_texts_of_any_rows_in_any_order(rows, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "many-texts"
    names = [f"p{i}" for i in range(600)]
    if not path.exists():
        parts = ({"place_id": names[i : i + 270], "text": names[i : i + 270]} for i in range(0, 600, 270))
        write_store(path, places={"place_id": names[::-1], "lon": np.zeros(600), "lat": np.zeros(600)}, texts=parts)
    assert PlaceStore.open(path, verify=False).texts(rows) == [names[599 - row] for row in rows]


def test_geopandas_duckdb_and_numpy_read_the_store(written):
    check_geoparquet(written.path / "places.parquet", written.lonlat)
    file = str(written.path / "places.parquet")
    rows = duckdb.sql(f"select place_id, count from '{file}' where flag order by count").fetchall()
    assert rows == [(f"p{i}", i) for i in range(0, N, 3)]
    array = np.load(written.path / "images/sentinel2.npy", mmap_mode="r", allow_pickle=False)
    names = pq.read_table(written.path / "images/sentinel2.parquet")["place_id"].to_pylist()
    np.testing.assert_array_equal(array[names.index("p30")], written.images("sentinel2", [30])[0])


def test_xarray_shows_the_images_and_reads_no_pixel_before_it_is_used(written):
    pytest.importorskip("xarray")
    data = written.to_xarray()
    assert data.sentinel2.dims == ("place", "band", "y", "x") and data.sentinel2.attrs["simulated"] == 1
    assert np.shares_memory(data.sentinel2.values, written._images["sentinel2"])
    one = data.sentinel2.sel(place="p30", band="B4")
    np.testing.assert_array_equal(one, written.images("sentinel2", [30])[0, BANDS.index("B4")])
    assert (float(one.lon), float(one.lat)) == tuple(written.lonlat[30])
    assert str(data.date.sel(place="p69").values) == "2024-07-01"


def test_shapely_writes_the_same_points():
    shapely = pytest.importorskip("shapely")
    lonlat = np.random.default_rng(0).uniform(-90, 90, (50, 2))
    theirs = shapely.to_wkb(shapely.points(lonlat), byte_order=1)
    assert wkb_points(lonlat).to_pylist() == list(theirs)
    np.testing.assert_array_equal(points_from_wkb(pa.chunked_array([pa.array(theirs, pa.binary())])), lonlat)
    for wrong in (None, shapely.to_wkb(shapely.points([[1, 2, 3]]), byte_order=1)[0]):
        with pytest.raises(ValueError, match="row 1"):
            points_from_wkb(pa.array([theirs[0], wrong], pa.binary()))


def test_the_data_hash_is_that_of_the_content_however_it_was_given(written, tmp_path):
    assert write_store(tmp_path / "c", **with_images(dates=None)).data_hash != written.data_hash
    assert write_store(tmp_path / "d", **with_images(gsd_m=20)).data_hash != written.data_hash
    whole = np.concatenate(content()["images"]["sentinel2"].chunks)
    other = with_images(chunks=whole) | {"made": {"function": "another"}}
    other["texts"] = [{name: values[i : i + 1] for name, values in other["texts"].items()} for i in range(3)]
    for name, values in other["places"].items():
        parts = [pa.array(part, from_pandas=True) for part in (values[:20], values[20:])]
        other["places"][name] = pa.chunked_array(parts)
    other["places"]["kind"] = other["places"]["kind"].dictionary_encode()
    assert write_store(tmp_path / "a", **other).data_hash == written.data_hash
    changed = content()
    changed["places"]["height"][1] += 1e-9
    assert write_store(tmp_path / "b", **changed).data_hash != written.data_hash


def test_a_store_may_lack_texts_and_images(tmp_path):
    bare = {name: content()["places"][name] for name in ("place_id", "lon", "lat")}
    (tmp_path / "s").mkdir()  # an empty folder may be filled
    store = write_store(tmp_path / "s", places=bare, texts=iter([]))
    with pytest.raises(StoreError, match="exists already"):
        write_store(tmp_path / "s", places=bare)
    assert not store.has("text").any() and store.modalities == ["location"] and store.imagery == {}
    assert "70 location as observed" in check_store(store.path) and store.texts([]) == []
    assert sorted(store.manifest["files"]) == ["datacard.md", "places.parquet"]
    with pytest.raises(StoreError, match="no modality 'sentinel2'; there are location$"):
        store.to_xarray()


def test_columns_that_come_with_images_are_missing_where_no_image_is(tmp_path):
    chunks = content()["images"]["sentinel2"].chunks
    chunks = [(chunk, {"bright": chunk.mean((1, 2, 3)), "sort": ["a"] * len(chunk)}) for chunk in chunks]
    store = write_store(tmp_path / "s", **with_images(chunks=chunks))
    rows = np.flatnonzero(store.has("sentinel2"))
    np.testing.assert_allclose(store.column("bright")[rows], store.images("sentinel2", rows).mean((1, 2, 3)))
    assert np.isnan(store.column("bright")[:4]).all() and store.column("sort")[:4].tolist() == [None] * 4


def test_what_pandas_lacks_is_missing_and_not_a_word(tmp_path):
    pd = pytest.importorskip("pandas")
    climate, title = pd.Series(["Cfb", np.nan], dtype=object), pd.array(["here", pd.NA], dtype="string")
    places = {"place_id": ["a", "b"], "lon": [0.0, 1.0], "lat": [0.0, 1.0], "climate": climate, "title": title}
    lang = pd.Series(["en", pd.NaT], dtype=object)
    store = write_store(tmp_path / "s", places=places, texts={"place_id": ["a", "b"], "text": ["x", "y"], "lang": lang})
    assert store.column("climate").tolist() == ["Cfb", None] and store.column("title").tolist() == ["here", None]
    assert store.text_column("lang", [0, 1]) == ["en", None]


def test_every_type_is_kept_exactly_or_as_text(tmp_path):
    pd = pytest.importorskip("pandas")
    big = 2**60 + 1
    columns = {  # given, as read
        "height": ([1.5, None, 2.0], [1.5, None, 2.0]),
        "whole": (pd.Series([1, None, 3], dtype="Int64"), [1, None, 3]),
        "cell": ([big, big + 2, None], [str(big), str(big + 2), None]),
        "arrow": (pd.Series([big, None, 1], dtype="int64[pyarrow]"), [str(big), None, "1"]),
        "longer": ([10**30, 1, None], [str(10**30), "1", None]),
        "mixed": ([5, "many", pd.NA], ["5", "many", None]),
        "day": (np.array(["2024-02-29", "NaT", "1970-01-01"], "M8[D]"), ["2024-02-29", None, "1970-01-01"]),
        "month": (pd.PeriodIndex(["2024-01", None, "2024-03"], freq="M"), ["2024-01", None, "2024-03"]),
        "masked": (np.ma.array([1, 2, 3], mask=[0, 1, 0]), [1, None, 3]),
        "code": (["01001", "1e5", "nan"], ["01001", "1e5", "nan"]),
    }
    base = {"place_id": ["a", "b", "c"], "lon": [0, 1, 2], "lat": [0, 1, 2]}
    store = write_store(tmp_path / "s", places=base | {name: values for name, (values, _) in columns.items()})
    for name, (_, read) in columns.items():
        assert [None if v != v else v for v in store.column(name).tolist()] == read, name
    assert store.places["cell"].to_pylist() == [big, big + 2, None]  # the file has the numbers


@pytest.mark.parametrize(
    "lon", [np.ma.array([1.0, 2.0], mask=[0, 1]), np.array([1, 2], np.float16), ["1", "1_3"], [1, None]]
)
def test_positions_that_are_masked_coarse_or_no_numbers_are_refused(tmp_path, lon):
    with pytest.raises(ValueError, match="lon|row 1"):
        write_store(tmp_path / "s", places={"place_id": ["a", "b"], "lon": lon, "lat": [1.0, 2.0]})


def test_bands_of_an_xarray_are_found_by_name_and_bands_that_are_last_are_refused(written, tmp_path):
    pytest.importorskip("xarray")
    data = written.to_xarray().sentinel2
    order = np.random.default_rng(0).permutation(12)
    esa = [f"B{name[1:]:0>2}" for name in np.array(BANDS)[order]]
    shuffled = data.isel(band=order).assign_coords(band=esa).transpose("place", "y", "band", "x")
    numbered = (
        data.isel(band=order).assign_coords(band=range(1, 13)).assign_attrs(long_name=esa)
    )  # as rioxarray has them
    for k, images in enumerate((shuffled, numbered, data.values)):
        store = write_store(tmp_path / f"s{k}", **with_images(chunks=images))
        np.testing.assert_array_equal(store.images("sentinel2", [30]), written.images("sentinel2", [30]))
    for images, message in (
        (shuffled.isel(band=slice(11)), "is there 0 times"),
        (shuffled.assign_coords(band=range(12)), "without names of bands"),
        (shuffled.rename(band="bands").isel(bands=slice(11)), "is there 0 times"),
        (np.ma.masked_less(data.values, 1000), "masked pixels"),
        (data.values.transpose(0, 2, 3, 1), "bands are last"),
    ):
        with pytest.raises(StoreError, match=message):
            write_store(tmp_path / "no", **with_images(chunks=[images]))


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_changed_truncated_or_missing_file_is_named(copy, name):
    check = check_store if name.endswith(".md") else PlaceStore.open  # which passes over files for people
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    if name != "manifest.json":
        (copy / name).write_bytes(data)
        with pytest.raises(StoreError, match=f"{name}: changed"):
            (check_store if name.endswith(".npy") else check)(copy)
    (copy / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(StoreError, match=f"{name}.*(remove|restore)"):
        check(copy)
    (copy / name).unlink()
    with pytest.raises(StoreError, match=f"{name}: missing.*(remove|restore)"):
        check(copy)
    assert name != "datacard.md" or len(PlaceStore.open(copy)) == N


def test_a_short_or_pickled_array_is_refused_even_without_verifying(copy):
    file = copy / "images/sentinel2.npy"
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(StoreError, match="s: cannot be read"):
        PlaceStore.open(copy, verify=False)
    np.save(file, np.array([{}]), allow_pickle=True)
    with pytest.raises(StoreError, match="s: cannot be read"):
        PlaceStore.open(copy, verify=False)


def test_what_is_no_store_of_this_version_is_refused(copy):
    file = copy / "manifest.json"
    old = json.loads(file.read_text()) | {"schema_version": 1, "made": {"function": "make_atlas", "places": 8000}}
    file.write_text(json.dumps(old))
    with pytest.raises(StoreError, match="version 1, but this GeoNB reads 3; remove .* made so: .*make_atlas.*8000"):
        PlaceStore.open(copy)
    for odd in ({"images": None}, {"files": [1]}, {"counts": 3}, {"files": {"places.parquet": 1}}):
        file.write_text(json.dumps(old | {"schema_version": 3} | odd))
        with pytest.raises(StoreError, match="s: cannot be read .*remove the store"):
            PlaceStore.open(copy)
    (copy / "config.yaml").touch()
    (copy / "metrics.jsonl").touch()
    with pytest.raises(StoreError, match="a trained run, not a place store"):
        PlaceStore.open(copy)
    with pytest.raises(StoreError, match="no such place store"):
        PlaceStore.open(copy / "nowhere")


def read_some(store):
    return store.texts([69, 3]), store.images("sentinel2", [69, 4]).tolist()


def test_an_opened_store_is_pickled_as_its_path_and_may_be_forked(written):
    assert len(pickle.dumps(written)) < 1000
    expected = read_some(written)
    for method in ("fork", "spawn"):
        with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
            assert pool.submit(read_some, written).result(timeout=60) == expected


IMAGE = np.full((66, 12, 8, 8), 1500, np.uint16)
BLANK = np.where(np.arange(66)[:, None, None, None] == 9, 0, IMAGE).astype(np.uint16)
TWO = {"lon": [1, 2], "lat": [1, 2]}
FAULTS = {
    "8-bit picture": (with_images(chunks=[IMAGE // 10]), "image 0 has nothing above 255"),
    "too bright": (with_images(chunks=[IMAGE * 20]), "mean above 20000"),
    "no data": (with_images(chunks=[BLANK]), "image 9 is all"),
    "floats": (with_images(chunks=[IMAGE / 1e4]), "float64; needed is uint16"),
    "two sizes": (with_images(chunks=[IMAGE[:60], IMAGE[60:, :, :4]]), "those before"),
    "too few images": (with_images(chunks=[IMAGE[:60]]), "60 images, but 66 rows"),
    "row outside": (with_images(rows=np.arange(5, 71)), "rows has 70"),
    "two images of a place": (with_images(rows=[0] * 66), "two images"),
    "too few dates": (with_images(dates=["2024-01-01"]), "66 images, but 1 dates"),
    "a modality of no name": ({"images": {"text": content()["images"]["night"]}}, "'text' cannot name a modality"),
    "another count of bands": ({"images": {"night": Images([IMAGE], range(66), None, ["light"])}}, "night: from image 0 .*give .*1, H, W"),
    "unknown fact": ({"facts": {"x": {"kind": "regression"}}}, "fact 'x' is no column"),
    "empty text": ({"texts": {"place_id": ["p0", "p1"], "text": ["a", " \n\u3000"]}}, "row 1: empty text"),
    "text of nowhere": ({"texts": [{"place_id": ["p0"], "text": ["a"]}, {"place_id": ["q"], "text": ["b"]}]}, "row 1: 'q' is no place"),
    "two texts of a place": ({"texts": [{"place_id": ["p0"], "text": ["a"]}] * 2}, "row 1: 'p0' .* has two texts"),
    "texts of an unknown column": ({"texts": {"place_id": ["p0"], "text": ["a"], "mood": ["glad"]}}, "texts: columns .*'mood'.*; needed are"),
    "a place twice": ({"places": {"place_id": ["a", "a"], **TWO}}, "places: row 1: place_id 'a' is .* not unique"),
    "no latitude": ({"places": {"place_id": ["a"], "lon": [1]}}, "no column 'lat'"),
    "a column of another length": ({"places": {"place_id": ["a"], "lon": [1], "lat": [1], "x": [1, 2]}}, "column 'x' has 2 values, place_id 1"),
    "a column of lists": ({"places": {"place_id": ["a"], "lon": [1], "lat": [1], "x": pa.array([[1]])}}, "column 'x'"),
    "NaN": ({"places": {"place_id": ["a", "b"], "lon": [1, np.nan], "lat": [1, 2]}}, "places: row 1.*not finite"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_refused_and_nothing_is_left_behind(tmp_path, fault):
    change, message = FAULTS[fault]
    with pytest.raises(ValueError, match=message):
        write_store(tmp_path / "s", **(content() | change))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "stop, seen, message",
    [
        (KeyboardInterrupt, KeyboardInterrupt, None),
        (SystemExit, SystemExit, None),  # as the command line makes of SIGTERM
        (OSError(errno.ENOSPC, "full"), StoreError, "the disk is full; free some space"),
    ],
)
def test_an_interrupted_or_failed_write_leaves_nothing(tmp_path, stop, seen, message):
    def images():
        yield content()["images"]["sentinel2"].chunks[0]
        raise stop

    with pytest.raises(seen, match=message):
        write_store(tmp_path / "s", **with_images(chunks=images()))
    assert list(tmp_path.iterdir()) == []


def test_room_on_the_disk_is_asked_for_before_an_array_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "SAID_FROM", 100_000)
    write_store(tmp_path / "a", **content())
    assert capsys.readouterr().err == "sentinel2: the images take 0.4 MB\n"
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=300_000))
    with pytest.raises(StoreError, match="images of sentinel2 need 0.4 MB and 0.3 MB are free; free some space"):
        write_store(tmp_path / "b", **content())
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_images_and_texts_are_not_held_while_they_are_streamed(tmp_path):
    n, rng, held = 80, np.random.default_rng(0), []
    texts = [rng.bytes(1 << 18).hex() for _ in range(4)]  # half a megabyte each, which does not compress well

    def stream():
        for i in range(n):
            held.append(pa.total_allocated_bytes())
            yield pa.table({"place_id": [f"p{i}"], "text": [f"{i} " + texts[i % 4]]})

    places = {"place_id": [f"p{i}" for i in range(n)], "lon": np.zeros(n), "lat": np.zeros(n)}
    before = pa.total_allocated_bytes()
    store = write_store(tmp_path / "s", places=places, texts=stream())
    assert max(held) - before < 16 << 20  # of 40 MB
    assert store.texts([70]) == ["70 " + texts[2]] and pa.total_allocated_bytes() - before < 16 << 20
