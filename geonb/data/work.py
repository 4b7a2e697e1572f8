"""An acquisition that can be stopped at any moment, by whatever, and goes on where it was.

What is fetched lies in parts in ``<out>.work``, beside the store that is to be, until that store is whole::

    plan.json               what was asked for, and the day on which it was first asked
    parts/NAME.parquet      one finished step: its rows, with the counts of what was left out and why
    parts/NAME.ARRAY.npy    its arrays (chips), written before the table, so that a table means a finished step
    lock                    held by the one process that works here

A part is written beside its place, flushed to the disk and renamed. A store made from the parts does not depend on how
often the work was stopped: the same plan, begun on the same day, gives the same bytes.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from geonb._util import write_atomically
from geonb.data.store import PlaceStore

FORMAT = 1
_TAKEN = "{}: exists already; remove it or choose another folder"
_OWN = re.compile(r"(plan\.json|wanted\.arrow|lock|parts|downloads|found|api)(\.partial)?")  # in the work's folder
_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


class WorkError(ValueError):
    """Unfinished work that cannot go on as asked; says why and what to do."""


class Skips:
    """What was left out: how many by reason, and one example of each."""

    def __init__(self, counts: dict[str, int] | None = None, examples: dict[str, str] | None = None) -> None:
        self.counts, self.examples = dict(counts or {}), dict(examples or {})

    def add(self, reason: str, example: str = "", n: int = 1) -> None:
        """Count n more rows under a reason; the first example that is given stays."""
        if n:
            self.counts[reason] = self.counts.get(reason, 0) + int(n)
            if example:
                self.examples.setdefault(reason, str(example)[:200])

    def update(self, other: Skips) -> None:
        """Add the counts of another; an example that is here already stays."""
        for reason, n in other.counts.items():
            self.add(reason, other.examples.get(reason, ""), n)

    def __str__(self) -> str:
        lines = []
        for reason, n in sorted(self.counts.items(), key=lambda item: (-item[1], item[0])):
            example = f" (e.g. {self.examples[reason]})" if reason in self.examples else ""
            lines.append(f"{n:,} left out: {reason}{example}")
        return "\n".join(lines) or "nothing was left out"


def acquire(out: str | Path, plan: dict, build: Callable[[Work], PlaceStore]) -> PlaceStore:
    """A store made from parts: ``build`` gets the work, and the work's folder is removed once the store is whole.

    Args:
        out: the store's folder; it must not exist, unless it was finished just before the process was stopped.
        plan: what is asked for, as JSON; no secrets, it is kept.
        build: makes the parts that are missing, then writes the store, with ``made=work.made(...)``.

    Raises:
        WorkError: see :class:`Work`.
    """
    with Work(out, plan) as work:
        if work.out.is_dir() and any(work.out.iterdir()):
            store = PlaceStore.open(work.out)
            if store.manifest["made"].get("plan") != work.plan:
                raise WorkError(_TAKEN.format(work.out))
        else:
            # What a process that was killed while it wrote the store left behind.
            for left in work.out.parent.glob(f"{glob.escape(work.out.name)}.partial-*"):
                shutil.rmtree(left, ignore_errors=True)
            store = build(work)
        work.finish()
    return store


class Work:
    """The folder of an acquisition, held by this process alone; use it in a ``with`` statement.

    Attributes:
        out: the store that is to be. ``folder``: the work's own. ``plan``: what is asked for.
        date: the day it was begun (UTC, ISO 8601).

    Raises:
        WorkError: on entering: another process works here; the work that is there was begun with another plan; the
            folder holds what no work put there; or the store is there already.
    """

    def __init__(self, out: str | Path, plan: dict) -> None:
        self.out = Path(out)
        self.folder = self.out.with_name(f"{self.out.name}.work")
        self.date = ""
        self.plan = json.loads(json.dumps(plan))
        self._lock: Any = None

    def __enter__(self) -> Work:
        self._check_folder()
        self._lock = self._locked()
        try:
            self._take_plan(self.folder / "plan.json")
        except BaseException:
            if not (self.folder / "plan.json").exists():
                self._remove()
            self._lock.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def made(self, function: str, **more: Any) -> dict:
        """What the manifest of the store says of how it was made: the function, its plan, and the day it was begun."""
        return {"function": function, "begun": self.date, "plan": self.plan, **more}

    def done(self, part: str) -> bool:
        """Whether a part is there, whole."""
        return self._file(part, ".parquet").exists()

    def put(self, part: str, table: pa.Table, skips: Skips | None = None, **arrays: np.ndarray) -> None:
        """Keep a finished part: its rows, its arrays, and what was left out in making it.

        Raises:
            WorkError: the disk is full; the same command goes on once there is space.
        """
        skips = skips or Skips()
        note = json.dumps({"counts": skips.counts, "examples": skips.examples}, ensure_ascii=False)
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"skips": note.encode()})
        try:
            self._file(part, "").parent.mkdir(parents=True, exist_ok=True)
            for name, values in arrays.items():
                write_atomically(self._file(part, f".{name}.npy"), partial(np.save, arr=values, allow_pickle=False))
            write_atomically(self._file(part, ".parquet"), partial(pq.write_table, table, compression="zstd"))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise WorkError(
                    f"{self.folder}: the disk is full; free some space and give the same command again: "
                    "it goes on where it was"
                ) from error
            raise

    def table(self, part: str) -> pa.Table:
        """The rows of a part."""
        table = self._read(part, pq.read_table)
        metadata = {name: value for name, value in table.schema.metadata.items() if name != b"skips"}
        return table.replace_schema_metadata(metadata)

    def array(self, part: str, name: str) -> np.ndarray:
        """An array of a part, of the shape that it was kept with, mapped from the disk."""
        return self._read(part, lambda _: np.load(self._file(part, f".{name}.npy"), mmap_mode="r", allow_pickle=False))

    def skips(self, parts: Iterable[str]) -> Skips:
        """What was left out in making some parts, in all."""
        total = Skips()
        for part in parts:
            note = json.loads(self._read(part, pq.read_schema).metadata[b"skips"])
            total.update(Skips(note["counts"], note["examples"]))
        return total

    def path(self, name: str) -> Path:
        """A file of the caller's own in the work's folder, such as a download; its folder is made.

        Raises:
            ValueError: a name that leaves the folder, or whose first part is not in ``_OWN``: it would not be removed.
        """
        _check_name(name)
        if not _OWN.fullmatch(name.split("/")[0]):
            raise ValueError(f"{name!r} is no name in the work's folder; add its first part to _OWN")
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def finish(self) -> None:
        """The store is whole: remove the folder."""
        (self.folder / "plan.json").unlink(missing_ok=True)  # first: without it, what is left is no work
        self._remove()

    def _check_folder(self) -> None:
        """Refuse a folder of someone else's, which would be removed in the end: ours has a plan, or what is left of it.

        What a process leaves that is killed in the first or the last moment has a lock.
        """
        try:
            names = sorted(os.listdir(self.folder))
        except FileNotFoundError:
            return
        if "plan.json" in names:
            return
        strange = [name for name in names if not _OWN.fullmatch(name)]
        if strange or (names and "lock" not in names):
            raise WorkError(
                f"{self.folder} is where unfinished work would lie, but it holds {(strange or names)[0]!r}, which no "
                "such work put there; move or remove that folder, or choose another name for the store"
            )

    def _clear(self) -> None:
        """Remove all but the lock."""
        for path in self.folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != "lock":
                path.unlink(missing_ok=True)

    def _remove(self) -> None:
        """Remove the folder, the lock last; it stays where something in it cannot be removed."""
        with contextlib.suppress(OSError):
            self._clear()
            (self.folder / "lock").unlink(missing_ok=True)
            self.folder.rmdir()

    def _file(self, part: str, ending: str) -> Path:
        _check_name(part)
        return self.folder / "parts" / f"{part}{ending}"

    def _read(self, part: str, read: Callable[[Path], Any]) -> Any:
        file = self._file(part, ".parquet")
        try:
            return read(file)
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise WorkError(f"{file}: cannot be read ({error}); remove it and give the same command again") from error

    def _locked(self):
        """The lock file, opened and locked; a file that was removed between the two is no lock."""
        try:
            import fcntl
        except ImportError:  # no flock on this system: two processes are not kept apart
            self.folder.mkdir(parents=True, exist_ok=True)
            return (self.folder / "lock").open("a")
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                stream = (self.folder / "lock").open("a+")
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(stream.fileno()).st_ino == (self.folder / "lock").stat().st_ino:
                    stream.truncate(0)
                    stream.write(str(os.getpid()))
                    stream.flush()
                    return stream
            except FileNotFoundError:
                pass
            except BlockingIOError:
                stream.seek(0)
                owner = stream.read(20).strip()
                stream.close()
                raise WorkError(
                    f"{self.folder}: another process ({owner or 'unknown'}) is making {self.out}; "
                    "wait for it, or stop it and give the same command again: nothing is lost"
                ) from None
            stream.close()

    def _take_plan(self, file: Path) -> None:
        if not file.exists():
            if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
                raise WorkError(_TAKEN.format(self.out))
            self._clear()  # parts without a plan may be of any
            today = datetime.now(UTC).date().isoformat()
            text = json.dumps({"format": FORMAT, "begun": today, "plan": self.plan}, indent=1, ensure_ascii=False)
            write_atomically(file, text.encode())
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
            form, plan, self.date = known["format"], dict(known["plan"]), str(known["begun"])
        except (ValueError, KeyError, TypeError) as error:
            raise WorkError(f"{file}: cannot be read ({error}); remove {self.folder} to begin anew") from error
        differs = sorted(k for k in plan.keys() | self.plan.keys() if plan.get(k) != self.plan.get(k))
        if form != FORMAT or differs:
            lines = [f"  {k}: begun with {plan.get(k)!r}, now {self.plan.get(k)!r}" for k in differs]
            raise WorkError(
                f"{self.folder} holds unfinished work that was asked for otherwise\n" + "\n".join(lines) + "\n"
                f"Give the command as before to go on, or remove {self.folder} to begin anew."
            )


def _check_name(name: str) -> None:
    if not _PART.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a part: letters, digits, dots, hyphens, and / between them")
