"""The trainable half of a text or image encoder, on top of the features of a frozen backbone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from geonb.encoders.location import network


class Head(nn.Module):
    """Standardise backbone features (n, d_m), then map them to the shared space (n, dim) by a network.

    The mean and the standard deviation are those of the training features; they are saved with the weights.

    Args:
        network_name, options: of the network, see :func:`geonb.encoders.location.network`.
    """

    def __init__(self, dim_in: int, dim: int, network_name: str = "residual", **options: Any) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim_in))
        self.register_buffer("std", torch.ones(dim_in))
        self.network = network(network_name, dim_in, dim, **options)

    def standardise_by(self, features: Tensor) -> None:
        """Take mean and standard deviation from training features (n, d_m); constant columns keep a deviation of 1."""
        spread = features.std(0, correction=0)
        self.mean.copy_(features.mean(0))
        self.std.copy_(torch.where(spread > 1e-6, spread, torch.ones_like(spread)))

    def forward(self, features: Tensor) -> Tensor:
        """Map (n, d_m) to (n, dim), not normalised."""
        return self.network((features - self.mean) / self.std)
