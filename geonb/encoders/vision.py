"""Image encoders trained from scratch, end to end, on 12-band Sentinel-2 chips: a ResNet and a vision transformer.

They take the chips themselves, uint16 reflectance x 10,000 as integers (n, 12, H, W) of any size of 32 pixels or
more, and give (n, dim). Normalisation layers do not look at the batch, so a micro-batch, a whole batch and a batch
spread over devices give the same embeddings.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geonb.data.sentinel2 import BANDS, SCALE
from geonb.encoders.image import ROOT_CENTRE, ROOT_SPREAD


class Standardise(nn.Module):
    """Square roots of reflectance, standardised band by band with fixed constants."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.from_numpy(ROOT_CENTRE)[:, None, None], persistent=False)
        self.register_buffer("spread", torch.from_numpy(ROOT_SPREAD)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Integers (n, 12, H, W), reflectance x 10,000 -> (n, 12, H, W) of mean about 0 and spread about 1."""
        numbers = images.to(torch.int32) & 0xFFFF  # unsigned numbers of 16 bits, also where they come as signed ones
        return ((numbers.to(self.centre.dtype) / SCALE).sqrt() - self.centre) / self.spread


class Block(nn.Module):
    """The basic residual block of He et al. (2016), with group normalisation."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width_in, width, 3, stride, 1, bias=False), nn.GroupNorm(32, width), nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.GroupNorm(32, width),
        )  # fmt: skip
        same = stride == 1 and width_in == width
        self.skip = nn.Identity() if same else nn.Conv2d(width_in, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, width_in, H, W) -> (n, width, H / stride, W / stride), rounded up."""
        return F.relu(self.skip(x) + self.body(x))


class ResNet18(nn.Sequential):
    """ResNet-18 (He et al., 2016, arXiv 1512.03385) on 12 bands: 64, 128, 256, 512 channels, two blocks each, mean over
    space."""

    def __init__(self, dim: int) -> None:
        widths = [64, 64, 128, 256, 512]
        blocks = []
        for i, (before, width) in enumerate(zip(widths, widths[1:], strict=False)):
            blocks += [Block(before, width, 1 if i == 0 else 2), Block(width, width, 1)]
        super().__init__(
            Standardise(), nn.Conv2d(len(BANDS), 64, 7, 2, 3, bias=False), nn.GroupNorm(32, 64), nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, dim),
        )  # fmt: skip


class ViTSmall(nn.Module):
    """ViT-S/16 (Dosovitskiy et al., 2021) on 12 bands: width 384, 12 layers, 6 heads, mean over the patches, and
    sine-cosine positions, so that it takes any size of image."""

    width, depth, heads = 384, 12, 6

    def __init__(self, dim: int, patch: int = 16) -> None:
        super().__init__()
        self.standardise = Standardise()
        self.patches = nn.Conv2d(len(BANDS), self.width, patch, patch)
        options = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
        size = self.width, self.heads, 4 * self.width
        layers = [nn.TransformerEncoderLayer(*size, **options) for _ in range(self.depth)]
        self.layers = nn.Sequential(*layers, nn.LayerNorm(self.width))
        self.last = nn.Linear(self.width, dim)

    def forward(self, images: Tensor) -> Tensor:
        """Integers (n, 12, H, W), reflectance x 10,000, at least a patch high and wide -> (n, dim)."""
        x = self.patches(self.standardise(images))
        positions = sine_positions(x.shape[-2], x.shape[-1], self.width).to(x)
        return self.last(self.layers(x.flatten(2).transpose(1, 2) + positions).mean(1))


def sine_positions(rows: int, columns: int, width: int) -> Tensor:
    """Float32 (p, width) for p = rows * columns: sines and cosines of the row, then of the column, at geometric
    frequencies."""
    frequencies = torch.exp(torch.arange(width // 4) * (-math.log(10_000) / (width // 4)))
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [axis.flatten()[:, None] * frequencies for axis in (y, x)]
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], 1)


VISION = {"resnet18": ResNet18, "vit_small": ViTSmall}
