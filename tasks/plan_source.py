"""Where a plan comes from: the spec, or the ledger while the migration is under way. No Prefect here."""

from __future__ import annotations

from pathlib import Path

from tasks.database.connection import Target
from tasks.database.records import MigrationRecord
from tasks.planning.errors import UsageError
from tasks.planning.plan import Plan
from tasks.planning.spec import LoadedSpec
from tasks.planning.states import UNFINISHED

SPEC_ENDINGS = {".yaml", ".yml", ".sql"}


def make_plan(loaded: LoadedSpec, target: Target, stored: MigrationRecord | None = None) -> Plan:
    """Return the plan of a spec: the stored one while it is under way, else a new one. Changes nothing.

    The live schema of a migration under way is neither the old one nor the new, and could not be planned from.
    """
    if stored is not None and stored.state in UNFINISHED and stored.spec == loaded.text:
        return stored.plan
    if stored is not None and stored.state in UNFINISHED:
        raise UsageError(
            f"The spec of {stored.name!r} has changed, and the migration is unfinished ({stored.state}).",
            safety="Nothing was touched: what is recorded is still what runs.",
            remedy=f"Put the spec back as it was, or go back first:  lockstep rollback {stored.name}",
        )
    from tasks.database import oracle

    return oracle.plan(loaded, target)


def is_spec(migration: str) -> bool:
    """Say whether a MIGRATION is a file, or else a recorded name."""
    return Path(migration).suffix in SPEC_ENDINGS or Path(migration).is_file()


def database_in(loaded: LoadedSpec) -> str:
    """Return the database that a spec names. Raises UsageError for one that names none, such as a bare .sql file."""
    if not loaded.spec.database:
        raise UsageError(f"{loaded.spec.name!r} does not say which database it is for.", remedy="Add --database NAME.")
    return str(loaded.spec.database)
