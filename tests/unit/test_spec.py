"""Specs: what is read, and how every mistake is told."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import jsonschema
import pytest
import yaml

from tasks.planning.errors import SpecError
from tasks.planning.flyway.settings import Settings
from tasks.planning.flyway.versions import parse_version
from tasks.planning.names import TableName
from tasks.planning.plan import FlywayFile, FlywayHistory
from tasks.planning.spec import LoadedSpec, json_schema, load, migration_name

EXAMPLE = Path(__file__).parents[2] / "examples" / "drink-water" / "intake-v2.yaml"
LEAST = "name: a\nchange: ALTER TABLE t ADD x int\n"


def refused(folder: Path, text: str, name: str = "spec.yaml") -> str:
    (folder / name).write_text(text)
    with pytest.raises(SpecError) as caught:
        load(folder / name)
    assert caught.value.exit_code == 2
    assert "pydantic" not in str(caught.value)
    assert "validation error" not in str(caught.value)
    return caught.value.what


def test_the_example_says_all_that_it_says() -> None:
    loaded = load(EXAMPLE)
    spec = loaded.spec
    assert (spec.name, spec.database) == ("intake-v2", "drink-water")
    assert [item.kind for item in loaded.statements()] == [
        "alter_table", "rename_column", "alter_table", "alter_table", "alter_table", "create_index",
    ]  # fmt: skip
    lines = EXAMPLE.read_text().splitlines()
    assert all(item.sql in lines[item.line - 1] for item in loaded.statements())
    mapping = spec.mappings()
    assert mapping[TableName("", "water_intake"), "recorded_at"].down == "recorded_at AT TIME ZONE 'UTC'"
    assert mapping[TableName("", "water_intake"), "volume_ml"].down_columns() == {
        "volume": "greatest(1, round(volume_ml))::int",
        "volume_unit": "'ML'",
    }
    assert spec.personal_columns() == ((TableName("", "users"), "email"),)
    assert spec.gates.rules["intake_volume"].where == "volume > 0 AND volume <= 10000"
    assert spec.gates.rules["intake_volume"].severity == "CRITICAL"
    assert spec.approvals == ("switch", "contract")
    assert spec.soak == timedelta(days=7)
    assert spec.window is not None
    assert spec.window.days == ("sat", "sun")
    assert loaded.folder == EXAMPLE.parent
    assert loaded.text == EXAMPLE.read_text()


def test_everything_but_name_and_change_is_optional(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(LEAST)
    spec = load(tmp_path / "a.yaml").spec
    assert spec.database is None
    assert spec.soak == timedelta(0)
    assert spec.approvals == ("switch", "contract")


def test_a_sql_file_is_a_spec(tmp_path: Path) -> None:
    (tmp_path / "V12__intake_v2.sql").write_bytes(b"\xef\xbb\xbfALTER TABLE t\r\nADD x int;\r\n")
    loaded = load(tmp_path / "V12__intake_v2.sql")
    assert loaded.spec.name == "intake-v2"
    assert loaded.spec.database is None
    assert [item.sql for item in loaded.statements()] == ["ALTER TABLE t\nADD x int"]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("V12__intake_v2.sql", "intake-v2"),
        ("V1.2_3__A b.sql", "a-b"),
        ("R__views.sql", "views"),
        ("plain.sql", "plain"),
    ],
)
def test_the_file_names_the_migration(file: str, name: str) -> None:
    assert migration_name(Path(file)) == name


def test_the_sql_may_be_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: a\nchange_file: V1__x.sql\n")
    (tmp_path / "V1__x.sql").write_text("\nALTER TABL t;\n")
    loaded = load(tmp_path / "a.yaml")
    assert "# ALTER TABL t;" in loaded.text
    assert yaml.safe_load(loaded.text) == {"name": "a", "change_file": "V1__x.sql"}
    with pytest.raises(SpecError, match=r"V1__x\.sql, line 2, column 7"):
        loaded.statements()


def test_a_syntax_error_in_the_change_is_told_in_lines_of_the_spec(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: a\nchange: |\n\n  ALTER TABL t;\n")
    with pytest.raises(SpecError, match=r"a\.yaml, line 4"):
        load(tmp_path / "a.yaml").statements()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "spec.yaml: a spec is a YAML mapping"),
        ("- a", "spec.yaml: a spec is a YAML mapping"),
        ("name: a\n\tchange: b", "spec.yaml, line 2, column 1: not YAML"),
        ("name: a\nname: b\nchange: x", "spec.yaml, line 2: the key 'name' is given twice."),
        ("name: &a [*a]", "spec.yaml, line 1: a spec may not use YAML aliases"),
        ("name: !!python/object:os.system a\nchange: x", "spec.yaml, line 1, column 7: not YAML"),
        ("change: x", "spec.yaml: the key 'name' is missing."),
        ("name: a", "spec.yaml: write either change"),
        (LEAST + "change_file: x", "spec.yaml: write either change"),
        (LEAST + "flyway: {folder: x}", "spec.yaml: write either change"),
        ("name: a\nflyway: {}", "spec.yaml, line 2: the key 'folder' is missing."),
        ("name: a\nflyway: {folder: x, shema: y}", "in flyway, unknown key 'shema'; did you mean 'schema'?"),
        ("name: a\nflyway: {folder: x, target: next}", "line 2: flyway.target: 'next' is not a version of Flyway's"),
        ("name: 12\nchange: x", "spec.yaml, line 1: name: must be text"),
        ("name: A B\nchange: x", "spec.yaml, line 1: name: a name has up to 63 lower-case letters"),
        ("name: a\nchange_file: no.sql", "spec.yaml, line 2: change_file no.sql: there is no such file."),
        (LEAST + "maping: {}", "spec.yaml, line 3: unknown key 'maping'; did you mean 'mapping'?"),
        (LEAST + "zzz: 1", "spec.yaml, line 3: unknown key 'zzz'; known keys: name, database, change,"),
        (LEAST + "mapping:\n  t.x: {upp: a}", "line 4: in mapping.t.x, unknown key 'upp'; did you mean 'up'?"),
        (LEAST + "mapping: {x: {up: a}}", "line 3: mapping.x: 'x' is not of the form table.column."),
        (LEAST + "mapping: {t.x: {}}", "line 3: mapping.t.x: a mapping needs up, down or both."),
        (LEAST + "mapping: {t.x: {down: {a: 3}}}", "line 3: mapping.t.x.down.a: must be text"),
        (LEAST + "mapping: {t.x: {down: [a]}}", "line 3: mapping.t.x.down: must be text"),
        (LEAST + "gates: {rules: {r: {table: t, were: a}}}", "unknown key 'were'; did you mean 'where'?"),
        (LEAST + "gates: {rules: {r: {table: t}}}", "line 3: the key 'where' is missing."),
        (LEAST + "gates: {rules: {r: {table: t, where: a, severity: BAD}}}", "'BAD' is not one of 'CRITICAL'"),
        (LEAST + "approvals: [swich]", "line 3: approvals.0: 'swich' is not one of 'expand'"),
        (LEAST + "soak: 7 fortnights", "line 3: soak: a duration is a number and a unit"),
        (LEAST + "soak: 5", "line 3: soak: a duration is a number and a unit"),
        (LEAST + "personal: users.email", "line 3: personal: must be a list"),
        (LEAST + "window: {days: [sa], start: '02:00', end: '05:00'}", "window.days.0: 'sa' is not one of 'mon'"),
        (LEAST + "window: {days: [], start: '02:00', end: '05:00'}", "window.days: must be a list"),
        (LEAST + "window: {days: [sat], start: 12:00, end: '05:00'}", "window.start: write the time in quotes"),
        (
            LEAST + "window: {days: [sat], start: '25:00', end: '05:00'}",
            'window.start: a time of day is written "HH:MM"',
        ),
        (LEAST + "window: {days: [sat], start: '02:00', end: '02:00'}", "window: start and end are the same"),
        (LEAST + "window: {days: [sat], start: '02:00', end: '03:00', timezone: Mars}", "window.timezone: no such"),
    ],
)
def test_mistakes_are_told_with_their_line(tmp_path: Path, text: str, message: str) -> None:
    assert message in refused(tmp_path, text)


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    told = refused(tmp_path, "name: A\nchange: x\nsoak: x\nfoo: 1\n").splitlines()
    assert len(told) == 3


def test_a_url_for_the_database_is_refused_without_repeating_it(tmp_path: Path) -> None:
    told = refused(tmp_path, LEAST + "database: postgresql://u:geheim@h/d\n")
    assert "never by a URL" in told
    assert "geheim" not in told


@pytest.mark.parametrize("name", ["spec.txt", "spec"])
def test_other_files_are_refused(tmp_path: Path, name: str) -> None:
    assert "a spec ends in" in refused(tmp_path, LEAST, name)


def test_missing_and_unreadable_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="there is no such file"):
        load(tmp_path / "no.yaml")
    (tmp_path / "latin.sql").write_bytes(b"-- gr\xf6\xdfe")
    with pytest.raises(SpecError, match="UTF-8"):
        load(tmp_path / "latin.sql")


def test_the_hash_is_of_the_meaning(tmp_path: Path) -> None:
    def digest(text: str) -> str:
        (tmp_path / "a.yaml").write_text(text)
        return load(tmp_path / "a.yaml").change_hash

    base = digest(LEAST)
    assert digest("name: a\nchange: |\n  -- why\n  ALTER TABLE t ADD x int ;\nsoak: 7d\napprovals: []\n") == base
    assert digest(LEAST.replace("x int", "y int")) != base
    assert digest(LEAST + "mapping: {t.x: {up: '1'}}") != base
    assert digest(LEAST + "personal: [t.x]") != base
    assert digest(LEAST + "gates: {suites: [a.yaml]}") != base


def test_the_hash_of_a_recorded_spec_is_what_it_was_when_it_was_recorded(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(LEAST)
    (tmp_path / "V1__x.sql").write_text("-- a word\nALTER TABLE t ADD x int;\nDROP TABLE y;")
    assert [load(path).change_hash for path in (EXAMPLE, tmp_path / "a.yaml", tmp_path / "V1__x.sql")] == [
        "203e8e00626c0d614cf82fb0f80f7dc7d463b3175a6740d24f6bb39661cb40b2",
        "1407c0433082024b33cb16a7c502f8fcaec407484ed263def4c2011023ee3991",
        "ade3df688b8e3a79abef3fe43863455c3dc7a6c749e2f2b8d6910db8593935f4",
    ]


class TestFlywayFolder:
    TEXT = "name: a\nflyway: {folder: sql, schema: app, table: done, placeholders: {A: b}, target: '1_2'}\n"
    FILES = tuple(FlywayFile(script=f"V{n}__x.sql", version=f"{n}", description="x", checksum=n) for n in (1, 2))
    HISTORY = FlywayHistory(table=TableName("app", "done"), last_rank=0, files=FILES)

    def loaded(self, folder: Path, *texts: str) -> LoadedSpec:
        (folder / "a.yaml").write_text(self.TEXT)
        return load(folder / "a.yaml").with_pending(self.HISTORY, texts)

    def test_it_is_read_as_flyway_s_settings(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text(self.TEXT)
        flyway = load(tmp_path / "a.yaml").spec.flyway
        assert flyway is not None
        assert flyway.settings() == Settings(
            default_schema="app", table="done", placeholders={"A": "b"}, target=parse_version("1.2")
        )
        jsonschema.validate(yaml.safe_load(self.TEXT), json.loads(json_schema()))

    def test_its_files_are_one_change_and_each_message_names_its_own(self, tmp_path: Path) -> None:
        first, second = "ALTER TABLE t ADD x int;", "\nALTER TABLE t ADD y int;\nALTER TABLE t ADD z int"
        loaded = self.loaded(tmp_path, first, second)
        assert [item.place() for item in loaded.statements()] == [
            "V1__x.sql, line 1", "V2__x.sql, line 2", "V2__x.sql, line 3",
        ]  # fmt: skip
        assert loaded.change == f"-- V1__x.sql\n{first}\n\n-- V2__x.sql\n{second}\n"
        assert yaml.safe_load(loaded.text) == yaml.safe_load(self.TEXT)
        assert "# V2__x.sql:\n" in loaded.text
        other = self.loaded(tmp_path, f"{first}\nALTER TABLE t ADD y int", "-- A word.\nALTER TABLE t ADD z int;")
        assert loaded.change_hash == other.change_hash, "of the statements alone"

    @pytest.mark.parametrize("text", ["\nBEGIN;", "\nALTER TABL t;"])
    def test_what_is_refused_is_told_with_file_and_line(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(SpecError, match=r"^V2__x\.sql, line 2"):
            self.loaded(tmp_path, "DROP TABLE t;", text).statements()


def test_names_are_folded_and_unquoted_as_postgresql_does(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(LEAST + "mapping: {'S.\"T.1\".X': {up: a, down: {'\"A\"': b}}}")
    (((table, column), mapping),) = load(tmp_path / "a.yaml").spec.mappings().items()
    assert (table, column) == (TableName("s", "T.1"), "x")
    assert mapping.down_columns() == {"A": "b"}


def test_the_json_schema_accepts_what_is_accepted() -> None:
    schema = json.loads(json_schema())
    jsonschema.validate(yaml.safe_load(EXAMPLE.read_text()), schema)
    jsonschema.validate(yaml.safe_load(LEAST + "soak: 0"), schema)
    for bad in (LEAST + "maping: {}", "name: a", LEAST + "change_file: b", LEAST + "flyway: {folder: b}"):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(yaml.safe_load(bad), schema)
