"""Into which transactions the statements of a file fall: Flyway's rule, and what BEGIN and COMMIT in the file say.

A file is one transaction unless it holds a statement that cannot run in one. Of those Flyway sees only some: a
versioned file of the others needs ``executeInTransaction=false`` in its ``.conf``, else the server refuses it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePath
from typing import Literal

from tasks.planning.flyway.names import is_flyway_name
from tasks.planning.flyway.script_settings import ScriptSettings
from tasks.planning.flyway.settings import Settings
from tasks.planning.flyway.transactions import Way, way
from tasks.planning.outside import runs_outside, words
from tasks.planning.statements import Statement


@dataclass(frozen=True)
class SourceFile:
    """A file of SQL: ``name`` as it is called in messages, its whole ``text``, and the statements of the text."""

    name: str
    text: str
    statements: tuple[Statement, ...]
    script_settings: ScriptSettings = field(default_factory=ScriptSettings)
    """Those of the ``.conf`` beside a file of Flyway's."""

    def place(self, position: int, inside: int = 0) -> tuple[int, int]:
        """Return line and column, from 1, of a character of the statement at ``position``."""
        statement = self.statements[position]
        before = statement.sql[:inside]
        if "\n" in before:
            return statement.line + before.count("\n"), inside - before.rfind("\n")
        return statement.line, statement.column + inside

    @cached_property
    def is_flyway(self) -> bool:
        """Whether the name is one that Flyway would run."""
        return is_flyway_name(PurePath(self.name).name)

    @cached_property
    def is_transaction(self) -> bool:
        """Whether the file runs in a transaction that it did not write itself."""
        if self.is_flyway:
            return self._way.in_transaction
        return not any(runs_outside(statement) for statement in self.statements)

    def beside(self, position: int) -> int | None:
        """Return the line of a statement that bars this one from the file: one runs inside a transaction, one cannot.

        None for a statement that may be in a transaction, and for files that are run in spite of it.
        """
        return self._inside_line if runs_outside(self.statements[position]) else None

    @cached_property
    def _inside_line(self) -> int | None:
        if self.is_flyway:
            return None if self._way.mixture is None else self._way.mixture.inside_line
        return next((item.line for item in self.statements if _belongs_inside(item)), None)

    @cached_property
    def _way(self) -> Way:
        return way(self.text, self.script_settings, Settings())


def _belongs_inside(statement: Statement) -> bool:
    return statement.kind not in ("transaction", "set", "show") and not runs_outside(statement)


# ------------------------------------------------------------------------------------------------ transactions


Control = Literal["begin", "commit", "rollback", "savepoint"]


@dataclass(frozen=True)
class Unit:
    """Statements of a file, by position, that are one transaction; or one that runs by itself."""

    positions: tuple[int, ...]
    in_transaction: bool
    committed: bool = True


def control(statement: Statement) -> Control | None:
    """Return what a transaction command does; SAVEPOINT, RELEASE and ROLLBACK TO are ``savepoint``."""
    if statement.kind != "transaction":
        return None
    found = words(statement)
    match found[0]:
        case "BEGIN" | "START":
            return "begin"
        case "ROLLBACK" | "ABORT":
            return "savepoint" if "TO" in found else "rollback"
        case "SAVEPOINT" | "RELEASE":
            return "savepoint"
        case _:
            return "commit"


def units(file: SourceFile) -> tuple[Unit, ...]:
    """Divide a file into its transactions. Every statement is in one, BEGIN and COMMIT in the one that they bound."""
    found: list[Unit] = []
    inside: list[int] = []
    written = False
    for position, statement in enumerate(file.statements):
        word = control(statement)
        if word in ("commit", "rollback"):
            found.append(Unit((*inside, position), in_transaction=True, committed=word == "commit"))
            inside = []
            written = "CHAIN" in words(statement)
        elif word is not None or written or file.is_transaction:
            inside.append(position)
            written = written or word == "begin"
        else:
            found.append(Unit((position,), in_transaction=False))
    if inside:
        # A transaction that the file leaves open is Flyway's to commit; psql's end is its rollback.
        found.append(Unit(tuple(inside), in_transaction=True, committed=file.is_transaction))
    return tuple(found)
