"""What a chapter needs, made if it is not there yet: the place store, the trained runs, the results.

``GEONB_DATA`` points every chapter at another place store. ``GEONB_SMOKE=1`` shrinks everything to a check
that all parts fit together; its numbers mean nothing. ``GEONB_LIVE=1`` lets the chapters on data ask the network.
``GEONB_HOME`` is where ``data/`` and ``runs/`` go; by default the folder above that holds ``_config.yml``, else the
current one.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, replace
from importlib.resources import files
from pathlib import Path

from geonb.architectures import ARCHITECTURES
from geonb.data.store import PlaceStore
from geonb.training import TrainConfig, hashes_of, read_config, resolve, train

ATLAS_PLACES = 8000
SMOKE_PLACES = 700
SMOKE = {"steps": 30, "batch_size": 128, "validate_every": 10, "backbones": {"text": "lsa", "image": "random_conv"}}


def smoke() -> bool:
    """Whether this is a check of the machinery (``GEONB_SMOKE=1``), not an experiment."""
    return os.environ.get("GEONB_SMOKE", "") not in ("", "0")


def live() -> bool:
    """Whether chapters on data ask the network (``GEONB_LIVE=1``) or read practice inputs."""
    return os.environ.get("GEONB_LIVE", "") not in ("", "0")


def root() -> Path:
    """The folder that holds ``data/`` and ``runs/``."""
    if os.environ.get("GEONB_HOME"):
        return Path(os.environ["GEONB_HOME"])
    here = Path.cwd()
    return next((p for p in [here, *here.parents] if (p / "_config.yml").exists()), here)


def data() -> PlaceStore:
    """The place store: ``GEONB_DATA``, else the Atlas sample, which is made on first use (about a minute)."""
    if os.environ.get("GEONB_DATA"):
        return PlaceStore.open(os.environ["GEONB_DATA"])
    path = root() / "data" / ("smoke" if smoke() else "atlas")
    if not path.exists():
        from geonb.data.sources.atlas import make_atlas

        print(f"Making the Atlas sample in {path}: real places and facts, simulated images.")
        return make_atlas(path, places=SMOKE_PLACES if smoke() else ATLAS_PLACES)
    return PlaceStore.open(path)


def run(name: str, architecture: str | None = None, extra: dict | None = None, **changes) -> Path:
    """The run ``runs/<store>/<name>``, trained if it is missing, unfinished, or of another config or data.

    Args:
        name: the run's folder; by default also the architecture's name.
        extra: further modalities, see :func:`geonb.training.train`.
        changes: fields of :class:`geonb.training.TrainConfig` that differ from the default.
    """
    store, architecture = data(), architecture or name
    config = replace(TrainConfig(**SMOKE) if smoke() else TrainConfig(), **changes)
    config = resolve(architecture, store, config, extra)
    path = root() / "runs" / store.path.name / name
    if (path / "config.yaml").exists():
        wanted = {"architecture": architecture, "data_hash": store.data_hash, "extra": hashes_of(extra)}
        wanted = json.loads(json.dumps(wanted | asdict(config)))
        stored = json.loads(json.dumps(read_config(path)))
        if {k: stored.get(k) for k in wanted} == wanted:
            return train(architecture, store, path, resume=True, extra=extra)
        print(f"{path.name}: config or data changed, training anew")
        shutil.rmtree(path)
    return train(architecture, store, path, config, extra=extra)


def results() -> dict:
    """The evaluation of all six architectures (``runs/<store>/results.json``), made anew when a run changed."""
    from geonb.evaluation.suite import SCHEMA, evaluate

    store = data()
    runs = [run(name) for name in ARCHITECTURES]
    path = root() / "runs" / store.path.name / "results.json"
    newest = max((p / "manifest.json").stat().st_mtime for p in runs)
    if path.exists() and path.stat().st_mtime >= newest:
        kept = json.loads(path.read_text())
        if kept["schema"] == SCHEMA:
            return kept
    return evaluate(runs, store, out=path)


def committed(name: str) -> dict:
    """A result file that came with the package ("grid", "real"), with its provenance inside."""
    return json.loads((files("geonb") / "results" / f"{name}.json").read_text())


def prepare() -> None:
    """Everything the book shows, step by step; what is there already is kept."""
    store = data()
    print(f"{store.path}: {len(store):,} places")
    for name in ARCHITECTURES:
        run(name)
    for modality in ("text", "image"):  # chapter 10 compares what position is bound to
        run(f"imagebind-{modality}", "imagebind", modalities=("location", modality))
    results()
