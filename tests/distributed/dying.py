"""`memlm` in which a rank gets a signal: `python -m tests.distributed.dying RANK STEP SIGNAL ...`.

It comes before the step, or, if that is written as 5+, when the step is begun.
"""

import os
import signal
import sys
from unittest.mock import patch

from memlm.cli.main import main
from memlm.train.loop import _Training


def _doomed(rank: int, doom: int, number: int, is_late: bool):
    launch = _Training._launch

    def launch_or_die(self, step):
        # The preflight trains too, alone.
        is_doomed = self.ranks.number > 1 and self.ranks.index == rank and step == doom
        if is_doomed and not is_late:
            os.kill(os.getpid(), number)
        launch(self, step)
        if is_doomed and is_late:
            os.kill(os.getpid(), number)

    return patch.object(_Training, "_launch", launch_or_die)


if __name__ == "__main__":
    rank, step, name = sys.argv[1:4]
    sys.argv[1:4] = []
    with _doomed(int(rank), int(step.rstrip("+")), signal.Signals[name].value, step.endswith("+")):
        main()
