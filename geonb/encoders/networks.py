"""The learned half of a location encoder: features of a positional encoding to the shared space."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """A linear layer that leaves float32 products on a processor to oneDNN when no gradients are kept. The default
    library, MKL, is half as fast on processors that are not Intel's."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim_in) -> (..., dim): a linear map."""
        if torch.is_grad_enabled() or not onednn_takes(x, self.weight):
            return super().forward(x)
        y = F.linear(self.weight.to_mkldnn(), x).to_dense().T  # the long side is not copied this way round
        return y if self.bias is None else y + self.bias


def onednn_takes(x: Tensor, weight: Tensor) -> bool:
    """Whether x (n, d) times weight (k, d) is a product for oneDNN: many rows in single precision, on a processor."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.ndim == 2
        and len(x) >= 64
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
    )


class Siren(nn.Module):
    """SIREN (Sitzmann et al., 2020) as SatCLIP uses it: sine layers, dropout before the sine, then a linear layer."""

    def __init__(
        self, dim_in: int, dim: int, hidden: int = 512, layers: int = 2, dropout: float = 0.5, w0: float = 30.0
    ) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(Linear(dim_in if i == 0 else hidden, hidden) for i in range(layers))
        self.last, self.dropout, self.w0 = Linear(hidden, dim), nn.Dropout(dropout), w0
        for i, layer in enumerate([*self.hidden, self.last]):
            bound = 1 / layer.in_features if i == 0 else math.sqrt(6 / layer.in_features)
            for parameter in (layer.weight, layer.bias):
                nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """(n, dim_in) -> (n, dim)."""
        for i, layer in enumerate(self.hidden):
            x = torch.sin((self.w0 if i == 0 else 1.0) * self.dropout(layer(x)))
        return self.last(x)


class Residual(nn.Module):
    """A linear map of the encoding plus a correction by an MLP with dropout that starts at zero.

    At the start the embedding is a random projection of the positional encoding, whose cosine is the
    encoding's kernel: near places are alike before anything is learned. Training bends that space, and the
    dropout limits how far single places can bend it.
    """

    def __init__(self, dim_in: int, dim: int, hidden: int = 512, dropout: float = 0.5) -> None:
        super().__init__()
        self.linear = Linear(dim_in, dim, bias=False)
        self.mlp = nn.Sequential(
            Linear(dim_in, hidden), nn.GELU(), nn.Dropout(dropout),
            Linear(hidden, hidden), nn.GELU(), nn.Dropout(dropout), Linear(hidden, dim),
        )  # fmt: skip
        nn.init.normal_(self.linear.weight, std=dim**-0.5)
        nn.init.zeros_(self.mlp[-1].weight)
        nn.init.zeros_(self.mlp[-1].bias)

    def forward(self, x: Tensor) -> Tensor:
        """(n, dim_in) -> (n, dim)."""
        return self.linear(x) + self.mlp(x)


class Capsules(nn.Module):
    """GeoCLIP's hierarchy (Cepeda et al., 2023): the encoding is cut into parts, one per scale; each part has its own
    MLP; the outputs are summed. Parts are equal where they can be."""

    def __init__(self, dim_in: int, dim: int, parts: int = 3, hidden: int = 1024, layers: int = 3) -> None:
        super().__init__()
        if dim_in < parts:
            raise ValueError(f"an encoding of {dim_in} features cannot be cut into {parts} capsules")
        self.widths = [len(part) for part in torch.arange(dim_in).tensor_split(parts)]
        self.capsules = nn.ModuleList()
        for width in self.widths:
            sizes = [width] + [hidden] * layers
            hidden_layers = [m for a, b in zip(sizes, sizes[1:], strict=False) for m in (Linear(a, b), nn.ReLU())]
            self.capsules.append(nn.Sequential(*hidden_layers, Linear(sizes[-1], dim)))

    def forward(self, x: Tensor) -> Tensor:
        """(n, dim_in) -> (n, dim)."""
        return sum(capsule(part) for capsule, part in zip(self.capsules, x.split(self.widths, 1), strict=True))


class FeedForward(nn.Module):
    """CSP's network (Mai et al., 2023): one hidden layer with dropout and layer normalisation, then a layer whose
    output is activated and dropped out too. ``activation``: "leaky_relu" (iNaturalist) or "gelu" (fMoW)."""

    def __init__(
        self, dim_in: int, dim: int, hidden: int = 512, dropout: float = 0.5, activation: str = "leaky_relu"
    ) -> None:
        super().__init__()
        known = {"leaky_relu": lambda: nn.LeakyReLU(0.2), "gelu": nn.GELU}
        if activation not in known:
            raise ValueError(f"unknown activation {activation!r}; choose one of {', '.join(known)}")
        act = known[activation]
        self.layers = nn.Sequential(
            Linear(dim_in, hidden), act(), nn.Dropout(dropout), nn.LayerNorm(hidden),
            Linear(hidden, dim), act(), nn.Dropout(dropout),
        )  # fmt: skip
        for layer in (self.layers[0], self.layers[4]):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(n, dim_in) -> (n, dim)."""
        return self.layers(x)


class MLP(nn.Sequential):
    """One hidden layer with ReLU, as wide as the input: GeoCLIP's head on its image backbone."""

    def __init__(self, dim_in: int, dim: int, hidden: int | None = None) -> None:
        hidden = hidden or dim_in
        super().__init__(Linear(dim_in, hidden), nn.ReLU(), Linear(hidden, dim))
