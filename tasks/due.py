"""The task `due`: which migrations of a database may go on without a person."""

from __future__ import annotations

from datetime import datetime, timedelta

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.database.connection import connect
from tasks.database.ledger import Ledger
from tasks.databases import target_of
from tasks.planning.states import MigrationState
from tasks.secrecy import discreet
from tasks.standing import Standing, read_standing

ABANDONED = timedelta(minutes=10)
"""A run without lease and without a sign for so long has died: between two of its tasks nobody holds the lease."""


@task(name="due", cache_policy=NO_CACHE, persist_result=False, retries=0)
def due_migrations(database: str) -> tuple[str, ...]:
    """Return the names of the migrations that wait for nothing any more, or whose runner is gone."""
    with discreet(), connect(target_of(database), role="due") as connection:
        standings = [read_standing(connection, record.name) for record in Ledger(connection).migrations()]
    return tuple(standing.name for standing in standings if may_go_on(standing))


def may_go_on(standing: Standing) -> bool:
    """Say whether a run would get anywhere. A failed migration needs a person; a paused or stopped one, too."""
    if standing.throttle.pause is not None:
        return False
    if standing.holder is not None and not standing.holder.expired:
        return False
    match standing.state:
        case MigrationState.WAITING:
            return standing.waits_for is None and not (standing.record.error or "").startswith("stopped after")
        case MigrationState.RUNNING:
            return standing.now - last_sign(standing) > ABANDONED
        case _:
            return False


def last_sign(standing: Standing) -> datetime:
    """Return when the migration last gave a sign of life in the ledger."""
    signs = [standing.record.updated_at, *(gate.at for gate in standing.gates.values())]
    for phase in standing.phases.values():
        signs += [at for at in (phase.started_at, phase.finished_at) if at is not None]
    for step in standing.steps:
        signs += [at for at in (step.started_at, step.finished_at) if at is not None]
    return max(signs)
