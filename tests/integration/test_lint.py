"""`lockstep lint` with a schema file and with a database: what it prints, and its exit codes."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from flows.cli import run_cli
from tasks.database.connection import Target
from tasks.planning.flyway.checksum import checksum
from tests.conftest import DRINK_WATER
from tests.integration.beside_flyway import HISTORY

SCHEMA = DRINK_WATER / "schema.sql"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    # The command's preparation sets variables for good; the fixture's own values are put back afterwards.
    monkeypatch.setattr(os, "environ", os.environ.copy())


def files(folder: Path, **texts: str) -> list[str]:
    for name, text in texts.items():
        (folder / f"{name}.sql").write_text(text)
    return [str(folder / f"{name}.sql") for name in texts]


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    capsys.readouterr()
    code = run_cli(["lint", *arguments, "--format", "json"])
    return code, json.loads(capsys.readouterr().out)["statements"]


def found(statement: dict[str, Any]) -> list[str]:
    return [item["id"] for item in statement["findings"]]


def test_a_flyway_folder_is_looked_at_as_a_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files(
        tmp_path,
        V10__index="CREATE INDEX CONCURRENTLY intake_ml ON water_intake (volume_ml);",
        V2__fill="UPDATE water_intake SET volume_ml = volume;",
        V1__add="ALTER TABLE water_intake ADD COLUMN volume_ml numeric(8,2);",
    )
    code, statements = document(capsys, str(tmp_path), "--schema", str(SCHEMA))
    assert code == 0
    assert [Path(item["file"]).name for item in statements] == ["V1__add.sql", "V2__fill.sql", "V10__index.sql"]
    assert [item["index"] for item in statements] == [1, 2, 3]
    assert [item["in_transaction"] for item in statements] == [True, True, False]
    assert [item["dangerous"] for item in statements] == [False, False, False]
    assert statements[0]["locks"] == {"public.water_intake": "AccessExclusiveLock"}
    assert "data-change-unbatched" in found(statements[1])
    together = files(tmp_path, all="ALTER TABLE water_intake ADD COLUMN v2 int; UPDATE water_intake SET v2 = volume;")
    code, statements = document(capsys, *together, "--schema", str(SCHEMA))
    assert code == 1
    assert [item["dangerous"] for item in statements] == [False, True]
    assert statements[1]["locks"] == {"public.water_intake": "RowExclusiveLock"}
    assert statements[1]["held"] == {"public.water_intake": "AccessExclusiveLock"}
    assert "data-change-after-lock" in found(statements[1])


def test_of_a_folder_only_what_the_database_has_not_run_is_looked_at(
    drink_water: Target, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "ALTER TABLE users ADD COLUMN born date;"
    files(tmp_path, V1__born=text, V2__name="ALTER TABLE users DROP COLUMN full_name;", notes="SELECT 1")
    with psycopg.connect(drink_water.conninfo, autocommit=True) as connection:
        connection.execute(text.encode())
        connection.execute(HISTORY)
        connection.execute(
            "INSERT INTO flyway_schema_history VALUES (1, '1', 'born', 'SQL', 'V1__born.sql', %s, 'x', now(), 1, true)",
            (checksum(text),),
        )
    monkeypatch.setitem(os.environ, "LOCKSTEP_WATER_URL", drink_water.conninfo)
    assert run_cli(["lint", str(tmp_path), "--database", "water"]) == 1
    printed = capsys.readouterr()
    assert "V2__name.sql:1  DANGEROUS" in printed.out
    assert "V1__born" not in printed.out
    assert "notes.sql: passed over, it begins with no prefix that Flyway knows" in printed.err.replace("\n", " ")


def test_a_person_reads_what_it_does_and_for_how_long(
    drink_water: Target, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "LOCKSTEP_WATER_URL", drink_water.conninfo)
    (path,) = files(tmp_path, wide="-- wider\nALTER TABLE water_intake\n  ALTER COLUMN volume TYPE bigint;\n")
    assert run_cli(["lint", path, "--database", "water"]) == 1
    told = capsys.readouterr().out
    assert f"{path}:2  DANGEROUS\n     2 | ALTER TABLE water_intake\n     3 |   ALTER COLUMN volume TYPE big" in told
    assert "  lock  ACCESS EXCLUSIVE on public.water_intake: blocks reads and writes\n" in told
    size = r"\(\d+(\.\d)? KiB, about 1,000 rows\)"
    work = rf"  work  rewrites public\.water_intake, with its indexes {size}: under 0\.1 s, roughly\n"
    assert re.search(work, told)
    assert "Instead: expand: a new column of the new type" in told
    assert "1 statement, 1 dangerous" in told
    with psycopg.connect(drink_water.conninfo) as connection:
        row = connection.execute(
            "SELECT format_type(atttypid, atttypmod) FROM pg_attribute "
            "WHERE attrelid = 'water_intake'::regclass AND attname = 'volume'"
        ).fetchone()
    assert row == ("integer",), "the database itself is not touched"


def test_the_live_database_knows_what_is_published(
    drink_water: Target, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(drink_water.conninfo, autocommit=True) as connection:
        connection.execute("CREATE PUBLICATION intakes FOR TABLE water_intake")
    monkeypatch.setitem(os.environ, "LOCKSTEP_WATER_URL", drink_water.conninfo)
    text = "ALTER TABLE water_intake DROP CONSTRAINT water_intake_pkey;"
    code, (statement,) = document(capsys, *files(tmp_path, key=text), "--database", "water")
    assert code == 1
    assert "replica-identity-lost" in found(statement)
    assert "intakes" in statement["findings"][0]["message"]


def test_what_a_comment_allows_is_exit_code_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drop = "ALTER TABLE users DROP COLUMN full_name;"
    reasoned, silent = files(
        tmp_path,
        reasoned=f"-- lockstep:allow column-dropped because no version since 4.2 reads it\n{drop}",
        silent=f"-- lockstep:allow column-dropped\n{drop}",
    )
    code, (statement,) = document(capsys, reasoned, "--schema", str(SCHEMA))
    assert code == 0
    assert statement["dangerous"], "a fact stays one"
    assert [item["allowed"] for item in statement["findings"] if item["id"] == "column-dropped"] == [
        "no version since 4.2 reads it"
    ]
    code, (statement,) = document(capsys, silent, "--schema", str(SCHEMA))
    assert code == 1
    assert "allowance-without-reason" in found(statement)


def test_a_statement_that_fails_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "ALTER TABLE users ADD COLUMN x int;\nALTER TABLE users\n  DROP COLUMN full_nam;\nDROP TABLE users;"
    arguments = [*files(tmp_path, fails=text), "--schema", str(SCHEMA)]
    code, statements = document(capsys, *arguments)
    assert code == 2
    assert [item["error"] for item in statements] == [
        None,
        'column "full_nam" of relation "users" does not exist [42703]',
    ]
    assert found(statements[1]) == ["statement-fails"]
    assert run_cli(["lint", *arguments]) == 2
    told = capsys.readouterr().out
    assert "fails.sql:2  FAILS\n" in told
    assert "1 more behind one that fails: not looked at.\n" in told


def test_a_caret_shows_where_the_server_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = files(tmp_path, caret="SELECT 1;  UPDATE users\n\tSET full_nam = 'x';")
    assert run_cli(["lint", path, "--schema", str(SCHEMA)]) == 2
    told = capsys.readouterr().out
    first, second, caret = told.splitlines()[1:4]
    assert first == "     1 |            UPDATE users"
    assert second.startswith("     2 | ")
    assert caret.index("^") == second.index("full_nam")


def test_an_index_that_is_not_immutable_is_told_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "CREATE INDEX recent ON water_intake (user_id) WHERE date_time_utc >= CURRENT_DATE - INTERVAL '90 days';"
    code, (statement,) = document(capsys, *files(tmp_path, V1__recent=text), "--schema", str(SCHEMA))
    assert code == 2
    assert found(statement) == ["index-not-immutable"]
    assert "must be marked IMMUTABLE" in statement["error"]
    assert "fixed date" in statement["findings"][0]["safe"]


def test_both_kinds_of_statement_in_one_file_are_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "ALTER TABLE users ADD COLUMN x int;\nCREATE INDEX CONCURRENTLY users_x ON users (x);"
    code, statements = document(capsys, *files(tmp_path, V1__mixed=text), "--schema", str(SCHEMA))
    assert code == 2
    assert "concurrently-in-transaction" in found(statements[1])
    text = "SET lock_timeout = '1s';\nCREATE INDEX CONCURRENTLY users_name ON users (full_name);"
    code, statements = document(capsys, *files(tmp_path, V2__set=text), "--schema", str(SCHEMA))
    assert code == 2, "Flyway refuses to mix even these"
    assert "concurrently-in-transaction" in found(statements[1])
    (tmp_path / "V2__set.sql.conf").write_text("executeInTransaction=false")
    code, statements = document(capsys, str(tmp_path / "V2__set.sql"), "--schema", str(SCHEMA))
    assert code == 0
    assert [item["in_transaction"] for item in statements] == [False, False]
    text = "BEGIN;\nCREATE INDEX CONCURRENTLY users_name ON users (full_name);\nCOMMIT;"
    code, statements = document(capsys, *files(tmp_path, inside=text), "--schema", str(SCHEMA))
    assert code == 2
    assert found(statements[-1]) == ["concurrently-in-transaction"]


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        (
            "CREATE TABLE t (a int);\nCREATE TABLE u (a nothing);",
            'line 2: the schema cannot be made: type "nothing" does not exist',
        ),
        ("CREATE TABLE t (a int);\n\nCREATE EXTENSION nothing_of_this_name;", "Name a database whose server has"),
        ("\\connect other", "psql's own"),
        ("", "is empty"),
    ],
)
def test_a_schema_that_cannot_be_made_is_exit_code_2(
    schema: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, path = files(tmp_path, schema=schema, v1="SELECT 1")
    assert run_cli(["lint", path, "--schema", made]) == 2
    printed = capsys.readouterr()
    assert told in printed.err
    assert printed.out == ""


def test_a_dump_is_a_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Psql's guard, an empty search_path, owners and grants to roles that are nowhere, settings of newer servers."""
    dump = (
        "\\restrict abc\nSET statement_timeout = 0;\nSELECT pg_catalog.set_config('search_path', '', false);\n"
        "CREATE TABLE public.t (a integer);\nALTER TABLE public.t OWNER TO nobody_of_lockstep;\n"
        "GRANT SELECT ON TABLE public.t TO nobody_else_of_lockstep;\n\\unrestrict abc\n"
    )
    schema, path = files(tmp_path, schema=dump, v1="ALTER TABLE t DROP COLUMN a;")
    code, (statement,) = document(capsys, path, "--schema", schema)
    assert code == 1
    assert statement["error"] is None
    assert "column-dropped" in found(statement)


def test_names_are_looked_up_where_the_schema_file_leaves_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schema, path = files(
        tmp_path, schema="CREATE SCHEMA lab; SET search_path = lab, public; CREATE TABLE t (a int);", v1="DROP TABLE t;"
    )
    _, (statement,) = document(capsys, path, "--schema", schema)
    assert statement["locks"] == {"lab.t": "AccessExclusiveLock"}


def test_a_database_that_is_not_reached_or_not_allowed_is_exit_code_1(
    drink_water: Target, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = files(tmp_path, v1="SELECT 1")
    monkeypatch.setitem(os.environ, "LOCKSTEP_DEAD_URL", "postgresql://me@127.0.0.1:1/none")
    assert run_cli(["lint", path, "--database", "dead"]) == 1
    assert "127.0.0.1:1" in capsys.readouterr().err
    role = "lint_may_nothing"
    with psycopg.connect(drink_water.conninfo, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'".encode())
    try:
        url = make_conninfo(drink_water.conninfo, user=role, password="x")
        monkeypatch.setitem(os.environ, "LOCKSTEP_SHY_URL", url)
        assert run_cli(["lint", path, "--database", "shy"]) == 1
        assert "GRANT pg_read_all_data" in capsys.readouterr().err
    finally:
        with psycopg.connect(drink_water.conninfo, autocommit=True) as connection:
            connection.execute(f"DROP ROLE {role}".encode())
