"""The experiments on real articles and Sentinel-2 chips: writes geonb/results/real.json.

    python research/real_data.py [--seeds 3] [--steps 400] [--work DIR] [--out FILE]

Texts: location and text are bound on two thirds of the articles, from nothing and from the Atlas
run; retrieval is of the last third and of descriptions of another source. Images: each tile's
nearest tile of *another* chip, by the frozen backbone, shows whether kinds of land fall apart.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np

from geonb import load, workspace
from geonb._util import provenance
from geonb.config import TrainConfig, split_of
from geonb.data.sources.files import from_files
from geonb.data.store import PlaceStore
from geonb.data.texts import mask_names, names_of
from geonb.encoders.features import features
from geonb.encoders.image import image_backbone
from geonb.evaluation.retrieval import retrieval
from geonb.training import train

ROOT = Path(__file__).resolve().parent.parent
# What a person sees in each chip, true colour, before anything was computed from it.
KINDS = {
    "252161": "dry rangeland", "275979": "dry rangeland", "322265": "cropland", "445": "bare arctic coast",
    "511198": "cloud over forest", "566084": "dry rangeland", "58000": "desert", "70541": "desert", "74721": "water",
    "752389": "water", "766272": "savanna", "8845": "boreal lakes and bog",
}  # fmt: skip
# Files of the real data set: start of the name, source, licence.
SOURCES = {
    "wikipedia_places":
    ("Wikipedia introductions through YAGO 3 (github.com/boberle/random-items, commit 2b82ced, 2020)",
     "CC BY-SA 3.0 (Wikipedia contributors)"),
    "world_heritage":
    ("UNESCO World Heritage List, 2019 edition (UNESCO World Heritage Centre)", "CC BY-SA 3.0 IGO"),
    "patch":
    ("Copernicus Sentinel-2 L2A, example chips of github.com/microsoft/satclip, commit 1ead106",
     "MIT (repository); contains modified Copernicus Sentinel data"),
}  # fmt: skip
MEASURES = ("n", "recall@1", "recall@10", "chance@10", "median_km", "chance_median_km", "within_750_km")


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--text-backbone", default="auto")
    parser.add_argument("--splits", nargs="+", default=["random", "blocked"])
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "real")
    parser.add_argument("--atlas-run", type=Path, help="by default runs/atlas/imagebind")
    parser.add_argument("--out", type=Path, default=ROOT / "geonb" / "results" / "real.json")
    args = parser.parse_args(argv)

    found = real_data()
    csv = {p.name.split(".")[0]: p for p in found["csv"]}
    articles = _store(args.work / "articles", "wikipedia_places", [csv["wikipedia_places"]])
    descriptions = _store(args.work / "descriptions", "world_heritage", [csv["world_heritage"]])
    tiles = _store(args.work / "tiles", "patch", chips=found["chips"])
    tiles_as_found = _store(args.work / "tiles-as-found", "patch", chips=found["chips"], harmonise=False)
    os.environ.setdefault("GEONB_HOME", str(ROOT))
    atlas_run = args.atlas_run or workspace.run("imagebind")

    made = {
        "made_by": "research/real_data.py",
        "sources": {name: "; ".join(source) for name, source in SOURCES.items()},
        "articles": len(articles),
        "descriptions": len(descriptions),
        "tiles": len(tiles),
        "data_hashes": {s.path.name: s.data_hash for s in (articles, descriptions, tiles)},
        "seeds": args.seeds,
        "steps": args.steps,
        "batch_size": TrainConfig().batch_size,
    }
    result = {
        "provenance": provenance() | made,
        "text": text_experiment(articles, descriptions, atlas_run, args),
        "image": image_experiment(tiles, tiles_as_found, atlas_run),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(args.out)
    return result


def text_experiment(articles: PlaceStore, descriptions: PlaceStore, atlas_run: Path, args) -> list[dict]:
    """Text -> location on articles kept out of training, and on descriptions that no training saw."""
    rows = []
    for kind in args.splits:
        split = {"kind": kind, "fractions": [0.57, 0.1, 0.33], "seed": 0}
        if kind == "blocked":
            split |= {"size_km": 500.0, "buffer_km": 50.0}
        held_out = np.flatnonzero(split_of(articles, {"split": split}) == "test")
        queries = [_queries("held-out articles", articles, held_out)]
        queries.append(_queries("descriptions", descriptions, np.arange(len(descriptions))))
        rows += _text_rows("Atlas sample only", kind, None, load(atlas_run), queries)
        for seed in range(args.seeds):
            for start, init in (("articles only", None), ("Atlas sample, then articles", atlas_run)):
                path = args.work / f"{start.replace(' ', '-').replace(',', '')}-{kind}-{seed}"
                config = TrainConfig(
                    modalities=("location", "text"), steps=args.steps, seed=seed, split=split,
                    backbones={"text": args.text_backbone},
                )  # fmt: skip
                train("imagebind", articles, path, config, resume=True, init=init)
                rows += _text_rows(start, kind, seed, load(path), queries)
    return rows


def _queries(name: str, store: PlaceStore, chosen: np.ndarray) -> tuple[str, np.ndarray, dict[str, list[str]]]:
    """What the texts are called, their positions, and the texts with names kept and masked."""
    texts = store.texts(chosen)
    return name, store.lonlat[chosen], {"kept": texts, "masked": mask_names(texts, names_of(store, chosen)[0])}


def _text_rows(trained_on: str, split: str, seed: int | None, model, queries: list) -> list[dict]:
    rows = []
    for name, lonlat, texts in queries:
        place = model.embed_locations(lonlat)
        for names, query in texts.items():
            found = retrieval(model.embed_texts(query), place, lonlat)
            row = {"trained_on": trained_on, "split": split, "seed": seed, "queries": name, "names": names}
            rows.append(row | {k: found[k] for k in MEASURES})
    return rows


def image_experiment(tiles: PlaceStore, as_found: PlaceStore, atlas_run: Path) -> dict:
    """Do kinds of land fall apart in the image backbone's features, across chips, and does a simulated world help?"""
    chip = np.array([Path(f).stem.split("_")[-1] for f in tiles.column("file")])
    kind = np.array([KINDS[c] for c in chip])
    shared = [k for k in np.unique(kind) if len(set(chip[kind == k])) > 1]
    backbone = image_backbone()
    result: dict = {"kinds": {k: sorted(set(chip[kind == k].tolist())) for k in np.unique(kind)}, "nearest": []}
    for name, store in (("offset removed", tiles), ("as found", as_found)):
        z = features(store, "sentinel2", backbone, progress=False)
        z = (z - z.mean(0)) / np.maximum(z.std(0), 1e-6)
        distance = np.linalg.norm(z[:, None] - z[None], axis=2)
        distance[chip[:, None] == chip[None]] = np.inf
        nearest = kind[distance.argmin(1)]
        for k in shared:
            own, others = kind == k, chip[kind == k]
            possible = [((kind == k) & (chip != c)).sum() / (chip != c).sum() for c in others]
            same = float((nearest[own] == k).mean())
            values, counts = np.unique(nearest[own], return_counts=True)
            row = {"offset": name, "kind": str(k), "tiles": int(own.sum()), "same_kind": same}
            row |= {"chance": float(np.mean(possible)), "most_often": str(values[counts.argmax()])}
            result["nearest"].append(row)
    model = load(atlas_run)
    embedded = model.embed_images(tiles.images("sentinel2", np.arange(len(tiles))))
    found = retrieval(embedded, model.embed_locations(tiles.lonlat), tiles.lonlat)
    result["image_to_location_after_atlas"] = {k: found[k] for k in MEASURES}
    return result


def _store(path: Path, name: str, tables=(), chips=(), **options) -> PlaceStore:
    if path.exists():
        return PlaceStore.open(path)
    source, licence = SOURCES[name]
    return from_files(path, tables, chips, source=source, license=licence, **options)


def real_data() -> dict[str, list[Path]]:
    """Find the real data: in ``GEONB_REAL_DATA``, else in ``../shared/data``.

    Raises:
        FileNotFoundError: it is absent.
    """
    folder = Path(os.environ.get("GEONB_REAL_DATA") or ROOT.parent / "shared" / "data")
    found = {"csv": sorted(folder.glob("places_text/*.csv*")), "chips": sorted(folder.glob("sentinel2/*.tif"))}
    if not found["csv"] or not found["chips"]:
        needs = "places_text/*.csv and sentinel2/*.tif; set GEONB_REAL_DATA to the folder that has them"
        raise FileNotFoundError(f"no real data in {folder}: it needs {needs}")
    return found


if __name__ == "__main__":
    main()
