"""The page about a run: made from a trained run, opened in a browser from the disk."""

from __future__ import annotations

import base64
import json
import re
import zlib

import numpy as np
import pytest

from geonb.data.store import write_store
from geonb.explore.linked import TEXT_CHARACTERS
from geonb.explore.page import clusters, explore_page
from geonb.explore.views import PALETTE

HOSTILE = "<script>window.hacked=1</script>"


@pytest.fixture(scope="module")
def page(world, trained, tmp_path_factory):
    pytest.importorskip("umap")
    return explore_page(trained, world.path, tmp_path_factory.mktemp("pages") / "page.html")


def data_of(path) -> dict:
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', path.read_text(), re.S)[1])


def about_of(path) -> dict:
    return json.loads(zlib.decompress(base64.b64decode(data_of(path)["about"])))


def test_page_holds_every_place_and_every_fact(page, world):
    data = data_of(page)
    assert data["n"] == len(world) == len(data["hover"])
    assert {c["name"]: c["kind"] for c in data["columns"]} == {
        "zone": "categories", "warmth": "numbers", "cluster": "categories",
    }  # fmt: skip
    assert {c["name"]: c["units"] for c in data["columns"]}["warmth"] == "degrees C"
    assert data["columns"][0]["colors"] == PALETTE[: len(data["columns"][0]["labels"])]
    rows, about = np.flatnonzero(world.has("text")), about_of(page)
    assert data["hover"] == [f"Place {row}" for row in range(len(world))]
    assert [about["text"][row] for row in rows] == [t[:TEXT_CHARACTERS] for t in world.texts(rows)]
    assert [text is not None for text in about["text"]] == world.has("text").tolist()
    assert set(data["simulated"]) == {"location", "text", "image"}
    html = page.read_text()
    assert "the positions and texts and Sentinel-2 images of this store are simulated" in html
    assert "<dt>warmth</dt><dd>made up</dd>" in html and not re.search(r'(?:src|href)="(?!data:)', html)


def test_long_and_hostile_texts_and_their_credits(trained, tmp_path):
    n = 20
    lonlat = np.stack([np.linspace(-170, 170, n), np.linspace(-80, 80, n)], 1)
    names = [f"p{i}" for i in range(n)]
    license = ["CC BY-SA 4.0", "CC BY 4.0", "CC0 1.0", HOSTILE] * 5
    url = ["https://en.wikipedia.org/wiki/A", None, "javascript:alert(1)", None] * 5
    store = write_store(
        tmp_path / "store",
        places={"place_id": names, "lon": lonlat[:, 0], "lat": lonlat[:, 1], "title": [HOSTILE] * (n - 1) + [None]},
        texts={"place_id": names[1:], "text": [HOSTILE + " long" * 100] * (n - 1), "license": license[1:], "url": url[1:],
               "source": [HOSTILE] * (n - 1)},
        facts={},
        simulated={"location": False, "text": False},
    )  # fmt: skip
    path = explore_page(trained, store.path, tmp_path / "page.html")
    html, data, about = path.read_text(), data_of(path), about_of(path)
    assert HOSTILE not in html and "<strong>Simulated" not in html and data["thumbs"] is None
    assert data["hover"] == [HOSTILE] * (n - 1) + ["Unnamed place"]
    assert about["text"][0] is None and about["text"][1].startswith(HOSTILE)
    assert len(about["text"][1]) == TEXT_CHARACTERS and about["text"][1].endswith("…")
    assert about["creator"][4] == "Wikipedia contributors" and about["license"][2:4] == ["CC0 1.0", HOSTILE]
    credits = re.findall(r"<li>(.*?)</li>", html)
    assert len(credits) == 2  # CC0 and what is no licence ask for nothing
    assert credits[0].startswith("5 texts: &lt;script&gt;") and "licenses/by/4.0/" in credits[0]
    assert re.match("4 texts: Wikipedia contributors, <a href=.*removed, shortened$", credits[1])


def test_the_page_in_a_browser(page, world, browser):
    from check_book import barriers, opened

    with opened(browser, page.parent.as_uri(), page.name) as (view, troubles):
        assert view.locator(".gl").get_attribute("data-selected") == str(len(world))
        view.locator(".gl summary").click()
        view.get_by_role("button", name="Place 0", exact=True).last.click()
        assert "degrees C" in view.locator(".gl-card dl").inner_text()
        assert barriers(view) == [] and troubles == []


def test_clusters_are_found_and_named_by_size():
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [50, 200, 100])
    z = np.eye(8)[truth] + 0.15 * rng.normal(size=(350, 8))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    names = clusters(z, count=3)
    assert [set(names[truth == t]) for t in range(3)] == [{"cluster 3"}, {"cluster 1"}, {"cluster 2"}]
    assert set(clusters(np.tile(z[:1], (6, 1)), count=4)) == {"cluster 1"}  # doubles: no empty cluster is named


def test_the_page_of_a_collapsed_run_says_so_and_its_making_shows_progress(
    world, trained, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("geonb.model.Model.embed_locations", lambda self, lonlat: np.ones((len(lonlat), 4), np.float32))
    monkeypatch.delenv("GEONB_PROGRESS", raising=False)
    with pytest.warns(UserWarning, match="all equal"):
        path = explore_page(trained, world.path, tmp_path / "page.html")
    assert "<strong>Collapsed:" in path.read_text() and "3/3" in capsys.readouterr().err
    assert data_of(path)["columns"][-1]["labels"] == ["cluster 1"]
