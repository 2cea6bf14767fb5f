"""How long each kind of work takes against the width of a row: what `tasks.planning.paces` is built on.

``python -m tests.benchmarks.row_width [--megabytes 200] [--repeats 3]`` makes tables of rows of 100 bytes, 1 kB and
4 kB (once in the row, once with the long value in the TOAST table), as large as one another, on a server with the
settings of production, and prints the medians. Takes about five minutes.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from statistics import median

import psycopg

from tests.benchmarks.stage import SETTINGS, Stage, stage

WIDTHS = (100, 1_000, 4_000)
OWN_BYTES = 24 + 3 * 8 + 8 + 4 + 4
"""A row without its filler, as in `tasks.database.calibration`."""
BATCH = 10_000_000
"""Bytes of a batch of the backfill."""

TABLE = """
CREATE TABLE wide (id bigint PRIMARY KEY, parent bigint NOT NULL, number bigint NOT NULL, result bigint,
                   pending integer NOT NULL DEFAULT 1, small integer, filler text) WITH (autovacuum_enabled = off);
CREATE TABLE parent (id bigint PRIMARY KEY);
INSERT INTO parent SELECT generate_series(0, 999);
"""
IN_THE_ROW = "ALTER TABLE wide ALTER filler SET STORAGE PLAIN"
"""A value that is never moved out, whatever its length."""
FILL = """
INSERT INTO wide (id, parent, number, small, filler)
SELECT n, n %% 1000, n, n,
       left((SELECT string_agg(md5((n * 1000 + m)::text), '') FROM generate_series(0, %(pieces)s) AS m), %(filler)s)
  FROM generate_series(1, %(rows)s) AS n
"""
SESSION = "SET max_parallel_workers_per_gather = 0; SET max_parallel_maintenance_workers = 0; SET jit = off"
WORK: tuple[tuple[str, str, str], ...] = (
    ("scan", "", "SELECT count(*) FROM wide WHERE number < 0"),
    ("validation", "ALTER TABLE wide ADD CONSTRAINT c CHECK (number > 0 AND number < 1e15) NOT VALID",
     "ALTER TABLE wide VALIDATE CONSTRAINT c"),
    ("validation (foreign key)", "ALTER TABLE wide ADD CONSTRAINT f FOREIGN KEY (parent) REFERENCES parent NOT VALID",
     "ALTER TABLE wide VALIDATE CONSTRAINT f"),
    ("build", "", "CREATE INDEX CONCURRENTLY i ON wide (number)"),
    ("rewrite", "", "ALTER TABLE wide ALTER small TYPE bigint"),
)  # fmt: skip
UPDATE = b"UPDATE wide SET result = number * 1000, pending = 0 WHERE id > %s AND id <= %s AND pending <> 0"


@dataclass(frozen=True)
class Shape:
    """Rows of one width: bytes of the table's own file and of its TOAST table."""

    name: str
    rows: int
    heap: int
    toast: int


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with stage(()) as place:
        say(f"{platform.machine()}, {', '.join(f'{name} {value}' for name, value in SETTINGS)}\n")
        say("| row | rows | table | TOAST | work | seconds | rows / s | MB / s |\n|---|---|---|---|---|---|---|---|")
        for width in WIDTHS:
            for toasted in (False, True) if width > 2_000 else (False,):
                for line in measured(place, width, arguments.megabytes * 10**6 // width, toasted, arguments.repeats):
                    say(line)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def measured(place: Stage, width: int, rows: int, toasted: bool, repeats: int) -> Iterator[str]:
    times: dict[str, list[float]] = {}
    for _ in range(repeats):
        with place.copy("wide") as target, psycopg.connect(target.conninfo, autocommit=True) as connection:
            shape = filled(connection, width, rows, toasted)
            connection.execute(SESSION)
            for work, before, statement in WORK:
                if before:
                    connection.execute(before.encode())
                times.setdefault(work, []).append(seconds(connection, statement))
            connection.execute("DROP INDEX i; ALTER TABLE wide DROP CONSTRAINT f")
            connection.execute("CREATE INDEX i ON wide (parent, number)")
            times.setdefault("backfill", []).append(backfilled(connection, width, rows))
    for work, taken in times.items():
        middle = median(taken)
        moved = shape.heap + (shape.toast if work == "rewrite" else 0)
        yield (
            f"| {shape.name} | {rows:,} | {shape.heap / 1e6:.0f} MB | {shape.toast / 1e6:.0f} MB | {work} | "
            f"{middle:.2f} | {rows / middle:,.0f} | {moved / middle / 1e6:,.0f} |"
        )


def filled(connection: psycopg.Connection[tuple[object, ...]], width: int, rows: int, toasted: bool) -> Shape:
    """Make the table; its first scan is not measured, since it sets the rows' hint bits."""
    connection.execute(TABLE.encode())
    if not toasted:
        connection.execute(IN_THE_ROW.encode())
    filler = width - OWN_BYTES
    connection.execute(FILL.encode(), {"pieces": ceil(filler / 32), "filler": filler, "rows": rows})
    connection.execute("VACUUM (ANALYZE) wide")
    connection.execute("CHECKPOINT")
    connection.execute("SELECT count(*) FROM wide WHERE number < 0")
    found = connection.execute(
        "SELECT pg_relation_size(oid), coalesce(pg_total_relation_size(nullif(reltoastrelid, 0)), 0)"
        "  FROM pg_class WHERE oid = 'wide'::regclass"
    ).fetchone()
    heap, toast = (int(str(number)) for number in found or (0, 0))
    return Shape(f"{width} B{', toasted' if toasted else ''}", rows, heap, toast)


def seconds(connection: psycopg.Connection[tuple[object, ...]], statement: str) -> float:
    connection.execute("CHECKPOINT")
    began = time.perf_counter()
    connection.execute(statement.encode())
    return time.perf_counter() - began


def backfilled(connection: psycopg.Connection[tuple[object, ...]], width: int, rows: int) -> float:
    connection.execute("CHECKPOINT")
    began = time.perf_counter()
    step = max(1, BATCH // width)
    for after in range(0, rows, step):
        connection.execute(UPDATE, (after, after + step))
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
