"""The made-up world and a run on it, shared by every test of training and use."""

import pytest
from world import SMALL, make_world

from geonb.training import train


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world") / "store")


@pytest.fixture(scope="session")
def trained(world, tmp_path_factory):
    """A finished ``imagebind`` run on the world."""
    return train("imagebind", world, tmp_path_factory.mktemp("runs") / "imagebind", SMALL, progress=False)
