"""Contrastive losses as pure functions of unit vectors.

Shapes: ``n`` places, ``d`` dimensions. Embeddings have unit length, ``scale`` is the inverse temperature
1/tau (a float or a scalar tensor). A loss over nothing (no pair present) is exactly 0, with zero gradients.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(
    anchors: Tensor, targets: Tensor, scale: Tensor | float, ignore: Tensor | None = None, extra: Tensor | None = None
) -> Tensor:
    r"""InfoNCE in one direction: each anchor must pick its own target out of all (van den Oord et al., 2018).

    .. math:: -\frac1n \sum_i \log \frac{e^{s\,a_i\cdot t_i}}{\sum_j e^{s\,a_i\cdot t_j} + \sum_q e^{s\,a_i\cdot x_q}}

    Args:
        anchors, targets: (n, d), row i of one belongs to row i of the other.
        scale: inverse temperature.
        ignore: optional bool (n, n); pairs (i, j) left out of anchor i's denominator, such as places
            too near to be negatives. Its diagonal is not looked at.
        extra: optional (q, d) further negatives, such as a queue (GeoCLIP).
    """
    if not len(anchors):
        return anchors.sum() + targets.sum()
    logits = scale * anchors @ targets.T
    if ignore is not None:
        own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(ignore & ~own, float("-inf"))
    if extra is not None:
        logits = torch.cat([logits, scale * anchors @ extra.T], 1)
    return F.cross_entropy(logits, torch.arange(len(anchors), device=logits.device))


def symmetric_info_nce(a: Tensor, b: Tensor, scale: Tensor | float, ignore: Tensor | None = None) -> Tensor:
    """Mean of InfoNCE in both directions (CLIP, Radford et al., 2021). Arguments as in :func:`info_nce`."""
    return (info_nce(a, b, scale, ignore) + info_nce(b, a, scale, None if ignore is None else ignore.T)) / 2


def fused_nt_xent(embeddings: Tensor, present: Tensor, scale: Tensor | float, ignore: Tensor | None = None) -> Tensor:
    r"""NT-Xent over all modalities of all places at once, with several positives an anchor.

    Every present embedding is an anchor. Its positives P are the other modalities of its place; its
    negatives are all modalities of all other places, its own modality among them:

    .. math:: -\frac1{|A|} \sum_{a \in A} \frac1{|P(a)|} \sum_{p \in P(a)}
              \log \frac{e^{s\,z_a\cdot z_p}}{\sum_{k \ne a} e^{s\,z_a\cdot z_k}}

    A are the present embeddings of places with at least two modalities; a place with a single one still
    serves as a negative. With two modalities, all present, this is NT-Xent (Chen et al., 2020, eq. 1); the
    mean over positives stands outside the logarithm, as in SupCon's L_out (Khosla et al., 2020, eq. 2).

    Args:
        embeddings: (m, n, d), m modalities of n places. Rows that are not present may hold anything finite.
        present: bool (m, n).
        scale: inverse temperature.
        ignore: optional bool (n, n); pairs of places that are no negatives of each other.
    """
    m, n, d = embeddings.shape
    keep = present.flatten()
    z = embeddings.reshape(m * n, d)[keep]
    place = torch.arange(n, device=z.device).repeat(m)[keep]

    same_place = place[:, None] == place
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    positive = same_place & ~itself
    left_out = itself if ignore is None else itself | (ignore[place][:, place] & ~same_place)
    log_p = (scale * z @ z.T).masked_fill(left_out, float("-inf")).log_softmax(1)

    count = positive.sum(1)
    anchors = count > 0
    if not anchors.any():
        return embeddings.sum() * 0.0
    per_anchor = -log_p.masked_fill(~positive, 0.0).sum(1)[anchors] / count[anchors]
    return per_anchor.mean()
