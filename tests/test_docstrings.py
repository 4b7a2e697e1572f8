"""Docstrings of the public API say what a user must know: shapes, units, errors, sources. Their examples run."""

import ast
import doctest
import importlib
import importlib.util
import re
from pathlib import Path

import pytest

from geonb.architectures import ARCHITECTURES
from geonb.encoders.location import ENCODINGS

PACKAGE = Path(__file__).resolve().parents[1] / "geonb"
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if not any(part.startswith("_") and part != "__init__.py" for part in path.parts)
)
SHAPE = re.compile(
    r"\((?:\w+|\.\.\.)(?:, ?[\w.·*+ ]+)*,?\)|\(\.\.\., \w+\)|shape|\b(?:one|row|value|number|vector|index)s? (?:a|each|per|for each|of each)\b"
)
SOURCE = re.compile(r"\b(?:19\d|20[0-3])\d\b|arXiv \d{4}\.\d{5}|\b(?:our own|ours|of this book)\b")
UNITS = {  # of numbers and arrays with such a name: how their unit may be said
    r"(\w+_)?(lonlat|lon|lat|bbox|bounds|points)|west|south|east|north": r"\bdegrees\b|°|\bmetres\b",
    r"(read_)?positions": r"\bdegrees\b|\bunit vectors\b",
    r"images|\w+_chips|\w+_color": r"reflectance|\buint8\b|0\.\.1\b",
    r"(\w+_)?(angles?|heading)": r"\bdegrees\b|\bradians\b",
    r"size|(\w+_)?radius|distances?|spacing|resolution|area|height|altitude":
        r"\bk?m2?\b|\bpixels?\b|\bradians\b|\brows\b|\bpoints squared\b",
    r"(\w+_)?(timeout|wait|pause|seconds|after)": r"\bseconds\b",
    r"(\w+_)?cloud": r"%|\bpercent\b|\bshare\b",
    r"embed(_\w+)?|z": r"\bunit (vectors|length)\b",
}
HELPERS = {"weighted_median", "density", "quantile_groups", "by_group", "finite_or_none"}  # beside measures: they count and group
EXAMPLES = [m for m in MODULES if ">>> " in Path(importlib.util.find_spec(m).origin).read_text("utf-8")]


def public(module: str) -> list[tuple[str, ast.AST]]:
    """The public definitions of a module, methods as Class.method, in their order."""
    tree = ast.parse(Path(importlib.import_module(module).__file__).read_text("utf-8"))
    found = []

    def visit(node, prefix):
        for child in node.body:
            if isinstance(child, ast.FunctionDef | ast.ClassDef) and not child.name.startswith("_"):
                found.append((prefix + child.name, child))
                if isinstance(child, ast.ClassDef):
                    visit(child, f"{prefix}{child.name}.")

    visit(tree, "")
    return found


def documentation(module: str, name: str) -> str:
    """The docstring of a definition; of a method that overrides another, also that of the other."""
    value = importlib.import_module(module)
    *owners, last = name.split(".")
    for part in owners:
        value = getattr(value, part)
    if not owners:
        return getattr(value, last).__doc__ or ""
    of_class = [c.__dict__[last] for c in value.__mro__ if last in c.__dict__]
    return "\n".join(d for member in of_class if (d := getattr(member, "__doc__", None)))


def raised(function: ast.FunctionDef) -> set[str]:
    """The public errors that a function's own body raises; those that it hands on are not looked at."""
    found, queue = set(), list(function.body)
    while queue:
        node = queue.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda):
            continue
        if isinstance(node, ast.Try):  # what it catches itself is not what a caller sees
            handled = {n.id for h in node.handlers if h.type for n in ast.walk(h.type) if isinstance(n, ast.Name)}
            inner = ast.FunctionDef(name="", args=function.args, body=node.body, decorator_list=[])
            found |= raised(inner) - handled
            queue += [*node.handlers, *node.orelse, *node.finalbody]
            continue
        if isinstance(node, ast.Raise) and node.exc is not None:
            error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            if isinstance(error, ast.Name) and error.id[0].isupper():
                found.add(error.id)
        queue += ast.iter_child_nodes(node)
    return found


def arrays(function: ast.FunctionDef) -> bool:
    """Whether a function takes arrays or tensors, or gives one back."""
    every = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
    notes = [ast.unparse(a.annotation) for a in every if a.annotation]
    notes += [ast.unparse(function.returns)] if function.returns else []
    return any(re.search(r"\b(np\.ndarray|NDArray|Tensor)\b", note) for note in notes)


def quantities(node: ast.FunctionDef | ast.ClassDef) -> set[str]:
    """The names of numbers and arrays that a definition takes, has as fields, or gives back (then its own)."""
    if isinstance(node, ast.ClassDef):
        noted = [(each.target.id, each.annotation) for each in node.body if isinstance(each, ast.AnnAssign)]
    else:
        every = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        noted = [*((a.arg, a.annotation) for a in every), (node.name, node.returns)]
    of_numbers = re.compile(r"(?!Callable).*\b(float|ndarray|ArrayLike|Tensor)\b")  # what is an int is a count
    return {name for name, note in noted if note and (name == "size" or of_numbers.match(ast.unparse(note)))}


def without_unit(name: str, text: str) -> bool:
    """Whether a name asks for a unit that a text does not say."""
    return any(re.fullmatch(asks, name) and not re.search(says, text, re.I) for asks, says in UNITS.items())


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_is_documented(module):
    assert importlib.import_module(module).__doc__, f"{module} says nothing of itself"
    bare = [name for name, _ in public(module) if not documentation(module, name).strip()]
    assert not bare, f"{module}: no docstring: {', '.join(bare)}"


@pytest.mark.parametrize("module", MODULES)
def test_errors_that_a_function_raises_are_named(module):
    functions = [(name, node) for name, node in public(module) if isinstance(node, ast.FunctionDef)]
    silent = {name: missing for name, node in functions
              if (missing := {e for e in raised(node) if e not in documentation(module, name)})}  # fmt: skip
    assert not silent, f"{module}: raised, but not under Raises: {silent}"


@pytest.mark.parametrize("module", MODULES)
def test_shapes_of_arrays_are_said(module):
    functions = [(name, node) for name, node in public(module) if isinstance(node, ast.FunctionDef)]
    silent = [name for name, node in functions if arrays(node) and not SHAPE.search(documentation(module, name))]
    assert not silent, f"{module}: arrays without a shape: {', '.join(silent)}"


@pytest.mark.parametrize("module", MODULES)
def test_units_of_quantities_are_said(module):
    """In the docstring of a function, of its class or of the function that it refers to. ``size_km`` says its own."""
    silent = {}
    for name, node in public(module):
        said = documentation(module, name)
        if "." in name:
            said += documentation(module, name.rpartition(".")[0])
        said += "".join(documentation(module, other) for other in re.findall(r"as (?:for|in)\s+:func:`(\w+)`", said))
        if missing := {each for each in quantities(node) if without_unit(each, said)}:
            silent[name] = missing
    assert not silent, f"{module}: quantities without a unit: {silent}"


@pytest.mark.parametrize("said, silent", [
    ("Which positions (n, 2) lie within a radius of a place, and their vectors (n, d).", {"lonlat", "radius", "z"}),
    ("Which positions (n, 2), in degrees, lie within a radius of a place.", {"radius", "z"}),
    ("Which positions (n, 2), in degrees, lie within ``radius`` km, and their unit vectors (n, d).", set()),
])  # fmt: skip
def test_a_unit_that_is_not_said_is_missed(said, silent):
    (function,) = ast.parse("def near(lonlat: np.ndarray, radius: float, size_km: float, z: Tensor) -> np.ndarray: ...").body
    assert {name for name in quantities(function) if without_unit(name, said)} == silent


def sourced() -> dict[str, str]:
    """Docstrings by name of what is somebody's: architectures, losses, positional encodings, measures."""
    found = {f"architectures.{kind.__name__}": kind.__doc__ for kind in ARCHITECTURES.values()}
    found |= {f"encoders.{kind.__name__}": kind.__doc__ for kind in ENCODINGS.values()}
    for module in ("losses", "evaluation.information", "evaluation.spatial"):
        functions = [name for name, node in public(f"geonb.{module}") if isinstance(node, ast.FunctionDef)]
        names = [name for name in functions if "." not in name and name not in HELPERS]
        found |= {f"{module}.{name}": documentation(f"geonb.{module}", name) for name in names}
    return found


def test_whose_a_formula_is_stands_beside_it():
    nameless = [name for name, text in sourced().items() if not SOURCE.search(text or "")]
    assert not nameless, f"neither a source (a year, an arXiv number) nor said to be our own: {', '.join(nameless)}"


def examples(module: str) -> list[doctest.DocTest]:
    return [test for test in doctest.DocTestFinder().find(importlib.import_module(module)) if test.examples]


@pytest.mark.parametrize("module", EXAMPLES)
def test_examples_give_what_they_say(module):
    said, runner = [], doctest.DocTestRunner(verbose=False)
    for test in examples(module):
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)


def test_there_are_examples():
    shown = sum(len(examples(module)) for module in EXAMPLES)
    assert shown >= 12, f"only {shown} docstrings of the package have an example"
