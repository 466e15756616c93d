"""Spoiled run folders: every command that reads records prints its output or one line."""

import json
import os
import shutil
from pathlib import Path

from hypothesis import strategies as st

from tests.fuzz.damage import mutations
from tests.told import one_error
from tests.unit.fabricate import fabricate

JOB = {
    "format": 1,
    "pid": 4_000_000,  # above the highest process id, so it has ended
    "created": 1.8e9,
    "host": os.uname().nodename,
    "command": ["memlm", "run"],
    "log": "run.log",
    "started": "2026-11-24T10:00:00+00:00",
}


def sound_runs(root: Path) -> Path:
    """An experiment of two seeds with a job, in a folder that is called as the command line calls it."""
    folder = fabricate(root, seeds=(0, 1)).rename(root / "demo")
    for run in [*folder.glob("[cg]*-s?"), folder / "dense-s1"]:
        shutil.rmtree(run)
    (folder / "job.json").write_text(json.dumps(JOB), encoding="utf-8")
    (folder / "run.log").write_text("one\ntwo\n", encoding="utf-8")
    return folder


COMMANDS = {
    "compare": ("compare", "runs/demo"),
    "report": ("report", "runs/demo"),
    "diff": ("diff", "runs/demo/dense-s0", "runs/demo/门控记忆-s0"),
    "ps": ("ps",),
    "logs": ("logs", "demo"),
    "stop": ("stop", "demo"),
}


def test_runs(fuzz, tmp_path, monkeypatch, memlm):
    monkeypatch.chdir(tmp_path)
    sound = sound_runs(tmp_path)

    def check(case):
        command, damages = case
        shutil.rmtree("runs", ignore_errors=True)
        shutil.copytree(sound, "runs/demo")
        for damage in damages:
            try:
                damage(Path("runs/demo"))
            except (OSError, ValueError):
                continue  # a second damage may find nothing of the first file left
        code, output, errors = memlm(*COMMANDS[command])
        if code == 0:
            assert output.strip() or command == "logs"  # a log may be empty
            return "shown"
        assert code == 1, errors
        one_error(errors, "runs")
        return "refused"

    case = st.tuples(st.sampled_from(sorted(COMMANDS)), st.lists(mutations(sound), min_size=1, max_size=2))
    fuzz("run folders", case, check, compact=60, torture=2000)
