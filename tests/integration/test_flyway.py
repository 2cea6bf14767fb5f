"""Our reading of a Flyway folder and its history against the real Flyway's, on tricky files and histories."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tasks.database.connection import Target, connect
from tasks.database.flyway_history import judge_folder, read_history
from tasks.planning.errors import LockNotAcquired, MissingPrivilege, SpecError, Unsupported
from tasks.planning.flyway.folder import read_folder
from tasks.planning.flyway.history import Judgement, State
from tasks.planning.flyway.names import CALLBACKS
from tasks.planning.flyway.pending import pending_files
from tasks.planning.flyway.script_settings import ScriptSettings
from tasks.planning.flyway.settings import Settings
from tasks.planning.flyway.transactions import in_transaction
from tasks.planning.flyway.validation import stops_migrate, validate
from tasks.planning.flyway.versions import Version, parse_version
from tests.integration.real_flyway import FlywayFailed, RealFlyway, real_flyway

NO_WORD_OF_PENDING = ("*:future", "*:pending")

SESSION_LOCK = {"postgresql.transactional.lock": "false"}
"""By default Flyway holds its lock in a transaction, which also holds a snapshot: CONCURRENTLY waits for it forever."""


@pytest.fixture(scope="module")
def flyway() -> Iterator[RealFlyway]:
    with real_flyway() as running:
        yield running


def write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def judged(target: Target, folder: Path, settings: Settings) -> Judgement:
    with connect(target, role="test") as connection:
        return judge_folder(connection, read_folder(folder, settings=settings), settings)


def told(settings: Settings) -> dict[str, str]:
    """The settings as Flyway's own properties."""
    given = {
        "outOfOrder": str(settings.out_of_order).lower(),
        "mixed": str(settings.mixed).lower(),
        "executeInTransaction": str(settings.execute_in_transaction).lower(),
        "validateOnMigrate": str(settings.validate_on_migrate).lower(),
        "ignoreMigrationPatterns": ",".join(settings.ignore_migration_patterns),
        "table": settings.table,
        **SESSION_LOCK,
        **{f"placeholders.{name}": value for name, value in settings.placeholders.items()},
    }
    if settings.default_schema:
        given["defaultSchema"] = settings.default_schema
    if settings.target:
        given["target"] = settings.target.text
    return given


def agree(flyway: RealFlyway, target: Target, folder: Path, settings: Settings = Settings()) -> Judgement:  # noqa: B008
    """Compare everything: states in their order, checksums, what validate says, what would run and how."""
    ours = judged(target, folder, settings)
    assert [
        (
            each.state.name, each.version and each.version.text, each.description, each.type, each.script,
            each.applied and str(each.applied.rank),
            (each.applied and each.applied.checksum is not None and str(each.applied.checksum)) or None,
            each.migration and str(each.migration.checksum),
        )
        for each in ours.all
    ] == flyway("info", target, folder, **told(settings))  # fmt: skip
    for patterns in {settings.ignore_migration_patterns, NO_WORD_OF_PENDING, ("versioned:missing",), ("*:ignored",)}:
        chosen = replace(settings, ignore_migration_patterns=patterns)
        assert [
            (problem.code, problem.judged.version.text if problem.judged.version else "", problem.judged.description)
            for problem in validate(ours, chosen)
        ] == [tuple(each or "" for each in line) for line in flyway("validate", target, folder, **told(chosen))]
    would_run = [(each.script, str(each.in_transaction).lower()) for each in pending_files(ours, settings)]
    assert would_run == flyway("transactions", target, folder, **told(settings))
    return ours


def migrates(flyway: RealFlyway, target: Target, folder: Path, settings: Settings = Settings()) -> bool:  # noqa: B008
    """Let Flyway migrate; whether it did has to be what we said."""
    expected = not stops_migrate(judged(target, folder, settings), settings)
    try:
        flyway("migrate", target, folder, **told(settings))
    except FlywayFailed:
        assert not expected
    else:
        assert expected
    return expected


def versions(target: Target, folder: Path) -> set[Version | None]:
    return {each.version for each in judged(target, folder, Settings()).all}


def states(judgement: Judgement) -> dict[str, State]:
    return {each.script: each.state for each in judgement.all}


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
        except SpecError as error:
            ours = "refused" if "refuses to mix" in error.what else "true"
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


@pytest.mark.every_version
def test_a_history_with_everything_in_it(flyway: RealFlyway, database: Target, tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        {
            "V1__a.sql": "CREATE TABLE a (id int); INSERT INTO a VALUES (1), (1);",
            "V3__c.sql": "SELECT 3;",
            "V4__d.sql": "SELECT 4;",
            "V5__e.sql": "SELECT 5;",
            "R__v.sql": "CREATE OR REPLACE VIEW v AS SELECT 1 AS x;",
            "R__w.sql": "SELECT 1;",
        },
    )
    agree(flyway, database, folder)
    assert migrates(flyway, database, folder)
    assert agree(flyway, database, folder).pending() == ()

    # A file changed, one renamed, one gone; one that comes too late; repeatable ones changed and gone.
    write(folder, {"V1__a.sql": "CREATE TABLE a (id bigint);", "V2__b.sql": "SELECT 2;"})
    (folder / "V3__c.sql").rename(folder / "V3__other.sql")
    (folder / "V4__d.sql").unlink()
    (folder / "R__w.sql").unlink()
    write(folder, {"R__v.sql": "CREATE OR REPLACE VIEW v AS SELECT 2 AS x;"})
    found = states(agree(flyway, database, folder))
    assert found["V2__b.sql"] is State.IGNORED
    assert found["V4__d.sql"] is found["R__w.sql"] is State.MISSING_SUCCESS
    assert [each.script for each in judged(database, folder, Settings()).pending()] == ["R__v.sql"]
    codes = {problem.script: problem.code for problem in validate(judged(database, folder, Settings()))}
    assert codes["V1__a.sql"] == "CHECKSUM_MISMATCH"
    assert codes["V3__c.sql"] == "DESCRIPTION_MISMATCH"
    assert not migrates(flyway, database, folder)
    in_any_order = Settings(out_of_order=True)
    agree(flyway, database, folder, in_any_order)
    flyway("repair", database, folder)
    assert migrates(flyway, database, folder, in_any_order)
    found = states(agree(flyway, database, folder, in_any_order))
    assert found["V2__b.sql"] is State.OUT_OF_ORDER
    assert found["V4__d.sql"] is State.DELETED

    # A statement outside a transaction fails, and leaves its row.
    write(folder, {"V6__index.sql": "CREATE UNIQUE INDEX CONCURRENTLY u ON a (id);"})
    with pytest.raises(FlywayFailed, match="could not create unique index"):
        flyway("migrate", database, folder)
    # With the lock in a transaction, the row about the failure is rolled back with it: Flyway does not know of it.
    assert agree(flyway, database, folder).failed() == ()
    with pytest.raises(FlywayFailed, match="already exists"):
        flyway("migrate", database, folder, **SESSION_LOCK)
    broken = agree(flyway, database, folder)
    assert [each.script for each in broken.failed()] == ["V6__index.sql"]
    assert not migrates(flyway, database, folder)
    flyway("repair", database, folder)
    assert [each.script for each in agree(flyway, database, folder).pending()] == ["V6__index.sql"]


def test_baselines(flyway: RealFlyway, database: Target, tmp_path: Path) -> None:
    folder = write(tmp_path, {f"V{n}__x.sql": "SELECT 1;" for n in range(1, 6)} | {"B3__sum.sql": "SELECT 3;"})
    assert [each.script for each in agree(flyway, database, folder).pending()] == [
        "B3__sum.sql", "V4__x.sql", "V5__x.sql",
    ]  # fmt: skip
    flyway("baseline", database, folder, baselineVersion="2")
    found = states(agree(flyway, database, folder))
    assert found["V1__x.sql"] is State.BELOW_BASELINE
    assert found["V2__x.sql"] is State.BASELINE_IGNORED
    agree(flyway, database, folder, Settings(target=parse_version("3")))
    assert migrates(flyway, database, folder)
    agree(flyway, database, folder)


def test_a_new_database_begins_with_the_baseline(flyway: RealFlyway, database: Target, tmp_path: Path) -> None:
    folder = write(tmp_path, {"B3__sum.sql": "SELECT 3;", "V2__x.sql": "SELECT 2;", "V4__x.sql": "SELECT 4;"})
    assert migrates(flyway, database, folder)
    assert states(agree(flyway, database, folder))["B3__sum.sql"] is State.BASELINE
    write(folder, {"B5__later.sql": "SELECT 5;", "V5__x.sql": "SELECT 5;"})
    assert states(agree(flyway, database, folder))["B5__later.sql"] is State.IGNORED


def test_any_name_of_schema_and_table(flyway: RealFlyway, database: Target, tmp_path: Path) -> None:
    settings = Settings(default_schema='Odd "schema', table="Odd history's")
    folder = write(tmp_path, {"V1__a.sql": "CREATE TABLE a (id int);"})
    assert judged(database, folder, settings).all[0].state is State.PENDING
    assert migrates(flyway, database, folder, settings)
    # The row about the schema that Flyway made is one of the history's.
    assert [each.type for each in agree(flyway, database, folder, settings).all] == ["SCHEMA", "SQL"]


@pytest.mark.parametrize("seed", range(2))
def test_random_histories(flyway: RealFlyway, database: Target, tmp_path: Path, seed: int) -> None:
    """Files come, change and go between runs of Flyway: whatever comes of it, both tell the same."""
    chance = random.Random(seed)
    names = [f"V{n}__x.sql" for n in ("1", "2", "2.1", "3", "4", "10")] + [
        "R__a.sql",
        "R__b.sql",
        "B2__b.sql",
        "B4__b.sql",
    ]
    for _ in range(10):
        settings = Settings(
            out_of_order=chance.random() < 0.3, validate_on_migrate=chance.random() < 0.5,
            target=parse_version("3") if chance.random() < 0.2 else None,
        )  # fmt: skip
        for name in chance.sample(names, 2):
            if (tmp_path / name).exists() and chance.random() < 0.4:
                (tmp_path / name).unlink()
            else:
                # A failure outside a transaction stays; most succeed.
                text = chance.choice(["SELECT 1;", "SELECT 1;", "SELECT 2;", "DROP INDEX CONCURRENTLY not_there;"])
                write(tmp_path, {name: text})
        if settings.target not in (None, *versions(database, tmp_path)):
            with pytest.raises(SpecError, match="No migration has the target's version 3"):
                judged(database, tmp_path, settings)
            with pytest.raises(FlywayFailed, match="No migration with a target version 3"):
                flyway("info", database, tmp_path, **told(settings))
            continue
        agree(flyway, database, tmp_path, settings)
        match chance.choice(["migrate", "migrate", "repair", "nothing"]):
            case "migrate":
                fails = any("not_there" in each.text for each in judged(database, tmp_path, settings).pending())
                if fails:
                    with pytest.raises(FlywayFailed):
                        flyway("migrate", database, tmp_path, **told(settings))
                else:
                    migrates(flyway, database, tmp_path, settings)
            case "repair":
                flyway("repair", database, tmp_path, **told(settings))
        agree(flyway, database, tmp_path, settings)


HISTORY = """
CREATE TABLE flyway_schema_history (
    installed_rank int PRIMARY KEY, version varchar(50), description varchar(200) NOT NULL, type varchar(20) NOT NULL,
    script varchar(1000) NOT NULL, checksum int, installed_by varchar(100) NOT NULL,
    installed_on timestamp NOT NULL DEFAULT now(), execution_time int NOT NULL, success boolean NOT NULL)
"""
ROW = "INSERT INTO flyway_schema_history VALUES (1, %s, 'a', %s, 'V1__a.sql', 1, 'x', now(), 1, true)"


@pytest.fixture
def history(database: Target) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """An open connection to a database with an empty history."""
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        connection.execute(HISTORY)
        yield connection


def read(target: Target) -> object:
    with connect(target, role="test") as connection:
        return read_history(connection, Settings())


def test_no_table_and_an_empty_one_are_told_apart(database: Target) -> None:
    assert read(database) is None
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        connection.execute(HISTORY)
    assert read(database) == ()


def test_the_first_schema_of_the_search_path_is_the_one(
    history: psycopg.Connection[tuple[object, ...]], database: Target
) -> None:
    history.execute(sql.SQL("ALTER DATABASE {} SET search_path = nowhere, app").format(sql.Identifier(database.name)))
    history.execute("CREATE SCHEMA app")
    with pytest.raises(SpecError, match=r"has no table flyway_schema_history, but this one has: public\."):
        read(database)
    history.execute("ALTER TABLE flyway_schema_history SET SCHEMA app")
    assert read(database) == ()


def test_a_role_that_may_not_read_the_history_is_told_what_to_grant(
    history: psycopg.Connection[tuple[object, ...]],
) -> None:
    with history.transaction(force_rollback=True):
        history.execute("CREATE ROLE flyway_reader; SET LOCAL ROLE flyway_reader")
        with pytest.raises(MissingPrivilege) as caught:
            read_history(history, Settings())
    assert caught.value.grant.startswith('GRANT USAGE ON SCHEMA "public" TO')
    assert 'GRANT SELECT ON "public"."flyway_schema_history"' in caught.value.grant


def test_a_locked_history_is_not_waited_for_long(
    history: psycopg.Connection[tuple[object, ...]], database: Target
) -> None:
    with history.transaction():
        history.execute("LOCK TABLE flyway_schema_history")
        with pytest.raises(LockNotAcquired, match="is locked by another session"):
            read(database)


@pytest.mark.parametrize(
    ("version", "kind", "error", "said"),
    [
        ("1", "UNDO_SQL", Unsupported, "a history with a migration of the type UNDO_SQL"),
        ("one", "SQL", SpecError, "whose version 'one' is not one"),
    ],
)
def test_rows_that_flyway_cannot_read_either(
    flyway: RealFlyway,
    history: psycopg.Connection[tuple[object, ...]],
    database: Target,
    tmp_path: Path,
    version: str,
    kind: str,
    error: type[Exception],
    said: str,
) -> None:
    history.execute(ROW, (version, kind))
    with pytest.raises(error, match=said):
        read(database)
    with pytest.raises(FlywayFailed):
        flyway("info", database, tmp_path)


def test_a_table_that_is_not_flyways(database: Target) -> None:
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        connection.execute("CREATE TABLE flyway_schema_history (installed_rank int)")
    with pytest.raises(SpecError, match="is not a history of Flyway's: it has no column version"):
        read(database)


def test_reading_writes_nothing_and_takes_no_lock_of_flyways(
    history: psycopg.Connection[tuple[object, ...]], database: Target
) -> None:
    before = history.execute("SELECT xmin::text, * FROM flyway_schema_history").fetchall()
    with connect(database, role="test") as connection, connection.transaction():
        read_history(connection, Settings())
        held = history.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone()
        assert connection.execute("SELECT pg_current_xact_id_if_assigned()").fetchone() == (None,)
    assert held == (0,)
    assert history.execute("SELECT xmin::text, * FROM flyway_schema_history").fetchall() == before


def test_classes_of_the_application_are_taken_for_unchanged(
    history: psycopg.Connection[tuple[object, ...]], database: Target, tmp_path: Path
) -> None:
    history.execute(ROW, ("1", "JDBC"))
    write(tmp_path, {"V2__b.sql": "SELECT 2;"})
    found = judged(database, tmp_path, Settings())
    assert [each.state for each in found.all] == [State.SUCCESS, State.PENDING]
    assert stops_migrate(found) == ()
