import json
import os
import subprocess
import sys
import time

import psutil
import pytest

from memlm.errors import RunError
from memlm.experiment import jobs
from memlm.experiment.jobs import find_job, list_jobs, read_job, read_log, start_detached, stop

PYTHON = (sys.executable, "-u", "-S", "-c")
SLEEP = "import time; print('asleep'); time.sleep(60)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); time.sleep(60)"


@pytest.fixture
def start(tmp_path):
    started = []

    def start(code, name="demo"):
        started.append(start_detached([code], tmp_path / "runs" / name, PYTHON))
        return started[-1]

    yield start
    for job in started:
        if process := job.process():
            process.kill()


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def edit_job(job, **changes):
    path = job.folder / "job.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return read_job(job.folder)


def test_a_job_is_alone_in_its_session_and_leaves_a_record(start):
    job = start("import os, sys; print(os.getsid(0), sys.stdin.read() == ''); print('err', file=sys.stderr); " + SLEEP)
    wait_for(lambda: "asleep" in job.log.read_text())
    assert job.log.read_text().splitlines() == [f"{job.pid} True", "err", "asleep"]
    record = json.loads((job.folder / "job.json").read_text())
    assert record["command"] == job.command
    assert record["log"] == str(job.log)
    assert read_job(job.folder) == job
    assert job.state == "running"


def test_memlm_run_is_what_is_started_if_nothing_else_is_said(tmp_path):
    job = start_detached(["--help"], tmp_path / "demo")
    wait_for(lambda: job.state == "ended")
    assert job.command[-3:] == ["memlm.cli.main", "run", "--help"]


def test_a_pid_that_was_used_again_is_another_process(start):
    job = edit_job(start(SLEEP), created=psutil.Process().create_time() - 1000)
    assert job.state == "ended"
    assert stop(job, timeout=0)
    assert psutil.pid_exists(job.pid)
    psutil.Process(job.pid).kill()


def test_a_second_job_is_refused_until_the_first_has_ended(start):
    first = start(SLEEP)
    with pytest.raises(RunError, match=rf"is running \(PID {first.pid}, .*memlm stop demo --runs"):
        start(SLEEP)
    start(SLEEP, "other")
    assert read_job(first.folder) == first
    assert stop(first, timeout=10)
    assert start(SLEEP).pid != first.pid
    assert "asleep" in first.log.read_text()


def test_two_starts_at_the_same_moment_make_one_job(tmp_path):
    code = (
        "import sys, pathlib, memlm.experiment.jobs as jobs\n"
        "sys.stdin.read(1)\n"
        "jobs.start_detached([sys.argv[2]], pathlib.Path(sys.argv[1]), (sys.executable, '-S', '-c'))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "demo"), SLEEP]
    rivals = [subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    complaints = [process.stdin for process in rivals]
    for stdin in complaints:
        stdin.write(b"x")
        stdin.flush()
    errors = [process.communicate()[1].decode() for process in rivals]
    try:
        assert sorted(process.returncode for process in rivals) == [0, 1]
        assert sum("RunError" in error for error in errors) == 1
    finally:
        assert stop(read_job(tmp_path / "demo"), timeout=10)


def test_a_job_without_a_record_is_not_left_behind(tmp_path, monkeypatch):
    def full(path, value):
        raise OSError("no space left")

    monkeypatch.setattr(jobs, "write_json", full)
    with pytest.raises(OSError, match="no space"):
        start_detached([SLEEP], tmp_path / "demo", PYTHON)
    wait_for(lambda: not [c for c in psutil.Process().children() if c.status() != psutil.STATUS_ZOMBIE])


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(RunError, match=r"runs.demo: cannot be written .*--runs"):
        start_detached([], tmp_path / "runs" / "demo", PYTHON)


def test_no_job_is_started_on_windows(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(RunError, match="--detach is not available on Windows"):
        start_detached([], tmp_path / "demo", PYTHON)
    assert not (tmp_path / "demo").exists()


def test_only_force_ends_a_job_that_does_not_listen_and_its_children(start):
    child = f"import subprocess, sys; subprocess.Popen([sys.executable, '-S', '-c', {SLEEP!r}]); {DEAF}"
    job = start(child)
    wait_for(lambda: "deaf" in job.log.read_text())
    (offspring,) = job.process().children()
    assert not stop(job, timeout=0.3)
    assert job.state == "running"
    assert stop(job, timeout=0.3, force=True)
    assert job.state == "ended"
    wait_for(lambda: not offspring.is_running() or offspring.status() == psutil.STATUS_ZOMBIE)


def test_a_job_of_another_machine_is_left_alone(start):
    job = start("pass")
    wait_for(lambda: job.state == "ended")
    job = edit_job(job, host="elsewhere.example")
    assert job.state == "elsewhere"
    with pytest.raises(RunError, match=r"started on elsewhere\.example; stop it there"):
        stop(job, timeout=1)
    with pytest.raises(RunError, match=r"remove .*job\.json"):
        start("pass")


def test_jobs_are_found_by_name(start, tmp_path, caplog):
    root = tmp_path / "runs"
    with pytest.raises(RunError, match="no background jobs here; start one with: memlm run CONFIG --detach"):
        find_job(root, "demo")
    start("pass", "lineage")
    start("pass", "demo")
    assert [job.name for job in list_jobs(root)] == ["demo", "lineage"]
    assert find_job(root, "lineage").name == "lineage"
    for name, guess in {"demmo": "demo", "../runs/demo": "demo", "lineag": "lineage"}.items():
        with pytest.raises(RunError, match=f"unknown job '{name}'. Did you mean '{guess}'"):
            find_job(root, name)
    (root / "demo" / "job.json").write_text('{"pid": -1}')
    assert [job.name for job in list_jobs(root)] == ["lineage"]
    assert "demo/job.json: is no record of a job" in caplog.text


SOUND_JOB = '{"pid": 7, "created": 1.0, "command": [], "started": "2026-01-01T00:00:00+00:00", "host": "h"}'


def test_a_sound_record_is_read(tmp_path):
    (tmp_path / "job.json").write_text(SOUND_JOB)
    assert read_job(tmp_path).pid == 7


@pytest.mark.parametrize(
    "content",
    [
        *["", "[]", "{}", '{"pid": "x"}', "[" * 100_000],
        SOUND_JOB.replace("7", str(2**31)),
        SOUND_JOB.replace("1.0", "NaN"),
        SOUND_JOB.replace("2026-01-01T", "yesterday"),
        SOUND_JOB.replace("2026-01-01", "0001-01-01").replace("+00", "+14"),
        SOUND_JOB.replace('"h"', '"\\ud800"'),
    ],
)
def test_a_broken_record_is_named(tmp_path, content):
    (tmp_path / "job.json").write_text(content)
    with pytest.raises(RunError, match=r"job\.json: is no record of a job \(.+\); remove it"):
        read_job(tmp_path)


@pytest.mark.parametrize("n_lines", [0, 1, 3, 9000, 50_000])
def test_the_end_of_a_log_is_whole_lines(start, n_lines):
    job = start("pass")
    lines = [f"{number} 記憶\rbar\n".encode() for number in range(10_000)] + [b"half"]
    job.log.write_bytes(b"".join(lines))
    assert b"".join(read_log(job, n_lines)) == b"".join(lines[max(0, len(lines) - n_lines) :])


def test_following_ends_with_the_job_and_misses_nothing(start):
    code = "import time\nfor number in range(20): print(number); time.sleep(0.03)\nprint('x' * 300_000 + 'last')"
    job = start(code)
    text = b"".join(read_log(job, 40, follow=True)).decode()
    assert job.state == "ended"
    assert text.splitlines()[:20] == [str(number) for number in range(20)]
    assert text.endswith("xlast\n")
    os.remove(job.log)
    with pytest.raises(RunError, match=r"run\.log: cannot be read"):
        next(read_log(job, 1))


def test_jobs_need_no_torch():
    code = (
        "import sys, memlm.experiment.jobs, memlm.experiment.environment, memlm.cli.main;"
        "sys.exit(bool({'torch', 'transformers', 'accelerate'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
