"""Which statements of a file are one transaction, and where in the file they stand."""

from __future__ import annotations

import pytest

from tasks.planning.flyway.script_settings import ScriptSettings
from tasks.planning.outside import runs_outside
from tasks.planning.statements import read_statements
from tasks.planning.transactions import SourceFile, units


def source(text: str, name: str = "change.sql", *, told: bool | None = None) -> SourceFile:
    """A file of which the ``.conf`` says ``executeInTransaction``."""
    return SourceFile(name, text, read_statements(text, source=name), ScriptSettings(execute_in_transaction=told))


def divided(file: SourceFile) -> list[tuple[int, ...]]:
    return [unit.positions for unit in units(file)]


@pytest.mark.parametrize(
    ("statement", "outside", "flyway"),
    [
        ("CREATE INDEX i ON t (a)", False, False),
        ("CREATE INDEX CONCURRENTLY i ON t (a)", True, True),
        ("DROP INDEX CONCURRENTLY i", True, True),
        ("VACUUM t", True, True),
        ("ANALYZE t", False, False),
        ("REINDEX INDEX i", False, False),
        ("REINDEX INDEX CONCURRENTLY i", True, False),
        ("REINDEX (CONCURRENTLY) TABLE t", True, False),
        ("REINDEX SCHEMA s", True, True),
        ("ALTER TABLE p DETACH PARTITION q CONCURRENTLY", True, False),
        ("ALTER TABLE p DETACH PARTITION q", False, False),
        ("REFRESH MATERIALIZED VIEW CONCURRENTLY m", False, False),
        ("CREATE DATABASE d", True, True),
        ("ALTER DATABASE d SET TABLESPACE s", True, False),
        ("ALTER DATABASE d SET work_mem = '1GB'", False, False),
        ("ALTER SYSTEM SET work_mem = '1GB'", True, True),
        ("CLUSTER", True, False),
        ("CLUSTER t USING i", False, False),
        ("REINDEX TABLE system", False, False),
        ("ALTER SUBSCRIPTION s REFRESH PUBLICATION", True, False),
        ("ALTER SUBSCRIPTION s DISABLE", False, False),
        ("CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p", True, True),
        ("DISCARD ALL", True, True),
        ("DISCARD PLANS", False, False),
    ],
)
def test_what_runs_outside_a_transaction_and_what_flyway_sees(statement: str, outside: bool, flyway: bool) -> None:
    (parsed,) = read_statements(statement, source="s")
    assert runs_outside(parsed) is outside
    assert source(statement).is_transaction is not outside
    assert source(statement, "V1__a.sql").is_transaction is not flyway


def test_a_file_is_one_transaction() -> None:
    (unit,) = units(source("CREATE TABLE a (); CREATE TABLE b ()"))
    assert (unit.positions, unit.in_transaction, unit.committed) == ((0, 1), True, True)


def test_a_file_with_a_statement_that_cannot_be_in_one_is_none() -> None:
    file = source("SET lock_timeout = '1s'; CREATE INDEX CONCURRENTLY i ON t (a); CREATE TABLE b ()")
    assert divided(file) == [(0,), (1,), (2,)]
    assert not any(unit.in_transaction for unit in units(file))
    assert [file.beside(position) for position in range(3)] == [None, 1, None]
    assert source("SET lock_timeout = '1s'; CREATE INDEX CONCURRENTLY i ON t (a)").beside(1) is None


def test_what_flyway_refuses_to_run_from_one_file() -> None:
    build = "CREATE INDEX CONCURRENTLY i ON t (a)"
    for beside in ("SET lock_timeout = '1s'", "CREATE TABLE b ()", "REINDEX TABLE CONCURRENTLY t"):
        assert source(f"SELECT 1;\n{beside};\n{build}", "V1__a.sql").beside(2) == 1
        assert source(f"{build};\n{beside}", "V1__a.sql").beside(0) == 2
        assert source(f"{beside};\n{build}", "V1__a.sql", told=False).beside(1) is None, "Flyway is told to run it"
    assert source(f"{build};\nDROP INDEX CONCURRENTLY j", "V1__a.sql").beside(0) is None


def test_flyway_s_own_rule_holds_for_flyway_s_files_and_its_conf_decides() -> None:
    text = "REINDEX TABLE CONCURRENTLY t"
    assert not source(text).is_transaction
    for name in ("V1__a.sql", "db/V1_2__a.sql", "R__a.sql", "V7.sql", "B3__base.sql", "V1.1__a.SQL"):
        assert source(text, name).is_transaction, name
    for name in ("Version1__a.sql", "v1__a.sql", "V1_a.sql", "R1.sql", "V1__a.txt", "U1__a.sql"):
        assert not source(text, name).is_transaction, name
    assert not source(text, "V1__a.sql", told=False).is_transaction
    assert source("VACUUM t", "V1__a.sql", told=True).is_transaction


def test_begin_and_commit_divide_a_file() -> None:
    assert divided(source("BEGIN; SELECT 1; COMMIT; SELECT 2; SELECT 3")) == [(0, 1, 2), (3, 4)]
    assert divided(source("SELECT 1; COMMIT; SELECT 2")) == [(0, 1), (2,)]
    assert divided(source("BEGIN; SELECT 1; COMMIT; VACUUM t; BEGIN; SELECT 2; COMMIT")) == [(0, 1, 2), (3,), (4, 5, 6)]
    assert divided(source("BEGIN; SELECT 1; COMMIT AND CHAIN; SELECT 2; ROLLBACK; VACUUM t")) == [
        (0, 1, 2),
        (3, 4),
        (5,),
    ]


def test_what_is_rolled_back_is_known_and_what_is_left_open_is_flyway_s_to_commit() -> None:
    assert [unit.committed for unit in units(source("SELECT 1; ROLLBACK; SELECT 2"))] == [False, True]
    assert [unit.committed for unit in units(source("VACUUM t; BEGIN; SELECT 2"))] == [True, False]
    (unit,) = units(source("SELECT 1; SAVEPOINT s; SELECT 2; ROLLBACK TO s; RELEASE s"))
    assert unit.positions == (0, 1, 2, 3, 4)


def test_a_place_is_line_and_column_of_the_file() -> None:
    file = source("-- SELECT 2\nSELECT 1;\n  SELECT 2; /* é */ SELECT\n 3")
    assert [file.place(position) for position in range(3)] == [(2, 1), (3, 3), (3, 21)]
    assert file.place(2, inside=len("SELECT\n 3") - 1) == (4, 2)
