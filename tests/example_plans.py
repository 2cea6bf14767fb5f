"""Makes the plans in ``examples/`` anew, by the command that a user gives: ``python -m tests.example_plans``.

The drink-water change on 200,000 intakes while the application writes, and a bare ``ALTER TABLE … TYPE bigint`` on a
table of a million rows in a schema of 1,000 tables. Takes two minutes; the embedded servers are made for it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows import plan as plan_command
from tasks.application.application import Application
from tasks.application.client import Pace
from tasks.application.drink_water import EXAMPLE, fill
from tasks.database.connection import Target, connect, variable_name
from tasks.database.server import DEFAULT_MAJOR
from tests.benchmarks.planning_time import BATCH, schema
from tests.conftest import temporary_server

TABLES = 1_000
ROWS = 1_000_000
INTAKES = 200_000
WIDER = EXAMPLE.parent / "wider-column" / "wider-quantity.sql"


@contextmanager
def database(name: str) -> Iterator[Target]:
    """A database on a server of its own that `lockstep` knows under this name."""
    with temporary_server(DEFAULT_MAJOR) as server:
        with connect(Target("admin", server.url("postgres")), role="examples") as admin:
            admin.execute(f'CREATE DATABASE "{name}"'.encode())
        target = Target(name, server.url(name))
        os.environ[variable_name(name)] = target.conninfo
        yield target


def written(spec: Path, name: str) -> None:
    """Plan a spec and put the document beside it."""
    with tempfile.TemporaryDirectory() as folder:
        if code := plan_command.show(str(spec), name, Path(folder), "json"):
            raise SystemExit(code)
        (document,) = Path(folder).glob("*.md")
        shutil.copyfile(document, spec.with_suffix(".plan.md"))


def drink_water() -> None:
    with database("drink-water") as target:
        fill(target.conninfo, intakes=INTAKES, users=INTAKES // 40)
        with Application(target.conninfo, pace=Pace(pause=0.05)) as application:
            application.set_shapes(old=4, new=0)
            written(EXAMPLE / "intake-v2.yaml", target.name)


def wider_column() -> None:
    texts = list(schema(TABLES))
    with database("thousand-tables") as target:
        with connect(target, role="examples") as connection:
            for first in range(0, len(texts), BATCH):
                connection.execute("".join(texts[first : first + BATCH]).encode())
            connection.execute(
                "INSERT INTO t00500 (name, email, price, state, quantity) SELECT 'name ' || n, n || '@example.org', n, "
                f"'new', 1 + n % 100 FROM generate_series(1, {ROWS}) AS n".encode()
            )
            connection.execute("VACUUM ANALYZE t00500")
        written(WIDER, target.name)


if __name__ == "__main__":
    drink_water()
    wider_column()
