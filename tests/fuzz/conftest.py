"""`fuzz` tries inputs that nobody would write: few and always the same in `make test`, many and random in torture."""

import io
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis.strategies import SearchStrategy

from memlm.cli import main

PATIENCE_S = 20
"""An input that takes longer counts as a hang."""


class Hang(AssertionError):
    """An input took longer than `PATIENCE_S`."""


@contextmanager
def within(seconds: int):
    """Interrupts what takes longer."""

    def interrupt(_number, _frame):
        raise Hang(f"took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


Check = Callable[[Any], str]
"""Takes an input, asserts what must hold and returns in a word how it ended, such as ``refused``."""


@pytest.fixture(params=["compact", pytest.param("torture", marks=pytest.mark.torture)])
def fuzz(request, record_property):
    """Returns the function that runs a check on inputs of a strategy and reports how many were tried.

    The torture's inputs are drawn by a random seed, which is printed; ``--hypothesis-seed`` repeats one.
    """

    def fuzz(what: str, strategy: SearchStrategy, check: Check, compact: int, torture: int) -> None:
        is_long = request.param == "torture"
        given_seed = request.config.getoption("--hypothesis-seed", None)
        number = int(given_seed) if given_seed else random.SystemRandom().randrange(2**32)
        ends: Counter[str] = Counter()
        tried = 0

        @settings(
            max_examples=torture if is_long else compact,
            derandomize=not is_long,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def trial(case: Any) -> None:
            nonlocal tried
            tried += 1
            with within(PATIENCE_S):
                ends[check(case)] += 1

        if is_long:
            print(f"{what}: --hypothesis-seed={number}")
            trial = seed(number)(trial)
        try:
            trial()
        finally:
            note = ", ".join(f"{n:,} {end}" for end, n in ends.most_common())
            note += f" (seed {number})" if is_long else ""
            row = {"what": f"fuzz: {what}", "tried": tried, "good": ends.total(), "note": note}
            record_property("reliability", row)

    return fuzz


@pytest.fixture
def memlm(monkeypatch):
    """Runs the command line in this process: exit code, output and errors; what is not an exit is a traceback."""
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)  # handlers would gather

    def memlm(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["memlm", *arguments])
        output = io.TextIOWrapper(io.BytesIO(), "utf-8")
        errors = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace")  # as the interpreter has them
        code = 0
        with redirect_stdout(output), redirect_stderr(errors):
            try:
                main.main()
            except SystemExit as end:
                code = end.code or 0
        texts = []
        for stream in (output, errors):
            stream.flush()
            texts.append(stream.buffer.getvalue().decode(errors="replace"))
        return code, *texts

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield memlm
    for number, handler in handlers.items():
        signal.signal(number, handler)
