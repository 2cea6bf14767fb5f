"""What the server was seen to do for each statement of a change: the facts that findings are made of.

The facts come from a clone (`tasks.database.statement_trace`), or, without any server to clone to, from rules over the
parsed statement (`tasks.planning.guessed`); ``source`` says which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tasks.planning.catalog import Catalog
from tasks.planning.change import Change
from tasks.planning.names import TableName
from tasks.planning.plan import LockMode, Work
from tasks.planning.statements import Statement

Source = Literal["measured", "guessed"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """The server refused a statement: its message without values, where in the file, and its SQLSTATE."""

    message: str
    sqlstate: str | None
    line: int
    column: int
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class StatementFacts:
    """One statement. Relations are those that were there before the file began, unless said otherwise."""

    index: int
    """From 1, over all files of the call."""
    file: str
    statement: Statement
    in_transaction: bool
    """Whether it runs in the file's own transaction; CONCURRENTLY and VACUUM do not."""
    own: Mapping[TableName, LockMode]
    """The strongest lock that the statement takes by itself, by relation; ACCESS SHARE included."""
    held: Mapping[TableName, LockMode]
    """The same with what the file's transaction holds by then; danger is judged by it."""
    rewrites: tuple[TableName, ...]
    index_builds: tuple[tuple[str, TableName], ...]
    """Index and table of every index that is built, on tables that were there."""
    scans: tuple[TableName, ...]
    """Tables that are read from begin to end."""
    validations: tuple[tuple[str, TableName], ...]
    """Constraint and table of every constraint that is checked against the rows."""
    changes: tuple[Change, ...]
    before: Catalog
    after: Catalog
    refused: Refusal | None = None
    source: Source = "measured"
    index_locks: Mapping[TableName, LockMode] = field(default_factory=dict)
    """As ``own``, of indexes; ``own`` and ``held`` are of tables, views, materialized views and sequences."""
    not_run: str | None = None
    """Why the statement was not run on the clone, so that there are no facts of it (CREATE ROLE, COPY …)."""
    beside: int | None = None
    """The line of a statement of its file that belongs into a transaction, where this one cannot be in one."""
    server_major: int = 0
    """The major version of the server that measured; 0 where nothing did."""

    @property
    def work(self) -> tuple[tuple[Work, TableName], ...]:
        """What is done to whole tables, nothing twice: a rewrite builds the indexes too, and either reads the rows."""
        built = tuple(table for _, table in self.index_builds if table not in self.rewrites)
        scanned = tuple(table for table in self.scans if table not in (*self.rewrites, *built))
        return (
            *(("rewrite", table) for table in self.rewrites),
            *(("build", table) for table in built),
            *(("scan", table) for table in scanned),
        )
