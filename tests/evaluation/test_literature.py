from dataclasses import replace

import numpy as np
import pytest

from geonb.data.sampling import random_points
from geonb.data.sources.labels import Labels
from geonb.evaluation.literature import PROTOCOLS, evaluate_labels, labels_table


def labels(kind="regression", n=600):
    lonlat = random_points(n, 0)
    warmth = 27 - 0.4 * np.abs(lonlat[:, 1]) + np.random.default_rng(0).normal(size=n)
    values = warmth
    if kind == "classification":
        values = np.where(warmth > 15, "warm", "cold").astype(object)
        values[::10] = None
    else:
        values[::10] = np.nan
    return Labels("warmth", lonlat, values, kind, "degrees C", "none", "made up", "none", "nobody", "0" * 64)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", ["regression", "classification"])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_representation_that_knows_wins_and_all_rows_are_there(protocol, kind):
    knowing = {"knows": lambda lonlat: np.abs(lonlat[:, 1:]), "noise": lambda lonlat: np.random.default_rng(1).normal(size=(len(lonlat), 3))}  # fmt: skip
    rows = {r["representation"]: r for r in evaluate_labels(knowing, labels(kind), protocol)}
    assert list(rows)[:3] == ["majority or mean", "nearest neighbours", "kriging"] and len(rows) == 7
    assert rows["knows"]["value"] > 0.9 > rows["noise"]["value"] and rows["knows"]["low"] <= rows["knows"]["value"]
    sizes = {"RANGE": (432, 108), "SatCLIP": (270, 270)}
    if protocol in sizes:
        assert (rows["knows"]["n_train"], rows["knows"]["n_test"]) == sizes[protocol]
    assert "made up" in labels_table(list(rows.values())).caption


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_two_protocols_never_share_a_table():
    rows = evaluate_labels({}, labels(), "RANGE") + evaluate_labels({}, labels(), "SatCLIP")
    with pytest.raises(ValueError, match="cannot share a table: RANGE, SatCLIP"):
        labels_table(rows)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_positions_of_one_block_have_no_interval():
    world = labels()
    rows = evaluate_labels({}, replace(world, lonlat=[8, 48] + world.lonlat / 1000), "RANGE")
    assert {(r["low"], r["high"]) for r in rows} == {(None, None)}
    assert not labels_table(rows).frame.iloc[:, 0].str.contains("[", regex=False).any()


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="choose one of RANGE"):
        evaluate_labels({}, labels(), "MLP")
    with pytest.raises(ValueError, match="only 9 positions"):
        evaluate_labels({}, labels(n=10), "RANGE")
    with pytest.raises(ValueError, match="half: embeddings"):
        evaluate_labels({"half": lambda lonlat: lonlat[::2]}, labels(), "RANGE")
