import re

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes

from geonb.data.sampling import random_points
from geonb.explore.figures import equal_earth_xy, scatter_map, themed
from geonb.explore.projection import Colours, project
from geonb.explore.training import binding_diagram, learning_curves
from geonb.explore.views import land_rings


def test_a_figure_is_inline_svg_in_the_colours_of_the_page_and_needs_words():
    fig, ax = plt.subplots()
    ax.plot([0, 1])
    html = themed(fig, 'Rises from 0 to 1 & "stays"').html
    assert html.count("<svg") == 1 and 'role="img"' in html and "currentColor" in html and "#000000" not in html
    assert 'aria-label="Rises from 0 to 1 &amp; &quot;stays&quot;"' in html and "<metadata" not in html
    assert not plt.get_fignums() and "geonb-wide" not in html
    wide = themed(plt.figure(figsize=(9, 2)).add_axes((0, 0, 1, 1)).figure, "Three <panels>").html  # scrolls on a phone
    assert 'class="geonb-figure geonb-wide" role="region" tabindex="0" aria-label="Three &lt;panels&gt;"' in wide


def test_land_covers_the_right_share_of_an_equal_area_map():
    def area(ring):
        x, y = equal_earth_xy(ring).T
        return abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2

    edge = np.concatenate([[(180, lat) for lat in range(-90, 91)], [(-180, lat) for lat in range(90, -91, -1)]])
    assert sum(map(area, land_rings())) / area(edge.astype(float)) == pytest.approx(0.29, abs=0.015)


@pytest.mark.parametrize("limits", [None, (-10, 10)])
def test_signed_numbers_have_two_hues_that_meet_at_zero(monkeypatch, limits):
    given, scatter = [], Axes.scatter
    monkeypatch.setattr(Axes, "scatter", lambda *args, **options: given.append(options) or scatter(*args, **options))
    scatter_map(random_points(30), np.linspace(-100, 20, 30), "t", "m", "x", signed=True, limits=limits)
    low, high = given[-1]["vmin"], given[-1]["vmax"]
    assert (low, high) == (limits or (-high, high)) and (limits or 90 < high < 100)
    assert given[-1]["cmap"] == "coolwarm"


def test_curves_and_diagram_say_what_they_show(trained):
    figure = learning_curves({"imagebind": trained})
    assert re.search(r"imagebind: step (5|10|15|20) selected, loss \d", figure.alt)
    assert "InfoNCE" in binding_diagram([("location", "text")], alt="bound", note="InfoNCE").html


def test_principal_components_equal_scikit_learn_up_to_sign():
    decomposition = pytest.importorskip("sklearn.decomposition")
    z = np.random.default_rng(0).normal(size=(200, 6)) * [5, 3, 2, 1, 1, 1]
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    ours, theirs = project(z, "pca"), decomposition.PCA(2).fit_transform(z)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), rtol=1e-3, atol=1e-4)
    colours = Colours(z)(z)
    assert colours.min() == 0 and colours.max() == 1 and colours.shape == (200, 3)


def test_figures_of_one_page_share_no_ids_and_leave_words_alone():
    def drawn(top):
        fig, ax = plt.subplots()
        ax.semilogy([1, 10, top], "o")
        ax.set_title('an id="a" in words')
        return themed(fig, "rises").html

    html = drawn(1000)
    one, other = (set(re.findall(r'<[^>]*\sid="([^"]+)"', page)) for page in (drawn(100), html))
    assert one and other and not one & other and 'an id="a" in words' in html
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', html)) <= other
    assert 'fill="currentColor"' in re.search(r"<svg[^>]*>", html)[0]
    assert not re.search(r"<(text|tspan)[^>]*fill: #000", html)
