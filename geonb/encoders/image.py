"""The image backbone for 12-band Sentinel-2 L2A chips.

`random_conv` computes random convolutional features after MOSAIKS (Rolf et al., 2021, doi 10.1038/s41467-021-24638-z),
with Gaussian filters from a fixed seed instead of patches of the data, so it needs no data and has no state.

Another backbone, for images or for a further modality, is any object with

- ``.name`` and ``.fingerprint``: strings; the fingerprint changes whenever the output would;
- ``.dim``: length of its vectors;
- ``.encode(items, progress=False)``: float32 (n, dim).

Name it in `image_backbone` (a further modality: in ``geonb.encoders.features.BACKBONES``, with a reader of its
items in the place store), and everything after it works on its cached vectors.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch.nn import functional

from geonb._util import tqdm
from geonb.data.sentinel2 import BANDS, SCALE, check_shape

# Mean and standard deviation of the square root of surface reflectance over land, water, snow and cloud, in the order
# of BANDS: round numbers that never change, so that features of any two data sets can be compared.
ROOT_CENTRE = np.array([25, 27, 32, 32, 37, 43, 46, 48, 49, 49, 46, 39], dtype=np.float32) / 100
ROOT_SPREAD = np.array([13, 14, 14, 16, 15, 14, 14, 15, 15, 15, 16, 16], dtype=np.float32) / 100

SCALES, FILTERS = (1, 2, 4), 80  # edge of the averaged pixels; filters per scale
BATCH = 32  # chips at a time

# Normalised differences (a - b) / (a + b): NDVI, NDWI, NDSI, NDMI (moisture).
_INDICES = [("B8", "B4"), ("B3", "B8"), ("B3", "B11"), ("B8A", "B11")]


class RandomConv:
    """Compute random convolutional features at three scales, and means and deviations of bands and indices.

    Digital numbers are turned into standardised square roots of reflectance; the root narrows the gap between water
    and snow. At each scale (the chip, and the chip averaged over 2 x 2 and 4 x 4 pixels) 80 Gaussian 3 x 3 filters
    over all bands are applied, and relu(response - bias) and relu(-response - bias) are averaged over the chip. Half
    of the filters have no spatial mean, so they respond to texture only.
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
        digest = hashlib.sha256(repr((self.name, SCALES, _INDICES, BANDS, SCALE, 1)).encode())
        for array in (self._weights, self._biases, ROOT_CENTRE, ROOT_SPREAD):
            digest.update(np.ascontiguousarray(array).tobytes())
        self.fingerprint = f"{self.name}-{digest.hexdigest()[:12]}"

    def encode(self, images: np.ndarray, progress: bool = False) -> np.ndarray:
        """Return features float32 (n, dim) of chips uint16 (n, 12, H, W), H and W at least 16.

        Only shape and type are checked here; :func:`geonb.data.sentinel2.check_images` checks the values.
        """
        images = check_shape(images)
        out = np.empty((len(images), self.dim), np.float32)
        starts = range(0, len(images), BATCH)
        with torch.inference_mode():
            for i in tqdm(starts, desc="image features", unit="batch", disable=not progress):
                batch = torch.from_numpy(images[i : i + BATCH].astype(np.float32)) / SCALE
                out[i : i + BATCH] = self._features(batch).numpy()
        return out

    def _features(self, reflectance: torch.Tensor) -> torch.Tensor:
        reflectance = reflectance.clamp_min(1e-4)
        centre, spread = (torch.from_numpy(c)[:, None, None] for c in (ROOT_CENTRE, ROOT_SPREAD))
        x = (reflectance.sqrt() - centre) / spread
        out = [x.mean((2, 3)), x.std((2, 3))]
        for first, second in _INDICES:
            a, b = reflectance[:, BANDS.index(first)], reflectance[:, BANDS.index(second)]
            index = (a - b) / (a + b)
            out += [index.mean((1, 2))[:, None], index.std((1, 2))[:, None]]
        for scale, weights, biases in zip(SCALES, self._weights, self._biases, strict=True):
            response = functional.conv2d(functional.avg_pool2d(x, scale), weights)
            bias = biases[:, None, None]
            out += [(response - bias).relu_().mean((2, 3)), (-response - bias).relu_().mean((2, 3))]
        return torch.cat(out, 1)


def image_backbone(name: str = "random_conv") -> RandomConv:
    """Make an image backbone by name; raises ValueError for an unknown one."""
    if name != "random_conv":
        raise ValueError(f"unknown image backbone {name!r}; there is 'random_conv'")
    return RandomConv()
