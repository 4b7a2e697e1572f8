"""Means over seeds, intervals and paired comparisons of a grid.

Intervals resample seeds, and whole blocks of test places within each. The cells of a seed share
test places and draws, so that a difference is between scores of the same places.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from cells import Cell, Settings, classes_of, read_rows

from geonb.config import split_of
from geonb.data.store import PlaceStore
from geonb.evaluation.folds import TaskFold, task_folds
from geonb.evaluation.probes import score
from geonb.evaluation.protocols import protocols_of
from geonb.evaluation.tasks import TASKS
from geonb.geo import blocks

DRAWS = 400
RESAMPLES = 4000

Group = tuple[str, tuple[str, ...], str, str]  # architecture, bound, encoder, variant


def group_of(row: dict) -> Group:
    """Name what a row of a grid shares with the rows of other seeds."""
    return row["architecture"], tuple(row["bound"]), row["encoder"], row["variant"]


class GridScores:
    """Scores of every cell of a grid, each with its bootstrap draws.

    ``rows`` are by (group, seed); ``seeds`` are those for which every group is done.
    """

    def __init__(self, settings: Settings, cells: list[Cell], draws: int = DRAWS) -> None:
        self.store, self.settings, self.draws = PlaceStore.open(settings.data), settings, draws
        self.rows = {(group_of(row), row["seed"]): row for row in read_rows(cells, settings.out)}
        self.groups = list(dict.fromkeys(group for group, _ in self.rows))
        seeds = sorted({seed for _, seed in self.rows})
        self.seeds = [s for s in seeds if all((g, s) in self.rows for g in self.groups)]
        if not self.seeds:
            raise ValueError(f"{settings.out}: no seed has all its cells; run the grid again")
        _, self._block = np.unique(blocks(self.store.lonlat, settings.size_km), return_inverse=True)
        tasks = {name: task for name, task in TASKS.items() if task.column in self.store.columns}
        self.folds: dict[tuple[int, str, str], TaskFold] = {}
        self._weights: dict[tuple[int, str], np.ndarray] = {}
        for seed in self.seeds:
            config = settings.split(seed)
            protocols = protocols_of(self.store, split_of(self.store, {"split": config}), config, seed)
            for protocol in protocols:
                tested = np.any([test for _, test in protocol.folds], 0)
                self._weights[seed, protocol.name] = self._draw(np.unique(self._block[tested]), seed)
            for fold in task_folds(self.store.column, tasks, protocols):
                self.folds[seed, fold.name, fold.protocol] = fold
        self._predictions: dict[str, dict] = {}

    def _draw(self, held: np.ndarray, seed: int) -> np.ndarray:
        """How often each block is drawn, (1 + draws, blocks); first the sample as it is."""
        weights = np.zeros((self.draws + 1, self._block.max() + 1))
        weights[0, held] = 1
        equal = np.full(len(held), 1 / len(held))
        weights[1:, held] = np.random.default_rng(seed).multinomial(len(held), equal, size=self.draws)
        return weights

    def has(self, task: str, protocol: str) -> bool:
        """Tell whether a task has enough labelled places under a protocol, with every seed."""
        return all((s, task, protocol) in self.folds for s in self.seeds)

    def probe(self, group: Group, task: str, protocol: str) -> np.ndarray:
        """R² or accuracy of a linear probe, (seeds, 1 + draws); the first column is that of the sample as it is."""

        def of(seed: int) -> np.ndarray:
            fold = self.folds[seed, task, protocol]
            predicted, truth = self.arrays(group, seed)[f"{task}|{protocol}"], fold.truth()
            if fold.task.kind == "classification":
                truth = np.searchsorted(classes_of(fold.y), truth)
            weights = self._weights[seed, protocol][:, self._block[fold.test]]
            return score(truth, predicted, fold.task.kind, weights)

        return np.stack([of(seed) for seed in self.seeds])

    def recall(self, group: Group, query: str, target: str, masked: str = "", route: str = "") -> np.ndarray:
        """recall@10 among held-out places, (seeds, 1 + draws)."""
        tag = "|".join(["retrieval", query, target, masked, route])

        def of(seed: int) -> np.ndarray:
            rows, hits, _ = self.arrays(group, seed)[tag]
            weights = self._weights[seed, "blocked"][:, self._block[rows.astype(np.int64)]]
            return weights @ hits / weights.sum(1)

        return np.stack([of(seed) for seed in self.seeds])

    def information(self, group: Group, measure: str) -> np.ndarray:
        """A measure of the space, (seeds, 1 + draws); it is the same in every draw of a seed."""
        values = np.array([self.rows[group, s]["information"][measure] for s in self.seeds])
        return np.repeat(values[:, None], self.draws + 1, 1)

    def interval(self, values: np.ndarray) -> dict[str, float]:
        """The mean over seeds of (seeds, 1 + draws), and its interval over seeds and blocks."""
        rng = np.random.default_rng(0)
        seeds = rng.integers(0, len(values), (RESAMPLES, len(values)))
        draw = rng.integers(1, values.shape[1], (RESAMPLES, len(values)))
        means = np.nanmean(values[seeds, draw], 1)
        low, high = np.nanquantile(means, [0.025, 0.975])
        return {"value": float(np.nanmean(values[:, 0])), "low": float(low), "high": float(high)}

    def arrays(self, group: Group, seed: int) -> dict:
        """Load the predictions of a cell, by task and protocol, and its retrieval."""
        name = self.rows[group, seed]["name"]
        if name not in self._predictions:
            path = Path(self.settings.out) / "predictions" / f"{name}.npz"
            with np.load(path, allow_pickle=False) as stored:
                self._predictions[name] = {k: stored[k] for k in stored.files}
        return self._predictions[name]


def summarise(scores: GridScores) -> dict[str, list[dict]]:
    """Make the tables of a grid, with means over seeds.

    A probe row has ``behind_best``, the paired difference to the best of its task and protocol.
    """
    tables: dict[str, list[dict]] = {"probes": _probes(scores)}
    for group in scores.groups:
        lines = [scores.rows[group, s] for s in scores.seeds]

        def add(table: str, row: dict, group: Group = group) -> None:
            tables.setdefault(table, []).append(_named(group) | row)

        for key, means, _ in _over_lines(lines, "retrieval", ("query", "target", "masked", "route")):
            within = scores.interval(scores.recall(group, *key.values()))
            add("retrieval", key | means | {"recall@10_low": within["low"], "recall@10_high": within["high"]})
        for measure in [m for m in lines[0].get("information", {}) if all(m in line["information"] for line in lines)]:
            add("information", {"measure": measure} | scores.interval(scores.information(group, measure)))
        for key, means, _ in _over_lines(lines, "facts", ("view", "task", "known_by", "metric")):
            add("facts", key | {k: means[k] for k in ("value", "floor")})
        for key, means, same in _over_lines(lines, "few_labels", ("task", "metric", "protocol")):
            key["protocol"] = key["protocol"].split(", ")[0]
            values = [row["value"] for row in same]
            spread = {"value": means["value"], "low": min(values), "high": max(values)}
            add("few_labels", key | {"labels": means["n_train"]} | spread)
        for key, means, _ in _over_lines(lines, "zero_shot", ("task", "prompt")):
            add("zero_shot", key | means)
    return tables


def _named(group: Group) -> dict:
    return dict(zip(("architecture", "bound", "encoder", "variant"), group, strict=True))


def _probes(scores: GridScores) -> list[dict]:
    rows = []
    for task, protocol in dict.fromkeys((t, p) for _, t, p in scores.folds):
        if not scores.has(task, protocol):
            continue
        fold = scores.folds[scores.seeds[0], task, protocol]
        present = [g for g in scores.groups if f"{task}|{protocol}" in scores.arrays(g, scores.seeds[0])]
        values = {g: scores.probe(g, task, protocol) for g in present}
        best = max(present, key=lambda g: values[g][:, 0].mean())
        for group in present:
            row = _named(group) | {"task": task, "protocol": protocol, "metric": fold.task.metric}
            row |= scores.interval(values[group]) | {"seeds": values[group][:, 0].tolist()}
            row |= {"n_test": int(fold.test.sum()), "left_out": fold.left_out}
            rows.append(row | {"behind_best": scores.interval(values[best] - values[group])})
    return rows


def _over_lines(lines: list[dict], table: str, keys: tuple[str, ...]) -> list[tuple[dict, dict, tuple]]:
    """(Key, means of all numbers over seeds, the rows themselves) of each row of a table."""
    found = []
    for same in zip(*(line.get(table, []) for line in lines), strict=True):
        key = {k: same[0][k] for k in keys}
        numbers = [k for k, v in same[0].items() if k not in key and isinstance(v, int | float)]
        found.append((key, {k: float(np.mean([row[k] for row in same])) for k in numbers}, same))
    return found
