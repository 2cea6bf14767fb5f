"""Pending migrations as one sequence: what `migrate` would run, in its order, each as it would be run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tasks.planning.errors import Unsupported
from tasks.planning.flyway.folder import Migration, final_text
from tasks.planning.flyway.history import Judgement
from tasks.planning.flyway.settings import Settings
from tasks.planning.flyway.transactions import in_transaction
from tasks.planning.flyway.versions import Version


@dataclass(frozen=True, slots=True)
class PendingFile:
    """A file that Flyway would run next, with everything that its row in the history table would say."""

    path: Path
    version: Version | None
    """None for a repeatable migration."""
    description: str
    checksum: int
    text: str
    """What is run: decoded, its placeholders replaced."""
    in_transaction: bool
    script: str
    """What the history table would call it."""


def pending_files(judgement: Judgement, settings: Settings = Settings()) -> tuple[PendingFile, ...]:  # noqa: B008
    """Return what is pending, in the order in which Flyway would run it.

    Whether it would run anything at all is `validation.stops_migrate`'s to say. Raises `SpecError` for placeholders
    without a value and for a file that Flyway would not run as it stands (see `transactions.in_transaction`), and
    `Unsupported` for programs.
    """
    return tuple(_pending_file(migration, settings) for migration in judgement.pending())


def _pending_file(migration: Migration, settings: Settings) -> PendingFile:
    if migration.type == "SCRIPT":
        raise Unsupported(
            f"{migration.path}, a migration that is a program",
            instead="Only SQL can be looked into. Write it as SQL, or let Flyway run it first.",
        )
    text = final_text(migration, settings)
    return PendingFile(
        path=migration.path,
        version=migration.version,
        description=migration.description,
        checksum=migration.checksum,
        text=text,
        in_transaction=in_transaction(text, migration.script_settings, settings, source=str(migration.path)),
        script=migration.script,
    )
