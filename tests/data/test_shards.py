"""Shards of images: zarr-python reads what is written, reads what it wrote is read, and damage is named."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec

from geonb.data import shards

SHAPE = (12, 4, 6)
N = 23


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 65536, (N, *SHAPE)).astype(np.uint16)
    images[3] = 0
    images[5:9] = rng.integers(0, 9, (4, 1, 1, 1))  # that compress well, and one that does not
    return images


@pytest.fixture
def folder(images, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "IMAGES_PER_SHARD", 8)
    size = shards.create(tmp_path / "a", images.shape, {"scale": 1})
    assert size == 8
    for shard, start in enumerate(range(0, N, size)):
        shards.write(tmp_path / "a", shard, images[start : start + size], size)
    return tmp_path / "a"


def test_zarr_reads_what_is_written(folder, images):
    array = zarr.open_array(folder, mode="r")
    np.testing.assert_array_equal(array[:], images)
    assert array.attrs["scale"] == 1 and array.chunks == (1, *SHAPE) and array.shards == (8, *SHAPE)


def test_what_zarr_writes_is_read(images, tmp_path):
    for size in (1, 5, 23, 40):
        array = zarr.create_array(
            tmp_path / str(size), shape=images.shape, chunks=(1, *SHAPE), shards=(size, *SHAPE), dtype="uint16",
            compressors=[BloscCodec(typesize=2, cname="zstd", clevel=1, shuffle="bitshuffle"), Crc32cCodec()],
            config={"write_empty_chunks": True},
        )  # fmt: skip
        array[:] = images
        np.testing.assert_array_equal(shards.shards_of(tmp_path / str(size)).read(np.arange(N)), images)


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.integers(0, N - 1), max_size=40))
def test_any_rows_in_any_order(rows, images, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "shards-any"
    if not folder.exists():
        size = shards.create(folder, images.shape, {})
        shards.write(folder, 0, images, size)
    read = shards.shards_of(folder).read(np.array(rows, dtype=np.int64))
    np.testing.assert_array_equal(read, images[np.array(rows, dtype=np.int64)])


def test_images_too_large_for_many_in_a_shard():
    assert shards.images_per_shard((12, 64, 64)) == 256
    assert shards.images_per_shard((12, 256, 256)) == 21
    assert shards.images_per_shard((12, 8192, 8192)) == 1


BLOSC = BloscCodec(typesize=2, cname="lz4", clevel=5, shuffle="shuffle")
OTHERS = {
    "plain chunks": {"chunks": (8, *SHAPE), "compressors": [BLOSC, Crc32cCodec()]},
    "two images a chunk": {"chunks": (2, *SHAPE), "shards": (8, *SHAPE), "compressors": [BLOSC, Crc32cCodec()]},
    "no checksum": {"chunks": (1, *SHAPE), "shards": (8, *SHAPE), "compressors": [BLOSC]},
    "half an image a chunk": {"chunks": (1, 6, 4, 6), "shards": (8, *SHAPE), "compressors": [BLOSC, Crc32cCodec()]},
    "index at the start": {
        "chunks": (8, *SHAPE), "compressors": None, "filters": None,
        "serializer": ShardingCodec(
            chunk_shape=(1, *SHAPE), codecs=[BytesCodec(), BLOSC, Crc32cCodec()], index_location="start"
        ),
    },
    "big-endian": {
        "chunks": (1, *SHAPE), "shards": (8, *SHAPE), "compressors": [BLOSC, Crc32cCodec()],
        "serializer": BytesCodec(endian="big"),
    },
    "other keys": {
        "chunks": (1, *SHAPE), "shards": (8, *SHAPE), "compressors": [BLOSC, Crc32cCodec()],
        "chunk_key_encoding": {"name": "default", "separator": "."},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_layouts_are_left_to_zarr(name, tmp_path):
    zarr.create_array(tmp_path / "a", shape=(N, *SHAPE), dtype="uint16", **OTHERS[name])
    assert shards.shards_of(tmp_path / "a") is None


def damage(folder, at, value=None):
    file = folder / "c/1/0/0/0"
    data = bytearray(file.read_bytes())
    if value is None:
        data[at] ^= 1
    else:
        data[at : at + len(value)] = value
    file.write_bytes(data)


def test_damage_is_noticed_where_it_is(folder, images):
    damage(folder, 40)
    reader = shards.shards_of(folder)
    with pytest.raises(ValueError, match="image 8: its checksum"):
        reader.read(np.arange(N))
    np.testing.assert_array_equal(reader.read(np.array([9, 15, 2])), images[[9, 15, 2]])


@pytest.mark.parametrize("at", [-1, -5, -16 * 8 - 4])
def test_a_damaged_index_is_noticed(folder, at):
    damage(folder, at)
    with pytest.raises(ValueError, match="shard 1: the checksum .* of its index differs"):
        shards.shards_of(folder).read(np.array([8]))


def resigned(entries) -> bytes:
    index = np.array(entries, dtype="<u8").tobytes()
    return index + shards._crc32c(index)


@pytest.mark.parametrize(
    "entry, message",
    [
        ((2**40, 100), "points outside"),
        ((0, 2**63), "points outside"),
        ((2**63, 2**63 + 30), "points outside"),
        ((0, 3), "points outside"),
        ((2**64 - 1, 2**64 - 1), "image 8: not there"),
        ((0, 40), "image 8: its checksum"),
    ],
)
def test_an_index_that_lies_is_refused(folder, entry, message):
    size = 16 * 8 + 4
    file = folder / "c/1/0/0/0"
    index = np.frombuffer(file.read_bytes()[-size:-4], "<u8").reshape(8, 2).copy()
    index[0] = entry
    damage(folder, file.stat().st_size - size, resigned(index))
    with pytest.raises(ValueError, match=message):
        shards.shards_of(folder).read(np.array([8]))


def test_an_image_of_another_size_is_refused(folder, images):
    reader = shards.Shards(folder, (N, 12, 4, 5), 8)
    with pytest.raises(ValueError, match="image 0: it does not hold 480 bytes"):
        reader.read(np.array([0]))


def test_an_image_that_says_another_length_than_it_has_is_refused(images):
    body = shards._encode(images[0])[:-4]
    for other in (body[:100], body + b"x"):
        with pytest.raises(ValueError, match=f"image 0: it says another length than its {len(other)} bytes"):
            shards._decode(other + shards._crc32c(other), np.empty_like(images[0]), "image 0")


def test_a_shard_cut_short_or_lost_is_noticed(folder):
    file = folder / "c/1/0/0/0"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ValueError, match="shard 1: 50 bytes, too short"):
        shards.shards_of(folder).read(np.array([8]))
    file.unlink()
    with pytest.raises(FileNotFoundError):
        shards.shards_of(folder).read(np.array([8]))
