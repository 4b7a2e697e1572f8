"""The HTTP client against a loopback server that fails on request."""

import time
from email.utils import formatdate

import pytest
import requests
from faulty import serve

from geonb.data.sources import http

BODY = b"a file of some length" * 1000


@pytest.fixture
def waits(monkeypatch):
    """No sleeping; the pauses that would have been made."""
    made: list[float] = []
    monkeypatch.setattr(time, "sleep", made.append)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return made


@pytest.mark.parametrize("status", [429, 503])
def test_a_passing_failure_is_retried_with_growing_pauses(waits, status):
    with serve({"/a": BODY}) as server:
        server.tricks = [{"status": status}] * 3
        assert http.session().get(f"{server.url}/a").content == BODY
        assert len(server.seen) == 4 and waits == [2, 4]  # urllib3 makes no pause before the first retry
        server.tricks = [{"status": status}] * 9
        with pytest.raises(requests.exceptions.RetryError, match=f"too many {status}"):
            http.session().post(f"{server.url}/a")
        assert len(server.seen) == 4 + 6
        server.tricks = []
        assert http.session().get(f"{server.url}/absent").status_code == 404 and len(server.seen) == 11  # no retry


def test_the_server_sets_the_pause_and_too_long_a_pause_is_refused(waits):
    with serve({"/a": BODY}) as server:
        date = formatdate(time.time() + 90, usegmt=True)
        server.tricks = [{"status": 503, "headers": {"Retry-After": wait}} for wait in ("17", date)]
        assert http.session().get(f"{server.url}/a").content == BODY
        assert waits[0] == 17 and waits[1] == pytest.approx(90, abs=3)
        server.tricks = [{"status": 429, "headers": {"Retry-After": "9000"}}]
        with pytest.raises(OSError, match="pause of 9,000 s"):
            http.session().get(f"{server.url}/a")
        assert len(waits) == 2


def test_a_silent_server_ends_in_a_timeout(waits, monkeypatch):
    monkeypatch.setattr(http, "TIMEOUT_S", 0.05)
    with serve({"/a": BODY}) as server:
        server.tricks = [{"delay": 0.5}] * 9
        with pytest.raises(requests.exceptions.ConnectionError, match="timed out"):
            http.session().get(f"{server.url}/a")


@pytest.mark.parametrize("address", ["http://example.org/a", "http://127.0.0.1@example.org/", "file:///etc/passwd"])
def test_only_https_is_followed_and_asked(waits, address):
    with serve() as server:
        server.tricks = [{"status": 302, "headers": {"Location": address}}]
        with pytest.raises(requests.exceptions.InvalidURL, match="only https|Invalid"):
            http.session().get(f"{server.url}/a")
    with pytest.raises(requests.exceptions.InvalidURL, match="only https"):
        http.session().get(address)


def test_every_request_says_who_asks(waits):
    with serve({"/a": BODY}) as server:
        http.session("me@example.org").get(f"{server.url}/a")
        http.session().get(f"{server.url}/a")
        with_contact, without = (request.headers["User-Agent"] for request in server.seen)
    assert with_contact.startswith("geonb/") and "(me@example.org)" in with_contact
    assert "(https://github.com/geonb/geonb)" in without
    for wrong in ("me", "http://example.org", "a@b.c\r\nX: y", "a@b.c) evil", "https://a b"):
        with pytest.raises(ValueError, match="contact"):
            http.session(wrong)


def test_a_file_is_downloaded_once_and_appears_when_it_is_complete(waits, tmp_path):
    with serve({"/a": BODY}) as server:
        for _ in range(2):
            assert http.download(f"{server.url}/a", tmp_path / "a.bin").read_bytes() == BODY
        assert len(server.seen) == 1
        server.tricks = [{"cut": 1000}]
        with pytest.raises(OSError):
            http.download(f"{server.url}/a", tmp_path / "b.bin")
        with pytest.raises(OSError, match="404"):
            http.download(f"{server.url}/absent", tmp_path / "b.bin")
    assert {file.name for file in tmp_path.iterdir()} == {"a.bin"}
