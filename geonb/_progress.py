"""How far long work is, and how long it takes.

Progress bars are a widget in a notebook, text in a terminal, and none where ``GEONB_PROGRESS=0``. The book is built
with none, since a bar in a page that nobody runs stands still for ever.
"""

import math
import os
from typing import Any

from tqdm.auto import tqdm as _tqdm


class tqdm(_tqdm):  # the field's name for it
    def __init__(self, *args: Any, disable: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, disable=disable or os.environ.get("GEONB_PROGRESS") == "0", **kwargs)


def lasting(minutes: float) -> str:
    """A time as one says it: ``40 s``, ``3.1 minutes``, ``5.2 hours``."""
    if minutes < 1:
        return f"{math.ceil(60 * minutes)} s"
    return f"{minutes:.1f} minutes" if minutes < 120 else f"{minutes / 60:,.1f} hours"
