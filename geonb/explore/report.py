"""A page about an evaluation: the tables of its results, and a figure of the probes with their intervals."""

from __future__ import annotations

from html import escape
from pathlib import Path

import numpy as np

from geonb.evaluation.tables import cka_table, information_table, probe_table, retrieval_table
from geonb.explore.figures import PALETTE, Figure, themed
from geonb.explore.views import write_page

INK = "#6b7280"  # references; readable on light and on dark


def report_page(results: dict, out: str | Path) -> Path:
    """Write the tables and figures of an evaluation as one file of HTML that needs no network; return its path.

    Args:
        results: of :func:`geonb.evaluation.suite.evaluate`.
        out: the page to write.
    """
    splits = list(dict.fromkeys(r["split"] for r in results["probes"]))
    parts = [f"<h1>Evaluation on {escape(results['data']['name'])}</h1>"]
    for split in splits:
        parts += [f"<h2>Probes, split: {escape(split)}</h2>", probe_figure(results, split)._repr_html_()]
        parts.append(probe_table(results, split)._repr_html_())
    pairs = list(dict.fromkeys((r["query"], r["target"]) for r in results["retrieval"]))
    parts += ["<h2>Retrieval</h2>"] if pairs else []
    parts += [retrieval_table(results, query, target)._repr_html_() for query, target in pairs]
    if results["information"]:
        parts += ["<h2>Information</h2>", information_table(results)._repr_html_()]
    if any(r["measure"].startswith("CKA") for r in results["information"]):
        parts.append(cka_table(results)._repr_html_())
    if results["skipped"]:
        lines = [": ".join(str(v) for v in row.values()) for row in results["skipped"]]
        parts += ["<h2>Not measured</h2><ul>", *(f"<li>{escape(line)}</li>" for line in lines), "</ul>"]
    return write_page(out, f"Evaluation on {results['data']['name']}", "\n".join(parts))


def probe_figure(results: dict, split: str) -> Figure:
    """Draw a panel for each task: a dot with its 95 % interval for each representation, references in grey."""
    import matplotlib.pyplot as plt

    rows = [r for r in results["probes"] if r["split"] == split]
    tasks = list(dict.fromkeys(r["task"] for r in rows))
    names = list(dict.fromkeys(r["representation"] for r in rows))
    columns = min(4, len(tasks))
    lines = -(-len(tasks) // columns)
    size = (2.6 * columns + 1.6, lines * (0.22 * len(names) + 0.9))
    fig, axes = plt.subplots(lines, columns, sharey=True, squeeze=False, figsize=size, layout="constrained")
    best = {}
    for ax, task in zip(axes.flat, tasks, strict=False):
        of_task = [r for r in rows if r["task"] == task]
        best[task] = max(of_task, key=lambda r: r["value"])["representation"]
        metric = of_task[0]["metric"]
        low = -0.25 if metric == "R²" else 0.0
        for r in of_task:
            y, color = names.index(r["representation"]), INK if r["is_reference"] else PALETTE[0]
            if r["low"] is not None:
                ax.plot(np.maximum([r["low"], r["high"]], low), [y, y], color=color, linewidth=1.5)
            marker = "o" if r["value"] >= low else "<"  # the value lies beyond the axis
            ax.plot(max(r["value"], low), y, marker, color=color, markersize=4, clip_on=False)
        ax.set(xlim=(low, 1.0), ylim=(len(names) - 0.4, -0.6))
        ax.set_title(task, fontsize=9)
        ax.set_xlabel(metric, fontsize=8)
        ax.set_yticks(range(len(names)), names)
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes.flat[len(tasks) :]:
        ax.set_visible(False)
    highest = "; ".join(f"{task}: {name}" for task, name in best.items())
    alt = f"Scores with 95 % intervals of {len(names)} representations, split {split}. Highest by task: {highest}."
    return themed(fig, alt)
