"""A trained run, ready to embed positions, texts and images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from safetensors import SafetensorError
from safetensors.torch import load_file

from geonb.architectures import Architecture
from geonb.data.sentinel2 import check_images
from geonb.encoders.features import BACKBONES
from geonb.encoders.vision import VISION
from geonb.geo import check_lonlat

CHUNK = 4096  # rows embedded at a time; bounds the memory of any call
CHUNK_IMAGES = 64  # images embedded at a time, where the encoder takes their pixels


class Model:
    """The encoders of a finished run; made by :func:`load`.

    Attributes:
        architecture: the trained module, in eval mode.
        config, manifest: the run's files, as dicts.
        modalities: what it can embed, "location" first.
        dim: dimensions of the shared space.
    """

    def __init__(self, architecture: Architecture, config: dict, manifest: dict, backbone_state: dict) -> None:
        self.architecture = architecture.eval()
        self.config, self.manifest = config, manifest
        self.modalities, self.dim = architecture.modalities, config["dim"]
        self._state = backbone_state
        self._backbones: dict[str, Any] = {}

    def backbone(self, modality: str) -> Any:
        """The frozen backbone of "text" or "image", loaded on first use.

        Raises:
            ValueError: the run was not trained with this modality, has no backbone for it, or its backbone is not the
                one at hand.
        """
        if modality not in self.modalities[1:]:
            has = ", ".join(self.modalities)
            raise ValueError(f"this run ({self.manifest['architecture']}) binds {has}; it has no {modality!r}")
        if modality not in self._backbones:
            known = self.manifest["backbones"][modality]
            if "fingerprint" not in known:
                how = "images go in as they are" if known["name"] in VISION else "give its features to embed_features"
                raise ValueError(f"this run has no frozen backbone for {modality!r}; {how}")
            state = self._state.get(modality)
            options = {"state": state} if state else {}
            backbone = BACKBONES[modality](known["name"], **options)
            if backbone.fingerprint != known["fingerprint"]:
                raise ValueError(
                    f"the {modality} backbone here ({backbone.fingerprint}) is not the one of the run "
                    f"({known['fingerprint']}); install the same version or train again"
                )
            self._backbones[modality] = backbone
        return self._backbones[modality]

    def embed_locations(self, lonlat: ArrayLike, progress: bool = False) -> np.ndarray:
        """Positions (n, 2), lon/lat degrees -> unit vectors float32 (n, dim). Raises ValueError as
        ``check_lonlat`` does."""
        return self._embed("location", check_lonlat(lonlat).astype(np.float32), progress)

    def embed_texts(self, texts: list[str], progress: bool = False) -> np.ndarray:
        """n texts -> unit vectors float32 (n, dim).

        Raises:
            ValueError: one text instead of a list, or what the backbone says of a text.
        """
        if isinstance(texts, str):
            raise ValueError(f"give a list of texts: [{texts[:40]!r}]")
        return self.embed_features("text", self.backbone("text").encode(list(texts), progress=progress))

    def embed_images(self, images: np.ndarray, progress: bool = False, harmonised: bool = False) -> np.ndarray:
        """Sentinel-2 L2A images uint16 (n, 12, H, W), reflectance x 10,000 -> unit vectors float32 (n, dim).

        Raises:
            ValueError: wrong bands or scaling, or a radiometric offset that was not removed, which
                ``harmonised=True`` says is not there; see :func:`geonb.data.sentinel2.check_images`.
        """
        if self.end_to_end("image"):
            return self._embed("image", check_images(images, harmonised=harmonised).astype(np.int32), progress)
        backbone = self.backbone("image")
        images = check_images(images, harmonised=harmonised)
        return self.embed_features("image", backbone.encode(images, progress=progress))

    def end_to_end(self, modality: str) -> bool:
        """Whether the run's encoder of this modality takes the observations themselves, not a backbone's features."""
        return self.config["backbones"].get(modality) in VISION

    def embed_features(self, modality: str, features: np.ndarray, progress: bool = False) -> np.ndarray:
        """Cached backbone features (n, d_m) -> unit vectors float32 (n, dim).

        Raises:
            ValueError: a modality whose features this run does not take, or features of another shape.
        """
        known = self.manifest["backbones"].get(modality, {})
        if "dim" not in known:
            takes = [m for m, backbone in self.manifest["backbones"].items() if "dim" in backbone]
            has = f"of {', '.join(takes)} alone" if takes else "of none"
            raise ValueError(f"this run takes features {has}, not of {modality!r}; see embed_locations, embed_images")
        features = np.asarray(features, dtype=np.float32)
        if features.ndim != 2 or features.shape[1] != known["dim"]:
            raise ValueError(
                f"features of {modality!r} must have shape (n, {known['dim']}), a row each, not {features.shape}"
            )
        return self._embed(modality, features, progress)

    @torch.inference_mode()
    def _embed(self, modality: str, values: np.ndarray, progress: bool) -> np.ndarray:
        from geonb._util import tqdm

        device = next(self.architecture.parameters()).device
        size = CHUNK_IMAGES if self.end_to_end(modality) else CHUNK
        out = np.empty((len(values), self.dim), dtype=np.float32)
        for i in tqdm(range(0, len(values), size), desc=f"embedding {modality}", unit="chunk", disable=not progress):
            chunk = torch.from_numpy(values[i : i + size]).to(device)
            out[i : i + size] = self.architecture.embed(modality, chunk).float().cpu().numpy()
        return out


def load(run: str | Path, device: str = "cpu") -> Model:
    """Load a finished run. Nothing is unpickled.

    Raises:
        ValueError: not a run, a run that was not finished, or damaged weights; the message says what to do.
    """
    from geonb.training import RUN_SCHEMA, build, read_config

    run = Path(run)
    config = read_config(run)
    for name in ("model.safetensors", "manifest.json"):
        if not (run / name).exists():
            raise ValueError(f"{run}: no {name}, the training did not finish; go on with `geonb train ... --resume`")
    manifest = json.loads((run / "manifest.json").read_text())
    if manifest["schema"] != RUN_SCHEMA:
        raise ValueError(f"{run}: run schema {manifest['schema']}, this version reads {RUN_SCHEMA}; train again")
    try:
        tensors = load_file(run / "model.safetensors")
    except SafetensorError as error:
        raise ValueError(f"{run / 'model.safetensors'}: damaged weights ({error}); train again") from None

    state: dict[str, dict] = {}
    for key in [k for k in tensors if k.startswith("backbone.")]:
        _, modality, name = key.split(".", 2)
        state.setdefault(modality, {})[name] = tensors.pop(key)
    dims = {m: b["dim"] for m, b in manifest["backbones"].items() if "dim" in b}
    fields = {k: v for k, v in config.items() if k not in ("architecture", "data_hash", "init", "extra")}
    with torch.random.fork_rng(devices=[]):  # the caller's draws go on as if nothing had happened
        architecture = build(config["architecture"], fields, dims)
    try:
        architecture.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{run}: the weights do not fit config.yaml ({error}); train again") from None
    return Model(architecture.to(device), config, manifest, state)
