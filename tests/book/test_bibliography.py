"""The bibliography, the pages and the docstrings name the same papers."""

import json
import re
from pathlib import Path

BOOK = Path(__file__).parents[2] / "book"
PAPER = re.compile(r"https?://(?:arxiv\.org/abs|doi\.org|openaccess\.thecvf\.com|papers\.nips\.cc|www\.mmds\.org)[^\s)>\"]*")
NUMBER = re.compile(r"\b(arXiv|doi)[:\s]\s*(\d{4}\.\d{4,5}|10\.[^\s,\")]+)")
BIBLIOGRAPHY = BOOK / "bibliography.md"


def prose(path: Path) -> str:
    if path.suffix == ".md":
        return path.read_text("utf-8")
    return "\n".join(
        "".join(c["source"]) for c in json.loads(path.read_text("utf-8"))["cells"] if c["cell_type"] == "markdown"
    )


def cited() -> dict[str, str]:
    """The papers that pages other than the bibliography link to or the package names by number, with where."""
    pages = [p for p in [*BOOK.glob("*.ipynb"), *BOOK.glob("*.md")] if p != BIBLIOGRAPHY]
    links = {link: page.name for page in sorted(pages) for link in PAPER.findall(prose(page))}
    for module in sorted((BOOK.parent / "geonb").rglob("*.py")):
        for kind, number in NUMBER.findall(module.read_text("utf-8")):
            links[f"https://{'arxiv.org/abs' if kind == 'arXiv' else 'doi.org'}/{number}"] = module.name
    return links


def test_papers_of_the_pages_and_of_the_bibliography_are_the_same_and_listed_once():
    listed = PAPER.findall(BIBLIOGRAPHY.read_text("utf-8"))
    assert len(listed) == len(set(listed)) > 20
    missing = {link: page for link, page in cited().items() if link not in listed}
    assert not missing, f"add to book/bibliography.md: {missing}"
    unused = set(listed) - cited().keys()
    assert not unused, f"no page and no docstring refers to {unused}"
