"""Answers in words: scores against the plain formula, planted places and hubs, places apart, sentences about no place."""

import re

import numpy as np
import pytest
import torch

import geonb
from geonb import questions
from geonb.geo import great_circle_km, unit_xyz
from geonb.questions import ABOUT, APART_KM, Gallery, calibrate, named_places, unrelated_sentences
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
    return lonlat, z, unit(rng.normal(size=(200, 32)) * 0.05 + lean), lean


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
    hub, planted = 100, 4000
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


def test_answers_are_apart_and_the_best_known_of_those_that_fit_about_as_well(space):
    lonlat, z, unrelated, lean = space
    gallery = Gallery(lonlat, np.arange(len(z)).astype(str), [None] * len(z), z, unrelated, APART_KM)
    words = unit(lean + z[4000])
    score = (z @ words - gallery.mean) / gallery.sd
    answer = gallery.answer("where?", words, top=8)
    rows = np.array([int(p["title"]) for p in answer.places])
    assert len(rows) == 8 and (np.diff(score[rows]) <= 0).all() and answer.best == score.max()
    km = great_circle_km(lonlat[rows][:, None], lonlat[None])  # (8, n)
    assert km[:, rows][np.triu_indices(8, 1)].min() >= APART_KM
    better = np.flatnonzero(score > score[rows[-1]] + ABOUT)
    assert (km[:, better] < APART_KM).any(0).all()  # each is in a region that has an answer
    best = score.argmax()
    near = np.flatnonzero((great_circle_km(lonlat[best], lonlat) < APART_KM) & (score >= score[best] - ABOUT))
    assert near[0] in rows  # places come in the order of their inhabitants
    facts, _ = load_facts()
    people = dict(zip(zip(facts["name"], facts["country"], strict=True), facts["population"], strict=True))
    _, names, countries = named_places()
    assert people[names[0], countries[0]] == np.nanmax(facts["population"])


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
    assert str(answer) == repr(answer) and len(str(answer).splitlines()) == len(answer.places) + 3
    earth = model.ask("tropical forest", top=2)
    assert len(earth.places) == 2 and all(p["country"] for p in earth.places)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "modalities", ("location", "landscape"))
        with pytest.raises(ValueError, match="this model binds location and landscape; ask one that is bound to text"):
            model.ask("ice")
    with pytest.raises(ValueError, match="top must be at least 1, not 0"):
        model.ask("ice", top=0)
    again = geonb.load(trained)
    again._weights["backbone.unrelated"] = torch.from_numpy(model.unrelated).half()
    monkeypatch.setattr("geonb.model.unrelated_sentences", None)  # not composed again
    assert again.ask("tropical forest", world).threshold == pytest.approx(answer.threshold, rel=0.02)


# Written after the statistic, its threshold and the sentences were chosen, and used for nothing else.
ABOUT_PLACES = """\
caribou on frozen ground; vineyards along a river valley; red sandstone canyons; a lagoon with palm trees; bullet trains and temples;
sheep stations in the outback; a favela above the bay; cocoa farms in West Africa; ruins of Inca terraces; moose and maple forests;
an atoll that may drown; peat bogs and whisky; silk road caravan cities; oases with date palms; Orthodox monasteries on cliffs;
a port on the Baltic; coffee growing highlands; llamas on the altiplano; floating markets; lemurs and baobabs; hot springs under a volcano;
dairy farms behind dikes; refugee camps near the border; paella and oranges; ancient Greek theatres; lobster boats in the fog;
a strait between two continents; the steppe where the horse was tamed; bamboo forests with pandas; diamonds and wildlife reserves;
gauchos and beef; a cold coast with icebergs; tobacco plantations and old cars; Maori culture; a city of canals; oil rigs at sea;
landlocked kingdom in the Himalayas; cotton fields and blues music; Berber villages in the mountains; a glacier that ends in a lake"""
ABOUT_NOTHING = """\
my sock has a hole; the committee postponed its decision; how many calories are in a biscuit; undefined reference to main; hhhh;
she practises the cello every evening; he never answers the telephone; invest in mutual funds; a square has four equal sides; wlkejr oiu;
the toddler refuses to sleep; please sign here; I am allergic to penicillin; the sequel was worse; retry after a timeout; blorp;
the defendant pleaded not guilty; my glasses are dirty; what is love; inflation eats my savings; add a pinch of salt; knock knock;
the drummer was too loud; it is your turn to vacuum; a limit from the left; the quick brown fox; stack overflow; we need to talk;
the shirt shrank in the wash; to whom it may concern; happiness is a choice; the antibody binds to the receptor; are we there yet;
a triple double in overtime; I dreamed that I could fly; the hinge squeaks; cosine of zero is one; unsubscribe; thanks in advance; uvw xyz"""


def test_earth_answers_questions_about_places_and_not_others():
    earth = geonb.load("earth")
    answered = [
        np.mean([bool(earth.ask(text.strip(), top=1).places) for text in texts.split(";")])
        for texts in (ABOUT_PLACES, ABOUT_NOTHING)
    ]
    assert answered[0] >= 0.8 and answered[1] <= 0.1
