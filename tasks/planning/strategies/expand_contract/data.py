"""Data changes: UPDATE and DELETE of the user's, row by row on the expanded table, and what takes them back.

Each statement has a bit of the marker column ``lockstep_due``. Rows that are there at expand have all bits; a batch
clears the statement's bit in the rows that it changes. Old values go into ``lockstep.kept_…``, which contract drops.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from psycopg import sql

from tasks.planning.catalog import Column, Table
from tasks.planning.checks.data import due
from tasks.planning.checks.rows import key_columns
from tasks.planning.checks.rules import not_null
from tasks.planning.data_changes import RowStatement
from tasks.planning.errors import Unsupported
from tasks.planning.names import DUE_COLUMN, LOCKSTEP_SCHEMA, PENDING_COLUMN, TableName, display, own_name, verbatim
from tasks.planning.plan import (
    Assignment,
    Check,
    DeleteRows,
    LockUse,
    Note,
    ReinsertRows,
    RestoreRows,
    RowChange,
    Step,
    UpdateRows,
)
from tasks.planning.strategies.expand_contract.contribution import (
    SHORT_LOCK_TIMEOUT_MS,
    Contribution,
    TableChange,
)

MOST_STATEMENTS = 31
"""Bits of an ``integer``, the sign left alone."""


def contribute(change: TableChange) -> Contribution:
    """The marker and the tables of old values: with the expansion, until contract."""
    statements = change.own_statements
    if not statements:
        return Contribution()
    if len(statements) > MOST_STATEMENTS:
        raise Unsupported(
            f"{len(statements)} UPDATE and DELETE statements on {change.name} in one migration (at most "
            f"{MOST_STATEMENTS})",
            instead="Split the change into several migrations.",
        )
    marker = sql.Identifier(DUE_COLUMN)
    every = sql.Literal((1 << len(statements)) - 1)
    add = (
        change.alter("ADD COLUMN {c} integer NOT NULL DEFAULT {every}", c=marker, every=every),
        # Rows that come later are not concerned.
        change.alter("ALTER COLUMN {c} SET DEFAULT 0", c=marker),
    )
    drop = change.alter("DROP COLUMN {c}", c=marker)
    kept = [(name, statement) for statement in statements if (name := _kept(change, statement)) is not None]
    forget = tuple(sql.SQL("DROP TABLE {}").format(name.identifier).as_string() for name, _ in kept)
    return Contribution(
        expand_columns=(*add, *(text for name, statement in kept for text in _create_kept(change, name, statement))),
        expand_undo=(drop, *forget),
        contract_drop=(drop, *forget),
        notes=tuple(_notes(change)),
    )


def steps(change: TableChange) -> Iterator[tuple[int, Step]]:
    """Yield the table's data steps, each with its statement's number in the change."""
    for statement in change.data:
        action = _action(change, statement)
        fills = not statement.number
        yield (
            statement.number,
            Step(
                id=f"backfill/default/{change.name}.{statement.columns[0]}"
                if fills
                else f"backfill/data-{statement.number}/{change.name}",
                title=f"Give the rows of {change.name} their own {display(statement.columns[0])}"
                if fills
                else f"{statement.verb.upper()} rows of {change.name} ({statement.title} of the change)",
                action=action,
                locks=(LockUse(table=change.name, mode="ROW EXCLUSIVE"),),
                lock_timeout_ms=SHORT_LOCK_TIMEOUT_MS,
                statement_timeout_ms=60_000,
                undo=_undo(action),
                forecast=change.every_row("backfill"),
            ),
        )


def checks(change: TableChange, during: Table, personal: frozenset[str]) -> Iterator[Check]:
    """Yield what has to hold once the data steps are done."""
    for statement in change.data:
        if statement.number:
            action = _action(change, statement)
            yield due(during, statement.title, statement.alias, action.due, personal=personal)
    for column in change.late_not_null:
        yield not_null(during, column, personal=personal)


def _notes(change: TableChange) -> Iterator[Note]:
    for statement in change.own_statements:
        name = _kept(change, statement)
        if name is not None:
            what = "whole rows" if statement.verb == "delete" else ", ".join(map(display, statement.columns))
            yield Note(
                severity="INFO",
                text=f"{change.name}: {statement.title} keeps what it replaces ({what}) in {name} until contract, so "
                "that a rollback can bring it back. What it changes is seen by the running application at once.",
            )
        for trigger in change.before.triggers:
            if f" {statement.verb.upper()} " in trigger.definition.replace(" OR ", "  "):
                yield Note(
                    severity="WARNING",
                    text=f"{change.name} has the trigger {trigger.name}, which fires for {statement.title} as for any "
                    "other: once for every row, or for every batch.",
                )
            elif statement.verb == "delete" and " INSERT " in trigger.definition.replace(" OR ", "  "):
                yield Note(
                    severity="WARNING",
                    text=f"{change.name} has the trigger {trigger.name}, which fires for each row that a rollback of "
                    f"{statement.title} inserts again, and may change it.",
                    of_way_back=True,
                )


def _bit(change: TableChange, statement: RowStatement) -> int:
    return 1 << change.own_statements.index(statement)


def _action(change: TableChange, statement: RowStatement) -> RowChange:
    key = key_columns(change.before)
    types = {column.name: column.type for column in change.before.columns}
    key_types = tuple(types[name] for name in key)
    where = f"({statement.where})" if statement.where is not None else "true"
    if not statement.number:
        return UpdateRows(
            table=change.name, alias=statement.alias, key=key, key_types=key_types, due=where,
            assignments=statement.assignments, personal_key=change.personal_key,
        )  # fmt: skip
    bit = sql.Literal(_bit(change, statement)).as_string()
    marker = sql.Identifier(statement.alias, DUE_COLUMN).as_string()
    due_ = f"({marker} & {bit}) <> 0 AND {where}"
    kept = _kept(change, statement)
    if statement.verb == "delete":
        if kept is None:
            raise LookupError(f"{statement.title} keeps nothing")
        return DeleteRows(
            table=change.name, alias=statement.alias, key=key, key_types=key_types, due=due_,
            columns=tuple(column.name for column in _whole_row(change)), kept=kept, personal_key=change.personal_key,
        )  # fmt: skip
    done = Assignment(column=DUE_COLUMN, expression=f"{marker} & ~{bit}")
    return UpdateRows(
        table=change.name, alias=statement.alias, key=key, key_types=key_types, due=due_,
        assignments=(*statement.assignments, done), columns=statement.columns if kept else (), kept=kept,
        personal_key=change.personal_key,
    )  # fmt: skip


def _undo(action: RowChange) -> tuple[RestoreRows | ReinsertRows, ...]:
    match action:
        case UpdateRows(kept=kept) if kept is not None:
            return (RestoreRows(table=action.table, key=action.key, columns=action.columns, kept=kept),)
        case UpdateRows():
            return ()
        case DeleteRows():
            return (ReinsertRows(table=action.table, key=action.key, columns=action.columns, kept=action.kept),)
        case unreachable:
            assert_never(unreachable)


def _kept(change: TableChange, statement: RowStatement) -> TableName | None:
    """Return where old values go; a column that the change adds has none that going back would need."""
    if statement.verb == "update" and set(statement.columns) <= change.new_names:
        return None
    return TableName(LOCKSTEP_SCHEMA, own_name("kept", change.migration, *change.name, str(statement.number)))


def _create_kept(change: TableChange, name: TableName, statement: RowStatement) -> Iterator[str]:
    columns = {column.name: column for column in (*change.new, *change.before.columns)}
    keys = [("k", number, columns[key]) for number, key in enumerate(key_columns(change.before))]
    if statement.verb == "delete":
        values = [("b", number, column) for number, column in enumerate(_whole_row(change))]
    else:
        values = [
            (prefix, number, columns[column])
            for prefix in ("b", "w")
            for number, column in enumerate(statement.columns)
        ]
    parts = [
        sql.SQL("{} {}").format(sql.Identifier(f"{prefix}{number}"), verbatim(column.type))
        for prefix, number, column in (*keys, *values)
    ]
    yield (
        sql.SQL("CREATE TABLE {} (n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, {})")
        .format(name.identifier, sql.SQL(", ").join(parts))
        .as_string()
    )
    yield sql.SQL("REVOKE ALL ON TABLE {} FROM PUBLIC").format(name.identifier).as_string()


def _whole_row(change: TableChange) -> tuple[Column, ...]:
    """Return the columns of both shapes that can be inserted again, the sync's marker among them."""
    numbers = {column.name for column in change.before.columns}
    found = [*change.before.columns, *(column for column in change.new if column.name not in numbers)]
    if change.groups:
        found.append(Column(name=PENDING_COLUMN, attnum=0, type="integer", not_null=True))
    return tuple(column for column in found if not column.generated)
