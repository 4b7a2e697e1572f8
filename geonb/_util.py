"""Atomic files, missing values, progress bars and provenance, for every part."""

from __future__ import annotations

import errno
import os
import platform
import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike
from tqdm.auto import tqdm as _tqdm


def write_atomically(path: Path, data: bytes | Callable[[BinaryIO], object]) -> None:
    """Write bytes, or by a function into an open file, a whole file, or leave the previous one.

    Raises OSError without space, folder or permission; no partial file is left behind.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            data(file) if callable(data) else file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        kept = "the previous file is kept" if path.exists() else "nothing was kept"
        advice = "; free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        message = f"{path} could not be written ({error.strerror}); {kept}{advice}"
        raise OSError(error.errno, message) from None


def is_missing(value: object) -> bool:
    """Tell whether a value is None, NaN, masked, or pandas' NaT or NA."""
    return value is None or value is np.ma.masked or str(value == value) in ("False", "<NA>")


def filled(values: ArrayLike) -> np.ndarray:
    """Return numbers of any shape as an array of floats, with NaN where they are masked."""
    array: np.ma.MaskedArray = np.ma.asarray(values)
    return np.ma.filled(array if array.dtype.kind == "f" else array.astype(np.float64), np.nan)


def as_text(value: object) -> str:
    """Return a value as text: nothing where it is missing, no time where a date is at midnight."""
    text = "" if is_missing(value) else str(value)
    return text if isinstance(value, str) else re.sub(r"[ T]00:00:00(\.0*)?(\+00:00)?$", "", text)


def is_unknown(value: object) -> bool:
    """Tell whether a class is missing or an empty string; 0 and False are classes."""
    return is_missing(value) or value == ""


def row_numbers(rows: ArrayLike, n: int) -> np.ndarray:
    """Return row numbers (k,) of rows that are given as whole numbers, or as a mask (n,); ValueError for others."""
    rows = np.asarray(rows)
    rows = rows if rows.size or rows.dtype == bool else rows.astype(np.int64)
    if rows.dtype == bool and len(rows) != n:
        raise ValueError(f"a mask of {len(rows):,} rows, but there are {n:,} places")
    if rows.dtype != bool and rows.dtype.kind not in "iu":
        raise ValueError(f"rows are {rows.dtype}; give whole numbers, or a mask")
    return np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)


class tqdm(_tqdm):
    """Show a progress bar, unless ``GEONB_PROGRESS=0``, as when the book is built."""

    def __init__(self, *args: Any, disable: bool = False, **kwargs: Any) -> None:
        disable = disable or os.environ.get("GEONB_PROGRESS") == "0"
        super().__init__(*args, disable=disable, **kwargs)


def provenance() -> dict[str, Any]:
    """Return date, machine and versions, to be kept with measured figures."""
    import torch

    from geonb import __version__

    return {
        "date": date.today().isoformat(),
        "device": gpu() or f"cpu, {cores()} cores, {platform.machine()}",
        "cpu": processor(),
        "cores": cores(),
        "gpu": gpu(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "geonb": __version__},
    }


def gpu() -> str | None:
    """Return the name of the GPU that torch uses, or None."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """Return the name of the processor, or else of its architecture."""
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.*)", info.read_text(encoding="utf-8")) if info.exists() else None
    return named[1] if named else platform.machine()


def memory_gb() -> float:
    """Return the memory in GB, of the container where that has less."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8")))
    except (OSError, ValueError):  # no container, or one without a limit
        pass
    return total / 1e9
