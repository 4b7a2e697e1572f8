"""Every chapter, executed once as a plain notebook where only what its first cell installs is; and the book of that.

The book is what ``make book`` makes of a copy of its sources in the smoke profile. What its chapters show comes from the
notebooks, through the cache that ``make book`` keeps. While the tests themselves are written,
``GEONB_BUILT_BOOK=_build/html`` opens a book that is there already.
"""

import csv
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

import nbformat
import pytest
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from scripts_of import script

from geonb import workspace

ROOT = Path(__file__).resolve().parents[2]
ONLY = """\
import os, sys, sysconfig
given, standard = os.environ["PYTHONPATH"].split(os.pathsep), sysconfig.get_path("stdlib")
sys.path[:] = [path for path in sys.path if path in given or (path.startswith(standard) and "-packages" not in path)]
"""
SMOKE = {"GEONB_SMOKE": "1", "GEONB_PROGRESS": "0", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def package(tmp_path_factory) -> Path:
    """A folder with the package as users get it: built into a wheel outside the repository, and installed from that."""
    home = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT / "geonb", home / "source" / "geonb", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, home / "source")
    pip = [sys.executable, "-m", "pip", "-q"]
    subprocess.run(
        [*pip, "wheel", "./source", "--no-deps", "--no-build-isolation", "--no-index", "-w", "."], cwd=home, check=True
    )
    (wheel,) = home.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", home / "installed", wheel], check=True)
    return home / "installed"


def needed(requirement: str, package: Path) -> dict[str, Distribution]:
    """What pip installs for a requirement of geonb, but for geonb itself, and for a kernel: name -> distribution."""
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


def files(each: Distribution) -> list[Path]:
    """What a distribution put beside itself; ``Distribution.files`` takes a minute for all that is installed."""
    names = (row[0] for row in csv.reader((each.read_text("RECORD") or "").splitlines()))
    return [Path(name) for name in names if not name.startswith(("..", "/", "__pycache__"))]


def links(wanted: dict[str, Distribution], folder: Path) -> Path:
    """The folder, with links to the files of distributions and of no other: to whole packages, if nobody else has a part."""
    owners = defaultdict(set)
    for each in distributions():
        for top in {file.parts[0] for file in files(each)}:
            owners[top].add(canonicalize_name(each.metadata["Name"]))
    for each in wanted.values():
        parts = {Path(file.parts[0]) if owners[file.parts[0]] <= wanted.keys() else file for file in files(each)}
        for part in parts:
            (folder / part).parent.mkdir(parents=True, exist_ok=True)
            if not (folder / part).exists():
                (folder / part).symlink_to(each.locate_file(part))
    return folder


@pytest.fixture(scope="session")
def only(package, tmp_path_factory):
    """The environment variables of a Python that finds the package and what a requirement of it installs, no more."""
    made: dict[str, dict] = {}

    def environment(requirement: str) -> dict[str, str]:
        if requirement not in made:
            folder = links(needed(requirement, package), tmp_path_factory.mktemp("site"))
            (folder / "sitecustomize.py").write_text(ONLY)
            made[requirement] = {"PYTHONPATH": f"{folder}{os.pathsep}{package}"}
        return made[requirement]

    return environment


@pytest.fixture(scope="session")
def executed(only, tmp_path_factory) -> dict:
    """By chapter, the executed notebook and what it took; or the error. Two run at a time, each in its own folder."""
    measure = script("measure_chapters")
    paths = measure.chapters()
    installed = [re.search(r'"(geonb\[.+?\])', nbformat.read(path, 4).cells[0].source)[1] for path in paths]
    environments = [SMOKE | only(requirement) for requirement in installed]

    def alone(path, environment):
        folder = tmp_path_factory.mktemp(path.stem)
        try:
            return measure.execute(path, folder, environment)
        except RuntimeError as error:
            return error
        finally:
            shutil.rmtree(folder)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip([path.stem for path in paths], pool.map(alone, paths, environments), strict=True))


def make_book(home: Path, executed: dict) -> Path:
    """The pages that ``make book`` builds in the smoke profile, from chapters executed before, in a folder of its own."""
    for name in ("Makefile", "_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, home)
    for name in ("book", "scripts"):
        shutil.copytree(ROOT / name, home / name, ignore=shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__"))
    build, cache = script("build_book"), get_cache(str(home / "_build" / ".jupyter_cache"))
    for name, (notebook, took) in executed.items():
        bundle = CacheBundleIn(notebook, str(home / "book" / f"{name}.ipynb"), data={"execution_seconds": took["s"]})
        cache.cache_notebook_bundle(bundle, overwrite=True)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("GEONB_")]:
            patch.delenv(name)
        patch.setenv("GEONB_SMOKE", "1")
        patch.setenv("GEONB_HOME", str(home))
        patch.setattr(build, "ROOT", home)
        (home / "_build" / ".fingerprint").write_text(build.fingerprint(workspace.prepare()))
        command = ["make", "book", f"VENV={sys.prefix}", "-o", f"{sys.prefix}/.installed"]  # -o: as it is
        built = subprocess.run(command, cwd=home, capture_output=True, text=True)
    log = built.stdout + built.stderr
    assert built.returncode == 0, f"the book does not build:\n{log[-6000:]}"
    assert "Executing notebook" not in log, "a chapter was executed twice"
    return home / "_build" / "html"


@pytest.fixture(scope="session")
def built_book(request, tmp_path_factory) -> Path:
    """Folder of the built pages."""
    if os.environ.get("GEONB_BUILT_BOOK"):
        return Path(os.environ["GEONB_BUILT_BOOK"]).resolve()
    executed = request.getfixturevalue("executed")
    failed = [str(result) for result in executed.values() if isinstance(result, RuntimeError)]
    assert not failed, "chapters do not run:\n" + "\n".join(failed)
    return make_book(tmp_path_factory.mktemp("book"), executed)
