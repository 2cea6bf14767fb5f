"""Changes of type that need no rewrite: one short step each, made by the server in its catalog alone.

The server would verify the CHECK constraints over the column again, row by row and under the lock. They are dropped
and added NOT VALID around the change instead, in the same transaction, so that no row is ever written without them,
and validated afterwards without blocking anyone. The statistics of the column go with its old type: ANALYZE follows.
"""

from __future__ import annotations

from collections.abc import Iterable

from psycopg import sql

from tasks.planning.catalog import Constraint
from tasks.planning.names import TableName, verbatim
from tasks.planning.plan import Analyze, Irreversible, LockUse, Step, Transaction
from tasks.planning.retyping import DirectRetype
from tasks.planning.strategies.expand_contract.contribution import (
    LONG_STATEMENT_TIMEOUT_MS,
    PATIENT_LOCK_TIMEOUT_MS,
    Contribution,
    TableChange,
    short_step,
    validate_step,
)


def contribute(change: TableChange) -> Contribution:
    steps: list[Step] = []
    for retype in change.direct:
        steps += _steps(change, retype)
    if not steps:
        return Contribution()
    return Contribution(retype=(*steps, _analyze(change)))


def dropped_checks(table: TableName, names: Iterable[str]) -> tuple[str, ...]:
    """Return the statements that drop the CHECK constraints of these names."""
    drop = sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}")
    return tuple(drop.format(table.identifier, sql.Identifier(name)).as_string() for name in names)


def restored_checks(table: TableName, checks: Iterable[Constraint]) -> tuple[str, ...]:
    """Return the statements that add CHECK constraints again, NOT VALID and with their comments."""
    found = []
    for check in checks:
        name = sql.Identifier(check.name)
        definition = verbatim(check.definition.removesuffix(" NOT VALID"))
        add = sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {} NOT VALID").format(table.identifier, name, definition)
        found.append(add.as_string())
        if check.comment is not None:
            comment = sql.SQL("COMMENT ON CONSTRAINT {} ON {} IS {}")
            found.append(comment.format(name, table.identifier, sql.Literal(check.comment)).as_string())
    return tuple(found)


def _steps(change: TableChange, retype: DirectRetype) -> Iterable[Step]:
    column = retype.column
    before = [c for c in change.before.constraints if c.name in retype.checks]
    after = [c for c in change.after.constraints if c.name in retype.checks]
    dropped = dropped_checks(change.name, retype.checks)
    step = short_step(
        change,
        f"retype/{column}",
        f"Change the type of {column} ({column.types}), which needs no rewrite",
        (*dropped, retype.statement, *restored_checks(change.name, after)),
        undo=_undo(change, retype, before),
    )
    yield step.model_copy(update={"locks": retype.locks or (LockUse(table=change.name, mode="ACCESS EXCLUSIVE"),)})
    for check in after:
        if check.validated:
            yield validate_step(change, f"retype/validate/{change.name}.{check.name}", check.name)


def _undo(
    change: TableChange, retype: DirectRetype, checks: list[Constraint]
) -> tuple[Transaction, ...] | Irreversible:
    column = retype.column
    if retype.back is None:
        return Irreversible(
            reason=f"{column} is {column.new.type} now. Back to {column.old.type} the server would have to write the "
            "whole table again under a lock, and values written meanwhile may not fit. The old application version "
            "goes on with the new type; the reverse migration in the plan changes it back through a new column."
        )
    back = Transaction(
        statements=(*dropped_checks(change.name, retype.checks), retype.back, *restored_checks(change.name, checks))
    )
    validate = tuple(
        Transaction(
            statements=(change.alter("VALIDATE CONSTRAINT {c}", c=sql.Identifier(check.name)),),
            statement_timeout_ms=LONG_STATEMENT_TIMEOUT_MS,
        )
        for check in checks
        if check.validated
    )
    return (back, *validate)


def _analyze(change: TableChange) -> Step:
    return Step(
        id=f"retype/analyze/{change.name}",
        title=f"Refresh the statistics of {change.name}: those of a column go with its type",
        action=Analyze(table=change.name),
        locks=(LockUse(table=change.name, mode="SHARE UPDATE EXCLUSIVE"),),
        lock_timeout_ms=PATIENT_LOCK_TIMEOUT_MS,
        statement_timeout_ms=LONG_STATEMENT_TIMEOUT_MS,
    )
