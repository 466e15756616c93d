"""Why the plain version of an operation runs, where it does."""

from types import SimpleNamespace

import pytest
import torch

from memlm.kernels import choice

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
