r"""Contrastive losses as pure functions of unit vectors.

Shapes: ``n`` places, ``d`` dimensions, ``m`` modalities. Embeddings have unit length; ``scale`` is the inverse
temperature s = 1/tau, a float or a scalar tensor. Every loss is a mean over anchors, in nats, computed in float32
or wider whatever autocast says. A loss over nothing is exactly 0 with zero gradients.

Three things go with each of them:

* ``space``, a :class:`Space`: what nearness on Earth means. Places close by are no negatives, or soft positives.
* ``chunk``, rows at a time: value and gradients are those of 0 (all at once), but the n x n matrices exist a block
  of rows at a time, in the backward pass as well, where they are computed anew (checkpointing: Chen et al., 2016,
  arXiv 1604.06174). Memory is then O(n d + chunk n). About sqrt(n) or a little more is a good choice.
* missing modalities: leave their rows out (``x[has]``, :meth:`Space.keep`), or say ``present``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from geonb.geo import EARTH_RADIUS_KM

Scale: TypeAlias = Tensor | float


@dataclass(frozen=True, eq=False)
class Space:
    r"""What great-circle distance means to a loss.

    ``exclude_km`` leaves places within that distance of an anchor out of its negatives. ``soft_km`` spreads the
    anchor's target over places within that distance instead, by the compactly supported kernel

    .. math:: \varphi(r) = (1 - r)_+^4 (4 r + 1), \quad r = d / \mathrm{soft\_km}

    (Wendland's C2 function, 1995, doi 10.1007/BF02123482), which the losses normalise by row. The idea is PIGEON's
    (Haas et al., 2024, arXiv 2307.05845), with another kernel. With both 0, and only then, a loss is the plain one,
    and coincident places are negatives of each other.

    Distances are chords of float64 differences: exact for coincident places, right to a micrometre for near ones.

    Attributes:
        anchors: (n, 2) lon/lat degrees of the anchors.
        candidates: (k, 2) of the candidates, the anchors' own first; None: the anchors themselves.
        exclude_km, soft_km: great-circle distances in km, at least 0, not both above 0.

    Raises:
        ValueError: a distance below 0, or both above 0.
    """

    anchors: Tensor
    candidates: Tensor | None = None
    exclude_km: float = 0.0
    soft_km: float = 0.0

    def __post_init__(self) -> None:
        if not (self.exclude_km >= 0 and self.soft_km >= 0):
            raise ValueError(f"distances are at least 0 km, not exclude_km={self.exclude_km}, soft_km={self.soft_km}")
        if self.exclude_km and self.soft_km:
            raise ValueError("near places are either excluded or soft targets: set one of exclude_km and soft_km")

    def keep(self, rows: Tensor, columns: Tensor | None = None) -> Space:
        """The anchors ``rows`` against the candidates ``columns``: bool masks (n,) and (k,), or indices; None: as
        ``rows``."""
        if columns is None and self.candidates is None:
            return Space(self.anchors[rows], None, self.exclude_km, self.soft_km)
        there = self.anchors if self.candidates is None else self.candidates
        there = there[rows if columns is None else columns]
        return Space(self.anchors[rows], there, self.exclude_km, self.soft_km)

    @cached_property
    def _xyz(self) -> tuple[Tensor, Tensor]:
        here = _unit_xyz(self.anchors)
        return here, here if self.candidates is None else _unit_xyz(self.candidates)

    def chord(self, rows: slice) -> Tensor:
        """Chord lengths (c, k), float64, of a block of anchors to all candidates on the unit sphere."""
        here, there = self._xyz
        return torch.cdist(here[rows], there, compute_mode="donot_use_mm_for_euclid_dist")

    def near(self, rows: slice) -> Tensor | None:
        """Bool (c, k): candidates within ``exclude_km`` of a block of anchors; None if nothing is excluded."""
        return self.chord(rows) <= _chord_of_km(self.exclude_km) if self.exclude_km else None

    def excluded(self, rows: slice) -> Tensor | None:
        """Bool (c, k) as :meth:`near`, but each anchor's own candidate (the one of its number) is not excluded."""
        return _set(self.near(rows), _numbers(rows, self.anchors.device), False)

    def kernel(self, rows: slice) -> Tensor | None:
        """Kernel values (c, k) in [0, 1], float64, of a block of anchors; None if targets are not soft."""
        if not self.soft_km:
            return None
        km = 2 * EARTH_RADIUS_KM * torch.asin((self.chord(rows) / 2).clamp(max=1.0))
        r = (km / self.soft_km).clamp(max=1.0)
        return (1 - r) ** 4 * (4 * r + 1)


def _unit_xyz(lonlat: Tensor) -> Tensor:
    lon, lat = torch.deg2rad(lonlat.detach().double()).unbind(-1)
    return torch.stack([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()], -1)


def _chord_of_km(km: float) -> float:
    return 2 * math.sin(min(km / (2 * EARTH_RADIUS_KM), math.pi / 2))


class _Clamp(torch.autograd.Function):
    """min(x, maximum), where a gradient that pulls x down still passes above the maximum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, maximum: float) -> Tensor:
        ctx.save_for_backward(x > maximum)
        return x.clamp(max=maximum)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (above,) = ctx.saved_tensors
        return torch.where(above, gradient.clamp(min=0), gradient), None


def clamped_scale(log_scale: Tensor, maximum: float = 100.0) -> Tensor:
    """Learned inverse temperature exp(log_scale), at most ``maximum`` (CLIP, Radford et al., 2021, section 2.5).

    CLIP cuts the parameter itself after each step. Here the parameter may stand a little above the bound: what
    would raise it further is then without gradient, and what lowers it passes, so that it is never stuck there.
    """
    return _Clamp.apply(log_scale, math.log(maximum)).exp()


def _numbers(rows: slice, device: torch.device) -> Tensor:
    return torch.arange(rows.start, rows.stop, device=device)


def _set(values: Tensor | None, column: Tensor, value: Any) -> Tensor | None:
    """``values`` (c, k) with ``value`` in one column (c,) of each row."""
    return None if values is None else values.scatter(1, column[:, None], value)


def _float(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _nothing(*inputs: Scale) -> Tensor:
    """Exactly 0, with zero gradients to every input."""
    return sum(x.flatten()[:0].sum() for x in inputs if isinstance(x, Tensor))


def _over_rows(block: Callable[[Tensor, slice], tuple], anchors: Tensor, chunk: int) -> list[tuple]:
    """What ``block(anchors[rows], rows)`` gives for each ``chunk`` rows, one list for each of its outputs."""
    n = len(anchors)
    if chunk < 0:
        raise ValueError(f"chunk is a number of rows, 0 for all at once, not {chunk}")

    def exact(part: Tensor, start: int) -> Tensor:
        with torch.autocast(part.device.type, enabled=False):
            return block(part, slice(start, start + len(part)))

    if not 0 < chunk < n:
        results = [exact(anchors, 0)]
    else:
        options = {"use_reentrant": False, "preserve_rng_state": False}
        parts = zip(anchors.split(chunk), range(0, n, chunk), strict=True)
        results = [checkpoint(exact, part, start, **options) for part, start in parts]
    return list(zip(*results, strict=True))


def _softmax(
    anchors: Tensor,
    score: Callable[[Tensor, slice], Tensor],
    chunk: int,
    left_out: Callable[[slice], Tensor | None] = lambda rows: None,
    weight: Callable[[slice], Tensor | None] = lambda rows: None,
    own: Callable[[slice], Tensor] | None = None,
    inside: bool = False,
    both: bool = False,
) -> Tensor:
    r"""The engine: mean over anchors of :math:`\log \sum_k e^{l_{ik}} - \sum_k w_{ik} l_{ik} / \sum_k w_{ik}`.

    Args:
        anchors: (n, d).
        score: the logits (c, k) of a block of anchors.
        left_out: bool (c, k), what the log-sum-exp leaves out.
        weight: (c, k) at least 0, not all 0 in a row; None: all weight on the own candidate.
        own: the column (c,) of each anchor's own candidate; None: the anchor's number.
        inside: subtract :math:`\log \sum_k w_{ik} e^{l_{ik}}` instead.
        both: mean with the same loss over columns (k = n).
    """
    n = len(anchors)

    def block(part: Tensor, rows: slice) -> tuple:
        logits = score(part, rows)
        lowest = torch.finfo(logits.dtype).min / 4  # finite, as a column may be left out of a whole block
        out, w = left_out(rows), weight(rows)
        if w is None:
            column = _numbers(rows, logits.device) if own is None else own(rows)
            target = logits.gather(1, column[:, None])[:, 0]
            down = (target.sum(),)
        elif inside:
            target = (logits + w.log().to(logits.dtype)).masked_fill(w == 0, lowest).logsumexp(1)
        else:
            w = w.to(logits.dtype)
            weighted = w * logits
            target = weighted.sum(1) / w.sum(1)
            down = weighted.sum(0), w.sum(0)
        if out is not None:
            logits = logits.masked_fill(out, lowest)
        across = (logits.logsumexp(1) - target).sum()
        return (across, logits.logsumexp(0), *down) if both else (across,)

    across, *down = (torch.stack(parts) for parts in _over_rows(block, anchors, chunk))
    if not both:
        return across.sum() / n
    total, *targets = down
    target = targets[0] if len(targets) == 1 else targets[0].sum(0) / targets[1].sum(0)
    return (across.sum() + total.logsumexp(0).sum() - target.sum()) / (2 * n)


def _spatial(space: Space | None, n: int, k: int) -> dict:
    """What the engine leaves out, and where it puts the targets."""
    if space is None or not (space.exclude_km or space.soft_km):
        return {}
    here, there = len(space.anchors), len(space.anchors if space.candidates is None else space.candidates)
    if (here, there) != (n, k):
        raise ValueError(
            f"{n} anchors and {k} candidates, but positions of {here} and {there}: give Space the positions of "
            "the anchors, and of all candidates (a queue's too)"
        )
    return {"left_out": space.excluded, "weight": space.kernel}


# One positive an anchor.


def info_nce(
    a: Tensor, b: Tensor, scale: Scale, space: Space | None = None, symmetric: bool = True, chunk: int = 0
) -> Tensor:
    r"""InfoNCE: each anchor picks its own target out of all (van den Oord et al., 2018, arXiv 1807.03748).

    .. math:: L(a \to b) = -\frac1n \sum_i \log \frac{e^{s\,a_i\cdot b_i}}{\sum_j e^{s\,a_i\cdot b_j}}, \qquad
              L = \tfrac12 [L(a \to b) + L(b \to a)]

    the symmetric form being that of CLIP (Radford et al., 2021, arXiv 2103.00020). With soft targets q,
    :math:`L(a \to b) = -\frac1n \sum_i \sum_j q_{ij} \log p_{ij}`.

    Args:
        a: (n, d) anchors.
        b: (n, d), row i belongs to row i of ``a``. With ``symmetric=False`` further rows (k, d) may follow, which are
            negatives of all anchors, such as a queue; ``space`` then needs the positions of all k.
        scale: inverse temperature.

    Raises:
        ValueError: fewer targets than anchors, or more of them in a symmetric loss; or a ``space`` of other places.

    Example:
        Log n where no anchor can tell its target from the others, and nearly 0 where each is sure:

        >>> import torch
        >>> from geonb.losses import info_nce
        >>> a = torch.eye(4)
        >>> round(info_nce(a, a, scale=0.0).item(), 3)
        1.386
        >>> round(info_nce(a, a, scale=10.0).item(), 3)
        0.0
        >>> round(info_nce(a, a.roll(1, 0), scale=10.0).item(), 3)
        10.0
    """
    n, k = len(a), len(b)
    if k < n or (symmetric and k > n):
        raise ValueError(f"{n} anchors and {k} targets: row i must belong to row i; more targets in one direction only")
    if not n:
        return _nothing(a, b, scale)
    a, b = _float(a), _float(b)
    return _softmax(a, lambda part, rows: scale * part @ b.T, chunk, both=symmetric, **_spatial(space, n, k))


def geoclip(
    image: Tensor, location: Tensor, queue: Tensor, scale: Scale, space: Space | None = None, chunk: int = 0
) -> Tensor:
    r"""GeoCLIP: images pick their position out of the batch's and a queue's, in that direction alone
    (Cepeda et al., 2023, arXiv 2309.16020).

    .. math:: -\frac1n \sum_i \log \frac{e^{s\,v_i\cdot l_i}}{\sum_j e^{s\,v_i\cdot l_j} + \sum_q e^{s\,v_i\cdot l_q}}

    Args:
        image, location: (n, d).
        queue: (q, d) embeddings of earlier positions, which get gradients as in the published code.
        space: its candidates are the positions of the batch, then of the queue.
    """
    return info_nce(image, torch.cat([location, queue]), scale, space, symmetric=False, chunk=chunk)


def csp(
    location: Tensor, image: Tensor, again: Tensor, elsewhere: Tensor, scales: Sequence[Scale],
    space: Space | None = None, chunk: int = 0,
) -> dict[str, Tensor]:  # fmt: skip
    r"""CSP's three contrasts, by three kinds of negatives (Mai et al., 2023, arXiv 2305.01118).

    .. math:: L_B = L(l \to v; s_1), \qquad L_D = L(l \to l'; s_3), \qquad L_L = -\frac1n \sum_i
              \log \frac{e^{s_2\,v_i\cdot l_i}}{e^{s_2\,v_i\cdot l_i} + \sum_c e^{s_2\,v_i\cdot r_c}}

    with L the one-way :func:`info_nce`: "batch", a location against the batch's images; "random", an image against
    random locations; "dropout", a location against the batch's locations under another draw of dropout (SimCSE).

    Args:
        location, image, again: (n, d); ``again`` is ``location`` encoded a second time, with other dropout.
        elsewhere: (r, d) random locations shared by all images, or (n, c, d), each image's own as in the paper.
        scales: three inverse temperatures, in the order batch, random, dropout.
        space: if it has candidates they are the places of the batch, then the r random ones.
    """
    n = len(location)
    if not n:
        nothing = _nothing(location, image, again, elsewhere, *scales)
        return {"batch": nothing, "random": nothing, "dropout": nothing}
    location, image, again, elsewhere = map(_float, (location, image, again, elsewhere))
    everyone = torch.arange(n, device=location.device)
    within = None if space is None else space.keep(everyone)
    shared = elsewhere.ndim == 2
    options: dict[str, Any] = {}
    if shared and space is not None and space.candidates is not None:
        _spatial(space, n, n + len(elsewhere))
        away = space.keep(everyone, torch.arange(n, n + len(elsewhere), device=location.device))
        options = {
            "left_out": lambda rows: _after_own(away.near(rows), False),
            "weight": lambda rows: _after_own(away.kernel(rows), 1.0),
        }

    def score(part: Tensor, rows: slice) -> Tensor:
        own = (part * location[rows]).sum(1, keepdim=True)
        others = part @ elsewhere.T if shared else (elsewhere[rows] @ part[:, :, None])[:, :, 0]
        return scales[1] * torch.cat([own, others], 1)

    return {
        "batch": info_nce(location, image, scales[0], within, False, chunk),
        "random": _softmax(image, score, chunk, own=lambda rows: everyone[rows] * 0, **options),
        "dropout": info_nce(location, again, scales[2], within, False, chunk),
    }


def _after_own(values: Tensor | None, own: float) -> Tensor | None:
    return None if values is None else F.pad(values, (1, 0), value=own)


def melt(
    location: Tensor, others: Tensor, drawn: Tensor, scale: Scale, space: Space | None = None, chunk: int = 0
) -> Tensor:
    r"""MELT: one softmax over a batch in which each place is stood for by one modality, drawn for it
    (Hecht et al., 2026, arXiv 2606.20167).

    .. math:: -\frac1n \sum_i \log \frac{e^{s\,p_i\cdot x_i}}{\sum_j e^{s\,p_i\cdot x_j}}, \qquad
              x_i = x_i^{m(i)}

    The source has batches of samples of all modalities, each with its own location, under an asymmetric NT-Xent. Its
    abstract leaves open in which of the two directions the loss is taken and whether modalities share a temperature,
    and there is no public code. Here locations are the anchors, with one temperature; exchange the roles through
    :func:`info_nce` for the other direction.

    Args:
        location: (n, d).
        others: (m, n, d), the modalities besides location. Only the rows that are drawn are looked at.
        drawn: long (n,), the modality (0 to m-1) that stands for each place; -1 leaves the place out.
    """
    rows = (drawn >= 0).nonzero()[:, 0]
    space = None if space is None else space.keep(rows)
    return info_nce(location[rows], others[drawn[rows], rows], scale, space, symmetric=False, chunk=chunk)


def sigmoid(a: Tensor, b: Tensor, scale: Scale, bias: Scale, space: Space | None = None, chunk: int = 0) -> Tensor:
    r"""SigLIP: each pair on its own, matched or not (Zhai et al., 2023, arXiv 2303.15343).

    .. math:: -\frac1n \sum_{ij} \log \sigma(z_{ij} (s\,a_i\cdot b_j + t)), \qquad z_{ij} = 2 [i = j] - 1

    Excluded pairs are not in the sum; soft targets are the kernel as it is, with 1 at distance 0 (each pair is a
    target of its own, so rows are not normalised).

    Args:
        a: (n, d).
        b: (n, d), or (k, d) with further negatives after the first n.
        scale, bias: SigLIP starts them at 10 and -10.

    Raises:
        ValueError: fewer targets than anchors, or a ``space`` of other places.
    """
    n, k = len(a), len(b)
    if k < n:
        raise ValueError(f"{n} anchors but {k} targets: row i must belong to row i")
    if not n:
        return _nothing(a, b, scale, bias)
    a, b = _float(a), _float(b)
    spatial = _spatial(space, n, k)

    def block(part: Tensor, rows: slice) -> tuple:
        logits = scale * part @ b.T + bias
        target = spatial["weight"](rows) if spatial else None
        target = torch.zeros_like(logits) if target is None else target.to(logits.dtype)
        target = _set(target, _numbers(rows, a.device), 1.0)
        loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        out = spatial["left_out"](rows) if spatial else None
        return ((loss if out is None else loss.masked_fill(out, 0.0)).sum(),)

    return torch.stack(_over_rows(block, a, chunk)[0]).sum() / n


# Several positives an anchor.


def sup_con(embeddings: Tensor, labels: Tensor, scale: Scale, space: Space | None = None, chunk: int = 0) -> Tensor:
    r"""SupCon's L_out: all others of the same label are positives (Khosla et al., 2020, arXiv 2004.11362, eq. 2).

    .. math:: -\frac1{|A|} \sum_{i \in A} \frac1{|P(i)|} \sum_{p \in P(i)}
              \log \frac{e^{s\,z_i\cdot z_p}}{\sum_{k \ne i} e^{s\,z_i\cdot z_k}}

    A are the embeddings that share their label with another one; the rest are negatives only.

    Args:
        embeddings: (n, d).
        labels: long (n,).
    """
    _spatial(space, len(labels), len(labels))
    group = labels.unique(return_inverse=True)[1]
    return _grouped(embeddings, embeddings, group, group, scale, space, "mean", chunk, itself=True)


def nt_xent_fused(
    embeddings: Tensor, present: Tensor, scale: Scale, space: Space | None = None, form: str = "mean",
    anchors: str = "all", chunk: int = 0,
) -> Tensor:  # fmt: skip
    r"""NT-Xent over all modalities of all places at once, with several positives an anchor.

    An anchor's positives P are the other modalities of its place, its negatives what the other places have:

    .. math:: L_\mathrm{mean} = -\frac1{|A|} \sum_{a \in A} \frac1{|P(a)|} \sum_{p \in P(a)}
              \log \frac{e^{s\,z_a\cdot z_p}}{\sum_{k \in K(a)} e^{s\,z_a\cdot z_k}}, \qquad
              L_\mathrm{logsumexp} = -\frac1{|A|} \sum_{a \in A}
              \log \frac{\sum_{p \in P(a)} e^{s\,z_a\cdot z_p}}{\sum_{k \in K(a)} e^{s\,z_a\cdot z_k}}

    The mean outside the logarithm is SupCon's L_out (Khosla et al., 2020, eq. 2), the sum inside MIL-NCE's (Miech et
    al., 2020, arXiv 1912.06430), under which one easy modality can stand for all. With ``anchors="all"`` every
    present embedding is an anchor and all other present embeddings are candidates K, those of its own modality
    too: with two modalities this is NT-Xent (Chen et al., 2020, arXiv 2002.05709, eq. 1). With
    ``anchors="location"`` positions are the anchors and the other modalities the candidates: with one other modality
    this is one-way InfoNCE. A place with a single modality has no positive and serves as a negative.

    Args:
        embeddings: (m, n, d); modality 0 is location. Rows that are not present are never looked at.
        present: bool (m, n).
        scale: inverse temperature, or (m, m), one for each pair of modalities (anchor's, candidate's).
        space: of the n places. Soft targets weigh a candidate by the distance of its place from the anchor's.

    Raises:
        ValueError: an unknown ``form`` or ``anchors``, or a ``space`` of other places.

    Example:
        Three modalities of four places, so an anchor has 11 candidates, two of them positive. A scale of 0 tells
        nothing apart. The mean over positives never falls below log 2, as both cannot have all of the softmax; the sum
        inside the logarithm does:

        >>> import torch
        >>> from geonb.losses import nt_xent_fused
        >>> z, present = torch.eye(4).expand(3, 4, 4), torch.ones(3, 4, dtype=torch.bool)
        >>> round(nt_xent_fused(z, present, scale=0.0).item(), 3)
        2.398
        >>> round(nt_xent_fused(z, present, scale=5.0).item(), 3)
        0.723
        >>> round(nt_xent_fused(z, present, scale=5.0, form="logsumexp").item(), 3)
        0.03
    """
    if form not in ("mean", "logsumexp"):
        raise ValueError(f'form is "mean" or "logsumexp", not {form!r}')
    if anchors not in ("all", "location"):
        raise ValueError(f'anchors is "all" or "location", not {anchors!r}')
    n = present.shape[1]
    _spatial(space, n, n)
    kind, place = present.nonzero().unbind(1)
    z = embeddings[kind, place]
    here, there = (kind == 0, kind > 0) if anchors == "location" else (kind >= 0, kind >= 0)
    space = None if space is None else space.keep(place[here], place[there])
    groups, kinds = (place[here], place[there]), (kind[here], kind[there])
    return _grouped(z[here], z[there], *groups, scale, space, form, chunk, anchors == "all", kinds)


def _grouped(
    a: Tensor, b: Tensor, group_a: Tensor, group_b: Tensor, scale: Scale, space: Space | None, form: str, chunk: int,
    itself: bool, kinds: tuple[Tensor, Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """Positives are the candidates of the anchor's group. With ``itself``, candidate i is anchor i, and left out."""
    size = int(max(group_a.max(), group_b.max())) + 1 if len(a) and len(b) else 0
    has = (torch.bincount(group_b, minlength=size)[group_a] > int(itself)).nonzero()[:, 0] if size else group_a[:0]
    if not len(has):
        return _nothing(a, b, scale)
    a, b, group_a = _float(a[has]), _float(b), group_a[has]
    space = None if space is None else space.keep(has, torch.arange(len(b), device=b.device))

    def others(values: Tensor | None, rows: slice, value: bool = False) -> Tensor | None:
        return _set(values, has[rows], value) if itself else values

    def score(part: Tensor, rows: slice) -> Tensor:
        if kinds is None or not (isinstance(scale, Tensor) and scale.ndim):
            return scale * part @ b.T
        of_pairs, counts = scale[kinds[0][has[rows]]], torch.bincount(kinds[1], minlength=scale.shape[1])
        blocks = zip(of_pairs.split(1, dim=1), b.split(counts.tolist()), strict=True)  # candidates come by modality
        return torch.cat([pair * part @ candidates.T for pair, candidates in blocks], 1)

    def same(rows: slice) -> Tensor:
        return group_a[rows, None] == group_b

    def left_out(rows: slice) -> Tensor | None:
        near = None if space is None else space.near(rows)
        if near is not None:
            return others(near & ~same(rows), rows, True)
        return others(torch.zeros_like(same(rows)), rows, True) if itself else None

    def weight(rows: slice) -> Tensor:
        kernel = None if space is None else space.kernel(rows)
        return others(same(rows) if kernel is None else torch.where(same(rows), 1.0, kernel), rows)

    return _softmax(a, score, chunk, left_out, weight, inside=form == "logsumexp")


# More than two modalities at once.


def symile(
    x: Tensor, y: Tensor, z: Tensor, scale: Scale, space: Space | None = None, negatives: str = "all",
    generator: torch.Generator | None = None, chunk: int = 0,
) -> Tensor:  # fmt: skip
    r"""Symile: triples scored by their multilinear inner product, which bounds total correlation
    (Saporta et al., 2024, arXiv 2411.01053).

    .. math:: L_x = -\frac1n \sum_i
              \log \frac{e^{s\langle x_i, y_i, z_i\rangle}}{\sum_{jk} e^{s\langle x_i, y_j, z_k\rangle}},
              \qquad \langle x, y, z \rangle = \sum_d x_d y_d z_d, \qquad L = \tfrac13 (L_x + L_y + L_z)

    each modality being the anchor in turn. It sees what only the three together tell (z = x XOR y), where pairwise
    losses are blind; but flipping the signs of two of the three changes nothing.

    Args:
        x, y, z: unit vectors (n, d). Places lacking a modality are left out by the caller.
        space: a triple is left out if both its others are near the anchor; soft weights are products of kernels.
        negatives: "all" n^2 pairs of the others for each anchor (time n^3 d), or "shuffled": n pairs drawn anew for
            each anchor modality, as in the published code by default.
        generator: for the shuffling.

    Raises:
        ValueError: unknown ``negatives``, or a ``space`` of other places.
    """
    if negatives not in ("all", "shuffled"):
        raise ValueError(f'negatives are "all" or "shuffled", not {negatives!r}')
    if not len(x):
        return _nothing(x, y, z, scale)
    x, y, z = map(_float, (x, y, z))
    turns = (x, y, z), (y, x, z), (z, x, y)
    return sum(_symile(*turn, scale, space, negatives == "all", generator, chunk) for turn in turns) / 3


def _symile(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    scale: Scale,
    space: Space | None,
    everything: bool,
    generator: torch.Generator | None,
    chunk: int,
) -> Tensor:
    n = len(a)
    spatial = _spatial(space, n, n)
    if everything:
        each = torch.arange(n, device=a.device)
        p, q = each.repeat_interleave(n), each.repeat(n)
    else:
        p, q = (torch.randperm(n, generator=generator).to(a.device) for _ in "bc")
        product = b[p] * c[q]

    def own(rows: slice) -> Tensor:
        return _numbers(rows, a.device) * (n + 1 if everything else 1)

    def score(part: Tensor, rows: slice) -> Tensor:
        if everything:
            return scale * ((part[:, None] * b).flatten(0, 1) @ c.T).view(len(part), -1)
        mine = (part * b[rows] * c[rows]).sum(1, keepdim=True)
        return scale * (part @ product.T).scatter(1, own(rows)[:, None], mine)

    def left_out(rows: slice) -> Tensor | None:
        near = space.near(rows) if spatial and space is not None else None
        return None if near is None else _set(near[:, p] & near[:, q], own(rows), False)

    def weight(rows: slice) -> Tensor | None:
        kernel = spatial["weight"](rows) if spatial else None
        return None if kernel is None else _set(kernel[:, p] * kernel[:, q], own(rows), 1.0)

    return _softmax(a, score, chunk, left_out, weight, own)


def gram(embeddings: Tensor, scale: Scale, space: Space | None = None, chunk: int = 0) -> Tensor:
    r"""GRAM: the smaller the volume spanned, the better the match (Cicchetti et al., 2025, arXiv 2412.11959).

    .. math:: V_{ij} = \sqrt{\det G(x^1_i, x^2_j, \ldots, x^m_j)}, \qquad
              -\frac1{2n} \sum_i \Big[ \log \frac{e^{-s V_{ii}}}{\sum_j e^{-s V_{ij}}}
              + \log \frac{e^{-s V_{ii}}}{\sum_j e^{-s V_{ji}}} \Big]

    G holds the inner products. Blind: V does not know signs (with m = 2, antiparallel counts as aligned), and with
    m > 2 it is 0 as soon as two vectors are parallel, wherever the rest is (and for all places alike, if those two are
    no anchors); add a pairwise term. The source's
    data-anchor matching, a classifier beside the loss, is not here. The root is smoothed at 0 by the precision of
    the dtype, so that gradients are finite at no volume.

    Args:
        embeddings: unit vectors (m, n, d), the anchor modality first. Places lacking one are left out by the caller.

    Raises:
        ValueError: fewer than two modalities, or a ``space`` of other places.
    """
    m, n, _ = embeddings.shape
    if m < 2:
        raise ValueError(f"a volume needs at least two modalities, not {m}")
    if not n:
        return _nothing(embeddings, scale)
    anchor, *others = _float(embeddings)
    inner = torch.stack([torch.stack([(u * v).sum(1) for v in others], 1) for u in others], 1)  # (n, m-1, m-1)
    volume, cofactors = _det(inner), _cofactors(inner)

    def score(part: Tensor, rows: slice) -> Tensor:
        g = [part @ other.T for other in others]
        inside = sum(cofactors[:, i, j] * g[i] * g[j] for i in range(m - 1) for j in range(m - 1))
        return -scale * _root((part * part).sum(1, keepdim=True) * volume - inside)

    return _softmax(anchor, score, chunk, both=True, **_spatial(space, n, n))


def triangle(x: Tensor, y: Tensor, z: Tensor, scale: Scale, space: Space | None = None, chunk: int = 0) -> Tensor:
    r"""TRIANGLE: the smaller the triangle of the three tips, the better the match (Cicchetti et al., 2025,
    arXiv 2509.24734).

    .. math:: A_{ij} = \tfrac12 \sqrt{|u|^2 |v|^2 - (u \cdot v)^2}, \qquad u = x_i - y_j, \quad v = x_i - z_j

    in place of V in :func:`gram`. Blind: A is 0 whenever two of the three coincide, wherever the third is.

    Args:
        x, y, z: unit vectors (n, d), the anchor modality first. Places lacking a modality are left out by the caller.
    """
    n = len(x)
    if not n:
        return _nothing(x, y, z, scale)
    x, y, z = map(_float, (x, y, z))
    side = y - z  # the same area from sides u and v - u: exactly 0 where y = z

    def score(part: Tensor, rows: slice) -> Tensor:
        u2 = (part * part).sum(1, keepdim=True) + (y * y).sum(1) - 2 * part @ y.T
        along = part @ side.T - (y * side).sum(1)
        return -scale * _root(u2 * (side * side).sum(1) - along**2) / 2

    return _softmax(x, score, chunk, both=True, **_spatial(space, n, n))


def _root(square: Tensor) -> Tensor:
    return (square.clamp(min=0) + torch.finfo(square.dtype).eps).sqrt()


def _det(matrix: Tensor) -> Tensor:
    """Determinants (n,) of small matrices (n, k, k) as polynomials: their gradients stay right where they vanish."""
    k = matrix.shape[-1]
    if k == 0:
        return matrix.new_ones(len(matrix))
    return sum((-1) ** j * matrix[:, 0, j] * _det(_minor(matrix, 0, j)) for j in range(k))


def _cofactors(matrix: Tensor) -> Tensor:
    k = matrix.shape[-1]
    rows = [[(-1) ** (i + j) * _det(_minor(matrix, i, j)) for j in range(k)] for i in range(k)]
    return torch.stack([torch.stack(row, 1) for row in rows], 1)


def _minor(matrix: Tensor, i: int, j: int) -> Tensor:
    rest = list(range(matrix.shape[-1]))
    return matrix[:, rest[:i] + rest[i + 1 :]][:, :, rest[:j] + rest[j + 1 :]]
