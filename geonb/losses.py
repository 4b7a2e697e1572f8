r"""Contrastive losses as pure functions of unit vectors.

Shapes: ``n`` places, ``d`` dimensions, ``m`` modalities. Embeddings have unit length. Every loss is a mean over
anchors, in nats, computed in float32 or wider also under autocast; over no anchors it is exactly 0 with zero gradients.
Rows of a missing modality are left out (``x[has]``, :meth:`Space.keep`) or not ``present``. The losses share:

* ``scale``: inverse temperature s = 1/tau, a float or a tensor of shape (). A larger one gives more weight to the
  hardest negatives.
* ``space``, a :class:`Space`: what nearby places are to each other, negatives, excluded or soft positives.
* ``chunk``: rows of the similarity matrix in memory at a time, 0 for all. Value and gradients do not depend on it: a
  block of rows is computed again in the backward pass (checkpointing: Chen et al., 2016, arXiv 1604.06174). A larger
  chunk is faster and needs more memory, O(n d + chunk n).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from geonb.geo import EARTH_RADIUS_KM, unit_xyz_tensor

Scale: TypeAlias = Tensor | float


@dataclass(frozen=True, eq=False)
class Space:
    r"""The positions behind a loss, and what their distances mean.

    Attributes:
        anchors: (n, 2) lon/lat of the anchors, degrees.
        candidates: (k, 2) lon/lat of the candidates; None: the anchors themselves.
        exclude_km: places within this great-circle distance of an anchor are no negatives of it. With 0, coincident
            places are.
        soft_km: places within this distance are soft positives instead, weighted by the kernel
            :math:`\varphi(r) = (1 - r)_+^4 (4 r + 1)`, r = distance / soft_km (Wendland's C2 function, 1995, doi
            10.1007/BF02123482). The weights of each anchor are normalised. The idea is PIGEON's (Haas et al., 2024,
            arXiv 2307.05845), with another kernel.

    Raises:
        ValueError: a distance below 0, or both above 0.
    """

    anchors: Tensor
    candidates: Tensor = None  # the anchors, see below
    exclude_km: float = 0.0
    soft_km: float = 0.0

    def __post_init__(self) -> None:
        if not (self.exclude_km >= 0 and self.soft_km >= 0):
            raise ValueError(f"exclude_km and soft_km must be at least 0, got {self.exclude_km} and {self.soft_km}")
        if self.exclude_km and self.soft_km:
            raise ValueError("nearby places are either excluded or soft positives: set one of exclude_km and soft_km")
        if self.candidates is None:
            object.__setattr__(self, "candidates", self.anchors)

    def keep(self, anchors: Tensor, candidates: Tensor) -> Space:
        """Select some anchors and candidates, by bool masks (n,) and (k,) or by indices."""
        return replace(self, anchors=self.anchors[anchors], candidates=self.candidates[candidates])

    def chord(self, rows: slice) -> Tensor:
        """Compute chord lengths (c, k) on the unit sphere, float64, from a block of anchors to all candidates: exactly
        0 for coincident places, and right to a micrometre for nearby ones."""
        a, b = (unit_xyz_tensor(lonlat.detach().double()) for lonlat in (self.anchors[rows], self.candidates))
        return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")

    def near(self, rows: slice) -> Tensor | None:
        """Find candidates within ``exclude_km`` of a block of anchors: bool (c, k), or None if nothing is excluded."""
        angle = min(self.exclude_km / EARTH_RADIUS_KM, math.pi)
        return self.chord(rows) <= 2 * math.sin(angle / 2) if self.exclude_km else None

    def kernel(self, rows: slice) -> Tensor | None:
        """Weigh candidates by their distance from a block of anchors: (c, k) in [0, 1], float64, or None if there are
        no soft positives."""
        if not self.soft_km:
            return None
        km = 2 * EARTH_RADIUS_KM * torch.asin((self.chord(rows) / 2).clamp(max=1.0))
        r = (km / self.soft_km).clamp(max=1.0)
        return (1 - r) ** 4 * (4 * r + 1)


# The steps that the losses share.


def _mean_over_anchors(loss: Callable[[slice], Tensor], n: int, chunk: int) -> Tensor:
    """Mean over n anchors of ``loss(rows)``, the sum over a block of them, with ``chunk`` rows at a time in memory."""
    if chunk < 0:
        raise ValueError(f"chunk must be a number of rows, or 0 for all at once, got {chunk}")
    if not 0 < chunk < n:
        return loss(slice(0, n)) / max(n, 1)
    blocks = [slice(start, min(start + chunk, n)) for start in range(0, n, chunk)]
    sums = [checkpoint(loss, rows, use_reentrant=False, preserve_rng_state=False) for rows in blocks]
    return torch.stack(sums).sum() / n


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _logits(a: Tensor, b: Tensor, scale: Scale) -> Tensor:
    """Scaled similarities (c, k) of ``a`` (c, d) with ``b`` (k, d)."""
    a, b = _wide(a), _wide(b)
    with torch.autocast(a.device.type, enabled=False):
        return scale * a @ b.T


def _cross_entropy(
    logits: Tensor, positive: Tensor, near: Tensor | None = None, kernel: Tensor | None = None,
    left_out: Tensor | None = None, inside: bool = False, columns: bool = False,
) -> Tensor:  # fmt: skip
    r"""Sum over anchors of :math:`\log \sum_{k \in K} e^{l_k} - \sum_k w_k l_k / \sum_k w_k`.

    Args:
        logits: (c, k).
        positive: long (c,), the positive of each anchor, or bool (c, k), at least one in a row. They have weight 1.
        near: bool (c, k), candidates that are no negatives; positives stay in K.
        kernel: (c, k), weights of the other candidates; 0 if None.
        left_out: bool (c, k), pairs that are no candidates at all.
        inside: put the weights inside the logarithm: :math:`\log \sum_k w_k e^{l_k}` is subtracted.
        columns: add the same sum with the columns as anchors and the rows as candidates.
    """
    excluded = left_out
    if positive.ndim == 1 and near is None and kernel is None:
        target = of_columns = logits.gather(1, positive[:, None])[:, 0]
    else:
        if positive.ndim == 1:
            positive = torch.zeros_like(logits, dtype=torch.bool).scatter(1, positive[:, None], True)
        if near is not None:
            excluded = near & ~positive if left_out is None else near & ~positive | left_out
        weights = positive if kernel is None else torch.where(positive, 1.0, kernel)
        weights = (weights if left_out is None else weights.masked_fill(left_out, 0)).to(logits.dtype)
        weighted = weights * logits
        target, of_columns = weighted.sum(1) / weights.sum(1), weighted.sum(0) / weights.sum(0)
        if inside:
            target = (logits + weights.log()).logsumexp(1)
    if excluded is not None:
        logits = logits.masked_fill(excluded, -torch.inf)
    total = (logits.logsumexp(1) - target).sum()
    return total + logits.logsumexp(0).sum() - of_columns.sum() if columns else total


def _near_and_kernel(space: Space | None, rows: slice) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if space is None else (space.near(rows), space.kernel(rows))


def _check_space(space: Space | None, n: int, k: int) -> None:
    if space is None:
        return
    anchors, candidates = len(space.anchors), len(space.candidates)
    if (anchors, candidates) != (n, k):
        raise ValueError(
            f"space has the positions of {anchors} anchors and {candidates} candidates, but the loss has {n} and {k}; "
            "those of a queue count"
        )


# One positive per anchor.


def info_nce(
    a: Tensor, b: Tensor, scale: Scale, space: Space | None = None, symmetric: bool = True, chunk: int = 0
) -> Tensor:
    r"""Contrast each anchor's target with all other targets: InfoNCE (van den Oord et al., 2018, arXiv 1807.03748).

    .. math:: L(a \to b) = -\frac1n \sum_i \log \frac{e^{s\,a_i\cdot b_i}}{\sum_j e^{s\,a_i\cdot b_j}}, \qquad
              L = \tfrac12 [L(a \to b) + L(b \to a)]

    The symmetric form is that of CLIP (Radford et al., 2021, arXiv 2103.00020). With soft targets q,
    :math:`L(a \to b) = -\frac1n \sum_i \sum_j q_{ij} \log p_{ij}`.

    Args:
        a: (n, d) anchors.
        b: (n, d), row i belongs to row i of ``a``. With ``symmetric=False`` further rows (k, d) may follow, which are
            negatives of all anchors, such as a queue; ``space`` then needs the positions of all k.

    Raises:
        ValueError: fewer targets than anchors, or more of them in a symmetric loss; or a ``space`` of other places.

    Example:
        Log n where no anchor can tell its target from the others, and nearly 0 where all can:

        >>> a = torch.eye(4)
        >>> [round(info_nce(a, a, scale).item(), 3) for scale in (0.0, 1.0, 10.0)]
        [1.386, 0.744, 0.0]
    """
    n, k = len(a), len(b)
    if k < n or (symmetric and k > n):
        raise ValueError(f"{n} anchors and {k} targets: only a loss in one direction takes more targets than anchors")
    _check_space(space, n, k)

    at_once = symmetric and not 0 < chunk < n  # both directions from one matrix

    def loss(rows: slice) -> Tensor:
        logits, matched = _logits(a[rows], b, scale), torch.arange(rows.start, rows.stop, device=a.device)
        return _cross_entropy(logits, matched, *_near_and_kernel(space, rows), columns=at_once)

    mean = _mean_over_anchors(loss, n, chunk)
    if symmetric and not at_once:
        back = space and replace(space, anchors=space.candidates, candidates=space.anchors)
        mean = mean + info_nce(b, a, scale, back, symmetric=False, chunk=chunk)
    return mean / 2 if symmetric else mean


def geoclip(
    image: Tensor, location: Tensor, queue: Tensor, scale: Scale, space: Space | None = None, chunk: int = 0
) -> Tensor:
    r"""Contrast each image's position with those of the batch and of a queue: GeoCLIP (Cepeda et al., 2023,
    arXiv 2309.16020).

    .. math:: -\frac1n \sum_i \log \frac{e^{s\,v_i\cdot l_i}}{\sum_j e^{s\,v_i\cdot l_j} + \sum_q e^{s\,v_i\cdot l_q}}

    Args:
        image, location: (n, d).
        queue: (q, d) embeddings of earlier positions, which get gradients as in the published code.
        space: its candidates are the positions of the batch, then of the queue.
    """
    return info_nce(image, torch.cat([location, queue]), scale, space, symmetric=False, chunk=chunk)


def csp(
    location: Tensor, image: Tensor, second: Tensor, random: Tensor, scales: Sequence[Scale],
    space: Space | None = None, chunk: int = 0,
) -> dict[str, Tensor]:  # fmt: skip
    r"""Contrast by three kinds of negatives: CSP (Mai et al., 2023, arXiv 2305.01118).

    .. math:: L_B = L(l \to v; s_1), \qquad L_D = L(l \to l'; s_3), \qquad L_L = -\frac1n \sum_i
              \log \frac{e^{s_2\,v_i\cdot l_i}}{e^{s_2\,v_i\cdot l_i} + \sum_c e^{s_2\,v_i\cdot r_c}}

    with L the one-way :func:`info_nce`. The terms are "batch", a location against the batch's images; "random", an
    image against random locations; "dropout", a location against the batch's locations under other dropout (SimCSE).

    Args:
        location, image: (n, d).
        second: (n, d), ``location`` encoded a second time, with other dropout.
        random: (r, d) random locations, shared by all images.
        scales: three inverse temperatures, in the order batch, random, dropout.
        space: its candidates are the random places.
    """
    n = len(location)
    _check_space(space, n, len(random))
    batch = space and replace(space, candidates=space.anchors)

    def loss(rows: slice) -> Tensor:
        matched = (_wide(image[rows]) * location[rows]).sum(1)
        logits = scales[1] * torch.cat([matched[:, None], _logits(image[rows], random, 1.0)], 1)
        near, kernel = (v if v is None else F.pad(v, (1, 0)) for v in _near_and_kernel(space, rows))
        return _cross_entropy(logits, torch.zeros_like(matched, dtype=torch.long), near, kernel)

    return {
        "batch": info_nce(location, image, scales[0], batch, symmetric=False, chunk=chunk),
        "random": _mean_over_anchors(loss, n, chunk),
        "dropout": info_nce(location, second, scales[2], batch, symmetric=False, chunk=chunk),
    }


def melt(
    location: Tensor, others: Tensor, drawn: Tensor, scale: Scale, space: Space | None = None, chunk: int = 0
) -> Tensor:
    r"""Contrast locations with one modality per place, drawn for it: MELT (Hecht et al., 2026, arXiv 2606.20167).

    .. math:: -\frac1n \sum_i \log \frac{e^{s\,p_i\cdot x_i}}{\sum_j e^{s\,p_i\cdot x_j}}, \qquad
              x_i = x_i^{m(i)}

    The source, an abstract without public code, leaves open the direction and the number of temperatures. Here
    locations are the anchors, with one temperature.

    Args:
        location: (n, d).
        others: (m, n, d), the modalities besides location. Only the drawn rows are read.
        drawn: long (n,), the modality (0 to m-1) that represents each place; -1 leaves the place out.
    """
    rows = (drawn >= 0).nonzero()[:, 0]
    space = space and space.keep(rows, rows)
    return info_nce(location[rows], others[drawn[rows], rows], scale, space, symmetric=False, chunk=chunk)


# Several positives per anchor.


def nt_xent_fused(
    embeddings: Tensor, present: Tensor, scale: Scale, space: Space | None = None, form: str = "mean",
    anchors: str = "all", chunk: int = 0,
) -> Tensor:  # fmt: skip
    r"""Contrast all modalities of all places at once: NT-Xent with several positives per anchor.

    An anchor's positives P are the other modalities of its place, its negatives the embeddings of other places:

    .. math:: L_\mathrm{mean} = -\frac1{|A|} \sum_{a \in A} \frac1{|P(a)|} \sum_{p \in P(a)}
              \log \frac{e^{s\,z_a\cdot z_p}}{\sum_{k \in K(a)} e^{s\,z_a\cdot z_k}}, \qquad
              L_\mathrm{logsumexp} = -\frac1{|A|} \sum_{a \in A}
              \log \frac{\sum_{p \in P(a)} e^{s\,z_a\cdot z_p}}{\sum_{k \in K(a)} e^{s\,z_a\cdot z_k}}

    A place with a single modality has no positive and serves as a negative.

    Args:
        embeddings: (m, n, d); modality 0 is location. Rows that are not present are never read.
        present: bool (m, n).
        space: of the n places. A soft positive is weighted by the distance of its place from the anchor's.
        form: "mean" outside the logarithm, SupCon's L_out (Khosla et al., 2020, arXiv 2004.11362, eq. 2), or the sum
            inside, "logsumexp", MIL-NCE's (Miech et al., 2020, arXiv 1912.06430), under which one easy modality can
            satisfy the loss for all.
        anchors: "all": every present embedding, with all others as candidates K, those of its own modality too; with
            two modalities this is NT-Xent (Chen et al., 2020, arXiv 2002.05709, eq. 1). "location": positions are the
            anchors and the other modalities the candidates; with one other modality this is one-way InfoNCE.

    Raises:
        ValueError: an unknown ``form`` or ``anchors``, or a ``space`` of other places.

    Example:
        Three modalities of four places, so each anchor has two positives. The mean over them never falls below log 2,
        as both cannot have all of the softmax; the sum inside the logarithm does:

        >>> z, present = torch.eye(4).expand(3, 4, 4), torch.ones(3, 4, dtype=torch.bool)
        >>> [round(nt_xent_fused(z, present, 9.0, form=form).item(), 3) for form in ("mean", "logsumexp")]
        [0.694, 0.001]
    """
    if form not in ("mean", "logsumexp"):
        raise ValueError(f'form must be "mean" or "logsumexp", got {form!r}')
    if anchors not in ("all", "location"):
        raise ValueError(f'anchors must be "all" or "location", got {anchors!r}')
    _check_space(space, present.shape[1], present.shape[1])
    modality, place = present.nonzero().unbind(1)  # of each present embedding
    z = embeddings[modality, place]
    is_anchor = present.sum(0)[place] > 1
    is_candidate = torch.ones_like(is_anchor)
    if anchors == "location":
        is_anchor, is_candidate = is_anchor & (modality == 0), modality > 0
    a, k = is_anchor.nonzero()[:, 0], is_candidate.nonzero()[:, 0]
    z_a, z_k, space = z[a], z[k], space and space.keep(place[a], place[k])

    def loss(rows: slice) -> Tensor:
        logits = _logits(z_a[rows], z_k, scale)
        itself = a[rows, None] == k
        positive = (place[a[rows], None] == place[k]) & ~itself
        near, kernel = _near_and_kernel(space, rows)
        return _cross_entropy(logits, positive, near, kernel, itself, inside=form == "logsumexp")

    return _mean_over_anchors(loss, len(a), chunk)


# Three modalities at once.


def symile(
    x: Tensor, y: Tensor, z: Tensor, scale: Scale, space: Space | None = None, negatives: str = "all",
    generator: torch.Generator | None = None, chunk: int = 0,
) -> Tensor:  # fmt: skip
    r"""Contrast triples by their multilinear inner product, which bounds total correlation: Symile (Saporta et al.,
    2024, arXiv 2411.01053).

    .. math:: L_x = -\frac1n \sum_i
              \log \frac{e^{s\langle x_i, y_i, z_i\rangle}}{\sum_{jk} e^{s\langle x_i, y_j, z_k\rangle}},
              \qquad \langle x, y, z \rangle = \sum_d x_d y_d z_d, \qquad L = \tfrac13 (L_x + L_y + L_z)

    Each modality is the anchor in turn. The loss sees dependence that only the three together show (z = x XOR y),
    where pairwise losses are blind; but flipping the signs of two of the three changes nothing.

    Args:
        x, y, z: unit vectors (n, d). The caller leaves out places that lack a modality.
        space: a triple is excluded if both its others are near the anchor; soft weights are products of kernels.
        negatives: "all" n^2 pairs of the others for each anchor (time n^3 d), or "shuffled": n pairs, drawn for each
            anchor modality, the default of the published code.
        generator: for the shuffling.

    Raises:
        ValueError: unknown ``negatives``, or a ``space`` of other places.
    """
    if negatives not in ("all", "shuffled"):
        raise ValueError(f'negatives must be "all" or "shuffled", got {negatives!r}')
    n, device = len(x), x.device
    _check_space(space, n, n)

    def anchored(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        each = torch.arange(n, device=device)  # pair number k is b[p[k]] with c[q[k]]; anchor i matches pair matched[i]
        if negatives == "all":
            p, q, matched = each.repeat_interleave(n), each.repeat(n), each * (n + 1)
        else:
            p, q = (torch.randperm(n, generator=generator).to(device) for _ in "bc")
            matched = each

        def loss(rows: slice) -> Tensor:
            if negatives == "all":
                logits = _logits((a[rows, None] * b).flatten(0, 1), c, scale).view(rows.stop - rows.start, n * n)
            else:
                triples = scale * (a[rows] * b[rows] * c[rows]).sum(1, keepdim=True)
                logits = _logits(a[rows], b[p] * c[q], scale).scatter(1, matched[rows, None], triples)
            near, kernel = (v if v is None else v[:, p] * v[:, q] for v in _near_and_kernel(space, rows))
            return _cross_entropy(logits, matched[rows], near, kernel)

        return _mean_over_anchors(loss, n, chunk)

    x, y, z = _wide(x), _wide(y), _wide(z)
    return (anchored(x, y, z) + anchored(y, x, z) + anchored(z, x, y)) / 3
