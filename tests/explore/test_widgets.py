"""Widgets driven by their traits, as a browser would drive them; no kernel and no browser is needed."""

import json

import numpy as np
import pytest

import geonb

pytest.importorskip("ipywidgets")
pytest.importorskip("umap")
pytest.importorskip("leafmap")

import ipywidgets  # noqa: E402

from geonb.explore import widgets  # noqa: E402
from geonb.explore.layers import LandGrid, layer_of  # noqa: E402
from geonb.explore.widgets import Space, planet_widget, projection_widget, space_of, training_widget  # noqa: E402

pytestmark = pytest.mark.usefixtures("few_places_for_the_colours")
HOSTILE = "<img src=x onerror=alert(1)>"


def all_widgets(root):
    yield root
    for child in getattr(root, "children", ()):
        yield from all_widgets(child)


def no_markup_of(root, text):
    """The text stands in no widget that reads its value as HTML."""
    marked = (ipywidgets.HTML, ipywidgets.HTMLMath)
    return not any(text in str(x.value) for x in all_widgets(root) if isinstance(x, marked))


@pytest.fixture(scope="module")
def model(trained):
    return geonb.load(trained)


@pytest.fixture(scope="module")
def projector(trained, world):
    return projection_widget({"a run": trained}, world, rows=150)


def test_parameters_project_anew_and_the_scores_are_those_of_what_is_shown(projector, world, model):
    from geonb.explore.projection import projection_scores

    shown = projector.picture.outputs[0]["data"]["text/html"]
    before = projector.xy
    projector.neighbors.value = 5
    assert not np.array_equal(before, projector.xy)
    assert projector.picture.outputs[0]["data"]["text/html"] != shown
    rows = np.sort(np.random.default_rng(0).choice(len(world), 150, replace=False))
    z = model.embed_locations(world.lonlat[rows])
    scores = projection_scores(z, projector.xy)
    assert f"{scores.trustworthiness:.3f}" in projector.scores.value and f"{scores.kept:.0%}" in projector.scores.value
    assert projector.scores.value.startswith(f"150 of {len(world):,} places. Trustworthiness")
    projector.neighbors.value = 15
    np.testing.assert_array_equal(projector.xy, before)  # the same setting is the same picture
    projector.method.value = "pca"
    assert projector.neighbors.disabled and projector.seed.disabled
    assert np.abs(projector.xy).max() < 2
    projector.method.value = "umap"
    assert not projector.neighbors.disabled


def test_a_table_of_embeddings_is_a_space(trained, model, tmp_path):
    from geonb.inference import embed_table

    lonlat = np.stack([np.linspace(-100, 100, 40), np.linspace(-40, 60, 40)], 1)
    lines = ["title,lon,lat,height", *(f"{HOSTILE},{a},{b},{i}" for i, (a, b) in enumerate(lonlat))]
    (tmp_path / "p.csv").write_text("\n".join(lines))
    embed_table(trained, tmp_path / "p.csv", tmp_path / "mine.parquet", progress=False)
    space = space_of(tmp_path / "mine.parquet")
    assert space.name == "mine" and space.titles[0] == HOSTILE and space.columns["height"].tolist() == list(range(40))
    np.testing.assert_allclose(space.lonlat, lonlat)
    np.testing.assert_allclose(space.z, model.embed_locations(lonlat), atol=1e-6)
    widget = projection_widget(tmp_path / "mine.parquet")
    assert HOSTILE not in widget.picture.outputs[0]["data"]["text/html"] and widget.source.options == ("mine",)
    for name, text in (("none.parquet", None), ("p.csv", "lon,lat\n1,2\n")):
        if text is None:
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.table({"lon": [1.0], "lat": [2.0]}), tmp_path / name)
            with pytest.raises(ValueError, match="no column embedding"):
                space_of(tmp_path / name)
    with pytest.raises(ValueError, match="give data="):
        space_of(trained)
    with pytest.raises(ValueError, match="at least one source"):
        projection_widget({})


def test_several_spaces_are_chosen_by_name():
    rng = np.random.default_rng(0)
    lonlat = rng.uniform(-80, 80, (40, 2))
    spaces = {n: Space(n, lonlat, rng.normal(size=(40, d)).astype(np.float32)) for n, d in (("one", 4), ("two", 9))}
    widget = projection_widget(spaces)
    first = widget.xy
    widget.source.value = "two"
    assert not np.array_equal(first, widget.xy) and "two" in widget.view.data["titles"][0]


def test_spaces_of_the_same_name_have_neighbours_of_their_own():
    rng = np.random.default_rng(0)
    lonlat, before, after = rng.uniform(-80, 80, (40, 2)), *rng.normal(size=(2, 40, 8)).astype(np.float32)
    widget = projection_widget({"before": Space("run", lonlat, before), "after": Space("run", lonlat, after)})
    widget.source.value = "after"
    np.testing.assert_array_equal(widget.xy, projection_widget(Space("run", lonlat, after)).xy)


def test_ragged_embeddings_are_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    ragged = pa.table({"lon": [0.0, 1.0], "lat": [0.0, 1.0], "embedding": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0, 8.0]]})
    pq.write_table(ragged, tmp_path / "ragged.parquet")
    with pytest.raises(ValueError, match="not all of one length"):
        space_of(tmp_path / "ragged.parquet")


def test_a_click_a_position_and_words_paint_what_they_say(trained, world, model):
    widget = planet_widget({"mine": trained}, world, width=60)
    grid = LandGrid(model, 60)
    assert widget.show.value == "colours" and widget.best.children == () and "principal" in widget.message.value
    url = widget.overlay.url
    widget.map._interaction_callbacks(type="click", coordinates=[10.0, 380.0])  # a world to the right
    assert (widget.lon.value, widget.lat.value) == (20, 10) and widget.show.value == "place"
    assert widget.overlay.url != url and "20.000, 10.000" in widget.message.value
    expected = grid.z @ model.embed_locations([(20, 10)])[0]
    np.testing.assert_allclose(widget.image.values[:, 0], expected, atol=1e-5)
    assert len(widget.best.children) == widgets.NAMED
    similarity = model.embed_locations(world.lonlat) @ model.embed_locations([(20, 10)])[0]
    assert widget.best.children[0].value.startswith(f"{similarity.max():.3f}  ")
    assert world.column("title")[similarity.argmax()] in widget.best.children[0].value
    url = widget.overlay.url
    words = f"rivers {HOSTILE}"
    widget.words.value = words
    assert widget.show.value == "words" and widget.overlay.url != url
    expected = layer_of(model, "similarity", text=words)(grid.z)
    np.testing.assert_allclose(widget.image.values, expected, atol=1e-5)
    assert HOSTILE in widget.message.value and type(widget.message).__name__ == "Label"
    assert HOSTILE not in widget.overlay.name and "&lt;img" in widget.overlay.name
    assert no_markup_of(widget, HOSTILE)
    url = widget.overlay.url
    widget.words.value = ""
    assert "empty" in widget.message.value and widget.overlay.url == url
    widget.lat.value = -20
    assert widget.show.value == "place" and "-20.000" in widget.message.value


def test_curves_follow_a_run_while_it_writes(tmp_path):
    run = tmp_path / HOSTILE.replace("/", "")
    widget = training_widget(run, follow=False)
    assert "nothing written yet" in widget.message.value and widget.update() == 0
    run.mkdir()
    line = {"step": 5, "loss": 3.25, "held_out": 2.5, "held_out/text": 2.5, "places_per_s": 1200.0}
    with (run / "metrics.jsonl").open("w") as file:
        file.write(json.dumps(line) + "\n" + json.dumps(line | {"step": 10})[:20])
        file.flush()
        assert widget.update() == 1 and "step 5, loss 3.250, held out 2.500, 1,200 places" in widget.message.value
        assert widget.update() == 0  # half a line waits
        file.write(json.dumps(line | {"step": 10})[20:] + "\n")
        file.flush()
        assert widget.update() == 1 and [entry["step"] for entry in widget.lines] == [5, 10]
    assert "<svg" in widget.picture.value and "held out, text" in widget.picture.value
    assert HOSTILE not in widget.picture.value and "Training of &lt;img" in widget.picture.value
    (run / "metrics.jsonl").write_text(json.dumps(line | {"step": 1}) + "\n")  # begun anew
    assert widget.update() == 1 and [entry["step"] for entry in widget.lines] == [1]


def test_a_thread_follows_until_the_run_is_finished(tmp_path, trained):
    lines = (trained / "metrics.jsonl").read_text().splitlines()
    run = tmp_path / "run"
    run.mkdir()
    widget = training_widget(run, seconds=0.02)
    assert widget.button.value
    with (run / "metrics.jsonl").open("w") as file:
        for line in lines:
            print(line, file=file, flush=True)
    for name in ("model.safetensors", "manifest.json"):
        (run / name).write_bytes((trained / name).read_bytes())
    widget._thread.join(timeout=30)
    assert not widget._thread.is_alive() and widget.finished and not widget.button.value
    assert len(widget.lines) == len(lines) and widget.message.value.endswith("finished")
    again = training_widget(tmp_path / "other", seconds=60)
    again.stop()
    again._thread.join(timeout=30)
    assert not again._thread.is_alive()
    assert training_widget(trained).finished
