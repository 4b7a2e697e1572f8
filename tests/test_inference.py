import uuid
from datetime import date

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from geoparquet import check_geoparquet

import geonb
from geonb import inference
from geonb.data import tables

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

    assert table["name"][1].as_py() == "<b>Santiago</b>"
    check_geoparquet(tmp_path / "e.parquet", LONLAT)
    projected = geopandas.read_parquet(tmp_path / "e.parquet").to_crs(3857)
    projected.to_parquet(tmp_path / "projected.parquet")
    inference.embed_table(trained, tmp_path / "projected.parquet", tmp_path / "again.parquet", progress=False)
    found = geopandas.read_parquet(tmp_path / "again.parquet").get_coordinates()
    np.testing.assert_allclose(found, LONLAT, atol=1e-9)
    check_geoparquet(tmp_path / "again.parquet", found)


def test_its_output_is_read_again_by_its_geometry_in_several_parts(trained, points, tmp_path, monkeypatch):
    inference.embed_table(trained, points, tmp_path / "a.parquet", progress=False)
    pq.write_table(pq.read_table(tmp_path / "a.parquet").drop_columns(["lon", "lat"]), tmp_path / "b.parquet")
    monkeypatch.setattr(tables, "BATCH", 2)
    inference.embed_table(trained, tmp_path / "b.parquet", tmp_path / "c.parquet", progress=False)
    a, c = pq.read_table(tmp_path / "a.parquet"), pq.read_table(tmp_path / "c.parquet")
    assert a["geometry"] == c["geometry"]
    np.testing.assert_allclose(np.array(a["embedding"].to_pylist()), np.array(c["embedding"].to_pylist()), atol=1e-6)


def test_a_bad_row_far_down_is_named_and_nothing_is_left(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "BATCH", 2)
    (tmp_path / "bad.csv").write_text("lon,lat\n" + "1,2\n" * 5 + "1,\n")
    with pytest.raises(ValueError, match="bad.csv: row 5: no lat"):
        inference.embed_table(trained, tmp_path / "bad.csv", tmp_path / "out.parquet", progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.csv"]
    with pytest.raises(ValueError, match="out.txt: give a name that ends in .parquet, .geoparquet or .csv"):
        inference.embed_table(trained, tmp_path / "bad.csv", tmp_path / "out.txt", progress=False)


def test_a_table_becomes_csv_where_its_name_says_so(trained, points, tmp_path):
    assert inference.embed_table(trained, points, tmp_path / "e.CSV", progress=False) == 3
    table = pa.csv.read_csv(tmp_path / "e.CSV")
    assert table.column_names == ["name", "lon", "lat", *(f"embedding_{i}" for i in range(32))]
    vectors = np.stack([table[f"embedding_{i}"].to_numpy() for i in range(32)], 1)
    np.testing.assert_allclose(vectors, geonb.load(trained).embed_locations(LONLAT), atol=1e-6)


def test_columns_that_the_output_has_are_told_and_the_input_is_kept(trained, tmp_path):
    pa.csv.write_csv(pa.table({"Lon": [1.0], "Lat": [2.0], "EMBEDDING_0": ["mine"]}), tmp_path / "p.csv")
    with pytest.warns(UserWarning, match="replaced: EMBEDDING_0$"):
        inference.embed_table(trained, tmp_path / "p.csv", tmp_path / "e.csv", progress=False)
    assert pa.csv.read_csv(tmp_path / "e.csv").column_names == ["lon", "lat", *(f"embedding_{i}" for i in range(32))]
    with pytest.raises(ValueError, match="p.csv: this is the table of the points"):
        inference.embed_table(trained, tmp_path / "p.csv", tmp_path / "p.csv", progress=False)


def test_columns_of_any_type_are_copied_to_csv(trained, tmp_path):
    name = uuid.UUID(int=7)
    columns = {"uuid": pa.array([name.bytes, None], pa.uuid()), "word": pa.array(["é", None], pa.string_view()),
               "kind": pa.array(["a", "b"]).dictionary_encode(), "cell": [2**60 + 1, None], "day": [date(2024, 2, 29), None]}  # fmt: skip
    pq.write_table(pa.table(columns | {"lon": [1.0, 2.0], "lat": [1.0, 2.0]}), tmp_path / "t.parquet")
    inference.embed_table(trained, tmp_path / "t.parquet", tmp_path / "t.csv", progress=False)
    table = tables.read_table(tmp_path / "t.csv")
    found = [[row[column] for column in columns] for row in table.to_pylist()]
    assert found == [[str(name), "é", "a", str(2**60 + 1), "2024-02-29"], ["", "", "b", "", ""]]


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
    assert table["Longitude"].to_pylist() == ["10"] * 29 + ["1e1"]


@pytest.mark.parametrize(
    "column, message",
    [
        ([1.0, 2.0], "embedding must be lists of numbers, all of one length, not double"),
        ([["a"], ["b"]], "lists of numbers, .*string"),
        ([[1.0], None], "row 1 has no embedding"),
        ([[], []], "row 0 has no embedding"),
        ([None, [1.0]], "row 0 has no embedding"),
        ([[1.0], [1.0, 2.0]], "row 1 has 2 numbers, row 0 1; give all of one length"),
        ([[1.0, None], [1.0, 2.0]], "row 0: the embedding is not finite"),
        (None, "no column embedding"),
    ],
)
def test_a_faulty_column_of_embeddings_is_refused(world, tmp_path, column, message):
    columns = {"place_id": ["p0", "p1"]} | ({} if column is None else {"embedding": column})
    pq.write_table(pa.table(columns), tmp_path / "e.parquet")
    with pytest.raises(ValueError, match=f"e.parquet: .*{message}"):
        inference.read_embeddings(tmp_path / "e.parquet", world)


def test_embeddings_in_any_kind_of_list_are_read(world, tmp_path):
    pa.csv.write_csv(pa.table({"place_id": ["p1"], "embedding_0": [1.5], "embedding_1": [2]}), tmp_path / "e.csv")
    assert inference.read_embeddings(tmp_path / "e.csv", world)[1].tolist() == [1.5, 2]  # as `geonb embed` writes CSV
    for kind in (pa.list_(pa.float64()), pa.large_list(pa.int32()), pa.list_(pa.float32(), 2), pa.list_(pa.float16())):
        column = pa.array(np.array([[1, 2], [3, 4], [5, 6]], np.float16).tolist(), pa.list_(pa.float64())).cast(kind)
        table = pa.table({"place_id": ["p0", "p1", "p2"], "embedding": column})
        pq.write_table(table, tmp_path / "E.PARQUET", row_group_size=2)
        vectors = inference.read_embeddings(tmp_path / "E.PARQUET", world)
        assert vectors.dtype == np.float32 and vectors[:3].tolist() == [[1, 2], [3, 4], [5, 6]]


def test_two_embeddings_of_one_place_are_refused_and_two_of_no_place_of_the_store_are_not(world, tmp_path):
    vectors = [[1.0], [2.0], [3.0], [4.0], [5.0]]
    pq.write_table(pa.table({"place_id": ["p1", "x", "x", "p0", None], "embedding": vectors}), tmp_path / "e.parquet")
    found = inference.read_embeddings(tmp_path / "e.parquet", world)
    assert found[:2].tolist() == [[4], [1]] and np.isnan(found[2:]).all()
    pq.write_table(pa.table({"place_id": ["p1", "x", "p0", "p2", "p1"], "embedding": vectors}), tmp_path / "e.parquet")
    with pytest.raises(ValueError, match="e.parquet: row 4: place_id 'p1' again, first in row 0; keep one"):
        inference.read_embeddings(tmp_path / "e.parquet", world)


def test_embeddings_are_found_by_position_unless_two_are_there(world, tmp_path):
    lon, lat = world.lonlat[:3].T
    table = pa.table({"lon": lon, "lat": lat, "embedding": [[1.0], [2.0], [3.0]]})
    pq.write_table(table, tmp_path / "e.parquet")
    found = inference.read_embeddings(tmp_path / "e.parquet", world)
    assert found[:3].tolist() == [[1], [2], [3]] and np.isnan(found[3:]).all()
    pq.write_table(pa.concat_tables([table, table]), tmp_path / "e.parquet")  # the same twice is no doubt
    assert inference.read_embeddings(tmp_path / "e.parquet", world)[:3].tolist() == [[1], [2], [3]]
    other = table.set_column(2, "embedding", pa.array([[-1.0], [2.0], [3.0]]))
    pq.write_table(pa.concat_tables([table, other]), tmp_path / "e.parquet")
    with pytest.raises(ValueError, match="e.parquet: rows 0 and 3 are two embeddings at one position"):
        inference.read_embeddings(tmp_path / "e.parquet", world)


def test_a_vector_far_outside_the_rest_is_remarked_on(world, tmp_path):
    vectors = [[1.0]] * 9 + [[1e6]]
    pq.write_table(pa.table({"place_id": [f"p{i}" for i in range(10)], "embedding": vectors}), tmp_path / "e.parquet")
    with pytest.warns(UserWarning, match="e.parquet: row 9: the embedding has length 1e.06, the median is 1 .1 such rows"):
        inference.read_embeddings(tmp_path / "e.parquet", world)


def test_what_is_left_out_is_told(trained, world, tmp_path):
    columns = {"place_id": ["p1", "p2"], "embedding": [[1.0], [2.0]], "box": [{"west": 1.0}] * 2}
    pq.write_table(pa.table(columns | {"lon": [1.0, 2.0], "lat": [1.0, 2.0]}), tmp_path / "e.parquet")
    with pytest.warns(UserWarning, match=r"e.parquet: no embedding for 298 of 300 places .*first: row 0, p0"):
        inference.read_embeddings(tmp_path / "e.parquet", world)
    nothing = pa.table({"Place_ID": ["p1", "p2"], "EMBEDDING": [[float("nan")], [2.0]]})
    pq.write_table(nothing, tmp_path / "n.parquet")
    with pytest.warns(UserWarning, match="n.parquet: no embedding for 299 of 300 places"):
        inference.read_embeddings(tmp_path / "n.parquet", world)
    with pytest.warns(UserWarning, match="columns that CSV cannot hold are left out: box"):
        inference.embed_table(trained, tmp_path / "e.parquet", tmp_path / "e.csv", progress=False)
