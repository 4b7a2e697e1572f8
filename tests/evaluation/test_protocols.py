import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geonb.data.sampling import random_points
from geonb.data.splits import blocked_split
from geonb.evaluation.cases import Predictor, make_cases
from geonb.evaluation.protocols import (
    Protocol,
    bands_protocol,
    block_km,
    blocked_protocol,
    continents_protocol,
    few_labels,
    random_protocol,
)
from geonb.evaluation.tasks import TASKS, Task, fact_tasks
from geonb.geo import great_circle_km


def everything(lonlat, seed=0, buffer_km=300.0):
    split = blocked_split(lonlat, 1500.0, buffer_km=buffer_km, seed=seed)
    continents = np.where(lonlat[:, 0] < -30, "west", np.where(lonlat[:, 0] < 60, "middle", "east")).astype(object)
    continents[::7] = None
    return split, [
        random_protocol(split, seed), blocked_protocol(split, buffer_km),
        continents_protocol(split, lonlat, continents, buffer_km), bands_protocol(split, lonlat, buffer_km=buffer_km),
    ]  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), buffer_km=st.floats(1.0, 800.0))
def test_no_protocol_leaks(seed, buffer_km):
    lonlat = random_points(900, seed)
    split, protocols = everything(lonlat, seed, buffer_km)
    for protocol in protocols:
        protocol.check(lonlat)
        for train, test in protocol.folds:
            assert not (train & test).any()
            if protocol.name != "random" and train.any() and test.any():
                nearest = great_circle_km(lonlat[test][:, None], lonlat[train][None]).min()
                assert nearest > buffer_km * (1 - 1e-6)
            if protocol.name != "blocked":  # what pre-training has held out is for "blocked" alone
                assert (split[test] == "train").all()
            assert (split[train] == "train").all()
        assert np.sum([test for _, test in protocol.folds], 0).max() <= 1


def test_a_planted_leak_is_caught():
    lonlat = random_points(600, 1)
    _, protocols = everything(lonlat)
    for protocol in protocols:
        train, test = (mask.copy() for mask in protocol.folds[0])
        train[np.flatnonzero(test)[3]] = True
        with pytest.raises(ValueError, match="both trains and tests"):
            Protocol(protocol.name, ((train, test),), protocol.buffer_km).check(lonlat)
    blocked = protocols[1]
    train, test = blocked.folds[0]
    moved = lonlat.copy()
    moved[np.flatnonzero(train)[0]] = lonlat[np.flatnonzero(test)[0]] + [0.0, 0.5]  # 56 km away
    with pytest.raises(ValueError, match="within 300 km"):
        blocked.check(moved)
    with pytest.raises(ValueError, match="tested in 2 folds"):
        Protocol("twice", (blocked.folds[0], blocked.folds[0]), 0.0).check(lonlat)


def test_regions_are_whole_and_all_are_tested():
    lonlat = random_points(900, 2)
    split, (_, _, continents, bands) = everything(lonlat)
    assert len(bands.folds) == 6 and len(continents.folds) == 3
    assert (np.any([test for _, test in bands.folds], 0) == (split == "train")).all()
    for train, test in bands.folds:
        band = np.floor((lonlat[:, 0] + 180) / 60)
        assert len(np.unique(band[test])) == 1 and band[test][0] not in band[train]


def test_few_labels_are_nested_and_test_the_same_places():
    lonlat = random_points(600, 3)
    protocol = random_protocol(np.full(600, "train"))
    small, large = few_labels(protocol, 10, seed=4), few_labels(protocol, 100, seed=4)
    assert small.folds[0][0].sum() == 10 and large.folds[0][0].sum() == 100
    assert not (small.folds[0][0] & ~large.folds[0][0]).any()
    assert (small.folds[0][1] == protocol.folds[0][1]).all()
    small.check(lonlat)


def test_labels_are_nearer_under_a_random_protocol():
    lonlat = random_points(2000, 5)
    _, (random, blocked, continents, _) = everything(lonlat)
    distances = [p.nearest_label_km(lonlat) for p in (random, blocked, continents)]
    assert distances == sorted(distances) and distances[0] < 300 and distances[1] > 300


class Store:
    """As much of a place store as protocols look at."""

    def __init__(self, lonlat, **columns):
        self.lonlat, self.columns, self.facts = lonlat, list(columns), {}
        self.column = columns.__getitem__


def test_blocks_are_no_smaller_than_what_is_correlated():
    lonlat = random_points(3000, 6)
    rng = np.random.default_rng(0)
    centres = random_points(400, 7)
    near = great_circle_km(lonlat[:, None], centres[None])
    smooth = {km: np.exp(-((near / km) ** 2)) @ rng.normal(size=400) for km in (400.0, 900.0)}
    store = Store(lonlat, a=smooth[400.0], b=smooth[900.0], noise=rng.normal(size=3000), flat=np.ones(3000))
    tasks = {c: Task(c, "regression") for c in store.columns}
    size, ranges = block_km(store, tasks)
    assert "flat" not in ranges and ranges["noise"] < 150 and ranges["a"] < ranges["b"] <= size <= ranges["b"] + 100
    assert block_km(store, {"noise": tasks["noise"]}) == (100, {"noise": 0})  # not blocks of no size


def test_cases_pool_their_folds_and_skip_unknown_classes():
    lonlat = random_points(900, 8)
    _, (_, _, continents, bands) = everything(lonlat)
    west = np.where(lonlat[:, 0] < -30, "west", np.where(lonlat[:, 0] < 60, "middle", "east")).astype(object)
    west[::7] = None
    columns = {"side": west, "north": lonlat[:, 1]}
    tasks = {"side": Task("side", "classification"), "north": Task("north", "regression", "degrees")}
    skipped = []
    cases = make_cases(columns.__getitem__, tasks, [continents, bands], skipped)
    assert [s["task"] for s in skipped if s["split"] == "continents"] == ["side"]  # each region is its own class
    case = next(c for c in cases if (c.name, c.protocol) == ("north", "bands"))
    predicted, _ = Predictor("latitude", lonlat, lonlat[:, 1:]).predict(case)
    assert len(predicted) == case.test.sum() and case.score(predicted) > 0.999  # a feature that is the target
    constant, _ = Predictor("majority or mean", lonlat).predict(case)
    assert case.score(constant) <= 0
    with pytest.raises(ValueError, match="no representation"):
        Predictor("unknown", lonlat)


def test_every_task_says_where_it_comes_from_and_how_it_is_scaled(world):
    for task in TASKS.values():
        assert task.source and task.scaling in ("none", "log10(1 + x)")
        assert task.units or task.kind == "classification"
    facts = fact_tasks(world)
    assert facts["zone"].known_by == ("text", "image") and facts["warmth"].known_by == ("image",)
    assert facts["warmth"].units == "degrees C"
