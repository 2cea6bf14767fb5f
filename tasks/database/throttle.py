"""Holds the work back while the server suffers, and ends it when somebody has paused the migration.

Asked between batches and before steps, when no lock is held and no transaction is open. The ledger is read about once
a second, so a pause and changed limits are noticed within one or two; the server is looked at as often, or less often
where a look is not cheap. However long a limit is exceeded, the work waits, and says so: the lease stays alive.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg
from psycopg.rows import TupleRow

from tasks.database.gauge import Gauge, Work
from tasks.database.lease import Lease
from tasks.database.ledger import Ledger
from tasks.planning.errors import Waiting
from tasks.planning.plan import IN_BATCHES, BuildIndex, Plan, Step
from tasks.planning.throttle import Load, reasons

LOOK_SECONDS = 1.0
COST = 20
"""A look may cost one part in so many of the time; a slow one (own SQL) is made less often."""
LONGEST_INTERVAL = 30.0
RECORD_SECONDS = 5.0
"""How often the ledger is told what is seen, unless the reasons change."""
FAILING_SECONDS = 300.0
"""A question that fails for so long is no load that passes: the migration is paused, for somebody to repair it."""

Connection = psycopg.Connection[TupleRow]
Hold = Callable[[str], None]
"""Told every second why the work waits; with an empty text when it goes on."""


class Throttle:
    """The throttle of one runner. Sessions come from its lease: ``throttle``, which it shares with nobody."""

    def __init__(self, lease: Lease, plan: Plan) -> None:
        self._lease = lease
        self._plan = plan
        self._gauge = Gauge()
        self._limits = plan.throttle
        self._load = Load()
        self._work = Work()
        self._step: Step | None = None
        self._waiting: tuple[str, ...] = ()
        self._recorded: tuple[tuple[str, ...], float] = ((), 0.0)
        self._look_at = self._measure_at = 0.0
        self._free_at = 0.0
        self._failing_since: float | None = None

    @property
    def most_rows(self) -> int | None:
        """Return how many rows a batch may have, so that a second's worth is not done at once; None: any number."""
        return self._limits.rows_per_second

    def before_step(self, step: Step, hold: Hold) -> None:
        """Return when a step may begin: at once, or where it works for long, when no limit is exceeded.

        Raises Waiting when the migration is paused.
        """
        self._step = step
        if isinstance(step.action, (*IN_BATCHES, BuildIndex)):
            self._look_at = self._measure_at = 0.0
            self._wait(hold)
        else:
            self._read()

    def begin(self, step: Step, table: str, table_rows: int) -> None:
        """Note which step writes from now on, and which table's rows, of about how many."""
        self._step = step
        self._work = Work(table=table, table_rows=table_rows, written=self._work.written)
        self._free_at = time.monotonic()

    def between(self, written: int, unvacuumed: int, hold: Hold) -> None:
        """Return when the next batch may begin, after one that wrote ``written`` rows.

        ``unvacuumed``: rows written since the VACUUM that still runs began. Raises Waiting when the migration is
        paused, LeaseLost, and psycopg's errors.
        """
        self._work = Work(self._work.table, self._work.table_rows, self._work.written + written, unvacuumed)
        if self._limits.rows_per_second:
            self._free_at = max(self._free_at, time.monotonic() - LOOK_SECONDS) + written / self._limits.rows_per_second
        self._wait(hold)

    def end(self) -> None:
        """Note in the ledger that nothing waits any more."""
        if self._waiting:
            self._waiting = ()
            self._record()

    # --- waiting -------------------------------------------------------------------------------------------------

    def _wait(self, hold: Hold) -> None:
        held = False
        while True:
            if time.monotonic() >= self._look_at:
                self._look()
            wait = LOOK_SECONDS if self._waiting else self._free_at - time.monotonic()
            if wait <= 0:
                break
            if self._waiting:
                held = True
                hold("; ".join(self._waiting))
            time.sleep(min(wait, LOOK_SECONDS))
        if held:
            hold("")

    def _look(self) -> None:
        self._lease.check()
        self._read()
        began = time.monotonic()
        if began >= self._measure_at:
            self._load = self._gauge.look(self._session(), self._work, self._limits.sql)
            now = time.monotonic()
            self._measure_at = now + min(LONGEST_INTERVAL, max(LOOK_SECONDS, COST * (now - began)))
            self._give_up_on_questions(now)
        # With the limits of this moment, also where the server was last looked at before they changed.
        self._waiting = reasons(self._limits, self._load)
        if not self._waiting:
            self._gauge.rest()
        self._look_at = time.monotonic() + LOOK_SECONDS
        if self._recorded[0] != self._kinds() or self._look_at - self._recorded[1] >= RECORD_SECONDS:
            self._record()

    def _read(self) -> None:
        """Take up what people asked for meanwhile. Raises Waiting when that is a pause."""
        asked = Ledger(self._session()).throttle(self._plan.name)
        if asked.pause is not None:
            raise paused(self._plan.name, self._plan.database, self._phase(), asked.pause)
        limits = self._plan.throttle.changed(asked.limits) if asked.limits else self._plan.throttle
        if limits != self._limits:
            self._limits = limits
            self._free_at = time.monotonic()
            self._measure_at = 0.0

    def _give_up_on_questions(self, now: float) -> None:
        """Pause the migration when the questions have been failing for minutes, which is no load that passes."""
        if not self._load.failures:
            self._failing_since = None
            return
        self._failing_since = self._failing_since or now
        if now - self._failing_since < FAILING_SECONDS:
            return
        minutes = f"{FAILING_SECONDS / 60:.0f} minutes"
        why = f"the throttle cannot tell whether to go on; for {minutes} {self._load.failures[0]}"
        Ledger(self._session()).pause(self._plan.name, who="Lockstep", why=why)
        self._failing_since = None
        self._read()

    def _phase(self) -> str:
        return next((phase.name for phase in self._plan.phases if self._step in phase.steps), "")

    # --- the ledger ----------------------------------------------------------------------------------------------

    def _session(self) -> Connection:
        return self._lease.session("throttle")

    def _record(self) -> None:
        Ledger(self._session(), fence=self._lease.fence).record_look(self._plan.name, self._waiting, self._load)
        self._recorded = (self._kinds(), time.monotonic())

    def _kinds(self) -> tuple[str, ...]:
        """Return the reasons without their numbers, which change with every look."""
        return tuple("".join(letter for letter in reason if not letter.isdigit()) for reason in self._waiting)


def paused(name: str, database: str, phase: str, pause: str) -> Waiting:
    """Return the exception that says that a migration is paused, by whom, and what lets it go on."""
    return Waiting(
        f"{name} is {pause}.",
        safety="The data is safe: no lock is held, and the triggers keep both shapes in step while it is paused.",
        reason="pause",
        phase=phase,
        remedy=f"lockstep resume {name}  and then  lockstep run {name} --database {database}",
    )
