"""Where the demo plays: a fresh database on the embedded server, and the command line run as a user would run it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs
import psycopg
from psycopg import sql

from tasks.application.drink_water import EXAMPLE, fill
from tasks.application.terminal import Terminal
from tasks.database import server
from tasks.database.catalog import snapshot
from tasks.database.clone import scratch_server
from tasks.database.connection import Target, connect, variable_name
from tasks.database.crash import VARIABLE
from tasks.database.ledger import Ledger
from tasks.planning.errors import MigrationError
from tasks.planning.plan import Backfill
from tasks.planning.schema_hash import schema_hash

MIGRATION = "intake-v2"
DATABASE = "drink-water"
TABLE = "water_intake"
INTAKES_PER_USER = 40

Say = Callable[[str], None]


@dataclass(frozen=True)
class Stage:
    """The demo's database, and a terminal on which commands are given."""

    target: Target
    folder: Path
    terminal: Terminal = field(repr=False)
    say: Say = field(repr=False)
    _loading: Future[None] = field(repr=False)

    def loaded(self) -> None:
        """Wait until all rows are there."""
        self._loading.result()

    @property
    def spec(self) -> Path:
        return EXAMPLE / "intake-v2.yaml"

    def lockstep(self, *arguments: str, code: int = 0, crash_at: str | None = None) -> None:
        """Run one command and show what it prints. Raises MigrationError unless it ends with ``code``."""
        self.say(f"$ lockstep {shlex.join(arguments)}")
        found = self.terminal.run(arguments, {VARIABLE: crash_at} if crash_at else {}, self.say)
        if found != code:
            raise MigrationError(
                f"The demo stops: `lockstep {' '.join(arguments)}` ended with {found}, not with {code}.",
                remedy="Its own message stands above.",
            )

    def run(self, *arguments: str, code: int = 0, crash_at: str | None = None) -> None:
        """Carry the migration on, on any day of the week: its window is at the weekend. Raises as `lockstep`."""
        self.lockstep("run", str(self.spec), "--ignore-window", *arguments, code=code, crash_at=crash_at)

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
def stage(*, rows: int, major: int, say: Say) -> Iterator[Stage]:
    """Start the embedded server and begin to load a fresh database, which stays after the block, to look at."""
    folder = platformdirs.user_data_path("lockstep") / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    # Two servers, as in life. The planner's scratch server stays up from plan to plan.
    with scratch_server(major), server.serving(major) as embedded:
        name = sql.Identifier("lockstep_demo")
        with psycopg.connect(embedded.url("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
            connection.execute(sql.SQL("CREATE DATABASE {}").format(name))
        target = Target(DATABASE, embedded.url("lockstep_demo"))
        with ThreadPoolExecutor(1) as pool, Terminal({variable_name(DATABASE): target.conninfo}) as terminal:
            users = max(20, rows // INTAKES_PER_USER)
            loading = pool.submit(fill, target.conninfo, intakes=rows, users=users)
            yield Stage(target, folder, terminal, say, loading)
