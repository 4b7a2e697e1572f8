"""Compose encyclopaedia-like texts from facts: they are simulated, nobody wrote them.

The place's identifier and a seed decide which facts a text mentions, and how. Every
sentence follows from the facts of the place, its country or its climate class;
vegetation and farming are those of the class. Coordinates are never given.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import yaml

ASSETS = files("geonb.sample") / "assets"
WORDINGS = yaml.safe_load((ASSETS / "wordings.yaml").read_text(encoding="utf-8"))
SENTENCES = WORDINGS["sentences"]
Sentence = tuple[list[str], list[str]]  # wordings, and the facts that all of them mention


def by_least(table: dict[int, Any], value: float) -> Any:
    """Look up a value in a table whose keys are least values, in descending order."""
    return next(entry for least, entry in table.items() if value >= least)


def by_class(table: dict[str, Any], climate: str) -> Any:
    """Look up a climate class in a table by its longest prefix, in D without the rain."""
    key = climate[0] + climate[-1] if climate[0] == "D" else climate
    return next(table[key[:n]] for n in (3, 2, 1) if key[:n] in table)


def _climate_words(climate: str, lat: float) -> dict[str, list[str]]:
    if abs(lat) < 23.5:  # these classes are tropical highlands, without summer and winter
        climate = {"Cfb": "Cwb", "Cfc": "Cwc"}.get(climate, climate)
    return by_class(WORDINGS["climates"], climate)


def _is_rice_land(place: dict) -> bool:
    """Tell whether a place lies on flat, low, warm and rainy land of monsoon Asia."""
    return (
        place["continent"] == "Asia"
        and 65 < place["lon"] < 150
        and -11 < place["lat"] < 46
        and place["climate"] in ("Af", "Am", "Aw", "As", "Cfa", "Cwa")
        and (place["relief_m"] or 0) < 150
        and (place["elevation_m"] or 0) < 600
    )


def compose(place: dict, country: dict, seed: int = 0) -> tuple[str, list[str]]:
    """Write the text of a place.

    Args:
        place: a row of the facts table; all facts except ``name`` may be None.
        country: the row of its country.
        seed: decides the wording, together with the place's identifier.

    Returns:
        The text, and the sorted names of the facts that it mentions.
    """
    return _Writer(place, country, random.Random(f"{seed}:{place['place_id']}")).write()


class _Writer:
    """A text in the making. The order in which it draws is part of a text."""

    def __init__(self, place: dict, country: dict, chance: random.Random) -> None:
        self.p, self.c, self.chance = place, country, chance
        self.facts: set[str] = set()
        self.name = place["name"]
        self.near_words = ""
        self.size = self.pick(by_least(WORDINGS["sizes"], place["population"]))
        self.noun = self.size.split()[-1]
        self.country = _with_article(country["name"])

    def pick(self, options: list) -> Any:
        return options[self.chance.randrange(len(options))]

    def some(self, share: float) -> bool:
        return self.chance.random() < share

    def write(self) -> tuple[str, list[str]]:
        count = self.chance.randint(*by_least(WORDINGS["lengths"], self.p["population"]))
        sentences = [self.lead()]
        topics = [self.land, self.people, self.climate, self.country_life, self.surroundings]
        self.chance.shuffle(topics)
        if self.some(0.5):  # most articles begin with where the place lies
            topics.sort(key=lambda topic: topic != self.land)
        pool = [sentence for topic in topics for sentence in topic()]
        for i in sorted(self.chance.sample(range(len(pool)), min(count, len(pool)))):
            wordings, facts = pool[i]
            self.facts.update(facts)
            sentences.append(_capitalised(self.pick(wordings)))
        text = " ".join(sentences)
        if self.c["name"] in text:
            self.facts.add("country")
        if self.p["admin1_name"] and self.p["admin1_name"] in text:
            self.facts.add("admin1")
        return text, sorted(self.facts)

    # The first sentence

    def lead(self) -> str:
        name, size, words = self.name, _article(self.size), SENTENCES["lead"]
        values = {"name": name, "size": size, "noun": self.noun, "country": self.country}
        self.facts.add("size_class")
        if self.p["capital"]:
            self.facts.add("capital")
            return _capitalised(self.pick(words["capital"]).format(**values))
        where, facts = self.pick(list(self.positions()))
        home = self.home() if self.some(0.8) else ""
        of = f" in {home}" if home else ""
        if home and where == self.near_words:  # the city need not lie in the same country
            both = f"{of}, {where}" if where else of
        else:
            both = f" {where}{of}" if where else of
        values |= {"of": of, "both": both, "home": home.removeprefix("the ")}
        values |= {"then_where": f" {where}" if where else ""}
        values |= {"Where": _capitalised(where), "Country": _capitalised(self.country)}
        known = {"all": True, "both": both, "where": where, "home": home}
        options = [option for kind, holds in known.items() if holds for option in words[kind]]
        if self.some(0.3):
            self.facts.add("population")
            values |= {"first": self.inhabitants(), "people": self.number(), "with": self.inhabitants()}
            options = words["population"][: 3 if both else 2]
        sentence = self.pick(options).format(**values)
        if where and where.lower() in sentence.lower():
            self.facts.update(facts)
        return sentence

    def home(self) -> str:
        region = self.p["admin1_name"]
        if region and self.some(0.7):
            return self.pick([f"{region}, {self.country}", f"{region} in {self.country}"])
        return self.country

    def positions(self) -> Iterator[tuple[str, list[str]]]:
        """Yield phrases on where the place lies, each with its facts."""
        kinds = []
        height, relief = self.p["elevation_m"], self.p["relief_m"]
        if height is not None:
            if height > 2200 and relief > 250:
                kinds.append("high mountains")
            elif height > 1800:
                kinds.append("highlands")
            elif relief > 700:
                kinds.append("mountains")
            elif relief > 220:
                kinds.append("hills")
            elif relief < 60 and 0 <= height < 200:
                kinds.append("lowland")
        climate = self.p["climate"]
        polar = climate == "ET" or climate[0] + climate[-1] in ("Dc", "Dd")
        if climate[:2] == "BW":
            kinds.append("desert")
        elif climate[0] == "A":
            kinds.append("tropics")
        elif polar and (height or 0) < 1000 and self.p["lat"] > 55:
            kinds.append("north")
        yield "", []
        for phrase in by_least(WORDINGS["coast"], self.p["coast_km"]):
            yield phrase, ["coast_km"]
        for kind in kinds:
            facts, *phrases = WORDINGS["positions"][kind]
            yield from ((phrase, facts) for phrase in phrases)
        if self.has_near(300):
            self.near_words = self.near()
            yield self.near_words, ["near_city"]

    # The body: five topics

    def land(self) -> Iterator[Sentence]:
        it, coast = self.it(), self.p["coast_km"]
        height, relief = self.p["elevation_m"], self.p["relief_m"]
        if height is not None:
            metres, feet = 50 * round(height / 50), 100 * round(height / 0.3048 / 100)
            values = {"it": self.it(), "metres": f"{metres:,}", "feet": f"{feet:,}"}
            yield _sentence(by_least(SENTENCES["height"], height), "elevation_m", **values)
            yield _sentence(by_least(SENTENCES["relief"], relief), "relief_m", it=it)
        values = {"it": it, "km": coast, "tens": 10 * round(coast / 10)}
        values["hundreds"] = 100 * round(coast / 100)
        yield _sentence(by_least(SENTENCES["coast"], coast), "coast_km", **values)

    def people(self) -> Iterator[Sentence]:
        if "population" not in self.facts:
            values = {
                "it": self.it(),
                "inhabitants": self.inhabitants(),
                "people": f"{self.number()} {self.pick(['people', 'residents'])}",
                "number": self.number(),
                "number_of_people": self.inhabitants(),
            }
            yield _sentence(SENTENCES["population"], "population", **values)
        if self.p["population"] >= 1_000_000:
            yield _sentence(SENTENCES["many_people"], "size_class")
        elif self.p["population"] < 2_000:
            yield _sentence(SENTENCES["few_people"], "size_class")

    def climate(self) -> Iterator[Sentence]:
        code, relief = self.p["climate"], self.p["relief_m"] or 0
        words, zone = _climate_words(code, self.p["lat"]), by_class(WORDINGS["zones"], code)
        it, kind, nature = self.it(), _article(self.pick(words["kinds"])), self.pick(words["nature"])
        yield _sentence(SENTENCES["climate"], "climate", it=it, kind=kind, zone=zone)
        yield _sentence([self.pick(words["seasons"])], "climate")
        plants = "ice" if code == "EF" else "vegetation"
        yield _sentence(SENTENCES[plants], "climate", nature=nature)
        if _is_rice_land(self.p):
            crop = self.pick(WORDINGS["rice"])
            yield _sentence(SENTENCES["rice"], "climate", "relief_m", crop=crop)
        elif code not in ("EF", "ET"):
            yield _sentence(SENTENCES["farming"], "climate", crop=self.pick(words["crops"]))
        if (self.p["elevation_m"] or 0) > 3000 or (code == "ET" and relief > 300):
            yield _sentence(SENTENCES["snow"], "elevation_m", "climate")

    def country_life(self) -> Iterator[Sentence]:
        languages, neighbours = self.c["languages"], self.c["neighbours"]
        values = {"home": self.country, "currency": self.c["currency"], "capital": self.c["capital"]}
        if languages:
            words = SENTENCES["languages" if len(languages) > 1 else "language"]
            values |= {"language": languages[0], "languages": _listed(languages)}
            yield _sentence(words, "language", **values)
        if self.c["currency"]:
            yield _sentence(SENTENCES["currency"], "currency", **values)
        if neighbours:
            few = neighbours if len(neighbours) < 4 else sorted(self.chance.sample(neighbours, 3))
            values |= {"neighbours": _listed([_with_article(name) for name in few])}
            yield _sentence(SENTENCES["neighbours"], are="are" if len(few) > 1 else "is", **values)
        else:
            yield _sentence(SENTENCES["no_neighbours"], **values)
        if self.c["capital"] and not self.p["capital"]:
            yield _sentence(SENTENCES["capital"], **values)
        yield _sentence(SENTENCES["continent"], "continent", continent=self.p["continent"])

    def surroundings(self) -> Iterator[Sentence]:
        city, largest, zone = self.p["near_city"], self.p["admin1_town"], self.p["timezone"]
        it = self.it()
        if self.has_near(500):
            values = {"it": it, "near": self.near(), "city": city, "km": self.p["near_km"]}
            yield _sentence(SENTENCES["near_city"], "near_city", **values)
        if largest == self.name:
            yield _sentence(SENTENCES["largest_place"], "admin1")
        elif largest:
            yield _sentence(SENTENCES["other_largest_place"], "admin1", it=it, largest=largest)
        if zone:
            yield _sentence(SENTENCES["timezone"], "timezone", zone=zone)

    # Parts of sentences

    def it(self) -> str:
        return self.pick(["it", self.name, f"the {self.noun}", "it", "the place"])

    def has_near(self, km: float) -> bool:
        return bool(self.p["near_city"]) and self.p["near_city"] != self.name and self.p["near_km"] <= km

    def near(self) -> str:
        city, km = self.p["near_city"], self.p["near_km"]
        if km < 15 and self.some(0.5):
            return f"close to {city}"
        rounded = km if km < 30 else 5 * round(km / 5)
        return f"{'about ' if self.some(0.5) else ''}{rounded:.0f} km {self.p['near_direction']} of {city}"

    def number(self) -> str:
        population = int(self.p["population"])
        digits = 2 if population >= 10_000 else 1
        step = 10 ** max(0, int(math.log10(max(population, 1))) - digits + 1)
        rounded = step * round(population / step)
        if rounded >= 1_000_000:
            return f"about {rounded / 1e6:.1f} million"
        exact = [f"{population:,}"] if population >= 1_000 else []
        return self.pick([f"about {rounded:,}", f"roughly {rounded:,}", *exact])

    def inhabitants(self) -> str:
        return f"{self.number()} {self.pick(['inhabitants', 'people', 'residents'])}"


def _sentence(wordings: list[str], *facts: str, **values: Any) -> Sentence:
    """Fill in the wordings of a sentence that mentions ``facts``."""
    return [wording.format(**values) for wording in wordings], list(facts)


def _article(noun: str) -> str:
    return f"{'an' if noun[0].lower() in 'aeio' else 'a'} {noun}"


def _with_article(country: str) -> str:
    return f"the {country}" if country in WORDINGS["with_article"] else country


def _capitalised(words: str) -> str:
    return words[:1].upper() + words[1:]


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
