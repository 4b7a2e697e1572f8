"""The place store at scale: seconds and memory of writing, checking and reading it, against the straightforward ways.

    python benchmarks/data.py [--out geonb/results/scale.json] [--articles N] [--chips N] [--scratch FOLDER]

*Texts.* Articles of about 3 kB (made of sentences of made-up words, in the true schema) through
:func:`geonb.data.store.write_store`, and through the whole of :func:`geonb.data.sources.wikipedia.from_table`; then
opened, checked, and read from first to last and in random batches. The peer is a pandas frame that holds all texts.

*Chips.* Written; then random batches read from the store, against one GeoTIFF a sample, opened and read by rasterio as
SatCLIP's loader does (github.com/microsoft/satclip, ``S2Geo``), and against zarr-python on the same files. Both sides
give one uint16 array a batch, in turns in one process, first with one thread each, then with one a core each. Files are
in the page cache; then, as ``cold``, dropped from it before each batch. ``cpu_s`` counts the seconds of processor time,
which other work on the machine does not lengthen as it does ``s``; SatCLIP's further step to float32 is left out.
Chips are cut from the real ones in ``../shared/data`` where they are, else simulated; each is turned, mirrored and
lightened, so that hardly two are the same.

Every case runs in a process of its own; ``peak_mb`` is the most that process ever held, Python and libraries included.
Making the input is left out of the seconds. With the default sizes 15 GB of disk are used for a while.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from measuring import in_fresh_process, peak_mb, write

from geonb.data import shards
from geonb.data.store import PlaceStore, check_store, write_store

ARTICLES, CHIPS = 1_000_000, 200_000
SIZES = (16, 4, 1)  # parts of these that are measured too, for linearity
FILES = {64: 4096, 256: 512}  # GeoTIFFs and chips that random batches are drawn from, by edge
PIECE = 4096
BATCH, SLOW = 256, 16  # chips or texts at a time; chips through zarr-python, which takes 100 ms for each
ROUNDS = 10
FORMATS = {  # all with pixels interleaved: rasterio's default, and what the real chips have
    "GeoTIFF, uncompressed": {},
    "GeoTIFF, deflate": {"compress": "deflate"},
    "GeoTIFF, as SatCLIP's": {"compress": "lzw", "tiled": True},
}


class Clock:
    """Passes an iterable on and counts the seconds that making it takes."""

    def __init__(self):
        self.seconds = 0.0

    def count(self, function, *arguments):
        started = time.perf_counter()
        result = function(*arguments)
        self.seconds += time.perf_counter() - started
        return result

    def of(self, pieces: Iterable) -> Iterator:
        pieces, end = iter(pieces), object()
        while (piece := self.count(next, pieces, end)) is not end:
            yield piece


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


def texts(first: int, count: int) -> list[str]:
    """Texts of 3 kB in the mean, most of them shorter; the same for the same numbers."""
    rng, pool = np.random.default_rng([1, first]), sentences()
    lengths = np.clip(rng.lognormal(2.6, 1, count), 1, 400).astype(int)
    picks = iter(rng.integers(0, len(pool), lengths.sum()).tolist())
    return [
        f"Place {number} is a place. " + " ".join(pool[i] for i in itertools.islice(picks, length))
        for number, length in enumerate(lengths.tolist(), first)
    ]


def articles(first: int, count: int) -> pa.Table:
    """Articles in the columns of the hub's table (:func:`geonb.data.sources.wikipedia.from_table`)."""
    rng, page = np.random.default_rng([2, first]), np.arange(first + 1, first + count + 1)
    return pa.table(
        {
            "id": pc.cast(pa.array(page), pa.string()),
            "title": [f"Place {n}" for n in page.tolist()],
            "lon": rng.uniform(-180, 180, count),
            "lat": np.degrees(np.arcsin(rng.uniform(-1, 1, count))),
            "text": texts(first, count),
            "revision": [str(10**9 + n) for n in page.tolist()],
            "url": [f"https://en.wikipedia.org/wiki/Place_{n}" for n in page.tolist()],
            "qid": [f"Q{n}" for n in page.tolist()],
            "gt_type": ["city"] * count,
            "gt_country": ["CH"] * count,
        }
    )


def pieces(n: int, size: int = PIECE) -> Iterator[tuple[int, int]]:
    return ((first, min(size, n - first)) for first in range(0, n, size))


def text_columns(first: int, count: int) -> dict[str, list]:
    table = articles(first, count)
    same = {"license": "CC BY-SA 4.0", "source": "English Wikipedia"}
    ids = pc.binary_join_element_wise("enwiki", pc.cast(table["page_id"], pa.string()), "-")
    columns = {"place_id": ids} | {name: table[name] for name in ("text", "lang", "revision", "url")}
    return columns | {name: pa.repeat(value, count) for name, value in same.items()}


def wrote(n: int, seconds: float, folder: Path) -> dict:
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return {"s": seconds, "per_s": n / seconds, "peak_mb": peak_mb(), "disk_mb": size / 2**20}


def write_texts(folder: Path, n: int, side: int) -> dict:
    """Places and texts through ``write_store``."""
    clock, rng = Clock(), np.random.default_rng(0)
    numbers = pc.cast(pa.array(np.arange(1, n + 1)), pa.string())
    places = {
        "place_id": pc.binary_join_element_wise("enwiki", numbers, "-"),
        "title": pc.binary_join_element_wise("Place", numbers, " "),
        "lon": rng.uniform(-180, 180, n), "lat": np.degrees(np.arcsin(rng.uniform(-1, 1, n))),
        "source": pa.repeat("English Wikipedia", n), "license": pa.repeat("CC BY-SA 4.0", n),
        "qid": pc.binary_join_element_wise("Q", numbers, ""), "type": pa.repeat("city", n),
        "dim_m": rng.uniform(10, 1e5, n), "links": rng.integers(0, 1000, n),
    }  # fmt: skip
    sentences()
    started = time.perf_counter()
    write_store(folder / "store", places=places, texts=clock.of(pa.table(text_columns(*p)) for p in pieces(n)))
    return wrote(n, time.perf_counter() - started - clock.seconds, folder / "store")


def write_texts_pandas(folder: Path, n: int, side: int) -> dict:
    """The same texts in one frame, which is written as Parquet."""
    import pandas as pd

    clock = Clock()
    sentences()
    (folder / "pandas").mkdir()
    started = time.perf_counter()
    parts = [pa.table(columns).to_pandas() for columns in clock.of(text_columns(*piece) for piece in pieces(n))]
    frame = pd.concat(parts, ignore_index=True)
    frame.to_parquet(folder / "pandas" / "texts.parquet", compression="zstd")
    return wrote(n, time.perf_counter() - started - clock.seconds, folder / "pandas")


def collect_articles(folder: Path, n: int, side: int) -> dict:
    """The whole way from a Parquet table: parts that are saved, rows checked, near-duplicates, the store."""
    from geonb.data.sources.wikipedia import from_table

    folder.mkdir(parents=True, exist_ok=True)
    for piece in pieces(n, 25_000):
        pq.write_table(articles(*piece), folder / f"articles-{piece[0]:08d}.parquet")
    started = time.perf_counter()
    from_table(folder / "collected", folder / "articles-*.parquet")
    return wrote(n, time.perf_counter() - started, folder / "collected")


def store_of(folder: Path, n: int) -> Path:
    if not (folder / "store").exists():
        write_texts(folder, n, 0)
    return folder / "store"


def read_texts(folder: Path, n: int, side: int) -> dict:
    """Open a store, read all its texts in order, then random batches."""
    path = store_of(folder, n)
    started = time.perf_counter()
    store = PlaceStore.open(path)
    opened = time.perf_counter() - started
    return {"open_s": opened, "open_peak_mb": peak_mb()} | read_all(n, store.texts)


def read_texts_pandas(folder: Path, n: int, side: int) -> dict:
    import pandas as pd

    path = store_of(folder, n)
    started = time.perf_counter()
    frame = pd.read_parquet(path / "texts.parquet")
    opened = time.perf_counter() - started
    return {"open_s": opened, "open_peak_mb": peak_mb()} | read_all(n, lambda rows: frame["text"].iloc[rows].tolist())


def read_all(n: int, read) -> dict:
    chars, started = 0, time.perf_counter()
    for first, count in pieces(n):
        chars += sum(map(len, read(np.arange(first, first + count))))
    in_order = time.perf_counter() - started
    rng, seconds = np.random.default_rng(3), []
    for _ in range(ROUNDS):
        rows = rng.integers(0, n, BATCH)
        started = time.perf_counter()
        read(rows)
        seconds.append(time.perf_counter() - started)
    return {
        "s": in_order, "per_s": n / in_order, "random_per_s": BATCH / statistics.median(seconds),
        "chars": chars / n, "peak_mb": peak_mb(),
    }  # fmt: skip


def check(folder: Path, n: int, side: int) -> dict:
    """``geonb data check``."""
    path = store_of(folder, n)
    started = time.perf_counter()
    check_store(path)
    seconds = time.perf_counter() - started
    return {"s": seconds, "per_s": n / seconds, "peak_mb": peak_mb()}


# --- chips --------------------------------------------------------------------------------------------


@lru_cache
def pool(side: int) -> tuple[np.ndarray, str]:
    """A few hundred chips, or fewer of the largest, and where they are from."""
    from geonb.data.sources.local import real_data
    from geonb.sample import load_facts
    from geonb.sample.images import simulate_sentinel2

    try:
        files = real_data()["chips"]
    except FileNotFoundError:
        table, _ = load_facts()
        rows = np.random.default_rng(0).choice(len(table["lon"]), 64, replace=False)
        names = ("place_id", "lon", "lat", "climate", "elevation_m", "population", "coast_km", "continent", "country")
        facts = {name: table[name][rows] for name in names} | {"slope_m": table["relief_m"][rows]}
        return simulate_sentinel2(facts, size=side)[0], "simulated"
    import rasterio

    whole = np.stack([rasterio.open(file).read() for file in files])
    cut = whole.reshape(len(whole), 12, 256 // side, side, 256 // side, side).transpose(0, 2, 4, 1, 3, 5)
    return np.ascontiguousarray(cut.reshape(-1, 12, side, side)), "real"


def chip(number: int, side: int) -> np.ndarray:
    rng, chips = np.random.default_rng([4, number]), pool(side)[0]
    picked, turns, mirror, light = rng.integers(0, [len(chips), 4, 2, 50])
    image = np.rot90(chips[picked], turns, (1, 2))
    return (image[:, :, ::-1] if mirror else image) + np.uint16(light)


def write_chips(folder: Path, n: int, side: int) -> dict:
    clock = Clock()
    pool(side)
    names = pc.cast(pa.array(np.arange(n)), pa.string())
    size = max(1, 512 * 64 * 64 // side**2)
    stacks = (np.stack([chip(i, side) for i in range(first, first + count)]) for first, count in pieces(n, size))
    started = time.perf_counter()
    write_store(
        folder / "chips", places={"place_id": names, "lon": np.zeros(n), "lat": np.zeros(n)},
        images=clock.of(stacks), image_rows=np.arange(n),
    )  # fmt: skip
    found = wrote(n, time.perf_counter() - started - clock.seconds, folder / "chips")
    return {"side": side, "chips": pool(side)[1], "raw_mb": n * 24 * side**2 / 2**20} | found


def check_chips(folder: Path, n: int, side: int) -> dict:
    """``geonb data check``, which reads and decodes all chips."""
    if not (folder / "chips").exists():
        write_chips(folder, n, side)
    started = time.perf_counter()
    check_store(folder / "chips")
    seconds = time.perf_counter() - started
    return {"side": side, "s": seconds, "per_s": n / seconds, "peak_mb": peak_mb()}


def read_chips(folder: Path, n: int, side: int) -> dict:
    """Random batches, from the store and from files of each format."""
    import rasterio
    import torch
    import zarr
    from rasterio.transform import from_origin

    from geonb.training import Observations

    if not (folder / "chips").exists():
        write_chips(folder, n, side)
    store, ways = PlaceStore.open(folder / "chips"), {}
    array = zarr.open_array(folder / "chips" / "images.zarr", mode="r")
    kept = {"store": [folder / "chips" / "images.zarr"]}
    block = dict.fromkeys(("blockxsize", "blockysize"), 512 if side == 256 else side)  # the real ones have 512
    for name, options in FORMATS.items():
        files = kept[name] = [folder / name / f"{i}.tif" for i in range(n)]
        (folder / name).mkdir()
        for i, file in enumerate(files):
            with rasterio.open(
                file, "w", driver="GTiff", width=side, height=side, count=12, dtype="uint16", crs="EPSG:32632",
                transform=from_origin(5e5, 5e6, 10, 10), **options, **(block if "tiled" in options else {}),
            ) as target:  # fmt: skip
                target.write(chip(i, side))
        ways[name] = partial(read_files, files, side)
    observed = Observations(store, {}, {}, ["image"])
    ours = {
        "store": store.images,
        "training batch": lambda rows: observed.batch(torch.from_numpy(rows))["image"][0].numpy().view(np.uint16),
    }
    ways = ours | {"zarr-python": array.oindex.__getitem__} | ways

    rng = np.random.default_rng(5)
    expected = np.stack([chip(i, side) for i in range(3)])
    assert all((read(np.arange(3)) == expected).all() for read in ways.values())
    result = {"side": side, "files": n, "batch": min(BATCH, n), "chips": pool(side)[1]}
    cores = len(os.sched_getaffinity(0))
    os.sync()
    for name, threads, cold in [("one thread", 1, False), (f"{cores} threads", cores, False), ("cold", cores, True)]:
        shards.THREADS = read_files.threads = threads
        seconds = {way: [] for way in ways if way != "zarr-python" or threads == 1}
        for turn in range((3 if cold else ROUNDS) + 1):
            for way in seconds:
                rows = rng.permutation(n)[: SLOW if way == "zarr-python" else BATCH]
                if cold:
                    drop(kept[way if way in kept else "store"])
                started, computed = time.perf_counter(), time.process_time()
                ways[way](rows)
                if turn:  # the first is a warm-up
                    found = time.perf_counter() - started, time.process_time() - computed
                    seconds[way].append([value / len(rows) for value in found])
        taken = {way: np.median(times, 0).tolist() for way, times in seconds.items()}
        result[name] = {}
        for clock, number in (("s", 0), ("cpu_s", 1)):
            result[name][f"chips_per_{clock}"] = {way: 1 / both[number] for way, both in taken.items()}
            result[name][f"times_as_fast_{clock}"] = {
                way: {peer: both[number] / taken[way][number] for peer, both in taken.items() if peer not in ours}
                for way in ours
            }
    return result


def read_files(files: list[Path], side: int, rows: np.ndarray) -> np.ndarray:
    """A batch as a loader of files makes it: open, read, put in its place."""
    import rasterio

    out = np.empty((len(rows), 12, side, side), np.uint16)

    def read(i: int) -> None:
        with rasterio.open(files[rows[i]]) as source:
            out[i] = source.read()

    if read_files.threads == 1:
        for i in range(len(rows)):
            read(i)
    else:
        with ThreadPoolExecutor(read_files.threads) as threads:
            list(threads.map(read, range(len(rows))))
    return out


read_files.threads = 1


def drop(paths: list[Path]) -> None:
    """Let the system forget what it holds of files in memory."""
    for path in itertools.chain.from_iterable([p] if p.is_file() else p.rglob("*") for p in paths):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


# --- all ----------------------------------------------------------------------------------------------

CASES = {
    "write texts": write_texts,
    "write texts, pandas": write_texts_pandas,
    "read texts": read_texts,
    "read texts, pandas": read_texts_pandas,
    "check texts": check,
    "collect articles": collect_articles,
    "write chips": write_chips,
    "check chips": check_chips,
    "read chips": read_chips,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", metavar="FILE.json")
    parser.add_argument("--articles", type=int, default=ARTICLES, metavar="N")
    parser.add_argument("--chips", type=int, default=CHIPS, metavar="N", help="of 64 x 64 pixels")
    parser.add_argument("--scratch", help="where the stores are made and removed again")
    parser.add_argument("--only", choices=("texts", "chips"), help="leave out the rest")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--n", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--side", type=int, default=64, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(options.scratch or folder)
            print(json.dumps(CASES[options.case](folder, options.n, options.side)))
        return
    results: list[dict] = []

    def run(case: str, n: int, folder: str, side: int = 64) -> None:
        row = in_fresh_process(
            __file__, "--case", case, "--n", n, "--side", side, "--scratch", folder, threads=1, timeout=3600
        )
        results.append({"case": case, "n": n} | row)
        shown = {name: value for name, value in row.items() if isinstance(value, (int, float))}
        print(f"{case:22}{n:>10,}  " + "  ".join(f"{name} {value:,.4g}" for name, value in shown.items()), flush=True)
        for name, value in row.items():
            if isinstance(value, dict):
                for clock, (way, peers) in itertools.product(("s", "cpu_s"), value["times_as_fast_s"].items()):
                    rate, times = value[f"chips_per_{clock}"][way], value[f"times_as_fast_{clock}"][way]
                    print(f"{'':22}{name}: {way} {rate:,.0f} chips/{clock}; times as fast as "
                          + "  ".join(f"{peer} {times[peer]:.1f}" for peer in peers), flush=True)  # fmt: skip

    if options.only != "chips":
        for part in SIZES:
            with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
                for case in CASES:
                    if "chips" not in case:
                        run(case, options.articles // part, folder)
    if options.only != "texts":
        for part in SIZES:
            with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
                run("write chips", options.chips // part, folder)
                run("check chips", options.chips // part, folder)
        for side, n in FILES.items():
            with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
                run("read chips", min(n, options.chips), folder, side)
    write(options.out, results)


if __name__ == "__main__":
    main()
