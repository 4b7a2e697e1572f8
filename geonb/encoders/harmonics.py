"""Spherical harmonics, the positional encoding whose waves live on the sphere.

They are right to degree 100 and beyond, in float32 too, at the poles and across longitude 180.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from geonb.encoders.positional import PositionalEncoding


class SphericalHarmonics(PositionalEncoding):
    r"""Encode positions by the real orthonormal spherical harmonics :math:`Y_{lm}` of all degrees below ``degrees``.

    Feature ``l*l + l + m`` is :math:`Y_{lm}`, without the Condon-Shortley phase:
    :math:`\sqrt2\,\bar P_l^m(\cos\theta)\cos m\lambda` for m > 0, the same with sine and \|m\| for m < 0, and
    :math:`\bar P_l` for m = 0. Here :math:`\bar P` are the fully normalised associated Legendre functions and
    :math:`\theta` is the colatitude.

    A Legendre function is a short Fourier series in :math:`\theta`, with cosines for even m, sines for odd m, and
    only wavenumbers k <= l of the parity of l:

    .. math:: \bar P_l^m(\cos\theta) = \sum_k c_{lmk} \cos k\theta \quad\text{or}\quad \sum_k c_{lmk} \sin k\theta

    Therefore a degree is one matrix product. The coefficients are computed once, in float64, by the stable recurrence
    of Holmes and Featherstone (2002, eq. 11). They are of order 1, so the series is accurate in float32 too.

    Args:
        degrees: number of degrees L >= 1; the encoding has L**2 features. Degree l resolves about 20,000 / l km.
        decay: weight degree l by (1 + l)**-decay, scaled to keep the mean square. 0 treats a coastline and a
            continent alike; larger values prefer the continent.
    """

    def __init__(self, degrees: int = 20, decay: float = 0.0) -> None:
        super().__init__()
        if degrees < 1:
            raise ValueError(f"degrees must be at least 1, not {degrees}")
        self.degrees, self.decay, self.dim = degrees, decay, degrees**2
        weight = (1 + torch.arange(degrees, dtype=torch.float64)) ** -decay
        weight /= (weight.square() @ (2 * torch.arange(degrees) + 1.0).double() / self.dim).sqrt()
        blocks = [w * c for w, c in zip(weight, _fourier_coefficients(degrees), strict=True)]
        self.register_buffer("coefficients", torch.cat([block.flatten() for block in blocks]), persistent=False)

    def encode(self, lonlat: Tensor) -> Tensor:
        """Encode (n, 2) degrees as (n, degrees**2), the transpose of a contiguous array: a degree is one write."""
        k = torch.arange(self.degrees, dtype=lonlat.dtype, device=lonlat.device)[:, None]
        around, down = k * torch.deg2rad(lonlat[:, 0]), k * torch.deg2rad(90 - lonlat[:, 1])
        longitude = torch.cat([around[1:].sin().flip(0), around.cos()])  # orders -(degrees - 1)..degrees - 1
        waves = torch.stack([down.cos(), down.sin()], 1)
        even, odd = (waves[parity::2].flatten(0, 1) for parity in (0, 1))
        even = torch.cat([even[:1], even[2:]])  # no sine of wavenumber 0
        sizes = [(2 * l + 1) * (l + 1) for l in range(self.degrees)]
        out = lonlat.new_empty(self.dim, len(lonlat))
        for l, block in enumerate(self.coefficients.to(lonlat.dtype).split(sizes)):
            legendre = block.view(2 * l + 1, l + 1) @ (odd if l % 2 else even)[: l + 1]
            out[l * l : (l + 1) ** 2] = legendre * longitude[self.degrees - 1 - l : self.degrees + l]
        return out.T


def _fourier_coefficients(degrees: int) -> list[Tensor]:
    """Return for each degree l the Fourier series of its Legendre functions: float64 (2l + 1, l + 1), orders -l..l.

    The factor sqrt(2) of the orders other than 0 is included. Columns are cos k, sin k for k = l mod 2, ..., l,
    without sin 0.
    """
    theta = torch.arange(2 * degrees, dtype=torch.float64) * (math.pi / degrees)  # the whole circle
    blocks = []
    for l, values in enumerate(_legendre(degrees, theta.cos(), theta.sin())):
        waves = [wave for k in range(l % 2, l + 1, 2) for wave in ((k * theta).cos(), (k * theta).sin())]
        waves = torch.stack(waves if l % 2 else waves[:1] + waves[2:])
        series = values @ waves.T / waves.square().sum(1)
        series[1:] *= math.sqrt(2)
        blocks.append(torch.cat([series[1:].flip(0), series]))
    return blocks


def _legendre(degrees: int, x: Tensor, s: Tensor) -> Iterator[Tensor]:
    """Yield the fully normalised associated Legendre functions, degree by degree: (l + 1, n) for orders 0..l.

    Args:
        x, s: cosine and sine of the colatitude, both (n,). A negative sine continues the functions over the circle.
    """
    before, last = None, torch.full_like(x, math.sqrt(1 / (4 * math.pi)))[None]
    yield last
    for l in range(1, degrees):
        sectoral = math.sqrt((2 * l + 1) / (2 * l)) * s * last[-1:]
        row = math.sqrt(2 * l + 1) * x * last[-1:]
        if l >= 2:
            m = torch.arange(l - 1, dtype=x.dtype)[:, None]
            a = ((4 * l * l - 1) / (l * l - m * m)).sqrt()
            b = (((l - 1) ** 2 - m * m) / (4 * (l - 1) ** 2 - 1)).sqrt()
            row = torch.cat([a * (x * last[:-1] - b * before), row])
        before, last = last, torch.cat([row, sectoral])
        yield last
