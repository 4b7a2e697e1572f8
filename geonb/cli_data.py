"""The verbs of ``geonb data``: each is a thin door to a function that makes, checks or describes a place store."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geonb.data.store import PlaceStore


def add_verbs(data: Any) -> None:
    """Add the verbs to the subparsers of ``geonb data``."""
    p = data.add_parser("sample", help="the Atlas sample: real places and facts, simulated images")
    _out(p)
    p.add_argument("--places", type=int, default=8000, metavar="N")
    p.add_argument("--seed", type=int, default=0)
    p.set_defaults(run=_sample)

    _wikipedia(
        data.add_parser("wikipedia", help="articles with a position, from a table or from Wikipedia")
    )
    _sentinel2(data.add_parser("sentinel2", help="Sentinel-2 chips at places of yours, or at points on land"))

    p = data.add_parser("alphaearth", help="AlphaEarth's annual embeddings at the places of a store, without login")
    p.add_argument("store", type=Path, metavar="STORE")
    p.add_argument("--year", type=int, required=True, metavar="YYYY")
    p.add_argument("--out", required=True, type=Path, metavar="FILE.parquet", help="for geonb train --extra")
    p.set_defaults(run=_alphaearth)

    p = data.add_parser("published", help="a published set of chips that is on the disk already")
    p.add_argument("set", choices=["s2-100k", "ssl4eo-s12", "major-tom"])
    p.add_argument("folder", type=Path, metavar="FOLDER")
    _out(p)
    p.add_argument("--size", type=int, metavar="PIXELS", help="of the square in the middle that is kept")
    p.add_argument("--limit", type=int, metavar="N")
    p.set_defaults(run=_published)

    p = data.add_parser("local", help="a store from CSV files of texts and Sentinel-2 GeoTIFF chips")
    p.add_argument("--csv", nargs="*", type=Path, default=[], metavar="FILE")
    p.add_argument("--chips", nargs="*", type=Path, default=[], metavar="FILE")
    _out(p)
    p.add_argument("--drop-invalid", action="store_true", help="drop rows without a usable position, do not stop")
    p.add_argument("--keep-suspicious", action="store_true", help="keep positions that are very probably wrong")
    p.set_defaults(run=_local)

    p = data.add_parser("labels", help="label tables of the literature: download them once, checked")
    p.add_argument("names", nargs="*", metavar="NAME", help="all of them if none is given")
    p.add_argument("--list", action="store_true", help="only say what there is, with licences")
    p.set_defaults(run=_labels)

    p = data.add_parser("quality", help="coverage, density, lengths, clouds, seasons and duplicates of a store")
    p.add_argument("dir", type=Path, metavar="DIR")
    p.set_defaults(run=_quality)

    p = data.add_parser("check", help="verify a store: files, hashes, coordinates, texts, images")
    p.add_argument("dir", type=Path, metavar="DIR")
    p.set_defaults(run=_check)


def _out(p: argparse.ArgumentParser) -> None:
    p.add_argument("--out", required=True, type=Path, metavar="DIR", help="unfinished work is kept in DIR.work")


def _box(p: argparse.ArgumentParser, required: bool = False) -> None:
    p.add_argument(
        "--bbox", nargs=4, type=float, required=required, metavar=("WEST", "SOUTH", "EAST", "NORTH"),
        help="in degrees; west > east crosses the antimeridian",
    )  # fmt: skip


def _wikipedia(p: argparse.ArgumentParser) -> None:
    routes = p.add_subparsers(required=True, metavar="ROUTE")

    p = routes.add_parser("table", help="a ready Parquet table: a file, a pattern, a hub path, or wikipedia-geotagged")
    p.add_argument("source", metavar="SOURCE")
    _article_options(p)
    p.add_argument("--snapshot", metavar="YYYYMMDD", help="of the dump behind the table")
    p.add_argument("--limit", type=int, metavar="N")
    _box(p)
    p.set_defaults(run=_wikipedia_table)

    p = routes.add_parser("api", help="Wikipedia itself, for an area of the size of a workshop")
    _article_options(p)
    _contact(p)
    p.add_argument("--text", choices=["intro", "full"], default="intro")
    p.add_argument("--max-requests", type=int, default=2000, metavar="N", help="refuse an area that needs more")
    _box(p, required=True)
    p.set_defaults(run=_wikipedia_api)


def _article_options(p: argparse.ArgumentParser) -> None:
    _out(p)
    p.add_argument("--lang", default="en", metavar="CODE", help="of the Wikipedia, such as en, de or pt")
    p.add_argument("--min-chars", type=int, default=50, metavar="N", help="shorter texts are left out")
    p.add_argument("--places-only", action="store_true", help="leave out people, events, organisations and lists")


def _contact(p: argparse.ArgumentParser) -> None:
    p.add_argument("--contact", metavar="MAIL|URL", help="sent with every request; or set GEONB_CONTACT")


def _sentinel2(p: argparse.ArgumentParser) -> None:
    sources = p.add_subparsers(required=True, metavar="SOURCE")

    p = sources.add_parser("stac", help="scenes from a public catalogue, without login")
    _chip_options(p)
    p.add_argument("--method", default="least_cloudy", choices=["least_cloudy", "median"])
    p.set_defaults(run=_sentinel2_stac)

    p = sources.add_parser("ee", help="composites computed by Earth Engine, with a project of yours")
    _chip_options(p)
    p.add_argument("--project", metavar="ID", help="a Cloud project registered for Earth Engine; or GEONB_EE_PROJECT")
    p.add_argument("--method", default="clearest", choices=["clearest", "median"])
    p.add_argument("--max-requests", type=int, default=1000, metavar="N", help="refuse more; a chip is a request")
    p.add_argument("--estimate", action="store_true", help="say what it would ask for, and stop")
    p.set_defaults(run=_sentinel2_ee)


def _chip_options(p: argparse.ArgumentParser) -> None:
    where = p.add_mutually_exclusive_group(required=True)
    where.add_argument("--store", type=Path, metavar="STORE", help="at the places of a store, whose texts are kept")
    where.add_argument("--points", type=Path, metavar="FILE", help="CSV or Parquet with lon and lat")
    where.add_argument("--land", type=int, metavar="N", help="N points on land, even by area")
    where.add_argument("--like", nargs=2, metavar=("STORE", "N"), help="N points on land, dense where the store is")
    where.add_argument(
        "--around", nargs=3, metavar=("STORE", "K", "KM"), help="K points within KM kilometres of each place of a store"
    )
    p.add_argument("--seed", type=int, default=0, help="of the points")
    p.add_argument("--period", nargs=2, required=True, metavar=("FROM", "TO"), help="days, YYYY-MM-DD")
    p.add_argument("--size", type=int, default=64, metavar="PIXELS", help="edge of a chip, at 10 m a pixel")
    p.add_argument("--workers", type=int, metavar="N", help="requests at a time")
    _out(p)


def _where(args):
    """Positions (n, 2), or a store, as the options say."""
    from geonb.data.sampling import density_points, land_points, points_around
    from geonb.data.store import PlaceStore
    from geonb.inference import read_positions

    if args.store:
        return PlaceStore.open(args.store)
    if args.points:
        return read_positions(args.points)
    if args.land is not None:
        if args.land < 1:
            raise ValueError(f"--land {args.land}: give a number of points, 1 or more")
        return land_points(args.land, args.seed)
    if args.like:
        return density_points(PlaceStore.open(args.like[0]).lonlat, int(args.like[1]), args.seed)
    store, per_place, max_km = args.around
    return points_around(PlaceStore.open(store).lonlat, int(per_place), float(max_km), args.seed)


def _given(args: argparse.Namespace, *names: str) -> dict:
    """The options that were given, by name."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def _sample(args: argparse.Namespace) -> None:
    from geonb.sample import make_atlas

    store = make_atlas(args.out, places=args.places, seed=args.seed)
    print(f"{store.path}: {len(store):,} places; facts are real, images simulated (see datacard.md)")


def _wikipedia_table(args: argparse.Namespace) -> None:
    from geonb.data.sources.wikipedia import from_table

    options = _given(args, "lang", "snapshot", "bbox", "min_chars", "places_only", "limit")
    _done(from_table(args.out, args.source, **options))


def _wikipedia_api(args: argparse.Namespace) -> None:
    from geonb.data.sources.wikipedia import from_api

    options = _given(args, "lang", "contact", "bbox", "text", "min_chars", "places_only", "max_requests")
    _done(from_api(args.out, **options))


def _sentinel2_stac(args: argparse.Namespace) -> None:
    from geonb.data.sources.stac import from_stac

    options = _given(args, "size", "method", "workers")
    _done(from_stac(args.out, _where(args), period=tuple(args.period), **options))


def _sentinel2_ee(args: argparse.Namespace) -> None:
    from geonb.data.sources.earthengine import estimate, from_earthengine

    where, period = _where(args), tuple(args.period)
    if args.estimate:
        print(estimate(len(where), args.size, period, **_given(args, "method", "workers")))
        return
    options = _given(args, "size", "method", "project", "workers", "max_requests")
    _done(from_earthengine(args.out, where, period=period, **options))


def _alphaearth(args: argparse.Namespace) -> None:
    from geonb.data.sources.alphaearth import add_alphaearth

    counts = add_alphaearth(args.store, args.out, args.year)
    print(f"{args.out}: " + ", ".join(f"{count:,} {what}" for what, count in counts.items()))


def _published(args: argparse.Namespace) -> None:
    from geonb.data.sources import chipsets

    read = {"s2-100k": chipsets.from_s2_100k, "ssl4eo-s12": chipsets.from_ssl4eo, "major-tom": chipsets.from_major_tom}
    _done(read[args.set](args.out, args.folder, **_given(args, "size", "limit")))


def _local(args: argparse.Namespace) -> None:
    from geonb.data.sources.local import make_real_store

    _done(
        make_real_store(
            args.out, csv_paths=args.csv, chip_paths=args.chips, drop_invalid=args.drop_invalid,
            keep_suspicious=args.keep_suspicious,
        )
    )  # fmt: skip


def _labels(args: argparse.Namespace) -> None:
    from geonb.data.sources.labels import TABLES, cache_folder, download_labels

    if args.list:
        for table in TABLES.values():
            print(f"{table.name}: {table.source}\n  {table.kind}; licence: {table.licence}\n  cite: {table.citation}")
        return
    answers = download_labels(args.names or None)
    for name, answer in answers.items():
        print(f"{name}: {answer}")
    absent = [name for name, answer in answers.items() if answer not in ("there", "downloaded")]
    if absent:
        raise ValueError(f"{len(absent)} of {len(answers)} tables are not there ({', '.join(absent)}): see above")
    print(f"all in {cache_folder()}")


def _quality(args: argparse.Namespace) -> None:
    from geonb.data.quality import quality
    from geonb.data.store import PlaceStore

    print(quality(PlaceStore.open(args.dir)))


def _check(args: argparse.Namespace) -> None:
    from geonb.data.store import check_store

    print(check_store(args.dir))


def _done(store: PlaceStore) -> None:
    counts = store.manifest["counts"]
    print(f"{store.path}: {len(store):,} places, {counts['texts']:,} texts, {counts['images']:,} images")
