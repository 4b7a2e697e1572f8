"""Image chips around positions, from whatever source, into a place store; it can be stopped and goes on.

A source is a function from positions to chips (:data:`Fetch`). It raises where another try may help, and gives a reason
in place of a chip where none will: no scene, only clouds, no data. Finished batches are kept (:mod:`geonb.data.work`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from geonb._util import tqdm
from geonb.data.sentinel2 import BANDS, SCALE
from geonb.data.store import PLACE_COLUMNS, PlaceStore, StoreError, check_scaling, write_store
from geonb.data.work import Skips, Work, WorkError, acquire
from geonb.geo import check_lonlat

_DATE = re.compile(r"(\d{4}-\d{2}-\d{2})?")


@dataclass
class Chip:
    """An image around a position.

    Attributes:
        image: uint16 (12, size, size), surface reflectance x 10000 without any offset, bands as in
            :data:`geonb.data.sentinel2.BANDS`, north up; 0 is no data.
        date: of acquisition, ISO 8601; ``""`` for a composite of several.
        columns: facts of this chip, numbers or str; they become columns of the places.
    """

    image: np.ndarray
    date: str = ""
    columns: dict[str, float | str] = field(default_factory=dict)


Fetch = Callable[[np.ndarray], list[Chip | str]]
"""Positions (k, 2) in degrees -> for each a :class:`Chip`, or the reason why there is none."""


def chip_store(
    out: str | Path,
    where: ArrayLike | PlaceStore,
    fetch: Fetch,
    *,
    plan: dict,
    source: str,
    license: str,
    size: int,
    gsd_m: float = 10.0,
    batch: int = 32,
    workers: int = 1,
    simulated: bool = False,
    progress: bool = True,
) -> PlaceStore:
    """A place store with a chip at each position where the source has one.

    Args:
        out: the store's folder. Unfinished work lies in ``<out>.work``; the same call goes on from it.
        where: positions (n, 2) in degrees: those without a chip are left out. Or a :class:`PlaceStore` without images:
            its places, facts and texts are kept, and chips are added where there are any.
        fetch: the source; called with ``batch`` positions at a time, by ``workers`` threads at once.
        plan: what is asked of the source, as JSON without secrets; a changed plan does not go on from other work.
        source, license: of the images, for people.
        size: edge of a chip in pixels. ``gsd_m``: of a pixel in metres.
        simulated: whether the images are; the manifest and the data card say so.
        progress: show a bar.

    Raises:
        ValueError: positions that are wrong, a store that has images already, chips that are not as they should be.
        WorkError: the source failed (what is finished is kept), no chip was found, or as in
            :class:`geonb.data.work.Work`.
    """
    base = where if isinstance(where, PlaceStore) else None
    if base is not None and base.has("image").any():
        raise ValueError(f"{base.path} has images already; give a store without, or positions")
    lonlat = where.lonlat if isinstance(where, PlaceStore) else check_lonlat(where, "positions")
    if not len(lonlat):
        raise ValueError("no positions; give at least one")
    plan = plan | {"size": size, "batch": batch, "simulated": simulated}
    plan |= {"places": len(lonlat), "positions": _digest(lonlat, base)}

    def build(work: Work) -> PlaceStore:
        parts = _fetch_all(work, lonlat, fetch, size, batch, workers, progress)
        return _write(work, parts, lonlat, base, source, license, gsd_m)

    return acquire(out, plan, build)


def _digest(lonlat: np.ndarray, base: PlaceStore | None) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(lonlat, "<f8").data)
    digest.update((base.data_hash if base is not None else "").encode())
    return digest.hexdigest()


def _fetch_all(
    work: Work, lonlat: np.ndarray, fetch: Fetch, size: int, batch: int, workers: int, progress: bool
) -> list[str]:
    """Fetch the batches that are missing; returns the names of all parts, in order."""
    starts = {f"chips/{start // batch:06d}": start for start in range(0, len(lonlat), batch)}
    missing = [part for part in starts if not work.done(part)]

    def one(part: str) -> tuple:
        rows = np.arange(starts[part], min(starts[part] + batch, len(lonlat)))
        return part, rows, fetch(lonlat[rows])

    done = len(lonlat) - sum(min(batch, len(lonlat) - starts[part]) for part in missing)
    queue = iter(missing)
    running: set[Future] = set()
    with (
        tqdm(total=len(lonlat), initial=done, desc="chips", unit="place", disable=not progress) as bar,
        ThreadPoolExecutor(workers) as pool,
    ):
        while running := running | {pool.submit(one, part) for part in islice(queue, workers - len(running))}:
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                try:
                    part, rows, found = future.result()
                    table, chips, skips = _part(rows, found, size)
                    work.put(part, table, skips, chips=chips)
                except (ValueError, OSError) as error:
                    raise WorkError(
                        f"{error}\n{done:,} of {len(lonlat):,} places are done and kept; the same command goes on "
                        "from there"
                    ) from error
                done += len(rows)
                bar.update(len(rows))
    return list(starts)


def _part(rows: np.ndarray, found: list[Chip | str], size: int) -> tuple[pa.Table, np.ndarray, Skips]:
    if len(found) != len(rows):
        raise ValueError(f"the source gave {len(found)} answers for {len(rows)} positions")
    skips, kept = Skips(), []
    for row, chip in zip(rows.tolist(), found, strict=True):
        if isinstance(chip, str):
            skips.add(chip, f"place {row}")
        elif chip.image.shape != (len(BANDS), size, size) or chip.image.dtype != np.uint16:
            raise ValueError(f"place {row}: the source gave a chip {chip.image.dtype} {chip.image.shape}")
        elif not _DATE.fullmatch(chip.date):
            raise ValueError(f"place {row}: the source gave the date {chip.date!r}, which is not YYYY-MM-DD")
        elif not chip.image.any():
            skips.add("no data in the whole chip", f"place {row}")
        elif not _is_reflectance(chip.image):
            skips.add("too dark or too bright to be reflectance", f"place {row}")
        else:
            kept.append((row, chip))
    names = sorted({name for _, chip in kept for name in chip.columns})
    taken = set(names) & {*PLACE_COLUMNS, "lon", "lat", "row", "date"}
    if taken:
        raise ValueError(f"the source calls a column {min(taken)!r}, which has another meaning in a store")
    columns = {name: _column([chip.columns.get(name) for _, chip in kept]) for name in names}
    table = pa.table(
        {
            "row": pa.array([row for row, _ in kept], pa.int64()),
            "date": pa.array([chip.date for _, chip in kept], pa.string()),
            **columns,
        }
    )
    chips = np.stack([chip.image for _, chip in kept]) if kept else np.empty((0, len(BANDS), size, size), np.uint16)
    return table, chips, skips


def _is_reflectance(image: np.ndarray) -> bool:
    try:
        check_scaling("chip", image[None], 0)
    except StoreError:
        return False
    return True


def _column(values: list) -> pa.Array:
    if any(isinstance(value, str) for value in values):
        return pa.array([None if value is None else str(value) for value in values], pa.string())
    return pa.array([None if value is None else float(value) for value in values], pa.float64(), from_pandas=True)


def _write(
    work: Work, parts: list[str], lonlat: np.ndarray, base: PlaceStore | None, source: str, license: str, gsd_m: float
) -> PlaceStore:
    found = pa.concat_tables([work.table(part) for part in parts], promote_options="default")
    skips = work.skips(parts)
    rows = found["row"].to_numpy()
    if not len(rows):
        raise WorkError(f"no chip was found at {len(lonlat):,} positions\n{skips}")
    names = [name for name in found.column_names if name not in ("row", "date")]
    if base is None:
        places: dict[str, Any] = {
            "place_id": [f"point-{row:07d}" for row in rows.tolist()], "lon": lonlat[rows, 0], "lat": lonlat[rows, 1],
            "source": [source] * len(rows), "license": [license] * len(rows),
        }  # fmt: skip
        image_rows = np.arange(len(rows))
    else:
        places = {"lon": lonlat[:, 0], "lat": lonlat[:, 1]} | {name: base.places[name] for name in base.columns}
        clash = set(names) & set(places)
        if clash:
            raise WorkError(f"{base.path} has a column {min(clash)!r}, which the images bring too; rename it")
        image_rows = rows
    at = np.full(len(places["lon"]), -1)
    at[image_rows] = np.arange(len(rows))
    index = pa.array(at, mask=at < 0)
    places |= {name: found[name].take(index) for name in names}
    counts = base.manifest["counts"] if base is not None else {"texts": 0}
    return write_store(
        work.out,
        places=places,
        texts=_texts_of(base) if base is not None and counts["texts"] else None,
        images=(work.array(part, "chips") for part in parts),
        image_rows=image_rows,
        dates=found["date"].to_pylist(),
        gsd_m=gsd_m,
        facts=base.facts if base is not None else None,
        simulated={**(base.manifest["simulated"] if base is not None else {}), "image": work.plan["simulated"]},
        made=work.made(
            "geonb.data.sources.chips.chip_store", images={"source": source, "license": license},
            left_out=skips.counts, **({"base": base.manifest["made"]} if base is not None else {}),
        ),
        datacard=_card(work, found, skips, lonlat, base, source, license, gsd_m),
    )  # fmt: skip


def _texts_of(base: PlaceStore) -> Iterator[pa.Table]:
    """The texts of a store, a few thousand at a time."""
    for batch in pq.ParquetFile(base.path / "texts.parquet").iter_batches(4096):
        yield pa.Table.from_batches([batch])


def _card(
    work: Work,
    found: pa.Table,
    skips: Skips,
    lonlat: Sequence | np.ndarray,
    base: PlaceStore | None,
    source: str,
    license: str,
    gsd_m: float,
) -> str:
    lines = [(base.path / "datacard.md").read_text(encoding="utf-8").rstrip(), ""] if base is not None else []
    dates = sorted(date for date in found["date"].to_pylist() if date)
    when = f", acquired from {dates[0]} to {dates[-1]}" if dates else ", composites of several acquisitions"
    size = work.plan["size"]
    lines += [
        "# Image chips" if base is None else "## Image chips", "",
        f"{len(found):,} chips at {len(lonlat):,} positions, {size} x {size} pixels of {gsd_m:g} m, 12 bands, surface "
        f"reflectance x {SCALE}{when}. Fetched on {work.date} or later.", "",
        *(["**The images are simulated.**", ""] if work.plan["simulated"] else []),
        f"- Source: {source}.", f"- Licence: {license}.", "", "```", str(skips), "```",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
