"""A server on the loopback interface that misbehaves as it is told, and a way to compare two folders."""

from __future__ import annotations

import hashlib
import http.server
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

ENDLESS_BYTES = 64 << 20


@dataclass
class Request:
    """What a client asked. ``path`` is as sent, without the query; ``headers`` have the names that were sent."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = b""
    at: float = 0.0  # time.monotonic() at its arrival


@dataclass
class Response:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class Server(http.server.ThreadingHTTPServer):
    """Serves files, then what a function answers, then 404.

    Attributes:
        url: ``http://127.0.0.1:PORT``.
        files: path, such as ``/a.gz`` -> bytes; with ETag, and ranges where If-Range (if sent) has that ETag.
        tricks: one for each of the next requests, ``{}`` for none; or path -> such a list. A trick may have:
            ``delay``: seconds before the answer; ``status``, with ``headers`` and ``body``: this instead;
            ``redirect``: to this address (``status``, else 302); ``etag``: instead of the right one;
            ``ignore_if_range``: a range is sent though the ETag is another;
            ``cut``: all bytes are declared, this many are sent; ``truncate``: this many are declared and sent;
            ``declare``: this length is declared; ``length``: False to declare none;
            ``endless``: the body over and over, until the client leaves or 64 MB were sent, so that a client that
            fails to stop fills no disk; ``slow``: seconds between pieces of 1 kB;
            ``raw``: these bytes instead of an HTTP answer.
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
            return Response(trick.get("status", 302), {"Location": trick["redirect"]})
        if "status" in trick:
            return Response(trick["status"], dict(trick.get("headers", {})), trick.get("body", b""))
        data = self.files.get(request.path, self.files.get(unquote(request.path)))
        if data is None:
            return self.answer(request) if self.answer else Response(404, body=b"not here")
        tag = trick.get("etag", f'"{hashlib.md5(data).hexdigest()}"')
        headers = {"ETag": tag, "Accept-Ranges": "bytes", **trick.get("headers", {})}
        asked = {name.lower(): value for name, value in request.headers.items()}
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", asked.get("range", ""))
        if not found or not (found[1] or found[2]):
            return Response(200, headers, data)
        if asked.get("if-range", tag) != tag and not trick.get("ignore_if_range"):
            return Response(200, headers, data)
        if found[1]:
            first, last = int(found[1]), min(int(found[2] or len(data)), len(data) - 1)
        else:
            first, last = max(0, len(data) - int(found[2])), len(data) - 1
        if first > last:
            return Response(416, {"Content-Range": f"bytes */{len(data)}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return Response(206, headers, data[first : last + 1])


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each small answer takes 40 ms
    server: Server

    def log_message(self, *args):
        pass

    def do_GET(self):
        here = self.server
        url = urlsplit(self.path)
        length = self.headers.get("Content-Length", "")
        request = Request(
            self.command, url.path, dict(parse_qsl(url.query, keep_blank_values=True)), dict(self.headers),
            self.rfile.read(int(length)) if length.isdecimal() else b"", time.monotonic(),
        )  # fmt: skip
        with here.lock:
            here.seen.append(request)
            here.open += 1
            here.most_at_once = max(here.most_at_once, here.open)
            trick = here.trick(request.path)
        try:
            here.stopped.wait(trick.get("delay", 0))
            if "raw" in trick:
                self.close_connection = True
                self.wfile.write(trick["raw"])
                return
            self.send(here.respond(request, trick), trick)
        finally:
            with here.lock:
                here.open -= 1

    do_HEAD = do_POST = do_GET

    def send(self, response: Response, trick: dict) -> None:
        body = response.body
        if "truncate" in trick:
            body = body[: trick["truncate"]]
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        if trick.get("length", True) and "endless" not in trick:
            self.send_header("Content-Length", str(trick.get("declare", len(body))))
        if {"cut", "declare", "length", "endless"} & trick.keys():
            self.close_connection = True
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return
        body = body[: trick.get("cut", len(body))]
        if "endless" in trick:
            body = body or b" " * 65536
            for _ in range(ENDLESS_BYTES // len(body)):
                self.wfile.write(body)
        elif "slow" in trick:
            for start in range(0, len(body), 1024):
                self.wfile.write(body[start : start + 1024])
                self.server.stopped.wait(trick["slow"])
        else:
            self.wfile.write(body)


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
