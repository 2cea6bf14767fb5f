"""The flow that goes back: safety check, act, verify. Driven by the ledger, never by hooks of a failed run."""

from __future__ import annotations

from prefect import flow

from flows.chain import Chain
from flows.naming import run_name
from tasks.narration import log
from tasks.outcome import Outcome, fail
from tasks.phase import undo_phase
from tasks.planning.errors import RollbackRefused, UsageError
from tasks.rollback import assess, verify_undone


@flow(name="rollback", flow_run_name=run_name, persist_result=False, retries=0)
def rollback(migration: str, database: str, to: str | None = None, old_version_deployed: bool = False) -> Outcome:
    """Undo a recorded migration in reverse, down to (but without) the phase `to`, or all of it.

    After the switch it needs `old_version_deployed`, the operator's word that the old version runs everywhere.
    """
    phases = assess(migration, database, to, old_version_deployed)
    then = Chain(phases)
    try:
        for phase in phases:
            then(undo_phase, migration, database, phase)
        outcome = then(verify_undone, migration, database, to)
    except (RollbackRefused, UsageError):
        raise
    except Exception as error:
        fail(error, migration, database, None)
        raise
    log(outcome.what)
    return outcome
