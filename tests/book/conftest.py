"""Every chapter, executed once as a plain notebook with nothing but the installed package; and the book made of that.

The book is what ``make book`` makes of a copy of its sources in the smoke profile. What its chapters show comes from the
notebooks, through the cache that ``make book`` keeps. While the tests themselves are written,
``GEONB_BUILT_BOOK=_build/html`` opens a book that is there already.
"""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from scripts_of import script

from geonb import workspace

ROOT = Path(__file__).resolve().parents[2]
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


@pytest.fixture(scope="session")
def executed(package, tmp_path_factory) -> dict:
    """By chapter, the executed notebook and what it took; or the error. Two run at a time, each in its own folder."""
    measure = script("measure_chapters")

    def alone(path):
        folder = tmp_path_factory.mktemp(path.stem)
        try:
            return measure.execute(path, folder, SMOKE | {"PYTHONPATH": str(package)})
        except RuntimeError as error:
            return error
        finally:
            shutil.rmtree(folder)

    paths = measure.chapters()
    with ThreadPoolExecutor(2) as pool:
        return dict(zip([path.stem for path in paths], pool.map(alone, paths), strict=True))


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
