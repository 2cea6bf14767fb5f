"""The runbook's scripts, carried out with psql alone while the old version writes: there, back, and there to the end."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tasks.database import oracle
from tasks.database.connection import Target
from tasks.database.server import program
from tasks.database.runbook import scripts
from tasks.planning.checks.sync import RECONNECT_SECONDS
from tasks.planning.spec import load
from tests.acceptance.harness import CASES_FOLDER, Case, another_database, assert_equal, cases, execute
from tests.acceptance.writers import Writers, replay

REPRESENTATIVE = (
    "bigint_primary_key",
    "constraints_on_existing_columns",
    "data_changes",
    "intake_v2",
    "objects_come_and_go",
)
"""Every kind of action is in one of these; LOCKSTEP_EVERY_RUNBOOK=1 takes all cases."""
CHOSEN = [case for case in cases() if os.environ.get("LOCKSTEP_EVERY_RUNBOOK") or case.name in REPRESENTATIVE]


class ByHand:
    """Somebody with psql and the folder of scripts."""

    def __init__(self, target: Target, folder: Path, found: Mapping[str, str]) -> None:
        self._target = target
        self._folder = folder
        self.names = list(found)
        for name, text in found.items():
            (folder / name).write_text(text)

    def run(self, name: str, *options: str) -> subprocess.CompletedProcess[str]:
        command = [
            str(program("psql")),
            "-X",
            "-q",
            "-d",
            self._target.conninfo,
            *options,
            "-f",
            str(self._folder / name),
        ]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    def must(self, *names: str) -> None:
        """Run scripts as the runbook says: again after a lock that was not granted."""
        for name in names:
            for _ in range(50):
                done = self.run(name, "-v", "approved=yes")
                if "lock timeout" not in done.stderr and "run this again" not in done.stderr:
                    break
                time.sleep(0.1)
            assert done.returncode == 0, f"{name}:\n{done.stdout}{done.stderr}"

    def forward(self, *, last: str) -> list[str]:
        there = [name for name in self.names if "rollback" not in name]
        return there[: next(number for number, name in enumerate(there) if name.endswith(f"-{last}.sql")) + 1]

    def back(self, phases: list[str]) -> list[str]:
        wanted = [name.split("-", 1)[1] for name in phases]
        return [name for name in self.names if "rollback" in name and name.split("-rollback-")[1] in wanted]


@pytest.fixture(params=[pytest.param(case, id=case.name) for case in CHOSEN])
def case(request: pytest.FixtureRequest, database: Target) -> Iterator[Case]:
    found: Case = request.param
    execute(database, *found.setup)
    yield found


def test_with_psql_alone(case: Case, database: Target, tmp_path: Path) -> None:
    plan = oracle.plan(load(case.spec), database)
    hand = ByHand(database, tmp_path, scripts(plan))
    phases = [phase.name for phase in plan.phases]
    before_contract = [name for name in phases if name != "contract"]
    with Writers(database.conninfo, case.workload) as writers:
        there = hand.forward(last=before_contract[-1])
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
