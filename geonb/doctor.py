"""``geonb doctor``: what this machine has to run the book with, and what to do about the rest.

The network is not asked. Credentials are looked for and never read.
"""

from __future__ import annotations

import os
import platform
import shutil
from importlib.util import find_spec
from pathlib import Path

import torch

from geonb import __version__, workspace
from geonb._util import cores, gpu, memory_gb
from geonb.data.store import PlaceStore

EXTRAS = {  # of pyproject.toml, with the modules that come with them
    "text": "sentence_transformers",
    "evaluate": "pandas",
    "explore": "umap matplotlib folium PIL",
    "real": "rasterio pyproj",
    "acquire": "datasketch ee requests huggingface_hub pystac_client odc dask",
    "live": "leafmap ipywidgets",
}
MEMORY_GB, DISK_GB = 4, 2  # warn below these
SECRETS = {  # settings whose value is not shown
    "GEONB_CONTACT": "you@your.domain, for Wikipedia",
    "GEONB_EE_PROJECT": "ID, a Cloud project registered for Earth Engine",
}


def examine() -> list[dict[str, str]]:
    """Return what was looked for, each a dict of ``what``, ``state``, ``found`` and ``remedy``.

    The state is "ok", "missing", which the book can do without, or "broken".
    """
    versions = f"{__version__}, Python {platform.python_version()}, torch {torch.__version__}"
    cuda = "" if gpu() else "on a GPU machine: pip install a CUDA build of torch"
    profile = "export GEONB_PROFILE=workshop" if memory_gb() < MEMORY_GB else ""
    engine = (Path.home() / ".config" / "earthengine" / "credentials").exists()
    found, remedy = ("set, not tried", "") if engine else ("not set", "earthengine authenticate")
    lines = [
        _line("geonb", versions),
        _line("GPU", gpu() or "none, so the processor trains", cuda),
        _line("cores", str(cores())),
        _line("memory", f"{memory_gb():.1f} GB", profile),
        _line("Earth Engine", found, remedy),
    ]
    for extra, modules in EXTRAS.items():
        absent = [module for module in modules.split() if find_spec(module) is None]
        remedy = f"pip install 'geonb[{extra}]'" if absent else ""
        lines.append(_line(f"extra {extra}", ", ".join(absent) or "installed", remedy))
    settings = {name: value for name, value in os.environ.items() if name.startswith("GEONB_")}
    for name, example in SECRETS.items():
        found = "set" if settings.pop(name, "") else "not set"
        lines.append(_line(name, found, f"export {name}={example}" if found == "not set" else ""))
    shown = ", ".join(f"{name}={value}" for name, value in sorted(settings.items()))
    return [*lines, _folder(), _store(), _line("settings", shown or "none")]


def report(lines: list[dict[str, str]]) -> str:
    """Format the lines for the terminal, each with its remedy where there is one."""
    shown = ("{state:>7}  {what}: {found}; {remedy}".format(**line) for line in lines)
    return "\n".join(line.removesuffix("; ") for line in shown)


def extra_with(module: str) -> str:
    """Return the command that installs a module: the extra that has it, else the module itself."""
    name = module.partition(".")[0]
    extras = [f"'geonb[{extra}]'" for extra, modules in EXTRAS.items() if name in modules.split()]
    return f"pip install {extras[0] if extras else name}"


def _line(what: str, found: str, remedy: str = "", state: str = "") -> dict[str, str]:
    state = state or ("missing" if remedy else "ok")
    return {"what": what, "state": state, "found": found, "remedy": remedy}


def _folder() -> dict[str, str]:
    home = workspace.root().absolute()
    existing = next(p for p in [home, *home.parents] if p.exists())
    free = shutil.disk_usage(existing).free / 1e9
    remedy = "export GEONB_HOME=FOLDER"
    if not os.access(existing, os.W_OK):
        return _line("folder", f"{existing} cannot be written to", remedy, "broken")
    return _line("folder", f"{home}, {free:.0f} GB free", remedy if free < DISK_GB else "")


def _store() -> dict[str, str]:
    try:
        name, places = workspace.STORES[workspace.profile()]
        path = Path(os.environ.get("GEONB_DATA") or workspace.root() / "data" / name)
        if not path.exists() and not os.environ.get("GEONB_DATA"):
            remedy = f"geonb data sample --out {path} --places {places}"
            return _line("data", f"{path}; made by the first chapter", remedy)
        return _line("data", f"{path}, {len(PlaceStore.open(path)):,} places")
    except (ValueError, OSError, KeyError) as error:
        return _line("data", str(error).splitlines()[0], "see geonb data check", "broken")
