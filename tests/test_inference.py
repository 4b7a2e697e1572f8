import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import geonb
from geonb import inference
from geonb.data.sources.files import read_texts
from geonb.evaluation import suite

LONLAT = [[13.4, 52.5], [-70.7, -33.4], [180.0, 0.0]]


@pytest.fixture
def points(tmp_path):
    lon, lat = np.array(LONLAT).T
    table = pa.table({"name": ["Berlin, Mitte", "<b>Santiago</b>", "Dateline"], "lon": lon, "lat": lat})
    pa.csv.write_csv(table, tmp_path / "points.csv")
    return tmp_path / "points.csv"


def test_a_table_becomes_geoparquet_with_its_own_columns(trained, points, tmp_path):
    assert inference.embed_table(trained, points, tmp_path / "e.parquet", progress=False) == 3
    table = pq.read_table(tmp_path / "e.parquet")
    assert table.column_names == ["name", "lon", "lat", "geometry", "embedding"]
    assert table["embedding"].type == pa.list_(pa.float32(), 32)
    vectors = np.array(table["embedding"].to_pylist(), np.float32)
    np.testing.assert_allclose(vectors, geonb.load(trained).embed_locations(LONLAT), atol=1e-6)

    geopandas = pytest.importorskip("geopandas")
    frame = geopandas.read_parquet(tmp_path / "e.parquet")
    assert frame.crs.equals("EPSG:4326") or frame.crs.to_authority() == ("OGC", "CRS84")
    assert frame.geometry.x.tolist() == [13.4, -70.7, 180.0] and frame["name"][1] == "<b>Santiago</b>"
    assert frame.total_bounds.tolist() == [-70.7, -33.4, 180.0, 52.5]


def test_its_output_is_read_again_by_its_geometry_in_several_parts(trained, points, tmp_path, monkeypatch):
    inference.embed_table(trained, points, tmp_path / "a.parquet", progress=False)
    pq.write_table(pq.read_table(tmp_path / "a.parquet").drop_columns(["lon", "lat"]), tmp_path / "b.parquet")
    monkeypatch.setattr(inference, "BATCH", 2)
    inference.embed_table(trained, tmp_path / "b.parquet", tmp_path / "c.parquet", progress=False)
    a, c = pq.read_table(tmp_path / "a.parquet"), pq.read_table(tmp_path / "c.parquet")
    assert a["geometry"] == c["geometry"]
    np.testing.assert_allclose(np.array(a["embedding"].to_pylist()), np.array(c["embedding"].to_pylist()), atol=1e-6)


@pytest.mark.parametrize(
    "content, message",
    [
        ("name,lon,lat\na,10,20\nb,48.1,151.2\n", "row 1: position .48.1, 151.2. is out of range.*look swapped"),
        ("name,lon,lat\na,10,\n", "row 0: position .10.0, nan. is not finite"),
        ("name,lon,lat\na,ten,20\n", "invalid value 'ten'"),
        ("name,place\na,b\n", "no position columns; name them lon and lat"),
        ("Lon,lat,lon\n1,2,3\n", "2 columns are named lon; keep one"),
        ("geometry\nPOINT (1 2)\n", "geometry must be WKB points"),
        ("lon,lat\n1,2\n3\n", "cannot be read"),
        ("lon,lat\n", "no rows"),
    ],
)
def test_a_bad_table_is_refused_and_nothing_is_left(content, message, trained, tmp_path):
    (tmp_path / "bad.csv").write_text(content)
    with pytest.raises(ValueError, match=f"bad.csv.*{message}"):
        inference.embed_table(trained, tmp_path / "bad.csv", tmp_path / "out.parquet", progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.csv"]


@pytest.mark.parametrize("content", ["name,lon,lat,text\nPlzeň,13,49,x\n", "název,lon,lat,text\nPlzen,13,49,x\n"])
def test_a_csv_in_another_encoding_is_refused_alike_by_embed_and_data_local(content, tmp_path):
    (tmp_path / "old.csv").write_bytes(content.encode("cp1250"))
    for read in (inference.read_positions, read_texts):
        with pytest.raises(ValueError, match="old.csv: not UTF-8 .*iconv -f CP1252 -t UTF-8 OLD.csv > NEW.csv$"):
            read(tmp_path / "old.csv")


def test_other_columns_of_a_csv_are_copied_as_text(trained, tmp_path):
    filler = "x" * 200_000  # 30 rows of it are more than is read at a time
    rows = [f"0{n:04d},{n}.50,{10**20 + n},{filler},10,20," for n in range(29)]
    header = "fips,half,id,x,Longitude,latitude,note"
    (tmp_path / "p.csv").write_text("\n".join([header, *rows, f"56045,NA,7,{filler},1e1,20,seen"]))
    inference.embed_table(trained, tmp_path / "p.csv", tmp_path / "e.parquet", progress=False)
    table = pq.read_table(tmp_path / "e.parquet")
    assert table["fips"].to_pylist() == [*(f"0{n:04d}" for n in range(29)), "56045"]
    assert table["half"].to_pylist() == [*(f"{n}.50" for n in range(29)), "NA"]
    assert table["id"].to_pylist() == [*(str(10**20 + n) for n in range(29)), "7"]
    assert table["note"].to_pylist() == [""] * 29 + ["seen"]
    assert table["Longitude"].to_pylist() == [10.0] * 30


@pytest.mark.parametrize(
    "column, message",
    [
        ([1.0, 2.0], "embedding must be lists of numbers, all of one length, not double"),
        ([["a"], ["b"]], "lists of numbers, .*string"),
        ([[1.0], None], "row 1 has no embedding"),
        ([[1.0], [1.0, 2.0]], "all of one length"),
        (None, "no column embedding"),
    ],
)
def test_a_faulty_column_of_embeddings_is_refused(tmp_path, column, message):
    columns = {"place_id": ["p0", "p1"]} | ({} if column is None else {"embedding": column})
    pq.write_table(pa.table(columns), tmp_path / "e.parquet")
    with pytest.raises(ValueError, match=f"e.parquet: .*{message}"):
        inference.read_embedding_table(tmp_path / "e.parquet")


def test_embeddings_in_any_kind_of_list_are_read(tmp_path):
    for kind in (pa.list_(pa.float64()), pa.large_list(pa.int32()), pa.list_(pa.float32(), 2), pa.list_(pa.float16())):
        column = pa.array(np.array([[1, 2], [3, 4], [5, 6]], np.float16).tolist(), pa.list_(pa.float64())).cast(kind)
        table = pa.table({"place_id": ["a", "b", "c"], "embedding": column})
        pq.write_table(table, tmp_path / "e.parquet", row_group_size=2)
        _, vectors = inference.read_embedding_table(tmp_path / "e.parquet")
        assert vectors.dtype == np.float32 and vectors.tolist() == [[1, 2], [3, 4], [5, 6]]


def test_two_embeddings_of_one_place_are_refused_and_two_of_no_place_of_the_store_are_not(world, tmp_path):
    vectors = [[1.0], [2.0], [3.0], [4.0], [5.0]]
    pq.write_table(pa.table({"place_id": ["p1", "x", "x", "p0", None], "embedding": vectors}), tmp_path / "e.parquet")
    found = inference.read_embeddings(tmp_path / "e.parquet", world)
    assert found[:2].tolist() == [[4], [1]] and np.isnan(found[2:]).all()
    pq.write_table(pa.table({"place_id": ["p1", "x", "p0", "p2", "p1"], "embedding": vectors}), tmp_path / "e.parquet")
    for read in (inference.read_embeddings, suite._read_embeddings):
        with pytest.raises(ValueError, match="e.parquet: row 4: place_id 'p1' again, first in row 0; keep one"):
            read(tmp_path / "e.parquet", world)
