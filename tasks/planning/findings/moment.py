"""What a rule may look at: one statement's facts, those of its file, and what is known of the live database."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from tasks.planning import parser
from tasks.planning.catalog import Catalog, Column, SchemaObject, Table
from tasks.planning.facts import StatementFacts
from tasks.planning.findings.allowances import Allowance
from tasks.planning.names import TableName, relation_name
from tasks.planning.parse_tree import Node
from tasks.planning.plan import LOCK_ORDER, LockMode
from tasks.planning.transactions import control

T = TypeVar("T")

BLOCKING: frozenset[LockMode] = frozenset(LOCK_ORDER[LOCK_ORDER.index("SHARE") :])
"""Locks under which nobody writes; under the last of them nobody reads either."""


@dataclass(frozen=True)
class Moment:
    """A statement of a file. What was there before the file began is what a running application can use."""

    now: StatementFacts
    file: tuple[StatementFacts, ...]
    """All statements of the file, in order; ``now`` is one of them."""
    live: Catalog | None = None
    """The live database, where one is known: its sizes, publications and version."""
    allowances: tuple[Allowance, ...] = ()
    """The comments at this statement that allow a finding."""

    @cached_property
    def node(self) -> Node:
        """The statement's parse tree."""
        return parser.parse(self.now.statement.sql)[0].node

    @property
    def kind(self) -> str:
        return self.now.statement.kind

    def did(self, kind: type[T]) -> Iterator[T]:
        """Yield the differences of one kind that the statement made in the catalog."""
        return (change for change in self.now.changes if isinstance(change, kind))

    @cached_property
    def before(self) -> tuple[StatementFacts, ...]:
        """The statements before this one in its file."""
        return self.file[: self._position]

    @cached_property
    def after(self) -> tuple[StatementFacts, ...]:
        """The statements after this one in its file."""
        return self.file[self._position + 1 :]

    @cached_property
    def _position(self) -> int:
        return bisect_left(self.file, self.now.index, key=lambda facts: facts.index)

    @cached_property
    def earlier(self) -> tuple[StatementFacts, ...]:
        """The statements before this one in its transaction."""
        return tuple(self._back())[::-1]

    def _back(self) -> Iterator[StatementFacts]:
        """Yield them from the last to the first."""
        for facts in reversed(self.before if self.now.in_transaction else ()):
            if not facts.in_transaction or control(facts.statement) in ("commit", "rollback"):
                return
            yield facts

    @property
    def start(self) -> Catalog:
        return self.file[0].before

    @property
    def end(self) -> Catalog:
        """The catalog when the file is through, or where it stopped."""
        return next((facts.after for facts in reversed(self.file) if facts.refused is None), self.start)

    @property
    def server_version(self) -> int:
        """``server_version_num`` of the live server, else of the one that the statements were run on."""
        return (self.live or self.start).server_version

    # -------------------------------------------------------------------------------------------- locks and work

    @cached_property
    def blocked(self) -> Mapping[TableName, LockMode]:
        """The relations that nobody can write (or read) while this statement works, whoever took the lock."""
        return self._blocking(_strongest(self.now.held, self.now.own))

    @cached_property
    def blocked_by_itself(self) -> Mapping[TableName, LockMode]:
        return self._blocking(self.now.own)

    @cached_property
    def blocked_before(self) -> Mapping[TableName, LockMode]:
        """The relations that its transaction had locked already when this statement began."""
        last = next(self._back(), None)
        return self._blocking(last.held) if last else {}

    def _blocking(self, locks: Mapping[TableName, LockMode]) -> dict[TableName, LockMode]:
        return {
            table: mode
            for table, mode in sorted(locks.items())
            # Nobody writes a materialized view: only what blocks its readers blocks anybody.
            if mode in BLOCKING and (mode == "ACCESS EXCLUSIVE" or table not in self._materialized)
        }

    @cached_property
    def _materialized(self) -> frozenset[TableName]:
        return frozenset(
            relation_name(item.name) for item in self.now.before.objects if item.kind == "materialized view"
        )

    @property
    def works(self) -> bool:
        """Whether it takes the longer the more rows there are: it rewrites, reads all of a table, builds an index."""
        return bool(self.now.rewrites or self.now.scans or self.now.index_builds)

    @property
    def works_while_blocking(self) -> bool:
        return self.works and bool(self.blocked)

    def lock_of(self, table: TableName) -> str:
        """Return the lock that blocks while ``table`` is worked on, in words, with who took it if it was not this."""
        mode, on = self.blocked.get(table), table
        if mode is None:
            on, mode = max(self.blocked.items(), key=lambda lock: LOCK_ORDER.index(lock[1]))
        words = f"{mode} on {on}"
        if self.blocked_by_itself.get(on) == mode:
            return words
        taker = next((facts for facts in self.earlier if facts.own.get(on) == mode), None)
        return f"{words}, held since line {taker.statement.line}" if taker else f"{words}, held by its transaction"

    # -------------------------------------------------------------------------------------------- what was there

    def original(self, table: TableName) -> Table | None:
        """Return a table as it was before the file began, by the name that it has now; None for a new one."""
        known = self.now.before.table(table)
        if known is None:
            return None
        return next((item for item in self.start.tables if item.oid == known.oid), None)

    def original_column(self, table: TableName, column: Column) -> Column | None:
        """Return a column as it was before the file began; None for a new one."""
        known = self.original(table)
        return next((item for item in known.columns if item.attnum == column.attnum), None) if known else None

    def original_object(self, item: SchemaObject) -> SchemaObject | None:
        """Return an object that is no table as it was before the file began; None for a new one."""
        return next((known for known in self.start.objects if known.oid == item.oid), None)

    def at_end(self, table: TableName) -> Table | None:
        """Return a table as it is when the file is through, by the name that it has now."""
        known = self.now.after.table(table) or self.now.before.table(table)
        if known is None:
            return None
        return next((item for item in self.end.tables if item.oid == known.oid), None)

    def originals(self, tables: Iterable[TableName]) -> tuple[TableName, ...]:
        return tuple(table for table in tables if self.original(table) is not None)


def _strongest(*locks: Mapping[TableName, LockMode]) -> dict[TableName, LockMode]:
    found: dict[TableName, LockMode] = {}
    for table, mode in sorted(item for held in locks for item in held.items()):
        found[table] = max(found.get(table, mode), mode, key=LOCK_ORDER.index)
    return found
