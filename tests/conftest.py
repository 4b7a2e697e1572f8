"""The made-up world and a run on it, shared by every test of training and use.

Imports of torch wait for the first fixture: the process that only deals the tests out stays small.
"""

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None, max_examples=25)  # a busy machine is no fault of what is tested
settings.load_profile("untimed")


LONG = ("test_training", "research/", "test_docs", "test_pages", "test_notebooks", "test_projection", "test_benchmarks",
        "test_linked", "test_frames", "test_suite", "test_stac", "test_text")  # fmt: skip


def pytest_collection_modifyitems(items):
    """Start the files that take longest first, in this order, so that two processes end together."""
    items.sort(key=lambda item: next((i for i, name in enumerate(LONG) if name in item.nodeid), len(LONG)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With ``-n``, a file's tests stay in one process, because they share fixtures; pages of the book are shared out."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            alone = "test_page[" in nodeid or "test_a_run_killed" in nodeid
            return nodeid if alone else nodeid.split("::")[0]

    config.option.loadscopereorder = False  # it would start files of many tests first, whatever they take
    return ByFile(config, log)


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    from world import make_world

    return make_world(tmp_path_factory.mktemp("world") / "store")


@pytest.fixture(scope="session")
def trained(world, tmp_path_factory):
    """A finished ``imagebind`` run on the world."""
    from world import SMALL

    from geonb.training import train

    return train("imagebind", world, tmp_path_factory.mktemp("runs") / "imagebind", SMALL, progress=False)


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium, closed after each file, because it takes 400 MB."""
    check_book = pytest.importorskip("check_book", reason="playwright is not installed")
    if check_book.CHROMIUM is None:
        pytest.skip("no Chromium here: scripts/install_chromium.sh says how to get one")
    with check_book.chromium() as chromium:
        yield chromium
