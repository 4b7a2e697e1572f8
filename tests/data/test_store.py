"""The place store: what is written is read, by others too; every fault is refused by name."""

from __future__ import annotations

import errno
import json
import multiprocessing
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geonb.data import store as module
from geonb.data.store import BANDS, PlaceStore, StoreError, check_store, points_from_wkb, wkb_points, write_store

N = 70
SMALL_FILES = ["places.parquet", "texts.parquet", "datacard.md", "images.zarr/zarr.json"]


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
        "images": [images[:40], images[40:]],
        "image_rows": np.arange(4, N)[::-1],
        "facts": {"height": {"kind": "regression", "units": "m", "modalities": ["text"], "source": "none"}},
        "simulated": {"image": True},
    }


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
    assert store.texts([69, 3]) == ["last", "three"] and store.text_facts([3, 0, 69]) == [["kind"], [], []]
    assert store.text_column("lang", [69, 0]) == [None, "en"]
    assert store.has("text").sum() == 3 and store.has("image").sum() == 66 and store.has("location").all()
    assert store.simulated("image") and not store.simulated("text")
    assert store.bands == BANDS and store.gsd_m == 10


def test_images_come_in_the_order_of_the_rows_asked_for(written):
    images = np.concatenate(content()["images"])
    rows = np.array([69, 4, 30, 30, 5])
    np.testing.assert_array_equal(written.images(rows), images[N - 1 - rows])
    assert written.images([]).shape[0] == 0 and written.images(written.has("image")).shape == (66, 12, 16, 16)
    present = np.array([True, False, True, False, True])
    np.testing.assert_array_equal(written.images([69, 2, 30, 5, 30], present), images[N - 1 - rows[[0, 1, 2, 4, 2]]] * present[:, None, None, None])
    assert not written.images([1, 2], [False, False]).any() and written.images([1], [False]).shape == (1, 12, 16, 16)
    with pytest.raises(StoreError, match=r"row 2 \(p2\) has no image"):
        written.images([5, 2])
    with pytest.raises(StoreError, match=r"row 2 \(p2\) has no image"):
        written.images([1, 5, 2], [False, True, True])
    with pytest.raises(StoreError, match=r"row 1 \(p1\) has no text"):
        written.texts([0, 1])


def test_geopandas_and_duckdb_read_the_places(written):
    geopandas = pytest.importorskip("geopandas")
    frame = geopandas.read_parquet(written.path / "places.parquet")
    assert frame.crs == "OGC:CRS84" and frame.geometry.name == "geometry"
    np.testing.assert_array_equal(np.stack([frame.geometry.x, frame.geometry.y], 1), written.lonlat)
    duckdb = pytest.importorskip("duckdb")
    file = str(written.path / "places.parquet")
    rows = duckdb.sql(f"select place_id, count from '{file}' where flag order by count").fetchall()
    assert rows == [(f"p{i}", i) for i in range(0, N, 3)]
    geo = json.loads(pq.read_schema(file).metadata[b"geo"])
    assert geo["version"] == "1.1.0" and geo["columns"]["geometry"]["encoding"] == "WKB"
    np.testing.assert_allclose(geo["columns"]["geometry"]["bbox"], frame.total_bounds)


def test_shapely_writes_the_same_points():
    shapely = pytest.importorskip("shapely")
    lonlat = np.random.default_rng(0).uniform(-90, 90, (50, 2))
    theirs = shapely.to_wkb(shapely.points(lonlat), byte_order=1)
    assert wkb_points(lonlat).to_pylist() == list(theirs)
    np.testing.assert_array_equal(points_from_wkb(pa.chunked_array([pa.array(theirs, pa.binary())])), lonlat)
    for wrong in (None, shapely.to_wkb(shapely.points([[1, 2, 3]]), byte_order=1)[0]):
        with pytest.raises(ValueError, match="row 1"):
            points_from_wkb(pa.array([theirs[0], wrong], pa.binary()))


def test_the_same_content_has_the_same_hashes_however_it_is_chunked(written, tmp_path):
    again = content()
    again["images"] = [np.concatenate(again["images"])]
    assert write_store(tmp_path / "a", **again).manifest == written.manifest
    assert written.data_hash == "c745f11db079b1ce8598b75c9820f5ac1c740ceccad503c4df956bd29a20af51"
    changed = content()
    changed["places"]["height"][1] += 1e-9
    assert write_store(tmp_path / "b", **changed).data_hash != written.data_hash


def test_a_store_may_lack_texts_or_images(tmp_path):
    bare = {name: content()["places"][name] for name in ("place_id", "lon", "lat")}
    store = write_store(tmp_path / "s", places=bare)
    assert not store.has("text").any() and not store.has("image").any() and store.bands is None
    assert "a position alone" in check_store(store.path)


def test_columns_that_come_with_images_are_missing_elsewhere(tmp_path):
    given_ = content()
    given_["images"] = [
        (chunk, {"bright": chunk.mean((1, 2, 3)), "sort": ["a"] * len(chunk)}) for chunk in given_["images"]
    ]
    store = write_store(tmp_path / "s", **given_)
    rows = np.flatnonzero(store.has("image"))
    np.testing.assert_allclose(store.column("bright")[rows], store.images(rows).mean((1, 2, 3)))
    assert np.isnan(store.column("bright")[:4]).all() and store.column("sort")[:4].tolist() == [None] * 4


def spoil(path, name, change):
    """Change a column of the places and make the manifest agree, as a faulty writer would."""
    table = pq.read_table(path / "places.parquet")
    index = table.column_names.index(name)
    pq.write_table(table.set_column(index, name, change(table[name])), path / "places.parquet")
    sign(path)


def sign(path):
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"] = module._list_files(path)
    manifest["manifest_hash"] = module._manifest_hash(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def test_nan_out_of_range_and_swapped_positions_are_refused(copy):
    lonlat = PlaceStore.open(copy).lonlat
    for row, position, message in ((5, (np.nan, 1), "row 5.*not finite"), (6, (190, 1), "row 6.*out of range")):
        wrong = lonlat.copy()
        wrong[row] = position
        spoil(copy, "geometry", lambda _, wrong=wrong: wkb_points(wrong))
        with pytest.raises(StoreError, match=f"places.parquet.*{message}"):
            PlaceStore.open(copy)
    swapped = np.stack([lonlat[:, 1], lonlat[:, 0]], 1)
    spoil(copy, "geometry", lambda _: wkb_points(swapped))
    with pytest.raises(StoreError, match="places.parquet.*swapped"):
        PlaceStore.open(copy)


def test_a_place_id_given_twice_is_refused(copy):
    spoil(copy, "place_id", lambda column: pa.array(["p1", *column.to_pylist()[1:]]))
    with pytest.raises(StoreError, match="places.parquet: row 1: place_id 'p1' again, first in row 0"):
        PlaceStore.open(copy)


@pytest.mark.parametrize("name", [*SMALL_FILES, "manifest.json", "images.zarr/c/0/0/0/0"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(StoreError, match=f"{name}: missing.*(remove|restore)"):
        PlaceStore.open(copy)


@pytest.mark.parametrize("name", ["places.parquet", "texts.parquet", "images.zarr/zarr.json", "images.zarr/c/0/0/0/0"])
def test_a_truncated_file_is_named(copy, name):
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(StoreError, match=f"{name}: truncated"):
        PlaceStore.open(copy)


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("name", SMALL_FILES)
def test_a_changed_bit_is_noticed_on_opening(copy, name):
    flip(copy / name)
    with pytest.raises(StoreError, match=f"{name}: changed"):
        PlaceStore.open(copy)


def test_a_changed_bit_in_an_image_is_noticed_by_the_check_and_on_reading(copy):
    flip(copy / "images.zarr/c/0/0/0/0")
    with pytest.raises(StoreError, match="images.zarr/c/0/0/0/0: changed"):
        check_store(copy)
    store = PlaceStore.open(copy)
    with pytest.raises(StoreError, match="images.zarr: a chunk cannot be read .image 33: its checksum .CRC-32C. differs"):
        store.images(store.has("image"))
    assert store.images([69]).shape == (1, 12, 16, 16)  # the others are still there


def test_wrong_schema_version_edited_or_unreadable_manifest(copy):
    file = copy / "manifest.json"
    manifest = json.loads(file.read_text())
    file.write_text(json.dumps(manifest | {"schema_version": 99}))
    with pytest.raises(StoreError, match="schema version 99, but this GeoNB reads 1"):
        PlaceStore.open(copy)
    file.write_text(json.dumps(manifest | {"simulated": {}}))
    with pytest.raises(StoreError, match="manifest.json: changed"):
        PlaceStore.open(copy)
    file.write_text("{")
    with pytest.raises(StoreError, match="manifest.json: not a manifest"):
        PlaceStore.open(copy)
    with pytest.raises(StoreError, match="no such place store"):
        PlaceStore.open(copy / "nowhere")


def test_a_stray_chunk_is_refused_but_the_feature_cache_is_not(copy):
    (copy / "features").mkdir()
    (copy / "features" / "cache").write_text("x")
    check_store(copy)
    (copy / "images.zarr/c/7").write_text("x")
    with pytest.raises(StoreError, match="images.zarr/c/7: not part of the store"):
        check_store(copy)


IMAGE = np.full((66, 12, 8, 8), 1500, np.uint16)
BLANK = np.where(np.arange(66)[:, None, None, None] == 9, 0, IMAGE).astype(np.uint16)
FAULTS = {
    "reflectance in 0..1 as integers": ({"images": [IMAGE // 1500]}, "image 0 holds nothing above 1"),
    "8-bit picture": ({"images": [IMAGE // 10]}, "image 0 holds nothing above 255"),
    "too bright": ({"images": [IMAGE * 20]}, "mean above 20000"),
    "no data": ({"images": [BLANK]}, "image 9 is all"),
    "floats": ({"images": [IMAGE / 1e4]}, "float64.*give uint16"),
    "three bands": ({"images": [IMAGE[:, :3]]}, "3 bands in the array"),
    "band names": ({"bands": BANDS[::-1]}, "in this order"),
    "two sizes": ({"images": [IMAGE[:60], IMAGE[60:, :, :4]]}, "image 60 has shape"),
    "too few images": ({"images": [IMAGE[:60]]}, "60 images, but 66 rows"),
    "too many images": ({"images": [IMAGE, IMAGE]}, "more than the 66 rows"),
    "row outside": ({"image_rows": np.arange(5, 71)}, r"image_rows\[65\]"),
    "two images of a place": ({"image_rows": [0] * 66}, "two images"),
    "unknown fact": ({"facts": {"x": {"kind": "regression"}}}, "fact 'x' is no column"),
    "fact kind": ({"facts": {"kind": {"kind": "colour"}}}, "kind 'colour'"),
    "empty text": ({"texts": {"place_id": ["p0", "p1"], "text": ["a", " \n"]}}, "row 1: empty text"),
    "text of nowhere": ({"texts": {"place_id": ["q"], "text": ["a"]}}, "row 0: place_id 'q' is not among"),
    "blank text": ({"texts": {"place_id": ["p0"], "text": ["\u3000\u2003\x1c"]}}, "row 0: empty text"),
    "no text": ({"texts": [{"place_id": ["p0"], "text": ["a"]}, {"place_id": ["p1"], "text": [None]}]}, "row 1: empty text"),
    "text of nowhere, later": ({"texts": [{"place_id": ["p0"], "text": ["a"]}, {"place_id": ["q"], "text": ["b"]}]}, "row 1: place_id 'q' is not"),
    "two texts of a place, later": ({"texts": [{"place_id": ["p0"], "text": ["a"]}] * 2}, "row 1: place_id 'p0' again, first in row 0"),
    "texts of an unknown column": ({"texts": {"place_id": ["p0"], "text": ["a"], "mood": ["glad"]}}, "texts: unknown column 'mood'"),
    "texts without a place": ({"texts": [{"text": ["a"]}]}, "texts: no column 'place_id'"),
    "texts of two lengths": ({"texts": [{"place_id": ["p0"], "text": ["a", "b"]}]}, "texts: column 'place_id' has 1 values, text 2"),
    "a place without a name": ({"places": {"place_id": pa.array(["p0", None]), "lon": [1, 2], "lat": [1, 2]}}, "places: row 1: place_id None"),
    "a place with a number for a name": ({"places": {"place_id": [1, 2], "lon": [1, 2], "lat": [1, 2]}}, "places: row 0: place_id 1"),
    "a place named by blanks": ({"places": {"place_id": ["a", "\u3000"], "lon": [1, 2], "lat": [1, 2]}}, "places: row 1: place_id"),
    "a place twice": ({"places": {"place_id": pa.array(["a", "b", "a"]), "lon": [1, 2, 3], "lat": [1, 2, 3]}}, "places: row 2: place_id 'a' again, first in row 0"),
    "a column of lists": ({"places": {"place_id": ["a"], "lon": [1], "lat": [1], "x": pa.array([[1]])}, "texts": None, "images": None}, "column 'x' is list"),
    "two texts of a place": ({"texts": {"place_id": ["p1", "p1"], "text": ["a", "b"]}}, "row 1: place_id 'p1' again"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_refused_and_nothing_is_left_behind(tmp_path, fault):
    change, message = FAULTS[fault]
    with pytest.raises(StoreError, match=message):
        write_store(tmp_path / "s", **(content() | change))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("column, row, value", [("lon", 3, np.nan), ("lat", 4, 91.0), ("lat", 5, np.inf)])
def test_bad_positions_are_refused_by_row_when_writing(tmp_path, column, row, value):
    given_ = content()
    given_["places"][column][row] = value
    with pytest.raises(StoreError, match=f"places: row {row}"):
        write_store(tmp_path / "s", **given_)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(errno.EIO, "bad disk")])
def test_interrupted_writing_leaves_nothing(tmp_path, stop):
    def chunks():
        yield IMAGE[:40]
        raise stop

    with pytest.raises((KeyboardInterrupt, OSError)):
        write_store(tmp_path / "s", **(content() | {"images": chunks()}))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_before_and_while_writing(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=10 << 20))
    with pytest.raises(StoreError, match="10 MB free, but the store may need"):
        write_store(tmp_path / "s", **content())
    monkeypatch.undo()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_write_parquet", full)
    with pytest.raises(StoreError, match="the disk is full; free some space"):
        write_store(tmp_path / "s", **content())
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_overwritten(written, tmp_path):
    before = written.manifest
    with pytest.raises(StoreError, match="exists already; remove it"):
        write_store(written.path, **content(1))
    assert PlaceStore.open(written.path).manifest == before
    (tmp_path / "empty").mkdir()
    assert len(write_store(tmp_path / "empty", **content())) == N


def test_unknown_names_are_refused(written):
    with pytest.raises(StoreError, match="no column 'hight'; there are .*height"):
        written.column("hight")
    with pytest.raises(StoreError, match="unknown modality 'sound'; choose from location, text, image"):
        written.has("sound")


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(-180, 180), st.floats(-90, 90), st.text(max_size=8), st.floats(allow_nan=True)),
        min_size=1, max_size=12,
    )
)  # fmt: skip
def test_any_places_survive_the_way_through_the_files(tmp_path_factory, rows):
    lon, lat, title, value = zip(*rows, strict=True)
    title = [t.encode("utf-8", "ignore").decode() for t in title]
    path = tmp_path_factory.mktemp("any") / "s"
    places = {
        "place_id": [str(i) for i in range(len(rows))],
        "lon": lon,
        "lat": lat,
        "title": title,
        "x": np.array(value),
    }
    store = write_store(path, places=places)
    np.testing.assert_array_equal(store.lonlat, np.stack([lon, lat], 1))
    assert store.column("title").tolist() == title
    np.testing.assert_array_equal(store.column("x"), value)
    check_store(path)


def many_texts(n: int = 60, seed: int = 0) -> dict:
    """Texts of a few to many characters, in another order than the places."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(N)[:n]
    return {
        "place_id": [f"p{i}" for i in order],
        "text": [f"Élan {i} " + "né" * int(rng.integers(0, 400)) for i in order],
        "lang": ["fr" if i % 2 else None for i in order],
        "revision": [str(i) for i in order],
        "facts": [["kind", "height"][: i % 3] or None for i in order],
    }


def cut(texts: dict, sizes, as_table: bool):
    start = 0
    for size in sizes:
        part = {name: values[start : start + size] for name, values in texts.items()}
        yield pa.table(part) if as_table else part
        start += size
    assert start >= len(texts["text"])


@pytest.mark.parametrize("sizes, as_table", [([60], True), ([1] * 60, False), ([0, 7, 31, 22], True), ([59, 1, 0], False)])
def test_streamed_texts_give_the_same_files_however_they_are_cut(tmp_path, monkeypatch, sizes, as_table):
    monkeypatch.setattr(module, "TEXTS_PER_GROUP", 9)
    monkeypatch.setattr(module, "GROUP_BYTES", 3000)
    places, texts = content()["places"], many_texts()
    whole = write_store(tmp_path / "whole", places=places, texts=texts)
    parts = write_store(tmp_path / "parts", places=places, texts=cut(texts, sizes, as_table))
    assert parts.manifest == whole.manifest
    groups = pq.read_metadata(parts.path / "texts.parquet")
    lengths = [groups.row_group(i).num_rows for i in range(groups.num_row_groups)]
    assert sum(lengths) == 60 and max(lengths) <= 9 and len(lengths) > 7
    check_store(parts.path)


def test_row_groups_do_not_change_the_content(tmp_path, monkeypatch):
    places, texts = content()["places"], many_texts()
    whole = write_store(tmp_path / "whole", places=places, texts=texts)
    monkeypatch.setattr(module, "TEXTS_PER_GROUP", 4)
    monkeypatch.setattr(module, "ROWS_AT_A_TIME", 7)
    small = write_store(tmp_path / "small", places=places, texts=texts)
    assert small.data_hash == whole.data_hash and small.manifest["files"] != whole.manifest["files"]


def test_texts_are_not_held_while_they_are_streamed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "GROUP_BYTES", 1 << 20)
    n, rng, held = 160, np.random.default_rng(0), []
    texts = [rng.bytes(1 << 18).hex() for _ in range(4)]  # half a megabyte each, which does not compress well

    def stream():
        for i in range(n):
            held.append(pa.total_allocated_bytes())
            yield pa.table({"place_id": [f"p{i}"], "text": [f"{i} " + texts[i % 4]]})

    places = {"place_id": [f"p{i}" for i in range(n)], "lon": np.zeros(n), "lat": np.zeros(n)}
    before = pa.total_allocated_bytes()
    store = write_store(tmp_path / "s", places=places, texts=stream())
    assert max(held) - before < 16 << 20  # of 80 MB
    before = pa.total_allocated_bytes()
    read = [(len(batch), pa.total_allocated_bytes() - before) for batch in store._texts.batches("text")]
    assert sum(rows for rows, _ in read) == n and max(size for _, size in read) < 16 << 20
    assert store.texts([150]) == ["150 " + texts[2]] and pa.total_allocated_bytes() - before < 16 << 20


def test_an_empty_stream_is_a_store_without_texts(tmp_path):
    store = write_store(tmp_path / "s", places=content()["places"], texts=iter([]))
    assert not store.has("text").any() and not (store.path / "texts.parquet").exists()
    check_store(store.path)


def test_places_may_be_arrow_columns(written, tmp_path):
    given_ = content()
    given_["places"] = {
        name: pa.chunked_array([pa.array(values[:20], from_pandas=True), pa.array(values[20:], from_pandas=True)])
        for name, values in given_["places"].items()
    }
    given_["places"]["kind"] = given_["places"]["kind"].dictionary_encode()
    assert write_store(tmp_path / "s", **given_).manifest == written.manifest


def test_what_pandas_lacks_is_missing_and_not_a_word(tmp_path):
    pd = pytest.importorskip("pandas")
    climate, title = pd.Series(["Cfb", np.nan], dtype=object), pd.array(["here", pd.NA], dtype="string")
    places = {"place_id": ["a", "b"], "lon": [0.0, 1.0], "lat": [0.0, 1.0], "climate": climate, "title": title}
    lang = pd.Series(["en", pd.NaT], dtype=object)
    store = write_store(tmp_path / "s", places=places, texts={"place_id": ["a", "b"], "text": ["x", "y"], "lang": lang})
    assert store.column("climate").tolist() == ["Cfb", None] and store.column("title").tolist() == ["here", None]
    assert pq.read_table(store.path / "texts.parquet")["lang"].to_pylist() == ["en", None]
    with pytest.raises(StoreError, match="texts: row 1"):
        write_store(tmp_path / "t", places=places, texts={"place_id": ["a", "b"], "text": ["x", np.nan]})


def test_texts_come_in_the_order_asked_for_and_only_their_row_groups_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TEXTS_PER_GROUP", 5)
    texts = many_texts()
    store = write_store(tmp_path / "s", places=content()["places"], texts=texts)
    at = {name: i for i, name in enumerate(texts["place_id"])}
    rows = np.flatnonzero(store.has("text"))
    rng = np.random.default_rng(1)
    for asked in (rows, rng.choice(rows, 200), rows[::-1], rows[:1], [], store.has("text")):
        picked = np.asarray(asked)
        names = store.place_id[picked if picked.dtype == bool else picked.astype(int)]
        assert store.texts(asked) == [texts["text"][at[name]] for name in names]
        assert store.text_facts(asked) == [texts["facts"][at[name]] or [] for name in names]
        assert store.text_column("revision", asked) == [texts["revision"][at[name]] for name in names]
    read = []
    plain = pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda f, i, **o: read.append(i) or plain(f, i, **o))
    store = PlaceStore.open(store.path)
    assert read == []
    row = {name: i for i, name in enumerate(store.place_id)}
    store.texts([row[texts["place_id"][i]] for i in (12, 10, 59, 12)])
    assert read == [2, 11]
    store.texts([row[texts["place_id"][14]]])
    assert read == [2, 11]
    with pytest.raises(StoreError, match="no column 'mood'; there are place_id, text"):
        store.text_column("mood", rows)


def read_all(store):
    return store.texts([69, 3]), store.images([69, 4]).tolist()


def test_an_opened_store_can_be_pickled_and_forked(written):
    expected = read_all(written)
    assert read_all(pickle.loads(pickle.dumps(written))) == expected
    for method in ("fork", "spawn"):
        with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
            assert list(pool.map(read_all, [written] * 2, timeout=60)) == [expected] * 2


def test_texts_that_cannot_be_read_are_named(copy):
    file = copy / "texts.parquet"
    data = bytearray(file.read_bytes())
    data[4:200] = b"x" * 196
    file.write_bytes(data)
    with pytest.raises(StoreError, match="(?s)texts.parquet: cannot be read.*remove"):
        PlaceStore.open(copy, verify=False).texts([69])
    file.write_bytes(b"no parquet")
    with pytest.raises(StoreError, match="texts.parquet: cannot be read.*remove"):
        PlaceStore.open(copy, verify=False)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.drop_columns("lang"), "no column 'lang'"),
        (lambda t: t.set_column(1, "text", pa.array([1, 2, 3])), "column 'text' is int64, not string"),
        (lambda t: t.set_column(1, "text", pa.array(["a", "b", " \u3000"])), "row 2: empty text"),
        (lambda t: t.set_column(0, "place_id", pa.array(["p3", "p0", "q"])), "row 2: place_id 'q' is not in places"),
        (lambda t: t.set_column(0, "place_id", pa.array(["p3", "p0", "p3"])), "row 2: place_id 'p3' again, first in row 0"),
    ],
)
def test_texts_of_a_faulty_writer_are_refused(copy, change, message):
    pq.write_table(change(pq.read_table(copy / "texts.parquet")), copy / "texts.parquet")
    sign(copy)
    with pytest.raises(StoreError, match=f"texts.parquet: {message}"):
        PlaceStore.open(copy)


def test_a_store_with_plain_chunks_and_one_row_group_is_read_as_before(written, copy):
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec

    images, attributes = written.images(written.has("image")), dict(written._images.attrs)
    shutil.rmtree(copy / "images.zarr")
    array = zarr.create_array(
        copy / "images.zarr", shape=images.shape, chunks=(64, *images.shape[1:]), dtype="uint16", attributes=attributes,
        compressors=[BloscCodec(typesize=2, cname="lz4", clevel=5, shuffle="bitshuffle"), Crc32cCodec()],
    )  # fmt: skip
    array[:] = images[::-1]  # the places stand in the other order
    pq.write_table(pq.read_table(copy / "texts.parquet"), copy / "texts.parquet", compression="zstd")
    sign(copy)
    store = PlaceStore.open(copy, verify="full")
    assert store._shards is None and (copy / "images.zarr/c/1/0/0/0").exists()
    for rows in ([69, 4, 30, 30, 5], written.has("image")):
        np.testing.assert_array_equal(store.images(rows), written.images(rows))
    present = [False, True, True]
    np.testing.assert_array_equal(store.images([2, 69, 5], present), written.images([2, 69, 5], present))
    flip(copy / "images.zarr/c/0/0/0/0")
    with pytest.raises(StoreError, match="images.zarr: a chunk cannot be read"):
        PlaceStore.open(copy).images(written.has("image"))


def test_zarr_reads_the_images_too(written):
    import zarr

    array = zarr.open_array(written.path / "images.zarr", mode="r")
    rows = np.flatnonzero(written.has("image"))[::-1]
    np.testing.assert_array_equal(array[:], written.images(rows))
    assert array.chunks == (1, 12, 16, 16) and array.shards == (256, 12, 16, 16)
