"""Code as chapters show it: what runs is whole, docstrings are absent."""

import ast
import inspect
import textwrap

import pytest

from geonb import architectures, losses
from geonb.explore.code import show_source
from geonb.training import fit


@pytest.mark.parametrize("thing", [architectures.Fused, losses.info_nce, losses.Space, losses.Space.near, fit], ids=lambda thing: thing.__name__)
def test_it_is_the_code_without_its_docstrings(thing):
    whole = ast.parse(textwrap.dedent(inspect.getsource(thing)))
    for node in ast.walk(whole):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) and len(node.body) > 1:
            del node.body[0]
    shown = show_source(thing).data.removeprefix("```python\n").removesuffix("\n```")
    assert ("." in thing.__qualname__) == shown.startswith(f"# {thing.__qualname__}\n")
    assert ast.dump(ast.parse(shown)) == ast.dump(whole)
    assert shown.count("# fmt") == inspect.getsource(thing).count("# fmt"), "comments stay"
