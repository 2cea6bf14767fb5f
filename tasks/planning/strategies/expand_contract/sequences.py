"""The sequences of identity and serial columns, moved from one column to the other of the same name.

An identity's sequence belongs to its column for good: the new column gets one of its own under the same name, which
goes on where the other stopped. The rename before it takes the sequence's lock, so that nobody draws a number between
the look at the last one and the change. A serial's sequence is a plain one and changes its owner.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from psycopg import sql

from tasks.planning.catalog import Column, Table
from tasks.planning.errors import Unsupported
from tasks.planning.names import TableName, display, own_name, verbatim
from tasks.planning.plan import Note

_DEFINITION = re.compile(
    r"CREATE (?:UNLOGGED )?SEQUENCE .+? AS \w+ (?P<options>INCREMENT BY .*?CYCLE)(?: OWNED BY .*)?"
)
_LARGEST = {"smallint": 2**15 - 1, "integer": 2**31 - 1, "bigint": 2**63 - 1}
_GREATEST = re.compile(r"MAXVALUE (-?\d+)")


@dataclass(frozen=True, slots=True)
class OwnedSequence:
    """A column's sequence: ``name`` as SQL, ``identity`` empty for a serial's, ``definition`` as the catalog has it."""

    name: str
    identity: str
    definition: str

    @property
    def options(self) -> str:
        """Everything but the type and the owner."""
        return self._match()["options"]

    @property
    def greatest(self) -> int:
        match = _GREATEST.search(self.options)
        return int(match[1]) if match else 2**63 - 1

    def _match(self) -> re.Match[str]:
        match = _DEFINITION.fullmatch(self.definition)
        if match is None:
            raise Unsupported(f"the sequence {self.name}", instead="Report it: Lockstep could not read its definition.")
        return match


def sequences_of(table: Table, column: Column, definitions: Mapping[str, str]) -> tuple[OwnedSequence, ...]:
    """Return the sequences that belong to a column; ``definitions`` are those of the catalog, by name."""
    return tuple(
        OwnedSequence(item.name, column.identity if item.definition == "identity" else "", definitions[item.name])
        for item in table.dependents
        if item.kind == "sequence" and column.name in item.columns
    )


def narrow_notes(table: Table, columns: Collection[str], definitions: Mapping[str, str]) -> Iterator[Note]:
    """Yield a warning for each of these columns of ``table`` that its sequence would not let grow past its old type.

    PostgreSQL widens an identity's sequence with its column, but not a serial's.
    """
    for column in table.columns:
        if column.name not in columns or column.type not in _LARGEST:
            continue
        for sequence in sequences_of(table, column, definitions):
            if sequence.greatest < _LARGEST[column.type] and sequence.greatest in _LARGEST.values():
                yield Note(
                    severity="WARNING",
                    text=f"{table.name}.{display(column.name)} becomes {column.type}, but its sequence {sequence.name} "
                    f"still ends at {sequence.greatest:,}, and the INSERT after that number would fail. Add to the "
                    f"change: ALTER SEQUENCE {sequence.name} AS {column.type};",
                )


def moved_identity(
    migration: str, table: TableName, sequence: OwnedSequence, *, source: str, target: str
) -> Iterator[str]:
    """Yield the statements that make ``target`` the identity column instead of ``source``, from the same number on."""
    bare = own_name("seq", migration, *table, sequence.name)
    aside = sql.Identifier(table.schema, bare)
    schema, name = table.identifier, verbatim(sequence.name)
    kind = verbatim({"a": "ALWAYS", "d": "BY DEFAULT"}[sequence.identity])
    yield sql.SQL("ALTER SEQUENCE {} RENAME TO {}").format(name, sql.Identifier(bare)).as_string()
    yield (
        sql.SQL("ALTER TABLE {} ALTER COLUMN {} ADD GENERATED {} AS IDENTITY (SEQUENCE NAME {} {})")
        .format(schema, sql.Identifier(target), kind, name, verbatim(sequence.options))
        .as_string()
    )
    yield _continued(sequence, aside)
    yield _granted(sequence, aside)
    yield sql.SQL("ALTER TABLE {} ALTER COLUMN {} DROP IDENTITY").format(schema, sql.Identifier(source)).as_string()


def moved_serial(table: TableName, sequence: OwnedSequence, owner: str) -> str:
    """Return the statement that gives a serial's sequence to the column ``owner``; the sequence itself stays."""
    owned = sql.SQL("ALTER SEQUENCE {} OWNED BY {}")
    return owned.format(verbatim(sequence.name), sql.Identifier(*table, owner)).as_string()


def _continued(sequence: OwnedSequence, source: sql.Composable) -> str:
    """Go on where the source stands; a smaller sequence is at its end then, and says so when it is asked."""
    return (
        sql.SQL("SELECT pg_catalog.setval({}, least(last_value, {}), is_called) FROM {}")
        .format(sql.Literal(sequence.name), sql.Literal(sequence.greatest), source)
        .as_string()
    )


def _granted(sequence: OwnedSequence, source: sql.Composable) -> str:
    return _GRANTS.format(source=sql.Literal(source.as_string()), target=sql.Literal(sequence.name)).as_string()


_GRANTS = sql.SQL(
    """DO $lockstep$
DECLARE
  held record;
BEGIN
  FOR held IN SELECT a.privilege_type, a.is_grantable, a.grantee
    FROM pg_catalog.pg_class AS c, pg_catalog.aclexplode(c.relacl) AS a
    WHERE c.oid = {source}::pg_catalog.regclass AND a.grantee <> c.relowner
  LOOP
    EXECUTE pg_catalog.format('GRANT %s ON SEQUENCE %s TO %s%s', held.privilege_type,
      {target}::pg_catalog.regclass,
      CASE held.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(held.grantee)) END,
      CASE WHEN held.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
  END LOOP;
END
$lockstep$"""
)
"""Privileges are read where the statement runs: a plan's clones have neither them nor the roles."""
