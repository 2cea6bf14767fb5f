"""Which database a migration of this user is in, so that NAME is enough on the command line. Names only."""

from __future__ import annotations

import json
from pathlib import Path

import platformdirs

from tasks.plan_source import databases
from tasks.planning.errors import UsageError


def remember(migration: str, database: str) -> None:
    """Note that a migration is in a database. A folder that cannot be written is no reason to stop."""
    path = _file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(_read() | {migration: database}, indent=2))
    except OSError:
        pass


def database_of(migration: str | None, given: str | None) -> str:
    """Return the database that is meant: the one given, the one remembered, or the only one of the environment.

    Raises UsageError when that leaves more than one.
    """
    if given:
        return given
    if migration is not None and migration in (known := _read()):
        return known[migration]
    candidates = databases()
    if len(candidates) == 1:
        return candidates[0]
    raise UsageError(
        f"Which database? {'Known are: ' + ', '.join(candidates) + '.' if candidates else 'None is known here.'}",
        remedy="Add --database NAME.",
    )


def _file() -> Path:
    return platformdirs.user_state_path("lockstep") / "migrations.json"


def _read() -> dict[str, str]:
    try:
        known = json.loads(_file().read_text())
    except (OSError, ValueError):
        return {}
    return {str(name): str(database) for name, database in known.items()} if isinstance(known, dict) else {}
