"""The backbones of image modalities, ``random_conv`` and ``statistics``.

Another one is any object with ``.name``, ``.dim``, ``.encode(items, progress=False)``, float32
(n, dim), and ``.fingerprint``, which changes whenever the output would.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from geonb._util import tqdm
from geonb.data.sentinel2 import BANDS, SCALE

# Mean and deviation of the square root of reflectance over land, water, snow and cloud, by band:
# round numbers that never change, so that features of any two data sets can be compared.
ROOT_CENTRE = np.array([25, 27, 32, 32, 37, 43, 46, 48, 49, 49, 46, 39], dtype=np.float32) / 100
ROOT_SPREAD = np.array([13, 14, 14, 16, 15, 14, 14, 15, 15, 15, 16, 16], dtype=np.float32) / 100
CENTRE, SPREAD = 0.5, 0.25  # of bands of another modality

SCALES, FILTERS = (1, 2, 4), 80  # edge of the averaged pixels; filters per scale
QUANTILES = (0.1, 0.5, 0.9)
BATCH = 32  # chips at a time
MIN_SIZE = 16  # their edge in pixels

# Normalised differences (a - b) / (a + b): NDVI, NDWI, NDSI, NDMI (moisture).
_INDICES = [("B8", "B4"), ("B3", "B8"), ("B3", "B11"), ("B8A", "B11")]


class _Backbone(ABC):
    """Encode chips of given bands, a batch at a time, by ``_features`` of values from 0 to 1."""

    name: str
    dim: int
    bands: list[str]
    scale: int

    def encode(self, images: np.ndarray, progress: bool = False) -> np.ndarray:
        """Return features float32 (n, dim) of chips, integers (n, band, H, W), H and W at least 16, else ValueError."""
        if np.ma.is_masked(images):
            raise ValueError("images have masked pixels; fill them, with 0 where there is no data")
        images = np.asarray(images)
        if images.dtype.kind not in "iu":
            raise ValueError(f"images are {images.dtype}; give integers, of which {self.scale} stands for 1")
        if images.ndim != 4 or images.shape[1] != len(self.bands) or min(images.shape[2:]) < MIN_SIZE:
            wanted = f"(n, {len(self.bands)}, H, W), H and W at least {MIN_SIZE}"
            raise ValueError(f"images have shape {images.shape}, not {wanted}; the bands are {', '.join(self.bands)}")
        out = np.empty((len(images), self.dim), np.float32)
        starts = range(0, len(images), BATCH)
        with torch.inference_mode():
            for i in tqdm(starts, desc="image features", unit="batch", disable=not progress):
                batch = torch.from_numpy(images[i : i + BATCH].astype(np.float32))
                out[i : i + BATCH] = self._features(batch / self.scale).numpy()
        return out

    @abstractmethod
    def _features(self, values: torch.Tensor) -> torch.Tensor: ...


class Statistics(_Backbone):
    """Compute mean, deviation and the quantiles .1, .5 and .9 of the square root of the values of each band.

    Args:
        bands: names of the bands of a chip. ``scale``: the number that stands for 1.
    """

    name = "statistics"

    def __init__(self, bands: Sequence[str] = BANDS, scale: int = SCALE) -> None:
        self.bands, self.scale, self.dim = list(bands), scale, (2 + len(QUANTILES)) * len(bands)
        digest = hashlib.sha256(repr((self.name, QUANTILES, self.bands, scale)).encode())
        self.fingerprint = f"{self.name}-{digest.hexdigest()[:12]}"

    def _features(self, values: torch.Tensor) -> torch.Tensor:
        roots = values.sqrt().flatten(2)
        quantiles = torch.quantile(roots, torch.tensor(QUANTILES), dim=2)
        return torch.cat([roots.mean(2), roots.std(2), *quantiles], 1)


class RandomConv(_Backbone):
    """Compute random convolutional features, and means and deviations of bands and indices.

    Random filters are applied to standardised square roots of the values; responses of either
    sign are averaged over the chip. Half of the filters respond to texture only. Indices are of
    the bands of Sentinel-2, where there are all of them.
    Source: MOSAIKS, doi 10.1038/s41467-021-24638-z, whose filters are patches of the data.

    Args:
        bands: names of the bands of a chip. ``scale``: the number that stands for 1.
    """

    name = "random_conv"

    def __init__(self, bands: Sequence[str] = BANDS, scale: int = SCALE) -> None:
        self.bands, self.scale = list(bands), scale
        sentinel2 = self.bands == BANDS
        self._indices = _INDICES if sentinel2 else []
        self._centre, self._spread = (
            torch.from_numpy(known if sentinel2 else np.full(len(self.bands), other, np.float32))[:, None, None]
            for known, other in ((ROOT_CENTRE, CENTRE), (ROOT_SPREAD, SPREAD))
        )
        self.dim = 2 * len(SCALES) * FILTERS + 2 * len(self.bands) + 2 * len(self._indices)  # 512 for Sentinel-2
        rng = np.random.Generator(np.random.Philox(0))
        weights = rng.standard_normal((len(SCALES), FILTERS, len(self.bands), 3, 3))
        texture = weights[:, ::2]
        texture -= texture.mean((-2, -1), keepdims=True)
        weights /= np.sqrt((weights**2).sum((2, 3, 4), keepdims=True))
        biases = np.abs(rng.normal(0, 0.25, (len(SCALES), FILTERS)))
        biases[:, ::2] *= 0.2  # texture responses are smaller
        self._weights = torch.from_numpy(weights.astype(np.float32))
        self._biases = torch.from_numpy(biases.astype(np.float32))
        settings = self.name, SCALES, self._indices, self.bands, scale, 1
        digest = hashlib.sha256(repr(settings).encode())
        for array in (self._weights, self._biases, self._centre, self._spread):
            digest.update(np.ascontiguousarray(array).tobytes())
        self.fingerprint = f"{self.name}-{digest.hexdigest()[:12]}"

    def _features(self, values: torch.Tensor) -> torch.Tensor:
        values = values.clamp_min(1e-4)
        x = (values.sqrt() - self._centre) / self._spread
        out = [x.mean((2, 3)), x.std((2, 3))]
        for first, second in self._indices:
            a, b = values[:, BANDS.index(first)], values[:, BANDS.index(second)]
            index = ((a - b) / (a + b))[:, None]
            out += [index.mean((2, 3)), index.std((2, 3))]
        for scale, weights, biases in zip(SCALES, self._weights, self._biases, strict=True):
            response = functional.conv2d(functional.avg_pool2d(x, scale), weights)
            for signed in (response, -response):
                out.append((signed - biases[:, None, None]).relu_().mean((2, 3)))
        return torch.cat(out, 1)


def image_backbone(name: str = "random_conv", bands: Sequence[str] = BANDS, scale: int = SCALE) -> Any:
    """Make an image backbone by name for the bands of a modality; raises ValueError for an unknown one."""
    kinds = {kind.name: kind for kind in (RandomConv, Statistics)}
    if name not in kinds:
        raise ValueError(f"unknown image backbone {name!r}; choose one of {', '.join(kinds)}")
    return kinds[name](bands, scale)
