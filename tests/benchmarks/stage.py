"""Where the benchmark runs: an embedded server with the settings of production, and fresh copies of one database."""

from __future__ import annotations

import itertools
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

from tasks.database.connection import Target
from tasks.database.server import DEFAULT_MAJOR, EmbeddedServer, start

SETTINGS: tuple[tuple[str, str], ...] = (
    ("fsync", "on"),
    ("full_page_writes", "on"),
    ("synchronous_commit", "on"),
    ("wal_level", "replica"),
    ("shared_buffers", "1GB"),
    ("maintenance_work_mem", "256MB"),
    ("max_wal_size", "16GB"),
    ("min_wal_size", "4GB"),
    ("checkpoint_timeout", "15min"),
)
"""What a server of this size would have in production; everything else, autovacuum included, as PostgreSQL has it."""

LOG_KEPT = 4 * 2**30
"""Bytes of log that `min_wal_size` keeps."""
LOG_FILE = 16 * 2**20

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Stage:
    """The server, and the database that every contestant gets a copy of."""

    server: EmbeddedServer
    template: str

    @contextmanager
    def copy(self, name: str) -> Iterator[Target]:
        """A copy of the template, block by block, on a server that has just made a checkpoint."""
        database = f"{name}_{next(_numbers)}"
        copy = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
            sql.Identifier(database), sql.Identifier(self.template)
        )
        with self.admin() as connection:
            connection.execute(copy)
            connection.execute("CHECKPOINT")
        try:
            yield Target(name, self.server.url(database))
        finally:
            with self.admin() as connection:
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database)))

    def keep_log_files(self, size: int) -> None:
        """Have files for so many bytes of log, at most what `min_wal_size` keeps on a server that has run for a while.

        A fresh server makes each when it is needed: 16 MB of zeros, written and flushed under the lock that every
        commit waits for. Raises RuntimeError if they are not there in the end.
        """
        wanted = min(size, LOG_KEPT) // LOG_FILE
        with self.admin() as connection:
            for _ in range(wanted):
                connection.execute("SELECT pg_logical_emit_message(false, 'benchmark', repeat('x', %s))", (LOG_FILE,))
            connection.execute("CHECKPOINT")
            row = connection.execute("SELECT count(*) FROM pg_ls_waldir()").fetchone()
        if row is None or int(str(row[0])) < wanted:
            raise RuntimeError(f"{wanted} log files are wanted, and there are {row}")

    def admin(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(self.server.url("postgres"), autocommit=True)


@contextmanager
def stage(setup: Sequence[tuple[bytes, dict[str, int]]]) -> Iterator[Stage]:
    """Start a server in a temporary folder and fill its template database; all of it is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="lockstep-benchmark-"))
    folder.chmod(0o755)
    server = start(DEFAULT_MAJOR, folder, settings=SETTINGS)
    try:
        found = Stage(server, "template_of_all")
        with found.admin() as connection:
            connection.execute("CREATE DATABASE template_of_all")
        with psycopg.connect(server.url("template_of_all"), autocommit=True) as connection:
            for statement, values in setup:
                connection.execute(statement, values or None)
        yield found
    finally:
        server.remove()


def machine(stage: Stage) -> str:
    """Return a line that says where and when numbers were measured; no names, no paths."""
    with stage.admin() as connection:
        row = connection.execute("SHOW server_version").fetchone()
    memory = psutil.virtual_memory().total / 2**30
    busy = os.getloadavg()[0]
    return (
        f"{date.today().isoformat()}, PostgreSQL {row[0] if row else '?'}, {psutil.cpu_count()} cores"  # noqa: DTZ011
        f" ({platform.machine()}), {memory:.0f} GB memory, {_free_disk()} GB free disk,"
        f" load average {busy:.1f}"
    )


def settings() -> str:
    return ", ".join(f"{name} = {value}" for name, value in SETTINGS)


def _free_disk() -> int:
    return shutil.disk_usage(tempfile.gettempdir()).free // 2**30
