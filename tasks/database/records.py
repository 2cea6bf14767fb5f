"""What the ledger's tables hold, as frozen values."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from tasks.planning.gates import GateResult
from tasks.planning.plan import Part, Plan
from tasks.planning.states import MigrationState, PhaseState, StepState
from tasks.planning.throttle import Load

Decision = Literal["approved", "rejected"]


class MigrationRecord(Part):
    """A migration; ``token`` is the fencing token, ``switched_at`` when the new application was let in."""

    name: str
    state: MigrationState
    plan: Plan
    spec: str
    change_hash: str
    token: int
    switched_at: datetime | None
    created_at: datetime
    updated_at: datetime
    error: str | None


class PhaseRecord(Part):
    phase: str
    position: int
    state: PhaseState
    attempts: int
    started_at: datetime | None
    finished_at: datetime | None
    error: str | None


class StepRecord(Part):
    """A step; ``undone`` counts the undo actions that are committed while it is being undone."""

    phase: str
    step: str
    position: int
    state: StepState
    undone: int
    started_at: datetime | None
    finished_at: datetime | None


class ProgressRecord(Part):
    """How far a backfill is; ``cursor`` is the last key behind which every row was visited, as text."""

    step: str
    cursor: tuple[str, ...] | None
    rows_done: int
    rows_total: int | None
    updated_at: datetime


class GateRecord(Part):
    phase: str
    gate: str
    success: bool
    result: GateResult
    at: datetime


class ApprovalRecord(Part):
    phase: str
    decision: Decision
    who: str
    why: str
    waive_soak: bool
    at: datetime


class EventRecord(Part):
    id: int
    at: datetime
    kind: str
    detail: dict[str, Any]


class ByHandRecord(Part):
    """How many steps of a migration the scripts of its runbook have begun, and not taken back."""

    steps: int


class ThrottleRecord(Part):
    """What people asked of a migration while it runs, and what its runner last saw of the server.

    ``limits`` are those that differ from the plan's, as they are written; ``reasons`` say why it waits, ``since`` when.
    """

    limits: dict[str, Any] = Field(default_factory=dict)
    paused_at: datetime | None = None
    paused_by: str | None = None
    paused_why: str | None = None
    reasons: tuple[str, ...] = ()
    since: datetime | None = None
    load: Load | None = None
    looked_at: datetime | None = None

    @property
    def pause(self) -> str | None:
        """Return who paused the migration, when and why; None when it is not paused."""
        if self.paused_at is None:
            return None
        why = f": {self.paused_why}" if self.paused_why else ""
        return f"paused by {self.paused_by} since {self.paused_at:%Y-%m-%d %H:%M %Z}{why}"


class FailureSummary(Part):
    """Open sync failures of one table; ``sample`` has up to ten keys (md5 where the key is personal)."""

    table: str
    direction: Literal["up", "down"]
    kind: Literal["failure", "conflict"]
    count: int
    sample: tuple[str, ...]


class Holder(Part):
    """Who holds a migration's lease; ``remaining`` seconds by the server's clock."""

    token: int
    host: str
    pid: int
    started_at: datetime
    since: datetime
    expires_at: datetime
    expired: bool
    remaining: float

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since:%Y-%m-%d %H:%M:%S %Z}"
