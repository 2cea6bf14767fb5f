"""A maintenance window through the command line: exit code 3, the scheduled flow, and --ignore-window."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tasks.database.connection import Target, connect
from tasks.database.ledger import Ledger
from tasks.planning.windows import Window
from tests.acceptance.harness import DATABASE, VARIABLE, Lockstep, execute, query
from tests.acceptance.shell import ROOT
from tests.integration.openings import open_for, shut

SCHEMA = b"""
CREATE TABLE person (id bigint PRIMARY KEY, code text NOT NULL);
INSERT INTO person SELECT n, n::text FROM generate_series(1, 500) AS n;
ANALYZE;
"""
SPEC = """
name: number
change: |
  ALTER TABLE person ALTER COLUMN code TYPE int USING code::int;
  ALTER TABLE person RENAME COLUMN code TO number;
  CREATE INDEX person_number ON person (number);
mapping:
  person.number: {{down: "number::text"}}
window: {{days: [{days}], start: "{start}", end: "{end}", timezone: UTC}}
"""
CONTINUE = f"from flows.continue_due import continue_due; print(continue_due({DATABASE!r}))"
FILLED = "SELECT count(*) FROM person WHERE number = code::int"


def spec_in(folder: Path, window: Window) -> str:
    path = folder / "number.yaml"
    path.write_text(SPEC.format(days=", ".join(window.days), start=window.start, end=window.end))
    return str(path)


def carry_on(environment: Mapping[str, str], target: Target) -> str:
    """Run the flow of the deployment `continue` in a process of its own and return what it carried on."""
    done = subprocess.run(
        [sys.executable, "-c", CONTINUE], cwd=ROOT, env={**os.environ, **environment, VARIABLE: target.conninfo},
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.timeout(600)
def test_a_window_holds_heavy_phases_back_until_it_opens_or_is_ignored(
    lockstep: Lockstep, environment: Mapping[str, str], database: Target, tmp_path: Path
) -> None:
    execute(database, SCHEMA)
    spec = spec_in(tmp_path, shut(database))
    document = lockstep.must("plan", spec).out
    assert "Maintenance window: every day" in document
    assert "Outside of it these phases rest, in the middle if need be: backfill, constrain." in document

    answer = lockstep.must("run", spec, code=3)
    assert "number waits in backfill: The maintenance window (every day" in answer.out
    assert f"lockstep run number --database {DATABASE} --ignore-window" in answer.out
    assert query(database, "SELECT count(*) FROM person WHERE number IS NOT NULL") == [(0,)]
    status = lockstep.must("status", "number").out
    assert "opens on" in status
    assert f"    lockstep run number --database {DATABASE} --ignore-window" in status.splitlines()
    document = lockstep.must("status", "number", "--format", "json").json
    assert (document["state"], document["waits_for"]["reason"]) == ("waiting", "window")
    assert carry_on(environment, database) == "()"

    answer = lockstep.must("run", spec, "--until", "backfill", "--ignore-window")
    assert "is ignored in this run, by" in answer.err
    assert query(database, FILLED) == [(500,)]
    lockstep.must("run", "number", code=3)
    with connect(database, role="test") as connection:
        stored = Ledger(connection).known_migration("number")
        Ledger(connection).register(stored.plan.model_copy(update={"window": open_for(database, 600)}), stored.spec)
    assert carry_on(environment, database) == "('number',)"
    document = lockstep.must("status", "number", "--format", "json").json
    assert document["waits_for"]["subject"] == "switch"
    assert query(database, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'person_number'::regclass") == [(True,)]
