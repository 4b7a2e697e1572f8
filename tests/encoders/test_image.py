"""The image backbone."""

import numpy as np
import pytest
from world import simulate

from geonb.encoders import image as module
from geonb.encoders.image import image_backbone


@pytest.fixture(scope="module")
def chips():
    return simulate(8, "Cfb", 48, population=2000)[0]


@pytest.fixture(scope="module")
def backbone():
    return image_backbone()


def test_features_vary_and_do_not_depend_on_the_batch(backbone, chips, monkeypatch):
    features = backbone.encode(chips)
    assert features.shape == (8, backbone.dim) == (8, 512) and features.dtype == np.float32
    assert np.isfinite(features).all() and (features.std(0) > 1e-6).mean() > 0.98
    order = [5, 2, 7, 0]
    monkeypatch.setattr(module, "BATCH", 3)
    np.testing.assert_allclose(backbone.encode(chips[order]), features[order], rtol=1e-4, atol=1e-5)
    even = backbone.encode(np.full((2, 12, 17, 40), 1500, np.uint16))  # chips of any size
    np.testing.assert_allclose(even[:, 12:24], 0, atol=1e-5)  # no deviation


def test_convolution_equals_loops(backbone, chips):
    """Features of two filters at the first scale, written out."""
    chip = chips[:1, :, :16, :16]
    x = (np.sqrt(chip[0] / 10_000) - module.ROOT_CENTRE[:, None, None]) / module.ROOT_SPREAD[:, None, None]
    weights, biases = backbone._weights[0, :2].numpy(), backbone._biases[0, :2].numpy()
    response = np.array(
        [[[(w * x[:, i : i + 3, j : j + 3]).sum() for j in range(14)] for i in range(14)] for w in weights]
    )
    positive = np.maximum(response - biases[:, None, None], 0).mean((1, 2))
    negative = np.maximum(-response - biases[:, None, None], 0).mean((1, 2))
    expected = np.concatenate([x.mean((1, 2)), positive, negative])
    got = backbone.encode(chip)[0]
    np.testing.assert_allclose(got[np.r_[0:12, 32:34, 112:114]], expected, rtol=2e-3, atol=1e-5)


def test_the_fingerprint_follows_what_the_features_follow(monkeypatch):
    fingerprint = image_backbone().fingerprint
    assert fingerprint == image_backbone().fingerprint == "random_conv-8a6fe815ab15"
    monkeypatch.setattr(module, "ROOT_SPREAD", module.ROOT_SPREAD * 2)
    assert image_backbone().fingerprint != fingerprint


def test_wrong_chips_are_refused(backbone, chips):
    for wrong in (chips[0], chips[..., :8], chips[:, :11]):
        with pytest.raises(ValueError, match=r"not \(n, 12, H, W\), H and W at least 16; the bands are B1, B2"):
            backbone.encode(wrong)
    for wrong, message in ((chips / 10_000, "give integers, of which 10000"), (np.ma.masked_less(chips, 500), "masked")):
        with pytest.raises(ValueError, match=message):
            backbone.encode(wrong)


def test_another_modality_has_filters_for_its_own_bands(chips):
    pictures = (chips[:, :2] >> 6).clip(0, 255).astype(np.uint8)
    backbone = image_backbone(bands=["red", "night"], scale=255)
    features = backbone.encode(pictures)
    assert features.shape == (8, backbone.dim) and backbone.fingerprint != image_backbone().fingerprint
    x = (np.sqrt(np.maximum(pictures / 255, 1e-4)) - module.CENTRE) / module.SPREAD
    np.testing.assert_allclose(features[:, :2], x.mean((2, 3)), atol=1e-4)
    assert image_backbone(bands=["red", "day"], scale=255).fingerprint != backbone.fingerprint


def test_statistics_are_those_of_numpy(chips):
    backbone = image_backbone("statistics")
    roots = np.sqrt(chips / 10_000).reshape(len(chips), 12, -1)
    expected = [roots.mean(2), roots.std(2, ddof=1), *np.quantile(roots, module.QUANTILES, axis=2)]
    np.testing.assert_allclose(backbone.encode(chips), np.concatenate(expected, 1), rtol=1e-4, atol=1e-5)
    assert backbone.dim == 60 and backbone.fingerprint != image_backbone().fingerprint
    with pytest.raises(ValueError, match="choose one of random_conv, statistics"):
        image_backbone("resnet")
