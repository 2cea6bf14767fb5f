"""Scratch databases: made to try something, dropped with whoever is connected, also after a process was killed."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Collection

import psutil
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow

from tasks.database.connection import Target, connect, session_limits
from tasks.database.server import EmbeddedServer
from tasks.planning.errors import MigrationError, MissingPrivilege

SCRATCH_PREFIX = "lockstep_scratch_"
DATABASE_TIMEOUT_MS = 60_000
"""How long a CREATE or DROP DATABASE may wait for a lock, or last."""


class ScratchDatabases:
    """The scratch databases of one user of a server: an embedded one, or that of any database to connect to.

    Its role needs CREATEDB; `MissingPrivilege` says so.
    """

    def __init__(self, place: EmbeddedServer | Target) -> None:
        self.embedded = isinstance(place, EmbeddedServer)
        self.place = place if isinstance(place, Target) else Target("scratch", place.url("postgres"))
        self._name = f"{SCRATCH_PREFIX}{os.getpid()}_{secrets.token_hex(4)}"
        self._made: list[str] = []
        self._count = 0

    def create(self, template: str = "template0") -> Target:
        """Return a new database, a copy of ``template``."""
        name = f"{self._name}_{self._count}"
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} ENCODING 'UTF8'").format(
            sql.Identifier(name), sql.Identifier(template)
        )
        with connect(self.place, role="scratch") as conn:
            session_limits(conn, lock_timeout_ms=DATABASE_TIMEOUT_MS, statement_timeout_ms=DATABASE_TIMEOUT_MS)
            try:
                conn.execute(statement)
            except psycopg.errors.InsufficientPrivilege:
                raise MissingPrivilege(
                    f"The role {conn.info.user!r} may not create scratch databases on {self.place.address}.",
                    grant=sql.SQL("ALTER ROLE {} CREATEDB").format(sql.Identifier(conn.info.user)).as_string(conn),
                ) from None
        self._made.append(name)
        self._count += 1
        return Target(name, make_conninfo(self.place.conninfo, dbname=name))

    def drop_all(self) -> None:
        if not self._made:
            return
        with connect(self.place, role="scratch") as conn:
            while self._made:
                name = self._made[-1]
                try:
                    _drop(conn, name)
                except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled):
                    raise MigrationError(
                        f"The scratch database {name} on {self.place.address} could not be dropped within "
                        f"{DATABASE_TIMEOUT_MS / 1000:g} s: another session may hold a lock on it.",
                        safety="Nothing was touched: it is empty, and no other database was changed.",
                        remedy="End that session, then run  "
                        + " ".join(f"DROP DATABASE {left};" for left in self._made)
                        + "  and plan again.",
                    ) from None
                self._made.pop()

    def drop_abandoned(self) -> None:
        """Drop what killed processes left on the embedded server, which is this machine's: their pid is in the name."""
        if not self.embedded:
            return
        with connect(self.place, role="scratch") as conn:
            for name in names_of(conn, "SELECT datname FROM pg_database"):
                owner = re.match(rf"{SCRATCH_PREFIX}(\d+)_", name)
                if owner and not psutil.pid_exists(int(owner[1])):
                    # One that cannot go now does not keep anybody from planning: the next plan tries again.
                    with contextlib.suppress(psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled):
                        _drop(conn, name)

    def create_roles(self, names: Collection[str]) -> None:
        """See to it that roles are there, without rights: they belong to the server, and a schema only names them."""
        with connect(self.place, role="scratch") as conn:
            for name in sorted(frozenset(names) - names_of(conn, "SELECT rolname FROM pg_roles")):
                # Another planner may be about to create the same.
                with contextlib.suppress(psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
                    conn.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(name)))


def _drop(conn: psycopg.Connection[TupleRow], name: str) -> None:
    session_limits(conn, lock_timeout_ms=DATABASE_TIMEOUT_MS, statement_timeout_ms=DATABASE_TIMEOUT_MS)
    conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def names_of(conn: psycopg.Connection[TupleRow], query: str) -> frozenset[str]:
    """Return the first column of a query that this program holds as a literal."""
    return frozenset(str(row[0]) for row in conn.execute(query.encode()).fetchall())
