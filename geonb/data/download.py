"""Files and JSON answers from the network: resumed, checked, politely asked for, and never half there.

:func:`download` gets a file. It goes on where it was cut, by whatever: a connection, a time-out, ``kill -9``. What is
there so far lies in ``NAME.partial``, and ``NAME.partial.json`` says which version of the file it is, so that two
versions are never joined. The file gets its name when it is whole and its checksum right.

:class:`Api` asks a JSON service, MediaWiki's above all: one request at a time, not too often, with a contact, and with
answers that are kept, so that no question is asked twice.

Both try again what may pass (429, 5xx, time-outs, cut bodies), and wait as long as the server asks with
``Retry-After`` (RFC 9110, 10.2.3). Nothing follows a redirect from https to http, or to anything that is neither.

Tests run against a server on the loopback interface; no address on the internet was tried.
"""

from __future__ import annotations

import email.utils
import errno
import gzip
import hashlib
import http.client
import io
import json
import logging
import os
import platform
import re
import shutil
import socket
import threading
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPMessage
from pathlib import Path
from typing import Any, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

from geonb import __version__
from geonb._util import tqdm, write_atomically

ATTEMPTS = 5
TIMEOUT_S = 30
MAX_WAIT_S = 120  # a server that asks for more is taken at its word, and left alone
MAX_BACKOFF_S = 60
RETRY = (408, 425, 429, 500, 502, 503, 504)
CHUNK = 1 << 18
PROGRESS_BYTES = 16 << 20  # after an attempt that brings as much, counting starts anew: large files are cut often
SPARE_BYTES = 64 << 20  # left free on the disk
AGENT = f"geonb/{__version__}"
FULL = (errno.ENOSPC, errno.EDQUOT)
PASSING = ("maxlag", "ratelimited", "readonly")  # codes of MediaWiki that another try may mend
MAIL = r"[A-Za-z0-9._%+'-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+"
PAGE = r"https://[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+(?::[0-9]+)?(?:/[!-'*-~]*)?"  # no brackets: they end a comment

_log = logging.getLogger(__name__)
_sleep = time.sleep
_clock = time.monotonic


class DownloadError(ValueError):
    """What is damaged, changed, too large or refused; says what to do."""


class WrongChecksum(DownloadError):
    """A file that is not the one expected.

    Attributes:
        url: where it is from, ``""`` for a file that was there. ``sha256``: of what was found.
        failures: a line for each address that did not give the file.
    """

    def __init__(self, message: str, url: str, sha256: str, failures: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.url, self.sha256, self.failures = url, sha256, list(failures)


class NetworkAbsent(DownloadError):
    """No address gave it, or there is no connection.

    Attributes:
        failures: a line for each address. ``kept``: bytes that are there, from which the next try goes on.
    """

    def __init__(self, message: str, failures: Sequence[str] = (), kept: int = 0) -> None:
        super().__init__(message)
        self.failures, self.kept = list(failures), kept


class Failed(Exception):
    """One address, and why it did not give what was asked; another one may."""


class _NoConnection(Failed):
    pass


class _Again(Exception):
    """An answer that another try may mend. ``wait``: seconds that the server asks for, 0 if it does not say."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


# --- files --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Wanted:
    path: Path
    label: str
    expected: dict[str, str]  # checksums, by algorithm
    max_bytes: int
    headers: dict[str, str]
    where: str
    elsewhere: str
    progress: bool

    @property
    def partial(self) -> Path:
        return self.path.with_name(f"{self.path.name}.partial")

    @property
    def state(self) -> Path:
        return self.path.with_name(f"{self.path.name}.partial.json")


def download(
    urls: Sequence[str],
    path: Path,
    *,
    user_agent: str = AGENT,
    sha256: str = "",
    sha1: str = "",
    max_bytes: int = 1 << 40,
    progress: bool = True,
    label: str = "",
    headers: Mapping[str, str] | None = None,
    check: Callable[[Path], str] | None = None,
    elsewhere: str = "choose another folder",
) -> str:
    """A file, from the first address that gives the right one. One that is there and right is kept, and nothing asked.

    Processes that want the same file at once wait for each other (where the system has ``flock``).

    Args:
        urls: http or https addresses of the same file.
        path: where it goes; its folder is made.
        user_agent: see :func:`user_agent`.
        sha256, sha1: published checksums, hexadecimal. Without one a file that is there is taken as it is.
        max_bytes: a larger file is refused.
        progress: show a bar, called ``label`` (else the file's name).
        headers: more of them; ``Authorization`` and ``Cookie`` are not sent on to another host.
        check: says why a downloaded file (still under another name) is not of its kind, ``""`` if it is.
        elsewhere: what a message proposes where the folder cannot be written.

    Returns:
        The SHA-256 of the file.

    Raises:
        NetworkAbsent: no address gave it.
        WrongChecksum: the file that is there is another one, or what was downloaded is; the latter is not kept.
        DownloadError: it is too large, the disk is full, or the folder cannot be written.
    """
    path, label = Path(path), label or Path(path).name
    expected = {"sha256": sha256.lower(), "sha1": sha1.lower()}
    expected = {name: value for name, value in expected.items() if value}
    for name, value in expected.items():
        if not re.fullmatch("[0-9a-f]+", value) or len(value) != 2 * hashlib.new(name).digest_size:
            raise DownloadError(f"{label}: {plain(value)!r} is no {_spelled(name)}; look at where it is published")
    if path.exists():
        return _there(path, expected)
    wanted = _Wanted(
        path, label, expected, max_bytes, {"User-Agent": user_agent, **(headers or {})}, urls[0], elsewhere, progress
    )
    with writing(path.parent, elsewhere):
        path.parent.mkdir(parents=True, exist_ok=True)
    with alone(path.with_name(f".{path.name}.flock"), f"downloads {label}", elsewhere):
        return _there(path, expected) if path.exists() else _from_any(urls, wanted, check)


def _there(path: Path, expected: Mapping[str, str]) -> str:
    found = _digests(path, expected)
    if wrong := _differs(found, expected):
        raise WrongChecksum(
            f"{path} is not the file it should be\n{wrong}\nRemove it and try again.", "", found["sha256"]
        )
    return found["sha256"]


def _from_any(urls: Sequence[str], wanted: _Wanted, check: Callable[[Path], str] | None) -> str:
    failures, wrong, wrong_url, wrong_sha256 = [], "", "", ""
    for url in urls:
        try:
            found, differs = _from_one(url, wanted)
        except Failed as error:
            failures.append(f"  {url}: {error}")
            continue
        if differs:
            wrong, wrong_url, wrong_sha256 = differs, url, found["sha256"]
        elif reason := check(wanted.partial) if check else "":
            failures.append(f"  {url}: {reason}")
        else:
            with writing(wanted.path, wanted.elsewhere):
                wanted.partial.replace(wanted.path)
            _forget(wanted.state)
            return found["sha256"]
        _forget(wanted.partial, wanted.state)
    if wrong:
        message = f"{wrong_url} is not the file it should be; nothing was kept\n{wrong}\nTry again later."
        raise WrongChecksum("\n".join([message, *failures]), wrong_url, wrong_sha256, failures)
    kept = wanted.partial.stat().st_size if wanted.partial.exists() else 0
    got = f"{kept / 1e6:,.1f} MB are there; the next try goes on from them.\n" if kept else ""
    raise NetworkAbsent(
        f"{wanted.label} is not here, and could not be downloaded:\n" + "\n".join(failures) + f"\n{got}"
        f"Without a network: get it from {wanted.where} on another machine and put it at {wanted.path}",
        failures,
        kept,
    )


def _from_one(url: str, wanted: _Wanted) -> tuple[dict[str, str], str]:
    """Checksums of what one address gave, and how they differ; what differs and was resumed is got anew, once."""
    joined = _fetch_url(url, wanted)
    found = _digests(wanted.partial, wanted.expected)
    differs = _differs(found, wanted.expected)
    if differs and joined:
        _forget(wanted.partial, wanted.state)
        _fetch_url(url, wanted)
        found = _digests(wanted.partial, wanted.expected)
        differs = _differs(found, wanted.expected)
    return found, differs


def _fetch_url(url: str, wanted: _Wanted) -> bool:
    """Download one address, going on where it was cut, and trying again while that may help.

    Returns:
        Whether it was put together from more than one answer.
    """
    if not re.match("https?://", url):
        raise Failed("only http and https are used")
    attempt, most, wait, reason = 0, _size(wanted.partial), 0.0, ""
    while attempt < ATTEMPTS:
        if attempt:
            _sleep(wait or 2.0 ** (attempt - 1))
        start, known = _resume_point(url, wanted)
        if start and start == known["total"]:
            return True
        headers = {"Accept-Encoding": "identity", **wanted.headers}
        if start:
            headers |= {"Range": f"bytes={start}-", "If-Range": known["validator"]}
        attempt, wait = attempt + 1, 0.0
        try:
            with _opener().open(Request(url, headers=headers), timeout=TIMEOUT_S) as response:
                return _receive(response, start, known, url, wanted)
        except (DownloadError, Failed):
            raise
        except HTTPError as error:
            if error.code == 416 and start:
                error.close()
                reason = "HTTP 416: the file has become shorter"
                _forget(wanted.partial, wanted.state)
                continue
            reason, wait = _judge(error)
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason, wait = _judge(error)
        size = _size(wanted.partial)
        if size - most >= PROGRESS_BYTES:
            attempt = 1
        most = max(most, size)
    raise Failed(f"{reason} (after {ATTEMPTS} attempts)")


def _receive(response: Any, start: int, known: dict, url: str, wanted: _Wanted) -> bool:
    """Write the body of a response, behind what is there where the server goes on from it; whether it did.

    Args:
        start: where the server should go on. ``known``: the note on what is there.
    """
    length, total = _length(response.headers), None
    validator = _validator(response.headers)
    if response.status == 206:
        found = re.match(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", response.headers.get("Content-Range", ""))
        total = int(found[2]) if found and found[2] != "*" else None
        pairs = (validator, known.get("validator")), (total, known.get("total"))
        if not found or int(found[1]) != start or any(now and before and now != before for now, before in pairs):
            _forget(wanted.partial, wanted.state)
            raise ConnectionError("the server went on from another byte, or another version, than asked")
        validator = validator or known.get("validator", "")
    elif response.status == 200:
        start = 0
        _forget(wanted.partial)  # before its new name is noted
    else:
        raise Failed(f"HTTP {response.status} {plain(response.reason)}")
    if total is None and length is not None:
        total = start + length
    chunked = response.headers.get("Transfer-Encoding", "").lower() == "chunked"
    if total is None and not wanted.expected and not chunked:
        raise Failed("the server does not say how long the file is, and no checksum would tell if it is cut")
    if total is not None:
        _check_size(total, wanted)
        check_disk(wanted.path.parent, total - start, wanted.elsewhere)
    note = {"url": url, "validator": validator, "total": total, "expected": wanted.expected}
    with writing(wanted.state, wanted.elsewhere):
        wanted.state.write_text(json.dumps(note), encoding="utf-8")
        stream = wanted.partial.open("ab" if start else "wb", buffering=0)
    size = start
    with (
        stream,
        tqdm(
            total=total, initial=start, unit="B", unit_scale=True, desc=wanted.label, disable=not wanted.progress,
            leave=False,
        ) as bar,
    ):  # fmt: skip
        while chunk := response.read1(CHUNK):
            _check_size(size + len(chunk), wanted)
            put(stream, chunk, wanted.partial, wanted.elsewhere, 0 if total is None else total - size)
            size += len(chunk)
            bar.update(len(chunk))
        with writing(wanted.partial, wanted.elsewhere):
            os.fsync(stream.fileno())
    if total is not None and size < total:
        raise ConnectionError(f"cut after {size:,} of {total:,} bytes")
    if not size:
        raise ConnectionError("an empty file")
    return start > 0


def _resume_point(url: str, wanted: _Wanted) -> tuple[int, dict]:
    """How many bytes are there, and the note on them; none without a name by which the server knows this version.

    Bytes of another address, or got when another checksum was published, are none.
    """
    try:
        known = json.loads(wanted.state.read_text(encoding="utf-8"))
        size = wanted.partial.stat().st_size
        same = known["url"] == url and known["expected"] == wanted.expected
        if same and (isinstance(known["validator"], str) and known["validator"] or size == known["total"]):
            return size, known
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return 0, {}


def _check_size(size: int, wanted: _Wanted) -> None:
    if size > wanted.max_bytes:
        _forget(wanted.partial, wanted.state)
        raise DownloadError(
            f"{wanted.label}: {size:,} bytes or more, but at most {wanted.max_bytes:,} are expected; nothing was "
            f"kept. Look at {wanted.where}"
        )


def _digests(path: Path, expected: Mapping[str, str]) -> dict[str, str]:
    """Checksums of a file: SHA-256, and whatever is expected."""
    sums = {name: hashlib.new(name) for name in {"sha256", *expected}}
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            for one in sums.values():
                one.update(chunk)
    return {name: one.hexdigest() for name, one in sums.items()}


def _differs(found: Mapping[str, str], expected: Mapping[str, str]) -> str:
    return "\n".join(
        f"  {_spelled(name)} expected: {value}\n  {_spelled(name)} found:    {found[name]}"
        for name, value in expected.items()
        if found[name] != value
    )


def _spelled(name: str) -> str:
    return f"SHA-{name[3:]}"


def _validator(headers: Message) -> str:
    """What goes into If-Range (RFC 9110, 13.1.5): a strong ETag, else the date, else nothing."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified", "")


def _length(headers: Message) -> int | None:
    text = headers.get("Content-Length", "").strip()
    if not re.fullmatch("[0-9]+", text):
        return None
    return int(text) if len(text) < 20 else 10**20


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _forget(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


# --- the disk -----------------------------------------------------------------------------------------


@contextmanager
def alone(path: Path, doing: str = "", elsewhere: str = "choose another folder") -> Iterator[None]:
    """Other processes and threads wait here until this one is done (no lock where the system has no ``flock``).

    Args:
        path: the lock file; it stays.
        doing: what the other one does, for the message to whom waits, e.g. "downloads a.zip"; ``""`` for no message.
        elsewhere: what a message proposes where the file cannot be written.
    """
    with writing(path, elsewhere):
        stream = path.open("a")
    with stream:
        try:
            import fcntl
        except ImportError:
            pass
        else:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if doing:
                    _log.warning("another process %s; waiting for it", doing)
                fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def check_disk(folder: Path, need: int, elsewhere: str = "choose another folder") -> None:
    """Raise DownloadError where a folder's disk has no room for ``need`` more bytes, and some to spare."""
    free = shutil.disk_usage(folder).free
    if free < need + SPARE_BYTES:
        raise DownloadError(
            f"{folder}: {free / 1e6:,.0f} MB free, but {(need + SPARE_BYTES) / 1e6:,.0f} MB are needed; free some "
            f"space or {elsewhere}"
        )


@contextmanager
def writing(path: Path, elsewhere: str = "choose another folder", need: int = 0) -> Iterator[None]:
    """Local errors become a DownloadError that says what to do. ``need``: bytes still to come, 0 if unknown."""
    try:
        yield
    except OSError as error:
        more = f"; {(need + SPARE_BYTES) / 1e6:,.0f} MB are needed" if need else ""
        todo = f"free some space{more}" if error.errno in FULL else elsewhere
        raise DownloadError(f"{path} cannot be written ({error.strerror}); {todo}") from error


def put(stream: BinaryIO, data: bytes, path: Path, elsewhere: str = "choose another folder", need: int = 0) -> None:
    """Write all bytes into a file that was opened without a buffer; see :func:`writing`."""
    rest = memoryview(data)
    with writing(path, elsewhere, need):
        while rest:
            rest = rest[stream.write(rest) :]


# --- requests -----------------------------------------------------------------------------------------


class _SameOrSafer(HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if not re.match("https?://", newurl, re.IGNORECASE):
            raise Failed(f"it sends on to {plain(newurl)}; only http and https are used")
        if req.full_url.startswith("https:") and not newurl.lower().startswith("https:"):
            raise Failed(f"it sends on to {plain(newurl)}, without encryption")
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is not None and urlsplit(newurl).netloc != urlsplit(req.full_url).netloc:
            for name in ("Authorization", "Cookie"):
                new.headers.pop(name, None)
        return new


def _opener() -> OpenerDirector:
    """One that knows http and https only, and the proxies that the environment names."""
    opener = OpenerDirector()
    for handler in (
        ProxyHandler(), HTTPHandler(), HTTPSHandler(), HTTPDefaultErrorHandler(), _SameOrSafer(), HTTPErrorProcessor(),
    ):  # fmt: skip
        opener.add_handler(handler)
    return opener


def _judge(error: Exception) -> tuple[str, float]:
    """Why a request failed, and the seconds that the server asks to wait, 0 if it does not say.

    Raises:
        Failed: another try is of no use.
    """
    if isinstance(error, HTTPError):
        error.close()
        reason = f"HTTP {error.code} {plain(str(error.reason))}"
        if error.code not in RETRY:
            raise Failed(reason) from error
        return reason, _patience(reason, error.headers)
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, str):
        raise Failed(plain(cause)) from error
    reason = f"{type(cause).__name__}: {plain(str(cause))}"
    if isinstance(cause, (socket.gaierror, ConnectionRefusedError)):
        raise _NoConnection(f"no connection ({cause})") from error
    if isinstance(cause, (ValueError, http.client.InvalidURL)):  # also certificates that are not right
        raise Failed(reason) from error
    return reason, 0.0


def _patience(reason: str, headers: Message) -> float:
    """The seconds of Retry-After; Failed where they are too many to wait for."""
    wait = retry_after(headers.get("Retry-After", ""))
    if wait > MAX_WAIT_S:
        raise Failed(f"{reason}; it asks to come back in {wait:,.0f} s")
    return wait


def retry_after(value: str) -> float:
    """Seconds of a Retry-After header, which has seconds or a date; 0 where it has neither."""
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError, IndexError):
        return 0.0


def plain(text: object) -> str:
    """A text from outside for a message: one line, no control characters, at most 300 characters."""
    return re.sub(r"[\x00-\x20\x7f-\x9f\u2028\u2029]+", " ", str(text)).strip()[:300]


# --- a JSON service -----------------------------------------------------------------------------------


def user_agent(contact: str) -> str:
    """How GeoNB presents itself, as Wikimedia's User-Agent policy asks: who, whom to write to, with what.

    Args:
        contact: an e-mail address, or an https page, of whoever runs this.

    Raises:
        ValueError: it is neither.
    """
    contact = str(contact).strip()
    if len(contact) > 200 or not re.fullmatch(f"{MAIL}|{PAGE}", contact):
        raise ValueError(
            f"{plain(contact)!r} is no contact: give an e-mail address or an https:// address at which whoever runs "
            "this can be reached; it is sent with every request, so that a server's staff can write before they block"
        )
    return f"{AGENT} ({contact}) python-urllib/{platform.python_version()}"


def contact_from(contact: str | None) -> str:
    """The contact that is given, else that of ``GEONB_CONTACT``.

    Raises:
        ValueError: there is none, or it is no contact; says how to give one.
    """
    contact = contact or os.environ.get("GEONB_CONTACT", "")
    if not contact.strip():
        raise ValueError(
            "Wikimedia asks for a contact with every request, and nothing is sent without one: give --contact "
            "YOU@YOUR.DOMAIN (or an https:// page about what you do), or set GEONB_CONTACT"
        )
    user_agent(contact)
    return contact.strip()


class Api:
    """A JSON service, asked politely: one request at a time, and with pauses.

    Threads may share one: they take turns. Processes with the same cache folder take turns, too.

    Args:
        url: of the service, such as ``https://en.wikipedia.org/w/api.php``.
        user_agent: from :func:`user_agent`; without a contact in it, nothing is asked.
        cache: the folder in which answers are kept for good, None for none. Errors are not kept.
        interval_s: at least as many seconds lie between the starts of two requests.
        attempts: how often one question is asked at most.
        max_bytes: a larger answer (unpacked) is refused.

    Attributes:
        requests: how many were sent. ``cached``: how many answers came from the cache instead.
    """

    def __init__(
        self,
        url: str,
        user_agent: str,
        *,
        cache: Path | None,
        interval_s: float = 1.0,
        attempts: int = 8,
        max_bytes: int = 64 << 20,
    ) -> None:
        if not re.match("https?://", url):
            raise ValueError(f"{plain(url)!r}: an address begins with https:// (or http://)")
        if not re.search(rf"\((?:{MAIL}|{PAGE})\)", user_agent):
            raise ValueError(f"the User-Agent {plain(user_agent)!r} has no contact in it; make it with user_agent()")
        self.url, self.user_agent, self.cache = url, user_agent, Path(cache) if cache else None
        self.interval_s, self.attempts, self.max_bytes = interval_s, attempts, max_bytes
        self.requests = self.cached = 0
        self._lock, self._last = threading.Lock(), float("-inf")

    def get(self, params: Mapping[str, str]) -> dict:
        """The answer to a question; numbers too large for a float become infinite.

        Args:
            params: names and values, as they are before they are quoted.

        Raises:
            NetworkAbsent: there is no connection.
            DownloadError: the service refuses, or its answers stay wrong; what it says is in the message.
        """
        address = f"{self.url}{'&' if '?' in self.url else '?'}{urlencode(sorted(params.items()))}"
        if self.cache is None:
            with self._lock:
                return self._ask(address)[1]
        key = hashlib.sha256(address.encode()).hexdigest()
        file = self.cache / key[:2] / f"{key}.json.gz"
        with writing(file.parent):
            file.parent.mkdir(parents=True, exist_ok=True)
        with self._lock, alone(self.cache / ".flock"):
            if (answer := self._kept(file)) is not None:
                self.cached += 1
                return answer
            body, answer = self._ask(address)
            try:
                write_atomically(file, gzip.compress(body, 6, mtime=0))
            except OSError as error:
                raise DownloadError(error.strerror) from error
            return answer

    def _kept(self, file: Path) -> dict | None:
        """An answer of the cache; None where there is none, or it is damaged."""
        try:
            return self._parsed(self._unpacked(file.read_bytes()))
        except (OSError, DownloadError, _Again):
            return None

    def _ask(self, address: str) -> tuple[bytes, dict]:
        """The body and the answer that it holds; asked again while that may help."""
        wait, reason, lost = 0.0, "", False
        for attempt in range(self.attempts):
            self._pause(wait or (min(2.0 ** (attempt - 1), MAX_BACKOFF_S) if attempt else 0.0))
            wait, lost = 0.0, False
            try:
                return self._once(address)
            except _Again as error:
                reason, wait = str(error), error.wait
            except DownloadError:
                raise
            except Failed as error:
                raise self._refused(error) from error
            except (OSError, ValueError, http.client.HTTPException) as error:
                said = _excerpt(error) if isinstance(error, HTTPError) and error.code not in RETRY else ""
                try:
                    reason, wait = _judge(error)
                except Failed as failed:
                    raise self._refused(failed, said) from error
                lost = not isinstance(error, HTTPError)
        message = f"{self._host()}: {reason} (after {self.attempts} attempts); the same command goes on later"
        raise NetworkAbsent(message) if lost else DownloadError(message)

    def _once(self, address: str) -> tuple[bytes, dict]:
        self.requests += 1
        headers = {"User-Agent": self.user_agent, "Accept": "application/json", "Accept-Encoding": "gzip"}
        with _opener().open(Request(address, headers=headers), timeout=TIMEOUT_S) as response:
            body = self._body(response)
            answer = self._parsed(body)
            if said := answer.get("error"):
                self._complain(said, response.headers)
        return body, answer

    def _complain(self, said: Any, headers: Message) -> None:
        """MediaWiki says that something is wrong with HTTP 200."""
        said = said if isinstance(said, dict) else {"info": said}
        code, info = plain(said.get("code", "")), plain(said.get("info", ""))
        reason = f"the service says {code or 'that there is an error'}: {info}"
        if code not in PASSING and not code.startswith("internal_api_error_"):
            raise DownloadError(f"{self._host()}: {reason}")
        raise _Again(reason, _patience(reason, headers))

    def _body(self, response: Any) -> bytes:
        """The whole body, unpacked; what is cut or damaged may be whole the next time."""
        length = _length(response.headers)
        self._check(length or 0)
        parts, size = [], 0
        while chunk := response.read(CHUNK):
            size += len(chunk)
            self._check(size)
            parts.append(chunk)
        if length is not None and size < length:
            raise _Again(f"cut after {size:,} of {length:,} bytes")
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        if encoding in ("", "identity"):
            return b"".join(parts)
        if encoding not in ("gzip", "x-gzip"):
            raise _Again(f"the answer is packed with {plain(encoding)}, which was not asked for")
        return self._unpacked(b"".join(parts))

    def _unpacked(self, packed: bytes) -> bytes:
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(packed)) as stream:
                body = stream.read(self.max_bytes + 1)
        except (EOFError, zlib.error, OSError) as error:
            raise _Again(f"the gzip data are cut or damaged ({error})") from error
        self._check(len(body))
        return body

    def _parsed(self, body: bytes) -> dict:
        try:
            answer = json.loads(body.decode("utf-8"), parse_int=_number)
        except RecursionError as error:
            raise DownloadError(f"{self._host()}: the answer is nested too deeply to be read") from error
        except ValueError as error:
            raise _Again(f"the answer is no JSON in UTF-8 ({plain(str(error))}): {plain(repr(body[:80]))}") from error
        if not isinstance(answer, dict):
            raise DownloadError(f"{self._host()}: the answer is a {type(answer).__name__}, not an object")
        return answer

    def _check(self, size: int) -> None:
        if size > self.max_bytes:
            raise DownloadError(
                f"{self._host()}: an answer of {size:,} bytes or more; at most {self.max_bytes:,} are read"
            )

    def _pause(self, wait: float) -> None:
        """Until ``wait`` seconds have passed, and the interval since the last request started."""
        now = _clock()
        if (left := max(self._last + self.interval_s, now + wait) - now) > 0:
            _sleep(left)
        self._last = _clock()

    def _refused(self, error: Failed, said: str = "") -> DownloadError:
        kind = NetworkAbsent if isinstance(error, _NoConnection) else DownloadError
        return kind(f"{self._host()}: {error}{f': {said}' if said else ''}")

    def _host(self) -> str:
        return plain(urlsplit(self.url).netloc)


def _excerpt(error: HTTPError) -> str:
    """The beginning of the page that comes with an error: it may say why."""
    try:
        return plain(error.read(2000).decode("utf-8", "replace"))
    except (OSError, ValueError, http.client.HTTPException):
        return ""


def _number(text: str) -> int | float:
    return int(text) if len(text) < 4000 else float(text)  # Python refuses to read longer ones as int
