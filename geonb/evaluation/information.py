"""How much an embedding space holds, and how two of them compare."""

from __future__ import annotations

import numpy as np


def effective_rank(embeddings) -> float:
    """RankMe (Garrido et al., 2023): exp of the entropy of the normalised singular values of (n, d) embeddings.

    Between 1 (all on a line) and d (spread evenly over all directions).
    """
    z = np.asarray(embeddings, np.float64)
    squared = np.linalg.eigvalsh(z.T @ z if z.shape[0] > z.shape[1] else z @ z.T)
    singular = np.sqrt(squared[squared > squared.max() * 1e-14])  # smaller ones are rounding
    share = singular / singular.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def alignment(a, b) -> float:
    """Mean squared distance between paired unit vectors (n, d): 0 is perfect, 2 is chance (Wang and Isola, 2020)."""
    return float(((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2).sum(1).mean())


def uniformity(embeddings, limit: int = 4000, seed: int = 0) -> float:
    """log E exp(-2 |x - y|^2) over pairs of unit vectors (Wang and Isola, 2020): 0 if all coincide.

    At most ``limit`` rows, drawn at random, are compared.
    """
    z = np.asarray(embeddings, np.float64)
    if len(z) > limit:
        z = z[np.random.default_rng(seed).choice(len(z), limit, replace=False)]
    upper = np.triu_indices(len(z), 1)
    return float(np.log(np.exp(-4 + 4 * (z @ z.T)[upper]).mean()))


def modality_gap(a, b) -> float:
    """Distance between the mean vectors of two modalities in one space (Liang et al., 2022): 0 is no gap, at most 2."""
    return float(np.linalg.norm(np.asarray(a, np.float64).mean(0) - np.asarray(b, np.float64).mean(0)))


def linear_cka(a, b) -> float:
    """Linear centred kernel alignment of two representations (n, d1), (n, d2) of the same places
    (Kornblith et al., 2019, eq. 3): 0 unrelated, 1 equal up to rotation and scale."""
    a, b = (np.asarray(x, np.float64) - np.mean(x, 0, dtype=np.float64) for x in (a, b))
    return float(np.square(a.T @ b).sum() / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b)))
