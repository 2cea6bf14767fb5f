"""Explaining and timing the spec's own queries: read-only, each within limits of its own. No value of a row is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import psycopg
from psycopg.rows import TupleRow

from tasks.database.connection import limits
from tasks.database.failures import connection_lost
from tasks.planning.timings import Timing, Timings, When

Connection = psycopg.Connection[TupleRow]

RUNS = 5
"""Behind a first one, which may have to read from disk what the others find in memory."""
LOCK_TIMEOUT_MS = 500
STATEMENT_TIMEOUT_MS = 10_000
_EXPLAIN = b"EXPLAIN (ANALYZE, TIMING off, FORMAT json) "


def take(connection: Connection, queries: Sequence[str], when: When) -> Timings:
    """Return what each query takes now; ``connection`` is in autocommit. Raises psycopg's errors where it is lost."""
    return Timings(when=when, timings=tuple(_timed(connection, query) for query in queries))


def _timed(connection: Connection, query: str) -> Timing:
    try:
        found = [_run(connection, query) for _ in range(1 + RUNS)]
    except psycopg.Error as error:
        if connection_lost(error):
            raise
        return Timing(query=query, error=_why(error))
    times = [float(run["Execution Time"]) for run in found[1:]]
    return Timing(
        query=query,
        median_ms=round(median(times), 3),
        longest_ms=round(max(times), 3),
        nodes=tuple(_nodes(found[-1]["Plan"])),
    )


def _run(connection: Connection, query: str) -> Mapping[str, Any]:
    with connection.transaction(force_rollback=True):
        connection.execute("SET TRANSACTION READ ONLY")
        limits(connection, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=STATEMENT_TIMEOUT_MS)
        row = connection.execute(_EXPLAIN + query.strip().rstrip(";").encode()).fetchone()
    told = row[0] if row is not None else []
    run: Mapping[str, Any] = (json.loads(told) if isinstance(told, str) else told)[0]
    return run


def _nodes(node: Mapping[str, Any]) -> Iterator[str]:
    """Yield the nodes that read something, from the top: ``Index Scan of reading by reading_pkey``."""
    if "Relation Name" in node or "Index Name" in node:
        of = f" of {node['Relation Name']}" if "Relation Name" in node else ""
        by = f" by {node['Index Name']}" if "Index Name" in node else ""
        yield f"{node['Node Type']}{of}{by}"
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def _why(error: psycopg.Error) -> str:
    """Return why there is no time, without the server's message: it may hold values."""
    match error:
        case psycopg.errors.QueryCanceled():
            return f"takes longer than {STATEMENT_TIMEOUT_MS / 1000:g} s"
        case psycopg.errors.LockNotAvailable():
            return "waits for a lock"
        case psycopg.errors.UndefinedColumn() | psycopg.errors.UndefinedTable():
            return f"a column or table that it names is not there (SQLSTATE {error.sqlstate})"
        case _:
            return f"fails (SQLSTATE {error.sqlstate})"
