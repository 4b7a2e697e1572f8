"""Means over seeds, intervals and paired comparisons of a grid.

Every interval resamples seeds, and within each seed whole blocks of its test places. All cells of a seed are tested on
the same places, and share the draws, so that a difference is between scores of the same places and the same Earth.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from geonb.data.splits import blocks
from geonb.data.store import PlaceStore
from geonb.evaluation.cases import Case, make_cases
from geonb.evaluation.grid import Grid, classes_of, read_rows
from geonb.evaluation.probes import score
from geonb.evaluation.protocols import bands_protocol, blocked_protocol, continents_protocol, random_protocol
from geonb.evaluation.tasks import TASKS

DRAWS = 400
RESAMPLES = 4000

Group = tuple[str, tuple[str, ...], str, str]  # architecture, bound, encoder, variant


def group_of(row: dict) -> Group:
    """What a line of a grid's results is, but for its seed."""
    return row["architecture"], tuple(row["bound"]), row["encoder"], row["variant"]


class Scores:
    """Scores of every cell of a grid, each with its bootstrap draws.

    Attributes:
        rows: the lines of the grid by (group, seed).
        groups: in the order of the grid. ``seeds``: those for which every group is done.
        cases: by (seed, task, protocol).

    Raises:
        ValueError: no seed has all its cells.
    """

    def __init__(self, grid: Grid, draws: int = DRAWS) -> None:
        from geonb.config import split_of

        self.store, self.grid, self.draws = PlaceStore.open(grid.data), grid, draws
        self.rows = {(group_of(row), row["seed"]): row for row in read_rows(grid.out)}
        self.groups = list(dict.fromkeys(group for group, _ in self.rows))
        seeds = sorted({seed for _, seed in self.rows})
        self.seeds = [s for s in seeds if all((g, s) in self.rows for g in self.groups)]
        if not self.seeds:
            raise ValueError(f"{grid.out}: no seed has all its cells; run the grid again")
        _, self._block = np.unique(blocks(self.store.lonlat, grid.size_km), return_inverse=True)
        count = self._block.max() + 1
        self.cases: dict[tuple[int, str, str], Case] = {}
        self._weights = {}
        tasks = {name: task for name, task in TASKS.items() if task.column in self.store.columns}
        for seed in self.seeds:
            split = split_of(self.store, {"split": grid.split(seed)})
            protocols = [
                random_protocol(split, seed), blocked_protocol(split, grid.buffer_km, grid.size_km),
                bands_protocol(split, self.store.lonlat),
            ]  # fmt: skip
            if "continent" in self.store.columns:
                protocols.append(continents_protocol(split, self.store.lonlat, self.store.column("continent")))
            for protocol in protocols:
                tested = np.any([test for _, test in protocol.folds], 0)
                held = np.unique(self._block[tested])
                equal = np.full(len(held), 1 / len(held))
                of_block = np.zeros((draws + 1, count))
                of_block[0, held] = 1  # the sample as it is
                of_block[1:, held] = np.random.default_rng(seed).multinomial(len(held), equal, size=draws)
                self._weights[seed, protocol.name] = of_block
            for case in make_cases(self.store.column, tasks, protocols, []):
                self.cases[seed, case.name, case.protocol] = case
        self._predictions: dict[str, dict] = {}
        self._scored: dict[tuple, np.ndarray] = {}

    def has(self, task: str, protocol: str) -> bool:
        """Whether a task has enough labelled places under a protocol, with every seed."""
        return all((s, task, protocol) in self.cases for s in self.seeds)

    def probe(self, group: Group, task: str, protocol: str) -> np.ndarray:
        """(seeds, 1 + draws): R² or accuracy of a linear probe; the first column is that of the sample as it is."""

        def of(seed: int) -> np.ndarray:
            case = self.cases[seed, task, protocol]
            predicted = self.arrays(group, seed)[f"{task}|{protocol}"]
            truth = case.truth()
            if case.task.kind == "classification":
                truth = np.searchsorted(classes_of(case.y), truth)
            return score(truth, predicted, case.task.kind, self._drawn(seed, protocol, np.flatnonzero(case.test)))

        return self._over_seeds(("probe", group, task, protocol), of)

    def recall(self, group: Group, query: str, target: str, masked: str = "", route: str = "") -> np.ndarray:
        """(seeds, 1 + draws): recall@10 among held-out places."""
        tag = "|".join(["retrieval", query, target, masked, route])

        def of(seed: int) -> np.ndarray:
            rows, hits, _ = self.arrays(group, seed)[tag]
            weights = self._drawn(seed, "blocked", rows.astype(np.int64))
            return weights @ hits / weights.sum(1)

        return self._over_seeds((tag, group), of)

    def information(self, group: Group, measure: str) -> np.ndarray:
        """(seeds, 1 + draws): a measure of the space; it has no draws but that of the seeds."""
        values = np.array([self.rows[group, s]["information"][measure] for s in self.seeds])
        return np.repeat(values[:, None], self.draws + 1, 1)

    def interval(self, values: np.ndarray, level: float = 0.95) -> dict[str, float]:
        """{"value", "low", "high"}: the mean over seeds of (seeds, 1 + draws), its interval over seeds and blocks."""
        rng = np.random.default_rng(0)
        seeds = rng.integers(0, len(values), (RESAMPLES, len(values)))
        draw = rng.integers(1, values.shape[1], (RESAMPLES, len(values)))
        means = np.nanmean(values[seeds, draw], 1)
        low, high = np.nanquantile(means, [(1 - level) / 2, (1 + level) / 2])
        return {"value": float(np.nanmean(values[:, 0])), "low": float(low), "high": float(high)}

    def _over_seeds(self, key: tuple, of: Callable[[int], np.ndarray]) -> np.ndarray:
        if key not in self._scored:
            self._scored[key] = np.stack([of(seed) for seed in self.seeds])
        return self._scored[key]

    def _drawn(self, seed: int, protocol: str, rows: np.ndarray) -> np.ndarray:
        return self._weights[seed, protocol][:, self._block[rows]]

    def arrays(self, group: Group, seed: int) -> dict:
        """The stored predictions of a cell, by task and protocol, and its retrieval."""
        name = self.rows[group, seed]["name"]
        if name not in self._predictions:
            with np.load(Path(self.grid.out) / "predictions" / f"{name}.npz") as stored:
                self._predictions[name] = {k: stored[k] for k in stored.files}
        return self._predictions[name]


def summarise(scores: Scores) -> dict[str, list[dict]]:
    """Flat tables of a grid: probes, retrieval, information, facts, zero-shot, few labels; means over seeds.

    A probe row has ``behind_best``, the paired difference to the best of its task and protocol among the trained runs
    and the references alike; where its interval holds 0 the difference is none.
    """
    probes = []
    for task, protocol in dict.fromkeys((t, p) for _, t, p in scores.cases):
        if not scores.has(task, protocol):
            continue
        case = scores.cases[scores.seeds[0], task, protocol]
        present = [g for g in scores.groups if f"{task}|{protocol}" in scores.arrays(g, scores.seeds[0])]
        values = {g: scores.probe(g, task, protocol) for g in present}
        best = max(present, key=lambda g: values[g][:, 0].mean())
        for group in present:
            row = _named(group) | {"task": task, "protocol": protocol}
            row["metric"] = "accuracy" if case.task.kind == "classification" else "R²"
            row |= scores.interval(values[group]) | {"seeds": values[group][:, 0].tolist()}
            row |= {"n_test": int(case.test.sum()), "left_out": case.left_out}
            row["behind_best"] = scores.interval(values[best] - values[group])
            probes.append(row)
    retrieval, information, facts, zero_shot, few = [], [], [], [], []
    for group in scores.groups:
        lines = [scores.rows[group, s] for s in scores.seeds]
        for same in zip(*(line.get("retrieval", []) for line in lines), strict=True):
            key = {k: same[0][k] for k in ("query", "target", "masked", "route")}
            row = _named(group) | key | {k: float(np.mean([r[k] for r in same])) for k in same[0] if k not in key}
            within = scores.interval(scores.recall(group, *key.values()))
            retrieval.append(row | {"recall@10_low": within["low"], "recall@10_high": within["high"]})
        for measure in [m for m in lines[0].get("information", {}) if all(m in line["information"] for line in lines)]:
            row = _named(group) | {"measure": measure}
            information.append(row | scores.interval(scores.information(group, measure)))
        for same in zip(*(line["facts"] for line in lines), strict=True):
            keep = {k: same[0][k] for k in ("view", "task", "known_by", "metric")}
            facts.append(_named(group) | keep | {k: float(np.mean([r[k] for r in same])) for k in ("value", "floor")})
        for same in zip(*(line["few_labels"] for line in lines), strict=True):
            protocol = same[0]["protocol"].split(", ")[0]
            row = _named(group) | {"task": same[0]["task"], "metric": same[0]["metric"], "protocol": protocol}
            values = [r["value"] for r in same]
            row |= {"labels": float(np.mean([r["n_train"] for r in same])), "value": float(np.mean(values))}
            few.append(row | {"low": min(values), "high": max(values)})
        for same in zip(*(line.get("zero_shot", []) for line in lines), strict=True):
            keep = {k: same[0][k] for k in ("task", "prompt")}
            numbers = {k: float(np.mean([r[k] for r in same])) for k in ("value", "majority", "classes", "n_test")}
            zero_shot.append(_named(group) | keep | numbers)
    return {
        "probes": probes, "retrieval": retrieval, "information": information, "facts": facts, "zero_shot": zero_shot,
        "few_labels": few,
    }  # fmt: skip


def _named(group: Group) -> dict:
    return dict(zip(("architecture", "bound", "encoder", "variant"), group, strict=True))


def facts_kept(facts: list[dict], least: float = 0.05) -> list[dict]:
    """How much of what only texts tell, only images tell, and both tell, is left in each view of each run.

    For every fact, (score - floor) / (ceiling - floor): the floor is a probe that knows nothing, the ceiling the best
    probe of the backbones' features, before anything was bound, among the modalities that can tell the fact. Facts
    whose ceiling is less than ``least`` above the floor are left out: no backbone reads them.

    Args:
        facts: rows of :func:`summarise`, those of "text features" and "image features" among them.

    Returns:
        Rows with ``told_by`` ("text only", "image only", "both"), ``kept`` (mean over facts, each at least 0; above 1
        where a view knows more than the backbones), and ``facts``, their number.
    """
    ceilings: dict[str, float] = {}
    for r in facts:
        modality = r["architecture"].removesuffix(" features")
        if r["architecture"].endswith(" features") and modality in r["known_by"]:
            ceilings[r["task"]] = max(ceilings.get(r["task"], -np.inf), r["value"])
    shares: dict[tuple, list[float]] = {}
    for r in facts:
        ceiling = ceilings.get(r["task"], -np.inf)
        if ceiling - r["floor"] >= least:
            told_by = "both" if len(r["known_by"]) > 1 else f"{r['known_by'][0]} only"
            key = (r["architecture"], tuple(r["bound"]), r["encoder"], r["variant"], r["view"], told_by)
            shares.setdefault(key, []).append(max(0.0, (r["value"] - r["floor"]) / (ceiling - r["floor"])))
    names = ("architecture", "bound", "encoder", "variant", "view", "told_by")
    return [
        dict(zip(names, key, strict=True)) | {"kept": float(np.mean(v)), "facts": len(v)} for key, v in shares.items()
    ]
