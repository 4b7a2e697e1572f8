"""The numbers of the quality page, against stores whose numbers are known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from geonb.data.quality import TEXTS_AT_ONCE, continents, quality
from geonb.data.sampling import land_cells, land_points
from geonb.data.store import write_store
from geonb.geo import blocks, cell_bounds


def store_of(path, lonlat, texts=None, dates=None, **columns):
    n = len(lonlat)
    names = [f"p{i}" for i in range(n)]
    more = {}
    if texts is not None:
        more["texts"] = {"place_id": names[: len(texts)], "text": texts}
    if dates is not None:
        images = np.random.default_rng(0).integers(100, 3000, (len(dates), 12, 4, 4)).astype(np.uint16)
        more |= {"images": [images], "image_rows": range(n - len(dates), n), "dates": dates}
    places = {"place_id": names, "lon": np.array(lonlat)[:, 0], "lat": np.array(lonlat)[:, 1], **columns}
    return write_store(path, places=places, **more)


def test_a_store_whose_numbers_are_known(tmp_path):
    lonlat = [[10, 25], [10, 25], [10.0, 25.2], [-60, -10], [134, -24], [-140, 0]]
    store = store_of(
        tmp_path / "s", lonlat, texts=["abc", "abcde", "abc", "ünï"], dates=["2020-01-05", "2021-07-31", "", "2021-07-01"],
        cloud_share=[np.nan, 0.9, 0.1, 0.2, np.nan, 0.6], near_duplicate=np.array(["g1", None, "g1", None, "g2", None], object),
        population=[1.0, np.nan, 3, 4, 5, 6],
    )  # fmt: skip
    q = quality(store, 500)
    assert (q.places, q.texts, q.images, q.text_and_image, q.size_km) == (6, 4, 4, 2, 500)
    assert q.cells == 4 and q.off_land == 1 and q.land.held == 3 and q.land.cells == len(land_cells(500))
    assert q.per_cell["100"] == 3 and q.per_cell["50"] == 1
    share = np.array([3, 1, 1, 1]) / 6
    assert q.effective_cells == pytest.approx(np.exp(-(share * np.log(share)).sum()))
    assert q.densest_share == 1 and q.text_chars["50"] == 3 and q.text_chars["100"] == 5
    assert (q.same_texts, q.same_positions, q.near_duplicates) == (1, 1, 2)
    assert q.clouds["0"] == 0.1 and q.clouds["100"] == 0.6  # of places with an image
    assert q.months_north == [1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]  # the equator counts as north
    assert q.months_south == [0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0] and q.undated == 1
    assert q.missing["population"] == 1 and q.missing["cloud_share"] == 2 and q.missing["near_duplicate"] == 3
    assert sum(c.cells for c in q.continents.values()) == sum(c.cells for c in q.latitudes.values()) == q.land.cells
    assert {name: c.held for name, c in q.continents.items() if c.held} == {"Africa": 1, "South America": 1, "Oceania": 1}
    assert q.latitudes["0 to 30"].held == 1 and q.latitudes["-30 to 0"].held == 2
    text = str(q)
    assert "6 places: 4 with a text, 4 with an image, 2 with both" in text and "50.0% are close to another" in text
    values = q.as_dict()
    assert json.loads(json.dumps(values)) == values and values["land"]["share"] == q.land.share
    assert values["continents"]["Africa"]["held"] == 1 and "share" in values["latitudes"]["0 to 30"]


def test_even_places_are_even_and_crowded_ones_are_not(tmp_path):
    land = land_cells(300)
    west, south, east, north = cell_bounds(land, 300).T
    middles = np.stack([(west + east) / 2, (south + north) / 2], 1)
    q = quality(store_of(tmp_path / "even", middles), 300)
    assert q.land.share == 1 and q.effective_cells == pytest.approx(len(land)) and q.off_land == 0
    assert all(c.share == 1 for c in [*q.continents.values(), *q.latitudes.values()] if c.cells)
    assert q.densest_share == pytest.approx(0.01, rel=0.05)
    crowd = np.concatenate([middles[:100], np.repeat(middles[:1], 900, 0)])
    q = quality(store_of(tmp_path / "crowd", crowd), 300)
    assert q.densest_share > 0.9 and q.effective_cells < 5 and q.same_positions == 900


def test_a_store_of_positions_alone_has_no_numbers_of_texts_and_images(tmp_path):
    q = quality(store_of(tmp_path / "s", land_points(50)), 1000)
    assert q.text_chars == q.clouds == {} and q.near_duplicates is None and q.undated == 0
    assert "Texts" not in str(q) and "Clouds" not in str(q) and "Seasons" not in str(q)
    assert json.dumps(q.as_dict(), allow_nan=False)


def test_texts_are_read_in_chunks(tmp_path, monkeypatch):
    n = TEXTS_AT_ONCE + 10
    store = store_of(tmp_path / "s", land_points(n), texts=[str(i % (n - 3)) for i in range(n)])
    read, sizes = store.texts, []
    monkeypatch.setattr(store, "texts", lambda rows: sizes.append(len(rows)) or read(rows))
    assert quality(store, 1000).same_texts == 3 and sizes == [TEXTS_AT_ONCE, 10]


def test_continents_are_those_of_the_nearest_place():
    places = [[2.3, 48.9], [37.6, 0.1], [-100.0, 40.0], [134.0, -24.0], [0.0, -80.0], [105.0, 62.0], [-60.0, -10.0]]
    names = ["Europe", "Africa", "North America", "Oceania", "Antarctica", "Asia", "South America"]
    assert continents(places).tolist() == names


def test_land_cells_are_the_cells_of_land():
    land = land_cells(500)
    assert np.isin(blocks([[10.0, 25.0], [-60.0, -10.0], [0.0, -85.0]], 500), land).all()
    assert not np.isin(blocks([[-140.0, 0.0], [-30.0, 40.0]], 500), land).any()
