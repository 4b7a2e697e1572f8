"""The page about a run: made from a trained run, opened in a browser from the disk."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from geonb.data.store import write_store
from geonb.explore.linked import PALETTE
from geonb.explore.page import TEXT_CHARACTERS, explore_page

HOSTILE = "<script>window.hacked=1</script>"


@pytest.fixture(scope="module")
def page(world, trained, tmp_path_factory):
    pytest.importorskip("umap")
    return explore_page(trained, world.path, tmp_path_factory.mktemp("pages") / "page.html", progress=False)


def data_of(path) -> dict:
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', path.read_text(), re.S)[1])


def test_page_holds_every_place_and_every_fact(page, world):
    data = data_of(page)
    assert data["n"] == len(world) == len(data["hover"])
    assert {c["name"]: c["kind"] for c in data["columns"]} == {"zone": "categories", "warmth": "numbers"}
    assert {c["name"]: c["units"] for c in data["columns"]}["warmth"] == "degrees C"
    assert data["columns"][0]["colors"] == PALETTE[: len(data["columns"][0]["labels"])]
    row = int(np.flatnonzero(world.has("text"))[0])
    assert data["hover"][row] == f"Place {row} — {world.texts([row])[0]}"


def test_page_says_what_is_simulated_and_where_facts_come_from(page):
    text = page.read_text()
    assert "the positions and texts and images of this store are simulated" in text
    assert "<dt>warmth</dt><dd>made up</dd>" in text


def test_page_needs_nothing_else_and_is_the_same_again(page, world, trained, tmp_path):
    assert not re.search(r'(?:src|href)="(?!data:)', page.read_text())
    again = explore_page(trained, world.path, tmp_path / "again.html", progress=False)
    assert again.read_bytes() == page.read_bytes()


def test_long_and_hostile_texts(trained, tmp_path):
    n = 20
    lonlat = np.stack([np.linspace(-170, 170, n), np.linspace(-80, 80, n)], 1)
    names = [f"p{i}" for i in range(n)]
    store = write_store(
        tmp_path / "store",
        places={"place_id": names, "lon": lonlat[:, 0], "lat": lonlat[:, 1], "title": [HOSTILE] * (n - 1) + [None]},
        texts={"place_id": names, "text": [HOSTILE + " long" * 100] * n},
        facts={},
        simulated={"location": False, "text": False},
    )
    path = explore_page(trained, store.path, tmp_path / "page.html", progress=False)
    assert HOSTILE not in path.read_text() and "Simulated" not in path.read_text()
    hover = data_of(path)["hover"]
    assert hover[0].startswith(f"{HOSTILE} — {HOSTILE}") and hover[-1].startswith("Unnamed place — ")
    assert len(hover[0].split(" — ")[1]) == TEXT_CHARACTERS and hover[0].endswith("…")


def test_a_run_that_is_not_there_is_refused_and_nothing_is_written(world, tmp_path):
    with pytest.raises(ValueError):
        explore_page(tmp_path / "nowhere", world.path, tmp_path / "page.html", progress=False)
    assert list(tmp_path.iterdir()) == []
