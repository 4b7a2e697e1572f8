"""What a chapter needs, made if it is missing: the place store, the trained runs, the results.

``GEONB_DATA`` names another place store. ``GEONB_PROFILE=workshop`` has fewer places and shorter runs,
for 2 cores and 4 GB; ``GEONB_SMOKE=1`` only checks that all parts fit together. Where there is a GPU,
the book's profile trains the full-size configuration. ``GEONB_LIVE=1`` lets chapters ask the network.
``GEONB_HOME`` is the folder of ``data/`` and ``runs/``, by default that of ``_config.yml``.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from filelock import FileLock

from geonb._util import gpu
from geonb.architectures import ARCHITECTURES
from geonb.config import TrainConfig, resolve
from geonb.data.store import PlaceStore
from geonb.run import read_config
from geonb.training import hashes_of, train

# Folder and number of places by profile.
STORES = {"book": ("atlas", 8000), "workshop": ("workshop", 2000), "smoke": ("smoke", 700)}
# Stop 100 steps after the best validation: without it no run, of three seeds, selects another step.
BOOK: dict[str, Any] = {"patience": 4}
WORKSHOP: dict[str, Any] = {"steps": 200, "batch_size": 256}
SMOKE: dict[str, Any] = {
    "steps": 30, "batch_size": 128, "validate_every": 10, "dim": 64,
    "backbones": {"text": "lsa"},
}  # fmt: skip
FULL: dict[str, Any] = {
    "steps": 4000, "batch_size": 2048, "validate_every": 100, "precision": "bf16-mixed",
}  # fmt: skip
WIDE: dict[str, Any] = {  # of the three architectures; the baselines keep their own encoder
    "encoding": {"name": "spherical_harmonics", "degrees": 40, "decay": 1.0},
    "network": {"name": "residual", "hidden": 1024},
}
BOUND = ("text", "sentinel2")  # by the runs of the book, where the store has them
LEARNS = {"location_learns": True}
# Every run of the book by the name of its folder: its architecture, where that has another name, and
# the fields that differ from the configuration. `make book` trains all of them first.
RUNS: dict[str, dict[str, Any]] = {
    "imagebind-text": {"architecture": "imagebind", "modalities": ("location", "text")},
    "imagebind-sentinel2": {"architecture": "imagebind", "modalities": ("location", "sentinel2")},
    "imagebind-all": {"architecture": "imagebind", "modalities": None},  # whatever the store has
    **{name: {} for name in ARCHITECTURES},
    "satclip-text": {"architecture": "satclip", "modalities": ("location", "text")},
    "csp-flat": {"architecture": "csp", "options": {"temperatures": [20.0, 1.0, 1.0]}},
    "cyclic-learning": {"architecture": "cyclic", "options": LEARNS},
    "cyclic-single": {"architecture": "cyclic", "options": LEARNS | {"cycles": 1}},
    "cyclic-replay": {"architecture": "cyclic", "options": LEARNS | {"cycles": 1, "replay": 0.2}},
    "cyclic-sentinel2-first": {"architecture": "cyclic", "options": LEARNS | {"order": ["sentinel2", "text"]}},
    "fused-spared": {"architecture": "fused", "options": {"exclude_km": 100.0}},
    "fused-soft": {"architecture": "fused", "options": {"soft_km": 100.0}},
    "fused-logsumexp": {"architecture": "fused", "options": {"form": "logsumexp"}},
}


def profile() -> str:
    """Return the size of everything; raises ValueError if ``GEONB_PROFILE`` is none of `STORES`."""
    name = os.environ.get("GEONB_PROFILE") or ("smoke" if _set("GEONB_SMOKE") else "book")
    if name not in STORES:
        raise ValueError(f"GEONB_PROFILE={name}: choose one of {', '.join(STORES)}")
    return name


def configuration(architecture: str) -> tuple[str, TrainConfig]:
    """Return name and configuration of a chapter's run, by the profile and the device."""
    if profile() == "smoke":
        return "smoke", TrainConfig(**SMOKE)
    if profile() == "workshop":
        return "workshop", TrainConfig(**WORKSHOP)
    if gpu():
        wide = WIDE if architecture in ("imagebind", "cyclic", "fused") else {}
        return "full-size", TrainConfig(**FULL, **wide)
    return "book", TrainConfig(**({} if architecture == "cyclic" else BOOK))


def live() -> bool:
    """Tell whether chapters on data ask the network or read practice inputs."""
    return _set("GEONB_LIVE")


def _set(name: str) -> bool:
    return os.environ.get(name, "") not in ("", "0")


def root() -> Path:
    """Return the folder of ``data/`` and ``runs/``."""
    if os.environ.get("GEONB_HOME"):
        return Path(os.environ["GEONB_HOME"])
    here = Path.cwd()
    return next((p for p in [here, *here.parents] if (p / "_config.yml").exists()), here)


def data() -> PlaceStore:
    """Open the place store; the Atlas sample is made on first use, which takes about a minute."""
    if os.environ.get("GEONB_DATA"):
        return PlaceStore.open(os.environ["GEONB_DATA"])
    name, places = STORES[profile()]
    path = root() / "data" / name
    if not path.exists():
        from geonb.sample import make_atlas

        print(f"Making the Atlas sample in {path}: real facts, simulated texts and images.")
        return make_atlas(path, places=places)
    return PlaceStore.open(path)


def run(name: str, architecture: str | None = None, extra: dict | None = None, **changes: Any) -> Path:
    """Return ``runs/<store>/<name>``, trained unless it is there with this config and data.

    Args:
        name: the run's folder, and a key of `RUNS` or an architecture.
        architecture: of a run with another name.
        extra: further modalities, see :func:`geonb.training.train`.
        changes: fields of :class:`geonb.config.TrainConfig` that differ from the `configuration`.
    """
    store = data()
    settings = {"architecture": architecture or name} | RUNS.get(name, {}) | changes
    architecture = settings.pop("architecture")
    bound = [m for m in BOUND if m in store.modalities] + list(extra or {})
    binary = architecture in ARCHITECTURES and ARCHITECTURES[architecture].binary
    settings.setdefault("modalities", ("location", *(bound[-1:] if binary else bound)))
    size, config = configuration(architecture)
    config = resolve(architecture, store, replace(config, **settings), extra)
    path = root() / "runs" / store.path.name / name
    if (path / "config.yaml").exists():
        wanted = {"architecture": architecture, "data_hash": store.data_hash, "extra": hashes_of(extra)}
        wanted = json.loads(json.dumps(wanted | asdict(config)))
        try:
            stored = json.loads(json.dumps(read_config(path)))
        except ValueError:  # of an earlier version
            stored = {}
        if {k: stored.get(k) for k in wanted} != wanted:
            print(f"{path.name}: config or data changed, training again")
            shutil.rmtree(path)
    train(architecture, store, path, config, resume=path.exists(), extra=extra)
    if size in ("workshop", "full-size"):
        print(f"{name}: {size} configuration")
    return path


def results() -> dict:
    """Return the evaluation of all six architectures, made again when a run changed."""
    from geonb.evaluation.suite import SCHEMA, evaluate

    store = data()
    runs = [run(name) for name in ARCHITECTURES]
    path = root() / "runs" / store.path.name / "results.json"
    with FileLock(path.with_suffix(".lock")):  # `make book` executes two chapters at a time
        newest = max((p / "manifest.json").stat().st_mtime for p in runs)
        if path.exists() and path.stat().st_mtime >= newest:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["schema"] == SCHEMA:
                return found
        return evaluate(runs, store, out=path)


def committed(name: str) -> dict:
    """Return a result file of the package ("grid", "real"), with its provenance."""
    return json.loads((files("geonb") / "results" / f"{name}.json").read_text(encoding="utf-8"))
