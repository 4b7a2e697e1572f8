"""Code of the package as a chapter shows it, beside the equation that it implements."""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.display import Markdown


def plain_source(thing: Any) -> str:
    """Return the source of a function, method or class without docstrings; a comment names a method's class."""
    text = textwrap.dedent(inspect.getsource(thing))
    lines, dropped = text.splitlines(), set()
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or not ast.get_docstring(node):
            continue
        if len(node.body) > 1:  # a body of nothing else has to stay
            end = node.body[0].end_lineno or 0
            while not lines[end].strip():
                end += 1
            dropped |= set(range(node.body[0].lineno - 1, end))
    source = "\n".join(line for i, line in enumerate(lines) if i not in dropped)
    return f"# {thing.__qualname__}\n{source}" if "." in thing.__qualname__ else source


def show_source(*things: Any) -> Markdown:
    """Show :func:`plain_source` of functions, methods or classes as one highlighted block."""
    from IPython.display import Markdown

    return Markdown("```python\n" + "\n\n".join(plain_source(thing) for thing in things) + "\n```")
