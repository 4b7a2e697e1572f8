"""The real files that some tests read: the folder ``GEONB_REAL_DATA``, or ``../shared/data`` beside the repository."""

import os
from pathlib import Path

import pytest


def real_data() -> dict[str, list[Path]]:
    """Find the tables of texts and the Sentinel-2 chips; skip the test without them."""
    folder = Path(os.environ.get("GEONB_REAL_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    found = {"csv": sorted(folder.glob("places_text/*.csv*")), "chips": sorted(folder.glob("sentinel2/*.tif"))}
    if not found["csv"] or not found["chips"]:
        pytest.skip(f"REAL DATA ABSENT, nothing real was tested: {folder} lacks places_text/*.csv or sentinel2/*.tif")
    return found
