"""Pending migrations as one sequence: what `migrate` would run, in its order, each as it would be run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tasks.planning.errors import SpecError, Unsupported
from tasks.planning.flyway.folder import Migration, final_text
from tasks.planning.flyway.history import Judgement
from tasks.planning.flyway.settings import Settings
from tasks.planning.flyway.transactions import in_transaction
from tasks.planning.flyway.versions import Version
from tasks.planning.outside import runs_outside
from tasks.planning.statements import read_statements


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
    without a value, for a file that Flyway refuses (see `transactions.in_transaction`) and for one that it takes into a
    transaction where PostgreSQL refuses it, and `Unsupported` for programs.
    """
    return tuple(_pending_file(migration, settings) for migration in judgement.pending())


def _pending_file(migration: Migration, settings: Settings) -> PendingFile:
    if migration.type == "SCRIPT":
        raise Unsupported(
            f"{migration.path}, a migration that is a program",
            instead="Only SQL can be looked into. Write it as SQL, or let Flyway run it first.",
        )
    text = final_text(migration, settings)
    inside = in_transaction(text, migration.script_settings, settings, source=str(migration.path))
    if inside:
        _refuse_unfit(text, str(migration.path))
    return PendingFile(
        path=migration.path,
        version=migration.version,
        description=migration.description,
        checksum=migration.checksum,
        text=text,
        in_transaction=inside,
        script=migration.script,
    )


def _refuse_unfit(text: str, source: str) -> None:
    """Refuse what PostgreSQL does not run in a transaction, and would therefore fail under Flyway."""
    try:
        statements = read_statements(text, source=source)
    except SpecError:
        return  # empty, or no SQL alone (COPY with its data): whoever plans the file refuses it with its place
    unfit = next((statement for statement in statements if runs_outside(statement)), None)
    if unfit is not None:
        raise SpecError(
            f"{source}, line {unfit.line}: Flyway runs this file in a transaction, and PostgreSQL refuses "
            f"{' '.join(unfit.sql.split()[:4])} … there.",
            remedy="Put the statement into a file of its own, and beside it a file of the same name with .conf behind "
            "it that says executeInTransaction=false.",
        )
