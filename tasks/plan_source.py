"""What a run is asked for, and where its plan comes from: the spec, or the ledger while it is under way. No Prefect."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from tasks.database.connection import Target
from tasks.database.records import MigrationRecord
from tasks.planning.errors import SpecError, UnknownMigration, UsageError
from tasks.planning.plan import Plan
from tasks.planning.spec import LoadedSpec, PhaseName, Spec, load
from tasks.planning.spec_text import SpecText
from tasks.planning.states import UNFINISHED

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
"""What can be a migration's name; anything else is meant as a path."""
VARIABLE = re.compile(r"LOCKSTEP_(.+)_URL")
NOT_A_DATABASE = {"LOCKSTEP_TEST_SERVER_URL"}
IN_THE_CHANGE_HASH = {"name", "database", "change", "change_file", "mapping", "personal", "gates"}
"""What two specs with the same change hash agree in, and what names them only. The rest is in the plan, too."""
MAY_CHANGE = {"window", "throttle"}
"""What an unfinished migration takes over from a changed spec."""


def make_plan(loaded: LoadedSpec, target: Target, stored: MigrationRecord | None = None) -> Plan:
    """Return the plan of a spec: the stored one while it is under way, else a new one. Changes nothing.

    A spec of a Flyway folder is one `with_its_files`.

    The live schema of a migration under way is neither the old one nor the new, and could not be planned from. Of its
    spec only maintenance window and throttle may change: they have no part in any statement.
    """
    if stored is not None and stored.state in UNFINISHED:
        if says_the_same(loaded, stored):
            plan = stored.plan.model_copy(update={"window": loaded.spec.window, "throttle": loaded.spec.throttle})
            return stored.plan if plan == stored.plan else plan
        raise UsageError(
            f"The spec of {stored.name!r} has changed, and the migration is unfinished ({stored.state}).",
            safety="Nothing was touched: what is recorded is still what runs.",
            remedy=f"Put the spec back as it was, or go back first:  lockstep rollback {stored.name}",
        )
    from tasks.database import oracle

    if loaded.flyway is not None and not loaded.parts:
        return oracle.nothing_pending(loaded, target)
    return oracle.plan(loaded, target)


def says_the_same(loaded: LoadedSpec, stored: MigrationRecord) -> bool:
    """Say whether a spec means what the recorded one meant. Comments, layout, window and throttle do not count."""
    if stored.spec == loaded.text:
        return True
    return stored.change_hash == loaded.change_hash and _arrangements(stored.spec) == loaded.spec.model_dump(
        exclude=IN_THE_CHANGE_HASH | MAY_CHANGE
    )


def _arrangements(text: str) -> dict[str, object]:
    try:
        spec = Spec.model_validate(SpecText(text, "the recorded spec").content)
    except (SpecError, ValidationError):
        spec = Spec(name="bare", change=text)  # only sound specs are recorded: this one was a .sql file
    return spec.model_dump(exclude=IN_THE_CHANGE_HASH | MAY_CHANGE)


def is_spec(migration: str) -> bool:
    """Say whether a MIGRATION is meant as a file, or else as a recorded name."""
    return NAME.fullmatch(migration) is None or Path(migration).is_file()


def load_spec(migration: str) -> LoadedSpec:
    """Read the spec at a path. Raises SpecError, which says what to give where the path is no file."""
    path = Path(migration)
    if path.is_dir():
        specs = sorted(path.glob("*.y*ml")) or sorted(path.glob("*.sql"))
        one_of = f", e.g. {', '.join(str(found) for found in specs[:5])}" if specs else ""
        remedy = f"Give the path of a spec (YAML) or of a .sql file{one_of}."
        raise SpecError(f"{migration!r} is a folder, and a folder is no spec.", remedy=remedy)
    if not path.exists():
        raise SpecError(f"There is no file {migration!r}.", remedy="Give the path of a spec (YAML) or of a .sql file.")
    return load(path)


def choose_database(loaded: LoadedSpec, given: str | None, say: Callable[[str], None]) -> str:
    """Return the database of a run: the one given, the spec's, or the only one of the environment, which is said.

    Raises UsageError when that leaves none, or more than one.
    """
    chosen = given or loaded.spec.database
    if chosen:
        return chosen
    known = databases()
    if len(known) == 1:
        say(f"Database: {known[0]}, the only one that is known here.")
        return known[0]
    raise UsageError(
        f"{loaded.spec.name!r} does not say which database it is for.",
        remedy=f"Add one of: {', '.join(f'--database {name}' for name in known)}."
        if known
        else "Add --database NAME, and set LOCKSTEP_<NAME>_URL to its URL.",
    )


def databases() -> tuple[str, ...]:
    """Return the names of the databases that the environment holds."""
    return tuple(
        sorted(
            found[1].lower().replace("_", "-")
            for variable in os.environ
            if (found := VARIABLE.fullmatch(variable)) and variable not in NOT_A_DATABASE
        )
    )


def no_such_migration(name: str, database: str) -> UsageError:
    """Return the error for what is neither a file nor recorded."""
    if Path(name).is_dir():
        return SpecError(f"{name!r} is a folder, and no migration of that name is recorded in {database!r}.")
    return UnknownMigration(
        f"There is no file {name!r}, and no migration of that name is recorded in {database!r}.",
        remedy="Give the path of its spec.",
    )


def require_phase(until: str | None, phases: Sequence[str] = get_args(PhaseName)) -> None:
    """Raise UsageError for an ``until`` that is none of the phases: such a run would go on to the end."""
    if until is not None and until not in phases:
        raise UsageError(f"There is no phase {until!r} to stop after.", remedy=f"Phases: {', '.join(phases)}.")
