"""What a plan will take on this database: seconds for each step, stalls, WAL and disk. And how wrong that was. Pure.

Everything is a range from best to worst. `forecast` makes it of the plan, the live facts and the known paces;
`forecast_error` compares the plan's own forecasts with what the ledger says the steps took.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil
from typing import Literal

from tasks.planning.fit import LEAST_FORECAST, Measured, window_notes
from tasks.planning.live import BLOCKS_WRITES, IndexFacts, LiveFacts, LiveTable, OpenTransaction, Unseen
from tasks.planning.names import TableName
from tasks.planning.paces import Pace, Paces, bytes_of, foretold, row_width, table_of, undo_forecast, work_of
from tasks.planning.plan import (
    Analyze,
    BuildIndex,
    CheckKind,
    DeleteRows,
    Forecast,
    Gate,
    Part,
    Plan,
    Reindex,
    Step,
    UpdateRows,
    Work,
)

ANALYZE = Forecast(best=0.1, worst=5.0)
"""ANALYZE reads a sample of 30,000 pages at the most, whatever the table's size."""

UPDATE_WAL_BYTES = 60
"""What the log needs for an update beside the new row itself: headers of the record, the old row's place."""
ENTRY_WAL_BYTES = 64
"""The same for an entry in an index, with a key of usual width."""
ENTRY_BYTES = (22, 56)
"""An index entry of one integer in a page filled to nine tenths, and one of a text of some thirty bytes."""
PRUNED_WAL = 0.67
"""A backfill fills a block's rows in turns, so that most stay in it (docs/benchmarks.md: a third less WAL)."""
GROWTH_BEST = 0.2
"""A backfill prunes behind itself (docs/benchmarks.md: 1.17 times the table)."""

_CHEAP: frozenset[CheckKind] = frozenset(
    {
        "schema", "index_validity", "constraint_validity", "sync_failures", "sync_conflicts", "old_writers",
        "sync_trigger", "unheld",
    }
)  # fmt: skip
"""Checks that read catalogs or the ledger only."""
CHEAP_CHECK = Forecast(best=0.01, worst=0.5)


class Volume(Part):
    """Bytes, at best and at worst."""

    best: int = 0
    worst: int = 0

    def __add__(self, other: Volume) -> Volume:
        return Volume(best=self.best + other.best, worst=self.worst + other.worst)


class StepForecast(Part):
    """What one step will take. ``pace`` is None for what takes as long on any table.

    ``disk`` stays until contract or for good; ``temporary`` is given back when the step ends. ``stall`` is how long one
    statement of the application may wait for it: its wait for the lock, behind which others queue, and its work; None
    where no lock of it is in anybody's way. ``in_the_way``: who would keep it waiting now.
    """

    phase: str
    step: str
    title: str
    seconds: Forecast
    table: TableName | None = None
    pace: Pace | None = None
    wal: Volume = Volume()
    disk: Volume = Volume()
    temporary: Volume = Volume()
    stall: Forecast | None = None
    in_the_way: tuple[OpenTransaction, ...] = ()
    undo: Forecast | None = None
    """How long taking it back takes; None where it cannot be."""


class GateForecast(Part):
    """How long a gate's own checks will take; suites of the user's are not foretold."""

    phase: str
    gate: str
    seconds: Forecast
    suites: int = 0


class PlanForecast(Part):
    """What the whole migration will take, waits for people, windows, soaks and the throttle left out."""

    steps: tuple[StepForecast, ...]
    gates: tuple[GateForecast, ...] = ()
    wal_kept: bool = False
    """Something (slots, an archive, a standby) may keep all of the WAL on disk, not only what a checkpoint keeps."""
    max_wal_bytes: int = 2**30
    wal_files: int | None = None
    """Bytes of the log's files that are there now; None where that is not known."""
    paces: Paces = Paces()
    """What it was made by."""

    @property
    def unseen(self) -> tuple[Unseen, ...]:
        """What could not be asked for its paces."""
        return self.paces.unseen

    @property
    def seconds(self) -> Forecast:
        """Work and gates together."""
        return summed((*(step.seconds for step in self.steps), *(gate.seconds for gate in self.gates)))

    @property
    def longest_stall(self) -> Forecast:
        """The longest time for which one statement of the application waits."""
        stalls = [step.stall for step in self.steps if step.stall is not None]
        return Forecast(
            best=max((stall.best for stall in stalls), default=0.0),
            worst=max((stall.worst for stall in stalls), default=0.0),
        )

    @property
    def stalled(self) -> Forecast:
        """All stalls together: the most that a single table's writers wait in the whole migration."""
        return summed(step.stall for step in self.steps if step.stall is not None)

    @property
    def wal(self) -> Volume:
        return sum((step.wal for step in self.steps), Volume())

    @property
    def disk(self) -> Volume:
        """How much the database grows until contract."""
        return sum((step.disk for step in self.steps), Volume())

    @property
    def disk_needed(self) -> Volume:
        """The free disk that the migration needs at its highest: growth, the largest sort, and WAL."""
        wal = self.wal
        kept = wal.worst if self.wal_kept else min(wal.worst, 2 * self.max_wal_bytes)
        return self.disk + Volume(
            best=min(wal.best, self.max_wal_bytes),
            worst=max((step.temporary.worst for step in self.steps), default=0) + kept,
        )

    def step(self, id_: str) -> StepForecast:
        return next(found for found in self.steps if found.step == id_)


def summed(parts: Iterable[Forecast]) -> Forecast:
    known = tuple(parts)
    return Forecast(best=round(sum(p.best for p in known), 2), worst=round(sum(p.worst for p in known), 2))


def forecast(plan: Plan, facts: LiveFacts, paces: Paces) -> PlanForecast:
    """Return what the plan takes on a database that is as the facts say, at these paces."""
    return PlanForecast(
        steps=tuple(_step(step, phase.name, facts, paces) for phase in plan.phases for step in phase.steps),
        gates=tuple(
            _gate(gate, phase.name, facts, paces)
            for phase in plan.phases
            for gate in (phase.gate_before, phase.gate_after)
            if gate is not None
        ),
        wal_kept=bool(facts.disk.archives or facts.slots or facts.standbys),
        max_wal_bytes=facts.disk.max_wal_bytes,
        wal_files=facts.disk.wal_bytes,
        paces=paces,
    )


def with_forecast(plan: Plan, expected: PlanForecast) -> Plan:
    """Return the plan with these forecasts in its steps, by which windows are kept and the run's error is told.

    Which steps may not fit the window is noted anew.
    """
    known = {(found.phase, found.step): found for found in expected.steps}
    phases = tuple(
        phase.model_copy(
            update={
                "steps": tuple(
                    step.model_copy(update={"forecast": found.seconds, "undo_forecast": found.undo})
                    if (found := known.get((phase.name, step.id))) is not None
                    else step
                    for step in phase.steps
                )
            }
        )
        for phase in plan.phases
    )
    before = window_notes(plan.window, plan.phases)
    others = tuple(note for note in plan.notes if note not in before)
    return plan.model_copy(update={"phases": phases, "notes": (*others, *window_notes(plan.window, phases))})


# ------------------------------------------------------------------------------------------------ one step


def _step(step: Step, phase: str, facts: LiveFacts, paces: Paces) -> StepForecast:
    work, name = work_of(step), table_of(step)
    table = facts.table(name) if name is not None else None
    pace = None if work is None else paces.of(name, work, row_width(table))
    seconds = step.forecast
    if work is not None and pace is not None:
        rows = table.known_rows if table is not None else step.forecast.rows
        seconds = foretold(work, rows, pace, bytes_of(work, table, rows))
    elif isinstance(step.action, Analyze):
        seconds = ANALYZE
    wal, disk, temporary = _volumes(step, work, table, seconds.rows, facts, paces)
    return StepForecast(
        phase=phase,
        step=step.id,
        title=step.title,
        seconds=seconds,
        table=name,
        pace=pace,
        wal=wal,
        disk=disk,
        temporary=temporary,
        stall=_stall(step, seconds),
        in_the_way=_in_the_way(step, facts),
        undo=undo_forecast(step, lambda work, names: _on_largest(work, names, facts, paces)),
    )


def _on_largest(work: Work, names: Iterable[TableName], facts: LiveFacts, paces: Paces) -> Forecast:
    tables = [table for name in names if (table := facts.table(name)) is not None]
    forecasts = [on_table(work, table, paces) for table in tables]
    return max(forecasts, key=lambda found: found.worst, default=Forecast(best=0.0, worst=0.0))


def on_table(work: Work, table: LiveTable, paces: Paces) -> Forecast:
    """Return the forecast of work on every row of a table, at these paces."""
    pace = paces.of(table.name, work, row_width(table))
    return foretold(work, table.known_rows, pace, bytes_of(work, table, table.known_rows))


def _stall(step: Step, seconds: Forecast) -> Forecast | None:
    """At best nobody is in the way; at worst others queue behind its wait for the lock, and then it works."""
    if not any(lock.mode in BLOCKS_WRITES for lock in step.locks):
        return None
    longest = step.statement_timeout_ms / 1000 or seconds.worst
    return Forecast(best=seconds.best, worst=round(step.lock_timeout_ms / 1000 + min(seconds.worst, longest), 3))


def _in_the_way(step: Step, facts: LiveFacts) -> tuple[OpenTransaction, ...]:
    found = facts.in_the_way(step.locks)
    if not isinstance(step.action, BuildIndex | Reindex):
        return found
    # A concurrent build waits for every older snapshot of the database, and for who wrote the table.
    return tuple(item for item in facts.transactions if item.holds_rows_back or item in found)


# ------------------------------------------------------------------------------------------------ WAL and disk


def _volumes(
    step: Step, work: Work | None, table: LiveTable | None, rows: int, facts: LiveFacts, paces: Paces
) -> tuple[Volume, Volume, Volume]:
    """Return WAL, disk and temporary disk of a step."""
    nothing = Volume()
    match work:
        case "build":
            size = _index_size(step, table, rows, facts)
            sort = Volume(worst=size.worst if size.worst > facts.disk.sort_bytes else 0)
            return size, size, sort
        case "backfill":
            wal, disk = _rewritten(step, table, rows, facts, paces)
            return wal, disk, nothing
        case _:
            return nothing, nothing, nothing


def _index_size(step: Step, table: LiveTable | None, rows: int, facts: LiveFacts) -> Volume:
    known = facts.indexes_of(table.name) if table is not None else ()
    if isinstance(step.action, Reindex):
        name = step.action.index
        now = next((index.bytes for index in known if index.name == name), rows * ENTRY_BYTES[1])
        return Volume(best=min(now, rows * ENTRY_BYTES[0]), worst=now)
    widest = max((_entry_bytes(index) for index in known), default=0)
    return Volume(best=rows * ENTRY_BYTES[0], worst=rows * max(ENTRY_BYTES[1], widest))


def _entry_bytes(index: IndexFacts) -> int:
    return ceil(index.bytes / index.entries) if index.entries and index.method == "btree" else 0


def _rewritten(step: Step, table: LiveTable | None, rows: int, facts: LiveFacts, paces: Paces) -> tuple[Volume, Volume]:
    """Every row gets another version: at best in its own page (HOT), at worst each in a new place, in every index."""
    width = row_width(table)
    indexes = facts.indexes_of(table.name) if table is not None else ()
    heap = table.heap_bytes if table is not None else rows * width
    in_indexes = table.index_bytes if table is not None else 0
    calibration = paces.calibration_of(table.name if table is not None else None)
    least = width + UPDATE_WAL_BYTES
    each = least if calibration is None else max(least, ceil(calibration.filled_wal))
    best = least if calibration is None else ceil(calibration.filled_wal * PRUNED_WAL)
    # Once after each checkpoint the log has a page as a whole: at worst all of them, and the new ones.
    pages = 2 * heap + in_indexes
    wal = Volume(best=rows * best, worst=rows * (each + len(indexes) * ENTRY_WAL_BYTES) + pages)
    kept = rows * width if isinstance(step.action, UpdateRows | DeleteRows) and step.action.kept is not None else 0
    disk = Volume(best=int(GROWTH_BEST * rows * width), worst=rows * width + in_indexes + kept)
    return wal, disk


# ------------------------------------------------------------------------------------------------ gates


def _gate(gate: Gate, phase: str, facts: LiveFacts, paces: Paces) -> GateForecast:
    return GateForecast(
        phase=phase,
        gate=gate.name,
        seconds=summed(_check(check.kind, check.table, facts, paces) for check in gate.checks),
        suites=len(gate.user_suites),
    )


def _check(kind: CheckKind, name: TableName | None, facts: LiveFacts, paces: Paces) -> Forecast:
    table = facts.table(name) if name is not None else None
    if kind in _CHEAP or table is None:
        return CHEAP_CHECK
    return on_table("scan", table, paces)


# ------------------------------------------------------------------------------------------------ how wrong it was


class StepError(Part):
    """A step's forecast and what it took. ``factor``: how many times the worst it took, or the best what it took.

    A worst of less than a second counts as one: a short step tells of locks and journeys, not of the pace.
    """

    step: str
    expected: Forecast
    actual: float
    verdict: Literal["within", "slower", "quicker"]
    factor: float


class ForecastError(Part):
    """How wrong a finished run's forecast was. ``expected`` and ``actual`` are those of the compared steps together."""

    steps: tuple[StepError, ...]
    expected: Forecast
    actual: float
    verdict: Literal["within", "slower", "quicker"]
    factor: float
    missing: tuple[str, ...] = ()
    """Steps that cannot be compared: not done, or interrupted and gone on with later."""

    def __str__(self) -> str:
        """One sentence: ``12 steps took 40.0 s, forecast were 10.0 to 60.0 s; 1 slower (constrain/x 1.5 times)``."""
        beyond = [f"{error.step} {error.verdict} {error.factor:.1f} times" for error in self.steps if error.factor > 1]
        shown = "; ".join(beyond[:3]) + (f" and {len(beyond) - 3} more" if len(beyond) > 3 else "")
        tail = f"; beyond it: {shown}" if beyond else ""
        return (
            f"{len(self.steps)} step{'' if len(self.steps) == 1 else 's'} took {self.actual:.1f} s, forecast were "
            f"{self.expected.best:.1f} to {self.expected.worst:.1f} s{tail}"
        )


def forecast_error(plan: Plan, measured: Iterable[Measured]) -> ForecastError:
    """Compare the plan's forecasts with how long its steps took, per step and in total.

    ``measured`` are the steps that are done in one go (`tasks.database.hours.measured` reads them of the ledger). Steps
    without a forecast, such as waits for old snapshots, are left out on both sides.
    """
    took = {done.step.id: done.seconds for done in measured}
    foretold_steps = [step for phase in plan.phases for step in phase.steps if step.forecast.worst > 0]
    errors = tuple(_error(step, took[step.id]) for step in foretold_steps if step.id in took)
    expected = summed(error.expected for error in errors)
    actual = round(sum(error.actual for error in errors), 2)
    verdict, factor = _verdict(expected, actual)
    return ForecastError(
        steps=errors,
        expected=expected,
        actual=actual,
        verdict=verdict,
        factor=factor,
        missing=tuple(step.id for step in foretold_steps if step.id not in took),
    )


def _error(step: Step, actual: float) -> StepError:
    verdict, factor = _verdict(step.forecast, actual)
    return StepError(step=step.id, expected=step.forecast, actual=actual, verdict=verdict, factor=factor)


def _verdict(expected: Forecast, actual: float) -> tuple[Literal["within", "slower", "quicker"], float]:
    if actual > max(expected.worst, LEAST_FORECAST):
        return "slower", round(actual / max(expected.worst, LEAST_FORECAST), 2)
    if expected.best > LEAST_FORECAST and actual < expected.best:
        return "quicker", round(expected.best / max(actual, 0.01), 2)
    return "within", 1.0
