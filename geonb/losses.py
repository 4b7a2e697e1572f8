"""Contrastive losses as pure functions of unit vectors; a missing modality is left out.

Shapes: ``n`` places, ``d`` dimensions, ``m`` modalities. A loss is a mean over anchors, in nats,
in float32 or wider also under autocast, and 0 over no anchors. The losses share:

* ``scale``: inverse temperature s = 1/tau; a larger one gives hard negatives more weight.
* ``space``, a :class:`Space`: what nearby places are: negatives, excluded or soft positives.
* ``chunk``: rows of similarities in memory at a time, 0 for all. Value and gradients stay: the
  backward pass computes a block again (Chen et al., 2016, arXiv 1604.06174).
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
    """The positions behind a loss, and what their distances mean; set one distance, or none.

    Attributes:
        anchors, candidates: (n, 2) and (k, 2) lon/lat degrees; None: the anchors themselves.
        exclude_km: places within this great-circle distance of an anchor are no negatives of it.
        soft_km: places within it are soft positives, weighted by Wendland's C2 function (1995,
            doi 10.1007/BF02123482) of r = distance / soft_km, and normalised per anchor; the idea
            is PIGEON's (Haas et al., 2024, arXiv 2307.05845).
    """

    anchors: Tensor
    candidates: Tensor = None  # the anchors, see below
    exclude_km: float = 0.0
    soft_km: float = 0.0

    def __post_init__(self) -> None:
        if min(self.exclude_km, self.soft_km) < 0 or self.exclude_km and self.soft_km:
            raise ValueError("set one of exclude_km and soft_km, to at least 0")
        if self.candidates is None:
            object.__setattr__(self, "candidates", self.anchors)

    def keep(self, anchors: Tensor, candidates: Tensor) -> Space:
        """Select some anchors and candidates, by bool masks (n,) and (k,) or by indices."""
        return replace(self, anchors=self.anchors[anchors], candidates=self.candidates[candidates])

    def chord(self, rows: slice) -> Tensor:
        """Compute chords (c, k) on the unit sphere, float64, from a block of anchors."""
        pair = self.anchors[rows], self.candidates
        a, b = (unit_xyz_tensor(lonlat.detach().double()) for lonlat in pair)
        return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")

    def near(self, rows: slice) -> Tensor | None:
        """Find candidates to exclude, bool (c, k), for a block of anchors, or None."""
        angle = min(self.exclude_km / EARTH_RADIUS_KM, math.pi)
        return self.chord(rows) <= 2 * math.sin(angle / 2) if self.exclude_km else None

    def kernel(self, rows: slice) -> Tensor | None:
        """Weigh soft positives, float64 (c, k), of a block of anchors, or None."""
        if not self.soft_km:
            return None
        km = 2 * EARTH_RADIUS_KM * torch.asin((self.chord(rows) / 2).clamp(max=1.0))
        r = (km / self.soft_km).clamp(max=1.0)
        return (1 - r) ** 4 * (4 * r + 1)


def _mean_over_anchors(loss: Callable[[slice], Tensor], n: int, chunk: int) -> Tensor:
    """Average ``loss(rows)``, a sum over anchors, ``chunk`` rows at a time."""
    if chunk < 0:
        raise ValueError(f"chunk must be a number of rows, or 0 for all, not {chunk}")
    if not 0 < chunk < n:
        return loss(slice(0, n)) / max(n, 1)
    blocks = [slice(start, min(start + chunk, n)) for start in range(0, n, chunk)]
    options = {"use_reentrant": False, "preserve_rng_state": False}
    sums = [checkpoint(loss, rows, **options) for rows in blocks]
    return torch.stack(sums).sum() / n


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _logits(a: Tensor, b: Tensor, scale: Scale) -> Tensor:
    a, b = _wide(a), _wide(b)
    with torch.autocast(a.device.type, enabled=False):
        return scale * a @ b.T


def _cross_entropy(
    logits: Tensor, positive: Tensor, near: Tensor | None = None, kernel: Tensor | None = None,
    left_out: Tensor | None = None, inside: bool = False, columns: bool = False,
) -> Tensor:  # fmt: skip
    r"""Sum over anchors of :math:`\log \sum_{k \in K} e^{l_k} - \sum_k w_k l_k / \sum_k w_k`.

    ``positive``, long (c,) or bool (c, k), has weight 1; ``kernel`` (c, k) weighs the others.
    ``near`` are no negatives, ``left_out`` no candidates. ``inside`` puts weights in the
    logarithm; ``columns`` adds the same sum with the columns as anchors.
    """
    excluded = left_out
    if positive.ndim == 1 and near is None and kernel is None:
        target = of_columns = logits.gather(1, positive[:, None])[:, 0]
    else:
        if positive.ndim == 1:
            none = torch.zeros_like(logits, dtype=torch.bool)
            positive = none.scatter(1, positive[:, None], True)
        if near is not None:
            excluded = near & ~positive if left_out is None else near & ~positive | left_out
        weights = positive if kernel is None else torch.where(positive, 1.0, kernel)
        if left_out is not None:
            weights = weights.masked_fill(left_out, 0)
        weights = weights.to(logits.dtype)
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
    if space and (len(space.anchors), len(space.candidates)) != (n, k):
        given = f"{len(space.anchors)} anchors and {len(space.candidates)} candidates"
        raise ValueError(f"space has {given}, but the loss has {n} and {k}, a queue included")


def info_nce(
    a: Tensor, b: Tensor, scale: Scale, space: Space | None = None, symmetric: bool = True, chunk: int = 0
) -> Tensor:
    r"""Contrast a target with all others: InfoNCE (van den Oord et al., 2018, arXiv 1807.03748).

    .. math:: L(a \to b) = -\frac1n \sum_i \log \frac{e^{s\,a_i\cdot b_i}}{\sum_j e^{s\,a_i\cdot b_j}},
              \qquad L = \tfrac12 [L(a \to b) + L(b \to a)]

    The symmetric form is CLIP's (Radford et al., 2021, arXiv 2103.00020). With soft targets q,
    :math:`L(a \to b) = -\frac1n \sum_i \sum_j q_{ij} \log p_{ij}`.

    Args:
        a: (n, d) anchors.
        b: (n, d), row i belongs to row i of ``a``. With ``symmetric=False`` more rows may follow,
            such as a queue: negatives of all anchors, whose positions ``space`` has too; other
            numbers raise ValueError.

    Example:
        Log n where no anchor can tell its target from the others, and nearly 0 where all can:

        >>> a = torch.eye(4)
        >>> [round(info_nce(a, a, scale).item(), 3) for scale in (0.0, 1.0, 10.0)]
        [1.386, 0.744, 0.0]
    """
    n, k = len(a), len(b)
    if k < n or (symmetric and k > n):
        raise ValueError(f"{n} anchors and {k} targets: only one direction takes more targets")
    _check_space(space, n, k)

    at_once = symmetric and not 0 < chunk < n  # both directions from one matrix

    def loss(rows: slice) -> Tensor:
        logits = _logits(a[rows], b, scale)
        matched = torch.arange(rows.start, rows.stop, device=a.device)
        return _cross_entropy(logits, matched, *_near_and_kernel(space, rows), columns=at_once)

    mean = _mean_over_anchors(loss, n, chunk)
    if symmetric and not at_once:
        back = space and replace(space, anchors=space.candidates, candidates=space.anchors)
        mean = mean + info_nce(b, a, scale, back, symmetric=False, chunk=chunk)
    return mean / 2 if symmetric else mean


def geoclip(
    image: Tensor, location: Tensor, queue: Tensor, scale: Scale, space: Space | None = None, chunk: int = 0
) -> Tensor:
    r"""Contrast images (n, d) with positions and a queue (Cepeda et al., 2023, arXiv 2309.16020).

    .. math:: -\frac1n \sum_i
              \log \frac{e^{s\,v_i\cdot l_i}}{\sum_j e^{s\,v_i\cdot l_j} + \sum_q e^{s\,v_i\cdot l_q}}

    The queue (q, d) gets gradients, as published; ``space`` has its positions after the batch's.
    """
    location = torch.cat([location, queue])
    return info_nce(image, location, scale, space, symmetric=False, chunk=chunk)


def csp(
    location: Tensor, image: Tensor, second: Tensor, random: Tensor, scales: Sequence[Scale],
    space: Space | None = None, chunk: int = 0,
) -> dict[str, Tensor]:  # fmt: skip
    r"""Contrast by three kinds of negatives: CSP (Mai et al., 2023, arXiv 2305.01118).

    .. math:: L_B = L(l \to v; s_1), \qquad L_D = L(l \to l'; s_3), \qquad L_L = -\frac1n \sum_i
              \log \frac{e^{s_2\,v_i\cdot l_i}}{e^{s_2\,v_i\cdot l_i} + \sum_c e^{s_2\,v_i\cdot r_c}}

    with L the one-way :func:`info_nce`; they are returned as "batch", "dropout" and "random".

    Args:
        location, image, second: (n, d), ``second`` the locations under other dropout.
        random: (r, d) random locations for all images, the candidates of ``space``.
        scales: three inverse temperatures, in the order batch, random, dropout.
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
    r"""Contrast locations with a modality drawn for each (Hecht et al., 2026, arXiv 2606.20167).

    .. math:: -\frac1n \sum_i \log \frac{e^{s\,p_i\cdot x_i}}{\sum_j e^{s\,p_i\cdot x_j}}, \qquad
              x_i = x_i^{m(i)}

    Args:
        location, others: (n, d), and (m, n, d), the modalities besides location.
        drawn: long (n,), the modality (0 to m-1) that represents each place; -1 leaves it out.
    """
    rows = (drawn >= 0).nonzero()[:, 0]
    space, others = space and space.keep(rows, rows), others[drawn[rows], rows]
    return info_nce(location[rows], others, scale, space, symmetric=False, chunk=chunk)


def nt_xent_fused(
    embeddings: Tensor, present: Tensor, scale: Scale, space: Space | None = None,
    form: str = "mean", anchors: str = "all", chunk: int = 0,
) -> Tensor:  # fmt: skip
    r"""Contrast all modalities of all places: NT-Xent with several positives per anchor.

    An anchor's positives P are the other modalities of its place, and it must have one:

    .. math:: L_\mathrm{mean} = -\frac1{|A|} \sum_{a \in A} \frac1{|P(a)|} \sum_{p \in P(a)}
              \log \frac{e^{s\,z_a\cdot z_p}}{\sum_{k \in K(a)} e^{s\,z_a\cdot z_k}}, \qquad
              L_\mathrm{logsumexp} = -\frac1{|A|} \sum_{a \in A}
              \log \frac{\sum_{p \in P(a)} e^{s\,z_a\cdot z_p}}{\sum_{k \in K(a)} e^{s\,z_a\cdot z_k}}

    Args:
        embeddings, present: (m, n, d), location first, and bool (m, n). Absent rows are not read.
        form: "mean", SupCon's L_out (Khosla et al., 2020, arXiv 2004.11362, eq. 2), or MIL-NCE's
            "logsumexp" (Miech et al., 2020, arXiv 1912.06430), which one modality can satisfy.
        anchors: "all", with all others as candidates K, as in NT-Xent (Chen et al., 2020, arXiv
            2002.05709, eq. 1); or "location", with the other modalities as K: one-way InfoNCE.
            Another form or anchor raises ValueError.

    Example:
        Two positives cannot both have all of the softmax, so their mean stays above log 2:

        >>> z, present = torch.eye(4).expand(3, 4, 4), torch.ones(3, 4, dtype=torch.bool)
        >>> forms = "mean", "logsumexp"
        >>> [round(nt_xent_fused(z, present, 9.0, form=form).item(), 3) for form in forms]
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


def symile(
    x: Tensor, y: Tensor, z: Tensor, scale: Scale, space: Space | None = None,
    negatives: str = "all", generator: torch.Generator | None = None, chunk: int = 0,
) -> Tensor:  # fmt: skip
    r"""Contrast triples by their multilinear product (Saporta et al., 2024, arXiv 2411.01053).

    .. math:: L_x = -\frac1n \sum_i
              \log \frac{e^{s\langle x_i, y_i, z_i\rangle}}{\sum_{jk} e^{s\langle x_i, y_j, z_k\rangle}},
              \qquad \langle x, y, z \rangle = \sum_d x_d y_d z_d, \qquad L = \tfrac13 (L_x + L_y + L_z)

    Args:
        x, y, z: unit vectors (n, d) of places that have all three.
        space: excludes a triple if both others are near; soft weights are products of kernels.
        negatives: "all" n^2 pairs of the others (time n^3 d), or n "shuffled" ones, as published;
            anything else raises ValueError.
    """
    if negatives not in ("all", "shuffled"):
        raise ValueError(f'negatives must be "all" or "shuffled", got {negatives!r}')
    n, device = len(x), x.device
    _check_space(space, n, n)

    def anchored(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        each = torch.arange(n, device=device)  # pair k is b[p[k]] with c[q[k]]
        if negatives == "all":
            p, q, matched = each.repeat_interleave(n), each.repeat(n), each * (n + 1)
        else:
            p, q = (torch.randperm(n, generator=generator).to(device) for _ in "bc")
            matched = each

        def loss(rows: slice) -> Tensor:
            if negatives == "all":
                logits = _logits((a[rows, None] * b).flatten(0, 1), c, scale)
                logits = logits.view(len(a[rows]), n * n)
            else:
                triples = scale * (a[rows] * b[rows] * c[rows]).sum(1, keepdim=True)
                logits = _logits(a[rows], b[p] * c[q], scale)
                logits = logits.scatter(1, matched[rows, None], triples)
            both = _near_and_kernel(space, rows)
            near, kernel = (v if v is None else v[:, p] * v[:, q] for v in both)
            return _cross_entropy(logits, matched[rows], near, kernel)

        return _mean_over_anchors(loss, n, chunk)

    x, y, z = _wide(x), _wide(y), _wide(z)
    return (anchored(x, y, z) + anchored(y, x, z) + anchored(z, x, y)) / 3
