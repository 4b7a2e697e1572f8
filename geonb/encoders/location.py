"""Location encoders: a positional encoding of (lon, lat), then a network. Any pair combines."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from geonb.encoders import networks, positional
from geonb.encoders.harmonics import SphericalHarmonics

CHUNK = 4096  # points at a time without gradients; features take more memory than embeddings

ENCODINGS = {
    "spherical_harmonics": SphericalHarmonics,
    "random_fourier": positional.RandomFourier,
    "grid": positional.Grid,
    "sphere_c_plus": positional.SphereCPlus,
    "sphere_m_plus": positional.SphereMPlus,
    "dfs": positional.DFS,
    "wrap": positional.Wrap,
    "cartesian3d": positional.Cartesian3D,
    "voronoi": positional.Voronoi,
}

NETWORKS = {
    "residual": networks.Residual,
    "siren": networks.Siren,
    "capsules": networks.Capsules,
    "feed_forward": networks.FeedForward,
    "mlp": networks.MLP,
    "linear": nn.Linear,
}


def positional_encoding(name: str, **options: Any) -> positional.PositionalEncoding:
    """Make a positional encoding, a key of ``ENCODINGS``, with the options of its class.

    It maps (n, 2) lon/lat degrees to (n, ``.dim``). Only "spherical_harmonics", "cartesian3d" and
    "voronoi" give a pole one vector whatever the longitude. Raises ValueError for an unknown name
    or an option out of range.
    """
    if name not in ENCODINGS:
        raise ValueError(f"unknown encoding {name!r}; choose one of {', '.join(ENCODINGS)}")
    return ENCODINGS[name](**options)


def network(name: str, dim_in: int, dim: int, **options: Any) -> nn.Module:
    """Make a network, (n, dim_in) to (n, dim), by name; raises ValueError for an unknown one."""
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; choose one of {', '.join(NETWORKS)}")
    return NETWORKS[name](dim_in, dim, **options)


class LocationEncoder(nn.Module):
    """Apply a positional encoding, in the precision of the input, then a network.

    Example:
        >>> import torch
        >>> from geonb.encoders.location import LocationEncoder, network, positional_encoding
        >>> encoding = positional_encoding("spherical_harmonics", degrees=10)
        >>> encoder = LocationEncoder(encoding, network("residual", encoding.dim, 64))
        >>> encoder(torch.tensor([[2.35, 48.86], [139.69, 35.69]])).shape  # longitude first
        torch.Size([2, 64])
    """

    def __init__(self, encoding: positional.PositionalEncoding, net: nn.Module) -> None:
        super().__init__()
        self.encoding, self.network = encoding, net

    def forward(self, lonlat: Tensor) -> Tensor:
        """Map (n, 2) lon/lat degrees to (n, dim), in the dtype of the network."""
        parts = [lonlat] if torch.is_grad_enabled() else lonlat.split(CHUNK)
        dtype = next(self.network.parameters()).dtype
        return torch.cat([self.network(self.encoding(part).to(dtype)) for part in parts])
