"""Statements that run outside a transaction (CONCURRENTLY, VACUUM …), really run, with a second session looking on.

Their locks come and go with their phases, so the statement is made to wait where they show: transactions of Lockstep's
own hold locks that it has to wait for, and end one after the other as soon as it waits for them.

- CONCURRENTLY waits for every transaction that writes the table, and has taken its own lock by then; DETACH waits again
  for whoever uses the partition.
- VACUUM waits for the lock itself: what a session requests shows as well as what it has.

All of it happens on a clone, where nobody else is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from tasks.database.connection import Target, connect
from tasks.database.observation import SQL, Observation, Observer, strongest
from tasks.planning import parser
from tasks.planning.errors import MigrationError
from tasks.planning.names import TableName
from tasks.planning.parse_tree import walk
from tasks.planning.plan import LockMode
from tasks.planning.statements import Statement

Connection = psycopg.Connection[TupleRow]

LOOK_EVERY_S = 0.002
LONGEST_S = 120
"""On a clone nothing is long: what takes longer waits for something that nobody foresaw."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """A transaction that holds a lock on some relations, to make the statement wait."""

    relations: tuple[int, ...]
    mode: LockMode


def run_outside(connection: Connection, target: Target, statement: Statement, observer: Observer) -> Observation:
    """Run a statement outside a transaction on ``target``, a clone that ``connection`` is connected to; observe it.

    Raises psycopg.Error where the server refuses it, MigrationError when it does not come to an end.
    """
    observer.begin_outside()
    locks: dict[int, LockMode] = {}
    with ExitStack() as stack:
        watcher = stack.enter_context(connect(target, role="oracle-watch"))
        waiting = [
            stack.enter_context(_held(target, watcher, obstacle)) for obstacle in _obstacles(connection, statement)
        ]
        work = _Work(connection, statement)
        deadline = time.monotonic() + LONGEST_S
        while work.is_alive():
            locks = _merged(locks, watcher, work.pid)
            if waiting and _waits_for(watcher, waiting[0], work.pid):
                locks = _merged(locks, watcher, work.pid)
                waiting.pop(0).rollback()
            if time.monotonic() > deadline:
                connection.cancel()
                raise MigrationError(
                    f"On the clone, {_words(statement)} did not end within {LONGEST_S} s.",
                    safety="Only the clone was touched.",
                )
            time.sleep(LOOK_EVERY_S)
    work.join()
    if work.error is not None:
        raise work.error
    return observer.end_outside(locks)


class _Work(threading.Thread):
    def __init__(self, connection: Connection, statement: Statement) -> None:
        super().__init__(daemon=True)
        self.pid = connection.info.backend_pid
        self.error: psycopg.Error | None = None
        self._connection = connection
        self._text = statement.sql.encode()
        self.start()

    def run(self) -> None:
        try:
            self._connection.execute(self._text)
        except psycopg.Error as error:
            self.error = error


def _words(statement: Statement) -> str:
    text = " ".join(statement.sql.split())
    return text if len(text) <= 120 else f"{text[:119]}…"


def _merged(known: dict[int, LockMode], watcher: Connection, pid: int) -> dict[int, LockMode]:
    rows = watcher.execute(SQL["requests"], {"pid": pid}).fetchall()
    mine = [(oid, f"{mode.title().replace(' ', '')}Lock") for oid, mode in known.items()]
    return strongest([*mine, *rows])


def _waits_for(watcher: Connection, obstacle: Connection, pid: int) -> bool:
    found = watcher.execute(SQL["waits_for"], {"pid": pid, "blockers": [obstacle.info.backend_pid]}).fetchone()
    return bool(found and found[0])


@contextmanager
def _held(target: Target, watcher: Connection, obstacle: Obstacle) -> Iterator[Connection]:
    with connect(target, role="oracle-obstacle") as connection:
        connection.execute("BEGIN")
        for oid in obstacle.relations:
            for name in watcher.execute(SQL["name_of"], {"oid": oid}).fetchall():
                lock = sql.SQL("LOCK TABLE {} IN {} MODE").format(sql.Identifier(*name), sql.SQL(obstacle.mode))
                connection.execute(lock)
        yield connection


def _obstacles(connection: Connection, statement: Statement) -> tuple[Obstacle, ...]:
    """Return what makes the statement wait, in the order in which it will."""
    tables = _resolved(connection, _named(statement))
    if not tables:
        return ()
    match statement.kind:
        case "vacuum":
            # Not a stronger one: VACUUM looks its tables up under ACCESS SHARE first, and must come through with that.
            return tuple(Obstacle((table,), "SHARE UPDATE EXCLUSIVE") for table in tables)
        case "alter_table":
            # DETACH PARTITION: first for those who use the parent, then for those who use the partition.
            return (Obstacle(tables[:1], "ROW EXCLUSIVE"), Obstacle(tables[1:], "ACCESS SHARE"))
        case _:
            return (Obstacle(tables, "ROW EXCLUSIVE"),)


def _named(statement: Statement) -> tuple[TableName, ...]:
    """Return the tables and indexes that the statement names, as written."""
    node = parser.parse(statement.sql)[0].node
    found = [
        TableName(message.schemaname, message.relname) for message in walk(node) if type(message).__name__ == "RangeVar"
    ]
    if statement.kind == "drop_index":
        for item in node.objects:
            parts = [part.string.sval for part in item.list.items]
            found.append(TableName(parts[-2] if len(parts) > 1 else "", parts[-1]))
    return tuple(found)


def _resolved(connection: Connection, names: Sequence[TableName]) -> tuple[int, ...]:
    """Return the OIDs of the tables that are there, an index standing for its own."""
    found: list[int] = []
    for name in names:
        written = sql.Identifier(*(part for part in name if part)).as_string(connection)
        row = connection.execute(SQL["relation_of"], {"name": written}).fetchone()
        if row is not None and row[0] not in found:
            found.append(int(row[0]))
    return tuple(found)
