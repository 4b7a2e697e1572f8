"""Features of frozen backbones, cached: each text and image is encoded once."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from geonb._util import tqdm, write_atomically

if TYPE_CHECKING:
    from geonb.data.store import PlaceStore

TEXTS, IMAGES = 32_768, 1024  # read and encoded at a time


def features(store: PlaceStore, modality: str, backbone: Any, progress: bool = True) -> np.ndarray:
    """Return features float32 (k, d_m) of the k places that have the modality, in row order.

    They are cached in the store by the fingerprint of the backbone and the hash of the data, so a
    change of either computes them again. Of several processes that ask at once, one computes.
    """
    from filelock import FileLock
    from safetensors import SafetensorError
    from safetensors.numpy import load_file, save

    rows = np.flatnonzero(store.has(modality))
    name = f"{modality}-{backbone.fingerprint}-{store.data_hash[:16]}"
    path = store.path / "features" / f"{name}.safetensors"
    def cached() -> np.ndarray | None:
        with suppress(FileNotFoundError, SafetensorError):  # a damaged file is made again
            return load_file(path)["features"]
        return None

    if (values := cached()) is None:
        path.parent.mkdir(exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if (values := cached()) is None:
                values = _encode(store, modality, rows, backbone, progress)
                write_atomically(path, save({"features": values}))
    return values


def _encode(store: PlaceStore, modality: str, rows: np.ndarray, backbone: Any, progress: bool) -> np.ndarray:
    read, size = (store.texts, TEXTS) if modality == "text" else (partial(store.images, modality), IMAGES)
    values = np.empty((len(rows), backbone.dim), np.float32)
    starts = range(0, len(rows), size)
    one = len(starts) == 1  # then the backbone shows the bar
    for start in tqdm(starts, desc=f"{modality} features", unit="chunk", disable=one or not progress):
        part = slice(start, start + size)
        values[part] = backbone.encode(read(rows[part]), progress=one and progress)
    return values
