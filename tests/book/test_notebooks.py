"""Chapters as files: they open in Colab and carry nothing from whoever ran them last."""

import json
import re
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
LISTED = [TOC["root"], *(chapter["file"] for part in TOC["parts"] for chapter in part["chapters"])]
CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))
REPOSITORY = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]


@pytest.fixture(params=CHAPTERS, ids=lambda path: path.stem)
def notebook(request):
    return json.loads(request.param.read_text("utf-8"))


def source(cell):
    return "".join(cell["source"])


def test_the_table_of_contents_lists_what_is_there():
    there = {str(p.relative_to(ROOT).with_suffix("")) for p in (ROOT / "book").iterdir() if p.suffix in (".ipynb", ".md")}
    assert set(LISTED) == there and len(LISTED) == len(there)


@pytest.mark.parametrize("path", [p for p in CHAPTERS if p.stem[0].isdigit()], ids=lambda path: path.stem)
def test_a_chapter_has_exercises_with_hidden_solutions_and_ends_on_its_key_points(path):
    cells = json.loads(path.read_text("utf-8"))["cells"]
    prose = "\n".join(source(cell) for cell in cells if cell["cell_type"] == "markdown")
    sections = re.findall(r"^## (.+)", prose, re.M)
    assert sections.index("Exercises") < sections.index("Key points") == len(sections) - 2
    hidden = [cell for cell in cells if "hide-cell" in cell["metadata"].get("tags", [])]
    assert hidden and all(cell["cell_type"] == "code" and source(cell).strip() for cell in hidden)


def test_it_is_a_valid_notebook_with_normal_metadata(notebook):
    nbformat.validate(notebook)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert notebook["metadata"] == {"kernelspec": kernel, "language_info": {"name": "python"}}
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)


def test_nothing_is_left_from_a_run(notebook):
    for cell in notebook["cells"]:
        assert set(cell["metadata"]) <= {"tags"}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None


def test_colab_installs_the_package_first_and_readers_do_not_see_it(notebook):
    first = notebook["cells"][0]
    assert first["cell_type"] == "code" and first["metadata"] == {"tags": ["remove-cell"]}
    assert re.search(r'if "google.colab" in sys.modules:\n    %pip install -q ', source(first))
    assert f"git+{REPOSITORY}" in source(first) and "torch" not in source(first)
    assert not any("%pip" in source(cell) for cell in notebook["cells"][1:])


def test_it_starts_with_a_title_and_its_code_is_tagged_by_known_words(notebook):
    titles = [c for c in notebook["cells"] if c["cell_type"] == "markdown" and re.search(r"^# ", source(c), re.M)]
    assert len(titles) == 1 and notebook["cells"][1] is titles[0] and source(titles[0]).startswith("# ")
    known = {"remove-cell", "hide-input", "hide-cell", "hide-output", "remove-input", "raises-exception"}
    assert {tag for cell in notebook["cells"] for tag in cell["metadata"].get("tags", [])} <= known


def test_no_path_of_a_machine_and_no_secret_is_in_it(notebook):
    text = "\n".join(source(cell) for cell in notebook["cells"])
    assert not re.search(r"/home/|/Users/|/tmp/|C:\\\\|api[_-]?key\s*=", text)
