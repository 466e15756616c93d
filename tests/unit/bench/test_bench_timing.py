"""Times and errors."""

import math
import time

import pytest
import torch

from memlm.bench import timing
from memlm.bench.timing import BEYOND, Clock, largest_error, norm_error, worst


def test_a_time_is_the_median_of_several_runs_in_turn(monkeypatch):
    monkeypatch.setattr(timing, "CPU_SECONDS", 0.0)
    taken = []

    def call(i):
        taken.append(i)
        time.sleep(0.06 if len(taken) == 7 else 0.002)

    found = Clock(torch.device("cpu")).time(call, n_sets=3)
    assert taken == [0, 1, 2, 0, 0, 1, 2, 0, 1], "four runs warm up, five are timed"
    assert 2 <= found.min_ms <= found.median_ms < 60 <= found.max_ms
    assert found.runs == 5
    monkeypatch.undo()
    assert Clock(torch.device("cpu")).time(lambda _: None).runs == 50


@pytest.mark.parametrize("piece", [1 << 26, 4])
def test_errors_are_shares_of_what_is_expected(piece, monkeypatch):
    monkeypatch.setattr(timing, "_PIECE", piece)
    expected = torch.tensor([[3.0, -4.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    found = expected.clone()
    found[1, 0] = 1.0
    assert largest_error(found, expected) == pytest.approx(1 / 4)
    assert norm_error(found, expected) == pytest.approx(1 / 5)
    assert largest_error(expected, expected) == norm_error(expected, expected) == 0.0


def test_what_is_expected_to_be_zero_is_compared_as_it_is():
    assert largest_error(torch.tensor([0.5]), torch.zeros(1)) == norm_error(torch.tensor([0.5]), torch.zeros(1)) == 0.5


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("error", [largest_error, norm_error])
def test_what_is_not_a_number_fails_every_tolerance(bad, error):
    assert worst([0.1, error(torch.tensor([1.0, bad]), torch.ones(2)), 0.2]) == BEYOND


def test_the_worst_of_none_is_no_error():
    assert worst([]) == 0.0
