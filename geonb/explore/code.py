"""Code of the package as a chapter shows it, beside the equation that it is."""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.display import Markdown


def plain_source(thing: Any) -> str:
    """The source of a function, method or class without its docstrings, which the API reference has; a method is
    named in a comment above it.

    Example:
        >>> from geonb.explore.code import plain_source
        >>> from geonb.losses import Space
        >>> print(plain_source(Space.near))
        # Space.near
        def near(self, rows: slice) -> Tensor | None:
            angle = min(self.exclude_km / EARTH_RADIUS_KM, math.pi)
            return self.chord(rows) <= 2 * math.sin(angle / 2) if self.exclude_km else None
    """
    text = textwrap.dedent(inspect.getsource(thing))
    lines, dropped = text.splitlines(), set()
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or ast.get_docstring(node) is None:
            continue
        if len(node.body) > 1:  # a body of nothing else has to stay
            end = node.body[0].end_lineno or 0
            while end < len(lines) and not lines[end].strip():
                end += 1
            dropped |= set(range(node.body[0].lineno - 1, end))
    kept = "\n".join(line for i, line in enumerate(lines) if i not in dropped)
    return f"# {thing.__qualname__}\n{kept}" if "." in thing.__qualname__ else kept


def show_source(*things: Any) -> Markdown:
    """:func:`plain_source` of functions, methods or classes, as one highlighted block for a notebook."""
    from IPython.display import Markdown

    return Markdown("```python\n" + "\n\n".join(plain_source(thing) for thing in things) + "\n```")
