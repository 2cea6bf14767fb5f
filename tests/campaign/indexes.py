"""Operations on indexes: plain, partial, unique, of an expression, with INCLUDE."""

from __future__ import annotations

from tests.campaign.change import Change
from tests.campaign.model import Column, quoted


def create_index(change: Change) -> bool:
    column = change.chance.choice(change.table.columns)
    if column not in change.pool:
        return False
    change.both(_random_index(change, f"ix {change.fresh_name()}"[:50], column))
    return True


def drop_index(change: Change) -> bool:
    column = change.chance.choice(change.table.columns)
    if column not in change.pool:
        return False
    change.setup.append(_random_index(change, "going", column))
    change.both('DROP INDEX "going";')
    return True


def reindex(change: Change) -> bool:
    column = change.chance.choice(change.table.columns)
    if column not in change.pool:
        return False
    change.setup.append(_random_index(change, "worn", column))
    what, name = change.chance.choice((("INDEX", '"worn"'), ("TABLE", change.table.quoted)))
    change.statements.append(f"REINDEX {what} {change.chance.choice(('', 'CONCURRENTLY '))}{name};")
    change.plain.append(f"REINDEX {what} {name};")
    return True


def _random_index(change: Change, name: str, column: Column) -> str:
    own = quoted(column.name)
    unique, body = change.chance.choice(
        (
            ("", f"({own})"),
            ("", f"({own} DESC) WHERE {own} IS NOT NULL"),
            ("UNIQUE ", f"({change.keyed(column)})"),
            ("", f"(coalesce({own}, {own}), {quoted(change.table.key.names[0])})"),
            ("", f"({quoted(change.table.key.names[0])}) INCLUDE ({own})"),
        )
    )
    return f"CREATE {unique}INDEX {quoted(name)} ON {change.table.quoted} {body};"
