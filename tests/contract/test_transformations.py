"""What torch makes of a model: compiled whole, exported, checkpointed, it computes the same."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from memlm.model.loss import TokenLoss
from tests.contract.test_wirings import BANKED, EACH_TYPE, build, name, tokens
from tests.tolerances import GRADIENT


@pytest.fixture(params=[*EACH_TYPE, *BANKED], ids=name)
def model(request):
    return build(request.param)


class Logits(nn.Module):
    def __init__(self, decoder):
        super().__init__()
        self.decoder = decoder

    def forward(self, ids):
        return self.decoder.logits(self.decoder(ids).hidden)


def gradients(loss, decoder):
    return torch.autograd.grad(loss, list(decoder.parameters()))


def test_it_is_exported_in_one_piece(model):
    logits = Logits(model.decoder)
    exported = torch.export.export(logits, (tokens(),))
    torch.testing.assert_close(exported.module()(tokens(seed=2)), logits(tokens(seed=2)))


def test_checkpointed_it_has_the_same_gradient(model):
    loss = TokenLoss(model.decoder)
    expected = gradients(loss(tokens())[0], model.decoder)
    summed, _ = checkpoint(loss, tokens(), use_reentrant=False)
    for found, right in zip(gradients(summed, model.decoder), expected, strict=True):
        assert torch.equal(found, right)


def test_compiled_whole_and_checkpointed_it_has_the_same_gradient():
    decoder = build({"memory": "product_key", "fusion": "gated_mlp", "placement": "replace", "layers": "all"}).decoder
    loss = TokenLoss(decoder)
    expected = gradients(loss(tokens())[0], decoder)

    def summed(ids):
        return checkpoint(loss, ids, use_reentrant=False)[0]

    compiled = torch.compile(summed, fullgraph=True, backend="aot_eager")
    for found, right in zip(gradients(compiled(tokens()), decoder), expected, strict=True):
        torch.testing.assert_close(found, right, **GRADIENT)
