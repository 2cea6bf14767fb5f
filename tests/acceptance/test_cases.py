"""Every folder in cases/: forward, back, and forward to the end, under clients that write throughout."""

from __future__ import annotations

import itertools
import time

import pytest
import yaml

from tasks.database.connection import Target
from tasks.planning.checks.sync import RECONNECT_SECONDS
from tests.acceptance.harness import (
    CASES_FOLDER,
    Case,
    Lockstep,
    another_database,
    assert_equal,
    cases,
    execute,
    planned_phases,
    query,
)
from tests.acceptance.shell import ROOT
from tests.acceptance.writers import Writers, replay

CASES = cases()
ON_EVERY_VERSION = {"intake_v2", "rename_with_unique_and_fk_index"}
WHILE = 0.5
"""Seconds for which the writers go on before and after each part, in the state that it leaves."""

LEFT_BEHIND = """
SELECT conname FROM pg_constraint WHERE conname LIKE 'lockstep%' AND connamespace <> 'lockstep'::regnamespace
UNION ALL
SELECT attname FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
 WHERE attname LIKE 'lockstep%' AND NOT attisdropped AND relnamespace <> 'lockstep'::regnamespace
UNION ALL
SELECT tgname FROM pg_trigger WHERE tgname LIKE '%lockstep%' AND NOT tgisinternal
"""

WITH_A_WAY_BACK = """
SELECT p.phase ->> 'name', p.phase ->> 'name' <> 'contract' AND NOT jsonb_path_exists(p.phase, '$.steps[*].undo.reason')
  FROM lockstep.migration, jsonb_array_elements(plan -> 'phases') WITH ORDINALITY AS p (phase, number)
 ORDER BY p.number
"""


@pytest.fixture(
    params=[
        pytest.param(case, id=case.name, marks=[pytest.mark.every_version] if case.name in ON_EVERY_VERSION else [])
        for case in CASES
    ]
)
def case(request: pytest.FixtureRequest, database: Target) -> Case:
    found: Case = request.param
    execute(database, *found.setup)
    return found


def test_rollback_leaves_everything_as_it_was(case: Case, lockstep: Lockstep, database: Target) -> None:
    with Writers(database.conninfo, case.workload) as writers:
        time.sleep(WHILE)
        lockstep.must("run", str(case.spec), "--until", "expand")
        lockstep.must("run", str(case.spec), "--until", last_reversible_phase(database), "--yes")
        time.sleep(WHILE)
        lockstep.must("rollback", case.migration, "--old-version-deployed")
        time.sleep(WHILE)
    assert writers.errors == []
    old = writers.acknowledged("old")
    assert old
    with another_database(database) as copy:
        execute(copy, *case.setup)
        replay(copy.conninfo, old)
        assert_equal(database, copy)


def test_completion_equals_the_plain_sql(case: Case, lockstep: Lockstep, database: Target) -> None:
    with Writers(database.conninfo, case.workload) as writers:
        time.sleep(WHILE)
        lockstep.must("run", str(case.spec), "--until", "expand")
        if "switch" in recorded_phases(database):
            lockstep.must("run", str(case.spec), "--until", "switch", "--yes")
            writers.become(writers.first_half, "new")
            time.sleep(WHILE)
            writers.become(writers.all, "new")
            # The gate counts a session that ended just now as one that may come back.
            time.sleep(RECONNECT_SECONDS + 1)
            lockstep.must("run", str(case.spec), "--yes", "--waive-soak")
        else:
            # Nothing of the old shape goes: both versions may run for ever.
            lockstep.must("run", str(case.spec), "--yes")
            writers.become(writers.all, "new")
        time.sleep(WHILE)
    assert writers.errors == []
    old, new = writers.acknowledged("old"), writers.acknowledged("new")
    assert old
    assert new
    with another_database(database) as copy:
        execute(copy, *case.setup)
        replay(copy.conninfo, old)
        execute(copy, case.expected)
        replay(copy.conninfo, new)
        assert_equal(database, copy)
    assert planned_phases(lockstep.must("plan", str(case.spec), "--format", "json")) == []
    assert_nothing_left(database)
    lockstep.must("run", str(case.spec))


def last_reversible_phase(database: Target) -> str:
    """Return the last phase before contract from which the recorded plan leads back: the switch, where there is one."""
    found = query(database, WITH_A_WAY_BACK)
    return str([name for name, _ in itertools.takewhile(lambda phase: phase[1], found)][-1])


def recorded_phases(database: Target) -> list[str]:
    return [name for (name,) in query(database, "SELECT phase FROM lockstep.phase ORDER BY position")]


def assert_nothing_left(database: Target) -> None:
    """Nothing of Lockstep hangs on the application's tables."""
    assert query(database, LEFT_BEHIND) == []


def test_the_demo_s_spec_is_a_case() -> None:
    example = yaml.safe_load((ROOT / "examples" / "drink-water" / "intake-v2.yaml").read_text(encoding="utf-8"))
    case = yaml.safe_load((CASES_FOLDER / "intake_v2" / "spec.yaml").read_text(encoding="utf-8"))
    for document in (example, case):
        for differing in ("database", "window", "queries"):
            document.pop(differing, None)
        document["gates"].pop("suites", None)
    assert case == example
