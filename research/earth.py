"""Train and judge the models that come with the package: geonb/pretrained/earth and its siblings.

    GEONB_REAL_DATA=DIR python research/earth.py [--store DIR] [--out geonb/pretrained] [--work runs/earth]

Location is bound to real texts and to real landscape chips. Its vector has three parts. The first is
bound to texts by InfoNCE. The second and third predict, at any position, what texts and chips are like
there: the frozen features of both, projected, and averaged over the neighbourhood. Contrasts tell places
apart; these averages say which places are similar, however far apart they are.

``--store`` takes any place store with texts instead of the real articles. No input or target is a label:
what the goals of ``judge`` need of the Atlas sample serves no training.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.linalg
import torch
import yaml
from articles import HERITAGE, articles
from lightning_fabric import Fabric
from scipy.spatial import KDTree
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional as F

from geonb import __version__, load
from geonb import run as files
from geonb._util import provenance, tqdm
from geonb.architectures import Batch, ImageBind, Tensors
from geonb.config import TrainConfig, build
from geonb.data.landscape import BANDS, cut_chips
from geonb.data.sampling import land_points
from geonb.data.splits import blocked_split
from geonb.data.store import PlaceStore, write_store
from geonb.data.texts import mask_names, names_of
from geonb.encoders.features import features
from geonb.encoders.image import Statistics, image_backbone
from geonb.encoders.text import MiniLM, text_backbone
from geonb.evaluation.retrieval import retrieval
from geonb.evaluation.spatial import similar_beyond
from geonb.geo import EARTH_RADIUS_KM, unit_xyz
from geonb.losses import Space, info_nce
from geonb.model import Model
from geonb.sample import load_facts
from geonb.training import PlaceDataset, fit

ROOT = Path(__file__).resolve().parent.parent
HELD_OUT = 800  # articles to report, and as many to choose the settings by
LAND_POINTS = 12_000  # even by area, besides the towns of the gazetteer
PASSAGE_CHARS = 480  # about what the text backbone reads
SOFT_KM = 50.0  # texts within it are soft positives of each other
TEXTS_KM, CHIPS_KM = 200.0, 200.0  # standard deviations of the averages over a neighbourhood
LAGS_KM = (50.0, 200.0)  # distance of chips whose shared variation counts
RIDGE = 300.0  # larger: coarser landscapes from texts
NEARBY = 5.0  # weight of the two regressions beside the contrast
FAR_KM, SIMILAR = 2000.0, 20
GOALS = {"articles": 0.78, "heritage": 0.62, "climate": 0.42, "language": 0.50, "extents": 0.88}


@dataclass(frozen=True)
class Recipe:
    """The parts of a model, with the share of each in the squared length of the vectors of location and of a text."""

    parts: dict[str, int]
    location: tuple[float, ...]
    text: tuple[float, ...] = ()
    degrees: int = 40
    hidden: int = 1024


RECIPES = {
    "earth": Recipe({"contrast": 128, "text": 128, "landscape": 60}, (0.1, 0.38, 0.52), (0.96, 0.02, 0.02)),
    "earth-text": Recipe({"contrast": 128, "text": 128}, (0.2, 0.8), (0.95, 0.05), 26, 448),
    "earth-landscape": Recipe({"landscape": 60}, (1.0,), (), 26, 448),
}


class Earth(ImageBind):
    """Bind location to texts by contrast in the first part, and to averages nearby in the parts of their names."""

    names: tuple[str, ...] = ()

    def forward(self, batch: Batch) -> Tensors:
        lonlat, _ = batch["location"]
        parts = dict(zip(self.names, self._parts("location", lonlat), strict=True))
        terms = {}
        if "contrast" in parts:
            values, has = batch["text"]
            text = self._parts("text", values[has])[0]
            space = Space(lonlat[has], soft_km=SOFT_KM)
            terms["contrast"] = info_nce(parts["contrast"][has], text, self.scale("text"), space)
        for name in parts.keys() & {"text", "landscape"}:
            target, has = batch[f"{name} nearby"]
            terms[name] = NEARBY * (1 - (parts[name][has] * target[has]).sum(1)).mean()
        return terms

    def _parts(self, modality: str, values: Tensor) -> list[Tensor]:
        return [F.normalize(part, dim=1) for part in self.encoders[modality](values).split(self.parts, 1)]


# Data


def held_out(store: PlaceStore, seed: int = 2026) -> dict[str, np.ndarray]:
    """Draw rows of a store that no training sees: 800 articles to report and 800 to choose by, heritage texts alike."""
    rng, heritage, text = np.random.default_rng(seed), store.column("source") == HERITAGE, store.has("text")
    rows = rng.permutation(np.flatnonzero(text & ~heritage))
    others = rng.permutation(np.flatnonzero(text & heritage))
    half = len(others) // 2
    chosen = {"articles": rows[:HELD_OUT], "chosen by": rows[HELD_OUT : 2 * HELD_OUT]}
    return chosen | {"heritage": others[:half], "heritage, chosen by": others[half:]}


def passages(text: str) -> list[str]:
    """Cut a text at ends of sentences into at most eight passages of about 480 characters."""
    found = [""]
    for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", text):
        if found[-1] and len(found[-1]) + len(sentence) > PASSAGE_CHARS:
            found.append("")
        found[-1] = f"{found[-1]} {sentence}".strip()
    return [passage for passage in found if len(passage) >= 60][:8] or [text]


def land(sample: PlaceStore) -> np.ndarray:
    """Return positions (n, 2), degrees, of chips: the gazetteer's without the Atlas sample, and random land."""
    facts = load_facts()[0]
    known = set(map(tuple, sample.lonlat.round(3).tolist()))
    gazetteer = [p for p in np.stack([facts["lon"], facts["lat"]], 1).round(3).tolist() if tuple(p) not in known]
    return np.concatenate([gazetteer, land_points(LAND_POINTS, seed=7)])


def training_store(path: Path, store: PlaceStore, points: np.ndarray) -> PlaceStore:
    """Write a store of the passages of all texts, a place each with its ``article``, and of land points without one."""
    if path.exists():
        return PlaceStore.open(path)
    rows = np.flatnonzero(store.has("text"))
    cut = [(row, passage) for row, text in zip(rows, store.texts(rows), strict=True) for passage in passages(text)]
    article = np.array([row for row, _ in cut] + [-1] * len(points))
    lonlat = np.concatenate([store.lonlat[article[: len(cut)]], points])
    ids = [f"passage-{i}" for i in range(len(cut))] + [f"land-{i}" for i in range(len(points))]
    return write_store(
        path,
        places={"place_id": ids, "lon": lonlat[:, 0], "lat": lonlat[:, 1], "article": article},
        texts={"place_id": ids[: len(cut)], "text": [passage for _, passage in cut]},
        simulated={"location": False, "text": False},
    )


def chip_features(lonlat: np.ndarray, backbone: Statistics, cache: Path) -> np.ndarray:
    """Encode the landscape chips of positions (n, 2), degrees, float32 (n, d); cached."""
    if not cache.exists():
        starts = range(0, len(lonlat), 1024)
        chunks = [backbone.encode(cut_chips(lonlat[i : i + 1024])) for i in tqdm(starts, desc="landscape chips")]
        np.save(cache, np.concatenate(chunks))
    return np.load(cache, allow_pickle=False)


# Targets


def shared_variation(values: np.ndarray, lonlat: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Find the directions (d, count) of values (n, d) that vary most between regions and least between neighbours.

    These are maximum autocorrelation factors (Switzer and Green, 1984), each scaled by the root of its ratio.
    """
    rng, tree = np.random.default_rng(seed), KDTree(unit_xyz(lonlat))
    first = rng.permutation(len(values))[:30_000]
    around = tree.query_ball_point(unit_xyz(lonlat[first]), LAGS_KM[1] / EARTH_RADIUS_KM)
    inside = tree.query_ball_point(unit_xyz(lonlat[first]), LAGS_KM[0] / EARTH_RADIUS_KM)
    ring = [np.setdiff1d(a, b) for a, b in zip(around, inside, strict=True)]
    pairs = np.array([(i, rng.choice(r)) for i, r in zip(first, ring, strict=True) if len(r)])
    difference = values[pairs[:, 0]] - values[pairs[:, 1]]
    nearby = difference.T @ difference / len(difference) / 2
    nearby += 1e-3 * np.trace(nearby) / len(nearby) * np.eye(len(nearby))
    ratio, directions = scipy.linalg.eigh(np.cov(values.T), nearby)
    ratio, directions = ratio[::-1][:count], directions[:, ::-1][:, :count]
    return directions / (values @ directions).std(0) * np.sqrt(np.maximum(ratio - 1, 0))


def averaged(
    values: np.ndarray, lonlat: np.ndarray, at: np.ndarray, km: float, neighbours: int, least: int
) -> np.ndarray:  # fmt: skip
    """Average values (n, d) around positions ``at`` (k, 2) by a Gaussian of ``km``, wider to reach ``least``."""
    tree, out = KDTree(unit_xyz(lonlat)), np.empty((len(at), values.shape[1]), np.float32)
    for start in range(0, len(at), 4096):
        chord, rows = tree.query(unit_xyz(at[start : start + 4096]), k=min(neighbours, len(lonlat)))
        distance = chord * EARTH_RADIUS_KM
        width = np.maximum(km, distance[:, least - 1 : least])
        weight = np.exp(-((distance / width) ** 2) / 2)[:, :, None]
        out[start : start + 4096] = (weight * values[rows]).sum(1) / weight.sum(1)
    return out


def _unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


# Training


def train(name: str, data: PlaceStore, allowed: np.ndarray, run: Path, seed: int = 0, steps: int = 250) -> Path:
    """Train a model on the ``allowed`` places (n,) of passages and land points, and write its run folder."""
    recipe, text = RECIPES[name], data.has("text") & allowed
    modalities = [m for m in ("text", "landscape") if m in recipe.parts]
    backbones: dict = {"text": _minilm()} if "text" in modalities else {}
    dataset = PlaceDataset(data, {m: features(data, m, backbone) for m, backbone in backbones.items()})
    if "landscape" in modalities:
        backbones["landscape"] = image_backbone("statistics", BANDS, 255)
        chips = chip_features(data.lonlat, backbones["landscape"], run.parent / f"chips-{data.data_hash[:16]}.npy")
        _add(dataset, "landscape", chips)
    config = TrainConfig(
        modalities=("location", *modalities), dim=sum(recipe.parts.values()),
        encoding={"name": "spherical_harmonics", "degrees": recipe.degrees, "decay": 1.0},
        network={"name": "residual", "hidden": recipe.hidden}, head={"name": "residual", "hidden": 256},
        options={"parts": list(recipe.parts.values()), "weights": _weights(recipe, modalities)},
        backbones={m: backbones[m].name for m in modalities}, steps=steps, batch_size=3072, ema=0.98,
        validate_every=steps, seed=seed,
    )  # fmt: skip
    built = build("imagebind", config, {m: values.shape[1] for m, values in dataset.features.items()})
    model = Earth(built.encoders["location"], {m: built.encoders[m] for m in modalities}, **config.options)
    model.names = tuple(recipe.parts)
    for m in modalities:
        model.encoders[m].standardise_by(dataset.features[m][dataset.present[m].numpy() & allowed])
    targets = _set_projections(model, recipe, data.lonlat, allowed, text, dataset.features)
    for m, target in targets.items():
        _add(dataset, f"{m} nearby", target)

    rows = torch.from_numpy(np.flatnonzero(allowed if "landscape" in modalities else text))
    record = {"architecture": "imagebind", "data_hash": data.data_hash, "init": None, "extra": {}}
    files.write_config(run, record, config)
    weights, state = fit(Fabric(accelerator="cpu", devices=1), model, dataset, rows, rows[:64], config, run)
    described = {m: {"name": b.name, "dim": b.dim, "fingerprint": b.fingerprint} for m, b in backbones.items()}
    if "landscape" in modalities:
        described["landscape"] |= {"bands": list(BANDS), "scale": 255}
    manifest = {
        "architecture": "imagebind",
        "modalities": list(config.modalities),
        "backbones": described,
        "data": {
            "name": data.path.name, "hash": data.data_hash, "places": int(allowed.sum()), "passages": int(text.sum()),
            "simulated": dict.fromkeys(config.modalities, False),
        },
        "inputs": [f"location, {len(rows):,} positions", *(INPUTS[m] for m in modalities)],
        "targets": [TARGETS[name] for name in recipe.parts],
        "selected_by": "the last step; a moving average of the weights, decay .98",
        "parameters": sum(p.numel() for p in model.parameters()),
        "seed": seed,
        "provenance": provenance(),
        "versions": {"geonb": __version__, "torch": torch.__version__},
    }  # fmt: skip
    if "text" in modalities:
        weights |= {f"backbone.text.{k}": v for k, v in backbones["text"].state().items()}
    files.write_result(run, weights, manifest | state)
    return run


INPUTS = {
    "text": "text, passages of real articles: all-MiniLM-L6-v2, frozen",
    "landscape": "landscape, chips of 240 km from seven mosaics: statistics of 19 bands, frozen",
}
TARGETS = {
    "contrast": "the passage of a place among those of the batch",
    "text": "frozen text features, projected, averaged over a neighbourhood of 200 km",
    "landscape": "frozen landscape features, projected, averaged over a neighbourhood of 200 km",
}


def _add(dataset: PlaceDataset, name: str, values: np.ndarray) -> None:
    """Give all places values (places, d)."""
    dataset.features[name] = torch.from_numpy(values)
    dataset.present[name] = torch.ones(len(values), dtype=torch.bool)


def _minilm() -> MiniLM:
    """Make the text backbone in float32, which every machine has."""
    return text_backbone("minilm", state={"minilm.bfloat16": torch.tensor(0)})


def _weights(recipe: Recipe, modalities: list[str]) -> dict[str, list[float]]:
    names = list(recipe.parts)
    weights = {"location": np.sqrt(recipe.location).tolist(), "text": np.sqrt(recipe.text).tolist()}
    weights["landscape"] = [float(name == "landscape") for name in names]
    return {m: weights[m] for m in ("location", *modalities)}


@torch.no_grad()
def _set_projections(
    model: Earth, recipe: Recipe, lonlat: np.ndarray, allowed: np.ndarray, text: np.ndarray, features: Tensors
) -> dict[str, np.ndarray]:  # fmt: skip
    """Set the rows of the heads that are no contrast to fixed linear maps; return the targets (places, d) of location.

    Only the ``allowed`` places, and the ``text`` of some, enter the maps and the averages.

    Texts are projected on their principal components, chips on the directions that regions share, and texts on these by
    ridge regression, so that words about a landscape find such landscapes.
    """
    targets, start = {}, dict(zip(recipe.parts, np.cumsum([0, *recipe.parts.values()]), strict=False))

    def set_rows(modality: str, part: str, directions: np.ndarray) -> None:
        net, rows = model.encoders[modality].network, slice(start[part], start[part] + recipe.parts[part])
        net.linear.weight[rows] = torch.from_numpy(directions.T.copy()).float()
        net.mlp[-1].weight[rows], net.mlp[-1].bias[rows] = 0.0, 0.0

    def standardised(modality: str) -> np.ndarray:
        head = model.encoders[modality]
        return ((features[modality] - head.mean) / head.std).numpy()

    if "landscape" in recipe.parts:
        chips = standardised("landscape")
        directions = shared_variation(chips[allowed], lonlat[allowed], recipe.parts["landscape"])
        set_rows("landscape", "landscape", directions)
        averages = averaged(chips[allowed], lonlat[allowed], lonlat, CHIPS_KM, 30, 1)
        targets["landscape"] = _unit(averages @ directions)
    if "text" in recipe.parts:
        words, count = standardised("text")[text], recipe.parts["text"]
        spread = model.encoders["text"].std.numpy()
        centred = words * spread
        components = np.linalg.svd(centred, full_matrices=False)[2][:count].T
        set_rows("text", "text", spread[:, None] * components)
        targets["text"] = _unit(averaged(_unit(centred @ components), lonlat[text], lonlat, TEXTS_KM, 60, 3))
        if "landscape" in recipe.parts:
            wanted = targets["landscape"][text]
            square = words.T @ words + RIDGE * np.eye(words.shape[1])
            set_rows("text", "landscape", np.linalg.solve(square, words.T @ (wanted - wanted.mean(0))))
    return targets


# Judgement


def judge(
    model: Model, store: PlaceStore, held: dict[str, np.ndarray], sample: PlaceStore, anchors: np.ndarray
) -> dict:  # fmt: skip
    """Measure what the goals name; recall of texts only if the model has them."""
    found: dict = {}
    if "text" in model.modalities:
        for name, rows in held.items():
            texts = store.texts(rows)
            masked, places = mask_names(texts, *names_of(store, rows)), store.lonlat[rows]
            for kind, queries in ((name, texts), (f"{name}, names masked", masked)):
                result = retrieval(model.embed_texts(queries), model.embed_locations(places), places)
                found[kind] = {key: result[key] for key in ("recall@10", "chance@10", "median_km", "n")}
    z = model.embed_locations(sample.lonlat)
    found |= similar(z, sample, anchors)
    if "text" in model.modalities:
        topics = yaml.safe_load((ROOT / "research" / "extents.yaml").read_text(encoding="utf-8"))
        climate = sample.column("climate").astype(str)
        for name, topic in topics.items():
            inside = np.any([np.char.startswith(climate, prefix) for prefix in topic["classes"]], 0)
            scores = model.embed_texts(topic["sentences"]) @ z.T
            found.setdefault("extents of", {})[name] = float(np.mean([roc_auc_score(inside, s) for s in scores]))
        found["extents"] = float(np.mean(list(found["extents of"].values())))
    return found


def similar(z: np.ndarray, sample: PlaceStore, anchors: np.ndarray) -> dict[str, float]:
    """Count, among the 20 places beyond 2,000 km most similar to anchors, those of the same climate and language."""
    climate, language = sample.column("climate"), sample.column("language")
    known, top = np.array([value is not None for value in language]), similar_beyond(z, sample.lonlat, FAR_KM, SIMILAR)
    pairs = zip(anchors, top[anchors], strict=True)
    known_pairs = ((row, others[known[others]]) for row, others in pairs if known[row] and known[others].any())
    return {
        "climate": float((climate[top[anchors]] == climate[anchors, None]).mean()),
        "language": float(np.mean([(language[others] == language[row]).mean() for row, others in known_pairs])),
    }


# Shipping


def ship(run: Path, out: Path) -> Path:
    """Copy a run to ``out`` as a shipped model: half precision, with the vectors of unrelated sentences."""
    model, weights = load(run), files.read_weights(run)
    keep = {k: v if k.startswith("backbone.") or v.dtype != torch.float32 else v.half() for k, v in weights.items()}
    if "text" in model.modalities:
        keep["backbone.unrelated"] = torch.from_numpy(model.unrelated).half()
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(run / "config.yaml", out / "config.yaml")
    files.write_result(out, keep, files.read_manifest(run))
    return out


def references(sample: PlaceStore, anchors: np.ndarray) -> dict:
    """Measure what random vectors reach."""
    z = np.random.default_rng(0).normal(size=(len(sample), 64))
    return similar(z / np.linalg.norm(z, axis=1, keepdims=True), sample, anchors) | {"extents": 0.5}


LICENCE = """**The weights are licensed CC BY-SA 4.0**, which later versions of the texts' licences allow. Whether
weights are an adaptation of the texts they were trained on is an open question in law; share-alike is the choice that
respects the authors' terms in either case. The code of the package has its own licence."""
ENGLISH = "- Its texts are English, seven tenths of them about Europe and North America. It knows other regions less.\n"


def card(name: str, shipped: Path, result: dict, store: PlaceStore) -> str:
    """Write the model card of a shipped model, with the figures of ``result``."""
    manifest, recipe, found = files.read_manifest(shipped), RECIPES[name], result["models"][name]
    modalities = manifest["modalities"][1:]
    sources = sorted(set(zip(store.column("source"), store.column("license"), strict=True)))
    counts = {source: int((store.column("source") == source).sum()) for source, _ in sources}
    data = [f"- {counts[source]:,} texts: {source}, {license}" for source, license in sources]
    heads = {"text": "Texts: frozen all-MiniLM-L6-v2 and a residual head.", "landscape": "Chips: band statistics."}
    rows = ["| | goal | this model | chance | Atlas | names masked | unseen blocks |", "|---|---|---|---|---|---|---|"]
    for key, goal in GOALS.items():
        if key in found:
            rows.append(_row(key, goal, found, result["references"]))
    recalled = [key for key in ("articles", "heritage") if key in found]
    aucs = found.get("extents of", {})
    tested = [f"{found[key]['n']} {'articles' if key == 'articles' else 'heritage texts'}" for key in recalled]
    return (ROOT / "research" / "earth_card.md").read_text(encoding="utf-8").format(
        name=name,
        what=" and ".join(["Location", *modalities]) + " in one space",
        date=manifest["provenance"]["date"],
        degrees=recipe.degrees, hidden=f"{recipe.hidden:,}", dim=sum(recipe.parts.values()),
        parts=", ".join(f"{part} ({size})" for part, size in recipe.parts.items()),
        heads=" ".join(heads[m] for m in modalities), parameters=manifest["parameters"],
        megabytes=(shipped / "model.safetensors").stat().st_size / 1e6,
        inputs="; ".join(manifest["inputs"]), targets="; ".join(manifest["targets"]),
        steps=manifest["steps"], batch=manifest["batch_size"], minutes=manifest["wall_s"] / 60,
        selected_by=manifest["selected_by"], data="\n".join(data if "text" in modalities else ["- No texts."]),
        tested=f"Tested on {' and '.join(tested)} that it was not trained on." if tested else "It embeds no texts.",
        table="\n".join(rows),
        extents=f"AUC by sentence: {', '.join(f'{k} {v:.2f}' for k, v in aucs.items())}." if aucs else "",
        licence=LICENCE if "text" in modalities else "The weights have the licence of the package, MIT.",
        texts=ENGLISH if "text" in modalities else "",
        resolution=round(20_000 / recipe.degrees / 100) * 100,
    )  # fmt: skip


def _row(key: str, goal: float, found: dict, references: dict) -> str:
    labels = {
        "articles": "recall@10, text to location, articles", "heritage": "recall@10, text to location, heritage texts",
        "climate": "20 most similar places beyond 2,000 km: same climate class", "language": "the same: same language",
        "extents": "AUC of eight sentences with a known extent",
    }  # fmt: skip

    def value(of: dict, name: str) -> str:
        at = of.get(name)
        return "" if at is None else f"{at['recall@10'] if isinstance(at, dict) else at:.3f}"

    chance = {key: found[key]["chance@10"]} if isinstance(found[key], dict) else references["chance"]
    cells = [value(found, key), value(chance, key), value(references.get("Atlas", {}), key)]
    cells += [value(found, f"{key}, names masked"), value(found, f"{key} in unseen blocks of 500 km")]
    return f"| {labels[key]} | {goal:.2f} | " + " | ".join(cells) + " |"


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--store", type=Path, help="a place store with texts; by default the real articles")
    parser.add_argument("--sample", type=Path, default=ROOT / "data" / "atlas", help="the Atlas sample, for the goals")
    parser.add_argument("--atlas", type=Path, help="a run on the sample to compare with, such as runs/atlas/imagebind")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "earth")
    parser.add_argument("--out", type=Path, default=ROOT / "geonb" / "pretrained")
    parser.add_argument("--results", type=Path, default=ROOT / "geonb" / "results" / "earth.json")
    parser.add_argument("--models", nargs="+", choices=[*RECIPES], default=[*RECIPES])
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--search", action="store_true", help="judge settings by texts that are held out for it; stop")
    args = parser.parse_args(argv)

    args.work.mkdir(parents=True, exist_ok=True)
    store = PlaceStore.open(args.store) if args.store else articles(args.work / "articles")
    sample, held = PlaceStore.open(args.sample), held_out(store)
    anchors = np.array_split(np.random.default_rng(11).permutation(len(sample)), 2)
    data = training_store(args.work / "places", store, land(sample))

    def trained(name: str, without: np.ndarray, label: str) -> Model:
        run = args.work / f"{name}-{label}"
        if not (run / "manifest.json").exists():
            train(name, data, ~np.isin(data.column("article"), without), run, steps=args.steps)
        return load(run)

    tests = {name: held[name] for name in ("articles", "heritage") if len(held[name])}
    if args.search:
        chosen_by = {"articles": held["chosen by"], "heritage": held["heritage, chosen by"]}
        all_held = np.concatenate([*held.values()])
        found = {n: judge(trained(n, all_held, "search"), store, chosen_by, sample, anchors[0]) for n in args.models}
        print(json.dumps(found, indent=1))
        return found

    blocks = blocked_split(store.lonlat, size_km=500.0, buffer_km=50.0, fractions=[0.8, 0.1, 0.1], seed=0)
    in_blocks = {"articles in unseen blocks of 500 km": np.flatnonzero((blocks == "test") & store.has("text"))}
    found = {}
    for name in args.models:
        model = trained(name, np.concatenate([*tests.values()]), "reported")
        found[name] = judge(model, store, tests, sample, anchors[1])
        if name == "earth":
            elsewhere = trained(name, np.flatnonzero(blocks != "train"), "blocks")
            unseen = judge(elsewhere, store, in_blocks, sample, anchors[1])
            found[name] |= {kind: unseen[kind] for kind in in_blocks}
        ship(args.work / f"{name}-reported", args.out / name)
    compared = {"chance": references(sample, anchors[1])}
    if args.atlas:
        compared["Atlas"] = judge(load(args.atlas), store, tests, sample, anchors[1])
    result = {"provenance": provenance() | {"made_by": "research/earth.py"}, "goals": GOALS}
    result |= {"models": found, "references": compared}
    for name in args.models:
        (args.out / name / "README.md").write_text(card(name, args.out / name, result, store), encoding="utf-8")
    args.results.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))
    return result


if __name__ == "__main__":
    main()
