"""Waiting for old snapshots: transactions that look at the rows as they were before they were filled.

A REPEATABLE READ transaction, or a dump, may begin before a backfill and touch a table only after the new columns have
taken the old ones' names: it would read NULL where every row has a value. CREATE INDEX CONCURRENTLY waits for the same
transactions before it lets an index be used (`WaitForOlderSnapshots` in PostgreSQL's indexcmds.c).

What a standby's queries see is known by its hot_standby_feedback only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import psycopg
from psycopg.rows import TupleRow, class_row

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


def older_snapshots(connection: Connection, migration: str) -> tuple[Blocker, ...]:
    """Return the sessions with a snapshot from before the migration's last finished phase ended, the oldest first."""
    with connection.cursor(row_factory=class_row(Blocker)) as cursor:
        return tuple(cursor.execute(_SQL["older"], {"name": migration}).fetchall())


def await_snapshots(
    connection: Connection, migration: str, what: str, *, seconds: float, hold: Callable[[str], None]
) -> None:
    """Return when no such snapshot is left; ``hold`` hears who is waited for and may raise.

    ``connection`` is in autocommit; ``what`` names the step. Raises SnapshotHeld after ``seconds``, MissingPrivilege.
    """
    session_limits(connection, lock_timeout_ms=LOOK_TIMEOUT_MS, statement_timeout_ms=LOOK_TIMEOUT_MS)
    require_sight(connection)
    deadline = time.monotonic() + seconds
    while holders := older_snapshots(connection, migration):
        if time.monotonic() > deadline:
            raise _held(what, holders, seconds)
        hold(f"{holders[0]} holds a snapshot from before the backfill's end")
        time.sleep(LOOK_SECONDS)


def _held(what: str, holders: Sequence[Blocker], seconds: float) -> SnapshotHeld:
    named = tuple(str(holder) for holder in holders)
    return SnapshotHeld(
        f"{what}: for {seconds:.0f} seconds a transaction has been looking at the rows as they were before they were "
        f"filled; after the switch it would read NULL in them. In the way: {'; '.join(named)}.",
        holders=named,
        remedy="Wait until it ends, or end it:  SELECT pg_terminate_backend("
        f"{holders[0].pid}). Then run again: it continues here.",
    )
