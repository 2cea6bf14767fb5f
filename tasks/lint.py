"""Looking at SQL files: run on copies of a schema, and judged by what the server did. No Prefect."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from tasks.database.catalog import snapshot
from tasks.database.clone import SchemaClone, scratch_place, scratch_server
from tasks.database.connection import Target, connect
from tasks.database.flyway_history import read_history
from tasks.database.foresight import remembered
from tasks.database.inspection import inspect_server
from tasks.database.pinned import PINNED, search_path
from tasks.database.schema_file import SchemaFile
from tasks.database.server import DEFAULT_MAJOR
from tasks.database.statement_trace import FilesTrace, trace_files
from tasks.planning.catalog import Catalog
from tasks.planning.errors import CannotConnect
from tasks.planning.findings.allowances import Allowance
from tasks.planning.findings.judging import Verdict, judge
from tasks.planning.flyway.history import Applied
from tasks.planning.flyway.settings import Settings
from tasks.planning.guessed import guess
from tasks.planning.objects.effects import roles_of
from tasks.planning.paces import Paces
from tasks.planning.script import Script
from tasks.planning.server_wide import made_roles
from tasks.planning.statements import Statement
from tasks.planning.text_files import read_text


@dataclass(frozen=True, slots=True)
class Looked:
    """What became of the files: a verdict for each statement that was looked at."""

    verdicts: tuple[Verdict, ...]
    unseen: int
    """Statements behind one that failed."""
    live: Catalog | None
    """The live database, where there is one: it knows the sizes."""
    unmeasured: str | None = None
    """Why nothing was run, and rules over the statements judged."""


def applied(target: Target) -> tuple[Applied, ...]:
    """Return the rows of the database's Flyway history; none where it has no such table.

    Raises CannotConnect, MissingPrivilege, LockNotAcquired (exit 1), and SpecError for a history that is not in the
    first schema of the search_path or not Flyway's (exit 2).
    """
    with connect(target, role="plan") as live:
        return read_history(live, Settings()) or ()


def look_at(scripts: Sequence[Script], target: Target) -> Looked:
    """Judge files on a copy of a live database's schema; the database itself is only read.

    Where there is no server for the copy, by rules. Raises CannotConnect, MissingPrivilege (exit 1), SpecError for a
    role that is not there (exit 2).
    """
    with connect(target, role="plan") as live:
        facts = inspect_server(live)
        settings = (*PINNED, ("search_path", search_path(live)))
    statements = _statements(scripts)
    with ExitStack() as stack:
        try:
            place = stack.enter_context(scratch_place(target, facts))
        except CannotConnect as error:
            return look_without_server(scripts, error.what, _catalog(target))
        clone = stack.enter_context(SchemaClone(target, place))
        clone.require_roles(roles_of(statements) - made_roles(statements))
        trace = trace_files([script.file for script in scripts], clone, settings)
        return _judged(scripts, trace, clone.live)


def _catalog(target: Target) -> Catalog:
    with connect(target, role="plan") as live:
        return snapshot(live)


def paces_of(target: Target, catalog: Catalog) -> Paces:
    """Return what is known of how fast a database works, without making it work; the look took a catalog of it.

    Raises CannotConnect.
    """
    with connect(target, role="plan") as live:
        return remembered(live, catalog)


def look_at_file(scripts: Sequence[Script], schema: Path) -> Looked:
    """Judge files on the schema that a file holds, in the embedded server.

    Where that cannot be started, by rules. Raises SpecError and Unsupported (exit 2).
    """
    text = read_text(schema)
    with ExitStack() as stack:
        try:
            server = stack.enter_context(scratch_server(DEFAULT_MAJOR))
        except CannotConnect as error:
            return look_without_server(scripts, error.what)
        place = stack.enter_context(SchemaFile(text, str(schema), server))
        place.require_roles(roles_of(_statements(scripts)))
        settings = (*PINNED, ("search_path", place.search_path or "public"))
        return _judged(scripts, trace_files([script.file for script in scripts], place, settings), None)


def look_without_server(scripts: Sequence[Script], why: str, live: Catalog | None = None) -> Looked:
    """Judge files by rules over their statements; ``live`` is the schema that they meet, where one is known."""
    facts = guess([script.file for script in scripts], live)
    return Looked(judge(facts, _noted(scripts), live), 0, live, why)


def _statements(scripts: Sequence[Script]) -> tuple[Statement, ...]:
    return tuple(statement for script in scripts for statement in script.file.statements)


def _judged(scripts: Sequence[Script], trace: FilesTrace, live: Catalog | None) -> Looked:
    return Looked(judge(trace.facts, _noted(scripts), live), len(trace.untraced), live)


def _noted(scripts: Sequence[Script]) -> dict[tuple[str, int], tuple[Allowance, ...]]:
    return {
        (script.file.name, position): tuple(found)
        for script in scripts
        for position, found in groupby(script.allowances, key=lambda item: item.statement)
    }
