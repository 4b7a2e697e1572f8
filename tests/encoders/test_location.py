"""Positional encodings against SciPy and their formulas; networks and location encoders."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import sph_harm_y
from torch.nn.functional import normalize

from geonb.encoders import location
from geonb.encoders.location import ENCODINGS, NETWORKS, LocationEncoder, network, positional_encoding
from geonb.encoders.positional import equal_earth

EDGES = [[0, 90], [77, -90], [180, 5], [-180, 5], [0, 0]]
ON_SPHERE = ("spherical_harmonics", "cartesian3d", "voronoi")


def points(n, seed=0):
    rng = np.random.default_rng(seed)
    random = np.stack([rng.uniform(-180, 180, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))], 1)
    return torch.tensor(np.concatenate([random, EDGES]))


def scipy_harmonics(lonlat, degrees):
    theta, phi = np.radians(90 - lonlat[:, 1]), np.radians(lonlat[:, 0])
    columns = []
    for l in range(degrees):
        for m in range(-l, l + 1):
            y = sph_harm_y(l, abs(m), theta, phi)
            columns.append(y.real if m == 0 else np.sqrt(2) * (-1) ** m * (y.real if m > 0 else y.imag))
    return np.stack(columns, 1)


@pytest.mark.parametrize(
    "degrees, tol64, tol32", [(1, 1e-15, 1e-7), (10, 1e-12, 1e-5), (40, 1e-12, 1e-4), (100, 1e-10, 1e-3)]
)
def test_harmonics_equal_scipy(degrees, tol64, tol32):
    lonlat = points(100)
    expected = scipy_harmonics(lonlat.numpy(), degrees)
    encoding = positional_encoding("spherical_harmonics", degrees=degrees)
    assert encoding.dim == degrees**2
    assert np.abs(encoding(lonlat).numpy() - expected).max() < tol64
    assert np.abs(encoding(lonlat.float()).numpy() - expected).max() < tol32


def test_decay_weights_degrees_and_keeps_the_mean_square():
    flat, smooth = (positional_encoding("spherical_harmonics", degrees=10, decay=d) for d in (0.0, 2.0))
    x = points(20000)
    assert smooth(x).square().mean().item() == pytest.approx(flat(x).square().mean().item(), rel=0.05)
    ratio = smooth(x[:1]) / flat(x[:1])
    assert (ratio[0, 1] / ratio[0, 81]).item() == pytest.approx((10 / 2) ** 2)


@pytest.mark.parametrize("name", ENCODINGS)
def test_encodings_of_the_sphere_have_no_seam_and_one_value_per_pole(name):
    encoding, on_sphere = positional_encoding(name), name in ON_SPHERE
    lat = torch.linspace(-80, 80, 33, dtype=torch.float64)
    west, east = (encoding(torch.stack([torch.full_like(lat, lon), lat], 1)) for lon in (-180.0, 180.0))
    jump = (west - east).abs().max()
    assert jump < 1e-10 if on_sphere or name == "wrap" else jump > 0.1
    for pole in (90.0, -90.0):
        out = encoding(torch.tensor([[lon, pole] for lon in (-180, -60, 0, 100)]).double())
        spread = (out - out[:1]).abs().max()
        assert spread < 1e-10 if on_sphere else spread > 0.1


def test_the_table_of_chapter_3_says_which_encodings_have_one_vector_per_pole():
    chapter = Path(__file__).resolve().parents[2] / "book" / "03_location_encodings.ipynb"
    cells = ["".join(cell["source"]) for cell in json.loads(chapter.read_text("utf-8"))["cells"]]
    (code,) = (cell for cell in cells if "one vector per pole" in cell)
    names = {"torch": torch, "positional_encoding": positional_encoding}
    exec(code, names)
    said = {name: row["one vector per pole"] for name, row in names["rows"].items()}
    assert said == {name: "yes" if name in ON_SPHERE else "no" for name in ENCODINGS}


@pytest.mark.parametrize("name", ENCODINGS)
def test_encodings_are_finite_with_gradients_independent_of_the_batch_and_exact_in_low_precision(name):
    encoding, lonlat = positional_encoding(name), points(30).round().float()  # whole degrees are exact in float16
    exact = encoding(lonlat)
    assert exact.shape == (len(lonlat), encoding.dim) and exact.dtype == torch.float32 and exact.isfinite().all()
    torch.testing.assert_close(exact[7:9], encoding(lonlat[7:9]), atol=1e-3, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encoding(lonlat), exact)
    half = encoding(lonlat.half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), exact, atol=4e-3, rtol=2e-3)
    poles = torch.tensor([[10.0, 90.0], [10.0, -90.0]], requires_grad=True)
    encoding(poles).sum().backward()
    assert poles.grad.isfinite().all()


def formula(name, lon, lat, radii):
    """The features of one place in loops, float64; lon and lat in degrees."""
    sin, cos, x, y = np.sin, np.cos, np.radians(lon), np.radians(lat)
    if name == "grid":
        return [f(v / r) for f in (sin, cos) for v in (lon, lat) for r in radii]
    if name == "dfs":
        pairs = [f(y / r) * g(x / q) for f in (sin, cos) for g in (sin, cos) for r in radii for q in radii]
        return pairs + [f(v / r) for f in (sin, cos) for v in (x, y) for r in radii]
    plus = [lambda r: cos(y / r), lambda r: sin(x / r), lambda r: cos(x / r)]
    c = [lambda r: sin(y / r), lambda r: cos(y / r) * cos(x / r), lambda r: cos(y / r) * sin(x / r)]
    m = [lambda r: sin(y / r), lambda r: cos(y / r) * cos(x), lambda r: cos(y) * cos(x / r)]
    m += [lambda r: cos(y / r) * sin(x), lambda r: cos(y) * sin(x / r)]
    return [f(r) for f in {"sphere_c_plus": c, "sphere_m_plus": m}[name] + plus for r in radii]


@pytest.mark.parametrize("name", ["grid", "sphere_c_plus", "sphere_m_plus", "dfs"])
@settings(max_examples=25)
@given(st.floats(-180, 180), st.floats(-90, 90), st.integers(2, 5), st.floats(0.05, 1), st.floats(1.1, 400))
def test_multi_scale_encodings_follow_their_formulas(name, lon, lat, scales, low, high):
    encoding = positional_encoding(name, scales=scales, min_radius=low, max_radius=high)
    radii = [low * (high / low) ** (i / (scales - 1)) for i in range(scales)]
    out = encoding(torch.tensor([[lon, lat]], dtype=torch.float64))[0]
    np.testing.assert_allclose(out, formula(name, lon, lat, radii), atol=1e-9)
    assert len(out) == encoding.dim


def test_fourier_features_follow_their_formula():
    lonlat = torch.tensor([[13.4, 52.5], [-70.7, -33.4]]).double()
    fourier = positional_encoding("random_fourier", scales=(2.0,), features=3)
    angles = 2 * np.pi * equal_earth(lonlat).numpy() @ fourier.frequencies.numpy().T
    np.testing.assert_allclose(fourier(lonlat), np.concatenate([np.cos(angles), np.sin(angles)], 1), atol=1e-5)


def test_equal_earth_preserves_area():
    # the Jacobian of the projection, divided by cos(lat), is the same everywhere
    lonlat = torch.tensor([[0.0, 0.0], [100.0, 30.0], [-150.0, -60.0], [20.0, 80.0]], dtype=torch.float64)
    jacobian = torch.stack([torch.autograd.functional.jacobian(equal_earth, p) for p in lonlat])
    density = torch.linalg.det(jacobian).abs() / torch.deg2rad(lonlat[:, 1]).cos()
    torch.testing.assert_close(density, density[:1].expand_as(density), rtol=1e-4, atol=0)


def test_cells_of_equal_sharpness_are_spherical_voronoi_cells_and_sites_learn():
    encoding = positional_encoding("voronoi", sites=50, dim=50)
    with torch.no_grad():
        encoding.embedding.copy_(torch.eye(50))
        encoding.log_sharpness.fill_(9)
    lonlat = points(300)
    sites = normalize(encoding.sites.detach().double(), dim=1)
    nearest = torch.cdist(positional_encoding("cartesian3d")(lonlat), sites).argmin(1)
    assert torch.equal(encoding(lonlat).argmax(1), nearest)
    spacing = torch.cdist(sites, sites).fill_diagonal_(9).min(1).values
    assert spacing.min() > 0.7 * (4 * np.pi / 50) ** 0.5  # spread evenly at the start
    soft = positional_encoding("voronoi", sites=50, dim=4)
    soft(lonlat).square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in soft.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_an_encoder_gives_the_same_in_chunks(name, monkeypatch):
    encoder = LocationEncoder(positional_encoding("wrap"), network(name, 4, 8)).eval()
    monkeypatch.setattr(location, "CHUNK", 7)
    lonlat = points(16).float()
    whole = encoder(lonlat)
    assert whole.shape == (len(lonlat), 8) and whole.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(encoder(lonlat), whole, atol=1e-5, rtol=1e-5)
        assert encoder(lonlat[:0]).shape == (0, 8)


def test_the_residual_network_starts_as_a_random_projection_of_the_encoding():
    encoding = positional_encoding("spherical_harmonics", degrees=8, decay=1.0)
    encoder = LocationEncoder(encoding, network("residual", encoding.dim, 4096)).eval()
    x = points(30).float()
    with torch.no_grad():
        z, e = normalize(encoder(x), dim=1), normalize(encoding(x), dim=1)
    assert (z @ z.T - e @ e.T).abs().max() < 0.12


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: positional_encoding("harmonics"), "choose one of spherical_harmonics"),
        (lambda: positional_encoding("dfs", min_radius=1.0, max_radius=1.0), "0 < min_radius < max_radius"),
        (lambda: positional_encoding("random_fourier", scales=(1.0, -1.0)), "positive"),
        (lambda: positional_encoding("wrap")(torch.zeros(2, 3)), "degrees .n, 2."),
        (lambda: network("transformer", 4, 4), "choose one of residual"),
    ],
)
def test_unknown_names_and_options_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()
