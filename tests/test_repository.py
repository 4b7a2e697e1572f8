"""Promises that the repository makes as a whole."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    return {name.lower().replace("_", "-"): version for name, version in (line.split("==") for line in lines)}


def declared(extras):
    """All requirements of the package with some extras, the extras' own references followed."""
    found = [Requirement(r) for r in PROJECT["dependencies"]]
    for extra in extras:
        for text in PROJECT["optional-dependencies"][extra]:
            requirement = Requirement(text)
            found += declared(requirement.extras) if requirement.name == "geonb" else [requirement]
    return found


def test_every_dependency_is_pinned_within_its_declared_range():
    pinned = pins()
    for requirement in declared(["book", "test"]):
        version = pinned.get(requirement.name.lower().replace("_", "-"))
        assert version, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(version), f"{requirement} does not allow the pinned {version}"


def test_conda_environment_installs_what_make_installs():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    assert "--constraint constraints.txt" in pip and "--editable .[book,test]" in pip
    python = next(d for d in environment["dependencies"] if isinstance(d, str) and d.startswith("python"))
    assert python.removeprefix("python") == PROJECT["requires-python"]
    assert "--constraint constraints.txt --editable '.[book,test]'" in (ROOT / "Makefile").read_text()


def test_every_dependency_has_its_reason_beside_it():
    text = (ROOT / "pyproject.toml").read_text()
    for requirement in declared(["book", "test", "facts"]):
        if requirement.name in ("pytest", "ruff"):
            continue
        line = next(line for line in text.splitlines() if line.strip().startswith(f'"{requirement.name}'))
        assert "#" in line, f"{requirement.name}: no reason given"


def test_the_default_install_pulls_no_torchvision():
    heavy = {"torchvision", "timm", "torchgeo"}
    seen, queue = set(), [r.name for r in declared([])]
    while queue:
        name = queue.pop().lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            below = [Requirement(r) for r in requires(name) or []]
        except Exception:
            continue
        queue += [r.name for r in below if r.marker is None or r.marker.evaluate({"extra": ""})]
    assert "safetensors" in seen and not seen & heavy


@pytest.mark.parametrize(
    "module, allowed",
    [("geonb", set()), ("geonb.training", {"scipy", "yaml", "lightning_fabric", "pyarrow", "safetensors"})],
)
def test_imports_stay_light(module, allowed):
    heavy = {"sklearn", "pandas", "umap", "matplotlib", "folium", "rasterio", "transformers", "sentence_transformers",
             "zarr", "scipy", "numba", "leafmap"} - allowed  # fmt: skip
    code = f"import {module}, sys; print(','.join(m for m in {sorted(heavy)!r} if m in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert not loaded, f"import {module} also loads {loaded}"


def test_a_type_checker_sees_the_types_of_the_package(tmp_path):
    assert (ROOT / "geonb/py.typed").exists()  # without it, checkers take an installed package to have none
    (tmp_path / "right.py").write_text("import geonb\nz = geonb.load('run').embed_locations([[2.35, 48.86]])\nz.shape\n")
    (tmp_path / "wrong.py").write_text("import geonb\ngeonb.load(3).embed_locations\ngeonb.load('run').embed([])\n")
    command = [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml", "--no-error-summary",
               "--cache-dir", ROOT / ".mypy_cache", "right.py", "wrong.py"]  # fmt: skip
    found = subprocess.run(command, cwd=tmp_path, env={**os.environ, "MYPYPATH": str(ROOT)}, capture_output=True, text=True)
    said = found.stdout.splitlines()
    assert len(said) == 2 and not found.stderr, found.stdout + found.stderr
    assert said[0].startswith("wrong.py:2: error") and '"int"; expected "str | Path"' in said[0]
    assert said[1].startswith("wrong.py:3: error") and "no attribute" in said[1]


def tracked_text_files():
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    skip = ("static/vendor/", "tests/book/assets/")
    for name in filter(None, names):
        path = ROOT / name
        if path.exists() and not any(s in name for s in skip) and b"\0" not in (content := path.read_bytes()):
            yield path, content.decode()


def test_no_path_of_a_machine_stands_in_the_repository():
    private = re.compile(r"/(home|root|Users|tmp)/\w")
    for path, text in tracked_text_files():
        if path != Path(__file__):
            assert not private.search(text), f"{path.relative_to(ROOT)}: {private.search(text)[0]}"


def test_licences_and_citation_are_there():
    assert "MIT License" in (ROOT / "LICENSE").read_text()
    assert "CC BY 4.0" in (ROOT / "LICENSE-TEXT").read_text()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    from geonb import __version__

    assert citation["version"] == __version__
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
