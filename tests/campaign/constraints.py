"""Operations on constraints, NOT NULL and defaults of columns that are there."""

from __future__ import annotations

from dataclasses import replace

from tests.campaign.change import Change
from tests.campaign.model import INT, quoted


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


def drop_default(change: Change) -> bool:
    """Both versions give the value always, as a change that only demands asks of the old one."""
    column = change.take(INT, not_null=True)
    if column is None:
        return False
    change.exchange(column, replace(column, default="23", always_given=True))
    change.both(change.alter(f"ALTER COLUMN {quoted(column.name)} DROP DEFAULT"))
    change.after[column.name] = column
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
    change.both(change.alter(f'ADD CONSTRAINT "only one" UNIQUE ({change.keyed(column)})'))
    return True


def add_foreign_key(change: Change) -> bool:
    column = change.take(INT)
    if column is None:
        return False
    change.setup.append('CREATE TABLE "parent" (id int PRIMARY KEY);')
    change.setup.append('INSERT INTO "parent" SELECT generate_series(1, 1000);')
    change.both(change.alter(f'ADD CONSTRAINT "has parent" FOREIGN KEY ({quoted(column.name)}) REFERENCES "parent"'))
    return True


def drop_constraint(change: Change) -> bool:
    """What the new application writes breaks the one that goes."""
    column = change.take(INT)
    if column is None:
        return False
    name = quoted(column.name)
    change.setup += [
        'CREATE TABLE "former parent" (id int PRIMARY KEY);',
        'INSERT INTO "former parent" SELECT generate_series(1, 1000);',
        change.alter(
            'ADD CONSTRAINT "old rule" '
            + change.chance.choice(
                (f"CHECK ({name} BETWEEN 0 AND 1000)", f'FOREIGN KEY ({name}) REFERENCES "former parent"')
            )
        ),
    ]
    change.both(change.alter('DROP CONSTRAINT "old rule"'))
    change.after[column.name] = replace(column, kind=replace(INT, sent="%(i)s + 5000"))
    return True


def rename_constraint(change: Change) -> bool:
    column = change.take()
    if column is None:
        return False
    change.setup.append(change.alter(f'ADD CONSTRAINT "first named" UNIQUE ({change.keyed(column)})'))
    change.both(change.alter('RENAME CONSTRAINT "first named" TO "then named"'))
    return True


def validate_constraint(change: Change) -> bool:
    column = change.take(INT)
    if column is None:
        return False
    rule = f"CHECK ({quoted(column.name)} BETWEEN 0 AND 5000)"
    change.setup.append(change.alter(f'ADD CONSTRAINT "unproven" {rule} NOT VALID'))
    change.both(change.alter('VALIDATE CONSTRAINT "unproven"'))
    return True


def add_primary_key(change: Change) -> bool:
    """By itself: a table without a key is changed in no other way."""
    if change.kinds:
        return False
    change.table = replace(change.table, constraint="UNIQUE")
    change.both(change.alter(f"ADD PRIMARY KEY ({', '.join(quoted(name) for name in change.table.key.names)})"))
    change.pool.clear()
    return True


def drop_primary_key(change: Change) -> bool:
    if change.kinds:
        return False
    change.table = replace(change.table, constraint='CONSTRAINT "the key" PRIMARY KEY')
    change.both(change.alter('DROP CONSTRAINT "the key"'))
    change.pool.clear()
    return True
