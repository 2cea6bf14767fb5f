"""Pending files as the change of one migration: which can be, and whether they still are what was planned."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tasks.planning.errors import SpecError, Unsupported
from tasks.planning.flyway.folder import Folder, final_text
from tasks.planning.flyway.history import Applied, Judgement, State, judge
from tasks.planning.flyway.pending import PendingFile, pending_files
from tasks.planning.flyway.settings import Repeatable, Settings
from tasks.planning.flyway.validation import abbreviated, refuse, stops_migrate
from tasks.planning.names import TableName
from tasks.planning.plan import FlywayFile, FlywayHistory

_MISSED_CALLBACKS = ("beforeeach", "aftereach", "afterversioned", "aftermigrateapplied", "beforerepeatables")
"""Of those that Flyway runs only where it runs a migration itself. All others run as ever when it starts."""


_LIKE_A_MIGRATION = re.compile(r"[Vv][0-9]|[Rr]_|[VR].*__")
"""How a file begins that somebody may have meant as a migration; whatever else is in the folder is no news."""


def pending_sequence(
    folder: Folder, rows: Sequence[Applied], table: TableName, settings: Settings, repeatable: Repeatable = "refuse"
) -> tuple[FlywayHistory, tuple[str, ...]]:
    """Return what Flyway would run next, and the texts of the files as they would be run; both may be empty.

    Raises `SpecError` for what Flyway refuses, and whatever `pending_files` raises. `Unsupported` for files whose row
    would stop the Flyway of the old application version, which starts with a folder that does not have them: that
    forgives only versions above all of its own.
    """
    if not folder.migrations:
        raise SpecError(
            "The folder has no migration of Flyway's.",
            remedy="Name the folder that Flyway's locations name. Files are called like V2__description.sql there.",
        )
    judgement = judge(folder, rows, settings)
    _refuse_below(judgement)
    refuse(stops_migrate(judgement, settings))
    _refuse_others(judgement, repeatable)
    found = pending_files(judgement, settings)
    if found:
        _refuse_callbacks(folder)
    last = max((row.rank for row in rows), default=0)
    files = tuple(map(_file, found))
    history = FlywayHistory(
        table=table,
        last_rank=last,
        files=files,
        above_target=tuple(each.script for each in judgement.all if each.state is State.ABOVE_TARGET),
        passed_over=tuple(
            f"{each.path.name}: {each.reason}" for each in folder.ignored if _LIKE_A_MIGRATION.match(each.path.name)
        ),
    )
    return history, tuple(each.text for each in found)


def recorded_texts(folder: Folder, history: FlywayHistory, settings: Settings) -> tuple[str, ...]:
    """Return the texts of the files that a plan was made of, whatever else has come into the folder since.

    Raises `SpecError` for one that is gone or is not what was planned, in its name or its text, comments included: its
    row in the history will have the checksum that it had then.
    """
    texts = []
    for file in history.files:
        found = next((each for each in folder.migrations if each.script == file.script), None)
        now = found and (
            found.version and found.version.text,
            abbreviated(found.description),
            found.checksum,
        )
        if found is None or now != (file.version, file.description, file.checksum):
            raise SpecError(
                f"{file.script} is {'gone' if found is None else 'not what was planned'}, and the migration of it is "
                "unfinished.",
                safety="Nothing was touched: what is recorded is still what runs.",
                remedy="Put the file back as it was, and what is new into a file of its own: it belongs to the next "
                "migration. Or go back first:  lockstep rollback",
            )
        texts.append(final_text(found, settings))
    return tuple(texts)


def _file(pending: PendingFile) -> FlywayFile:
    return FlywayFile(
        script=pending.script,
        version=pending.version and pending.version.text,
        description=abbreviated(pending.description),
        checksum=pending.checksum,
    )


def _refuse_below(judgement: Judgement) -> None:
    below = [
        each.script
        for each in judgement.all
        if each.state is State.IGNORED and each.migration is not None and each.migration.is_run_at_all
    ]
    if below:
        raise Unsupported(
            f"{', '.join(below)}, below the latest version that the database has",
            instead="Give it a version above that one. With outOfOrder Flyway would run it, but the old application "
            "version, whose folder does not have the file, would refuse to start once its row is there.",
        )


def _refuse_others(judgement: Judgement, repeatable: Repeatable) -> None:
    for migration in judgement.pending():
        if migration.type == "SQL_BASELINE":
            raise Unsupported(f"{migration.script}, a baseline", instead="Let Flyway run it in the empty database.")
        if migration.version is None and repeatable == "refuse":
            raise Unsupported(
                f"{migration.script}, a repeatable migration that Flyway would run",
                instead="The old application version starts with the former text of the file, or without it: its "
                "Flyway would run that again, or refuse to start. Write the change as a versioned file (V…), or leave "
                "the file as it was and change it once the migration is over. Where the old version will not start "
                "again once the new one may, say so:  repeatable: run  in the spec, under flyway.",
            )


def _refuse_callbacks(folder: Folder) -> None:
    missed = [path.name for path in folder.callbacks if path.name.lower().startswith(_MISSED_CALLBACKS)]
    if missed:
        raise Unsupported(
            f"callbacks that Flyway runs with each migration ({', '.join(missed)})",
            instead="Put what they do into the files themselves, or into a callback that runs at every start, such as "
            "afterMigrate.sql.",
        )
