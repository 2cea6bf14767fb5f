"""Into which transactions the statements of a file fall: Flyway's rule, and what BEGIN and COMMIT in the file say.

A file is one transaction unless it holds a statement that cannot run in one. Of those Flyway sees only some: a
versioned file of the others needs ``executeInTransaction=false`` in its ``.conf``, else the server refuses it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import Literal

from tasks.planning import parser
from tasks.planning.statements import Statement

_FLYWAY_FILE = re.compile(r"(?:[VBU]\d[\d._]*?(?:__.*)?|R__.*)\.(?i:sql)")
"""Prefixes are told by their case, the ending is not."""

_ALWAYS_OUTSIDE = frozenset(
    {
        "create_database", "drop_database", "create_table_space", "drop_table_space", "alter_system",
        "create_subscription", "alter_subscription", "drop_subscription", "vacuum",
    }
)  # fmt: skip


@dataclass(frozen=True)
class SourceFile:
    """A file of SQL: ``name`` as it is called in messages, its whole ``text``, and the statements of the text."""

    name: str
    text: str
    statements: tuple[Statement, ...]
    told: bool | None = None
    """``executeInTransaction`` of the file's ``.conf``; None where there is none."""

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where each statement begins in the text, in characters from 0."""
        found: list[int] = []
        cursor, line, start = 0, 1, 0
        for statement in self.statements:
            while line < statement.line:
                start = self.text.index("\n", start) + 1
                line += 1
            offset = self.text.find(statement.sql, max(cursor, start))
            found.append(offset if offset >= 0 else max(cursor, start))
            cursor = found[-1] + len(statement.sql)
        return tuple(found)

    def place(self, position: int, inside: int = 0) -> tuple[int, int]:
        """Return line and column, from 1, of a character of the statement at ``position``."""
        offset = min(self.offsets[position] + inside, len(self.text))
        line = self.text.count("\n", 0, offset) + 1
        return line, offset - self.text.rfind("\n", 0, offset)

    @property
    def is_flyway(self) -> bool:
        """Whether the name is one that Flyway would run."""
        return _FLYWAY_FILE.fullmatch(PurePath(self.name).name) is not None

    @property
    def is_transaction(self) -> bool:
        """Whether the file runs in a transaction that it did not write itself."""
        if self.told is not None:
            return self.told
        return not any(self._runs_outside(statement) for statement in self.statements)

    @property
    def is_mixed(self) -> bool:
        """Whether statements of both kinds are in the file, which Flyway refuses unless it is told ``mixed``."""
        kinds = {runs_outside(item) for item in self.statements if item.kind not in ("transaction", "set")}
        return len(kinds) > 1

    def _runs_outside(self, statement: Statement) -> bool:
        return is_seen_by_flyway(statement) if self.is_flyway else runs_outside(statement)


def runs_outside(statement: Statement) -> bool:
    """Whether the server refuses the statement inside a transaction."""
    if statement.kind == "reindex":
        words = _words(statement)
        return "CONCURRENTLY" in words or is_seen_by_flyway(statement)
    return is_seen_by_flyway(statement) or (statement.concurrent and statement.kind == "alter_table")


def is_seen_by_flyway(statement: Statement) -> bool:
    """Whether Flyway knows by itself that the statement must run outside a transaction."""
    match statement.kind:
        case "create_index" | "drop_index":
            return statement.concurrent
        case "reindex":
            return bool({"SCHEMA", "DATABASE", "SYSTEM"} & set(_words(statement)))
        case "discard":
            return "ALL" in _words(statement)
        case kind:
            return kind in _ALWAYS_OUTSIDE


def _words(statement: Statement) -> tuple[str, ...]:
    return tuple(token.word for token in parser.tokens(statement.sql))


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
    words = _words(statement)
    match words[0]:
        case "BEGIN" | "START":
            return "begin"
        case "ROLLBACK" | "ABORT":
            return "savepoint" if "TO" in words else "rollback"
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
            written = "CHAIN" in _words(statement)
        elif word is not None or written or file.is_transaction:
            inside.append(position)
            written = written or word == "begin"
        else:
            found.append(Unit((position,), in_transaction=False))
    if inside:
        # A transaction that the file leaves open is Flyway's to commit; psql's end is its rollback.
        found.append(Unit(tuple(inside), in_transaction=True, committed=file.is_transaction))
    return tuple(found)
