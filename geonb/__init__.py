"""Multimodal spatial embeddings, bound by position; ``geonb.load(RUN)`` opens a trained run or a shipped model."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from geonb.model import Model

__version__ = "0.2.0"


def load(run: str | Path, device: str = "cpu") -> Model:
    """Load a finished run, or a shipped model by name; see :func:`geonb.model.load`."""
    from geonb.model import load as load_model

    return load_model(run, device)
