"""Nothing that stands in a file to look at reaches beyond the scratch database, even on the live server itself."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from tasks.database.clone import SchemaClone
from tasks.database.connection import Target, connect
from tasks.database.statement_trace import trace_files
from tasks.database.trace import trace_change
from tasks.planning.errors import Unsupported
from tasks.planning.statements import parse_change, read_statements
from tasks.planning.transactions import SourceFile
from tests.conftest import INTAKES, AnyServer

SETTINGS = (("search_path", "public"), ("TimeZone", "UTC"))

SHARED = """
SELECT jsonb_build_object(
    'databases', (SELECT jsonb_agg(to_jsonb(d) - 'datfrozenxid' - 'datminmxid' ORDER BY oid) FROM pg_database AS d
        WHERE NOT starts_with(datname, 'lockstep_scratch_')),
    'roles', (SELECT jsonb_agg(to_jsonb(r) ORDER BY oid) FROM pg_authid AS r),
    'members', (SELECT jsonb_agg(to_jsonb(m)) FROM pg_auth_members AS m),
    'tablespaces', (SELECT jsonb_agg(to_jsonb(t)) FROM pg_tablespace AS t),
    'settings', (SELECT jsonb_agg(to_jsonb(s)) FROM pg_db_role_setting AS s),
    'subscriptions', (SELECT count(*) FROM pg_subscription),
    'comments', (SELECT jsonb_agg(to_jsonb(c)) FROM pg_shdescription AS c),
    'slots', (SELECT count(*) FROM pg_replication_slots),
    'prepared', (SELECT count(*) FROM pg_prepared_xacts),
    'files', (SELECT jsonb_agg(name) FROM pg_ls_dir('.') AS name WHERE name LIKE 'reach%'),
    'auto', (SELECT pg_stat_file('postgresql.auto.conf'))
)
"""
"""What is the server's and no database's."""

REACHING = (
    "CREATE ROLE reach",
    "ALTER ROLE {owner} VALID UNTIL '2099-01-01'",
    "ALTER ROLE {role} RENAME TO reach_renamed",
    "ALTER ROLE {role} SET work_mem = '4MB'",
    "COMMENT ON ROLE {role} IS 'reached'",
    "GRANT {role} TO {owner}",
    "DROP ROLE {role}",
    "CREATE DATABASE reach",
    "ALTER DATABASE {live} CONNECTION LIMIT 5",
    "ALTER DATABASE {live} SET work_mem = '4MB'",
    "ALTER DATABASE {live} RENAME TO reach",
    "ALTER DATABASE {live} OWNER TO {role}",
    "COMMENT ON DATABASE {live} IS 'reached'",
    "GRANT CREATE ON DATABASE {live} TO {role}",
    "REVOKE CONNECT ON DATABASE {live} FROM PUBLIC",
    "DROP DATABASE {live}",
    "CREATE TABLESPACE reach LOCATION '/tmp'",
    "ALTER TABLESPACE pg_default RENAME TO reach",
    "ALTER TABLESPACE pg_default OWNER TO {role}",
    "COMMENT ON TABLESPACE pg_default IS 'reached'",
    "GRANT CREATE ON TABLESPACE pg_default TO {role}",
    "ALTER SYSTEM SET work_mem = '4MB'",
    "CREATE SUBSCRIPTION reach CONNECTION 'host=127.0.0.1' PUBLICATION p WITH (connect = false)",
    "UPDATE pg_database SET datconnlimit = 5 WHERE datname = {live_text}",
    "DELETE FROM pg_catalog.pg_authid WHERE rolname = {role_text}",
    "COPY (SELECT 1) TO PROGRAM 'cat > reach_copied'",
    "SELECT lo_export(lo_from_bytea(0, 'x'), 'reach_exported')",
    "SELECT pg_create_physical_replication_slot('reach')",
    "SELECT pg_catalog.pg_terminate_backend({pid})",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {live_text}",
    "CREATE TABLE ended AS SELECT pg_terminate_backend({pid})",
    "WITH ended AS (SELECT pg_cancel_backend({pid})) SELECT 1",
    "PREPARE TRANSACTION 'reach'",
    "SET SESSION AUTHORIZATION {role}",
    'SET "role" = {role}',
    "RESET SESSION AUTHORIZATION",
    "SELECT set_config('role', {role_text}, false)",
    "DO $$ BEGIN CREATE ROLE reach; END $$",
    "DO $$ BEGIN IF true THEN EXECUTE 'COMMENT ON DATABASE ' || {live_quoted} || ' IS ''x'''; END IF; END $$",
    "DO $$ BEGIN COPY (SELECT 1) TO PROGRAM 'cat > reach_copied'; END $$",
    "DO $$ BEGIN ALTER ROLE {role} CREATEDB; END $$",
    "DO $$ BEGIN PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {live_text}; END $$",
    "DO $$ BEGIN UPDATE pg_database SET datconnlimit = 5 WHERE datname = {live_text}; END $$",
    "SELECT end_them()",
    "SELECT count(*) FROM ended_by_view",
    "DO $$ BEGIN PERFORM end_them(); END $$",
    "CREATE FUNCTION once_more() RETURNS void LANGUAGE sql AS 'SELECT end_them()'; SELECT once_more()",
    "INSERT INTO watched VALUES (1)",
    "CREATE PROCEDURE making() LANGUAGE sql AS 'CREATE ROLE reach'; CALL making()",
)

HELPERS = """
CREATE FUNCTION end_them() RETURNS void LANGUAGE plpgsql AS
    $$ BEGIN
        PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'lockstep:bystander';
    END $$;
CREATE VIEW ended_by_view AS SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name = 'lockstep:bystander';
CREATE TABLE watched (id int);
CREATE FUNCTION ending() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM end_them(); RETURN NEW; END $$;
CREATE TRIGGER ending BEFORE INSERT ON watched FOR EACH ROW EXECUTE FUNCTION ending();
"""


class Kept:
    """A clone that is used for one file after the other."""

    def __init__(self, clone: SchemaClone) -> None:
        self._given = clone.disposable()

    def disposable(self) -> Target:
        return self._given

    def make_roles(self, names: Collection[str]) -> None:
        """None: it is the live server."""


@pytest.fixture
def role(server: AnyServer) -> Iterator[str]:
    name = f"reach_{os.getpid()}"
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)))
    yield name
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(name)))


def test_a_file_does_not_reach_beyond_the_clone_on_the_live_server(database: Target, role: str) -> None:
    """The clone is on the live server itself, and the role is a superuser: nothing but the guard is between them."""
    with connect(database, role="test") as watcher, connect(database, role="bystander") as bystander:
        watcher.execute(HELPERS.encode())
        names = {
            "role": role, "role_text": f"'{role}'", "owner": watcher.info.user, "live": database.name,
            "live_text": f"'{database.name}'", "live_quoted": f"'{database.name}'", "pid": bystander.info.backend_pid,
        }  # fmt: skip
        with SchemaClone(database, database) as clone:
            copies = Kept(clone)
            reached, before = [], watcher.execute(SHARED.encode()).fetchone()
            for written in REACHING:
                text = written.format(**names)
                trace_files([SourceFile("s.sql", text, read_statements(text, source="s.sql"))], copies, SETTINGS)
                after = watcher.execute(SHARED.encode()).fetchone()
                if after != before:
                    reached.append(text)
                before = after
            assert reached == []
            assert bystander.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize(
    "text",
    [
        "COMMENT ON DATABASE {} IS 'reached'",
        "GRANT CREATE ON DATABASE {} TO PUBLIC",
        "GRANT CREATE ON TABLESPACE pg_default TO PUBLIC",
    ],
)
def test_a_change_to_plan_does_not_either(database: Target, text: str) -> None:
    change = parse_change(text.format(database.name), source="change")
    with SchemaClone(database, database) as clone, connect(database, role="test") as watcher:
        before = watcher.execute(SHARED.encode()).fetchone()
        with connect(clone.fresh(), role="test") as connection, pytest.raises(Unsupported, match="the whole server"):
            trace_change(connection, change, SETTINGS)
        assert watcher.execute(SHARED.encode()).fetchone() == before


def test_an_update_whose_row_trigger_reaches_further_is_planned(database: Target) -> None:
    """No row is on the clone, so the trigger does not run there; on the live rows it is meant to."""
    with connect(database, role="test") as live:
        live.execute(HELPERS.encode())
        live.execute(
            "CREATE TRIGGER later AFTER UPDATE ON watched FOR EACH ROW EXECUTE FUNCTION ending();"
            "CREATE TABLE other (id int);"
            "CREATE TRIGGER at_once AFTER UPDATE ON other FOR EACH STATEMENT EXECUTE FUNCTION ending()"
        )
    row, statement = (parse_change(f"UPDATE {table} SET id = 1", source="change") for table in ("watched", "other"))
    with SchemaClone(database, database) as clone, connect(clone.fresh(), role="test") as connection:
        assert trace_change(connection, row, SETTINGS).effects == ()
        with pytest.raises(Unsupported, match="reaches beyond"):
            trace_change(connection, statement, SETTINGS)


def test_a_clone_cannot_log_in_to_the_servers_of_foreign_tables(database: Target) -> None:
    """Else a DELETE that is tried on the clone would be one on the other server."""
    with connect(database, role="test") as live:
        live.execute(
            "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w OPTIONS (host 'x');"
            "CREATE USER MAPPING FOR CURRENT_USER SERVER s OPTIONS (password 'geheim-9f');"
            "CREATE FOREIGN TABLE remote (id int) SERVER s"
        )
    with SchemaClone(database, database) as clone, connect(clone.fresh(), role="test") as connection:
        assert connection.execute("SELECT count(*) FROM pg_foreign_table").fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM pg_user_mappings").fetchone() == (0,)


@pytest.mark.every_version
def test_a_delete_of_a_foreign_table_that_is_looked_at_deletes_nothing(database: Target, drink_water: Target) -> None:
    with connect(database, role="test") as live:
        found = live.execute(
            "SELECT name FROM pg_available_extensions WHERE name IN ('postgres_fdw', 'dblink')"
        ).fetchall()
        if len(found) != 2:
            pytest.skip("the embedded server has no contrib")
        parts = conninfo_to_dict(drink_water.conninfo)
        server = {"host": parts["host"], "port": parts["port"], "dbname": drink_water.name}
        options = sql.SQL(", ").join(sql.SQL("{} {}").format(sql.Identifier(k), str(v)) for k, v in server.items())
        login = sql.SQL(", ").join(
            sql.SQL("{} {}").format(sql.Identifier(k), str(parts[k])) for k in ("user", "password") if k in parts
        )
        live.execute(
            sql.SQL(
                "CREATE EXTENSION postgres_fdw; CREATE EXTENSION dblink;"
                "CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({});"
                "CREATE USER MAPPING FOR CURRENT_USER SERVER s OPTIONS ({});"
                "CREATE FOREIGN TABLE remote (id bigint) SERVER s OPTIONS (table_name 'water_intake')"
            ).format(options, login)
        )
        assert live.execute("SELECT count(*) FROM remote").fetchone() == (INTAKES,), "the way is open on the live side"
        with SchemaClone(database, database) as clone:
            for text in (
                "DELETE FROM remote",
                "DO $$ BEGIN DELETE FROM remote; END $$",
                "SELECT dblink_exec('s', 'TRUNCATE water_intake')",
                "DO $$ BEGIN PERFORM dblink_exec('s', 'TRUNCATE water_intake'); END $$",
            ):
                file = SourceFile("s.sql", text, read_statements(text, source="s.sql"))
                (facts,) = trace_files([file], clone, SETTINGS).facts
                assert facts.not_run is not None
        assert live.execute("SELECT count(*) FROM remote").fetchone() == (INTAKES,)
