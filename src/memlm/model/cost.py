"""What a model costs: parameters, FLOPs and bytes for each token. Nothing is allocated: models are built on meta."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from memlm.model.config import ModelConfig
from memlm.model.decoder import Decoder
from memlm.model.feed_forward import MixtureOfExperts

BYTES_PER_PARAMETER = 4  # parameters are kept in float32, but for the values of a bank that says otherwise


@dataclass(frozen=True)
class Cost:
    """The price of a model.

    Attributes:
        parameters: All parameters.
        active_parameters: Those that one token goes through: the rows it reads and the experts it is sent to.
        memory_parameters: Those of the banks, encoders among them.
        flops_per_token: Operations of a forward pass at the given sequence length; training takes three times that.
        bytes_per_token: Bytes of parameters that decoding one token reads.
    """

    parameters: int
    active_parameters: int
    memory_parameters: int
    flops_per_token: float
    bytes_per_token: int

    def as_dict(self) -> dict[str, float]:
        """Returns the fields by name."""
        return asdict(self)


def cost(config: ModelConfig, vocab_size: int, seq_len: int) -> Cost:
    """Returns the cost of a model at sequences of ``seq_len`` tokens.

    FLOPs are counted by torch while a forward pass is traced, so a new memory or fusion needs no formula of its own.
    Our own operations have theirs beside them, in `memlm.kernels`. Attention counts the whole T x T square, as the
    counter does. Only matrix products count, a token's weights times the rows it reads among them: gathers, sums and
    elementwise products do not.
    """
    with torch.device("meta"):
        model = Decoder(config, vocab_size)
    total = sum(p.numel() for p in model.parameters())
    banks = sum(p.numel() for p in model.banks.parameters())
    values = sum(p.numel() for bank in model.banks for p in bank.parameters(recurse=False))
    rows = 0
    if config.memory is not None:
        rows = len(config.memory_layers) * config.memory.n_reads * config.memory.value_width
    read = min(rows, values)
    active = total - values + read - _idle_expert_parameters(model)
    if not config.tie_embeddings:
        active -= model.embedding.weight.numel() - config.d_model
    flops = _forward_flops(config, vocab_size, seq_len) / seq_len
    size = max((p.element_size() for bank in model.banks for p in bank.parameters(recurse=False)), default=0)
    n_bytes = (active - read) * BYTES_PER_PARAMETER + read * size
    return Cost(total, active, banks, flops, n_bytes)


def _idle_expert_parameters(model: Decoder) -> int:
    mixtures = [module for module in model.modules() if isinstance(module, MixtureOfExperts)]
    idle = [m.config.n_experts - m.config.top_k for m in mixtures]
    each = [sum(p.numel() for p in m.experts[0].parameters()) for m in mixtures]
    return sum(n * size for n, size in zip(idle, each, strict=True))


def _forward_flops(config: ModelConfig, vocab_size: int, seq_len: int) -> int:
    """Counts one sequence; a mixture, whose routing depends on data, is counted as the dense layer its token sees."""
    router = 0
    if config.experts is not None:
        width = config.experts.top_k * config.feed_forward_width
        mixtures = config.n_layers - (len(config.memory_layers) if config.placement == "replace" else 0)
        router = 2 * config.d_model * config.experts.n_experts * seq_len * mixtures
        config = config.model_copy(update={"experts": None, "d_ff": width})
    with torch.device("meta"):
        model = Decoder(config, vocab_size)
        tokens = torch.zeros(1, seq_len, dtype=torch.long)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model.logits(model(tokens).hidden)
    return counter.get_total_flops() + router
