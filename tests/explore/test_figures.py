import re

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from geonb.data.sampling import random_points
from geonb.explore.figures import coverage_map, draw_land, equal_earth_xy, image_grid, land_rings, scatter_map, themed
from geonb.explore.projection import as_colours, nearest_by_cosine, principal_components, project
from geonb.explore.training import binding_diagram, learning_curves


def test_a_figure_is_inline_svg_in_the_colours_of_the_page_and_needs_words():
    fig, ax = plt.subplots()
    ax.plot([0, 1])
    html = themed(fig, 'Rises from 0 to 1 & "stays"').html
    assert html.count("<svg") == 1 and 'role="img"' in html and "currentColor" in html and "#000000" not in html
    assert 'aria-label="Rises from 0 to 1 &amp; &quot;stays&quot;"' in html and "<metadata" not in html
    assert not plt.get_fignums()
    with pytest.raises(ValueError, match="needs alt text"):
        themed(plt.figure(), " ")
    plt.close("all")


@pytest.mark.parametrize("inches, wide", [(5.4, False), (9.0, True)])
def test_a_wide_figure_scrolls_on_a_phone_and_says_what_it_is(inches, wide):
    html = themed(plt.figure(figsize=(inches, 2)).add_axes((0, 0, 1, 1)).figure, "Three <panels>").html
    said = 'class="geonb-figure geonb-wide" role="region" tabindex="0" aria-label="Three &lt;panels&gt;"'
    assert (said in html) == wide and ("geonb-wide" in html) == wide


def test_the_same_figure_is_the_same_bytes():
    def one():
        return scatter_map(random_points(50), np.arange(50.0), "t", "km", "dots").html

    assert one() == one()


def test_land_covers_the_right_share_of_an_equal_area_map():
    def area(ring):
        x, y = equal_earth_xy(ring).T
        return abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2

    edge = np.concatenate([[(180, lat) for lat in range(-90, 91)], [(-180, lat) for lat in range(90, -91, -1)]])
    assert sum(map(area, land_rings())) / area(edge.astype(float)) == pytest.approx(0.29, abs=0.015)


@pytest.mark.parametrize("values", [np.arange(30.0), np.array(["a", "b", "<i>c</i>"] * 10), np.full((30, 3), 0.5)])
def test_maps_take_numbers_classes_and_colours_and_escape_names(values):
    html = scatter_map(random_points(30), values, "title", "m", "thirty places").html
    assert "<i>" not in html and 'aria-label="thirty places"' in html
    with pytest.raises(ValueError, match="do not match"):
        scatter_map(random_points(29), values, "title", "m", "x")


def test_missing_numbers_are_drawn_grey_not_dropped():
    values = np.arange(30.0)
    values[:10] = np.nan
    assert "<image" in scatter_map(random_points(30), values, "t", "m", "x").html
    unknown = scatter_map(random_points(30), np.full(30, np.nan), "t", "metres", "x").html
    assert unknown.count("<image") == 1 and "metres" not in unknown  # dots, and no colour bar


def test_signed_numbers_have_two_hues_that_meet_at_zero(monkeypatch):
    from matplotlib import colormaps
    from matplotlib.axes import Axes

    given, scatter = [], Axes.scatter
    monkeypatch.setattr(Axes, "scatter", lambda *args, **options: given.append(options) or scatter(*args, **options))
    values = np.linspace(-100, 20, 30)
    for limits in (None, (-10, 10)):
        scatter_map(random_points(30), values, "t", "m", "x", signed=True, limits=limits)
        low, high = given[-1]["vmin"], given[-1]["vmax"]
        assert (low, high) == (limits or (-high, high)) and (limits or 90 < high < 100)
        (below, _, _, _), (_, _, above, _) = (colormaps[given[-1]["cmap"]](x) for x in (0.0, 1.0))
        assert below < 0.3 and above < 0.3
    scatter_map(random_points(30), values, "t", "m", "x")
    assert given[-1]["cmap"] == "viridis" and given[-1]["vmax"] < 20


def test_land_is_drawn_where_the_axes_look_and_moves_no_limits():
    ax = plt.figure().add_subplot(xlim=(-12, 45), ylim=(34, 62))
    draw_land(ax)
    (land,) = ax.collections
    inside = [path.contains_point(point) for point in ((10, 50), (-10, 45)) for path in land.get_paths()]
    assert ax.get_xlim() == (-12, 45) and sum(inside) == 1
    plt.close(ax.figure)


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, ""])
def test_places_of_unknown_class_are_drawn_grey_and_called_unknown(missing, monkeypatch):
    from matplotlib.axes import Axes

    drawn, scatter = {}, Axes.scatter

    def spy(ax, x, y, label, **options):
        drawn[label] = len(x)
        return scatter(ax, x, y, label=label, **options)

    monkeypatch.setattr(Axes, "scatter", spy)
    html = scatter_map(random_points(30), np.array(["a"] * 20 + [missing] * 10, object), "t", "", "x").html
    assert drawn == {"a": 20, "unknown": 10} and ">unknown<" in html and ">None<" not in html
    drawn.clear()
    scatter_map(random_points(30), np.arange(30) < 12, "t", "", "x")
    assert drawn == {"False": 18, "True": 12}


def test_a_coverage_map_says_what_it_shows_and_draws_land_without_places():
    crowd = np.repeat([[10.0, 25.0]], 500, 0)
    figure = coverage_map(np.concatenate([random_points(300), crowd]), 800, "Where")
    land = re.search(r"(\d+) of (\d+) land cells", figure.alt)
    assert "800 places in cells of 800 km" in figure.alt and 0 < int(land[1]) < int(land[2])
    assert re.search(r"fullest cell holds 50[0-9]", figure.alt) and "grey: land without" in figure.html
    assert figure.html.count("<svg") == 1 and len(figure.html) < 400_000
    assert coverage_map(np.empty((0, 2)), 2000).alt.endswith("the fullest cell holds 0.")
    assert coverage_map([[1, 2]], 2000, alt="<one>").html.count("&lt;one&gt;") == 1


def test_cells_on_the_map_have_the_area_of_cells_on_earth():
    from geonb.data.sampling import cell_count
    from geonb.explore.figures import _outlines

    x, y = np.moveaxis(_outlines(np.arange(cell_count(1500)), 1500), 2, 0)
    area = np.abs((x * np.roll(y, 1, 1) - y * np.roll(x, 1, 1)).sum(1)) / 2
    np.testing.assert_allclose(area, area.mean(), rtol=0.01)


def test_chips_carry_their_caption_as_alt_text():
    html = image_grid(np.zeros((2, 8, 8, 3), np.uint8), ["rice", '<b>"'], alt="two chips").html
    assert re.findall(r'alt="([^"]*)"', html) == ["rice", "&lt;b&gt;&quot;"] and "<b>" not in html
    with pytest.raises(ValueError, match="do not match"):
        image_grid(np.zeros((2, 8, 8, 3), np.uint8), ["one"], alt="x")


def test_curves_and_diagram_say_what_they_show(trained):
    figure = learning_curves({"imagebind": trained})
    assert re.search(r"imagebind: step (5|10|15|20) kept, loss \d", figure.alt)
    assert "InfoNCE" in binding_diagram([("location", "text")], alt="bound", note="InfoNCE").html


def test_principal_components_equal_scikit_learn_up_to_sign():
    decomposition = pytest.importorskip("sklearn.decomposition")
    z = np.random.default_rng(0).normal(size=(200, 6)) * [5, 3, 2, 1, 1, 1]
    ours, theirs = principal_components(z, 2), decomposition.PCA(2).fit_transform(z)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), rtol=1e-3, atol=1e-4)
    colours = as_colours(z)
    assert colours.min() == 0 and colours.max() == 1 and colours.shape == (200, 3)


def test_projections_can_be_repeated_and_keep_neighbourhoods():
    rng = np.random.default_rng(0)
    centres = np.eye(12)[:4] * 4
    z = centres[np.arange(120) % 4] + rng.normal(size=(120, 12)) * 0.3
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    for method in ("pca", "umap"):
        xy = project(z, method=method, seed=3)
        assert xy.shape == (120, 2) and xy.dtype == np.float32
        np.testing.assert_array_equal(xy, project(z, method=method, seed=3))
        distance = np.linalg.norm(xy[:, None] - xy[None], axis=2) + np.eye(120) * 1e9
        assert (distance.argmin(1) % 4 == np.arange(120) % 4).mean() > 0.9, method
    with pytest.raises(ValueError, match="choose umap or pca"):
        project(z, method="tsne")
    with pytest.raises(ValueError, match="at least 4 finite"):
        project(np.full((5, 3), np.nan))


def test_figures_of_one_page_share_no_ids_and_formulas_take_the_colour_of_the_page():
    def drawn(top):
        fig, ax = plt.subplots()
        ax.semilogy([1, 10, top], "o")
        ax.set_title('an id="a" in words')
        return themed(fig, "rises").html

    one, other = (set(re.findall(r'<[^>]*\sid="([^"]+)"', html)) for html in (drawn(100), drawn(1000)))
    assert one and other and not one & other
    html = drawn(100)
    assert 'an id="a" in words' in html
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', html)) <= one
    root = re.search(r"<svg[^>]*>", html)[0]
    assert 'fill="currentColor"' in root and not re.search(r"<(text|tspan)[^>]*fill: #000", html)


def test_nearest_by_cosine_is_exact_and_starts_with_the_row_itself():
    rng = np.random.default_rng(1)
    z = rng.normal(size=(70, 5)).astype(np.float32)
    z[1] = 2 * z[0]  # the same direction twice
    indices, distances = nearest_by_cosine(z, 6, chunk=32)
    unit = z.astype(float) / np.linalg.norm(z, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.testing.assert_array_equal(indices[:, 0], np.arange(70))
    np.testing.assert_array_equal(distances[:, 0], 0)
    np.testing.assert_allclose(distances, 1 - np.sort(cosine)[:, ::-1][:, :6], atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(1 - cosine, indices, 1), distances, atol=1e-6)
