"""Published location encoders, loaded into the modules of this package: GeoCLIP, SatCLIP and CSP.

All of them take (lon, lat) degrees, whatever order the original takes, and come in float32, in ``eval`` mode, with
every parameter trainable. Outputs are not normalised, as published. Files are unpickled by PyTorch's restricted reader,
which runs no code of theirs.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import math
import pickle
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
GEOCLIP_SHA256 = "94b80ae3af89fca78539e129dd2929d321247f5ceeeb0a31bc2c31041a253394"  # of that file in version 1.3.0

# What a checkpoint may hold besides tensors and plain Python: NumPy numbers among the hyper-parameters.
_NUMPY_SCALAR = np._core.multiarray.scalar  # type: ignore[attr-defined]
_NUMPY_NUMBERS = [
    (_NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    _NUMPY_SCALAR,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("bool", "int32", "int64", "float32", "float64")),
]


def geoclip_location(path: str | Path | None = None) -> LocationEncoder:
    """Load the trained location encoder of GeoCLIP (Cepeda et al., 2023): 512 numbers per place.

    Given float32 positions, the output is that of the published code to the rounding of a matrix product. Float64
    positions are encoded more exactly and differ from it by up to 3e-5; the largest output is 0.09.

    Args:
        path: a ``location_encoder_weights.pth`` or the wheel it comes in. None: that of the installed distribution
            ``geoclip``, which is not imported.

    Raises:
        FileNotFoundError: no such file, or geoclip is not installed.
        ValueError: damaged, unsafe, or not this layout.

    Warns:
        UserWarning: the file is not that of geoclip 1.3.0.
    """
    if path is None:
        spec = importlib.util.find_spec("geoclip")  # finds, does not import
        if spec is None:
            raise FileNotFoundError("geoclip is not installed; pip install geoclip==1.3.0 --no-deps, or name its wheel")
        path = Path(str(spec.origin)).parent.parent / GEOCLIP_WEIGHTS
    path = Path(path)
    with _checked(path):
        data = zipfile.ZipFile(path).read(GEOCLIP_WEIGHTS) if path.suffix == ".whl" else path.read_bytes()
        state, encoding = _unpickle(data), RandomFourier()
        encoding.frequencies.copy_(torch.cat([state.pop(f"LocEnc{i}.capsule.0.b") for i in range(3)]))
        layers = {"capsule.1": 0, "capsule.3": 2, "capsule.5": 4, "head.0": 6}
        names = {f"LocEnc{i}.{theirs}": f"capsules.{i}.{ours}" for i in range(3) for theirs, ours in layers.items()}
        encoder = _encoder(encoding, Capsules(encoding.dim, 512), state, names)
    if hashlib.sha256(data).hexdigest() != GEOCLIP_SHA256:
        warnings.warn(f"{path}: not the weights of geoclip 1.3.0 (SHA-256 {GEOCLIP_SHA256})", stacklevel=2)
    return encoder


def satclip_location(checkpoint: str | Path) -> LocationEncoder:
    r"""Load the location encoder of a SatCLIP checkpoint (Klemmer et al., 2025): spherical harmonics and a SIREN.

    Sizes are read from the shapes of the weights. SatCLIP's table of harmonics is :math:`(-1)^l \pi^{[m = 0]}` times
    the orthonormal harmonics (the power of pi is a slip). These factors go into the first layer, so the output is the
    published one: within rounding at L = 10. At L = 40 the table itself is wrong towards the poles by up to 0.6, and
    only there this encoder differs.

    Args:
        checkpoint: a Lightning checkpoint of SatCLIP, or the state of its model or of its location encoder.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, unsafe, not this layout, or trained with another encoding, table or network.
    """
    with _checked(checkpoint):
        content = _unpickle(Path(checkpoint).read_bytes())
        settings = content.get("hyper_parameters", {})
        _require(settings, le_type="sphericalharmonics", pe_type="siren", harmonics_calculation="analytic")
        state = _part(content.get("state_dict", content), "nnet.", "layers.0.weight")
        hidden, features = state["layers.0.weight"].shape
        degrees, layers = math.isqrt(features), sum(key.endswith(".weight") for key in state) - 1
        l = torch.arange(degrees).repeat_interleave(2 * torch.arange(degrees) + 1)
        zonal = torch.arange(degrees**2) == l * l + l
        factors = (1.0 - 2.0 * (l % 2)).double() * torch.where(zonal, math.pi, 1.0).double()
        state["layers.0.weight"] = state["layers.0.weight"].double() * factors
        names = {f"layers.{i}": f"hidden.{i}" for i in range(layers)} | {"last_layer": "last"}
        net = Siren(degrees**2, len(state["last_layer.weight"]), hidden=hidden, layers=layers)
        return _encoder(SphericalHarmonics(degrees), net, state, names)


def csp_location(checkpoint: str | Path) -> LocationEncoder:
    """Load the location encoder of a CSP checkpoint (Mai et al., 2023): Space2Vec "grid" and one hidden layer.

    Scales, activation (LeakyReLU on iNat2018, GELU on fMoW) and dropout are read from the ``params`` of the checkpoint,
    whose layout is that of the code at github.com/gengchenmai/csp. CSP computes its sines in float64: give float64
    positions for the same numbers (in float32 the angle of the finest scale, up to 1,800 radians, is known to 1e-4).

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, unsafe, not this layout, or another of CSP's encoders.
    """
    with _checked(checkpoint):
        content = _unpickle(Path(checkpoint).read_bytes())
        params = content["params"]
        gelu = params["spa_f_act"] == "gelu"
        _require(params, spa_enc_type="gridcell", freq_init="geometric", spa_f_act="gelu" if gelu else "leakyrelu")
        scales, dropout = int(params["frequency_num"]), float(params["dropout"])
        encoding = Grid(scales, float(params["min_radius"]), float(params["max_radius"]))
        state = _part(content["state_dict"], "spa_enc.ffn.layers.", "0.linear.weight")
        hidden, dim = len(state["0.linear.weight"]), len(state["1.linear.weight"])
        if params.get("skip_connection") and hidden in (encoding.dim, dim):
            raise ValueError("layers of equal widths with skip_connection, which cannot be loaded")
        # CSP's columns run over coordinate, scale, (sine, cosine); Grid's over (sine, cosine), coordinate, scale.
        columns = state["0.linear.weight"].reshape(hidden, 2, scales, 2)
        state["0.linear.weight"] = columns.permute(0, 3, 1, 2).flatten(1)
        names = {"0.linear": "layers.0", "0.layernorm": "layers.3", "1.linear": "layers.4"}
        net = FeedForward(encoding.dim, dim, hidden=hidden, dropout=dropout, gelu=gelu)
        return _encoder(encoding, net, state, names)


@contextmanager
def _checked(path: str | Path) -> Iterator[None]:
    """Name the file whose content is wrong; draw no random numbers for weights that are replaced at once."""
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    except OSError:
        raise
    except Exception as error:  # damaged files raise errors of many kinds
        raise ValueError(f"{path}: not the published layout ({type(error).__name__}: {error})") from error


def _unpickle(data: bytes) -> dict[str, Any]:
    """Read a checkpoint by PyTorch's restricted reader: tensors and plain values, no code."""
    try:
        with torch.serialization.safe_globals(_NUMPY_NUMBERS):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # its message advises to read the file without the restriction
        raise ValueError("damaged, or with objects in it that could run code, which are refused") from None


def _require(settings: dict[str, Any], **wanted: str) -> None:
    for name, value in wanted.items():
        if settings.get(name, value) != value:
            raise ValueError(f"{name} is {settings[name]!r}; only {value!r} can be loaded")


def _part(state: dict[str, Any], module: str, first: str) -> dict[str, Any]:
    """Select the weights of a module, of which ``first`` is one; the longest name where it has several."""
    found = [key for key in state if key.endswith(module + first)]
    if not found:
        raise ValueError(f"no {module}{first} in it; it holds {', '.join(list(state)[:6])}, ...")
    prefix = max(found, key=len).removesuffix(first)
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _encoder(encoding: nn.Module, net: nn.Module, state: dict[str, Any], names: dict[str, str]) -> LocationEncoder:
    """Fill a network with exactly these weights, layers renamed by ``names`` from theirs to ours."""
    split = ((*key.rpartition("."), value) for key, value in state.items())
    net.load_state_dict({f"{names.get(layer, layer)}.{kind}": value for layer, _, kind, value in split})
    return LocationEncoder(encoding, net).eval()
