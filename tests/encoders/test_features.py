"""The cache of backbone features: the same in one piece and in several, computed once."""

from __future__ import annotations

import numpy as np
import pytest

from geonb.encoders import features as module
from geonb.encoders.image import image_backbone
from geonb.encoders.text import text_backbone
from geonb.sample import make_atlas


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_atlas(tmp_path_factory.mktemp("features") / "s", places=40, progress=False)


def backbone_of(store, modality):
    return text_backbone("lsa", fit_on=store.texts(store.has("text"))) if modality == "text" else image_backbone("random_conv")


@pytest.mark.parametrize("modality", ["text", "image"])
def test_features_are_the_same_in_pieces_and_read_in_pieces(store, modality, monkeypatch):
    backbone, rows = backbone_of(store, modality), np.flatnonzero(store.has(modality))
    read = store.texts if modality == "text" else store.images
    whole = backbone.encode(read(rows))
    sizes = []

    def spied(rows):
        sizes.append(len(rows))
        return read(rows)

    monkeypatch.setattr(store, "texts" if modality == "text" else "images", spied)
    monkeypatch.setitem(module.CHUNK, modality, 7)
    values = module.features(store, modality, backbone, progress=False)
    assert values.dtype == np.float32 and max(sizes) == 7 and sum(sizes) == len(rows) > 14
    np.testing.assert_allclose(values, whole, atol=1e-6)
    np.testing.assert_array_equal(module.features(store, modality, backbone), values)
    assert sum(sizes) == len(rows)  # from the cache
