"""Work that is stopped, asked for twice, asked for otherwise, or runs out of disk."""

import errno
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from geonb.data import work as module
from geonb.data.store import write_store
from geonb.data.work import Skips, Work, WorkError, acquire

PLAN = {"source": "test", "parts": 4}

JOB = """
import os, signal, sys, time
import numpy as np, pyarrow as pa
from geonb.data.store import write_store
from geonb.data.work import Skips, acquire

out, stop_at, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]

def build(work):
    made = 0
    for i in range(4):
        part = f"step/{i}"
        if not work.done(part):
            if i == stop_at:
                if how == "wait":
                    print("waiting", flush=True)
                    time.sleep(60)
                os.kill(os.getpid(), signal.SIGKILL)
            skips = Skips()
            skips.add("odd", f"row {i}", i)
            work.put(part, pa.table({"place_id": [f"p{i}"]}), skips, chips=np.full((1, 12, 16, 16), 1000 + i, np.uint16))
            made += 1
    print("made", made, flush=True)
    parts = [f"step/{i}" for i in range(4)]
    places = {"place_id": [work.table(p)["place_id"][0].as_py() for p in parts], "lon": [0.0, 1, 2, 3], "lat": [0.0] * 4}
    images = ((work.array(p, "chips")) for p in parts)
    return write_store(work.out, places=places, images=images, image_rows=range(4),
                       made=work.made("test", skips=work.skips(parts).counts))

print(acquire(out, {"source": "test", "parts": 4}, build).data_hash)
"""


def job(out, stop_at=-1, how="kill"):
    return [sys.executable, "-c", JOB, str(out), str(stop_at), how]


def tree(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("work") / "store"
    assert subprocess.run(job(out), capture_output=True).returncode == 0
    return tree(out)


@pytest.mark.parametrize("stop_at", [0, 2, 3])
def test_a_killed_process_is_followed_by_one_that_does_the_rest_and_gives_the_same_bytes(tmp_path, undisturbed, stop_at):
    out = tmp_path / "store"
    assert subprocess.run(job(out, stop_at)).returncode == -signal.SIGKILL
    assert not out.exists()
    done = subprocess.run(job(out), capture_output=True, text=True, check=True)
    assert f"made {4 - stop_at}" in done.stdout
    assert tree(out) == undisturbed
    assert not (tmp_path / "store.work").exists()


def test_a_process_killed_between_the_store_and_the_clean_up_is_followed_by_one_that_cleans_up(tmp_path, monkeypatch):
    def build(work):
        return write_store(work.out, places={"place_id": ["a"], "lon": [0.0], "lat": [0.0]}, made=work.made("test"))

    class Killed(BaseException):
        pass

    with monkeypatch.context() as patch:
        patch.setattr(Work, "finish", lambda self: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            acquire(tmp_path / "store", PLAN, build)
    assert (tmp_path / "store.work" / "plan.json").exists()
    store = acquire(tmp_path / "store", PLAN, lambda work: pytest.fail("built twice"))
    assert len(store) == 1 and not (tmp_path / "store.work").exists()
    with pytest.raises(WorkError, match="exists already"):
        acquire(tmp_path / "store", PLAN, build)
    assert not (tmp_path / "store.work").exists()


def test_a_store_made_by_something_else_meanwhile_is_not_taken_for_this_one(tmp_path):
    with Work(tmp_path / "store", PLAN):
        pass
    write_store(tmp_path / "store", places={"place_id": ["a"], "lon": [0.0], "lat": [0.0]})
    with pytest.raises(WorkError, match="exists already"):
        acquire(tmp_path / "store", PLAN, lambda work: pytest.fail("built"))


def test_of_two_processes_the_second_stops_with_a_clear_word(tmp_path):
    first = subprocess.Popen(job(tmp_path / "store", 1, "wait"), stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline().strip() == "waiting"
        with pytest.raises(WorkError, match=rf"another process \({first.pid}\) is making .*store; wait for it"):
            acquire(tmp_path / "store", PLAN, lambda work: pytest.fail("built"))
    finally:
        first.kill()
        first.wait()
    with Work(tmp_path / "store", PLAN) as work:
        assert work.done("step/0") and not work.done("step/1")


def test_work_begun_with_another_plan_is_not_mixed_in(tmp_path):
    with Work(tmp_path / "store", PLAN) as work:
        day = work.date
    with pytest.raises(WorkError, match="parts: begun with 4, now 5.*to begin anew"):
        try:
            Work(tmp_path / "store", PLAN | {"parts": 5}).__enter__()
        except WorkError as error:
            raise WorkError(str(error).replace("\n", " ")) from None
    with Work(tmp_path / "store", PLAN) as work:
        assert work.date == day


def test_the_day_of_the_first_start_is_kept(tmp_path):
    with Work(tmp_path / "store", PLAN):
        pass
    file = tmp_path / "store.work" / "plan.json"
    plan = json.loads(file.read_text())
    file.write_text(json.dumps(plan | {"begun": "2001-02-03"}))
    with Work(tmp_path / "store", PLAN) as work:
        assert work.date == "2001-02-03" and work.made("f")["begun"] == "2001-02-03"


def test_what_was_left_out_is_counted_over_parts_in_order(tmp_path):
    with Work(tmp_path / "store", PLAN) as work:
        for i, n in enumerate((2, 3)):
            skips = Skips()
            skips.add("no text", f"<b>row {i}</b>", n)
            skips.add("never", n=0)
            work.put(f"p{i}", pa.table({"x": [i]}), skips)
        total = work.skips(["p0", "p1"])
        work.put("p2", work.table("p0"), Skips({"odd": 1}))  # what was counted of one part is not counted of another
        assert work.skips(["p2"]).counts == {"odd": 1} and work.table("p0").schema.metadata in (None, {})
    assert total.counts == {"no text": 5} and total.examples == {"no text": "<b>row 0</b>"}
    assert str(total) == "5 left out: no text (e.g. <b>row 0</b>)"


def test_a_part_comes_back_as_it_was_and_a_damaged_one_is_told(tmp_path):
    chips = np.arange(24, dtype=np.uint16).reshape(2, 12)
    with Work(tmp_path / "store", PLAN) as work:
        work.put("a/b-1", pa.table({"x": [1.5, None], "y": ["é", "\0"]}), chips=chips)
        assert work.table("a/b-1").to_pydict() == {"x": [1.5, None], "y": ["é", "\0"]}
        assert (work.array("a/b-1", "chips") == chips).all()
        file = work.folder / "parts/a/b-1.parquet"
        file.write_bytes(file.read_bytes()[:50])
        with pytest.raises(WorkError, match="b-1.parquet: cannot be read .* remove it"):
            work.table("a/b-1")


@pytest.mark.parametrize("name", ["../x", "/x", "a/../b", "a//b", ".hidden", "", "a\\b", "a\0b", "a/"])
def test_no_name_of_a_part_leaves_the_folder(tmp_path, name):
    with Work(tmp_path / "store", PLAN) as work:
        for use in (work.done, work.path):
            with pytest.raises(ValueError, match="no name of a part"):
                use(name)


def test_a_full_disk_is_told_and_the_same_command_goes_on(tmp_path, monkeypatch):
    with Work(tmp_path / "store", PLAN) as work:
        work.put("first", pa.table({"x": [1]}))
        with monkeypatch.context() as patch:
            def full(*_, **__):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            patch.setattr(module.pq, "write_table", full)
            with pytest.raises(WorkError, match="disk is full.*same command"):
                work.put("second", pa.table({"x": [2]}), chips=np.zeros(3))
        assert work.done("first") and not work.done("second")
        assert not list(work.folder.rglob("*.partial"))
    with Work(tmp_path / "store", PLAN) as work:
        work.put("second", pa.table({"x": [2]}), chips=np.zeros(3))
        assert work.done("second")


def test_what_a_store_that_was_cut_short_left_behind_is_removed(tmp_path):
    (tmp_path / "store.partial-123" / "images.zarr").mkdir(parents=True)
    (tmp_path / "store2.partial-123").mkdir()
    places = {"place_id": ["a"], "lon": [0.0], "lat": [0.0]}
    acquire(tmp_path / "store", PLAN, lambda work: write_store(work.out, places=places, made=work.made("test")))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["store", "store2.partial-123"]


@pytest.mark.parametrize("there", ["thesis.txt", "parts/chapter.txt", "lock.txt"])
def test_a_folder_of_the_users_own_is_refused_and_left_alone(tmp_path, there):
    mine = tmp_path / "store.work" / there
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    for _ in range(2):
        with pytest.raises(WorkError, match=f"store.work .*holds '{there.split('/')[0]}'.*move or remove"):
            acquire(tmp_path / "store", PLAN, lambda work: pytest.fail("built"))
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "x").touch()
    with pytest.raises(WorkError):
        Work(tmp_path / "store", PLAN).__enter__()
    assert tree(tmp_path / "store.work") == {there: b"mine"}


def test_parts_whose_plan_is_gone_are_of_no_other_plan(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    with Work(tmp_path / "store", PLAN) as work:
        work.put("chips/0", pa.table({"x": [2023]}))
        work.path("downloads/a").write_text("old")
        with monkeypatch.context() as patch:
            patch.setattr(module.shutil, "rmtree", lambda *_, **__: (_ for _ in ()).throw(Killed))
            with pytest.raises(Killed):
                work.finish()
    assert (tmp_path / "store.work/parts/chips/0.parquet").exists() and not (tmp_path / "store.work/plan.json").exists()
    with Work(tmp_path / "store", PLAN | {"year": 2024}) as work:
        assert not work.done("chips/0") and not work.path("downloads/a").exists()
        work.finish()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_would_not_be_cleared_away_has_no_place_in_the_folder(tmp_path):
    with Work(tmp_path / "store", PLAN) as work, pytest.raises(ValueError, match="'other/a' is no name"):
        work.path("other/a")


def test_a_lock_taken_on_a_folder_that_was_just_removed_is_taken_anew(tmp_path, monkeypatch):
    import fcntl

    lock, calls = fcntl.flock, []

    def remove_first(stream, how):
        if not calls:
            calls.append(1)
            (tmp_path / "store.work" / "lock").unlink()
        lock(stream, how)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with Work(tmp_path / "store", PLAN) as work:
        assert os.fstat(work._lock.fileno()).st_ino == (work.folder / "lock").stat().st_ino
