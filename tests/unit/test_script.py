"""SQL files that are looked at: what is read, in which order, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.planning.errors import SpecError
from tasks.planning.flyway.checksum import checksum
from tasks.planning.flyway.history import Applied
from tasks.planning.flyway.versions import parse_version
from tasks.planning.script import MAX_BYTES, Reading, read_script, read_scripts, script

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
    with pytest.raises(SpecError, match=r"line 3, column 13: \$\{y\} is a placeholder"):
        script("SELECT 1; -- ${größe}\n/* ${x}\n */ SELECT '${y}'; -- ${z}", "v1.sql")


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


def names(reading: Reading) -> list[str]:
    return [Path(item.file.name).name for item in reading.scripts]


def test_a_folder_is_read_as_flyway_would_run_it(tmp_path: Path) -> None:
    written = ("V10__c.sql", "V2__b.sql", "V1.1__a.sql", "R__view.sql", "other.sql", "U2__b.sql", "V2_0_1__x.SQL", "n")
    passed = ("v3__lower.sql", "afterMigrate.sql", "V4__run.sh")
    (tmp_path / ".hidden").mkdir()
    for name in (*written, *passed, ".hidden/V5__not_seen.sql"):
        (tmp_path / name).write_text("SELECT 1")
    reading = read_scripts([tmp_path, tmp_path / "U2__b.sql"])
    assert names(reading) == [
        "V1.1__a.sql", "V2__b.sql", "V2_0_1__x.SQL", "V10__c.sql", "R__view.sql", "U2__b.sql",
    ]  # fmt: skip
    assert len(reading.remarks) == len(passed) + 2
    for name in ("other.sql", "U2__b.sql", *passed):
        assert any(f"{name}: passed over, " in remark for remark in reading.remarks), name
    (tmp_path / "V02__again.sql").write_text("SELECT 1")
    with pytest.raises(SpecError, match="Two files have the version"):
        read_scripts([tmp_path])


def test_a_folder_without_a_file_of_flyways_is_read_by_name(tmp_path: Path) -> None:
    for name in ("b.sql", "a.SQL", "c.txt"):
        (tmp_path / name).write_text("SELECT 1")
    assert names(read_scripts([tmp_path])) == ["a.SQL", "b.sql"]


def test_of_a_folder_what_a_database_has_is_not_read_again(tmp_path: Path) -> None:
    for name in ("V1__a.sql", "V2__late.sql", "V3__c.sql", "V4__d.sql", "R__view.sql"):
        (tmp_path / name).write_text("SELECT 1")
    run = tuple(
        Applied(rank, parse_version(number), name, "SQL", f"V{number}__{name}.sql", checksum("SELECT 1"), True)
        for rank, number, name in ((1, "1", "a"), (2, "3", "c"))
    )
    reading = read_scripts([tmp_path], run)
    assert names(reading) == ["V2__late.sql", "V4__d.sql", "R__view.sql"]
    assert not reading.remarks
    (tmp_path / "V1__a.sql").write_text("SELECT 2")
    (remark,) = read_scripts([tmp_path], run).remarks
    assert "V1__a.sql is not what was run" in remark
    for name in ("V2__late.sql", "V4__d.sql", "R__view.sql"):
        (tmp_path / name).rename(tmp_path / f"{name}.bak")
    assert f"{tmp_path}: nothing is left to run." in read_scripts([tmp_path], run).remarks
    (tmp_path / "V4__d.sql").write_text("SELECT 1")
    failed = Applied(3, parse_version("4"), "d", "SQL", "V4__d.sql", checksum("SELECT 1"), success=False)
    with pytest.raises(SpecError, match=r"V4__d\.sql failed outside a transaction"):
        read_scripts([tmp_path], (*run, failed))


def test_a_script_configuration_is_read_as_flyway_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "V1__a.sql"
    path.write_text("REINDEX TABLE CONCURRENTLY t")
    assert read_script(path).file.is_transaction, "Flyway does not see it"
    own = tmp_path / "V1__a.sql.conf"
    own.write_text("encoding=ISO-8859-1\nexecuteInTransaction : False\nplaceholderReplacement=false")
    path.write_bytes("SELECT 'größe ${x}'".encode("latin-1"))
    for (found,) in ([read_script(path)], read_scripts([tmp_path]).scripts):
        assert found.file.text == "SELECT 'größe ${x}'"
        assert not found.file.is_transaction
    own.write_text("color=red")
    with pytest.raises(SpecError, match="color is not a setting of a script"):
        read_script(path)


def test_a_folder_without_sql_and_a_file_that_is_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no \\.sql file in this folder"):
        read_scripts([tmp_path])
    with pytest.raises(SpecError, match="There is no file"):
        read_scripts([tmp_path / "missing.sql"])


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
