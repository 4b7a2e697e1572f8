"""The store of EuroSAT keeps every chip, position and class, and refuses what is no chip by its row."""

import hashlib
import io
from pathlib import Path

import eurosat
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import real_files
from articles import FILES, HERITAGE
from PIL import Image

from geonb.data.landscape import cut_chips
from geonb.data.store import PlaceStore, check_store, write_store
from geonb.geo import great_circle_km

NAMES, CLASSES = ["Forest_1", "River_2", "SeaLake_3"], ["Forest", "River", "SeaLake"]
LONLAT = np.array([[10.123456789, 50.0], [-3.5, 40.25], [-16.6, 28.1]])


def colours():
    """Three smooth chips (3, 64, 64, 3) in which every band, row and column is another."""
    y, x = np.mgrid[:64, :64]
    return np.stack([np.stack([x + 40 * i, 2 * y, 200 - x - y], 2) for i in range(3)]).astype(np.uint8)


def jpeg(pixels, kind="JPEG"):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return stream.getvalue()


def table_of(path, jpegs):
    columns = {"chip_id": NAMES, "lon": LONLAT[:, 0], "lat": LONLAT[:, 1], "land_use": CLASSES, "jpeg": jpegs}
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Articles of Lyon, a heritage site, Manaus, Novosibirsk and Bergen."""
    (voyage, license), ids = FILES["wikivoyage.parquet"], [f"article-{i}" for i in range(5)]
    places = {"place_id": ids, "lon": [4.83, 4.9, -60.0, 82.9, 5.32], "lat": [45.76, 45.8, -3.1, 55.0, 60.39],
              "title": ["Lyon", "A site", "Manaus", "Novosibirsk", "Bergen"],
              "source": [voyage, HERITAGE, voyage, voyage, voyage], "license": [license] * 5}  # fmt: skip
    told = {"place_id": ids, "text": [f"About {name}." for name in places["title"]], "lang": ["en"] * 5}
    told |= {name: places[name] for name in ("source", "license")}
    return write_store(tmp_path_factory.mktemp("texts") / "articles", places=places, texts=told)


def test_chips_positions_classes_and_texts_of_europe_are_in_the_store(tmp_path, texts):
    file = table_of(tmp_path / "chips.parquet", [jpeg(chip) for chip in colours()])
    eurosat.make_store(tmp_path / "store", file, texts)
    check_store(tmp_path / "store")
    store = PlaceStore.open(tmp_path / "store")
    assert store.place_id.tolist() == [*(f"eurosat-{name}" for name in NAMES), "article-0", "article-4"]
    assert (store.lonlat == np.concatenate([LONLAT, texts.lonlat[[0, 4]]])).all()
    assert store.column("land_use").tolist() == [*CLASSES, None, None]
    assert store.facts["land_use"]["modalities"] == ["eurosat"]

    assert store.has("eurosat").tolist() == [True] * 3 + [False] * 2
    assert (store.has("text") == ~store.has("eurosat")).all() and store.texts([3, 4]) == ["About Lyon.", "About Bergen."]
    difference = store.images("eurosat", range(3)).astype(int) - colours().transpose(0, 3, 1, 2)
    assert np.abs(difference).mean() < 2
    described = {"bands": ["red", "green", "blue"], "scale": 255, "gsd_m": 10.0, "dtype": "uint8", "shape": [3, 3, 64, 64]}
    assert store.imagery["eurosat"] == described
    assert (store.images("landscape", range(5)) == cut_chips(store.lonlat)).all()

    assert not any(store.simulated(modality) for modality in store.modalities)
    assert store.manifest["made"]["sources"]["chips.parquet"] == hashlib.sha256(file.read_bytes()).hexdigest()
    credits = [f"{source}, {license}" for source, license in zip(store.column("source"), store.column("license"), strict=True)]
    assert all("Helber et al., 2019" in c and "Copernicus Sentinel data" in c and "MIT" in c for c in credits[:3])
    assert all("Wikivoyage" in c and "CC BY-SA 3.0" in c for c in credits[3:])


def too_large(chip):
    """A JPEG of 64 x 64 that says it has 65,500 pixels along each side."""
    data = bytearray(jpeg(chip))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = (65_500).to_bytes(2) * 2
    return bytes(data)


@pytest.mark.parametrize(
    "damaged",
    [lambda chip: jpeg(chip)[:700], lambda chip: jpeg(chip, "PNG"), lambda chip: jpeg(chip[:32]), too_large,
     lambda chip: jpeg(chip[..., 0]), lambda chip: b"", lambda chip: None],
    ids=["truncated", "a PNG", "too small", "far too large", "grey", "empty", "missing"],
)  # fmt: skip
def test_what_is_no_chip_is_refused_with_its_row(tmp_path, texts, damaged):
    jpegs = [jpeg(chip) for chip in colours()]
    jpegs[1] = damaged(colours()[1])
    file = table_of(tmp_path / "chips.parquet", jpegs)
    with pytest.raises(ValueError, match=r"chips.parquet: row 1 \(River_2\): no JPEG in RGB of 64 x 64 .* remove the row"):
        eurosat.make_store(tmp_path / "store", file, texts)
    assert [path.name for path in tmp_path.iterdir()] == ["chips.parquet"]


def test_without_the_chips_the_script_says_what_to_set(tmp_path, monkeypatch):
    monkeypatch.setenv("GEONB_REAL_DATA", str(tmp_path))
    (tmp_path / "places_text").mkdir()
    for name in FILES:
        (tmp_path / "places_text" / name).touch()
    with pytest.raises(SystemExit, match=r"eurosat_rgb_9000.parquet: missing; set GEONB_REAL_DATA"):
        eurosat.main([])
    monkeypatch.delenv("GEONB_REAL_DATA")
    with pytest.raises(SystemExit, match="set GEONB_REAL_DATA to the folder of the real data"):
        eurosat.main([])


def test_the_real_chips_are_those_of_the_georeferenced_files(tmp_path, texts):
    """Oracle: the same chips with 13 bands as GeoTIFFs, of which bands 4, 3 and 2 are red, green and blue."""
    import rasterio
    from rasterio.warp import transform

    folder = real_files.real_data()["csv"][0].parents[1] / "sentinel2_more"
    file, tiffs = folder / "eurosat_rgb_9000.parquet", {p.stem: p for p in folder.glob("sentinel2_eurosat/*/*.tif")}
    if not file.exists() or not tiffs:
        pytest.skip(f"REAL DATA ABSENT, no chip of EuroSAT was tested: {folder} lacks {file.name} or sentinel2_eurosat")
    table = pq.read_table(file)
    assert sum(len(chip) for chip in eurosat.decoded(table, file)) == len(table) == 9000
    known = np.isin(table["chip_id"].to_numpy(), list(tiffs))
    pq.write_table(table.filter(pa.array(known)), tmp_path / "known.parquet")
    store = eurosat.make_store(tmp_path / "store", tmp_path / "known.parquet", texts)
    rows = np.flatnonzero(store.has("eurosat"))
    assert len(rows) > 10
    for row in rows:
        path = tiffs[store.place_id[row].removeprefix("eurosat-")]
        with rasterio.open(path) as image:
            middle = transform(image.crs, 4326, *([v] for v in image.xy(32, 32, offset="ul")))
            bands = image.read([4, 3, 2]).astype(float)
        assert great_circle_km(np.ravel(middle), store.lonlat[row]) < 0.008
        assert store.column("land_use")[row] == Path(path).parent.name
        chip = store.images("eurosat", [row])[0].astype(float)
        shown = [np.corrcoef(bands.ravel(), c.ravel())[0, 1] for c in (chip, chip[::-1], chip[:, ::-1], chip[:, :, ::-1])]
        assert np.argmax(shown) == 0 and shown[0] > 0.85
