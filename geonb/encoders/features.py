"""Frozen backbones, cached: each text and image passes through its backbone once, whatever is trained on top."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load_file, save_file

from geonb.encoders.image import image_backbone
from geonb.encoders.text import text_backbone

if TYPE_CHECKING:
    from geonb.data.store import PlaceStore

CHUNK = {"text": 32_768, "image": 1024}  # read and encoded at a time

BACKBONES: dict[str, Callable[..., Any]] = {"text": text_backbone, "image": image_backbone}


def features(store: PlaceStore, modality: str, backbone: Any, progress: bool = True) -> np.ndarray:
    """Backbone features float32 (k, d_m) of the k places of a store that have the modality, in row order.

    They are kept under ``<store>/features`` by the backbone's fingerprint and the store's content hash, so a
    change of either computes them anew.
    """
    rows = np.flatnonzero(store.has(modality))
    path = store.path / "features" / f"{modality}-{backbone.fingerprint}-{store.data_hash[:16]}.safetensors"
    if path.exists():
        cached = load_file(path)["features"]
        if cached.shape == (len(rows), backbone.dim):
            return cached
    values = _encode(store, modality, rows, backbone, progress)
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    save_file({"features": np.ascontiguousarray(values, dtype=np.float32)}, partial)
    partial.replace(path)
    return values


def _encode(store: PlaceStore, modality: str, rows: np.ndarray, backbone: Any, progress: bool) -> np.ndarray:
    from geonb._util import tqdm

    values = np.empty((len(rows), backbone.dim), np.float32)
    starts = range(0, len(rows), CHUNK[modality])
    one = modality == "text" and len(starts) == 1  # then the backbone shows how far it is
    for start in tqdm(starts, desc=f"{modality} features", unit="chunk", disable=one or not progress):
        part = slice(start, start + CHUNK[modality])
        if modality == "text":
            values[part] = backbone.encode(store.texts(rows[part]), progress=one and progress)
        else:
            values[part] = backbone.encode(store.images(rows[part]))
    return values
