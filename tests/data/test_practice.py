"""The practice inputs: both ways to Wikipedia find the same articles in them, and the faults that were planted."""

import numpy as np
import pytest
from world import make_world

from geonb import practice
from geonb.data.sources import wikipedia
from geonb.data.sources.wikipedia import from_api, from_table


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world") / "store", n=60)


def test_table_and_service_give_the_same_articles_and_every_planted_fault_is_found(world, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(wikipedia, "INTERVAL_S", 0)
    table = practice.wikipedia_table(world, tmp_path / "articles.parquet")
    whole = from_table(tmp_path / "whole", table, min_chars=20, places_only=True, simulated=True)
    assert practice.HOSTILE_TITLE in whole.column("title")
    assert whole.manifest["made"]["left_out"] == {
        "not a place, but a person": 1, "not a place, but an event": 1, "not on Earth": 1, "position at 0, 0": 1,
        "text of less than 20 characters": 1,
    }  # fmt: skip
    assert "The texts are simulated" in (whole.path / "datacard.md").read_text() and whole.simulated("text")
    assert not from_table(tmp_path / "real", table, min_chars=20).simulated("text")

    lon, lat = world.lonlat[world.has("text")][0]
    box = (lon - 0.1, lat - 0.1, lon + 0.1, lat + 0.1)
    with practice.wikipedia_service(world) as endpoint:
        area = from_api(tmp_path / "area", bbox=box, contact="a@example.org", endpoint=endpoint, min_chars=20)
    boxed = from_table(tmp_path / "boxed", table, bbox=box, min_chars=20)
    assert sorted(area.place_id) == sorted(boxed.place_id) and len(area)
    assert area.texts([0]) == whole.texts([whole.place_id.tolist().index(area.place_id[0])])


def test_of_the_scenes_the_catalogue_is_wrong_about_one_day_and_the_pixels_tell(tmp_path, monkeypatch):
    pytest.importorskip("odc.stac")
    from geonb.data.sources.stac import from_stac
    from geonb.sample import make_atlas

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    store = make_atlas(tmp_path / "atlas", places=24, seed=0)
    with practice.sentinel2_catalogue(store, places=2) as (url, where):
        chips = from_stac(
            tmp_path / "chips", where, period=("2022-01-01", "2023-01-01"), size=32, url=url, simulated=True
        )  # fmt: skip
    assert len(chips) == 2 and set(chips.image_dates("sentinel2", [0, 1])) == {practice.WRONG_DAY}
    assert chips.column("offset_rule").tolist() == ["pixels against boa_offset_applied"] * 2
    rows = [int(np.abs(store.lonlat - point).sum(1).argmin()) for point in where]
    blue = chips.images("sentinel2", [0, 1])[:, 1].mean((1, 2)) / store.images("sentinel2", rows)[:, 1].mean((1, 2))
    assert np.allclose(blue, 1, atol=0.2)
