"""What can be refused before Prefect starts, which takes seconds: a file, a name, a phase or a database that is not."""

from __future__ import annotations

import os

from flows import console, known
from tasks.database.connection import Target, connect, resolve
from tasks.database.ledger import Ledger
from tasks.plan_source import choose_database, is_spec, load_spec, no_such_migration, require_phase
from tasks.planning.errors import UnknownDatabase


def checked_run(migration: str, database: str | None, until: str | None) -> str:
    """Return the database of a run. Raises UsageError, or CannotConnect where a recorded name is looked up."""
    require_phase(until)
    if not is_spec(migration):
        return checked_name(migration, database)
    chosen = choose_database(load_spec(migration), database, console.note)
    _target(chosen)
    return chosen


def checked_name(name: str, database: str | None) -> str:
    """Return the database of a recorded migration. Raises as `checked_run`."""
    chosen = known.database_of(name, database)
    target = _target(chosen)
    if target is not None:
        with connect(target, role="run") as connection:
            if Ledger(connection).migration(name) is None:
                raise no_such_migration(name, chosen)
    return chosen


def _target(database: str) -> Target | None:
    """Return where a database is; None when a Secret block may say so, which is for the run to ask."""
    try:
        return resolve(database)
    except UnknownDatabase:
        if "PREFECT_API_URL" in os.environ:
            return None
        raise
