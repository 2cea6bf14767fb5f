"""Work on rows in key order, in short batches, then in sweeps until none is left; above all the backfill.

A batch is one transaction: fence, ``lockstep.direction`` (so that the sync trigger leaves it alone), rows locked FOR NO
KEY UPDATE SKIP LOCKED and updated, cursor. It never waits for the application's rows; the ones it skips, and rows that
a key change moved behind the cursor, are met by the sweeps. A row that cannot be filled is found by halving, recorded,
left unfilled and passed over: the gate behind the phase decides about it.

Where key order is the rows' order on disk, a page of keys is filled in four turns, each a batch of every fourth row
of a block. What the first turn leaves behind is pruned and makes room for the rows of the next, in the same block:
those updates are HOT, they write no index, and the table hardly grows. Several pages are open at once, each a turn
ahead of the next, because the application's transactions have to end before a row can be pruned. The cursor moves
with a page's last turn.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

import psycopg
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

from tasks.database.backfill_sql import TURNS, BatchStatements, compose, keys
from tasks.database.connection import below_deadlock_timeout, limits, session_limits
from tasks.database.crash import crash_point
from tasks.database.failures import LOCK_REFUSED, caused_by_row
from tasks.database.hours import Hours
from tasks.database.lease import Lease
from tasks.database.locks import Patience, lock_not_acquired, table_holders
from tasks.database.progress import Meter, Report
from tasks.database.queries import queries
from tasks.database.throttle import Throttle
from tasks.database.vacuum import Vacuuming
from tasks.planning.errors import LockNotAcquired, MigrationError, SyncFailing, Waiting
from tasks.planning.plan import Backfill, DeleteRows, Step, UpdateRows

Connection = psycopg.Connection[TupleRow]
Key = tuple[str, ...]

BATCH_SECONDS = 0.040
"""What a batch aims at, commit included, so that it rarely exceeds 50 ms: so long an application may wait for a row."""
FIRST_ROWS, LEAST_ROWS, MOST_ROWS = 500, 100, 20_000
CORRELATION = 0.5
"""From here on rows that follow each other in key order share blocks often enough for turns to pay."""
MOST_FAILURES = 1_000
"""More failing rows than this are a wrong mapping, not exceptions."""
SWEEP_ROWS, LISTED_ROWS = 2_000, 500
"""Of how many unfilled rows a look tells, and how many of them, found by their keys, a batch fills."""
SWEEP_TIMEOUT_MS = 3_600_000
"""Finding what is still unfilled reads the whole table."""
STATEMENT_TIMEOUT_MS = 60_000
LOCK_TIMEOUT_MS = 50
"""A batch can wait for what SKIP LOCKED does not skip: a referenced row, a unique value in doubt. Meanwhile it holds
its own rows, so it does not wait for long."""

_Result = TypeVar("_Result")
ActionT = TypeVar("ActionT", bound=Backfill | UpdateRows | DeleteRows)
_SQL = queries("backfill")


def run_backfill(
    lease: Lease,
    migration: str,
    step: Step,
    action: Backfill,
    patience: Patience,
    throttle: Throttle,
    hours: Hours,
    report: Report,
) -> None:
    """Fill the table of an action from where the ledger says it stopped.

    Raises LeaseLost, LockNotAcquired (rows that other sessions keep locked), SyncFailing (over 1,000 failing rows),
    Waiting (the migration is paused, or the step's hours are over), and psycopg's errors.
    """
    _Backfilling(lease, migration, step, action, patience, throttle, hours, report).run()


@dataclass(frozen=True)
class _Page:
    """Rows behind ``after`` (None: from the first), up to and with ``upto``; ``last`` when no row was behind them."""

    after: Key | None
    upto: Key
    rows: int
    last: bool
    turn: int
    """The turn that is next, of `TURNS`."""
    row_by_row: bool = False
    """Some row could not be filled: nothing is left to do but to move the cursor."""

    @property
    def done(self) -> bool:
        return self.turn == TURNS


class Batching(ABC, Generic[ActionT]):
    """Does the work of an action on each row that still needs it; what the work is, is the subclass's to say."""

    begin_batch: bytes
    """The statement of settings with which every batch begins."""

    def __init__(
        self,
        lease: Lease,
        migration: str,
        step: Step,
        action: ActionT,
        patience: Patience,
        throttle: Throttle,
        hours: Hours,
        report: Report,
    ) -> None:
        self._lease = lease
        self._migration = migration
        self._step = step
        self._action = action
        self._patience = patience
        self._throttle = throttle
        self._hours = hours
        self._connection = lease.session("work")
        self._names = {"migration": migration, "step": step.id}
        self._failed: set[str] = set()
        self._pages = self._filled = 0
        timeout = max(STATEMENT_TIMEOUT_MS, step.statement_timeout_ms)
        self._lock_timeout_ms = below_deadlock_timeout(self._connection, LOCK_TIMEOUT_MS)
        session_limits(self._connection, lock_timeout_ms=self._lock_timeout_ms, statement_timeout_ms=timeout)
        plain, estimate, correlation = self._table_facts()
        self._statements = self.compose(plain=plain)
        self._turns = TURNS if abs(correlation) >= CORRELATION else 1
        self._cursor, done, total = self._start(estimate)
        self._meter = Meter(
            report, step=step.id, title=step.title, table=str(action.table), rows_done=done, rows_total=total
        )
        self._vacuum = Vacuuming(lease.session("vacuum"), action.table, total)
        throttle.begin(step, str(action.table), total)

    def run(self) -> None:
        try:
            self._pass_over_keys()
            self._sweep()
            self._vacuum.finish(self._hours.left())
            self._throttle.end()
        except Waiting:
            self._vacuum.stop()
            self._throttle.end()
            raise
        except BaseException:
            self._vacuum.stop()
            raise
        self._patiently(self._resolve)
        self._meter.tell()

    def _resolve(self) -> None:
        if self._statements.resolve is not None:
            with self._connection.transaction():
                self._limit_scan()
                self._lease.fence(self._connection)
                # With parameters, if none: the composed text has its percent signs doubled.
                self._execute(self._statements.resolve, {})

    # --- what the work is ----------------------------------------------------------------------------------------

    @abstractmethod
    def compose(self, *, plain: bool) -> BatchStatements:
        """Return the statements; ``plain`` says that the table has no partitions and no children."""

    def check(self, done: psycopg.Cursor[TupleRow]) -> None:
        """Look, before a batch is committed, at what its statement answered; raise to take it back."""

    @abstractmethod
    def rows(self, done: psycopg.Cursor[TupleRow]) -> int:
        """Return on how many rows a batch's statement did the work; asked when the batch is committed."""

    @abstractmethod
    def failing(self, key: str, error: psycopg.Error) -> None:
        """Take note of a row, by its recorded key, whose values make the work fail; raise to stop."""

    def look_back(self) -> None:
        """Take note of rows that a sweep's statement passed over, and that are not to be tried again."""

    def suppressed(self, rows: int) -> MigrationError:
        """Return the error for rows that the work leaves as they are, though nobody has them locked."""
        return MigrationError(f"Step {self._step.id}: {rows:,} rows of {self._action.table} are left as they are.")

    # --- in key order --------------------------------------------------------------------------------------------

    def _pass_over_keys(self) -> None:
        """Open a page a round, and give every open page a turn, the oldest first."""
        pages: list[_Page] = []
        size, reached, more = FIRST_ROWS // self._turns, self._cursor, True
        # The first page is filled in one turn: a run that is interrupted again and again still moves its cursor.
        turn = TURNS - 1
        while pages or more:
            wanted = min(size, self._throttle.most_rows or size)
            page = self._patiently(partial(self._next_page, reached, wanted, turn)) if more else None
            if page is not None:
                pages.append(page)
                reached, turn = page.upto, TURNS - self._turns
            more = page is not None and not page.last
            for number, page in enumerate(pages):
                if page.done:
                    continue
                began = time.monotonic()
                pages[number], worked = self._take_turn(page)
                # What is not work on rows (the way to the server, a runner that waits for its processor) gets no
                # shorter with fewer of them.
                goal = max(BATCH_SECONDS / 2, BATCH_SECONDS + worked - (time.monotonic() - began))
                # Half of the way to the goal at a time: one slow batch (a checkpoint) says little.
                factor = min(2.0, max(0.5, (1 + goal / max(worked, 0.001)) / 2))
                size = int(min(MOST_ROWS, max(LEAST_ROWS, page.rows / self._turns * factor)))
                self._breathe()
            while pages and pages[0].done:
                self._leave(pages.pop(0))

    def _next_page(self, after: Key | None, size: int, turn: int) -> _Page | None:
        """Return the page of ``size`` rows a turn behind a key; None when there is no row."""
        statements = self._statements
        values = keys("k", after) | {"n": size * self._turns}
        with self._connection.pipeline(), self._connection.transaction():
            self._connection.execute(self.begin_batch)
            row = self._execute(statements.first_page_end if after is None else statements.page_end, values).fetchone()
            if row is not None:
                return _Page(after, row, size * self._turns, last=False, turn=turn)
            query = statements.first_last_page if after is None else statements.last_page
            row = self._execute(query, values).fetchone()
        return _Page(after, row[:-1], row[-1], last=True, turn=turn) if row is not None else None

    def _take_turn(self, page: _Page) -> tuple[_Page, float]:
        """Return the page as it is afterwards, and the seconds that the server worked on its rows."""
        try:
            filled, worked = self._patiently(partial(self._fill_page, page))
        except psycopg.Error as error:
            if not caused_by_row(error):
                raise
            began = time.monotonic()
            self._fill_page_by_rows(page)
            return replace(page, turn=TURNS, row_by_row=True), time.monotonic() - began
        self._count(filled)
        return replace(page, turn=page.turn + 1), worked

    def _fill_page(self, page: _Page) -> tuple[int, float]:
        """Fill the rows of the page's turn, in its last turn all that are left.

        Return how many were filled, and the seconds that it took on the server.
        """
        with self._batch():
            began = self._connection.execute(_SQL["now"])
            statements = self._statements
            fill = statements.fill_first_range if page.after is None else statements.fill_range
            values = keys("k", page.after) | keys("u", page.upto) | {"turn": page.turn}
            filled = self._execute(fill, values)
            if page.turn == TURNS - 1:
                self._advance(page)
            ended = self._connection.execute(_SQL["now"])
            self.check(filled)
        return self.rows(filled), _moment(ended) - _moment(began)

    def _fill_page_by_rows(self, page: _Page) -> None:
        """Do what `_fill_page` does where some row of the page fails: find it, record it, fill the others."""
        self._fill_listed(self._patiently(partial(self._unfilled_of_page, page)))

    def _unfilled_of_page(self, page: _Page) -> list[TupleRow]:
        with self._batch():
            statements = self._statements
            query = statements.pending_first_range if page.after is None else statements.pending_range
            return self._execute(query, keys("k", page.after) | keys("u", page.upto)).fetchall()

    def _leave(self, page: _Page) -> None:
        """Go on behind the oldest page, which is done."""
        if page.row_by_row:
            self._patiently(partial(self._pass_over, page))
        self._cursor = page.upto
        self._after_batch(page.rows)

    def _pass_over(self, page: _Page) -> None:
        with self._batch():
            self._advance(page)

    # --- row by row ----------------------------------------------------------------------------------------------

    def _fill_listed(self, rows: Sequence[TupleRow]) -> int:
        """Fill rows given as (recorded key, key …), in short batches with a breath between them."""
        size, filled = min(LISTED_ROWS, self._throttle.most_rows or LISTED_ROWS), 0
        for start in range(0, len(rows), size):
            filled += self._fill_rows(rows[start : start + size])
            self._breathe()
        return filled

    def _fill_rows(self, rows: Sequence[TupleRow]) -> int:
        """Fill rows given as (recorded key, key …), halving where one fails; return how many were filled."""
        if not rows:
            return 0
        try:
            filled = self._patiently(partial(self._fill_keys, self._arrays(rows)))
            self._count(filled)
            return filled
        except psycopg.Error as error:
            if not caused_by_row(error):
                raise
            if len(rows) == 1:
                self._failed.add(rows[0][0])
                self.failing(rows[0][0], error)
                return 0
        middle = len(rows) // 2
        return self._fill_rows(rows[:middle]) + self._fill_rows(rows[middle:])

    def _arrays(self, rows: Sequence[TupleRow]) -> dict[str, list[str]]:
        return {f"a{number}": [row[number + 1] for row in rows] for number in range(len(self._action.key))}

    def _left_by_update(self, arrays: Mapping[str, list[str]]) -> int:
        """Return how many of the rows an UPDATE leaves as they are although nobody has them locked."""
        if self._statements.lock_keys is None:
            return 0
        with self._batch():
            locked = self._execute(self._statements.lock_keys, arrays)
            filled = self._execute(self._statements.fill_keys, arrays)
            self.check(filled)
        return locked.rowcount if self.rows(filled) == 0 else 0

    def _fill_keys(self, arrays: Mapping[str, list[str]]) -> int:
        with self._batch():
            filled = self._execute(self._statements.fill_keys, arrays)
            self.check(filled)
        return self.rows(filled)

    # --- sweeping ------------------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        """Fill what the pass left, until only recorded failures are unfilled; wait, bounded, for locked rows."""
        began, tries, wait = time.monotonic(), 0, self._patience.first_wait
        while rows := self._patiently(self._unfilled):
            filled = self._fill_listed(rows)
            self.look_back()
            self._after_batch(filled)
            if filled or any(row[0] in self._failed for row in rows):
                began, tries, wait = time.monotonic(), 0, self._patience.first_wait
                continue
            if left := self._patiently(partial(self._left_by_update, self._arrays(rows))):
                raise self.suppressed(left)
            tries += 1
            waited = time.monotonic() - began
            if tries >= self._patience.tries or waited >= self._patience.seconds:
                raise self._locked(f"{len(rows):,} rows stay locked by other sessions", tries, waited)
            time.sleep(wait)
            wait = min(wait * 2, self._patience.longest_wait)

    def _unfilled(self) -> list[TupleRow]:
        """Return some unfilled rows that are not known to fail; empty when there is none."""
        self._hours.check(self._meter.rest())
        self._lease.check()
        with self._connection.transaction():
            self._limit_scan()
            self._lease.fence(self._connection)
            found = self._execute(self._statements.pending, {"n": SWEEP_ROWS + len(self._failed)}).fetchall()
        return [row for row in found if row[0] not in self._failed]

    def _limit_scan(self) -> None:
        """Bound the open transaction, which reads the whole table, also by the end of the step's hours."""
        timeout = self._hours.limit(SWEEP_TIMEOUT_MS)
        limits(self._connection, lock_timeout_ms=self._lock_timeout_ms, statement_timeout_ms=timeout)

    # --- waiting -------------------------------------------------------------------------------------------------

    def _patiently(self, work: Callable[[], _Result]) -> _Result:
        began = time.monotonic()
        try:
            return self._patience.retrying()(work)
        except LOCK_REFUSED:
            waited = time.monotonic() - began
            raise self._locked("a batch waits for other sessions", self._patience.tries, waited) from None

    def _locked(self, what: str, tries: int, seconds: float) -> LockNotAcquired:
        table = self._action.table
        holders = table_holders(self._connection, table)
        return lock_not_acquired(f"Step {self._step.id}: {what}", (table,), holders, tries=tries, seconds=seconds)

    def _count(self, filled: int) -> None:
        self._vacuum.after(filled)
        self._filled += filled

    def _breathe(self) -> None:
        """Wait between two batches, with nothing open, for as long as the throttle wants it and the hours allow it."""
        self._hours.check(self._meter.rest())
        filled, self._filled = self._filled, 0
        self._throttle.between(filled, self._vacuum.behind, self._held)

    def _held(self, why: str) -> None:
        self._meter.tell(why)
        self._hours.check(self._meter.rest())

    # --- one batch -----------------------------------------------------------------------------------------------

    @contextmanager
    def _batch(self) -> Iterator[None]:
        """A short transaction behind the fence whose writes the sync trigger leaves alone.

        Its statements are sent at once, so that a server far away costs two journeys a batch; the COMMIT follows when
        all of them were answered, the fence among them.
        """
        self._lease.check()
        with self._connection.pipeline(), self._connection.transaction():
            self._connection.execute(self.begin_batch)
            answer = self._lease.ask(self._connection)
            yield
            self._lease.require(answer)

    def _advance(self, page: _Page) -> None:
        values = {**self._names, "cursor": Jsonb(list(page.upto)), "rows": page.rows}
        self._connection.execute(_SQL["advance"], values)

    def _after_batch(self, rows: int) -> None:
        self._pages += 1
        self._meter.add(rows)
        crash_point("during", self._step.id, str(self._pages))

    def _execute(self, statement: Any, values: Mapping[str, Any]) -> psycopg.Cursor[TupleRow]:
        return self._connection.execute(statement, values)

    # --- starting ------------------------------------------------------------------------------------------------

    def _table_facts(self) -> tuple[bool, int, float]:
        """Return whether the table is a plain one, its estimated rows, and how well its key follows its blocks."""
        table = self._action.table
        values = {"schema": table.schema, "table": table.name, "column": self._action.key[0]}
        row = self._connection.execute(_SQL["table_facts"], values).fetchone()
        return (bool(row[0]), int(row[1]), float(row[2])) if row else (True, 0, 0.0)

    def _start(self, estimate: int) -> tuple[Key | None, int, int]:
        with self._batch():
            row = self._connection.execute(_SQL["start"], {**self._names, "total": estimate}).fetchone()
        if row is None:
            raise LookupError("INSERT … RETURNING returned no row")
        return (tuple(row[0]) if row[0] is not None else None), row[1], row[2]


class _Backfilling(Batching[Backfill]):
    """The new shape of unfilled rows. A row that fails is recorded and left to the gate."""

    begin_batch = _SQL["begin_batch"]

    def compose(self, *, plain: bool) -> BatchStatements:
        self.begin_batch = _SQL["begin_fill" if self._action.direction == "fill" else "begin_batch"]
        return compose(self._migration, self._action, plain=plain)

    def rows(self, done: psycopg.Cursor[TupleRow]) -> int:
        return done.rowcount

    def failing(self, key: str, error: psycopg.Error) -> None:
        row = {"migration": self._migration, "table": str(self._action.table), "key": key, "sqlstate": error.sqlstate}
        with self._batch():
            self._connection.execute(_SQL["record_failure"], row)
        self._stop_if_wrong(f"SQLSTATE {error.sqlstate}")

    def look_back(self) -> None:
        """Where the sync trigger is called it records a row that it refuses, and lets the statement pass."""
        if self._action.direction == "fill":
            names = {"migration": self._migration, "table": str(self._action.table)}
            self._failed.update(key for (key,) in self._connection.execute(_SQL["open_failures"], names))
            self._stop_if_wrong("see lockstep.sync_failure")

    def _stop_if_wrong(self, reason: str) -> None:
        if len(self._failed) > MOST_FAILURES:
            sample = ", ".join(sorted(self._failed)[:3])
            raise SyncFailing(
                f"Step {self._step.id}: `up`, or a trigger of the table, fails on more than {MOST_FAILURES:,} rows of "
                f"{self._action.table}, e.g. {sample} ({reason}).",
                table=str(self._action.table),
                failures=len(self._failed),
                remedy="Repair the rows (lockstep.sync_failure lists the keys), or roll back and correct the mapping.",
            )

    def suppressed(self, rows: int) -> SyncFailing:
        return SyncFailing(
            f"Step {self._step.id}: UPDATE leaves {rows:,} unfilled rows of {self._action.table} as they are, though "
            "nobody has them locked: a BEFORE trigger that returns NULL suppresses it.",
            table=str(self._action.table),
            failures=rows,
            remedy="Where the trigger decides by the row's values, correct those rows and run again: it goes on here. "
            "Else roll back, let the trigger's function pass an UPDATE of the backfill's: where "
            f"current_setting('lockstep.direction', true) = '{self._action.direction}'. Then start again.",
        )


def _moment(answer: psycopg.Cursor[TupleRow]) -> float:
    """Return the server's clock in seconds."""
    row = answer.fetchone()
    return float(row[0]) if row else 0.0
