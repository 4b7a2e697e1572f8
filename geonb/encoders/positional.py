"""Positional encodings: (lon, lat) in degrees to features."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class PositionalEncoding(nn.Module, ABC):
    """Encode (n, 2) lon/lat degrees as (n, ``dim``), of the dtype and device of the input.

    :meth:`encode` runs in float32 at least: a thousand radians mean nothing in bfloat16.
    """

    dim: int

    def forward(self, lonlat: Tensor) -> Tensor:
        """Encode positions; raises ValueError for anything but floating-point degrees (n, 2)."""
        if lonlat.ndim != 2 or lonlat.shape[1] != 2 or not lonlat.is_floating_point():
            raise ValueError(f"give floating-point degrees (n, 2), not {lonlat.dtype} {(*lonlat.shape,)}")
        with torch.autocast(lonlat.device.type, enabled=False):
            wide = lonlat if lonlat.dtype.itemsize >= 4 else lonlat.float()
            return self.encode(wide).to(lonlat.dtype)

    @abstractmethod
    def encode(self, lonlat: Tensor) -> Tensor:
        """Encode lon/lat degrees (n, 2), float32 or float64, as (n, ``dim``)."""


class _MultiScale(PositionalEncoding):
    """Share the frequencies 1 / r of waves, with geometrically growing radii r.

    Args:
        scales: number of radii, at least 2; more of them resolve more sizes.
        min_radius, max_radius: in units of the coordinates; smaller radii resolve finer detail.
    """

    def __init__(self, scales: int = 32, min_radius: float = 1e-3, max_radius: float = 1.0) -> None:
        super().__init__()
        if scales < 2 or not 0 < min_radius < max_radius:
            raise ValueError("give at least 2 scales and 0 < min_radius < max_radius")
        exponents = math.log10(min_radius), math.log10(max_radius)
        radii = torch.logspace(*exponents, scales, dtype=torch.float64)
        self.register_buffer("frequencies", 1 / radii, persistent=False)
        self.dim = self.encode(torch.zeros(1, 2)).shape[1]

    def angles(self, lonlat: Tensor) -> tuple[Tensor, Tensor]:
        """Divide lon and lat, columns of (n, 2), by each radius: radians, two arrays (n, scales)."""
        frequencies = self.frequencies.to(lonlat.dtype)
        return lonlat[:, :1] * frequencies, lonlat[:, 1:] * frequencies


class Grid(_MultiScale):
    """Take sin(lon/r), sin(lat/r), cos(lon/r), cos(lat/r), radii in degrees (Mai et al., 2020)."""

    def __init__(self, scales: int = 32, min_radius: float = 0.1, max_radius: float = 360.0) -> None:
        super().__init__(scales, min_radius, max_radius)

    def encode(self, lonlat: Tensor) -> Tensor:
        angle = torch.cat(self.angles(lonlat), 1)
        return torch.cat([angle.sin(), angle.cos()], 1)


class SphereCPlus(_MultiScale):
    """Take the unit vector of both angles divided by r (radians), and "grid" (Mai et al., 2023)."""

    def encode(self, lonlat: Tensor) -> Tensor:
        lon, lat = self.angles(torch.deg2rad(lonlat))
        vector = [lat.sin(), lat.cos() * lon.cos(), lat.cos() * lon.sin()]
        return torch.cat([*vector, lat.cos(), lon.sin(), lon.cos()], 1)


class SphereMPlus(_MultiScale):
    """Take unit vectors with one angle divided by r (radians), and "grid" (Mai et al., 2023)."""

    def encode(self, lonlat: Tensor) -> Tensor:
        lon, lat = torch.deg2rad(lonlat).split(1, 1)
        lon_r, lat_r = self.angles(torch.deg2rad(lonlat))
        cosines = [lat_r.cos() * lon.cos(), lat.cos() * lon_r.cos()]
        sines = [lat_r.cos() * lon.sin(), lat.cos() * lon_r.sin()]
        grid = [lat_r.cos(), lon_r.sin(), lon_r.cos()]
        return torch.cat([lat_r.sin(), *cosines, *sines, *grid], 1)


class DFS(_MultiScale):
    """Take waves of lat times waves of lon, at all pairs of radii, and "grid" (Mai et al., 2023)."""

    def __init__(self, scales: int = 8, min_radius: float = 1e-2, max_radius: float = 1.0) -> None:
        super().__init__(scales, min_radius, max_radius)

    def encode(self, lonlat: Tensor) -> Tensor:
        lon, lat = self.angles(torch.deg2rad(lonlat))
        waves = (torch.sin, torch.cos)
        pairs = [f(lat)[:, :, None] * g(lon)[:, None] for f in waves for g in waves]
        pairs = [pair.flatten(1) for pair in pairs]
        return torch.cat([*pairs, lon.sin(), lat.sin(), lon.cos(), lat.cos()], 1)


class Wrap(PositionalEncoding):
    """Take sines, then cosines, of pi lon/180 and pi lat/90 (Mac Aodha et al., 2019)."""

    dim = 4

    def encode(self, lonlat: Tensor) -> Tensor:
        angle = lonlat * lonlat.new_tensor([math.pi / 180, math.pi / 90])
        return torch.cat([angle.sin(), angle.cos()], 1)


class Cartesian3D(PositionalEncoding):
    """Take the unit vector (cos lat cos lon, cos lat sin lon, sin lat) (Rußwurm et al., 2024)."""

    dim = 3

    def encode(self, lonlat: Tensor) -> Tensor:
        lon, lat = torch.deg2rad(lonlat).unbind(1)
        return torch.stack([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()], 1)


class RandomFourier(PositionalEncoding):
    """Take random Fourier features of the Equal Earth plane (GeoCLIP, Cepeda et al., 2023).

    The plane is cut at longitude 180, and so is this encoding.

    Args:
        scales: deviations of the frequencies, in cycles per half a turn; larger ones are finer.
        features: number of frequencies per scale, each with a cosine and a sine.
    """

    def __init__(self, scales: tuple[float, ...] = (1.0, 16.0, 256.0), features: int = 256) -> None:
        super().__init__()
        if min(scales) <= 0 or features < 1:
            raise ValueError("scales must be positive, and features at least 1")
        generator = torch.Generator().manual_seed(0)
        frequencies = [scale * torch.randn(features, 2, generator=generator) for scale in scales]
        self.register_buffer("frequencies", torch.cat(frequencies))
        self.scales, self.dim = tuple(scales), 2 * features * len(scales)

    def encode(self, lonlat: Tensor) -> Tensor:
        angle = 2 * math.pi * equal_earth(lonlat) @ self.frequencies.to(lonlat.dtype).T
        parts = angle.chunk(len(self.scales), 1)
        return torch.cat([f(part) for part in parts for f in (torch.cos, torch.sin)], 1)


def equal_earth(lonlat: Tensor) -> Tensor:
    """Project (n, 2) degrees by Equal Earth to (n, 2), x in [-1, 1] (Savric et al., 2019)."""
    # Order and rounding are GeoCLIP's, whose frequencies make the last place of float32 visible.
    a1, a2, a3, a4 = 1.340264, -0.081106, 0.000893, 0.003796
    lon, lat = torch.deg2rad(lonlat).unbind(-1)
    theta = torch.asin(math.sqrt(3) / 2 * lat.sin())
    slope = 9 * a4 * theta**8 + 7 * a3 * theta**6 + 3 * a2 * theta**2 + a1
    x = 2 * math.sqrt(3) * lon * theta.cos() / (3 * slope)
    y = a4 * theta**9 + a3 * theta**7 + a2 * theta**3 + a1 * theta
    return torch.stack([x, y], -1) * 66.50336 / 180


class Voronoi(PositionalEncoding):
    r"""Take the soft membership in the cells of learnable sites (Cher et al., 2026).

    .. math:: z(x) = \sum_k e_k\, \mathrm{softmax}_k(\kappa_k\, x \cdot s_k)

    Sites s_k, sharpness kappa_k and embeddings e_k are learned. At the start the sites form a
    Fibonacci lattice, and a site's neighbours weigh about exp(-4).

    Args:
        sites: number of cells, at least 2; more of them resolve finer detail.
        dim: features per site.
    """

    def __init__(self, sites: int = 1024, dim: int = 256) -> None:
        super().__init__()
        if sites < 2:
            raise ValueError(f"sites must be at least 2, not {sites}")
        k = torch.arange(sites, dtype=torch.float64)
        height, turn = 1 - (2 * k + 1) / sites, k * math.pi * (3 - math.sqrt(5))
        ring = (1 - height.square()).sqrt()
        lattice = torch.stack([ring * turn.cos(), ring * turn.sin(), height], 1)
        self.sites = nn.Parameter(lattice.float())
        self.log_sharpness = nn.Parameter(torch.full((sites,), math.log(2 * sites / math.pi)))
        generator = torch.Generator().manual_seed(0)
        self.embedding = nn.Parameter(torch.randn(sites, dim, generator=generator))
        self.dim = dim

    def encode(self, lonlat: Tensor) -> Tensor:
        dtype = lonlat.dtype
        sites = nn.functional.normalize(self.sites.to(dtype), dim=1)
        sharpness = self.log_sharpness.to(dtype).exp()
        logits = Cartesian3D().encode(lonlat) @ sites.T * sharpness
        return logits.softmax(1) @ self.embedding.to(dtype)
