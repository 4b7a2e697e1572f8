"""Answers in words: scores against the plain formula, planted places and hubs, places apart, sentences about no place."""

import re

import numpy as np
import pytest
import torch

import geonb
from geonb import questions
from geonb.geo import great_circle_km, unit_xyz
from geonb.questions import APART_KM, Gallery, calibrate, named_places, unrelated_sentences
from geonb.sample import load_facts


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def space():
    """Places whose vectors follow their position, unrelated sentences that all lean one way, and the way of a hub."""
    rng = np.random.default_rng(0)
    lonlat, _, _ = named_places()
    z = unit(np.cos(unit_xyz(lonlat) @ rng.normal(size=(3, 32)) * 3 + rng.uniform(0, 6, 32)))
    lean = unit(rng.normal(size=32))
    return lonlat, z, unit(rng.normal(size=(200, 32)) * 0.15 + lean), lean


def test_scores_are_standard_scores_among_unrelated_sentences(space, monkeypatch):
    _, z, unrelated, _ = space
    monkeypatch.setattr(questions, "CHUNK", 100)
    mean, sd, best = calibrate(z[:250], unrelated)
    similarity = unrelated @ z[:250].T
    np.testing.assert_allclose(mean, similarity.mean(0))
    np.testing.assert_allclose(sd, similarity.std(0))
    np.testing.assert_allclose(best, ((similarity - similarity.mean(0)) / similarity.std(0)).max(1))
    constant = np.ones((5, 32)) / np.sqrt(32)  # of a run that has collapsed
    assert np.isfinite(calibrate(constant, constant)[2]).all()


def test_a_planted_place_is_found_beside_a_hub_and_nonsense_finds_none(space):
    lonlat, z, unrelated, lean = space
    hub, planted = 100, 9000
    z = z.copy()
    z[hub] = lean  # more similar to every text than any other place
    names = [f"place {i}" for i in range(len(z))]
    gallery = Gallery(lonlat, names, [None] * len(z), z, unrelated, APART_KM)
    words = unit(lean + 0.4 * z[planted])
    assert (z @ words).argmax() == hub
    answer = gallery.answer("where?", words, top=1)
    assert great_circle_km(lonlat[planted], [answer.places[0]["lon"], answer.places[0]["lat"]]) < APART_KM
    surpass = [bool(gallery.answer("what?", words, top=1).places) for words in unrelated]
    assert np.mean(surpass) == pytest.approx(0.05, abs=0.01)
    assert "no clear place" in str(gallery.answer("what?", unrelated[np.argmin(gallery.best)], top=5))


def test_answers_are_apart_best_first_and_each_is_the_best_of_its_region(space):
    lonlat, z, unrelated, lean = space
    gallery = Gallery(lonlat, np.arange(len(z)).astype(str), [None] * len(z), z, unrelated, APART_KM)
    words = unit(lean + z[9000])
    places = gallery.answer("where?", words, top=8).places
    score = (z @ words - gallery.mean) / gallery.sd
    rows = [int(p["title"]) for p in places]
    assert len(rows) == 8 and rows[0] == score.argmax() and (np.diff(score[rows]) <= 0).all()
    km = great_circle_km(lonlat[rows][:, None], lonlat[rows][None])
    assert km[np.triu_indices(8, 1)].min() >= APART_KM
    better = np.setdiff1d(np.flatnonzero(score > score[rows[-1]]), rows)
    near = great_circle_km(lonlat[better][:, None], lonlat[rows][None]) < APART_KM
    assert near[np.arange(len(better))].any(1).all()


def test_unrelated_sentences_are_many_the_same_each_time_and_about_no_place():
    sentences = unrelated_sentences()
    assert len(set(sentences)) == 1000 and sentences == unrelated_sentences() != unrelated_sentences(seed=1)
    assert not re.search(r"[{}]\w+[{}]", " ".join(sentences))
    facts, countries = load_facts()
    large = facts["name"][np.nan_to_num(facts["population"]) > 1_000_000]
    names = {name.lower() for name in [*large, *(c["name"] for c in countries.values())]}
    of_land = set("mountain mountains river sea coast island forest desert ice snow valley town city village country".split())
    words = set(re.findall(r"\w+", " ".join(s.lower() for s in sentences)))
    assert words & (names | of_land) == set()


def test_a_run_answers_from_its_store_or_from_the_earth_and_a_shipped_model_brings_its_sentences(trained, world, monkeypatch):
    model = geonb.load(trained)
    answer = model.ask("tropical forest", world)
    assert answer.places and all(re.fullmatch(r"Place \d+", p["title"]) and p["country"] == "" for p in answer.places)
    assert str(answer) == repr(answer) and len(str(answer).splitlines()) == len(answer.places) + 2
    earth = model.ask("tropical forest", top=2)
    assert len(earth.places) == 2 and all(p["country"] for p in earth.places)
    with pytest.raises(ValueError, match="top must be at least 1, not 0"):
        model.ask("ice", top=0)
    again = geonb.load(trained)
    again._weights["backbone.unrelated"] = torch.from_numpy(model.unrelated).half()
    monkeypatch.setattr("geonb.model.unrelated_sentences", None)  # not composed again
    assert again.ask("tropical forest", world).threshold == pytest.approx(answer.threshold, rel=0.02)
