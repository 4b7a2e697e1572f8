"""The ``geonb`` command: each verb calls one documented Python function.

The options of a verb that were given become arguments of its function here, by name. Nothing heavy is imported until a
verb runs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

from geonb import __version__

STORE = "the place store; unfinished parts are kept in DIR.parts"


def main(argv: list[str] | None = None) -> int:
    """Run one command. Bad input ends with one line on stderr and exit status 2; Ctrl-C with 130."""
    options = {name: value for name, value in vars(parser().parse_args(argv)).items() if value is not None}
    run = options.pop("run")
    try:
        return run(**options) or 0
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"geonb: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        from geonb.doctor import extra_with

        advice = f"{error.name} is not installed; {extra_with(error.name)}" if error.name else error
        print(f"geonb: {advice}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("geonb: stopped", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; a parsed command has the function that carries it out as ``run``."""
    top = argparse.ArgumentParser(prog="geonb", description="Multimodal spatial embeddings, bound by position.")
    top.add_argument("--version", action="version", version=__version__)
    verbs = top.add_subparsers(required=True, metavar="COMMAND")
    data = verbs.add_parser("data", help="make and check place stores").add_subparsers(required=True, metavar="WHAT")
    _data_verbs(data)

    p = _verb(verbs, "train", _train, "train an architecture")
    p.add_argument("architecture", metavar="ARCH", help="imagebind, cyclic, fused, satclip, geoclip or csp")
    _path(p, "--data", "DIR", "the place store")
    _path(p, "--out", "RUN", "a folder for the run")
    p.add_argument("--modalities", type=lambda s: tuple(s.split(",")), metavar="LIST", help="location,text,image")
    length = p.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=int, metavar="N", help="passes over the training places")
    length.add_argument("--steps", type=int, metavar="N")
    p.add_argument("--batch-size", type=int, metavar="N")
    p.add_argument("--seed", type=int, metavar="S")
    p.add_argument("--devices", type=int, metavar="N", help="on this machine")
    p.add_argument("--nodes", type=int, metavar="N", help="machines, each started by torchrun or srun")
    p.add_argument("--config", type=Path, metavar="FILE.yaml", help="any fields of geonb.config.TrainConfig")
    p.add_argument("--precision", metavar="P", help="32-true, bf16-mixed, ...")
    help = "a further modality: embeddings by place_id, as geonb data alphaearth writes them; may be repeated"
    p.add_argument("--extra", action="append", default=[], metavar="NAME=FILE.parquet", help=help)
    p.add_argument("--init", type=Path, metavar="RUN", help="start from the encoders of a finished run")
    p.add_argument("--resume", action="store_true", help="continue from the last checkpoint, with the run's config")

    p = _verb(verbs, "evaluate", _evaluate, "probes, retrieval and information of runs, or of other embeddings")
    p.add_argument("runs", nargs="+", type=Path, metavar="RUN|FILE.parquet", help="a .parquet has a column embedding")
    _path(p, "--data", "DIR", "the place store")
    _path(p, "--out", "FILE.json", "and a page, FILE.html")

    p = _verb(verbs, "embed", _embed, "embed the positions of a table", model="RUN")
    _path(p, "--points", "FILE", "CSV or Parquet with lon and lat")
    _path(p, "--out", "FILE.parquet", "GeoParquet with the columns of the table")

    p = _verb(verbs, "ask", _ask, "places that fit a text best", model="RUN")
    p.add_argument("text")
    _path(p, "--data", "DIR", "the place store")
    p.add_argument("--top", type=int, default=20, metavar="N")

    p = _verb(verbs, "export", _export, "a space as a cloud-optimised GeoTIFF, for QGIS and GDAL", model="RUN")
    _path(p, "--out", "FILE.tif")
    p.add_argument("--degrees", type=float, default=0.25, metavar="D", help="edge of a pixel")
    what = p.add_mutually_exclusive_group()
    what.add_argument("--like", nargs=2, type=float, metavar=("LON", "LAT"), help="similarity to a place")
    what.add_argument("--text", help="similarity to words; without either, the first three components as colours")

    p = _verb(verbs, "explore", _explore, "one self-contained page: map and projection of a space", model="RUN")
    _path(p, "--data", "DIR", "the place store")
    _path(p, "--out", "PAGE.html")

    p = _verb(verbs, "doctor", _doctor, "what this machine has, and what to do about what is missing; no network")
    p.add_argument("--json", action="store_true", dest="as_json")
    return top


def _data_verbs(verbs: Any) -> None:
    p = _verb(verbs, "sample", _sample, "the Atlas sample: real places and facts, simulated images")
    _path(p, "--out", "DIR", STORE)
    p.add_argument("--places", type=int, default=8000, metavar="N")
    p.add_argument("--seed", type=int, default=0)

    p = verbs.add_parser("wikipedia", help="articles with a position, from a table or from Wikipedia")
    sources = p.add_subparsers(required=True, metavar="SOURCE")
    p = _verb(sources, "table", _wikipedia, "a Parquet table: a file, a pattern, a hub path or wikipedia-geotagged")
    p.add_argument("source", metavar="SOURCE")
    _article_options(p, box_required=False)
    p.add_argument("--snapshot", metavar="YYYYMMDD", help="of the dump behind the table")
    p.add_argument("--limit", type=int, metavar="N")
    p = _verb(sources, "api", _wikipedia, "Wikipedia itself, for an area of the size of a workshop")
    _article_options(p, box_required=True)
    p.add_argument("--contact", metavar="MAIL|URL", help="sent with every request; or set GEONB_CONTACT")
    p.add_argument("--text", choices=["intro", "full"], default="intro")
    p.add_argument("--max-requests", type=int, default=2000, metavar="N", help="refuse an area that needs more")

    p = verbs.add_parser("sentinel2", help="Sentinel-2 chips at places of yours, or at points on land")
    sources = p.add_subparsers(required=True, metavar="SOURCE")
    p = _verb(sources, "stac", _stac, "scenes from a public catalogue, without login")
    _chip_options(p)
    p.add_argument("--method", default="least_cloudy", choices=["least_cloudy", "median"])
    p = _verb(sources, "ee", _ee, "composites computed by Earth Engine, with a project of yours")
    _chip_options(p)
    p.add_argument("--project", metavar="ID", help="a Cloud project registered for Earth Engine; or GEONB_EE_PROJECT")
    p.add_argument("--method", default="clearest", choices=["clearest", "median"])
    p.add_argument("--max-requests", type=int, default=1000, metavar="N", help="refuse more; a chip is a request")
    p.add_argument("--estimate", action="store_true", help="print what it would ask for, and stop")

    p = _verb(verbs, "alphaearth", _alphaearth, "AlphaEarth's annual embeddings at places of a store", store="STORE")
    p.add_argument("--year", type=int, required=True, metavar="YYYY")
    _path(p, "--out", "FILE.parquet", "for geonb train --extra")

    p = _verb(verbs, "local", _local, "a store from CSV files of texts and Sentinel-2 GeoTIFF chips")
    p.add_argument("--csv", nargs="*", type=Path, default=[], metavar="FILE")
    p.add_argument("--chips", nargs="*", type=Path, default=[], metavar="FILE")
    _path(p, "--out", "DIR", STORE)
    p.add_argument("--drop-invalid", action="store_true", help="drop rows without a usable position, do not stop")
    p.add_argument("--keep-suspicious", action="store_true", help="keep positions that are very probably wrong")

    _verb(verbs, "check", _check, "verify the files of a store; report its coverage, gaps and duplicates", dir="DIR")


def _verb(verbs: Any, name: str, run: Any, help: str, **paths: str) -> argparse.ArgumentParser:
    """Add a command; ``paths`` are its positional files and folders, with what the help calls them."""
    p = verbs.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
    p.set_defaults(run=run)
    for argument, metavar in paths.items():
        p.add_argument(argument, type=Path, metavar=metavar)
    return p


def _path(p: argparse.ArgumentParser, option: str, metavar: str, help: str = "") -> None:
    p.add_argument(option, required=True, type=Path, metavar=metavar, help=help)


def _article_options(p: argparse.ArgumentParser, box_required: bool) -> None:
    _path(p, "--out", "DIR", STORE)
    p.add_argument("--lang", default="en", metavar="CODE", help="of the Wikipedia, such as en, de or pt")
    p.add_argument("--min-chars", type=int, default=50, metavar="N", help="shorter texts are left out")
    p.add_argument("--places-only", action="store_true", help="leave out people, events, organisations and lists")
    box, help = ("WEST", "SOUTH", "EAST", "NORTH"), "in degrees; west > east crosses the antimeridian"
    p.add_argument("--bbox", nargs=4, type=float, required=box_required, metavar=box, help=help)


def _chip_options(p: argparse.ArgumentParser) -> None:
    where = p.add_mutually_exclusive_group(required=True)
    where.add_argument("--store", type=Path, metavar="STORE", help="at the places of a store, whose texts are kept")
    where.add_argument("--points", type=Path, metavar="FILE", help="CSV or Parquet with lon and lat")
    where.add_argument("--land", type=int, metavar="N", help="N points on land, even by area")
    p.add_argument("--seed", type=int, default=0, help="of the points on land")
    p.add_argument("--period", nargs=2, required=True, metavar=("FROM", "TO"), help="days, YYYY-MM-DD")
    p.add_argument("--size", type=int, default=64, metavar="PIXELS", help="edge of a chip, at 10 m a pixel")
    p.add_argument("--workers", type=int, metavar="N", help="requests at a time")
    _path(p, "--out", "DIR", STORE)


def _train(architecture: str, data: Path, out: Path, extra: list[str], resume: bool, **options: Any) -> None:
    from dataclasses import replace

    from geonb.config import TrainConfig, config_from_file, split_of
    from geonb.data.store import PlaceStore
    from geonb.inference import read_embeddings
    from geonb.training import train

    store, embeddings = PlaceStore.open(data), {}
    for one in extra:
        name, _, table = one.partition("=")
        if not (name and table):
            raise ValueError(f"--extra {one}: give a name and a file, as in alphaearth=aef.parquet")
        embeddings[name] = read_embeddings(table, store)
    file, epochs, init = (options.pop(name, None) for name in ("config", "epochs", "init"))
    config = replace(config_from_file(file) if file else TrainConfig(), **options)
    if epochs is not None:
        places = int((split_of(store, config) == "train").sum())
        config = replace(config, steps=epochs * math.ceil(places / config.batch_size))
    run = train(architecture, store, out, config, resume=resume, init=init, extra=embeddings)
    if os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0":  # once, of however many processes
        print(f"{run}: done")


def _evaluate(runs: list[Path], data: Path, out: Path) -> None:
    from geonb.evaluation.suite import evaluate
    from geonb.explore import report_page

    if out.suffix != ".json":
        raise ValueError(f"--out {out}: give a name that ends in .json; the page lies beside it, as .html")
    results = evaluate(runs, data, out=out)
    print(f"{out}\n{report_page(results, out.with_suffix('.html'))}")


def _embed(model: Path, points: Path, out: Path) -> None:
    from geonb.inference import embed_table

    print(f"{out}: {embed_table(model, points, out):,} embeddings")


def _ask(model: Path, text: str, data: Path, top: int) -> None:
    from geonb.inference import ask

    hits = ask(model, text, data, top)
    print(f"{'cosine':>10}  {'lon, °':>8} {'lat, °':>7}  place")
    for hit in hits:
        print(f"{hit['similarity']:10.3f}  {hit['lon']:8.2f} {hit['lat']:7.2f}  {hit['title']}")


def _export(model: Path, out: Path, degrees: float, like: list[float] | None = None, text: str | None = None) -> None:
    import geonb
    from geonb.explore import to_geotiff

    print(to_geotiff(geonb.load(model), out, degrees, place=like, text=text))


def _explore(model: Path, data: Path, out: Path) -> None:
    from geonb.explore import explore_page

    explore_page(model, data, out)
    print(out)


def _doctor(as_json: bool) -> int:
    from geonb.doctor import examine, report

    lines = examine()
    print(json.dumps(lines, indent=1) if as_json else report(lines))
    return int(any(line["state"] == "broken" for line in lines))


def _sample(out: Path, places: int, seed: int) -> None:
    from geonb.sample import make_atlas

    store = make_atlas(out, places=places, seed=seed)
    print(f"{store.path}: {len(store):,} places; facts are real, images simulated (see datacard.md)")


def _wikipedia(out: Path, source: str | None = None, **options: Any) -> None:
    from geonb.data.sources.wikipedia import from_api, from_table

    _made(from_table(out, source, **options) if source else from_api(out, **options))


def _stac(out: Path, **options: Any) -> None:
    from geonb.data.sources.stac import from_stac

    where = _places(options)
    _made(from_stac(out, where, **options))


def _ee(out: Path, estimate: bool, **options: Any) -> None:
    from geonb.data.sources import earthengine

    where = _places(options)
    if estimate:
        known = {name: options[name] for name in ("size", "period", "method", "workers") if name in options}
        print(earthengine.estimate(len(where), **known))
    else:
        _made(earthengine.from_earthengine(out, where, **options))


def _places(options: dict[str, Any]) -> Any:
    """Take from the options where chips are wanted: positions (n, 2), lon/lat degrees, or a store."""
    from geonb.data.sampling import land_points
    from geonb.data.store import PlaceStore
    from geonb.inference import read_positions

    store, points, land, seed = (options.pop(name, None) for name in ("store", "points", "land", "seed"))
    if store:
        return PlaceStore.open(store)
    if points:
        return read_positions(points)
    if land < 1:
        raise ValueError(f"--land {land}: give a number of points, 1 or more")
    return land_points(land, seed)


def _alphaearth(store: Path, year: int, out: Path) -> None:
    from geonb.data.sources.alphaearth import add_alphaearth

    counts = add_alphaearth(store, out, year)
    print(f"{out}: " + ", ".join(f"{count:,} {what}" for what, count in counts.items()))


def _local(out: Path, csv: list[Path], chips: list[Path], **options: Any) -> None:
    from geonb.data.sources.files import from_files

    _made(from_files(out, csv, chips, **options))


def _check(dir: Path) -> None:
    from geonb.data.quality import quality
    from geonb.data.store import PlaceStore, check_store

    print(f"{check_store(dir)}\n\n{quality(PlaceStore.open(dir))}")


def _made(store: Any) -> None:
    counts = store.manifest["counts"]
    print(f"{store.path}: {len(store):,} places, {counts['texts']:,} texts, {counts['images']:,} images")


if __name__ == "__main__":
    sys.exit(main())
