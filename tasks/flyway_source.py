"""The change of a spec with a Flyway folder: it depends on the database, and on what is recorded. No Prefect."""

from __future__ import annotations

from tasks.database.connection import Target, connect
from tasks.database.flyway_history import read_history, writable_history
from tasks.database.records import MigrationRecord
from tasks.planning.flyway.folder import read_folder
from tasks.planning.flyway.sequence import pending_sequence, recorded_texts
from tasks.planning.spec import LoadedSpec
from tasks.planning.states import UNFINISHED


def with_its_files(loaded: LoadedSpec, target: Target, stored: MigrationRecord | None) -> LoadedSpec:
    """Return the spec with the pending files of its Flyway folder as its change; any other spec as it is.

    An unfinished migration keeps the files that it was planned with: one that has come since belongs to the next.
    Raises `SpecError`, `Unsupported` (exit 2), `CannotConnect`, `MissingPrivilege`, `LockNotAcquired` (exit 1).
    """
    if loaded.spec.flyway is None:
        return loaded
    settings = loaded.spec.flyway.settings()
    folder = read_folder(loaded.folder / loaded.spec.flyway.folder, settings=settings)
    if stored is not None and stored.state in UNFINISHED and stored.plan.flyway is not None:
        history = stored.plan.flyway
        return loaded.with_pending(history, recorded_texts(folder, history, settings))
    with connect(target, role="plan") as live:
        rows = read_history(live, settings) or ()
        table = writable_history(live, settings)
        return loaded.with_pending(*pending_sequence(folder, rows, table, settings, loaded.spec.flyway.repeatable))
