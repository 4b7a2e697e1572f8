"""What is not a place: on real articles about places, and on first sentences in the form of real ones."""

import csv
import gzip
import os
import re
from pathlib import Path

import pytest

from geonb.data.texts import why_no_place

NO_PLACES = [
    ("Apollo 11 (July 16–24, 1969) was the American spaceflight that first landed humans on the Moon.", "an event"),
    ("Alfred Nobel (21 October 1833 – 10 December 1896) was a Swedish chemist, inventor and businessman.", "a person"),
    ("The National Park Service (NPS) is an agency of the government, within the Department.", "a thing"),
    ("Battle of Hastings: fought on 14 October 1066 between two armies.", "an event"),
    ("Great Fire was a major fire.", ""),  # not known: it stays
    ("List of bridges in Rome", "a list"),
]
PLACES = [
    "Battlefield Park is a park at the site of a battle of 1815, which the army won.",
    "1801 California Street is a skyscraper in Denver.",
    "Saint Helena is a British island in the South Atlantic Ocean, where Napoleon died in exile.",
    "The Museum of War is a museum about a war. John Doe (born 1950) is a writer who runs it.",
    "",
    "Stub ( is a",
    "Stub (Bar) was the \u00a0\nMore",
    "St. Gallen lies in Switzerland. The Swiss Open is a tournament held there.",
    "The U.S. Route 5 crosses Barton. The bridge was an attraction. It was a ship that hit it.",
]


@pytest.mark.parametrize(("text", "kind"), NO_PLACES + [(text, "") for text in PLACES])
def test_what_is_not_a_place_is_recognised_and_places_are_left_alone(text, kind):
    assert why_no_place(re.split(r":| \(| is | was ", text)[0], text) == kind


def test_the_type_counts_in_every_language_and_words_in_english_alone():
    assert why_no_place("X", "Y", "event", "de") == "an event" and why_no_place("X", "Y", "city", "de") == ""
    text, kind = NO_PLACES[1]
    assert (why_no_place("X", text, None, "fr"), why_no_place("X", text, None, "simple")) == ("", kind)


def test_no_text_takes_long():
    text = "X is " + "a the is a " * 60
    assert why_no_place("X", text * 1000) == "" and why_no_place("(" * 500, "(" * 600 + ")" * 600) == ""


def test_real_articles_about_places_are_kept():
    folder = Path(os.environ.get("GEONB_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))
    file = folder / "places_text" / "wikipedia_places.csv.gz"
    if not file.is_file():
        pytest.skip("the real articles are not on this machine; set GEONB_REAL_DATA to their folder")
    with gzip.open(file, "rt", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    wrong = [(row["name"], kind) for row in rows if (kind := why_no_place(row["name"], row["text"]))]
    assert len(rows) == 1573 and wrong == []
