"""What a gate found: the result of every check, without any value of a row."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from tasks.planning.plan import Part, Severity


class CheckResult(Part):
    """The outcome of one check; ``sample`` holds up to ten keys (hashed when personal) of failing units."""

    check: str
    title: str
    severity: Severity
    success: bool
    failing: int
    evaluated: int
    sample: tuple[str, ...] = ()
    observed: dict[str, str] = Field(default_factory=dict)
    error: str | None = None
    """SQLSTATE and condition name when the check itself could not be evaluated; that is a failure."""
    corruption: bool = False

    @property
    def summary(self) -> str:
        """One line for logs and tables, e.g. ``orphans: 3 of 200,000 rows fail, e.g. 17, 21, 40``."""
        if self.error:
            return f"{self.title}: could not be evaluated ({self.error})"
        if self.success:
            return f"{self.title}: holds for {self.evaluated:,}"
        sample = f", e.g. {', '.join(self.sample[:3])}" if self.sample else ""
        return f"{self.title}: {self.failing:,} of {self.evaluated:,} fail{sample}"


class GateResult(Part):
    """The outcome of one gate. ``success`` is decided by the CRITICAL checks; ``warnings`` wait for an approval."""

    gate: str
    phase: str
    started_at: datetime
    finished_at: datetime
    checks: tuple[CheckResult, ...]
    docs: str | None = None
    """Path of the Data Docs page of this run."""

    @property
    def critical(self) -> tuple[CheckResult, ...]:
        return tuple(check for check in self.checks if not check.success and check.severity == "CRITICAL")

    @property
    def warnings(self) -> tuple[CheckResult, ...]:
        return tuple(check for check in self.checks if not check.success and check.severity == "WARNING")

    @property
    def success(self) -> bool:
        """Fails closed: a gate that evaluated nothing did not succeed."""
        return bool(self.checks) and not self.critical

    @property
    def corruption(self) -> bool:
        return any(check.corruption for check in self.critical)
