"""Published location encoders, loaded into the modules of this package: GeoCLIP, SatCLIP and CSP.

All take (lon, lat) degrees and come in float32, in ``eval`` mode, with every parameter trainable.
Outputs are not normalised, as published. Reading a file runs no code of its.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from geonb.encoders.harmonics import SphericalHarmonics
from geonb.encoders.location import LocationEncoder
from geonb.encoders.networks import Capsules, FeedForward, Siren
from geonb.encoders.positional import Grid, RandomFourier

GEOCLIP_WEIGHTS = "geoclip/model/weights/location_encoder_weights.pth"  # in the wheel of geoclip
GEOCLIP_SHA256 = "94b80ae3af89fca78539e129dd2929d321247f5ceeeb0a31bc2c31041a253394"  # in 1.3.0

# What a checkpoint may hold besides tensors and plain Python: NumPy numbers among the settings.
_SCALAR = np._core.multiarray.scalar  # type: ignore[attr-defined]
_NUMPY_NUMBERS = [_SCALAR, (_SCALAR, "numpy.core.multiarray.scalar"), np.dtype]
_NUMPY_NUMBERS += [type(np.dtype(kind)) for kind in ("bool", "i4", "i8", "f4", "f8")]
_WRAPPERS = re.compile(r"\b(module|_orig_mod)\.")  # in names of DistributedDataParallel and torch.compile


def geoclip_location(path: str | Path | None = None) -> LocationEncoder:
    """Load the location encoder of GeoCLIP (Cepeda et al., 2023): 512 numbers per place.

    Give float32 positions. Other weights than geoclip 1.3.0's, by SHA-256, are a warning.

    Args:
        path: the file of weights, or the wheel that has it; None for the installed ``geoclip``.

    Raises:
        FileNotFoundError: no such file, or geoclip is not installed.
        ValueError: damaged, unsafe, or not this layout.
    """
    if path is None:
        spec = importlib.util.find_spec("geoclip")  # finds, does not import
        if spec is None:
            raise FileNotFoundError("geoclip is not installed; pip install geoclip==1.3.0 --no-deps")
        path = Path(str(spec.origin)).parent.parent / GEOCLIP_WEIGHTS
    with _opened(path) as (state, digest):
        encoding, names = RandomFourier(), {}
        for i, frequencies in enumerate(encoding.frequencies.chunk(3)):
            frequencies.copy_(state.pop(f"LocEnc{i}.capsule.0.b"))
            for old, new in {"capsule.1": 0, "capsule.3": 2, "capsule.5": 4, "head.0": 6}.items():
                names[f"LocEnc{i}.{old}"] = f"capsules.{i}.{new}"
        encoder = _encoder(encoding, Capsules(encoding.dim, 512), state, names)
    if digest != GEOCLIP_SHA256:
        warnings.warn(f"{path}: not the weights of geoclip 1.3.0", stacklevel=2)
    return encoder


def satclip_location(checkpoint: str | Path) -> LocationEncoder:
    """Load the harmonics and the SIREN of a SatCLIP checkpoint (Klemmer et al., 2025).

    The checkpoint is that of Lightning, or the state of the model or of its location encoder. At
    L = 40 outputs differ from the published ones towards the poles, where SatCLIP's table is wrong.

    Raises:
        ValueError: damaged, unsafe, not this layout, or another encoding, table or network.
    """
    with _opened(checkpoint) as (content, _):
        settings = content.get("hyper_parameters", {})
        _require(settings, le_type="sphericalharmonics", pe_type="siren")
        _require(settings, harmonics_calculation="analytic")
        state = _part(content.get("state_dict", content), "nnet.", "layers.0.weight")
        hidden, features = state["layers.0.weight"].shape
        degrees, layers = math.isqrt(features), sum(key.endswith(".weight") for key in state) - 1
        # SatCLIP's harmonics are (-1)^l times the orthonormal ones, and pi times these where m = 0.
        l = torch.arange(degrees).repeat_interleave(2 * torch.arange(degrees) + 1)
        zonal = torch.arange(degrees**2) == l * l + l
        factors = (1.0 - 2.0 * (l % 2)).double() * torch.where(zonal, math.pi, 1.0).double()
        state["layers.0.weight"] = state["layers.0.weight"].double() * factors
        names = {f"layers.{i}": f"hidden.{i}" for i in range(layers)} | {"last_layer": "last"}
        net = Siren(degrees**2, len(state["last_layer.weight"]), hidden=hidden, layers=layers)
        return _encoder(SphericalHarmonics(degrees), net, state, names)


def csp_location(checkpoint: str | Path) -> LocationEncoder:
    """Load the "grid" and the network of a CSP checkpoint (Mai et al., 2023).

    CSP computes in float64: give float64 positions for the same numbers.

    Raises:
        ValueError: damaged, unsafe, not this layout, or another of CSP's encoders.
    """
    with _opened(checkpoint) as (content, _):
        params = content["params"]
        gelu = params["spa_f_act"] == "gelu"
        _require(params, spa_f_act="gelu" if gelu else "leakyrelu")
        _require(params, spa_enc_type="gridcell", freq_init="geometric")
        scales, dropout = int(params["frequency_num"]), float(params["dropout"])
        encoding = Grid(scales, float(params["min_radius"]), float(params["max_radius"]))
        state = _part(content["state_dict"], "spa_enc.ffn.layers.", "0.linear.weight")
        hidden, dim = len(state["0.linear.weight"]), len(state["1.linear.weight"])
        if params.get("skip_connection") and hidden in (encoding.dim, dim):
            raise ValueError("layers of equal widths with skip_connection, which cannot be loaded")
        # CSP's columns run over coordinate, scale, wave; Grid's over wave, coordinate, scale.
        columns = state["0.linear.weight"].reshape(hidden, 2, scales, 2)
        state["0.linear.weight"] = columns.permute(0, 3, 1, 2).flatten(1)
        names = {"0.linear": "layers.0", "0.layernorm": "layers.3", "1.linear": "layers.4"}
        net = FeedForward(encoding.dim, dim, hidden=hidden, dropout=dropout, gelu=gelu)
        return _encoder(encoding, net, state, names)


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Read a checkpoint, with its SHA-256, by PyTorch's restricted reader."""
    path = Path(path)
    try:
        wheel = path.suffix.lower() == ".whl"
        data = zipfile.ZipFile(path).read(GEOCLIP_WEIGHTS) if wheel else path.read_bytes()
        with torch.serialization.safe_globals(_NUMPY_NUMBERS):
            content = _unwrapped(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))
        if isinstance(content.get("state_dict"), dict):
            content["state_dict"] = _unwrapped(content["state_dict"])
        with torch.random.fork_rng(devices=[]):  # weights drawn are replaced at once
            yield content, hashlib.sha256(data).hexdigest()
    except OSError:
        raise
    except Exception as error:  # damaged files raise errors of many kinds
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in reason:  # advice to drop the restriction
            reason = "damaged, or with objects in it that could run code, which are refused"
        raise ValueError(f"{path}: not the published layout ({reason})") from None


def _unwrapped(state: dict[str, Any]) -> dict[str, Any]:
    return {_WRAPPERS.sub("", key): value for key, value in state.items()}


def _require(settings: dict[str, Any], **wanted: str) -> None:
    for name, value in wanted.items():
        if settings.get(name, value) != value:
            raise ValueError(f"{name} is {settings[name]!r}; only {value!r} can be loaded")


def _part(state: dict[str, Any], module: str, first: str) -> dict[str, Any]:
    """Select the weights of a module by one of them, ``first``; the longest name of several."""
    found = [key for key in state if key.endswith(module + first)]
    prefix = max(found, key=len, default=first).removesuffix(first)
    return {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}


def _encoder(encoding: nn.Module, net: nn.Module, state: dict, names: dict) -> LocationEncoder:
    """Fill a network with exactly these weights; ``names`` maps their layers to ours."""
    renamed = {}
    for key, value in state.items():
        layer, _, kind = key.rpartition(".")
        renamed[f"{names.get(layer, layer)}.{kind}"] = value
    net.load_state_dict(renamed)
    return LocationEncoder(encoding, net).eval()
