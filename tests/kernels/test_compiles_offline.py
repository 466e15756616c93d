"""Every Triton kernel compiles for the cards that memlm names, and fits into what a block has there."""

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from memlm.kernels.choice import SHARED_MEMORY

pytest.importorskip("triton")
CAPABILITIES = [80, 86, 89, 90]  # A100; RTX 3090; RTX 4090; H100
LARGE = {80: 163 << 10, 90: 227 << 10}  # bytes of shared memory, where a block has more than the least
ROOT = Path(__file__).parents[2]
SIZES = ["lineage", "large", "float32"]  # of tests/kernels/offline.py; "wide" is for cards with more memory
QUICK = [(86, "lineage"), (90, "lineage")]
CASES = [
    pytest.param(*case, marks=[] if case in QUICK else pytest.mark.torture)
    for case in [*product(CAPABILITIES, SIZES), *product(LARGE, ["wide"])]
]


@pytest.mark.parametrize(("capability", "size"), CASES)
def test_every_kernel_compiles_and_fits(capability, size, tmp_path):
    hidden = ("TRITON_INTERPRET", "MEMLM_KERNELS")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "tests.kernels.offline", str(capability), size]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    room = LARGE[capability] if size == "wide" else SHARED_MEMORY
    assert not {name: shared for name, shared in told["shared"].items() if shared > room}
    if size == "lineage":
        assert told["not launched"] == [], "give these kernels a case in tests/kernels/offline.py"
