"""What is not run to try it, and what is: a guard that refused everything would be as useless as none."""

from __future__ import annotations

import pytest

from tasks.planning.catalog import Catalog, SchemaObject
from tasks.planning.server_wide import made_roles, reaching, why_not_run
from tasks.planning.statements import read_statements

HARMLESS = (
    "SET role_note.x = 'role'",
    "SET lock_timeout = '2s'",
    "SELECT set_config('search_path', 'public', true)",
    "SELECT setval('s', 1), now(), pg_advisory_lock(1)",
    "INSERT INTO t VALUES ('pg_terminate_backend(1)'), ('ALTER SYSTEM')",
    "COMMENT ON TABLE t IS 'COMMENT ON DATABASE x'",
    "GRANT SELECT ON t TO reader",
    "ALTER TABLE t OWNER TO reader",
    "CREATE VIEW remote AS SELECT * FROM dblink('x', 'y') AS t (a int)",
    "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'SELECT pg_terminate_backend(1)'",
    "SELECT datname FROM pg_database",
    "DO $$ BEGIN -- copy the rows from a to b; ALTER SYSTEM is not meant\nUPDATE t SET b = a; END $$",
    "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'x') THEN RAISE NOTICE 'copying'; END IF; END $$",
    "DO $$ BEGIN EXECUTE format('GRANT SELECT ON %I TO reader', 't'); END $$",
    "DO $$ BEGIN EXECUTE 'ALTER TABLE t DROP COLUMN IF EXISTS role, ADD COLUMN copy text'; END $$",
    "DO $$ BEGIN PERFORM set_config('lock_timeout', '2s', true); INSERT INTO t SELECT * FROM pg_database; END $$",
    "DO $$ BEGIN UPDATE t SET role = 'x'; END $$",
    "UPDATE t SET role = 'x' WHERE authorization_id = 1",
)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_stays_in_the_database_is_run(text: str) -> None:
    (statement,) = read_statements(text, source="s.sql")
    assert why_not_run(statement) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('SELECT PG_CATALOG."pg_terminate_backend"(1)', "pg_terminate_backend"),
        ("DO $$ BEGIN EXECUTE 'create  user ' || 'x'; END $$", "create user"),
        ("DO $$ BEGIN EXECUTE format('COPY %I TO %L', 't', '/x'); END $$", "COPY %I TO"),
        ("DO $$ BEGIN EXECUTE 'GRANT admin TO x'; END $$", "GRANT admin TO"),
        ("DO $$ BEGIN PERFORM set_config('role', 'x', true); END $$", "set_config"),
        ("DO $$ BEGIN SET LOCAL ROLE x; END $$", "SET LOCAL ROLE"),
        ("INSERT INTO t SELECT * FROM dblink('x', 'y') AS t (a int)", "dblink"),
        ("WITH gone AS (DELETE FROM pg_auth_members RETURNING 1) SELECT 1", "whole server"),
        ("LOCK TABLE pg_catalog.pg_authid", "whole server"),
        ("VACUUM FULL pg_database", "whole server"),
    ],
)
def test_what_reaches_further_is_not_run_and_named(text: str, said: str) -> None:
    (statement,) = read_statements(text, source="s.sql")
    assert said in (why_not_run(statement) or "")


def test_code_that_is_only_called_is_followed() -> None:
    """From the function of the schema to the view that calls it, and to the function of a file that reads the view."""
    objects = (
        SchemaObject(kind="function", name="a.ends(x int)", oid=1, definition="AS 'SELECT pg_cancel_backend(x)'"),
        SchemaObject(kind="view", name='"B"."Ended"', oid=2, definition="CREATE VIEW x AS SELECT a.ends(1)"),
        SchemaObject(kind="function", name="a.harmless()", oid=3, definition="AS '-- pg_cancel_backend(1)\nSELECT 1'"),
    )
    catalog = Catalog(server_version=160000, database="x", objects=objects)
    text = 'CREATE FUNCTION reads() RETURNS bigint LANGUAGE sql AS \'SELECT count(*) FROM "B"."Ended"\''
    names = reaching(catalog, read_statements(text, source="s.sql"))
    assert names == {"ends", "Ended", "reads"}
    for called, is_run in (("SELECT a.ends(2)", False), ("SELECT reads()", False), ("SELECT a.harmless()", True)):
        (statement,) = read_statements(called, source="s.sql")
        assert (why_not_run(statement, names) is None) is is_run


def test_a_role_that_a_block_makes_is_one_that_later_statements_may_name() -> None:
    block = "CREATE USER b; EXECUTE 'CREATE ROLE \"c\"'; CREATE USER MAPPING FOR d SERVER s;"
    assert made_roles(read_statements(f"CREATE ROLE a; DO $$ BEGIN {block} END $$", source="s.sql")) == {"a", "b", "c"}
