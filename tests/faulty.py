"""A server on the loopback interface that fails on request, and a way to compare two folders."""

from __future__ import annotations

import hashlib
import http.server
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit


@dataclass
class Request:
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
        tricks: for each of the next requests, or path -> such a list: ``delay`` in seconds, an answer's ``status``,
            ``headers`` and ``body``, or ``cut``, how many of the declared bytes are sent.
        seen: the requests, in the order of arrival.
    """

    daemon_threads = True

    def __init__(self, files: dict[str, bytes] | None, answer: Callable[[Request], Response] | None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files, self.answer = dict(files or {}), answer
        self.tricks: list[dict] | dict[str, list[dict]] = []
        self.seen: list[Request] = []
        self.lock, self.stopped = threading.Lock(), threading.Event()

    def handle_error(self, request, client_address):
        """A client that leaves in the middle is part of the tests."""

    def respond(self, request: Request, trick: dict) -> Response:
        if "status" in trick:
            return Response(trick["status"], trick.get("headers", {}), trick.get("body", b""))
        if (data := self.files.get(request.path)) is None:
            return self.answer(request) if self.answer else Response(404, body=b"not here")
        wanted = {name.lower(): value for name, value in request.headers.items()}.get("range", "")
        if not (found := re.fullmatch(r"bytes=(\d+)-(\d*)", wanted)):
            return Response(200, {"Accept-Ranges": "bytes"}, data)
        first, last = int(found[1]), min(int(found[2] or len(data)), len(data) - 1)
        return Response(206, {"Content-Range": f"bytes {first}-{last}/{len(data)}"}, data[first : last + 1])


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each small answer takes 40 ms
    server: Server

    def log_message(self, *args):
        """Requests are not shown."""

    def do_GET(self):
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = Request(url.path, dict(parse_qsl(url.query)), dict(self.headers), body)
        with self.server.lock:
            self.server.seen.append(request)
            tricks = self.server.tricks
            tricks = tricks.get(url.path, []) if isinstance(tricks, dict) else tricks
            trick = tricks.pop(0) if tricks else {}
        self.server.stopped.wait(trick.get("delay", 0))
        response = self.server.respond(request, trick)
        self.send_response(response.status)
        for name, value in {**response.headers, "Content-Length": str(len(response.body))}.items():
            self.send_header(name, value)
        self.close_connection = self.close_connection or "cut" in trick
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body[: trick.get("cut")])

    do_HEAD = do_POST = do_GET


@contextmanager
def serve(
    files: dict[str, bytes] | None = None, answer: Callable[[Request], Response] | None = None
) -> Iterator[Server]:
    """A server for as long as the ``with`` block lasts; see :class:`Server`."""
    server = Server(files, answer)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield server
    finally:
        server.stopped.set()
        server.shutdown()
        server.server_close()


def tree(path) -> dict[str, str]:
    """Relative file -> SHA-256, ``features/`` (kept results of models) left out: equal trees are equal stores."""
    root = Path(path)
    files = sorted(p for p in root.rglob("*") if p.is_file() and p.relative_to(root).parts[0] != "features")
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
