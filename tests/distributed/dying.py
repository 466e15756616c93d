"""`memlm` in which a rank gets a signal before a step: `python -m tests.distributed.dying RANK STEP SIGNAL ...`."""

import os
import signal
import sys
from unittest.mock import patch

from memlm.cli.main import main
from memlm.train.loop import _Training


def _doomed(rank: int, doom: int, number: int):
    launch = _Training._launch

    def launch_or_die(self, step):
        # The preflight trains too, alone.
        if self.ranks.number > 1 and self.ranks.index == rank and step == doom:
            os.kill(os.getpid(), number)
        launch(self, step)

    return patch.object(_Training, "_launch", launch_or_die)


if __name__ == "__main__":
    rank, step, name = sys.argv[1:4]
    sys.argv[1:4] = []
    with _doomed(int(rank), int(step), signal.Signals[name].value):
        main()
