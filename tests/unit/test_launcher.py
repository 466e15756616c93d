"""What a launcher puts into the environment, and what else may stand there."""

import pytest

from memlm import launcher
from memlm.cli import main
from memlm.errors import RunError
from memlm.train.ranks import Ranks


def test_a_process_without_a_launcher_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False), monkeypatch.delenv("RANK", raising=False)
    assert (launcher.n_ranks(), launcher.rank()) == (1, 0)


def test_what_a_launcher_says_is_believed(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8"), monkeypatch.setenv("RANK", "3")
    assert (launcher.n_ranks(), launcher.rank()) == (8, 3)


@pytest.mark.parametrize("ask", [launcher.n_ranks, lambda: Ranks().require_shares(4)])
@pytest.mark.parametrize("text", ["", "two", "2.0", "0", "-1"])
def test_a_number_of_processes_that_is_none_is_told_with_its_variable(ask, text, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", text)
    line = rf"^WORLD_SIZE is '{text}' in the environment, and must be a whole number, 1 or more; .*env -u WORLD_SIZE"
    with pytest.raises(RunError, match=line):
        ask()


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "RANK"])
def test_the_command_line_tells_it_in_one_line(variable, monkeypatch, capsys):
    monkeypatch.setenv(variable, "many")
    monkeypatch.setattr("sys.argv", ["memlm", "ps"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 1
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and told[0].startswith(f"error: {variable} is 'many' in the environment")
