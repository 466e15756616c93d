"""Kills a run again and again, lets it go on, and compares what it gives with a run that nobody touched.

A program of its own, `python -m tests.resume.kills CONFIG FOLDER KILLS SEED`: it imports everything once and forks, so
that a killed process costs milliseconds instead of an import of torch. Prints a JSON summary.

Half of the kills fall at a random moment. The other half fall before the n-th operation on the run's files (open,
rename, remove, ...), which a random moment would seldom meet: most of them lie inside a save.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from memlm.config.train import TrainConfig
from memlm.data.prepare import prepare
from memlm.experiment.config import ExperimentConfig, load_experiment
from memlm.experiment.run import run_experiment
from memlm.storage import sha256

OPERATIONS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}
TIMES = {"time_s", "train/tokens_per_s", "train/peak_memory_gib"}
"""What two runs of the same bits need not share."""


def start(config: ExperimentConfig, root: Path, kill_before: int | None = None) -> int:
    """Runs the experiment in a child, which kills itself before file operation number ``kill_before``; its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        log = os.open(root.parent / "children.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1), os.dup2(log, 2)
        count = [0]

        def watch(event, arguments):
            if event in OPERATIONS and arguments and str(root) in str(arguments[0]):
                count[0] += 1
                if count[0] == kill_before:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        run_experiment(config, root, progress=False)
        (root.parent / "operations").write_text(str(count[0]))
        code = 0
    finally:
        os._exit(code)


def wait(child: int, kill_after: float | None = None) -> str:
    """Waits for a child, kills it after some seconds if asked to; returns finished, killed or failed."""
    deadline = None if kill_after is None else time.monotonic() + kill_after
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            break
        if deadline is not None and time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            deadline = None
        time.sleep(0.002)
    if os.WIFSIGNALED(status):
        return "killed"
    return "finished" if os.WEXITSTATUS(status) == 0 else "failed"


def outcome(folder: Path) -> dict[str, object]:
    """Returns all that a finished run measured and learned, apart from times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    record = json.loads((folder / "record.json").read_text())
    results = record["results"]
    return {
        "status": record["status"],
        "alarms": record["alarms"],
        "metrics": [{key: value for key, value in line.items() if key not in TIMES} for line in lines],
        "results": {k: v for k, v in results.items() if not k.endswith(("_s", "_gib"))},
        "samples": json.loads((folder / "samples.json").read_text()),
        "weights": sha256(folder / "checkpoint" / "model.safetensors"),
        "leftovers": sorted(path.name for path in folder.glob(".*")),
    }


def torture(config: ExperimentConfig, folder: Path, kills: int, seed: int) -> dict[str, object]:
    """Returns how many kills were survived, how many fell inside a save, and what was lost."""
    draw = random.Random(seed)
    prepare(config.data, progress=False)
    (name,) = (f"{variant}-s{s}" for variant in config.variants for s in config.seeds)
    began = time.monotonic()
    assert wait(start(config, folder / "untouched")) == "finished", (folder / "children.log").read_text()
    duration = time.monotonic() - began
    operations = int((folder / "operations").read_text())
    expected = outcome(folder / "untouched" / config.name / name)

    survived = in_saves = runs = 0
    differing: list[str] = []
    while survived < kills:
        root = folder / f"killed-{runs}"
        while survived < kills:
            by_operation = survived % 2 == 0
            child = start(config, root, draw.randint(1, operations // 2) if by_operation else None)
            ended = wait(child, None if by_operation else draw.uniform(0.05, 0.6) * duration)
            assert ended != "failed", (folder / "children.log").read_text()
            if ended == "finished":
                break
            survived += 1
            in_saves += any((root / config.name / name).glob(".checkpoint*"))
        assert wait(start(config, root)) == "finished", (folder / "children.log").read_text()
        found = outcome(root / config.name / name)
        differing += [f"{root.name}: {key}" for key in expected if found[key] != expected[key]]
        runs += 1
    return {"kills": survived, "in_saves": in_saves, "runs": runs, "differing": differing}


if __name__ == "__main__":
    path, folder, kills, seed = sys.argv[1:]
    assert TrainConfig.model_fields["save_every"].default, "checkpoints are written by default"
    print(json.dumps(torture(load_experiment(path), Path(folder), int(kills), int(seed))))
