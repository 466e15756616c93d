"""Norm, rotary embedding, attention, feed-forward, decoder."""

import math

import pytest
import torch
from torch.nn import functional as F

from memlm.model import loss
from memlm.model.attention import Attention
from memlm.model.config import ExpertsConfig, ModelConfig
from memlm.model.decoder import Decoder
from memlm.model.feed_forward import FeedForward, MixtureOfExperts
from memlm.model.loss import TokenLoss
from memlm.model.norm import RMSNorm
from memlm.model.rope import rotate, rotations
from tests.tolerances import FLOAT32

MEMORY = {"type": "product_key", "n_keys": 8, "d_key": 16, "d_value": 12, "top_k": 3}


def test_norm_is_its_formula():
    x = torch.randn(3, 5, 8)
    norm = RMSNorm(8, eps=1e-6)
    torch.nn.init.normal_(norm.weight)
    expected = x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight
    torch.testing.assert_close(norm(x), expected, **FLOAT32)
    assert norm(x.bfloat16()).dtype == torch.bfloat16


def test_rotation_keeps_norms_and_depends_on_distance_alone():
    query, key = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)

    def score(at_query, at_key):
        turned = [
            rotate(x, *rotations(torch.tensor([[place]]), 16, 10_000.0))
            for x, place in [(query, at_query), (key, at_key)]
        ]
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(score(7, 3), score(104, 100), rtol=1e-4, atol=1e-4)
    assert abs(score(7, 3) - score(7, 4)) > 1e-3
    torch.testing.assert_close(rotate(query, *rotations(torch.tensor([[9]]), 16, 1e4)).norm(), query.norm(), **FLOAT32)


def test_grouped_heads_equal_repeated_heads():
    torch.manual_seed(0)
    grouped = Attention(ModelConfig(d_model=32, n_heads=4, n_kv_heads=2), 0)
    full = Attention(ModelConfig(d_model=32, n_heads=4), 0)
    full.load_state_dict(
        {
            name: weight.view(2, 8, 32).repeat_interleave(2, 0).reshape(32, 32)
            if name[:3] in ("key", "val")
            else weight
            for name, weight in grouped.state_dict().items()
        }
    )
    hidden, rope = torch.randn(2, 6, 32), rotations(torch.arange(6)[None], 8, 1e4)
    torch.testing.assert_close(grouped(hidden, rope), full(hidden, rope), **FLOAT32)


def test_mixture_is_the_weighted_sum_of_its_experts():
    torch.manual_seed(0)
    mixture = MixtureOfExperts(ExpertsConfig(n_experts=4, top_k=2, balance_weight=1.0), 8, 16)
    hidden = torch.randn(2, 5, 8)
    output, balance = mixture(hidden)
    probabilities = mixture.router(hidden).softmax(-1)
    weights, chosen = probabilities.topk(2)
    expected = torch.zeros_like(hidden)
    for b in range(2):
        for t in range(5):
            for weight, expert in zip(weights[b, t], chosen[b, t], strict=True):
                expected[b, t] += weight / weights[b, t].sum() * mixture.experts[int(expert)](hidden[b, t])[0]
    torch.testing.assert_close(output, expected, **FLOAT32)
    share = F.one_hot(chosen, 4).float().mean((0, 1, 2))
    torch.testing.assert_close(balance, 4 * (share * probabilities.mean((0, 1))).sum())


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize(("width", "hidden_width"), [(16, 24), (12, 13)])
def test_mixture_in_16_bits_is_that_of_its_experts(width, hidden_width, device):
    torch.manual_seed(0)
    mixture = MixtureOfExperts(ExpertsConfig(n_experts=5, top_k=2), width, hidden_width).to(device)
    torch.nn.init.normal_(mixture.router.weight[2:])  # tokens turn to these: some experts may get none
    hidden, cotangent = torch.randn(2, 2, 40, width, device=device)
    gradients = []
    with torch.autocast(device, torch.bfloat16):
        output, _ = mixture(hidden)
        weights, chosen = mixture.router(hidden).float().softmax(-1).topk(2)
        weights = weights / weights.sum(-1, keepdim=True)
        of_all = torch.stack([expert(hidden)[0] for expert in mixture.experts], dim=-2)
        expected = (of_all.gather(-2, chosen[..., None].expand(*chosen.shape, width)) * weights[..., None]).sum(-2)
    for found in (output, expected):
        mixture.zero_grad()
        (found * cotangent).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in mixture.parameters()])
    torch.testing.assert_close(output, expected, rtol=1e-2, atol=1e-2)
    for in_groups, one_by_one in zip(*gradients, strict=True):
        assert (in_groups - one_by_one).norm() <= 0.02 * one_by_one.norm()


def test_balance_loss_is_one_when_even_and_reaches_the_training_loss():
    mixture = MixtureOfExperts(ExpertsConfig(n_experts=4, top_k=4, balance_weight=1.0), 8, 16)
    torch.nn.init.zeros_(mixture.router.weight)
    torch.testing.assert_close(mixture(torch.randn(3, 7, 8))[1], torch.tensor(1.0))
    config = ModelConfig(d_model=16, n_layers=2, n_heads=2, experts=ExpertsConfig(n_experts=4, balance_weight=0.5))
    model = TokenLoss(Decoder(config, 31))
    _, balance = model(torch.randint(31, (2, 9)))
    balance.backward()
    routers = [m.router.weight.grad for m in model.modules() if isinstance(m, MixtureOfExperts)]
    assert len(routers) == 2 and all(grad.abs().sum() > 0 for grad in routers)


def test_feed_forward_is_swiglu():
    layer, x = FeedForward(8, 12), torch.randn(2, 3, 8)
    expected = (F.silu(x @ layer.gate.weight.T) * (x @ layer.up.weight.T)) @ layer.down.weight.T
    torch.testing.assert_close(layer(x)[0], expected, **FLOAT32)


@pytest.mark.parametrize("wiring", [{}, {"memory": MEMORY, "fusion": {"type": "gated_mlp"}}])
def test_loss_starts_near_the_logarithm_of_the_vocabulary(wiring):
    torch.manual_seed(0)
    model = TokenLoss(Decoder(ModelConfig(d_model=64, n_layers=3, n_heads=4, **wiring), 509))
    total, _ = model(torch.randint(509, (4, 33)))
    assert total.item() / (4 * 32) == pytest.approx(math.log(509), abs=0.15)


def test_one_bank_is_shared_or_each_layer_has_its_own():
    wiring = {"memory": MEMORY, "fusion": {"type": "weighted_sum"}, "layers": [0, 2]}
    shared = Decoder(ModelConfig(d_model=16, n_layers=3, n_heads=2, **wiring), 31)
    apart = Decoder(ModelConfig(d_model=16, n_layers=3, n_heads=2, shared_bank=False, **wiring), 31)
    assert shared.bank_of(0) is shared.bank_of(2) and shared.bank_of(1) is None
    assert apart.bank_of(0) is not apart.bank_of(2)
    assert (len(shared.banks), len(apart.banks)) == (1, 2)


@pytest.mark.parametrize(("placement", "expected"), [("replace", [False, True, False]), ("parallel", [True] * 3)])
def test_placement_keeps_or_replaces_the_feed_forward_layer(placement, expected):
    wiring = {"memory": MEMORY, "fusion": {"type": "gated_mlp"}, "layers": [0, 2], "placement": placement}
    decoder = Decoder(ModelConfig(d_model=16, n_layers=3, n_heads=2, **wiring), 31)
    assert [block.feed_forward is not None for block in decoder.blocks] == expected


def test_embeddings_are_one_parameter_when_tied_and_two_when_not():
    tied = Decoder(ModelConfig(d_model=16, n_layers=1, n_heads=2), 31)
    loose = Decoder(ModelConfig(d_model=16, n_layers=1, n_heads=2, tie_embeddings=False), 31)
    assert tied.output is None
    assert sum(p.numel() for p in loose.parameters()) - sum(p.numel() for p in tied.parameters()) == 16 * 31


def test_a_single_expert_keeps_its_weight_and_the_router_its_gradient():
    torch.manual_seed(0)
    mixture = MixtureOfExperts(ExpertsConfig(n_experts=4, top_k=1, balance_weight=0.0), 8, 16)
    mixture(torch.randn(2, 9, 8))[0].pow(2).sum().backward()
    assert mixture.router.weight.grad.abs().max() > 1e-4


@pytest.mark.parametrize("rows", [1, 7, 24])
def test_the_loss_is_the_same_in_chunks(rows, monkeypatch):
    draw = torch.Generator().manual_seed(rows)
    hidden = torch.randn(2, 12, 8, generator=draw).requires_grad_()
    weight = torch.randn(31, 8, generator=draw).requires_grad_()
    targets = torch.randint(31, (2, 12), generator=draw)
    inputs = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    whole = F.cross_entropy((inputs[0] @ inputs[1].T).flatten(0, 1), targets.flatten(), reduction="sum")
    expected = torch.autograd.grad(whole / 3, inputs)

    monkeypatch.setattr(loss, "CHUNK", 31 * rows)
    summed = loss.summed_loss(hidden, weight, targets)
    torch.testing.assert_close(summed.double(), whole, rtol=1e-6, atol=0)
    for found, wanted in zip(torch.autograd.grad(summed / 3, (hidden, weight)), expected, strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        assert torch.equal(loss.summed_loss(hidden, weight, targets), summed)
    for kept in (hidden, weight):  # the other is frozen
        frozen = [tensor if tensor is kept else tensor.detach() for tensor in (hidden, weight)]
        (found,) = torch.autograd.grad(loss.summed_loss(*frozen, targets) / 3, kept)
        torch.testing.assert_close(found.double(), expected[0 if kept is hidden else 1], rtol=1e-5, atol=1e-6)
    compiled = torch.compile(loss.summed_loss, fullgraph=True, backend="aot_eager")(hidden, weight, targets)
    torch.testing.assert_close(compiled, summed)
