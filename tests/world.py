"""A small made-up world, and a training config that suits it."""

import numpy as np

from geonb.config import TrainConfig
from geonb.data.store import Images, write_store
from geonb.sample.images import simulate_sentinel2

SMALL = TrainConfig(
    steps=20, batch_size=64, validate_every=5, dim=32, backbones={"text": "lsa"},
    encoding={"name": "spherical_harmonics", "degrees": 6},
    split={"kind": "blocked", "size_km": 1500.0, "buffer_km": 0.0, "seed": 0},
)  # fmt: skip


def make_world(path, n=300, seed=0, side=16):
    """A store of made-up places: text and image depend on latitude; some places lack one or both."""
    rng = np.random.default_rng(seed)
    lonlat = np.stack([rng.uniform(-180, 180, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))], 1)
    zone = np.digitize(lonlat[:, 1], [-50, -20, 20, 50])
    words = np.array(["southern ice", "southern fields", "tropical forest", "northern fields", "northern ice"])[zone]
    texts = [f"A place of {w} and {rng.choice(['rivers', 'hills', 'roads', 'lakes'])}, number {i}." for i, w in enumerate(words)]
    text_rows, image_rows = np.flatnonzero(np.arange(n) % 4 != 0), np.flatnonzero(np.arange(n) % 3 != 0)
    level = np.array([6000, 2500, 800, 2500, 6000])[zone]
    images = rng.normal(level[image_rows, None, None, None], 150, (len(image_rows), 12, side, side)).clip(1, 12000)
    names = [f"p{i}" for i in range(n)]
    return write_store(
        path,
        places={"place_id": names, "lon": lonlat[:, 0], "lat": lonlat[:, 1], "title": [f"Place {i}" for i in range(n)],
                "zone": [str(z) for z in zone], "warmth": 30 - 0.5 * np.abs(lonlat[:, 1])},
        texts={"place_id": [names[i] for i in text_rows], "text": [texts[i] for i in text_rows]},
        images={"sentinel2": Images(iter([images.astype(np.uint16)]), image_rows)},
        facts={
            "zone": {"kind": "classification", "units": "", "modalities": ["text", "sentinel2"], "source": "made up"},
            "warmth": {"kind": "regression", "units": "degrees C", "modalities": ["sentinel2"], "source": "made up"},
        },
        simulated={"location": True, "text": True, "sentinel2": True},
    )  # fmt: skip


def simulate(k, climate, lat, population=0.0, name="p"):
    """k simulated chips uint16 (k, 12, H, W) of one climate and latitude, and what is true of them."""
    facts = {
        "place_id": np.array([f"{name}-{climate}-{i}" for i in range(k)]),
        "climate": np.full(k, climate),
        "continent": np.full(k, "Europe"),
    }
    values = {"lon": 20, "lat": lat, "elevation_m": 200, "relief_m": 50, "coast_km": 300}
    facts |= {column: np.full(k, float(value)) for column, value in values.items()}
    facts["population"] = np.full(k, float(population))
    return simulate_sentinel2(facts)
