"""One lock for whoever writes into an experiment's folder; a crash leaves none behind."""

import signal
import subprocess
import sys

import pytest

from memlm.errors import RunError
from memlm.experiment.locks import locked

HOLD = """
import sys, time
from pathlib import Path
from memlm.experiment.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_is_gone_however_it_went(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match="is being run by another process; wait for it"), locked(tmp_path):
            pytest.fail("it was locked twice")
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    for _ in range(2):  # neither a crash nor an end leaves a lock
        with locked(tmp_path):
            assert (tmp_path / ".lock").exists()


def test_an_error_inside_lets_go(tmp_path):
    with pytest.raises(ValueError), locked(tmp_path):
        raise ValueError
    with locked(tmp_path):
        pass
