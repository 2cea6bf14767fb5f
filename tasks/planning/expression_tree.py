"""Expressions compared by their parse trees, and where in the text their columns stand.

Never by text that libpg_query prints: its printer leaves out parentheses that matter. Of 6,000 generated
expressions, 422 came back as another one (``(NOT b) IS NULL`` as ``NOT b IS NULL``) and 591 as no SQL at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tasks.planning import parser

_HEAD_BYTES = len("SELECT ")
"""What `parser.parse_expression` puts before the expression; the tree's locations count from there."""

_IDENTIFIER = re.compile(rb'"(?:[^"]|"")*"|(?:[A-Za-z0-9_$]|[\x80-\xff])+')


_POSITIONS = ("location", "list_start", "list_end")
"""How the fields that say where something stands end."""


class Reference(NamedTuple):
    """An unqualified column reference: its name, and the bytes of the expression's UTF-8 text where it stands."""

    name: str
    start: int
    end: int


def form(expression: str, rename: Mapping[str, str]) -> bytes:
    """Return a value that is equal for two expressions exactly when they mean the same to the parser.

    ``rename`` is applied to column names first, all at once. ``numeric`` and ``pg_catalog.numeric`` count as the
    same type, since pg_catalog is searched first wherever Lockstep's SQL runs. Raises SpecError for what is no
    expression.
    """
    tree = parser.parse_expression(expression).tree
    for message in list(_messages(tree)):
        for field, _ in message.ListFields():
            if field.name.endswith(_POSITIONS):
                message.ClearField(field.name)
        match message.DESCRIPTOR.name:
            case "ColumnRef" if message.fields[-1].WhichOneof("node") == "string":
                name = message.fields[-1].string
                name.sval = rename.get(name.sval, name.sval)
            case "TypeName" if len(message.names) > 1 and message.names[0].string.sval == "pg_catalog":
                del message.names[0]
    return bytes(tree.SerializeToString(deterministic=True))


def references(expression: str) -> tuple[Reference, ...] | None:
    """Return every column reference of the expression in text order; None when one is qualified or a whole row."""
    text = expression.encode()
    found: list[Reference] = []
    for message in _messages(parser.parse_expression(expression).tree):
        if message.DESCRIPTOR.name != "ColumnRef":
            continue
        if len(message.fields) > 1 or message.fields[0].WhichOneof("node") != "string":
            return None
        start = message.location - _HEAD_BYTES
        identifier = _IDENTIFIER.match(text, start)
        if identifier is None:
            return None
        found.append(Reference(message.fields[0].string.sval, start, identifier.end()))
    return tuple(sorted(found, key=lambda reference: reference.start))


def _messages(message: parser.Node) -> Iterator[parser.Node]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if field.is_repeated else (value,):
                yield from _messages(inner)
