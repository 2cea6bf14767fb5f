"""The kinds of change that a campaign has, and random changes made of one to three of them.

One function a kind; each says what Lockstep is asked for and what plain SQL makes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from tests.campaign import columns, constraints, indexes, objects, rows
from tests.campaign.change import SPARE, Change
from tests.campaign.model import Table

Operation = Callable[[Change], bool]
"""Adds itself to a change, or returns False where the table has nothing for it."""


OPERATIONS: Mapping[str, Operation] = {
    operation.__name__: operation
    for operation in (
        columns.add_nullable,
        columns.add_with_default,
        columns.add_with_volatile_default,
        columns.add_computed,
        columns.rename,
        columns.rename_under_a_view,
        columns.retype_and_rename,
        columns.split,
        columns.merge,
        columns.drop,
        columns.widen_in_place,
        columns.same_name_bigint,
        columns.bigint_key,
        constraints.set_not_null,
        constraints.drop_not_null,
        constraints.set_default,
        constraints.drop_default,
        constraints.add_check,
        constraints.add_unique,
        constraints.add_foreign_key,
        constraints.drop_constraint,
        constraints.rename_constraint,
        constraints.validate_constraint,
        constraints.add_primary_key,
        constraints.drop_primary_key,
        indexes.create_index,
        indexes.drop_index,
        indexes.reindex,
        rows.populate,
        rows.update_rows,
        rows.delete_rows,
        objects.create_table,
        objects.drop_table,
        objects.rename_table,
        objects.create_view_and_functions,
        objects.drop_view_and_functions,
        objects.add_enum_value,
    )
}
"""A new kind of change is a new entry here."""


def random_change(table: Table, chance: Random, kind: str | None = None) -> Change:
    """Return a change of one to three operations on a table; ``kind`` is tried before all others."""
    change = Change(table, chance, list(table.columns), list(SPARE))
    wanted = chance.randint(1, 3)
    names = chance.sample(sorted(OPERATIONS), len(OPERATIONS))
    if kind is not None:
        names.insert(0, names.pop(names.index(kind)))
    for name in names:
        if len(change.kinds) == wanted or change.new_name is not None:
            break
        if OPERATIONS[name](change):
            change.kinds.append(name)
    return change
