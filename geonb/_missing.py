"""What counts as no value in a column."""

from __future__ import annotations


def is_missing(value: object) -> bool:
    """Whether a value is None, NaN, or pandas' NaT or NA.

    NaN and NaT do not equal themselves; whether NA does, is NA, which is neither true nor false.
    """
    return value is None or str(value == value) in ("False", "<NA>")


def is_unknown(value: object) -> bool:
    """Whether a class is not known: missing, or an empty string. 0 and False are classes."""
    return is_missing(value) or value == ""
