"""How a run ended, as the flow returns it; and the migration's state in the ledger that goes with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import psycopg

from tasks.artifacts import publish_markdown
from tasks.database.connection import connect
from tasks.database.failures import described
from tasks.database.foresight import error_of
from tasks.database.ledger import Ledger
from tasks.databases import target_of
from tasks.narration import log
from tasks.planning.errors import (
    CannotConnect,
    GateFailed,
    LeaseLost,
    LockstepError,
    RunnerBusy,
    SchemaChanged,
    Waiting,
)
from tasks.planning.states import MigrationState, PhaseState

NOT_OURS = (RunnerBusy, LeaseLost, CannotConnect)
"""After these somebody else runs the migration, or nobody can be told: its state is not ours to change."""


@dataclass(frozen=True)
class Outcome:
    """``finished``, ``nothing`` (was done before), ``stopped`` (after --until), ``waiting``, ``rolled back``."""

    kind: Literal["finished", "nothing", "stopped", "waiting", "rolled_back"]
    migration: str
    database: str
    what: str
    remedy: str = ""


def begin(migration: str, database: str) -> None:
    """Mark a migration as running."""
    _set(migration, database, MigrationState.RUNNING)


def finish(migration: str, database: str) -> Outcome:
    """Mark a migration as finished and publish the result, with how wrong its forecast was."""
    _set(migration, database, MigrationState.FINISHED)
    outcome = Outcome("finished", migration, database, f"{migration} is finished: the new shape is in place.")
    return _told(outcome, _compared(migration, database))


def stop(migration: str, database: str, phase: str) -> Outcome:
    """Leave a migration where it was asked to stop."""
    _set(migration, database, MigrationState.WAITING, f"stopped after {phase}, as asked")
    remedy = f"lockstep run {migration} --database {database}"
    return _told(Outcome("stopped", migration, database, f"{migration} stopped after {phase}, as asked.", remedy))


def wait(waiting: Waiting, migration: str, database: str) -> Outcome:
    """Mark a migration as waiting."""
    _set(migration, database, MigrationState.WAITING, waiting.what)
    return _told(Outcome("waiting", migration, database, waiting.what, waiting.remedy or ""))


def hold(question: str, migration: str, database: str) -> None:
    """Mark a migration as waiting for an answer; the run of the flow is suspended meanwhile."""
    _set(migration, database, MigrationState.WAITING, question)


def fail(error: Exception, migration: str, database: str, phase: str | None) -> None:
    """Record why a migration failed, and publish what happened, whether the data is safe, and what to do."""
    publish_markdown("result", migration, _failure_text(error, migration))
    if isinstance(error, NOT_OURS):
        return
    text = error.what if isinstance(error, LockstepError) else type(error).__name__
    with connect(target_of(database), role="result") as connection:
        ledger = Ledger(connection)
        if isinstance(error, GateFailed | SchemaChanged) and phase is not None:
            record = next(found for found in ledger.phases(migration) if found.phase == phase)
            if record.state is PhaseState.RUNNING:
                ledger.end_phase(migration, phase, PhaseState.FAILED, text)
        ledger.set_state(migration, MigrationState.FAILED, text)


def _failure_text(error: Exception, migration: str) -> str:
    if not isinstance(error, LockstepError):
        return f"# {migration} failed\n\n{type(error).__name__}: see the log of this run."
    return "\n\n".join((f"# {migration} stopped", f"**{error.what}**", error.safety, error.remedy or ""))


def _compared(migration: str, database: str) -> str:
    """Return how wrong the forecast was, and keep it in the ledger: its own steps go with `lockstep cleanup`.

    Raises nothing that the database says: the migration is finished by now, whether or not this can be told.
    """
    try:
        with connect(target_of(database), role="result") as connection:
            ledger = Ledger(connection)
            error = error_of(ledger, migration)
            ledger.event(migration, "forecast", error.model_dump(mode="json"))
    except psycopg.Error as unkept:
        return f"The forecast could not be compared with the run: {described(unkept)}."
    except LockstepError as unkept:
        return f"The forecast could not be compared with the run: {unkept.what}"
    return f"Forecast: {error}." if error.steps else ""


def _told(outcome: Outcome, more: str = "") -> Outcome:
    next_command = f"Next: `{outcome.remedy}`" if outcome.remedy else ""
    publish_markdown("result", outcome.migration, "\n\n".join(filter(None, (f"# {outcome.what}", more, next_command))))
    for sentence in filter(None, (outcome.what, more)):
        log(sentence)
    return outcome


def _set(migration: str, database: str, state: MigrationState, why: str | None = None) -> None:
    with connect(target_of(database), role="result") as connection:
        Ledger(connection).set_state(migration, state, why)
