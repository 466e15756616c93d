"""Attention of a token's heads over the token's own reads, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor


def read_attention(query: Tensor, values: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Returns the mixed values [N, h, d]; meaning and shapes as of the operation."""
    return (attention_weights(query, values, bias, scale).to(values.dtype) @ values).contiguous()


def backward(grad: Tensor, query: Tensor, values: Tensor, bias: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of query, values and bias for ``grad`` [N, h, d], that of the mixed values."""
    weights = attention_weights(query, values, bias, scale)
    grad_weights = (grad @ values.mT).to(weights.dtype)
    grad_logits = weights * (grad_weights - (grad_weights * weights).sum(-1, keepdim=True))
    steps = (grad_logits * scale).to(values.dtype)
    grad_values = weights.to(grad.dtype).mT @ grad + steps.mT @ query
    return (steps @ values).contiguous(), grad_values.contiguous(), grad_logits.sum(1).to(bias.dtype)


def attention_weights(query: Tensor, values: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Returns the weights of the reads [N, h, R], float32 or wider."""
    wide = torch.promote_types(query.dtype, torch.float32)
    logits = (query @ values.mT).to(wide) * scale + bias.to(wide)[:, None]
    return logits.softmax(dim=-1)
