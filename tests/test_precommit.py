"""The hooks of a commit check what `make test` checks, with the same versions; and the book's spelling is British."""

import re
import subprocess
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
REPOS = {repo["repo"]: repo for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]}
HOOKS = {hook["id"]: hook for repo in REPOS.values() for hook in repo["hooks"]}
AMERICAN = re.compile(
    r"\b(color(s|ed|ing)?|neighbor(s|ing)?|behavior|favor(s|able|ite)?|gray|centers?|centered|kilometers?|labeled|"
    r"modeling|catalogs?|(organi|normali|summari|visuali|optimi|generali|standardi|initiali|recogni)z(e|es|ed|ing|er))\b", re.I
)  # fmt: skip


@pytest.mark.parametrize("tool", ["ruff", "codespell"])
def test_a_hook_has_the_version_of_the_constraints(tool):
    (repo,) = (repo for address, repo in REPOS.items() if tool in address)
    assert repo["rev"] == f"v{PINS[tool]}"
    assert re.search(rf"\$\(PY\) -m {tool}", (ROOT / "Makefile").read_text()), "and make test runs it, too"


def test_every_hook_is_of_a_version():
    assert all(re.fullmatch(r"v?\d+\.\d+\.\d+", repo["rev"]) for repo in REPOS.values())
    assert {"nbstripout", "end-of-file-fixer", "check-merge-conflict", "check-added-large-files"} <= set(HOOKS)


def test_no_file_is_one_that_the_hooks_would_refuse_or_change():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    (limit,) = (int(arg.partition("=")[2]) for arg in HOOKS["check-added-large-files"]["args"])
    skipped = re.compile(HOOKS["end-of-file-fixer"]["exclude"])
    for name in listed:
        content = (ROOT / name).read_bytes() if (ROOT / name).exists() else b""
        assert len(content) <= limit * 1024, f"{name} is larger than the limit of the hooks"
        if content and b"\0" not in content[:8000] and not skipped.search(name):
            assert content.endswith(b"\n") and not content.endswith(b"\n\n"), f"{name} does not end in one line break"


def prose(path: Path) -> str:
    """A page's own words: no code, formulas, addresses or titles of others' works (the texts of links to the network)."""
    text = path.read_text("utf-8")
    if path.suffix == ".ipynb":
        text = "\n\n".join(cell.source for cell in nbformat.reads(text, 4).cells if cell.cell_type == "markdown")
    return re.sub(r"```.*?```|`[^`]*`|\[[^\]]*\]\(https[^)]*\)|\]\([^)]*\)|\$[^$]*\$", "", text, flags=re.S)


PAGES = [
    p for p in (*ROOT.glob("*.md"), *ROOT.glob("book/*.md"), *ROOT.glob("book/*.ipynb")) if p.stem != "bibliography"
]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_is_spelt_the_british_way(path):
    assert [found[0] for found in AMERICAN.finditer(prose(path))] == []


def test_the_british_way_is_told_from_the_american():
    assert not AMERICAN.search("The colour of a neighbour, coloured and organised, in the centre, in grey.")
    words = "color colors neighbors behavior gray centered organized normalizes optimizer catalog"
    assert [found[0] for found in AMERICAN.finditer(words)] == words.split()
