"""Figures about training: what an architecture binds, and how a run went."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from geonb.explore.figures import Figure


def binding_diagram(
    bound: Sequence[tuple[str, str]], alt: str, never: Sequence[tuple[str, str]] = (), fixed: tuple = (), note: str = ""
) -> Figure:
    """Draw modalities as boxes, location below the others, with solid lines for pairs that a loss binds.

    Args:
        bound: pairs of modalities by name, such as ("location", "text").
        alt: what the figure says, for those who do not see it.
        never: pairs that no loss compares, as dashed lines.
        fixed: modalities whose trainable half is frozen.
        note: a few words beside each bound line.
    """
    import matplotlib.pyplot as plt

    from geonb.explore.figures import PALETTE, themed

    others = [m for m in dict.fromkeys(m for pair in (*bound, *never) for m in pair) if m != "location"]
    step = 0.76 / max(1, len(others) - 1)
    places = {"location": (0.5, 0.2)} | {m: (0.12 + step * i, 0.8) for i, m in enumerate(others)}
    fig, ax = plt.subplots(figsize=(4.8, 2.1))
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.axis("off")
    for a, b in never:
        ax.plot(*zip(places[a], places[b], strict=True), color="#888888", lw=1.5, ls=(0, (4, 4)), zorder=1)
    for a, b in bound:
        (x0, y0), (x1, y1) = places[a], places[b]
        ax.plot([x0, x1], [y0, y1], color=PALETTE[0], lw=3, zorder=1)
        side = 0.09 if x1 > x0 else -0.09
        ax.text((x0 + x1) / 2 + side, (y0 + y1) / 2 - 0.04, note, ha="center")
    for name, (x, y) in places.items():
        label, colour = (f"{name}\n(fixed)", "#f6f1e3") if name in fixed else (name, "#dcebf5")
        box = {"boxstyle": "round,pad=0.6", "fc": colour, "ec": PALETTE[0], "lw": 1.5}
        ax.text(x, y, label, ha="center", va="center", fontsize=11, color="#1f2328", bbox=box, zorder=2)
    return themed(fig, alt)


def learning_curves(runs: dict[str, str | Path]) -> Figure:
    """Plot the held-out InfoNCE of each modality against the step, with a dot at the selected step.

    ``runs`` are run folders by label; each has a panel.
    """
    import matplotlib.pyplot as plt

    from geonb.explore.figures import PALETTE, themed
    from geonb.run import METRICS, read_lines

    fig, axes = plt.subplots(1, len(runs), figsize=(min(6.0, 3.8 * len(runs)), 2.6), sharey=True, squeeze=False)
    alt = "Held-out loss against training step"
    for ax, (label, run) in zip(axes[0], runs.items(), strict=True):
        lines = read_lines(Path(run) / METRICS)
        manifest = json.loads((Path(run) / "manifest.json").read_text(encoding="utf-8"))
        steps = [line["step"] for line in lines]
        selected = steps.index(manifest["selected_step"])
        modalities = [k.split("/")[1] for k in lines[0] if k.startswith("held_out/")]
        for colour, m in zip(PALETTE, modalities, strict=False):
            values = [line[f"held_out/{m}"] for line in lines]
            ax.plot(steps, values, color=colour, label=f"location\N{EN DASH}{m}")
            ax.plot(steps[selected], values[selected], "o", color=colour)
        ax.set(title=label, xlabel="optimiser step")
        ax.spines[["top", "right"]].set_visible(False)
        alt += f"; {label}: step {steps[selected]} selected, loss {manifest['validation_loss']:.2f}"
    axes[0, 0].set_ylabel("held-out InfoNCE (nats)")
    axes[0, 0].legend(frameon=False)
    fig.tight_layout()
    return themed(fig, alt + ".")
