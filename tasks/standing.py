"""Where a migration stands, read from the ledger: what is done, what is next, what it waits for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from tasks.database.connection import Target, connect
from tasks.database.hours import work_of
from tasks.database.ledger import Connection, Ledger
from tasks.database.records import (
    ApprovalRecord,
    EventRecord,
    FailureSummary,
    GateRecord,
    Holder,
    MigrationRecord,
    PhaseRecord,
    ProgressRecord,
    StepRecord,
    ThrottleRecord,
)
from tasks.planning.fit import Work, obstacle
from tasks.planning.gates import GateResult
from tasks.planning.names import short_hash
from tasks.planning.plan import Gate, Phase, Plan, passed_the_point_of_no_return
from tasks.planning.states import MigrationState, PhaseState, StepState

SWITCH = "switch"
CONTRACT = "contract"
NO_THROTTLE = ThrottleRecord()
"""Nobody has paused the migration or changed its limits, and its runner has not looked at the server yet."""


@dataclass(frozen=True)
class Wait:
    """Why the next phase does not start: ``until`` is when a soak ends or a window opens, None: a person is needed."""

    reason: Literal["approval", "soak", "pause", "window"]
    subject: str
    question: str
    until: datetime | None = None


@dataclass(frozen=True)
class Standing:
    """One migration at one moment of the server's clock."""

    record: MigrationRecord
    phases: Mapping[str, PhaseRecord]
    steps: tuple[StepRecord, ...]
    approvals: tuple[ApprovalRecord, ...]
    gates: Mapping[tuple[str, str], GateRecord]
    """The latest result of every gate, by phase and gate."""
    progress: tuple[ProgressRecord, ...]
    failures: tuple[FailureSummary, ...]
    events: tuple[EventRecord, ...]
    holder: Holder | None
    now: datetime
    throttle: ThrottleRecord = NO_THROTTLE

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def plan(self) -> Plan:
        return self.record.plan

    @property
    def state(self) -> MigrationState:
        return self.record.state

    @property
    def next_phase(self) -> Phase | None:
        """The first phase that is not finished, gates included; None when all are."""
        return next((phase for phase in self.plan.phases if not self.finished(phase)), None)

    def finished(self, phase: Phase) -> bool:
        """Whether a phase is done, and its gates passed: only then is it marked so."""
        record = self.phases.get(phase.name)
        return record is not None and record.state is PhaseState.DONE

    def carried_out(self, phase: Phase) -> bool:
        """Whether the phase ran to the end of its steps without failing; its gate may still be due."""
        states = [step.state for step in self.steps if step.phase == phase.name]
        record = self.phases.get(phase.name)
        if record is None or record.state not in {PhaseState.RUNNING, PhaseState.DONE}:
            return False
        return all(state is StepState.DONE for state in states)

    def gate(self, phase: Phase, gate: Gate) -> GateRecord | None:
        """The latest result of a gate of a phase."""
        return self.gates.get((phase.name, gate.name))

    def begun(self, phase: Phase) -> bool:
        """Whether a step of the phase is done: what its gate before looked for is no longer so.

        Of contract one that cannot be undone. What it does before leaves both shapes as they are, and when it stops
        there, the application may write for weeks before somebody runs it again.
        """
        done = {step.step for step in self.steps if step.state is StepState.DONE}
        if phase.name == CONTRACT:
            return passed_the_point_of_no_return(phase, done)
        return any(step.id in done for step in phase.steps)

    def decision(self, subject: str) -> ApprovalRecord | None:
        """The latest decision on a subject."""
        return next((approval for approval in reversed(self.approvals) if approval.phase == subject), None)

    def approved(self, subject: str) -> bool:
        decision = self.decision(subject)
        return decision is not None and decision.decision == "approved"

    def needs_word(self, phase: str) -> bool:
        """Whether a phase waits, or will wait, for an approval that is not given yet."""
        return self.plan.phase(phase).approval is not None and not self.approved(phase)

    @property
    def when_resumed(self) -> Standing:
        """The same standing as if nobody had paused the migration."""
        return replace(self, throttle=NO_THROTTLE)

    def wait_before(self, phase: Phase) -> Wait | None:
        """What a phase waits for before it starts: that a pause ends, an approval, or the end of the soak."""
        if (wait := self._pause(phase)) is not None:
            return wait
        if self.begun(phase):
            return None  # the decision was made
        soaked_at = self.soaked_at
        if phase.name == CONTRACT and soaked_at is not None and self.now < soaked_at:
            return Wait("soak", phase.name, f"The soak ends at {soaked_at:%Y-%m-%d %H:%M %Z}.", soaked_at)
        if phase.approval is not None and self.needs_word(phase.name):
            return Wait("approval", phase.name, phase.approval.question)
        return None

    def wait_for_window(self, phase: Phase) -> Wait | None:
        """What keeps a heavy phase, its gate afterwards included, from working now, whether it has begun or not."""
        if not phase.heavy or self.plan.window is None or self.finished(phase):
            return None
        done = {step.step for step in self.steps if step.state is StepState.DONE}
        coming = next((step for step in phase.steps if step.id not in done), None)
        work = Work(f"The gate of {phase.name}")
        if coming is not None:
            work = work_of(coming, self.record, tuple(self.phases.values()), self.steps, self.events)
        found = obstacle(self.plan.window, work, self.now)
        return Wait("window", phase.name, found.why, found.until) if found is not None else None

    def wait_after(self, phase: Phase, gate: Gate) -> Wait | None:
        """What a gate that held with warnings waits for."""
        record = self.gate(phase, gate)
        if record is None or not record.result.warnings or not record.result.success:
            return None
        subject = gate_subject(record.result)
        if self.approved(subject):
            return None
        warnings = "; ".join(check.summary for check in record.result.warnings)
        return Wait("approval", subject, f"The gate {gate.name} warns: {warnings}. Go on?")

    @property
    def soaked_at(self) -> datetime | None:
        """When the soak ends; None when it never began, or was waived."""
        decision = self.decision(CONTRACT)
        waived = decision is not None and decision.decision == "approved" and decision.waive_soak
        if self.record.switched_at is None or waived:
            return None
        return self.record.switched_at + timedelta(seconds=self.plan.soak_seconds)

    @property
    def spec_folder(self) -> Path | None:
        """Where the spec was when it was planned, for the user's suites; None when it is not known."""
        folders = [event.detail.get("folder") for event in self.events if event.kind == "spec"]
        return Path(str(folders[-1])) if folders else None

    @property
    def was(self) -> MigrationState:
        """The state, or the one in which a cleaned migration ended, which its summary keeps."""
        summaries = [event.detail.get("state") for event in self.events if event.kind == "summary"]
        return MigrationState(str(summaries[-1])) if self.state is MigrationState.CLEANED and summaries else self.state

    @property
    def waits_for(self) -> Wait | None:
        """What keeps the migration from going on, None when nothing does."""
        phase = self.next_phase
        if phase is None:
            return None
        if (wait := self._pause(phase)) is not None:
            return wait
        for gate in (phase.gate_before, phase.gate_after):
            wait = self.wait_after(phase, gate) if gate is not None else None
            if wait is not None:
                return wait
        return self.wait_before(phase) or self.wait_for_window(phase)

    def _pause(self, phase: Phase) -> Wait | None:
        pause = self.throttle.pause
        return Wait("pause", phase.name, f"It is {pause}.") if pause is not None else None


def gate_subject(result: GateResult) -> str:
    """Return what an approval of a gate's warnings is recorded under.

    It names the checks that warned: the approval counts for a later evaluation too, unless another check joins.
    """
    return f"gate:{result.gate}:{short_hash(*sorted(check.check for check in result.warnings))}"


def standing_of(target: Target, name: str) -> Standing:
    """Read where a migration stands, in one snapshot. Raises UnknownMigration."""
    with connect(target, role="status") as connection, connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        return read_standing(connection, name)


def read_standing(connection: Connection, name: str) -> Standing:
    ledger = Ledger(connection)
    record = ledger.known_migration(name)
    return Standing(
        record=record,
        phases={phase.phase: phase for phase in ledger.phases(name)},
        steps=ledger.steps(name),
        approvals=ledger.approvals(name),
        gates={(gate.phase, gate.gate): gate for gate in ledger.gates(name)},
        progress=ledger.progress(name),
        failures=ledger.failures(name),
        events=ledger.events(name),
        holder=ledger.holder(name),
        now=ledger.now(),
        throttle=ledger.throttle(name),
    )


def losses(standing: Standing) -> tuple[str, ...]:
    """Return, as sentences, what `down` could not bring into the old shape. Counts and keys, no values."""
    found = [
        f"{failure.count:,} row(s) of {failure.table} hold a new value that `down` could not write: it will be lost "
        f"(keys: {', '.join(failure.sample[:5])})."
        for failure in standing.failures
        if failure.direction == "down"
    ]
    lossy = [note.text for note in standing.plan.notes if note.of_way_back]
    return (*found, *lossy)
