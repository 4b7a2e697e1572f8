"""Count texts that still have their own names: an oracle of the masking, which searches in another way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from geonb.data.texts import TOKEN, _Word, _words


def leak_rate(texts: Sequence[str], names: Sequence[Iterable[str]]) -> float:
    """Compute the share of texts that have any of their own names; 0 for no texts.

    The words of a name follow one another, and one has a capital, or the name itself has none.
    """
    leaks = 0
    for text, of_text in zip(texts, names, strict=True):
        parts = [_words(part) for part in text.split(TOKEN)]
        leaks += any(_has(parts, name) for name in of_text)
    return leaks / max(len(texts), 1)


def _has(parts: list[list[_Word]], name: str) -> bool:
    of_name = _words(name or "")
    if not of_name or not any(map(str.isalpha, name)):
        return False
    keys, lower = [word.key for word in of_name], not any(word.capital for word in of_name)
    for words in parts:
        for i in range(len(words) - len(keys) + 1):
            found = words[i : i + len(keys)]
            if [word.key for word in found] == keys and (lower or any(word.capital for word in found)):
                return True
    return False
