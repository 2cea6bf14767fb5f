"""The flows on a real database and a real Prefect server: gates that stop them, the ways back, what Prefect is told."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest

from tasks.database.catalog import snapshot
from tasks.database.connection import Target, connect
from tasks.database.runner import open_runner
from tasks.due import may_go_on
from tasks.planning.errors import GateFailed, RollbackRefused, RunnerBusy, UsageError
from tasks.planning.schema_hash import schema_hash
from tasks.planning.states import MigrationState, PhaseState
from tasks.standing import standing_of
from tests.integration.journey import eventually, only
from tests.integration.notes import (
    CANARY,
    NAME,
    TABLE,
    approve,
    attempts,
    check,
    columns,
    execute,
    make_plan,
    register,
    run,
    states,
    with_gate,
)

pytestmark = pytest.mark.usefixtures("prefect_here")
KINDS = ("flow_runs", "task_runs", "logs", "artifacts")


def test_a_failed_gate_stops_and_the_next_run_resumes_at_its_phase(notes: Target) -> None:
    register(notes, make_plan(notes))
    run(until="expand")
    execute(notes, "UPDATE note SET length = 99 WHERE id IN (4, 7)")
    with pytest.raises(GateFailed) as failed:
        run()
    assert failed.value.failures == ("equality: 2 of 20 fail, e.g. 4, 7",)
    standing = standing_of(notes, NAME)
    assert standing.state is MigrationState.FAILED
    assert states(standing)[:2] == [PhaseState.DONE, PhaseState.FAILED]
    assert "length" in columns(notes), "a gate without corruption does not go back by itself"

    execute(notes, "UPDATE note SET length = char_length(text)")
    assert run().kind == "waiting"
    assert attempts(standing_of(notes, NAME)) == [1, 2, 0, 0]


def test_a_gate_before_a_phase_keeps_it_from_starting(notes: Target) -> None:
    register(notes, make_plan(notes))
    execute(notes, "UPDATE note SET text = '' WHERE id = 3")
    with pytest.raises(GateFailed):
        run()
    standing = standing_of(notes, NAME)
    assert attempts(standing) == [0, 0, 0, 0]
    assert "length" not in columns(notes)


def test_a_gate_holds_the_lease_however_long_it_takes(notes: Target) -> None:
    """Nobody takes its migration for abandoned, and nobody carries it on or back meanwhile."""
    slow = check("equality", "length IS DISTINCT FROM char_length(text)")
    (asked,) = slow.checks
    sleeping = asked.sql.replace("'{}'::jsonb", "(SELECT '{}'::jsonb FROM pg_sleep(4))")
    assert sleeping != asked.sql
    slow = slow.model_copy(update={"checks": (asked.model_copy(update={"sql": sleeping}),)})
    register(notes, with_gate(make_plan(notes), "constrain", slow))
    seen: list[tuple[Any, bool]] = []

    def look() -> None:
        asleep = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
        eventually(lambda: only(notes, asleep) > 0, "the gate is asked", seconds=60)
        for table, column in (("migration", "updated_at"), ("phase", "started_at"), ("step", "started_at")):
            execute(notes, f"UPDATE lockstep.{table} SET {column} = {column} - interval '1 day'")
        execute(notes, "UPDATE lockstep.phase SET finished_at = finished_at - interval '1 day'")
        execute(notes, "UPDATE lockstep.step SET finished_at = finished_at - interval '1 day'")
        execute(notes, "UPDATE lockstep.gate_result SET at = at - interval '1 day'")
        standing = standing_of(notes, NAME)
        seen.append((standing.holder, may_go_on(standing)))
        with pytest.raises(RunnerBusy), open_runner(notes, NAME):
            pass

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(look)
        assert run().kind == "waiting"
        watching.result()
    ((holder, taken_for_abandoned),) = seen
    assert holder is not None
    assert not taken_for_abandoned
    assert standing_of(notes, NAME).holder is None


def test_corruption_before_the_switch_goes_back_by_itself(notes: Target) -> None:
    plan = make_plan(notes)
    register(notes, with_gate(plan, "constrain", check("equality", "id = 5", corruption=True)))
    with pytest.raises(GateFailed) as failed:
        run()
    assert "went back by itself" in failed.value.safety
    assert columns(notes) == {"id", "text", "words"}
    standing = standing_of(notes, NAME)
    assert standing.state is MigrationState.ROLLED_BACK
    assert states(standing)[:2] == [PhaseState.UNDONE, PhaseState.UNDONE]


def test_corruption_after_the_switch_never_goes_back_by_itself(notes: Target) -> None:
    plan = make_plan(notes)
    phases = tuple(
        phase.model_copy(update={"gate_before": check("final", "id = 5", corruption=True)})
        if phase.name == "contract"
        else phase
        for phase in plan.phases
    )
    register(notes, plan.model_copy(update={"phases": phases}))
    with pytest.raises(GateFailed):
        run(approved_by="tester")
    standing = standing_of(notes, NAME)
    assert standing.state is MigrationState.FAILED
    assert standing.phases["switch"].state is PhaseState.DONE
    assert columns(notes) == {"id", "text", "words", "length"}


def test_a_warning_waits_for_its_own_approval(notes: Target) -> None:
    plan = make_plan(notes)
    register(notes, with_gate(plan, "constrain", check("odd", "id = 5", severity="WARNING")))
    outcome = run()
    assert outcome.kind == "waiting"
    assert "odd: 1 of 20 fail, e.g. 5" in outcome.what
    wait = standing_of(notes, NAME).waits_for
    assert wait is not None
    assert wait.subject.startswith("gate:odd:")
    approve(notes, wait.subject)
    outcome = run()
    assert "Deploy the new version?" in outcome.what
    assert attempts(standing_of(notes, NAME)) == [1, 1, 0, 0]


def test_going_back_before_the_switch_asks_nothing(notes: Target) -> None:
    from flows.rollback import rollback

    register(notes, make_plan(notes))
    run()
    assert rollback(NAME, "notes").kind == "rolled_back"
    standing = standing_of(notes, NAME)
    assert standing.state is MigrationState.ROLLED_BACK
    assert columns(notes) == {"id", "text", "words"}
    with connect(notes, role="test") as connection:
        assert schema_hash(snapshot(connection), (TABLE,)) == standing.plan.schema_before
    assert rollback(NAME, "notes").kind == "nothing"
    again = run()
    assert (again.kind, "it was rolled back" in again.what) == ("nothing", True)
    assert again.remedy.startswith("lockstep run SPEC --database notes")


def test_going_back_after_the_switch_needs_a_word_and_asks_again_next_time(notes: Target) -> None:
    from flows.rollback import rollback

    register(notes, make_plan(notes))
    run(until="switch", approved_by="tester")
    with pytest.raises(RollbackRefused, match="has switched") as refused:
        rollback(NAME, "notes")
    assert "--old-version-deployed" in str(refused.value.remedy)
    assert standing_of(notes, NAME).phases["switch"].state is PhaseState.DONE
    with pytest.raises(UsageError, match="no phase"):
        rollback(NAME, "notes", to="nowhere")

    rollback(NAME, "notes", old_version_deployed=True)
    standing = standing_of(notes, NAME)
    assert standing.state is MigrationState.ROLLED_BACK
    assert standing.record.switched_at is None
    assert not standing.approved("switch")


def test_after_contract_the_way_back_is_a_migration_of_its_own(
    notes: Target, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.rollback import rollback

    register(notes, make_plan(notes))
    run(approved_by="tester")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RollbackRefused, match="past the point of return") as refused:
        rollback(NAME, "notes", old_version_deployed=True)
    assert "lockstep run" in str(refused.value.remedy)
    assert (tmp_path / "note-v2-reverse.yaml").read_text() == "name: note-v1\n"
    assert standing_of(notes, NAME).state is MigrationState.FINISHED


def test_prefect_is_told_names_and_counts_and_no_values(notes: Target) -> None:
    from prefect.logging.handlers import APILogHandler

    register(notes, make_plan(notes))
    run(until="expand")
    execute(notes, f"UPDATE note SET text = '{CANARY} longer' WHERE id = 9")
    with pytest.raises(GateFailed):
        run()
    password = psycopg.conninfo.conninfo_to_dict(notes.conninfo)["password"]
    APILogHandler().flush()
    expected = {"plan", "phase: expand", "gate: equality", "phase: constrain"}
    with httpx.Client(base_url=prefect_api(), timeout=30) as api:
        told = {kind: api.post(f"/{kind}/filter", json={"limit": 200}).json() for kind in KINDS}
        deadline = time.monotonic() + 30
        while not expected <= {run["name"] for run in told["task_runs"]} and time.monotonic() < deadline:
            time.sleep(0.5)  # Prefect writes task runs down a little later than they end
            told["task_runs"] = api.post("/task_runs/filter", json={"limit": 200}).json()
    assert expected <= {run["name"] for run in told["task_runs"]}
    names = {run["id"]: run["name"] for run in told["task_runs"]}
    arrows = {
        (names.get(before["id"]), run["name"])
        for run in told["task_runs"]
        for before in run["task_inputs"].get("wait_for", [])
    }
    assert arrows >= {
        ("plan", "gate: not-empty"),
        ("gate: not-empty", "phase: expand"),
        ("phase: constrain", "gate: equality"),
    }
    assert CANARY not in str(told)
    assert str(password) not in str(told)
    assert "gate equality: FAILS" in str(told["logs"])
    kinds = {found["key"] for found in told["artifacts"]}
    assert {"plan-note-v2", "gate-note-v2-constrain-equality", "result-note-v2"} <= kinds


def prefect_api() -> str:
    from prefect.settings import PREFECT_API_URL

    return str(PREFECT_API_URL.value())
