"""Whether the real Flyway runs a file in a transaction, whether it refuses it, and what we say."""

from __future__ import annotations

import random
from pathlib import Path

import psycopg
import pytest

from tasks.database.connection import Target
from tasks.planning.errors import SpecError
from tasks.planning.flyway.history import State
from tasks.planning.flyway.pending import pending_files
from tasks.planning.flyway.script_settings import ScriptSettings
from tasks.planning.flyway.settings import Settings
from tasks.planning.flyway.transactions import in_transaction
from tests.integration.beside_flyway import (
    agree,
    judged,
    migrates,
    write,
)
from tests.integration.real_flyway import FlywayFailed, RealFlyway

TRANSACTIONS = (
    "CREATE TABLE t1 (id int);",
    "CREATE INDEX CONCURRENTLY i ON a (id);",
    "create unique index concurrently if not exists i on a (id);",
    "/* a /* nested */ comment */ -- and another\nCREATE INDEX CONCURRENTLY i ON a (id)",
    "DROP INDEX CONCURRENTLY IF EXISTS i;",
    "VACUUM (ANALYZE) a;",
    "VACUUM; VACUUM a;",
    "CREATE DATABASE x;",
    "DROP DATABASE x; DROP TABLESPACE y; DROP SUBSCRIPTION z;",
    "ALTER SYSTEM SET work_mem = '1MB';",
    "DISCARD ALL;",
    "REINDEX SCHEMA public;",
    "REINDEX (VERBOSE) DATABASE x;",
    "REINDEX (VERBOSE) SYSTEM;",
    "REINDEX TABLE a;",
    "SELECT 'CREATE INDEX CONCURRENTLY i ON a (id)';",
    "DO $$ BEGIN EXECUTE 'VACUUM'; PERFORM 1; END $$; SELECT 1;",
    "DO $body$ BEGIN PERFORM $$a;b$$; END; $body$;",
    "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 ELSE 2 END; SELECT 2; END; SELECT 1;",
    "CREATE RULE r AS ON INSERT TO a DO ALSO (SELECT 1; SELECT 2); SELECT 1;",
    "CREATE TABLE vacuum1 (concurrently1 int); SELECT $$VACUUM;$$;",
    "COMMENT ON TABLE a IS 'it''s; VACUUM;'; SELECT E'\\';VACUUM;';",
    "SELECT \"a;VACUUM;\" FROM x;",
    "COPY a FROM STDIN;\n1\n2\n\\.\nSELECT 1;",
    "COPY a (id) FROM STDIN WITH (FORMAT csv);\nVACUUM;\n\\.\n",
    ";;; ; SELECT 1;;",
    "ALTER TYPE mood ADD VALUE 'x';",
    "ALTER SUBSCRIPTION s ENABLE;",
    "REINDEX TABLE system;",
    "REFRESH MATERIALIZED VIEW CONCURRENTLY m;",
)  # fmt: skip

MIXTURES = (
    "CREATE INDEX CONCURRENTLY i ON a (id); SELECT 1;",
    "SELECT 1; VACUUM;",
    "SET lock_timeout = '1s'; DROP INDEX CONCURRENTLY i;",
    "VACUUM; CREATE TABLE b ();",
)


@pytest.mark.parametrize(
    "settings",
    [Settings(), Settings(execute_in_transaction=False), Settings(mixed=True)],
    ids=["default", "outside", "mixed"],
)
def test_whether_a_file_runs_in_a_transaction(
    flyway: RealFlyway, database: Target, tmp_path: Path, settings: Settings
) -> None:
    texts = TRANSACTIONS if settings == Settings() else TRANSACTIONS + MIXTURES
    agree(flyway, database, write(tmp_path, {f"V{n}__x.sql": text for n, text in enumerate(texts, 1)}), settings)


PIECES = (
    "SELECT 1", "VACUUM", "CREATE", "DROP", "UNIQUE", "INDEX", "CONCURRENTLY", "DATABASE", "REINDEX", "(VERBOSE)",
    "SYSTEM", "ALTER", "DISCARD ALL", ";", ";", ";", ";\n", "'a;b'", "'it''s'", '"q;""x"', "$$;VACUUM;$$",
    "$a$ x $$ ; $a$", "-- c;\n", "/* ; /* x */ ; */", "(", ")", "(a;b)", "a.b", 'a."b;c".d', "E'\\';'", "e'x'", "B'01'",
    "U&'\\0041'", "1.5", "x1", "_y", "BEGIN ATOMIC", "END", "CASE", "größe", "\n\n", "::", "@", "$1 $", "x$y", "[1]",
    "COPY t FROM STDIN;\n1;VACUUM;\n\\.\n",
)  # fmt: skip


@pytest.mark.parametrize("seed", range(2))
def test_random_texts_are_split_as_by_flyway(flyway: RealFlyway, database: Target, tmp_path: Path, seed: int) -> None:
    """Text of which little is SQL: where a statement ends decides about all that follows it."""
    chance = random.Random(seed)
    files = {f"V{n}__x.sql": " ".join(chance.choices(PIECES, k=chance.randint(1, 14))) for n in range(1, 201)}
    folder = write(tmp_path, files)
    compared = 0
    for script, answer in flyway("transactions", database, folder, placeholderReplacement="false"):
        assert script is not None
        assert answer is not None
        if answer.startswith("refused") and "Detected both" not in answer:
            continue  # Flyway cannot make it out: parentheses that do not close, and the like
        try:
            ours = str(in_transaction(files[script], ScriptSettings(), Settings(), source=script)).lower()
        except SpecError:
            ours = "refused"
        assert (script, ours) == (script, answer.split(":")[0]), files[script]
        compared += 1
    assert compared > 120


@pytest.mark.parametrize("text", MIXTURES)
def test_mixtures_are_refused_as_by_flyway(flyway: RealFlyway, database: Target, tmp_path: Path, text: str) -> None:
    folder = write(tmp_path, {"V1__x.sql": text})
    ours = judged(database, folder, Settings())
    with pytest.raises(SpecError, match=r"V1__x\.sql, line 1: .* Flyway refuses to mix them"):
        pending_files(ours)
    ((_, answer),) = flyway("transactions", database, folder)
    assert answer is not None
    assert "Detected both transactional and non-transactional statements" in answer
    write(folder, {"V1__x.sql.conf": "# why\nexecuteInTransaction = FALSE\n"})
    agree(flyway, database, folder)


@pytest.mark.parametrize(
    "text",
    [
        "REINDEX TABLE CONCURRENTLY a;",
        "REINDEX (CONCURRENTLY) INDEX a_id;",
        "SELECT 1;\nALTER TABLE parted DETACH PARTITION part CONCURRENTLY;",
        "CLUSTER;",
    ],
)
def test_what_flyway_does_not_know_to_run_outside_a_transaction(
    flyway: RealFlyway, database: Target, tmp_path: Path, text: str
) -> None:
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        connection.execute("CREATE TABLE a (id int); CREATE INDEX a_id ON a (id)")
        connection.execute("CREATE TABLE parted (id int) PARTITION BY LIST (id)")
        connection.execute("CREATE TABLE part PARTITION OF parted FOR VALUES IN (1)")
    flyway("baseline", database, tmp_path, baselineVersion="0")
    folder = write(tmp_path, {"V1__x.sql": text})
    with pytest.raises(SpecError, match=r"V1__x\.sql, line \d: Flyway runs this file in a transaction"):
        pending_files(judged(database, folder, Settings()))
    with pytest.raises(FlywayFailed, match=r"cannot (run|be executed) inside a transaction block"):
        flyway("migrate", database, folder)
    write(folder, {"V1__x.sql.conf": "executeInTransaction=false"})
    agree(flyway, database, folder)
    assert migrates(flyway, database, folder)


def test_by_default_flyways_own_lock_stands_in_the_way_of_concurrently(
    flyway: RealFlyway, database: Target, tmp_path: Path
) -> None:
    """What docs/flyway.md warns of; the session gives up after a while here, it would not by itself."""
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        connection.execute("CREATE TABLE a (id int)")
    flyway("baseline", database, tmp_path, baselineVersion="0")
    folder = write(tmp_path, {"V1__x.sql": "CREATE INDEX CONCURRENTLY a_id ON a (id);"})
    with pytest.raises(FlywayFailed, match="canceling statement due to lock timeout"):
        flyway("migrate", database, folder, initSql="SET lock_timeout = '700ms'")
    assert [each.state for each in agree(flyway, database, folder).all] == [State.BASELINE, State.PENDING]
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        connection.execute("DROP INDEX a_id")
    assert migrates(flyway, database, folder)
