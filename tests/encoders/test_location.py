import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import eval_legendre, sph_harm_y

from geonb.encoders.location import ENCODINGS, NETWORKS, LocationEncoder, equal_earth, network, positional_encoding

EDGES = [[0, 90], [77, -90], [180, 5], [-180, 5], [0, 0]]


def points(n, seed=0):
    rng = np.random.default_rng(seed)
    random = np.stack([rng.uniform(-180, 180, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))], 1)
    return np.concatenate([random, EDGES])


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
def test_spherical_harmonics_equal_scipy_in_double_and_single_precision(degrees, tol64, tol32):
    lonlat = points(100)
    expected = scipy_harmonics(lonlat, degrees)
    encoding = positional_encoding("spherical_harmonics", degrees=degrees)
    assert encoding.dim == degrees**2
    assert np.abs(encoding(torch.tensor(lonlat)).numpy() - expected).max() < tol64
    assert np.abs(encoding(torch.tensor(lonlat, dtype=torch.float32)).numpy() - expected).max() < tol32


def test_harmonics_are_orthonormal_under_exact_quadrature():
    degrees = 12
    nodes, weights = np.polynomial.legendre.leggauss(degrees)
    lon = np.arange(2 * degrees) * 360 / (2 * degrees) - 180
    grid = np.stack(np.meshgrid(lon, np.degrees(np.arcsin(nodes)), indexing="ij"), -1).reshape(-1, 2)
    area = np.tile(weights, len(lon)) * 2 * np.pi / len(lon)
    y = positional_encoding("spherical_harmonics", degrees=degrees)(torch.tensor(grid)).numpy()
    np.testing.assert_allclose((y * area[:, None]).T @ y, np.eye(degrees**2), atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.floats(-180, 180), st.floats(-90, 90), st.floats(-180, 180), st.floats(-90, 90))
def test_addition_theorem(lon1, lat1, lon2, lat2):
    degrees = 15
    a, b = positional_encoding("spherical_harmonics", degrees=degrees)(
        torch.tensor([[lon1, lat1], [lon2, lat2]]).double()
    )
    x = positional_encoding("cartesian3d")(torch.tensor([[lon1, lat1], [lon2, lat2]]).double())
    cosine = float(x[0] @ x[1])
    for l in range(degrees):
        part = slice(l * l, (l + 1) ** 2)
        assert float(a[part] @ b[part]) == pytest.approx(
            (2 * l + 1) / (4 * np.pi) * eval_legendre(l, cosine), abs=1e-10
        )


def test_decay_weights_degrees_and_keeps_the_mean_square():
    flat, smooth = (positional_encoding("spherical_harmonics", degrees=10, decay=d) for d in (0.0, 2.0))
    x = torch.tensor(points(20000))
    assert smooth(x).square().mean().item() == pytest.approx(flat(x).square().mean().item(), rel=0.05)
    ratio = smooth.weight / flat.weight
    assert ratio[1] / ratio[81] == pytest.approx((10 / 2) ** 2)


@pytest.mark.parametrize("name", ["spherical_harmonics", "wrap", "cartesian3d"])
def test_encodings_that_live_on_the_sphere_have_no_seam_at_the_antimeridian(name):
    encoding = positional_encoding(name)
    west, east = torch.tensor([[-180.0, 33.0]]).double(), torch.tensor([[180.0, 33.0]]).double()
    torch.testing.assert_close(encoding(west), encoding(east), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["spherical_harmonics", "cartesian3d"])
def test_a_pole_is_one_place_whatever_its_longitude(name):
    poles = torch.tensor([[lon, 90.0] for lon in (-180, -60, 0, 100)]).double()
    out = positional_encoding(name)(poles)
    torch.testing.assert_close(out, out[:1].expand_as(out), atol=1e-12, rtol=0)


def test_grid_and_fourier_follow_their_formulas():
    lonlat = torch.tensor([[13.4, 52.5], [-70.7, -33.4]]).double()
    grid = positional_encoding("grid", scales=2, min_degrees=1.0, max_degrees=360.0)(lonlat)
    lon, lat = np.radians(lonlat.numpy().T)
    angles = np.stack([lon, 360 * lon, lat, 360 * lat], 1)
    np.testing.assert_allclose(grid, np.concatenate([np.sin(angles), np.cos(angles)], 1), atol=1e-10)

    fourier = positional_encoding("random_fourier", scales=(2.0,), features=3)
    angles = 2 * np.pi * equal_earth(lonlat).numpy() @ fourier.frequencies.numpy().T
    np.testing.assert_allclose(fourier(lonlat), np.concatenate([np.cos(angles), np.sin(angles)], 1), atol=1e-5)


def test_equal_earth_preserves_area():
    # the Jacobian of the projection, divided by cos(lat), is the same everywhere
    lonlat = torch.tensor([[0.0, 0.0], [100.0, 30.0], [-150.0, -60.0], [20.0, 80.0]], dtype=torch.float64)
    jacobian = torch.stack([torch.autograd.functional.jacobian(equal_earth, p) for p in lonlat])
    density = torch.linalg.det(jacobian).abs() / torch.deg2rad(lonlat[:, 1]).cos()
    torch.testing.assert_close(density, density[:1].expand_as(density), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ENCODINGS)
def test_every_encoding_is_finite_row_by_row_and_differentiable(name):
    encoding = positional_encoding(name)
    x = torch.tensor(points(50), dtype=torch.float32).requires_grad_()
    out = encoding(x)
    assert out.shape == (len(x), encoding.dim) and out.dtype == torch.float32 and out.isfinite().all()
    torch.testing.assert_close(out[7:9], encoding(x[7:9]), atol=1e-3, rtol=0)
    out.sum().backward()
    assert x.grad[:50].isfinite().all() and x.grad.abs().sum() > 0


@pytest.mark.parametrize("net", NETWORKS)
@pytest.mark.parametrize("name", ["spherical_harmonics", "random_fourier", "grid"])
def test_every_encoding_combines_with_every_network(name, net):
    encoding = positional_encoding(name)
    options = {"parts": 4} if net == "capsules" else {}
    encoder = LocationEncoder(encoding, network(net, encoding.dim, 16, **options)).eval()
    assert encoder(torch.tensor(points(5)).float()).shape == (10, 16)


def test_the_residual_network_starts_as_a_random_projection_of_the_encoding():
    encoding = positional_encoding("spherical_harmonics", degrees=8, decay=1.0)
    encoder = LocationEncoder(encoding, network("residual", encoding.dim, 4096)).eval()
    x = torch.tensor(points(30)).float()
    cosine = lambda z: torch.nn.functional.normalize(z, dim=1) @ torch.nn.functional.normalize(z, dim=1).T  # noqa: E731
    with torch.no_grad():
        assert (cosine(encoder(x)) - cosine(encoding(x))).abs().max() < 0.12


def test_unknown_names_and_senseless_options_say_what_to_do():
    with pytest.raises(ValueError, match="choose one of spherical_harmonics"):
        positional_encoding("harmonics")
    with pytest.raises(ValueError, match="choose one of residual"):
        network("mlp", 4, 4)
    with pytest.raises(ValueError, match="at least 1"):
        positional_encoding("spherical_harmonics", degrees=0)
    with pytest.raises(ValueError, match="min_degrees < max_degrees"):
        positional_encoding("grid", min_degrees=360.0, max_degrees=360.0)
    with pytest.raises(ValueError, match="equal capsules"):
        network("capsules", 128, 8, parts=3)
