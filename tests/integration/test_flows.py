"""The flows on a real database and a real Prefect server: order, approvals, resumption, going back.

The plan is written by hand and registered, so that nothing here depends on what the planner makes of a change.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import psycopg
import pytest

from tasks import prefect_server
from tasks.database.catalog import snapshot
from tasks.database.connection import Target, connect
from tasks.database.ledger import Ledger
from tasks.database.runner import open_runner
from tasks.planning.errors import GateFailed, RollbackRefused, UnknownMigration, UsageError, Waiting
from tasks.planning.names import TableName
from tasks.planning.plan import (
    Action,
    Approval,
    Check,
    Gate,
    Irreversible,
    Phase,
    Plan,
    Severity,
    Step,
    Transaction,
)
from tasks.planning.schema_hash import schema_hash
from tasks.planning.states import MigrationState, PhaseState
from tasks.planning.windows import Window
from tasks.standing import Standing, standing_of
from tests.integration.openings import open_for, shut

NAME = "note-v2"
TABLE = TableName("public", "note")
PHASES = ("expand", "constrain", "switch", "contract")
KINDS = ("flow_runs", "task_runs", "logs", "artifacts")
CANARY = "canary-51c7"

SCHEMA = f"""
CREATE TABLE note (id bigint PRIMARY KEY, text text NOT NULL, words int);
INSERT INTO note SELECT n, '{CANARY} ' || n, 2 FROM generate_series(1, 20) AS n;
"""


@pytest.fixture(scope="module", autouse=True)
def _prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    home = tmp_path_factory.mktemp("prefect")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (prefect_server.PRIVATE | {"PREFECT_HOME": str(home)}).items():
            patch.setenv(name, value)
        with prefect_server.serving(prefect_server.free_port(), home) as server:
            from prefect.logging.handlers import APILogHandler
            from prefect.settings import PREFECT_API_URL, temporary_settings

            with temporary_settings({PREFECT_API_URL: server.url}):
                yield
                APILogHandler().flush()


@pytest.fixture
def notes(database: Target, monkeypatch: pytest.MonkeyPatch) -> Target:
    execute(database, SCHEMA)
    monkeypatch.setenv("LOCKSTEP_NOTES_URL", database.conninfo)
    return Target("notes", database.conninfo)


def execute(target: Target, script: str) -> None:
    with psycopg.connect(target.conninfo, autocommit=True) as connection:
        connection.execute(script.encode())


def columns(target: Target) -> set[str]:
    with psycopg.connect(target.conninfo) as connection:
        rows = connection.execute("SELECT attname FROM pg_attribute WHERE attrelid = 'note'::regclass AND attnum > 0")
        return {name for (name,) in rows if not name.startswith("........")}


def check(name: str, condition: str, *, severity: Severity = "CRITICAL", corruption: bool = False) -> Gate:
    """A gate of one check: no row of the table meets the condition."""
    failing = f"(SELECT count(*) FROM note WHERE {condition})"
    sample = f"(SELECT coalesce(jsonb_agg(id), '[]') FROM note WHERE {condition})"
    text = f"SELECT {failing}, (SELECT count(*) FROM note), {sample}, '{{}}'::jsonb"
    found = Check(
        id=name, kind="rule", title=name, severity=severity, table=TABLE, sql=text, corruption=corruption
    )  # fmt: skip
    return Gate(name=name, title=name, checks=(found,))


def step(name: str, statement: str, *undo: str, irreversible: str = "") -> Step:
    way_back: tuple[Action, ...] | Irreversible = tuple(Transaction(statements=(text,)) for text in undo)
    return Step(
        id=name,
        title=name,
        action=Transaction(statements=(statement,)),
        undo=Irreversible(reason=irreversible) if irreversible else way_back,
    )


def make_plan(target: Target, **changes: Any) -> Plan:
    """Four phases on the table `note`: a new column, a check, a comment as the switch, and the old column dropped."""
    with connect(target, role="test") as connection:
        before = schema_hash(snapshot(connection), (TABLE,))
    phases = (
        Phase(
            name="expand",
            purpose="Add the new column",
            application="Nothing",
            steps=(
                step("e1", "ALTER TABLE note ADD COLUMN length int", "ALTER TABLE note DROP COLUMN length"),
                step("e2", "UPDATE note SET length = char_length(text)"),
            ),
            gate_before=check("not-empty", "text = ''"),
        ),
        Phase(
            name="constrain",
            purpose="Check the new column",
            application="Nothing",
            steps=(
                step(
                    "c1",
                    "ALTER TABLE note ADD CONSTRAINT positive CHECK (length > 0) NOT VALID",
                    "ALTER TABLE note DROP CONSTRAINT positive",
                ),
            ),
            gate_after=check("equality", "length IS DISTINCT FROM char_length(text)"),
        ),
        Phase(
            name="switch",
            purpose="Open the new shape",
            application="Deploy",
            steps=(step("s1", "COMMENT ON TABLE note IS 'switched'", "COMMENT ON TABLE note IS NULL"),),
            approval=Approval(question="Deploy the new version?"),
        ),
        Phase(
            name="contract",
            purpose="Drop the old column",
            application="Nothing",
            steps=(step("x1", "ALTER TABLE note DROP COLUMN words", irreversible="the old column is gone"),),
            approval=Approval(question="Remove the old shape?"),
        ),
    )
    plan = Plan(
        name=NAME,
        database="notes",
        strategy="expand-contract",
        why="a test",
        change="",
        change_hash="0",
        server_version=160000,
        phases=phases,
        tables=(TABLE,),
        scope=(TABLE,),
        schema_before=before,
        reverse="name: note-v1\n",
    )
    return plan.model_copy(update=changes)


def with_gate(plan: Plan, phase: str, gate: Gate) -> Plan:
    """The same plan with another gate after one phase."""
    changed = tuple(
        found.model_copy(update={"gate_after": gate}) if found.name == phase else found for found in plan.phases
    )
    return plan.model_copy(update={"phases": changed})


def register(target: Target, plan: Plan) -> None:
    with connect(target, role="test") as connection:
        Ledger(connection).register(plan, "")


def run(**options: Any) -> Any:
    from flows.expand_contract import expand_contract

    return expand_contract(NAME, "notes", **options)


def approve(target: Target, subject: str, **options: Any) -> None:
    with connect(target, role="test") as connection:
        Ledger(connection).approve(NAME, subject, who="tester", **options)


def states(standing: Standing) -> list[PhaseState]:
    return [standing.phases[phase].state for phase in PHASES if phase in standing.phases]


def attempts(standing: Standing) -> list[int]:
    return [standing.phases[phase].attempts for phase in PHASES]


def test_a_run_goes_as_far_as_the_approvals_and_no_further(notes: Target) -> None:
    from tasks.approval import approve_next

    register(notes, make_plan(notes, soak_seconds=3600))
    outcome = run()
    assert outcome.kind == "waiting"
    assert "Deploy the new version?" in outcome.what
    assert "lockstep approve note-v2" in outcome.remedy
    standing = standing_of(notes, NAME)
    assert standing.state is MigrationState.WAITING
    assert states(standing) == [PhaseState.DONE, PhaseState.DONE, PhaseState.PENDING, PhaseState.PENDING]
    assert standing.record.switched_at is None

    approve(notes, "switch")
    assert run().kind == "waiting"
    standing = standing_of(notes, NAME)
    assert attempts(standing) == [1, 1, 1, 0]
    assert standing.record.switched_at is not None
    wait = standing.waits_for
    assert wait is not None
    assert (wait.reason, wait.subject) == ("soak", "contract")
    assert wait.until == standing.record.switched_at + timedelta(hours=1)

    approve(notes, "contract")
    assert run().kind == "waiting", "an approval does not shorten the soak"
    given = standing_of(notes, NAME).approvals
    with pytest.raises(Waiting, match="approved already, by tester") as due:
        approve_next(notes, NAME, who="another", why="", waive_soak=False)
    assert "--waive-soak" in str(due.value.remedy)
    assert standing_of(notes, NAME).approvals == given
    approve(notes, "contract", waive_soak=True, why="a test")
    assert run().kind == "finished"
    standing = standing_of(notes, NAME)
    assert standing.state is MigrationState.FINISHED
    assert attempts(standing) == [1, 1, 1, 1]
    assert columns(notes) == {"id", "text", "length"}

    again = run()
    assert (again.kind, again.what) == ("nothing", "note-v2: nothing to do, it is finished.")
    assert attempts(standing_of(notes, NAME)) == [1, 1, 1, 1]


def test_until_and_approvals_given_in_advance(notes: Target) -> None:
    register(notes, make_plan(notes))
    assert run(until="expand").kind == "stopped"
    assert states(standing_of(notes, NAME))[:2] == [PhaseState.DONE, PhaseState.PENDING]
    assert run(approved_by="me (--yes)").kind == "finished"
    approvals = standing_of(notes, NAME).approvals
    assert [(approval.phase, approval.who) for approval in approvals] == [
        ("switch", "me (--yes)"),
        ("contract", "me (--yes)"),
    ]


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


def test_the_scheduled_flow_carries_on_what_is_due(notes: Target) -> None:
    from flows.continue_due import continue_due

    register(notes, make_plan(notes))
    assert continue_due("notes") == (), "planned is not due: somebody has to start it"
    run()
    assert continue_due("notes") == ()
    approve(notes, "switch")
    assert continue_due("notes") == (NAME,)
    assert standing_of(notes, NAME).phases["switch"].state is PhaseState.DONE


def in_window(plan: Plan, window: Window) -> Plan:
    """The same plan with a window, which its phase `constrain` needs."""
    phases = tuple(phase.model_copy(update={"heavy": phase.name == "constrain"}) for phase in plan.phases)
    return plan.model_copy(update={"phases": phases, "window": window})


def test_a_closed_window_ends_a_run_waiting_and_the_scheduled_flow_goes_on_when_it_is_open(notes: Target) -> None:
    from flows.continue_due import continue_due
    from tasks.approval import approve_next

    plan = make_plan(notes)
    register(notes, in_window(plan, shut(notes)))
    outcome = run()
    assert outcome.kind == "waiting"
    assert outcome.what.startswith("note-v2 waits in constrain: The maintenance window (every day ")
    assert "lockstep run note-v2 --database notes --ignore-window" in outcome.remedy
    standing = standing_of(notes, NAME)
    assert standing.state is MigrationState.WAITING
    assert states(standing)[:2] == [PhaseState.DONE, PhaseState.PENDING]
    with pytest.raises(Waiting, match="opens on"):
        approve_next(notes, NAME, who="tester", why="", waive_soak=False)
    assert standing_of(notes, NAME).approvals == ()
    assert continue_due("notes") == ()

    register(notes, in_window(plan, open_for(notes, 600)))
    assert continue_due("notes") == (NAME,)
    assert states(standing_of(notes, NAME))[:2] == [PhaseState.DONE, PhaseState.DONE]
    assert continue_due("notes") == (), "now it waits for a person"


def test_the_gate_of_a_heavy_phase_waits_for_the_window_too(notes: Target) -> None:
    from tasks.narration import show_progress

    plan = make_plan(notes)
    register(notes, in_window(plan, shut(notes)))
    run()
    with open_runner(notes, NAME) as runner:
        runner.run_phase_at_any_time("constrain", show_progress)
    outcome = run()
    assert (outcome.kind, "opens on" in outcome.what) == ("waiting", True)
    assert standing_of(notes, NAME).gates.keys() == {("expand", "not-empty")}
    assert attempts(standing_of(notes, NAME))[:2] == [1, 1]
    register(notes, in_window(plan, open_for(notes, 600)))
    assert "Deploy the new version?" in run().what
    assert attempts(standing_of(notes, NAME))[:2] == [1, 1]


def test_a_window_is_ignored_on_request_and_that_is_recorded(notes: Target) -> None:
    register(notes, in_window(make_plan(notes), shut(notes)))
    assert run(ignore_window=True, approved_by="me (--yes)").kind == "finished"
    (ignored,) = [event for event in standing_of(notes, NAME).events if event.kind == "window_ignored"]
    assert ignored.detail["who"] == "me (--yes)"
    assert ignored.detail["window"].startswith("every day ")


def test_cleanup_keeps_a_summary_only(notes: Target) -> None:
    from tasks.cleanup import clean_up

    register(notes, make_plan(notes))
    run()
    with pytest.raises(UsageError, match="is not over"):
        clean_up(notes, NAME)
    run(approved_by="tester")
    assert clean_up(notes, NAME) > 0
    standing = standing_of(notes, NAME)
    assert standing.state is MigrationState.CLEANED
    assert (standing.phases, standing.steps, standing.approvals) == ({}, (), ())
    assert standing.was is MigrationState.FINISHED
    summary = [event.detail for event in standing.events if event.kind == "summary"]
    assert summary[0]["phases"]["contract"]["state"] == "done"
    assert clean_up(notes, NAME) == 0


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


def test_an_unknown_name_is_told_so(notes: Target) -> None:
    from flows.expand_contract import expand_contract

    with pytest.raises(UnknownMigration, match="no migration of that name"):
        expand_contract("never-seen", notes.name)
