"""Six ways to bind modalities into one space: three architectures and three binary baselines.

A batch maps a modality to ``(values, present)``: values (n, ...), for location (lon, lat) in
degrees, and a bool (n,). This module does not know files or optimisers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from operator import index
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from geonb.geo import EARTH_RADIUS_KM, unit_xyz_tensor
from geonb.losses import Space, csp, geoclip, info_nce, melt, nt_xent_fused

Batch = dict[str, tuple[Tensor, Tensor]]
Tensors = dict[str, Tensor]
Heads = dict[str, nn.Module]
FIRST_LOG, LARGEST_LOG = math.log(1 / 0.07), math.log(100.0)  # scales of CLIP (Radford et al., 2021)


class Architecture(nn.Module, ABC):
    """Encoders that share one space. A subclass defines how they are bound, in :meth:`loss`.

    Args:
        location: maps (n, 2) lon/lat degrees to (n, d).
        heads: one module per further modality; maps its values (n, ...) to (n, d).
        location_learns: False keeps the location encoder as it is, without dropout.
        exclude_km, soft_km, chunk: see :mod:`geonb.losses`.
        jitter_km: standard deviation by which training displaces positions, east and north.
        parts: lengths of consecutive parts of the vectors, each normalised by itself; () for one.
        weights: of the parts, by modality, equal by default; the larger one counts more in a cosine.
        micro_batch: rows embedded at a time, 0 for all, with the same loss; fewer need less
            memory and a second pass through the encoders (GradCache, Gao et al., 2021).
    """

    binary = False
    phases = 1

    def __init__(
        self, location: nn.Module, heads: Heads, *, location_learns: bool = True,
        exclude_km: float = 0.0, soft_km: float = 0.0, jitter_km: float = 0.0, parts: Sequence[int] = (),
        weights: dict[str, Sequence[float]] | None = None, micro_batch: int = 0, chunk: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        if self.binary and len(heads) != 1:
            raise ValueError(f"{type(self).__name__} binds location with one modality")
        numbers = exclude_km, soft_km, jitter_km, micro_batch, chunk
        if not all(number >= 0 for number in numbers) or exclude_km and soft_km:
            raise ValueError("set one of exclude_km and soft_km; these and the others are at least 0")
        self.encoders = nn.ModuleDict({"location": location, **heads})
        self.location_learns = location_learns
        location.requires_grad_(location_learns)
        self.exclude_km, self.soft_km, self.jitter_km = exclude_km, soft_km, jitter_km
        self.micro_batch, self.chunk = index(micro_batch), index(chunk)  # TypeError for 2.5
        self.parts, self.weights = tuple(parts), weights or {}
        if any(len(of_modality) != len(self.parts) for of_modality in self.weights.values()):
            raise ValueError(f"weights: give {len(self.parts)} for each modality, one per part")
        self.log_scale = nn.ParameterDict({m: torch.tensor(FIRST_LOG) for m in heads})
        self.active = self.heads
        self.gather: Callable[[Tensor], Tensor] = lambda x: x  # on several devices, an all-gather
        self.generator = torch.Generator()  # of draws that all devices must share

    def train(self, mode: bool = True) -> Architecture:
        super().train(mode)
        if not self.location_learns:
            self.encoders["location"].eval()
        return self

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of all modalities, the location first."""
        return tuple(self.encoders)

    @property
    def heads(self) -> tuple[str, ...]:
        """The modalities besides location."""
        return self.modalities[1:]

    @property
    def pairs(self) -> set[frozenset[str]]:
        """Pairs of modalities that a loss compares; by default those with location."""
        return {frozenset(("location", m)) for m in self.heads}

    def scale(self, pair: str) -> Tensor:
        """Return the learned inverse temperature, of shape (), of a modality."""
        return self.log_scale[pair].exp()

    @torch.no_grad()
    def clamp_scales(self) -> None:
        """Keep inverse temperatures at most 100, after each step."""
        for log_scale in self.log_scale.values():
            log_scale.clamp_(max=LARGEST_LOG)

    def embed(self, modality: str, values: Tensor) -> Tensor:
        """Embed inputs of a modality as unit vectors (n, d)."""
        z = self.encoders[modality](values)
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        if self.parts:
            weights = self.weights.get(modality, [1.0] * len(self.parts))
            pairs = zip(weights, z.split(self.parts, -1), strict=True)
            z = torch.cat([weight * F.normalize(part, dim=-1) for weight, part in pairs], -1)
        return F.normalize(z, dim=-1)

    def phase(self, progress: float) -> int:
        """Return the phase of training, from 0, after a share of the steps."""
        return min(int(progress * self.phases + 1e-9), self.phases - 1)

    def begin_step(self, progress: float, seed: int) -> None:
        """Prepare a step, given the share of training done, and its seed."""
        self.generator.manual_seed(seed)

    def views(self, batch: Batch) -> dict[str, tuple[str, Tensor, Tensor]]:
        """Choose views of a batch: name -> (modality, values (n, ...), present)."""
        lonlat, present = batch["location"]
        if self.training and self.jitter_km:
            lonlat = _jittered(lonlat, self.jitter_km)
        return {"location": ("location", lonlat, present)} | {m: (m, *batch[m]) for m in self.active}

    def shared_views(self, lonlat: Tensor) -> Tensors:
        """Choose further positions (k, 2), degrees, to embed."""
        return {}

    def forward(self, batch: Batch) -> Tensors:
        """Compute named terms, each of shape (), whose sum is minimised."""
        lonlat, real = (self.gather(part) for part in batch["location"])
        shared = {}
        for name, positions in self.shared_views(lonlat[real]).items():
            shared[name] = self.embed_rows("location", positions, torch.ones_like(positions[:, 0]))
        z, has = {}, {}
        for name, (modality, values, present) in self.views(batch).items():
            z[name] = self.gather(self.embed_rows(modality, values, present))
            has[name] = self.gather(present)
        with torch.autocast(lonlat.device.type, enabled=False):
            return self.loss(z | shared, has, lonlat)

    def embed_rows(self, modality: str, values: Tensor, present: Tensor) -> Tensor:
        """Embed the present rows as unit vectors; the others of (n, d) are 0."""
        rows = present.nonzero()[:, 0]
        if self.micro_batch and torch.is_grad_enabled():
            embed = partial(checkpoint, self.embed, modality, use_reentrant=False)
            embedded = torch.cat([embed(values[part]) for part in rows.split(self.micro_batch)])
        else:
            embedded = self.embed(modality, values[rows])
        return embedded.new_zeros(len(values), embedded.shape[1]).index_put((rows,), embedded)

    @abstractmethod
    def loss(self, z: Tensors, has: Tensors, lonlat: Tensor) -> Tensors:
        """Compute terms () of unit vectors (n, d), and positions (n, 2), degrees."""

    def space(self, anchors: Tensor, candidates: Tensor | None = None) -> Space | None:
        """Describe anchors and candidates (k, 2), degrees; None if distances do not matter."""
        matters = self.exclude_km or self.soft_km
        return Space(anchors, candidates, self.exclude_km, self.soft_km) if matters else None

    def bind(self, a: str, b: str, z: Tensors, has: Tensors, lonlat: Tensor, pair: str) -> Tensor:
        """Compute the symmetric InfoNCE, of shape (), of two views."""
        both = has[a] & has[b]
        space = self.space(lonlat[both])
        return info_nce(z[a][both], z[b][both], self.scale(pair), space, chunk=self.chunk)


class ImageBind(Architecture):
    """Bind location with every other modality (after Girdhar et al., 2023)."""

    def loss(self, z: Tensors, has: Tensors, lonlat: Tensor) -> Tensors:
        return {m: self.bind("location", m, z, has, lonlat, m) for m in self.heads}


class Cyclic(Architecture):
    """Modalities take turns, phase by phase, against a fixed location encoder.

    Phase k of ``cycles * len(heads)`` binds the modality k mod M of ``order``; ``replay`` is the
    share of the steps that bind another one. A location encoder that learns, as in SALT (Hecht
    et al., 2026), can forget.
    """

    def __init__(
        self, location: nn.Module, heads: Heads, cycles: int = 4, order: Sequence[str] = (),
        replay: float = 0.0, location_learns: bool = False, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(location, heads, location_learns=location_learns, **options)
        self.order = tuple(order) or self.heads
        if sorted(self.order) != sorted(self.heads):
            raise ValueError(f"order must name each of {', '.join(self.heads)} once")
        if cycles < 1 or not 0 <= replay < 1:
            raise ValueError("need cycles >= 1 and replay in [0, 1)")
        self.cycles, self.replay, self.phases = cycles, replay, cycles * len(heads)

    def begin_step(self, progress: float, seed: int) -> None:
        super().begin_step(progress, seed)
        turn = self.order[self.phase(progress) % len(self.order)]
        others = [m for m in self.order if m != turn]
        chance, which = torch.rand(2, generator=self.generator).tolist()
        replayed = others and chance < self.replay
        self.active = (others[int(which * len(others))],) if replayed else (turn,)

    def loss(self, z: Tensors, has: Tensors, lonlat: Tensor) -> Tensors:
        return {m: self.bind("location", m, z, has, lonlat, m) for m in self.active}


class Fused(Architecture):
    """One softmax over all modalities (Chen et al., 2020; positives of Khosla et al., 2020).

    ``form`` is one of :func:`geonb.losses.nt_xent_fused`, or "melt": a modality drawn at random
    represents each place, see :func:`geonb.losses.melt`.
    """

    def __init__(self, location: nn.Module, heads: Heads, form: str = "mean", **options: Any) -> None:
        super().__init__(location, heads, **options)
        if form not in ("mean", "logsumexp", "melt"):
            raise ValueError(f"form must be mean, logsumexp or melt, not {form!r}")
        self.form = form
        self.log_scale = nn.ParameterDict({"shared": torch.tensor(FIRST_LOG)})

    @property
    def pairs(self) -> set[frozenset[str]]:
        """All pairs; with "melt" those with location."""
        if self.form == "melt":
            return super().pairs
        return {frozenset(pair) for pair in combinations(self.modalities, 2)}

    def scale(self, pair: str) -> Tensor:
        return super().scale("shared")

    def loss(self, z: Tensors, has: Tensors, lonlat: Tensor) -> Tensors:
        embeddings, present = (torch.stack([x[m] for m in self.modalities]) for x in (z, has))
        scale, space = self.scale("shared"), self.space(lonlat)
        if self.form != "melt":
            fused = nt_xent_fused(embeddings, present, scale, space, self.form, chunk=self.chunk)
            return {"fused": fused}
        real, others = present[0], present[1:]
        chance = torch.rand(int(real.sum()), len(others), generator=self.generator).T
        drawn = torch.zeros_like(real, dtype=torch.long)  # the modality with the largest number
        drawn[real] = chance.to(real.device).masked_fill(~others[:, real], -1.0).argmax(0)
        drawn = drawn.masked_fill(~(real & others.any(0)), -1)
        return {"melt": melt(embeddings[0], embeddings[1:], drawn, scale, space, chunk=self.chunk)}


class SatCLIP(ImageBind):
    """Location and one modality by symmetric InfoNCE (Klemmer et al., 2023).

    As published: harmonics, a SIREN, a linear head on a frozen backbone. Different: the learned
    temperature is clamped, negatives are the whole batch (published: 512), images are cached.
    """

    binary = True


class GeoCLIP(Architecture):
    """Modality to location, against a batch and a queue of positions (Cepeda et al., 2023).

    As published: Fourier features, an MLP head, a queue of coordinates, much shorter than the
    training set (4,096 of 4.7 million). Different: it starts empty and takes any batch size.
    """

    binary = True

    def __init__(self, location: nn.Module, heads: Heads, queue: int = 1024, **options: Any) -> None:
        super().__init__(location, heads, **options)
        self.register_buffer("queue", torch.zeros(queue, 2))
        self.register_buffer("queued", torch.zeros((), dtype=torch.long))

    def shared_views(self, lonlat: Tensor) -> Tensors:
        return {"queue": self.queue[: int(self.queued)].clone().to(lonlat.dtype)}

    def loss(self, z: Tensors, has: Tensors, lonlat: Tensor) -> Tensors:
        (m,) = self.heads
        both = has["location"] & has[m]
        queued = self.queue[: len(z["queue"])].to(lonlat.dtype)
        space = self.space(lonlat[both], torch.cat([lonlat[both], queued]))
        image, location = z[m][both], z["location"][both]
        loss = geoclip(image, location, z["queue"], self.scale(m), space, chunk=self.chunk)
        if self.training and len(self.queue):
            newest = lonlat[both][-len(self.queue) :].to(self.queue.dtype)
            slots = self.queued + torch.arange(len(newest), device=newest.device)
            self.queue[slots % len(self.queue)] = newest
            self.queued += len(newest)
        return {m: loss}


class CSP(Architecture):
    """Location with images, images with random locations, location with itself (Mai et al., 2023).

    As published: a grid encoding, a linear head; ``temperatures`` of the terms were (20, 1, 1),
    () learns one. Different: random locations are uniform over the sphere and shared.
    """

    binary = True

    def __init__(self, location: nn.Module, heads: Heads, temperatures: Sequence = (), **options: Any) -> None:
        super().__init__(location, heads, **options)
        if len(temperatures) not in (0, 3) or not all(t > 0 for t in temperatures):
            raise ValueError(f"temperatures are three positive numbers, not {temperatures}")
        self.temperatures = temperatures

    def views(self, batch: Batch) -> dict[str, tuple[str, Tensor, Tensor]]:
        views = super().views(batch)
        return views | {"second": views["location"]}

    def shared_views(self, lonlat: Tensor) -> Tensors:
        self.drawn = _uniform_on_sphere(len(lonlat), self.generator).to(lonlat)
        return {"random": self.drawn}

    def loss(self, z: Tensors, has: Tensors, lonlat: Tensor) -> Tensors:
        (m,) = self.heads
        both = has["location"] & has[m]
        scales = [1 / t for t in self.temperatures] or [self.scale(m)] * 3
        location, image, second = (z[view][both] for view in ("location", m, "second"))
        space = self.space(lonlat[both], self.drawn)
        return csp(location, image, second, z["random"], scales, space, chunk=self.chunk)


def _uniform_on_sphere(n: int, generator: torch.Generator) -> Tensor:
    u, v = torch.rand(2, n, dtype=torch.float64, generator=generator)
    return torch.stack([360 * u - 180, torch.rad2deg(torch.asin(2 * v - 1))], 1)


def _jittered(lonlat: Tensor, sd_km: float) -> Tensor:
    """Displace positions (n, 2), degrees, by normal draws of ``sd_km`` each way."""
    up, lon = unit_xyz_tensor(lonlat.double()), torch.deg2rad(lonlat[:, 0].double())
    east = torch.stack([-lon.sin(), lon.cos(), torch.zeros_like(lon)], 1)
    north = torch.linalg.cross(up, east)
    step = torch.randn(len(lonlat), 2, device=lonlat.device, dtype=torch.float64)
    step = step * (sd_km / EARTH_RADIUS_KM)
    angle = step.norm(dim=1, keepdim=True)
    direction = (step[:, :1] * east + step[:, 1:] * north) / angle.clamp(min=1e-300)
    x, y, height = (up * angle.cos() + direction * angle.sin()).unbind(1)
    moved = torch.stack([torch.atan2(y, x), torch.asin(height.clamp(-1, 1))], 1)
    return torch.rad2deg(moved).to(lonlat.dtype)


#: The architectures by name.
ARCHITECTURES: dict[str, type[Architecture]] = {
    kind.__name__.lower(): kind for kind in (ImageBind, Cyclic, Fused, SatCLIP, GeoCLIP, CSP)
}
