"""A server on the loopback interface that fails as it is told, and a way to compare two folders."""

from __future__ import annotations

import hashlib
import http.server
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit


@dataclass
class Request:
    """What a client asked. ``path`` is as sent, without the query; ``headers`` have the names that were sent."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = b""


@dataclass
class Response:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class Server(http.server.ThreadingHTTPServer):
    """Serves files, then what a function answers, then 404.

    Attributes:
        url: ``http://127.0.0.1:PORT``.
        files: path, such as ``/a.gz`` -> bytes; ranges of them are served.
        tricks: one for each of the next requests, ``{}`` for none; or path -> such a list. A trick may have:
            ``delay``: seconds before the answer; ``status``, with ``headers`` and ``body``: this instead;
            ``redirect``: to this address; ``cut``: all bytes are declared, this many are sent.
        seen: the requests, in the order of arrival.
        most_at_once: how many were open at one time.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, files: dict[str, bytes] | None, answer: Callable[[Request], Response] | None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files, self.answer = dict(files or {}), answer
        self.tricks: list[dict] | dict[str, list[dict]] = []
        self.seen: list[Request] = []
        self.most_at_once = self.open = 0
        self.lock, self.stopped = threading.Lock(), threading.Event()

    def handle_error(self, request, client_address):
        """A client that leaves in the middle is part of the tests."""

    def trick(self, path: str) -> dict:
        tricks = self.tricks.get(path, []) if isinstance(self.tricks, dict) else self.tricks
        return tricks.pop(0) if tricks else {}

    def respond(self, request: Request, trick: dict) -> Response:
        """The whole answer, before anything of its body is cut."""
        if "redirect" in trick:
            return Response(302, {"Location": trick["redirect"]})
        if "status" in trick:
            return Response(trick["status"], dict(trick.get("headers", {})), trick.get("body", b""))
        data = self.files.get(request.path, self.files.get(unquote(request.path)))
        if data is None:
            return self.answer(request) if self.answer else Response(404, body=b"not here")
        headers = {"Accept-Ranges": "bytes"}
        wanted = {name.lower(): value for name, value in request.headers.items()}.get("range", "")
        if not (found := re.fullmatch(r"bytes=(\d+)-(\d*)", wanted)):
            return Response(200, headers, data)
        first, last = int(found[1]), min(int(found[2] or len(data)), len(data) - 1)
        if first > last:
            return Response(416, {"Content-Range": f"bytes */{len(data)}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return Response(206, headers, data[first : last + 1])


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each small answer takes 40 ms
    server: Server

    def log_message(self, *args):
        """Requests are not shown."""

    def do_GET(self):
        url = urlsplit(self.path)
        request = Request(
            self.command, url.path, dict(parse_qsl(url.query, keep_blank_values=True)), dict(self.headers),
            self.rfile.read(int(self.headers.get("Content-Length", 0))),
        )  # fmt: skip
        with self.server.lock:
            self.server.seen.append(request)
            self.server.open += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.open)
            trick = self.server.trick(request.path)
        try:
            self.server.stopped.wait(trick.get("delay", 0))
            self.send(self.server.respond(request, trick), trick.get("cut"))
        finally:
            with self.server.lock:
                self.server.open -= 1

    do_HEAD = do_POST = do_GET

    def send(self, response: Response, cut: int | None) -> None:
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(response.body)))
        self.close_connection = self.close_connection or cut is not None
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body[:cut])


@contextmanager
def serve(
    files: dict[str, bytes] | None = None, answer: Callable[[Request], Response] | None = None
) -> Iterator[Server]:
    """A server for as long as the ``with`` block lasts; see :class:`Server`. Set ``no_proxy`` for 127.0.0.1."""
    server = Server(files, answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopped.set()
        server.shutdown()
        thread.join()
        server.server_close()


def tree(path) -> dict[str, str]:
    """Relative file -> SHA-256, ``features/`` (kept results of models) left out: equal trees are equal stores."""
    root = Path(path)
    files = sorted(p for p in root.rglob("*") if p.is_file() and p.relative_to(root).parts[0] != "features")
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
