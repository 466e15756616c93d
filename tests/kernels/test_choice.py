"""Why the plain version of an operation runs, where it does."""

import os
import threading
from types import SimpleNamespace

import pytest
import torch

from memlm.kernels import choice
from memlm.kernels.choice import VARIABLE, is_fast, references

CUDA = torch.device("cuda", 0)


@pytest.fixture
def card(monkeypatch):
    """Stands for a card with some shared memory, and triton beside it."""

    def card(has_triton=True, **properties):
        choice._obstacle.cache_clear()
        monkeypatch.delenv(choice.VARIABLE, raising=False)
        monkeypatch.setattr(choice.importlib.util, "find_spec", lambda _name: object() if has_triton else None)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: SimpleNamespace(**properties))

    yield card
    choice._obstacle.cache_clear()


def test_nothing_stands_in_the_way_of_a_card_with_enough_shared_memory(card):
    card(shared_memory_per_block_optin=99 << 10)
    assert choice.obstacle_on(CUDA) is None


@pytest.mark.parametrize("properties", [{"shared_memory_per_block_optin": 64 << 10}, {}])
def test_too_little_shared_memory_is_told(card, properties):
    card(**properties)
    expected = "a block has 64 KiB of shared memory on this card, and kernels may take 99"
    assert choice.obstacle_on(CUDA) == expected


def test_a_card_that_does_not_tell_its_shared_memory_counts_as_one_with_little(card):
    card()
    assert choice.shared_memory(CUDA) == 64 << 10


def test_no_triton_and_no_card_are_told(card):
    card(has_triton=False)
    assert choice.obstacle_on(CUDA) == "triton is not installed"
    assert choice.obstacle_on(torch.device("cpu")) == "the device is cpu"


def test_the_environment_forces_the_reference_at_any_time(card, monkeypatch):
    card(shared_memory_per_block_optin=99 << 10)
    assert choice.is_fast("x", SimpleNamespace(device=CUDA))
    monkeypatch.setenv(choice.VARIABLE, "reference")
    assert choice.obstacle_on(CUDA) == "MEMLM_KERNELS=reference"
    assert not choice.is_fast("x", SimpleNamespace(device=CUDA))


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
