"""The gradient of one optimizer step: its micro-steps, and this rank's share of each."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from memlm.bank.vectors import VectorBank
from memlm.data.sampler import Sampler
from memlm.model.decoder import Decoder
from memlm.model.loss import TokenLoss
from memlm.train.columns import ColumnBank
from memlm.train.ranks import Ranks
from memlm.train.schedule import Plan


def add_up_gradient(
    accelerator: Accelerator,
    module: nn.Module,
    sampler: Sampler,
    step: int,
    accumulation: int,
    tokens: int,
    profile: torch.profiler.profile | None,
) -> Tensor:
    """Adds up the gradient of one step's mean loss over tokens; returns the sum of this rank's losses, in nats.

    Gradients are means over the ranks of what each adds up. A compact gradient is left as the rank has it: `Ranks`
    takes the mean of those.

    Args:
        accelerator: Knows the device and the ranks.
        module: Returns summed loss and balance loss of sequences.
        sampler: Gives the batches; each is divided among the ranks.
        step: The step, from 0.
        accumulation: Micro-steps of a step.
        tokens: Tokens of a step, over all ranks.
        profile: Covers the first micro-step: the others are the same, and a trace of all would take seconds to write.
    """
    ranks = Ranks.of(accelerator)
    total = torch.zeros((), device=accelerator.device)
    for micro_step in range(accumulation):
        sequences = torch.from_numpy(ranks.share(sampler.batch(step * accumulation + micro_step)))
        on_cuda = accelerator.device.type == "cuda"
        if on_cuda:
            sequences = sequences.pin_memory()  # from other memory the copy would wait for all that runs
        sequences = sequences.to(accelerator.device, non_blocking=on_cuda)
        last = micro_step == accumulation - 1
        watched = profile if profile is not None and micro_step == 0 else nullcontext()
        with watched, nullcontext() if last else accelerator.no_sync(module):
            summed, balance = module(sequences)
            # Gradients are averaged over ranks, and the sum of losses is over all of them.
            loss = summed * ranks.number / tokens + balance / accumulation
            accelerator.backward(loss)
        total += summed.detach()
    return total


def joined(accelerator: Accelerator, decoder: Decoder, plan: Plan) -> nn.Module:
    """Returns what `add_up_gradient` takes: the decoder with its loss, joined to those of the other ranks."""
    module = TokenLoss(decoder)
    if isinstance(decoder, FSDPModule):
        return accelerator.prepare_model(module, evaluation_mode=True)  # all but DistributedDataParallel
    banks = {name: bank for name, bank in module.named_modules() if isinstance(bank, VectorBank)}
    apart = [f"{n}.values" for n, bank in banks.items() if bank.compact is not None or isinstance(bank, ColumnBank)]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, apart)
    if plan.freeze_values_at is not None or decoder.config.experts is not None:
        # Some parameters have no gradient in some steps, and each rank would wait for it.
        accelerator.ddp_handler = DistributedDataParallelKwargs(  # pyright: ignore[reportAttributeAccessIssue]
            find_unused_parameters=True
        )
    return accelerator.prepare(module)
