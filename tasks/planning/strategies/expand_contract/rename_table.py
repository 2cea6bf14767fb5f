"""A table under a new name: renamed at the switch, with a view under the old name until contract.

The view is `SELECT` of the table's columns, which PostgreSQL passes writes through by itself: both names serve SELECT,
INSERT (RETURNING, ON CONFLICT with columns), UPDATE, DELETE and FOR UPDATE. What does not work through a view is told:
TRUNCATE, COPY of the name itself, ON CONFLICT ON CONSTRAINT, system columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from psycopg import sql

from tasks.planning.catalog import Catalog, SchemaObject, Table
from tasks.planning.change import (
    Change,
    ColumnChanged,
    ConstraintChanged,
    DependentChanged,
    GrantsChanged,
    IndexChanged,
    ObjectChanged,
    TableOptionChanged,
    TableRenamed,
    TriggerChanged,
)
from tasks.planning.errors import Unsupported
from tasks.planning.names import TableName, display
from tasks.planning.objects.privileges import on_another_object
from tasks.planning.plan import LockUse, Note, Step
from tasks.planning.strategies.expand_contract.apart import Apart, lone_step

_INVOKER_SINCE = 15
"""The major version from which a view can use the privileges of whoever uses it."""


def rename(old: Table, new: TableName, live: Catalog, found: Sequence[Change]) -> Apart:
    """Return the steps of one renamed table. ``live`` has its privileges; ``found`` are all changes of the migration.

    Raises `Unsupported` for what a view under the old name cannot stand in for.
    """
    _refuse(old, new, live)
    parts = tuple(_renamed_parts(old, found))
    move = sql.SQL("ALTER TABLE {} RENAME TO {}").format(old.name.identifier, sql.Identifier(new.name)).as_string()
    back = sql.SQL("ALTER TABLE {} RENAME TO {}").format(new.identifier, sql.Identifier(old.name.name)).as_string()
    remove = sql.SQL("DROP VIEW {}").format(old.name.identifier).as_string()
    create = (_view(old, new, live.major), *_privileges(old))
    lock = LockUse(table=old.name, mode="ACCESS EXCLUSIVE")
    return Apart(
        switch=(
            lone_step(
                f"switch/rename/{old.name}",
                f"Rename {old.name} to {new}; the old name stays as a view",
                (move, *create),
                undo=(remove, back),
                locks=(lock,),
            ),
        ),
        contract_before=(
            lone_step(
                f"contract/old-name/{old.name}",
                f"Remove the view that stands in for the old name {old.name}",
                (remove,),
                undo=create,
                locks=(lock,),
            ),
            *(_rename_part(number, new, *part) for number, part in enumerate(parts, start=1)),
        ),
        renamed=(old.name,),
        notes=(
            Note(
                severity="WARNING",
                text=f"From the switch until contract {old.name} is a view of {new}. Statements pass through it, "
                "except TRUNCATE, COPY by its name, INSERT … ON CONFLICT ON CONSTRAINT, MERGE before PostgreSQL 17, "
                "and what reads ctid, tableoid or xmin. Who still uses the old name cannot be counted.",
            ),
            *(
                Note(
                    severity="WARNING",
                    text=f"{kind.title()} {display(before)} is named {display(after)} from contract on: until then no "
                    "version of the application may name it otherwise, and from then on so.",
                )
                for kind, before, after in parts
                if kind == "sequence"
            ),
        ),
    )


def _view(old: Table, new: TableName, major: int) -> str:
    options = " WITH (security_invoker = true)" if major >= _INVOKER_SINCE else ""
    columns = sql.SQL(", ").join(sql.Identifier(column.name) for column in old.columns)
    return (
        sql.SQL("CREATE VIEW {}").format(old.name.identifier)
        + sql.SQL(options)
        + sql.SQL(" AS SELECT {} FROM {}").format(columns, new.identifier)
    ).as_string()


def _privileges(old: Table) -> Iterator[str]:
    """The view belongs to Lockstep's role: whoever may use the table may use the view, its owner included."""
    yield sql.SQL("GRANT ALL ON TABLE {} TO {}").format(old.name.identifier, sql.Identifier(old.owner)).as_string()
    for grant in old.grants:
        yield on_another_object(grant, old.name.identifier)


# ------------------------------------------------------------------------------------------------ renamed with it


def belongs_to(renamed: TableRenamed, change: Change) -> bool:
    """Whether a change is a consequence of the rename, or renames a part of the table with it."""
    match change:
        case ConstraintChanged() | IndexChanged() if change.table == renamed.table:
            return change.renamed or change.consequence
        case TriggerChanged() if change.table == renamed.table:
            return change.consequence
        case ColumnChanged() if change.table == renamed.table:
            return change.consequence or _default_followed(change)
        case DependentChanged() if change.table == renamed.table:
            item = change.before or change.after
            return item is not None and item.kind in ("policy", "publication")
        case TableOptionChanged() | GrantsChanged():
            return False
        case ObjectChanged() if change.object_kind in ("sequence", "comment", "privileges"):
            return change.consequence
        case _:
            return False


def _default_followed(change: ColumnChanged) -> bool:
    """Whether only the name of the sequence that the column takes its numbers from differs."""
    before, after = change.before, change.after
    defaults = [default or "" for default in (before.default, after.default)]
    same = before.model_copy(update={"default": after.default}) == after
    return same and all(default.startswith("nextval(") for default in defaults)


def _renamed_parts(old: Table, found: Sequence[Change]) -> Iterator[tuple[str, str, str]]:
    """Yield (kind, name before, name after) of the constraints, indexes and sequences that are renamed with it."""
    constraints = {c.before.name for c in found if isinstance(c, ConstraintChanged) and c.table == old.name}
    owned = {item.name for item in old.dependents if item.kind == "sequence"}
    for change in found:
        match change:
            case ConstraintChanged() if change.table == old.name and change.renamed:
                yield "constraint", change.before.name, change.after.name
            case IndexChanged() if change.table == old.name and change.renamed:
                if change.before.constraint not in constraints or change.before.constraint is None:
                    yield "index", change.before.name, change.after.name
            case ObjectChanged(before=SchemaObject(kind="sequence") as before, after=SchemaObject() as after):
                if before.name in owned and before.name != after.name:
                    yield "sequence", before.name, after.name
            case _:
                pass


def _rename_part(number: int, table: TableName, kind: str, before: str, after: str) -> Step:
    match kind:
        case "constraint":
            pair = [_constraint(table, a, b) for a, b in ((before, after), (after, before))]
        case "index":
            pair = [_index(table, a, b) for a, b in ((before, after), (after, before))]
        case _:
            pair = [
                f"ALTER SEQUENCE {a} RENAME TO {b.rpartition('.')[2]}" for a, b in ((before, after), (after, before))
            ]
    return lone_step(
        f"contract/rename/{table}/{number}",
        f"Rename the {kind} {before} of {table} to {after}",
        (pair[0],),
        undo=(pair[1],),
        locks=(LockUse(table=table, mode="ACCESS EXCLUSIVE"),) if kind == "constraint" else (),
    )


def _constraint(table: TableName, before: str, after: str) -> str:
    text = sql.SQL("ALTER TABLE {} RENAME CONSTRAINT {} TO {}")
    return text.format(table.identifier, sql.Identifier(before), sql.Identifier(after)).as_string()


def _index(table: TableName, before: str, after: str) -> str:
    text = sql.SQL("ALTER INDEX {} RENAME TO {}")
    return text.format(sql.Identifier(table.schema, before), sql.Identifier(after)).as_string()


# ------------------------------------------------------------------------------------------------ refusals


def _refuse(old: Table, new: TableName, live: Catalog) -> None:
    what = f"renaming {old.name} to {new}"
    if old.kind != "r" or old.partition_of or old.inherits:
        raise Unsupported(
            f"{what}, which is partitioned, inherited or foreign", instead="Plain tables only in this version."
        )
    if old.row_security and live.major < _INVOKER_SINCE:
        raise Unsupported(
            f"{what}, which has row security, on PostgreSQL {live.major}",
            instead="Before PostgreSQL 15 a view under the old name would pass row security by: rename it with the "
            "application stopped.",
        )
    published = sorted(item.name for item in old.dependents if item.kind == "publication")
    if published:
        raise Unsupported(
            f"{what}, which the publication {', '.join(published)} sends to subscribers by its name",
            instead="Rename it on publisher and subscribers together, with replication of this table paused.",
        )


def refuse_mixed(renamed: TableRenamed, found: Sequence[Change]) -> None:
    """Refuse the rename of a table together with a change of its columns."""
    for change in found:
        mapped = isinstance(change, ColumnChanged) and (change.renamed or change.retyped)
        kind = getattr(change, "kind", "")
        if getattr(change, "table", None) == renamed.table and (mapped or kind in ("column_added", "column_dropped")):
            raise Unsupported(
                f"renaming {renamed.table} to {renamed.after} together with another change of it ({change.describe()})",
                instead="Make two migrations: the columns first, then the name.",
            )
