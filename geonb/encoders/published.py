"""Published location encoders, loaded into the modules of this package: GeoCLIP, SatCLIP and CSP.

All of them take (lon, lat) degrees, whatever order the original takes, and come in float32, in ``eval`` mode, with
every parameter trainable (``encoder.requires_grad_(False)`` freezes them). Outputs are not normalised, as published.

Files are unpickled by PyTorch's restricted reader, which runs no code of theirs. The names and shapes of the weights
must be those of the published layout: a ValueError names what is missing, unexpected or of another size.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import math
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geonb.encoders.harmonics import SphericalHarmonics
from geonb.encoders.location import LocationEncoder
from geonb.encoders.networks import Capsules, FeedForward, Siren
from geonb.encoders.positional import Grid, RandomFourier

GEOCLIP_WEIGHTS = "geoclip/model/weights/location_encoder_weights.pth"  # in the wheel of geoclip
GEOCLIP_SHA256 = "94b80ae3af89fca78539e129dd2929d321247f5ceeeb0a31bc2c31041a253394"  # of that file in version 1.3.0
GEOCLIP_ADVICE = "pip install geoclip==1.3.0 --no-deps, or give the path of its wheel"

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

    Three capsules of random Fourier features (frequencies of standard deviation 1, 16 and 256), three hidden layers of
    1,024, summed. Given float32 positions, the output is that of the published code to the rounding of a matrix
    product. Float64 positions are encoded more exactly and differ from it by up to 3e-5; the largest output is 0.09.

    Args:
        path: a ``location_encoder_weights.pth`` or the wheel it comes in (.whl; nothing is unpacked to disk). None:
            that of the installed distribution ``geoclip``, which is not imported.

    Raises:
        FileNotFoundError: no such file, or geoclip is not installed.
        ValueError: damaged, unsafe, or not this layout.

    Warns:
        UserWarning: the file is not that of geoclip 1.3.0.
    """
    data, where = _geoclip_file(path)
    digest = hashlib.sha256(data).hexdigest()
    if digest != GEOCLIP_SHA256:
        warnings.warn(
            f"{where}: not the weights of geoclip 1.3.0 (SHA-256 {digest}, expected {GEOCLIP_SHA256})", stacklevel=2
        )
    state = _unpickle(data, where)
    encoding = RandomFourier()
    frequencies = [_matrix(state, f"LocEnc{i}.capsule.0.b", where) for i in range(3)]
    if any(f.shape != (256, 2) for f in frequencies):
        raise ValueError(f"{where}: not the published layout: LocEnc*.capsule.0.b must have shape (256, 2)")
    encoding.frequencies.copy_(torch.cat(frequencies))
    layers = {"capsule.1": 0, "capsule.3": 2, "capsule.5": 4, "head.0": 6}
    names = {f"LocEnc{i}.{theirs}": f"capsules.{i}.{ours}" for i in range(3) for theirs, ours in layers.items()}
    state = _renamed({key: value for key, value in state.items() if not key.endswith(".capsule.0.b")}, names)
    return _encoder(encoding, Capsules, 512, state, where)


def satclip_location(checkpoint: str | Path) -> LocationEncoder:
    r"""Load the location encoder of a SatCLIP checkpoint (Klemmer et al., 2025): spherical harmonics and a SIREN.

    The number of degrees, of layers and of units are read from the shapes (released: L = 10 or 40, 2 x 512, 256).
    SatCLIP's table of harmonics is :math:`(-1)^l \pi^{[m = 0]}` times the orthonormal harmonics (the power of pi is
    a slip), its closed form :math:`(-1)^{l + m}` times. Those factors go into the first layer, so the harmonics of
    this package give the published output: within rounding at L = 10. At L = 40 the table itself is wrong towards the
    poles by up to 0.6, and only there this encoder differs from the published one.

    Args:
        checkpoint: a Lightning checkpoint of SatCLIP, or the state of its model or of its location encoder. Where it
            names no ``harmonics_calculation``, "analytic" is assumed, as in all released models.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, unsafe, not this layout, or not spherical harmonics with a SIREN.
    """
    content = _read(checkpoint)
    settings = content.get("hyper_parameters", {})
    for name, value in {"le_type": "sphericalharmonics", "pe_type": "siren"}.items():
        if settings.get(name, value) != value:
            raise ValueError(f"{checkpoint}: {name} is {settings[name]!r}; only {value!r} can be loaded")
    state = _under(content.get("state_dict", content), r"(.*\.)?nnet\.", "layers.0.weight", checkpoint)
    hidden, features = _matrix(state, "layers.0.weight", checkpoint).shape
    dim = len(_matrix(state, "last_layer.weight", checkpoint))
    degrees = math.isqrt(features)
    if degrees**2 != features:
        raise ValueError(f"{checkpoint}: its first layer takes {features} features; L degrees of harmonics are L²")
    layers = sum(re.fullmatch(r"layers\.\d+\.weight", key) is not None for key in state)
    state = _renamed(state, {f"layers.{i}": f"hidden.{i}" for i in range(layers)} | {"last_layer": "last"})
    factors = _satclip_factors(degrees, settings.get("harmonics_calculation", "analytic"), checkpoint)
    state["hidden.0.weight"] = state["hidden.0.weight"].double() * factors
    return _encoder(SphericalHarmonics(degrees), Siren, dim, state, checkpoint, hidden=hidden, layers=layers)


def csp_location(checkpoint: str | Path) -> LocationEncoder:
    """Load the location encoder of a CSP checkpoint (Mai et al., 2023): Space2Vec "grid" and one hidden layer.

    Both released pairs (iNat2018 with LeakyReLU, fMoW with GELU; pre-trained, or fine-tuned after it) have 32 scales
    from 0.1 to 360 degrees, 512 hidden units and 256 outputs. Scales, activation and dropout are read from the
    ``params`` of the checkpoint. CSP computes its sines in float64: give float64 positions for the same numbers (in
    float32 the angle of the finest scale, up to 1,800 radians, is known to 1e-4).

    The layout is that of the code at github.com/gengchenmai/csp (main/models.py, module.py, trainer.py).

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, unsafe, not this layout, or another of CSP's encoders.
    """
    content = _read(checkpoint)
    if not {"state_dict", "params"} <= content.keys():
        raise ValueError(f"{checkpoint}: not a checkpoint of CSP, which has 'state_dict' and 'params'")
    params = content["params"]
    activations = {"leakyrelu": "leaky_relu", "gelu": "gelu"}
    allowed = {"spa_enc_type": ["gridcell"], "freq_init": ["geometric"], "spa_f_act": list(activations)}
    for key, values in allowed.items():
        if params.get(key) not in values:
            raise ValueError(f"{checkpoint}: {key} is {params.get(key)!r}; only {' or '.join(values)} can be loaded")
    try:
        scales, dropout = int(params["frequency_num"]), float(params["dropout"])
        encoding = Grid(scales, float(params["min_radius"]), float(params["max_radius"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{checkpoint}: its params give no scales and dropout ({error})") from error
    state = _under(content["state_dict"], r"(.*\.)?spa_enc\.ffn\.layers\.", "0.linear.weight", checkpoint)
    hidden, features = _matrix(state, "0.linear.weight", checkpoint).shape
    dim = len(_matrix(state, "1.linear.weight", checkpoint))
    if features != encoding.dim:
        raise ValueError(f"{checkpoint}: {scales} scales are {encoding.dim} features; its first layer takes {features}")
    if params.get("skip_connection") and hidden in (features, dim):
        raise ValueError(f"{checkpoint}: layers of equal widths with skip_connection, which cannot be loaded")
    state = _renamed(state, {"0.linear": "layers.0", "0.layernorm": "layers.3", "1.linear": "layers.4"})
    # CSP's columns run over coordinate, scale, (sine, cosine); those of Grid over (sine, cosine), coordinate, scale.
    columns = torch.arange(features).view(2, scales, 2).permute(2, 0, 1).flatten()
    state["layers.0.weight"] = state["layers.0.weight"][:, columns]
    options = {"dropout": dropout, "activation": activations[params["spa_f_act"]]}
    return _encoder(encoding, FeedForward, dim, state, checkpoint, hidden=hidden, **options)


def _satclip_factors(degrees: int, calculation: str, where: str | Path) -> Tensor:
    """Return SatCLIP's harmonics divided by the orthonormal ones, float64 (degrees**2,)."""
    l = torch.arange(degrees).repeat_interleave(2 * torch.arange(degrees) + 1)
    m = torch.arange(degrees**2) - l * l - l
    if calculation == "analytic":
        return (1.0 - 2.0 * (l % 2)).double() * torch.where(m == 0, math.pi, 1.0).double()
    if calculation == "closed-form":
        return (1.0 - 2.0 * ((l + m) % 2)).double()
    raise ValueError(f"{where}: harmonics_calculation is {calculation!r}; 'analytic' or 'closed-form' can be loaded")


def _geoclip_file(path: str | Path | None) -> tuple[bytes, Path]:
    """Read GeoCLIP's weights; return them and the file that messages name."""
    if path is None:
        spec = importlib.util.find_spec("geoclip")  # finds, does not import
        if spec is None or not spec.submodule_search_locations:
            raise FileNotFoundError(f"the weights of GeoCLIP are not installed; {GEOCLIP_ADVICE}")
        path = Path(spec.submodule_search_locations[0]).parent / GEOCLIP_WEIGHTS
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; {GEOCLIP_ADVICE}")
    if path.suffix != ".whl":
        return path.read_bytes(), path
    try:
        with zipfile.ZipFile(path) as wheel:
            return wheel.read(GEOCLIP_WEIGHTS), path
    except (KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not the wheel of geoclip, or damaged ({error}); {GEOCLIP_ADVICE}") from error


def _read(path: str | Path) -> dict[str, Any]:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a checkpoint")
    return _unpickle(path.read_bytes(), path)


def _unpickle(data: bytes, where: str | Path) -> dict[str, Any]:
    """Read a checkpoint by PyTorch's restricted reader: tensors and plain values, no code."""
    try:
        with torch.serialization.safe_globals(_NUMPY_NUMBERS):
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # the reader has no common exception for damaged files
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise ValueError(
            f"{where}: not a checkpoint, damaged, or with objects in it that could run code, which are refused "
            f"({type(error).__name__}: {reason})"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(f"{where}: holds a {type(content).__name__} without names, not a checkpoint")
    return content


def _under(state: dict[str, Any], prefix: str, first: str, where: str | Path) -> dict[str, Any]:
    """Select the weights of one module, without its name; the longest where a checkpoint names it twice.

    Args:
        prefix: pattern of the name of the module.
        first: the name of a weight in it.
    """
    found = [match[0] for key in state if key.endswith(first) and (match := re.match(prefix, key))]
    if not found:
        raise ValueError(f"{where}: not this layout: no {first} in it; it holds {', '.join(list(state)[:6])}, ...")
    name = max(found, key=len)
    return {key.removeprefix(name): value for key, value in state.items() if key.startswith(name)}


def _renamed(state: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Rename layers, ``names`` from theirs to ours; those that are not in it keep their names."""
    split = ((*key.rpartition("."), value) for key, value in state.items())
    return {f"{names.get(layer, layer)}.{kind}": value for layer, _, kind, value in split}


def _matrix(state: dict[str, Any], key: str, where: str | Path) -> Tensor:
    """Return a weight whose shape is read."""
    if not isinstance(state.get(key), Tensor) or state[key].ndim != 2:
        raise ValueError(f"{where}: not this layout: {key} is missing, or is not a matrix")
    return state[key]


def _encoder(
    encoding: nn.Module, kind: type[nn.Module], dim: int, state: dict[str, Any], where: str | Path, **options: Any
) -> LocationEncoder:
    """Make a network of exactly these weights and put it on an encoding."""
    with torch.device("meta"):  # no memory, no random numbers drawn
        net = kind(encoding.dim, dim, **options)
    try:
        net.load_state_dict({key: value.float().contiguous() for key, value in state.items()}, assign=True)
    except (RuntimeError, AttributeError) as error:  # other names, other shapes, or a value that is no tensor
        raise ValueError(f"{where}: not the published layout: {error}") from error
    return LocationEncoder(encoding, net).eval()
