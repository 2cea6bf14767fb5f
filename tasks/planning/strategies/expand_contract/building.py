"""Indexes built without blocking writes, and unique ones made constraints: steps that several rooms need."""

from __future__ import annotations

import re

from psycopg import sql

from tasks.planning.catalog import Constraint, Index
from tasks.planning.errors import Unsupported
from tasks.planning.names import verbatim
from tasks.planning.plan import BuildIndex, DropIndex, LockUse, Step
from tasks.planning.strategies.expand_contract.contribution import (
    LONG_STATEMENT_TIMEOUT_MS,
    TableChange,
)


def build_step(change: TableChange, phase: str, index: Index, name: str, title: str) -> Step:
    """Return CREATE INDEX CONCURRENTLY of ``index`` under ``name``."""
    return Step(
        id=f"{phase}/index/{name}",
        title=title,
        action=build_action(change, index, name),
        locks=(LockUse(table=change.name, mode="SHARE UPDATE EXCLUSIVE"),),
        lock_timeout_ms=LONG_STATEMENT_TIMEOUT_MS,
        statement_timeout_ms=LONG_STATEMENT_TIMEOUT_MS,
        undo=(DropIndex(table=change.name, index=name),),
        forecast=change.every_row("build"),
    )


def build_action(change: TableChange, index: Index, name: str) -> BuildIndex:
    return BuildIndex(table=change.name, index=name, statement=concurrently(index.definition, name))


def attach(change: TableChange, constraint: Constraint, index: str, name: str) -> str:
    """Return the statement that makes a unique index the constraint ``name``, which the index is then called too."""
    deferrable = re.search(r"(NOT )?DEFERRABLE.*$", constraint.definition)
    return change.alter(
        "ADD CONSTRAINT {c} {kind} USING INDEX {i} {d}",
        c=sql.Identifier(name),
        kind=sql.SQL("PRIMARY KEY" if constraint.kind == "primary_key" else "UNIQUE"),
        i=sql.Identifier(index),
        d=verbatim(deferrable.group(0) if deferrable else ""),
    ).rstrip()


def index_comment(change: TableChange, index: Index, name: str) -> tuple[str, ...]:
    """Return the COMMENT of an index of the target, as no statement or one."""
    if index.comment is None:
        return ()
    written = sql.SQL("COMMENT ON INDEX {} IS {}").format(
        sql.Identifier(change.name.schema, name), sql.Literal(index.comment)
    )
    return (written.as_string(),)


def constraint_comment(change: TableChange, constraint: Constraint, name: str) -> tuple[str, ...]:
    """Return the COMMENT of a constraint, as no statement or one."""
    if constraint.comment is None:
        return ()
    written = sql.SQL("COMMENT ON CONSTRAINT {} ON {} IS {}").format(
        sql.Identifier(name), change.name.identifier, sql.Literal(constraint.comment)
    )
    return (written.as_string(),)


def concurrently(definition: str, name: str) -> str:
    """Return the CREATE INDEX statement of ``pg_get_indexdef`` as CONCURRENTLY, under another name."""
    pattern = r'CREATE (UNIQUE )?INDEX (?:"(?:[^"]|"")*"|\S+) ON '
    match = re.match(pattern, definition)
    if match is None:
        raise Unsupported(f"the index definition {definition}", instead="Report it: Lockstep could not read it.")
    head = f"CREATE {match.group(1) or ''}INDEX CONCURRENTLY {sql.Identifier(name).as_string()} ON "
    return head + definition[match.end() :]
