"""Names, connections and limits, against a real server."""

from __future__ import annotations

import socket
import time
from dataclasses import replace

import psycopg
import pytest

from tasks.database.connection import Target, connect, limits, resolve, session_limits, variable_name
from tasks.planning.errors import CannotConnect, MigrationError, UnknownDatabase

SECRET = "s3cr3t-9d1f"


def setting(connection: psycopg.Connection[tuple[object, ...]], name: str) -> object:
    row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
    assert row is not None
    return row[0]


class TestResolve:
    def test_a_name_resolves_to_its_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOCKSTEP_DRINK_WATER_URL", f"postgresql://me:{SECRET}@db.example:6432/water")
        target = resolve("drink-water", lambda _: pytest.fail("the variable comes first"))
        assert (target.name, target.address) == ("drink-water", "me@db.example:6432/water")

    def test_without_a_variable_the_lookup_is_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("LOCKSTEP_SHOP_URL", raising=False)
        asked = []

        def lookup(name: str) -> str:
            asked.append(name)
            return "host=db.example dbname=shop"

        assert resolve("shop", lookup).conninfo == "host=db.example dbname=shop"
        assert asked == ["shop"]

    def test_an_unknown_name_is_told_its_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("LOCKSTEP_NO_SUCH_URL", raising=False)
        with pytest.raises(UnknownDatabase, match="LOCKSTEP_NO_SUCH_URL is not set") as caught:
            resolve("no-such", lambda _: None)
        assert caught.value.exit_code == 2
        assert variable_name("no-such") in str(caught.value)

    def test_a_url_is_not_a_name_and_is_not_repeated(self) -> None:
        with pytest.raises(UnknownDatabase) as caught:
            resolve(f"postgresql://me:{SECRET}@db/water")
        assert SECRET not in str(caught.value)

    @pytest.mark.parametrize(
        "url",
        [
            f"postgresql://me:{SECRET}@rest@db/water",
            f"postgresql://me:{SECRET}/rest@db/water",
            f"postgresql://me:{SECRET}?rest@db/water",
            f"postgresql://me:{SECRET}%zz@db/water",
            f"host=db password={SECRET} port={SECRET}",
            f"{SECRET}",
        ],
    )
    def test_a_url_that_libpq_would_misread_is_refused_unrepeated(
        self, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LOCKSTEP_WATER_URL", url)
        with pytest.raises(UnknownDatabase, match="LOCKSTEP_WATER_URL") as caught:
            resolve("water")
        assert SECRET not in str(caught.value)
        assert "percent" in str(caught.value) or "postgresql://" in str(caught.value)

    def test_a_target_does_not_show_its_password(self) -> None:
        target = Target("water", f"postgresql://me:{SECRET}@db/water")
        assert SECRET not in f"{target!r} {target} {target.address}"


@pytest.mark.every_version
class TestConnect:
    def test_the_session_is_named_and_set_up(self, database: Target) -> None:
        with connect(
            database, role="gate", settings=[("search_path", "pg_catalog"), ("work_mem", "5MB")]
        ) as connection:
            assert setting(connection, "application_name") == "lockstep:gate"
            assert setting(connection, "search_path") == "pg_catalog"
            assert setting(connection, "work_mem") == "5MB"
            assert connection.autocommit
            if connection.info.server_version >= 140000:
                assert setting(connection, "client_connection_check_interval") == "1s"
            parameters = connection.info.get_parameters()
        assert (parameters["connect_timeout"], parameters["keepalives_idle"]) == ("10", "30")

    def test_a_url_may_choose_its_own_timeout(self, database: Target) -> None:
        target = replace(database, conninfo=f"{database.conninfo}?connect_timeout=4")
        with connect(target, role="test", autocommit=False) as connection:
            assert connection.info.get_parameters()["connect_timeout"] == "4"
            assert not connection.autocommit

    def test_a_changed_table_breaks_no_repeated_statement(self, database: Target) -> None:
        with connect(database, role="test") as connection:
            connection.execute("CREATE TABLE t (a int)")
            for number in range(8):
                connection.execute("SELECT * FROM t WHERE a = %s", (number,)).fetchall()
            connection.execute("ALTER TABLE t ADD COLUMN b int")
            with connection.transaction():
                assert connection.execute("SELECT * FROM t WHERE a = %s", (1,)).fetchall() == []

    def test_a_bad_setting_leaves_no_session_behind(self, database: Target) -> None:
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            connect(database, role="leak-probe", settings=[("work_mem", "nonsense")])
        with connect(database, role="test") as connection:
            for _ in range(100):
                left = connection.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'lockstep:leak-probe'"
                ).fetchone()
                if left == (0,):
                    return
                time.sleep(0.05)
        pytest.fail("the session is still there")


class TestCannotConnect:
    def refused(self, target: Target) -> str:
        with pytest.raises(CannotConnect) as caught:
            connect(target, role="test")
        assert caught.value.exit_code == 1
        assert caught.value.__cause__ is None
        assert SECRET not in f"{caught.value} {caught.value!r}"
        return str(caught.value)

    @pytest.mark.every_version
    def test_wrong_password(self, database: Target) -> None:
        parts = psycopg.conninfo.conninfo_to_dict(database.conninfo)
        message = self.refused(
            replace(database, conninfo=psycopg.conninfo.make_conninfo("", **parts | {"password": SECRET}))
        )
        assert "the password or the user is wrong" in message
        assert f"{parts['user']}@127.0.0.1:{parts['port']}/{database.name}" in message
        assert "LOCKSTEP_" in message

    @pytest.mark.every_version
    def test_no_such_database(self, database: Target) -> None:
        message = self.refused(Target("gone", database.conninfo.replace(database.name, "no_such_db")))
        assert "there is no such database or user" in message
        assert "no_such_db" in message

    def test_nobody_listens(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        message = self.refused(Target("down", f"postgresql://me:{SECRET}@127.0.0.1:{port}/water"))
        assert "no server listens there" in message
        assert f"me@127.0.0.1:{port}/water" in message

    def test_nobody_answers(self) -> None:
        with socket.socket() as mute:
            mute.bind(("127.0.0.1", 0))
            mute.listen()
            began = time.monotonic()
            message = self.refused(
                Target("mute", f"postgresql://me:{SECRET}@127.0.0.1:{mute.getsockname()[1]}/water?connect_timeout=2")
            )
        assert "no answer" in message
        assert time.monotonic() - began < 8

    def test_unknown_host(self) -> None:
        assert "the host name is not known" in self.refused(
            Target("lost", f"postgresql://me:{SECRET}@no-such-host.invalid/water")
        )


@pytest.mark.every_version
class TestLimits:
    @pytest.mark.parametrize(
        ("lock", "statement"), [(0, 0), (750, 1500), (2000, 60_000), (60_000, 3_600_000), (90_000, 86_400_000)]
    )
    def test_the_transaction_has_them_and_only_it(self, database: Target, lock: int, statement: int) -> None:
        with connect(database, role="test", settings=[("lock_timeout", "7s")]) as connection:
            with connection.transaction():
                limits(connection, lock_timeout_ms=lock, statement_timeout_ms=statement)
                rows = connection.execute(
                    "SELECT setting::int FROM pg_settings WHERE name = ANY(%s) ORDER BY name",
                    (["lock_timeout", "statement_timeout"],),
                ).fetchall()
                assert rows == [(lock,), (statement,)]
            assert setting(connection, "lock_timeout") == "7s"

    def test_outside_a_transaction_they_are_refused(self, database: Target) -> None:
        with connect(database, role="test") as connection, pytest.raises(MigrationError, match="time limits"):
            limits(connection, lock_timeout_ms=1000, statement_timeout_ms=1000)

    def test_the_session_keeps_its_own(self, database: Target) -> None:
        with connect(database, role="test") as connection:
            session_limits(connection, lock_timeout_ms=1000, statement_timeout_ms=200)
            assert setting(connection, "lock_timeout") == "1s"
            with pytest.raises(psycopg.errors.QueryCanceled):
                connection.execute("SELECT pg_sleep(5)")
