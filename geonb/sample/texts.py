"""Encyclopaedia-like texts written from facts: real facts in sentences that nobody observed, so simulated texts.

A text is planned and worded by chance, from the place's identifier and a seed alone: which facts it mentions, in
which order, with which words. Nothing is said that does not follow from the facts of the place, of its country or of
its climate class, and coordinates are never given. What grows and is farmed in a climate is said of the climate, and
follows the definitions of the Köppen-Geiger classes (Beck et al., 2018, Scientific Data 5, 180214, table 2) and the
zonal vegetation that goes with them (Peel et al., 2007, Hydrology and Earth System Sciences 11, 1633-1644).
"""

from __future__ import annotations

import math
import random
from typing import Any

# The names of countries that take an article in a sentence.
WITH_ARTICLE = {
    "Bahamas", "British Virgin Islands", "Cayman Islands", "Central African Republic", "Comoros", "Cook Islands",
    "Democratic Republic of the Congo", "Dominican Republic", "Falkland Islands", "Faroe Islands", "Gambia", "Maldives",
    "Marshall Islands", "Netherlands", "Northern Mariana Islands", "Philippines", "Republic of the Congo",
    "Solomon Islands", "Turks and Caicos Islands", "U.S. Virgin Islands", "United Arab Emirates", "United Kingdom",
    "United States", "Aland Islands", "Isle of Man", "Vatican", "Palestinian Territory",
}  # fmt: skip

CLIMATE = {
    "Af": (
        ["tropical rainforest climate", "hot and humid climate without a dry season", "wet equatorial climate"],
        ["Rain falls in every month, and it is warm all year.", "There is no dry season and no winter.",
         "Heavy showers are frequent throughout the year, and the air is always moist and warm."],
        ["evergreen rainforest", "tall tropical forest", "dense, humid jungle"],
        ["bananas, cassava and oil palms", "cocoa, coconuts and root crops"],
    ),
    "Am": (
        ["tropical monsoon climate", "hot climate with a monsoon", "tropical climate of torrential rains"],
        ["A short dry season is followed by months of very heavy rain.", "Most of the rain comes with the monsoon.",
         "It is hot all year; the wet season brings torrential downpours."],
        ["tropical monsoon forest", "lush green forest", "moist tropical forest"],
        ["coconuts, bananas and root crops", "sugar cane, cassava and fruit trees"],
    ),
    "Aw": (
        ["tropical savanna climate", "tropical climate with a long dry season", "hot climate of wet and dry seasons"],
        ["Rainy months alternate with a long dry season.", "The grass turns green in the rains and yellow afterwards.",
         "It is warm all year, with a pronounced dry season."],
        ["savanna with scattered trees", "tall grassland and open woodland", "tropical savanna"],
        ["maize, cassava and groundnuts", "sorghum, maize and beans", "sugar cane and maize"],
    ),
    "BWh": (
        ["hot desert climate", "very hot and dry climate", "hyper-arid, hot climate", "hot, nearly rainless climate"],
        ["Rain is rare, the sky is mostly clear and summers are scorching.", "Hardly any rain falls in the year.",
         "Summer days are extremely hot, and years can bring almost no rain."],
        ["hot desert, with sand and bare rock", "sandy and stony desert", "barren, sun-baked desert"],
        ["date palms and irrigated fields", "irrigated cereals and fodder in oases"],
    ),
    "BWk": (
        ["cold desert climate", "arid climate with cold winters", "dry climate with large swings of temperature"],
        ["Winters are cold and summers dry, with very little rain or snow.",
         "Rain and snow are scarce, and nights are much colder than days."],
        ["cold desert of gravel and thin scrub", "arid, stony plains and bare slopes", "desert with sparse shrubs"],
        ["irrigated fields and grazing", "irrigated cereals, fruit and sheep"],
    ),
    "BSh": (
        ["hot semi-arid climate", "hot steppe climate", "hot and rather dry climate"],
        ["A brief rainy season interrupts the drought.", "It is hot, and rain is too scarce for forests.",
         "Rainfall is low and uncertain."],
        ["dry savanna and thorny scrub", "parched grassland with thorn bushes", "dry bushland"],
        ["millet, sorghum and grazing", "drought-resistant grains and livestock"],
    ),
    "BSk": (
        ["cold semi-arid climate", "cold steppe climate", "dry continental climate"],
        ["Winters are cold, and rain is scarce all year.", "It is dry for most of the year, with cold winters."],
        ["treeless steppe", "short-grass steppe", "open, dry grassland"],
        ["wheat and grazing", "sheep, cattle and dry-farmed cereals"],
    ),
    "Cs": (
        ["Mediterranean climate", "mild climate with dry summers", "climate of dry summers and rainy winters"],
        ["Summers are dry and sunny, and most rain falls in winter.", "Winters are mild and wet, summers dry.",
         "The rain comes mainly between autumn and spring."],
        ["evergreen shrubs and open woodland", "Mediterranean scrub", "sunny hillsides of hard-leaved shrubs"],
        ["olives, grapes and wheat", "vines, citrus fruit and almonds"],
    ),
    "Cfa": (
        ["humid subtropical climate", "subtropical climate with hot, humid summers", "warm and moist climate"],
        ["Summers are hot and humid, winters mild, and rain falls all year.", "There is no dry season.",
         "Muggy summers are followed by short, mild winters."],
        ["mixed and broad-leaved forest", "subtropical woodland", "leafy woodland"],
        ["maize, soybeans and cotton", "fruit, maize and vegetables"],
    ),
    "Cfb": (
        ["temperate oceanic climate", "mild maritime climate", "cool, moist climate with mild winters"],
        ["Winters are mild, summers cool, and it rains in all months.", "The weather is changeable and often cloudy.",
         "Rain is spread evenly over the year, and extremes are rare."],
        ["green meadows and broad-leaved woods", "deciduous forest", "lush grassland and woods"],
        ["cereals, potatoes and dairy cattle", "pasture, barley and wheat"],
    ),
    "Cfc": (
        ["subpolar oceanic climate", "cool maritime climate", "chilly and damp climate"],
        ["Summers are short and cool, winters wet but not severe.", "It is cool and often rainy all year."],
        ["heath, moor and grassland", "rough grassland"],
        ["sheep grazing and hay", "hardy pasture"],
    ),
    "Cwa": (
        ["monsoon climate with dry winters", "humid subtropical climate with a dry winter",
         "subtropical monsoon climate"],
        ["Hot, rainy summers follow dry, mild winters.", "Most of the rain falls in the summer months.",
         "Winter is the dry season."],
        ["deciduous monsoon woodland", "subtropical woodland and grassland"],
        ["wheat, pulses and maize", "millet, wheat and sugar cane"],
    ),
    "Cwb": (
        ["subtropical highland climate", "mild highland climate", "spring-like climate of uplands"],
        ["Days are mild and nights cool.", "It is cooler than in the lowlands of the same latitude.",
         "Mild days and cool nights are the rule."],
        ["highland grassland and mountain woods", "upland pastures and groves"],
        ["maize, beans and potatoes", "potatoes, barley and vegetables"],
    ),
    "Cwc": (
        ["cold highland climate", "cool mountain climate"],
        ["Summers are short and cool, and nights are cold.", "It is cool all year, and frost is common."],
        ["highland grassland", "tussock grass and low shrubs"],
        ["potatoes and grazing", "grazing and barley"],
    ),
    "Da": (
        ["continental climate with hot summers", "climate of hot summers and cold winters"],
        ["Summers are hot, and winters are cold with regular frost.", "The contrast between the seasons is strong."],
        ["deciduous woods and prairie", "broad-leaved forest and grassland"],
        ["maize, soybeans and wheat", "cereals and fodder crops"],
    ),
    "Db": (
        ["humid continental climate", "continental climate with warm summers and snowy winters",
         "climate of cold, snowy winters"],
        ["Snow covers the ground in winter, and summers are warm.", "Frost and snow last for months.",
         "Four distinct seasons mark the year, with snow-covered winters."],
        ["mixed forest of broad-leaved and coniferous trees", "forests of spruce, pine and birch"],
        ["rye, potatoes and hay", "wheat, oats and dairy farming"],
    ),
    "Dc": (
        ["subarctic climate", "boreal climate", "cold climate with short summers"],
        ["Winters are long and very cold, with deep snow, and summers short.", "Snow lies for half the year or longer.",
         "The ground stays snow-covered for many months."],
        ["boreal forest of conifers", "taiga of spruce, pine and larch", "endless coniferous forest and bogs"],
        ["hay, forestry and reindeer or fur animals", "timber and hardy vegetables"],
    ),
    "Dd": (
        ["extremely cold subarctic climate", "subarctic climate with extraordinarily cold winters"],
        ["Winters are among the coldest of any inhabited region.", "The winter cold is extreme; summers are brief."],
        ["sparse larch forest over frozen ground", "open larch taiga"],
        ["hardy livestock and forestry", "reindeer and horses"],
    ),
    "ET": (
        ["tundra climate", "polar climate without a real summer", "cold climate above or beyond the tree line"],
        ["Even the warmest month stays below 10 °C.", "Snow can fall in any month, and summers are cool and brief.",
         "It is too cold for trees."],
        ["treeless tundra", "mosses, lichens and low grasses", "bare rock, snow patches and alpine meadow"],
        ["grazing of hardy animals", "little but grazing"],
    ),
    "EF": (
        ["ice cap climate", "climate of perpetual frost"],
        ["No month has a mean temperature above freezing.", "Snow and ice do not melt away in any month."],
        ["permanent ice and snow"],
        ["nothing"],
    ),
}  # fmt: skip
RICE = ["rice grown in flooded paddies", "rice, in paddy fields", "wet rice"]

# Inhabitants from which a place is called by these names.
SIZES = [
    (5_000_000, ["megacity", "vast metropolis", "huge city"]),
    (1_000_000, ["metropolis", "major city", "very large city"]),
    (300_000, ["large city", "big city"]),
    (100_000, ["city", "sizeable city"]),
    (30_000, ["large town", "medium-sized town", "small city"]),
    (8_000, ["town", "modest town"]),
    (2_000, ["small town", "little town"]),
    (0, ["village", "small settlement", "small village"]),
]
# How many sentences besides the first, by inhabitants.
LENGTHS = [(1_000_000, (6, 10)), (100_000, (4, 8)), (20_000, (2, 6)), (5_000, (1, 4)), (0, (0, 3))]


def climate_key(code: str, lat: float) -> str:
    """The entry of :data:`CLIMATE` for a Köppen-Geiger class at a latitude (degrees): those that read alike share one.

    Within the tropics the oceanic classes are those of highlands, which have no summer and winter.
    """
    if abs(lat) < 23.5 and code in ("Cfb", "Cfc"):
        return "Cwb" if code == "Cfb" else "Cwc"
    if code in CLIMATE:
        return code
    if code == "As":
        return "Aw"
    return code[:2] if code[:2] == "Cs" else code[0] + code[-1]


def is_rice_land(place: dict) -> bool:
    """Flat, low, warm and rainy land of monsoon Asia, where paddy rice is the usual crop."""
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
        place: a row of the facts table as a dict; ``name`` must be there, other facts may be ``None``.
        country: the row of the countries table it belongs to.
        seed: with the place's identifier it decides the wording.

    Returns:
        the text, and the sorted names of the facts that it mentions, as the columns of the store are called.
    """
    writer = _Writer(place, country, random.Random(f"{seed}:{place['place_id']}"))
    return writer.write()


def article(noun: str) -> str:
    """A noun phrase with its indefinite article."""
    return f"{'an' if noun[0].lower() in 'aeio' else 'a'} {noun}"


def capitalised(words: str) -> str:
    """The words with a capital first letter, the rest as it is."""
    return words[0].upper() + words[1:]


class _Writer:
    def __init__(self, place: dict, country: dict, chance: random.Random) -> None:
        self.p, self.c, self.chance = place, country, chance
        self.facts: set[str] = set()
        self.name = place["name"]
        self.near_words = ""
        self.size = self.pick(next(names for least, names in SIZES if place["population"] >= least))
        self.noun = self.size.split()[-1]
        self.country = f"the {country['name']}" if country["name"] in WITH_ARTICLE else country["name"]

    def pick(self, options: Any) -> Any:
        return options[self.chance.randrange(len(options))]

    def some(self, share: float) -> bool:
        return self.chance.random() < share

    def write(self) -> tuple[str, list[str]]:
        low, high = next(span for least, span in LENGTHS if self.p["population"] >= least)
        count = self.chance.randint(low, high)
        sentences = [self.lead()]
        topics = [self.land, self.people, self.climate, self.country_life, self.surroundings]
        self.chance.shuffle(topics)
        if self.some(0.5):  # most articles begin with where the place lies
            topics.sort(key=lambda topic: topic != self.land)
        pool = [(topic, sentence) for topic in topics for sentence in topic()]
        chosen = sorted(self.chance.sample(range(len(pool)), min(count, len(pool))))
        sentences += [self.say(pool[i][1]) for i in chosen]
        text = " ".join(sentences)
        if self.c["name"] in text:
            self.facts.add("country")
        if self.p["admin1_name"] and self.p["admin1_name"] in text:
            self.facts.add("admin1")
        return text, sorted(self.facts)

    def say(self, sentence: tuple) -> str:
        """The words of one of the wordings of a sentence; its facts are noted."""
        wordings, facts = sentence
        self.facts.update(facts)
        words = self.pick(wordings)
        return capitalised(words)

    def it(self) -> str:
        return self.pick(["it", self.name, f"the {self.noun}", "it", "the place"])

    # The first sentence

    def lead(self) -> str:
        p, name = self.p, self.name
        self.facts.add("size_class")
        if p["capital"]:
            self.facts.add("capital")
            return capitalised(self.pick([
                f"{name} is the capital of {self.country}.",
                f"{name}, {article(self.size)}, is the capital of {self.country}.",
                f"The capital of {self.country} is {name}, {article(self.size)}.",
                f"{self.country} has its capital here, at {name}.",
            ]))  # fmt: skip
        where, facts = self.pick(self.positions())
        home = self.home() if self.some(0.8) else ""
        of, size = f" in {home}" if home else "", article(self.size)
        if where and home and where == self.near_words:  # the city need not lie in the same country
            both = f"{of}, {where}"
        else:
            both = f" {where}{of}" if where else of
        options = [f"{name} is {size}{both}."]
        if both:
            options.append(f"The {self.noun} of {name} lies{both}.")
        if where:
            options.append(f"{capitalised(where)} lies {name}, {size}{of}.")
        if home:
            options.append(f"{name} ({home.removeprefix('the ')}) is {size}{f' {where}' if where else ''}.")
            options.append(f"{capitalised(self.country)} is where {name}, {size}, is found.")
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
        if self.p["admin1_name"] and self.some(0.7):
            return self.pick([f"{self.p['admin1_name']}, {self.country}", f"{self.p['admin1_name']} in {self.country}"])
        return self.country

    def positions(self) -> list[tuple[str, list[str]]]:
        """Short phrases on where the place lies, each with its facts; an empty one among them."""
        p = self.p
        coast, height, relief = p["coast_km"], p["elevation_m"], p["relief_m"]
        phrases: list[tuple[str, list[str]]] = [("", [])]
        if coast < 5:
            phrases += [(words, ["coast_km"]) for words in ("on the coast", "by the sea", "on the seashore")]
        elif coast < 30:
            phrases += [(words, ["coast_km"]) for words in ("near the coast", "a short way inland")]
        elif coast > 500:
            phrases += [(words, ["coast_km"]) for words in ("deep inland", "far from any sea")]
        if height is not None:
            both = ["elevation_m", "relief_m"]
            if height > 2200 and relief > 250:
                phrases += [(words, both) for words in ("high in the mountains", "among high mountains")]
            elif height > 1800:
                phrases += [(words, both) for words in ("on a high plateau", "in the highlands")]
            elif relief > 700:
                phrases += [(words, ["relief_m"]) for words in ("among steep mountains", "in mountainous country")]
            elif relief > 220:
                phrases += [(words, ["relief_m"]) for words in ("in hilly country", "between hills")]
            elif relief < 60 and 0 <= height < 200:
                phrases += [(words, both) for words in ("in a low plain", "on flat lowland")]
        key = p["climate"]
        if key[:2] == "BW":
            phrases.append(("in the desert", ["climate"]))
        elif key[0] == "A":
            phrases.append(("in the tropics", ["climate"]))
        elif key in ("ET", "Dfc", "Dwc", "Dsc", "Dfd", "Dwd", "Dsd") and (height or 0) < 1000 and p["lat"] > 55:
            phrases.append(("in the far north", ["climate"]))
        if self.has_near(300):
            self.near_words = self.near()
            phrases.append((self.near_words, ["near_city"]))
        return phrases

    def has_near(self, km: float) -> bool:
        return bool(self.p["near_city"]) and self.p["near_city"] != self.name and self.p["near_km"] <= km

    def near(self) -> str:
        p = self.p
        if p["near_km"] < 15 and self.some(0.5):
            return f"close to {p['near_city']}"
        km = p["near_km"] if p["near_km"] < 30 else 5 * round(p["near_km"] / 5)
        return f"{'about ' if self.some(0.5) else ''}{km:.0f} km {p['near_direction']} of {p['near_city']}"

    # The body: lists of sentences, each a list of wordings with the facts that all of them mention

    def land(self) -> list[tuple]:
        p, it = self.p, self.it()
        said: list[tuple] = []
        height, relief, coast = p["elevation_m"], p["relief_m"], p["coast_km"]
        if height is not None:
            said.append((self.height_wordings(height), ["elevation_m"]))
            if relief > 900:
                words = ["steep mountains rise around it", "the terrain is rugged, with high mountains all around"]
            elif relief > 300:
                words = ["the surroundings are mountainous", f"{it} is surrounded by hills and mountains"]
            elif relief > 120:
                words = ["the land around is hilly", "hills and valleys shape the surroundings"]
            elif relief < 60:
                words = ["the terrain is flat", "the land around is a level plain", f"{it} stands on flat ground"]
            else:
                words = ["the terrain is gently rolling", "low hills lie around"]
            said.append(([f"{w}." for w in words], ["relief_m"]))
        if coast < 5:
            words = [f"{it} lies directly on the sea", "the sea is at its doorstep", f"{it} is a place on the coast"]
        elif coast < 40:
            words = [f"the sea is about {coast:.0f} km away", f"{it} is within easy reach of the coast"]
        elif coast < 300:
            words = [f"the nearest coast is roughly {10 * round(coast / 10)} km away",
                     f"it is some {10 * round(coast / 10)} km to the sea"]  # fmt: skip
        else:
            words = [f"{it} lies far inland", "the sea is hundreds of kilometres away",
                     f"the nearest sea is about {100 * round(coast / 100):,} km away"]  # fmt: skip
        said.append(([f"{w}." for w in words], ["coast_km"]))
        return said

    def height_wordings(self, height: float) -> list[str]:
        it, metres = self.it(), f"{50 * round(height / 50):,}"
        if height < -25:
            return [f"{it} lies below sea level.", "the ground is lower than the level of the oceans."]
        if height < 40:
            return [f"{it} lies close to sea level.", "the ground is hardly higher than the sea."]
        if height < 200:
            return [f"{it} is low-lying, at less than 200 metres.", "the elevation is below 200 m."]
        feet = f"{100 * round(height / 0.3048 / 100):,}"
        wordings = [
            f"{it} stands about {metres} metres above sea level.",
            f"the elevation is around {metres} m.",
            f"{it} lies at an altitude of some {metres} m ({feet} ft).",
            f"at about {metres} metres, {it} lies {'high above' if height > 1500 else 'well above'} the sea.",
        ]
        if height > 2500:
            wordings.append(f"{it} lies so high, at some {metres} m, that the air is noticeably thin.")
        return wordings

    def people(self) -> list[tuple]:
        said: list[tuple] = []
        if "population" not in self.facts:
            words = [
                f"{self.it()} has {self.inhabitants()}.",
                f"{self.number()} {self.pick(['people', 'residents'])} live there.",
                f"the population is {self.number()}.",
                f"there are {self.inhabitants()}.",
            ]
            said.append((words, ["population"]))
        if self.p["population"] >= 1_000_000:
            said.append(
                (["the built-up area is vast.", "its streets and buildings cover a wide area."], ["size_class"])
            )
        elif self.p["population"] < 2_000:
            said.append((["few people live there.", "only a small number of people live there."], ["size_class"]))
        return said

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

    def climate(self) -> list[tuple]:
        kinds, seasons, nature, crops = CLIMATE[climate_key(self.p["climate"], self.p["lat"])]
        it, kind, wild = self.it(), self.pick(kinds), self.pick(nature)
        said = [
            ([f"{it} has {article(kind)}.", f"the place has {article(kind)}, and lies in the {self.zone()} zone.",
              f"{article(kind)} prevails.", f"its weather follows {article(kind)}."], ["climate"]),
            ([self.pick(seasons)], ["climate"]),
            ([f"the natural vegetation of such a climate is {wild}.", f"the wider region is a land of {wild}.",
              f"this is the zone of {wild}."] if self.p["climate"] != "EF" else ["ice and snow surround it."],
             ["climate"]),
        ]  # fmt: skip
        if is_rice_land(self.p):
            crops = RICE
        if self.p["climate"] not in ("EF", "ET"):
            crop = self.pick(crops)
            words = [
                f"farming in such country typically means {crop}.",
                f"land use in such a climate centres on {crop}.",
            ]
            if crops is RICE:
                words = [f"the usual crop of these plains is {crop}.", "rice fields are typical of such lowlands.",
                         f"farming in these plains typically means {crop}."]  # fmt: skip
            said.append((words, ["climate", "relief_m"] if crops is RICE else ["climate"]))
        if (self.p["elevation_m"] or 0) > 3000 or (self.p["climate"] == "ET" and (self.p["relief_m"] or 0) > 300):
            said.append((["snow-covered mountains are part of such a landscape.", "snow is common on the high peaks."],
                         ["elevation_m", "climate"]))  # fmt: skip
        return said

    def zone(self) -> str:
        code = self.p["climate"]
        if code[0] == "A":
            return "tropical"
        if code[0] == "B":
            return "desert" if code[1] == "W" else "steppe"
        return {"C": "temperate", "D": "cold continental", "E": "polar"}[code[0]]

    def country_life(self) -> list[tuple]:
        c, home = self.c, self.country
        said: list[tuple] = []
        languages = c["languages"]
        if languages:
            words = [
                f"{languages[0]} is the main language of {home}.",
                f"the main language of the country is {languages[0]}.",
            ]
            if len(languages) > 1:
                listed = _listed(languages)
                words += [f"languages spoken in {home} include {listed}.", f"in {home} people speak {listed}."]
            said.append((words, ["language"]))
        if c["currency"]:
            money = c["currency"]
            said.append((
                [f"the currency of {home} is the {money}.", f"as everywhere in {home}, prices are in the {money}.",
                 f"people pay with the {money}, the currency of {home}."],
                ["currency"],
            ))  # fmt: skip
        if c["neighbours"]:
            few = c["neighbours"] if len(c["neighbours"]) < 4 else sorted(self.chance.sample(c["neighbours"], 3))
            listed = _listed([f"the {n}" if n in WITH_ARTICLE else n for n in few])
            words = [
                f"{home} borders {listed}.",
                f"among the neighbours of {home} {'are' if len(few) > 1 else 'is'} {listed}.",
            ]
        else:
            words = [f"{home} has no land border with another country.", f"{home} shares no land border."]
        said.append((words, []))
        if c["capital"] and not self.p["capital"]:
            words = [f"the capital of {home} is {c['capital']}.", f"{home} has its capital at {c['capital']}."]
            said.append((words, []))
        said.append(([f"it belongs to {self.p['continent']}.", f"it is part of {self.p['continent']}.",
                      f"on the globe it is counted as part of {self.p['continent']}."], ["continent"]))  # fmt: skip
        return said

    def surroundings(self) -> list[tuple]:
        p, it = self.p, self.it()
        said: list[tuple] = []
        if self.has_near(500):
            near = self.near()
            said.append((
                [f"{it} lies {near}.", f"a much larger city, {p['near_city']}, is {p['near_km']:.0f} km away.",
                 f"the nearest far larger city is {p['near_city']}."],
                ["near_city"],
            ))  # fmt: skip
        if p["admin1_town"] == self.name:
            said.append((["it is the largest place of its first-level administrative division.",
                          "no place in the same administrative region has more people."], ["admin1"]))  # fmt: skip
        elif p["admin1_town"]:
            said.append(([f"the largest place in its administrative region is {p['admin1_town']}.",
                          f"{it} shares its administrative region with {p['admin1_town']}."], ["admin1"]))  # fmt: skip
        if p["timezone"]:
            zone = p["timezone"]
            said.append(([f"its time zone is {zone}.", f"clocks keep the time of the zone {zone}."], ["timezone"]))
        return said


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
