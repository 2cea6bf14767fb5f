"""The application's statements before, during and after a migration, with a ``kill -9`` in its middle."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from tasks import prefect_server
from tasks.application.application import Application
from tasks.application.client import Pace
from tasks.application.drink_water import EXAMPLE, fill
from tasks.application.latency import Timing
from tasks.application.stage import MIGRATION
from tasks.application.terminal import KILLED, Terminal
from tasks.database.clone import scratch_server
from tasks.database.connection import Target, connect, variable_name
from tasks.database.crash import VARIABLE
from tasks.database.ledger import Ledger
from tasks.planning.checks.sync import RECONNECT_SECONDS
from tasks.planning.plan import Backfill
from tests.benchmarks.stage import Stage
from tests.benchmarks.waits import Wait, Waits

DATABASE = "drink-water"
INTAKES_PER_USER = 40
CLIENTS = 8
THINKING = 0.04
"""Seconds between two operations of a client, so that clients and migration share the machine as in life."""
LOG_OF_A_ROW = 900
"""Bytes that the whole migration writes to the log, about."""


@dataclass(frozen=True)
class Span:
    """A part of the run, in seconds since its begin."""

    name: str
    begin: float
    end: float

    def holds(self, moment: float) -> bool:
        return self.begin <= moment < self.end


@dataclass(frozen=True)
class Weather:
    """What the application's users noticed, and whether anything of theirs was lost."""

    rows: int
    timings: tuple[Timing, ...]
    """Sent in seconds since the run's begin."""
    calm: Span
    migration: Span
    phases: tuple[Span, ...]
    killed_at: float
    errors: tuple[str, ...]
    lost: int
    """Rows that differ from what the application was told is written, through either shape, and wrong readings."""
    compared: int
    """Rows compared."""
    waits: tuple[Wait, ...]
    """What the application's sessions were seen waiting for, in seconds since the run's begin."""

    def during(self, span: Span) -> tuple[Timing, ...]:
        return tuple(timing for timing in self.timings if span.holds(timing.sent))


def migrate_under_load(stage: Stage, rows: int, calm_seconds: float, folder: Path) -> Weather:
    """Migrate drink-water with 8 clients writing: a calm time, the whole way, one kill in mid-backfill, a calm time.

    Raises RuntimeError when a command does not end as it must.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(scratch_server(stage.server.major))
        target = Target(DATABASE, stack.enter_context(_database(stage)))
        fill(target.conninfo, intakes=rows, users=max(20, rows // INTAKES_PER_USER))
        stage.keep_log_files(rows * LOG_OF_A_ROW)
        if "PREFECT_API_URL" not in os.environ:
            stack.enter_context(prefect_server.serving(prefect_server.free_port()))
        terminal = stack.enter_context(Terminal({variable_name(DATABASE): target.conninfo}))
        terminal.warm_up()
        run = _Run(target, terminal, _without_window(folder))
        application = stack.enter_context(Application(target.conninfo, pace=Pace(pause=THINKING)))
        waits = stack.enter_context(Waits(target.conninfo))
        began, wall = time.monotonic(), time.time()
        application.set_shapes(old=CLIENTS, new=0)
        time.sleep(calm_seconds)
        started = time.monotonic()
        killed = run.to_the_switch(rows)
        application.set_shapes(old=CLIENTS // 2, new=CLIENTS // 2)
        time.sleep(min(calm_seconds, 5))
        application.set_shapes(old=0, new=CLIENTS)
        time.sleep(RECONNECT_SECONDS + 1)  # the gate counts a session that ended just now as one that may come back
        run.to_the_end()
        finished = time.monotonic()
        time.sleep(calm_seconds)
        application.set_shapes(old=0, new=0)
        report, comparison = application.report(), application.compare()
        if not comparison.shapes:
            raise RuntimeError("nothing was compared")
        return Weather(
            rows=rows,
            timings=tuple(timing._replace(sent=timing.sent - began) for timing in application.timings),
            calm=Span("no migration", 0, started - began),
            migration=Span("the whole migration", started - began, finished - began),
            phases=run.phases(wall),
            killed_at=killed - began,
            errors=tuple(f"{error.shape} {error.statement}: {error.sqlstate}" for error in report.errors),
            lost=len(comparison.discrepancies) + len(report.discrepancies),
            compared=comparison.intakes,
            waits=tuple(wait._replace(at=wait.at - began) for wait in waits.seen),
        )


@dataclass(frozen=True)
class _Run:
    target: Target
    terminal: Terminal
    spec: Path

    def to_the_switch(self, rows: int) -> float:
        """Run up to the switch; the first runner is killed in mid-backfill. Return when that was (monotonic)."""
        self._lockstep("run", "--until", "expand")
        self.terminal.warm_up()
        with connect(self.target, role="benchmark") as connection:
            plan = Ledger(connection).known_migration(MIGRATION).plan
        steps = [step for phase in plan.phases for step in phase.steps if isinstance(step.action, Backfill)]
        (step,) = (step.id for step in steps if step.action.table.name == "water_intake")  # type: ignore[union-attr]
        self._lockstep("run", crash_at=f"during:{step}:{max(1, rows // 48_000)}", code=KILLED)
        killed = time.monotonic()
        self._lockstep("run", "--yes", "--until", "switch")
        return killed

    def to_the_end(self) -> None:
        self._lockstep("run", "--yes", "--waive-soak")

    def phases(self, wall: float) -> tuple[Span, ...]:
        """Return when the phases ran, in seconds since ``wall`` (``time.time``)."""
        with connect(self.target, role="benchmark") as connection:
            records = Ledger(connection).phases(MIGRATION)
        return tuple(
            Span(record.phase, record.started_at.timestamp() - wall, record.finished_at.timestamp() - wall)
            for record in records
            if record.started_at is not None and record.finished_at is not None
        )

    def _lockstep(self, command: str, *options: str, code: int = 0, crash_at: str | None = None) -> None:
        said: list[str] = []
        environment = {VARIABLE: crash_at} if crash_at else {}
        found = self.terminal.run((command, str(self.spec), *options), environment, said.append)
        if found != code:
            raise RuntimeError("\n".join([f"lockstep {command} {options} ended with {found}, not with {code}:", *said]))


@contextlib.contextmanager
def _database(stage: Stage) -> Iterator[str]:
    with stage.admin() as connection:
        connection.execute("CREATE DATABASE drink_water")
    try:
        yield stage.server.url("drink_water")
    finally:
        with stage.admin() as connection:
            connection.execute("DROP DATABASE drink_water WITH (FORCE)")


def _without_window(folder: Path) -> Path:
    """Return the example's spec without its maintenance window: a benchmark runs at any time of the day."""
    content = yaml.safe_load((EXAMPLE / "intake-v2.yaml").read_text())
    content.pop("window", None)
    path = folder / "intake-v2.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def percentile(timings: Sequence[Timing], share: float) -> float:
    """Return the milliseconds within which this share of the statements was answered; 0 without any."""
    ordered = sorted(timing.milliseconds for timing in timings)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0
