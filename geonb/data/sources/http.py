"""One HTTP client for every source, made of requests and urllib3's retries.

A request says who asks, ends after a timeout, waits as long as the server asks, and is repeated when
that may help. Addresses are https, or http on this machine (127.0.0.1) for practice and tests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from urllib3 import BaseHTTPResponse
from urllib3.util import Retry

from geonb import __version__
from geonb._util import write_atomically

TIMEOUT_S = 30
MAX_WAIT_S = 600
_ALLOWED = re.compile(r"https://[^\s/?#@\[\]]+([/?#].*)?|http://127\.0\.0\.1(:\d+)?([/?#].*)?")
_CONTACT = re.compile(r"[^\s@()]+@[^\s@()]+\.[^\s@()]+|https://[^\s@()]+\.[^\s@()]+")


class _Retry(Retry):
    """Refuse to wait longer than `MAX_WAIT_S`."""

    def get_retry_after(self, response: BaseHTTPResponse) -> float | None:
        wait = super().get_retry_after(response)
        if wait and wait > MAX_WAIT_S:
            raise OSError(f"the server asks for a pause of {wait:,.0f} s; try the same again after that")
        return wait


RETRY = _Retry(
    5,
    backoff_factor=1,
    status_forcelist=(429, 500, 502, 503, 504),
    allowed_methods=("GET", "POST"),  # catalogues take searches by POST; nothing changes there
)


def allowed(url: object) -> bool:
    """Tell whether an untrusted value is an address with https, or with http on this machine."""
    return bool(_ALLOWED.fullmatch(str(url)))


class _Session(requests.Session):
    """Refuse unencrypted addresses, also of redirects, and set a timeout."""

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        if not allowed(request.url):
            raise requests.exceptions.InvalidURL(f"{request.url}: only https is used")
        options["timeout"] = options.get("timeout") or TIMEOUT_S
        return super().send(request, **options)


def session(contact: str | None = None) -> requests.Session:
    """Make a session of requests with retries, a timeout and a User-Agent.

    Args:
        contact: e-mail address or https page of the person who runs this, for servers that ask for one.

    Raises:
        ValueError: the contact is neither.
    """
    if contact is not None and not _CONTACT.fullmatch(contact):
        raise ValueError(f"contact {contact!r} must be an e-mail address or an https:// page")
    client = _Session()
    about = contact or "https://github.com/geonb/geonb"
    client.headers["User-Agent"] = f"geonb/{__version__} ({about}) {requests.utils.default_user_agent()}"
    for scheme in ("https://", "http://"):
        client.mount(scheme, requests.adapters.HTTPAdapter(max_retries=RETRY))
    return client


@contextmanager
def asked_once() -> Iterator[None]:
    """Make the sessions of this block without retries, for a check that reports the first answer."""
    global RETRY
    before, RETRY = RETRY, _Retry(0)
    try:
        yield
    finally:
        RETRY = before


@contextmanager
def usable(url: str) -> Iterator[None]:
    """Raise ValueError with the address of an answer that is unlike what was asked for; errors of the network pass."""
    try:
        yield
    except Exception as error:  # whatever was stumbled over
        if isinstance(error, OSError) and not isinstance(error, ValueError):  # broken JSON is both to requests
            raise
        raise ValueError(f"{url}: the answer cannot be used ({type(error).__name__}: {error})") from error


def download(url: str, path: Path) -> Path:
    """Download a file that fits into memory, unless it is already in place; it appears when complete.

    Raises:
        OSError: the server refuses, is not reached, or the disk is full.
    """
    if not path.exists():
        with session() as client:
            answer = client.get(url)
        answer.raise_for_status()
        write_atomically(path, answer.content)
    return path
