"""What a kind of change contributes to the phases of one table, and what it gets to work with."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, fields
from functools import cached_property

from psycopg import sql

from tasks.planning.catalog import Column, Constraint, Index, Table
from tasks.planning.change import Change
from tasks.planning.data_changes import RowStatement
from tasks.planning.errors import Unsupported
from tasks.planning.names import TableName, own_name, verbatim
from tasks.planning.paces import BUILT_IN, foretold, moved_bytes
from tasks.planning.plan import Action, Forecast, Irreversible, LockMode, LockUse, Note, Step, Transaction, Work
from tasks.planning.retyping import DirectRetype
from tasks.planning.strategies.expand_contract.mapping import Group
from tasks.planning.strategies.expand_contract.stages import Moved, Naming, StageName

SHORT_LOCK_TIMEOUT_MS = 60
"""A *waiting* ACCESS EXCLUSIVE stalls every statement behind it; with retries this bounds one stall below 100 ms."""
PATIENT_LOCK_TIMEOUT_MS = 5_000
"""For SHARE UPDATE EXCLUSIVE and CREATE INDEX CONCURRENTLY's own locks, which no application statement waits for."""
SHORT_STATEMENT_TIMEOUT_MS = 5_000
LONG_STATEMENT_TIMEOUT_MS = 6 * 3_600_000
"""Scans of a whole table; long enough for a billion rows, short enough that a forgotten one ends."""


@dataclass(frozen=True)
class TableChange:
    """One table before and after the user's change, with its mapping groups."""

    migration: str
    before: Table
    after: Table
    groups: tuple[Group, ...]
    settings: tuple[tuple[str, str], ...]
    personal_key: bool
    taken_names: frozenset[str]
    """Names of relations and of this table's constraints that exist before, in the table's schema."""
    direct: tuple[DirectRetype, ...] = ()
    """Columns whose type the server changes where they stand."""
    moved: tuple[Moved, ...] = ()
    """Columns that keep their name in a new column of another type."""
    stage: StageName = "expanded"
    """How those are called in ``before`` and ``after``."""
    found: tuple[Change, ...] = ()
    """The table's differences, without what PostgreSQL made itself of another one."""
    reindexed: tuple[str, ...] = ()
    """Indexes that the user has rebuilt: no catalog shows it."""
    data: tuple[RowStatement, ...] = ()
    """What is done to its rows, in order: Lockstep's own fills first."""
    late: frozenset[str] = frozenset()
    """New columns whose DEFAULT is for later rows only."""

    @property
    def name(self) -> TableName:
        return self.before.name

    @cached_property
    def dropped(self) -> tuple[Column, ...]:
        """Old columns that the target does not have: dropped by the user, or renamed, or given another type."""
        kept = {column.attnum: column for column in self.after.columns}
        return tuple(
            column
            for column in self.before.columns
            if (after := kept.get(column.attnum)) is None or self._is_another(column, after)
        )

    @cached_property
    def new(self) -> tuple[Column, ...]:
        """Columns of the target that have to be created physically."""
        kept = {column.attnum: column for column in self.before.columns}
        return tuple(
            column
            for column in self.after.columns
            if (before := kept.get(column.attnum)) is None or self._is_another(before, column)
        )

    def _is_another(self, before: Column, after: Column) -> bool:
        """Whether the column, one by its number, has to be another one physically: under two names or of two types."""
        if before.name == after.name and before.name in self.direct_names:
            return False
        return (before.name, before.type, before.collation) != (after.name, after.type, after.collation)

    @cached_property
    def direct_names(self) -> frozenset[str]:
        return frozenset(retype.column.name for retype in self.direct)

    @cached_property
    def mapped(self) -> frozenset[str]:
        """Names of the new columns that a mapping group fills."""
        return frozenset(name for group in self.groups for name in group.new.names)

    @cached_property
    def new_names(self) -> frozenset[str]:
        return frozenset(column.name for column in self.new)

    @cached_property
    def dropped_names(self) -> frozenset[str]:
        return frozenset(column.name for column in self.dropped)

    @property
    def own_statements(self) -> tuple[RowStatement, ...]:
        """The UPDATE and DELETE statements of the user's."""
        return tuple(statement for statement in self.data if statement.number)

    @cached_property
    def computed(self) -> frozenset[str]:
        """New columns that rows get their values of by a data step, so not before the backfill."""
        return self.late | (self.new_names & {column for statement in self.data for column in statement.columns})

    @property
    def volatile(self) -> frozenset[str]:
        """New columns whose DEFAULT gives each row a value of its own."""
        return frozenset(column for statement in self.data if not statement.number for column in statement.columns)

    @property
    def late_not_null(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.new if c.not_null and c.name in self.late)

    @property
    def coming_constraints(self) -> tuple[Constraint, ...]:
        """Constraints of the target that involve a new column, carried over or added."""
        return tuple(c for c in self.after.constraints if set(c.columns) & self.new_names and c.kind != "not_null")

    @property
    def coming_indexes(self) -> tuple[Index, ...]:
        """Indexes of the target, other than a constraint's own, that are new or involve a new column."""
        present = {index.oid for index in self.before.indexes}
        return tuple(
            index
            for index in self.after.indexes
            if index.constraint is None and (index.oid not in present or set(index.columns) & self.new_names)
        )

    def is_over_kept(self, columns: tuple[str, ...]) -> bool:
        """Whether all of these columns are there before and after, as the same columns."""
        return not set(columns) & (self.new_names | self.dropped_names)

    @property
    def key(self) -> tuple[str, ...]:
        """The primary key's columns; a table with mapped columns has one, the planner sees to that."""
        key = self.primary_key
        return key.columns if key is not None else ()

    @property
    def primary_key(self) -> Constraint | None:
        """The primary key in force: one over moved columns is the new ones' from the switch on."""
        if self.stage == "switched" and self.has_moved_key:
            return self.after.primary_key
        return self.before.primary_key

    @property
    def has_moved_key(self) -> bool:
        key = self.after.primary_key
        return key is not None and self.moves(key.columns)

    @property
    def naming(self) -> Naming:
        return Naming.of(self.moved, self.stage)

    @cached_property
    def moved_new(self) -> frozenset[str]:
        """The names, in this stage, of the new columns that take the old ones' names."""
        return frozenset(self.naming.new.get(column.name, column.name) for column in self.moved)

    @cached_property
    def moved_old(self) -> frozenset[str]:
        return frozenset(self.naming.old.get(column.name, column.name) for column in self.moved)

    def moves(self, columns: Collection[str]) -> bool:
        """Whether something over these columns of the new shape takes its final name and place at the switch."""
        return bool(set(columns) & self.moved_new)

    def own_name(self, kind: str, column: str) -> str:
        """Return the name of an object of Lockstep's own for a column, the same in both stages."""
        final = {self.naming.new.get(c.name, c.name): c.name for c in self.moved}
        final |= {self.naming.old.get(c.name, c.name): c.name for c in self.moved}
        return own_name(kind, self.migration, *self.name, final.get(column, column))

    def group_of(self, column: str) -> Group:
        """Return the mapping group of a new column."""
        return next(group for group in self.groups if column in group.new.names)

    def is_carried(self, constraint: Constraint) -> bool:
        """Whether the constraint exists before and only follows its columns."""
        return any(constraint.oid == other.oid for other in self.before.constraints)

    def unfilled_bits(self, columns: tuple[str, ...]) -> int:
        return sum(group.unfilled_bit for group in self.groups if set(group.new.names) & set(columns))

    def temporary_name(self, kind: str, name: str) -> str:
        """Return the name itself where it is free, else one of Lockstep's own until contract renames it."""
        return own_name(kind, self.migration, *self.name, name) if name in self.taken_names else name

    def alter(self, text: str, **parts: sql.Composable) -> str:
        """Return ``ALTER TABLE <this table> <text>``."""
        return (verbatim("ALTER TABLE {table} " + text)).format(table=self.name.identifier, **parts).as_string()

    def every_row(self, work: Work) -> Forecast:
        """Return the forecast of work on every row, at the rates that are built in."""
        heap, toast = self.before.bytes - self.before.toast_bytes, self.before.toast_bytes
        return foretold(work, self.before.rows, BUILT_IN[work], moved_bytes(work, heap, toast))


@dataclass(frozen=True)
class Contribution:
    """What is added to the phases of a table. Statements join the table's one transaction, steps stand alone."""

    expand_columns: tuple[str, ...] = ()
    expand_checks: tuple[str, ...] = ()
    expand_undo: tuple[str, ...] = ()
    opening_references: tuple[Step, ...] = ()
    """Foreign keys that go once the new version may come: before the keys that they point to."""
    opening: tuple[Step, ...] = ()
    """What lets in statements that only the new version sends, and that the old one does not mind."""
    constrain: tuple[Step, ...] = ()
    constrain_after: tuple[Step, ...] = ()
    """After the indexes of all tables are there: foreign keys between new columns."""
    validated: tuple[str, ...] = ()
    """Constraints that have to be valid once `constrain` is done."""
    retype: tuple[Step, ...] = ()
    """Changes of type that need no rewrite; before the new application version may be deployed."""
    switch: tuple[Step, ...] = ()
    contract_before: tuple[Step, ...] = ()
    demands: tuple[str, ...] = ()
    """What a statement must keep to from contract on, and need not before: in words."""
    enforce: tuple[Step, ...] = ()
    """Makes the demands, in contract."""
    enforce_references: tuple[Step, ...] = ()
    """The foreign keys among them: after the keys that they point to."""
    contract_tighten: tuple[str, ...] = ()
    """In the contract transaction, while both shapes are still there."""
    contract_drop: tuple[str, ...] = ()
    contract_rename: tuple[str, ...] = ()
    """In the contract transaction, after the old shape is gone and its names are free."""
    contract_undo: tuple[str, ...] = ()
    """Takes ``contract_rename`` back, where the contract transaction has nothing else to do."""
    contract_after: tuple[Step, ...] = ()
    notes: tuple[Note, ...] = ()

    def __add__(self, other: Contribution) -> Contribution:
        return Contribution(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


NOTHING = Contribution()


def short_step(
    change: TableChange, id_: str, title: str, statements: tuple[str, ...], *,
    undo: tuple[Action, ...] | Irreversible = (), mode: LockMode = "ACCESS EXCLUSIVE",
) -> Step:  # fmt: skip
    """Return a step of catalog changes only, under a short lock timeout."""
    return Step(
        id=id_,
        title=title,
        action=Transaction(statements=statements),
        locks=(LockUse(table=change.name, mode=mode),),
        lock_timeout_ms=SHORT_LOCK_TIMEOUT_MS,
        statement_timeout_ms=SHORT_STATEMENT_TIMEOUT_MS,
        undo=undo,
        forecast=Forecast(best=0.01, worst=0.05),
    )


def validate_step(change: TableChange, id_: str, constraint: str) -> Step:
    """Return VALIDATE CONSTRAINT in a transaction of its own: a scan that blocks neither reads nor writes."""
    return Step(
        id=id_,
        title=f"Validate {constraint} on {change.name}",
        action=Transaction(statements=(change.alter("VALIDATE CONSTRAINT {c}", c=sql.Identifier(constraint)),)),
        locks=(LockUse(table=change.name, mode="SHARE UPDATE EXCLUSIVE"),),
        lock_timeout_ms=PATIENT_LOCK_TIMEOUT_MS,
        statement_timeout_ms=LONG_STATEMENT_TIMEOUT_MS,
        forecast=change.every_row("validation"),
    )


def long_transaction(statement: str) -> Transaction:
    """Return the action of one statement that scans the table, for the undo of a short step."""
    return Transaction(
        statements=(statement,), statement_timeout_ms=LONG_STATEMENT_TIMEOUT_MS, lock_timeout_ms=PATIENT_LOCK_TIMEOUT_MS
    )


def check_expression(constraint: Constraint) -> str:
    """Return the expression of a CHECK constraint's definition, without its parentheses."""
    match = re.fullmatch(r"CHECK \((.*)\)(?: NOT VALID)?", constraint.definition, re.DOTALL)
    if match is None:
        raise Unsupported(
            f"the constraint {constraint.name} ({constraint.definition})",
            instead="Only plain CHECK constraints (no NO INHERIT, no NOT ENFORCED) can be carried over yet.",
        )
    return match.group(1)
