"""The choice between the fast version and the plain one."""

import os
import threading

import torch

from memlm.kernels import choice
from memlm.kernels.choice import VARIABLE, is_fast, references


def test_references_are_forced_in_every_thread_while_asked_for(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(choice, "_obstacle", lambda _device: None)
    tensor, seen = torch.zeros(1), []
    assert is_fast("an operation", tensor)
    with references():
        assert not is_fast("an operation", tensor)
        thread = threading.Thread(target=lambda: seen.append(is_fast("an operation", tensor)))
        thread.start()
        thread.join()
    assert seen == [False]
    assert is_fast("an operation", tensor)
    assert VARIABLE not in os.environ


def test_what_the_environment_said_before_stands_after(monkeypatch):
    monkeypatch.setenv(VARIABLE, "reference")
    with references():
        pass
    assert os.environ[VARIABLE] == "reference"
    assert not is_fast("an operation", torch.zeros(1))


def test_an_obstacle_is_a_reason_against_it(monkeypatch):
    monkeypatch.setattr(choice, "_obstacle", lambda _device: None)
    assert not is_fast("an operation", torch.zeros(1), "it is too large")


def test_a_cpu_runs_plain_torch():
    assert not is_fast("an operation", torch.zeros(1))
