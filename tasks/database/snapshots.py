"""Waiting for old snapshots: transactions that look at the rows as they were before they were filled.

A REPEATABLE READ transaction, or a dump, may begin before a backfill and touch a table only after the new columns have
taken the old ones' names: it would read NULL where every row has a value. CREATE INDEX CONCURRENTLY waits for the same
transactions before it lets an index be used (`WaitForOlderSnapshots` in PostgreSQL's indexcmds.c).

What a standby's queries see is known by its hot_standby_feedback only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import psycopg
from psycopg.rows import TupleRow, class_row, dict_row

from tasks.database.connection import session_limits
from tasks.database.locks import Blocker
from tasks.database.queries import queries
from tasks.planning.errors import MissingPrivilege, SnapshotHeld

Connection = psycopg.Connection[TupleRow]

LOOK_SECONDS = 0.2
LOOK_TIMEOUT_MS = 5_000
_SQL = queries("snapshots")


def require_sight(connection: Connection) -> None:
    """Raise MissingPrivilege where the role does not see what snapshots other roles' sessions hold."""
    seen = connection.execute(_SQL["sight"]).fetchone()
    if seen != (True,):
        user = connection.info.user
        raise MissingPrivilege(
            f"The role {user!r} does not see the snapshots of other roles' sessions. Before a new column takes the "
            "name of an old one, transactions that still see the rows unfilled have to end.",
            grant=f'GRANT pg_monitor TO "{user}"',
        )


@dataclass(frozen=True)
class Held:
    """Who holds old snapshots: sessions, the oldest first, and the slots of standbys, in words."""

    sessions: tuple[Blocker, ...]
    slots: tuple[str, ...]

    @property
    def named(self) -> tuple[str, ...]:
        return (*map(str, self.sessions), *self.slots)


def _older_snapshots(connection: Connection, values: Mapping[str, object]) -> Held:
    """Return who has a snapshot from before the transaction ``mark`` ended; nobody where there is none."""
    with connection.cursor(row_factory=class_row(Blocker)) as cursor:
        sessions = tuple(cursor.execute(_SQL["older"], values).fetchall())
    return Held(sessions, tuple(str(row[0]) for row in connection.execute(_SQL["older_slots"], values)))


def await_snapshots(
    connection: Connection, migration: str, what: str, *, seconds: float, hold: Callable[[str], None]
) -> None:
    """Return when no such snapshot is left; ``hold`` hears who is waited for and may raise.

    ``connection`` is in autocommit; ``what`` names the step. Raises SnapshotHeld after ``seconds``, MissingPrivilege.
    """
    session_limits(connection, lock_timeout_ms=LOOK_TIMEOUT_MS, statement_timeout_ms=LOOK_TIMEOUT_MS)
    require_sight(connection)
    deadline = time.monotonic() + seconds
    with connection.cursor(row_factory=dict_row) as cursor:
        mark = cursor.execute(_SQL["mark"], {"name": migration}).fetchone() or {"mark": None}
        now = cursor.execute(_SQL["now"]).fetchone() or {}
    while (held := _older_snapshots(connection, mark | now)).named:
        if time.monotonic() > deadline:
            raise _refused(what, held, seconds)
        hold(f"{held.named[0]} holds a snapshot from before the backfill's end")
        time.sleep(LOOK_SECONDS)


def _refused(what: str, held: Held, seconds: float) -> SnapshotHeld:
    end = f", or end it:  SELECT pg_terminate_backend({held.sessions[0].pid})" if held.sessions else ""
    return SnapshotHeld(
        f"{what}: for {seconds:.0f} seconds a transaction has been looking at the rows as they were before they were "
        f"filled; after the switch it would read NULL in them. In the way: {'; '.join(held.named)}.",
        holders=held.named,
        remedy=f"Wait until it ends{end}. Then run again: it continues here.",
    )
