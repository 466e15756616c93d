"""What `--help` says, of every command."""

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from memlm.cli.main import app

COMMANDS = get_command(app).commands


def told(*command):
    return CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "80"}, catch_exceptions=False).stdout


def test_no_summary_of_a_command_is_cut():
    text = told()
    assert "..." not in text.partition("Commands:")[2] and max(map(len, text.splitlines())) <= 80
    assert all(f"\n  {name} " in text for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_terminal_and_tells_every_option(name):
    assert max(map(len, told(name).splitlines())) <= 80
    for param in COMMANDS[name].params:
        assert param.help and param.help.endswith("."), f"{param.name}: {param.help}"
