"""Files that are whole or not there, whatever stops the writing; and what is said of tables in other encodings."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, data: bytes | Callable[[BinaryIO], object]) -> None:
    """The whole file or the one that was there before; a partial file is not left behind.

    Args:
        path: the file; its folder must be there.
        data: its bytes, or a function that writes them into an open file.

    Raises:
        OSError: no space, no folder or no permission; the message says whether the last good file is kept.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            data(file) if callable(data) else file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        kept = "the one before it is kept" if path.exists() else "nothing was kept"
        advice = "; free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise OSError(error.errno, f"{path} could not be written ({error.strerror}); {kept}{advice}") from None


def not_utf8(path: Path, error: Exception) -> ValueError:
    """What to raise for a CSV file in another encoding: which one its bytes do not tell, so it is not guessed."""
    return ValueError(
        f"{path}: not UTF-8 ({error}); save the table anew, in a spreadsheet as “CSV UTF-8”, or convert it, if it is "
        "from Western Europe's Windows by: iconv -f CP1252 -t UTF-8 OLD.csv > NEW.csv"
    )
