"""Code as chapters show it: what runs is whole, docstrings are absent."""

import ast
import inspect
import textwrap

import pytest

from geonb import architectures, losses
from geonb.explore.code import plain_source, show_source
from geonb.training import fit


@pytest.mark.parametrize("thing", [architectures.Fused, losses.info_nce, losses.Space, losses.Space.near, fit], ids=lambda thing: thing.__name__)
def test_it_is_the_code_without_its_docstrings(thing):
    whole = ast.parse(textwrap.dedent(inspect.getsource(thing)))
    for node in ast.walk(whole):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) and len(node.body) > 1:
            del node.body[0]
    shown = plain_source(thing)
    assert ast.dump(ast.parse(shown)) == ast.dump(whole)
    assert shown.count("# fmt") == inspect.getsource(thing).count("# fmt"), "comments stay"


def test_a_block_names_the_class_of_a_method():
    shown = show_source(losses.Space.near, fit).data
    assert (
        shown.startswith("```python\n# Space.near\ndef near(") and "\n\ndef fit(" in shown and shown.endswith("\n```")
    )
