"""The proof of a plan: its own statements, run on clones of the schema before anything touches the real one.

On a clone every phase is carried out and must lead to exactly the catalog that the user's SQL leads to; no step may
rewrite a table; on a second clone rows are written through the sync (`tasks.database.sync_trial`), and everything is
undone again, phase by phase, and must lead back to where it began.
The schema hashes of the plan come from here, so a plan that exists has been carried out once already.

Locks: none on the real database; the clones are scratch databases.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import assert_never

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from tasks.database import ledger
from tasks.database.catalog import snapshot
from tasks.database.clone import SchemaClone
from tasks.database.connection import connect
from tasks.database.row_changes_sql import compose_change, compose_return
from tasks.database.steadiness import require_steady_condition
from tasks.database.sync_trial import try_writes
from tasks.planning.catalog import Catalog
from tasks.planning.errors import Unsupported
from tasks.planning.names import TableName
from tasks.planning.plan import (
    Action,
    Analyze,
    AwaitSnapshots,
    Backfill,
    BuildIndex,
    DeleteRows,
    DropIndex,
    Irreversible,
    Note,
    Phase,
    Plan,
    Reindex,
    ReinsertRows,
    RestoreRows,
    Step,
    Transaction,
    UpdateRows,
)
from tasks.planning.schema_hash import catalog_text, describe_difference, digest, schema_hash, schema_text

TRIED_AFTER = ("expand", "switch")


def prove(plan: Plan, clone: SchemaClone, target: Catalog) -> Plan:
    """Return the plan with its schema hashes, after carrying it out and undoing it on clones.

    Raises:
        Unsupported: the plan's statements do not lead where the user's do, rewrite a table, fail, or cannot be undone.
    """
    with connect(clone.fresh(), role="proof", settings=plan.settings) as connection:
        _prepare(connection)
        start = snapshot(connection)
        plan = plan.model_copy(
            update={
                "schema_before": schema_hash(start, plan.scope),
                "schema_target": schema_hash(target, plan.scope),
                "phases": _carry_out(plan, connection, start),
            }
        )
        _compare("the plan", catalog_text(target), catalog_text(snapshot(connection)))
    with connect(clone.fresh(), role="proof", settings=plan.settings) as connection:
        _prepare(connection)
        notes = tuple(_tried(table, rows) for table, rows in _there_and_back(plan, connection, target).items())
    return plan.model_copy(update={"notes": (*plan.notes, *notes)})


def _tried(table: TableName, rows: int) -> Note:
    if rows:
        return Note(severity="INFO", text=f"{table}: {rows} made-up rows went through the sync on a clone.")
    return Note(
        severity="WARNING",
        text=f"{table}: no made-up row satisfies its constraints, so the sync was not tried on a clone.",
    )


def _prepare(connection: psycopg.Connection[TupleRow]) -> None:
    ledger.install(connection)  # the sync records its failures there


def _carry_out(plan: Plan, connection: psycopg.Connection[TupleRow], start: Catalog) -> tuple[Phase, ...]:
    phases = []
    now = start
    for phase in plan.phases:
        text = schema_text(now, plan.scope)
        steps = []
        for step in phase.steps:
            files = _files(connection, plan.scope)
            _perform(connection, step, (step.action,))
            _refuse_rewrite(step, files, _files(connection, plan.scope))
            now = snapshot(connection)
            steps.append(step.model_copy(update={"schema_after": schema_hash(now, plan.scope)}))
        hashes = {"schema_before": digest(text), "schema_after": schema_hash(now, plan.scope)}
        phases.append(phase.model_copy(update={"steps": tuple(steps), "schema_text": text, **hashes}))
    return tuple(phases)


def _there_and_back(plan: Plan, connection: psycopg.Connection[TupleRow], target: Catalog) -> Mapping[TableName, int]:
    """Carry out and undo; return how many rows were written to each table in between."""
    texts = []
    written: Counter[TableName] = Counter()
    reversible = [phase for phase in plan.phases if not any(isinstance(s.undo, Irreversible) for s in phase.steps)]
    for phase in reversible:
        texts.append(schema_text(snapshot(connection), plan.scope))
        for step in phase.steps:
            _perform(connection, step, (step.action,))
        if phase.name in TRIED_AFTER:
            written.update(try_writes(plan, connection, target, after=phase.name))
    for phase, before in zip(reversed(reversible), reversed(texts), strict=True):
        for step in reversed(phase.steps):
            if not isinstance(step.undo, Irreversible):
                _perform(connection, step, step.undo)
        _compare(f"undoing {phase.name}", before, schema_text(snapshot(connection), plan.scope))
    return written


def _perform(connection: psycopg.Connection[TupleRow], step: Step, actions: Sequence[Action]) -> None:
    for action in actions:
        try:
            match action:
                case Transaction():
                    with connection.transaction():
                        for statement in action.statements:
                            connection.execute(statement.encode())
                case BuildIndex():
                    _build(connection, action)
                case DropIndex():
                    name = sql.Identifier(action.table.schema, action.index)
                    connection.execute(sql.SQL("DROP INDEX IF EXISTS {}").format(name))
                case Reindex():
                    name = sql.Identifier(action.table.schema, action.index)
                    connection.execute(sql.SQL("REINDEX INDEX {}").format(name))
                case Backfill():
                    _parse_backfill(connection, action)
                case UpdateRows() | DeleteRows():
                    require_steady_condition(connection, action)
                    _parse_change(connection, action)
                case RestoreRows() | ReinsertRows():
                    _parse_return(connection, action)
                case Analyze() | AwaitSnapshots():
                    pass
                case _:
                    assert_never(action)
        except psycopg.Error as error:
            raise Unsupported(
                f"the change, because the step “{step.title}” fails on a clone: {error.diag.message_primary or error}",
                instead="What stands in the way is usually an object that depends on a changed "
                "column: drop it first and create it again afterwards.",
            ) from None


def _build(connection: psycopg.Connection[TupleRow], action: BuildIndex) -> None:
    """Build an index unless it is there: several steps of a way back may need the same one."""
    name = sql.Identifier(action.table.schema, action.index).as_string()
    row = connection.execute("SELECT to_regclass(%s)", (name,)).fetchone()
    if row is None or row[0] is None:
        connection.execute(action.statement.encode())


def _parse_backfill(connection: psycopg.Connection[TupleRow], action: Backfill) -> None:
    """Run the backfill's expressions against the expanded table, which has no rows here."""
    assignments = sql.SQL(", ").join(
        sql.SQL("{} = ").format(sql.Identifier(a.column)) + sql.SQL(a.expression) for a in action.assignments
    )
    with connection.transaction():
        connection.execute(
            sql.SQL("UPDATE {} SET {} WHERE ").format(action.table.identifier, assignments) + sql.SQL(action.unfilled)
        )


def _parse_change(connection: psycopg.Connection[TupleRow], action: UpdateRows | DeleteRows) -> None:
    """Run a batch over the expanded table, which has no rows here."""
    statements = compose_change(action)
    bounds: dict[str, object] = {"turn": 0} | {f"u{number}": None for number in range(len(action.key))}
    connection.execute(statements.fill_first_range, bounds)
    connection.execute(statements.pending, {"n": 1})


def _parse_return(connection: psycopg.Connection[TupleRow], action: RestoreRows | ReinsertRows) -> None:
    statements = compose_return(action)
    connection.execute(statements.page, {"from": 0, "n": 1})
    connection.execute(statements.waiting, {})


def _files(connection: psycopg.Connection[TupleRow], scope: Sequence[TableName]) -> Mapping[TableName, int]:
    found = {}
    for name in scope:
        row = connection.execute(
            # A sequence is one row: it may be written anew.
            "SELECT pg_relation_filenode(oid) FROM pg_class WHERE oid = to_regclass(%s) AND relkind <> 'S'",
            (name.identifier.as_string(connection),),
        ).fetchone()
        if row is not None and row[0] is not None:
            found[name] = row[0]
    return found


def _refuse_rewrite(step: Step, before: Mapping[TableName, int], after: Mapping[TableName, int]) -> None:
    for name, file in before.items():
        if after.get(name, file) != file:
            raise Unsupported(
                f"the step “{step.title}”, because it rewrites {name} under an ACCESS EXCLUSIVE lock",
                instead="A volatile DEFAULT is the usual reason: add the column without it, or give a constant.",
            )


def _compare(what: str, expected: str, found: str) -> None:
    if expected != found:
        differences = "\n  ".join(describe_difference(expected, found))
        raise Unsupported(
            f"the change: on a clone, {what} does not lead to the schema that it has to lead to:\n  {differences}",
            instead="Take what is named here out of the change and run it by itself.",
        )
