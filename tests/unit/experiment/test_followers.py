"""What rank 0 tells the others at the end, and what it tells the user where one of them is gone by then."""

import pytest

from memlm.errors import DataError, DivergedError, Interrupted, RunError
from memlm.experiment import followers
from memlm.experiment.followers import Followers, Order
from memlm.train.ranks import LOST, Ranks

ORDER = Order(None, "dense", 0, "", None)


@pytest.fixture
def told(monkeypatch):
    """What is sent to the others."""
    sent = []
    monkeypatch.setattr(followers.dist, "broadcast_object_list", lambda message, src: sent.extend(message))
    monkeypatch.setattr(followers.dist, "destroy_process_group", lambda: None)
    return sent


@pytest.fixture
def lost(monkeypatch):
    """Another rank has ended: nothing can be sent."""

    def fail(*_, **__):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer")

    monkeypatch.setattr(followers.dist, "broadcast_object_list", fail)
    monkeypatch.setattr("memlm.train.ranks.signal.signal", lambda *_: None)  # it would make this process deaf


def end(error):
    """Does what rank 0 does, which ends by ``error``."""
    with Followers(Ranks(2, 0)).dismissed():
        if error is not None:
            raise error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, 0),
        (DataError("no text"), 1),
        (DivergedError("nan"), 4),
        (Interrupted("SIGTERM", 15), 143),
        (KeyError(), 1),
    ],
)
def test_the_others_end_with_the_exit_code_of_rank_0(error, code, told):
    try:
        end(error)
    except BaseException as raised:
        assert raised is error
    assert told == [code]


def test_the_first_error_is_told_though_another_rank_is_lost(lost):
    with pytest.raises(DataError, match="no text"):
        end(DataError("no text"))


def test_a_rank_that_is_lost_is_told_where_nothing_else_went_wrong(lost):
    with pytest.raises(RunError, match=LOST):
        end(None)


def test_ranks_that_are_left_in_a_training_are_not_dismissed(told):
    others = Followers(Ranks(2, 0))
    with pytest.raises(DataError), others.dismissed(), others.training(ORDER):
        raise DataError("the disk is full")
    assert told == [ORDER]


def test_ranks_wait_for_what_is_next_unless_a_training_broke_off(told):
    others, one = Followers(Ranks(2, 0)), Followers(Ranks())
    for each, error, is_waiting in ((others, DivergedError, True), (others, DataError, False), (one, DataError, True)):
        with pytest.raises(error), each.training(ORDER):
            raise error("it broke off")
        assert each.are_waiting is is_waiting


def test_one_process_has_nobody_to_dismiss(told):
    with Followers(Ranks()).dismissed():
        pass
    assert told == []
