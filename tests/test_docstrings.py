"""Docstrings of the public API say what a user must know: shapes, units, errors, sources. Their examples run."""

import ast
import doctest
import importlib
import re
from pathlib import Path

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
HELPERS = {"weighted_median"}  # beside measures: it counts
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


def functions() -> list[tuple[str, str, ast.FunctionDef]]:
    """Return the module, name and definition of every public function and method."""
    found = [(module, name, node) for module in MODULES for name, node in public(module)]
    return [(module, name, node) for module, name, node in found if isinstance(node, ast.FunctionDef)]


def test_everything_public_is_documented():
    assert [m for m in MODULES if not importlib.import_module(m).__doc__] == []
    names = [(module, name) for module in MODULES for name, _ in public(module)]
    assert [f"{module}.{name}" for module, name in names if not documentation(module, name).strip()] == []


def test_errors_that_a_function_raises_are_named():
    silent = {f"{module}.{name}": missing for module, name, node in functions()
              if (missing := {e for e in raised(node) if e not in documentation(module, name)})}  # fmt: skip
    assert silent == {}


def test_shapes_of_arrays_are_given():
    silent = [f"{module}.{name}" for module, name, node in functions()
              if arrays(node) and not SHAPE.search(documentation(module, name))]  # fmt: skip
    assert silent == []


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


def test_examples_give_what_they_say():
    failures, shown, runner = [], 0, doctest.DocTestRunner(verbose=False)
    for module in MODULES:
        tests = doctest.DocTestFinder().find(importlib.import_module(module))
        shown += sum(bool(test.examples) for test in tests)
        for test in tests:
            runner.run(test, out=failures.append)
    assert not runner.failures, "".join(failures)
    assert shown >= 6
