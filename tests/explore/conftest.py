"""What tests of the views share: a real browser, and colours of layers that are fitted to few places."""

import pytest


@pytest.fixture(scope="module")
def browser():
    pytest.importorskip("playwright.sync_api")
    from book.check_book import CHROMIUM, chromium

    if CHROMIUM is None:
        pytest.skip("no Chromium here: scripts/install_chromium.sh says how to get one")
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def few_places_for_the_colours():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("geonb.explore.layers.FITTED", 2000)
        yield
