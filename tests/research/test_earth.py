"""The articles are cleaned as said, and a model of the Earth learns from them what its manifest says."""

import json
import re

import articles
import earth
import numpy as np
import pandas as pd
import pytest

from geonb import load
from geonb.run import PRETRAINED
from geonb.sample import make_atlas


def test_signs_come_back_only_where_the_text_says_so():
    lonlat = np.array([[89.13, 41.33], [-3.7, 40.4], [12.0, 45.0], [-140.0, 30.0]])
    texts = ["Peru is a city in Illinois, United States.", "Madrid is in Spain.", "A town with a church.", "Nothing."]
    found, mirrored, doubtful = articles.with_signs(lonlat, texts)
    assert found[0].tolist() == [-89.13, 41.33] and (found[1:] == lonlat[1:]).all()
    assert mirrored.tolist() == [True, False, False, False] and doubtful.tolist() == [False, False, False, True]


def test_what_is_left_out_is_counted():
    town = "is a town in the south of Spain, known for olives, with a castle above the river and {} inhabitants."
    table = pd.DataFrame({
        "title": ["A", "B", "C", "D", "E"], "lon": [-4.0, -4.5, 0.0, -5.0, np.nan], "lat": [37.0, 37.5, 51.0, 38.0, 1.0],
        "text": [f"A {town.format(10)}", f"B {town.format(99)}", "London is a city of many million people.", "Short.",
                 "Nowhere is a place without any position at all."],
    })  # fmt: skip
    kept, counts = articles.clean(table)
    assert kept["title"].tolist() == ["A"]
    left = {"too short": 1, "without a position": 2, "near-duplicates": 1, "kept": 1}
    assert left.items() <= counts.items()


def test_passages_lose_no_word_and_are_short():
    text = " ".join(f"This is sentence number {i} about a place." for i in range(40))
    found = earth.passages(text)
    assert " ".join(found) == text and all(len(p) <= earth.PASSAGE_CHARS + 50 for p in found)


def test_shared_variation_prefers_what_regions_share():
    rng, lonlat = np.random.default_rng(0), np.random.default_rng(1).uniform(-60, 60, (3000, 2))
    values = np.stack([np.sin(np.radians(lonlat[:, 0])), rng.normal(size=3000), rng.normal(size=3000)], 1)
    first = earth.shared_variation(values - values.mean(0), lonlat, 1)[:, 0]
    assert abs(first[0]) > 20 * np.abs(first[1:]).max()


def test_averages_are_weighted_means_of_neighbours():
    lonlat = np.array([[0.0, 0.0], [1.0, 0.0], [90.0, 0.0]])
    values = np.array([[0.0], [1.0], [5.0]])
    found = earth.averaged(values, lonlat, np.array([[0.0, 0.0], [90.0, 0.0]]), km=111.195, neighbours=3, least=1)
    weight = np.exp(-0.5)
    np.testing.assert_allclose(found, [[weight / (1 + weight)], [5.0]], rtol=1e-3)


def test_without_real_data_the_script_says_what_to_set(monkeypatch):
    monkeypatch.delenv("GEONB_REAL_DATA", raising=False)
    with pytest.raises(SystemExit, match="set GEONB_REAL_DATA to the folder of the real data"):
        articles.real_data()


@pytest.mark.parametrize("name", ["earth", "earth-text", "earth-landscape"])
def test_no_shipped_model_was_trained_on_a_label_or_a_composed_text(name):
    manifest = json.loads((PRETRAINED / name / "manifest.json").read_text(encoding="utf-8"))
    said = json.dumps([manifest[field] for field in ("inputs", "targets", "selected_by")])
    assert not re.search("köppen|koppen|climate|language|composed|simulated|label", said, re.IGNORECASE)
    assert not any(manifest["data"]["simulated"].values())


def test_a_model_of_any_store_is_trained_judged_and_shipped(tmp_path, monkeypatch):
    """In the small: the texts of this store are composed, so nothing of it is shipped."""
    sample = make_atlas(tmp_path / "sample", 300, progress=False)
    monkeypatch.setattr(earth, "HELD_OUT", 30)
    monkeypatch.setattr("geonb.model.unrelated_sentences", lambda: ["The stock market fell.", "asdf"])
    monkeypatch.setattr(earth, "land", lambda sample: earth.land_points(100, 7))
    monkeypatch.setattr(earth, "RECIPES", {"earth": earth.Recipe(
        {"contrast": 8, "text": 16, "landscape": 8}, (0.1, 0.4, 0.5), (0.9, 0.1, 0.1), 6, 32)})  # fmt: skip
    options = ["--store", str(sample.path), "--sample", str(sample.path), "--steps", "3"]
    folders = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out"), "--results", str(tmp_path / "r.json")]
    found = earth.main([*options, *folders])["models"]["earth"]
    assert {"articles", "climate", "language", "extents", "articles in unseen blocks of 500 km"} <= found.keys()
    shipped, trained = load(tmp_path / "out" / "earth"), load(tmp_path / "work" / "earth-reported")
    z = shipped.embed_locations([[10.0, 50.0], [-70.0, -30.0]])
    np.testing.assert_allclose(z, trained.embed_locations([[10.0, 50.0], [-70.0, -30.0]]), atol=5e-3)
    np.testing.assert_allclose(np.linalg.norm(z[:, :8], axis=1), 0.1**0.5, rtol=1e-4)
