"""Looks at the server for the throttle: one statement, and the arithmetic that needs more than one look.

A standby's lag is the age of the oldest look whose WAL it has not replayed yet. PostgreSQL's own ``replay_lag`` is not
enough: it is NULL for a standby that stands still since before anything was measured, and keeps its last value for a
while when there is nothing left to replay. It serves for the time before the first look.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg.rows import TupleRow, dict_row

from tasks.database.connection import limits, session_limits
from tasks.database.failures import connection_lost
from tasks.database.queries import queries
from tasks.planning.throttle import Load, Replica, Slot, Snapshot

LOOK_TIMEOUT_MS = 2_000
OWN_SQL_TIMEOUT_MS = 1_000
LOCK_TIMEOUT_MS = 200
KEPT_LOOKS = 4_096
"""More than an hour of looks: a lag beyond is at least that."""
NEGLIGIBLE_BYTES = 64 * 1024
"""A standby that lacks no more is not behind: what WAL an idle server writes may reach it late."""
RATE_SECONDS = 30.0
"""The longest time over which WAL is averaged: so long a burst has to be paid off."""

Connection = psycopg.Connection[TupleRow]

_SQL = queries("throttle")


@dataclass(frozen=True)
class _Look:
    at: float
    """By the monotonic clock."""
    wal: int
    xid: int
    """Every transaction of this run before the look has a smaller number."""
    written: int


@dataclass(frozen=True)
class Work:
    """What this run has done: ``written`` rows in all, ``unvacuumed`` of them since the running VACUUM began."""

    table: str = ""
    table_rows: int = 0
    written: int = 0
    unvacuumed: int = 0


class Gauge:
    """Remembers looks; `rest` begins a new measurement of the WAL rate."""

    def __init__(self) -> None:
        self._looks: deque[_Look] = deque(maxlen=KEPT_LOOKS)
        self._calm = 0.0
        self._limited: Connection | None = None

    def look(self, connection: Connection, work: Work, own_sql: Sequence[str]) -> Load:
        """Return the load of the server now. A look that fails is a load with ``failures``: nobody can go on blindly.

        Raises psycopg's errors of a lost connection only.
        """
        try:
            if self._limited is not connection:
                session_limits(connection, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=LOOK_TIMEOUT_MS)
                self._limited = connection
            with connection.cursor(row_factory=dict_row) as cursor:
                row = cursor.execute(_SQL["look"]).fetchone()
        except psycopg.Error as error:
            if connection_lost(error):
                raise
            return Load(failures=(f"the server could not be looked at (SQLSTATE {error.sqlstate})",))
        if row is None:
            raise LookupError("a SELECT without FROM returned no row")
        load = self._load(row, work)
        objections, failures = ask(connection, own_sql)
        return load.model_copy(update={"objections": objections, "failures": failures})

    def rest(self) -> None:
        """Note that nothing is exceeded at the last look: what was written until then needs no more paying off."""
        if self._looks:
            self._calm = self._looks[-1].at

    def _load(self, row: Mapping[str, Any], work: Work) -> Load:
        now = _Look(time.monotonic(), row["wal"], row["xid"], work.written)
        held, oldest = self._held(row["oldest"], now)
        load = Load(
            sees_all=row["sees_all"],
            replicas=tuple(self._replica(found, now) for found in row["replicas"]),
            slots=tuple(Slot.model_validate(found) for found in row["slots"]),
            lock_waiters=row["lock_waiters"],
            active_sessions=row["active_sessions"],
            wal_rate=self._rate(now),
            held_rows=held,
            oldest=oldest,
            unvacuumed_rows=work.unvacuumed,
            table=work.table,
            table_rows=work.table_rows,
        )
        self._looks.append(now)
        return load

    def _replica(self, found: Mapping[str, Any], now: _Look) -> Replica:
        behind = max(0, now.wal - found["wal"])
        if behind <= NEGLIGIBLE_BYTES:
            return Replica(name=found["name"], seconds=0.0, bytes=behind)
        said = float(found["seconds"] or 0.0)
        missed = next((look for look in self._looks if look.wal > found["wal"]), None)
        if missed is None:
            # It has replayed what the last look saw, if there was one: so long it can be behind at most.
            seconds = min(said, now.at - self._looks[-1].at) if self._looks else said
        else:
            seconds = now.at - missed.at if missed is not self._looks[0] else max(said, now.at - missed.at)
        return Replica(name=found["name"], seconds=seconds, bytes=behind)

    def _rate(self, now: _Look) -> float | None:
        since = max(self._calm, now.at - RATE_SECONDS)
        first = next((look for look in self._looks if look.at >= since), None)
        if first is None or now.at <= first.at:
            return None
        return (now.wal - first.wal) / (now.at - first.at)

    def _held(self, found: Mapping[str, Any] | None, now: _Look) -> tuple[int, Snapshot | None]:
        """Return how many rows were written since the oldest snapshot was taken, and whose that is."""
        if found is None:
            return 0, None
        horizon = now.xid - int(found["age"])
        free = next((look.written for look in reversed(self._looks) if look.xid <= horizon), 0)
        return now.written - free, Snapshot(who=found["who"], seconds=found["seconds"])


def ask(connection: Connection, own_sql: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ask the user's own questions; return which say no, and which give no answer, in words."""
    answers = [_answer(connection, number, text) for number, text in enumerate(own_sql, start=1)]
    objections = tuple(answer.text for answer in answers if answer.kind == "no")
    return objections, tuple(answer.text for answer in answers if answer.kind == "failed")


@dataclass(frozen=True)
class _Answer:
    kind: Literal["yes", "no", "failed"]
    text: str = ""


def _answer(connection: Connection, number: int, text: str) -> _Answer:
    """Ask one of the user's questions, read-only and briefly. Its result and messages are not repeated."""
    name = f"the throttle's own SQL {number}"
    try:
        with connection.transaction():
            connection.execute("SET TRANSACTION READ ONLY")
            limits(connection, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=OWN_SQL_TIMEOUT_MS)
            rows = connection.execute(text.encode()).fetchmany(2)
    except psycopg.Error as error:
        if connection_lost(error):
            raise
        slow = isinstance(error, psycopg.errors.QueryCanceled)
        why = f"took longer than {OWN_SQL_TIMEOUT_MS:,} ms" if slow else f"failed (SQLSTATE {error.sqlstate})"
        return _Answer("failed", f"{name} {why}")
    match rows:
        case [(True,)]:
            return _Answer("yes")
        case [(False | None,)]:
            return _Answer("no", f"{name} says no")
        case _:
            return _Answer("failed", f"{name} returns no single true or false")
