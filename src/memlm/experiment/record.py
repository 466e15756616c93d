"""Writing down what a run was: code, versions, device, settings, data, results. Free of torch at import."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import socket
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from memlm import __version__

PACKAGES = ("torch", "transformers", "accelerate", "tokenizers", "numpy")


def now() -> str:
    """Returns the time as ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def config_hash(config: dict[str, Any]) -> str:
    """Returns a fingerprint of settings that does not depend on their order."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def versions() -> dict[str, str | None]:
    """Returns the versions that a result depends on."""
    found: dict[str, str | None] = {"memlm": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


class CodeState(NamedTuple):
    """The code that runs: memlm's commit, if it is known, and its difference from that commit."""

    commit: str | None
    difference: str


def code_state() -> CodeState:
    """Returns memlm's commit and its uncommitted difference.

    Without a repository (an installed package, a copied tree) the commit is what ``MEMLM_COMMIT`` says, if anything.
    """
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return CodeState(os.environ.get("MEMLM_COMMIT"), "")
    commit = _git(root, "rev-parse", "HEAD")
    difference = _git(root, "diff", "HEAD")
    for name in _git(root, "ls-files", "--others", "--exclude-standard", "--", "src").splitlines():
        # A new memory is one new file, which git does not track yet.
        difference += _git(root, "diff", "--no-index", "/dev/null", name, codes=(0, 1))
    return CodeState(commit.strip() or None, difference)


def abbreviated(commit: str | None) -> str | None:
    """Returns git's own short form of a commit, which ``MEMLM_COMMIT`` may hold, so that both can be compared."""
    return commit and commit[:7]


def environment(code: CodeState) -> dict[str, Any]:
    """Returns the part of a record that says where and with what a run was made."""
    dirty = bool(code.difference)
    return {"host": socket.gethostname(), "commit": code.commit, "dirty": dirty, "versions": versions()}


def _git(root: Path, *arguments: str, codes: tuple[int, ...] = (0,)) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode in codes else ""
