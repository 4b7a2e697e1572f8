"""Rows of one table of a MySQL or MariaDB dump, as a stream.

A dump has a ``CREATE TABLE``, which names the columns, and ``INSERT INTO `table` VALUES (...),(...);`` with some
thousand rows a line. Nothing is executed: rows are cut out by one regular expression, which is made from the columns,
knows every way in which a value may be written, and must account for every byte between ``VALUES`` and ``;``. Memory
holds :data:`CHUNK` bytes and the rows in them.

Values as in the manual (MySQL 8.4, 11.1.1, String Literals): ``\\0 \\b \\n \\r \\t \\Z \\\\ \\' \\"``; ``\\%`` and
``\\_`` stay as they are; any other ``\\x`` is x; ``''`` is ``'``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import BinaryIO

CHUNK = 1 << 20
MAX_ROW = 16 << 20  # also of a line that is no INSERT; MySQL sends no more than this at once unless told to
_HEAD = 1 << 16  # what comes before the rows of an INSERT

_NAME = rb"`((?:[^`]|``)+)`"
_STRING = rb"'[^'\\]*+(?:(?:\\.|'')[^'\\]*+)*+'"
_VALUE = rb"(?:[-+.0-9eE]++|(?:_binary )?+" + _STRING + rb"|NULL|0x[0-9A-Fa-f]*+)"
_CREATE = re.compile(rb"CREATE TABLE (?:IF NOT EXISTS )?" + _NAME)
_INSERT = re.compile(rb"INSERT INTO " + _NAME + rb"\s*(?:\(([^()]*)\)\s*)?VALUES(?=[\s(;])")
_COLUMN = re.compile(rb"\s*" + _NAME + rb"\s")
_ESCAPED = re.compile(rb"\\(.)|''", re.DOTALL)
_MEANS = {
    b"0": b"\0", b"b": b"\b", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"Z": b"\x1a", b"%": b"\\%", b"_": b"\\_",
}  # fmt: skip


class DamagedDump(ValueError):
    """A dump that is cut, damaged or no dump; says which file, and what to do."""


def sql_rows(stream: BinaryIO, table: str, columns: Sequence[str], label: str = "the dump") -> Iterator[tuple]:
    """Rows of a table, as Python values; see :func:`sql_blocks` for many rows.

    Args:
        stream: the dump, unpacked. ``table``: the table's name. ``label``: the dump's name, for messages.
        columns: the columns that are wanted, in the order in which they are wanted.

    Yields:
        None, int, float (infinite if too large for one) or bytes for each column.

    Raises:
        DamagedDump: the table or a column is not there; a statement is cut or cannot be read.
    """
    for block in sql_blocks(stream, table, columns, label):
        for row in block:
            yield tuple(map(sql_value, row))


def sql_blocks(
    stream: BinaryIO, table: str, columns: Sequence[str], label: str = "the dump"
) -> Iterator[list[tuple[bytes, ...]]]:
    """Rows of a table, some thousand at a time, as they are written in the dump; :func:`sql_value` reads a value.

    Arguments are those of :func:`sql_rows`.

    Raises:
        DamagedDump: the table or a column is not there; a statement is cut or cannot be read.
    """
    reader, usual = _Reader(stream, label), None
    while (line := reader.head()) is not None:
        if found := _INSERT.match(line):
            if _unquoted(found[1]) != table:
                reader.skip_line()
                continue
            if found[2]:
                pattern, pick = _row([_unquoted(name) for name in re.findall(_NAME, found[2])], table, columns, label)
            elif usual:
                pattern, pick = usual
            else:
                raise DamagedDump(f"{label}: rows of {table} before its CREATE TABLE; is it a whole dump?")
            reader.take(found.end())
            for block in reader.rows(pattern):
                yield [pick(row) for row in block]
        elif line.startswith(b"INSERT INTO"):
            raise DamagedDump(f"{label}: this INSERT cannot be read: {line[:80]!r}; is it a whole dump?")
        elif (found := _CREATE.match(line)) and _unquoted(found[1]) == table:
            usual = _row(reader.columns(), table, columns, label)
        else:
            reader.skip_line()
    if not usual:
        raise DamagedDump(f"{label}: no CREATE TABLE `{table}` in it; is it the dump of that table, and whole?")


def sql_value(token: bytes) -> None | int | float | bytes:
    """The value that is written in a dump; a string is bytes, as the dump does not say how it is encoded.

    Raises:
        DamagedDump: what is neither a string, NULL nor a number.
    """
    token = token.removeprefix(b"_binary ")
    if token[:1] == b"'":
        return _ESCAPED.sub(_meaning, token[1:-1])
    if token == b"NULL":
        return None
    if token[:2] == b"0x":
        digits = token[2:].decode()
        return bytes.fromhex(digits.zfill(len(digits) + len(digits) % 2))
    try:
        return int(token) if len(token) < 19 and token.lstrip(b"+-").isdigit() else float(token)
    except ValueError:
        raise DamagedDump(f"{token[:80]!r} is no number; is it a whole dump?") from None


def _meaning(escaped: re.Match) -> bytes:
    return _MEANS.get(escaped[1], escaped[1]) if escaped[1] is not None else b"'"


def _unquoted(name: bytes) -> str:
    return name.replace(b"``", b"`").decode("utf-8", "replace")


def _row(names: Sequence[str], table: str, columns: Sequence[str], label: str) -> tuple[re.Pattern, Callable]:
    """A pattern of one row with its comma, or of all that is no row; and what picks the columns from its groups."""
    if lacking := [name for name in columns if name not in names]:
        raise DamagedDump(
            f"{label}: table {table} has no column {', '.join(lacking)}; it has {', '.join(names) or 'none'}. The "
            "format has changed, or it is another table"
        )
    values = b",".join(b"(" + _VALUE + b")" if name in columns else _VALUE for name in names)
    pattern = re.compile(rb"\s*+\(" + values + rb"\)(?:\s*+,|(?=\s*+;))|(.+)", re.DOTALL)
    captured = [name for name in names if name in columns]
    index = [captured.index(name) for name in columns]
    return pattern, itemgetter(*index) if len(index) > 1 else lambda row: (row[index[0]],)


class _Reader:
    """What of a stream has been read and not yet been used."""

    def __init__(self, stream: BinaryIO, label: str) -> None:
        self.stream, self.label = stream, label
        self.data, self.at = b"", 0

    def more(self) -> bool:
        chunk = self.stream.read(CHUNK)
        self.data, self.at = self.data[self.at :] + chunk, 0
        return bool(chunk)

    def take(self, n: int) -> None:
        self.at += n

    def head(self) -> bytes | None:
        """The beginning of the line that comes next, the whole of it if it is short; None at the end."""
        while (end := self.data.find(b"\n", self.at, self.at + _HEAD)) < 0 and len(self.data) - self.at < _HEAD:
            if not self.more():
                break
        return self.data[self.at : end + 1 if end >= 0 else self.at + _HEAD] or None

    def skip_line(self) -> None:
        skipped = 0
        while (end := self.data.find(b"\n", self.at)) < 0:
            skipped += len(self.data) - self.at
            self.at = len(self.data)
            if skipped > MAX_ROW:
                raise DamagedDump(f"{self.label}: a line of more than {MAX_ROW:,} bytes that has no rows; no dump")
            if not self.more():
                return
        self.at = end + 1

    def columns(self) -> list[str]:
        """Names of the columns of the CREATE TABLE that comes next."""
        names: list[str] = []
        self.skip_line()
        while (line := self.head()) is not None and not line.startswith(b")"):
            if found := _COLUMN.match(line):
                names.append(_unquoted(found[1]))
            self.skip_line()
            if len(names) > 4096:
                raise DamagedDump(f"{self.label}: a table of more than 4,096 columns, which MySQL has not")
        return names

    def rows(self, pattern: re.Pattern) -> Iterator[list[tuple]]:
        """Rows from here to the semicolon, as groups of the pattern."""
        while True:
            found = pattern.findall(self.data, self.at)
            self.data, self.at = found.pop()[-1] if found and found[-1][-1] else b"", 0
            if found:
                yield found
            after = self.data.lstrip()
            if after.startswith(b";"):
                self.data = after[1:]
                return
            if after and not after.startswith(b"("):
                raise DamagedDump(f"{self.label}: no row, but {after[:80]!r}; get the file anew")
            if len(self.data) > MAX_ROW:
                raise DamagedDump(
                    f"{self.label}: this is no row, or one of more than {MAX_ROW:,} bytes: {after[:80]!r}; is it the "
                    "dump of this table?"
                )
            if not self.more():
                raise DamagedDump(f"{self.label}: it ends in the middle of a statement: {after[:80]!r}; get it anew")
