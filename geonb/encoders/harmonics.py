"""Spherical harmonics, the encoding of the sphere: right to degree 100 and at the poles."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from geonb.encoders.positional import PositionalEncoding


class SphericalHarmonics(PositionalEncoding):
    """Encode positions by real orthonormal spherical harmonics.

    Feature ``l*l + l + m`` is :math:`Y_{lm}`, without the Condon-Shortley phase. Legendre functions
    are short Fourier series in the colatitude, so a degree is one matrix product. Source of their
    stable recurrence: Holmes and Featherstone (2002, eq. 11).

    Args:
        degrees: number L >= 1, for L**2 features. Degree l resolves about 20,000 / l km.
        decay: weight degree l by (1 + l)**-decay, at the same mean square; larger is smoother.
    """

    def __init__(self, degrees: int = 20, decay: float = 0.0) -> None:
        super().__init__()
        if degrees < 1:
            raise ValueError(f"degrees must be at least 1, not {degrees}")
        self.degrees, self.decay, self.dim = degrees, decay, degrees**2
        weight = (1 + torch.arange(degrees, dtype=torch.float64)) ** -decay
        weight /= (weight.square() @ (2 * torch.arange(degrees) + 1.0).double() / self.dim).sqrt()
        blocks = [w * c for w, c in zip(weight, _fourier_coefficients(degrees), strict=True)]
        coefficients = torch.cat([block.flatten() for block in blocks])
        self.register_buffer("coefficients", coefficients, persistent=False)

    def encode(self, lonlat: Tensor) -> Tensor:
        """Encode (n, 2) degrees as (n, degrees**2), the transpose of a contiguous array."""
        k = torch.arange(self.degrees, dtype=lonlat.dtype, device=lonlat.device)[:, None]
        around, down = k * torch.deg2rad(lonlat[:, 0]), k * torch.deg2rad(90 - lonlat[:, 1])
        # Orders from -(degrees - 1) to degrees - 1.
        longitude = torch.cat([around[1:].sin().flip(0), around.cos()])
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
    """Return the Fourier series of each degree l: (2l + 1, l + 1), orders -l..l times waves.

    Waves are cos k, sin k for k = l mod 2, ..., l; cosines for even m, sines for odd m.
    """
    theta = torch.arange(2 * degrees, dtype=torch.float64) * (math.pi / degrees)  # the circle
    blocks = []
    for l, values in enumerate(_legendre(degrees, theta.cos(), theta.sin())):
        angles = [k * theta for k in range(l % 2, l + 1, 2)]
        waves = [wave for angle in angles for wave in (angle.cos(), angle.sin())]
        waves = torch.stack(waves if l % 2 else waves[:1] + waves[2:])
        series = values @ waves.T / waves.square().sum(1)
        series[1:] *= math.sqrt(2)
        blocks.append(torch.cat([series[1:].flip(0), series]))
    return blocks


def _legendre(degrees: int, x: Tensor, s: Tensor) -> Iterator[Tensor]:
    """Yield normalised Legendre functions (l + 1, n) by degree, of cosines x and sines s (n,)."""
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
