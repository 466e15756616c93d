"""Background jobs: an experiment in a process of its own, which outlives the terminal that started it.

A job is the file ``job.json`` in the experiment's folder. Whether it still runs is asked of the system each time, by
process id and start time, so neither a crash nor a process id that was used again can make the file lie.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, cast

import psutil
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from memlm.errors import RunError
from memlm.experiment.files import parse_json
from memlm.experiment.locks import alone
from memlm.experiment.paths import inside, is_plain
from memlm.experiment.record import now
from memlm.experiment.schema import Number
from memlm.registry import unknown
from memlm.storage import write_json

logger = logging.getLogger(__name__)

State = Literal["running", "ended", "elsewhere"]

RECORD = "job.json"
LOG = "run.log"
# -u: the log is followed while it is written. -P: a folder named like a package, beside which the user happens to work
# (wandb, datasets), is not imported, as it is not by the `memlm` command.
PROGRAM = (sys.executable, "-u", "-P", "-m", "memlm.cli.main", "run")
# A start time is derived from the system's clock, which may be set between two looks at it.
CLOCK_SLACK_S = 2.0
POLL_S = 0.1
KILL_S = 5.0
BLOCK = 1 << 16


def _check_time(text: str) -> str:
    try:
        datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise ValueError("started is no time") from None
    return text


@dataclass(frozen=True)
class Job:
    """A process that runs, or ran, an experiment in the background.

    Attributes:
        folder: The experiment's folder.
        pid: The process.
        created: When the system says that the process was created; seconds since 1970.
        command: Program and arguments.
        started: The same moment as ISO 8601, UTC.
        host: The machine that the process id belongs to.
    """

    folder: Path
    pid: Annotated[int, Field(gt=0, lt=2**31)]
    created: Number
    command: list[str]
    started: Annotated[str, AfterValidator(_check_time)]
    host: str

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.folder.name

    @property
    def log(self) -> Path:
        """The file that takes all that the process prints."""
        return self.folder / LOG

    @property
    def state(self) -> State:
        """What it does right now; ``elsewhere`` if another machine started it, which alone can tell."""
        if self.process() is not None:
            return "running"
        # A machine may be renamed while a job runs on it, so the name counts only if the process is not found.
        return "ended" if self.host == socket.gethostname() else "elsewhere"

    def process(self) -> psutil.Process | None:
        """Returns the process if it runs on this machine; a later process with the same id is not it."""
        try:
            process = psutil.Process(self.pid)
            is_same = abs(process.create_time() - self.created) < CLOCK_SLACK_S
            is_alive = is_same and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        except psutil.Error:
            return None
        return process if is_alive else None


def start_detached(arguments: Sequence[str], experiment_folder: Path, program: Sequence[str] = PROGRAM) -> Job:
    """Starts a program in the background, in a session of its own, its output appended to the experiment's log.

    Args:
        arguments: What follows the program on its command line.
        experiment_folder: Made if it is missing; takes ``run.log`` and ``job.json``.
        program: What is started; `memlm run` by this interpreter if not given.

    Raises:
        RunError: a job of this experiment is still alive, the folder cannot be written, its log is a link out of it, or
            the system is Windows.
    """
    if sys.platform == "win32":
        raise RunError("--detach is not available on Windows; run in the foreground")
    try:
        experiment_folder.mkdir(parents=True, exist_ok=True)
        log = inside(experiment_folder, LOG).open("ab")
    except OSError as error:
        raise RunError(f"{experiment_folder}: cannot be written ({error.strerror}); choose another --runs") from error
    busy = f"{experiment_folder}: another command is starting a job here; see: memlm ps"
    with log, alone(log, experiment_folder, busy):
        _refuse_second(experiment_folder)
        command = [*program, *arguments]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            created = psutil.Process(process.pid).create_time()
            job = Job(experiment_folder, process.pid, created, command, now(), socket.gethostname())
            write_json(experiment_folder / RECORD, _as_record(job))
        except BaseException:
            process.kill()  # a job that left no record could be neither seen nor stopped
            raise
    return job


def read_job(folder: Path) -> Job | None:
    """Returns an experiment's latest job, None if it never had one.

    Raises:
        RunError: its record is broken, or a link out of the folder.
    """
    path = inside(folder, RECORD)
    try:
        fields = cast("dict[str, object]", parse_json(path.read_text(encoding="utf-8")))
        return _adapter().validate_python({**fields, "folder": folder})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:  # a ValidationError is a ValueError
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise RunError(f"{path}: is no record of a job ({reason}); remove it") from error


def list_jobs(root: Path) -> list[Job]:
    """Returns the jobs of all experiments in the folder ``root``, by name; a broken record is logged and left out."""
    jobs: list[Job] = []
    for path in sorted(root.glob(f"*/{RECORD}")):
        try:
            job = read_job(path.parent)
        except RunError as error:
            logger.warning("%s", error)
            continue
        if job is not None:
            jobs.append(job)
    return jobs


def find_job(root: Path, name: str) -> Job:
    """Returns an experiment's latest job.

    Raises:
        RunError: there is none; the message names the nearest.
    """
    # Only a plain name: `root / name` would leave the folder for a name such as `..`.
    job = read_job(root / name) if is_plain(name) else None
    if job is not None:
        return job
    known = [job.name for job in list_jobs(root)]
    if not known:
        raise RunError(f"{root}: no background jobs here; start one with: memlm run CONFIG --detach --runs {root}")
    raise RunError(f"{root}: {unknown('job', name, known)}")


def stop(job: Job, timeout: float, force: bool = False) -> bool:
    """Asks a job to end and waits for it.

    Args:
        job: It may have ended already.
        timeout: Seconds that it has to end by itself: it finishes its step and its record first.
        force: Kill it, and the processes that it started, if it has not ended by then.

    Returns:
        Whether it has ended.

    Raises:
        RunError: it runs on another machine, or belongs to somebody else.
    """
    if job.state == "elsewhere":
        raise RunError(f"{job.name} was started on {job.host}; stop it there")
    process = job.process()
    if process is None:
        return True
    try:
        process.send_signal(signal.SIGTERM)
        if _ends_within(job, timeout):
            return True
        if force:
            # Whose parent is gone can no longer be told, so children are looked up first.
            for member in [*process.children(recursive=True), process]:
                member.kill()
    except psutil.NoSuchProcess:
        pass  # it ended in between
    except psutil.AccessDenied:
        raise RunError(f"{job.name} (PID {job.pid}) belongs to another user, who must stop it") from None
    return _ends_within(job, KILL_S if force else 0.0)


def read_log(job: Job, n_lines: int, follow: bool = False) -> Iterator[bytes]:
    """Yields the last lines of a job's log as they are, and what is added to it.

    Args:
        job: Whose log.
        n_lines: Number of lines from the end to begin with.
        follow: Go on until the job has ended and all that it wrote was yielded.

    Raises:
        RunError: there is no log, or it is a link out of the folder.
    """
    try:
        file = inside(job.folder, LOG).open("rb")
    except OSError as error:
        raise RunError(f"{job.log}: cannot be read ({error.strerror})") from error
    with file:
        yield tail(file, n_lines)
        while follow:
            # Asked before reading, so that the last words of a job that ends in between are still read.
            is_running = job.process() is not None
            added = file.read(BLOCK)
            if added:
                yield added
            elif is_running:
                time.sleep(POLL_S)
            else:
                return


def _as_record(job: Job) -> dict[str, object]:
    return {
        "format": 1,
        "pid": job.pid,
        "created": job.created,
        "host": job.host,
        "command": job.command,
        "log": str(job.log.resolve()),
        "started": job.started,
    }


@lru_cache
def _adapter() -> TypeAdapter[Job]:
    return TypeAdapter(Job)


def _refuse_second(folder: Path) -> None:
    job = read_job(folder)
    if job is None or job.state == "ended":
        return
    if job.state == "elsewhere":
        raise RunError(
            f"{folder}: a job was started on {job.host}, and only there can be told whether it still runs; "
            f"remove {folder / RECORD} if it does not"
        )
    raise RunError(
        f"{folder}: a job of this experiment is running (PID {job.pid}, since {job.started}); "
        f"end it first with: memlm stop {job.name} --runs {folder.parent}"
    )


def _ends_within(job: Job, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while job.process() is not None:
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


def tail(file: BinaryIO, n_lines: int) -> bytes:
    """Returns the last lines of a file, and leaves it at the end of what was read."""
    end = start = file.seek(0, os.SEEK_END)
    tail = b""
    while start > 0 and tail.count(b"\n") <= n_lines:
        length = min(BLOCK, start)
        start -= length
        file.seek(start)
        tail = file.read(length) + tail
    file.seek(end)
    lines = io.BytesIO(tail).readlines()  # bytes.splitlines would also split at the \r of a progress bar
    return b"".join(lines[max(0, len(lines) - n_lines) :])
