"""Fills the new shape of unfilled rows, in key order, in short batches; then sweeps until none is left.

A batch is one transaction: fence, ``lockstep.direction = 'none'``, rows locked FOR NO KEY UPDATE SKIP LOCKED and
updated, cursor. It never waits for the application's rows; the ones it skips, and rows that a key change moved
behind the cursor, are met by the sweeps. A row that cannot be filled is found by halving, recorded, left unfilled and
passed over: the gate behind the phase decides about it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import psycopg
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

from tasks.database.backfill_sql import compose, keys
from tasks.database.connection import limits, session_limits
from tasks.database.crash import crash_point
from tasks.database.failures import LOCK_REFUSED, caused_by_row
from tasks.database.lease import Lease
from tasks.database.locks import Patience, lock_not_acquired, table_holders
from tasks.database.progress import Meter, Report
from tasks.database.queries import queries
from tasks.database.vacuum import Vacuuming
from tasks.planning.errors import LockNotAcquired, SyncFailing
from tasks.planning.plan import Backfill, Step

Connection = psycopg.Connection[TupleRow]
Key = tuple[str, ...]

BATCH_SECONDS = 0.040
"""What a batch aims at, commit included, so that it rarely exceeds 50 ms: so long an application may wait for a row."""
FIRST_ROWS, LEAST_ROWS, MOST_ROWS = 500, 20, 20_000
MOST_FAILURES = 1_000
"""More failing rows than this are a wrong mapping, not exceptions."""
SWEEP_ROWS = 2_000
SWEEP_TIMEOUT_MS = 3_600_000
"""Finding what is still unfilled reads the whole table."""
STATEMENT_TIMEOUT_MS = 60_000
LOCK_TIMEOUT_MS = 50
"""A batch can wait for what SKIP LOCKED does not skip: a referenced row, a unique value in doubt. Meanwhile it holds
its own rows, so it does not wait for long."""

_Result = TypeVar("_Result")
_SQL = queries("backfill")


def run_backfill(
    lease: Lease, migration: str, step: Step, action: Backfill, patience: Patience, report: Report
) -> None:
    """Fill the table of an action from where the ledger says it stopped.

    Raises LeaseLost, LockNotAcquired (rows that other sessions keep locked), SyncFailing (over 1,000 failing rows), and
    psycopg's errors.
    """
    _Backfilling(lease, migration, step, action, patience, report).run()


@dataclass(frozen=True)
class _Page:
    """Rows behind the cursor, up to and with ``upto``; ``last`` when no row was behind them."""

    upto: Key
    rows: int
    last: bool


class _Backfilling:
    def __init__(
        self, lease: Lease, migration: str, step: Step, action: Backfill, patience: Patience, report: Report
    ) -> None:
        self._lease = lease
        self._migration = migration
        self._step = step
        self._action = action
        self._patience = patience
        self._connection = lease.session("work")
        self._names = {"migration": migration, "step": step.id}
        self._failed: set[str] = set()
        self._batches = 0
        timeout = max(STATEMENT_TIMEOUT_MS, step.statement_timeout_ms)
        session_limits(self._connection, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=timeout)
        plain, estimate = self._table_facts()
        self._statements = compose(migration, action, plain=plain)
        self._cursor, done, total = self._start(estimate)
        self._meter = Meter(
            report, step=step.id, title=step.title, table=str(action.table), rows_done=done, rows_total=total
        )
        self._vacuum = Vacuuming(lease.session("vacuum"), action.table, total)

    def run(self) -> None:
        try:
            self._pass_over_keys()
            self._sweep()
            self._vacuum.finish()
        except BaseException:
            self._vacuum.stop()
            raise
        with self._connection.transaction():
            limits(self._connection, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=SWEEP_TIMEOUT_MS)
            self._lease.fence(self._connection)
            # With parameters, if none: the composed text has its percent signs doubled.
            self._execute(self._statements.resolve, {})
        self._meter.tell()

    # --- in key order --------------------------------------------------------------------------------------------

    def _pass_over_keys(self) -> None:
        size = FIRST_ROWS
        while True:
            began = time.monotonic()
            try:
                page = self._patiently(partial(self._fill_page, size))
            except psycopg.Error as error:
                if not caused_by_row(error):
                    raise
                page = self._fill_page_by_rows(size)
            seconds = time.monotonic() - began
            if page is None:
                return
            self._after_batch(page.rows)
            if page.last:
                return
            # Half of the way to the goal at a time: one slow batch (a checkpoint) says little.
            factor = min(2.0, max(0.5, (1 + BATCH_SECONDS / max(seconds, 0.001)) / 2))
            size = int(min(MOST_ROWS, max(LEAST_ROWS, size * factor)))

    def _fill_page(self, size: int) -> _Page | None:
        """Fill up to ``size`` rows behind the cursor and move it; return None when no row is behind it."""
        with self._batch():
            page = self._page(size)
            if page is None:
                return None
            statements = self._statements
            fill = statements.fill_first_range if self._cursor is None else statements.fill_range
            filled = self._execute(fill, keys("k", self._cursor) | keys("u", page.upto)).rowcount
            self._advance(page)
        self._cursor = page.upto
        self._vacuum.after(filled)
        return page

    def _fill_page_by_rows(self, size: int) -> _Page | None:
        """Do what `_fill_page` does where some row of the page fails: find it, record it, fill the others."""
        with self._batch():
            page = self._page(size)
            if page is None:
                return None
            statements = self._statements
            query = statements.pending_first_range if self._cursor is None else statements.pending_range
            found = self._execute(query, keys("k", self._cursor) | keys("u", page.upto)).fetchall()
        self._fill_rows(found)
        with self._batch():
            self._advance(page)
        self._cursor = page.upto
        return page

    def _page(self, size: int) -> _Page | None:
        statements, fresh = self._statements, self._cursor is None
        values = keys("k", self._cursor) | {"n": size}
        row = self._execute(statements.first_page_end if fresh else statements.page_end, values).fetchone()
        if row is not None:
            return _Page(row, size, last=False)
        row = self._execute(statements.first_last_page if fresh else statements.last_page, values).fetchone()
        return _Page(row[:-1], row[-1], last=True) if row is not None else None

    # --- row by row ----------------------------------------------------------------------------------------------

    def _fill_rows(self, rows: Sequence[TupleRow]) -> int:
        """Fill rows given as (recorded key, key …), halving where one fails; return how many were filled."""
        if not rows:
            return 0
        arrays = {f"a{number}": [row[number + 1] for row in rows] for number in range(len(self._action.key))}
        try:
            filled = self._patiently(partial(self._fill_keys, arrays))
            self._vacuum.after(filled)
            return filled
        except psycopg.Error as error:
            if not caused_by_row(error):
                raise
            if len(rows) == 1:
                self._record_failure(rows[0][0], error)
                return 0
        middle = len(rows) // 2
        return self._fill_rows(rows[:middle]) + self._fill_rows(rows[middle:])

    def _fill_keys(self, arrays: Mapping[str, list[str]]) -> int:
        with self._batch():
            return self._execute(self._statements.fill_keys, arrays).rowcount

    def _record_failure(self, key: str, error: psycopg.Error) -> None:
        self._failed.add(key)
        row = {"migration": self._migration, "table": str(self._action.table), "key": key, "sqlstate": error.sqlstate}
        with self._batch():
            self._connection.execute(_SQL["record_failure"], row)
        if len(self._failed) > MOST_FAILURES:
            sample = ", ".join(sorted(self._failed)[:3])
            raise SyncFailing(
                f"Step {self._step.id}: `up` fails on more than {MOST_FAILURES:,} rows of {self._action.table}, "
                f"e.g. {sample} (SQLSTATE {error.sqlstate}).",
                table=str(self._action.table),
                failures=len(self._failed),
                remedy="Repair the rows (lockstep.sync_failure lists the keys), or roll back and correct the mapping.",
            )

    # --- sweeping ------------------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        """Fill what the pass left, until only recorded failures are unfilled; wait, bounded, for locked rows."""
        began, tries, wait = time.monotonic(), 0, self._patience.first_wait
        while rows := self._unfilled():
            filled = self._fill_rows(rows)
            self._after_batch(filled)
            if filled or any(row[0] in self._failed for row in rows):
                began, tries, wait = time.monotonic(), 0, self._patience.first_wait
                continue
            tries += 1
            waited = time.monotonic() - began
            if tries >= self._patience.tries or waited >= self._patience.seconds:
                raise self._locked(f"{len(rows):,} rows stay locked by other sessions", tries, waited)
            time.sleep(wait)
            wait = min(wait * 2, self._patience.longest_wait)

    def _unfilled(self) -> list[TupleRow]:
        """Return some unfilled rows that are not known to fail; empty when there is none."""
        self._lease.check()
        with self._connection.transaction():
            limits(self._connection, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=SWEEP_TIMEOUT_MS)
            self._lease.fence(self._connection)
            found = self._execute(self._statements.pending, {"n": SWEEP_ROWS + len(self._failed)}).fetchall()
        return [row for row in found if row[0] not in self._failed]

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

    # --- one batch -----------------------------------------------------------------------------------------------

    @contextmanager
    def _batch(self) -> Iterator[None]:
        """A short transaction behind the fence whose writes the sync trigger leaves alone."""
        self._lease.check()
        with self._connection.transaction():
            self._connection.execute(_SQL["begin_batch"])
            self._lease.fence(self._connection)
            yield

    def _advance(self, page: _Page) -> None:
        values = {**self._names, "cursor": Jsonb(list(page.upto)), "rows": page.rows}
        self._connection.execute(_SQL["advance"], values)

    def _after_batch(self, rows: int) -> None:
        self._batches += 1
        self._meter.add(rows)
        crash_point("during", self._step.id, str(self._batches))

    def _execute(self, statement: Any, values: Mapping[str, Any]) -> psycopg.Cursor[TupleRow]:
        return self._connection.execute(statement, values)

    # --- starting ------------------------------------------------------------------------------------------------

    def _table_facts(self) -> tuple[bool, int]:
        table = self._action.table
        row = self._connection.execute(_SQL["table_facts"], {"schema": table.schema, "table": table.name}).fetchone()
        return (bool(row[0]), int(row[1])) if row else (True, 0)

    def _start(self, estimate: int) -> tuple[Key | None, int, int]:
        with self._batch():
            row = self._connection.execute(_SQL["start"], {**self._names, "total": estimate}).fetchone()
        if row is None:
            raise LookupError("INSERT … RETURNING returned no row")
        return (tuple(row[0]) if row[0] is not None else None), row[1], row[2]
