"""The errors that speak to users: one clear line that says what, where and how to mend it."""

from __future__ import annotations

MAX_LENGTH = 1500
"""Characters of the longest error."""


def printable(text: str) -> str:
    """Returns ``text`` with an escape for each character that cannot be printed, line ends among them."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def counted(n: int, noun: str) -> str:
    """Returns ``1 run``, ``2 runs``, ``3,000 runs``."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


class MemlmError(Exception):
    """Base of every error meant for a person; the command line prints it without a traceback.

    Names and values of the user's are part of the text, so it is brought onto one line here, once for all.
    """

    exit_code = 1
    is_one_line = True
    """False where the text has lines of its own, each of which is made one before."""

    def __init__(self, text: str) -> None:
        if self.is_one_line:
            text = printable(text)
            if len(text) > MAX_LENGTH:  # what and where stand at the front, how to mend it at the end
                text = f"{text[: MAX_LENGTH - 503]}...{text[-500:]}"
        super().__init__(text)


class ConfigError(MemlmError):
    """The configuration is wrong; nothing was run."""

    exit_code = 2
    is_one_line = False


class DataError(MemlmError):
    """The text or its cache cannot be used as it is."""


class CheckpointError(MemlmError):
    """A checkpoint is missing, broken or does not fit the model."""


class PreflightError(MemlmError):
    """A model is not sound: its text names the fault, the module and the likely cause. Nothing was trained."""

    exit_code = 3
    is_one_line = False


class RunError(MemlmError):
    """A run or its folder is not in the state that the command needs."""


class EditError(MemlmError):
    """An edit, or a log of edits, cannot be used as it is; nothing was changed."""


class FollowerError(RunError):
    """One of the processes that train together cannot go on, and tells so itself, whichever it is."""


class DivergedError(RunError):
    """Losses or gradients were not finite more often than the config allows. Other runs go on, and so does a tune."""

    exit_code = 4


class Interrupted(BaseException):
    """The user or the system asked the process to end; raised wherever the process is.

    Like KeyboardInterrupt it is no Exception, so that no handler of errors swallows it.

    Args:
        signal_name: The signal, e.g. ``SIGTERM``.
        number: Its number; the exit code is 128 + number, as in a shell.
    """

    def __init__(self, signal_name: str = "SIGINT", number: int = 2) -> None:
        super().__init__(f"stopped by {signal_name}")
        self.exit_code = 128 + number


class MissingDependencyError(MemlmError):
    """An optional package is not installed.

    Args:
        package: The package to import, e.g. ``datasets``.
        extra: The extra of memlm that brings it, e.g. ``hub``.
        purpose: What it is needed for, as in "... is needed for <purpose>".
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{package} is needed for {purpose}; install it with: pip install 'memlm[{extra}]'")
        self._told = package, extra, purpose

    def __reduce__(self) -> tuple[type, tuple[str, ...]]:
        """Pickles what it was made of: a worker sends its errors to the process that tells them."""
        return type(self), self._told
