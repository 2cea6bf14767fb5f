"""Pause, resume and changed limits from a command line beside the one that runs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tasks.database.connection import Target
from tests.acceptance.harness import DATABASE, VARIABLE, Lockstep, execute, query
from tests.acceptance.shell import ROOT

ROWS = 20_000
SPEC = """
name: readings-v2
change: |
  ALTER TABLE readings ADD COLUMN millilitres integer NOT NULL;
mapping:
  readings.millilitres: {up: "litres * 1000"}
approvals: []
throttle: {rows_per_second: 1000, sql: ["SELECT now() > '2001-01-01'"]}
"""


def test_pause_change_of_limits_and_resume(
    lockstep: Lockstep, environment: Mapping[str, str], database: Target, tmp_path: Path
) -> None:
    execute(
        database,
        b"CREATE TABLE readings (id bigint PRIMARY KEY, litres integer NOT NULL);"
        b"INSERT INTO readings SELECT n, n % 90 FROM generate_series(1, 20000) AS n",
    )
    spec = tmp_path / "readings-v2.yaml"
    spec.write_text(SPEC)
    running = subprocess.Popen(
        [sys.executable, "-c", "from flows.cli import main; main()", "run", str(spec), "--database", DATABASE],
        cwd=ROOT, env={**os.environ, **environment, VARIABLE: database.conninfo}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        wait_until(running, lambda: filled(database) > 0)
        assert lockstep.must("status", "readings-v2", "--format", "json").json["state"] == "running"
        paused = lockstep.must("pause", "readings-v2", "--why", "the evening's peak")
        began = time.monotonic()
        assert "stops within seconds" in paused.out
        out, err = running.communicate(timeout=120)
    finally:
        running.kill()
    # Prefect's own end takes the rest of it.
    assert time.monotonic() - began < 60
    assert running.returncode == 3, err
    assert "lockstep resume readings-v2" in out
    assert 0 < filled(database) < ROWS

    told = lockstep.must("status", "readings-v2", "--format", "json").json
    assert told["state"] == "waiting"
    assert told["waits_for"]["reason"] == "pause"
    assert "the evening's peak" in told["next"]
    again = lockstep.must("run", str(spec), code=3)
    assert "the evening's peak" in again.out
    assert "lockstep resume readings-v2" in again.out
    assert lockstep.must("status", "readings-v2", "--format", "json").json["state"] == "waiting"

    limits = lockstep.must("throttle", "readings-v2", "--rows-per-second", "off", "--format", "json").json
    assert limits["limits"]["rows_per_second"] is None
    assert limits["changed"] == ["rows_per_second"]
    assert limits["load"]["lock_waiters"] == 0
    assert "changed by hand" in lockstep.must("throttle", "readings-v2").out
    assert "write a number and a unit" in lockstep.must("throttle", "readings-v2", "--slot-lag", "9", code=2).err
    assert "lockstep run readings-v2" in lockstep.must("resume", "readings-v2").out
    assert "is not paused" in lockstep.must("resume", "readings-v2", code=2).err
    lockstep.must("run", "readings-v2")
    wrong = "SELECT count(*) FROM readings WHERE millilitres IS DISTINCT FROM litres * 1000"
    assert query(database, wrong) == [(0,)]
    assert "is over" in lockstep.must("pause", "readings-v2", code=2).err


def wait_until(running: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def filled(database: Target) -> int:
    """How many rows the backfill has filled; 0 before it begins."""
    if query(database, "SELECT FROM pg_attribute WHERE attrelid = 'readings'::regclass AND attname = 'millilitres'"):
        return int(query(database, "SELECT count(*) FROM readings WHERE millilitres IS NOT NULL")[0][0])
    return 0
