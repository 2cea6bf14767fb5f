"""Schema-only clones: scratch databases with the live schema and no rows, to try a change and a plan on.

``pg_dump --schema-only`` of the live database is restored into a template database; every scratch database is a copy
of that. Owners, privileges, publications, subscriptions and tablespaces stay behind, since the scratch server has
neither the roles nor the peers; `schema_hash` leaves them out for that reason. Lockstep's own schema stays behind
too, and with it the sync triggers of other migrations that are under way.

While it runs, pg_dump holds ACCESS SHARE on every table: no statement of an application waits for that, only DDL does.

The clone is compared with the live catalog before anyone may use it: planning never goes on with another schema.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow

from tasks.database.catalog import snapshot
from tasks.database.connection import Target, connect, scrubbed
from tasks.database.inspection import ServerFacts
from tasks.database.scratch import ScratchSchema, names_of
from tasks.database.server import DISPOSABLE, EmbeddedServer, default_folder, program, serving
from tasks.planning import parser
from tasks.planning.catalog import Catalog
from tasks.planning.errors import (
    CannotConnect,
    LockNotAcquired,
    MigrationError,
    MissingPrivilege,
    SchemaChanged,
    SpecError,
    Unsupported,
)
from tasks.planning.names import LOCKSTEP_SCHEMA, display
from tasks.planning.objects.effects import role_names
from tasks.planning.objects.privileges import all_privileges, grantees
from tasks.planning.schema_hash import catalog_text, describe_difference, digest

OLDER_MAJOR, NEWER_MAJOR = 16, 18
"""The embedded versions. pg_dump reads every older server, and writes SQL for servers of its own version: to an older
one, what the newer one prints of an inherited NOT NULL, for one, is a syntax error."""

DUMP_LOCK_WAIT_MS = 5_000
DUMP_TIMEOUT_S = 600
NAMES_NO_ROLE = frozenset({"create_stmt", "index_stmt", "alter_table_stmt", "create_seq_stmt", "alter_seq_stmt"})
"""What a dump without owners and privileges is made of: not looked through for roles, which takes a while."""

RESTORE_BATCH = 200
"""Statements sent at once: each batch is one transaction, whose locks have to fit the server's lock table."""

DUMP_OPTIONS = (
    "--schema-only",
    "--no-owner",
    "--no-privileges",
    "--no-publications",
    "--no-subscriptions",
    "--no-tablespaces",
    "--no-security-labels",
    "--encoding=UTF8",
    f"--exclude-schema={LOCKSTEP_SCHEMA}",
    f"--lock-wait-timeout={DUMP_LOCK_WAIT_MS}",
)


# The embedded server may be built without ICU: a column or an index in such a collation cannot be made there. Such a
# server still lists the collation "unicode", but none of those that initdb makes with ICU.
_NEEDED = """
SELECT extname FROM pg_extension
UNION SELECT 'ICU' FROM pg_attribute AS a JOIN pg_collation AS c ON c.oid = a.attcollation WHERE c.collprovider = 'i'
UNION SELECT 'ICU' FROM pg_collation WHERE collprovider = 'i' AND collnamespace <> 'pg_catalog'::regnamespace
"""
_OFFERED = """
SELECT name FROM pg_available_extensions UNION SELECT 'ICU' FROM pg_collation WHERE collname LIKE '%-x-icu'
"""


class SchemaClone(ScratchSchema):
    """A context manager: inside it, `fresh` makes scratch databases with the schema of ``target``; at exit all go.

    ``scratch`` is where: an embedded server, or any database of the server to use (its role needs CREATEDB). Raises
    `SchemaChanged` when the restored schema is not the live one, `MissingPrivilege` when the dump or CREATE DATABASE
    is refused, `Unsupported` when the scratch server cannot take the schema (an extension that it lacks).
    """

    def __init__(self, target: Target, scratch: EmbeddedServer | Target) -> None:
        super().__init__(scratch)
        self.target = target
        self._statements: list[parser.Parsed] = []
        self._template: Target | None = None
        self._live: Catalog | None = None

    @property
    def live(self) -> Catalog:
        """The catalog of the live database that the clone was compared with."""
        if self._live is None:
            raise RuntimeError("SchemaClone is used outside its with block")
        return self._live

    def _begin(self) -> None:
        with connect(self.target, role="plan") as conn:
            major = conn.info.server_version // 10_000
        self._statements = _statements(dump_schema(self.target, major))
        self._take_over_roles()
        self._template = self._restored()
        self._live = self._compare(self._template)

    def require_roles(self, names: Collection[str]) -> None:
        """See to it that roles of the live server are on the scratch server too, without rights.

        Raises `SpecError` for one that the live server does not have.
        """
        with connect(self.target, role="plan") as conn:
            missing = frozenset(names) - names_of(conn, "SELECT rolname FROM pg_roles")
        if missing:
            raise SpecError(
                f"The change names the role {', '.join(sorted(missing))}, which {self.target.name!r} does not have.",
                remedy="Create the role first: it belongs to the whole server.",
            )
        self._databases.create_roles(names)

    def fresh(self) -> Target:
        """Return a new scratch database with the live schema; it is dropped at exit, with whoever is connected."""
        if self._template is None:
            raise RuntimeError("SchemaClone is used outside its with block, or its template was given away")
        return self._databases.create(self._template.name)

    def disposable(self) -> Target:
        """Return a scratch database with the live schema and its privileges, for one who wants no more than a few.

        The first is the template itself, so that `fresh` has nothing to copy after it; a copy of a thousand tables
        takes seconds. Further ones are restored anew.
        """
        self.require_roles(grantees(self.live) | {table.owner for table in self.live.tables})
        given, self._template = self._template or self._restored(), None
        with connect(given, role="scratch") as conn:
            _restore_invalid(conn, self.live)
            for statement in all_privileges(self.live):
                conn.execute(statement.encode())
        return given

    def _restored(self) -> Target:
        made = self._databases.create()
        _restore(self._statements, made, self.target)
        return made

    def _take_over_roles(self) -> None:
        """Create the roles that policies name; a dump has none, as they belong to the server."""
        named = (item for item in self._statements if item.name not in NAMES_NO_ROLE)
        self.make_roles({role for item in named for role in role_names(item.node)})

    def _compare(self, template: Target) -> Catalog:
        with connect(self.target, role="plan") as conn:
            live = snapshot(conn)
        with connect(template, role="scratch") as conn:
            _restore_invalid(conn, live)
            clone = snapshot(conn)
        expected, found = catalog_text(live), catalog_text(clone)
        if expected != found:
            difference = "\n".join(f"  {line}" for line in describe_difference(expected, found))
            raise SchemaChanged(
                f"The clone of the schema of {self.target.name!r} is not the same as the live schema:\n{difference}",
                expected=digest(expected),
                found=digest(found),
                remedy="If the live schema was being changed just now, plan again; else report this, with these lines.",
            )
        return live


@contextmanager
def scratch_server(major: int) -> Iterator[EmbeddedServer]:
    """Keep the embedded server of schema clones of this major version, or the nearest, running for a block's length.

    It never waits for a disk: dropping a plan's databases costs as many checkpoints.
    """
    nearest = _embedded(major)
    with serving(nearest, default_folder(nearest).with_name(f"scratch-{nearest}"), settings=DISPOSABLE) as server:
        yield server


@contextmanager
def scratch_place(target: Target, facts: ServerFacts) -> Iterator[EmbeddedServer | Target]:
    """Yield where to clone: the embedded server of the nearest major version, else the target's own server.

    The target's server is taken when the schema needs what the embedded one lacks: an extension, ICU. The embedded
    server runs for the length of the block at least, and as long as any other process is in such a block.
    """
    with scratch_server(facts.major) as server:
        with connect(target, role="plan") as conn:
            needed = names_of(conn, _NEEDED)
        with connect(Target("scratch", server.url("postgres")), role="scratch") as conn:
            offered = names_of(conn, _OFFERED)
        yield server if needed <= offered else target


def _embedded(major: int) -> int:
    return OLDER_MAJOR if major <= OLDER_MAJOR else NEWER_MAJOR


def dump_schema(target: Target, major: int) -> str:
    """Return the schema of a database on a server of a major version, as SQL for the embedded server of that version.

    The password goes by the environment, never by argument.
    """
    environment, rest = _environment(target)
    command = [str(program("pg_dump", _embedded(major))), *DUMP_OPTIONS, f"--dbname={rest}"]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, timeout=DUMP_TIMEOUT_S, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired:
        raise MigrationError(
            f"The schema of {target.name!r} could not be dumped within {DUMP_TIMEOUT_S} s.",
            safety="Nothing was touched.",
        ) from None
    if done.returncode != 0:
        raise _dump_error(target, scrubbed(done.stderr.decode(errors="replace"), target))
    return done.stdout.decode()


def _environment(target: Target) -> tuple[dict[str, str], str]:
    """Split a connection string into environment variables for libpq and what has no variable of its own."""
    variables = {
        option.keyword.decode(): option.envvar.decode()
        for option in psycopg.pq.Conninfo.get_defaults()
        if option.envvar is not None
    }
    parts = {name: str(value) for name, value in conninfo_to_dict(target.conninfo).items()}
    environment = {
        **os.environ,
        **{variables[name]: value for name, value in parts.items() if name in variables},
        "PGAPPNAME": "lockstep:plan",
        # Messages are looked at: in one language.
        "LC_ALL": "C",
    }
    rest = {name: value for name, value in parts.items() if name not in variables and name != "sslpassword"}
    return environment, make_conninfo("", **rest)


def _dump_error(target: Target, message: str) -> MigrationError:
    last = " ".join(message.split())[-600:]
    denied = re.search(r"permission denied for (table|sequence|schema|view|materialized view) (\S+)", message)
    if denied:
        return MissingPrivilege(
            f"The schema of {target.name!r} cannot be read: {denied.group(0)}.",
            # PostgreSQL 14 and later; before that, SELECT on the table that is named.
            grant=f"GRANT pg_read_all_data TO {display(str(conninfo_to_dict(target.conninfo).get('user')))}",
        )
    if re.search(r"due to (statement|lock) timeout", message):
        return LockNotAcquired(
            f"The schema of {target.name!r} could not be read within {DUMP_LOCK_WAIT_MS / 1000:g} s: another session "
            "holds an ACCESS EXCLUSIVE lock.",
            table="",
            blockers=(),
            remedy="Try again when that session has ended its transaction.",
        )
    if "connection to server" in message:
        return CannotConnect(f"pg_dump cannot connect to {target.name!r}: {last}")
    return MigrationError(f"pg_dump of {target.name!r} failed: {last}", safety="Nothing was touched.")


# ------------------------------------------------------------------------------------------------ restoring


def _statements(dump: str) -> list[parser.Parsed]:
    """Split a dump, without psql's own lines, what belongs to Lockstep's schema, and the keys to other servers.

    Without a user mapping a foreign table leads nowhere: a DELETE that is tried on the clone deletes nothing elsewhere.
    """
    dump = re.sub(r"^\\restrict \w+$", "", dump, count=1, flags=re.MULTILINE)
    head, mark, tail = dump.rpartition("\n\\unrestrict ")
    dump = head + "\n" + tail.partition("\n")[2] if mark else dump
    return [item for item in parser.parse(dump) if item.name != "create_user_mapping_stmt" and not _is_lockstep(item)]


def _is_lockstep(item: parser.Parsed) -> bool:
    """Whether the statement makes or sets a sync trigger, whose function is not in the dump."""
    return item.name in ("create_trig_stmt", "alter_table_stmt") and bool(
        re.search(
            rf"EXECUTE FUNCTION {LOCKSTEP_SCHEMA}\.|(ENABLE|DISABLE)( \w+)? TRIGGER \S*{LOCKSTEP_SCHEMA}_", item.text
        )
    )


def _restore(statements: list[parser.Parsed], template: Target, target: Target) -> None:
    with connect(template, role="scratch") as conn:
        known = names_of(conn, "SELECT name FROM pg_settings")
        texts = [item.text for item in statements if item.name != "variable_set_stmt" or item.node.name in known]
        # The dump sets statement_timeout = 0 for its own restore.
        for first in range(0, len(texts), RESTORE_BATCH):
            batch = texts[first : first + RESTORE_BATCH]
            try:
                conn.execute(";\n".join(batch).encode())
            except psycopg.errors.FeatureNotSupported as error:
                raise Unsupported(
                    f"the schema of {target.name!r} on the scratch server: {error.diag.message_primary}",
                    instead="Let the role create databases on the server itself, which has what its schema needs.",
                ) from None
            except psycopg.Error as error:
                raise MigrationError(
                    f"The schema of {target.name!r} cannot be cloned: {error.diag.message_primary} [{error.sqlstate}]",
                    safety="Nothing was touched.",
                ) from None


def _restore_invalid(conn: psycopg.Connection[TupleRow], live: Catalog) -> None:
    """Make the invalid indexes, which pg_dump leaves out: a change may want to drop or to rebuild them.

    Only a superuser can; without them the clone is found to differ from the live schema.
    """
    for table in live.tables:
        for index in table.indexes:
            if not index.valid and table.kind == "r":
                name = sql.Identifier(table.name.schema, index.name).as_string(conn)
                there = (psycopg.errors.InsufficientPrivilege, psycopg.errors.DuplicateTable)
                with contextlib.suppress(*there), conn.transaction():
                    conn.execute(index.definition.encode())
                    conn.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = to_regclass(%s)", (name,))
