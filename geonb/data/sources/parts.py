"""Resumable acquisition: what is fetched lies in parts beside the store until the store is whole.

``<out>.parts/`` holds ``plan.json`` (what was asked for, and the day of the first start) and for each finished step
``NAME.parquet`` (its rows, with the counts of what was left out) and, where it has an array, ``NAME.npy``. The table is
written last, so a table means a finished step. The same plan gives the same bytes, however often it was stopped.

The module knows nothing of networks: a source of chips is a function from positions to chips.
"""

from __future__ import annotations

import glob
import hashlib
import json
import shutil
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from geonb._util import tqdm, write_atomically
from geonb.data.sentinel2 import BANDS, GSD_M, SCALE
from geonb.data.store import PlaceStore, StoreError, check_scaling, write_store
from geonb.geo import check_lonlat


@dataclass
class Skips:
    """Count what was left out, by reason, with the first example of each."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, example: str = "", n: int = 1) -> None:
        """Count n more rows under a reason."""
        if n:
            self.counts[reason] = self.counts.get(reason, 0) + int(n)
            if example:
                self.examples.setdefault(reason, str(example)[:200])

    def update(self, other: Skips) -> None:
        """Add the counts of another."""
        for reason, n in other.counts.items():
            self.add(reason, other.examples.get(reason, ""), n)

    def __str__(self) -> str:
        lines = []
        for reason, n in sorted(self.counts.items(), key=lambda item: (-item[1], item[0])):
            example = f" (e.g. {self.examples[reason]})" if reason in self.examples else ""
            lines.append(f"{n:,} left out: {reason}{example}")
        return "\n".join(lines) or "nothing was left out"


class Parts:
    """The parts of an acquisition, held by one process at a time; use it in a ``with`` statement.

    Leaving the statement without an exception removes the parts; with one they stay, and the same plan continues.

    Args:
        out: the store, or file, to be made from the parts; it must not exist.
        plan: what is asked for, as JSON. It is written to the disk, so it holds no secrets.

    Attributes:
        folder: ``<out>.parts``. Files of the caller, such as downloads, may lie there too; they go with it.
        date: the day of the first start (UTC, ISO 8601).

    Raises:
        ValueError: on entering: the output exists, another process is at work, the parts that lie there belong to
            another plan, or the folder is not one of parts.
    """

    def __init__(self, out: str | Path, plan: dict) -> None:
        from filelock import FileLock

        self.out = Path(out)
        self.folder = self.out.with_name(f"{self.out.name}.parts")
        self.plan = json.loads(json.dumps(plan))
        self.date = ""
        self._lock = FileLock(self.folder / "lock")

    def __enter__(self) -> Parts:
        from filelock import Timeout

        file, exists = self.folder / "plan.json", f"{self.out}: exists already; remove it or choose another folder"
        begun = file.exists()
        if not begun and (self.out.is_file() or (self.out.is_dir() and any(self.out.iterdir()))):
            raise ValueError(exists)
        if not begun and self.folder.exists() and {path.name for path in self.folder.iterdir()} - {"lock"}:
            raise ValueError(f"{self.folder}: has no plan.json, so it does not hold parts; move or remove it")
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(
                f"{self.folder}: another process is making {self.out}; wait for it, or stop it and give the same "
                "command again: nothing is lost"
            ) from None
        try:
            self._take_plan(file)
            for unfinished in self.out.parent.glob(f"{glob.escape(self.out.name)}.partial-*"):
                shutil.rmtree(unfinished)  # a store whose writer was killed
            if begun and self.out.exists():  # a process was killed after the last step, or it is somebody else's
                if not self._made_output():
                    raise ValueError(exists)
                shutil.rmtree(self.out) if self.out.is_dir() else self.out.unlink()  # the parts give it again
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            shutil.rmtree(self.folder)
        self._lock.release()

    def __contains__(self, name: str) -> bool:
        return (self.folder / f"{name}.parquet").exists()

    def save(self, name: str, table: pa.Table, array: np.ndarray | None = None, skips: Skips | None = None) -> None:
        """Save a finished part: rows, an array of any shape (n, ...) that needs no pickle, and what was left out.

        Names are letters and digits; :meth:`skips` adds up in their order.
        """
        note = json.dumps(asdict(skips or Skips()), ensure_ascii=False)
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"skips": note.encode()})
        if array is not None:
            write_atomically(self.folder / f"{name}.npy", partial(np.save, arr=array, allow_pickle=False))
        write_atomically(self.folder / f"{name}.parquet", partial(pq.write_table, table, compression="zstd"))

    def table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Read the rows of a part, or some columns of them."""
        table = pq.read_table(self.folder / f"{name}.parquet", columns=columns)
        return table.replace_schema_metadata({k: v for k, v in table.schema.metadata.items() if k != b"skips"})

    def array(self, name: str) -> np.ndarray:
        """Map the array of a part into memory, of the shape with which it was saved."""
        return np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)

    def skips(self) -> Skips:
        """Add up what was left out in all parts, in the order of their names."""
        total = Skips()
        for file in sorted(self.folder.glob("*.parquet")):
            total.update(Skips(**json.loads(pq.read_schema(file).metadata[b"skips"])))
        return total

    def _take_plan(self, file: Path) -> None:
        """Write the plan, or compare it with the one that is there."""
        if not file.exists():
            begun = {"begun": datetime.now(UTC).date().isoformat(), "plan": self.plan}
            write_atomically(file, json.dumps(begun, indent=1, ensure_ascii=False).encode())
        known = json.loads(file.read_text(encoding="utf-8"))
        plan, self.date = known["plan"], known["begun"]
        differs = sorted(key for key in plan.keys() | self.plan.keys() if plan.get(key) != self.plan.get(key))
        if differs:
            lines = [f"  {key}: begun with {plan.get(key)!r}, now {self.plan.get(key)!r}" for key in differs]
            raise ValueError(
                f"{self.folder}: holds unfinished parts of another plan\n" + "\n".join(lines) + "\n"
                f"Give the command as before to continue, or remove {self.folder} to start over."
            )

    def _made_output(self) -> bool:
        """Tell whether the output that exists says of itself that this plan made it, begun on this day."""
        try:
            if self.out.is_file():
                made = json.loads(pq.read_schema(self.out).metadata[b"made"])
                made["plan"] = {key: made[key] for key in self.plan}
            else:
                made = json.loads((self.out / "manifest.json").read_text(encoding="utf-8"))["made"]
            return (made["begun"], made["plan"]) == (self.date, self.plan)
        except (OSError, ValueError, KeyError, TypeError):
            return False


@dataclass
class Chip:
    """An image around a position.

    Attributes:
        image: uint16 (12, size, size), surface reflectance x 10,000 without any offset, bands as in
            :data:`geonb.data.sentinel2.BANDS`, north up; 0 is nodata.
        date: of acquisition, ISO 8601; ``""`` for a composite of several.
        columns: facts of this chip, numbers or str; they become columns of the places.
    """

    image: np.ndarray
    date: str = ""
    columns: dict[str, float | str] = field(default_factory=dict)


Fetch = Callable[[float, float], Chip | str]
"""Longitude and latitude in degrees -> a :class:`Chip`, or the reason why there is none."""


def chip_store(
    out: str | Path,
    where: ArrayLike | PlaceStore,
    fetch: Fetch,
    *,
    plan: dict,
    source: str,
    license: str,
    size: int,
    batch: int = 8,
    workers: int = 1,
    simulated: bool = False,
) -> PlaceStore:
    """Make a place store with a chip at each position where the source has one; the same call continues a stopped one.

    Args:
        out: the store's folder.
        where: positions (n, 2) in degrees: those without a chip are left out. Or a :class:`PlaceStore` without images:
            its places, facts and texts are kept, and chips are added where there are any.
        fetch: the source. It raises ValueError or OSError where another try may help, and returns a reason in place
            of a chip where none will.
        plan: what is asked of the source, as JSON without secrets.
        source, license: of the images, for people.
        size: edge of a chip in pixels.
        batch: chips in one part; more make fewer files and lose more when stopped.
        workers: parts at once, in threads.
        simulated: whether the images are simulated.

    Raises:
        ValueError: wrong positions, a store with images, a source that failed (finished parts are kept), no chip at
            all, or as in :class:`Parts`.
    """
    base = where if isinstance(where, PlaceStore) else None
    if base is not None and base.has("image").any():
        raise ValueError(f"{base.path}: has images already; give a store without images, or positions")
    lonlat = where.lonlat if isinstance(where, PlaceStore) else check_lonlat(where, "positions")
    if not len(lonlat):
        raise ValueError("no positions; give at least one")
    digest = hashlib.sha256(np.ascontiguousarray(lonlat, "<f8").data)
    digest.update((base.data_hash if base is not None else "").encode())
    plan = plan | {"size": size, "batch": batch, "simulated": simulated}
    plan |= {"places": len(lonlat), "positions": digest.hexdigest()}
    with Parts(out, plan) as parts:
        names = _fetch_all(parts, lonlat, fetch, batch, workers)
        return _write(parts, names, lonlat, base, source, license)


def _fetch_all(parts: Parts, lonlat: np.ndarray, fetch: Fetch, batch: int, workers: int) -> list[str]:
    """Fetch the parts that are missing; return the names of all, in order."""
    rows_of = {f"{i // batch:06d}": range(i, min(i + batch, len(lonlat))) for i in range(0, len(lonlat), batch)}
    missing = [name for name in rows_of if name not in parts]

    def one(name: str) -> int:
        found = {row: fetch(*lonlat[row].tolist()) for row in rows_of[name]}
        parts.save(name, *_part(found, parts.plan["size"]))
        return len(found)

    done = len(lonlat) - sum(len(rows_of[name]) for name in missing)
    queue = iter(missing)
    running: set[Future] = set()
    try:
        with (
            tqdm(total=len(lonlat), initial=done, desc="chips", unit="place") as bar,
            ThreadPoolExecutor(workers) as pool,
        ):
            while running := running | {pool.submit(one, name) for name in islice(queue, workers - len(running))}:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    bar.update(future.result())
    except (ValueError, OSError) as error:
        done = sum(len(rows) for name, rows in rows_of.items() if name in parts)
        kept = f"{done:,} of {len(lonlat):,} places are done and kept; give the same command to continue"
        raise ValueError(f"{error}\n{kept}") from error
    return list(rows_of)


def _part(found: dict[int, Chip | str], size: int) -> tuple[pa.Table, np.ndarray, Skips]:
    """Turn what was found by row into a table (row, date, columns), chips (k, 12, size, size) and skips."""
    skips = Skips()
    chips: dict[int, Chip] = {}
    for row, chip in found.items():
        try:
            if isinstance(chip, Chip) and chip.image.any():
                check_scaling("chip", chip.image[None], 0)
                chips[row] = chip
            else:
                skips.add(chip if isinstance(chip, str) else "no data in the whole chip", f"place {row}")
        except StoreError:
            skips.add("too dark or too bright to be reflectance", f"place {row}")
    columns = {"row": pa.array(list(chips), pa.int64())}
    columns["date"] = pa.array([chip.date for chip in chips.values()], pa.string())
    for name in sorted({name for chip in chips.values() for name in chip.columns}):
        columns[name] = pa.array([chip.columns.get(name) for chip in chips.values()], from_pandas=True)
    images = [np.empty((0, len(BANDS), size, size), np.uint16), *(chip.image[None] for chip in chips.values())]
    return pa.table(columns), np.concatenate(images), skips


def _write(
    parts: Parts, names: list[str], lonlat: np.ndarray, base: PlaceStore | None, source: str, license: str
) -> PlaceStore:
    found, skips = pa.concat_tables(map(parts.table, names), promote_options="permissive"), parts.skips()
    rows = found["row"].to_numpy()
    if not len(rows):
        raise ValueError(f"no chip was found at {len(lonlat):,} positions\n{skips}")
    columns = found.drop_columns(["row", "date"])
    made = {"function": "geonb.data.sources.parts.chip_store", "begun": parts.date, "plan": parts.plan}
    made |= {"images": {"source": source, "license": license}, "left_out": skips.counts}
    card = _card(parts, found["date"].to_pylist(), skips, source, license)
    more: dict[str, Any] = {"simulated": {"image": parts.plan["simulated"]}, "datacard": f"# Image chips\n{card}"}
    if base is None:
        places: dict[str, Any] = {"place_id": [f"point-{row:07d}" for row in rows.tolist()]}
        places |= {"source": [source] * len(rows), "license": [license] * len(rows)}
        lonlat, image_rows = lonlat[rows], np.arange(len(rows))
    else:
        places, image_rows = {name: base.places[name] for name in base.columns}, rows
        if clash := set(columns.column_names) & set(places):
            raise ValueError(f"{base.path}: has a column {min(clash)!r}, which the images bring too; rename it")
        made["base"] = base.manifest["made"]
        first = (base.path / "datacard.md").read_text(encoding="utf-8").rstrip()
        more = {"facts": base.facts, "datacard": f"{first}\n\n## Image chips\n{card}"}
        more["simulated"] = base.manifest["simulated"] | {"image": parts.plan["simulated"]}
        if base.manifest["counts"]["texts"]:
            batches = pq.ParquetFile(base.path / "texts.parquet").iter_batches(4096)
            more["texts"] = (pa.Table.from_batches([batch]) for batch in batches)
    places |= {"lon": lonlat[:, 0], "lat": lonlat[:, 1]}
    at = np.full(len(lonlat), -1)
    at[image_rows] = np.arange(len(rows))
    of_place = columns.take(pa.array(at, mask=at < 0))
    places |= dict(zip(of_place.column_names, of_place.columns, strict=True))
    return write_store(
        parts.out, places=places, images=map(parts.array, names), image_rows=image_rows, gsd_m=float(GSD_M),
        dates=found["date"].to_pylist(), made=made, **more,
    )  # fmt: skip


def _card(parts: Parts, dates: list[str], skips: Skips, source: str, license: str) -> str:
    """Describe the chips for the data card, below its heading."""
    days, plan = sorted(filter(None, dates)), parts.plan
    when = f"acquired from {days[0]} to {days[-1]}" if days else "composites of several acquisitions"
    size = f"{plan['size']} x {plan['size']} pixels of {GSD_M} m"
    return (
        f"\n{len(dates):,} chips at {plan['places']:,} positions, {size}, {len(BANDS)} bands, surface reflectance x "
        f"{SCALE}, {when}. Fetched on {parts.date} or later.\n\n"
        + ("**The images are simulated.**\n\n" if plan["simulated"] else "")
        + f"- Source: {source}.\n- Licence: {license}.\n\n```\n{skips}\n```\n"
    )
