"""The drawing of the package on the architecture page, made from the imports in its code whenever the book is built.

``LAYERS`` says which modules belong together and in which order; what imports what is read from the code alone.
"""

from __future__ import annotations

import ast
from html import escape
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive

import geonb
from geonb.explore.views import PALETTE

LAYERS = {  # name -> (modules or packages, what they do)
    "data": (["geonb.data"], "positions, texts and images → a place store"),
    "encoders": (["geonb.encoders"], "a position, features of a text or an image → a vector"),
    "losses": (["geonb.losses"], "vectors that belong together → a number"),
    "architectures": (["geonb.architectures"], "encoders, and which losses compare what"),
    "training": (["geonb.training", "geonb.model", "geonb.inference"], "a store and an architecture → a run"),
    "evaluation": (["geonb.evaluation"], "a run and a store → results"),
    "explore": (["geonb.explore"], "a run, a store, results → maps, figures, pages"),
    "entrances": (["geonb", "geonb.cli", "geonb.cli_data", "geonb.doctor", "geonb.workspace"],
                  "the command line, and what the chapters ask for"),
}  # fmt: skip


def modules(package: Path) -> dict[str, Path]:
    """Every module below the folder of a package: its dotted name -> its file."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(package: Path) -> dict[str, set[str]]:
    """Module -> the modules of the same package that it imports, anywhere in its code."""
    known, found = modules(package), {}
    for name, path in known.items():
        found[name] = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names if alias.name in known}
            elif isinstance(node, ast.ImportFrom) and node.level:
                raise ValueError(f"{path}: a relative import; name the whole module")
            elif isinstance(node, ast.ImportFrom) and node.module in known:
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                found[name] |= {n if n in known else node.module for n in names}
    return found


def layer_of(module: str) -> str | None:
    """The layer of a module; None for the helpers that all share, whose names begin with an underscore.

    Raises:
        ValueError: a module that ``LAYERS`` has no place for.
    """
    if module.split(".")[1:2] and module.split(".")[1].startswith("_"):
        return None
    for layer, (members, _) in LAYERS.items():
        if module in members or any(module.startswith(f"{m}.") for m in members if m != "geonb"):
            return layer
    raise ValueError(f"{module} has no layer: name it in LAYERS, so that the drawing of the package shows it")


def layer_imports(package: Path) -> dict[str, set[str]]:
    """Layer -> the other layers that any of its modules imports.

    The version, which is all that some modules want of ``geonb`` itself, is no import of an entrance.
    """
    found: dict[str, set[str]] = {layer: set() for layer in LAYERS}
    for module, targets in imports(package).items():
        here = layer_of(module)
        if here:
            found[here] |= {layer_of(t) for t in targets - {"geonb"}} - {here, None}
    return found


def members(package: Path) -> dict[str, list[str]]:
    """Layer -> the short names of its modules; those of a package of sources as ``sources: ...``."""
    found: dict[str, list[str]] = {layer: [] for layer in LAYERS}
    for module, path in modules(package).items():
        layer = layer_of(module)
        if layer and (path.name != "__init__.py" or module == "geonb"):
            found[layer].append(module.removeprefix(f"geonb.{layer}.").removeprefix("geonb."))
    return found


def wrapped(words: list[str], width: int) -> list[str]:
    """Words joined by commas in lines of at most ``width`` characters."""
    lines: list[str] = []
    for i, word in enumerate(words):
        word += "," if i < len(words) - 1 else ""
        if lines and len(lines[-1]) + len(word) < width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def drawing(package: Path) -> str:
    """The package as inline SVG: a box a layer with its modules, and a line from each layer to those that import it."""
    uses, names = layer_imports(package), members(package)
    width, right, line, lane, gap = 520, 400, 17, 15, 16
    top, boxes, parts = 6, {}, []
    for layer, (_, does) in LAYERS.items():
        lines = wrapped(names[layer], 58)
        height = 46 + line * len(lines)
        boxes[layer] = (top, height)
        parts.append(
            f'<rect x="4" y="{top}" width="{right - 4}" height="{height}" rx="7" fill="none" stroke="currentColor" '
            f'stroke-opacity=".45"/><text x="16" y="{top + 21}" font-weight="650" font-size="14">{escape(layer)}</text>'
            f'<text x="16" y="{top + 38}" font-size="12">{escape(does)}</text>'
        )
        parts += [
            f'<text x="16" y="{top + 57 + line * i}" font-size="11.5" opacity=".8">{escape(text)}</text>'
            for i, text in enumerate(lines)
        ]
        top += height + gap
    for i, source in enumerate(LAYERS):
        targets = [layer for layer in LAYERS if source in uses[layer]]
        if not targets:
            continue
        x, colour = right + 14 + lane * i, PALETTE[i]
        start = boxes[source][0] + 12 + 4 * i
        ends = [boxes[target][0] + 12 + 4 * i for target in targets]
        path = f"M{right} {start}H{x}V{max(ends)}" + "".join(f"M{x} {y}H{right + 6}" for y in ends)
        heads = "".join(f"M{right + 7} {y - 4}L{right} {y}L{right + 7} {y + 4}z" for y in ends)
        parts.append(
            f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/><path d="{heads}" fill="{colour}"/>'
        )
    return (
        f'<svg role="img" aria-label="{escape(in_words(package))}" viewBox="0 0 {width} {top - gap + 6}" '
        f'fill="currentColor" font-family="system-ui, sans-serif">{"".join(parts)}</svg>'
    )


def in_words(package: Path) -> str:
    """What the drawing says."""
    uses = layer_imports(package)
    said = [f"{layer} on {', '.join(x for x in LAYERS if x in uses[layer])}" for layer in LAYERS if uses[layer]]
    alone = [layer for layer in LAYERS if not uses[layer]]
    return f"The layers of the package from top to bottom. {'; '.join(said)}; {' and '.join(alone)} on no other."


class PackageDrawing(Directive):
    """``package-drawing``: the drawing, in the place where it is named."""

    def run(self):
        package = Path(geonb.__file__).parent
        environment = self.state.document.settings.env
        for path in modules(package).values():
            environment.note_dependency(str(path))
        return [nodes.raw("", f'<div class="geonb-figure">{drawing(package)}</div>', format="html")]


def setup(app):
    app.add_directive("package-drawing", PackageDrawing)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
