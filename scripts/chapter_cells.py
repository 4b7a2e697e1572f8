"""Write into every chapter what all have alike: the first cell, which installs the package on Colab from the address
in ``_config.yml``, and the metadata by which Jupyter and Colab fold what the book folds.

    python scripts/chapter_cells.py            # write; with --check only say which chapters differ
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = "text,evaluate,explore"
MORE = {
    "11_maps": ",real", "15_wikipedia": ",acquire,live", "16_sentinel2": ",acquire,live", "17_scale": ",acquire",
    "20_factbook": ",factbook",
}  # fmt: skip
CELL = """\
import sys

if "google.colab" in sys.modules:  # elsewhere the package is there already
    from importlib.metadata import version
    from pathlib import Path

    Path("colab.txt").write_text(f"torch=={{version('torch')}}\\n")  # Colab's own torch stays as it is
    %pip install -q -c colab.txt "geonb[{extras}] @ git+{repository}"
"""
FOLDED = {  # tag of Jupyter Book -> the same for JupyterLab and for Colab
    "hide-input": {"jupyter": {"source_hidden": True}, "cellView": "form"},
    "hide-cell": {"jupyter": {"source_hidden": True, "outputs_hidden": True}, "cellView": "form"},
}


def cell(chapter: str) -> str:
    """The source of a chapter's first cell."""
    repository = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]
    return CELL.format(extras=EXTRAS + MORE.get(chapter, ""), repository=repository).rstrip("\n")


def metadata(tags: list[str]) -> dict:
    """The metadata of a cell with these tags."""
    folded: dict = {}
    for tag in tags:
        folded |= FOLDED.get(tag, {})
    return {"tags": tags} | folded if tags else {}


def main(check: bool) -> int:
    differ = []
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        before = path.read_text(encoding="utf-8")
        notebook = json.loads(before)
        notebook["cells"][0]["source"] = cell(path.stem).splitlines(keepends=True)
        for each in notebook["cells"]:
            each["metadata"] = metadata(each["metadata"].get("tags", []))
        after = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
        if after != before:
            differ.append(path.name)
            if not check:
                path.write_text(after, encoding="utf-8")
    for name in differ:
        print(f"{name}: {'not what this script writes' if check else 'written'}")
    return int(check and bool(differ))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
