"""`memlm chat`, with lines from a pipe."""

import pytest
from typer.testing import CliRunner

from memlm.cli import chat
from memlm.cli.main import app
from memlm.errors import RunError
from memlm.experiment.trained import open_model
from tests.unit.export.conftest import runs as runs  # a fixture is found by its name

GREEDY = ("--temperature", "0", "--max-new-tokens", "4")


@pytest.fixture
def talk(runs):
    def call(*lines, options=GREEDY):
        result = CliRunner().invoke(app, ["chat", str(runs / "gated_mlp-s0"), *options], input="\n".join(lines) + "\n")
        assert result.exit_code == 0, result.output
        return result.stdout

    return call


@pytest.fixture
def expected(runs):
    model, tokenizer = open_model(runs / "gated_mlp-s0", "cpu")

    def go_on(text):
        ids = tokenizer(text, return_tensors="pt").input_ids[:, -12:]  # 16 tokens less 4 new ones
        return tokenizer.decode(model.generate(ids, max_new_tokens=4, do_sample=False)[0, ids.shape[1] :])

    return go_on


def test_the_model_sees_the_whole_conversation(talk, expected):
    first = expected("ka\n")
    second = expected("ka\n" + first + "\nlo\n")
    assert talk("ka", "lo") == first + "\n" + second + "\n"


def test_an_empty_line_starts_over(talk, expected):
    assert talk("ka", "", "lo") == expected("ka\n") + "\n" + expected("lo\n") + "\n"


def test_a_line_that_is_not_utf_8_is_told(runs):
    line = ["chat", str(runs / "gated_mlp-s0"), *GREEDY]
    with pytest.raises(RunError, match="the text is not UTF-8; convert it"):
        CliRunner().invoke(app, line, input=b"ka\nlo\xff\n", catch_exceptions=False)
    with pytest.raises(RunError, match="the text is not UTF-8; convert it"):
        list(chat._checked(iter(["lo\udcff"])))


def test_a_terminal_is_asked_until_it_ends(monkeypatch):
    answers = iter(["ka", EOFError()])

    def ask(prompt):
        answer = next(answers)
        if isinstance(answer, EOFError):
            raise answer
        return answer

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", ask)
    assert list(chat._lines()) == ["ka"]
