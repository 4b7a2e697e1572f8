"""Write the first cell of every chapter, which installs the package on Colab. Its address is in ``_config.yml`` alone.

    python scripts/install_cells.py            # write; with --check only say which cells differ
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = "text,evaluate,explore"
MORE = {"15_wikipedia": ",acquire,live", "16_sentinel2": ",acquire,live"}
CELL = """\
import sys

if "google.colab" in sys.modules:  # elsewhere the package is there already
    from importlib.metadata import version
    from pathlib import Path

    Path("colab.txt").write_text(f"torch=={{version('torch')}}\\n")  # Colab's own torch stays as it is
    %pip install -q -c colab.txt "geonb[{extras}] @ git+{repository}"
"""


def cell(chapter: str) -> str:
    """The source of a chapter's first cell."""
    repository = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    return CELL.format(extras=EXTRAS + MORE.get(chapter, ""), repository=repository).rstrip("\n")


def main(check: bool) -> int:
    differ = []
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        notebook = json.loads(path.read_text("utf-8"))
        lines = cell(path.stem).splitlines(keepends=True)
        if notebook["cells"][0]["source"] != lines:
            differ.append(path.name)
            notebook["cells"][0]["source"] = lines
            if not check:
                path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", "utf-8")
    for name in differ:
        print(f"{name}: {'not what this script writes' if check else 'written'}")
    return int(check and bool(differ))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
