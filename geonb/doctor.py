"""What is there to run the book with, and what to do about what is missing. Nothing is asked of the network."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import asdict, dataclass
from datetime import date
from importlib.util import find_spec
from pathlib import Path

EXTRAS = {  # of pyproject.toml: modules, and what they are for
    "text": (("sentence_transformers",), "MiniLM text features; without them the built-in LSA backbone is used"),
    "evaluate": (("sklearn", "pandas"), "result tables and probes"),
    "explore": (("umap", "matplotlib", "folium", "PIL"), "figures, maps and projections"),
    "real": (("rasterio", "pyogrio", "shapely"), "GeoTIFF chips and label tables"),
    "acquire": (("duckdb", "ee", "requests", "pystac_client", "planetary_computer"), "Wikipedia and Sentinel-2"),
    "live": (("leafmap", "ipywidgets"), "maps with a kernel"),
}
MEMORY_GB, DISK_GB = 4, 2  # less is told


@dataclass(frozen=True)
class Finding:
    """One line: ``state`` is "ok", "missing" (can be done without) or "broken"; ``remedy`` is what to do about it."""

    what: str
    state: str
    found: str
    remedy: str = ""


def examine() -> list[Finding]:
    """All findings, in the order in which they are shown. Secrets are looked for and never read."""
    return [*_machine(), *_extras(), *_credentials(), *_workspace(), *_settings()]


def report(findings: list[Finding]) -> str:
    """A line each, with the remedy where there is one."""
    lines = (f"{f.state:>7}  {f.what}: {f.found}" + (f"; {f.remedy}" if f.remedy else "") for f in findings)
    return "\n".join(lines)


def as_dicts(findings: list[Finding]) -> list[dict]:
    """The findings as JSON has them: the fields of each by name."""
    return [asdict(finding) for finding in findings]


def _machine() -> list[Finding]:
    import torch

    from geonb import __version__, workspace

    found = [Finding("geonb", "ok", f"{__version__}, Python {platform.python_version()}, torch {torch.__version__}")]
    if workspace.gpu():
        memory = torch.cuda.get_device_properties(0).total_memory / 1e9
        found.append(Finding("GPU", "ok", f"{workspace.gpu()}, {memory:.0f} GB, {torch.cuda.device_count()} in all"))
    else:
        remedy = "" if torch.version.cuda else "on a GPU machine: pip install a CUDA build of torch"
        found.append(Finding("GPU", "missing", "none that torch can use; the book trains on the processor", remedy))
    found.append(Finding("cores", "ok", str(cores())))
    memory = memory_gb()
    small = "" if memory >= MEMORY_GB else f"under {MEMORY_GB} GB: export GEONB_PROFILE=workshop"
    found.append(Finding("memory", "missing" if small else "ok", f"{memory:.1f} GB", small))
    return found


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The name of the processor, or of its kind where the system does not tell it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def provenance() -> dict:
    """Date, machine and versions, to stand beside every figure that is kept. "device" is what runs are trained on."""
    import torch

    from geonb import __version__, workspace

    return {
        "date": date.today().isoformat(),
        "device": workspace.gpu() or f"cpu, {cores()} cores, {platform.machine()}",
        "cpu": processor(),
        "cores": cores(),
        "gpu": workspace.gpu(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "geonb": __version__},
    }


def memory_gb() -> float:
    """The memory of this machine, or of its container where that has less."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no container, or one without a limit
        pass
    return total / 1e9


def _extras() -> list[Finding]:
    found = []
    for extra, (modules, purpose) in EXTRAS.items():
        absent = [name for name in modules if find_spec(name) is None]
        if absent:
            remedy = f"pip install 'geonb[{extra}]'"
            found.append(Finding(f"extra {extra}", "missing", f"{purpose} (no {', '.join(absent)})", remedy))
        else:
            found.append(Finding(f"extra {extra}", "ok", purpose))
    return found


def _credentials() -> list[Finding]:
    contact = bool(os.environ.get("GEONB_CONTACT", "").strip())
    project = bool(os.environ.get("GEONB_EE_PROJECT", "").strip())
    engine = (Path.home() / ".config" / "earthengine" / "credentials").exists()
    return [
        Finding("contact", "ok", "set") if contact else Finding(
            "contact", "missing", "Wikimedia asks for one", "export GEONB_CONTACT=you@your.domain"),
        Finding("Earth Engine", "ok", "credentials found, not tried") if engine else Finding(
            "Earth Engine", "missing", "no credentials", "earthengine authenticate"),
        Finding("Earth Engine project", "ok", "set") if project else Finding(
            "Earth Engine project", "missing", "none but what the credentials may name",
            "export GEONB_EE_PROJECT=ID, of a Cloud project registered for Earth Engine"),
    ]  # fmt: skip


def _workspace() -> list[Finding]:
    from geonb import workspace

    home = workspace.root()
    there = next(p for p in [home.absolute(), *home.absolute().parents] if p.exists())
    found = []
    if os.access(there, os.W_OK):
        free = shutil.disk_usage(there).free / 1e9
        low = "" if free >= DISK_GB else f"free {DISK_GB} GB, or export GEONB_HOME=FOLDER on another disk"
        found.append(Finding("folder", "missing" if low else "ok", f"{home.absolute()}, {free:.0f} GB free", low))
    else:
        found.append(Finding("folder", "broken", f"{there} cannot be written to", "export GEONB_HOME=FOLDER"))
    return [*found, _store(home)]


def _store(home: Path) -> Finding:
    from geonb import workspace
    from geonb.data.store import PlaceStore

    try:
        name, places = workspace.STORES[workspace.profile()]
        path = Path(os.environ.get("GEONB_DATA") or home / "data" / name)
        if not path.exists() and not os.environ.get("GEONB_DATA"):
            remedy = f"geonb data sample --out {path} --places {places}"
            return Finding("data", "missing", f"{path}; made by the first chapter", remedy)
        store = PlaceStore.open(path)
        runs = sorted(p.parent.name for p in (home / "runs" / path.name).glob("*/manifest.json"))
        return Finding("data", "ok", f"{path}, {len(store):,} places; runs: {', '.join(runs) or 'none yet'}")
    except (ValueError, OSError, KeyError) as error:
        remedy = "see geonb data check, and the settings below"
        return Finding("data", "broken", str(error).splitlines()[0], remedy)


def _settings() -> list[Finding]:
    shown = {k: "set" if k in ("GEONB_CONTACT", "GEONB_EE_PROJECT") else v for k, v in os.environ.items()}
    own = [f"{k}={v}" for k, v in sorted(shown.items()) if k.startswith("GEONB_")]
    return [Finding("settings", "ok", ", ".join(own) or "none (GEONB_PROFILE, GEONB_HOME, GEONB_DATA, GEONB_LIVE)")]
