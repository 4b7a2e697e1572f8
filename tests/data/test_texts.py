"""Names of places are taken out of texts, all of a text's own and nothing else."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geonb.data.store import write_store
from geonb.data.texts import TOKEN, mask_names, names_of

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "research"))
from leaks import leak_rate  # noqa: E402


def mask(text, own=(), shared=()):
    (masked,) = mask_names([text], [list(own)], shared)
    return masked


@pytest.mark.parametrize(
    "text, own, masked",
    [
        ("It is nice in Nice, NICE!", ["Nice"], "It is nice in [place], [place]!"),
        ("New York City, in New York.", ["New York", "New York City"], "[place], in [place]."),
        ("Sao Paulo, São Paulo, Sa\u0303o Paulo", ["São Paulo"], "[place], [place], [place]"),
        ("Xi'an’s wall, Xi’an", ["Xi'an"], "[place]’s wall, [place]"),
        ("Berlin's Berliner and Berlin-Mitte", ["Berlin"], "[place]'s Berliner and [place]-Mitte"),
        ("the United Kingdom of kings united", ["United Kingdom"], "the [place] of kings united"),
        ("its zone is America/New_York.", ["America/New_York"], "its zone is [place]."),
        ("हिन्दी में दिल्ली है", ["दिल्ली"], "हिन्दी में [place] है"),
        ("St. John's, St John's", ["St. John's"], "[place], [place]"),
        ("No name here.", ["Rome", "", "—"], "No name here."),
    ],
)
def test_own_names_are_masked_and_nothing_else(text, own, masked):
    assert mask(text, own) == masked
    assert leak_rate([masked], [own]) == 0


def test_a_shared_name_that_is_a_common_word_is_left_alone_at_the_start_of_a_sentence():
    texts = ["Reading is fun. We saw Reading, then Bath and Oslo. Oslo is far.", "they like reading and a bath"]
    masked = mask_names(texts, [[], []], ["Reading", "Bath", "Oslo"])
    assert masked == ["Reading is fun. We saw [place], then [place] and [place]. [place] is far.", texts[1]]
    assert mask_names(texts[:1], [[]], ["Reading"])[0].startswith("[place] is fun")  # no text has it in lower case
    own = mask_names(texts, [["Reading"], []], ["Reading"])
    assert own[0].startswith("[place] is fun. We saw [place]")


def test_a_token_parts_names_and_a_masked_word_does_not_make_another_common():
    assert mask("New [place] York", ["New York"], ["New York"]) == "New [place] York"
    assert mask("New is here, in new Delhi.", shared=["New Delhi", "New"]) == "[place] is here, in [place]."
    assert mask("New is here, in new Delhi, the new.", shared=["New Delhi", "New"]).startswith("New is here")


def test_the_longest_of_own_and_shared_names_is_taken_from_the_left():
    assert mask("Rio de Janeiro do Sul", ["Rio"], ["Rio de Janeiro", "Janeiro do Sul"]) == "[place] do Sul"
    assert mask("in Rio Grande", ["Rio Grande"], ["Rio"]) == "in [place]"
    found = mask("Long beach walks at Long Beach, Long Beach.", shared=["Long Beach"])
    assert found == "Long beach walks at [place], [place]."  # a capital that the sentence does not explain


def test_a_leak_is_seen_and_counted():
    texts, names = ["From Rome to Ostia.", "all is nice", "Nice"], [["Rome", "Ostia"], ["Nice"], ["Oslo"]]
    assert leak_rate(texts, names) == pytest.approx(1 / 3)
    for text, name, leak in [("a romeo", "Rome", 0), ("in ROME", "Rome", 1), ("New [place] York", "New York", 0)]:
        assert leak_rate([text], [[name]]) == leak


def test_what_cannot_be_masked_is_refused():
    with pytest.raises(ValueError, match="1 texts, but 0 lists"):
        mask_names(["a"], [])
    for texts, names in ((["a"], ["Rome"]), ("Rome", [[]] * 4)):
        with pytest.raises(ValueError, match="one text where a list belongs"):
            mask_names(texts, names)


WORDS = ["Nice", "nice", "Bath", "bath", "New", "new", "York", "é", "E\u0301", "Rio", "place", "Straße", "1", "京", "\ufdfa"]
GAPS = [" ", ", ", ". ", "-", "’", "\n", "_", "[place]", " [place] ", "", "["]
texts_ = st.lists(st.tuples(st.sampled_from(WORDS) | st.text(max_size=3), st.sampled_from(GAPS)), max_size=12).map(
    lambda pairs: "".join(word + gap for word, gap in pairs)
)
names_ = st.lists(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join) | st.text(max_size=4), max_size=4
)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(texts_, names_), max_size=4), names_)
def test_masking_twice_changes_nothing_no_own_name_is_left_and_the_rest_stays(pairs, shared):
    texts, names = [text for text, _ in pairs], [own for _, own in pairs]
    masked = mask_names(texts, names, shared)
    assert mask_names(masked, names, shared) == masked
    assert leak_rate(masked, names) == 0
    for text, after in zip(texts, masked, strict=True):
        at = 0
        for part in after.split(TOKEN):  # the parts between the tokens stand in the text, in order
            assert (found := text.find(part, at)) >= 0
            at = found + len(part)
        assert len(after) <= len(text) + after.count(TOKEN) * len(TOKEN)


def test_the_time_grows_with_the_texts_not_with_the_gazetteer():
    rng = np.random.default_rng(0)
    words = ["".join("abcdefgh"[i] for i in row) for row in rng.integers(0, 8, (10_000, 7))]
    texts = [" ".join(words[i] for i in row) + " Xa Yb." for row in rng.integers(0, 10_000, (1_000, 30))]
    shared = [f"{a.title()} {b.title()}" for a, b in zip(words[::2], words[1::2], strict=True)]
    began = time.process_time()
    masked = mask_names(texts, [["Xa Yb"]] * len(texts), shared)
    assert time.process_time() - began < 3  # of this process; measured: 0.3 s
    assert all(text.endswith(f" {TOKEN}.") for text in masked)


def test_the_names_of_a_store_are_its_titles_their_parts_countries_capitals_and_neighbours(tmp_path):
    places = {
        "place_id": ["a", "b", "c"],
        "lon": [0.0, 1.0, 2.0],
        "lat": [0.0, 1.0, 2.0],
        "title": ["Lake George (Lake, Uganda)", "Nowhere", "Ushuaia"],
        "timezone": [None, None, "America/Argentina/Ushuaia"],
        "country_code": ["UG", "UG", "AR"],
        "country": ["Uganda", "Uganda", "Argentina"],
        "currency": ["Ugandan shilling", "Ugandan shilling", "Argentine peso"],
    }
    texts = ["Lake George is a lake. George, as it is called.", "Ushuaia: America/Argentina/Ushuaia. The peso."]
    store = write_store(tmp_path / "s", places=places, texts={"place_id": ["a", "c"], "text": texts})
    names, shared = names_of(store)
    assert {"Lake George", "Uganda", "George", "Kampala", "Kenya"} <= set(names[0]) and "Lake" not in names[0]
    assert {"Ushuaia", "America", "Chile", "Buenos Aires"} <= set(names[1]) and len(names) == 2
    assert {"Lake George", "Ushuaia", "France", "Paris"} <= shared and not {"George", "Nowhere"} & shared
    assert "Argentine peso" not in names[1] and names_of(store, rows=[2])[0] == names[1:]


def test_no_own_name_survives_in_the_atlas_sample(tmp_path):
    from geonb.sample import make_atlas

    store = make_atlas(tmp_path / "atlas", places=150, seed=1, progress=False)
    texts = store.texts(np.flatnonzero(store.has("text")))
    names, shared = names_of(store)
    assert leak_rate(texts, names) > 0.99  # nearly every text names its place
    masked = mask_names(texts, names, shared)
    assert leak_rate(masked, names) == 0
    countries = set(store.column("country")) - {None}
    assert not [text for text in masked if any(re.search(rf"\b{re.escape(c)}\b", text) for c in countries)]
    words = sum(len(text.split()) for text in texts)
    assert sum(len(text.replace(TOKEN, "").split()) for text in masked) > 0.8 * words  # most of the text stays
