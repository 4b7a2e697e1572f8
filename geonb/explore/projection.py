"""Embedding spaces in two dimensions."""

from __future__ import annotations

import numpy as np


def project(embeddings, method: str = "umap", seed: int = 0, neighbors: int = 15, min_dist: float = 0.1) -> np.ndarray:
    """Embeddings (n, d) -> coordinates float32 (n, 2), the same for the same seed.

    Args:
        embeddings: unit vectors; "umap" compares them by the cosine.
        method: "umap" (McInnes et al., 2018) keeps neighbourhoods and little else: distances and sizes of clusters
            mean nothing. "pca" keeps the two directions of largest variance.
        seed, neighbors, min_dist: of UMAP.

    Raises:
        ValueError: unknown method, fewer than 4 rows, or values that are not finite.
    """
    z = np.asarray(embeddings, np.float32)
    if z.ndim != 2 or len(z) < 4 or not np.isfinite(z).all():
        raise ValueError(f"give at least 4 finite embeddings of shape (n, d), not {z.shape}")
    if method == "pca":
        return principal_components(z, 2)
    if method != "umap":
        raise ValueError(f"unknown method {method!r}; choose umap or pca")
    import warnings

    from umap import UMAP

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="n_jobs value")  # a fixed seed runs on one thread; that is meant
        reducer = UMAP(n_neighbors=min(neighbors, len(z) - 1), min_dist=min_dist, metric="cosine", random_state=seed)
        return reducer.fit_transform(z).astype(np.float32)


def principal_components(values, count: int) -> np.ndarray:
    """Scores (n, count) on the first principal components; signs are fixed, so the result can be repeated."""
    z = np.asarray(values, np.float64)
    z = z - z.mean(0)
    _, vectors = np.linalg.eigh(z.T @ z)
    axes = vectors[:, ::-1][:, :count]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(count)])
    return (z @ axes).astype(np.float32)


def as_colours(embeddings) -> np.ndarray:
    """Colours (n, 3) in [0, 1] from the first three principal components, each stretched over its 2nd to 98th
    percentile: places alike in the embedding get like colours."""
    scores = principal_components(embeddings, 3)
    low, high = np.percentile(scores, [2, 98], axis=0)
    return np.clip((scores - low) / np.maximum(high - low, 1e-12), 0, 1)
