"""Scratch databases: made to try something, dropped with whoever is connected, also after a process was killed.

Whoever makes some holds an advisory lock from before the first until after the last, in a session of its own. The lock
ends with the process, however it ends, and every session of the server sees it: so the next planner drops what a dead
one left, on a live server too, and never what a running one uses.
"""

from __future__ import annotations

import contextlib
import secrets
from abc import ABC, abstractmethod
from collections.abc import Collection
from importlib.resources import files
from types import TracebackType
from typing import Self

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow

from tasks.database.connection import Target, connect, session_limits
from tasks.database.server import EmbeddedServer
from tasks.planning.errors import MigrationError, MissingPrivilege

SCRATCH_PREFIX = "lockstep_scratch_"
OWNERS_LOCK = 0x4C53_7363
"""First key of the advisory lock of a planner; the second is in the names of its databases."""
ABANDONED = (files("tasks.database") / "sql" / "scratch_abandoned.sql").read_bytes()
DATABASE_TIMEOUT_MS = 60_000
"""How long a CREATE or DROP DATABASE may wait for a lock, or last."""


class ScratchDatabases:
    """The scratch databases of one user of a server: an embedded one, or that of any database to connect to.

    Its role needs CREATEDB; `MissingPrivilege` says so.
    """

    def __init__(self, place: EmbeddedServer | Target) -> None:
        self.embedded = isinstance(place, EmbeddedServer)
        self.place = place if isinstance(place, Target) else Target("scratch", place.url("postgres"))
        self._key = secrets.randbits(31)
        self._owner: psycopg.Connection[TupleRow] | None = None
        self._made: list[str] = []
        self._count = 0

    def create(self, template: str = "template0") -> Target:
        """Return a new database, a copy of ``template``."""
        self._own()
        name = f"{SCRATCH_PREFIX}{self._key:08x}_{self._count}"
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
        """Drop what was made; what cannot be dropped is left to the next planner. Raises `MigrationError` for that."""
        try:
            self._drop_made()
        finally:
            if self._owner is not None:
                self._owner.close()
                self._owner = None

    def drop_abandoned(self) -> None:
        """Drop what killed processes left on the server."""
        with connect(self.place, role="scratch") as conn:
            found = conn.execute(ABANDONED, {"prefix": SCRATCH_PREFIX, "lock": OWNERS_LOCK}).fetchall()
            for (name,) in found:
                # One that cannot go now does not keep anybody from planning: the next plan tries again.
                with contextlib.suppress(*_NOT_NOW):
                    _drop(conn, name)

    def create_roles(self, names: Collection[str]) -> None:
        """See to it that roles are there, without rights: they belong to the server, and a schema only names them."""
        with connect(self.place, role="scratch") as conn:
            for name in sorted(frozenset(names) - names_of(conn, "SELECT rolname FROM pg_roles")):
                # Another planner may be about to create the same.
                with contextlib.suppress(psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
                    conn.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(name)))

    def _own(self) -> None:
        """Let everybody see that the databases are in use, for as long as this process lives."""
        if self._owner is not None:
            return
        owner = connect(self.place, role="scratch-owner")
        if owner.info.server_version >= 140000:
            owner.execute("SET idle_session_timeout = 0")
        owner.execute("SELECT pg_catalog.pg_advisory_lock(%s::int, %s::int)", (OWNERS_LOCK, self._key))
        self._owner = owner

    def _drop_made(self) -> None:
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


class ScratchSchema(ABC):
    """A context manager around the scratch databases of one schema: all of them go at exit."""

    def __init__(self, place: EmbeddedServer | Target) -> None:
        self._databases = ScratchDatabases(place)

    def __enter__(self) -> Self:
        self._databases.drop_abandoned()
        try:
            self._begin()
        except BaseException:
            self._databases.drop_all()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._databases.drop_all()

    @abstractmethod
    def _begin(self) -> None:
        """Make the first database."""

    def make_roles(self, names: Collection[str]) -> None:
        """See to it that roles are there, without rights; only on a server that is there for nothing else."""
        if self._databases.embedded:
            self._databases.create_roles(names)


_NOT_NOW = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.QueryCanceled,
    psycopg.errors.ObjectInUse,
    psycopg.errors.InsufficientPrivilege,
)
"""Somebody has locked it, a replication slot or a prepared transaction is in it, or it is another role's."""


def _drop(conn: psycopg.Connection[TupleRow], name: str) -> None:
    session_limits(conn, lock_timeout_ms=DATABASE_TIMEOUT_MS, statement_timeout_ms=DATABASE_TIMEOUT_MS)
    conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def names_of(conn: psycopg.Connection[TupleRow], query: str) -> frozenset[str]:
    """Return the first column of a query that this program holds as a literal."""
    return frozenset(str(row[0]) for row in conn.execute(query.encode()).fetchall())
