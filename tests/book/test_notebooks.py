"""Chapters as files: they open in Colab and carry nothing from whoever ran them last."""

import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import chapter_cells
import measure_chapters
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


def test_it_is_a_valid_notebook_with_normal_metadata(notebook):
    nbformat.validate(notebook)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert notebook["metadata"] == {"kernelspec": kernel, "language_info": {"name": "python"}}
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)


def test_nothing_is_left_from_a_run(notebook):
    for cell in notebook["cells"]:
        assert cell["metadata"] == chapter_cells.metadata(cell["metadata"].get("tags", []))
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None


def test_the_first_cell_is_what_the_script_writes_and_readers_do_not_see_it(notebook, request):
    first = notebook["cells"][0]
    assert first["cell_type"] == "code" and first["metadata"] == {"tags": ["remove-cell"]}
    assert source(first) == chapter_cells.cell(request.node.callspec.params["notebook"].stem)
    assert f"git+{REPOSITORY}" in source(first)
    assert not any("%pip" in source(cell) for cell in notebook["cells"][1:])


def test_on_colab_the_first_cell_keeps_the_torch_that_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "google.colab", object())
    commands = []
    code = re.sub(r"%pip (.*)", r"pip('''\1''')", chapter_cells.cell("05_imagebind"))
    exec(code, {"pip": lambda command: commands.append(command)})
    assert Path("colab.txt").read_text() == f"torch=={version('torch')}\n"
    assert commands == [f'install -q -c colab.txt "geonb[text,evaluate,explore] @ git+{REPOSITORY}"']


def test_a_chapter_starts_from_nothing(isolation, tmp_path):
    path = ROOT / "book" / "05_imagebind.ipynb"
    notebook, _ = measure_chapters.execute(path, tmp_path, isolation.environment(path))
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip())


def test_the_package_has_every_file_that_the_repository_has(isolation):
    listed = subprocess.run(["git", "ls-files", "geonb"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    missing = [name for name in listed.split() if (ROOT / name).exists() and not (isolation.package / name).exists()]
    assert missing == []


def test_the_wheel_answers_a_question_with_the_extra_text_alone(isolation, tmp_path):
    question = 'import geonb\nearth = geonb.load("earth")\nassert earth.ask("fjords below snowy mountains").places'
    path = tmp_path / "99_question.ipynb"
    cells = [nbformat.v4.new_code_cell('# "geonb[text]"'), nbformat.v4.new_code_cell(question)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    measure_chapters.execute(path, tmp_path, isolation.environment(path))


FAULTS = {
    "a file that another chapter wrote": ("open('runs/atlas/results.json')", "FileNotFoundError"),
    "a module that is in the repository only": ("import measure_chapters", "ModuleNotFoundError"),
    "a package that its first cell does not install": ("import pystac_client", "No module named 'pystac_client'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_chapter_that_needs_more_than_it_installs_fails_by_name(isolation, tmp_path, fault):
    code, said = FAULTS[fault]
    cells = [nbformat.v4.new_code_cell('# "geonb[text]"'), nbformat.v4.new_code_cell(code)]
    path = tmp_path / "99_planted.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    with pytest.raises(RuntimeError, match=rf"(?s)chapter 99_planted: .*Traceback.*{said}"):
        measure_chapters.execute(path, tmp_path, isolation.environment(path))


def test_it_starts_with_a_title_and_its_code_is_tagged_by_known_words(notebook):
    assert source(notebook["cells"][1]).startswith("# ")
    known = {"remove-cell", "hide-input", "hide-cell", "hide-output", "remove-input", "raises-exception"}
    assert {tag for cell in notebook["cells"] for tag in cell["metadata"].get("tags", [])} <= known
