"""Small Wikipedia dumps in the true formats, with everything in them that must be left out.

For practice, tests and benchmarks. Formats: ``mysqldump`` as MariaDB writes it for Wikimedia (columns of autumn 2026),
and the weekly search index: pairs of lines in bzip2, an action and a document. Nothing here knows the code that reads
them.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

INSERT_BYTES = 1 << 20  # mysqldump begins a new INSERT after about as much
GEO_TAGS = """\
  `gt_id` int(10) unsigned NOT NULL AUTO_INCREMENT,
  `gt_page_id` int(10) unsigned NOT NULL,
  `gt_globe` varbinary(32) NOT NULL,
  `gt_primary` tinyint(1) NOT NULL,
  `gt_lat` decimal(11,8) DEFAULT NULL,
  `gt_lon` decimal(11,8) DEFAULT NULL,
  `gt_dim` int(11) DEFAULT NULL,
  `gt_type` varbinary(32) DEFAULT NULL,
  `gt_name` varbinary(255) DEFAULT NULL,
  `gt_country` binary(2) DEFAULT NULL,
  `gt_region` varbinary(3) DEFAULT NULL,
  `gt_lat_int` smallint(6) DEFAULT NULL,
  `gt_lon_int` smallint(6) DEFAULT NULL,
  PRIMARY KEY (`gt_id`),
  KEY `gt_page_primary` (`gt_page_id`,`gt_primary`),
  KEY `gt_spatial` (`gt_lat_int`,`gt_lon_int`,`gt_lon`)"""
PAGE = """\
  `page_id` int(10) unsigned NOT NULL AUTO_INCREMENT,
  `page_namespace` int(11) NOT NULL,
  `page_title` varbinary(255) NOT NULL,
  `page_is_redirect` tinyint(3) unsigned NOT NULL DEFAULT 0,
  `page_is_new` tinyint(3) unsigned NOT NULL DEFAULT 0,
  `page_random` double unsigned NOT NULL,
  `page_touched` binary(14) NOT NULL,
  `page_links_updated` varbinary(14) DEFAULT NULL,
  `page_latest` int(10) unsigned NOT NULL,
  `page_len` int(10) unsigned NOT NULL,
  `page_content_model` varbinary(32) DEFAULT NULL,
  `page_lang` varbinary(35) DEFAULT NULL,
  PRIMARY KEY (`page_id`),
  UNIQUE KEY `page_name_title` (`page_namespace`,`page_title`),
  KEY `page_random` (`page_random`)"""
HEADER = """\
-- MariaDB dump 10.19  Distrib 10.5.28-MariaDB, for debian-linux-gnu (x86_64)
--
-- Host: db0000    Database: {wiki}
-- ------------------------------------------------------
-- Server version\t10.6.22-MariaDB-log

/*!40101 SET @OLD_CHARACTER_SET_CLIENT=@@CHARACTER_SET_CLIENT */;
/*!40101 SET NAMES utf8mb4 */;
/*!40014 SET @OLD_UNIQUE_CHECKS=@@UNIQUE_CHECKS, UNIQUE_CHECKS=0 */;

--
-- Table structure for table `{table}`
--

DROP TABLE IF EXISTS `{table}`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8 */;
CREATE TABLE `{table}` (
{columns}
) ENGINE=InnoDB AUTO_INCREMENT=48043691 DEFAULT CHARSET=binary;
/*!40101 SET character_set_client = @saved_cs_client */;

--
-- Dumping data for table `{table}`
--

/*!40000 ALTER TABLE `{table}` DISABLE KEYS */;
"""
FOOTER = """\
/*!40000 ALTER TABLE `{table}` ENABLE KEYS */;
/*!40101 SET CHARACTER_SET_CLIENT=@OLD_CHARACTER_SET_CLIENT */;

-- Dump completed on 2026-09-01  7:11:13
"""
_ESCAPES = {
    0: b"\\0", 10: b"\\n", 13: b"\\r", 26: b"\\Z", 34: b'\\"', 39: b"\\'", 92: b"\\\\",
}  # fmt: skip


def sql_literal(value: Any) -> bytes:
    """A value as mysqldump writes it."""
    if value is None:
        return b"NULL"
    if isinstance(value, (str, bytes)):
        data = value.encode() if isinstance(value, str) else value
        return b"'" + b"".join(_ESCAPES.get(byte) or bytes([byte]) for byte in data) + b"'"
    return str(value).encode()


def sql_dump(table: str, columns: str, rows: Iterable[Sequence], wiki: str = "testwiki") -> Iterator[bytes]:
    """A dump of a table, in pieces: values may be None, numbers, strings or bytes."""
    yield HEADER.format(wiki=wiki, table=table, columns=columns).encode()
    start = f"INSERT INTO `{table}` VALUES ".encode()
    line: list[bytes] = []
    size = 0
    for row in rows:
        literal = b"(" + b",".join(map(sql_literal, row)) + b")"
        if line and size + len(literal) > INSERT_BYTES:
            yield start + b",".join(line) + b";\n"
            line, size = [], 0
        line.append(literal)
        size += len(literal) + 1
    if line:
        yield start + b",".join(line) + b";\n"
    yield FOOTER.format(table=table).encode()


def page_row(page_id: int, title: str, namespace: int = 0, redirect: int = 0, latest: int = 0) -> tuple:
    """A row of the table ``page``, its values in the order of its columns; ``latest`` is the page's last revision."""
    touched = "20260829071113"
    return (
        page_id, namespace, title.replace(" ", "_"), redirect, 0, 0.25 + page_id % 977 / 2000, touched, touched,
        latest or 1_200_000_000 + page_id, 4000 + page_id % 3000, "wikitext", None,
    )  # fmt: skip


def tag_row(
    tag_id: int,
    page_id: int,
    lon: float | None,
    lat: float | None,
    globe: str = "earth",
    primary: int = 1,
    dim: int | None = None,
    kind: str | None = None,
    name: str | None = None,
    country: str | None = None,
) -> tuple:
    """A row of the table ``geo_tags``, its values in the order of its columns; lon and lat in degrees."""
    tenths = [None if value is None else round(float(value) * 10) for value in (lat, lon)]
    return (tag_id, page_id, globe, primary, lat, lon, dim, kind, name, country, None, *tenths)


def document(article: dict, wiki: str = "testwiki", **more: Any) -> dict:
    """A document of the search index; fields and their order as in the weekly files."""
    text = article["text"]
    return {
        "page_id": article["page_id"], "namespace": 0, "namespace_text": "", "page_type": "primary", "wiki": wiki,
        "title": article["title"], "language": "en", "content_model": "wikitext",
        "timestamp": "2026-09-03T06:21:45Z", "create_timestamp": "2004-02-11T09:00:00Z",
        "version": article.get("revision", 1_300_000_000 + article["page_id"]),
        "wikibase_item": article.get("qid"), "opening_text": article.get("opening", text[:200]), "text": text,
        "text_bytes": len(text.encode("utf-8", "replace")), "source_text": f"'''{article['title']}''' {text}",
        "auxiliary_text": [], "category": ["Coordinates on Wikidata"], "heading": ["History"],
        "incoming_links": article.get("links", 3), "outgoing_link": ["Earth"], "redirect": [],
        **more,
    }  # fmt: skip


def pair(page_id: int, value: dict) -> bytes:
    """Two lines of the search index: the action that names a page, and its document."""
    lines = {"index": {"_id": page_id}}, value
    return b"".join(json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n" for line in lines)


def write_dumps(
    folder: str | Path,
    articles: Sequence[dict],
    wiki: str = "testwiki",
    date: str = "20260901",
    shards: int = 2,
    seed: int = 0,
    texts_date: str = "20260906",
) -> dict[str, int]:
    """The files of a wiki's dumps, in the folders that they have on the server.

    Args:
        articles: page_id, title, lon, lat, text, and as they may have them type, dim, country, qid, revision, links,
            opening.
        date: of the tables. ``texts_date``: of the search index. ``shards``: of it.

    Returns:
        How many tags or pages there are that must be left out, by what is wrong with them.
    """
    rng = random.Random(seed)
    left_out: Counter[str] = Counter()
    tags, pages, texts = [], [], []
    free = max((article["page_id"] for article in articles), default=0) + 1000

    def tag(page_id, lon, lat, **more):
        tags.append(tag_row(0, page_id, lon, lat, **more))

    def page(title: str, wrong: str, tagged: bool = True, **more: Any) -> int:
        nonlocal free
        free += rng.randrange(1, 9)
        pages.append(page_row(free, title, **more))
        if tagged:
            tag(free, 10.0, 10.0)
            left_out[wrong] += 1
        return free

    for article in articles:
        number, place = article["page_id"], (f"{article['lon']:.8f}", f"{article['lat']:.8f}")
        lon, lat = (_Number(value) for value in place)
        extra = {"dim": article.get("dim"), "kind": article.get("type"), "country": article.get("country")}
        tag(number, lon, lat, name=article["title"][:80], **extra)
        pages.append(page_row(number, article["title"]))
        texts.append((number, document(article, wiki)))
        draw = rng.random()
        if draw < 0.3:
            tag(number, 12.5, -7.25, primary=0, name="a), ('b'); INSERT INTO `geo_tags` VALUES (1,2")
            left_out["secondary"] += 1
        elif draw < 0.4:
            tag(number, 1.0, 2.0)
            left_out["second of its page"] += 1
        elif draw < 0.5:
            tag(number, 23.5, 0.75, globe=rng.choice(["moon", "mars", "Earth II", "titan"]))
            left_out["not on Earth"] += 1
        elif draw < 0.6:
            target = page(f"Old name of {article['title'][:100]}", "redirect", redirect=1)
            title = f"Old name of {article['title'][:100]}"
            texts.append((target, document({"page_id": target, "title": title, "text": ""}, page_type="redirect")))
        elif draw < 0.7:
            page(f"{article['title'][:100]}", "namespace", namespace=rng.choice([1, 2, 4, 118]))
        elif draw < 0.8:
            plain = page(f"Not a place {number}", "", tagged=False)
            prose = {"page_id": plain, "title": f"Not a place {number}", "text": "Prose. " * 40}
            texts.append((plain, document(prose)))
    for wrong, lon, lat in (
        ("no position", None, None), ("no position", 3.0, None), ("out of range", 9999, 3.0),
        ("out of range", _Number("1e309"), 0), ("out of range", 0, _Number("-" + "9" * 5000)),
    ):  # fmt: skip
        page(f"Nowhere {free}", "", tagged=False)
        tag(free, None, None)
        tags[-1] = (*tags[-1][:4], lat, lon, *tags[-1][6:])
        left_out[wrong] += 1
    free += 5
    tag(free, 5.0, 5.0)
    left_out["no page"] += 1
    page("In no shard", "in no shard")

    order = sorted(range(len(tags)), key=lambda i: (tags[i][1], i))  # articles were saved in any order
    tags = [(number + 1, *tags[i][1:]) for number, i in enumerate(order)]
    pages.sort(key=lambda row: row[0])
    tables = Path(folder) / wiki / date
    tables.mkdir(parents=True, exist_ok=True)
    sums = []
    for table, columns, rows in (("geo_tags", GEO_TAGS, tags), ("page", PAGE, pages)):
        path = tables / f"{wiki}-{date}-{table}.sql.gz"
        with path.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as stream:
            for piece in sql_dump(table, columns, rows, wiki):
                stream.write(piece)
        sums.append(f"{hashlib.sha1(path.read_bytes()).hexdigest()}  {path.name}\n")
    (tables / f"{wiki}-{date}-sha1sums.txt").write_text("".join(sums))
    index = Path(folder) / "other" / "cirrus_search_index" / texts_date / f"index_name={wiki}_content"
    index.mkdir(parents=True, exist_ok=True)
    rng.shuffle(texts)
    for number in range(shards):
        mine = [pair(*text) for text in texts[number::shards]]
        half = len(mine) // 2
        with (index / f"{wiki}_content-{texts_date}-{number:05d}.json.bz2").open("wb") as stream:
            for part in (mine[:half], mine[half:]):  # two streams of bzip2 in a file
                stream.write(bz2.compress(b"".join(part)))
    (index / "_SUCCESS").write_bytes(b"")
    return dict(left_out)


class _Number(float):
    """A number that is written as it was given."""

    text: str

    def __new__(cls, text: str) -> _Number:
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __str__(self) -> str:
        return self.text

    def __round__(self, digits: int | None = None) -> int:  # type: ignore[override]
        return 0
