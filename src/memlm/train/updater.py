"""What happens to a gradient: it is clipped, and the optimizer takes a step by it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from memlm.bank.vectors import VectorBank
from memlm.errors import RunError
from memlm.kernels.choice import is_fast
from memlm.kernels.rowwise_adamw import RowGradient, Settings, rowwise_adamw
from memlm.train.columns import ColumnBank
from memlm.train.ranks import Ranks

WHOLE_SIZE = 1 << 25
"""From so many numbers on, the dense gradient of a bank is taken as that of all its rows, where the Triton kernel runs.

A pass that clips reads and writes the gradient, 8 bytes of some 44 a number that a step moves; the kernel scales what
it reads. It also comes nearer to the rate of a copy than torch's AdamW. A smaller table is not worth its launches.
"""


class Updater:
    """Clips the gradient and takes the optimizer's step, for dense gradients and for those of rows alike.

    Values whose gradient is one of rows have no dense one, so AdamW leaves them alone; their moments stand in its state
    all the same, as if it had made them. Nothing here waits for the device where rows are updated by the Triton kernel,
    but for a bank whose values are on the host: its gradient is sent there.

    Args:
        optimizer: AdamW over all parameters, in its fused form.
        model: The model, whose banks may have a compact gradient.
        clip: Largest norm of the whole gradient; 0 turns clipping off.
        ranks: The processes that train together; compact gradients are merged over them.
    """

    def __init__(self, optimizer: torch.optim.AdamW, model: nn.Module, clip: float, ranks: Ranks | None = None) -> None:
        self._ranks = ranks or Ranks()
        self._optimizer, self._limit = optimizer, clip or math.inf
        self._parameters = list(model.parameters())
        self._banks = [module for module in model.modules() if isinstance(module, VectorBank)]
        self._factor = torch.ones(())
        self._rows: list[tuple[VectorBank, RowGradient]] = []

    def clip(self) -> Tensor:
        """Clips the gradient; returns its norm before clipping, a scalar on the device.

        Raises:
            RunError: a part of a bank's gradient is compact and a part is not, or values of 16 bits have another one.
        """
        self._average_columns()
        self._rows = self._of_rows() + self._whole()
        parameters = [_own(parameter) for parameter in self._parameters]
        norm = self._norm(parameters)
        torch.nn.utils.clip_grads_with_norm_(parameters, self._limit, norm)
        self._factor = (self._limit / (norm + 1e-6)).clamp(max=1.0)  # as there; rows are scaled where they are used
        return norm

    def _average_columns(self) -> None:
        """Divides what the tokens of all ranks have added up in the own columns of a bank."""
        for bank in self._banks:
            if isinstance(bank, ColumnBank) and bank.values.grad is not None:
                bank.values.grad /= bank.n_ranks

    def _norm(self, parameters: list[Tensor]) -> Tensor:
        parts = {id(bank.values) for bank in self._banks if isinstance(bank, ColumnBank)}
        parts |= {id(parameter) for parameter in self._parameters if isinstance(parameter, DTensor)}
        owners = zip(self._parameters, parameters, strict=True)
        gradients = [(id(owner), own.grad) for owner, own in owners if own.grad is not None]
        gradients += [(id(bank.values), _measurable(gradient.sums)) for bank, gradient in self._rows]
        norm = torch.nn.utils.get_total_norm([gradient for owner, gradient in gradients if owner not in parts])
        if not parts:
            return norm
        own = torch.nn.utils.get_total_norm([gradient for owner, gradient in gradients if owner in parts])
        device = gradients[0][1].device  # the norm of no gradient at all is on the CPU, where NCCL adds nothing up
        squares = own.to(device).square()
        self._ranks.add(squares)
        return (norm.to(device).square() + squares).sqrt()

    def step(self, is_finite: Tensor) -> None:
        """Takes the step; leaves everything as it is if ``is_finite``, a boolean scalar on the device, is false."""
        if is_finite.device.type == "mps" and not is_finite:
            return  # AdamW looks at found_inf on the CPU and on CUDA alone
        self._optimizer.found_inf = (~is_finite).float()  # pyright: ignore[reportAttributeAccessIssue]
        self._optimizer.step()
        factor = self._factor.where(is_finite, math.nan)
        for bank, gradient in self._rows:
            self._step_rows(bank, gradient, factor, is_finite)

    def _step_rows(self, bank: VectorBank, gradient: RowGradient, factor: Tensor, is_finite: Tensor) -> None:
        group = next(g for g in self._optimizer.param_groups if any(p is bank.values for p in g["params"]))
        state, values = self._optimizer.state[bank.values], bank.values.detach()
        if not state:
            state["step"] = torch.zeros((), device=values.device)
            dtype = torch.promote_types(values.dtype, torch.float32)
            state["exp_avg"], state["exp_avg_sq"] = (torch.zeros_like(values, dtype=dtype) for _ in range(2))
        if gradient.rows.device != values.device:
            n_rows = int(gradient.n_rows)
            meant = RowGradient(gradient.rows[:n_rows], gradient.sums[:n_rows], gradient.n_rows)
            gradient = RowGradient(*(tensor.to(values.device) for tensor in meant))
            factor, is_finite = factor.to(values.device), is_finite.to(values.device)
        state["step"] += is_finite
        beta1, beta2 = group["betas"]
        settings = Settings(group["lr"], beta1, beta2, group["eps"])
        rowwise_adamw(values, state["exp_avg"], state["exp_avg_sq"], gradient, state["step"], factor, settings)

    def clear(self) -> None:
        """Forgets the gradient."""
        self._optimizer.zero_grad(set_to_none=True)
        self._rows = []
        for bank in self._banks:
            if bank.compact is not None:
                bank.compact.clear()

    @property
    def compact_rows(self) -> int:
        """Rows for which a bank with a compact gradient has room, over all ranks; 0 without one."""
        rooms = [
            min(self._ranks.number * len(bank.compact.carrier), bank.n_slots)
            for bank in self._banks
            if bank.compact is not None
        ]
        return max(rooms, default=0)

    def release(self) -> None:
        """Lets every bank's gradient be dense again."""
        for bank in self._banks:
            bank.compact = None

    def _of_rows(self) -> list[tuple[VectorBank, RowGradient]]:
        """Returns the compact gradients that there are, over all ranks, each with its bank; raises as `clip` does."""
        found = [(bank, bank.compact.gradient()) for bank in self._banks if bank.compact is not None]
        pairs = [(bank, gradient) for bank, gradient in found if gradient is not None]
        compact = {id(bank) for bank, _ in pairs}
        if any(b.values.grad is not None and (id(b) in compact or b.has_16_bits) for b in self._banks):
            raise RunError(
                "a bank's gradient is compact, and some of its values are read past its methods, as bank.values; read "
                "all of them by gather and weighted_sum"
            )
        return [(bank, self._mean(bank, gradient)) for bank, gradient in pairs]

    def _whole(self) -> list[tuple[VectorBank, RowGradient]]:
        """Takes the dense gradients of large banks from them; returns each as one of all rows."""
        found = []
        for bank in self._banks:
            gradient = bank.values.grad
            if gradient is not None and gradient.numel() >= WHOLE_SIZE and is_fast("rowwise_adamw", gradient):
                rows = torch.arange(len(gradient), device=gradient.device)
                found.append((bank, RowGradient(rows, gradient, rows.new_full((1,), len(rows), dtype=torch.int32))))
                bank.values.grad = None
        return found

    def _mean(self, bank: VectorBank, gradient: RowGradient) -> RowGradient:
        if isinstance(bank, ColumnBank):  # it has the sum, and all ranks have read the same rows
            return gradient._replace(sums=gradient.sums / bank.n_ranks)
        return self._ranks.mean_rows(gradient, bank.n_slots)


def _measurable(sums: Tensor) -> Tensor:
    """Returns a gradient, or for one of 16 bits its norm in float32: torch's would be rounded to 16 bits as well."""
    return torch.linalg.vector_norm(sums, dtype=torch.float32) if sums.dtype.itemsize == 2 else sums


def _own(parameter: nn.Parameter) -> Tensor:
    """Returns what this rank holds of a parameter and of its gradient, as plain tensors in the same memory."""
    if not isinstance(parameter, DTensor):
        return parameter
    own: Tensor = parameter.detach().to_local()  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(parameter.grad, DTensor):
        own.grad = parameter.grad.to_local()
    return own
