"""The learned half of an encoder: networks from the features of an encoding, or of a backbone, to the shared space.

Each maps (n, dim_in) to (n, dim) and knows nothing of where its features come from. Larger ``hidden`` and ``layers``
fit more detail and overfit sooner.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

FREQUENCY = 30.0  # of the first sine layer


class Siren(nn.Module):
    """Apply sine layers with dropout before the sine, then a linear layer, as SatCLIP does.

    Source: Sitzmann et al. (2020), SIREN; initialisation as there.
    """

    def __init__(self, dim_in: int, dim: int, hidden: int = 512, layers: int = 2, dropout: float = 0.5) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(nn.Linear(dim_in if i == 0 else hidden, hidden) for i in range(layers))
        self.last, self.dropout = nn.Linear(hidden, dim), nn.Dropout(dropout)
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
    """Add a correction by an MLP with dropout, zero at the start, to a linear map of the encoding.

    At the start the embedding is a random projection of the encoding, and its cosine is the encoding's kernel: nearby
    places are similar before anything is learned.
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
    """Cut the encoding into three parts, one per scale, give each part its own MLP, and sum the outputs.

    Parts are of equal width where ``dim_in`` allows it. Source: GeoCLIP (Cepeda et al., 2023).
    """

    def __init__(self, dim_in: int, dim: int, hidden: int = 1024, layers: int = 3) -> None:
        super().__init__()
        self.widths = [len(part) for part in torch.arange(dim_in).tensor_split(3)]
        self.capsules = nn.ModuleList()
        for width in self.widths:
            hidden_layers = [nn.Linear(width, hidden), nn.ReLU()]
            for _ in range(layers - 1):
                hidden_layers += [nn.Linear(hidden, hidden), nn.ReLU()]
            self.capsules.append(nn.Sequential(*hidden_layers, nn.Linear(hidden, dim)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, dim_in) to (n, dim)."""
        return sum(capsule(part) for capsule, part in zip(self.capsules, x.split(self.widths, 1), strict=True))


class FeedForward(nn.Module):
    """Apply one hidden layer with dropout and layer normalisation, then a layer with activation and dropout.

    Source: CSP (Mai et al., 2023).

    Args:
        gelu: use GELU, as CSP on fMoW, instead of leaky ReLU, as CSP on iNaturalist.
    """

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
    """Apply one hidden layer with ReLU, as wide as the input: GeoCLIP's head on its image backbone."""

    def __init__(self, dim_in: int, dim: int) -> None:
        super().__init__(nn.Linear(dim_in, dim_in), nn.ReLU(), nn.Linear(dim_in, dim))
