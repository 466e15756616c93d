"""The examples run, and say what they found."""

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_a_memory_in_your_model():
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "memory_in_your_model.py")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    changed, rest = done.stdout.split(" of ")
    assert rest == "4096 slots changed\n" and 0 < int(changed) <= 2 * 16 * 8


def test_no_example_is_forgotten():
    assert [path.name for path in EXAMPLES.glob("*.py")] == ["memory_in_your_model.py"]
