"""Migrations carried out by hand, phase by phase, to look at the database in between."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from tasks.database import ledger, oracle
from tasks.database.backfill_sql import TURNS, keys
from tasks.database.connection import Target, connect
from tasks.database.row_changes_sql import compose_change, compose_return
from tasks.planning.names import PENDING_COLUMN
from tasks.planning.plan import (
    Analyze,
    AwaitSnapshots,
    Backfill,
    BuildIndex,
    DeleteRows,
    DropIndex,
    Gate,
    Plan,
    Reindex,
    ReinsertRows,
    RestoreRows,
    Transaction,
    UpdateRows,
)
from tasks.planning.spec import LoadedSpec, load

PHASES = ("expand", "backfill", "constrain", "switch", "contract")


@dataclass(frozen=True)
class Stage:
    """A database in the middle of a migration."""

    target: Target
    plan: Plan

    def bits(self, column: str) -> tuple[int, int]:
        """Return the marker bits of the group with this new column: (unfilled, down failed)."""
        group = next(group for group in self.plan.groups if column in (*group.new, *group.old))
        low = group.bits & -group.bits
        return low, low << 1

    @contextmanager
    def session(self, *settings: tuple[str, str]) -> Iterator[psycopg.Connection[TupleRow]]:
        """A session of the application, autocommit."""
        with psycopg.connect(self.target.conninfo, autocommit=True, application_name="application") as connection:
            for name, value in settings:
                connection.execute("SELECT set_config(%s, %s, false)", (name, value))
            yield connection


def written(folder: Path, name: str, change: str, rest: str = "") -> LoadedSpec:
    """Return a spec of this change; ``rest`` is YAML."""
    indented = textwrap.indent(textwrap.dedent(change).strip(), "  ")
    path = folder / f"{name}.yaml"
    path.write_text(f"name: {name}\nchange: |\n{indented}\n{textwrap.dedent(rest)}")
    return load(path)


def planned(target: Target, schema: str, spec: LoadedSpec) -> Plan:
    """Create the schema in the empty database and plan the spec on it."""
    with psycopg.connect(target.conninfo, autocommit=True) as connection:
        connection.execute(schema.encode())
    return oracle.plan(spec, target)


def carry_out(target: Target, plan: Plan, phases: Sequence[str]) -> Stage:
    """Install the ledger and perform the phases: statements as planned, the backfill as one UPDATE."""
    with connect(target, role="test", settings=plan.settings) as connection:
        ledger.install(connection)
        for phase in plan.phases:
            if phase.name in phases:
                for step in phase.steps:
                    perform(connection, (step.action,))
    return Stage(target, plan)


def undo(target: Target, plan: Plan, phases: Sequence[str]) -> None:
    """Undo the phases, the last one first."""
    with connect(target, role="test", settings=plan.settings) as connection:
        for phase in reversed(plan.phases):
            if phase.name in phases:
                for step in reversed(phase.steps):
                    assert isinstance(step.undo, tuple)
                    perform(connection, step.undo)


def perform(connection: psycopg.Connection[TupleRow], actions: Sequence[Any]) -> None:
    for action in actions:
        match action:
            case Transaction():
                with connection.transaction():
                    for statement in action.statements:
                        connection.execute(statement.encode())
            case BuildIndex():
                build_once(connection, action)
            case DropIndex():
                name = sql.Identifier(action.table.schema, action.index)
                connection.execute(sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(name))
            case Reindex():
                name = sql.Identifier(action.table.schema, action.index)
                connection.execute(sql.SQL("REINDEX INDEX CONCURRENTLY {}").format(name))
            case Backfill():
                fill(connection, action)
            case Analyze():
                connection.execute(sql.SQL("ANALYZE {}").format(action.table.identifier))
            case AwaitSnapshots():
                pass  # of a runner with a ledger; here nobody works beside it
            case UpdateRows() | DeleteRows():
                change_all(connection, action)
            case RestoreRows() | ReinsertRows():
                take_back_all(connection, action)
            case _:
                raise AssertionError(action)


def build_once(connection: psycopg.Connection[TupleRow], action: BuildIndex) -> None:
    there = sql.Literal(sql.Identifier(action.table.schema, action.index).as_string()).as_string()
    if row(connection, f"SELECT to_regclass({there}) IS NULL") == (True,):
        connection.execute(action.statement.encode())


def take_back_all(connection: psycopg.Connection[TupleRow], action: RestoreRows | ReinsertRows) -> None:
    start = 2**63 - 1 if isinstance(action, ReinsertRows) else 0
    with connection.transaction():
        connection.execute(compose_return(action).page, {"from": start, "n": 2**31})


def change_all(connection: psycopg.Connection[TupleRow], action: UpdateRows | DeleteRows) -> int:
    """Change every row that is due in one batch and return how many there were."""
    statements = compose_change(action)
    last = connection.execute(statements.first_last_page, {"n": 2**31}).fetchone()
    if last is None:
        return 0
    found = connection.execute(statements.fill_first_range, {"turn": TURNS} | keys("u", last[:-1])).fetchone()
    assert found is not None
    return int(found[0])


def fill(connection: psycopg.Connection[TupleRow], action: Backfill) -> int:
    """Fill every unfilled row in one statement and return how many there were."""
    assignments = sql.SQL(", ").join(
        sql.SQL("{} = ").format(sql.Identifier(one.column)) + sql.SQL(one.expression) for one in action.assignments
    )
    statement = sql.SQL("UPDATE {} SET {} WHERE ").format(action.table.identifier, assignments)
    with connection.transaction():
        connection.execute("SELECT set_config('lockstep.direction', %s, true)", (action.direction,))
        return connection.execute(statement + sql.SQL(action.unfilled)).rowcount


def backfill(stage: Stage) -> int:
    """Run the backfill of a staged migration once more."""
    with connect(stage.target, role="test", settings=stage.plan.settings) as connection:
        return sum(
            fill(connection, step.action)
            for step in stage.plan.phase("backfill").steps
            if isinstance(step.action, Backfill)
        )


def pending(connection: psycopg.Connection[TupleRow], table: str, key: str) -> int:
    """Return the marker of the row where the condition ``key`` holds."""
    found = connection.execute(f"SELECT {PENDING_COLUMN} FROM {table} WHERE {key}".encode()).fetchone()
    assert found is not None
    return int(found[0])


def row(connection: psycopg.Connection[TupleRow], query: str) -> tuple[Any, ...]:
    found = connection.execute(query.encode()).fetchall()
    assert len(found) == 1, found
    return found[0]


def recorded(connection: psycopg.Connection[TupleRow]) -> list[tuple[Any, ...]]:
    """Return (table, key, sqlstate, direction, kind) of every recorded failure and conflict."""
    return connection.execute(
        "SELECT table_name, key, sqlstate, direction, kind FROM lockstep.sync_failure ORDER BY id"
    ).fetchall()


def writers(connection: psycopg.Connection[tuple[object, ...]]) -> int:
    return int(row(connection, "SELECT count(*) FROM lockstep.old_write")[0])


def failing(target: Target, gate: Gate | None) -> dict[str, list[str]]:
    """Return the sampled keys of every check of a gate that does not hold."""
    assert gate is not None
    assert gate.checks
    with psycopg.connect(target.conninfo) as connection:
        results = {check.id: row(connection, check.sql) for check in gate.checks}
    return {name: list(result[2]) for name, result in results.items() if result[0]}
