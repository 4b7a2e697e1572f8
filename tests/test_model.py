import numpy as np
import pytest

import geonb


def test_places_of_a_store_are_embedded_from_cached_features(trained, world, monkeypatch):
    model = geonb.load(trained)
    for modality, embed in (("text", lambda rows: model.embed_texts(world.texts(rows))),
                            ("sentinel2", lambda rows: model.embed_images(world.images("sentinel2", rows), harmonised=True))):  # fmt: skip
        rows = np.random.default_rng(0).permutation(np.flatnonzero(world.has(modality)))[:20]
        expected = embed(rows)
        with monkeypatch.context() as patch:
            patch.setattr(type(model.backbone(modality)), "encode", None)  # not called again
            found = model.embed_store(world, modality, rows)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        lacking = np.flatnonzero(~world.has(modality))[0]
        with pytest.raises(ValueError, match=f"place {world.place_id[lacking]} has no {modality}; see store.has"):
            model.embed_store(world, modality, [rows[0], lacking])


def test_a_model_refuses_what_it_cannot_embed(trained, world):
    model = geonb.load(trained)
    with pytest.raises(ValueError, match="swapped"):
        model.embed_locations([[48.0, 151.0]])
    with pytest.raises(ValueError, match="text 1"):
        model.embed_texts(["fine", "  "])
    with pytest.raises(ValueError, match=r"a list of texts: \['snow'\]"):
        model.embed_texts("snow")
    with pytest.raises(ValueError, match="not a dict"):
        model.embed_texts({"a": "snow"})
    with pytest.raises(ValueError, match="'text': row 1 has values that are too large"):
        model.embed_features("text", np.array([[0.0], [3e38]]) * np.ones(model.backbone("text").dim))
    with pytest.raises(ValueError, match="no frozen backbone for 'sound'"):
        model.backbone("sound")
    width = model.backbone("text").dim
    for modality, features, message in (
        ("text", np.ones((5, width + 1)), rf"not \(5, {width + 1}\)"),
        ("txt", np.ones((5, width)), "features of text, sentinel2, not of 'txt'"),
        ("text", np.where(np.arange(5)[:, None] == 3, np.nan, np.ones(width)), "row 3 is not finite"),
        ("text", np.ma.masked_array(np.ones((2, width)), [[False] * width, [True] * width]), "row 1 is not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            model.embed_features(modality, features)
    good = world.images("sentinel2", np.flatnonzero(world.has("sentinel2"))[:2])
    masked = np.ma.masked_less(good, good.min() + 1)
    for images, message in ((good[:, :3], "12"), (masked, "masked"), (good / 10000.0, "10.?000"), ((good // 40).astype(np.uint16), "8-bit"),
                            (np.random.default_rng(0).integers(150, 900, (3, 12, 32, 32)) + 1000, "offset of .1000")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            model.embed_images(images)


def test_a_device_is_one_that_the_machine_has(trained, monkeypatch):
    assert next(geonb.load(trained, "auto").architecture.parameters()).device.type in ("cpu", "cuda", "mps")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for device in ("gpu", "cuda:2", "cuda:-1"):
        with pytest.raises(ValueError, match=f"{device}.*choose auto, cuda, cuda:0, cuda:1, .*cpu"):
            geonb.load(trained, device)


def test_another_backbone_than_that_of_the_run_is_refused(trained):
    model = geonb.load(trained)
    model.manifest["backbones"]["sentinel2"]["fingerprint"] = "random_conv-0"
    with pytest.raises(ValueError, match="is not the one of the run .random_conv-0.; install that"):
        model.backbone("sentinel2")
