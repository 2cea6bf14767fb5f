"""Fixtures: a server, an empty database, the drink-water database. All of it is gone when the session ends.

``LOCKSTEP_TEST_SERVER_URL``, a superuser's URL, runs the same tests on any other server (see tests/versions.py).
``LOCKSTEP_REQUIRE_ALL`` makes a missing component a failure instead of a skip.
"""

from __future__ import annotations

import functools
import itertools
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import LiteralString, NoReturn
from urllib.parse import quote, urlsplit

import psycopg
import pytest
from psycopg import sql

from tasks.database.connection import Target
from tasks.database.server import DEFAULT_MAJOR, DISPOSABLE, EmbeddedServer, program, start

SERVER_VARIABLE = "LOCKSTEP_TEST_SERVER_URL"
REQUIRE_ALL = "LOCKSTEP_REQUIRE_ALL"
DRINK_WATER = Path(__file__).parent.parent / "examples" / "drink-water"
USERS = 50
INTAKES = 1000
CANARY = "canary-7f3a"
"""In every personal value of the drink-water data: it must never turn up in a ledger, log, message or artifact."""


_numbers = itertools.count(1)


@dataclass(frozen=True)
class ForeignServer:
    """A server that somebody else runs, known by a superuser's URL."""

    address: str
    major: int

    def url(self, database: str) -> str:
        return urlsplit(self.address)._replace(path=f"/{quote(database, safe='')}").geturl()


AnyServer = EmbeddedServer | ForeignServer


def require(component: str) -> str:
    """Return the path of a program, or skip the test that needs it, or fail it under LOCKSTEP_REQUIRE_ALL."""
    found = shutil.which(component) or shutil.which(component, path="/usr/sbin:/usr/local/sbin")
    return found if found is not None else missing(f"{component} is not installed")


def missing(reason: str) -> NoReturn:
    """Skip the running test for a reason, or fail it under LOCKSTEP_REQUIRE_ALL."""
    if os.environ.get(REQUIRE_ALL):
        pytest.fail(f"{reason}, and {REQUIRE_ALL} is set")
    pytest.skip(reason)


def pytest_configure(config: pytest.Config) -> None:
    for marker in (
        "every_version: belongs to the representative set, which runs on every supported PostgreSQL version",
        "needs_major(first, last=99): skipped on a server whose major version is not within first and last",
    ):
        config.addinivalue_line("markers", marker)


def pytest_report_header() -> list[str]:
    address = os.environ.get(SERVER_VARIABLE)
    if address:
        number = _ask(address, "SHOW server_version")
        where = f"{urlsplit(address).hostname}:{urlsplit(address).port} ({SERVER_VARIABLE})"
    else:
        number, where = (
            subprocess.check_output([program("postgres"), "--version"], text=True).split()[-1],
            "embedded, started when a test asks for it",
        )
    return [f"postgresql: {number}, {where}", f"psycopg: {version('psycopg')}, libpq {psycopg.pq.version()}"]


def pytest_runtest_setup(item: pytest.Item) -> None:
    marker = item.get_closest_marker("needs_major")
    if marker is not None:
        first, last = (*marker.args, marker.kwargs.get("last", 99))[:2]
        if not first <= server_major() <= last:
            pytest.skip(f"needs PostgreSQL {first} to {last}, this is {server_major()}")


@pytest.fixture(scope="session")
def server() -> Iterator[AnyServer]:
    """The server of the session: PostgreSQL 16 in a temporary folder, or the one of LOCKSTEP_TEST_SERVER_URL."""
    address = os.environ.get(SERVER_VARIABLE)
    if address:
        yield ForeignServer(address, server_major())
        return
    with temporary_server() as embedded:
        yield embedded


@pytest.fixture
def own_server() -> Iterator[EmbeddedServer]:
    """An embedded server for one test alone, which may stop, kill and start it again."""
    with temporary_server() as embedded:
        yield embedded


@pytest.fixture
def scratch(server: AnyServer) -> EmbeddedServer | Target:
    """The session's server in the form that schema clones take as the place for their scratch databases."""
    return server if isinstance(server, EmbeddedServer) else Target("scratch", server.url("postgres"))


@pytest.fixture
def database(server: AnyServer) -> Iterator[Target]:
    """A fresh empty database, dropped after the test."""
    with _new_database(server, "template0") as target:
        yield target


@pytest.fixture
def drink_water(server: AnyServer, drink_water_template: str) -> Iterator[Target]:
    """A fresh copy of the drink-water database: 50 users, 1,000 intakes."""
    with _new_database(server, drink_water_template) as target:
        yield target


@pytest.fixture(scope="session")
def drink_water_template(server: AnyServer) -> Iterator[str]:
    """The name of the database that `drink_water` is copied from; nobody may stay connected to it."""
    with _new_database(server, "template0") as target:
        with psycopg.connect(target.conninfo, autocommit=True) as connection:
            connection.execute((DRINK_WATER / "schema.sql").read_bytes())
            connection.execute(DRINK_WATER_ROWS.encode())
        yield target.name


DRINK_WATER_ROWS = f"""
INSERT INTO users (email, password_hash, full_name, birth_date)
SELECT 'user' || n || '@{CANARY}.example', 'hash-{CANARY}-' || n, 'Name {CANARY} ' || n, date '1980-01-01' + n
  FROM generate_series(1, {USERS}) AS n;

-- 17 minutes apart, so that no user drinks twice at a time; every seventh in ounces.
INSERT INTO water_intake (user_id, date_time_utc, volume, volume_unit)
SELECT 1 + n % {USERS}, timestamp '2024-01-01 06:00' + n * interval '17 minutes',
       CASE WHEN n % 7 = 0 THEN 1 + n % 20 ELSE 50 + n % 950 END, CASE WHEN n % 7 = 0 THEN 'OZ' ELSE 'ML' END
  FROM generate_series(1, {INTAKES}) AS n;

ANALYZE;
"""


@contextmanager
def temporary_server(major: int = DEFAULT_MAJOR) -> Iterator[EmbeddedServer]:
    """An embedded server in a temporary folder, gone after the block."""
    folder = Path(tempfile.mkdtemp(prefix="lockstep-server-"))
    folder.chmod(0o755)
    embedded = start(major, folder, settings=DISPOSABLE)
    try:
        yield embedded
    finally:
        embedded.remove()


@contextmanager
def _new_database(server: AnyServer, template: str) -> Iterator[Target]:
    name = f"test_{os.getpid()}_{next(_numbers)}_{secrets.token_hex(3)}"
    create = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
    drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(create)
    try:
        yield Target(name, server.url(name))
    finally:
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            connection.execute(drop)


@functools.cache
def server_major() -> int:
    """Return the major version of the session's server, without starting it."""
    address = os.environ.get(SERVER_VARIABLE)
    return int(_ask(address, "SHOW server_version_num")) // 10000 if address else DEFAULT_MAJOR


def _ask(address: str, question: LiteralString) -> str:
    with psycopg.connect(address) as connection:
        row = connection.execute(question).fetchone()
    return str(row[0]) if row else ""
