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
from geonb.encoders.networks import MLP, Capsules, FeedForward, Linear, Residual, Siren
from geonb.encoders.positional import (
    DFS,
    Cartesian3D,
    Grid,
    PositionalEncoding,
    RandomFourier,
    SphereC,
    SphereCPlus,
    SphereM,
    SphereMPlus,
    Theory,
    Voronoi,
    Wrap,
)

CHUNK, CHUNK_ELSEWHERE = 1024, 65536  # points embedded at a time without gradients, on a processor and elsewhere

ENCODINGS = {
    "spherical_harmonics": SphericalHarmonics,
    "random_fourier": RandomFourier,
    "grid": Grid,
    "theory": Theory,
    "sphere_c": SphereC,
    "sphere_c_plus": SphereCPlus,
    "sphere_m": SphereM,
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
    "linear": Linear,
}


def positional_encoding(name: str, **options: Any) -> PositionalEncoding:
    """A positional encoding by name: a module with ``.dim`` that maps (n, 2) lon/lat degrees to (n, dim).

    Raises:
        ValueError: unknown name (the message lists the known ones) or a senseless option.

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
    """A network by name that maps an encoding of ``dim_in`` features to ``dim``.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; choose one of {', '.join(NETWORKS)}")
    return NETWORKS[name](dim_in, dim, **options)


class LocationEncoder(nn.Module):
    """Positional encoding, then network: (n, 2) lon/lat degrees -> (n, dim), not normalised.

    Positions are encoded in the precision they come in, and cast to the network's after it. Without gradients the
    points pass through in chunks, so the features of all of them are never in memory at once.

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
        """(n, 2) lon/lat degrees -> (n, dim), of the dtype of the network, not normalised."""
        size = CHUNK if lonlat.device.type == "cpu" else CHUNK_ELSEWHERE
        if torch.is_grad_enabled() or len(lonlat) <= size:
            return self._embed(lonlat)
        out = None
        for start in range(0, len(lonlat), size):
            part = self._embed(lonlat[start : start + size])
            out = part.new_empty(len(lonlat), part.shape[1]) if out is None else out
            out[start : start + size] = part
        return out

    def _embed(self, lonlat: Tensor) -> Tensor:
        return self.network(self.encoding(lonlat).to(next(self.network.parameters()).dtype))
