"""Answer a question in words: the places that fit it best, and whether any of them fits.

A cosine between a text and a position means little by itself: some places are similar to every text. So a place's score
counts the standard deviations by which it is more similar to the text than to 1,000 sentences that are about no place.
Nonsense has a best place, too, so a question has an answer if its best place scores higher than that of 95 % of them.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from textwrap import wrap

import numpy as np
import yaml

from geonb._util import as_text
from geonb.geo import blocks, great_circle_km
from geonb.sample import load_facts

CLEAR = 0.95  # share of the unrelated sentences that a clear question surpasses
TOWN_KM = 100.0  # cells whose largest towns may answer; an encoder resolves no finer, and few have heard of hamlets
ABOUT = 0.5  # difference of two scores that is none
APART_KM = 500.0  # between the answers of the Earth, so that they are not five neighbours of each other
CHUNK = 4096  # places compared with the sentences at a time
LEAST_SD = 1e-6  # rounding, where all similarities are equal
WIDTH = 76  # characters in a line of what is printed; more scroll on a page of the book


def unrelated_sentences(count: int = 1000, seed: int = 0) -> list[str]:
    """Compose different sentences that are about no place, by the grammar in ``unrelated.yaml``."""
    path = files("geonb.data") / "assets" / "unrelated.yaml"
    grammar, rng = yaml.safe_load(path.read_text(encoding="utf-8")), random.Random(seed)

    def compose(name: str) -> str:
        if name == "letters":
            return "".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 9)))
        if name == "number":
            return str(rng.randint(2, 999))
        return re.sub(r"{(\w+)}", lambda match: compose(match[1]), rng.choice(grammar[name]))

    sentences: dict[str, None] = {}
    while len(sentences) < count:
        sentences[compose("sentence")] = None
    return list(sentences)


def calibrate(z: np.ndarray, unrelated: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measure what unrelated sentences, unit vectors (m, d), score at places, unit vectors (n, d).

    Returns mean (n,) and standard deviation (n,) of the similarities of each place, and the score of the best place of
    each sentence (m,).
    """
    mean, sd, best = np.empty(len(z)), np.empty(len(z)), np.full(len(unrelated), -np.inf)
    for start in range(0, len(z), CHUNK):
        part = slice(start, start + CHUNK)
        similarity = unrelated @ z[part].T
        mean[part], sd[part] = similarity.mean(0), np.maximum(similarity.std(0), LEAST_SD)
        best = np.maximum(best, ((similarity - mean[part]) / sd[part]).max(1))
    return mean, sd, best


class Gallery:
    """Places that may answer a question, the best known first, calibrated.

    Args:
        lonlat: positions (n, 2), degrees.
        titles, countries: names (n,), which may be missing.
        z, unrelated: unit vectors of the places (n, d) and of unrelated sentences (m, d).
        apart_km: least distance between two answers; a larger one spreads them over more regions. The best place is
            represented by the best known one within this distance that scores at most half less. 0 lists all by score.
    """

    def __init__(
        self, lonlat: np.ndarray, titles: Sequence | np.ndarray, countries: Sequence | np.ndarray, z: np.ndarray,
        unrelated: np.ndarray, apart_km: float = 0.0,
    ) -> None:  # fmt: skip
        self.lonlat, self.titles, self.countries, self.z, self.apart_km = lonlat, titles, countries, z, apart_km
        self.mean, self.sd, self.best = calibrate(z, unrelated)

    def answer(self, text: str, words: np.ndarray, top: int) -> Answer:
        """Answer a question, with the unit vector ``words`` (d,), by at most ``top`` places."""
        score, threshold = (self.z @ words - self.mean) / self.sd, float(np.quantile(self.best, CLEAR))
        places = [
            {"score": float(score[i]), "lon": float(self.lonlat[i, 0]), "lat": float(self.lonlat[i, 1]),
             "title": as_text(self.titles[i]) or "(no name)", "country": as_text(self.countries[i])}
            for i in self._chosen(score, threshold, top)
        ]  # fmt: skip
        return Answer(text, places, float(score.max()), threshold)

    def _chosen(self, score: np.ndarray, threshold: float, top: int) -> list[int]:
        rows, free = list[int](), score.copy()
        while len(rows) < top and free.max() >= threshold:
            best = row = int(free.argmax())
            if self.apart_km:
                row = int(np.argmax(self._around(best) & (free >= max(free[best] - ABOUT, threshold))))
                free[self._around(row)] = -np.inf
            free[row] = -np.inf
            rows.append(row)
        return sorted(rows, key=lambda row: -score[row])

    def _around(self, row: int) -> np.ndarray:
        return great_circle_km(self.lonlat, self.lonlat[row]) < self.apart_km


def named_places() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return positions (n, 2), names (n,) and countries (n,) of the largest town of each cell of 100 km, by size."""
    facts, _ = load_facts()
    lonlat, people = np.stack([facts["lon"], facts["lat"]], 1), np.nan_to_num(facts["population"])
    towns = np.array([row for row in np.argsort(-people, kind="stable") if facts["name"][row] is not None])
    _, largest = np.unique(blocks(lonlat[towns], TOWN_KM), return_index=True)
    towns = towns[np.sort(largest)]
    return lonlat[towns], facts["name"][towns], facts["country"][towns]


@dataclass(frozen=True)
class Answer:
    """The places that fit a question, best first; prints as a table.

    Attributes:
        text: the question.
        places: dicts with "score", "lon", "lat" (degrees), "title" and "country"; none if no place is clear.
        best: the score of the best place.
        threshold: the best place of 95 % of the unrelated sentences scores less, and so do places that are left out.
    """

    text: str
    places: list[dict]
    best: float
    threshold: float

    def __str__(self) -> str:
        if not self.places:
            best = f"The best place scores {self.best:.1f}."
            return "\n".join(["no clear place", *wrap(f"{best} {self.explanation}", WIDTH)])
        lines = [f"{'score':>7}  {'lon, °':>8} {'lat, °':>7}  place"]
        for place in self.places:
            name = ", ".join(filter(None, (place["title"], place["country"])))
            lines.append(f"{place['score']:7.1f}  {place['lon']:8.2f} {place['lat']:7.2f}  {name}")
        return "\n".join([*lines, *wrap(self.explanation, WIDTH)])

    __repr__ = __str__

    @property
    def explanation(self) -> str:
        """Explain the scores in a sentence."""
        most = f"the best place of {round(100 * CLEAR)} % of these stays below {self.threshold:.1f}"
        return f"Scores count standard deviations above unrelated sentences; {most}."
