"""Paces: how many rows and bytes a second a kind of work gets through, and how that is known. Pure.

Three sources, the first that knows counts: earlier runs in the ledger of this database, a calibration on generated rows
of the table's width in the scratch database, and what is built in. Each pace is a range: what a server does at best and
beside other work.

A row costs, and so does each byte that it is wider than `UNKNOWN_ROW_BYTES`:

    seconds = rows / rows a second + (bytes - 100 × rows) / bytes a second

``python -m tests.benchmarks.row_width --repeats 2`` (2026-11-29: two cores that a test run shared, PostgreSQL 16 with
fsync, tables of 200 MB in memory) took so many microseconds a row; in brackets what the built-in paces say at best:

    row                   scan         validation   build        rewrite      backfill
    100 B                 0.07 (0.25)  0.19 (0.25)  0.48 (0.83)  2.1 (1.7)    14.5 (10.1)
    1 kB                  0.38 (0.33)  0.52 (0.34)  0.95 (0.95)  8.5 (7.7)    24.4 (16.1)
    4 kB                  0.63 (0.57)  0.88 (0.64)  1.81 (1.32)  34.6 (27.7)  44.5 (36.1)
    4 kB, 3.9 in TOAST    0.15 (0.25)  0.36 (0.25)  0.55 (0.83)  144 (111)    21.9 (10.1)

At worst nothing is in memory: reading at 100 MB/s (twice for a concurrent build), and a row that is written anew is
read, logged, and logged once more with its page, at 20 MB/s together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import ceil
from typing import Literal, get_args

from tasks.planning.catalog import Table
from tasks.planning.live import LiveTable, Unseen
from tasks.planning.names import TableName
from tasks.planning.plan import (
    IN_BATCHES,
    Action,
    BuildIndex,
    Forecast,
    Irreversible,
    Part,
    Reindex,
    ReinsertRows,
    RestoreRows,
    Step,
    Transaction,
    Work,
)
from tasks.planning.schema_debt import row_bytes

Source = Literal["ledger", "calibration", "built-in"]

LEAST_ROWS = 10_000
"""A step over fewer rows tells how long a step takes, not how long a row does."""
LEAST_SECONDS = 0.2
QUICKER, SLOWER = 1.25, 0.5
"""How far another day may differ from what a ledger shows: beside other work a backfill ran at 0.5 to 0.85 of its own
speed (docs/benchmarks.md), and an idle server is somewhat quicker than a busy one."""

UNKNOWN_ROW_BYTES = 100
"""The width of a row where neither statistics nor sizes tell, and of the rows that built-in paces count by the row."""
TOAST_WEIGHT = 4
"""A byte in TOAST is rewritten as slowly as so many in the row: cut into pieces that are found by an index."""

_VALIDATE = re.compile(r"\bVALIDATE CONSTRAINT\b")


class Pace(Part):
    """Rows a second, at best and at worst; ``said`` tells a person how that is known.

    ``best_bytes`` and ``worst_bytes`` are bytes a second, of what rows are wider than `UNKNOWN_ROW_BYTES`; None where
    the pace was measured on rows as wide as those that it is for.
    """

    best: float
    worst: float
    best_bytes: float | None = None
    worst_bytes: float | None = None
    source: Source
    said: str

    def seconds(self, rows: float, size: float) -> tuple[float, float]:
        """Return what so many rows of ``size`` bytes together take, at best and at worst."""
        wider = max(0.0, size - rows * UNKNOWN_ROW_BYTES)
        return (
            rows / self.best + (wider / self.best_bytes if self.best_bytes else 0.0),
            rows / self.worst + (wider / self.worst_bytes if self.worst_bytes else 0.0),
        )


_MB = 1_000_000
_RATES: tuple[tuple[Work, int, int, int, int], ...] = (
    ("scan", 4_000_000, 500_000, 12_000 * _MB, 100 * _MB),
    ("build", 1_200_000, 200_000, 8_000 * _MB, 50 * _MB),
    ("rewrite", 600_000, 80_000, 150 * _MB, 20 * _MB),
    ("backfill", 99_000, 20_000, 150 * _MB, 20 * _MB),
    ("validation", 4_000_000, 500_000, 10_000 * _MB, 100 * _MB),
)

BUILT_IN: Mapping[Work, Pace] = {
    work: Pace(
        best=best,
        worst=worst,
        best_bytes=best_bytes,
        worst_bytes=worst_bytes,
        source="built-in",
        said="built in, measured on two shared cores",
    )
    for work, best, worst, best_bytes, worst_bytes in _RATES
}


def foretold(work: Work, rows: int, pace: Pace, size: int = 0) -> Forecast:
    """Return the forecast of work on so many rows, ``size`` bytes together, at a pace."""
    best, worst = pace.seconds(rows, size)
    return Forecast(best=round(best, 2), worst=round(worst, 2), work=work, rows=rows)


def row_width(table: LiveTable | None) -> int:
    """Return the bytes of a row in its page: by the statistics of all columns, else by the table's size."""
    if table is None:
        return UNKNOWN_ROW_BYTES
    if table.data_bytes is not None and table.columns_measured == table.columns:
        return row_bytes(table)
    return ceil(table.heap_bytes / table.known_rows) if table.known_rows and table.heap_bytes else UNKNOWN_ROW_BYTES


def bytes_of(work: Work, table: LiveTable | None, rows: int) -> int:
    """Return the bytes that work on so many of a table's rows moves; those in TOAST are moved by a rewrite only."""
    if table is None:
        return rows * UNKNOWN_ROW_BYTES
    return moved_bytes(work, rows * row_width(table) if work == "backfill" else table.heap_bytes, table.toast_bytes)


def estimated(work: Work, table: Table, paces: Paces) -> tuple[Forecast, Pace]:
    """Return what work on every row takes by the catalog's estimates, and by which pace."""
    # A table that was never analyzed has a size only.
    rows = table.rows or table.bytes // UNKNOWN_ROW_BYTES
    heap = table.bytes - table.toast_bytes
    pace = paces.of(table.name, work, estimated_width(table))
    return foretold(work, rows, pace, moved_bytes(work, heap, table.toast_bytes)), pace


def estimated_width(table: Table) -> int:
    """Return the bytes of a row by the catalog's estimates."""
    return ceil((table.bytes - table.toast_bytes) / table.rows) if table.rows else UNKNOWN_ROW_BYTES


def moved_bytes(work: Work, heap: int, toast: int) -> int:
    """Return the same by the sizes of the table's own file and its TOAST table."""
    return heap + (TOAST_WEIGHT * toast if work == "rewrite" else 0)


def work_of(step: Step) -> Work | None:
    """Return what a step does to every row; None for what takes as long on any table."""
    if step.forecast.work is not None:
        return step.forecast.work
    match step.action:
        case BuildIndex() | Reindex():
            return "build"
        case Transaction(statements=statements) if any(_VALIDATE.search(statement) for statement in statements):
            return "validation"
        case action if isinstance(action, IN_BATCHES):
            return "backfill"
        case _:
            return None


def undoing(step: Step, action: Action) -> tuple[Work, tuple[TableName, ...]] | None:
    """Return what an action that undoes a step does to every row, and of which table, the largest of several."""
    match action:
        case Transaction(statements=statements) if any(_VALIDATE.search(statement) for statement in statements):
            return "validation", tuple(lock.table for lock in step.locks)
        case BuildIndex(table=table):
            return "build", (table,)
        case RestoreRows(table=table) | ReinsertRows(table=table):
            return "backfill", (table,)
        case _:
            return None


BRIEF = Forecast(best=0.01, worst=0.1)
"""A transaction of catalog changes."""


def undo_forecast(step: Step, takes: Callable[[Work, Sequence[TableName]], Forecast]) -> Forecast | None:
    """Return how long undoing a step takes; None where it cannot be undone. ``takes``: work on the largest table."""
    if isinstance(step.undo, Irreversible):
        return None
    found = [BRIEF if (work := undoing(step, action)) is None else takes(*work) for action in step.undo]
    return Forecast(best=round(sum(one.best for one in found), 2), worst=round(sum(one.worst for one in found), 2))


def table_of(step: Step) -> TableName | None:
    """Return the table that a step works on."""
    found = getattr(step.action, "table", None)
    if isinstance(found, TableName):
        return found
    return step.locks[0].table if step.locks else None


# ------------------------------------------------------------------------------------------------ from the ledger


@dataclass(frozen=True)
class Run:
    """A step that is done: how many seconds it took, over how many rows."""

    migration: str
    step: Step
    seconds: float
    rows: int


def learnt(runs: Iterable[Run]) -> Mapping[tuple[TableName, Work], Pace]:
    """Return the paces that earlier runs show, by table; short ones show none."""
    found: dict[tuple[TableName, Work], list[Run]] = {}
    for run in runs:
        work, table = work_of(run.step), table_of(run.step)
        if work is not None and table is not None and run.rows >= LEAST_ROWS and run.seconds >= LEAST_SECONDS:
            found.setdefault((table, work), []).append(run)
    return {key: _of_runs(taken) for key, taken in found.items()}


def _of_runs(runs: Sequence[Run]) -> Pace:
    speeds = [run.rows / run.seconds for run in runs]
    rows, migrations = sum(run.rows for run in runs), sorted({run.migration for run in runs})
    shown = ", ".join(migrations[:3]) + (f" and {len(migrations) - 3} more" if len(migrations) > 3 else "")
    return Pace(
        best=max(speeds) * QUICKER,
        worst=min(speeds) * SLOWER,
        source="ledger",
        said=f"{len(runs)} step{'' if len(runs) == 1 else 's'} over {rows:,} rows in earlier runs here ({shown})",
    )


# ------------------------------------------------------------------------------------------------ from a calibration


class Calibration(Part):
    """What generated rows of a table's width took in the scratch database.

    ``speeds`` are rows a second, measured there; ``ratio`` is how much faster the live server computes (1.0: as fast),
    None where that was not asked. ``filled_wal`` is the WAL of one filled row in bytes, full page images left out;
    ``entry_bytes`` what an index entry of one bigint took.
    """

    table: TableName
    rows: int
    row_bytes: int
    indexes: int
    speeds: tuple[tuple[Work, float, float], ...]
    """Kind of work, and its quickest and slowest variant: a validation is of a CHECK or of a foreign key."""
    filled_wal: float
    entry_bytes: float
    seconds: float
    ratio: float | None = None
    made_at: datetime | None = None
    """Of one that was kept."""

    def paces(self) -> Mapping[tuple[TableName, Work], Pace]:
        """Return the paces for the live server. Its disk is another one: at worst it is as much slower as built in."""
        return {(self.table, work): self._pace(work, quick, slow) for work, quick, slow in self.speeds}

    def _pace(self, work: Work, quick: float, slow: float) -> Pace:
        best, worst = BUILT_IN[work].seconds(1, self.row_bytes)
        spread = worst / best
        ratio = self.ratio or 1.0
        compared = "" if self.ratio is None else f", this server computing {self.ratio:.1f} times as fast as that one"
        made = "" if self.made_at is None else f", on {self.made_at:%Y-%m-%d}"
        return Pace(
            best=quick * ratio * QUICKER,
            worst=slow * ratio / spread,
            source="calibration",
            said=f"{self.rows:,} generated rows of {self.row_bytes} bytes in the scratch database{compared}{made}",
        )


# ------------------------------------------------------------------------------------------------ together


class KnownPace(Part):
    """The pace of one kind of work on one table, and how wide its rows are now."""

    table: TableName
    work: Work
    pace: Pace
    row_bytes: int = UNKNOWN_ROW_BYTES

    def for_rows_of(self, width: int) -> Pace:
        """Return the pace for rows of another width, wider and narrower as the built-in paces tell them apart.

        At worst narrow rows are no quicker than wide ones were: what kept those back may have been no matter of bytes.
        """
        (own_best, own_worst), (best, worst) = (BUILT_IN[self.work].seconds(1, w) for w in (self.row_bytes, width))
        return self.pace.model_copy(
            update={
                "best": self.pace.best * own_best / best,
                "worst": self.pace.worst * min(1.0, own_worst / worst),
            }
        )


class Paces(Part):
    """Everything that is known of a database's paces, of which `of` picks."""

    ledger: tuple[KnownPace, ...] = ()
    calibrated: tuple[KnownPace, ...] = ()
    calibrations: tuple[Calibration, ...] = ()
    unseen: tuple[Unseen, ...] = ()
    """A source that could not be asked."""

    def of(self, table: TableName | None, work: Work, width: int = UNKNOWN_ROW_BYTES) -> Pace:
        """Return the pace of the best source: this table's runs, other tables' runs, the calibration, what is built in.

        ``width``: the bytes of its rows. Of other tables' runs the whole range counts, brought to rows of that width.
        """
        own = _pace(self.ledger, table, work)
        if own is not None:
            return own
        others = [item.for_rows_of(width) for item in self.ledger if item.work == work]
        return _together(others) if others else _pace(self.calibrated, table, work) or BUILT_IN[work]

    def calibration_of(self, table: TableName | None) -> Calibration | None:
        return next((found for found in self.calibrations if found.table == table), None)


def _pace(known: Sequence[KnownPace], table: TableName | None, work: Work) -> Pace | None:
    return next((item.pace for item in known if (item.table, item.work) == (table, work)), None)


def _together(paces: Sequence[Pace]) -> Pace:
    if len(paces) == 1:
        return paces[0].model_copy(update={"said": f"{paces[0].said}, on another table"})
    return Pace(
        best=max(pace.best for pace in paces),
        worst=min(pace.worst for pace in paces),
        source="ledger",
        said="; ".join(pace.said for pace in paces[:3]) + ", on other tables",
    )


def paces(
    runs: Iterable[Run],
    calibrations: Sequence[Calibration] = (),
    unseen: Sequence[Unseen] = (),
    widths: Mapping[TableName, int] | None = None,
) -> Paces:
    """Return what earlier runs and calibrations tell together; ``widths`` are the bytes of the tables' rows now."""
    order = get_args(Work)
    known_widths = widths or {}
    return Paces(
        ledger=tuple(
            KnownPace(table=table, work=work, pace=pace, row_bytes=known_widths.get(table, UNKNOWN_ROW_BYTES))
            for (table, work), pace in sorted(
                learnt(runs).items(), key=lambda item: (item[0][0], order.index(item[0][1]))
            )
        ),
        calibrated=tuple(
            KnownPace(table=table, work=work, pace=pace)
            for calibration in calibrations
            for (table, work), pace in calibration.paces().items()
        ),
        calibrations=tuple(calibrations),
        unseen=tuple(unseen),
    )
