import numpy as np
import pytest
import torch

from geonb.encoders.vision import VISION, sine_positions


@pytest.fixture(scope="module")
def images():
    return torch.from_numpy(np.random.default_rng(0).integers(1, 10_000, (3, 12, 48, 48), np.int32))


@pytest.mark.parametrize("name", VISION)
def test_an_image_is_embedded_alike_alone_and_in_company(name, images):
    torch.manual_seed(0)
    model = VISION[name](16).train()
    together = model(images)
    assert together.shape == (3, 16) and together.isfinite().all()
    torch.testing.assert_close(model(images[1:2]), together[1:2], rtol=1e-4, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name, millions", [("resnet18", 11.2), ("vit_small", 22.5)])
def test_the_networks_have_the_size_of_the_published_ones(name, millions):
    # ResNet-18 has 11.69 M weights with 1,000 classes and 3 bands, ViT-S/16 22.05 M; 12 bands add, 256 outputs take away
    parameters = sum(p.numel() for p in VISION[name](256).parameters()) / 1e6
    assert parameters == pytest.approx(millions, rel=0.03)


@pytest.mark.parametrize("name", VISION)
def test_every_weight_learns_and_any_size_is_taken(name, images):
    model = VISION[name](8)
    model(images).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model(images[:1, :, :32, :32]).shape == (1, 8)


def test_positions_of_patches_differ_and_near_ones_are_alike():
    z = torch.nn.functional.normalize(sine_positions(8, 8, 64), dim=1)
    similarity = z @ z.T
    assert (similarity - torch.eye(64)).max() < 0.999
    assert similarity[0, 1] > similarity[0, 4] and similarity[0, 8] > similarity[0, 32]
