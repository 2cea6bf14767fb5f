"""How long the clone and the trace take against the size of the schema.

``python -m tests.benchmarks.planning_time [--tables 10,100,1000,5000]`` makes schemas of that many tables (with foreign
keys, indexes, checks, domains, generated columns; a view and a function to every twentieth), and prints a table.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tasks.database.catalog import snapshot
from tasks.database.clone import SchemaClone
from tasks.database.connection import Target, connect
from tasks.database.schema_file import SchemaFile
from tasks.database.server import DEFAULT_MAJOR
from tasks.database.statement_trace import FilesTrace, Scratch, trace_files
from tasks.planning.statements import read_statements
from tasks.planning.transactions import SourceFile
from tests.conftest import temporary_server

TABLES = (10, 100, 1_000, 5_000)
BATCH = 50
SETTINGS = (("search_path", "public"), ("TimeZone", "UTC"))

FILES = (
    "SET lock_timeout = '2s'; ALTER TABLE t00001 ADD COLUMN note text;"
    " ALTER TABLE t00002 ADD COLUMN note text DEFAULT 'x'; UPDATE t00001 SET note = name;"
    " ALTER TABLE t00001 ALTER COLUMN note SET NOT NULL",
    "CREATE INDEX CONCURRENTLY t00003_name ON t00003 (name)",
    "ALTER TABLE t00004 ALTER COLUMN quantity TYPE bigint USING quantity",
    "ALTER TABLE t00005 ADD CONSTRAINT priced CHECK (price > 0) NOT VALID",
    "ALTER TABLE t00005 VALIDATE CONSTRAINT priced; CREATE INDEX ON t00006 (email)",
    "CREATE TABLE added (id bigint PRIMARY KEY, of bigint REFERENCES t00007)",
    "ALTER TABLE t00008 RENAME COLUMN name TO title",
)
"""Twelve statements; the last of them, a rename, is one that has the whole catalog read."""


@dataclass(frozen=True)
class Times:
    """Seconds."""

    tables: int
    snapshot: float
    clone: float
    trace: float
    drop: float
    from_file: float
    """A scratch database filled from the schema as a file, and the trace."""


def schema(tables: int) -> Iterator[str]:
    """Yield the statements of a schema, some at a time."""
    yield (
        "CREATE TYPE state AS ENUM ('new', 'done'); CREATE DOMAIN amount AS numeric CHECK (VALUE >= 0);"
        "CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
    )
    for number in range(tables):
        name = f"t{number:05}"
        parent = f"REFERENCES t{number - 1:05}" if number else ""
        yield (
            f"CREATE TABLE {name} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, parent_id bigint {parent},"
            " name text NOT NULL, email varchar(200), price amount, state state, created timestamptz DEFAULT now(),"
            " quantity int CHECK (quantity > 0), total numeric GENERATED ALWAYS AS (price * 2) STORED);"
            f"CREATE INDEX ON {name} (parent_id); CREATE INDEX ON {name} (created);"
        )
        if number % 20 == 0:
            yield (
                f"CREATE VIEW v{number:05} AS SELECT id, email FROM {name};"
                f"CREATE TRIGGER stamped BEFORE UPDATE ON {name} FOR EACH ROW EXECUTE FUNCTION stamp();"
            )


def files() -> list[SourceFile]:
    return [
        SourceFile(f"{number}.sql", text, read_statements(text, source=f"{number}.sql"))
        for number, text in enumerate(FILES, start=1)
    ]


def traced(scratch: Scratch) -> FilesTrace:
    found = trace_files(files(), scratch, SETTINGS)
    refused = [facts.refused for facts in found.facts if facts.refused is not None]
    if refused or found.untraced:
        raise AssertionError(f"a statement of the benchmark is refused: {refused}")
    return found


def measure(tables: int) -> Times:
    """Make a schema, clone it and trace `FILES` on the clone."""
    texts = list(schema(tables))
    with temporary_server(DEFAULT_MAJOR) as server:
        admin = Target("admin", server.url("postgres"))
        with connect(admin, role="benchmark") as connection:
            connection.execute("CREATE DATABASE live")
        live = Target("live", server.url("live"))
        with connect(live, role="benchmark") as connection:
            for first in range(0, len(texts), BATCH):
                connection.execute("".join(texts[first : first + BATCH]).encode())
            began = time.monotonic()
            snapshot(connection)
            whole = time.monotonic() - began
        clone = SchemaClone(live, server)
        began = time.monotonic()
        clone.__enter__()
        cloned = time.monotonic()
        traced(clone)
        seen = time.monotonic()
        clone.__exit__(None, None, None)
        dropped = time.monotonic()
        with SchemaFile("\n".join(texts), "schema.sql", server) as schema_file:
            traced(schema_file)
        filed = time.monotonic()
    return Times(tables, whole, cloned - began, seen - cloned, dropped - seen, filed - dropped)


def shown(found: Sequence[Times]) -> str:
    lines = [
        f"Clone and trace of twelve statements, seconds; embedded PostgreSQL {DEFAULT_MAJOR}, {platform.machine()}:",
        "",
        "| tables | one snapshot | clone | trace | drop | clone and trace | schema from a file, trace |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines.extend(
        f"| {item.tables:,} | {item.snapshot:.2f} | {item.clone:.1f} | {item.trace:.1f} | {item.drop:.1f} |"
        f" {item.clone + item.trace + item.drop:.1f} | {item.from_file:.1f} |"
        for item in found
    )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", default=",".join(map(str, TABLES)), help="numbers of tables, at least 10 each")
    sizes = [int(size) for size in parser.parse_args(arguments).tables.split(",")]
    print(shown([measure(size) for size in sizes]))  # noqa: T201


if __name__ == "__main__":
    main()
