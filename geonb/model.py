"""A trained run as a model that embeds positions, texts, images and features in one space."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from geonb._util import filled, row_numbers
from geonb.architectures import Architecture
from geonb.config import build
from geonb.data.sentinel2 import check_images
from geonb.data.store import PlaceStore
from geonb.encoders.features import features
from geonb.geo import check_lonlat
from geonb.questions import APART_KM, Answer, Gallery, named_places, unrelated_sentences
from geonb.run import config_of, find_run, load_backbone, read_config, read_manifest, read_weights

CHUNK = 4096  # rows embedded at a time; bounds the memory of any call


class Model:
    """The encoders of a finished run, made by :func:`load`.

    Attributes:
        architecture: the trained module, in eval mode.
        config, manifest: the run's files, as dicts.
        modalities, dim: what it can embed, "location" first, and in how many dimensions.
    """

    def __init__(self, architecture: Architecture, config: dict, manifest: dict, weights: dict) -> None:
        self.architecture = architecture.eval()
        self.config, self.manifest = config, manifest
        self.modalities, self.dim = architecture.modalities, config["dim"]
        self._weights = weights  # of fitted backbones, and what a shipped model has besides
        self._backbones: dict[str, Any] = {}
        self._galleries: dict[str, Gallery] = {}

    def backbone(self, modality: str) -> Any:
        """Load the frozen backbone of "text" or an image modality, once."""
        if modality not in self._backbones:
            self._backbones[modality] = load_backbone(self.manifest, self._weights, modality)
        return self._backbones[modality]

    def embed_locations(self, lonlat: ArrayLike) -> np.ndarray:
        """Embed positions (n, 2), lon/lat degrees, as unit vectors float32 (n, dim)."""
        return self._embed("location", check_lonlat(lonlat).astype(np.float32))

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        """Embed n texts as unit vectors (n, dim); raises ValueError if one is empty."""
        if isinstance(texts, str):
            raise ValueError(f"give a list of texts: [{texts[:40]!r}]")
        if hasattr(texts, "keys"):
            raise ValueError(f"give a list of texts, such as one column, not a {type(texts).__name__}")
        return self.embed_features("text", self.backbone("text").encode(list(texts)))

    def embed_question(self, text: str) -> np.ndarray:
        """Embed one text as a unit vector float32 (dim,) with which places are searched.

        Raises:
            ValueError: an empty text, one in another encoding, a run without text, or a text without a word that its
                backbone has seen.
        """
        if "text" not in self.modalities:
            raise ValueError(f"this model binds {' and '.join(self.modalities)}; ask one that is bound to text")
        if not text.strip():
            raise ValueError("the text is empty; write what to look for")
        try:
            text.encode()
        except UnicodeEncodeError:  # bytes of the command line that are not in its encoding
            raise ValueError(f"the text {text!r} is not UTF-8; type it in a terminal that is set to UTF-8") from None
        encoded = self.backbone("text").encode([text])
        if not encoded.any():  # of lsa only; the head would give all such texts one vector
            raise ValueError(f"no word of {text!r} occurs in the training texts of this run; use other words")
        return self.embed_features("text", encoded)[0]

    def ask(self, text: str, store: PlaceStore | None = None, top: int = 5) -> Answer:
        """Find the places whose position fits a text best.

        The first question to a model takes some seconds longer, because the places are embedded and calibrated.

        Args:
            text: a few words or sentences, such as "fjords below snowy mountains".
            store: whose places may be the answer; None for 8,000 towns of the Earth, and then answers are at least
                500 km apart.
            top: the number of places; a larger one adds places that fit less.

        Raises:
            ValueError: ``top`` below 1, or a text that :meth:`embed_question` refuses.
        """
        if top < 1:
            raise ValueError(f"top must be at least 1, not {top}")
        words, key = self.embed_question(text), store.data_hash if store else ""
        if key not in self._galleries:
            lonlat, titles, countries = named_places() if store is None else _places_of(store)
            z, apart_km = self.embed_locations(lonlat), APART_KM if store is None else 0.0
            self._galleries[key] = Gallery(lonlat, titles, countries, z, self.unrelated, apart_km)
        return self._galleries[key].answer(text, words, top)

    @property
    def unrelated(self) -> np.ndarray:
        """Unit vectors (1000, dim) of sentences that are about no place; a shipped model has them with its weights."""
        if "backbone.unrelated" not in self._weights:
            self._weights["backbone.unrelated"] = torch.from_numpy(self.embed_texts(unrelated_sentences()))
        return self._weights["backbone.unrelated"].float().numpy()

    def embed_images(
        self, images: np.ndarray, modality: str = "sentinel2", harmonised: bool = False
    ) -> np.ndarray:  # fmt: skip
        """Embed images of a modality, integers (n, band, H, W), as unit vectors (n, dim).

        Sentinel-2 is uint16 (n, 12, H, W), reflectance x 10,000. Raises ValueError if pixels are
        masked, or seem to have the offset of 1000, unless ``harmonised``; see
        :func:`geonb.data.sentinel2.check_images`.
        """
        if modality == "sentinel2":
            images = check_images(images, harmonised=harmonised)
        return self.embed_features(modality, self.backbone(modality).encode(images))

    def embed_store(
        self, store: PlaceStore, modality: str, rows: ArrayLike, progress: bool = False
    ) -> np.ndarray:  # fmt: skip
        """Embed places of a store, ``rows`` (n,), by cached features of texts or images, (n, dim).

        Raises ValueError for a place without this modality.
        """
        present, rows = store.has(modality), row_numbers(rows, len(store))
        if not present[rows].all():
            lacking = store.place_id[rows[~present[rows]][0]]
            raise ValueError(f"place {lacking} has no {modality}; see store.has({modality!r})")
        cached = features(store, modality, self.backbone(modality), progress)
        return self.embed_features(modality, cached[np.cumsum(present)[rows] - 1])

    def embed_features(self, modality: str, features: np.ndarray) -> np.ndarray:
        """Embed features (n, d) of a backbone or of an extra modality as unit vectors (n, dim).

        Raises ValueError for an unknown modality, another shape, or a row that is not finite.
        """
        described = self.manifest["backbones"]
        if modality not in described:
            raise ValueError(f"give features of {', '.join(described)}, not of {modality!r}")
        features = filled(features).astype(np.float32)
        dim = described[modality]["dim"]
        if features.ndim != 2 or features.shape[1] != dim:
            raise ValueError(f"{modality!r} has shape (n, {dim}), not {features.shape}")
        if not (finite := np.isfinite(features).all(1)).all():
            raise ValueError(f"{modality!r}: row {finite.argmin()} is not finite; leave it out, or fill it")
        return self._embed(modality, features)

    @torch.inference_mode()
    def _embed(self, modality: str, values: np.ndarray) -> np.ndarray:
        device = next(self.architecture.parameters()).device
        out = np.empty((len(values), self.dim), dtype=np.float32)
        for i in range(0, len(values), CHUNK):
            chunk = torch.from_numpy(values[i : i + CHUNK]).to(device)
            out[i : i + CHUNK] = self.architecture.embed(modality, chunk).float().cpu().numpy()
        if not (finite := np.isfinite(out).all(1)).all():
            raise ValueError(f"{modality!r}: row {finite.argmin()} has values that are too large to embed")
        return out


def _places_of(store: PlaceStore) -> tuple[np.ndarray, Sequence | np.ndarray, Sequence | np.ndarray]:
    title, country = (
        store.column(name) if name in store.columns else [None] * len(store) for name in ("title", "country")
    )
    return store.lonlat, title, country


def load(run: str | Path, device: str = "cpu") -> Model:
    """Load a finished run or a shipped model.

    Args:
        run: its folder, or the name of a shipped model.
        device: "cpu", "cuda", "cuda:1", "mps", or "auto" for the fastest there is.

    Raises:
        ValueError: a run that is missing, damaged or of another version, or no such device.
    """
    run, device = find_run(run), _device(str(device))
    config, manifest, weights = read_config(run), read_manifest(run), read_weights(run)
    trained = {k: v for k, v in weights.items() if not k.startswith("backbone.")}
    dims = {m: described["dim"] for m, described in manifest["backbones"].items()}
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay
        architecture = build(config["architecture"], config_of(config), dims)
    try:
        architecture.load_state_dict(trained)
    except RuntimeError as error:
        raise ValueError(f"{run}: the weights do not fit config.yaml ({error})") from None
    fitted = {k: v for k, v in weights.items() if k not in trained}
    if device == "mps":
        architecture.float()  # Apple's GPUs have no float64, which some encodings are stored in
    return Model(architecture.to(device), config, manifest, fitted)


def _device(name: str) -> str:
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    devices = ["cuda", *(f"cuda:{i}" for i in range(gpus))] if gpus else []
    devices += ["mps"] if torch.backends.mps.is_available() else []
    devices.append("cpu")
    if name not in ("auto", *devices):
        raise ValueError(f"device {name!r} is not on this machine; choose auto, {', '.join(devices)}")
    return devices[0] if name == "auto" else name
