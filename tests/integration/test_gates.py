"""Gates through Great Expectations on a real server: what they find, how they fail closed, what they keep quiet."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import psycopg
import pytest
from psycopg import sql

from expectations.gate import run_gate
from tasks.database.catalog import snapshot
from tasks.database.connection import Target
from tasks.planning.checks.rules import rule
from tasks.planning.checks.suites import (
    BusinessRule,
    Coming,
    Promised,
    Scope,
    backfill_gate,
    contract_gate,
    equality_gate,
    final_gate,
    preflight_gate,
    projection,
)
from tasks.planning.checks.uniqueness import UniqueKey
from tasks.planning.errors import CannotConnect
from tasks.planning.gates import CheckResult, GateResult
from tasks.planning.names import TableName
from tasks.planning.plan import Check, Gate
from tests.conftest import CANARY, INTAKES, AnyServer
from tests.integration.test_checks import EXPAND, INTAKE, LEDGER, RECORDED, VOLUME

SETTINGS = (("TimeZone", "UTC"), ("search_path", "public"))
PERSONAL = frozenset({"public.users.email", "public.users.full_name"})
RULES = (
    BusinessRule("intake_volume", INTAKE, "volume > 0 AND volume <= 10000", frozenset({"volume"})),
    BusinessRule("named", TableName("public", "users"), "email <> ''", frozenset({"email"}), "WARNING"),
)
SUITE = "expectations/suites/intake.yaml"
PASSWORD = "canary:p%ss@word"  # with what a URL must escape, so that a copy in any form is found

Run = Callable[[Gate], GateResult]


def scope(target: Target, *suites: str) -> Scope:
    with psycopg.connect(target.conninfo) as connection:
        tables = {table.name.name: table for table in snapshot(connection).tables if table.name.schema == "public"}
    return Scope(changed=(tables["water_intake"], tables["users"]), personal=PERSONAL, rules=RULES, user_suites=suites)


def execute(target: Target, *statements: str) -> None:
    with psycopg.connect(target.conninfo, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def check(statement: str, *, id: str = "c", severity: Any = "CRITICAL", corruption: bool = False) -> Check:  # noqa: A002
    return Check(id=id, kind="rule", title="Title", severity=severity, table=None, sql=statement, corruption=corruption)


def gate(*checks: Check, suites: tuple[str, ...] = ()) -> Gate:
    return Gate(name="preflight", title="t", checks=checks, user_suites=suites)


def failed(result: GateResult) -> dict[str, CheckResult]:
    return {item.check: item for item in result.checks if not item.success}


HOLDS = "SELECT 0::bigint, 5::bigint, '[]'::jsonb, '{}'::jsonb"


@pytest.fixture
def run(drink_water: Target, tmp_path: Path) -> Run:
    return lambda gate: run_gate(
        gate, phase="expand", target=drink_water, settings=SETTINGS, docs=tmp_path / "docs", suites_root=tmp_path
    )


@pytest.fixture
def both(drink_water: Target) -> Target:
    execute(drink_water, EXPAND, LEDGER)
    return drink_water


class TestTheGatesOfExpandContract:
    def preflight(self, target: Target) -> Gate:
        looked_at = scope(target, SUITE)
        coming = Coming(
            looked_at.changed[0],
            projected=projection((*VOLUME.up, *RECORDED.up), looked_at.changed[0]),
            unique=(UniqueKey("water_intake_user_id_date_time_utc_key", ("user_id", "recorded_at")),),
            not_null=("volume_ml", "recorded_at"),
            conditions=(("volume_ml_check", "volume_ml > 0"),),
        )
        return preflight_gate(looked_at, [coming])

    def test_preflight_holds_on_sound_data_and_runs_the_users_suite(self, drink_water: Target, run: Run) -> None:
        built = self.preflight(drink_water)
        result = run(built)
        assert failed(result) == {}
        assert result.success
        assert {check.id for check in built.checks} < {item.check for item in result.checks}
        assert len({item.check for item in result.checks}) == len(result.checks) == len(built.checks) + 5
        assert [item.check for item in result.checks][-1] == "suite:intake:5"

    def test_preflight_says_which_rows_and_how_many(self, drink_water: Target, run: Run) -> None:
        built = self.preflight(drink_water)
        execute(
            drink_water,
            "ALTER TABLE water_intake DROP CONSTRAINT water_intake_user_id_fkey,"
            " DROP CONSTRAINT water_intake_user_id_date_time_utc_key, DROP CONSTRAINT water_intake_volume_check",
            "UPDATE water_intake SET user_id = 9999 WHERE id = 3",
            "UPDATE water_intake SET volume = 0 WHERE id IN (5, 6)",
            "UPDATE water_intake SET user_id = 1, date_time_utc = '2020-01-01' WHERE id IN (8, 9)",
        )
        found = failed(run(built))
        key = "water_intake_user_id_date_time_utc_key"
        assert {name: item.sample for name, item in found.items()} == {
            "orphans:public.water_intake:water_intake_user_id_fkey": ("[3]",),
            f"duplicates:public.water_intake:{key}": ("[8]", "[9]"),
            f"duplicates:public.water_intake:{key}:coming": ("[8]", "[9]"),
            "rule:public.water_intake:intake_volume": ("[5]", "[6]"),
            "rule:public.water_intake:volume_ml_check:coming": ("[5]", "[6]"),
            "suite:intake:3": (),
        }
        assert found["suite:intake:3"].failing == 2
        assert not any(item.corruption for item in found.values()), "nothing was changed yet"

    def test_backfill_fails_while_a_row_is_unfilled_or_a_failure_is_open(self, both: Target, run: Run) -> None:
        built = backfill_gate("m", scope(both), (VOLUME, RECORDED))
        assert run(built).success
        execute(
            both,
            "UPDATE water_intake SET lockstep_pending = 4 WHERE id = 17",
            "INSERT INTO lockstep.sync_failure (migration, table_name, key, sqlstate, direction, kind)"
            " VALUES ('m', 'public.water_intake', '[17]', '22012', 'up', 'failure'),"
            " ('m', 'public.water_intake', '[18]', '00000', 'down', 'conflict')",
        )
        result = run(built)
        assert set(failed(result)) == {
            "unfilled:public.water_intake",
            "sync_failures:public.water_intake",
            "sync_conflicts:public.water_intake",
        }
        assert [item.check for item in result.warnings] == ["sync_conflicts:public.water_intake"]
        assert not result.success
        assert result.corruption

    def test_equality_fails_for_one_changed_row(self, both: Target, run: Run) -> None:
        promised = Promised({INTAKE: ["water_intake_pkey"]}, {INTAKE: ["water_intake_volume_check"]})
        built = equality_gate("m", scope(both, SUITE), (VOLUME, RECORDED), promised)
        assert failed(run(built)) == {}
        execute(both, "UPDATE water_intake SET recorded_at = '2099-01-01Z' WHERE id = 77")
        result = run(built)
        found = failed(result)
        assert found["parity:public.water_intake:recorded_at"].sample == ("[77]",)
        assert {item.severity for name, item in found.items() if not name.startswith("parity")} == {"INFO"}
        assert result.corruption

    def test_equality_fails_for_one_row_lost_and_one_added_behind_the_trigger(self, both: Target, run: Run) -> None:
        built = equality_gate("m", scope(both), (VOLUME, RECORDED), Promised())
        execute(
            both,
            "DELETE FROM water_intake WHERE id = 1",
            "INSERT INTO water_intake (user_id, date_time_utc, volume, volume_unit) VALUES (1, '2020-01-01', 5, 'ML')",
        )
        critical = {item.check: (item.failing, item.evaluated) for item in run(built).critical}
        assert critical == {
            "unfilled:public.water_intake": (1, INTAKES),
            "parity:public.water_intake:volume_ml": (1, INTAKES),
            "parity:public.water_intake:recorded_at": (1, INTAKES),
        }

    def test_contract_waits_for_the_last_writer_of_the_old_shape(self, both: Target, run: Run) -> None:
        built = contract_gate("m", scope(both), (VOLUME, RECORDED), Promised())
        assert run(built).success
        with psycopg.connect(both.conninfo, autocommit=True) as writer:
            writer.execute(
                "INSERT INTO lockstep.old_write VALUES"
                " ('m', 'public.water_intake', pg_backend_pid(), 'intake-api', 'app', clock_timestamp())"
            )
            result = run(built)
        assert {name: item.sample for name, item in failed(result).items()} == {
            "old_writers:public.water_intake": ("intake-api (app)",)
        }
        assert not result.corruption, "a state to wait for"

    def test_at_contract_a_value_that_the_old_shape_cannot_hold_is_a_warning(self, both: Target, run: Run) -> None:
        built = contract_gate("m", scope(both), (VOLUME, RECORDED), Promised())
        execute(
            both,
            "UPDATE water_intake SET volume_ml = 900000, lockstep_pending = 8 WHERE id = 17",
            "INSERT INTO lockstep.sync_failure (migration, table_name, key, sqlstate, direction, kind)"
            " VALUES ('m', 'public.water_intake', '[17]', '22003', 'down', 'failure')",
        )
        result = run(built)
        assert [(item.check, item.sample) for item in result.warnings] == [("unheld:public.water_intake", ("[17]",))]
        assert not result.critical
        execute(both, "UPDATE water_intake SET volume_ml = volume_ml + 1 WHERE id = 18")
        assert [item.sample for item in run(built).critical] == [("[18]",)], "a difference without a mark is corruption"

    def test_final_checks_what_is_left_of_the_rules(self, both: Target, run: Run) -> None:
        execute(
            both,
            "ALTER TABLE water_intake DROP COLUMN volume, DROP COLUMN volume_unit, DROP COLUMN date_time_utc,"
            " DROP COLUMN lockstep_pending, ADD CONSTRAINT volume_ml_check CHECK (volume_ml > 0) NOT VALID",
        )
        built = final_gate(scope(both, SUITE), Promised(constraints={INTAKE: ["volume_ml_check"]}))
        rules = [check.id for check in built.checks if check.kind == "rule"]
        assert rules == ["rule:public.users:named"]
        assert set(failed(run(built))) == {"constraint_validity:public.water_intake"}
        execute(both, "ALTER TABLE water_intake VALIDATE CONSTRAINT volume_ml_check")
        assert run(built).success

    def test_a_rule_about_a_table_that_nobody_looks_at_is_refused(self, drink_water: Target) -> None:
        elsewhere = BusinessRule("r", TableName("public", "elsewhere"), "true", frozenset())
        looked_at = scope(drink_water)
        with pytest.raises(KeyError, match="elsewhere"):
            preflight_gate(Scope(changed=looked_at.changed, rules=(elsewhere,)))


class TestFailingClosed:
    def test_an_empty_gate_fails(self, run: Run) -> None:
        result = run(gate())
        assert not result.success
        assert result.critical[0].error == "nothing to evaluate"

    def test_a_gate_whose_only_suite_does_not_apply_fails(self, run: Run) -> None:
        assert not run(Gate(name="final", title="t", checks=(), user_suites=(SUITE,))).success

    @pytest.mark.parametrize(
        ("statement", "error"),
        [
            ("SELECT 1/0, 1, '[]'::jsonb, '{}'::jsonb", "22012 DivisionByZero"),
            ("SELECT nonsense", "42703 UndefinedColumn"),
            ("SELEC", "42601 SyntaxError"),
            ("SELECT 0, 1", "a check returns one row of four columns, this one 1 rows"),
            (f"{HOLDS} WHERE false", "a check returns one row of four columns, this one 0 rows"),
            (f"{HOLDS} UNION ALL {HOLDS}", "a check returns one row of four columns, this one 2 rows"),
            ("SELECT NULL::bigint, 1, '[]'::jsonb, '{}'::jsonb", "a check returns two counts, this one does not"),
            ("DELETE FROM water_intake", "25006 ReadOnlySqlTransaction"),
            ("SELECT pg_sleep(0) FROM pg_stat_activity; COMMIT; DELETE FROM users", "25006 ReadOnlySqlTransaction"),
        ],
    )
    def test_a_check_that_cannot_be_evaluated_fails(self, run: Run, statement: str, error: str) -> None:
        result = run(gate(check(HOLDS, id="sound"), check(statement, corruption=True)))
        assert {name: item.error for name, item in failed(result).items()} == {"c": error}
        assert not result.success
        assert not result.corruption, "nobody knows"

    def test_a_warning_does_not_decide_and_an_info_is_shown(self, run: Run) -> None:
        found = HOLDS.replace("0::bigint", "2::bigint")
        result = run(gate(check(found, id="w", severity="WARNING"), check(found, id="i", severity="INFO")))
        assert result.success
        assert [item.check for item in result.warnings] == ["w"]
        assert set(failed(result)) == {"w", "i"}

    def test_a_lock_that_is_not_granted_fails_the_check(self, drink_water: Target, run: Run) -> None:
        with psycopg.connect(drink_water.conninfo) as blocker:
            blocker.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
            blocked = "SELECT 0::bigint, count(*), '[]'::jsonb, '{}'::jsonb FROM users"
            result = run(gate(check(blocked)))
        assert failed(result)["c"].error == "55P03 LockNotAvailable"

    def test_a_policy_that_hides_rows_fails_the_check(self, drink_water: Target, tmp_path: Path) -> None:
        execute(
            drink_water,
            "CREATE ROLE lockstep_test_limited LOGIN PASSWORD 'x'",
            "ALTER TABLE users ENABLE ROW LEVEL SECURITY",
            "GRANT SELECT ON users TO lockstep_test_limited",
        )
        try:
            limited = Target("limited", as_user(drink_water, "lockstep_test_limited", "x"))
            seen = "SELECT 0::bigint, count(*), '[]'::jsonb, '{}'::jsonb FROM users"
            result = run_gate(
                gate(check(seen)), phase="p", target=limited, settings=(), docs=tmp_path, suites_root=None
            )
            assert failed(result)["c"].error == "42501 InsufficientPrivilege"
        finally:
            execute(drink_water, "DROP OWNED BY lockstep_test_limited", "DROP ROLE lockstep_test_limited")

    def test_no_server_is_no_verdict(self, run: Run, tmp_path: Path) -> None:
        with pytest.raises(CannotConnect):
            run_gate(
                gate(check(HOLDS)),
                phase="p",
                target=Target("nowhere", "postgresql://127.0.0.1:1/x"),
                settings=(),
                docs=tmp_path,
                suites_root=None,
            )
        with pytest.raises(CannotConnect, match="lost during the gate"):
            run(gate(check(HOLDS, id="a"), check("SELECT pg_terminate_backend(pg_backend_pid())")))


class TestTheUsersSuites:
    def suite(self, folder: Path, *entries: str, table: str = "water_intake", extra: str = "") -> str:
        listed = "\n".join(f"  - {entry}" for entry in entries)
        (folder / "own.yaml").write_text(f"name: own\ntable: {table}\n{extra}\nexpectations:\n{listed}\n")
        return "own.yaml"

    def test_counts_and_severities_reach_the_result(self, run: Run, tmp_path: Path) -> None:
        name = self.suite(
            tmp_path,
            "{type: expect_column_values_to_be_in_set, column: volume_unit, value_set: [ML], severity: warning}",
            "{type: expect_column_max_to_be_between, column: volume, max_value: 10, severity: info}",
            "{type: expect_column_values_to_not_be_null, column: volume}",
            "{type: expect_table_columns_to_match_set, column_set: [id, volume], exact_match: false}",
            "{type: expect_compound_columns_to_be_unique, column_list: [user_id, date_time_utc]}",
        )
        result = run(gate(check(HOLDS), suites=(name,)))
        ounces, largest = failed(result)["suite:own:1"], failed(result)["suite:own:2"]
        assert (ounces.failing, ounces.evaluated, ounces.severity) == (INTAKES // 7, INTAKES, "WARNING")
        assert (largest.failing, largest.evaluated, largest.severity, largest.observed) == (1, 1, "INFO", {})
        assert set(failed(result)) == {"suite:own:1", "suite:own:2"}
        assert result.success

    @pytest.mark.parametrize(
        ("entry", "said"),
        [
            ("{type: expect_column_values_to_be_sane, column: volume}", "there is no expect_column_values_to_be_sane"),
            ("{type: expect_column_values_to_be_between, colum: volume}", "does not take this: column: field required"),
            (
                "{type: expect_column_values_to_be_of_type, column: volume, type_: INTEGER}",
                "is not for a gate: the schema",
            ),
            ("{type: expect_check_to_hold, check: a, title: b, sql: SELECT 1}", "it is Lockstep's own"),
        ],
    )
    def test_an_expectation_that_does_not_exist_fails_the_gate(
        self, run: Run, tmp_path: Path, entry: str, said: str
    ) -> None:
        result = run(gate(check(HOLDS), suites=(self.suite(tmp_path, entry),)))
        assert said in (failed(result)["suite:own.yaml"].error or "")
        assert not result.success

    def test_an_absent_column_table_or_file_fails_the_gate(self, run: Run, tmp_path: Path) -> None:
        entry = "{type: expect_column_values_to_not_be_null, column: absent}"
        absent_column = failed(run(gate(suites=(self.suite(tmp_path, entry),))))
        assert absent_column["suite:own:1"].error
        absent_table = failed(run(gate(suites=(self.suite(tmp_path, entry, table="public.absent"),))))
        assert absent_table["suite:own:1"].error
        assert "neither" in (failed(run(gate(suites=("absent.yaml",))))["suite:absent.yaml"].error or "")

    def test_a_column_that_is_called_like_a_keyword(self, drink_water: Target, run: Run, tmp_path: Path) -> None:
        execute(
            drink_water,
            'CREATE SCHEMA "S"; CREATE TABLE "S"."Order" ("From" int); INSERT INTO "S"."Order" VALUES (1)',
        )
        name = self.suite(
            tmp_path, "{type: expect_column_values_to_be_between, column: From, min_value: 2}", table="S.Order"
        )
        assert failed(run(gate(suites=(name,))))["suite:own:1"].failing == 1


def as_user(target: Target, user: str, password: str) -> str:
    parts = urlsplit(target.conninfo)
    netloc = f"{user}:{quote(password, safe='')}@{parts.hostname}:{parts.port}"
    return parts._replace(netloc=netloc).geturl()


class TestDiscretion:
    @pytest.fixture
    def guarded(self, drink_water: Target, server: AnyServer) -> Iterator[Target]:
        """The drink-water database, reached with a password that must not turn up anywhere."""
        role = sql.Identifier("lockstep_test_gate")
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            connection.execute(
                sql.SQL("CREATE ROLE {} SUPERUSER LOGIN PASSWORD {}").format(role, sql.Literal(PASSWORD))
            )
            try:
                yield Target("drink-water", as_user(drink_water, "lockstep_test_gate", PASSWORD))
            finally:
                connection.execute(sql.SQL("DROP ROLE {}").format(role))

    def test_neither_password_nor_values_turn_up_anywhere(
        self,
        drink_water: Target,
        guarded: Target,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        caplog.set_level(logging.DEBUG)
        execute(drink_water, "CREATE TABLE person (email text PRIMARY KEY, age int)")
        execute(drink_water, "INSERT INTO person SELECT email, 200 FROM users")
        with psycopg.connect(guarded.conninfo) as connection:
            person = snapshot(connection).table(TableName("public", "person"))
        assert person is not None
        raising = "SELECT email::int, 1, '[]'::jsonb, '{}'::jsonb FROM users"
        (tmp_path / "own.yaml").write_text(
            "name: own\ntable: users\nexpectations:\n"
            "  - {type: expect_column_values_to_match_regex, column: email, regex: '^nobody$'}\n"
            "  - {type: expect_column_values_to_be_in_set, column: full_name, value_set: [nobody]}\n"
            "  - {type: expect_column_most_common_value_to_be_in_set, column: full_name, value_set: [nobody]}\n"
            "  - {type: expect_column_max_to_be_between, column: email, max_value: '2020-01-01'}\n"
            "  - {type: expect_column_distinct_values_to_be_in_set, column: full_name, value_set: [nobody]}\n"
            "  - {type: expect_column_mean_to_be_between, column: email, max_value: 1}\n"
        )
        built = gate(
            rule("age", person, "age < 150", personal=["public.person.email"]),
            check(raising, id="raising"),
            check("DO $$ BEGIN RAISE NOTICE '" + CANARY + "'; END $$", id="notice"),
            suites=("own.yaml",),
        )
        result = run_gate(
            built, phase="p", target=guarded, settings=SETTINGS, docs=tmp_path / "docs", suites_root=tmp_path
        )
        assert len(failed(result)) == len(result.checks) == 9
        assert result.checks[0].failing == 50
        captured = capfd.readouterr()
        texts = {
            "result": result.model_dump_json() + repr(result),
            "log": caplog.text,
            "output": captured.out + captured.err,
        }
        pages = [path for path in (tmp_path / "docs").rglob("*") if path.is_file()]
        texts |= {str(path): path.read_bytes().decode(errors="replace") for path in pages}
        assert any(path.suffix == ".html" for path in pages)
        # The notice's own statement carries the canary, as a check's text never does; it is not shown either.
        secrets = (CANARY, PASSWORD, quote(PASSWORD, safe=""), PASSWORD.partition("@")[0])
        leaks = {(place, secret) for place, text in texts.items() for secret in secrets if secret in text}
        assert leaks == set()

    def test_neither_password_is_in_what_great_expectations_keeps(self, guarded: Target, tmp_path: Path) -> None:
        from expectations.context import data_source, new_context
        from expectations.session import open_session

        context = new_context(tmp_path)
        with data_source(context, lambda: open_session(guarded, ())) as source:
            shown = (repr(source), str(source.dict()))
            engine = repr(source.get_engine())
        assert not [text for text in (*shown, engine) if "canary" in text]

    def test_the_session_is_limited_and_gone_afterwards(self, drink_water: Target, run: Run) -> None:
        names = (
            "application_name", "lock_timeout", "statement_timeout", "default_transaction_read_only", "row_security",
            "TimeZone", "search_path",
        )  # fmt: skip
        shown = ", ".join(f"'{name}', current_setting('{name}')" for name in names)
        result = run(gate(check(f"SELECT 0::bigint, 1::bigint, '[]'::jsonb, jsonb_build_object({shown})")))
        assert result.checks[0].observed == {
            "application_name": "lockstep:gate",
            "lock_timeout": "2s",
            "statement_timeout": "1h",
            "default_transaction_read_only": "on",
            "row_security": "off",
            "TimeZone": "UTC",
            "search_path": "public",
        }
        with psycopg.connect(drink_water.conninfo) as connection:
            left = connection.execute(
                "SELECT application_name FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            ).fetchall()
        assert left == []


class TestDataDocs:
    def test_every_run_has_its_own_pages_that_say_what_failed(self, run: Run) -> None:
        first = run(gate(check(HOLDS)))
        found = HOLDS.replace("0::bigint", "3::bigint").replace("'[]'", "'[\"[17]\"]'")
        second = run(gate(check(found), suites=(SUITE,)))
        assert first.docs is not None
        assert second.docs is not None
        assert first.docs != second.docs
        pages = list((Path(second.docs).parent / "validations").rglob("*.html"))
        assert len(pages) == 2
        text = "".join(page.read_text() for page in pages)
        assert "Title" in text
        assert "3 of 5 fail; keys [17]" in text
        assert Path(second.docs).read_text().count("preflight") > 0
        size = sum(path.stat().st_size for path in Path(second.docs).parent.rglob("*") if path.is_file())
        assert size < 3_000_000

    def test_a_folder_that_cannot_be_written_does_not_change_the_verdict(
        self, drink_water: Target, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "docs").write_text("a file")
        result = run_gate(
            gate(check(HOLDS)), phase="p", target=drink_water, settings=(), docs=tmp_path / "docs", suites_root=None
        )
        assert result.success
        assert result.docs is None
        assert "could not be written" in caplog.text


def test_results_travel_through_the_ledger_as_json(run: Run, tmp_path: Path) -> None:
    result = run(gate(check(HOLDS.replace("'{}'", "'{\"a\": 1}'"))))
    assert GateResult.model_validate(json.loads(result.model_dump_json())) == result
    assert result.checks[0].observed == {"a": "1"}
    shutil.rmtree(tmp_path / "docs")
