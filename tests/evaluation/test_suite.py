import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from world import SMALL, make_world

from geonb.config import split_of
from geonb.data.store import write_store
from geonb.evaluation import folds, protocols, suite
from geonb.evaluation.folds import PUBLISHED, REFERENCES, published_embeddings
from geonb.evaluation.protocols import Protocol
from geonb.evaluation.suite import evaluate
from geonb.evaluation.tables import _marks, cka_table, information_table, probe_table, retrieval_table
from geonb.evaluation.tasks import Task
from geonb.model import load
from geonb.training import train

WORLD_TASKS = {"zone": Task("zone", "classification"), "warmth": Task("warmth", "regression", "degrees C")}


@pytest.fixture(scope="module")
def results(world, trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    satclip = train("satclip", world, folder / "satclip", SMALL, progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suite, "TASKS", WORLD_TASKS | {"country": Task("country", "classification")})
        found = evaluate([trained, satclip], world, out=folder / "results.json", progress=False)
    assert json.loads((folder / "results.json").read_text()) == found
    return found


def test_every_row_stands_beside_its_references(results, world):
    rows = results["probes"]
    for task in WORLD_TASKS:
        for split in ("random", "blocked", "bands"):
            names = {r["representation"] for r in rows if (r["task"], r["split"]) == (task, split)}
            assert names == {*REFERENCES, "imagebind", "satclip"}
    assert all(r["low"] <= r["value"] <= r["high"] or r["is_reference"] for r in rows if r["task"] == "warmth")
    assert all(r["low"] <= r["high"] and r["n_train"] > 0 and r["n_test"] > 0 for r in rows)
    assert results["skipped"] == [{"task": "country", "why": "the store has no column country"}]
    split = split_of(world, SMALL)
    blocked = [r for r in rows if r["split"] == "blocked" and r["task"] == "warmth"]
    assert {(r["n_train"], r["n_test"]) for r in blocked} == {((split == "train").sum(), (split == "test").sum())}


def test_probes_see_the_embedding_and_no_coordinate(world, trained, monkeypatch):
    widths, real = set(), folds.RidgeProbe

    def spy(x, lonlat, fold_km):
        widths.add(x.shape[1])
        return real(x, lonlat, fold_km)

    monkeypatch.setattr(folds, "RidgeProbe", spy)
    monkeypatch.setattr(suite, "TASKS", {"warmth": WORLD_TASKS["warmth"]})
    evaluate([trained], world, progress=False)
    assert widths == {2, 32, 400}  # raw coordinates, the embedding as it is, untrained harmonics


def test_retrieval_has_all_six_directions_and_says_which_were_never_trained(results):
    rows = {(r["query"], r["target"]): r for r in results["retrieval"] if r["run"] == "imagebind"}
    assert len(rows) == 6
    assert {pair for pair, r in rows.items() if not r["trained"]} == {("text", "sentinel2"), ("sentinel2", "text")}
    assert {(r["query"], r["target"]) for r in results["retrieval"] if r["run"] == "satclip"} == {
        ("location", "sentinel2"), ("sentinel2", "location"),
    }  # fmt: skip
    assert all(r["chance@10"] == pytest.approx(min(1, 10 / r["n"])) for r in results["retrieval"])


def test_tables_say_how_much_was_trained_on_what_and_escape_names(results):
    for split in ("random", "blocked"):
        table = probe_table(results, split)
        assert "simulated" in table.caption.lower() and table.frame.loc["imagebind", "samples seen"] == "1,280"
        assert table.frame.loc["imagebind", "steps"].startswith("20 (selected ")
        assert table.frame.loc["raw coordinates", "steps"] == "–"
    table = retrieval_table(results, "text", "sentinel2")
    assert table.frame.loc["imagebind", "trained pair"] == "never" and "chance" in table.frame.index
    assert information_table(results).frame.shape[0] == 2 and "alignment, text and sentinel2" in information_table(results).frame
    assert cka_table(results).frame.loc["imagebind", "satclip"] == cka_table(results).frame.loc["satclip", "imagebind"]
    hostile = json.loads(json.dumps(results).replace("imagebind", "<script>x"))
    html = probe_table(hostile, "random")._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;x" in html
    with pytest.raises(ValueError, match="no rows of region; there are: bands; blocked; random"):
        probe_table(results, "region")


def test_runs_of_other_splits_other_data_or_one_name_are_noticed(world, trained, tmp_path):
    other = train("satclip", world, tmp_path / "other", replace(SMALL, split=SMALL.split | {"seed": 9}), progress=False)
    with pytest.raises(ValueError, match="different splits"):
        evaluate([trained, other], world, progress=False)
    elsewhere = make_world(tmp_path / "elsewhere", n=200, seed=4)
    assert evaluate([trained], elsewhere, progress=False)["training"]["imagebind"]["other_data"] is True
    with pytest.raises(ValueError, match="no runs"):
        evaluate([], world, progress=False)
    for twice in ([trained, trained], {"a": trained, "A": trained}):
        with pytest.raises(ValueError, match="two subjects share a name: (imagebind, imagebind|a, A)"):
            evaluate(twice, world, progress=False)


def test_a_row_is_marked_only_when_its_interval_reaches_the_best():
    pd = pytest.importorskip("pandas")
    rows = pd.DataFrame([("t", 0.9, 0.8, 1.0), ("t", 0.7, 0.6, 0.81), ("t", 0.5, 0.4, 0.6), ("u", 0.1, np.nan, np.nan)])
    rows.columns = ["task", "value", "low", "high"]
    assert _marks(rows, "value", "", by="task").tolist() == [" ★", " ≈", "", " ★"]


def test_what_a_store_lacks_is_skipped_and_said(world, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "TASKS", WORLD_TASKS)
    rows = np.flatnonzero(world.has("text"))
    bare = write_store(
        tmp_path / "bare",
        places={"place_id": world.place_id[rows], "lon": world.lonlat[rows, 0], "lat": world.lonlat[rows, 1],
                "warmth": np.where(np.arange(len(rows)) < 10, 1.0, np.nan)},
        texts={"place_id": world.place_id[rows], "text": world.texts(rows)},
        facts={}, simulated={"location": True, "text": True, "sentinel2": False},
    )  # fmt: skip
    found = evaluate([trained], bare, progress=False)
    assert {(r["query"], r["target"]) for r in found["retrieval"]} == {("location", "text"), ("text", "location")}
    why = {(s.get("task") or s["modality"], s.get("split")): s["why"] for s in found["skipped"]}
    assert why["zone", None] == "the store has no column zone" and why["image", None] == "the store has none"
    assert "no fold has 20 training" in why["warmth", "random"] and found["probes"] == []
    assert "Trained on other data" in retrieval_table(found, "text", "location").caption


@pytest.mark.parametrize(
    "east, north, split, told",
    [(12, 49, {"kind": "random", "seed": 0}, ["too few blocks of 1500 km hold places; split by blocks of 100 km",
                                              "too few blocks of 100 km hold places; drawn at random"]),
     (30, 60, {"kind": "blocked", "size_km": 100.0, "buffer_km": 50.0, "seed": 0}, [
         "too few blocks of 1500 km hold places; split by blocks of 100 km"])],
)  # fmt: skip
def test_a_run_of_the_world_is_evaluated_on_a_region_with_the_split_of_embeddings(
    world, trained, tmp_path, monkeypatch, east, north, split, told
):
    monkeypatch.setattr(suite, "TASKS", {"warmth": WORLD_TASKS["warmth"]})
    rng, n = np.random.default_rng(0), len(world)
    lonlat, rows = rng.uniform((11.5, 48.5), (east, north), (n, 2)), np.flatnonzero(world.has("text"))
    region = write_store(
        tmp_path / "region",
        places={"place_id": world.place_id, "lon": lonlat[:, 0], "lat": lonlat[:, 1], "warmth": rng.normal(size=n)},
        texts={"place_id": world.place_id[rows], "text": world.texts(rows)},
    )  # fmt: skip
    with pytest.warns(UserWarning) as warned:
        found = evaluate([trained], region, progress=False)
    assert found["data"]["split"] == split and [s["why"] for s in found["skipped"] if s.get("protocol") == "blocked"] == told
    assert [str(w.message).partition(": ")[2] for w in warned if "blocks" in str(w.message)] == told
    held_out = "held-out" if split["kind"] == "random" else "blocked"
    assert {row["split"] for row in found["retrieval"]} == {held_out} <= {row["split"] for row in found["probes"]}
    embedded = evaluate({"same": load(trained).embed_locations}, region, progress=False)
    assert embedded["data"]["split"] == split and embedded["data"]["held_out"] == found["data"]["held_out"]


def test_what_is_not_defined_is_none_in_the_results_and_a_dash_in_tables(world, tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "TASKS", WORLD_TASKS)
    rng, n = np.random.default_rng(0), len(world)
    lonlat = rng.uniform((10.0, 48.0), (12.0, 49.0), (n, 2))  # one block of 500 km
    region = write_store(
        tmp_path / "region",
        places={"place_id": world.place_id, "lon": lonlat[:, 0], "lat": lonlat[:, 1], "warmth": rng.normal(size=n),
                "zone": world.column("zone")},
    )  # fmt: skip
    subjects = {"noise": rng.normal(size=(n, 4)), "collapsed": np.ones((n, 4))}
    found = evaluate(subjects, region, tmp_path / "results.json", progress=False)
    assert json.loads((tmp_path / "results.json").read_text()) == found
    assert {p["split"] for p in found["protocols"]} == {"random", "held-out"}  # too few blocks to hold any out
    assert "too few blocks of 100 km" in found["skipped"][0]["why"] and found["data"]["split"]["kind"] == "random"
    assert {s["protocol"] for s in found["skipped"] if "protocol" in s} == {"blocked", "bands"}
    assert "drawn at random" in probe_table(found, "held-out").caption
    assert found["probes"] and {(r["low"], r["high"]) for r in found["probes"]} == {(None, None)}
    frame = probe_table(found, "random").frame
    assert not any("[" in v or "≈" in v for c in frame for v in frame[c])
    assert "too few blocks for an interval" in probe_table(found, "random").caption
    assert cka_table(found).frame.loc["collapsed", "noise"] == "–"


def test_a_failed_write_leaves_the_old_results_and_nothing_half_written(world, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "TASKS", {"warmth": WORLD_TASKS["warmth"]})
    monkeypatch.setattr(suite, "effective_rank", lambda cloud: float("nan"))  # no JSON
    (tmp_path / "results.json").write_text("old")
    with pytest.raises(ValueError):
        evaluate([trained], world, out=tmp_path / "results.json", progress=False)
    assert (tmp_path / "results.json").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_embeddings_from_elsewhere_are_evaluated_in_one_line(world, trained, tmp_path, monkeypatch):
    from geonb.inference import embed_table

    monkeypatch.setattr(suite, "TASKS", {"warmth": WORLD_TASKS["warmth"]})
    model = load(trained)
    points = tmp_path / "points.csv"
    lines = [f"{lon!r},{lat!r}" for lon, lat in world.lonlat.tolist()]
    points.write_text("\n".join(["lon,lat", *lines[::-1]]))  # in another order than the store's
    embed_table(trained, points, tmp_path / "theirs.PARQUET", progress=False)
    same = {
        "function": model.embed_locations, "table": tmp_path / "theirs.PARQUET",
        "array": model.embed_locations(world.lonlat), "run": trained,
    }  # fmt: skip
    found = evaluate(same, world, progress=False)
    for split in ("random", "blocked", "bands"):
        rows = [r for r in found["probes"] if r["split"] == split and not r["is_reference"]]
        assert {r["representation"] for r in rows} == set(same) and np.ptp([r["value"] for r in rows]) < 1e-4
    assert found["data"]["split"] == model.config["split"] and set(found["training"]) == {"run"}
    alone = evaluate({"latitude": lambda lonlat: lonlat[:, 1:] ** 2}, world, progress=False)  # no run, so a split of its own
    assert alone["data"]["split"]["kind"] == "blocked" and alone["training"] == {}
    assert probe_table(alone, "bands").frame.loc["latitude", "steps"] == "–"


def test_embeddings_that_do_not_fit_are_refused(world, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    n = len(world)
    with pytest.raises(ValueError, match="a row for each place"):
        evaluate({"short": np.ones((3, 4))}, world, progress=False)
    broken = np.ones((n, 4))
    broken[7] = np.nan
    for faulty, message in (
        (broken, r"place p7 \(row 7\) is not finite"), (np.full((n, 4), 1e39), r"place p0 \(row 0\) is not finite"),
        (np.ones((n, 0)), r"\(300, 0\) is not \(300, d\)"), ([["a"]] * n, "no array of numbers"),
        (torch.ones(n, 4, requires_grad=True), "no array of numbers"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"faulty: .*{message}"):
            evaluate({"faulty": faulty}, world, progress=False)
    with pytest.raises(ValueError, match="name of a reference row"):
        evaluate({"raw coordinates": np.ones((n, 4))}, world, progress=False)
    table = {"place_id": list(world.place_id[:-5]), "embedding": np.ones((n - 5, 4)).tolist()}
    pq.write_table(pa.table(table), tmp_path / "few.parquet")
    with pytest.raises(ValueError, match="no embedding for 5 of 300 places"):
        evaluate([tmp_path / "few.parquet"], world, progress=False)
    with pytest.raises(ValueError, match="absent.GeoParquet: no such file"):
        evaluate([tmp_path / "absent.GeoParquet"], world, progress=False)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "few.PARQUET").write_bytes((tmp_path / "few.parquet").read_bytes())
    with pytest.raises(ValueError, match="share a name: few, few"):
        evaluate([tmp_path / "few.parquet", tmp_path / "sub" / "few.PARQUET"], world, progress=False)


def test_half_precision_is_evaluated_and_vectors_out_of_the_ordinary_are_remarked_on(world, monkeypatch):
    monkeypatch.setattr(suite, "TASKS", {"warmth": WORLD_TASKS["warmth"]})
    vectors = np.random.default_rng(0).normal(size=(len(world), 4)).astype(np.float16)
    probes = [evaluate({"half": v}, world, progress=False)["probes"] for v in (vectors, vectors.astype(np.float64))]
    assert probes[0] == probes[1]
    vectors[3], vectors[5] = 0, 1e4
    with pytest.warns(UserWarning) as warned:
        evaluate({"half": vectors}, world, progress=False)
    messages = [str(w.message) for w in warned]
    assert any("half: row 3: the embedding is all zeros (1 such rows)" in message for message in messages)
    assert any("half: row 5: the embedding has length 2e+04" in message for message in messages)


def test_a_leaking_protocol_stops_the_evaluation(world, trained, monkeypatch):
    def leaking(split, buffer_km, size_km, name):
        return Protocol(name, ((split != "test", split != "train"),), buffer_km)

    monkeypatch.setattr(protocols, "blocked_protocol", leaking)
    with pytest.raises(ValueError, match="both trains and tests"):
        evaluate([trained], world, progress=False)


def test_a_report_is_one_page_without_scripts_or_requests(results, tmp_path):
    from geonb.explore import report_page

    hostile = json.loads(json.dumps(results).replace("imagebind", "<script>x"))
    html = report_page(hostile, tmp_path / "report.html").read_text()
    assert "<script>" not in html and "https://" not in html.replace("https://www.w3.org", "")
    assert all(f"split: {s}" in html for s in ("random", "blocked", "bands")) and html.count("<svg") == 3
    assert "the store has no column country" in html


def test_the_published_encoder_is_a_reference_where_it_is_at_hand(world, trained, monkeypatch):
    monkeypatch.setattr(suite, "TASKS", {"warmth": WORLD_TASKS["warmth"]})
    monkeypatch.setenv("GEONB_GEOCLIP", "absent.whl")
    assert published_embeddings(world.lonlat) == {}
    monkeypatch.setattr("geonb.encoders.published.geoclip_location", lambda path: lambda x: x[:, 1:].abs())
    rows = [r for r in evaluate([trained], world, progress=False)["probes"] if r["representation"] == PUBLISHED]
    assert len(rows) == 3 and all(r["is_reference"] and r["value"] > 0.99 for r in rows)
