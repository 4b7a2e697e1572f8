"""The place store at scale: seconds and memory of writing, checking and reading it, against the straightforward ways.

    python benchmarks/data.py [--out geonb/results/scale.json] [--articles N] [--chips N] [--scratch FOLDER]

*Texts.* Articles of about 3 kB (sentences of made-up words) through :func:`geonb.data.store.write_store`; then opened,
checked, and read from first to last and in random batches. The peer is a pandas frame that holds all texts.

*Chips.* Written and checked; then random batches read from the store's memory map, from the same chips in shards of
zarr-python (one chip per inner chunk, LZ4), and from one GeoTIFF per chip, opened and read by rasterio as SatCLIP's
loader does (github.com/microsoft/satclip, ``S2Geo``). All give one uint16 array per batch, in turns in one process with
one thread. Files are in the page cache; then, as ``cold``, dropped from it before each batch.
Chips are cut from the real ones in ``$GEONB_REAL_DATA`` or ``../shared/data``, else taken from the Atlas sample; each
is turned, mirrored and lightened, so that hardly two are the same.

Every case runs in a process of its own; ``peak_mb`` is the most that process ever held, Python, libraries and mapped
pages included. Making the input is left out of the seconds. The default sizes need 45 GB of disk for a while.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from measuring import in_fresh_process, peak_mb, write

from geonb.data.store import PlaceStore, check_store, write_store

ARTICLES, CHIPS = 1_000_000, 200_000
SIZES = (16, 4, 1)  # parts of these that are measured too, for linearity
FILES = {64: 4096, 256: 256}  # chips that random batches are drawn from, by edge
PIECE, BATCH, ROUNDS = 4096, 256, 7
SLOW = 16  # chips of a batch from zarr-python, which takes 10 ms and more, and up to its shard in memory, for each


class Clock:
    """Pass an iterable on and count the seconds that making it takes."""

    def __init__(self):
        self.seconds = 0.0

    def of(self, pieces: Iterable) -> Iterator:
        pieces, end = iter(pieces), object()
        while True:
            started = time.perf_counter()
            piece = next(pieces, end)
            self.seconds += time.perf_counter() - started
            if piece is end:
                return
            yield piece


def pieces(n: int, size: int = PIECE) -> Iterator[tuple[int, int]]:
    return ((first, min(size, n - first)) for first in range(0, n, size))


def written(n: int, seconds: float, folder: Path) -> dict:
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return {"s": seconds, "per_s": n / seconds, "peak_mb": peak_mb(), "disk_mb": size / 2**20}


# --- texts --------------------------------------------------------------------------------------------


@lru_cache
def sentences(count: int = 200_000) -> list[str]:
    """Sentences of 4 to 30 made-up words, of which few are common and many are rare, as in any language."""
    rng = np.random.default_rng(0)
    syllables = [a + b + c for a in "bcdfghklmnprstvz" for b in "aeiouéö" for c in ("", "n", "r")]
    words = ["".join(rng.choice(syllables, size)) for size in rng.integers(1, 5, 30_000)]
    weights = 1 / np.arange(10, len(words) + 10)
    lengths = rng.integers(4, 31, count)
    drawn = iter(rng.choice(len(words), lengths.sum(), p=weights / weights.sum()).tolist())
    return [" ".join(words[i] for i in itertools.islice(drawn, n)).capitalize() + "." for n in lengths.tolist()]


def articles(first: int, count: int) -> pa.Table:
    """Texts of 3 kB in the mean, most of them shorter, with the columns of Wikipedia's; the same for the same rows."""
    rng, pool = np.random.default_rng([1, first]), sentences()
    lengths = np.clip(rng.lognormal(2.6, 1, count), 1, 400).astype(int)
    picks = iter(rng.integers(0, len(pool), lengths.sum()).tolist())
    texts = [" ".join(pool[i] for i in itertools.islice(picks, length)) for length in lengths.tolist()]
    numbers = range(first, first + count)
    columns = {
        "place_id": [f"enwiki-{n}" for n in numbers], "text": texts, "revision": [str(10**9 + n) for n in numbers],
        "url": [f"https://en.wikipedia.org/wiki/Place_{n}" for n in numbers],
    }  # fmt: skip
    same = {"lang": "en", "license": "CC BY-SA 4.0", "source": "English Wikipedia"}
    return pa.table(columns | {name: [value] * count for name, value in same.items()})


def write_texts(folder: Path, n: int, side: int) -> dict:
    """Places and texts through ``write_store``."""
    clock, rng = Clock(), np.random.default_rng(0)
    places = {
        "place_id": [f"enwiki-{i}" for i in range(n)], "title": [f"Place {i}" for i in range(n)],
        "lon": rng.uniform(-180, 180, n), "lat": np.degrees(np.arcsin(rng.uniform(-1, 1, n))),
        "source": pa.repeat("English Wikipedia", n), "links": rng.integers(0, 1000, n),
    }  # fmt: skip
    sentences()
    started = time.perf_counter()
    write_store(folder / "store", places=places, texts=clock.of(articles(*piece) for piece in pieces(n)))
    return written(n, time.perf_counter() - started - clock.seconds, folder / "store")


def write_texts_pandas(folder: Path, n: int, side: int) -> dict:
    """The same texts in one frame, which is written as Parquet."""
    import pandas as pd

    clock = Clock()
    sentences()
    (folder / "pandas").mkdir()
    started = time.perf_counter()
    parts = [table.to_pandas() for table in clock.of(articles(*piece) for piece in pieces(n))]
    pd.concat(parts, ignore_index=True).to_parquet(folder / "pandas" / "texts.parquet", compression="zstd")
    return written(n, time.perf_counter() - started - clock.seconds, folder / "pandas")


def read_texts(folder: Path, n: int, side: int) -> dict:
    """Open a store, read all its texts in order, then random batches."""
    started = time.perf_counter()
    store = PlaceStore.open(folder / "store")
    return {"open_s": time.perf_counter() - started, "open_peak_mb": peak_mb()} | read_all(n, store.texts)


def read_texts_pandas(folder: Path, n: int, side: int) -> dict:
    import pandas as pd

    started = time.perf_counter()
    texts = pd.read_parquet(folder / "store" / "texts.parquet")["text"]
    opened = {"open_s": time.perf_counter() - started, "open_peak_mb": peak_mb()}
    return opened | read_all(n, lambda rows: texts.iloc[rows].tolist())


def read_all(n: int, read: Callable) -> dict:
    started = time.perf_counter()
    chars = sum(sum(map(len, read(np.arange(first, first + count)))) for first, count in pieces(n))
    seconds = time.perf_counter() - started
    random = 1 / statistics.median(timed(read, n))
    return {"s": seconds, "per_s": n / seconds, "random_per_s": random, "chars": chars / n, "peak_mb": peak_mb()}


def timed(read: Callable, n: int, size: int = BATCH, rounds: int = ROUNDS) -> list[float]:
    """Seconds per row of random batches."""
    rng, seconds = np.random.default_rng(), []
    for _ in range(rounds):
        rows = rng.permutation(n)[:size]
        started = time.perf_counter()
        read(rows)
        seconds.append((time.perf_counter() - started) / len(rows))
    return seconds


def check(folder: Path, n: int, side: int) -> dict:
    """``geonb data check``."""
    started = time.perf_counter()
    check_store(folder / "store")
    seconds = time.perf_counter() - started
    return {"s": seconds, "per_s": n / seconds, "peak_mb": peak_mb()}


# --- chips --------------------------------------------------------------------------------------------


@lru_cache
def pool(side: int) -> tuple[np.ndarray, str]:
    """Some hundred chips, and where they are from."""
    folder = Path(os.environ.get("GEONB_REAL_DATA") or Path(__file__).parents[2] / "shared" / "data")
    files = sorted(folder.glob("sentinel2/*.tif"))
    if not files:
        from geonb import workspace

        store = workspace.data()
        chips, origin = store.images(np.flatnonzero(store.has("image"))[:256]), "simulated"
        chips = np.tile(chips, (1, 1, -(-side // 64), -(-side // 64)))[:, :, :side, :side]
    else:
        import rasterio

        whole, origin = np.stack([rasterio.open(file).read() for file in files]), "real"
        cut = whole.reshape(len(whole), 12, 256 // side, side, 256 // side, side).transpose(0, 2, 4, 1, 3, 5)
        chips = cut.reshape(-1, 12, side, side)
    return np.ascontiguousarray(chips), origin


def chip(number: int, side: int) -> np.ndarray:
    rng, chips = np.random.default_rng([4, number]), pool(side)[0]
    picked, turns, mirror, light = rng.integers(0, [len(chips), 4, 2, 50])
    image = np.rot90(chips[picked], turns, (1, 2))
    return (image[:, :, ::-1] if mirror else image) + np.uint16(light)


def write_chips(folder: Path, n: int, side: int) -> dict:
    clock = Clock()
    pool(side)
    size = max(1, 512 * 64 * 64 // side**2)
    stacks = (np.stack([chip(i, side) for i in range(first, first + count)]) for first, count in pieces(n, size))
    places = {"place_id": [f"p{i}" for i in range(n)], "lon": np.zeros(n), "lat": np.zeros(n)}
    started = time.perf_counter()
    write_store(folder / "store", places=places, images=clock.of(stacks), image_rows=np.arange(n))
    found = written(n, time.perf_counter() - started - clock.seconds, folder / "store")
    return {"side": side, "chips": pool(side)[1]} | found


def read_chips(folder: Path, n: int, side: int) -> dict:
    """Random batches, from the store and from its peers, in turns."""
    write_chips(folder, n, side)
    store = PlaceStore.open(folder / "store")
    ways = {
        "store": (store.images, folder / "store"),
        "zarr-python": (zarr_of(store, folder / "zarr"), folder / "zarr"),
        "GeoTIFF, as SatCLIP's": (geotiffs_of(store, folder / "tif"), folder / "tif"),
    }
    expected = store.images(np.arange(3))
    assert all((read(np.arange(3)) == expected).all() for read, _ in ways.values())
    os.sync()
    result = {"side": side, "files": n, "batch": BATCH, "chips": pool(side)[1]}
    for name in ("cached", "cold"):
        seconds: dict[str, list] = {way: [] for way in ways}
        for _ in range(ROUNDS if name == "cached" else 3):
            for way, (read, files) in ways.items():
                if name == "cold":
                    forget(files)
                seconds[way] += timed(read, n, SLOW if way == "zarr-python" else BATCH, rounds=1)
        result[name] = {way: 1 / statistics.median(taken) for way, taken in seconds.items()}
    sizes = {way: sum(f.stat().st_size for f in files.rglob("*") if f.is_file()) for way, (_, files) in ways.items()}
    return result | {"disk_mb_of": {way: size / 2**20 for way, size in sizes.items()}}


def zarr_of(store: PlaceStore, folder: Path) -> Callable:
    import zarr
    from zarr.codecs import BloscCodec

    n, *shape = store.manifest["images"]["sentinel2"]["shape"]
    shard = max(1, (32 << 20) // (2 * math.prod(shape)))  # of 32 MB
    array = zarr.create_array(
        folder, shape=(n, *shape), chunks=(1, *shape), shards=(shard, *shape), dtype="uint16",
        compressors=[BloscCodec(typesize=2, cname="lz4", clevel=9, shuffle="shuffle")],
    )  # fmt: skip
    for first, count in pieces(n, shard):
        array[first : first + count] = store.images(np.arange(first, first + count))
    return array.oindex.__getitem__


def geotiffs_of(store: PlaceStore, folder: Path) -> Callable:
    import rasterio
    from rasterio.transform import from_origin

    folder.mkdir()
    n, bands, side, _ = store.manifest["images"]["sentinel2"]["shape"]
    block = 512 if side == 256 else side  # those of the real chips
    profile = {
        "driver": "GTiff", "width": side, "height": side, "count": bands, "dtype": "uint16", "crs": "EPSG:32632",
        "transform": from_origin(5e5, 5e6, 10, 10), "compress": "lzw", "tiled": True,
        "blockxsize": block, "blockysize": block,
    }  # fmt: skip
    for row in range(n):
        with rasterio.open(folder / f"{row}.tif", "w", **profile) as target:
            target.write(store.images([row])[0])

    def read(rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), bands, side, side), np.uint16)
        for i, row in enumerate(rows):
            with rasterio.open(folder / f"{row}.tif") as source:
                out[i] = source.read()
        return out

    return read


def forget(folder: Path) -> None:
    """Let the system drop what it holds of a folder's files in memory."""
    for path in filter(Path.is_file, folder.rglob("*")):
        file = os.open(path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


# --- all ----------------------------------------------------------------------------------------------

OF_TEXTS = {
    "write texts": write_texts,
    "write texts, pandas": write_texts_pandas,
    "read texts": read_texts,
    "read texts, pandas": read_texts_pandas,
    "check texts": check,
}
OF_CHIPS = {"write chips": write_chips, "check chips": check}
CASES = OF_TEXTS | OF_CHIPS | {"read chips": read_chips}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", metavar="FILE.json")
    parser.add_argument("--articles", type=int, default=ARTICLES, metavar="N")
    parser.add_argument("--chips", type=int, default=CHIPS, metavar="N", help="of 64 x 64 pixels")
    parser.add_argument("--scratch", help="where the stores are made and removed again")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--n", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--side", type=int, default=64, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(CASES[options.case](Path(options.scratch), options.n, options.side)))
        return
    results: list[dict] = []
    plan = [(OF_TEXTS, options.articles // part, 64) for part in SIZES]
    plan += [(OF_CHIPS, options.chips // part, 64) for part in SIZES]
    plan += [(["read chips"], min(n, options.chips), side) for side, n in FILES.items()]
    for cases, n, side in plan:
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
            for case in cases:
                arguments = ("--case", case, "--n", n, "--side", side, "--scratch", folder)
                row = in_fresh_process(__file__, *arguments, threads=1, timeout=3600)
                results.append({"case": case, "n": n} | row)
                print(case, f"{n:,}", json.dumps(row), flush=True)
    write(options.out, results)


if __name__ == "__main__":
    main()
