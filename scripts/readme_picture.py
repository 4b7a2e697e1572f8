"""Draw the README's picture: land coloured by the first three principal components of learned location embeddings."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt

import geonb
from geonb import workspace
from geonb.data.sampling import land_points
from geonb.explore.figures import equal_earth_xy, world_axes
from geonb.explore.projection import Colours

OUT = Path(__file__).resolve().parent.parent / "book" / "static" / "readme.png"


def main() -> None:
    model = geonb.load(workspace.run("fused"))
    grid = land_points(40_000, method="fibonacci")
    embedded = model.embed_locations(grid)
    fig, ax = world_axes(figsize=(9, 4.6))
    ax.scatter(*equal_earth_xy(grid).T, c=Colours(embedded)(embedded), s=2.2, lw=0)
    fig.savefig(OUT, dpi=110, bbox_inches="tight", facecolor="white")
    plt.close(fig)
    print(OUT)


if __name__ == "__main__":
    main()
