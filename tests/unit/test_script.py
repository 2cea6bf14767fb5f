"""SQL files that are looked at: what is read, in which order, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.planning.errors import SpecError
from tasks.planning.script import MAX_BYTES, read_script, script, sql_files

KINDS = """
INSERT INTO t SELECT 1; SELECT 1; DO $$ BEGIN NULL; END $$; VACUUM FULL t; SET lock_timeout = '1s'; TRUNCATE t;
REINDEX SYSTEM d; CREATE INDEX ON t (a) TABLESPACE x; UPDATE t SET a = 1 FROM u; CREATE ROLE r; COPY t FROM '/x';
CREATE INDEX CONCURRENTLY i ON t (a); REINDEX TABLE CONCURRENTLY t;
"""


def test_every_kind_of_statement_is_read() -> None:
    found = script(KINDS, "v1.sql").file.statements
    assert [item.kind for item in found] == [
        "insert", "select", "do", "vacuum", "set", "truncate", "reindex", "create_index", "update", "create_role",
        "copy", "create_index", "reindex",
    ]  # fmt: skip
    assert [item.line for item in found[-2:]] == [4, 4]
    assert [item.concurrent for item in found] == [False] * 11 + [True] * 2
    assert all(item.transactional_sql == item.sql for item in found)


@pytest.mark.parametrize(
    ("text", "where", "remedy"),
    [
        ("SELECT 1;\n  CRATE TABLE t ();", "v1.sql, line 2, column 3: ", None),
        ("\\connect other\nSELECT 1", "v1.sql, line 1, column 1: ", "psql's own"),
        ("COPY t (a) FROM stdin;\n1\t2\n\\.\n", "v1.sql, line 2", "COPY … FROM STDIN"),
        ("CREATE TABLE ${schema}.t (a int)", "v1.sql, line 1, column 1", "Placeholders"),
        ("SELECT 1;\n\tSELECT '${who}'", "v1.sql, line 2, column 10: ${who} is a placeholder", "write the value"),
        ("", "v1.sql: ", "Write the SQL"),
        ("-- nothing\n;;", "v1.sql: ", "Write the SQL"),
        ("SELECT 1;\0", "v1.sql, line 1, column 10: a NUL", None),
    ],
)
def test_what_is_no_sql_is_refused_with_its_place(text: str, where: str, remedy: str | None) -> None:
    with pytest.raises(SpecError) as refused:
        script(text, "v1.sql")
    assert refused.value.what.startswith(where)
    assert refused.value.exit_code == 2
    if remedy:
        assert remedy in (refused.value.remedy or "")


def test_the_caret_stands_under_the_fault() -> None:
    with pytest.raises(SpecError) as refused:
        script("SELECT 1;\n\tSELECT '${who}'", "v1.sql")
    assert refused.value.what.splitlines()[1:] == ["  \tSELECT '${who}'", "  \t        ^"]


def test_placeholders_in_comments_are_nobodys() -> None:
    assert script("SELECT 1 -- ${größe}\n/* ${x} */", "v1.sql").file.statements


def test_bytes_that_are_not_utf_8_are_named_by_line(tmp_path: Path) -> None:
    (tmp_path / "latin.sql").write_bytes("-- a\nSELECT 'größe'".encode("latin-1"))
    with pytest.raises(SpecError, match=r"latin\.sql, line 2: is not UTF-8 \(byte 15\)"):
        read_script(tmp_path / "latin.sql")
    (tmp_path / "wide.sql").write_bytes("SELECT 1".encode("utf-16"))
    with pytest.raises(SpecError, match="not UTF-8"):
        read_script(tmp_path / "wide.sql")
    (tmp_path / "windows.sql").write_bytes("SELECT 1;\r\nSELECT 2;\r\n".encode("utf-8-sig"))
    assert [item.line for item in read_script(tmp_path / "windows.sql").file.statements] == [1, 2]


def test_a_file_of_ten_megabytes_is_refused_and_one_of_one_is_read(tmp_path: Path) -> None:
    (tmp_path / "huge.sql").write_text("SELECT 1;\n" * 1_000_000)
    with pytest.raises(SpecError, match="10 MB of SQL") as refused:
        read_script(tmp_path / "huge.sql")
    assert "COPY" in (refused.value.remedy or "")
    (tmp_path / "long.sql").write_text("SELECT '" + "x" * (MAX_BYTES // 4) + "';")
    assert len(read_script(tmp_path / "long.sql").file.statements) == 1


def test_a_folder_is_read_in_flyways_order(tmp_path: Path) -> None:
    names = ("V10__c.sql", "V2__b.sql", "V1.1__a.sql", "R__view.sql", "other.sql", "U2__b.sql", "V2_0_1__x.SQL", "n")
    for name in names:
        (tmp_path / name).write_text("SELECT 1")
    found = sql_files([tmp_path, tmp_path / "U2__b.sql"])
    assert [path.name for path in found] == [
        "V1.1__a.sql", "V2__b.sql", "V2_0_1__x.SQL", "V10__c.sql", "R__view.sql", "other.sql", "U2__b.sql",
    ]  # fmt: skip


def test_a_script_configuration_says_whether_the_file_is_a_transaction(tmp_path: Path) -> None:
    path = tmp_path / "V1__a.sql"
    path.write_text("REINDEX TABLE CONCURRENTLY t")
    assert read_script(path).file.is_transaction, "Flyway does not see it"
    (tmp_path / "V1__a.sql.conf").write_text("encoding=UTF-8\nexecuteInTransaction=false\n")
    assert not read_script(path).file.is_transaction


def test_a_folder_without_sql_and_a_file_that_is_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no \\.sql file in this folder"):
        sql_files([tmp_path])
    with pytest.raises(SpecError, match="There is no file"):
        sql_files([tmp_path / "missing.sql"])


ALLOWED = """
-- lockstep:allow column-dropped, table-dropped because nobody reads it
DROP TABLE a;
DROP TABLE b; -- lockstep:allow table-dropped because it is empty
DROP /* lockstep:allow table-dropped
        because of
        this */ TABLE c; DROP TABLE d;
/* LOCKSTEP:ALLOW Table-Dropped */
DROP TABLE e;
-- lockstep:allow
DROP TABLE f;
SELECT '-- lockstep:allow table-dropped because of nothing';
"""


def test_an_allowance_belongs_to_its_statement() -> None:
    noted = script(ALLOWED, "v1.sql").allowances
    assert [(item.statement, item.ids, item.reason, item.line) for item in noted] == [
        (0, ("column-dropped", "table-dropped"), "nobody reads it", 2),
        (1, ("table-dropped",), "it is empty", 4),
        (2, ("table-dropped",), "of this", 5),
        (4, ("table-dropped",), "", 8),
        (5, (), "", 10),
    ]
