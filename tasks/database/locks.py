"""Waiting for locks: short tries with full jitter, and a look at who is in the way.

A lock request that waits makes everybody behind it wait too, so a step waits only for its own short lock_timeout,
gives up its place, and tries again later. While it waits, `Watch` looks from another session at who blocks it. What
has to wait for the application's transactions, as every concurrent index build does, gives way to them (`GivingWay`).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import psycopg
import tenacity
from psycopg.rows import TupleRow, class_row

from tasks.database.connection import below_deadlock_timeout
from tasks.database.failures import LOCK_REFUSED
from tasks.database.queries import queries
from tasks.planning.errors import LockNotAcquired
from tasks.planning.names import TableName

Connection = psycopg.Connection[TupleRow]

_SQL = queries("locks")
# Where the first literal, number, comment or parameter of a query begins.
_FIRST_VALUE = re.compile(r"""'|\$|--|/\*|(?<![\w"])\d|\b[eEbBxXnN](?=')|\b[uU]&(?=')""")
MAX_QUERY = 120
CIRCLE_MS = 100
"""How often to look for a circle of waiting, at the least; PostgreSQL's deadlock_timeout is a second by default."""


@dataclass(frozen=True)
class Patience:
    """How often and how long to try for a lock: waits between tries are random between 0 and a doubling bound."""

    tries: int = 30
    seconds: float = 120.0
    first_wait: float = 0.1
    longest_wait: float = 5.0

    def retrying(self) -> tenacity.Retrying:
        """Return the loop that repeats after 55P03 and 40P01 only, and lets the last error through."""
        return tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.tries) | tenacity.stop_after_delay(self.seconds),
            wait=tenacity.wait_random_exponential(multiplier=self.first_wait, max=self.longest_wait),
            retry=tenacity.retry_if_exception_type(LOCK_REFUSED),
            reraise=True,
        )

    def by_tries(self) -> tenacity.Retrying:
        """Return the loop for what works for long before it has to give way: its work is no waiting."""
        return self.retrying().copy(stop=tenacity.stop_after_attempt(self.tries))


@dataclass(frozen=True)
class Blocker:
    """A session in the way. ``pid`` 0 is a prepared transaction; ``seconds`` is the age of its transaction."""

    pid: int
    application: str
    role: str
    state: str
    seconds: float | None
    query: str
    waiting_for: str | None
    """The table whose lock is waited for, where it is one."""

    def __str__(self) -> str:
        if self.pid == 0:
            return "a prepared transaction (see pg_prepared_xacts)"
        who = f"pid {self.pid} (application {self.application or '-'}, role {self.role or '-'}"
        return f"{who}, {self.state or 'state unknown'} for {_clock(self.seconds)}): {query_shape(self.query)}"


def query_shape(query: str) -> str:
    """Return a query up to its first value: everything behind may be personal data."""
    match = _FIRST_VALUE.search(query)
    shape = " ".join((query[: match.start()] if match else query).split())
    cut = match is not None or len(shape) > MAX_QUERY
    return f"{shape[:MAX_QUERY]} …".lstrip() if cut else shape


def _clock(seconds: float | None) -> str:
    whole = int(seconds or 0)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def blockers_of(monitor: Connection, pid: int) -> tuple[Blocker, ...]:
    """Return the sessions that the backend ``pid`` waits for now, the oldest transaction first."""
    with monitor.cursor(row_factory=class_row(Blocker)) as cursor:
        return tuple(cursor.execute(_SQL["blockers"], {"pid": pid}).fetchall())


def table_holders(connection: Connection, table: TableName) -> tuple[Blocker, ...]:
    """Return the other sessions that may hold rows of a table, the oldest transaction first."""
    with connection.cursor(row_factory=class_row(Blocker)) as cursor:
        return tuple(cursor.execute(_SQL["table_holders"], {"table": table.identifier.as_string()}).fetchall())


def advisory_holders(connection: Connection, key: int) -> tuple[Blocker, ...]:
    """Return the sessions that hold the advisory lock of a number, the oldest transaction first."""
    with connection.cursor(row_factory=class_row(Blocker)) as cursor:
        return tuple(cursor.execute(_SQL["advisory_holders"], {"key": key}).fetchall())


class Watch:
    """Looks every ``interval`` seconds who blocks a backend, while a block of code runs; keeps the last ones seen.

    The first look comes after one interval, so that a step that does not wait is never looked at.
    """

    def __init__(self, monitor: Connection, pid: int, *, interval: float) -> None:
        self._monitor = monitor
        self._pid = pid
        self._interval = interval
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, name="lockstep lock watch", daemon=True)
        self.blockers: tuple[Blocker, ...] = ()
        self.waiting = False
        """Whether the backend was waiting for somebody at the last look."""
        self.gave_way = False
        """Whether it was cancelled, for somebody who waits for it."""

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join(timeout=5)

    def _look(self) -> None:
        while not self._end.wait(self._interval):
            try:
                self.look()
            except psycopg.Error:
                if self._monitor.closed:
                    return  # names are a courtesy; the step itself notices a lost connection

    def look(self) -> None:
        """Look once."""
        found = blockers_of(self._monitor, self._pid)
        self.blockers = found or self.blockers
        self.waiting = bool(found)


class GivingWay(Watch):
    """Watches what waits without a short limit, and cancels it where somebody for whom it waits waits for it.

    CREATE INDEX CONCURRENTLY waits for a transaction of the application's; if that one then asks for a lock on the
    table, it is the one to look for a circle and its victim: PostgreSQL looks once a wait, after `deadlock_timeout`.
    """

    def __init__(self, monitor: Connection, pid: int) -> None:
        interval = below_deadlock_timeout(monitor, CIRCLE_MS) / 1000
        super().__init__(monitor, pid, interval=interval)

    def look(self) -> None:
        waiting, cancelled = self._monitor.execute(_SQL["give_way"], {"pid": self._pid}).fetchone() or (False, None)
        self.gave_way = self.gave_way or bool(cancelled)
        if waiting and not cancelled:
            super().look()
        else:
            self.waiting = bool(waiting)


def watch(monitor: Connection, pid: int, *, lock_timeout_ms: int) -> Watch:
    """Return the watch over the backend ``pid``; ``lock_timeout_ms`` is 0 for what waits without a short limit."""
    if lock_timeout_ms:
        return Watch(monitor, pid, interval=watch_interval(lock_timeout_ms))
    return GivingWay(monitor, pid)


def watch_interval(lock_timeout_ms: int) -> float:
    """Return how often to look, in seconds: twice within a lock_timeout."""
    return min(2.0, max(0.02, lock_timeout_ms / 2500))


def lock_not_acquired(
    what: str, tables: Sequence[TableName], blockers: Sequence[Blocker], *, tries: int, seconds: float
) -> LockNotAcquired:
    """Return the error that names the table and who held it; ``what`` names the step."""
    seen = next((blocker.waiting_for for blocker in blockers if blocker.waiting_for), None)
    table = seen or ", ".join(str(table) for table in tables) or "a table"
    named = tuple(str(blocker) for blocker in blockers)
    way = "; ".join(named) if named else "nobody was seen in the way (a short lock, or a deadlock)"
    pids = [blocker.pid for blocker in blockers if blocker.pid]
    end = f", or end it:  SELECT pg_terminate_backend({pids[0]})" if pids else ""
    return LockNotAcquired(
        f"{what}: the lock on {table} was not granted in {tries} tries over {seconds:.0f} seconds. In the way: {way}.",
        table=table,
        blockers=named,
        remedy=f"Wait until that session ends its transaction{end}. Then run again: it continues here.",
    )
