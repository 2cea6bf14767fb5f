"""A random change under construction: what Lockstep is asked for, and what plain SQL makes of the same.

An operation takes columns out of the pool of those that no other operation of the same run has, so that several can be
put into one change.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from tests.campaign.model import Column, Kind, Table, escaped, quoted

SPARE = ("fresh one", "Étage", "added", "later", "zz", "y" * 63)
"""Names of columns that come."""


@dataclass
class Change:
    """A change under construction: the table, the pool of columns left, and what has been decided so far."""

    table: Table
    chance: Random
    pool: list[Column]
    names: list[str]
    statements: list[str] = field(default_factory=list)
    """The change as the spec has it."""
    plain: list[str] = field(default_factory=list)
    """What makes the same of a copy with rows, where the spec's statements alone would not."""
    mapping: dict[str, dict[str, Any]] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)
    """Columns that a derived column follows: to change them is to change it, whoever writes."""
    after: dict[str, Column] = field(default_factory=dict)
    """Columns of the new shape by the name that they replace, or their own where they are added."""
    kinds: list[str] = field(default_factory=list)
    new_name: str | None = None
    """The table's, where it is renamed."""
    setup: list[str] = field(default_factory=list)
    """Statements that prepare the table before the old application starts."""
    old: dict[str, str] = field(default_factory=dict)
    """Statements that the old application sends beside those of the table's own columns."""
    new: dict[str, str] = field(default_factory=dict)
    """As `old`, of the new application."""

    def both(self, *statements: str) -> None:
        """Add statements that are the same in the spec and as plain SQL."""
        self.statements += statements
        self.plain += statements

    def alter(self, text: str) -> str:
        return f"ALTER TABLE {self.table.quoted} {text};"

    def mapped(self, column: str, **ways: Any) -> None:
        self.mapping[f"{self.table.quoted}.{quoted(column)}"] = ways

    def take(self, *kinds: Kind, not_null: bool | None = None) -> Column | None:
        """Take a column of one of these kinds out of the pool; where none is of them, one becomes so from the start."""
        if not self.pool:
            return None
        fitting = [c for c in self.pool if (not kinds or c.kind in kinds) and not_null in (None, c.not_null)]
        column = self.chance.choice(fitting or self.pool)
        self.pool.remove(column)
        if fitting:
            return column
        other = replace(
            column,
            kind=self.chance.choice(kinds) if kinds else column.kind,
            not_null=column.not_null if not_null is None else not_null,
        )
        self.exchange(column, other)
        return other

    def exchange(self, column: Column, other: Column) -> None:
        """Let the table have another column in a column's place from the start."""
        self.table = self.table.with_columns([other if c.name == column.name else c for c in self.table.columns])

    def keyed(self, column: Column) -> str:
        """Return a column and the key as a list: what is unique whatever the application writes."""
        return ", ".join(quoted(name) for name in (column.name, *self.table.key.names))

    def sent(self, text: str) -> str:
        """Return a statement of the application: ``{table}`` and ``{one}``, the condition for one of its own rows."""
        return text.format(table=escaped(self.table.quoted), one=self.table.one_row())

    def fresh_name(self) -> str:
        return self.names.pop(self.chance.randrange(len(self.names)))

    def new_shape(self) -> Table:
        """Return the table as the new application version knows it."""
        columns = [self.after.pop(column.name, column) for column in self.table.columns]
        kept = [column for column in columns if column.name not in self.dropped]
        renamed = replace(self.table, name=self.new_name or self.table.name)
        return renamed.with_columns([*kept, *self.after.values()])
