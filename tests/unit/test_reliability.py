"""The table of reliability sums rows of one kind, also when they come from several worker processes."""

import subprocess
import sys

from tests.reliability import markdown, summed

ROWS = [
    {"what": "kills", "tried": 3, "good": 2, "note": "at 1"},
    {"what": "faults", "tried": 1000, "good": 1000},
    {"what": "kills", "tried": 4, "good": 4, "note": "at 2"},
    {"what": "kills", "tried": 1, "good": 1, "note": "at 2"},
]


def test_rows_are_summed():
    table = summed(ROWS)
    assert table == [("faults", "1,000", "1,000", "0", ""), ("kills", "8", "7", "1", "at 1; at 2")]
    assert markdown(table).splitlines()[1:] == [
        "|---|---:|---:|---:|---|",
        "| faults | 1,000 | 1,000 | 0 |  |",
        "| kills | 8 | 7 | 1 | at 1; at 2 |",
    ]


def test_rows_of_two_workers_reach_the_summary(tmp_path):
    for name in ("a", "b"):
        row = {"what": "kills", "tried": 2, "good": 1, "note": name}
        body = f"def test_one(record_property):\n    record_property('reliability', {row})\n    assert {name == 'a'}\n"
        (tmp_path / f"test_{name}.py").write_text(body)
    (tmp_path / "pytest.ini").touch()
    command = ["-m", "pytest", "-p", "tests.reliability", "-n", "2", "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(
        [sys.executable, *command, "--reliability-file", str(tmp_path / "table.md")],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert "kills      4                2               2  a; b" in done.stdout, done.stdout + done.stderr
    assert "| kills | 4 | 2 | 2 | a; b |" in (tmp_path / "table.md").read_text()
