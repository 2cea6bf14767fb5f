"""Whether a database can carry a migration: the server's facts, poolers in between, the role's privileges."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow, class_row, dict_row

from tasks.database.connection import Target, connect
from tasks.planning.errors import CannotConnect, MissingPrivilege, PoolerRefused, ReadOnlyServer, Unsupported
from tasks.planning.names import LOCKSTEP_SCHEMA, TableName

OLDEST_MAJOR = 13
NEWEST_MAJOR = 18
POOLER_ROUNDS = 3
"""How many transactions try to take a suspected pooler's backend away; the first one does it in an idle pool."""

_SQL = files("tasks.database") / "sql"
SERVER_FACTS = (_SQL / "server_facts.sql").read_bytes()
DATABASE_PRIVILEGE = (_SQL / "database_privilege.sql").read_bytes()
TABLE_PRIVILEGES = (_SQL / "table_privileges.sql").read_bytes()


@dataclass(frozen=True)
class ServerFacts:
    """What a server and the session on it are; ``version`` is ``server_version_num``."""

    version: int
    version_text: str
    database: str
    role: str
    superuser: bool
    in_recovery: bool
    read_only: bool
    wal_level: str
    max_connections: int
    max_prepared_transactions: int
    max_replication_slots: int
    backend_pid: int

    @property
    def major(self) -> int:
        return self.version // 10000

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about what works but deserves a look."""
        if self.major > NEWEST_MAJOR:
            return (f"PostgreSQL {self.version_text} is newer than {NEWEST_MAJOR}, the newest that was tested.",)
        return ()


def inspect_server(connection: psycopg.Connection[TupleRow]) -> ServerFacts:
    """Return the facts of the server behind a connection; refuses nothing."""
    with connection.cursor(row_factory=class_row(ServerFacts)) as cursor:
        facts = cursor.execute(SERVER_FACTS).fetchone()
    if facts is None:
        raise LookupError("a SELECT without FROM returned no row")
    return facts


def require_usable(target: Target) -> ServerFacts:
    """Return the facts of a server that Lockstep can work on; three short connections, nothing is written.

    Raises CannotConnect, Unsupported (version), ReadOnlyServer, PoolerRefused.
    """
    with connect(target, role="check") as connection:
        facts = inspect_server(connection)
        if facts.major < OLDEST_MAJOR:
            raise Unsupported(
                f"PostgreSQL {facts.version_text} of the database {target.name!r}",
                instead=f"Lockstep works with PostgreSQL {OLDEST_MAJOR} to {NEWEST_MAJOR}.",
            )
        if facts.in_recovery:
            raise ReadOnlyServer(
                f"The server of the database {target.name!r} ({target.address}) is a standby: it is in recovery.",
                remedy="Give the URL of the primary.",
            )
        if facts.read_only:
            raise ReadOnlyServer(
                f"Sessions of {facts.role!r} in the database {target.name!r} are read-only: "
                "default_transaction_read_only is on.",
                remedy="Turn it off for this role (ALTER ROLE … SET default_transaction_read_only = off), "
                "or give the URL of the primary.",
            )
        _refuse_pooler(connection, target)
    return facts


def _refuse_pooler(first: psycopg.Connection[TupleRow], target: Target) -> None:
    """Prove that each connection keeps a backend of its own.

    The first connection stays open and idle, with a mark in its session. Later ones open a transaction each and hold
    it: if one of them finds itself in the marked session, or the mark is gone from the first, then backends are
    given out by transaction. A pooler that gives them out by session passes.
    """
    mark = secrets.token_hex(8)
    first.execute("SELECT set_config('lockstep.pooler_mark', %s, false)", (mark,))
    try:
        if _shares_backends(first, target, mark):
            raise _pooler_refused(target, "two connections were given the same backend")
    except psycopg.errors.ProtocolViolation as error:
        if "statement pooling" in str(error):
            raise _pooler_refused(target, "it does not allow transactions") from None
        raise CannotConnect(
            f"A pooler at {target.address} gave the database {target.name!r} no second session: it is full.",
            remedy="Lockstep needs at least three sessions at a time; give the URL of the server itself.",
        ) from None
    finally:
        with contextlib.suppress(psycopg.Error):
            first.execute("SELECT set_config('lockstep.pooler_mark', '', false)")


def _shares_backends(first: psycopg.Connection[TupleRow], target: Target, mark: str) -> bool:
    own_pid = _pid_if_marked(first, mark)
    if own_pid is None:
        return True
    # The process id that was announced at login is the backend's own, unless something stands in between.
    rounds = 1 if own_pid == first.info.backend_pid else POOLER_ROUNDS
    with contextlib.ExitStack() as held:
        for _ in range(rounds):
            other = held.enter_context(connect(target, role="check"))
            held.enter_context(other.transaction())
            if _pid_if_marked(other, mark) is not None or _pid_if_marked(first, mark) != own_pid:
                return True
    return False


def _pid_if_marked(connection: psycopg.Connection[TupleRow], mark: str) -> int | None:
    """Return the backend's process id if its session carries the mark."""
    row = connection.execute(
        "SELECT CASE WHEN current_setting('lockstep.pooler_mark', true) = %s THEN pg_backend_pid() END", (mark,)
    ).fetchone()
    return row[0] if row else None


def _pooler_refused(target: Target, proof: str) -> PoolerRefused:
    return PoolerRefused(
        f"Between Lockstep and the database {target.name!r} ({target.address}) stands a transaction-pooling proxy: "
        f"{proof}. Advisory locks, session settings and the lease of a run need a session of their own.",
        remedy="Give the URL of the server itself, or of a pool with pool_mode = session.",
    )


def check_privileges(connection: psycopg.Connection[TupleRow], tables: Sequence[TableName]) -> None:
    """Check that the role may make Lockstep's schema and change these tables. Tables that do not exist are passed over.

    Raises MissingPrivilege that lists everything that is missing, with the statements that grant it.
    """
    missing = _missing_on_database(connection)
    for table in tables:
        for what, grant in _missing_on_table(connection, table):
            if (what, grant) not in missing:
                missing.append((what, grant))
    if missing:
        whats, grants = zip(*missing, strict=True)
        raise MissingPrivilege(
            f"The role {connection.info.user!r} lacks privileges: {'; '.join(whats)}.", grant="  ".join(grants)
        )


def _missing_on_database(connection: psycopg.Connection[TupleRow]) -> list[tuple[str, str]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(DATABASE_PRIVILEGE, {"schema": LOCKSTEP_SCHEMA}).fetchone() or {}
    if not row["may_create_schema"]:
        grant = sql.SQL("GRANT CREATE ON DATABASE {} TO {};").format(
            sql.Identifier(row["database"]), sql.Identifier(row["role"])
        )
        return [(f"it may not create the schema {LOCKSTEP_SCHEMA} in the database", grant.as_string())]
    if not row["may_create_in_schema"]:
        grant = sql.SQL("GRANT USAGE, CREATE ON SCHEMA {} TO {};").format(
            sql.Identifier(LOCKSTEP_SCHEMA), sql.Identifier(row["role"])
        )
        return [(f"it may not create objects in the schema {LOCKSTEP_SCHEMA}", grant.as_string())]
    return []


def _missing_on_table(connection: psycopg.Connection[TupleRow], table: TableName) -> list[tuple[str, str]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(TABLE_PRIVILEGES, {"schema": table.schema, "name": table.name}).fetchone()
    if row is None:
        return []
    role = sql.Identifier(row["role"])
    missing = []
    if not row["owns"]:
        # Membership in the owner's role is enough, but a superuser's role is given to nobody.
        if row["owner_is_superuser"]:
            grant = sql.SQL("ALTER TABLE {} OWNER TO {};").format(table.identifier, role)
        else:
            grant = sql.SQL("GRANT {} TO {};").format(sql.Identifier(row["owner"]), role)
        missing.append((f"the table {table} belongs to {row['owner']}", grant.as_string()))
    if not row["may_create"]:
        grant = sql.SQL("GRANT CREATE ON SCHEMA {} TO {};").format(sql.Identifier(table.schema), role)
        missing.append((f"it may not create objects in the schema {table.schema}", grant.as_string()))
    if row["hides_rows"]:
        # A backfill that sees only some rows would call the others filled.
        grant = sql.SQL("ALTER ROLE {} BYPASSRLS;").format(role)
        missing.append((f"row security hides rows of {table} from it", grant.as_string()))
    return missing
