"""Starts programs under torchrun."""

import os
import subprocess
import sys
from pathlib import Path


def torchrun(
    ranks: int, *arguments: object, cwd: Path | None = None, timeout_s: float = 300, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs a module of Python's in several processes of one thread each; returns how it ended and what it printed.

    Raises AssertionError, with what was printed until then, if they have not ended in time; they are ended.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", "-m"]
    paths = [str(Path(__file__).parents[2]), *sys.path]
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    settings = {"cwd": cwd, "env": os.environ | own | environment}
    with subprocess.Popen([*command, *map(str, arguments)], **pipes, **settings) as started:
        try:
            printed = started.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            started.terminate()  # torchrun ends its ranks, the deaf ones by force; killed itself, it could not
            raise AssertionError(f"not at an end after {timeout_s:.0f} s: {started.communicate()[1]}") from None
    return subprocess.CompletedProcess(started.args, started.returncode, *printed)
