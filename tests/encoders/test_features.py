"""The cache of backbone features: the same in one piece and in several, computed once."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from world import make_world

from geonb.encoders import features as module
from geonb.encoders.image import image_backbone
from geonb.encoders.text import text_backbone


@pytest.mark.parametrize("modality", ["text", "sentinel2"])
def test_features_are_computed_once_in_chunks_whoever_asks(modality, tmp_path, monkeypatch):
    store, sizes = make_world(tmp_path / "store", n=40), []
    rows, read = np.flatnonzero(store.has(modality)), partial(store.images, "sentinel2")
    read = store.texts if modality == "text" else read
    backbone = image_backbone() if modality == "sentinel2" else text_backbone("lsa", fit_on=store.texts(rows))
    whole = backbone.encode(read(rows))
    name, chunk = ("texts", "TEXTS") if modality == "text" else ("images", "IMAGES")
    monkeypatch.setattr(store, name, lambda *asked: (sizes.append(len(asked[-1])), read(asked[-1]))[1])
    monkeypatch.setattr(module, chunk, 7)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(module.features, store, modality, backbone, progress=False) for _ in range(2)]
        first, second = (answer.result() for answer in asked)
    assert first.dtype == np.float32 and max(sizes) == 7 and sum(sizes) == len(rows) > 14  # once
    np.testing.assert_allclose(first, whole, atol=1e-6)
    np.testing.assert_array_equal(second, first)


def test_a_computation_that_fails_leaves_no_cache(tmp_path, monkeypatch):
    store, backbone = make_world(tmp_path / "store", n=20), image_backbone()
    monkeypatch.setattr(module, "_encode", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        module.features(store, "sentinel2", backbone)
    monkeypatch.undo()
    whole = module.features(store, "sentinel2", backbone, progress=False)
    assert len(whole) == store.has("sentinel2").sum()
    (cache,) = (store.path / "features").glob("*.safetensors")
    cache.write_bytes(b"damaged")
    np.testing.assert_array_equal(module.features(store, "sentinel2", backbone, progress=False), whole)
