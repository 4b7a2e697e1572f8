"""Networks from features (n, dim_in) to embeddings (n, dim), the learned half of an encoder.

Larger ``hidden`` and ``layers`` fit more detail and overfit sooner.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

FREQUENCY = 30.0  # of the first sine layer


class Siren(nn.Module):
    """Apply sine layers, with dropout before the sine as in SatCLIP (Sitzmann et al., 2020)."""

    def __init__(self, dim_in: int, dim: int, hidden: int = 512, layers: int = 2, dropout: float = 0.5) -> None:
        super().__init__()
        widths = [dim_in, *[hidden] * layers]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.last, self.dropout = nn.Linear(widths[-1], dim), nn.Dropout(dropout)
        for i, layer in enumerate([*self.hidden, self.last]):
            bound = 1 / layer.in_features if i == 0 else math.sqrt(6 / layer.in_features)
            for parameter in (layer.weight, layer.bias):
                nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, dim_in) to (n, dim)."""
        for i, layer in enumerate(self.hidden):
            x = torch.sin((FREQUENCY if i == 0 else 1.0) * self.dropout(layer(x)))
        return self.last(x)


class Residual(nn.Module):
    """Add an MLP with dropout, which is zero at the start, to a linear map of the encoding.

    So nearby places are similar before anything is learned.
    """

    def __init__(self, dim_in: int, dim: int, hidden: int = 512, dropout: float = 0.5) -> None:
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
        """Map (n, dim_in) to (n, dim)."""
        return self.linear(x) + self.mlp(x)


class Capsules(nn.Module):
    """Give each third of the encoding its own MLP, and sum the outputs (Cepeda et al., 2023)."""

    def __init__(self, dim_in: int, dim: int, hidden: int = 1024, layers: int = 3) -> None:
        super().__init__()
        self.widths = [len(part) for part in torch.arange(dim_in).tensor_split(3)]
        self.capsules = nn.ModuleList()
        for width in self.widths:
            parts: list[nn.Module] = []
            widths = [width, *[hidden] * layers]
            for a, b in pairwise(widths):
                parts += [nn.Linear(a, b), nn.ReLU()]
            self.capsules.append(nn.Sequential(*parts, nn.Linear(widths[-1], dim)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, dim_in) to (n, dim)."""
        parts = zip(self.capsules, x.split(self.widths, 1), strict=True)
        return sum(capsule(part) for capsule, part in parts)


class FeedForward(nn.Module):
    """Apply two layers with leaky ReLU or GELU, dropout and a normalisation (Mai et al., 2023)."""

    def __init__(self, dim_in: int, dim: int, hidden: int = 512, dropout: float = 0.5, gelu: bool = False) -> None:
        super().__init__()
        activation = nn.GELU() if gelu else nn.LeakyReLU(0.2)
        self.layers = nn.Sequential(
            nn.Linear(dim_in, hidden), activation, nn.Dropout(dropout), nn.LayerNorm(hidden),
            nn.Linear(hidden, dim), activation, nn.Dropout(dropout),
        )  # fmt: skip
        for layer in (self.layers[0], self.layers[4]):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, dim_in) to (n, dim)."""
        return self.layers(x)


class MLP(nn.Sequential):
    """Apply one hidden layer with ReLU, as wide as the input, as GeoCLIP does on its images."""

    def __init__(self, dim_in: int, dim: int) -> None:
        super().__init__(nn.Linear(dim_in, dim_in), nn.ReLU(), nn.Linear(dim_in, dim))
