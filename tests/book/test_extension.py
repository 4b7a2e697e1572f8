"""What book/_ext adds, on a small book of its own: numbers, times, links to the glossary."""

import json
import re
from html import unescape
from pathlib import Path

import pytest
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

EXTENSIONS = Path(__file__).resolve().parents[2] / "book" / "_ext"
FIGURE = '<div class="geonb-figure"><svg role="img" aria-label="A line"></svg></div>'
CHAPTER = [
    ("markdown", "# Nine\n\n**Time to run:** <a id=\"time\"></a>measured when the book is built.\n\n"
     "A modality is bound. Modalities meet at a place, in a *place*. A linear probe reads recall@10, `NT-Xent`, NT-Xent."),
    ("code", FIGURE),
    ("markdown", '<a id="fig-line"></a>**Figure.** A *line*.\n\nSee the [figure](#fig-line) and the [equation](#eq-loss).'),
    ("markdown", '## More\n\n<a id="eq-loss"></a>\n\n$$ x = 1 $$\n\n[Chapter 9](09_nine.ipynb) again: a modality.'),
]  # fmt: skip


def notebook(cells, metadata):
    made = []
    for i, (kind, text) in enumerate(cells):
        cell = {"cell_type": kind, "id": f"c{i}", "metadata": {}, "source": text if kind == "markdown" else "figure()"}
        if kind == "code":
            output = {"output_type": "execute_result", "execution_count": 1, "metadata": {}, "data": {"text/html": text}}
            cell |= {"execution_count": 1, "outputs": [output]}
        made.append(cell)
    metadata = {"language_info": {"name": "python"}} | metadata
    return json.dumps({"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})


def build(folder: Path, metadata: dict) -> dict[str, str]:
    """The body of the chapter, of the glossary and of the front page, from a build in which warnings are errors."""
    (folder / "09_nine.ipynb").write_text(notebook(CHAPTER, metadata))
    (folder / "index.md").write_text("# Front\n\n```{toctree}\n09_nine\nglossary\n```\n")
    (folder / "glossary.md").write_text(
        "# Glossary\n\nLinear probe\n: A model.\n\nModality\n: A kind.\n\nNT-Xent\n: A loss.\n\nPlace\n: A position.\n\n"
        "Recall at k (recall@k)\n: A share.\n"
    )
    options = {
        "extensions": ["myst_nb", "geonb_book"], "nb_execution_mode": "off", "myst_enable_extensions": ["dollarmath", "deflist"],
        "numfig": True, "numfig_format": {"figure": "Figure %s"}, "math_numfig": True, "nitpicky": True,
        "math_eqref_format": "Equation {number}", "html_theme": "basic",
    }  # fmt: skip
    out = folder / "out"
    with docutils_namespace():
        app = Sphinx(folder, None, out, folder / "trees", "html", options, status=None, warningiserror=True)
        app.build()
    assert app.statuscode == 0
    return {name: unescape((out / f"{name}.html").read_text("utf-8")) for name in ("09_nine", "glossary", "index")}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXTENSIONS))
        yield build(tmp_path_factory.mktemp("book"), {"geonb": {"seconds": 130, "device": "2 CPU cores"}})


def text(html):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", html))


def test_a_figure_has_the_number_of_its_chapter_and_holds_the_picture(pages):
    figure = re.search(r'<figure[^>]*id="fig-line">.*?</figure>', pages["09_nine"], re.S)[0]
    assert "<svg" in figure and "Figure 9.1 A line." in text(figure) and "<em>line</em>" in figure


def test_links_to_figures_equations_and_chapters_say_their_numbers(pages):
    assert "See the Figure 9.1 and the Equation 9.1." in text(pages["09_nine"])
    assert 'href="#fig-line"' in pages["09_nine"] and 'href="#equation-eq-loss"' in pages["09_nine"]
    assert re.search(r'<a class="[^"]*" href="#">.*?Chapter 9.*?</a>', pages["09_nine"])
    assert 'id="equation-eq-loss"' in pages["09_nine"] and "(9.1)" in text(pages["09_nine"])
    assert "9. Nine" in text(pages["index"]) and "9. More" not in text(pages["09_nine"])


@pytest.mark.parametrize("metadata, said", [
    ({"geonb": {"seconds": 130, "device": "2 CPU cores"}},
     ["Time to run: 2.2 minutes", "From nothing, with the smaller data and runs of a workshop: 41 s on 2 CPU cores. Not measured"]),
    ({}, ["Time to run: not measured in this build."]),
])  # fmt: skip
def test_the_time_from_nothing_is_the_one_of_the_workshop(tmp_path, monkeypatch, metadata, said):
    monkeypatch.syspath_prepend(str(EXTENSIONS))
    measured = {"cores": 2, "chapters": {"09_nine": {"s": 41.2}}}
    monkeypatch.setattr("geonb.workspace.committed", {"workshop": measured}.__getitem__)
    found = text(build(tmp_path, metadata)["09_nine"])
    assert [part for part in said if part not in found] == []


def test_the_first_use_of_a_term_is_linked_and_no_other(pages):
    links = re.findall(r'href="glossary.html#([\w-]+)">(?:<[^>]+>)*([^<]+)', pages["09_nine"])
    assert links == [("term-modality", "modality"), ("term-place", "place"), ("term-linear-probe", "linear probe"),
                     ("term-recall-at-k", "recall@10"), ("term-nt-xent", "NT-Xent")]  # fmt: skip
    assert "<em><a" in pages["09_nine"], "an everyday word is linked where it is set in italics"
    for target, _ in links:
        assert f'id="{target}"' in pages["glossary"]
