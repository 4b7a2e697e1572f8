"""Place names masked in texts: for experiments on how much of what a text tells about a place is its name.

A name is looked for word by word: letters are compared without case and without accents ("São Paulo" is found in
"Sao Paulo"), and what stands between two words (a space, a hyphen, an apostrophe, a full stop) does not matter
("Saint-Denis" is found in "Saint Denis", "Xi'an" in "Xi’an"). Only whole words are masked, the longest name first.

Case tells names from words. Lower case is never taken for a name: in "a nice town on a split rock" neither Nice nor
Split is masked, unless the name itself is written so ("euro"). A name that the texts *share* and that is a common
word besides is not masked at the start of a sentence: there the capital of "Nice" means nothing. A common word is
one that occurs in lower case somewhere in the same texts, so the rule needs no list of words, and holds in any
language that has capitals. A text's *own* names are masked at the start of sentences too, since there they are
likely, and the point is that none of them is left.

What stays: words that stand for a place but are none of the names given (demonyms such as "French", abbreviations
such as "U.S.", rivers and mountains that the store has no column for), and names inside the words of languages that
put no space between words. :func:`leak_rate` finds the second kind, as it looks in another way than the masking.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache, lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from geonb.data.store import PlaceStore

TOKEN = "[place]"
# Columns of a place store that hold names of places; those that a store lacks are left out.
NAME_COLUMNS = ("title", "country", "continent", "admin1_name", "admin1_town", "near_city", "timezone")
APART = ("title", "timezone")  # those of them that are put together from several names
ALSO = ("language", "currency")
SHORTEST_PART = 4  # letters of a part of a title that is masked alone

_END = ""  # the key in a trie under which a name ends; no word is empty
_SENTENCE_END = re.compile(r"[.!?:;\n\r\u2026\u3002\uff01\uff1f\u061f]")


# --- masking ------------------------------------------------------------------------------------------


def mask_names(
    texts: Sequence[str], names: Sequence[Iterable[str]], shared: Iterable[str] = (), token: str = TOKEN
) -> list[str]:
    """Replace the names of places in texts by a token.

    Time and memory grow with the length of the texts and of the names, not with their product.

    Args:
        texts: n texts.
        names: for each text its own names: no occurrence with a capital, or written as the name is, stays.
        shared: a gazetteer for all texts. Of its names those that are also common words are left alone at the
            start of sentences (see above).
        token: what a name is replaced by. Where a text has it already it is left alone, so masking twice changes
            nothing.

    Returns:
        the n texts. What is not masked is left as it is, to the letter.

    Raises:
        ValueError: not as many lists of names as texts; a list of names that is a text; a token that could be a part
            of a word.

    Example:
        >>> mask_names(["Cologne lies on the Rhine; in German it is Köln."], [["Cologne", "Köln"]])
        ['[place] lies on the Rhine; in German it is [place].']
    """
    names = _checked(texts, names)
    if not token.strip() or token != token.strip() or token[0].isalnum() or token[-1].isalnum():
        raise ValueError(f"the token {token!r} could be a part of a word; put it in brackets, as in {TOKEN}")
    gazetteer = _trie(shared)
    cut = [_words(text, token) for text in texts]
    spans: list[list[tuple[int, int]]] = []
    for words, own in zip(cut, names, strict=True):
        spans.append(list(_find(words, _trie(own), gazetteer)))
    common = _common(cut, spans)
    out = []
    for text, words, found in zip(texts, cut, spans, strict=True):
        taken = {i for start, stop in found for i in range(start, stop)}
        for i, word in enumerate(words):  # a shared name of one word at the start of a sentence
            if i not in taken and word.starts and word.capital and word.key not in common:
                if _END in gazetteer.get(word.key, {}):
                    found.append((i, i + 1))
        out.append(_replace(text, words, sorted(found), token))
    return out


class _Word:
    """A word of a text."""

    __slots__ = ("start", "stop", "key", "capital", "starts", "barrier")

    def __init__(self, start: int, stop: int, key: str, capital: bool, starts: bool, barrier: bool) -> None:
        self.start, self.stop = start, stop  # where it stands
        self.key = key  # as it is compared
        self.capital = capital  # it has a capital, or its script has no case
        self.starts = starts  # it begins a sentence, which explains its capital
        self.barrier = barrier  # a token stands between it and the word before: no name spans the two


def _words(text: str, token: str = "") -> list[_Word]:
    """The words of a text; a token is none."""
    out: list[_Word] = []
    at, barrier, gap = 0, False, "\n"
    for start, stop in _outside(text, token):
        for match in _word_pattern().finditer(text, start, stop):
            gap += text[max(at, start) : match.start()]
            key, capital = _folded(match.group())
            starts = bool(_SENTENCE_END.search(gap))
            out.append(_Word(match.start(), match.end(), key, capital, starts, barrier))
            at, barrier, gap = match.end(), False, ""
        gap += text[max(at, start) : stop] if at < stop else ""
        if stop < len(text):
            barrier, gap = True, ""
    return out


def _outside(text: str, token: str) -> Iterator[tuple[int, int]]:
    """The stretches of a text before, between and after its tokens."""
    start = 0
    while token and (at := text.find(token, start)) >= 0:
        yield start, at
        start = at + len(token)
    yield start, len(text)


def _find(words: list[_Word], own: dict, shared: dict) -> Iterator[tuple[int, int]]:
    """Where names stand, as (first word, word behind the last), from left to right, the longest at each place."""
    i = 0
    while i < len(words):
        stop = max(_longest(words, i, own, False), _longest(words, i, shared, True))
        if stop > i:
            yield i, stop
        i = max(stop, i + 1)


def _longest(words: list[_Word], first: int, trie: dict, shared: bool) -> int:
    """The word behind the longest name that begins at a word, or 0.

    A capital that only the start of a sentence explains does not make a shared name.
    """
    found, capital, lower, node = 0, False, True, trie  # lower: all words so far are in lower case
    for i in range(first, len(words)):
        word = words[i]
        node = node.get(word.key)
        if node is None or (word.barrier and i > first):
            break
        capital = capital or (word.capital and not (shared and word.starts and i == first))
        lower = lower and not word.capital
        if _END in node and (capital or (lower and node[_END])):
            found = i + 1
    return found


def _common(cut: list[list[_Word]], spans: list[list[tuple[int, int]]]) -> set[str]:
    """The words that occur in lower case outside the names found."""
    common: set[str] = set()
    for words, found in zip(cut, spans, strict=True):
        taken = {i for start, stop in found for i in range(start, stop)}
        common.update(word.key for i, word in enumerate(words) if not word.capital and i not in taken)
    return common


def _replace(text: str, words: list[_Word], found: list[tuple[int, int]], token: str) -> str:
    parts, at = [], 0
    for start, stop in found:
        parts += [text[at : words[start].start], token]
        at = words[stop - 1].stop
    return "".join([*parts, text[at:]])


def _trie(names: Iterable[str]) -> dict:
    """Names as nested dicts of words; where one ends, whether it is written in lower case throughout."""
    root: dict = {}
    for name in names:
        words = _words(name or "")
        if not any(map(str.isalpha, name or "")):
            continue
        node = root
        for word in words:
            node = node.setdefault(word.key, {})
        node[_END] = node.get(_END, False) or not any(word.capital for word in words)
    return root


@cache
def _word_pattern() -> re.Pattern:
    """A word: letters and digits, with the marks on them (accents, vowel signs), which ``\\w`` leaves out."""
    marks = [c for c in range(0x300, 0xE01F0) if unicodedata.category(chr(c))[0] == "M"]
    ends = [i for i in range(len(marks)) if i + 1 == len(marks) or marks[i + 1] != marks[i] + 1]
    begins = [0, *(i + 1 for i in ends[:-1])]
    ranges = "".join(f"\\U{marks[a]:08x}-\\U{marks[b]:08x}" for a, b in zip(begins, ends, strict=True))
    return re.compile(rf"[^\W_](?:[^\W_]|[{ranges}])*")


@lru_cache(2**18)
def _folded(word: str) -> tuple[str, bool]:
    """A word without case and marks, and whether it has a capital or is of a script without case."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", word) if unicodedata.category(c)[0] != "M")
    key = unicodedata.normalize("NFC", plain.casefold()).replace(" ", "") or word
    caseless = word[0].isalpha() and word[0].lower() == word[0].upper()
    return key, caseless or any(c.isupper() or c.istitle() for c in word)


# --- what is left -------------------------------------------------------------------------------------


def leaks(masked: Sequence[str], names: Sequence[Iterable[str]], token: str = TOKEN) -> list[int]:
    """How many of its own names each of n texts still has.

    A name counts where its words stand one after another with any sign between them, and one of them has a
    capital, or all are written as the name is. Names are looked for one by one in the text as a whole: another way
    than :func:`mask_names` takes, so that one checks the other.

    Raises:
        ValueError: as :func:`mask_names`.
    """
    counts = []
    for text, own in zip(masked, _checked(masked, names), strict=True):
        words = [w for part in text.split(token) for w in (*_word_pattern().findall(part), "\0")]
        keys = [_folded(word)[0] for word in words]
        line = f" {' '.join(keys)} "
        counts.append(sum(_survives(name, words, line) for name in {name for name in own if name}))
    return counts


def leak_rate(masked: Sequence[str], names: Sequence[Iterable[str]], token: str = TOKEN) -> float:
    """The share of texts that still have any of their own names; 0 for no texts. See :func:`leaks`."""
    return float(np.mean([count > 0 for count in leaks(masked, names, token)])) if len(masked) else 0.0


def _survives(name: str, words: list[str], line: str) -> bool:
    own = _word_pattern().findall(name)
    if not any(map(str.isalpha, name)) or not own:
        return False
    key = f" {' '.join(_folded(word)[0] for word in own)} "
    as_written = not any(_folded(word)[1] for word in own)
    at = line.find(key)
    while at >= 0:
        first = line.count(" ", 0, at + 1) - 1
        seen = words[first : first + len(own)]
        if as_written or any(_folded(word)[1] for word in seen):
            return True
        at = line.find(key, at + 1)
    return False


def _checked(texts: Sequence[str], names: Sequence[Iterable[str]]) -> list[list[str]]:
    if isinstance(texts, str) or isinstance(names, str):
        raise ValueError("give a list of texts, and for each a list of names")
    if len(texts) != len(names):
        raise ValueError(f"{len(texts)} texts, but {len(names)} lists of names; give one list a text")
    for row, own in enumerate(names):
        if isinstance(own, str):
            raise ValueError(f"row {row}: the names are one text, {own[:40]!r}; give a list of names")
    return [list(own) for own in names]


# --- the names of a store -----------------------------------------------------------------------------


def names_of(
    store: PlaceStore,
    rows: ArrayLike | None = None,
    also: Collection[str] = (),
    parts: bool = True,
    gazetteer: Iterable[str] = (),
) -> tuple[list[list[str]], set[str]]:
    """The names of places that the texts of a place store may mention.

    A place's own names are its title, those in the columns `NAME_COLUMNS`, and its country's capital and neighbours
    where its ``country_code`` is known. Titles and time zones are also taken apart: "Lake George (Uganda)" gives
    "Lake George" and "Uganda", "America/New_York" gives "America" and "New York".

    Args:
        store: a :class:`geonb.data.store.PlaceStore`.
        rows: of the store (integers, or bool (n,)); those that have a text if not given.
        also: "language", "currency": mask these words too. They tell the country, but are no names of places.
        parts: the words of a title with a capital and at least `SHORTEST_PART` letters are own names too (the
            "Berat" of "Historic Centres of Berat and Gjirokastra"), if no text of the store has them in lower case.
        gazetteer: more names for all texts, such as those of a table of towns.

    Returns:
        ``(names, shared)``: for each row its own names, and the names of all these rows together with all
        countries, their capitals and ``gazetteer``, as :func:`mask_names` takes them. Parts of titles are not shared.

    Raises:
        ValueError: an unknown word in ``also``.
    """
    if unknown := set(also) - set(ALSO):
        raise ValueError(f"also may name {', '.join(ALSO)}, not {', '.join(sorted(unknown))}")
    rows = store.has("text") if rows is None else np.asarray(rows)
    rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
    countries = _countries()
    columns = {name: store.column(name)[rows] for name in (*NAME_COLUMNS, *also) if name in store.columns}
    empty: list[Any] = [None] * len(rows)
    codes = store.column("country_code")[rows] if "country_code" in store.columns else empty
    common = _lower_case_words(store)
    names: list[list[str]] = []
    shared = {name for name in gazetteer if name}
    for row in countries.values():
        shared.update(name for name in (row["name"], row["capital"], row["continent"]) if name)
        shared.update([*(row["languages"] if "language" in also else []), *_also(row, also)])
    for i in range(len(rows)):
        own: dict[Any, None] = {}
        for column in columns:
            value = columns[column][i]
            if value:
                own.update(dict.fromkeys(_pieces(str(value), common) if column in APART else [str(value)]))
        country = countries.get(codes[i])
        if country:
            own.update(dict.fromkeys([country["name"], country["capital"], *country["neighbours"]]))
            own.update(dict.fromkeys([*(country["languages"] if "language" in also else []), *_also(country, also)]))
        own.pop(None, None)
        own.pop("", None)
        shared.update(own)
        title = columns.get("title", empty)[i]
        if parts and title:
            own.update(dict.fromkeys(_parts(str(title), common)))
        names.append(list(own))
    return names, shared


def _also(country: dict, also: Collection[str]) -> list[str]:
    return [country["currency"]] if "currency" in also and country["currency"] else []


def _pieces(name: str, common: set[str]) -> list[str]:
    """A title or time zone, and the names it is put together from by commas, brackets and strokes.

    A piece of one word that is common is none of them: the "Cathedral" of "Cathedral, Alcázar and Archivo de Indias".
    """
    pieces = [piece.strip(" _").replace("_", " ") for piece in re.split(r"[,;()\[\]/]", name)]
    alone = {piece: {word.key for word in _words(piece)} for piece in pieces}
    return [name, *(p for p in pieces if p and not p[0].islower() and not (len(alone[p]) == 1 and alone[p] <= common))]


def _parts(title: str, common: set[str]) -> list[str]:
    """The words of a title that can stand for the place alone."""
    words = _words(title)
    if len(words) < 2:
        return []
    long = [w for w in words if w.capital and w.stop - w.start >= SHORTEST_PART and w.key not in common]
    return [title[w.start : w.stop] for w in long]


def _lower_case_words(store: PlaceStore) -> set[str]:
    texts = store.texts(np.flatnonzero(store.has("text")))
    return {word.key for text in texts for word in _words(text) if not word.capital}


@cache
def _countries() -> dict[str, dict]:
    """Country by its ISO 3166 code: name, continent, capital, currency, languages, neighbours (names)."""
    import pyarrow.parquet as pq

    with (files("geonb.data") / "assets" / "countries.parquet").open("rb") as stream:
        return {row["code"]: row for row in pq.read_table(stream).to_pylist()}


# --- near-duplicates ----------------------------------------------------------------------------------

COMPARED_CHARS = 2000
BANDS, ROWS = 16, 4  # of the MinHash signature
SHARED_BANDS = 5

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"  # Thai to Khmer, Kana, Han
_TOKEN = re.compile(r"\w[\w'’-]*")
_LETTERS = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])[^\W\d_])+")
_ODD = np.random.default_rng(0).integers(0, 2**62, ROWS, np.uint64) * 2 + 1


def template(text: str) -> list[str]:
    """Reduce a text to its words without names (words with a capital), numbers and punctuation.

    Only the first `COMPARED_CHARS` characters are read. Scripts without capitals keep their names. Scripts without
    spaces are cut into characters.

    Example:
        >>> template("Foo is a village in Bar District. Its population was 1,234 in 2011.")
        ['is', 'a', 'village', 'in', 'population', 'was', 'in']
    """
    tokens = _TOKEN.findall(text[:COMPARED_CHARS])
    return [word for token in tokens if not token[0].isupper() for word in _LETTERS.findall(token)]


def text_signatures(texts: Iterable[str]) -> np.ndarray:
    """Compute signatures that similar texts share in part, for :func:`duplicate_groups`.

    The triples of neighbouring words in a text's template are hashed (MinHash) into `BANDS` numbers. Two texts with
    Jaccard index J of their triples share each number with probability J ** `ROWS`.

    Returns:
        uint32 (n, BANDS); zeros for a text whose template is empty.

    Source:
        Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3.
    """
    from datasketch import MinHash

    out = []
    empty = MinHash(BANDS * ROWS)
    for text in texts:
        words = template(text)
        minhash = empty.copy()
        minhash.update_batch(" ".join(words[i : i + 3]).encode() for i in range(max(1, len(words) - 2)))
        bands = minhash.hashvalues.astype(np.uint64).reshape(BANDS, ROWS)
        out.append((bands * _ODD).sum(1) >> np.uint64(32) if words else np.zeros(BANDS))
    return np.array(out, np.uint32).reshape(-1, BANDS)


def duplicate_groups(signatures: np.ndarray) -> np.ndarray:
    """Group texts that are one text with other names and numbers, such as stubs written by programs.

    Two texts are near-duplicates if they share `SHARED_BANDS` or more numbers: the odds are even at J = 0.73, one in
    500 at J = 0.5, and nearly certain at J = 0.9. Groups join such pairs, so two members may be joined through others.

    Args:
        signatures: of :func:`text_signatures`, (n, BANDS).

    Returns:
        The group (n,) of each text, numbered from 0; -1 for a text without near-duplicates.

    Example:
        >>> stub = "{} is a village in {} District. Its population was {} in 2011."
        >>> other = "A lighthouse on the northern cliffs, built after two ships ran aground there."
        >>> texts = [stub.format("Foo", "Bar", "1,234"), stub.format("Baz", "Qux", "80"), other]
        >>> duplicate_groups(text_signatures(texts)).tolist()
        [0, 0, -1]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(signatures)
    pairs = [np.empty((2, 0), int)]
    for band in range(BANDS):  # texts with the same number, and then the same next number, become neighbours
        order = np.lexsort((signatures[:, (band + 1) % BANDS], signatures[:, band]))
        left, right = order[:-1], order[1:]
        near = (signatures[left] == signatures[right]).sum(1) >= SHARED_BANDS
        near &= signatures[left].any(1)
        pairs.append(np.stack([left[near], right[near]]))
    left, right = np.concatenate(pairs, 1)
    links = coo_array((np.ones(len(left), bool), (left, right)), shape=(n, n))
    label = connected_components(links, directed=False)[1]
    several = np.bincount(label, minlength=1)[label] > 1
    out = np.full(n, -1)
    out[several] = np.unique(label[several], return_inverse=True)[1]
    return out


# --- what is not a place ------------------------------------------------------------------------------

_EVENTS = """
    accident assassination attack battle blizzard bombing campaign census championship collision conference
    congress coronation coup crash cyclone derailment disaster earthquake eclipse election epidemic eruption
    event exhibition expedition explosion festival flood flooding floods games heatwave hurricane incident
    insurgency invasion kidnapping landslide marathon massacre mission murder murders occupation offensive
    operation outbreak pandemic pogrom protest protests race raid rebellion referendum revolt revolution riot
    riots robbery season shooting shootings siege skirmish spaceflight stampede storm strike summit tornado
    tournament treaty typhoon unrest uprising war wildfire wreck
"""
_PEOPLE = """
    activist actor actress admiral anthropologist archaeologist architect artist astronaut astronomer author
    aviator biologist bishop botanist boxer businessman businesswoman chemist chess chieftain coach composer
    conductor cricketer criminal cyclist dancer diplomat director duke economist emperor empress engineer
    entrepreneur essayist explorer filmmaker footballer general geologist golfer historian industrialist
    inventor journalist jurist king lawyer mathematician merchant missionary model musician naturalist novelist
    nun nurse officer painter philosopher photographer physician physicist pianist pilot pirate playwright poet
    politician pope priest prince princess producer professor psychologist queen rabbi rapper saint scholar
    scientist screenwriter sculptor senator singer sociologist soldier songwriter sultan surgeon swimmer teacher
    theologian translator wrestler writer zoologist
"""
_THINGS = """
    agency airline album association band battalion battleship bible boat bomber book brand brigade charity clan
    comic company corvette cruiser destroyer dialect dialects dynasty family federation ferry film firm flotilla
    freighter frigate genus government language languages magazine manufacturer meteorite ministry movie
    newspaper novel organisation organization painting party people political publisher regiment retailer
    sailboat schooner ship song species squadron steamboat steamer steamship submarine subsidiary supermarket
    team trawler tribe tribes tugboat union vessel website yacht
"""
_NO_PLACES = {word: kind for kind, words in (("an event", _EVENTS), ("a person", _PEOPLE), ("a thing", _THINGS))
              for word in words.split()}  # fmt: skip
_PLACES = set(
    "bridge building cathedral church city house island museum park school station temple town village".split()
)
_TYPES = {"event": "an event", "satellite": "a thing"}

_LIST = re.compile(r"(?:Lists?|Timeline|Index|Outline|Glossary) of ")
_EVENT_OF = re.compile(
    r"(?:\w+ )?(?:Assassination|Attack|Battle|Bombardment|Bombing|Capture|Conquest|Death|Fall|Invasion|Massacre"
    r"|Murders?|Raid|Sack|Siege|Sinking|Storming|Surrender|Treaty) (?:of|on) "
)
_YEAR = re.compile(r"(?:\d{4}(?:[–-]\d{2,4})? .*|.* (?:of|in) \d{4})")
_BORN = re.compile(
    r"(?:\bborn\b"
    r"|\b(?:January|February|March|April|May|June|July|August|September|October|November|December)\b[^–-]{0,20}"
    r"[–-].*\d)"
)
_ASIDE = re.compile(r"\s*\([^()]*\)")
_SENTENCE = re.compile(  # which does not end at "St." or "J."
    r".*?(?:(?<![A-Z.][A-Za-z])(?<!\b[A-Z])[.!?](?=\s+[^a-z\s])|$)", re.DOTALL
)
_IS = re.compile(
    r"\b(?:is|was|are|were)\s+(?:an?|the|one\s+of\s+the)\s+(.+?)"
    r"(?=\s+(?:of|in|on|at|by|from|for|to|near|between|during|along|with|within|among|under|over|about"
    r"|above|below|around|after|before|as|but|that|which|who|whose|where|when|while|located|situated|held|fought"
    r"|based|founded|headquartered|operated|built|made|set|published|written|released|born"
    r"|serving|known|and)\b|\s*[,.;:]|\s*$)",
    re.DOTALL,
)


def why_no_place(title: str, text: str, kind: str | None = None, lang: str = "en") -> str:
    """Tell why an article with a position is not about a place: about one in sixteen is not (a birthplace, a wreck).

    The geo tag's type, the title, and the noun with which the first sentence ends are read: "Apollo 11 was the
    American spaceflight that first landed humans on the Moon" is about a spaceflight. In doubt an article is a place:
    1,573 real articles about places all pass, and some that are not about places pass too.

    Args:
        title: of the article.
        text: of the article; only the first sentence is read.
        kind: the geo tag's type in lower case, where known.
        lang: of the text; title and text are read in English only.

    Returns:
        "a person", "an event", "a list" or "a thing", or "" for a place.
    """
    if kind in _TYPES:
        return _TYPES[kind]
    if lang not in ("en", "simple"):
        return ""
    if _LIST.match(title):
        return "a list"
    if _EVENT_OF.match(title):
        return "an event"
    if _YEAR.fullmatch(title) and any(_NO_PLACES.get(word) == "an event" for word in title.lower().split()):
        return "an event"
    start = text[:500].split("\n", 1)[0]
    bare = start
    for _ in range(3):
        bare = _ASIDE.sub("", bare)
    found = _IS.search(_SENTENCE.match(bare)[0])
    noun = (found[1].split() or [""])[-1].lower() if found else ""
    if noun in _NO_PLACES or not found:
        return _NO_PLACES.get(noun, "")
    before = start[: max(0, start.find(found[1])) or None]
    return "a person" if noun not in _PLACES and _BORN.search(" ".join(_ASIDE.findall(before))) else ""
