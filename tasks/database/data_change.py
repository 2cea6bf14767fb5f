"""Carries out an UPDATE or DELETE of the user's in batches, each row once, and takes it back from the kept rows.

Forward it is the machinery of the backfill, but the sync trigger stays at work and a row that fails stops the step.
That a row is changed once is said by the row itself: its bit of ``lockstep_due`` is cleared, or it is deleted, by the
very statement that changes it. The cursor only saves reading.

Backward, a row gets its old values only while it still holds what was written; it leaves ``lockstep.kept_…`` by the
same statement, so going back too can be killed and goes on.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from tasks.database.backfill import BATCH_SECONDS, FIRST_ROWS, LEAST_ROWS, LOCK_TIMEOUT_MS, MOST_ROWS, Batching
from tasks.database.backfill_sql import BatchStatements
from tasks.database.connection import limits, session_limits
from tasks.database.crash import crash_point
from tasks.database.failures import LOCK_REFUSED, described
from tasks.database.hours import Hours
from tasks.database.lease import Lease
from tasks.database.ledger import Ledger
from tasks.database.locks import Patience, lock_not_acquired, table_holders
from tasks.database.progress import Meter, Report
from tasks.database.queries import queries
from tasks.database.row_changes_sql import compose_change, compose_return
from tasks.database.throttle import Throttle
from tasks.planning.errors import MigrationError, StepFailed
from tasks.planning.plan import DeleteRows, ReinsertRows, RestoreRows, Step, UpdateRows

Connection = psycopg.Connection[TupleRow]

COUNT_TIMEOUT_MS = 3_600_000
"""Looking for kept rows that can still be taken back reads all of them."""
_SQL = queries("data_change")


def change_rows(
    lease: Lease, migration: str, step: Step, action: UpdateRows | DeleteRows, patience: Patience, throttle: Throttle,
    hours: Hours, report: Report,
) -> None:  # fmt: skip
    """Change the rows of an action from where the ledger says it stopped.

    Raises StepFailed at a row whose values make the statement fail (the rows before it are changed), LeaseLost,
    LockNotAcquired (rows that other sessions keep locked), Waiting (paused, or the
    step's hours are over), and psycopg's errors.
    """
    _Changing(lease, migration, step, action, patience, throttle, hours, report).run()


class _Changing(Batching[UpdateRows | DeleteRows]):
    begin_batch = _SQL["begin_batch"]

    def compose(self, *, plain: bool) -> BatchStatements:
        if not plain:
            raise MigrationError(
                f"{self._action.table} got partitions or children after the plan was made.",
                remedy="Take them away, or roll back and run the statement apart from the migration.",
            )
        return compose_change(self._action)

    def check(self, done: psycopg.Cursor[TupleRow]) -> None:
        changed, kept = _counts(done)
        if changed != kept:
            # The transaction falls with this error, so nothing is changed that could not be brought back.
            raise MigrationError(
                f"Step {self._step.id}: a trigger of {self._action.table} changes the key of the rows that the "
                "statement changes, so their old values cannot be kept.",
                remedy="Roll back, let the trigger leave the key alone, and start again.",
            )

    def rows(self, done: psycopg.Cursor[TupleRow]) -> int:
        return _counts(done)[0]

    def failing(self, key: str, error: psycopg.Error) -> None:
        raise StepFailed(
            f"Step {self._step.id} ({self._step.title}) fails on the row {key}: {described(error)}. The row is left as "
            "it is.",
            phase="backfill",
            step=self._step.id,
            sqlstate=error.sqlstate,
            remedy="Correct that row and run again: it continues with it. Or roll back: the changed rows get their old "
            "values.",
        )

    def suppressed(self, rows: int) -> MigrationError:
        return MigrationError(
            f"Step {self._step.id} ({self._step.title}) leaves {rows:,} rows of {self._action.table} as they are, "
            "though nobody has them locked: a BEFORE trigger that returns NULL suppresses it.",
            safety="The other rows are changed, and their old values are kept. Both shapes are intact.",
            remedy="Where the trigger decides by the row's values, correct those rows and run again: it goes on with "
            "them. Else roll back, let the trigger pass the statement, and start again.",
        )


def _counts(done: psycopg.Cursor[TupleRow]) -> tuple[int, int]:
    """Return how many rows a batch has changed, and of how many the old values are kept."""
    done.scroll(0, mode="absolute")
    row = done.fetchone()
    return (int(row[0]), int(row[1])) if row is not None else (0, 0)


def take_back(
    lease: Lease, migration: str, step: Step, action: RestoreRows | ReinsertRows, patience: Patience, report: Report
) -> None:
    """Take a data change back. What the application has changed since stays its own, and is counted in an event.

    Raises LeaseLost, LockNotAcquired, and psycopg's errors.
    """
    _TakingBack(lease, migration, step, action, patience, report).run()


@dataclass(frozen=True)
class _Page:
    """``back`` of ``rows`` kept rows were taken back; the last one looked at has the number ``last``."""

    back: int
    rows: int
    last: int | None


class _TakingBack:
    def __init__(
        self, lease: Lease, migration: str, step: Step, action: RestoreRows | ReinsertRows, patience: Patience,
        report: Report,
    ) -> None:  # fmt: skip
        self._lease = lease
        self._migration = migration
        self._step = step
        self._action = action
        self._patience = patience
        self._connection: Connection = lease.session("work")
        self._statements = compose_return(action)
        self._batches = 0
        timeout = max(step.statement_timeout_ms, 60_000)
        session_limits(self._connection, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=timeout)
        self._kept = self._count(self._statements.left)
        self._meter = Meter(
            report, step=step.id, title=f"Take back: {step.title}", table=str(action.table),
            rows_done=0, rows_total=self._kept,
        )  # fmt: skip

    def run(self) -> None:
        began, tries, wait = time.monotonic(), 0, self._patience.first_wait
        while True:
            refused, back = self._pass_over()
            waiting = self._count(self._statements.left if refused else self._statements.waiting)
            if not waiting:
                break
            if back:
                began, tries, wait = time.monotonic(), 0, self._patience.first_wait
                continue
            tries += 1
            waited = time.monotonic() - began
            if tries >= self._patience.tries or waited >= self._patience.seconds:
                table = self._action.table
                holders = table_holders(self._connection, table)
                what = f"Step {self._step.id}: {waiting:,} rows stay locked by other sessions"
                raise lock_not_acquired(what, (table,), holders, tries=tries, seconds=waited)
            time.sleep(wait)
            wait = min(wait * 2, self._patience.longest_wait)
        if isinstance(self._action, ReinsertRows):
            self._require_inserted()
        left = self._count(self._statements.left)
        ledger = Ledger(self._connection, fence=self._lease.fence)
        ledger.event(
            self._migration,
            "taken_back",
            {"step": self._step.id, "rows": self._kept - left, "left to the application": left},
        )
        self._meter.tell()

    def _in_the_way(self, error: psycopg.Error) -> MigrationError:
        """Return the error for what the application wrote since and the old values cannot stand beside."""
        kept = self._action.kept
        return MigrationError(
            f"Step {self._step.id}: the old values of {self._action.table} cannot all come back, because of what was "
            f"written since: {described(error)}.",
            safety=f"The rows before are as they were; the others' are kept in {kept}. Both shapes are intact.",
            remedy="Free the value, or bring the row back that is referred to, then roll back again: it goes on there. "
            f"A row that shall stay as it is now: DELETE its old values from {kept}.",
        )

    def _require_inserted(self) -> None:
        """Refuse to call rows the application's that a trigger may have kept from coming back."""
        table = self._action.table
        values = {"table": table.identifier.as_string(self._connection)}
        triggers = [str(row[0]) for row in self._connection.execute(_SQL["before_insert_triggers"], values)]
        if triggers and (absent := self._count(self._statements.absent)):
            raise MigrationError(
                f"Step {self._step.id}: {absent:,} deleted rows do not come back into {table}. A BEFORE INSERT trigger "
                f"may suppress them ({', '.join(triggers)}), or another row has taken a unique value of theirs.",
                safety=f"They are kept in {self._action.kept}; both shapes are intact.",
                remedy="Let the trigger's function pass them (CREATE OR REPLACE FUNCTION), or free the value, and roll "
                f"back again. Rows that shall stay away: DELETE them from {self._action.kept}.",
            )

    def _pass_over(self) -> tuple[bool, int]:
        """Go over the kept rows once; return whether a lock was refused, before the last of them, and how many were
        taken back."""
        size, total = FIRST_ROWS, 0
        position = 2**63 - 1 if isinstance(self._action, ReinsertRows) else 0
        while True:
            began = time.monotonic()
            try:
                page = self._patience.retrying()(self._page, position, size)
            except LOCK_REFUSED:
                return True, total
            except psycopg.IntegrityError as error:
                # Rows that refer to each other were deleted by one batch; together they can come back.
                if isinstance(error, psycopg.errors.ForeignKeyViolation) and size < self._kept:
                    size *= 4
                    continue
                raise self._in_the_way(error) from None
            seconds = time.monotonic() - began
            self._meter.add(page.back)
            self._batches += 1
            crash_point("during-undo", self._step.id, str(self._batches))
            total += page.back
            if page.last is None or page.rows < size:
                return False, total
            position = page.last
            factor = min(2.0, max(0.5, (1 + BATCH_SECONDS / max(seconds, 0.001)) / 2))
            size = int(min(MOST_ROWS, max(LEAST_ROWS, size * factor)))

    def _page(self, position: int, size: int) -> _Page:
        self._lease.check()
        with self._connection.transaction():
            begin = "begin_return" if isinstance(self._action, ReinsertRows) else "begin_batch"
            self._connection.execute(_SQL[begin])
            self._lease.fence(self._connection)
            row = self._connection.execute(self._statements.page, {"from": position, "n": size}).fetchone()
        back, rows, last = row if row is not None else (0, 0, None)
        return _Page(back, rows, last)

    def _count(self, statement: sql.Composed) -> int:
        with self._connection.transaction():
            limits(self._connection, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=COUNT_TIMEOUT_MS)
            self._lease.fence(self._connection)
            row = self._connection.execute(statement, {}).fetchone()
        return int(row[0]) if row is not None else 0
