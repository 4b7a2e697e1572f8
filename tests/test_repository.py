"""Promises that the repository makes as a whole."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from packaging.requirements import Requirement

from geonb import __version__

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(line.lower().replace("_", "-").split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())


def declared(extras):
    """All requirements of the package with some extras, the extras' own references followed."""
    found = [Requirement(r) for r in PROJECT["dependencies"]]
    for extra in extras:
        for text in PROJECT["optional-dependencies"][extra]:
            requirement = Requirement(text)
            found += declared(requirement.extras) if requirement.name == "geonb" else [requirement]
    return found


def test_every_dependency_is_pinned_within_its_declared_range():
    for requirement in declared(["book", "test"]):
        version = PINS.get(requirement.name.lower().replace("_", "-"))
        assert version and requirement.specifier.contains(version), f"{requirement}: constraints.txt has {version}"


def test_conda_environment_installs_what_make_installs():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    assert "--constraint constraints.txt" in pip and "--editable .[book,test]" in pip
    python = next(d for d in environment["dependencies"] if isinstance(d, str) and d.startswith("python"))
    assert python.removeprefix("python") == PROJECT["requires-python"]
    assert "--constraint constraints.txt --editable '.[book,test]'" in (ROOT / "Makefile").read_text()


def test_the_default_install_pulls_no_torchvision():
    names = {requirement.name for requirement in declared([])}
    assert "safetensors" in names and not names & {"torchvision", "timm", "torchgeo"}


@pytest.mark.parametrize("module, allowed", [("geonb", set()), ("geonb.training", {"scipy"})])
def test_imports_stay_light(module, allowed):
    heavy = {"sklearn", "pandas", "umap", "matplotlib", "folium", "rasterio", "transformers", "sentence_transformers",
             "scipy", "numba", "leafmap", "dask", "xarray"} - allowed  # fmt: skip
    code = f"import {module}, sys; print(','.join(m for m in {sorted(heavy)!r} if m in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert not loaded, f"import {module} also loads {loaded}"


def test_text_files_are_read_and_written_in_a_named_encoding():
    """Else it is that of the locale. ``x.open`` is a file's where a mode comes first, or nothing."""
    without = []
    for path in (p for folder in ("geonb", "research", "scripts", "benchmarks") for p in (ROOT / folder).rglob("*.py")):
        for node in (n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Call)):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            first = getattr((node.args or [None])[0], "value", "") if node.args or node.keywords else "r"
            opens = name == "open" and (isinstance(node.func, ast.Name) or first in ("r", "w", "x", "a"))
            if (opens or name in ("read_text", "write_text")) and "encoding" not in {k.arg for k in node.keywords}:
                without.append(f"{path.name}:{node.lineno}")
    assert without == []


def test_no_path_of_a_machine_and_no_key_stand_in_the_repository():
    others = [":!*static/vendor", ":!tests/book/assets", f":!tests/{Path(__file__).name}"]
    found = subprocess.run(["git", "grep", "-IlE", r"/(home|root|Users|tmp)/\w|api[_-]?key *=|API_KEY *=", "--", ".", *others], cwd=ROOT, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (1, "")


def test_citation_changelog_and_hooks_have_the_same_versions():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    for tool in ("ruff", "codespell"):  # those that `make test` runs
        assert [hook["rev"] for hook in hooks if tool in hook["repo"]] == [f"v{PINS[tool]}"]
        assert f"$(PY) -m {tool}" in (ROOT / "Makefile").read_text()


def test_the_recipe_of_a_hub_installs_what_the_constraints_pin():
    environment = yaml.safe_load((ROOT / ".binder" / "environment.yml").read_text())
    versions = dict(line.partition("=")[::2] for line in environment["dependencies"])
    assert versions["pytorch-cpu"] == PINS["torch"] and "nbgitpuller" in versions
    assert Requirement("python>=3.11").specifier.contains(versions["python"])
    path = ROOT / ".binder" / "postBuild"
    assert os.access(path, os.X_OK) and '--constraint constraints.txt ".[book]"' in path.read_text()


def test_the_hub_link_pulls_from_the_repository_and_opens_a_page_that_is_there():
    repository = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]
    link = r"git-pull\?repo=([^&]+)&branch=(\w+)&urlpath=lab/tree/(\w+)/([\w./]+)"
    for page in ("README.md", "book/teaching.ipynb"):
        address, branch, folder, target = map(unquote, re.search(link, (ROOT / page).read_text()).groups())
        assert (address, branch) == (repository["url"], repository["branch"])
        assert folder == address.rpartition("/")[2] and (ROOT / target).exists()
