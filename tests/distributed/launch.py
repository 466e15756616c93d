"""Starts programs under torchrun."""

import os
import subprocess
import sys
from pathlib import Path


def torchrun(ranks: int, *arguments: object, cwd: Path | None = None, **environment: str):
    """Runs a module of Python's in several processes of one thread each; returns how it ended and what it printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", "-m"]
    paths = [str(Path(__file__).parents[2]), *sys.path]
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(
        [*command, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | own | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
