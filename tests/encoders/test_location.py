import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import eval_legendre, sph_harm_y

from geonb.encoders.harmonics import fourier_coefficients, legendre
from geonb.encoders.location import CHUNK, ENCODINGS, NETWORKS, LocationEncoder, network, positional_encoding
from geonb.encoders.positional import equal_earth

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
    ratio = smooth(x[:1]) / flat(x[:1])
    assert (ratio[0, 1] / ratio[0, 81]).item() == pytest.approx((10 / 2) ** 2)


def test_harmonics_write_into_memory_that_is_given_and_agree_by_chunks():
    encoding, lonlat = positional_encoding("spherical_harmonics", degrees=7), torch.tensor(points(5000))
    out = torch.full((49, len(lonlat)), float("nan"), dtype=torch.float64)
    result = encoding.encode(lonlat, out=out)
    assert result.data_ptr() == out.data_ptr() and result.isfinite().all()
    torch.testing.assert_close(result, encoding(lonlat.requires_grad_()).detach(), atol=1e-13, rtol=0)


def test_the_fourier_series_of_the_legendre_functions_is_exact_between_the_nodes():
    degrees, theta = 30, torch.linspace(0.1, 3.0, 17, dtype=torch.float64)
    for l, (block, values) in enumerate(
        zip(fourier_coefficients(degrees), legendre(degrees, theta.cos(), theta.sin()), strict=True)
    ):
        waves = [w for k in range(l % 2, l + 1, 2) for w in ((k * theta).cos(), (k * theta).sin())]
        waves = torch.stack(waves if l % 2 else waves[:1] + waves[2:])
        scaled = values * torch.tensor([1.0] + [2**0.5] * l, dtype=torch.float64)[:, None]
        torch.testing.assert_close(block[l:] @ waves, scaled, atol=1e-13, rtol=0)
        torch.testing.assert_close(block[:l].flip(0), block[l + 1 :])


@pytest.mark.parametrize("name", ENCODINGS)
def test_an_encoding_has_a_seam_at_the_antimeridian_if_and_only_if_it_says_so(name):
    encoding = positional_encoding(name)
    lat = torch.linspace(-80, 80, 33, dtype=torch.float64)
    west, east = (encoding(torch.stack([torch.full_like(lat, lon), lat], 1)) for lon in (-180.0, 180.0))
    jump = (west - east).abs().max()
    assert jump < 1e-10 if encoding.periodic else jump > 0.1


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_pole_is_one_place_for_the_encodings_that_live_on_the_sphere(name):
    encoding = positional_encoding(name)
    assert encoding.periodic or not encoding.on_sphere
    for lat in (90.0, -90.0):
        out = encoding(torch.tensor([[lon, lat] for lon in (-180, -60, 0, 100)]).double())
        spread = (out - out[:1]).abs().max()
        assert spread < 1e-10 if encoding.on_sphere else spread > 0.1


def formula(name, lon, lat, radii):
    """The features of one place in loops, float64; lon and lat in degrees."""
    sin, cos, rad = np.sin, np.cos, np.radians
    if name == "grid":
        return [f(v / r) for f in (sin, cos) for v in (lon, lat) for r in radii]
    if name == "theory":
        along = [lon * cos(rad(t)) + lat * sin(rad(t)) for t in (0, 120, 240)]
        return [f(v / r) for f in (sin, cos) for v in along for r in radii]
    x, y = rad(lon), rad(lat)
    plus = [g for h in (lambda r: cos(y / r), lambda r: sin(x / r), lambda r: cos(x / r)) for g in map(h, radii)]
    c = [g for h in (lambda r: sin(y / r), lambda r: cos(y / r) * cos(x / r), lambda r: cos(y / r) * sin(x / r)) for g in map(h, radii)]
    m = [
        *(sin(y / r) for r in radii), *(cos(y / r) * cos(x) for r in radii), *(cos(y) * cos(x / r) for r in radii),
        *(cos(y / r) * sin(x) for r in radii), *(cos(y) * sin(x / r) for r in radii),
    ]  # fmt: skip
    dfs = [f(y / r) * g(x / q) for f in (sin, cos) for g in (sin, cos) for r in radii for q in radii]
    dfs += [f(v / r) for f in (sin, cos) for v in (x, y) for r in radii]
    return {"sphere_c": c, "sphere_c_plus": c + plus, "sphere_m": m, "sphere_m_plus": m + plus, "dfs": dfs}[name]


@pytest.mark.parametrize("name", ["grid", "theory", "sphere_c", "sphere_c_plus", "sphere_m", "sphere_m_plus", "dfs"])
@settings(max_examples=15, deadline=None)
@given(st.floats(-180, 180), st.floats(-90, 90), st.integers(2, 5), st.floats(0.05, 1), st.floats(1.1, 400))
def test_multi_scale_encodings_follow_their_formulas(name, lon, lat, scales, low, high):
    encoding = positional_encoding(name, scales=scales, min_radius=low, max_radius=high)
    radii = [low * (high / low) ** (i / (scales - 1)) for i in range(scales)]
    out = encoding(torch.tensor([[lon, lat]], dtype=torch.float64))[0]
    np.testing.assert_allclose(out, formula(name, lon, lat, radii), atol=1e-9)
    assert len(out) == encoding.dim


@pytest.mark.parametrize("name", ["grid", "theory", "sphere_c", "sphere_c_plus", "sphere_m", "sphere_m_plus", "dfs"])
def test_every_feature_of_a_multi_scale_encoding_is_another_one(name):
    # at radius 1 two features of sphereM are the same by its formula
    out = positional_encoding(name, scales=6, max_radius=0.9, min_radius=0.01)(torch.tensor(points(400)))
    distances = torch.cdist(out.T, out.T).fill_diagonal_(9)
    assert distances.min() > 1e-3


def test_fourier_features_follow_their_formula():
    lonlat = torch.tensor([[13.4, 52.5], [-70.7, -33.4]]).double()
    fourier = positional_encoding("random_fourier", scales=(2.0,), features=3)
    angles = 2 * np.pi * equal_earth(lonlat).numpy() @ fourier.frequencies.numpy().T
    np.testing.assert_allclose(fourier(lonlat), np.concatenate([np.cos(angles), np.sin(angles)], 1), atol=1e-5)


def test_cells_of_equal_sharpness_are_the_spherical_voronoi_cells_and_their_sites_learn():
    encoding = positional_encoding("voronoi", sites=50, dim=50, sharpness=1e4)
    with torch.no_grad():
        encoding.embedding.copy_(torch.eye(50))
    lonlat = torch.tensor(points(300))
    xyz = positional_encoding("cartesian3d")(lonlat)
    sites = torch.nn.functional.normalize(encoding.sites.detach().double(), dim=1)
    assert torch.equal(encoding(lonlat).argmax(1), torch.cdist(xyz, sites).argmin(1))
    spacing = torch.cdist(sites, sites).fill_diagonal_(9).min(1).values
    assert spacing.min() > 0.7 * (4 * np.pi / 50) ** 0.5  # spread evenly at the start

    soft = positional_encoding("voronoi", sites=50, dim=4)
    assert torch.allclose(soft(lonlat.float()).sum(), soft(lonlat).sum().float(), atol=1e-2)
    soft(lonlat).square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in soft.parameters())


@pytest.mark.parametrize("name", ENCODINGS)
def test_gradients_are_those_of_finite_differences(name):
    options = {"dfs": {"scales": 3}, "spherical_harmonics": {"degrees": 6}, "voronoi": {"sites": 20, "dim": 5}}
    small = {n: {"scales": 4} for n in ("sphere_c", "sphere_c_plus", "sphere_m", "sphere_m_plus", "grid", "theory")}
    encoding = positional_encoding(name, **(options | small).get(name, {}))
    x = torch.tensor([[12.0, 40.0], [-100.0, -65.0], [179.9, 10.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(encoding, x, eps=1e-6, atol=1e-3 if name == "random_fourier" else 1e-5)


def test_harmonics_have_finite_gradients_at_the_poles():
    x = torch.tensor([[10.0, 90.0], [10.0, -90.0]], dtype=torch.float64, requires_grad=True)
    positional_encoding("spherical_harmonics", degrees=40)(x).sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", ENCODINGS)
def test_half_precision_and_autocast_do_not_touch_the_phases(name):
    encoding, lonlat = positional_encoding(name), torch.tensor(points(30)).round()  # whole degrees are exact in half
    exact = encoding(lonlat.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encoding(lonlat.float()), exact)
    half = encoding(lonlat.half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), exact, atol=4e-3, rtol=2e-3)


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
@pytest.mark.parametrize("name", ENCODINGS)
def test_every_encoding_combines_with_every_network(name, net):
    encoding = positional_encoding(name)
    options = {} if net == "linear" else {"hidden": 32}
    encoder = LocationEncoder(encoding, network(net, encoding.dim, 16, **options)).eval()
    assert encoder(torch.tensor(points(5)).float()).shape == (10, 16)


def test_without_gradients_positions_pass_in_chunks_to_the_same_result():
    encoding = positional_encoding("spherical_harmonics", degrees=5)
    encoder = LocationEncoder(encoding, network("siren", 25, 8)).eval()
    lonlat = torch.tensor(points(2 * CHUNK + 3)).float()
    whole = encoder(lonlat).detach()
    with torch.no_grad():
        torch.testing.assert_close(encoder(lonlat), whole, atol=1e-5, rtol=0)


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
        network("transformer", 4, 4)
    with pytest.raises(ValueError, match="at least 1"):
        positional_encoding("spherical_harmonics", degrees=0)
    with pytest.raises(ValueError, match="3 capsules"):
        network("capsules", 2, 8)
    with pytest.raises(ValueError, match="unknown activation 'relu'"):
        network("feed_forward", 4, 4, activation="relu")
    for bad in (torch.zeros(2), torch.zeros(2, 3), torch.zeros(2, 2, dtype=torch.long)):
        with pytest.raises(ValueError, match="degrees .n, 2."):
            positional_encoding("wrap")(bad)


@pytest.mark.parametrize("name", ["grid", "theory", "sphere_c", "sphere_c_plus", "sphere_m", "sphere_m_plus", "dfs"])
@pytest.mark.parametrize("options", [{"min_radius": 1.0, "max_radius": 1.0}, {"min_radius": 0.0}, {"scales": 1}])
def test_scales_that_are_all_the_same_are_refused(name, options):
    with pytest.raises(ValueError, match="at least 2 scales and 0 < min_radius < max_radius"):
        positional_encoding(name, **options)


def test_other_degenerate_settings_are_refused():
    for name, options, message in (
        ("random_fourier", {"scales": (1.0, 1.0)}, "differ"), ("random_fourier", {"scales": ()}, "positive"),
        ("random_fourier", {"features": 0}, "at least 1"), ("voronoi", {"sites": 1}, "2 sites"),
        ("voronoi", {"sharpness": 0.0}, "positive sharpness"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            positional_encoding(name, **options)
