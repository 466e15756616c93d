"""Any arguments: an exit code of ours, one line of error or usage, never a traceback."""

from pathlib import Path

import pytest
from hypothesis import strategies as st

from tests.fuzz.test_fuzz_runs import sound_runs
from tests.told import one_error

COMMANDS = {"run": 1, "check": 1, "compare": 1, "diff": 2, "report": 1, "list": 1, "ps": 0, "logs": 1, "stop": 1}
"""Each command and the arguments that it takes; `doctor`, which looks at the machine for seconds, is left out."""
PLACES = ["runs", "runs/demo", "runs/demo/dense-s0", "runs/nowhere", "c.yaml", "empty.yaml", ".", "..", "/dev/null", ""]
NAMES = [
    "demo",
    "../demo",
    "memories",
    "fusions",
    "corpora",
    "--",
    "-",
    "-x",
    "--help",
    "--version",
    "[bold]",
    "\udcff",
]
# A sound experiment is never among them: what is tried here must not train.
OPTIONS = [
    "-o",
    "train.steps=0",
    "-o=x",
    "--override",
    "--runs",
    "--no-measure",
    "-n",
    "3",
    "-1",
    "1e9",
    "9" * 30,
    "--force",
]
ARGUMENT = st.one_of(
    st.sampled_from(PLACES),
    st.sampled_from(NAMES),
    st.sampled_from(OPTIONS),
    st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=6),
)


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    sound_runs(tmp_path / "runs")
    (tmp_path / "c.yaml").write_text("data: {corpus: python-docs}\ntrain: {steps: 4, lr: x}\nvariants: {a: {}}\n")
    (tmp_path / "empty.yaml").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_arguments(fuzz, place, memlm):
    def check(arguments):
        code, _, errors = memlm(*arguments)
        assert code in (0, 1, 2, 3), errors
        assert "Traceback" not in errors
        assert code == 0 or errors.strip() or not arguments, "failed in silence"
        if code == 1:
            one_error(errors)
        assert not any(Path(place).glob("*/*/checkpoint*")), "something was trained"
        return {0: "done", 2: "refused as wrong", 3: "refused as unsound"}.get(code, "refused")

    def near_right(command):
        """The command with as many arguments as it takes, and at times one too many."""
        places = st.sampled_from(["runs/demo", "runs/demo/dense-s0", "demo", *PLACES, *NAMES])
        right = st.lists(places, min_size=COMMANDS[command], max_size=COMMANDS[command])
        return st.builds(lambda some, more: [command, *some, *more], right, st.lists(ARGUMENT, max_size=1))

    near = st.sampled_from(sorted(COMMANDS)).flatmap(near_right)
    arguments = st.one_of(near, near, st.lists(ARGUMENT, max_size=4))
    fuzz("command line", arguments, check, compact=60, torture=3000)
