"""Operations on rows: UPDATE and DELETE in the change."""

from __future__ import annotations

from dataclasses import replace

from tests.campaign.change import Change
from tests.campaign.model import INT, Column, quoted


def populate(change: Change) -> bool:
    """The script that people write: a column, an UPDATE that fills it, NOT NULL."""
    column = change.take(INT, not_null=True)
    if column is None:
        return False
    name = change.fresh_name()
    change.both(
        change.alter(f"ADD COLUMN {quoted(name)} int"),
        f"UPDATE {change.table.quoted} SET {quoted(name)} = {quoted(column.name)} / 2;",
        change.alter(f"ALTER COLUMN {quoted(name)} SET NOT NULL"),
    )
    change.sources.add(column.name)
    change.after[name] = Column(name, INT, not_null=True)
    return True


def update_rows(change: Change) -> bool:
    """Not the same twice: a row that is visited twice differs. The application leaves the column alone."""
    column = change.take(INT, not_null=False)
    if column is None:
        return False
    change.exchange(column, replace(column, left_alone=True))
    name = quoted(column.name)
    change.both(f"UPDATE {change.table.quoted} SET {name} = {name} * 3 + 1 WHERE {name} % 2 = 0;")
    return True


def delete_rows(change: Change) -> bool:
    column = change.take(INT, not_null=False)
    if column is None:
        return False
    change.exchange(column, replace(column, left_alone=True))
    change.both(f"DELETE FROM {change.table.quoted} WHERE {quoted(column.name)} % 3 = 1;")
    return True
