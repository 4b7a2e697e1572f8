"""``geonb doctor``: what this machine has to run the book with, and the command for what is missing.

Nothing is asked of the network. Credentials are looked for and never read.
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

EXTRAS = {  # of pyproject.toml: purpose, and the modules that come with it
    "text": ("MiniLM text features; without them the LSA backbone is used", ("sentence_transformers",)),
    "evaluate": ("result tables", ("pandas",)),
    "explore": ("figures, maps and projections", ("umap", "matplotlib", "folium", "PIL")),
    "real": ("GeoTIFF chips", ("rasterio",)),
    "acquire": (
        "Wikipedia and Sentinel-2",
        ("datasketch", "ee", "requests", "huggingface_hub", "shapely", "pystac_client", "odc", "dask"),
    ),
    "live": ("maps with a kernel", ("leafmap", "ipywidgets")),
}
MEMORY_GB, DISK_GB = 4, 2  # warn below these
SECRETS = ("GEONB_CONTACT", "GEONB_EE_PROJECT")


def examine() -> list[dict[str, str]]:
    """Return one line per thing that was looked for, in the order of the report.

    Each has the keys ``what``, ``state`` ("ok", "missing", which the book can do without, or "broken"), ``found`` and
    ``remedy``, the command or advice, "" where nothing is to be done.
    """
    lines = [_line("geonb", f"{__version__}, Python {platform.python_version()}, torch {torch.__version__}")]
    if name := gpu():
        lines.append(_line("GPU", f"{name}, {torch.cuda.device_count()} in all"))
    else:
        remedy = "" if torch.version.cuda else "on a GPU machine: pip install a CUDA build of torch"
        lines.append(_line("GPU", "none that torch can use; the book trains on the processor", remedy, "missing"))
    little = f"under {MEMORY_GB} GB: export GEONB_PROFILE=workshop" if memory_gb() < MEMORY_GB else ""
    lines += [_line("cores", str(cores())), _line("memory", f"{memory_gb():.1f} GB", little)]
    for extra, (purpose, modules) in EXTRAS.items():
        absent = ", ".join(module for module in modules if find_spec(module) is None)
        remedy = f"pip install 'geonb[{extra}]'" if absent else ""
        lines.append(_line(f"extra {extra}", purpose + (f" (no {absent})" if absent else ""), remedy))
    contact, project = (bool(os.environ.get(name, "").strip()) for name in SECRETS)
    engine = (Path.home() / ".config" / "earthengine" / "credentials").exists()
    for what, found, remedy in (
        ("contact for Wikimedia", contact, "export GEONB_CONTACT=you@your.domain"),
        ("Earth Engine", engine, "earthengine authenticate"),
        ("Earth Engine project", project, "export GEONB_EE_PROJECT=ID, of a Cloud project registered for Earth Engine"),
    ):
        lines.append(_line(what, "set; not tried" if found else "not set", "" if found else remedy))
    settings = [f"{k}={'set' if k in SECRETS else v}" for k, v in sorted(os.environ.items()) if k.startswith("GEONB_")]
    none = "none (GEONB_PROFILE, GEONB_HOME, GEONB_DATA, GEONB_LIVE)"
    return [*lines, _folder(), _store(), _line("settings", ", ".join(settings) or none)]


def report(lines: list[dict[str, str]]) -> str:
    """Format the lines for the terminal, each with its remedy where there is one."""
    shown = (f"{line['state']:>7}  {line['what']}: {line['found']}; {line['remedy']}" for line in lines)
    return "\n".join(line.removesuffix("; ") for line in shown)


def extra_with(module: str) -> str:
    """Return the command that installs a module that is missing: the extra that has it, else the module itself."""
    name = module.partition(".")[0]
    extra = next((extra for extra, (_, modules) in EXTRAS.items() if name in modules), None)
    return f"pip install 'geonb[{extra}]'" if extra else f"pip install {name}"


def _line(what: str, found: str, remedy: str = "", state: str = "") -> dict[str, str]:
    return {"what": what, "state": state or ("missing" if remedy else "ok"), "found": found, "remedy": remedy}


def _folder() -> dict[str, str]:
    home = workspace.root().absolute()
    existing = next(p for p in [home, *home.parents] if p.exists())
    free = shutil.disk_usage(existing).free / 1e9
    if not os.access(existing, os.W_OK):
        return _line("folder", f"{existing} cannot be written to", "export GEONB_HOME=FOLDER", "broken")
    low = f"free {DISK_GB} GB, or export GEONB_HOME=FOLDER on another disk" if free < DISK_GB else ""
    return _line("folder", f"{home}, {free:.0f} GB free", low)


def _store() -> dict[str, str]:
    try:
        name, places = workspace.STORES[workspace.profile()]
        path = Path(os.environ.get("GEONB_DATA") or workspace.root() / "data" / name)
        if not path.exists() and not os.environ.get("GEONB_DATA"):
            remedy = f"geonb data sample --out {path} --places {places}"
            return _line("data", f"{path}; made by the first chapter", remedy)
        return _line("data", f"{path}, {len(PlaceStore.open(path)):,} places")
    except (ValueError, OSError, KeyError) as error:
        return _line("data", str(error).splitlines()[0], "see geonb data check, and the settings below", "broken")
