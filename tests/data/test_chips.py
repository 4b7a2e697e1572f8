"""Chips from a source into a store: stopped, failing, wrong, and beside texts that are there already."""

import numpy as np
import pytest
from faulty import tree
from world import make_world

from geonb.data.sources.chips import Chip, chip_store
from geonb.data.store import BANDS, PlaceStore, check_store, write_store
from geonb.data.work import WorkError

POINTS = np.stack([np.linspace(-170, 170, 23), np.linspace(-60, 70, 23)], 1)


def paint(point, size=16):
    """A chip that tells its position, as a source would paint it anew each time."""
    image = np.full((12, size, size), 500, np.uint16)
    image[3] = 1000 + int(point[0] + 180)
    image[7] = 1000 + int(point[1] + 90)
    return Chip(image, "2024-07-01" if point[1] > 0 else "", {"cloud_share": 0.1, "item": f"S2_{point[0]:.0f}"})


def source(points):
    return ["only clouds" if -40 < p[0] < -10 else paint(p) for p in points]


def make(out, where=POINTS, fetch=source, **options):
    options = {"plan": {"source": "painted"}, "source": "painted", "license": "none", "size": 16, "batch": 5} | options
    return chip_store(out, where, fetch, progress=False, **options)


def test_each_chip_stands_at_its_own_position_with_its_facts(tmp_path):
    store = make(tmp_path / "store")
    kept = POINTS[~((POINTS[:, 0] > -40) & (POINTS[:, 0] < -10))]
    assert np.allclose(store.lonlat, kept)
    images = store.images(np.arange(len(store)))
    assert (images[:, 3, 0, 0] == 1000 + (kept[:, 0] + 180).astype(int)).all()
    assert store.image_dates(np.arange(len(store))) == ["2024-07-01" if p[1] > 0 else "" for p in kept]
    assert store.column("item").tolist() == [f"S2_{p[0]:.0f}" for p in kept]
    assert store.manifest["made"]["left_out"] == {"only clouds": len(POINTS) - len(kept)}
    assert "only clouds" in (store.path / "datacard.md").read_text()
    assert not any(store.manifest["simulated"].values())
    check_store(store.path)


def test_chips_are_added_to_a_store_of_texts_and_all_of_it_is_kept(tmp_path):
    n = 30
    lonlat = np.stack([np.linspace(-100, 100, n), np.linspace(-50, 50, n)], 1)
    base = write_store(
        tmp_path / "texts",
        places={"place_id": [f"a{i}" for i in range(n)], "lon": lonlat[:, 0], "lat": lonlat[:, 1],
                "title": [f"Place {i}" for i in range(n)], "links": np.arange(n), "height": [np.nan, *range(n - 1)]},
        texts={"place_id": [f"a{i}" for i in range(0, n, 2)], "text": [f"text {i}" for i in range(0, n, 2)],
               "revision": [str(i) for i in range(0, n, 2)], "license": ["CC BY-SA 4.0"] * (n // 2)},
        facts={"height": {"kind": "regression", "units": "m", "modalities": ["text"], "source": "made up"}},
        simulated={"text": True},
        datacard="# Texts\n\nAll about them.\n",
    )  # fmt: skip
    store = make(tmp_path / "both", base, lambda points: [paint(p) if p[0] > 0 else "at sea" for p in points])
    assert store.place_id.tolist() == base.place_id.tolist() and (store.lonlat == base.lonlat).all()
    assert (store.has("text") == base.has("text")).all() and (store.has("image") == (lonlat[:, 0] > 0)).all()
    texts = np.flatnonzero(base.has("text"))
    assert store.texts(texts) == base.texts(texts)
    assert store.text_column("revision", texts) == base.text_column("revision", texts)
    for name in ("title", "links", "height"):
        assert np.array_equal(store.places[name].to_pylist(), base.places[name].to_pylist())
        assert store.places[name].type == base.places[name].type
    assert store.facts == base.facts and store.simulated("text") and not store.simulated("image")
    assert np.isnan(store.column("cloud_share")[~store.has("image")]).all()
    assert (store.path / "datacard.md").read_text().startswith("# Texts\n\nAll about them.\n\n## Image chips")
    rows = np.flatnonzero(store.has("image"))
    assert (store.images(rows)[:, 3, 0, 0] == 1000 + (lonlat[rows, 0] + 180).astype(int)).all()


@pytest.mark.parametrize("fails_at", [0, 1, 3])
def test_a_source_that_fails_is_asked_only_for_the_rest_and_the_bytes_are_the_same(tmp_path, fails_at):
    undisturbed = make(tmp_path / "a" / "store")
    calls = []

    def flaky(points):
        calls.append(points)
        if len(calls) == fails_at + 1:
            raise ConnectionError("the line was cut")
        return source(points)

    (tmp_path / "b").mkdir()
    with pytest.raises(WorkError, match=rf"the line was cut\n{5 * fails_at} of 23 places are done and kept"):
        make(tmp_path / "b" / "store", fetch=flaky)
    assert not (tmp_path / "b" / "store").exists()
    again = make(tmp_path / "b" / "store", fetch=flaky)
    assert tree(again.path) == tree(undisturbed.path)
    assert len(calls) == 5 + 1  # five batches, one of them twice


def test_several_batches_at_once_give_the_same_bytes(tmp_path):
    assert tree(make(tmp_path / "one").path) == tree(make(tmp_path / "many", workers=4).path)


def test_simulated_images_are_called_so(tmp_path):
    store = make(tmp_path / "store", simulated=True)
    assert store.simulated("image") and not store.simulated("text")
    assert "**The images are simulated.**" in (store.path / "datacard.md").read_text()


def test_other_positions_do_not_go_on_from_the_work_of_these(tmp_path):
    def fail(points):
        raise ConnectionError("no")

    with pytest.raises(WorkError):
        make(tmp_path / "store", fetch=fail)
    with pytest.raises(WorkError, match="asked for otherwise"):
        make(tmp_path / "store", POINTS[::-1])


@pytest.mark.parametrize(
    "wrong, message",
    [
        (Chip(np.ones((12, 8, 8), np.uint16)), r"place 0: the source gave a chip uint16 \(12, 8, 8\)"),
        (Chip(np.ones((12, 16, 16), np.float32)), "the source gave a chip float32"),
        (Chip(np.ones((11, 16, 16), np.uint16)), r"\(11, 16, 16\)"),
        (Chip(np.full((12, 16, 16), 900, np.uint16), "1 July"), "which is not YYYY-MM-DD"),
        (Chip(np.full((12, 16, 16), 900, np.uint16), "", {"title": "x"}), "a column 'title', which has another meaning"),
    ],
)
def test_a_chip_that_is_not_as_it_should_be_is_refused(tmp_path, wrong, message):
    with pytest.raises(WorkError, match=message):
        make(tmp_path / "store", POINTS[:1], lambda points: [wrong])


def test_places_without_data_are_counted_and_none_at_all_is_an_error(tmp_path):
    empty = Chip(np.zeros((len(BANDS), 16, 16), np.uint16))
    dark = Chip(np.full((len(BANDS), 16, 16), 200, np.uint16))
    store = make(tmp_path / "some", POINTS[:3], lambda points: [empty, paint(points[1]), dark], batch=3)
    assert store.manifest["made"]["left_out"] == {
        "no data in the whole chip": 1, "too dark or too bright to be reflectance": 1
    }  # fmt: skip
    with pytest.raises(WorkError, match="no chip was found at 2 positions\n2 left out: at sea"):
        make(tmp_path / "none", POINTS[:2], lambda points: ["at sea"] * len(points))


def test_wrong_positions_and_stores_with_images_are_refused_before_anything_is_asked(tmp_path):
    def never(points):
        pytest.fail("asked")

    with pytest.raises(ValueError, match="out of range"):
        make(tmp_path / "s", [[200, 0]], never)
    with pytest.raises(ValueError, match="no positions"):
        make(tmp_path / "s", np.empty((0, 2)), never)
    world = make_world(tmp_path / "world", n=20)
    with pytest.raises(ValueError, match="has images already"):
        make(tmp_path / "s", world, never)
    with pytest.raises(WorkError, match="gave 0 answers for 5 positions"):
        make(tmp_path / "s", fetch=lambda points: [])


def test_ctrl_c_stops_at_once_and_keeps_what_is_finished(tmp_path):
    calls = []

    def interrupted(points):
        calls.append(len(points))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return source(points)

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "store", fetch=interrupted)
    assert len(calls) == 2
    assert isinstance(make(tmp_path / "store"), PlaceStore)
