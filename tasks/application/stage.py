"""Where the demo plays: a fresh database on the embedded server, and the command line run as a user would run it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs
import psycopg
from psycopg import sql

from tasks.application.drink_water import EXAMPLE, fill
from tasks.database import server
from tasks.database.catalog import snapshot
from tasks.database.connection import Target, connect, variable_name
from tasks.database.crash import VARIABLE
from tasks.database.ledger import Ledger
from tasks.planning.errors import MigrationError
from tasks.planning.plan import Backfill
from tasks.planning.schema_hash import schema_hash

MIGRATION = "intake-v2"
DATABASE = "drink-water"
TABLE = "water_intake"
KILLED = -9
INTAKES_PER_USER = 40

Say = Callable[[str], None]


@dataclass(frozen=True)
class Stage:
    """The demo's database, and `lockstep` in processes of its own, so that one can be killed."""

    target: Target
    folder: Path
    say: Say = field(repr=False)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def spec(self) -> Path:
        return EXAMPLE / "intake-v2.yaml"

    def lockstep(self, *arguments: str, code: int = 0, crash_at: str | None = None) -> None:
        """Run one command and show what it prints. Raises MigrationError unless it ends with ``code``."""
        self.say(f"$ lockstep {' '.join(arguments)}")
        variables = {variable_name(DATABASE): self.target.conninfo, "PYTHONUNBUFFERED": "1"}
        if crash_at is not None:
            variables[VARIABLE] = crash_at
        process = subprocess.Popen(
            [sys.executable, "-c", "from flows.cli import main; main()", *arguments],
            env=os.environ | self.environment | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        with process:
            for line in process.stdout or ():
                self.say(f"  | {line.rstrip()}")
        if process.returncode != code:
            raise MigrationError(
                f"The demo stops: `lockstep {' '.join(arguments)}` ended with {process.returncode}, not with {code}.",
                remedy="Its own message stands above.",
            )

    def backfill_step(self) -> str:
        """Return the id of the step that fills the intakes."""
        with connect(self.target, role="demo") as connection:
            plan = Ledger(connection).known_migration(MIGRATION).plan
        return next(
            step.id
            for phase in plan.phases
            for step in phase.steps
            if isinstance(step.action, Backfill) and step.action.table.name == TABLE
        )

    def filled(self) -> tuple[int, int]:
        """Return how many rows the backfill has done, and of how many."""
        step = self.backfill_step()
        with connect(self.target, role="demo") as connection:
            found = [item for item in Ledger(connection).progress(MIGRATION) if item.step == step]
        return (found[0].rows_done, found[0].rows_total or 0) if found else (0, 0)

    def schema(self) -> str:
        """Return the hash of the whole schema."""
        with connect(self.target, role="demo") as connection:
            catalog = snapshot(connection)
        return schema_hash(catalog, [table.name for table in catalog.tables])


@contextmanager
def stage(*, rows: int, say: Say) -> Iterator[Stage]:
    """Start the embedded server and load a fresh drink-water database; it stays there after the block, to look at."""
    folder = platformdirs.user_data_path("lockstep") / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    with server.serving() as embedded:
        name = sql.Identifier("lockstep_demo")
        with psycopg.connect(embedded.url("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
            connection.execute(sql.SQL("CREATE DATABASE {}").format(name))
        target = Target(DATABASE, embedded.url("lockstep_demo"))
        fill(target.conninfo, intakes=rows, users=max(20, rows // INTAKES_PER_USER))
        yield Stage(target, folder, say)
