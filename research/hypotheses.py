"""The six hypotheses of the book's chapter 18, as functions of a grid's scores.

They were committed before the runs that test them. Do not change them; add new ones beside them.
"""

from __future__ import annotations

import numpy as np
from cells import MASKED
from scores import GridScores, Group

from geonb.evaluation.tasks import TASKS

TEXT, IMAGE, BOTH = ("text",), ("sentinel2",), ("text", "sentinel2")
MAIN = "degree 20"
APART = "no negatives within 100 km"
EQUIVALENT = 0.01


def bound_to(modalities: tuple[str, ...], encoder: str = MAIN, variant: str = "") -> Group:
    """Name the group of ``imagebind`` runs bound to some modalities."""
    return "imagebind", modalities, encoder, variant


def mean_score(scores: GridScores, group: Group, tasks: list[str], protocol: str) -> np.ndarray:
    """Average accuracy or R² over tasks, (seeds, 1 + draws); R² below 0 counts as 0."""
    return np.mean([np.maximum(scores.probe(group, task, protocol), 0) for task in tasks], 0)


def tasks_of(scores: GridScores, protocol: str, theme: str | None = None) -> list[str]:
    """List the tasks that can be tested under a protocol, of a theme or of all."""
    return [name for name, task in TASKS.items() if theme in (None, task.theme) and scores.has(name, protocol)]


def gain(scores: GridScores, encoder: str, tasks: list[str], protocol: str) -> np.ndarray:
    """Score when bound to both minus that of the better single modality, mean over tasks; (seeds, 1 + draws)."""
    gains = []
    for task in tasks:
        both, *single = (mean_score(scores, bound_to(m, encoder), [task], protocol) for m in (BOTH, TEXT, IMAGE))
        gains.append(both - max(single, key=lambda s: s[:, 0].mean()))
    return np.mean(gains, 0)


def hypotheses(scores: GridScores, encoders: list[str]) -> list[dict]:
    """Decide every hypothesis: what was measured for it, and its outcome, "supported", "refuted" or "undecided".

    Args:
        encoders: location encoders by rising capacity; the first and the last are compared for H2.
    """

    def part(what: str, values: np.ndarray, wanted: str, within: float = 0.0) -> dict:
        return {"what": what, "wanted": wanted, "within": within} | scores.interval(values)

    blocked, regional = tasks_of(scores, "blocked"), tasks_of(scores, "continents")
    far, near = (gain(scores, MAIN, regional, p) for p in ("continents", "random"))
    by_capacity = [gain(scores, e, blocked, "blocked") for e in encoders]
    apart = {
        m: mean_score(scores, bound_to(m, MAIN, APART), blocked, "blocked")
        - mean_score(scores, bound_to(m), blocked, "blocked")
        for m in (TEXT, IMAGE)
    }
    themes = {
        theme: mean_score(scores, bound_to(TEXT), tasks_of(scores, "blocked", theme), "blocked")
        - mean_score(scores, bound_to(IMAGE), tasks_of(scores, "blocked", theme), "blocked")
        for theme in ("social", "physical")
    }
    dimension = {
        name: scores.information(bound_to(BOTH), measure)
        - (scores.information(bound_to(TEXT), measure) + scores.information(bound_to(IMAGE), measure)) / 2
        for name, measure in (("TwoNN", "TwoNN dimension, location"), ("maximum likelihood", "ML dimension, location"))
    }
    masked = bound_to((MASKED, "sentinel2"))
    recall = scores.recall(masked, "text", "location") - scores.recall(bound_to(BOTH), "text", "location")
    probes = mean_score(scores, masked, blocked, "blocked") - mean_score(scores, bound_to(BOTH), blocked, "blocked")

    found = [
        ("H1", [
            part("gain, held-out continents", far, "above"),
            part("the same minus the gain with a random split, same tasks", far - near, "above"),
        ]),
        ("H2", [part(f"gain at {encoders[-1]} minus gain at {encoders[0]}, blocked", by_capacity[-1] - by_capacity[0],
                     "above")]),
        ("H3", [
            part("text-bound: no negatives within 100 km minus plain, blocked", apart[TEXT], "above"),
            part("the same minus that of image-bound", apart[TEXT] - apart[IMAGE], "above"),
        ]),
        ("H4", [
            part("text-bound minus image-bound, social tasks, blocked", themes["social"], "above"),
            part("text-bound minus image-bound, physical tasks, blocked", themes["physical"], "below"),
        ]),
        ("H5", [part(f"dimension, both minus mean of single, {name}", d, "above") for name, d in dimension.items()]),
        ("H6", [
            part("recall@10 text to location, masked minus named", recall, "below"),
            part("mean probe score, blocked, masked minus named", probes, "equal", EQUIVALENT),
        ]),
    ]  # fmt: skip
    return [{"name": name, "parts": parts, "outcome": outcome(parts)} for name, parts in found]


def outcome(parts: list[dict]) -> str:
    """Decide: "supported" if all parts are as wanted, "refuted" if any is on the other side."""
    verdicts = [_side(p) for p in parts]
    if all(v == "as wanted" for v in verdicts):
        return "supported"
    return "refuted" if "other side" in verdicts else "undecided"


def _side(part: dict) -> str:
    low, high, within = part["low"], part["high"], part["within"]
    if part["wanted"] == "equal":
        if -within < low and high < within:
            return "as wanted"
        return "other side" if low >= within or high <= -within else "open"
    above, below = low > 0, high < 0
    if part["wanted"] == "below":
        above, below = below, above
    return "as wanted" if above else "other side" if below else "open"
