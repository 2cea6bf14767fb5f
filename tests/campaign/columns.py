"""Operations on columns: each adds itself to a change, or returns False where the table has nothing for it."""

from __future__ import annotations

from dataclasses import replace

from tests.campaign.change import Change
from tests.campaign.model import (
    BOOLEAN,
    INT,
    KEYS,
    NUMERIC,
    SHORT,
    STAMP,
    TEXT,
    UUID,
    WORD,
    WORDS,
    Column,
    Kind,
    quoted,
)  # fmt: skip


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


def add_with_volatile_default(change: Change) -> bool:
    """Volatile to PostgreSQL, and the same in every row, so that contents can be compared."""
    column = Column(change.fresh_name(), INT, change.chance.random() < 0.7, default="(random() * 0)::int + 17")
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


def rename_under_a_view(change: Change) -> bool:
    """The view keeps its column's name, and both versions read it."""
    column = change.take()
    if column is None:
        return False
    change.setup.append(f'CREATE VIEW "looked at" AS SELECT {quoted(column.name)} AS shown FROM {change.table.quoted};')
    change.old["look"] = change.new["look"] = 'SELECT count(shown) FROM "looked at"'
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
    change.dropped.add(column.name)
    change.after[first] = Column(first, WORD, not_null=True)
    change.after[second] = Column(second, WORD, not_null=True)
    return True


def merge(change: Change) -> bool:
    """Two words become one text; the first of them takes the new column's place."""
    first, second = change.take(not_null=True), change.take(not_null=True)
    if first is None or second is None:
        change.pool += [column for column in (first, second) if column is not None]
        return False
    for column in (first, second):
        change.exchange(column, replace(column, kind=WORD))
    name, one, two = change.fresh_name(), quoted(first.name), quoted(second.name)
    up, new = f"{one} || ' ' || {two}", quoted(name)
    head, tail = f"split_part({new}, ' ', 1)", f"substr({new}, length(split_part({new}, ' ', 1)) + 2)"
    change.statements += [
        change.alter(f"ADD COLUMN {new} text NOT NULL"),
        change.alter(f"DROP COLUMN {one}, DROP COLUMN {two}"),
    ]
    change.plain += [
        change.alter(f"ADD COLUMN {new} text"),
        f"UPDATE {change.table.quoted} SET {new} = {up};",
        change.alter(f"ALTER COLUMN {new} SET NOT NULL"),
        change.alter(f"DROP COLUMN {one}, DROP COLUMN {two}"),
    ]
    change.mapped(name, up=up, down={one: head, two: tail})
    change.dropped |= {first.name, second.name}
    change.after[name] = Column(name, WORDS, not_null=True)
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


def bigint_key(change: Change) -> bool:
    """int to bigint of the primary key and of the table that refers to it."""
    if change.kinds or change.table.constraint != "PRIMARY KEY":
        return False
    change.table = replace(change.table, key=KEYS[0])
    table, key = change.table.quoted, quoted(KEYS[0].names[0])
    change.setup += [
        f'CREATE TABLE "child" (id int PRIMARY KEY, parent int REFERENCES {table} ON DELETE CASCADE);',
        f'INSERT INTO "child" SELECT {key}, {key} FROM {table};',
        'CREATE INDEX "child of" ON "child" (parent);',
    ]
    change.both(
        change.alter(f"ALTER COLUMN {key} TYPE bigint"),
        'ALTER TABLE "child" ALTER COLUMN id TYPE bigint, ALTER COLUMN parent TYPE bigint;',
    )
    bear = f'INSERT INTO "child" (id, parent) SELECT {{id}}, {key} FROM {{table}} WHERE {{one}}'
    leave = 'UPDATE "child" SET parent = NULL WHERE id = %(n)s'
    change.old |= {"bear": change.sent(bear.replace("{id}", "%(fresh)s::int")), "leave": leave}
    change.new |= {"bear": change.sent(bear.replace("{id}", "3000000000 + %(fresh)s")), "leave": leave}
    return True
