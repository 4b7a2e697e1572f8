"""Every chapter, executed once as a plain notebook with nothing but the installed package; and the book made of that.

The book is built from a copy of its sources: smoke profile, warnings are errors. What its chapters show comes from the
notebooks, through the cache that ``make book`` has, too. While the tests themselves are written,
``GEONB_BUILT_BOOK=_build/html`` opens a book that is there already.
"""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from scripts_of import script

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


@pytest.fixture(scope="session")
def built_book(request, tmp_path_factory) -> Path:
    """Folder of the built pages."""
    if os.environ.get("GEONB_BUILT_BOOK"):
        return Path(os.environ["GEONB_BUILT_BOOK"]).resolve()
    from jupyter_cache import get_cache
    from jupyter_cache.base import CacheBundleIn

    executed = request.getfixturevalue("executed")
    failed = [str(result) for result in executed.values() if isinstance(result, RuntimeError)]
    assert not failed, "chapters do not run:\n" + "\n".join(failed)
    home = tmp_path_factory.mktemp("book")
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, home)
    shutil.copytree(ROOT / "book", home / "book", ignore=shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__"))
    cache = get_cache(str(home / "_build" / ".jupyter_cache"))
    for name, (notebook, took) in executed.items():
        bundle = CacheBundleIn(notebook, str(home / "book" / f"{name}.ipynb"), data={"execution_seconds": took["s"]})
        cache.cache_notebook_bundle(bundle, overwrite=True)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GEONB_")}
    environment |= {"GEONB_SMOKE": "1", "GEONB_HOME": str(home)}
    command = [Path(sys.executable).with_name("jupyter-book"), "build", ".", "--all", "-W", "--keep-going", "-n"]
    built = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
    log = built.stdout + built.stderr
    assert built.returncode == 0, f"the book does not build:\n{log[-6000:]}"
    assert "Executing notebook" not in log, "a chapter was executed twice"
    return home / "_build" / "html"
