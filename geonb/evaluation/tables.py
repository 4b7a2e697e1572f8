"""Results as tables for people: every one says what it was measured on."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from geonb.evaluation.retrieval import RADII_KM

if TYPE_CHECKING:
    import pandas as pd


class Table:
    """A pandas DataFrame with a caption; shown as plain, accessible HTML.

    Attributes:
        frame: the DataFrame, one row a representation.
        caption: what was measured, on what, and what marks mean.
    """

    def __init__(self, frame: pd.DataFrame, caption: str) -> None:
        self.frame, self.caption = frame, caption

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col">{escape(str(c))}</th>' for c in ["", *self.frame.columns])
        body = "".join(
            f'<tr><th scope="row">{escape(str(index))}</th>{"".join(f"<td>{escape(str(v))}</td>" for v in row)}</tr>'
            for index, row in zip(self.frame.index, self.frame.values.tolist(), strict=True)
        )
        return (
            f'<div class="geonb-table" role="region" tabindex="0" aria-label="{escape(self.caption[:80])}">'
            f"<table><caption>{escape(self.caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )

    def __repr__(self) -> str:
        return f"{self.caption}\n{self.frame.to_string()}"


PROTOCOLS = {
    "random": "random 80/20 split of places that pre-training has seen without labels",
    "blocked": "held-out blocks that neither pre-training nor the probe has seen",
    "held-out": "held-out places, drawn at random, that neither pre-training nor the probe has seen",
    "continents": "each continent in turn without any label, though pre-training has seen it",
    "bands": "each band of 60 degrees of longitude in turn without any label, though pre-training has seen it",
}


def probe_table(results: dict, split: str, errors: bool = False) -> Table:
    """Linear probes under one protocol of :data:`PROTOCOLS`: value and 95 % interval for each task.

    "★" marks the best row of a column, "≈" those whose interval overlaps the best's.

    Args:
        errors: balanced accuracy in place of accuracy, and the mean absolute error in place of R².

    Raises:
        ValueError: no probes under that protocol; the message lists those there are.
    """

    rows = [r for r in results["probes"] if r["split"] == split]
    if not rows:
        there = ", ".join(sorted({r["split"] for r in results["probes"]})) or "none"
        raise ValueError(f"no probes under the split {split!r}; these results have: {there}")
    cells: dict[str, dict[str, tuple]] = {}
    for r in rows:
        column, key, sign = f"{r['task']} ({r['metric']})", "value", 1
        if errors and r["metric"] == "accuracy":
            column, key = f"{r['task']} (balanced accuracy)", "balanced_accuracy"
        elif errors:
            column, key, sign = f"{r['task']} (mean absolute error, {r['target_units']})", "mean_absolute_error", -1
        low, high = (r["low"], r["high"]) if key == "value" else (r[f"{key}_low"], r[f"{key}_high"])
        cells.setdefault(column, {})[r["representation"]] = r[key], low, high, sign
    table = {r["representation"]: _effort(results, r["representation"]) for r in rows}
    for column, values in cells.items():
        marks = _marks(values)
        for name, (value, low, high, _) in values.items():
            digits = 2 if abs(value) < 10 else 0
            table[name][column] = f"{value:,.{digits}f}{interval_text(low, high, digits)}{marks[name]}"
    tests = sorted({r["n_test"] for r in rows})
    scaled = sorted({f"{r['task']}: {r['scaling']}" for r in rows if r["scaling"] != "none"})
    rare = sorted({f"{r['task']} {r['n_test_left_out']:,}" for r in rows if r.get("n_test_left_out")})
    caption = (
        f"Linear probes (ridge regression, ridge classifier), {PROTOCOLS[split]}; {_span(tests)} test places"
        f"{_nearest(results, split)}. "
        f"{_data(results)} {MARKS} for places drawn by blocks of 500 km."
        + (NO_INTERVAL if any(r["low"] is None for r in rows) else "")
        + (f" Targets scaled ({'; '.join(scaled)})." if scaled else "")
        + (f" Test places left out, their class too rare to train on: {', '.join(rare)}." if rare else "")
    )
    return Table(_frame(table), caption)


def retrieval_table(results: dict, query: str, target: str) -> Table:
    """Retrieval in one direction: recall at 1, 5, 10 and the median error, beside chance.

    Raises:
        ValueError: no retrieval in that direction.
    """

    rows = [r for r in results["retrieval"] if (r["query"], r["target"]) == (query, target)]
    if not rows:
        raise ValueError(f"no retrieval from {query} to {target} in these results")
    marks = _marks({r["run"]: (r["recall@10"], r["recall@10_low"], r["recall@10_high"], 1) for r in rows})
    table = {}
    for r in rows:
        recall = interval_text(r["recall@10_low"], r["recall@10_high"], 3) or " –"
        table[r["run"]] = _effort(results, r["run"]) | {
            "trained pair": "yes" if r["trained"] else "never",
            **{f"recall@{k}": f"{r[f'recall@{k}']:.3f}" for k in (1, 5, 10)},
            "recall@10, 95 %": recall[1:] + marks[r["run"]],
            "median error": f"{r['median_km']:,.0f} km",
        }
        if "median_km_low" in r:  # results written before 0.1.0 have no such interval
            error = interval_text(r["median_km_low"], r["median_km_high"], 0)
            table[r["run"]]["median error, 95 %"] = f"{error[1:]} km" if error else "–"
    first = rows[0]
    table["chance"] = {
        **{f"recall@{k}": f"{first[f'chance@{k}']:.3f}" for k in (1, 5, 10)},
        "median error": f"{first['chance_median_km']:,.0f} km",
    }
    held_out = "places of held-out blocks" if first.get("split", "blocked") == "blocked" else "held-out places"
    caption = (
        f"From {query} to {target} among {first['n']:,} {held_out} (the gallery). {_data(results)} "
        f"{MARKS} for queries drawn by blocks of 500 km, the gallery as it is."
        + (NO_INTERVAL if any(r["recall@10_low"] is None for r in rows) else "")
    )
    return Table(_frame(table), caption)


def information_table(results: dict) -> Table:
    """Effective rank, uniformity, alignment and modality gap of each run, on held-out places."""

    table: dict[str, dict[str, str]] = {}
    for r in results["information"]:
        if not r["measure"].startswith("CKA"):
            table.setdefault(r["run"], _effort(results, r["run"]))[r["measure"]] = f"{r['value']:.2f}"
    caption = f"Measured on {results['data']['held_out']:,} held-out places. {_data(results)} No intervals."
    return Table(_frame(table), caption)


def cka_table(results: dict) -> Table:
    """Linear CKA between every two location embeddings, on held-out places."""

    runs = list(dict.fromkeys(r["run"] for r in results["information"]))
    table = {run: _effort(results, run) | {other: "1.00" for other in runs if other == run} for run in runs}
    for r in results["information"]:
        if r["measure"].startswith("CKA with "):
            value = "–" if r["value"] is None else f"{r['value']:.2f}"  # not defined for a constant embedding
            table[r["run"]][r["measure"].removeprefix("CKA with ")] = value
    frame = _frame(table)
    caption = (
        f"Linear CKA between location embeddings (0 unrelated, 1 equal up to rotation and scale), on "
        f"{results['data']['held_out']:,} held-out places. {_data(results)} No intervals."
    )
    return Table(frame[["steps", "samples seen", *runs]], caption)


def grid_table(grid: dict, protocol: str, encoder: str = "degree 20") -> Table:
    """Probes of a grid (``scripts/grid.py``) under one protocol: the runs with one location encoder, those with their
    own, and the reference rows; mean over seeds with its interval.

    "★" marks the best of the whole grid, whatever its encoder, so that a column has none where another encoder is best;
    "≈" those whose paired difference to it is none, its interval holding 0.

    Raises:
        ValueError: no probes under that protocol with that encoder.
    """
    rows = [r for r in grid["probes"] if r["protocol"] == protocol and r["encoder"] in ("", "own", encoder)]
    if not rows:
        there = ", ".join(sorted({r["protocol"] for r in grid["probes"]}))
        raise ValueError(f"no probes under {protocol!r} with {encoder!r}; these results have the protocols {there}")
    table: dict[str, dict[str, str]] = {}
    for r in rows:
        mark = " ★" if r["behind_best"]["value"] == 0 else " ≈" if r["behind_best"]["low"] <= 0 else ""
        cell = f"{r['value']:.2f} [{r['low']:.2f}, {r['high']:.2f}]{mark}"
        table.setdefault(label_of(r), {})[f"{r['task']} ({r['metric']})"] = cell
    made = grid["provenance"]
    caption = (
        f"Linear probes, {PROTOCOLS[protocol]}. Location encoder of the runs: {encoder}, or their own where it says "
        f"so; mean over {made['seeds']} seeds, each with its own held-out blocks of {made['block_km']:,.0f} km. "
        "★ the best of the whole grid, all encoders; ≈ the paired difference to it is none (its interval holds 0); "
        "no ★ in a column whose best has another encoder. Brackets: 95 % over seeds and blocks. " + _made(made)
    )
    return Table(_frame(table), caption)


def grid_retrieval_table(grid: dict, query: str, target: str, encoder: str = "degree 20") -> Table:
    """Retrieval of a grid in one direction, by every route and with and without place names; mean over seeds.

    Raises:
        ValueError: no retrieval in that direction with that encoder.
    """
    rows = [r for r in grid["retrieval"] if (r["query"], r["target"]) == (query, target) and r["encoder"] == encoder]
    if not rows:
        raise ValueError(f"no retrieval from {query} to {target} with {encoder!r} in these results")
    table = {}
    for r in rows:
        name = ", ".join(p for p in (label_of(r), r["masked"], r["route"]) if p)
        table[name] = {f"recall@{k}": f"{r[f'recall@{k}']:.3f}" for k in (1, 5, 10)}
        table[name]["recall@10, 95 %"] = f"[{r['recall@10_low']:.3f}, {r['recall@10_high']:.3f}]"
        table[name]["median error"] = f"{r['median_km']:,.0f} km"
        table[name] |= {f"within {km:,} km": f"{r[f'within_{km}_km']:.3f}" for km in RADII_KM}
    first = rows[0]
    table["chance"] = {f"recall@{k}": f"{first[f'chance@{k}']:.3f}" for k in (1, 5, 10)}
    table["chance"]["median error"] = f"{first['chance_median_km']:,.0f} km"
    caption = (
        f"From {query} to {target} among held-out places, on average {first['n']:,.0f} of them (the gallery); "
        f"location encoder {encoder}. {_made(grid['provenance'])}"
    )
    return Table(_frame(table), caption)


def hypothesis_table(grid: dict) -> Table:
    """Each hypothesis with what was measured, its interval, and its outcome."""
    table = {}
    for h in grid["hypotheses"]:
        for i, part in enumerate(h["parts"]):
            wanted = {"above": "above 0", "below": "below 0", "equal": f"within ±{part['within']}"}[part["wanted"]]
            table[h["name"] if i == 0 else f"{h['name']} ({i + 1})"] = {
                "measured": part["what"],
                "value": f"{part['value']:+.3f} [{part['low']:+.3f}, {part['high']:+.3f}]",
                "wanted": wanted,
                "outcome": h["outcome"] if i == 0 else "",
            }
    caption = f"Outcome of every hypothesis. Brackets: 95 % over seeds and blocks. {_made(grid['provenance'])}"
    return Table(_frame(table), caption)


def label_of(row: dict) -> str:
    """A row of a grid in words: "imagebind, text + image, own encoder"."""
    bound = " + ".join(m.replace("masked_text", "text without names") for m in row["bound"])
    own = "own encoder" if row["encoder"] == "own" else ""
    return ", ".join(p for p in (row["architecture"], bound, own, row["variant"]) if p)


def _made(made: dict) -> str:
    return (
        f"{made['data']['places']:,} places, text and images simulated; {made['steps']} steps of {made['batch_size']} "
        f"places. Made {made['date']} by {made['made_by']} on {made['device']}."
    )


MARKS = "★ best of the column, ≈ interval overlaps the best's. Brackets: 95 % intervals by bootstrap"
NO_INTERVAL = " The places fill too few blocks for an interval."


def interval_text(low: float | None, high: float | None, digits: int) -> str:
    """The interval in brackets after a space, or "" where there is none."""
    return "" if low is None or high is None else f" [{low:,.{digits}f}, {high:,.{digits}f}]"


def _marks(values: dict[str, tuple]) -> dict[str, str]:
    """A mark for each name, from (value, low, high, sign); sign -1 where less is better, low and high None where there
    is no interval."""
    best = max(values, key=lambda name: values[name][3] * values[name][0])
    _, best_low, best_high, _ = values[best]
    return {
        name: " ★" if name == best
        else " ≈" if None not in (low, high, best_low, best_high) and high >= best_low and low <= best_high
        else ""
        for name, (_, low, high, _) in values.items()
    }  # fmt: skip


def _frame(table: dict[str, dict[str, str]]) -> pd.DataFrame:
    """What was measured first, what it cost last, so that a narrow page shows the results."""
    import pandas as pd

    frame = pd.DataFrame.from_dict(table, orient="index").fillna("–")
    cost = [c for c in ("steps", "samples seen") if c in frame]
    return frame[[c for c in frame if c not in cost] + cost]


def _effort(results: dict, name: str) -> dict[str, str]:
    run = results["training"].get(name)
    if run is None:
        return {"steps": "–", "samples seen": "–"}
    return {"steps": f"{run['steps']:,} (kept {run['selected_step']:,})", "samples seen": f"{run['samples_seen']:,}"}


def _nearest(results: dict, split: str) -> str:
    km = [p["nearest_label_km"] for p in results.get("protocols", []) if p["split"] == split]
    return f", half of them farther than {km[0]:,.0f} km from any label" if km else ""


def _span(numbers: list[int]) -> str:
    return f"{numbers[0]:,}" if numbers[0] == numbers[-1] else f"{numbers[0]:,} to {numbers[-1]:,}"


def _data(results: dict) -> str:
    simulated = [m for m, yes in results["data"]["simulated"].items() if yes]
    other = [name for name, run in results["training"].items() if run["other_data"]]
    text = f"{results['data']['places']:,} places in all. "
    text += f"Simulated: {', '.join(simulated)}." if simulated else "Real data."
    return text + (f" Trained on other data, perhaps near the test places: {', '.join(other)}." if other else "")
