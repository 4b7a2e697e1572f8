"""What tests of the views share: colours of layers that are fitted to few places."""

import pytest


@pytest.fixture(scope="module")
def few_places_for_the_colours():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("geonb.explore.layers.FITTED", 2000)
        yield
