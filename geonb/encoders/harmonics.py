"""Spherical harmonics: the encoding of a position by the natural waves of the sphere."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from geonb.encoders.positional import PositionalEncoding

CHUNK = {"cpu": 2048}  # points at a time: on a processor a degree's block then stays in its cache
CHUNK_ELSEWHERE = 65536


class SphericalHarmonics(PositionalEncoding):
    r"""Real orthonormal spherical harmonics :math:`Y_{lm}` for all degrees below ``degrees``.

    Feature ``l*l + l + m`` holds :math:`Y_{lm}`, without the Condon-Shortley phase:
    :math:`\sqrt2\,\bar P_l^m(\cos\theta)\cos m\lambda` for m > 0, with sine and \|m\| for m < 0, and
    :math:`\bar P_l` for m = 0, where :math:`\bar P` are fully normalised associated Legendre functions and
    :math:`\theta` is the colatitude.

    A Legendre function is a short Fourier series in :math:`\theta` (cosines for even m, sines for odd m, and only
    wavenumbers k <= l of the parity of l):

    .. math:: \bar P_l^m(\cos\theta) = \sum_k c_{lmk} \cos k\theta \quad\text{or}\quad \sum_k c_{lmk} \sin k\theta

    so a degree is one matrix product. The coefficients are found once, in double precision, from the stable
    three-term recurrence (Holmes and Featherstone, 2002, eq. 11); they are of the size of 1, and the series is
    right in single precision too, where expanded polynomials and powers of :math:`\sin\theta` fail.

    Args:
        degrees: number of degrees L >= 1; the encoding has L**2 features. Degree l resolves about
            20,000 / l km.
        decay: weight each degree by (1 + l)**-decay (scaled to keep the mean square), a prior for
            smooth fields: 0 treats a coastline and a continent alike, 1 and more prefers the continent.
    """

    periodic = on_sphere = True

    def __init__(self, degrees: int = 20, decay: float = 0.0) -> None:
        super().__init__()
        if degrees < 1:
            raise ValueError(f"degrees must be at least 1, not {degrees}")
        self.degrees, self.decay, self.dim = degrees, decay, degrees**2
        weight = (1 + torch.arange(degrees, dtype=torch.float64)) ** -decay
        weight /= (weight.square() @ (2 * torch.arange(degrees) + 1.0).double() / self.dim).sqrt()
        blocks = [w * c for w, c in zip(weight, fourier_coefficients(degrees), strict=True)]
        self.register_buffer("coefficients", torch.cat([block.flatten() for block in blocks]), persistent=False)

    def encode(self, lonlat: Tensor, out: Tensor | None = None) -> Tensor:
        """(n, 2) degrees -> (n, degrees**2), of the dtype of ``lonlat``, stored feature by feature.

        Args:
            out: (degrees**2, n), contiguous, to write into; the result is its transpose. Fresh memory costs as
                much as the arithmetic, so reuse it when embedding many batches.
        """
        sizes = [(2 * l + 1) * (l + 1) for l in range(self.degrees)]
        coefficients = self.coefficients.to(lonlat.dtype).split(sizes)
        coefficients = [c.view(2 * l + 1, l + 1) for l, c in enumerate(coefficients)]
        if lonlat.requires_grad and torch.is_grad_enabled():
            return torch.cat(list(self._degrees(lonlat, coefficients))).T
        out = empty(self.dim, len(lonlat), lonlat) if out is None else out
        step = CHUNK.get(lonlat.device.type, CHUNK_ELSEWHERE)
        for start in range(0, len(lonlat), step):
            columns = slice(start, start + step)
            for l, block in enumerate(self._degrees(lonlat[columns], coefficients)):
                out[l * l : (l + 1) ** 2, columns] = block
        return out.T

    def _degrees(self, lonlat: Tensor, coefficients: list[Tensor]) -> Iterator[Tensor]:
        """Blocks (2l + 1, n), degree by degree."""
        top = self.degrees - 1
        k = torch.arange(self.degrees, dtype=lonlat.dtype, device=lonlat.device)[:, None]
        around, down = k * torch.deg2rad(lonlat[:, 0]), k * torch.deg2rad(90 - lonlat[:, 1])
        longitude = torch.cat([around[1:].sin().flip(0), around.cos()])  # orders -top..top
        waves = torch.stack([down.cos(), down.sin()], 1)
        even, odd = (waves[parity::2].flatten(0, 1) for parity in (0, 1))
        even = torch.cat([even[:1], even[2:]])  # no sine of wavenumber 0
        for l, c in enumerate(coefficients):
            latitude = c @ (odd if l % 2 else even)[: l + 1]
            yield latitude * longitude[top - l : top + l + 1]


def fourier_coefficients(degrees: int) -> list[Tensor]:
    """For each degree l, float64 (2l + 1, l + 1): the Fourier series of its Legendre functions, orders -l..l, with the
    factor sqrt(2) of the orders other than 0. Columns are cos k, sin k for k = l mod 2, ..., l, without sin 0."""
    theta = torch.arange(2 * degrees, dtype=torch.float64) * (math.pi / degrees)  # the whole circle
    blocks = []
    for l, values in enumerate(legendre(degrees, theta.cos(), theta.sin())):
        waves = [wave for k in range(l % 2, l + 1, 2) for wave in ((k * theta).cos(), (k * theta).sin())]
        waves = torch.stack(waves if l % 2 else waves[:1] + waves[2:])
        series = values @ waves.T / waves.square().sum(1)
        series[1:] *= math.sqrt(2)
        blocks.append(torch.cat([series[1:].flip(0), series]))
    return blocks


def legendre(degrees: int, x: Tensor, s: Tensor) -> Iterator[Tensor]:
    """Fully normalised associated Legendre functions, degree by degree: (l + 1, n) for orders 0..l.

    x and s are the cosine and sine of the colatitude; s may be negative, which continues the functions over the
    whole circle. Both are (n,).
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


def empty(rows: int, columns: int, like: Tensor) -> Tensor:
    """Uninitialised memory (rows, columns) of the dtype and device of ``like``; NumPy asks for huge pages, which are
    touched sooner."""
    if like.device.type != "cpu":
        return like.new_empty(rows, columns)
    return torch.from_numpy(np.empty((rows, columns), dtype=str(like.dtype).removeprefix("torch.")))
