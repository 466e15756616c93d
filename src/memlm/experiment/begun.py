"""What an earlier call has left in an experiment's folder, and refusals of what would mix with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memlm.config.train import OWN
from memlm.errors import RunError
from memlm.experiment.config import ExperimentConfig
from memlm.experiment.files import Tree, checked, read_yaml
from memlm.experiment.models import database_fingerprint
from memlm.experiment.paths import inside
from memlm.experiment.reading import Run, listed, read_run
from memlm.experiment.record import config_hash
from memlm.experiment.schema import Record, run_name
from memlm.experiment.settings import COMMON, differing
from memlm.train.checkpoint import checkpoints


def refuse_other_settings(config: ExperimentConfig, folder: Path) -> None:
    """Refuses to mix runs of different settings in one folder, before anything is run."""
    for variant in config.variants:
        for seed in config.seeds:
            run = folder / run_name(variant, seed)
            if reason := _other_settings(run, config.run_config(variant, seed)):
                what = "finished run" if last_record(run).get("status") == "finished" else "run to be continued"
                raise RunError(
                    f"{run} is a {what} with other settings ({reason}); give this experiment another name "
                    "(-o name=...), or remove that folder"
                )


def _other_settings(run: Path, settings: Tree) -> str | None:
    """Says why a folder holds something worth keeping that was not made with these settings; None: it does not."""
    hashes = {owner.get("config_hash") for owner in owners_of(run)}
    if not hashes:
        return None
    path = run / "config.yaml"
    if not path.exists() and hashes == {config_hash(settings)}:
        return None
    try:
        recorded = read_yaml(inside(run, path.name))
    except RunError as error:
        return str(error)
    if hashes != {config_hash(recorded)}:
        return "its config.yaml was changed since"
    return listed(differing(recorded, settings)) or None


def refuse_strangers(config: ExperimentConfig, folder: Path) -> None:
    """Refuses a folder with runs of other seeds or variants that were made with other settings."""
    planned = {run_name(variant, seed) for variant in config.variants for seed in config.seeds}
    for record in sorted(folder.glob("*/record.json")):
        if record.parent.name in planned:
            continue
        try:
            run = read_run(record.parent)
        except RunError:
            continue  # compare tells of it
        if differences := _differing(config, run):
            raise RunError(
                f"{run.folder} was run with other settings ({listed(differences)}), and an experiment has one; give "
                "this one another name (-o name=...), or remove that folder"
            )


def _differing(config: ExperimentConfig, run: Run) -> list[str]:
    """Returns where a run is none of this experiment's; an unknown variant may have its own model and training."""
    variant = run.record.variant
    if variant in config.variants:
        return differing(run.config, config.run_config(variant, run.record.seed))
    ours = {"data": config.data, "train": config.train, "evaluate": config.evaluate}
    settings = {name: section.model_dump(mode="json") for name, section in ours.items()}
    differences = differing({name: run.config.get(name) for name in COMMON}, settings)
    return [path for path in differences if path not in {f"train.{name}" for name in OWN}]


def owners_of(run: Path) -> list[dict[str, str]]:
    """Returns settings and text, as hashes, of everything in a run's folder that is worth keeping."""
    record = last_record(run)
    owners = [checkpoint.owner for checkpoint in checkpoints(run) if checkpoint.owner]
    return [*owners, record["owner"]] if "owner" in record else owners


def last_record(folder: Path) -> dict[str, Any]:
    """Returns what the last attempt at a run recorded; nothing if there was none.

    A record that cannot be read, or has fields of other kinds, is nothing as well if checkpoints tell whose they are.

    Raises:
        RunError: it cannot be read, and what else is there could be a finished run.
    """
    path = folder / "record.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        checked(Record, record, path)
        if record.get("status") == "finished" or record.get("trained"):
            record = record | {"owner": {"config_hash": record["config_hash"], "data": record["data"]["fingerprint"]}}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError, RunError) as error:
        if any(checkpoint.owner and checkpoint.has_state for checkpoint in checkpoints(folder)):
            return {}
        reason = getattr(error, "strerror", None) or "it is damaged"
        raise RunError(f"{path}: cannot be read ({reason}); mend it, or remove that folder to run it again") from None
    return record


def refuse_other_database(config: ExperimentConfig, variant: str, folder: Path, before: dict[str, Any]) -> None:
    """Refuses a run whose bank was filled from what the file of its database no longer holds."""
    data: Tree = before.get("data") or {}
    if data.get("database") != database_fingerprint(config, variant):
        raise RunError(
            f"{folder} was filled from another database (the file has changed since); bring it back, or give this "
            "experiment another name (-o name=...)"
        )


def refuse_other_text(folder: Path, owners: Sequence[Mapping[str, str]], fingerprint: str) -> None:
    """Refuses a run whose folder has what was made of other text, by `owners_of` it."""
    if any(owner.get("data") != fingerprint for owner in owners):
        raise RunError(
            f"{folder} was run on other text (the corpus has changed since); give this experiment another name "
            "(-o name=...), or remove that folder"
        )
