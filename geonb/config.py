"""The settings of a run, and the untrained architecture that they describe."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import field, replace
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import torch
import yaml
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from geonb.architectures import ARCHITECTURES, Architecture
from geonb.data.splits import blocked_split, random_split
from geonb.data.store import PlaceStore
from geonb.encoders.head import Head
from geonb.encoders.location import LocationEncoder, network, positional_encoding

T = TypeVar("T")
IMAGE_BACKBONE = "random_conv"

_DEFAULTS: dict[str, dict] = {
    "encoding": {"name": "spherical_harmonics", "degrees": 20, "decay": 1.0},
    "network": {"name": "residual"},
    "head": {"name": "residual", "hidden": 256},
}
#: The encoders of each architecture, where the config names no others.
ENCODERS: dict[str, dict[str, dict]] = {
    "imagebind": _DEFAULTS,
    "cyclic": _DEFAULTS,
    "fused": _DEFAULTS,
    "satclip": {
        "encoding": {"name": "spherical_harmonics", "degrees": 20},
        "network": {"name": "siren", "hidden": 256},
        "head": {"name": "linear"},
    },
    "geoclip": {
        "encoding": {"name": "random_fourier"},
        "network": {"name": "capsules", "hidden": 256, "layers": 2},
        "head": {"name": "mlp"},
    },
    "csp": {"encoding": {"name": "grid"}, "network": {"name": "feed_forward"}, "head": {"name": "linear"}},
}


def _named(settings: Any) -> Any:
    if not isinstance(settings, dict) or "name" not in settings:
        raise ValueError("give a mapping with a name, such as {name: residual}")
    return settings


def _finite(settings: dict[str, Any]) -> dict[str, Any]:
    for name, value in settings.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} is {value}, not a finite number")
    return settings


Count = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0)]
Options = Annotated[dict[str, Any], AfterValidator(_finite)]
Named = Annotated[Options, BeforeValidator(_named)]


def _one_line_errors(cls: type[T]) -> type[T]:
    validate = cls.__init__

    @wraps(validate)
    def __init__(self: T, *args: Any, **kwargs: Any) -> None:
        try:
            validate(self, *args, **kwargs)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            if first["type"] == "unexpected_keyword_argument":
                near = get_close_matches(where, [*vars(cls)["__dataclass_fields__"]], 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise ValueError(f"{where} is not a field of the config{hint}") from None
            message = first["msg"].removeprefix("Value error, ")
            raise ValueError(f"{where}: {message}; got {first['input']!r}") from None

    cls.__init__ = __init__  # type: ignore[method-assign,assignment]
    return cls


@_one_line_errors
@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class TrainConfig:
    """Settings of a training run; ValueError if faulty. :func:`resolve` fills fields that are None.

    Attributes:
        modalities: names, with "location"; None takes all (baselines: the last one).
        dim: dimensions of the space; more of them allow finer detail and cost time.
        encoding, network: of the location encoder, each ``{"name": ..., **options}``.
        head: network on the features of every other modality, ``{"name": ..., **options}``.
        options: of the architecture, see its class in :mod:`geonb.architectures`.
        backbones: names of the frozen encoders of "text" and of image modalities, by modality.
        batch_size: places per step, over all devices; more of them are more negatives.
        lr, betas, weight_decay: of AdamW; no decay on temperatures, norms and biases.
        schedule: "cosine" to zero or "constant", after a warm-up over 5 % of the steps.
        ema: decay of a moving average of the weights, which is the result; 0 for none.
        validate_every: steps between validations; the weights with the lowest loss are kept.
        patience: stop after this many validations without improvement; None for never.
        split: ``kind`` "blocked" or "random", with options of :mod:`geonb.data.splits`.
        devices, nodes: GPUs (or processes) on each machine, and the number of machines.
    """

    modalities: tuple[str, ...] | None = None
    dim: Count = 256
    encoding: Named | None = None
    network: Named | None = None
    head: Named | None = None
    options: Options = field(default_factory=dict)
    backbones: dict[str, str] = field(default_factory=dict)
    steps: Count = 400
    batch_size: Annotated[int, Field(ge=2)] = 512
    lr: NonNegative = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: NonNegative = 0.05
    schedule: Literal["cosine", "constant"] = "cosine"
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    validate_every: Count = 25
    patience: Count | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    split: Options = field(default_factory=lambda: {"kind": "blocked", "size_km": 500.0, "buffer_km": 50.0, "seed": 0})
    precision: Literal["32-true", "bf16-mixed", "64-true"] = "32-true"
    devices: Count = 1
    nodes: Count = 1


class _Loader(yaml.SafeLoader):
    """Safe YAML that also reads 1e-4 as a number, as YAML 1.2 does, and refuses a key that is there twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = [key.value for key, _ in node.value]
        if twice := [name for name in names if names.count(name) > 1]:
            raise yaml.YAMLError(f"{twice[0]} is there twice")
        return super().construct_mapping(node, deep)


_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def config_from_file(path: str | Path, base: TrainConfig | None = None) -> TrainConfig:
    """Read fields from YAML in UTF-8, others are those of ``base``; raises ValueError if faulty."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    try:
        given = yaml.load(content.decode("utf-8-sig"), _Loader)  # a SafeLoader
    except UnicodeDecodeError as error:
        encoding = "UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "CP1252"
        raise ValueError(
            f"{path}: not UTF-8 ({error}); save it as UTF-8, for example: iconv -f {encoding} -t UTF-8 OLD > NEW"
        ) from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(given, dict):
        raise ValueError(f"{path}: write fields of the config, such as steps: 400")
    try:
        return replace(base or TrainConfig(), **given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def resolve(
    architecture: str, store: PlaceStore, config: TrainConfig, extra: dict[str, np.ndarray] | None = None
) -> TrainConfig:
    """Fill open fields of a config; ``extra`` has further features (places, d), NaN for none.

    Raises ValueError for an unknown architecture or modality, or ill-shaped features.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {architecture!r}; choose one of {', '.join(ARCHITECTURES)}")
    if config.patience and architecture == "cyclic":
        raise ValueError("patience: it would stop in the middle of a phase of cyclic; leave it out")
    kind, extra = ARCHITECTURES[architecture], extra or {}
    for name, values in extra.items():
        _check_extra(name, values, store)
    own = store.modalities[1:]
    available = [*own, *extra]
    modalities = config.modalities or ("location", *(available[-1:] if kind.binary else available))
    has = f"{store.path} has {', '.join(['location', *available])}"
    if unknown := [m for m in modalities if m not in ("location", *available)]:
        raise ValueError(f"no modality {unknown[0]!r}; {has}")
    bound = [m for m in modalities if m != "location"]
    if not bound or len({"location", *bound}) != len(modalities):
        raise ValueError(f"bind location and at least one other, each once; {has}")
    if strange := config.backbones.keys() - set(own):
        raise ValueError(f"backbones: {min(strange)!r} is none of {', '.join(own)}")
    backbones = dict.fromkeys(own, IMAGE_BACKBONE) | {"text": "auto"} | config.backbones
    defaults = ENCODERS[architecture]
    return replace(
        config,
        modalities=("location", *bound),
        encoding=config.encoding or defaults["encoding"],
        network=config.network or defaults["network"],
        head=config.head or defaults["head"],
        backbones={m: backbones[m] for m in bound if m not in extra},
    )


def _check_extra(name: str, values: np.ndarray, store: PlaceStore) -> None:
    if name in store.modalities or not name.isidentifier() or np.ndim(values) != 2 or len(values) != len(store):
        wanted = f"a new name and an array ({len(store)}, d), a row per place of the store"
        raise ValueError(f"extra modality {name!r}: give {wanted}, not {np.shape(values)}")
    if np.isinf(values).any():
        place = store.place_id[np.isinf(values).any(1).argmax()]
        raise ValueError(f"extra modality {name!r}: place {place} is infinite; NaN means none")


def split_of(store: PlaceStore, config: TrainConfig | dict) -> np.ndarray:
    """Label places (places,) "train", "val", "test", "buffer"; raises ValueError if faulty."""
    options = dict(config["split"] if isinstance(config, dict) else config.split)
    kind = options.pop("kind", None)
    if kind not in ("blocked", "random"):
        raise ValueError(f"split: its kind is blocked or random, not {kind!r}")
    with _naming("split"):
        if kind == "random":
            return random_split(len(store), **options)
        return blocked_split(store.lonlat, **options)


def build(architecture: str, config: TrainConfig, feature_dims: dict[str, int]) -> Architecture:
    """Build an untrained architecture from a resolved config and the features of each modality."""
    assert config.encoding and config.network and config.head and config.modalities, "a resolved config"
    torch.manual_seed(config.seed)
    with _naming("encoding"):
        encoding = positional_encoding(**config.encoding)
    with _naming("network"):
        learned = network(dim_in=encoding.dim, dim=config.dim, **config.network)
    with _naming("head"):
        options = dict(config.head)
        name = options.pop("name")
        heads = {m: Head(feature_dims[m], config.dim, name, **options) for m in config.modalities[1:]}
    with _naming("options"):
        location = LocationEncoder(encoding, learned)
        return ARCHITECTURES[architecture](location, heads, **config.options)


@contextmanager
def _naming(field: str) -> Iterator[None]:
    try:
        yield
    except (TypeError, RuntimeError, ArithmeticError) as error:
        raise ValueError(f"{field}: {error}; a misspelt option, or one of the wrong type or size?") from error
