"""What every acceptance case goes through: start → rollback → as before; start → complete → as the plain SQL makes it.

The expectation never comes from Lockstep. A *copy* of the case's database receives every statement that the
application had acknowledged, in its own shape, and between the two shapes the case's plain SQL, all at once. Catalog
and content of the migrated database must then equal the copy's.
"""

from __future__ import annotations

import difflib
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import yaml
from psycopg import sql

from tasks.database.catalog import snapshot
from tasks.database.connection import Target
from tasks.planning.schema_hash import schema_text
from tests.acceptance.shell import Answer, Shell
from tests.acceptance.writers import Workload

CASES_FOLDER = Path(__file__).parent / "cases"
DATABASE = "acceptance"
VARIABLE = "LOCKSTEP_ACCEPTANCE_URL"


@dataclass(frozen=True)
class Case:
    """A folder: ``schema.sql``, ``spec.yaml``, ``workload.yaml``; where needed ``rows.sql`` and ``expected.sql``."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def spec(self) -> Path:
        return (self.folder / "spec.yaml").resolve()

    @property
    def migration(self) -> str:
        name: str = yaml.safe_load(self.spec.read_text(encoding="utf-8"))["name"]
        return name

    @property
    def setup(self) -> tuple[bytes, ...]:
        files = (self.folder / "schema.sql", self.folder / "rows.sql")
        return tuple(file.read_bytes() for file in files if file.exists())

    @property
    def expected(self) -> bytes:
        """The plain SQL that makes the same of a copy: the spec's own change, unless it cannot run on filled tables."""
        file = self.folder / "expected.sql"
        return file.read_bytes() if file.exists() else self.change.encode()

    @property
    def change(self) -> str:
        """The SQL of the spec."""
        change: str = yaml.safe_load(self.spec.read_text(encoding="utf-8"))["change"]
        return change

    @property
    def workload(self) -> Workload:
        document = yaml.safe_load((self.folder / "workload.yaml").read_text(encoding="utf-8"))
        return Workload(**document)


def cases() -> list[Case]:
    """Return all cases; a folder is a case."""
    return [Case(folder) for folder in sorted(CASES_FOLDER.iterdir()) if (folder / "spec.yaml").exists()]


@dataclass(frozen=True)
class Lockstep:
    """The command line, pointed at one database."""

    shell: Shell
    target: Target
    environment: dict[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: str) -> Answer:
        """Run one command on the database. Every command takes --database, so it is given to each."""
        arguments = (*arguments, "--database", DATABASE)
        environment = {VARIABLE: self.target.conninfo} | self.environment
        return self.shell.lockstep(*arguments, **environment)

    def must(self, *arguments: str, code: int = 0) -> Answer:
        """Run a command that has to end with this exit code."""
        answer = self(*arguments)
        assert answer.code == code, f"lockstep {' '.join(arguments)}: expected exit {code}\n{answer}"
        return answer


@contextmanager
def another_database(target: Target) -> Iterator[Target]:
    """Create an empty database beside another one, dropped after the block."""
    name = f"copy_{secrets.token_hex(4)}"
    conninfo = psycopg.conninfo.make_conninfo(target.conninfo, dbname=name)
    with psycopg.connect(target.conninfo, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        try:
            yield Target(name, conninfo)
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def execute(target: Target, *scripts: bytes) -> None:
    """Run SQL scripts, each in a transaction of its own."""
    with psycopg.connect(target.conninfo, autocommit=True) as connection:
        for script in scripts:
            with connection.transaction():
                connection.execute(script)


def query(target: Target, text: str, *values: Any) -> list[tuple[Any, ...]]:
    """Return the rows of a query."""
    with psycopg.connect(target.conninfo, autocommit=True) as connection:
        return connection.execute(text.encode(), values or None).fetchall()


def catalog_text(target: Target) -> str:
    """Return everything that the schema hash covers, over the whole database, as readable text."""
    with psycopg.connect(target.conninfo) as connection:
        catalog = snapshot(connection)
    return schema_text(catalog, sorted(table.name for table in catalog.tables))


def content(target: Target) -> dict[str, list[str]]:
    """Return every table's rows as sorted JSON texts, columns by name; Lockstep's own schema is left out."""
    with psycopg.connect(target.conninfo) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        tables = connection.execute(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables"
            " WHERE schemaname NOT IN ('pg_catalog', 'information_schema', 'lockstep') ORDER BY 1"
        ).fetchall()
        return {
            str(name): [
                str(row)
                for (row,) in connection.execute(
                    f'SELECT to_jsonb(t)::text COLLATE "C" FROM {name} AS t ORDER BY 1'.encode()
                )
            ]
            for (name,) in tables
        }


def assert_equal(found: Target, expected: Target) -> None:
    """Compare catalog and content of two databases; the message shows the first differences."""
    catalogs = [catalog_text(expected), catalog_text(found)]
    assert catalogs[0] == catalogs[1], _difference(catalogs[0].splitlines(), catalogs[1].splitlines())
    wanted, there = content(expected), content(found)
    assert wanted.keys() == there.keys()
    for table, rows in wanted.items():
        assert rows == there[table], f"{table}:\n{_difference(rows, there[table])}"
    assert any(wanted.values()), "an empty database proves nothing"


def _difference(expected: list[str], found: list[str]) -> str:
    lines = difflib.unified_diff(expected, found, "expected", "found", lineterm="", n=1)
    return "\n".join(line for _, line in zip(range(40), lines, strict=False))


def planned_phases(answer: Answer) -> list[str]:
    """Return the phases of the plan that ``lockstep plan --format json`` printed."""
    return [phase["name"] for phase in json.loads(answer.out)["phases"]]
