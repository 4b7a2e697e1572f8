"""Which geotagged articles are about things that are no places: people, events, organisations, ships, lists.

About one article in sixteen with coordinates is (a birthplace, a headquarters, a landing site). The sure way to tell is
the class in Wikidata (P31); :func:`class_is_no_place` knows the commonest ones. Where there is no class,
:func:`why_no_place` reads the geo tag's type, the title, and the noun that the first sentence ends up with: "Apollo 11
was the American spaceflight that first landed humans on the Moon" is a spaceflight. It reads English; in other
languages only the type is looked at. It would rather keep what it does not know: 1,573 real articles on places it
leaves all alone (one word of the lists was taken out for that), and it does not find all that are none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

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
_OTHERS = """
    agency airline album association band battalion battleship bible boat bomber book brand brigade charity clan
    comic company corvette cruiser destroyer dialect dialects dynasty family federation ferry film firm flotilla
    freighter frigate genus government language languages magazine manufacturer meteorite ministry movie
    newspaper novel organisation organization painting party people political publisher regiment retailer
    sailboat schooner ship song species squadron steamboat steamer steamship submarine subsidiary supermarket
    team trawler tribe tribes tugboat union vessel website yacht
"""
_NO_PLACES = {word: kind for kind, words in (("an event", _EVENTS), ("a person", _PEOPLE), ("a thing", _OTHERS))
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

# Classes of Wikidata: https://www.wikidata.org/wiki/QID
NO_PLACE_CLASSES = {
    "Q5": "a person",  # human
    "Q178561": "an event",  # battle
    "Q188055": "an event",  # siege
    "Q198": "an event",  # war
    "Q7944": "an event",  # earthquake
    "Q40231": "an event",  # public election
    "Q1190554": "an event",  # occurrence
    "Q1656682": "an event",  # event
    "Q744913": "an event",  # aviation accident
    "Q2223653": "an event",  # terrorist attack
    "Q132821": "an event",  # murder
    "Q13406463": "a list",  # Wikimedia list article
    "Q4167410": "a list",  # Wikimedia disambiguation page
    "Q3186692": "a thing",  # calendar year
    "Q43229": "a thing",  # organization
    "Q4830453": "a thing",  # business
    "Q891723": "a thing",  # public company
    "Q215380": "a thing",  # musical group
    "Q34770": "a thing",  # language
    "Q11424": "a thing",  # film
    "Q11446": "a thing",  # ship
}


def why_no_place(title: str, text: str, kind: str | None = None, lang: str = "en") -> str:
    """What an article is about, "a person", "an event", "a list" or "a thing", or ``""`` where it may be a place.

    Args:
        title, text: of the article; only the first sentence of the text is read.
        kind: the geo tag's type in lower case, where known.
        lang: of the text.
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
    first = _SENTENCE.match(_without_asides(start))
    assert first is not None, "it matches any text"
    sentence = first[0]
    found = _IS.search(sentence)
    noun = (found[1].split() or [""])[-1].lower() if found else ""
    if noun in _NO_PLACES or not found:
        return _NO_PLACES.get(noun, "")
    before = start[: max(0, start.find(found[1])) or None]
    return "a person" if noun not in _PLACES and _BORN.search(" ".join(_ASIDE.findall(before))) else ""


def class_is_no_place(classes: str | Iterable[str] | None) -> str:
    """As :func:`why_no_place`, from the QIDs of an article's classes (P31): a list, or a str with anything between."""
    found = re.findall(r"Q\d+", classes if isinstance(classes, str) else " ".join(map(str, classes or [])))
    kinds = [NO_PLACE_CLASSES.get(qid, "") for qid in found]
    return kinds[0] if kinds and all(kinds) else ""


def _without_asides(text: str) -> str:
    for _ in range(3):
        text = _ASIDE.sub("", text)
    return text
