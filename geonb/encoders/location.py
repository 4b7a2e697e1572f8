"""Location encoders: a fixed positional encoding of (lon, lat), then a neural network.

Both halves are chosen by name and every pair combines::

    encoding = positional_encoding("spherical_harmonics", degrees=20)
    encoder = LocationEncoder(encoding, network("residual", encoding.dim, 256))
    z = encoder(lonlat)          # (n, 2) degrees -> (n, 256), not yet normalised
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class SphericalHarmonics(nn.Module):
    r"""Real orthonormal spherical harmonics :math:`Y_{lm}` for all degrees below ``degrees``.

    Feature ``l*l + l + m`` holds :math:`Y_{lm}`, without the Condon-Shortley phase:
    :math:`\sqrt2\,\bar P_l^m(\sin\varphi)\cos m\lambda` for m > 0, with sine and \|m\| for m < 0, and
    :math:`\bar P_l` for m = 0, where :math:`\bar P` are fully normalised associated Legendre functions.
    They come from the three-term recurrence in l (Holmes and Featherstone, 2002, eq. 11), which is stable
    in float32; expanded polynomials are not.

    Args:
        degrees: number of degrees L >= 1; the encoding has L**2 features. Degree l resolves about
            20,000 / l km.
        decay: weight each degree by (1 + l)**-decay (scaled to keep the mean square), a prior for
            smooth fields: 0 treats a coastline and a continent alike, 1 and more prefers the continent.
    """

    def __init__(self, degrees: int = 20, decay: float = 0.0):
        super().__init__()
        if degrees < 1:
            raise ValueError(f"degrees must be at least 1, not {degrees}")
        self.degrees, self.decay, self.dim = degrees, decay, degrees**2
        degree = torch.arange(degrees, dtype=torch.float64).repeat_interleave(2 * torch.arange(degrees) + 1)
        weight = (1 + degree) ** -decay
        self.register_buffer("weight", weight / weight.square().mean().sqrt(), persistent=False)

    def forward(self, lonlat: Tensor) -> Tensor:
        """(n, 2) degrees -> (n, degrees**2), of the dtype of ``lonlat``."""
        lon, lat = torch.deg2rad(lonlat).unbind(-1)
        x, s = lat.sin(), lat.cos()
        orders = torch.arange(self.degrees, dtype=lonlat.dtype, device=lonlat.device)[:, None]
        cos, sin = (orders * lon).cos(), (orders * lon).sin()  # (L, n)

        rows, before, last = [], None, None
        for l in range(self.degrees):
            if l == 0:
                row = torch.full_like(x, math.sqrt(1 / (4 * math.pi)))[None]
            else:
                sectoral = math.sqrt((2 * l + 1) / (2 * l)) * s * last[l - 1]
                row = (math.sqrt(2 * l + 1) * x * last[l - 1])[None]
                if l >= 2:
                    m = orders[: l - 1]
                    a = ((4 * l * l - 1) / (l * l - m * m)).sqrt()
                    b = (((l - 1) ** 2 - m * m) / (4 * (l - 1) ** 2 - 1)).sqrt()
                    row = torch.cat([a * (x * last[: l - 1] - b * before), row])
                row = torch.cat([row, sectoral[None]])
            # row: fully normalised Legendre functions of degree l, orders 0..l, shape (l + 1, n)
            positive = math.sqrt(2) * row[1:]
            rows.append(torch.cat([(positive * sin[1 : l + 1]).flip(0), row[:1], positive * cos[1 : l + 1]]))
            before, last = (last, row) if last is not None else (row[:0], row)
        return torch.cat(rows).T * self.weight.to(lonlat.dtype)


class RandomFourier(nn.Module):
    """Random Fourier features of the Equal Earth plane at several scales (GeoCLIP, Cepeda et al., 2023).

    For each scale s: [cos 2*pi*B v, sin 2*pi*B v] with rows of B drawn from N(0, s**2) and v the Equal
    Earth projection (Savric et al., 2019) scaled to x in [-1, 1]. As a plane is cut at the antimeridian, so
    is this encoding.

    Args:
        scales: standard deviations of the frequencies, in cycles per half a turn of longitude.
        features: number of random frequencies per scale; the encoding has 2 * features * len(scales).
        seed: of the frequencies.
    """

    def __init__(self, scales: tuple[float, ...] = (1.0, 16.0, 256.0), features: int = 256, seed: int = 0):
        super().__init__()
        if not scales or min(scales) <= 0:
            raise ValueError(f"scales must be positive, not {scales}")
        generator = torch.Generator().manual_seed(seed)
        frequencies = [scale * torch.randn(features, 2, generator=generator) for scale in scales]
        self.register_buffer("frequencies", torch.cat(frequencies), persistent=False)
        self.scales, self.dim = tuple(scales), 2 * features * len(scales)

    def forward(self, lonlat: Tensor) -> Tensor:
        angle = 2 * math.pi * equal_earth(lonlat) @ self.frequencies.to(lonlat.dtype).T
        parts = angle.chunk(len(self.scales), -1)
        return torch.cat([f(part) for part in parts for f in (torch.cos, torch.sin)], -1)


class Grid(nn.Module):
    """Space2Vec "grid": sine and cosine of lon and lat at geometric scales (Mai et al., 2020; CSP, 2023).

    Wavelengths run from ``max_degrees`` down to ``min_degrees``: feature pairs are
    sin and cos of 2*pi * coordinate / wavelength.
    """

    def __init__(self, scales: int = 32, min_degrees: float = 0.1, max_degrees: float = 360.0):
        super().__init__()
        if not 0 < min_degrees < max_degrees or scales < 2:
            raise ValueError("grid needs at least two scales and 0 < min_degrees < max_degrees")
        wavelengths = torch.logspace(math.log10(max_degrees), math.log10(min_degrees), scales, dtype=torch.float64)
        self.register_buffer("frequencies", 2 * math.pi / wavelengths, persistent=False)
        self.dim = 4 * scales

    def forward(self, lonlat: Tensor) -> Tensor:
        angle = (lonlat[..., None] * self.frequencies.to(lonlat.dtype)).flatten(-2)
        return torch.cat([angle.sin(), angle.cos()], -1)


class Wrap(nn.Module):
    """Sine and cosine of lon and of lat (Mac Aodha et al., 2019): four features, one scale."""

    dim = 4

    def forward(self, lonlat: Tensor) -> Tensor:
        angle = lonlat * lonlat.new_tensor([math.pi / 180, math.pi / 90])
        return torch.cat([angle.sin(), angle.cos()], -1)


class Cartesian3D(nn.Module):
    """The unit vector of the position: three features, continuous everywhere on the sphere."""

    dim = 3

    def forward(self, lonlat: Tensor) -> Tensor:
        lon, lat = torch.deg2rad(lonlat).unbind(-1)
        return torch.stack([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()], -1)


def equal_earth(lonlat: Tensor) -> Tensor:
    """Equal Earth projection (n, 2) degrees -> (n, 2), x in [-1, 1] (Savric, Patterson and Jenny, 2019)."""
    a1, a2, a3, a4 = 1.340264, -0.081106, 0.000893, 0.003796
    lon, lat = torch.deg2rad(lonlat).unbind(-1)
    theta = torch.asin(math.sqrt(3) / 2 * lat.sin())
    t2 = theta * theta
    t6 = t2 * t2 * t2
    x = 2 * math.sqrt(3) / 3 * lon * theta.cos() / (a1 + 3 * a2 * t2 + t6 * (7 * a3 + 9 * a4 * t2))
    y = theta * (a1 + a2 * t2 + t6 * (a3 + a4 * t2))
    half_width = 2 * math.sqrt(3) / 3 * math.pi / a1
    return torch.stack([x, y], -1) / half_width


ENCODINGS = {
    "spherical_harmonics": SphericalHarmonics,
    "random_fourier": RandomFourier,
    "grid": Grid,
    "wrap": Wrap,
    "cartesian3d": Cartesian3D,
}


def positional_encoding(name: str, **options) -> nn.Module:
    """A positional encoding by name: a module with ``.dim`` that maps (n, 2) lon/lat degrees to (n, dim).

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    if name not in ENCODINGS:
        raise ValueError(f"unknown positional encoding {name!r}; choose one of {', '.join(ENCODINGS)}")
    return ENCODINGS[name](**options)


class Siren(nn.Module):
    """SIREN (Sitzmann et al., 2020) as SatCLIP uses it: sine layers with dropout, then a linear layer."""

    def __init__(
        self, dim_in: int, dim: int, hidden: int = 256, layers: int = 2, dropout: float = 0.5, w0: float = 30.0
    ):
        super().__init__()
        self.hidden = nn.ModuleList(nn.Linear(dim_in if i == 0 else hidden, hidden) for i in range(layers))
        self.last, self.dropout, self.w0 = nn.Linear(hidden, dim), nn.Dropout(dropout), w0
        for i, layer in enumerate([*self.hidden, self.last]):
            bound = 1 / layer.in_features if i == 0 else math.sqrt(6 / layer.in_features)
            for parameter in (layer.weight, layer.bias):
                nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.hidden):
            x = torch.sin((self.w0 if i == 0 else 1.0) * self.dropout(layer(x)))
        return self.last(x)


class Residual(nn.Module):
    """A linear map of the encoding plus a correction by an MLP with dropout that starts at zero.

    At the start the embedding is a random projection of the positional encoding, whose cosine is the
    encoding's kernel: near places are alike before anything is learned. Training bends that space, and the
    dropout limits how far single places can bend it.
    """

    def __init__(self, dim_in: int, dim: int, hidden: int = 512, dropout: float = 0.5):
        super().__init__()
        self.linear = nn.Linear(dim_in, dim, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(dim_in, hidden), nn.GELU(), nn.Dropout(dropout),
            nn.Linear(hidden, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim),
        )  # fmt: skip
        nn.init.normal_(self.linear.weight, std=dim**-0.5)
        nn.init.zeros_(self.mlp[-1].weight)
        nn.init.zeros_(self.mlp[-1].bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.mlp(x)


class Capsules(nn.Module):
    """GeoCLIP's hierarchy: the encoding is cut into equal parts, one per scale; each part has its own MLP;
    the outputs are summed."""

    def __init__(self, dim_in: int, dim: int, parts: int = 3, hidden: int = 256):
        super().__init__()
        if dim_in % parts:
            raise ValueError(f"an encoding of {dim_in} features cannot be cut into {parts} equal capsules")
        self.capsules = nn.ModuleList(
            nn.Sequential(nn.Linear(dim_in // parts, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
                          nn.Linear(hidden, dim))
            for _ in range(parts)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return sum(capsule(part) for capsule, part in zip(self.capsules, x.chunk(len(self.capsules), -1), strict=True))


class FeedForward(nn.Module):
    """CSP's network: one hidden layer with dropout and layer normalisation, activation on the output too."""

    def __init__(self, dim_in: int, dim: int, hidden: int = 512, dropout: float = 0.5):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dim_in, hidden), nn.LeakyReLU(0.2), nn.Dropout(dropout), nn.LayerNorm(hidden),
            nn.Linear(hidden, dim), nn.LeakyReLU(0.2), nn.Dropout(dropout),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


NETWORKS = {"residual": Residual, "siren": Siren, "capsules": Capsules, "feed_forward": FeedForward}


def network(name: str, dim_in: int, dim: int, **options) -> nn.Module:
    """A network by name that maps an encoding of ``dim_in`` features to ``dim``.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; choose one of {', '.join(NETWORKS)}")
    return NETWORKS[name](dim_in, dim, **options)


class LocationEncoder(nn.Module):
    """Positional encoding, then network: (n, 2) lon/lat degrees -> (n, dim), not normalised.

    Positions are encoded in float64 when they come so, and cast to the network's precision after it.
    """

    def __init__(self, encoding: nn.Module, net: nn.Module):
        super().__init__()
        self.encoding, self.network = encoding, net

    def forward(self, lonlat: Tensor) -> Tensor:
        return self.network(self.encoding(lonlat).to(next(self.network.parameters()).dtype))
