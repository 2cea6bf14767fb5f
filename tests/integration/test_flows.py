"""The flows on a real database and a real Prefect server: order, approvals, windows, the schedule, the end."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks.database import oracle
from tasks.database.connection import Target
from tasks.database.runner import open_runner
from tasks.planning.errors import UnknownMigration, UsageError, Waiting
from tasks.planning.plan import Forecast, Plan
from tasks.planning.states import MigrationState, PhaseState
from tasks.planning.windows import Window
from tasks.standing import standing_of
from tests.integration.notes import NAME, approve, attempts, columns, execute, make_plan, register, run, states
from tests.integration.openings import open_for, shut
from tests.integration.staging import written

pytestmark = pytest.mark.usefixtures("prefect_here")


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


def test_how_wrong_the_forecast_was_is_told_and_kept(notes: Target) -> None:
    plan = make_plan(notes)
    first = plan.phases[0].steps[0].model_copy(update={"forecast": Forecast(best=60.0, worst=90.0)})
    phases = (plan.phases[0].model_copy(update={"steps": (first, *plan.phases[0].steps[1:])}), *plan.phases[1:])
    register(notes, plan.model_copy(update={"phases": phases}))
    assert run(approved_by="tester").kind == "finished"
    (told,) = [event.detail for event in standing_of(notes, NAME).events if event.kind == "forecast"]
    assert [(error["step"], error["verdict"]) for error in told["steps"]] == [(first.id, "quicker")]
    assert 0 < told["actual"] < 60


def test_what_a_run_records_is_foretold_from_its_database(
    database: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows are kept by these forecasts, and what they were wrong by is told at the end."""
    from flows.expand_contract import expand_contract
    from tasks import plan as planning

    documents: list[str] = []
    monkeypatch.setattr(planning, "publish_markdown", lambda _kind, _name, text: documents.append(text))
    monkeypatch.setenv("LOCKSTEP_BIG_URL", database.conninfo)
    execute(
        database,
        "CREATE TABLE big (id bigint PRIMARY KEY, n int NOT NULL);"
        "INSERT INTO big SELECT i, i FROM generate_series(1, 20000) AS i; ANALYZE big",
    )
    spec = written(tmp_path, "an-index", "CREATE INDEX big_n ON big (n);")
    built_in = [step.forecast for phase in oracle.plan(spec, database).phases for step in phase.steps]

    outcome: Any = expand_contract(str(tmp_path / "an-index.yaml"), "big")
    assert outcome.kind == "finished"

    recorded = standing_of(database, "an-index").plan
    foretold = [step.forecast for phase in recorded.phases for step in phase.steps]
    assert [(item.work, item.rows) for item in foretold] == [(item.work, item.rows) for item in built_in]
    assert foretold != built_in
    assert "### As it is today" in documents[0]
    # Another run goes on with what is recorded, and looks no more.
    outcome = expand_contract("an-index", "big")
    assert outcome.kind == "nothing"


@pytest.mark.parametrize(
    ("in_the_way", "gap"),
    [
        ("RAISE EXCEPTION 'no room'", "RaiseException (P0001)"),
        ("RAISE EXCEPTION USING ERRCODE = '55P03', MESSAGE = 'busy'", "holds the ledger's rows"),
    ],
)
def test_a_finished_run_is_finished_though_its_forecast_cannot_be_kept(
    notes: Target, in_the_way: str, gap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks import outcome

    published: list[str] = []
    monkeypatch.setattr(outcome, "publish_markdown", lambda _kind, _name, text: published.append(text))
    register(notes, make_plan(notes))
    execute(
        notes,
        f"CREATE FUNCTION lockstep.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {in_the_way}; END $$;"
        "CREATE TRIGGER refuse BEFORE INSERT ON lockstep.event FOR EACH ROW WHEN (NEW.kind = 'forecast')"
        " EXECUTE FUNCTION lockstep.refuse()",
    )
    assert run(approved_by="tester").kind == "finished"
    assert standing_of(notes, NAME).state is MigrationState.FINISHED
    assert "is finished" in published[-1]
    assert "The forecast could not be compared" in published[-1]
    assert gap in published[-1]


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


def test_an_unknown_name_is_told_so(notes: Target) -> None:
    from flows.expand_contract import expand_contract

    with pytest.raises(UnknownMigration, match="no migration of that name"):
        expand_contract("never-seen", notes.name)
