"""Image backbones for 12-band Sentinel-2 L2A chips, checks of such chips, and pictures of them.

One backbone, `random_conv`: random convolutional features after MOSAIKS (Rolf et al., 2021, Nature
Communications 12, 4392, doi:10.1038/s41467-021-24638-z), there with patches drawn from the data as filters;
here the filters are Gaussian and come from a seed, so the backbone needs no data and has no state.

Another backbone, for images or for a new modality, is any object with

- ``.name`` and ``.fingerprint``: strings; the fingerprint changes whenever the output would;
- ``.dim``: length of its vectors;
- ``.encode(items, progress=False)``: float32 (n, dim).

Name it in `image_backbone` (a new modality: in ``geonb.encoders.features.BACKBONES``, with a reader of its
items in the place store), and everything after it works on its cached vectors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from geonb.data.sources.simulated import BANDS, SCALE

MIN_SIZE = 16
OFFSET = 1000  # added to L2A digital numbers since processing baseline 04.00 (25 January 2022)

# Centre and spread of the square root of surface reflectance over land, water, snow and cloud, in the order
# of BANDS: round numbers, fixed for good, so that features of any two data sets can be compared.
ROOT_CENTRE = np.array([25, 27, 32, 32, 37, 43, 46, 48, 49, 49, 46, 39], dtype=np.float32) / 100
ROOT_SPREAD = np.array([13, 14, 14, 16, 15, 14, 14, 15, 15, 15, 16, 16], dtype=np.float32) / 100

# Normalised differences (a - b) / (a + b): NDVI, NDWI, NDSI, NDMI (moisture).
_INDICES = [("B8", "B4"), ("B3", "B8"), ("B3", "B11"), ("B8A", "B11")]


class RandomConv:
    """Random convolutional features at three scales, and means and spreads of bands and indices.

    Digital numbers are turned into standardised square roots of reflectance (the root narrows the gap between
    water and snow). At each scale (the chip, and the chip averaged over 2 x 2 and 4 x 4 pixels) ``filters``
    Gaussian 3 x 3 filters over all bands, half of them without a spatial mean so that they see texture alone,
    are applied; relu(response - bias) and relu(-response - bias) are averaged over the chip. The biases are
    small, so that smooth chips (snow, water, sand) still get features other than 0.

    ``dim`` = 2 x 3 x filters + 24 (bands) + 8 (indices): 512 for 80 filters.
    """

    name = "random_conv"
    scales = (1, 2, 4)

    def __init__(self, filters: int = 80, seed: int = 0):
        if filters < 2:
            raise ValueError(f"filters must be at least 2, not {filters}")
        rng = np.random.Generator(np.random.Philox(seed))
        weights = rng.standard_normal((len(self.scales), filters, len(BANDS), 3, 3))
        texture = weights[:, ::2]
        texture -= texture.mean((-2, -1), keepdims=True)
        weights /= np.sqrt((weights**2).sum((2, 3, 4), keepdims=True))
        biases = np.abs(rng.normal(0, 0.25, (len(self.scales), filters)))
        biases[:, ::2] *= 0.2  # texture responses are smaller
        self._weights = torch.from_numpy(weights.astype(np.float32))
        self._biases = torch.from_numpy(biases.astype(np.float32))
        self.dim = 2 * len(self.scales) * filters + 2 * len(BANDS) + 2 * len(_INDICES)
        digest = hashlib.sha256(repr((self.name, self.scales, _INDICES, BANDS, SCALE, 1)).encode())
        for array in (self._weights, self._biases, ROOT_CENTRE, ROOT_SPREAD):
            digest.update(np.ascontiguousarray(array).tobytes())
        self.fingerprint = f"{self.name}-{digest.hexdigest()[:12]}"

    def encode(self, images: np.ndarray, progress: bool = False, batch_size: int = 32) -> np.ndarray:
        """Features float32 (n, dim) of chips uint16 (n, 12, H, W), H and W at least 16.

        Only shape and type are checked here; `check_images` looks at the values.
        """
        images = _check_shape(images)
        out = np.empty((len(images), self.dim), np.float32)
        starts = range(0, len(images), batch_size)
        if progress:
            from geonb._progress import tqdm

            starts = tqdm(starts, desc="image features", unit="batch")
        with torch.inference_mode():
            for i in starts:
                batch = torch.from_numpy(images[i : i + batch_size].astype(np.float32)) / SCALE
                out[i : i + batch_size] = self._features(batch).numpy()
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
        for scale, weights, biases in zip(self.scales, self._weights, self._biases, strict=True):
            coarse = functional.avg_pool2d(x, scale) if scale > 1 else x
            response = functional.conv2d(coarse, weights)
            bias = biases[:, None, None]
            out += [(response - bias).relu_().mean((2, 3)), (-response - bias).relu_().mean((2, 3))]
        return torch.cat(out, 1)


def image_backbone(name: str = "random_conv", **options) -> RandomConv:
    """The backbone of that name; options are those of its class (`RandomConv`: filters, seed)."""
    if name != "random_conv":
        raise ValueError(f"unknown image backbone {name!r}; there is 'random_conv'")
    return RandomConv(**options)


# --- checks --------------------------------------------------------------------------------------------


def _check_shape(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images)
    if images.ndim != 4:
        raise ValueError(
            f"images have shape {images.shape}; needed is (n, 12, H, W): one chip is images[None]"
        )
    if images.shape[1] != len(BANDS):
        hint = ""
        if images.shape[-1] == len(BANDS):
            hint = "; the bands are last: use images.transpose(0, 3, 1, 2)"
        elif 13 in (images.shape[1], images.shape[-1]):
            hint = "; 13 bands are Level-1C: take Level-2A, which has no B10"
        raise ValueError(
            f"images have {images.shape[1]} bands (shape {images.shape}), not the 12 of {BANDS}{hint}"
        )
    if min(images.shape[2:]) < MIN_SIZE:
        raise ValueError(
            f"images are {images.shape[2]} x {images.shape[3]} pixels; at least 16 x 16 are needed"
        )
    if images.dtype.kind not in "ui":
        raise ValueError(_about_floats(images))
    return images


def _about_floats(images: np.ndarray) -> str:
    if images.dtype.kind != "f":
        return f"images are {images.dtype}; needed is uint16, reflectance x 10,000"
    broken = ~np.isfinite(images).all((1, 2, 3))
    if broken.any():
        return f"image {int(np.argmax(broken))} has NaN or infinite values; mask or leave out such chips"
    if images.size and np.abs(images).max() < 3:
        return (
            "images look like reflectance in 0..1, not reflectance x 10,000: use "
            "np.rint(images * 10_000).clip(0, 65_535).astype(np.uint16)"
        )
    return (
        f"images are {images.dtype}; needed is uint16, reflectance x 10,000: "
        "use np.rint(images).clip(0, 65_535).astype(np.uint16)"
    )


def check_images(
    images: np.ndarray, bands: Sequence[str] | None = None, *, harmonised: bool = False
) -> np.ndarray:
    """Return chips as uint16 (n, 12, H, W), or say what is wrong with them and what to do.

    Args:
        images: integers (n, 12, H, W): reflectance x 10,000, bands in the order of `BANDS`, H, W >= 16.
        bands: the names of the bands, where they are known; "B01" and "B1" are the same.
        harmonised: set it when you know that no radiometric offset is left in the numbers; then
            `radiometric_offset`, which can err on chips without anything dark, is not asked.

    Raises:
        ValueError: wrong bands or order; NaN; reflectance in 0..1; 8-bit values; values that no reflectance
            has; chips of which more than a tenth has no data; an offset of 1000 in more than half of them.
    """
    if bands is not None:
        _check_bands(bands)
    images = _check_shape(images)
    if not len(images):
        return images.astype(np.uint16)
    if images.dtype == np.uint8 or images.max() <= 255:
        raise ValueError(
            f"images look like 8-bit pictures (highest value {images.max()}), not reflectance x 10,000: "
            "read the L2A bands themselves, not a rendered (TCI) image"
        )
    if images.min() < 0:
        raise ValueError(f"images have negative values (lowest {images.min()}); use images.clip(0)")
    empty = (images == 0).all(1).mean((1, 2))
    filled = (images >= 65_000).any(1).mean((1, 2))
    for share, what in ((empty, "0"), (filled, "65,000 or more (a fill value)")):
        if (share > 0.1).any():
            row = int(np.argmax(share > 0.1))
            raise ValueError(f"image {row}: {share[row]:.0%} of its pixels are {what}; leave such chips out")
    if not harmonised:
        shifted = radiometric_offset(images) > 0
        if shifted.mean() > 0.5:
            raise ValueError(
                f"{shifted.sum()} of {len(images)} images (first: {int(np.argmax(shifted))}) seem to carry "
                "the offset of +1000 of processing baseline 04.00 and later: use "
                "images.clip(1000) - 1000, or say harmonised=True if you know that it is gone"
            )
    return images.astype(np.uint16)


def _check_bands(bands: Sequence[str]) -> None:
    names = [str(band).strip().upper() for band in bands]
    names = ["B" + name[1:].lstrip("0") if name.startswith("B") else name for name in names]
    if names == BANDS:
        return
    missing = [band for band in BANDS if band not in names]
    if missing:
        raise ValueError(
            f"the bands {missing} are missing from {list(bands)}; needed are {BANDS}, in this order"
        )
    order = [names.index(band) for band in BANDS]
    raise ValueError(f"the bands must be {BANDS}, in this order, not {list(bands)}: use images[:, {order}]")


def radiometric_offset(images: np.ndarray) -> np.ndarray:
    """An estimate of the offset in the digital numbers of each chip: 0 or 1000, int (n,).

    Sentinel-2 L2A of processing baseline 04.00 and later holds 10,000 x reflectance + 1000 unless it was
    harmonised; the product's metadata (BOA_ADD_OFFSET) say so for certain, and a chip often does:

    - the darkest per cent of some band lies near 0 where there is water, shadow, plants (visible) or snow
      (short-wave infrared): below 800 there is no offset;
    - bright soil and sand have no dark pixel, but B1 is about .38 x B4 (the sands and soils of
      `simulated.ENDMEMBERS` keep within .05 of it), and an offset lifts B1 by .06 above that line.

    Both are asked of the darker half of the pixels, which are seldom cloud. Chips that are bright all over
    (cloud, snow) show an offset only if snow is bright in B12; else the answer is 0.

    Accepts (n, 12, H, W), or one chip (12, H, W), for which it returns an array of shape ().
    """
    images = np.asarray(images)
    if images.ndim == 3:
        return radiometric_offset(images[None])[0]
    return np.array([_offset_of(chip.reshape(len(BANDS), -1)) for chip in images], dtype=np.int64)


def _offset_of(pixels: np.ndarray) -> int:
    pixels = pixels[:, (pixels > 0).all(0)]
    if pixels.shape[1] == 0:
        return 0
    darkest = np.percentile(pixels, 1, axis=1).min()
    if darkest < 800:
        return 0
    brightness = pixels.sum(0, dtype=np.int64)
    dark = pixels[:, brightness <= np.median(brightness)]
    b1, b3, b4, b12 = (np.median(dark[BANDS.index(b)]) for b in ("B1", "B3", "B4", "B12"))
    if b1 > 3500:
        return OFFSET if darkest > 1300 and b12 < 0.35 * b3 else 0
    return OFFSET if b1 - 0.38 * b4 > 300 else 0


# --- pictures ------------------------------------------------------------------------------------------

GAMMA = 2.2  # of common screens: equal steps of reflectance are shown as equal steps of light


def true_color(images: np.ndarray) -> np.ndarray:
    """Red, green, blue = B4, B3, B2, as uint8 (n, H, W, 3).

    The stretch is fixed, so chips can be compared: value = 255 x reflectance^(1 / 2.2), white at 100 %.
    """
    return _picture(images, ("B4", "B3", "B2"))


def false_color(images: np.ndarray) -> np.ndarray:
    """Colour infrared: red, green, blue = B8, B4, B3 (plants red, water black), stretched as `true_color`."""
    return _picture(images, ("B8", "B4", "B3"))


def _picture(images: np.ndarray, bands: tuple[str, str, str]) -> np.ndarray:
    chosen = _check_shape(images)[:, [BANDS.index(band) for band in bands]]
    value = (chosen.astype(np.float32) / SCALE).clip(0, 1) ** (1 / GAMMA)
    return np.rint(255 * value).astype(np.uint8).transpose(0, 2, 3, 1)
