"""Privileges as the catalog prints them, turned into the statements that give them and take them away."""

from __future__ import annotations

import re

from psycopg import sql

from tasks.planning.catalog import Catalog, SchemaObject
from tasks.planning.names import unquoted

_LETTERS = {
    "r": "SELECT", "a": "INSERT", "w": "UPDATE", "d": "DELETE", "D": "TRUNCATE", "x": "REFERENCES", "t": "TRIGGER",
    "m": "MAINTAIN", "X": "EXECUTE", "U": "USAGE", "C": "CREATE",
}  # fmt: skip

_ON = {
    "schema": "SCHEMA", "view": "TABLE", "materialized view": "TABLE", "sequence": "SEQUENCE", "function": "ROUTINE",
    "type": "TYPE",
}  # fmt: skip
"""How GRANT calls what the catalog calls so; a procedure is among the functions there."""

_ITEM = re.compile(r'(?:^|, )(?P<grantee>"(?:[^"]|"")*"|[^=",]*)=(?P<letters>[A-Za-z*]*)/(?:"(?:[^"]|"")*"|[^,]*)')
"""One entry of an access list as the server prints it, e.g. ``app=r*w/postgres``; PUBLIC has no name."""
_GRANT = re.compile(r"GRANT (?P<what>.+?) ON (?P<object>.+) TO (?P<grantee>\S.*?)(?P<option> WITH GRANT OPTION)?")
_TO_EVERYBODY = {"function": "X", "type": "U"}
"""What PUBLIC has as long as nobody granted or revoked anything."""


def grants_of(privileges: SchemaObject | None) -> tuple[str, ...]:
    """Return the GRANT statements that give what an object's ``privileges`` entry says, but for the owner's own."""
    if privileges is None:
        return ()
    kind, name = _split(privileges.name)
    owner, _, items = privileges.definition.removeprefix("owner ").partition("; ")
    if not items:
        everybody = _TO_EVERYBODY.get(kind)
        return (_grant(_LETTERS[everybody], kind, name, "PUBLIC"),) if everybody else ()
    found = []
    for match in _ITEM.finditer(items):
        grantee = match["grantee"] or "PUBLIC"
        if unquoted(grantee) == owner:
            continue
        for letter, option in re.findall(r"([A-Za-z])(\*?)", match["letters"]):
            found.append(_grant(_LETTERS[letter], kind, name, grantee) + (" WITH GRANT OPTION" if option else ""))
    return tuple(found)


def privileges_of_new(privileges: SchemaObject | None) -> tuple[str, ...]:
    """Return what gives an object that was made anew its old privileges: PUBLIC may be without what it has got now."""
    grants = grants_of(privileges)
    kind, name = _split(privileges.name) if privileges is not None else ("", "")
    everybody = _TO_EVERYBODY.get(kind)
    if everybody is None or _grant(_LETTERS[everybody], kind, name, "PUBLIC") in grants:
        return grants
    return (f"REVOKE {_LETTERS[everybody]} ON {_ON[kind]} {name} FROM PUBLIC", *grants)


def all_privileges(catalog: Catalog) -> tuple[str, ...]:
    """Return what gives a database made anew its privileges, but for the owners' own and what everybody has anyway."""
    on_tables = (grant for table in catalog.tables for grant in table.grants)
    on_others = (
        grant
        for item in catalog.objects
        if item.kind == "privileges" and "; " in item.definition
        for grant in privileges_of_new(item)
    )
    return (*on_tables, *on_others)


def grantees(catalog: Catalog) -> frozenset[str]:
    """Return the roles to which something is granted."""
    found = (_GRANT.fullmatch(grant) for grant in all_privileges(catalog))
    return frozenset(unquoted(match["grantee"]) for match in found if match is not None) - {"PUBLIC"}


def revoke_of(grant: str) -> str:
    """Return the REVOKE that takes a printed GRANT back."""
    match = _GRANT.fullmatch(grant)
    if match is None:
        raise ValueError(f"not a GRANT as the catalog prints it: {grant}")
    return f"REVOKE {match['what']} ON {match['object']} FROM {match['grantee']}"


def on_another_object(grant: str, name: sql.Identifier) -> str:
    """Return a printed GRANT on a table as one on another relation."""
    match = _GRANT.fullmatch(grant)
    if match is None:
        raise ValueError(f"not a GRANT as the catalog prints it: {grant}")
    return f"GRANT {match['what']} ON TABLE {name.as_string()} TO {match['grantee']}{match['option'] or ''}"


def of_another_column(grant: str, column: str, other: str) -> str | None:
    """Return a printed GRANT on the column as one on another column; None for any other GRANT."""
    head, _, rest = grant.partition(f" ({_quoted(column)}) ON TABLE ")
    return f"{head} ({_quoted(other)}) ON TABLE {rest}" if rest else None


def _grant(privilege: str, kind: str, name: str, grantee: str) -> str:
    return f"GRANT {privilege} ON {_ON[kind]} {name} TO {grantee}"


def _split(name: str) -> tuple[str, str]:
    """Split e.g. ``materialized view public.m`` into kind and name."""
    kind = next(kind for kind in sorted(_ON, key=len, reverse=True) if name.startswith(f"{kind} "))
    return kind, name.removeprefix(f"{kind} ")


def _quoted(column: str) -> str:
    """Quote as the server's quote_ident does, which leaves plain names alone."""
    return column if re.fullmatch(r"[a-z_][a-z0-9_]*", column) else sql.Identifier(column).as_string()
