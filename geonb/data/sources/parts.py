"""Resumable acquisition: what is fetched lies in parts beside the store until the store is complete.

``<out>.parts/`` contains ``plan.json`` (what was asked for, and the day of the first start) and, for each
finished step, ``NAME.parquet`` and perhaps ``NAME.npy``. The table is written last, so a table means a
finished step. The same plan gives the same bytes, however often it was stopped.
"""

from __future__ import annotations

import glob
import hashlib
import json
import shutil
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from numpy.typing import ArrayLike

from geonb._util import tqdm, write_atomically
from geonb.data.sentinel2 import BANDS, GSD_M, SCALE
from geonb.data.store import Images, PlaceStore, StoreError, check_scaling, write_store
from geonb.data.tables import swapped_hint
from geonb.geo import check_lonlat

IMAGES = 1024  # read at a time


@dataclass
class Skips:
    """Count what was left out, by reason, with the first example of each."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, example: str = "", n: int = 1) -> None:
        """Count n more rows under a reason."""
        if n:
            self.counts[reason] += int(n)
            self.examples.setdefault(reason, f" (e.g. {example[:200]})" if example else "")

    def update(self, other: Skips) -> None:
        """Add the counts of another."""
        self.counts.update(other.counts)
        self.examples = other.examples | self.examples

    def tell(self) -> None:
        """Say on stderr what was left out, if anything was."""
        if self.counts:
            print(self, file=sys.stderr)

    def __str__(self) -> str:
        lines = [f"{n:,} left out: {reason}{self.examples[reason]}" for reason, n in self.counts.most_common()]
        return "\n".join(lines) or "nothing was left out"


class Parts:
    """The parts of an acquisition, held by one process at a time; use it in a ``with`` statement.

    Leaving the statement without an exception removes the parts; else the same plan continues.

    Args:
        out: the store, or file, to be made from the parts; it must not exist.
        plan: what is asked for, as JSON without secrets: it is written to the disk.

    Attributes:
        folder: ``<out>.parts``, also for downloads of the caller; it is removed with all its files.
        date: the day of the first start (UTC, ISO 8601).

    Raises:
        ValueError: the output exists, another process is at work, or the folder contains other parts.
    """

    def __init__(self, out: str | Path, plan: dict) -> None:
        self.out = Path(out)
        self.folder = self.out.with_name(f"{self.out.name}.parts")
        self.plan = json.loads(json.dumps(plan))
        self.date = ""
        self._lock = FileLock(self.folder / "lock")

    def __enter__(self) -> Parts:
        if self.out.is_file() or (self.out.is_dir() and any(self.out.iterdir())):
            raise ValueError(f"{self.out}: exists already; remove it (and any {self.folder.name}) or choose another")
        file = self.folder / "plan.json"
        if not file.exists() and any(path.name != "lock" for path in self.folder.glob("*")):
            raise ValueError(f"{self.folder}: contains other files than parts; move or remove it")
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
            if not file.exists():
                begun = {"begun": datetime.now(UTC).date().isoformat(), "plan": self.plan}
                write_atomically(file, json.dumps(begun, indent=1, ensure_ascii=False).encode())
            known = json.loads(file.read_text(encoding="utf-8"))
            self.date = known["begun"]
            if known["plan"] != self.plan:
                before = {key: value for key, value in known["plan"].items() if self.plan.get(key) != value}
                advice = "continue that, or remove the folder"
                raise ValueError(f"{self.folder}: contains parts of another plan, begun with {before}; {advice}")
            for unfinished in self.out.parent.glob(f"{glob.escape(self.out.name)}.partial-*"):
                shutil.rmtree(unfinished)  # a store whose writer was killed
        except Timeout:
            raise ValueError(f"{self.out}: another process is making it; wait or stop that") from None
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            shutil.rmtree(self.folder)
        self._lock.release()

    def __contains__(self, name: str | int) -> bool:
        return (self.folder / f"{name}.parquet").exists()

    def save(self, name: str | int, table: pa.Table, array: Any = None, skips: Skips | None = None) -> None:
        """Save a finished part: rows, an array of any shape (n, ...), and what was left out."""
        note = json.dumps(vars(skips or Skips()), ensure_ascii=False)
        table = table.replace_schema_metadata({b"skips": note.encode()})
        if array is not None:
            write_atomically(self.folder / f"{name}.npy", partial(np.save, arr=array, allow_pickle=False))
        write_atomically(self.folder / f"{name}.parquet", partial(pq.write_table, table, compression="zstd"))

    def table(self, name: str | int, columns: list[str] | None = None) -> pa.Table:
        """Read the rows of a part, or some columns of them."""
        return pq.ParquetFile(self.folder / f"{name}.parquet").read(columns).replace_schema_metadata()

    def array(self, name: str | int) -> np.ndarray:
        """Map the array of a part into memory, in the shape in which it was saved."""
        return np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)

    def skips(self) -> Skips:
        """Add up what was left out in all parts, in the order of their names."""
        total = Skips()
        for file in sorted(self.folder.glob("*.parquet")):
            total.update(Skips(**json.loads(pq.read_schema(file).metadata[b"skips"])))
        return total


@dataclass
class Chip:
    """An image around a position.

    Attributes:
        image: uint16 (12, size, size), surface reflectance x 10,000 without any offset, bands as in
            :data:`geonb.data.sentinel2.BANDS`, north up; 0 is nodata.
        date: of acquisition, ISO 8601; ``""`` for a composite of several.
        columns: facts of this chip, numbers or str, of the same names in every chip of a source.
    """

    image: np.ndarray
    date: str = ""
    columns: dict[str, float | str] = field(default_factory=dict)


def chip_store(
    out: str | Path,
    where: ArrayLike | PlaceStore,
    fetch: Callable[[float, float], Chip | str],
    *,
    plan: dict,
    source: str,
    license: str,
    size: int,
    workers: int = 1,
    simulated: bool = False,
) -> PlaceStore:
    """Make a place store with a chip at each position where the source has one, or continue to make it.

    Args:
        out: the store's folder.
        where: positions (n, 2) in degrees; those without a chip are left out. Or a :class:`PlaceStore` without
            Sentinel-2, or with simulated chips, which are replaced together with the facts that they alone can tell.
            All its places, other facts, texts and other images are kept.
        fetch: makes a chip of longitude and latitude in degrees, or the reason why there is none. It
            raises ValueError or OSError where another try may help.
        plan: what is asked of the source, as JSON without secrets.
        source, license: of the images, for people.
        size: edge of a chip in pixels.
        workers: chips at once, in threads.
        simulated: whether the images are simulated.

    Raises:
        ValueError: wrong positions, a store with such images, a source that failed, no chip at all, or as
            in :class:`Parts`.
    """
    base = where if isinstance(where, PlaceStore) else None
    lonlat = where.lonlat if isinstance(where, PlaceStore) else check_lonlat(where, "positions")
    if base is not None and "sentinel2" in base.imagery and not base.simulated("sentinel2"):
        raise ValueError(f"{base.path}: has images of Sentinel-2 already; give a store without")
    if not len(lonlat):
        raise ValueError("no positions; give at least one")
    if hint := swapped_hint(lonlat):
        warnings.warn(hint, stacklevel=3)
    plan = plan | {"size": size, "simulated": simulated, "places": len(lonlat)}
    plan |= {"positions": hashlib.sha256(np.asarray(lonlat, "<f8").tobytes()).hexdigest()}
    plan |= {"base": base.data_hash if base is not None else None}
    with Parts(out, plan) as parts:
        _fetch_all(parts, lonlat, fetch, workers)
        return _write(parts, lonlat, base, source, license)


def _fetch_all(parts: Parts, lonlat: np.ndarray, fetch: Callable, workers: int) -> None:
    """Fetch the chips that are missing; each is a part."""
    pool, n = ThreadPoolExecutor(workers), len(lonlat)
    missing = [row for row in range(n) if row not in parts]
    try:
        futures = [pool.submit(_save, parts, row, lonlat[row], fetch) for row in missing]
        for future in tqdm(as_completed(futures), total=len(futures), desc="chips", unit="place"):
            future.result()
    except (ValueError, OSError) as error:
        done = sum(row in parts for row in range(n))
        advice = f"{done:,} of {n:,} places are done; give the same command to continue"
        raise ValueError(f"{error}\n{advice}") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _save(parts: Parts, row: int, point: np.ndarray, fetch: Callable) -> None:
    """Fetch a chip, and save it or the reason why there is none."""
    where, skips = f"row {row} at ({point[0]:g}, {point[1]:g})", Skips()
    try:
        chip = fetch(*point.tolist())
    except (ValueError, OSError):
        raise
    except Exception as error:  # the libraries behind the sources share no class of errors
        raise ValueError(f"{where}: no chip could be made ({type(error).__name__}: {error})") from error
    if isinstance(chip, Chip):
        try:
            check_scaling("chip", chip.image[None], 0)
        except StoreError:
            dark = "too dark or too bright to be reflectance"
            chip = dark if chip.image.any() else "no data in the whole chip"
    if isinstance(chip, Chip):
        table = pa.Table.from_pylist([{"row": row, "date": chip.date} | chip.columns])
        parts.save(row, table, chip.image[None])
    else:
        skips.add(chip, where)
        parts.save(row, pa.table({}), skips=skips)


def _write(parts: Parts, lonlat: np.ndarray, base: PlaceStore | None, source: str, license: str) -> PlaceStore:
    found = pa.concat_tables(map(parts.table, range(len(lonlat))), promote_options="permissive")
    skips = parts.skips()
    if not len(found):
        raise ValueError(f"no chip was found at {len(lonlat):,} positions\n{skips}")
    skips.tell()
    rows, dates = found["row"].to_numpy(), found["date"].to_pylist()
    made = {"function": "geonb.data.sources.parts.chip_store", "begun": parts.date, "plan": parts.plan}
    made |= {"images": {"source": source, "license": license}, "left_out": skips.counts}
    columns, more = found.drop_columns(["row", "date"]), dict[str, Any]()
    if base is None:
        stored, heading, simulated, images = rows, "# Image chips", {}, {}
        places: dict[str, Any] = {"place_id": [f"point-{row:07d}" for row in rows.tolist()]}
        places |= {"source": [source] * len(rows), "license": [license] * len(rows)}
    else:
        stored, simulated = np.arange(len(base)), base.manifest["simulated"]
        replaced = [name for name, fact in base.facts.items() if fact.get("modalities") == ["sentinel2"]]
        more["facts"] = {name: fact for name, fact in base.facts.items() if name not in replaced}
        images = {name: _kept(base, name) for name in base.imagery if name != "sentinel2"}
        places = {name: base.places[name] for name in base.columns if name not in replaced}
        if clash := set(columns.column_names) & set(places):
            raise ValueError(f"{base.path}: has a column {min(clash)!r}, as the images have; rename it")
        made["base"] = base.manifest["made"]
        heading = (base.path / "datacard.md").read_text(encoding="utf-8").rstrip() + "\n\n## Image chips"
        if "sentinel2" in base.imagery:
            heading += f"\n\nThey replace the simulated Sentinel-2 above with its columns {', '.join(replaced)}."
        if base.manifest["counts"]["texts"]:
            batches = pq.ParquetFile(base.path / "texts.parquet").iter_batches(4096)
            more["texts"] = (pa.Table.from_batches([batch]) for batch in batches)
    places |= {"lon": lonlat[stored, 0], "lat": lonlat[stored, 1]}
    of_place = columns.take(pc.index_in(pa.array(stored), pa.array(rows)))
    places |= dict(zip(of_place.column_names, of_place.columns, strict=True))
    images["sentinel2"] = Images(map(parts.array, rows), np.flatnonzero(np.isin(stored, rows)), dates)
    return write_store(
        parts.out, places=places, images=images, made=made,
        simulated=simulated | {"sentinel2": parts.plan["simulated"]},
        datacard=f"{heading}\n{_card(parts, dates, skips, source, license)}", **more,
    )  # fmt: skip


def _kept(base: PlaceStore, name: str) -> Images:
    """Take the images of a modality over from a store."""
    rows, about = np.flatnonzero(base.has(name)), base.imagery[name]
    chunks = (base.images(name, rows[i : i + IMAGES]) for i in range(0, len(rows), IMAGES))
    return Images(chunks, rows, base.image_dates(name, rows), about["bands"], about["scale"], about["gsd_m"])


def _card(parts: Parts, dates: list[str], skips: Skips, source: str, license: str) -> str:
    """Describe the chips for the data card, below its heading."""
    days, plan = sorted(filter(None, dates)), parts.plan
    when = f"from {days[0]} to {days[-1]}" if days else "composites of several days"
    return f"""
{"**The images are simulated.**" if plan["simulated"] else ""}

- {len(dates):,} chips at {plan["places"]:,} positions, fetched on {parts.date} or later.
- {plan["size"]} x {plan["size"]} pixels of {GSD_M} m, {len(BANDS)} bands, reflectance x {SCALE}, {when}.
- Source: {source}. Licence: {license}.

```
{skips}
```
"""
