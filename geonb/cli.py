"""The ``geonb`` command: each verb is a thin door to a documented Python function."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from geonb.data.store import PlaceStore


def main(argv: list[str] | None = None) -> int:
    """Run one command. Bad input ends with one line on stderr and exit status 2; Ctrl-C with 130."""
    args = parser().parse_args(argv)
    try:
        return args.run(args) or 0
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
    """The parser of all commands; a parsed command has the function that carries it out as ``run``."""
    from geonb import __version__
    from geonb.cli_data import add_verbs

    top = argparse.ArgumentParser(prog="geonb", description="Multimodal spatial embeddings, bound by position.")
    top.add_argument("--version", action="version", version=__version__)
    verbs = top.add_subparsers(required=True, metavar="COMMAND")

    data = verbs.add_parser("data", help="make and check place stores").add_subparsers(required=True, metavar="WHAT")
    add_verbs(data)

    p = verbs.add_parser("train", help="train an architecture")
    p.add_argument("architecture", metavar="ARCH", help="imagebind, cyclic, fused, satclip, geoclip or csp")
    p.add_argument("--data", required=True, type=Path, metavar="DIR")
    p.add_argument("--out", required=True, type=Path, metavar="RUN")
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
    p.add_argument(
        "--extra", action="append", default=[], metavar="NAME=FILE.parquet",
        help="a modality more: embeddings by place_id, as geonb data alphaearth writes them; may be repeated",
    )  # fmt: skip
    p.add_argument("--init", type=Path, metavar="RUN", help="start from the encoders of a finished run")
    p.add_argument("--resume", action="store_true", help="go on from the last checkpoint, with the run's own config")
    p.set_defaults(run=_train)

    p = verbs.add_parser("evaluate", help="probes, retrieval and information of runs, or of embeddings from elsewhere")
    p.add_argument("runs", nargs="+", type=Path, metavar="RUN|FILE.parquet", help="a .parquet has a column embedding")
    p.add_argument("--data", required=True, type=Path, metavar="DIR")
    p.add_argument("--out", required=True, type=Path, metavar="FILE.json", help="and a page, FILE.html")
    p.set_defaults(run=_evaluate)

    p = verbs.add_parser("embed", help="embed the positions of a table")
    p.add_argument("model", type=Path, metavar="RUN")
    p.add_argument("--points", required=True, type=Path, metavar="FILE", help="CSV or Parquet with lon and lat")
    p.add_argument("--out", required=True, type=Path, metavar="FILE.parquet")
    p.set_defaults(run=_embed)

    p = verbs.add_parser("ask", help="places that fit a text best")
    p.add_argument("model", type=Path, metavar="RUN")
    p.add_argument("text")
    p.add_argument("--data", required=True, type=Path, metavar="DIR")
    p.add_argument("--top", type=int, default=20, metavar="N")
    p.set_defaults(run=_ask)

    p = verbs.add_parser("export", help="an embedding space as a cloud-optimised GeoTIFF, for QGIS and GDAL")
    p.add_argument("model", type=Path, metavar="RUN")
    p.add_argument("--out", required=True, type=Path, metavar="FILE.tif")
    p.add_argument("--degrees", type=float, default=0.25, metavar="D", help="edge of a pixel")
    what = p.add_mutually_exclusive_group()
    what.add_argument("--like", nargs=2, type=float, metavar=("LON", "LAT"), help="similarity to a place")
    what.add_argument("--text", help="similarity to words; without either, the first three components as colours")
    p.set_defaults(run=_export)

    p = verbs.add_parser("explore", help="one self-contained page: map and projection of an embedding space")
    p.add_argument("model", type=Path, metavar="RUN")
    p.add_argument("--data", required=True, type=Path, metavar="DIR")
    p.add_argument("--out", required=True, type=Path, metavar="PAGE.html")
    p.set_defaults(run=_explore)

    p = verbs.add_parser("doctor", help="what is there, and what to do about what is missing; asks no network")
    p.add_argument("--json", action="store_true")
    p.set_defaults(run=_doctor)
    return top


def _train(args: argparse.Namespace) -> None:
    import math
    from dataclasses import replace

    from geonb.config import TrainConfig, config_from_file, split_of
    from geonb.data.store import PlaceStore
    from geonb.training import train

    store = PlaceStore.open(args.data)
    names = ("modalities", "steps", "batch_size", "seed", "devices", "nodes", "precision")
    config = config_from_file(args.config) if args.config else TrainConfig()
    config = replace(config, **{n: getattr(args, n) for n in names if getattr(args, n) is not None})
    if args.epochs is not None:
        places = int((split_of(store, config) == "train").sum())
        config = replace(config, steps=args.epochs * math.ceil(places / config.batch_size))
    extra = dict(_extra(one, store) for one in args.extra)
    run = train(args.architecture, store, args.out, config, resume=args.resume, init=args.init, extra=extra)
    if os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0":  # once, of however many processes
        print(f"{run}: done")


def _extra(option: str, store: PlaceStore) -> tuple[str, np.ndarray]:
    """A name, and the embeddings (places, d) of a file in the order of a store."""
    from geonb.inference import read_embeddings

    name, equals, file = option.partition("=")
    if not (name and equals and file):
        raise ValueError(f"--extra {option}: give a name and a file, as in alphaearth=aef.parquet")
    return name, read_embeddings(file, store)


def _evaluate(args: argparse.Namespace) -> None:
    from geonb.evaluation.suite import evaluate
    from geonb.explore import report_page

    if args.out.suffix != ".json":
        raise ValueError(f"--out {args.out}: give a name that ends in .json; the page lies beside it, as .html")
    results = evaluate(args.runs, args.data, out=args.out)
    print(args.out)
    print(report_page(results, args.out.with_suffix(".html")))


def _embed(args: argparse.Namespace) -> None:
    from geonb.inference import embed_table

    count = embed_table(args.model, args.points, args.out)
    print(f"{args.out}: {count:,} embeddings")


def _ask(args: argparse.Namespace) -> None:
    from geonb.inference import ask

    hits = ask(args.model, args.text, args.data, args.top)
    print(f"{'cosine':>10}  {'lon, °':>8} {'lat, °':>7}  place")
    for hit in hits:
        print(f"{hit['similarity']:10.3f}  {hit['lon']:8.2f} {hit['lat']:7.2f}  {hit['title']}")


def _export(args: argparse.Namespace) -> None:
    from geonb.explore import to_geotiff

    layer = "pca" if args.like is None and args.text is None else "similarity"
    print(to_geotiff(args.model, args.out, args.degrees, layer, place=args.like, text=args.text))


def _explore(args: argparse.Namespace) -> None:
    from geonb.explore import explore_page

    explore_page(args.model, args.data, args.out)
    print(args.out)


def _doctor(args: argparse.Namespace) -> int:
    import json

    from geonb.doctor import examine, report

    lines = examine()
    print(json.dumps(lines, indent=1) if args.json else report(lines))
    return int(any(line["state"] == "broken" for line in lines))


if __name__ == "__main__":
    sys.exit(main())
