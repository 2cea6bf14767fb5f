"""The rehearsal of a plan: the whole migration on a clone that is filled with made-up rows, there, back and to the end.

The clone is on the embedded scratch server, with the live schema and rows of the live tables' shape
(`tasks.database.made_up_rows`). The same runner, executor and gates' SQL as in a run carry the plan out: first as far
as can be undone, then back, and every table must read as before; then to the end. Measured are the seconds of each
step, and how long it held the locks that keep writes waiting (`tasks.database.lock_log`).

The live database is read only: its schema, its statistics without their values, and how fast it computes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from tasks.database.calibration import computing_ratio
from tasks.database.catalog import snapshot
from tasks.database.clone import SchemaClone, scratch_place
from tasks.database.connection import Target, connect, session_limits
from tasks.database.failures import described
from tasks.database.inspection import require_usable
from tasks.database.ledger import Ledger
from tasks.database.lock_log import LockLog, watched
from tasks.database.made_up_rows import column_shapes, fill
from tasks.database.progress import Progress
from tasks.database.runner import open_runner
from tasks.planning.catalog import Catalog, Table
from tasks.planning.errors import LockstepError, Unsupported
from tasks.planning.live import LiveFacts
from tasks.planning.names import TableName
from tasks.planning.paces import table_of, undoing, work_of
from tasks.planning.plan import Gate, Irreversible, Phase, Plan, Step
from tasks.planning.rehearsal import (
    HeldLock,
    Rehearsal,
    RehearsedPhase,
    RehearsedStep,
    RehearsedTable,
    greatest,
    longest,
)
from tasks.planning.states import MigrationState, StepState
from tasks.planning.throttle import Limits

Connection = psycopg.Connection[TupleRow]

CHECK_TIMEOUT_MS = 600_000
LOCK_TIMEOUT_MS = 2_000


def rehearse(plan: Plan, target: Target, facts: LiveFacts, *, rows: int) -> Rehearsal:
    """Return how the plan went on a clone of its database with at most ``rows`` made-up rows in the largest table.

    A failure of the plan there is told, not raised. Raises Unsupported where the clone would have to be on the live
    server itself, which is no place for it; CannotConnect, MissingPrivilege, SchemaChanged as a plan does.
    """
    with scratch_place(target, require_usable(target)) as place:
        if isinstance(place, Target):
            raise Unsupported(
                "a rehearsal, because this schema needs an extension or a collation that only the live server has",
                instead="Restore a schema dump on a server that is there for tests, and plan with --rehearse there.",
            )
        server = f"PostgreSQL {place.major}"
        with SchemaClone(target, place) as clone:
            try:
                after = _carried_out(clone.fresh(), _freed(plan))
            except (LockstepError, psycopg.Error) as error:
                return Rehearsal(server=server, tables=(), failure=f"without any row, too: {_failure(error)}")
            with connect(target, role="plan") as live:
                shapes = column_shapes(live, plan, clone.live, after)
                stage = clone.fresh()
                with connect(stage, role="rehearsal", settings=plan.settings) as session:
                    ratio = computing_ratio(live, session)
                    tables = fill(session, plan, clone.live, after, facts, shapes, most=rows)
            return _Rehearsing(_freed(plan), stage, tables, clone.live).whole(server, ratio)


def _freed(plan: Plan) -> Plan:
    """Return the plan without what only the live server can answer: its throttle's questions, its window."""
    return plan.model_copy(update={"throttle": Limits(), "window": None})


def _carried_out(empty: Target, plan: Plan) -> Catalog:
    """Carry the plan out on a clone without rows, and return the catalog that it leads to."""
    with connect(empty, role="rehearsal", settings=plan.settings) as session:
        Ledger(session).register(plan, "")
    with open_runner(empty, plan.name) as runner:
        for phase in plan.phases:
            runner.run_phase_at_any_time(phase.name, _silent)
            runner.finish_phase(phase.name)
    with connect(empty, role="rehearsal") as session:
        return snapshot(session)


def _silent(_: Progress) -> None:
    """Nobody watches a rehearsal's progress."""


def _failure(error: LockstepError | psycopg.Error) -> str:
    return error.what if isinstance(error, LockstepError) else described(error)


class _Failed(Exception):
    """Something that must not be went wrong; told, not raised further."""


@dataclass(frozen=True)
class _Rehearsing:
    """The rehearsal on its filled clone."""

    plan: Plan
    stage: Target
    tables: tuple[RehearsedTable, ...]
    before: Catalog

    def whole(self, server: str, ratio: float | None) -> Rehearsal:
        began = time.monotonic()
        undone: dict[str, float] = {}
        gates: dict[str, float] = {}
        logs: dict[str, LockLog] = {}
        steps: dict[str, tuple[RehearsedStep, ...]] = {}
        failure, rolled_back = "", False
        try:
            rolled_back = self._there_and_back(undone)
            self._to_the_end(steps, gates, logs)
        except _Failed as failed:
            failure = str(failed)
        except (LockstepError, psycopg.Error) as error:
            failure = _failure(error)
        return Rehearsal(
            server=server,
            tables=self.tables,
            phases=tuple(
                RehearsedPhase(
                    phase=phase.name,
                    steps=steps[phase.name],
                    gates=gates.get(phase.name, 0.0),
                    gates_factor=self._factor(*self.plan.tables),
                    locks_seen=logs[phase.name].whole,
                    undo=undone.get(phase.name),
                    undo_factor=greatest(self._undo_factor(step) for step in phase.steps),
                )
                for phase in self.plan.phases
                if phase.name in steps
            ),
            seconds=time.monotonic() - began,
            ratio=ratio,
            rolled_back=rolled_back,
            failure=failure,
        )

    # -------------------------------------------------------------------------------------------- there, back, through

    def _there_and_back(self, undone: dict[str, float]) -> bool:
        """Carry out what can be undone, and undo it; whether there was anything, and every row is as before."""
        phases = tuple(_reversible(self.plan))
        if not phases:
            return False
        content = self._contents()
        self._register()
        with open_runner(self.stage, self.plan.name) as runner:
            for phase in phases:
                runner.run_phase_at_any_time(phase.name, _silent)
                runner.finish_phase(phase.name)
            runner.ledger.set_state(self.plan.name, MigrationState.ROLLING_BACK)
            for phase in reversed(phases):
                began = time.monotonic()
                runner.undo_phase(phase.name, _silent)
                undone[phase.name] = time.monotonic() - began
            runner.ledger.set_state(self.plan.name, MigrationState.ROLLED_BACK)
        changed = [str(name) for name, value in self._contents().items() if value != content[name]]
        if changed:
            raise _Failed(f"after going back, rows are not as before in {', '.join(changed)}")
        return True

    def _to_the_end(
        self, steps: dict[str, tuple[RehearsedStep, ...]], gates: dict[str, float], logs: dict[str, LockLog]
    ) -> None:
        self._register()
        with connect(self.stage, role="rehearsal-locks") as looking:
            for phase in self.plan.phases:
                seconds = self._pass(phase.gate_before)
                with watched(looking) as log, open_runner(self.stage, self.plan.name) as runner:
                    runner.run_phase_at_any_time(phase.name, _silent)
                    runner.settle(_silent)
                logs[phase.name] = log
                gates[phase.name] = seconds + self._pass(phase.gate_after)
                with open_runner(self.stage, self.plan.name) as runner:
                    runner.finish_phase(phase.name)
                steps[phase.name] = tuple(self._steps(phase, log))

    def _register(self) -> None:
        with connect(self.stage, role="rehearsal", settings=self.plan.settings) as session:
            ledger = Ledger(session)
            ledger.register(self.plan, "")
            ledger.set_state(self.plan.name, MigrationState.RUNNING)

    def _steps(self, phase: Phase, log: LockLog) -> Iterator[RehearsedStep]:
        with connect(self.stage, role="rehearsal") as session:
            records = {record.step: record for record in Ledger(session).steps(self.plan.name)}
        spans: dict[str, tuple[datetime, datetime]] = {}
        for step in phase.steps:
            record = records[step.id]
            if record.state is not StepState.DONE or record.started_at is None or record.finished_at is None:
                raise _Failed(f"the step “{step.title}” is not recorded as done")
            spans[step.id] = record.started_at, record.finished_at
        held = log.by_span(spans)
        for step in phase.steps:
            began, ended = spans[step.id]
            yield RehearsedStep(
                phase=phase.name,
                step=step.id,
                title=step.title,
                seconds=(ended - began).total_seconds(),
                factor=self._factor(table_of(step)) if work_of(step) is not None else 1.0,
                locks=tuple(longest(HeldLock(table=s.table, mode=s.mode, seconds=s.seconds) for s in held[step.id])),
            )

    # -------------------------------------------------------------------------------------------- what must hold

    def _pass(self, gate: Gate | None) -> float:
        """Ask a gate's own checks, and return the seconds that took; suites of the user's are about real rows."""
        if gate is None:
            return 0.0
        began = time.monotonic()
        with connect(self.stage, role="rehearsal", settings=self.plan.settings) as session:
            session_limits(session, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=CHECK_TIMEOUT_MS)
            for check in gate.checks:
                row = session.execute(check.sql.encode()).fetchone()
                if row is not None and row[0] and check.severity == "CRITICAL":
                    raise _Failed(f"the gate {gate.name} found {row[0]} made-up rows that fail “{check.title}”")
        return time.monotonic() - began

    def _contents(self) -> Mapping[TableName, tuple[int, int]]:
        """Return the number of rows and a checksum over all columns of every table that was filled."""
        with connect(self.stage, role="rehearsal", settings=self.plan.settings) as session:
            session_limits(session, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=CHECK_TIMEOUT_MS)
            return {
                item.table: _content(session, table)
                for item in self.tables
                if (table := self.before.table(item.table)) is not None
            }

    # -------------------------------------------------------------------------------------------- to the live size

    def _factor(self, *names: TableName | None) -> float | None:
        return greatest(item.factor for item in self.tables if item.table in names)

    def _undo_factor(self, step: Step) -> float | None:
        if isinstance(step.undo, Irreversible):
            return 1.0
        works = [work for action in step.undo if (work := undoing(step, action)) is not None]
        return self._factor(*(table for _, tables in works for table in tables))


def _reversible(plan: Plan) -> Iterator[Phase]:
    for phase in plan.phases:
        if any(isinstance(step.undo, Irreversible) for step in phase.steps):
            return
        yield phase


def _content(session: Connection, table: Table) -> tuple[int, int]:
    columns = sql.SQL(", ").join(sql.Identifier(column.name) for column in table.columns)
    row = session.execute(
        sql.SQL(
            "SELECT count(*), coalesce(sum(pg_catalog.hashtextextended(ROW({})::text, 0)::numeric), 0) FROM {}"
        ).format(columns, table.name.identifier)
    ).fetchone()
    if row is None:
        raise LookupError("an aggregate returned no row")
    return int(row[0]), int(row[1])
