import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geonb.geo import EARTH_RADIUS_KM, blocks, cell_grid, check_lonlat, great_circle_km, unit_xyz, unit_xyz_tensor

positions = st.tuples(st.floats(-180, 180), st.floats(-90, 90))


@pytest.mark.parametrize(
    "rows, message",
    [
        ([[0, 0], [float("nan"), 3]], r"places\.csv: row 1: .*not finite"),
        ([[0, 0], [200, 3]], r"row 1: .*out of range; if longitudes run from 0 to 360, take 360 off"),
        ([[10, 20], [48.1, 151.2]], r"row 1: .*swapped"),
        ([[1, 2, 3]], r"shape \(n, 2\)"),
    ],
)
def test_a_bad_position_is_named_with_its_row_and_remedy(rows, message):
    with pytest.raises(ValueError, match=message):
        check_lonlat(rows, "places.csv")


@settings(max_examples=25)
@given(positions, positions)
def test_distance_is_the_angle_between_unit_vectors(a, b):
    u, v = unit_xyz([a, b])
    np.testing.assert_allclose(unit_xyz_tensor(torch.tensor([a, b], dtype=torch.float64)), [u, v], atol=1e-15)
    angle = 2 * np.arcsin(min(1.0, np.linalg.norm(u - v) / 2))
    assert great_circle_km(a, b) == pytest.approx(EARTH_RADIUS_KM * angle, abs=0.2)


def test_a_polar_cap_is_one_cell_and_all_cells_are_of_one_area():
    columns, edges = cell_grid(500)
    assert np.ptp(np.diff(edges) / columns) < 1e-12  # sines of latitude, each band shared out by its columns
    for lat in (89.9, -89.9):
        assert len(set(blocks([(lon, lat) for lon in range(-180, 180, 20)], 500))) == 1
