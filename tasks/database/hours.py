"""The hours of a heavy phase: steps are admitted by the plan's window and the server's clock, and stop at its end.

A backfill asks between two batches. A statement that cannot be interrupted gets a timeout that ends with the window;
what the server then cancels is no failure: the phase waits for the next opening.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol

from tasks.database.lease import Lease
from tasks.database.ledger import Ledger
from tasks.database.records import EventRecord, MigrationRecord, PhaseRecord, StepRecord
from tasks.planning.errors import Waiting
from tasks.planning.fit import Measured, Work, closed, expected_seconds, obstacle, waiting
from tasks.planning.plan import IN_BATCHES, Phase, Plan, Step
from tasks.planning.states import StepState
from tasks.planning.windows import Window

CUT = "window_closed"
"""The event of a step that the end of a window stopped; ``seconds``: how long it had run."""
ASK_SECONDS = 1.0
"""How often the server is asked for its clock between batches; in between this process's own one counts on."""
CLOSING_SECONDS = 0.5
"""A statement that is cancelled so shortly before the window closes was cancelled by its timeout."""


class Hours(Protocol):
    """When a step may work."""

    def admit(self, step: Step) -> None:
        """Raise Waiting unless the step may begin now."""

    def check(self, rest: str = "") -> None:
        """Raise Waiting if the admitted step has to stop now; ``rest`` is a sentence about what is left of it."""

    def limit(self, milliseconds: int) -> int:
        """Return a statement's timeout (0: none), so that it ends with the hours. Raises Waiting when they are over."""

    def left(self) -> float:
        """Return how many seconds are left."""

    def ended(self) -> Waiting | None:
        """Return why the admitted step was cancelled if it was for the end of the hours, and record that."""


class AnyTime:
    """No window, or one that is ignored."""

    def admit(self, step: Step) -> None: ...

    def check(self, rest: str = "") -> None: ...

    def limit(self, milliseconds: int) -> int:
        return milliseconds

    def left(self) -> float:
        return math.inf

    def ended(self) -> Waiting | None:
        return None


class WindowHours:
    """The hours of one heavy phase of a plan with a window, by the server's clock."""

    def __init__(self, lease: Lease, plan: Plan, phase: Phase, window: Window) -> None:
        self._lease = lease
        self._plan = plan
        self._phase = phase
        self._window = window
        self._clock: datetime | None = None
        self._asked = 0.0
        self._admitted = ("", 0.0)

    def admit(self, step: Step) -> None:
        ledger = self._ledger()
        work = work_of(
            step, ledger.known_migration(self._plan.name), ledger.phases(self._plan.name),
            ledger.steps(self._plan.name), ledger.events(self._plan.name),
        )  # fmt: skip
        found = obstacle(self._window, work, self._ask())
        if found is not None:
            raise waiting(self._plan.name, self._plan.database, self._phase.name, found)
        self._admitted = (step.id, time.monotonic())

    def check(self, rest: str = "") -> None:
        if self.left() <= 0 and self._window.opening_at(self._ask()) is None:
            self._record()
            raise self._closed(rest)

    def limit(self, milliseconds: int) -> int:
        self.check()
        left = math.ceil(self.left() * 1000)
        return min(milliseconds, left) if milliseconds else left

    def left(self) -> float:
        now = self._now()
        opening = self._window.opening_at(now)
        return (opening.closes - now).total_seconds() if opening is not None else 0.0

    def ended(self) -> Waiting | None:
        now = self._ask() + timedelta(seconds=CLOSING_SECONDS)
        if self._window.opening_at(now) is not None:
            return None
        self._record()
        return self._closed("")

    def _closed(self, rest: str) -> Waiting:
        found = closed(self._window, rest, self._ask())
        return waiting(self._plan.name, self._plan.database, self._phase.name, found)

    def _record(self) -> None:
        step, began = self._admitted
        detail = {"phase": self._phase.name, "step": step, "seconds": round(time.monotonic() - began, 3)}
        self._ledger().event(self._plan.name, CUT, detail)

    def _now(self) -> datetime:
        since = time.monotonic() - self._asked
        if self._clock is None or since > ASK_SECONDS:
            return self._ask()
        return self._clock + timedelta(seconds=since)

    def _ask(self) -> datetime:
        self._clock, self._asked = self._ledger().now(), time.monotonic()
        return self._clock

    def _ledger(self) -> Ledger:
        return Ledger(self._lease.session("ledger"), fence=self._lease.fence)


def hours_of(lease: Lease, plan: Plan, phase: Phase) -> Hours:
    """Return the hours of a phase: those of the plan's window where it is heavy."""
    return WindowHours(lease, plan, phase, plan.window) if phase.heavy and plan.window is not None else AnyTime()


def work_of(
    step: Step, migration: MigrationRecord, phases: Sequence[PhaseRecord], steps: Sequence[StepRecord],
    events: Sequence[EventRecord],
) -> Work:  # fmt: skip
    """Return what a step asks of a window, by its forecast and by what the ledger knows of this migration's run."""
    cuts = [
        float(event.detail.get("seconds", 0.0))
        for event in events
        if event.kind == CUT and event.detail.get("step") == step.id and event.at >= migration.created_at
    ]
    return Work(
        title=f"Step {step.id}",
        seconds=expected_seconds(step, measured(migration.plan, phases, steps)),
        cut_after=0.0 if isinstance(step.action, IN_BATCHES) else max(cuts, default=0.0),
    )


def measured(plan: Plan, phases: Sequence[PhaseRecord], steps: Sequence[StepRecord]) -> tuple[Measured, ...]:
    """Return how long the steps took that are done, except those that began in an earlier attempt and waited since."""
    planned = {step.id: step for phase in plan.phases for step in phase.steps}
    began = {phase.phase: phase.started_at for phase in phases}
    return tuple(
        Measured(planned[record.step], (record.finished_at - record.started_at).total_seconds())
        for record in steps
        if record.state is StepState.DONE
        and record.started_at is not None
        and record.finished_at is not None
        and (attempt := began.get(record.phase)) is not None
        and record.started_at >= attempt
    )
