"""Location encoders: a positional encoding of (lon, lat), then a neural network.

Both halves are chosen by name and every pair combines::

    encoding = positional_encoding("spherical_harmonics", degrees=20)
    encoder = LocationEncoder(encoding, network("residual", encoding.dim, 256))
    z = encoder(lonlat)          # (n, 2) degrees -> (n, 256), not yet normalised
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from geonb.encoders.harmonics import SphericalHarmonics
from geonb.encoders.networks import MLP, Capsules, FeedForward, Residual, Siren
from geonb.encoders.positional import (
    DFS,
    Cartesian3D,
    Grid,
    PositionalEncoding,
    RandomFourier,
    SphereCPlus,
    SphereMPlus,
    Voronoi,
    Wrap,
)

CHUNK = 4096  # points encoded at a time without gradients; features take several times the memory of the embeddings

ENCODINGS = {
    "spherical_harmonics": SphericalHarmonics,
    "random_fourier": RandomFourier,
    "grid": Grid,
    "sphere_c_plus": SphereCPlus,
    "sphere_m_plus": SphereMPlus,
    "dfs": DFS,
    "wrap": Wrap,
    "cartesian3d": Cartesian3D,
    "voronoi": Voronoi,
}

NETWORKS = {
    "residual": Residual,
    "siren": Siren,
    "capsules": Capsules,
    "feed_forward": FeedForward,
    "mlp": MLP,
    "linear": nn.Linear,
}


def positional_encoding(name: str, **options: Any) -> PositionalEncoding:
    """Make a positional encoding by name: a module with ``.dim`` that maps (n, 2) lon/lat degrees to (n, dim).

    Args:
        name: a key of ``ENCODINGS``.
        options: of its class, for example ``degrees`` of :class:`~geonb.encoders.harmonics.SphericalHarmonics`.

    Raises:
        ValueError: unknown name (the message lists the known ones) or an option out of range.

    Example:
        Three degrees of harmonics are 9 features, and the unit vector is on the z axis at the north pole, whatever the
        longitude:

        >>> import torch
        >>> from geonb.encoders.location import positional_encoding
        >>> positional_encoding("spherical_harmonics", degrees=3).dim
        9
        >>> pole = torch.tensor([[12.0, 90.0]])
        >>> positional_encoding("cartesian3d")(pole).abs().round(decimals=3)
        tensor([[0., 0., 1.]])
    """
    if name not in ENCODINGS:
        raise ValueError(f"unknown positional encoding {name!r}; choose one of {', '.join(ENCODINGS)}")
    return ENCODINGS[name](**options)


def network(name: str, dim_in: int, dim: int, **options: Any) -> nn.Module:
    """Make a network by name that maps an encoding of ``dim_in`` features to ``dim``.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; choose one of {', '.join(NETWORKS)}")
    return NETWORKS[name](dim_in, dim, **options)


class LocationEncoder(nn.Module):
    """Apply a positional encoding, then a network: (n, 2) lon/lat degrees -> (n, dim), not normalised.

    Positions are encoded in the precision they come in, and the features are cast to that of the network.

    Example:
        >>> import torch
        >>> from geonb.encoders.location import LocationEncoder, network, positional_encoding
        >>> encoding = positional_encoding("spherical_harmonics", degrees=10)
        >>> encoder = LocationEncoder(encoding, network("residual", encoding.dim, 64))
        >>> encoder(torch.tensor([[2.35, 48.86], [139.69, 35.69]])).shape  # Paris and Tokyo: longitude first
        torch.Size([2, 64])
    """

    def __init__(self, encoding: PositionalEncoding, net: nn.Module) -> None:
        super().__init__()
        self.encoding, self.network = encoding, net

    def forward(self, lonlat: Tensor) -> Tensor:
        """Map (n, 2) lon/lat degrees to (n, dim), in the dtype of the network; without gradients in chunks."""
        parts = [lonlat] if torch.is_grad_enabled() else lonlat.split(CHUNK)
        dtype = next(self.network.parameters()).dtype
        return torch.cat([self.network(self.encoding(part).to(dtype)) for part in parts])
