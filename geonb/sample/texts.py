"""Compose encyclopaedia-like texts from facts: real facts in sentences that nobody observed, so simulated texts.

Chance decides which facts a text mentions, in which order and with which words. It depends on the place's identifier
and a seed alone. Every sentence follows from the facts of the place, of its country or of its climate class.
Coordinates are never given. Vegetation and farming are those of the climate class, not known of the place. The
phrases, and where they come from, are in ``assets/wordings.yaml``.
"""

from __future__ import annotations

import math
import random
from importlib.resources import files
from typing import Any

import yaml

WORDINGS = yaml.safe_load((files("geonb.sample") / "assets" / "wordings.yaml").read_text(encoding="utf-8"))

SENTENCES = WORDINGS["sentences"]
Sentence = tuple[list[str], list[str]]  # wordings, and the facts that all of them mention


def by_least(table: dict[int, Any], value: float) -> Any:
    """Look up a value in a table whose keys are the least values of its entries, in descending order."""
    return next(entry for least, entry in table.items() if value >= least)


def _climate_key(code: str, lat: float) -> str:
    """Find the climate of the wordings for a Köppen-Geiger class at a latitude (degrees).

    Classes with the same wordings share an entry. Within the tropics the oceanic classes are those of highlands, which
    have no summer and winter.
    """
    if abs(lat) < 23.5 and code in ("Cfb", "Cfc"):
        return "Cwb" if code == "Cfb" else "Cwc"
    if code in WORDINGS["climates"]:
        return code
    if code == "As":
        return "Aw"
    return code[:2] if code[:2] == "Cs" else code[0] + code[-1]


def _is_rice_land(place: dict) -> bool:
    """Tell whether a place lies on the flat, low, warm and rainy land of monsoon Asia where paddy rice is usual."""
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
        place: a row of the facts table as a dict; all facts except ``name`` may be ``None``.
        country: the row of the countries table it belongs to.
        seed: decides the wording, together with the place's identifier.

    Returns:
        the text, and the sorted names of the facts that it mentions, as the columns of the store are called.
    """
    return _Writer(place, country, random.Random(f"{seed}:{place['place_id']}")).write()


class _Writer:
    """A text in the making. Every call of :meth:`pick` and :meth:`some` draws, so their order is part of a text."""

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
        name, size = self.name, _article(self.size)
        self.facts.add("size_class")
        if self.p["capital"]:
            self.facts.add("capital")
            return _capitalised(self.pick([
                f"{name} is the capital of {self.country}.",
                f"{name}, {size}, is the capital of {self.country}.",
                f"The capital of {self.country} is {name}, {size}.",
                f"{self.country} has its capital here, at {name}.",
            ]))  # fmt: skip
        where, facts = self.pick(self.positions())
        home = self.home() if self.some(0.8) else ""
        of = f" in {home}" if home else ""
        if where and home and where == self.near_words:  # the city need not lie in the same country
            both = f"{of}, {where}"
        else:
            both = f" {where}{of}" if where else of
        options = [f"{name} is {size}{both}."]
        if both:
            options.append(f"The {self.noun} of {name} lies{both}.")
        if where:
            options.append(f"{_capitalised(where)} lies {name}, {size}{of}.")
        if home:
            options.append(f"{name} ({home.removeprefix('the ')}) is {size}{f' {where}' if where else ''}.")
            options.append(f"{_capitalised(self.country)} is where {name}, {size}, is found.")
        if self.some(0.3):
            self.facts.add("population")
            options = [
                f"With {self.inhabitants()}, {name} is {size}{both}.",
                f"{name} is {size} of {self.number()} people{both}.",
                f"{name}, {size} with {self.inhabitants()}, lies{both}.",
            ][: 3 if both else 2]
        sentence = self.pick(options)
        if where and where.lower() in sentence.lower():
            self.facts.update(facts)
        return sentence

    def home(self) -> str:
        region = self.p["admin1_name"]
        if region and self.some(0.7):
            return self.pick([f"{region}, {self.country}", f"{region} in {self.country}"])
        return self.country

    def positions(self) -> list[tuple[str, list[str]]]:
        """Phrases on where the place lies, each with its facts; an empty one among them."""
        p = self.p
        phrases: list[tuple[str, list[str]]] = [("", [])]

        def add(facts: list[str], *words: str) -> None:
            phrases.extend((phrase, facts) for phrase in words)

        add(["coast_km"], *by_least(WORDINGS["coast"], p["coast_km"]))
        height, relief = p["elevation_m"], p["relief_m"]
        if height is not None:
            if height > 2200 and relief > 250:
                add(["elevation_m", "relief_m"], "high in the mountains", "among high mountains")
            elif height > 1800:
                add(["elevation_m", "relief_m"], "on a high plateau", "in the highlands")
            elif relief > 700:
                add(["relief_m"], "among steep mountains", "in mountainous country")
            elif relief > 220:
                add(["relief_m"], "in hilly country", "between hills")
            elif relief < 60 and 0 <= height < 200:
                add(["elevation_m", "relief_m"], "in a low plain", "on flat lowland")
        climate = p["climate"]
        if climate[:2] == "BW":
            add(["climate"], "in the desert")
        elif climate[0] == "A":
            add(["climate"], "in the tropics")
        elif (climate == "ET" or climate[0] + climate[-1] in ("Dc", "Dd")) and (height or 0) < 1000 and p["lat"] > 55:
            add(["climate"], "in the far north")
        if self.has_near(300):
            self.near_words = self.near()
            add(["near_city"], self.near_words)
        return phrases

    # The body: five topics

    def land(self) -> list[Sentence]:
        it, said = self.it(), []
        height, relief, coast = self.p["elevation_m"], self.p["relief_m"], self.p["coast_km"]
        if height is not None:
            metres, feet = f"{50 * round(height / 50):,}", f"{100 * round(height / 0.3048 / 100):,}"
            words = by_least(SENTENCES["height"], height)
            said.append(_sentence(words, "elevation_m", it=self.it(), metres=metres, feet=feet))
            said.append(_sentence(by_least(SENTENCES["relief"], relief), "relief_m", it=it))
        tens, hundreds = 10 * round(coast / 10), 100 * round(coast / 100)
        words = by_least(SENTENCES["coast"], coast)
        return [*said, _sentence(words, "coast_km", it=it, km=coast, tens=tens, hundreds=hundreds)]

    def people(self) -> list[Sentence]:
        said = []
        if "population" not in self.facts:
            values = {
                "it": self.it(),
                "inhabitants": self.inhabitants(),
                "people": f"{self.number()} {self.pick(['people', 'residents'])}",
                "number": self.number(),
                "number_of_people": self.inhabitants(),
            }
            said.append(_sentence(SENTENCES["population"], "population", **values))
        if self.p["population"] >= 1_000_000:
            said.append(_sentence(SENTENCES["many_people"], "size_class"))
        elif self.p["population"] < 2_000:
            said.append(_sentence(SENTENCES["few_people"], "size_class"))
        return said

    def climate(self) -> list[Sentence]:
        code, height, relief = self.p["climate"], self.p["elevation_m"] or 0, self.p["relief_m"] or 0
        words = WORDINGS["climates"][_climate_key(code, self.p["lat"])]
        it, kind, nature = self.it(), _article(self.pick(words["kinds"])), self.pick(words["nature"])
        said = [
            _sentence(SENTENCES["climate"], "climate", it=it, kind=kind, zone=_zone(code)),
            _sentence([self.pick(words["seasons"])], "climate"),
            _sentence(SENTENCES["ice" if code == "EF" else "vegetation"], "climate", nature=nature),
        ]
        if _is_rice_land(self.p):
            crop = self.pick(WORDINGS["rice"])
            said.append(_sentence(SENTENCES["rice"], "climate", "relief_m", crop=crop))
        elif code not in ("EF", "ET"):
            said.append(_sentence(SENTENCES["farming"], "climate", crop=self.pick(words["crops"])))
        if height > 3000 or (code == "ET" and relief > 300):
            said.append(_sentence(SENTENCES["snow"], "elevation_m", "climate"))
        return said

    def country_life(self) -> list[Sentence]:
        home, languages, neighbours = self.country, self.c["languages"], self.c["neighbours"]
        said = []
        if languages:
            words = SENTENCES["languages" if len(languages) > 1 else "language"]
            said.append(_sentence(words, "language", home=home, language=languages[0], languages=_listed(languages)))
        if self.c["currency"]:
            said.append(_sentence(SENTENCES["currency"], "currency", home=home, currency=self.c["currency"]))
        if neighbours:
            few = neighbours if len(neighbours) < 4 else sorted(self.chance.sample(neighbours, 3))
            listed, are = _listed([_with_article(n) for n in few]), "are" if len(few) > 1 else "is"
            said.append(_sentence(SENTENCES["neighbours"], home=home, neighbours=listed, are=are))
        else:
            said.append(_sentence(SENTENCES["no_neighbours"], home=home))
        if self.c["capital"] and not self.p["capital"]:
            said.append(_sentence(SENTENCES["capital"], home=home, capital=self.c["capital"]))
        return [*said, _sentence(SENTENCES["continent"], "continent", continent=self.p["continent"])]

    def surroundings(self) -> list[Sentence]:
        it, said = self.it(), []
        city, largest, zone = self.p["near_city"], self.p["admin1_town"], self.p["timezone"]
        if self.has_near(500):
            values = {"it": it, "near": self.near(), "city": city, "km": self.p["near_km"]}
            said.append(_sentence(SENTENCES["near_city"], "near_city", **values))
        if largest == self.name:
            said.append(_sentence(SENTENCES["largest_place"], "admin1"))
        elif largest:
            said.append(_sentence(SENTENCES["other_largest_place"], "admin1", it=it, largest=largest))
        if zone:
            said.append(_sentence(SENTENCES["timezone"], "timezone", zone=zone))
        return said

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
    """The words with a capital first letter, the rest as it is."""
    return words[0].upper() + words[1:]


def _zone(climate: str) -> str:
    if climate[0] == "B":
        return "desert" if climate[1] == "W" else "steppe"
    return {"A": "tropical", "C": "temperate", "D": "cold continental", "E": "polar"}[climate[0]]


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
