"""Every block of docs/tutorial.md, one after the other in one folder.

What is otherwise here than on the page: the installation is not repeated (its packages are those that run this),
trainings get the overrides in `SHORT`, and the server a free port.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from memlm.cli.main import app
from tests.unit.export.test_serve import free_port, wait_for

PAGE = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, flags=re.M | re.S)
INSTALLATION = "python3 -m venv .venv\nsource .venv/bin/activate\npip install -e '.[serve]'\n"
SHORT = [
    "data.facts.exposures=4",
    "seeds=[0]",
    "evaluate.tokens=2k",
    "evaluate.train_tokens=2k",
    "evaluate.questions=20",
]
OVERRIDES = [part for override in SHORT for part in ("-o", override)]


class Reader:
    """Does what the page says."""

    def __init__(self, folder):
        self.folder, self.port, self.server, self.told = folder, free_port(), None, {}
        self.env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(folder / "modules")}

    def follow(self, kind, block):
        if block == INSTALLATION:
            return
        if kind == "yaml":
            (self.folder / "tutorial.yaml").write_text(block, encoding="utf-8")
        elif kind == "bash":
            for line in block.splitlines():
                self.run(line)
        elif kind == "python":
            self.told[block] = self.python(["-c", block.replace(":8000", f":{self.port}")])
        else:
            assert kind == "text", f"nobody knows how to follow a block of {kind}"

    def run(self, line):
        command, *words = shlex.split(line)
        assert command == "memlm"
        if words[0] == "serve":
            self.serve(words)
            return
        words += OVERRIDES if "tutorial.yaml" in words else []
        done = CliRunner().invoke(app, words, env={"COLUMNS": "160"})
        # Trained as briefly as here, a model may not know where an answer ends, so its edit is told as not learned.
        expected = int(words[0] == "edit" and "not learned: " in done.output)
        assert done.exit_code == expected, f"{line}\n{done.output}\n{done.exception}"
        self.told[line] = done.output

    def serve(self, words):
        assert words[-2:] == ["--port", "8000"]
        words = [sys.executable, "-m", "memlm.cli.main", *words[:-1], str(self.port)]
        self.server = subprocess.Popen(words, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        wait_for(f"http://127.0.0.1:{self.port}/health", self.server)

    def python(self, words):
        done = subprocess.run([sys.executable, *words], env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def end(self):
        if self.server is not None:
            self.server.send_signal(signal.SIGINT)
            self.server.communicate(timeout=30)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What each command and program of the page printed."""
    folder = tmp_path_factory.mktemp("tutorial")
    reader = Reader(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        try:
            for kind, block in BLOCKS:
                reader.follow(kind, block)
        finally:
            reader.end()
    return reader.told


def find(told, words):
    (output,) = [output for line, output in told.items() if words in line]
    return output


def test_the_page_has_every_part():
    assert [kind for kind, _ in BLOCKS if kind != "text"] == [
        *("bash", "yaml", "bash", "bash", "bash", "bash", "bash", "bash", "bash", "python", "bash", "python")
    ]
    assert BLOCKS[0][1] == INSTALLATION


def test_the_variants_are_compared(told):
    assert "memory knows more (memory < dense): inconclusive" in find(told, "memlm compare")


def test_slots_are_shown(told):
    assert "4,096 slots" in told["memlm inspect runs/tutorial/memory-s0"]
    assert "slot 511 of bank 0" in find(told, "--slot 511")


def test_an_edit_is_made_and_undone(told):
    assert re.search(r"edit 1: Lapifi Cenide \| school: .+ -> Vabome", find(told, "--set"))
    assert "0 edits left" in find(told, "--undo 1")


def test_the_folder_and_the_server_write_what_the_run_writes(told):
    written = find(told, "memlm generate")
    assert written.strip()
    alone, served = find(told, "AutoTokenizer"), find(told, "OpenAI")
    prompt = "The school of Lapifi Cenide is"
    assert alone.startswith(prompt)
    assert written.startswith(alone.removeprefix(prompt).strip("\n")) and written.startswith(served.strip("\n"))
