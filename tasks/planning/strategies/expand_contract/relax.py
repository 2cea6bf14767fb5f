"""The old shape's constraints from the switch on: tolerant of rows whose `down` failed.

From the switch the new application writes. Where `down` can fail, the old columns keep what they had, and a NOT NULL
or CHECK of the old shape must not refuse the new application's statement for it.
"""

from __future__ import annotations

from psycopg import sql

from tasks.planning.names import PENDING_COLUMN, verbatim
from tasks.planning.plan import Transaction
from tasks.planning.strategies.expand_contract import injective, moved
from tasks.planning.strategies.expand_contract.contribution import (
    LONG_STATEMENT_TIMEOUT_MS,
    Contribution,
    TableChange,
    check_expression,
    short_step,
)
from tasks.planning.strategies.expand_contract.mapping import Group


def contribute(change: TableChange) -> Contribution:
    for constraint in change.before.constraints:
        if constraint.kind == "unique" and not set(constraint.columns) & change.moved_old:
            injective.require(change, constraint.name, constraint.columns, "down")
    for index in change.before.indexes:
        if index.unique and index.constraint is None and not set(index.columns) & change.moved_old:
            injective.require(change, index.name, index.columns, "down")
    act: list[str] = []
    restore: list[str] = []
    validate: list[str] = []
    tighten: list[str] = []
    for group in change.groups:
        if group.down and group.may_raise("down"):
            _relax_not_null(change, group, act, restore, validate, tighten)
            _relax_checks(change, group, act, restore, validate)
    if not act:
        return Contribution()
    undo = [Transaction(statements=tuple(restore)), *(_long(text) for text in validate)]
    if tighten:
        undo.append(Transaction(statements=tuple(tighten)))
    step = short_step(
        change,
        f"switch/relax/{change.name}",
        f"Let the old columns of {change.name} keep their value where `down` fails",
        tuple(act),
        undo=tuple(undo),
    )
    return Contribution(switch=(step,))


def _long(statement: str) -> Transaction:
    return Transaction(statements=(statement,), statement_timeout_ms=LONG_STATEMENT_TIMEOUT_MS)


def _tolerant(group: Group, expression: str) -> sql.Composed:
    return sql.SQL("CHECK ((({marker} & {bits}) <> 0) OR ({expression})) NOT VALID").format(
        marker=sql.Identifier(PENDING_COLUMN),
        bits=sql.Literal(group.down_failed_bit),
        expression=verbatim(expression),
    )


def _relax_not_null(
    change: TableChange, group: Group, act: list[str], restore: list[str], validate: list[str], tighten: list[str]
) -> None:
    for column in group.old.columns:
        if not column.not_null or (column.name in change.moved_old and moved.is_pinned(change, column)):
            continue  # of the latter, the swap itself
        name = sql.Identifier(column.name)
        tolerant = sql.Identifier(change.own_name("relaxnn", column.name))
        strict = sql.Identifier(change.own_name("oldnn", column.name))
        not_null = sql.SQL("{} IS NOT NULL").format(name)
        act.append(change.alter("ADD CONSTRAINT {c} {d}", c=tolerant, d=_tolerant(group, not_null.as_string())))
        act.append(change.alter("ALTER COLUMN {c} DROP NOT NULL", c=name))
        restore.append(change.alter("ADD CONSTRAINT {c} CHECK ({d}) NOT VALID", c=strict, d=not_null))
        validate.append(change.alter("VALIDATE CONSTRAINT {c}", c=strict))
        tighten.append(change.alter("ALTER COLUMN {c} SET NOT NULL", c=name))
        tighten.append(change.alter("DROP CONSTRAINT {c}", c=strict))
        tighten.append(change.alter("DROP CONSTRAINT {c}", c=tolerant))


def _relax_checks(change: TableChange, group: Group, act: list[str], restore: list[str], validate: list[str]) -> None:
    for constraint in change.before.constraints:
        if constraint.kind != "check" or not set(constraint.columns) & set(group.old.names):
            continue
        name = sql.Identifier(constraint.name)
        drop = change.alter("DROP CONSTRAINT {c}", c=name)
        act.append(drop)
        act.append(change.alter("ADD CONSTRAINT {c} {d}", c=name, d=_tolerant(group, check_expression(constraint))))
        restore.append(drop)
        restore.append(
            change.alter("ADD CONSTRAINT {c} CHECK ({d}) NOT VALID", c=name, d=verbatim(check_expression(constraint)))
        )
        if constraint.validated:
            validate.append(change.alter("VALIDATE CONSTRAINT {c}", c=name))
