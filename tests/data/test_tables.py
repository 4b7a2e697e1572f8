"""One reader of positions: any table that pandas, GeoPandas or DuckDB writes gives its positions, or is refused."""

import gzip
import json
import warnings

import duckdb
import geopandas
import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
import torch
from hypothesis import given
from hypothesis import strategies as st

from geonb.data.tables import positions, read_positions, read_table
from geonb.geo import check_lonlat, great_circle_km

BERLIN, SANTIAGO = [13.4, 52.5], [-70.7, -33.4]
LONLAT = np.array([BERLIN, SANTIAGO])
degrees = st.lists(
    st.tuples(st.floats(-180, 180, allow_subnormal=False), st.floats(-90, 90, allow_subnormal=False)), min_size=1, max_size=6
)


def geoparquet(path, column, about=None, name="geometry"):
    """Write one column of geometries with GeoParquet metadata."""
    about = {"primary_column": name, "columns": {name: {"encoding": "WKB"} | (about or {})}}
    pq.write_table(pa.table({name: column}).replace_schema_metadata({"geo": json.dumps(about)}), path)
    return path


@given(degrees, st.sampled_from(["csv", "semicolon", "tab", "parquet", "geoparquet", "geojson", "duckdb", "utm"]))
def test_what_pandas_geopandas_and_duckdb_write_comes_back(tmp_path_factory, points, kind):
    folder, (lon, lat) = tmp_path_factory.mktemp("t"), np.array(points).T
    frame = pandas.DataFrame({"name": [f'a "{i}", b' for i in range(len(lon))], "Latitude": lat, "LNG": lon})
    shapes = geopandas.GeoDataFrame({"x": 1.0, "y": 2.0}, index=range(len(lon)), geometry=geopandas.points_from_xy(lon, lat), crs=4326)
    if kind in ("csv", "semicolon", "tab"):
        frame.to_csv(folder / "t.csv", index=False, sep={"csv": ",", "semicolon": ";", "tab": "\t"}[kind])
    elif kind == "parquet":
        frame.to_parquet(folder / "t.parquet")
    elif kind == "geoparquet":
        shapes.to_parquet(folder / "t.parquet")
    elif kind == "geojson":
        shapes.to_file(folder / "t.geojson", driver="GeoJSON", COORDINATE_PRECISION=17)
    elif kind == "duckdb":
        duckdb.sql(f"COPY (SELECT * FROM frame) TO '{folder / 't.parquet'}' (FORMAT parquet)")
    else:
        lon, lat = lon / 90 + 15, lat * 0.9  # within zone 33; at a pole all longitudes are one
        zone = shapes.set_geometry(geopandas.points_from_xy(lon, lat), crs=4326)
        zone.to_crs(32633).to_parquet(folder / "t.parquet")
    (path,) = folder.glob("t.*")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = read_positions(path)
    np.testing.assert_allclose(found, np.stack([lon, lat], 1), atol=0 if kind in ("csv", "parquet", "duckdb") else 1e-6)


@pytest.mark.parametrize(
    "column",
    [
        shapely.to_wkb(shapely.points(LONLAT), byte_order=0),
        shapely.to_wkb(shapely.points(LONLAT[:, 0], LONLAT[:, 1], 34.0)),
        shapely.to_wkb(shapely.set_srid(shapely.points(LONLAT), 4326), include_srid=True),
        shapely.to_wkb(shapely.multipoints(LONLAT[:, None])),
        shapely.to_wkb(shapely.points(LONLAT), hex=True),
        shapely.to_wkt(shapely.points(LONLAT), rounding_precision=3),
        np.array([f"SRID=4326;POINT ({lon} {lat})" for lon, lat in LONLAT]),
    ],
)
def test_everyday_geometries_are_read(tmp_path, column):
    assert read_positions(geoparquet(tmp_path / "t.parquet", pa.array(column.tolist()))).tolist() == LONLAT.tolist()
    assert read_positions(geoparquet(tmp_path / "u.parquet", pa.array(column.tolist()), name="geom")).tolist() == LONLAT.tolist()


def test_geoarrow_points_are_read(tmp_path):
    points = pa.StructArray.from_arrays([pa.array(LONLAT[:, 0]), pa.array(LONLAT[:, 1])], ["x", "y"])
    pairs = pa.array(LONLAT.tolist(), pa.list_(pa.float64(), 2))
    for column in (points, pairs):
        found = read_positions(geoparquet(tmp_path / "t.parquet", column, {"encoding": "point"}))
        assert found.tolist() == LONLAT.tolist()
    missing = pa.StructArray.from_arrays(points.flatten(), ["x", "y"], mask=pa.array([False, True]))
    with pytest.raises(ValueError, match="t.parquet: row 1: no geometry"):
        read_positions(geoparquet(tmp_path / "t.parquet", missing, {"encoding": "point"}))
    for wrong in (pa.array([1, 2]), pa.array([{"lon": 1.0, "lat": 2.0}]), pa.array([[1.0]])):
        with pytest.raises(ValueError, match="t.parquet: (geometry is .*; give points as WKB, WKT or GeoArrow|row 0)"):
            read_positions(geoparquet(tmp_path / "t.parquet", wrong))


def test_points_of_several_reference_systems_in_one_column_are_refused(tmp_path):
    mixed = ["SRID=3857;POINT (1491681 6891041)", "SRID=4326;POINT (7 51)"]
    with pytest.raises(ValueError, match=r"t.parquet: geometry has points of several SRIDs, \[3857, 4326\]"):
        read_positions(geoparquet(tmp_path / "t.parquet", pa.array(mixed)))
    degrees_as_metres = pa.array(shapely.to_wkb(shapely.points(LONLAT)))
    with pytest.warns(UserWarning, match="positions look like degrees, but their reference system is EPSG:3857"):
        read_positions(geoparquet(tmp_path / "t.parquet", degrees_as_metres, {"crs": "EPSG:3857"}))


def test_other_reference_systems_are_reprojected_and_refused_by_name_without_pyproj(tmp_path, monkeypatch):
    frame = geopandas.GeoSeries.from_xy(*LONLAT.T, crs=4326)
    frame.to_crs(3857).to_frame("geometry").to_parquet(tmp_path / "t.parquet")
    table = pq.read_table(tmp_path / "t.parquet")
    with pq.ParquetWriter(tmp_path / "streamed.parquet", table.schema.with_metadata(None)) as writer:
        writer.write_table(table.replace_schema_metadata())
        writer.add_key_value_metadata({"geo": table.schema.metadata[b"geo"]})  # of the file, not of Arrow's schema
    np.testing.assert_allclose(read_positions(tmp_path / "streamed.parquet"), LONLAT, atol=1e-9)
    np.testing.assert_allclose(read_positions(tmp_path / "t.parquet"), LONLAT, atol=1e-9)
    nad27 = geoparquet(tmp_path / "n.parquet", pa.array(shapely.to_wkb(shapely.points([[-100.0, 40.0]]))), {"crs": "EPSG:4267"})
    assert 0 < abs(read_positions(nad27) - [-100, 40]).max() < 1e-2
    monkeypatch.setitem(__import__("sys").modules, "pyproj", None)
    with pytest.raises(ValueError, match=r"WGS 84 / Pseudo-Mercator \(EPSG:3857\); pip install 'geonb\[real\]'"):
        read_positions(tmp_path / "t.parquet")


def test_properties_of_any_feature_and_of_any_type_are_kept_and_a_missing_geometry_has_its_row(tmp_path):
    big, point = 2**70, {"type": "Point", "coordinates": BERLIN}
    known = [{"a": 5, "id": big}, {"a": "many", "b": "x", "id": 1}, None]
    features = [{"type": "Feature", "properties": properties, "geometry": point} for properties in known]
    (tmp_path / "t.geojson").write_text(json.dumps({"features": features, "crs": None}))
    table = read_table(tmp_path / "t.geojson")
    assert table.select(["a", "id", "b"]).to_pylist() == [
        {"a": "5", "id": str(big), "b": None}, {"a": "many", "id": "1", "b": "x"}, {"a": None, "id": None, "b": None},
    ]  # fmt: skip
    (tmp_path / "x.geojson").write_text(json.dumps({"features": [{"geometry": point}]}))
    assert read_positions(tmp_path / "x.geojson").tolist() == [BERLIN]
    features[0] |= {"id": "01001", "properties": {"a": 1}}
    (tmp_path / "v.geojson").write_text(json.dumps({"features": features[:1]}))
    assert read_table(tmp_path / "v.geojson").select(["id", "a"]).to_pylist() == [{"id": "01001", "a": 1}]
    (tmp_path / "w.geojson").write_text('{"features": [{"properties": {"a": 1, "a": 2}, "geometry": null}]}')
    with pytest.raises(ValueError, match="w.geojson: .*two of a, a have one name"):
        read_table(tmp_path / "w.geojson")
    features[2]["geometry"] = None
    (tmp_path / "u.geojson").write_text(json.dumps({"features": features}))
    with pytest.raises(ValueError, match="u.geojson: row 2: no geometry"):
        read_positions(tmp_path / "u.geojson")


def test_a_geometry_comes_before_columns_and_clear_names_before_others(tmp_path):
    table = pa.table({"x": [101], "y": [33], "lon": [1.0], "lat": [2.0], "longitude": [3.0], "latitude": [4.0]})
    assert positions(table, "t").tolist() == [[3, 4]]
    assert positions(table.drop_columns(["longitude", "latitude"]), "t").tolist() == [[1, 2]]
    with pytest.warns(UserWarning, match="t: x and y are taken for longitude and latitude"):
        assert positions(table.select(["x", "y"]), "t").tolist() == [[101, 33]]
    with pytest.raises(ValueError, match="columns x and y are no degrees, for example .512.0, 90.0. in row 1"):
        positions(pa.table({"x": [5, 512], "y": [5, 90]}), "t", keep_invalid=True)
    for odd in (pa.array([True]), pa.array([["a"]]), pa.array([5], pa.timestamp("s"))):
        with pytest.raises(ValueError, match="t: lon is of type .*; give numbers in degrees"):
            positions(pa.table({"lon": odd, "lat": [1.0]}), "t")
    wkb = pa.array(shapely.to_wkb(shapely.points([BERLIN])))
    assert positions(table.append_column("geometry", wkb), "t").tolist() == [BERLIN]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no header"),
        ("lon,lat\n", "no rows"),
        ("lon,lat\n1,2\n3\n", "row 1 has 1 fields, the header 2"),
        ('lon,"lat\n1,2\n', "header: a quote is never closed"),
        ('lon,lat,a\n1,2,b\n1,2,"c\n3,4,d\n', "row 1: a quote is never closed"),
        ('lon,lat,a\n1,2,"b\n1,2,c\n3,4,"d"\n', "row 0: a quote is never closed"),
        ("lon,lat,a,a\n1,2,3,4\n", "two columns are named 'a'"),
        ("name,place\na,b\n", "no position columns; .*The columns are name, place"),
        ("lon,lat,Lon\n1,2,3\n", "columns lon and Lon: keep one"),
        ("lon,lat\n1,2\n13.4E,2\n", "row 1: lon is '13.4E', not a number"),
        ("lon,lat\n1_3,2\n", "row 0: lon is '1_3', not a number"),
        ("lon,lat\n１３,2\n", "row 0: lon is '１３', not a number"),
        ("lon;lat\n13,4;52,5\n", "row 0: lon is '13,4', not a number .write a decimal point"),
        ("lon,lat\n1,\n", "row 0: no lat"),
        ("lon,lat\n1,nan\n", "row 0: lat is 'nan'"),
        ("geometry\nPOINT EMPTY\n", "row 0: geometry is an empty Point, not a point"),
        ("wkt\nPOINT (1 2)\n" + '"LINESTRING (0 0, 1 1)"\n', "row 1: wkt is a LineString, not a point"),
        ("geometry\nsomewhere\n", "row 0: geometry is no WKB or WKT"),
        ("geometry\n\"some;where\"\n", "row 0: geometry is no WKB or WKT"),
        ("lat,lon\n" + "52.5,13.4\n" * 4 + "95,13.4\n", "row 4: .*1 of 5 rows are"),
        ("lon,lat\n" + "48.1,151.2\n" * 3, "row 0: .*the columns look swapped"),
        ("lon,lat\n13,52\n350,-17\n", "row 1: .*longitudes run from 0 to 360"),
        ("lon,lat\n392000,5820000\n", "row 0: .*look like metres"),
    ],
)
def test_a_faulty_table_is_refused_with_row_value_and_remedy(tmp_path, content, message):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(ValueError, match=f"t.csv: {message}"):
        read_positions(tmp_path / "t.csv")


@pytest.mark.parametrize("name", ["T.CSV", "t.tsv", "t.csv.GZ"])
def test_any_case_of_a_suffix_compression_and_a_byte_order_mark_are_read(tmp_path, name):
    content = "\ufeff name, Longitude ,Latitude\r\n \"a, b\", 13.4,52.5\r\n\r\n".encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("GZ") else content)
    table = read_table(tmp_path / name)
    assert table.to_pylist() == [{"name": "a, b", "Longitude": "13.4", "Latitude": "52.5"}]
    assert positions(table, name).tolist() == [BERLIN]
    for head in ("sep=;\r\nname;lon;lat\r\n", '"the\nname; all";lon;lat\r\n'):
        (tmp_path / "u.csv").write_text(head + "a;13.4;52.5\r\n", newline="")
        assert read_positions(tmp_path / "u.csv").tolist() == [BERLIN]


@pytest.mark.parametrize("encoding", ["cp1250", "utf-16"])
def test_another_encoding_is_refused_with_the_remedy(tmp_path, encoding):
    (tmp_path / "t.csv").write_bytes("název,lon,lat\nPlzeň,13,49\n".encode(encoding))
    kind = "UTF-16" if "16" in encoding else "CP1252"
    with pytest.raises(ValueError, match=f"t.csv: not UTF-8.*iconv -f {kind} -t UTF-8 OLD.csv > NEW.csv"):
        read_table(tmp_path / "t.csv")


def test_damaged_files_and_other_formats_are_named(tmp_path):
    whole = gzip.compress(b"lon,lat\n" + b"1,2\n" * 1000)
    for name, content in {
        "p.csv": b"PAR1", "x.csv": b"PK\3\4", "n.csv": "lon,lat\n1,2\n".encode("utf-16-le"),
        "t.csv.gz": whole[: len(whole) // 2], "t.parquet": b"PAR1 no", "t.geojson": b'{"features": [{}]}', "t.xlsx": b"",
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            read_table(tmp_path / name)
    with pytest.raises(ValueError, match="absent.csv: no such file"):
        read_table(tmp_path / "absent.csv")


def test_half_precision_and_missing_numbers_are_refused():
    with pytest.raises(ValueError, match="t: lon is in half precision"):
        positions(pa.table({"lon": pa.array(np.array([113.27], np.float16)), "lat": [1.0]}), "t")
    with pytest.raises(ValueError, match="t: row 8: no lat"):
        positions(pa.table({"lon": [1, 2], "lat": [3, None]}), "t", first=7)
    masked = np.ma.masked_array([[13.0, 52.0], [10.0, 50.0]], [[True, False], [False, False]])
    with pytest.raises(ValueError, match="row 0: position .None, 52.0. is not finite"):
        check_lonlat(masked)


def test_swapped_positions_in_range_are_told_by_the_land_and_right_ones_are_not():
    towns = np.array([[13.4, 52.52], [9.99, 53.55], [10.13, 54.32], [12.14, 54.09], [10.69, 53.87], [9.43, 54.78]])
    def as_table(points):
        return pa.table({"lon": points[:, 0], "lat": points[:, 1]})
    with pytest.warns(UserWarning, match="t: 100% of the positions lie at sea, but 100% on land with longitude and latitude swapped"):
        positions(as_table(towns[:, ::-1]), "t")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        positions(as_table(towns), "t")
    american = np.array([[-74.0, 40.7], [-87.6, 41.9], [-85.4, 31.2], [-82.0, 33.4], [-77.0, 38.9]])
    with pytest.warns(UserWarning, match="is their order right"):  # Antarctica is land, where nobody lives
        positions(as_table(american[:, ::-1]), "t")
    world = np.concatenate([towns, [[139.7, 35.7], [151.2, -33.9], [116.4, 39.9]]])
    with pytest.raises(ValueError, match="row 6: .*the columns look swapped"):
        positions(as_table(world[:, ::-1]), "t")


def test_frames_and_series_are_read_by_name_and_geometry():
    points = geopandas.GeoSeries(geopandas.points_from_xy(*LONLAT.T), crs=4326)
    for given_ in (
        pandas.DataFrame({"lat": LONLAT[:, 1], "lon": LONLAT[:, 0]}),
        pandas.DataFrame({"lat": pandas.array(LONLAT[:, 1], "Float64"), "lon": pandas.array(LONLAT[:, 0], "double[pyarrow]")}),
        points, points.to_crs(3857), geopandas.GeoDataFrame({"x": [1, 2]}, geometry=points), LONLAT.tolist(),
        points.values, list(points), [shapely.MultiPoint([p]) for p in points], LONLAT.astype(str),
        pa.table({"lat": LONLAT[:, 1], "lon": LONLAT[:, 0]}), torch.tensor(LONLAT, requires_grad=True),
    ):  # fmt: skip
        np.testing.assert_allclose(check_lonlat(given_), LONLAT, atol=1e-9)
        np.testing.assert_allclose(great_circle_km(given_, LONLAT), 0, atol=1e-6)
    for wrong, message in (
        ([["13.4E", "52"]], r"row 0: position \('13.4E', '52'\) is not finite"), ([["1_3", "52"]], "'1_3'"),
        ([[13.4, pandas.NA]], "row 0"), ({"lon": 1}, "positions"), (zip([1], [2], strict=True), "positions"), ([[1, 2], [3]], "positions"),
        ([[True, False]], "positions are boolean"), (torch.tensor(LONLAT).bfloat16(), "half precision"),
        (pandas.DataFrame({"lon": [1.0], "lat": np.array([2], np.float16)}), "half precision"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            check_lonlat(wrong)
    with pytest.warns(UserWarning, match="x and y are taken"):
        check_lonlat(pandas.DataFrame({"x": [1], "y": [2]}))
    with pytest.raises(ValueError, match="name two columns lon and lat .*there are a, b"):
        check_lonlat(pandas.DataFrame({"a": [1], "b": [2]}))
    for half in (LONLAT.astype(np.float16), pandas.DataFrame(LONLAT.astype(np.float16), columns=["lon", "lat"])):
        with pytest.raises(ValueError, match="half precision"):
            check_lonlat(half)
    with pytest.raises(ValueError, match="row 0 is POLYGON.*give points"):
        check_lonlat(points.to_crs(3857).buffer(1))
