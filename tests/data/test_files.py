"""Real files into a place store: dirty tables, GeoTIFFs, provenance. Most run on files made here."""

from __future__ import annotations

import csv
import gzip
import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
from rasterio.transform import from_origin
from real_files import real_data

from geonb.data.sentinel2 import BANDS, COMMON_NAMES
from geonb.data.sources.files import from_files, read_texts, read_tiles, suspicious_positions
from geonb.data.store import check_store

HEADER = ["title", "longitude", "latitude", "country", "continent", "population", "text"]
GOOD = [
    ["Cairo", 31.233333, 30.05, "Egypt", "Africa", 9_000_000, "Cairo lies on the Nile."],
    ["Aswan", 32.9, 24.088889, "Egypt", "Africa", "", "Aswan has a dam, \"high\", on the Nile.\nIt is hot."],
    ["Lake_George_(Uganda)", 30.2, 0.0, "Uganda", "Africa", "", "A lake on the equator."],
    ["Kampala", 32.581111, 0.313611, "Uganda", "Africa", 1_600_000, "The capital of <em>Uganda</em>."],
]


def write_csv(path, rows, header=HEADER):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def write_chip(path, pixels=None, descriptions=(), size=10.0, height=None, driver="GTiff", **profile):
    """A chip at the origin of UTM zone 31 north: (500000, 0) is (3 E, 0 N) exactly."""
    if pixels is None:
        pixels = np.random.default_rng(0).integers(200, 4000, (12, 130, 128)).astype(np.uint16)
    grid = from_origin(500_000 - 64 * size, 64 * size, size, height or size)
    profile = {"driver": driver, "dtype": pixels.dtype, "crs": "EPSG:32631", "transform": grid} | profile
    profile |= dict(zip(("count", "height", "width"), pixels.shape, strict=True))
    with rasterio.open(path, "w", **profile) as target:
        target.write(pixels)
        for band, name in enumerate(descriptions, 1):
            target.set_band_description(band, name)
    return path, pixels


def test_a_column_with_the_name_of_another_is_kept_under_a_name_of_its_own(tmp_path):
    header = ["longitude", "latitude", "description", "row", "text", "lon", "place_id"]
    path = write_csv(tmp_path / "a.csv", [[1.5, 2.5, "A description.", "R1", "A text.", 99, "007"]], header)
    places, _ = read_texts(path)
    assert {name: values[0] for name, values in places.items()} == {
        "lon": 1.5, "lat": 2.5, "title": "", "text": "A text.", "row": 0, "position_flag": None,
        "file_row": "R1", "description": "A description.", "file_lon": "99", "file_place_id": "007",
    }  # fmt: skip


def test_what_is_dropped_is_reported_with_its_row(tmp_path):
    dirt = [
        ["Sydney", 0, 0, "Australia", "Oceania", "", "Sydney is large."],
        ["Nothing", 10, 10, "Chad", "Africa", "", "   "],
        ["Cairo again", 31.2, 30.0, "Egypt", "Africa", "", "cairo  lies on the NILE."],
        ["Luxor", 0.0, 25.7, "Egypt", "Africa", "", "Luxor lost its longitude."],
    ]
    places, skips = read_texts(write_csv(tmp_path / "dirty.csv", GOOD + dirt))
    assert skips.counts == {
        "empty text": 1, "same text as a row before": 1, "at 0, 0": 1, "on an axis, far from its country": 1,
    }  # fmt: skip
    assert places["row"].tolist() == [0, 1, 2, 3]  # Lake George on the equator is right and stays
    assert "dirty.csv: row 4: 'Sydney' at (0, 0), Australia" in str(skips)

    places, _ = read_texts(tmp_path / "dirty.csv", keep_suspicious=True)
    assert places["row"].tolist() == [0, 1, 2, 3, 4, 7]
    assert places["position_flag"].tolist() == [None] * 4 + ["at 0, 0", "on an axis, far from its country"]


def test_invalid_positions_raise_with_file_and_row_or_are_dropped(tmp_path):
    path = write_csv(tmp_path / "bad.csv", [*GOOD, *(["x", lon, 10, "", "", "", "text"] for lon in ("12°E", "nan", 190))])
    with pytest.raises(ValueError, match=r"bad\.csv: row 4: longitude is '12°E', not a number"):
        read_texts(path)
    places, skips = read_texts(path, drop_invalid=True)
    assert len(places["lon"]) == 4 and skips.counts == {"no valid position": 3}
    cities = [[52.5, 13.4], [48.1, 11.6], [53.6, 10.0], [51.0, 7.0], [51.3, 12.4], [49.5, 11.1]]
    rows = [*([f"City {lon}", lon, lat, "", "", "", f"At {lon}."] for lon, lat in cities), ["x", "", 1, "", "", "", "a"]]
    with pytest.warns(UserWarning, match="swapped.csv: .*on land with longitude and latitude swapped"):
        read_texts(write_csv(tmp_path / "swapped.csv", rows), drop_invalid=True)


def test_tables_without_texts_or_without_rows_to_use_raise_with_the_file(tmp_path):
    for content, message in (("lon,lat,words\n1,2,x\n", "no column text; the columns are lon, lat, words"),
                             ("title,lon,lat,text\nx,0,0,a\n", "no row is left")):  # fmt: skip
        (tmp_path / "bad.csv").write_text(content)
        with pytest.raises(ValueError, match=f"bad.csv: {message}"):
            read_texts(tmp_path / "bad.csv")


def test_codes_stay_text_and_numbers_become_numbers(tmp_path):
    header = ["longitude", "latitude", "text", "fips", "under", "long", "height", "half"]
    rows = [[1, 2, "a", "01001", "10_2", "12345678901234567890", "12.5", ""], [3, 4, "b", "06037", "3_1", "1", "-3", "2"]]
    store = from_files(tmp_path / "s", tables=[write_csv(tmp_path / "codes.csv", rows, header)])
    assert [store.column(name).tolist() for name in ("fips", "under", "long")] == [
        ["01001", "06037"], ["10_2", "3_1"], ["12345678901234567890", "1"],
    ]  # fmt: skip
    assert store.column("height").tolist() == [12.5, -3] and np.isnan(store.column("half")[0])


def test_two_files_whose_places_would_share_their_names_are_named(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_csv(tmp_path / folder / "places.csv", GOOD)
    with pytest.raises(ValueError, match="a/places.csv and .*b/places.csv are both called 'places'.*rename one"):
        from_files(tmp_path / "s", tables=[tmp_path / "a" / "places.csv", tmp_path / "b" / "places.csv"])
    rows = [[*row[:-1], row[-1] + " Another."] for row in GOOD]
    store = from_files(tmp_path / "s", tables=[write_csv(tmp_path / "en.towns.csv", GOOD), write_csv(tmp_path / "en.more.csv", rows)])
    assert {"en.towns-0", "en.more-0"} <= set(store.place_id)


def test_a_changed_sign_is_told_from_a_far_position_by_enough_witnesses():
    malta = np.array([14.4, 35.9]) + np.random.default_rng(0).normal(0, 0.05, (6, 2))
    for point, reason in (([-14.5, 35.9], "mirrored"), ([55.5, -20.9], "far from its country")):
        points = np.vstack([malta, [point]])
        found = suspicious_positions(points, ["Malta"] * 7, [""] * 7)
        assert found.pop(reason).tolist() == [False] * 6 + [True]
        assert not any(mask.any() for mask in found.values())
        few = suspicious_positions(points[2:], ["Malta"] * 5, [""] * 5)
        assert not any(mask.any() for mask in few.values())


def test_rules_hold_across_the_antimeridian_and_for_countries_in_parts():
    fiji = [[179.9, -17], [-179.9, -17.1], [178.4, -18.1], [-179.5, -16.8], [177.4, -17.6], [179.0, -16.5]]
    france = [[2, 48], [4, 46], [5, 43], [-1, 44], [7, 48], [55.5, -21], [-53, 5]]
    for points in (fiji, france):
        found = suspicious_positions(np.array(points, float), ["here"] * len(points), [""] * len(points))
        assert not any(mask.any() for mask in found.values())


def test_on_an_axis_the_continent_decides_when_the_country_has_no_other_row():
    points = np.array([[0.0, 51.48], [2.35, 48.86], [13.4, 52.5], [0.0, -33.9], [151.0, -30.0]])
    continents = ["Europe", "Europe", "Europe", "Oceania", "Oceania"]
    countries = ["United Kingdom", "France", "Germany", "Fiji", "Australia"]
    for names, row in ((continents, [False, False, False, True, False]), ([""] * 5, [False] * 5)):
        assert suspicious_positions(points, countries, names)["on an axis, far from its country"].tolist() == row


def test_tiles_are_the_right_pixels_at_the_right_place(tmp_path):
    """A COG with names of bands, as some export it."""
    names = [f"B{int(name[1:]):02d}" if name[1:].isdigit() else name for name in BANDS]
    path, pixels = write_chip(tmp_path / "a.tif", descriptions=names, driver="COG")
    images, places, skips = read_tiles(path)
    assert images.shape == (4, 12, 64, 64) and images.dtype == np.uint16
    for image, row, col in zip(images, places["tile_row"], places["tile_col"], strict=True):
        np.testing.assert_array_equal(image, pixels[:, row * 64 : row * 64 + 64, col * 64 : col * 64 + 64])
    # 320 m from (3 E, 0 N) on each side; scale at the central meridian of UTM is 0.9996.
    east, north = 320 / 0.9996 / 111_319.49, 320 / 0.9996 / 110_574.28
    np.testing.assert_allclose(places["lon"], 3 + np.array([-1, 1, -1, 1]) * east, atol=1e-7)
    np.testing.assert_allclose(places["lat"], np.array([1, 1, -1, -1]) * north, atol=1e-7)
    assert (places["gsd_m"] == 10).all() and not skips.counts


def test_tiles_without_data_are_dropped_and_reported(tmp_path):
    pixels = np.random.default_rng(0).integers(200, 4000, (12, 128, 128)).astype(np.uint16)
    pixels[:, 5, 5] = 0  # no data: zero in every band
    pixels[3, 100, 100] = 0  # one dark band is data
    with pytest.warns(UserWarning, match="bands without names are taken to be B1, B2, .*, in this order"):
        images, places, skips = read_tiles(write_chip(tmp_path / "a.tif", pixels)[0])
    assert places["tile_row"].tolist() == [0, 1, 1] and skips.counts == {"tiles with pixels without data": 1}
    pixels[3, 100, 100] = 65_535
    images, places, _ = read_tiles(write_chip(tmp_path / "b.tif", pixels, nodata=65_535)[0])
    assert len(images) == 2 and places["tile_col"].tolist() == [1, 0]
    pixels[:, 100, :5], hidden = 65_535, np.full((128, 128), 255, np.uint8)
    hidden[100, 100] = 0
    path, _ = write_chip(tmp_path / "d.tif", pixels)
    with rasterio.open(path, "r+") as target:
        target.write_mask(hidden)
    assert read_tiles(path)[1]["tile_row"].tolist() == [0]  # none with a fill value in all bands, or masked
    with pytest.raises(ValueError, match="no tile is left"):
        from_files(tmp_path / "s", [], [write_chip(tmp_path / "c.tif", np.zeros((12, 64, 64), np.uint16))[0]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": np.ones((11, 64, 64), np.uint16)}, "11 bands without names, not the 12 of B1, B2"),
        ({"pixels": np.ones((12, 64, 64), np.float32)}, "float32; give .* as uint16"),
        ({"pixels": np.ones((12, 63, 64), np.uint16)}, "64 x 63 pixels, smaller than a tile of 64"),
        ({"crs": None}, "no coordinate reference system"),
        ({"crs": "EPSG:4326", "size": 0.0001}, "in degrees"),
        ({"height": 20.0}, "not square"),
        ({"transform": (10.0, 0.0, 5e5, 0.0, 10.0, 0.0)}, "north up; resample it with gdalwarp"),  # south to north
        ({"descriptions": [*BANDS[:11], "B10"]}, "B10 is among the bands"),
        ({"descriptions": [*BANDS[:11], "B2"]}, "B2 is there 2 times"),
        ({"descriptions": [str(i) for i in range(12, 0, -1)]}, "B1 is there 0 times .*called B1, .* or coastal, blue"),
        ({"pixels": np.full((12, 64, 64), 200, np.uint16)}, "image 0 has nothing above 255"),
    ],
)
def test_wrong_chips_raise_with_the_file_and_the_remedy(tmp_path, change, message):
    path, _ = write_chip(tmp_path / "wrong.tif", **change)
    with pytest.raises(ValueError, match=rf"wrong\.tif: .*{message}"):
        read_tiles(path)


@pytest.mark.parametrize("names", [BANDS, [f"S2_{b}_10m" for b in BANDS], [f"Band {b[1:]}" for b in BANDS],
                                   list(COMMON_NAMES), [f"s2_{name}" for name in COMMON_NAMES]])  # fmt: skip
def test_bands_are_found_by_name_in_any_order(tmp_path, names):
    order = np.random.default_rng(0).permutation(12)
    path, pixels = write_chip(tmp_path / "a.tif", descriptions=[names[i] for i in order])
    assert (read_tiles(path)[0][0] == pixels[np.argsort(order), :64, :64]).all()


@pytest.mark.parametrize(("crs", "size", "metres"), [("EPSG:2263", 10, 3.048), ("EPSG:3857", 10, 10), ("EPSG:32631", 20, 20)])
def test_pixels_are_measured_in_metres_in_any_unit(tmp_path, crs, size, metres):
    path, _ = write_chip(tmp_path / "a.tif", crs=crs, size=float(size))
    assert read_tiles(path)[1]["gsd_m"][0] == pytest.approx(metres, rel=0.01)
    if crs == "EPSG:3857":
        far, _ = write_chip(tmp_path / "b.tif", crs=crs, transform=from_origin(1.49e6, 6.9e6, 10, 10))  # Berlin
        assert read_tiles(far)[1]["gsd_m"][0] == pytest.approx(10 * np.cos(np.radians(52.6)), rel=0.01)


def test_another_format_under_the_name_of_a_geotiff_is_not_followed(tmp_path):
    elsewhere, _ = write_chip(tmp_path / "elsewhere.tif")
    bands = "".join(
        f'<VRTRasterBand dataType="UInt16" band="{i}"><SimpleSource><SourceFilename>{elsewhere}</SourceFilename>'
        f"<SourceBand>{i}</SourceBand></SimpleSource></VRTRasterBand>" for i in range(1, 13)
    )  # fmt: skip
    (tmp_path / "patch_0.tif").write_text(
        '<VRTDataset rasterXSize="128" rasterYSize="130"><SRS>EPSG:32631</SRS>'
        f"<GeoTransform>500000,10,0,0,0,-10</GeoTransform>{bands}</VRTDataset>"
    )
    with pytest.raises(ValueError, match="patch_0.tif: cannot be read as a GeoTIFF"):
        read_tiles(tmp_path / "patch_0.tif")


def test_absent_and_damaged_chips_raise_with_the_file(tmp_path):
    with pytest.raises(ValueError, match="absent.tif: cannot be read .*No such file"):
        read_tiles(tmp_path / "absent.tif")
    whole = write_chip(tmp_path / "whole.tif")[0].read_bytes()
    for content in (b"not an image", whole[: len(whole) // 2]):
        (tmp_path / "bad.tif").write_bytes(content)
        with pytest.raises(ValueError, match="bad.tif: cannot be read as a GeoTIFF"):
            read_tiles(tmp_path / "bad.tif")


def test_the_radiometric_offset_is_taken_off_where_a_file_carries_it(tmp_path):
    plain = np.random.default_rng(0).integers(60, 500, (12, 64, 64)).astype(np.uint16)
    for name, pixels, offset in (("old", plain, 0), ("new", plain + 1000, 1000)):
        file, _ = write_chip(tmp_path / f"{name}.tif", pixels)
        images, places, _ = read_tiles(file)
        assert places["radiometric_offset"].tolist() == [offset]
        np.testing.assert_array_equal(images[0], plain)
    raw, places, _ = read_tiles(file, harmonise=False)
    np.testing.assert_array_equal(raw[0], plain + 1000)
    assert places["radiometric_offset"].tolist() == [0]


SAND = np.array([1200, 1500, 2300, 3200, 3500, 3700, 3800, 3900, 4000, 4000, 5000, 4500])  # bright in every band


@pytest.mark.parametrize(
    ("tags", "offset"),
    [({"PROCESSING_BASELINE": "05.00", "DATE": "2021-07-01"}, 1000), ({"PROCESSING_BASELINE": "03.01", "DATE": "2024-07-01"}, 0),
     ({"scales": [1e-4] * 12, "offsets": [-0.1] * 12}, 1000), ({"scales": [1e-4] * 12, "offsets": [0.0] * 12}, 0)],
)  # fmt: skip
def test_where_bright_pixels_leave_a_doubt_the_file_tells_its_offset_and_the_date_does_not(tmp_path, tags, offset):
    pixels = (SAND[:, None, None] + np.random.default_rng(0).integers(0, 100, (12, 64, 64))).astype(np.uint16)
    path, _ = write_chip(tmp_path / "a.tif", pixels + np.uint16(1000))
    with rasterio.open(path, "r+") as file:
        file.update_tags(**{name: value for name, value in tags.items() if name.isupper()})
        file.scales, file.offsets = tags.get("scales", file.scales), tags.get("offsets", file.offsets)
    assert read_tiles(path)[1]["radiometric_offset"].tolist() == [offset]


def test_text_of_a_typed_table_stays_text_and_what_is_no_value_is_told(tmp_path):
    columns = {"lon": [1.0, 2.0], "lat": [1.0, 2.0], "text": ["a", "b"], "id": ["7", "8"], "cell": [2**60 + 1, None]}
    pq.write_table(pa.table(columns | {"box": [[1.0], [2.0]], "title": [float("nan")] * 2}), tmp_path / "a.parquet")
    with pytest.warns(UserWarning, match="a.parquet: columns without text or numbers are left out: box"):
        store = from_files(tmp_path / "s", [tmp_path / "a.parquet"])
    assert store.column("id").tolist() == ["7", "8"] and store.column("cell").tolist() == [str(2**60 + 1), None]
    assert store.column("title").tolist() == ["", ""]


@pytest.mark.parametrize("grid", [(10, 0, 1e300, 0, -10, 0), (10, 0, 5e9, 0, -10, 0), (10, 0, float("inf"), 0, -10, 0)])
def test_a_grid_that_lies_nowhere_is_refused_in_one_line(tmp_path, grid):
    with pytest.raises(ValueError, match=r"a\.tif: (cannot be read as a GeoTIFF|pixels are not square)"):
        read_tiles(write_chip(tmp_path / "a.tif", transform=grid)[0])


def test_tables_and_chips_make_one_store_that_says_where_it_is_from(tmp_path):
    a = write_csv(tmp_path / "wikipedia_places.csv.gz", GOOD)
    own = [["Berat", 20.13, 40.07, "White houses.", "A register", "CC0", "sq", "https://a.b/berat", "0123"]]
    header = ["name", "lon", "lat", "text", "source", "license", "lang", "url", "revision"]
    b = write_csv(tmp_path / "mine.csv", own, header)
    chip, pixels = write_chip(tmp_path / "chip.tif")
    out = tmp_path / "store"
    store = from_files(out, [a, b], [chip], harmonise=False, license="CC BY-SA 3.0")
    assert len(store) == 4 + 1 + 4 and "9" in check_store(out)
    assert (store.has("text") == [True] * 5 + [False] * 4).all() and (store.has("sentinel2") != store.has("text")).all()
    assert store.texts([1, 3, 4]) == [GOOD[1][-1], "The capital of Uganda.", "White houses."]
    assert store.column("title")[[2, 4]].tolist() == ["Lake George (Uganda)", "Berat"]
    np.testing.assert_array_equal(store.images("sentinel2", [5])[0], pixels[:, :64, :64])
    np.testing.assert_allclose(store.lonlat[:5, 0], [row[1] for row in GOOD] + [20.13])
    assert store.place_id[[0, 4, 8]].tolist() == ["wikipedia_places-0", "mine-0", "chip-1-1"]
    assert store.column("license")[[0, 4, 5]].tolist() == ["CC BY-SA 3.0", "CC0", "CC BY-SA 3.0"]
    assert store.column("source")[5] == "chip.tif"
    assert store.text_column("lang", [0, 4]) == ["en", "sq"]
    assert store.text_column("revision", [0, 4]) == [None, "0123"]
    assert store.text_column("source", [4]) == ["A register"]
    assert np.isnan(store.column("population")[4:]).all() and store.column("population")[0] == 9_000_000
    assert not any(store.simulated(modality) for modality in ("location", "text", "sentinel2"))
    assert store.manifest["made"]["inputs"]["chip.tif"] == hashlib.sha256(chip.read_bytes()).hexdigest()
    assert "A register. Licence: CC0." in (out / "datacard.md").read_text(encoding="utf-8")
    again = from_files(tmp_path / "again", [a, b], [chip], harmonise=False, license="CC BY-SA 3.0")
    assert again.data_hash == store.data_hash


def test_a_column_that_is_of_numbers_in_one_table_and_of_words_in_another_is_text(tmp_path):
    header = ["lon", "lat", "text", "size"]
    a = write_csv(tmp_path / "a.csv", [[1, 2, "one", "1.5"], [2, 3, "two", ""]], header)
    b = write_csv(tmp_path / "b.csv", [[3, 4, "three", "big"], [4, 5, "four", ""]], header)
    store = from_files(tmp_path / "store", [a, b])
    assert store.column("size").tolist() == ["1.5", None, "big", None]
    assert np.isnan(from_files(tmp_path / "numbers", [a]).column("size")[1])


def test_bad_input_leaves_no_store_behind(tmp_path):
    bad = write_csv(tmp_path / "bad.csv", [*GOOD, ["x", 190, 0, "", "", "", "text"]])
    with pytest.raises(ValueError, match="bad.csv: row 4"):
        from_files(tmp_path / "store", [bad])
    with pytest.raises(ValueError, match="no file given"):
        from_files(tmp_path / "store")
    good = write_csv(tmp_path / "good.csv", GOOD)
    with pytest.raises(ValueError, match="both called 'good'"):
        from_files(tmp_path / "store", [good, good])
    a, b = write_chip(tmp_path / "a.tif")[0], write_chip(tmp_path / "b.tif", size=20.0)[0]
    with pytest.raises(ValueError, match="b.tif: pixels of 20 m"):
        from_files(tmp_path / "store", [], [a, b])
    assert not (tmp_path / "store").exists()


def test_known_mistakes_in_the_real_articles_are_found():
    (path,) = [path for path in real_data()["csv"] if path.name.startswith("wikipedia_places")]
    places, skips = read_texts(path)
    assert skips.counts == {"at 0, 0": 37, "mirrored": 1} and len(places["row"]) == 1573 - 38
    assert "Sydney" not in places["title"] and "Auberge d'Angleterre" in skips.examples["mirrored"]
    flagged = places["title"][places["position_flag"] != None]  # noqa: E711 (elementwise)
    assert flagged.tolist() == ["Lake Eyre", "Lake Tōfutsu"]
    assert "Lake George (Uganda)" in places["title"]  # on the equator, and rightly so
