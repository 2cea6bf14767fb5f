"""Going back and going on, as the plan's own steps and gates say."""

from __future__ import annotations

import pytest

from tasks.planning.paces import BUILT_IN, foretold
from tasks.planning.plan import Forecast, Plan, TableFacts
from tasks.planning.recovery import announcements, going, going_back, recoveries, stalls, tiers
from tests.unit.test_report import EMPTY, INTAKE, PLAN

ROWS = 1_234_567


@pytest.fixture
def plan() -> Plan:
    facts = TableFacts(
        name=INTAKE, rows=ROWS, bytes=1, columns=(), constraints=(), indexes=(), dependents=(), referenced_by=(),
        weaknesses=(),
    )  # fmt: skip
    return PLAN.model_copy(update={"current": (facts,)})


def test_what_cannot_be_undone_has_no_time_and_the_reverse_migration(plan: Plan) -> None:
    found = recoveries(plan)
    assert [one.phase for one in found] == [phase.name for phase in plan.phases]
    assert found[0].takes is not None
    assert found[0].way == f"lockstep rollback {plan.name}"
    assert found[-1].takes is None
    assert found[-1].complexity.startswith("high: ")


def test_an_index_that_is_built_again_takes_its_time(plan: Plan) -> None:
    steps = [
        step.model_copy(update={"undo": (step.action,)})
        for phase in plan.phases
        for step in phase.steps
        if step.action.kind == "build_index"
    ]
    assert steps
    phase = plan.phases[1].model_copy(update={"steps": tuple(steps)})
    (found,) = recoveries(plan.model_copy(update={"phases": (phase,)}))
    build = foretold("build", ROWS, BUILT_IN["build"])
    assert found.takes == Forecast(best=build.best, worst=build.worst)
    slow = plan.model_copy(
        update={"phases": (phase,), "current": tuple(f.model_copy(update={"rows": 10**9}) for f in plan.current)}
    )
    assert [tier.holds.split(":")[0] for tier in tiers(slow)][:2] == ["not kept in the worst case"] * 2


def test_the_matrix_has_every_gate_and_what_is_waited_for(plan: Plan) -> None:
    rows = [criterion.what for criterion in going(plan)]
    assert rows[0] == "gate preflight, before expand"
    assert "gate equality, after backfill" in rows
    assert "time since the switch" in rows
    assert any(row.startswith("contract: ") for row in rows)
    assert [criterion.otherwise for criterion in going_back(plan)][-1] == "planned"


def test_who_hears_of_what(plan: Plan) -> None:
    said = announcements(plan)
    assert said[0].when == "before the first phase"
    assert [item for item in said if item.who == "who approves" and item.what == "Is the old version gone?"]
    assert said[-1].when == "at the end"


def test_writes_wait_only_for_locks_that_block_them(plan: Plan) -> None:
    found = stalls(plan)
    blocking = [s for p in plan.phases for s in p.steps if any(lock.mode == "ACCESS EXCLUSIVE" for lock in s.locks)]
    assert found.steps == len(blocking) > 0
    assert found.longest_wait_ms == max(step.lock_timeout_ms for step in blocking)


def test_a_step_works_under_its_lock_no_longer_than_its_timeout(plan: Plan) -> None:
    slow = Forecast(best=10, worst=90)
    phases = tuple(
        phase.model_copy(
            update={
                "steps": tuple(
                    s.model_copy(update={"forecast": slow, "statement_timeout_ms": 5_000}) for s in phase.steps
                )
            }
        )
        for phase in plan.phases
    )
    found = stalls(plan.model_copy(update={"phases": phases}))
    assert (found.work.best, found.work.worst) == (5, 5)


def test_nothing_to_do_has_nothing_to_go_back_from() -> None:
    for found in (tiers(EMPTY), going(EMPTY), going_back(EMPTY), announcements(EMPTY), recoveries(EMPTY)):
        assert found == ()
