"""Progress bars of long work: a widget in a notebook, text in a terminal, and none where ``GEONB_PROGRESS=0``.

The book is built with none, since a bar in a page that nobody runs stands still for ever.
"""

import os

from tqdm.auto import tqdm as _tqdm


class tqdm(_tqdm):  # the field's name for it
    def __init__(self, *args, disable: bool = False, **kwargs):
        super().__init__(*args, disable=disable or os.environ.get("GEONB_PROGRESS") == "0", **kwargs)
