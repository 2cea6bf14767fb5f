"""What a server is refused for, against real servers, a real standby setting and a real pgbouncer."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tasks.database import installation
from tasks.database.connection import Target, connect
from tasks.database.inspection import check_privileges, inspect_server, require_usable
from tasks.database.server import EmbeddedServer, start
from tasks.planning.errors import CannotConnect, MissingPrivilege, PoolerRefused, ReadOnlyServer
from tasks.planning.names import TableName
from tests.conftest import AnyServer, require

ROLE = "migrator of tests"
INTAKE = TableName("public", "water_intake")
USERS = TableName("public", "users")


@pytest.mark.every_version
class TestFacts:
    def test_they_are_those_of_the_session(self, database: Target, server: AnyServer) -> None:
        facts = require_usable(database)
        assert (facts.database, facts.major, facts.superuser) == (database.name, server.major, True)
        assert not facts.in_recovery
        assert facts.warnings == ()

    def test_a_newer_server_is_warned_of(self, database: Target) -> None:
        with connect(database, role="test") as connection:
            facts = inspect_server(connection)
        newer = replace(facts, version=190001, version_text="19.1")
        assert "19.1 is newer than 18" in newer.warnings[0]


class TestReadOnly:
    @pytest.mark.every_version
    def test_read_only_sessions_are_refused(self, database: Target) -> None:
        with connect(database, role="test") as connection:
            connection.execute(
                sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(
                    sql.Identifier(database.name)
                )
            )
        with pytest.raises(ReadOnlyServer, match="default_transaction_read_only is on"):
            require_usable(database)

    def test_a_standby_is_refused(self, own_server: EmbeddedServer) -> None:
        own_server.stop()
        signal = own_server.data / "standby.signal"
        signal.touch()
        installation.give_to_server(signal, 0o600)
        start(own_server.major, own_server.folder)
        with pytest.raises(ReadOnlyServer, match="is a standby"):
            require_usable(Target("replica", own_server.url("postgres")))


# --- privileges -------------------------------------------------------------------------------------------------


@pytest.fixture
def as_role(drink_water: Target, server: AnyServer) -> Iterator[Target]:
    """The drink-water database for a role without any right."""
    role = sql.Identifier(ROLE)
    with connect(Target("admin", server.url("postgres")), role="test") as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'plain'").format(role))
        with connect(drink_water, role="test") as connection:
            connection.execute("REVOKE CREATE ON SCHEMA public FROM public")
        parts = conninfo_to_dict(drink_water.conninfo) | {"user": ROLE, "password": "plain"}
        try:
            yield Target("limited", make_conninfo("", **parts))
        finally:
            with connect(drink_water, role="test") as connection:
                connection.execute(sql.SQL("REASSIGN OWNED BY {} TO CURRENT_USER").format(role))
                connection.execute(sql.SQL("DROP OWNED BY {}").format(role))
            admin.execute(sql.SQL("DROP ROLE {}").format(role))


@pytest.mark.every_version
class TestPrivileges:
    def test_the_statements_it_names_are_enough(self, as_role: Target, drink_water: Target) -> None:
        with connect(as_role, role="test") as limited, connect(drink_water, role="test") as admin:
            with pytest.raises(MissingPrivilege) as caught:
                check_privileges(limited, [INTAKE, USERS, TableName("public", "no_such_table")])
            grant = caught.value.grant
            assert "GRANT CREATE ON DATABASE" in grant
            assert 'ALTER TABLE "public"."water_intake" OWNER TO "migrator of tests"' in grant
            assert grant.count('GRANT CREATE ON SCHEMA "public"') == 1
            admin.execute(grant.encode())
            check_privileges(limited, [INTAKE, USERS])

    def test_membership_in_the_owner_is_offered_where_the_owner_is_no_superuser(
        self, as_role: Target, drink_water: Target
    ) -> None:
        with connect(as_role, role="test") as limited, connect(drink_water, role="test") as admin:
            admin.execute("CREATE ROLE water_owner")
            try:
                admin.execute("ALTER TABLE water_intake OWNER TO water_owner")
                with pytest.raises(MissingPrivilege) as caught:
                    check_privileges(limited, [INTAKE])
                assert 'GRANT "water_owner" TO "migrator of tests"' in caught.value.grant
                admin.execute(caught.value.grant.encode())
                check_privileges(limited, [INTAKE])
            finally:
                admin.execute("ALTER TABLE water_intake OWNER TO CURRENT_USER; DROP ROLE water_owner")

    def test_the_schema_of_another_role(self, as_role: Target, drink_water: Target) -> None:
        with connect(as_role, role="test") as limited, connect(drink_water, role="test") as admin:
            admin.execute("CREATE SCHEMA lockstep")
            with pytest.raises(MissingPrivilege, match="may not create objects in the schema lockstep") as caught:
                check_privileges(limited, [])
            admin.execute(caught.value.grant.encode())
            check_privileges(limited, [])

    def test_a_superuser_lacks_nothing(self, drink_water: Target) -> None:
        with connect(drink_water, role="test") as connection:
            check_privileges(connection, [INTAKE, USERS])


# --- poolers ----------------------------------------------------------------------------------------------------


StartPooler = Callable[[str, int], Target]


@pytest.fixture
def pgbouncer(database: Target) -> Iterator[StartPooler]:
    """A function that starts pgbouncer in a pool mode, with a pool size, in front of the empty database."""
    binary = require("pgbouncer")
    folder = Path(tempfile.mkdtemp(prefix="lockstep-pgbouncer-"))
    installation.give_to_server(folder, 0o700)
    parts = conninfo_to_dict(database.conninfo)

    def begin(mode: str, size: int) -> Target:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        (folder / "users.txt").write_text(f'"{parts["user"]}" "{parts["password"]}"\n')
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\n{database.name} = host=127.0.0.1 port={parts['port']}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = scram-sha-256\nauth_file = {folder}/users.txt\npool_mode = {mode}\n"
            f"default_pool_size = {size}\nlogfile = {folder}/log\npidfile = {folder}/pid\nquery_wait_timeout = 2\n"
        )
        done = installation.run_as_server([binary, "--daemon", folder / "pgbouncer.ini"])
        assert done.returncode == 0, done.stderr
        _wait_for(port)
        return Target("pooled", make_conninfo("", **parts | {"port": port}))

    yield begin
    if (folder / "pid").exists():
        process = psutil.Process(int((folder / "pid").read_text()))
        process.terminate()
        process.wait(10)
    shutil.rmtree(folder)


def _wait_for(port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail("pgbouncer does not listen")


class TestPooler:
    @pytest.mark.parametrize("size", [1, 5])
    def test_transaction_pooling_is_refused(self, pgbouncer: StartPooler, size: int) -> None:
        with pytest.raises(PoolerRefused, match="transaction-pooling proxy") as caught:
            require_usable(pgbouncer("transaction", size))
        assert "pool_mode = session" in str(caught.value)

    def test_transaction_pooling_is_refused_while_others_use_the_pool(self, pgbouncer: StartPooler) -> None:
        target = pgbouncer("transaction", 6)
        with contextlib.ExitStack() as others:
            for _ in range(2):
                others.enter_context(others.enter_context(connect(target, role="other")).transaction())
            for _ in range(5):
                with pytest.raises(PoolerRefused):
                    require_usable(target)

    def test_statement_pooling_is_refused(self, pgbouncer: StartPooler) -> None:
        with pytest.raises(PoolerRefused, match="does not allow transactions"):
            require_usable(pgbouncer("statement", 5))

    def test_session_pooling_is_used(self, pgbouncer: StartPooler, database: Target) -> None:
        target = pgbouncer("session", 5)
        assert require_usable(target).database == database.name
        with connect(target, role="test") as connection:
            row = connection.execute("SELECT current_setting('lockstep.pooler_mark', true)").fetchone()
        assert row in ((None,), ("",)), "the mark stayed in a pooled session"

    def test_a_full_session_pool_is_not_taken_for_transaction_pooling(self, pgbouncer: StartPooler) -> None:
        with pytest.raises(CannotConnect):
            require_usable(pgbouncer("session", 1))
