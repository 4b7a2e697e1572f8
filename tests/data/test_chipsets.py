"""Published sets read from files made after their documentation, from twelve real ones, and from hostile ones."""

from __future__ import annotations

import csv
import io
import json
import lzma
import re
import shutil
import tarfile
import threading
import warnings
import zipfile
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faulty import tree
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from geonb.data.sources import chipsets
from geonb.data.sources.chipsets import from_major_tom, from_s2_100k, from_ssl4eo
from geonb.data.sources.local import real_data
from geonb.data.store import BANDS, PlaceStore, check_store
from geonb.data.work import Skips, WorkError

rasterio = pytest.importorskip("rasterio")

LONG = [f"B{int(b[1:]):02d}" if b[1:].isdigit() else b for b in BANDS]
FACTOR = [6, 1, 1, 1, 2, 2, 2, 1, 2, 6, 2, 2]  # of 10 m, as the bands of L2A are


def pixels(seed=0, edge=64, bands=12):
    return np.random.default_rng(seed).integers(60, 3000, (bands, edge, edge)).astype(np.uint16)


def tif(values, crs="EPSG:32631", origin=(500_000.0, 10_000.0), pixel=10.0, **more) -> bytes:
    """A GeoTIFF as bytes; its upper left corner is the origin."""
    from rasterio.io import MemoryFile
    from rasterio.transform import Affine

    values = values if values.ndim == 3 else values[None]
    profile = {"driver": "GTiff", "count": len(values), "height": values.shape[1], "width": values.shape[2]}
    profile |= {"dtype": values.dtype, "crs": crs, "compress": "lzw"} | more
    profile["transform"] = Affine(pixel, 0, origin[0], 0, -pixel, origin[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with MemoryFile() as memory:
            with memory.open(**profile) as target:
                target.write(values)
            return memory.read()


def middle(data: bytes):
    """Longitude and latitude of the centre of a GeoTIFF, by rasterio's own method."""
    from rasterio.io import MemoryFile

    with MemoryFile(data) as memory, memory.open() as source:
        return source.lnglat()


def put(path, data: bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_tar(path, members, **open_options):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **open_options) as tar:
        for member, data in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            if info.isreg():
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data) if info.isreg() else None)


def card(store):
    return (store.path / "datacard.md").read_text(encoding="utf-8")


def left_out(store):
    return store.manifest["made"]["left_out"]


# --- S2-100K


def s2_100k(folder, n=6, tar=False, index="fn,lon,lat\n"):
    """The set in its layout, chip i at its own place; returns the files' bytes."""
    files = {f"patch_{i}.tif": tif(pixels(i), origin=(500_000 + 3000.0 * i, 10_000)) for i in range(n)}
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"{name},{lon:.6f},{lat:.6f}" for name, (lon, lat) in ((k, middle(v)) for k, v in files.items())]
    (folder / "index.csv").write_text(index + "\n".join(rows) + "\n")
    if tar:
        half = list(files.items())
        write_tar(folder / "data/shard-00000.tar", half[: n // 2])
        write_tar(folder / "data/shard-00001.tar", half[n // 2 :], format=tarfile.PAX_FORMAT)
    else:
        for name, data in files.items():
            put(folder / "images" / name, data)
    return files


@pytest.mark.parametrize("tar", [False, True])
def test_s2_100k_loose_and_in_tar_files_is_the_same_store(tmp_path, tar):
    files = s2_100k(tmp_path / "set", tar=tar)
    store = from_s2_100k(tmp_path / "store", tmp_path / "set", size=64, progress=False)
    assert store.place_id.tolist() == [f"s2-100k-patch_{i}" for i in range(6)] and check_store(store.path)
    np.testing.assert_array_equal(store.images(range(6)), np.stack([pixels(i) for i in range(6)]))
    np.testing.assert_allclose(store.lonlat, [middle(data) for data in files.values()], atol=1e-6)
    assert store.column("index_km").max() < 0.001 and "position_flag" not in store.columns
    assert store.dates == [""] * 6 and left_out(store) == {} and store.gsd_m == 10
    assert not (tmp_path / "store.work").exists()


def test_the_middle_is_cut_out_and_stays_in_its_place(tmp_path):
    s2_100k(tmp_path / "set", 2)
    store = from_s2_100k(tmp_path / "store", tmp_path / "set", size=32, progress=False)
    np.testing.assert_array_equal(store.images([0, 1]), np.stack([pixels(i)[:, 16:48, 16:48] for i in range(2)]))
    assert store.column("index_km").max() < 0.001
    with pytest.raises(WorkError, match="smaller than 65"):
        from_s2_100k(tmp_path / "large", tmp_path / "set", size=65, progress=False)


def test_the_offset_is_taken_off_the_chips_that_carry_it(tmp_path):
    s2_100k(tmp_path / "set", 2)
    moved = tif(pixels(1) + 1000, origin=(503_000, 10_000))
    put(tmp_path / "set/images/patch_1.tif", moved)
    store = from_s2_100k(tmp_path / "a", tmp_path / "set", size=64, progress=False)
    assert store.column("offset_removed").tolist() == [0, 1000] and "taken off 1 chips" in card(store)
    np.testing.assert_array_equal(store.images([0, 1]), np.stack([pixels(0), pixels(1)]))
    raw = from_s2_100k(tmp_path / "b", tmp_path / "set", size=64, harmonise=False, progress=False)
    np.testing.assert_array_equal(raw.images([1])[0], pixels(1) + 1000)


def test_pixels_without_data_stay_without_when_the_offset_is_taken_off():
    image = pixels() + 1000
    image[:, :4] = 0
    image[0, 10, 10] = 900
    found, facts = chipsets._harmonise(image, 1000, True)
    assert (found[:, :4] == 0).all() and found[0, 10, 10] == 1 and facts["offset_removed"] == 1000
    np.testing.assert_array_equal(found[1, 4:], image[1, 4:] - 1000)
    kept, facts = chipsets._harmonise(pixels(), 1000, True)  # as dark as no such product is
    np.testing.assert_array_equal(kept, pixels())
    assert facts == {"offset_declared": 1000, "offset_removed": 0}


def test_every_row_and_file_that_cannot_be_used_is_counted_by_reason(tmp_path):
    folder = tmp_path / "set"
    files = s2_100k(folder)
    (lon, lat), far = middle(files["patch_0.tif"]), middle(files["patch_1.tif"])
    rows = [
        "fn,lon,lat", f"patch_0.tif,{lon},{lat}", f"images/patch_1.tif,{far[1]},{far[0]}", "patch_2.tif,nan,0",
        "patch_3.tif,,", 'patch_4.tif,10,"=1+1"', f"patch_0.tif,{lon},{lat}", "patch_5.tif,45,120", "patch_6.tif,1e999,0",
        '"=HYPERLINK(""http://x"")",1,1', "../../etc/passwd,1,1", "patch_7.tif,1,2", "patch_8.tif,3,0", "patch_9.tif,3,0",
        "patch_10.tif,3,0", "patch_11.tif,3,0", "patch_12.tif,3,0", "patch_13.tif,3,0", "patch_14.tif,3,0",
    ]  # fmt: skip
    (folder / "index.csv").write_text("\n".join(rows))
    bad = {
        8: tif(pixels(8, bands=11)), 9: tif(pixels(9).astype(np.float32)), 10: files["patch_0.tif"][:4000],
        11: tif(np.zeros((12, 64, 64), np.uint16)), 12: tif(pixels(12) // 20), 13: tif(pixels(13), crs=None),
        14: b"not an image", 99: files["patch_0.tif"],
    }  # fmt: skip
    for number, data in bad.items():
        put(folder / f"images/patch_{number}.tif", data)
    store = from_s2_100k(tmp_path / "store", folder, size=64, progress=False)
    assert store.place_id.tolist() == ["s2-100k-patch_0", "s2-100k-patch_1"]
    assert store.column("position_flag").tolist() == [None, "the index says otherwise"]  # latitude first in its row
    np.testing.assert_allclose(store.lonlat[1], far)
    assert left_out(store) == {
        "in the index: no position": 4,
        "in the index: a position out of range; longitude and latitude look swapped": 1,
        "in the index: a name again": 1,
        "in the index: not the name of an image": 2,
        "in the index, but its file is not here": 1,
        "a file that is not in the index": 5,
        "11 bands, not 12": 1,
        "pixels are float32, not uint16": 1,
        "cannot be read as a GeoTIFF; it may be damaged": 2,
        "no data in the whole chip": 1,
        "nothing above 255, so it is no reflectance x 10,000": 1,
        "no reference system, so it has no position": 1,
    }
    assert "patch_10.tif" in card(store) or "patch_14.tif" in card(store)


@pytest.mark.parametrize(
    ("transform", "reason"),
    [
        ((1, 0, 0, 0, 1, 0), "not georeferenced, so it has no position"),
        ((10, 0, 500_000, 0, 10, 10_000), "not north up"),
        ((10, 1, 500_000, 1, -10, 10_000), "not north up"),
        ((20, 0, 500_000, 0, -20, 10_000), "its pixels are not 10 m wide"),
        ((10, 0, 9e9, 0, -10, 9e9), "its position is not on Earth"),
    ],
)
def test_a_chip_whose_place_cannot_be_told_is_left_out(tmp_path, transform, reason):
    from rasterio.transform import Affine

    s2_100k(tmp_path / "set", 2)
    with rasterio.open(tmp_path / "set/images/patch_1.tif", "r+") as target:
        target.transform = Affine(*transform)
    store = from_s2_100k(tmp_path / "store", tmp_path / "set", size=64, progress=False)
    assert left_out(store) == {reason: 1}


def test_an_index_that_is_missing_or_none_raises_with_the_file(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        from_s2_100k(tmp_path / "s", tmp_path / "absent")
    with pytest.raises(ValueError, match=r"index\.csv: missing"):
        from_s2_100k(tmp_path / "s", tmp_path)
    (tmp_path / "index.csv").write_text("fn,longitude,lat\n")
    with pytest.raises(ValueError, match=r"index\.csv: no column 'lon'"):
        from_s2_100k(tmp_path / "s", tmp_path)
    (tmp_path / "index.csv").write_bytes(b"fn,lon,lat\n\xff\xfe,1,1\n")
    with pytest.raises(ValueError, match=r"index\.csv: .*utf-8"):
        from_s2_100k(tmp_path / "s", tmp_path)
    (tmp_path / "index.csv").write_text("fn,lon,lat\n")
    with pytest.raises(ValueError, match="neither GeoTIFFs nor tar files"):
        from_s2_100k(tmp_path / "s", tmp_path)
    for wrong in ({"size": 0}, {"size": 5000}, {"limit": 0}):
        (tmp_path / "patch_0.tif").write_bytes(b"")
        with pytest.raises(ValueError, match="must be"):
            from_s2_100k(tmp_path / "s", tmp_path, **wrong)


def test_a_hostile_tar_file_reaches_nothing_outside_and_what_is_good_in_it_is_read(tmp_path):
    folder = tmp_path / "set"
    files = s2_100k(folder, 3)
    shutil.rmtree(folder / "images")

    def special(name, kind, target=""):
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        return info, b""

    secret = tmp_path / "secret.tif"
    secret.write_bytes(files["patch_1.tif"])
    write_tar(folder / "a.tar", [
        ("images", b""), ("images/patch_0.tif", files["patch_0.tif"]),
        ("../patch_1.tif", files["patch_1.tif"]), ("/etc/patch_1.tif", files["patch_1.tif"]),
        special("patch_1.tif", tarfile.SYMTYPE, str(secret)), special("patch_1.tif", tarfile.LNKTYPE, "/etc/passwd"),
        special("patch_2.tif", tarfile.CHRTYPE), special("patch_2.tif", tarfile.FIFOTYPE),
        ("patch_2.tif\n# `no` markdown", b"x"), ("patch_0.tif", files["patch_0.tif"]),
    ])  # fmt: skip
    huge = tarfile.TarInfo("patch_2.tif")
    huge.size = 1 << 40
    (folder / "b.tar").write_bytes(huge.tobuf(tarfile.GNU_FORMAT) + b"x" * 2048)
    header = tarfile.TarInfo("././@PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, 1 << 40  # a header that asks for a terabyte of memory
    (folder / "c.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + b"1" * 2048)
    (folder / "d.tar").write_bytes(b"no tar file at all" * 100)
    (folder / "e.tar.gz").write_bytes(b"")
    whole = tmp_path / "whole.tar"
    write_tar(whole, [("patch_2.tif", files["patch_2.tif"])])
    (folder / "f.tar").write_bytes(whole.read_bytes()[:3000])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    store = from_s2_100k(tmp_path / "store", folder, size=64, progress=False)
    assert store.place_id.tolist() == ["s2-100k-patch_0"]
    assert left_out(store) == {
        "in a tar file: a name that leaves its folder": 2,
        "in a tar file: a link, a device or the like": 4,
        "in a tar file: not named as an image of the set": 2,
        "in a tar file: more than 64 MB": 1,
        "a tar file that is damaged from some point on": 4,
        "a compressed tar file; unpack it to a plain .tar first": 1,
        "cut off: the file ends before it does": 1,
        "in the index, but its file is not here": 2,
        "a second copy": 1,
    }
    assert "`no`" not in card(store) and {p: p.stat().st_mtime_ns for p in before} == before
    assert set(tmp_path.rglob("*")) - set(before) == {store.path, *store.path.rglob("*")}


def test_a_good_second_copy_takes_the_place_of_a_damaged_first(tmp_path):
    files = s2_100k(tmp_path / "set", 2)
    shutil.rmtree(tmp_path / "set/images")
    good = files["patch_0.tif"]
    write_tar(tmp_path / "set/a.tar", [("patch_0.tif", good[:5000]), ("patch_0.tif", good), ("b/patch_0.tif", good)])
    write_tar(tmp_path / "set/b.tar", [("patch_1.tif", files["patch_1.tif"]), ("patch_0.tif", good)])
    store = from_s2_100k(tmp_path / "store", tmp_path / "set", size=64, progress=False)
    np.testing.assert_array_equal(store.images([0, 1]), [pixels(0), pixels(1)])
    assert left_out(store) == {"a second copy": 2, "cannot be read as a GeoTIFF; it may be damaged": 1}


def test_claims_of_enormous_size_are_refused_before_anything_is_read(tmp_path):
    s2_100k(tmp_path / "set", 4)
    names = iter(("patch_0.tif", "patch_1.tif"))
    for edge in (60_000, 2_000_000_000):
        data = bytearray(tif(pixels(0)))
        for tag in (256, 257):  # ImageWidth, ImageLength: a short (3) becomes a long (4)
            at = data.find(tag.to_bytes(2, "little") + b"\3\0\1\0\0\0")
            data[at + 2 : at + 12] = b"\4\0\1\0\0\0" + edge.to_bytes(4, "little")
        put(tmp_path / "set/images" / next(names), bytes(data))
    tiled = tif(pixels(2), tiled=True, blockxsize=64, blockysize=64)
    data = bytearray(tiled)
    for tag in (322, 323):  # TileWidth, TileLength
        at = data.find(tag.to_bytes(2, "little") + b"\3\0\1\0\0\0")
        data[at + 2 : at + 12] = b"\4\0\1\0\0\0" + (65_536).to_bytes(4, "little")
    put(tmp_path / "set/images/patch_2.tif", bytes(data))
    store = from_s2_100k(tmp_path / "store", tmp_path / "set", size=64, progress=False)
    assert store.place_id.tolist() == ["s2-100k-patch_3"]
    assert sum(left_out(store).values()) == 3 and left_out(store)["claims more than 4096 pixels in a row"] >= 2


def test_another_format_under_the_name_of_a_geotiff_is_not_followed(tmp_path):
    s2_100k(tmp_path / "set", 2)
    target = tmp_path / "elsewhere.tif"
    target.write_bytes(tif(pixels(1)))
    bands = "".join(
        f'<VRTRasterBand dataType="UInt16" band="{i + 1}"><SimpleSource><SourceFilename>{target}</SourceFilename>'
        f"<SourceBand>{i + 1}</SourceBand></SimpleSource></VRTRasterBand>" for i in range(12)
    )  # fmt: skip
    vrt = f'<VRTDataset rasterXSize="64" rasterYSize="64"><SRS>EPSG:32631</SRS>{bands}</VRTDataset>'
    put(tmp_path / "set/images/patch_1.tif", vrt.encode())
    store = from_s2_100k(tmp_path / "store", tmp_path / "set", size=64, progress=False)
    assert left_out(store) == {"cannot be read as a GeoTIFF; it may be damaged": 1}


def test_the_limit_takes_the_first_and_the_rest_is_not_read(tmp_path, monkeypatch):
    s2_100k(tmp_path / "set", 6, tar=True)
    monkeypatch.setattr(chipsets, "PART", 2)
    store = from_s2_100k(tmp_path / "store", tmp_path / "set", size=64, limit=3, progress=False)
    assert store.place_id.tolist() == [f"s2-100k-patch_{i}" for i in range(3)]
    np.testing.assert_array_equal(store.images([2])[0], pixels(2))


def test_work_that_was_stopped_at_any_point_ends_in_the_same_bytes(tmp_path, monkeypatch):
    s2_100k(tmp_path / "set", 6, tar=True)
    put(tmp_path / "set/images/patch_1.tif", b"damaged")
    monkeypatch.setattr(chipsets, "PART", 2)
    whole = from_s2_100k(tmp_path / "a/store", tmp_path / "set", size=64, progress=False)
    read, calls, lock = chipsets._one_tif, {"n": 0}, threading.Lock()
    for stop in range(1, 12):

        def one_tif(data, size, stop=stop):
            with lock:
                calls["n"] += 1
                if calls["n"] == stop:
                    raise KeyboardInterrupt
            return read(data, size)

        calls["n"] = 0
        out = tmp_path / f"{stop}/store"
        monkeypatch.setattr(chipsets, "_one_tif", one_tif)
        with pytest.raises(KeyboardInterrupt):
            from_s2_100k(out, tmp_path / "set", size=64, progress=False)
        before = calls["n"]
        from_s2_100k(out, tmp_path / "set", size=64, progress=False)
        assert tree(out) == tree(whole.path) and not (tmp_path / f"{stop}/store.work").exists()
        if stop > 4:
            assert calls["n"] - before < 13  # the first reading was not begun anew


def test_other_options_or_files_do_not_go_on_from_work_that_is_there(tmp_path, monkeypatch):
    s2_100k(tmp_path / "set", 2)
    monkeypatch.setattr(chipsets, "_images", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        from_s2_100k(tmp_path / "store", tmp_path / "set", size=64, progress=False)
    monkeypatch.undo()
    with pytest.raises(WorkError, match="size: begun with 64, now 32"):
        from_s2_100k(tmp_path / "store", tmp_path / "set", size=32, progress=False)
    # A file of the same length with other pixels: the second reading finds it.
    path = tmp_path / "set/images/patch_1.tif"
    length = path.stat().st_size
    for seed in range(50, 400):
        data = tif(pixels(seed), origin=(503_000, 10_000))
        if len(data) <= length:
            path.write_bytes(data + b"\0" * (length - len(data)))
            break
    with pytest.raises(WorkError, match="changed while they were read"):
        from_s2_100k(tmp_path / "store", tmp_path / "set", size=64, progress=False)
    put(tmp_path / "set/images/patch_2.tif", b"")
    with pytest.raises(WorkError, match="files: begun with"):
        from_s2_100k(tmp_path / "store", tmp_path / "set", size=64, progress=False)


def test_the_real_chips_are_read_as_the_set_has_them(tmp_path):
    try:
        chips = real_data()["chips"]
    except FileNotFoundError as error:
        pytest.skip(f"REAL DATA ABSENT, nothing real was tested: {error}")
    rows = ["fn,lon,lat"] + [f"{p.name},{lon},{lat}" for p in chips for lon, lat in [middle(p.read_bytes())]]
    write_tar(tmp_path / "set/data/shard-00000.tar", [(p.name, p.read_bytes()) for p in chips])
    (tmp_path / "set/index.csv").write_text("\n".join(rows))
    store = from_s2_100k(tmp_path / "store", tmp_path / "set", harmonise=False, progress=False)
    assert len(store) == 12 and left_out(store) == {} and store.column("index_km").max() < 1e-6
    for row, path in enumerate(chips):
        with rasterio.open(path) as source:
            np.testing.assert_array_equal(store.images([row])[0], source.read())
    small = from_s2_100k(tmp_path / "small", tmp_path / "set", size=100, progress=False)
    assert small.images([0]).shape == (1, 12, 100, 100) and set(small.column("offset_removed")) <= {0, 1000}
    np.testing.assert_array_equal(small.lonlat, store.lonlat)


# --- damage of any kind

ONE_TIF = tif(pixels(0, 16))


def damaged(data: bytes, hits) -> bytes:
    data = bytearray(data)
    for at, value in hits:
        data[at % len(data)] = value
    return bytes(data)


hits = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=12)


@settings(max_examples=150, deadline=None)
@given(hits=hits, end=st.integers(0, len(ONE_TIF)))
@example(hits=[(2224, 128), (1048574, 0)], end=0)  # a name that is no UTF-8
def test_a_damaged_geotiff_is_read_or_unfit_and_nothing_else(hits, end):
    for data in (damaged(ONE_TIF, [(at % 600, v) for at, v in hits]), damaged(ONE_TIF, hits)[:end]):
        try:
            image, *_ = chipsets._one_tif(data, 16)
        except chipsets._Unfit as unfit:
            assert unfit.reason
        else:
            assert image.shape == (12, 16, 16) and image.dtype == np.uint16


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(hits=hits, end=st.integers(1, 40))
def test_a_damaged_tar_file_gives_members_that_lie_in_it(tmp_path, hits, end):
    path = tmp_path / "a.tar"
    write_tar(path, [(f"patch_{i}.tif", bytes(700)) for i in range(4)], format=tarfile.PAX_FORMAT)
    path.write_bytes(damaged(path.read_bytes(), hits)[: end * 512])
    skips = Skips()
    entries = chipsets._tar_entries(path, chipsets._TIF, skips)
    assert len(entries) <= 4 and all(e.offset + e.size <= path.stat().st_size for e in entries)
    for entry in entries:
        assert len(chipsets._entry_bytes(entry)) == entry.size


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(st.text(max_size=20), st.text(max_size=8), st.floats() | st.text(max_size=8)), max_size=8))
def test_every_row_of_an_index_is_used_or_counted(tmp_path, rows):
    with (tmp_path / "index.csv").open("w", newline="", encoding="utf-8", errors="replace") as stream:
        csv.writer(stream).writerows([["fn", "lon", "lat"], *[[f"{a}.tif", b, c] for a, b, c in rows]])
    skips = Skips()
    try:
        index = chipsets._read_index(tmp_path / "index.csv", skips)
    except ValueError as error:  # such as a row cut in two by a lone carriage return
        assert "index.csv" in str(error)
        return
    assert len(index) + sum(skips.counts.values()) >= len(rows)
    assert all(abs(lon) <= 180 and abs(lat) <= 90 and "/" not in name for name, (lon, lat) in index.items())


# --- SSL4EO-S12

SCENES = ["20200403T101021_20200403T101023_T33UUP", "20200707T101031_20200707T101029_T33UUP",
          "20201010T101031_20201010T101029_T33UUP", "20220215T101031_20220215T101029_T33UUP"]  # fmt: skip
CLOUDS = [12.5, 3.25, 19.0, 7.0]


def ssl4eo_10(folder, places=2, edge=60, offset=0):
    """Version 1.0: a file a band, in degrees, each band shifted by half of its own pixel."""
    full = {}
    for place in range(places):
        for season, scene in enumerate(SCENES):
            here = folder / f"s2a/{place:07d}" / scene
            values = pixels(10 * place + season, edge) + (offset if season == 3 else 0)
            full[place, season] = values
            for band, factor in enumerate(FACTOR):
                step = 1e-4 * factor
                origin = (12.0 + place - step / 2, 50.0 + step / 2)
                coarse = values[band, ::factor, ::factor]
                put(here / f"{BANDS[band]}.tif", tif(coarse, "EPSG:4326", origin, step, compress=None))
            facts = {"CLOUDY_PIXEL_PERCENTAGE": CLOUDS[season], "PROCESSING_BASELINE": "04.00" if season == 3 else "02.14"}
            put(here / "metadata.json", json.dumps(facts).encode())
    return full


def repeated(values, size, whole):
    """What the store must have: coarse bands repeated to 10 m, then the middle."""
    out = np.stack([v[::f, ::f].repeat(f, 0).repeat(f, 1) for v, f in zip(values, FACTOR, strict=True)])
    edge = (whole - size) // 2
    return out[:, edge : edge + size, edge : edge + size]


@pytest.mark.parametrize(("season", "chosen"), [("clearest", 1), (0, 0), (2, 2), (3, 3)])
def test_ssl4eo_10_gives_the_season_asked_for(tmp_path, season, chosen):
    full = ssl4eo_10(tmp_path / "set")
    store = from_ssl4eo(tmp_path / "store", tmp_path / "set", season=season, size=50, harmonise=False, progress=False)
    assert store.place_id.tolist() == ["ssl4eo-0000000", "ssl4eo-0000001"] and check_store(store.path)
    date = f"{SCENES[chosen][:4]}-{SCENES[chosen][4:6]}-{SCENES[chosen][6:8]}"
    assert store.dates == [date, date] and store.column("cloud_share").tolist() == [CLOUDS[chosen] / 100] * 2
    for row in range(2):
        np.testing.assert_array_equal(store.images([row])[0], repeated(full[row, chosen], 50, 60))
    np.testing.assert_allclose(store.lonlat, [[12.003, 49.997], [13.003, 49.997]], atol=1e-4)
    again = from_ssl4eo(tmp_path / "again", tmp_path / "set/s2a", season=season, size=50, harmonise=False, progress=False)
    assert again.data_hash == store.data_hash


def test_ssl4eo_10_takes_off_the_offset_by_baseline_and_date(tmp_path):
    full = ssl4eo_10(tmp_path / "set", places=1, offset=1000)
    store = from_ssl4eo(tmp_path / "a", tmp_path / "set", season=3, size=60, progress=False)
    assert store.column("offset_declared").tolist() == [1000] and store.column("offset_removed").tolist() == [1000]
    np.testing.assert_array_equal(store.images([0])[0], repeated(full[0, 3] - 1000, 60, 60))
    before = from_ssl4eo(tmp_path / "b", tmp_path / "set", season=0, size=60, progress=False)
    assert before.column("offset_declared").tolist() == [0]


def test_ssl4eo_10_counts_what_it_cannot_use(tmp_path):
    ssl4eo_10(tmp_path / "set", places=7)
    top = tmp_path / "set/s2a"
    (top / "0000001" / SCENES[1] / "B9.tif").unlink()
    put(top / "0000002" / SCENES[1] / "B4.tif", tif(pixels(0, 60, 1), "EPSG:4326", (14.1, 50), 1e-4))
    put(top / "0000003" / SCENES[1] / "B5.tif", tif(pixels(0, 25, 1), "EPSG:4326", (15, 50), 2e-4))
    shutil.rmtree(top / "0000004")
    (top / "0000004").mkdir()
    for scene in SCENES:  # hostile or damaged facts of scenes are unknown facts
        put(top / "0000005" / scene / "metadata.json", b'[{"CLOUDY_PIXEL_PERCENTAGE": 1}]')
        put(top / "0000006" / scene / "metadata.json", b"[" * 100_000)
    (top / "notes").mkdir()
    store = from_ssl4eo(tmp_path / "store", tmp_path / "set", size=60, progress=False)
    assert store.place_id.tolist() == [f"ssl4eo-{i:07d}" for i in (0, 5, 6)]
    assert left_out(store) == {
        "a file is missing": 1, "its bands are not of one place": 1, "no season in the folder of a location": 1,
        "B5 has 25 x 25 pixels, which do not fit 60": 1,
    }  # fmt: skip
    assert store.dates[1] == "2020-04-03" and np.isnan(store.column("cloud_share")[1])


def zarr_zip(values, clouds, names, scenes=SCENES, many=True) -> bytes:
    """Version 1.1 as xarray writes it: Zarr version 2 in a zip file; of many samples, or of one."""
    xarray = pytest.importorskip("xarray")
    from zarr.storage import ZipStore

    dims = ("sample", "time") if many else ("time",)
    pick = (lambda v: v) if many else (lambda v: v[0])
    n, times = len(names), len(scenes)
    stamp = np.array([f"{s[:4]}-{s[4:6]}-{s[6:8]}T{s[9:11]}:00:00" for s in scenes], "datetime64[ns]")
    variables = {
        "bands": ((*dims, "band", "y", "x"), pick(values)),
        "cloud_mask": ((*dims, "y", "x"), pick(clouds)),
        "center_lat": (dims[:-1], pick(np.array([40.0 + i for i in range(n)]))),
        "center_lon": (dims[:-1], pick(np.array([-100.0 + i for i in range(n)]))),
        "crs": (dims[:-1], pick(np.full(n, 32_614))),
        "file_id": (dims, pick(np.array([scenes] * n))),
        "time_": (dims, pick(np.array([stamp] * n))),
    }
    coords = {"band": np.array(LONG), "time": np.arange(times), "sample": np.array(names) if many else names[0]}
    data = xarray.Dataset(variables, coords)
    chunks = {name: tuple(1 if d == "time" else s for d, s in zip(data[name].dims, data[name].shape, strict=True))
              for name in ("bands", "cloud_mask")}  # fmt: skip
    import tempfile

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = f"{folder}/a.zarr.zip"
        with ZipStore(path, mode="w") as store:
            data.to_zarr(store, zarr_format=2, consolidated=True, encoding={k: {"chunks": v} for k, v in chunks.items()})
        with open(path, "rb") as stream:
            return stream.read()


def ssl4eo_11(n=3, edge=40):
    values = np.stack([[pixels(100 + 10 * i + t, edge) for t in range(4)] for i in range(n)]).astype(np.int16)
    clouds = np.zeros((n, 4, edge, edge), np.uint8)
    for i in range(n):
        for t in range(4):
            clouds[i, t, : 4 * ((t - i) % 4 + 1)] = 3 + t % 2
    return values, clouds, [f"{i:07d}" for i in range(n)]


@pytest.mark.parametrize("many", [True, False])
def test_ssl4eo_11_in_both_forms(tmp_path, many):
    values, clouds, names = ssl4eo_11()
    if many:
        put(tmp_path / "set/train/S2L2A/ssl4eos12_train_seasonal_data_000001.zarr.zip",
            zarr_zip(values + 1000, clouds, names))  # fmt: skip
    else:
        members = [(f"{name}.zarr.zip", zarr_zip(values[i : i + 1], clouds[i : i + 1], [name], many=False))
                   for i, name in enumerate(names)]  # fmt: skip
        write_tar(tmp_path / "set/train/S2L2A/ssl4eos12_shard_000001.tar", members)
    put(tmp_path / "set/train/S1GRD/ssl4eos12_train_seasonal_data_000001.zarr.zip", b"not looked at")
    store = from_ssl4eo(tmp_path / "store", tmp_path / "set", size=40, progress=False)
    assert sorted(store.place_id) == [f"ssl4eo-{name}" for name in names] and left_out(store) == {}
    assert (store.column("offset_removed") == (1000 if many else 0)).all()
    for row, name in enumerate(store.place_id):
        i = int(name[-1])
        np.testing.assert_array_equal(store.images([row])[0], values[i, i])  # the i-th season is the clearest there
        assert store.image_dates([row]) == [f"{SCENES[i][:4]}-{SCENES[i][4:6]}-{SCENES[i][6:8]}"]
        if not many:
            assert store.lonlat[row].tolist() == [-100, 40] and store.column("cloud_share")[row] == pytest.approx(0.1)
        else:
            assert store.lonlat[row].tolist() == [-100 + i, 40 + i]
    last = from_ssl4eo(tmp_path / "last", tmp_path / "set", season=3, size=30, progress=False)
    assert last.dates == ["2022-02-15"] * 3 and last.images([0]).shape == (1, 12, 30, 30)


def test_negative_values_where_an_offset_was_taken_off_are_dark_and_not_missing(tmp_path):
    values, clouds, names = ssl4eo_11(1)
    values[:, :, 0, :5] = -30
    values[:, :, :, 10:12] = -1000  # nothing in any band
    write_tar(tmp_path / "set/a.tar", [("a.zarr.zip", zarr_zip(values, clouds, names, many=False))])
    image = from_ssl4eo(tmp_path / "store", tmp_path / "set", size=40, progress=False).images([0])[0]
    assert (image[0, :5] == 1).all() and (image[:, 10:12] == 0).all()


def rewritten(data: bytes, change) -> bytes:
    """A zip file with its members passed through ``change(name, bytes)``."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in dict.fromkeys(old.namelist()):
            changed = change(name, old.read(name))
            if changed is not None:
                new.writestr(name, changed)
    return out.getvalue()


def test_hostile_zarr_files_run_nothing_and_are_counted(tmp_path, monkeypatch):
    values, clouds, names = ssl4eo_11(1)
    good = zarr_zip(values, clouds, names, many=False)

    def meta(array, **change):
        def one(name, data):
            return json.dumps(json.loads(data) | change).encode() if name == f"{array}/.zarray" else data

        return rewritten(good, one)

    def chunk(name, data):
        return data[:4] + (1 << 31).to_bytes(4, "little") + data[8:] if name.startswith("bands/1") else data

    bad = {
        "pickle": meta("file_id", dtype="|O", filters=[{"id": "pickle", "protocol": 5}]),
        "filter": meta("bands", filters=[{"id": "pickle", "protocol": 5}]),
        "zlib": meta("bands", compressor={"id": "zlib", "level": 1}),
        "huge": meta("bands", shape=[4, 12, 1 << 30, 1 << 30], chunks=[1, 12, 1 << 30, 1 << 30]),
        "blosc": rewritten(good, lambda n, d: chunk("bands/1", d) if n.startswith("bands/") and "z" not in n else d),
        "bands": rewritten(good, lambda n, d: None if n.startswith("band/") else d),
        "list": rewritten(good, lambda n, d: b"[]" if n.endswith(".zarray") else d),
        "cut": good[:-2000],
        "negative": meta("bands", chunks=[1, 12, -40, -40]),
        "thirteen": meta("bands", shape=[4, 13, 40, 40]),
    }  # fmt: skip
    ran = []
    import pickle

    monkeypatch.setattr(pickle, "loads", lambda *a, **k: ran.append(a))
    write_tar(tmp_path / "set/a.tar", [(f"{name}.zarr.zip", data) for name, data in bad.items()] + [("ok.zarr.zip", good)])
    store = from_ssl4eo(tmp_path / "store", tmp_path / "set", size=40, progress=False)
    assert store.place_id.tolist() == ["ssl4eo-ok"] and not ran
    assert sum(left_out(store).values()) == len(bad)
    assert left_out(store)["a Zarr array that is not of plain numbers"] == 2


def test_a_chunk_that_says_another_length_than_it_has_is_not_unpacked(tmp_path):
    values, clouds, names = ssl4eo_11(1)
    good = zarr_zip(values, clouds, names, many=False)
    bad = {
        "short": rewritten(good, lambda n, d: d[:200] if re.fullmatch(r"bands/\d.*", n) else d),
        "long": rewritten(good, lambda n, d: d + b"x" if re.fullmatch(r"bands/\d.*", n) else d),
    }
    write_tar(tmp_path / "set/a.tar", [(f"{name}.zarr.zip", data) for name, data in [*bad.items(), ("ok", good)]])
    store = from_ssl4eo(tmp_path / "store", tmp_path / "set", size=40, progress=False)
    assert store.place_id.tolist() == ["ssl4eo-ok"]
    assert left_out(store) == {"a Zarr chunk of another size than it should have": 2}


@pytest.mark.parametrize("error", [EOFError, OverflowError, lzma.LZMAError, zlib.error, IndexError])
def test_whatever_a_damaged_zip_file_raises_leaves_out_that_file_alone(tmp_path, monkeypatch, error):
    values, clouds, names = ssl4eo_11(1)
    good, read = zarr_zip(values, clouds, names, many=False), zipfile.ZipFile.read

    def fails(self, name, *more):
        if self.comment == b"bad":
            raise error("damaged")
        return read(self, name, *more)

    bad = io.BytesIO(good)
    with zipfile.ZipFile(bad, "a") as archive:
        archive.comment = b"bad"
    monkeypatch.setattr(zipfile.ZipFile, "read", fails)
    write_tar(tmp_path / "set/a.tar", [("bad.zarr.zip", bad.getvalue()), ("ok.zarr.zip", good)])
    store = from_ssl4eo(tmp_path / "store", tmp_path / "set", size=40, progress=False)
    assert store.place_id.tolist() == ["ssl4eo-ok"]
    assert left_out(store) == {"a .zarr.zip that is damaged or of another layout": 1}


def test_damaged_zarr_files_are_read_or_counted(tmp_path):
    values, clouds, names = ssl4eo_11(1)
    good, rng = zarr_zip(values, clouds, names, many=False), np.random.default_rng(1)
    members = [("good.zarr.zip", good)]
    for i in range(60):
        hit = [(int(at), int(v)) for at, v in zip(rng.integers(0, len(good), 200), rng.integers(0, 256, 200), strict=True)]
        members.append((f"bad{i}.zarr.zip", damaged(good, hit)))
        plain = rewritten(good, lambda n, d, hit=hit: damaged(d, hit[:2]) if n.endswith((".zarray", "0.0")) else d)
        members.append((f"meta{i}.zarr.zip", plain))
    write_tar(tmp_path / "set/a.tar", members)
    store = from_ssl4eo(tmp_path / "store", tmp_path / "set", size=40, progress=False)
    assert "ssl4eo-good" in store.place_id and len(store) + sum(left_out(store).values()) == 121


def test_a_folder_in_no_layout_and_an_unknown_season_say_so(tmp_path):
    with pytest.raises(ValueError, match="no SSL4EO-S12 L2A here"):
        from_ssl4eo(tmp_path / "store", tmp_path)
    with pytest.raises(ValueError, match="unknown season 'winter'"):
        from_ssl4eo(tmp_path / "store", tmp_path, season="winter")


# --- Major TOM

PRODUCT = "S2B_MSIL2A_20230415T181919_N{}_R127_T31UDP_20230415T211527"


def major_tom(folder, cells, edge=60, group=1):
    """Core-S2L2A: a GeoTIFF a band and row, metadata beside; each cell is a dict of what differs."""
    meta, data = [], []
    for row, cell in enumerate(cells):
        values = cell.get("values", pixels(row, edge))
        origin = (500_000.0 + 20_000 * row, 5_000_000.0)
        bands = {
            name: tif(values[b, ::f, ::f], "EPSG:32631", origin, 10.0 * f)
            for b, (name, f) in enumerate(zip(LONG, FACTOR, strict=True))
        }
        lon, lat = middle(bands["B02"])
        url = "https://huggingface.co/datasets/Major-TOM/Core-S2L2A/resolve/main/images/part_00001.parquet"
        one = {
            "grid_cell": f"{450 + row}U_{row}R", "grid_row_u": 450 + row, "grid_col_r": row,
            "product_id": PRODUCT.format("0209"), "timestamp": "20230415T181919", "cloud_cover": 1.5, "nodata": 0.0,
            "centre_lat": lat, "centre_lon": lon, "crs": "EPSG:32631", "parquet_url": url, "parquet_row": row,
        } | cell.get("meta", {})  # fmt: skip
        meta.append(one)
        bands |= cell.get("bands", {})
        keys = {"product_id": one["product_id"], "grid_cell": one["grid_cell"]} | cell.get("keys", {})
        data.append({**keys, "product_datetime": "2023-04-15", "thumbnail": b"", **bands, "cloud_mask": b""})
    (folder / "images").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(meta), folder / "metadata.parquet")
    pq.write_table(pa.Table.from_pylist(data), folder / "images/part_00001.parquet", row_group_size=group)


@pytest.mark.parametrize("group", [1, 4])
def test_major_tom_cells_in_the_middle_with_date_and_baseline(tmp_path, group):
    major_tom(tmp_path / "set", [
        {}, {"meta": {"product_id": PRODUCT.format("0400")}, "values": pixels(1, 60) + 1000},
        {"meta": {"product_id": PRODUCT.format("0510")}},
        {"meta": {"product_id": PRODUCT.format("9999"), "timestamp": "2019-07-31 01:56:59"}, "values": pixels(3, 60) + 1000},
    ], group=group)  # fmt: skip
    store = from_major_tom(tmp_path / "store", tmp_path / "set", size=35, progress=False)
    assert store.place_id.tolist() == [f"majortom-{450 + i}U_{i}R" for i in range(4)] and check_store(store.path)
    assert store.dates == ["2023-04-15"] * 3 + ["2019-07-31"]
    for row in range(4):  # an odd size: the middle is half a pixel away
        np.testing.assert_array_equal(store.images([row])[0], repeated(pixels(row, 60), 35, 60))
    assert store.column("offset_removed").tolist() == [0, 1000, 0, 1000]
    assert store.column("offset_declared")[[0, 1, 2]].tolist() == [0, 1000, 1000] and "1 chips were said" in card(store)
    assert store.column("index_km").max() < 0.01 and store.column("epsg").tolist() == [32631] * 4
    assert store.column("cloud_share").tolist() == [0.015] * 4


def test_major_tom_counts_clouds_missing_data_and_rows_that_do_not_fit(tmp_path):
    cut = {"B04": tif(pixels(0, 60, 1), origin=(660_000, 5_000_000))[:4000]}
    major_tom(tmp_path / "set", [
        {}, {"meta": {"cloud_cover": 50.0}}, {"meta": {"nodata": 0.2}}, {"meta": {"cloud_cover": None}},
        {"meta": {"grid_cell": "../../x"}}, {"meta": {"parquet_url": "https://x/part_00099.parquet"}},
        {"keys": {"grid_cell": "1U_1R"}}, {"meta": {"parquet_row": 99}}, {"bands": cut}, {"bands": {"B8A": None}},
        {"meta": {"parquet_url": "/etc/passwd"}}, {"meta": {"grid_cell": "450U_0R", "cloud_cover": 0.5}},
        {"meta": {"centre_lat": 10.0}},
    ])  # fmt: skip
    store = from_major_tom(tmp_path / "store", tmp_path / "set", size=60, progress=False)
    assert store.place_id.tolist() == ["majortom-450U_0R", "majortom-462U_12R"]
    np.testing.assert_array_equal(store.images([0])[0], repeated(pixels(11, 60), 60, 60))  # the clearer of two
    assert store.column("position_flag").tolist() == [None, "the metadata say otherwise"] and store.lonlat[1, 1] > 40
    assert left_out(store) == {
        "more than 20% of the cell under clouds": 1, "more than 0% of the cell without data": 1,
        "in the metadata: a number is missing": 1, "in the metadata: not a cell of the grid": 1,
        "in the metadata, but its file is not here": 2, "the row is of another cell than the metadata say": 1,
        "a row that its file does not have": 1, "cannot be read as a GeoTIFF; it may be damaged": 1,
        "a band is missing": 1, "another acquisition of the same cell": 1,
    }  # fmt: skip


def test_major_tom_without_metadata_or_with_broken_files_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"metadata\.parquet: missing"):
        from_major_tom(tmp_path / "store", tmp_path)
    pq.write_table(pa.table({"grid_cell": ["1U_1R"]}), tmp_path / "metadata.parquet")
    with pytest.raises(ValueError, match=r"metadata\.parquet: no column"):
        from_major_tom(tmp_path / "store", tmp_path)
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match=r"metadata\.parquet: "):
        from_major_tom(tmp_path / "store", tmp_path)
    major_tom(tmp_path / "set", [{}, {}])
    (tmp_path / "set/images/part_00001.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(WorkError, match="2 left out: in a file that cannot be read as Parquet"):
        from_major_tom(tmp_path / "store", tmp_path / "set", progress=False)


def test_a_store_that_is_there_is_left_alone(tmp_path):
    s2_100k(tmp_path / "set", 2)
    first = from_s2_100k(tmp_path / "store", tmp_path / "set", size=64, progress=False)
    with pytest.raises(WorkError, match="exists already"):
        from_s2_100k(tmp_path / "store", tmp_path / "set", size=32, progress=False)
    assert PlaceStore.open(tmp_path / "store").data_hash == first.data_hash
