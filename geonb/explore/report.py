"""A page about an evaluation: the tables of its results, and a figure of the probes with their intervals."""

from __future__ import annotations

from html import escape
from pathlib import Path

from geonb.evaluation.tables import cka_table, information_table, probe_table, retrieval_table
from geonb.explore.figures import PALETTE, Figure, themed
from geonb.explore.views import write_page

LEAST = -0.25  # the lowest score on the axes; R² has no lower bound


def report_page(results: dict, out: str | Path) -> Path:
    """Write the tables and figures of an evaluation as one file of HTML that needs no network.

    Args:
        results: of :func:`geonb.evaluation.suite.evaluate`.
        out: the page to write; returned.
    """
    title = f"Evaluation on {results['data']['name']}"
    parts = [f"<h1>{escape(title)}</h1>"]
    for split in dict.fromkeys(r["split"] for r in results["probes"]):
        parts += [f"<h2>Probes, split: {escape(split)}</h2>", _probe_figure(results, split).html]
        parts.append(probe_table(results, split)._repr_html_())
    if results["retrieval"]:
        parts.append("<h2>Retrieval</h2>")
    for query, target in dict.fromkeys((r["query"], r["target"]) for r in results["retrieval"]):
        parts.append(retrieval_table(results, query, target)._repr_html_())
    if results["information"]:
        parts += ["<h2>Information</h2>", information_table(results)._repr_html_()]
    if any(r["measure"].startswith("CKA") for r in results["information"]):
        parts.append(cka_table(results)._repr_html_())
    if results["skipped"]:
        lines = [": ".join(str(v) for v in row.values()) for row in results["skipped"]]
        parts += ["<h2>Not measured</h2><ul>", *(f"<li>{escape(line)}</li>" for line in lines), "</ul>"]
    return write_page(out, title, "\n".join(parts))


def _probe_figure(results: dict, split: str) -> Figure:
    """Draw a panel for each task: the score of each representation with its 95 % interval, references in grey."""
    import matplotlib.pyplot as plt

    rows = [r for r in results["probes"] if r["split"] == split]
    tasks = list(dict.fromkeys(r["task"] for r in rows))
    names = list(dict.fromkeys(r["representation"] for r in rows))
    size = 2.6 * len(tasks) + 1.6, 0.22 * len(names) + 0.9
    fig, axes = plt.subplots(1, len(tasks), sharey=True, squeeze=False, figsize=size, layout="constrained")
    panels = dict(zip(tasks, axes[0], strict=True))
    for r in rows:
        ax, y = panels[r["task"]], names.index(r["representation"])
        color = "#6b7280" if r["is_reference"] else PALETTE[0]  # readable on light and on dark
        if r["low"] is not None:
            ax.plot([r["low"], r["high"]], [y, y], color=color)
        marker = "o" if r["value"] >= LEAST else "<"  # the value lies beyond the axis
        ax.plot(max(r["value"], LEAST), y, marker, color=color, markersize=4)
        ax.set(title=r["task"], xlabel=r["metric"], xlim=(LEAST - 0.05, 1), ylim=(len(names) - 0.5, -0.5))
        ax.set_yticks(range(len(names)), names)
    return themed(fig, f"Scores with 95 % intervals of {len(names)} representations, split {split}")
