"""The made-up world and a run on it, shared by every test of training and use."""

import pytest
from hypothesis import settings
from world import SMALL, make_world

from geonb.training import train

settings.register_profile("untimed", deadline=None)  # a busy machine is no fault of what is tested
settings.load_profile("untimed")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With ``-n``, a file's tests stay in one process, for they share fixtures; and all of the book's, which share it."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.split("::")[0]
            return "tests/book" if file.startswith("tests/book/") else file

    return ByFile(config, log)


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world") / "store")


@pytest.fixture(scope="session")
def trained(world, tmp_path_factory):
    """A finished ``imagebind`` run on the world."""
    return train("imagebind", world, tmp_path_factory.mktemp("runs") / "imagebind", SMALL, progress=False)
