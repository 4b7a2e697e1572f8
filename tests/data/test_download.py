"""Downloads and JSON services under every fault: what comes out is right, or there is a clear word and nothing else."""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from types import SimpleNamespace

import numpy as np
import pytest
from faulty import Response, serve, tree
from hypothesis import given
from hypothesis import strategies as st

from geonb.data import download as module
from geonb.data.download import (
    Api,
    DownloadError,
    Failed,
    NetworkAbsent,
    WrongChecksum,
    contact_from,
    download,
    user_agent,
)

DATA = np.random.default_rng(0).bytes(200_000)
SHA256, SHA1 = hashlib.sha256(DATA).hexdigest(), hashlib.sha1(DATA).hexdigest()
AGENT = user_agent("maps@university.edu")
NOWHERE = "http://127.0.0.1:9"  # the discard port: nobody listens


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """No waiting; the list has what would have been waited."""
    waits = []
    monkeypatch.setattr(module, "_sleep", waits.append)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    return waits


@pytest.fixture
def server():
    with serve({"/a.bin": DATA}) as here:
        yield here


def get(server, tmp_path, **options):
    return download([f"{server.url}/a.bin"], tmp_path / "in" / "a.bin", progress=False, **options)


def left(tmp_path):
    """Names in the folder of the downloads, the lock files left out."""
    return sorted(p.name for p in (tmp_path / "in").iterdir() if not p.name.endswith(".flock"))


def ranges(server):
    return [request.headers.get("Range") for request in server.seen]


# --- files: the right one, once -----------------------------------------------------------------------


@pytest.mark.parametrize("sums", [{}, {"sha1": SHA1.upper()}, {"sha256": SHA256}, {"sha1": SHA1, "sha256": SHA256}])
def test_a_right_file_is_downloaded_once_and_then_kept_without_a_request(server, tmp_path, sums):
    assert get(server, tmp_path, **sums, user_agent=AGENT) == SHA256
    assert (tmp_path / "in" / "a.bin").read_bytes() == DATA and left(tmp_path) == ["a.bin"]
    assert server.seen[0].headers["User-Agent"] == AGENT and server.seen[0].headers["Accept-Encoding"] == "identity"
    assert get(server, tmp_path, **sums) == SHA256 and len(server.seen) == 1


def test_a_file_that_is_there_is_kept_if_right_and_refused_if_not(server, tmp_path):
    path = tmp_path / "in" / "a.bin"
    path.parent.mkdir()
    path.write_bytes(b"mine")
    assert get(server, tmp_path) == hashlib.sha256(b"mine").hexdigest()
    with pytest.raises(WrongChecksum, match=f"is not the file it should be\n  SHA-1 expected: {SHA1}\n(.|\n)*Remove it"):
        get(server, tmp_path, sha1=SHA1)
    assert server.seen == [] and path.read_bytes() == b"mine"


@pytest.mark.parametrize("sums", [{"sha1": SHA256}, {"sha256": "0x"}, {"sha1": "<html>\x1b[2J"}])
def test_what_is_no_checksum_is_refused_before_anything_is_asked(server, tmp_path, sums):
    with pytest.raises(DownloadError, match="a.bin: '.*' is no SHA-"):
        get(server, tmp_path, **sums)
    assert server.seen == [] and not (tmp_path / "in").exists()


@pytest.mark.parametrize("name", ["sha1", "sha256"])
def test_a_wrong_checksum_is_refused_and_nothing_is_kept(server, tmp_path, name):
    with pytest.raises(WrongChecksum, match="nothing was kept") as caught:
        get(server, tmp_path, **{name: "0" * len({"sha1": SHA1, "sha256": SHA256}[name])})
    assert caught.value.sha256 == SHA256 and left(tmp_path) == [] and len(server.seen) == 1


def test_the_next_mirror_is_tried_after_whatever_happens(server, tmp_path):
    server.files["/login"] = b"<html>Please sign in</html>"
    urls = ["file:///etc/passwd", f"{NOWHERE}/a", f"{server.url}/none", f"{server.url}/login", f"{server.url}/a.bin"]
    assert download(urls, tmp_path / "in" / "a.bin", sha1=SHA1, progress=False) == SHA256
    with pytest.raises(NetworkAbsent) as caught:
        download(
            urls[:4], tmp_path / "in" / "b.bin", progress=False, check=lambda path: "it is a page to log in"
        )
    message = str(caught.value)
    for part in ("only http and https", "Connection refused", "HTTP 404", "a page to log in", "in/b.bin", urls[0]):
        assert part in message
    assert len(caught.value.failures) == 4 and left(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("url", ["http:///x", "http://[", "http://127.0.0.1:port/", "http://a b/", "ftp://127.0.0.1/", "x"])
def test_an_address_that_is_none_is_not_tried_twice(tmp_path, waits, url):
    with pytest.raises(NetworkAbsent):
        download([url], tmp_path / "a", progress=False)
    assert waits == []


# --- files: cut, slow, busy, broken -------------------------------------------------------------------


def test_a_body_that_is_cut_is_gone_on_with_where_it_was_cut(server, tmp_path, waits):
    server.tricks = [{"cut": 1000}, {"cut": 5000}, {"cut": 0}]
    assert get(server, tmp_path) == SHA256 and left(tmp_path) == ["a.bin"]
    assert ranges(server) == [None, "bytes=1000-", "bytes=6000-", "bytes=6000-"] and waits == [1, 2, 4]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
@pytest.mark.parametrize("how", ["cut", "truncate"])
def test_packed_files_arrive_as_they_are_and_whole(server, tmp_path, pack, how):
    server.files["/a.bin"] = packed = pack(DATA)
    server.tricks = [{how: len(packed) // 2, "headers": {"Content-Encoding": "gzip"}}]
    if how == "truncate":  # a wrong length that only the checksum tells
        with pytest.raises(WrongChecksum):
            get(server, tmp_path, sha1=hashlib.sha1(packed).hexdigest())
    assert get(server, tmp_path, sha1=hashlib.sha1(packed).hexdigest()) == hashlib.sha256(packed).hexdigest()


def test_500s_pass_or_are_given_up_and_what_came_before_is_gone_on_with(server, tmp_path, waits):
    server.tricks = [{"cut": 300}, {"status": 500}, {"status": 502}, {"status": 503}, {"status": 504}]
    with pytest.raises(NetworkAbsent, match="HTTP 504 .*after 5 attempts.*\n0.0 MB are there; the next try") as caught:
        get(server, tmp_path)
    assert caught.value.kept == 300 and left(tmp_path) == ["a.bin.partial", "a.bin.partial.json"]
    assert waits == [1, 2, 4, 8]
    server.tricks = [{"status": 500}]
    assert get(server, tmp_path) == SHA256 and ranges(server)[-1] == "bytes=300-"


@pytest.mark.parametrize(
    "header, low, high",
    [({"Retry-After": "7"}, 7, 7), ("in 40 s", 30, 41), ({}, 1, 1),
     ({"Retry-After": formatdate(0, usegmt=True)}, 1, 1), ({"Retry-After": "soon"}, 1, 1), ({"Retry-After": "-5"}, 1, 1)],
)  # fmt: skip
def test_a_busy_server_is_asked_again_when_it_says(server, tmp_path, waits, header, low, high):
    if header == "in 40 s":
        header = {"Retry-After": formatdate(time.time() + 40, usegmt=True)}
    server.tricks = [{"status": 429, "headers": header}]
    assert get(server, tmp_path) == SHA256
    assert len(waits) == 1 and low <= waits[0] <= high


@pytest.mark.parametrize("value", ["86400", "9" * 500])
def test_a_server_that_wants_to_be_left_alone_for_long_is(server, tmp_path, waits, value):
    server.tricks = [{"status": 429, "headers": {"Retry-After": value}}]
    with pytest.raises(NetworkAbsent, match="HTTP 429 .*it asks to come back in (86,400|inf) s"):
        get(server, tmp_path)
    assert waits == [] and len(server.seen) == 1


def test_a_slow_server_is_asked_again_and_what_it_sent_is_kept(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT_S", 0.15)
    server.files["/a.bin"] = DATA[:5000]
    server.tricks = [{"delay": 1}, {"slow": 1}]
    assert get(server, tmp_path) == hashlib.sha256(DATA[:5000]).hexdigest()
    assert ranges(server) == [None, None, "bytes=1024-"]
    server.tricks = [{"delay": 1}] * 5
    with pytest.raises(NetworkAbsent, match="(?i)timed out.*after 5 attempts"):
        download([f"{server.url}/a.bin"], tmp_path / "b", progress=False)


def test_a_large_file_may_be_cut_more_often_than_there_are_attempts(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PROGRESS_BYTES", 10_000)
    server.tricks = [{"cut": 12_000}] * 15
    assert get(server, tmp_path) == SHA256 and len(server.seen) == 16
    server.tricks = [{"cut": 12_000, "etag": 'W/"weak"'}] * 99  # always from the beginning: no progress
    with pytest.raises(NetworkAbsent, match="cut after 12,000 of 200,000 bytes"):
        download([f"{server.url}/a.bin"], tmp_path / "b", progress=False)
    assert len(server.tricks) >= 93


def test_what_is_no_http_is_an_error_like_others(server, tmp_path):
    server.tricks = [{"raw": b"\x00\xff" * 100}, {"raw": b""}, {"raw": b"HTTP/1.1 200 OK\r\n\r\n"}]
    assert get(server, tmp_path, sha1=SHA1) == SHA256 and len(server.seen) == 4
    server.tricks = [{"status": 204}]
    with pytest.raises(NetworkAbsent, match="HTTP 204"):
        download([f"{server.url}/a.bin"], tmp_path / "b", progress=False)
    server.files["/a.bin"] = b""
    with pytest.raises(NetworkAbsent, match="an empty file"):
        download([f"{server.url}/a.bin"], tmp_path / "b", progress=False)


# --- files: versions are never joined -----------------------------------------------------------------


def test_a_file_that_changed_on_the_server_is_taken_from_its_beginning(server, tmp_path):
    server.tricks = [{"cut": 100, "etag": '"old"'}]
    assert get(server, tmp_path) == SHA256
    assert server.seen[1].headers["If-Range"] == '"old"' and ranges(server)[1] == "bytes=100-"


def test_a_server_that_goes_on_with_another_version_is_not_believed(server, tmp_path):
    server.tricks = [{"cut": 100, "etag": '"old"'}, {"ignore_if_range": True}]
    assert get(server, tmp_path) == SHA256 and ranges(server) == [None, "bytes=100-", None]


@pytest.mark.parametrize("piece", ["bytes 99-199999/200000", "bytes 101-199999/200000", "bytes */200000", "", "a\ufffd"])
def test_a_server_that_goes_on_from_another_byte_is_not_believed(server, tmp_path, piece):
    headers = {"Content-Range": piece.encode("ascii", "ignore").decode()}
    server.tricks = [{"cut": 100}, {"status": 206, "headers": headers, "body": DATA[100:]}]
    assert get(server, tmp_path) == SHA256 and ranges(server) == [None, "bytes=100-", None]


def test_one_name_for_two_versions_is_found_out_by_their_lengths(server, tmp_path):
    server.files["/a.bin"] = bytes(len(DATA) - 1)
    server.tricks = [{"cut": 100, "etag": '"same"'}] + [{"status": 500}] * 4
    with pytest.raises(NetworkAbsent):
        get(server, tmp_path)
    server.files["/a.bin"] = DATA
    server.tricks = [{"etag": '"same"'}]
    assert get(server, tmp_path) == SHA256 and ranges(server)[-2:] == ["bytes=100-", None]


def test_a_weak_name_is_not_gone_on_from_and_a_date_is(server, tmp_path):
    server.tricks = [{"cut": 100, "etag": 'W/"weak"'}]
    assert get(server, tmp_path) == SHA256 and ranges(server) == [None, None]
    assert module._validator({"ETag": 'W/"a"', "Last-Modified": "Mon"}) == "Mon"


def test_another_published_checksum_starts_the_download_anew(server, tmp_path):
    """The mirror was updated between two runs, and its names are no help: it calls both versions the same."""
    old = bytes(len(DATA))
    server.files["/a.bin"] = old
    server.tricks = [{"cut": 100, "etag": '"same"'}] + [{"status": 500}] * 4
    with pytest.raises(NetworkAbsent):
        get(server, tmp_path, sha1=hashlib.sha1(old).hexdigest())
    server.files["/a.bin"] = DATA
    server.tricks = [{"etag": '"same"'}]
    assert get(server, tmp_path, sha1=SHA1) == SHA256 and ranges(server)[5:] == [None]


def test_pieces_that_do_not_fit_are_got_anew_once(server, tmp_path):
    old = bytes(len(DATA))
    server.files["/a.bin"] = old
    server.tricks = [{"cut": 100, "etag": '"same"'}] + [{"status": 500}] * 4
    with pytest.raises(NetworkAbsent):
        get(server, tmp_path, sha1=SHA1)
    server.files["/a.bin"] = DATA
    server.tricks = [{"etag": '"same"', "ignore_if_range": True}]
    assert get(server, tmp_path, sha1=SHA1) == SHA256 and ranges(server)[-2:] == ["bytes=100-", None]


def test_what_was_whole_when_the_process_died_is_not_asked_for_again(server, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    note = {"url": f"{server.url}/a.bin", "validator": "", "total": len(DATA), "expected": {}}
    (folder / "a.bin.partial.json").write_text(json.dumps(note))
    (folder / "a.bin.partial").write_bytes(DATA)
    assert get(server, tmp_path) == SHA256 and server.seen == [] and left(tmp_path) == ["a.bin"]


def test_what_is_longer_than_the_file_is_forgotten(server, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    tag = f'"{hashlib.md5(DATA).hexdigest()}"'
    note = {"url": f"{server.url}/a.bin", "validator": tag, "total": None, "expected": {}}
    (folder / "a.bin.partial.json").write_text(json.dumps(note))
    (folder / "a.bin.partial").write_bytes(DATA + b"more")
    assert get(server, tmp_path) == SHA256 and ranges(server) == [f"bytes={len(DATA) + 4}-", None]


@pytest.mark.parametrize("note", ["", "{", "[]", "null", '{"url": 1}', "\udcff"])
def test_a_note_that_cannot_be_read_starts_the_download_anew(server, tmp_path, note):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.bin.partial.json").write_bytes(note.encode("utf-8", "surrogateescape"))
    (folder / "a.bin.partial").write_bytes(b"something")
    assert get(server, tmp_path) == SHA256 and ranges(server) == [None]


# --- files: redirects ---------------------------------------------------------------------------------


def test_redirects_are_followed_to_http_only_and_not_in_circles(server, tmp_path):
    server.tricks = {"/r": [{"redirect": "/r2"}], "/r2": [{"redirect": f"{server.url}/a.bin", "status": 308}]}
    assert download([f"{server.url}/r"], tmp_path / "r", progress=False) == SHA256
    server.tricks = {"/loop": [{"redirect": "/loop"}] * 50}
    with pytest.raises(NetworkAbsent, match="infinite loop") as caught:
        download([f"{server.url}/loop"], tmp_path / "loop", progress=False)
    assert len(server.tricks["/loop"]) > 30 and len(caught.value.failures[0].splitlines()) == 1
    for target in ("file:///etc/passwd", "ftp://127.0.0.1:9/a", "data:text/plain,a", "javascript:a", "http://["):
        server.tricks = {"/bad": [{"redirect": target}] * 5}
        with pytest.raises(NetworkAbsent):
            download([f"{server.url}/bad"], tmp_path / "bad", progress=False)
        assert len(server.tricks["/bad"]) == 4, f"{target}: asked again in vain"
        assert not (tmp_path / "bad").exists()


def test_a_redirect_to_an_address_without_encryption_is_not_followed():
    request = module.Request("https://example.org/a")
    with pytest.raises(Failed, match="http://example.org/a, without encryption"):
        module._SameOrSafer().redirect_request(request, None, 302, "", {}, "http://example.org/a")
    assert module._SameOrSafer().redirect_request(request, None, 302, "", {}, "HTTPS://example.org/b") is not None


def test_passwords_are_not_sent_on_to_another_host(server, tmp_path):
    with serve({"/b": DATA}) as other:
        server.tricks = [{"redirect": "/a.bin"}, {"redirect": f"{other.url}/b"}]
        get(server, tmp_path, headers={"Authorization": "Bearer secret", "Cookie": "a", "X-Other": "kept"})
        assert [request.headers.get("Authorization") for request in server.seen] == ["Bearer secret"] * 2
        sent = {name.lower(): value for name, value in other.seen[0].headers.items()}
        assert not {"authorization", "cookie"} & sent.keys() and sent["x-other"] == "kept"


# --- files: size and disk -----------------------------------------------------------------------------


@pytest.mark.parametrize("trick", [{"declare": 10**15}, {"declare": "9" * 6000}, {"endless": True}, {"length": False}])
def test_what_is_too_large_is_refused_whether_it_says_so_or_not(server, tmp_path, trick):
    server.tricks = [trick]
    with pytest.raises(DownloadError, match="a.bin: .* bytes or more, but at most 100,000 are expected; nothing was kept"):
        get(server, tmp_path, max_bytes=100_000, sha1="0" * 40)
    assert left(tmp_path) == []


def test_a_length_that_nobody_tells_is_only_taken_with_a_checksum(server, tmp_path):
    server.tricks = [{"length": False}]
    with pytest.raises(NetworkAbsent, match="does not say how long the file is"):
        get(server, tmp_path)
    server.tricks = [{"length": False}]
    assert get(server, tmp_path, sha1=SHA1) == SHA256


def test_a_disk_without_room_is_known_before_anything_is_written(server, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=5_000_000))
        with pytest.raises(DownloadError, match="5 MB free, but 67 MB are needed; free some space or choose another"):
            get(server, tmp_path)
    assert left(tmp_path) == []
    assert get(server, tmp_path) == SHA256


class FullDisk:
    """A file on a disk that takes so many bytes more, never all of a piece at once, and then none."""

    def __init__(self, stream, room, code):
        self.stream, self.room, self.code = stream, room, code

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stream.close()

    def write(self, data):
        if not self.room:
            raise OSError(self.code, os.strerror(self.code))
        n = self.stream.write(data[: min(self.room, 700)])
        self.room -= n
        return n


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_is_said_and_the_next_run_goes_on(server, tmp_path, monkeypatch, code):
    real = module.Path.open

    def opened(path, mode="r", *args, **kwargs):
        stream = real(path, mode, *args, **kwargs)
        return FullDisk(stream, 30_000, code) if mode in ("ab", "wb") else stream

    with monkeypatch.context() as patch:
        patch.setattr(module.Path, "open", opened)
        with pytest.raises(DownloadError, match=r"a.bin.partial cannot be written \(.*\); free some space; 67 MB are"):
            get(server, tmp_path)
    assert left(tmp_path) == ["a.bin.partial", "a.bin.partial.json"] and len(server.seen) == 1
    assert get(server, tmp_path) == SHA256 and ranges(server) == [None, "bytes=30000-"]


def test_a_real_full_disk(server, tmp_path):
    """The device that is always full."""
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    with open("/dev/full", "wb", buffering=0) as stream:
        with pytest.raises(DownloadError, match="No space left on device.*; free some space; 68 MB are needed"):
            module.put(stream, b"data", tmp_path / "a", need=1_000_000)


def test_a_folder_that_cannot_be_made_is_said(server, tmp_path):
    (tmp_path / "in").write_bytes(b"a file")
    with pytest.raises(DownloadError, match="in cannot be written .*; choose another folder"):
        get(server, tmp_path)
    assert server.seen == []


# --- files: other processes ---------------------------------------------------------------------------

RUN = (
    "import sys\nfrom geonb.data.download import download\n"
    "print(download([sys.argv[1]], sys.argv[2], progress=False, sha1=sys.argv[3]), flush=True)"
)


def process(server, path):
    arguments = [sys.executable, "-c", RUN, f"{server.url}/a.bin", str(path), SHA1]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_process_leaves_what_the_next_one_goes_on_with(server, tmp_path):
    path = tmp_path / "in" / "a.bin"
    server.tricks = [{"slow": 0.02}]
    running = process(server, path)
    partial = path.with_name("a.bin.partial")
    deadline = time.monotonic() + 30
    while not (partial.exists() and partial.stat().st_size > 3000) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(running.pid, signal.SIGKILL)
    running.communicate()
    kept = partial.stat().st_size
    assert running.returncode == -signal.SIGKILL and 3000 < kept < len(DATA) and not path.exists()
    assert partial.read_bytes() == DATA[:kept]
    assert download([f"{server.url}/a.bin"], path, progress=False, sha1=SHA1) == SHA256
    assert ranges(server) == [None, f"bytes={kept}-"]
    download([f"{server.url}/a.bin"], tmp_path / "undisturbed" / "a.bin", progress=False)
    assert tree(path.parent) == tree(tmp_path / "undisturbed")


def test_of_two_processes_one_waits_and_the_file_is_right(server, tmp_path):
    path = tmp_path / "in" / "a.bin"
    server.tricks = [{"slow": 0.005}] * 2
    running = [process(server, path) for _ in range(2)]
    outputs = [one.communicate(timeout=60) for one in running]
    assert [out.strip() for out, _ in outputs] == [SHA256] * 2 and len(server.seen) == 1
    assert path.read_bytes() == DATA and left(tmp_path) == ["a.bin"]
    assert sum("another process downloads a.bin; waiting for it" in errors for _, errors in outputs) == 1


def test_a_file_in_a_folder_that_cannot_be_written_is_used(server, tmp_path, monkeypatch):
    get(server, tmp_path)
    monkeypatch.setattr(module, "alone", lambda *_: pytest.fail("a lock file cannot be made here"))
    assert get(server, tmp_path, sha256=SHA256) == SHA256


# --- the contact --------------------------------------------------------------------------------------


@pytest.mark.parametrize("contact", ["maps@university.edu", "o'neil+x@a-b.co.uk", "https://university.edu/~me?a=1"])
def test_a_contact_is_in_the_user_agent(contact):
    agent = user_agent(f" {contact} ")
    assert agent.startswith(f"geonb/{module.__version__} ({contact}) python-urllib/3.")


@pytest.mark.parametrize("contact", [
    "", "me", "me@localhost", "me@", "@b.org", "http://a.org", "https://localhost/", "https://a.org/ b", "a@b.org\r\nX: y",
    "a@b.org) evil (", "https://a.org/(x)", "ä@b.org", "a@b.org\nc", "x" * 300 + "@b.org",
])  # fmt: skip
def test_what_is_no_contact_is_refused(contact):
    with pytest.raises(ValueError, match="is no contact: give an e-mail address or an https:// address"):
        user_agent(contact)


@given(st.text(max_size=40))
def test_no_contact_breaks_a_header(text):
    try:
        agent = user_agent(text)
    except ValueError:
        return
    assert agent.isascii() and agent.isprintable() and agent.count("(") == agent.count(")") == 1


def test_a_contact_comes_from_the_argument_or_the_environment(monkeypatch):
    monkeypatch.setenv("GEONB_CONTACT", "env@university.edu")
    assert contact_from(None) == "env@university.edu" and contact_from("arg@university.edu") == "arg@university.edu"
    for value in ("", "  "):
        monkeypatch.setenv("GEONB_CONTACT", value)
        with pytest.raises(ValueError, match="Wikimedia asks for a contact .* --contact .* or set GEONB_CONTACT"):
            contact_from(None)
    with pytest.raises(ValueError, match="is no contact"):
        contact_from("nobody")


# --- a JSON service -----------------------------------------------------------------------------------

ANSWER = {"batchcomplete": True, "query": {"pages": [{"pageid": 1, "title": "Zürich"}]}}
BODY = json.dumps(ANSWER, ensure_ascii=False).encode()


def answer(request):
    """The answer names what was asked; packed where the client can unpack it."""
    body = json.dumps({**ANSWER, "asked": dict(sorted(request.query.items()))}).encode()
    return Response(200, {"Content-Encoding": "gzip"}, gzip.compress(body, mtime=0))


@pytest.fixture
def wiki():
    with serve(answer=answer) as here:
        yield here


def api(wiki, cache=None, **options):
    return Api(f"{wiki.url}/w/api.php", AGENT, cache=cache, **{"interval_s": 0.0, **options})


def test_an_answer_is_asked_for_once_and_comes_from_the_cache_then(wiki, tmp_path):
    one = api(wiki, tmp_path / "cache")
    params = {"titles": "Zürich|Bern", "action": "query", "format": "json"}
    first, again = one.get(params), one.get(dict(reversed(params.items())))
    assert first == again and first["asked"] == params and (one.requests, one.cached) == (1, 1)
    assert wiki.seen[0].headers["User-Agent"] == AGENT and wiki.seen[0].headers["Accept-Encoding"] == "gzip"
    assert api(wiki, tmp_path / "cache").get(params) == first and len(wiki.seen) == 1
    assert one.get({**params, "titles": "Bern"})["asked"]["titles"] == "Bern" and len(wiki.seen) == 2
    other = Api(f"{wiki.url}/w/other.php?x=1", AGENT, cache=tmp_path / "cache", interval_s=0)
    assert other.get(params)["asked"] == {**params, "x": "1"} and len(wiki.seen) == 3


def test_without_a_cache_every_question_is_asked(wiki):
    one = api(wiki)
    assert one.get({"a": "1"}) == one.get({"a": "1"}) and (one.requests, one.cached) == (2, 0)


def test_the_cache_depends_on_neither_the_day_nor_what_went_wrong(wiki, tmp_path, monkeypatch):
    api(wiki, tmp_path / "a").get({"a": "1"})
    wiki.tricks = [{"status": 500}, {"cut": 10}, {"truncate": 10}]
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: 2_000_000_000.0)
        api(wiki, tmp_path / "b").get({"a": "1"})
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


DAMAGE = {
    "empty": lambda data: b"", "cut": lambda data: data[:-9], "a bit": lambda data: data[:-12] + b"\x00" + data[-11:],
    "no gzip": lambda data: b"<html>", "no object": lambda data: gzip.compress(b"[]"),
    "deep": lambda data: gzip.compress(b"[" * 100_000),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_of_the_cache_is_fetched_again(wiki, tmp_path, damage):
    first = api(wiki, tmp_path / "cache").get({"a": "1"})
    (file,) = (tmp_path / "cache").rglob("*.gz")
    whole = file.read_bytes()
    file.write_bytes(DAMAGE[damage](whole))
    again = api(wiki, tmp_path / "cache")
    assert again.get({"a": "1"}) == first and (again.requests, again.cached) == (1, 0) and file.read_bytes() == whole


# --- politeness ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", ["", "geonb", "python-urllib/3.11", "geonb/1 (me)", "geonb/1 me@b.org"])
def test_nothing_is_asked_without_a_contact(wiki, agent):
    with pytest.raises(ValueError, match="has no contact in it"):
        Api(wiki.url, agent, cache=None)
    with pytest.raises(ValueError, match="begins with https://"):
        Api("file:///etc/passwd", AGENT, cache=None)


@pytest.mark.parametrize("cache", [None, "cache"])
def test_threads_take_turns_and_keep_the_pauses(wiki, tmp_path, monkeypatch, cache):
    monkeypatch.setattr(module, "_sleep", time.sleep)
    clock = []
    monkeypatch.setattr(module, "_clock", lambda: clock.append(time.monotonic()) or clock[-1])
    wiki.answer = lambda request: (time.sleep(0.02), answer(request))[1]
    one = api(wiki, cache and tmp_path / cache, interval_s=0.05)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: one.get({"i": str(i % 10)}), range(20)))
    assert [found["asked"]["i"] for found in answers] == [str(i % 10) for i in range(20)]
    assert wiki.most_at_once == 1 and (one.requests, one.cached) == ((10, 10) if cache else (20, 0))
    assert len(wiki.seen) == one.requests
    starts = clock[1::2]  # it is looked at before and after a pause
    assert len(starts) == one.requests and np.diff(starts).min() > 0.049
    assert all(request.at >= start for request, start in zip(wiki.seen, starts, strict=True))


def test_the_interval_counts_from_start_to_start_and_retries_keep_it(wiki, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module, "_clock", lambda: now[0])
    monkeypatch.setattr(module, "_sleep", lambda s: now.__setitem__(0, now[0] + s))
    starts = []

    def take_time(request):
        starts.append(now[0])
        now[0] += 3.0
        return answer(request)

    wiki.answer = take_time
    one = api(wiki, interval_s=10.0)
    one.get({"a": "1"})
    one.get({"a": "2"})
    now[0] += 100
    one.get({"a": "3"})
    wiki.tricks = [{"status": 503, "headers": {"Retry-After": "1"}}, {"status": 503, "headers": {"Retry-After": "60"}}]
    one.get({"a": "4"})
    assert starts == [0, 10, 113, 113 + 10 + 10 + 60]


def test_a_question_that_waits_keeps_others_waiting(wiki, monkeypatch):
    """A server that wants to be left alone for a while is left alone by all threads."""
    monkeypatch.setattr(module, "_sleep", time.sleep)
    wiki.tricks = [{"status": 429, "headers": {"Retry-After": "1"}}]
    one = api(wiki)
    first = threading.Thread(target=one.get, args=({"a": "1"},))
    first.start()
    while not wiki.seen:
        time.sleep(0.01)
    one.get({"a": "2"})
    first.join()
    assert [request.query["a"] for request in wiki.seen] == ["1", "1", "2"]
    assert wiki.seen[1].at - wiki.seen[0].at > 0.95


# --- a service with faults ----------------------------------------------------------------------------


def gz(data, **trick):
    return {"status": 200, "headers": {"Content-Encoding": "gzip"}, "body": data, **trick}


PACKED = gzip.compress(BODY, mtime=0)
PASSING = {
    "a body that is cut": {"cut": 20},
    "a body that is cut behind the last bracket": {"status": 200, "body": BODY + b"\n", "cut": len(BODY)},
    "a body that is truncated, packed": gz(PACKED[:-6]),
    "nothing, packed": gz(b""),
    "a body that is truncated, plain": {"status": 200, "body": BODY[:-3]},
    "an empty body": {"status": 200},
    "bits that changed": gz(PACKED[:20] + bytes([PACKED[20] ^ 255]) + PACKED[21:]),
    "bytes behind": gz(PACKED + b"more"),
    "not packed though it says so": gz(BODY),
    "packed with something else": {"status": 200, "headers": {"Content-Encoding": "bzip2"}, "body": bz2.compress(BODY)},
    "packed twice": gz(gzip.compress(PACKED)),
    "a page": {"status": 200, "body": b"<html>Please sign in</html>"},
    "not UTF-8": {"status": 200, "body": json.dumps(ANSWER, ensure_ascii=False).encode("latin-1")},
    "no HTTP": {"raw": b"hello\r\n\r\n"},
    "nothing at all": {"raw": b""},
    **{f"HTTP {code}": {"status": code} for code in module.RETRY},
    **{
        code: {"status": 200, "body": json.dumps({"error": {"code": code, "info": "later"}}).encode()}
        for code in ("maxlag", "ratelimited", "readonly", "internal_api_error_DBQueryError")
    },
}


@pytest.mark.parametrize("fault", PASSING)
def test_what_may_pass_is_asked_again_and_never_cached(wiki, tmp_path, waits, fault):
    one = api(wiki, tmp_path / "cache", interval_s=0.5)
    wiki.tricks = [dict(PASSING[fault])]
    assert one.get({"a": "1"})["asked"] == {"a": "1"} and one.requests == 2 and waits == [1]
    wiki.tricks = [dict(PASSING[fault])] * 8
    with pytest.raises(DownloadError, match=r"after 8 attempts\); the same command goes on later"):
        one.get({"a": "2"})
    assert one.requests == 10 and wiki.tricks == []
    assert one.get({"a": "2"})["asked"] == {"a": "2"} and one.requests == 11
    assert len(list((tmp_path / "cache").rglob("*.gz"))) == 2


def test_waits_double_up_to_a_limit_and_do_not_depend_on_chance(wiki, waits):
    wiki.tricks = [{"status": 500}] * 10
    api(wiki, attempts=11).get({})
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]


def test_a_time_out_is_asked_again(wiki, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT_S", 0.15)
    wiki.tricks = [{"delay": 1}]
    assert api(wiki).get({"a": "1"})["asked"] == {"a": "1"} and len(wiki.seen) == 2
    wiki.tricks = [{"delay": 1}] * 2
    with pytest.raises(NetworkAbsent, match="(?i)timed out"):
        api(wiki, attempts=2).get({})


@pytest.mark.parametrize("status, body", [(429, b""), (503, b""), (200, b'{"error": {"code": "maxlag", "info": "lagged"}}')])
@pytest.mark.parametrize("header, low, high", [("7", 7, 7), (None, 1, 1), ("date", 30, 41), ("86400", None, None)])
def test_retry_after_is_honoured_whatever_the_status(wiki, waits, status, body, header, low, high):
    value = formatdate(time.time() + 40, usegmt=True) if header == "date" else header
    wiki.tricks = [{"status": status, "body": body, "headers": {"Retry-After": value} if value else {}}]
    if low is None:
        with pytest.raises(DownloadError, match="it asks to come back in 86,400 s"):
            api(wiki).get({})
        assert waits == [] and len(wiki.seen) == 1
    else:
        api(wiki).get({})
        assert len(waits) == 1 and low <= waits[0] <= high


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 414])
def test_a_refusal_is_final_and_says_what_the_server_says(wiki, tmp_path, status):
    page = b"Please set a user-agent;\r\n\x1b[31m see https://w.wiki/4wJS " + b"x" * 5000
    wiki.tricks = [{"status": status, "body": page}]
    with pytest.raises(DownloadError, match=f"HTTP {status} .*Please set a user-agent; ") as caught:
        api(wiki, tmp_path / "cache").get({})
    message = str(caught.value)
    assert len(wiki.seen) == 1 and message.isprintable() and len(message) < 500
    assert not isinstance(caught.value, NetworkAbsent) and not list((tmp_path / "cache").rglob("*.gz"))


@pytest.mark.parametrize("error, said", [
    ({"code": "badvalue", "info": "Unrecognized value\n\x1b[2J"}, "badvalue: Unrecognized value"),
    ({}, None), ("quota", "quota"), (["a"], "'a'"), ({"code": None, "info": {"x": 1}}, "None"), (7, "7"),
])  # fmt: skip
def test_an_error_with_http_200_is_an_error(wiki, tmp_path, error, said):
    wiki.tricks = [{"status": 200, "body": json.dumps({"error": error, **ANSWER}).encode()}]
    if said is None:  # nothing is said: no error
        assert api(wiki).get({})["query"] == ANSWER["query"]
        return
    with pytest.raises(DownloadError, match=said) as caught:
        api(wiki, tmp_path / "cache").get({})
    assert str(caught.value).isprintable() and len(wiki.seen) == 1 and not list((tmp_path / "cache").rglob("*.gz"))


def test_without_a_connection_it_is_said(tmp_path):
    with pytest.raises(NetworkAbsent, match="127.0.0.1:9: no connection .*Connection refused"):
        Api(f"{NOWHERE}/w/api.php", AGENT, cache=tmp_path / "cache").get({})


def test_redirects_of_a_service(wiki):
    wiki.tricks = [{"redirect": "/w/index.php?a=2"}]
    assert api(wiki).get({"a": "1"})["asked"] == {"a": "2"}
    for target in ("file:///etc/passwd", "/w/api.php?a=3", "http://["):
        wiki.tricks = [{"redirect": target}] * 20
        with pytest.raises(DownloadError):
            api(wiki).get({"a": "3"})


# --- a service that is hostile ------------------------------------------------------------------------


@pytest.mark.parametrize("trick", [
    {"status": 200, "declare": 10**15}, {"status": 200, "declare": "9" * 6000}, {"status": 200, "endless": True},
    {"status": 200, "body": b" " * 2_000_000}, gz(gzip.compress(b" " * 2_000_000)),
])  # fmt: skip
def test_what_is_too_large_is_not_read(wiki, trick):
    wiki.tricks = [trick]
    with pytest.raises(DownloadError, match="an answer of .* bytes or more; at most 1,000,000 are read"):
        api(wiki, max_bytes=1_000_000).get({})
    assert len(wiki.seen) == 1


def test_a_gzip_bomb_is_not_unpacked():
    bomb = gzip.compress(bytes(100_000_000), 1)
    one = Api("https://wiki.invalid/w/api.php", AGENT, cache=None, max_bytes=1_000_000)
    tracemalloc.start()
    with pytest.raises(DownloadError, match="an answer of 1,000,001 bytes or more"):
        one._unpacked(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 100_000, b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"])
def test_what_is_nested_too_deeply_is_refused(wiki, body):
    wiki.tricks = [{"status": 200, "body": body}]
    with pytest.raises(DownloadError, match="nested too deeply"):
        api(wiki).get({})
    assert len(wiki.seen) == 1


@pytest.mark.parametrize("body", [b"[]", b"null", b'"text"', b"1"])
def test_what_is_no_object_is_refused(wiki, body):
    wiki.tricks = [{"status": 200, "body": body}]
    with pytest.raises(DownloadError, match="the answer is a .*, not an object"):
        api(wiki).get({})


def test_odd_numbers_and_texts_are_data(wiki, tmp_path):
    body = b'{"nan": NaN, "inf": -Infinity, "big": 1e999, "int": %s, "long": 123456789012345678901234567890, ' % (b"9" * 9000)
    body += '"text": "\\ud800\\u0000 \U0001f30d", "error": null}'.encode()
    wiki.tricks = [{"status": 200, "body": body}]
    one = api(wiki, tmp_path / "cache")
    for _ in range(2):
        found = one.get({})
        assert found["nan"] != found["nan"] and found["inf"] == float("-inf")
        assert found["big"] == found["int"] == float("inf") and found["long"] == 123456789012345678901234567890
        assert found["text"] == "\ud800\0 \U0001f30d"
    assert (one.requests, one.cached) == (1, 1)


@given(st.binary(max_size=300))
def test_whatever_a_service_answers_is_data_or_a_clear_error(body):
    one = Api("https://wiki.invalid/w/api.php", AGENT, cache=None)
    try:
        assert isinstance(one._parsed(body), dict)
    except (DownloadError, module._Again) as error:
        assert str(error).isprintable()


def test_a_full_disk_is_said_and_leaves_no_answer_behind(wiki, tmp_path, monkeypatch):
    def full(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("geonb._util.os.fsync", full)
    with pytest.raises(DownloadError, match="could not be written .No space left.*free some space"):
        api(wiki, tmp_path / "cache").get({"a": "1"})
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file() and p.name != ".flock"]


def test_names_in_the_cache_are_hashes_whatever_is_asked(wiki, tmp_path):
    api(wiki, tmp_path / "cache").get({"../../x": "../../../etc/passwd\0", "titles": "'; DROP TABLE pages; --"})
    (file,) = (tmp_path / "cache").rglob("*.gz")
    assert len(file.name) == 64 + len(".json.gz") and file.parent.parent == tmp_path / "cache"
    assert wiki.seen[0].query == {"../../x": "../../../etc/passwd\0", "titles": "'; DROP TABLE pages; --"}
