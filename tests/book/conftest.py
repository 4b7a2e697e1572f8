"""The built book: the one that ``make book`` left, if nothing has changed since; else one of the smoke profile."""

import subprocess
import sys
from pathlib import Path

import build_book
import pytest
import smoke_book
from filelock import FileLock


@pytest.fixture(scope="session")
def built_book() -> Path:
    """Folder of the built pages."""
    if build_book.is_current(build_book.ROOT):
        return build_book.ROOT / "_build" / "html"
    smoke_book.HOME.mkdir(parents=True, exist_ok=True)
    with FileLock(smoke_book.HOME / "lock"):
        subprocess.run([sys.executable, smoke_book.__file__], check=True)
    return smoke_book.HOME / "_build" / "html"


@pytest.fixture(scope="module")
def isolation(tmp_path_factory) -> smoke_book.Isolation:
    """Python environments that have the package and what a chapter installs, no more."""
    return smoke_book.Isolation(tmp_path_factory.mktemp("isolation"))
