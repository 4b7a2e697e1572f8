"""Results as tables, whose captions say what was measured, and on which data."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from geonb.evaluation.retrieval import RANKS

if TYPE_CHECKING:
    import pandas as pd

PROTOCOLS = {
    "random": "random 80/20 split of places that pre-training has seen without labels",
    "blocked": "held-out blocks that neither pre-training nor the probe has seen",
    "held-out": "held-out places, drawn at random, that neither pre-training nor the probe has seen",
    "continents": "each continent in turn without any label, though pre-training has seen it",
    "bands": "each band of 60 degrees of longitude in turn without any label, though pre-training has seen it",
}
MARKS = "★ best of the column, ≈ interval overlaps the best's. Brackets: 95 % intervals by bootstrap"
NO_INTERVAL = " The places fill too few blocks for an interval."


class Table:
    """A pandas DataFrame with a caption, shown as accessible HTML without scripts."""

    def __init__(self, frame: pd.DataFrame, caption: str) -> None:
        self.frame, self.caption = frame, caption

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col">{escape(str(c))}</th>' for c in ["", *self.frame.columns])
        body = ""
        for index, *row in self.frame.itertuples():
            cells = "".join(f"<td>{escape(str(v))}</td>" for v in row)
            body += f'<tr><th scope="row">{escape(str(index))}</th>{cells}</tr>'
        label = escape(self.caption[:80])
        return (
            f'<div class="geonb-table" role="region" tabindex="0" aria-label="{label}">'
            f"<table><caption>{escape(self.caption)}</caption><thead><tr>{head}</tr></thead>"
            f"<tbody>{body}</tbody></table></div>"
        )

    def __repr__(self) -> str:
        return f"{self.caption}\n{self.frame.to_string()}"


def probe_table(results: dict, split: str) -> Table:
    """Tabulate probes under one of :data:`PROTOCOLS`; ValueError without such rows."""
    rows = _select(results["probes"], split=split)
    rows["column"] = rows["task"] + " (" + rows["metric"] + ")"
    cells = rows["value"].map("{:,.2f} ".format) + _intervals(rows, "", 2)
    rows["cell"] = cells.str.removesuffix(" –") + _marks(rows, "value", "", by="column")
    tests = sorted({rows["n_test"].min(), rows["n_test"].max()})
    nearest = [p["nearest_label_km"] for p in results["protocols"] if p["split"] == split]
    scaled = sorted({f"{r.task}: {r.scaling}" for r in rows.itertuples() if r.scaling != "none"})
    rare = rows[rows.get("n_test_left_out", 0 * rows["n_test"]) > 0]
    rare = sorted({f"{r.task} {r.n_test_left_out:,.0f}" for r in rare.itertuples()})
    caption = (
        f"Linear probes (ridge regression, ridge classifier), {PROTOCOLS[split]}; "
        f"{' to '.join(f'{n:,}' for n in tests)} test places, half of them farther than "
        f"{nearest[0]:,.0f} km from any label. {_data(results)} {MARKS} for places drawn by blocks of 500 km."
        + (NO_INTERVAL if rows["low"].isna().any() else "")
        + (f" Targets scaled ({'; '.join(scaled)})." if scaled else "")
        + (f" Test places left out, their class too rare to train on: {', '.join(rare)}." if rare else "")
    )
    return Table(_with_cost(_pivot(rows, "representation", "column"), results), caption)


def retrieval_table(results: dict, query: str, target: str) -> Table:
    """Tabulate recall and median error in one direction; ValueError without such rows."""
    rows = _select(results["retrieval"], query=query, target=target).set_index("run")
    recalls = [f"recall@{k}" for k in RANKS]
    frame = rows[recalls].map("{:.3f}".format)
    frame.insert(0, "trained pair", np.where(rows["trained"], "yes", "never"))
    frame["recall@10, 95 %"] = _intervals(rows, "recall@10_", 3) + _marks(rows, "recall@10", "recall@10_")
    frame["median error"] = rows["median_km"].map("{:,.0f} km".format)
    frame["median error, 95 %"] = (_intervals(rows, "median_km_", 0) + " km").replace("– km", "–")
    chance = rows.iloc[0]
    frame.loc["chance", recalls] = [f"{chance[f'chance@{k}']:.3f}" for k in RANKS]
    frame.loc["chance", "median error"] = f"{chance['chance_median_km']:,.0f} km"
    held_out = "places of held-out blocks" if (rows["split"] == "blocked").all() else "held-out places"
    caption = (
        f"From {query} to {target} among {rows['n'].iloc[0]:,} {held_out} (the gallery). {_data(results)} "
        f"{MARKS} for queries drawn by blocks of 500 km." + (NO_INTERVAL if rows["recall@10_low"].isna().any() else "")
    )
    return Table(_with_cost(frame.fillna("–"), results), caption)


def information_table(results: dict) -> Table:
    """Tabulate rank, uniformity, alignment and gap of runs, on held-out places."""
    rows = [r for r in results["information"] if not r["measure"].startswith("CKA")]
    return _information(results, rows, "Effective rank, uniformity, alignment and modality gap")


def cka_table(results: dict) -> Table:
    """Tabulate linear CKA of every two location embeddings, on held-out places."""
    rows = [r for r in results["information"] if r["measure"].startswith("CKA with ")]
    rows = [r | {"measure": r["measure"].removeprefix("CKA with ")} for r in rows]
    runs = list(dict.fromkeys(r["run"] for r in results["information"]))
    rows = [{"run": run, "measure": run, "value": 1.0} for run in runs] + rows
    what = "Linear CKA of location embeddings (0 unrelated, 1 equal up to rotation and scale)"
    return _information(results, rows, what)


def _information(results: dict, rows: list[dict], what: str) -> Table:
    frame = _frame(rows)
    frame["cell"] = frame["value"].map("{:.2f}".format).replace("nan", "–")
    caption = f"{what}, on {results['data']['held_out']:,} held-out places. {_data(results)} No intervals."
    return Table(_with_cost(_pivot(frame, "run", "measure"), results), caption)


def grid_table(grid: dict, protocol: str, encoder: str = "degree 20") -> Table:
    """Tabulate probes of a grid under one protocol, of runs with ``encoder`` or their own."""
    rows = _select(grid["probes"], protocol=protocol)
    rows = rows[rows["encoder"].isin(["", "own", encoder])]
    marks = [" ★" if b["value"] == 0 else " ≈" if b["low"] <= 0 else "" for b in rows["behind_best"]]
    rows = rows.assign(
        label=rows.apply(label_of, axis=1),
        column=rows["task"] + " (" + rows["metric"] + ")",
        cell=rows["value"].map("{:.2f} ".format) + _intervals(rows, "", 2) + marks,
    )
    made = grid["provenance"]
    caption = (
        f"Linear probes, {PROTOCOLS[protocol]}. Location encoder of the runs: {encoder}, or their own where "
        f"the row says so; mean over {made['seeds']} seeds, each with its own held-out blocks of "
        f"{made['block_km']:,.0f} km. ★ the best of the whole grid, all encoders; ≈ the interval of the paired "
        "difference to it includes 0. Brackets: 95 % over seeds and blocks. "
        f"{made['data']['places']:,} places, texts and Sentinel-2 images simulated; {made['steps']} steps of "
        f"{made['batch_size']} places. Made {made['date']} on {made['device']}."
    )
    return Table(_pivot(rows, "label", "column"), caption)


def label_of(row: dict) -> str:
    """Name a row of a grid in words: "imagebind, text + sentinel2, own encoder"."""
    bound = " + ".join(m.replace("masked_text", "text without names") for m in row["bound"])
    own = "own encoder" if row["encoder"] == "own" else ""
    return ", ".join(p for p in (row["architecture"], bound, own, row["variant"]) if p)


def _frame(rows: list[dict]) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame(rows)
    numbers = [c for c in frame if c == "value" or c.endswith(("low", "high"))]
    return frame.astype(dict.fromkeys(numbers, float))  # None becomes NaN


def _select(rows: list[dict], **wanted: str) -> pd.DataFrame:
    chosen = [r for r in rows if all(r[k] == v for k, v in wanted.items())]
    if not chosen:
        known = sorted({", ".join(r[k] for k in wanted) for r in rows})
        raise ValueError(f"no rows of {', '.join(wanted.values())}; there are: {'; '.join(known) or 'none'}")
    return _frame(chosen)


def _pivot(rows: pd.DataFrame, index: str, columns: str) -> pd.DataFrame:
    wide = rows.pivot(index=index, columns=columns, values="cell").fillna("–")
    return wide.loc[rows[index].unique(), rows[columns].unique()]


def _intervals(rows: pd.DataFrame, prefix: str, digits: int) -> pd.Series:
    low, high = (rows[f"{prefix}{end}"].map(f"{{:,.{digits}f}}".format) for end in ("low", "high"))
    return ("[" + low + ", " + high + "]").replace("[nan, nan]", "–")


def _marks(rows: pd.DataFrame, value: str, prefix: str, by: str | None = None) -> np.ndarray:
    """A star for the largest value of a group, "≈" where an interval overlaps the star's."""
    rows = rows.reset_index()
    best = rows.groupby(by or np.zeros(len(rows)))[value].transform("idxmax")
    low, high = rows[f"{prefix}low"], rows[f"{prefix}high"]
    overlaps = (high >= low[best].to_numpy()) & (low <= high[best].to_numpy())
    return np.select([best == rows.index, overlaps], [" ★", " ≈"], "")


def _with_cost(frame: pd.DataFrame, results: dict) -> pd.DataFrame:
    """The table with the effort of each run in its last columns."""
    runs = [results["training"].get(name) for name in frame.index]
    frame["steps"] = [f"{r['steps']:,} (selected {r['selected_step']:,})" if r else "–" for r in runs]
    frame["samples seen"] = [f"{r['samples_seen']:,}" if r else "–" for r in runs]
    return frame


def _data(results: dict) -> str:
    simulated = [m for m, yes in results["data"]["simulated"].items() if yes]
    other = [name for name, run in results["training"].items() if run["other_data"]]
    text = f"{results['data']['places']:,} places in all. "
    text += f"Simulated: {', '.join(simulated)}." if simulated else "Real data."
    if other:
        text += f" Trained on other data, perhaps near the test places: {', '.join(other)}."
    return text
