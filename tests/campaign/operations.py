"""Random changes: one function a kind of change. Each says what Lockstep is asked for and what plain SQL makes of it.

An operation takes columns out of the pool of those that no other operation of the same run has, so that several can be
put into one change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from tests.campaign.model import (
    BOOLEAN,
    INT,
    NUMERIC,
    SHORT,
    STAMP,
    TEXT,
    UUID,
    WORDS,
    Column,
    Kind,
    Table,
    quoted,
)  # fmt: skip

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

    def both(self, *statements: str) -> None:
        """Add statements that are the same in the spec and as plain SQL."""
        self.statements += statements
        self.plain += statements

    def alter(self, text: str) -> str:
        return f"ALTER TABLE {self.table.quoted} {text};"

    def mapped(self, column: str, **ways: Any) -> None:
        self.mapping[f"{self.table.quoted}.{quoted(column)}"] = ways

    def take(self, *kinds: Kind, not_null: bool | None = None) -> Column | None:
        """Take a column of one of these kinds out of the pool."""
        fitting = [c for c in self.pool if (not kinds or c.kind in kinds) and not_null in (None, c.not_null)]
        if not fitting:
            return None
        column = self.chance.choice(fitting)
        self.pool.remove(column)
        return column

    def exchange(self, column: Column, other: Column) -> None:
        """Let the table have another column in a column's place from the start."""
        self.table = self.table.with_columns([other if c.name == column.name else c for c in self.table.columns])

    def fresh_name(self) -> str:
        return self.names.pop(self.chance.randrange(len(self.names)))

    def new_shape(self) -> Table:
        """Return the table as the new application version knows it."""
        columns = [self.after.pop(column.name, column) for column in self.table.columns]
        kept = [column for column in columns if column.name not in self.dropped]
        renamed = replace(self.table, name=self.new_name or self.table.name)
        return renamed.with_columns([*kept, *self.after.values()])


Operation = Callable[[Change], bool]
"""Adds itself to a change, or returns False where the table has nothing for it."""


def add_nullable(change: Change) -> bool:
    column = Column(change.fresh_name(), change.chance.choice((INT, TEXT, BOOLEAN, STAMP, UUID)), not_null=False)
    change.both(change.alter(f"ADD COLUMN {column.definition}"))
    change.after[column.name] = column
    return True


def add_with_default(change: Change) -> bool:
    column = Column(change.fresh_name(), INT, change.chance.random() < 0.7, default="17")
    change.both(change.alter(f"ADD COLUMN {column.definition}"))
    change.after[column.name] = column
    return True


def add_computed(change: Change) -> bool:
    """NOT NULL and filled by a mapping without a way back."""
    source = change.chance.choice(change.table.columns)
    if source.name in change.dropped or source not in change.pool:
        return False
    change.pool.remove(source)
    name = change.fresh_name()
    up = f"coalesce(length({quoted(source.name)}::text), 0)"
    change.statements.append(change.alter(f"ADD COLUMN {quoted(name)} int NOT NULL"))
    change.plain += [
        change.alter(f"ADD COLUMN {quoted(name)} int"),
        f"UPDATE {change.table.quoted} SET {quoted(name)} = {up};",
        change.alter(f"ALTER COLUMN {quoted(name)} SET NOT NULL"),
    ]
    change.mapped(name, up=up)
    change.sources.add(source.name)
    change.after[name] = Column(name, INT, not_null=True)
    return True


def rename(change: Change) -> bool:
    column = change.take()
    if column is None:
        return False
    name = change.fresh_name()
    change.both(change.alter(f"RENAME COLUMN {quoted(column.name)} TO {quoted(name)}"))
    change.after[column.name] = replace(column, name=name)
    return True


def retype_and_rename(change: Change) -> bool:
    column = change.take(INT, STAMP, not_null=True)
    if column is None:
        return False
    name, old = change.fresh_name(), quoted(column.name)
    if column.kind == INT:
        kind, using = NUMERIC, f"{old} / 4.0"
        down = f"least(greatest(round({quoted(name)} * 4), -2147483648), 2147483647)::int"
    else:
        kind = replace(STAMP, type="timestamptz", sent=f"({STAMP.sent}) AT TIME ZONE 'UTC'")
        using, down = f"{old} AT TIME ZONE 'UTC'", f"{quoted(name)} AT TIME ZONE 'UTC'"
    change.both(
        change.alter(f"ALTER COLUMN {old} TYPE {kind.type} USING {using}"),
        change.alter(f"RENAME COLUMN {old} TO {quoted(name)}"),
    )
    change.mapped(name, down=down)
    change.after[column.name] = Column(name, kind, not_null=True)
    return True


def split(change: Change) -> bool:
    """A text of two words becomes two columns."""
    column = change.take(WORDS, not_null=True)
    if column is None:
        return False
    first, second, old = change.fresh_name(), change.fresh_name(), quoted(column.name)
    head, tail = f"split_part({old}, ' ', 1)", f"substr({old}, length(split_part({old}, ' ', 1)) + 2)"
    change.statements += [
        change.alter(f"ADD COLUMN {quoted(first)} text NOT NULL, ADD COLUMN {quoted(second)} text NOT NULL"),
        change.alter(f"DROP COLUMN {old}"),
    ]
    change.plain += [
        change.alter(f"ADD COLUMN {quoted(first)} text, ADD COLUMN {quoted(second)} text"),
        f"UPDATE {change.table.quoted} SET {quoted(first)} = {head}, {quoted(second)} = {tail};",
        change.alter(f"ALTER COLUMN {quoted(first)} SET NOT NULL, ALTER COLUMN {quoted(second)} SET NOT NULL"),
        change.alter(f"DROP COLUMN {old}"),
    ]
    change.mapped(first, up=head, down={old: f"{quoted(first)} || ' ' || {quoted(second)}"})
    change.mapped(second, up=tail)
    word = Kind("text", "%(w)s", "'w'")
    change.dropped.add(column.name)
    change.after[first] = Column(first, word, not_null=True)
    change.after[second] = Column(second, word, not_null=True)
    return True


def drop(change: Change) -> bool:
    column = change.take()
    if column is None:
        return False
    change.both(change.alter(f"DROP COLUMN {quoted(column.name)}"))
    change.dropped.add(column.name)
    if column.not_null:
        change.mapped(column.name, down=_any(column))
    return True


def _any(column: Column) -> str:
    """Return a constant of the column's type."""
    constants = {
        "bigint": "7", "text": "'gone'", "numeric(10,2)": "7", "timestamp": "timestamp '2024-01-01'",
        "boolean": "false", "uuid": "'00000000-0000-0000-0000-000000000007'::uuid", "int": "7",
        "varchar(20)": "'gone'",
    }  # fmt: skip
    return constants[column.kind.type]


def create_index(change: Change) -> bool:
    column = change.chance.choice(change.table.columns)
    if column not in change.pool:
        return False
    tail = change.chance.choice(("", f" WHERE {quoted(column.name)} IS NOT NULL"))
    name = f"ix {change.fresh_name()}"[:50]
    change.both(f"CREATE INDEX {quoted(name)} ON {change.table.quoted} ({quoted(column.name)}){tail};")
    return True


def drop_index(change: Change) -> bool:
    column = change.chance.choice(change.table.columns)
    if column not in change.pool:
        return False
    change.setup.append(f'CREATE INDEX "going" ON {change.table.quoted} ({quoted(column.name)});')
    change.both('DROP INDEX "going";')
    return "drop_index" not in change.kinds


def widen_in_place(change: Change) -> bool:
    """A type that changes without a rewrite."""
    column = change.take(SHORT)
    if column is None:
        return False
    kind = change.chance.choice((replace(SHORT, type="varchar(40)", sent="left(%(t)s, 40)"), TEXT))
    change.both(change.alter(f"ALTER COLUMN {quoted(column.name)} TYPE {kind.type}"))
    change.after[column.name] = replace(column, kind=kind)
    return True


def same_name_bigint(change: Change) -> bool:
    """int to bigint under the same name; the new version may write what the old type cannot hold."""
    column = change.take(INT)
    if column is None:
        return False
    sent = change.chance.choice(("%(i)s::bigint", "%(i)s::bigint * 40000000"))
    change.both(change.alter(f"ALTER COLUMN {quoted(column.name)} TYPE bigint"))
    change.after[column.name] = replace(column, kind=Kind("bigint", sent, INT.stored))
    return True


def set_not_null(change: Change) -> bool:
    column = change.take(not_null=False)
    if column is None:
        return False
    change.exchange(column, replace(column, always_given=True))
    change.both(change.alter(f"ALTER COLUMN {quoted(column.name)} SET NOT NULL"))
    change.after[column.name] = replace(column, not_null=True)
    return True


def drop_not_null(change: Change) -> bool:
    column = change.take(not_null=True)
    if column is None:
        return False
    change.both(change.alter(f"ALTER COLUMN {quoted(column.name)} DROP NOT NULL"))
    change.after[column.name] = replace(column, not_null=False)
    return True


def set_default(change: Change) -> bool:
    """On a column that the old application always gives, so that the moment does not matter."""
    column = change.take(INT, not_null=True)
    if column is None:
        return False
    change.both(change.alter(f"ALTER COLUMN {quoted(column.name)} SET DEFAULT 23"))
    change.after[column.name] = replace(column, default="23")
    return True


def add_check(change: Change) -> bool:
    column = change.take(INT)
    if column is None:
        return False
    change.both(change.alter(f'ADD CONSTRAINT "in range" CHECK ({quoted(column.name)} BETWEEN 0 AND 5000)'))
    return True


def add_unique(change: Change) -> bool:
    """Over the key and a column: what the application writes can never break it."""
    column = change.take()
    if column is None:
        return False
    columns = ", ".join(quoted(name) for name in (column.name, *change.table.key.names))
    change.both(change.alter(f'ADD CONSTRAINT "only one" UNIQUE ({columns})'))
    return True


def add_foreign_key(change: Change) -> bool:
    column = change.take(INT)
    if column is None:
        return False
    change.setup.append('CREATE TABLE "parent" (id int PRIMARY KEY);')
    change.setup.append('INSERT INTO "parent" SELECT generate_series(1, 1000);')
    change.both(change.alter(f'ADD CONSTRAINT "has parent" FOREIGN KEY ({quoted(column.name)}) REFERENCES "parent"'))
    return True


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


def rename_table(change: Change) -> bool:
    """By itself: both names are used until contract."""
    if change.kinds:
        return False
    name = "renamed table"
    change.both(change.alter(f"RENAME TO {quoted(name)}"))
    change.new_name = name
    change.pool.clear()
    return True


OPERATIONS: Mapping[str, Operation] = {
    operation.__name__: operation
    for operation in (
        add_nullable, add_with_default, add_computed, rename, retype_and_rename, split, drop, create_index, drop_index,
        widen_in_place, same_name_bigint, set_not_null, drop_not_null, set_default, add_check, add_unique,
        add_foreign_key, populate, update_rows, delete_rows, rename_table,
    )
}  # fmt: skip
"""A new kind of change is a new entry here."""


def random_change(table: Table, chance: Random) -> Change:
    """Return a change of one to three operations on a table."""
    change = Change(table, chance, list(table.columns), list(SPARE))
    wanted = chance.randint(1, 3)
    names = chance.sample(sorted(OPERATIONS), len(OPERATIONS))
    for name in names:
        if len(change.kinds) == wanted or change.new_name is not None:
            break
        if OPERATIONS[name](change):
            change.kinds.append(name)
    return change
