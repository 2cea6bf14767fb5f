"""A short calibration: how fast a scratch database scans, builds, validates and fills rows of a given width.

The rows are generated. The scratch server's disk and processor are not the live server's: the processors are compared
by the same small computation on both, and what that leaves open is in the range of `tasks.planning.paces`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import ceil

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from tasks.database.connection import limits, session_limits
from tasks.database.queries import queries
from tasks.planning.live import IndexFacts, LiveFacts
from tasks.planning.names import TableName
from tasks.planning.paces import Calibration, row_width

Connection = psycopg.Connection[TupleRow]

SECONDS = 3.0
"""What one calibration takes, about."""
FIRST_ROWS, LEAST_ROWS, MOST_ROWS = 5_000, 10_000, 400_000
PART = 6
"""So many times as long as generating a row takes all that is measured of it, at most."""
BATCH = 10_000
MOST_INDEXES = 8
OWN_BYTES = 24 + 3 * 8 + 8 + 4 + 4
"""A generated row without its filler: header, three integers of eight bytes, one of four, text's head, line pointer."""
LONGEST_FILLER = 7_900
"""What a page has room for. It is stored plain: a row of this width in a table has its values in the page too."""
STATEMENT_TIMEOUT_MS = 30_000
LOCK_TIMEOUT_MS = 1_000

COMPUTE_TIMEOUT_MS = 2_000
COMPUTE_TRIES = 5
RATIO_RANGE = (0.25, 4.0)
"""Beyond it something else was measured, e.g. a server that is busy."""

_SQL = queries("calibration")


def calibrate(
    scratch: Connection, facts: LiveFacts, table: TableName, *, ratio: float | None = None, seconds: float = SECONDS
) -> Calibration:
    """Return the speeds of a scratch database on generated rows like this table's: as wide, with as many indexes.

    ``scratch`` is an autocommit connection to a database in which nothing else is; what is made there is dropped.
    Raises psycopg's errors: a calibration has no other way to fail.
    """
    began = time.monotonic()
    session_limits(scratch, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=STATEMENT_TIMEOUT_MS)
    scratch.execute(_SQL["settings"])
    scratch.execute(_SQL["schema"])
    try:
        return _measured(scratch, facts, table, ratio, seconds, began)
    finally:
        if not scratch.closed:
            scratch.execute(_SQL["drop"])


def _measured(
    scratch: Connection, facts: LiveFacts, table: TableName, ratio: float | None, seconds: float, began: float
) -> Calibration:
    live = facts.table(table)
    width = row_width(live)
    indexes = min(MOST_INDEXES, sum(_is_ordinary(index) for index in facts.indexes_of(table)))
    filler = min(LONGEST_FILLER, max(1, width - OWN_BYTES))
    scratch.execute(_SQL["tables"])
    scratch.execute(_SQL["parents"])
    rows = _fill(scratch, filler, seconds)
    scratch.execute(_SQL["settle"])
    scratch.execute(_SQL["scan"])  # the first scan sets the rows' hint bits
    scan = _timed(scratch, "scan")
    build = _timed(scratch, "build")
    entry = _number(scratch, "built") / rows
    scratch.execute(_SQL["check"])
    scratch.execute(_SQL["reference"])
    check, reference = _timed(scratch, "validate_check"), _timed(scratch, "validate_reference")
    # The primary key's and the one that was built are two.
    for number in range(2, indexes):
        _build_another(scratch, number)
    wal = _number(scratch, "wal")
    fill = _seconds(lambda: _backfill(scratch, rows))
    filled_wal = (_number(scratch, "wal") - wal) / rows
    # Estimates may say more than a page holds: such rows take longer in proportion.
    scale = min(1.0, (filler + OWN_BYTES) / width)
    return Calibration(
        table=table,
        rows=rows,
        row_bytes=width,
        indexes=max(2, indexes),
        speeds=(
            ("scan", scale * rows / scan, scale * rows / scan),
            ("build", scale * rows / build, scale * rows / build),
            ("backfill", scale * rows / fill, scale * rows / fill),
            ("validation", scale * rows / min(check, reference), scale * rows / max(check, reference)),
        ),
        filled_wal=filled_wal / scale,
        entry_bytes=entry,
        seconds=round(time.monotonic() - began, 2),
        ratio=ratio,
    )


def _is_ordinary(index: IndexFacts) -> bool:
    return index.method == "btree" and not index.predicate


def _fill(scratch: Connection, filler: int, seconds: float) -> int:
    """Generate as many rows as can be worked on within the time, and return how many."""
    first = _seconds(lambda: scratch.execute(_SQL["fill"], {"first": 1, "last": FIRST_ROWS, "filler": filler}))
    rows = int(FIRST_ROWS * seconds / (PART * first)) if first else MOST_ROWS
    rows = max(LEAST_ROWS, min(MOST_ROWS, rows))
    scratch.execute(_SQL["fill"], {"first": FIRST_ROWS + 1, "last": rows, "filler": filler})
    return rows


def _build_another(scratch: Connection, number: int) -> None:
    statement = sql.SQL("CREATE INDEX {} ON lockstep_calibration.child (parent, number)")
    scratch.execute(statement.format(sql.Identifier(f"child_{number}")))


def _backfill(scratch: Connection, rows: int) -> None:
    for batch in range(ceil(rows / BATCH)):
        scratch.execute(_SQL["batch"], {"after": batch * BATCH, "upto": (batch + 1) * BATCH})


def computing_ratio(live: Connection, scratch: Connection) -> float | None:
    """Return how many times as fast the live server computes as the scratch server does; None where it does not tell.

    It computes for some tens of milliseconds, reads no table, and takes no lock.
    """
    try:
        # In turns, so that what else this machine does concerns both; the quickest is the least disturbed.
        tries = [(_compute(live), _compute(scratch)) for _ in range(COMPUTE_TRIES)]
    except psycopg.errors.QueryCanceled:
        return None
    on_live, on_scratch = (min(times) for times in zip(*tries, strict=True))
    ratio = on_scratch / on_live
    return ratio if RATIO_RANGE[0] <= ratio <= RATIO_RANGE[1] else None


def _compute(connection: Connection) -> float:
    """Return the seconds of the computation, without the journey to the server and back."""
    with connection.transaction():
        limits(connection, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=COMPUTE_TIMEOUT_MS)
        journey = _timed(connection, "nothing")
        return max(1e-4, _timed(connection, "compute") - journey)


def _timed(connection: Connection, query: str) -> float:
    return _seconds(lambda: connection.execute(_SQL[query]))


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return max(1e-6, time.perf_counter() - began)


def _number(connection: Connection, query: str) -> int:
    row = connection.execute(_SQL[query]).fetchone()
    if row is None:
        raise LookupError("a SELECT without FROM returned no row")
    return int(row[0])
