"""The examples of the documents run, their commands exist, their links lead somewhere."""

import json
import re
import shlex
import shutil
from pathlib import Path
from unittest.mock import patch
from urllib.parse import urlsplit

import nbformat
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from geonb.architectures import ARCHITECTURES
from geonb.cli import main, parser
from geonb.config import ENCODERS
from geonb.data.sampling import land_points
from geonb.evaluation.tasks import TASKS
from geonb.geo import LAT, LON

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "RELEASING.md"]


def blocks(name: str, language: str) -> list[str]:
    """The fenced blocks of a document that are of a language ("" for commands)."""
    found = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", (ROOT / name).read_text(), re.M | re.S)
    assert language in dict(found), f"{name} has no block of {language!r}"
    return [text for kind, text in found if kind == language]


def commands(name: str) -> list[list[str]]:
    """The words of every command of a document, comments and settings before it left out."""
    lines = [line for block in blocks(name, "") for line in block.splitlines()]
    parts = [part for line in lines for part in re.split(r" && ", line)]
    return [words for words in (shlex.split(part, comments=True) for part in parts) if words]


def headings(text: str) -> set[str]:
    """The anchors that a Markdown page has on GitHub."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_worked_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GEONB_DATA", "data/small")
    monkeypatch.setenv("GEONB_PROGRESS", "0")
    (tmp_path / "book").mkdir()
    shutil.copy(ROOT / "book" / "intro.ipynb", tmp_path / "book")
    names: dict = {"__name__": "example"}
    with patch.dict(ARCHITECTURES), patch.dict(ENCODERS), patch.dict(TASKS):
        for block in blocks("CONTRIBUTING.md", "python"):
            exec(compile(block, "CONTRIBUTING.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "('location', 'text', 'sentinel2', 'landscape', 'terrain')" in printed
    assert re.search(r"image_hub compares .*'location', 'sentinel2'", printed) and "R²" in printed
    run = tmp_path / "runs" / "image_hub"
    assert (run / "manifest.json").exists() and len(names["folds"]) == 2 and not names["skipped"]

    (chapter,) = (p for p in (tmp_path / "book").iterdir() if p.stem != "intro")
    notebook = nbformat.read(chapter, 4)
    nbformat.validate(notebook)
    assert notebook.cells[0] == nbformat.read(ROOT / "book" / "intro.ipynb", 4).cells[0]
    exec(compile("\n".join(cell.source for cell in notebook.cells[1:] if cell.cell_type == "code"), chapter.name, "exec"), {})


def test_every_geonb_command_is_one():
    found = [words for name in DOCUMENTS for words in commands(name) if words[0] == "geonb" or "geonb.cli" in words]
    assert len(found) > 15
    for words in found:
        start = words.index("geonb.cli" if "geonb.cli" in words else "geonb")
        try:
            parser().parse_args(words[start + 1 :])
        except SystemExit as stop:
            assert stop.code == 0, f"not a command: {shlex.join(words)}"


def test_every_target_of_make_and_every_script_is_there():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.*)$", makefile, re.M)[1].split())
    makes, files = set(), set()
    for words in (words for name in DOCUMENTS for words in commands(name)):
        makes |= set(words[1:]) if words[0] == "make" else set()
        files |= {word for word in words if re.match(r"(scripts|research|benchmarks|tests)/", word) and word.endswith(".py")}
    assert {"book", "test"} <= makes <= targets
    assert files and all((ROOT / file).exists() for file in files), files
    assert "exec make test" in (ROOT / ".ci" / "run").read_text()  # the check runs what the README says


@pytest.fixture(scope="module")
def used(tmp_path_factory) -> Path:
    """The folder in which the commands under "Use it" ran, with fewer places and steps."""
    home, fewer = tmp_path_factory.mktemp("used"), {"data": ["--places", "300"], "train": ["--steps", "10"]}
    (block,) = (block for block in blocks("README.md", "") if "my_points.csv" in block)
    lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert [words[:2] for words in lines if words[0] != "geonb"] == [[".", ".venv/bin/activate"]]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        Path("my_points.csv").write_text("name,lon,lat\nBerlin,13.40,52.52\nSantiago,-70.67,-33.45\n")
        for words in lines[1:]:
            assert main([*words[1:], *fewer.get(words[1], [])]) == 0, shlex.join(words)
        points = land_points(300, seed=0).tolist()
        rows = [f"{lon},{lat},{10 * np.cos(np.radians(lat))}" for lon, lat in points]
        Path("my.csv").write_text("\n".join(["lon,lat,rent", *rows]))
        (command,) = re.findall(r"`geonb (embed [^`]*my\.csv[^`]*)`", (ROOT / "README.md").read_text())
        assert main(shlex.split(command)) == 0
    return home


def test_the_commands_of_the_readme_write_what_they_say(used):
    assert pq.read_table(used / "embedded.parquet")["name"].to_pylist() == ["Berlin", "Santiago"]
    assert len(pq.read_table(used / "theirs.parquet")) == 300
    assert {"fused", "theirs"} <= {row["representation"] for row in json.loads((used / "results.json").read_text())["probes"]}
    assert "<svg" in (used / "results.html").read_text() and 'class="gl"' in (used / "page.html").read_text()


def test_the_readme_shows_what_earth_answers(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = [block for block in blocks("README.md", "") if "geonb ask earth" in block]
    commands_of = [re.sub(r".*(geonb ask earth .*?)\n.*", r"\1", block, flags=re.DOTALL) for block in asked]
    shown = [next(b for b in blocks("README.md", "") if "Trondheim" in b), asked[1].split("\n", 1)[1]]
    for command, table in zip(commands_of, shown, strict=True):
        assert main(shlex.split(command)[1:]) == 0
        printed = capsys.readouterr().out
        for line in table.strip().splitlines():
            assert re.sub(r"^ *\d\.\d ", "", line) in printed  # scores differ by rounding between machines
    assert (tmp_path / "fjords.html").stat().st_size > 100_000


def test_the_python_of_the_readme_runs_after_its_commands(used, monkeypatch):
    monkeypatch.chdir(used)
    names = {"their_function": lambda lonlat: np.cos(np.radians(lonlat))}
    for block in blocks("README.md", "python"):
        exec(compile(re.sub(r".*geoclip_location\(\).*", "", block), "README.md", "exec"), names)
    berlin, santiago = names["model"].embed_locations([[13.40, 52.52], [-70.67, -33.45]])
    assert berlin.shape == (256,) and berlin @ berlin == pytest.approx(1, abs=1e-5)
    assert {"ours", "theirs"} <= {row["representation"] for row in names["results"]["probes"]}
    assert "theirs" in Path("results.html").read_text()
    assert names["encoder"](torch.zeros(3, 2)).shape == (3, 256)
    assert names["score"](names["rent"][names["test"]], names["predicted"], "regression") > 0.5


def test_the_readme_names_all_columns_of_positions():
    named = set(re.findall(r"`(\w+)`", (ROOT / "README.md").read_text().lower()))
    assert {*LON, *LAT, "x", "y"} <= named


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("*.md")))
def test_every_link_of_a_document_leads_to_a_file(name):
    text = re.sub(r"^```.*?^```$", "", (ROOT / name).read_text(), flags=re.M | re.S)
    for url in re.findall(r"\]\(([^)\s]+)\)", text):
        parts = urlsplit(url)
        if parts.scheme:
            assert parts.scheme == "https", f"{name}: {url}"
            continue
        target = ROOT / parts.path if parts.path else ROOT / name
        assert target.exists(), f"{name}: no file {url}"
        if parts.fragment:
            assert parts.fragment in headings(target.read_text()), f"{name}: no heading {url}"


def test_the_guide_sorts_every_exercise_of_every_chapter():
    guide = prose_of("teaching").partition("## Exercises by level")[2].partition("## ")[0]
    rows = {row[1]: row[2] for row in re.finditer(r"^\| \[\d+\]\((\w+)\.ipynb\) \|(.+)\|$", guide, re.M)}
    assert list(rows) == [path.stem for path in sorted((ROOT / "book").glob("[0-9]*.ipynb"))]
    for chapter, row in rows.items():
        exercises = prose_of(chapter).partition("## Exercises")[2].partition("\n## ")[0]
        asked = re.findall(r"^(\d+)\. ", exercises, re.M)
        assert sorted(re.findall(r"\*\*(\d+)\*\*", row), key=int) == asked, chapter


def prose_of(chapter: str) -> str:
    cells = nbformat.read(ROOT / "book" / f"{chapter}.ipynb", 4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
