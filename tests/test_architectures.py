"""Each architecture learns what it binds, and nothing else: absent rows, devices and micro-batches change nothing."""

import math

import numpy as np
import pytest
import torch

from geonb.architectures import ARCHITECTURES, _jittered, _uniform_on_sphere
from geonb.encoders.head import Head
from geonb.encoders.location import LocationEncoder, network, positional_encoding
from geonb.geo import great_circle_km, unit_xyz
from geonb.losses import info_nce, melt, nt_xent_fused

WIDTHS = {"text": 12, "sentinel2": 20}


def make(name, dropout=0.0, **options):
    torch.manual_seed(0)
    encoding = positional_encoding("spherical_harmonics", degrees=6)
    location = LocationEncoder(encoding, network("residual", encoding.dim, 16, dropout=dropout))
    binary = ARCHITECTURES[name].binary
    bound = ("sentinel2",) if binary else WIDTHS
    heads = {m: Head(WIDTHS[m], 16, hidden=64, dropout=dropout) for m in bound}
    return ARCHITECTURES[name](location, heads, **options)


def make_batch(n=24, missing=True):
    generator = torch.Generator().manual_seed(1)
    lonlat = torch.rand(n, 2, generator=generator) * torch.tensor([360.0, 170.0]) - torch.tensor([180.0, 85.0])
    batch = {"location": (lonlat, torch.ones(n, dtype=torch.bool))}
    for i, m in enumerate(WIDTHS):
        present = torch.arange(n) % (i + 3) != 0 if missing else torch.ones(n, dtype=torch.bool)
        batch[m] = (torch.randn(n, WIDTHS[m], generator=generator), present)
    return batch


def learns(model, batch, steps=60):
    optimizer = torch.optim.Adam([p for p in model.parameters()], lr=1e-2)
    losses = []
    for step in range(steps):
        model.begin_step(step / steps, step)
        loss = sum(model(batch).values())
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


def loss_and_gradients(model, batch):
    """After a first step, which fills GeoCLIP's queue."""
    for step in range(2):
        model.begin_step(step / 10, 3 + step)
        model.zero_grad()
        terms = model(batch)
        sum(terms.values()).backward()
    return terms | {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}


def assert_same(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for k in expected:
        torch.testing.assert_close(found[k], expected[k], **tolerance)


every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)


@every_architecture
def test_each_architecture_learns_what_it_binds(name):
    model, batch = make(name), make_batch()
    losses = learns(model, batch)
    assert losses[-1] < 0.8 * losses[0]
    for m in model.modalities:
        z = model.embed(m, batch[m][0])
        torch.testing.assert_close(z.norm(dim=1), torch.ones(len(z)))


@every_architecture
def test_absent_and_empty_rows_change_nothing(name):
    """Empty rows fill up the share of a device when a batch cannot be shared evenly."""
    batch = make_batch()
    expected = loss_and_gradients(make(name).eval(), batch)
    for m in WIDTHS:
        values, present = batch[m]
        batch[m] = (torch.where(present[:, None], values, torch.tensor(1e9)), present)
    assert_same(loss_and_gradients(make(name).eval(), batch), expected)
    nobody = torch.zeros(5, dtype=torch.bool)
    filled = {m: (torch.cat([v, v[:5]]), torch.cat([p, nobody])) for m, (v, p) in batch.items()}
    assert_same(loss_and_gradients(make(name).eval(), filled), expected)


@pytest.mark.parametrize("options", [{"exclude_km": 2000.0}, {"soft_km": 2000.0}])
@every_architecture
def test_micro_batches_and_chunks_have_the_loss_and_the_gradients_of_the_whole_batch(name, options):
    batch = {m: (v.double(), p) for m, (v, p) in make_batch().items()}
    whole = loss_and_gradients(make(name, **options).double(), batch)
    parts = loss_and_gradients(make(name, **options, chunk=7, micro_batch=5).double(), batch)
    assert_same(parts, whole, rtol=1e-9, atol=1e-11)


def test_micro_batches_with_dropout_repeat_its_draws():
    """The derivative in a direction, by differences under the same draws, is that of the gradient."""
    model, batch = make("imagebind", dropout=0.5, micro_batch=7).double(), make_batch()
    batch = {m: (v.double(), p) for m, (v, p) in batch.items()}
    weight = model.encoders["text"].network.linear.weight
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def loss(step):
        torch.manual_seed(0)
        weight.data += step * direction
        value = sum(model(batch).values())
        weight.data -= step * direction
        return value

    (gradient,) = torch.autograd.grad(loss(0.0), weight)
    difference = (loss(1e-5) - loss(-1e-5)).item() / 2e-5
    assert difference == pytest.approx((gradient * direction).sum().item(), rel=1e-5)


def test_imagebind_is_the_sum_of_location_pairs_and_never_compares_text_with_images():
    model, batch = make("imagebind"), make_batch()
    lonlat = batch["location"][0]
    terms = model(batch)
    for m in ("text", "sentinel2"):
        values, has = batch[m]
        expected = info_nce(model.embed("location", lonlat[has]), model.embed(m, values[has]), model.scale(m))
        torch.testing.assert_close(terms[m], expected)
    head = model.encoders["sentinel2"].network.linear.weight
    gradient = torch.autograd.grad(sum(terms.values()), head)[0]
    batch["text"] = (batch["text"][0].roll(5, 0), batch["text"][1])
    torch.testing.assert_close(gradient, torch.autograd.grad(sum(model(batch).values()), head)[0])


def test_cyclic_never_moves_the_position_encoder_and_moves_one_head_a_phase():
    model, batch = make("cyclic", cycles=2), make_batch()
    before = {k: v.clone() for k, v in model.encoders["location"].state_dict().items()}
    order = []
    for step in range(8):
        model.begin_step(step / 8, step)
        order.append(model.active[0])
        heads = {m: model.encoders[m].network.linear.weight.clone() for m in model.heads}
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        optimizer.zero_grad()
        sum(model(batch).values()).backward()
        optimizer.step()
        moved = [m for m in model.heads if not torch.equal(heads[m], model.encoders[m].network.linear.weight)]
        assert moved == list(model.active)
    assert order == ["text", "text", "sentinel2", "sentinel2"] * 2
    for k, v in model.encoders["location"].state_dict().items():
        assert torch.equal(v, before[k]), k


def test_cyclic_takes_the_order_it_is_given_and_replays_a_share_of_the_steps():
    model = make("cyclic", cycles=1, order=("sentinel2", "text"), replay=0.25)
    turns = []
    for step in range(400):
        model.begin_step(step / 400, step)
        turns.append(model.active[0])
    first, second = turns[:200], turns[200:]
    assert 0.15 < first.count("text") / 200 < 0.35 and 0.15 < second.count("sentinel2") / 200 < 0.35
    assert [model.phase(p) for p in (0.0, 0.499, 0.5, 1.0)] == [0, 0, 1, 1]


def test_a_frozen_hub_has_no_dropout():
    model, batch = make("imagebind", dropout=0.5, location_learns=False).train(), make_batch()
    with torch.no_grad():
        torch.nn.init.normal_(model.encoders["location"].network.mlp[-1].weight)
    lonlat = batch["location"][0]
    assert torch.equal(model.embed("location", lonlat), model.embed("location", lonlat))
    assert model.encoders["text"].training and not model.encoders["location"].training


def test_temperatures_are_learned_up_to_a_bound_and_come_back_from_it():
    for name in ("imagebind", "fused"):
        model = make(name)
        sum(model(make_batch()).values()).backward()
        assert all(p.grad != 0 for p in model.log_scale.values())
        assert model.scale("text").item() == pytest.approx(1 / 0.07)
        for p in model.log_scale.values():
            p.data.fill_(50.0)
        model.clamp_scales()
        assert model.scale("text").item() == pytest.approx(100.0)
        optimizer = torch.optim.SGD(model.log_scale.parameters(), lr=0.01)
        model.scale("text").backward()
        optimizer.step()
        assert math.log(model.scale("text").item()) < math.log(100.0) - 0.5


def test_fused_is_one_softmax_over_everything_present():
    model, batch = make("fused", form="logsumexp"), make_batch()
    z = torch.stack([model.embed(m, batch[m][0]) for m in model.modalities])
    present = torch.stack([batch[m][1] for m in model.modalities])
    torch.testing.assert_close(model(batch)["fused"], nt_xent_fused(z, present, model.scale("text"), form="logsumexp"))


def test_melt_lets_one_modality_stand_for_each_place():
    model, batch = make("fused", form="melt"), make_batch()
    model.begin_step(0.0, 5)
    loss = model(batch)["melt"]
    has = torch.stack([batch["text"][1], batch["sentinel2"][1]])
    chance = torch.rand(24, 2, generator=torch.Generator().manual_seed(5)).T.masked_fill(~has, -1.0)
    paired, drawn = has.any(0), chance.argmax(0)
    z = {m: model.embed(m, batch[m][0]) for m in model.modalities}
    others = torch.stack([z["text"], z["sentinel2"]])[:, paired]
    torch.testing.assert_close(loss, melt(z["location"][paired], others, drawn[paired], model.scale("text")))
    model.begin_step(0.0, 6)
    assert model(batch)["melt"] != loss


def test_geoclip_queue_keeps_the_last_positions_and_only_while_training():
    model, batch = make("geoclip", queue=10), make_batch(missing=False)
    model.eval()(batch)
    assert model.queued == 0
    first = model.train()(batch)["sentinel2"]
    assert model.queued == 10
    assert {tuple(p.tolist()) for p in model.queue} == {tuple(p.tolist()) for p in batch["location"][0][-10:]}
    assert model(batch)["sentinel2"] > first  # ten more negatives
    longer = make("geoclip", queue=40)
    for n in (24, 20):  # the second batch takes the last 16 slots, then the first 4
        longer(make_batch(n, missing=False))
    expected = torch.cat(
        [make_batch(20)["location"][0][16:], make_batch(24)["location"][0][4:], make_batch(20)["location"][0][:16]]
    )
    torch.testing.assert_close(longer.queue, expected)


def test_csp_has_three_contrasts_and_the_dropout_one_needs_dropout():
    model, batch = make("csp", dropout=0.5).train(), make_batch()
    assert set(model(batch)) == {"batch", "random", "dropout"}
    still = make("csp", temperatures=(20.0, 4.0, 2.0)).eval()
    z = still.embed("location", batch["location"][0][batch["sentinel2"][1]])
    torch.testing.assert_close(still(batch)["dropout"], info_nce(z, z, 0.5))


def test_jitter_is_alike_in_all_directions_wherever_it_is():
    torch.manual_seed(0)
    for lon, lat in ((10.0, 0.0), (-179.999, 60.0), (40.0, 90.0), (0.0, -89.9)):
        start = torch.tensor([[lon, lat]], dtype=torch.float64).expand(20_000, 2)
        moved = _jittered(start, sd_km=5.0).numpy()
        displacement = (unit_xyz(moved) - unit_xyz(start.numpy())) * 6371.0088
        assert np.abs(displacement.mean(0)).max() < 0.15  # three standard errors
        distance = great_circle_km(moved, start.numpy())
        assert np.sqrt((distance**2).mean() / 2) == pytest.approx(5.0, rel=0.02)
        assert np.abs(moved[:, 0]).max() <= 180 and np.abs(moved[:, 1]).max() <= 90


def test_positions_are_displaced_only_while_training():
    model, batch = make("imagebind", jitter_km=300.0), make_batch()
    plain = make("imagebind")(batch)
    torch.testing.assert_close(model.eval()(batch), plain)
    assert model.train()(batch)["text"] != plain["text"]


def test_random_locations_are_uniform_over_the_area_of_the_sphere():
    lonlat = _uniform_on_sphere(40_000, torch.Generator().manual_seed(0)).numpy()
    height = np.sin(np.radians(lonlat[:, 1]))
    counts, _, _ = np.histogram2d(lonlat[:, 0], height, bins=(8, 5), range=((-180, 180), (-1, 1)))
    assert np.abs(counts - 1000).max() < 150


def test_senseless_bindings_are_refused():
    for name, options, message in (
        ("cyclic", {"order": ("text",)}, "name each of text, sentinel2"),
        ("cyclic", {"replay": 1.0}, "replay in"),
        ("fused", {"form": "max"}, "form must be"),
        ("imagebind", {"exclude_km": 10.0, "soft_km": 10.0}, "set one of"),
        ("imagebind", {"soft_km": -1.0}, "at least 0"),
        ("imagebind", {"jitter_km": float("nan")}, "at least 0"),
        ("csp", {"temperatures": (1.0, 0.0, 1.0)}, "three positive numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            make(name, **options)


def test_parts_of_a_vector_are_normalised_by_themselves_and_weighted():
    model = make("imagebind", parts=[6, 10], weights={"location": [0.6, 0.8], "text": [0.0, 1.0]})
    lonlat = torch.tensor([[10.0, 50.0], [-70.0, -30.0]])
    z, t = model.embed("location", lonlat), model.embed("text", make_batch()["text"][0][:2])
    torch.testing.assert_close(z[:, :6].norm(dim=1), torch.full((2,), 0.6))
    torch.testing.assert_close(z[:, 6:].norm(dim=1), torch.full((2,), 0.8))
    assert (t[:, :6] == 0).all()
    with pytest.raises(ValueError, match="give 2 for each modality"):
        make("imagebind", parts=[6, 10], weights={"location": [1.0]})
