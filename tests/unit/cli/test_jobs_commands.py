import re
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from memlm.cli import logs, ps, stop
from memlm.errors import Interrupted, RunError
from memlm.experiment import jobs
from memlm.experiment.jobs import start_detached

sys.path.insert(0, str(Path(__file__).parents[1]))
from fabricate import edit_record, fabricate

PYTHON = (sys.executable, "-u", "-S", "-c")
SLEEP = "import time; print('asleep'); time.sleep(60)"

app = typer.Typer(pretty_exceptions_enable=False)
for name, module in {"ps": ps, "logs": logs, "stop": stop}.items():
    app.command(name)(module.command)


@pytest.fixture
def memlm(tmp_path):
    def memlm(*arguments):
        done = CliRunner().invoke(app, [*arguments, "--runs", str(tmp_path)], env={"COLUMNS": "250"})
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done

    return memlm


@pytest.fixture
def start(tmp_path):
    started = []

    def start(code, name="demo"):
        started.append(start_detached([code], tmp_path / name, PYTHON))
        return started[-1]

    yield start
    for job in started:
        if process := job.process():
            process.kill()


def test_ps_says_where_there_are_no_jobs(memlm, tmp_path):
    assert f"no background jobs in {tmp_path}" in memlm("ps").output


def test_ps_lists_state_progress_and_log(memlm, start, tmp_path):
    edit_record(fabricate(tmp_path) / "gated_mlp-s2", status="running")
    job, fresh = start(SLEEP, "演示 demo"), start(SLEEP, "fresh")
    lines = {line.split("│")[1].strip(): line for line in memlm("ps").output.splitlines() if "│" in line}
    shown = lines["演示 demo"]
    for part in ("running", str(job.pid), "11/12 runs, gated_mlp-s2 step 200", str(job.log)):
        assert part in shown
    assert "preparing" in lines["fresh"]
    memlm("stop", "fresh")
    memlm("stop", "演示 demo")
    after = {line.split("│")[1].strip(): line for line in memlm("ps").output.splitlines() if "│" in line}
    assert "no run begun" in after["fresh"] and "failed" in after["fresh"]
    assert "11/12 runs, gated_mlp-s2 step 200" in after["演示 demo"] and "killed" in after["演示 demo"]
    assert re.search(r"│ \d+\.\d s ago +│", after["fresh"])
    assert fresh.state == "ended"


def test_ps_fits_a_narrow_terminal(start, tmp_path):
    job = start("pass")
    done = CliRunner().invoke(app, ["ps", "--runs", str(tmp_path)], env={"COLUMNS": "80"})
    assert max(map(len, done.output.splitlines())) <= 80
    assert str(job.pid) in done.output


def test_logs_shows_the_last_lines(memlm, start):
    job = start("pass")
    job.log.write_text("".join(f"line {number} 記憶\n" for number in range(100)))
    assert memlm("logs", "demo").output.splitlines() == [f"line {number} 記憶" for number in range(60, 100)]
    assert memlm("logs", "demo", "-n", "1").output == "line 99 記憶\n"


def test_logs_follows_until_the_job_ends(memlm, start):
    start("import time\nfor number in range(5): print(number); time.sleep(0.1)")
    done = memlm("logs", "demo", "-f")
    assert done.stdout.split() == ["0", "1", "2", "3", "4"]
    assert done.stderr == "demo has ended\n"


@pytest.mark.parametrize(("error", "is_calm"), [(Interrupted("SIGINT", 2), True), (Interrupted("SIGTERM", 15), False)])
def test_ctrl_c_is_the_way_to_stop_following(memlm, start, monkeypatch, error, is_calm):
    job = start(SLEEP)

    def interrupt(_seconds):
        raise error

    monkeypatch.setattr(jobs.time, "sleep", interrupt)
    if is_calm:
        assert memlm("logs", "demo", "-f").exit_code == 0
    else:
        with pytest.raises(Interrupted):
            memlm("logs", "demo", "-f")
    assert job.state == "running"


def test_stop_ends_a_sleeping_job(memlm, start):
    job = start(SLEEP)
    assert memlm("stop", "demo").output == f"demo (PID {job.pid}) has ended\n"
    assert job.state == "ended"
    assert memlm("stop", "demo").output == "demo had ended before\n"


def test_stop_says_that_a_job_is_still_there_and_how_to_kill_it(memlm, start, monkeypatch):
    monkeypatch.setattr(stop, "PATIENCE_S", 0.2)
    monkeypatch.setattr(stop, "FORCED_PATIENCE_S", 0.2)
    job = start("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); time.sleep(60)")
    while "deaf" not in job.log.read_text():
        pass
    with pytest.raises(RunError, match=r"demo \(PID \d+\) is still there .*memlm stop demo --force"):
        memlm("stop", "demo")
    assert "has ended" in memlm("stop", "demo", "--force").output


@pytest.mark.parametrize("command", ["logs", "stop"])
def test_an_unknown_name_gets_the_nearest(memlm, start, command):
    start("pass")
    with pytest.raises(RunError, match=r"unknown job 'demmo'\. Did you mean 'demo'"):
        memlm(command, "demmo")
