"""Frozen backbones, cached: each text and image passes through its backbone once, whatever is trained on top."""

from __future__ import annotations

import os

import numpy as np
from safetensors.numpy import load_file, save_file

from geonb.encoders.image import image_backbone
from geonb.encoders.text import text_backbone

CHUNK = 1024  # images read and encoded at a time

BACKBONES = {"text": text_backbone, "image": image_backbone}


def features(store, modality: str, backbone, progress: bool = True) -> np.ndarray:
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
    if modality == "text":
        values = backbone.encode(store.texts(rows), progress=progress)
    else:
        values = _encode_images(store, rows, backbone, progress)
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    save_file({"features": np.ascontiguousarray(values, dtype=np.float32)}, partial)
    partial.replace(path)
    return values


def _encode_images(store, rows: np.ndarray, backbone, progress: bool) -> np.ndarray:
    from tqdm.auto import tqdm

    chunks = [rows[i : i + CHUNK] for i in range(0, len(rows), CHUNK)]
    bar = tqdm(chunks, desc="image features", unit="chunk", disable=not progress)
    return np.concatenate([backbone.encode(store.images(chunk)) for chunk in bar])
