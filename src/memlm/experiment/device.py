"""Which device torch finds, asked in a process of its own: a broken driver can hang or crash whoever asks it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter

from memlm.errors import RunError

MODULE = "memlm.experiment.device"
# Importing torch from a cold network disk takes half a minute; a driver that is stuck takes for ever.
PATIENCE_S = 60.0


@dataclass(frozen=True)
class TorchDevice:
    """What torch can compute on.

    Attributes:
        kind: cuda, mps or cpu.
        gpus: Name and memory in GiB of each GPU.
        bf16: Whether the arithmetic of the first GPU has it; a GPU without it can only imitate it, slowly.
        threads: Threads that torch uses on the CPU.
        build: What torch was built for: cuda and its version, rocm and its version, or cpu.
        fault: Why a GPU that is there cannot compute; empty if it can.
        plain: Why the memory's operations run in plain torch here; empty if their fast versions run.
    """

    kind: str
    gpus: list[tuple[str, float]]
    bf16: bool
    threads: int
    build: str
    fault: str = ""
    plain: str = ""


def find_torch_device(timeout: float = PATIENCE_S) -> TorchDevice:
    """Returns what torch finds; takes as long as importing torch.

    Args:
        timeout: Seconds to wait.

    Raises:
        RunError: torch cannot be imported, crashes or does not answer.
    """
    # -P: see memlm.experiment.jobs.PROGRAM.
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", MODULE],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        answer, complaint = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()  # and not waited for: a process that is stuck in a driver does not end
        raise RunError(f"torch did not say within {timeout:.0f} s what devices there are") from None
    if process.returncode != 0:
        last = (complaint.strip().splitlines() or [f"its process ended with {process.returncode}"])[-1]
        raise RunError(f"torch cannot be used: {last}")
    return _adapter().validate_json(answer.strip().splitlines()[-1])


@lru_cache
def _adapter() -> TypeAdapter[TorchDevice]:
    return TypeAdapter(TorchDevice)


def _ask_torch() -> dict[str, Any]:
    import torch

    version: Any = torch.version  # both are typed in part only
    cuda: Any = torch.cuda
    build = f"cuda {version.cuda}" if version.cuda else f"rocm {version.hip}" if version.hip else "cpu"
    found: dict[str, Any] = {"kind": "cpu", "gpus": [], "bf16": False, "build": build}
    if cuda.is_available():
        found["kind"] = "cuda"
        try:
            for index in range(cuda.device_count()):
                properties = cuda.get_device_properties(index)
                found["gpus"].append((properties.name, properties.total_memory / 2**30))
            # A card that this torch was not built for is found all the same, and fails at the first computation.
            torch.ones(8, device="cuda").sum().item()
            found["bf16"] = cuda.is_bf16_supported(including_emulation=False)
        except RuntimeError as error:
            found["fault"] = str(error).splitlines()[0]
    elif torch.backends.mps.is_available():
        found["kind"] = "mps"
    plain = "" if "fault" in found else _why_plain(found["kind"])
    return {**found, "threads": torch.get_num_threads(), "plain": plain}


def _why_plain(kind: str) -> str:
    import torch

    from memlm.kernels.choice import obstacle_on
    from memlm.kernels.read_attention import read_attention

    reason = obstacle_on(torch.device(kind, 0)) or ""
    if not reason:  # tried, not asked: a kernel's launcher needs a C compiler, headers and a folder for its cache
        try:
            one = torch.ones(1, 1, 16, device=kind)
            read_attention(one, one, one[:, :, 0], 1.0).sum().item()
        except Exception as error:  # whatever a compiler or a driver raises
            lines = str(error).strip().splitlines() or [""]
            reason = f"Triton fails: {type(error).__name__}: {lines[0]}"
    return reason


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_ask_torch()) + "\n")
