"""A process that waits for the others of its launcher sits in C++, where no handler of Python's runs."""

import signal
from types import SimpleNamespace

import pytest

from memlm.config.train import TrainConfig
from memlm.train import accelerator

SIGNALS = (signal.SIGINT, signal.SIGTERM)
TWO = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.mark.parametrize("environment", [TWO, {"WORLD_SIZE": "1"}])
def test_a_signal_ends_a_process_only_while_it_waits_for_others(environment, monkeypatch):
    for variable, text in environment.items():
        monkeypatch.setenv(variable, text)
    handlers = []

    def join(**_):
        handlers.extend(map(signal.getsignal, SIGNALS))
        return SimpleNamespace(num_processes=int(environment["WORLD_SIZE"]), process_index=0)

    monkeypatch.setattr(accelerator, "Accelerator", join)
    before = list(map(signal.getsignal, SIGNALS))
    accelerator.build_accelerator(TrainConfig(device="cpu", batch_size=4, steps=1))
    assert handlers == ([signal.SIG_DFL, signal.SIG_DFL] if environment is TWO else before)
    assert list(map(signal.getsignal, SIGNALS)) == before
