"""Published location encoders, loaded into the modules of this package: GeoCLIP, SatCLIP and CSP.

All of them take (lon, lat) degrees, whatever order the original takes, and come in float32, in ``eval`` mode, with
every parameter trainable (``encoder.requires_grad_(False)`` freezes them). Outputs are not normalised, as published.

Files are unpickled by PyTorch's restricted reader, which runs no code of theirs. Keys and shapes must be those of the
published layout, all of them and no others: a ValueError names what is missing, unknown or misshapen.
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

_NUMPY_SCALAR = np._core.multiarray.scalar  # type: ignore[attr-defined]
# Values that a checkpoint may hold besides tensors and plain Python: NumPy numbers among the hyper-parameters.
NUMPY_NUMBERS = [
    (_NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    _NUMPY_SCALAR,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("bool", "int32", "int64", "float32", "float64")),
]


def geoclip_location(path: str | Path | None = None) -> LocationEncoder:
    """The trained location encoder of GeoCLIP (Cepeda et al., 2023): 512 numbers a place.

    Three capsules of random Fourier features (frequencies of standard deviation 1, 16 and 256), three hidden layers of
    1,024, summed. Given float32 positions, the output is that of the published code to the rounding of a matrix
    product; float64 positions are encoded more exactly and differ from it by up to 3e-5 (the largest output is 0.09).

    Args:
        path: a ``location_encoder_weights.pth`` or the wheel it comes in (.whl; nothing is unpacked to disk). None:
            looked for in the installed distribution ``geoclip``, which is not imported.

    Raises:
        FileNotFoundError: not there, or geoclip is not installed.
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
    parts = len(encoding.scales)
    net = _empty(Capsules, encoding.dim, 512, parts=parts)
    layers = {0: "capsule.1", 2: "capsule.3", 4: "capsule.5", 6: "head.0"}
    names = {
        f"capsules.{i}.{ours}.{kind}": f"LocEnc{i}.{theirs}.{kind}"
        for i in range(parts) for ours, theirs in layers.items() for kind in ("weight", "bias")
    }  # fmt: skip
    frequencies = [f"LocEnc{i}.capsule.0.b" for i in range(parts)]
    shapes = _shapes(net, names) | {key: (len(encoding.frequencies) // parts, 2) for key in frequencies}
    _check(state, shapes, where)
    encoding.frequencies.copy_(torch.cat([state[key] for key in frequencies]))
    return _encoder(encoding, net, {ours: state[theirs] for ours, theirs in names.items()})


def satclip_location(checkpoint: str | Path) -> LocationEncoder:
    r"""The location encoder of a SatCLIP checkpoint (Klemmer et al., 2025): spherical harmonics and a SIREN.

    The number of degrees, of layers and of units are read from the shapes (released: L = 10 or 40, 2 x 512, 256).
    SatCLIP's table of harmonics is :math:`(-1)^l \pi^{[m = 0]}` times the orthonormal harmonics (the power of pi is
    a slip), its closed form :math:`(-1)^{l + m}` times. Those factors go into the first layer, so right harmonics
    give the published output: within rounding at L = 10; at L = 40 the table itself is wrong towards the poles by
    up to 0.6, and there, only, this encoder differs from the published one.

    Args:
        checkpoint: a Lightning checkpoint of SatCLIP, or the state of its model or of its location encoder alone
            (PyTorch or .safetensors). Where it names no ``harmonics_calculation``, it is taken to be "analytic" as
            in all released models.

    Raises:
        FileNotFoundError: not there.
        ValueError: damaged, unsafe, not this layout, or not spherical harmonics with a SIREN.
    """
    content = _read(checkpoint)
    state = _part(content, "state_dict", checkpoint) if "state_dict" in content else content
    settings = _part(content, "hyper_parameters", checkpoint) if "hyper_parameters" in content else {}
    for name, value in {"le_type": "sphericalharmonics", "pe_type": "siren"}.items():
        if settings.get(name, value) != value:
            raise ValueError(f"{checkpoint}: {name} is {settings[name]!r}; only {value!r} can be loaded")

    root = "model." if any(key.startswith("model.") for key in state) else ""
    prefix, twin = f"{root}location.nnet.", f"{root}nnet."  # the same module under two names
    if not any(key.startswith(prefix) for key in state):
        prefix, twin = twin, prefix
    others = (f"{root}visual.", f"{root}logit_scale", twin)
    state = {key: value for key, value in state.items() if not key.startswith(others)}

    hidden, features = _matrix(state, f"{prefix}layers.0.weight", checkpoint)
    dim, _ = _matrix(state, f"{prefix}last_layer.weight", checkpoint)
    degrees = math.isqrt(features)
    if degrees**2 != features or settings.get("legendre_polys", degrees) != degrees:
        raise ValueError(
            f"{checkpoint}: {prefix}layers.0.weight takes {features} features, which are not the harmonics of "
            f"{settings.get('legendre_polys', 'any number of')} degrees (L degrees have L squared)"
        )
    found = (re.match(re.escape(prefix) + r"layers\.(\d{1,2})\.", key) for key in state)
    layers = 1 + max(int(match[1]) for match in found if match)
    net = _empty(Siren, features, dim, hidden=hidden, layers=layers)
    ours = [f"hidden.{i}" for i in range(layers)] + ["last"]
    theirs = [f"{prefix}layers.{i}" for i in range(layers)] + [f"{prefix}last_layer"]
    names = {f"{a}.{kind}": f"{b}.{kind}" for a, b in zip(ours, theirs, strict=True) for kind in ("weight", "bias")}
    _check(state, _shapes(net, names), checkpoint)
    tensors = {a: state[b].double() for a, b in names.items()}
    tensors["hidden.0.weight"] = tensors["hidden.0.weight"] * _satclip_factors(
        degrees, settings.get("harmonics_calculation", "analytic"), checkpoint
    )
    return _encoder(SphericalHarmonics(degrees), net, tensors)


def csp_location(checkpoint: str | Path) -> LocationEncoder:
    """The location encoder of a CSP checkpoint (Mai et al., 2023): Space2Vec "grid" on degrees and one hidden layer.

    Both released pairs (iNat2018 with LeakyReLU, fMoW with GELU; pre-trained, or fine-tuned after it) have 32 scales
    from 0.1 to 360 degrees, 512 hidden units and 256 outputs. Scales, activation and dropout are read from the
    checkpoint's own ``params``. CSP computes its sines in float64: give float64 positions for the same numbers (in
    float32 the angle of the finest scale, up to 1,800 radians, is known to 1e-4).

    The layout is that of the code at github.com/gengchenmai/csp (main/models.py, module.py, trainer.py).

    Raises:
        FileNotFoundError: not there.
        ValueError: damaged, unsafe, not this layout, or another of CSP's encoders.
    """
    content = _read(checkpoint)
    state, params = (_part(content, key, checkpoint) for key in ("state_dict", "params"))
    activations = {"leakyrelu": "leaky_relu", "gelu": "gelu"}
    allowed = {"spa_enc_type": ["gridcell"], "freq_init": ["geometric"], "spa_f_act": list(activations)}
    for key, values in allowed.items():
        if params.get(key) not in values:
            raise ValueError(f"{checkpoint}: {key} is {params.get(key)!r}; only {' or '.join(values)} can be loaded")
    for key in ("frequency_num", "min_radius", "max_radius", "dropout"):
        if not isinstance(params.get(key), int | float | np.number):
            raise ValueError(f"{checkpoint}: {key} is {params.get(key)!r}; expected a number")

    # A model pre-trained with images holds the location encoder, and parts of that once more at the top.
    root = "loc_enc." if any(key.startswith("loc_enc.") for key in state) else ""
    prefix = f"{root}spa_enc.ffn.layers."
    others = [f"{root}class_emb.", f"{root}user_emb."]
    others += ["spa_enc.", "class_emb.", "user_emb.", "img_dec.", "loc_dec."] if root else []
    state = {key: value for key, value in state.items() if not key.startswith(tuple(others))}

    hidden, features = _matrix(state, f"{prefix}0.linear.weight", checkpoint)
    dim, _ = _matrix(state, f"{prefix}1.linear.weight", checkpoint)
    scales = int(params["frequency_num"])
    if features != 4 * scales:
        raise ValueError(
            f"{checkpoint}: {prefix}0.linear.weight takes {features} features; "
            f"{scales} scales (frequency_num) give {4 * scales}"
        )
    if params.get("skip_connection") and hidden in (features, dim):
        raise ValueError(f"{checkpoint}: layers of equal widths with skip_connection, which cannot be loaded")
    options = {"dropout": float(params["dropout"]), "activation": activations[params["spa_f_act"]]}
    net = _empty(FeedForward, features, dim, hidden=hidden, **options)
    layers = {"layers.0": "0.linear", "layers.3": "0.layernorm", "layers.4": "1.linear"}
    names = {f"{a}.{kind}": f"{prefix}{b}.{kind}" for a, b in layers.items() for kind in ("weight", "bias")}
    _check(state, _shapes(net, names), checkpoint)
    tensors = {a: state[b] for a, b in names.items()}
    # CSP's columns run over coordinate, scale, (sine, cosine); those of Grid over (sine, cosine), coordinate, scale.
    columns = torch.arange(features).view(2, scales, 2).permute(2, 0, 1).flatten()
    tensors["layers.0.weight"] = tensors["layers.0.weight"][:, columns]
    return _encoder(Grid(scales, float(params["min_radius"]), float(params["max_radius"])), net, tensors)


def _satclip_factors(degrees: int, calculation: str, where: str | Path) -> Tensor:
    """What SatCLIP's harmonics are to the orthonormal ones, float64 (degrees**2,)."""
    l = torch.arange(degrees).repeat_interleave(2 * torch.arange(degrees) + 1)
    m = torch.arange(degrees**2) - l * l - l
    if calculation == "analytic":
        return (1.0 - 2.0 * (l % 2)).double() * torch.where(m == 0, math.pi, 1.0).double()
    if calculation == "closed-form":
        return (1.0 - 2.0 * ((l + m) % 2)).double()
    raise ValueError(f"{where}: harmonics_calculation is {calculation!r}; 'analytic' or 'closed-form' can be loaded")


def _geoclip_file(path: str | Path | None) -> tuple[bytes, Path]:
    """The bytes of GeoCLIP's weights and what to call their source in messages."""
    if path is None:
        spec = importlib.util.find_spec("geoclip")  # finds, does not import
        folders = list(spec.submodule_search_locations or []) if spec else []
        found = [Path(folder).parent / GEOCLIP_WEIGHTS for folder in folders]
        path = next((file for file in found if file.is_file()), None)
        if path is None:
            raise FileNotFoundError(f"the weights of GeoCLIP are not installed; {GEOCLIP_ADVICE}")
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; {GEOCLIP_ADVICE}")
    if path.suffix != ".whl":
        return path.read_bytes(), path
    try:
        with zipfile.ZipFile(path) as wheel:
            return wheel.read(GEOCLIP_WEIGHTS), path
    except KeyError as error:
        raise ValueError(f"{path}: no {GEOCLIP_WEIGHTS} in it; {GEOCLIP_ADVICE}") from error
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: not a wheel, or a damaged one ({error}); download it again") from error


def _read(path: str | Path) -> dict:
    """The content of a checkpoint file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a checkpoint")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path}: damaged ({error}); download it again") from error
    return _unpickle(path.read_bytes(), path)


def _unpickle(data: bytes, where: str | Path) -> dict:
    """What PyTorch's restricted reader makes of a file: tensors and plain values, no code."""
    try:
        with torch.serialization.safe_globals(NUMPY_NUMBERS):
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # the reader has no common exception for damaged files
        reason = str(error).strip().splitlines()
        raise ValueError(
            f"{where}: not a checkpoint, damaged, or with objects in it that could run code, which are refused "
            f"({type(error).__name__}: {reason[0] if reason else 'no reason given'})"
        ) from error
    return _named(content, where)


def _part(content: dict, key: str, where: str | Path) -> dict:
    """One of the dictionaries that a checkpoint is made of."""
    if not isinstance(content.get(key), dict):
        raise ValueError(f"{where}: no {key!r}; it holds {', '.join(list(map(str, content))[:6]) or 'nothing'}")
    return _named(content[key], where)


def _named(content: object, where: str | Path) -> dict:
    """``content``, if it is a dictionary with strings for keys."""
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(f"{where}: holds a {type(content).__name__} without names, not a checkpoint")
    return content


def _empty(kind: type[nn.Module], *sizes: int, **options: Any) -> nn.Module:
    """A network whose weights are yet to come: no memory, no random numbers drawn."""
    with torch.device("meta"):
        return kind(*sizes, **options)


def _shapes(net: nn.Module, names: dict[str, str]) -> dict[str, tuple[int, ...]]:
    """Expected shapes by published name, for ``names`` from ours to theirs."""
    return {theirs: tuple(net.get_parameter(ours).shape) for ours, theirs in names.items()}


def _matrix(state: dict, key: str, where: str | Path) -> tuple[int, int]:
    """The shape of a weight from which sizes are read."""
    if key not in state:
        some = ", ".join(map(str, list(state)[:6])) or "nothing"
        raise ValueError(f"{where}: {key} is missing; not this layout (it holds {some}, ...)")
    if not isinstance(state[key], Tensor) or state[key].ndim != 2:
        raise ValueError(f"{where}: {key} is not a matrix")
    return tuple(state[key].shape)


def _check(state: dict, shapes: dict[str, tuple[int, ...]], where: str | Path) -> None:
    """Raise ValueError unless ``state`` has exactly these floating-point tensors, all finite."""
    faults = [f"{key} is missing" for key in shapes if key not in state]
    faults += [f"{key} is unknown" for key in state if key not in shapes]
    for key in shapes.keys() & state.keys():
        value = state[key]
        if not isinstance(value, Tensor) or not value.is_floating_point():
            faults.append(f"{key} is not a floating-point tensor")
        elif tuple(value.shape) != shapes[key]:
            faults.append(f"{key} has shape {tuple(value.shape)}, expected {shapes[key]}")
        elif not value.isfinite().all():
            faults.append(f"{key} has values that are not finite")
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise ValueError(f"{where}: not the published layout: {'; '.join(faults[:5])}{more}")


def _encoder(encoding: nn.Module, net: nn.Module, tensors: dict[str, Tensor]) -> LocationEncoder:
    net.load_state_dict({key: value.float().contiguous() for key, value in tensors.items()}, assign=True)
    return LocationEncoder(encoding, net).eval()
