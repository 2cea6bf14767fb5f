"""The runbook's scripts, carried out with psql alone while the old version writes: there, back, there to the end."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

import pytest

from tasks.database import oracle
from tasks.database.connection import Target
from tasks.database.runbook import scripts
from tasks.planning.checks.sync import RECONNECT_SECONDS
from tasks.planning.plan import Irreversible, Phase
from tasks.planning.spec import load
from tests.acceptance.harness import Case, another_database, assert_equal, cases, execute
from tests.acceptance.writers import Writers, replay
from tests.integration.by_hand import ByHand

REPRESENTATIVE = (
    "bigint_primary_key",
    "constraints_on_existing_columns",
    "data_changes",
    "intake_v2",
    "objects_come_and_go",
)
"""Every kind of action is in one of these; LOCKSTEP_EVERY_RUNBOOK=1 takes all cases."""
CHOSEN = [case for case in cases() if os.environ.get("LOCKSTEP_EVERY_RUNBOOK") or case.name in REPRESENTATIVE]


def leads_back(phase: Phase) -> bool:
    return not any(isinstance(step.undo, Irreversible) for step in phase.steps)


@pytest.fixture(params=[pytest.param(case, id=case.name) for case in CHOSEN])
def case(request: pytest.FixtureRequest, database: Target) -> Case:
    found: Case = request.param
    execute(database, *found.setup)
    return found


def test_with_psql_alone(case: Case, database: Target, tmp_path: Path) -> None:
    plan = oracle.plan(load(case.spec), database)
    hand = ByHand(database, tmp_path, scripts(plan))
    phases = [phase.name for phase in plan.phases]
    reversible = itertools.takewhile(lambda phase: phase.name != "contract" and leads_back(phase), plan.phases)
    last = [phase.name for phase in reversible][-1]
    with Writers(database.conninfo, case.workload) as writers:
        there = hand.forward(last=last)
        hand.must(*there)
        hand.must(*there)  # what is done is not done twice
        hand.must(*hand.back(there))
    assert writers.errors == []
    old = writers.acknowledged("old")
    assert old
    with another_database(database) as copy:
        execute(copy, *case.setup)
        replay(copy.conninfo, old)
        assert_equal(database, copy)
    time.sleep(RECONNECT_SECONDS + 1)  # the gate counts a session that ended just now as one that may come back
    hand.must(*hand.forward(last=phases[-1]))
    with another_database(database) as copy:
        execute(copy, *case.setup)
        replay(copy.conninfo, old)
        execute(copy, case.expected)
        assert_equal(database, copy)
