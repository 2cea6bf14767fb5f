"""Scratch databases that are filled from a file of SQL: for planning where there is no live database to clone.

The file is what ``pg_dump --schema-only`` writes, or what a person keeps beside the code; rows that it inserts are
there too.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import psycopg
from psycopg.rows import TupleRow

from tasks.database.connection import Target, connect
from tasks.database.scratch import ScratchSchema, names_of
from tasks.database.server import EmbeddedServer
from tasks.planning import parser
from tasks.planning.errors import SpecError, Unsupported
from tasks.planning.objects.effects import roles_of
from tasks.planning.server_wide import made_roles, why_not_run
from tasks.planning.statements import Statement, read_statements

_PREAMBLE = re.compile(r"^\\(un)?restrict \w+$", re.MULTILINE)
"""psql's own lines of a dump; every other one is an error that says so."""


class SchemaFile(ScratchSchema):
    """A context manager that makes databases of the schema in a file's text; all of them go at exit.

    ``source`` is what to call the file in messages. Raises `SpecError` for what is not SQL or fails, with its line,
    `Unsupported` for an extension that the scratch server does not have.
    """

    def __init__(self, text: str, source: str, scratch: EmbeddedServer | Target) -> None:
        super().__init__(scratch)
        self._source = source
        self._statements = read_statements(_PREAMBLE.sub("", text), source=source)
        self._first: Target | None = None
        self._search_path: str | None = None

    @property
    def search_path(self) -> str | None:
        """The schemas in which the file itself looks names up at its end; None where it says nothing, or none."""
        return self._search_path

    def _begin(self) -> None:
        self.make_roles(roles_of(self._statements) | made_roles(self._statements))
        self._first = self._filled()

    def require_roles(self, names: Collection[str]) -> None:
        """See to it that roles that the files to plan name are there: any may be, where there is no live server."""
        self.make_roles(names)

    def disposable(self) -> Target:
        """Return a database with the schema that nobody else uses."""
        given, self._first = self._first or self._filled(), None
        return given

    def _filled(self) -> Target:
        made = self._databases.create()
        with connect(made, role="scratch") as conn:
            usual = _search_path(conn)
            known = names_of(conn, "SELECT name FROM pg_settings")
            for statement in self._statements:
                if why_not_run(statement) is None and not _is_unknown_setting(statement, known):
                    self._run(conn, statement)
            said = _search_path(conn)
            self._search_path = said if said not in (usual, "", '""') else None
        return made

    def _run(self, conn: psycopg.Connection[TupleRow], statement: Statement) -> None:
        try:
            conn.execute(statement.sql.encode())
        except psycopg.errors.FeatureNotSupported as error:
            raise Unsupported(
                f"{self._source}, line {statement.line}, on the scratch server: {error.diag.message_primary}",
                instead="Name a database whose server has what the schema needs.",
            ) from None
        except psycopg.Error as error:
            position = error.diag.statement_position
            line = statement.line + (statement.sql.count("\n", 0, int(position) - 1) if position else 0)
            raise SpecError(
                f"{self._source}, line {line}: the schema cannot be made: {error.diag.message_primary or error}"
                f" [{error.sqlstate}]",
                remedy=error.diag.message_hint or "Give a schema that PostgreSQL takes from top to end.",
            ) from None


def _is_unknown_setting(statement: Statement, known: frozenset[str]) -> bool:
    """Whether a dump of a newer server sets what this one does not have."""
    if statement.kind != "set":
        return False
    name = str(parser.parse(statement.sql)[0].node.name)
    return "." not in name and name.islower() and name not in known | {"role", "timezone", "session_authorization"}


def _search_path(conn: psycopg.Connection[TupleRow]) -> str:
    row = conn.execute("SHOW search_path").fetchone()
    return str(row[0]) if row else ""
