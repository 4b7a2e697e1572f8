"""Acquisitions that are killed, fail, run twice at once or ask for something else, and chips into a store."""

import json
import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from faulty import tree

from geonb.data.sources.parts import Chip, Parts, Skips, chip_store
from geonb.data.store import BANDS, check_store, write_store

PLAN = {"source": "test", "parts": 4}
POINTS = np.stack([np.linspace(-170, 170, 23), np.linspace(-60, 70, 23)], 1)

JOB = """
import os, signal, sys
import numpy as np
from geonb.data.sources.parts import Chip, chip_store

out, stop_at = sys.argv[1], int(sys.argv[2])
calls = 0

def fetch(lon, lat):
    global calls
    calls += 1
    if calls - 1 == stop_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return Chip(np.full((12, 16, 16), 1000 + int(lon), np.uint16), columns={"x": lon})

chip_store(out, [[x, 0] for x in range(8)], fetch, plan={}, source="test", license="none", size=16)
print(calls)
"""


def run_job(out, stop_at=-1):
    return subprocess.run([sys.executable, "-c", JOB, str(out), str(stop_at)], stdout=subprocess.PIPE, text=True)


def paint(lon, lat):
    """A chip that encodes its position."""
    image = np.full((12, 16, 16), 500, np.uint16)
    image[3] = 1000 + int(lon + 180)
    return Chip(image, "2024-07-01" if lat > 0 else "", {"cloud_share": 0.1, "item": f"S2_{lon:.0f}"})


def source(lon, lat):
    return "only clouds" if -40 < lon < -10 else paint(lon, lat)


def never(*_):
    pytest.fail("called")


def make(out, where=POINTS, fetch=source, **options):
    options = {"plan": {"source": "painted"}, "source": "painted", "license": "none", "size": 16} | options
    return chip_store(out, where, fetch, **options)


def test_a_killed_command_continues_and_gives_the_same_bytes(tmp_path):
    assert run_job(tmp_path / "undisturbed").stdout.strip() == "8"
    out = tmp_path / "store"
    assert run_job(out, 5).returncode == -signal.SIGKILL and not out.exists()
    (tmp_path / "store.partial-123").mkdir()  # as a process leaves it that is killed while it writes the store
    assert run_job(out).stdout.strip() == "3"
    assert tree(out) == tree(tmp_path / "undisturbed")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["store", "undisturbed"]


def test_what_exists_is_left_alone(tmp_path):
    (tmp_path / "store.parts").mkdir()
    (tmp_path / "store.parts" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="move or remove it"), Parts(tmp_path / "store", PLAN):
        never()
    out = tmp_path / "other"
    with pytest.raises(KeyboardInterrupt), Parts(out, PLAN):  # killed before the parts were removed
        write_store(out, places={"place_id": ["mine"], "lon": [0.0], "lat": [0.0]})
        raise KeyboardInterrupt
    before = tree(tmp_path)
    for plan in (PLAN, {}):
        with pytest.raises(ValueError, match=r"exists already; remove it \(and any other.parts\)"), Parts(out, plan):
            never()
    assert tree(tmp_path) == before and check_store(out)


def test_parts_come_back_as_they_were_saved_and_what_was_left_out_is_added_up(tmp_path):
    with Parts(tmp_path / "store", PLAN) as parts:
        for i, n in enumerate((2, 3)):
            skips = Skips()
            skips.add("no text", f"<b>row {i}</b>", n)
            skips.add("never", n=0)
            parts.save(f"{i}", pa.table({"x": [1.5, None], "y": ["é", "\0"]}), np.arange(4 + i), skips)
        assert parts.table("0").to_pydict() == {"x": [1.5, None], "y": ["é", "\0"]}
        assert parts.table("0", ["y"]).column_names == ["y"] and parts.table("0").schema.metadata in (None, {})
        assert parts.array("1").tolist() == [0, 1, 2, 3, 4] and "2" not in parts
        assert str(parts.skips()) == "5 left out: no text (e.g. <b>row 0</b>)"
        with pytest.raises(ValueError, match="pickle"):
            parts.save("2", pa.table({}), np.array([object()]))
        assert "2" not in parts
    assert list(tmp_path.iterdir()) == []


def test_the_day_of_the_first_start_is_kept_and_another_plan_is_refused(tmp_path):
    with pytest.raises(KeyboardInterrupt), Parts(tmp_path / "store", PLAN):
        raise KeyboardInterrupt
    file = tmp_path / "store.parts" / "plan.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"begun": "2001-02-03"}))
    with pytest.raises(ValueError, match="begun with {'parts': 4}"), Parts(tmp_path / "store", PLAN | {"parts": 5}):
        never()
    with Parts(tmp_path / "store", PLAN) as parts:
        assert parts.date == "2001-02-03"


def test_of_two_processes_the_second_stops(tmp_path):
    code = f"from geonb.data.sources.parts import Parts; Parts({str(tmp_path / 'store')!r}, {PLAN}).__enter__()"
    with Parts(tmp_path / "store", PLAN):
        second = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
        assert "another process is making it" in second.stderr


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
    store = make(tmp_path / "both", base, lambda lon, lat: paint(lon, lat) if lon > 0 else "at sea", simulated=True)
    assert store.place_id.tolist() == base.place_id.tolist() and (store.lonlat == base.lonlat).all()
    assert (store.has("text") == base.has("text")).all() and (store.has("sentinel2") == (lonlat[:, 0] > 0)).all()
    texts = np.flatnonzero(base.has("text"))
    assert store.texts(texts) == base.texts(texts)
    assert store.text_column("revision", texts) == base.text_column("revision", texts)
    for name in ("place_id", "title", "links", "height"):
        assert store.places[name].equals(base.places[name])
    assert store.facts == base.facts and store.simulated("text") and store.simulated("sentinel2")
    assert (store.path / "attribution.parquet").exists()
    assert np.isnan(store.column("cloud_share")[~store.has("sentinel2")]).all()
    card = (store.path / "datacard.md").read_text()
    assert card.startswith("# Texts\n\nAll about them.\n\n## Image chips") and "**The images are simulated.**" in card
    rows = np.flatnonzero(store.has("sentinel2"))
    assert (store.images("sentinel2", rows)[:, 3, 0, 0] == 1000 + (lonlat[rows, 0] + 180).astype(int)).all()


@pytest.mark.parametrize("fails_at, workers", [(0, 1), (17, 1), (17, 4)])
def test_a_source_that_fails_is_asked_only_for_the_parts_that_are_missing(tmp_path, fails_at, workers):
    calls = []

    def flaky(lon, lat):
        calls.append(lon)
        if len(calls) == fails_at + 1:
            raise ConnectionError("the line was cut")
        return source(lon, lat)

    with pytest.raises(ValueError, match=r"the line was cut\n\d+ of 23 places are done"):
        make(tmp_path / "b", fetch=flaky, workers=workers)
    assert not (tmp_path / "b").exists()
    store = make(tmp_path / "b", fetch=flaky, workers=workers)
    assert len(calls) == 24
    assert tree(store.path) == tree(make(tmp_path / "a").path)


def test_places_without_data_are_counted_and_none_at_all_is_an_error(tmp_path, capsys):
    empty, dark = (Chip(np.full((len(BANDS), 16, 16), value, np.uint16)) for value in (0, 200))
    answers = iter([empty, paint(0, 0), dark])
    store = make(tmp_path / "some", POINTS[:3], lambda lon, lat: next(answers))
    reasons = {"no data in the whole chip": 1, "too dark or too bright to be reflectance": 1}
    assert store.manifest["made"]["left_out"] == reasons and not any(store.manifest["simulated"].values())
    assert "too dark or too bright" in (store.path / "datacard.md").read_text()
    assert "1 left out: no data in the whole chip (e.g. row 0 at (-170, -60))" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no chip was found at 2 positions\n2 left out: at sea"):
        make(tmp_path / "none", POINTS[:2], lambda lon, lat: "at sea")


def test_wrong_positions_and_stores_with_real_images_are_refused_before_anything_is_fetched(tmp_path):
    for where, message in (([[200, 0]], "out of range"), (np.empty((0, 2)), "no positions")):
        with pytest.raises(ValueError, match=message):
            make(tmp_path / "s", where, never)
    with pytest.raises(ValueError, match="has images of Sentinel-2 already"):
        make(tmp_path / "s", make(tmp_path / "real"), never)


def test_positions_of_cities_with_latitude_first_are_remarked_on(tmp_path):
    cities = [[52.5, 13.4], [48.1, 11.6], [53.6, 10.0], [50.9, 7.0], [51.3, 12.4], [49.5, 11.1]]
    with pytest.warns(UserWarning, match="on land with longitude and latitude swapped"):
        make(tmp_path / "s", cities)


def test_ctrl_c_keeps_what_is_finished_and_other_positions_do_not_continue_it(tmp_path):
    calls = []

    def interrupted(lon, lat):
        calls.append(lon)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return source(lon, lat)

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "store", fetch=interrupted)
    assert len(calls) < 23
    with pytest.raises(ValueError, match="parts of another plan"):
        make(tmp_path / "store", POINTS[::-1])
    assert len(make(tmp_path / "store", fetch=interrupted)) == 21 and len(calls) == 24
