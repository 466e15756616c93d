"""A program that compiles Triton kernels for a card that is not there, and tells what they need.

``python offline.py CAPABILITY SIZE [OPERATION..]`` writes a JSON object: for each kernel that an operation launches,
forwards and backwards, the shared memory of a block in bytes. The operations run on the CPU with launches taken away,
so signatures, tiles and choices are those of a run; what they compute is not looked at.
"""

import importlib
import json
import pkgutil
import sys
from collections import defaultdict
from contextlib import nullcontext

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

import memlm.kernels
from memlm.kernels import choice


class Card:
    """Stands for the driver of a card with a compute capability, 80 for 8.0."""

    def __init__(self, capability):
        self.capability = capability

    def get_current_target(self):
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, _device):
        return 0


def half(*shape):
    return torch.zeros(shape, dtype=torch.bfloat16, requires_grad=True)


def product_key_select(n, heads, width, n_keys, top_k):
    from memlm.kernels.product_key_select import product_key_select

    product_key_select(half(n, heads, 2, width), half(heads, 2, n_keys, width), top_k)[1].sum().backward()


def read_attention(n, heads, reads, width, dtype=torch.bfloat16):
    from memlm.kernels.read_attention import read_attention

    query, values = half(n, heads, width), half(n, reads, width)
    read_attention(query.to(dtype), values.to(dtype), torch.zeros(n, reads, requires_grad=True), 0.125).sum().backward()


def reads(n, reads, width, n_slots, dtype):
    """Returns values, slots and weights."""
    slots = torch.zeros(n, reads, dtype=torch.int64)
    return (
        torch.zeros(n_slots, width, dtype=dtype, requires_grad=True),
        slots,
        torch.zeros(n, reads, requires_grad=True),
    )


def weighted_lookup(*sizes, dtype=torch.float32):
    from memlm.kernels.weighted_lookup import weighted_lookup

    values, slots, weights = reads(*sizes, dtype)
    weighted_lookup(values, slots, weights).sum().backward()
    weighted_lookup(values.detach(), slots, weights).sum().backward()  # frozen values take a kernel of their own


def values_of_16_bits(*sizes):
    from memlm.kernels.segments import CompactRows
    from memlm.kernels.weighted_lookup import weighted_lookup

    values, slots, weights = reads(*sizes, torch.bfloat16)
    carrier = torch.zeros(()).expand(values.shape).requires_grad_()  # several parts of a step add up in float32
    compact = CompactRows(carrier, slots.int())
    weighted_lookup(values.detach(), slots, weights, compact, torch.float32).sum().backward()


def integers(n, reads, width, n_slots):
    from memlm.kernels.gather_joined import gather_joined
    from memlm.kernels.weighted_lookup import weighted_lookup

    values, slots = torch.zeros(n_slots, width, dtype=torch.int8), torch.zeros(n, reads, dtype=torch.int64)
    weighted_lookup(values, slots, torch.zeros(n, reads))
    gather_joined(torch.zeros(n, width), values, slots, torch.zeros(n, reads))


def gather_joined(width, *sizes):
    from memlm.kernels.gather_joined import gather_joined

    values, slots, scales = reads(*sizes, torch.float32)
    gather_joined(half(len(slots), width), values, slots, scales).sum().backward()


def rowwise_adamw(n_slots, width, capacity, dtype=torch.float32):
    from memlm.kernels.rowwise_adamw import RowGradient, Settings, rowwise_adamw

    table = [torch.zeros(n_slots, width, dtype=each) for each in (dtype, torch.float32, torch.float32)]
    count = torch.zeros(1, dtype=torch.int32)
    gradient = RowGradient(torch.zeros(capacity, dtype=torch.int64), torch.zeros(capacity, width), count)
    rowwise_adamw(*table, gradient, torch.ones(()), torch.ones(()), Settings(1e-3, 0.9, 0.95, 1e-8))


def fetch_rows(n_reads, width, n_slots, n_hot):
    from memlm.kernels.fetch_rows import HotRows, fetch_rows

    place_of = torch.zeros(n_slots, dtype=torch.int32)
    table = torch.zeros(n_hot + n_reads, width)
    hot = HotRows(table, torch.zeros(n_hot, dtype=torch.int64), place_of, place_of.clone(), torch.zeros(2).long())
    fetch_rows(hot, torch.zeros(n_slots, width), torch.zeros(n_reads, dtype=torch.int64))


SIZES = {
    "lineage": {
        "weighted_lookup": lambda: weighted_lookup(32768, 8, 128, 65536),
        "gather_joined": lambda: gather_joined(512, 32768, 8, 128, 65536),
        "fetch_rows": lambda: fetch_rows(32768, 128, 65536, 4096),
        "rowwise_adamw": lambda: rowwise_adamw(65536, 128, 65536),
        "rowwise_adamw, 16 bits": lambda: rowwise_adamw(65536, 128, 65536, torch.bfloat16),
        "product_key_select": lambda: product_key_select(32768, 1, 64, 256, 8),
        "product_key_select, many keys": lambda: product_key_select(512, 1, 64, 1024, 8),
        "read_attention": lambda: read_attention(32768, 8, 8, 128),
    },
    "large": {
        "weighted_lookup": lambda: weighted_lookup(512, 128, 1024, 4096, dtype=torch.bfloat16),
        "values of 16 bits": lambda: values_of_16_bits(512, 128, 1024, 4096),
        "integers": lambda: integers(256, 128, 1024, 4096),
        "rowwise_adamw": lambda: rowwise_adamw(4096, 1024, 4096),
        "rowwise_adamw, 16 bits": lambda: rowwise_adamw(4096, 1024, 4096, torch.bfloat16),
        "product_key_select": lambda: product_key_select(8192, 4, 128, 1024, 32),
        "read_attention": lambda: read_attention(8192, 64, 64, 128),
    },
    "wide": {"product_key_select": lambda: product_key_select(8192, 4, 256, 1024, 32)},
    "float32": {"read_attention": lambda: read_attention(8192, 16, 32, 128, torch.float32)},
}
"""Sizes, and at each the operations that have kernels for it."""


def pretend(capability):
    """Lets every launch compile for a card of this capability; returns the shared memory of launches, by kernel."""
    found = defaultdict(list)
    run = JITFunction.run

    def compile_only(self, *arguments, grid, warmup, **options):
        compiled = run(self, *arguments, grid=grid, warmup=True, **options)
        found[f"{self.fn.__module__}.{self.__name__}"].append(compiled.metadata.shared)
        return compiled

    JITFunction.run = compile_only
    driver.set_active(Card(capability))
    choice._obstacle = lambda _device: None
    torch.cuda.device = lambda _device: nullcontext()
    return found


def kernels():
    """Returns every function for Triton in the package, by its full name."""
    modules = pkgutil.walk_packages(memlm.kernels.__path__, "memlm.kernels.")
    functions = [
        function
        for module in modules
        for _, function in vars(importlib.import_module(module.name)).items()
        if isinstance(function, JITFunction) and function.fn.__module__ == module.name
    ]
    return {f"{function.fn.__module__}.{function.__name__}": function for function in functions}


def called(name, functions):
    """Says whether a function is used by another one."""
    short = name.rpartition(".")[2]
    return any(f"{short}(" in other.src for key, other in functions.items() if key != name)


def main(capability, size, *operations):
    functions = kernels()
    found = pretend(int(capability))
    for operation in operations or SIZES[size]:
        before = sum(map(len, found.values()))
        SIZES[size][operation]()
        is_fast = sum(map(len, found.values())) > before
        assert is_fast, f"{operation} launched no kernel at size {size}: see the limits of its fast version"
    unused = [name for name in functions if name not in found and not called(name, functions)]
    shared = {name: max(each) for name, each in found.items()}
    print(json.dumps({"shared": shared, "not launched": unused, "triton": triton.__version__}))


if __name__ == "__main__":
    main(*sys.argv[1:])
