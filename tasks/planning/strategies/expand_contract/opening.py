"""What lets in statements that only the new version sends: DROP NOT NULL, SET DEFAULT, dropped constraints.

The old version does not mind them, so they come as soon as the new version may: at the switch where there is one,
else at the end of constrain. A key that another one succeeds is dropped together with the arrival of that one.

Locks: short ACCESS EXCLUSIVE, one table at a time; a foreign key takes it on the table it points to as well.
"""

from __future__ import annotations

from psycopg import sql

from tasks.planning.catalog import Constraint
from tasks.planning.change import ColumnChanged
from tasks.planning.errors import Unsupported
from tasks.planning.names import display, own_name, verbatim
from tasks.planning.plan import LockUse, Note, Transaction
from tasks.planning.strategies.expand_contract.contribution import (
    Contribution,
    TableChange,
    long_transaction,
    short_step,
)
from tasks.planning.strategies.expand_contract.demands import key_restored, restored
from tasks.planning.strategies.expand_contract.kept import (
    KEYS,
    altered_columns,
    dropped_constraints,
    has_other_default,
    index_behind_before,
    is_replica_identity,
    stays_unique,
    successor,
)


def contribute(change: TableChange) -> Contribution:
    total = Contribution()
    for constraint in dropped_constraints(change):
        if successor(change, constraint) is None:
            total += _without(change, constraint)
    for item in altered_columns(change):
        if item.nullability_changed and not item.after.not_null:
            total += _nullable(change, item.before.name)
        if has_other_default(item) and item.after.default is not None:
            total += _default(change, item, item.after.default)
    return total


def _nullable(change: TableChange, name: str) -> Contribution:
    column = sql.Identifier(name)
    where = f"{change.name}.{display(name)}"
    check = sql.Identifier(own_name("oldnn", change.migration, *change.name, name))
    add = change.alter("ADD CONSTRAINT {c} CHECK ({n} IS NOT NULL) NOT VALID", c=check, n=column)
    back = (change.alter("ALTER COLUMN {c} SET NOT NULL", c=column), change.alter("DROP CONSTRAINT {c}", c=check))
    step = short_step(
        change,
        f"open/nullable/{where}",
        f"Let NULL into {where}",
        (change.alter("ALTER COLUMN {c} DROP NOT NULL", c=column),),
        undo=(
            Transaction(statements=(add,)),
            long_transaction(change.alter("VALIDATE CONSTRAINT {c}", c=check)),
            Transaction(statements=back),
        ),
    )
    note = f"{where}: the old version may read NULL there as soon as the new one writes it."
    return Contribution(opening=(step,), notes=(Note(severity="WARNING", text=note),))


def _default(change: TableChange, item: ColumnChanged, default: str) -> Contribution:
    column = sql.Identifier(item.before.name)
    where = f"{change.name}.{display(item.before.name)}"
    old = item.before.default
    back = (
        change.alter("ALTER COLUMN {c} DROP DEFAULT", c=column)
        if old is None
        else change.alter("ALTER COLUMN {c} SET DEFAULT {d}", c=column, d=verbatim(old))
    )
    step = short_step(
        change,
        f"open/default/{where}",
        f"Set the default of {where}",
        (change.alter("ALTER COLUMN {c} SET DEFAULT {d}", c=column, d=verbatim(default)),),
        undo=(Transaction(statements=(back,)),),
    )
    note = (
        f"{where}: an INSERT of the old version that leaves it out gets the new default too, from the same moment on."
    )
    return Contribution(opening=(step,), notes=(Note(severity="INFO", text=note),))


def _without(change: TableChange, constraint: Constraint) -> Contribution:
    is_key = constraint.kind in KEYS
    if constraint.kind not in (*KEYS, "check", "foreign_key"):
        raise Unsupported(
            f"dropping the {constraint.kind.replace('_', ' ')} constraint {display(constraint.name)} of {change.name}",
            instead="Drop it by itself, after the migration: it only takes a short lock.",
        )
    if is_key:
        _refuse_published(change, constraint)
    step = short_step(
        change,
        f"open/drop-constraint/{change.name}.{constraint.name}",
        f"Drop the constraint {display(constraint.name)} of {change.name}",
        (change.alter("DROP CONSTRAINT {c}", c=sql.Identifier(constraint.name)),),
        undo=key_restored(change, constraint) if is_key else restored(change, constraint),
    )
    if constraint.kind == "foreign_key":
        parent = constraint.references or change.name
        tables = dict.fromkeys((change.name, parent))
        locks = tuple(LockUse(table=table, mode="ACCESS EXCLUSIVE") for table in tables)
        return Contribution(
            opening_references=(step.model_copy(update={"locks": locks}),), notes=_action_notes(change, constraint)
        )
    return Contribution(opening=(step,), notes=_conflict_notes(change, constraint) if is_key else ())


def _conflict_notes(change: TableChange, constraint: Constraint) -> tuple[Note, ...]:
    if stays_unique(change, index_behind_before(change, constraint)):
        return ()
    listed = ", ".join(display(column) for column in constraint.columns)
    return (
        Note(
            severity="WARNING",
            text=f"{change.name}: from the moment {display(constraint.name)} is gone, INSERT … ON CONFLICT ({listed}) "
            "fails (42P10). If a running version has such a statement, deploy one without it first.",
        ),
    )


def _action_notes(change: TableChange, constraint: Constraint) -> tuple[Note, ...]:
    if " ON DELETE " not in constraint.definition and " ON UPDATE " not in constraint.definition:
        return ()
    return (
        Note(
            severity="WARNING",
            text=f"{change.name}: with {display(constraint.name)} its actions go ({constraint.definition}): a running "
            "version that relies on them leaves rows behind that refer to nothing.",
        ),
    )


def _refuse_published(change: TableChange, constraint: Constraint) -> None:
    """Without a replica identity PostgreSQL refuses every UPDATE and DELETE of a published table."""
    published = [item.name for item in change.before.dependents if item.kind == "publication"]
    by_default = constraint.kind == "primary_key" and change.before.replica_identity == "d"
    if published and (by_default or is_replica_identity(change, constraint.index)):
        raise Unsupported(
            f"dropping {display(constraint.name)} of {change.name}, which identifies its rows in the publication "
            f"{', '.join(published)}: every UPDATE and DELETE of the application would fail from then on",
            instead="Give the table another replica identity first (ALTER TABLE … REPLICA IDENTITY USING INDEX …), or "
            "let the key that takes its place have no other columns than it has.",
        )
