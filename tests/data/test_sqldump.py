"""Rows out of SQL dumps: every way to write a value, every place to cut, and nothing that is no dump."""

import io
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geonb.data.practice_dumps import PAGE, page_row, sql_dump
from geonb.data.sources import sqldump
from geonb.data.sources.sqldump import DamagedDump, sql_rows, sql_value

COLUMNS = "  `a` int(10) unsigned NOT NULL,\n  `b` varbinary(255) DEFAULT 'x,`y`',\n  `c` double DEFAULT NULL,\n  PRIMARY KEY (`a`)"
VALUES = st.one_of(
    st.none(),
    st.integers(-(10**17), 10**17),
    st.floats(allow_nan=False, allow_infinity=False),
    st.binary(max_size=20),
    st.lists(st.sampled_from([b"'", b"\\", b"),(", b"''", b"\\'", b"\n", b"\0", b"INSERT INTO `t` VALUES (", b";\n", b"\x1a"])).map(b"".join),
)


def rows_of(dump: bytes, columns="abc", table="t"):
    return list(sql_rows(io.BytesIO(dump), table, list(columns)))


def dump_of(rows, columns=COLUMNS):
    return b"".join(sql_dump("t", columns, rows))


@given(st.lists(st.tuples(VALUES, VALUES, VALUES), max_size=8))
def test_what_is_written_is_read(rows):
    assert rows_of(dump_of(rows)) == rows


@given(st.lists(st.tuples(VALUES, VALUES, VALUES), min_size=1, max_size=4), st.integers(1, 40))
def test_it_does_not_matter_how_the_stream_is_cut_into_chunks(rows, size):
    before, sqldump.CHUNK = sqldump.CHUNK, size
    try:
        assert rows_of(dump_of(rows)) == rows
    finally:
        sqldump.CHUNK = before


@given(st.binary(max_size=200))
def test_bytes_that_are_no_rows_are_refused_or_are_rows(data):
    try:
        for row in rows_of(dump_of([])[:-60] + b"\nINSERT INTO `t` VALUES " + data):
            assert len(row) == 3
    except DamagedDump as error:
        assert str(error)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (rb"'a\0b\'c\"d\be\nf\rg\th\Zi\\j'", b"a\0b'c\"d\be\nf\rg\th\x1ai\\j"),
        (rb"'50\% of \_x\_'", rb"50\% of \_x\_"),
        (rb"'\q\x'", b"qx"),
        (b"'it''s'''", b"it's'"),
        (b"''", b""),
        (b"'\xff\xfe caf\xc3\xa9'", b"\xff\xfe caf\xc3\xa9"),
        (b"0x4D7953514C", b"MySQL"),
        (b"0xABC", b"\x0a\xbc"),
        (b"_binary 'a\\0'", b"a\0"),
        (b"NULL", None),
        (b"-12", -12),
        (b"+3", 3),
        (b"-33.04488000", -33.04488),
        (b".5", 0.5),
        (b"1.5e-7", 1.5e-7),
        (b"1e309", math.inf),
        (b"-1E400", -math.inf),
        (b"9" * 5000, math.inf),
        (b"12345678901234567890", 12345678901234567890.0),
    ],
)
def test_every_way_to_write_a_value(written, value):
    assert sql_value(written) == value
    dump = dump_of([(1, b"before", 0.5)]).replace(b"'before'", written)
    assert rows_of(dump) == [(1, value, 0.5)]


@pytest.mark.parametrize("written", [b"1-2", b"--", b"e", b"1.2.3"])
def test_what_looks_like_a_number_and_is_none_is_refused(written):
    with pytest.raises(DamagedDump, match="no number"):
        sql_value(written)


def test_columns_are_found_by_their_names_in_any_order_and_only_those_that_are_wanted_are_given():
    dump = dump_of([(1, b"x", 2.5), (2, None, -1)])
    assert rows_of(dump, "ca") == [(2.5, 1), (-1, 2)]
    assert rows_of(dump, "b") == [(b"x",), (None,)]
    turned = COLUMNS.replace("`a`", "`z`", 1).replace("`c`", "`a`").replace("`z`", "`c`", 1)
    assert rows_of(dump_of([(1, b"x", 2.5)], turned), "ca") == [(1, 2.5)]


def test_an_insert_may_name_its_columns_have_a_row_a_line_and_be_one_of_several():
    dump = dump_of([(1, b"x", 2)]) + b"INSERT INTO `t` (`c`,`a`,`b`) VALUES\n(5,6,'y'),\n (7,8,'z') ;\nINSERT INTO `u` VALUES (1);\n"
    assert rows_of(dump) == [(1, b"x", 2), (6, b"y", 5), (8, b"z", 7)]


def test_rows_of_other_tables_are_not_read_even_where_they_speak_of_this_one():
    other = b"INSERT INTO `other` VALUES ('INSERT INTO `t` VALUES (1,\\'x\\',2);');\n"
    assert rows_of(other + dump_of([(1, b"x", 2)]) + other) == [(1, b"x", 2)]


def test_the_page_table_as_wikimedia_dumps_it():
    titles = ["Robert'); DROP TABLE page;--", 'A_"quoted"_\\_title', "x'),(1,0,'y", "Zürich", "<script>alert(1)</script>"]
    dump = b"".join(sql_dump("page", PAGE, [page_row(i, title) for i, title in enumerate(titles, 1)]))
    rows = list(sql_rows(io.BytesIO(dump), "page", ["page_title", "page_id"]))
    assert rows == [(title.replace(" ", "_").encode(), i) for i, title in enumerate(titles, 1)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.replace(b"`b` varbinary", b"`bb` varbinary"), "no column b; it has a, bb, c"),
        (lambda d: d.replace(b"`t`", b"`tt`"), "no CREATE TABLE `t`"),
        (lambda d: b"", "no CREATE TABLE `t`"),
        (lambda d: b"<html>404</html>", "no CREATE TABLE `t`"),
        (lambda d: d[d.index(b"INSERT") :], "rows of t before its CREATE TABLE"),
        (lambda d: d.replace(b"`c` double", b"`cc` double").replace(b"INSERT", b"-- INSERT"), "no column c"),
        (lambda d: d[: d.index(b"'x'") + 2], "middle of a statement"),
        (lambda d: d.replace(b"'x',2)", b"'x',2,3)"), "middle of a statement"),
        (lambda d: d.replace(b"'x',2)", b"'x')"), "middle of a statement"),
        (lambda d: d.replace(b"(1,'x',2)", b"(1,'x',SLEEP(9))"), "middle of a statement"),
        (lambda d: d.replace(b"(1,'x',2)", b"(1,'x',2) UNION"), "middle of a statement"),
        (lambda d: d.replace(b"(1,'x',2)", b"(1,'x',2),1"), "no row"),
        (lambda d: d.replace(b"VALUES (1", b"SELECT (1"), "this INSERT cannot be read"),
    ],
)
def test_what_is_no_whole_dump_of_the_table_is_refused(change, message):
    with pytest.raises(DamagedDump, match=re.escape(message)):
        rows_of(change(dump_of([(1, b"x", 2)])))


class Endless(io.RawIOBase):
    """A beginning, then the same over and over; it stops the test if far too much is read."""

    def __init__(self, start: bytes, more: bytes):
        self.start, self.more, self.sent = start, more, 0

    def read(self, n=-1):
        if not self.sent:
            self.sent = len(self.start)
            return self.start
        self.sent += n
        assert self.sent < 20 << 20, "it is not noticed that there is no end"
        return (self.more * (n // len(self.more) + 1))[:n]


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (b"", b"x"),
        (b"INSERT INTO `t` VALUES (1,'", b"x"),
        (b"INSERT INTO `t` VALUES (", b"9"),
        (b"INSERT INTO `t` VALUES (1,'x',2),", b" "),
        (b"INSERT INTO `t` VALUES (1,2,", b"'x',"),
        (b"INSERT INTO `other` VALUES (", b"1,"),
        (b"CREATE TABLE `t` (\n", b"  `a` int,\n"),
        (b"CREATE TABLE `t` (", b"`a"),
    ],
)
def test_a_line_a_row_or_a_table_without_an_end_is_refused(monkeypatch, start, more):
    monkeypatch.setattr(sqldump, "MAX_ROW", 4 << 20)
    with pytest.raises(DamagedDump):
        for _ in sql_rows(Endless(dump_of([]) + start, more), "t", ["a", "b"]):
            pass
