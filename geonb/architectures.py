"""Six ways to bind modalities into one space: three architectures and three binary baselines.

Each says which encoders it has, which pairs it binds by which loss, and what is frozen when. A batch is a
dict from modality to ``(values, present)``: values (n, ...) and a bool (n,) that tells which places have the
modality. Location is always present, its values are (lon, lat) in degrees. A new modality is a new head
in the dict; neither the losses nor the training loop know how many there are.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geonb._coords import EARTH_RADIUS_KM
from geonb.losses import fused_nt_xent, info_nce, symmetric_info_nce

Batch = dict[str, tuple[Tensor, Tensor]]
MAX_LOG_SCALE = math.log(100.0)  # CLIP's bound on the learned inverse temperature


class Architecture(nn.Module):
    """Encoders that share one space. Subclasses say how they are bound, in :meth:`loss`.

    Args:
        location: maps (n, 2) lon/lat degrees to (n, d).
        heads: one module per further modality; maps cached backbone features (n, d_m) to (n, d).
        exclude_km: places nearer to each other than this are not used as negatives of each other.
    """

    binary = False

    def __init__(self, location: nn.Module, heads: dict[str, nn.Module], exclude_km: float = 0.0):
        super().__init__()
        if not heads:
            raise ValueError("nothing to bind: give at least one modality besides location")
        if self.binary and len(heads) != 1:
            raise ValueError(f"{type(self).__name__} binds location with one modality, not with {sorted(heads)}")
        self.encoders = nn.ModuleDict({"location": location, **heads})
        self.log_scale = nn.ParameterDict({m: torch.tensor(math.log(1 / 0.07)) for m in heads})
        self.exclude_km = exclude_km
        self.gather = alone  # training on several devices puts an all-gather with gradients here

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.encoders)

    @property
    def heads(self) -> tuple[str, ...]:
        """The modalities besides location."""
        return self.modalities[1:]

    def embed(self, modality: str, values: Tensor) -> Tensor:
        """Unit vectors (n, d) of positions or of backbone features."""
        return F.normalize(self.encoders[modality](values), dim=-1)

    def scale(self, modality: str) -> Tensor:
        """The learned inverse temperature of location-modality pairs, at most 100."""
        return self.log_scale[modality].clamp(max=MAX_LOG_SCALE).exp()

    def begin_step(self, progress: float) -> None:
        """Called before each step with the share of training done, in [0, 1): phases and freezing."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.loss(batch)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Named terms, whose sum is minimised."""
        raise TypeError("Architecture does not say how to bind; use one of " + ", ".join(ARCHITECTURES))

    def embed_batch(self, batch: Batch, modality: str) -> Tensor:
        """Embeddings (n, d) of the whole batch, zeros where the modality is absent, of all devices."""
        values, present = batch[modality]
        embedded = self.embed(modality, values[present])
        rows = embedded.new_zeros(len(values), embedded.shape[1]).index_put((present.nonzero()[:, 0],), embedded)
        return self.gather(rows)

    def near(self, batch: Batch) -> Tensor | None:
        """Bool (n, n): pairs within ``exclude_km``, or None when nothing is excluded."""
        return within_km(self.gather(batch["location"][0]), self.exclude_km) if self.exclude_km > 0 else None

    def bind(self, batch: Batch, modality: str, location: Tensor, near: Tensor | None) -> Tensor:
        """Location-modality InfoNCE over the places of the batch that have the modality."""
        has = self.gather(batch[modality][1])
        near = None if near is None else near[has][:, has]
        other = self.embed_batch(batch, modality)
        return symmetric_info_nce(location[has], other[has], self.scale(modality), near)


def alone(tensor: Tensor) -> Tensor:
    """The gather of a single device: nothing to add."""
    return tensor


def within_km(lonlat: Tensor, radius_km: float) -> Tensor:
    """Bool (n, n): which places lie within a great-circle distance of each other."""
    lon, lat = torch.deg2rad(lonlat.double()).unbind(-1)
    xyz = torch.stack([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()], -1)
    return torch.cdist(xyz, xyz) <= 2 * math.sin(min(radius_km / (2 * EARTH_RADIUS_KM), math.pi / 2))


class ImageBind(Architecture):
    """Position as the hub: location-text and location-image are bound, text-image never
    (after Girdhar et al., 2023, where the image is the hub)."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        location, near = self.embed_batch(batch, "location"), self.near(batch)
        return {m: self.bind(batch, m, location, near) for m in self.heads}


class Cyclic(Architecture):
    """Modalities take turns, phase by phase, against a position encoder that is fixed.

    Training is cut into ``cycles * len(heads)`` phases; phase k binds modality k mod M alone. With
    ``location_learns=False`` the position encoder never changes, so no phase can make another forget. With
    True it keeps training in every phase, as in SALT (Hecht et al., 2026).
    """

    def __init__(
        self, location: nn.Module, heads: dict[str, nn.Module], exclude_km: float = 0.0, cycles: int = 4,
        location_learns: bool = False,
    ):  # fmt: skip
        super().__init__(location, heads, exclude_km)
        self.cycles, self.active = cycles, self.heads[0]
        location.requires_grad_(location_learns)

    def begin_step(self, progress: float) -> None:
        phase = int(progress * self.cycles * len(self.heads))
        self.active = self.heads[phase % len(self.heads)]
        for m in self.heads:
            self.encoders[m].requires_grad_(m == self.active)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {self.active: self.bind(batch, self.active, self.embed_batch(batch, "location"), self.near(batch))}


class Fused(Architecture):
    """One softmax over all modalities of all places of the batch, by the modified NT-Xent loss."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        embeddings = torch.stack([self.embed_batch(batch, m) for m in self.modalities])
        present = torch.stack([self.gather(batch[m][1]) for m in self.modalities])
        scale = torch.stack([self.scale(m) for m in self.heads]).mean()
        return {"fused": fused_nt_xent(embeddings, present, scale, self.near(batch))}


class SatCLIP(ImageBind):
    """Location and one modality by symmetric InfoNCE (Klemmer et al., 2023): the hub with a single spoke."""

    binary = True


class GeoCLIP(Architecture):
    """One direction, modality to location, against the batch and a queue of past positions
    (Cepeda et al., 2023). The queue holds coordinates, which are encoded anew at each step; it should be much
    shorter than the training set, or it holds the positives of the batch as well (GeoCLIP: 4,096 of 4.7 million)."""

    binary = True

    def __init__(self, location: nn.Module, heads: dict[str, nn.Module], exclude_km: float = 0.0, queue: int = 1024):
        super().__init__(location, heads, exclude_km)
        self.register_buffer("queue", torch.zeros(queue, 2))
        self.register_buffer("queued", torch.zeros((), dtype=torch.long))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        (m,) = self.heads
        has, near = self.gather(batch[m][1]), self.near(batch)
        location, other = self.embed_batch(batch, "location")[has], self.embed_batch(batch, m)[has]
        waiting = self.queue[: int(self.queued.clamp(max=len(self.queue)))]
        near = None if near is None else near[has][:, has]
        loss = info_nce(other, location, self.scale(m), near, extra=self.embed("location", waiting))
        if self.training:
            lonlat = self.gather(batch["location"][0])[has].to(self.queue.dtype)
            slots = (self.queued + torch.arange(len(lonlat), device=lonlat.device)) % len(self.queue)
            self.queue[slots] = lonlat
            self.queued += len(lonlat)
        return {m: loss}


class CSP(Architecture):
    """Three contrasts (Mai et al., 2023): a location against the batch's other images, an image against random
    locations, and a location against the others under two draws of dropout."""

    binary = True

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        (m,) = self.heads
        has, near = self.gather(batch[m][1]), self.near(batch)
        near = None if near is None else near[has][:, has]
        location, other = self.embed_batch(batch, "location")[has], self.embed_batch(batch, m)[has]
        again = self.embed_batch(batch, "location")[has]
        elsewhere = self.embed("location", uniform_on_sphere(len(location), batch["location"][0]))
        own = (other * location).sum(1, keepdim=True)
        logits = self.scale(m) * torch.cat([own, other @ elsewhere.T], 1)
        return {
            "batch": info_nce(location, other, self.scale(m), near),
            "random": F.cross_entropy(logits, torch.zeros(len(own), dtype=torch.long, device=own.device)),
            "dropout": info_nce(location, again, self.scale(m), near),
        }


def uniform_on_sphere(n: int, like: Tensor) -> Tensor:
    """(n, 2) positions drawn uniformly over the sphere's area, of the dtype and device of ``like``."""
    u, v = torch.rand(2, n, dtype=torch.float64).to(like.device)
    return torch.stack([360 * u - 180, torch.rad2deg(torch.asin(2 * v - 1))], 1).to(like.dtype)


ARCHITECTURES: dict[str, type[Architecture]] = {
    "imagebind": ImageBind,
    "cyclic": Cyclic,
    "fused": Fused,
    "satclip": SatCLIP,
    "geoclip": GeoCLIP,
    "csp": CSP,
}
