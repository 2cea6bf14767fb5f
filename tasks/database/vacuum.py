"""VACUUM beside a backfill: the space of the rows' old versions is used again instead of the table doubling.

Runs on a session and thread of its own while batches go on. Locks taken: SHARE UPDATE EXCLUSIVE, by SKIP_LOCKED, so
never waited for. TRUNCATE is off, because it takes ACCESS EXCLUSIVE.
"""

from __future__ import annotations

import contextlib
import threading

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from tasks.database.connection import session_limits
from tasks.planning.names import TableName

FRACTION = 0.10
"""Vacuum after this part of the table was written. A third of those rows leaves its block, space grows by as much;
and each VACUUM reads all indexes."""
LEAST_ROWS = 10_000
STATEMENT_TIMEOUT_MS = 3_600_000
LOCK_TIMEOUT_MS = 1_000


class Vacuuming:
    """Vacuums a table each time enough rows were written. A VACUUM that fails is left out: it is only about space."""

    def __init__(self, connection: psycopg.Connection[TupleRow], table: TableName, rows_total: int) -> None:
        self._connection = connection
        self._statement = sql.SQL("VACUUM (TRUNCATE false, SKIP_LOCKED) {}").format(table.identifier)
        self._every = max(LEAST_ROWS, int(rows_total * FRACTION))
        self._written = 0
        self._thread: threading.Thread | None = None
        with contextlib.suppress(psycopg.Error):
            session_limits(connection, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=STATEMENT_TIMEOUT_MS)
            connection.execute("SET client_min_messages = error")

    def after(self, rows: int) -> None:
        """Count rows written; start a VACUUM when enough are, unless one still runs."""
        self._written += rows
        if self._written < self._every or (self._thread is not None and self._thread.is_alive()):
            return
        self._written = 0
        self._thread = threading.Thread(target=self._run, name="lockstep vacuum", daemon=True)
        self._thread.start()

    @property
    def behind(self) -> int:
        """Return how many rows were written since the VACUUM that still runs began; 0 when none runs."""
        return self._written if self._thread is not None and self._thread.is_alive() else 0

    def _run(self) -> None:
        with contextlib.suppress(psycopg.Error):
            self._connection.execute(self._statement)

    def finish(self, seconds: float) -> None:
        """Wait for the one that runs, for so many seconds at most, then cancel it."""
        if self._thread is not None:
            self._thread.join(min(seconds, threading.TIMEOUT_MAX))
            self.stop()

    def stop(self) -> None:
        """Cancel the one that runs."""
        if self._thread is not None and self._thread.is_alive():
            if self._connection.pgconn.transaction_status == TransactionStatus.ACTIVE:
                with contextlib.suppress(psycopg.Error):
                    self._connection.cancel_safe(timeout=2)
            self._thread.join(timeout=5)
