"""Watching one session at work on a clone: its locks, what it wrote, rewrote, read as a whole, and announced.

Everything is read in the session's own transaction: locks from pg_locks, work from its own statistics, which count at
once, and from the files of the relations. What the server announces at DEBUG1 adds what no catalog tells; messages are
told apart by the function that wrote them, whatever the language and the version (`Announcement`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import psycopg
from psycopg.rows import TupleRow

from tasks.database.queries import queries
from tasks.planning.names import TableName
from tasks.planning.plan import LOCK_ORDER, LockMode

Connection = psycopg.Connection[TupleRow]

SQL = queries("statement_trace")

MODES: Mapping[str, LockMode] = {mode.title().replace(" ", "") + "Lock": mode for mode in LOCK_ORDER}

TABLES = frozenset("rpf")
INDEXES = frozenset("iI")
VIEWS = frozenset("vm")

_QUOTED = re.compile(r'["„“«‹]\s?(.+?)\s?["“”»›]')
"""A name as messages print it; the quotes are those of the server's language."""

REWRITE_OR_CHECK, BUILD, REFERENCE, PROVEN = (
    "ATRewriteTable",
    "index_build",
    "validateForeignKeyConstraint",
    "NotNullImpliedByRelConstraints",
)
"""The server's functions that announce: "rewriting table" and "verifying table", "building index … on table …",
"validating foreign key constraint …", "existing constraints on column … are sufficient to prove …"."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """A message at DEBUG1: the function of the server that wrote it, and the names that it quotes."""

    function: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Relation:
    oid: int
    name: TableName
    kind: str
    """``pg_class.relkind``."""
    file: int
    """``pg_class.relfilenode``: another one is another copy of the content; 0 where there is none."""
    table: int
    """The table of an index, 0 of anything else."""


Relations = dict[int, Relation]
"""Every relation of the user's, by OID."""


@dataclass(frozen=True, slots=True)
class NewConstraint:
    """A constraint whose row the statement wrote."""

    oid: int
    name: str
    kind: str
    """``pg_constraint.contype``."""
    validated: bool
    table: int
    referenced: int
    domain: int
    index: int


@dataclass(frozen=True, slots=True)
class Observation:
    """What one statement did. Relations are given by OID."""

    locks: Mapping[int, LockMode]
    """The strongest lock that the transaction has on each relation, those of the system included."""
    scans: frozenset[int] = frozenset()
    """Tables that it began to read as a whole."""
    touched: Mapping[int, Relation] = field(default_factory=dict)
    """Relations whose row of pg_class it wrote, as they are now."""
    columns_of: frozenset[int] = frozenset()
    depended_on: frozenset[int] = frozenset()
    """Relations that something new depends on."""
    constraints: tuple[NewConstraint, ...] = ()
    written: Mapping[str, tuple[int, int, int]] | None = None
    """Per catalog that it wrote: rows inserted, updated, deleted. None where nobody counted."""
    announced: tuple[Announcement, ...] = ()


class Observer:
    """Watches the statements of one session. ``relations`` is what there is, kept up to date by `follow`.

    Thousands of tables take a while to read: who knows what is there gives it.
    """

    def __init__(self, connection: Connection, relations: Relations | None = None) -> None:
        self._connection = connection
        self._announced: list[Announcement] = []
        self._scans: dict[int, int] = {}
        self._written: dict[str, tuple[int, int, int]] = {}
        self._since = 0
        self.relations: Relations = read_relations(connection) if relations is None else relations
        self.counts = _is_on(connection, "track_counts")
        connection.add_notice_handler(self._note)

    def _note(self, notice: psycopg.errors.Diagnostic) -> None:
        names = tuple(_QUOTED.findall(notice.message_primary or ""))
        self._announced.append(Announcement(notice.source_function or "", names))

    def begin(self) -> None:
        """Look before a statement, in its transaction."""
        self._connection.execute("SET LOCAL client_min_messages = debug1")
        self._since = number(self._connection, "now")
        self._scans = self._count_scans()
        self._written = self._count_written()
        self._announced.clear()

    def begin_outside(self) -> None:
        """Look before a statement that runs outside a transaction."""
        self._connection.execute("SET client_min_messages = debug1")
        self._since = number(self._connection, "now")
        self._announced.clear()

    def end(self) -> Observation:
        """Look after the statement, in its transaction still."""
        announced = tuple(self._announced)
        seen = Observation(locks=strongest(self._connection.execute(SQL["locks"]).fetchall()), announced=announced)
        scans = self._count_scans()
        written = {
            name: (after[0] - before[0], after[1] - before[1], after[2] - before[2])
            for name, after in self._count_written().items()
            if after != (before := self._written.get(name, (0, 0, 0)))
        }
        seen = replace(
            seen,
            scans=frozenset(oid for oid, count in scans.items() if count > self._scans.get(oid, 0)),
            written=written if self.counts else None,
        )
        return self._with_rows(seen) if written or not self.counts else seen

    def end_outside(self, locks: Mapping[int, LockMode]) -> Observation:
        """Look after a statement that ran outside a transaction, whose locks somebody else read."""
        self._connection.execute("RESET client_min_messages")
        return self._with_rows(Observation(locks=locks, announced=tuple(self._announced)))

    def _with_rows(self, seen: Observation) -> Observation:
        since = {"since": self._since}
        return replace(
            seen,
            touched={row[0]: relation_of(row) for row in self._connection.execute(SQL["touched"], since).fetchall()},
            columns_of=self._numbers("columns_touched"),
            depended_on=self._numbers("dependencies_touched"),
            constraints=tuple(
                NewConstraint(*row) for row in self._connection.execute(SQL["constraints_touched"], since).fetchall()
            ),
        )

    def _numbers(self, query: str) -> frozenset[int]:
        rows = self._connection.execute(SQL[query], {"since": self._since}).fetchall()
        return frozenset(int(row[0]) for row in rows)

    def follow(self, seen: Observation) -> None:
        """Bring ``relations`` up to date. What was dropped stays: its OID does not come again."""
        if seen.written is None or "pg_namespace" in seen.written:
            self.relations |= read_relations(self._connection)
        else:
            self.relations |= seen.touched

    def _count_scans(self) -> dict[int, int]:
        return {int(row[0]): int(row[1]) for row in self._connection.execute(SQL["scans"]).fetchall()}

    def _count_written(self) -> dict[str, tuple[int, int, int]]:
        found = self._connection.execute(SQL["written"]).fetchall()
        return {str(row[0]): (int(row[1]), int(row[2]), int(row[3])) for row in found}


def speak_plainly(connection: Connection) -> None:
    """Have the server write its messages in English where the role may choose that."""
    with suppress(psycopg.errors.InsufficientPrivilege, psycopg.errors.InvalidParameterValue):
        connection.execute("SET lc_messages = 'C'")


def read_relations(connection: Connection) -> Relations:
    return {row[0]: relation_of(row) for row in connection.execute(SQL["relations"]).fetchall()}


def strongest(rows: Sequence[TupleRow]) -> dict[int, LockMode]:
    """Return the strongest of the locks on each relation, from rows of OID and mode as pg_locks prints it."""
    found: dict[int, LockMode] = {}
    for oid, printed in rows:
        mode = MODES.get(printed)
        if mode is None:  # SIReadLock, which is no lock
            continue
        known = found.get(oid)
        if known is None or LOCK_ORDER.index(mode) > LOCK_ORDER.index(known):
            found[oid] = mode
    return found


def number(connection: Connection, query: str) -> int:
    row = connection.execute(SQL[query]).fetchone()
    if row is None:
        raise AssertionError(f"{query} returned no row")
    return int(row[0])


def relation_of(row: TupleRow) -> Relation:
    oid, schema, name, kind, file, table = row
    return Relation(oid, TableName(schema, name), kind, file, table)


def _is_on(connection: Connection, setting: str) -> bool:
    row = connection.execute("SELECT current_setting(%s)::bool", (setting,)).fetchone()
    return bool(row and row[0])
