"""Database names, and connections that are set up the way every part of Lockstep needs them.

A database is named, never given by URL: the name resolves to the environment variable ``LOCKSTEP_<NAME>_URL`` or to
what a lookup (a Secret block, in the Prefect floor) returns. No password reaches a repr, a message or a traceback.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow

from tasks.planning.errors import CannotConnect, MigrationError, UnknownDatabase

CONNECT_SECONDS = 10

CONNECTION_DEFAULTS: dict[str, str] = {
    "connect_timeout": str(CONNECT_SECONDS),
    # A server that vanished without a word is noticed after 30 + 3 × 10 seconds.
    "keepalives": "1",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
}
"""What a connection has unless the URL says otherwise."""

OWN_DEADLOCK_TIMEOUT = "1ms"

CLIENT_CHECK_INTERVAL = "1s"
"""How often a running statement asks whether its client still lives: an orphaned one holds its locks no longer."""

MILLISECONDS = {"": 1, "ms": 1, "s": 1_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
"""The units in which SHOW prints a time."""


@dataclass(frozen=True)
class Target:
    """A database: the ``name`` that people use for it, and how to reach it."""

    name: str
    conninfo: str = field(repr=False)

    def __str__(self) -> str:
        return self.name

    @property
    def address(self) -> str:
        """Return ``user@host:port/database``: where it is, without the password."""
        parts = {key: str(value) for key, value in conninfo_to_dict(self.conninfo).items()}
        place = parts.get("host") or parts.get("hostaddr") or "local socket"
        user = parts.get("user", "")
        return f"{user}{'@' if user else ''}{place}:{parts.get('port', '5432')}/{parts.get('dbname', user)}"


def variable_name(name: str) -> str:
    """Return the environment variable that a database name resolves to: ``drink-water`` → LOCKSTEP_DRINK_WATER_URL."""
    return f"LOCKSTEP_{name.upper().replace('-', '_')}_URL"


def resolve(name: str, lookup: Callable[[str], str | None] | None = None) -> Target:
    """Return the database of this name: from the environment, else from ``lookup(name)``.

    Raises UnknownDatabase, which names the variable to set and never repeats its value.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        # Not repeated: somebody may have written a URL here.
        raise UnknownDatabase(
            "A database is given by its name: letters, digits, '-' and '_'. What was given is not a name.",
            remedy="Put its URL into the environment variable LOCKSTEP_<NAME>_URL and give the name.",
        )
    variable = variable_name(name)
    conninfo = os.environ.get(variable)
    source = f"The environment variable {variable}"
    if not conninfo and lookup is not None:
        conninfo = lookup(name)
        source = f"The secret of the database {name!r}"
    if not conninfo:
        raise UnknownDatabase(
            f"The database {name!r} is not known: {variable} is not set.",
            remedy=f"Set {variable} to postgresql://user:password@host:port/database, or store it as the Prefect "
            f"Secret block lockstep-{name.lower().replace('_', '-')}.",
        )
    _check_conninfo(conninfo, source)
    return Target(name, conninfo)


def connect(
    target: Target, *, role: str, settings: Sequence[tuple[str, str]] = (), autocommit: bool = True
) -> psycopg.Connection[TupleRow]:
    """Connect to a database as ``lockstep:<role>``, with these session settings.

    The connection notices a dead peer, and the server a dead client (14+). Nothing is prepared behind the caller's
    back: a prepared statement fails when its table changes. Raises CannotConnect.
    """
    given = conninfo_to_dict(target.conninfo)
    defaults = {key: value for key, value in CONNECTION_DEFAULTS.items() if key not in given}
    conninfo = make_conninfo(target.conninfo, **defaults, application_name=f"lockstep:{role}")
    try:
        connection = psycopg.connect(conninfo, autocommit=True, prepare_threshold=None)
    except psycopg.OperationalError as error:
        raise _cannot_connect(target, error) from None
    try:
        _set_up(connection, settings)
        connection.autocommit = autocommit
    except psycopg.OperationalError as error:
        connection.close()
        raise _cannot_connect(target, error) from None
    except BaseException:
        connection.close()
        raise
    return connection


def limits(connection: psycopg.Connection[TupleRow], *, lock_timeout_ms: int, statement_timeout_ms: int) -> None:
    """Bound the open transaction's waits for locks and its statements, in milliseconds; 0 is no bound.

    Raises MigrationError if the session does not really have the values afterwards, e.g. outside a transaction.
    """
    _bound(connection, "true", lock_timeout_ms, statement_timeout_ms)


def session_limits(
    connection: psycopg.Connection[TupleRow], *, lock_timeout_ms: int, statement_timeout_ms: int
) -> None:
    """Do what `limits` does, for the session: for statements that cannot run in a transaction."""
    _bound(connection, "false", lock_timeout_ms, statement_timeout_ms)


def below_deadlock_timeout(connection: psycopg.Connection[TupleRow], milliseconds: int) -> int:
    """Return a lock_timeout in milliseconds, at most the one given, that is well below the server's deadlock_timeout.

    Whoever has waited for `deadlock_timeout` looks for a circle once, and is its victim if there is one. A session that
    holds the application's rows has to have given up its own wait by then: half of the time will do where it looks
    for a circle itself before anybody else does, else no more than a small part.
    """
    row = connection.execute(
        "SELECT reset_val::int, setting::int FROM pg_catalog.pg_settings WHERE name = 'deadlock_timeout'"
    ).fetchone()
    if row is None:
        return milliseconds
    others, own = row
    return int(max(1, min(milliseconds, others // (2 if own < others else 20))))


def _bound(connection: psycopg.Connection[TupleRow], local: str, lock_ms: int, statement_ms: int) -> None:
    wanted = (lock_ms, statement_ms)
    connection.execute(
        "SELECT set_config('lock_timeout', %s, %s::bool), set_config('statement_timeout', %s, %s::bool)",
        (f"{lock_ms}ms", local, f"{statement_ms}ms", local),
    )
    found = tuple(_milliseconds(connection, name) for name in ("SHOW lock_timeout", "SHOW statement_timeout"))
    if found != wanted:
        raise MigrationError(
            f"The session refused its time limits: lock_timeout and statement_timeout are {found} ms, not {wanted} ms.",
            safety="Nothing was run under the wrong limits.",
        )


def _milliseconds(connection: psycopg.Connection[TupleRow], show: str) -> int:
    """Return a setting that SHOW prints with its unit (``1500ms``, ``2s``, ``1min``, ``1h``, ``1d``, ``0``)."""
    row = connection.execute(show.encode()).fetchone()
    text = str(row[0]) if row else "0"
    number = text.rstrip("dhimns")
    return int(number) * MILLISECONDS[text.removeprefix(number)]


def _set_up(connection: psycopg.Connection[TupleRow], settings: Sequence[tuple[str, str]]) -> None:
    if connection.info.server_version >= 140000:
        # Refused where the server's platform cannot tell whether a client is gone.
        with contextlib.suppress(psycopg.errors.InvalidParameterValue):
            _set(connection, "client_connection_check_interval", CLIENT_CHECK_INTERVAL)
    # Whoever looks for a deadlock first ends it by giving up itself. Only superusers, and roles that were given SET on
    # the parameter, may choose to be that one; for the others `below_deadlock_timeout` is what there is.
    with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
        _set(connection, "deadlock_timeout", OWN_DEADLOCK_TIMEOUT)
    # A policy that applies to the role raises an error rather than hide rows: a row not seen would count as done.
    for name, value in (("row_security", "off"), *settings):
        _set(connection, name, value)


def _set(connection: psycopg.Connection[TupleRow], name: str, value: str) -> None:
    connection.execute("SELECT set_config(%s, %s, false)", (name, value))


def _check_conninfo(conninfo: str, source: str) -> None:
    """Refuse what libpq would misread, because its message would then show a part of the password as host or port."""
    trouble = ""
    try:
        parts = {key: str(value) for key, value in conninfo_to_dict(conninfo).items()}
    except psycopg.Error:
        parts, trouble = {}, "is not a PostgreSQL URL"
    if conninfo.startswith(("postgresql://", "postgres://")):
        head = re.split(r"[/?]", conninfo.split("://", 1)[1], maxsplit=1)[0]
        if conninfo.count("@") > 1 or (conninfo.count("@") == 1 and "@" not in head):
            trouble = "has a special character that is not percent-encoded, probably in its password"
    if not re.fullmatch(r"(\d+(,\d*)*)?", parts.get("port", "")):
        trouble = "has a port that is not a number"
    if trouble:
        raise UnknownDatabase(
            f"{source} {trouble}.",
            remedy="Write it as postgresql://user:password@host:port/database; in user and password, "
            "@ : / ? # % and spaces as %40 %3A %2F %3F %23 %25 %20.",
        )


def _cannot_connect(target: Target, error: psycopg.OperationalError) -> CannotConnect:
    text = scrubbed(str(error), target)
    lines = [line.strip(" \t-").removeprefix("connection failed: ") for line in text.splitlines()]
    # A host name with several addresses has a heading and a line for each; the first one will do.
    said = [line for line in lines if line and not line.startswith("Multiple connection attempts failed")]
    reason = said[0] if said else type(error).__name__
    return CannotConnect(
        f"Cannot connect to the database {target.name!r} at {target.address}: {_kind(text)} ({reason}).",
        remedy=f"Check the server, and the URL in {variable_name(target.name)} or its Secret block.",
    )


def _kind(text: str) -> str:
    """Say in plain words what libpq's message means. The server's own words are kept beside: they may be translated."""
    for sign, meaning in (
        ("password authentication failed", "the password or the user is wrong"),
        ("no password supplied", "the URL has no password and the server wants one"),
        ("does not exist", "there is no such database or user"),
        ("Connection refused", "no server listens there"),
        ("timeout expired", f"no answer within {CONNECT_SECONDS} seconds"),
        ("could not translate host name", "the host name is not known"),
        ("failed to resolve host", "the host name is not known"),
        ("no pg_hba.conf entry", "the server does not admit this user from here"),
        ("too many clients", "the server has no connection left"),
        ("remaining connection slots", "the server has no connection left"),
        ("starting up", "the server is starting"),
        ("shutting down", "the server is shutting down"),
    ):
        if sign in text:
            return meaning
    return "the connection failed"


def scrubbed(text: str, target: Target) -> str:
    """Return a message without the target's password, in case a part of it came from the URL."""
    secret = conninfo_to_dict(target.conninfo).get("password")
    if not secret:
        return text
    return text.replace(str(secret), "***").replace(quote(str(secret), safe=""), "***")
