"""What tests of the views share: pages in a browser that must not complain, and colours fitted to few places."""

import pytest

import geonb
from geonb.explore.views import write_page


@pytest.fixture(scope="module")
def model(trained):
    return geonb.load(trained)


@pytest.fixture(scope="module")
def few_places_for_the_colours():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("geonb.explore.maps.FITTED", 2000)
        yield


@pytest.fixture
def open_page(browser, tmp_path):
    """Open HTML from the disk or over HTTP; errors, complaints of the console and other requests fail the test."""
    from check_book import served

    contexts, complaints = [], []
    with served(tmp_path) as address:

        def open_(html, width=1200, over_http=False, **options):
            path = write_page(tmp_path / f"page{len(contexts)}.html", "Test", "<h1>Test</h1>" + html)
            context = browser.new_context(viewport={"width": width, "height": 900}, **options)
            contexts.append(context)

            def gate(route):
                within = route.request.url.startswith(("file:", "data:", "blob:", address))
                complaints.extend([] if within else ["request " + route.request.url])
                (route.continue_ if within else route.abort)()

            def heard(message):  # reading pixels back makes the browser advise against it
                if message.type in ("error", "warning") and "willReadFrequently" not in message.text:
                    complaints.append(message.text)

            context.route("**/*", gate)
            page = context.new_page()
            page.set_default_timeout(8000)
            page.on("pageerror", lambda e: complaints.append(f"error {e}"))
            page.on("console", heard)
            page.goto(f"{address}/{path.name}" if over_http else path.as_uri())
            page.wait_for_function("!document.querySelector(':is(.gl, .gp, .gv):not([data-ready=\"1\"])')")
            return page

        yield open_
        for context in contexts:
            assert not any(page.evaluate("window.hacked") for page in context.pages)
            context.close()
    assert complaints == []
