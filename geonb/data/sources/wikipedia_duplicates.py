"""Articles that are one text with other names and numbers in it, such as the stubs that programs wrote.

"Foo is a village in Bar District. Its population was 1,234 in 2011." and the same of Baz say nothing of their own but
names. To find them a text is reduced to its template: words with a capital, numbers and punctuation are taken out of
its first `COMPARED_CHARS` characters. Two templates are as alike as their sets of three neighbouring words (Jaccard's
index J: the share of those that both have among those that one of them has).

A text's signature is `BANDS` numbers, each of which two texts share with the probability J ** `ROWS` (MinHash with
locality-sensitive bands; Broder 1997; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3). Two texts
are near-duplicates when `SHARED` numbers or more are equal: even odds at J = 0.73, nearly certain at 0.9, and one in
500 at 0.5. (In a stub of 20 words, one word that is not a name takes J to 0.7.) Groups are what is joined by such
pairs, so two members may be joined only through others.

Scripts without capitals keep their names: there fewer near-duplicates are found. Scripts without spaces are compared by
characters.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

COMPARED_CHARS = 2000
BANDS, ROWS = 16, 4
SHARED = 5
NEIGHBOURS = 8  # with which a text is compared among those that share a number with it
TEXTS_AT_ONCE = 512
PAIRS_AT_ONCE = 1 << 18

_NO_WORD = r"(?:[\p{Lu}\p{Lt}][\p{L}\p{M}\p{N}'’-]*|[^\p{L}\p{M}])+"
_UNSPACED = r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}])"
_SPACE = ord(" ")


def templates(texts: Any) -> pa.Array:
    """What is left of texts (an Arrow column of str) without names and numbers: their words, a space before each."""
    texts = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    texts = pc.utf8_slice_codeunits(texts.cast(pa.large_string()), 0, COMPARED_CHARS)
    out = pc.replace_substring_regex(texts, _NO_WORD, " ")
    if pc.any(pc.match_substring_regex(out, _UNSPACED)).as_py():
        out = pc.replace_substring_regex(out, _UNSPACED, r" \1 ")
    space, nothing = (pa.scalar(text, pa.large_string()) for text in (" ", ""))
    return pc.binary_join_element_wise(space, out, nothing)


def signatures(texts: Any) -> np.ndarray:
    """Signatures uint32 (n, BANDS) of texts (an Arrow column of str); zeros for one with no words but names."""
    out = np.zeros((len(texts), BANDS), np.uint32)
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        shingles, first, rows = _shingles(templates(texts.slice(start, TEXTS_AT_ONCE)))
        if len(rows):
            out[start + rows] = _bands(shingles, first)
    return out


def groups(signature: np.ndarray) -> np.ndarray:
    """For each text (n,) the number of its group, or -1 where it is like no other; groups are numbered from 0.

    The order of the texts makes no difference to who is with whom, but for texts that share a number with more than
    `NEIGHBOURS` others: those are compared with the ones that share the next number too, first of all.

    Args:
        signature: of :func:`signatures`, uint32 (n, BANDS).

    Example:
        >>> stub = "{} is a village in {} District. Its population was {} in 2011."
        >>> other = "A lighthouse on the northern cliffs, built after two ships ran aground there."
        >>> texts = [stub.format("Foo", "Bar", "1,234"), stub.format("Baz", "Qux", "80"), other]
        >>> groups(signatures(pa.array(texts))).tolist()
        [0, 0, -1]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    out = np.full(len(signature), -1)
    signed = np.flatnonzero(signature.any(1))
    if not len(signed):
        return out
    one = np.zeros(len(signed), np.uint64)
    for band in range(BANDS):
        one = _mix(one + signature[signed, band])
    _, first, same = np.unique(one, return_index=True, return_inverse=True)
    distinct = signature[signed[first]]
    left, right = map(np.concatenate, zip(*_alike(distinct), strict=True))
    links = coo_array((np.ones(len(left), bool), (left, right)), shape=(len(first), len(first)))
    label = connected_components(links, directed=False)[1][same]
    several = np.bincount(label)[label] > 1
    out[signed[several]] = np.unique(label[several], return_inverse=True)[1]
    return out


def _alike(signature: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of rows that share enough numbers, as (one side, other side), in pieces."""
    yield np.empty(0, int), np.empty(0, int)
    for band in range(BANDS):
        key = signature[:, band].astype(np.uint64) << np.uint64(32) | signature[:, (band + 1) % BANDS]
        order = np.argsort(key, kind="stable")
        number = signature[order, band]
        for step in range(1, NEIGHBOURS + 1):
            at = np.flatnonzero(number[step:] == number[:-step])
            for start in range(0, len(at), PAIRS_AT_ONCE):
                piece = at[start : start + PAIRS_AT_ONCE]
                left, right = order[piece], order[piece + step]
                near = (signature[left] == signature[right]).sum(1) >= SHARED
                yield left[near], right[near]


def _shingles(words: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three neighbouring words each as a number uint64: all of them, where each text's begin, and the texts' rows."""
    offsets = np.frombuffer(words.buffers()[1], np.int64)[words.offset : words.offset + len(words) + 1]
    data = np.frombuffer(words.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
    letter = data != _SPACE
    start = np.flatnonzero(letter[1:] & ~letter[:-1]) + 1  # every text begins with a space
    if not len(start):
        return np.empty(0, np.uint64), np.empty(0, int), np.empty(0, int)
    word = np.cumsum(np.bincount(start, minlength=len(data))) - 1
    place = np.arange(len(data)) - start[word]
    parts = np.where(letter & (word >= 0), _BYTE[data] * _POWER[place % len(_POWER)], 0)
    hashed = _mix(np.add.reduceat(parts, start))
    text = np.searchsorted(offsets - offsets[0], start, "right") - 1
    ahead = [np.zeros(len(start), np.uint64) for _ in range(2)]
    within = [np.zeros(len(start), bool) for _ in range(2)]
    for by in (1, 2):
        within[by - 1][:-by] = text[by:] == text[:-by]
        ahead[by - 1][:-by] = np.where(within[by - 1][:-by], hashed[by:], 0)
    begins = np.concatenate([[True], text[1:] != text[:-1]])
    whole = within[1] | begins  # a text of one or two words is one shingle
    shingles = _mix(hashed + _ODD[0] * ahead[0] + _ODD[1] * ahead[1])[whole]
    rows, first = np.unique(text[whole], return_index=True)
    return shingles, first, rows


def _bands(shingles: np.ndarray, first: np.ndarray) -> np.ndarray:
    out = np.empty((len(first), BANDS), np.uint32)
    shingles = (shingles >> np.uint64(32)).astype(np.uint32)
    for band in range(BANDS):
        joined = np.zeros(len(first), np.uint64)
        for row in range(ROWS):
            i = band * ROWS + row
            least = np.minimum.reduceat((shingles ^ _SALT[i]) * _FACTOR[i], first)
            joined = _mix(joined + least)
        out[:, band] = joined >> np.uint64(32)
    return out


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's last step: every bit of a number changes about half of the bits of the result."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _numbers(seed: int, n: int) -> np.ndarray:
    return _mix(np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed))


_BYTE = _numbers(1, 256)
_POWER = _numbers(2, 64) | np.uint64(1)
_ODD = _numbers(3, 2) | np.uint64(1)
_SALT = _numbers(4, BANDS * ROWS).astype(np.uint32)
_FACTOR = _numbers(5, BANDS * ROWS).astype(np.uint32) | np.uint32(1)
