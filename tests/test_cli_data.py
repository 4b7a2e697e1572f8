"""The verbs of ``geonb data``: one command a source, from inputs that lie on this machine."""

import pytest
from world import make_world

from geonb import practice
from geonb.cli import main
from geonb.data.store import PlaceStore, check_store


def run(*args):
    return main([str(a) for a in args])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world") / "store", n=60)


def test_wikipedia_from_a_table(world, tmp_path, capsys):
    table = practice.wikipedia_table(world, tmp_path / "articles.parquet")
    options = ("--min-chars", 20, "--places-only", "--limit", 50, "--snapshot", "20260901", "--lang", "en")
    assert run("data", "wikipedia", "table", table, "--out", tmp_path / "a", *options) == 0
    assert "places, " in capsys.readouterr().out
    assert practice.HOSTILE_TITLE in PlaceStore.open(tmp_path / "a").column("title")
    check_store(tmp_path / "a")
    box = (-180, 0, 180, 90)
    assert run("data", "wikipedia", "table", table, "--out", tmp_path / "n", "--bbox", *box, "--min-chars", 1) == 0
    assert (PlaceStore.open(tmp_path / "n").lonlat[:, 1] >= 0).all()


def test_wikipedia_is_not_asked_without_a_contact(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("GEONB_CONTACT", raising=False)
    assert run("data", "wikipedia", "api", "--bbox", 7.4, 46.9, 7.5, 47, "--out", tmp_path / "s") == 2
    assert "GEONB_CONTACT" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "where, said",
    [
        (["--land", 50], "50 requests"),
        (["--points", "POINTS"], "2 requests"),
        (["--like", "STORE", 30], "30 requests"),
        (["--around", "STORE", 3, 5], f"{3 * 60} requests"),
        (["--store", "STORE"], "60 requests"),
    ],
)
def test_places_for_chips_are_chosen_and_the_cost_is_told_before_anything_is_asked(
    world, tmp_path, capsys, where, said
):
    (tmp_path / "points.csv").write_text("name,lon,lat\na,10,50\nb,20,40\n")
    named = {"POINTS": tmp_path / "points.csv", "STORE": world.path}
    where = [named.get(word, word) for word in where]
    period = ("--period", "2024-05-01", "2024-09-01")
    assert run("data", "sentinel2", "ee", *where, *period, "--out", tmp_path / "s", "--estimate") == 0
    assert said in capsys.readouterr().out
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "where, said",
    [
        (["--points", "nowhere.csv"], "no such file"),
        (["--points", "POINTS"], "out of range; the columns look swapped"),
        (["--store", "nowhere"], "no such place store"),
        (["--around", "STORE", "three", 5], "three"),
    ],
)
def test_places_that_are_none_are_told(world, tmp_path, capsys, where, said):
    (tmp_path / "points.csv").write_text("lon,lat\n10,20\n48.1,151.2\n")
    named = {"POINTS": tmp_path / "points.csv", "STORE": world.path}
    where = [named.get(word, word) for word in where]
    period = ("--period", "2024-05-01", "2024-09-01")
    assert run("data", "sentinel2", "stac", *where, *period, "--out", tmp_path / "s") == 2
    assert said in capsys.readouterr().err


def test_label_tables_are_listed_with_their_licences(capsys):
    assert run("data", "labels", "--list") == 0
    out = capsys.readouterr().out
    assert "air_temperature" in out and "licence: CC BY 4.0" in out


def test_an_unknown_label_table_is_refused_before_anything_is_downloaded(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("GEONB_LABELS", str(tmp_path))
    assert run("data", "labels", "biomes") == 2
    assert "unknown table 'biomes'" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_quality_of_a_store_is_told(world, capsys):
    assert run("data", "quality", world.path) == 0
    assert capsys.readouterr().out.startswith("60 places")


def test_a_sample_has_as_many_places_as_asked_for_and_the_same_for_the_same_seed(tmp_path, capsys):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert run("data", "sample", "--out", tmp_path / name, "--places", 20, "--seed", seed) == 0
        assert "20 places; facts are real, images simulated" in capsys.readouterr().out
    a, b, c = (PlaceStore.open(tmp_path / name).data_hash for name in "abc")
    assert a == b != c


def test_earth_engine_without_credentials_says_how_to_get_them(world, tmp_path, capsys, monkeypatch):
    ee = pytest.importorskip("ee")

    def refuse(*arguments, **options):
        raise ee.EEException("Please authorize access to your Earth Engine account")

    monkeypatch.setattr(ee, "Initialize", refuse)
    period = ("--period", "2024-05-01", "2024-09-01")
    assert run("data", "sentinel2", "ee", "--store", world.path, *period, "--out", tmp_path / "s") == 2
    assert "earthengine authenticate" in capsys.readouterr().err and not (tmp_path / "s").exists()


def test_alphaearth_of_a_year_that_is_not_published_is_refused(world, tmp_path, capsys):
    assert run("data", "alphaearth", world.path, "--year", 2001, "--out", tmp_path / "a.parquet") == 2
    assert "2001" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("answer, status", [("there", 0), ("the server said 404", 2)])
def test_of_label_tables_each_is_told_and_one_that_is_absent_is_a_fault(tmp_path, capsys, monkeypatch, answer, status):
    answers = {"air_temperature": "downloaded", "biome": answer}
    monkeypatch.setattr("geonb.data.sources.labels.download_labels", lambda names: answers)
    monkeypatch.setenv("GEONB_LABELS", str(tmp_path))
    assert run("data", "labels", "air_temperature", "biome") == status
    said = capsys.readouterr()
    assert said.out.splitlines()[:2] == ["air_temperature: downloaded", f"biome: {answer}"]
    if status:
        assert "1 of 2 tables are not there (biome)" in said.err
    else:
        assert said.out.splitlines()[2] == f"all in {tmp_path}"


def test_a_published_set_that_is_not_there_is_told(tmp_path, capsys):
    assert run("data", "published", "s2-100k", tmp_path, "--out", tmp_path / "s") == 2
    assert "index.csv" in capsys.readouterr().err
