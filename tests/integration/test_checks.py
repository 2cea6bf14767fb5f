"""Every kind of check against a real server: it holds on sound data, and an injected fault makes it fail by name."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from typing import Any, NamedTuple

import psycopg
import pytest

from tasks.database.catalog import snapshot
from tasks.database.connection import Target
from tasks.planning.catalog import Column, Constraint, Table
from tasks.planning.checks.aggregates import aggregates, row_count
from tasks.planning.checks.parity import parity
from tasks.planning.checks.references import orphans
from tasks.planning.checks.rules import evaluates, not_null, rule
from tasks.planning.checks.sync import DOWN_BITS, old_writers, sync_conflicts, sync_failures, unfilled, unheld
from tasks.planning.checks.uniqueness import UniqueKey, duplicates, unique_key, unique_keys
from tasks.planning.checks.validity import constraint_validity, index_validity, schema
from tasks.planning.names import TableName
from tasks.planning.plan import Assignment, Check, MappedGroup
from tests.conftest import CANARY, INTAKES

Connection = psycopg.Connection[Any]

INTAKE = TableName("public", "water_intake")
UP = "CASE volume_unit WHEN 'OZ' THEN volume * 29.5735 ELSE volume END"
VOLUME = MappedGroup(
    table=INTAKE,
    old=("volume", "volume_unit"),
    new=("volume_ml",),
    up=(Assignment(column="volume_ml", expression=UP),),
    down=(
        Assignment(column="volume", expression="greatest(1, round(volume_ml))::int"),
        Assignment(column="volume_unit", expression="'ML'"),
    ),
    bits=12,
)
RECORDED = MappedGroup(
    table=INTAKE,
    old=("date_time_utc",),
    new=("recorded_at",),
    up=(Assignment(column="recorded_at", expression="date_time_utc AT TIME ZONE 'UTC'"),),
    down=(Assignment(column="date_time_utc", expression="recorded_at AT TIME ZONE 'UTC'"),),
    bits=3,
)

EXPAND = f"""
ALTER TABLE water_intake ADD COLUMN volume_ml numeric(8,2), ADD COLUMN recorded_at timestamptz,
  ADD COLUMN lockstep_pending integer NOT NULL DEFAULT 5;
UPDATE water_intake SET volume_ml = {UP}, recorded_at = date_time_utc AT TIME ZONE 'UTC', lockstep_pending = 0;
"""
LEDGER = """
CREATE SCHEMA lockstep;
CREATE TABLE lockstep.sync_failure (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, migration text,
  table_name text, key text, sqlstate text, direction text, kind text, resolved_at timestamptz);
CREATE TABLE lockstep.old_write (migration text, table_name text, pid int, application_name text, role_name text,
  last_at timestamptz, PRIMARY KEY (migration, table_name, pid));
"""


class Found(NamedTuple):
    failing: int
    evaluated: int
    sample: list[str]
    observed: dict[str, str]


def evaluate(connection: Connection, check: Check) -> Found:
    """Run a check as the gate does: as bytes, in a read-only transaction."""
    with connection.transaction():
        connection.execute("SET TRANSACTION READ ONLY")
        rows = connection.execute(check.sql.encode()).fetchall()
    assert len(rows) == 1
    found = Found(*rows[0])
    assert all(isinstance(key, str) for key in found.sample)
    return found


def table(connection: Connection, name: str) -> Table:
    found = snapshot(connection).table(TableName("public", name))
    assert found is not None
    return found


def constraint(owner: Table, name: str) -> Constraint:
    return next(item for item in owner.constraints if item.name == name)


@pytest.fixture
def plain(database: Target) -> Iterator[Connection]:
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        yield connection


@pytest.fixture
def old(drink_water: Target) -> Iterator[Connection]:
    """The drink-water database before anything was changed."""
    with psycopg.connect(drink_water.conninfo, autocommit=True) as connection:
        yield connection


@pytest.fixture
def both(old: Connection) -> Connection:
    """The drink-water database with both shapes, all rows in step, and an empty ledger."""
    old.execute(EXPAND.encode())
    old.execute(LEDGER.encode())
    return old


class TestOrphans:
    def test_counts_and_names_rows_of_a_constraint_that_is_not_valid(self, old: Connection) -> None:
        key = constraint(table(old, "water_intake"), "water_intake_user_id_fkey")
        check = orphans(key, table(old, "water_intake"))
        assert evaluate(old, check) == Found(0, INTAKES, [], {})
        old.execute("ALTER TABLE water_intake DROP CONSTRAINT water_intake_user_id_fkey")
        old.execute("UPDATE water_intake SET user_id = 9999 WHERE id IN (3, 20)")
        assert evaluate(old, check) == Found(2, INTAKES, ["[3]", "[20]"], {})

    @pytest.mark.parametrize(("match", "expected"), [("SIMPLE", ["[2]"]), ("FULL", ["[2]", "[3]"])])
    def test_a_null_counts_as_the_match_type_says(self, plain: Connection, match: str, expected: list[str]) -> None:
        plain.execute("CREATE TABLE a (x int, y int, PRIMARY KEY (x, y)); INSERT INTO a VALUES (1, 1)")
        plain.execute("CREATE TABLE b (id int PRIMARY KEY, x int, y int)")
        plain.execute("INSERT INTO b VALUES (1, 1, 1), (2, 1, 2), (3, 1, NULL), (4, NULL, NULL)")
        plain.execute(
            f"ALTER TABLE b ADD CONSTRAINT f FOREIGN KEY (x, y) REFERENCES a MATCH {match} NOT VALID".encode()
        )
        owner = table(plain, "b")
        found = evaluate(plain, orphans(constraint(owner, "f"), owner))
        assert found == Found(len(expected), 4, expected, {})

    def test_a_table_may_refer_to_itself(self, plain: Connection) -> None:
        plain.execute('CREATE TABLE "T x" (id int PRIMARY KEY, "Parent" int REFERENCES "T x")')
        plain.execute('INSERT INTO "T x" VALUES (1, NULL), (2, 1)')
        owner = table(plain, "T x")
        key = next(item for item in owner.constraints if item.kind == "foreign_key")
        assert evaluate(plain, orphans(key, owner)).failing == 0
        assert evaluate(plain, orphans(key, owner, projected={"Parent": "id + 1"})).sample == ["[2]"]


class TestDuplicates:
    def test_of_a_key_to_come_are_found_by_projecting_the_old_shape(self, old: Connection) -> None:
        owner = table(old, "water_intake")
        key = UniqueKey("to_come", ("user_id", "recorded_at"))
        check = duplicates(owner, key, projected={"recorded_at": "date_trunc('hour', date_time_utc)"})
        sound = duplicates(owner, key, projected={"recorded_at": "date_time_utc AT TIME ZONE 'UTC'"})
        assert evaluate(old, sound) == Found(0, INTAKES, [], {})
        old.execute("UPDATE water_intake SET date_time_utc = '2020-02-02 00:01' WHERE id = 7")
        old.execute("UPDATE water_intake SET user_id = (SELECT user_id FROM water_intake WHERE id = 7) WHERE id = 9")
        old.execute("UPDATE water_intake SET date_time_utc = '2020-02-02 00:02' WHERE id = 9")
        assert evaluate(old, check) == Found(2, INTAKES, ["[7]", "[9]"], {})

    def test_of_present_keys_are_looked_for_in_the_table(self, old: Connection) -> None:
        old.execute("CREATE UNIQUE INDEX lower_email ON users (lower(email)) WHERE id > 1")
        owner = table(old, "users")
        checks = {key.name: duplicates(owner, key) for key in unique_keys(owner)}
        assert set(checks) == {"users_pkey", "users_public_id_key", "users_email_key", "lower_email"}
        assert all(evaluate(old, check).failing == 0 for check in checks.values())
        old.execute("ALTER TABLE users DROP CONSTRAINT users_email_key")
        old.execute("DROP INDEX lower_email")
        old.execute("UPDATE users SET email = 'A@b' WHERE id IN (1, 2); UPDATE users SET email = 'a@b' WHERE id = 3")
        assert evaluate(old, checks["users_email_key"]).sample == ["[1]", "[2]"]
        assert evaluate(old, checks["lower_email"]) == Found(2, 49, ["[2]", "[3]"], {})

    @pytest.mark.parametrize(("nulls_not_distinct", "failing"), [(False, 0), (True, 2)])
    def test_nulls_are_equal_only_where_the_key_says_so(
        self, plain: Connection, nulls_not_distinct: bool, failing: int
    ) -> None:
        plain.execute("CREATE TABLE t (id int PRIMARY KEY, a int); INSERT INTO t VALUES (1, NULL), (2, NULL), (3, 3)")
        key = UniqueKey("k", ("a",), nulls_not_distinct=nulls_not_distinct)
        assert evaluate(plain, duplicates(table(plain, "t"), key)).failing == failing

    @pytest.mark.needs_major(15)
    def test_nulls_not_distinct_is_read_from_the_definition(self, plain: Connection) -> None:
        plain.execute("CREATE TABLE t (a int, b int, UNIQUE NULLS NOT DISTINCT (a))")
        plain.execute("CREATE UNIQUE INDEX i ON t (b) INCLUDE (a) NULLS NOT DISTINCT WHERE a > 0")
        owner = table(plain, "t")
        assert [key.nulls_not_distinct for key in unique_keys(owner)] == [True, True]
        assert unique_key(next(index for index in owner.indexes if index.name == "i")).terms == ("b",)


class TestRules:
    def test_a_broken_rule_names_its_rows(self, old: Connection) -> None:
        check = rule("intake_volume", table(old, "water_intake"), "volume > 0 AND volume <= 10000 AND volume % 1 = 0")
        assert evaluate(old, check) == Found(0, INTAKES, [], {})
        old.execute("UPDATE water_intake SET volume = 10001 WHERE id = 42")
        assert evaluate(old, check) == Found(1, INTAKES, ["[42]"], {})

    def test_unknown_is_not_true(self, plain: Connection) -> None:
        plain.execute("CREATE TABLE t (id int PRIMARY KEY, a int); INSERT INTO t VALUES (1, NULL), (2, 5)")
        owner = table(plain, "t")
        assert evaluate(plain, rule("r", owner, "a > 1")).sample == ["[1]"]
        assert evaluate(plain, rule("r", owner, "(a > 1) IS NOT FALSE")).failing == 0

    def test_not_null_of_a_column_to_come(self, old: Connection) -> None:
        check = not_null(table(old, "water_intake"), "volume_ml", projected={"volume_ml": f"nullif({UP}, 77)"})
        before = evaluate(old, check).failing
        old.execute("UPDATE water_intake SET volume = 77, volume_unit = 'ML' WHERE id = 5")
        assert evaluate(old, check).failing == before + 1
        assert "[5]" in evaluate(old, check).sample

    def test_an_expression_that_raises_makes_the_check_raise(self, old: Connection) -> None:
        sound = evaluates(table(old, "water_intake"), {"volume_ml": UP})
        assert evaluate(old, sound) == Found(0, INTAKES, [], {"values": str(INTAKES)})
        old.execute("UPDATE water_intake SET volume = 77, volume_unit = 'ML' WHERE id = 5")
        raising = evaluates(table(old, "water_intake"), {"volume_ml": "1 / (volume - 77)"})
        with pytest.raises(psycopg.errors.DivisionByZero):
            evaluate(old, raising)


@pytest.mark.every_version
class TestUnheld:
    def test_only_what_down_could_not_take_counts(self, both: Connection) -> None:
        check = unheld(table(both, "water_intake"))
        assert check.severity == "WARNING"
        assert evaluate(both, check) == Found(0, INTAKES, [], {})
        both.execute(
            "UPDATE water_intake SET lockstep_pending = CASE id WHEN 7 THEN 8 WHEN 9 THEN 2 ELSE 4 END"
            " WHERE id IN (7, 8, 9)"
        )
        assert evaluate(both, check) == Found(2, INTAKES, ["[7]", "[9]"], {})

    def test_a_marked_row_is_left_out_of_parity_only_by_its_own_kind_of_mark(self, both: Connection) -> None:
        at = table(both, "water_intake")
        both.execute("UPDATE water_intake SET volume_ml = 900000, lockstep_pending = 8 WHERE id = 7")
        both.execute("UPDATE water_intake SET volume_ml = NULL, lockstep_pending = 4 WHERE id = 8")
        found = evaluate(both, parity(VOLUME, at, left_out=DOWN_BITS))
        assert (found.failing, found.sample) == (1, ["[8]"])
        assert evaluate(both, parity(VOLUME, at)).sample == ["[7]", "[8]"]


@pytest.mark.every_version
class TestSchema:
    @pytest.mark.parametrize(
        ("fault", "named"),
        [
            ("ADD COLUMN foreign_one int", "foreign_one"),
            ("DROP COLUMN created_at", "created_at"),
            ("ALTER COLUMN volume TYPE bigint", "volume"),
            ("RENAME COLUMN volume_unit TO unit", "unit"),
        ],
    )
    def test_a_column_that_is_not_as_planned_is_named(self, old: Connection, fault: str, named: str) -> None:
        check = schema(table(old, "water_intake"))
        assert evaluate(old, check).failing == 0
        old.execute(f"ALTER TABLE water_intake {fault}".encode())
        found = evaluate(old, check)
        assert named in found.sample
        assert found.failing == len(found.sample) == (2 if "RENAME" in fault else 1)


@pytest.mark.every_version
class TestParity:
    def test_one_changed_and_one_pending_row_fail_by_name(self, both: Connection) -> None:
        check = parity(VOLUME, table(both, "water_intake"))
        sound = evaluate(both, check)
        assert (sound.failing, sound.evaluated, sound.sample) == (0, INTAKES, [])
        assert sound.observed["ranges that differ"] == "0"
        assert sound.observed["checksum expected"] == sound.observed["checksum found"] != "0"
        both.execute("UPDATE water_intake SET volume_ml = volume_ml + 1 WHERE id = 11")
        both.execute("UPDATE water_intake SET lockstep_pending = 8 WHERE id = 12")
        found = evaluate(both, check)
        assert (found.failing, found.sample, found.observed["pending"]) == (2, ["[11]", "[12]"], "1")
        assert found.observed["checksum expected"] != found.observed["checksum found"]

    def test_one_row_lost_and_one_added_without_the_trigger_fails(self, both: Connection) -> None:
        check = parity(VOLUME, table(both, "water_intake"))
        both.execute("DELETE FROM water_intake WHERE id = 1")
        both.execute(
            "INSERT INTO water_intake (user_id, date_time_utc, volume, volume_unit) VALUES (1, '2020-01-01', 5, 'ML')"
        )
        found = evaluate(both, check)
        assert (found.failing, found.evaluated) == (1, INTAKES)

    def test_what_down_rounded_may_be_more_than_up_can_take(self, both: Connection) -> None:
        """A value that the new application wrote: `up` of what became of it overflows numeric(8,2)."""
        both.execute("UPDATE water_intake SET volume_ml = 999999.99, volume = 1000000, volume_unit = 'ML' WHERE id = 9")
        at = table(both, "water_intake")
        assert evaluate(both, parity(VOLUME, at)).failing == 0
        assert evaluate(both, aggregates(VOLUME, at)).failing == 0

    def test_the_bits_of_another_group_do_not_count(self, both: Connection) -> None:
        both.execute("UPDATE water_intake SET lockstep_pending = 1 WHERE id = 12")
        assert evaluate(both, parity(VOLUME, table(both, "water_intake"))).failing == 0
        assert evaluate(both, parity(RECORDED, table(both, "water_intake"))).failing == 1

    def test_what_the_old_shape_could_not_hold_is_not_a_difference(self, both: Connection) -> None:
        both.execute("UPDATE water_intake SET volume_ml = 250.55, volume = 251, volume_unit = 'ML' WHERE id = 4")
        check = parity(VOLUME, table(both, "water_intake"))
        assert evaluate(both, check).failing == 0
        one_way = parity(VOLUME.model_copy(update={"down": ()}), table(both, "water_intake"))
        assert evaluate(both, one_way).sample == ["[4]"]

    def test_a_recorded_failure_is_counted_instead_of_raising(self, both: Connection) -> None:
        fragile = VOLUME.model_copy(
            update={"up": (Assignment(column="volume_ml", expression=f"{UP} + 0 / (volume - 77)"),)}
        )
        check = parity(fragile, table(both, "water_intake"))
        both.execute("UPDATE water_intake SET volume = 78 WHERE volume = 77")
        both.execute("UPDATE water_intake SET volume = 77, lockstep_pending = 4 WHERE id = 6")
        assert "[6]" in evaluate(both, check).sample
        both.execute("UPDATE water_intake SET lockstep_pending = 0 WHERE id = 6")
        with pytest.raises(psycopg.errors.DivisionByZero):
            evaluate(both, check)

    def test_differences_are_located_by_range_and_sampled_up_to_ten(self, both: Connection) -> None:
        both.execute("INSERT INTO users (email, password_hash) SELECT 'x' || n, 'x' FROM generate_series(1, 3) AS n")
        both.execute(
            "INSERT INTO water_intake (user_id, date_time_utc, volume, volume_unit, volume_ml, lockstep_pending)"
            " SELECT 1, timestamp '2030-01-01' + n * interval '1 minute', 5, 'ML', 5, 0"
            " FROM generate_series(1, 4000) AS n"
        )
        both.execute("UPDATE water_intake SET volume_ml = 9999 WHERE id BETWEEN 4500 AND 4520")
        found = evaluate(both, parity(VOLUME, table(both, "water_intake")))
        assert (found.failing, found.evaluated) == (21, INTAKES + 4000)
        assert found.sample == [f"[{n}]" for n in range(4500, 4510)]
        assert (found.observed["ranges"], found.observed["ranges that differ"]) == ("5", "1")

    def test_types_without_equality_and_tables_without_key(self, plain: Connection) -> None:
        plain.execute("CREATE TABLE t (a text, b json, lockstep_pending integer NOT NULL DEFAULT 0)")
        plain.execute("""INSERT INTO t VALUES ('{"x": 1}', '{"x": 1}'), ('{"x": 2}', '{"x": 3}'), (NULL, NULL)""")
        group = MappedGroup(
            table=TableName("public", "t"),
            old=("a",),
            new=("b",),
            up=(Assignment(column="b", expression="a::json"),),
            down=(Assignment(column="a", expression="b::text"),),
        )
        found = evaluate(plain, parity(group, table(plain, "t")))
        assert (found.failing, found.evaluated, found.sample, found.observed["ranges"]) == (1, 3, [], "1")

    def test_an_empty_table_has_nothing_that_differs(self, both: Connection) -> None:
        both.execute("TRUNCATE water_intake")
        assert evaluate(both, parity(VOLUME, table(both, "water_intake")))[:3] == (0, 0, [])


class TestAggregates:
    def test_both_sides_are_shown_and_differing_measures_counted(self, both: Connection) -> None:
        check = aggregates(VOLUME, table(both, "water_intake"))
        sound = evaluate(both, check)
        assert (sound.failing, sound.evaluated) == (0, 5)
        assert sound.observed["volume_ml.count"] == f"old {INTAKES}, new {INTAKES}"
        both.execute("UPDATE water_intake SET volume_ml = 5000 WHERE id = 11")
        found = evaluate(both, check)
        assert found.failing >= 2
        assert found.observed["volume_ml.max"].endswith("new 5000.00")

    def test_personal_columns_show_counts_only(self, both: Connection) -> None:
        check = aggregates(VOLUME, table(both, "water_intake"), personal=["public.water_intake.volume"])
        assert set(evaluate(both, check).observed) == {"volume_ml.count", "volume_ml.distinct"}

    def test_row_count(self, both: Connection) -> None:
        check = row_count(table(both, "water_intake"))
        assert evaluate(both, check) == Found(0, INTAKES, [], {"rows": str(INTAKES)})
        both.execute("DELETE FROM water_intake WHERE id = 1")
        assert evaluate(both, check).observed == {"rows": str(INTAKES - 1)}


class TestSync:
    def test_unfilled(self, both: Connection) -> None:
        check = unfilled(table(both, "water_intake"))
        assert evaluate(both, check) == Found(0, INTAKES, [], {})
        both.execute("UPDATE water_intake SET lockstep_pending = 1 WHERE id IN (8, 9)")
        assert evaluate(both, check) == Found(2, INTAKES, ["[8]", "[9]"], {})

    def test_failures_count_while_they_are_open(self, both: Connection) -> None:
        failures, conflicts = sync_failures("m", INTAKE), sync_conflicts("m", INTAKE)
        assert evaluate(both, failures) == evaluate(both, conflicts) == Found(0, 0, [], {})
        both.execute(
            "INSERT INTO lockstep.sync_failure (migration, table_name, key, sqlstate, direction, kind, resolved_at)"
            " VALUES"
            " ('m', 'public.water_intake', '[1]', '22012', 'up', 'failure', NULL),"
            " ('m', 'public.water_intake', '[1]', '22012', 'up', 'failure', NULL),"
            " ('m', 'public.water_intake', '[2]', '23514', 'up', 'failure', now()),"
            " ('m', 'public.water_intake', '[3]', '00000', 'down', 'conflict', NULL),"
            " ('m', 'public.users', '[4]', '22012', 'up', 'failure', NULL),"
            " ('other', 'public.water_intake', '[5]', '22012', 'up', 'failure', NULL)"
        )
        assert evaluate(both, failures) == Found(2, 3, ["[1]"], {"22012": "2"})
        assert evaluate(both, conflicts) == Found(1, 1, ["[3]"], {"00000": "1"})

    def test_a_session_that_writes_the_old_shape_is_named_until_it_is_quiet_or_gone(
        self, both: Connection, drink_water: Target
    ) -> None:
        check = old_writers("m", INTAKE, quiet_seconds=60, reconnect_seconds=5)
        assert evaluate(both, check) == Found(0, 0, [], {})
        record = (
            "INSERT INTO lockstep.old_write VALUES ('m', 'public.water_intake', pg_backend_pid(), 'intake-api', 'app',"
            " clock_timestamp())"
        )
        with psycopg.connect(drink_water.conninfo, autocommit=True, application_name="intake-api") as writer:
            writer.execute(record.encode())
            found = evaluate(both, check)
            assert (found.failing, found.evaluated, found.sample) == (1, 1, ["intake-api (app)"])
            # Connected and 30 s silent: still a writer. 90 s: no longer.
            both.execute("UPDATE lockstep.old_write SET last_at = clock_timestamp() - interval '30 s'")
            both.execute("UPDATE lockstep.old_write SET pid = pg_backend_pid()")
            assert evaluate(both, old_writers("m", INTAKE, quiet_seconds=60)).failing == 0, "this backend is younger"
            both.execute("UPDATE lockstep.old_write SET last_at = clock_timestamp() - interval '90 s'")
            assert evaluate(both, check).failing == 0
        both.execute("UPDATE lockstep.old_write SET pid = 0, last_at = clock_timestamp() - interval '1 s'")
        assert evaluate(both, check).failing == 1, "it ended, and may be back in a moment"
        both.execute("UPDATE lockstep.old_write SET last_at = clock_timestamp() - interval '6 s'")
        assert evaluate(both, check).failing == 0

    def test_a_role_that_may_not_see_sessions_takes_them_for_writers(
        self, both: Connection, drink_water: Target
    ) -> None:
        check = old_writers("m", INTAKE, quiet_seconds=60, reconnect_seconds=0)
        with psycopg.connect(drink_water.conninfo, autocommit=True) as writer:
            both.execute(
                "INSERT INTO lockstep.old_write SELECT 'm', 'public.water_intake', pid, 'api', 'app', backend_start"
                " + interval '1 ms' FROM pg_stat_activity WHERE pid = %s",
                (writer.info.backend_pid,),
            )
            both.execute("CREATE ROLE lockstep_test_reader")
            try:
                both.execute("GRANT USAGE ON SCHEMA lockstep TO lockstep_test_reader")
                both.execute("GRANT SELECT ON ALL TABLES IN SCHEMA lockstep TO lockstep_test_reader")
                both.execute("SET ROLE lockstep_test_reader")
                assert evaluate(both, check).failing == 1
            finally:
                both.execute("RESET ROLE")
                both.execute("DROP OWNED BY lockstep_test_reader; DROP ROLE lockstep_test_reader")


def test_the_statements_fit_the_ledger(old: Connection) -> None:
    old.execute((files("tasks.database") / "sql" / "ledger.sql").read_bytes())
    for check in (sync_failures("m", INTAKE), sync_conflicts("m", INTAKE), old_writers("m", INTAKE)):
        assert evaluate(old, check) == Found(0, 0, [], {})


class TestValidity:
    def test_an_invalid_or_missing_index_is_named(self, old: Connection) -> None:
        assert evaluate(old, index_validity(INTAKE)).failing == 0
        old.execute("ALTER TABLE water_intake DROP CONSTRAINT water_intake_user_id_date_time_utc_key")
        old.execute("UPDATE water_intake SET date_time_utc = '2020-01-01', user_id = 1 WHERE id < 3")
        with pytest.raises(psycopg.errors.UniqueViolation):
            old.execute("CREATE UNIQUE INDEX CONCURRENTLY broken ON water_intake (user_id, date_time_utc)")
        assert evaluate(old, index_validity(INTAKE, ["water_intake_pkey", "absent"]))[:3] == (
            2,
            3,
            ["absent", "broken"],
        )
        assert evaluate(old, index_validity(INTAKE, ["absent"], ["broken"]))[:3] == (1, 2, ["absent"])

    def test_a_constraint_that_is_not_valid_or_missing_is_named(self, old: Connection) -> None:
        old.execute("ALTER TABLE water_intake ADD CONSTRAINT new_one CHECK (volume < 20000) NOT VALID")
        check = constraint_validity(INTAKE, ["new_one", "absent", "water_intake_pkey"])
        assert evaluate(old, check)[:3] == (2, 3, ["absent", "new_one"])
        old.execute("ALTER TABLE water_intake VALIDATE CONSTRAINT new_one")
        assert evaluate(old, check).sample == ["absent"]


class TestKeys:
    def test_a_personal_key_is_hashed(self, plain: Connection) -> None:
        plain.execute("CREATE TABLE person (email text PRIMARY KEY, age int)")
        plain.execute(f"INSERT INTO person VALUES ('{CANARY}', -1)".encode())
        owner = table(plain, "person")
        check = rule("age", owner, "age > 0", personal=["public.person.email"])
        expected = plain.execute("SELECT md5(jsonb_build_array(%s::text)::text)", (CANARY,)).fetchone()
        assert expected is not None
        assert evaluate(plain, check).sample == [expected[0]]

    def test_a_composite_key_is_written_as_an_array(self, plain: Connection) -> None:
        plain.execute("CREATE TABLE t (a int, b text, c int, PRIMARY KEY (a, b)); INSERT INTO t VALUES (1, 'x', 0)")
        assert evaluate(plain, rule("r", table(plain, "t"), "c > 0")).sample == ['[1, "x"]']

    def test_a_table_without_key_has_no_sample(self, plain: Connection) -> None:
        plain.execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1), (1)")
        assert evaluate(plain, rule("r", table(plain, "t"), "a > 1")) == Found(2, 2, [], {})
        assert evaluate(plain, duplicates(table(plain, "t"), UniqueKey("k", ("a",)))).failing == 2


def test_percent_colon_and_brace_in_an_expression_mean_themselves(plain: Connection) -> None:
    plain.execute("CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t VALUES (1, '100%:x{y}'), (2, 'z')")
    check = rule("r", table(plain, "t"), "a LIKE '100\\%:x{y}' OR (id % 2 = 1 AND a::text = ':b')")
    assert evaluate(plain, check).sample == ["[2]"]


def test_a_column_of_a_shape_that_is_not_there_is_named() -> None:
    bare = Table(
        name=INTAKE,
        oid=1,
        kind="r",
        persistence="p",
        owner="o",
        columns=(Column(name="id", attnum=1, type="int", not_null=True),),
    )
    with pytest.raises(ValueError, match="lacks volume_ml"):
        parity(VOLUME, bare)
