"""Columns as readers see them: what is missing has no name, dates are dates, numbers stay numbers."""

import base64
import json
import re
import zlib

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from geonb.explore.figures import image_grid, scatter_map
from geonb.explore.linked import colour_column, linked_view
from geonb.explore.maps import add_points, offline_map

LONLAT = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])


@pytest.mark.parametrize("names", [
    pd.Series(["moss", None, np.nan], index=[7, 8, 9]), pd.Series(["moss", None, ""], dtype="string[pyarrow]"),
    pd.Series(["moss", None, ""]).astype("category"), pa.array(["moss", None, ""]), ["moss", pd.NaT, pd.NA],
], ids=["series", "arrow-backed", "category", "arrow", "list"])  # fmt: skip
def test_missing_names_are_shown_nowhere(names):
    data = linked_view(LONLAT, LONLAT, {"ground": names}, names, about={"text": names}).data
    assert data["hover"] == ["moss", "", ""] and data["columns"][0]["labels"] == ["moss"]
    assert json.loads(zlib.decompress(base64.b64decode(data["about"])))["text"] == ["moss", None, None]
    places = re.search(r"(\[\[1.*?\]\])\.forEach", add_points(offline_map(), LONLAT, names).get_root().render())[1]
    assert [label for *_, label in json.loads(places)] == ["moss", "", ""]
    grid = image_grid(np.zeros((3, 8, 8, 3), np.uint8), names, alt="chips").html
    assert re.findall(r'alt="([^"]*)"', grid) == ["moss", "", ""]
    assert "<b>" not in image_grid(np.zeros((1, 8, 8, 3), np.uint8), ["<b>"], alt="chip").html
    assert "<b>" not in scatter_map(LONLAT, ["<b>", "a", "b"], "<b>", "<b>", "<b>").html
    drawn = scatter_map(LONLAT, names, "t", "", "x").html
    assert ">unknown<" in drawn and not re.search(">(nan|None|NaT|&lt;NA&gt;)<", drawn)


@pytest.mark.parametrize("values, shown", [
    (pd.to_datetime(pd.Series(["2024-05-01", None])), ["2024-05-01", ""]),
    (np.array(["2024-05-01T10:30", "NaT"], "M8[ns]"), ["2024-05-01 10:30:00", ""]),
    (pd.Series([5, None], dtype="Int64"), ["5", ""]),
    (pd.Series([0.5, None], dtype="double[pyarrow]"), ["0.5", ""]),
    (np.ma.array([0.5, 7], mask=[0, 1]), ["0.5", ""]),
    ([5, None], ["5", ""]),
])  # fmt: skip
def test_dates_and_numbers_with_gaps_stay_what_they_are(values, shown):
    column, dated = colour_column("c", values, 2, rows=np.array([1, 0])), "-" in shown[0]
    assert linked_view(LONLAT[:2], LONLAT[:2], hover=values).data["hover"] == shown
    sent = np.frombuffer(base64.b64decode(column["data"]), "<u2" if dated else "<f4")
    np.testing.assert_array_equal(sent, [65535, 0] if dated else [np.nan, float(shown[0])])
    assert column.get("labels") == (shown[:1] if dated else None)
    assert ("unknown" in scatter_map(LONLAT[:2], values, "t", "", "x").html) == dated  # else a colour bar
