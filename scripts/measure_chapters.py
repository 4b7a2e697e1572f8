"""Execute every chapter, each in a fresh folder, and write what time and memory it took.

    python scripts/measure_chapters.py --out geonb/results/workshop.json --cores 2 --at-most-gb 4

A time includes all data and runs that the chapter needs. Memory and processor time are those of
the kernel and its children; shared pages count twice. Disk is what lies in the folder at the end.
A chapter that needs more than ``--at-most-gb`` is named, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import nbformat
import psutil
import yaml
from nbclient import NotebookClient

from geonb._util import memory_gb, provenance

ROOT = Path(__file__).resolve().parent.parent
EVERY = 0.1  # seconds between looks at a kernel


def chapters(root: Path = ROOT) -> list[Path]:
    """Return the notebooks that the table of contents lists, in its order."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    pages = [toc["root"], *(page["file"] for part in toc["parts"] for page in part["chapters"])]
    return [path for page in pages if (path := root / f"{page}.ipynb").exists()]


def execute(path: Path, folder: Path, environment: dict[str, str], timeout: int = 900) -> tuple:
    """Return the executed notebook, and what it took: {"s", "cpu_s", "peak_mb"}.

    Args:
        folder: where it runs. ``environment``: of the kernel, beside ours without GEONB_*.
        timeout: seconds that a cell may take.

    Raises:
        RuntimeError: a cell failed or took too long; names the chapter, with the traceback.
    """
    notebook = nbformat.read(path, as_version=4)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("GEONB_")}
    client = NotebookClient(
        notebook, timeout=timeout, resources={"metadata": {"path": str(folder)}}, record_timing=False,
        extra_arguments=["--log-level=40"],  # no warnings about the transport between processes of one machine
    )
    done, took = threading.Event(), {"s": 0.0, "cpu_s": 0.0, "peak_mb": 0}
    watch = threading.Thread(target=_watch, args=(client, done, took))
    started = time.monotonic()
    watch.start()
    try:
        client.execute(env=inherited | environment)
    except Exception as error:
        raise RuntimeError(f"chapter {path.stem}: {error}") from None
    finally:
        done.set()
        watch.join()
    return notebook, took | {"s": round(time.monotonic() - started, 1)}


def _watch(client: NotebookClient, done: threading.Event, took: dict) -> None:
    while not done.wait(EVERY):
        try:
            kernel = psutil.Process(client.km.provisioner.pid)
            family = [kernel, *kernel.children(recursive=True)]
            memory = sum(process.memory_info().rss for process in family)
            ended = kernel.cpu_times()
            cpu = ended.children_user + ended.children_system
            cpu += sum(t.user + t.system for t in (process.cpu_times() for process in family))
        except (AttributeError, psutil.Error):  # not started yet, or a child that ended meanwhile
            continue
        took["peak_mb"] = max(took["peak_mb"], round(memory / 1e6))
        took["cpu_s"] = max(took["cpu_s"], round(cpu, 1))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.json")
    parser.add_argument("--profile", default="workshop", help="GEONB_PROFILE of the chapters")
    parser.add_argument("--cores", type=int, help="use this many; by default all that this process may use")
    parser.add_argument("--at-most-gb", type=float, default=float("inf"), help="memory that no chapter may exceed")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="as in 05_imagebind; the others stay as they are")
    args = parser.parse_args()
    if args.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    listed = chapters()
    rows = json.loads(args.out.read_text(encoding="utf-8"))["chapters"] if args.only and args.out.exists() else {}
    for path in listed:
        if args.only and path.stem not in args.only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows[path.stem] = execute(path, Path(folder), {"GEONB_PROFILE": args.profile, "GEONB_PROGRESS": "0"})[1]
            files = [file for file in Path(folder).rglob("*") if file.is_file()]
            rows[path.stem]["disk_mb"] = round(sum(file.stat().st_size for file in files) / 1e6)
        rows[path.stem]["load"] = round(os.getloadavg()[0], 1)
        print(path.stem, rows[path.stem], flush=True)
        result = provenance() | {
            "made_by": "scripts/measure_chapters.py",
            "profile": args.profile,
            "memory_gb": round(memory_gb(), 1),
            "note": "Each chapter alone in a fresh folder; what it needs is made within its time. Where load, the mean "
            "number of running processes in its last minute, is above cores, other work was running, and s and cpu_s "
            "are longer than they would have been: threads that wait for each other use the processor too.",
            "chapters": {path.stem: rows[path.stem] for path in listed if path.stem in rows},
        }
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    over = [name for name, row in rows.items() if row["peak_mb"] > 1000 * args.at_most_gb]
    if over:
        print(f"over {args.at_most_gb:g} GB: {', '.join(over)}")
    return int(bool(over))


if __name__ == "__main__":
    sys.exit(main())
