"""A small migration planned by hand: ``readings.litres`` gets a twin ``millilitres``, kept in step by a trigger."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.database.connection import Target, connect
from tasks.database.ledger import Ledger
from tasks.database.progress import Progress
from tasks.database.runner import open_runner
from tasks.planning.names import TableName
from tasks.planning.plan import (
    Action,
    Analyze,
    Assignment,
    Backfill,
    BuildIndex,
    DropIndex,
    LockUse,
    Phase,
    Plan,
    Step,
    Transaction,
)

NAME = "readings-v2"
READINGS = TableName("public", "readings")
ROOT = Path(__file__).parents[2]
SPEC_TEXT = "name: readings-v2\n"
FILL = "backfill/fill"

SYNC = """
CREATE FUNCTION lockstep.sync_readings() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN NEW.millilitres := NEW.litres * 1000; NEW.lockstep_pending := 0; RETURN NEW; END $$
"""
TRIGGER = """
CREATE TRIGGER zzz_lockstep_sync BEFORE INSERT OR UPDATE ON public.readings FOR EACH ROW
WHEN (current_setting('lockstep.direction', true) IS DISTINCT FROM 'none') EXECUTE FUNCTION lockstep.sync_readings()
"""
EXPAND = (
    "ALTER TABLE public.readings ADD COLUMN millilitres integer, ADD COLUMN lockstep_pending int NOT NULL DEFAULT 1",
    SYNC,
    TRIGGER,
)
CONTRACT_EXPAND = (
    "DROP TRIGGER zzz_lockstep_sync ON public.readings",
    "DROP FUNCTION lockstep.sync_readings()",
    "ALTER TABLE public.readings DROP COLUMN millilitres, DROP COLUMN lockstep_pending",
)


def ignore(progress: Progress) -> None:
    """Progress interests nobody here."""


def transaction(
    name: str, *statements: str, undo: Sequence[str] = (), lock_timeout_ms: int = 200, statement_timeout_ms: int = 5_000
) -> Step:
    """A transactional step on ``readings``."""
    return Step(
        id=name,
        title=name,
        action=Transaction(statements=tuple(statements)),
        undo=(Transaction(statements=tuple(undo)),) if undo else (),
        locks=(LockUse(table=READINGS, mode="ACCESS EXCLUSIVE"),),
        lock_timeout_ms=lock_timeout_ms,
        statement_timeout_ms=statement_timeout_ms,
    )


def step(name: str, action: Action, *undo: Action, statement_timeout_ms: int = 60_000) -> Step:
    return Step(id=name, title=name, action=action, undo=undo, statement_timeout_ms=statement_timeout_ms)


def backfill(
    expression: str = "litres * 1000",
    key: tuple[str, ...] = ("id",),
    types: tuple[str, ...] = ("bigint",),
    *,
    personal_key: bool = False,
) -> Backfill:
    return Backfill(
        table=READINGS,
        key=key,
        key_types=types,
        unfilled="(lockstep_pending & 1) <> 0",
        assignments=(
            Assignment(column="millilitres", expression=expression),
            Assignment(column="lockstep_pending", expression="lockstep_pending & ~1"),
        ),
        personal_key=personal_key,
    )


INDEX = BuildIndex(
    table=READINGS,
    index="readings_millilitres",
    statement="CREATE INDEX CONCURRENTLY readings_millilitres ON public.readings (millilitres)",
)


def phase(name: str, *steps: Step) -> Phase:
    return Phase(name=name, purpose=name, application="", steps=steps)


def plan(
    *phases: Phase, name: str = NAME, change_hash: str = "one", tables: tuple[TableName, ...] = (READINGS,)
) -> Plan:
    """The given phases, or the whole small migration."""
    whole = (
        phase("expand", transaction("expand/readings", *EXPAND, undo=CONTRACT_EXPAND)),
        phase("backfill", step("backfill/analyze", Analyze(table=READINGS)), step(FILL, backfill())),
        phase("constrain", step("constrain/index", INDEX, DropIndex(table=READINGS, index="readings_millilitres"))),
    )
    return Plan(
        name=name,
        database="test",
        strategy="expand-contract",
        why="",
        change="",
        change_hash=change_hash,
        server_version=160000,
        phases=phases or whole,
        tables=tables,
        settings=(("TimeZone", "UTC"), ("search_path", "public")),
    )


def create_readings(target: Target, rows: int) -> None:
    with connect(target, role="test") as connection:
        connection.execute("CREATE TABLE readings (id bigint PRIMARY KEY, litres integer NOT NULL)")
        connection.execute("INSERT INTO readings SELECT n, n %% 90 FROM generate_series(1, %s::int) AS n", (rows,))


def register(target: Target, wanted: Plan) -> None:
    with connect(target, role="test") as connection:
        Ledger(connection).register(wanted, SPEC_TEXT)


def ask(target: Target, question: str) -> list[tuple[object, ...]]:
    """Run statements and return the rows of the last one, none where it has no result."""
    with connect(target, role="test") as connection:
        cursor = connection.execute(question.encode())
        while cursor.nextset():
            pass
        return cursor.fetchall() if cursor.description else []


def start_phase(
    target: Target, name: str, environment: Mapping[str, str], *, migration: str = NAME
) -> subprocess.Popen[str]:
    """Run a phase, or undo it (``undo:<phase>``), in a process of its own; exit code 0 when done, errors on stderr."""
    command = [sys.executable, "-m", "tests.integration.synthetic", target.conninfo, migration, name]
    return subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _main(conninfo: str, migration: str, name: str) -> None:
    # A shell's background job, which the tests may be, has it ignored, and so would this process.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open_runner(Target("test", conninfo), migration) as runner:
        if name.startswith("undo:"):
            runner.undo_phase(name.removeprefix("undo:"), ignore)
            return
        runner.run_phase(name, ignore)
        runner.finish_phase(name)


if __name__ == "__main__":
    _main(*sys.argv[1:])
