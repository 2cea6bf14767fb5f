"""Retry in the Prefect UI: a deployed run fails on one worker, is repaired, and goes on at its phase on another.

A real server, real process workers, prefect.yaml as it is, and the request that the UI's Retry button sends.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tasks import prefect_server
from tasks.database.clone import scratch_server
from tasks.database.connection import Target
from tasks.planning.states import MigrationState, PhaseState
from tasks.standing import standing_of
from tests.conftest import server_major

ROOT = Path(__file__).parents[2]
SPEC = "examples/drink-water/intake-v2.yaml"
NAME = "intake-v2"
WAIT_SECONDS = 400
ENDED = {"Completed", "Failed", "Crashed", "Suspended", "Waiting"}
RETRY = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the UI"}, "force": False}
"""What the UI's `retryFlowRun` posts to /flow_runs/ID/set_state."""

TOO_MUCH = """
INSERT INTO water_intake (user_id, date_time_utc, volume, volume_unit)
SELECT 1, timestamp '2030-01-01' + n * interval '1 hour', 2000000, 'ML' FROM generate_series(1, 1100) AS n
"""
"""Writes of the old application that stand, and that numeric(8,2) cannot hold: over a thousand stop the backfill."""
REPAIR = "UPDATE water_intake SET volume = 200 WHERE volume = 2000000"

pytestmark = pytest.mark.timeout(1500)


@pytest.fixture
def environment(drink_water: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setenv("LOCKSTEP_DRINK_WATER_URL", drink_water.conninfo)
    monkeypatch.setenv("PREFECT_WORKER_QUERY_SECONDS", "1")
    with scratch_server(server_major()), prefect_server.serving(prefect_server.free_port(), tmp_path) as server:
        yield os.environ | prefect_server.PRIVATE | {"PREFECT_API_URL": server.url}


def prefect(environment: dict[str, str], *arguments: str) -> None:
    command = [sys.executable, "-m", "prefect", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def worker(environment: dict[str, str], name: str, log: Path) -> Iterator[None]:
    """A process worker; it and what it started are gone after the block."""
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "lockstep", "--name", name]
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=log.parent, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def until(told: Callable[[], Any], wanted: Callable[[Any], bool], log: Path) -> Any:
    deadline = time.monotonic() + WAIT_SECONDS
    while not wanted(found := told()):
        assert time.monotonic() < deadline, f"still {found}\n{log.read_text()[-6000:]}"
        time.sleep(0.5)
    return found


def execute(target: Target, statement: str) -> None:
    with psycopg.connect(target.conninfo, autocommit=True) as connection:
        connection.execute(statement.encode())


def test_a_retried_run_resumes_at_the_failed_phase_on_another_worker(
    environment: dict[str, str], drink_water: Target, tmp_path: Path
) -> None:
    prefect(environment, "work-pool", "create", "lockstep", "--type", "process")
    prefect(environment, "--no-prompt", "deploy", "--all")
    with httpx.Client(base_url=environment["PREFECT_API_URL"], timeout=30) as api:
        deployment = api.get("/deployments/name/expand-contract/expand-contract").json()
        schedules = api.get("/deployments/name/continue/continue").json()["schedules"]
        assert [schedule["schedule"]["timezone"] for schedule in schedules] == ["UTC"]

        def start(**parameters: str) -> str:
            place = f"/deployments/{deployment['id']}/create_flow_run"
            # On any day of the week: the window of the example is at the weekend.
            given = {"migration": SPEC, "ignore_window": True, **parameters}
            # The server's own database may be busy for a moment.
            answer = until(
                lambda: api.post(place, json={"parameters": given}), lambda got: got.status_code < 500, first_log
            )
            return str(answer.json()["id"])

        def state(run: str) -> str:
            return str(api.get(f"/flow_runs/{run}").json()["state_name"])

        first_log, second_log = tmp_path / "first.log", tmp_path / "second.log"
        with worker(environment, "first", first_log):
            until_expand = start(until="expand")
            until(lambda: state(until_expand), lambda name: name in ENDED, first_log)
            assert standing_of(drink_water, NAME).phases["expand"].state is PhaseState.DONE
            execute(drink_water, TOO_MUCH)
            run = start()
            assert until(lambda: state(run), lambda name: name in ENDED, first_log) == "Failed"
        standing = standing_of(drink_water, NAME)
        assert standing.state is MigrationState.FAILED
        assert standing.phases["backfill"].state is PhaseState.FAILED

        execute(drink_water, REPAIR)
        answer = api.post(f"/flow_runs/{run}/set_state", json=RETRY)
        assert answer.json()["status"] == "ACCEPT", answer.text
        with worker(environment, "second", second_log):
            assert until(lambda: state(run), lambda name: name in ENDED, second_log) == "Suspended"
            standing = standing_of(drink_water, NAME)
            assert {name: record.attempts for name, record in standing.phases.items()} == {
                "expand": 1, "backfill": 2, "constrain": 1, "switch": 0, "contract": 0,
            }  # fmt: skip
            assert standing.state is MigrationState.WAITING

            # The form that the UI shows for the suspended run. A busy server may ask for another try.
            form = {"run_input": {"approve": True, "who": "ada", "why": "looked at it"}}

            def resume() -> str:
                answer = api.post(f"/flow_runs/{run}/resume", json=form)
                return str(answer.json().get("status", answer.text))

            until(resume, lambda said: said == "ACCEPT", second_log)
            until(lambda: standing_of(drink_water, NAME).record.switched_at, lambda at: at is not None, second_log)
            assert until(lambda: state(run), lambda name: name in ENDED, second_log) == "Waiting"
        standing = standing_of(drink_water, NAME)
        assert [(found.phase, found.who, found.why) for found in standing.approvals] == [
            ("switch", "ada", "looked at it")
        ]
        wait = standing.waits_for
        assert wait is not None
        assert wait.reason == "soak"
