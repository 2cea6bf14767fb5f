"""What a change does to the columns that stay: the constraints, indexes and properties over them, before and after.

What touches a column that comes, goes or gets a twin is the business of the other rooms.
"""

from __future__ import annotations

from tasks.planning.catalog import Constraint, Index
from tasks.planning.change import (
    ColumnChanged,
    ConstraintAdded,
    ConstraintChanged,
    ConstraintDropped,
    IndexAdded,
    IndexChanged,
    IndexDropped,
)
from tasks.planning.checks.uniqueness import unique_key
from tasks.planning.names import display
from tasks.planning.strategies.expand_contract.contribution import TableChange

KEYS = ("unique", "primary_key")


def altered_columns(change: TableChange) -> tuple[ColumnChanged, ...]:
    """Return the columns with another default or nullability that keep their name and type."""
    return tuple(
        item
        for item in change.found
        if isinstance(item, ColumnChanged) and change.is_over_kept((item.before.name, item.after.name))
    )


def has_other_default(item: ColumnChanged) -> bool:
    """Whether the user changed the default: with a column's type the server changes how it prints it."""
    both = item.before.default is not None and item.after.default is not None
    return item.default_changed and not (item.retyped and both)


def newly_not_null(change: TableChange) -> tuple[str, ...]:
    return tuple(
        item.after.name for item in altered_columns(change) if item.nullability_changed and item.after.not_null
    )


def added_constraints(change: TableChange) -> tuple[Constraint, ...]:
    """Return constraints over columns that stay: new ones, and those made anew under their old name."""
    added = [item.after for item in change.found if isinstance(item, ConstraintAdded)]
    added += [item.after for item in change.found if isinstance(item, ConstraintChanged) and _made_anew(item)]
    return tuple(c for c in added if change.is_over_kept(c.columns))


def dropped_constraints(change: TableChange) -> tuple[Constraint, ...]:
    """Return constraints over columns that stay which the target does not have, or has made anew."""
    dropped = [item.before for item in change.found if isinstance(item, ConstraintDropped)]
    dropped += [item.before for item in change.found if isinstance(item, ConstraintChanged) and _made_anew(item)]
    return tuple(c for c in dropped if change.is_over_kept(c.columns))


def altered_constraints(change: TableChange) -> tuple[ConstraintChanged, ...]:
    """Return what became of constraints that are still the same object."""
    return tuple(
        item
        for item in change.found
        if isinstance(item, ConstraintChanged) and not _made_anew(item) and change.is_over_kept(item.after.columns)
    )


def dropped_indexes(change: TableChange) -> tuple[Index, ...]:
    """Return indexes that the user drops, other than those that fall with a column or a constraint."""
    dropped = [item.before for item in change.found if isinstance(item, IndexDropped)]
    dropped += [item.before for item in change.found if isinstance(item, IndexChanged) and _made_anew(item)]
    return tuple(i for i in dropped if i.constraint is None and not set(i.columns) & change.dropped_names)


def added_indexes(change: TableChange) -> tuple[Index, ...]:
    """Return indexes over columns that stay, other than a constraint's own."""
    added = [item.after for item in change.found if isinstance(item, IndexAdded)]
    added += [item.after for item in change.found if isinstance(item, IndexChanged) and _made_anew(item)]
    return tuple(i for i in added if i.constraint is None and change.is_over_kept(i.columns))


def altered_indexes(change: TableChange) -> tuple[IndexChanged, ...]:
    """Return what became of indexes that are still the same object; of a constraint's own, what only they can tell."""
    return tuple(
        item
        for item in change.found
        if isinstance(item, IndexChanged)
        and not _made_anew(item)
        and change.is_over_kept(item.after.columns)
        and (item.after.constraint is None or item.before.comment != item.after.comment)
    )


def _made_anew(item: ConstraintChanged | IndexChanged) -> bool:
    return item.before.oid != item.after.oid


# ------------------------------------------------------------------------------------------------ unique keys


def index_behind(change: TableChange, constraint: Constraint) -> Index:
    """Return the index that will stand behind a unique or primary key constraint of the target."""
    return next(index for index in change.after.indexes if index.constraint == constraint.name)


def index_behind_before(change: TableChange, constraint: Constraint) -> Index:
    """Return the index that stands behind a unique or primary key constraint now."""
    return next(index for index in change.before.indexes if index.constraint == constraint.name)


def adopted_index(change: TableChange, constraint: Constraint) -> Index | None:
    """Return the index that is there already and becomes the constraint's own (ADD … USING INDEX)."""
    oid = index_behind(change, constraint).oid
    return next((index for index in change.before.indexes if index.oid == oid and index.constraint is None), None)


def is_implied(change: TableChange, wanted: Index) -> bool:
    """Whether a unique index that is there now refuses already what ``wanted`` will refuse."""
    return any(_implies(index, wanted) and not _is_deferrable(change, index) for index in change.before.indexes)


def stays_unique(change: TableChange, dropped: Index) -> bool:
    """Whether the target refuses by another index whatever ``dropped`` refuses, so that nothing new is let in."""
    return any(_implies(index, dropped) for index in change.after.indexes if index.oid != dropped.oid)


def _implies(strong: Index, weak: Index) -> bool:
    if not (strong.unique and strong.valid):
        return False
    has, needs = unique_key(strong), unique_key(weak)
    return (
        set(has.terms) <= set(needs.terms)
        and has.predicate in (None, needs.predicate)
        and has.nulls_not_distinct >= needs.nulls_not_distinct
    )


def _is_deferrable(change: TableChange, index: Index) -> bool:
    return any(c.name == index.constraint and c.deferrable for c in change.before.constraints)


def successor(change: TableChange, dropped: Constraint) -> Constraint | None:
    """Return the added constraint that takes the place of a dropped key or foreign key, None where nothing does.

    A key is succeeded by one that refuses at least as much; a foreign key by one over the same columns.
    """
    for added in added_constraints(change):
        if dropped.kind in KEYS and added.kind in KEYS and added.columns:
            if set(added.columns) <= set(dropped.columns):
                return added
        elif dropped.kind == added.kind == "foreign_key" and _same_reference(dropped, added):
            return added
    return None


def predecessor(change: TableChange, added: Constraint) -> Constraint | None:
    """Return the dropped constraint whose place an added one takes."""
    return next((dropped for dropped in dropped_constraints(change) if successor(change, dropped) == added), None)


def _same_reference(one: Constraint, other: Constraint) -> bool:
    return (one.columns, one.references, one.referenced_columns) == (
        other.columns,
        other.references,
        other.referenced_columns,
    )


def is_replica_identity(change: TableChange, index: str | None) -> bool:
    """Whether logical replication tells the table's rows apart by this index."""
    kind, _, name = change.before.replica_identity.partition(" ")
    return kind == "i" and index is not None and name in (index, display(index))
