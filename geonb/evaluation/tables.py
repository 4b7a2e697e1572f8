"""Results as tables for people: every one says what it was measured on."""

from __future__ import annotations

from html import escape


class Table:
    """A pandas DataFrame with a caption; shown as plain, accessible HTML.

    Attributes:
        frame: the DataFrame, one row a representation.
        caption: what was measured, on what, and what marks mean.
    """

    def __init__(self, frame, caption: str):
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


def probe_table(results: dict, split: str) -> Table:
    """Linear probes under one protocol ("random" or "blocked"): value and 95 % interval for each task.

    "≈" marks what the interval cannot tell from the best row of its column.
    """
    import pandas as pd

    rows = [r for r in results["probes"] if r["split"] == split]
    if not rows:
        raise ValueError(f"no probes under the split {split!r}; choose random or blocked")
    best = {}
    for r in rows:
        best[r["task"]] = max(best.get(r["task"], r), r, key=lambda x: x["value"])
    table: dict[str, dict[str, str]] = {}
    for r in rows:
        top = best[r["task"]]
        mark = " ★" if r is top else " ≈" if r["high"] >= top["low"] else ""
        column = f"{r['task']} ({r['metric']})"
        shown = f"{r['value']:.2f} [{r['low']:.2f}, {r['high']:.2f}]{mark}"
        table.setdefault(r["representation"], _effort(results, r["representation"]))[column] = shown
    frame = pd.DataFrame.from_dict(table, orient="index").fillna("–")
    protocol = {
        "random": "random 80/20 split of places that pre-training has seen without labels",
        "blocked": "held-out blocks that neither pre-training nor the probe has seen",
    }[split]
    tests = sorted({r["n_test"] for r in rows})
    scaled = sorted({f"{r['task']}: {r['scaling']}" for r in rows if r["scaling"] != "none"})
    caption = (
        f"Linear probes, {protocol}; {tests[0]:,} to {tests[-1]:,} test places. {_simulated(results)} "
        f"Brackets: 95 % intervals by block bootstrap. ★ best of the column, ≈ interval overlaps the best's. "
        f"Targets scaled ({'; '.join(scaled)})."
    )
    return Table(frame, caption)


def retrieval_table(results: dict, query: str, target: str) -> Table:
    """Retrieval in one direction: recall at 1, 5, 10 and the median error, beside chance."""
    import pandas as pd

    rows = [r for r in results["retrieval"] if (r["query"], r["target"]) == (query, target)]
    if not rows:
        raise ValueError(f"no retrieval from {query} to {target} in these results")
    table = {}
    for r in rows:
        table[r["run"]] = _effort(results, r["run"]) | {
            "trained pair": "yes" if r["trained"] else "never",
            **{f"recall@{k}": f"{r[f'recall@{k}']:.3f}" for k in (1, 5, 10)},
            "recall@10, 95 %": f"[{r['recall@10_low']:.3f}, {r['recall@10_high']:.3f}]",
            "median error": f"{r['median_km']:,.0f} km",
        }
    first = rows[0]
    table["chance"] = {
        **{f"recall@{k}": f"{first[f'chance@{k}']:.3f}" for k in (1, 5, 10)},
        "median error": f"{first['chance_median_km']:,.0f} km",
    }
    caption = (
        f"From {query} to {target} among {first['n']:,} places of held-out blocks (the gallery). {_simulated(results)} "
        "Intervals by block bootstrap."
    )
    return Table(pd.DataFrame.from_dict(table, orient="index").fillna("–"), caption)


def information_table(results: dict) -> Table:
    """Effective rank, uniformity, alignment and modality gap of each run, on held-out places."""
    import pandas as pd

    table: dict[str, dict[str, str]] = {}
    for r in results["information"]:
        if not r["measure"].startswith("CKA"):
            table.setdefault(r["run"], _effort(results, r["run"]))[r["measure"]] = f"{r['value']:.2f}"
    caption = f"Measured on places of held-out blocks. {_simulated(results)}"
    return Table(pd.DataFrame.from_dict(table, orient="index").fillna("–"), caption)


def seeds_table(results: dict, split: str = "blocked") -> Table:
    """Mean and standard deviation over seeds of each probe, and of retrieval of locations (``scripts/seeds.py``)."""
    import pandas as pd

    table: dict[str, dict[str, str]] = {}
    for r in results["references"]:
        if r["split"] == split:
            table.setdefault(r["name"], {})[f"{r['task']} ({r['metric']})"] = f"{r['value']:.2f}"
    cells: dict[tuple[str, str], list[float]] = {}
    for r in results["probes"]:
        if r["split"] == split:
            cells.setdefault((r["name"], f"{r['task']} ({r['metric']})"), []).append(r["value"])
    for r in results["retrieval"]:
        if r["target"] == "location":
            cells.setdefault((r["name"], f"{r['query']} → location, recall@10"), []).append(r["recall@10"])
    for (name, column), values in cells.items():
        shown = pd.Series(values)
        table.setdefault(name, {})[column] = f"{shown.mean():.3f} ± {shown.std():.3f}"
    made = results["provenance"]
    caption = (
        f"Mean ± standard deviation over {made['seeds']} seeds of training, {made['steps']:,} steps of "
        f"{made['batch_size']} places each; {made['data']['places']:,} places, the same {split} split for all. "
        "Text and images simulated. "
        f"Made {made['date']} by {made['made_by']} on {made['device']}, torch {made['versions']['torch']}."
    )
    return Table(pd.DataFrame.from_dict(table, orient="index").fillna("–"), caption)


def _effort(results: dict, name: str) -> dict[str, str]:
    run = results["training"].get(name)
    if run is None:
        return {"steps": "–", "samples seen": "–"}
    return {"steps": f"{run['steps']:,} (kept {run['selected_step']:,})", "samples seen": f"{run['samples_seen']:,}"}


def _simulated(results: dict) -> str:
    simulated = [m for m, yes in results["data"]["simulated"].items() if yes]
    return f"Simulated: {', '.join(simulated)}." if simulated else "Real data."
