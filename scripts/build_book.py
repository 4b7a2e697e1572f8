"""Make what the book shows (data, runs, results), execute the chapters, and build ``_build/html``.

Each step keeps what is there. A chapter is executed again when its code has changed, and all of
them when the package, its versions or the runs have changed.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from functools import partial
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import nbformat
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from measure_chapters import chapters, execute

from geonb import workspace

ROOT = Path(__file__).resolve().parent.parent
WORKERS = 2


class Progress:
    """Do steps, two at a time; print each that is done, how many there are, and how long it took."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.started = total, 0, time.monotonic()

    def report(self, step: str, seconds: float) -> None:
        self.done += 1
        minutes, rest = divmod(int(time.monotonic() - self.started), 60)
        print(f"[{self.done}/{self.total}, {minutes}:{rest:02d}] {step}: {seconds:.0f} s", flush=True)

    def run(self, steps: dict[str, Callable[[], Any]]) -> Iterator[tuple[str, Future]]:
        """Start steps in their order; yield each as it ends, with its result or its exception."""

        def timed(step: Callable[[], Any]) -> tuple[Any, float]:
            started = time.monotonic()
            return step(), time.monotonic() - started

        with ThreadPoolExecutor(WORKERS) as pool:
            pending = {pool.submit(timed, step): name for name, step in steps.items()}
            for future in as_completed(pending):
                if not future.exception():
                    self.report(pending[future], future.result()[1])
                yield pending[future], future


def build(root: Path, run_chapter: Callable[[Path], tuple]) -> int:
    """Build the pages of a book; return 0, or 1 where a chapter or a page failed.

    Args:
        root: the folder with ``_config.yml``, ``_toc.yml`` and ``book/``.
        run_chapter: executes one notebook; returns it, and what it took.
    """
    if is_current(root):
        print(f"{root / '_build/html/index.html'}: nothing has changed")
        return 0
    store = workspace.data()
    print(f"{store.path}: {len(store):,} places", flush=True)
    progress = Progress(len(workspace.RUNS) + 1 + len(chapters(root)) + 1)
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn")) as workers:
        runs = {f"run {name}": in_worker(workers, workspace.run, name) for name in workspace.RUNS}
        for _, run in progress.run(runs):
            run.result()
    outputs = start_stamp(root)
    missing = find_missing(root)
    progress.done += len(chapters(root)) - len(missing)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as worker:
        steps = {"results": in_worker(worker, workspace.results)}  # its process ends when it is done
        steps |= {f"chapter {path.stem}": partial(run_chapter, path) for path in missing}
        failed = cache_chapters(root, progress.run(steps))
    for error in failed:
        print(error, file=sys.stderr)
    if failed or not build_pages(root, progress):
        return 1
    stamp = {"outputs": outputs, "pages": fingerprint(root)["pages"]}
    (root / "_build" / ".fingerprint").write_text(json.dumps(stamp), encoding="utf-8")
    print(root / "_build/html/index.html")
    return 0


def in_worker(workers: ProcessPoolExecutor, function: Callable, *arguments: str) -> Callable[[], Any]:
    """Make a step that calls a function in another process."""
    return lambda: workers.submit(function, *arguments).result()


def is_current(root: Path) -> bool:
    """Tell whether ``_build/html`` was built from what is there now."""
    stamp = root / "_build" / ".fingerprint"
    return stamp.exists() and json.loads(stamp.read_text(encoding="utf-8")) == fingerprint(root)


def fingerprint(root: Path) -> dict[str, str]:
    """Return hashes of what chapters compute with ("outputs") and of their sources ("pages").

    The results follow from the runs. Runs that chapters train themselves change no other chapter.
    """
    store = Path(os.environ.get("GEONB_DATA") or workspace.STORES[workspace.profile()][0]).name
    runs = [workspace.root() / "runs" / store / name / "manifest.json" for name in workspace.RUNS]
    versions = sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions()})
    settings = [workspace.profile(), str(workspace.live()), store, *versions]
    pages = [root / "_config.yml", root / "_toc.yml", *sorted(root.glob("book/**/*"))]
    return {"outputs": hash_files([*sorted(ROOT.glob("geonb/**/*")), *runs], settings), "pages": hash_files(pages)}


def hash_files(paths: list[Path], settings: list[str] | None = None) -> str:
    """Return one hash of settings, and of the names and contents of the files among some paths."""
    digest = hashlib.sha256("\n".join(settings or []).encode())
    for path in paths:
        if path.is_file() and not {"__pycache__", ".ipynb_checkpoints"} & set(path.parts):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def start_stamp(root: Path) -> str:
    """Drop executed chapters and read pages of another package or other runs; return the hash of what is there now."""
    stamp, outputs = root / "_build" / ".fingerprint", fingerprint(root)["outputs"]
    if not stamp.exists() or json.loads(stamp.read_text(encoding="utf-8"))["outputs"] != outputs:
        for name in (".jupyter_cache", ".doctrees"):
            shutil.rmtree(root / "_build" / name, ignore_errors=True)
    stamp.parent.mkdir(exist_ok=True)
    stamp.write_text(json.dumps({"outputs": outputs}), encoding="utf-8")
    return outputs


def find_missing(root: Path) -> list[Path]:
    """Return the chapters whose code is not in the cache, slow ones first, those that read the results last."""
    cache, missing = get_cache(str(root / "_build" / ".jupyter_cache")), []
    for path in chapters(root):
        try:
            cache.match_cache_notebook(nbformat.read(path, 4))
        except KeyError:
            missing.append(path)
    seconds = {name: row["s"] for name, row in workspace.committed("workshop")["chapters"].items()}
    slow_first = sorted(missing, key=lambda path: -seconds.get(path.stem, 0))
    return sorted(slow_first, key=lambda path: "workspace.results()" in path.read_text(encoding="utf-8"))


def cache_chapters(root: Path, ended: Iterator[tuple[str, Future]]) -> list[str]:
    """Put executed chapters into the cache that Jupyter Book reads; return the errors of those that failed."""
    cache, failed = get_cache(str(root / "_build" / ".jupyter_cache")), []
    for step, future in ended:
        if error := future.exception():
            failed.append(f"{step}: {error}")
        elif step != "results":
            notebook, took = future.result()[0]
            path = root / "book" / f"{step.removeprefix('chapter ')}.ipynb"
            bundle = CacheBundleIn(notebook, str(path), data={"execution_seconds": took["s"]})
            cache.cache_notebook_bundle(bundle, overwrite=True)
    return failed


def build_pages(root: Path, progress: Progress) -> bool:
    """Build the pages from the cache; tell whether that went without a warning."""
    started = time.monotonic()
    command = [Path(sys.executable).with_name("jupyter-book"), "build", ".", "-W", "--keep-going"]
    built = subprocess.run(command, cwd=root)
    if built.returncode:
        shutil.rmtree(root / "_build" / ".doctrees", ignore_errors=True)  # or the next build repeats no warning
    else:
        progress.report("pages", time.monotonic() - started)
    return not built.returncode


if __name__ == "__main__":
    os.environ["GEONB_PROGRESS"] = "0"  # bars of two workers would run into each other
    sys.exit(build(ROOT, lambda path: execute(path, path.parent, {"GEONB_PROGRESS": "0"})))
