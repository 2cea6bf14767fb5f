"""kill -9 of the runner at every step boundary and inside the backfill: the same rows as an undisturbed run's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
import pytest
from psycopg import sql

from tasks.application.drink_water import EXAMPLE, fill
from tasks.database import oracle
from tasks.database.connection import Target, connect
from tasks.database.ledger import Ledger
from tasks.planning.plan import Backfill, Plan
from tasks.planning.spec import load
from tasks.planning.states import PhaseState
from tests.acceptance.harness import assert_equal, content, query
from tests.acceptance.shell import ROOT, run_once
from tests.conftest import AnyServer

NAME = "intake-v2"
SPEC = EXAMPLE / "intake-v2.yaml"
ROWS = 2_000
# A short lease, so that the successor of a killed runner need not wait long.
QUICK = {"LOCKSTEP_LEASE_SECONDS": "1"}


@dataclass(frozen=True)
class Prepared:
    """A database with the migration's plan in its ledger and nothing done, to be copied by each test."""

    server: AnyServer
    database: str
    plan: Plan

    @contextmanager
    def copy(self, name: str) -> Iterator[Target]:
        source, copied = sql.Identifier(self.database), sql.Identifier(name)
        with psycopg.connect(self.server.url("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(copied, source))
            try:
                yield Target(name, self.server.url(name))
            finally:
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(copied))

    @property
    def steps(self) -> tuple[str, ...]:
        return tuple(step.id for phase in self.plan.phases for step in phase.steps)

    @property
    def backfills(self) -> tuple[str, ...]:
        return tuple(step.id for phase in self.plan.phases for step in phase.steps if isinstance(step.action, Backfill))


@pytest.fixture(scope="module")
def prepared(server: AnyServer) -> Iterator[Prepared]:
    name = f"kill_template_{os.getpid()}"
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    target = Target("drink-water", server.url(name))
    fill(target.conninfo, intakes=ROWS, users=100)
    loaded = load(SPEC)
    plan = oracle.plan(loaded, target)
    with connect(target, role="test") as connection:
        Ledger(connection).register(plan, loaded.text)
    yield Prepared(server, name, plan)
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="module")
def undisturbed(prepared: Prepared) -> Iterator[Target]:
    """The same migration, run in one go."""
    with prepared.copy(f"undisturbed_{os.getpid()}") as target:
        assert phases(target) == 0
        yield target


def phases(target: Target, *way: str, crash_at: str | None = None) -> int:
    """Run the remaining phases in a process of their own; return its exit code, -9 when it killed itself."""
    crash = {"LOCKSTEP_CRASH_AT": crash_at} if crash_at else {}
    command = [sys.executable, "-m", "tests.acceptance.phases", target.conninfo, NAME, *way]
    return subprocess.run(command, cwd=ROOT, env=os.environ | QUICK | crash, timeout=120, check=False).returncode


def test_a_kill_before_and_after_every_step(prepared: Prepared, undisturbed: Target) -> None:
    """One run, killed at every boundary in turn: each process gets no further than to the next one."""
    with prepared.copy(f"every_step_{os.getpid()}") as target:
        for step in prepared.steps:
            for place in ("before", "after"):
                assert phases(target, crash_at=f"{place}:{step}") == -signal.SIGKILL, f"{place} {step}"
        assert phases(target) == 0
        assert_equal(target, undisturbed)
        assert query(target, "SELECT count(*) FROM lockstep.step WHERE state <> 'done'") == [(0,)]


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_kill_inside_the_backfill(prepared: Prepared, undisturbed: Target, batch: int) -> None:
    step = next(step for step in prepared.backfills if "intake" in step or len(prepared.backfills) == 1)
    with prepared.copy(f"batch_{batch}_{os.getpid()}") as target:
        assert phases(target, crash_at=f"during:{step}:{batch}") == -signal.SIGKILL
        ((done,),) = query(target, "SELECT rows_done FROM lockstep.progress WHERE step = %s", step)
        assert 0 < done <= ROWS
        assert phases(target) == 0
        assert_equal(target, undisturbed)


def test_a_kill_at_every_batch_in_a_row(prepared: Prepared, undisturbed: Target) -> None:
    """Every process does one batch and dies: the cursor alone carries the backfill to its end."""
    (step, *_) = prepared.backfills
    with prepared.copy(f"batches_{os.getpid()}") as target:
        kills = 0
        while phases(target, crash_at=f"during:{step}:1") == -signal.SIGKILL:
            kills += 1
            assert kills < 20
        assert kills >= 2
        assert_equal(target, undisturbed)


def test_a_kill_and_a_rollback_leave_the_old_shape(prepared: Prepared) -> None:
    (step, *_) = prepared.backfills
    with prepared.copy(f"back_{os.getpid()}") as target, prepared.copy(f"before_{os.getpid()}") as before:
        assert phases(target, crash_at=f"during:{step}:1") == -signal.SIGKILL
        assert phases(target, "undo") == 0
        assert_equal(target, before)


def test_two_kills_of_the_command_line(prepared: Prepared, undisturbed: Target, environment: Mapping[str, str]) -> None:
    """As a user sees it: the same command again goes on, gates included."""
    (step, *_) = prepared.backfills
    constrain = prepared.plan.phase("constrain").steps[0].id
    with prepared.copy(f"command_line_{os.getpid()}") as target:
        own = dict(environment) | QUICK | {"LOCKSTEP_DRINK_WATER_URL": target.conninfo}
        run = ("run", str(SPEC), "--yes", "--waive-soak", "--ignore-window")
        for crash_at in (f"during:{step}:2", f"after:{constrain}"):
            killed = run_once(*run, environment=own | {"LOCKSTEP_CRASH_AT": crash_at})
            assert killed.code == -signal.SIGKILL, killed
        state = run_once("status", NAME, "--format", "json", environment=own)
        assert state.code == 0, state
        finished = run_once(*run, environment=own)
        assert finished.code == 0, finished
        assert_equal(target, undisturbed)
        again = run_once(*run, environment=own)
        assert again.code == 0, again
        assert "nothing to do" in (again.out + again.err).lower()


def test_the_undisturbed_run_is_right(prepared: Prepared, undisturbed: Target) -> None:
    """All the above compare with it, so it must not be empty or half done."""
    rows = content(undisturbed)["public.water_intake"]
    assert len(rows) == ROWS
    assert all('"volume_ml"' in row and '"date_time_utc"' not in row for row in rows)
    assert query(undisturbed, "SELECT DISTINCT state FROM lockstep.phase") == [(PhaseState.DONE.value,)]
    assert query(undisturbed, "SELECT count(*) FROM water_intake WHERE volume_ml IS NULL") == [(0,)]
    assert len(prepared.steps) > len(prepared.plan.phases)
