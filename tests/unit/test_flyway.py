"""Flyway's rules, one by one; tests/integration/test_flyway_*.py hold all of them against the real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.planning.errors import SpecError, Unsupported
from tasks.planning.flyway.checksum import checksum
from tasks.planning.flyway.folder import read_folder
from tasks.planning.flyway.history import Applied, State, judge
from tasks.planning.flyway.names import Misnamed, ScriptName, read_name
from tasks.planning.flyway.pending import pending_files
from tasks.planning.flyway.placeholders import own_values, replaced
from tasks.planning.flyway.rows import is_rows_step, lock_key
from tasks.planning.flyway.script_settings import ScriptSettings, read_script_settings
from tasks.planning.flyway.sequence import pending_sequence
from tasks.planning.flyway.settings import Settings
from tasks.planning.flyway.transactions import in_transaction
from tasks.planning.flyway.validation import refuse, stops_migrate, validate
from tasks.planning.flyway.versions import Version, parse_version
from tasks.planning.names import TableName
from tasks.planning.text_files import without_mark


def version(text: str) -> Version:
    found = parse_version(text)
    assert found is not None
    return found


def write(folder: Path, **files: str) -> Path:
    """Write files whose names are given without ``.sql``."""
    for name, text in files.items():
        (folder / f"{name}.sql").write_text(text)
    return folder


def row(
    rank: int, written: str | None, description: str, script: str, recorded: int | None, **other: object
) -> Applied:
    values: dict[str, object] = {"type": "SQL", "success": True} | other
    return Applied(
        rank=rank, version=None if written is None else version(written), description=description,
        type=str(values["type"]), script=script, checksum=recorded, success=bool(values["success"]),
    )  # fmt: skip


class TestVersions:
    @pytest.mark.parametrize("same", ["1.0", "001", "1_0", "1.0.0", "01_00", "+1"])
    def test_zeros_do_not_count(self, same: str) -> None:
        assert version(same) == version("1")
        assert hash(version(same)) == hash(version("1"))

    def test_parts_are_numbers(self) -> None:
        written = ["20240131120000", "1.10", "2", "1_2", "0", "1", "1.2.1", "99999999999999999999", "0.0.1"]
        assert [str(each) for each in sorted(map(version, written))] == [
            "0", "0.0.1", "1", "1.2", "1.2.1", "1.10", "2", "20240131120000", "99999999999999999999",
        ]  # fmt: skip

    def test_what_is_stored_keeps_the_zeros(self) -> None:
        assert version("1_001").text == "1.001"

    @pytest.mark.parametrize("text", ["", "a", "1a", "1.", ".1", "1..2", "1_", "1 2", "1.-2", "_"])
    def test_what_is_no_version(self, text: str) -> None:
        assert parse_version(text) is None


class TestNames:
    @pytest.mark.parametrize(
        ("name", "kind", "number", "description"),
        [
            ("V1__init.sql", "versioned", "1", "init"),
            ("V1.sql", "versioned", "1", ""),
            ("V1_2__add_two__columns.SQL", "versioned", "1.2", "add two  columns"),
            ("V3___x.sql", "versioned", "3", " x"),
            ("B7__sum.sql", "baseline", "7", "sum"),
            ("R__my_view.sql", "repeatable", None, "my view"),
            ("R__.sql", "repeatable", None, ""),
            ("beforeEachMigrateStatement.sql", "callback", None, ""),
            ("afterMigrate__grants.sql", "callback", None, "grants"),
        ],
    )
    def test_what_a_name_says(self, name: str, kind: str, number: str | None, description: str) -> None:
        found = read_name(name, Settings())
        assert isinstance(found, ScriptName)
        assert (found.kind, found.version and found.version.text, found.description) == (kind, number, description)

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("v1__x.sql", "the prefix V is written like this, not v"),
            ("V__x.sql", "no version stands after V"),
            ("V1a__x.sql", "'1a' is not a version"),
            ("V1_x.sql", "'1_x' is not a version"),
            ("Vlatest__x.sql", "'latest' is not a version"),
            ("R1__x.sql", "a name that begins with R has no version: R__description is one"),
            ("R.sql", "nothing stands after R"),
            ("U1__x.sql", "undo scripts are not part of Flyway's open-source edition, which passes over them"),
            ("init.sql", "it begins with no prefix that Flyway knows: V, R, …"),
            ("beforeMigrateX.sql", "a name that begins with beforeMigrate has no version"),
        ],
    )
    def test_why_a_name_is_passed_over(self, name: str, reason: str) -> None:
        found = read_name(name, Settings())
        assert isinstance(found, Misnamed)
        assert found.reason.startswith(reason)

    def test_a_projects_own_prefixes(self) -> None:
        settings = Settings(
            sql_migration_prefix="Ver", sql_migration_separator="-", sql_migration_suffixes=(".pgsql", ".sql")
        )
        assert read_name("Ver2-a_b.pgsql", settings) == ScriptName("versioned", version("2"), "a b")
        assert isinstance(read_name("V2-a.sql", settings), Misnamed)


class TestChecksum:
    def test_the_known_one(self) -> None:
        assert checksum("CREATE TABLE a (id int);") == -623083431

    def test_line_ends_and_the_mark_do_not_count(self) -> None:
        expected = checksum("a\nb\n")
        for text in ("a\r\nb\r\n", "a\rb", "ab", without_mark("\ufeffa\nb"), "\n\na\n\nb"):
            assert checksum(text) == expected
        assert checksum("") == checksum(without_mark("\ufeff")) == 0

    @pytest.mark.parametrize(
        "text",
        ["a\u2028b", "a\x0bb", "a\x0cb", "a\x1cb", "a\x85b", "a b", without_mark("\ufeff\ufeffab"), "\n\ufeffab"],
    )
    def test_everything_else_counts(self, text: str) -> None:
        assert checksum(text) != checksum("ab")


class TestScriptSettings:
    def test_what_they_say(self) -> None:
        text = (
            "# a note\n! another\nexecuteInTransaction = False\r\nencoding:ISO-8859-1\n\nplaceholderReplacement true\n"
        )
        assert read_script_settings(text, source="x") == ScriptSettings(False, True, "ISO-8859-1", True)

    def test_nothing_said(self) -> None:
        assert read_script_settings("", source="x") == ScriptSettings(None, None, None, True)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("flyway.executeInTransaction=false", "flyway.executeInTransaction is not a setting of a script"),
            ("executeInTransaction=no", "executeInTransaction is 'no', and can be true or false"),
        ],
    )
    def test_mistakes(self, text: str, said: str) -> None:
        with pytest.raises(SpecError, match=f"V1__a.sql.conf: {said}"):
            read_script_settings(text, source="V1__a.sql.conf")

    def test_conditions_are_refused_by_name(self) -> None:
        with pytest.raises(Unsupported, match="the condition of shouldExecute in x"):
            read_script_settings("shouldExecute=${stage}==prod", source="x")


class TestPlaceholders:
    SETTINGS = Settings(placeholders={"Owner": "app", "empty": "", "nested": "${owner}"})

    def test_they_are_replaced_once_and_in_any_case(self) -> None:
        text = "GRANT ALL TO ${OWNER};${empty} -- $${owner} ${nested}"
        assert replaced(text, self.SETTINGS, {}, source="x") == "GRANT ALL TO app; -- $app ${owner}"

    def test_flyways_own(self) -> None:
        own = own_values(
            "V1__a.sql", Settings(default_schema="app", table="h", placeholders={"flyway:environment": "prod"})
        )
        assert own == {"flyway:filename": "V1__a.sql", "flyway:table": "h", "flyway:defaultSchema": "app"}

    def test_one_without_a_value_is_refused_by_name_and_place(self) -> None:
        with pytest.raises(SpecError) as caught:
            replaced("SELECT 1;\n-- ${who}", self.SETTINGS, {}, source="V1__a.sql")
        assert caught.value.what == "V1__a.sql, line 2, column 4: the placeholder ${who} has no value."
        assert "flyway.placeholders.who" in (caught.value.remedy or "")

    def test_one_that_does_not_end(self) -> None:
        with pytest.raises(SpecError, match=r"line 1, column 8: .* begins a placeholder that does not end"):
            replaced("SELECT ${owner;\n", self.SETTINGS, {}, source="x")

    def test_other_signs(self) -> None:
        settings = Settings(placeholder_prefix="[[", placeholder_suffix="]]", placeholders={"a": "1"})
        assert replaced("[[a]] ${b}", settings, {}, source="x") == "1 ${b}"


def runs_inside(text: str, script: ScriptSettings = ScriptSettings(), settings: Settings = Settings()) -> bool:  # noqa: B008
    return in_transaction(text, script, settings, source="V1__x.sql")


class TestTransactions:
    @pytest.mark.parametrize(
        "text",
        [
            "create index concurrently i on t (a)", "DROP INDEX CONCURRENTLY i; VACUUM t;", "ALTER SYSTEM SET a = b",
            "CREATE DATABASE d", "DROP TABLESPACE d", "CREATE SUBSCRIPTION s CONNECTION '' PUBLICATION p",
            "DISCARD ALL",
            "REINDEX (VERBOSE) SCHEMA s", "-- note\n/* /* */ */ VACUUM (FULL) t",
        ],
    )  # fmt: skip
    def test_what_runs_outside(self, text: str) -> None:
        assert not runs_inside(text)

    @pytest.mark.parametrize(
        "text",
        [
            "", ";;", "CREATE INDEX i ON t (a)", "SELECT 'VACUUM'; SELECT $$;VACUUM;$$", "REINDEX TABLE t",
            "COMMENT ON TABLE t IS 'x;''VACUUM;'", "COPY t FROM STDIN;\nVACUUM;\n\\.\nSELECT 1;", "DISCARD PLANS",
            "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN a THEN 1 END; VACUUM; END; SELECT 1",
            "ALTER TYPE t ADD VALUE 'x'", "CREATE TABLE vacuum1 ()",
        ],
    )  # fmt: skip
    def test_what_runs_inside(self, text: str) -> None:
        assert runs_inside(text)

    def test_a_mixture_is_refused_with_its_line(self) -> None:
        with pytest.raises(SpecError) as caught:
            runs_inside("SET lock_timeout = '1s';\n\nCREATE INDEX CONCURRENTLY i ON t (a);")
        assert caught.value.what.startswith(
            "V1__x.sql, line 3: CREATE INDEX CONCURRENTLY I … runs outside a transaction"
        )
        assert "executeInTransaction=false" in (caught.value.remedy or "")

    def test_what_allows_a_mixture(self) -> None:
        text = "SELECT 1; VACUUM t"
        assert not runs_inside(text, settings=Settings(mixed=True))
        assert not runs_inside(text, settings=Settings(execute_in_transaction=False))
        assert not runs_inside(text, ScriptSettings(execute_in_transaction=False))


class TestFolder:
    def test_what_is_read_and_what_is_passed_over(self, tmp_path: Path) -> None:
        write(tmp_path, V2__b="b", V10__c="c", R__z="z", R__a="a", beforeMigrate="x", V1__a="a", u1__x="", notes="")
        (tmp_path / "notes.txt").write_text("nothing of Flyway's")
        folder = read_folder(tmp_path)
        assert [each.script for each in folder.migrations] == [
            "V1__a.sql", "V2__b.sql", "V10__c.sql", "R__a.sql", "R__z.sql",
        ]  # fmt: skip
        assert [path.name for path in folder.callbacks] == ["beforeMigrate.sql"]
        assert [each.path.name for each in folder.ignored] == ["notes.sql", "u1__x.sql"]

    def test_several_locations(self, tmp_path: Path) -> None:
        first, second = tmp_path / "a", tmp_path / "b"
        first.mkdir()
        (second / "in").mkdir(parents=True)
        write(first, V1__a="a")
        write(second / "in", V2__b="b")
        assert [each.script for each in read_folder(first, second).migrations] == ["V1__a.sql", "in/V2__b.sql"]

    def test_one_version_twice(self, tmp_path: Path) -> None:
        write(tmp_path, V1__a="a", V2__x="", V001__b="b")
        with pytest.raises(
            SpecError, match=r"Two files have the version 1: .*V1__a\.sql|Two files have the version 001"
        ):
            read_folder(tmp_path)

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match="cannot be read: No such file or directory"):
            read_folder(tmp_path / "none")

    def test_another_encoding(self, tmp_path: Path) -> None:
        (tmp_path / "V1__a.sql").write_bytes("SELECT 1;\nSELECT 'ß';".encode("latin-1"))
        with pytest.raises(SpecError, match=r"V1__a\.sql, line 2: is not UTF-8 \(byte 18\)"):
            read_folder(tmp_path)
        (tmp_path / "V1__a.sql.conf").write_text("encoding=latin-1")
        assert read_folder(tmp_path).migrations[0].checksum == checksum("SELECT 1;SELECT 'ß';")
        (tmp_path / "V1__a.sql.conf").write_text("encoding=klingon")
        with pytest.raises(SpecError, match="the encoding 'klingon' is not known"):
            read_folder(tmp_path)


class TestHistory:
    def test_a_new_database(self, tmp_path: Path) -> None:
        settings = Settings(placeholders={"who": "app"})
        write(tmp_path, V1__a="\ufeffGRANT x TO ${who};\r\n", V2__b="VACUUM t;", R__v="SELECT 1;")
        judgement = judge(read_folder(tmp_path, settings=settings), (), settings)
        first, second, third = pending_files(judgement, settings)
        assert (first.path, first.version, first.description) == (tmp_path / "V1__a.sql", version("1"), "a")
        assert (first.text, first.checksum) == ("GRANT x TO app;\r\n", checksum("GRANT x TO ${who};"))
        assert (first.in_transaction, second.in_transaction) == (True, False)
        assert (third.version, third.script) == (None, "R__v.sql")

    @pytest.mark.parametrize(
        "text",
        [
            "REINDEX INDEX CONCURRENTLY i", "REINDEX (VERBOSE, CONCURRENTLY) TABLE t", "CLUSTER", "CLUSTER VERBOSE",
            "ALTER TABLE p DETACH PARTITION c CONCURRENTLY", "ALTER DATABASE d SET TABLESPACE s",
        ],
    )  # fmt: skip
    def test_what_flyway_does_not_know_to_run_outside_is_refused_by_name(self, tmp_path: Path, text: str) -> None:
        write(tmp_path, V1__x=f"SELECT 1;\n{text};")
        with pytest.raises(SpecError, match=r"V1__x\.sql, line 2: Flyway runs this file in a transaction"):
            pending_files(judge(read_folder(tmp_path), ()))
        (tmp_path / "V1__x.sql.conf").write_text("executeInTransaction=false")
        (file,) = pending_files(judge(read_folder(tmp_path), ()))
        assert not file.in_transaction

    def test_a_vacuum_that_is_told_to_run_inside(self, tmp_path: Path) -> None:
        write(tmp_path, V1__x="VACUUM t")
        (tmp_path / "V1__x.sql.conf").write_text("executeInTransaction=true")
        with pytest.raises(SpecError, match="PostgreSQL refuses VACUUM t"):
            pending_files(judge(read_folder(tmp_path), ()))

    def test_applied_pending_and_out_of_order(self, tmp_path: Path) -> None:
        folder = read_folder(write(tmp_path, V1__a="a", V2__b="b", V3__c="c", V4__d="d"))
        history = (row(1, "1", "a", "V1__a.sql", checksum("a")), row(2, "3", "c", "V3__c.sql", checksum("c")))
        found = judge(folder, history)
        assert [(each.script, each.state) for each in found.all] == [
            ("V1__a.sql", State.SUCCESS), ("V3__c.sql", State.SUCCESS),
            ("V2__b.sql", State.IGNORED), ("V4__d.sql", State.PENDING),
        ]  # fmt: skip
        assert [problem.what for problem in stops_migrate(found)] == [
            "V2__b.sql is not applied, and its version is below one that is."
        ]
        any_order = Settings(out_of_order=True)
        assert [each.script for each in judge(folder, history, any_order).pending()] == ["V2__b.sql", "V4__d.sql"]
        late = (*history, row(3, "2", "b", "V2__b.sql", checksum("b")))
        assert [each.script for each in judge(folder, late).all if each.state is State.OUT_OF_ORDER] == ["V2__b.sql"]

    def test_a_mismatch_says_what_was_applied(self, tmp_path: Path) -> None:
        found = judge(read_folder(write(tmp_path, V1__a="a")), (row(1, "1", "a", "V1__a.sql", 17),))
        (problem,) = validate(found)
        assert problem.code == "CHECKSUM_MISMATCH"
        assert problem.what == f"V1__a.sql is not what was run: its checksum is {checksum('a')}, and 17 was applied."
        with pytest.raises(SpecError, match=r"Flyway would refuse to migrate:\n  V1__a\.sql is not what was run"):
            refuse(stops_migrate(found))

    def test_a_failed_one_stops_all(self, tmp_path: Path) -> None:
        folder = read_folder(write(tmp_path, V1__a="a", V2__b="b"))
        found = judge(folder, (row(1, "1", "a", "V1__a.sql", checksum("a"), success=False),))
        assert [each.script for each in found.failed()] == ["V1__a.sql"]
        for settings in (Settings(), Settings(validate_on_migrate=False)):
            (problem,) = stops_migrate(found, settings)
            assert "failed outside a transaction" in problem.what

    def test_a_repeatable_one_runs_again_when_it_has_changed(self, tmp_path: Path) -> None:
        folder = read_folder(write(tmp_path, R__v="new"))
        history = (row(1, None, "v", "R__v.sql", 3), row(2, None, "v", "R__v.sql", 4))
        found = judge(folder, history)
        assert [each.state for each in found.all] == [State.SUPERSEDED, State.OUTDATED, State.PENDING]
        assert stops_migrate(found) == ()
        assert judge(folder, (*history, row(3, None, "v", "R__v.sql", checksum("new")))).pending() == ()

    def test_a_long_description_is_cut_like_the_tables(self, tmp_path: Path) -> None:
        words = "x" * 230
        folder = read_folder(write(tmp_path, **{f"V1__{words}": "a"}))
        assert validate(judge(folder, (row(1, "1", "x" * 197 + "...", "s", checksum("a")),))) == ()

    def test_a_target_that_is_not_there(self, tmp_path: Path) -> None:
        settings = Settings(target=version("2"))
        with pytest.raises(SpecError, match="No migration has the target's version 2"):
            judge(read_folder(write(tmp_path, V1__a="a")), (), settings)

    def test_patterns_that_flyway_does_not_know(self, tmp_path: Path) -> None:
        found = judge(read_folder(tmp_path), ())
        with pytest.raises(SpecError, match="'all:old' is not a pattern"):
            validate(found, Settings(ignore_migration_patterns=("all:old",)))

    def test_a_history_of_the_paid_editions(self) -> None:
        with pytest.raises(Unsupported, match="a history with a migration of the type UNDO_SQL"):
            row(1, "1", "a", "U1__a.sql", None, type="UNDO_SQL")

    def test_types_that_have_had_other_names(self) -> None:
        assert row(1, "1", "a", "a.A", None, type="SPRING_JDBC").type == "JDBC"


def test_the_lock_is_of_java_s_hash_of_the_quoted_name() -> None:
    assert lock_key(TableName("public", "flyway_schema_history")) == 77433833903597
    assert lock_key(TableName("", "")) == 77431708279161 + (((34 * 31 + 34) * 31 + 46) * 31 + 34) * 31 + 34


def test_a_folder_without_migrations_is_the_wrong_one(tmp_path: Path) -> None:
    done = (row(1, "1", "a", "V1__a.sql", checksum("a")),)
    with pytest.raises(SpecError, match="The folder has no migration of Flyway's"):
        pending_sequence(read_folder(write(tmp_path, readme="a")), done, TableName("public", "h"), Settings())


def test_a_file_that_is_switched_off_is_no_part_of_the_sequence(tmp_path: Path) -> None:
    folder = write(tmp_path, V1__a="a", V2__b="ALTER TABLE a ADD b int;", V3__c="DROP TABLE a;", R__d="SELECT 1;")
    for name in ("V3__c", "R__d"):
        (folder / f"{name}.sql.conf").write_text("shouldExecute=false")
    done = (row(1, "1", "a", "V1__a.sql", checksum("a")),)
    history, _ = pending_sequence(read_folder(folder), done, TableName("public", "h"), Settings())
    assert [file.script for file in history.files] == ["V2__b.sql"]


def test_the_step_of_the_rows_is_no_index_of_that_name() -> None:
    assert is_rows_step("switch/flyway")
    assert not is_rows_step("constrain/index/flyway")
    assert not is_rows_step("contract/validate/flyway")
