"""The ``geonb`` command: each verb calls one documented Python function.

Options that were given become its arguments, by name; defaults are those of the function. Nothing
heavy is imported until a verb runs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from geonb import __version__

HIGHEST = 2**31 - 1  # of whole numbers
RUN = "folder of a run, or name of a shipped model"


def main(argv: list[str] | None = None) -> int:
    """Run one command. Bad input ends with one line on stderr and status 2.

    Ctrl-C ends with 130, a closed pipe with 141; SIGTERM and SIGHUP raise SystemExit.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # not every encoding has every name
    before = {}
    if threading.current_thread() is threading.main_thread():  # others may not set handlers
        ends = (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))  # Windows has no SIGHUP
        before = {number: signal.signal(number, _terminate) for number in {*ends}}
    status, message = 2, ""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = partial(_note, warnings.showwarning)
            return _run(argv)
    except BrokenPipeError:  # its reader has seen enough, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still buffered
        return 141
    except (ValueError, OSError, FloatingPointError, MemoryError) as error:
        message = str(error) or "not enough memory"
    except ModuleNotFoundError as error:
        from geonb.doctor import extra_with

        message = f"{error.name} is not installed; {extra_with(str(error.name))}"
    except KeyboardInterrupt:
        status, message = 130, "stopped"
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    print(f"geonb: {message}", file=sys.stderr)
    return status


def _run(argv: list[str] | None) -> int:
    try:
        given = vars(parser().parse_args(argv))
        options = {name: value for name, value in given.items() if value is not None}
        return options.pop("verb")(**options) or 0
    finally:
        if sys.stdout:
            sys.stdout.flush()  # where a closed pipe is noticed


def _terminate(number: int, frame: Any) -> NoReturn:
    """End by an exception, so that partial files are removed on the way out."""
    raise SystemExit(128 + number)


def _note(show: Callable, message: Any, category: type, filename: str, *where: Any) -> None:
    """Print a warning of this package as one line on stderr, and ``show`` those of others."""
    if not issubclass(category, UserWarning) or Path(__file__).parent not in Path(filename).parents:
        return show(message, category, filename, *where)
    from tqdm import tqdm

    tqdm.write(f"geonb: note: {' '.join(str(message).split())}", file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    """A parser without abbreviations that raises ValueError and reads -70. and -1e-5 as numbers."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)
        self._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")
        self.register("action", None, _Once)
        self.register("action", "store_true", partial(_Once, nargs=0, default=False))

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see {self.prog} --help")


class _Once(argparse.Action):
    """Store a value, or True where none is taken; refuse an option that is given again."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
        if getattr(namespace, self.dest) is not self.default:
            parser.error(f"{option} is given twice; keep one")
        setattr(namespace, self.dest, True if self.nargs == 0 else values)


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; its result has the function to call as ``verb``."""
    top = _Parser(prog="geonb", description="Multimodal spatial embeddings.")
    top.add_argument("--version", action="version", version=__version__)
    verbs = top.add_subparsers(required=True, metavar="COMMAND")
    data = verbs.add_parser("data", help="make and check place stores")
    _data_verbs(data.add_subparsers(required=True, metavar="WHAT"))

    p = _verb(verbs, "train", _train, "train an architecture")
    p.add_argument("architecture", metavar="ARCH", help="imagebind, cyclic, fused, satclip, geoclip or csp")
    _paths(p, data="DIR", out="RUN")
    p.add_argument("--modalities", type=lambda s: tuple(map(str.strip, s.split(","))), metavar="LOCATION,TEXT,...")
    length = p.add_mutually_exclusive_group()
    _numbers(length, epochs="passes over the training places", steps="batches, instead")
    _numbers(p, 2, batch_size="places in a batch")
    _numbers(p, 0, seed="of all that is random")
    _numbers(p, devices="on this machine", nodes="machines, each started by torchrun or srun")
    p.add_argument("--precision", help="32-true, bf16-mixed, ...")
    help = "any fields of geonb.config.TrainConfig"
    p.add_argument("--config", type=Path, metavar="FILE.yaml", help=help)
    help = "a further modality: embeddings by place_id"
    p.add_argument("--extra", action="append", default=[], metavar="NAME=FILE.parquet", help=help)
    p.add_argument("--init", type=Path, metavar="RUN", help=f"start from the encoders of this {RUN}")
    p.add_argument("--resume", action="store_true", help="continue from the last checkpoint")

    p = _verb(verbs, "evaluate", _evaluate, "probes, retrieval and information of embeddings")
    p.add_argument("runs", nargs="+", type=Path, metavar="RUN|FILE.parquet")
    _paths(p, data="DIR", out="FILE.json")

    p = _verb(verbs, "embed", _embed, "embed the positions of a table", run="RUN")
    _paths(p, points="FILE.csv|FILE.parquet", out="FILE.parquet")

    p = _verb(verbs, "ask", _ask, "places that fit a text best", run="RUN")
    p.add_argument("text")
    p.add_argument("--data", type=Path, metavar="DIR", help="store whose places are asked, not the towns of the Earth")
    _numbers(p, top="places to show")
    p.add_argument("--map", type=Path, metavar="PAGE.html", help="write a page with a world map of the score")

    p = _verb(verbs, "export", _export, "a space as a cloud-optimised GeoTIFF", run="RUN")
    _paths(p, out="FILE.tif")
    p.add_argument("--degrees", type=partial(_number, least=0.01, most=180), help="edge of a pixel")
    what = p.add_mutually_exclusive_group()
    what.add_argument("--like", nargs=2, type=_degrees, metavar=("LON", "LAT"), dest="place")
    what.add_argument("--text", help="similarity to words, not to a place")

    call = _calls("geonb.explore.explore_page")
    p = _verb(verbs, "explore", call, "a page with map and projection of a space", run="RUN")
    _paths(p, data="DIR", out="PAGE.html")

    p = _verb(verbs, "doctor", _doctor, "what this machine has, and what to do about the rest")
    p.add_argument("--live", action="store_true", help="ask each live source for something tiny, instead")
    p.add_argument("--json", action="store_true", dest="as_json")
    return top


def _data_verbs(verbs: Any) -> None:
    call = _calls("geonb.sample.make_atlas")
    p = _verb(verbs, "sample", call, "the Atlas sample: real places and facts, simulated images")
    _paths(p, out="DIR")
    _numbers(p, places="how many")
    _numbers(p, 0, seed="of the draw")

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
    p.add_argument("--year", type=partial(_number, least=1, most=9999, kind=int), required=True)
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
        p.add_argument(argument, type=Path, metavar=metavar, help=RUN if metavar == "RUN" else None)
    return p


def _paths(p: argparse.ArgumentParser, **options: str) -> None:
    """Add required files and folders with their metavars."""
    for name, metavar in options.items():
        p.add_argument(f"--{name}", required=True, type=Path, metavar=metavar)


def _numbers(p: Any, least: int = 1, **options: str) -> None:
    """Add whole numbers, at ``least`` so much, with their help."""
    whole = partial(_number, least=least, most=HIGHEST, kind=int)
    for name, help in options.items():
        p.add_argument(f"--{name.replace('_', '-')}", type=whole, metavar="N", help=help)


def _number(text: str, least: float, most: float, kind: type = float) -> Any:
    """Read a number in a range, and refuse what only Python takes for one, such as 1_3."""
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if "_" in text or not text.isascii() or not least <= value <= most:
        what = "a whole number" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"{text!r} is not {what} from {least} to {most}")
    return value


_degrees = partial(_number, least=-360, most=360)  # what lies outside the Earth is explained later


def _article_options(p: argparse.ArgumentParser, box_required: bool) -> None:
    _paths(p, out="DIR")
    p.add_argument("--lang", metavar="CODE", help="of the Wikipedia, such as en, de or pt")
    _numbers(p, 0, min_chars="shorter texts are left out")
    p.add_argument("--places-only", action="store_true", help="no people, events and lists")
    box, help = ("WEST", "SOUTH", "EAST", "NORTH"), "west > east crosses the antimeridian"
    p.add_argument("--bbox", nargs=4, type=_degrees, required=box_required, metavar=box, help=help)


def _chip_options(p: argparse.ArgumentParser, method: str) -> None:
    where = p.add_mutually_exclusive_group(required=True)
    where.add_argument("--store", type=Path, help="at the places of a store, with their texts")
    where.add_argument("--points", type=Path, metavar="FILE.csv|FILE.parquet")
    _numbers(where, land="points on land, even by area")
    _numbers(p, 0, seed="of the points on land")
    _numbers(p, workers="requests at a time")
    p.add_argument("--period", nargs=2, required=True, metavar=("FROM", "TO"), help="YYYY-MM-DD")
    size = partial(_number, least=16, most=1254, kind=int)
    p.add_argument("--size", type=size, default="64", help="edge in pixels of 10 m")
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
    from geonb.explore.views import plural

    marks = {m: " (simulated)" if store.simulated(m) else "" for m in store.modalities[1:]}
    numbers = [f"{store.has(m).sum():,} {plural(m)}{mark}" for m, mark in marks.items()]
    return f"{store.path}: {', '.join([f'{len(store):,} places', *numbers])}"


def _train(architecture: str, data: Path, out: Path, extra: list[str], resume: bool, **options: Any) -> None:
    from dataclasses import replace

    from geonb.config import TrainConfig, config_from_file, split_of
    from geonb.data.store import PlaceStore
    from geonb.inference import read_embeddings
    from geonb.run import config_of, read_config
    from geonb.training import train

    store, tables = PlaceStore.open(data), dict[str, str]()
    for one in extra:
        name, _, table = one.partition("=")
        if not (name and table):
            raise ValueError(f"--extra {one}: give a name and a file, as in alphaearth=aef.parquet")
        if name in tables:
            raise ValueError(f"--extra {name} is given twice; keep one, or give another name")
        tables[name] = table
    embeddings = {name: read_embeddings(table, store) for name, table in tables.items()}
    file, epochs, init = (options.pop(name, None) for name in ("config", "epochs", "init"))
    going_on = resume and (out / "config.yaml").exists()
    config = config_of(read_config(out)) if going_on else TrainConfig()
    config = replace(config_from_file(file, config) if file else config, **options)
    if epochs is not None:
        places = int((split_of(store, config) == "train").sum())
        config = replace(config, steps=epochs * math.ceil(places / config.batch_size))
    run = train(architecture, store, out, config, resume=resume, init=init, extra=embeddings)
    if os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0":  # of several processes
        print(f"{run}: done")


def _evaluate(runs: list[Path], data: Path, out: Path) -> None:
    from geonb.evaluation.suite import evaluate
    from geonb.explore import report_page

    if out.suffix.lower() != ".json":
        raise ValueError(f"--out {out}: give a name that ends in .json; the page is .html")
    results = evaluate(runs, data, out=out)
    print(f"{out}\n{report_page(results, out.with_suffix('.html'))}")


def _embed(run: Path, points: Path, out: Path) -> None:
    from geonb.inference import embed_table

    print(f"{out}: {embed_table(run, points, out):,} embeddings")


def _ask(run: Path, text: str, data: Path | None = None, map: Path | None = None, **options: Any) -> None:
    from geonb import load
    from geonb.data.store import PlaceStore

    model = load(run)
    answer = model.ask(text, PlaceStore.open(data) if data else None, **options)
    print(answer)
    if map:
        from geonb.explore.planet import answer_view

        print(answer_view(model, answer).save(map, text))


def _export(run: Path, out: Path, **options: Any) -> None:
    from geonb import load
    from geonb.explore import to_geotiff

    print(to_geotiff(load(run), out, **options))


def _doctor(live: bool, as_json: bool) -> int:
    """Return 1 if something is broken, or if a live source gave no usable answer; what is missing is no fault."""
    from geonb.doctor import ask_sources, examine, live_report, report

    lines = ask_sources() if live else examine()
    print(json.dumps(lines, indent=1) if as_json else (live_report if live else report)(lines))
    return int(any(line["state"] in ("broken", "no answer") for line in lines))


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
    from geonb.data.tables import read_positions

    store, points, land = (options.pop(name, None) for name in ("store", "points", "land"))
    seed = options.pop("seed", 0)
    if store:
        return PlaceStore.open(store)
    if points:
        return read_positions(points)
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
