"""The ``geonb`` command: each verb calls one documented Python function.

Options that were given become its arguments, by name; defaults are those of the function. Nothing
heavy is imported until a verb runs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from geonb import __version__


def main(argv: list[str] | None = None) -> int:
    """Run one command. Bad input ends with one line on stderr and status 2; Ctrl-C with 130."""
    given = vars(parser().parse_args(argv))
    options = {name: value for name, value in given.items() if value is not None}
    verb = options.pop("verb")
    status, message = 2, ""
    try:
        return verb(**options) or 0
    except (ValueError, OSError, FloatingPointError) as error:
        message = str(error)
    except ModuleNotFoundError as error:
        from geonb.doctor import extra_with

        message = f"{error.name} is not installed; {extra_with(str(error.name))}"
    except KeyboardInterrupt:
        status, message = 130, "stopped"
    print(f"geonb: {message}", file=sys.stderr)
    return status


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; its result has the function to call as ``verb``."""
    top = argparse.ArgumentParser(prog="geonb", description="Multimodal spatial embeddings.")
    top.add_argument("--version", action="version", version=__version__)
    verbs = top.add_subparsers(required=True, metavar="COMMAND")
    data = verbs.add_parser("data", help="make and check place stores")
    _data_verbs(data.add_subparsers(required=True, metavar="WHAT"))

    p = _verb(verbs, "train", _train, "train an architecture")
    p.add_argument("architecture", metavar="ARCH", help="imagebind, cyclic, fused, satclip, geoclip or csp")
    _paths(p, data="DIR", out="RUN")
    p.add_argument("--modalities", type=lambda s: tuple(s.split(",")), metavar="LOCATION,TEXT,...")
    length = p.add_mutually_exclusive_group()
    _numbers(length, epochs="passes over the training places", steps="batches, instead")
    _numbers(p, batch_size="places in a batch", seed="of all that is random")
    _numbers(p, devices="on this machine", nodes="machines, each started by torchrun or srun")
    p.add_argument("--precision", help="32-true, bf16-mixed, ...")
    help = "any fields of geonb.config.TrainConfig"
    p.add_argument("--config", type=Path, metavar="FILE.yaml", help=help)
    help = "a further modality: embeddings by place_id"
    p.add_argument("--extra", action="append", default=[], metavar="NAME=FILE.parquet", help=help)
    p.add_argument("--init", type=Path, metavar="RUN", help="start from its encoders")
    p.add_argument("--resume", action="store_true", help="continue from the last checkpoint")

    p = _verb(verbs, "evaluate", _evaluate, "probes, retrieval and information of embeddings")
    p.add_argument("runs", nargs="+", type=Path, metavar="RUN|FILE.parquet")
    _paths(p, data="DIR", out="FILE.json")

    p = _verb(verbs, "embed", _embed, "embed the positions of a table", run="RUN")
    _paths(p, points="FILE.csv|FILE.parquet", out="FILE.parquet")

    p = _verb(verbs, "ask", _ask, "places that fit a text best", run="RUN")
    p.add_argument("text")
    _paths(p, data="DIR")
    _numbers(p, top="places to show")

    p = _verb(verbs, "export", _export, "a space as a cloud-optimised GeoTIFF", run="RUN")
    _paths(p, out="FILE.tif")
    p.add_argument("--degrees", type=float, help="edge of a pixel")
    what = p.add_mutually_exclusive_group()
    what.add_argument("--like", nargs=2, type=float, metavar=("LON", "LAT"), dest="place")
    what.add_argument("--text", help="similarity to words, not to a place")

    call = _calls("geonb.explore.explore_page")
    p = _verb(verbs, "explore", call, "a page with map and projection of a space", run="RUN")
    _paths(p, data="DIR", out="PAGE.html")

    p = _verb(verbs, "doctor", _doctor, "what this machine has, and what to do about the rest")
    p.add_argument("--json", action="store_true", dest="as_json")
    return top


def _data_verbs(verbs: Any) -> None:
    call = _calls("geonb.sample.make_atlas")
    p = _verb(verbs, "sample", call, "the Atlas sample: real places and facts, simulated images")
    _paths(p, out="DIR")
    _numbers(p, places="how many", seed="of the draw")

    p = verbs.add_parser("wikipedia", help="articles with a position")
    sources = p.add_subparsers(required=True, metavar="SOURCE")
    call = _calls("geonb.data.sources.wikipedia.from_table")
    p = _verb(sources, "table", call, "a Parquet table: a file, a pattern or wikipedia-geotagged")
    p.add_argument("source", metavar="SOURCE")
    _article_options(p, box_required=False)
    p.add_argument("--snapshot", metavar="YYYYMMDD", help="of the dump behind the table")
    _numbers(p, limit="articles at most")
    call = _calls("geonb.data.sources.wikipedia.from_api")
    p = _verb(sources, "api", call, "Wikipedia itself, for an area as large as a town")
    _article_options(p, box_required=True)
    p.add_argument("--contact", metavar="MAIL|URL", help="for Wikimedia; or set GEONB_CONTACT")
    p.add_argument("--text", choices=["intro", "full"])
    _numbers(p, max_requests="refuse an area that needs more")

    p = verbs.add_parser("sentinel2", help="chips at places of yours, or at points on land")
    sources = p.add_subparsers(required=True, metavar="SOURCE")
    p = _verb(sources, "stac", _stac, "scenes from a public catalogue, without login")
    _chip_options(p, "least_cloudy")
    p = _verb(sources, "ee", _ee, "composites of Earth Engine, with a project of yours")
    _chip_options(p, "clearest")
    p.add_argument("--project", metavar="ID", help="for Earth Engine; or set GEONB_EE_PROJECT")
    _numbers(p, max_requests="refuse more; a chip is a request")
    p.add_argument("--estimate", action="store_true", help="print what it would ask for, and stop")

    p = _verb(verbs, "alphaearth", _alphaearth, "AlphaEarth's embeddings at places", store="STORE")
    p.add_argument("--year", type=int, required=True)
    _paths(p, out="FILE.parquet")

    call = _calls("geonb.data.sources.files.from_files")
    p = _verb(verbs, "local", call, "a store from CSV files of texts and GeoTIFF chips")
    p.add_argument("--csv", nargs="*", type=Path, default=[], metavar="FILE", dest="tables")
    p.add_argument("--chips", nargs="*", type=Path, default=[], metavar="FILE")
    _paths(p, out="DIR")
    p.add_argument("--drop-invalid", action="store_true", help="rows without a usable position")
    p.add_argument("--keep-suspicious", action="store_true", help="probably wrong positions")

    _verb(verbs, "check", _check, "verify the files of a store; report what is in it", dir="DIR")


def _verb(verbs: Any, name: str, call: Any, help: str, **paths: str) -> argparse.ArgumentParser:
    """Add a command; ``paths`` are its positional files and folders, with their metavars."""
    p = verbs.add_parser(name, help=help, description=help)
    p.set_defaults(verb=call)
    for argument, metavar in paths.items():
        p.add_argument(argument, type=Path, metavar=metavar)
    return p


def _paths(p: argparse.ArgumentParser, **options: str) -> None:
    """Add required files and folders with their metavars."""
    for name, metavar in options.items():
        p.add_argument(f"--{name}", required=True, type=Path, metavar=metavar)


def _numbers(p: Any, **options: str) -> None:
    """Add whole numbers with their help."""
    for name, help in options.items():
        p.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help=help)


def _article_options(p: argparse.ArgumentParser, box_required: bool) -> None:
    _paths(p, out="DIR")
    p.add_argument("--lang", metavar="CODE", help="of the Wikipedia, such as en, de or pt")
    _numbers(p, min_chars="shorter texts are left out")
    p.add_argument("--places-only", action="store_true", help="no people, events and lists")
    box, help = ("WEST", "SOUTH", "EAST", "NORTH"), "west > east crosses the antimeridian"
    p.add_argument("--bbox", nargs=4, type=float, required=box_required, metavar=box, help=help)


def _chip_options(p: argparse.ArgumentParser, method: str) -> None:
    where = p.add_mutually_exclusive_group(required=True)
    where.add_argument("--store", type=Path, help="at the places of a store, with their texts")
    where.add_argument("--points", type=Path, metavar="FILE.csv|FILE.parquet")
    _numbers(where, land="points on land, even by area")
    _numbers(p, seed="of the points on land", workers="requests at a time")
    p.add_argument("--period", nargs=2, required=True, metavar=("FROM", "TO"), help="YYYY-MM-DD")
    p.add_argument("--size", type=int, default=64, help="edge in pixels of 10 m")
    p.add_argument("--method", choices=[method, "median"])
    _paths(p, out="DIR")


def _calls(function: str) -> Callable[..., None]:
    """Return a verb that calls a function, by its full name, and prints what that has made."""
    module, _, name = function.rpartition(".")

    def verb(**options: Any) -> None:
        made = getattr(import_module(module), name)(**options)
        print(made if isinstance(made, Path) else _summary(made))

    return verb


def _summary(store: Any) -> str:
    counts = store.manifest["counts"]
    simulated = [f"{name}s" for name, value in store.manifest["simulated"].items() if value]
    end = f"; {' and '.join(simulated)} are simulated" if simulated else ""
    numbers = f"{len(store):,} places, {counts['texts']:,} texts, {counts['images']:,} images"
    return f"{store.path}: {numbers}{end}"


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
    if os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0":  # of several processes
        print(f"{run}: done")


def _evaluate(runs: list[Path], data: Path, out: Path) -> None:
    from geonb.evaluation.suite import evaluate
    from geonb.explore import report_page

    if out.suffix != ".json":
        raise ValueError(f"--out {out}: give a name that ends in .json; the page is .html")
    results = evaluate(runs, data, out=out)
    print(f"{out}\n{report_page(results, out.with_suffix('.html'))}")


def _embed(run: Path, points: Path, out: Path) -> None:
    from geonb.inference import embed_table

    print(f"{out}: {embed_table(run, points, out):,} embeddings")


def _ask(**options: Any) -> None:
    from geonb.inference import ask

    hits = ask(**options)
    print(f"{'cosine':>10}  {'lon, °':>8} {'lat, °':>7}  place")
    for hit in hits:
        position = f"{hit['lon']:8.2f} {hit['lat']:7.2f}"
        print(f"{hit['similarity']:10.3f}  {position}  {hit['title']}")


def _export(run: Path, out: Path, **options: Any) -> None:
    from geonb import load
    from geonb.explore import to_geotiff

    print(to_geotiff(load(run), out, **options))


def _doctor(as_json: bool) -> int:
    from geonb.doctor import examine, report

    lines = examine()
    print(json.dumps(lines, indent=1) if as_json else report(lines))
    return int(any(line["state"] == "broken" for line in lines))


def _stac(**options: Any) -> None:
    from geonb.data.sources.stac import from_stac

    where = _places(options)
    print(_summary(from_stac(where=where, **options)))


def _ee(estimate: bool, **options: Any) -> None:
    from geonb.data.sources import earthengine

    where = _places(options)
    if estimate:
        for name in ("out", "project", "max_requests"):
            options.pop(name, None)
        print(earthengine.estimate(len(where), **options))
    else:
        print(_summary(earthengine.from_earthengine(where=where, **options)))


def _places(options: dict[str, Any]) -> Any:
    """Take from the options where chips are wanted: positions (n, 2), degrees, or a store."""
    from geonb.data.sampling import land_points
    from geonb.data.store import PlaceStore
    from geonb.inference import read_positions

    store, points, land = (options.pop(name, None) for name in ("store", "points", "land"))
    seed = options.pop("seed", 0)
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


def _check(dir: Path) -> None:
    from geonb.data.quality import quality
    from geonb.data.store import PlaceStore, check_store

    print(f"{check_store(dir)}\n\n{quality(PlaceStore.open(dir))}")


if __name__ == "__main__":
    sys.exit(main())
