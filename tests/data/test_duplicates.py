"""Near-duplicate texts against exact Jaccard indices, and planted groups."""

from functools import cache

import numpy as np
import pytest

from geonb.data.texts import BANDS, ROWS, duplicate_groups, template, text_signatures

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
    """Words drawn at random; the first ones are those of another text."""
    old = share_of.split()[: round(words * share)]
    return " ".join([*old, *(w.lower() for w in names(rng, words - len(old)))])


@cache
def triples(text: str) -> set[tuple[str, ...]]:
    words = template(text)
    return set(zip(words, words[1:], words[2:], strict=False))


def jaccard(a: str, b: str) -> float:
    return len(triples(a) & triples(b)) / len(triples(a) | triples(b))


def test_planted_groups_are_found_and_nothing_else_in_any_order():
    rng = np.random.default_rng(1)
    kinds = rng.integers(0, len(STUBS) + 2, 200)
    texts = [stub(rng, k) if k < len(STUBS) else prose(rng, rng.integers(15, 300)) for k in kinds]
    signatures = text_signatures(texts)
    for order in (np.arange(200), rng.permutation(200)):
        group, kind = duplicate_groups(signatures[order]), kinds[order]
        assert [len(set(group[kind == k])) for k in range(len(STUBS))] == [1] * len(STUBS)
        assert sorted(set(group[kind < len(STUBS)])) == list(range(len(STUBS)))
        assert (group[kind >= len(STUBS)] == -1).all()


def test_signatures_estimate_jaccard_indices():
    rng = np.random.default_rng(3)
    base = [prose(rng, 120) for _ in range(200)]
    other = [prose(rng, 120, text, 0.95) for text in base]
    exact = np.mean([jaccard(a, b) ** ROWS for a, b in zip(base, other, strict=True)])
    assert (text_signatures(base) == text_signatures(other)).mean() == pytest.approx(exact, abs=0.04)


def test_groups_agree_with_exact_jaccard_indices():
    """Very similar texts are together, and each member of a group has a similar text in it."""
    rng = np.random.default_rng(2)
    texts = [prose(rng, 80) for _ in range(40)]
    texts += [prose(rng, 80, texts[i % 40], share) for i, share in enumerate(rng.uniform(0.3, 1, 120))]
    exact = np.array([[jaccard(a, b) for b in texts] for a in texts])
    np.fill_diagonal(exact, 0)
    group = duplicate_groups(text_signatures(texts))
    together = (group[:, None] == group) & (group >= 0)
    assert together[exact >= 0.95].all() and (exact >= 0.95).sum() > 5
    assert together[exact >= 0.85].mean() > 0.85
    assert exact[group >= 0].max(1).min() > 0.55


def test_a_template_has_neither_names_nor_numbers():
    texts = ["Foo-Bar's is a McTown of 1,234 (2011) people.", "Østerå ligger i Århus", "", "東京は首都", "SAINT Émile"]
    found = [" ".join(template(text)) for text in texts]
    assert found == ["is a of people", "ligger i", "", "東 京 は 首 都", ""]
    assert template("a" * 1999 + " b c") == ["a" * 1999]


def test_texts_without_words_belong_to_no_group():
    texts = ["Paris", "Rome", "", "1234", "!!!", "a", "a", "of the", "of the"]
    group = duplicate_groups(text_signatures(texts))
    assert (group[:5] == -1).all() and group[5] == group[6] >= 0 and group[7] == group[8] != group[5]
    assert text_signatures([]).shape == (0, BANDS) and duplicate_groups(text_signatures([])).shape == (0,)


def test_a_hundred_thousand_copies_take_no_quadratic_time():
    signatures = np.repeat(text_signatures(["is a village in the", "is a river of the"]), 100_000, 0)
    assert np.bincount(duplicate_groups(signatures)).tolist() == [100_000, 100_000]
