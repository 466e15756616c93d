"""What a launcher puts into the environment, and what else may stand there."""

import pytest

from memlm import launcher
from memlm.cli import main
from memlm.errors import RunError
from memlm.train.ranks import Ranks

VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


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


@pytest.fixture
def command_line(monkeypatch, capsys):
    """Runs `memlm` with an environment; returns its exit code and the lines of its stderr."""

    def run(arguments, **environment):
        for variable in VARIABLES:
            monkeypatch.delenv(variable, raising=False)
        for variable, text in environment.items():
            monkeypatch.setenv(variable, text)
        monkeypatch.setattr("sys.argv", ["memlm", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main.main()
        return ended.value.code, capsys.readouterr().err.splitlines()

    return run


TWO = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE is 'many' in the environment, and must be a whole number, 1 or more"),
        ({"RANK": "many"}, "RANK is 'many' in the environment, and must be a whole number, 0 or more"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK is 'x' in the environment, and must be a whole number, 0 or more"),
        (TWO | {"RANK": "1", "LOCAL_RANK": "x"}, "LOCAL_RANK is 'x' in the environment"),
        (TWO | {"RANK": "2"}, "RANK is 2 in the environment, and WORLD_SIZE is 2: ranks are 0 to 1"),
        ({"RANK": "1"}, "RANK is 1 in the environment, and WORLD_SIZE is 1: ranks are 0 to 0"),
        (
            {"WORLD_SIZE": "2"},
            "WORLD_SIZE is 2 in the environment, and MASTER_ADDR, where the processes meet, is missing",
        ),
        (TWO | {"MASTER_PORT": ""}, "WORLD_SIZE is 2 in the environment, and MASTER_PORT, where the processes meet"),
        (TWO | {"MASTER_PORT": "http"}, "MASTER_PORT is 'http' in the environment"),
    ],
)
def test_what_no_launcher_says_is_told_in_one_line_by_the_rank_that_meets_it(environment, line, command_line):
    code, told = command_line(["run", "none.yaml"], **environment)
    assert code == 1 and len(told) == 1 and told[0].startswith(f"error: {line}")


@pytest.mark.parametrize("environment", [{"WORLD_SIZE": "abc"}, {"RANK": "x"}, {"RANK": "3"}, {"LOCAL_RANK": "x"}])
def test_a_command_without_ranks_does_not_ask_for_them(environment, command_line, tmp_path):
    code, told = command_line(["compare", tmp_path / "none"], **environment)
    assert code == 1 and len(told) == 1 and str(tmp_path) in told[0]


def test_a_command_without_ranks_is_not_started_several_times(command_line):
    code, told = command_line(["ps"], **TWO)
    assert (code, told) == (1, ["error: memlm ps is one process; start it without a launcher"])
