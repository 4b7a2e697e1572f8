"""The place store against its peers: seconds, memory and disk of writing, checking and reading it.

    python benchmarks/data.py [--out geonb/results/scale.json] [--articles N] [--chips N]

*Texts*: articles of about 3 kB of made-up words; the peer is a pandas frame of all of them. *Chips*:
random batches from the store, from shards of zarr-python (one chip per inner chunk, LZ4), and from
a GeoTIFF per chip, as SatCLIP's loader reads them (github.com/microsoft/satclip, ``S2Geo``), in turns
in one thread, from the page cache, then ``cold``. They are cut from those in ``$GEONB_REAL_DATA``, else
from the Atlas sample, turned and lightened.

Every case runs in a process of its own; ``peak_mb`` is the most it held. The default sizes take
3 minutes and 3 GB of disk at most.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from measuring import in_fresh_process, peak_mb, write

from geonb.data.store import Images, PlaceStore, check_store, write_store

ARTICLES, CHIPS = 64_000, 8_000
SIZES = (16, 4, 1)  # parts of these that are measured too, for linearity
READ = {64: (1024, 32), 256: (96, 4)}  # by edge: chips to draw from, and how many of them a batch of the peers has
BATCH, ROUNDS = 256, 5


def row(n: int, started: float, *folders: Path) -> dict:
    seconds = time.perf_counter() - started
    disk = {"disk_mb": sum(map(size_mb, folders))} if folders else {}
    return {"s": seconds, "per_s": n / seconds, "peak_mb": peak_mb()} | disk


def size_mb(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20


def random_batches(read: Callable, n: int, batch: int, rounds: int = ROUNDS) -> float:
    """Median of rows per second."""
    rng, rates = np.random.default_rng(0), []
    for _ in range(rounds):
        rows = rng.permutation(n)[:batch]
        started = time.perf_counter()
        read(rows)
        rates.append(len(rows) / (time.perf_counter() - started))
    return statistics.median(rates)


# --- texts --------------------------------------------------------------------------------------------


def make_articles(folder: Path, n: int) -> None:
    """Texts of 3 kB in the mean, most of them shorter, of words of which few are common, as in any language."""
    rng = np.random.default_rng(0)
    syllables = [a + b + c for a in "bcdfghklmnprstvz" for b in "aeiouéö" for c in ("", "n", "r")]
    words = ["".join(rng.choice(syllables, size)) for size in rng.integers(1, 5, 30_000)]
    weights = 1 / np.arange(10, len(words) + 10)
    drawn = rng.choice(len(words), (20_000, 16), p=weights / weights.sum())
    pool = [" ".join(words[i] for i in line).capitalize() + "." for line in drawn.tolist()]
    counts = np.clip(rng.lognormal(2.6, 1, n), 1, 400).astype(int)
    texts = [" ".join(pool[i] for i in rng.integers(0, len(pool), count)) for count in counts]
    columns = {"place_id": [f"enwiki-{i}" for i in range(n)], "text": texts}
    columns["url"] = [f"https://en.wikipedia.org/wiki/Place_{i}" for i in range(n)]
    same = {"lang": "en", "license": "CC BY-SA 4.0", "source": "English Wikipedia"}
    table = pa.table(columns | {name: [value] * n for name, value in same.items()})
    pq.write_table(table, folder / "articles.parquet", compression="zstd", row_group_size=4096)


def write_texts(folder: Path, n: int, side: int) -> dict:
    started, rng, file = time.perf_counter(), np.random.default_rng(0), pq.ParquetFile(folder / "articles.parquet")
    places = {"place_id": file.read(["place_id"])["place_id"], "title": [f"Place {i}" for i in range(n)]}
    places |= {"lon": rng.uniform(-180, 180, n), "lat": np.degrees(np.arcsin(rng.uniform(-1, 1, n)))}
    texts = (pa.Table.from_batches([batch]) for batch in file.iter_batches(4096))
    write_store(folder / "store", places=places, texts=texts)
    return row(n, started, folder / "store")


def write_texts_pandas(folder: Path, n: int, side: int) -> dict:
    import pandas as pd

    started = time.perf_counter()
    (folder / "pandas").mkdir()
    pd.read_parquet(folder / "articles.parquet").to_parquet(folder / "pandas" / "t.parquet", compression="zstd")
    return row(n, started, folder / "pandas")


def read_texts(folder: Path, n: int, side: int) -> dict:
    return read_all(n, time.perf_counter(), PlaceStore.open(folder / "store").texts)


def read_texts_pandas(folder: Path, n: int, side: int) -> dict:
    import pandas as pd

    started = time.perf_counter()
    texts = pd.read_parquet(folder / "pandas" / "t.parquet")["text"]
    return read_all(n, started, lambda rows: texts.iloc[rows].tolist())


def read_all(n: int, started: float, read: Callable) -> dict:
    """From opening to the last text, in order; then random batches."""
    chars = sum(sum(map(len, read(np.arange(first, min(first + 4096, n))))) for first in range(0, n, 4096))
    return row(n, started) | {"random_per_s": random_batches(read, n, BATCH), "chars": chars / n}


def check(folder: Path, n: int, side: int) -> dict:
    """``geonb data check``."""
    started = time.perf_counter()
    check_store(folder / "store")
    return row(n, started)


# --- chips --------------------------------------------------------------------------------------------


def make_chips(folder: Path, n: int, side: int) -> str:
    """Chips in a file without header; says where they are from."""
    files = sorted(Path(os.environ.get("GEONB_REAL_DATA", "../shared/data")).glob("sentinel2/*.tif"))
    if files:
        import rasterio

        tiles = np.stack([rasterio.open(file).read() for file in files])
    else:
        from geonb import workspace

        store = workspace.data()
        tiles = np.tile(store.images("sentinel2", np.flatnonzero(store.has("sentinel2"))[:64]), (1, 1, 4, 4))
    whole = np.moveaxis(tiles.reshape(len(tiles), 12, 256 // side, side, 256 // side, side), (2, 4), (1, 2))
    pool, rng = whole.reshape(-1, 12, side, side), np.random.default_rng(4)
    with (folder / "chips.bin").open("wb") as stream:
        for picked, turns, light in rng.integers(0, [len(pool), 4, 50], (n, 3)):
            stream.write(np.ascontiguousarray(np.rot90(pool[picked], turns, (1, 2)) + np.uint16(light)).data)
    return "real" if files else "simulated"


def write_chips(folder: Path, n: int, side: int) -> dict:
    size, piece = 12 * side**2, max(1, 512 * 64 * 64 // side**2)
    places = {"place_id": [f"p{i}" for i in range(n)], "lon": np.zeros(n), "lat": np.zeros(n)}
    with (folder / "chips.bin").open("rb") as stream:
        chunks = (np.fromfile(stream, "<u2", piece * size).reshape(-1, 12, side, side) for _ in range(0, n, piece))
        started = time.perf_counter()
        write_store(folder / "store", places=places, images={"sentinel2": Images(chunks, range(n))})
    return row(n, started, folder / "store")


def read_chips(folder: Path, n: int, side: int) -> dict:
    """Random batches, from the store and from its peers, in turns."""
    write_chips(folder, n, side)
    store = PlaceStore.open(folder / "store")
    ways = {"store": partial(store.images, "sentinel2"), "zarr-python": zarr_of(store, folder / "zarr-python")}
    ways["GeoTIFF, as SatCLIP's"] = geotiffs_of(store, folder / "GeoTIFF, as SatCLIP's")
    assert all((read(np.arange(3)) == store.images("sentinel2", [0, 1, 2])).all() for read in ways.values())
    os.sync()
    result: dict = {"batch": BATCH, "disk_mb_of": {way: size_mb(folder / way) for way in ways}}
    for name, rounds in (("cached", ROUNDS), ("cold", 3)):
        rates: dict[str, list] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, read in ways.items():
                if name == "cold":
                    forget(folder / way)
                rates[way].append(random_batches(read, n, BATCH if way == "store" else READ[side][1], rounds=1))
        result[name] = {way: statistics.median(found) for way, found in rates.items()}
    return result


def zarr_of(store: PlaceStore, folder: Path) -> Callable:
    import zarr
    from zarr.codecs import BloscCodec

    images = store.images("sentinel2", store.has("sentinel2"))
    shard = max(1, (32 << 20) // images[0].nbytes)  # of 32 MB
    array = zarr.create_array(
        folder, shape=images.shape, chunks=(1, *images.shape[1:]), shards=(shard, *images.shape[1:]), dtype="uint16",
        compressors=[BloscCodec(typesize=2, cname="lz4", clevel=9, shuffle="shuffle")],
    )  # fmt: skip
    array[:] = images
    return array.oindex.__getitem__


def geotiffs_of(store: PlaceStore, folder: Path) -> Callable:
    import rasterio

    folder.mkdir()
    _, bands, side, _ = store.manifest["images"]["sentinel2"]["shape"]
    profile = {"driver": "GTiff", "width": side, "height": side, "count": bands, "dtype": "uint16", "compress": "lzw"}
    profile |= {"tiled": True, "blockxsize": side, "blockysize": side, "crs": "EPSG:32632"}
    profile["transform"] = rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)
    for i in range(len(store)):
        with rasterio.open(folder / f"{i}.tif", "w", **profile) as target:
            target.write(store.images("sentinel2", [i])[0])

    def read(rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), bands, side, side), np.uint16)
        for i, number in enumerate(rows):
            with rasterio.open(folder / f"{number}.tif") as source:
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

OF_TEXTS = {"write texts": write_texts, "write texts, pandas": write_texts_pandas, "read texts": read_texts}
OF_TEXTS |= {"read texts, pandas": read_texts_pandas, "check texts": check}
OF_CHIPS = {"write chips": write_chips, "check chips": check}
CASES = OF_TEXTS | OF_CHIPS | {"read chips": read_chips}


def measure(articles: int, chips: int, scratch: str | None, run: Callable) -> list[dict]:
    """Run all cases; ``run(case, folder, n, side)`` returns the measurements of one."""
    results = []
    plan = [(OF_TEXTS, articles // part, 64) for part in SIZES] + [(OF_CHIPS, chips // part, 64) for part in SIZES]
    for cases, n, side in plan + [(["read chips"], min(n, chips), side) for side, (n, _) in READ.items()]:
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            of_chips = {} if cases is OF_TEXTS else {"side": side, "chips": make_chips(Path(folder), n, side)}
            if cases is OF_TEXTS:
                make_articles(Path(folder), n)
            for case in cases:
                results.append({"case": case, "n": n} | of_chips | run(case, folder, n, side))
                print(json.dumps(results[-1]), flush=True)
    return results


def ratios(results: list[dict]) -> list[str]:
    """How many times as many items per second the store handles as its peers, at the largest size."""
    last = {r["case"]: r for r in results}
    pairs = [("write texts", "per_s"), ("read texts", "per_s"), ("read texts", "random_per_s")]
    lines = [f"{c}, {k}: {last[c][k] / last[f'{c}, pandas'][k]:.2g} times pandas" for c, k in pairs]
    reads = [(r, how) for r in results if r["case"] == "read chips" for how in ("cached", "cold")]
    return lines + [
        f"random chips of {r['side']} pixels, {how}: {r[how]['store'] / rate:,.0f} times {way}"
        for r, how in reads for way, rate in r[how].items() if way != "store"
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", metavar="FILE.json")
    parser.add_argument("--articles", type=int, default=ARTICLES, metavar="N")
    parser.add_argument("--chips", type=int, default=CHIPS, metavar="N", help="of 64 x 64 pixels")
    parser.add_argument("--scratch", help="where the stores are made and removed again")
    parser.add_argument("--case", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        case, folder, n, side = options.case
        print(json.dumps(CASES[case](Path(folder), int(n), int(side))))
        return

    def run(*case: object) -> dict:
        return in_fresh_process(__file__, "--case", *case, threads=1)

    results = measure(options.articles, options.chips, options.scratch, run)
    print(*ratios(results), sep="\n")
    write(options.out, results)


if __name__ == "__main__":
    main()
