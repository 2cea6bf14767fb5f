"""Where a migration keeps personal data a second time, until when, and how an erasure meanwhile reaches it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from psycopg import sql

from tasks.planning.names import TableName, display
from tasks.planning.plan import DeleteRows, MappedGroup, Plan, Transaction, UpdateRows
from tasks.planning.wording import duration

_WITH_THE_ROW = "a DELETE of the row takes it along; an UPDATE reaches it by the sync, in the same statement"


@dataclass(frozen=True)
class Copy:
    """A place where personal data is besides the column that it was in."""

    what: str
    until: str
    erasure: str


def copies(plan: Plan) -> tuple[Copy, ...]:
    """Return every copy of the data in the plan's personal columns, and of keys in them; none where none is named."""
    if not plan.personal or plan.is_empty:
        return ()
    found = (*_in_columns(plan), *_in_kept_rows(plan))
    if not found:
        return ()
    return (
        *found,
        Copy(
            what="backups, and WAL that is archived or sent to replicas, from the time of the migration",
            until="as long as you keep them",
            erasure="as in any backup of yours",
        ),
    )


def _in_columns(plan: Plan) -> Iterator[Copy]:
    until = _contract(plan)
    for group in plan.groups:
        old = [column for column in group.old if _is_personal(plan, group.table, column)]
        if not old or not group.new:
            continue
        names = ", ".join(f"{group.table}.{display(column)}" for column in group.new)
        if not group.down:
            yield Copy(
                f"{names}, computed from {_told(old)}", "it stays: list it as personal from now on", _WITH_THE_ROW
            )
            continue
        yield Copy(f"{names} beside {_told(old)}: both shapes of the same rows", until, _WITH_THE_ROW)
        yield _left_in_files(group, old)
    mapped = {(group.table, column) for group in plan.groups for column in group.old}
    for name in plan.personal:
        table, column = _split(plan, name)
        dropped = f"DROP COLUMN {sql.Identifier(column).as_string()}"
        if table is not None and (table, column) not in mapped and _drops(plan, table, dropped):
            yield Copy(f"{table}.{display(column)}, which the change drops", until, _WITH_THE_ROW)


def _left_in_files(group: MappedGroup, old: list[str]) -> Copy:
    return Copy(
        what=f"{group.table}: what was in {_told(old)}, in the table's files though no query sees it",
        until="from contract on, until the row is written again, or VACUUM FULL, or pg_repack",
        erasure="a row that is deleted is gone with the next VACUUM; UPDATE of any column writes the row anew",
    )


def _in_kept_rows(plan: Plan) -> Iterator[Copy]:
    for phase in plan.phases:
        for step in phase.steps:
            action = step.action
            if not isinstance(action, UpdateRows | DeleteRows) or action.kept is None:
                continue
            held = [column for column in action.columns if _is_personal(plan, action.table, column)]
            if not held and not action.personal_key:
                continue
            key = " AND ".join(f"k{number} = <{column}>" for number, column in enumerate(action.key))
            yield Copy(
                what=f"{action.kept}: what {step.title} replaces ({_told(held) if held else 'the key'})",
                until=_contract(plan),
                erasure=f"by hand, beside the row itself:  DELETE FROM {action.kept} WHERE {key};",
            )


def _contract(plan: Plan) -> str:
    if not any(phase.name == "contract" for phase in plan.phases):
        return "lockstep cleanup"
    soak = f", {duration(plan.soak_seconds)} after the switch at the earliest" if plan.soak_seconds else ""
    return f"contract{soak}; a rollback drops it too"


def _drops(plan: Plan, table: TableName, clause: str) -> bool:
    return any(
        clause in statement and table.identifier.as_string() in statement
        for phase in plan.phases
        if phase.name == "contract"
        for step in phase.steps
        if isinstance(step.action, Transaction)
        for statement in step.action.statements
    )


def _is_personal(plan: Plan, table: TableName, column: str) -> bool:
    return f"{table.schema}.{table.name}.{column}" in plan.personal


def _split(plan: Plan, name: str) -> tuple[TableName | None, str]:
    for table in plan.tables:
        prefix = f"{table.schema}.{table.name}."
        if name.startswith(prefix):
            return table, name.removeprefix(prefix)
    return None, name


def _told(columns: list[str]) -> str:
    return ", ".join(map(display, columns))
