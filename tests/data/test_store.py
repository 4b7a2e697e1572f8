"""The place store: what is written is read, by others too; every fault is refused by name."""

from __future__ import annotations

import errno
import json
import shutil

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
    """Arguments of write_store for N places, some with a text, 66 with an image (two chunks)."""
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
    with pytest.raises(StoreError, match=r"row 2 \(p2\) has no image"):
        written.images([5, 2])
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


@pytest.mark.parametrize("name", [*SMALL_FILES, "manifest.json", "images.zarr/c/1/0/0/0"])
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
    with pytest.raises(StoreError, match="images.zarr: a chunk cannot be read"):
        PlaceStore.open(copy).images([69, 68])


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
