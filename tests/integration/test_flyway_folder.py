"""A folder of Flyway's, read by us and by the real Flyway: names, checksums, settings of a file, placeholders."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tasks.database.connection import Target
from tasks.planning.errors import SpecError, Unsupported
from tasks.planning.flyway.folder import read_folder
from tasks.planning.flyway.history import State
from tasks.planning.flyway.names import CALLBACKS
from tasks.planning.flyway.pending import pending_files
from tasks.planning.flyway.settings import Settings
from tests.integration.beside_flyway import (
    agree,
    judged,
    migrates,
    states,
    write,
)
from tests.integration.real_flyway import FlywayFailed, RealFlyway


def test_every_callback_has_the_name_that_flyway_gives_it(flyway: RealFlyway) -> None:
    assert {name for (name,) in flyway.ask("events")} == CALLBACKS


TRICKY_NAMES: dict[str, str | bytes] = {
    "V1.sql": "CREATE TABLE a (id int);",
    "V002__lower_and_Upper.SQL": "SELECT 2;",
    "V1_001__stored_with_zeros.sql": "SELECT 1;",
    "V1.10__after_1_2.sql": "SELECT 1;",
    "V1_2__two__separators.sql": "SELECT 1;",
    "V20240131120000__stamp.sql": "SELECT 1;",
    "V99999999999999999999__longer_than_64_bits.sql": "SELECT 1;",
    "V3___third_underscore.sql": "SELECT 1;",
    "V4__.sql": "SELECT 1;",
    "V5_0_0__zeros.sql": "SELECT 1;",
    "deep/er/V6__below.sql": "SELECT 1;",
    ".hidden/V7__not_seen.sql": "SELECT 1;",
    "V-1__negative.sql": "SELECT 1;",
    "V+8__plus.sql": "SELECT 1;",
    "V8.5__Größe_ändern.sql": "SELECT 'Größe';",
    "R__view.sql": "SELECT 1;",
    "R__.sql": "SELECT 1;",
    "R.sql": "SELECT 1;",
    "V.sql": "SELECT 1;",
    "R__Another_view.sql": "SELECT 1;",
    "R1__versioned_repeatable.sql": "SELECT 1;",
    "v9__lower.sql": "SELECT 1;",
    "U1__undo.sql": "SELECT 1;",
    "V__no_version.sql": "SELECT 1;",
    "V1a__letters.sql": "SELECT 1;",
    "V1..2__two_dots.sql": "SELECT 1;",
    "V1.__dot_at_end.sql": "SELECT 1;",
    "V 1__space.sql": "SELECT 1;",
    "README.sql": "SELECT 1;",
    "README": "no SQL",
    "Vagrantfile": "no SQL",
    "V10__text.txt": "no SQL",
    "beforeMigrate.sql": "SELECT 1;",
    "afterEachMigrateStatement__named.sql": "SELECT 1;",
    "afterMigrateX.sql": "SELECT 1;",
    "V11__program.sh": "true",
}


def test_names_versions_and_their_order(flyway: RealFlyway, database: Target, tmp_path: Path) -> None:
    folder = write(tmp_path, {name: text for name, text in TRICKY_NAMES.items() if not name.startswith("V11")})
    first = agree(flyway, database, folder)
    assert [str(each.version) for each in first.pending() if each.version][:4] == ["-1", "1", "1.001", "1.2"]
    assert migrates(flyway, database, folder)
    assert set(states(agree(flyway, database, folder)).values()) == {State.SUCCESS}
    with psycopg.connect(database.conninfo) as connection:
        stored = connection.execute("SELECT version FROM flyway_schema_history WHERE version LIKE '1.0%'").fetchall()
    assert stored == [("1.001",)]


def test_programs_are_seen_and_refused(flyway: RealFlyway, database: Target, tmp_path: Path) -> None:
    folder = write(tmp_path, {name: TRICKY_NAMES[name] for name in ("V1.sql", "V11__program.sh")})
    with pytest.raises(Unsupported, match=r"V11__program\.sh, a migration that is a program"):
        agree(flyway, database, folder)
    assert [each.type for each in judged(database, folder, Settings()).pending()] == ["SQL", "SCRIPT"]


TRICKY_BYTES: dict[str, str | bytes] = {
    "V1__plain.sql": "CREATE TABLE a (id int);",
    "V2__mark.sql": "\ufeffSELECT 1;\nSELECT 2;\n",
    "V3__two_marks.sql": "\ufeff\ufeffSELECT 1;",
    "V4__mark_on_line_two.sql": "\n\ufeffSELECT 1;\n",
    "R__two_marks.sql": "\ufeff\ufeffSELECT 1;",
    "V5__crlf.sql": "SELECT 1;\r\nSELECT 2;\r\n",
    "V6__cr.sql": "SELECT 1;\rSELECT 2;",
    "V7__blank_lines.sql": "\n\n\nSELECT 1;\n\n\n",
    "V8__other_line_ends.sql": "SELECT 'a\u2028b\u0085c\x0bd\x0ce\x1cf';\n",
    "V9__latin.sql": "SELECT 'Größe';".encode("latin-1"),
    "V9__latin.sql.conf": "encoding=ISO-8859-1\n",
    "V10__empty.sql": "",
    "V11__only_mark.sql": "\ufeff",
    "V12__astral.sql": "SELECT '\U0001f600 ÿ';",
    "V13__comment.sql": "-- nothing but a comment",
}


def test_checksums(flyway: RealFlyway, database: Target, tmp_path: Path) -> None:
    folder = write(tmp_path, TRICKY_BYTES)
    first = agree(flyway, database, folder)
    assert first.all[0].migration is not None
    assert first.all[0].migration.checksum == -623083431
    (folder / "V3__two_marks.sql").unlink()  # PostgreSQL takes the second mark for a word
    (folder / "R__two_marks.sql").unlink()
    (folder / "V4__mark_on_line_two.sql").unlink()
    assert migrates(flyway, database, folder)
    assert set(states(agree(flyway, database, folder)).values()) == {State.SUCCESS}


def test_text_in_another_encoding_is_refused_as_by_flyway(flyway: RealFlyway, database: Target, tmp_path: Path) -> None:
    folder = write(tmp_path, {"V1__latin.sql": "SELECT 1;\nSELECT 'Größe';".encode("latin-1")})
    with pytest.raises(SpecError, match=r"V1__latin\.sql, line 2: is not UTF-8 \(byte 20\)"):
        read_folder(folder)
    with pytest.raises(FlywayFailed, match="Unable to calculate checksum"):
        flyway("info", database, folder)


@pytest.mark.parametrize(
    "names",
    [
        ("V1__a.sql", "V1.0__b.sql"),
        ("V001__a.sql", "V1__a.sql"),
        ("R__a.sql", "b/R__a.sql"),
        ("R__a_b.sql", "R__a b.sql"),
        ("V1__a.sql", "V1__a.sh"),
        ("B1__a.sql", "B1_0__b.sql"),
    ],
)
def test_duplicates_are_refused_as_by_flyway(
    flyway: RealFlyway, database: Target, tmp_path: Path, names: tuple[str, ...]
) -> None:
    folder = write(tmp_path, dict.fromkeys(names, "SELECT 1;"))
    with pytest.raises(SpecError, match="Two files have"):
        read_folder(folder)
    with pytest.raises(FlywayFailed, match="Found more than one"):
        flyway("info", database, folder)


def test_script_configurations_that_flyway_refuses(flyway: RealFlyway, database: Target, tmp_path: Path) -> None:
    folder = write(tmp_path, {"V1__x.sql": "SELECT 1;"})
    for text in ("flyway.executeInTransaction=false", "executeInTransaction=no", "color=red"):
        write(folder, {"V1__x.sql.conf": text})
        with pytest.raises(SpecError):
            read_folder(folder)
        with pytest.raises(FlywayFailed):
            flyway("info", database, folder)


def test_placeholders(flyway: RealFlyway, database: Target, tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        {
            "V1__t.sql": "CREATE TABLE ${Prefix}_t (id int); -- ${filler}$${prefix}\n",
            "R__v.sql": "CREATE OR REPLACE VIEW v AS SELECT 'in ${FLYWAY:filename} of ${flyway:table}' AS x;",
            "R__.sql": "SELECT '${flyway:filename}'",
            "R__raw.sql": "DO $$ BEGIN PERFORM '${not this}'; END $$;",
            "R__raw.sql.conf": "placeholderReplacement=false",
        },
    )
    settings = Settings(placeholders={"prefix": "${app}", "FILLER": ""})
    before = agree(flyway, database, folder, settings)
    assert pending_files(before, settings)[0].text == "CREATE TABLE ${app}_t (id int); -- $${app}\n"
    settings = Settings(placeholders={"prefix": "app", "FILLER": ""})
    assert migrates(flyway, database, folder, settings)
    agree(flyway, database, folder, settings)
    # Another value is another text, and only a repeatable migration minds.
    changed = Settings(placeholders={"prefix": "lib", "FILLER": ""})
    assert agree(flyway, database, folder, changed).pending() == ()


def test_placeholders_without_a_value_are_refused_as_by_flyway(
    flyway: RealFlyway, database: Target, tmp_path: Path
) -> None:
    folder = write(tmp_path, {"V1__t.sql": "SELECT 1;\n  SELECT ${missing};"})
    with pytest.raises(SpecError, match=r"V1__t\.sql, line 2, column 10: the placeholder \$\{missing\} has no value"):
        pending_files(judged(database, folder, Settings()))
    with pytest.raises(FlywayFailed, match="No value provided for placeholder"):
        flyway("migrate", database, folder)
    write(folder, {"V1__t.sql": "SELECT 1;", "R__v.sql": "SELECT ${missing};"})
    with pytest.raises(SpecError, match="has no value"):
        read_folder(folder)
    with pytest.raises(FlywayFailed, match="No value provided for placeholder"):
        flyway("info", database, folder)
