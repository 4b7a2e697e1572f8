"""The recipe of the hub's image fits the package. The image itself is not built here."""

import os
import re
from pathlib import Path
from urllib.parse import unquote

import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent


def test_the_recipe_installs_what_the_constraints_pin():
    environment = yaml.safe_load((ROOT / ".binder" / "environment.yml").read_text())
    versions = dict(line.partition("=")[::2] for line in environment["dependencies"])
    assert f"torch=={versions['pytorch-cpu']}" in (ROOT / "constraints.txt").read_text().splitlines()
    assert Requirement("python>=3.11").specifier.contains(versions["python"]) and "nbgitpuller" in versions


def test_the_rest_is_installed_under_the_constraints_and_not_in_place():
    path = ROOT / ".binder" / "postBuild"
    text = path.read_text()
    assert os.access(path, os.X_OK) and text.startswith("#!/bin/bash") and "set -euo pipefail" in text
    assert '--constraint constraints.txt ".[book]"' in text and "--editable" not in text


def test_the_hub_link_pulls_from_the_repository_and_opens_a_page_that_is_there():
    repository = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]
    pull = re.search(
        r"git-pull\?repo=([^&]+)&branch=(\w+)&urlpath=lab/tree/(\w+)/([\w./]+)`", (ROOT / "README.md").read_text()
    )
    address, branch, folder, page = map(unquote, pull.groups())
    assert (address, branch) == (repository["url"], repository["branch"])
    assert folder == address.rpartition("/")[2] and (ROOT / page).exists()
