"""One HTTP client for every source, made of requests, urllib3's retries, pooch and filelock.

A request says who asks, ends after a timeout, waits as long as the server asks it to, and is repeated when that may
help. Addresses are https; plain http works on this machine only (127.0.0.1), for practice inputs and tests. The client
does not know what is asked for, and it does not limit how often: that is up to the source.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from urllib3 import BaseHTTPResponse
from urllib3.util import Retry

from geonb import __version__
from geonb._util import tqdm

TIMEOUT_S = 30
MAX_WAIT_S = 600
_CONTACT = re.compile(r"[^\s@()]+@[^\s@()]+\.[^\s@()]+|https://[^\s@()]+\.[^\s@()]+")


class _Retry(Retry):
    """Refuse to wait longer than `MAX_WAIT_S`; urllib3 alone would sleep for hours without a word."""

    def get_retry_after(self, response: BaseHTTPResponse) -> float | None:
        wait = super().get_retry_after(response)
        if wait and wait > MAX_WAIT_S:
            raise OSError(f"the server asks for a pause of {wait:,.0f} s; give the same command again after that")
        return wait


# POST is among the methods because catalogues take their searches so; such a request changes nothing on the server.
RETRY = _Retry(
    total=5, backoff_factor=1, status_forcelist=(429, 500, 502, 503, 504), allowed_methods=("GET", "HEAD", "POST"),
    respect_retry_after_header=True,
)  # fmt: skip


class _Session(requests.Session):
    """A session that refuses unencrypted addresses, also those of redirects, and has a timeout by default."""

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        address = urlsplit(request.url or "")
        if address.scheme != "https" and (address.scheme, address.hostname) != ("http", "127.0.0.1"):
            raise requests.exceptions.InvalidURL(f"{address.scheme}://{address.hostname}: only https is used")
        if options.get("timeout") is None:
            options["timeout"] = TIMEOUT_S
        return super().send(request, **options)


def session(contact: str | None = None) -> requests.Session:
    """Make the client: a session of requests with retries, a timeout and a User-Agent.

    Args:
        contact: the e-mail address or https page of the person who runs this, for servers that ask for one.

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


def find_contact(contact: str | None = None) -> str:
    """Return the contact that was given, else the one in ``GEONB_CONTACT``.

    Raises:
        ValueError: there is none.
    """
    found = (contact or os.environ.get("GEONB_CONTACT", "")).strip()
    if not found:
        raise ValueError(
            "Wikimedia asks programs for a contact, so nothing is sent without one: give --contact YOU@YOUR.DOMAIN "
            "(or an https:// page about your project), or set GEONB_CONTACT"
        )
    return found


def download(url: str, path: str | Path, sha256: str | None = None) -> Path:
    """Download a file unless it is already in place; other processes that want the same file wait.

    Args:
        url: the https address.
        path: the file to make. It appears under this name only when it is complete and its checksum is right.
        sha256: its published checksum. Without one, an existing file is taken as it is.

    Raises:
        ValueError: the checksum is another one; nothing is kept.
        OSError: the server refuses, is not reached, or the disk is full.
    """
    import pooch
    from filelock import FileLock

    target = Path(path)

    def fetch(url: str, file: str, _: Any) -> None:
        with session() as client, client.get(url, stream=True, headers={"Accept-Encoding": "identity"}) as answer:
            answer.raise_for_status()
            size = int(answer.headers.get("Content-Length", 0)) or None
            with open(file, "wb") as out, tqdm(total=size, unit="B", unit_scale=True, desc=target.name) as bar:
                for piece in answer.iter_content(1 << 20):
                    bar.update(out.write(piece))

    target.parent.mkdir(parents=True, exist_ok=True)
    known = f"sha256:{sha256}" if sha256 else None
    with FileLock(f"{target}.lock"):
        pooch.retrieve(url, known, target.name, target.parent, downloader=fetch)
    return target
