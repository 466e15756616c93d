"""What a person is told when something is wrong: the one oracle for the lines of errors."""

from memlm.errors import MAX_LENGTH

NEVER = ("Traceback", "object at 0x", "pydantic")
"""What speaks to programmers alone."""


def one_line(error: object, *names: object) -> str:
    """Asserts that an error is exactly one line, not too long, that can be printed and holds ``names``; returns it."""
    text = str(error)
    assert text.strip() and text.isprintable(), repr(text)
    assert len(text) <= MAX_LENGTH, f"{len(text)} characters: {text}"
    assert not [word for word in NEVER if word in text], text
    assert not [name for name in names if str(name) not in text], f"{names} in {text}"
    return text


def one_error(stderr: str, *names: object) -> str:
    """Asserts the same of all that a command wrote to stderr, behind ``error:``; returns what comes behind it."""
    assert stderr.startswith("error: ") and stderr.endswith("\n"), stderr
    return one_line(stderr.removeprefix("error: ").removesuffix("\n"), *names)
