"""The ledger: installed once whoever comes first, guarded transitions, one unfinished migration a table."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import psycopg
import pytest
from psycopg import sql

from tasks.database.connection import Target, connect
from tasks.database.ledger import Ledger, install
from tasks.planning.errors import MissingPrivilege, RunnerBusy, SpecError
from tasks.planning.gates import CheckResult, GateResult
from tasks.planning.names import TableName
from tasks.planning.states import IllegalTransition, MigrationState, PhaseState, StepState
from tests.integration.synthetic import FILL, NAME, SPEC_TEXT, plan


def test_nothing_is_read_where_no_ledger_is(database: Target) -> None:
    with connect(database, role="test") as connection:
        ledger = Ledger(connection)
        assert ledger.migrations() == ()
        assert ledger.migration(NAME) is None
        assert ledger.holder(NAME) is None


def test_many_may_install_at_once(database: Target) -> None:
    def run(_number: int) -> None:
        with connect(database, role="test") as connection:
            install(connection)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(run, range(6)))
    with connect(database, role="test") as connection:
        assert connection.execute("SELECT count(*) FROM lockstep.version").fetchone() == (1,)


def test_a_plan_comes_back_equal_with_its_phases_and_steps(database: Target) -> None:
    with connect(database, role="test") as connection:
        ledger = Ledger(connection)
        record = ledger.register(plan(), SPEC_TEXT)
        assert record.plan == plan()
        assert (record.spec, record.state) == (SPEC_TEXT, MigrationState.PLANNED)
        assert [phase.phase for phase in ledger.phases(NAME)] == ["expand", "backfill", "constrain"]
        assert FILL in [step.step for step in ledger.steps(NAME)]


def test_an_unfinished_migration_keeps_its_plan_and_refuses_a_changed_spec(database: Target) -> None:
    with connect(database, role="test") as connection:
        ledger = Ledger(connection)
        ledger.register(plan(), SPEC_TEXT)
        ledger.set_state(NAME, MigrationState.RUNNING)
        assert ledger.register(plan(), "other text").spec == SPEC_TEXT
        with pytest.raises(SpecError, match="changed"):
            ledger.register(plan(change_hash="two"), SPEC_TEXT)


def test_a_migration_of_the_same_table_is_refused_meanwhile(database: Target) -> None:
    with connect(database, role="test") as connection:
        ledger = Ledger(connection)
        ledger.register(plan(), SPEC_TEXT)
        ledger.register(plan(name="second"), SPEC_TEXT)
        ledger.set_state(NAME, MigrationState.RUNNING)
        with pytest.raises(RunnerBusy, match="readings-v2"):
            ledger.register(plan(name="third"), SPEC_TEXT)
        with pytest.raises(RunnerBusy, match="readings-v2"):
            ledger.set_state("second", MigrationState.RUNNING)
        ledger.register(plan(name="elsewhere", tables=(TableName("public", "others"),)), SPEC_TEXT)


def test_a_rolled_back_migration_begins_anew_and_its_history_stays(database: Target) -> None:
    with connect(database, role="test") as connection:
        ledger = Ledger(connection)
        token = ledger.register(plan(), SPEC_TEXT).token
        ledger.set_state(NAME, MigrationState.RUNNING)
        ledger.begin_phase(NAME, "expand")
        ledger.approve(NAME, "switch", who="a person")
        ledger.set_state(NAME, MigrationState.ROLLING_BACK)
        ledger.set_state(NAME, MigrationState.ROLLED_BACK)
        again = ledger.register(plan(change_hash="two"), SPEC_TEXT)
        assert (again.state, again.change_hash) == (MigrationState.PLANNED, "two")
        assert again.token > token
        assert ledger.approvals(NAME) == ()
        assert {phase.state for phase in ledger.phases(NAME)} == {PhaseState.PENDING}
        replaced = [event for event in ledger.events(NAME) if event.kind == "replaced"]
        assert replaced[0].detail["approvals"][0]["who"] == "a person"


def test_transitions_are_checked(database: Target) -> None:
    with connect(database, role="test") as connection:
        ledger = Ledger(connection)
        ledger.register(plan(), SPEC_TEXT)
        with pytest.raises(IllegalTransition):
            ledger.set_state(NAME, MigrationState.FINISHED)
        with pytest.raises(IllegalTransition):
            ledger.end_phase(NAME, "expand", PhaseState.DONE)
        ledger.begin_step(NAME, FILL)
        ledger.finish_step(NAME, FILL)
        with pytest.raises(IllegalTransition):
            ledger.begin_step(NAME, FILL)
        assert ledger.step(NAME, FILL).state is StepState.DONE


def test_gates_approvals_and_failures_come_back(database: Target) -> None:
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    check = CheckResult(check="a", title="a", severity="CRITICAL", success=False, failing=1, evaluated=2)
    gate = GateResult(gate="equality", phase="constrain", started_at=moment, finished_at=moment, checks=(check,))
    with connect(database, role="test") as connection:
        ledger = Ledger(connection)
        ledger.register(plan(), SPEC_TEXT)
        ledger.record_gate(NAME, gate)
        ledger.approve(NAME, "switch", who="me", why="tested", waive_soak=True)
        connection.execute(
            "INSERT INTO lockstep.sync_failure (migration, table_name, key, sqlstate, direction, kind)"
            " VALUES (%s, 'public.readings', '[7]', '22012', 'up', 'failure')",
            (NAME,),
        )
        assert [(found.success, found.result) for found in ledger.gates(NAME)] == [(False, gate)]
        assert [(one.phase, one.waive_soak) for one in ledger.approvals(NAME)] == [("switch", True)]
        assert [(one.count, one.sample) for one in ledger.failures(NAME)] == [(1, ("[7]",))]


def test_a_reader_needs_select_only_and_others_learn_the_grant(database: Target) -> None:
    with connect(database, role="test") as connection:
        Ledger(connection).register(plan(), SPEC_TEXT)
        role = sql.Identifier(f"reader_{connection.info.backend_pid}")
        connection.execute(sql.SQL("CREATE ROLE {}").format(role))
        try:
            connection.execute(sql.SQL("SET ROLE {}").format(role))
            with pytest.raises(MissingPrivilege) as refusal:
                Ledger(connection).migrations()
            assert "GRANT SELECT" in refusal.value.grant
            connection.execute("RESET ROLE")
            connection.execute(sql.SQL("GRANT USAGE ON SCHEMA lockstep TO {}").format(role))
            connection.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA lockstep TO {}").format(role))
            connection.execute(sql.SQL("SET ROLE {}").format(role))
            assert len(Ledger(connection).migrations()) == 1
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                Ledger(connection).event(NAME, "x", {})
        finally:
            connection.execute("RESET ROLE")
            connection.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(role))


def test_a_row_that_a_running_step_holds_is_not_waited_for_long(database: Target) -> None:
    with connect(database, role="test") as connection, connect(database, role="other") as other:
        Ledger(connection).register(plan(), SPEC_TEXT)
        with other.transaction():
            other.execute("SELECT 1 FROM lockstep.migration FOR SHARE")
            with pytest.raises(RunnerBusy, match="running step"):
                Ledger(connection).set_state(NAME, MigrationState.RUNNING)
