"""What is left of a migration that is over: a summary in the ledger, and nothing else."""

from __future__ import annotations

from tasks.database.connection import Target, connect
from tasks.database.ledger import Ledger
from tasks.database.queries import queries
from tasks.planning.errors import RunnerBusy, UsageError
from tasks.planning.states import MigrationState
from tasks.secrecy import discreet
from tasks.standing import Standing, read_standing


def clean_up(target: Target, name: str) -> int:
    """Remove a finished or rolled-back migration's detail from the ledger and return how many rows that were.

    An event keeps the summary: phases with times and attempts, gates, decisions. Raises UsageError for a migration
    that is not over, UnknownMigration.
    """
    with discreet(), connect(target, role="cleanup") as connection, connection.transaction():
        standing = read_standing(connection, name)
        if standing.state is MigrationState.CLEANED:
            return 0
        if standing.state not in {MigrationState.FINISHED, MigrationState.ROLLED_BACK}:
            raise UsageError(
                f"{name} is not over: it is {standing.state.value.replace('_', ' ')}.",
                remedy=f"Finish it, or go back first:  lockstep rollback {name}",
            )
        if standing.holder is not None and not standing.holder.expired:
            raise RunnerBusy(f"{name} is being run by {standing.holder}.")
        ledger = Ledger(connection)
        ledger.event(name, "summary", summary(standing))
        connection.execute(queries("ledger_queries")["forget_run"], {"name": name})
        ledger.set_state(name, MigrationState.CLEANED)
        return sum(
            len(rows)
            for rows in (standing.phases, standing.steps, standing.progress, standing.gates, standing.approvals)
        )


def summary(standing: Standing) -> dict[str, object]:
    """Return what is worth keeping: no value of a row."""
    return {
        "state": standing.state.value,
        "switched_at": str(standing.record.switched_at or ""),
        "phases": {
            name: {"state": phase.state.value, "attempts": phase.attempts, "finished_at": str(phase.finished_at or "")}
            for name, phase in standing.phases.items()
        },
        "gates": {f"{phase}/{gate}": record.success for (phase, gate), record in standing.gates.items()},
        "approvals": [approval.model_dump(mode="json") for approval in standing.approvals],
    }
