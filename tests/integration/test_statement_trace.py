"""The trace of files: held and own locks, what carries on from file to file, refusals, and what runs outside."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

import psycopg
import pytest

from tasks.database.catalog import snapshot
from tasks.database.connection import Target, connect
from tasks.database.schema_file import SchemaFile
from tasks.database.server import EmbeddedServer
from tasks.database.statement_trace import FilesTrace, Scratch, trace_files
from tasks.planning.catalog import Catalog
from tasks.planning.change import ColumnAdded, ConstraintAdded, GrantsChanged, IndexAdded, TableAdded, TableRenamed
from tasks.planning.facts import StatementFacts
from tasks.planning.flyway.script_settings import ScriptSettings
from tasks.planning.meaning import changes
from tasks.planning.names import TableName
from tasks.planning.statements import read_statements
from tasks.planning.transactions import SourceFile
from tests.conftest import server_major

SCHEMA = """
CREATE TABLE author (id int PRIMARY KEY, name text NOT NULL, mail text);
CREATE TABLE book (id int PRIMARY KEY, author_id int REFERENCES author, title text, price numeric CHECK (price > 0));
CREATE INDEX book_title ON book (title);
CREATE TABLE reading (book_id int, day date) PARTITION BY RANGE (day);
CREATE TABLE reading_2024 PARTITION OF reading FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE reading_2025 PARTITION OF reading FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE VIEW titles AS SELECT id, title FROM book;
CREATE VIEW short_titles AS SELECT id FROM titles WHERE length(title) < 9;
CREATE MATERIALIZED VIEW authors AS SELECT id, name FROM author;
CREATE UNIQUE INDEX authors_id ON authors (id);
CREATE TYPE state AS ENUM ('new', 'old');
CREATE DOMAIN amount AS numeric CHECK (VALUE >= 0);
CREATE TABLE sale (id bigint GENERATED ALWAYS AS IDENTITY, total amount, state state DEFAULT 'new', twice numeric
    GENERATED ALWAYS AS (total * 2) STORED);
ALTER TABLE sale ENABLE ROW LEVEL SECURITY;
CREATE POLICY everybody ON sale USING (total > 0);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
"""
SETTINGS = (("search_path", "public"), ("TimeZone", "UTC"))

AUTHOR, BOOK, SALE = (TableName("public", name) for name in ("author", "book", "sale"))
READING, OF_2024, OF_2025 = (TableName("public", name) for name in ("reading", "reading_2024", "reading_2025"))


@pytest.fixture
def scratch_schema(scratch: EmbeddedServer | Target) -> Iterator[SchemaFile]:
    with SchemaFile(SCHEMA, "schema.sql", scratch) as schema:
        yield schema


def source(text: str, name: str = "change.sql") -> SourceFile:
    return SourceFile(name, text, read_statements(text, source=name))


def trace(scratch: Scratch, *texts: str) -> FilesTrace:
    return trace_files([source(text, f"{number}.sql") for number, text in enumerate(texts, start=1)], scratch, SETTINGS)


def facts_of(scratch: Scratch, *texts: str) -> tuple[StatementFacts, ...]:
    found = trace(scratch, *texts)
    refused = [facts.refused for facts in found.facts if facts.refused is not None]
    assert not refused
    assert not found.untraced
    return found.facts


# ------------------------------------------------------------------------------------------------ locks


@pytest.mark.every_version
def test_what_a_transaction_holds_is_told_from_what_a_statement_takes(scratch_schema: SchemaFile) -> None:
    first, second, third = facts_of(
        scratch_schema,
        "ALTER TABLE book ADD COLUMN pages int;"
        "ALTER TABLE author ALTER COLUMN mail SET NOT NULL;"
        "UPDATE book SET pages = 1 WHERE title = 'x'",
    )
    assert first.own == first.held == {BOOK: "ACCESS EXCLUSIVE"}
    assert second.own == {AUTHOR: "ACCESS EXCLUSIVE"}
    assert second.held == {AUTHOR: "ACCESS EXCLUSIVE", BOOK: "ACCESS EXCLUSIVE"}
    assert second.scans == (AUTHOR,)
    assert second.validations == (("author_mail_not_null", AUTHOR),)
    assert third.own == {BOOK: "ROW EXCLUSIVE"}
    assert third.held == second.held
    assert third.changes == ()
    assert all(facts.in_transaction and facts.server_major == server_major() for facts in (first, second, third))


def test_each_file_is_a_transaction_and_what_it_leaves_is_there_for_the_next(scratch_schema: SchemaFile) -> None:
    added, filled, renamed, dropped = facts_of(
        scratch_schema,
        "ALTER TABLE book ADD COLUMN pages int; CREATE TABLE shelf (id int)",
        "ALTER TABLE book RENAME TO volume",
        "DROP TABLE shelf",
    )
    assert [type(change) for change in added.changes] == [ColumnAdded]
    assert [type(change) for change in filled.changes] == [TableAdded]
    assert filled.own == {}, "the table was not there before the file"
    assert [type(change) for change in renamed.changes if type(change) is TableRenamed] == [TableRenamed]
    assert renamed.held == renamed.own == {BOOK: "ACCESS EXCLUSIVE"}, (
        "under the name that it had, and nothing of before"
    )
    assert dropped.own == {TableName("public", "shelf"): "ACCESS EXCLUSIVE"}
    assert [facts.index for facts in (added, filled, renamed, dropped)] == [1, 2, 3, 4]
    assert [facts.file for facts in (added, filled, renamed, dropped)] == ["1.sql", "1.sql", "2.sql", "3.sql"]


def test_begin_and_commit_in_the_file_are_obeyed(scratch_schema: SchemaFile) -> None:
    found = facts_of(
        scratch_schema,
        "BEGIN; ALTER TABLE book ADD a int; ALTER TABLE author ADD a int; COMMIT;"
        "ALTER TABLE author ADD b int; ROLLBACK; ALTER TABLE author ADD b int",
    )
    locked = [tuple(facts.held) for facts in found]
    assert locked == [(), (BOOK,), (AUTHOR, BOOK), (AUTHOR, BOOK), (AUTHOR,), (AUTHOR,), (AUTHOR,)]
    assert [len(facts.changes) for facts in found] == [0, 1, 1, 0, 1, 0, 1]


def test_savepoints_are_taken_back(scratch_schema: SchemaFile) -> None:
    found = facts_of(
        scratch_schema,
        "ALTER TABLE book ADD a int; SAVEPOINT s; ALTER TABLE author ADD a int; ROLLBACK TO s;"
        "ALTER TABLE author ADD a int",
    )
    assert found[2].own == {AUTHOR: "ACCESS EXCLUSIVE"}
    assert found[4].own == {AUTHOR: "ACCESS EXCLUSIVE"}
    assert found[4].held == {AUTHOR: "ACCESS EXCLUSIVE", BOOK: "ACCESS EXCLUSIVE"}
    assert [change.table for change in found[4].changes if isinstance(change, ColumnAdded)] == [AUTHOR]


def test_settings_of_a_transaction_last_as_long_as_it(scratch_schema: SchemaFile) -> None:
    found = facts_of(
        scratch_schema,
        "CREATE SCHEMA other",
        "SET LOCAL search_path = other; CREATE TABLE here (id int)",
        "CREATE TABLE there (id int)",
        "CREATE TEMPORARY TABLE brief (id int) ON COMMIT DROP; INSERT INTO brief VALUES (1);ALTER TABLE book ADD a int",
    )
    tables = [change.table for facts in found for change in facts.changes if isinstance(change, TableAdded)]
    assert tables == [TableName("other", "here"), TableName("public", "there")]
    assert found[-1].own == {BOOK: "ACCESS EXCLUSIVE"}


# ------------------------------------------------------------------------------------------------ work


@pytest.mark.every_version
def test_rewrites_builds_scans_and_validations(scratch_schema: SchemaFile) -> None:
    rewrite, unique, check, reference, valid, domain = facts_of(
        scratch_schema,
        "ALTER TABLE book ALTER COLUMN price TYPE float8",
        "ALTER TABLE author ADD CONSTRAINT mail_once UNIQUE (mail)",
        "ALTER TABLE author ADD CONSTRAINT named CHECK (name <> '')",
        "ALTER TABLE sale ADD book_id bigint, ADD CONSTRAINT of_book FOREIGN KEY (book_id) REFERENCES book",
        "ALTER TABLE author ADD CONSTRAINT long CHECK (length(name) > 1) NOT VALID",
        "ALTER DOMAIN amount ADD CONSTRAINT small CHECK (VALUE < 1000)",
    )
    assert rewrite.rewrites == rewrite.scans == (BOOK,)
    assert rewrite.index_builds == (("book_pkey", BOOK), ("book_title", BOOK))
    assert unique.index_builds == (("mail_once", AUTHOR),)
    assert unique.validations == (("mail_once", AUTHOR),)
    assert unique.rewrites == ()
    assert (check.scans, check.validations) == ((AUTHOR,), (("named", AUTHOR),))
    assert reference.own[BOOK] == "SHARE ROW EXCLUSIVE"
    assert (reference.scans, reference.validations) == ((BOOK, SALE), (("of_book", SALE),))
    assert (valid.scans, valid.validations, valid.rewrites) == ((), (), ())
    assert (domain.own, domain.scans, domain.validations) == ({SALE: "SHARE"}, (SALE,), (("small", SALE),))


def test_truncate_moves_a_table_and_rewrites_nothing(scratch_schema: SchemaFile) -> None:
    truncate, block = facts_of(scratch_schema, "TRUNCATE sale", "DO $$ BEGIN TRUNCATE sale; END $$")
    for facts in (truncate, block):
        assert facts.own == {SALE: "ACCESS EXCLUSIVE"}
        assert (facts.rewrites, facts.index_builds) == ((), ())


def test_a_block_of_code_shows_what_it_runs(scratch_schema: SchemaFile) -> None:
    (block,) = facts_of(
        scratch_schema,
        "DO $$ BEGIN ALTER TABLE book ALTER price TYPE float8; CREATE INDEX mail ON author (mail); END $$",
    )
    assert block.own == {AUTHOR: "SHARE", BOOK: "ACCESS EXCLUSIVE"}
    assert block.rewrites == (BOOK,)
    assert ("mail", AUTHOR) in block.index_builds
    assert {type(change) for change in block.changes} >= {IndexAdded}


# ------------------------------------------------------------------------------------------------ outside


@pytest.mark.every_version
def test_concurrently_is_watched_while_it_runs(scratch_schema: SchemaFile) -> None:
    build, rebuild, drop, vacuum = facts_of(
        scratch_schema,
        "CREATE INDEX CONCURRENTLY book_price ON book (price)",
        "REINDEX INDEX CONCURRENTLY book_title",
        "DROP INDEX CONCURRENTLY book_price",
        "VACUUM FULL sale",
    )
    assert not any(facts.in_transaction for facts in (build, rebuild, drop, vacuum))
    for facts in (build, rebuild, drop):
        assert facts.own == facts.held == {BOOK: "SHARE UPDATE EXCLUSIVE"}
    assert build.index_builds == (("book_price", BOOK),)
    assert build.scans == rebuild.scans == (BOOK,)
    assert [type(change) for change in build.changes] == [IndexAdded]
    assert rebuild.index_builds == (("book_title", BOOK),)
    assert (drop.index_builds, drop.scans) == ((), ())
    assert vacuum.own == {SALE: "ACCESS EXCLUSIVE"}
    assert vacuum.rewrites == (SALE,)


@pytest.mark.needs_major(14)
def test_detaching_a_partition_concurrently_takes_its_last_lock_on_the_partition(scratch_schema: SchemaFile) -> None:
    (detach,) = facts_of(scratch_schema, "ALTER TABLE reading DETACH PARTITION reading_2024 CONCURRENTLY")
    assert detach.own == {READING: "SHARE UPDATE EXCLUSIVE", OF_2024: "ACCESS EXCLUSIVE"}
    assert {change.table for change in detach.changes if isinstance(change, ConstraintAdded)} == {OF_2024}


def test_cluster_of_all_tables_runs_outside_a_transaction(scratch_schema: SchemaFile) -> None:
    marked, cluster = facts_of(scratch_schema, "CLUSTER book USING book_title; CLUSTER")
    assert cluster.refused is None
    assert [marked.in_transaction, cluster.in_transaction] == [False, False]
    assert marked.own[BOOK] == "ACCESS EXCLUSIVE"


def test_refreshing_a_view_concurrently_may_be_in_a_transaction(scratch_schema: SchemaFile) -> None:
    (refresh,) = facts_of(scratch_schema, "REFRESH MATERIALIZED VIEW CONCURRENTLY authors")
    assert refresh.in_transaction
    assert refresh.own[TableName("public", "authors")] == "EXCLUSIVE"


def test_what_flyway_does_not_know_to_run_outside_is_refused_in_its_files(scratch_schema: SchemaFile) -> None:
    text = "REINDEX TABLE CONCURRENTLY book"
    (facts,) = trace_files([source(text, "V3__reindex.sql")], scratch_schema, SETTINGS).facts
    assert facts.refused is not None
    assert "transaction block" in facts.refused.message
    assert "V3__reindex.sql.conf" in (facts.refused.hint or "")
    told = replace(source(text, "V3__reindex.sql"), script_settings=ScriptSettings(execute_in_transaction=False))
    (facts,) = trace_files([told], scratch_schema, SETTINGS).facts
    assert facts.refused is None


# ------------------------------------------------------------------------------------------------ refusals


def test_a_refused_statement_says_where_and_the_rest_of_its_file_has_no_facts(scratch_schema: SchemaFile) -> None:
    found = trace(
        scratch_schema,
        "ALTER TABLE book ADD pages int;\n\n  CREATE VIEW v AS\n    SELECT pagse FROM book;\nDROP TABLE sale",
        "ALTER TABLE book ADD pages int; DROP TABLE author",
        "ALTER TABLE sale ADD a int",
    )
    assert [facts.refused is None for facts in found.facts] == [True, False, True, False, True]
    first, second = (facts.refused for facts in found.facts if facts.refused is not None)
    assert (first.line, first.column, first.sqlstate) == (4, 12, "42703")
    assert "pagse" in first.message
    assert (second.line, second.column) == (1, 33)
    assert [item.statement.sql for item in found.untraced] == ["DROP TABLE sale"]
    assert [facts.index for facts in found.facts] == [1, 2, 4, 5, 6]
    # The first file left nothing, so that the second may add the column; nor did the second.
    book = found.facts[4].before.table(BOOK)
    assert book is not None
    assert book.column("pages") is None


def test_no_value_of_a_row_is_in_a_refusal(scratch: EmbeddedServer | Target) -> None:
    with SchemaFile("CREATE TABLE t (a text); INSERT INTO t VALUES ('canary'), ('canary')", "s.sql", scratch) as schema:
        (facts,) = trace(schema, "CREATE UNIQUE INDEX ON t (a)").facts
        (cast,) = trace(schema, "ALTER TABLE t ALTER a TYPE int USING a::int").facts
    for refused, state in ((facts.refused, "23505"), (cast.refused, "22P02")):
        assert refused is not None
        assert refused.sqlstate == state
        assert "canary" not in repr(refused)


def test_what_reaches_beyond_the_database_is_not_run(
    scratch_schema: SchemaFile, scratch: EmbeddedServer | Target
) -> None:
    if not isinstance(scratch, EmbeddedServer):
        pytest.skip("roles are made on an embedded server only")
    role, grant, identity, copy, after = facts_of(
        scratch_schema,
        "CREATE ROLE trace_super SUPERUSER; GRANT SELECT ON book TO trace_super; SET ROLE trace_super;"
        "COPY book FROM PROGRAM 'false'; ALTER TABLE book ADD a int",
    )
    assert [facts.not_run is None for facts in (role, grant, identity, copy, after)] == [
        False,
        True,
        False,
        False,
        True,
    ]
    assert [type(change) for change in grant.changes] == [GrantsChanged]
    assert after.own == {BOOK: "ACCESS EXCLUSIVE"}
    with psycopg.connect(scratch.url("postgres"), autocommit=True) as connection:
        found = connection.execute("SELECT rolsuper, rolcanlogin FROM pg_roles WHERE rolname = 'trace_super'")
        assert found.fetchall() == [(False, False)], "it is there for GRANT, and may do nothing"


# ------------------------------------------------------------------------------------------------ catalogs

CHANGES = (
    "ALTER TABLE book ADD COLUMN pages int DEFAULT 1, DROP COLUMN price",
    "ALTER TABLE author RENAME COLUMN id TO number",
    "ALTER TABLE sale RENAME TO deal",
    "ALTER TYPE state RENAME VALUE 'new' TO 'fresh'",
    "ALTER TYPE state ADD VALUE 'odd'",
    "ALTER TYPE state RENAME TO condition",
    "ALTER DOMAIN amount ADD CONSTRAINT small CHECK (VALUE < 1000)",
    "ALTER SCHEMA public RENAME TO shop; ALTER SCHEMA shop RENAME TO public",
    "CREATE OR REPLACE VIEW titles AS SELECT id, title, author_id FROM book",
    "DROP VIEW short_titles",
    "CREATE FUNCTION of(a author) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE OR REPLACE FUNCTION of(a author) RETURNS int LANGUAGE sql AS 'SELECT 2'",
    "DROP FUNCTION of(author)",
    "CREATE TRIGGER noted BEFORE UPDATE ON author FOR EACH ROW EXECUTE FUNCTION note()",
    "ALTER FUNCTION note() RENAME TO noted",
    "DROP TRIGGER noted ON author",
    "DROP FUNCTION noted() CASCADE",
    "COMMENT ON COLUMN book.title IS 'x'; COMMENT ON TYPE condition IS 'y'; COMMENT ON VIEW titles IS 'z'",
    "CREATE INDEX ON reading (day); ALTER INDEX book_title RENAME TO book_by_title",
    "CREATE SEQUENCE s OWNED BY book.id",
    "ALTER SEQUENCE s OWNED BY NONE",
    "ALTER SEQUENCE s INCREMENT 5",
    "CREATE INDEX ON authors (name)",
    "CREATE INDEX CONCURRENTLY ON authors (name)",
    "DROP POLICY everybody ON deal",
    "CREATE TABLE reading_2026 PARTITION OF reading FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
    "ALTER TABLE reading DETACH PARTITION reading_2025",
    "ALTER TABLE deal ADD book_id int REFERENCES book",
    "DROP TABLE book CASCADE",
    "CREATE STATISTICS st ON id, twice FROM deal",
    "GRANT SELECT ON deal TO PUBLIC; GRANT UPDATE (total) ON deal TO PUBLIC; REVOKE SELECT ON deal FROM PUBLIC",
    "CREATE DOMAIN whole AS int; ALTER DOMAIN whole SET NOT NULL; DROP DOMAIN whole",
    "DO $$ BEGIN ALTER DOMAIN amount DROP CONSTRAINT small; ALTER TABLE author ADD z int; END $$",
    "CREATE PUBLICATION all_of_it FOR ALL TABLES",
    "DROP PUBLICATION all_of_it",
    "CREATE UNLOGGED TABLE quick (id int); INSERT INTO quick VALUES (1); ANALYZE quick; SELECT count(*) FROM quick",
)


def without_sizes(catalog: Catalog) -> Catalog:
    tables = (
        table.model_copy(
            update={
                "rows": 0,
                "bytes": 0,
                "indexes": tuple(index.model_copy(update={"bytes": 0}) for index in table.indexes),
            }
        )
        for table in catalog.tables
    )
    return catalog.model_copy(update={"tables": tuple(tables)})


@pytest.mark.every_version
def test_the_catalogs_are_those_that_a_whole_look_shows(scratch_schema: SchemaFile) -> None:
    """The trace reads only what a statement can have changed; here each result is compared with everything."""

    class Kept:
        def __init__(self) -> None:
            self.given = scratch_schema.disposable()

        def disposable(self) -> Target:
            return self.given

        def make_roles(self, names: Collection[str]) -> None:
            assert not names

    kept = Kept()
    for text in CHANGES:
        found = facts_of(kept, text)
        with connect(kept.given, role="test") as connection:
            whole = snapshot(connection)
        seen = without_sizes(found[-1].after)
        assert seen.tables == without_sizes(whole).tables, text
        assert seen.objects == whole.objects, text
        assert found[0].changes == changes(found[0].before, found[0].after), text


def test_a_constraint_that_waits_for_the_commit_is_the_statement_s_refusal_once(
    scratch: EmbeddedServer | Target,
) -> None:
    text = "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (a int REFERENCES a DEFERRABLE INITIALLY DEFERRED)"
    broken = "INSERT INTO b VALUES (7)"
    with SchemaFile(text, "s.sql", scratch) as schema:
        for file in (
            broken,
            f"INSERT INTO a VALUES (1); {broken}",
            f"SAVEPOINT s; {broken}",
            f"BEGIN; {broken}; COMMIT",
            f"VACUUM a; {broken}; INSERT INTO a VALUES (3)",
        ):
            found = trace(schema, file, "TRUNCATE a, b")
            refused = [facts for facts in found.facts if facts.refused is not None]
            assert [facts.statement.sql for facts in refused] in ([broken], ["COMMIT"]), file
            told = [facts.index for facts in found.facts]
            assert len(told) + len(found.untraced) == told[-1], f"{file}: each statement once"
            assert found.facts[-1].refused is None, file
