"""The gates of expand-contract: which checks stand before and after which phase.

A failure before anything was changed is bad data of the user's, not corruption. From the backfill on, a broken
reference, key or rule counts as corruption: it was not so at the start, because the first gate saw to that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tasks.planning.catalog import Constraint, Table
from tasks.planning.checks.aggregates import aggregates, row_count
from tasks.planning.checks.parity import parity
from tasks.planning.checks.references import orphans
from tasks.planning.checks.rules import evaluates, not_null, rule
from tasks.planning.checks.sync import (
    DOWN_BITS,
    QUIET_SECONDS,
    UP_BITS,
    old_writers,
    sync_conflicts,
    sync_failures,
    unfilled,
    unheld,
)
from tasks.planning.checks.triggers import sync_trigger
from tasks.planning.checks.uniqueness import UniqueKey, duplicates, unique_keys
from tasks.planning.checks.validity import constraint_validity, index_validity, schema
from tasks.planning.names import TableName
from tasks.planning.plan import Assignment, Check, Gate, MappedGroup, Severity


@dataclass(frozen=True)
class BusinessRule:
    """A rule of the spec: ``where`` reads ``columns`` and has to be true for every row of ``table``."""

    name: str
    table: TableName
    where: str
    columns: frozenset[str]
    severity: Severity = "CRITICAL"


@dataclass(frozen=True)
class Coming:
    """What the change will demand of the rows of ``table``, which does not have its new columns yet.

    ``projected`` is new column → SQL over the row as it is, see `projection`. ``conditions`` are (name, expression)
    of CHECK constraints, which accept unknown.
    """

    table: Table
    projected: Mapping[str, str]
    unique: tuple[UniqueKey, ...] = ()
    not_null: tuple[str, ...] = ()
    conditions: tuple[tuple[str, str], ...] = ()
    foreign_keys: tuple[Constraint, ...] = ()


@dataclass(frozen=True)
class Scope:
    """The tables a gate looks at: the ``changed`` ones, and ``others`` that refer to them or have rules."""

    changed: tuple[Table, ...]
    others: tuple[Table, ...] = ()
    personal: frozenset[str] = frozenset()
    """``schema.table.column``."""
    rules: tuple[BusinessRule, ...] = ()
    user_suites: tuple[str, ...] = ()
    sync_triggers: Mapping[TableName, str] = field(default_factory=dict)
    """The sync trigger of each table that has one."""


@dataclass(frozen=True)
class Promised:
    """Indexes and constraints, by table, that have to exist and be valid by now."""

    indexes: Mapping[TableName, Sequence[str]] = field(default_factory=dict)
    constraints: Mapping[TableName, Sequence[str]] = field(default_factory=dict)
    excused: Mapping[TableName, Sequence[str]] = field(default_factory=dict)
    """Indexes that may be invalid, because the change drops or rebuilds them."""


def projection(up: Sequence[Assignment], target: Table) -> dict[str, str]:
    """Return new column → SQL over the old row, cast to the type the column has in ``target`` where it is there."""
    projected = {}
    for assignment in up:
        column = target.column(assignment.column)
        text = f"({assignment.expression})"
        projected[assignment.column] = text if column is None else f"CAST({text} AS {column.type})"
    return projected


def preflight_gate(scope: Scope, coming: Sequence[Coming] = (), promised: Promised | None = None) -> Gate:
    """Return the gate before anything is changed: the old data is sound, and the new demands will hold."""
    return Gate(
        name="preflight",
        title="The data is sound, and the change can be applied to it",
        checks=(
            *(row_count(table) for table in scope.changed),
            *(schema(table) for table in scope.changed),
            *_soundness(scope, corruption=False),
            # A key keeps its name when its column is renamed, so the present and the coming one may be namesakes.
            *_as_coming(_coming(scope, coming)),
            *_index_validity(scope, promised or Promised()),
        ),
        user_suites=scope.user_suites,
    )


def backfill_gate(migration: str, scope: Scope, groups: Sequence[MappedGroup], changed: Sequence[Check] = ()) -> Gate:
    """Return the gate after the backfill: every row has both shapes and no write failed to reach the other.

    ``changed`` are the checks of the data changes.
    """
    return Gate(
        name="backfill",
        title="Every row has both shapes" if groups else "Every row is changed as the change says",
        checks=(*(row_count(table) for table in scope.changed), *_in_step(migration, scope, groups), *changed),
    )


def equality_gate(migration: str, scope: Scope, groups: Sequence[MappedGroup], promised: Promised) -> Gate:
    """Return the gate before the switch: old and new say the same, and everything promised is in force.

    The tables of ``scope`` are the expanded ones.
    """
    return Gate(
        name="equality",
        title="Both shapes say the same, and every index and constraint is in force",
        checks=(
            *(schema(table) for table in scope.changed),
            *_in_step(migration, scope, groups),
            *_parity(scope, groups),
            *_soundness(scope, corruption=True),
            *_index_validity(scope, promised),
            *_constraint_validity(promised),
        ),
        user_suites=scope.user_suites,
    )


def contract_gate(
    migration: str,
    scope: Scope,
    groups: Sequence[MappedGroup],
    promised: Promised,
    asked: Sequence[Coming] = (),
    *,
    counted: Sequence[TableName] = (),
    quiet_seconds: int = QUIET_SECONDS,
) -> Gate:
    """Return the gate before the old shape is removed: equal still, and nobody writes the old shape.

    ``asked`` are the demands on columns that stay, which are made next: every row has to keep to them by now.

    A value that the old shape cannot hold is a warning here: contract keeps the value, and only going back loses it.
    A one-way group is not compared any more: the new application writes its columns as it likes. ``counted`` are
    tables that go altogether.
    """
    mapped = set(_mapped(groups))
    changed = [table for table in scope.changed if table.name in mapped]
    return Gate(
        name="contract",
        title="Both shapes still say the same, and no session writes the old one",
        checks=(
            *(unfilled(table, personal=scope.personal, bits=UP_BITS) for table in changed),
            *(unheld(table, personal=scope.personal) for table in changed),
            *(sync_failures(migration, table.name, ("up",)) for table in changed),
            *(sync_conflicts(migration, table.name) for table in changed),
            *(sync_trigger(*item) for item in scope.sync_triggers.items()),
            *_parity(scope, [group for group in groups if group.down], left_out=DOWN_BITS),
            *_index_validity(scope, promised),
            *_constraint_validity(promised),
            *(old_writers(migration, table, quiet_seconds) for table in (*_mapped(groups), *counted)),
            *_as_coming(_coming(scope, asked)),
        ),
    )


def final_gate(scope: Scope, promised: Promised) -> Gate:
    """Return the gate at the end: the tables, now as the user wants them, are sound.

    Rules that read a column of the old shape are over.
    """
    return Gate(
        name="final",
        title="The migrated data is sound",
        checks=(
            *(row_count(table) for table in scope.changed),
            *(schema(table) for table in scope.changed),
            *_soundness(scope, corruption=True),
            *_index_validity(scope, promised),
            *_constraint_validity(promised),
        ),
        user_suites=scope.user_suites,
    )


def _soundness(scope: Scope, *, corruption: bool) -> Iterator[Check]:
    """Yield orphans over every foreign key from and to the changed tables, duplicates, and the rules that apply."""
    names = {table.name for table in scope.changed}
    for table in (*scope.changed, *scope.others):
        for constraint in table.constraints:
            concerned = table.name in names or constraint.references in names
            if constraint.kind == "foreign_key" and concerned and not constraint.inherited:
                yield orphans(constraint, table, personal=scope.personal, corruption=corruption)
    for table in scope.changed:
        for key in unique_keys(table):
            yield duplicates(table, key, personal=scope.personal, corruption=corruption)
    everything = {table.name: table for table in (*scope.changed, *scope.others)}
    for item in scope.rules:
        # A rule about another table is a KeyError: left out, it would hold unseen.
        subject = everything[item.table]
        if item.columns <= {column.name for column in subject.columns}:
            yield rule(item.name, subject, item.where, item.severity, personal=scope.personal, corruption=corruption)


def _coming(scope: Scope, coming: Sequence[Coming]) -> Iterator[Check]:
    for demand in coming:
        table, projected, personal = demand.table, demand.projected, scope.personal
        if projected:
            yield evaluates(table, projected)
        for key in demand.unique:
            yield duplicates(table, key, personal=personal, projected=projected)
        for column in demand.not_null:
            yield not_null(table, column, personal=personal, projected=projected)
        for name, expression in demand.conditions:
            condition = f"({expression}) IS NOT FALSE"
            yield rule(name, table, condition, personal=personal, projected=projected)
        for foreign_key in demand.foreign_keys:
            yield orphans(foreign_key, table, personal=personal, projected=projected)


def _as_coming(checks: Iterator[Check]) -> Iterator[Check]:
    for check in checks:
        yield check.model_copy(update={"id": f"{check.id}:coming"})


def _in_step(migration: str, scope: Scope, groups: Sequence[MappedGroup]) -> Iterator[Check]:
    for name, trigger in scope.sync_triggers.items():
        yield sync_trigger(name, trigger)
    for name in _mapped(groups):
        for table in scope.changed:
            if table.name == name:
                yield unfilled(table, personal=scope.personal)
        yield sync_failures(migration, name)
        yield sync_conflicts(migration, name)


def _parity(scope: Scope, groups: Sequence[MappedGroup], left_out: int = 0) -> Iterator[Check]:
    tables = {table.name: table for table in scope.changed}
    for group in groups:
        # A group without new columns only fills old ones for the new application: there is nothing to compare.
        if group.new:
            yield parity(group, tables[group.table], personal=scope.personal, left_out=left_out)
            yield aggregates(group, tables[group.table], personal=scope.personal, left_out=left_out)


def _index_validity(scope: Scope, promised: Promised) -> Iterator[Check]:
    for table in scope.changed:
        yield index_validity(table.name, promised.indexes.get(table.name, ()), promised.excused.get(table.name, ()))


def _constraint_validity(promised: Promised) -> Iterator[Check]:
    for table, names in promised.constraints.items():
        if names:
            yield constraint_validity(table, names)


def _mapped(groups: Sequence[MappedGroup]) -> tuple[TableName, ...]:
    return tuple(dict.fromkeys(group.table for group in groups))
