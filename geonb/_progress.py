"""Progress bars of long work: a widget in a notebook, text in a terminal, and none where ``GEONB_PROGRESS=0``.

The book is built with none, since a bar in a page that nobody runs stands still for ever.
"""

import os
from typing import Any

from tqdm.auto import tqdm as _tqdm


class tqdm(_tqdm):  # the field's name for it
    def __init__(self, *args: Any, disable: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, disable=disable or os.environ.get("GEONB_PROGRESS") == "0", **kwargs)
