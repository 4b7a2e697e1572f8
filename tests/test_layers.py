"""The package keeps its layers, its drawing shows what the code imports, and the API reference lists all modules."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "book" / "_ext"))
import geonb_package  # noqa: E402

PACKAGE = ROOT / "geonb"
MAY_IMPORT = {
    "data": set(),
    "encoders": {"data"},
    "losses": set(),
    "architectures": {"losses"},
    "training": {"data", "encoders", "losses", "architectures"},
    "evaluation": {"data", "encoders", "training"},
    "explore": {"data", "encoders", "training", "evaluation"},
    "entrances": {"data", "encoders", "losses", "architectures", "training", "evaluation", "explore"},
}


def beyond(package):
    """What a package imports against the table: layer -> layers."""
    found = {layer: uses - MAY_IMPORT[layer] for layer, uses in geonb_package.layer_imports(package).items()}
    return {layer: uses for layer, uses in found.items() if uses}


def test_no_layer_imports_one_that_is_not_below_it():
    assert list(MAY_IMPORT) == list(geonb_package.LAYERS)
    assert beyond(PACKAGE) == {}


@pytest.fixture
def small(tmp_path):
    """A package of three modules, and a function that writes one of them anew."""

    def write(module, code):
        path = tmp_path / "geonb" / f"{module.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
        return tmp_path / "geonb"

    write("__init__", "")
    write("data.store", "from geonb._coords import check\n")
    write("losses", "import torch\n")
    return write


@pytest.mark.parametrize(
    "module, code, forbidden",
    [
        ("losses", "from geonb.explore import maps\n", {"losses": {"explore"}}),
        ("data.store", "def f():\n    import geonb.training\n", {"data": {"training"}}),
        ("encoders.image", "from geonb.data import store\n", {}),
    ],
)
def test_a_forbidden_import_is_found_wherever_it_stands(small, module, code, forbidden):
    small("_coords", "")
    small("explore.maps", "")
    package = small("training", "")
    small("explore.__init__", "")
    assert beyond(package) == {}
    small(module, code)
    assert beyond(package) == forbidden


def test_a_new_import_and_a_new_module_show_in_the_drawing(small):
    package = small("evaluation.probes", "")
    before = geonb_package.drawing(package)
    assert "probes" in before and "evaluation on" not in before
    small("evaluation.probes", "import geonb.data.store\n")
    assert "evaluation on data" in geonb_package.drawing(package)
    small("evaluation.zebra", "")
    assert ">probes, zebra</text>" in geonb_package.drawing(package)
    small("novelty", "")
    with pytest.raises(ValueError, match="novelty has no layer"):
        geonb_package.drawing(package)


def test_every_module_of_the_package_is_in_the_api_reference():
    pages = "\n".join(page.read_text("utf-8") for page in sorted((ROOT / "book").glob("api*.md")))
    listed = re.findall(r"^## (\S+)\n\n```{eval-rst}\n\.\. automodule:: \1\n", pages, re.M)
    public = {m for m in geonb_package.modules(PACKAGE) if not any(part.startswith("_") for part in m.split("."))}
    packages = {"geonb.data", "geonb.data.sources", "geonb.encoders", "geonb.evaluation"}
    commands = {"geonb.cli", "geonb.cli_data"}  # `geonb --help` is their reference
    assert set(listed) == public - packages - commands
    assert len(listed) == len(set(listed)), "a module is listed twice"
