"""The numbers of the quality page, against stores whose numbers are known."""

from __future__ import annotations

import numpy as np
import pytest

from geonb.data.quality import TEXTS_AT_ONCE, quality
from geonb.data.sampling import land_cells, land_points
from geonb.data.store import Images, write_store


def store_of(path, lonlat, texts=None, dates=None, **columns):
    n = len(lonlat)
    names = [f"p{i}" for i in range(n)]
    more = {}
    if texts is not None:
        more["texts"] = {"place_id": names[: len(texts)], "text": texts}
    if dates is not None:
        images = np.random.default_rng(0).integers(100, 3000, (len(dates), 12, 4, 4)).astype(np.uint16)
        more |= {"images": {"sentinel2": Images([images], range(n - len(dates), n), dates)}}
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
    assert [q[name] for name in ("places", "with text", "with sentinel2", "with all of these")] == [6, 4, 4, 2]
    assert q["at the position of another"] == 1 and q["places in cells that are mostly sea"] == 1 and q["places in the fullest cell"] == 3
    assert q["share of land cells of 500 km with a place"] == pytest.approx(3 / len(land_cells(500)))
    share = np.array([3, 1, 1, 1]) / 6
    assert q["evenly filled cells"] == pytest.approx(np.exp(-(share * np.log(share)).sum()))
    assert q["share of places in the fullest cells (1 % of land cells)"] == pytest.approx(1)
    assert (q["characters of a text, median"], q["characters of a text, longest"], q["texts equal to another"]) == (3, 5, 1)
    assert q["share of near-duplicate texts"] == 0.5
    assert q["share of clouds, largest"] == 0.6  # of places with an image
    assert q["sentinel2 by month, north"] == "1/0/0/0/0/0/1/0/0/0/0/0"  # the equator counts as north
    assert q["sentinel2 by month, south"] == "0/0/0/0/0/0/1/0/0/0/0/0" and q["sentinel2 without a date"] == 1
    assert (q["share without population"], q["share without cloud_share"]) == (1 / 6, 2 / 6)
    assert "share of near-duplicate texts" in str(q) and "50.0%" in str(q)


def test_texts_are_read_in_chunks(tmp_path, monkeypatch):
    n = TEXTS_AT_ONCE + 10
    store = store_of(tmp_path / "s", land_points(n), texts=[str(i % (n - 3)) for i in range(n)])
    read, sizes = store.texts, []
    monkeypatch.setattr(store, "texts", lambda rows: sizes.append(len(rows)) or read(rows))
    assert quality(store, 1000)["texts equal to another"] == 3 and sizes == [TEXTS_AT_ONCE, 10]
