"""Docstrings of the public API say what a user must know: shapes, errors, sources. Their examples run."""

import doctest
import importlib
import inspect
import re
from pathlib import Path

from geonb.architectures import ARCHITECTURES
from geonb.encoders.location import ENCODINGS

PACKAGE = Path(__file__).resolve().parents[1] / "geonb"
MODULES = [
    importlib.import_module(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"))
    for path in sorted(PACKAGE.rglob("*.py"))
    if not path.stem.startswith("_") or path.stem == "__init__"
]
SHAPE = re.compile(
    r"\((?:\w+|\.\.\.)(?:, ?[\w.·*+ ]+)*,?\)|\(\.\.\., \w+\)|shape|\b(?:one|row|value|number|vector|index)s? (?:a|each|per|for each|of each)\b"
)
SOURCE = re.compile(r"\b(?:19\d|20[0-3])\d\b|arXiv \d{4}\.\d{5}|\b(?:our own|ours|of this book)\b")


def public(module):
    """Yield name and value of the public classes and functions of a module, and of methods as Class.method."""
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        yield f"{module.__name__}.{name}", inspect.unwrap(value)
        for method in vars(value) if inspect.isclass(value) else ():
            if not method.startswith("_"):
                yield f"{module.__name__}.{name}.{method}", getattr(value, method)


FUNCTIONS = {name: value for module in MODULES for name, value in public(module) if inspect.isroutine(value)}
PUBLIC = FUNCTIONS | {name: value for module in MODULES for name, value in public(module) if isinstance(value, type | property)}


def test_everything_public_is_documented():
    assert [module.__name__ for module in MODULES if not module.__doc__] == []
    assert [name for name, value in PUBLIC.items() if not inspect.getdoc(value)] == []


def test_errors_that_a_function_raises_are_named():
    silent = {}
    for name, function in FUNCTIONS.items():
        raised = re.findall(r"^ +raise ([A-Z]\w+)\(", inspect.getsource(function), re.M)
        if missing := {error for error in raised if error not in inspect.getdoc(function)}:
            silent[name] = missing
    assert silent == {}


def test_shapes_of_arrays_are_given():
    silent = [
        name for name, function in FUNCTIONS.items()
        if re.search(r"\b(ndarray|NDArray|Tensor)\b", str(function.__annotations__))
        and not name.startswith("geonb.sample.")  # the simulator, whose arrays are all those of a chip
        and not SHAPE.search(inspect.getdoc(function))
    ]  # fmt: skip
    assert silent == []


def test_whose_a_formula_is_stands_beside_it():
    formulas = [*ARCHITECTURES.values(), *ENCODINGS.values()]
    modules = r"geonb\.(losses|evaluation\.information|evaluation\.spatial)\.\w+"
    formulas += [f for name, f in FUNCTIONS.items() if re.fullmatch(modules, name) and name.split(".")[-1] != "weighted_median"]
    nameless = [f.__name__ for f in formulas if not SOURCE.search(f.__doc__)]
    assert not nameless, "neither a source (a year, an arXiv number) nor said to be our own"


def test_examples_give_what_they_say():
    runner, shown = doctest.DocTestRunner(verbose=False), 0
    for module in MODULES:
        for test in doctest.DocTestFinder().find(module):
            shown += bool(test.examples)
            runner.run(test)
    assert not runner.failures and shown >= 6
