"""One run of the campaign: a random table, change, load and disturbance, and whether anything was lost."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import psycopg
import yaml

from tasks.database import oracle
from tasks.database.connection import Target, connect
from tasks.database.crash import VARIABLE
from tasks.database.ledger import Ledger
from tasks.planning.errors import UsageError
from tasks.planning.plan import Backfill, Irreversible, Plan
from tasks.planning.spec import load
from tests.acceptance.harness import another_database, assert_equal, execute
from tests.acceptance.shell import ROOT
from tests.acceptance.writers import Sent, Workload, Writers, replay
from tests.campaign.model import random_table
from tests.campaign.operations import random_change
from tests.campaign.runner import DATABASE, GATE_FAILS

NAME = "campaign"
WHILE = 0.15
MOST_ATTEMPTS = 30
DISTURBANCES = ("kill", "kill at a step", "cut", "block")


@dataclass
class Report:
    """What one run did and found; ``fault`` is empty when nothing was lost and nobody was refused."""

    seed: int
    kinds: tuple[str, ...] = ()
    outcome: str = ""
    """``completed``, ``rolled back from …``, or ``refused: …``"""
    disturbed: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    statements: int = 0
    """Acknowledged ones of the application, in both shapes."""
    in_new_shape: int = 0
    attempts: int = 0
    seconds: float = 0.0
    fault: str = ""


def one_run(place: Target, seed: int, kind: str | None = None) -> Report:
    """Play the run of this seed in a database of its own on the server of ``place``.

    ``kind`` is tried as the first kind of the change; without one chance decides.
    """
    began = time.monotonic()
    report = Report(seed)
    try:
        with another_database(place) as database, tempfile.TemporaryDirectory() as folder:
            _Run(report, database, Path(folder), Random(seed), kind).play()
    except AssertionError as difference:
        report.fault = str(difference)
    except Exception as error:  # noqa: BLE001  a run that breaks in another way is a fault of its own, not the end
        report.fault = f"{type(error).__name__}: {error}"
    report.seconds = time.monotonic() - began
    return report


class _Run:
    def __init__(self, report: Report, database: Target, folder: Path, chance: Random, kind: str | None) -> None:
        self._report = report
        self._database = database
        self._folder = folder
        self._chance = chance
        self._change = random_change(random_table(chance), chance, kind)
        self._table = self._change.table
        self._new = self._change.new_shape()
        report.kinds, report.rows = tuple(self._change.kinds), self._table.rows
        self._setup = [self._table.setup().encode(), "\n".join(self._change.setup).encode()]

    def play(self) -> None:
        execute(self._database, *self._setup)
        plan = self._plan()
        if plan is None:
            return
        workload = Workload(
            keys=self._table.rows,
            old=self._table.statements(self._chance) | self._change.old,
            new=self._new.statements(self._chance, untouched=self._change.sources) | self._change.new,
        )
        phases = [phase.name for phase in plan.phases]
        returnable = list(itertools.takewhile(lambda name: _can_be_undone(plan, name), phases))
        back_from = self._chance.choice(returnable or phases)
        goes_back = self._chance.random() < 0.3 and bool(returnable)
        with Writers(self._database.conninfo, workload, count=self._chance.randint(2, 4)) as writers:
            time.sleep(WHILE)
            if goes_back:
                self._attempts(plan, "until", back_from)
                self._attempts(plan, "undo")
                self._report.outcome = f"rolled back from {back_from}"
            else:
                self._complete(plan, phases, writers)
                self._report.outcome = "completed"
            time.sleep(WHILE)
        self._compare(writers, changed=not goes_back)

    def _plan(self) -> Plan | None:
        spec = self._folder / f"{NAME}.yaml"
        document = {
            "name": NAME, "change": "\n".join(self._change.statements), "mapping": self._change.mapping,
            "approvals": [],
        }  # fmt: skip
        spec.write_text(yaml.safe_dump(document, allow_unicode=True))
        loaded = load(spec)
        try:
            plan = oracle.plan(loaded, self._database)
        except UsageError as refusal:
            self._report.outcome = f"refused: {refusal.what.splitlines()[0]}"
            return None
        with connect(self._database, role="campaign") as connection:
            Ledger(connection).register(plan, loaded.text)
        return plan

    def _complete(self, plan: Plan, phases: list[str], writers: Writers) -> None:
        if "switch" in phases:
            self._attempts(plan, "until", "switch")
            writers.become(writers.first_half, "new")
            time.sleep(WHILE)
            writers.become(writers.all, "new")
        self._attempts(plan)
        writers.become(writers.all, "new")

    def _compare(self, writers: Writers, *, changed: bool) -> None:
        self._report.statements = sum(len(writer.log) for writer in writers.all)
        self._report.in_new_shape = len(writers.acknowledged("new"))
        assert writers.errors == [], f"{len(writers.errors)} statements failed: {writers.errors[:3]}"
        with another_database(self._database) as copy:
            execute(copy, *self._setup)
            replay(copy.conninfo, self._in_old_shape(writers, changed=changed))
            if changed:
                execute(copy, "\n".join(self._change.plain).encode())
                replay(copy.conninfo, writers.acknowledged("new"))
            assert_equal(self._database, copy)

    def _in_old_shape(self, writers: Writers, *, changed: bool) -> list[Sent]:
        """Return what the copy receives in the old shape.

        While the migration had deleted a row, a client's statement found none, and was told so; when the row is back
        after a rollback, it is as it was.
        """
        sent = writers.acknowledged("old")
        if changed or "delete_rows" not in self._report.kinds:
            return sent
        return [statement for statement in sent if statement.rows]

    # --- the runner and its enemies ------------------------------------------------------------------------------

    def _attempts(self, plan: Plan, *way: str) -> None:
        """Start the runner until it has done its part, disturbing the first attempts."""
        troubles = self._chance.sample(DISTURBANCES, self._chance.choice((0, 1, 1, 2)))
        code, said = -1, ""
        for _ in range(MOST_ATTEMPTS):
            trouble = troubles.pop() if troubles else None
            self._report.attempts += 1
            code, said = self._attempt(plan, way, trouble)
            if code == 0:
                return
            assert code != GATE_FAILS, said
            time.sleep(0.2)
        raise AssertionError(f"the runner did not get through: {code} {said}")

    def _attempt(self, plan: Plan, way: tuple[str, ...], trouble: str | None) -> tuple[int, str]:
        environment = os.environ | {"LOCKSTEP_LEASE_SECONDS": "1", DATABASE: self._database.conninfo}
        if trouble == "kill at a step":
            environment[VARIABLE] = self._crash_point(plan)
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.campaign.runner", NAME, *way],
            cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        delay = self._chance.uniform(0.4, 1.6)
        hold = self._chance.uniform(0.1, 1.0)
        with _disturbing(trouble, process, self._database, self._table.quoted, delay, hold):
            _, said = process.communicate(timeout=120)
        if trouble is not None:
            self._report.disturbed[trouble] += 1
        return process.returncode, said

    def _crash_point(self, plan: Plan) -> str:
        steps = [step for phase in plan.phases for step in phase.steps]
        step = self._chance.choice(steps)
        places = ["before", "after", "before-undo", "after-undo"]
        if isinstance(step.action, Backfill):
            return f"during:{step.id}:{self._chance.randint(1, 3)}"
        return f"{self._chance.choice(places)}:{step.id}"


def _can_be_undone(plan: Plan, phase: str) -> bool:
    steps = plan.phase(phase).steps
    return phase != "contract" and not any(isinstance(step.undo, Irreversible) for step in steps)


@contextmanager
def _disturbing(
    trouble: str | None, process: subprocess.Popen[str], database: Target, table: str, delay: float, hold: float
) -> Iterator[None]:
    """Do one thing to a runner ``delay`` seconds after its start, while the block waits for it."""
    acts = {"kill": _kill, "cut": _cut, "block": _block}
    if trouble not in acts:
        yield
        return
    act = acts[trouble]

    def later() -> None:
        time.sleep(delay)
        act(process, database, table, hold)

    thread = threading.Thread(target=later, daemon=True)
    thread.start()
    yield
    thread.join()


def _kill(process: subprocess.Popen[str], _database: Target, _table: str, _hold: float) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)


def _cut(_process: subprocess.Popen[str], database: Target, _table: str, _hold: float) -> None:
    """End every session of the runner at the server."""
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE 'lockstep:%'"
        )


def _block(_process: subprocess.Popen[str], database: Target, table: str, hold: float) -> None:
    """Hold a weak lock on the table in a transaction that does nothing else, as a forgotten session does.

    A table that the migration has renamed or dropped by then is not there to be locked.
    """
    gone = contextlib.suppress(psycopg.errors.UndefinedTable)
    with gone, psycopg.connect(database.conninfo) as connection:
        connection.execute(f"SELECT count(*) FROM {table}".encode())
        time.sleep(hold)
