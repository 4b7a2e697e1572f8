"""Make what the book shows (data, runs, results), execute the chapters, and build ``_build/html``.

Each step keeps what is there. Jupyter Book's cache of executed chapters looks at their code alone, and Sphinx reads
again only pages whose text changed; so both start afresh when the package, its versions or the results have changed.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import time
from importlib.metadata import distributions
from pathlib import Path

from geonb import workspace

ROOT = Path(__file__).resolve().parent.parent


def fingerprint(runs: list[Path]) -> str:
    """A hash of everything besides its own code that a chapter's output depends on; not of runs that chapters train."""
    digest = hashlib.sha256()
    versions = sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions()})
    digest.update("\n".join(versions).encode())
    files = [*ROOT.glob("geonb/**/*"), *(run / "manifest.json" for run in runs), runs[0].parent / "results.json"]
    for path in sorted(p for p in files if p.is_file() and "__pycache__" not in p.parts):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def main() -> int:
    started = time.monotonic()
    runs = workspace.prepare()
    print(f"data, runs and results are there ({time.monotonic() - started:.0f} s)")

    cache, read, stamp = (ROOT / "_build" / name for name in (".jupyter_cache", ".doctrees", ".fingerprint"))
    current = fingerprint(runs)
    if not stamp.exists() or stamp.read_text() != current:
        shutil.rmtree(cache, ignore_errors=True)
        shutil.rmtree(read, ignore_errors=True)
        stamp.parent.mkdir(exist_ok=True)
        stamp.write_text(current)
    jupyter_book = Path(sys.executable).with_name("jupyter-book")
    built = subprocess.run([jupyter_book, "build", ".", "-W", "--keep-going"], cwd=ROOT)
    if built.returncode == 0:
        print(f"{ROOT / '_build/html/index.html'} ({time.monotonic() - started:.0f} s in all)")
    else:
        shutil.rmtree(read, ignore_errors=True)  # or the next build would not warn of pages that it does not read again
    return built.returncode


if __name__ == "__main__":
    sys.exit(main())
