"""Names: qualified relation names, quoting, and Lockstep's own short hashed names."""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

from psycopg import sql

MAX_IDENTIFIER_BYTES = 63
"""NAMEDATALEN - 1: PostgreSQL cuts a longer name silently, which would make two names one."""

LOCKSTEP_SCHEMA = "lockstep"
"""Where the ledger and the sync functions live, in the target database."""

PENDING_COLUMN = "lockstep_pending"
"""Marker column of a table under expand-contract: ``integer NOT NULL DEFAULT <all unfilled>``, 0 for a row in step.

Two bits a mapping group: bit 2g says that the group's new columns are unfilled (or `up` failed), bit 2g+1 that `down`
failed, so that the new columns hold what the old ones could not take. One marker for all groups would let the retry
of one group overwrite what the new application wrote through another.
"""

DUE_COLUMN = "lockstep_due"
"""Second marker column, of a table whose rows an UPDATE or DELETE of the change concerns: one bit a statement.

Rows that are there when it is added have every bit, later ones none; a statement clears its bit in the row that it
changes. So each row is changed once, whatever becomes of its key, of the runner, or of a COMMIT's answer.
"""

OWN_COLUMNS = frozenset({PENDING_COLUMN, DUE_COLUMN})

DIRECTION_SETTING = "lockstep.direction"
"""Session setting that overrides the sync trigger's reading of a write: ``up``, ``down``, ``none`` or ``fill``."""


class TableName(NamedTuple):
    """A schema-qualified relation name, unquoted. ``str()`` is for people, ``identifier`` for statements."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{display(self.schema)}.{display(self.name)}"

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)


def display(identifier: str) -> str:
    """Return the identifier for a person to read: quoted only where it is not a plain lower-case word."""
    plain = identifier.isascii() and identifier.replace("_", "a").isalnum() and identifier == identifier.lower()
    return identifier if plain and not identifier[0].isdigit() else sql.Identifier(identifier).as_string()


def unquoted(printed: str) -> str:
    """Return the name that the server's quote_ident printed."""
    return printed[1:-1].replace('""', '"') if printed.startswith('"') else printed


def relation_name(printed: str) -> TableName:
    """Return the relation whose name the server printed; ``schema`` is empty where it printed none.

    >>> relation_name('public."we""ird.name"'), relation_name('"a.b"')
    (TableName(schema='public', name='we"ird.name'), TableName(schema='', name='a.b'))
    """
    schema = re.match(r'("(?:[^"]|"")*"|[^".]+)\.', printed)
    rest = printed[schema.end() :] if schema else printed
    return TableName(unquoted(schema[1]) if schema else "", unquoted(rest))


def short_hash(*parts: str) -> str:
    """Return 10 hexadecimal digits that are the same for the same parts, in every run."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:10]


def own_name(kind: str, *parts: str) -> str:
    """Return the name of an object of Lockstep's own, e.g. ``lockstep_ck_1a2b3c4d5e``; always below 63 bytes."""
    return f"{LOCKSTEP_SCHEMA}_{kind}_{short_hash(kind, *parts)}"


def is_rebuild_of(name: str, index: str) -> bool:
    """Whether REINDEX CONCURRENTLY gives this name to the new or the old copy of the index.

    >>> is_rebuild_of("t_pkey_ccnew", "t_pkey"), is_rebuild_of("t_pkey_ccold1", "t_pkey")
    (True, True)
    >>> is_rebuild_of("t_pkey", "t_pkey"), is_rebuild_of("u_pkey_ccnew", "t_pkey")
    (False, False)
    """
    found = re.fullmatch(r"(.*)_cc(?:new|old)\d*", name, re.DOTALL)
    if found is None:
        return False
    head = found.group(1)
    # A name that would be too long is cut, at a whole character, to make room for the ending.
    is_cut = len(name.encode()) > MAX_IDENTIFIER_BYTES - 4
    return head == index or (is_cut and index.startswith(head))


def verbatim(text: str) -> sql.SQL:
    """Return SQL text that the server itself printed or the user's own parsed slice, as a part of a statement.

    The one place where text that is not a literal of this program becomes SQL: never pass a name or a value.
    """
    return sql.SQL(text)
