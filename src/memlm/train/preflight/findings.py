"""What a preflight finds: faults, the outcome of each check, and the report of all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from memlm.config.checks import Check, FaultName
from memlm.errors import PreflightError, counted

Status = Literal["passed", "declared", "skipped", "failed"]


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a model.

    Attributes:
        fault: Its name.
        module: Qualified name of the module in which it shows first, e.g. ``decoder.blocks.1.memory``.
        evidence: What was measured.
        cause: What is likely wrong, and how to mend it.
    """

    fault: FaultName
    module: str
    evidence: str
    cause: str

    def __str__(self) -> str:
        return f"{self.fault} in {self.module}: {self.evidence}; {self.cause}"


@dataclass(frozen=True)
class Outcome:
    """How one check ended.

    Attributes:
        check: The check.
        status: ``declared`` if all that was found is declared by the memory or the fusion.
        seconds: Time that it took.
        reason: Why it was skipped, or what was declared.
        faults: What was found, declared or not.
    """

    check: Check
    status: Status
    seconds: float = 0.0
    reason: str = ""
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True)
class Report:
    """The outcome of every check.

    Attributes:
        outcomes: One for each check, in order.
        remembered: Nothing was run: the same code had passed before with the same configuration.
    """

    outcomes: tuple[Outcome, ...]
    remembered: bool = False

    @property
    def faults(self) -> list[Fault]:
        """What nobody declared."""
        return [fault for outcome in self.outcomes if outcome.status == "failed" for fault in outcome.faults]

    @property
    def seconds(self) -> float:
        """Time that the checks took."""
        return sum(outcome.seconds for outcome in self.outcomes)

    def summary(self) -> str:
        """Returns how many checks ended how, in one line."""
        counts = Counter(outcome.status for outcome in self.outcomes)
        told = ", ".join(f"{count} {status}" for status, count in counts.items())
        return f"{told} ({'remembered' if self.remembered else f'{self.seconds:.1f} s'})"

    def as_dict(self) -> dict[str, Any]:
        """Returns the report as a record keeps it."""
        checks = [
            {**asdict(outcome), "faults": [asdict(fault) for fault in outcome.faults]} for outcome in self.outcomes
        ]
        return {"remembered": self.remembered, "seconds": self.seconds, "checks": checks}

    @classmethod
    def from_dict(cls, record: dict[str, Any], remembered: bool = False) -> Report:
        """Returns the report that `as_dict` gave.

        Raises:
            KeyError, TypeError: ``record`` is no such thing.
        """
        return cls(
            tuple(
                Outcome(**{**item, "faults": tuple(Fault(**f) for f in item["faults"])}) for item in record["checks"]
            ),
            remembered,
        )


def require(reports: Mapping[str, Report]) -> None:
    """Refuses models with a fault.

    Args:
        reports: What was found of each, by variant.

    Raises:
        PreflightError: with one line a fault.
    """
    faults = {variant: report.faults for variant, report in reports.items() if report.faults}
    if not faults:
        return
    n_faults = sum(len(found) for found in faults.values())
    lines = [f"\n  {variant}: {fault}" for variant, found in faults.items() for fault in found]
    count = counted(n_faults, "fault")
    raise PreflightError(f"the preflight found {count}, nothing was trained{''.join(lines)}")
