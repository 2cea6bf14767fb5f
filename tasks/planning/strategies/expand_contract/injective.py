"""Which mappings keep different values different: only those can carry a UNIQUE constraint without surprises.

A unique violation cannot be caught inside a BEFORE trigger. Where two values of one shape could become one value of
the other, the application's statement would fail for a constraint of a shape that it does not know; so such a
constraint is refused at planning instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from psycopg import sql

from tasks.planning.catalog import Column, Index
from tasks.planning.checks.uniqueness import unique_key
from tasks.planning.errors import Unsupported
from tasks.planning.expressions import is_same
from tasks.planning.strategies.expand_contract.contribution import TableChange
from tasks.planning.strategies.expand_contract.mapping import Side

_IDENTIFIER = r'(?:"(?:[^"]|"")+"|[a-z_][a-z0-9_$]*)'
_WIDENING = re.compile(rf"^(?P<column>{_IDENTIFIER})::(?P<type>integer|bigint|text|numeric|character varying)$")
_CAST = re.compile(rf"^CAST\(\(?(?P<column>{_IDENTIFIER})\)? AS (?P<type>INT|BIGINT|TEXT|DECIMAL|VARCHAR)\)$")
_CAST_TYPES = {
    "INT": "integer",
    "BIGINT": "bigint",
    "TEXT": "text",
    "DECIMAL": "numeric",
    "VARCHAR": "character varying",
}
"""The same as sqlglot writes it."""
_INTEGERS = frozenset({"smallint", "integer", "bigint"})
_PRINTED_APART = _INTEGERS | {"numeric", "text", "character varying", "uuid", "boolean", "date"}
_WIDENS_FROM = {
    "integer": frozenset({"smallint", "integer"}),
    "bigint": _INTEGERS,
    "numeric": _INTEGERS,
    "text": _PRINTED_APART,
    "character varying": _PRINTED_APART,
}
"""From which types a cast keeps different values different: numeric to bigint rounds, text to numeric drops zeros."""

_INJECTIVE = (
    # the column itself
    re.compile(rf"^{_IDENTIFIER}$"),
    # a time zone without daylight saving: every local time is one instant and back
    re.compile(rf"^{_IDENTIFIER} AT TIME ZONE '(UTC|GMT|Etc/UTC)'(::text)?$"),
    re.compile(rf"^(?:pg_catalog\.)?timezone\('(UTC|GMT|Etc/UTC)'(?:::text)?, {_IDENTIFIER}\)$"),
)


def is_injective(expression: str, types: Mapping[str, str]) -> bool:
    """Return whether the canonical expression is known to map different values to different values.

    ``types`` are those of the columns that it may read, by name, as ``format_type`` prints them.
    """
    text = expression.strip()
    while text.startswith("(") and _closes_at_end(text):
        text = text[1:-1].strip()
    text = re.sub(rf"^\(({_IDENTIFIER})\)", r"\1", text)
    widening = _WIDENING.match(text) or _CAST.match(text)
    if widening is not None:
        name, to = widening["column"], _CAST_TYPES.get(widening["type"], widening["type"])
        column = name[1:-1].replace('""', '"') if name.startswith('"') else name
        return re.sub(r"\(.*\)", "", types.get(column, "")) in _WIDENS_FROM[to]
    return any(pattern.match(text) for pattern in _INJECTIVE)


_NARROWING = {"bigint": ("integer", "smallint"), "integer": ("smallint",)}


def is_injective_or_raises(expression: str, types: Mapping[str, str]) -> bool:
    """As `is_injective`, where a value that has no counterpart may raise: integers into a smaller integer type."""
    if is_injective(expression, types):
        return True
    return any(
        is_same(expression, f"{sql.Identifier(name).as_string()}::{to}")
        for name, type_ in types.items()
        for to in _NARROWING.get(type_, ())
    )


def keeps_apart(source: Column, receiver: Column) -> bool:
    """Return whether values that the source's collation tells apart are told apart by the receiver's, too."""
    return receiver.deterministic or (source.type, source.collation) == (receiver.type, receiver.collation)


def _closes_at_end(text: str) -> bool:
    depth = 0
    for position, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth == 0:
            return position == len(text) - 1
    return False


def require(change: TableChange, constraint: str, columns: tuple[str, ...], way: str) -> None:
    """Refuse a unique constraint over columns that a mapping which may merge values writes.

    ``way`` is ``up`` for constraints of the new shape, ``down`` for those of the old one.
    """
    types = {column.name: column.type for column in (*change.before.columns, *change.new)}
    for group in change.groups:
        side, source = (group.new, group.old) if way == "up" else (group.old, group.new)
        assignments = group.up if way == "up" else group.down
        for assignment in assignments:
            if assignment.column in columns and assignment.column in side.names:
                alone = len(side.columns) == 1 and all(keeps_apart(one, side.columns[0]) for one in source.columns)
                if alone and is_injective(assignment.expression, types):
                    continue
                raise Unsupported(
                    f"the unique constraint {constraint} of {change.name} over {assignment.column}, which is computed "
                    f"as {assignment.expression}{_collated(side)}: two values could become one, and the application's "
                    "statement would fail",
                    instead="Use a mapping that keeps different values different (a rename, a widening cast, AT TIME "
                    "ZONE 'UTC'), or drop the constraint in a migration of its own first.",
                )


def _collated(side: Side) -> str:
    listed = ", ".join(column.collation or "its type's own" for column in side.columns if not column.deterministic)
    return f" under the collation {listed}" if listed else ""


def require_twin(change: TableChange, coming: Index) -> None:
    """Refuse a unique index over mapped columns that no unique index of the old shape implies.

    The old application does not know such a constraint. Over columns that nothing fills it may come: the old
    application never gives them a value.
    """
    if not set(coming.columns) & change.mapped or any(index.oid == coming.oid for index in change.before.indexes):
        return
    old_name = {
        new.name: old.name
        for group in change.groups
        if len(group.new.columns) == len(group.old.columns) == 1
        for new, old in zip(group.new.columns, group.old.columns, strict=True)
    }
    wanted = unique_key(coming)
    terms = {old_name.get(name, name) for name in map(_plain_name, wanted.terms)}
    for index in change.before.indexes:
        present = unique_key(index)
        if (
            index.unique
            and {_plain_name(term) for term in present.terms} <= terms
            and present.predicate in (None, wanted.predicate)
            and present.nulls_not_distinct >= wanted.nulls_not_distinct
        ):
            return
    raise Unsupported(
        f"the new unique constraint {coming.name} of {change.name} over {', '.join(wanted.terms)}: the old application "
        "does not know it, and its statements could fail for it while both versions run",
        instead="Add it in a migration of its own after contract.",
    )


def _plain_name(term: str) -> str:
    """Return an index term that is a column as the catalog names it; any other term as it is."""
    return term[1:-1].replace('""', '"') if term.startswith('"') else term
