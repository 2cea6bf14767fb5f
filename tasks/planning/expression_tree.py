"""Expressions compared by their trees (`parse_tree`), and renamed in their own text, where their columns stand."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from psycopg import sql

from tasks.planning import parse_tree
from tasks.planning.errors import SpecError, Unsupported
from tasks.planning.parser import HEAD, parse_expression

_IDENTIFIER = re.compile(rb'"(?:[^"]|"")*"|(?:[A-Za-z0-9_$]|[\x80-\xff])+')
_DOT = re.compile(rb"\s*\.\s*")


class Reference(NamedTuple):
    """A column reference: the column's name, and the bytes of the expression's UTF-8 text where that name stands."""

    name: str
    start: int
    end: int


def form(expression: str, rename: Mapping[str, str]) -> bytes:
    """Return a value that is equal for two expressions exactly when they mean the same to the parser.

    ``rename`` is applied to column names first, all at once. Raises SpecError for what is no expression.
    """
    return parse_tree.form(parse_expression(expression).value, rename)


def references(expression: str) -> tuple[Reference, ...] | None:
    """Return every column reference of the expression in text order; None when one is qualified or a whole row."""
    nodes = _column_references(expression)
    if any(len(node.fields) > 1 or not parse_tree.names_a_column(node) for node in nodes):
        return None
    return _located(expression, nodes)


def renamed(expression: str, columns: Mapping[str, str]) -> str:
    """Return the expression's text with columns renamed, all at once, and all else as it is written.

    A qualifier stays. Raises `Unsupported` when the result is not proven to be the same expression.
    """
    nodes = _column_references(expression)
    concerned = [node for node in nodes if parse_tree.names_a_column(node) and node.fields[-1].string.sval in columns]
    found = _located(expression, concerned)
    if found is not None:
        text = replaced(expression, found, {name: sql.Identifier(new).as_string() for name, new in columns.items()})
        if has_form(text, form(expression, columns)):
            return text
    raise Unsupported(
        f"the expression {expression!r}, in which {', '.join(sorted(columns))} cannot be renamed safely",
        instead="Write its column names plainly, without a qualifier.",
    )


def replaced(expression: str, found: tuple[Reference, ...], texts: Mapping[str, str]) -> str:
    """Return the expression with other text where its columns stand. Nothing is proven of the result."""
    source = expression.encode()
    for reference in reversed(found):
        if reference.name in texts:
            source = source[: reference.start] + texts[reference.name].encode() + source[reference.end :]
    return source.decode()


def has_form(expression: str, wanted: bytes) -> bool:
    """Whether the text is an expression of that form."""
    try:
        return form(expression, {}) == wanted
    except SpecError:
        return False


def _column_references(expression: str) -> list[parse_tree.Node]:
    tree = parse_expression(expression).value
    return [node for node in parse_tree.walk(tree) if type(node).__name__ == "ColumnRef"]


def _located(expression: str, nodes: list[parse_tree.Node]) -> tuple[Reference, ...] | None:
    """Return where the columns' names stand, in text order; None when one is written in a way that is not read here."""
    text = expression.encode()
    found: list[Reference] = []
    for node in nodes:
        parts = list(_parts(text, node.location - len(HEAD)))
        if len(parts) < len(node.fields):
            return None
        found.append(Reference(node.fields[-1].string.sval, *parts[len(node.fields) - 1]))
    return tuple(sorted(found, key=lambda reference: reference.start))


def _parts(text: bytes, start: int) -> Iterator[tuple[int, int]]:
    """Yield where the parts of a qualified name stand."""
    while identifier := _IDENTIFIER.match(text, start):
        yield identifier.span()
        dot = _DOT.match(text, identifier.end())
        if dot is None:
            return
        start = dot.end()
