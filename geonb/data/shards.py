"""Images of a Zarr v3 array in shards, one image an inner chunk, written and read without a detour.

zarr-python makes the metadata and reads these arrays too, but handles every inner chunk by itself at a cost of a
millisecond and more (``benchmarks/data.py``), which is ten times what it takes to read and to decode an image. A shard
is a file ``c/K/0/0/0``: the encoded images, then for each of its places offset and length (uint64, little-endian; all
ones where there is none), then the CRC-32C of that index. An encoded image is Blosc (LZ4, bytes shuffled), then its
CRC-32C. https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/v1.0.html
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

SHARD_BYTES = 32 << 20  # of images as they are in memory; a shard is encoded in one piece
IMAGES_PER_SHARD = 256
LEVEL = 9
THREADS = min(8, os.cpu_count() or 1)  # that encode or decode
_ABSENT = np.uint64(2**64 - 1)


def images_per_shard(shape: Sequence[int]) -> int:
    """How many uint16 images of a shape (bands, H, W) go in a shard."""
    return int(np.clip(SHARD_BYTES // (2 * int(np.prod(shape))), 1, IMAGES_PER_SHARD))


def create(folder: Path, shape: Sequence[int], attributes: dict) -> int:
    """Make the array's folder and metadata, for uint16 images (n, bands, H, W); returns the images per shard."""
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec

    size = images_per_shard(shape[1:])
    zarr.create_array(
        folder,
        shape=tuple(shape),
        chunks=(1, *shape[1:]),
        shards=(size, *shape[1:]),
        dtype="uint16",
        compressors=[BloscCodec(typesize=2, cname="lz4", clevel=LEVEL, shuffle="shuffle"), Crc32cCodec()],
        config={"write_empty_chunks": True},
        dimension_names=["place", "band", "y", "x"],
        attributes=attributes,
    )
    return size


def write(folder: Path, shard: int, images: np.ndarray, size: int) -> None:
    """Write a shard: uint16 images (k, bands, H, W) of reflectance x 10,000, k at most ``size`` rows."""
    file = _file(folder, shard)
    file.parent.mkdir(parents=True, exist_ok=True)
    lengths = np.full((size, 2), _ABSENT, "<u8")
    end = 0
    with file.open("wb") as stream, ThreadPoolExecutor(_workers(len(images))) as pool:
        for i, encoded in enumerate(pool.map(_encode, images)):
            stream.write(encoded)
            lengths[i] = end, len(encoded)
            end += len(encoded)
        index = lengths.tobytes()
        stream.write(index + _crc32c(index))


class Shards:
    """Reads single images of an array that :func:`create` made, from as many threads as there are cores.

    Nothing is held open, so it may be pickled and taken into other processes.
    """

    def __init__(self, folder: Path, shape: Sequence[int], size: int) -> None:
        self.folder, self.shape, self.size = folder, tuple(shape), size
        self._index: dict[int, np.ndarray] = {}

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Images uint16 (k, bands, H, W), in the order of the rows, which may repeat.

        Raises:
            ValueError: a shard is damaged: what is wrong with which image.
            OSError: a shard cannot be read.
        """
        out = np.empty((len(rows), *self.shape[1:]), "<u2")
        self.read_into(out, np.arange(len(rows)), rows)
        return out

    def read_into(self, out: np.ndarray, at: np.ndarray, rows: np.ndarray) -> None:
        """As :meth:`read`, but the images become ``out[at]``.

        Args:
            out: little-endian uint16 (m, bands, H, W).
            at: rows of ``out``, (k,). ``rows``: rows of the array, (k,), which may repeat.
        """
        order = np.argsort(rows, kind="stable")
        workers = _workers(len(rows))
        # Always in threads of their own: on the main thread Blosc would keep threads that do not outlive a fork.
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(lambda part: self._read_part(out, at[part], rows[part]), np.array_split(order, workers)))

    def _read_part(self, out: np.ndarray, at: np.ndarray, rows: np.ndarray) -> None:
        """As `read_into`; the rows are in order."""
        if len(rows):
            cuts = np.flatnonzero(np.diff(rows // self.size)) + 1
            for part in zip(np.split(at, cuts), np.split(rows, cuts), strict=True):
                self._read_shard(out, *part)

    def _read_shard(self, out: np.ndarray, at: np.ndarray, rows: np.ndarray) -> None:
        shard = int(rows[0]) // self.size
        file = os.open(_file(self.folder, shard), os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            index = self._index.get(shard)
            if index is None:
                index = self._index[shard] = _read_index(file, self.size, f"shard {shard}")
            before = None
            for i, row in zip(at.tolist(), rows.tolist(), strict=True):
                if before is not None and before[1] == row:
                    out[i] = out[before[0]]
                    continue
                offset, length = map(int, index[row % self.size])
                if offset == _ABSENT:
                    raise ValueError(f"image {row}: not there")
                _decode(_read(file, offset, length), out[i], f"image {row}")
                before = i, row
        finally:
            os.close(file)


def shards_of(folder: Path) -> Shards | None:
    """The reader for an array that is there, or ``None`` where it is laid out otherwise than :func:`create` does."""
    metadata = json.loads((folder / "zarr.json").read_text(encoding="utf-8"))
    shape, codecs = metadata["shape"], metadata["codecs"]
    grid = metadata["chunk_grid"].get("configuration", {}).get("chunk_shape", [0])
    keys = metadata["chunk_key_encoding"]
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    if len(codecs) != 1 or codecs[0]["name"] != "sharding_indexed" or grid[1:] != shape[1:]:
        return None
    inner = codecs[0]["configuration"]
    same = (
        inner["chunk_shape"] == [1, *shape[1:]]
        and [codec["name"] for codec in inner["codecs"]] == ["bytes", "blosc", "crc32c"]
        and inner["codecs"][0] == little
        and inner["index_codecs"] == [little, {"name": "crc32c"}]
        and inner.get("index_location", "end") == "end"
        and keys == {"name": "default", "configuration": {"separator": "/"}}
        and metadata["data_type"] == "uint16"
        and not metadata.get("storage_transformers")
    )
    return Shards(folder, shape, grid[0]) if same else None


def _file(folder: Path, shard: int) -> Path:
    return folder / "c" / str(shard) / "0" / "0" / "0"


def _workers(images: int) -> int:
    return max(1, min(images, THREADS))


def _crc32c(data: bytes | np.ndarray) -> bytes:
    import google_crc32c

    return struct.pack("<I", google_crc32c.value(data))


def _encode(image: np.ndarray) -> bytes:
    from numcodecs import blosc

    data = blosc.compress(np.ascontiguousarray(image, "<u2"), b"lz4", LEVEL, blosc.SHUFFLE)
    return data + _crc32c(data)


def _decode(data: bytes, out: np.ndarray, what: str) -> None:
    from numcodecs import blosc

    body = np.frombuffer(data, np.uint8)[:-4]
    if _crc32c(body) != data[-4:]:
        raise ValueError(f"{what}: its checksum (CRC-32C) differs")
    if len(body) < 16 or struct.unpack_from("<I", body.data, 4)[0] != out.nbytes:
        raise ValueError(f"{what}: it does not hold {out.nbytes} bytes")
    if struct.unpack_from("<I", body.data, 12)[0] != len(body):  # Blosc would read on behind the end
        raise ValueError(f"{what}: it says another length than its {len(body)} bytes")
    blosc.decompress(body, out)


def _read(file: int, offset: int, length: int) -> bytes:
    data = os.pread(file, length, offset)
    if len(data) != length:
        raise ValueError(f"{len(data)} of {length} bytes at {offset}")
    return data


def _read_index(file: int, size: int, what: str) -> np.ndarray:
    """Offset and length of the images of a shard, uint64 (size, 2)."""
    end, length = os.fstat(file).st_size, 16 * size + 4
    if end < length:
        raise ValueError(f"{what}: {end} bytes, too short for its index")
    data = _read(file, end - length, length)
    if _crc32c(data[:-4]) != data[-4:]:
        raise ValueError(f"{what}: the checksum (CRC-32C) of its index differs")
    index = np.frombuffer(data[:-4], "<u8").reshape(size, 2)
    there = index[:, 0] != _ABSENT
    first, size = index[there].T
    if (first > end).any() or (size > end).any() or (first + size > end - length).any() or (size < 20).any():
        raise ValueError(f"{what}: its index points outside of it")
    return index
