"""Near-duplicate texts against exact Jaccard indices."""

from functools import cache

import numpy as np
import pytest

from geonb.data.texts import ROWS, duplicate_groups, template, text_signatures


def names(rng: np.random.Generator, n: int) -> list[str]:
    return ["".join(map(chr, rng.integers(97, 123, rng.integers(3, 9)))).capitalize() for _ in range(n)]


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


def test_signatures_and_groups_agree_with_exact_jaccard_indices():
    """Very similar texts are together, and each member of a group has a similar text in it."""
    rng = np.random.default_rng(2)
    texts = [prose(rng, 80) for _ in range(40)]
    texts += [prose(rng, 80, texts[i % 40], share) for i, share in enumerate(rng.uniform(0.3, 1, 120))]
    exact = np.array([[jaccard(a, b) for b in texts] for a in texts])
    signatures = text_signatures(texts)
    shared = (signatures[:, None] == signatures).mean(2)
    similar = (exact > 0.5) & (exact < 1)
    assert shared[similar].mean() == pytest.approx((exact[similar] ** ROWS).mean(), abs=0.05)
    np.fill_diagonal(exact, 0)
    group = duplicate_groups(signatures)
    together = (group[:, None] == group) & (group >= 0)
    assert together[exact >= 0.95].all() and (exact >= 0.95).sum() > 5
    assert together[exact >= 0.85].mean() > 0.85
    assert exact[group >= 0].max(1).min() > 0.55


def test_a_template_has_neither_names_nor_numbers():
    texts = ["Foo-Bar's is a McTown of 1,234 (2011) people.", "Østerå ligger i Århus", "", "東京は首都", "SAINT Émile"]
    found = [" ".join(template(text)) for text in texts]
    assert found == ["is a of people", "ligger i", "", "東 京 は 首 都", ""]


def test_many_copies_take_no_quadratic_time():
    texts = ["is a village in the", "is a river of the", "Paris", "1234"]  # without words: in no group
    signatures = np.repeat(text_signatures(texts), 30_000, 0)
    assert (duplicate_groups(signatures) == np.repeat([0, 30_000, -1, -1], 30_000)).all()
