"""Build the book in the smoke profile, into ``_build/smoke``: the pages that the tests open.

    python tests/book/smoke_book.py

Each chapter runs as a plain notebook in a fresh folder, where Python finds the package as users get it, built into a
wheel, and what the chapter's first cell installs, no more. It finds the store and the runs of the book, as links.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from functools import lru_cache
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path
from threading import Lock

import nbformat
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "_build" / "smoke"
SMOKE = {"GEONB_SMOKE": "1", "GEONB_PROGRESS": "0", "OMP_NUM_THREADS": "1"}
ONLY = """\
import os, sys, sysconfig
given, standard = os.environ["PYTHONPATH"].split(os.pathsep), sysconfig.get_path("stdlib")
sys.path[:] = [path for path in sys.path if path in given or (path.startswith(standard) and "-packages" not in path)]
"""


def install_package(folder: Path) -> Path:
    """Build the package into a wheel outside the repository, and install it from that."""
    shutil.copytree(ROOT / "geonb", folder / "source" / "geonb", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    pip = [sys.executable, "-m", "pip", "-q"]
    wheel = [*pip, "wheel", "./source", "--no-deps", "--no-build-isolation", "--no-index", "-w", "."]
    subprocess.run(wheel, cwd=folder, check=True)
    (built,) = folder.glob("*.whl")
    install = [*pip, "install", "--no-deps", "--no-index", "--target", folder / "installed", built]
    subprocess.run(install, cwd=folder, check=True)
    return folder / "installed"


def required_by(requirement: str, package: Path) -> dict[str, Distribution]:
    """Return what pip installs for a requirement of geonb, and for a kernel, by name; not geonb itself."""
    (ours,) = distributions(path=[str(package)])
    found, seen, queue = {"geonb": ours}, set(), [Requirement(requirement), Requirement("ipykernel")]
    while queue:
        wanted = queue.pop()
        name = canonicalize_name(wanted.name)
        found.setdefault(name, ours if name == "geonb" else distribution(name))
        for extra in {"", *wanted.extras} - {e for n, e in seen if n == name}:
            seen.add((name, extra))
            further = map(Requirement, found[name].requires or [])
            queue += [one for one in further if not one.marker or one.marker.evaluate({"extra": extra})]
    del found["geonb"]
    return found


@lru_cache
def files_of(name: str) -> tuple[Path, ...]:
    """Return the files of a distribution; ``Distribution.files`` takes a minute for all that is installed."""
    rows = csv.reader((distribution(name).read_text("RECORD") or "").splitlines())
    return tuple(Path(row[0]) for row in rows if not row[0].startswith(("..", "/", "__pycache__")))


@lru_cache
def owners() -> dict[str, set[str]]:
    """Return the distributions that have files in each top-level folder of site-packages."""
    found = defaultdict(set)
    for each in distributions():
        for top in {file.parts[0] for file in files_of(each.metadata["Name"])}:
            found[top].add(canonicalize_name(each.metadata["Name"]))
    return found


class Isolation:
    """Environments of a Python that finds the package and what one requirement of it installs, no more."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.package, self.made, self.lock = folder, install_package(folder), {}, Lock()

    def environment(self, chapter: Path) -> dict[str, str]:
        """Return the variables of the kernel that runs a chapter, by what its first cell installs."""
        requirement = re.search(r'"(geonb\[.+?\])', nbformat.read(chapter, 4).cells[0].source)[1]
        with self.lock:  # two chapters run at a time
            if requirement not in self.made:
                site = self.folder / f"site{len(self.made)}"
                self.made[requirement] = self._link(required_by(requirement, self.package), site)
        return SMOKE | {"PYTHONPATH": f"{self.made[requirement]}{os.pathsep}{self.package}"}

    def _link(self, wanted: dict[str, Distribution], site: Path) -> Path:
        """Link the files of distributions, and whole folders where no other distribution has a part in them."""
        site.mkdir()
        (site / "sitecustomize.py").write_text(ONLY)
        for name, each in wanted.items():
            files = files_of(name)
            parts = {Path(file.parts[0]) if owners()[file.parts[0]] <= wanted.keys() else file for file in files}
            for part in parts:
                (site / part).parent.mkdir(parents=True, exist_ok=True)
                if not (site / part).exists():
                    (site / part).symlink_to(each.locate_file(part))
        return site


def copy_sources() -> None:
    """Copy what ``make book`` reads; a file that is gone from the book goes from the copy."""
    shutil.rmtree(HOME / "book", ignore_errors=True)
    shutil.copytree(ROOT / "book", HOME / "book", ignore=shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__"))
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, HOME)


def main() -> int:
    os.environ |= SMOKE | {"GEONB_HOME": str(HOME)}
    for name in ("GEONB_PROFILE", "GEONB_DATA", "GEONB_LIVE"):
        os.environ.pop(name, None)
    sys.path.insert(0, str(ROOT / "scripts"))
    from build_book import build, is_current
    from measure_chapters import execute

    copy_sources()
    if is_current(HOME):
        return build(HOME, run_chapter=lambda path: ())
    with tempfile.TemporaryDirectory() as folder:
        isolation = Isolation(Path(folder))

        def run_chapter(path: Path) -> tuple:
            with tempfile.TemporaryDirectory() as fresh:
                for name in ("data", "runs"):
                    shutil.copytree(HOME / name, Path(fresh) / name, copy_function=os.link)
                return execute(path, Path(fresh), isolation.environment(path))

        return build(HOME, run_chapter)


if __name__ == "__main__":
    sys.exit(main())
