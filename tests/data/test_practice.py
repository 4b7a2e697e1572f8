"""Practice inputs over HTTP: the services answer as the true ones do, and the planted faults are there to be noticed."""

import numpy as np
import pytest
from world import make_world

from geonb.data import practice
from geonb.data.sources.stac import from_stac
from geonb.data.sources.wikipedia_api import from_api
from geonb.sample import make_atlas

ATLANTIC = (-30.0, 0.0)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world") / "store", n=60)


def articles_in(world, out, bbox, **options):
    with practice.wikipedia_service(world) as endpoint:
        return from_api(
            out, bbox=bbox, contact="a@example.org", endpoint=endpoint, simulated=True, progress=False, **options
        )


def test_the_service_gives_the_articles_of_a_box_with_their_texts(world, tmp_path):
    west, south, east, north = box = tuple(v + 0.04 for v in practice.crowded_box(world, 0.05))  # one lies near a corner
    lon, lat = world.lonlat.T
    inside = world.has("text") & (west <= lon) & (lon <= east) & (south <= lat) & (lat <= north)
    store = articles_in(world, tmp_path / "s", box, min_chars=1)
    assert inside.any()
    assert sorted(store.texts(np.arange(len(store)))) == sorted(world.texts(inside))
    assert store.simulated("text")


@pytest.mark.parametrize(
    "title, box, reason",
    [
        ("Battle of Reeds", (12.4, 41.8, 12.6, 42.0), "event"),
        ("Ada Example", (2.3, 48.8, 2.4, 48.9), "person"),
        ("Stubton", (8.05, 50.15, 8.15, 50.25), "characters"),
        (practice.NASTY, (8.95, 50.95, 9.05, 51.05), None),
    ],
)
def test_of_the_planted_articles_the_place_alone_is_kept(world, tmp_path, title, box, reason):
    options = {"places_only": True, "min_chars": 40}
    if reason is None:
        assert articles_in(world, tmp_path / "s", box, **options).column("title").tolist() == [title]
        return
    with pytest.raises(ValueError, match=reason):
        articles_in(world, tmp_path / "s", box, **options)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return make_atlas(tmp_path_factory.mktemp("atlas") / "store", places=60)


def test_scenes_show_the_same_land_whatever_offset_they_carry_and_claim(sample, tmp_path):
    """The offset of 1000 is taken off, also from the scene of which the catalogue says that it was."""
    with practice.sentinel2_catalogue(sample, places=2) as (catalogue, where):
        assert len(where) == 2
        chips = {}
        for day, after in (("2021-07-10", "2021-07-11"), ("2022-07-20", "2022-07-21")):
            chips[day] = from_stac(
                tmp_path / day, [*where, ATLANTIC], catalogue=catalogue, period=(day, after), size=32, progress=False
            )
    before, lie = chips.values()
    assert len(before) == 1 and len(lie) == 2  # the sea has no scene, and over one place the first was clouded
    assert before.simulated("image") and "simulated" in (before.path / "datacard.md").read_text()
    assert before.column("offset_removed").tolist() == [0]
    assert lie.column("offset_removed").tolist() == [1000, 1000]
    assert set(lie.column("offset_rule")) == {"pixels against boa_offset_applied"}
    same = int(np.abs(lie.lonlat - before.lonlat).sum(1).argmin())
    np.testing.assert_allclose(lie.lonlat[same], before.lonlat[0])
    ratio = lie.images([same]).mean((2, 3)) / before.images([0]).mean((2, 3))
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=0.02)  # light alone differs, as much in all bands
    assert 0.9 < ratio.mean() < 1.11


def test_clouds_are_bright_where_the_mask_says_and_gone_in_the_median(sample, tmp_path):
    """What the mask calls cloud is bright, and the median of six days has none of it left."""
    with practice.sentinel2_catalogue(sample, places=1) as (catalogue, where):
        options = {"catalogue": catalogue, "size": 64, "progress": False}
        cloudy = from_stac(tmp_path / "cloudy", where, period=("2022-08-24", "2022-08-25"), max_cloud=0.99, **options)
        medians = from_stac(
            tmp_path / "medians", where, period=("2021-06-01", "2022-10-01"), max_cloud=0.3, method="median", **options
        )
    assert cloudy.column("cloud_share")[0] > 0.05
    bright = [(store.images([0])[0, :4] > 6000).any(0).mean() for store in (cloudy, medians)]
    assert bright[0] == pytest.approx(cloudy.column("cloud_share")[0], abs=0.05) and bright[1] < 0.02
