"""What a chapter needs, made if it is missing: the place store, the trained runs, the results.

``GEONB_DATA`` points every chapter at another place store. ``GEONB_PROFILE=workshop`` has fewer places and shorter
runs, for 2 cores and 4 GB. ``GEONB_SMOKE=1`` (``GEONB_PROFILE=smoke``) shrinks everything to a check that all parts fit
together; its numbers mean nothing. Where there is a GPU, the book's profile trains the full-size configuration.
``GEONB_LIVE=1`` lets the chapters on data ask the network. ``GEONB_HOME`` is the folder of ``data/`` and ``runs/``; by
default the folder above that has ``_config.yml``, else the current one.
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

STORES = {"book": ("atlas", 8000), "workshop": ("workshop", 2000), "smoke": ("smoke", 700)}  # name, places
# Stop 100 steps after the best validation. Tried with three seeds of every run that has no phases: none then selects
# another step than without.
BOOK: dict[str, Any] = {"patience": 4}
WORKSHOP: dict[str, Any] = {"steps": 200, "batch_size": 256}
SMOKE: dict[str, Any] = {
    "steps": 30,
    "batch_size": 128,
    "validate_every": 10,
    "backbones": {"text": "lsa", "image": "random_conv"},
}
FULL: dict[str, Any] = {"steps": 4000, "batch_size": 2048, "validate_every": 100, "precision": "bf16-mixed"}
WIDE: dict[str, Any] = {  # location encoder of the three architectures; the baselines keep theirs
    "encoding": {"name": "spherical_harmonics", "degrees": 40, "decay": 1.0},
    "network": {"name": "residual", "hidden": 1024},
}
# Every run of the book by the name of its folder: the architecture, where it has another name, and the fields that
# differ from the configuration. `make book` trains all of them before it executes a chapter.
RUNS: dict[str, dict[str, Any]] = {
    "imagebind-text": {"architecture": "imagebind", "modalities": ("location", "text")},
    "imagebind-image": {"architecture": "imagebind", "modalities": ("location", "image")},
    **{name: {} for name in ARCHITECTURES},
    "satclip-text": {"architecture": "satclip", "modalities": ("location", "text")},
    "csp-flat": {"architecture": "csp", "options": {"temperatures": [20.0, 1.0, 1.0]}},
    "cyclic-learning": {"architecture": "cyclic", "options": {"location_learns": True}},
    "cyclic-single": {"architecture": "cyclic", "options": {"location_learns": True, "cycles": 1}},
    "cyclic-replay": {
        "architecture": "cyclic",
        "options": {"location_learns": True, "cycles": 1, "replay": 0.2},
    },
    "cyclic-image-first": {
        "architecture": "cyclic",
        "options": {"location_learns": True, "order": ["image", "text"]},
    },
    "fused-spared": {"architecture": "fused", "options": {"exclude_km": 100.0}},
    "fused-soft": {"architecture": "fused", "options": {"soft_km": 100.0}},
    "fused-logsumexp": {"architecture": "fused", "options": {"form": "logsumexp"}},
}


def profile() -> str:
    """Return the size of everything: "book", "workshop" or "smoke".

    Raises:
        ValueError: ``GEONB_PROFILE`` is none of them.
    """
    default = "smoke" if os.environ.get("GEONB_SMOKE", "") not in ("", "0") else "book"
    name = os.environ.get("GEONB_PROFILE") or default
    if name not in STORES:
        raise ValueError(f"GEONB_PROFILE={name}: choose one of {', '.join(STORES)}")
    return name


def configuration(architecture: str) -> tuple[str, TrainConfig]:
    """Return the name and the configuration of a chapter's run: by profile, and full-size where there is a GPU."""
    if profile() == "smoke":
        return "smoke", TrainConfig(**SMOKE)
    if profile() == "workshop":
        return "workshop", TrainConfig(**WORKSHOP)
    if gpu():
        return "full-size", TrainConfig(**FULL, **(WIDE if architecture in ("imagebind", "cyclic", "fused") else {}))
    return "book", TrainConfig(**({} if architecture == "cyclic" else BOOK))


def live() -> bool:
    """Tell whether chapters on data ask the network (``GEONB_LIVE=1``) or read practice inputs."""
    return os.environ.get("GEONB_LIVE", "") not in ("", "0")


def root() -> Path:
    """Return the folder of ``data/`` and ``runs/``."""
    if os.environ.get("GEONB_HOME"):
        return Path(os.environ["GEONB_HOME"])
    here = Path.cwd()
    return next((p for p in [here, *here.parents] if (p / "_config.yml").exists()), here)


def data() -> PlaceStore:
    """Open the place store: ``GEONB_DATA``, else the Atlas sample, which is made on first use (about a minute)."""
    if os.environ.get("GEONB_DATA"):
        return PlaceStore.open(os.environ["GEONB_DATA"])
    name, places = STORES[profile()]
    path = root() / "data" / name
    if not path.exists():
        from geonb.sample import make_atlas

        duration = "about a minute" if places > 2000 else "some seconds"
        print(f"Making the Atlas sample in {path} ({duration}): real places and facts, simulated texts and images.")
        return make_atlas(path, places=places)
    return PlaceStore.open(path)


def run(name: str, architecture: str | None = None, extra: dict | None = None, **changes: Any) -> Path:
    """Return the run ``runs/<store>/<name>``, trained if it is missing, unfinished, or of another config or data.

    Args:
        name: the run's folder; its settings are those of :data:`RUNS`, where that has it.
        architecture: of a run that :data:`RUNS` does not have; by default the name.
        extra: further modalities, see :func:`geonb.training.train`.
        changes: fields of :class:`geonb.config.TrainConfig` that differ from the :func:`configuration`.
    """
    store, settings = data(), {"architecture": architecture or name} | RUNS.get(name, {}) | changes
    architecture = settings.pop("architecture")
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
        made = json.loads((path / "manifest.json").read_text())
        print(
            f"{name}: {size} configuration, {made['steps']:,} steps of {made['batch_size']:,} places, "
            f"{made['precision']}, {made['wall_s']:.0f} s on {gpu() or made['device']}"
        )
    return path


def results() -> dict:
    """Return the evaluation of all six architectures (``runs/<store>/results.json``), made again when a run changed."""
    from geonb.evaluation.suite import SCHEMA, evaluate

    store = data()
    runs = [run(name) for name in ARCHITECTURES]
    path = root() / "runs" / store.path.name / "results.json"
    with FileLock(path.with_suffix(".lock")):  # `make book` executes two chapters at a time
        newest = max((p / "manifest.json").stat().st_mtime for p in runs)
        if path.exists() and path.stat().st_mtime >= newest:
            found = json.loads(path.read_text())
            if found["schema"] == SCHEMA:
                return found
        return evaluate(runs, store, out=path)


def committed(name: str) -> dict:
    """Return a result file of the package ("grid", "real"), with its provenance."""
    return json.loads((files("geonb") / "results" / f"{name}.json").read_text())
