"""Indexes: built concurrently, after the backfill; dropped concurrently, after contract."""

from __future__ import annotations

from psycopg import sql

from tasks.planning.catalog import Index
from tasks.planning.plan import BuildIndex, DropIndex, Forecast, LockUse, Step
from tasks.planning.strategies.expand_contract import injective
from tasks.planning.strategies.expand_contract.constraints import concurrently
from tasks.planning.strategies.expand_contract.contribution import (
    BUILD_ROWS_PER_SECOND,
    LONG_STATEMENT_TIMEOUT_MS,
    Contribution,
    TableChange,
)


def contribute(change: TableChange) -> Contribution:
    total = Contribution()
    for index in change.coming_indexes:
        total += _build(change, index)
    for index in _dropped(change):
        total += Contribution(contract_after=(_drop(change, index),))
    return total


def _dropped(change: TableChange) -> tuple[Index, ...]:
    """Indexes that the user drops, other than those that fall with a column or a constraint."""
    kept = {index.oid for index in change.after.indexes}
    return tuple(
        index
        for index in change.before.indexes
        if index.oid not in kept and index.constraint is None and not set(index.columns) & change.dropped_names
    )


def _build(change: TableChange, index: Index) -> Contribution:
    if index.unique:
        injective.require(change, index.name, index.columns, "up")
        injective.require_twin(change, index)
    name = change.temporary_name("ix", index.name)
    step = Step(
        id=f"constrain/index/{name}",
        title=f"Build {index.name} on {change.name} without blocking writes",
        action=BuildIndex(table=change.name, index=name, statement=concurrently(index.definition, name)),
        locks=(LockUse(table=change.name, mode="SHARE UPDATE EXCLUSIVE"),),
        lock_timeout_ms=LONG_STATEMENT_TIMEOUT_MS,
        statement_timeout_ms=LONG_STATEMENT_TIMEOUT_MS,
        undo=(DropIndex(table=change.name, index=name),),
        forecast=change.rows_at(BUILD_ROWS_PER_SECOND),
    )
    if name == index.name:
        return Contribution(constrain=(step,))
    rename = sql.SQL("ALTER INDEX {} RENAME TO {}").format(
        sql.Identifier(change.name.schema, name), sql.Identifier(index.name)
    )
    return Contribution(constrain=(step,), contract_rename=(rename.as_string(),))


def _drop(change: TableChange, index: Index) -> Step:
    return Step(
        id=f"contract/drop-index/{index.name}",
        title=f"Drop {index.name} of {change.name} without blocking writes",
        action=DropIndex(table=change.name, index=index.name),
        locks=(LockUse(table=change.name, mode="SHARE UPDATE EXCLUSIVE"),),
        lock_timeout_ms=LONG_STATEMENT_TIMEOUT_MS,
        statement_timeout_ms=LONG_STATEMENT_TIMEOUT_MS,
        undo=(BuildIndex(table=change.name, index=index.name, statement=concurrently(index.definition, index.name)),),
        forecast=Forecast(best=0.05, worst=1.0),
    )
