"""The names that the preflight speaks in: its checks, and the faults that they find."""

from __future__ import annotations

from typing import Literal

Check = Literal[
    "determinism",
    "train_eval_parity",
    "causality",
    "causality_in_training",
    "context",
    "positions",
    "batch_invariance",
    "batch_invariance_in_training",
    "padding",
    "cached_generation",
    "reads",
    "top_k",
    "kernels",
    "loss",
    "evaluation",
    "initial_loss",
    "memory_effect",
    "gradients",
    "untouched_rows",
    "accumulation",
    "learning_rates",
    "overfit",
    "reload",
    "data_order",
]
"""The checks of the preflight, in the order in which they run."""

FaultName = Literal[
    "absolute_positions",
    "batch_dependence",
    "batch_dependence_in_training",
    "broken",
    "cache_ignored",
    "cache_mismatch",
    "cannot_overfit",
    "context_ignored",
    "dead_router",
    "decay_on_values",
    "duplicated_data_order",
    "frozen_parameters",
    "frozen_values",
    "future_leak",
    "future_leak_in_training",
    "initial_loss",
    "keys_without_gradient",
    "loss_not_summed",
    "lost_on_reload",
    "memory_ignored",
    "no_gradient",
    "noise_in_eval",
    "not_finite",
    "not_optimized",
    "padding_counts",
    "queries_without_gradient",
    "shifted_labels",
    "train_eval_mismatch",
    "untied_on_reload",
    "wrong_gradient",
    "wrong_kernel",
    "wrong_learning_rate",
    "wrong_loss",
    "wrong_reads",
    "wrong_top_k",
    "wrong_wiring",
]
"""The faults that the checks tell apart."""

LEFT_OUT = "left out by train.skip_checks"
"""Why a check was skipped that a config leaves out."""
