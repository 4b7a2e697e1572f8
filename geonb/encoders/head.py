"""The trainable half of a text or image encoder, on top of frozen features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from geonb.encoders.location import network


class Head(nn.Module):
    """Standardise features (n, d_m), then map them by a network to (n, dim).

    ``network_name`` and ``options`` are those of :func:`geonb.encoders.location.network`.
    """

    def __init__(self, dim_in: int, dim: int, network_name: str = "residual", **options: Any) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim_in))
        self.register_buffer("std", torch.ones(dim_in))
        self.network = network(network_name, dim_in, dim, **options)

    def standardise_by(self, features: Tensor) -> None:
        """Take mean and deviation of training features (n, d_m); 1 for constant columns."""
        spread = features.std(0, correction=0)
        self.mean.copy_(features.mean(0))
        self.std.copy_(torch.where(spread > 1e-6, spread, torch.ones_like(spread)))

    def forward(self, features: Tensor) -> Tensor:
        """Map (n, d_m) to (n, dim), not normalised."""
        return self.network((features - self.mean) / self.std)
