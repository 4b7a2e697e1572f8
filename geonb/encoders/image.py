"""The image backbone for 12-band Sentinel-2 L2A chips, ``random_conv``.

Another one is any object with ``.name``, ``.dim``, ``.encode(items, progress=False)``, float32
(n, dim), and ``.fingerprint``, which changes whenever the output would.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch.nn import functional

from geonb._util import tqdm
from geonb.data.sentinel2 import BANDS, SCALE, check_shape

# Mean and deviation of the square root of reflectance over land, water, snow and cloud, by band:
# round numbers that never change, so that features of any two data sets can be compared.
ROOT_CENTRE = np.array([25, 27, 32, 32, 37, 43, 46, 48, 49, 49, 46, 39], dtype=np.float32) / 100
ROOT_SPREAD = np.array([13, 14, 14, 16, 15, 14, 14, 15, 15, 15, 16, 16], dtype=np.float32) / 100

SCALES, FILTERS = (1, 2, 4), 80  # edge of the averaged pixels; filters per scale
BATCH = 32  # chips at a time

# Normalised differences (a - b) / (a + b): NDVI, NDWI, NDSI, NDMI (moisture).
_INDICES = [("B8", "B4"), ("B3", "B8"), ("B3", "B11"), ("B8A", "B11")]


class RandomConv:
    """Compute random convolutional features, and means and deviations of bands and indices.

    Random filters are applied to standardised square roots of reflectance; responses of either
    sign are averaged over the chip. Half of the filters respond to texture only.
    Source: MOSAIKS, doi 10.1038/s41467-021-24638-z, whose filters are patches of the data.
    """

    name = "random_conv"
    dim = 2 * len(SCALES) * FILTERS + 2 * len(BANDS) + 2 * len(_INDICES)  # 512

    def __init__(self) -> None:
        rng = np.random.Generator(np.random.Philox(0))
        weights = rng.standard_normal((len(SCALES), FILTERS, len(BANDS), 3, 3))
        texture = weights[:, ::2]
        texture -= texture.mean((-2, -1), keepdims=True)
        weights /= np.sqrt((weights**2).sum((2, 3, 4), keepdims=True))
        biases = np.abs(rng.normal(0, 0.25, (len(SCALES), FILTERS)))
        biases[:, ::2] *= 0.2  # texture responses are smaller
        self._weights = torch.from_numpy(weights.astype(np.float32))
        self._biases = torch.from_numpy(biases.astype(np.float32))
        settings = self.name, SCALES, _INDICES, BANDS, SCALE, 1
        digest = hashlib.sha256(repr(settings).encode())
        for array in (self._weights, self._biases, ROOT_CENTRE, ROOT_SPREAD):
            digest.update(np.ascontiguousarray(array).tobytes())
        self.fingerprint = f"{self.name}-{digest.hexdigest()[:12]}"

    def encode(self, images: np.ndarray, progress: bool = False) -> np.ndarray:
        """Return features float32 (n, dim) of chips uint16 (n, 12, H, W), H and W at least 16."""
        images = check_shape(images)
        out = np.empty((len(images), self.dim), np.float32)
        starts = range(0, len(images), BATCH)
        with torch.inference_mode():
            for i in tqdm(starts, desc="image features", unit="batch", disable=not progress):
                batch = torch.from_numpy(images[i : i + BATCH].astype(np.float32))
                out[i : i + BATCH] = self._features(batch / SCALE).numpy()
        return out

    def _features(self, reflectance: torch.Tensor) -> torch.Tensor:
        reflectance = reflectance.clamp_min(1e-4)
        centre, spread = (torch.from_numpy(c)[:, None, None] for c in (ROOT_CENTRE, ROOT_SPREAD))
        x = (reflectance.sqrt() - centre) / spread
        out = [x.mean((2, 3)), x.std((2, 3))]
        for first, second in _INDICES:
            a, b = reflectance[:, BANDS.index(first)], reflectance[:, BANDS.index(second)]
            index = ((a - b) / (a + b))[:, None]
            out += [index.mean((2, 3)), index.std((2, 3))]
        for scale, weights, biases in zip(SCALES, self._weights, self._biases, strict=True):
            response = functional.conv2d(functional.avg_pool2d(x, scale), weights)
            for signed in (response, -response):
                out.append((signed - biases[:, None, None]).relu_().mean((2, 3)))
        return torch.cat(out, 1)


def image_backbone(name: str = "random_conv") -> RandomConv:
    """Make an image backbone by name; raises ValueError for an unknown one."""
    if name != "random_conv":
        raise ValueError(f"unknown image backbone {name!r}; there is 'random_conv'")
    return RandomConv()
