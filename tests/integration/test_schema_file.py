"""Scratch databases from a file of SQL, and the trace on a clone of a live database."""

from __future__ import annotations

import re

import pytest

from tasks.database.clone import SchemaClone, dump_schema
from tasks.database.connection import Target, connect
from tasks.database.schema_file import SchemaFile
from tasks.database.server import EmbeddedServer
from tasks.database.statement_trace import trace_files
from tasks.planning.change import GrantsChanged
from tasks.planning.errors import CannotConnect, SpecError, Unsupported
from tasks.planning.names import TableName
from tasks.planning.statements import read_statements
from tasks.planning.transactions import SourceFile
from tests.conftest import server_major
from tests.integration.notes import execute

Scratch = EmbeddedServer | Target
SETTINGS = (("search_path", "public"), ("TimeZone", "UTC"))


def source(text: str) -> SourceFile:
    return SourceFile("change.sql", text, read_statements(text, source="change.sql"))


def test_every_database_of_a_file_has_its_schema_and_they_are_dropped(scratch: Scratch) -> None:
    with SchemaFile("CREATE TABLE t (a int);\nINSERT INTO t VALUES (1)", "s.sql", scratch) as schema:
        first, second = schema.disposable(), schema.disposable()
        assert first.name != second.name
        for target in (first, second):
            with connect(target, role="test") as connection:
                assert connection.execute("SELECT a FROM t").fetchall() == [(1,)]
    with pytest.raises(CannotConnect):
        connect(first, role="test")


@pytest.mark.every_version
def test_a_dump_is_a_schema(drink_water: Target, scratch: Scratch) -> None:
    dump = dump_schema(drink_water, server_major())
    with SchemaFile(dump, "dump.sql", scratch) as schema, connect(schema.disposable(), role="test") as connection:
        row = connection.execute("SELECT count(*) FROM pg_class WHERE relname IN ('users', 'water_intake')").fetchone()
        assert row == (2,)
        assert schema.search_path is None, "what a dump sets for itself is not the user's"


def test_the_search_path_of_the_file_is_known(scratch: Scratch) -> None:
    with SchemaFile("CREATE SCHEMA lab; SET search_path = lab, public", "s.sql", scratch) as schema:
        assert schema.search_path == "lab, public"


def test_roles_that_the_file_makes_or_names_are_there_without_rights(scratch: Scratch) -> None:
    if not isinstance(scratch, EmbeddedServer):
        pytest.skip("roles are made on an embedded server only")
    text = "CREATE ROLE trace_owner SUPERUSER; CREATE TABLE t (a int); ALTER TABLE t OWNER TO trace_owner;"
    with (
        SchemaFile(f"{text} GRANT SELECT ON t TO trace_reader", "s.sql", scratch) as schema,
        connect(schema.disposable(), role="test") as connection,
    ):
        rows = connection.execute(
            "SELECT rolsuper, rolcanlogin FROM pg_roles WHERE rolname IN ('trace_owner', 'trace_reader')"
        )
        assert rows.fetchall() == [(False, False), (False, False)]
        connection.execute("DROP OWNED BY trace_reader; ALTER TABLE t OWNER TO CURRENT_USER")
        connection.execute("DROP ROLE trace_owner, trace_reader")


def test_what_fails_is_said_with_its_line(scratch: Scratch) -> None:
    with pytest.raises(SpecError, match=r"s\.sql, line 3: .*nope"):
        SchemaFile("CREATE TABLE t (a int);\nCREATE VIEW v AS\n  SELECT nope FROM t", "s.sql", scratch).__enter__()
    with pytest.raises(SpecError, match=r"s\.sql, line 2, column 1"):
        SchemaFile("SELECT 1;\nCREAT TABLE t ()", "s.sql", scratch)


def test_an_extension_that_the_server_lacks_is_named(scratch: Scratch) -> None:
    with pytest.raises(Unsupported, match="no_such_extension") as caught:
        SchemaFile("CREATE EXTENSION no_such_extension", "s.sql", scratch).__enter__()
    assert "Name a database" in str(caught.value)


@pytest.mark.every_version
def test_a_live_database_is_traced_on_its_clone_and_not_touched(drink_water: Target, scratch: Scratch) -> None:
    """Privileges are there, so that REVOKE means something; after a refusal the clone is made anew, with them."""
    execute(drink_water, "GRANT SELECT ON users TO PUBLIC")
    files = [
        source("ALTER TABLE users ADD COLUMN a int; ALTER TABLE users ADD COLUMN a int"),
        source("REVOKE SELECT ON users FROM PUBLIC"),
        source("ALTER TABLE users ADD COLUMN a int; ALTER TABLE water_intake ADD FOREIGN KEY (id) REFERENCES users"),
    ]
    with SchemaClone(drink_water, scratch) as clone:
        found = trace_files(files, clone, SETTINGS)
    assert [facts.refused is None for facts in found.facts] == [True, False, True, True, True]
    assert [type(change) for change in found.facts[2].changes] == [GrantsChanged]
    last = found.facts[-1]
    users, intake = TableName("public", "users"), TableName("public", "water_intake")
    assert last.own[users] == last.own[intake] == "SHARE ROW EXCLUSIVE"
    assert last.held[users] == "ACCESS EXCLUSIVE"
    assert last.scans == (users, intake)
    with connect(drink_water, role="test") as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_attribute WHERE attrelid = 'users'::regclass AND attname = 'a'"
        )
        assert row.fetchone() == (0,)
    assert not re.search("canary", repr(found.facts))
