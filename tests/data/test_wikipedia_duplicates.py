"""Near-duplicates against exact Jaccard indices, and planted groups."""

import re

import numpy as np
import pyarrow as pa
import pytest

from geonb.data.sources.wikipedia_duplicates import BANDS, SHARED, groups, signatures, templates

STUBS = (
    "{0} is a village in {1} District, {2} Province, Iran. At the {3} census, its population was {4}, in {3} families.",
    "{0} is a commune in the {1} department in the {2} region in north-western France. In {3} it had {4} inhabitants.",
    "{0} railway station is a railway station in {1}. It was opened on {3} May {4} on the line to {2} by the state.",
    "{0} is a lake in {1} County, {2}. It lies {4} m above the sea, has an area of {3} hectares, and drains to the west.",
)


def names(rng: np.random.Generator, n: int) -> list[str]:
    return ["".join(map(chr, rng.integers(97, 123, rng.integers(3, 9)))).capitalize() for _ in range(n)]


def stub(rng: np.random.Generator, kind: int) -> str:
    return STUBS[kind].format(*names(rng, 3), rng.integers(1900, 2020), f"{rng.integers(1, 99_999):,}")


def prose(rng: np.random.Generator, words: int, share_of: str = "", share: float = 0.0) -> str:
    """Words that are drawn at random, the first ones as in another text."""
    old = share_of.split()[: round(words * share)]
    return " ".join([*old, *(w.lower() for w in names(rng, words - len(old)))])


def shingles(text: str) -> set[tuple[str, ...]]:
    """The sets that are compared, the slow way."""
    words = [w for w in re.split(r"[^\w'’-]+|_", text[:2000]) if w]
    words = [w for w in words if not w[0].isupper()]
    words = [w for word in words for w in re.split(r"[^a-z]+", word) if w]
    return {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))} if words else set()


def jaccard(a: set, b: set) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0


def test_planted_groups_are_found_and_nothing_else():
    rng = np.random.default_rng(1)
    kinds = rng.integers(0, len(STUBS) + 2, 400)
    texts = [stub(rng, k) if k < len(STUBS) else prose(rng, rng.integers(15, 300)) for k in kinds]
    group = groups(signatures(pa.array(texts)))
    for kind in range(len(STUBS)):
        assert len(set(group[kinds == kind])) == 1 and group[kinds == kind][0] >= 0
    assert (group[kinds >= len(STUBS)] == -1).all()
    assert len(set(group[group >= 0])) == len(STUBS)


def test_pairs_agree_with_exact_jaccard_indices():
    """Whoever is much alike is together; whoever is together is alike, if through others."""
    rng = np.random.default_rng(2)
    texts = [prose(rng, 80) for _ in range(60)]
    texts += [prose(rng, 80, texts[i % 60], share) for i, share in enumerate(rng.uniform(0.3, 1, 240))]
    sets = [shingles(text) for text in texts]
    exact = np.array([[jaccard(a, b) for b in sets] for a in sets])
    np.fill_diagonal(exact, 0)
    group = groups(signatures(pa.array(texts)))
    together = (group[:, None] == group) & (group >= 0)
    assert together[exact >= 0.95].all() and (exact >= 0.95).sum() > 10
    assert together[exact >= 0.85].mean() > 0.85
    assert exact[group >= 0].max(1).min() > 0.55  # everyone in a group has someone close to it
    assert not together[exact.max(1) < 0.5].any()


def test_signatures_estimate_jaccard_indices():
    rng = np.random.default_rng(3)
    base = [prose(rng, 120) for _ in range(300)]
    other = [prose(rng, 120, text, 0.95) for text in base]
    exact = np.mean([jaccard(shingles(a), shingles(b)) for a, b in zip(base, other, strict=True)])
    shared = (signatures(pa.array(base)) == signatures(pa.array(other))).mean()
    assert shared == pytest.approx(exact**4, abs=0.03)
    assert 0 < SHARED < BANDS


def test_templates_have_neither_names_nor_numbers():
    texts = ["Foo-Bar's is a McTown of 1,234 (2011) people.", "Østerå ligger i Århus", "", "東京は首都", "SAINT Émile"]
    found = [" ".join(t.split()) for t in templates(pa.array(texts)).to_pylist()]
    assert found == ["is a of people", "ligger i", "", "東 京 は 首 都", ""]


def test_order_and_company_change_nothing():
    rng = np.random.default_rng(4)
    texts = [stub(rng, k) for k in rng.integers(0, 4, 700)] + [prose(rng, 50) for _ in range(700)]
    order = rng.permutation(len(texts))
    signature = signatures(pa.array(texts))
    shuffled = signatures(pa.chunked_array([[texts[i] for i in order[:999]], [texts[i] for i in order[999:]]]))
    assert (shuffled == signature[order]).all()
    a, b = groups(signature)[order], groups(shuffled)
    assert ((a[:, None] == a) == (b[:, None] == b)).all() and ((a < 0) == (b < 0)).all()


def test_texts_with_nothing_to_compare_are_like_no_other():
    texts = ["Paris", "Rome", "", "1234", "!!!", "a", "a", "of the", "of the"]
    group = groups(signatures(pa.array(texts)))
    assert (group[:5] == -1).all() and group[5] == group[6] >= 0 and group[7] == group[8] != group[5]
    assert groups(signatures(pa.array([], pa.string()))).shape == (0,)
    assert (groups(signatures(pa.array(["", "X"]))) == -1).all()


def test_what_is_said_after_the_first_2000_characters_makes_no_difference():
    start = prose(np.random.default_rng(5), 400)
    assert groups(signatures(pa.array([start + " one thing", start + " and quite another"]))).tolist() == [0, 0]


def test_a_hundred_thousand_copies_of_one_template_take_no_quadratic_time():
    signature = np.repeat(signatures(pa.array(["is a village in the", "is a river of the"])), 100_000, 0)
    assert np.bincount(groups(signature)).tolist() == [100_000, 100_000]
