"""Make a place store of EuroSAT's Sentinel-2 chips, real articles of Europe, and landscape chips at all of them.

    GEONB_REAL_DATA=DIR python research/eurosat.py [--out runs/eurosat] [--articles runs/earth/articles]

Nothing in it is simulated. No place has both a chip of EuroSAT and a text, so only position, and the landscape
around it, can bind the two. It takes about 20 seconds: if it is stopped, it leaves no part of a store behind, and
starts again from nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from articles import HERITAGE, articles, real_data
from scipy.spatial import KDTree

from geonb._util import tqdm
from geonb.data import landscape
from geonb.data.store import Images, PlaceStore, write_store
from geonb.geo import unit_xyz
from geonb.sample import load_facts

ROOT = Path(__file__).resolve().parent.parent
SIZE, GSD_M, LANDSCAPE_KM = 64, 10.0, 240.0
#: Distance in km between the centres of two chips, their diagonal, beyond which they share no ground.
OVERLAP_KM = {"eurosat": math.sqrt(2) * SIZE * GSD_M / 1000, "landscape": math.sqrt(2) * LANDSCAPE_KM}
SOURCE = "EuroSAT (Helber et al., 2019, doi:10.1109/JSTARS.2019.2918242); contains modified Copernicus Sentinel data"
LICENSE = "MIT (EuroSAT)"
# A pixel of a landscape chip is larger than a whole chip of EuroSAT, so it cannot tell the class.
LAND_USE = {"kind": "classification", "units": None, "modalities": ["eurosat"], "source": f"class of {SOURCE}, MIT"}
CARD = f"""# EuroSAT chips, articles of Europe, and landscape chips

- `eurosat`: {SOURCE}; {LICENSE}. 8-bit RGB from JPEG files, not reflectance; dates not known. Positions are of a second
  repository, 7 m from those of the files that could be compared. `land_use` is a target: it was given to the chips
  themselves, and no text states it, since no place has both.
- texts: Wikipedia (2016, 2020) and Wikivoyage (2015) contributors, CC BY-SA 3.0, cleaned; see `ATTRIBUTION.md`.
- `landscape`: NASA Earth Observatory, Blue Marble (2004); NASA and NOAA, night lights (2012); no copyright. 8-bit
  display values, with a painted sea.

Two chips may share ground if their centres are nearer than the diagonal of a chip: {OVERLAP_KM["eurosat"]:.3f} km for
`eurosat`, {OVERLAP_KM["landscape"]:.1f} km for `landscape`. A place is unseen only if no chip of training is as near.
"""


def make_store(out: Path, file: Path, texts: PlaceStore) -> PlaceStore:
    """Write the place store ``out`` of a table of EuroSAT and of the articles of a store that are in Europe.

    Raises:
        ValueError: a chip that is no JPEG in RGB of 64 x 64 pixels; names its row.
    """
    table = pq.read_table(file, columns=["chip_id", "lon", "lat", "land_use", "jpeg"])
    rows = np.flatnonzero(texts.has("text") & (texts.column("source") != HERITAGE) & in_europe(texts.lonlat))
    chips, ids = len(table), texts.place_id[rows].tolist()
    lonlat = np.concatenate([np.stack([table["lon"], table["lat"]], 1), texts.lonlat[rows]])
    around = landscape.images(lonlat, km=LANDSCAPE_KM)
    around.chunks = tqdm(around.chunks, "landscape chips", math.ceil(len(around.rows) / landscape.CHUNK))
    places = {"place_id": [f"eurosat-{name}" for name in table["chip_id"].to_pylist()] + ids}
    places |= {"lon": lonlat[:, 0], "lat": lonlat[:, 1], "land_use": table["land_use"].to_pylist() + [None] * len(ids)}
    for name, of_chips in (("title", None), ("source", SOURCE), ("license", LICENSE)):
        places[name] = [of_chips] * chips + texts.column(name)[rows].tolist()
    return write_store(
        out,
        places=places,
        texts={"place_id": ids} | {k: texts.text_column(k, rows) for k in ("text", "lang", "license", "source")},
        images={
            "eurosat": Images(decoded(table, file), np.arange(chips), None, ("red", "green", "blue"), 255, GSD_M),
            "landscape": around,
        },
        facts={"land_use": LAND_USE},
        made={
            "function": "research/eurosat.py",
            "sources": {file.name: hashlib.sha256(file.read_bytes()).hexdigest(), "articles": texts.data_hash},
            "overlap_km": OVERLAP_KM,
        },
        datacard=CARD,
    )


def in_europe(lonlat: np.ndarray) -> np.ndarray:
    """Tell for which positions (n,) the nearest place of the gazetteer is in Europe, Russia to 60 E included."""
    facts, _ = load_facts()
    tree = KDTree(unit_xyz(np.stack([facts["lon"], facts["lat"]], 1)))
    return facts["continent"][tree.query(unit_xyz(lonlat))[1]] == "Europe"


def decoded(table: pa.Table, file: Path) -> Iterator[np.ndarray]:
    """Decode the untrusted JPEGs of a table: arrays uint8 (1, 3, 64, 64)."""
    from PIL import Image

    pairs = zip(table["chip_id"].to_pylist(), table["jpeg"].to_pylist(), strict=True)
    for row, (name, jpeg) in enumerate(tqdm(pairs, "EuroSAT chips", len(table))):
        try:
            with Image.open(io.BytesIO(jpeg or b""), formats=["JPEG"]) as image:
                if (image.size, image.mode) != ((SIZE, SIZE), "RGB"):  # before any pixel is decoded
                    raise ValueError(f"{image.size[0]} x {image.size[1]} pixels in {image.mode}")
                pixels = np.asarray(image)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            why = f"no JPEG in RGB of {SIZE} x {SIZE} pixels ({error}); remove the row, or copy the file again"
            raise ValueError(f"{file}: row {row} ({name}): {why}") from None
        yield pixels.transpose(2, 0, 1)[None]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "eurosat")
    parser.add_argument("--articles", type=Path, default=ROOT / "runs" / "earth" / "articles", help="made if absent")
    args = parser.parse_args(argv)
    file = real_data() / "sentinel2_more" / "eurosat_rgb_9000.parquet"
    if not file.exists():
        raise SystemExit(f"{file}: missing; set GEONB_REAL_DATA to the folder of the real data")
    print(make_store(args.out, file, articles(args.articles)))


if __name__ == "__main__":
    main()
