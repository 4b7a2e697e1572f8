"""A file of points opened by others, and held against what GeoParquet 1.1 requires (geoparquet.org/releases/v1.1.0)."""

import json

import duckdb
import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely


def check_geoparquet(path, lonlat) -> None:
    """Assert that the metadata are complete and true, and that GeoPandas and DuckDB find the positions (n, 2)."""
    schema, geo = pq.read_schema(path), json.loads(pq.read_metadata(path).metadata[b"geo"])
    assert geo["version"] == "1.1.0" and geo["primary_column"] in geo["columns"]
    for name, column in geo["columns"].items():
        assert schema.field(name).type == pa.binary() and column["encoding"] == "WKB"
        shapes = shapely.from_wkb(pq.read_table(path)[name].to_pylist())
        assert column["geometry_types"] == ["Point"] == sorted({shape.geom_type for shape in shapes})
        assert "crs" not in column and not shapely.has_z(shapes).any()  # without crs it is OGC:CRS84: longitude first
        xmin, ymin, xmax, ymax = column["bbox"]
        np.testing.assert_array_equal([xmin, ymin, xmax, ymax], shapely.total_bounds(shapes))
    frame = geopandas.read_parquet(path)
    assert frame.crs == "OGC:CRS84" and frame.geometry.name == geo["primary_column"]
    np.testing.assert_array_equal(frame.get_coordinates(), lonlat)
    found = duckdb.sql(f"select {geo['primary_column']} from '{path}'")
    assert str(found.types[0]).startswith(("GEOMETRY", "BLOB"))  # without the spatial extension, before DuckDB 2.0
    np.testing.assert_array_equal(shapely.get_coordinates(shapely.from_wkb([row[0] for row in found.fetchall()])), lonlat)
