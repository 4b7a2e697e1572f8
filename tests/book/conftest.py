"""The book, built once from a copy of its sources: smoke profile, no cache, warnings are errors.

While the tests themselves are written, ``GEONB_BUILT_BOOK=_build/html`` opens a book that is there already.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def built_book(tmp_path_factory) -> Path:
    """Folder of the built pages."""
    if os.environ.get("GEONB_BUILT_BOOK"):
        return Path(os.environ["GEONB_BUILT_BOOK"]).resolve()
    home = tmp_path_factory.mktemp("book")
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, home)
    shutil.copytree(ROOT / "book", home / "book", ignore=shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__"))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GEONB_")}
    environment |= {"GEONB_SMOKE": "1", "GEONB_HOME": str(home)}
    command = [Path(sys.executable).with_name("jupyter-book"), "build", ".", "--all", "-W", "--keep-going", "-n"]
    built = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
    log = built.stdout + built.stderr
    assert built.returncode == 0, f"the book does not build:\n{log[-6000:]}"
    return home / "_build" / "html"
