"""Paces: how many rows a second a kind of work gets through, and how that is known. Pure.

Three sources, the first that knows counts: earlier runs in the ledger of this database, a calibration on generated rows
of the table's width in the scratch database, and what is built in. Each pace is a range: what a server does at best and
beside other work.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from tasks.planning.live import Unseen
from tasks.planning.names import TableName
from tasks.planning.plan import (
    IN_BATCHES,
    BuildIndex,
    Forecast,
    Part,
    Reindex,
    Step,
    Transaction,
    Work,
)

Source = Literal["ledger", "calibration", "built-in"]

LEAST_ROWS = 10_000
"""A step over fewer rows tells how long a step takes, not how long a row does."""
LEAST_SECONDS = 0.2
QUICKER, SLOWER = 1.25, 0.5
"""How far another day may differ from what a ledger shows: beside other work a backfill ran at 0.5 to 0.85 of its own
speed (docs/benchmarks.md), and an idle server is somewhat quicker than a busy one."""

UNKNOWN_ROW_BYTES = 100
"""The width of a row where neither statistics nor sizes tell."""

_VALIDATE = re.compile(r"\bVALIDATE CONSTRAINT\b")


class Pace(Part):
    """Rows a second, at best and at worst; ``said`` tells a person how that is known."""

    best: float
    worst: float
    source: Source
    said: str


_RATES: tuple[tuple[Work, int, int], ...] = (
    ("scan", 4_000_000, 500_000),
    ("build", 1_200_000, 200_000),
    ("rewrite", 600_000, 80_000),
    ("backfill", 99_000, 20_000),
    ("validation", 4_000_000, 500_000),
)

BUILT_IN: Mapping[Work, Pace] = {
    work: Pace(best=best, worst=worst, source="built-in", said="built in, measured on two shared cores")
    for work, best, worst in _RATES
}


def foretold(work: Work, rows: int, pace: Pace) -> Forecast:
    """Return the forecast of work on so many rows at a pace."""
    return Forecast(best=round(rows / pace.best, 2), worst=round(rows / pace.worst, 2), work=work, rows=rows)


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

    def paces(self) -> Mapping[tuple[TableName, Work], Pace]:
        """Return the paces for the live server. Its disk is another one: at worst it is as much slower as built in."""
        return {(self.table, work): self._pace(work, quick, slow) for work, quick, slow in self.speeds}

    def _pace(self, work: Work, quick: float, slow: float) -> Pace:
        spread = BUILT_IN[work].best / BUILT_IN[work].worst
        ratio = self.ratio or 1.0
        compared = "" if self.ratio is None else f", this server computing {self.ratio:.1f} times as fast as that one"
        return Pace(
            best=quick * ratio * QUICKER,
            worst=slow * ratio / spread,
            source="calibration",
            said=f"{self.rows:,} generated rows of {self.row_bytes} bytes in the scratch database{compared}",
        )


# ------------------------------------------------------------------------------------------------ together


class KnownPace(Part):
    """The pace of one kind of work on one table."""

    table: TableName
    work: Work
    pace: Pace


class Paces(Part):
    """Everything that is known of a database's paces, of which `of` picks."""

    ledger: tuple[KnownPace, ...] = ()
    calibrated: tuple[KnownPace, ...] = ()
    calibrations: tuple[Calibration, ...] = ()
    unseen: tuple[Unseen, ...] = ()
    """A source that could not be asked."""

    def of(self, table: TableName | None, work: Work) -> Pace:
        """Return the pace of the best source: this table's runs, other tables' runs, the calibration, what is built in.

        Of other tables' runs the whole range counts, since their rows are not as wide.
        """
        own = _pace(self.ledger, table, work)
        if own is not None:
            return own
        others = [item.pace for item in self.ledger if item.work == work]
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


def paces(runs: Iterable[Run], calibrations: Sequence[Calibration] = (), unseen: Sequence[Unseen] = ()) -> Paces:
    """Return what earlier runs and calibrations tell together."""
    order = get_args(Work)
    return Paces(
        ledger=tuple(
            KnownPace(table=table, work=work, pace=pace)
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
