import pytest
import torch

from geonb.architectures import ARCHITECTURES, Architecture, within_km
from geonb.encoders.head import Head
from geonb.encoders.location import LocationEncoder, network, positional_encoding
from geonb.losses import fused_nt_xent, symmetric_info_nce

WIDTHS = {"text": 12, "image": 20}


def make(name, modalities=("text", "image"), dropout=0.0, **options):
    torch.manual_seed(0)
    encoding = positional_encoding("spherical_harmonics", degrees=6)
    location = LocationEncoder(encoding, network("residual", encoding.dim, 16, dropout=dropout))
    binary = ARCHITECTURES[name].binary
    heads = {m: Head(WIDTHS[m], 16, dropout=dropout) for m in (modalities[-1:] if binary else modalities)}
    return ARCHITECTURES[name](location, heads, **options)


def make_batch(n=24, missing=True, modalities=("text", "image")):
    generator = torch.Generator().manual_seed(1)
    lonlat = torch.rand(n, 2, generator=generator) * torch.tensor([360.0, 170.0]) - torch.tensor([180.0, 85.0])
    batch = {"location": (lonlat, torch.ones(n, dtype=torch.bool))}
    for i, m in enumerate(modalities):
        present = torch.arange(n) % (i + 3) != 0 if missing else torch.ones(n, dtype=torch.bool)
        batch[m] = (torch.randn(n, WIDTHS[m], generator=generator), present)
    return batch


def learns(model, batch, steps=60):
    optimizer = torch.optim.Adam([p for p in model.parameters()], lr=1e-2)
    losses = []
    for step in range(steps):
        model.begin_step(step / steps)
        loss = sum(model(batch).values())
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_architecture_learns_what_it_binds(name):
    losses = learns(make(name), make_batch())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_embeddings_are_unit_vectors(name):
    model, batch = make(name), make_batch()
    for m in model.modalities:
        z = model.embed(m, batch[m][0])
        torch.testing.assert_close(z.norm(dim=1), torch.ones(len(z)))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_an_absent_row_holds_does_not_matter(name):
    model, batch = make(name).eval(), make_batch()
    expected = model(batch)
    for m in ("text", "image"):
        values, present = batch[m]
        batch[m] = (torch.where(present[:, None], values, torch.tensor(1e9)), present)
    torch.manual_seed(0), model(batch)
    torch.manual_seed(7)
    again = model(batch)
    for term in expected.keys() - {"random"}:  # random locations are drawn anew
        torch.testing.assert_close(again[term], expected[term])


def test_imagebind_is_the_sum_of_location_pairs_and_never_compares_text_with_images():
    model, batch = make("imagebind"), make_batch(missing=False)
    lonlat = batch["location"][0]
    terms = model(batch)
    for m in ("text", "image"):
        expected = symmetric_info_nce(model.embed("location", lonlat), model.embed(m, batch[m][0]), model.scale(m))
        torch.testing.assert_close(terms[m], expected)
    # what happens to the texts leaves the gradient of the image head as it is
    gradient = torch.autograd.grad(sum(terms.values()), model.encoders["image"].network.linear.weight)[0]
    batch["text"] = (batch["text"][0].flip(0), batch["text"][1])
    again = torch.autograd.grad(sum(model(batch).values()), model.encoders["image"].network.linear.weight)[0]
    torch.testing.assert_close(gradient, again)


def test_cyclic_never_moves_the_position_encoder_and_moves_one_head_a_phase():
    model, batch = make("cyclic", cycles=2), make_batch()
    before = {k: v.clone() for k, v in model.encoders["location"].state_dict().items()}
    order = []
    for step in range(8):
        model.begin_step(step / 8)
        order.append(model.active)
        heads = {m: model.encoders[m].network.linear.weight.clone() for m in model.heads}
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        model.zero_grad()
        sum(model(batch).values()).backward()
        optimizer.step()
        moved = [m for m in model.heads if not torch.equal(heads[m], model.encoders[m].network.linear.weight)]
        assert moved == [model.active]
    assert order == ["text", "text", "image", "image"] * 2
    for k, v in model.encoders["location"].state_dict().items():
        assert torch.equal(v, before[k]), k


def test_cyclic_switch_lets_the_position_encoder_learn():
    model, batch = make("cyclic", location_learns=True), make_batch()
    before = model.encoders["location"].network.linear.weight.clone()
    learns(model, batch, steps=2)
    assert not torch.equal(before, model.encoders["location"].network.linear.weight)


def test_fused_is_one_softmax_over_everything_present():
    model, batch = make("fused"), make_batch()
    z = torch.stack([model.embed(m, batch[m][0]) for m in model.modalities])
    present = torch.stack([batch[m][1] for m in model.modalities])
    scale = torch.stack([model.scale(m) for m in model.heads]).mean()
    torch.testing.assert_close(model(batch)["fused"], fused_nt_xent(z, present, scale))


def test_geoclip_queue_keeps_the_last_positions_and_only_while_training():
    model, batch = make("geoclip", queue=10), make_batch(missing=False)
    model.eval()(batch)
    assert model.queued == 0
    first = model.train()(batch)["image"]
    assert model.queued == 24
    assert {tuple(p.tolist()) for p in model.queue} == {tuple(p.tolist()) for p in batch["location"][0][-10:]}
    assert model(batch)["image"] > first  # ten more negatives


def test_csp_has_three_contrasts_and_the_dropout_one_needs_dropout():
    model, batch = make("csp", dropout=0.5).train(), make_batch()
    assert set(model(batch)) == {"batch", "random", "dropout"}
    still = make("csp").eval()
    z = still.embed("location", batch["location"][0][batch["image"][1]])
    torch.testing.assert_close(still(batch)["dropout"], symmetric_info_nce(z, z, still.scale("image")))


def test_a_fourth_modality_needs_nothing_but_a_head():
    batch = make_batch() | {"sound": (torch.randn(24, 5), torch.arange(24) % 2 == 0)}
    for name in ("imagebind", "cyclic", "fused"):
        encoding = positional_encoding("wrap")
        heads = {m: Head(w, 8) for m, w in {**WIDTHS, "sound": 5}.items()}
        model = ARCHITECTURES[name](LocationEncoder(encoding, network("residual", 4, 8)), heads)
        learns(model, batch, steps=3)
        assert model.modalities == ("location", "text", "image", "sound")


def test_places_nearer_than_the_radius_are_no_negatives():
    lonlat = torch.tensor([[0.0, 0.0], [0.5, 0.0], [90.0, 0.0], [-179.9, 10.0], [179.9, 10.0]])
    near = within_km(lonlat, 60.0)
    assert near.nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [2, 2], [3, 3], [3, 4], [4, 3], [4, 4]]
    batch = make_batch(missing=False)
    plain, spared = make("imagebind")(batch), make("imagebind", exclude_km=4000.0)(batch)
    assert all(spared[m] < plain[m] for m in plain)
    everything = make("imagebind", exclude_km=30000.0)(batch)
    assert all(v.abs() < 1e-6 for v in everything.values())


def test_senseless_bindings_are_refused():
    heads = {m: Head(w, 8) for m, w in WIDTHS.items()}
    with pytest.raises(ValueError, match="binds location with one modality"):
        ARCHITECTURES["satclip"](torch.nn.Linear(2, 8), heads)
    with pytest.raises(ValueError, match="nothing to bind"):
        ARCHITECTURES["fused"](torch.nn.Linear(2, 8), {})
    with pytest.raises(TypeError, match="use one of imagebind"):
        Architecture(torch.nn.Linear(2, 8), heads)(make_batch())
