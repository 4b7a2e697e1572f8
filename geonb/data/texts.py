"""Mask place names in texts, group near-duplicates, and recognise articles that are about no place.

Names are compared word by word, without case, accents and the signs between words. Case tells names
from words: in "a nice town" Nice is not masked. A shared name that is also a common word (in lower
case somewhere in the texts) is not masked at the start of a sentence, where a capital means nothing.
Other words for a place stay ("French", "U.S."), and so do names in scripts without spaces.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from geonb._util import row_numbers

if TYPE_CHECKING:
    from geonb.data.store import PlaceStore

TOKEN = "[place]"
NAME_COLUMNS = ("title", "country", "continent", "admin1_name", "admin1_town", "near_city", "timezone")
APART = ("title", "timezone")  # columns whose values are put together from several names
SHORTEST_PART = 4  # letters of a part of a title that is masked alone

_SENTENCE_END = re.compile(r"[.!?:;\n\r\u2026\u3002\uff01\uff1f\u061f]")


# Masking


def mask_names(texts: Sequence[str], names: Sequence[Iterable[str]], shared: Iterable[str] = ()) -> list[str]:
    """Replace the names of places in texts by :data:`TOKEN`; masking twice changes nothing.

    Args:
        texts: n texts.
        names: for each text its own names; masked with a capital, or if written as the name.
        shared: names for all texts; common words among them stay at the start of sentences.

    Raises:
        ValueError: not as many lists of names as texts, or a text in place of a list.

    Example:
        >>> mask_names(["Cologne lies on the Rhine; in German it is Köln."], [["Cologne", "Köln"]])
        ['[place] lies on the Rhine; in German it is [place].']
    """
    if len(texts) != len(names):
        raise ValueError(f"{len(texts)} texts, but {len(names)} lists of names; give one per text")
    if any(isinstance(value, str) for value in (texts, names, *names)):
        raise ValueError("one text where a list belongs; give lists of texts and of names")
    gazetteer = _Names(shared)
    cut = [_words(text, TOKEN) for text in texts]
    spans, common = [], set()
    for words, of_text in zip(cut, names, strict=True):
        spans.append(list(_find(words, _Names(of_text), gazetteer)))
        gone = {i for start, stop in spans[-1] for i in range(start, stop)}
        common |= {word.key for i, word in enumerate(words) if not word.capital and i not in gone}
    out = []
    for text, words, found in zip(texts, cut, spans, strict=True):
        gone = {i for start, stop in found for i in range(start, stop)}
        for i, word in enumerate(words):  # a shared name of one word at the start of a sentence
            if i in gone or not (word.starts and word.capital) or word.key in common:
                continue
            if (word.key,) in gazetteer:
                found.append((i, i + 1))
        parts, at = [], 0
        for start, stop in sorted(found):
            parts += [text[at : words[start].start], TOKEN]
            at = words[stop - 1].stop
        out.append("".join([*parts, text[at:]]))
    return out


class _Word(NamedTuple):
    """A word of a text."""

    start: int
    stop: int
    key: str  # as it is compared: without case and marks
    capital: bool  # it has a capital, or its script has no case
    starts: bool  # it begins a sentence, which explains its capital
    barrier: bool  # a token precedes it: no name spans the two


def _words(text: str, token: str = "") -> list[_Word]:
    """Cut a text into words between the tokens."""
    out, offset = [], 0
    for i, piece in enumerate(text.split(token) if token else [text]):
        at = 0
        for match in _word_pattern().finditer(piece):
            start, stop = match.span()
            starts = (i == at == 0) or bool(_SENTENCE_END.search(piece, at, start))
            out.append(_Word(offset + start, offset + stop, *_folded(match[0]), starts, i > 0 and at == 0))
            at = stop
        offset += len(piece) + len(token)
    return out


class _Names(dict):
    """Map names as keys to whether they are in lower case; ``longest`` counts words by first key."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.longest: dict[str, int] = {}
        for name in names:
            words = _words(name or "")
            if words and any(map(str.isalpha, name)):
                keys = tuple(word.key for word in words)
                self[keys] = self.get(keys, False) or not any(word.capital for word in words)
                self.longest[keys[0]] = max(self.longest.get(keys[0], 0), len(keys))


def _find(words: list[_Word], own: _Names, shared: _Names) -> Iterator[tuple[int, int]]:
    """Find names as (first word, word after the last): from the left, the longest first."""
    i = 0
    while i < len(words):
        stop = max(_longest(words, i, own, False), _longest(words, i, shared, True))
        if stop > i:
            yield i, stop
        i = max(stop, i + 1)


def _longest(words: list[_Word], first: int, names: _Names, shared: bool) -> int:
    """Return the word after the longest name that begins at a word, or 0."""
    found, capital, lower, keys = 0, False, True, ()
    for i in range(first, min(first + names.longest.get(words[first].key, 0), len(words))):
        word = words[i]
        if word.barrier and i > first:
            break
        keys = (*keys, word.key)
        explained = shared and word.starts and i == first  # by the start of a sentence
        capital = capital or (word.capital and not explained)
        lower = lower and not word.capital
        if keys in names and (capital or (lower and names[keys])):
            found = i + 1
    return found


@cache
def _word_pattern() -> re.Pattern:
    """Match letters and digits, with the marks on them that ``\\w`` leaves out."""
    marks = "".join(chr(c) for c in range(0x300, 0xE01F0) if unicodedata.category(chr(c))[0] == "M")
    return re.compile(rf"[^\W_](?:[^\W_]|[{marks}])*")


@lru_cache(2**18)
def _folded(word: str) -> tuple[str, bool]:
    """Return a word without case and marks, and whether it has a capital or its script no case."""
    letters = unicodedata.normalize("NFKD", word)
    bare = "".join(c for c in letters if unicodedata.category(c)[0] != "M")
    key = unicodedata.normalize("NFC", bare.casefold()).replace(" ", "") or word
    caseless = word[0].isalpha() and word[0].lower() == word[0].upper()
    return key, caseless or any(c.isupper() or c.istitle() for c in word)


# Names of a store


def names_of(store: PlaceStore, rows: ArrayLike | None = None) -> tuple[list[list[str]], set[str]]:
    """Collect the names of places that the texts of a place store may mention.

    A place's own names are those in :data:`NAME_COLUMNS`, the pieces and the long uncommon words of
    its title, and its country's capital and neighbours. All of these except words of titles are
    shared, and so are all countries and capitals.

    Returns:
        for :func:`mask_names` the own names of rows (of those with a text if none are given), and the
        shared names.
    """
    rows = row_numbers(store.has("text") if rows is None else rows, len(store))
    columns = {name: store.column(name)[rows] for name in NAME_COLUMNS if name in store.columns}
    codes = store.column("country_code")[rows] if "country_code" in store.columns else [None] * len(rows)
    texts = store.texts(store.has("text"))
    common = {word.key for text in texts for word in _words(text) if not word.capital}
    by_code, names, shared = countries(), [], set()
    for country in by_code.values():
        shared |= {country["name"], country["capital"], country["continent"]}
    for i in range(len(rows)):
        own: list[str | None] = []
        for column, values in columns.items():
            value = str(values[i] or "")
            own += _pieces(value, common) if column in APART else [value]
        if country := by_code.get(str(codes[i])):
            own += [country["name"], country["capital"], *country["neighbours"]]
        shared.update(own)
        if "title" in columns:
            own += _parts(str(columns["title"][i] or ""), common)
        names.append([name for name in dict.fromkeys(own) if name])
    return names, shared - {None, ""}


def _pieces(name: str, common: set[str]) -> list[str]:
    """Split a title or time zone at commas, brackets and strokes; a common word is not a piece."""
    found = [name]
    for piece in re.split(r"[,;()\[\]/]", name):
        piece = piece.strip(" _").replace("_", " ")
        keys = {word.key for word in _words(piece)}
        if piece and not piece[0].islower() and not (len(keys) == 1 and keys <= common):
            found.append(piece)
    return found


def _parts(title: str, common: set[str]) -> list[str]:
    """List the words of a title that can stand for the place alone."""
    words = _words(title)
    if len(words) == 1:
        return []
    long = [w for w in words if w.stop - w.start >= SHORTEST_PART]
    return [title[w.start : w.stop] for w in long if w.capital and w.key not in common]


@cache
def countries() -> dict[str, dict]:
    """Load name, continent, capital and neighbours of each country by its ISO 3166 code."""
    import pyarrow.parquet as pq

    with (files("geonb.data") / "assets" / "countries.parquet").open("rb") as stream:
        return {row["code"]: row for row in pq.read_table(stream).to_pylist()}


# Near-duplicates

COMPARED_CHARS = 2000
BANDS, ROWS = 16, 4  # of the MinHash signature
SHARED_BANDS = 5

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"  # Thai to Khmer, Kana, Han
_TOKEN = re.compile(r"\w[\w'’-]*")
_LETTERS = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])[^\W\d_])+")
_ODD = np.random.default_rng(0).integers(0, 2**62, ROWS, np.uint64) * 2 + 1


def template(text: str) -> list[str]:
    """Reduce the first :data:`COMPARED_CHARS` of a text to its words without capitals and numbers.

    Scripts without spaces are cut into characters.

    Example:
        >>> template("Foo is a village in Bar District. Its population was 1,234 in 2011.")
        ['is', 'a', 'village', 'in', 'population', 'was', 'in']
    """
    tokens = _TOKEN.findall(text[:COMPARED_CHARS])
    return [word for token in tokens if not token[0].isupper() for word in _LETTERS.findall(token)]


def text_signatures(texts: Iterable[str]) -> np.ndarray:
    """Compute signatures uint32 (n, BANDS) that similar texts share in part.

    Two texts with Jaccard index J of their triples of words share each number with probability
    J ** :data:`ROWS`. A text whose template is empty has zeros.

    Source: Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3 (MinHash).
    """
    from datasketch import MinHash

    out, empty = [], MinHash(BANDS * ROWS)
    for text in texts:
        words, minhash = template(text), empty.copy()
        triples = (words[i : i + 3] for i in range(max(1, len(words) - 2)))
        minhash.update_batch(" ".join(triple).encode() for triple in triples)
        bands = minhash.hashvalues.astype(np.uint64).reshape(BANDS, ROWS)
        out.append((bands * _ODD).sum(1) >> np.uint64(32) if words else np.zeros(BANDS))
    return np.array(out, np.uint32).reshape(-1, BANDS)


def duplicate_groups(signatures: np.ndarray) -> np.ndarray:
    """Group texts that are one text with other names and numbers, by their :func:`text_signatures`.

    Two that share :data:`SHARED_BANDS` numbers are joined: 1 in 500 pairs with J = 0.5, half of those
    with J = 0.73, nearly all with J = 0.9. Each text (n,) gets the first one of its group, or -1.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n, pairs = len(signatures), []
    for band in range(BANDS):  # texts with the same number become neighbours
        order = np.lexsort((signatures[:, (band + 1) % BANDS], signatures[:, band]))
        left, right = order[:-1], order[1:]
        near = (signatures[left] == signatures[right]).sum(1) >= SHARED_BANDS
        near &= signatures[left].any(1)
        pairs.append(np.stack([left[near], right[near]]))
    links = np.concatenate(pairs, 1)
    graph = coo_array((np.ones(links.shape[1], bool), tuple(links)), shape=(n, n))
    label = connected_components(graph, directed=False)[1]
    _, first, label, size = np.unique(label, return_index=True, return_inverse=True, return_counts=True)
    return np.where(size[label] > 1, first[label], -1)


# What is not a place

_TYPES = {"event": "an event", "satellite": "a thing"}
_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_LIST = re.compile(r"(?:Lists?|Timeline|Index|Outline|Glossary) of ")
_EVENT_OF = re.compile(
    r"(?:\w+ )?(?:Assassination|Attack|Battle|Bombardment|Bombing|Capture|Conquest|Death|Fall|Invasion|Massacre"
    r"|Murders?|Raid|Sack|Siege|Sinking|Storming|Surrender|Treaty) (?:of|on) "
)
_YEAR = re.compile(r"(?:\d{4}(?:[–-]\d{2,4})? .*|.* (?:of|in) \d{4})")
_BORN = re.compile(rf"\bborn\b|\b(?:{_MONTHS})\b[^–-]{{0,20}}[–-].*\d")
_ASIDE = re.compile(r"\s*\([^()]*\)")
_END_OF_SENTENCE = re.compile(r"(?<![A-Z.][A-Za-z])(?<!\b[A-Z])[.!?](?=\s+[^a-z\s])")  # not at "St." or "J."
_IS = re.compile(
    r"\b(?:is|was|are|were)\s+(?:an?|the|one\s+of\s+the)\s+(.+?)"
    r"(?=\s+(?:of|in|on|at|by|from|for|to|near|between|during|along|with|within|among|under|over|about"
    r"|above|below|around|after|before|as|but|that|which|who|whose|where|when|while|located|situated|held|fought"
    r"|based|founded|headquartered|operated|built|made|set|published|written|released|born"
    r"|serving|known|and)\b|\s*[,.;:]|\s*$)",
    re.DOTALL,
)


@cache
def _nouns() -> dict[str, str]:
    """Load nouns, each with the kind of its articles; "" for a place."""
    import yaml

    kinds = yaml.safe_load((files("geonb.data") / "assets" / "first_nouns.yaml").read_text(encoding="utf-8"))
    return {noun: kind for kind, nouns in kinds.items() for noun in nouns.split()}


def why_no_place(title: str, text: str, kind: str | None = None, lang: str = "en") -> str:
    """Tell why an article with a position is not about a place; about one in sixteen is not.

    Args:
        title, text: of the article; the noun of its first sentence decides, in doubt for a place.
        kind: the geo tag's type in lower case, where known.
        lang: of the text; title and text are read in English only.

    Returns:
        "a person", "an event", "a list" or "a thing", or "" for a place.
    """
    if kind in _TYPES or lang not in ("en", "simple"):
        return _TYPES.get(kind or "", "")
    nouns = _nouns()
    if _LIST.match(title):
        return "a list"
    kinds = {nouns.get(word) for word in title.lower().split()}
    if _EVENT_OF.match(title) or (_YEAR.fullmatch(title) and "an event" in kinds):
        return "an event"
    start = text[:500].split("\n", 1)[0]
    bare = start
    for _ in range(3):  # brackets within brackets
        bare = _ASIDE.sub("", bare)
    found = _IS.search(_END_OF_SENTENCE.split(bare, maxsplit=1)[0])
    noun = (found[1].split() or [""])[-1].lower() if found else ""
    if noun in nouns or not found:
        return nouns.get(noun, "")
    before = start[: max(0, start.find(found[1])) or None]
    return "a person" if _BORN.search(" ".join(_ASIDE.findall(before))) else ""
