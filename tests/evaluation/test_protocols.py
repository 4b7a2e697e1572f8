from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geonb.data.sampling import random_points
from geonb.data.splits import blocked_split
from geonb.evaluation import protocols as kinds
from geonb.evaluation.folds import ProbeRunner, task_folds
from geonb.evaluation.protocols import Protocol, block_km, blocked_protocol, random_protocol
from geonb.evaluation.tasks import Task
from geonb.geo import great_circle_km


def everything(lonlat, seed=0, buffer_km=300.0):
    split = blocked_split(lonlat, 1500.0, buffer_km=buffer_km, seed=seed)
    continents = np.where(lonlat[:, 0] < -30, "west", np.where(lonlat[:, 0] < 60, "middle", "east")).astype(object)
    continents[::7] = None
    return split, [
        random_protocol(split, seed), blocked_protocol(split, buffer_km),
        kinds.continents_protocol(split, lonlat, continents), kinds.bands_protocol(split, lonlat),
    ]  # fmt: skip


@settings(max_examples=15)
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
                assert nearest > protocol.buffer_km * (1 - 1e-6) >= 1 - 1e-6
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
    with pytest.raises(ValueError, match="tested in two folds"):
        Protocol("twice", (blocked.folds[0], blocked.folds[0]), 0.0).check(lonlat)


def test_regions_are_whole_and_all_are_tested():
    lonlat = random_points(900, 2)
    split, (random, blocked, continents, bands) = everything(lonlat)
    assert len(bands.folds) == 6 and len(continents.folds) == 3
    assert (np.any([test for _, test in bands.folds], 0) == (split == "train")).all()
    distances = [p.nearest_label_km(lonlat) for p in (random, blocked, continents)]
    assert distances == sorted(distances) and distances[1] > 300
    for train, test in bands.folds:
        band = np.floor((lonlat[:, 0] + 180) / 60)
        assert len(np.unique(band[test])) == 1 and band[test][0] not in band[train]


def test_blocks_are_no_smaller_than_what_is_correlated():
    lonlat = random_points(3000, 6)
    rng = np.random.default_rng(0)
    centres = random_points(400, 7)
    near = great_circle_km(lonlat[:, None], centres[None])
    smooth = {km: np.exp(-((near / km) ** 2)) @ rng.normal(size=400) for km in (400.0, 900.0)}
    columns = {"a": smooth[400.0], "b": smooth[900.0], "noise": rng.normal(size=3000), "flat": np.ones(3000)}
    store = SimpleNamespace(lonlat=lonlat, column=columns.__getitem__)
    tasks = {c: Task(c, "regression") for c in columns}
    size, ranges = block_km(store, tasks)
    assert "flat" not in ranges and ranges["noise"] < 150 and ranges["a"] < ranges["b"] <= size <= ranges["b"] + 100
    assert block_km(store, {"noise": tasks["noise"]}) == (100, {"noise": 0})  # not blocks of no size


def test_task_folds_pool_their_folds_and_skip_unknown_classes():
    lonlat = random_points(900, 8)
    _, (_, _, continents, bands) = everything(lonlat)
    side = np.where(lonlat[:, 0] < -30, "west", np.where(lonlat[:, 0] < 60, "middle", "east")).astype(object)
    side[::7] = None
    columns = {"side": side, "north": lonlat[:, 1], "constant": np.ones(900)}
    tasks = {"side": Task("side", "classification"), "north": Task("north", "regression", "degrees")}
    skipped = []
    folds = task_folds(columns.__getitem__, tasks | {"constant": Task("constant", "regression")}, [continents, bands], skipped)
    assert [s["task"] for s in skipped if s["split"] == "continents"] == ["side", "constant"]  # each region is its own class
    assert "all the same" in skipped[-1]["why"]
    fold = next(f for f in folds if (f.name, f.protocol) == ("north", "bands"))
    predicted, _ = ProbeRunner("latitude", lonlat, lonlat[:, 1:]).predict(fold)
    assert len(predicted) == fold.test.sum() and fold.score(predicted) > 0.999  # a feature that is the target
    constant, _ = ProbeRunner("majority or mean", lonlat).predict(fold)
    assert fold.score(constant) <= 0
    with pytest.raises(ValueError, match="no representation"):
        ProbeRunner("unknown", lonlat)


def test_rare_classes_are_left_out_of_training_and_testing_and_counted():
    rng = np.random.default_rng(9)
    label = rng.choice(["a", "b"], 400).astype(object)
    label[rng.choice(400, 6, replace=False)] = "rare"
    train = rng.random(400) < 0.5
    train[label == "rare"] = [True, False, False, False, False, False]
    task, protocol = Task("label", "classification"), Protocol("random", ((train, ~train),))
    arguments = {"label": label}.__getitem__, {"label": task}, [protocol]
    (fold,) = task_folds(*arguments)
    assert fold.left_out == 5 and set(fold.truth()) == {"a", "b"} and "rare" not in fold.y[fold.folds[0][0]]
    (few,) = task_folds(*arguments, few=True)
    assert few.left_out == 0 and "rare" in few.truth()


def test_the_decomposition_of_training_places_is_shared_by_tasks_and_not_by_others():
    lonlat = random_points(300, 10)
    train = np.arange(300) < 200
    columns = {"north": lonlat[:, 1], "gaps": np.where(np.arange(300) % 9, lonlat[:, 1], np.nan), "east": lonlat[:, 0]}
    tasks = {name: Task(name, "regression") for name in columns}
    folds = task_folds(columns.__getitem__, tasks, [Protocol("random", ((train, ~train),))])
    for name in ("kriging", "nearest neighbours", "raw coordinates"):
        shared = ProbeRunner(name, lonlat)
        for fold in folds:
            np.testing.assert_array_equal(shared.predict(fold)[0], ProbeRunner(name, lonlat).predict(fold)[0])
        assert len(shared._fitted) == 2
